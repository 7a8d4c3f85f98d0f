//! Xception of 41, 65 and 71 layers as DeepLab has it, which shrinks by strides in place of pooling.
//!
//! Chollet, *Xception* (arXiv 1610.02357); Chen et al., *Encoder-Decoder with Atrous Separable Convolution* (1802.02611).
//! The names in `p` normalise and activate before the convolutions.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Conv2dConfig, ConvNorm, Linear, Named, Then, add, global_average_pool,
};
use crate::taps::Taps;

/// Which aligned Xception.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels and stride of each block before the middle ones.
    pub entry: &'static [[usize; 2]],
    /// How many blocks of one shape there are in the middle.
    pub middle: usize,
    /// Whether normalisation and activation come before the convolutions.
    pub preactivated: bool,
    /// Of batch normalisation within the blocks.
    pub epsilon: f64,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const XCEPTION_65: Config = Config {
    entry: &[[128, 2], [256, 2], [728, 2]],
    middle: 16,
    preactivated: false,
    epsilon: 1e-3,
    input_size: 299,
    num_classes: 1000,
};

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("xception41", Config { middle: 8, ..XCEPTION_65 }),
    ("xception41p", Config { middle: 8, preactivated: true, epsilon: 1e-5, ..XCEPTION_65 }),
    ("xception65", XCEPTION_65),
    ("xception65p", Config { preactivated: true, ..XCEPTION_65 }),
    ("xception71", Config { entry: &[[128, 2], [256, 1], [256, 2], [728, 1], [728, 2]], ..XCEPTION_65 }),
];

configuration!(XceptionAligned, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        Components { stem: "3s2/3".into(), stem_pooling: false, depthwise_convolution: true, ..Components::CNN }
    }
}

/// An aligned Xception. See [`Config`].
#[derive(Module, Debug)]
pub struct XceptionAligned {
    /// In the places of timm's Sequential: `stem.0`, `stem.1`.
    stem: (ConvNorm, StemEnd),
    blocks: Vec<Block>,
    head: Head,
    #[module(skip)]
    last_activation: Activation,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

impl XceptionAligned {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let mut inputs = 64;
        let mut block = |channels: [usize; 3], stride, last| {
            let shape = BlockShape { inputs, channels, stride, last };
            [_, _, inputs] = channels;
            if config.preactivated {
                Block::Preactivated(PreactivatedBlock::new(config, &shape, device))
            } else {
                Block::Plain(PlainBlock::new(config, &shape, device))
            }
        };
        let mut blocks: Vec<Block> = config.entry.iter().map(|&[to, stride]| block([to; 3], stride, false)).collect();
        blocks.extend((0..config.middle).map(|_| block([728; 3], 1, false)));
        blocks.push(block([728, 1024, 1024], 2, false));
        blocks.push(block([1536, 1536, 2048], 1, true));
        let second = Conv2d::config(32, 64, 3);
        let strided = Conv2d::config(3, 32, 3).stride(2);
        Self {
            stem: (
                ConvNorm::with_epsilon(strided, config.epsilon, Activation::Relu, device),
                if config.preactivated {
                    StemEnd::Plain(second.build(device))
                } else {
                    StemEnd::Normalised(ConvNorm::with_epsilon(second, config.epsilon, Activation::Relu, device))
                },
            ),
            blocks,
            head: Head { fc: Linear::new(inputs, num_classes, device) },
            last_activation: if config.preactivated { Activation::Relu } else { Activation::Identity },
        }
    }
}

impl Architecture for XceptionAligned {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let (first, second) = &self.stem;
        let mut x = taps.map(|| "stem".into(), second.forward(first.forward(images)));
        for (index, block) in self.blocks.iter().enumerate() {
            let name = format!("blocks.{index}");
            let y = match block {
                Block::Plain(block) => block.forward(x, &name, taps),
                Block::Preactivated(block) => block.forward(x, &name, taps),
            };
            x = taps.map(|| name, y);
        }
        let features = global_average_pool(self.last_activation.forward(x));
        let features = taps.map(|| "head.global_pool".into(), features);
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

/// The second convolution; in networks that do not normalise before convolutions, with a normalisation.
#[derive(Module, Debug)]
enum StemEnd {
    Plain(Conv2d),
    Normalised(ConvNorm),
}

impl StemEnd {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Plain(conv) => conv.forward(x),
            Self::Normalised(conv) => conv.forward(x),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct BlockShape {
    inputs: usize,
    /// Behind each of the three convolutions.
    channels: [usize; 3],
    /// Of the last.
    stride: usize,
    /// Whether it is the network's last block, which has no shortcut.
    last: bool,
}

impl BlockShape {
    /// The convolution of the shortcut, if one is needed.
    fn shortcut(&self) -> Option<Conv2dConfig> {
        let [_, _, outputs] = self.channels;
        let reshaped = self.stride != 1 || self.inputs != outputs;
        (reshaped && !self.last).then(|| Conv2d::config(self.inputs, outputs, 1).stride(self.stride))
    }

