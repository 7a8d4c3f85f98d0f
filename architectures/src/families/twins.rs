//! Twins: attention within windows and to a shrunken image in turn (SVT), or to a shrunken image alone (PCPVT), with positions
//! from a depthwise convolution.
//!
//! Chu et al., *Twins: Revisiting the Design of Spatial Attention in Vision Transformers* (arXiv 2104.13840).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::initialised;
use crate::layers::{
    Activation, Conv2d, Dropout, LayerNorm, Linear, Mlp, Padding, Regularisation, StochasticDepth, Then, Windows,
    attention, image_to_tokens, mean_of_tokens, self_attention, tokens_to_image,
};
use crate::taps::Taps;

/// Which Twins.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels in each stage.
    pub embed_dims: [usize; 4],
    /// Attention heads in each stage.
    pub heads: [usize; 4],
    /// Hidden channels of the perceptrons, as a multiple of the stage's.
    pub mlp_ratios: [usize; 4],
    /// Blocks in each stage.
    pub depths: [usize; 4],
    /// Whether every other block attends within windows.
    pub windows: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn pcpvt(depths: [usize; 4]) -> Config {
    Config {
        embed_dims: [64, 128, 320, 512],
        heads: [1, 2, 5, 8],
        mlp_ratios: [8, 8, 4, 4],
        depths,
        windows: false,
        regularisation: Regularisation::NONE,
        input_size: 224,
        num_classes: 1000,
    }
}
const fn svt(width: usize, heads: usize, depths: [usize; 4]) -> Config {
    Config {
        embed_dims: [width, 2 * width, 4 * width, 8 * width],
        heads: [heads, 2 * heads, 4 * heads, 8 * heads],
        mlp_ratios: [4; 4],
        windows: true,
        ..pcpvt(depths)
    }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("twins_pcpvt_base", pcpvt([3, 4, 18, 3])),
    ("twins_pcpvt_large", pcpvt([3, 8, 27, 3])),
    ("twins_pcpvt_small", pcpvt([3, 4, 6, 3])),
    ("twins_svt_base", svt(96, 3, [2, 2, 18, 2])),
    ("twins_svt_large", svt(128, 4, [2, 2, 18, 2])),
    ("twins_svt_small", svt(64, 2, [2, 2, 10, 4])),
];

/// By how much each stage shrinks the image.
const PATCHES: [usize; 4] = [4, 2, 2, 2];
/// By how much the image is shrunken for the keys and values of each stage.
const SHRINKING: [usize; 4] = [8, 4, 2, 1];
const WINDOW: usize = 7;
const EPSILON: f64 = 1e-6;
/// Of the normalisations for which the authors took PyTorch's default.
const USUAL_EPSILON: f64 = 1e-5;

configuration!(Twins, InputRule::Any; regularisation);

impl Config {
    fn components(&self) -> Components {
        Components {
            base_architecture: "Hybrid",
            hierarchical: true,
            stem: "4s4".into(),
            final_pooling: "GAP",
            depthwise_convolution: true,
            ..Components::TRANSFORMER
        }
    }
}

/// A Twins network. See [`Config`].
#[derive(Module, Debug)]
pub struct Twins {
    patch_embeds: Vec<Patches>,
    blocks: Vec<Vec<Block>>,
    pos_block: Vec<Positions>,
    norm: LayerNorm,
    head: Linear,
    #[module(skip)]
    dropout: Dropout,
}

impl Twins {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let dims = config.embed_dims;
        let patches = |stage: usize| {
            let inputs = if stage == 0 { 3 } else { dims[stage - 1] };
            let size = PATCHES[stage];
            let conv = Conv2d::config(inputs, dims[stage], size).stride(size).padding(Padding::Symmetric(0)).bias();
            Patches { proj: conv.build(device), norm: LayerNorm::new(dims[stage], USUAL_EPSILON, device) }
        };
        let blocks = |stage: usize| {
            (0..config.depths[stage]).map(|position| Block::new(config, stage, position, device)).collect()
        };
        let network = Self {
            patch_embeds: (0..4).map(patches).collect(),
            blocks: (0..4).map(blocks).collect(),
            pos_block: dims.map(|channels| Positions::new(channels, device)).into(),
            norm: LayerNorm::new(dims[3], EPSILON, device),
            head: Linear::new(dims[3], num_classes, device),
            dropout: config.regularisation.dropout(),
        };
        initialised(network, |parameter| parameter.linear(0.02))
    }
}

impl Architecture for Twins {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut image = images;
        for (stage, patches) in self.patch_embeds.iter().enumerate() {
            let (tokens, grid) = patches.forward(image);
            let mut tokens = taps.map(|| format!("patch_embeds.{stage}"), tokens);
            for (position, block) in self.blocks[stage].iter().enumerate() {
                tokens = taps.map(|| format!("blocks.{stage}.{position}"), block.forward(tokens, grid));
                if position == 0 {
                    tokens = taps.map(|| format!("pos_block.{stage}"), self.pos_block[stage].forward(tokens, grid));
                }
            }
            // Stages are called so by timm's `feature_info`, though its modules are `blocks`.
            image = taps.map_again(|| format!("block.{stage}"), tokens_to_image(tokens, grid));
        }
        let x = taps.map(|| "norm".into(), self.norm.forward(image_to_tokens(image)));
        let features = taps.map(|| "global_pool".into(), mean_of_tokens(x));
        Outputs { logits: self.head.forward(self.dropout.forward(features.clone())), features }
    }
}

