//! An adversarial image is an image: 8 bits per channel.

use super::{Bound, Norm};
use crate::images::RgbImage;

/// Rounds adversarial values in [0, 1] (channels first) to 8 bits without leaving the ball around `original`.
///
/// In L∞, an eps that is no whole number of levels is rounded down to one, since a pixel can change by whole levels only. In L2
/// and L1, values are rounded to the nearest; if that leaves the ball, those that were rounded away from the original are rounded
/// towards it, the most costly first, until it does not.
pub fn quantise(adversarial: &[f32], original: &RgbImage, bound: Bound) -> RgbImage {
    let (width, height) = (original.width(), original.height());
    let plane = width * height;
    // 8/255 · 255 must count as 8.
    let levels = (bound.eps * 255.0 + 1e-6).floor();
    let largest = if bound.norm == Norm::Linf { levels.min(255.0) as i32 } else { 255 };
    let mut data = Vec::with_capacity(original.data().len());
    // Where a value was rounded away from the original.
    let mut outwards = Vec::new();
    for (index, &level) in original.data().iter().enumerate() {
        let (place, channel) = (index / 3, index % 3);
        let exact = adversarial[channel * plane + place] * 255.0;
        let before = i32::from(level);
        let after = (exact.round() as i32).clamp((before - largest).max(0), (before + largest).min(255));
        if bound.norm != Norm::Linf && (after as f32 - level as f32).abs() > (exact - level as f32).abs() {
            outwards.push(index);
        }
        data.push(after as u8);
    }
    let change = |index: usize, data: &[u8]| f64::from(data[index].abs_diff(original.data()[index]));
    let cost = |change: f64| if bound.norm == Norm::L2 { change * change } else { change };
    let room = match bound.norm {
        Norm::Linf => return RgbImage::new(width, height, data),
        Norm::L2 => (bound.eps * 255.0).powi(2),
        Norm::L1 => bound.eps * 255.0,
    };
    let mut spent: f64 = (0..data.len()).map(|index| cost(change(index, &data))).sum();
    outwards.sort_by(|&a, &b| change(b, &data).total_cmp(&change(a, &data)));
    // A value that was rounded towards the original can be too far out, too, where the ball is small.
    let mut others: Vec<usize> = (0..data.len()).filter(|&index| change(index, &data) > 0.0).collect();
    others.sort_by(|&a, &b| change(b, &data).total_cmp(&change(a, &data)));
    for index in outwards.into_iter().chain(others) {
        if spent <= room * (1.0 + 1e-9) {
            break;
        }
        let before = change(index, &data);
        if before > 0.0 {
            data[index] = if data[index] > original.data()[index] { data[index] - 1 } else { data[index] + 1 };
            spent -= cost(before) - cost(before - 1.0);
        }
    }
    RgbImage::new(width, height, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn linf(eps: f64) -> Bound {
        Bound { norm: Norm::Linf, eps }
    }

    #[test]
    fn whole_levels_of_eps_are_kept_whole() {
        let original = RgbImage::new(1, 1, vec![100, 0, 255]);
        let up = quantise(&[108.0 / 255.0, 8.0 / 255.0, 1.0], &original, linf(8.0 / 255.0));
        assert_eq!(up.data(), [108, 8, 255]);
    }

    proptest! {
        #[test]
        fn the_ball_is_never_left(
            level in prop::array::uniform3(any::<u8>()),
            wanted in prop::array::uniform3(0f32..=1.0),
            levels in 1u8..64,
        ) {
            let original = RgbImage::new(1, 1, level.to_vec());
            let image = quantise(&wanted, &original, linf(f64::from(levels) / 255.0));
            for (after, before) in image.data().iter().zip(level) {
                prop_assert!(after.abs_diff(before) <= levels);
            }
        }

        /// Whatever is inside the ball stays inside, and moves by less than a level where the ball allows it.
        #[test]
        fn nor_are_those_of_other_norms(
            level in prop::collection::vec(any::<u8>(), 48),
            change in prop::collection::vec(-0.05f64..0.05, 48),
        ) {
            let original = RgbImage::new(4, 4, level);
            let pixels = original.to_pixels();
            for norm in [Norm::L2, Norm::L1] {
                let moved: Vec<f32> =
                    pixels.iter().zip(&change).map(|(pixel, change)| (f64::from(*pixel) + change).clamp(0.0, 1.0) as f32).collect();
                let size = |values: &[f32]| {
                    let changes = values.iter().zip(&pixels).map(|(after, before)| f64::from(after - before).abs());
                    if norm == Norm::L2 { changes.map(|change| change * change).sum::<f64>().sqrt() } else { changes.sum() }
                };
                let eps = size(&moved);
                let image = quantise(&moved, &original, Bound { norm, eps }).to_pixels();
                prop_assert!(size(&image) <= eps + 1e-5);
                prop_assert!(image.iter().zip(&moved).all(|(after, before)| (after - before).abs() < 2.0 / 255.0));
            }
        }
    }
}
