//! EvoNorm.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::norm::group_moments;
use super::{Activation, scale_and_shift};

/// Normalisation and nonlinearity in one, found by search: x·σ(v·x), divided by the standard deviation of x within groups of
/// channels, scaled and shifted (EvoNorm-S0, Liu et al. 2020, arXiv 2004.02967).
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
        let (groups, epsilon) = (self.groups, self.epsilon);
        let [weight, bias, v] = [&self.weight, &self.bias, &self.v].map(Param::val);
        if netkin_kernels::applies(&x) {
            let inputs = vec![x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), v.into_dispatch()];
            return netkin_kernels::run(netkin_kernels::EvoNorm { groups, epsilon }, inputs);
        }
        let shape = x.dims();
        let (centred, variance) = group_moments(x.clone(), groups);
        let gates = Activation::Sigmoid.forward(scale_and_shift(x.clone(), 1, v, None));
        let y = (x * gates).reshape(centred.dims()) / (variance + epsilon).sqrt();
        scale_and_shift(y.reshape(shape), 1, weight, Some(bias))
    }
}
