//! The blocks of networks for mobile devices, EfficientNet, MobileNet and their relatives, and how tables describe them.
//!
//! Sandler et al., *MobileNetV2* (arXiv 1801.04381), for inverted blocks; Gupta & Akin, *Accelerator-aware Neural Network
//! Design using AutoML* (2003.02838), for edge blocks; Qin et al., *MobileNetV4* (2404.10518), for universal ones.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Conv2dConfig, ConvNorm, MixedConv2d, Padding, Regularisation, StochasticDepth,
    Then, add, gated, make_divisible, make_divisible_limited,
};
use crate::taps::Taps;

/// What a network has before its head: a strided convolution and stages of blocks.
#[derive(Debug, Clone)]
pub struct MobileBody {
    /// Channels of the first convolution.
    pub stem: usize,
    /// Rows and columns of its kernel.
    pub stem_kernel: usize,
    /// The blocks of each stage, before scaling.
    pub stages: &'static [&'static [Blocks]],
    /// The blocks' channels are multiplied by this, and rounded to a multiple of eight.
    pub width: f64,
    /// The part of the multiplied channels below which they are not rounded.
    pub round_limit: f64,
    /// What becomes of the number of blocks in a stage.
    pub depth: Depth,
    /// The activation where [`Blocks`] do not name their own.
    pub activation: Activation,
    /// TensorFlow's "same" padding.
    pub same_padding: bool,
    /// Of batch normalisation.
    pub epsilon: f64,
    /// Of the blocks that have one.
    pub squeeze: Squeeze,
}

/// How the squeeze-and-excitation within blocks is made.
#[derive(Debug, Clone, Copy)]
pub struct Squeeze {
    /// Whether its width is a part of the channels that it scales, and not of the block's inputs.
    pub of_middle: bool,
    /// Its width is rounded to a multiple of eight that is no smaller part than this; else to the nearest number.
    pub round_limit: Option<f64>,
    /// The activation between its maps, if it is not the block's.
    pub activation: Option<Activation>,
    /// What makes gates of its results.
    pub gate: Activation,
}

/// How the number of blocks in a stage is scaled.
#[derive(Debug, Clone, Copy)]
pub enum Depth {
    /// By a factor, rounded up.
    Up(f64),
    /// By a factor, rounded up, but in the first stage and the last.
    UpInside(f64),
    /// By a factor for each stage, rounded up.
    UpByStage(&'static [f64]),
    /// By a factor, rounded to the nearest, halves to even.
    Nearest(f64),
}

/// Like blocks, one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    /// How many, before scaling.
    pub repeats: usize,
    /// The kind of each.
    pub kind: BlockKind,
    /// Kernel sizes of the largest convolution; several share the channels evenly (MixNet), and a universal block may have
    /// none.
    pub kernels: &'static [usize],
    /// Kernel size of the depthwise convolution before a universal block's others, if there is one.
    pub start_kernel: Option<usize>,
    /// The stride of the first; the others have 1.
    pub stride: usize,
    /// By how much the block widens inside.
    pub expansion: f64,
    /// Whether it is the block's outputs that are widened, and not its inputs.
    pub expands_outputs: bool,
    /// Channels that each gives, before scaling.
    pub channels: usize,
    /// The width of the squeeze-and-excitation, if there is one: see [`Squeeze`].
    pub squeeze_excite: Option<f64>,
    /// Groups of channels (inputs and outputs shared evenly) in the convolution that expands.
    pub expansion_groups: usize,
    /// Groups of channels in the convolution that projects.
    pub projection_groups: usize,
    /// Channels of a group in an edge block's large convolution, if it has groups.
    pub group_width: Option<usize>,
    /// Another activation than the network's.
    pub activation: Option<Activation>,
    /// Whether an activation follows a separable block's last convolution.
    pub activated: bool,
    /// Whether the input is added where the shape stays.
    pub shortcut: bool,
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// One convolution.
    Convolution,
    /// Depthwise convolution, 1×1 convolution.
    Separable,
    /// 1×1 convolution that widens, depthwise convolution, 1×1 convolution.
    Inverted,
    /// Full convolution that widens, 1×1 convolution.
    Edge,
    /// Depthwise convolution, 1×1 convolution that widens, depthwise convolution, 1×1 convolution; of the depthwise ones
    /// each if there is one.
    Universal,
}

