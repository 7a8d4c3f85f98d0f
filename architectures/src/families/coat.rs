//! CoaT: Transformers of four scales with factorised attention and convolutions for positions; in CoaT-Lite one scale comes
//! after the other, in CoaT the last three also run side by side.
//!
//! Xu et al., *Co-Scale Conv-Attentional Image Transformers* (arXiv 2104.06399).

use std::array::from_fn;

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Conv2d, ConvolutionalPositions, FactorisedAttention, Interpolation, LayerNorm, Linear, Mlp, Padding,
    Then, add, image_to_tokens, prepend_class_token, resize, split_class_token, tokens_to_image,
};
use crate::taps::Taps;

/// Which CoaT.
#[derive(Debug, Clone)]
pub struct Config {
    /// Channels at each scale.
    pub embed_dims: [usize; 4],
    /// Blocks of each scale by itself.
    pub serial_depths: [usize; 4],
    /// Blocks of the last three scales together, after those; none in CoaT-Lite.
    pub parallel_depth: usize,
    /// Hidden channels of a block's perceptron at each scale, as a multiple of the token's.
    pub mlp_ratios: [usize; 4],
    /// Height and width in pixels.
    pub input_size: [usize; 2],
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// Of the normalisations in and after the blocks.
const EPSILON: f64 = 1e-6;
/// Of those after the patches.
const PATCH_EPSILON: f64 = 1e-5;
/// Pixels that become one token at the first scale, both ways.
const PATCH_SIZE: usize = 4;
/// Where scales meet, the image is a multiple of so many pixels, so that the last has whole tokens.
const MULTIPLE: usize = 8 * PATCH_SIZE;

const LITE: Config = Config {
    embed_dims: [64, 128, 320, 512],
    serial_depths: [2, 2, 2, 2],
    parallel_depth: 0,
    mlp_ratios: [8, 8, 4, 4],
    input_size: [224; 2],
    num_classes: 1000,
};
const LITE_MEDIUM: Config =
    Config { embed_dims: [128, 256, 320, 512], serial_depths: [3, 6, 10, 8], mlp_ratios: [4; 4], ..LITE };

/// With so many channels at the first scale, and at the others.
const fn parallel(first: usize, others: usize) -> Config {
    Config { embed_dims: [first, others, others, others], parallel_depth: 6, mlp_ratios: [4; 4], ..LITE }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("coat_lite_medium", LITE_MEDIUM),
    ("coat_lite_medium_384", Config { input_size: [384; 2], ..LITE_MEDIUM }),
    ("coat_lite_mini", LITE),
    ("coat_lite_small", Config { serial_depths: [3, 4, 6, 3], ..LITE }),
    ("coat_lite_tiny", Config { embed_dims: [64, 128, 256, 320], ..LITE }),
    ("coat_mini", parallel(152, 216)),
    ("coat_small", parallel(152, 320)),
    ("coat_tiny", parallel(152, 152)),
];

configuration!(CoaT, |config| config.input_rule(), convert);

impl Config {
    /// Scales that run one after the other take what they get.
    fn input_rule(&self) -> InputRule {
        if self.parallel_depth == 0 { InputRule::Any } else { InputRule::Multiple(MULTIPLE) }
    }

    fn components(&self) -> Components {
        Components {
            base_architecture: "Hybrid",
            hierarchical: true,
            stem: format!("{PATCH_SIZE}s{PATCH_SIZE}").into(),
            depthwise_convolution: true,
            ..Components::TRANSFORMER
        }
    }
}

/// Files name what blocks share in each of them, and may hold normalisations that the network has no use for.
fn convert(config: &Config, checkpoint: &mut Checkpoint) {
    const SHARED: [&str; 4] = [".cpe.", ".crpe.", ".mlp3.", ".mlp4."];
    checkpoint.remove(|name| {
        let (first, _) = name.split_once('.').unwrap_or((name, ""));
        let unused = first == "norm1" || config.parallel_depth == 0 && ["norm2", "norm3", "aggregate"].contains(&first);
        unused || first.contains("_blocks") && SHARED.iter().any(|part| name.contains(part))
    });
}

/// A CoaT. See [`Config`].
#[derive(Module, Debug)]
pub struct CoaT {
    cls_token1: Param<Tensor<3>>,
    cls_token2: Param<Tensor<3>>,
    cls_token3: Param<Tensor<3>>,
    cls_token4: Param<Tensor<3>>,
    patch_embed1: Patches,
    patch_embed2: Patches,
    patch_embed3: Patches,
    patch_embed4: Patches,
    cpe1: Neighbourhood,
    cpe2: Neighbourhood,
    cpe3: Neighbourhood,
    cpe4: Neighbourhood,
    crpe1: ConvolutionalPositions,
    crpe2: ConvolutionalPositions,
    crpe3: ConvolutionalPositions,
    crpe4: ConvolutionalPositions,
    serial_blocks1: Vec<SerialBlock>,
    serial_blocks2: Vec<SerialBlock>,
    serial_blocks3: Vec<SerialBlock>,
    serial_blocks4: Vec<SerialBlock>,
    parallel_blocks: Vec<ParallelBlock>,
    norm2: Option<LayerNorm>,
    norm3: Option<LayerNorm>,
    norm4: LayerNorm,
    aggregate: Option<Aggregate>,
    head: Linear,
}

/// What one scale is made of.
struct Scale<'a> {
    class: &'a Param<Tensor<3>>,
    patches: &'a Patches,
    positions: Positions<'a>,
    blocks: &'a [SerialBlock],
}

