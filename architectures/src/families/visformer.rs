//! Visformer: convolutions in the first stage, Transformers in the others, batch normalisation throughout.
//!
//! Chen et al., *Visformer: The Vision-friendly Transformer* (arXiv 2104.12533).

use burn::module::{Initializer, Module, Param};
use burn::nn::Relu;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Dropout, Linear, Padding, Regularisation, StochasticDepth, Then,
    global_average_pool, image_to_tokens, self_attention, tokens_to_image,
};
use crate::taps::Taps;

/// Which Visformer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of the first convolution.
    pub stem: usize,
    /// Channels of the second stage; the first has half of them, the third twice as many.
    pub embed_dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const SMALL: Config = Config {
    stem: 32,
    embed_dim: 384,
    heads: 6,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] =
    &[("visformer_small", SMALL), ("visformer_tiny", Config { stem: 16, embed_dim: 192, heads: 3, ..SMALL })];

configuration!(Visformer, InputRule::Retrained(32); regularisation);

/// Blocks in each stage.
const DEPTHS: [usize; 3] = [7, 4, 4];
/// By how much each stage shrinks what it gets.
const PATCHES: [usize; 3] = [4, 2, 2];
/// Groups of the 3×3 convolutions.
const GROUPS: usize = 8;

impl Config {
    fn components(&self) -> Components {
        Components {
            base_architecture: "Hybrid",
            hierarchical: true,
            stem: "7s2".into(),
            normalization: "BN",
            activation: "GeLU + ReLU".into(),
            final_pooling: "GAP",
            grouped_convolution: true,
            ..Components::TRANSFORMER
        }
    }

    fn channels(&self, stage: usize) -> usize {
        (self.embed_dim << stage) / 2
    }

    /// Rows and columns of a stage.
    fn grid(&self, stage: usize) -> [usize; 2] {
        [self.input_size / 2 / PATCHES[..=stage].iter().product::<usize>(); 2]
    }
}

/// A Visformer. See [`Config`].
#[derive(Module, Debug)]
pub struct Visformer {
    /// In the places of timm's Sequential: `stem.0`, `stem.1`.
    stem: (Conv2d, BatchNorm2d, Relu),
    patch_embed1: Patches,
    pos_embed1: Param<Tensor<4>>,
    stage1: Vec<Block>,
    patch_embed2: Patches,
    pos_embed2: Param<Tensor<4>>,
    stage2: Vec<Block>,
    patch_embed3: Patches,
    pos_embed3: Param<Tensor<4>>,
    stage3: Vec<Block>,
    norm: BatchNorm2d,
    head: Linear,
    #[module(skip)]
    dropout: Dropout,
}

impl Visformer {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let last = config.channels(2);
        let stem = Conv2d::config(3, config.stem, 7).stride(2).padding(Padding::Symmetric(3));
        let patches = |stage: usize| {
            let inputs = if stage == 0 { config.stem } else { config.channels(stage - 1) };
            Patches::new(inputs, config.channels(stage), PATCHES[stage], device)
        };
        let positions = |stage: usize| {
            let [rows, columns] = config.grid(stage);
            Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, config.channels(stage), rows, columns], device)
        };
        let blocks =
            |stage: usize| (0..DEPTHS[stage]).map(|position| Block::new(config, stage, position, device)).collect();
        Self {
            stem: (stem.build(device), BatchNorm2d::new(config.stem, device), Relu),
            patch_embed1: patches(0),
            pos_embed1: positions(0),
            stage1: blocks(0),
            patch_embed2: patches(1),
            pos_embed2: positions(1),
            stage2: blocks(1),
            patch_embed3: patches(2),
            pos_embed3: positions(2),
            stage3: blocks(2),
            norm: BatchNorm2d::new(last, device),
            head: Linear::new(last, num_classes, device),
            dropout: config.regularisation.dropout(),
        }
    }
}

