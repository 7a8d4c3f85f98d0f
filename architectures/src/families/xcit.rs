//! XCiT: Transformers whose attention goes between channels, with depthwise convolutions between neighbouring tokens, and a
//! class token that joins at the end.
//!
//! El-Nouby et al., *XCiT: Cross-Covariance Image Transformers* (arXiv 2106.09681).

use std::f64::consts::TAU;

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::initialised;
use crate::layers::{
    Activation, BatchNorm2d, ClassAttention, Conv2d, CrossCovarianceAttention, Dropout, LayerNorm, Linear, Mlp, Named,
    Regularisation, StochasticDepth, Then, add, image_to_tokens, prepend_class_token, scale_and_shift,
    split_class_token, tokens_to_image,
};
use crate::taps::Taps;

/// Which XCiT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pixels that become one token, both ways: 8 or 16.
    pub patch_size: usize,
    /// Channels of a token.
    pub embed_dim: usize,
    /// Blocks without the class token, after which come [`CLASS_BLOCKS`] with it.
    pub depth: usize,
    /// Attention heads, which divide the channels.
    pub heads: usize,
    /// What the learnt scales on the residual branches begin at.
    pub layer_scale: f64,
    /// Whether the second normalisation of a block with the class token is for all tokens, else for the class token alone.
    pub norm_patches: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// Blocks at the end in which the class token asks and nothing else changes.
pub const CLASS_BLOCKS: usize = 2;

const EPSILON: f64 = 1e-6;

