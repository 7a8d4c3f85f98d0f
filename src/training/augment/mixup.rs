//! mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899) of a batch, as timm's `Mixup`: each image
//! with its partner, the one as far from the batch's end as it is from the beginning. timm takes even batches only; in an odd
//! one, which an unreadable image leaves, the middle image is its own partner and stays as it is.

use super::crop::Window;
use super::draws::Draws;
use super::{Augmentation, MixMode};

/// How batches are mixed.
pub(crate) struct Mixing {
    /// The parameters of the two beta distributions, 0 for what is not done.
    mixup: f64,
    cutmix: f64,
    probability: f64,
    /// How probable CutMix is where both are done.
    switch: f64,
    mode: MixMode,
}

/// What an image becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mix {
    /// The share of itself that it keeps, which is also the share of its label.
    pub share: f64,
    /// The window that comes from its partner; `None`: every pixel is a mean of the two by `share`.
    pub window: Option<Window>,
}

impl Mix {
    /// An image as it is.
    pub const NONE: Self = Self { share: 1.0, window: None };
}

impl Mixing {
    /// `None` if neither is asked for.
    pub fn of(augmentation: &Augmentation) -> Option<Self> {
        let Augmentation { mixup, cutmix, mix_probability, mix_switch, mix_mode, .. } = *augmentation;
        let mixing = Self { mixup, cutmix, probability: mix_probability, switch: mix_switch, mode: mix_mode };
        (mixup > 0.0 || cutmix > 0.0).then_some(mixing)
    }

    /// What becomes of each of `count` images of `size` (height, width).
    pub fn draw(&self, count: usize, size: [usize; 2], draws: &mut impl Draws) -> Vec<Mix> {
        match self.mode {
            MixMode::Batch => vec![self.of_batch(size, draws); count],
            MixMode::Elem => self.of_each(count, size, draws),
            MixMode::Pair => {
                let mut mixes = self.of_each(count / 2, size, draws);
                let partners: Vec<Mix> = mixes.iter().rev().copied().collect();
                mixes.resize(count - partners.len(), Mix::NONE);
                mixes.extend(partners);
                mixes
            }
        }
    }

    fn of_batch(&self, size: [usize; 2], draws: &mut impl Draws) -> Mix {
        if draws.unit() >= self.probability {
            return Mix::NONE;
        }
        let is_cutmix = if self.is_switched() { draws.unit() < self.switch } else { self.cutmix > 0.0 };
        let share = draws.beta(if is_cutmix { self.cutmix } else { self.mixup });
        if !is_cutmix || share == 1.0 {
            return Mix { share, window: None };
        }
        let side = (1.0 - share).sqrt();
        let (window, share) = window(size, |length| (length as f64 * side) as usize, draws);
        Mix { share, window: Some(window) }
    }

    /// timm draws for all images which of the two it is, then the shares, then whether they are mixed at all, then the windows;
    /// and it computes in f32 here.
    fn of_each(&self, count: usize, size: [usize; 2], draws: &mut impl Draws) -> Vec<Mix> {
        let is_cutmix: Vec<bool> = if self.is_switched() {
            (0..count).map(|_| draws.unit() < self.switch).collect()
        } else {
            vec![self.cutmix > 0.0; count]
        };
        let mut shares_of = |alpha: f64| -> Vec<f32> {
            if alpha == 0.0 { vec![1.0; count] } else { (0..count).map(|_| draws.beta(alpha) as f32).collect() }
        };
        let (cutmix, mixup) = (shares_of(self.cutmix), shares_of(self.mixup));
        let mut shares = Vec::with_capacity(count);
        for image in 0..count {
            let share = if is_cutmix[image] { cutmix[image] } else { mixup[image] };
            shares.push(if draws.unit() < self.probability { share } else { 1.0 });
        }
        let mix = |(share, is_cutmix): (f32, bool)| {
            if !is_cutmix || share == 1.0 {
                return Mix { share: share.into(), window: None };
            }
            let side = (1.0 - share).sqrt();
            let (window, share) = window(size, |length| (length as f32 * side) as usize, draws);
            Mix { share: f64::from(share as f32), window: Some(window) }
        };
        shares.into_iter().zip(is_cutmix).map(mix).collect()
    }

