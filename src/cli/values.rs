//! How values are read.

/// A whole number of at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a whole number of at least 1".into()),
        Ok(number) => Ok(number),
    }
}

/// The height and width of images: PIXELS, or HEIGHTxWIDTH.
pub fn size(text: &str) -> Result<[usize; 2], String> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    match (positive(height), positive(width)) {
        (Ok(height), Ok(width)) => Ok([height, width]),
        _ => Err("give pixels such as 256, or HEIGHTxWIDTH such as 256x320".into()),
    }
}

/// A number, or a fraction such as 8/255.
pub fn fraction(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    let value = match text.split_once('/') {
        Some((above, below)) => number(above).zip(number(below)).map(|(above, below)| above / below),
        None => number(text),
    };
    value
        .filter(|value| value.is_finite())
        .ok_or_else(|| "give a number such as 0.03, or a fraction such as 8/255".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_fractions() {
        assert_eq!(fraction("8/255"), Ok(8.0 / 255.0));
        assert_eq!(fraction("0.5"), Ok(0.5));
        for wrong in ["", "8/", "1/0", "nan", "a"] {
            assert!(fraction(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("224"), Ok([224, 224]));
        assert_eq!(size("224x192"), Ok([224, 192]));
        assert!(size("x").is_err() && size("0").is_err());
        assert_eq!(positive("3"), Ok(3));
        assert!(positive("0").is_err() && positive("-1").is_err());
    }
}
