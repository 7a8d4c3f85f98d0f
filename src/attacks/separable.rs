//! Linear filters of images that act along rows and along columns.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::warp::Real;
use crate::device::is_cpu;

/// A filter for images of one size.
#[derive(Debug, Clone)]
pub enum Separable {
    /// Each value becomes a mean of those around it, weighted by these along rows and along columns, an odd number; beyond the edges
    /// there are zeros. On the CPU.
    Blur(Vec<f64>),
    /// The same as one matrix for each axis, `[1, 1, height, height]` and `[1, 1, width, width]`, for other devices.
    Matrices([Tensor<4>; 2]),
    /// Only what lies in the span of some rows, orthonormal, `[1, 1, count, height]`, and of some columns, `[1, 1, width, count]`, stays.
    Span([Tensor<4>; 2]),
}

impl Separable {
    /// Images of the size of `like` are blurred by a Gaussian of `size` pixels over ± 3 deviations, with zeros around them.
    pub fn gaussian(like: &Tensor<4>, size: usize) -> Self {
        let weight = |place: usize| {
            let x = if size > 1 { 6.0 * place as f64 / (size - 1) as f64 - 3.0 } else { 0.0 };
            (-0.5 * x * x).exp()
        };
        let sum: f64 = (0..size).map(weight).sum();
        let weights: Vec<f64> = (0..size).map(|place| weight(place) / sum).collect();
        if is_cpu(&like.device()) {
            return Self::Blur(weights);
        }
        let [_, _, height, width] = like.dims();
        let element = |row: usize, column: usize| {
            (row + size / 2).checked_sub(column).and_then(|offset| weights.get(offset)).copied().unwrap_or(0.0)
        };
        Self::Matrices([height, width].map(|side| matrix(like, [side, side], element)))
    }

    /// Images of the size of `like` keep the lowest frequencies of their discrete cosine transform (type II, orthonormal), the
    /// `share` of those along each axis and at least one.
    pub fn low_pass(like: &Tensor<4>, share: f64) -> Self {
        let [_, _, height, width] = like.dims();
        let basis = |side: usize, frequency: usize, place: usize| {
            let angle = std::f64::consts::PI * (place as f64 + 0.5) * frequency as f64 / side as f64;
            angle.cos() * (if frequency == 0 { 1.0 } else { 2.0 } / side as f64).sqrt()
        };
        let kept = |side: usize| ((share * side as f64).round() as usize).clamp(1, side);
        Self::Span([
            matrix(like, [kept(height), height], |row, column| basis(height, row, column)),
            matrix(like, [width, kept(width)], |row, column| basis(width, column, row)),
        ])
    }

    /// The filtered images, `[batch, channel, height, width]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Blur(weights) => blurred(x, weights),
            Self::Matrices([rows, columns]) => rows.clone().matmul(x).matmul(columns.clone()),
            Self::Span([rows, columns]) => {
                let part = rows.clone().matmul(x).matmul(columns.clone());
                rows.clone().transpose().matmul(part).matmul(columns.clone().transpose())
            }
        }
    }
}

/// `[1, 1, rows, columns]`, where and as `like` is.
fn matrix(like: &Tensor<4>, [rows, columns]: [usize; 2], element: impl Fn(usize, usize) -> f64) -> Tensor<4> {
    let values: Vec<f64> = (0..rows * columns).map(|index| element(index / columns, index % columns)).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, rows, columns]), (&like.device(), like.dtype()))
}

/// Every plane blurred along both axes.
fn blurred(x: Tensor<4>, weights: &[f64]) -> Tensor<4> {
    let (shape, device, dtype) = (x.dims(), x.device(), x.dtype());
    let data = x.into_data();
    let new = match data.as_slice::<f32>() {
        Ok(values) => TensorData::new(planes_blurred(values, shape, weights), shape),
        Err(_) => {
            let values: Vec<f64> = data.iter::<f64>().collect();
            TensorData::new(planes_blurred(&values, shape, weights), shape)
        }
    };
    Tensor::from_data(new, (&device, dtype))
}

