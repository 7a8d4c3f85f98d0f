//! EfficientNet and its relatives: EfficientNetV2, -Lite and -EdgeTPU, MobileNet V1 and V2, MnasNet, MixNet, FBNet-C, TinyNet.
//!
//! Tan & Le, *EfficientNet* (arXiv 1905.11946) and *EfficientNetV2* (2104.00298); Howard et al., *MobileNets* (1704.04861);
//! Sandler et al., *MobileNetV2* (1801.04381); Tan et al., *MnasNet* (1807.11626); Tan & Le, *MixConv* (1907.09595); Wu et
//! al., *FBNet* (1812.03443); Stamoulis et al., *Single-Path NAS* (1904.02877); Han et al., *TinyNet* (2010.14819). The
//! names in `tf_` are networks ported from TensorFlow.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::initial::{Initial, initialised};
use crate::layers::{Activation, BatchNorm2d, Conv2d, Dropout, Linear, Regularisation, Then, global_average_pool};
use crate::mobile::{
    Blocks, Depth, MobileBlock, MobileBody, Squeeze, convolution, edge, inverted, run_stages, separable,
};
use crate::taps::Taps;

/// Which EfficientNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// The first convolution and the blocks.
    pub body: MobileBody,
    /// Channels of the last convolution, if there is one.
    pub head: Option<usize>,
    /// Whether the blocks were found by search (all but MobileNet's).
    pub searched: bool,
    /// What is left out in training.
    pub regularisation: Regularisation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const EFFICIENTNET: &[&[Blocks]] = &[
    &[separable(16).se(0.25)],
    &[inverted(24).repeat(2).stride(2).expand(6.0).se(0.25)],
    &[inverted(40).repeat(2).kernels(&[5]).stride(2).expand(6.0).se(0.25)],
    &[inverted(80).repeat(3).stride(2).expand(6.0).se(0.25)],
    &[inverted(112).repeat(3).kernels(&[5]).expand(6.0).se(0.25)],
    &[inverted(192).repeat(4).kernels(&[5]).stride(2).expand(6.0).se(0.25)],
    &[inverted(320).expand(6.0).se(0.25)],
];
const EFFICIENTNET_LITE: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).repeat(2).stride(2).expand(6.0)],
    &[inverted(40).repeat(2).kernels(&[5]).stride(2).expand(6.0)],
    &[inverted(80).repeat(3).stride(2).expand(6.0)],
    &[inverted(112).repeat(3).kernels(&[5]).expand(6.0)],
    &[inverted(192).repeat(4).kernels(&[5]).stride(2).expand(6.0)],
    &[inverted(320).expand(6.0)],
];
const MOBILENET_V2: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).repeat(2).stride(2).expand(6.0)],
    &[inverted(32).repeat(3).stride(2).expand(6.0)],
    &[inverted(64).repeat(4).stride(2).expand(6.0)],
    &[inverted(96).repeat(3).expand(6.0)],
    &[inverted(160).repeat(3).stride(2).expand(6.0)],
    &[inverted(320).expand(6.0)],
];
const MNASNET: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).repeat(3).stride(2).expand(3.0)],
    &[inverted(40).repeat(3).kernels(&[5]).stride(2).expand(3.0)],
    &[inverted(80).repeat(3).kernels(&[5]).stride(2).expand(6.0)],
    &[inverted(96).repeat(2).expand(6.0)],
    &[inverted(192).repeat(4).kernels(&[5]).stride(2).expand(6.0)],
    &[inverted(320).expand(6.0)],
];
const SEMNASNET: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).repeat(2).stride(2).expand(6.0)],
    &[inverted(40).repeat(3).kernels(&[5]).stride(2).expand(3.0).se(0.25)],
    &[inverted(80).repeat(4).stride(2).expand(6.0)],
    &[inverted(112).repeat(2).expand(6.0).se(0.25)],
    &[inverted(160).repeat(3).kernels(&[5]).stride(2).expand(6.0).se(0.25)],
    &[inverted(320).expand(6.0)],
];
const MNASNET_SMALL: &[&[Blocks]] = &[
    &[separable(8)],
    &[inverted(16).stride(2).expand(3.0)],
    &[inverted(16).repeat(2).stride(2).expand(6.0)],
    &[inverted(32).repeat(4).kernels(&[5]).stride(2).expand(6.0).se(0.25)],
    &[inverted(32).repeat(3).expand(6.0).se(0.25)],
    &[inverted(88).repeat(3).kernels(&[5]).stride(2).expand(6.0).se(0.25)],
    &[inverted(144).expand(6.0)],
];
const MOBILENET_V1: &[&[Blocks]] = &[
    &[separable(64).activated()],
    &[separable(128).repeat(2).stride(2).activated()],
    &[separable(256).repeat(2).stride(2).activated()],
    &[separable(512).repeat(6).stride(2).activated()],
    &[separable(1024).repeat(2).stride(2).activated()],
];
const FBNET_C: &[&[Blocks]] = &[
    &[inverted(16)],
    &[inverted(24).stride(2).expand(6.0), inverted(24).repeat(2)],
    &[
        inverted(32).kernels(&[5]).stride(2).expand(6.0),
        inverted(32).kernels(&[5]).expand(3.0),
        inverted(32).kernels(&[5]).expand(6.0),
        inverted(32).expand(6.0),
    ],
    &[
        inverted(64).kernels(&[5]).stride(2).expand(6.0),
        inverted(64).kernels(&[5]).expand(3.0),
        inverted(64).repeat(2).kernels(&[5]).expand(6.0),
    ],
    &[inverted(112).repeat(3).kernels(&[5]).expand(6.0), inverted(112).kernels(&[5]).expand(3.0)],
    &[inverted(184).repeat(4).kernels(&[5]).stride(2).expand(6.0)],
    &[inverted(352).expand(6.0)],
];
const SPNASNET: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).repeat(3).stride(2).expand(3.0)],
    &[inverted(40).kernels(&[5]).stride(2).expand(6.0), inverted(40).repeat(3).expand(3.0)],
    &[inverted(80).kernels(&[5]).stride(2).expand(6.0), inverted(80).repeat(3).expand(3.0)],
    &[inverted(96).kernels(&[5]).expand(6.0), inverted(96).repeat(3).kernels(&[5]).expand(3.0)],
    &[inverted(192).repeat(4).kernels(&[5]).stride(2).expand(6.0)],
    &[inverted(320).expand(6.0)],
];
const EFFICIENTNET_EDGE: &[&[Blocks]] = &[
    &[edge(24).expand_outputs(4.0).shortcut(false)],
    &[edge(32).repeat(2).stride(2).expand(8.0)],
    &[edge(48).repeat(4).stride(2).expand(8.0)],
    &[inverted(96).repeat(5).kernels(&[5]).stride(2).expand(8.0)],
    &[inverted(144).repeat(4).kernels(&[5]).expand(8.0)],
    &[inverted(192).repeat(2).kernels(&[5]).stride(2).expand(8.0)],
];
const MOBILENET_EDGE: &[&[Blocks]] = &[
    &[convolution(16).kernels(&[1])],
    &[edge(32).stride(2).expand(8.0), edge(32).repeat(3).expand(4.0)],
    &[edge(48).stride(2).expand(8.0), edge(48).repeat(3).expand(4.0)],
    &[inverted(96).stride(2).expand(8.0), inverted(96).repeat(3).expand(4.0)],
    &[inverted(96).expand(8.0).shortcut(false), inverted(96).repeat(3).expand(4.0)],
    &[inverted(160).kernels(&[5]).stride(2).expand(8.0), inverted(160).repeat(3).kernels(&[5]).expand(4.0)],
    &[inverted(192).expand(8.0)],
];
/// MobileNet-EdgeTPU's second version, by the channels of a group and of each stage.
macro_rules! mobilenet_edge_v2 {
    ($group:literal, $a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:literal) => {
        &[
            &[convolution($a).kernels(&[1])],
            &[edge($b).stride(2).expand(8.0), edge($b).expand(4.0).group_width($group)],
            &[
                edge($c).stride(2).expand(8.0),
                edge($c).expand(4.0).group_width($group),
                edge($c).expand(4.0),
                edge($c).expand(4.0).group_width($group),
            ],
            &[edge($d).stride(2).expand(8.0), inverted($d).repeat(3).expand(4.0)],
            &[inverted($e).expand(8.0), inverted($e).repeat(3).expand(4.0)],
            &[inverted($f).stride(2).expand(8.0), inverted($f).repeat(3).expand(4.0)],
            &[inverted($g).expand(8.0)],
        ]
    };
}
const EFFICIENTNET_V2_BASE: &[&[Blocks]] = &[
    &[convolution(16).shortcut(true)],
    &[edge(32).repeat(2).stride(2).expand(4.0)],
    &[edge(48).repeat(2).stride(2).expand(4.0)],
    &[inverted(96).repeat(3).stride(2).expand(4.0).se(0.25)],
    &[inverted(112).repeat(5).expand(6.0).se(0.25)],
    &[inverted(192).repeat(8).stride(2).expand(6.0).se(0.25)],
];
const EFFICIENTNET_V2_S: &[&[Blocks]] = &[
    &[convolution(24).repeat(2).shortcut(true)],
    &[edge(48).repeat(4).stride(2).expand(4.0)],
    &[edge(64).repeat(4).stride(2).expand(4.0)],
    &[inverted(128).repeat(6).stride(2).expand(4.0).se(0.25)],
    &[inverted(160).repeat(9).expand(6.0).se(0.25)],
    &[inverted(256).repeat(15).stride(2).expand(6.0).se(0.25)],
];
/// As the paper's figure has it, before its code was published.
const EFFICIENTNET_V2_RW: &[&[Blocks]] = &[
    &[edge(24).repeat(2)],
    &[edge(48).repeat(4).stride(2).expand(4.0)],
    &[edge(64).repeat(4).stride(2).expand(4.0)],
    &[inverted(128).repeat(6).stride(2).expand(4.0).se(0.25)],
    &[inverted(160).repeat(9).expand(6.0).se(0.25)],
    &[inverted(272).repeat(15).stride(2).expand(6.0).se(0.25)],
];
const EFFICIENTNET_V2_M: &[&[Blocks]] = &[
    &[convolution(24).repeat(3).shortcut(true)],
    &[edge(48).repeat(5).stride(2).expand(4.0)],
    &[edge(80).repeat(5).stride(2).expand(4.0)],
    &[inverted(160).repeat(7).stride(2).expand(4.0).se(0.25)],
    &[inverted(176).repeat(14).expand(6.0).se(0.25)],
    &[inverted(304).repeat(18).stride(2).expand(6.0).se(0.25)],
    &[inverted(512).repeat(5).expand(6.0).se(0.25)],
];
const EFFICIENTNET_V2_L: &[&[Blocks]] = &[
    &[convolution(32).repeat(4).shortcut(true)],
    &[edge(64).repeat(7).stride(2).expand(4.0)],
    &[edge(96).repeat(7).stride(2).expand(4.0)],
    &[inverted(192).repeat(10).stride(2).expand(4.0).se(0.25)],
    &[inverted(224).repeat(19).expand(6.0).se(0.25)],
    &[inverted(384).repeat(25).stride(2).expand(6.0).se(0.25)],
    &[inverted(640).repeat(7).expand(6.0).se(0.25)],
];
const EFFICIENTNET_V2_XL: &[&[Blocks]] = &[
    &[convolution(32).repeat(4).shortcut(true)],
    &[edge(64).repeat(8).stride(2).expand(4.0)],
    &[edge(96).repeat(8).stride(2).expand(4.0)],
    &[inverted(192).repeat(16).stride(2).expand(4.0).se(0.25)],
    &[inverted(256).repeat(24).expand(6.0).se(0.25)],
    &[inverted(512).repeat(32).stride(2).expand(6.0).se(0.25)],
    &[inverted(640).repeat(8).expand(6.0).se(0.25)],
];
const K35: &[usize] = &[3, 5];
const K357: &[usize] = &[3, 5, 7];
const K3579: &[usize] = &[3, 5, 7, 9];
const MIXNET_S: &[&[Blocks]] = &[
    &[separable(16)],
    &[inverted(24).stride(2).expand(6.0).grouped(2, 2), inverted(24).expand(3.0).grouped(2, 2)],
    &[
        inverted(40).kernels(K357).stride(2).expand(6.0).se(0.5).activation(Activation::Silu),
        inverted(40).repeat(3).kernels(K35).expand(6.0).grouped(2, 2).se(0.5).activation(Activation::Silu),
    ],
    &[
        inverted(80).kernels(K357).stride(2).expand(6.0).grouped(1, 2).se(0.25).activation(Activation::Silu),
        inverted(80).repeat(2).kernels(K35).expand(6.0).grouped(1, 2).se(0.25).activation(Activation::Silu),
    ],
    &[
        inverted(120).kernels(K357).expand(6.0).grouped(2, 2).se(0.5).activation(Activation::Silu),
        inverted(120).repeat(2).kernels(K3579).expand(3.0).grouped(2, 2).se(0.5).activation(Activation::Silu),
    ],
    &[
        inverted(200).kernels(&[3, 5, 7, 9, 11]).stride(2).expand(6.0).se(0.5).activation(Activation::Silu),
        inverted(200).repeat(2).kernels(K3579).expand(6.0).grouped(1, 2).se(0.5).activation(Activation::Silu),
    ],
];
const MIXNET_M: &[&[Blocks]] = &[
    &[separable(24)],
    &[inverted(32).kernels(K357).stride(2).expand(6.0).grouped(2, 2), inverted(32).expand(3.0).grouped(2, 2)],
    &[
        inverted(40).kernels(K3579).stride(2).expand(6.0).se(0.5).activation(Activation::Silu),
        inverted(40).repeat(3).kernels(K35).expand(6.0).grouped(2, 2).se(0.5).activation(Activation::Silu),
    ],
    &[
        inverted(80).kernels(K357).stride(2).expand(6.0).se(0.25).activation(Activation::Silu),
        inverted(80).repeat(3).kernels(K3579).expand(6.0).grouped(2, 2).se(0.25).activation(Activation::Silu),
    ],
    &[
        inverted(120).expand(6.0).se(0.5).activation(Activation::Silu),
        inverted(120).repeat(3).kernels(K3579).expand(3.0).grouped(2, 2).se(0.5).activation(Activation::Silu),
    ],
    &[
        inverted(200).kernels(K3579).stride(2).expand(6.0).se(0.5).activation(Activation::Silu),
        inverted(200).repeat(3).kernels(K3579).expand(6.0).grouped(1, 2).se(0.5).activation(Activation::Silu),
    ],
];

