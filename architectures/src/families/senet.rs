//! SENet: the networks of the paper on squeeze-and-excitation, as their authors' files have them.
//!
//! Hu et al., *Squeeze-and-Excitation Networks* (arXiv 1709.01507). SENet-154 is a usual target of transfer attacks. Later
//! networks with such blocks are [`resnet`](super::resnet)'s.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Linear, Padding, SqueezeExcite, Then, add, global_average_pool, max_pool_ceil,
};
use crate::taps::Taps;

/// Which SENet.
#[derive(Debug, Clone)]
pub struct Config {
    /// The kind of block in all four stages.
    pub block: BlockKind,
    /// Blocks in each stage.
    pub layers: [usize; 4],
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
    /// 1×1, 3×3, 1×1; the first takes the steps.
    Bottleneck,
    /// The same with 32 groups in the second, which takes the steps.
    Grouped,
    /// With 64 groups, wider; the stem is three 3×3 convolutions, and shortcuts shrink by such.
    Wide,
}

impl BlockKind {
    fn outputs(self, planes: usize) -> usize {
        if self == Self::Basic { planes } else { 4 * planes }
    }
}

const fn senet(block: BlockKind, layers: [usize; 4]) -> Config {
    Config { block, layers, input_size: 224, num_classes: 1000 }
}

const LAYERS_50: [usize; 4] = [3, 4, 6, 3];
const LAYERS_101: [usize; 4] = [3, 4, 23, 3];
const LAYERS_152: [usize; 4] = [3, 8, 36, 3];

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("legacy_senet154", senet(BlockKind::Wide, LAYERS_152)),
    ("legacy_seresnet101", senet(BlockKind::Bottleneck, LAYERS_101)),
    ("legacy_seresnet152", senet(BlockKind::Bottleneck, LAYERS_152)),
    ("legacy_seresnet18", senet(BlockKind::Basic, [2, 2, 2, 2])),
    ("legacy_seresnet34", senet(BlockKind::Basic, LAYERS_50)),
    ("legacy_seresnet50", senet(BlockKind::Bottleneck, LAYERS_50)),
    ("legacy_seresnext101_32x4d", senet(BlockKind::Grouped, LAYERS_101)),
    ("legacy_seresnext26_32x4d", senet(BlockKind::Grouped, [2, 2, 2, 2])),
    ("legacy_seresnext50_32x4d", senet(BlockKind::Grouped, LAYERS_50)),
];

configuration!(SeNet, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: if self.block == BlockKind::Wide { "3s2/3/3" } else { "7s2" }.into(),
            channel_attention: "Yes (SE)",
            channel_attention_location: "End",
            grouped_convolution: matches!(self.block, BlockKind::Grouped | BlockKind::Wide),
            ..Components::CNN
        }
    }
}

/// A squeeze-and-excitation network. See [`Config`].
#[derive(Module, Debug)]
pub struct SeNet {
    layer0: Stem,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    last_linear: Linear,
}

/// One convolution, or three.
#[derive(Module, Debug)]
struct Stem {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Option<Conv2d>,
    bn2: Option<BatchNorm2d>,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm2d>,
}

impl SeNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let wide = config.block == BlockKind::Wide;
        let mut inputs = if wide { 128 } else { 64 };
        let norm = |channels| BatchNorm2d::new(channels, device);
        let kernel = if wide { 3 } else { 7 };
        let conv1 = Conv2d::config(3, 64, kernel).stride(2).padding(Padding::Symmetric(kernel / 2));
        let layer0 = Stem {
            conv1: conv1.build(device),
            bn1: norm(64),
            conv2: wide.then(|| Conv2d::config(64, 64, 3).build(device)),
            bn2: wide.then(|| norm(64)),
            conv3: wide.then(|| Conv2d::config(64, inputs, 3).build(device)),
            bn3: wide.then(|| norm(inputs)),
        };
        let mut stage = |index: usize| {
            let (planes, outputs) = (64 << index, config.block.outputs(64 << index));
            let block = |position| {
                let stride = if index > 0 && position == 0 { 2 } else { 1 };
                Block::new(config.block, std::mem::replace(&mut inputs, outputs), planes, stride, device)
            };
            (0..config.layers[index]).map(block).collect()
        };
        Self {
            layer0,
            layer1: stage(0),
            layer2: stage(1),
            layer3: stage(2),
            layer4: stage(3),
            last_linear: Linear::new(inputs, num_classes, device),
        }
    }
}

