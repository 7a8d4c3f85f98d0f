//! ResNet V2, whose blocks begin with normalisation and activation, and Big Transfer (BiT): the same with standardised weights
//! and group normalisation.
//!
//! He et al., *Identity Mappings in Deep Residual Networks* (arXiv 1603.05027), with the stride in the 3×3 convolution;
//! Kolesnikov et al., *Big Transfer* (1912.11370); Liu et al., *Evolving Normalization-Activation Layers* (2004.02967). The
//! hybrid Vision Transformers begin with such a network whose blocks end with activation.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::{Initial, initialised};
use crate::layers::{
    Activation, Conv2d, Conv2dConfig, Dropout, EvoNorm, FilterResponseNorm, Norm2d, Padding, Regularisation,
    StochasticDepth, Then, average_pool, global_average_pool, max_pool, max_pool_ceil,
};
use crate::taps::Taps;

/// Which ResNet V2.
#[derive(Debug, Clone)]
pub struct Config {
    /// The kind of all blocks.
    pub block: BlockKind,
    /// Blocks in each stage.
    pub layers: &'static [usize],
    /// By which all channels are multiplied (BiT).
    pub width: usize,
    /// The first layers.
    pub stem: StemKind,
    /// The normalisation of all layers.
    pub norm: NormKind,
    /// Whether a shortcut that shrinks does so by averaging (the d and t variants).
    pub average_down: bool,
    /// Whether all weights are standardised (BiT).
    pub standardised: bool,
    /// What is beyond the border of an image.
    pub border: Border,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The kind of a residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3, 1×1, which widens four times.
    Bottleneck,
    /// The same with the normalisations behind the convolutions.
    PostNormBottleneck,
}

/// The first layers of the network.
#[derive(Debug, Clone, Copy)]
pub enum StemKind {
    /// One 7×7 convolution.
    Plain,
    /// Three 3×3 convolutions, of which the first two have so many channels.
    Deep([usize; 2]),
}

/// The kind of normalisation.
#[derive(Debug, Clone, Copy)]
pub enum NormKind {
    /// Over the batch.
    Batch,
    /// Over 32 groups of channels.
    Group,
    /// EvoNorm-S0 with 32 groups.
    Evo,
    /// Filter response normalisation.
    FilterResponse,
}

/// What is beyond the border of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Border {
    /// Zeros for convolutions, nothing for pooling.
    Usual,
    /// Zeros also for pooling, where they count (BiT).
    Zeros,
    /// As usual, but by TensorFlow's rule "same".
    Same,
}