const TINY_12: Config = Config {
    patch_size: 16,
    embed_dim: 192,
    depth: 12,
    heads: 4,
    layer_scale: 1.0,
    norm_patches: true,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
const NANO_12: Config = Config { embed_dim: 128, norm_patches: false, ..TINY_12 };
const SMALL_12: Config = Config { embed_dim: 384, heads: 8, ..TINY_12 };
const TINY_24: Config = Config { depth: 24, layer_scale: 1e-5, ..TINY_12 };
const SMALL_24: Config = Config { embed_dim: 384, heads: 8, ..TINY_24 };
const MEDIUM_24: Config = Config { embed_dim: 512, heads: 8, ..TINY_24 };
const LARGE_24: Config = Config { embed_dim: 768, heads: 16, ..TINY_24 };

const fn p8(config: Config) -> Config {
    Config { patch_size: 8, ..config }
}
const fn at_384(config: Config) -> Config {
    Config { input_size: 384, ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("xcit_large_24_p16_224", LARGE_24),
    ("xcit_large_24_p16_384", at_384(LARGE_24)),
    ("xcit_large_24_p8_224", p8(LARGE_24)),
    ("xcit_large_24_p8_384", at_384(p8(LARGE_24))),
    ("xcit_medium_24_p16_224", MEDIUM_24),
    ("xcit_medium_24_p16_384", at_384(MEDIUM_24)),
    ("xcit_medium_24_p8_224", p8(MEDIUM_24)),
    ("xcit_medium_24_p8_384", at_384(p8(MEDIUM_24))),
    ("xcit_nano_12_p16_224", NANO_12),
    ("xcit_nano_12_p16_384", at_384(NANO_12)),
    ("xcit_nano_12_p8_224", p8(NANO_12)),
    ("xcit_nano_12_p8_384", at_384(p8(NANO_12))),
    ("xcit_small_12_p16_224", SMALL_12),
    ("xcit_small_12_p16_384", at_384(SMALL_12)),
    ("xcit_small_12_p8_224", p8(SMALL_12)),
    ("xcit_small_12_p8_384", at_384(p8(SMALL_12))),
    ("xcit_small_24_p16_224", SMALL_24),
    ("xcit_small_24_p16_384", at_384(SMALL_24)),
    ("xcit_small_24_p8_224", p8(SMALL_24)),
    ("xcit_small_24_p8_384", at_384(p8(SMALL_24))),
    ("xcit_tiny_12_p16_224", TINY_12),
    ("xcit_tiny_12_p16_384", at_384(TINY_12)),
    ("xcit_tiny_12_p8_224", p8(TINY_12)),
    ("xcit_tiny_12_p8_384", at_384(p8(TINY_12))),
    ("xcit_tiny_24_p16_224", TINY_24),
    ("xcit_tiny_24_p16_384", at_384(TINY_24)),
    ("xcit_tiny_24_p8_224", p8(TINY_24)),
    ("xcit_tiny_24_p8_384", at_384(p8(TINY_24))),
];

configuration!(Xcit, InputRule::Any, convert; regularisation);

impl Config {
    /// Strided convolutions of the stem, each of which halves the image.
    fn halvings(&self) -> u32 {
        self.patch_size.ilog2()
    }

    fn components(&self) -> Components {
        Components {
            base_architecture: "Hybrid",
            stem: vec!["3s2"; self.halvings() as usize].join("/").into(),
            normalization: "LN + BN",
            depthwise_convolution: true,
            ..Components::TRANSFORMER
        }
    }
}

/// The published weights of the paper's authors call the positions otherwise, and map queries, keys and values of a class
/// token's attention together.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    checkpoint.rename(|name| name.replace("pos_embeder.", "pos_embed."));
    for block in 0..CLASS_BLOCKS {
        let attention = format!("cls_attn_blocks.{block}.attn");
        for kind in ["weight", "bias"] {
            let parts = ["q", "k", "v"].map(|part| format!("{attention}.{part}.{kind}"));
            checkpoint.split(&format!("{attention}.qkv.{kind}"), &parts);
        }
    }
}

/// An XCiT. See [`Config`].
#[derive(Module, Debug)]
pub struct Xcit {
    patch_embed: Stem,
    cls_token: Param<Tensor<3>>,
    pos_embed: FourierPositions,
    blocks: Vec<Block>,
    cls_attn_blocks: Vec<ClassBlock>,
    norm: LayerNorm,
    head: Linear,
    #[module(skip)]
    dropout: Dropout,
}

impl Xcit {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = config.embed_dim;
        let network = Self {
            patch_embed: Stem::new(config, device),
            cls_token: Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, 1, channels], device),
            pos_embed: FourierPositions::new(channels, device),
            blocks: (0..config.depth).map(|_| Block::new(config, device)).collect(),
            cls_attn_blocks: (0..CLASS_BLOCKS).map(|_| ClassBlock::new(config, device)).collect(),
            norm: LayerNorm::new(channels, EPSILON, device),
            head: Linear::new(channels, num_classes, device),
            dropout: config.regularisation.dropout(),
        };
        initialised(network, |parameter| parameter.linear(0.02).or_else(|| parameter.pytorch()))
    }
}

impl Architecture for Xcit {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = taps.map(|| "patch_embed.proj".into(), self.patch_embed.forward(images));
        let [_, _, height, width] = x.dims();
        let size = [height, width];
        let x = image_to_tokens(x) + self.pos_embed.forward(size);
        let x = taps.stage(|| "blocks".into(), &self.blocks, x, |block, x| block.forward(x, size));
        let x = prepend_class_token(self.cls_token.val(), x);
        let x = taps.stage(|| "cls_attn_blocks".into(), &self.cls_attn_blocks, x, |block, x| block.forward(x));
        let x = taps.map(|| "norm".into(), self.norm.forward(x));
        let features = x.narrow(1, 0, 1).squeeze_dim(1);
        Outputs { logits: self.head.forward(self.dropout.forward(features.clone())), features }
    }
}

/// Halves the image until a patch is one place, by a 3×3 convolution with normalisation each time and GELU between.
#[derive(Module, Debug)]
struct Stem {
    /// In the places of timm's Sequential, in which every other is the activation: `proj.0.0`, `proj.0.1`, `proj.2.0`, …
    proj: Named<(Conv2d, BatchNorm2d)>,
}

