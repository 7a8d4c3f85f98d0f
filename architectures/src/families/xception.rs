//! Xception: separable convolutions all through.
//!
//! Chollet, *Xception: Deep Learning with Depthwise Separable Convolutions* (arXiv 1610.02357).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{Activation, BatchNorm2d, Conv2d, Linear, Named, Padding, Then, global_average_pool, max_pool};
use crate::taps::Taps;

/// Which Xception.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[("legacy_xception", Config { input_size: 299, num_classes: 1000 })];

configuration!(Xception, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        Components { stem: "3s2/3".into(), stem_pooling: false, depthwise_convolution: true, ..Components::CNN }
    }
}

/// An Xception. See [`Config`].
#[derive(Module, Debug)]
pub struct Xception {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    block1: Block,
    block2: Block,
    block3: Block,
    block4: Block,
    block5: Block,
    block6: Block,
    block7: Block,
    block8: Block,
    block9: Block,
    block10: Block,
    block11: Block,
    block12: Block,
    conv3: SeparableConv2d,
    bn3: BatchNorm2d,
    conv4: SeparableConv2d,
    bn4: BatchNorm2d,
    fc: Linear,
}

impl Xception {
    /// Builds the network with `num_classes` outputs.
    pub fn new(_: &Config, num_classes: usize, device: &Device) -> Self {
        let unpadded = |inputs, outputs| Conv2d::config(inputs, outputs, 3).padding(Padding::Symmetric(0));
        let norm = |channels| BatchNorm2d::new(channels, device);
        let halving = |channels: &[usize]| Block::new(channels, true, device);
        let middle = || Block::new(&[728, 728, 728, 728], false, device);
        Self {
            conv1: unpadded(3, 32).stride(2).build(device),
            bn1: norm(32),
            conv2: unpadded(32, 64).build(device),
            bn2: norm(64),
            block1: Block::first(&[64, 128, 128], device),
            block2: halving(&[128, 256, 256]),
            block3: halving(&[256, 728, 728]),
            block4: middle(),
            block5: middle(),
            block6: middle(),
            block7: middle(),
            block8: middle(),
            block9: middle(),
            block10: middle(),
            block11: middle(),
            block12: halving(&[728, 728, 1024]),
            conv3: SeparableConv2d::new(1024, 1536, device),
            bn3: norm(1536),
            conv4: SeparableConv2d::new(1536, 2048, device),
            bn4: norm(2048),
            fc: Linear::new(2048, num_classes, device),
        }
    }

    fn blocks(&self) -> [&Block; 12] {
        [
            &self.block1,
            &self.block2,
            &self.block3,
            &self.block4,
            &self.block5,
            &self.block6,
            &self.block7,
            &self.block8,
            &self.block9,
            &self.block10,
            &self.block11,
            &self.block12,
        ]
    }
}

impl Architecture for Xception {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let relu = |norm| Then::norm(norm, Activation::Relu);
        let x = taps.map(|| "act1".into(), self.conv1.forward_then(images, relu(&self.bn1)));
        let mut x = taps.map(|| "act2".into(), self.conv2.forward_then(x, relu(&self.bn2)));
        for (index, block) in self.blocks().into_iter().enumerate() {
            let name = format!("block{}", index + 1);
            let y = block.forward(x, &name, taps);
            x = taps.map(|| name, y);
        }
        let x = taps.map(|| "act3".into(), self.conv3.forward_then(x, relu(&self.bn3)));
        let x = taps.map(|| "act4".into(), self.conv4.forward_then(x, relu(&self.bn4)));
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.fc.forward(features.clone()), features }
    }
}

/// Separable convolutions with normalisations and, where the shape changes, pooling, beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    /// By the numbers of timm's Sequential, in which activations count.
    rep: Named<Part>,
    skip: Option<Conv2d>,
    skipbn: Option<BatchNorm2d>,
    starts_with_relu: bool,
}

#[derive(Module, Debug)]
enum Part {
    Convolution(SeparableConv2d),
    Norm(BatchNorm2d),
}

impl Block {
    /// By the channels from convolution to convolution.
    fn new(channels: &[usize], halves: bool, device: &Device) -> Self {
        Self::starting_at(1, channels, halves, device)
    }

    /// The one whose input is activated already.
    fn first(channels: &[usize], device: &Device) -> Self {
        Self::starting_at(0, channels, true, device)
    }

    fn starting_at(position: usize, channels: &[usize], halves: bool, device: &Device) -> Self {
        let (inputs, outputs) = (channels[0], channels[channels.len() - 1]);
        let pair = |(index, pair): (usize, &[usize])| {
            let place = position + 3 * index;
            let conv = Part::Convolution(SeparableConv2d::new(pair[0], pair[1], device));
            let norm = Part::Norm(BatchNorm2d::new(pair[1], device));
            [(place.to_string(), conv), ((place + 1).to_string(), norm)]
        };
        let shrunken = Conv2d::config(inputs, outputs, 1).stride(2).padding(Padding::Symmetric(0));
        Self {
            rep: channels.windows(2).enumerate().flat_map(pair).collect(),
            skip: halves.then(|| shrunken.build(device)),
            skipbn: halves.then(|| BatchNorm2d::new(outputs, device)),
            starts_with_relu: position > 0,
        }
    }

    fn forward(&self, x: Tensor<4>, name: &str, taps: &mut Taps) -> Tensor<4> {
        let mut y = x.clone();
        if self.starts_with_relu {
            y = taps.map(|| format!("{name}.rep.0"), Activation::Relu.forward(y));
        }
        let parts: Vec<&Part> = self.rep.iter().map(|(_, part)| part).collect();
        let mut pairs = parts.chunks(2).peekable();
        while let Some(&[Part::Convolution(conv), Part::Norm(norm)]) = pairs.next() {
            let last = pairs.peek().is_none();
            let then = Then::norm(norm, if last { Activation::Identity } else { Activation::Relu });
            let shortcut = (last && self.skip.is_none()).then(|| x.clone());
            y = conv.forward_then(y, then.residual(shortcut));
        }
        match (&self.skip, &self.skipbn) {
            (Some(skip), Some(norm)) => {
                let then = Then::norm(norm, Activation::Identity).residual(max_pool(y, 3, 2, 1));
                skip.forward_then(x, then)
            }
            _ => y,
        }
    }
}

/// Depthwise 3×3 convolution, 1×1 convolution.
#[derive(Module, Debug)]
struct SeparableConv2d {
    conv1: Conv2d,
    pointwise: Conv2d,
}

impl SeparableConv2d {
    fn new(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self {
            conv1: Conv2d::config(inputs, inputs, 3).groups(inputs).build(device),
            pointwise: Conv2d::config(inputs, outputs, 1).build(device),
        }
    }

    fn forward_then(&self, x: Tensor<4>, then: Then) -> Tensor<4> {
        self.pointwise.forward_then(self.conv1.forward(x), then)
    }
}
