//! ResNeSt: ResNet with split attention, which weighs several convolutions' results for each channel.
//!
//! Zhang et al., *ResNeSt: Split-Attention Networks* (arXiv 2004.08955).

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};

use super::resnet::{self, Shortcut, Stem, StemKind};
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Linear, Norm2d, Padding, Then, add, average_pool_3x3, gate, global_average_pool,
    make_divisible, max_pool,
};
use crate::taps::Taps;

/// Which ResNeSt.
#[derive(Debug, Clone)]
pub struct Config {
    /// Blocks in each stage.
    pub layers: [usize; 4],
    /// Widths of the stem's convolutions.
    pub stem: [usize; 3],
    /// Results among which the attention chooses.
    pub radix: usize,
    /// Groups of each.
    pub cardinality: usize,
    /// Channels per group, where 64 stands for the stage's own.
    pub base_width: usize,
    /// Whether a block that shrinks averages before its 3×3 convolution, or behind it.
    pub average_first: bool,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const D50: Config = Config {
    layers: [3, 4, 6, 3],
    stem: [32, 32, 64],
    radix: 2,
    cardinality: 1,
    base_width: 64,
    average_first: false,
    input_size: 224,
    num_classes: 1000,
};

const fn e(layers: [usize; 4], input_size: usize) -> Config {
    Config { layers, stem: [64, 64, 128], input_size, ..D50 }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("resnest14d", Config { layers: [1, 1, 1, 1], ..D50 }),
    ("resnest26d", Config { layers: [2, 2, 2, 2], ..D50 }),
    ("resnest50d", D50),
    ("resnest50d_1s4x24d", Config { radix: 1, cardinality: 4, base_width: 24, average_first: true, ..D50 }),
    ("resnest50d_4s2x40d", Config { radix: 4, cardinality: 2, base_width: 40, average_first: true, ..D50 }),
    ("resnest101e", e([3, 4, 23, 3], 256)),
    ("resnest200e", e([3, 24, 36, 3], 320)),
    ("resnest269e", e([3, 30, 48, 8], 416)),
];

configuration!(ResNeSt, InputRule::Any);

const CHANNELS: [usize; 4] = [64, 128, 256, 512];

impl Config {
    fn components(&self) -> Components {
        Components { channel_attention: "Yes", stem: "3s2/3/3".into(), grouped_convolution: true, ..Components::CNN }
    }

    /// The ResNet whose stem and shortcuts these are.
    fn resnet(&self) -> resnet::Config {
        resnet::Config { stem: StemKind::Deep(self.stem), average_down: true, ..resnet::BOTTLENECK }
    }
}

/// A residual network with split attention. See [`Config`].
#[derive(Module, Debug)]
pub struct ResNeSt {
    conv1: Stem,
    bn1: Norm2d,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    fc: Linear,
}

impl ResNeSt {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let (conv1, mut inputs) = Stem::new(&config.resnet(), device);
        let bn1 = Norm2d::batch(inputs, device);
        let mut stage = |index: usize| {
            (0..config.layers[index])
                .map(|position| {
                    let stride = if index > 0 && position == 0 { 2 } else { 1 };
                    let block = Block::new(config, inputs, CHANNELS[index], stride, device);
                    inputs = 4 * CHANNELS[index];
                    block
                })
                .collect::<Vec<_>>()
        };
        let [layer1, layer2, layer3, layer4] = [stage(0), stage(1), stage(2), stage(3)];
        Self { conv1, bn1, layer1, layer2, layer3, layer4, fc: Linear::new(inputs, num_classes, device) }
    }
}

impl Architecture for ResNeSt {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = taps.map(|| "act1".into(), self.conv1.forward(images, &self.bn1));
        let mut x = taps.map(|| "maxpool".into(), max_pool(x, 3, 2, 1));
        let stages = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        for (stage, blocks) in stages.into_iter().enumerate() {
            x = taps.stage(|| format!("layer{}", stage + 1), blocks, x, |block, x| block.forward(x));
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.fc.forward(features.clone()), features }
    }
}

/// 1×1, split attention, 1×1, beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: SplitAttention,
    conv3: Conv2d,
    bn3: BatchNorm2d,
    downsample: Option<Shortcut>,
    stride: usize,
    average_first: bool,
}

impl Block {
    fn new(config: &Config, inputs: usize, channels: usize, stride: usize, device: &Device) -> Self {
        let outputs = 4 * channels;
        let width = channels * config.base_width / 64 * config.cardinality;
        let shortcut = || Shortcut::new(&config.resnet(), inputs, outputs, stride, device);
        Self {
            conv1: Conv2d::config(inputs, width, 1).build(device),
            bn1: BatchNorm2d::new(width, device),
            conv2: SplitAttention::new(width, config.radix, config.cardinality, device),
            conv3: Conv2d::config(width, outputs, 1).build(device),
            bn3: BatchNorm2d::new(outputs, device),
            downsample: (stride != 1 || inputs != outputs).then(shortcut),
            stride,
            average_first: config.average_first,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let relu = |norm| Then::norm(norm, Activation::Relu);
        let shrunken = |x, now| if now && self.stride > 1 { average_pool_3x3(x, self.stride) } else { x };
        let y = self.conv1.forward_then(x.clone(), relu(&self.bn1));
        let y = self.conv2.forward(shrunken(y, self.average_first));
        let y = shrunken(y, !self.average_first);
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        };
        self.conv3.forward_then(y, relu(&self.bn3).residual(shortcut))
    }
}

/// A 3×3 convolution to several results, and their sum weighed for each channel by what all of them have in the mean
/// (section 3.1 of the paper).
#[derive(Module, Debug)]
struct SplitAttention {
    conv: Conv2d,
    bn0: BatchNorm2d,
    fc1: Conv2d,
    bn1: BatchNorm2d,
    fc2: Conv2d,
    radix: usize,
    cardinality: usize,
}

impl SplitAttention {
    fn new(channels: usize, radix: usize, cardinality: usize, device: &Device) -> Self {
        let hidden = make_divisible((channels * radix) as f64 * 0.25, 8).max(32);
        let conv = Conv2d::config(channels, channels * radix, 3).padding(Padding::Symmetric(1));
        Self {
            conv: conv.groups(cardinality * radix).build(device),
            bn0: BatchNorm2d::new(channels * radix, device),
            fc1: Conv2d::config(channels, hidden, 1).groups(cardinality).bias().build(device),
            bn1: BatchNorm2d::new(hidden, device),
            fc2: Conv2d::config(hidden, channels * radix, 1).groups(cardinality).bias().build(device),
            radix,
            cardinality,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let Self { radix, cardinality, .. } = *self;
        let x = self.conv.forward_then(x, Then::norm(&self.bn0, Activation::Relu));
        let [batch, all, ..] = x.dims();
        let channels = all / radix;
        let means = global_average_pool(x.clone()).reshape([batch, radix, channels]).sum_dim(1);
        let hidden = means.reshape([batch, channels, 1, 1]);
        let hidden = self.fc1.forward_then(hidden, Then::norm(&self.bn1, Activation::Relu));
        let weights = self.fc2.forward(hidden);
        let weights = if radix > 1 {
            let weights = weights.reshape([batch, cardinality, radix, channels / cardinality]).swap_dims(1, 2);
            activation::softmax(weights, 1).reshape([batch, all])
        } else {
            activation::sigmoid(weights.reshape([batch, all]))
        };
        let weighed = gate(x, weights);
        let parts = weighed.split(channels, 1).into_iter();
        parts.reduce(|sum, part| add(sum, part, Activation::Identity)).expect("at least one result")
    }
}
