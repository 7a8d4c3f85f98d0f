//! Weighted sums of neighbours, of which resizing, blurs and transforms consist, and sums over an image; always added in the same
//! order, whatever the batch.

use std::ops::{AddAssign, Mul};

/// A number format of pixels.
pub trait Real: Copy + Default + Send + Sync + AddAssign + Mul<Output = Self> {
    /// The nearest number.
    fn of(value: f64) -> Self;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

/// `new[i]` becomes the sum over k of `weights[k] · old[i + k · step]`, added in the order of k.
pub fn weighted_sums<T: Real>(new: &mut [T], old: &[T], weights: &[T], step: usize) {
    // As many sums at once as registers hold.
    match new.len() {
        16.. => in_blocks::<T, 16>(new, old, weights, step),
        4.. => in_blocks::<T, 4>(new, old, weights, step),
        _ => in_blocks::<T, 1>(new, old, weights, step),
    }
}

fn in_blocks<T: Real, const COUNT: usize>(new: &mut [T], old: &[T], weights: &[T], step: usize) {
    for start in (0..new.len()).step_by(COUNT) {
        // The last block begins earlier where it would not be full, and computes some sums once more.
        let start = start.min(new.len() - COUNT);
        let mut sums = [T::default(); COUNT];
        for (place, &weight) in weights.iter().enumerate() {
            let old = &old[start + place * step..][..COUNT];
            for (sum, &old) in sums.iter_mut().zip(old) {
                *sum += weight * old;
            }
        }
        new[start..start + COUNT].copy_from_slice(&sums);
    }
}

/// What `of` gives of each value, joined by `join`, for which 0 changes nothing and the order does not matter.
pub fn fold(values: &[f32], of: impl Fn(f64) -> f64, join: impl Fn(f64, f64) -> f64) -> f64 {
    // Several at once: one after another, each would wait for the one before.
    let mut lanes = [0.0; 8];
    let chunks = values.chunks_exact(lanes.len());
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = join(*lane, of(f64::from(value)));
        }
    }
    lanes.into_iter().chain(rest.iter().map(|&value| of(f64::from(value)))).fold(0.0, join)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_definition() {
        let old: Vec<f64> = (0..200).map(|index| f64::from((index * 37 + 11) % 101)).collect();
        for (len, step) in [(1, 1), (3, 5), (4, 1), (7, 3), (16, 2), (37, 11)] {
            let weights = [0.5, -1.0, 2.0, 0.25];
            let mut new = vec![f64::NAN; len];
            weighted_sums(&mut new, &old, &weights, step);
            for (index, new) in new.into_iter().enumerate() {
                let sum: f64 = weights.iter().enumerate().map(|(k, weight)| weight * old[index + k * step]).sum();
                assert_eq!(new, sum, "{len} sums, step {step}");
            }
        }
    }

    #[test]
    fn a_fold_takes_all_values() {
        let values: Vec<f32> = (1..=21u8).map(f32::from).collect();
        assert_eq!(fold(&values, |value| value * value, |a, b| a + b), 3311.0);
        assert_eq!(fold(&values, |value| value, f64::max), 21.0);
        assert_eq!(fold(&[], |value| value, |a, b| a + b), 0.0);
    }
}
