//! Swin and Swin V2: attention within windows, which are shifted from block to block.
//!
//! Liu et al., *Swin Transformer: Hierarchical Vision Transformer using Shifted Windows* (arXiv 2103.14030); Liu et al., *Swin
//! Transformer V2: Scaling Up Capacity and Resolution* (2111.09883); Chen et al., *Searching the Search Space of Vision
//! Transformer* (2111.14725), the s3 variants.

use std::sync::Arc;

use burn::module::{Initializer, Module, Param};
use burn::nn::Relu;
use burn::tensor::{Device, Tensor, TensorData};
use netkin_kernels::RowOrder;

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::{Initial, initialised};
use crate::layers::{
    Activation, Dropout, LayerNorm, Linear, Mlp, PatchEmbed, Regularisation, StochasticDepth, WindowAttention, Windows,
    add, biased_self_attention, gather_rows, mean_of_tokens,
};
use crate::taps::Taps;

/// Which Swin Transformer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of the first stage; they double from stage to stage.
    pub embed_dim: usize,
    /// Blocks in each stage.
    pub depths: [usize; 4],
    /// Attention heads in each stage.
    pub heads: [usize; 4],
    /// The side of a window in tokens, in each stage.
    pub windows: [usize; 4],
    /// How blocks are made.
    pub version: Version,
    /// Whether the sizes were found by search.
    pub searched: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Height and width in pixels.
    pub input_size: [usize; 2],
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// How blocks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Normalised at the beginning of a branch, with a table of biases.
    V1,
    /// Normalised at the end of a branch, with cosines as scores and biases from a function of the distance.
    V2 {
        /// The windows by which the function measures, in each stage, where they are not the network's own.
        measure: Option<[usize; 4]>,
    },
}

const TINY: Config = Config {
    embed_dim: 96,
    depths: [2, 2, 6, 2],
    heads: [3, 6, 12, 24],
    windows: [7; 4],
    version: Version::V1,
    searched: false,
    regularisation: Regularisation::NONE,
    input_size: [224; 2],
    num_classes: 1000,
};
const SMALL: Config = Config { depths: [2, 2, 18, 2], ..TINY };
const BASE: Config = Config { embed_dim: 128, heads: [4, 8, 16, 32], ..SMALL };
const LARGE: Config = Config { embed_dim: 192, heads: [6, 12, 24, 48], ..SMALL };

const fn at_384(config: Config) -> Config {
    Config { windows: [12; 4], input_size: [384; 2], ..config }
}
const fn s3(depths: [usize; 4], windows: [usize; 4]) -> Config {
    Config { depths, windows, searched: true, ..TINY }
}
const fn v2(window: usize, config: Config) -> Config {
    Config { windows: [window; 4], version: Version::V2 { measure: None }, input_size: [256; 2], ..config }
}
/// Trained at first with windows of 12.
const fn v2_from_12(window: usize, config: Config) -> Config {
    Config { version: Version::V2 { measure: Some([12, 12, 12, 6]) }, ..v2(window, config) }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("swin_base_patch4_window7_224", BASE),
    ("swin_base_patch4_window12_384", at_384(BASE)),
    ("swin_large_patch4_window7_224", LARGE),
    ("swin_large_patch4_window12_384", at_384(LARGE)),
    ("swin_s3_base_224", s3([2, 2, 30, 2], [7, 7, 14, 7])),
    ("swin_s3_small_224", s3([2, 2, 18, 2], [14, 14, 14, 7])),
    ("swin_s3_tiny_224", s3([2, 2, 6, 2], [7, 7, 14, 7])),
    ("swin_small_patch4_window7_224", SMALL),
    ("swin_tiny_patch4_window7_224", TINY),
    ("swinv2_base_window12_192", Config { input_size: [192; 2], num_classes: 21841, ..v2(12, BASE) }),
    ("swinv2_base_window12to16_192to256", v2_from_12(16, BASE)),
    ("swinv2_base_window12to24_192to384", Config { input_size: [384; 2], ..v2_from_12(24, BASE) }),
    ("swinv2_base_window16_256", v2(16, BASE)),
    ("swinv2_base_window8_256", v2(8, BASE)),
    ("swinv2_small_window16_256", v2(16, SMALL)),
    ("swinv2_small_window8_256", v2(8, SMALL)),
    ("swinv2_tiny_window16_256", v2(16, TINY)),
    ("swinv2_tiny_window8_256", v2(8, TINY)),
];

const PATCH: usize = 4;
const EPSILON: f64 = 1e-5;

configuration!(SwinTransformer, |_config| InputRule::Multiple(PATCH), convert; regularisation);

impl Config {
    fn components(&self) -> Components {
        Components {
            base_architecture: if self.searched { "NAS (TFM)" } else { "Transformer" },
            hierarchical: true,
            stem: "4s4".into(),
            final_pooling: "GAP",
            ..Components::TRANSFORMER
        }
    }

