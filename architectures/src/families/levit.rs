//! LeViT: attention at few places behind a stem of convolutions, with batch normalisation, queries and keys of few channels,
//! and a learnt bias for each distance of two places.
//!
//! Graham et al., *LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference* (arXiv 2104.01136).

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::initialised;
use crate::layers::{
    Activation, BatchNorm2d, Conv2d, Dropout, Linear, Named, Padding, Pointwise, Regularisation, StochasticDepth, Then,
    average_pool, channels_first_attention, global_average_pool, image_to_tokens, tokens_to_image,
};
use crate::taps::Taps;

/// Which LeViT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels in each stage.
    pub embed_dims: [usize; 3],
    /// Blocks in each stage.
    pub depths: [usize; 3],
    /// Attention heads in each stage.
    pub heads: [usize; 3],
    /// Channels of a head's queries and keys; its values have twice as many.
    pub key_dim: usize,
    /// How often the stem halves the image.
    pub halvings: usize,
    /// Between the linear maps.
    pub activation: Activation,
    /// Whether there is a second head for distillation.
    pub distilled: bool,
    /// Whether linear maps are kept as 1×1 convolutions, and tokens as images.
    pub convolutional: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const LEVIT_128: Config = Config {
    embed_dims: [128, 256, 384],
    depths: [4, 4, 4],
    heads: [4, 8, 12],
    key_dim: 16,
    halvings: 4,
    activation: Activation::HardSwish,
    distilled: true,
    convolutional: false,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
const LEVIT_128S: Config = Config { depths: [2, 3, 4], heads: [4, 6, 8], ..LEVIT_128 };
const LEVIT_192: Config = Config { embed_dims: [192, 288, 384], heads: [3, 5, 6], key_dim: 32, ..LEVIT_128 };
const LEVIT_256: Config = Config { embed_dims: [256, 384, 512], heads: [4, 6, 8], ..LEVIT_192 };
const LEVIT_384: Config = Config { embed_dims: [384, 512, 768], heads: [6, 9, 12], ..LEVIT_192 };

const fn deep(config: Config) -> Config {
    Config { depths: [4, 8, 6], ..undistilled(config) }
}
const fn undistilled(config: Config) -> Config {
    Config { distilled: false, ..silu(config) }
}
const fn silu(config: Config) -> Config {
    Config { activation: Activation::Silu, ..config }
}
const fn s8(config: Config) -> Config {
    Config { halvings: 3, ..config }
}
const fn conv(config: Config) -> Config {
    Config { convolutional: true, ..config }
}

const LEVIT_512: Config =
    Config { embed_dims: [512, 768, 1024], heads: [8, 12, 16], key_dim: 64, ..undistilled(LEVIT_192) };
const LEVIT_512D: Config = Config { embed_dims: [512, 640, 768], heads: [8, 10, 12], ..deep(LEVIT_512) };
const LEVIT_512_S8: Config = Config { embed_dims: [512, 640, 896], heads: [8, 10, 14], ..s8(LEVIT_512) };

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("levit_128", LEVIT_128),
    ("levit_128s", LEVIT_128S),
    ("levit_192", LEVIT_192),
    ("levit_256", LEVIT_256),
    ("levit_256d", deep(LEVIT_256)),
    ("levit_384", LEVIT_384),
    ("levit_384_s8", s8(silu(LEVIT_384))),
    ("levit_512", LEVIT_512),
    ("levit_512_s8", LEVIT_512_S8),
    ("levit_512d", LEVIT_512D),
    ("levit_conv_128", conv(LEVIT_128)),
    ("levit_conv_128s", conv(LEVIT_128S)),
    ("levit_conv_192", conv(LEVIT_192)),
    ("levit_conv_256", conv(LEVIT_256)),
    ("levit_conv_256d", conv(deep(LEVIT_256))),
    ("levit_conv_384", conv(LEVIT_384)),
    ("levit_conv_384_s8", conv(s8(silu(LEVIT_384)))),
    ("levit_conv_512", conv(LEVIT_512)),
    ("levit_conv_512_s8", conv(LEVIT_512_S8)),
    ("levit_conv_512d", conv(LEVIT_512D)),
];

