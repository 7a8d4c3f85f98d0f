//! ResNet and its relatives: ResNeXt, Wide ResNet, SE-ResNet, the c, d, s and t stems, blur pooling, group normalisation.
//!
//! He et al., *Deep Residual Learning for Image Recognition* (arXiv 1512.03385), with the stride in the 3×3 convolution;
//! Xie et al. (1611.05431); Hu et al. (1709.01507); He et al., *Bag of Tricks* (1812.01187); Zhang (1904.11486).

use burn::module::Module;
use burn::nn::Relu;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::{Initial, initialised};
use crate::layers::{
    Activation, Conv2d, Dropout, Linear, Norm2d, Padding, Regularisation, SqueezeExcite, StochasticDepth, add,
    average_pool, blur_pool, global_average_pool, make_divisible_limited, max_pool,
};
use crate::taps::Taps;

/// Which ResNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// The kind of block in all four stages.
    pub block: BlockKind,
    /// Blocks in each stage.
    pub layers: [usize; 4],
    /// Channels in each stage, before the block's expansion.
    pub channels: [usize; 4],
    /// Groups of the 3×3 convolution (ResNeXt).
    pub cardinality: usize,
    /// Channels per group, where 64 stands for the stage's own (Wide ResNet: 128).
    pub base_width: usize,
    /// The first layers.
    pub stem: StemKind,
    /// Whether a shortcut that shrinks does so by averaging (the d and t variants).
    pub average_down: bool,
    /// Whether every block ends in squeeze-and-excitation.
    pub squeeze_excite: bool,
    /// Whether strided steps are blurred first.
    pub blur: bool,
    /// Group normalisation in place of batch normalisation.
    pub group_norm: bool,
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
}

/// The first layers of the network, by the widths of their convolutions.
#[derive(Debug, Clone, Copy)]
pub enum StemKind {
    /// One 7×7 convolution to 64 channels.
    Plain,
    /// Three 3×3 convolutions.
    Deep([usize; 3]),
}

const STEM_C: StemKind = StemKind::Deep([32, 32, 64]);
const STEM_S: StemKind = StemKind::Deep([64, 64, 128]);
const STEM_T: StemKind = StemKind::Deep([24, 32, 64]);

