//! Inception-ResNet V2: the blocks of Inception beside shortcuts.
//!
//! Szegedy et al., *Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning* (arXiv 1602.07261). One of
//! its weights is trained on an ensemble's adversarial images: Tramèr et al., *Ensemble Adversarial Training* (1705.07204).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Branch, BranchLayer, BranchPool, Branches, Conv2d, ConvNorm, Linear, Padding, add, global_average_pool,
    max_pool, scale_and_shift,
};
use crate::taps::Taps;

/// Which Inception-ResNet V2.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[("inception_resnet_v2", Config { input_size: 299, num_classes: 1000 })];

configuration!(InceptionResNetV2, InputRule::Any);

const EPSILON: f64 = 1e-3;
/// Channels before the pooling.
const FEATURES: usize = 1536;

impl Config {
    fn components(&self) -> Components {
        Components { stem: "3s2/3/3".into(), ..Components::CNN }
    }
}

/// An Inception-ResNet V2. See [`Config`].
#[derive(Module, Debug)]
pub struct InceptionResNetV2 {
    conv2d_1a: ConvNorm,
    conv2d_2a: ConvNorm,
    conv2d_2b: ConvNorm,
    conv2d_3b: ConvNorm,
    conv2d_4a: ConvNorm,
    mixed_5b: Branches,
    repeat: Vec<Residual>,
    mixed_6a: Branches,
    repeat_1: Vec<Residual>,
    mixed_7a: Branches,
    repeat_2: Vec<Residual>,
    block8: Residual,
    conv2d_7b: ConvNorm,
    classif: Linear,
}

impl InceptionResNetV2 {
    /// Builds the network with `num_classes` outputs.
    pub fn new(_: &Config, num_classes: usize, device: &Device) -> Self {
        let conv = |inputs, outputs, kernel, stride, padding| {
            let conv = Conv2d::config(inputs, outputs, kernel).stride(stride).padding(Padding::Symmetric(padding));
            ConvNorm::with_epsilon(conv, EPSILON, Activation::Relu, device)
        };
        let mixed = |inputs, branches| Branches::new(inputs, branches, EPSILON, device);
        let repeated = |shape: &ResidualShape, count| (0..count).map(|_| Residual::new(shape, device)).collect();
        let last = ResidualShape { activation: Activation::Identity, scale: 1.0, ..BLOCK_8 };
        Self {
            conv2d_1a: conv(3, 32, 3, 2, 0),
            conv2d_2a: conv(32, 32, 3, 1, 0),
            conv2d_2b: conv(32, 64, 3, 1, 1),
            conv2d_3b: conv(64, 80, 1, 1, 0),
            conv2d_4a: conv(80, 192, 3, 1, 0),
            mixed_5b: mixed(192, mixed_5b()),
            repeat: repeated(&BLOCK_35, 10),
            mixed_6a: mixed(BLOCK_35.channels, mixed_6a()),
            repeat_1: repeated(&BLOCK_17, 20),
            mixed_7a: mixed(BLOCK_17.channels, mixed_7a()),
            repeat_2: repeated(&BLOCK_8, 9),
            block8: Residual::new(&last, device),
            conv2d_7b: conv(BLOCK_8.channels, FEATURES, 1, 1, 0),
            classif: Linear::new(FEATURES, num_classes, device),
        }
    }
}

impl Architecture for InceptionResNetV2 {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = taps.map(|| "conv2d_1a".into(), self.conv2d_1a.forward(images));
        let x = taps.map(|| "conv2d_2a".into(), self.conv2d_2a.forward(x));
        let x = taps.map(|| "conv2d_2b".into(), self.conv2d_2b.forward(x));
        let x = taps.map(|| "maxpool_3a".into(), max_pool(x, 3, 2, 0));
        let x = taps.map(|| "conv2d_3b".into(), self.conv2d_3b.forward(x));
        let x = taps.map(|| "conv2d_4a".into(), self.conv2d_4a.forward(x));
        let mut x = taps.map(|| "maxpool_5a".into(), max_pool(x, 3, 2, 0));
        for (mixed, block, repeat, blocks) in [
            ("mixed_5b", &self.mixed_5b, "repeat", &self.repeat),
            ("mixed_6a", &self.mixed_6a, "repeat_1", &self.repeat_1),
            ("mixed_7a", &self.mixed_7a, "repeat_2", &self.repeat_2),
        ] {
            x = taps.map(|| mixed.into(), block.forward(x));
            x = taps.stage(|| repeat.into(), blocks, x, |block, x| block.forward(x));
        }
        let x = taps.map(|| "block8".into(), self.block8.forward(x));
        let x = taps.map(|| "conv2d_7b".into(), self.conv2d_7b.forward(x));
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.classif.forward(features.clone()), features }
    }
}

