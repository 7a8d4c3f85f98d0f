//! A step and the way back into the ball, in one pass over the pixels where the device and the norm allow: in f32 on the CPU, in L∞ and
//! L2. Elsewhere, [`Bound::step`] and [`Bound::project`] by Burn's operations give the same up to rounding.

use burn::tensor::Tensor;

use super::norm::{TINY, norms, per_image};
use super::pass::{can_pass, pass_images};
use super::sums::fold;
use super::{Bound, Norm, Targets};

impl Bound {
    /// `pixels`, `[batch, 3, height, width]`, moved by a step of length `size` along which a loss with the gradient `along` rises, where
    /// they may change, and back into [0, 1] and the ball.
    pub(super) fn advance(self, pixels: Tensor<4>, along: Tensor<4>, size: f64, targets: &Targets) -> Tensor<4> {
        let original = &targets.pixels;
        if !self.is_one_pass(&pixels) {
            return self.project(pixels + targets.masked(self.step(along, size)), original);
        }
        pass_images(pixels, around(targets, Some(along)), move |image, others| {
            let (original, along, mask) = (others[0], others[1], others.get(2).copied());
            self.add_step(image, along, size, mask);
            self.bring_back(image, original);
        })
    }

    /// How far `pixels` are from the original ones after such a step, not brought back.
    pub(super) fn change_after(self, pixels: Tensor<4>, along: Tensor<4>, size: f64, targets: &Targets) -> Tensor<4> {
        if !self.is_one_pass(&pixels) {
            return pixels + targets.masked(self.step(along, size)) - targets.pixels.clone();
        }
        pass_images(pixels, around(targets, Some(along)), move |image, others| {
            let (original, along, mask) = (others[0], others[1], others.get(2).copied());
            self.add_step(image, along, size, mask);
            image.iter_mut().zip(original).for_each(|(pixel, original)| *pixel -= original);
        })
    }

    /// The original pixels with a `change` that is scaled into the ball, kept to where they may change; where they would leave [0, 1],
    /// they are cut off.
    pub(super) fn scaled(self, change: Tensor<4>, targets: &Targets) -> Tensor<4> {
        let original = &targets.pixels;
        if !self.is_one_pass(&change) {
            let size = norms(&change, self.norm).clamp_min(f64::from(f32::MIN_POSITIVE));
            let change = change * per_image(size.recip().mul_scalar(self.eps).clamp_max(1.0));
            let pixels = self.project(original.clone() + change, original);
            return original.clone() + targets.masked(pixels - original.clone());
        }
        pass_images(change, around(targets, None), move |image, others| {
            let (original, mask) = (others[0], others.get(1).copied());
            let share = self.share_within(image);
            image.iter_mut().zip(original).for_each(|(pixel, original)| *pixel = original + *pixel * share);
            self.bring_back(image, original);
            let Some(mask) = mask else { return };
            for ((pixel, original), mask) in image.iter_mut().zip(original).zip(mask.iter().cycle()) {
                *pixel = original + (*pixel - original) * mask;
            }
        })
    }
}

/// What is done with the values of an image.
impl Bound {
    fn is_one_pass(self, pixels: &Tensor<4>) -> bool {
        self.norm != Norm::L1 && self.eps > 0.0 && can_pass(pixels)
    }

    /// See [`Bound::step`]; a mask has one value for all channels of a pixel.
    fn add_step(self, image: &mut [f32], gradient: &[f32], size: f64, mask: Option<&[f32]>) {
        match self.norm {
            Norm::Linf => {
                let size = size as f32;
                add(image, gradient, mask, |slope| match slope {
                    _ if slope > 0.0 => size,
                    _ if slope < 0.0 => -size,
                    // Neither where it is zero nor where it is no number.
                    _ => 0.0,
                });
            }
            Norm::L2 | Norm::L1 => {
                let scale = (size / (length(gradient, Norm::L2) + TINY)) as f32;
                add(image, gradient, mask, |slope| slope * scale);
            }
        }
    }

    /// See [`Bound::project`].
    fn bring_back(self, image: &mut [f32], original: &[f32]) {
        match self.norm {
            Norm::Linf => {
                let eps = self.eps as f32;
                for (pixel, original) in image.iter_mut().zip(original) {
                    *pixel = (original + (*pixel - original).clamp(-eps, eps)).clamp(0.0, 1.0);
                }
            }
            Norm::L2 | Norm::L1 => {
                image.iter_mut().zip(original).for_each(|(pixel, original)| *pixel -= original);
                let share = self.share_within(image);
                for (pixel, original) in image.iter_mut().zip(original) {
                    *pixel = (original + *pixel * share).clamp(0.0, 1.0);
                }
            }
        }
    }

    /// The share of a change that is in the ball.
    fn share_within(self, change: &[f32]) -> f32 {
        (self.eps / length(change, self.norm).max(f64::from(f32::MIN_POSITIVE))).min(1.0) as f32
    }
}

/// Adds to each pixel what `change` makes of its slope, times the mask.
fn add(image: &mut [f32], gradient: &[f32], mask: Option<&[f32]>, change: impl Fn(f32) -> f32) {
    let Some(mask) = mask else {
        return image.iter_mut().zip(gradient).for_each(|(pixel, &slope)| *pixel += change(slope));
    };
    for (channel, gradient) in image.chunks_exact_mut(mask.len()).zip(gradient.chunks_exact(mask.len())) {
        for ((pixel, &slope), mask) in channel.iter_mut().zip(gradient).zip(mask) {
            *pixel += change(slope) * mask;
        }
    }
}

