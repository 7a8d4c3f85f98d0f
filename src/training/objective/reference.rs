//! What networks that do not learn make of the batch that the student sees.

use burn::tensor::{Tensor, TensorData};
use netkin_architectures::Outputs;

use crate::images::{Filter, resize_f32};
use crate::model::Model;

/// The outputs of a frozen network for pixels `[batch, 3, height, width]` in [0, 1], resized to its own size where that is another one
/// (bicubic and antialiased, as Pillow does it, but neither rounded nor cut off). Constants: nothing is tracked.
pub(super) fn outputs(model: &Model, pixels: &Tensor<4>) -> Outputs {
    let pixels = pixels.clone().inner().cast(model.dtype());
    model.forward(resized(pixels, model.input_size()))
}

/// Images `[batch, channel, height, width]` of another height and width: a product with a matrix for each axis.
fn resized(pixels: Tensor<4>, to: [usize; 2]) -> Tensor<4> {
    let [_, _, height, width] = pixels.dims();
    let mut resized = pixels;
    if to[0] != height {
        let rows = matrix(height, to[0], &resized);
        resized = rows.matmul(resized);
    }
    if to[1] != width {
        let columns = matrix(width, to[1], &resized);
        resized = resized.matmul(columns.transpose());
    }
    resized
}

/// `[1, 1, to, from]`, whose product with `from` values gives `to`, where `like` is.
fn matrix(from: usize, to: usize, like: &Tensor<4>) -> Tensor<4> {
    // Column c of the identity is an image of pixel c alone, so what becomes of it is that pixel's share of each output.
    let identity: Vec<f32> = (0..from * from).map(|place| if place % (from + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let shares = resize_f32(&identity, (from, from), (to, from), Filter::Bicubic);
    Tensor::from_data(TensorData::new(shares, [1, 1, to, from]), (&like.device(), like.dtype()))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::model::to_f32;
    use crate::random::Random;

    #[test]
    fn images_are_resized_as_pillow_does_it() {
        let mut random = Random::of(&[7]);
        let (height, width) = (28, 20);
        let values: Vec<f32> = (0..2 * 3 * height * width).map(|_| random.unit() as f32).collect();
        let data = TensorData::new(values.clone(), [2, 3, height, width]);
        let pixels = Tensor::<4>::from_data(data, (&Device::flex(), DType::F32));
        for to in [[28, 20], [35, 20], [14, 9], [40, 33], [28, 7]] {
            let ours = resized(pixels.clone(), to);
            assert_eq!(ours.dims(), [2, 3, to[0], to[1]]);
            let theirs = resize_f32(&values, (height, width), (to[0], to[1]), Filter::Bicubic);
            for (ours, theirs) in to_f32(ours).into_iter().zip(theirs) {
                assert!((ours - theirs).abs() < 1e-5, "{to:?}: {ours} beside {theirs}");
            }
        }
    }
}
