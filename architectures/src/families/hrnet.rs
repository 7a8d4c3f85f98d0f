//! HRNet: branches of several resolutions side by side, which exchange what they see.
//!
//! Wang et al., *Deep High-Resolution Representation Learning for Visual Recognition* (arXiv 1908.07919).

use burn::module::Module;
use burn::nn::Relu;
use burn::tensor::{Device, Tensor};

use super::resnet;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{Activation, BatchNorm2d, Conv2d, Linear, Padding, Then, add, global_average_pool};
use crate::taps::Taps;

/// Which HRNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of the branch of the highest resolution; they double from branch to branch.
    pub width: usize,
    /// Blocks of the first stage, and their channels, which a bottleneck widens four times.
    pub first: [usize; 2],
    /// Modules of the stages with two, three and four branches.
    pub modules: [usize; 3],
    /// Blocks in each branch of a module.
    pub blocks: usize,
    /// Height and width in pixels.
    pub input_size: [usize; 2],
    /// Classes of the published weights.
    pub num_classes: usize,
}

const W18: Config =
    Config { width: 18, first: [4, 64], modules: [1, 4, 3], blocks: 4, input_size: [224; 2], num_classes: 1000 };

const fn wide(width: usize) -> Config {
    Config { width, ..W18 }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("hrnet_w18", W18),
    ("hrnet_w18_small", Config { width: 16, first: [1, 32], modules: [1, 1, 1], blocks: 2, ..W18 }),
    ("hrnet_w18_small_v2", Config { first: [2, 64], modules: [1, 3, 2], blocks: 2, ..W18 }),
    ("hrnet_w30", wide(30)),
    ("hrnet_w32", wide(32)),
    ("hrnet_w40", wide(40)),
    ("hrnet_w44", wide(44)),
    ("hrnet_w48", wide(48)),
    ("hrnet_w64", wide(64)),
];

// Nothing in it depends on the size, but the branches only meet if each is halved without a remainder.
configuration!(HighResolutionNet, InputRule::Multiple(32));

impl Config {
    fn components(&self) -> Components {
        Components { stem: "3s2/3s2".into(), stem_pooling: false, ..Components::CNN }
    }

    fn width(&self, branch: usize) -> usize {
        self.width << branch
    }
}

const BRANCHES: usize = 4;
/// Channels that the classifier's blocks make of the branches, before they widen four times.
const HEAD: [usize; BRANCHES] = [32, 64, 128, 256];
const FEATURES: usize = 2048;

/// A convolution, its normalisation and ReLU, in the places of timm's Sequential.
type Layer = (Conv2d, BatchNorm2d, Relu);

fn layer(inputs: usize, outputs: usize, stride: usize, device: &Device) -> Layer {
    (halving(inputs, outputs, stride).build(device), BatchNorm2d::new(outputs, device), Relu)
}

fn halving(inputs: usize, outputs: usize, stride: usize) -> crate::layers::Conv2dConfig {
    Conv2d::config(inputs, outputs, 3).stride(stride).padding(Padding::Symmetric(1))
}

fn forward_layer((conv, norm, _): &Layer, x: Tensor<4>) -> Tensor<4> {
    conv.forward_then(x, Then::norm(norm, Activation::Relu))
}

/// A network of branches. See [`Config`].
#[derive(Module, Debug)]
pub struct HighResolutionNet {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    layer1: Vec<resnet::Block>,
    transition1: Vec<Transition>,
    stage2: Vec<Exchange>,
    transition2: Vec<Transition>,
    stage3: Vec<Exchange>,
    transition3: Vec<Transition>,
    stage4: Vec<Exchange>,
    incre_modules: Vec<Vec<resnet::Block>>,
    downsamp_modules: Vec<Layer>,
    final_layer: Layer,
    classifier: Linear,
}

