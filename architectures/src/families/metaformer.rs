//! PoolFormer: the frame of a Transformer with pooling in the place of attention.
//!
//! Yu et al., *MetaFormer Is Actually What You Need for Vision* (arXiv 2111.11418); Yu et al., *MetaFormer Baselines for Vision*
//! (2210.13452), V2.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Conv2d, GroupNorm, LayerNorm, Linear, Padding, Then, average_pool_inside, global_average_pool,
};
use crate::taps::Taps;

/// Which PoolFormer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Blocks in each stage.
    pub depths: [usize; 4],
    /// Channels in each stage.
    pub channels: [usize; 4],
    /// The first value of the learnt scales on the residual branches.
    pub layer_scale: f64,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const S12: Config = Config {
    depths: [2, 2, 6, 2],
    channels: [64, 128, 320, 512],
    layer_scale: 1e-5,
    input_size: 224,
    num_classes: 1000,
};
const S36: Config = Config { depths: [6, 6, 18, 6], layer_scale: 1e-6, ..S12 };
const M36: Config = Config { channels: [96, 192, 384, 768], ..S36 };

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("poolformer_m36", M36),
    ("poolformer_m48", Config { depths: [8, 8, 24, 8], ..M36 }),
    ("poolformer_s12", S12),
    ("poolformer_s24", Config { depths: [4, 4, 12, 4], ..S12 }),
    ("poolformer_s36", S36),
];

configuration!(PoolFormer, InputRule::Any, convert);

const EPSILON: f64 = 1e-5;
/// Of the last normalisation.
const LAST_EPSILON: f64 = 1e-6;

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: "7s4".into(),
            normalization: "GN",
            activation: "GeLU".into(),
            stem_pooling: false,
            ..Components::CNN
        }
    }
}

/// The authors' files have the stages and what shrinks between them in one list.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    if checkpoint.contains("stem.conv.weight") {
        return;
    }
    checkpoint.rename(|name| {
        let parts: Vec<&str> = name.split('.').collect();
        let converted = match parts.as_slice() {
            ["network", stage, "proj", rest] => {
                format!("stages.{}.downsample.conv.{rest}", stage.parse::<usize>().unwrap_or(0).div_ceil(2))
            }
            ["network", stage, block, rest @ ..] => {
                let stage = stage.parse::<usize>().unwrap_or(0) / 2;
                format!("stages.{stage}.blocks.{block}.{}", rest.join("."))
            }
            ["patch_embed", "proj", rest] => format!("stem.conv.{rest}"),
            ["norm", rest] => format!("head.norm.{rest}"),
            ["head", rest] => format!("head.fc.{rest}"),
            _ => name.to_owned(),
        };
        match converted.rsplit_once(".layer_scale_") {
            Some((block, number)) => format!("{block}.layer_scale{number}.scale"),
            None => converted,
        }
    });
}

/// A PoolFormer. See [`Config`].
#[derive(Module, Debug)]
pub struct PoolFormer {
    stem: Shrink,
    stages: Vec<Stage>,
    head: Head,
}

/// A strided convolution.
#[derive(Module, Debug)]
struct Shrink {
    conv: Conv2d,
}

#[derive(Module, Debug)]
struct Head {
    norm: LayerNorm,
    fc: Linear,
}

impl PoolFormer {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let [first, .., last] = config.channels;
        let stem = Conv2d::config(3, first, 7).stride(4).padding(Padding::Symmetric(2)).bias();
        Self {
            stem: Shrink { conv: stem.build(device) },
            stages: (0..4).map(|index| Stage::new(config, index, device)).collect(),
            head: Head { norm: LayerNorm::new(last, LAST_EPSILON, device), fc: Linear::new(last, num_classes, device) },
        }
    }
}

impl Architecture for PoolFormer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = taps.map(|| "stem".into(), self.stem.conv.forward(images));
        for (index, stage) in self.stages.iter().enumerate() {
            if let Some(shrink) = &stage.downsample {
                x = shrink.conv.forward(x);
            }
            for (position, block) in stage.blocks.iter().enumerate() {
                x = taps.map(|| format!("stages.{index}.blocks.{position}"), block.forward(x));
            }
            x = taps.map(|| format!("stages.{index}"), x);
        }
        let features = taps.map(|| "head.norm".into(), self.head.norm.forward(global_average_pool(x)));
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

/// Blocks of one width; all stages but the first begin by halving the image.
#[derive(Module, Debug)]
struct Stage {
    downsample: Option<Shrink>,
    blocks: Vec<Block>,
}

impl Stage {
    fn new(config: &Config, index: usize, device: &Device) -> Self {
        let channels = config.channels[index];
        let shrink = || {
            let conv = Conv2d::config(config.channels[index - 1], channels, 3).stride(2);
            Shrink { conv: conv.padding(Padding::Symmetric(1)).bias().build(device) }
        };
        Self {
            downsample: (index > 0).then(shrink),
            blocks: (0..config.depths[index]).map(|_| Block::new(config, channels, device)).collect(),
        }
    }
}

/// Pooling less its input, then a perceptron, both residual, scaled and normalised at their beginning.
#[derive(Module, Debug)]
struct Block {
    norm1: GroupNorm,
    layer_scale1: Scale,
    norm2: GroupNorm,
    mlp: Mlp,
    layer_scale2: Scale,
}

#[derive(Module, Debug)]
struct Scale {
    /// `[channel]`.
    scale: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Conv2d,
    fc2: Conv2d,
}

impl Block {
    fn new(config: &Config, channels: usize, device: &Device) -> Self {
        let norm = || GroupNorm::new(1, channels, EPSILON, device);
        let scale = || Scale { scale: Initializer::Constant { value: config.layer_scale }.init([channels], device) };
        let pointwise = |inputs, outputs| Conv2d::config(inputs, outputs, 1).bias().build(device);
        Self {
            norm1: norm(),
            layer_scale1: scale(),
            norm2: norm(),
            mlp: Mlp { fc1: pointwise(channels, 4 * channels), fc2: pointwise(4 * channels, channels) },
            layer_scale2: scale(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.norm1.forward(x.clone());
        let pooled = average_pool_inside(y.clone(), 3) - y;
        let x = Then::scale(Some(&self.layer_scale1.scale)).residual(x).after(pooled);
        let y = self.mlp.fc1.forward_then(self.norm2.forward(x.clone()), Then::activation(Activation::Gelu));
        self.mlp.fc2.forward_then(y, Then::scale(Some(&self.layer_scale2.scale)).residual(x))
    }
}
