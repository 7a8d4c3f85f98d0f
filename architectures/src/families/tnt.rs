//! TNT: a Transformer between the pixels of each patch within a Transformer between the patches.
//!
//! Han et al., *Transformer in Transformer* (arXiv 2103.00112).

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Conv2d, Dropout, LayerNorm, Linear, Mlp, Padding, Regularisation, StochasticDepth, add, assert_size,
    image_to_tokens, prepend_class_token, self_attention, split_class_token,
};
use crate::taps::Taps;

/// Which TNT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels of a patch.
    pub embed_dim: usize,
    /// Channels of a pixel.
    pub inner_dim: usize,
    /// Attention heads between patches, which divide their channels.
    pub heads: usize,
    /// Whether the image is cut into patches behind the first convolution, and what the pixels give to their patch is
    /// normalised pixel by pixel: the network of the weights that came first.
    pub legacy: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Height and width in pixels.
    pub input_size: [usize; 2],
    /// Classes of the published weights.
    pub num_classes: usize,
}

const DEPTH: usize = 12;
/// Pixels of the image that make a patch, both ways.
const PATCH_SIZE: usize = 16;
/// Pixels of the image that make one of the pixels within a patch, both ways.
const STRIDE: usize = 4;
/// Pixels within a patch, both ways.
const SIDE: usize = PATCH_SIZE / STRIDE;
/// Attention heads between the pixels of a patch.
const INNER_HEADS: usize = 4;
const EPSILON: f64 = 1e-5;

const SMALL: Config = Config {
    embed_dim: 384,
    inner_dim: 24,
    heads: 6,
    legacy: false,
    regularisation: Regularisation::NONE,
    input_size: [224; 2],
    num_classes: 1000,
};

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("tnt_b_patch16_224", Config { embed_dim: 640, inner_dim: 40, heads: 10, ..SMALL }),
    ("tnt_s_legacy_patch16_224", Config { legacy: true, ..SMALL }),
    ("tnt_s_patch16_224", SMALL),
];

configuration!(TransformerInTransformer, InputRule::Multiple(PATCH_SIZE), convert; regularisation);

impl Config {
    /// Rows and columns of patches.
    fn patches(&self) -> [usize; 2] {
        self.input_size.map(|side| side / PATCH_SIZE)
    }

    fn components(&self) -> Components {
        Components { hierarchical: true, stem: "7s4".into(), ..Components::TRANSFORMER }
    }
}

/// The authors' files have other names, and the positions of pixels row by row.
fn convert(config: &Config, checkpoint: &mut Checkpoint) {
    const NAMES: [(&str, &str); 13] = [
        ("outer_pos", "patch_pos"),
        ("inner_pos", "pixel_pos"),
        ("patch_embed", "pixel_embed"),
        ("proj_norm1", "norm1_proj"),
        ("proj_norm2", "norm2_proj"),
        ("inner_norm1", "norm_in"),
        ("inner_attn", "attn_in"),
        ("inner_norm2", "norm_mlp_in"),
        ("inner_mlp", "mlp_in"),
        ("outer_norm1", "norm_out"),
        ("outer_attn", "attn_out"),
        ("outer_norm2", "norm_mlp"),
        ("outer_mlp", "mlp"),
    ];
    checkpoint.remove(|name| name == "outer_tokens");
    if !checkpoint.contains("patch_pos") {
        checkpoint.rename(|name| NAMES.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new)));
        if let (false, Some(&[1, pixels, channels])) = (config.legacy, checkpoint.shape("pixel_pos"))
            && pixels.checked_rem(pixels.isqrt()) == Some(0)
        {
            let transpose = move |values: Vec<f64>| {
                (0..channels)
                    .flat_map(|channel| values[channel..].iter().copied().step_by(channels).collect::<Vec<_>>())
                    .collect()
            };
            let side = pixels.isqrt();
            checkpoint.compute("pixel_pos", &[1, channels, side, pixels / side], transpose);
        }
    }
    checkpoint.resample_positions("patch_pos", 1, config.patches());
}

/// A Transformer in Transformer. See [`Config`].
#[derive(Module, Debug)]
pub struct TransformerInTransformer {
    pixel_embed: PixelEmbed,
    norm1_proj: LayerNorm,
    proj: Linear,
    norm2_proj: LayerNorm,
    cls_token: Param<Tensor<3>>,
    patch_pos: Param<Tensor<3>>,
    /// `[1, channel, row, column]` within a patch.
    pixel_pos: Param<Tensor<4>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
    #[module(skip)]
    dropout: Dropout,
}