/// One separable block to so many channels: 3×3, stride 1.
pub const fn separable(channels: usize) -> Blocks {
    Blocks {
        repeats: 1,
        kind: BlockKind::Separable,
        kernels: &[3],
        start_kernel: None,
        stride: 1,
        expansion: 1.0,
        expands_outputs: false,
        channels,
        squeeze_excite: None,
        expansion_groups: 1,
        projection_groups: 1,
        group_width: None,
        activation: None,
        activated: false,
        shortcut: true,
    }
}

/// One inverted block to so many channels: 3×3, stride 1, which does not widen.
pub const fn inverted(channels: usize) -> Blocks {
    Blocks { kind: BlockKind::Inverted, ..separable(channels) }
}

/// One edge block to so many channels: 3×3, stride 1, which does not widen.
pub const fn edge(channels: usize) -> Blocks {
    Blocks { kind: BlockKind::Edge, ..separable(channels) }
}

/// One universal block to so many channels: 3×3 in the middle, stride 1, which does not widen.
pub const fn universal(channels: usize) -> Blocks {
    Blocks { kind: BlockKind::Universal, ..separable(channels) }
}

/// One 3×3 convolution to so many channels, stride 1, without a shortcut.
pub const fn convolution(channels: usize) -> Blocks {
    Blocks { kind: BlockKind::Convolution, shortcut: false, ..separable(channels) }
}

impl Blocks {
    /// So many.
    pub const fn repeat(self, repeats: usize) -> Self {
        Self { repeats, ..self }
    }

    /// See [`Self::kernels`].
    pub const fn kernels(self, kernels: &'static [usize]) -> Self {
        Self { kernels, ..self }
    }

    /// See [`Self::start_kernel`].
    pub const fn start(self, kernel: usize) -> Self {
        Self { start_kernel: Some(kernel), ..self }
    }

    /// See [`Self::stride`].
    pub const fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// By how much the block widens its inputs.
    pub const fn expand(self, expansion: f64) -> Self {
        Self { expansion, ..self }
    }

    /// By how much the block is wider inside than its outputs.
    pub const fn expand_outputs(self, expansion: f64) -> Self {
        Self { expansion, expands_outputs: true, ..self }
    }

    /// With squeeze-and-excitation.
    pub const fn se(self, part: f64) -> Self {
        Self { squeeze_excite: Some(part), ..self }
    }

    /// In groups of channels, the convolution that expands and the one that projects.
    pub const fn grouped(self, expansion_groups: usize, projection_groups: usize) -> Self {
        Self { expansion_groups, projection_groups, ..self }
    }

    /// See [`Self::group_width`].
    pub const fn group_width(self, channels: usize) -> Self {
        Self { group_width: Some(channels), ..self }
    }

    /// With another activation than the network's.
    pub const fn activation(self, activation: Activation) -> Self {
        Self { activation: Some(activation), ..self }
    }

    /// With an activation at the end, and no shortcut (MobileNet's first version).
    pub const fn activated(self) -> Self {
        Self { activated: true, shortcut: false, ..self }
    }

    /// With a shortcut where the shape stays, or without.
    pub const fn shortcut(self, shortcut: bool) -> Self {
        Self { shortcut, ..self }
    }
}

impl Squeeze {
    /// EfficientNet's.
    pub const EFFICIENTNET: Self =
        Self { of_middle: false, round_limit: None, activation: None, gate: Activation::Sigmoid };
}