/// What the blocks of a scale share.
#[derive(Clone, Copy)]
struct Positions<'a> {
    absolute: &'a Neighbourhood,
    relative: &'a ConvolutionalPositions,
}

/// The class token and those of an image of this size.
struct Tokens {
    /// `[batch, 1 + height · width, channel]`.
    values: Tensor<3>,
    size: [usize; 2],
}

impl Tokens {
    /// Others of the same image.
    fn with(&self, values: Tensor<3>) -> Self {
        Self { values, size: self.size }
    }

    /// Those of an image of another size, made by interpolation; the class token stays.
    fn resized(&self, size: [usize; 2]) -> Tensor<3> {
        let [batch, _, channels] = self.values.dims();
        let [class, patches] = split_class_token(self.values.clone());
        let image = patches.reshape([batch, self.size[0], self.size[1], channels]);
        let image = resize(image, [1, 2], size, Interpolation::Bilinear);
        Tensor::cat(vec![class, image.reshape([batch, size[0] * size[1], channels])], 1)
    }
}

impl CoaT {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = config.embed_dims;
        let class = |scale: usize| Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, 1, channels[scale]], device);
        let patches = |scale: usize| Patches::new(channels[scale - 1], channels[scale], 2, device);
        let neighbourhood = |scale: usize| Neighbourhood::new(channels[scale], device);
        let positions = |scale: usize| ConvolutionalPositions::new(channels[scale], device);
        let blocks = |scale: usize| {
            let block = |_| SerialBlock::new(channels[scale], config.mlp_ratios[scale], device);
            (0..config.serial_depths[scale]).map(block).collect()
        };
        let is_parallel = config.parallel_depth > 0;
        let norm = |scale: usize| LayerNorm::new(channels[scale], EPSILON, device);
        Self {
            cls_token1: class(0),
            cls_token2: class(1),
            cls_token3: class(2),
            cls_token4: class(3),
            patch_embed1: Patches::new(3, channels[0], PATCH_SIZE, device),
            patch_embed2: patches(1),
            patch_embed3: patches(2),
            patch_embed4: patches(3),
            cpe1: neighbourhood(0),
            cpe2: neighbourhood(1),
            cpe3: neighbourhood(2),
            cpe4: neighbourhood(3),
            crpe1: positions(0),
            crpe2: positions(1),
            crpe3: positions(2),
            crpe4: positions(3),
            serial_blocks1: blocks(0),
            serial_blocks2: blocks(1),
            serial_blocks3: blocks(2),
            serial_blocks4: blocks(3),
            parallel_blocks: (0..config.parallel_depth).map(|_| ParallelBlock::new(config, device)).collect(),
            norm2: is_parallel.then(|| norm(1)),
            norm3: is_parallel.then(|| norm(2)),
            norm4: norm(3),
            aggregate: is_parallel.then(|| Aggregate::new(device)),
            head: Linear::new(channels[3], num_classes, device),
        }
    }

    fn scales(&self) -> [Scale<'_>; 4] {
        [
            (&self.cls_token1, &self.patch_embed1, &self.cpe1, &self.crpe1, &self.serial_blocks1),
            (&self.cls_token2, &self.patch_embed2, &self.cpe2, &self.crpe2, &self.serial_blocks2),
            (&self.cls_token3, &self.patch_embed3, &self.cpe3, &self.crpe3, &self.serial_blocks3),
            (&self.cls_token4, &self.patch_embed4, &self.cpe4, &self.crpe4, &self.serial_blocks4),
        ]
        .map(|(class, patches, absolute, relative, blocks)| Scale {
            class,
            patches,
            positions: Positions { absolute, relative },
            blocks,
        })
    }

    /// Each scale by itself, from the tokens of the one before.
    fn serial(&self, images: Tensor<4>, taps: &mut Taps) -> [Tokens; 4] {
        let mut image = images;
        let mut number = 0;
        self.scales().map(|Scale { class, patches, positions, blocks }| {
            number += 1;
            let (patches, size) = patches.forward(image.clone());
            let patches = taps.map(|| format!("patch_embed{number}"), patches);
            let mut x = Tokens { values: prepend_class_token(class.val(), patches), size };
            for (index, block) in blocks.iter().enumerate() {
                let name = || format!("serial_blocks{number}.{index}");
                x = x.with(taps.map(name, block.forward(&x, positions).values));
            }
            let x = Tokens { values: taps.map_again(|| format!("serial_blocks{number}"), x.values), size };
            let [_, patches] = split_class_token(x.values.clone());
            image = tokens_to_image(patches, size);
            x
        })
    }
}

