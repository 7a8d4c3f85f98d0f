//! Balls around images: random points of them, steps within them, the way back into them.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::{Bound, Norm, Targets};
use crate::model::to_f64;
use crate::noise::{normal, uniform};

/// Keeps a quotient finite, as torchattacks does.
pub const TINY: f64 = 1e-10;
/// What the sums of a large image are off by.
const ROUNDING: f64 = 1e-9;
/// The share of the pixels that a step in the L1 ball changes: Tramèr & Boneh, *Adversarial Training and Robustness for
/// Multiple Perturbations* (arXiv 1904.13000), section 4, whose q is the rest.
const L1_SHARE: f64 = 0.01;

impl Bound {
    /// `x`, `[batch, 3, height, width]`, moved back into [0, 1] and the ball around `original`: the nearest point of the
    /// ball in L∞ and in L2, of its intersection with [0, 1] in L1 and in L∞.
    pub fn project(self, x: Tensor<4>, original: &Tensor<4>) -> Tensor<4> {
        let Self { norm, eps } = self;
        if eps == 0.0 {
            return original.clone();
        }
        let delta = x - original.clone();
        let delta = match norm {
            Norm::Linf => delta.clamp(-eps, eps),
            Norm::L2 => {
                let length = norms(&delta, Norm::L2).clamp_min(TINY);
                let shrink = per_image(length.recip().mul_scalar(eps).clamp_max(1.0));
                delta * shrink
            }
            Norm::L1 => return by_image(&delta, original, |delta, original| into_l1(delta, original, eps)),
        };
        (original.clone() + delta).clamp(0.0, 1.0)
    }

    /// A random point of the ball around each image, within [0, 1]: uniform in L∞ and L1; in L2 in a uniform direction at a
    /// uniform distance, as torchattacks' PGDL2.
    ///
    /// Each image's numbers come from (`seed`, its id, `restart`) alone.
    pub fn random_point(self, targets: &Targets, seed: u64, restart: usize) -> Tensor<4> {
        let Self { norm, eps } = self;
        let shape = targets.pixels.dims();
        let size = shape[1..].iter().product::<usize>();
        let name = |id: &String| if restart == 0 { id.clone() } else { format!("{id}\0restart {restart}") };
        let of_image = |id: &String| -> Vec<f64> {
            let name = name(id);
            match norm {
                Norm::Linf => {
                    let unit = uniform("netkin attack random start v1", seed, &name, size);
                    unit.into_iter().map(|unit| eps * f64::from(unit)).collect()
                }
                Norm::L2 => {
                    let direction = normal("netkin attack random start, L2", seed, &name, size);
                    let length = direction.iter().map(|value| value * value).sum::<f64>().sqrt();
                    let radius = uniform("netkin attack random start, radius", seed, &name, 1)[0];
                    let scale = eps * (f64::from(radius) + 1.0) / 2.0 / length.max(TINY);
                    direction.into_iter().map(|value| value * scale).collect()
                }
                // Exponential numbers divided by their sum with one more are uniform below the simplex.
                Norm::L1 => {
                    let unit = uniform("netkin attack random start, L1", seed, &name, size + 1);
                    let exponential = |unit: &f32| -((1.0 - f64::from(unit.abs())).max(f64::MIN_POSITIVE)).ln();
                    let sum: f64 = unit.iter().map(exponential).sum();
                    let value = |unit: &f32| f64::from(unit.signum()) * eps * exponential(unit) / sum;
                    unit[..size].iter().map(value).collect()
                }
            }
        };
        let noise: Vec<f64> = targets.ids.par_iter().flat_map_iter(of_image).collect();
        let pixels = &targets.pixels;
        let noise = Tensor::from_data(TensorData::new(noise, shape), (&pixels.device(), pixels.dtype()));
        (pixels.clone() + targets.masked(noise)).clamp(0.0, 1.0)
    }

    /// A step of length `size` along which a loss with this gradient rises: its sign in L∞, itself scaled in L2, the signs of
    /// its largest hundredth in L1.
    pub fn step(self, gradient: Tensor<4>, size: f64) -> Tensor<4> {
        match self.norm {
            Norm::Linf => gradient.sign().mul_scalar(size),
            Norm::L2 => {
                let scale = per_image(norms(&gradient, Norm::L2).add_scalar(TINY).recip().mul_scalar(size));
                gradient * scale
            }
            Norm::L1 => by_image(&gradient, &gradient, |gradient, _| {
                let count = ((gradient.len() as f64 * L1_SHARE).ceil() as usize).max(1);
                let mut sizes: Vec<f64> = gradient.iter().map(|value| value.abs()).collect();
                let (_, &mut least, _) = sizes.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
                let chosen = |value: f64| value.abs() >= least && value != 0.0;
                let count = gradient.iter().filter(|&&value| chosen(value)).count().max(1);
                let step = size / count as f64;
                gradient.iter().map(|&value| if chosen(value) { value.signum() * step } else { 0.0 }).collect()
            }),
        }
    }

