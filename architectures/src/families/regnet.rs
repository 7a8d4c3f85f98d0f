//! RegNet X, Y and Z: networks whose widths follow a quantised line.
//!
//! Radosavovic et al., *Designing Network Design Spaces* (arXiv 2003.13678); Dollár et al., *Fast and Accurate Model Scaling*
//! (2103.06877), for Z. V is timm's: Y with normalisation and activation before the convolutions.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::resnet::HalvingPool;
use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::{Initial, initialised};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Conv2dConfig, ConvNorm, Dropout, Linear, Named, Padding, Regularisation,
    SqueezeExcite, StochasticDepth, Then, global_average_pool, make_divisible,
};
use crate::taps::Taps;

/// Which RegNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// Blocks in all.
    pub depth: usize,
    /// The width of the first block.
    pub width: usize,
    /// By how much each block is wider than the one before, before rounding.
    pub slope: f64,
    /// By which factor the widths of two stages differ.
    pub factor: f64,
    /// Channels of a group in the 3×3 convolutions.
    pub group_width: usize,
    /// Channels within a block, as a multiple of its own.
    pub bottle_ratio: usize,
    /// Whether blocks have squeeze-and-excitation, of a quarter of their inputs (Y and Z).
    pub squeeze_excite: bool,
    /// Whether widths are made multiples of the group's as torchvision does it.
    pub torchvision: bool,
    /// Without a shortcut where the shape changes, and without an activation behind the sum (Z).
    pub linear: bool,
    /// Whether normalisation and activation come before the convolutions (V).
    pub preactivated: bool,
    /// Whether shortcuts shrink by averaging; only with [`Self::preactivated`].
    pub average_down: bool,
    /// Channels of a last convolution, if there is one.
    pub head: Option<usize>,
    /// Of the whole network.
    pub activation: Activation,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn x(depth: usize, width: usize, slope: f64, factor: f64, group_width: usize) -> Config {
    Config {
        depth,
        width,
        slope,
        factor,
        group_width,
        bottle_ratio: 1,
        squeeze_excite: false,
        torchvision: false,
        linear: false,
        preactivated: false,
        average_down: false,
        head: None,
        activation: Activation::Relu,
        regularisation: Regularisation::NONE,
        input_size: 224,
        num_classes: 1000,
    }
}
const fn y(depth: usize, width: usize, slope: f64, factor: f64, group_width: usize) -> Config {
    Config { squeeze_excite: true, ..x(depth, width, slope, factor, group_width) }
}
const fn v(average_down: bool, config: Config) -> Config {
    Config { preactivated: true, average_down, activation: Activation::Silu, ..config }
}
const fn z(depth: usize, width: usize, slope: f64, factor: f64, group_width: usize, head: Option<usize>) -> Config {
    Config {
        bottle_ratio: 4,
        linear: true,
        head,
        activation: Activation::Silu,
        ..y(depth, width, slope, factor, group_width)
    }
}
const fn torchvision(config: Config) -> Config {
    Config { torchvision: true, ..config }
}
const fn sized(input_size: usize, config: Config) -> Config {
    Config { input_size, ..config }
}

