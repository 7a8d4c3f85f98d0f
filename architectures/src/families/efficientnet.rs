//! EfficientNet and its relatives from depthwise convolutions: EfficientNet-Lite, MobileNetV2, MnasNet, MixNet.
//!
//! Tan & Le, *EfficientNet* (arXiv 1905.11946); Sandler et al., *MobileNetV2* (1801.04381); Tan et al., *MnasNet*
//! (1807.11626); Tan & Le, *MixConv* (1907.09595). The names in `tf_` are networks ported from TensorFlow.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Conv2dConfig, Linear, MixedConv2d, Padding, Then, gated, global_average_pool,
    make_divisible,
};
use crate::taps::Taps;

/// Which EfficientNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of the first convolution.
    pub stem: usize,
    /// The blocks of each stage, before scaling.
    pub stages: &'static [&'static [Blocks]],
    /// Channels of the last convolution.
    pub head: usize,
    /// The blocks' channels are multiplied by this, and rounded to a multiple of eight.
    pub width: f64,
    /// What becomes of the number of blocks in a stage.
    pub depth: Depth,
    /// The activation where [`Blocks`] do not name their own.
    pub activation: Activation,
    /// TensorFlow's "same" padding, and its epsilon of 1e-3 in batch normalisation.
    pub tensorflow: bool,
    /// Whether the blocks were found by search (all but MobileNetV2's).
    pub searched: bool,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// Like blocks, one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    /// How many, before scaling.
    pub repeats: usize,
    /// The kind of each.
    pub kind: BlockKind,
    /// Kernel sizes of the depthwise convolution; several share the channels evenly (MixNet).
    pub kernels: &'static [usize],
    /// The stride of the first; the others have 1.
    pub stride: usize,
    /// Channels that each gives, before scaling.
    pub channels: usize,
    /// The width of the squeeze-and-excitation as a part of the block's inputs, if there is one.
    pub squeeze_excite: Option<f64>,
    /// Groups of channels (inputs and outputs shared evenly) in the convolution that expands.
    pub expansion_groups: usize,
    /// Groups of channels in the convolution that projects.
    pub projection_groups: usize,
    /// Another activation than the network's.
    pub activation: Option<Activation>,
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Depthwise convolution, 1×1 convolution.
    Separable,
    /// 1×1 convolution that multiplies the channels, depthwise convolution, 1×1 convolution.
    Inverted {
        /// The multiple.
        expansion: usize,
    },
}

/// How the number of blocks in a stage is scaled; the last kind of blocks in a stage is the one that becomes more.
#[derive(Debug, Clone, Copy)]
pub enum Depth {
    /// By a factor, rounded up.
    Up(f64),
    /// By a factor, rounded up, but in the first stage and the last.
    UpInside(f64),
    /// By a factor, rounded to the nearest, halves to even.
    Nearest(f64),
}

/// One separable block to so many channels: 3×3, stride 1.
const fn separable(channels: usize) -> Blocks {
    Blocks {
        repeats: 1,
        kind: BlockKind::Separable,
        kernels: &[3],
        stride: 1,
        channels,
        squeeze_excite: None,
        expansion_groups: 1,
        projection_groups: 1,
        activation: None,
    }
}

/// One inverted block to so many channels: 3×3, stride 1, which does not widen.
const fn inverted(channels: usize) -> Blocks {
    Blocks { kind: BlockKind::Inverted { expansion: 1 }, ..separable(channels) }
}

impl Blocks {
    const fn repeat(self, repeats: usize) -> Self {
        Self { repeats, ..self }
    }

    const fn kernels(self, kernels: &'static [usize]) -> Self {
        Self { kernels, ..self }
    }

    const fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    const fn expand(self, expansion: usize) -> Self {
        Self { kind: BlockKind::Inverted { expansion }, ..self }
    }

    const fn se(self, part: f64) -> Self {
        Self { squeeze_excite: Some(part), ..self }
    }

    const fn grouped(self, expansion_groups: usize, projection_groups: usize) -> Self {
        Self { expansion_groups, projection_groups, ..self }
    }

    const fn silu(self) -> Self {
        Self { activation: Some(Activation::Silu), ..self }
    }
}

