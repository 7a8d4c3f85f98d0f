//! An adversarial image is an image: 8 bits per channel.

use crate::images::RgbImage;

/// Rounds adversarial values in [0, 1] (channels first) to 8 bits without leaving the L∞ ball around `original`.
///
/// `eps` that is no whole number of levels is rounded down to one, since a pixel can change by whole levels only.
pub fn quantise(adversarial: &[f32], original: &RgbImage, eps: f64) -> RgbImage {
    // 8/255 · 255 must count as 8.
    let levels = (eps * 255.0 + 1e-6).floor() as i32;
    let (width, height) = (original.width(), original.height());
    let plane = width * height;
    let data = original
        .data()
        .iter()
        .enumerate()
        .map(|(index, &level)| {
            let (place, channel) = (index / 3, index % 3);
            let wanted = (adversarial[channel * plane + place] * 255.0).round() as i32;
            let level = i32::from(level);
            let (lowest, highest) = ((level - levels).max(0), (level + levels).min(255));
            wanted.clamp(lowest, highest) as u8
        })
        .collect();
    RgbImage::new(width, height, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_levels_of_eps_are_kept_whole() {
        let original = RgbImage::new(1, 1, vec![100, 0, 255]);
        let up = quantise(&[108.0 / 255.0, 8.0 / 255.0, 1.0], &original, 8.0 / 255.0);
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
            let image = quantise(&wanted, &original, f64::from(levels) / 255.0);
            for (after, before) in image.data().iter().zip(level) {
                prop_assert!(after.abs_diff(before) <= levels);
            }
        }
    }
}