    fn is_switched(&self) -> bool {
        self.mixup > 0.0 && self.cutmix > 0.0
    }
}

/// A window around a random place with sides by `side`, cut off at the border, and the share of the area outside of it.
fn window([height, width]: [usize; 2], side: impl Fn(usize) -> usize, draws: &mut impl Draws) -> (Window, f64) {
    let (cut_height, cut_width) = (side(height), side(width));
    let (down, across) = (draws.below(height), draws.below(width));
    let (top, left) = (down.saturating_sub(cut_height / 2), across.saturating_sub(cut_width / 2));
    let (bottom, right) = ((down + cut_height.div_ceil(2)).min(height), (across + cut_width.div_ceil(2)).min(width));
    let window = Window { top, left, height: bottom - top, width: right - left };
    let share = 1.0 - (window.height * window.width) as f64 / (height * width) as f64;
    (window, share)
}

/// Mixes images, `[image, 3, height, width]` of `size`, each as `mixes` says.
pub(crate) fn mix(pixels: &mut [f32], size: [usize; 2], mixes: &[Mix]) {
    let length = 3 * size[0] * size[1];
    let mut original = vec![0.0; length];
    for first in 0..mixes.len() / 2 {
        let second = mixes.len() - 1 - first;
        let (front, back) = pixels.split_at_mut(second * length);
        let (one, other) = (&mut front[first * length..][..length], &mut back[..length]);
        original.copy_from_slice(one);
        mix_into(one, other, size, mixes[first]);
        mix_into(other, &original, size, mixes[second]);
    }
}

fn mix_into(image: &mut [f32], partner: &[f32], [height, width]: [usize; 2], mix: Mix) {
    match mix.window {
        Some(window) => {
            let rows = image.chunks_exact_mut(width).zip(partner.chunks_exact(width)).enumerate();
            for (row, (image, partner)) in rows {
                if (window.top..window.top + window.height).contains(&(row % height)) {
                    let columns = window.left..window.left + window.width;
                    image[columns.clone()].copy_from_slice(&partner[columns]);
                }
            }
        }
        None if mix.share == 1.0 => {}
        None => {
            let (share, rest) = (mix.share as f32, (1.0 - mix.share) as f32);
            for (value, partner) in image.iter_mut().zip(partner) {
                *value = *value * share + partner * rest;
            }
        }
    }
}