const B0: Config = network(32, EFFICIENTNET, 1280, Activation::Silu);
const B1: Config = sized(240, scaled(1.0, Depth::Up(1.1), B0));
const B2: Config = b(1.1, 1.2, 32, 1408, 260);
const B3: Config = b(1.2, 1.4, 40, 1536, 300);
const B4: Config = b(1.4, 1.8, 48, 1792, 380);
const B5: Config = b(1.6, 2.2, 48, 2048, 456);
const B6: Config = b(1.8, 2.6, 56, 2304, 528);
const B7: Config = b(2.0, 3.1, 64, 2560, 600);
const B8: Config = b(2.2, 3.6, 72, 2816, 672);
const LITE0: Config = network(32, EFFICIENTNET_LITE, 1280, Activation::Relu6);
const LITE1: Config = sized(240, scaled(1.0, Depth::UpInside(1.1), LITE0));
const LITE2: Config = sized(260, scaled(1.1, Depth::UpInside(1.2), LITE0));
const LITE3: Config = sized(300, scaled(1.2, Depth::UpInside(1.4), LITE0));
const LITE4: Config = sized(380, scaled(1.4, Depth::UpInside(1.8), LITE0));
const EDGE_S: Config = network(32, EFFICIENTNET_EDGE, 1280, Activation::Relu);
const EDGE_M: Config = sized(240, scaled(1.0, Depth::Up(1.1), EDGE_S));
const EDGE_L: Config = sized(300, scaled(1.2, Depth::Up(1.4), network(40, EFFICIENTNET_EDGE, 1536, Activation::Relu)));
const MIX_S: Config = network(16, MIXNET_S, 1536, Activation::Relu);
const MIX_M: Config = mixnet(1.0, 1.0, 24);
const MIX_L: Config = mixnet(1.3, 1.0, 32);
const V2_S: Config = sized(300, network(24, EFFICIENTNET_V2_S, 1280, Activation::Silu));
const V2_M: Config = sized(384, network(24, EFFICIENTNET_V2_M, 1280, Activation::Silu));
const V2_L: Config = sized(384, network(32, EFFICIENTNET_V2_L, 1280, Activation::Silu));
const V2_XL: Config = sized(384, network(32, EFFICIENTNET_V2_XL, 1280, Activation::Silu));