const BASIC: Config = Config {
    block: BlockKind::Basic,
    layers: [2, 2, 2, 2],
    channels: [64, 128, 256, 512],
    cardinality: 1,
    base_width: 64,
    stem: StemKind::Plain,
    average_down: false,
    squeeze_excite: false,
    blur: false,
    group_norm: false,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
pub(super) const BOTTLENECK: Config = Config { block: BlockKind::Bottleneck, ..BASIC };

const LAYERS_34: [usize; 4] = [3, 4, 6, 3];
const LAYERS_50: [usize; 4] = [3, 4, 6, 3];
const LAYERS_101: [usize; 4] = [3, 4, 23, 3];
const LAYERS_152: [usize; 4] = [3, 8, 36, 3];
const LAYERS_200: [usize; 4] = [3, 24, 36, 3];

const fn c(layers: [usize; 4]) -> Config {
    Config { layers, stem: STEM_C, ..BOTTLENECK }
}
const fn d(layers: [usize; 4]) -> Config {
    Config { average_down: true, ..c(layers) }
}
const fn s(layers: [usize; 4]) -> Config {
    Config { layers, stem: STEM_S, ..BOTTLENECK }
}
const fn t(layers: [usize; 4]) -> Config {
    Config { layers, stem: STEM_T, average_down: true, ..BOTTLENECK }
}
const fn plain(layers: [usize; 4]) -> Config {
    Config { layers, ..BOTTLENECK }
}
const fn next(cardinality: usize, base_width: usize, config: Config) -> Config {
    Config { cardinality, base_width, ..config }
}
const fn se(config: Config) -> Config {
    Config { squeeze_excite: true, ..config }
}
const fn blur(config: Config) -> Config {
    Config { blur: true, ..config }
}
const fn at(input_size: usize, config: Config) -> Config {
    Config { input_size, ..config }
}

/// For 28 × 28 images of ten classes.
const DEMO: Config = Config {
    layers: [1, 1, 1, 1],
    channels: [24, 48, 64, 96],
    stem: StemKind::Deep([16, 16, 24]),
    average_down: true,
    input_size: 28,
    num_classes: 10,
    ..BASIC
};

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("demo_resnet", DEMO),
    (
        "demo_resnext",
        Config { block: BlockKind::Bottleneck, cardinality: 8, base_width: 8, channels: [16, 24, 48, 64], ..DEMO },
    ),
    ("demo_seresnet", Config { channels: [16, 32, 64, 96], ..se(DEMO) }),
    ("resnet10t", at(176, Config { block: BlockKind::Basic, ..t([1, 1, 1, 1]) })),
    ("resnet14t", at(176, t([1, 1, 1, 1]))),
    ("resnet18", BASIC),
    ("resnet18d", Config { block: BlockKind::Basic, ..d([2, 2, 2, 2]) }),
    ("resnet26", plain([2, 2, 2, 2])),
    ("resnet26d", d([2, 2, 2, 2])),
    ("resnet26t", at(256, t([2, 2, 2, 2]))),
    ("resnet34", Config { layers: LAYERS_34, ..BASIC }),
    ("resnet34d", Config { block: BlockKind::Basic, ..d(LAYERS_34) }),
    ("resnet50", plain(LAYERS_50)),
    ("resnet50_gn", Config { group_norm: true, ..plain(LAYERS_50) }),
    ("resnet50c", c(LAYERS_50)),
    ("resnet50d", d(LAYERS_50)),
    ("resnet50s", s(LAYERS_50)),
    ("resnet50t", t(LAYERS_50)),
    ("resnet101", plain(LAYERS_101)),
    ("resnet101c", c(LAYERS_101)),
    ("resnet101d", at(256, d(LAYERS_101))),
    ("resnet101s", s(LAYERS_101)),
    ("resnet152", plain(LAYERS_152)),
    ("resnet152c", c(LAYERS_152)),
    ("resnet152d", at(256, d(LAYERS_152))),
    ("resnet152s", s(LAYERS_152)),
    ("resnet200", plain(LAYERS_200)),
    ("resnet200d", at(256, d(LAYERS_200))),
    ("resnetblur18", blur(BASIC)),
    ("resnetblur50", blur(plain(LAYERS_50))),
    ("resnetblur50d", blur(d(LAYERS_50))),
    ("resnetblur101d", blur(d(LAYERS_101))),
    ("resnext50_32x4d", next(32, 4, plain(LAYERS_50))),
    ("resnext50d_32x4d", next(32, 4, d(LAYERS_50))),
    ("resnext101_32x4d", next(32, 4, plain(LAYERS_101))),
    ("resnext101_32x8d", next(32, 8, plain(LAYERS_101))),
    ("resnext101_32x16d", next(32, 16, plain(LAYERS_101))),
    ("resnext101_64x4d", next(64, 4, plain(LAYERS_101))),
    ("seresnet18", se(BASIC)),
    ("seresnet34", se(Config { layers: LAYERS_34, ..BASIC })),
    ("seresnet50", se(plain(LAYERS_50))),
    ("seresnet50t", se(t(LAYERS_50))),
    ("seresnet101", se(plain(LAYERS_101))),
    ("seresnet152", se(plain(LAYERS_152))),
    ("seresnet152d", at(256, se(d(LAYERS_152)))),
    ("seresnet200d", at(256, se(d(LAYERS_200)))),
    ("seresnext26d_32x4d", se(next(32, 4, d([2, 2, 2, 2])))),
    ("seresnext26t_32x4d", se(next(32, 4, t([2, 2, 2, 2])))),
    ("seresnext50_32x4d", se(next(32, 4, plain(LAYERS_50)))),
    ("seresnext101_32x4d", se(next(32, 4, plain(LAYERS_101)))),
    ("seresnext101_32x8d", se(next(32, 8, plain(LAYERS_101)))),
    ("seresnext101d_32x8d", se(next(32, 8, d(LAYERS_101)))),
    ("seresnext101_64x4d", se(next(64, 4, plain(LAYERS_101)))),
    ("wide_resnet50_2", next(1, 128, plain(LAYERS_50))),
    ("wide_resnet101_2", next(1, 128, plain(LAYERS_101))),
];

configuration!(ResNet, InputRule::Any; regularisation);

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: match self.stem {
                StemKind::Plain => "7s2".into(),
                StemKind::Deep(_) => "3s2/3/3".into(),
            },
            normalization: if self.group_norm { "GN" } else { "BN" },
            channel_attention: if self.squeeze_excite { "Yes (SE)" } else { "No" },
            channel_attention_location: if self.squeeze_excite { "End" } else { "~" },
            grouped_convolution: self.cardinality > 1,
            ..Components::CNN
        }
    }
}

/// A residual network. See [`Config`].
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Stem,
    bn1: Norm2d,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    fc: Linear,
    blur: bool,
    #[module(skip)]
    dropout: Dropout,
}

