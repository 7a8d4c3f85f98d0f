//! Attention of one token to all.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::{Linear, attention};

/// Multi-head attention in which the class token alone asks (Touvron et al. 2021, *Going deeper with Image Transformers*).
#[derive(Module, Debug)]
pub struct ClassAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    proj: Linear,
    heads: usize,
}

impl ClassAttention {
    /// `heads` must divide `channels`.
    pub fn new(channels: usize, heads: usize, device: &Device) -> Self {
        let linear = || Linear::new(channels, channels, device);
        Self { q: linear(), k: linear(), v: linear(), proj: linear(), heads }
    }

    /// The class token first, `[batch, token, channel]`, → what it gets, `[batch, 1, channel]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.proj.forward(self.mix(x))
    }

    /// shortcut + gamma·forward(x), gamma `[channel]`, the shortcut `[batch, 1, channel]`.
    pub fn forward_residual(&self, x: Tensor<3>, gamma: &Param<Tensor<1>>, shortcut: Tensor<3>) -> Tensor<3> {
        self.proj.forward_residual(self.mix(x), Some(gamma), shortcut)
    }

    fn mix(&self, x: Tensor<3>) -> Tensor<3> {
        let query = self.q.forward(x.clone().narrow(1, 0, 1));
        attention([query, self.k.forward(x.clone()), self.v.forward(x)], self.heads)
    }
}