impl TransformerInTransformer {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let (outer, inner) = (config.embed_dim, config.inner_dim);
        let positions = Initializer::Normal { mean: 0.0, std: 0.02 };
        let pixels = inner * SIDE * SIDE;
        Self {
            pixel_embed: PixelEmbed::new(config, device),
            norm1_proj: LayerNorm::new(pixels, EPSILON, device),
            proj: Linear::new(pixels, outer, device),
            norm2_proj: LayerNorm::new(outer, EPSILON, device),
            cls_token: positions.init([1, 1, outer], device),
            patch_pos: positions.init([1, 1 + config.patches().iter().product::<usize>(), outer], device),
            pixel_pos: positions.init([1, inner, SIDE, SIDE], device),
            blocks: (0..DEPTH).map(|index| Block::new(config, index, device)).collect(),
            norm: LayerNorm::new(outer, EPSILON, device),
            head: Linear::new(outer, num_classes, device),
            dropout: config.regularisation.dropout(),
        }
    }
}

impl Architecture for TransformerInTransformer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut pixels = taps.map(|| "pixel_embed".into(), self.pixel_embed.forward(images, self.pixel_pos.val()));
        let patches = self.norm1_proj.forward(joined(pixels.clone()));
        let patches = self.norm2_proj.forward(self.proj.forward(patches));
        let mut patches = prepend_class_token(self.cls_token.val(), patches) + self.patch_pos.val();
        for (index, block) in self.blocks.iter().enumerate() {
            (pixels, patches) = block.forward(pixels, patches);
            (pixels, patches) = taps.map_both(|| format!("blocks.{index}"), pixels, patches);
        }
        let x = taps.map(|| "norm".into(), self.norm.forward(patches));
        let features = x.narrow(1, 0, 1).squeeze_dim(1);
        Outputs { logits: self.head.forward(self.dropout.forward(features.clone())), features }
    }
}

/// The pixels of each patch side by side: `[batch, patch, pixel, channel]` → `[batch, patch, pixel · channel]`.
fn joined(pixels: Tensor<4>) -> Tensor<3> {
    let [batch, patches, count, channels] = pixels.dims();
    pixels.reshape([batch, patches, count * channels])
}

/// From an image to the pixels of its patches, by a convolution that a patch's border ends; or, in the first weights'
/// network, does not.
#[derive(Module, Debug)]
struct PixelEmbed {
    proj: Conv2d,
    legacy: bool,
    image_size: [usize; 2],
}

impl PixelEmbed {
    fn new(config: &Config, device: &Device) -> Self {
        let conv = Conv2d::config(3, config.inner_dim, 7).stride(STRIDE).padding(Padding::Symmetric(3));
        Self { proj: conv.bias().build(device), legacy: config.legacy, image_size: config.input_size }
    }

    /// `[batch, patch, pixel, channel]`.
    fn forward(&self, images: Tensor<4>, positions: Tensor<4>) -> Tensor<4> {
        let [batch, ..] = images.dims();
        assert_size(&images, self.image_size);
        let patches = if self.legacy {
            squares(self.proj.forward(images), SIDE)
        } else {
            self.proj.forward(squares(images, PATCH_SIZE))
        };
        let [count, channels, ..] = patches.dims();
        image_to_tokens(patches + positions).reshape([batch, count / batch, SIDE * SIDE, channels])
    }
}

/// `[batch, channel, height, width]` → `[batch · square, channel, size, size]`, row by row.
fn squares(x: Tensor<4>, size: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let (rows, columns) = (height / size, width / size);
    x.reshape([batch, channels, rows, size, columns, size]).permute([0, 2, 4, 1, 3, 5]).reshape([
        batch * rows * columns,
        channels,
        size,
        size,
    ])
}

