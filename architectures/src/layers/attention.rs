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

    /// The same without biases in the map for queries, keys and values.
    pub fn without_bias(channels: usize, heads: usize, device: &Device) -> Self {
        Self { qkv: Linear::without_bias(channels, 3 * channels, device), ..Self::new(channels, heads, device) }
    }

    /// shortcut + gamma·attention(x) over `[batch, token, channel]`, gamma `[channel]`, if there is one.
    pub fn forward_residual(&self, x: Tensor<3>, gamma: Option<&Param<Tensor<1>>>, shortcut: Tensor<3>) -> Tensor<3> {
        let mixed = attend(self.qkv.forward(x), self.heads, None);
        self.proj.forward_residual(mixed, gamma, shortcut)
    }
}

/// softmax(q·kᵀ/√size + bias)·v for every head: `[batch, token, 3 · channel]`, whose last axis is `[3, head, size]`, to
/// `[batch, token, channel]`.
///
/// The bias, if there is one, is `[group, head, token, token]`; element i of the batch belongs to group i modulo the number of
/// groups (the windows of an image, say).
pub fn attend(qkv: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
    let [batch, tokens, channels] = qkv.dims();
    let channels = channels / 3;
    let size = channels / heads;
    let scale = (size as f64).powf(-0.5);
    macs::count(2 * batch * tokens * tokens * channels);
    if netkin_kernels::applies(&qkv) {
        let operation = netkin_kernels::Attention { heads, scale };
        let mut inputs = vec![qkv.into_dispatch()];
        inputs.extend(bias.map(Tensor::into_dispatch));
        return netkin_kernels::run(operation, inputs);
    }
    let qkv = qkv.reshape([batch, tokens, 3, heads, size]).permute([2, 0, 3, 1, 4]);
    let part = |index| qkv.clone().narrow(0, index, 1).reshape([batch, heads, tokens, size]);
    let (queries, keys, values) = (part(0), part(1), part(2));
    let mut scores = queries.mul_scalar(scale).matmul(keys.swap_dims(2, 3));
    if let Some(bias) = bias {
        let [groups, ..] = bias.dims();
        let grouped = scores.reshape([batch / groups, groups * heads, tokens, tokens]);
        let bias = bias.reshape([1, groups * heads, tokens, tokens]);
        scores = (grouped + bias).reshape([batch, heads, tokens, tokens]);
    }
    let mixed = softmax(scores).matmul(values);
    mixed.swap_dims(1, 2).reshape([batch, tokens, channels])
}

/// softmax(q·kᵀ/√size)·v for every head, from queries `[batch, query, channel]` and keys and values
/// `[batch, token, 2 · channel]`, whose last axis is `[2, head, size]`, to `[batch, query, channel]`.
pub fn attend_to(queries: Tensor<3>, keys_and_values: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, count, channels] = queries.dims();
    let [_, tokens, _] = keys_and_values.dims();
    let size = channels / heads;
    macs::count(2 * batch * count * tokens * channels);
    let queries = queries.mul_scalar((size as f64).powf(-0.5)).reshape([batch, count, heads, size]).swap_dims(1, 2);
    let pair = keys_and_values.reshape([batch, tokens, 2, heads, size]).permute([2, 0, 3, 1, 4]);
    let part = |index| pair.clone().narrow(0, index, 1).reshape([batch, heads, tokens, size]);
    let scores = softmax(queries.matmul(part(0).swap_dims(2, 3)));
    scores.matmul(part(1)).swap_dims(1, 2).reshape([batch, count, channels])
}

/// Over the last axis.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if netkin_kernels::applies(&x) {
        return netkin_kernels::run(netkin_kernels::Softmax, vec![x.into_dispatch()]);
    }
    activation::softmax(x, D - 1)
}
