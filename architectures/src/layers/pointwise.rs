//! A linear map of the channels at every place.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, module};

use super::{Conv2d, Linear};

/// y = x·Wᵀ + b over the last axis of `[batch, height, width, channel]`, whose weights some networks keep as those of a
/// 1×1 convolution.
#[derive(Module, Debug)]
pub enum Pointwise {
    /// Weights `[output, input]`.
    Linear(Linear),
    /// Weights `[output, input, 1, 1]`.
    Convolution(Conv2d),
}

impl Pointwise {
    /// With a bias, drawn as [`Linear`]'s.
    pub fn new(inputs: usize, outputs: usize, convolution: bool, device: &Device) -> Self {
        if !convolution {
            return Self::Linear(Linear::new(inputs, outputs, device));
        }
        let mut conv = Conv2d::config(inputs, outputs, 1).bias().build(device);
        conv.weight = Initializer::XavierUniform { gain: 1.0 }.init_with(
            [outputs, inputs, 1, 1],
            Some(inputs),
            Some(outputs),
            device,
        );
        Self::Convolution(conv)
    }

    /// `[batch, height, width, input]` → `[batch, height, width, output]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Linear(linear) => linear.forward(x),
            Self::Convolution(conv) => {
                let weight = conv.weight.val();
                let [outputs, inputs, ..] = weight.dims();
                let weight = weight.reshape([outputs, inputs]).transpose();
                module::linear(x, weight, conv.bias.as_ref().map(Param::val))
            }
        }
    }
}
