//! torchvision's `ColorJitter` on images of bytes, with one strength for brightness, contrast and saturation as timm has it.

use super::draws::Draws;
use super::operations;
use crate::images::RgbImage;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adjustment {
    Brightness,
    Contrast,
    Saturation,
}

/// The three adjustments in random order, each by a factor in [1 − `strength`, 1 + `strength`], but not below 0.
pub(super) fn apply(image: RgbImage, strength: f64, draws: &mut impl Draws) -> RgbImage {
    use Adjustment::{Brightness, Contrast, Saturation};
    if strength == 0.0 {
        return image;
    }
    let mut order = [Brightness, Contrast, Saturation];
    order.swap(2, draws.below(3));
    order.swap(1, draws.below(2));
    let factors = [(); 3].map(|()| draws.between((1.0 - strength).max(0.0), 1.0 + strength));
    adjusted(image, order, factors)
}

/// `factors` are those of brightness, contrast and saturation, whatever the order.
fn adjusted(image: RgbImage, order: [Adjustment; 3], factors: [f64; 3]) -> RgbImage {
    let [brightness, contrast, saturation] = factors;
    order.into_iter().fold(image, |image, adjustment| match adjustment {
        Adjustment::Brightness => operations::brightness(image, brightness),
        Adjustment::Contrast => operations::contrast(image, contrast),
        Adjustment::Saturation => operations::color(image, saturation),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noting, crc, fixture, image, text};
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_same_factors_give_torchvisions_bytes() {
        let cases = fixture("color_jitter");
        assert!(cases.len() >= 10);
        for case in cases {
            let order: [usize; 3] = serde_json::from_value(case["order"].clone()).unwrap();
            let order =
                order.map(|number| [Adjustment::Brightness, Adjustment::Contrast, Adjustment::Saturation][number]);
            let factors = [0usize, 1, 2].map(|number| case["factors"][number].as_str().unwrap().parse().unwrap());
            assert_eq!(crc(adjusted(image(&case), order, factors).data()), text(&case, "crc"), "{case}");
        }
    }

    /// All six orders, and factors that are even between 0.6 and 1.4: an image of one gray tells the brightness alone.
    #[test]
    fn orders_and_factors_are_even() {
        let mut random = Random::of(&[1]);
        let gray = RgbImage::new(1, 1, vec![100; 3]);
        let levels: Vec<f64> =
            (0..20_000).map(|_| f64::from(apply(gray.clone(), 0.4, &mut random).data()[0])).collect();
        let mean = levels.iter().sum::<f64>() / levels.len() as f64;
        assert!((mean - 99.5).abs() < 0.6, "{mean}");
        assert!(levels.iter().all(|level| (60.0..=140.0).contains(level)));
        assert!((0..1000).any(|part| apply(gray.clone(), 2.0, &mut Random::of(&[2, part])).data()[0] < 10));

        let mut counts = [0; 6];
        for part in 0..6000 {
            let mut draws = Noting::new(Random::of(&[3, part]));
            apply(gray.clone(), 0.4, &mut draws);
            counts[draws.belows[0] * 2 + draws.belows[1]] += 1;
        }
        assert!(counts.iter().all(|count| (880..1120).contains(count)), "{counts:?}");
    }
}