const EFFICIENTNET: &[&[Blocks]] = &[
    &[separable(16).se(0.25)],
    &[inverted(24).repeat(2).stride(2).expand(6).se(0.25)],
    &[inverted(40).repeat(2).kernels(&[5]).stride(2).expand(6).se(0.25)],
    &[inverted(80).repeat(3).stride(2).expand(6).se(0.25)],
    &[inverted(112).repeat(3).kernels(&[5]).expand(6).se(0.25)],
    &[inverted(192).repeat(4).kernels(&[5]).stride(2).expand(6).se(0.25)],
    &[inverted(320).expand(6).se(0.25)],
];
const EFFICIENTNET_LITE: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).repeat(2).stride(2).expand(6)],
    &[inverted(40).repeat(2).kernels(&[5]).stride(2).expand(6)],
    &[inverted(80).repeat(3).stride(2).expand(6)],
    &[inverted(112).repeat(3).kernels(&[5]).expand(6)],
    &[inverted(192).repeat(4).kernels(&[5]).stride(2).expand(6)],
    &[inverted(320).expand(6)],
];
const MOBILENET_V2: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).repeat(2).stride(2).expand(6)],
    &[inverted(32).repeat(3).stride(2).expand(6)],
    &[inverted(64).repeat(4).stride(2).expand(6)],
    &[inverted(96).repeat(3).expand(6)],
    &[inverted(160).repeat(3).stride(2).expand(6)],
    &[inverted(320).expand(6)],
];
const MNASNET: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).repeat(3).stride(2).expand(3)],
    &[inverted(40).repeat(3).kernels(&[5]).stride(2).expand(3)],
    &[inverted(80).repeat(3).kernels(&[5]).stride(2).expand(6)],
    &[inverted(96).repeat(2).expand(6)],
    &[inverted(192).repeat(4).kernels(&[5]).stride(2).expand(6)],
    &[inverted(320).expand(6)],
];
const SEMNASNET: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).repeat(2).stride(2).expand(6)],
    &[inverted(40).repeat(3).kernels(&[5]).stride(2).expand(3).se(0.25)],
    &[inverted(80).repeat(4).stride(2).expand(6)],
    &[inverted(112).repeat(2).expand(6).se(0.25)],
    &[inverted(160).repeat(3).kernels(&[5]).stride(2).expand(6).se(0.25)],
    &[inverted(320).expand(6)],
];
const K35: &[usize] = &[3, 5];
const K357: &[usize] = &[3, 5, 7];
const K3579: &[usize] = &[3, 5, 7, 9];
const MIXNET_S: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).stride(2).expand(6).grouped(2, 2), inverted(24).expand(3).grouped(2, 2)],
    &[
        inverted(40).kernels(K357).stride(2).expand(6).se(0.5).silu(),
        inverted(40).repeat(3).kernels(K35).expand(6).grouped(2, 2).se(0.5).silu(),
    ],
    &[
        inverted(80).kernels(K357).stride(2).expand(6).grouped(1, 2).se(0.25).silu(),
        inverted(80).repeat(2).kernels(K35).expand(6).grouped(1, 2).se(0.25).silu(),
    ],
    &[
        inverted(120).kernels(K357).expand(6).grouped(2, 2).se(0.5).silu(),
        inverted(120).repeat(2).kernels(K3579).expand(3).grouped(2, 2).se(0.5).silu(),
    ],
    &[
        inverted(200).kernels(&[3, 5, 7, 9, 11]).stride(2).expand(6).se(0.5).silu(),
        inverted(200).repeat(2).kernels(K3579).expand(6).grouped(1, 2).se(0.5).silu(),
    ],
];
const MIXNET_M: &[&[Blocks]] = &[
    &[separable(24)],
    &[inverted(32).kernels(K357).stride(2).expand(6).grouped(2, 2), inverted(32).expand(3).grouped(2, 2)],
    &[
        inverted(40).kernels(K3579).stride(2).expand(6).se(0.5).silu(),
        inverted(40).repeat(3).kernels(K35).expand(6).grouped(2, 2).se(0.5).silu(),
    ],
    &[
        inverted(80).kernels(K357).stride(2).expand(6).se(0.25).silu(),
        inverted(80).repeat(3).kernels(K3579).expand(6).grouped(2, 2).se(0.25).silu(),
    ],
    &[
        inverted(120).expand(6).se(0.5).silu(),
        inverted(120).repeat(3).kernels(K3579).expand(3).grouped(2, 2).se(0.5).silu(),
    ],
    &[
        inverted(200).kernels(K3579).stride(2).expand(6).se(0.5).silu(),
        inverted(200).repeat(3).kernels(K3579).expand(6).grouped(1, 2).se(0.5).silu(),
    ],
];

