//! Vision Transformers: ViT, its hybrids with a ResNet V2 before it, DeiT with and without distillation, DeiT III.
//!
//! Dosovitskiy et al., *An Image is Worth 16x16 Words* (arXiv 2010.11929); Steiner et al., *How to train your ViT?*
//! (2106.10270); Touvron et al., *Training data-efficient image transformers & distillation through attention* (2012.12877);
//! Touvron et al., *DeiT III: Revenge of the ViT* (2204.07118).

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::resnetv2::{self, Stem, Trunk};
use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::{Initial, Parameter, initialised};
use crate::layers::{
    Conv2d, Dropout, LayerNorm, Linear, Padding, PatchEmbed, Regularisation, TransformerBlock, assert_size,
    image_to_tokens,
};
use crate::taps::Taps;

/// Which Vision Transformer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Blocks in the stages of the ResNet before the patches, if there is one; if it has no stages, it is a ResNet's stem.
    pub resnet: Option<&'static [usize]>,
    /// Pixels of a patch, or places in what the ResNet gives, both ways.
    pub patch_size: usize,
    /// Channels of a token.
    pub embed_dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads, which divide the channels.
    pub heads: usize,
    /// Hidden channels of a block's perceptron, as a multiple of the token's.
    pub mlp_ratio: usize,
    /// The first value of the learnt scales on the residual branches, if there are any.
    pub layer_scale: Option<f64>,
    /// Whether the class token has a position embedding too.
    pub embed_class: bool,
    /// Whether there is a distillation token with a head of its own.
    pub distilled: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Height and width in pixels.
    pub input_size: [usize; 2],
    /// Classes of the published weights.
    pub num_classes: usize,
}

const TINY: Config = Config {
    resnet: None,
    patch_size: 16,
    embed_dim: 192,
    depth: 12,
    heads: 3,
    mlp_ratio: 4,
    layer_scale: None,
    embed_class: true,
    distilled: false,
    regularisation: Regularisation::NONE,
    input_size: [224; 2],
    num_classes: 1000,
};
const SMALL: Config = Config { embed_dim: 384, heads: 6, ..TINY };
const MEDIUM: Config = Config { embed_dim: 512, heads: 8, ..TINY };
const BASE: Config = Config { embed_dim: 768, heads: 12, ..TINY };
const LARGE: Config = Config { embed_dim: 1024, depth: 24, heads: 16, ..TINY };
/// For 28 × 28 images of ten classes.
const DEMO: Config = Config { input_size: [28; 2], num_classes: 10, ..TINY };