    fn channels(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }

    /// Rows and columns of a stage's tokens.
    fn grid(&self, stage: usize) -> [usize; 2] {
        self.input_size.map(|side| (side / PATCH).div_ceil(1 << stage))
    }

    /// Rows and columns of a stage's windows; where there are fewer, a window has all of them.
    fn window(&self, stage: usize) -> [usize; 2] {
        self.grid(stage).map(|side| side.min(self.windows[stage]))
    }
}

/// The authors' files shrink at the end of a stage, timm's at the beginning of the next, and both kept what is computed; the
/// positions may be those of other windows, and the patches of another size.
fn convert(config: &Config, checkpoint: &mut Checkpoint) {
    const COMPUTED: [&str; 3] = ["relative_position_index", "relative_coords_table", "attn_mask"];
    checkpoint.remove(|name| COMPUTED.iter().any(|end| name.ends_with(end)));
    if checkpoint.contains("layers.0.downsample.reduction.weight") {
        checkpoint.rename(|name| match name.split('.').collect::<Vec<_>>()[..] {
            ["layers", stage, "downsample", layer, weight] => {
                let next = stage.parse::<usize>().map_or(stage.into(), |stage| stage.saturating_add(1).to_string());
                format!("layers.{next}.downsample.{layer}.{weight}")
            }
            ["head", weight] => format!("head.fc.{weight}"),
            _ => name.into(),
        });
    }
    checkpoint.resample_patches("patch_embed.proj.weight", PATCH);
    for (stage, depth) in config.depths.into_iter().enumerate() {
        for block in 0..depth {
            let table = format!("layers.{stage}.blocks.{block}.attn.relative_position_bias_table");
            checkpoint.resample_relative_positions(&table, config.window(stage));
        }
    }
}

/// A Swin Transformer. See [`Config`].
#[derive(Module, Debug)]
pub struct SwinTransformer {
    patch_embed: PatchEmbed,
    layers: Vec<Stage>,
    norm: LayerNorm,
    head: Head,
    #[module(skip)]
    dropout: Dropout,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

impl SwinTransformer {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = config.channels(3);
        let patches = PatchEmbed::new(config.input_size, PATCH, config.embed_dim, device);
        let network = Self {
            patch_embed: patches.with_norm(EPSILON, device),
            layers: (0..4).map(|index| Stage::new(config, index, device)).collect(),
            norm: LayerNorm::new(channels, EPSILON, device),
            head: Head { fc: Linear::new(channels, num_classes, device) },
            dropout: config.regularisation.dropout(),
        };
        // What is normalised at the end of a branch begins as nothing.
        let ends = matches!(config.version, Version::V2 { .. });
        initialised(network, |parameter| {
            if ends && [".norm1.weight", ".norm2.weight"].iter().any(|end| parameter.key.ends_with(end)) {
                return Some(Initial::Constant(0.0));
            }
            parameter.linear(0.02).or_else(|| parameter.pytorch())
        })
    }
}

impl Architecture for SwinTransformer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        // timm keeps rows and columns apart.
        let mut show = |name: &dyn Fn() -> String, [rows, columns]: [usize; 2], x: Tensor<3>| {
            let [batch, tokens, channels] = x.dims();
            taps.map(name, x.reshape([batch, rows, columns, channels])).reshape([batch, tokens, channels])
        };
        let [first, .., last] = self.layers.as_slice() else {
            unreachable!("a network of several stages");
        };
        let mut x = show(&|| "patch_embed".into(), first.grid, self.patch_embed.forward(images));
        for (index, stage) in self.layers.iter().enumerate() {
            if let Some(merging) = &stage.downsample {
                x = merging.forward(x);
            }
            for (position, block) in stage.blocks.iter().enumerate() {
                x = show(&|| format!("layers.{index}.blocks.{position}"), stage.grid, block.forward(x));
            }
            x = show(&|| format!("layers.{index}"), stage.grid, x);
        }
        let x = show(&|| "norm".into(), last.grid, self.norm.forward(x));
        let features = taps.map(|| "head.global_pool".into(), mean_of_tokens(x));
        Outputs { logits: self.head.fc.forward(self.dropout.forward(features.clone())), features }
    }
}

/// Blocks on one grid; all stages but the first begin by merging four tokens into one.
#[derive(Module, Debug)]
struct Stage {
    downsample: Option<PatchMerging>,
    blocks: Vec<Block>,
    /// Rows and columns.
    grid: [usize; 2],
}

