//! ConViT: Vision Transformers whose first blocks attend by position as much as by content.
//!
//! d'Ascoli et al., *ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases* (arXiv 2103.10697).

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Attention, LayerNorm, Linear, Mlp, PatchEmbed, mixed_attention, prepend_class_token, softmax,
};
use crate::taps::Taps;

/// Which ConViT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Attention heads, of 48 channels each.
    pub heads: usize,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn convit(heads: usize) -> Config {
    Config { heads, input_size: 224, num_classes: 1000 }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] =
    &[("convit_base", convit(16)), ("convit_small", convit(9)), ("convit_tiny", convit(4))];

configuration!(ConVit, InputRule::Fixed);

const HEAD_SIZE: usize = 48;
const PATCH: usize = 16;
const DEPTH: usize = 12;
/// Blocks before the class token joins, which attend by position, too.
const LOCAL: usize = 10;
const EPSILON: f64 = 1e-6;

impl Config {
    fn components(&self) -> Components {
        Components::TRANSFORMER
    }
}

/// A Vision Transformer with gated positional attention. See [`Config`].
#[derive(Module, Debug)]
pub struct ConVit {
    patch_embed: PatchEmbed,
    cls_token: Param<Tensor<3>>,
    pos_embed: Param<Tensor<3>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl ConVit {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = HEAD_SIZE * config.heads;
        let patch_embed = PatchEmbed::new(config.input_size, PATCH, channels, device);
        let drawn = |tokens| Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, tokens, channels], device);
        Self {
            cls_token: drawn(1),
            pos_embed: drawn(patch_embed.tokens()),
            patch_embed,
            blocks: (0..DEPTH).map(|index| Block::new(config, index, device)).collect(),
            norm: LayerNorm::new(channels, EPSILON, device),
            head: Linear::new(channels, num_classes, device),
        }
    }
}

impl Architecture for ConVit {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = taps.map(|| "patch_embed".into(), self.patch_embed.forward(images));
        let mut x = x + self.pos_embed.val();
        for (index, block) in self.blocks.iter().enumerate() {
            if index == LOCAL {
                x = prepend_class_token(self.cls_token.val(), x);
            }
            x = taps.map(|| format!("blocks.{index}"), block.forward(x));
        }
        let x = taps.map(|| "norm".into(), self.norm.forward(x));
        let features = x.narrow(1, 0, 1).squeeze_dim(1);
        Outputs { logits: self.head.forward(features.clone()), features }
    }
}

/// Attention of either kind, then a perceptron, both residual and normalised at their beginning.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Mixer,
    norm2: LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
enum Mixer {
    Gated(GatedPositionalAttention),
    Plain(Attention),
}

impl Block {
    fn new(config: &Config, index: usize, device: &Device) -> Self {
        let channels = HEAD_SIZE * config.heads;
        let norm = || LayerNorm::new(channels, EPSILON, device);
        let attn = if index < LOCAL {
            Mixer::Gated(GatedPositionalAttention::new(channels, config.heads, device))
        } else {
            Mixer::Plain(Attention::without_bias(channels, config.heads, device))
        };
        Self { norm1: norm(), attn, norm2: norm(), mlp: Mlp::new(channels, 4 * channels, Activation::Gelu, device) }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = match &self.attn {
            Mixer::Gated(attention) => attention.forward_residual(y, x),
            Mixer::Plain(attention) => attention.forward_residual(y, None, x),
        };
        self.mlp.forward_residual(self.norm2.forward(x.clone()), None, x)
    }
}

/// Attention whose weights are those of content and those of relative position, mixed by a learnt gate for each head
/// (equation 8 of the paper).
#[derive(Module, Debug)]
struct GatedPositionalAttention {
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
    fn new(channels: usize, heads: usize, device: &Device) -> Self {
        Self {
            qk: Linear::without_bias(channels, 2 * channels, device),
            v: Linear::without_bias(channels, channels, device),
            proj: Linear::new(channels, channels, device),
            pos_proj: Linear::new(3, heads, device),
            gating_param: Initializer::Ones.init([heads], device),
            heads,
        }
    }

    fn forward_residual(&self, x: Tensor<3>, shortcut: Tensor<3>) -> Tensor<3> {
        let [_, tokens, channels] = x.dims();
        let gates = activation::sigmoid(self.gating_param.val()).reshape([1, self.heads, 1, 1]);
        let by_position = softmax(self.positions(tokens, &x)) * gates.clone();
        let by_content = 1.0 - gates;
        let pair = self.qk.forward(x.clone());
        let [queries, keys] = [0, channels].map(|start| pair.clone().narrow(2, start, channels));
        // Both parts are weights that add up to one, and so is their mixture but for rounding.
        let mix = |weights: Tensor<4>| {
            let mixed: Tensor<4> = weights * by_content + by_position;
            mixed.clone() / mixed.sum_dim(3)
        };
        let mixed = mixed_attention([queries, keys, self.v.forward(x)], self.heads, mix);
        self.proj.forward_residual(mixed, None, shortcut)
    }

    /// The scores of relative positions, `[1, head, token, token]`.
    fn positions(&self, tokens: usize, like: &Tensor<3>) -> Tensor<4> {
        let side = tokens.isqrt() as i64;
        let pairs = (0..tokens as i64).flat_map(|a| (0..tokens as i64).map(move |b| (a, b)));
        let offsets = pairs.flat_map(|(a, b)| {
            let (across, down) = (b % side - a % side, b / side - a / side);
            [across as f32, down as f32, (across * across + down * down) as f32]
        });
        let device = like.device().without_autodiff();
        let data = TensorData::new(offsets.collect::<Vec<_>>(), [tokens * tokens, 3]);
        let scores = self.pos_proj.forward(Tensor::<2>::from_data(data, (&device, like.dtype())));
        scores.swap_dims(0, 1).reshape([1, self.heads, tokens, tokens])
    }
}