fn length(change: &[f32], norm: Norm) -> f64 {
    match norm {
        Norm::Linf => fold(change, f64::abs, |largest, size| if size > largest { size } else { largest }),
        Norm::L2 => fold(change, |value| value * value, |sum, square| sum + square).sqrt(),
        Norm::L1 => fold(change, f64::abs, |sum, size| sum + size),
    }
}

/// The original pixels, a gradient and a mask, as far as they are.
fn around(targets: &Targets, along: Option<Tensor<4>>) -> Vec<Tensor<4>> {
    [targets.pixels.clone()].into_iter().chain(along).chain(targets.mask.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::to_f64;
    use burn::tensor::{DType, Device, TensorData};
    use proptest::prelude::*;

    const SHAPE: [usize; 4] = [2, 3, 3, 5];

    fn tensor(values: &[f64], shape: [usize; 4], dtype: DType) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Device::flex(), dtype))
    }

    fn targets(original: &[f64], masked: bool, dtype: DType) -> Targets {
        let mask: Vec<f64> = (0..30).map(|index| f64::from(u8::from(index % 4 != 0))).collect();
        let mask = masked.then(|| tensor(&mask, [2, 1, 3, 5], dtype));
        Targets { mask, ..Targets::new(tensor(original, SHAPE, dtype), &[0, 1], &["a.png", "b.png"]) }
    }

    proptest! {
        /// Double precision goes Burn's way, single precision that of one pass.
        #[test]
        fn one_pass_gives_what_burns_operations_give(
            original in prop::collection::vec(0.0f32..=1.0, 90),
            gradient in prop::collection::vec(prop_oneof![Just(0.0f32), 1e-3f32..1.0, -1.0f32..-1e-3], 90),
            moved in prop::collection::vec(-0.5f32..0.5, 90),
            norm in prop::sample::select(vec![Norm::Linf, Norm::L2, Norm::L1]),
            eps in 0.01f64..2.0,
            size in 0.01f64..1.0,
            is_masked in any::<bool>(),
        ) {
            let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
            let bound = Bound { norm, eps };
            let results = [DType::F32, DType::F64].map(|dtype| {
                let targets = targets(&wide(&original), is_masked, dtype);
                let along = || tensor(&wide(&gradient), SHAPE, dtype);
                let pixels = targets.pixels.clone() + targets.masked(tensor(&wide(&moved), SHAPE, dtype));
                [
                    bound.advance(pixels.clone(), along(), size, &targets),
                    bound.change_after(pixels.clone(), along(), size, &targets),
                    bound.scaled(pixels - targets.pixels.clone(), &targets),
                ]
                .map(to_f64)
            });
            let [single, double] = results;
            for (single, double) in single.iter().zip(&double) {
                for (single, double) in single.iter().zip(double) {
                    prop_assert!((single - double).abs() < 1e-5, "{norm:?}: {single} is not {double}");
                }
            }
        }
    }

    /// In L∞ nothing is added up, so that both ways round alike.
    #[test]
    fn in_the_largest_norm_one_pass_is_the_same_to_the_bit() {
        let values = |step: f64| (0..90).map(|index| (f64::from(index) * step).sin()).collect::<Vec<f64>>();
        let original: Vec<f64> = values(0.3).into_iter().map(f64::abs).collect();
        let bound = Bound { norm: Norm::Linf, eps: 8.0 / 255.0 };
        for is_masked in [false, true] {
            let targets = targets(&original, is_masked, DType::F32);
            let [pixels, along] = [0.7, 1.1].map(|step| tensor(&values(step), SHAPE, DType::F32));
            let step = targets.masked(bound.step(along.clone(), 2.0 / 255.0));
            let plain = bound.project(pixels.clone() + step, &targets.pixels);
            assert_eq!(to_f64(bound.advance(pixels, along, 2.0 / 255.0, &targets)), to_f64(plain));
        }
    }

    /// A gradient that overflowed, or none at all, throws no pixel out of the ball.
    #[test]
    fn a_step_along_anything_ends_in_the_ball() {
        let far = [3.4e38, -3.4e38, 1e30, 1e-40, 0.0, -0.0, f64::INFINITY, f64::NAN, -1e19];
        let gradient: Vec<f64> = far.into_iter().cycle().take(90).collect();
        let targets = targets(&[0.5; 90], false, DType::F32);
        let bound = Bound { norm: Norm::Linf, eps: 0.1 };
        let along = tensor(&gradient, SHAPE, DType::F32);
        let pixels = to_f64(bound.advance(targets.pixels.clone(), along, 0.2, &targets));
        assert!(pixels.iter().all(|pixel| (pixel - 0.5).abs() <= 0.1 + 1e-6), "{pixels:?}");
        let none = tensor(&[0.0; 90], SHAPE, DType::F32);
        for norm in [Norm::Linf, Norm::L2] {
            let pixels = Bound { norm, eps: 0.1 }.advance(targets.pixels.clone(), none.clone(), 0.2, &targets);
            assert_eq!(to_f64(pixels), [0.5; 90]);
        }
    }
}