impl Architecture for CoaT {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let [_, positions @ ..] = self.scales().map(|scale| scale.positions);
        let [first, mut scales @ ..] = self.serial(images, taps);
        for (index, block) in self.parallel_blocks.iter().enumerate() {
            let mixed = block.forward(scales, positions);
            // The first scale goes past these blocks.
            let results = [&first].into_iter().chain(&mixed).map(|scale| scale.values.clone()).collect();
            let mut results = taps.map_all(|| format!("parallel_blocks.{index}"), results);
            if index + 1 == self.parallel_blocks.len() {
                results = taps.map_together(|| "parallel_blocks".into(), results);
            }
            let mut results = results.into_iter().skip(1);
            scales = mixed.map(|scale| scale.with(results.next().expect("one for each scale")));
        }
        let [second, third, fourth] = scales.map(|scale| scale.values.narrow(1, 0, 1));
        let last = self.norm4.forward(fourth);
        let features = match (&self.norm2, &self.norm3, &self.aggregate) {
            (Some(norm2), Some(norm3), Some(aggregate)) => {
                aggregate.forward([norm2.forward(second), norm3.forward(third), last])
            }
            _ => last.squeeze_dim(1),
        };
        let features = taps.map(|| "features".into(), features);
        Outputs { logits: self.head.forward(features.clone()), features }
    }
}

/// Cuts an image into square patches, maps each linearly to a token and normalises it.
#[derive(Module, Debug)]
struct Patches {
    proj: Conv2d,
    norm: LayerNorm,
}

impl Patches {
    fn new(inputs: usize, outputs: usize, size: usize, device: &Device) -> Self {
        let conv = Conv2d::config(inputs, outputs, size).stride(size).padding(Padding::Symmetric(0));
        Self { proj: conv.bias().build(device), norm: LayerNorm::new(outputs, PATCH_EPSILON, device) }
    }

    /// The tokens, and how many there are down and across.
    fn forward(&self, image: Tensor<4>) -> (Tensor<3>, [usize; 2]) {
        let x = self.proj.forward(image);
        let [_, _, height, width] = x.dims();
        (self.norm.forward(image_to_tokens(x)), [height, width])
    }
}

/// Adds to each token a weighted sum of its neighbours in the image, which tells it where it is.
#[derive(Module, Debug)]
struct Neighbourhood {
    proj: Conv2d,
}

impl Neighbourhood {
    fn new(channels: usize, device: &Device) -> Self {
        Self { proj: Conv2d::config(channels, channels, 3).groups(channels).bias().build(device) }
    }

    fn forward(&self, x: &Tokens) -> Tokens {
        let [class, patches] = split_class_token(x.values.clone());
        let image = tokens_to_image(patches, x.size);
        let then = Then::activation(Activation::Identity).residual(image.clone());
        x.with(Tensor::cat(vec![class, image_to_tokens(self.proj.forward_then(image, then))], 1))
    }
}