/// timm's `mixup_target`, `[image, class]`: 1 at the label, of which `smoothing` is spread over all classes, mixed as the images
/// are.
pub(crate) fn targets(labels: &[usize], classes: usize, smoothing: f64, mixes: &[Mix]) -> Vec<f32> {
    let off = smoothing / classes as f64;
    let (on, off) = ((1.0 - smoothing + off) as f32, off as f32);
    let mut targets = Vec::with_capacity(labels.len() * classes);
    for ((&label, &partner), mix) in labels.iter().zip(labels.iter().rev()).zip(mixes) {
        let (share, rest) = (mix.share as f32, (1.0 - mix.share) as f32);
        let value = |class: usize, label: usize| if class == label { on } else { off };
        targets.extend((0..classes).map(|class| value(class, label) * share + value(class, partner) * rest));
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Recorded, crc, fixture, number, text};
    use super::*;
    use crate::random::Random;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn batches_and_targets_are_timms_in_every_bit_for_the_same_numbers() {
        let cases = fixture("mixup");
        assert!(cases.len() >= 40);
        for case in cases {
            let real = |name: &str| -> f64 { text(&case, name).parse().unwrap() };
            let mix_mode = match text(&case, "mode") {
                "batch" => MixMode::Batch,
                "pair" => MixMode::Pair,
                _ => MixMode::Elem,
            };
            let augmentation = Augmentation {
                mixup: real("mixup"),
                cutmix: real("cutmix"),
                mix_probability: real("probability"),
                mix_switch: real("switch"),
                mix_mode,
                ..Augmentation::none()
            };
            let (count, size) = (number(&case, "count"), [number(&case, "height"), number(&case, "width")]);
            let mut pixels = Vec::new();
            for image in 0..count {
                for place in 0..3 * size[0] * size[1] {
                    pixels.push(((image * 31 + place * 7) % 64) as f32 / 63.0);
                }
            }
            let mut draws = Recorded::new(&case);
            let mixes = Mixing::of(&augmentation).unwrap().draw(count, size, &mut draws);
            draws.end();
            mix(&mut pixels, size, &mixes);
            let labels: Vec<usize> = (0..count).map(|image| image * image % 7).collect();
            let targets = targets(&labels, 7, real("smoothing"), &mixes);
            assert_eq!(crc(&bytes(&targets)), text(&case, "targets"), "{case}");
            assert_eq!(crc(&bytes(&pixels)), text(&case, "pixels"), "{case}");
        }
    }

    fn mixing(mixup: f64, cutmix: f64, mix_mode: MixMode) -> Mixing {
        Mixing::of(&Augmentation {
            mixup,
            cutmix,
            mix_mode,
            mix_switch: 0.3,
            mix_probability: 0.8,
            ..Augmentation::none()
        })
        .unwrap()
    }

    #[test]
    fn kinds_and_shares_come_as_often_as_asked() {
        for mode in [MixMode::Batch, MixMode::Elem] {
            let mixing = mixing(0.8, 1.0, mode);
            let mut random = Random::of(&[1]);
            let mixes: Vec<Mix> = (0..20_000).map(|_| mixing.draw(1, [32, 32], &mut random)[0]).collect();
            let cut = mixes.iter().filter(|mix| mix.window.is_some()).count();
            let none = mixes.iter().filter(|mix| **mix == Mix::NONE).count();
            assert!((4550..5050).contains(&cut) && (3750..4250).contains(&none), "{cut} {none}");
            let shares: Vec<f64> =
                mixes.iter().filter(|mix| mix.window.is_none() && **mix != Mix::NONE).map(|mix| mix.share).collect();
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            let variance = shares.iter().map(|share| (share - 0.5).powi(2)).sum::<f64>() / shares.len() as f64;
            assert!((mean - 0.5).abs() < 0.012 && (variance - 1.0 / (4.0 * 2.6)).abs() < 0.004, "{mean} {variance}");
        }
        assert!(Mixing::of(&Augmentation::default()).is_none());
    }

    #[test]
    fn a_window_covers_what_its_share_says() {
        let mixing = mixing(0.0, 1.0, MixMode::Elem);
        let mut random = Random::of(&[2]);
        for Mix { share, window } in (0..200).flat_map(|_| mixing.draw(3, [20, 30], &mut random)) {
            let Some(window) = window else {
                assert_eq!(share, 1.0);
                continue;
            };
            assert!(window.top + window.height <= 20 && window.left + window.width <= 30);
            let covered = (window.height * window.width) as f64 / 600.0;
            assert!((1.0 - covered - share).abs() < 1e-6);
        }
    }

    #[test]
    fn in_an_odd_batch_the_middle_image_stays() {
        for mode in [MixMode::Batch, MixMode::Pair, MixMode::Elem] {
            let augmentation = Augmentation { mixup: 1.0, mix_mode: mode, ..Augmentation::none() };
            let mixes = Mixing::of(&augmentation).unwrap().draw(3, [1, 1], &mut Random::of(&[3]));
            assert_eq!(mixes.len(), 3);
            let mut pixels: Vec<f32> = (0..9).map(|value| value as f32).collect();
            mix(&mut pixels, [1, 1], &mixes);
            assert_eq!(pixels[3..6], [3.0, 4.0, 5.0]);
            assert!(pixels[0] > 0.0 && pixels[8] < 8.0);
            let targets = targets(&[0, 1, 1], 2, 0.0, &mixes);
            assert!((targets[2], targets[3]) == (0.0, 1.0) || mode != MixMode::Pair);
            assert!(targets.chunks(2).all(|target| (target[0] + target[1] - 1.0).abs() < 1e-6));
        }
    }

    #[test]
    fn without_mixing_targets_are_smoothed_labels() {
        let targets = targets(&[2, 0], 4, 0.1, &[Mix::NONE; 2]);
        assert_eq!(targets, [0.025, 0.025, 0.925, 0.025, 0.925, 0.025, 0.025, 0.025]);
    }
}
