//! MetaFormers: the frame of a Transformer with pooling (PoolFormer), separable convolution (ConvFormer) or attention in the
//! last stages (CAFormer) in the place of attention.
//!
//! Yu et al., *MetaFormer Is Actually What You Need for Vision* (arXiv 2111.11418), PoolFormer; Yu et al., *MetaFormer Baselines
//! for Vision* (2210.13452), the others.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::initialised;
use crate::layers::{
    Activation, Attention, Conv2d, Conv2dConfig, Dropout, GroupNorm, LayerNorm, LayerNorm2d, Linear, Padding,
    Regularisation, StochasticDepth, Then, average_pool_less_middle, global_average_pool, image_to_tokens,
    scale_and_shift, tokens_to_image,
};
use crate::taps::Taps;

/// Which MetaFormer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Blocks in each stage.
    pub depths: [usize; 4],
    /// Channels in each stage.
    pub channels: [usize; 4],
    /// What mixes the places in each stage.
    pub mixers: [MixerKind; 4],
    /// The first value of the learnt scales on the residual branches of the first paper's networks. Those of the second paper
    /// scale the shortcuts of the last two stages instead, have StarReLU, no biases, and a normalisation wherever the image shrinks.
    pub layer_scale: Option<f64>,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// What mixes the places of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MixerKind {
    /// The mean of the neighbourhood less the place itself.
    Pool,
    /// A depthwise convolution between two of 1×1.
    Separable,
    /// Multi-head self-attention.
    Attention,
}

const S12: Config = Config {
    depths: [2, 2, 6, 2],
    channels: [64, 128, 320, 512],
    mixers: [MixerKind::Pool; 4],
    layer_scale: Some(1e-5),
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
const S24: Config = Config { depths: [4, 4, 12, 4], ..S12 };
const S36: Config = Config { depths: [6, 6, 18, 6], layer_scale: Some(1e-6), ..S12 };
const M36: Config = Config { channels: [96, 192, 384, 768], ..S36 };
const M48: Config = Config { depths: [8, 8, 24, 8], ..M36 };

const fn v2(config: Config) -> Config {
    Config { layer_scale: None, ..config }
}
const fn convformer(depths: [usize; 4], channels: [usize; 4]) -> Config {
    Config { depths, channels, mixers: [MixerKind::Separable; 4], ..v2(S12) }
}
const fn caformer(depths: [usize; 4], channels: [usize; 4]) -> Config {
    use MixerKind::{Attention, Separable};
    Config { mixers: [Separable, Separable, Attention, Attention], ..convformer(depths, channels) }
}

const DEPTHS_18: [usize; 4] = [3, 3, 9, 3];
const DEPTHS_36: [usize; 4] = [3, 12, 18, 3];
const SMALL: [usize; 4] = [64, 128, 320, 512];
const MEDIUM: [usize; 4] = [96, 192, 384, 576];
const BASE: [usize; 4] = [128, 256, 512, 768];

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("caformer_b36", caformer(DEPTHS_36, BASE)),
    ("caformer_m36", caformer(DEPTHS_36, MEDIUM)),
    ("caformer_s18", caformer(DEPTHS_18, SMALL)),
    ("caformer_s36", caformer(DEPTHS_36, SMALL)),
    ("convformer_b36", convformer(DEPTHS_36, BASE)),
    ("convformer_m36", convformer(DEPTHS_36, MEDIUM)),
    ("convformer_s18", convformer(DEPTHS_18, SMALL)),
    ("convformer_s36", convformer(DEPTHS_36, SMALL)),
    ("poolformer_m36", M36),
    ("poolformer_m48", M48),
    ("poolformer_s12", S12),
    ("poolformer_s24", S24),
    ("poolformer_s36", S36),
    ("poolformerv2_m36", v2(M36)),
    ("poolformerv2_m48", v2(M48)),
    ("poolformerv2_s12", v2(S12)),
    ("poolformerv2_s24", v2(S24)),
    ("poolformerv2_s36", v2(S36)),
];

configuration!(MetaFormer, InputRule::Any, convert; regularisation);

/// Of all normalisations, but those of the first paper's blocks.
const EPSILON: f64 = 1e-6;
const FIRST_EPSILON: f64 = 1e-5;
/// Channels of an attention head.
const HEAD_SIZE: usize = 32;
/// Hidden channels of a perceptron, as a multiple of a place's.
const MLP_RATIO: usize = 4;