const fn patch32(config: Config) -> Config {
    Config { patch_size: 32, ..config }
}
const fn at_384(config: Config) -> Config {
    Config { input_size: [384; 2], ..config }
}
const fn hybrid(resnet: &'static [usize], patch_size: usize, config: Config) -> Config {
    Config { resnet: Some(resnet), patch_size, ..config }
}
const fn distilled(config: Config) -> Config {
    Config { distilled: true, ..config }
}
const fn deit3(config: Config) -> Config {
    Config { layer_scale: Some(1e-6), embed_class: false, ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("deit3_base_patch16_224", deit3(BASE)),
    ("deit3_base_patch16_384", at_384(deit3(BASE))),
    ("deit3_medium_patch16_224", deit3(MEDIUM)),
    ("deit3_small_patch16_224", deit3(SMALL)),
    ("deit3_small_patch16_384", at_384(deit3(SMALL))),
    ("deit_base_distilled_patch16_224", distilled(BASE)),
    ("deit_base_distilled_patch16_384", at_384(distilled(BASE))),
    ("deit_base_patch16_224", BASE),
    ("deit_base_patch16_384", at_384(BASE)),
    ("deit_small_distilled_patch16_224", distilled(SMALL)),
    ("deit_small_patch16_224", SMALL),
    ("deit_tiny_distilled_patch16_224", distilled(TINY)),
    ("deit_tiny_patch16_224", TINY),
    ("demo_vit_patch4", Config { patch_size: 4, embed_dim: 64, depth: 4, heads: 4, mlp_ratio: 2, ..DEMO }),
    ("demo_vit_patch7", Config { patch_size: 7, embed_dim: 64, depth: 3, heads: 4, mlp_ratio: 3, ..DEMO }),
    ("vit_base_patch16_224", BASE),
    ("vit_base_patch16_384", at_384(BASE)),
    ("vit_base_patch32_224", patch32(BASE)),
    ("vit_base_patch32_384", at_384(patch32(BASE))),
    ("vit_base_r26_s32_224", hybrid(&[2, 2, 2, 2], 1, BASE)),
    ("vit_base_r50_s16_384", at_384(hybrid(&[3, 4, 9], 1, BASE))),
    ("vit_large_r50_s32_224", hybrid(&[3, 4, 6, 3], 1, LARGE)),
    ("vit_small_patch16_224", SMALL),
    ("vit_small_patch16_384", at_384(SMALL)),
    ("vit_small_patch32_224", patch32(SMALL)),
    ("vit_small_patch32_384", at_384(patch32(SMALL))),
    ("vit_small_r26_s32_224", hybrid(&[2, 2, 2, 2], 1, SMALL)),
    ("vit_small_r26_s32_384", at_384(hybrid(&[2, 2, 2, 2], 1, SMALL))),
    ("vit_tiny_patch16_224", TINY),
    ("vit_tiny_patch16_384", at_384(TINY)),
    ("vit_tiny_r_s16_p8_224", hybrid(&[], 8, TINY)),
    ("vit_tiny_r_s16_p8_384", at_384(hybrid(&[], 8, TINY))),
];

configuration!(VisionTransformer, |config| InputRule::Multiple(config.stride()), convert; regularisation);

impl Config {
    fn components(&self) -> Components {
        if self.resnet.is_some() {
            return Components {
                base_architecture: "Hybrid",
                stem: "7s2".into(),
                normalization: "LN + GN",
                activation: "GeLU + ReLU".into(),
                stem_pooling: true,
                ..Components::TRANSFORMER
            };
        }
        Components { stem: format!("{0}s{0}", self.patch_size).into(), ..Components::TRANSFORMER }
    }

    /// Tokens before the patches that have positions.
    fn class_positions(&self) -> usize {
        match (self.embed_class, self.distilled) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        }
    }

    /// Rows and columns of an image's tokens.
    fn grid(&self) -> [usize; 2] {
        self.input_size.map(|side| side / self.stride())
    }

    /// Pixels from one token to the next.
    fn stride(&self) -> usize {
        // The stem halves the image twice, every stage but the first once.
        let of_resnet = self.resnet.map_or(1, |layers| 4 << layers.len().saturating_sub(1));
        of_resnet * self.patch_size
    }
}

