//! VoVNet: blocks that aggregate the results of all their convolutions at once, with effective squeeze-and-excitation.
//!
//! Lee et al., *An Energy and GPU-Computation Efficient Backbone Network* (arXiv 1904.09730); Lee & Park, *CenterMask*
//! (1911.06667), the b variants.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, ConvNorm, EffectiveSqueezeExcite, EfficientChannelAttention, Linear, Then, add,
    global_average_pool, max_pool_ceil,
};
use crate::taps::Taps;

/// Which VoVNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels behind each convolution of the stem.
    pub stem: [usize; 3],
    /// Channels of each convolution within a block, by stage.
    pub middle: [usize; 4],
    /// Channels of each stage.
    pub outputs: [usize; 4],
    /// Blocks in each stage.
    pub blocks: [usize; 4],
    /// Convolutions in each block.
    pub layers: usize,
    /// Whether the convolutions are depthwise ones with 1×1 ones behind them.
    pub separable: bool,
    /// Whether blocks have a shortcut where the shape stays.
    pub residual: bool,
    /// What weighs the channels at the end of each stage.
    pub attention: Option<AttentionKind>,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// Attention over the channels.
#[derive(Debug, Clone, Copy)]
pub enum AttentionKind {
    /// Effective squeeze-and-excitation.
    Ese,
    /// Efficient channel attention.
    Eca,
}

const B39: Config = Config {
    stem: [64, 64, 128],
    middle: [128, 160, 192, 224],
    outputs: [256, 512, 768, 1024],
    blocks: [1, 1, 2, 2],
    layers: 5,
    separable: false,
    residual: true,
    attention: Some(AttentionKind::Ese),
    input_size: 224,
    num_classes: 1000,
};
const B57: Config = Config { blocks: [1, 1, 4, 3], ..B39 };
const B19: Config = Config { blocks: [1, 1, 1, 1], layers: 3, ..B39 };
const B19_SLIM: Config = Config { middle: [64, 80, 96, 112], outputs: [112, 256, 384, 512], ..B19 };

const fn a(config: Config) -> Config {
    Config { residual: false, attention: None, ..config }
}
const fn separable(config: Config) -> Config {
    Config { stem: [64, 64, 64], separable: true, ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("eca_vovnet39b", Config { attention: Some(AttentionKind::Eca), ..B39 }),
    ("ese_vovnet19b_dw", separable(B19)),
    ("ese_vovnet19b_slim", B19_SLIM),
    ("ese_vovnet19b_slim_dw", separable(B19_SLIM)),
    ("ese_vovnet39b", B39),
    ("ese_vovnet57b", Config { input_size: 256, ..B57 }),
    ("ese_vovnet99b", Config { blocks: [1, 3, 9, 3], ..B39 }),
    ("vovnet39a", a(B39)),
    ("vovnet57a", a(B57)),
];

configuration!(VovNet, InputRule::Any);

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: "3s2/3/3s2".into(),
            stem_pooling: false,
            channel_attention: match self.attention {
                Some(AttentionKind::Ese) => "Yes (ESE)",
                Some(AttentionKind::Eca) => "Yes (ECA)",
                None => "No",
            },
            channel_attention_location: if self.attention.is_some() { "End" } else { "~" },
            depthwise_convolution: self.separable,
            ..Components::CNN
        }
    }
}

/// A VoVNet. See [`Config`].
#[derive(Module, Debug)]
pub struct VovNet {
    stem: Vec<Layer>,
    stages: Vec<Stage>,
    head: Head,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

impl VovNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let [first, second, third] = config.stem;
        let mut inputs = third;
        let stage = |index| {
            let stage = Stage::new(config, index, inputs, device);
            inputs = config.outputs[index];
            stage
        };
        Self {
            stem: vec![
                Layer::Plain(ConvNorm::new(Conv2d::config(3, first, 3).stride(2), Activation::Relu, device)),
                Layer::new(config, first, second, 1, device),
                Layer::new(config, second, third, 2, device),
            ],
            stages: (0..4).map(stage).collect(),
            head: Head { fc: Linear::new(config.outputs[3], num_classes, device) },
        }
    }
}

