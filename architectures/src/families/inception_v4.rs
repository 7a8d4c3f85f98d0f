//! Inception V4: as V3 with more blocks, all of a kind alike.
//!
//! Szegedy et al., *Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning* (arXiv 1602.07261).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Branch, BranchLayer, BranchPool, Branches, Conv2d, ConvNorm, Linear, Padding, global_average_pool,
};
use crate::taps::Taps;

/// Which Inception V4.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[("inception_v4", Config { input_size: 299, num_classes: 1000 })];

configuration!(InceptionV4, InputRule::Any);

const EPSILON: f64 = 1e-3;

impl Config {
    fn components(&self) -> Components {
        Components { stem: "3s2/3/3".into(), ..Components::CNN }
    }
}

/// An Inception V4. See [`Config`].
#[derive(Module, Debug)]
pub struct InceptionV4 {
    features: Vec<Part>,
    last_linear: Linear,
}

#[derive(Module, Debug)]
enum Part {
    Layer(ConvNorm),
    Block(Branches),
}

impl InceptionV4 {
    /// Builds the network with `num_classes` outputs.
    pub fn new(_: &Config, num_classes: usize, device: &Device) -> Self {
        let conv = |inputs, outputs, stride, padding| {
            let conv = Conv2d::config(inputs, outputs, 3).stride(stride).padding(Padding::Symmetric(padding));
            Part::Layer(ConvNorm::with_epsilon(conv, EPSILON, Activation::Relu, device))
        };
        let mut features = vec![conv(3, 32, 2, 0), conv(32, 32, 1, 0), conv(32, 64, 1, 1)];
        let mut channels = 64;
        let blocks = [
            (1, mixed_3a()),
            (1, mixed_4a()),
            (1, mixed_5a()),
            (4, square()),
            (1, halving()),
            (7, factorised()),
            (1, factorised_halving()),
            (3, forked()),
        ];
        for branches in blocks.iter().flat_map(|(count, branches)| std::iter::repeat_n(branches, *count)) {
            let block = Branches::new(channels, branches.clone(), EPSILON, device);
            channels = block.outputs(channels);
            features.push(Part::Block(block));
        }
        Self { features, last_linear: Linear::new(channels, num_classes, device) }
    }
}

impl Architecture for InceptionV4 {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = images;
        for (index, part) in self.features.iter().enumerate() {
            x = match part {
                Part::Layer(layer) => layer.forward(x),
                Part::Block(block) => block.forward(x),
            };
            x = taps.map(|| format!("features.{index}"), x);
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.last_linear.forward(features.clone()), features }
    }
}

fn mixed_3a() -> Vec<Branch> {
    vec![Branch::pooled(BranchPool::HalvingMaxima, &[]), Branch::new(&[BranchLayer::halving("conv", 96)])]
}

fn mixed_4a() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch0.0", 64), BranchLayer::inside("branch0.1", 96)]),
        Branch::new(&[
            BranchLayer::pointwise("branch1.0", 64),
            BranchLayer::new("branch1.1", 64, [1, 7]),
            BranchLayer::new("branch1.2", 64, [7, 1]),
            BranchLayer::inside("branch1.3", 96),
        ]),
    ]
}

fn mixed_5a() -> Vec<Branch> {
    vec![Branch::new(&[BranchLayer::halving("conv", 192)]), Branch::pooled(BranchPool::HalvingMaxima, &[])]
}

/// timm's `InceptionA`.
fn square() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch0", 96)]),
        Branch::new(&[BranchLayer::pointwise("branch1.0", 64), BranchLayer::new("branch1.1", 96, [3, 3])]),
        Branch::new(&[
            BranchLayer::pointwise("branch2.0", 64),
            BranchLayer::new("branch2.1", 96, [3, 3]),
            BranchLayer::new("branch2.2", 96, [3, 3]),
        ]),
        Branch::pooled(BranchPool::MeansInside, &[BranchLayer::pointwise("branch3.1", 96)]),
    ]
}

/// `ReductionA`.
fn halving() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::halving("branch0", 384)]),
        Branch::new(&[
            BranchLayer::pointwise("branch1.0", 192),
            BranchLayer::new("branch1.1", 224, [3, 3]),
            BranchLayer::halving("branch1.2", 256),
        ]),
        Branch::pooled(BranchPool::HalvingMaxima, &[]),
    ]
}

/// Kernels of 7×7 made of rows and columns: `InceptionB`.
fn factorised() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch0", 384)]),
        Branch::new(&[
            BranchLayer::pointwise("branch1.0", 192),
            BranchLayer::new("branch1.1", 224, [1, 7]),
            BranchLayer::new("branch1.2", 256, [7, 1]),
        ]),
        Branch::new(&[
            BranchLayer::pointwise("branch2.0", 192),
            BranchLayer::new("branch2.1", 192, [7, 1]),
            BranchLayer::new("branch2.2", 224, [1, 7]),
            BranchLayer::new("branch2.3", 224, [7, 1]),
            BranchLayer::new("branch2.4", 256, [1, 7]),
        ]),
        Branch::pooled(BranchPool::MeansInside, &[BranchLayer::pointwise("branch3.1", 128)]),
    ]
}

/// `ReductionB`.
fn factorised_halving() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch0.0", 192), BranchLayer::halving("branch0.1", 192)]),
        Branch::new(&[
            BranchLayer::pointwise("branch1.0", 256),
            BranchLayer::new("branch1.1", 256, [1, 7]),
            BranchLayer::new("branch1.2", 320, [7, 1]),
            BranchLayer::halving("branch1.3", 320),
        ]),
        Branch::pooled(BranchPool::HalvingMaxima, &[]),
    ]
}

/// Branches that end in a row and a column side by side: `InceptionC`.
fn forked() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch0", 256)]),
        Branch::forked(&[
            BranchLayer::pointwise("branch1_0", 384),
            BranchLayer::new("branch1_1a", 256, [1, 3]),
            BranchLayer::new("branch1_1b", 256, [3, 1]),
        ]),
        Branch::forked(&[
            BranchLayer::pointwise("branch2_0", 384),
            BranchLayer::new("branch2_1", 448, [3, 1]),
            BranchLayer::new("branch2_2", 512, [1, 3]),
            BranchLayer::new("branch2_3a", 256, [1, 3]),
            BranchLayer::new("branch2_3b", 256, [3, 1]),
        ]),
        Branch::pooled(BranchPool::MeansInside, &[BranchLayer::pointwise("branch3.1", 256)]),
    ]
}