/// Old files keep patches as rows of a matrix, a layer before the classifier that is unused, and (DeiT III) the scales of the
/// branches elsewhere; what stood for masked patches in the training (DINO) is left out, and so is all beside the network
/// in files of I-JEPA and of OpenCLIP; the positions may be those of another image size, and the patches of another size.
fn convert(config: &Config, checkpoint: &mut Checkpoint) {
    const ENCODER: &str = "encoder.module.";
    let size = config.patch_size;
    if checkpoint.names().any(|name| name.starts_with(ENCODER)) {
        checkpoint.keep_under(ENCODER);
    } else if checkpoint.contains("visual.trunk.blocks.0.norm1.weight") {
        checkpoint.take_from_open_clip("head");
    }
    checkpoint.remove(|name| name.contains("pre_logits") || name == "mask_token");
    checkpoint.rename(|name| name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"));
    checkpoint.reshape("patch_embed.proj.weight", &[config.embed_dim, 3, size, size]);
    checkpoint.resample_patches("patch_embed.proj.weight", size);
    checkpoint.resample_positions("pos_embed", config.class_positions(), config.grid());
}

/// As timm's `init_weights_vit_timm`: but for the patches, which PyTorch's default draws, and a ResNet before them.
fn initial(parameter: &Parameter) -> Option<Initial> {
    match parameter.key {
        "cls_token" => Some(Initial::Normal(1e-6)),
        key if key.starts_with("patch_embed.proj.") || key.starts_with("patch_embed.backbone.conv.") => {
            parameter.pytorch()
        }
        key if key.starts_with("patch_embed.") => key.ends_with(".norm3.weight").then_some(Initial::Constant(0.0)),
        _ => parameter.linear(0.02),
    }
}

/// A Vision Transformer. See [`Config`].
#[derive(Module, Debug)]
pub struct VisionTransformer {
    patch_embed: Embedding,
    cls_token: Param<Tensor<3>>,
    dist_token: Option<Param<Tensor<3>>>,
    pos_embed: Param<Tensor<3>>,
    blocks: Vec<TransformerBlock>,
    norm: LayerNorm,
    head: Linear,
    head_dist: Option<Linear>,
    embed_class: bool,
    #[module(skip)]
    dropout: Dropout,
}

impl VisionTransformer {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = config.embed_dim;
        let patch_embed = Embedding::new(config, device);
        let drawn = |tokens: usize| Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, tokens, channels], device);
        let head = || Linear::new(channels, num_classes, device);
        let hidden = channels * config.mlp_ratio;
        let block = |index| {
            let block = TransformerBlock::new(channels, config.heads, hidden, config.layer_scale, device);
            block.stochastic(config.regularisation.growing(&[config.depth], 0, index))
        };
        let network = Self {
            cls_token: drawn(1),
            dist_token: config.distilled.then(|| drawn(1)),
            pos_embed: drawn(config.class_positions() + config.grid().iter().product::<usize>()),
            patch_embed,
            blocks: (0..config.depth).map(block).collect(),
            norm: LayerNorm::new(channels, 1e-6, device),
            head: head(),
            head_dist: config.distilled.then(head),
            embed_class: config.embed_class,
            dropout: config.regularisation.dropout(),
        };
        initialised(network, initial)
    }

    /// As [`Architecture::forward`], with the outputs of the class token's head and, if the network is distilled, those of the
    /// distillation token's apart, as distillation trains them: one by the labels, the other by the teacher.
    pub fn forward_heads(&self, images: Tensor<4>, taps: &mut Taps) -> (Outputs, Option<Outputs>) {
        let x = self.patch_embed.forward(images, taps);
        let x = taps.map(|| "patch_embed".into(), x);
        let x = taps.stage(|| "blocks".into(), &self.blocks, self.embed(x), |block, x| block.forward(x));
        let x = taps.map(|| "norm".into(), self.norm.forward(x));
        let outputs = |token: usize, head: &Linear| {
            let features = x.clone().narrow(1, token, 1).squeeze_dim(1);
            Outputs { logits: head.forward(self.dropout.forward(features.clone())), features }
        };
        (outputs(0, &self.head), self.head_dist.as_ref().map(|head| outputs(1, head)))
    }

    /// Puts the class tokens before the patches and adds the positions.
    fn embed(&self, patches: Tensor<3>) -> Tensor<3> {
        let [batch, _, channels] = patches.dims();
        let positions = self.pos_embed.val();
        let with_class_tokens = |patches| {
            let tokens = [Some(&self.cls_token), self.dist_token.as_ref()];
            let mut tokens: Vec<_> =
                tokens.into_iter().flatten().map(|token| token.val().expand([batch, 1, channels])).collect();
            tokens.push(patches);
            Tensor::cat(tokens, 1)
        };
        if self.embed_class { with_class_tokens(patches) + positions } else { with_class_tokens(patches + positions) }
    }
}

impl Architecture for VisionTransformer {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        match self.forward_heads(images, taps) {
            (class, None) => class,
            (class, Some(distillation)) => Outputs {
                features: (class.features + distillation.features) / 2.0,
                logits: (class.logits + distillation.logits) / 2.0,
            },
        }
    }
}

/// From an image to tokens.
#[derive(Module, Debug)]
enum Embedding {
    Patches(PatchEmbed),
    Hybrid(HybridEmbed),
}

impl Embedding {
    fn new(config: &Config, device: &Device) -> Self {
        match config.resnet {
            None => Self::Patches(PatchEmbed::new(config.input_size, config.patch_size, config.embed_dim, device)),
            Some(layers) => Self::Hybrid(HybridEmbed::new(config, layers, device)),
        }
    }

    /// `[batch, 3, height, width]` → `[batch, token, channel]`.
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Tensor<3> {
        match self {
            Self::Patches(embed) => embed.forward(images),
            Self::Hybrid(embed) => embed.forward(images, taps),
        }
    }
}

/// A ResNet, whose results are cut into patches.
#[derive(Module, Debug)]
struct HybridEmbed {
    backbone: Backbone,
    proj: Conv2d,
    image_size: [usize; 2],
}

#[derive(Module, Debug)]
enum Backbone {
    Stem(Stem),
    Trunk(Trunk),
}

