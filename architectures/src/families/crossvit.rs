//! CrossViT: two Vision Transformers side by side, one with small patches and one with large ones of a smaller image, whose
//! class tokens visit each other's patches.
//!
//! Chen et al., *CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification* (arXiv 2103.14899).

use std::array::from_fn;

use burn::module::{Initializer, Module, Param};
use burn::nn::{Gelu, Relu};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Conv2d, Interpolation, LayerNorm, Linear, Padding, PatchEmbed, Then, TransformerBlock, attention,
    image_to_tokens, prepend_class_token, resize, split_class_token,
};
use crate::taps::Taps;

/// Which CrossViT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of a token in each branch.
    pub embed_dims: [usize; 2],
    /// Blocks of the second branch between two exchanges, of which there are [`EXCHANGES`]; the first has one.
    pub depth: usize,
    /// Attention heads, which divide the channels of both branches.
    pub heads: usize,
    /// Hidden channels of a block's perceptron, as a multiple of the token's.
    pub mlp_ratio: usize,
    /// Whether patches become tokens by several convolutions (†).
    pub dagger: bool,
    /// Of so many pixels of the image, both ways, the second branch sees how many.
    pub reduction: (usize, usize),
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// How often the class tokens are exchanged.
pub const EXCHANGES: usize = 3;
/// Pixels of a patch in each branch, both ways.
const PATCH_SIZES: [usize; 2] = [12, 16];
const EPSILON: f64 = 1e-6;

const TINY: Config = Config {
    embed_dims: [96, 192],
    depth: 4,
    heads: 3,
    mlp_ratio: 4,
    dagger: false,
    reduction: (15, 14),
    input_size: 240,
    num_classes: 1000,
};
const SMALL: Config = Config { embed_dims: [192, 384], heads: 6, ..TINY };
const BASE: Config = Config { embed_dims: [384, 768], heads: 12, ..TINY };
const DEPTH_9: Config = Config { embed_dims: [128, 256], depth: 3, heads: 4, mlp_ratio: 3, ..TINY };
const DEPTH_15: Config = Config { embed_dims: [192, 384], depth: 5, heads: 6, mlp_ratio: 3, ..TINY };
const DEPTH_18: Config = Config { embed_dims: [224, 448], depth: 6, heads: 7, mlp_ratio: 3, ..TINY };

const fn dagger(config: Config) -> Config {
    Config { dagger: true, ..config }
}
const fn dagger_408(config: Config) -> Config {
    Config { input_size: 408, reduction: (17, 16), ..dagger(config) }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("crossvit_15_240", DEPTH_15),
    ("crossvit_15_dagger_240", dagger(DEPTH_15)),
    ("crossvit_15_dagger_408", dagger_408(DEPTH_15)),
    ("crossvit_18_240", DEPTH_18),
    ("crossvit_18_dagger_240", dagger(DEPTH_18)),
    ("crossvit_18_dagger_408", dagger_408(DEPTH_18)),
    ("crossvit_9_240", DEPTH_9),
    ("crossvit_9_dagger_240", dagger(DEPTH_9)),
    ("crossvit_base_240", BASE),
    ("crossvit_small_240", SMALL),
    ("crossvit_tiny_240", TINY),
];

// Each branch resizes the images to its own size.
configuration!(CrossVit, InputRule::Any, convert);

/// The authors' files number the branches' tokens and positions by a point.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    checkpoint.rename(|name| {
        let of_branch = name.contains("pos_embed") || name.contains("cls_token");
        if of_branch { name.replace('.', "_") } else { name.to_owned() }
    });
}

impl Config {
    /// Pixels that each branch sees, both ways.
    fn image_sizes(&self) -> [usize; 2] {
        let (of, seen) = self.reduction;
        [self.input_size, self.input_size * seen / of]
    }

    fn components(&self) -> Components {
        Components {
            hierarchical: true,
            stem: if self.dagger { "7s4/3s2/3s2".into() } else { Components::TRANSFORMER.stem },
            ..Components::TRANSFORMER
        }
    }
}

/// A CrossViT. See [`Config`].
#[derive(Module, Debug)]
pub struct CrossVit {
    pos_embed_0: Param<Tensor<3>>,
    cls_token_0: Param<Tensor<3>>,
    pos_embed_1: Param<Tensor<3>>,
    cls_token_1: Param<Tensor<3>>,
    patch_embed: [Patches; 2],
    blocks: Vec<ExchangeBlock>,
    norm: [LayerNorm; 2],
    head: [Linear; 2],
    /// Pixels that each branch sees, both ways; the first sees an image of the network's size as it is.
    image_sizes: [usize; 2],
}