impl MobileBody {
    /// The components that the body tells.
    pub fn components(&self) -> Components {
        let blocks = || self.stages.iter().copied().flatten();
        let squeezes = blocks().any(|blocks| blocks.squeeze_excite.is_some());
        let activations = blocks().filter_map(|blocks| blocks.activation);
        Components {
            base_architecture: "NAS (CNN)",
            stem: format!("{}s2", self.stem_kernel).into(),
            activation: Components::activations(std::iter::once(self.activation).chain(activations)),
            stem_pooling: false,
            channel_attention: if squeezes { "Yes (SE)" } else { "No" },
            channel_attention_location: if squeezes { "Middle" } else { "~" },
            depthwise_convolution: true,
            grouped_convolution: blocks().any(|blocks| blocks.group_width.is_some()),
            ..Components::CNN
        }
    }

    /// A convolution in the network's padding.
    pub fn conv(&self, inputs: usize, outputs: usize, kernel: usize) -> Conv2dConfig {
        let conv = Conv2d::config(inputs, outputs, kernel);
        if self.same_padding { conv.padding(Padding::Same) } else { conv }
    }

    /// Batch normalisation with the network's epsilon.
    pub fn norm(&self, channels: usize, device: &Device) -> BatchNorm2d {
        BatchNorm2d::with_epsilon(channels, self.epsilon, device)
    }

    /// The first convolution and its normalisation.
    pub fn stem(&self, device: &Device) -> (Conv2d, BatchNorm2d) {
        (self.conv(3, self.stem, self.stem_kernel).stride(2).build(device), self.norm(self.stem, device))
    }

    /// The blocks of each stage, and the channels of the last. The rate at which branches are left out grows from 0 by the
    /// same step from block to block, one step short of the whole in the last.
    pub fn blocks(&self, regularisation: Regularisation, device: &Device) -> (Vec<Vec<MobileBlock>>, usize) {
        let total: usize = (0..self.stages.len()).map(|index| self.stage(index).count()).sum();
        let mut before = 0;
        let mut inputs = self.stem;
        let mut stages = Vec::new();
        for index in 0..self.stages.len() {
            let mut stage = Vec::new();
            for like in self.stage(index) {
                // Only the first block of a stage shrinks.
                let stride = if stage.is_empty() { like.stride } else { 1 };
                let drop_path = regularisation.share(before as f64 / total as f64);
                let shape = BlockShape::new(self, like, inputs, stride, drop_path);
                before += 1;
                inputs = shape.outputs;
                stage.push(MobileBlock::new(self, like, &shape, device));
            }
            stages.push(stage);
        }
        (stages, inputs)
    }

    /// The blocks of a stage after scaling, one by one.
    fn stage(&self, index: usize) -> impl Iterator<Item = &'static Blocks> {
        let blocks = self.stages[index];
        let mut left: usize = blocks.iter().map(|blocks| blocks.repeats).sum();
        let at_an_end = index == 0 || index == self.stages.len() - 1;
        let total = left as f64;
        let mut scaled = match self.depth {
            Depth::UpInside(_) if at_an_end => total,
            Depth::Up(factor) | Depth::UpInside(factor) => (total * factor).ceil(),
            Depth::UpByStage(factors) => (total * factors[index]).ceil(),
            Depth::Nearest(factor) => (total * factor).round_ties_even().max(1.0),
        };
        // Shared from behind, since the first block, which shrinks the image, gains least from being repeated.
        let mut repeated = Vec::new();
        for like in blocks.iter().rev() {
            let count = (like.repeats as f64 / left as f64 * scaled).round_ties_even().max(1.0);
            left -= like.repeats;
            scaled -= count;
            repeated.push(std::iter::repeat_n(like, count as usize));
        }
        repeated.into_iter().rev().flatten()
    }

    /// Multiplied, and rounded to a multiple of eight.
    fn channels(&self, channels: usize) -> usize {
        make_divisible_limited(channels as f64 * self.width, 8, self.round_limit)
    }
}

/// Runs the blocks of all stages.
pub fn run_stages(stages: &[Vec<MobileBlock>], mut x: Tensor<4>, taps: &mut Taps) -> Tensor<4> {
    for (index, stage) in stages.iter().enumerate() {
        x = taps.stage(|| format!("blocks.{index}"), stage, x, |block, x| block.forward(x));
    }
    x
}