impl Config {
    fn components(&self) -> Components {
        let pools = self.mixers[0] == MixerKind::Pool;
        let attends = self.mixers[3] == MixerKind::Attention;
        Components {
            base_architecture: if attends { "Hybrid" } else { "CNN" },
            stem: "7s4".into(),
            normalization: match (pools, self.first()) {
                (true, true) => "GN",
                (true, false) => "LN + GN",
                (false, _) => "LN",
            },
            activation: if self.first() { "GeLU" } else { "StarReLU" }.into(),
            stem_pooling: false,
            depthwise_convolution: !pools,
            ..Components::CNN
        }
    }

    /// Whether it is one of the first paper's.
    fn first(&self) -> bool {
        self.layer_scale.is_some()
    }
}

/// The authors' files have other names for what shrinks the image, and the perceptrons' weights as linear maps; those of the
/// first paper have the stages and what shrinks between them in one list.
fn convert(config: &Config, checkpoint: &mut Checkpoint) {
    if checkpoint.contains("stem.conv.weight") {
        return;
    }
    checkpoint.rename(|name| {
        let parts: Vec<&str> = name.split('.').collect();
        let number = |text: &str| text.parse::<usize>().unwrap_or(0);
        let shrink = |stage: usize, part: &str, last: &str| {
            let part = match part {
                "proj" => "conv",
                "pre_norm" | "post_norm" => "norm",
                part => part,
            };
            if stage == 0 { format!("stem.{part}.{last}") } else { format!("stages.{stage}.downsample.{part}.{last}") }
        };
        match parts.as_slice() {
            ["patch_embed", part, last] => shrink(0, part, last),
            ["downsample_layers", stage, part, last] => shrink(number(stage), part, last),
            ["network", place, "proj", last] => shrink(number(place).div_ceil(2), "proj", last),
            ["network", place, block, rest @ ..] => {
                let rest = rest.join(".");
                let rest = match rest.strip_prefix("layer_scale_") {
                    Some(number) => format!("layer_scale{number}.scale"),
                    None => rest,
                };
                format!("stages.{}.blocks.{block}.{rest}", number(place) / 2)
            }
            ["stages", stage, block, rest @ ..] => format!("stages.{stage}.blocks.{block}.{}", rest.join(".")),
            ["norm", last] => format!("head.norm.{last}"),
            ["head", rest @ ..] => format!("head.fc.{}", rest.join(".")),
            _ => name.to_owned(),
        }
    });
    for stage in (0..4).filter(|&stage| config.mixers[stage] != MixerKind::Attention) {
        let start = format!("stages.{stage}.blocks.");
        let inside = |name: &&str| name.starts_with(&start) && name.ends_with(".weight");
        let linear: Vec<String> = checkpoint.names().filter(inside).map(str::to_owned).collect();
        for name in linear {
            if let Some(&[outputs, inputs]) = checkpoint.shape(&name) {
                checkpoint.reshape(&name, &[outputs, inputs, 1, 1]);
            }
        }
    }
}

/// A MetaFormer. See [`Config`].
#[derive(Module, Debug)]
pub struct MetaFormer {
    stem: Shrink,
    stages: Vec<Stage>,
    head: Head,
    #[module(skip)]
    dropout: Dropout,
}

#[derive(Module, Debug)]
struct Head {
    norm: LayerNorm,
    fc: Classifier,
}

impl MetaFormer {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let [first, .., last] = config.channels;
        let stem = Conv2d::config(3, first, 7).stride(4).padding(Padding::Symmetric(2));
        let network = Self {
            stem: Shrink::new(config, stem, first, device),
            stages: (0..4).map(|index| Stage::new(config, index, device)).collect(),
            head: Head {
                norm: LayerNorm::new(last, EPSILON, device),
                fc: Classifier::new(config, last, num_classes, device),
            },
            dropout: config.regularisation.dropout(),
        };
        initialised(network, |parameter| parameter.normal(0.02))
    }
}

impl Architecture for MetaFormer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = taps.map(|| "stem".into(), self.stem.normalised(self.stem.conv.forward(images)));
        for (index, stage) in self.stages.iter().enumerate() {
            if let Some(shrink) = &stage.downsample {
                x = shrink.conv.forward(shrink.normalised(x));
            }
            let [_, _, height, width] = x.dims();
            if stage.attends {
                x = image_to_tokens(x).unsqueeze_dim(1);
            }
            for (position, block) in stage.blocks.iter().enumerate() {
                let name = || format!("stages.{index}.blocks.{position}");
                x = block.forward(x);
                x = if stage.attends {
                    taps.map(name, x.squeeze_dim::<3>(1)).unsqueeze_dim(1)
                } else {
                    taps.map(name, x)
                };
            }
            if stage.attends {
                x = tokens_to_image(x.squeeze_dim(1), [height, width]);
            }
            x = taps.map(|| format!("stages.{index}"), x);
        }
        let features = taps.map(|| "head.norm".into(), self.head.norm.forward(global_average_pool(x)));
        Outputs { logits: self.head.fc.forward(self.dropout.forward(features.clone())), features }
    }
}

