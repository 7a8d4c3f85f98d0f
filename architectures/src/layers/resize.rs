//! Images of another size within a network.

use burn::tensor::{Tensor, TensorData};

use crate::interpolation::Interpolation;

/// Brings two axes to other lengths, by a product with a matrix for each: rows and columns are axes 2 and 3 of
/// `[batch, channel, height, width]`, 1 and 2 of `[batch, height, width, channel]`.
pub fn resize(x: Tensor<4>, axes: [usize; 2], lengths: [usize; 2], interpolation: Interpolation) -> Tensor<4> {
    std::iter::zip(axes, lengths).fold(x, |x, (axis, length)| along(x, axis, length, interpolation))
}

fn along(x: Tensor<4>, axis: usize, length: usize, interpolation: Interpolation) -> Tensor<4> {
    let mut shape = x.dims();
    let before = shape[axis];
    if length == before {
        return x;
    }
    let data = TensorData::new(interpolation.matrix(before, length), [length, before]);
    let matrix = Tensor::<2>::from_data(data, (&x.device().without_autodiff(), x.dtype()));
    let outer = shape[..axis].iter().product::<usize>();
    let inner = shape[axis + 1..].iter().product();
    shape[axis] = length;
    if inner == 1 {
        x.reshape([outer, before]).matmul(matrix.transpose()).reshape(shape)
    } else {
        matrix.unsqueeze::<3>().matmul(x.reshape([outer, before, inner])).reshape(shape)
    }
}
