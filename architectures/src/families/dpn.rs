//! Dual Path Networks: a residual and a densely connected path side by side.
//!
//! Chen et al., *Dual Path Networks* (arXiv 1707.01629).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Conv2dConfig, ConvNorm, Named, Padding, add, global_average_pool, max_pool,
};
use crate::taps::Taps;

/// Which Dual Path Network.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of the first convolution.
    pub stem: usize,
    /// Blocks in each stage.
    pub blocks: [usize; 4],
    /// Channels by which each block widens the dense path, by stage.
    pub increments: [usize; 4],
    /// Channels within a block of the first stage; they double from stage to stage.
    pub middle: usize,
    /// Groups of the 3×3 convolutions.
    pub groups: usize,
    /// A 3×3 stem and a quarter of the residual path's channels.
    pub small: bool,
    /// Whether the end of a block is two convolutions behind one activation (the b variants).
    pub split_end: bool,
    /// Of the first layer and the last; that of the blocks is ReLU.
    pub activation: Activation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const DPN92: Config = Config {
    stem: 64,
    blocks: [3, 4, 20, 3],
    increments: [16, 32, 24, 128],
    middle: 96,
    groups: 32,
    small: false,
    split_end: false,
    activation: Activation::Relu,
    input_size: 224,
    num_classes: 1000,
};
const DPN68: Config =
    Config { stem: 10, blocks: [3, 4, 12, 3], increments: [16, 32, 32, 64], middle: 128, small: true, ..DPN92 };
const DPN98: Config =
    Config { stem: 96, blocks: [3, 6, 20, 3], increments: [16, 32, 32, 128], middle: 160, groups: 40, ..DPN92 };

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("dpn48b", Config { blocks: [3, 4, 6, 3], split_end: true, activation: Activation::Silu, ..DPN68 }),
    ("dpn68", DPN68),
    ("dpn68b", Config { split_end: true, ..DPN68 }),
    ("dpn92", DPN92),
    ("dpn98", DPN98),
    (
        "dpn107",
        Config { stem: 128, blocks: [4, 8, 20, 3], increments: [20, 64, 64, 128], middle: 200, groups: 50, ..DPN92 },
    ),
    ("dpn131", Config { stem: 128, blocks: [4, 8, 28, 3], ..DPN98 }),
];

configuration!(DualPathNetwork, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: if self.small { "3s2".into() } else { "7s2".into() },
            activation: Components::activations([self.activation]),
            grouped_convolution: true,
            ..Components::CNN
        }
    }
}

const EPSILON: f64 = 1e-3;

/// A Dual Path Network. See [`Config`].
#[derive(Module, Debug)]
pub struct DualPathNetwork {
    features: Named<Feature>,
    classifier: Conv2d,
    #[module(skip)]
    activation: Activation,
}

/// `conv1_1` is the stem; `conv2_1` is the first block of the first stage, and so on; `conv5_bn_ac` is the end.
#[derive(Module, Debug)]
enum Feature {
    Stem(ConvNorm),
    Block(Block),
    End(Norm),
}

impl DualPathNetwork {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let stem = Conv2d::config(3, config.stem, if config.small { 3 } else { 7 }).stride(2);
        let stem = ConvNorm::with_epsilon(stem, EPSILON, config.activation, device);
        let mut features = vec![("conv1_1".to_owned(), Feature::Stem(stem))];
        let mut inputs = config.stem;
        for stage in 0..4 {
            for position in 0..config.blocks[stage] {
                let block = Block::new(config, stage, position == 0, inputs, device);
                inputs = block.outputs(inputs);
                features.push((format!("conv{}_{}", stage + 2, position + 1), Feature::Block(block)));
            }
        }
        features.push(("conv5_bn_ac".into(), Feature::End(Norm { bn: norm(inputs, device) })));
        Self {
            features: features.into_iter().collect(),
            classifier: Conv2d::config(inputs, num_classes, 1).bias().build(device),
            activation: config.activation,
        }
    }
}

impl Architecture for DualPathNetwork {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = images;
        for (name, feature) in self.features.iter() {
            let y = match feature {
                Feature::Stem(stem) => stem.forward(x),
                Feature::Block(block) => block.forward(x),
                Feature::End(norm) => norm.bn.forward(x, self.activation),
            };
            x = taps.map(|| format!("features.{name}"), y);
            if let Feature::Stem(_) = feature {
                x = max_pool(x, 3, 2, 1);
            }
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.classifier.forward_vectors(features.clone()), features }
    }
}

