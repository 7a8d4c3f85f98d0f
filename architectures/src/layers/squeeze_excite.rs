//! Squeeze-and-excitation (Hu et al. 2018).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Activation, Conv2d, Then, gate, global_average_pool};

/// Scales each channel by a gate in (0, 1) computed from all channels' means.
#[derive(Module, Debug)]
pub struct SqueezeExcite {
    fc1: Conv2d,
    fc2: Conv2d,
}

impl SqueezeExcite {
    /// `channels` → `reduced` → `channels`, ReLU between.
    pub fn new(channels: usize, reduced: usize, device: &Device) -> Self {
        Self {
            fc1: Conv2d::config(channels, reduced, 1).bias().build(device),
            fc2: Conv2d::config(reduced, channels, 1).bias().build(device),
        }
    }

    /// `[batch, channel, height, width]`; the shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        gated(x, &self.fc1, Activation::Relu, &self.fc2)
    }
}

/// x · σ(expand(activation(reduce(mean over the places of x)))).
pub fn gated(x: Tensor<4>, reduce: &Conv2d, activation: Activation, expand: &Conv2d) -> Tensor<4> {
    let [batch, channels, _, _] = x.dims();
    let means = global_average_pool(x.clone()).reshape([batch, channels, 1, 1]);
    let hidden = reduce.forward_then(means, Then::activation(activation));
    let gates = expand.forward_then(hidden, Then::activation(Activation::Sigmoid));
    gate(x, gates.reshape([batch, channels]))
}
