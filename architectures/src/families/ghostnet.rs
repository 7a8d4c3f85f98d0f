//! GhostNet: half of the channels are cheap images of the other half.
//!
//! Han et al., *GhostNet: More Features from Cheap Operations* (arXiv 1911.11907); Tang et al., *GhostNetV2: Enhance Cheap
//! Operation with Long-Range Attention* (2211.12905).

use burn::module::Module;
use burn::nn::Relu;
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Interpolation, Linear, Padding, Then, add, average_pool_floor, gate,
    global_average_pool, make_divisible, multiply, resize,
};
use crate::taps::Taps;

/// Which GhostNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels as a multiple of those of the table below.
    pub width: f64,
    /// Whether blocks attend along rows and columns (V2).
    pub attention: bool,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn v1(width: f64) -> Config {
    Config { width, attention: false, input_size: 224, num_classes: 1000 }
}
const fn v2(width: f64) -> Config {
    Config { attention: true, ..v1(width) }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("ghostnet_050", v1(0.5)),
    ("ghostnet_100", v1(1.0)),
    ("ghostnet_130", v1(1.3)),
    ("ghostnetv2_100", v2(1.0)),
    ("ghostnetv2_130", v2(1.3)),
    ("ghostnetv2_160", v2(1.6)),
];

configuration!(GhostNet, InputRule::Any, convert);

/// Channels behind the stem.
const STEM: usize = 16;
/// Channels before the classifier, whatever the width.
const FEATURES: usize = 1280;

/// Stages of blocks.
#[rustfmt::skip]
const STAGES: &[&[BlockShape]] = &[
    //       kernel, stride, middle, outputs, squeezed
    &[shape(3, 1,  16,  16, false)],
    &[shape(3, 2,  48,  24, false)],
    &[shape(3, 1,  72,  24, false)],
    &[shape(5, 2,  72,  40, true)],
    &[shape(5, 1, 120,  40, true)],
    &[shape(3, 2, 240,  80, false)],
    &[
      shape(3, 1, 200,  80, false),
      shape(3, 1, 184,  80, false),
      shape(3, 1, 184,  80, false),
      shape(3, 1, 480, 112, true),
      shape(3, 1, 672, 112, true),
    ],
    &[shape(5, 2, 672, 160, true)],
    &[
      shape(5, 1, 960, 160, false),
      shape(5, 1, 960, 160, true),
      shape(5, 1, 960, 160, false),
      shape(5, 1, 960, 160, true),
    ],
];

/// A block before its channels are multiplied.
#[derive(Debug, Clone, Copy)]
struct BlockShape {
    kernel: usize,
    stride: usize,
    middle: usize,
    outputs: usize,
    squeezed: bool,
}

const fn shape(kernel: usize, stride: usize, middle: usize, outputs: usize, squeezed: bool) -> BlockShape {
    BlockShape { kernel, stride, middle, outputs, squeezed }
}

impl Config {
    fn components(&self) -> Components {
        let activations = [Activation::Relu, Activation::Sigmoid];
        Components {
            stem: "3s2".into(),
            activation: Components::activations(activations.into_iter().take(1 + usize::from(self.attention))),
            stem_pooling: false,
            spatial_attention: if self.attention { "Yes (DFC)" } else { "No" }.into(),
            channel_attention: "Yes (SE)",
            channel_attention_location: "Middle",
            depthwise_convolution: true,
            ..Components::CNN
        }
    }

    fn scaled(&self, channels: usize) -> usize {
        make_divisible(channels as f64 * self.width, 4)
    }
}

/// The authors' files hold what a profiler counted.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    checkpoint.remove(|name| name.contains("total"));
}

/// A GhostNet. See [`Config`].
#[derive(Module, Debug)]
pub struct GhostNet {
    conv_stem: Conv2d,
    bn1: BatchNorm2d,
    blocks: Vec<Vec<Part>>,
    conv_head: Conv2d,
    classifier: Linear,
}