/// A strided convolution, and a normalisation: behind the stem's, before the others.
#[derive(Module, Debug)]
struct Shrink {
    norm: Option<LayerNorm2d>,
    conv: Conv2d,
}

impl Shrink {
    fn new(config: &Config, conv: Conv2dConfig, normalised: usize, device: &Device) -> Self {
        Self {
            norm: (!config.first()).then(|| LayerNorm2d::without_bias(normalised, EPSILON, device)),
            conv: conv.bias().build(device),
        }
    }

    fn normalised(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }
}

/// Blocks of one width; all stages but the first begin by halving the image.
#[derive(Module, Debug)]
struct Stage {
    downsample: Option<Shrink>,
    blocks: Vec<Block>,
    attends: bool,
}

impl Stage {
    fn new(config: &Config, index: usize, device: &Device) -> Self {
        let downsample = index.checked_sub(1).map(|before| {
            let inputs = config.channels[before];
            let conv = Conv2d::config(inputs, config.channels[index], 3).stride(2).padding(Padding::Symmetric(1));
            Shrink::new(config, conv, inputs, device)
        });
        Self {
            downsample,
            blocks: (0..config.depths[index]).map(|position| Block::new(config, index, position, device)).collect(),
            attends: config.mixers[index] == MixerKind::Attention,
        }
    }
}

/// A mixer of places, then a perceptron, both residual and normalised at their beginning: over
/// `[batch, channel, height, width]`, or over `[batch, 1, token, channel]` if the mixer is attention.
#[derive(Module, Debug)]
struct Block {
    norm1: Norm,
    token_mixer: Mixer,
    layer_scale1: Option<Scale>,
    res_scale1: Option<Scale>,
    norm2: Norm,
    mlp: Mlp,
    layer_scale2: Option<Scale>,
    res_scale2: Option<Scale>,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Block {
    fn new(config: &Config, stage: usize, position: usize, device: &Device) -> Self {
        let (channels, kind) = (config.channels[stage], config.mixers[stage]);
        let axis = if kind == MixerKind::Attention { 3 } else { 1 };
        let norm = || match (kind, config.first()) {
            (MixerKind::Pool, true) => Norm::Group(GroupNorm::new(1, channels, FIRST_EPSILON, device)),
            (MixerKind::Pool, false) => Norm::Group(GroupNorm::without_bias(1, channels, EPSILON, device)),
            (MixerKind::Separable, _) => Norm::Image(LayerNorm2d::without_bias(channels, EPSILON, device)),
            (MixerKind::Attention, _) => Norm::Tokens(LayerNorm::without_bias(channels, EPSILON, device)),
        };
        let layer_scale = || config.layer_scale.map(|value| Scale::new(channels, axis, value, device));
        let res_scale = || (!config.first() && stage >= 2).then(|| Scale::new(channels, axis, 1.0, device));
        Self {
            norm1: norm(),
            token_mixer: Mixer::new(kind, channels, device),
            layer_scale1: layer_scale(),
            res_scale1: res_scale(),
            norm2: norm(),
            mlp: Mlp::new(config, channels, axis, device),
            layer_scale2: layer_scale(),
            res_scale2: res_scale(),
            drop_path: config.regularisation.growing(&config.depths, stage, position),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.norm1.forward(x.clone());
        let shortcut = Scale::apply(&self.res_scale1, x);
        let x = self.drop_path.residual(shortcut, |shortcut| {
            self.token_mixer.forward_residual(y, Scale::values(&self.layer_scale1), shortcut)
        });
        let y = self.norm2.forward(x.clone());
        let shortcut = Scale::apply(&self.res_scale2, x);
        self.drop_path
            .residual(shortcut, |shortcut| self.mlp.forward_residual(y, Scale::values(&self.layer_scale2), shortcut))
    }
}

/// Normalisation of an image as a whole, of each of its places, or of tokens.
#[derive(Module, Debug)]
enum Norm {
    Group(GroupNorm),
    Image(LayerNorm2d),
    Tokens(LayerNorm),
}

impl Norm {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Group(norm) => norm.forward(x),
            Self::Image(norm) => norm.forward(x),
            Self::Tokens(norm) => norm.forward(x),
        }
    }
}

