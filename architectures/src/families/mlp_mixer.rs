//! Networks of perceptrons alone: MLP-Mixer, gMixer, ResMLP, gMLP.
//!
//! Tolstikhin et al., *MLP-Mixer: An all-MLP Architecture for Vision* (arXiv 2105.01601); Touvron et al., *ResMLP* (2105.03404);
//! Liu et al., *Pay Attention to MLPs* (2105.08050). gMixer is timm's: MLP-Mixer with gated linear units.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::{Initial, Parameter, initialised};
use crate::layers::{
    Activation, Affine, Dropout, GluMlp, LayerNorm, Linear, Mlp, PatchEmbed, Regularisation, StochasticDepth, add,
    mean_of_tokens, multiply, scale_and_shift,
};
use crate::taps::Taps;

/// Which network of perceptrons.
#[derive(Debug, Clone)]
pub struct Config {
    /// The kind of all blocks.
    pub block: BlockKind,
    /// Pixels of a patch, both ways.
    pub patch_size: usize,
    /// Channels of a token.
    pub embed_dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Hidden channels of the perceptron over the channels, as a multiple of the token's.
    pub mlp_ratio: usize,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// How a block mixes the tokens.
#[derive(Debug, Clone, Copy)]
pub enum BlockKind {
    /// By a perceptron over the tokens (MLP-Mixer).
    Mixer {
        /// Its hidden width, as a multiple of the token's channels.
        token_ratio: f64,
        /// Whether this perceptron and the one over the channels are gated.
        gated: bool,
    },
    /// By one linear map (ResMLP).
    Residual {
        /// The first value of the learnt scales on the residual branches.
        layer_scale: f64,
    },
    /// By the spatial gate within the perceptron over the channels (gMLP).
    SpatialGating,
}

const MIXER_S: Config = Config {
    block: BlockKind::Mixer { token_ratio: 0.5, gated: false },
    patch_size: 16,
    embed_dim: 512,
    depth: 8,
    mlp_ratio: 4,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
const MIXER_B: Config = Config { embed_dim: 768, depth: 12, ..MIXER_S };
/// For 28 × 28 images of ten classes.
const DEMO: Config = Config { patch_size: 4, embed_dim: 64, depth: 4, input_size: 28, num_classes: 10, ..MIXER_S };

const fn patch32(config: Config) -> Config {
    Config { patch_size: 32, ..config }
}
const fn gmixer(depth: usize) -> Config {
    Config { block: BlockKind::Mixer { token_ratio: 1.0, gated: true }, embed_dim: 384, depth, ..MIXER_S }
}
const fn resmlp(depth: usize, layer_scale: f64) -> Config {
    Config { block: BlockKind::Residual { layer_scale }, embed_dim: 384, depth, ..MIXER_S }
}
const fn gmlp(embed_dim: usize) -> Config {
    Config { block: BlockKind::SpatialGating, embed_dim, depth: 30, mlp_ratio: 6, ..MIXER_S }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("demo_gmlp", Config { block: BlockKind::SpatialGating, ..DEMO }),
    ("demo_mixer", DEMO),
    ("gmixer_12_224", gmixer(12)),
    ("gmixer_24_224", gmixer(24)),
    ("gmlp_b16_224", gmlp(512)),
    ("gmlp_s16_224", gmlp(256)),
    ("gmlp_ti16_224", gmlp(128)),
    ("mixer_b16_224", MIXER_B),
    ("mixer_b32_224", patch32(MIXER_B)),
    ("mixer_s16_224", MIXER_S),
    ("mixer_s32_224", patch32(MIXER_S)),
    ("resmlp_12_224", resmlp(12, 1e-4)),
    ("resmlp_24_224", resmlp(24, 1e-5)),
    ("resmlp_36_224", resmlp(36, 1e-6)),
    ("resmlp_big_24_224", Config { patch_size: 8, embed_dim: 768, ..resmlp(24, 1e-6) }),
];

configuration!(MlpMixer, InputRule::Fixed, convert; regularisation);

impl Config {
    fn components(&self) -> Components {
        Components {
            base_architecture: "MLP-Mixer",
            stem: format!("{0}s{0}", self.patch_size).into(),
            normalization: match self.block {
                BlockKind::Residual { .. } => "Affine transform",
                _ => "LN",
            },
            activation: match self.block {
                BlockKind::Mixer { gated: true, .. } => "SiLU".into(),
                _ => "GeLU".into(),
            },
            final_pooling: "GAP",
            ..Components::TRANSFORMER
        }
    }
}

/// The files of ResMLP's authors have other names, and scales and shifts without the axes of an image's tokens.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    if !checkpoint.contains("patch_embed.proj.weight") {
        return;
    }
    const NAMES: [(&str, &str); 4] =
        [("patch_embed.", "stem."), ("attn.", "linear_tokens."), ("mlp.", "mlp_channels."), ("gamma_", "ls")];
    checkpoint.rename(|name| NAMES.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new)));
    let affine = |name: &&str| name.ends_with(".alpha") || name.ends_with(".beta");
    let names: Vec<String> = checkpoint.names().filter(affine).map(str::to_owned).collect();
    for name in names {
        if let Some(&[channels]) = checkpoint.shape(&name) {
            checkpoint.reshape(&name, &[1, 1, channels]);
        }
    }
}

