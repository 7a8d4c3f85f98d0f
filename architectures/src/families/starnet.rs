//! StarNet: blocks that multiply two linear maps of their input with each other, value by value.
//!
//! Ma et al., *Rewrite the Stars* (arXiv 2403.19967).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Conv2dConfig, ConvNorm, Dropout, Linear, Regularisation, StochasticDepth, Then,
    global_average_pool, multiply,
};
use crate::taps::Taps;

/// Which StarNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of the first stage; they double from stage to stage.
    pub channels: usize,
    /// Blocks in each stage.
    pub depths: [usize; 4],
    /// Channels of the maps that are multiplied, as a multiple of a block's.
    pub ratio: usize,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn starnet(channels: usize, depths: [usize; 4]) -> Config {
    Config { channels, depths, ratio: 4, regularisation: Regularisation::NONE, input_size: 224, num_classes: 1000 }
}
const fn very_small(channels: usize, depths: [usize; 4], ratio: usize) -> Config {
    Config { ratio, ..starnet(channels, depths) }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("starnet_s1", starnet(24, [2, 2, 8, 3])),
    ("starnet_s2", starnet(32, [1, 2, 6, 2])),
    ("starnet_s3", starnet(32, [2, 2, 8, 4])),
    ("starnet_s4", starnet(32, [3, 3, 12, 5])),
    ("starnet_s050", very_small(16, [1, 1, 3, 1], 3)),
    ("starnet_s100", very_small(20, [1, 2, 4, 1], 4)),
    ("starnet_s150", very_small(24, [1, 2, 4, 2], 3)),
];

configuration!(StarNet, InputRule::Any; regularisation);

/// Channels behind the stem.
const STEM: usize = 32;

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: "3s2".into(),
            activation: "ReLU6".into(),
            stem_pooling: false,
            depthwise_convolution: true,
            ..Components::CNN
        }
    }
}

/// A StarNet. See [`Config`].
#[derive(Module, Debug)]
pub struct StarNet {
    /// In the place of timm's Sequential: `stem.0`.
    stem: Vec<ConvNorm>,
    stages: Vec<Vec<Part>>,
    norm: BatchNorm2d,
    head: Linear,
    #[module(skip)]
    dropout: Dropout,
}

/// A stage begins with what halves the image.
#[derive(Module, Debug)]
enum Part {
    Halving(ConvNorm),
    Block(Block),
}

impl StarNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let halving = |inputs, outputs, activation| {
            ConvNorm::new(Conv2d::config(inputs, outputs, 3).stride(2).bias(), activation, device)
        };
        let mut inputs = STEM;
        let stage = |(index, depth): (usize, usize)| {
            let channels = config.channels << index;
            let first =
                Part::Halving(halving(std::mem::replace(&mut inputs, channels), channels, Activation::Identity));
            let blocks = (0..depth).map(|position| {
                let drop_path = config.regularisation.growing(&config.depths, index, position);
                Part::Block(Block { drop_path, ..Block::new(channels, config.ratio, device) })
            });
            [first].into_iter().chain(blocks).collect()
        };
        Self {
            stem: vec![halving(3, STEM, Activation::Relu6)],
            stages: config.depths.into_iter().enumerate().map(stage).collect(),
            norm: BatchNorm2d::new(inputs, device),
            head: Linear::new(inputs, num_classes, device),
            dropout: config.regularisation.dropout(),
        }
    }
}

impl Architecture for StarNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = self.stem.iter().fold(images, |x, layer| layer.forward(x));
        let mut x = taps.map(|| "stem".into(), x);
        let run = |part: &Part, x| match part {
            Part::Halving(layer) => layer.forward(x),
            Part::Block(block) => block.forward(x),
        };
        for (index, stage) in self.stages.iter().enumerate() {
            x = taps.stage(|| format!("stages.{index}"), stage, x, run);
        }
        let x = taps.map(|| "norm".into(), self.norm.forward(x, Activation::Identity));
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.forward(self.dropout.forward(features.clone())), features }
    }
}

/// Between two depthwise convolutions the product of two linear maps of the channels, beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    dwconv: ConvNorm,
    f1: Plain,
    f2: Plain,
    g: ConvNorm,
    dwconv2: Plain,
    #[module(skip)]
    drop_path: StochasticDepth,
}

/// A convolution without a normalisation.
#[derive(Module, Debug)]
struct Plain {
    conv: Conv2d,
}

impl Block {
    fn new(channels: usize, ratio: usize, device: &Device) -> Self {
        let normalised = |conv: Conv2dConfig| ConvNorm::new(conv.bias(), Activation::Identity, device);
        let plain = |conv: Conv2dConfig| Plain { conv: conv.bias().build(device) };
        let depthwise = || Conv2d::config(channels, channels, 7).groups(channels);
        let wide = ratio * channels;
        Self {
            dwconv: normalised(depthwise()),
            f1: plain(Conv2d::config(channels, wide, 1)),
            f2: plain(Conv2d::config(channels, wide, 1)),
            g: normalised(Conv2d::config(wide, channels, 1)),
            dwconv2: plain(depthwise()),
            drop_path: StochasticDepth::NONE,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.dwconv.forward(x.clone());
        let gates = self.f1.conv.forward_then(y.clone(), Then::activation(Activation::Relu6));
        let y = self.g.forward(multiply(gates, self.f2.conv.forward(y)));
        self.drop_path
            .residual(x, |x| self.dwconv2.conv.forward_then(y, Then::activation(Activation::Identity).residual(x)))
    }
}