fn norm(channels: usize, device: &Device) -> BatchNorm2d {
    BatchNorm2d::with_epsilon(channels, EPSILON, device)
}

/// Normalisation and activation, which come before a convolution here.
#[derive(Module, Debug)]
struct Norm {
    bn: BatchNorm2d,
}

/// Normalisation, ReLU, convolution.
#[derive(Module, Debug)]
struct NormConv {
    bn: BatchNorm2d,
    conv: Conv2d,
}

impl NormConv {
    fn new(conv: Conv2dConfig, device: &Device) -> Self {
        Self { bn: norm(conv.inputs(), device), conv: conv.build(device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(self.bn.forward(x, Activation::Relu))
    }
}

/// 1×1, 3×3, 1×1: the first channels of the result are added to the residual path, the others lengthen the dense one. The
/// channels of the residual path come first in every tensor.
#[derive(Module, Debug)]
struct Block {
    /// The projection of a first block, under another name where it halves the image.
    c1x1_w_s1: Option<NormConv>,
    c1x1_w_s2: Option<NormConv>,
    c1x1_a: NormConv,
    c3x3_b: NormConv,
    c1x1_c: End,
    c1x1_c1: Option<Conv2d>,
    c1x1_c2: Option<Conv2d>,
    /// Channels of the residual path.
    residual: usize,
    increment: usize,
}

/// The last convolution, or, if it is two, the normalisation before them.
#[derive(Module, Debug)]
enum End {
    Whole(NormConv),
    Split(Norm),
}

impl Block {
    fn new(config: &Config, stage: usize, first: bool, inputs: usize, device: &Device) -> Self {
        let residual = (64 << stage) * if config.small { 1 } else { 4 };
        let middle = config.middle << stage;
        let increment = config.increments[stage];
        let stride = if first && stage > 0 { 2 } else { 1 };
        let projection = |own_stride: usize| {
            let conv =
                Conv2d::config(inputs, residual + 2 * increment, 1).stride(stride).padding(Padding::Symmetric(0));
            (first && stride == own_stride).then(|| NormConv::new(conv, device))
        };
        let split = |outputs| config.split_end.then(|| Conv2d::config(middle, outputs, 1).build(device));
        Self {
            c1x1_w_s1: projection(1),
            c1x1_w_s2: projection(2),
            c1x1_a: NormConv::new(Conv2d::config(inputs, middle, 1), device),
            c3x3_b: NormConv::new(
                Conv2d::config(middle, middle, 3).stride(stride).padding(Padding::Symmetric(1)).groups(config.groups),
                device,
            ),
            c1x1_c: if config.split_end {
                End::Split(Norm { bn: norm(middle, device) })
            } else {
                End::Whole(NormConv::new(Conv2d::config(middle, residual + increment, 1), device))
            },
            c1x1_c1: split(residual),
            c1x1_c2: split(increment),
            residual,
            increment,
        }
    }

    fn outputs(&self, inputs: usize) -> usize {
        let projected = self.c1x1_w_s1.is_some() || self.c1x1_w_s2.is_some();
        let before = if projected { self.residual + 2 * self.increment } else { inputs };
        before + self.increment
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let before = match self.c1x1_w_s1.as_ref().or(self.c1x1_w_s2.as_ref()) {
            Some(projection) => projection.forward(x.clone()),
            None => x.clone(),
        };
        let y = self.c3x3_b.forward(self.c1x1_a.forward(x));
        let (added, appended) = match (&self.c1x1_c, &self.c1x1_c1, &self.c1x1_c2) {
            (End::Split(norm), Some(added), Some(appended)) => {
                let y = norm.bn.forward(y, Activation::Relu);
                (added.forward(y.clone()), appended.forward(y))
            }
            (End::Whole(conv), ..) => {
                let y = conv.forward(y);
                (y.clone().narrow(1, 0, self.residual), y.narrow(1, self.residual, self.increment))
            }
            _ => unreachable!("a split end has both convolutions"),
        };
        let dense = before.dims()[1] - self.residual;
        let residual = add(before.clone().narrow(1, 0, self.residual), added, Activation::Identity);
        Tensor::cat(vec![residual, before.narrow(1, self.residual, dense), appended], 1)
    }
}
