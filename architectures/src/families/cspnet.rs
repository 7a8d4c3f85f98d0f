//! CSPNet and DarkNet: stages that split their channels, convolve one half and join it with the other.
//!
//! Wang et al., *CSPNet: A New Backbone that can Enhance Learning Capability of CNN* (arXiv 1911.11929); Redmon & Farhadi,
//! *YOLOv3* (1804.02767), for DarkNet-53. The stages of `cs3` networks are those of YOLOv5.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Conv2d, ConvNorm, Linear, Named, Padding, SqueezeExcite, add, global_average_pool, make_divisible,
    make_divisible_limited, max_pool,
};
use crate::taps::Taps;

/// Which CSPNet. What is given by stage and is shorter than [`Self::depths`] ends in a value for all others.
#[derive(Debug, Clone)]
pub struct Config {
    /// The first layers.
    pub stem: StemKind,
    /// Blocks in each stage.
    pub depths: &'static [usize],
    /// Channels of each stage.
    pub channels: &'static [usize],
    /// All depths and channels are multiplied by these.
    pub scale: Scale,
    /// The kind of all stages.
    pub stage: StageKind,
    /// The kind of all blocks.
    pub block: BlockKind,
    /// Groups of the 3×3 convolutions, by stage.
    pub groups: &'static [usize],
    /// Channels of a block, as a part of the stage's, by stage.
    pub block_ratio: &'static [f64],
    /// Channels within a block, as a part of its own, by stage.
    pub bottle_ratio: &'static [f64],
    /// Squeeze-and-excitation within the blocks, by its reduction.
    pub squeeze_excite: Option<f64>,
    /// Of the whole network.
    pub activation: Activation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// Factors for depths and widths.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// For the blocks of a stage; what remains is dropped.
    pub depth: f64,
    /// For channels, rounded to a multiple of eight.
    pub width: f64,
}