/// The scaled sizes of one block.
#[derive(Debug, Clone, Copy)]
struct BlockShape {
    inputs: usize,
    /// Channels at the widest.
    middle: usize,
    outputs: usize,
    stride: usize,
    /// How often the branch beside the shortcut is left out, if there is one.
    shortcut: Option<StochasticDepth>,
    /// Channels within the squeeze-and-excitation.
    squeezed: Option<usize>,
}

impl BlockShape {
    fn new(body: &MobileBody, like: &Blocks, inputs: usize, stride: usize, drop_path: StochasticDepth) -> Self {
        let outputs = body.channels(like.channels);
        let expanded = if like.expands_outputs { outputs } else { inputs };
        let middle = make_divisible(expanded as f64 * like.expansion, 8);
        let squeezed = |part: f64| {
            let part = if body.squeeze.of_middle { part } else { part / like.expansion };
            let squeezed = middle as f64 * part;
            match body.squeeze.round_limit {
                Some(limit) => make_divisible_limited(squeezed, 8, limit),
                None => squeezed.round_ties_even() as usize,
            }
        };
        Self {
            inputs,
            middle,
            outputs,
            stride,
            shortcut: (like.shortcut && stride == 1 && inputs == outputs).then_some(drop_path),
            squeezed: like.squeeze_excite.map(squeezed),
        }
    }
}

/// A block of any kind, with a shortcut where the shape stays.
#[derive(Module, Debug)]
#[allow(missing_docs)]
pub enum MobileBlock {
    Convolution(ConvolutionBlock),
    Separable(SeparableBlock),
    Inverted(InvertedBlock),
    Edge(EdgeBlock),
    Universal(UniversalBlock),
}