configuration!(Levit, InputRule::Fixed, convert; regularisation);

impl Config {
    /// Places of an image in a stage, both ways.
    fn side(&self, stage: usize) -> usize {
        (0..stage).fold(self.input_size >> self.halvings, |side, _| side.div_ceil(2))
    }

    fn components(&self) -> Components {
        Components {
            base_architecture: "Hybrid",
            stem: vec!["3s2"; self.halvings].join("/").into(),
            activation: Components::activations([self.activation]),
            stem_pooling: false,
            ..Components::CNN
        }
    }
}

/// Old files hold the indices of the distances.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    checkpoint.remove(|name| name.contains("attention_bias_idxs"));
}

/// A LeViT, which computes on images `[batch, channel, height, width]` throughout. See [`Config`].
#[derive(Module, Debug)]
pub struct Levit {
    stem: Named<Halving>,
    stages: Vec<Stage>,
    head: Head,
    head_dist: Option<Head>,
    #[module(skip)]
    activation: Activation,
    convolutional: bool,
}

impl Levit {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let [first, _, last] = config.embed_dims;
        let mut inputs = 3;
        let halving = |number: usize| {
            let outputs = first >> (config.halvings - number);
            let linear = Conv2d::config(inputs, outputs, 3).stride(2).padding(Padding::Symmetric(1)).build(device);
            inputs = outputs;
            (format!("conv{number}"), Halving { linear, bn: BatchNorm2d::new(outputs, device) })
        };
        let head = || Head {
            bn: BatchNorm2d::new(last, device),
            linear: Linear::new(last, num_classes, device),
            dropout: config.regularisation.dropout(),
        };
        let network = Self {
            stem: (1..=config.halvings).map(halving).collect(),
            stages: (0..3).map(|stage| Stage::new(config, stage, device)).collect(),
            head: head(),
            head_dist: config.distilled.then(head),
            activation: config.activation,
            convolutional: config.convolutional,
        };
        initialised(network, |parameter| match parameter.key {
            key if key.starts_with("head") => parameter.linear(0.02),
            _ => parameter.pytorch(),
        })
    }

    fn stem(&self, images: Tensor<4>) -> Tensor<4> {
        let last = self.stem.iter().count() - 1;
        self.stem.iter().enumerate().fold(images, |x, (index, (_, Halving { linear, bn }))| {
            let activation = if index == last { Activation::Identity } else { self.activation };
            linear.forward_then(x, Then::norm(bn, activation))
        })
    }

    /// Shows what timm has as images or as tokens in that form.
    fn show(&self, taps: &mut Taps, name: impl FnOnce() -> String, x: Tensor<4>) -> Tensor<4> {
        let [.., height, width] = x.dims();
        if self.convolutional {
            taps.map(name, x)
        } else {
            taps.map_as(name, x, image_to_tokens, |x| tokens_to_image(x, [height, width]))
        }
    }
}

impl Architecture for Levit {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = taps.map(|| "stem".into(), self.stem(images));
        for (number, stage) in self.stages.iter().enumerate() {
            if let Some(downsample) = &stage.downsample {
                x = self.show(taps, || format!("stages.{number}.downsample"), downsample.forward(x));
            }
            for (index, block) in stage.blocks.iter().enumerate() {
                x = self.show(taps, || format!("stages.{number}.blocks.{index}"), block.forward(x));
            }
            x = self.show(taps, || format!("stages.{number}"), x);
        }
        let features = taps.map(|| "features".into(), global_average_pool(x));
        let logits = self.head.forward(features.clone());
        let logits = match &self.head_dist {
            Some(head) => (logits + head.forward(features.clone())) / 2.0,
            None => logits,
        };
        Outputs { logits, features }
    }
}

/// A layer of the stem.
#[derive(Module, Debug)]
struct Halving {
    linear: Conv2d,
    bn: BatchNorm2d,
}

/// Batch normalisation of the features and the classifier.
#[derive(Module, Debug)]
struct Head {
    bn: BatchNorm2d,
    linear: Linear,
    #[module(skip)]
    dropout: Dropout,
}