/// The first layers.
#[derive(Debug, Clone, Copy)]
pub enum StemKind {
    /// 3×3 convolutions to so many channels, before scaling, of which the first has this stride.
    Plain(&'static [usize], usize),
    /// One 7×7 convolution of stride 2, and pooling.
    Pooled,
    /// Three 3×3 convolutions, of which the first has stride 2, and pooling.
    DeepPooled,
    /// One 6×6 convolution of stride 2 (YOLOv5's "focus").
    Focus,
}

/// How a stage uses its blocks. All but the first stage behind a pooled stem begin by halving the image.
#[derive(Debug, Clone, Copy)]
pub enum StageKind {
    /// The blocks see all channels (DarkNet).
    Dark,
    /// The blocks see half of the channels, and each half has a convolution behind it.
    Cross {
        /// Channels that are split, as a multiple of the stage's, by stage.
        expand_ratio: &'static [f64],
        /// Whether there is no activation before the split.
        linear: bool,
        /// Whether the convolution that halves the image also widens it.
        down_growth: bool,
    },
    /// The same with one convolution behind both halves.
    Cross3,
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// 1×1, 3×3, 1×1.
    Bottleneck,
    /// 1×1, 3×3.
    Dark,
    /// 3×3, 1×1.
    Edge,
}

const UNSCALED: Scale = Scale { depth: 1.0, width: 1.0 };

const CSPRESNET50: Config = Config {
    stem: StemKind::Pooled,
    depths: &[3, 3, 5, 2],
    channels: &[128, 256, 512, 1024],
    scale: UNSCALED,
    stage: StageKind::Cross { expand_ratio: &[2.0], linear: true, down_growth: false },
    block: BlockKind::Bottleneck,
    groups: &[1],
    block_ratio: &[1.0],
    bottle_ratio: &[0.5],
    squeeze_excite: None,
    activation: Activation::LeakyRelu,
    input_size: 256,
    num_classes: 1000,
};
const CSPRESNEXT50: Config = Config {
    channels: &[256, 512, 1024, 2048],
    stage: StageKind::Cross { expand_ratio: &[1.0], linear: true, down_growth: false },
    groups: &[32],
    block_ratio: &[0.5],
    bottle_ratio: &[1.0],
    ..CSPRESNET50
};
const DARKNET53: Config = Config {
    stem: StemKind::Plain(&[32], 1),
    depths: &[1, 2, 8, 8, 4],
    channels: &[64, 128, 256, 512, 1024],
    stage: StageKind::Dark,
    block: BlockKind::Dark,
    ..CSPRESNET50
};
const DARKNET21: Config = Config { depths: &[1, 1, 1, 2, 2], ..DARKNET53 };
const CS3DARKNET: Config = Config {
    stem: StemKind::Plain(&[32, 64], 2),
    depths: &[3, 6, 9, 3],
    stage: StageKind::Cross3,
    block: BlockKind::Dark,
    block_ratio: &[0.5],
    bottle_ratio: &[1.0],
    activation: Activation::Silu,
    ..CSPRESNET50
};
const CS3EDGENET: Config = Config { block: BlockKind::Edge, bottle_ratio: &[1.5], ..CS3DARKNET };

const SMALL: Scale = Scale { depth: 0.5, width: 0.5 };
const MEDIUM: Scale = Scale { depth: 0.67, width: 0.75 };
const EXTRA: Scale = Scale { depth: 1.33, width: 1.25 };

const fn scaled(scale: Scale, config: Config) -> Config {
    Config { scale, ..config }
}
const fn focus(scale: Scale) -> Config {
    Config { stem: StemKind::Focus, ..scaled(scale, CS3DARKNET) }
}
const fn se(reduction: f64, config: Config) -> Config {
    Config { squeeze_excite: Some(reduction), ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("cs3darknet_focus_l", focus(UNSCALED)),
    ("cs3darknet_focus_m", focus(MEDIUM)),
    ("cs3darknet_focus_s", focus(SMALL)),
    ("cs3darknet_focus_x", focus(EXTRA)),
    ("cs3darknet_l", CS3DARKNET),
    ("cs3darknet_m", scaled(MEDIUM, CS3DARKNET)),
    ("cs3darknet_s", scaled(SMALL, CS3DARKNET)),
    ("cs3darknet_x", scaled(EXTRA, CS3DARKNET)),
    ("cs3edgenet_x", scaled(EXTRA, CS3EDGENET)),
    ("cs3se_edgenet_x", se(0.25, scaled(EXTRA, CS3EDGENET))),
    ("cs3sedarknet_l", se(0.25, CS3DARKNET)),
    ("cs3sedarknet_x", se(0.0625, scaled(EXTRA, CS3DARKNET))),
    (
        "cspdarknet53",
        Config {
            stage: StageKind::Cross { expand_ratio: &[2.0, 1.0], linear: false, down_growth: true },
            block_ratio: &[1.0, 0.5],
            bottle_ratio: &[0.5, 1.0],
            ..DARKNET53
        },
    ),
    ("cspresnet50", CSPRESNET50),
    ("cspresnet50d", Config { stem: StemKind::DeepPooled, ..CSPRESNET50 }),
    ("cspresnet50w", Config { stem: StemKind::DeepPooled, groups: &[1], bottle_ratio: &[0.25], ..CSPRESNEXT50 }),
    ("cspresnext50", CSPRESNEXT50),
    ("darknet17", Config { depths: &[1], ..DARKNET53 }),
    ("darknet21", DARKNET21),
    ("darknet53", DARKNET53),
    ("sedarknet21", se(0.0625, DARKNET21)),
];

configuration!(CspNet, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        let grouped = self.groups.iter().any(|&groups| groups > 1);
        Components {
            stem: match self.stem {
                StemKind::Plain([_], stride) => format!("3s{stride}").into(),
                StemKind::Plain(_, stride) => format!("3s{stride}/3").into(),
                StemKind::Pooled => "7s2".into(),
                StemKind::DeepPooled => "3s2/3/3".into(),
                StemKind::Focus => "6s2".into(),
            },
            activation: Components::activations([self.activation]),
            stem_pooling: self.pools(),
            channel_attention: if self.squeeze_excite.is_some() { "Yes (SE)" } else { "No" },
            channel_attention_location: if self.squeeze_excite.is_some() { "Middle" } else { "~" },
            grouped_convolution: grouped,
            ..Components::CNN
        }
    }

    fn pools(&self) -> bool {
        matches!(self.stem, StemKind::Pooled | StemKind::DeepPooled)
    }

    fn scaled(&self, channels: usize) -> usize {
        make_divisible(channels as f64 * self.scale.width, 8)
    }
}

/// The value for a stage, or the last one.
fn of<T: Copy>(values: &[T], stage: usize) -> T {
    values[stage.min(values.len() - 1)]
}

fn part(channels: usize, ratio: f64) -> usize {
    (channels as f64 * ratio).round_ties_even() as usize
}

/// A CSPNet. See [`Config`].
#[derive(Module, Debug)]
pub struct CspNet {
    stem: Named<ConvNorm>,
    stages: Vec<Stage>,
    head: Head,
    pools: bool,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

impl CspNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let (widths, kernel, stride): (Vec<usize>, _, _) = match config.stem {
            StemKind::Plain(widths, stride) => (widths.iter().map(|&width| config.scaled(width)).collect(), 3, stride),
            StemKind::Pooled => (vec![64], 7, 2),
            StemKind::DeepPooled => (vec![32, 32, 64], 3, 2),
            StemKind::Focus => (vec![config.scaled(64)], 6, 2),
        };
        let mut inputs = 3;
        let convolution = |(index, width)| {
            let conv = Conv2d::config(inputs, width, kernel).stride(if index == 0 { stride } else { 1 });
            let conv = conv.padding(Padding::Symmetric((kernel - 1) / 2));
            inputs = width;
            (format!("conv{}", index + 1), ConvNorm::new(conv, config.activation, device))
        };
        let stem = widths.into_iter().enumerate().map(convolution).collect();
        let stages = (0..config.channels.len())
            .map(|index| {
                let stage = Stage::new(config, index, inputs, device);
                inputs = config.scaled(config.channels[index]);
                stage
            })
            .collect();
        Self { stem, stages, head: Head { fc: Linear::new(inputs, num_classes, device) }, pools: config.pools() }
    }
}

