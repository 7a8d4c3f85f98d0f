//! PiT: Vision Transformers whose tokens are pooled between the stages.
//!
//! Heo et al., *Rethinking Spatial Dimensions of Vision Transformers* (arXiv 2103.16302).

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::initialised;
use crate::layers::{
    Conv2d, Dropout, LayerNorm, Linear, Padding, Regularisation, TransformerBlock, image_to_tokens,
    prepend_class_token, tokens_to_image,
};
use crate::taps::Taps;

/// Which PiT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pixels of a patch, both ways.
    pub patch_size: usize,
    /// Pixels from one patch to the next.
    pub stride: usize,
    /// Channels of a head.
    pub head_size: usize,
    /// Attention heads in each stage.
    pub heads: [usize; 3],
    /// Blocks in each stage.
    pub depths: [usize; 3],
    /// Whether there is a distillation token with a head of its own.
    pub distilled: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const SMALL: Config = Config {
    patch_size: 16,
    stride: 8,
    head_size: 48,
    heads: [3, 6, 12],
    depths: [2, 6, 4],
    distilled: false,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
const BASE: Config = Config { patch_size: 14, stride: 7, head_size: 64, heads: [4, 8, 16], depths: [3, 6, 4], ..SMALL };
const EXTRA_SMALL: Config = Config { heads: [2, 4, 8], ..SMALL };
const TINY: Config = Config { head_size: 32, ..EXTRA_SMALL };

const fn distilled(config: Config) -> Config {
    Config { distilled: true, ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("pit_b_224", BASE),
    ("pit_b_distilled_224", distilled(BASE)),
    ("pit_s_224", SMALL),
    ("pit_s_distilled_224", distilled(SMALL)),
    ("pit_ti_224", TINY),
    ("pit_ti_distilled_224", distilled(TINY)),
    ("pit_xs_224", EXTRA_SMALL),
    ("pit_xs_distilled_224", distilled(EXTRA_SMALL)),
];

configuration!(PoolingVisionTransformer, |config| InputRule::Retrained(config.stride), convert; regularisation);

impl Config {
    fn components(&self) -> Components {
        Components {
            hierarchical: true,
            stem: format!("{}s{}", self.patch_size, self.stride).into(),
            depthwise_convolution: true,
            ..Components::TRANSFORMER
        }
    }

    fn channels(&self, stage: usize) -> usize {
        self.head_size * self.heads[stage]
    }

    /// Rows and columns of patches.
    fn grid(&self) -> [usize; 2] {
        [(self.input_size - self.patch_size) / self.stride + 1; 2]
    }
}

/// The authors' files number the pools by themselves.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    checkpoint.rename(|name| match name.strip_prefix("pools.").and_then(|rest| rest.split_once('.')) {
        Some((number, rest)) => match number.parse::<usize>() {
            Ok(number) => format!("transformers.{}.pool.{rest}", number.saturating_add(1)),
            Err(_) => name.to_owned(),
        },
        None => name.to_owned(),
    });
}

/// A pooling Vision Transformer. See [`Config`].
#[derive(Module, Debug)]
pub struct PoolingVisionTransformer {
    patch_embed: Patches,
    /// `[1, channel, row, column]`.
    pos_embed: Param<Tensor<4>>,
    /// `[1, 1 or 2, channel]`.
    cls_token: Param<Tensor<3>>,
    transformers: Vec<Stage>,
    norm: LayerNorm,
    head: Linear,
    head_dist: Option<Linear>,
    #[module(skip)]
    dropout: Dropout,
}

/// Patches that overlap.
#[derive(Module, Debug)]
struct Patches {
    conv: Conv2d,
}