const B0: Config = Config {
    stem: 32,
    stages: EFFICIENTNET,
    head: 1280,
    width: 1.0,
    depth: Depth::Up(1.0),
    activation: Activation::Silu,
    tensorflow: false,
    searched: true,
    input_size: 224,
    num_classes: 1000,
};
const B1: Config = b(1.0, 1.1, 32, 1280, 240);
const B2: Config = b(1.1, 1.2, 32, 1408, 260);
const B3: Config = b(1.2, 1.4, 40, 1536, 300);
const B4: Config = b(1.4, 1.8, 48, 1792, 380);
const LITE0: Config = lite(1.0, 1.0, 224);
const LITE1: Config = lite(1.0, 1.1, 240);
const LITE2: Config = lite(1.1, 1.2, 260);
const LITE3: Config = lite(1.2, 1.4, 300);
const LITE4: Config = lite(1.4, 1.8, 380);
const MIX_S: Config = Config { stem: 16, stages: MIXNET_S, head: 1536, activation: Activation::Relu, ..B0 };
const MIX_M: Config = mixnet(1.0, 1.0, 24);
const MIX_L: Config = mixnet(1.3, 1.0, 32);

const fn b(width: f64, depth: f64, stem: usize, head: usize, input_size: usize) -> Config {
    Config { stem, head, width, depth: Depth::Up(depth), input_size, ..B0 }
}
const fn lite(width: f64, depth: f64, input_size: usize) -> Config {
    Config {
        stages: EFFICIENTNET_LITE,
        width,
        depth: Depth::UpInside(depth),
        activation: Activation::Relu6,
        input_size,
        ..B0
    }
}
const fn mobilenet(width: f64, depth: f64, stem: usize, head: usize) -> Config {
    Config {
        stem,
        stages: MOBILENET_V2,
        head,
        width,
        depth: Depth::UpInside(depth),
        activation: Activation::Relu6,
        searched: false,
        ..B0
    }
}
const fn mnasnet(width: f64, stem: usize, stages: &'static [&'static [Blocks]]) -> Config {
    Config { stem, stages, width, activation: Activation::Relu, ..B0 }
}
const fn mixnet(width: f64, depth: f64, stem: usize) -> Config {
    Config { stem, stages: MIXNET_M, width, depth: Depth::Nearest(depth), ..MIX_S }
}
const fn tensorflow(config: Config) -> Config {
    Config { tensorflow: true, ..config }
}
const fn sized(input_size: usize, config: Config) -> Config {
    Config { input_size, ..config }
}

