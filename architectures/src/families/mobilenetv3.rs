//! MobileNetV3 and other networks that pool before their last convolution: MobileNetV4, FBNetV3, HardCoRe-NAS, LCNet.
//!
//! Howard et al., *Searching for MobileNetV3* (arXiv 1905.02244); Qin et al., *MobileNetV4* (2404.10518), its convolutional
//! networks; Dai et al., *FBNetV3* (2006.02049); Nayman et al., *HardCoRe-NAS* (2102.11646); Cui et al., *PP-LCNet*
//! (2109.15099). The names in `tf_` are networks ported from TensorFlow.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::{Initial, initialised};
use crate::layers::{Activation, BatchNorm2d, Conv2d, Dropout, Linear, Regularisation, Then, global_average_pool};
use crate::mobile::{
    Blocks, Depth, MobileBlock, MobileBody, Squeeze, convolution, edge, inverted, run_stages, separable, universal,
};
use crate::taps::Taps;

/// Which MobileNetV3.
#[derive(Debug, Clone)]
pub struct Config {
    /// The first convolution and the blocks.
    pub body: MobileBody,
    /// Channels of the last convolution.
    pub head: usize,
    /// What the last convolution has.
    pub head_kind: HeadKind,
    /// Whether the blocks were found by search (all but LCNet's).
    pub searched: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// What stands between the last convolution and its activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// Nothing.
    Plain,
    /// A bias.
    Biased,
    /// A normalisation.
    Normalised,
}

const RELU: Activation = Activation::Relu;

