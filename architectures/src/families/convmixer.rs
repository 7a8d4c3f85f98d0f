//! ConvMixer: depthwise and 1×1 convolutions in turn on patches of one size.
//!
//! Trockman & Kolter, *Patches Are All You Need?* (arXiv 2201.09792).

use burn::module::Module;
use burn::nn::Gelu;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{Activation, BatchNorm2d, Conv2d, Linear, Named, Padding, Then, add, global_average_pool};
use crate::taps::Taps;

/// Which ConvMixer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels.
    pub channels: usize,
    /// Blocks.
    pub depth: usize,
    /// Of the depthwise convolutions.
    pub kernel: usize,
    /// Pixels of a patch, both ways.
    pub patch_size: usize,
    /// Of the whole network.
    pub activation: Activation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const LARGE: Config = Config {
    channels: 1536,
    depth: 20,
    kernel: 9,
    patch_size: 7,
    activation: Activation::Gelu,
    input_size: 224,
    num_classes: 1000,
};

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("convmixer_1024_20_ks9_p14", Config { channels: 1024, patch_size: 14, ..LARGE }),
    ("convmixer_1536_20", LARGE),
    ("convmixer_768_32", Config { channels: 768, depth: 32, kernel: 7, activation: Activation::Relu, ..LARGE }),
];

configuration!(ConvMixer, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: format!("{0}s{0}", self.patch_size).into(),
            activation: Components::activations([self.activation]),
            stem_pooling: false,
            hierarchical: false,
            depthwise_convolution: true,
            ..Components::CNN
        }
    }
}

/// A ConvMixer. See [`Config`].
#[derive(Module, Debug)]
pub struct ConvMixer {
    /// In the places of timm's Sequential, as below: convolution, activation, normalisation.
    stem: (Conv2d, Gelu, BatchNorm2d),
    blocks: Vec<Block>,
    head: Linear,
    #[module(skip)]
    activation: Activation,
}

/// A depthwise layer beside a shortcut, which timm calls `fn`, then a 1×1 one.
type Block = (Named<(Conv2d, Gelu, BatchNorm2d)>, Conv2d, Gelu, BatchNorm2d);

impl ConvMixer {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = config.channels;
        let patches = Conv2d::config(3, channels, config.patch_size).stride(config.patch_size);
        let norm = || BatchNorm2d::new(channels, device);
        let block = |_| {
            let depthwise = Conv2d::config(channels, channels, config.kernel).groups(channels).bias().build(device);
            let pointwise = Conv2d::config(channels, channels, 1).bias().build(device);
            let residual = std::iter::once(("fn".to_owned(), (depthwise, Gelu::new(), norm())));
            (residual.collect(), pointwise, Gelu::new(), norm())
        };
        Self {
            stem: (patches.padding(Padding::Symmetric(0)).bias().build(device), Gelu::new(), norm()),
            blocks: (0..config.depth).map(block).collect(),
            head: Linear::new(channels, num_classes, device),
            activation: config.activation,
        }
    }

    /// norm(activation(conv(x))).
    fn layer(&self, conv: &Conv2d, norm: &BatchNorm2d, x: Tensor<4>) -> Tensor<4> {
        norm.forward(conv.forward_then(x, Then::activation(self.activation)), Activation::Identity)
    }
}

impl Architecture for ConvMixer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let (conv, _, norm) = &self.stem;
        let mut x = taps.map(|| "stem".into(), self.layer(conv, norm, images));
        for (index, (residual, pointwise, _, outer)) in self.blocks.iter().enumerate() {
            let branch = residual.iter().fold(x.clone(), |x, (_, (conv, _, norm))| self.layer(conv, norm, x));
            let y = add(branch, x, Activation::Identity);
            x = taps.map(|| format!("blocks.{index}"), self.layer(pointwise, outer, y));
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.forward(features.clone()), features }
    }
}