impl HighResolutionNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let [blocks, channels] = config.first;
        let mut inputs = 64;
        let mut first = || {
            let block = resnet::Block::plain(resnet::BlockKind::Bottleneck, inputs, channels, device);
            inputs = 4 * channels;
            block
        };
        let layer1 = (0..blocks).map(|_| first()).collect();
        let stage = |branches: usize| {
            (0..config.modules[branches - 2]).map(|_| Exchange::new(config, branches, device)).collect()
        };
        let later = |branches: usize| {
            let mut transitions: Vec<_> = (1..branches).map(|_| Transition::None(Relu)).collect();
            transitions.push(Transition::Shrink(vec![layer(
                config.width(branches - 2),
                config.width(branches - 1),
                2,
                device,
            )]));
            transitions
        };
        // With biases, unlike any other convolution here.
        let biased = |conv: crate::layers::Conv2dConfig| {
            (conv.bias().build(device), BatchNorm2d::new(conv.outputs(), device), Relu)
        };
        let bottleneck = |branch| {
            vec![resnet::Block::plain(resnet::BlockKind::Bottleneck, config.width(branch), HEAD[branch], device)]
        };
        Self {
            conv1: halving(3, 64, 2).build(device),
            bn1: BatchNorm2d::new(64, device),
            conv2: halving(64, 64, 2).build(device),
            bn2: BatchNorm2d::new(64, device),
            layer1,
            transition1: vec![
                Transition::Keep(layer(4 * channels, config.width(0), 1, device)),
                Transition::Shrink(vec![layer(4 * channels, config.width(1), 2, device)]),
            ],
            stage2: stage(2),
            transition2: later(3),
            stage3: stage(3),
            transition3: later(4),
            stage4: stage(4),
            incre_modules: (0..BRANCHES).map(bottleneck).collect(),
            downsamp_modules: HEAD.windows(2).map(|pair| biased(halving(4 * pair[0], 4 * pair[1], 2))).collect(),
            final_layer: biased(Conv2d::config(4 * HEAD[BRANCHES - 1], FEATURES, 1)),
            classifier: Linear::new(FEATURES, num_classes, device),
        }
    }
}

impl Architecture for HighResolutionNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let relu = |norm| Then::norm(norm, Activation::Relu);
        let x = taps.map(|| "stem".into(), self.conv1.forward_then(images, relu(&self.bn1)));
        let x = self.conv2.forward_then(x, relu(&self.bn2));
        let x = taps.stage(|| "layer1".into(), &self.layer1, x, |block, x| block.forward(x));
        let stages =
            [(&self.transition1, &self.stage2), (&self.transition2, &self.stage3), (&self.transition3, &self.stage4)];
        let mut branches = vec![x];
        for (stage, (transition, exchanges)) in stages.into_iter().enumerate() {
            let last = branches.last().expect("at least one branch").clone();
            branches = transition
                .iter()
                .enumerate()
                .map(|(index, transition)| transition.forward(branches.get(index).unwrap_or(&last).clone()))
                .collect();
            for (index, exchange) in exchanges.iter().enumerate() {
                branches = exchange.forward(branches, &format!("stage{}.{index}", stage + 2), taps);
            }
        }
        let mut sum: Option<Tensor<4>> = None;
        for (index, (blocks, x)) in self.incre_modules.iter().zip(branches).enumerate() {
            let widened = blocks.iter().fold(x, |x, block| block.forward(x));
            let widened = taps.map(|| format!("incre_modules.{index}"), widened);
            // That is what timm's `feature_info` calls so, though it has modules `stage2`, … that are others.
            let widened = taps.map_again(|| format!("stage{}", index + 1), widened);
            sum = Some(match sum {
                None => widened,
                Some(sum) => {
                    let shrunken = forward_layer(&self.downsamp_modules[index - 1], sum);
                    add(widened, shrunken, Activation::Identity)
                }
            });
        }
        let x = forward_layer(&self.final_layer, sum.expect("four branches"));
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.classifier.forward(features.clone()), features }
    }
}

/// How a branch comes into a stage.
#[derive(Module, Debug)]
enum Transition {
    /// As it is; without parameters, but with a place in timm's numbering.
    None(Relu),
    /// With other channels.
    Keep(Layer),
    /// From the branch above it, by halving convolutions.
    Shrink(Vec<Layer>),
}