    /// The distance of each image of `x` from `original`, `[batch]`.
    pub fn distances(self, x: &Tensor<4>, original: &Tensor<4>) -> Vec<f64> {
        to_f64(norms(&(x.clone() - original.clone()), self.norm))
    }
}

/// The norm of each image, `[batch]`.
pub fn norms(x: &Tensor<4>, norm: Norm) -> Tensor<1> {
    let [batch, channels, height, width] = x.dims();
    let flat = x.clone().reshape([batch, channels * height * width]);
    let of_rows = match norm {
        Norm::Linf => flat.abs().max_dim(1),
        Norm::L2 => (flat.clone() * flat).sum_dim(1).sqrt(),
        Norm::L1 => flat.abs().sum_dim(1),
    };
    of_rows.reshape([batch])
}

/// One number for each image, to be multiplied with all of its values.
pub fn per_image(x: Tensor<1>) -> Tensor<4> {
    let [batch] = x.dims();
    x.reshape([batch, 1, 1, 1])
}

/// Each image of `x` and of `y` exchanged for what `of_image` makes of their values, `[3 · height · width]`.
pub fn by_image(x: &Tensor<4>, y: &Tensor<4>, of_image: impl Fn(&[f64], &[f64]) -> Vec<f64> + Sync) -> Tensor<4> {
    let shape = x.dims();
    let size = shape[1..].iter().product::<usize>().max(1);
    let (values, others) = (to_f64(x.clone()), to_f64(y.clone()));
    let new: Vec<f64> = values
        .par_chunks_exact(size)
        .zip(others.par_chunks_exact(size))
        .flat_map_iter(|(values, others)| of_image(values, others))
        .collect();
    Tensor::from_data(TensorData::new(new, shape), (&x.device(), x.dtype()))
}

/// The point nearest to `original` + `delta` whose distance from `original` in L1 is at most `eps` and that is within [0, 1].
pub fn into_l1(delta: &[f64], original: &[f64], eps: f64) -> Vec<f64> {
    let correction = l1_correction(original, delta, eps);
    let near = |((original, delta), correction): ((&f64, &f64), f64)| (original + (delta + correction)).clamp(0.0, 1.0);
    let near: Vec<f64> = original.iter().zip(delta).zip(correction).map(near).collect();
    let distance: f64 = near.iter().zip(original).map(|(near, original)| (near - original).abs()).sum();
    if distance <= eps * (1.0 + ROUNDING) + ROUNDING {
        return near;
    }
    // Of changes by many powers of ten the corrections are too coarse.
    near.iter().zip(original).map(|(near, original)| original + (near - original) * (eps / distance)).collect()
}

