//! Squeeze-and-excitation (Hu et al. 2018).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Activation, BatchNorm2d, Conv2d, Then, gate, global_average_pool};

/// Scales each channel by a gate in (0, 1) computed from all channels' means.
#[derive(Module, Debug)]
pub struct SqueezeExcite {
    fc1: Conv2d,
    bn: Option<BatchNorm2d>,
    fc2: Conv2d,
    #[module(skip)]
    activation: Activation,
}

impl SqueezeExcite {
    /// `channels` → `reduced` → `channels`, ReLU between.
    pub fn new(channels: usize, reduced: usize, device: &Device) -> Self {
        Self::with_activation(channels, reduced, Activation::Relu, device)
    }

    /// The same with another activation between.
    pub fn with_activation(channels: usize, reduced: usize, activation: Activation, device: &Device) -> Self {
        Self {
            fc1: Conv2d::config(channels, reduced, 1).bias().build(device),
            bn: None,
            fc2: Conv2d::config(reduced, channels, 1).bias().build(device),
            activation,
        }
    }

    /// The same with a normalisation before the activation.
    pub fn with_norm(mut self, device: &Device) -> Self {
        self.bn = Some(BatchNorm2d::new(self.fc1.outputs(), device));
        self
    }

    /// `[batch, channel, height, width]`; the shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        gate(x.clone(), self.gates(x))
    }

    /// The gates of `[batch, channel, height, width]`: `[batch, channel]`.
    pub fn gates(&self, x: Tensor<4>) -> Tensor<2> {
        let then = match &self.bn {
            Some(norm) => Then::norm(norm, self.activation),
            None => Then::activation(self.activation),
        };
        gates(x, &self.fc1, then, &self.fc2, Activation::Sigmoid)
    }
}

/// Effective squeeze-and-excitation (Lee & Park 2020): one full map of the channels' means, and hard gates.
#[derive(Module, Debug)]
pub struct EffectiveSqueezeExcite {
    fc: Conv2d,
}

impl EffectiveSqueezeExcite {
    /// For so many channels.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { fc: Conv2d::config(channels, channels, 1).bias().build(device) }
    }

    /// `[batch, channel, height, width]`; the shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, _, _] = x.dims();
        let means = global_average_pool(x.clone()).reshape([batch, channels, 1, 1]);
        let gates = self.fc.forward_then(means, Then::activation(Activation::HardSigmoid));
        gate(x, gates.reshape([batch, channels]))
    }
}

/// x · gates, which an activation makes of expand(activation(reduce(mean over the places of x))).
pub fn gated(x: Tensor<4>, reduce: &Conv2d, activation: Activation, expand: &Conv2d, last: Activation) -> Tensor<4> {
    gate(x.clone(), gates(x, reduce, Then::activation(activation), expand, last))
}

/// The gates, with all that is between.
fn gates(x: Tensor<4>, reduce: &Conv2d, then: Then, expand: &Conv2d, last: Activation) -> Tensor<2> {
    let [batch, channels, _, _] = x.dims();
    let means = global_average_pool(x).reshape([batch, channels, 1, 1]);
    let hidden = reduce.forward_then(means, then);
    let gates = expand.forward_then(hidden, Then::activation(last));
    gates.reshape([batch, channels])
}
