//! Sums, products and means, in one pass where the device has one.

use burn::tensor::{Int, Tensor, TensorData, activation};
use netkin_kernels::{self as kernels, Activation};

/// act(x + y).
pub fn add<const D: usize>(x: Tensor<D>, y: Tensor<D>, activation: Activation) -> Tensor<D> {
    if kernels::applies(&x) {
        kernels::run(kernels::Add { activation }, vec![x.into_dispatch(), y.into_dispatch()])
    } else {
        activation.forward(x + y)
    }
}

/// x · y, value by value, of one shape.
pub fn multiply<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    if kernels::applies(&x) {
        kernels::run(kernels::Multiply, vec![x.into_dispatch(), y.into_dispatch()])
    } else {
        x * y
    }
}

/// x · scale + shift with one of each, `[channel]`, for every place of an axis.
pub fn scale_and_shift<const D: usize>(
    x: Tensor<D>,
    axis: usize,
    scale: Tensor<1>,
    shift: Option<Tensor<1>>,
) -> Tensor<D> {
    if kernels::applies(&x) {
        let operation = kernels::Affine { axis, trainable: scale.is_tracked() };
        let mut inputs = vec![x.into_dispatch(), scale.into_dispatch()];
        inputs.extend(shift.map(Tensor::into_dispatch));
        return kernels::run(operation, inputs);
    }
    let mut shape = [1; D];
    shape[axis] = x.dims()[axis];
    let y = x * scale.reshape(shape);
    match shift {
        Some(shift) => y + shift.reshape(shape),
        None => y,
    }
}

/// The mean over the tokens: `[batch, token, channel]` → `[batch, channel]`.
pub fn mean_of_tokens(x: Tensor<3>) -> Tensor<2> {
    let [_, tokens, _] = x.dims();
    if kernels::applies(&x) {
        kernels::run(kernels::MeanTokens { tokens }, vec![x.into_dispatch()])
    } else {
        x.mean_dim(1).squeeze_dim(1)
    }
}

/// eˣ / Σ eˣ over the last axis.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if kernels::applies(&x) {
        kernels::run(kernels::Softmax, vec![x.into_dispatch()])
    } else {
        activation::softmax(x, D - 1)
    }
}

/// `[batch, row, column]` → `[batch, column, row]`, in memory too.
pub fn transposed(x: Tensor<3>) -> Tensor<3> {
    if kernels::applies(&x) { kernels::run(kernels::SwapAxes, vec![x.into_dispatch()]) } else { x.swap_dims(1, 2) }
}

/// The places of images, row by row, as tokens: `[batch, channel, height, width]` → `[batch, token, channel]`.
pub fn image_to_tokens(x: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = x.dims();
    transposed(x.reshape([batch, channels, height * width]))
}

/// The way back from [`image_to_tokens`], to images of so many rows and columns.
pub fn tokens_to_image(x: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [batch, _, channels] = x.dims();
    transposed(x).reshape([batch, channels, height, width])
}

/// The class token, `[batch, 1, channel]`, and the others behind it, `[batch, token, channel]`.
pub fn split_class_token(x: Tensor<3>) -> [Tensor<3>; 2] {
    let [_, tokens, _] = x.dims();
    [x.clone().narrow(1, 0, 1), x.narrow(1, 1, tokens - 1)]
}

/// Puts the same class tokens, `[1, count, channel]`, before the tokens of each image.
pub fn prepend_class_token(class: Tensor<3>, tokens: Tensor<3>) -> Tensor<3> {
    let ([_, count, _], [batch, _, channels]) = (class.dims(), tokens.dims());
    Tensor::cat(vec![class.expand([batch, count, channels]), tokens], 1)
}

/// Cross-entropy of logits `[batch, class]` with one label per image, each by itself: `[batch]`.
pub fn cross_entropy(logits: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    if kernels::applies(&logits) {
        let labels = labels.to_vec();
        return kernels::run(kernels::CrossEntropy { labels }, vec![logits.into_dispatch()]);
    }
    let labels: Vec<i64> = labels.iter().map(|&label| label as i64).collect();
    let count = labels.len();
    let device = logits.device().without_autodiff();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [count, 1]), &device);
    activation::log_softmax(logits, 1).gather(1, labels).reshape([count]).neg()
}
