//! Networks without normalisation: NFNet, NF-ResNet, NF-RegNet.
//!
//! Brock et al., *Characterizing signal propagation to close the performance gap in unnormalized ResNets* (arXiv
//! 2101.08692); Brock et al., *High-Performance Large-Scale Image Recognition Without Normalization* (2102.06171). The names
//! in `dm_` are DeepMind's networks; the light ones, with an l before the number, are timm's.
//!
//! The constants that keep the variance from block to block are multiplied into standardised weights, not into activations.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Conv2d, Conv2dConfig, EfficientChannelAttention, Linear, Named, Padding, SqueezeExcite, Then, add,
    average_pool, gate, global_average_pool, make_divisible, make_divisible_limited, max_pool,
};
use crate::taps::Taps;

/// Which network without normalisation.
#[derive(Debug, Clone)]
pub struct Config {
    /// What it would be with normalisation.
    pub kind: Kind,
    /// Blocks in each stage.
    pub depths: [usize; 4],
    /// Channels that each stage gives; three quarters of them in a RegNet.
    pub channels: [usize; 4],
    /// Channels within a block as a part of those that it gives; in a RegNet as a multiple of those that it gets.
    pub bottleneck: f64,
    /// Channels of a group in the 3×3 convolutions; without, all see each other.
    pub group_size: Option<usize>,
    /// Channels of a last 1×1 convolution, if there is one; three quarters of them in a RegNet.
    pub features: Option<usize>,
    /// The attention over channels in every block.
    pub attention: Option<AttentionKind>,
    /// The activation everywhere but within the attention.
    pub activation: Activation,
    /// TensorFlow's "same" padding, activations that keep the variance, and learnt scales of the residual branches.
    pub deepmind: bool,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The kind of the blocks and of the first layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A 7×7 convolution and pooling; bottlenecks with attention at their end.
    ResNet,
    /// A 3×3 convolution; blocks that widen, with attention in their middle.
    RegNet,
    /// Four 3×3 convolutions; bottlenecks of two 3×3 convolutions, with attention at their end.
    NfNet,
}

/// The kind of attention over channels.
#[derive(Debug, Clone, Copy)]
pub enum AttentionKind {
    /// Squeeze-and-excitation to this part of the channels.
    SqueezeExcite(f64),
    /// Efficient channel attention.
    Efficient,
}

const RESNET50: Config = Config {
    kind: Kind::ResNet,
    depths: [3, 4, 6, 3],
    channels: [256, 512, 1024, 2048],
    bottleneck: 0.25,
    group_size: None,
    features: None,
    attention: None,
    activation: Activation::Relu,
    deepmind: false,
    input_size: 224,
    num_classes: 1000,
};
const RESNET26: Config = Config { depths: [2, 2, 2, 2], ..RESNET50 };
const RESNET101: Config = Config { depths: [3, 4, 23, 3], ..RESNET50 };

