//! Which part of an image is seen.

use super::draws::Draws;
use super::operations;
use crate::images::RgbImage;

/// A part of an image: so many rows from `top` and columns from `left`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

/// timm's `RandomResizedCropAndInterpolation.get_params`: a window of random area (a share in `scale`) and shape (width to
/// height in `ratio`, even in its logarithm); after ten that are larger than the image, the largest one at its centre
/// whose shape is allowed.
pub(super) fn random_resized(
    width: usize,
    height: usize,
    scale: [f64; 2],
    ratio: [f64; 2],
    draws: &mut impl Draws,
) -> Window {
    const ATTEMPTS: usize = 10;
    let logarithms = ratio.map(f64::ln);
    for _ in 0..ATTEMPTS {
        let area = draws.between(scale[0], scale[1]) * (width * height) as f64;
        let shape = draws.between(logarithms[0], logarithms[1]).exp();
        let window_width = side((area * shape).sqrt());
        let window_height = side((area / shape).sqrt());
        if window_width <= width && window_height <= height {
            let top = draws.below(height - window_height + 1);
            let left = draws.below(width - window_width + 1);
            return Window { top, left, height: window_height, width: window_width };
        }
    }
    let shape = width as f64 / height as f64;
    let (window_width, window_height) = if shape < ratio[0] {
        (width, side(width as f64 / ratio[0]).min(height))
    } else if shape > ratio[1] {
        (side(height as f64 * ratio[1]).min(width), height)
    } else {
        (width, height)
    };
    Window {
        top: (height - window_height) / 2,
        left: (width - window_width) / 2,
        height: window_height,
        width: window_width,
    }
}

/// As Python rounds, but never to nothing: of an image of a few pixels, timm may cut out none and fail.
fn side(length: f64) -> usize {
    (length.round_ties_even() as usize).max(1)
}

/// torchvision's `RandomCrop(size, padding)` for an image that has the size already: `padding` black pixels are put on every
/// side, and a window of the image's size is cut out at a random place.
pub(super) fn padded(image: &RgbImage, padding: usize, draws: &mut impl Draws) -> RgbImage {
    if padding == 0 {
        return image.clone();
    }
    let mut shift = || draws.below(2 * padding + 1) as isize - padding as isize;
    let (down, right) = (shift(), shift());
    operations::shifted(image, down, right)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Recorded, fixture, number};
    use super::*;
    use crate::random::Random;

    const SCALE: [f64; 2] = [0.08, 1.0];
    const RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];

    #[test]
    fn windows_are_timms_for_the_same_numbers() {
        let cases = fixture("crops");
        assert!(cases.len() >= 40);
        for case in cases {
            let pair = |name: &str| [0usize, 1].map(|end| case[name][end].as_str().unwrap().parse().unwrap());
            let mut draws = Recorded::new(&case);
            let (width, height) = (number(&case, "width"), number(&case, "height"));
            let window = random_resized(width, height, pair("scale"), pair("ratio"), &mut draws);
            draws.end();
            let expected: [usize; 4] = serde_json::from_value(case["window"].clone()).unwrap();
            assert_eq!([window.top, window.left, window.height, window.width], expected, "{case}");
        }
    }

    /// Areas are even in their range, shapes in their logarithm's; of an image that is square and large, nearly none is
    /// refused but those that are too large.
    #[test]
    fn areas_and_shapes_are_even() {
        let scale = [0.1, 0.5];
        let mut random = Random::of(&[1]);
        let windows: Vec<Window> = (0..20_000).map(|_| random_resized(1000, 1000, scale, RATIO, &mut random)).collect();
        let mean = |value: &dyn Fn(&Window) -> f64| windows.iter().map(value).sum::<f64>() / windows.len() as f64;
        let area = |window: &Window| (window.width * window.height) as f64 / 1e6;
        let shape = |window: &Window| (window.width as f64 / window.height as f64).ln();
        assert!((mean(&area) - 0.3).abs() < 0.005);
        assert!((mean(&|window| (area(window) - 0.3).powi(2)) - 0.16 / 12.0).abs() < 5e-4);
        assert!(mean(&shape).abs() < 0.01);
        let width = RATIO[1].ln() - RATIO[0].ln();
        assert!((mean(&|window| shape(window).powi(2)) - width * width / 12.0).abs() < 2e-3);
        // Places are even, too: how far from the left, as a share of the room that there is.
        let place = |window: &Window| window.left as f64 / (1000 - window.width) as f64;
        assert!((mean(&place) - 0.5).abs() < 0.01);
    }

    #[test]
    fn images_of_any_shape_have_a_window() {
        let mut random = Random::of(&[2]);
        for (width, height) in [(1, 1), (1, 500), (500, 1), (2, 3), (7, 900)] {
            for _ in 0..200 {
                let window = random_resized(width, height, SCALE, RATIO, &mut random);
                assert!(window.width > 0 && window.left + window.width <= width);
                assert!(window.height > 0 && window.top + window.height <= height);
            }
        }
    }

    #[test]
    fn padded_windows_lie_anywhere_and_bring_black_in() {
        let image = RgbImage::new(3, 3, vec![9; 27]);
        let mut counts = std::collections::BTreeMap::new();
        let mut random = Random::of(&[3]);
        for _ in 0..5000 {
            let moved = padded(&image, 2, &mut random);
            let black: Vec<bool> = moved.data().chunks_exact(3).map(|pixel| pixel == [0; 3]).collect();
            *counts.entry(black).or_insert(0) += 1;
        }
        // Five places along each side, each as likely.
        assert!(counts.len() == 25 && counts.values().all(|count| (140..260).contains(count)), "{counts:?}");
        assert_eq!(padded(&image, 0, &mut random), image);
    }
}