/// One factor per channel.
#[derive(Module, Debug)]
struct Scale {
    /// `[channel]`.
    scale: Param<Tensor<1>>,
    axis: usize,
}

impl Scale {
    fn new(channels: usize, axis: usize, value: f64, device: &Device) -> Self {
        Self { scale: Initializer::Constant { value }.init([channels], device), axis }
    }

    fn values(scale: &Option<Self>) -> Option<&Param<Tensor<1>>> {
        scale.as_ref().map(|scale| &scale.scale)
    }

    fn apply(scale: &Option<Self>, x: Tensor<4>) -> Tensor<4> {
        match scale {
            Some(Self { scale, axis }) => scale_and_shift(x, *axis, scale.val(), None),
            None => x,
        }
    }
}

/// See [`MixerKind`].
#[derive(Module, Debug)]
enum Mixer {
    Pool(Pool),
    Separable(SeparableConv),
    Attention(Attention),
}

#[derive(Module, Debug)]
struct Pool;

#[derive(Module, Debug)]
struct SeparableConv {
    pwconv1: Conv2d,
    act1: StarRelu,
    dwconv: Conv2d,
    pwconv2: Conv2d,
}

impl Mixer {
    fn new(kind: MixerKind, channels: usize, device: &Device) -> Self {
        match kind {
            MixerKind::Pool => Self::Pool(Pool),
            MixerKind::Separable => {
                let width = 2 * channels;
                Self::Separable(SeparableConv {
                    pwconv1: Conv2d::config(channels, width, 1).build(device),
                    act1: StarRelu::new(1, device),
                    dwconv: Conv2d::config(width, width, 7).groups(width).build(device),
                    pwconv2: Conv2d::config(width, channels, 1).build(device),
                })
            }
            MixerKind::Attention => {
                Self::Attention(Attention::without_any_bias(channels, channels / HEAD_SIZE, device))
            }
        }
    }

    /// shortcut + scale·mixer(x), the scale `[channel]`, if there is one.
    fn forward_residual(&self, x: Tensor<4>, scale: Option<&Param<Tensor<1>>>, shortcut: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Pool(_) => Then::scale(scale).residual(shortcut).after(average_pool_less_middle(x, 3)),
            Self::Separable(SeparableConv { pwconv1, act1, dwconv, pwconv2 }) => {
                let x = act1.forward(pwconv1.forward_then(x, Then::activation(Activation::SquaredRelu)));
                pwconv2.forward_then(dwconv.forward(x), Then::scale(scale).residual(shortcut))
            }
            Self::Attention(attention) => {
                attention.forward_residual(x.squeeze_dim(1), scale, shortcut.squeeze_dim(1)).unsqueeze_dim(1)
            }
        }
    }
}

/// scale·max(x, 0)² + bias, of which the square is computed by what is before it.
#[derive(Module, Debug)]
struct StarRelu {
    /// `[1]`.
    scale: Param<Tensor<1>>,
    /// `[1]`.
    bias: Param<Tensor<1>>,
    axis: usize,
}

impl StarRelu {
    fn new(axis: usize, device: &Device) -> Self {
        Self { scale: Initializer::Ones.init([1], device), bias: Initializer::Zeros.init([1], device), axis }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let channels = x.dims()[self.axis];
        let [scale, bias] = [&self.scale, &self.bias].map(|value| value.val().repeat_dim(0, channels));
        scale_and_shift(x, self.axis, scale, Some(bias))
    }
}

/// Two linear maps of the channels at every place with an activation between them.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Map,
    /// Without: GELU.
    act: Option<StarRelu>,
    fc2: Map,
}

/// A linear map of the channels, kept as a 1×1 convolution or not.
#[derive(Module, Debug)]
enum Map {
    Image(Conv2d),
    Tokens(Linear),
}

impl Mlp {
    fn new(config: &Config, channels: usize, axis: usize, device: &Device) -> Self {
        let map = |inputs, outputs| {
            let conv = Conv2d::config(inputs, outputs, 1);
            match (axis, config.first()) {
                (1, true) => Map::Image(conv.bias().build(device)),
                (1, false) => Map::Image(conv.build(device)),
                _ => Map::Tokens(Linear::without_bias(inputs, outputs, device)),
            }
        };
        Self {
            fc1: map(channels, MLP_RATIO * channels),
            act: (!config.first()).then(|| StarRelu::new(axis, device)),
            fc2: map(MLP_RATIO * channels, channels),
        }
    }

