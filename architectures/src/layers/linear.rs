//! A linear map over the last axis.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, module};

/// y = x·Wᵀ + b over the last axis.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[output, input]`, as PyTorch stores it.
    pub weight: Param<Tensor<2>>,
    /// `[output]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// With a bias. Weights are drawn by Xavier's uniform rule, biases are zero.
    pub fn new(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self {
            bias: Some(Initializer::Zeros.init([outputs], device)),
            ..Self::without_bias(inputs, outputs, device)
        }
    }

    /// Without a bias.
    pub fn without_bias(inputs: usize, outputs: usize, device: &Device) -> Self {
        let initializer = Initializer::XavierUniform { gain: 1.0 };
        Self {
            weight: initializer.init_with([outputs, inputs], Some(inputs), Some(outputs), device),
            bias: None,
        }
    }

    /// `[…, input]` → `[…, output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        module::linear(x, self.weight.val().transpose(), bias)
    }
}