const fn network(stem: usize, stages: &'static [&'static [Blocks]], head: usize, activation: Activation) -> Config {
    let body = MobileBody {
        stem,
        stem_kernel: 3,
        stages,
        width: 1.0,
        round_limit: 0.9,
        depth: Depth::Up(1.0),
        activation,
        same_padding: false,
        epsilon: 1e-5,
        squeeze: Squeeze::EFFICIENTNET,
    };
    Config {
        body,
        head: Some(head),
        searched: true,
        regularisation: Regularisation::NONE,
        input_size: 224,
        num_classes: 1000,
    }
}
const fn scaled(width: f64, depth: Depth, config: Config) -> Config {
    Config { body: MobileBody { width, depth, ..config.body }, ..config }
}
const fn sized(input_size: usize, config: Config) -> Config {
    Config { input_size, ..config }
}
const fn tensorflow(config: Config) -> Config {
    with_epsilon(1e-3, Config { body: MobileBody { same_padding: true, ..config.body }, ..config })
}
const fn with_epsilon(epsilon: f64, config: Config) -> Config {
    Config { body: MobileBody { epsilon, ..config.body }, ..config }
}
const fn b(width: f64, depth: f64, stem: usize, head: usize, input_size: usize) -> Config {
    sized(input_size, scaled(width, Depth::Up(depth), network(stem, EFFICIENTNET, head, Activation::Silu)))
}
const fn v2_base(width: f64, depth: f64, stem: usize, head: usize, input_size: usize) -> Config {
    let config = scaled(width, Depth::Up(depth), network(stem, EFFICIENTNET_V2_BASE, head, Activation::Silu));
    Config { body: MobileBody { round_limit: 0.0, ..config.body }, input_size, ..config }
}
const fn mobilenet(width: f64, depth: f64, stem: usize, head: usize) -> Config {
    let config = network(stem, MOBILENET_V2, head, Activation::Relu6);
    scaled(width, Depth::UpInside(depth), Config { searched: false, ..config })
}
const fn mobilenet_v1(width: f64, stem: usize, head: Option<usize>) -> Config {
    let config = network(stem, MOBILENET_V1, 1024, Activation::Relu6);
    scaled(width, Depth::Up(1.0), Config { head, searched: false, ..config })
}
const fn mnasnet(width: f64, stem: usize, stages: &'static [&'static [Blocks]]) -> Config {
    scaled(width, Depth::Up(1.0), network(stem, stages, 1280, Activation::Relu))
}
const fn mixnet(width: f64, depth: f64, stem: usize) -> Config {
    scaled(width, Depth::Nearest(depth), network(stem, MIXNET_M, 1536, Activation::Relu))
}
const fn tinynet(width: f64, depth: f64, input_size: usize) -> Config {
    sized(input_size, scaled(width, Depth::Nearest(depth), B0))
}
const fn mobilenet_edge(stem: usize, stem_kernel: usize, head: usize, stages: &'static [&'static [Blocks]]) -> Config {
    let config = network(stem, stages, head, Activation::Relu);
    Config { body: MobileBody { stem_kernel, ..config.body }, ..config }
}

