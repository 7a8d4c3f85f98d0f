//! Pillow's pixel operations on RGB images, in every byte.
//!
//! Where Pillow computes in f32, f64 or whole numbers, so is it done here, and in the same order, since a last bit decides
//! which byte a value becomes. Values are cut off, not rounded, and kept within a byte: both is what `as` does.

use std::ops::Range;

use super::crop::Window;
use crate::images::{Filter, RgbImage};

/// A part of the image.
pub(super) fn cut(image: &RgbImage, window: Window) -> RgbImage {
    let rows = image.data().chunks_exact(image.width() * 3).skip(window.top).take(window.height);
    let data = rows.flat_map(|row| &row[window.left * 3..][..window.width * 3]).copied().collect();
    RgbImage::new(window.width, window.height, data)
}

/// The image whose pixel (row, column) is that of (row + `down`, column + `right`), black where there is none.
pub(super) fn shifted(image: &RgbImage, down: isize, right: isize) -> RgbImage {
    let (width, stride) = (image.width() as isize, image.width() * 3);
    let kept = |shift: isize| -> Range<usize> {
        let end = (width + shift.min(0)).max(0);
        shift.clamp(0, width) as usize * 3..end as usize * 3
    };
    let (from, to) = (kept(right), kept(-right));
    let mut data = vec![0; image.data().len()];
    for (y, row) in data.chunks_exact_mut(stride).enumerate() {
        let source = y.checked_add_signed(down).filter(|&source| source < image.height());
        if let Some(source) = source {
            row[to.clone()].copy_from_slice(&image.data()[source * stride..][..stride][from.clone()]);
        }
    }
    RgbImage::new(image.width(), image.height(), data)
}

/// Left and right exchanged.
pub(super) fn mirror(image: RgbImage) -> RgbImage {
    let stride = image.width() * 3;
    on_bytes(image, |data| {
        for row in data.chunks_exact_mut(stride) {
            row.reverse();
            row.chunks_exact_mut(3).for_each(<[u8]>::reverse);
        }
    })
}

/// Top and bottom exchanged.
pub(super) fn flip(image: RgbImage) -> RgbImage {
    let rows = image.data().chunks_exact(image.width() * 3);
    let data = rows.rev().flatten().copied().collect();
    RgbImage::new(image.width(), image.height(), data)
}

/// `ImageOps.autocontrast`: each channel stretched so that its darkest level is 0 and its brightest 255.
pub(super) fn auto_contrast(image: RgbImage) -> RgbImage {
    let tables = histograms(&image).map(|counts| {
        let darkest = counts.iter().position(|&count| count > 0).unwrap_or(0);
        let brightest = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
        if brightest <= darkest {
            return table(|level| level);
        }
        let scale = 255.0 / (brightest - darkest) as f64;
        let offset = -(darkest as f64) * scale;
        table(|level| (level as f64 * scale + offset) as usize)
    });
    through_tables(image, &tables)
}

/// `ImageOps.equalize`: each channel's levels spread so that they are about as frequent.
pub(super) fn equalize(image: RgbImage) -> RgbImage {
    let tables = histograms(&image).map(|counts| {
        let brightest = counts.iter().rfind(|&&count| count > 0).copied().unwrap_or(0);
        let step = (counts.iter().sum::<usize>() - brightest) / 255;
        if step == 0 {
            return table(|level| level);
        }
        let mut sum = step / 2;
        table(|level| {
            let equalized = sum / step;
            sum += counts[level];
            equalized
        })
    });
    through_tables(image, &tables)
}

/// `ImageOps.invert`.
pub(super) fn invert(image: RgbImage) -> RgbImage {
    through_table(image, &table(|level| 255 - level))
}

/// `ImageOps.posterize`: the highest `bits` of each byte. With none all is black, as in Pillow before 13, which refuses that;
/// timm asks for it at RandAugment's highest magnitude.
pub(super) fn posterize(image: RgbImage, bits: usize) -> RgbImage {
    let mask = if bits >= 8 { 0xff } else { 0xff & !(0xff >> bits) };
    through_table(image, &table(|level| level & mask))
}

/// `ImageOps.solarize`: levels from `threshold` on are inverted.
pub(super) fn solarize(image: RgbImage, threshold: usize) -> RgbImage {
    through_table(image, &table(|level| if level < threshold { level } else { 255 - level }))
}

