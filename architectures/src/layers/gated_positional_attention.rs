//! Attention by content and by position.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};

use super::attention::{join_heads, split_heads};
use super::{Activation, Linear, add, macs, scale_and_shift, self_attention, softmax};

/// Multi-head self-attention over the places of a square image, whose weights are those of content and those of relative
/// position, mixed by a learnt gate for each head (d'Ascoli et al. 2021, ConViT, equation 8).
#[derive(Module, Debug)]
pub struct GatedPositionalAttention {
    qk: Linear,
    v: Linear,
    proj: Linear,
    /// From (column, row, squared distance) to a score for each head.
    pos_proj: Linear,
    /// `[head]`.
    gating_param: Param<Tensor<1>>,
    heads: usize,
}

impl GatedPositionalAttention {
    /// `heads` must divide `channels`.
    pub fn new(channels: usize, heads: usize, device: &Device) -> Self {
        Self {
            qk: Linear::without_bias(channels, 2 * channels, device),
            v: Linear::without_bias(channels, channels, device),
            proj: Linear::new(channels, channels, device),
            pos_proj: Linear::new(3, heads, device),
            gating_param: Initializer::Ones.init([heads], device),
            heads,
        }
    }

    /// shortcut + attention(x) over `[batch, token, channel]`.
    ///
    /// The mixture of the weights is that of what they give. Both kinds add up to one and so does the mixture, whose
    /// normalisation, in the paper and in timm, changes its rounding only.
    pub fn forward_residual(&self, x: Tensor<3>, shortcut: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, channels] = x.dims();
        let gates = activation::sigmoid(self.gating_param.val()).reshape([self.heads, 1]);
        let values = self.v.forward(x.clone());
        let by_content = self_attention(Tensor::cat(vec![self.qk.forward(x), values.clone()], 2), self.heads);
        let shares = gates.clone().neg().add_scalar(1.0).repeat_dim(1, channels / self.heads).reshape([channels]);
        let by_content = scale_and_shift(by_content, 2, shares, None);
        macs::count(batch * tokens * tokens * channels);
        let weights = softmax(self.positions(tokens, &values)) * gates.reshape([1, self.heads, 1, 1]);
        let by_position = join_heads(weights.matmul(split_heads(values, self.heads)));
        self.proj.forward_residual(add(by_content, by_position, Activation::Identity), None, shortcut)
    }

    /// The scores of relative positions, `[1, head, token, token]`.
    fn positions(&self, tokens: usize, like: &Tensor<3>) -> Tensor<4> {
        let side = tokens.isqrt();
        let offset = |to: usize, from: usize| to as f64 - from as f64;
        let pairs = || (0..tokens).flat_map(|from| (0..tokens).map(move |to| (from, to)));
        let across = pairs().map(|(from, to)| offset(to % side, from % side));
        let down = pairs().map(|(from, to)| offset(to / side, from / side));
        let squares = across.clone().zip(down.clone()).map(|(across, down)| across * across + down * down);
        let offsets: Vec<f64> = across.chain(down).chain(squares).collect();
        let data = TensorData::new(offsets, [1, 3, tokens * tokens]);
        let offsets = Tensor::from_data(data, (&like.device().without_autodiff(), like.dtype()));
        let scores = self.pos_proj.forward_across(offsets, Activation::Identity, None);
        scores.reshape([1, self.heads, tokens, tokens])
    }
}