const fn regnet(depths: [usize; 4], channels: [usize; 4], input_size: usize) -> Config {
    Config {
        kind: Kind::RegNet,
        depths,
        channels,
        bottleneck: 2.25,
        group_size: Some(8),
        features: Some(1280 * channels[3] / 440),
        attention: Some(AttentionKind::SqueezeExcite(0.5)),
        activation: Activation::Silu,
        input_size,
        ..RESNET50
    }
}
/// The F networks: `size` + 1 times the blocks of F0.
const fn f(size: usize, input_size: usize) -> Config {
    let times = size + 1;
    Config {
        kind: Kind::NfNet,
        depths: [times, 2 * times, 6 * times, 3 * times],
        channels: [256, 512, 1536, 1536],
        bottleneck: 0.5,
        group_size: Some(128),
        features: Some(3072),
        attention: Some(AttentionKind::SqueezeExcite(0.5)),
        activation: Activation::Gelu,
        input_size,
        ..RESNET50
    }
}
const fn deepmind(config: Config) -> Config {
    Config { deepmind: true, ..config }
}
const fn light(size: usize, input_size: usize) -> Config {
    Config {
        bottleneck: 0.25,
        group_size: Some(64),
        attention: Some(AttentionKind::SqueezeExcite(0.25)),
        activation: Activation::Silu,
        ..f(size, input_size)
    }
}
const fn se(config: Config) -> Config {
    Config { attention: Some(AttentionKind::SqueezeExcite(1.0 / 16.0)), ..config }
}
const fn eca(config: Config) -> Config {
    Config { attention: Some(AttentionKind::Efficient), ..config }
}
/// With fewer features at the end.
const fn features(features: usize, config: Config) -> Config {
    Config { features: Some(features), ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("dm_nfnet_f0", deepmind(f(0, 192))),
    ("dm_nfnet_f1", deepmind(f(1, 224))),
    ("dm_nfnet_f2", deepmind(f(2, 256))),
    ("dm_nfnet_f3", deepmind(f(3, 320))),
    ("eca_nfnet_l0", features(2304, eca(light(0, 224)))),
    ("eca_nfnet_l1", eca(light(1, 256))),
    ("eca_nfnet_l2", eca(light(2, 320))),
    ("eca_nfnet_l3", eca(light(3, 352))),
    ("nf_ecaresnet26", eca(RESNET26)),
    ("nf_ecaresnet50", eca(RESNET50)),
    ("nf_ecaresnet101", eca(RESNET101)),
    ("nf_regnet_b0", regnet([1, 3, 6, 6], [48, 104, 208, 440], 192)),
    ("nf_regnet_b1", regnet([2, 4, 7, 7], [48, 104, 208, 440], 256)),
    ("nf_regnet_b2", regnet([2, 4, 8, 8], [56, 112, 232, 488], 240)),
    ("nf_regnet_b3", regnet([2, 5, 9, 9], [56, 128, 248, 528], 288)),
    ("nf_regnet_b4", regnet([2, 6, 11, 11], [64, 144, 288, 616], 320)),
    ("nf_regnet_b5", regnet([3, 7, 14, 14], [80, 168, 336, 704], 384)),
    ("nf_resnet26", RESNET26),
    ("nf_resnet50", Config { input_size: 256, ..RESNET50 }),
    ("nf_resnet101", RESNET101),
    ("nf_seresnet26", se(RESNET26)),
    ("nf_seresnet50", se(RESNET50)),
    ("nf_seresnet101", se(RESNET101)),
    ("nfnet_f0", f(0, 192)),
    ("nfnet_f1", f(1, 224)),
    ("nfnet_l0", features(2304, light(0, 224))),
];

configuration!(NormFreeNet, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        let regnet = self.kind == Kind::RegNet;
        Components {
            base_architecture: if regnet { "NAS (CNN)" } else { "CNN" },
            stem: match self.kind {
                Kind::ResNet => "7s2".into(),
                Kind::RegNet => "3s2".into(),
                Kind::NfNet => "3s2/3/3/3s2".into(),
            },
            normalization: "Norm-free",
            activation: match self.attention {
                Some(AttentionKind::SqueezeExcite(_)) => Components::activations([Activation::Relu, self.activation]),
                _ => Components::activations([self.activation]),
            },
            stem_pooling: self.kind == Kind::ResNet,
            channel_attention: match self.attention {
                None => "No",
                Some(AttentionKind::SqueezeExcite(_)) => "Yes (SE)",
                Some(AttentionKind::Efficient) => "Yes (ECA)",
            },
            channel_attention_location: match self.attention {
                None => "~",
                Some(_) if regnet => "Middle",
                Some(_) => "End",
            },
            grouped_convolution: self.group_size.is_some(),
            ..Components::CNN
        }
    }

    /// Channels as a RegNet scales them, in eights.
    fn scaled(&self, channels: usize) -> usize {
        let width = if self.kind == Kind::RegNet { 0.75 } else { 1.0 };
        make_divisible(channels as f64 * width, 8)
    }

    /// Channels within a block.
    fn middle(&self, inputs: usize, outputs: usize, first: bool) -> usize {
        let wanted = match self.kind {
            Kind::RegNet if first => inputs as f64,
            Kind::RegNet => inputs as f64 * self.bottleneck,
            _ => outputs as f64 * self.bottleneck,
        };
        let middle = make_divisible(wanted, 8);
        self.group_size.map_or(middle, |size| middle / size * size)
    }

    /// A convolution, by standardised weights, of `beta` times an activation.
    fn conv(&self, [inputs, outputs]: [usize; 2], kernel: usize, beta: f64) -> Conv2dConfig {
        self.scaled_conv([inputs, outputs], kernel, beta * variance_gain(self.activation))
    }

    /// A convolution, by standardised weights, of what no activation precedes.
    fn first_conv(&self, [inputs, outputs]: [usize; 2], kernel: usize) -> Conv2dConfig {
        let factor = if self.deepmind { 1.0 } else { variance_gain(self.activation) };
        self.scaled_conv([inputs, outputs], kernel, factor)
    }

    fn scaled_conv(&self, [inputs, outputs]: [usize; 2], kernel: usize, factor: f64) -> Conv2dConfig {
        let conv = Conv2d::config(inputs, outputs, kernel).bias().standardised_with_gain(EPSILON, factor);
        if self.deepmind { conv.padding(Padding::Same) } else { conv }
    }
}