impl MobileBlock {
    fn new(body: &MobileBody, like: &Blocks, shape: &BlockShape, device: &Device) -> Self {
        match like.kind {
            BlockKind::Convolution => Self::Convolution(ConvolutionBlock::new(body, like, shape, device)),
            BlockKind::Separable => Self::Separable(SeparableBlock::new(body, like, shape, device)),
            BlockKind::Inverted => Self::Inverted(InvertedBlock::new(body, like, shape, device)),
            BlockKind::Edge => Self::Edge(EdgeBlock::new(body, like, shape, device)),
            BlockKind::Universal => Self::Universal(UniversalBlock::new(body, like, shape, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Convolution(block) => block.forward(x),
            Self::Separable(block) => block.forward(x),
            Self::Inverted(block) => block.forward(x),
            Self::Edge(block) => block.forward(x),
            Self::Universal(block) => block.forward(x),
        }
    }
}

/// One convolution.
#[derive(Module, Debug)]
pub struct ConvolutionBlock {
    conv: Conv2d,
    bn1: BatchNorm2d,
    #[module(skip)]
    shortcut: Option<StochasticDepth>,
    #[module(skip)]
    activation: Activation,
}

impl ConvolutionBlock {
    fn new(body: &MobileBody, like: &Blocks, shape: &BlockShape, device: &Device) -> Self {
        let &BlockShape { inputs, outputs, stride, shortcut, .. } = shape;
        Self {
            conv: body.conv(inputs, outputs, like.kernels[0]).stride(stride).build(device),
            bn1: body.norm(outputs, device),
            shortcut,
            activation: like.activation.unwrap_or(body.activation),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv.forward_then(x.clone(), Then::norm(&self.bn1, self.activation));
        match &self.shortcut {
            Some(drop_path) => drop_path.residual(x, |x| add(y, x, Activation::Identity)),
            None => y,
        }
    }
}

/// Depthwise convolution, 1×1 convolution.
#[derive(Module, Debug)]
pub struct SeparableBlock {
    conv_dw: MixedConv2d,
    bn1: BatchNorm2d,
    se: Option<SqueezeExcite>,
    conv_pw: MixedConv2d,
    bn2: BatchNorm2d,
    #[module(skip)]
    shortcut: Option<StochasticDepth>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    last_activation: Activation,
}

impl SeparableBlock {
    fn new(body: &MobileBody, like: &Blocks, shape: &BlockShape, device: &Device) -> Self {
        let &BlockShape { inputs, outputs, shortcut, .. } = shape;
        let activation = like.activation.unwrap_or(body.activation);
        Self {
            conv_dw: depthwise(body, like, shape, device),
            bn1: body.norm(inputs, device),
            se: SqueezeExcite::new(body, shape, activation, device),
            conv_pw: pointwise(body, inputs, outputs, like.projection_groups, device),
            bn2: body.norm(outputs, device),
            shortcut,
            activation,
            last_activation: if like.activated { activation } else { Activation::Identity },
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv_dw.forward_then(x.clone(), Then::norm(&self.bn1, self.activation));
        let y = SqueezeExcite::apply(&self.se, y);
        beside(self.shortcut, x, |x| {
            self.conv_pw.forward_then(y, Then::norm(&self.bn2, self.last_activation).residual(x))
        })
    }
}

/// 1×1 convolution that widens, depthwise convolution, 1×1 convolution that narrows.
#[derive(Module, Debug)]
pub struct InvertedBlock {
    conv_pw: MixedConv2d,
    bn1: BatchNorm2d,
    conv_dw: MixedConv2d,
    bn2: BatchNorm2d,
    se: Option<SqueezeExcite>,
    conv_pwl: MixedConv2d,
    bn3: BatchNorm2d,
    #[module(skip)]
    shortcut: Option<StochasticDepth>,
    #[module(skip)]
    activation: Activation,
}

impl InvertedBlock {
    fn new(body: &MobileBody, like: &Blocks, shape: &BlockShape, device: &Device) -> Self {
        let &BlockShape { inputs, middle, outputs, shortcut, .. } = shape;
        let activation = like.activation.unwrap_or(body.activation);
        Self {
            conv_pw: pointwise(body, inputs, middle, like.expansion_groups, device),
            bn1: body.norm(middle, device),
            conv_dw: depthwise(body, like, shape, device),
            bn2: body.norm(middle, device),
            se: SqueezeExcite::new(body, shape, activation, device),
            conv_pwl: pointwise(body, middle, outputs, like.projection_groups, device),
            bn3: body.norm(outputs, device),
            shortcut,
            activation,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let then = |norm| Then::norm(norm, self.activation);
        let y = self.conv_pw.forward_then(x.clone(), then(&self.bn1));
        let y = self.conv_dw.forward_then(y, then(&self.bn2));
        let y = SqueezeExcite::apply(&self.se, y);
        beside(self.shortcut, x, |x| {
            self.conv_pwl.forward_then(y, Then::norm(&self.bn3, Activation::Identity).residual(x))
        })
    }
}

/// Full convolution that widens, 1×1 convolution that narrows.
#[derive(Module, Debug)]
pub struct EdgeBlock {
    conv_exp: Conv2d,
    bn1: BatchNorm2d,
    se: Option<SqueezeExcite>,
    conv_pwl: Conv2d,
    bn2: BatchNorm2d,
    #[module(skip)]
    shortcut: Option<StochasticDepth>,
    #[module(skip)]
    activation: Activation,
}

impl EdgeBlock {
    fn new(body: &MobileBody, like: &Blocks, shape: &BlockShape, device: &Device) -> Self {
        let &BlockShape { inputs, middle, outputs, stride, shortcut, .. } = shape;
        let activation = like.activation.unwrap_or(body.activation);
        let groups = like.group_width.map_or(1, |width| middle / width);
        Self {
            conv_exp: body.conv(inputs, middle, like.kernels[0]).stride(stride).groups(groups).build(device),
            bn1: body.norm(middle, device),
            se: SqueezeExcite::new(body, shape, activation, device),
            conv_pwl: body.conv(middle, outputs, 1).build(device),
            bn2: body.norm(outputs, device),
            shortcut,
            activation,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv_exp.forward_then(x.clone(), Then::norm(&self.bn1, self.activation));
        let y = SqueezeExcite::apply(&self.se, y);
        beside(self.shortcut, x, |x| {
            self.conv_pwl.forward_then(y, Then::norm(&self.bn2, Activation::Identity).residual(x))
        })
    }
}

/// An inverted block with a depthwise convolution before it, which may lack its own.
#[derive(Module, Debug)]
pub struct UniversalBlock {
    dw_start: Option<ConvNorm>,
    pw_exp: ConvNorm,
    dw_mid: Option<ConvNorm>,
    pw_proj: ConvNorm,
    #[module(skip)]
    shortcut: Option<StochasticDepth>,
}

impl UniversalBlock {
    fn new(body: &MobileBody, like: &Blocks, shape: &BlockShape, device: &Device) -> Self {
        let &BlockShape { inputs, middle, outputs, stride, shortcut, .. } = shape;
        let activation = like.activation.unwrap_or(body.activation);
        let conv = |inputs, outputs, activation| {
            ConvNorm::with_epsilon(body.conv(inputs, outputs, 1), body.epsilon, activation, device)
        };
        let depthwise = |channels, kernel, stride, activation| {
            let conv = body.conv(channels, channels, kernel).groups(channels).stride(stride);
            ConvNorm::with_epsilon(conv, body.epsilon, activation, device)
        };
        let middle_kernel = like.kernels.first();
        let start_stride = if middle_kernel.is_some() { 1 } else { stride };
        Self {
            dw_start: like.start_kernel.map(|kernel| depthwise(inputs, kernel, start_stride, Activation::Identity)),
            pw_exp: conv(inputs, middle, activation),
            dw_mid: middle_kernel.map(|&kernel| depthwise(middle, kernel, stride, activation)),
            pw_proj: conv(middle, outputs, Activation::Identity),
            shortcut,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let through = |conv: &Option<ConvNorm>, x| match conv {
            Some(conv) => conv.forward(x),
            None => x,
        };
        let y = self.pw_exp.forward(through(&self.dw_start, x.clone()));
        let y = through(&self.dw_mid, y);
        beside(self.shortcut, x, |x| self.pw_proj.forward_residual(y, x, Activation::Identity))
    }
}

/// The last layer of a branch, which adds what it is given: x, if there is a shortcut.
fn beside(
    shortcut: Option<StochasticDepth>,
    x: Tensor<4>,
    last: impl FnOnce(Option<Tensor<4>>) -> Tensor<4>,
) -> Tensor<4> {
    match shortcut {
        Some(drop_path) => drop_path.residual(x, |x| last(Some(x))),
        None => last(None),
    }
}

fn depthwise(body: &MobileBody, like: &Blocks, shape: &BlockShape, device: &Device) -> MixedConv2d {
    let build = |inputs, outputs, kernel| {
        let conv = body.conv(inputs, outputs, kernel).groups(inputs);
        conv.stride(shape.stride).build(device)
    };
    MixedConv2d::new(shape.middle, shape.middle, like.kernels, build)
}

fn pointwise(body: &MobileBody, inputs: usize, outputs: usize, groups: usize, device: &Device) -> MixedConv2d {
    let build = |inputs, outputs, kernel| body.conv(inputs, outputs, kernel).build(device);
    MixedConv2d::new(inputs, outputs, &vec![1; groups], build)
}

/// Squeeze-and-excitation under the names of these networks.
#[derive(Module, Debug)]
struct SqueezeExcite {
    conv_reduce: Conv2d,
    conv_expand: Conv2d,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    gate: Activation,
}

impl SqueezeExcite {
    /// Nothing for a block without it.
    fn new(body: &MobileBody, shape: &BlockShape, activation: Activation, device: &Device) -> Option<Self> {
        let conv = |inputs, outputs| Conv2d::config(inputs, outputs, 1).bias().build(device);
        shape.squeezed.map(|squeezed| Self {
            conv_reduce: conv(shape.middle, squeezed),
            conv_expand: conv(squeezed, shape.middle),
            activation: body.squeeze.activation.unwrap_or(activation),
            gate: body.squeeze.gate,
        })
    }

    fn apply(attention: &Option<Self>, x: Tensor<4>) -> Tensor<4> {
        match attention {
            Some(Self { conv_reduce, conv_expand, activation, gate }) => {
                gated(x, conv_reduce, *activation, conv_expand, *gate)
            }
            None => x,
        }
    }
}