const SMALL: &[&[Blocks]] = &[
    &[separable(16).stride(2).se(0.25).activation(RELU)],
    &[inverted(24).stride(2).expand(4.5).activation(RELU), inverted(24).expand(3.67).activation(RELU)],
    &[
        inverted(40).kernels(&[5]).stride(2).expand(4.0).se(0.25),
        inverted(40).repeat(2).kernels(&[5]).expand(6.0).se(0.25),
    ],
    &[inverted(48).repeat(2).kernels(&[5]).expand(3.0).se(0.25)],
    &[inverted(96).repeat(3).kernels(&[5]).stride(2).expand(6.0).se(0.25)],
    &[convolution(576).kernels(&[1])],
];
const SMALL_MINIMAL: &[&[Blocks]] = &[
    &[separable(16).stride(2)],
    &[inverted(24).stride(2).expand(4.5), inverted(24).expand(3.67)],
    &[inverted(40).stride(2).expand(4.0), inverted(40).repeat(2).expand(6.0)],
    &[inverted(48).repeat(2).expand(3.0)],
    &[inverted(96).repeat(3).stride(2).expand(6.0)],
    &[convolution(576).kernels(&[1])],
];
const LARGE: &[&[Blocks]] = &[
    &[separable(16).activation(RELU)],
    &[inverted(24).stride(2).expand(4.0).activation(RELU), inverted(24).expand(3.0).activation(RELU)],
    &[inverted(40).repeat(3).kernels(&[5]).stride(2).expand(3.0).se(0.25).activation(RELU)],
    &[inverted(80).stride(2).expand(6.0), inverted(80).expand(2.5), inverted(80).repeat(2).expand(2.3)],
    &[inverted(112).repeat(2).expand(6.0).se(0.25)],
    &[inverted(160).repeat(3).kernels(&[5]).stride(2).expand(6.0).se(0.25)],
    &[convolution(960).kernels(&[1])],
];
const LARGE_RW: &[&[Blocks]] = &[
    &[separable(16).activation(RELU).shortcut(false)],
    &[inverted(24).stride(2).expand(4.0).activation(RELU), inverted(24).expand(3.0).activation(RELU)],
    &[inverted(40).repeat(3).kernels(&[5]).stride(2).expand(3.0).se(0.25).activation(RELU)],
    &[inverted(80).stride(2).expand(6.0), inverted(80).expand(2.5), inverted(80).repeat(2).expand(2.3)],
    &[inverted(112).repeat(2).expand(6.0).se(0.25)],
    &[inverted(160).repeat(3).kernels(&[5]).stride(2).expand(6.0).se(0.25)],
    &[convolution(960).kernels(&[1])],
];
const LARGE_MINIMAL: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).stride(2).expand(4.0), inverted(24).expand(3.0)],
    &[inverted(40).repeat(3).stride(2).expand(3.0)],
    &[inverted(80).stride(2).expand(6.0), inverted(80).expand(2.5), inverted(80).repeat(2).expand(2.3)],
    &[inverted(112).repeat(2).expand(6.0)],
    &[inverted(160).repeat(3).stride(2).expand(6.0)],
    &[convolution(960).kernels(&[1])],
];
const FBNET_V3_B: &[&[Blocks]] = &[
    &[separable(16).repeat(2)],
    &[inverted(24).kernels(&[5]).stride(2).expand(4.0), inverted(24).repeat(3).kernels(&[5]).expand(2.0)],
    &[
        inverted(40).kernels(&[5]).stride(2).expand(5.0).se(0.25),
        inverted(40).repeat(4).kernels(&[5]).expand(3.0).se(0.25),
    ],
    &[inverted(72).kernels(&[5]).stride(2).expand(5.0), inverted(72).repeat(4).expand(3.0)],
    &[inverted(120).expand(5.0).se(0.25), inverted(120).repeat(5).kernels(&[5]).expand(3.0).se(0.25)],
    &[
        inverted(184).stride(2).expand(6.0).se(0.25),
        inverted(184).repeat(5).kernels(&[5]).expand(4.0).se(0.25),
        inverted(224).kernels(&[5]).expand(6.0).se(0.25),
    ],
    &[convolution(1344).kernels(&[1])],
];
const FBNET_V3_D: &[&[Blocks]] = &[
    &[separable(16).repeat(2)],
    &[inverted(24).stride(2).expand(5.0), inverted(24).repeat(5).expand(2.0)],
    &[inverted(40).kernels(&[5]).stride(2).expand(4.0).se(0.25), inverted(40).repeat(4).expand(3.0).se(0.25)],
    &[inverted(72).stride(2).expand(5.0), inverted(72).repeat(4).expand(3.0)],
    &[inverted(128).expand(5.0).se(0.25), inverted(128).repeat(6).kernels(&[5]).expand(3.0).se(0.25)],
    &[
        inverted(208).stride(2).expand(6.0).se(0.25),
        inverted(208).repeat(5).kernels(&[5]).expand(5.0).se(0.25),
        inverted(240).kernels(&[5]).expand(6.0).se(0.25),
    ],
    &[convolution(1440).kernels(&[1])],
];
const FBNET_V3_G: &[&[Blocks]] = &[
    &[separable(24).repeat(3)],
    &[inverted(40).kernels(&[5]).stride(2).expand(4.0), inverted(40).repeat(4).kernels(&[5]).expand(2.0)],
    &[
        inverted(56).kernels(&[5]).stride(2).expand(4.0).se(0.25),
        inverted(56).repeat(4).kernels(&[5]).expand(3.0).se(0.25),
    ],
    &[inverted(104).kernels(&[5]).stride(2).expand(5.0), inverted(104).repeat(4).expand(3.0)],
    &[inverted(160).expand(5.0).se(0.25), inverted(160).repeat(8).kernels(&[5]).expand(3.0).se(0.25)],
    &[
        inverted(264).stride(2).expand(6.0).se(0.25),
        inverted(264).repeat(6).kernels(&[5]).expand(5.0).se(0.25),
        inverted(288).repeat(2).kernels(&[5]).expand(6.0).se(0.25),
    ],
    &[convolution(1728).kernels(&[1])],
];
const LCNET: &[&[Blocks]] = &[
    &[separable(32).activated()],
    &[separable(64).repeat(2).stride(2).activated()],
    &[separable(128).repeat(2).stride(2).activated()],
    &[separable(256).stride(2).activated(), separable(256).kernels(&[5]).activated()],
    &[separable(256).repeat(4).kernels(&[5]).activated()],
    &[separable(512).repeat(2).kernels(&[5]).stride(2).se(0.25).activated()],
];
const HARDCORE_A: &[&[Blocks]] = &[
    &[separable(16).activation(RELU)],
    &[
        inverted(24).kernels(&[5]).stride(2).expand(3.0).activation(RELU),
        inverted(24).kernels(&[5]).expand(3.0).se(0.25).activation(RELU),
    ],
    &[
        inverted(40).kernels(&[5]).stride(2).expand(3.0).activation(RELU),
        inverted(40).kernels(&[5]).expand(6.0).se(0.25).activation(RELU),
    ],
    &[inverted(80).kernels(&[5]).stride(2).expand(6.0).se(0.25), inverted(80).kernels(&[5]).expand(6.0).se(0.25)],
    &[inverted(112).repeat(2).kernels(&[5]).expand(6.0).se(0.25)],
    &[inverted(192).kernels(&[5]).stride(2).expand(6.0).se(0.25), inverted(192).kernels(&[5]).expand(6.0).se(0.25)],
    &[convolution(960).kernels(&[1])],
];
const HARDCORE_B: &[&[Blocks]] = &[
    &[separable(16).activation(RELU)],
    &[
        inverted(24).kernels(&[5]).stride(2).expand(3.0).activation(RELU),
        inverted(24).kernels(&[5]).expand(3.0).se(0.25).activation(RELU),
        inverted(24).expand(3.0).activation(RELU),
    ],
    &[
        inverted(40).kernels(&[5]).stride(2).expand(3.0).activation(RELU),
        inverted(40).repeat(2).kernels(&[5]).expand(3.0).activation(RELU),
    ],
    &[
        inverted(80).kernels(&[5]).stride(2).expand(3.0),
        inverted(80).kernels(&[5]).expand(3.0),
        inverted(80).repeat(2).expand(3.0),
    ],
    &[inverted(112).kernels(&[5]).expand(3.0), inverted(112).repeat(3).expand(3.0)],
    &[
        inverted(192).kernels(&[5]).stride(2).expand(6.0).se(0.25),
        inverted(192).kernels(&[5]).expand(6.0).se(0.25),
        inverted(192).expand(3.0).se(0.25),
    ],
    &[convolution(960).kernels(&[1])],
];
const HARDCORE_C: &[&[Blocks]] = &[
    &[separable(16).activation(RELU)],
    &[
        inverted(24).kernels(&[5]).stride(2).expand(3.0).activation(RELU),
        inverted(24).kernels(&[5]).expand(3.0).se(0.25).activation(RELU),
    ],
    &[
        inverted(40).kernels(&[5]).stride(2).expand(3.0).activation(RELU),
        inverted(40).repeat(3).kernels(&[5]).expand(3.0).activation(RELU),
    ],
    &[
        inverted(80).kernels(&[5]).stride(2).expand(4.0),
        inverted(80).kernels(&[5]).expand(6.0).se(0.25),
        inverted(80).repeat(2).expand(3.0),
    ],
    &[inverted(112).kernels(&[5]).expand(6.0).se(0.25), inverted(112).repeat(3).expand(3.0)],
    &[
        inverted(192).kernels(&[5]).stride(2).expand(6.0).se(0.25),
        inverted(192).kernels(&[5]).expand(6.0).se(0.25),
        inverted(192).expand(3.0).se(0.25),
    ],
    &[convolution(960).kernels(&[1])],
];
const HARDCORE_D: &[&[Blocks]] = &[
    &[separable(16).activation(RELU)],
    &[
        inverted(24).kernels(&[5]).stride(2).expand(3.0).se(0.25).activation(RELU),
        inverted(24).kernels(&[5]).expand(3.0).se(0.25).activation(RELU),
    ],
    &[
        inverted(40).kernels(&[5]).stride(2).expand(3.0).se(0.25).activation(RELU),
        inverted(40).kernels(&[5]).expand(4.0).se(0.25).activation(RELU),
        inverted(40).expand(3.0).se(0.25).activation(RELU),
    ],
    &[inverted(80).kernels(&[5]).stride(2).expand(4.0).se(0.25), inverted(80).repeat(3).expand(3.0).se(0.25)],
    &[
        inverted(112).expand(4.0).se(0.25),
        inverted(112).kernels(&[5]).expand(4.0).se(0.25),
        inverted(112).expand(3.0).se(0.25),
        inverted(112).kernels(&[5]).expand(3.0).se(0.25),
    ],
    &[
        inverted(192).kernels(&[5]).stride(2).expand(6.0).se(0.25),
        inverted(192).repeat(2).kernels(&[5]).expand(6.0).se(0.25),
        inverted(192).expand(6.0).se(0.25),
    ],
    &[convolution(960).kernels(&[1])],
];
const HARDCORE_E: &[&[Blocks]] = &[
    &[separable(16).activation(RELU)],
    &[
        inverted(24).kernels(&[5]).stride(2).expand(3.0).se(0.25).activation(RELU),
        inverted(24).kernels(&[5]).expand(3.0).se(0.25).activation(RELU),
    ],
    &[
        inverted(40).kernels(&[5]).stride(2).expand(6.0).se(0.25).activation(RELU),
        inverted(40).repeat(2).kernels(&[5]).expand(4.0).se(0.25).activation(RELU),
        inverted(40).expand(3.0).se(0.25).activation(RELU),
    ],
    &[inverted(80).kernels(&[5]).stride(2).expand(4.0).se(0.25), inverted(80).expand(6.0).se(0.25)],
    &[inverted(112).repeat(3).kernels(&[5]).expand(6.0).se(0.25), inverted(112).kernels(&[5]).expand(3.0).se(0.25)],
    &[
        inverted(192).kernels(&[5]).stride(2).expand(6.0).se(0.25),
        inverted(192).repeat(2).kernels(&[5]).expand(6.0).se(0.25),
        inverted(192).expand(6.0).se(0.25),
    ],
    &[convolution(960).kernels(&[1])],
];
const HARDCORE_F: &[&[Blocks]] = &[
    &[separable(16).activation(RELU)],
    &[
        inverted(24).kernels(&[5]).stride(2).expand(3.0).se(0.25).activation(RELU),
        inverted(24).kernels(&[5]).expand(3.0).se(0.25).activation(RELU),
    ],
    &[
        inverted(40).kernels(&[5]).stride(2).expand(6.0).se(0.25).activation(RELU),
        inverted(40).kernels(&[5]).expand(6.0).se(0.25).activation(RELU),
    ],
    &[
        inverted(80).kernels(&[5]).stride(2).expand(6.0).se(0.25),
        inverted(80).kernels(&[5]).expand(6.0).se(0.25),
        inverted(80).repeat(2).expand(3.0).se(0.25),
    ],
    &[
        inverted(112).expand(6.0).se(0.25),
        inverted(112).repeat(2).kernels(&[5]).expand(6.0).se(0.25),
        inverted(112).expand(3.0).se(0.25),
    ],
    &[
        inverted(192).kernels(&[5]).stride(2).expand(6.0).se(0.25),
        inverted(192).kernels(&[5]).expand(6.0).se(0.25),
        inverted(192).repeat(2).expand(6.0).se(0.25),
    ],
    &[convolution(960).kernels(&[1])],
];
const V4_SMALL: &[&[Blocks]] = &[
    &[convolution(32).stride(2), convolution(32).kernels(&[1])],
    &[convolution(96).stride(2), convolution(64).kernels(&[1])],
    &[
        universal(96).start(5).kernels(&[5]).stride(2).expand(3.0),
        universal(96).repeat(4).expand(2.0),
        universal(96).start(3).kernels(&[]).expand(4.0),
    ],
    &[
        universal(128).start(3).stride(2).expand(6.0),
        universal(128).start(5).kernels(&[5]).expand(4.0),
        universal(128).kernels(&[5]).expand(4.0),
        universal(128).kernels(&[5]).expand(3.0),
        universal(128).repeat(2).expand(4.0),
    ],
    &[convolution(960).kernels(&[1])],
];
const V4_MEDIUM: &[&[Blocks]] = &[
    &[edge(48).stride(2).expand(4.0)],
    &[universal(80).start(3).kernels(&[5]).stride(2).expand(4.0), universal(80).start(3).expand(2.0)],
    &[
        universal(160).start(3).kernels(&[5]).stride(2).expand(6.0),
        universal(160).repeat(2).start(3).expand(4.0),
        universal(160).start(3).kernels(&[5]).expand(4.0),
        universal(160).start(3).expand(4.0),
        universal(160).start(3).kernels(&[]).expand(4.0),
        universal(160).kernels(&[]).expand(2.0),
        universal(160).start(3).kernels(&[]).expand(4.0),
    ],
    &[
        universal(256).start(5).kernels(&[5]).stride(2).expand(6.0),
        universal(256).start(5).kernels(&[5]).expand(4.0),
        universal(256).repeat(2).start(3).kernels(&[5]).expand(4.0),
        universal(256).kernels(&[]).expand(4.0),
        universal(256).start(3).kernels(&[]).expand(4.0),
        universal(256).start(3).kernels(&[5]).expand(2.0),
        universal(256).start(5).kernels(&[5]).expand(4.0),
        universal(256).repeat(2).kernels(&[]).expand(4.0),
        universal(256).start(5).kernels(&[]).expand(2.0),
    ],
    &[convolution(960).kernels(&[1])],
];
const V4_LARGE: &[&[Blocks]] = &[
    &[edge(48).stride(2).expand(4.0)],
    &[universal(96).start(3).kernels(&[5]).stride(2).expand(4.0), universal(96).start(3).expand(4.0)],
    &[
        universal(192).start(3).kernels(&[5]).stride(2).expand(4.0),
        universal(192).repeat(3).start(3).expand(4.0),
        universal(192).start(3).kernels(&[5]).expand(4.0),
        universal(192).repeat(5).start(5).expand(4.0),
        universal(192).start(3).kernels(&[]).expand(4.0),
    ],
    &[
        universal(512).repeat(4).start(5).kernels(&[5]).stride(2).expand(4.0),
        universal(512).start(5).kernels(&[]).expand(4.0),
        universal(512).start(5).expand(4.0),
        universal(512).repeat(2).start(5).kernels(&[]).expand(4.0),
        universal(512).start(5).expand(4.0),
        universal(512).start(5).kernels(&[5]).expand(4.0),
        universal(512).repeat(3).start(5).kernels(&[]).expand(4.0),
    ],
    &[convolution(960).kernels(&[1])],
];