/// timm's `solarize_add`: levels below 128 are raised.
pub(super) fn solarize_add(image: RgbImage, raise: usize) -> RgbImage {
    through_table(image, &table(|level| if level < 128 { level + raise } else { level }))
}

/// `ImageEnhance.Color`: 0 leaves gray, 1 the image, more deepens the colours.
pub(super) fn color(image: RgbImage, factor: f64) -> RgbImage {
    on_bytes(image, |data| {
        for pixel in data.chunks_exact_mut(3) {
            let gray = gray(pixel);
            pixel.iter_mut().for_each(|byte| *byte = blend(gray, *byte, factor));
        }
    })
}

/// `ImageEnhance.Contrast`: 0 leaves the mean gray, 1 the image.
pub(super) fn contrast(image: RgbImage, factor: f64) -> RgbImage {
    let pixels = image.data().chunks_exact(3);
    let count = pixels.len();
    let mean = pixels.map(|pixel| u64::from(gray(pixel))).sum::<u64>() as f64 / count as f64;
    let mean = (mean + 0.5) as u8;
    through_table(image, &table(|level| blend(mean, level as u8, factor).into()))
}

/// `ImageEnhance.Brightness`: 0 leaves black, 1 the image.
pub(super) fn brightness(image: RgbImage, factor: f64) -> RgbImage {
    through_table(image, &table(|level| blend(0, level as u8, factor).into()))
}

/// `ImageEnhance.Sharpness`: 0 leaves a smooth image, 1 the image, 2 sharpens it.
pub(super) fn sharpness(image: RgbImage, factor: f64) -> RgbImage {
    let smooth = smoothed(&image);
    on_bytes(image, |data| {
        for (byte, smooth) in data.iter_mut().zip(smooth) {
            *byte = blend(smooth, *byte, factor);
        }
    })
}

/// `Image.rotate`: counter-clockwise around the centre, the size kept.
pub(super) fn rotate(image: &RgbImage, degrees: f64, filter: Filter, fill: [u8; 3]) -> RgbImage {
    // Python's `round(number, 15)`, which decides bits: by way of the decimal digits.
    let rounded = |number: f64| format!("{number:.15}").parse::<f64>().unwrap_or(number);
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let [a, b, d, e] = [angle.cos(), angle.sin(), -angle.sin(), angle.cos()].map(rounded);
    let (across, down) = (image.width() as f64 / 2.0, image.height() as f64 / 2.0);
    let c = a * -across + b * -down + across;
    let f = d * -across + e * -down + down;
    affine(image, [a, b, c, d, e, f], filter, fill)
}

/// timm's `shear_x`: what lies `factor` columns further to the right for each row.
pub(super) fn shear_x(image: &RgbImage, factor: f64, filter: Filter, fill: [u8; 3]) -> RgbImage {
    affine(image, [1.0, factor, 0.0, 0.0, 1.0, 0.0], filter, fill)
}

/// timm's `shear_y`: what lies `factor` rows further below for each column.
pub(super) fn shear_y(image: &RgbImage, factor: f64, filter: Filter, fill: [u8; 3]) -> RgbImage {
    affine(image, [1.0, 0.0, 0.0, factor, 1.0, 0.0], filter, fill)
}

/// timm's `translate_x_rel`: what lies further to the right by a share of the width.
pub(super) fn translate_x(image: &RgbImage, share: f64, filter: Filter, fill: [u8; 3]) -> RgbImage {
    affine(image, [1.0, 0.0, share * image.width() as f64, 0.0, 1.0, 0.0], filter, fill)
}

/// timm's `translate_y_rel`: what lies further below by a share of the height.
pub(super) fn translate_y(image: &RgbImage, share: f64, filter: Filter, fill: [u8; 3]) -> RgbImage {
    affine(image, [1.0, 0.0, 0.0, 0.0, 1.0, share * image.height() as f64], filter, fill)
}

