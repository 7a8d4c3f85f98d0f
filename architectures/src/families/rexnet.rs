//! ReXNet: inverted blocks whose channels grow by equal steps.
//!
//! Han et al., *Rethinking Channel Dimensions for Efficient Model Design* (arXiv 2007.00992). The names in `rexnetr` round the
//! channels to multiples of eight or sixteen.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{Activation, Conv2d, ConvNorm, Linear, SqueezeExcite, add, global_average_pool, make_divisible};
use crate::taps::Taps;

/// Which ReXNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// A factor for all channels.
    pub width: f64,
    /// Channels are multiples of it.
    pub divisor: usize,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn rexnet(width: f64) -> Config {
    Config { width, divisor: 1, input_size: 224, num_classes: 1000 }
}
const fn rounded(width: f64, divisor: usize) -> Config {
    Config { divisor, ..rexnet(width) }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("rexnet_100", rexnet(1.0)),
    ("rexnet_130", rexnet(1.3)),
    ("rexnet_150", rexnet(1.5)),
    ("rexnet_200", rexnet(2.0)),
    ("rexnet_300", rexnet(3.0)),
    ("rexnetr_100", rounded(1.0, 8)),
    ("rexnetr_130", rounded(1.3, 8)),
    ("rexnetr_150", rounded(1.5, 8)),
    ("rexnetr_200", rounded(2.0, 8)),
    ("rexnetr_300", rounded(3.0, 16)),
];

configuration!(RexNet, InputRule::Any);

/// Blocks and the stride of the first, by stage.
const STAGES: [[usize; 2]; 6] = [[1, 1], [2, 2], [2, 2], [3, 2], [3, 1], [5, 2]];
/// Channels of the first block, and those by which the last is wider.
const CHANNELS: [f64; 2] = [16.0, 180.0];
const STEM: f64 = 32.0;
const HEAD: f64 = 1280.0;
/// Blocks before the first with squeeze-and-excitation.
const PLAIN_BLOCKS: usize = 3;

impl Config {
    fn components(&self) -> Components {
        Components {
            base_architecture: "NAS (CNN)",
            stem: "3s2".into(),
            activation: "ReLU + SiLU + ReLU6".into(),
            stem_pooling: false,
            channel_attention: "Yes (SE)",
            channel_attention_location: "Middle",
            depthwise_convolution: true,
            ..Components::CNN
        }
    }

    fn channels(&self, channels: f64) -> usize {
        make_divisible((channels * self.width).round_ties_even(), self.divisor)
    }
}

/// A ReXNet. See [`Config`].
#[derive(Module, Debug)]
pub struct RexNet {
    stem: ConvNorm,
    features: Vec<Feature>,
    head: Head,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

/// A block, or the last convolution.
#[derive(Module, Debug)]
enum Feature {
    Block(Block),
    Last(ConvNorm),
}

impl RexNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let strides =
            STAGES.iter().flat_map(|&[blocks, stride]| (0..blocks).map(move |i| if i == 0 { stride } else { 1 }));
        let blocks: usize = STAGES.iter().map(|[blocks, _]| blocks).sum();
        let stem = config.channels(STEM);
        let [first, growth] = CHANNELS;
        let mut inputs = stem;
        let mut unscaled = first;
        let block = |(index, stride)| {
            let outputs = config.channels(unscaled);
            unscaled += growth / blocks as f64;
            let block = Block::new(config, index, inputs, outputs, stride, device);
            inputs = outputs;
            Feature::Block(block)
        };
        let mut features: Vec<Feature> = strides.enumerate().map(block).collect();
        let last = make_divisible(HEAD * config.width, config.divisor);
        features.push(Feature::Last(ConvNorm::new(Conv2d::config(inputs, last, 1), Activation::Silu, device)));
        Self {
            stem: ConvNorm::new(Conv2d::config(3, stem, 3).stride(2), Activation::Silu, device),
            features,
            head: Head { fc: Linear::new(last, num_classes, device) },
        }
    }
}

impl Architecture for RexNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = taps.map(|| "stem".into(), self.stem.forward(images));
        for (index, feature) in self.features.iter().enumerate() {
            let y = match feature {
                Feature::Block(block) => block.forward(x),
                Feature::Last(conv) => conv.forward(x),
            };
            x = taps.map(|| format!("features.{index}"), y);
        }
        let features = taps.map(|| "head.global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

/// 1×1 that widens, depthwise 3×3, squeeze-and-excitation, 1×1; the shortcut covers as many channels as came in.
#[derive(Module, Debug)]
struct Block {
    conv_exp: Option<ConvNorm>,
    conv_dw: ConvNorm,
    se: Option<SqueezeExcite>,
    conv_pwl: ConvNorm,
    shortcut: bool,
}

impl Block {
    fn new(config: &Config, index: usize, inputs: usize, outputs: usize, stride: usize, device: &Device) -> Self {
        let middle = if index == 0 { inputs } else { make_divisible(6.0 * inputs as f64, config.divisor) };
        let attends = index >= PLAIN_BLOCKS;
        let reduced = make_divisible((middle as f64 * (1.0 / 12.0)).floor(), config.divisor);
        // With squeeze-and-excitation the activation comes behind it.
        let activation = if attends { Activation::Identity } else { Activation::Relu6 };
        Self {
            conv_exp: (index > 0).then(|| ConvNorm::new(Conv2d::config(inputs, middle, 1), Activation::Silu, device)),
            conv_dw: ConvNorm::new(Conv2d::config(middle, middle, 3).stride(stride).groups(middle), activation, device),
            se: attends.then(|| SqueezeExcite::new(middle, reduced, device).with_norm(device)),
            conv_pwl: ConvNorm::new(Conv2d::config(middle, outputs, 1), Activation::Identity, device),
            shortcut: stride == 1 && inputs <= outputs,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = match &self.conv_exp {
            Some(conv) => conv.forward(x.clone()),
            None => x.clone(),
        };
        let mut y = self.conv_dw.forward(y);
        if let Some(attention) = &self.se {
            y = Activation::Relu6.forward(attention.forward(y));
        }
        let y = self.conv_pwl.forward(y);
        if !self.shortcut {
            return y;
        }
        let ([_, inputs, ..], [_, outputs, ..]) = (x.dims(), y.dims());
        if inputs == outputs {
            return add(y, x, Activation::Identity);
        }
        let sum = add(y.clone().narrow(1, 0, inputs), x, Activation::Identity);
        Tensor::cat(vec![sum, y.narrow(1, inputs, outputs - inputs)], 1)
    }
}
