//! Deep Layer Aggregation: stages that are trees, whose roots aggregate what lies below.
//!
//! Yu et al., *Deep Layer Aggregation* (arXiv 1707.06484); Gao et al., *Res2Net* (1904.01169), the blocks of several scales.

use burn::module::Module;
use burn::nn::Relu;
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Boxed, Conv2d, Padding, Then, add, average_pool_3x3, global_average_pool, max_pool,
};
use crate::taps::Taps;

/// Which DLA.
#[derive(Debug, Clone)]
pub struct Config {
    /// The depth of each of the four trees.
    pub levels: [usize; 4],
    /// Channels of the stem, of the level behind it and of the trees.
    pub channels: [usize; 6],
    /// The kind of all blocks.
    pub block: BlockKind,
    /// Groups of the 3×3 convolutions.
    pub cardinality: usize,
    /// Channels per group, where 64 stands for the stage's own.
    pub base_width: usize,
    /// Whether a root has a shortcut from the block before it.
    pub root_shortcut: bool,
    /// Height and width in pixels.
    pub input_size: [usize; 2],
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3, 1×1.
    Bottleneck,
    /// The same with the 3×3 convolution in three parts, of which each sees the result of the one before (Res2Net).
    Scales,
}

const WIDE: [usize; 6] = [16, 32, 128, 256, 512, 1024];
const COMPACT: [usize; 6] = [16, 32, 64, 64, 128, 256];

const DLA60: Config = Config {
    levels: [1, 2, 3, 1],
    channels: WIDE,
    block: BlockKind::Bottleneck,
    cardinality: 1,
    base_width: 64,
    root_shortcut: false,
    input_size: [224; 2],
    num_classes: 1000,
};
const DLA46_C: Config = Config { levels: [1, 2, 2, 1], channels: COMPACT, ..DLA60 };
const DLA102: Config = Config { levels: [1, 3, 4, 1], root_shortcut: true, ..DLA60 };

const fn x(cardinality: usize, config: Config) -> Config {
    Config { cardinality, base_width: 4, ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("dla34", Config { levels: [1, 2, 2, 1], channels: [16, 32, 64, 128, 256, 512], block: BlockKind::Basic, ..DLA60 }),
    ("dla46_c", DLA46_C),
    ("dla46x_c", x(32, DLA46_C)),
    ("dla60", DLA60),
    ("dla60_res2net", Config { block: BlockKind::Scales, base_width: 28, ..DLA60 }),
    ("dla60_res2next", Config { block: BlockKind::Scales, ..x(8, DLA60) }),
    ("dla60x", x(32, DLA60)),
    ("dla60x_c", x(32, Config { channels: COMPACT, ..DLA60 })),
    ("dla102", DLA102),
    ("dla102x", x(32, DLA102)),
    ("dla102x2", x(64, DLA102)),
    ("dla169", Config { levels: [2, 3, 5, 1], ..DLA102 }),
];

// Nothing in it depends on the size, but pooled and convolved images only meet if each is halved without a remainder.
configuration!(DeepLayerAggregation, InputRule::Multiple(32), convert);

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: "7s1".into(),
            stem_pooling: false,
            grouped_convolution: self.cardinality > 1,
            ..Components::CNN
        }
    }
}

/// The authors' files hold projections, never used, of trees that consist of trees, which timm does not load.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    let of_trees = |tree: &str| {
        let inside = format!("{tree}.tree1.tree1.");
        // They are sorted.
        names.get(names.partition_point(|name| *name < inside)).is_some_and(|name| name.starts_with(&inside))
    };
    checkpoint.remove(|name| name.split_once(".project.").is_some_and(|(tree, _)| of_trees(tree)));
}

/// A convolution, its normalisation and ReLU, in the places of timm's Sequential.
type Layer = (Conv2d, BatchNorm2d, Relu);

/// A network of trees. See [`Config`].
#[derive(Module, Debug)]
pub struct DeepLayerAggregation {
    base_layer: Layer,
    level0: Layer,
    level1: Layer,
    level2: Tree,
    level3: Tree,
    level4: Tree,
    level5: Tree,
    fc: Conv2d,
}

impl DeepLayerAggregation {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let layer = |inputs, outputs, kernel: usize, stride| {
            let conv = Conv2d::config(inputs, outputs, kernel).stride(stride).padding(Padding::Symmetric(kernel / 2));
            (conv.build(device), BatchNorm2d::new(outputs, device), Relu)
        };
        let channels = config.channels;
        let tree = |index: usize| {
            let shape = TreeShape {
                inputs: channels[index + 1],
                outputs: channels[index + 2],
                stride: 2,
                root: 2 * channels[index + 2],
                level_root: index > 0,
            };
            Tree::new(config, config.levels[index], shape, device)
        };
        Self {
            base_layer: layer(3, channels[0], 7, 1),
            level0: layer(channels[0], channels[0], 3, 1),
            level1: layer(channels[0], channels[1], 3, 2),
            level2: tree(0),
            level3: tree(1),
            level4: tree(2),
            level5: tree(3),
            fc: Conv2d::config(channels[5], num_classes, 1).bias().build(device),
        }
    }
}

