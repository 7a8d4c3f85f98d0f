//! Linear filters of images that act along rows and along columns: two matrix products.

use burn::tensor::{Tensor, TensorData};

/// A filter as one matrix for each axis, `[1, 1, height, height]` and `[1, 1, width, width]`, both symmetric.
#[derive(Debug, Clone)]
pub struct Separable {
    rows: Tensor<4>,
    columns: Tensor<4>,
}

impl Separable {
    /// Images of the size of `like` are blurred by a Gaussian of `size` pixels over ± 3 deviations, with zeros around them.
    pub fn gaussian(like: &Tensor<4>, size: usize) -> Self {
        let half = size / 2;
        let weight = |place: usize| {
            let x = if size > 1 { 6.0 * place as f64 / (size - 1) as f64 - 3.0 } else { 0.0 };
            (-0.5 * x * x).exp()
        };
        let sum: f64 = (0..size).map(weight).sum();
        Self::new(like, |_, row, column| {
            let offset = (row + half).checked_sub(column).filter(|&offset| offset < size);
            offset.map_or(0.0, |offset| weight(offset) / sum)
        })
    }

    /// Images of the size of `like` keep the lowest frequencies of their discrete cosine transform (type II, orthonormal), the
    /// `share` of those along each axis and at least one.
    pub fn low_pass(like: &Tensor<4>, share: f64) -> Self {
        Self::new(like, |size, row, column| {
            let kept = ((share * size as f64).round() as usize).clamp(1, size);
            let basis = |frequency: usize, place: usize| {
                let angle = std::f64::consts::PI * (place as f64 + 0.5) * frequency as f64 / size as f64;
                angle.cos() * (if frequency == 0 { 1.0 } else { 2.0 } / size as f64).sqrt()
            };
            (0..kept).map(|frequency| basis(frequency, row) * basis(frequency, column)).sum()
        })
    }

    fn new(like: &Tensor<4>, element: impl Fn(usize, usize, usize) -> f64) -> Self {
        let [_, _, height, width] = like.dims();
        let matrix = |size: usize| {
            let values: Vec<f64> = (0..size * size).map(|index| element(size, index / size, index % size)).collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, size, size]), (&like.device(), like.dtype()))
        };
        Self { rows: matrix(height), columns: matrix(width) }
    }

    /// The filtered images, `[batch, channel, height, width]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        self.rows.clone().matmul(x).matmul(self.columns.clone())
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
