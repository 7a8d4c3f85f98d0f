//! Swin: attention within windows, which are shifted from block to block.
//!
//! Liu et al., *Swin Transformer: Hierarchical Vision Transformer using Shifted Windows* (arXiv 2103.14030); Chen et al.,
//! *Searching the Search Space of Vision Transformer* (2111.14725), the s3 variants.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use netkin_kernels::RowOrder;

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, LayerNorm, Linear, Mlp, PatchEmbed, WindowAttention, Windows, gather_rows, mean_of_tokens,
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
    /// Whether the sizes were found by search.
    pub searched: bool,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const TINY: Config = Config {
    embed_dim: 96,
    depths: [2, 2, 6, 2],
    heads: [3, 6, 12, 24],
    windows: [7; 4],
    searched: false,
    input_size: 224,
    num_classes: 1000,
};
const SMALL: Config = Config { depths: [2, 2, 18, 2], ..TINY };
const BASE: Config = Config { embed_dim: 128, heads: [4, 8, 16, 32], ..SMALL };

const fn s3(depths: [usize; 4], windows: [usize; 4]) -> Config {
    Config { depths, windows, searched: true, ..TINY }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("swin_base_patch4_window7_224", BASE),
    ("swin_s3_base_224", s3([2, 2, 30, 2], [7, 7, 14, 7])),
    ("swin_s3_small_224", s3([2, 2, 18, 2], [14, 14, 14, 7])),
    ("swin_s3_tiny_224", s3([2, 2, 6, 2], [7, 7, 14, 7])),
    ("swin_small_patch4_window7_224", SMALL),
    ("swin_tiny_patch4_window7_224", TINY),
];

const PATCH: usize = 4;
const EPSILON: f64 = 1e-5;

configuration!(SwinTransformer, |_config| InputRule::Multiple(PATCH), convert);

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
}

/// The authors' files shrink at the end of a stage, timm's at the beginning of the next, and both kept what is computed.
fn convert(_: &Config, checkpoint: &mut Checkpoint) {
    checkpoint.remove(|name| name.ends_with("relative_position_index") || name.ends_with("attn_mask"));
    if !checkpoint.contains("layers.0.downsample.reduction.weight") {
        return;
    }
    checkpoint.rename(|name| {
        let mut parts: Vec<String> = name.split('.').map(String::from).collect();
        if let [layers, stage, downsample, ..] = parts.as_mut_slice()
            && layers == "layers"
            && downsample == "downsample"
            && let Ok(number) = stage.parse::<usize>()
        {
            *stage = (number + 1).to_string();
        }
        parts.join(".").replace("head.", "head.fc.")
    });
}

/// A Swin Transformer. See [`Config`].
#[derive(Module, Debug)]
pub struct SwinTransformer {
    patch_embed: PatchEmbed,
    layers: Vec<Stage>,
    norm: LayerNorm,
    head: Head,
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
        let mut side = config.input_size / PATCH;
        let stage = |index| {
            let before = side;
            if index > 0 {
                side = side.div_ceil(2);
            }
            Stage::new(config, index, before, side, device)
        };
        Self {
            patch_embed: patches.with_norm(EPSILON, device),
            layers: (0..4).map(stage).collect(),
            norm: LayerNorm::new(channels, EPSILON, device),
            head: Head { fc: Linear::new(channels, num_classes, device) },
        }
    }
}

impl Architecture for SwinTransformer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = taps.map(|| "patch_embed".into(), self.patch_embed.forward(images));
        for (index, stage) in self.layers.iter().enumerate() {
            if let Some(merging) = &stage.downsample {
                x = merging.forward(x);
            }
            // timm keeps rows and columns apart.
            let mut show = |name: &dyn Fn() -> String, x: Tensor<3>| {
                let [batch, tokens, channels] = x.dims();
                let grid = x.reshape([batch, stage.side, stage.side, channels]);
                taps.map(name, grid).reshape([batch, tokens, channels])
            };
            for (position, block) in stage.blocks.iter().enumerate() {
                x = show(&|| format!("layers.{index}.blocks.{position}"), block.forward(x));
            }
            x = show(&|| format!("layers.{index}"), x);
        }
        let x = taps.map(|| "norm".into(), self.norm.forward(x));
        let features = taps.map(|| "head.global_pool".into(), mean_of_tokens(x));
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

/// Blocks on one grid; all stages but the first begin by merging four tokens into one.
#[derive(Module, Debug)]
struct Stage {
    downsample: Option<PatchMerging>,
    blocks: Vec<Block>,
    /// Of the grid, in tokens.
    side: usize,
}

impl Stage {
    /// From a grid of one side to another.
    fn new(config: &Config, index: usize, before: usize, side: usize, device: &Device) -> Self {
        let channels = config.channels(index);
        let window = config.windows[index].min(side);
        let block = |position: usize| {
            // A window that is the whole grid is not shifted.
            let shift = if position % 2 == 1 && side > window { window / 2 } else { 0 };
            let windows = Windows::new([side; 2], window, shift);
            let norm = || LayerNorm::new(channels, EPSILON, device);
            Block {
                norm1: norm(),
                attn: WindowAttention::new(channels, config.heads[index], windows, device),
                norm2: norm(),
                mlp: Mlp::new(channels, 4 * channels, Activation::Gelu, device),
            }
        };
        Self {
            downsample: (index > 0).then(|| PatchMerging::new(channels / 2, before, device)),
            blocks: (0..config.depths[index]).map(block).collect(),
            side,
        }
    }
}

/// Attention within windows, then a perceptron, both residual and normalised at their beginning.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: WindowAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.attn.forward_residual(self.norm1.forward(x.clone()), x);
        self.mlp.forward_residual(self.norm2.forward(x.clone()), None, x)
    }
}

/// Four neighbouring tokens become one of twice as many channels; what is beyond an odd border is zero.
#[derive(Module, Debug)]
struct PatchMerging {
    norm: LayerNorm,
    reduction: Linear,
    #[module(skip)]
    order: Arc<RowOrder>,
}

impl PatchMerging {
    fn new(channels: usize, side: usize, device: &Device) -> Self {
        let half = side.div_ceil(2);
        // Of the four, those of the left column come first.
        let sources = (0..4 * half * half).map(|index| {
            let (token, column, row) = (index / 4, index / 2 % 2, index % 2);
            let (row, column) = (2 * (token / half) + row, 2 * (token % half) + column);
            (row < side && column < side).then_some(row * side + column)
        });
        Self {
            norm: LayerNorm::new(4 * channels, EPSILON, device),
            reduction: Linear::without_bias(4 * channels, 2 * channels, device),
            order: Arc::new(RowOrder::new(side * side, sources.collect())),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, _, channels] = x.dims();
        let x = gather_rows(x, &self.order);
        let [_, rows, _] = x.dims();
        self.reduction.forward(self.norm.forward(x.reshape([batch, rows / 4, 4 * channels])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_files_become_timms() {
        let names = [
            "layers.0.downsample.reduction.weight",
            "layers.0.blocks.1.attn_mask",
            "layers.0.blocks.1.attn.relative_position_index",
            "layers.1.downsample.norm.bias",
            "layers.1.blocks.0.norm1.weight",
            "head.weight",
        ];
        let mut checkpoint = Checkpoint::new(names.map(|name| (name.to_owned(), vec![1])));
        convert(&TINY, &mut checkpoint);
        let expected = [
            "head.fc.weight",
            "layers.1.blocks.0.norm1.weight",
            "layers.1.downsample.reduction.weight",
            "layers.2.downsample.norm.bias",
        ];
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), expected);
    }
}