const SQUEEZE: Squeeze =
    Squeeze { of_middle: true, round_limit: Some(0.9), activation: Some(RELU), gate: Activation::HardSigmoid };
const SQUEEZE_RW: Squeeze = Squeeze { round_limit: None, activation: None, ..SQUEEZE };
const SQUEEZE_FBNET: Squeeze = Squeeze { of_middle: false, round_limit: Some(0.95), activation: None, ..SQUEEZE };
const SQUEEZE_LCNET: Squeeze = Squeeze { round_limit: None, ..SQUEEZE };

const fn network(width: f64, stem: usize, stages: &'static [&'static [Blocks]], head: usize) -> Config {
    let body = MobileBody {
        stem,
        stem_kernel: 3,
        stages,
        width,
        round_limit: 0.9,
        depth: Depth::Up(1.0),
        activation: Activation::HardSwish,
        same_padding: false,
        epsilon: 1e-5,
        squeeze: SQUEEZE,
    };
    Config {
        body,
        head,
        head_kind: HeadKind::Biased,
        searched: true,
        regularisation: Regularisation::NONE,
        input_size: 224,
        num_classes: 1000,
    }
}
const fn large(width: f64) -> Config {
    network(width, 16, LARGE, 1280)
}
const fn small(width: f64) -> Config {
    network(width, 16, SMALL, 1024)
}
const fn relu(config: Config) -> Config {
    Config { body: MobileBody { activation: RELU, ..config.body }, ..config }
}
const fn tensorflow(config: Config) -> Config {
    Config { body: MobileBody { same_padding: true, epsilon: 1e-3, ..config.body }, ..config }
}
const fn fbnet(stem: usize, stages: &'static [&'static [Blocks]]) -> Config {
    let config = network(1.0, stem, stages, 1984);
    let body = MobileBody { squeeze: SQUEEZE_FBNET, round_limit: 0.95, ..config.body };
    Config { body, head_kind: HeadKind::Plain, ..config }
}
const fn hardcore(stages: &'static [&'static [Blocks]]) -> Config {
    network(1.0, 32, stages, 1280)
}
const fn lcnet(width: f64, stem: usize) -> Config {
    let config = network(width, stem, LCNET, 1280);
    Config { body: MobileBody { squeeze: SQUEEZE_LCNET, ..config.body }, searched: false, ..config }
}
const fn v4(width: f64, stem: usize, stages: &'static [&'static [Blocks]], input_size: usize) -> Config {
    Config { head_kind: HeadKind::Normalised, input_size, ..relu(network(width, stem, stages, 1280)) }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("fbnetv3_b", fbnet(16, FBNET_V3_B)),
    ("fbnetv3_d", fbnet(24, FBNET_V3_D)),
    ("fbnetv3_g", Config { input_size: 240, ..fbnet(32, FBNET_V3_G) }),
    ("hardcorenas_a", hardcore(HARDCORE_A)),
    ("hardcorenas_b", hardcore(HARDCORE_B)),
    ("hardcorenas_c", hardcore(HARDCORE_C)),
    ("hardcorenas_d", hardcore(HARDCORE_D)),
    ("hardcorenas_e", hardcore(HARDCORE_E)),
    ("hardcorenas_f", hardcore(HARDCORE_F)),
    ("lcnet_035", lcnet(0.35, 8)),
    ("lcnet_050", lcnet(0.5, 8)),
    ("lcnet_075", lcnet(0.75, 16)),
    ("lcnet_100", lcnet(1.0, 16)),
    ("lcnet_150", lcnet(1.5, 24)),
    ("mobilenetv3_large_075", large(0.75)),
    ("mobilenetv3_large_100", large(1.0)),
    ("mobilenetv3_large_150d", {
        let config = network(1.5, 24, LARGE, 1280);
        Config { body: MobileBody { depth: Depth::Up(1.2), ..config.body }, input_size: 256, ..config }
    }),
    ("mobilenetv3_rw", {
        let config = network(1.0, 16, LARGE_RW, 1280);
        let body = MobileBody { squeeze: SQUEEZE_RW, epsilon: 1e-3, ..config.body };
        Config { body, head_kind: HeadKind::Plain, ..config }
    }),
    ("mobilenetv3_small_050", small(0.5)),
    ("mobilenetv3_small_075", small(0.75)),
    ("mobilenetv3_small_100", small(1.0)),
    ("mobilenetv4_conv_large", v4(1.0, 24, V4_LARGE, 384)),
    ("mobilenetv4_conv_medium", v4(1.0, 32, V4_MEDIUM, 256)),
    ("mobilenetv4_conv_small", v4(1.0, 32, V4_SMALL, 224)),
    ("mobilenetv4_conv_small_035", v4(0.35, 32, V4_SMALL, 224)),
    ("mobilenetv4_conv_small_050", v4(0.5, 32, V4_SMALL, 224)),
    ("tf_mobilenetv3_large_075", tensorflow(large(0.75))),
    ("tf_mobilenetv3_large_100", tensorflow(large(1.0))),
    ("tf_mobilenetv3_large_minimal_100", tensorflow(relu(network(1.0, 16, LARGE_MINIMAL, 1280)))),
    ("tf_mobilenetv3_small_075", tensorflow(small(0.75))),
    ("tf_mobilenetv3_small_100", tensorflow(small(1.0))),
    ("tf_mobilenetv3_small_minimal_100", tensorflow(relu(network(1.0, 16, SMALL_MINIMAL, 1024)))),
];