const RESNET50: Config = Config {
    block: BlockKind::Bottleneck,
    layers: LAYERS_50,
    width: 1,
    stem: StemKind::Plain,
    norm: NormKind::Batch,
    average_down: false,
    standardised: false,
    border: Border::Usual,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
const RESNET18: Config = Config { block: BlockKind::Basic, layers: &[2, 2, 2, 2], ..RESNET50 };
const RESNET34: Config = Config { layers: LAYERS_50, ..RESNET18 };
const RESNET101: Config = Config { layers: LAYERS_101, ..RESNET50 };
const RESNET152: Config = Config { layers: LAYERS_152, ..RESNET50 };

const LAYERS_50: &[usize] = &[3, 4, 6, 3];
const LAYERS_101: &[usize] = &[3, 4, 23, 3];
const LAYERS_152: &[usize] = &[3, 8, 36, 3];

const fn d(config: Config) -> Config {
    Config { stem: StemKind::Deep([32, 32]), average_down: true, ..config }
}
const fn t(config: Config) -> Config {
    Config { stem: StemKind::Deep([24, 32]), ..d(config) }
}
const fn norm(norm: NormKind, config: Config) -> Config {
    Config { norm, ..config }
}
const fn bit(width: usize, layers: &'static [usize], input_size: usize) -> Config {
    Config { layers, width, norm: NormKind::Group, standardised: true, border: Border::Zeros, input_size, ..RESNET50 }
}
/// What a hybrid Vision Transformer begins with.
pub(super) const fn hybrid(layers: &'static [usize]) -> Config {
    Config { block: BlockKind::PostNormBottleneck, border: Border::Same, ..bit(1, layers, 224) }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("resnetv2_18", RESNET18),
    ("resnetv2_18d", d(RESNET18)),
    ("resnetv2_34", RESNET34),
    ("resnetv2_34d", d(RESNET34)),
    ("resnetv2_50", RESNET50),
    ("resnetv2_50d", d(RESNET50)),
    ("resnetv2_50d_evos", norm(NormKind::Evo, d(RESNET50))),
    ("resnetv2_50d_frn", norm(NormKind::FilterResponse, d(RESNET50))),
    ("resnetv2_50d_gn", norm(NormKind::Group, d(RESNET50))),
    ("resnetv2_50t", t(RESNET50)),
    ("resnetv2_50x1_bit", bit(1, LAYERS_50, 224)),
    ("resnetv2_50x3_bit", bit(3, LAYERS_50, 448)),
    ("resnetv2_101", RESNET101),
    ("resnetv2_101d", d(RESNET101)),
    ("resnetv2_101x1_bit", bit(1, LAYERS_101, 448)),
    ("resnetv2_152", RESNET152),
    ("resnetv2_152d", d(RESNET152)),
];

configuration!(ResNetV2, InputRule::Any; regularisation);

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: match self.stem {
                StemKind::Plain => "7s2".into(),
                StemKind::Deep(_) => "3s2/3/3".into(),
            },
            normalization: match self.norm {
                NormKind::Batch => "BN",
                NormKind::Group => "GN",
                NormKind::Evo => "EvoNorm",
                NormKind::FilterResponse => "FRN",
            },
            activation: match self.norm {
                NormKind::Batch | NormKind::Group => "ReLU".into(),
                NormKind::Evo | NormKind::FilterResponse => "-".into(),
            },
            ..Components::CNN
        }
    }

    /// Channels of the stem.
    fn stem_channels(&self) -> usize {
        64 * self.width
    }

    /// Channels that a stage gives.
    fn channels(&self, stage: usize) -> usize {
        let first = if self.block == BlockKind::Basic { 64 } else { 256 };
        (first << stage) * self.width
    }

    /// Channels that the network, or so much of it as there is, gives.
    pub(super) fn outputs(&self) -> usize {
        self.layers.len().checked_sub(1).map_or(self.stem_channels(), |last| self.channels(last))
    }

    fn conv(&self, inputs: usize, outputs: usize, kernel: usize) -> Conv2dConfig {
        let conv = Conv2d::config(inputs, outputs, kernel);
        let conv = if self.standardised { conv.standardised(1e-8) } else { conv };
        if self.border == Border::Same { conv.padding(Padding::Same) } else { conv }
    }

    fn norm(&self, channels: usize, device: &Device) -> Norm2d {
        match self.norm {
            NormKind::Batch => Norm2d::batch(channels, device),
            NormKind::Group => Norm2d::group(32, channels, device),
            NormKind::Evo => Norm2d::Evo(EvoNorm::new(32, channels, 1e-5, device)),
            NormKind::FilterResponse => Norm2d::FilterResponse(FilterResponseNorm::new(channels, device)),
        }
    }
}

/// A ResNet V2. See [`Config`].
#[derive(Module, Debug)]
pub struct ResNetV2 {
    stem: Stem,
    stages: Vec<Stage>,
    norm: Norm2d,
    head: Head,
    #[module(skip)]
    dropout: Dropout,
}

/// A classifier that is kept as a 1×1 convolution.
#[derive(Module, Debug)]
struct Head {
    fc: Conv2d,
}

impl ResNetV2 {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let network = Self {
            stem: Stem::new(config, device),
            stages: stages(config, device),
            norm: config.norm(config.outputs(), device),
            head: Head { fc: Conv2d::config(config.outputs(), num_classes, 1).bias().build(device) },
            dropout: config.regularisation.dropout(),
        };
        initialised(network, |parameter| (parameter.key == "head.fc.weight").then_some(Initial::Normal(0.01)))
    }
}

impl Architecture for ResNetV2 {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = self.stem.forward(images, taps, "stem");
        let x = forward_stages(&self.stages, x, taps, "stages");
        let x = taps.map(|| "norm".into(), self.norm.forward(x, Activation::Relu));
        let features = taps.map(|| "head.global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.fc.forward_vectors(self.dropout.forward(features.clone())), features }
    }
}