fn planes_blurred<T: Real>(values: &[T], [_, _, height, width]: [usize; 4], weights: &[f64]) -> Vec<T> {
    let weights: Vec<T> = weights.iter().map(|&weight| T::of(weight)).collect();
    let half = weights.len() / 2;
    let mut new = vec![T::default(); values.len()];
    let plane = (height * width).max(1);
    new.par_chunks_exact_mut(plane).zip(values.par_chunks_exact(plane)).for_each(|(new, old)| {
        // With zeros at both ends, so that every value has all its neighbours.
        let mut padded = vec![T::default(); width + 2 * half];
        let mut along_rows = vec![T::default(); height * width];
        for (row, new) in old.chunks_exact(width).zip(along_rows.chunks_exact_mut(width)) {
            padded[half..half + width].copy_from_slice(row);
            for (offset, &weight) in weights.iter().enumerate() {
                new.iter_mut().zip(&padded[offset..]).for_each(|(new, &old)| *new += weight * old);
            }
        }
        for (row, new) in new.chunks_exact_mut(width).enumerate() {
            for (offset, &weight) in weights.iter().enumerate() {
                let Some(from) = (row + offset).checked_sub(half).filter(|&from| from < height) else { continue };
                let old = &along_rows[from * width..(from + 1) * width];
                new.iter_mut().zip(old).for_each(|(new, &old)| *new += weight * old);
            }
        }
    });
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::to_f64;
    use burn::tensor::{DType, Device};

    fn image() -> Tensor<4> {
        let values: Vec<f64> = (0..2 * 3 * 6 * 5).map(|index| f64::from((index * 37 + 11) % 101) / 101.0).collect();
        Tensor::from_data(TensorData::new(values, [2, 3, 6, 5]), (&Device::flex(), DType::F64))
    }

    fn distance(a: &Tensor<4>, b: &Tensor<4>) -> f64 {
        to_f64((a.clone() - b.clone()).abs()).into_iter().fold(0.0, f64::max)
    }

    #[test]
    fn a_low_pass_is_a_projection() {
        let x = image();
        let half = Separable::low_pass(&x, 0.5);
        let once = half.apply(x.clone());
        assert!(distance(&half.apply(once.clone()), &once) < 1e-12);
        assert!(distance(&once, &x) > 0.1);
        assert!(distance(&Separable::low_pass(&x, 1.0).apply(x.clone()), &x) < 1e-12);
        // The lowest frequency alone is the mean.
        let mean = x.clone().mean_dim(3).mean_dim(2).expand([2, 3, 6, 5]);
        assert!(distance(&Separable::low_pass(&x, 0.01).apply(x.clone()), &mean) < 1e-12);
    }

    /// Devices that multiply matrices blur as the CPU does.
    #[test]
    fn a_blur_is_the_same_by_matrices() {
        let x = image();
        for size in [1, 3, 9] {
            let Separable::Blur(weights) = Separable::gaussian(&x, size) else { panic!("images are on the CPU") };
            let half = size / 2;
            let of_axis = |side: usize| {
                matrix(&x, [side, side], |row, column| {
                    (row + half).checked_sub(column).and_then(|offset| weights.get(offset)).copied().unwrap_or(0.0)
                })
            };
            let by_matrices = Separable::Matrices([of_axis(6), of_axis(5)]).apply(x.clone());
            assert!(distance(&by_matrices, &Separable::Blur(weights.clone()).apply(x.clone())) < 1e-12);
        }
    }

    #[test]
    fn a_blur_of_one_pixel_is_none_and_a_larger_one_sums_its_neighbours() {
        let x = image();
        assert!(distance(&Separable::gaussian(&x, 1).apply(x.clone()), &x) < 1e-12);
        let weights = [(-4.5f64).exp(), 1.0, (-4.5f64).exp()].map(|weight| weight / (1.0 + 2.0 * (-4.5f64).exp()));
        let values = to_f64(x.clone());
        let blurred = to_f64(Separable::gaussian(&x, 3).apply(x));
        let at = |row: usize, column: usize| values[row * 5 + column];
        let expected: f64 = (0..3)
            .flat_map(|row| (0..3).map(move |column| (row, column)))
            .map(|(row, column)| weights[row] * weights[column] * at(1 + row, 2 + column))
            .sum();
        assert!((blurred[2 * 5 + 3] - expected).abs() < 1e-12);
    }
}