/// For 28 × 28 images of ten classes.
const DEMO: Config = Config { stem: 16, head: 160, input_size: 28, num_classes: 10, ..B0 };

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    (
        "demo_efficientnet",
        Config {
            stages: &[
                &[separable(16).se(0.25)],
                &[inverted(24).repeat(2).stride(2).expand(4).se(0.25)],
                &[inverted(40).repeat(2).kernels(&[5]).stride(2).expand(4).se(0.25)],
                &[inverted(56).expand(4).se(0.25)],
            ],
            ..DEMO
        },
    ),
    (
        "demo_mobilenetv2",
        Config {
            stages: &[
                &[separable(16)],
                &[inverted(24).repeat(2).stride(2).expand(4)],
                &[inverted(40).repeat(2).stride(2).expand(4)],
                &[inverted(56).expand(4)],
            ],
            activation: Activation::Relu6,
            ..DEMO
        },
    ),
    ("efficientnet_b0", B0),
    ("efficientnet_b1", B1),
    ("efficientnet_b2", sized(256, B2)),
    ("efficientnet_b3", sized(288, B3)),
    ("efficientnet_b4", sized(320, B4)),
    ("efficientnet_lite0", LITE0),
    ("efficientnet_lite1", LITE1),
    ("efficientnet_lite2", LITE2),
    ("efficientnet_lite3", LITE3),
    ("efficientnet_lite4", LITE4),
    ("mixnet_s", MIX_S),
    ("mixnet_m", MIX_M),
    ("mixnet_l", MIX_L),
    ("mixnet_xl", mixnet(1.6, 1.2, 40)),
    ("mnasnet_100", mnasnet(1.0, 32, MNASNET)),
    ("mobilenetv2_035", mobilenet(0.35, 1.0, 16, 1280)),
    ("mobilenetv2_050", mobilenet(0.5, 1.0, 16, 1280)),
    ("mobilenetv2_075", mobilenet(0.75, 1.0, 24, 1280)),
    ("mobilenetv2_100", mobilenet(1.0, 1.0, 32, 1280)),
    ("mobilenetv2_110d", mobilenet(1.1, 1.2, 32, 1280)),
    ("mobilenetv2_120d", mobilenet(1.2, 1.4, 32, 1280)),
    ("mobilenetv2_140", mobilenet(1.4, 1.0, 48, 1792)),
    ("semnasnet_075", mnasnet(0.75, 24, SEMNASNET)),
    ("semnasnet_100", mnasnet(1.0, 32, SEMNASNET)),
    ("tf_efficientnet_b0", tensorflow(B0)),
    ("tf_efficientnet_b1", tensorflow(B1)),
    ("tf_efficientnet_b2", tensorflow(B2)),
    ("tf_efficientnet_b3", tensorflow(B3)),
    ("tf_efficientnet_b4", tensorflow(B4)),
    ("tf_efficientnet_lite0", tensorflow(LITE0)),
    ("tf_efficientnet_lite1", tensorflow(LITE1)),
    ("tf_efficientnet_lite2", tensorflow(LITE2)),
    ("tf_efficientnet_lite3", tensorflow(LITE3)),
    ("tf_efficientnet_lite4", tensorflow(LITE4)),
    ("tf_mixnet_s", tensorflow(MIX_S)),
    ("tf_mixnet_m", tensorflow(MIX_M)),
    ("tf_mixnet_l", tensorflow(MIX_L)),
];

configuration!(EfficientNet, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        let blocks = || self.stages.iter().copied().flatten();
        let squeezes = blocks().any(|blocks| blocks.squeeze_excite.is_some());
        Components {
            base_architecture: if self.searched { "NAS (CNN)" } else { "CNN" },
            stem: "3s2".into(),
            activation: Components::activations(
                std::iter::once(self.activation).chain(blocks().filter_map(|blocks| blocks.activation)),
            ),
            stem_pooling: false,
            channel_attention: if squeezes { "Yes (SE)" } else { "No" },
            channel_attention_location: if squeezes { "Middle" } else { "~" },
            depthwise_convolution: true,
            ..Components::CNN
        }
    }

    /// A convolution in the network's padding.
    fn conv(&self, inputs: usize, outputs: usize, kernel: usize) -> Conv2dConfig {
        let conv = Conv2d::config(inputs, outputs, kernel);
        if self.tensorflow { conv.padding(Padding::Same) } else { conv }
    }

    fn norm(&self, channels: usize, device: &Device) -> BatchNorm2d {
        let epsilon = if self.tensorflow { 1e-3 } else { 1e-5 };
        BatchNorm2d::with_epsilon(channels, epsilon, device)
    }

    /// The blocks of a stage one by one, with how often each occurs after scaling.
    fn stage(&self, index: usize) -> impl Iterator<Item = (&'static Blocks, usize)> {
        let blocks = self.stages[index];
        let total: usize = blocks.iter().map(|blocks| blocks.repeats).sum();
        let at_an_end = index == 0 || index == self.stages.len() - 1;
        let scaled = match self.depth {
            Depth::UpInside(_) if at_an_end => total,
            Depth::Up(factor) | Depth::UpInside(factor) => (total as f64 * factor).ceil() as usize,
            Depth::Nearest(factor) => (total as f64 * factor).round_ties_even() as usize,
        };
        blocks.iter().enumerate().map(move |(position, like)| {
            let last = position == blocks.len() - 1;
            let more = if last { scaled - total } else { 0 };
            (like, like.repeats + more)
        })
    }
}