/// Added to the variance of weights.
const EPSILON: f64 = 1e-5;
/// What a residual branch is multiplied by.
const ALPHA: f64 = 0.2;
/// What a result of attention is multiplied by, since its gates are one half on average.
const ATTENTION_GAIN: f64 = 2.0;

/// What an activation of normally distributed values is multiplied by to have their variance again.
fn variance_gain(activation: Activation) -> f64 {
    match activation {
        Activation::Gelu => 1.7015043497085571,
        Activation::Relu => 1.7139588594436646,
        Activation::Silu => 1.7881293296813965,
        other => panic!("no variance gain is known of {other:?}"),
    }
}

/// A network without normalisation. See [`Config`].
#[derive(Module, Debug)]
pub struct NormFreeNet {
    stem: Named<Conv2d>,
    stages: Vec<Vec<Block>>,
    final_conv: Option<Conv2d>,
    head: Head,
    #[module(skip)]
    activation: Activation,
    /// What the last activation is multiplied by.
    gain: f64,
    pool: bool,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

impl NormFreeNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let stem = stem(config);
        let mut inputs = stem.last().map_or(3, |(_, conv)| conv.outputs());
        // Of what the next block gets.
        let mut variance: f64 = 1.0;
        let mut stage = |index: usize| {
            let outputs = config.scaled(config.channels[index]);
            let stride = if index == 0 && config.kind != Kind::RegNet { 1 } else { 2 };
            (0..config.depths[index])
                .map(|position| {
                    let shape = BlockShape {
                        inputs,
                        middle: config.middle(inputs, outputs, index == 0 && position == 0),
                        outputs,
                        stride: if position == 0 { stride } else { 1 },
                        beta: variance.sqrt().recip(),
                    };
                    inputs = outputs;
                    // The shortcut of a stage's first block is as normal as its branch.
                    variance = if position == 0 { 1.0 } else { variance } + ALPHA * ALPHA;
                    Block::new(config, &shape, device)
                })
                .collect()
        };
        let stages = (0..4).map(&mut stage).collect();
        let features = config.features.map(|features| config.scaled(features));
        Self {
            stem: stem.into_iter().map(|(name, conv)| (name.to_owned(), conv.build(device))).collect(),
            stages,
            final_conv: features.map(|features| config.first_conv([inputs, features], 1).build(device)),
            head: Head { fc: Linear::new(features.unwrap_or(inputs), num_classes, device) },
            activation: config.activation,
            gain: if config.deepmind { variance_gain(config.activation) } else { 1.0 },
            pool: config.kind == Kind::ResNet,
        }
    }
}

impl Architecture for NormFreeNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = images;
        for (index, (name, conv)) in self.stem.iter().enumerate() {
            let y = if index == 0 { x } else { self.activation.forward(x) };
            x = taps.map(|| format!("stem.{name}"), conv.forward(y));
        }
        if self.pool {
            x = max_pool(x, 3, 2, 1);
        }
        for (index, blocks) in self.stages.iter().enumerate() {
            x = taps.stage(|| format!("stages.{index}"), blocks, x, |block, x| block.forward(x));
        }
        if let Some(conv) = &self.final_conv {
            x = taps.map(|| "final_conv".into(), conv.forward(x));
        }
        let pooled = global_average_pool(self.activation.forward(x)) * self.gain;
        let features = taps.map(|| "head.global_pool".into(), pooled);
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

/// The first convolutions with their names.
fn stem(config: &Config) -> Vec<(&'static str, Conv2dConfig)> {
    match config.kind {
        Kind::ResNet => vec![("conv", config.first_conv([3, 64], 7).stride(2))],
        Kind::RegNet => vec![("conv", config.first_conv([3, config.scaled(config.channels[0])], 3).stride(2))],
        Kind::NfNet => vec![
            ("conv1", config.first_conv([3, 16], 3).stride(2)),
            ("conv2", config.conv([16, 32], 3, 1.0)),
            ("conv3", config.conv([32, 64], 3, 1.0)),
            ("conv4", config.conv([64, 128], 3, 1.0).stride(2)),
        ],
    }
}

