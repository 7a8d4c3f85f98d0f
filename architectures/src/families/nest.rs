//! NesT: Transformers within blocks of an image, whose results are aggregated to fewer blocks.
//!
//! Zhang et al., *Nested Hierarchical Transformer: Towards Accurate, Data-Efficient and Interpretable Visual Understanding*
//! (arXiv 2105.12723). The names in `_jx` pad as the authors' JAX does.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::initialised;
use crate::layers::{
    Activation, Conv2d, Dropout, LayerNorm, LayerNorm2d, Linear, Mlp, Padding, Regularisation, StochasticDepth,
    Windows, global_average_pool, image_to_tokens, max_pool, max_pool_ceil, self_attention, tokens_to_image,
    transposed,
};
use crate::taps::Taps;

/// Which NesT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels in each level.
    pub embed_dims: [usize; 3],
    /// Attention heads in each level.
    pub heads: [usize; 3],
    /// Layers in each level.
    pub depths: [usize; 3],
    /// Whether pooling pads below and to the right only.
    pub jax: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const BASE: Config = Config {
    embed_dims: [128, 256, 512],
    heads: [4, 8, 16],
    depths: [2, 2, 20],
    jax: false,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
const SMALL: Config = Config { embed_dims: [96, 192, 384], heads: [3, 6, 12], ..BASE };
const TINY: Config = Config { depths: [2, 2, 8], ..SMALL };

const fn jx(config: Config) -> Config {
    Config { jax: true, ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("nest_base", BASE),
    ("nest_base_jx", jx(BASE)),
    ("nest_small", SMALL),
    ("nest_small_jx", jx(SMALL)),
    ("nest_tiny", TINY),
    ("nest_tiny_jx", jx(TINY)),
];

const PATCH: usize = 4;
/// Blocks of the image in both directions, in each level.
const BLOCKS: [usize; 3] = [4, 2, 1];
const EPSILON: f64 = 1e-6;

configuration!(Nest, InputRule::Retrained(PATCH * BLOCKS[0]); regularisation);

impl Config {
    fn components(&self) -> Components {
        Components { hierarchical: true, stem: "4s4".into(), final_pooling: "GAP", ..Components::TRANSFORMER }
    }

    /// Tokens of a block, both ways.
    fn side(&self) -> usize {
        self.input_size / PATCH / BLOCKS[0]
    }
}

/// A nested Transformer. See [`Config`].
#[derive(Module, Debug)]
pub struct Nest {
    patch_embed: Patches,
    levels: Vec<Level>,
    norm: LayerNorm,
    head: Linear,
    #[module(skip)]
    dropout: Dropout,
}

#[derive(Module, Debug)]
struct Patches {
    proj: Conv2d,
}

impl Nest {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let [first, .., last] = config.embed_dims;
        let proj = Conv2d::config(3, first, PATCH).stride(PATCH).padding(Padding::Symmetric(0)).bias();
        let network = Self {
            patch_embed: Patches { proj: proj.build(device) },
            levels: (0..3).map(|index| Level::new(config, index, device)).collect(),
            norm: LayerNorm::new(last, EPSILON, device),
            head: Linear::new(last, num_classes, device),
            dropout: config.regularisation.dropout(),
        };
        initialised(network, |parameter| parameter.normal(0.02))
    }
}

impl Architecture for Nest {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = taps.map(|| "patch_embed".into(), self.patch_embed.proj.forward(images));
        for (index, level) in self.levels.iter().enumerate() {
            let name = |layer| format!("levels.{index}.transformer_encoder.{layer}");
            x = level.forward(x, |layer, x| taps.map(|| name(layer), x));
            x = taps.map(|| format!("levels.{index}"), x);
        }
        let [_, _, height, width] = x.dims();
        let x = tokens_to_image(self.norm.forward(image_to_tokens(x)), [height, width]);
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.forward(self.dropout.forward(features.clone())), features }
    }
}

