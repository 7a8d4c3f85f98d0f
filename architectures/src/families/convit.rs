//! ConViT: Vision Transformers whose first blocks attend by position as much as by content.
//!
//! d'Ascoli et al., *ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases* (arXiv 2103.10697).

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Attention, Dropout, GatedPositionalAttention, LayerNorm, Linear, Mlp, PatchEmbed, Regularisation,
    StochasticDepth, prepend_class_token,
};
use crate::taps::Taps;

/// Which ConViT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Attention heads, of 48 channels each.
    pub heads: usize,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn convit(heads: usize) -> Config {
    Config { heads, regularisation: Regularisation::NONE, input_size: 224, num_classes: 1000 }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] =
    &[("convit_base", convit(16)), ("convit_small", convit(9)), ("convit_tiny", convit(4))];

configuration!(ConVit, InputRule::Retrained(PATCH); regularisation);

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
    #[module(skip)]
    dropout: Dropout,
}

impl ConVit {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = HEAD_SIZE * config.heads;
        let patch_embed = PatchEmbed::new([config.input_size; 2], PATCH, channels, device);
        let drawn = |tokens| Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, tokens, channels], device);
        Self {
            cls_token: drawn(1),
            pos_embed: drawn(patch_embed.tokens()),
            patch_embed,
            blocks: (0..DEPTH).map(|index| Block::new(config, index, device)).collect(),
            norm: LayerNorm::new(channels, EPSILON, device),
            head: Linear::new(channels, num_classes, device),
            dropout: config.regularisation.dropout(),
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
        Outputs { logits: self.head.forward(self.dropout.forward(features.clone())), features }
    }
}

/// Attention of either kind, then a perceptron, both residual and normalised at their beginning.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Mixer,
    norm2: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    drop_path: StochasticDepth,
}

#[derive(Module, Debug)]
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
        Self {
            norm1: norm(),
            attn,
            norm2: norm(),
            mlp: Mlp::new(channels, 4 * channels, Activation::Gelu, device),
            drop_path: config.regularisation.growing(&[DEPTH], 0, index),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = self.drop_path.residual(x, |x| match &self.attn {
            Mixer::Gated(attention) => attention.forward_residual(y, x),
            Mixer::Plain(attention) => attention.forward_residual(y, None, x),
        });
        let y = self.norm2.forward(x.clone());
        self.drop_path.residual(x, |x| self.mlp.forward_residual(y, None, x))
    }
}
