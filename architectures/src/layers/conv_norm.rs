//! A convolution with its normalisation.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, Then};

/// Convolution, batch normalisation, activation, under the keys `conv` and `bn` (timm's `ConvNormAct`).
#[derive(Module, Debug)]
pub struct ConvNorm {
    conv: Conv2d,
    bn: BatchNorm2d,
    #[module(skip)]
    activation: Activation,
}

impl ConvNorm {
    /// With an epsilon of 1e-5.
    pub fn new(conv: Conv2dConfig, activation: Activation, device: &Device) -> Self {
        Self::with_epsilon(conv, 1e-5, activation, device)
    }

    /// With another epsilon.
    pub fn with_epsilon(conv: Conv2dConfig, epsilon: f64, activation: Activation, device: &Device) -> Self {
        Self { bn: BatchNorm2d::with_epsilon(conv.outputs(), epsilon, device), conv: conv.build(device), activation }
    }

    /// `[batch, input, height, width]` → `[batch, output, height', width']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward_then(x, Then::norm(&self.bn, self.activation))
    }

    /// activation(norm(conv(x)) + shortcut), the shortcut, if there is one: the end of a residual branch, whose activation
    /// comes behind the sum.
    pub fn forward_residual(
        &self,
        x: Tensor<4>,
        shortcut: impl Into<Option<Tensor<4>>>,
        activation: Activation,
    ) -> Tensor<4> {
        self.conv.forward_then(x, Then::norm(&self.bn, activation).residual(shortcut))
    }
}
