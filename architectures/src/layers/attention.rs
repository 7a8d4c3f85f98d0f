//! Multi-head self-attention.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};

use super::{Linear, macs};

/// Multi-head self-attention over `[batch, token, channel]` (Vaswani et al. 2017) with one map for queries, keys and values.
#[derive(Module, Debug)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    /// `heads` must divide `channels`.
    pub fn new(channels: usize, heads: usize, device: &Device) -> Self {
        Self { qkv: Linear::new(channels, 3 * channels, device), proj: Linear::new(channels, channels, device), heads }
    }

    /// shortcut + gamma·attention(x) over `[batch, token, channel]`, gamma `[channel]`, if there is one.
    pub fn forward_residual(&self, x: Tensor<3>, gamma: Option<&Param<Tensor<1>>>, shortcut: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, channels] = x.dims();
        let size = channels / self.heads;
        macs::count(2 * batch * tokens * tokens * channels);
        let scale = (size as f64).powf(-0.5);
        let qkv = self.qkv.forward(x);
        if netkin_kernels::applies(&qkv) {
            let heads = self.heads;
            let operation = netkin_kernels::Attention { heads, scale };
            let mixed = netkin_kernels::run(operation, vec![qkv.into_dispatch()]);
            return self.proj.forward_residual(mixed, gamma, shortcut);
        }
        let qkv = qkv.reshape([batch, tokens, 3, self.heads, size]).permute([2, 0, 3, 1, 4]);
        let part = |index| qkv.clone().narrow(0, index, 1).reshape([batch, self.heads, tokens, size]);
        let scores = part(0).mul_scalar(scale).matmul(part(1).transpose());
        let mixed = activation::softmax(scores, 3).matmul(part(2));
        let mixed = mixed.swap_dims(1, 2).reshape([batch, tokens, channels]);
        self.proj.forward_residual(mixed, gamma, shortcut)
    }
}
