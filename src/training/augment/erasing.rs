//! Random erasing (Zhong et al., arXiv 1708.04896) as timm's `RandomErasing`: rectangles of random area and shape are replaced.
//!
//! timm erases what is normalised, and with normal numbers of mean 0 and deviation 1; here pixels are not normalised yet, so the
//! numbers have the mean and the deviation of the normalisation. They may leave [0, 1].

use super::crop::Window;
use super::draws::Draws;
use super::{Augmentation, EraseMode};

/// The least and largest share of the image's area that is erased.
const AREA: [f64; 2] = [0.02, 1.0 / 3.0];
/// The least ratio of height to width; the largest is its inverse.
const SHAPE: f64 = 0.3;
/// How often a rectangle that is too large is drawn again.
const ATTEMPTS: usize = 10;

pub(super) struct Erasing {
    probability: f64,
    mode: EraseMode,
    /// The most rectangles.
    count: usize,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Erasing {
    pub fn new(augmentation: &Augmentation, mean: [f64; 3], std: [f64; 3]) -> Self {
        Self {
            probability: augmentation.erase,
            mode: augmentation.erase_mode,
            count: augmentation.erase_count,
            mean: mean.map(|mean| mean as f32),
            std: std.map(|std| std as f32),
        }
    }

    /// Erases parts of `pixels`, `[3, height, width]` of `size`.
    pub fn erase(&self, pixels: &mut [f32], size: [usize; 2], draws: &mut impl Draws) {
        for window in self.windows(size, draws) {
            self.fill(pixels, size, window, draws);
        }
    }

    /// The rectangles that are erased, mostly none.
    fn windows(&self, [height, width]: [usize; 2], draws: &mut impl Draws) -> Vec<Window> {
        if self.probability == 0.0 || draws.unit() > self.probability {
            return Vec::new();
        }
        let count = if self.count == 1 { 1 } else { 1 + draws.below(self.count) };
        (0..count).filter_map(|_| window(height, width, count, draws)).collect()
    }

    fn fill(&self, pixels: &mut [f32], [height, width]: [usize; 2], window: Window, draws: &mut impl Draws) {
        for (channel, plane) in pixels.chunks_exact_mut(height * width).enumerate() {
            let mut noise = || self.mean[channel] + self.std[channel] * draws.normal() as f32;
            let colour = if self.mode == EraseMode::Random { noise() } else { self.mean[channel] };
            for row in plane.chunks_exact_mut(width).skip(window.top).take(window.height) {
                for value in &mut row[window.left..][..window.width] {
                    *value = if self.mode == EraseMode::Pixel { noise() } else { colour };
                }
            }
        }
    }
}

/// One of `count` rectangles, smaller than the image in both directions.
fn window(height: usize, width: usize, count: usize, draws: &mut impl Draws) -> Option<Window> {
    let logarithms = [SHAPE.ln(), (1.0 / SHAPE).ln()];
    for _ in 0..ATTEMPTS {
        let area = draws.between(AREA[0], AREA[1]) * (height * width) as f64 / count as f64;
        let shape = draws.between(logarithms[0], logarithms[1]).exp();
        let erased_height = (area * shape).sqrt().round_ties_even() as usize;
        let erased_width = (area / shape).sqrt().round_ties_even() as usize;
        if erased_width < width && erased_height < height {
            let top = draws.below(height - erased_height + 1);
            let left = draws.below(width - erased_width + 1);
            return Some(Window { top, left, height: erased_height, width: erased_width });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Recorded, fixture, number};
    use super::*;
    use crate::random::Random;

    fn erasing(erase: f64, erase_mode: EraseMode, erase_count: usize) -> Erasing {
        let augmentation = Augmentation { erase, erase_mode, erase_count, ..Augmentation::none() };
        Erasing::new(&augmentation, [0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    }

    #[test]
    fn rectangles_are_timms_for_the_same_numbers() {
        let cases = fixture("erasing");
        assert!(cases.len() >= 30);
        for case in cases {
            let probability = case["probability"].as_str().unwrap().parse().unwrap();
            let erasing = erasing(probability, EraseMode::Pixel, number(&case, "count"));
            let mut draws = Recorded::new(&case);
            let windows = erasing.windows([number(&case, "height"), number(&case, "width")], &mut draws);
            draws.end();
            let windows: Vec<_> = windows.iter().map(|w| [w.top, w.left, w.height, w.width]).collect();
            let expected: Vec<[usize; 4]> = serde_json::from_value(case["windows"].clone()).unwrap();
            assert_eq!(windows, expected, "{case}");
        }
    }

    #[test]
    fn images_are_erased_as_often_and_as_much_as_asked() {
        let erasing = erasing(0.25, EraseMode::Pixel, 1);
        let mut random = Random::of(&[1]);
        let areas: Vec<f64> = (0..20_000)
            .flat_map(|_| erasing.windows([224, 224], &mut random))
            .map(|window| (window.height * window.width) as f64 / (224.0 * 224.0))
            .collect();
        assert!((4750..5250).contains(&areas.len()), "{}", areas.len());
        // Not quite the middle of the range, since the largest are refused more often.
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!((0.165..0.180).contains(&mean), "{mean}");
        assert!(areas.iter().all(|area| (0.019..0.338).contains(area)));
        assert!(self::erasing(0.0, EraseMode::Pixel, 1).windows([224, 224], &mut random).is_empty());
    }

    #[test]
    fn what_is_erased_has_the_mean_and_deviation_of_the_normalisation() {
        let window = Window { top: 10, left: 20, height: 40, width: 50 };
        let filled = |mode| {
            let mut pixels = vec![9.0; 3 * 64 * 96];
            erasing(1.0, mode, 1).fill(&mut pixels, [64, 96], window, &mut Random::of(&[2]));
            let mut erased = [(); 3].map(|()| Vec::new());
            for (place, &value) in pixels.iter().enumerate() {
                let (y, x) = (place / 96 % 64, place % 96);
                if (10..50).contains(&y) && (20..70).contains(&x) {
                    erased[place / (64 * 96)].push(value);
                } else {
                    assert_eq!(value, 9.0);
                }
            }
            erased
        };
        assert_eq!(filled(EraseMode::Constant), [0.4, 0.5, 0.6].map(|mean| vec![mean; 2000]));
        for colour in filled(EraseMode::Random) {
            assert!(colour.iter().all(|&value| value == colour[0] && ![0.4, 0.5, 0.6].contains(&value)));
        }
        for (channel, values) in filled(EraseMode::Pixel).iter().enumerate() {
            let (mean, std) = ([0.4_f32, 0.5, 0.6][channel], [0.1_f32, 0.2, 0.3][channel]);
            let moment =
                |power: i32| values.iter().map(|value| ((value - mean) / std).powi(power)).sum::<f32>() / 2000.0;
            // Four standard errors.
            assert!(moment(1).abs() < 0.09 && (moment(2) - 1.0).abs() < 0.13, "{} {}", moment(1), moment(2));
        }
    }
}