configuration!(MobileNetV3, InputRule::Any; regularisation);

impl Config {
    fn components(&self) -> Components {
        let base_architecture = if self.searched { "NAS (CNN)" } else { "CNN" };
        Components { base_architecture, ..self.body.components() }
    }
}

/// A MobileNetV3. See [`Config`].
#[derive(Module, Debug)]
pub struct MobileNetV3 {
    conv_stem: Conv2d,
    bn1: BatchNorm2d,
    blocks: Vec<Vec<MobileBlock>>,
    conv_head: Conv2d,
    norm_head: Option<BatchNorm2d>,
    classifier: Linear,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    dropout: Dropout,
}

impl MobileNetV3 {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let Config { body, head, head_kind, .. } = config;
        let (conv_stem, bn1) = body.stem(device);
        let (blocks, channels) = body.blocks(config.regularisation, device);
        let conv_head = body.conv(channels, *head, 1);
        let conv_head = if *head_kind == HeadKind::Biased { conv_head.bias() } else { conv_head };
        let network = Self {
            conv_stem,
            bn1,
            blocks,
            conv_head: conv_head.build(device),
            norm_head: (*head_kind == HeadKind::Normalised).then(|| body.norm(*head, device)),
            classifier: Linear::new(*head, num_classes, device),
            activation: body.activation,
            dropout: config.regularisation.dropout(),
        };
        let bound = (num_classes as f64).powf(-0.5);
        initialised(network, |parameter| (parameter.key == "classifier.weight").then_some(Initial::Uniform(bound)))
    }
}

impl Architecture for MobileNetV3 {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = self.conv_stem.forward_then(images, Then::norm(&self.bn1, self.activation));
        let x = taps.map(|| "bn1".into(), x);
        let x = run_stages(&self.blocks, x, taps);
        let [batch, channels, _, _] = x.dims();
        let x = global_average_pool(x).reshape([batch, channels, 1, 1]);
        let x = taps.map(|| "global_pool".into(), x);
        let then = match &self.norm_head {
            Some(norm) => Then::norm(norm, self.activation),
            None => Then::activation(self.activation),
        };
        let features = taps.map(|| "act2".into(), self.conv_head.forward_then(x, then)).flatten(1, 3);
        Outputs { logits: self.classifier.forward(self.dropout.forward(features.clone())), features }
    }
}
