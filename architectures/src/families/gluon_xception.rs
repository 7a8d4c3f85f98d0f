//! Xception-65 as GluonCV trained it, with padding on all sides alike.
//!
//! Chollet, *Xception: Deep Learning with Depthwise Separable Convolutions* (arXiv 1610.02357), in the version of Chen et al.,
//! *DeepLabv3+* (1802.02611). timm had it until 0.6.13.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{Activation, BatchNorm2d, Conv2d, Linear, Named, Padding, Then, global_average_pool};
use crate::taps::Taps;

/// Which Xception.
#[derive(Debug, Clone)]
pub struct Config {
    /// Blocks in the middle, which keep the shape.
    pub middle: usize,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] =
    &[("gluon_xception65", Config { middle: 16, input_size: 299, num_classes: 1000 })];

configuration!(GluonXception, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        Components { stem: "3s2/3".into(), stem_pooling: false, depthwise_convolution: true, ..Components::CNN }
    }
}

/// An Xception. See [`Config`].
#[derive(Module, Debug)]
pub struct GluonXception {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    block1: Block,
    block2: Block,
    block3: Block,
    /// `block4` and those behind it.
    mid: Named<Block>,
    block20: Block,
    conv3: Separable,
    bn3: BatchNorm2d,
    conv4: Separable,
    bn4: BatchNorm2d,
    conv5: Separable,
    bn5: BatchNorm2d,
    fc: Linear,
}

impl GluonXception {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let conv = |inputs, outputs, stride| {
            Conv2d::config(inputs, outputs, 3).stride(stride).padding(Padding::Symmetric(1)).build(device)
        };
        let norm = |channels| BatchNorm2d::new(channels, device);
        let block = |inputs, outputs, stride, relu| Block::new(inputs, outputs, stride, relu, device);
        let middle = |index| (format!("block{}", 4 + index), block(728, [728; 3], 1, true));
        Self {
            conv1: conv(3, 32, 2),
            bn1: norm(32),
            conv2: conv(32, 64, 1),
            bn2: norm(64),
            block1: block(64, [128; 3], 2, false),
            block2: block(128, [256; 3], 2, false),
            block3: block(256, [728; 3], 2, true),
            mid: (0..config.middle).map(middle).collect(),
            block20: block(728, [728, 1024, 1024], 2, true),
            conv3: Separable::new(1024, 1536, 1, device),
            bn3: norm(1536),
            conv4: Separable::new(1536, 1536, 1, device),
            bn4: norm(1536),
            conv5: Separable::new(1536, 2048, 1, device),
            bn5: norm(2048),
            fc: Linear::new(2048, num_classes, device),
        }
    }
}

impl Architecture for GluonXception {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let relu = |norm| Then::norm(norm, Activation::Relu);
        let x = taps.map(|| "act1".into(), self.conv1.forward_then(images, relu(&self.bn1)));
        let x = taps.map(|| "act2".into(), self.conv2.forward_then(x, relu(&self.bn2)));
        let x = Activation::Relu.forward(self.block1.forward(x, |x| x));
        let x = taps.map(|| "block1_act".into(), x);
        let x = taps.map(|| "block2".into(), self.block2.forward(x, |x| x));
        let x = self.block3.forward(x, |x| taps.map(|| "block3.rep.act1".into(), x));
        let mut x = taps.map(|| "block3".into(), x);
        for (name, block) in self.mid.iter() {
            x = taps.map(|| format!("mid.{name}"), block.forward(x, |x| x));
        }
        let x = self.block20.forward(x, |x| taps.map(|| "block20.rep.act1".into(), x));
        let mut x = taps.map(|| "block20_act".into(), Activation::Relu.forward(x));
        let last = [(&self.conv3, &self.bn3), (&self.conv4, &self.bn4), (&self.conv5, &self.bn5)];
        for (index, (conv, norm)) in last.into_iter().enumerate() {
            x = taps.map(|| format!("act{}", index + 3), conv.forward_then(x, relu(norm)));
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.fc.forward(features.clone()), features }
    }
}

/// A depthwise 3×3 convolution, its normalisation and a 1×1 convolution.
#[derive(Module, Debug)]
struct Separable {
    conv_dw: Conv2d,
    bn: BatchNorm2d,
    conv_pw: Conv2d,
}

impl Separable {
    fn new(inputs: usize, outputs: usize, stride: usize, device: &Device) -> Self {
        let depthwise = Conv2d::config(inputs, inputs, 3).groups(inputs).stride(stride);
        Self {
            conv_dw: depthwise.padding(Padding::Symmetric(1)).build(device),
            bn: BatchNorm2d::new(inputs, device),
            conv_pw: Conv2d::config(inputs, outputs, 1).build(device),
        }
    }

    fn forward_then(&self, x: Tensor<4>, then: Then) -> Tensor<4> {
        let x = self.conv_dw.forward_then(x, Then::norm(&self.bn, Activation::Identity));
        self.conv_pw.forward_then(x, then)
    }
}

/// Three separable convolutions with ReLU before each, or before the last two, beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    skip: Option<Skip>,
    rep: Steps,
    begins_with_relu: bool,
}

/// A 1×1 convolution that brings the input to the output's shape.
#[derive(Module, Debug)]
struct Skip {
    conv1: Conv2d,
    bn1: BatchNorm2d,
}

#[derive(Module, Debug)]
struct Steps {
    conv1: Separable,
    bn1: BatchNorm2d,
    conv2: Separable,
    bn2: BatchNorm2d,
    conv3: Separable,
    bn3: BatchNorm2d,
}

impl Block {
    fn new(inputs: usize, widths: [usize; 3], stride: usize, begins_with_relu: bool, device: &Device) -> Self {
        let [first, second, third] = widths;
        let norm = |channels| BatchNorm2d::new(channels, device);
        let skip = || Skip {
            conv1: Conv2d::config(inputs, third, 1).stride(stride).padding(Padding::Symmetric(0)).build(device),
            bn1: norm(third),
        };
        Self {
            skip: (inputs != third || stride != 1).then(skip),
            rep: Steps {
                conv1: Separable::new(inputs, first, 1, device),
                bn1: norm(first),
                conv2: Separable::new(first, second, 1, device),
                bn2: norm(second),
                conv3: Separable::new(second, third, stride, device),
                bn3: norm(third),
            },
            begins_with_relu,
        }
    }

    /// `show` gets what is behind the first ReLU, if there is one.
    fn forward(&self, x: Tensor<4>, show: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let Steps { conv1, bn1, conv2, bn2, conv3, bn3 } = &self.rep;
        let relu = |norm| Then::norm(norm, Activation::Relu);
        let y = if self.begins_with_relu { show(Activation::Relu.forward(x.clone())) } else { x.clone() };
        let y = conv2.forward_then(conv1.forward_then(y, relu(bn1)), relu(bn2));
        let shortcut = match &self.skip {
            Some(Skip { conv1, bn1 }) => conv1.forward_then(x, Then::norm(bn1, Activation::Identity)),
            None => x,
        };
        conv3.forward_then(y, Then::norm(bn3, Activation::Identity).residual(shortcut))
    }
}