/// Patches by LeCun's rule, a classifier that says nothing. timm draws the biases of the perceptrons, too, but of 10⁻⁶.
fn initial(parameter: &Parameter) -> Option<Initial> {
    match parameter.key {
        "stem.proj.weight" => Some(Initial::TruncatedNormal((parameter.inputs() as f64).powf(-0.5))),
        "head.weight" => Some(Initial::Constant(0.0)),
        _ => None,
    }
}

/// A network of perceptrons. See [`Config`].
#[derive(Module, Debug)]
pub struct MlpMixer {
    stem: PatchEmbed,
    blocks: Vec<Block>,
    norm: Norm,
    head: Linear,
    #[module(skip)]
    dropout: Dropout,
}

impl MlpMixer {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = config.embed_dim;
        let stem = PatchEmbed::new([config.input_size; 2], config.patch_size, channels, device);
        let network = Self {
            blocks: (0..config.depth).map(|_| Block::new(config, stem.tokens(), device)).collect(),
            norm: match config.block {
                BlockKind::Residual { .. } => Norm::Affine(Affine::new(channels, device)),
                _ => Norm::Layer(LayerNorm::new(channels, 1e-6, device)),
            },
            stem,
            head: Linear::new(channels, num_classes, device),
            dropout: config.regularisation.dropout(),
        };
        initialised(network, initial)
    }
}

impl Architecture for MlpMixer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = taps.map(|| "stem".into(), self.stem.forward(images));
        let x = taps.stage(|| "blocks".into(), &self.blocks, x, |block, x| block.forward(x));
        let x = taps.map(|| "norm".into(), self.norm.forward(x));
        let features = mean_of_tokens(x);
        Outputs { logits: self.head.forward(self.dropout.forward(features.clone())), features }
    }
}

/// Layer normalisation, or ResMLP's scale and shift.
#[derive(Module, Debug)]
enum Norm {
    Layer(LayerNorm),
    Affine(Affine),
}

impl Norm {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Affine(norm) => norm.forward(x),
        }
    }
}

/// A block of any kind over `[batch, token, channel]`.
#[derive(Module, Debug)]
enum Block {
    Mixer(MixerBlock),
    Residual(ResidualBlock),
    SpatialGating(SpatialGatingBlock),
}

impl Block {
    fn new(config: &Config, tokens: usize, device: &Device) -> Self {
        let channels = config.embed_dim;
        let hidden = channels * config.mlp_ratio;
        let norm = || LayerNorm::new(channels, 1e-6, device);
        let drop_path = config.regularisation.constant();
        match config.block {
            BlockKind::Mixer { token_ratio, gated } => {
                let token_hidden = (channels as f64 * token_ratio) as usize;
                Self::Mixer(MixerBlock {
                    norm1: norm(),
                    mlp_tokens: Perceptron::new(gated, tokens, token_hidden, device),
                    norm2: norm(),
                    mlp_channels: Perceptron::new(gated, channels, hidden, device),
                    drop_path,
                })
            }
            BlockKind::Residual { layer_scale } => {
                let scale = || Initializer::Constant { value: layer_scale }.init([channels], device);
                Self::Residual(ResidualBlock {
                    norm1: Affine::new(channels, device),
                    linear_tokens: Linear::new(tokens, tokens, device),
                    norm2: Affine::new(channels, device),
                    mlp_channels: Mlp::new(channels, hidden, Activation::Gelu, device),
                    ls1: scale(),
                    ls2: scale(),
                    drop_path,
                })
            }
            BlockKind::SpatialGating => Self::SpatialGating(SpatialGatingBlock {
                norm: norm(),
                mlp_channels: SpatialGatingMlp {
                    fc1: Linear::new(channels, hidden, device),
                    gate: SpatialGate::new(hidden / 2, tokens, device),
                    fc2: Linear::new(hidden / 2, channels, device),
                },
                drop_path,
            }),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Mixer(block) => block.forward(x),
            Self::Residual(block) => block.forward(x),
            Self::SpatialGating(block) => block.forward(x),
        }
    }
}

/// A perceptron over the tokens, then one over the channels.
#[derive(Module, Debug)]
struct MixerBlock {
    norm1: LayerNorm,
    mlp_tokens: Perceptron,
    norm2: LayerNorm,
    mlp_channels: Perceptron,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl MixerBlock {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = self.drop_path.residual(x, |x| match &self.mlp_tokens {
            Perceptron::Plain(mlp) => mlp.forward_across(y, x),
            Perceptron::Gated(mlp) => mlp.forward_across(y, x),
        });
        let y = self.norm2.forward(x.clone());
        self.drop_path.residual(x, |x| match &self.mlp_channels {
            Perceptron::Plain(mlp) => mlp.forward_residual(y, None, x),
            Perceptron::Gated(mlp) => mlp.forward_residual(y, x),
        })
    }
}