/// The network up to its last stage, as the hybrid Vision Transformers begin with it.
#[derive(Module, Debug)]
pub(super) struct Trunk {
    stem: Stem,
    stages: Vec<Stage>,
}

impl Trunk {
    pub(super) fn new(config: &Config, device: &Device) -> Self {
        Self { stem: Stem::new(config, device), stages: stages(config, device) }
    }

    /// `[batch, 3, height, width]` → `[batch, channel, height', width']`; what is shown has names that begin with `path`.
    pub(super) fn forward(&self, images: Tensor<4>, taps: &mut Taps, path: &str) -> Tensor<4> {
        let x = self.stem.forward(images, taps, &format!("{path}.stem"));
        forward_stages(&self.stages, x, taps, &format!("{path}.stages"))
    }
}

fn stages(config: &Config, device: &Device) -> Vec<Stage> {
    let stage = |(index, &layers): (usize, &usize)| {
        let before = index.checked_sub(1).map_or(config.stem_channels(), |before| config.channels(before));
        let outputs = config.channels(index);
        let block = |position| {
            let first = position == 0;
            let stride = if first && index > 0 { 2 } else { 1 };
            let drop_path = config.regularisation.growing(config.layers, index, position);
            let inputs = if first { before } else { outputs };
            Block { drop_path, ..Block::new(config, inputs, outputs, stride, first, device) }
        };
        Stage { blocks: (0..layers).map(block).collect() }
    };
    config.layers.iter().enumerate().map(stage).collect()
}

fn forward_stages(stages: &[Stage], mut x: Tensor<4>, taps: &mut Taps, path: &str) -> Tensor<4> {
    for (index, stage) in stages.iter().enumerate() {
        x = taps.stage(|| format!("{path}.{index}.blocks"), &stage.blocks, x, |block, x| block.forward(x));
        x = taps.map(|| format!("{path}.{index}"), x);
    }
    x
}

/// Convolution(s) and pooling, which both halve the image.
#[derive(Module, Debug)]
pub(super) enum Stem {
    Plain(PlainStem),
    Deep(DeepStem),
}

#[derive(Module, Debug)]
pub(super) struct PlainStem {
    conv: Conv2d,
    norm: Option<Norm2d>,
    #[module(skip)]
    border: Border,
}

#[derive(Module, Debug)]
pub(super) struct DeepStem {
    conv1: Conv2d,
    norm1: Norm2d,
    conv2: Conv2d,
    norm2: Norm2d,
    conv3: Conv2d,
}

impl Stem {
    pub(super) fn new(config: &Config, device: &Device) -> Self {
        let outputs = config.stem_channels();
        let conv = |inputs, outputs, kernel| config.conv(inputs, outputs, kernel);
        match config.stem {
            StemKind::Plain => Self::Plain(PlainStem {
                conv: conv(3, outputs, 7).stride(2).build(device),
                norm: (config.block == BlockKind::PostNormBottleneck).then(|| config.norm(outputs, device)),
                border: config.border,
            }),
            StemKind::Deep([first, second]) => Self::Deep(DeepStem {
                conv1: conv(3, first, 3).stride(2).build(device),
                norm1: config.norm(first, device),
                conv2: conv(first, second, 3).build(device),
                norm2: config.norm(second, device),
                conv3: conv(second, outputs, 3).build(device),
            }),
        }
    }

    /// As [`Trunk::forward`].
    pub(super) fn forward(&self, x: Tensor<4>, taps: &mut Taps, path: &str) -> Tensor<4> {
        let (x, border) = match self {
            Self::Plain(PlainStem { conv, norm: None, border }) => {
                (taps.map(|| format!("{path}.conv"), conv.forward(x)), *border)
            }
            Self::Plain(PlainStem { conv, norm: Some(norm), border }) => {
                (taps.map(|| format!("{path}.norm"), norm.after(conv, x, None, Activation::Relu)), *border)
            }
            Self::Deep(DeepStem { conv1, norm1, conv2, norm2, conv3 }) => {
                let x = norm1.after(conv1, x, None, Activation::Relu);
                let x = norm2.after(conv2, x, None, Activation::Relu);
                (taps.map(|| format!("{path}.conv3"), conv3.forward(x)), Border::Usual)
            }
        };
        match border {
            Border::Usual => max_pool(x, 3, 2, 1),
            Border::Zeros => max_pool(x.pad((1, 1, 1, 1), 0.0), 3, 2, 0),
            // Of an even number of rows and columns, the last windows lack the last.
            Border::Same => max_pool_ceil(x, 3, 2),
        }
    }
}