/// −1, 0 or 1.
pub fn sign(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

/// What is to be added to a `change` of `original` so that it is in the L1 ball of `eps` and the pixels are in [0, 1]: the
/// least that does it. Croce & Hein, *Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image
/// Classifiers* (arXiv 2103.01208), proposition 2.1: each pixel's change shrinks by λ, at least by what is outside of [0, 1],
/// at most to 0; the sum of what they shrink by is a rising, piecewise linear function of λ.
///
/// λ is found by Newton's method in a bracket. The authors sort instead, which takes longer; what is added to the pixels is
/// computed as theirs, since the sparsity of L1-APGD counts changes that are left by rounding.
pub fn l1_correction(original: &[f64], change: &[f64], eps: f64) -> Vec<f64> {
    let outside = |original: f64, change: f64| -(1.0 - original - change).min(original + change).min(0.0);
    let limits: Vec<(f64, f64)> =
        original.iter().zip(change).map(|(&original, &change)| (outside(original, change), change.abs())).collect();
    let excess = limits.iter().map(|(_, size)| size).sum::<f64>() - eps;
    let shrink = if limits.iter().map(|(least, _)| least).sum::<f64>() < excess { root(&limits, excess) } else { 0.0 };
    let of = |(&change, (least, size)): (&f64, (f64, f64))| sign(change) * -shrink.max(least).min(size);
    change.iter().zip(limits).map(of).collect()
}

/// The λ at which numbers that follow it between their `limits` sum up to `wanted`, which is more than the sum of the lower
/// ones and less than that of the upper ones.
pub(super) fn root(limits: &[(f64, f64)], wanted: f64) -> f64 {
    let (mut low, mut high) = (0.0, limits.iter().map(|(_, most)| *most).fold(0.0, f64::max));
    let mut value = low;
    loop {
        let (mut fixed, mut free) = (0.0, 0.0);
        for &(least, most) in limits {
            if value < least {
                fixed += least;
            } else if value >= most {
                fixed += most;
            } else {
                free += 1.0;
            }
        }
        let next = (wanted - fixed) / free;
        if (next - value).abs() <= 2.0 * f64::EPSILON * value {
            return next;
        }
        if fixed + free * value < wanted {
            low = value
        } else {
            high = value
        }
        value = if next > low && next < high { next } else { low.midpoint(high) };
        if value <= low || value >= high {
            return high;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};
    use proptest::prelude::*;

    fn image(values: Vec<f64>) -> Tensor<4> {
        let count = values.len() / 3;
        Tensor::from_data(TensorData::new(values, [1, 3, 1, count]), (&Device::flex(), DType::F64))
    }

    /// The nearest point in L1 by a search over λ alone.
    fn by_bisection(delta: &[f64], original: &[f64], eps: f64) -> Vec<f64> {
        let at = |less: f64| -> Vec<f64> {
            let one = |(&delta, &original): (&f64, &f64)| {
                let least = (delta.abs() - less).max(0.0) * delta.signum();
                (original + least).clamp(0.0, 1.0)
            };
            delta.iter().zip(original).map(one).collect()
        };
        let size = |x: &[f64]| x.iter().zip(original).map(|(x, original)| (x - original).abs()).sum::<f64>();
        let (mut low, mut high) = (0.0, 2.0);
        if size(&at(0.0)) <= eps {
            return at(0.0);
        }
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if size(&at(middle)) > eps { low = middle } else { high = middle }
        }
        at(high)
    }

    proptest! {
        #[test]
        fn the_way_back_leads_into_the_ball(
            delta in prop::collection::vec(-1.5f64..1.5, 12),
            original in prop::collection::vec(0.0f64..=1.0, 12),
            eps in 0.01f64..3.0,
        ) {
            let middle = image(original.clone());
            for norm in [Norm::Linf, Norm::L2, Norm::L1] {
                let bound = Bound { norm, eps };
                let near = bound.project(middle.clone() + image(delta.clone()), &middle);
                prop_assert!(bound.distances(&near, &middle)[0] <= eps + 1e-12);
                let near = to_f64(near);
                prop_assert!(near.iter().all(|value| (0.0..=1.0).contains(value)));
            }
            let exact = into_l1(&delta, &original, eps);
            for (value, expected) in exact.iter().zip(by_bisection(&delta, &original, eps)) {
                prop_assert!((value - expected).abs() < 1e-9);
            }
        }

        #[test]
        fn a_random_point_is_in_the_ball(seed in any::<u64>(), eps in 0.01f64..3.0, restart in 0usize..3) {
            let middle = image((0..12).map(|index| f64::from(index) / 11.0).collect());
            let targets = Targets::new(middle.clone(), &[0], &["a.png"]);
            for norm in [Norm::Linf, Norm::L2, Norm::L1] {
                let bound = Bound { norm, eps };
                let point = bound.random_point(&targets, seed, restart);
                prop_assert!(bound.distances(&point, &middle)[0] <= eps + 1e-12);
                prop_assert!(to_f64(point).iter().all(|value| (0.0..=1.0).contains(value)));
            }
        }
    }

    /// Also from where a loss that overflows may throw a pixel, and within an eps that single precision has no number for.
    #[test]
    fn the_way_back_is_found_from_anywhere() {
        let far = [3.4e38, -3.4e38, 1e30, 1e-40, 0.0, -0.0, 0.5, 2.0, -1e19, 1.0, 1e-20, -7.0];
        let original: Vec<f64> = (0..12).map(|index| f64::from(index) / 11.0).collect();
        for dtype in [DType::F32, DType::F64] {
            let tensor = |values: &[f64]| {
                Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 2, 2]), (&Device::flex(), dtype))
            };
            let middle = tensor(&original);
            for (norm, eps) in [Norm::Linf, Norm::L2, Norm::L1]
                .into_iter()
                .flat_map(|norm| [1e-50, 1e-12, 1e-3, 0.3, 1.0].map(|eps| (norm, eps)))
            {
                let bound = Bound { norm, eps };
                for x in [&far[..], &[0.0; 12], &original] {
                    let near = bound.project(tensor(x), &middle);
                    let distance = bound.distances(&near, &middle)[0];
                    assert!(distance <= eps + 2e-6, "{norm:?} {eps}: {distance}");
                    assert!(to_f64(near).iter().all(|value| (0.0..=1.0).contains(value)), "{norm:?} {eps} {x:?}");
                }
            }
        }
    }

    #[test]
    fn a_step_has_its_length() {
        let gradient = image((0..300).map(|index| f64::from(index) - 20.0).collect());
        for norm in [Norm::Linf, Norm::L2, Norm::L1] {
            let step = Bound { norm, eps: 1.0 }.step(gradient.clone(), 0.25);
            assert!((to_f64(norms(&step, norm))[0] - 0.25).abs() < 1e-9, "{norm:?}");
        }
    }

    #[test]
    fn restarts_begin_elsewhere() {
        let targets = Targets::new(image(vec![0.5; 12]), &[0], &["a.png"]);
        let bound = Bound { norm: Norm::Linf, eps: 0.1 };
        let start = |restart| to_f64(bound.random_point(&targets, 0, restart));
        assert_ne!(start(0), start(1));
        assert_eq!(start(1), start(1));
    }
}