/// Layers on the blocks of an image; all levels but the first begin by halving the image.
#[derive(Module, Debug)]
struct Level {
    /// `[1, block, token, channel]`.
    pos_embed: Param<Tensor<4>>,
    pool: Option<Pool>,
    transformer_encoder: Vec<Layer>,
    #[module(skip)]
    blocks: Windows,
}

/// Convolution, normalisation, pooling.
#[derive(Module, Debug)]
struct Pool {
    conv: Conv2d,
    norm: LayerNorm2d,
    jax: bool,
}

impl Level {
    fn new(config: &Config, index: usize, device: &Device) -> Self {
        let channels = config.embed_dims[index];
        let blocks = Windows::new([config.side() * BLOCKS[index]; 2], [config.side(); 2], [0; 2]);
        let pool = || Pool {
            conv: Conv2d::config(config.embed_dims[index - 1], channels, 3).bias().build(device),
            norm: LayerNorm2d::new(channels, EPSILON, device),
            jax: config.jax,
        };
        let layer = |position| {
            // The blocks of an image are one behind the other.
            let drop_path = config.regularisation.growing(&config.depths, index, position).of_parts(blocks.count);
            Layer::new(channels, config.heads[index], drop_path, device)
        };
        Self {
            pos_embed: Initializer::Normal { mean: 0.0, std: 0.02 }
                .init([1, blocks.count, blocks.tokens(), channels], device),
            pool: (index > 0).then(pool),
            transformer_encoder: (0..config.depths[index]).map(layer).collect(),
            blocks,
        }
    }

    /// `show` gets every layer's result, `[batch, block, token, channel]`, with its position.
    fn forward(&self, x: Tensor<4>, mut show: impl FnMut(usize, Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let x = match &self.pool {
            None => x,
            Some(Pool { conv, norm, jax }) => {
                let x = norm.forward(conv.forward(x));
                if *jax { max_pool_ceil(x, 3, 2) } else { max_pool(x, 3, 2, 1) }
            }
        };
        let [batch, channels, height, width] = x.dims();
        let by_block = [batch, self.blocks.count, self.blocks.tokens(), channels];
        let flat = [batch * self.blocks.count, self.blocks.tokens(), channels];
        let x = self.blocks.partition(image_to_tokens(x)).reshape(by_block) + self.pos_embed.val();
        let mut x = x.reshape(flat);
        for (index, layer) in self.transformer_encoder.iter().enumerate() {
            x = show(index, layer.forward(x).reshape(by_block)).reshape(flat);
        }
        tokens_to_image(self.blocks.merge(x), [height, width])
    }
}

/// Attention within a block, then a perceptron, both residual and normalised at their beginning.
#[derive(Module, Debug)]
struct Layer {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    drop_path: StochasticDepth,
}

/// Attention whose heads take turns in the channels of the result.
#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Layer {
    fn new(channels: usize, heads: usize, drop_path: StochasticDepth, device: &Device) -> Self {
        let norm = || LayerNorm::new(channels, EPSILON, device);
        Self {
            norm1: norm(),
            attn: Attention {
                qkv: Linear::new(channels, 3 * channels, device),
                proj: Linear::new(channels, channels, device),
                heads,
            },
            norm2: norm(),
            mlp: Mlp::new(channels, 4 * channels, Activation::Gelu, device),
            drop_path,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let Attention { qkv, proj, heads } = &self.attn;
        let mixed = self_attention(qkv.forward(self.norm1.forward(x.clone())), *heads);
        let [blocks, tokens, channels] = mixed.dims();
        let turns = transposed(mixed.reshape([blocks * tokens, *heads, channels / heads]));
        let y = turns.reshape([blocks, tokens, channels]);
        let x = self.drop_path.residual(x, |x| proj.forward_residual(y, None, x));
        let y = self.norm2.forward(x.clone());
        self.drop_path.residual(x, |x| self.mlp.forward_residual(y, None, x))
    }
}