/// The last stage is a 1×1 convolution.
#[derive(Module, Debug)]
enum Part {
    Block(Block),
    Last(Widening),
}

#[derive(Module, Debug)]
struct Widening {
    conv: Conv2d,
    bn1: BatchNorm2d,
}

impl GhostNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let stem = config.scaled(STEM);
        let mut inputs = stem;
        let mut number = 0;
        let mut block = |shape: &BlockShape| {
            number += 1;
            let shape =
                BlockShape { middle: config.scaled(shape.middle), outputs: config.scaled(shape.outputs), ..*shape };
            let inputs = std::mem::replace(&mut inputs, shape.outputs);
            Part::Block(Block::new(inputs, shape, config.attention && number > 2, device))
        };
        let mut blocks: Vec<Vec<_>> = STAGES.iter().map(|stage| stage.iter().map(&mut block).collect()).collect();
        let last = config.scaled(STAGES[STAGES.len() - 1][0].middle);
        let widening =
            Widening { conv: Conv2d::config(inputs, last, 1).build(device), bn1: BatchNorm2d::new(last, device) };
        blocks.push(vec![Part::Last(widening)]);
        Self {
            conv_stem: Conv2d::config(3, stem, 3).stride(2).padding(Padding::Symmetric(1)).build(device),
            bn1: BatchNorm2d::new(stem, device),
            blocks,
            conv_head: Conv2d::config(last, FEATURES, 1).bias().build(device),
            classifier: Linear::new(FEATURES, num_classes, device),
        }
    }
}

impl Architecture for GhostNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = taps.map(|| "conv_stem".into(), self.conv_stem.forward(images));
        let mut x = taps.map(|| "act1".into(), self.bn1.forward(x, Activation::Relu));
        let run = |part: &Part, x| match part {
            Part::Block(block) => block.forward(x),
            Part::Last(Widening { conv, bn1 }) => conv.forward_then(x, Then::norm(bn1, Activation::Relu)),
        };
        for (stage, blocks) in self.blocks.iter().enumerate() {
            x = taps.stage(|| format!("blocks.{stage}"), blocks, x, run);
        }
        let pooled = taps.map(|| "global_pool".into(), global_average_pool(x));
        let features = Activation::Relu.forward(self.conv_head.forward_vectors(pooled));
        Outputs { logits: self.classifier.forward(features.clone()), features }
    }
}

/// Two ghost modules, with strides and attention over the channels between them, beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    ghost1: Ghost,
    conv_dw: Option<Conv2d>,
    bn_dw: Option<BatchNorm2d>,
    se: Option<SqueezeExcite>,
    ghost2: Ghost,
    /// In the places of timm's Sequential: a depthwise convolution, its normalisation, one of 1×1, its normalisation.
    shortcut: Option<(Conv2d, BatchNorm2d, Conv2d, BatchNorm2d)>,
}

