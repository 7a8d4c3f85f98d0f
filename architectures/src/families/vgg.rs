//! VGG: 3×3 convolutions and pooling, nothing else, with and without batch normalisation.
//!
//! Simonyan & Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition* (arXiv 1409.1556).

use burn::module::Module;
use burn::nn::Relu;
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Interpolation, Linear, Padding, Then, global_average_pool, max_pool, resize,
};
use crate::taps::Taps;

/// Which VGG.
#[derive(Debug, Clone)]
pub struct Config {
    /// Convolutions in each stage.
    pub depths: [usize; 5],
    /// Whether a normalisation follows each.
    pub norm: bool,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn vgg(depths: [usize; 5]) -> Config {
    Config { depths, norm: false, input_size: 224, num_classes: 1000 }
}
const fn bn(depths: [usize; 5]) -> Config {
    Config { norm: true, ..vgg(depths) }
}

const LAYERS_11: [usize; 5] = [1, 1, 2, 2, 2];
const LAYERS_13: [usize; 5] = [2, 2, 2, 2, 2];
const LAYERS_16: [usize; 5] = [2, 2, 3, 3, 3];
const LAYERS_19: [usize; 5] = [2, 2, 4, 4, 4];

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("vgg11", vgg(LAYERS_11)),
    ("vgg11_bn", bn(LAYERS_11)),
    ("vgg13", vgg(LAYERS_13)),
    ("vgg13_bn", bn(LAYERS_13)),
    ("vgg16", vgg(LAYERS_16)),
    ("vgg16_bn", bn(LAYERS_16)),
    ("vgg19", vgg(LAYERS_19)),
    ("vgg19_bn", bn(LAYERS_19)),
];

configuration!(Vgg, InputRule::Any, convert);

/// Channels of each stage.
const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];
/// Of the perceptron behind the stages.
const HIDDEN: usize = 4096;
/// Rows and columns that the perceptron sees at once, and at least.
const WINDOW: usize = 7;

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: "3s1".into(),
            normalization: if self.norm { "BN" } else { "Norm-free" },
            stem_pooling: false,
            ..Components::CNN
        }
    }
}

/// torchvision's files keep the perceptron as linear maps of a classifier.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    checkpoint.reshape("classifier.0.weight", &[HIDDEN, CHANNELS[4], WINDOW, WINDOW]);
    checkpoint.reshape("classifier.3.weight", &[HIDDEN, HIDDEN, 1, 1]);
    checkpoint.rename(|name| {
        let layers =
            [("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2"), ("classifier.6", "head.fc")];
        layers.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new))
    });
}

/// A VGG. See [`Config`].
#[derive(Module, Debug)]
pub struct Vgg {
    features: Vec<Layer>,
    pre_logits: Mlp,
    head: Head,
}

/// A place of timm's Sequential; those without parameters count, too.
#[derive(Module, Debug)]
enum Layer {
    Convolution(Conv2d),
    Norm(BatchNorm2d),
    Activation(Relu),
    Pool(HalvingPool),
}

#[derive(Module, Debug)]
struct HalvingPool;

/// A convolution over a window, which has its places at every offset if the image is larger, and one of 1×1.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Conv2d,
    fc2: Conv2d,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

impl Vgg {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let mut features = Vec::new();
        let mut inputs = 3;
        for (outputs, depth) in CHANNELS.into_iter().zip(config.depths) {
            for _ in 0..depth {
                features.push(Layer::Convolution(Conv2d::config(inputs, outputs, 3).bias().build(device)));
                features.extend(config.norm.then(|| Layer::Norm(BatchNorm2d::new(outputs, device))));
                features.push(Layer::Activation(Relu));
                inputs = outputs;
            }
            features.push(Layer::Pool(HalvingPool));
        }
        let window = Conv2d::config(inputs, HIDDEN, WINDOW).padding(Padding::Symmetric(0));
        Self {
            features,
            pre_logits: Mlp {
                fc1: window.bias().build(device),
                fc2: Conv2d::config(HIDDEN, HIDDEN, 1).bias().build(device),
            },
            head: Head { fc: Linear::new(HIDDEN, num_classes, device) },
        }
    }
}

impl Architecture for Vgg {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = images;
        let (mut conv, mut norm) = (None, None);
        for (index, layer) in self.features.iter().enumerate() {
            x = match layer {
                Layer::Convolution(layer) => {
                    conv = Some(layer);
                    continue;
                }
                Layer::Norm(layer) => {
                    norm = Some(layer);
                    continue;
                }
                Layer::Activation(_) => {
                    let conv = conv.take().expect("a convolution before each activation");
                    let then = match norm.take() {
                        Some(norm) => Then::norm(norm, Activation::Relu),
                        None => Then::activation(Activation::Relu),
                    };
                    conv.forward_then(x, then)
                }
                Layer::Pool(_) => max_pool(x, 2, 2, 0),
            };
            x = taps.map(|| format!("features.{index}"), x);
        }
        let [_, _, height, width] = x.dims();
        let x = resize(x, [2, 3], [height, width].map(|size| size.max(WINDOW)), Interpolation::Area);
        let x = self.pre_logits.fc1.forward_then(x, Then::activation(Activation::Relu));
        let x = self.pre_logits.fc2.forward_then(x, Then::activation(Activation::Relu));
        let x = taps.map(|| "pre_logits".into(), x);
        let features = taps.map(|| "head.global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::converted;

    #[test]
    fn a_classifier_becomes_a_perceptron_and_a_head() {
        let file: &[(&str, &[usize])] = &[
            ("features.0.weight", &[64, 3, 3, 3]),
            ("classifier.0.weight", &[4096, 25_088]),
            ("classifier.0.bias", &[4096]),
            ("classifier.3.weight", &[4096, 4096]),
            ("classifier.6.weight", &[1000, 4096]),
        ];
        let expected = [
            "features.0.weight [64, 3, 3, 3]",
            "head.fc.weight [1000, 4096]",
            "pre_logits.fc1.bias [4096]",
            "pre_logits.fc1.weight [4096, 512, 7, 7]",
            "pre_logits.fc2.weight [4096, 4096, 1, 1]",
        ];
        assert_eq!(converted(&VARIANTS[0].1, file), expected);
    }
}