impl Stem {
    fn new(config: &Config, device: &Device) -> Self {
        let mut inputs = 3;
        let layer = |number: u32| {
            let outputs = config.embed_dim >> (config.halvings() - 1 - number);
            let conv = Conv2d::config(inputs, outputs, 3).stride(2).build(device);
            inputs = outputs;
            ((2 * number).to_string(), (conv, BatchNorm2d::new(outputs, device)))
        };
        Self { proj: (0..config.halvings()).map(layer).collect() }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let last = self.proj.iter().count() - 1;
        self.proj.iter().enumerate().fold(images, |x, (index, (_, (conv, norm)))| {
            let activation = if index == last { Activation::Identity } else { Activation::Gelu };
            conv.forward_then(x, Then::norm(norm, activation))
        })
    }
}

/// Sines and cosines of a token's row and column at several wavelengths, mapped to the token's channels.
#[derive(Module, Debug)]
struct FourierPositions {
    token_projection: Conv2d,
}

impl FourierPositions {
    /// Waves per axis, half of them sines.
    const WAVES: usize = 32;
    /// The longest wave is almost so many times as long as the shortest, which is as long as the image.
    const TEMPERATURE: f64 = 10_000.0;

    fn new(channels: usize, device: &Device) -> Self {
        Self { token_projection: Conv2d::config(2 * Self::WAVES, channels, 1).bias().build(device) }
    }

    /// `[1, token, channel]`.
    fn forward(&self, [height, width]: [usize; 2]) -> Tensor<3> {
        let (down, across) = (Self::waves(height), Self::waves(width));
        let rows = down.iter().flat_map(|wave| wave.iter().flat_map(|&value| vec![value; width]));
        let columns = across.iter().flat_map(|wave| wave.repeat(height));
        let values = TensorData::new(rows.chain(columns).collect(), [1, 2 * Self::WAVES, height, width]);
        let weight = self.token_projection.weight.val();
        let waves = Tensor::<4>::from_data(values, (&weight.device().without_autodiff(), weight.dtype()));
        image_to_tokens(self.token_projection.forward(waves))
    }

    /// The waves at so many places.
    fn waves(places: usize) -> Vec<Vec<f64>> {
        let wave = |number: usize| {
            let exponent = (number / 2 * 2) as f64 / Self::WAVES as f64;
            let length = Self::TEMPERATURE.powf(exponent);
            let value = |place: usize| {
                let phase = (place + 1) as f64 / (places as f64 + 1e-6) * TAU / length;
                if number.is_multiple_of(2) { phase.sin() } else { phase.cos() }
            };
            (0..places).map(value).collect()
        };
        (0..Self::WAVES).map(wave).collect()
    }
}

/// Attention between channels, convolutions between neighbours and a perceptron, each residual, normalised at its beginning
/// and scaled at its end.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: CrossCovarianceAttention,
    gamma1: Param<Tensor<1>>,
    norm3: LayerNorm,
    local_mp: Neighbourhood,
    gamma3: Param<Tensor<1>>,
    norm2: LayerNorm,
    mlp: Mlp,
    gamma2: Param<Tensor<1>>,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Block {
    fn new(config: &Config, device: &Device) -> Self {
        let channels = config.embed_dim;
        let norm = || LayerNorm::new(channels, EPSILON, device);
        let scale = || Initializer::Constant { value: config.layer_scale }.init([channels], device);
        Self {
            norm1: norm(),
            attn: CrossCovarianceAttention::new(channels, config.heads, device),
            gamma1: scale(),
            norm3: norm(),
            local_mp: Neighbourhood::new(channels, device),
            gamma3: scale(),
            norm2: norm(),
            mlp: Mlp::new(channels, 4 * channels, Activation::Gelu, device),
            gamma2: scale(),
            drop_path: config.regularisation.constant(),
        }
    }

    fn forward(&self, x: Tensor<3>, size: [usize; 2]) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = self.drop_path.residual(x, |x| self.attn.forward_residual(y, &self.gamma1, x));
        let y = self.local_mp.forward(self.norm3.forward(x.clone()), size, &self.gamma3);
        let x = self.drop_path.residual(x, |x| add(y, x, Activation::Identity));
        let y = self.norm2.forward(x.clone());
        self.drop_path.residual(x, |x| self.mlp.forward_residual(y, Some(&self.gamma2), x))
    }
}

