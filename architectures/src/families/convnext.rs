//! ConvNeXt, and ConvNeXt V2 with global response normalisation.
//!
//! Liu et al., *A ConvNet for the 2020s* (arXiv 2201.03545); Woo et al., *ConvNeXt V2* (2301.00808). The sizes below tiny,
//! the overlapping stems and the early head normalisation are timm's.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::initialised;
use crate::layers::{
    Activation, Conv2d, Dropout, GlobalResponseNorm, LayerNorm, LayerNorm2d, Linear, Padding, Pointwise,
    Regularisation, StochasticDepth, Then, global_average_pool,
};
use crate::taps::Taps;

/// Which ConvNeXt.
#[derive(Debug, Clone)]
pub struct Config {
    /// Blocks in each stage.
    pub depths: [usize; 4],
    /// Channels in each stage.
    pub channels: [usize; 4],
    /// The first layers.
    pub stem: StemKind,
    /// Whether the weights of the blocks' perceptrons are kept as 1×1 convolutions.
    pub convolutional_mlp: bool,
    /// Whether the blocks' perceptrons normalise their responses (V2).
    pub response_norm: bool,
    /// What the learned scale of a block's branch begins at, if there is one.
    pub layer_scale: Option<f64>,
    /// Whether the last normalisation comes before the pooling.
    pub norm_before_pool: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The first layers of the network.
#[derive(Debug, Clone, Copy)]
pub enum StemKind {
    /// One convolution over patches of this size that do not overlap.
    Patch(usize),
    /// Two strided 3×3 convolutions with so many channels between them.
    Overlap(usize),
}

const EPSILON: f64 = 1e-6;

const TINY: Config = Config {
    depths: [3, 3, 9, 3],
    channels: [96, 192, 384, 768],
    stem: StemKind::Patch(4),
    convolutional_mlp: false,
    response_norm: false,
    layer_scale: Some(1e-6),
    norm_before_pool: false,
    regularisation: Regularisation::NONE,
    input_size: 224,
    num_classes: 1000,
};
const SMALL: Config = Config { depths: [3, 3, 27, 3], ..TINY };
const BASE: Config = Config { channels: [128, 256, 512, 1024], ..SMALL };
const LARGE: Config = Config { channels: [192, 384, 768, 1536], ..SMALL };
const ATTO: Config = Config { depths: [2, 2, 6, 2], channels: [40, 80, 160, 320], convolutional_mlp: true, ..TINY };
const FEMTO: Config = Config { channels: [48, 96, 192, 384], ..ATTO };
const PICO: Config = Config { channels: [64, 128, 256, 512], ..ATTO };
const NANO: Config = Config { depths: [2, 2, 8, 2], channels: [80, 160, 320, 640], ..ATTO };

const fn overlap(middle: usize, config: Config) -> Config {
    Config { stem: StemKind::Overlap(middle), ..config }
}
const fn v2(config: Config) -> Config {
    Config { response_norm: true, layer_scale: None, ..config }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    // For 28 × 28 images of ten classes. A network so shallow needs no branches that begin near zero. (timm's class, asked
    // for patches of 2, would halve the image once more before the first stage, and have nothing left for the last.)
    (
        "demo_convnext",
        Config {
            depths: [1, 1, 2, 1],
            channels: [20, 32, 48, 64],
            stem: StemKind::Patch(2),
            layer_scale: Some(1.0),
            input_size: 28,
            num_classes: 10,
            ..TINY
        },
    ),
    ("convnext_atto", ATTO),
    ("convnext_atto_ols", overlap(24, ATTO)),
    ("convnext_femto", FEMTO),
    ("convnext_femto_ols", overlap(24, FEMTO)),
    ("convnext_pico", PICO),
    ("convnext_pico_ols", overlap(32, PICO)),
    ("convnext_nano", NANO),
    ("convnext_nano_ols", overlap(80, NANO)),
    ("convnext_tiny", TINY),
    ("convnext_tiny_hnf", Config { convolutional_mlp: true, norm_before_pool: true, ..TINY }),
    ("convnext_small", SMALL),
    ("convnext_base", BASE),
    ("convnext_large", LARGE),
    ("convnextv2_atto", v2(ATTO)),
    ("convnextv2_femto", v2(FEMTO)),
    ("convnextv2_pico", v2(PICO)),
    ("convnextv2_nano", v2(NANO)),
    ("convnextv2_tiny", v2(TINY)),
    ("convnextv2_base", v2(BASE)),
];

configuration!(ConvNext, InputRule::Any, convert; regularisation);

impl Config {
    fn components(&self) -> Components {
        Components {
            stem: match self.stem {
                StemKind::Patch(size) => format!("{size}s{size}").into(),
                StemKind::Overlap(_) => "3s2/3s2".into(),
            },
            normalization: "LN",
            activation: "GeLU".into(),
            stem_pooling: false,
            depthwise_convolution: true,
            ..Components::CNN
        }
    }
}

/// The authors' files have other names, the perceptrons' weights as linear maps, and the scales of the responses over four
/// axes; OpenCLIP's have the network under a prefix.
fn convert(config: &Config, checkpoint: &mut Checkpoint) {
    if checkpoint.contains("head.norm.weight") || checkpoint.contains("norm_pre.weight") {
        return;
    }
    if checkpoint.contains("visual.trunk.stem.0.weight") {
        return checkpoint.take_from_open_clip("head.fc");
    }
    // What EUPE distilled beside the classifier.
    checkpoint.remove(|name| name.starts_with("projectors.") || name.starts_with("norms."));
    checkpoint.rename(|name| {
        let parts: Vec<&str> = name.split('.').collect();
        match parts.as_slice() {
            ["downsample_layers", "0", rest @ ..] => format!("stem.{}", rest.join(".")),
            ["downsample_layers", stage, rest @ ..] => format!("stages.{stage}.downsample.{}", rest.join(".")),
            ["stages", stage, block, rest @ ..] if block.parse::<usize>().is_ok() => {
                let rest = rest.join(".").replace("grn.beta", "mlp.grn.bias").replace("grn.gamma", "mlp.grn.weight");
                let rest = rest.replace("dwconv", "conv_dw").replace("pwconv", "mlp.fc");
                format!("stages.{stage}.blocks.{block}.{rest}")
            }
            ["norm", last] => format!("head.norm.{last}"),
            ["head", last] => format!("head.fc.{last}"),
            _ => name.to_owned(),
        }
    });
    let in_blocks = |name: &&str| name.contains(".mlp.");
    let names: Vec<String> = checkpoint.names().filter(in_blocks).map(str::to_owned).collect();
    for name in names {
        match checkpoint.shape(&name) {
            Some(&[1, 1, 1, channels]) => checkpoint.reshape(&name, &[channels]),
            Some(&[outputs, inputs]) if config.convolutional_mlp => checkpoint.reshape(&name, &[outputs, inputs, 1, 1]),
            _ => {}
        }
    }
}

/// A ConvNeXt. See [`Config`].
#[derive(Module, Debug)]
pub struct ConvNext {
    stem: Stem,
    stages: Vec<Stage>,
    norm_pre: Option<LayerNorm2d>,
    head: Head,
    #[module(skip)]
    dropout: Dropout,
}

impl ConvNext {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let channels = config.channels[3];
        let norm_pre = config.norm_before_pool.then(|| LayerNorm2d::new(channels, EPSILON, device));
        let network = Self {
            stem: Stem::new(config, device),
            stages: (0..4).map(|index| Stage::new(config, index, device)).collect(),
            head: Head {
                norm: norm_pre.is_none().then(|| LayerNorm::new(channels, EPSILON, device)),
                fc: Linear::new(channels, num_classes, device),
            },
            norm_pre,
            dropout: config.regularisation.dropout(),
        };
        initialised(network, |parameter| parameter.normal(0.02))
    }
}