/// An EfficientNet. See [`Config`].
#[derive(Module, Debug)]
pub struct EfficientNet {
    conv_stem: Conv2d,
    bn1: BatchNorm2d,
    blocks: Vec<Vec<Block>>,
    conv_head: Conv2d,
    bn2: BatchNorm2d,
    classifier: Linear,
    #[module(skip)]
    activation: Activation,
}

impl EfficientNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let mut inputs = config.stem;
        let mut blocks = Vec::new();
        for index in 0..config.stages.len() {
            let mut stage = Vec::new();
            for (like, repeats) in config.stage(index) {
                for position in 0..repeats {
                    let stride = if position == 0 { like.stride } else { 1 };
                    let shape = BlockShape::new(config, like, inputs, stride);
                    inputs = shape.outputs;
                    stage.push(Block::new(config, like, &shape, device));
                }
            }
            blocks.push(stage);
        }
        Self {
            conv_stem: config.conv(3, config.stem, 3).stride(2).build(device),
            bn1: config.norm(config.stem, device),
            blocks,
            conv_head: config.conv(inputs, config.head, 1).build(device),
            bn2: config.norm(config.head, device),
            classifier: Linear::new(config.head, num_classes, device),
            activation: config.activation,
        }
    }
}

impl Architecture for EfficientNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let then = |norm| Then::norm(norm, self.activation);
        let x = self.conv_stem.forward_then(images, then(&self.bn1));
        let mut x = taps.map(|| "bn1".into(), x);
        for (index, stage) in self.blocks.iter().enumerate() {
            for (position, block) in stage.iter().enumerate() {
                let name = || format!("blocks.{index}.{position}");
                x = taps.map(name, block.forward(x));
            }
            x = taps.map(|| format!("blocks.{index}"), x);
        }
        let x = self.conv_head.forward_then(x, then(&self.bn2));
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.classifier.forward(features.clone()), features }
    }
}

/// The scaled sizes of one block.
#[derive(Debug, Clone, Copy)]
struct BlockShape {
    inputs: usize,
    /// Channels of the depthwise convolution.
    middle: usize,
    outputs: usize,
    stride: usize,
    /// Channels within the squeeze-and-excitation.
    squeezed: Option<usize>,
}

impl BlockShape {
    fn new(config: &Config, like: &Blocks, inputs: usize, stride: usize) -> Self {
        let expansion = match like.kind {
            BlockKind::Separable => 1,
            BlockKind::Inverted { expansion } => expansion,
        };
        let middle = make_divisible((inputs * expansion) as f64, 8);
        let squeezed = |part: f64| {
            let squeezed = middle as f64 * (part / expansion as f64);
            squeezed.round_ties_even() as usize
        };
        Self {
            inputs,
            middle,
            outputs: make_divisible(like.channels as f64 * config.width, 8),
            stride,
            squeezed: like.squeeze_excite.map(squeezed),
        }
    }

    fn has_shortcut(&self) -> bool {
        self.stride == 1 && self.inputs == self.outputs
    }
}

/// A block of either kind, with a shortcut where the shape stays.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
enum Block {
    Separable(SeparableBlock),
    Inverted(InvertedBlock),
}