    /// `conv1`, …, each from its number, inputs, outputs and stride.
    fn stack<C>(&self, conv: impl Fn(usize, usize, usize, usize) -> C) -> Named<C> {
        let [first, second, third] = self.channels;
        let shapes = [(self.inputs, first, 1), (first, second, 1), (second, third, self.stride)];
        let numbered = (1..).zip(shapes);
        numbered.map(|(index, (i, o, stride))| (format!("conv{index}"), conv(index, i, o, stride))).collect()
    }
}

/// A block of either kind.
#[derive(Module, Debug)]
enum Block {
    Plain(PlainBlock),
    Preactivated(PreactivatedBlock),
}

/// Three separable convolutions, each behind an activation, beside a shortcut. In the network's last block activations
/// come behind the convolutions.
#[derive(Module, Debug)]
struct PlainBlock {
    shortcut: Option<ConvNorm>,
    stack: Named<SeparableConv2d>,
    last: bool,
}

impl PlainBlock {
    fn new(config: &Config, shape: &BlockShape, device: &Device) -> Self {
        let norm = |channels| BatchNorm2d::with_epsilon(channels, config.epsilon, device);
        let shortcut = |conv| ConvNorm::with_epsilon(conv, config.epsilon, Activation::Identity, device);
        Self {
            shortcut: shape.shortcut().map(shortcut),
            stack: shape.stack(|_, inputs, outputs, stride| SeparableConv2d {
                conv_dw: depthwise(inputs, stride, device),
                bn_dw: norm(inputs),
                conv_pw: Conv2d::config(inputs, outputs, 1).build(device),
                bn_pw: norm(outputs),
            }),
            last: shape.last,
        }
    }

    fn forward(&self, x: Tensor<4>, name: &str, taps: &mut Taps) -> Tensor<4> {
        let [ends, begins] =
            if self.last { [Activation::Relu, Activation::Identity] } else { [Activation::Identity, Activation::Relu] };
        let mut y = begins.forward(x.clone());
        let mut shortcut = match &self.shortcut {
            Some(conv) => Some(conv.forward(x)),
            None => (!self.last).then_some(x),
        };
        for (conv_name, conv) in self.stack.iter() {
            y = conv.conv_dw.forward_then(y, Then::norm(&conv.bn_dw, ends));
            // The activation behind the first two is the convolution's own or the next one's.
            let then = if conv_name == "conv3" {
                Then::norm(&conv.bn_pw, ends).residual(shortcut.take())
            } else {
                Then::norm(&conv.bn_pw, Activation::Relu)
            };
            y = conv.conv_pw.forward_then(y, then);
            if conv_name == "conv2" && !self.last {
                y = taps.map(|| format!("{name}.stack.act3"), y);
            }
        }
        y
    }
}

/// Depthwise 3×3 convolution, 1×1 convolution, a normalisation behind each.
#[derive(Module, Debug)]
struct SeparableConv2d {
    conv_dw: Conv2d,
    bn_dw: BatchNorm2d,
    conv_pw: Conv2d,
    bn_pw: BatchNorm2d,
}

/// Three times normalisation, activation and separable convolution; the shortcut begins behind the first activation.
#[derive(Module, Debug)]
struct PreactivatedBlock {
    shortcut: Option<Conv2d>,
    norm: BatchNorm2d,
    stack: Named<PreactivatedConv2d>,
    last: bool,
}

impl PreactivatedBlock {
    fn new(config: &Config, shape: &BlockShape, device: &Device) -> Self {
        let norm = |channels| BatchNorm2d::with_epsilon(channels, config.epsilon, device);
        Self {
            shortcut: shape.shortcut().map(|conv| conv.build(device)),
            norm: norm(shape.inputs),
            stack: shape.stack(|index, inputs, outputs, stride| PreactivatedConv2d {
                norm: (index > 1).then(|| norm(inputs)),
                conv_dw: depthwise(inputs, stride, device),
                conv_pw: Conv2d::config(inputs, outputs, 1).build(device),
            }),
            last: shape.last,
        }
    }

    fn forward(&self, x: Tensor<4>, name: &str, taps: &mut Taps) -> Tensor<4> {
        let x = self.norm.forward(x, Activation::Relu);
        let mut y = x.clone();
        for (conv_name, conv) in self.stack.iter() {
            if let Some(norm) = &conv.norm {
                y = norm.forward(y, Activation::Relu);
            }
            y = conv.conv_pw.forward(conv.conv_dw.forward(y));
            y = taps.map(|| format!("{name}.stack.{conv_name}"), y);
        }
        match &self.shortcut {
            _ if self.last => y,
            Some(conv) => conv.forward_then(x, Then::activation(Activation::Identity).residual(y)),
            None => add(y, x, Activation::Identity),
        }
    }
}

/// Depthwise 3×3 convolution, 1×1 convolution, behind a normalisation but for the first of a block.
#[derive(Module, Debug)]
struct PreactivatedConv2d {
    norm: Option<BatchNorm2d>,
    conv_dw: Conv2d,
    conv_pw: Conv2d,
}

fn depthwise(channels: usize, stride: usize, device: &Device) -> Conv2d {
    Conv2d::config(channels, channels, 3).groups(channels).stride(stride).build(device)
}