    /// shortcut + scale·perceptron(x), the scale `[channel]`, if there is one.
    fn forward_residual(&self, x: Tensor<4>, scale: Option<&Param<Tensor<1>>>, shortcut: Tensor<4>) -> Tensor<4> {
        let activation = if self.act.is_some() { Activation::SquaredRelu } else { Activation::Gelu };
        let x = match &self.fc1 {
            Map::Image(conv) => conv.forward_then(x, Then::activation(activation)),
            Map::Tokens(linear) => linear.forward_activated(x, activation),
        };
        let x = match &self.act {
            Some(act) => act.forward(x),
            None => x,
        };
        match &self.fc2 {
            Map::Image(conv) => conv.forward_then(x, Then::scale(scale).residual(shortcut)),
            Map::Tokens(linear) => linear.forward_residual(x, scale, shortcut),
        }
    }
}

/// The last layer, or a perceptron in its place.
#[derive(Module, Debug)]
enum Classifier {
    Linear(Linear),
    Mlp(ClassifierMlp),
}

#[derive(Module, Debug)]
struct ClassifierMlp {
    fc1: Linear,
    norm: LayerNorm,
    fc2: Linear,
}

impl Classifier {
    fn new(config: &Config, channels: usize, num_classes: usize, device: &Device) -> Self {
        if config.mixers[0] == MixerKind::Pool {
            return Self::Linear(Linear::new(channels, num_classes, device));
        }
        let hidden = MLP_RATIO * channels;
        Self::Mlp(ClassifierMlp {
            fc1: Linear::new(channels, hidden, device),
            norm: LayerNorm::new(hidden, EPSILON, device),
            fc2: Linear::new(hidden, num_classes, device),
        })
    }

    fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Linear(linear) => linear.forward(features),
            Self::Mlp(ClassifierMlp { fc1, norm, fc2 }) => {
                fc2.forward(norm.forward(fc1.forward_activated(features, Activation::SquaredRelu)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::checkpoint::converted;
    use crate::find;

    // Both lists are what timm's checkpoint_filter_fn makes of these names.
    #[test]
    fn files_of_the_first_paper_are_converted() {
        let file: &[(&str, &[usize])] = &[
            ("patch_embed.proj.weight", &[64, 3, 7, 7]),
            ("network.0.1.layer_scale_2", &[64]),
            ("network.1.proj.bias", &[128]),
            ("network.4.5.mlp.fc1.weight", &[1280, 320, 1, 1]),
            ("network.5.proj.weight", &[512, 320, 3, 3]),
            ("network.6.0.norm1.weight", &[512]),
            ("norm.bias", &[512]),
            ("head.weight", &[1000, 512]),
        ];
        let expected = [
            "head.fc.weight [1000, 512]",
            "head.norm.bias [512]",
            "stages.0.blocks.1.layer_scale2.scale [64]",
            "stages.1.downsample.conv.bias [128]",
            "stages.2.blocks.5.mlp.fc1.weight [1280, 320, 1, 1]",
            "stages.3.blocks.0.norm1.weight [512]",
            "stages.3.downsample.conv.weight [512, 320, 3, 3]",
            "stem.conv.weight [64, 3, 7, 7]",
        ];
        assert_eq!(converted(find("poolformer_s12").unwrap().config, file), expected);
    }

    #[test]
    fn files_of_the_second_paper_are_converted() {
        let file: &[(&str, &[usize])] = &[
            ("downsample_layers.0.conv.weight", &[64, 3, 7, 7]),
            ("downsample_layers.0.post_norm.weight", &[64]),
            ("downsample_layers.3.pre_norm.weight", &[320]),
            ("stages.1.11.token_mixer.pwconv1.weight", &[256, 128]),
            ("stages.1.11.token_mixer.act1.scale", &[1]),
            ("stages.2.0.mlp.fc1.weight", &[1280, 320]),
            ("stages.2.0.token_mixer.qkv.weight", &[960, 320]),
            ("norm.weight", &[512]),
            ("head.fc2.weight", &[1000, 2048]),
        ];
        let expected = [
            "head.fc.fc2.weight [1000, 2048]",
            "head.norm.weight [512]",
            "stages.1.blocks.11.token_mixer.act1.scale [1]",
            "stages.1.blocks.11.token_mixer.pwconv1.weight [256, 128, 1, 1]",
            "stages.2.blocks.0.mlp.fc1.weight [1280, 320]",
            "stages.2.blocks.0.token_mixer.qkv.weight [960, 320]",
            "stages.3.downsample.norm.weight [320]",
            "stem.conv.weight [64, 3, 7, 7]",
            "stem.norm.weight [64]",
        ];
        assert_eq!(converted(find("caformer_s36").unwrap().config, file), expected);
    }
}