/// Blocks of one width.
#[derive(Module, Debug)]
pub(super) struct Stage {
    blocks: Vec<Block>,
}

/// A residual block of any kind; a bottleneck has a third convolution.
#[derive(Module, Debug)]
struct Block {
    downsample: Option<Shortcut>,
    norm1: Norm2d,
    conv1: Conv2d,
    norm2: Norm2d,
    conv2: Conv2d,
    norm3: Option<Norm2d>,
    conv3: Option<Conv2d>,
    norm_first: bool,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Block {
    fn new(config: &Config, inputs: usize, outputs: usize, stride: usize, first: bool, device: &Device) -> Self {
        let (basic, norm_first) = match config.block {
            BlockKind::Basic => (true, true),
            BlockKind::Bottleneck => (false, true),
            BlockKind::PostNormBottleneck => (false, false),
        };
        let middle = if basic { outputs } else { outputs / 4 };
        // Channels before and after each convolution; a normalisation stands on one side of it.
        let side = |before, after| config.norm(if norm_first { before } else { after }, device);
        let conv = |inputs, outputs, kernel| config.conv(inputs, outputs, kernel);
        let has_shortcut = if basic { stride != 1 || inputs != outputs } else { first };
        Self {
            downsample: has_shortcut.then(|| Shortcut::new(config, inputs, outputs, stride, device)),
            norm1: side(inputs, middle),
            conv1: if basic { conv(inputs, middle, 3).stride(stride) } else { conv(inputs, middle, 1) }.build(device),
            norm2: side(middle, middle),
            conv2: conv(middle, middle, 3).stride(if basic { 1 } else { stride }).build(device),
            norm3: (!basic).then(|| side(middle, outputs)),
            conv3: (!basic).then(|| conv(middle, outputs, 1).build(device)),
            norm_first,
            drop_path: StochasticDepth::NONE,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        const RELU: Activation = Activation::Relu;
        let shortcut = |of: &Tensor<4>, or: &Tensor<4>| match &self.downsample {
            Some(downsample) => downsample.forward(of.clone()),
            None => or.clone(),
        };
        if let (false, Some(norm3), Some(conv3)) = (self.norm_first, &self.norm3, &self.conv3) {
            let shortcut = shortcut(&x, &x);
            let y = self.norm1.after(&self.conv1, x, None, RELU);
            let y = self.norm2.after(&self.conv2, y, None, RELU);
            return self.drop_path.residual_activated(shortcut, RELU, |shortcut, activation| {
                norm3.after(conv3, y, Some(shortcut), activation)
            });
        }
        let y = self.norm1.forward(x.clone(), RELU);
        let shortcut = shortcut(&y, &x);
        let y = self.norm2.after(&self.conv1, y, None, RELU);
        let (y, last) = match (&self.norm3, &self.conv3) {
            (Some(norm), Some(conv)) => (norm.after(&self.conv2, y, None, RELU), conv),
            _ => (y, &self.conv2),
        };
        self.drop_path.residual(shortcut, |shortcut| {
            last.forward_then(y, Then::activation(Activation::Identity).residual(shortcut))
        })
    }
}

/// What brings a block's input to the shape of its output.
#[derive(Module, Debug)]
struct Shortcut {
    conv: Conv2d,
    norm: Option<Norm2d>,
    /// Whether 2 × 2 windows are averaged first.
    averages: bool,
}

impl Shortcut {
    fn new(config: &Config, inputs: usize, outputs: usize, stride: usize, device: &Device) -> Self {
        let conv = config.conv(inputs, outputs, 1);
        let after = config.block == BlockKind::PostNormBottleneck;
        Self {
            conv: if config.average_down { conv } else { conv.stride(stride) }.build(device),
            norm: after.then(|| config.norm(outputs, device)),
            averages: config.average_down && stride == 2,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = if self.averages { average_pool(x, 2, 2) } else { x };
        match &self.norm {
            Some(norm) => norm.after(&self.conv, x, None, Activation::Identity),
            None => self.conv.forward(x),
        }
    }
}