/// The networks of this family: depth, first width, slope, factor, width of a group.
pub const VARIANTS: &[(&str, Config)] = &[
    ("regnetv_040", v(false, y(22, 96, 31.41, 2.24, 64))),
    ("regnetv_064", v(true, y(25, 112, 33.22, 2.27, 72))),
    ("regnetx_002", x(13, 24, 36.44, 2.49, 8)),
    ("regnetx_004", x(22, 24, 24.48, 2.54, 16)),
    ("regnetx_004_tv", torchvision(x(22, 24, 24.48, 2.54, 16))),
    ("regnetx_006", x(16, 48, 36.97, 2.24, 24)),
    ("regnetx_008", x(16, 56, 35.73, 2.28, 16)),
    ("regnetx_016", x(18, 80, 34.01, 2.25, 24)),
    ("regnetx_032", x(25, 88, 26.31, 2.25, 48)),
    ("regnetx_040", x(23, 96, 38.65, 2.43, 40)),
    ("regnetx_064", x(17, 184, 60.83, 2.07, 56)),
    ("regnetx_080", x(23, 80, 49.56, 2.88, 120)),
    ("regnetx_120", x(19, 168, 73.36, 2.37, 112)),
    ("regnetx_160", x(22, 216, 55.59, 2.1, 128)),
    ("regnetx_320", x(23, 320, 69.86, 2.0, 168)),
    ("regnety_002", y(13, 24, 36.44, 2.49, 8)),
    ("regnety_004", y(16, 48, 27.89, 2.09, 8)),
    ("regnety_006", y(15, 48, 32.54, 2.32, 16)),
    ("regnety_008", y(14, 56, 38.84, 2.4, 16)),
    ("regnety_008_tv", torchvision(y(14, 56, 38.84, 2.4, 16))),
    ("regnety_016", y(27, 48, 20.71, 2.65, 24)),
    ("regnety_032", y(21, 80, 42.63, 2.66, 24)),
    ("regnety_040", y(22, 96, 31.41, 2.24, 64)),
    ("regnety_064", y(25, 112, 33.22, 2.27, 72)),
    ("regnety_080", y(17, 192, 76.82, 2.19, 56)),
    ("regnety_080_tv", torchvision(y(17, 192, 76.82, 2.19, 56))),
    ("regnety_120", y(19, 168, 73.36, 2.37, 112)),
    ("regnety_160", y(18, 200, 106.23, 2.48, 112)),
    ("regnety_320", y(20, 232, 115.89, 2.53, 232)),
    ("regnetz_005", z(21, 16, 10.7, 2.51, 4, Some(1024))),
    ("regnetz_040", sized(256, z(28, 48, 14.5, 2.226, 8, None))),
    ("regnetz_040_h", sized(256, z(28, 48, 14.5, 2.226, 8, Some(1536)))),
];

configuration!(RegNet, InputRule::Any, convert; regularisation);

const STEM: usize = 32;

impl Config {
    fn components(&self) -> Components {
        Components {
            base_architecture: "NAS (CNN)",
            stem: "3s2".into(),
            activation: Components::activations([self.activation]),
            stem_pooling: false,
            channel_attention: if self.squeeze_excite { "Yes (SE)" } else { "No" },
            channel_attention_location: if self.squeeze_excite { "Middle" } else { "~" },
            grouped_convolution: true,
            ..Components::CNN
        }
    }

    /// Width, width of a group and number of blocks of each stage (section 3.3 of the paper).
    fn stages(&self) -> Vec<[usize; 3]> {
        const STEP: f64 = 8.0;
        let mut stages: Vec<[usize; 3]> = Vec::new();
        let first = self.width as f64;
        for block in 0..self.depth {
            let width = block as f64 * self.slope + first;
            let power = ((width / first).ln() / self.factor.ln()).round_ties_even();
            let width = ((first * self.factor.powf(power)) / STEP).round_ties_even() * STEP;
            match stages.last_mut() {
                Some([before, _, blocks]) if *before == width as usize => *blocks += 1,
                _ => stages.push([width as usize, 0, 1]),
            }
        }
        for [width, group, _] in &mut stages {
            let middle = *width * self.bottle_ratio;
            *group = self.group_width.min(middle);
            let middle = if self.torchvision {
                make_divisible(middle as f64, *group)
            } else {
                (middle as f64 / *group as f64).round_ties_even() as usize * *group
            };
            *width = middle / self.bottle_ratio;
        }
        stages
    }
}