impl Architecture for VovNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = images;
        for (index, layer) in self.stem.iter().enumerate() {
            x = taps.map(|| format!("stem.{index}"), layer.forward(x));
        }
        for (index, stage) in self.stages.iter().enumerate() {
            if index > 0 {
                x = max_pool_ceil(x, 3, 2);
            }
            x = taps.stage(|| format!("stages.{index}.blocks"), &stage.blocks, x, |block, x| block.forward(x));
            x = taps.map(|| format!("stages.{index}"), x);
        }
        let features = taps.map(|| "head.global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

/// Blocks of one width; all stages but the first begin by halving the image.
#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Block>,
}

impl Stage {
    fn new(config: &Config, index: usize, inputs: usize, device: &Device) -> Self {
        let blocks = config.blocks[index];
        let block = |position| {
            let inputs = if position == 0 { inputs } else { config.outputs[index] };
            Block::new(config, index, inputs, config.residual && position > 0, position == blocks - 1, device)
        };
        Self { blocks: (0..blocks).map(block).collect() }
    }
}

/// A 3×3 convolution, or a depthwise one with a 1×1 one behind it, and a normalisation.
#[derive(Module, Debug)]
enum Layer {
    Plain(ConvNorm),
    Separable(SeparableConv),
}

#[derive(Module, Debug)]
struct SeparableConv {
    conv_dw: Conv2d,
    conv_pw: Conv2d,
    bn: BatchNorm2d,
}

impl Layer {
    fn new(config: &Config, inputs: usize, outputs: usize, stride: usize, device: &Device) -> Self {
        if config.separable {
            Self::Separable(SeparableConv {
                conv_dw: Conv2d::config(inputs, inputs, 3).groups(inputs).stride(stride).build(device),
                conv_pw: Conv2d::config(inputs, outputs, 1).build(device),
                bn: BatchNorm2d::new(outputs, device),
            })
        } else {
            let conv = Conv2d::config(inputs, outputs, 3).stride(stride);
            Self::Plain(ConvNorm::new(conv, Activation::Relu, device))
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Plain(conv) => conv.forward(x),
            Self::Separable(SeparableConv { conv_dw, conv_pw, bn }) => {
                conv_pw.forward_then(conv_dw.forward(x), Then::norm(bn, Activation::Relu))
            }
        }
    }
}

/// Convolutions one behind the other, whose results a 1×1 convolution aggregates (one-shot aggregation).
#[derive(Module, Debug)]
struct Block {
    conv_reduction: Option<ConvNorm>,
    conv_mid: Vec<Layer>,
    conv_concat: ConvNorm,
    attn: Option<Attention>,
    residual: bool,
}

impl Block {
    fn new(config: &Config, stage: usize, inputs: usize, residual: bool, last: bool, device: &Device) -> Self {
        let (middle, outputs) = (config.middle[stage], config.outputs[stage]);
        let pointwise = |inputs, outputs| ConvNorm::new(Conv2d::config(inputs, outputs, 1), Activation::Relu, device);
        let reduces = config.separable && inputs != middle;
        let layer = |index| {
            let inputs = if index == 0 && !config.separable { inputs } else { middle };
            Layer::new(config, inputs, middle, 1, device)
        };
        Self {
            conv_reduction: reduces.then(|| pointwise(inputs, middle)),
            conv_mid: (0..config.layers).map(layer).collect(),
            conv_concat: pointwise(inputs + config.layers * middle, outputs),
            attn: config.attention.filter(|_| last).map(|kind| Attention::new(kind, outputs, device)),
            residual,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut results = vec![x.clone()];
        let mut y = match &self.conv_reduction {
            Some(conv) => conv.forward(x.clone()),
            None => x.clone(),
        };
        for layer in &self.conv_mid {
            y = layer.forward(y);
            results.push(y.clone());
        }
        let mut y = self.conv_concat.forward(Tensor::cat(results, 1));
        if let Some(attention) = &self.attn {
            y = attention.forward(y);
        }
        if self.residual { add(y, x, Activation::Identity) } else { y }
    }
}

/// Attention over the channels of either kind.
#[derive(Module, Debug)]
enum Attention {
    Ese(EffectiveSqueezeExcite),
    Eca(EfficientChannelAttention),
}

impl Attention {
    fn new(kind: AttentionKind, channels: usize, device: &Device) -> Self {
        match kind {
            AttentionKind::Ese => Self::Ese(EffectiveSqueezeExcite::new(channels, device)),
            AttentionKind::Eca => Self::Eca(EfficientChannelAttention::new(channels, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Ese(attention) => attention.forward(x),
            Self::Eca(attention) => attention.forward(x),
        }
    }
}
