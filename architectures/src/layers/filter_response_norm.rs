//! Filter response normalisation.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::{Activation, gate, global_average_pool};

/// Divides each channel by its root mean square over the image, scales and shifts it, and cuts it off below a learnt
/// threshold (Singh & Krishnan 2019, arXiv 1911.09737).
#[derive(Module, Debug)]
pub struct FilterResponseNorm {
    /// Scale, `[channel]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channel]`.
    pub bias: Param<Tensor<1>>,
    /// The threshold, `[channel]`.
    pub tau: Param<Tensor<1>>,
}

impl FilterResponseNorm {
    const EPSILON: f64 = 1e-5;

    /// For so many channels.
    pub fn new(channels: usize, device: &Device) -> Self {
        let zeros = || Initializer::Zeros.init([channels], device);
        Self { weight: Initializer::Ones.init([channels], device), bias: zeros(), tau: zeros() }
    }

    /// `[batch, channel, height, width]`; the shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let power = global_average_pool(x.clone().square());
        let scales = (power + Self::EPSILON).sqrt().recip() * self.weight.val().unsqueeze();
        let per_channel = |values: Tensor<1>| values.reshape([1, -1, 1, 1]);
        let (bias, threshold) = (per_channel(self.bias.val()), per_channel(self.tau.val()));
        // max(y + bias, threshold).
        Activation::Relu.forward(gate(x, scales) + (bias - threshold.clone())) + threshold
    }
}