/// `Image.transform` with an affine map [a, b, c, d, e, f]: the pixel at (x, y) is what lies at (a x + b y + c, d x + e y + f),
/// both counted from the image's corner, so that pixels are at halves; `fill` where that is outside.
fn affine(image: &RgbImage, [a, b, c, d, e, f]: [f64; 6], filter: Filter, fill: [u8; 3]) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let mut data = fill.repeat(width * height);
    for (y, row) in data.chunks_exact_mut(width * 3).enumerate() {
        let y = y as f64 + 0.5;
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let x = x as f64 + 0.5;
            let (across, down) = (a * x + b * y + c, d * x + e * y + f);
            if !(0.0..width as f64).contains(&across) || !(0.0..height as f64).contains(&down) {
                continue;
            }
            match filter {
                Filter::Bilinear => interpolate::<2, _>(image, across - 0.5, down - 0.5, linear, pixel),
                Filter::Bicubic => interpolate::<4, _>(image, across - 0.5, down - 0.5, cubic, pixel),
            }
        }
    }
    RgbImage::new(width, height, data)
}

/// The pixel between pixels, of which (0, 0) is the first one's middle: `kernel` makes one value of `TAPS` neighbours and how
/// far the place is behind the middle one, first along the rows, then down.
fn interpolate<const TAPS: usize, Kernel: Fn([f64; TAPS], f64) -> f64>(
    image: &RgbImage,
    across: f64,
    down: f64,
    kernel: Kernel,
    pixel: &mut [u8],
) {
    let stride = image.width() * 3;
    let (columns, across) = neighbours::<TAPS>(across, image.width());
    let (rows, down) = neighbours::<TAPS>(down, image.height());
    let rows = rows.map(|row| &image.data()[row * stride..][..stride]);
    for (channel, byte) in pixel.iter_mut().enumerate() {
        let along = rows.map(|row| kernel(columns.map(|column| f64::from(row[column * 3 + channel])), across));
        *byte = kernel(along, down) as u8;
    }
}

/// The `TAPS` places around `place`, those beyond the border brought back to it, and how far `place` is behind the last of
/// the first half.
fn neighbours<const TAPS: usize>(place: f64, size: usize) -> ([usize; TAPS], f64) {
    let whole = place.floor();
    let first = whole as isize + 1 - TAPS as isize / 2;
    let inside = |tap: usize| (first + tap as isize).clamp(0, size as isize - 1) as usize;
    (std::array::from_fn(inside), place - whole)
}

fn linear([a, b]: [f64; 2], distance: f64) -> f64 {
    a + (b - a) * distance
}

/// Keys' cubic with a = −1, other than that of the resize.
fn cubic([a, b, c, d]: [f64; 4], distance: f64) -> f64 {
    let first = -a + c;
    let second = 2.0 * (a - b) + c - d;
    let third = -a + b - c + d;
    b + distance * (first + distance * (second + distance * third))
}

/// `ImageFilter.SMOOTH`: a mean over 3 × 3 pixels in which the middle one counts five times; the border stays.
fn smoothed(image: &RgbImage) -> Vec<u8> {
    const AROUND: f32 = 1.0 / 13.0;
    const MIDDLE: f32 = 5.0 / 13.0;
    let mut smooth = image.data().to_vec();
    if image.width() < 3 || image.height() < 3 {
        return smooth;
    }
    let stride = image.width() * 3;
    let inner = smooth.chunks_exact_mut(stride).skip(1).take(image.height() - 2);
    for (y, row) in inner.enumerate() {
        let [above, here, below] = [y, y + 1, y + 2].map(|y| &image.data()[y * stride..][..stride]);
        for (place, value) in row.iter_mut().enumerate().take(stride - 3).skip(3) {
            let across = |row: &[u8], middle: f32| {
                let [left, here, right] = [row[place - 3], row[place], row[place + 3]].map(f32::from);
                left * AROUND + here * middle + right * AROUND
            };
            *value = (0.5 + across(below, AROUND) + across(here, MIDDLE) + across(above, AROUND)) as u8;
        }
    }
    smooth
}

/// `Image.blend` of two bytes: `from` at 0, `to` at 1.
fn blend(from: u8, to: u8, share: f64) -> u8 {
    let distance = (i32::from(to) - i32::from(from)) as f32;
    (f32::from(from) + share as f32 * distance) as u8
}

/// Pillow's conversion to gray (ITU-R 601-2) in fixed point.
fn gray(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
}