impl Block {
    fn new(config: &Config, like: &Blocks, shape: &BlockShape, device: &Device) -> Self {
        match like.kind {
            BlockKind::Separable => Self::Separable(SeparableBlock::new(config, like, shape, device)),
            BlockKind::Inverted { .. } => Self::Inverted(InvertedBlock::new(config, like, shape, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Separable(block) => block.forward(x),
            Self::Inverted(block) => block.forward(x),
        }
    }
}

/// Depthwise convolution, 1×1 convolution.
#[derive(Module, Debug)]
struct SeparableBlock {
    conv_dw: MixedConv2d,
    bn1: BatchNorm2d,
    se: Option<SqueezeExcite>,
    conv_pw: MixedConv2d,
    bn2: BatchNorm2d,
    shortcut: bool,
    #[module(skip)]
    activation: Activation,
}

impl SeparableBlock {
    fn new(config: &Config, like: &Blocks, shape: &BlockShape, device: &Device) -> Self {
        let BlockShape { inputs, outputs, .. } = *shape;
        let activation = like.activation.unwrap_or(config.activation);
        Self {
            conv_dw: depthwise(config, like, shape, device),
            bn1: config.norm(inputs, device),
            se: SqueezeExcite::new(shape, activation, device),
            conv_pw: pointwise(config, inputs, outputs, like.projection_groups, device),
            bn2: config.norm(outputs, device),
            shortcut: shape.has_shortcut(),
            activation,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let then = Then::norm(&self.bn1, self.activation);
        let mut y = self.conv_dw.forward_then(x.clone(), then);
        if let Some(se) = &self.se {
            y = se.forward(y);
        }
        let shortcut = self.shortcut.then_some(x);
        let then = Then::norm(&self.bn2, Activation::Identity).residual(shortcut);
        self.conv_pw.forward_then(y, then)
    }
}

/// 1×1 convolution that widens, depthwise convolution, 1×1 convolution that narrows.
#[derive(Module, Debug)]
struct InvertedBlock {
    conv_pw: MixedConv2d,
    bn1: BatchNorm2d,
    conv_dw: MixedConv2d,
    bn2: BatchNorm2d,
    se: Option<SqueezeExcite>,
    conv_pwl: MixedConv2d,
    bn3: BatchNorm2d,
    shortcut: bool,
    #[module(skip)]
    activation: Activation,
}

impl InvertedBlock {
    fn new(config: &Config, like: &Blocks, shape: &BlockShape, device: &Device) -> Self {
        let BlockShape { inputs, middle, outputs, .. } = *shape;
        let activation = like.activation.unwrap_or(config.activation);
        Self {
            conv_pw: pointwise(config, inputs, middle, like.expansion_groups, device),
            bn1: config.norm(middle, device),
            conv_dw: depthwise(config, like, shape, device),
            bn2: config.norm(middle, device),
            se: SqueezeExcite::new(shape, activation, device),
            conv_pwl: pointwise(config, middle, outputs, like.projection_groups, device),
            bn3: config.norm(outputs, device),
            shortcut: shape.has_shortcut(),
            activation,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let then = |norm| Then::norm(norm, self.activation);
        let y = self.conv_pw.forward_then(x.clone(), then(&self.bn1));
        let mut y = self.conv_dw.forward_then(y, then(&self.bn2));
        if let Some(se) = &self.se {
            y = se.forward(y);
        }
        let shortcut = self.shortcut.then_some(x);
        let then = Then::norm(&self.bn3, Activation::Identity).residual(shortcut);
        self.conv_pwl.forward_then(y, then)
    }
}

fn depthwise(config: &Config, like: &Blocks, shape: &BlockShape, device: &Device) -> MixedConv2d {
    let build = |inputs, outputs, kernel| {
        let conv = config.conv(inputs, outputs, kernel).groups(inputs);
        conv.stride(shape.stride).build(device)
    };
    MixedConv2d::new(shape.middle, shape.middle, like.kernels, build)
}

fn pointwise(config: &Config, inputs: usize, outputs: usize, groups: usize, device: &Device) -> MixedConv2d {
    let build = |inputs, outputs, kernel| config.conv(inputs, outputs, kernel).build(device);
    MixedConv2d::new(inputs, outputs, &vec![1; groups], build)
}

/// Squeeze-and-excitation with the block's activation inside.
#[derive(Module, Debug)]
struct SqueezeExcite {
    conv_reduce: Conv2d,
    conv_expand: Conv2d,
    #[module(skip)]
    activation: Activation,
}

impl SqueezeExcite {
    /// Nothing for a block without it.
    fn new(shape: &BlockShape, activation: Activation, device: &Device) -> Option<Self> {
        let conv = |inputs, outputs| Conv2d::config(inputs, outputs, 1).bias().build(device);
        shape.squeezed.map(|squeezed| Self {
            conv_reduce: conv(shape.middle, squeezed),
            conv_expand: conv(squeezed, shape.middle),
            activation,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        gated(x, &self.conv_reduce, self.activation, &self.conv_expand)
    }
}