#[derive(Debug, Clone, Copy)]
struct BlockShape {
    inputs: usize,
    middle: usize,
    outputs: usize,
    stride: usize,
    /// What brings the inputs to variance 1.
    beta: f64,
}

/// shortcut + α·branch, where branch and changing shortcut begin at the activation of the inputs.
#[derive(Module, Debug)]
struct Block {
    downsample: Option<Downsample>,
    conv1: Conv2d,
    conv2: Conv2d,
    conv2b: Option<Conv2d>,
    attn: Option<Attention>,
    conv3: Conv2d,
    attn_last: Option<Attention>,
    /// `[1]`, a factor of the branch.
    skipinit_gain: Option<Param<Tensor<1>>>,
    #[module(skip)]
    activation: Activation,
}

impl Block {
    fn new(config: &Config, shape: &BlockShape, device: &Device) -> Self {
        let BlockShape { inputs, middle, outputs, stride, beta } = *shape;
        let groups = config.group_size.map_or(1, |size| middle / size);
        let (regnet, nfnet) = (config.kind == Kind::RegNet, config.kind == Kind::NfNet);
        let grouped = |stride: usize| config.conv([middle, middle], 3, 1.0).stride(stride).groups(groups).build(device);
        let attention = |channels: usize| Attention::new(config, channels, device);
        let attn_last = if regnet { None } else { attention(outputs) };
        let conv3 = config.conv([middle, outputs], 1, 1.0);
        let conv3 = if config.deepmind { conv3 } else { conv3.starting_at_zero() };
        // Attention multiplies its gates in place of this.
        let conv3 = if attn_last.is_some() { conv3 } else { conv3.multiplied(ALPHA) };
        Self {
            downsample: (inputs != outputs || stride != 1).then(|| Downsample {
                conv: config.conv([inputs, outputs], 1, beta).build(device),
                halves: stride == 2,
            }),
            conv1: config.conv([inputs, middle], 1, beta).build(device),
            conv2: grouped(stride),
            conv2b: nfnet.then(|| grouped(1)),
            attn: if regnet { attention(middle) } else { None },
            conv3: conv3.build(device),
            attn_last,
            skipinit_gain: config.deepmind.then(|| Initializer::Zeros.init([1], device)),
            activation: config.activation,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let then = || Then::activation(self.activation);
        let y = self.activation.forward(x.clone());
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(y.clone()),
            None => x,
        };
        let y = self.conv1.forward_then(y, then());
        let y = match &self.attn {
            Some(attention) => {
                let y = self.conv2.forward(y);
                self.activation.forward(gate(y.clone(), attention.gates(y) * ATTENTION_GAIN))
            }
            None => self.conv2.forward_then(y, then()),
        };
        let y = match &self.conv2b {
            Some(conv) => conv.forward_then(y, then()),
            None => y,
        };
        let Some(attention) = &self.attn_last else {
            return self.conv3.forward_then(y, Then::activation(Activation::Identity).residual(shortcut));
        };
        let y = self.conv3.forward(y);
        let gates = attention.gates(y.clone()) * (ATTENTION_GAIN * ALPHA);
        let gates = match &self.skipinit_gain {
            Some(gain) => gates * gain.val().unsqueeze(),
            None => gates,
        };
        add(gate(y, gates), shortcut, Activation::Identity)
    }
}

/// What brings a block's input to the shape of its output.
#[derive(Module, Debug)]
struct Downsample {
    conv: Conv2d,
    halves: bool,
}

impl Downsample {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(if self.halves { average_pool(x, 2, 2) } else { x })
    }
}

/// Attention over channels.
#[derive(Module, Debug)]
enum Attention {
    SqueezeExcite(SqueezeExcite),
    Efficient(EfficientChannelAttention),
}

impl Attention {
    /// Nothing for a network without it.
    fn new(config: &Config, channels: usize, device: &Device) -> Option<Self> {
        config.attention.map(|kind| match kind {
            AttentionKind::SqueezeExcite(part) => {
                let reduced = make_divisible_limited(channels as f64 * part, 8, 0.0);
                Self::SqueezeExcite(SqueezeExcite::new(channels, reduced, device))
            }
            AttentionKind::Efficient => Self::Efficient(EfficientChannelAttention::new(channels, device)),
        })
    }

    /// `[batch, channel, height, width]` → `[batch, channel]`.
    fn gates(&self, x: Tensor<4>) -> Tensor<2> {
        match self {
            Self::SqueezeExcite(attention) => attention.gates(x),
            Self::Efficient(attention) => attention.gates(x),
        }
    }
}