impl Architecture for ConvNext {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = taps.map(|| "stem".into(), self.stem.forward(images));
        for (index, stage) in self.stages.iter().enumerate() {
            if let Some((norm, conv)) = &stage.downsample {
                x = conv.forward(norm.forward(x));
            }
            x = taps.stage(|| format!("stages.{index}.blocks"), &stage.blocks, x, |block, x| block.forward(x));
            x = taps.map(|| format!("stages.{index}"), x);
        }
        if let Some(norm) = &self.norm_pre {
            x = norm.forward(x);
        }
        let pooled = global_average_pool(x);
        let features = match &self.head.norm {
            Some(norm) => taps.map(|| "head.norm".into(), norm.forward(pooled)),
            None => taps.map(|| "head.global_pool".into(), pooled),
        };
        Outputs { logits: self.head.fc.forward(self.dropout.forward(features.clone())), features }
    }
}

#[derive(Module, Debug)]
struct Head {
    norm: Option<LayerNorm>,
    fc: Linear,
}

/// Strided convolution(s) and a normalisation, in the places of timm's Sequential: `stem.0`, …
#[derive(Module, Debug)]
enum Stem {
    Patch((Conv2d, LayerNorm2d)),
    Overlap((Conv2d, Conv2d, LayerNorm2d)),
}