impl Architecture for DeepLayerAggregation {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let layers = [("base_layer", &self.base_layer), ("level0", &self.level0), ("level1", &self.level1)];
        let mut x = images;
        for (name, (conv, norm, _)) in layers {
            x = taps.map(|| name.into(), conv.forward_then(x, Then::norm(norm, Activation::Relu)));
        }
        for (index, tree) in [&self.level2, &self.level3, &self.level4, &self.level5].into_iter().enumerate() {
            let name = format!("level{}", index + 2);
            let y = tree.forward(x, Vec::new(), &name, taps);
            x = taps.map(|| name, y);
        }
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.fc.forward_vectors(features.clone()), features }
    }
}

#[derive(Debug, Clone, Copy)]
struct TreeShape {
    inputs: usize,
    outputs: usize,
    stride: usize,
    /// Channels that the root aggregates, without the inputs.
    root: usize,
    /// Whether the root aggregates the inputs, too.
    level_root: bool,
}

/// Two blocks and a root that aggregates them, or two trees of which the second aggregates the first.
#[derive(Module, Debug)]
struct Tree {
    project: Option<(Conv2d, BatchNorm2d)>,
    tree1: Node,
    tree2: Node,
    root: Option<Root>,
    stride: usize,
    level_root: bool,
}

#[derive(Module, Debug)]
enum Node {
    Leaf(Block),
    Tree(Boxed<Tree>),
}

impl Tree {
    fn new(config: &Config, levels: usize, shape: TreeShape, device: &Device) -> Self {
        let TreeShape { inputs, outputs, stride, level_root, .. } = shape;
        let root = shape.root + if level_root { inputs } else { 0 };
        if levels > 1 {
            let half = |shape| Node::Tree(Boxed::new(Self::new(config, levels - 1, shape, device)));
            let first = TreeShape { root: 2 * outputs, level_root: false, ..shape };
            let second = TreeShape { inputs: outputs, stride: 1, root: root + outputs, level_root: false, ..shape };
            let (tree1, tree2) = (half(first), half(second));
            return Self { project: None, tree1, tree2, root: None, stride, level_root };
        }
        let project = || {
            let conv = Conv2d::config(inputs, outputs, 1).build(device);
            (conv, BatchNorm2d::new(outputs, device))
        };
        Self {
            project: (inputs != outputs).then(project),
            tree1: Node::Leaf(Block::new(config, inputs, outputs, stride, device)),
            tree2: Node::Leaf(Block::new(config, outputs, outputs, 1, device)),
            root: Some(Root {
                conv: Conv2d::config(root, outputs, 1).build(device),
                bn: BatchNorm2d::new(outputs, device),
                shortcut: config.root_shortcut,
            }),
            stride,
            level_root,
        }
    }

    /// `children` are what the root below aggregates beside the blocks; `name` is the tree's own.
    fn forward(&self, x: Tensor<4>, mut children: Vec<Tensor<4>>, name: &str, taps: &mut Taps) -> Tensor<4> {
        // timm's other uses of the shrunken input have no effect.
        let bottom = || if self.stride > 1 { max_pool(x.clone(), self.stride, self.stride, 0) } else { x.clone() };
        if self.level_root {
            children.push(bottom());
        }
        let names = [format!("{name}.tree1"), format!("{name}.tree2")];
        match (&self.tree1, &self.tree2, &self.root) {
            (Node::Leaf(first), Node::Leaf(second), Some(root)) => {
                let shortcut = match &self.project {
                    Some((conv, norm)) => conv.forward_then(bottom(), Then::norm(norm, Activation::Identity)),
                    None => bottom(),
                };
                let [name, other] = names;
                let first = taps.map(|| name, first.forward(x, shortcut));
                let second = taps.map(|| other, second.forward(first.clone(), first.clone()));
                root.forward([vec![second, first], children].concat())
            }
            (Node::Tree(first), Node::Tree(second), None) => {
                let [name, other] = names;
                let first = first.forward(x, Vec::new(), &name, taps);
                let first = taps.map(|| name, first);
                children.push(first.clone());
                let second = second.forward(first, children, &other, taps);
                taps.map(|| other, second)
            }
            _ => unreachable!("a tree has two leaves and a root, or two trees"),
        }
    }
}

/// A 1×1 convolution over everything that it aggregates.
#[derive(Module, Debug)]
struct Root {
    conv: Conv2d,
    bn: BatchNorm2d,
    shortcut: bool,
}