/// Positions, attention and a perceptron at one scale.
#[derive(Module, Debug)]
struct SerialBlock {
    norm1: LayerNorm,
    factoratt_crpe: FactorisedAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl SerialBlock {
    fn new(channels: usize, mlp_ratio: usize, device: &Device) -> Self {
        let norm = || LayerNorm::new(channels, EPSILON, device);
        Self {
            norm1: norm(),
            factoratt_crpe: FactorisedAttention::new(channels, ConvolutionalPositions::HEADS, device),
            norm2: norm(),
            mlp: Mlp::new(channels, mlp_ratio * channels, Activation::Gelu, device),
        }
    }

    fn forward(&self, x: &Tokens, positions: Positions) -> Tokens {
        let Tokens { values, size } = positions.absolute.forward(x);
        let y = self.norm1.forward(values.clone());
        let values = self.factoratt_crpe.forward_residual(y, positions.relative, size, values);
        let y = self.norm2.forward(values.clone());
        x.with(self.mlp.forward_residual(y, None, values))
    }
}

/// As [`SerialBlock`] for the last three scales, of which each gets what attention found at all of them.
#[derive(Module, Debug)]
struct ParallelBlock {
    norm12: LayerNorm,
    norm13: LayerNorm,
    norm14: LayerNorm,
    factoratt_crpe2: FactorisedAttention,
    factoratt_crpe3: FactorisedAttention,
    factoratt_crpe4: FactorisedAttention,
    norm22: LayerNorm,
    norm23: LayerNorm,
    norm24: LayerNorm,
    /// That of the other scales, too.
    mlp2: Mlp,
}

impl ParallelBlock {
    fn new(config: &Config, device: &Device) -> Self {
        let [_, channels, ..] = config.embed_dims;
        let [_, mlp_ratio, ..] = config.mlp_ratios;
        let norm = || LayerNorm::new(channels, EPSILON, device);
        let attention = || FactorisedAttention::new(channels, ConvolutionalPositions::HEADS, device);
        Self {
            norm12: norm(),
            norm13: norm(),
            norm14: norm(),
            factoratt_crpe2: attention(),
            factoratt_crpe3: attention(),
            factoratt_crpe4: attention(),
            norm22: norm(),
            norm23: norm(),
            norm24: norm(),
            mlp2: Mlp::new(channels, mlp_ratio * channels, Activation::Gelu, device),
        }
    }

    fn forward(&self, scales: [Tokens; 3], positions: [Positions; 3]) -> [Tokens; 3] {
        let attention_norms = [&self.norm12, &self.norm13, &self.norm14];
        let attentions = [&self.factoratt_crpe2, &self.factoratt_crpe3, &self.factoratt_crpe4];
        let mlp_norms = [&self.norm22, &self.norm23, &self.norm24];
        let scales: [Tokens; 3] = from_fn(|scale| positions[scale].absolute.forward(&scales[scale]));
        let found: [Tokens; 3] = from_fn(|scale| {
            let x = &scales[scale];
            let y = attention_norms[scale].forward(x.values.clone());
            x.with(attentions[scale].forward(y, positions[scale].relative, x.size))
        });
        from_fn(|scale| {
            let x = &scales[scale];
            let sum = |values, found: &Tokens| add(values, found.resized(x.size), Activation::Identity);
            let values = found.iter().fold(x.values.clone(), sum);
            let y = mlp_norms[scale].forward(values.clone());
            x.with(self.mlp2.forward_residual(y, None, values))
        })
    }
}

/// One token of three, a weighted sum.
#[derive(Module, Debug)]
struct Aggregate {
    /// As a convolution over places has it, `[1, scale, 1]`.
    weight: Param<Tensor<3>>,
    /// `[1]`.
    bias: Param<Tensor<1>>,
}

impl Aggregate {
    fn new(device: &Device) -> Self {
        Self {
            weight: Initializer::Constant { value: 1.0 / 3.0 }.init([1, 3, 1], device),
            bias: Initializer::Zeros.init([1], device),
        }
    }

    /// `[batch, 1, channel]` each → `[batch, channel]`.
    fn forward(&self, tokens: [Tensor<3>; 3]) -> Tensor<2> {
        let weights = self.weight.val().reshape([1, 1, 3]);
        let sum = weights.matmul(Tensor::cat(tokens.into(), 1)) + self.bias.val().reshape([1, 1, 1]);
        sum.squeeze_dim(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blocks_share_is_taken_once() {
        let kept = ["cpe1.proj.bias", "norm4.bias", "serial_blocks1.0.mlp.fc1.bias", "cls_token1"];
        let left = ["serial_blocks1.0.cpe.proj.bias", "serial_blocks1.0.factoratt_crpe.crpe.conv_list.0.bias"];
        // These stand in the file of coat_lite_tiny, too, whose network has no place for them.
        let unused = ["norm1.weight", "norm2.weight", "norm3.weight", "aggregate.weight"];
        let names = [&kept[..], &left, &unused].concat();
        let mut checkpoint = Checkpoint::new(names.iter().map(|name| (name.to_string(), vec![1])));
        convert(&LITE, &mut checkpoint);
        assert!(checkpoint.names().all(|name| kept.contains(&name)));
        assert_eq!(checkpoint.names().count(), kept.len());
    }

    #[test]
    fn the_last_scales_share_a_perceptron() {
        let names =
            ["norm2.weight", "aggregate.weight", "parallel_blocks.0.mlp2.fc1.bias", "parallel_blocks.0.mlp4.fc1.bias"];
        let mut checkpoint = Checkpoint::new(names.map(|name| (name.to_string(), vec![1])));
        convert(&parallel(152, 216), &mut checkpoint);
        assert!(checkpoint.names().eq(["aggregate.weight", "norm2.weight", "parallel_blocks.0.mlp2.fc1.bias"]));
    }
}