impl Stem {
    fn new(config: &Config, device: &Device) -> Self {
        let outputs = config.channels[0];
        let norm = LayerNorm2d::new(outputs, EPSILON, device);
        match config.stem {
            StemKind::Patch(size) => Self::Patch((patches(3, outputs, size, device), norm)),
            StemKind::Overlap(middle) => {
                let halving = |inputs, outputs| {
                    let conv = Conv2d::config(inputs, outputs, 3).stride(2);
                    conv.bias().build(device)
                };
                Self::Overlap((halving(3, middle), halving(middle, outputs), norm))
            }
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Patch((conv, norm)) => norm.forward(conv.forward(x)),
            Self::Overlap((first, second, norm)) => norm.forward(second.forward(first.forward(x))),
        }
    }
}

/// A convolution over squares that touch and do not overlap.
fn patches(inputs: usize, outputs: usize, size: usize, device: &Device) -> Conv2d {
    let conv = Conv2d::config(inputs, outputs, size).stride(size);
    conv.padding(Padding::Symmetric(0)).bias().build(device)
}

/// Blocks of one width; all stages but the first begin by halving the image.
#[derive(Module, Debug)]
struct Stage {
    /// In the places of timm's Sequential: `downsample.0`, `downsample.1`.
    downsample: Option<(LayerNorm2d, Conv2d)>,
    blocks: Vec<Block>,
}

impl Stage {
    fn new(config: &Config, index: usize, device: &Device) -> Self {
        let channels = config.channels[index];
        let downsample = index.checked_sub(1).map(|before| {
            let inputs = config.channels[before];
            (LayerNorm2d::new(inputs, EPSILON, device), patches(inputs, channels, 2, device))
        });
        let block = |position| {
            let drop_path = config.regularisation.growing(&config.depths, index, position);
            Block::new(config, channels, drop_path, device)
        };
        Self { downsample, blocks: (0..config.depths[index]).map(block).collect() }
    }
}

/// Depthwise 7×7 convolution, normalisation and a perceptron that widens four times, beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    conv_dw: Conv2d,
    norm: LayerNorm2d,
    mlp: Mlp,
    gamma: Option<Param<Tensor<1>>>,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl Block {
    fn new(config: &Config, channels: usize, drop_path: StochasticDepth, device: &Device) -> Self {
        let depthwise = Conv2d::config(channels, channels, 7).groups(channels);
        Self {
            conv_dw: depthwise.bias().build(device),
            norm: LayerNorm2d::new(channels, EPSILON, device),
            mlp: Mlp::new(config, channels, device),
            gamma: config.layer_scale.map(|value| Initializer::Constant { value }.init([channels], device)),
            drop_path,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.norm.forward(self.conv_dw.forward(x.clone()));
        self.drop_path.residual(x, |x| self.mlp.forward_then(y, Then::scale(self.gamma.as_ref()).residual(x)))
    }
}

/// Linear, GELU, response normalisation (V2), linear, over the channels of `[batch, channel, height, width]`.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Pointwise,
    grn: Option<GlobalResponseNorm>,
    fc2: Pointwise,
}

impl Mlp {
    fn new(config: &Config, channels: usize, device: &Device) -> Self {
        let hidden = 4 * channels;
        Self {
            fc1: Pointwise::new(channels, hidden, config.convolutional_mlp, device),
            grn: config.response_norm.then(|| GlobalResponseNorm::new(hidden, device)),
            fc2: Pointwise::new(hidden, channels, config.convolutional_mlp, device),
        }
    }

    fn forward_then(&self, x: Tensor<4>, then: Then) -> Tensor<4> {
        let mut x = self.fc1.forward_then(x, Then::activation(Activation::Gelu));
        if let Some(grn) = &self.grn {
            x = grn.forward(x);
        }
        self.fc2.forward_then(x, then)
    }
}

