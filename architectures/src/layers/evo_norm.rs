//! EvoNorm.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::norm::group_moments;
use super::{Activation, multiply, scale_and_shift};

/// Normalisation and nonlinearity in one, found by search: x·σ(v·x) by the deviation of x within groups of channels
/// (EvoNorm-S0, Liu et al. 2020, arXiv 2004.02967).
#[derive(Module, Debug)]
pub struct EvoNorm {
    /// Scale, `[channel]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channel]`.
    pub bias: Param<Tensor<1>>,
    /// How sharp the nonlinearity turns, `[channel]`.
    pub v: Param<Tensor<1>>,
    groups: usize,
    epsilon: f64,
}

impl EvoNorm {
    /// `groups` must divide `channels`.
    pub fn new(groups: usize, channels: usize, epsilon: f64, device: &Device) -> Self {
        let ones = || Initializer::Ones.init([channels], device);
        Self { weight: ones(), bias: Initializer::Zeros.init([channels], device), v: ones(), groups, epsilon }
    }

    /// `[batch, channel, height, width]`; the shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shape = x.dims();
        let (centred, variance) = group_moments(x.clone(), self.groups);
        let gates = Activation::Sigmoid.forward(scale_and_shift(x.clone(), 1, self.v.val(), None));
        let groups = multiply(x, gates).reshape(centred.dims());
        let y = (groups / (variance + self.epsilon).sqrt()).reshape(shape);
        scale_and_shift(y, 1, self.weight.val(), Some(self.bias.val()))
    }
}