impl CrossVit {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = config.embed_dims;
        let image_sizes = config.image_sizes();
        let drawn = |branch: usize, tokens: usize| {
            Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, tokens, channels[branch]], device)
        };
        let tokens = |branch: usize| 1 + (image_sizes[branch] / PATCH_SIZES[branch]).pow(2);
        Self {
            pos_embed_0: drawn(0, tokens(0)),
            cls_token_0: drawn(0, 1),
            pos_embed_1: drawn(1, tokens(1)),
            cls_token_1: drawn(1, 1),
            patch_embed: from_fn(|branch| Patches::new(config, branch, device)),
            blocks: (0..EXCHANGES).map(|_| ExchangeBlock::new(config, device)).collect(),
            norm: channels.map(|channels| LayerNorm::new(channels, EPSILON, device)),
            head: channels.map(|channels| Linear::new(channels, num_classes, device)),
            image_sizes,
        }
    }
}

impl Architecture for CrossVit {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let class = [&self.cls_token_0, &self.cls_token_1];
        let positions = [&self.pos_embed_0, &self.pos_embed_1];
        let mut branches = from_fn(|branch| {
            let image = resize(images.clone(), [2, 3], [self.image_sizes[branch]; 2], Interpolation::Bicubic);
            let name = || format!("patch_embed.{branch}");
            let patches = taps.map(name, self.patch_embed[branch].forward(image));
            prepend_class_token(class[branch].val(), patches) + positions[branch].val()
        });
        for (index, block) in self.blocks.iter().enumerate() {
            branches = block.forward(branches, &format!("blocks.{index}"), taps);
        }
        let class: [Tensor<2>; 2] =
            from_fn(|branch| self.norm[branch].forward(branches[branch].clone().narrow(1, 0, 1)).squeeze_dim(1));
        let [width, rest] = [0, 1].map(|branch| class[branch].dims()[1]);
        let features = taps.map(|| "features".into(), Tensor::cat(class.into(), 1));
        let first = self.head[0].forward(features.clone().narrow(1, 0, width));
        let second = self.head[1].forward(features.clone().narrow(1, width, rest));
        Outputs { logits: (first + second) / 2.0, features }
    }
}

/// What cuts an image into square patches and maps each to a token.
#[derive(Module, Debug)]
enum Patches {
    Linear(PatchEmbed),
    Convolutional(ConvolutionalPatches),
}

impl Patches {
    fn new(config: &Config, branch: usize, device: &Device) -> Self {
        let (channels, patch_size) = (config.embed_dims[branch], PATCH_SIZES[branch]);
        if config.dagger {
            Self::Convolutional(ConvolutionalPatches::new(patch_size, channels, device))
        } else {
            Self::Linear(PatchEmbed::new([config.image_sizes()[branch]; 2], patch_size, channels, device))
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        match self {
            Self::Linear(patches) => patches.forward(images),
            Self::Convolutional(patches) => patches.forward(images),
        }
    }
}

/// Three convolutions with ReLU between.
#[derive(Module, Debug)]
struct ConvolutionalPatches {
    /// In the places of timm's Sequential: `proj.0`, `proj.2`, `proj.4`.
    proj: (Conv2d, Relu, Conv2d, Relu, Conv2d),
}

impl ConvolutionalPatches {
    fn new(patch_size: usize, channels: usize, device: &Device) -> Self {
        let conv = |inputs, outputs, kernel| Conv2d::config(inputs, outputs, kernel).bias();
        let second = conv(channels / 4, channels / 2, 3);
        let third = conv(channels / 2, channels, 3);
        let (second, third) = match patch_size {
            12 => (second.stride(3).padding(Padding::Symmetric(0)), third),
            _ => (second.stride(2).padding(Padding::Symmetric(1)), third.stride(2).padding(Padding::Symmetric(1))),
        };
        let first = conv(3, channels / 4, 7).stride(4).padding(Padding::Symmetric(3));
        Self { proj: (first.build(device), Relu, second.build(device), Relu, third.build(device)) }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        let (first, _, second, _, third) = &self.proj;
        let x = first.forward_then(images, Then::activation(Activation::Relu));
        image_to_tokens(third.forward(second.forward_then(x, Then::activation(Activation::Relu))))
    }
}

/// Blocks of each branch by itself, and then an exchange: each class token goes to the other branch, asks its patches, and
/// comes back.
#[derive(Module, Debug)]
struct ExchangeBlock {
    blocks: [Vec<TransformerBlock>; 2],
    /// From each branch's width to the other's.
    projs: [Map; 2],
    /// In the other branch.
    fusion: [Visit; 2],
    /// From the other branch's width to each one's.
    revert_projs: [Map; 2],
}

impl ExchangeBlock {
    fn new(config: &Config, device: &Device) -> Self {
        let channels = config.embed_dims;
        let depths = [1, config.depth];
        let block = |branch: usize| {
            let width = channels[branch];
            TransformerBlock::new(width, config.heads, width * config.mlp_ratio, None, device)
        };
        Self {
            blocks: from_fn(|branch| (0..depths[branch]).map(|_| block(branch)).collect()),
            projs: from_fn(|branch| map(channels[branch], channels[1 - branch], device)),
            fusion: from_fn(|branch| Visit::new(channels[1 - branch], config.heads, device)),
            revert_projs: from_fn(|branch| map(channels[1 - branch], channels[branch], device)),
        }
    }