impl HybridEmbed {
    fn new(config: &Config, layers: &'static [usize], device: &Device) -> Self {
        let resnet = resnetv2::hybrid(layers);
        let proj = Conv2d::config(resnet.outputs(), config.embed_dim, config.patch_size).stride(config.patch_size);
        Self {
            backbone: if layers.is_empty() {
                Backbone::Stem(Stem::new(&resnet, device))
            } else {
                Backbone::Trunk(Trunk::new(&resnet, device))
            },
            proj: proj.padding(Padding::Symmetric(0)).bias().build(device),
            image_size: config.input_size,
        }
    }

    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Tensor<3> {
        assert_size(&images, self.image_size);
        let path = "patch_embed.backbone";
        let x = match &self.backbone {
            Backbone::Stem(stem) => stem.forward(images, taps, path),
            Backbone::Trunk(trunk) => trunk.forward(images, taps, path),
        };
        image_to_tokens(self.proj.forward(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::converted;

    /// What timm's `checkpoint_filter_fn` makes of these.
    #[test]
    fn old_files_become_todays() {
        let file: &[(&str, &[usize])] = &[
            ("patch_embed.proj.weight", &[192, 768]),
            ("pos_embed", &[1, 2 + 14 * 14, 192]),
            ("pre_logits.fc.weight", &[192, 192]),
            ("blocks.0.gamma_1", &[192]),
        ];
        assert_eq!(
            converted(&at_384(distilled(TINY)), file),
            ["blocks.0.ls1.gamma [192]", "patch_embed.proj.weight [192, 3, 16, 16]", "pos_embed [1, 578, 192]"]
        );
    }

    /// What timm's `checkpoint_filter_fn` makes of files with more than the network, or of other patches.
    #[test]
    fn the_network_is_taken_out_of_what_is_around_it() {
        let kept = ["blocks.0.norm1.weight [192]", "pos_embed [1, 197, 192]"];
        let dino: &[(&str, &[usize])] =
            &[("mask_token", &[1, 192]), ("pos_embed", &[1, 197, 192]), ("blocks.0.norm1.weight", &[192])];
        assert_eq!(converted(&TINY, dino), kept);
        let ijepa: &[(&str, &[usize])] = &[
            ("encoder.module.pos_embed", &[1, 197, 192]),
            ("encoder.module.blocks.0.norm1.weight", &[192]),
            ("predictor.module.predictor_norm.bias", &[2]),
        ];
        assert_eq!(converted(&TINY, ijepa), kept);
        let open_clip: &[(&str, &[usize])] = &[
            ("visual.trunk.pos_embed", &[1, 257, 192]),
            ("visual.trunk.blocks.0.norm1.weight", &[192]),
            ("visual.head.proj.weight", &[512, 192]),
            ("text.ln_final.bias", &[1]),
            ("logit_scale", &[1]),
        ];
        assert_eq!(converted(&TINY, open_clip), [kept[0], "head.bias [512]", "head.weight [512, 192]", kept[1]]);
        let other_patches: &[(&str, &[usize])] =
            &[("patch_embed.proj.weight", &[192, 3, 32, 32]), ("pos_embed", &[1, 50, 192])];
        assert_eq!(converted(&TINY, other_patches), ["patch_embed.proj.weight [192, 3, 16, 16]", kept[1]]);
    }

    #[test]
    fn a_distilled_network_answers_with_the_mean_of_its_heads() {
        let device = Device::flex();
        let config = Config { patch_size: 14, embed_dim: 8, depth: 1, heads: 2, ..distilled(DEMO) };
        let network = VisionTransformer::new(&config, 10, &device);
        let images = Tensor::ones([2, 3, 28, 28], &device);
        let (class, distillation) = network.forward_heads(images.clone(), &mut Taps::none());
        let distillation = distillation.expect("a distilled network has two heads");
        let both = network.forward(images, &mut Taps::none());
        let distance = both.logits * 2.0 - class.logits.clone() - distillation.logits.clone();
        assert!(distance.abs().max().into_scalar::<f32>() < 1e-5);
        let between = class.logits - distillation.logits;
        assert!(between.abs().max().into_scalar::<f32>() > 1e-2);
    }

    #[test]
    fn old_layouts_are_converted_as_by_timm() {
        let config = Config { embed_dim: 8, depth: 1, heads: 2, input_size: [48; 2], ..deit3(TINY) };
        // What timm's checkpoint_filter_fn (with adapt_layer_scale) changes, before and after it.
        let before: &[(&str, &[usize])] = &[
            ("blocks.0.gamma_1", &[8]),
            ("blocks.0.gamma_2", &[8]),
            ("blocks.0.norm1.weight", &[8]),
            ("patch_embed.proj.weight", &[8, 768]),
            ("pos_embed", &[1, 16, 8]),
            ("pre_logits.fc.weight", &[8, 8]),
        ];
        let after = [
            "blocks.0.ls1.gamma [8]",
            "blocks.0.ls2.gamma [8]",
            "blocks.0.norm1.weight [8]",
            "patch_embed.proj.weight [8, 3, 16, 16]",
            "pos_embed [1, 9, 8]",
        ];
        assert_eq!(converted(&config, before), after);
    }
}