impl Head {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [batch, channels] = x.dims();
        let x = self.bn.forward(x.reshape([batch, channels, 1, 1]), Activation::Identity);
        self.linear.forward(self.dropout.forward(x.reshape([batch, channels])))
    }
}

/// Blocks at one size; all stages but the first begin by halving the image.
#[derive(Module, Debug)]
struct Stage {
    downsample: Option<Downsample>,
    blocks: Vec<Block>,
}

impl Stage {
    fn new(config: &Config, stage: usize, device: &Device) -> Self {
        Self {
            downsample: (stage > 0).then(|| Downsample::new(config, stage, device)),
            blocks: (0..config.depths[stage]).map(|_| Block::new(config, stage, device)).collect(),
        }
    }
}

/// A linear map at each place and batch normalisation.
#[derive(Module, Debug)]
struct LinearNorm {
    linear: Pointwise,
    bn: BatchNorm2d,
}

impl LinearNorm {
    fn new(config: &Config, inputs: usize, outputs: usize, device: &Device) -> Self {
        let linear = if config.convolutional {
            Pointwise::Convolution(Conv2d::config(inputs, outputs, 1).build(device))
        } else {
            Pointwise::Linear(Linear::without_bias(inputs, outputs, device))
        };
        Self { linear, bn: BatchNorm2d::new(outputs, device) }
    }

    /// For the end of a residual branch, which begins as nothing.
    fn starting_at_zero(self, device: &Device) -> Self {
        Self { bn: self.bn.starting_at_zero(device), ..self }
    }

    fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        self.linear.forward_then(x, Then::norm(&self.bn, activation))
    }

    fn forward_residual(&self, x: Tensor<4>, shortcut: Tensor<4>) -> Tensor<4> {
        self.linear.forward_then(x, Then::norm(&self.bn, Activation::Identity).residual(shortcut))
    }
}