/// From the layouts of torchvision and of Classy Vision, in which SEER's networks are, deep in the state of their training.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    const CLASSY: &str = "classy_state_dict.base_model.model.";
    if checkpoint.names().any(|name| name.starts_with(CLASSY)) {
        checkpoint.keep_under(CLASSY);
        checkpoint.remove(|name| name.contains("projection_head") || name.contains("prototypes"));
        checkpoint.rename(|name| {
            let part = name.strip_prefix("trunk._feature_blocks.").or_else(|| name.strip_prefix("heads."));
            renamed(part.unwrap_or(name))
        });
    } else if checkpoint.contains("stem.0.weight") {
        checkpoint.rename(renamed);
    }
}

fn renamed(name: &str) -> String {
    const PARTS: [(&str, &str); 21] = [
        ("f.a.0.", "conv1.conv."),
        ("f.a.1.", "conv1.bn."),
        ("f.b.0.", "conv2.conv."),
        ("f.b.1.", "conv2.bn."),
        ("f.final_bn.", "conv3.bn."),
        ("f.se.excitation.0.", "se.fc1."),
        ("f.se.excitation.2.", "se.fc2."),
        ("f.se.", "se."),
        ("f.c.0.", "conv3.conv."),
        ("f.c.1.", "conv3.bn."),
        ("f.c.", "conv3.conv."),
        ("proj.0.", "downsample.conv."),
        ("proj.1.", "downsample.bn."),
        ("proj.", "downsample.conv."),
        ("bn.", "downsample.bn."),
        ("conv1.stem.0.", "stem.conv."),
        ("conv1.stem.1.", "stem.bn."),
        ("stem.0.", "stem.conv."),
        ("stem.1.", "stem.bn."),
        ("fc.", "head.fc."),
        ("0.clf.0.", "head.fc."),
    ];
    // Blocks are called `trunk_output.block2.block2-0.` there, or `res2.block2-0.`, and `s2.b1.` here.
    let in_block = || {
        let rest = name.strip_prefix("trunk_output.block").or_else(|| name.strip_prefix("res"))?;
        let (stage, rest) = rest.split_once(".block")?.1.split_once('-')?;
        let (position, part) = rest.split_once('.')?;
        Some((format!("s{stage}.b{}.", position.parse::<usize>().ok()? + 1), part))
    };
    let (block, part) = in_block().unwrap_or((String::new(), name));
    match PARTS.iter().find_map(|(there, here)| Some((*here, part.strip_prefix(there)?))) {
        Some((here, rest)) => format!("{block}{here}{rest}"),
        None => format!("{block}{part}"),
    }
}

/// A RegNet. See [`Config`].
#[derive(Module, Debug)]
pub struct RegNet {
    stem: Stem,
    s1: Named<Block>,
    s2: Named<Block>,
    s3: Named<Block>,
    s4: Named<Block>,
    final_conv: Option<ConvNorm>,
    head: Head,
    #[module(skip)]
    last_activation: Activation,
    #[module(skip)]
    dropout: Dropout,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

impl RegNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let mut inputs = STEM;
        let stages = config.stages();
        let depths: Vec<usize> = stages.iter().map(|[_, _, blocks]| *blocks).collect();
        let stages = stages.into_iter().enumerate().map(|(stage, [width, group, blocks])| {
            let block = |position| {
                let stride = if position == 0 { 2 } else { 1 };
                let middle = width * config.bottle_ratio;
                let drop_path = config.regularisation.growing(&depths, stage, position);
                let shape = BlockShape { inputs, middle, outputs: width, group, stride, drop_path };
                let block = Block::new(config, &shape, device);
                inputs = width;
                (format!("b{}", position + 1), block)
            };
            (0..blocks).map(block).collect::<Named<Block>>()
        });
        let stages: Vec<_> = stages.collect();
        let [s1, s2, s3, s4] = stages.try_into().expect("four stages come of the published numbers");
        let head = |channels| ConvNorm::new(Conv2d::config(inputs, channels, 1), config.activation, device);
        let activated_last = (config.linear || config.preactivated) && config.head.is_none();
        let stem = Conv2d::config(3, STEM, 3).stride(2);
        let network = Self {
            stem: if config.preactivated {
                Stem::Plain(stem.build(device))
            } else {
                Stem::Normalised(ConvNorm::new(stem, config.activation, device))
            },
            s1,
            s2,
            s3,
            s4,
            final_conv: config.head.map(head),
            head: Head { fc: Linear::new(config.head.unwrap_or(inputs), num_classes, device) },
            last_activation: if activated_last { config.activation } else { Activation::Identity },
            dropout: config.regularisation.dropout(),
        };
        initialised(network, |parameter| match parameter.key {
            "head.fc.weight" => Some(Initial::Normal(0.01)),
            // Residual branches begin as nothing, but those of Z.
            key if key.ends_with(".conv3.bn.weight") && !config.linear => Some(Initial::Constant(0.0)),
            _ => None,
        })
    }
}