fn mixed_5b() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch0", 96)]),
        Branch::new(&[BranchLayer::pointwise("branch1.0", 48), BranchLayer::new("branch1.1", 64, [5, 5])]),
        Branch::new(&[
            BranchLayer::pointwise("branch2.0", 64),
            BranchLayer::new("branch2.1", 96, [3, 3]),
            BranchLayer::new("branch2.2", 96, [3, 3]),
        ]),
        Branch::pooled(BranchPool::MeansInside, &[BranchLayer::pointwise("branch3.1", 64)]),
    ]
}

fn mixed_6a() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::halving("branch0", 384)]),
        Branch::new(&[
            BranchLayer::pointwise("branch1.0", 256),
            BranchLayer::new("branch1.1", 256, [3, 3]),
            BranchLayer::halving("branch1.2", 384),
        ]),
        Branch::pooled(BranchPool::HalvingMaxima, &[]),
    ]
}

fn mixed_7a() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch0.0", 256), BranchLayer::halving("branch0.1", 384)]),
        Branch::new(&[BranchLayer::pointwise("branch1.0", 256), BranchLayer::halving("branch1.1", 288)]),
        Branch::new(&[
            BranchLayer::pointwise("branch2.0", 256),
            BranchLayer::new("branch2.1", 288, [3, 3]),
            BranchLayer::halving("branch2.2", 320),
        ]),
        Branch::pooled(BranchPool::HalvingMaxima, &[]),
    ]
}

/// A residual block: the channels and kernels of its branches.
#[derive(Debug, Clone, Copy)]
struct ResidualShape {
    channels: usize,
    /// Of the 1×1 convolution that is a branch by itself.
    branch0: usize,
    branch1: &'static [(usize, [usize; 2])],
    branch2: &'static [(usize, [usize; 2])],
    /// By which the branches' result is multiplied.
    scale: f64,
    activation: Activation,
}

const BLOCK_35: ResidualShape = ResidualShape {
    channels: 320,
    branch0: 32,
    branch1: &[(32, [1, 1]), (32, [3, 3])],
    branch2: &[(32, [1, 1]), (48, [3, 3]), (64, [3, 3])],
    scale: 0.17,
    activation: Activation::Relu,
};
const BLOCK_17: ResidualShape = ResidualShape {
    channels: 1088,
    branch0: 192,
    branch1: &[(128, [1, 1]), (160, [1, 7]), (192, [7, 1])],
    branch2: &[],
    scale: 0.1,
    ..BLOCK_35
};
const BLOCK_8: ResidualShape = ResidualShape {
    channels: 2080,
    branch0: 192,
    branch1: &[(192, [1, 1]), (224, [1, 3]), (256, [3, 1])],
    branch2: &[],
    scale: 0.2,
    ..BLOCK_35
};

/// Branches, a 1×1 convolution of their results, and a shortcut.
#[derive(Module, Debug)]
struct Residual {
    branch0: ConvNorm,
    branch1: Vec<ConvNorm>,
    branch2: Vec<ConvNorm>,
    conv2d: Conv2d,
    scale: f64,
    #[module(skip)]
    activation: Activation,
}

impl Residual {
    fn new(shape: &ResidualShape, device: &Device) -> Self {
        let ResidualShape { channels, branch0, branch1, branch2, scale, activation } = *shape;
        let mut total = branch0;
        let mut chain = |layers: &[(usize, [usize; 2])]| {
            let mut inputs = channels;
            let built = layers.iter().map(|&(outputs, kernel)| {
                let conv = Conv2d::rectangular(std::mem::replace(&mut inputs, outputs), outputs, kernel);
                ConvNorm::with_epsilon(conv, EPSILON, Activation::Relu, device)
            });
            let built: Vec<_> = built.collect();
            total += if built.is_empty() { 0 } else { inputs };
            built
        };
        let (branch1, branch2) = (chain(branch1), chain(branch2));
        let first = Conv2d::config(channels, branch0, 1);
        Self {
            branch0: ConvNorm::with_epsilon(first, EPSILON, Activation::Relu, device),
            branch1,
            branch2,
            conv2d: Conv2d::config(total, channels, 1).bias().build(device),
            scale,
            activation,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let chains = [&self.branch1, &self.branch2].into_iter().filter(|chain| !chain.is_empty());
        let chains = chains.map(|chain| chain.iter().fold(x.clone(), |x, layer| layer.forward(x)));
        let results = [self.branch0.forward(x.clone())].into_iter().chain(chains).collect();
        let y = self.conv2d.forward(Tensor::cat(results, 1));
        let [_, channels, ..] = y.dims();
        let scale = Tensor::full([channels], self.scale, (&y.device().without_autodiff(), y.dtype()));
        add(scale_and_shift(y, 1, scale, None), x, self.activation)
    }
}
