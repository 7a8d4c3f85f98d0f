//! RepViT: mobile convolutional networks in the frame of a Transformer, with depthwise branches that training keeps apart.
//!
//! Wang et al., *RepViT: Revisiting Mobile CNN From ViT Perspective* (arXiv 2307.09283).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Conv2dConfig, Linear, SqueezeExcite, Then, global_average_pool,
    make_divisible_limited,
};
use crate::taps::Taps;

/// Which RepViT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of each stage.
    pub channels: [usize; 4],
    /// Blocks in each stage.
    pub depths: [usize; 4],
    /// Whether the branches are normalised each by itself, as in the paper's first version, and not together.
    pub legacy: bool,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn repvit(channels: [usize; 4], depths: [usize; 4]) -> Config {
    Config { channels, depths, legacy: false, input_size: 224, num_classes: 1000 }
}
const fn legacy(config: Config) -> Config {
    Config { legacy: true, ..config }
}

const CHANNELS_48: [usize; 4] = [48, 96, 192, 384];
const CHANNELS_64: [usize; 4] = [64, 128, 256, 512];

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("repvit_m0_9", repvit(CHANNELS_48, [2, 2, 14, 2])),
    ("repvit_m1", legacy(repvit(CHANNELS_48, [2, 2, 14, 2]))),
    ("repvit_m1_0", repvit([56, 112, 224, 448], [2, 2, 14, 2])),
    ("repvit_m1_1", repvit(CHANNELS_64, [2, 2, 12, 2])),
    ("repvit_m1_5", repvit(CHANNELS_64, [4, 4, 24, 4])),
    ("repvit_m2", legacy(repvit(CHANNELS_64, [2, 2, 12, 2]))),
    ("repvit_m2_3", repvit([80, 160, 320, 640], [6, 6, 34, 2])),
    ("repvit_m3", legacy(repvit(CHANNELS_64, [4, 4, 18, 2]))),
];

configuration!(RepVit, InputRule::Any);

/// Hidden channels of a perceptron, as a multiple of a place's.
const MLP_RATIO: usize = 2;

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: "3s2/3s2".into(),
            activation: Components::activations([Activation::Gelu, Activation::Relu]),
            stem_pooling: false,
            channel_attention: "Yes (SE)",
            channel_attention_location: "Middle",
            depthwise_convolution: true,
            ..Components::CNN
        }
    }
}

/// A RepViT. See [`Config`].
#[derive(Module, Debug)]
pub struct RepVit {
    stem: Stem,
    stages: Vec<Stage>,
    head: Head,
}

#[derive(Module, Debug)]
struct Stem {
    conv1: Layer,
    conv2: Layer,
}

/// Two classifiers, the second of which a teacher trained; their mean answers.
#[derive(Module, Debug)]
struct Head {
    head: Classifier,
    head_dist: Classifier,
}

impl RepVit {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let [first, .., last] = config.channels;
        let halving = |inputs, outputs| Layer::new(Conv2d::config(inputs, outputs, 3).stride(2), device);
        Self {
            stem: Stem { conv1: halving(3, first / 2), conv2: halving(first / 2, first) },
            stages: (0..4).map(|index| Stage::new(config, index, device)).collect(),
            head: Head {
                head: Classifier::new(last, num_classes, device),
                head_dist: Classifier::new(last, num_classes, device),
            },
        }
    }
}

impl Architecture for RepVit {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = self.stem.conv1.forward_then(images, Activation::Gelu, None);
        let mut x = taps.map(|| "stem".into(), self.stem.conv2.forward(x));
        for (index, stage) in self.stages.iter().enumerate() {
            if let Some(downsample) = &stage.downsample {
                x = taps.map(|| format!("stages.{index}.downsample"), downsample.forward(x));
            }
            x = taps.stage(|| format!("stages.{index}.blocks"), &stage.blocks, x, |block, x| block.forward(x));
            x = taps.map(|| format!("stages.{index}"), x);
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        let Head { head, head_dist } = &self.head;
        Outputs { logits: (head.forward(features.clone()) + head_dist.forward(features.clone())) / 2.0, features }
    }
}

/// A normalisation and a linear map.
#[derive(Module, Debug)]
struct Classifier {
    bn: BatchNorm2d,
    l: Linear,
}

impl Classifier {
    fn new(channels: usize, num_classes: usize, device: &Device) -> Self {
        Self { bn: BatchNorm2d::new(channels, device), l: Linear::new(channels, num_classes, device) }
    }

    fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let [batch, channels] = features.dims();
        let x = self.bn.forward(features.reshape([batch, channels, 1, 1]), Activation::Identity);
        self.l.forward(x.reshape([batch, channels]))
    }
}

/// A convolution and its normalisation.
#[derive(Module, Debug)]
struct Layer {
    c: Conv2d,
    bn: BatchNorm2d,
}