impl Block {
    fn new(inputs: usize, shape: BlockShape, attention: bool, device: &Device) -> Self {
        let BlockShape { kernel, stride, middle, outputs, squeezed } = shape;
        let norm = |channels| BatchNorm2d::new(channels, device);
        let depthwise = |channels| {
            let conv = Conv2d::config(channels, channels, kernel).groups(channels).stride(stride);
            conv.padding(Padding::Symmetric(kernel / 2)).build(device)
        };
        let shortcut = || {
            let pointwise = Conv2d::config(inputs, outputs, 1).build(device);
            (depthwise(inputs), norm(inputs), pointwise, norm(outputs))
        };
        Self {
            ghost1: Ghost::new(inputs, middle, Activation::Relu, attention, device),
            conv_dw: (stride > 1).then(|| depthwise(middle)),
            bn_dw: (stride > 1).then(|| norm(middle)),
            se: squeezed.then(|| SqueezeExcite::new(middle, device)),
            ghost2: Ghost::new(middle, outputs, Activation::Identity, false, device),
            shortcut: (stride > 1 || inputs != outputs).then(shortcut),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let plain = |norm| Then::norm(norm, Activation::Identity);
        let mut y = self.ghost1.forward(x.clone());
        if let (Some(conv), Some(norm)) = (&self.conv_dw, &self.bn_dw) {
            y = conv.forward_then(y, plain(norm));
        }
        if let Some(se) = &self.se {
            y = se.forward(y);
        }
        let shortcut = match &self.shortcut {
            Some((depthwise, norm1, pointwise, norm2)) => {
                pointwise.forward_then(depthwise.forward_then(x, plain(norm1)), plain(norm2))
            }
            None => x,
        };
        add(self.ghost2.forward(y), shortcut, Activation::Identity)
    }
}

/// A 1×1 convolution to half of the channels, and the others by a depthwise one of these.
#[derive(Module, Debug)]
struct Ghost {
    primary_conv: Layer,
    cheap_operation: Layer,
    short_conv: Option<Attention>,
    #[module(skip)]
    activation: Activation,
}

/// A convolution and its normalisation, in the places of timm's Sequential.
type Layer = (Conv2d, BatchNorm2d, Relu);

/// Three convolutions, each with its normalisation, in the places of timm's Sequential: 1×1, and depthwise ones along the rows
/// and the columns (decoupled fully connected attention).
type Attention = (Conv2d, BatchNorm2d, Conv2d, BatchNorm2d, Conv2d, BatchNorm2d);

impl Ghost {
    fn new(inputs: usize, outputs: usize, activation: Activation, attention: bool, device: &Device) -> Self {
        let half = outputs / 2;
        let norm = |channels| BatchNorm2d::new(channels, device);
        let along = |kernel| Conv2d::rectangular(outputs, outputs, kernel).groups(outputs).build(device);
        let pointwise = |outputs| Conv2d::config(inputs, outputs, 1).build(device);
        let attention = attention
            .then(|| (pointwise(outputs), norm(outputs), along([1, 5]), norm(outputs), along([5, 1]), norm(outputs)));
        Self {
            primary_conv: (pointwise(half), norm(half), Relu),
            cheap_operation: (Conv2d::config(half, half, 3).groups(half).build(device), norm(half), Relu),
            short_conv: attention,
            activation,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let gates = self.short_conv.as_ref().map(|(pointwise, norm1, rows, norm2, columns, norm3)| {
            let x = average_pool_floor(x.clone(), 2, 2);
            let x = pointwise.forward_then(x, Then::norm(norm1, Activation::Identity));
            let x = rows.forward_then(x, Then::norm(norm2, Activation::Identity));
            let gates = columns.forward_then(x, Then::norm(norm3, Activation::Sigmoid));
            resize(gates, [2, 3], [height, width], Interpolation::Nearest)
        });
        let layer = |(conv, norm, _): &Layer, x| conv.forward_then(x, Then::norm(norm, self.activation));
        let first = layer(&self.primary_conv, x);
        let second = layer(&self.cheap_operation, first.clone());
        let y = Tensor::cat(vec![first, second], 1);
        match gates {
            Some(gates) => multiply(y, gates),
            None => y,
        }
    }
}

/// Squeeze-and-excitation with hard gates.
#[derive(Module, Debug)]
struct SqueezeExcite {
    conv_reduce: Conv2d,
    conv_expand: Conv2d,
}

impl SqueezeExcite {
    fn new(channels: usize, device: &Device) -> Self {
        let reduced = make_divisible(channels as f64 / 4.0, 4);
        Self {
            conv_reduce: Conv2d::config(channels, reduced, 1).bias().build(device),
            conv_expand: Conv2d::config(reduced, channels, 1).bias().build(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let hidden = Activation::Relu.forward(self.conv_reduce.forward_vectors(global_average_pool(x.clone())));
        gate(x, Activation::HardSigmoid.forward(self.conv_expand.forward_vectors(hidden)))
    }
}