impl Architecture for SeNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let Stem { conv1, bn1, conv2, bn2, conv3, bn3 } = &self.layer0;
        let layers = [(Some(conv1), Some(bn1)), (conv2.as_ref(), bn2.as_ref()), (conv3.as_ref(), bn3.as_ref())];
        let layers = layers.into_iter().filter_map(|(conv, norm)| conv.zip(norm));
        let x = layers.fold(images, |x, (conv, norm)| conv.forward_then(x, Then::norm(norm, Activation::Relu)));
        let x = taps.map(|| "layer0".into(), x);
        let mut x = taps.map(|| "pool0".into(), max_pool_ceil(x, 3, 2));
        let stages = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        for (stage, blocks) in stages.into_iter().enumerate() {
            x = taps.stage(|| format!("layer{}", stage + 1), blocks, x, |block, x| block.forward(x));
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.last_linear.forward(features.clone()), features }
    }
}

/// A residual block of any kind; all but the basic ones have a third convolution.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm2d>,
    se_module: SqueezeExcite,
    /// In the places of timm's Sequential: `downsample.0`, `downsample.1`.
    downsample: Option<(Conv2d, BatchNorm2d)>,
}

impl Block {
    fn new(kind: BlockKind, inputs: usize, planes: usize, stride: usize, device: &Device) -> Self {
        // Of the first two convolutions: channels, kernel and stride; and the groups of the second.
        let (first, second, groups) = match kind {
            BlockKind::Basic => ((planes, 3, stride), (planes, 3, 1), 1),
            BlockKind::Bottleneck => ((planes, 1, stride), (planes, 3, 1), 1),
            BlockKind::Grouped => ((2 * planes, 1, 1), (2 * planes, 3, stride), 32),
            BlockKind::Wide => ((2 * planes, 1, 1), (4 * planes, 3, stride), 64),
        };
        let outputs = kind.outputs(planes);
        let conv = |inputs, (outputs, kernel, stride): (usize, usize, usize), groups| {
            let conv = Conv2d::config(inputs, outputs, kernel).stride(stride).groups(groups);
            conv.padding(Padding::Symmetric(kernel / 2)).build(device)
        };
        let norm = |channels| BatchNorm2d::new(channels, device);
        let kernel = if kind == BlockKind::Wide && stride == 2 { 3 } else { 1 };
        let shrinks = stride != 1 || inputs != outputs;
        Self {
            conv1: conv(inputs, first, 1),
            bn1: norm(first.0),
            conv2: conv(first.0, second, groups),
            bn2: norm(second.0),
            conv3: (kind != BlockKind::Basic).then(|| conv(second.0, (outputs, 1, 1), 1)),
            bn3: (kind != BlockKind::Basic).then(|| norm(outputs)),
            se_module: SqueezeExcite::new(outputs, outputs / 16, device),
            downsample: shrinks.then(|| (conv(inputs, (outputs, kernel, stride), 1), norm(outputs))),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv1.forward_then(x.clone(), Then::norm(&self.bn1, Activation::Relu));
        let y = self.conv2.forward_then(y, Then::norm(&self.bn2, Activation::Relu));
        let y = match (&self.conv3, &self.bn3) {
            (Some(conv), Some(norm)) => conv.forward_then(y, Then::norm(norm, Activation::Identity)),
            _ => y,
        };
        let shortcut = match &self.downsample {
            Some((conv, norm)) => conv.forward_then(x, Then::norm(norm, Activation::Identity)),
            None => x,
        };
        add(self.se_module.forward(y), shortcut, Activation::Relu)
    }
}