impl Stage {
    fn new(config: &Config, index: usize, device: &Device) -> Self {
        let (channels, grid, window) = (config.channels(index), config.grid(index), config.window(index));
        let block = |position: usize| {
            // Every other block's windows are shifted, but not in a direction in which they have the whole grid.
            let moves = |axis: usize| position % 2 == 1 && grid[axis] > window[axis];
            let shift = [0, 1].map(|axis| if moves(axis) { window[axis] / 2 } else { 0 });
            let windows = Windows::new(grid, window, shift);
            let norm = || LayerNorm::new(channels, EPSILON, device);
            let heads = config.heads[index];
            let attn = match config.version {
                Version::V1 => Attention::Biased(WindowAttention::new(channels, heads, windows, device)),
                Version::V2 { measure } => {
                    let measure = measure.map_or(window, |windows| [windows[index]; 2]);
                    Attention::Cosine(CosineAttention::new(channels, heads, windows, measure, device))
                }
            };
            Block {
                norm1: norm(),
                attn,
                norm2: norm(),
                mlp: Mlp::new(channels, 4 * channels, Activation::Gelu, device),
                drop_path: config.regularisation.growing(&config.depths, index, position),
            }
        };
        let merging = |before| PatchMerging::new(config, before, device);
        Self {
            downsample: index.checked_sub(1).map(merging),
            blocks: (0..config.depths[index]).map(block).collect(),
            grid,
        }
    }
}

/// Attention within windows, then a perceptron, both residual and normalised.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    drop_path: StochasticDepth,
}

#[derive(Module, Debug)]
enum Attention {
    Biased(WindowAttention),
    Cosine(CosineAttention),
}

impl Block {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.attn {
            Attention::Biased(attention) => {
                let y = self.norm1.forward(x.clone());
                let x = self.drop_path.residual(x, |x| attention.forward_residual(y, x));
                let y = self.norm2.forward(x.clone());
                self.drop_path.residual(x, |x| self.mlp.forward_residual(y, None, x))
            }
            Attention::Cosine(attention) => {
                let y = self.norm1.forward(attention.forward(x.clone()));
                let x = self.drop_path.residual(x, |x| add(y, x, Activation::Identity));
                let y = self.norm2.forward(self.mlp.forward(x.clone()));
                self.drop_path.residual(x, |x| add(y, x, Activation::Identity))
            }
        }
    }
}

/// Attention within windows whose scores are cosines times a learnt number, and whose bias is computed from the distance.
#[derive(Module, Debug)]
struct CosineAttention {
    /// Logarithms, `[head, 1, 1]`.
    logit_scale: Param<Tensor<3>>,
    /// In the places of timm's Sequential: `cpb_mlp.0`, `cpb_mlp.2`.
    cpb_mlp: (Linear, Relu, Linear),
    qkv: Linear,
    q_bias: Param<Tensor<1>>,
    v_bias: Param<Tensor<1>>,
    proj: Linear,
    #[module(skip)]
    windows: Windows,
    /// Rows and columns of the window by which distances are measured.
    measure: [usize; 2],
}