/// A Transformer's block between the pixels of each patch, what they give to the patch, and a Transformer's block between the
/// patches.
#[derive(Module, Debug)]
struct Block {
    norm_in: LayerNorm,
    attn_in: Attention,
    norm_mlp_in: LayerNorm,
    mlp_in: Mlp,
    norm1_proj: LayerNorm,
    proj: Linear,
    norm2_proj: Option<LayerNorm>,
    norm_out: LayerNorm,
    attn_out: Attention,
    norm_mlp: LayerNorm,
    mlp: Mlp,
    /// Of both blocks; the patches of an image lose their pixels' one by one.
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Block {
    fn new(config: &Config, index: usize, device: &Device) -> Self {
        let (outer, inner, legacy) = (config.embed_dim, config.inner_dim, config.legacy);
        let pixels = inner * SIDE * SIDE;
        let norm = |channels| LayerNorm::new(channels, EPSILON, device);
        let mlp = |channels| Mlp::new(channels, 4 * channels, Activation::Gelu, device);
        Self {
            norm_in: norm(inner),
            attn_in: Attention::new(inner, INNER_HEADS, device),
            norm_mlp_in: norm(inner),
            mlp_in: mlp(inner),
            norm1_proj: norm(if legacy { inner } else { pixels }),
            proj: if legacy { Linear::new(pixels, outer, device) } else { Linear::without_bias(pixels, outer, device) },
            norm2_proj: (!legacy).then(|| norm(outer)),
            norm_out: norm(outer),
            attn_out: Attention::new(outer, config.heads, device),
            norm_mlp: norm(outer),
            mlp: mlp(outer),
            drop_path: config.regularisation.growing(&[DEPTH], 0, index),
        }
    }

    /// The pixels `[batch, patch, pixel, channel]`, and the class token and patches `[batch, 1 + patch, channel]`.
    fn forward(&self, pixels: Tensor<4>, patches: Tensor<3>) -> (Tensor<4>, Tensor<3>) {
        let shape @ [batch, count, inside, channels] = pixels.dims();
        let x = pixels.reshape([batch * count, inside, channels]);
        let y = self.norm_in.forward(x.clone());
        let x = self.drop_path.residual(x, |x| self.attn_in.forward_residual(y, x));
        let y = self.norm_mlp_in.forward(x.clone());
        let x = self.drop_path.residual(x, |x| self.mlp_in.forward_residual(y, None, x));
        let pixels = x.reshape(shape);

        let [class, others] = split_class_token(patches);
        let others = match &self.norm2_proj {
            Some(norm) => {
                let given = norm.forward(self.proj.forward(self.norm1_proj.forward(joined(pixels.clone()))));
                add(others, given, Activation::Identity)
            }
            None => self.proj.forward_residual(joined(self.norm1_proj.forward(pixels.clone())), None, others),
        };
        let x = Tensor::cat(vec![class, others], 1);
        let y = self.norm_out.forward(x.clone());
        let x = self.drop_path.residual(x, |x| self.attn_out.forward_residual(y, x));
        let y = self.norm_mlp.forward(x.clone());
        let patches = self.drop_path.residual(x, |x| self.mlp.forward_residual(y, None, x));
        (pixels, patches)
    }
}

/// Multi-head self-attention with one map for queries and keys and another for values.
#[derive(Module, Debug)]
struct Attention {
    qk: Linear,
    v: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    fn new(channels: usize, heads: usize, device: &Device) -> Self {
        Self {
            qk: Linear::without_bias(channels, 2 * channels, device),
            v: Linear::without_bias(channels, channels, device),
            proj: Linear::new(channels, channels, device),
            heads,
        }
    }

    /// shortcut + attention(x) over `[batch, token, channel]`.
    fn forward_residual(&self, x: Tensor<3>, shortcut: Tensor<3>) -> Tensor<3> {
        let qkv = Tensor::cat(vec![self.qk.forward(x.clone()), self.v.forward(x)], 2);
        self.proj.forward_residual(self_attention(qkv, self.heads), None, shortcut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_authors_are_understood() {
        let names =
            ["outer_pos", "inner_pos", "outer_tokens", "blocks.0.outer_mlp.fc1.bias", "blocks.0.proj_norm1.bias"];
        let mut checkpoint = Checkpoint::new(names.map(|name| match name {
            "inner_pos" => (name.to_string(), vec![1, 4, 3]),
            _ => (name.to_string(), vec![1, 1 + 14 * 14, 384]),
        }));
        convert(&Config { input_size: [64, 48], ..SMALL }, &mut checkpoint);
        assert!(checkpoint.names().eq(["blocks.0.mlp.fc1.bias", "blocks.0.norm1_proj.bias", "patch_pos", "pixel_pos"]));
        assert_eq!(checkpoint.shape("patch_pos"), Some([1, 1 + 4 * 3, 384].as_slice()));
        assert_eq!(checkpoint.shape("pixel_pos"), Some([1, 3, 2, 2].as_slice()));
        let read = |_: &str| Ok::<_, ()>((0..12).map(f64::from).collect());
        let transposed = vec![0.0, 3.0, 6.0, 9.0, 1.0, 4.0, 7.0, 10.0, 2.0, 5.0, 8.0, 11.0];
        assert_eq!(checkpoint.values("pixel_pos", read), Ok(transposed));
    }

    /// As many numbers as 4 × 4 pixels have is what the network's layout wants, and 17 are not.
    #[test]
    fn pixels_that_make_no_rows_are_left() {
        for pixels in [0, 5, 17] {
            let mut checkpoint = Checkpoint::new([("inner_pos".to_owned(), vec![1, pixels, 24])]);
            convert(&SMALL, &mut checkpoint);
            assert_eq!(checkpoint.shape("pixel_pos"), Some([1, pixels, 24].as_slice()));
        }
    }
}
