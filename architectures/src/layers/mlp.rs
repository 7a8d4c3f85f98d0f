//! The two-layer perceptron of Transformers.

use burn::module::{Module, Param};
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
        Self { fc1: Linear::new(channels, hidden, device), fc2: Linear::new(hidden, channels, device), activation }
    }

    /// `[…, channel]`; the shape stays.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.fc2.forward(self.fc1.forward_activated(x, self.activation))
    }

    /// shortcut + scale·forward(x), the scale `[channel]`, if there is one.
    pub fn forward_residual<const D: usize>(
        &self,
        x: Tensor<D>,
        scale: Option<&Param<Tensor<1>>>,
        shortcut: Tensor<D>,
    ) -> Tensor<D> {
        let hidden = self.fc1.forward_activated(x, self.activation);
        self.fc2.forward_residual(hidden, scale, shortcut)
    }

    /// shortcut + the perceptron over the middle axis of `[batch, channel, other]`.
    pub fn forward_across(&self, x: Tensor<3>, shortcut: Tensor<3>) -> Tensor<3> {
        let hidden = self.fc1.forward_across(x, self.activation, None);
        self.fc2.forward_across(hidden, Activation::Identity, Some(shortcut))
    }
}
