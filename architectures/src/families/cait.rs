//! CaiT: deep Vision Transformers with scaled branches and talking heads, whose class token joins at the end.
//!
//! Touvron et al., *Going deeper with Image Transformers* (arXiv 2103.17239).

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::initialised;
use crate::layers::{
    Activation, ClassAttention, Dropout, LayerNorm, Linear, Mlp, PatchEmbed, Regularisation, StochasticDepth,
    TalkingHeadsAttention,
};
use crate::taps::Taps;

/// Which CaiT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of a token.
    pub embed_dim: usize,
    /// Blocks without the class token, after which come [`CLASS_BLOCKS`] with it.
    pub depth: usize,
    /// What the learnt scales on the residual branches begin at.
    pub layer_scale: f64,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// Blocks at the end in which the class token asks and nothing else changes.
pub const CLASS_BLOCKS: usize = 2;
/// Channels of an attention head.
const HEAD_SIZE: usize = 48;
/// Pixels of a patch, both ways.
const PATCH_SIZE: usize = 16;
const EPSILON: f64 = 1e-6;

const XXS_24: Config = Config {
    embed_dim: 192,
    depth: 24,
    layer_scale: 1e-5,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
const XXS_36: Config = Config { depth: 36, ..XXS_24 };
const XS_24: Config = Config { embed_dim: 288, ..XXS_24 };
const S_24: Config = Config { embed_dim: 384, ..XXS_24 };
const S_36: Config = Config { depth: 36, layer_scale: 1e-6, ..S_24 };

const fn at_384(config: Config) -> Config {
    Config { input_size: 384, ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("cait_s24_224", S_24),
    ("cait_s24_384", at_384(S_24)),
    ("cait_s36_384", at_384(S_36)),
    ("cait_xs24_384", at_384(XS_24)),
    ("cait_xxs24_224", XXS_24),
    ("cait_xxs24_384", at_384(XXS_24)),
    ("cait_xxs36_224", XXS_36),
    ("cait_xxs36_384", at_384(XXS_36)),
];

configuration!(Cait, InputRule::Retrained(PATCH_SIZE); regularisation);

impl Config {
    fn components(&self) -> Components {
        Components::TRANSFORMER
    }
}

/// A CaiT. See [`Config`].
#[derive(Module, Debug)]
pub struct Cait {
    patch_embed: PatchEmbed,
    cls_token: Param<Tensor<3>>,
    pos_embed: Param<Tensor<3>>,
    blocks: Vec<Block>,
    blocks_token_only: Vec<ClassBlock>,
    norm: LayerNorm,
    head: Linear,
    #[module(skip)]
    dropout: Dropout,
}

impl Cait {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = config.embed_dim;
        let patch_embed = PatchEmbed::new([config.input_size; 2], PATCH_SIZE, channels, device);
        let drawn = |tokens: usize| Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, tokens, channels], device);
        let network = Self {
            cls_token: drawn(1),
            pos_embed: drawn(patch_embed.tokens()),
            patch_embed,
            blocks: (0..config.depth).map(|_| Block::new(config, device)).collect(),
            blocks_token_only: (0..CLASS_BLOCKS).map(|_| ClassBlock::new(config, device)).collect(),
            norm: LayerNorm::new(channels, EPSILON, device),
            head: Linear::new(channels, num_classes, device),
            dropout: config.regularisation.dropout(),
        };
        initialised(network, |parameter| parameter.linear(0.02).or_else(|| parameter.pytorch()))
    }
}

impl Architecture for Cait {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let patches = taps.map(|| "patch_embed".into(), self.patch_embed.forward(images));
        let [batch, _, channels] = patches.dims();
        let patches = patches + self.pos_embed.val();
        let patches = taps.stage(|| "blocks".into(), &self.blocks, patches, |block, x| block.forward(x));
        let class = self.cls_token.val().expand([batch, 1, channels]);
        let visit = |block: &ClassBlock, class| block.forward(class, patches.clone());
        let class = taps.stage(|| "blocks_token_only".into(), &self.blocks_token_only, class, visit);
        let x = taps.map(|| "norm".into(), self.norm.forward(Tensor::cat(vec![class, patches], 1)));
        let features = x.narrow(1, 0, 1).squeeze_dim(1);
        Outputs { logits: self.head.forward(self.dropout.forward(features.clone())), features }
    }
}

/// Attention between the patches and a perceptron on each, residual, normalised at their beginning and scaled at their end.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: TalkingHeadsAttention,
    gamma_1: Param<Tensor<1>>,
    norm2: LayerNorm,
    mlp: Mlp,
    gamma_2: Param<Tensor<1>>,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Block {
    fn new(config: &Config, device: &Device) -> Self {
        let channels = config.embed_dim;
        let scale = || Initializer::Constant { value: config.layer_scale }.init([channels], device);
        Self {
            norm1: LayerNorm::new(channels, EPSILON, device),
            attn: TalkingHeadsAttention::new(channels, channels / HEAD_SIZE, device),
            gamma_1: scale(),
            norm2: LayerNorm::new(channels, EPSILON, device),
            mlp: Mlp::new(channels, 4 * channels, Activation::Gelu, device),
            gamma_2: scale(),
            drop_path: config.regularisation.constant(),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = self.drop_path.residual(x, |x| self.attn.forward_residual(y, &self.gamma_1, x));
        let y = self.norm2.forward(x.clone());
        self.drop_path.residual(x, |x| self.mlp.forward_residual(y, Some(&self.gamma_2), x))
    }
}

/// The same for the class token, which asks all.
#[derive(Module, Debug)]
struct ClassBlock {
    norm1: LayerNorm,
    attn: ClassAttention,
    gamma_1: Param<Tensor<1>>,
    norm2: LayerNorm,
    mlp: Mlp,
    gamma_2: Param<Tensor<1>>,
}

impl ClassBlock {
    fn new(config: &Config, device: &Device) -> Self {
        let Block { norm1, gamma_1, norm2, mlp, gamma_2, .. } = Block::new(config, device);
        let channels = config.embed_dim;
        let attn = ClassAttention::new(channels, channels / HEAD_SIZE, device);
        Self { norm1, attn, gamma_1, norm2, mlp, gamma_2 }
    }

    fn forward(&self, class: Tensor<3>, patches: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(Tensor::cat(vec![class.clone(), patches], 1));
        let class = self.attn.forward_residual(y, &self.gamma_1, class);
        let y = self.norm2.forward(class.clone());
        self.mlp.forward_residual(y, Some(&self.gamma_2), class)
    }
}