/// For 28 × 28 images of ten classes.
const fn demo(stages: &'static [&'static [Blocks]], activation: Activation) -> Config {
    Config { input_size: 28, num_classes: 10, ..network(16, stages, 160, activation) }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    (
        "demo_efficientnet",
        demo(
            &[
                &[separable(16).se(0.25)],
                &[inverted(24).repeat(2).stride(2).expand(4.0).se(0.25)],
                &[inverted(40).repeat(2).kernels(&[5]).stride(2).expand(4.0).se(0.25)],
                &[inverted(56).expand(4.0).se(0.25)],
            ],
            Activation::Silu,
        ),
    ),
    (
        "demo_mobilenetv2",
        demo(
            &[
                &[separable(16)],
                &[inverted(24).repeat(2).stride(2).expand(4.0)],
                &[inverted(40).repeat(2).stride(2).expand(4.0)],
                &[inverted(56).expand(4.0)],
            ],
            Activation::Relu6,
        ),
    ),
    ("efficientnet_b0", B0),
    ("efficientnet_b1", B1),
    ("efficientnet_b2", sized(256, B2)),
    ("efficientnet_b3", sized(288, B3)),
    ("efficientnet_b4", sized(320, B4)),
    ("efficientnet_b5", sized(448, B5)),
    ("efficientnet_b6", B6),
    ("efficientnet_b7", B7),
    ("efficientnet_b8", B8),
    ("efficientnet_el", EDGE_L),
    ("efficientnet_el_pruned", EDGE_L),
    ("efficientnet_em", EDGE_M),
    ("efficientnet_es", EDGE_S),
    ("efficientnet_es_pruned", EDGE_S),
    ("efficientnet_lite0", LITE0),
    ("efficientnet_lite1", LITE1),
    ("efficientnet_lite2", LITE2),
    ("efficientnet_lite3", LITE3),
    ("efficientnet_lite4", LITE4),
    ("efficientnetv2_l", V2_L),
    ("efficientnetv2_m", sized(320, V2_M)),
    ("efficientnetv2_rw_m", {
        let config = network(32, EFFICIENTNET_V2_RW, 2152, Activation::Silu);
        sized(320, scaled(1.2, Depth::UpByStage(&[1.2, 1.2, 1.2, 1.2, 1.6, 1.6]), config))
    }),
    ("efficientnetv2_rw_s", sized(288, network(24, EFFICIENTNET_V2_RW, 1792, Activation::Silu))),
    ("efficientnetv2_rw_t", scaled(0.8, Depth::Up(0.9), network(24, EFFICIENTNET_V2_S, 1024, Activation::Silu))),
    ("efficientnetv2_s", sized(288, V2_S)),
    // The published weights want the larger epsilon.
    ("fbnetc_100", with_epsilon(1e-3, network(16, FBNET_C, 1984, Activation::Relu))),
    ("mixnet_l", MIX_L),
    ("mixnet_m", MIX_M),
    ("mixnet_s", MIX_S),
    ("mixnet_xl", mixnet(1.6, 1.2, 40)),
    ("mixnet_xxl", mixnet(2.4, 1.3, 56)),
    ("mnasnet_050", mnasnet(0.5, 16, MNASNET)),
    ("mnasnet_075", mnasnet(0.75, 24, MNASNET)),
    ("mnasnet_100", mnasnet(1.0, 32, MNASNET)),
    ("mnasnet_140", mnasnet(1.4, 48, MNASNET)),
    ("mnasnet_small", mnasnet(1.0, 8, MNASNET_SMALL)),
    ("mobilenet_edgetpu_100", mobilenet_edge(32, 3, 1280, MOBILENET_EDGE)),
    ("mobilenet_edgetpu_v2_l", mobilenet_edge(64, 7, 1408, mobilenet_edge_v2!(128, 32, 64, 96, 192, 240, 256, 384))),
    ("mobilenet_edgetpu_v2_m", mobilenet_edge(64, 5, 1344, mobilenet_edge_v2!(64, 32, 64, 80, 160, 192, 240, 320))),
    ("mobilenet_edgetpu_v2_s", mobilenet_edge(64, 5, 1280, mobilenet_edge_v2!(64, 24, 48, 64, 128, 160, 192, 256))),
    ("mobilenet_edgetpu_v2_xs", mobilenet_edge(32, 3, 1280, mobilenet_edge_v2!(64, 16, 32, 48, 96, 144, 160, 192))),
    ("mobilenetv1_100", mobilenet_v1(1.0, 32, None)),
    ("mobilenetv1_100h", mobilenet_v1(1.0, 32, Some(1024))),
    ("mobilenetv1_125", mobilenet_v1(1.25, 40, None)),
    ("mobilenetv2_035", mobilenet(0.35, 1.0, 16, 1280)),
    ("mobilenetv2_050", mobilenet(0.5, 1.0, 16, 1280)),
    ("mobilenetv2_075", mobilenet(0.75, 1.0, 24, 1280)),
    ("mobilenetv2_100", mobilenet(1.0, 1.0, 32, 1280)),
    ("mobilenetv2_110d", mobilenet(1.1, 1.2, 32, 1280)),
    ("mobilenetv2_120d", mobilenet(1.2, 1.4, 32, 1280)),
    ("mobilenetv2_140", mobilenet(1.4, 1.0, 48, 1792)),
    ("semnasnet_050", mnasnet(0.5, 16, SEMNASNET)),
    ("semnasnet_075", mnasnet(0.75, 24, SEMNASNET)),
    ("semnasnet_100", mnasnet(1.0, 32, SEMNASNET)),
    ("semnasnet_140", mnasnet(1.4, 48, SEMNASNET)),
    ("spnasnet_100", mnasnet(1.0, 32, SPNASNET)),
    ("tf_efficientnet_b0", tensorflow(B0)),
    ("tf_efficientnet_b1", tensorflow(B1)),
    ("tf_efficientnet_b2", tensorflow(B2)),
    ("tf_efficientnet_b3", tensorflow(B3)),
    ("tf_efficientnet_b4", tensorflow(B4)),
    ("tf_efficientnet_b5", tensorflow(B5)),
    ("tf_efficientnet_b6", tensorflow(B6)),
    ("tf_efficientnet_b7", tensorflow(B7)),
    ("tf_efficientnet_b8", tensorflow(B8)),
    ("tf_efficientnet_el", tensorflow(EDGE_L)),
    ("tf_efficientnet_em", tensorflow(EDGE_M)),
    ("tf_efficientnet_es", tensorflow(EDGE_S)),
    ("tf_efficientnet_lite0", tensorflow(LITE0)),
    ("tf_efficientnet_lite1", tensorflow(LITE1)),
    ("tf_efficientnet_lite2", tensorflow(LITE2)),
    ("tf_efficientnet_lite3", tensorflow(LITE3)),
    ("tf_efficientnet_lite4", tensorflow(LITE4)),
    ("tf_efficientnetv2_b0", tensorflow(v2_base(1.0, 1.0, 32, 1280, 192))),
    ("tf_efficientnetv2_b1", tensorflow(v2_base(1.0, 1.1, 32, 1280, 192))),
    ("tf_efficientnetv2_b2", tensorflow(v2_base(1.1, 1.2, 32, 1408, 208))),
    ("tf_efficientnetv2_b3", tensorflow(v2_base(1.2, 1.4, 40, 1536, 240))),
    ("tf_efficientnetv2_l", tensorflow(V2_L)),
    ("tf_efficientnetv2_m", tensorflow(V2_M)),
    ("tf_efficientnetv2_s", tensorflow(V2_S)),
    ("tf_efficientnetv2_xl", tensorflow(V2_XL)),
    ("tf_mixnet_l", tensorflow(MIX_L)),
    ("tf_mixnet_m", tensorflow(MIX_M)),
    ("tf_mixnet_s", tensorflow(MIX_S)),
    ("tinynet_a", tinynet(1.0, 1.2, 192)),
    ("tinynet_b", tinynet(0.75, 1.1, 188)),
    ("tinynet_c", tinynet(0.54, 0.85, 184)),
    ("tinynet_d", tinynet(0.54, 0.695, 152)),
    ("tinynet_e", tinynet(0.51, 0.6, 106)),
];