impl Layer {
    fn new(conv: Conv2dConfig, device: &Device) -> Self {
        Self { bn: BatchNorm2d::new(conv.outputs(), device), c: conv.build(device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_then(x, Activation::Identity, None)
    }

    /// activation(norm(conv(x)) + shortcut), the shortcut, if there is one.
    fn forward_then(&self, x: Tensor<4>, activation: Activation, shortcut: Option<Tensor<4>>) -> Tensor<4> {
        self.c.forward_then(x, Then::norm(&self.bn, activation).residual(shortcut))
    }
}

/// Blocks of one width; all stages but the first begin by halving the image.
#[derive(Module, Debug)]
struct Stage {
    downsample: Option<Downsample>,
    blocks: Vec<Block>,
}

impl Stage {
    fn new(config: &Config, index: usize, device: &Device) -> Self {
        let channels = config.channels[index];
        let downsample =
            index.checked_sub(1).map(|before| Downsample::new(config, config.channels[before], channels, device));
        // Every other block weighs its channels.
        let block = |position: usize| Block::new(config, channels, position.is_multiple_of(2), device);
        Self { downsample, blocks: (0..config.depths[index]).map(block).collect() }
    }
}

#[derive(Module, Debug)]
struct Downsample {
    pre_block: Block,
    spatial_downsample: Layer,
    channel_downsample: Layer,
    ffn: Mlp,
}

impl Downsample {
    fn new(config: &Config, inputs: usize, outputs: usize, device: &Device) -> Self {
        let strided = Conv2d::config(inputs, inputs, 3).stride(2).groups(inputs);
        Self {
            pre_block: Block::new(config, inputs, false, device),
            spatial_downsample: Layer::new(strided, device),
            channel_downsample: Layer::new(Conv2d::config(inputs, outputs, 1), device),
            ffn: Mlp::new(outputs, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.spatial_downsample.forward(self.pre_block.forward(x));
        self.ffn.forward(self.channel_downsample.forward(x))
    }
}

/// Depthwise convolutions, attention over the channels, if there is any, and a perceptron.
#[derive(Module, Debug)]
struct Block {
    token_mixer: DepthwiseBranches,
    se: Option<SqueezeExcite>,
    channel_mixer: Mlp,
}

impl Block {
    fn new(config: &Config, channels: usize, squeeze_excite: bool, device: &Device) -> Self {
        let reduced = make_divisible_limited(channels as f64 / 4.0, 8, 0.0);
        Self {
            token_mixer: DepthwiseBranches::new(config, channels, device),
            se: squeeze_excite.then(|| SqueezeExcite::new(channels, reduced, device)),
            channel_mixer: Mlp::new(channels, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.token_mixer.forward(x);
        let x = match &self.se {
            Some(se) => se.forward(x),
            None => x,
        };
        self.channel_mixer.forward(x)
    }
}

/// The sum of a depthwise 3×3 convolution, one of 1×1, and the input.
#[derive(Module, Debug)]
struct DepthwiseBranches {
    conv: Layer,
    conv1: Scaling,
    bn: Option<BatchNorm2d>,
}

/// A depthwise 1×1 convolution with a normalisation or a bias.
#[derive(Module, Debug)]
enum Scaling {
    Normalised(Layer),
    Plain(Conv2d),
}

impl DepthwiseBranches {
    fn new(config: &Config, channels: usize, device: &Device) -> Self {
        let depthwise = |kernel| Conv2d::config(channels, channels, kernel).groups(channels);
        Self {
            conv: Layer::new(depthwise(3), device),
            conv1: if config.legacy {
                Scaling::Normalised(Layer::new(depthwise(1), device))
            } else {
                Scaling::Plain(depthwise(1).bias().build(device))
            },
            bn: (!config.legacy).then(|| BatchNorm2d::new(channels, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let scaled = match &self.conv1 {
            Scaling::Normalised(layer) => layer.forward_then(x.clone(), Activation::Identity, Some(x.clone())),
            Scaling::Plain(conv) => {
                conv.forward_then(x.clone(), Then::activation(Activation::Identity).residual(x.clone()))
            }
        };
        let y = self.conv.forward_then(x, Activation::Identity, Some(scaled));
        match &self.bn {
            Some(norm) => norm.forward(y, Activation::Identity),
            None => y,
        }
    }
}

/// 1×1 convolutions that widen and narrow, beside a shortcut.
#[derive(Module, Debug)]
struct Mlp {
    conv1: Layer,
    conv2: Layer,
}

impl Mlp {
    fn new(channels: usize, device: &Device) -> Self {
        let hidden = MLP_RATIO * channels;
        Self {
            conv1: Layer::new(Conv2d::config(channels, hidden, 1), device),
            conv2: Layer::new(Conv2d::config(hidden, channels, 1), device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv1.forward_then(x.clone(), Activation::Gelu, None);
        self.conv2.forward_then(y, Activation::Identity, Some(x))
    }
}