impl ResNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let (conv1, mut inputs) = Stem::new(config, device);
        let bn1 = norm(config, inputs, device);
        let mut stage = |index: usize| {
            (0..config.layers[index])
                .map(|position| {
                    let stride = if index > 0 && position == 0 { 2 } else { 1 };
                    let shape = BlockShape { inputs, channels: config.channels[index], stride };
                    inputs = shape.outputs(config);
                    let drop_path = config.regularisation.growing(&config.layers, index, position);
                    Block { drop_path, ..Block::new(config, shape, device) }
                })
                .collect::<Vec<_>>()
        };
        let [layer1, layer2, layer3, layer4] = [stage(0), stage(1), stage(2), stage(3)];
        let network = Self {
            conv1,
            bn1,
            layer1,
            layer2,
            layer3,
            layer4,
            fc: Linear::new(inputs, num_classes, device),
            blur: config.blur,
            dropout: config.regularisation.dropout(),
        };
        let last_norm = match config.block {
            BlockKind::Basic => ".bn2.weight",
            BlockKind::Bottleneck => ".bn3.weight",
        };
        initialised(network, |parameter| match parameter.key {
            // Residual branches begin as nothing (Goyal et al. 2017).
            key if key.starts_with("layer") && key.ends_with(last_norm) => Some(Initial::Constant(0.0)),
            key if key.starts_with("fc.") || key.ends_with(".bias") => parameter.pytorch(),
            _ => parameter.convolution(),
        })
    }
}

impl Architecture for ResNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = taps.map(|| "act1".into(), self.conv1.forward(images, &self.bn1));
        let x = if self.blur { blur_pool(max_pool(x, 3, 1, 1), 2) } else { max_pool(x, 3, 2, 1) };
        let mut x = taps.map(|| "maxpool".into(), x);
        let stages = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        for (stage, blocks) in stages.into_iter().enumerate() {
            x = taps.stage(|| format!("layer{}", stage + 1), blocks, x, |block, x| block.forward(x));
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.fc.forward(self.dropout.forward(features.clone())), features }
    }
}

fn norm(config: &Config, channels: usize, device: &Device) -> Norm2d {
    if config.group_norm { Norm2d::group(32, channels, device) } else { Norm2d::batch(channels, device) }
}

/// Strided convolution(s) up to the first normalisation.
#[derive(Module, Debug)]
pub(super) enum Stem {
    Plain(Conv2d),
    /// In the places of timm's Sequential: `conv1.0`, `conv1.1`, …
    Deep((Conv2d, Norm2d, Relu, Conv2d, Norm2d, Relu, Conv2d)),
}

impl Stem {
    /// The stem and its output channels.
    pub(super) fn new(config: &Config, device: &Device) -> (Self, usize) {
        match config.stem {
            StemKind::Plain => {
                let conv = Conv2d::config(3, 64, 7).stride(2).padding(Padding::Symmetric(3));
                (Self::Plain(conv.build(device)), 64)
            }
            StemKind::Deep([first, second, third]) => {
                let strided = Conv2d::config(3, first, 3).stride(2).build(device);
                let stem = Self::Deep((
                    strided,
                    norm(config, first, device),
                    Relu,
                    Conv2d::config(first, second, 3).build(device),
                    norm(config, second, device),
                    Relu,
                    Conv2d::config(second, third, 3).build(device),
                ));
                (stem, third)
            }
        }
    }