configuration!(EfficientNet, InputRule::Any; regularisation);

impl Config {
    fn components(&self) -> Components {
        let base_architecture = if self.searched { "NAS (CNN)" } else { "CNN" };
        Components { base_architecture, ..self.body.components() }
    }
}

/// An EfficientNet. See [`Config`].
#[derive(Module, Debug)]
pub struct EfficientNet {
    conv_stem: Conv2d,
    bn1: BatchNorm2d,
    blocks: Vec<Vec<MobileBlock>>,
    conv_head: Option<Conv2d>,
    bn2: Option<BatchNorm2d>,
    classifier: Linear,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    dropout: Dropout,
}

impl EfficientNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let body = &config.body;
        let (conv_stem, bn1) = body.stem(device);
        let (blocks, channels) = body.blocks(config.regularisation, device);
        let network = Self {
            conv_stem,
            bn1,
            blocks,
            conv_head: config.head.map(|head| body.conv(channels, head, 1).build(device)),
            bn2: config.head.map(|head| body.norm(head, device)),
            classifier: Linear::new(config.head.unwrap_or(channels), num_classes, device),
            activation: body.activation,
            dropout: config.regularisation.dropout(),
        };
        let bound = (num_classes as f64).powf(-0.5);
        initialised(network, |parameter| (parameter.key == "classifier.weight").then_some(Initial::Uniform(bound)))
    }
}

impl Architecture for EfficientNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let x = self.conv_stem.forward_then(images, Then::norm(&self.bn1, self.activation));
        let x = taps.map(|| "bn1".into(), x);
        let x = run_stages(&self.blocks, x, taps);
        let x = match (&self.conv_head, &self.bn2) {
            (Some(conv), Some(norm)) => conv.forward_then(x, Then::norm(norm, self.activation)),
            _ => x,
        };
        let features = taps.map(|| "global_pool".into(), global_average_pool(x));
        Outputs { logits: self.classifier.forward(self.dropout.forward(features.clone())), features }
    }
}