/// How often each level comes in each channel.
fn histograms(image: &RgbImage) -> [[usize; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    for pixel in image.data().chunks_exact(3) {
        for (counts, &level) in counts.iter_mut().zip(pixel) {
            counts[usize::from(level)] += 1;
        }
    }
    counts
}

/// What becomes of each level; what is above 255 becomes 255.
fn table(mut becomes: impl FnMut(usize) -> usize) -> [u8; 256] {
    std::array::from_fn(|level| becomes(level).min(255) as u8)
}

fn through_table(image: RgbImage, table: &[u8; 256]) -> RgbImage {
    on_bytes(image, |data| data.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]))
}

/// One table for each channel.
fn through_tables(image: RgbImage, tables: &[[u8; 256]; 3]) -> RgbImage {
    on_bytes(image, |data| {
        for pixel in data.chunks_exact_mut(3) {
            for (byte, table) in pixel.iter_mut().zip(tables) {
                *byte = table[usize::from(*byte)];
            }
        }
    })
}

fn on_bytes(image: RgbImage, change: impl FnOnce(&mut [u8])) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let mut data = image.into_data();
    change(&mut data);
    RgbImage::new(width, height, data)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{crc, fixture, image, text};
    use super::*;

    const FILL: [u8; 3] = [124, 116, 104];

    #[test]
    fn every_operation_is_pillows_in_every_byte() {
        let cases = fixture("operations");
        assert!(cases.len() > 150);
        for case in cases {
            let original = image(&case);
            let argument: f64 = case["argument"].as_str().map_or(0.0, |argument| argument.parse().unwrap());
            let filter = case["filter"].as_str().and_then(Filter::from_name);
            let changed = match (text(&case, "operation"), filter) {
                ("auto_contrast", None) => auto_contrast(original),
                ("equalize", None) => equalize(original),
                ("invert", None) => invert(original),
                ("posterize", None) => posterize(original, argument as usize),
                ("solarize", None) => solarize(original, argument as usize),
                ("solarize_add", None) => solarize_add(original, argument as usize),
                ("color", None) => color(original, argument),
                ("contrast", None) => contrast(original, argument),
                ("brightness", None) => brightness(original, argument),
                ("sharpness", None) => sharpness(original, argument),
                ("mirror", None) => mirror(original),
                ("flip", None) => flip(original),
                ("rotate", Some(filter)) => rotate(&original, argument, filter, FILL),
                ("shear_x", Some(filter)) => shear_x(&original, argument, filter, FILL),
                ("shear_y", Some(filter)) => shear_y(&original, argument, filter, FILL),
                ("translate_x_rel", Some(filter)) => translate_x(&original, argument, filter, FILL),
                ("translate_y_rel", Some(filter)) => translate_y(&original, argument, filter, FILL),
                other => panic!("unknown operation {other:?}"),
            };
            assert_eq!(crc(changed.data()), text(&case, "crc"), "{case}");
        }
    }

    #[test]
    fn nothing_is_left_of_a_byte_without_bits() {
        let image = RgbImage::new(2, 1, vec![0, 1, 127, 128, 200, 255]);
        assert_eq!(posterize(image.clone(), 0).data(), [0; 6]);
        assert_eq!(posterize(image.clone(), 1).data(), [0, 0, 0, 128, 128, 128]);
        assert_eq!(posterize(image.clone(), 9), image);
    }

    #[test]
    fn parts_are_cut_and_shifted() {
        let image = RgbImage::new(3, 2, (0..18).collect());
        let window = Window { top: 1, left: 1, height: 1, width: 2 };
        assert_eq!(cut(&image, window), RgbImage::new(2, 1, vec![12, 13, 14, 15, 16, 17]));
        let (black, first) = ([0; 3], [0, 1, 2]);
        let pixels = |down, right| -> Vec<[u8; 3]> {
            let shifted = shifted(&image, down, right);
            shifted.data().chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
        };
        assert_eq!(pixels(0, 1), [[3, 4, 5], [6, 7, 8], black, [12, 13, 14], [15, 16, 17], black]);
        assert_eq!(pixels(-1, -2), [black, black, black, black, black, first]);
        assert_eq!(pixels(1, 0)[..3], [[9, 10, 11], [12, 13, 14], [15, 16, 17]]);
        for (down, right) in [(2, 0), (-2, 0), (0, 3), (0, -3), (9, 9), (0, -9)] {
            assert_eq!(pixels(down, right), [black; 6]);
        }
    }
}