impl Architecture for Visformer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let (conv, norm, _) = &self.stem;
        let mut x = taps.map(|| "stem".into(), conv.forward_then(images, Then::norm(norm, Activation::Relu)));
        let stages = [
            (&self.patch_embed1, &self.pos_embed1, &self.stage1),
            (&self.patch_embed2, &self.pos_embed2, &self.stage2),
            (&self.patch_embed3, &self.pos_embed3, &self.stage3),
        ];
        for (index, (patches, positions, blocks)) in stages.into_iter().enumerate() {
            x = patches.forward(x) + positions.val();
            x = taps.stage(|| format!("stage{}", index + 1), blocks, x, |block, x| block.forward(x));
        }
        let x = taps.map(|| "norm".into(), self.norm.forward(x, Activation::Identity));
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.forward(self.dropout.forward(features.clone())), features }
    }
}

/// Patches of an image or of the stage before, normalised.
#[derive(Module, Debug)]
struct Patches {
    proj: Conv2d,
    norm: BatchNorm2d,
}

impl Patches {
    fn new(inputs: usize, outputs: usize, size: usize, device: &Device) -> Self {
        let proj = Conv2d::config(inputs, outputs, size).stride(size).padding(Padding::Symmetric(0)).bias();
        Self { proj: proj.build(device), norm: BatchNorm2d::new(outputs, device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.proj.forward_then(x, Then::norm(&self.norm, Activation::Identity))
    }
}

/// Attention, if there is any, then a perceptron, both residual and normalised at their beginning.
#[derive(Module, Debug)]
struct Block {
    norm1: Option<BatchNorm2d>,
    attn: Option<Attention>,
    norm2: BatchNorm2d,
    mlp: Mlp,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Block {
    fn new(config: &Config, stage: usize, position: usize, device: &Device) -> Self {
        let channels = config.channels(stage);
        let norm = || BatchNorm2d::new(channels, device);
        let convolves = stage == 0;
        let pointwise = |inputs, outputs| Conv2d::config(inputs, outputs, 1).build(device);
        let hidden = if convolves { 2 * channels } else { 4 * channels };
        let attention = || Attention {
            qkv: pointwise(channels, 3 * channels),
            proj: pointwise(channels, channels),
            heads: config.heads,
        };
        Self {
            norm1: (!convolves).then(norm),
            attn: (!convolves).then(attention),
            norm2: norm(),
            mlp: Mlp {
                conv1: pointwise(channels, hidden),
                conv2: convolves.then(|| Conv2d::config(hidden, hidden, 3).groups(GROUPS).build(device)),
                conv3: pointwise(hidden, channels),
            },
            drop_path: config.regularisation.growing(&DEPTHS, stage, position),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = match (&self.norm1, &self.attn) {
            (Some(norm), Some(attention)) => {
                let y = norm.forward(x.clone(), Activation::Identity);
                self.drop_path.residual(x, |x| attention.forward_residual(y, x))
            }
            _ => x,
        };
        let y = self.norm2.forward(x.clone(), Activation::Identity);
        self.drop_path.residual(x, |x| self.mlp.forward_residual(y, x))
    }
}

/// Attention between 1×1 convolutions.
#[derive(Module, Debug)]
struct Attention {
    qkv: Conv2d,
    proj: Conv2d,
    heads: usize,
}

impl Attention {
    fn forward_residual(&self, x: Tensor<4>, shortcut: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let mixed = self_attention(image_to_tokens(self.qkv.forward(x)), self.heads);
        let then = Then::activation(Activation::Identity).residual(shortcut);
        self.proj.forward_then(tokens_to_image(mixed, [height, width]), then)
    }
}

/// 1×1 convolutions with a grouped 3×3 one between them, if there is one.
#[derive(Module, Debug)]
struct Mlp {
    conv1: Conv2d,
    conv2: Option<Conv2d>,
    conv3: Conv2d,
}

impl Mlp {
    fn forward_residual(&self, x: Tensor<4>, shortcut: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv1.forward_then(x, Then::activation(Activation::Gelu));
        if let Some(conv) = &self.conv2 {
            x = conv.forward_then(x, Then::activation(Activation::Gelu));
        }
        self.conv3.forward_then(x, Then::activation(Activation::Identity).residual(shortcut))
    }
}