impl Transition {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::None(_) => x,
            Self::Keep(layer) => forward_layer(layer, x),
            Self::Shrink(layers) => layers.iter().fold(x, |x, layer| forward_layer(layer, x)),
        }
    }
}

/// Blocks in each branch, behind which each branch becomes the sum of all, brought to its resolution.
#[derive(Module, Debug)]
struct Exchange {
    branches: Vec<Vec<resnet::Block>>,
    fuse_layers: Vec<Vec<Fuse>>,
}

/// The way from one branch to another.
#[derive(Module, Debug)]
enum Fuse {
    /// The same branch; without parameters, but with a place in timm's numbering.
    Same(Relu),
    /// From a lower resolution.
    Enlarge((Conv2d, BatchNorm2d)),
    /// From a higher resolution, by halving convolutions, of which the last has no activation.
    Shrink(Vec<(Conv2d, BatchNorm2d)>),
}

impl Exchange {
    fn new(config: &Config, branches: usize, device: &Device) -> Self {
        let branch = |branch| {
            let width = config.width(branch);
            let block = |_| resnet::Block::plain(resnet::BlockKind::Basic, width, width, device);
            (0..config.blocks).map(block).collect()
        };
        let fuse = |to| (0..branches).map(|from| Fuse::new(config, from, to, device)).collect();
        Self { branches: (0..branches).map(branch).collect(), fuse_layers: (0..branches).map(fuse).collect() }
    }

    /// `name` is the module's own.
    fn forward(&self, x: Vec<Tensor<4>>, name: &str, taps: &mut Taps) -> Vec<Tensor<4>> {
        let mut branches = Vec::new();
        for (branch, (blocks, x)) in self.branches.iter().zip(x).enumerate() {
            branches.push(taps.stage(|| format!("{name}.branches.{branch}"), blocks, x, |block, x| block.forward(x)));
        }
        let sum = |(to, ways): (usize, &Vec<Fuse>)| {
            let mut sum: Option<Tensor<4>> = None;
            for (from, (way, x)) in ways.iter().zip(&branches).enumerate() {
                let activation = if from == ways.len() - 1 { Activation::Relu } else { Activation::Identity };
                let x = way.forward(x.clone(), from.saturating_sub(to));
                sum = Some(match sum {
                    None => x,
                    Some(sum) => add(sum, x, activation),
                });
            }
            sum.expect("at least two branches")
        };
        taps.map_all(|| name.to_owned(), self.fuse_layers.iter().enumerate().map(sum).collect())
    }
}

impl Fuse {
    fn new(config: &Config, from: usize, to: usize, device: &Device) -> Self {
        let (inputs, outputs) = (config.width(from), config.width(to));
        match from.cmp(&to) {
            std::cmp::Ordering::Equal => Self::Same(Relu),
            std::cmp::Ordering::Greater => {
                Self::Enlarge((Conv2d::config(inputs, outputs, 1).build(device), BatchNorm2d::new(outputs, device)))
            }
            std::cmp::Ordering::Less => {
                let step = |step| {
                    let outputs = if step == to - 1 { outputs } else { inputs };
                    (halving(inputs, outputs, 2).build(device), BatchNorm2d::new(outputs, device))
                };
                Self::Shrink((from..to).map(step).collect())
            }
        }
    }

    /// To a resolution that is higher by 2 to the power of `doublings`, if it is higher.
    fn forward(&self, x: Tensor<4>, doublings: usize) -> Tensor<4> {
        match self {
            Self::Same(_) => x,
            Self::Enlarge((conv, norm)) => {
                let x = conv.forward_then(x, Then::norm(norm, Activation::Identity));
                repeated(x, 1 << doublings)
            }
            Self::Shrink(layers) => layers.iter().enumerate().fold(x, |x, (index, (conv, norm))| {
                let last = index == layers.len() - 1;
                let activation = if last { Activation::Identity } else { Activation::Relu };
                conv.forward_then(x, Then::norm(norm, activation))
            }),
        }
    }
}

/// Every value so many times in both directions.
fn repeated(x: Tensor<4>, times: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height, 1, width, 1]).expand([batch, channels, height, times, width, times]).reshape([
        batch,
        channels,
        height * times,
        width * times,
    ])
}