/// Two depthwise 3×3 convolutions over the image that the tokens are.
#[derive(Module, Debug)]
struct Neighbourhood {
    conv1: Conv2d,
    bn: BatchNorm2d,
    conv2: Conv2d,
}

impl Neighbourhood {
    fn new(channels: usize, device: &Device) -> Self {
        let conv = || Conv2d::config(channels, channels, 3).groups(channels).bias().build(device);
        Self { conv1: conv(), bn: BatchNorm2d::new(channels, device), conv2: conv() }
    }

    /// The tokens of an image of `size`, and what the result is scaled by.
    fn forward(&self, x: Tensor<3>, size: [usize; 2], gamma: &Param<Tensor<1>>) -> Tensor<3> {
        let x = self.conv1.forward_then(tokens_to_image(x, size), Then::activation(Activation::Gelu));
        let x = self.bn.forward(x, Activation::Identity);
        image_to_tokens(self.conv2.forward_then(x, Then::scale(Some(gamma))))
    }
}

/// Attention of the class token to all, and a perceptron on it.
#[derive(Module, Debug)]
struct ClassBlock {
    norm1: LayerNorm,
    attn: ClassAttention,
    gamma1: Param<Tensor<1>>,
    norm2: LayerNorm,
    mlp: Mlp,
    gamma2: Param<Tensor<1>>,
    norm_patches: bool,
}

impl ClassBlock {
    fn new(config: &Config, device: &Device) -> Self {
        let channels = config.embed_dim;
        let norm = || LayerNorm::new(channels, EPSILON, device);
        let scale = || Initializer::Constant { value: config.layer_scale }.init([channels], device);
        Self {
            norm1: norm(),
            attn: ClassAttention::new(channels, config.heads, device),
            gamma1: scale(),
            norm2: norm(),
            mlp: Mlp::new(channels, 4 * channels, Activation::Gelu, device),
            gamma2: scale(),
            norm_patches: config.norm_patches,
        }
    }

    /// The branches of the other tokens are what they come in with: their normalised values at the first, and at the second
    /// they themselves, which doubles them. The weights were trained so.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let ([class, patches], [_, normalised]) = (split_class_token(x), split_class_token(y.clone()));
        let class = self.attn.forward_residual(y, &self.gamma1, class);
        let patches = add(patches, scale_and_shift(normalised, 2, self.gamma1.val(), None), Activation::Identity);
        let class = self.norm2.forward(class);
        let patches = if self.norm_patches { self.norm2.forward(patches) } else { patches };
        let class = self.mlp.forward_residual(class.clone(), Some(&self.gamma2), class);
        Tensor::cat(vec![class, patches.mul_scalar(2.0)], 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_authors_are_understood() {
        let names =
            ["pos_embeder.token_projection.weight", "cls_attn_blocks.1.attn.qkv.bias", "blocks.1.attn.qkv.bias"];
        let mut checkpoint = Checkpoint::new(names.map(|name| (name.to_string(), vec![6])));
        convert(&NANO_12, &mut checkpoint);
        let parts = ["k", "q", "v"].map(|part| format!("cls_attn_blocks.1.attn.{part}.bias"));
        let expected =
            [&["blocks.1.attn.qkv.bias".to_string()], &parts[..], &["pos_embed.token_projection.weight".into()]];
        assert!(checkpoint.names().eq(expected.concat()));
        let read = |_: &str| Ok::<_, ()>(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(checkpoint.values("cls_attn_blocks.1.attn.k.bias", read), Ok(vec![2.0, 3.0]));
    }
}