impl PoolingVisionTransformer {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let (first, last) = (config.channels(0), config.channels(2));
        let [rows, columns] = config.grid();
        let patches = Conv2d::config(3, first, config.patch_size).stride(config.stride).padding(Padding::Symmetric(0));
        let drawn = Initializer::Normal { mean: 0.0, std: 0.02 };
        let head = || Linear::new(last, num_classes, device);
        let network = Self {
            patch_embed: Patches { conv: patches.bias().build(device) },
            pos_embed: drawn.init([1, first, rows, columns], device),
            cls_token: drawn.init([1, if config.distilled { 2 } else { 1 }, first], device),
            transformers: (0..3).map(|index| Stage::new(config, index, device)).collect(),
            norm: LayerNorm::new(last, 1e-6, device),
            head: head(),
            head_dist: config.distilled.then(head),
            dropout: config.regularisation.dropout(),
        };
        initialised(network, |parameter| parameter.pytorch())
    }
}

impl Architecture for PoolingVisionTransformer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = taps.map(|| "patch_embed".into(), self.patch_embed.conv.forward(images));
        let mut x = x + self.pos_embed.val();
        let [batch, ..] = x.dims();
        let [_, count, channels] = self.cls_token.dims();
        let mut class = self.cls_token.val().expand([batch, count, channels]);
        for (index, stage) in self.transformers.iter().enumerate() {
            let name = |position| format!("transformers.{index}.blocks.{position}");
            (x, class) = stage.forward(x, class, |position, x| taps.map(|| name(position), x));
            (x, class) = taps.map_both(|| format!("transformers.{index}"), x, class);
        }
        let class = taps.map(|| "norm".into(), self.norm.forward(class));
        let token = |index| class.clone().narrow(1, index, 1).squeeze_dim::<2>(1);
        let features = token(0);
        let logits = self.head.forward(self.dropout.forward(features.clone()));
        match &self.head_dist {
            None => Outputs { logits, features },
            Some(head) => {
                let distillation = token(1);
                Outputs {
                    logits: (logits + head.forward(self.dropout.forward(distillation.clone()))) / 2.0,
                    features: (features + distillation) / 2.0,
                }
            }
        }
    }
}

/// Blocks of one width; all stages but the first begin by pooling.
#[derive(Module, Debug)]
struct Stage {
    pool: Option<Pool>,
    blocks: Vec<TransformerBlock>,
}

/// A strided depthwise convolution for the patches, and a linear map that widens the class tokens as much.
#[derive(Module, Debug)]
struct Pool {
    conv: Conv2d,
    fc: Linear,
}

impl Stage {
    fn new(config: &Config, index: usize, device: &Device) -> Self {
        let channels = config.channels(index);
        let pool = || {
            let inputs = config.channels(index - 1);
            let conv = Conv2d::config(inputs, channels, 3).stride(2).padding(Padding::Symmetric(1));
            Pool { conv: conv.groups(inputs).bias().build(device), fc: Linear::new(inputs, channels, device) }
        };
        let block = |position| {
            let block = TransformerBlock::new(channels, config.heads[index], 4 * channels, None, device);
            block.stochastic(config.regularisation.growing(&config.depths, index, position))
        };
        Self { pool: (index > 0).then(pool), blocks: (0..config.depths[index]).map(block).collect() }
    }

    /// Of the patches as an image and the class tokens; `show` gets every block's result with its position.
    fn forward(
        &self,
        x: Tensor<4>,
        class: Tensor<3>,
        mut show: impl FnMut(usize, Tensor<3>) -> Tensor<3>,
    ) -> (Tensor<4>, Tensor<3>) {
        let (x, class) = match &self.pool {
            Some(Pool { conv, fc }) => (conv.forward(x), fc.forward(class)),
            None => (x, class),
        };
        let ([_, _, height, width], [_, count, _]) = (x.dims(), class.dims());
        let mut x = prepend_class_token(class, image_to_tokens(x));
        for (position, block) in self.blocks.iter().enumerate() {
            x = show(position, block.forward(x));
        }
        let class = x.clone().narrow(1, 0, count);
        (tokens_to_image(x.narrow(1, count, height * width), [height, width]), class)
    }
}