    /// The stem, `norm`, ReLU.
    pub(super) fn forward(&self, x: Tensor<4>, norm: &Norm2d) -> Tensor<4> {
        match self {
            Self::Plain(conv) => norm.after(conv, x, None, Activation::Relu),
            Self::Deep((first, norm1, _, second, norm2, _, third)) => {
                let x = norm1.after(first, x, None, Activation::Relu);
                let x = norm2.after(second, x, None, Activation::Relu);
                norm.after(third, x, None, Activation::Relu)
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct BlockShape {
    inputs: usize,
    channels: usize,
    stride: usize,
}

impl BlockShape {
    fn outputs(&self, config: &Config) -> usize {
        match config.block {
            BlockKind::Basic => self.channels,
            BlockKind::Bottleneck => 4 * self.channels,
        }
    }
}

/// A residual block of either kind; a bottleneck has a third convolution.
#[derive(Module, Debug)]
pub(super) struct Block {
    conv1: Conv2d,
    bn1: Norm2d,
    conv2: Conv2d,
    bn2: Norm2d,
    conv3: Option<Conv2d>,
    bn3: Option<Norm2d>,
    se: Option<SqueezeExcite>,
    downsample: Option<Shortcut>,
    /// The stride of the blur behind the strided convolution, which then keeps the size.
    blur: Option<usize>,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Block {
    /// A block without any of the variants' additions, as HRNet uses it.
    pub(super) fn plain(block: BlockKind, inputs: usize, channels: usize, device: &Device) -> Self {
        Self::new(&Config { block, ..BASIC }, BlockShape { inputs, channels, stride: 1 }, device)
    }

    fn new(config: &Config, shape: BlockShape, device: &Device) -> Self {
        let BlockShape { inputs, channels, stride } = shape;
        let outputs = shape.outputs(config);
        let blur = (config.blur && stride == 2).then_some(stride);
        let conv_stride = if blur.is_some() { 1 } else { stride };
        let strided =
            |conv: crate::layers::Conv2dConfig| conv.stride(conv_stride).padding(Padding::Symmetric(1)).build(device);
        let norm = |channels| self::norm(config, channels, device);
        let (conv1, conv2, conv3, width) = match config.block {
            BlockKind::Basic => (
                strided(Conv2d::config(inputs, channels, 3)),
                Conv2d::config(channels, channels, 3).build(device),
                None,
                channels,
            ),
            BlockKind::Bottleneck => {
                let width = channels * config.base_width / 64 * config.cardinality;
                let conv2 = Conv2d::config(width, width, 3).groups(config.cardinality);
                (
                    Conv2d::config(inputs, width, 1).build(device),
                    strided(conv2),
                    Some(Conv2d::config(width, outputs, 1).build(device)),
                    width,
                )
            }
        };
        let reduced = make_divisible_limited(outputs as f64 / 16.0, 8, 0.0);
        Self {
            conv1,
            bn1: norm(width),
            conv2,
            bn2: norm(width),
            bn3: conv3.is_some().then(|| norm(outputs)),
            conv3,
            se: config.squeeze_excite.then(|| SqueezeExcite::new(outputs, reduced, device)),
            downsample: (stride != 1 || inputs != outputs)
                .then(|| Shortcut::new(config, inputs, outputs, stride, device)),
            blur,
            drop_path: StochasticDepth::NONE,
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let blurred = |x: Tensor<4>| match self.blur {
            Some(stride) => blur_pool(x, stride),
            None => x,
        };
        let y = self.bn1.after(&self.conv1, x.clone(), None, Activation::Relu);
        let (y, conv, norm) = match (&self.conv3, &self.bn3) {
            (Some(conv3), Some(bn3)) => {
                let y = self.bn2.after(&self.conv2, y, None, Activation::Relu);
                (y, conv3, bn3)
            }
            _ => (y, &self.conv2, &self.bn2),
        };
        let y = blurred(y);
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        };
        self.drop_path.residual_activated(shortcut, Activation::Relu, |shortcut, activation| match &self.se {
            None => norm.after(conv, y, Some(shortcut), activation),
            Some(se) => {
                let y = se.forward(norm.after(conv, y, None, Activation::Identity));
                add(y, shortcut, activation)
            }
        })
    }
}

/// What brings a block's input to the shape of its output, in the places of timm's Sequential: `downsample.0`, …
#[derive(Module, Debug)]
pub(super) enum Shortcut {
    Convolution((Conv2d, Norm2d)),
    Average((HalvingPool, Conv2d, Norm2d)),
}

/// Averages 2 × 2 windows if `halves`, else nothing; without parameters, but with a place in timm's numbering.
#[derive(Module, Debug)]
pub(super) struct HalvingPool {
    pub(super) halves: bool,
}

impl HalvingPool {
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if self.halves { average_pool(x, 2, 2) } else { x }
    }
}

impl Shortcut {
    pub(super) fn new(config: &Config, inputs: usize, outputs: usize, stride: usize, device: &Device) -> Self {
        let conv = Conv2d::config(inputs, outputs, 1);
        let norm = self::norm(config, outputs, device);
        if config.average_down {
            Self::Average((HalvingPool { halves: stride == 2 }, conv.build(device), norm))
        } else {
            let conv = conv.stride(stride).padding(Padding::Symmetric(0));
            Self::Convolution((conv.build(device), norm))
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Convolution((conv, norm)) => norm.after(conv, x, None, Activation::Identity),
            Self::Average((pool, conv, norm)) => norm.after(conv, pool.forward(x), None, Activation::Identity),
        }
    }
}