    /// `name` is the block's own.
    fn forward(&self, branches: [Tensor<3>; 2], name: &str, taps: &mut Taps) -> [Tensor<3>; 2] {
        let parts: [_; 2] = from_fn(|branch| {
            let mut x = branches[branch].clone();
            for (index, block) in self.blocks[branch].iter().enumerate() {
                x = taps.map(|| format!("{name}.blocks.{branch}.{index}"), block.forward(x));
            }
            split_class_token(x)
        });
        let [first, second]: [Tensor<3>; 2] = from_fn(|branch| {
            let ([class, patches], [_, others]) = (&parts[branch], &parts[1 - branch]);
            let visitor = mapped(class.clone(), &self.projs[branch]);
            let visitor =
                taps.map(|| format!("{name}.fusion.{branch}"), self.fusion[branch].forward(visitor, others.clone()));
            let class = mapped(visitor, &self.revert_projs[branch]);
            Tensor::cat(vec![class, patches.clone()], 1)
        });
        taps.map_both(|| name.to_owned(), first, second).into()
    }
}

/// Normalisation, GELU, linear map, in the places of timm's Sequential.
type Map = (LayerNorm, Gelu, Linear);

fn map(inputs: usize, outputs: usize, device: &Device) -> Map {
    (LayerNorm::new(inputs, EPSILON, device), Gelu::new(), Linear::new(inputs, outputs, device))
}

fn mapped(x: Tensor<3>, (norm, _, linear): &Map) -> Tensor<3> {
    linear.forward(Activation::Gelu.forward(norm.forward(x)))
}

/// A class token's attention to itself and the other branch's patches, residual and normalised at its beginning.
#[derive(Module, Debug)]
struct Visit {
    norm1: LayerNorm,
    attn: CrossAttention,
}

/// Multi-head attention in which the first token alone asks.
#[derive(Module, Debug)]
struct CrossAttention {
    wq: Linear,
    wk: Linear,
    wv: Linear,
    proj: Linear,
    heads: usize,
}

impl Visit {
    fn new(channels: usize, heads: usize, device: &Device) -> Self {
        let linear = || Linear::new(channels, channels, device);
        let attn = CrossAttention { wq: linear(), wk: linear(), wv: linear(), proj: linear(), heads };
        Self { norm1: LayerNorm::new(channels, EPSILON, device), attn }
    }

    /// `[batch, 1, channel]`; the shape stays.
    fn forward(&self, class: Tensor<3>, patches: Tensor<3>) -> Tensor<3> {
        let CrossAttention { wq, wk, wv, proj, heads } = &self.attn;
        let x = self.norm1.forward(Tensor::cat(vec![class.clone(), patches], 1));
        let query = wq.forward(x.clone().narrow(1, 0, 1));
        let mixed = attention([query, wk.forward(x.clone()), wv.forward(x)], *heads);
        proj.forward_residual(mixed, None, class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_become_underlines() {
        let names = ["pos_embed.0", "cls_token.1", "blocks.0.fusion.0.attn.wq.weight"];
        let mut checkpoint = Checkpoint::new(names.map(|name| (name.to_string(), vec![1, 401, 96])));
        convert(&TINY, &mut checkpoint);
        assert!(checkpoint.names().eq(["blocks.0.fusion.0.attn.wq.weight", "cls_token_1", "pos_embed_0"]));
    }

    #[test]
    fn both_branches_see_whole_patches() {
        let large = dagger_408(DEPTH_15);
        for (name, config) in VARIANTS {
            let mut sizes = config.image_sizes().into_iter().zip(PATCH_SIZES);
            assert!(sizes.all(|(size, patch)| size.is_multiple_of(patch)), "{name}");
        }
        assert_eq!([TINY.image_sizes(), large.image_sizes()], [[240, 224], [408, 384]]);
    }
}