/// Two maps, the first to twice as many channels, beside a shortcut.
#[derive(Module, Debug)]
struct Mlp {
    ln1: LinearNorm,
    ln2: LinearNorm,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Mlp {
    fn new(config: &Config, channels: usize, device: &Device) -> Self {
        Self {
            ln1: LinearNorm::new(config, channels, 2 * channels, device),
            ln2: LinearNorm::new(config, 2 * channels, channels, device).starting_at_zero(device),
            activation: config.activation,
            drop_path: config.regularisation.constant(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.ln1.forward(x.clone(), self.activation);
        self.drop_path.residual(x, |x| self.ln2.forward_residual(y, x))
    }
}

/// Attention and a perceptron, both residual.
#[derive(Module, Debug)]
struct Block {
    attn: Attention,
    mlp: Mlp,
}

impl Block {
    fn new(config: &Config, stage: usize, device: &Device) -> Self {
        let channels = config.embed_dims[stage];
        Self { attn: Attention::new(config, stage, device), mlp: Mlp::new(config, channels, device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.mlp.forward(self.attn.forward_residual(x))
    }
}

/// Attention in which every second place of every second row asks, and a residual perceptron.
#[derive(Module, Debug)]
struct Downsample {
    attn_downsample: DownsamplingAttention,
    mlp: Mlp,
}

impl Downsample {
    fn new(config: &Config, stage: usize, device: &Device) -> Self {
        Self {
            attn_downsample: DownsamplingAttention::new(config, stage, device),
            mlp: Mlp::new(config, config.embed_dims[stage], device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.mlp.forward(self.attn_downsample.forward(x))
    }
}

/// A map under one more name.
#[derive(Module, Debug)]
struct Projection {
    ln: LinearNorm,
}

/// Between all places.
#[derive(Module, Debug)]
struct Attention {
    qkv: LinearNorm,
    proj: Projection,
    /// One for each distance down and across, `[head, distance]`.
    attention_biases: Param<Tensor<2>>,
    key_dim: usize,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Attention {
    fn new(config: &Config, stage: usize, device: &Device) -> Self {
        let (channels, heads, key_dim) = (config.embed_dims[stage], config.heads[stage], config.key_dim);
        let values = 2 * key_dim * heads;
        Self {
            qkv: LinearNorm::new(config, channels, 2 * key_dim * heads + values, device),
            proj: Projection { ln: LinearNorm::new(config, values, channels, device).starting_at_zero(device) },
            attention_biases: biases(config.side(stage), heads, device),
            key_dim,
            activation: config.activation,
            drop_path: config.regularisation.constant(),
        }
    }

    fn forward_residual(&self, x: Tensor<4>) -> Tensor<4> {
        let [heads, _] = self.attention_biases.dims();
        let qkv = by_head(self.qkv.forward(x.clone(), Activation::Identity), heads);
        let [_, _, size, _] = qkv.dims();
        let part = |start, size| qkv.clone().narrow(2, start, size);
        let key_dim = self.key_dim;
        let parts = [part(0, key_dim), part(key_dim, key_dim), part(2 * key_dim, size - 2 * key_dim)];
        let mixed = attend(parts, self.attention_biases.val(), 1);
        let y = self.activation.forward(mixed);
        self.drop_path.residual(x, |x| self.proj.ln.forward_residual(y, x))
    }
}

/// Of every second place of every second row to all.
#[derive(Module, Debug)]
struct DownsamplingAttention {
    kv: LinearNorm,
    q: Projection,
    proj: Projection,
    /// As in [`Attention`].
    attention_biases: Param<Tensor<2>>,
    key_dim: usize,
    #[module(skip)]
    activation: Activation,
}

impl DownsamplingAttention {
    const STRIDE: usize = 2;

    fn new(config: &Config, stage: usize, device: &Device) -> Self {
        let (inputs, outputs, key_dim) = (config.embed_dims[stage - 1], config.embed_dims[stage], config.key_dim);
        let heads = inputs / key_dim;
        let values = 4 * key_dim * heads;
        Self {
            kv: LinearNorm::new(config, inputs, key_dim * heads + values, device),
            q: Projection { ln: LinearNorm::new(config, inputs, key_dim * heads, device) },
            proj: Projection { ln: LinearNorm::new(config, values, outputs, device) },
            attention_biases: biases(config.side(stage - 1), heads, device),
            key_dim,
            activation: config.activation,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [heads, _] = self.attention_biases.dims();
        let some = average_pool(x.clone(), 1, Self::STRIDE);
        let queries = by_head(self.q.ln.forward(some, Activation::Identity), heads);
        let kv = by_head(self.kv.forward(x, Activation::Identity), heads);
        let [_, _, size, _] = kv.dims();
        let keys = kv.clone().narrow(2, 0, self.key_dim);
        let values = kv.narrow(2, self.key_dim, size - self.key_dim);
        let mixed = attend([queries, keys, values], self.attention_biases.val(), Self::STRIDE);
        self.proj.ln.forward(self.activation.forward(mixed), Activation::Identity)
    }
}

/// `[batch, channel, height, width]` → `[batch, head, channel / heads, place]`.
fn by_head(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, heads, channels / heads, height * width])
}

fn biases(side: usize, heads: usize, device: &Device) -> Param<Tensor<2>> {
    Initializer::Zeros.init([heads, side * side], device)
}

/// Attention with a bias for each distance: `[batch, head, size, place]` of a square image, of which every `stride`-th place
/// of every such row asks, → an image `[batch, head · size, height, width]`.
fn attend([queries, keys, values]: [Tensor<4>; 3], biases: Tensor<2>, stride: usize) -> Tensor<4> {
    let ([batch, heads, _, asking], [_, _, channels, places]) = (queries.dims(), values.dims());
    let (asking_side, side) = (asking.isqrt(), places.isqrt());
    let distance = |asks: usize, other: usize| {
        let row = (asks / asking_side * stride).abs_diff(other / side);
        let column = (asks % asking_side * stride).abs_diff(other % side);
        (row * side + column) as i64
    };
    let distances: Vec<i64> = (0..asking * places).map(|pair| distance(pair / places, pair % places)).collect();
    let distances = TensorData::new(distances, [asking * places]);
    let distances = Tensor::<1, Int>::from_data(distances, &queries.device().without_autodiff());
    let biases = biases.select(1, distances).reshape([1, heads, asking, places]);
    channels_first_attention([queries, keys, values], biases).reshape([
        batch,
        heads * channels,
        asking_side,
        asking_side,
    ])
}
