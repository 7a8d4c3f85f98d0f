//! Inception V3: blocks of branches with convolutions of several shapes, side by side.
//!
//! Szegedy et al., *Rethinking the Inception Architecture for Computer Vision* (arXiv 1512.00567). One of its weights is trained
//! on adversarial images: Kurakin et al., *Adversarial Machine Learning at Scale* (1611.01236).

// timm's keys begin with capital letters.
#![allow(non_snake_case)]

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Branch, BranchLayer, BranchPool, Branches, Conv2d, ConvNorm, Linear, Padding, global_average_pool,
    max_pool,
};
use crate::taps::Taps;

/// Which Inception V3.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[("inception_v3", Config { input_size: 299, num_classes: 1000 })];

configuration!(InceptionV3, InputRule::Any, convert);

const EPSILON: f64 = 1e-3;

impl Config {
    fn components(&self) -> Components {
        Components { stem: "3s2/3/3".into(), ..Components::CNN }
    }
}

/// torchvision's file holds the auxiliary classifier of the training.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    checkpoint.remove(|name| name.starts_with("AuxLogits."));
}

/// An Inception V3. See [`Config`].
#[derive(Module, Debug)]
pub struct InceptionV3 {
    Conv2d_1a_3x3: ConvNorm,
    Conv2d_2a_3x3: ConvNorm,
    Conv2d_2b_3x3: ConvNorm,
    Conv2d_3b_1x1: ConvNorm,
    Conv2d_4a_3x3: ConvNorm,
    Mixed_5b: Branches,
    Mixed_5c: Branches,
    Mixed_5d: Branches,
    Mixed_6a: Branches,
    Mixed_6b: Branches,
    Mixed_6c: Branches,
    Mixed_6d: Branches,
    Mixed_6e: Branches,
    Mixed_7a: Branches,
    Mixed_7b: Branches,
    Mixed_7c: Branches,
    fc: Linear,
}

impl InceptionV3 {
    /// Builds the network with `num_classes` outputs.
    pub fn new(_: &Config, num_classes: usize, device: &Device) -> Self {
        let conv = |inputs, outputs, kernel, stride, padding| {
            let conv = Conv2d::config(inputs, outputs, kernel).stride(stride).padding(Padding::Symmetric(padding));
            ConvNorm::with_epsilon(conv, EPSILON, Activation::Relu, device)
        };
        let mut channels = 192;
        let mut mixed = |branches| {
            let block = Branches::new(channels, branches, EPSILON, device);
            channels = block.outputs(channels);
            block
        };
        Self {
            Conv2d_1a_3x3: conv(3, 32, 3, 2, 0),
            Conv2d_2a_3x3: conv(32, 32, 3, 1, 0),
            Conv2d_2b_3x3: conv(32, 64, 3, 1, 1),
            Conv2d_3b_1x1: conv(64, 80, 1, 1, 0),
            Conv2d_4a_3x3: conv(80, 192, 3, 1, 0),
            Mixed_5b: mixed(square(32)),
            Mixed_5c: mixed(square(64)),
            Mixed_5d: mixed(square(64)),
            Mixed_6a: mixed(halving()),
            Mixed_6b: mixed(factorised(128)),
            Mixed_6c: mixed(factorised(160)),
            Mixed_6d: mixed(factorised(160)),
            Mixed_6e: mixed(factorised(192)),
            Mixed_7a: mixed(factorised_halving()),
            Mixed_7b: mixed(forked()),
            Mixed_7c: mixed(forked()),
            fc: Linear::new(channels, num_classes, device),
        }
    }
}