impl Root {
    fn forward(&self, children: Vec<Tensor<4>>) -> Tensor<4> {
        let shortcut = self.shortcut.then(|| children[0].clone());
        let then = Then::norm(&self.bn, Activation::Relu).residual(shortcut);
        self.conv.forward_then(Tensor::cat(children, 1), then)
    }
}

/// A block of any kind, whose shortcut comes from outside.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Option<Conv2d>,
    bn2: Option<BatchNorm2d>,
    /// Of a block of several scales, in place of the second.
    convs: Vec<Conv2d>,
    bns: Vec<BatchNorm2d>,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm2d>,
    /// Whether this is the first block of several scales in its stage, whose scales do not see each other.
    first_of_stage: bool,
}

/// Parts of the channels in a block of several scales, of which the last is not convolved.
const SCALES: usize = 4;

impl Block {
    fn new(config: &Config, inputs: usize, outputs: usize, stride: usize, device: &Device) -> Self {
        let conv3x3 = |inputs, outputs, stride, groups| {
            let conv = Conv2d::config(inputs, outputs, 3).stride(stride).padding(Padding::Symmetric(1));
            conv.groups(groups).build(device)
        };
        let norm = |channels| BatchNorm2d::new(channels, device);
        let middle = outputs * config.base_width / 64 * config.cardinality / 2;
        let scales = if config.block == BlockKind::Scales { SCALES } else { 1 };
        if config.block == BlockKind::Basic {
            return Self {
                conv1: conv3x3(inputs, outputs, stride, 1),
                bn1: norm(outputs),
                conv2: Some(conv3x3(outputs, outputs, 1, 1)),
                bn2: Some(norm(outputs)),
                convs: vec![],
                bns: vec![],
                conv3: None,
                bn3: None,
                first_of_stage: false,
            };
        }
        Self {
            conv1: Conv2d::config(inputs, middle * scales, 1).build(device),
            bn1: norm(middle * scales),
            conv2: (scales == 1).then(|| conv3x3(middle, middle, stride, config.cardinality)),
            bn2: (scales == 1).then(|| norm(middle)),
            convs: (1..scales).map(|_| conv3x3(middle, middle, stride, config.cardinality)).collect(),
            bns: (1..scales).map(|_| norm(middle)).collect(),
            conv3: Some(Conv2d::config(middle * scales, outputs, 1).build(device)),
            bn3: Some(norm(outputs)),
            first_of_stage: stride > 1,
        }
    }

    fn forward(&self, x: Tensor<4>, shortcut: Tensor<4>) -> Tensor<4> {
        let relu = |norm| Then::norm(norm, Activation::Relu);
        let y = self.conv1.forward_then(x, relu(&self.bn1));
        let y = match (&self.conv2, &self.bn2, &self.conv3) {
            (Some(conv), Some(norm), None) => return conv.forward_then(y, relu(norm).residual(shortcut)),
            (Some(conv), Some(norm), Some(_)) => conv.forward_then(y, relu(norm)),
            _ => self.forward_scales(y),
        };
        match (&self.conv3, &self.bn3) {
            (Some(conv), Some(norm)) => conv.forward_then(y, relu(norm).residual(shortcut)),
            _ => unreachable!("a bottleneck has a third convolution"),
        }
    }

    /// Each part is convolved together with the result of the one before; the last stays, or shrinks as the others do.
    fn forward_scales(&self, x: Tensor<4>) -> Tensor<4> {
        let width = x.dims()[1] / SCALES;
        let mut parts = x.split(width, 1);
        let last = parts.pop().expect("several scales");
        let mut results: Vec<Tensor<4>> = Vec::new();
        for ((part, conv), norm) in parts.into_iter().zip(&self.convs).zip(&self.bns) {
            let part = match results.last() {
                Some(before) if !self.first_of_stage => add(part, before.clone(), Activation::Identity),
                _ => part,
            };
            results.push(conv.forward_then(part, Then::norm(norm, Activation::Relu)));
        }
        results.push(if self.first_of_stage { average_pool_3x3(last, 2) } else { last });
        Tensor::cat(results, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The projections that are kept are those of timm's dla60.
    #[test]
    fn projections_of_trees_of_trees_are_left_out() {
        let kept = [
            "level2.project.0.weight",
            "level2.tree1.conv1.weight",
            "level3.tree1.project.0.weight",
            "level3.tree1.tree1.conv1.weight",
            "level4.tree1.tree1.project.0.weight",
            "level4.tree1.tree1.tree1.conv1.weight",
            "level5.project.0.weight",
            "level5.tree1.conv1.weight",
        ];
        let left = ["level3.project.0.weight", "level4.project.1.bias", "level4.tree1.project.0.weight"];
        let names = kept.into_iter().chain(left);
        let mut checkpoint = Checkpoint::new(names.map(|name| (name.to_owned(), vec![1])));
        convert(&DLA60, &mut checkpoint);
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), kept);
    }
}