#[cfg(test)]
mod tests {
    use crate::checkpoint::converted;
    use crate::find;

    // The lists are what timm's checkpoint_filter_fn makes of these names.
    #[test]
    fn the_authors_files_become_timms() {
        let file: &[(&str, &[usize])] = &[
            ("downsample_layers.0.0.weight", &[40, 3, 4, 4]),
            ("downsample_layers.0.1.bias", &[40]),
            ("downsample_layers.2.0.weight", &[80]),
            ("downsample_layers.2.1.weight", &[160, 80, 2, 2]),
            ("stages.2.5.dwconv.weight", &[160, 1, 7, 7]),
            ("stages.2.5.norm.bias", &[160]),
            ("stages.2.5.pwconv1.weight", &[640, 160]),
            ("stages.2.5.pwconv1.bias", &[640]),
            ("stages.2.5.grn.gamma", &[1, 1, 1, 640]),
            ("stages.2.5.grn.beta", &[1, 1, 1, 640]),
            ("stages.2.5.pwconv2.weight", &[160, 640]),
            ("norm.weight", &[320]),
            ("head.weight", &[1000, 320]),
            ("head.bias", &[1000]),
            ("norms.0.weight", &[40]),
            ("projectors.x.weight", &[3, 3]),
        ];
        let expected = [
            "head.fc.bias [1000]",
            "head.fc.weight [1000, 320]",
            "head.norm.weight [320]",
            "stages.2.blocks.5.conv_dw.weight [160, 1, 7, 7]",
            "stages.2.blocks.5.mlp.fc1.bias [640]",
            "stages.2.blocks.5.mlp.fc1.weight [640, 160, 1, 1]",
            "stages.2.blocks.5.mlp.fc2.weight [160, 640, 1, 1]",
            "stages.2.blocks.5.mlp.grn.bias [640]",
            "stages.2.blocks.5.mlp.grn.weight [640]",
            "stages.2.blocks.5.norm.bias [160]",
            "stages.2.downsample.0.weight [80]",
            "stages.2.downsample.1.weight [160, 80, 2, 2]",
            "stem.0.weight [40, 3, 4, 4]",
            "stem.1.bias [40]",
        ];
        assert_eq!(converted(find("convnextv2_atto").unwrap().config, file), expected);
    }

    #[test]
    fn perceptrons_stay_linear_maps_where_timms_are() {
        let file: &[(&str, &[usize])] = &[
            ("stages.3.2.pwconv2.weight", &[768, 3072]),
            ("stages.3.2.gamma", &[768]),
            ("norm.bias", &[768]),
            ("head.weight", &[1000, 768]),
        ];
        let expected = [
            "head.fc.weight [1000, 768]",
            "head.norm.bias [768]",
            "stages.3.blocks.2.gamma [768]",
            "stages.3.blocks.2.mlp.fc2.weight [768, 3072]",
        ];
        assert_eq!(converted(find("convnext_tiny").unwrap().config, file), expected);
    }

    #[test]
    fn files_of_open_clip_become_timms() {
        let file: &[(&str, &[usize])] = &[
            ("visual.trunk.stem.0.weight", &[128, 3, 4, 4]),
            ("visual.trunk.stages.0.blocks.0.mlp.fc1.weight", &[512, 128]),
            ("visual.trunk.head.norm.weight", &[1024]),
            ("visual.head.proj.weight", &[640, 1024]),
            ("text.ln_final.weight", &[512]),
            ("logit_scale", &[1]),
        ];
        let expected = [
            "head.fc.bias [640]",
            "head.fc.weight [640, 1024]",
            "head.norm.weight [1024]",
            "stages.0.blocks.0.mlp.fc1.weight [512, 128]",
            "stem.0.weight [128, 3, 4, 4]",
        ];
        assert_eq!(converted(find("convnext_base").unwrap().config, file), expected);
    }

    #[test]
    fn timms_own_files_stay() {
        let file: &[(&str, &[usize])] =
            &[("head.norm.weight", &[320]), ("stages.0.blocks.0.mlp.fc1.weight", &[160, 40, 1, 1])];
        assert_eq!(
            converted(find("convnextv2_atto").unwrap().config, file),
            ["head.norm.weight [320]", "stages.0.blocks.0.mlp.fc1.weight [160, 40, 1, 1]"]
        );
    }
}
