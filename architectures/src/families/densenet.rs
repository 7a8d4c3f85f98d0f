//! DenseNet: every layer reads the results of all layers before it in its block.
//!
//! Huang et al., *Densely Connected Convolutional Networks* (arXiv 1608.06993); Zhang (1904.11486), the blur; the d variants'
//! stem of three convolutions is that of He et al. (1812.01187).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Linear, Named, Padding, Then, average_pool_floor, blur_pool, global_average_pool,
    max_pool,
};
use crate::taps::Taps;

/// Which DenseNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels that each layer adds.
    pub growth: usize,
    /// Layers in each block.
    pub layers: [usize; 4],
    /// Whether the stem is three 3×3 convolutions in place of one of 7×7.
    pub deep_stem: bool,
    /// Whether the stem's pooling blurs before it takes every second place.
    pub blur: bool,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn densenet(growth: usize, layers: [usize; 4]) -> Config {
    Config { growth, layers, deep_stem: false, blur: false, input_size: 224, num_classes: 1000 }
}
const fn deep(config: Config) -> Config {
    Config { deep_stem: true, ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("densenet121", densenet(32, [6, 12, 24, 16])),
    ("densenet161", densenet(48, [6, 12, 36, 24])),
    ("densenet169", densenet(32, [6, 12, 32, 32])),
    ("densenet201", densenet(32, [6, 12, 48, 32])),
    ("densenet264d", deep(densenet(48, [6, 12, 64, 48]))),
    ("densenetblur121d", Config { blur: true, ..deep(densenet(32, [6, 12, 24, 16])) }),
];

configuration!(DenseNet, InputRule::Any, convert);

/// Channels within a layer, as a multiple of those that it adds.
const BOTTLENECK: usize = 4;

impl Config {
    fn components(&self) -> Components {
        let stem = if self.deep_stem { "3s2/3/3" } else { "7s2" };
        Components { stem: stem.into(), ..Components::CNN }
    }
}

/// torchvision's files have a dot more within the layers' names, `denselayer1.norm.1`.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    checkpoint.rename(|name| match name.split_once("denselayer") {
        Some((block, layer)) => {
            let layer = layer.replace(".norm.", ".norm").replace(".conv.", ".conv");
            format!("{block}denselayer{layer}")
        }
        None => name.to_owned(),
    });
}

/// A DenseNet. See [`Config`].
#[derive(Module, Debug)]
pub struct DenseNet {
    features: Named<Part>,
    classifier: Linear,
}

/// A part of timm's Sequential of named modules.
#[derive(Module, Debug)]
enum Part {
    /// Of the stem; a normalisation follows.
    Convolution(Conv2d),
    /// And ReLU.
    Norm(BatchNorm2d),
    Pool(Pool),
    Block(Named<Layer>),
    Transition(Transition),
}

impl DenseNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let growth = config.growth;
        let mut channels = 2 * growth;
        let stem = if config.deep_stem {
            vec![(3, growth, 3), (growth, growth, 3), (growth, channels, 3)]
        } else {
            vec![(3, channels, 7)]
        };
        let mut parts = Vec::new();
        for (index, (inputs, outputs, kernel)) in stem.into_iter().enumerate() {
            let stride = if index == 0 { 2 } else { 1 };
            let conv = Conv2d::config(inputs, outputs, kernel).stride(stride).padding(Padding::Symmetric(kernel / 2));
            parts.push((format!("conv{index}"), Part::Convolution(conv.build(device))));
            parts.push((format!("norm{index}"), Part::Norm(BatchNorm2d::new(outputs, device))));
        }
        parts.push(("pool0".into(), Part::Pool(Pool { blur: config.blur })));
        for (index, count) in config.layers.into_iter().enumerate() {
            let layer =
                |index| (format!("denselayer{}", index + 1), Layer::new(channels + index * growth, growth, device));
            parts.push((format!("denseblock{}", index + 1), Part::Block((0..count).map(layer).collect())));
            channels += count * growth;
            if index < 3 {
                parts.push((format!("transition{}", index + 1), Part::Transition(Transition::new(channels, device))));
                channels /= 2;
            }
        }
        parts.push(("norm5".into(), Part::Norm(BatchNorm2d::new(channels, device))));
        Self { features: parts.into_iter().collect(), classifier: Linear::new(channels, num_classes, device) }
    }
}

impl Architecture for DenseNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = images;
        let mut before_norm = None;
        for (name, part) in self.features.iter() {
            x = match part {
                Part::Convolution(conv) => {
                    before_norm = Some(conv);
                    continue;
                }
                Part::Norm(norm) => match before_norm.take() {
                    Some(conv) => conv.forward_then(x, Then::norm(norm, Activation::Relu)),
                    None => norm.forward(x, Activation::Relu),
                },
                Part::Pool(pool) => pool.forward(x),
                Part::Block(layers) => layers.iter().fold(x, |x, (layer_name, layer)| {
                    let new = taps.map(|| format!("features.{name}.{layer_name}"), layer.forward(x.clone()));
                    Tensor::cat(vec![x, new], 1)
                }),
                Part::Transition(transition) => transition.forward(x),
            };
            x = taps.map(|| format!("features.{name}"), x);
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.classifier.forward(features.clone()), features }
    }
}

/// What halves the image behind the stem.
#[derive(Module, Debug)]
struct Pool {
    blur: bool,
}

impl Pool {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if self.blur { blur_pool(max_pool(x, 3, 1, 1), 2) } else { max_pool(x, 3, 2, 1) }
    }
}

/// 1×1 and 3×3 convolutions, both behind a normalisation and ReLU, to the channels that are added.
#[derive(Module, Debug)]
struct Layer {
    norm1: BatchNorm2d,
    conv1: Conv2d,
    norm2: BatchNorm2d,
    conv2: Conv2d,
}

impl Layer {
    fn new(inputs: usize, growth: usize, device: &Device) -> Self {
        let width = BOTTLENECK * growth;
        Self {
            norm1: BatchNorm2d::new(inputs, device),
            conv1: Conv2d::config(inputs, width, 1).build(device),
            norm2: BatchNorm2d::new(width, device),
            conv2: Conv2d::config(width, growth, 3).build(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.norm1.forward(x, Activation::Relu);
        self.conv2.forward(self.conv1.forward_then(y, Then::norm(&self.norm2, Activation::Relu)))
    }
}

/// Halves the channels and the image.
#[derive(Module, Debug)]
struct Transition {
    norm: BatchNorm2d,
    conv: Conv2d,
}

impl Transition {
    fn new(channels: usize, device: &Device) -> Self {
        Self { norm: BatchNorm2d::new(channels, device), conv: Conv2d::config(channels, channels / 2, 1).build(device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        average_pool_floor(self.conv.forward(self.norm.forward(x, Activation::Relu)), 2, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_torchvision_become_those_of_timm() {
        let names =
            ["features.denseblock1.denselayer2.norm.1.weight", "features.denseblock4.denselayer16.conv.2.weight"];
        let others = ["features.norm0.running_mean", "features.transition1.norm.weight", "classifier.bias"];
        let all = names.into_iter().chain(others).map(|name| (name.to_owned(), vec![1]));
        let mut checkpoint = Checkpoint::new(all);
        convert(&VARIANTS[0].1, &mut checkpoint);
        let expected =
            ["features.denseblock1.denselayer2.norm1.weight", "features.denseblock4.denselayer16.conv2.weight"];
        assert!(expected.into_iter().chain(others).all(|name| checkpoint.contains(name)), "{checkpoint:?}");
    }
}