impl Architecture for RegNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = match &self.stem {
            Stem::Plain(conv) => conv.forward(images),
            Stem::Normalised(conv) => conv.forward(images),
        };
        let mut x = taps.map(|| "stem".into(), x);
        for (index, stage) in [&self.s1, &self.s2, &self.s3, &self.s4].into_iter().enumerate() {
            for (name, block) in stage.iter() {
                x = taps.map(|| format!("s{}.{name}", index + 1), block.forward(x));
            }
            x = taps.map(|| format!("s{}", index + 1), x);
        }
        let x = match &self.final_conv {
            Some(conv) => conv.forward(x),
            None => self.last_activation.forward(x),
        };
        let features = taps.map(|| "head.global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.fc.forward(self.dropout.forward(features.clone())), features }
    }
}

#[derive(Module, Debug)]
enum Stem {
    Plain(Conv2d),
    Normalised(ConvNorm),
}

#[derive(Debug, Clone, Copy)]
struct BlockShape {
    inputs: usize,
    /// Channels within.
    middle: usize,
    outputs: usize,
    /// Channels of a group.
    group: usize,
    stride: usize,
    drop_path: StochasticDepth,
}

impl BlockShape {
    /// 1×1, grouped 3×3, 1×1.
    fn convolutions(&self) -> [Conv2dConfig; 3] {
        let Self { inputs, middle, outputs, group, stride, .. } = *self;
        let grouped = Conv2d::config(middle, middle, 3).stride(stride).groups(middle / group);
        [Conv2d::config(inputs, middle, 1), grouped, Conv2d::config(middle, outputs, 1)]
    }

    fn attention(&self, config: &Config, device: &Device) -> Option<SqueezeExcite> {
        let reduced = (self.inputs as f64 * 0.25).round_ties_even() as usize;
        let attention = || SqueezeExcite::with_activation(self.middle, reduced, config.activation, device);
        config.squeeze_excite.then(attention)
    }

    /// Whether the output has the input's shape.
    fn same(&self) -> bool {
        self.inputs == self.outputs && self.stride == 1
    }

    /// What brings the input to the output's shape.
    fn shortcut(&self) -> Conv2dConfig {
        Conv2d::config(self.inputs, self.outputs, 1).stride(self.stride).padding(Padding::Symmetric(0))
    }
}

/// A block of either kind.
#[derive(Module, Debug)]
enum Block {
    Plain(PlainBlock),
    Preactivated(PreactivatedBlock),
}

impl Block {
    fn new(config: &Config, shape: &BlockShape, device: &Device) -> Self {
        if config.preactivated {
            Self::Preactivated(PreactivatedBlock::new(config, shape, device))
        } else {
            Self::Plain(PlainBlock::new(config, shape, device))
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Plain(block) => block.forward(x),
            Self::Preactivated(block) => block.forward(x),
        }
    }
}

