//! Attention whose heads hear each other.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::attention::weighted;
use super::{Activation, Linear, Then, softmax};

/// Multi-head self-attention whose heads are mixed linearly, once before the softmax and once behind it (Shazeer et al. 2020,
/// *Talking-Heads Attention*).
#[derive(Module, Debug)]
pub struct TalkingHeadsAttention {
    qkv: Linear,
    proj: Linear,
    /// Before the softmax.
    proj_l: Linear,
    /// Behind it.
    proj_w: Linear,
    heads: usize,
}

impl TalkingHeadsAttention {
    /// `heads` must divide `channels`.
    pub fn new(channels: usize, heads: usize, device: &Device) -> Self {
        Self {
            qkv: Linear::new(channels, 3 * channels, device),
            proj: Linear::new(channels, channels, device),
            proj_l: Linear::new(heads, heads, device),
            proj_w: Linear::new(heads, heads, device),
            heads,
        }
    }

    /// shortcut + gamma·attention(x) over `[batch, token, channel]`, gamma `[channel]`.
    pub fn forward_residual(&self, x: Tensor<3>, gamma: &Param<Tensor<1>>, shortcut: Tensor<3>) -> Tensor<3> {
        let [_, _, channels] = x.dims();
        let qkv = self.qkv.forward(x);
        let parts = [0, 1, 2].map(|index| qkv.clone().narrow(2, index * channels, channels));
        // The heads' axis is where images have channels.
        let mix = |heads: &Linear, x| heads.forward_channels(x, Then::activation(Activation::Identity));
        let mixed = weighted(parts, self.heads, |scores| mix(&self.proj_w, softmax(mix(&self.proj_l, scores))));
        self.proj.forward_residual(mixed, Some(gamma), shortcut)
    }
}
