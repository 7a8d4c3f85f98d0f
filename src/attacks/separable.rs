//! Linear filters of images that act along rows and along columns.

use burn::tensor::{Tensor, TensorData};

use super::low_pass::LowPass;
use super::pass::{Map, can_pass, mapped};
use super::sums::{Real, weighted_sums};
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
    /// The same of cosines, in f32 on the CPU.
    LowPass(Box<LowPass>),
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
        if can_pass(like) {
            let there_and_back = |side: usize| {
                let there = matrix(like, [kept(side), side], |row, column| basis(side, row, column));
                [there, matrix(like, [side, kept(side)], |row, column| basis(side, column, row))]
            };
            return Self::LowPass(Box::new(LowPass::new(there_and_back(height), there_and_back(width))));
        }
        Self::Span([
            matrix(like, [kept(height), height], |row, column| basis(height, row, column)),
            matrix(like, [width, kept(width)], |row, column| basis(width, column, row)),
        ])
    }

    /// The filtered images, `[batch, channel, height, width]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [images, channels, _, width] = x.dims();
        match self {
            Self::Blur(weights) => mapped(x, images * channels, &Blurred { weights, width }),
            Self::Matrices([rows, columns]) => rows.clone().matmul(x).matmul(columns.clone()),
            Self::Span([rows, columns]) => {
                let part = rows.clone().matmul(x).matmul(columns.clone());
                rows.clone().transpose().matmul(part).matmul(columns.clone().transpose())
            }
            Self::LowPass(filter) => filter.apply(x),
        }
    }
}

/// `[1, 1, rows, columns]`, where and as `like` is.
fn matrix(like: &Tensor<4>, [rows, columns]: [usize; 2], element: impl Fn(usize, usize) -> f64) -> Tensor<4> {
    let values: Vec<f64> = (0..rows * columns).map(|index| element(index / columns, index % columns)).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, rows, columns]), (&like.device(), like.dtype()))
}

/// A plane blurred along both axes.
struct Blurred<'a> {
    weights: &'a [f64],
    width: usize,
}

impl Map for Blurred<'_> {
    fn apply<T: Real>(&self, _index: usize, plane: &mut [T]) {
        let weights: Vec<T> = self.weights.iter().map(|&weight| T::of(weight)).collect();
        let (width, half) = (self.width, weights.len() / 2);
        // With zeros at all ends, so that every value has all its neighbours.
        let mut padded = vec![T::default(); width + 2 * half];
        let mut along_rows = vec![T::default(); plane.len() + 2 * half * width];
        let rows = plane.chunks_exact(width).zip(along_rows[half * width..].chunks_exact_mut(width));
        for (row, new) in rows {
            padded[half..half + width].copy_from_slice(row);
            weighted_sums(new, &padded, &weights, 1);
        }
        weighted_sums(plane, &along_rows, &weights, width);
    }
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

    /// Single precision on the CPU keeps what all others keep, of sides odd and even, few frequencies and all.
    #[test]
    fn a_low_pass_is_the_same_by_cosines() {
        for (height, width) in [(6, 5), (9, 12), (1, 1), (28, 33)] {
            for share in [0.01, 0.25, 0.5, 1.0] {
                let filtered = [DType::F32, DType::F64].map(|dtype| {
                    let values: Vec<f64> =
                        (0..2 * 3 * height * width).map(|index| (index as f64 * 0.7).sin()).collect();
                    let data = TensorData::new(values, [2, 3, height, width]);
                    let x = Tensor::<4>::from_data(data, (&Device::flex(), dtype));
                    let filter = Separable::low_pass(&x, share);
                    assert_eq!(matches!(filter, Separable::LowPass(_)), dtype == DType::F32);
                    to_f64(filter.apply(x))
                });
                let [single, double] = filtered;
                for (single, double) in single.iter().zip(&double) {
                    assert!((single - double).abs() < 1e-5, "{height} × {width}, {share}: {single} is not {double}");
                }
            }
        }
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
