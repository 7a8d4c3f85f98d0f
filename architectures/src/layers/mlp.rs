//! The two-layer perceptron of Transformers.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Activation, Linear};

/// Linear, activation, linear over the last axis.
#[derive(Module, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    /// `channels` → `hidden` → `channels`.
    pub fn new(channels: usize, hidden: usize, activation: Activation, device: &Device) -> Self {
        Self {
            fc1: Linear::new(channels, hidden, device),
            fc2: Linear::new(hidden, channels, device),
            activation,
        }
    }

    /// `[…, channel]`; the shape stays.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.fc2
            .forward(self.activation.forward(self.fc1.forward(x)))
    }
}