/// A plain or gated perceptron.
#[derive(Module, Debug)]
enum Perceptron {
    Plain(Mlp),
    Gated(GluMlp),
}

impl Perceptron {
    fn new(gated: bool, channels: usize, hidden: usize, device: &Device) -> Self {
        if gated {
            Self::Gated(GluMlp::new(channels, hidden, Activation::Silu, device))
        } else {
            Self::Plain(Mlp::new(channels, hidden, Activation::Gelu, device))
        }
    }
}

/// A linear map over the tokens, then a perceptron over the channels, each channel of both scaled.
#[derive(Module, Debug)]
struct ResidualBlock {
    norm1: Affine,
    linear_tokens: Linear,
    norm2: Affine,
    mlp_channels: Mlp,
    ls1: Param<Tensor<1>>,
    ls2: Param<Tensor<1>>,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl ResidualBlock {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let y = self.linear_tokens.forward_across(y, Activation::Identity, None);
        let y = scale_and_shift(y, 2, self.ls1.val(), None);
        let x = self.drop_path.residual(x, |x| add(y, x, Activation::Identity));
        let y = self.norm2.forward(x.clone());
        self.drop_path.residual(x, |x| self.mlp_channels.forward_residual(y, Some(&self.ls2), x))
    }
}

/// A perceptron over the channels in which the tokens gate each other.
#[derive(Module, Debug)]
struct SpatialGatingBlock {
    norm: LayerNorm,
    mlp_channels: SpatialGatingMlp,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl SpatialGatingBlock {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm.forward(x.clone());
        self.drop_path.residual(x, |x| self.mlp_channels.forward_residual(y, x))
    }
}

#[derive(Module, Debug)]
struct SpatialGatingMlp {
    fc1: Linear,
    gate: SpatialGate,
    fc2: Linear,
}

impl SpatialGatingMlp {
    fn forward_residual(&self, x: Tensor<3>, shortcut: Tensor<3>) -> Tensor<3> {
        let hidden = self.fc1.forward_activated(x, Activation::Gelu);
        self.fc2.forward_residual(self.gate.forward(hidden), None, shortcut)
    }
}

/// The first half of the channels, gated by a linear map over the tokens of the second half.
#[derive(Module, Debug)]
struct SpatialGate {
    norm: LayerNorm,
    proj: Linear,
}

impl SpatialGate {
    /// For 2 · `channels`. Begins open: the weights near zero, the biases one.
    fn new(channels: usize, tokens: usize, device: &Device) -> Self {
        let near_zero = Initializer::Normal { mean: 0.0, std: 1e-6 };
        Self {
            norm: LayerNorm::new(channels, 1e-5, device),
            proj: Linear::with_initializers(tokens, tokens, [near_zero, Initializer::Ones], device),
        }
    }

    /// `[batch, token, 2 · channel]` → `[batch, token, channel]`.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let half = x.dims()[2] / 2;
        let values = x.clone().narrow(2, 0, half);
        let gates = self.norm.forward(x.narrow(2, half, half));
        let gates = self.proj.forward_across(gates, Activation::Identity, None);
        multiply(values, gates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::converted;

    /// What timm's `checkpoint_filter_fn` makes of these.
    #[test]
    fn the_authors_files_become_timms() {
        let file: [(&str, &[usize]); 8] = [
            ("patch_embed.proj.weight", &[384, 3, 16, 16]),
            ("blocks.3.norm1.alpha", &[384]),
            ("blocks.3.norm2.beta", &[384]),
            ("blocks.3.attn.weight", &[196, 196]),
            ("blocks.3.mlp.fc1.bias", &[1536]),
            ("blocks.3.gamma_1", &[384]),
            ("norm.alpha", &[384]),
            ("head.weight", &[1000, 384]),
        ];
        let expected: [(&str, &[usize]); 8] = [
            ("blocks.3.linear_tokens.weight", &[196, 196]),
            ("blocks.3.ls1", &[384]),
            ("blocks.3.mlp_channels.fc1.bias", &[1536]),
            ("blocks.3.norm1.alpha", &[1, 1, 384]),
            ("blocks.3.norm2.beta", &[1, 1, 384]),
            ("head.weight", &[1000, 384]),
            ("norm.alpha", &[1, 1, 384]),
            ("stem.proj.weight", &[384, 3, 16, 16]),
        ];
        let lines = expected.map(|(name, shape)| format!("{name} {shape:?}"));
        let config = resmlp(12, 1e-4);
        assert_eq!(converted(&config, &file), lines);
        // And timm's own files stay.
        assert_eq!(converted(&config, &expected), lines);
    }

    #[test]
    fn the_spatial_gate_begins_open() {
        let device = Device::flex();
        let gate = SpatialGate::new(2, 3, &device);
        let values = Tensor::<3>::ones([1, 3, 2], &device) * 5.0;
        let other = Tensor::from_data([[[1.0, -2.0], [0.5, 7.0], [3.0, 3.5]]], &device);
        let gated = gate.forward(Tensor::cat(vec![values.clone(), other], 2));
        assert!((gated - values).abs().max().into_scalar::<f32>() < 1e-3);
    }
}