/// 1×1, grouped 3×3, squeeze-and-excitation, 1×1, beside a shortcut.
#[derive(Module, Debug)]
struct PlainBlock {
    conv1: ConvNorm,
    conv2: ConvNorm,
    se: Option<SqueezeExcite>,
    conv3: ConvNorm,
    downsample: Option<ConvNorm>,
    shortcut: bool,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl PlainBlock {
    fn new(config: &Config, shape: &BlockShape, device: &Device) -> Self {
        let conv = |conv, activation| ConvNorm::new(conv, activation, device);
        let [first, second, third] = shape.convolutions();
        let downsample = || conv(shape.shortcut(), Activation::Identity);
        Self {
            conv1: conv(first, config.activation),
            conv2: conv(second, config.activation),
            se: shape.attention(config, device),
            conv3: conv(third, Activation::Identity),
            downsample: (!shape.same() && !config.linear).then(downsample),
            shortcut: shape.same() || !config.linear,
            activation: if config.linear { Activation::Identity } else { config.activation },
            drop_path: shape.drop_path,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut y = self.conv2.forward(self.conv1.forward(x.clone()));
        if let Some(attention) = &self.se {
            y = attention.forward(y);
        }
        if !self.shortcut {
            return self.activation.forward(self.conv3.forward(y));
        }
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        };
        self.drop_path.residual_activated(shortcut, self.activation, |shortcut, activation| {
            self.conv3.forward_residual(y, shortcut, activation)
        })
    }
}

/// The same convolutions, each behind a normalisation and an activation; the shortcut begins behind the first activation.
#[derive(Module, Debug)]
struct PreactivatedBlock {
    norm1: BatchNorm2d,
    conv1: Conv2d,
    norm2: BatchNorm2d,
    conv2: Conv2d,
    se: Option<SqueezeExcite>,
    norm3: BatchNorm2d,
    conv3: Conv2d,
    downsample: Option<Downsample>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    drop_path: StochasticDepth,
}

/// What brings the input to the output's shape.
#[derive(Module, Debug)]
enum Downsample {
    Strided(Conv2d),
    /// In the places of timm's Sequential: `downsample.1`.
    Average((HalvingPool, Conv2d)),
}

impl PreactivatedBlock {
    fn new(config: &Config, shape: &BlockShape, device: &Device) -> Self {
        let [conv1, conv2, conv3] = shape.convolutions().map(|conv| conv.build(device));
        let norm = |channels| BatchNorm2d::new(channels, device);
        let downsample = || {
            if config.average_down {
                let pool = HalvingPool { halves: shape.stride == 2 };
                Downsample::Average((pool, shape.shortcut().stride(1).build(device)))
            } else {
                Downsample::Strided(shape.shortcut().build(device))
            }
        };
        Self {
            norm1: norm(shape.inputs),
            conv1,
            norm2: norm(shape.middle),
            conv2,
            se: shape.attention(config, device),
            norm3: norm(shape.middle),
            conv3,
            downsample: (!shape.same()).then(downsample),
            activation: config.activation,
            drop_path: shape.drop_path,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.norm1.forward(x, self.activation);
        let y = self.conv1.forward_then(x.clone(), Then::norm(&self.norm2, self.activation));
        let mut y = self.conv2.forward(y);
        if let Some(attention) = &self.se {
            y = attention.forward(y);
        }
        let y = self.norm3.forward(y, self.activation);
        let shortcut = match &self.downsample {
            Some(Downsample::Strided(conv)) => conv.forward(x),
            Some(Downsample::Average((pool, conv))) => conv.forward(pool.forward(x)),
            None => x,
        };
        self.drop_path.residual(shortcut, |shortcut| {
            self.conv3.forward_then(y, Then::activation(Activation::Identity).residual(shortcut))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torchvisions_names_become_timms() {
        let names = [
            ("stem.0.weight", "stem.conv.weight"),
            ("stem.1.running_mean", "stem.bn.running_mean"),
            ("trunk_output.block1.block1-0.proj.0.weight", "s1.b1.downsample.conv.weight"),
            ("trunk_output.block1.block1-0.proj.1.bias", "s1.b1.downsample.bn.bias"),
            ("trunk_output.block3.block3-11.f.a.0.weight", "s3.b12.conv1.conv.weight"),
            ("trunk_output.block3.block3-11.f.a.1.weight", "s3.b12.conv1.bn.weight"),
            ("trunk_output.block3.block3-11.f.b.0.weight", "s3.b12.conv2.conv.weight"),
            ("trunk_output.block3.block3-11.f.b.1.running_var", "s3.b12.conv2.bn.running_var"),
            ("trunk_output.block3.block3-11.f.se.fc1.weight", "s3.b12.se.fc1.weight"),
            ("trunk_output.block3.block3-11.f.se.fc2.bias", "s3.b12.se.fc2.bias"),
            ("trunk_output.block3.block3-11.f.c.0.weight", "s3.b12.conv3.conv.weight"),
            ("trunk_output.block3.block3-11.f.c.1.bias", "s3.b12.conv3.bn.bias"),
            ("fc.weight", "head.fc.weight"),
        ];
        let mut checkpoint = Checkpoint::new(names.map(|(there, _)| (there.to_owned(), vec![1])));
        convert(&VARIANTS[0].1, &mut checkpoint);
        for (there, here) in names {
            assert_eq!(checkpoint.unchanged(here), Some(there));
        }
        let mut converted = Checkpoint::new(names.map(|(_, here)| (here.to_owned(), vec![1])));
        convert(&VARIANTS[0].1, &mut converted);
        assert!(names.iter().all(|(_, here)| converted.unchanged(here) == Some(*here)));
    }

    /// What timm's `_filter_fn` makes of these.
    #[test]
    fn names_of_classy_vision_become_timms() {
        let names = [
            ("trunk._feature_blocks.conv1.stem.0.weight", "stem.conv.weight"),
            ("trunk._feature_blocks.conv1.stem.1.running_mean", "stem.bn.running_mean"),
            ("trunk._feature_blocks.res1.block1-0.proj.weight", "s1.b1.downsample.conv.weight"),
            ("trunk._feature_blocks.res1.block1-0.bn.bias", "s1.b1.downsample.bn.bias"),
            ("trunk._feature_blocks.res3.block3-11.f.a.0.weight", "s3.b12.conv1.conv.weight"),
            ("trunk._feature_blocks.res3.block3-11.f.a.1.weight", "s3.b12.conv1.bn.weight"),
            ("trunk._feature_blocks.res3.block3-11.f.b.0.weight", "s3.b12.conv2.conv.weight"),
            ("trunk._feature_blocks.res3.block3-11.f.b.1.running_var", "s3.b12.conv2.bn.running_var"),
            ("trunk._feature_blocks.res3.block3-11.f.se.excitation.0.weight", "s3.b12.se.fc1.weight"),
            ("trunk._feature_blocks.res3.block3-11.f.se.excitation.2.bias", "s3.b12.se.fc2.bias"),
            ("trunk._feature_blocks.res3.block3-11.f.c.weight", "s3.b12.conv3.conv.weight"),
            ("trunk._feature_blocks.res3.block3-11.f.final_bn.bias", "s3.b12.conv3.bn.bias"),
            ("heads.0.clf.0.weight", "head.fc.weight"),
        ];
        let names = names.map(|(there, here)| (format!("classy_state_dict.base_model.model.{there}"), here));
        // These belong to the training.
        let left = [
            "classy_state_dict.base_model.model.heads.0.projection_head.0.bias",
            "classy_state_dict.base_model.model.heads.1.prototypes0.weight",
            "classy_state_dict.optimizer.optim.state.0.momentum_buffer",
        ];
        let all = names.iter().map(|(there, _)| there.clone()).chain(left.map(str::to_owned));
        let mut checkpoint = Checkpoint::new(all.map(|name| (name, vec![1])));
        convert(&VARIANTS[0].1, &mut checkpoint);
        assert_eq!(checkpoint.names().count(), names.len());
        for (there, here) in &names {
            assert_eq!(checkpoint.unchanged(here), Some(there.as_str()));
        }
    }
}