impl Architecture for InceptionV3 {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = taps.map(|| "Conv2d_1a_3x3".into(), self.Conv2d_1a_3x3.forward(images));
        let x = taps.map(|| "Conv2d_2a_3x3".into(), self.Conv2d_2a_3x3.forward(x));
        let x = taps.map(|| "Conv2d_2b_3x3".into(), self.Conv2d_2b_3x3.forward(x));
        let x = taps.map(|| "Pool1".into(), max_pool(x, 3, 2, 0));
        let x = taps.map(|| "Conv2d_3b_1x1".into(), self.Conv2d_3b_1x1.forward(x));
        let x = taps.map(|| "Conv2d_4a_3x3".into(), self.Conv2d_4a_3x3.forward(x));
        let mut x = taps.map(|| "Pool2".into(), max_pool(x, 3, 2, 0));
        for (name, block) in [
            ("Mixed_5b", &self.Mixed_5b),
            ("Mixed_5c", &self.Mixed_5c),
            ("Mixed_5d", &self.Mixed_5d),
            ("Mixed_6a", &self.Mixed_6a),
            ("Mixed_6b", &self.Mixed_6b),
            ("Mixed_6c", &self.Mixed_6c),
            ("Mixed_6d", &self.Mixed_6d),
            ("Mixed_6e", &self.Mixed_6e),
            ("Mixed_7a", &self.Mixed_7a),
            ("Mixed_7b", &self.Mixed_7b),
            ("Mixed_7c", &self.Mixed_7c),
        ] {
            x = taps.map(|| name.into(), block.forward(x));
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.fc.forward(features.clone()), features }
    }
}

/// 1×1, 5×5, 3×3 twice, pooling: timm's `InceptionA`.
fn square(pooled: usize) -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch1x1", 64)]),
        Branch::new(&[BranchLayer::pointwise("branch5x5_1", 48), BranchLayer::new("branch5x5_2", 64, [5, 5])]),
        Branch::new(&[
            BranchLayer::pointwise("branch3x3dbl_1", 64),
            BranchLayer::new("branch3x3dbl_2", 96, [3, 3]),
            BranchLayer::new("branch3x3dbl_3", 96, [3, 3]),
        ]),
        Branch::pooled(BranchPool::Means, &[BranchLayer::pointwise("branch_pool", pooled)]),
    ]
}

/// `InceptionB`.
fn halving() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::halving("branch3x3", 384)]),
        Branch::new(&[
            BranchLayer::pointwise("branch3x3dbl_1", 64),
            BranchLayer::new("branch3x3dbl_2", 96, [3, 3]),
            BranchLayer::halving("branch3x3dbl_3", 96),
        ]),
        Branch::pooled(BranchPool::HalvingMaxima, &[]),
    ]
}

/// Kernels of 7×7 made of rows and columns: `InceptionC`.
fn factorised(width: usize) -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch1x1", 192)]),
        Branch::new(&[
            BranchLayer::pointwise("branch7x7_1", width),
            BranchLayer::new("branch7x7_2", width, [1, 7]),
            BranchLayer::new("branch7x7_3", 192, [7, 1]),
        ]),
        Branch::new(&[
            BranchLayer::pointwise("branch7x7dbl_1", width),
            BranchLayer::new("branch7x7dbl_2", width, [7, 1]),
            BranchLayer::new("branch7x7dbl_3", width, [1, 7]),
            BranchLayer::new("branch7x7dbl_4", width, [7, 1]),
            BranchLayer::new("branch7x7dbl_5", 192, [1, 7]),
        ]),
        Branch::pooled(BranchPool::Means, &[BranchLayer::pointwise("branch_pool", 192)]),
    ]
}

/// `InceptionD`.
fn factorised_halving() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch3x3_1", 192), BranchLayer::halving("branch3x3_2", 320)]),
        Branch::new(&[
            BranchLayer::pointwise("branch7x7x3_1", 192),
            BranchLayer::new("branch7x7x3_2", 192, [1, 7]),
            BranchLayer::new("branch7x7x3_3", 192, [7, 1]),
            BranchLayer::halving("branch7x7x3_4", 192),
        ]),
        Branch::pooled(BranchPool::HalvingMaxima, &[]),
    ]
}

/// Branches that end in a row and a column side by side: `InceptionE`.
fn forked() -> Vec<Branch> {
    vec![
        Branch::new(&[BranchLayer::pointwise("branch1x1", 320)]),
        Branch::forked(&[
            BranchLayer::pointwise("branch3x3_1", 384),
            BranchLayer::new("branch3x3_2a", 384, [1, 3]),
            BranchLayer::new("branch3x3_2b", 384, [3, 1]),
        ]),
        Branch::forked(&[
            BranchLayer::pointwise("branch3x3dbl_1", 448),
            BranchLayer::new("branch3x3dbl_2", 384, [3, 3]),
            BranchLayer::new("branch3x3dbl_3a", 384, [1, 3]),
            BranchLayer::new("branch3x3dbl_3b", 384, [3, 1]),
        ]),
        Branch::pooled(BranchPool::Means, &[BranchLayer::pointwise("branch_pool", 192)]),
    ]
}