impl Architecture for CspNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = images;
        for (name, conv) in self.stem.iter() {
            x = taps.map(|| format!("stem.{name}"), conv.forward(x));
        }
        if self.pools {
            x = taps.map(|| "stem.pool".into(), max_pool(x, 3, 2, 1));
        }
        for (index, stage) in self.stages.iter().enumerate() {
            let name = |position| format!("stages.{index}.blocks.{position}");
            x = stage.forward(x, |position, x| taps.map(|| name(position), x));
            x = taps.map(|| format!("stages.{index}"), x);
        }
        let features = taps.map(|| "head.global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

/// A stage of any kind.
#[derive(Module, Debug)]
struct Stage {
    conv_down: Option<ConvNorm>,
    /// Widens before the split.
    conv_exp: Option<ConvNorm>,
    blocks: Vec<Block>,
    /// Behind the half with the blocks.
    conv_transition_b: Option<ConvNorm>,
    /// Behind both halves.
    conv_transition: Option<ConvNorm>,
    /// Whether the blocks see the first half, or the second.
    blocks_first: bool,
}

impl Stage {
    fn new(config: &Config, index: usize, inputs: usize, device: &Device) -> Self {
        let outputs = config.scaled(config.channels[index]);
        let activation = config.activation;
        let pointwise =
            |inputs, outputs, activation| ConvNorm::new(Conv2d::config(inputs, outputs, 1), activation, device);
        let (expand_ratio, linear, down_growth) = match config.stage {
            StageKind::Dark => (1.0, false, true),
            StageKind::Cross { expand_ratio, linear, down_growth } => (of(expand_ratio, index), linear, down_growth),
            StageKind::Cross3 => (1.0, false, false),
        };
        let expanded = part(outputs, expand_ratio);
        let splits = !matches!(config.stage, StageKind::Dark);
        let halves = index > 0 || !config.pools();
        let down = if halves && down_growth { outputs } else { inputs };
        let conv_down = || {
            let conv = Conv2d::config(inputs, down, 3).stride(2).padding(Padding::Symmetric(1));
            ConvNorm::new(conv.groups(of(config.groups, index)), activation, device)
        };
        let before_blocks = if splits { expanded / 2 } else { outputs };
        let block_outputs = part(outputs, of(config.block_ratio, index));
        let block = |position| {
            let inputs = if position == 0 { before_blocks } else { block_outputs };
            Block::new(config, index, inputs, block_outputs, device)
        };
        let before_split = if linear { Activation::Identity } else { activation };
        let two_convolutions = matches!(config.stage, StageKind::Cross { .. });
        Self {
            conv_down: halves.then(conv_down),
            conv_exp: splits.then(|| pointwise(down, expanded, before_split)),
            blocks: (0..(of(config.depths, index) as f64 * config.scale.depth) as usize).map(block).collect(),
            conv_transition_b: two_convolutions.then(|| pointwise(block_outputs, expanded / 2, activation)),
            conv_transition: splits.then(|| pointwise(expanded, outputs, activation)),
            blocks_first: !two_convolutions,
        }
    }

    /// `show` gets every block's result with its position.
    fn forward(&self, x: Tensor<4>, mut show: impl FnMut(usize, Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let x = match &self.conv_down {
            Some(conv) => conv.forward(x),
            None => x,
        };
        let mut blocks =
            |x| self.blocks.iter().enumerate().fold(x, |x, (position, block)| show(position, block.forward(x)));
        let (Some(conv_exp), Some(conv_transition)) = (&self.conv_exp, &self.conv_transition) else {
            return blocks(x);
        };
        let x = conv_exp.forward(x);
        let half = x.dims()[1] / 2;
        let (first, second) = (x.clone().narrow(1, 0, half), x.narrow(1, half, half));
        let halves = if self.blocks_first { vec![blocks(first), second] } else { vec![first, blocks(second)] };
        let halves = match (&self.conv_transition_b, <[_; 2]>::try_from(halves)) {
            (Some(conv), Ok([first, second])) => vec![first, conv.forward(second)],
            (_, Ok(halves)) => halves.into(),
            (_, Err(_)) => unreachable!("two halves"),
        };
        conv_transition.forward(Tensor::cat(halves, 1))
    }
}

/// A block of any kind beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    conv1: ConvNorm,
    attn: Option<SqueezeExcite>,
    conv2: ConvNorm,
    conv3: Option<ConvNorm>,
    #[module(skip)]
    activation: Activation,
}

impl Block {
    fn new(config: &Config, stage: usize, inputs: usize, outputs: usize, device: &Device) -> Self {
        let middle = part(outputs, of(config.bottle_ratio, stage));
        let conv = |inputs, outputs, kernel, activation| {
            let groups = if kernel == 3 { of(config.groups, stage) } else { 1 };
            ConvNorm::new(Conv2d::config(inputs, outputs, kernel).groups(groups), activation, device)
        };
        let activation = config.activation;
        let (conv1, conv2, conv3) = match config.block {
            BlockKind::Bottleneck => (
                conv(inputs, middle, 1, activation),
                conv(middle, middle, 3, activation),
                Some(conv(middle, outputs, 1, Activation::Identity)),
            ),
            BlockKind::Dark => (conv(inputs, middle, 1, activation), conv(middle, outputs, 3, activation), None),
            BlockKind::Edge => (conv(inputs, middle, 3, activation), conv(middle, outputs, 1, activation), None),
        };
        let attention = |reduction: f64| {
            let reduced = make_divisible_limited(middle as f64 * reduction, 8, 0.0);
            SqueezeExcite::with_activation(middle, reduced, activation, device)
        };
        Self { conv1, attn: config.squeeze_excite.map(attention), conv2, conv3, activation }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv1.forward(x.clone());
        let y = match &self.attn {
            Some(attention) => attention.forward(y),
            None => y,
        };
        let y = self.conv2.forward(y);
        match &self.conv3 {
            Some(conv) => conv.forward_residual(y, x, self.activation),
            None => add(y, x, Activation::Identity),
        }
    }
}
