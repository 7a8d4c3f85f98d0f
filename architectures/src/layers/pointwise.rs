//! A linear map of the channels at every place.

use burn::module::{Initializer, Module};
use burn::tensor::{Device, Tensor};

use super::{Conv2d, Linear, Then};

/// A 1×1 convolution over `[batch, channel, height, width]`, whose weights some networks keep as those of a linear map.
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

    /// `[batch, input, height, width]` → `[batch, output, height, width]`, and what follows.
    pub fn forward_then(&self, x: Tensor<4>, then: Then) -> Tensor<4> {
        match self {
            Self::Linear(linear) => linear.forward_channels(x, then),
            Self::Convolution(conv) => conv.forward_then(x, then),
        }
    }
}