/// Patches of an image, or of the stage before.
#[derive(Module, Debug)]
struct Patches {
    proj: Conv2d,
    norm: LayerNorm,
}

impl Patches {
    /// Tokens, and the rows and columns that they have.
    fn forward(&self, x: Tensor<4>) -> (Tensor<3>, [usize; 2]) {
        let x = self.proj.forward(x);
        let [_, _, height, width] = x.dims();
        (self.norm.forward(image_to_tokens(x)), [height, width])
    }
}

/// A depthwise convolution beside a shortcut, which tells a token where it is.
#[derive(Module, Debug)]
struct Positions {
    /// In the place of timm's Sequential: `proj.0`.
    proj: Vec<Conv2d>,
}

impl Positions {
    fn new(channels: usize, device: &Device) -> Self {
        Self { proj: vec![Conv2d::config(channels, channels, 3).groups(channels).bias().build(device)] }
    }

    fn forward(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        let x = tokens_to_image(x, grid);
        let then = Then::activation(Activation::Identity).residual(x.clone());
        image_to_tokens(self.proj[0].forward_then(x, then))
    }
}

/// Attention, then a perceptron, both residual and normalised at their beginning.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    drop_path: StochasticDepth,
}

#[derive(Module, Debug)]
enum Attention {
    Local(LocalAttention),
    Global(GlobalAttention),
}

impl Block {
    fn new(config: &Config, stage: usize, position: usize, device: &Device) -> Self {
        let channels = config.embed_dims[stage];
        let norm = || LayerNorm::new(channels, EPSILON, device);
        let attn = if config.windows && position.is_multiple_of(2) {
            Attention::Local(LocalAttention::new(config, stage, device))
        } else {
            Attention::Global(GlobalAttention::new(config, stage, device))
        };
        let hidden = channels * config.mlp_ratios[stage];
        Self {
            norm1: norm(),
            attn,
            norm2: norm(),
            mlp: Mlp::new(channels, hidden, Activation::Gelu, device),
            drop_path: config.regularisation.growing(&config.depths, stage, position),
        }
    }

    fn forward(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = self.drop_path.residual(x, |x| match &self.attn {
            Attention::Local(attention) => attention.forward_residual(y, grid, x),
            Attention::Global(attention) => attention.forward_residual(y, grid, x),
        });
        let y = self.norm2.forward(x.clone());
        self.drop_path.residual(x, |x| self.mlp.forward_residual(y, None, x))
    }
}

/// Attention within windows.
#[derive(Module, Debug)]
struct LocalAttention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl LocalAttention {
    fn new(config: &Config, stage: usize, device: &Device) -> Self {
        let channels = config.embed_dims[stage];
        Self {
            qkv: Linear::new(channels, 3 * channels, device),
            proj: Linear::new(channels, channels, device),
            heads: config.heads[stage],
        }
    }

    fn forward_residual(&self, x: Tensor<3>, grid: [usize; 2], shortcut: Tensor<3>) -> Tensor<3> {
        let windows = Windows::new(grid, [WINDOW; 2], [0; 2]);
        let mixed = self_attention(self.qkv.forward(windows.partition(x)), self.heads);
        self.proj.forward_residual(windows.merge(mixed), None, shortcut)
    }
}

/// Attention of all tokens to those of the shrunken image.
#[derive(Module, Debug)]
struct GlobalAttention {
    q: Linear,
    kv: Linear,
    proj: Linear,
    sr: Option<Conv2d>,
    norm: Option<LayerNorm>,
    heads: usize,
}

impl GlobalAttention {
    fn new(config: &Config, stage: usize, device: &Device) -> Self {
        let channels = config.embed_dims[stage];
        let shrinking = SHRINKING[stage];
        let shrink = || {
            let conv = Conv2d::config(channels, channels, shrinking).stride(shrinking).padding(Padding::Symmetric(0));
            conv.bias().build(device)
        };
        Self {
            q: Linear::new(channels, channels, device),
            kv: Linear::new(channels, 2 * channels, device),
            proj: Linear::new(channels, channels, device),
            sr: (shrinking > 1).then(shrink),
            norm: (shrinking > 1).then(|| LayerNorm::new(channels, USUAL_EPSILON, device)),
            heads: config.heads[stage],
        }
    }

    fn forward_residual(&self, x: Tensor<3>, grid: [usize; 2], shortcut: Tensor<3>) -> Tensor<3> {
        let queries = self.q.forward(x.clone());
        let shrunken = match (&self.sr, &self.norm) {
            (Some(conv), Some(norm)) => norm.forward(image_to_tokens(conv.forward(tokens_to_image(x, grid)))),
            _ => x,
        };
        let [_, _, channels] = queries.dims();
        let pair = self.kv.forward(shrunken);
        let [keys, values] = [0, channels].map(|start| pair.clone().narrow(2, start, channels));
        let mixed = attention([queries, keys, values], self.heads);
        self.proj.forward_residual(mixed, None, shortcut)
    }
}