impl CosineAttention {
    fn new(channels: usize, heads: usize, windows: Windows, measure: [usize; 2], device: &Device) -> Self {
        let zeros = || Initializer::Zeros.init([channels], device);
        Self {
            logit_scale: Initializer::Constant { value: 10f64.ln() }.init([heads, 1, 1], device),
            cpb_mlp: (Linear::new(2, 512, device), Relu, Linear::without_bias(512, heads, device)),
            qkv: Linear::without_bias(channels, 3 * channels, device),
            q_bias: zeros(),
            v_bias: zeros(),
            proj: Linear::new(channels, channels, device),
            windows,
            measure,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [_, _, channels] = x.dims();
        let [heads, ..] = self.logit_scale.dims();
        let size = channels / heads;
        let (q_bias, v_bias) = (self.q_bias.val(), self.v_bias.val());
        let biases = Tensor::cat(vec![q_bias.clone(), q_bias.zeros_like(), v_bias], 0);
        let qkv = self.qkv.forward(self.windows.partition(x)) + biases.reshape([1, 1, 3 * channels]);
        let [batch, tokens, _] = qkv.dims();
        let part = |index| qkv.clone().narrow(2, index * channels, channels);
        let unit = |x: Tensor<3>| {
            let x = x.reshape([batch, tokens, heads, size]);
            let squares = x.clone().square().sum_dim(3);
            x / squares.clamp_min(1e-24).sqrt()
        };
        // Attention divides the scores by the root of the size.
        let scale = self.logit_scale.val().clamp_max(100f64.ln()).exp() * (size as f64).sqrt();
        let queries = unit(part(0)) * scale.reshape([1, 1, heads, 1]);
        let [queries, keys] = [queries, unit(part(1))].map(|x| x.reshape([batch, tokens, channels]));
        let qkv = Tensor::cat(vec![queries, keys, part(2)], 2);
        let bias = self.windows.bias(self.table());
        self.proj.forward(self.windows.merge(biased_self_attention(qkv, heads, Some(bias))))
    }

    /// The bias of each relative position, `[(2 · rows − 1) · (2 · columns − 1), head]`.
    fn table(&self) -> Tensor<2> {
        // As timm does, in single precision.
        let along = |axis: usize| {
            let (last, measure) = (self.windows.size[axis] as i32 - 1, (self.measure[axis] - 1).max(1) as f32);
            let coordinate = |distance: i32| {
                let relative = distance as f32 / measure * 8.0;
                f64::from(relative.signum() * (relative.abs() + 1.0).log2() / 3.0)
            };
            (-last..=last).map(coordinate).collect::<Vec<f64>>()
        };
        let (down, across) = (along(0), along(1));
        let pairs: Vec<f64> =
            down.iter().flat_map(|&row| across.iter().flat_map(move |&column| [row, column])).collect();
        let (first, _, second) = &self.cpb_mlp;
        let options = (&first.weight.device().without_autodiff(), first.weight.val().dtype());
        let pairs = Tensor::<2>::from_data(TensorData::new(pairs, [down.len() * across.len(), 2]), options);
        let hidden = first.forward_activated(pairs, Activation::Relu);
        Activation::Sigmoid.forward(second.forward(hidden)) * 16.0
    }
}

/// Four neighbouring tokens become one of twice as many channels; what is beyond an odd border is zero.
#[derive(Module, Debug)]
struct PatchMerging {
    norm: LayerNorm,
    reduction: Linear,
    norm_first: bool,
    #[module(skip)]
    order: Arc<RowOrder>,
}

impl PatchMerging {
    /// Behind a stage.
    fn new(config: &Config, stage: usize, device: &Device) -> Self {
        let (channels, [rows, columns]) = (config.channels(stage), config.grid(stage));
        let across = columns.div_ceil(2);
        // Of the four, those of the left column come first.
        let sources = (0..4 * rows.div_ceil(2) * across).map(|index| {
            let (token, column, row) = (index / 4, index / 2 % 2, index % 2);
            let (row, column) = (2 * (token / across) + row, 2 * (token % across) + column);
            (row < rows && column < columns).then_some(row * columns + column)
        });
        let norm_first = config.version == Version::V1;
        Self {
            norm: LayerNorm::new(if norm_first { 4 * channels } else { 2 * channels }, EPSILON, device),
            reduction: Linear::without_bias(4 * channels, 2 * channels, device),
            norm_first,
            order: Arc::new(RowOrder::new(rows * columns, sources.collect())),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, _, channels] = x.dims();
        let x = gather_rows(x, &self.order);
        let [_, rows, _] = x.dims();
        let x = x.reshape([batch, rows / 4, 4 * channels]);
        if self.norm_first {
            self.reduction.forward(self.norm.forward(x))
        } else {
            self.norm.forward(self.reduction.forward(x))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What timm's `checkpoint_filter_fn` makes of these for a network of 8 × 8 windows.
    #[test]
    fn the_authors_files_become_timms() {
        let table = "layers.1.blocks.0.attn.relative_position_bias_table";
        let patches = "patch_embed.proj.weight";
        let names = [
            "layers.0.downsample.reduction.weight",
            "layers.0.blocks.1.attn_mask",
            "layers.0.blocks.1.attn.relative_position_index",
            "layers.1.downsample.norm.bias",
            "layers.1.blocks.0.norm1.weight",
            "head.weight",
        ];
        let shaped = [(table.to_owned(), vec![169, 6]), (patches.to_owned(), vec![96, 3, 8, 8])];
        let shapes = names.map(|name| (name.to_owned(), vec![1])).into_iter().chain(shaped);
        let mut checkpoint = Checkpoint::new(shapes);
        convert(&Config { windows: [8; 4], input_size: [256; 2], ..TINY }, &mut checkpoint);
        let expected = [
            "head.fc.weight",
            table,
            "layers.1.blocks.0.norm1.weight",
            "layers.1.downsample.reduction.weight",
            "layers.2.downsample.norm.bias",
            patches,
        ];
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), expected);
        assert_eq!(checkpoint.shape(patches), Some([96, 3, 4, 4].as_slice()));
        assert_eq!(checkpoint.shape(table), Some([225, 6].as_slice()));
    }

    #[test]
    fn the_last_of_all_stages_has_none_behind_it() {
        let names = ["layers.0.downsample.reduction.weight", "layers.18446744073709551615.downsample.norm.bias"];
        let mut checkpoint = Checkpoint::new(names.map(|name| (name.to_owned(), vec![1])));
        convert(&TINY, &mut checkpoint);
        assert!(checkpoint.names().eq(["layers.1.downsample.reduction.weight", names[1]]));
    }
}
