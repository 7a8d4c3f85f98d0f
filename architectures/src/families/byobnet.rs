//! Networks whose blocks are chosen stage by stage: ResNets that attend to channels (ECA, GC, SE) or to places (BoTNet,
//! HaloNet, LambdaResNet), RegNetZ, GENet, RepVGG, MobileOne.
//!
//! Wang et al., *ECA-Net* (arXiv 1910.03151); Cao et al., *GCNet* (1904.11492); Srinivas et al., *Bottleneck Transformers*
//! (2101.11605); Vaswani et al., *Scaling Local Self-Attention* (2103.12731); Bello, *LambdaNetworks* (2102.08602); Dollár et
//! al., *Fast and Accurate Model Scaling* (2103.06877); Lin et al., *Neural Architecture Design for GPU-Efficient Networks*
//! (2006.14090); Ding et al., *RepVGG* (2101.03697); Vasu et al., *MobileOne* (2206.04040). The sizes of the ResNets and
//! RegNetZ and all mixtures are timm's (its files byobnet and byoanet).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, BatchNorm2d, BottleneckAttention, Conv2d, ConvNorm, EfficientChannelAttention, GlobalContext,
    HaloAttention, HaloShape, LambdaLayer, LambdaScope, Linear, SqueezeExcite, add, average_pool, global_average_pool,
    make_divisible, make_divisible_limited, max_pool,
};
use crate::taps::Taps;

/// Which network.
#[derive(Debug, Clone)]
pub struct Config {
    /// The first layers.
    pub stem: StemKind,
    /// The blocks.
    pub stages: &'static [Stage],
    /// Channels of a last 1×1 convolution, if there is one.
    pub features: Option<usize>,
    /// The activation everywhere but within attention over channels.
    pub activation: Activation,
    /// Channels of a group in k×k convolutions where the stage does not say otherwise; without, all see each other.
    pub group_size: Option<usize>,
    /// The attention over channels, in every block that does not attend to places.
    pub channel_attention: Option<ChannelAttentionKind>,
    /// Whether a shortcut that shrinks does so by averaging.
    pub average_down: bool,
    /// Whether the blocks were found by search.
    pub searched: bool,
    /// Height and width in pixels.
    pub input_size: [usize; 2],
    /// Classes of the published weights.
    pub num_classes: usize,
}

/// The first layers of the network.
#[derive(Debug, Clone, Copy)]
pub enum StemKind {
    /// One 3×3 convolution of stride 2 to so many channels.
    Convolution(usize),
    /// The same as a RepVGG block.
    RepVgg(usize),
    /// The same as a MobileOne block.
    MobileOne(usize),
    /// Convolutions one behind the other, the first of stride 2.
    Stack {
        /// Rows and columns of their kernels.
        kernel: usize,
        /// Channels of each.
        channels: &'static [usize],
        /// How many of the first have neither normalisation nor activation.
        bare: usize,
        /// Whether pooling halves the image at the end; if not, the last convolution does.
        pool: bool,
    },
}

/// Blocks of one kind and width.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// The kind of each.
    pub kind: BlockKind,
    /// How many.
    pub depth: usize,
    /// Channels that each gives.
    pub channels: usize,
    /// The stride of the first; the others have 1.
    pub stride: usize,
    /// Channels within a block, as a part of those that it gives (inverted: of those that it gets).
    pub ratio: f64,
    /// Another group size than the network's.
    pub group_size: Option<usize>,
    /// How many of the last blocks have the network's attention over channels.
    pub attentive: usize,
    /// Attention over places, which takes the place of the k×k convolution in some of the blocks.
    pub self_attention: Option<SelfAttentionKind>,
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// k×k, k×k, beside a shortcut.
    Basic,
    /// 1×1, k×k, 1×1, beside a shortcut.
    Bottleneck,
    /// 1×1, k×k, k×k, 1×1, beside a shortcut.
    DoubleBottleneck,
    /// A bottleneck that is wide inside, with a shortcut only where the shape stays, and without an activation at its end.
    Inverted,
    /// 1×1, k×k, beside a shortcut.
    Dark,
    /// k×k, 1×1, beside a shortcut.
    Edge,
    /// The sum of k×k, 1×1 and, where the shape stays, the normalised input.
    RepVgg {
        /// Groups of channels in every second block.
        groups: usize,
    },
    /// Two blocks in one, depthwise and pointwise, each a sum as in RepVGG.
    MobileOne {
        /// How many convolutions of the same size are in the sum.
        branches: usize,
    },
}

/// An attention over channels.
#[derive(Debug, Clone, Copy)]
pub enum ChannelAttentionKind {
    /// Squeeze-and-excitation.
    SqueezeExcite {
        /// Channels inside as a part of those outside.
        part: f64,
        /// What divides them.
        divisor: usize,
    },
    /// Efficient channel attention.
    Efficient,
    /// Global context.
    GlobalContext,
}

/// An attention over places.
#[derive(Debug, Clone, Copy)]
pub struct SelfAttentionKind {
    /// To which places.
    pub scope: Scope,
    /// Attention heads.
    pub heads: usize,
    /// Channels of all queries as a part of the block's.
    pub ratio: f64,
    /// Channels of a query within a head, if they do not follow from the ratio.
    pub head_channels: Option<usize>,
    /// One of so many blocks attends, the last of them.
    pub every: usize,
}

/// To which places attention goes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those in the same square block and around it.
    Halo {
        /// Places of a block, both ways.
        block: usize,
        /// Places on each side of it.
        halo: usize,
    },
    /// All.
    Bottleneck,
    /// All, by a lambda layer that tells distances apart in a square of so many places.
    LocalLambda(usize),
    /// All, by a lambda layer that tells all distances apart.
    GlobalLambda,
}

/// A block of stride 2, for tables to give it channels.
const fn block(kind: BlockKind, ratio: f64) -> Stage {
    let (depth, channels, stride, attentive) = (1, 0, 2, usize::MAX);
    Stage { kind, depth, channels, stride, ratio, group_size: None, attentive, self_attention: None }
}

const BASIC: Stage = block(BlockKind::Basic, 1.0);
const BOTTLENECK: Stage = block(BlockKind::Bottleneck, 0.25);
const DOUBLE_BOTTLENECK: Stage = block(BlockKind::DoubleBottleneck, 0.25);
const INVERTED: Stage = block(BlockKind::Inverted, 4.0);
const DARK: Stage = block(BlockKind::Dark, 1.0);
const EDGE: Stage = block(BlockKind::Edge, 1.0);
const REPVGG: Stage = repvgg(1);
const MOBILEONE: Stage = mobileone(1);

const fn repvgg(groups: usize) -> Stage {
    block(BlockKind::RepVgg { groups }, 1.0)
}
const fn mobileone(branches: usize) -> Stage {
    block(BlockKind::MobileOne { branches }, 1.0)
}

impl Stage {
    const fn channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    const fn repeat(self, depth: usize) -> Self {
        Self { depth, ..self }
    }

    const fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    const fn ratio(self, ratio: f64) -> Self {
        Self { ratio, ..self }
    }

    const fn group(self, size: usize) -> Self {
        Self { group_size: Some(size), ..self }
    }

    const fn attentive(self, attentive: usize) -> Self {
        Self { attentive, ..self }
    }

    const fn attend(self, kind: SelfAttentionKind) -> Self {
        Self { self_attention: Some(kind), ..self }
    }
}

const BOT: SelfAttentionKind =
    SelfAttentionKind { scope: Scope::Bottleneck, heads: 4, ratio: 1.0, head_channels: None, every: 2 };
const HALO_2: SelfAttentionKind = halo(8, 2);
const HALO_3: SelfAttentionKind = halo(8, 3);
const LAMBDA: SelfAttentionKind = lambda(Scope::LocalLambda(9));

const fn halo(block: usize, halo: usize) -> SelfAttentionKind {
    SelfAttentionKind { scope: Scope::Halo { block, halo }, heads: 8, ..BOT }
}
const fn lambda(scope: Scope) -> SelfAttentionKind {
    SelfAttentionKind { scope, ..BOT }
}

impl SelfAttentionKind {
    const fn every(self, every: usize) -> Self {
        Self { every, ..self }
    }

    const fn heads(self, heads: usize) -> Self {
        Self { heads, ..self }
    }

    const fn ratio(self, ratio: f64) -> Self {
        Self { ratio, ..self }
    }

    const fn head_channels(self, channels: usize) -> Self {
        Self { head_channels: Some(channels), ..self }
    }
}

/// Four stages of so many blocks that give so many channels.
const fn stages(block: Stage, depths: [usize; 4], channels: [usize; 4]) -> [Stage; 4] {
    [
        block.repeat(depths[0]).channels(channels[0]),
        block.repeat(depths[1]).channels(channels[1]),
        block.repeat(depths[2]).channels(channels[2]),
        block.repeat(depths[3]).channels(channels[3]),
    ]
}
/// The same behind a stem that leaves a quarter of the image's size: the first stage does not halve it.
const fn behind_a_quarter(block: Stage, depths: [usize; 4], channels: [usize; 4]) -> [Stage; 4] {
    let [first, second, third, fourth] = stages(block, depths, channels);
    [first.stride(1), second, third, fourth]
}

const RESNET_26: [Stage; 4] = behind_a_quarter(BOTTLENECK, [2, 2, 2, 2], [256, 512, 1024, 2048]);
const RESNET_33: [Stage; 4] = behind_a_quarter(BOTTLENECK, [2, 3, 3, 2], [256, 512, 1536, 1536]);
const RESNET_50: [Stage; 4] = behind_a_quarter(BOTTLENECK, [3, 4, 6, 3], [256, 512, 1024, 2048]);
const RESNET_51Q: [Stage; 4] = [
    BOTTLENECK.repeat(2).channels(256).group(32).stride(1),
    BOTTLENECK.repeat(4).channels(512).group(32),
    BOTTLENECK.repeat(6).channels(1536).group(32),
    BOTTLENECK.repeat(4).channels(1536).group(1).ratio(1.0),
];
const RESNET_61Q: [Stage; 4] = [
    EDGE.channels(256).stride(1),
    DOUBLE_BOTTLENECK.repeat(4).channels(512).group(32),
    DOUBLE_BOTTLENECK.repeat(6).channels(1536).group(32),
    DOUBLE_BOTTLENECK.repeat(4).channels(1536).group(1).ratio(1.0),
];
const HALONET_H1: [Stage; 4] =
    behind_a_quarter(BOTTLENECK.ratio(1.0).attend(HALO_3.every(1)), [3, 3, 10, 3], [64, 128, 256, 512]);
const REGNETZ_B: [Stage; 4] = stages(INVERTED.ratio(3.0), [2, 6, 12, 2], [48, 96, 192, 288]);
const REGNETZ_C: [Stage; 4] = stages(INVERTED, [2, 6, 12, 2], [48, 96, 192, 288]);
const REGNETZ_D: [Stage; 4] = behind_a_quarter(INVERTED, [3, 6, 12, 3], [64, 128, 256, 384]);
const REGNETZ_E: [Stage; 4] = behind_a_quarter(INVERTED, [3, 8, 16, 3], [96, 192, 384, 512]);
const TEST: [Stage; 4] = [
    EDGE.channels(32).ratio(0.5),
    DARK.channels(64).ratio(0.5),
    BASIC.channels(128).ratio(0.25).group(32),
    BOTTLENECK.channels(256).group(64),
];
const REPVGG_A: [usize; 4] = [2, 4, 14, 1];
const REPVGG_B: [usize; 4] = [4, 6, 16, 1];
const MOBILEONE_S: [usize; 4] = [2, 8, 10, 1];

const fn gernet(depths: [usize; 5], channels: [usize; 5]) -> [Stage; 5] {
    let wide = BOTTLENECK.ratio(3.0).group(1);
    [
        BASIC.repeat(depths[0]).channels(channels[0]),
        BASIC.repeat(depths[1]).channels(channels[1]),
        BOTTLENECK.repeat(depths[2]).channels(channels[2]),
        wide.repeat(depths[3]).channels(channels[3]),
        wide.repeat(depths[4]).channels(channels[4]).stride(1),
    ]
}
const fn attentive_26(kind: SelfAttentionKind) -> [Stage; 4] {
    let [first, second, third, fourth] = RESNET_26;
    [first, second, third.attend(kind), fourth.attend(kind.every(1))]
}
const fn attentive_33(kind: SelfAttentionKind) -> [Stage; 4] {
    let [first, second, third, fourth] = behind_a_quarter(BOTTLENECK, [2, 3, 3, 2], [256, 512, 1024, 1536]);
    [first, second.attend(kind.every(3)), third.attend(kind.every(3)), fourth.ratio(0.333).attend(kind.every(1))]
}
const fn attentive_50(kinds: [SelfAttentionKind; 3]) -> [Stage; 4] {
    let [first, second, third, fourth] = RESNET_50;
    [first, second.attend(kinds[0]), third.attend(kinds[1]), fourth.attend(kinds[2])]
}
const fn attentive_regnetz(kind: SelfAttentionKind) -> [Stage; 4] {
    let [first, second, third, fourth] = REGNETZ_B;
    [first, second, third.attend(kind.every(4)), fourth.attend(kind.every(1))]
}
const fn mobileone_s4() -> [Stage; 4] {
    let [first, second, third, fourth] = stages(MOBILEONE, MOBILEONE_S, [192, 448, 896, 2048]);
    [first.attentive(0), second.attentive(0), third.attentive(5), fourth]
}

const TIERED: StemKind = StemKind::Stack { kernel: 3, channels: &[24, 32, 64], bare: 0, pool: false };
const TIERED_POOL: StemKind = StemKind::Stack { kernel: 3, channels: &[24, 32, 64], bare: 0, pool: true };
const QUAD: StemKind = StemKind::Stack { kernel: 3, channels: &[16, 32, 64, 128], bare: 0, pool: false };
const QUAD_2: StemKind = StemKind::Stack { kernel: 3, channels: &[16, 32, 64, 128], bare: 2, pool: false };
const SEVEN_POOL: StemKind = StemKind::Stack { kernel: 7, channels: &[64], bare: 0, pool: true };

/// A ResNet on a pooling stem of three convolutions.
const RESNET: Config = Config {
    stem: TIERED_POOL,
    stages: &RESNET_26,
    features: None,
    activation: Activation::Relu,
    group_size: None,
    channel_attention: None,
    average_down: false,
    searched: false,
    input_size: [256; 2],
    num_classes: 1000,
};
const RESNEXT_26TS: Config = grouped(32, silu(RESNET));
const RESNET_33TS: Config = Config { features: Some(1280), ..RESNET_32TS };
const RESNET_32TS: Config = unpooled(silu(of(&RESNET_33)));
const REGNETZ_B16: Config = Config {
    stem: StemKind::Convolution(32),
    features: Some(1536),
    searched: true,
    input_size: [224; 2],
    ..grouped(16, se(0.25, silu(of(&REGNETZ_B))))
};
const REGNETZ_D8: Config =
    Config { stages: &REGNETZ_D, features: Some(1792), input_size: [256; 2], ..grouped(8, unpooled(REGNETZ_B16)) };
const GERNET: Config = Config {
    stem: StemKind::Convolution(32),
    stages: &gernet([1, 2, 6, 4, 1], [128, 192, 640, 640, 640]),
    features: Some(2560),
    searched: true,
    input_size: [224; 2],
    ..RESNET
};

const fn of(stages: &'static [Stage]) -> Config {
    Config { stages, ..RESNET }
}
const fn unpooled(config: Config) -> Config {
    Config { stem: TIERED, ..config }
}
const fn silu(config: Config) -> Config {
    Config { activation: Activation::Silu, ..config }
}
const fn grouped(size: usize, config: Config) -> Config {
    Config { group_size: Some(size), ..config }
}
const fn se(part: f64, config: Config) -> Config {
    Config { channel_attention: Some(ChannelAttentionKind::SqueezeExcite { part, divisor: 8 }), ..config }
}
const fn eca(config: Config) -> Config {
    Config { channel_attention: Some(ChannelAttentionKind::Efficient), ..config }
}
const fn gc(config: Config) -> Config {
    Config { channel_attention: Some(ChannelAttentionKind::GlobalContext), ..config }
}
const fn with_repvgg_stem(channels: usize, stages: &'static [Stage]) -> Config {
    Config { stem: StemKind::RepVgg(channels), input_size: [224; 2], ..of(stages) }
}
const fn with_mobileone_stem(channels: usize, stages: &'static [Stage]) -> Config {
    Config { stem: StemKind::MobileOne(channels), input_size: [224; 2], ..of(stages) }
}

/// The networks of this family.
pub const VARIANTS: &[(&str, Config)] = &[
    ("botnet26t_256", of(&attentive_26(BOT))),
    ("botnet50ts_256", silu(of(&attentive_50([BOT.every(4), BOT, BOT])))),
    ("eca_botnext26ts_256", eca(silu(grouped(16, of(&attentive_26(BOT.head_channels(16))))))),
    ("eca_halonext26ts", eca(silu(grouped(16, of(&attentive_26(HALO_2.head_channels(16))))))),
    ("eca_resnet33ts", eca(RESNET_33TS)),
    ("eca_resnext26ts", eca(RESNEXT_26TS)),
    ("gcresnet33ts", gc(RESNET_33TS)),
    ("gcresnet50t", gc(unpooled(of(&RESNET_50)))),
    ("gcresnext26ts", gc(RESNEXT_26TS)),
    ("gcresnext50ts", gc(silu(grouped(32, of(&RESNET_50))))),
    (
        "gernet_l",
        Config { stages: &gernet([1, 2, 6, 5, 4], [128, 192, 640, 640, 640]), input_size: [256; 2], ..GERNET },
    ),
    ("gernet_m", GERNET),
    (
        "gernet_s",
        Config {
            stem: StemKind::Convolution(13),
            stages: &gernet([1, 3, 7, 2, 1], [48, 48, 384, 560, 256]),
            features: Some(1920),
            ..GERNET
        },
    ),
    ("halo2botnet50ts_256", unpooled(silu(of(&attentive_50([HALO_3, HALO_3, BOT]))))),
    ("halonet26t", of(&attentive_26(HALO_2))),
    ("halonet50ts", silu(of(&attentive_50([HALO_3.heads(4).every(4), HALO_3, HALO_3])))),
    ("halonet_h1", Config { stem: SEVEN_POOL, ..of(&HALONET_H1) }),
    ("haloregnetz_b", Config { stages: &attentive_regnetz(halo(7, 2).ratio(0.33)), ..REGNETZ_B16 }),
    ("lambda_resnet26rpt_256", of(&attentive_26(lambda(Scope::GlobalLambda)))),
    ("lambda_resnet26t", of(&attentive_26(LAMBDA))),
    ("lambda_resnet50ts", silu(of(&attentive_50([LAMBDA.every(4), LAMBDA, LAMBDA])))),
    ("lamhalobotnet50ts_256", unpooled(silu(of(&attentive_50([lambda(Scope::LocalLambda(13)), HALO_3, BOT]))))),
    ("mobileone_s0", with_mobileone_stem(48, &stages(mobileone(4), MOBILEONE_S, [48, 128, 256, 1024]))),
    ("mobileone_s1", with_mobileone_stem(64, &stages(MOBILEONE, MOBILEONE_S, [96, 192, 512, 1280]))),
    ("mobileone_s2", with_mobileone_stem(64, &stages(MOBILEONE, MOBILEONE_S, [96, 256, 640, 2048]))),
    ("mobileone_s3", with_mobileone_stem(64, &stages(MOBILEONE, MOBILEONE_S, [128, 320, 768, 2048]))),
    ("mobileone_s4", se(1.0 / 16.0, with_mobileone_stem(64, &mobileone_s4()))),
    ("regnetz_b16", REGNETZ_B16),
    ("regnetz_c16", Config { stages: &REGNETZ_C, input_size: [256; 2], ..REGNETZ_B16 }),
    ("regnetz_d8", REGNETZ_D8),
    ("regnetz_d32", grouped(32, REGNETZ_D8)),
    ("regnetz_e8", Config { stages: &REGNETZ_E, features: Some(2048), ..REGNETZ_D8 }),
    ("repvgg_a0", with_repvgg_stem(48, &stages(REPVGG, REPVGG_A, [48, 96, 192, 1280]))),
    ("repvgg_a1", with_repvgg_stem(64, &stages(REPVGG, REPVGG_A, [64, 128, 256, 1280]))),
    ("repvgg_a2", with_repvgg_stem(64, &stages(REPVGG, REPVGG_A, [96, 192, 384, 1408]))),
    ("repvgg_b0", with_repvgg_stem(64, &stages(REPVGG, REPVGG_B, [64, 128, 256, 1280]))),
    ("repvgg_b1", with_repvgg_stem(64, &stages(REPVGG, REPVGG_B, [128, 256, 512, 2048]))),
    ("repvgg_b1g4", with_repvgg_stem(64, &stages(repvgg(4), REPVGG_B, [128, 256, 512, 2048]))),
    ("repvgg_b2", with_repvgg_stem(64, &stages(REPVGG, REPVGG_B, [160, 320, 640, 2560]))),
    ("repvgg_b2g4", with_repvgg_stem(64, &stages(repvgg(4), REPVGG_B, [160, 320, 640, 2560]))),
    ("repvgg_b3", with_repvgg_stem(64, &stages(REPVGG, REPVGG_B, [192, 384, 768, 2560]))),
    ("repvgg_b3g4", with_repvgg_stem(64, &stages(repvgg(4), REPVGG_B, [192, 384, 768, 2560]))),
    (
        "repvgg_d2se",
        Config {
            channel_attention: Some(ChannelAttentionKind::SqueezeExcite { part: 1.0 / 16.0, divisor: 1 }),
            input_size: [320; 2],
            ..with_repvgg_stem(64, &stages(REPVGG, [8, 14, 24, 1], [160, 320, 640, 2560]))
        },
    ),
    ("resnet32ts", RESNET_32TS),
    ("resnet33ts", RESNET_33TS),
    ("resnet51q", Config { stem: QUAD_2, features: Some(2048), ..silu(of(&RESNET_51Q)) }),
    ("resnet61q", Config { stem: QUAD, features: Some(2048), ..silu(of(&RESNET_61Q)) }),
    ("resnext26ts", RESNEXT_26TS),
    ("sebotnet33ts_256", se(1.0 / 16.0, Config { stages: &attentive_33(BOT), ..RESNET_33TS })),
    ("sehalonet33ts", se(1.0 / 16.0, Config { stages: &attentive_33(HALO_3), ..RESNET_33TS })),
    ("seresnet33ts", se(1.0 / 16.0, RESNET_33TS)),
    ("seresnext26ts", se(1.0 / 16.0, RESNEXT_26TS)),
    (
        "test_byobnet",
        Config { stem: StemKind::Convolution(24), average_down: true, input_size: [160; 2], ..se(0.25, of(&TEST)) },
    ),
];

configuration!(ByobNet, |config| config.input_rule());

impl Config {
    fn self_attentions(&self) -> impl Iterator<Item = SelfAttentionKind> {
        self.stages.iter().filter_map(|stage| stage.self_attention)
    }

    /// Halving rounds up beside a shortcut and down behind attention: they agree on even sizes only.
    fn input_rule(&self) -> InputRule {
        let multiple = |kind: SelfAttentionKind| match kind.scope {
            Scope::Halo { block, .. } => Some(32 * block),
            Scope::LocalLambda(_) => Some(if kind.every == 1 { 32 } else { 1 }),
            Scope::Bottleneck | Scope::GlobalLambda => None,
        };
        match self.self_attentions().map(multiple).try_fold(1, |all, one| Some(all.max(one?))) {
            None => InputRule::Fixed,
            Some(1) => InputRule::Any,
            Some(multiple) => InputRule::Multiple(multiple),
        }
    }

    fn components(&self) -> Components {
        let mut attentions: Vec<&str> = Vec::new();
        for kind in self.self_attentions() {
            let name = match kind.scope {
                Scope::Halo { .. } => "Halo",
                Scope::Bottleneck => "BoT",
                Scope::LocalLambda(_) | Scope::GlobalLambda => "Lambda",
            };
            if !attentions.contains(&name) {
                attentions.push(name);
            }
        }
        let groups = || self.stages.iter().filter_map(|stage| self.group_size(stage));
        let kinds = || self.stages.iter().map(|stage| stage.kind);
        let global_context = matches!(self.channel_attention, Some(ChannelAttentionKind::GlobalContext));
        let inner = match self.channel_attention {
            None | Some(ChannelAttentionKind::Efficient) => self.activation,
            Some(_) => Activation::Relu,
        };
        let at_the_end = kinds().any(|kind| !kind.attends_inside());
        Components {
            base_architecture: if self.searched { "NAS (CNN)" } else { "CNN" },
            stem: self.stem.description().into(),
            normalization: if global_context { "LN + BN" } else { "BN" },
            activation: Components::activations([inner, self.activation]),
            stem_pooling: matches!(self.stem, StemKind::Stack { pool: true, .. }),
            spatial_attention: if attentions.is_empty() {
                "No".into()
            } else {
                format!("Yes ({})", attentions.join(", ")).into()
            },
            channel_attention: match self.channel_attention {
                None => "No",
                Some(ChannelAttentionKind::SqueezeExcite { .. }) => "Yes (SE)",
                Some(ChannelAttentionKind::Efficient) => "Yes (ECA)",
                Some(ChannelAttentionKind::GlobalContext) => "Yes (GCA)",
            },
            channel_attention_location: match self.channel_attention {
                None => "~",
                Some(_) if at_the_end => "End",
                Some(_) => "Middle",
            },
            depthwise_convolution: groups().any(|size| size == 1)
                || kinds().any(|kind| matches!(kind, BlockKind::MobileOne { .. })),
            grouped_convolution: groups().any(|size| size > 1)
                || kinds().any(|kind| matches!(kind, BlockKind::RepVgg { groups: 2.. })),
            ..Components::CNN
        }
    }

    fn group_size(&self, stage: &Stage) -> Option<usize> {
        stage.group_size.or(self.group_size)
    }
}

impl StemKind {
    /// How many rows of the image become one.
    fn stride(self) -> usize {
        match self {
            Self::Stack { .. } => 4,
            _ => 2,
        }
    }

    /// In the words of [`Components::stem`].
    fn description(self) -> String {
        let Self::Stack { kernel, channels, pool, .. } = self else {
            return "3s2".into();
        };
        let strided = if pool { "" } else { "s2" };
        format!("{kernel}s2{}{strided}", format!("/{kernel}").repeat(channels.len() - 1))
    }
}

impl BlockKind {
    /// Whether attention over channels comes before the last convolution, not behind it.
    fn attends_inside(self) -> bool {
        matches!(self, Self::Bottleneck | Self::DoubleBottleneck | Self::Inverted | Self::Edge)
    }
}

/// A network of blocks chosen stage by stage. See [`Config`].
#[derive(Module, Debug)]
pub struct ByobNet {
    stem: Stem,
    stages: Vec<Vec<Block>>,
    final_conv: Option<ConvNorm>,
    head: Head,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

impl ByobNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let (stem, mut inputs) = Stem::new(config, device);
        let mut size = config.input_size.map(|side| side / config.stem.stride());
        let mut stages = Vec::new();
        for stage in config.stages {
            let mut blocks = Vec::new();
            for position in 0..stage.blocks() {
                let shape = BlockShape::new(stage, position, inputs, size);
                (inputs, size) = (shape.outputs, size.map(|side| side / shape.stride));
                blocks.push(Block::new(config, stage, &shape, device));
            }
            stages.push(blocks);
        }
        let features = config.features.unwrap_or(inputs);
        let final_conv = Conv2d::config(inputs, features, 1);
        Self {
            stem,
            stages,
            final_conv: config.features.map(|_| ConvNorm::new(final_conv, config.activation, device)),
            head: Head { fc: Linear::new(features, num_classes, device) },
        }
    }
}

impl Architecture for ByobNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = self.stem.forward(images, taps);
        for (index, stage) in self.stages.iter().enumerate() {
            x = taps.stage(|| format!("stages.{index}"), stage, x, |block, x| block.forward(x));
        }
        if let Some(conv) = &self.final_conv {
            x = conv.forward(x);
        }
        let x = taps.map(|| "final_conv".into(), x);
        let features = taps.map(|| "head.global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

/// The first layers.
#[derive(Module, Debug)]
enum Stem {
    Convolution(ConvNorm),
    Sum(Sum),
    Stack(Stack),
}

impl Stem {
    /// The stem and its output channels.
    fn new(config: &Config, device: &Device) -> (Self, usize) {
        let sum = |outputs, branches| {
            let sizes = SumSizes { inputs: 3, outputs, kernel: 3, stride: 2, groups: 1, branches };
            (Self::Sum(Sum::new(config, sizes, branches.is_none(), device)), outputs)
        };
        match config.stem {
            StemKind::Convolution(outputs) => {
                let conv = Conv2d::config(3, outputs, 3).stride(2);
                (Self::Convolution(ConvNorm::new(conv, config.activation, device)), outputs)
            }
            StemKind::RepVgg(outputs) => sum(outputs, None),
            StemKind::MobileOne(outputs) => sum(outputs, Some(1)),
            StemKind::Stack { kernel, channels, bare, pool } => {
                let last = channels.len() - 1;
                let conv = |index: usize| {
                    let inputs = if index == 0 { 3 } else { channels[index - 1] };
                    let stride = if index == 0 || (index == last && !pool) { 2 } else { 1 };
                    let conv = Conv2d::config(inputs, channels[index], kernel).stride(stride);
                    if index < bare {
                        StemConv::Bare(conv.build(device))
                    } else {
                        StemConv::Normed(ConvNorm::new(conv, config.activation, device))
                    }
                };
                let later = |index: usize| (index <= last).then(|| conv(index));
                let stack = Stack { conv1: conv(0), conv2: later(1), conv3: later(2), conv4: later(3), pool };
                (Self::Stack(stack), channels[last])
            }
        }
    }

    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Tensor<4> {
        let x = match self {
            Self::Convolution(conv) => conv.forward(images),
            Self::Sum(sum) => sum.forward(images),
            Self::Stack(stack) => stack.forward(images, taps),
        };
        taps.map(|| "stem".into(), x)
    }
}

/// Up to four convolutions, then pooling.
#[derive(Module, Debug)]
struct Stack {
    conv1: StemConv,
    conv2: Option<StemConv>,
    conv3: Option<StemConv>,
    conv4: Option<StemConv>,
    pool: bool,
}

impl Stack {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Tensor<4> {
        let later = [&self.conv2, &self.conv3, &self.conv4];
        let convs = std::iter::once(&self.conv1).chain(later.into_iter().flatten());
        let mut x = images;
        for (index, conv) in convs.enumerate() {
            x = match conv {
                StemConv::Bare(conv) => conv.forward(x),
                StemConv::Normed(conv) => conv.forward(x),
            };
            x = taps.map(|| format!("stem.conv{}", index + 1), x);
        }
        if self.pool { taps.map(|| "stem.pool".into(), max_pool(x, 3, 2, 1)) } else { x }
    }
}

#[derive(Module, Debug)]
enum StemConv {
    Bare(Conv2d),
    Normed(ConvNorm),
}

/// The sizes of one block.
#[derive(Debug, Clone, Copy)]
struct BlockShape {
    inputs: usize,
    outputs: usize,
    stride: usize,
    /// Where in its stage it is.
    position: usize,
    /// Rows and columns of places that it gets.
    size: [usize; 2],
    /// Whether it has the network's attention over channels.
    attentive: bool,
}

impl Stage {
    /// How many, as timm counts them.
    fn blocks(&self) -> usize {
        if matches!(self.kind, BlockKind::MobileOne { .. }) { 2 * self.depth } else { self.depth }
    }
}

impl BlockShape {
    fn new(stage: &Stage, position: usize, inputs: usize, size: [usize; 2]) -> Self {
        // The depthwise one of MobileOne's two.
        let keeps_channels = matches!(stage.kind, BlockKind::MobileOne { .. }) && position.is_multiple_of(2);
        let left = (stage.blocks() - position).div_ceil(stage.blocks() / stage.depth);
        Self {
            inputs,
            outputs: if keeps_channels { inputs } else { stage.channels },
            stride: if position == 0 { stage.stride } else { 1 },
            position,
            size,
            attentive: left <= stage.attentive,
        }
    }

    fn keeps_shape(&self) -> bool {
        self.inputs == self.outputs && self.stride == 1
    }
}

/// A block of any kind.
#[derive(Module, Debug)]
enum Block {
    Residual(Residual),
    Sum(Sum),
}

impl Block {
    fn new(config: &Config, stage: &Stage, shape: &BlockShape, device: &Device) -> Self {
        let BlockShape { inputs, outputs, stride, position, .. } = *shape;
        let sizes = SumSizes { inputs, outputs, kernel: 3, stride, groups: 1, branches: None };
        let sizes = match stage.kind {
            BlockKind::RepVgg { groups } => {
                SumSizes { groups: if position.is_multiple_of(2) { 1 } else { groups }, ..sizes }
            }
            BlockKind::MobileOne { branches } if position.is_multiple_of(2) => {
                SumSizes { groups: inputs, branches: Some(branches), ..sizes }
            }
            BlockKind::MobileOne { branches } => SumSizes { kernel: 1, branches: Some(branches), ..sizes },
            _ => return Self::Residual(Residual::new(config, stage, shape, device)),
        };
        Self::Sum(Sum::new(config, sizes, shape.attentive, device))
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Residual(block) => block.forward(x),
            Self::Sum(block) => block.forward(x),
        }
    }
}

/// Convolutions one behind the other, in the order of the fields, beside a shortcut. A kind of block is a choice of them.
#[derive(Module, Debug)]
struct Residual {
    conv1_1x1: Option<ConvNorm>,
    conv1_kxk: Option<ConvNorm>,
    conv2_kxk: Option<ConvNorm>,
    conv2b_kxk: Option<ConvNorm>,
    conv2_1x1: Option<ConvNorm>,
    conv3_1x1: Option<ConvNorm>,
    /// Attention over places before the last convolution,
    self_attn: Option<SelfAttention>,
    /// and what normalises it.
    post_attn: Option<BatchNorm2d>,
    /// Attention over channels before the last convolution,
    attn: Option<ChannelAttention>,
    /// or behind it.
    attn_last: Option<ChannelAttention>,
    shortcut: Option<Shortcut>,
    /// Whether the input itself is the shortcut.
    keeps_shape: bool,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    last_activation: Activation,
}

impl Residual {
    fn new(config: &Config, stage: &Stage, shape: &BlockShape, device: &Device) -> Self {
        let BlockShape { inputs, outputs, stride, size, attentive, .. } = *shape;
        let inverted = stage.kind == BlockKind::Inverted;
        let middle = make_divisible(if inverted { inputs } else { outputs } as f64 * stage.ratio, 8);
        let groups = config.group_size(stage).map_or(1, |size| middle / size);
        let kxk = |inputs, outputs| Conv2d::config(inputs, outputs, 3);
        let pointwise = |inputs, outputs| Conv2d::config(inputs, outputs, 1);
        let activated = |conv| Some(ConvNorm::new(conv, config.activation, device));
        let last = |conv| Some(ConvNorm::new(conv, Activation::Identity, device));
        let attention = |channels| attentive.then(|| ChannelAttention::new(config, channels, device)).flatten();
        let none = Self {
            conv1_1x1: None,
            conv1_kxk: None,
            conv2_kxk: None,
            conv2b_kxk: None,
            conv2_1x1: None,
            conv3_1x1: None,
            self_attn: None,
            post_attn: None,
            attn: None,
            attn_last: None,
            shortcut: (!shape.keeps_shape() && !inverted).then(|| Shortcut::new(config, shape, device)),
            keeps_shape: shape.keeps_shape(),
            activation: config.activation,
            last_activation: if inverted { Activation::Identity } else { config.activation },
        };
        match (stage.kind, stage.self_attention) {
            (_, Some(kind)) if (shape.position + 1).is_multiple_of(kind.every) => Self {
                conv1_1x1: activated(pointwise(inputs, middle)),
                self_attn: Some(SelfAttention::new(kind, middle, stride, size, device)),
                post_attn: Some(BatchNorm2d::new(middle, device)),
                conv3_1x1: last(pointwise(middle, outputs)),
                ..none
            },
            (BlockKind::Basic, _) => Self {
                conv1_kxk: activated(kxk(inputs, middle).stride(stride)),
                conv2_kxk: last(kxk(middle, outputs).groups(groups)),
                attn_last: attention(outputs),
                ..none
            },
            (BlockKind::Dark, _) => Self {
                conv1_1x1: activated(pointwise(inputs, middle)),
                conv2_kxk: last(kxk(middle, outputs).stride(stride).groups(groups)),
                attn_last: attention(outputs),
                ..none
            },
            (BlockKind::Edge, _) => Self {
                conv1_kxk: activated(kxk(inputs, middle).stride(stride).groups(groups)),
                attn: attention(middle),
                conv2_1x1: last(pointwise(middle, outputs)),
                ..none
            },
            (kind, _) => Self {
                conv1_1x1: activated(pointwise(inputs, middle)),
                conv2_kxk: activated(kxk(middle, middle).stride(stride).groups(groups)),
                conv2b_kxk: match kind {
                    BlockKind::DoubleBottleneck => activated(kxk(middle, middle).groups(groups)),
                    _ => None,
                },
                attn: attention(middle),
                conv3_1x1: last(pointwise(middle, outputs)),
                ..none
            },
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.shortcut {
            Some(shortcut) => Some(shortcut.forward(x.clone())),
            None => self.keeps_shape.then(|| x.clone()),
        };
        let first = [&self.conv1_1x1, &self.conv1_kxk, &self.conv2_kxk, &self.conv2b_kxk];
        let convs: Vec<_> = first.into_iter().chain([&self.conv2_1x1, &self.conv3_1x1]).flatten().collect();
        let (last, before) = convs.split_last().expect("a block has convolutions");
        let mut y = before.iter().fold(x, |y, conv| conv.forward(y));
        if let (Some(attention), Some(norm)) = (&self.self_attn, &self.post_attn) {
            y = norm.forward(attention.forward(y), self.activation);
        }
        if let Some(attention) = &self.attn {
            y = attention.forward(y);
        }
        match (&self.attn_last, shortcut) {
            (None, shortcut) => last.forward_residual(y, shortcut, self.last_activation),
            (Some(attention), None) => self.last_activation.forward(attention.forward(last.forward(y))),
            (Some(attention), Some(shortcut)) => {
                add(attention.forward(last.forward(y)), shortcut, self.last_activation)
            }
        }
    }
}

/// What brings a block's input to the shape of its output.
#[derive(Module, Debug)]
enum Shortcut {
    Convolution(ConvNorm),
    Average(Average),
}

/// Averages 2 × 2 windows if the stride is 2, then convolves.
#[derive(Module, Debug)]
struct Average {
    conv: ConvNorm,
    stride: usize,
}

impl Shortcut {
    fn new(config: &Config, shape: &BlockShape, device: &Device) -> Self {
        let BlockShape { inputs, outputs, stride, .. } = *shape;
        let conv = |stride| {
            let conv = Conv2d::config(inputs, outputs, 1).stride(stride);
            ConvNorm::new(conv, Activation::Identity, device)
        };
        if config.average_down {
            Self::Average(Average { conv: conv(1), stride })
        } else {
            Self::Convolution(conv(stride))
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Convolution(conv) => conv.forward(x),
            Self::Average(Average { conv, stride: 1 }) => conv.forward(x),
            Self::Average(Average { conv, stride }) => conv.forward(average_pool(x, 2, *stride)),
        }
    }
}

/// Attention over channels.
#[derive(Module, Debug)]
enum ChannelAttention {
    SqueezeExcite(SqueezeExcite),
    Efficient(EfficientChannelAttention),
    GlobalContext(GlobalContext),
}

impl ChannelAttention {
    /// Nothing for a network without it.
    fn new(config: &Config, channels: usize, device: &Device) -> Option<Self> {
        Some(match config.channel_attention? {
            ChannelAttentionKind::SqueezeExcite { part, divisor } => {
                let reduced = make_divisible_limited(channels as f64 * part, divisor, 0.0);
                Self::SqueezeExcite(SqueezeExcite::new(channels, reduced, device))
            }
            ChannelAttentionKind::Efficient => Self::Efficient(EfficientChannelAttention::new(channels, device)),
            ChannelAttentionKind::GlobalContext => Self::GlobalContext(GlobalContext::new(channels, device)),
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::SqueezeExcite(attention) => attention.forward(x),
            Self::Efficient(attention) => attention.forward(x),
            Self::GlobalContext(attention) => attention.forward(x),
        }
    }
}

/// Attention over places.
#[derive(Module, Debug)]
enum SelfAttention {
    Halo(HaloAttention),
    Bottleneck(BottleneckAttention),
    Lambda(LambdaLayer),
}

impl SelfAttention {
    fn new(kind: SelfAttentionKind, channels: usize, stride: usize, size: [usize; 2], device: &Device) -> Self {
        let heads = kind.heads;
        // Where all places attend to each other, the image is a square.
        let side = || {
            assert!(size[0] == size[1], "attention between all of {} × {} places is for squares", size[0], size[1]);
            size[0]
        };
        let head_channels =
            kind.head_channels.unwrap_or_else(|| make_divisible(channels as f64 * kind.ratio, 8) / heads);
        let lambda = |scope| Self::Lambda(LambdaLayer::new(channels, stride, heads, scope, device));
        match kind.scope {
            Scope::Halo { block, halo } => {
                let shape = HaloShape { heads, head_channels, block, halo };
                Self::Halo(HaloAttention::new(channels, stride, shape, device))
            }
            Scope::Bottleneck => {
                Self::Bottleneck(BottleneckAttention::new(channels, stride, heads, head_channels, side(), device))
            }
            Scope::LocalLambda(window) => lambda(LambdaScope::Local(window)),
            Scope::GlobalLambda => lambda(LambdaScope::Global(side())),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Halo(attention) => attention.forward(x),
            Self::Bottleneck(attention) => attention.forward(x),
            Self::Lambda(attention) => attention.forward(x),
        }
    }
}

/// The sum of convolutions and a normalisation of the same input. (For a trained network they are together one convolution.)
#[derive(Module, Debug)]
struct Sum {
    /// Where the shape stays.
    identity: Option<BatchNorm2d>,
    conv_kxk: Branches,
    /// The 1×1 convolution beside larger ones, as RepVGG
    conv_1x1: Option<ConvNorm>,
    /// and as MobileOne calls it.
    conv_scale: Option<ConvNorm>,
    attn: Option<ChannelAttention>,
    #[module(skip)]
    activation: Activation,
}

#[derive(Module, Debug)]
enum Branches {
    One(ConvNorm),
    Several(Vec<ConvNorm>),
}

#[derive(Debug, Clone, Copy)]
struct SumSizes {
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
    /// The number of k×k convolutions in MobileOne; RepVGG has one without a number.
    branches: Option<usize>,
}

impl Sum {
    fn new(config: &Config, sizes: SumSizes, attentive: bool, device: &Device) -> Self {
        let SumSizes { inputs, outputs, kernel, stride, groups, branches } = sizes;
        let conv = |kernel| {
            let conv = Conv2d::config(inputs, outputs, kernel).stride(stride).groups(groups);
            ConvNorm::new(conv, Activation::Identity, device)
        };
        let pointwise = |wanted: bool| (wanted && kernel > 1).then(|| conv(1));
        Self {
            identity: (inputs == outputs && stride == 1).then(|| BatchNorm2d::new(outputs, device)),
            conv_kxk: match branches {
                None => Branches::One(conv(kernel)),
                Some(count) => Branches::Several((0..count).map(|_| conv(kernel)).collect()),
            },
            conv_1x1: pointwise(branches.is_none()),
            conv_scale: pointwise(branches.is_some()),
            attn: attentive.then(|| ChannelAttention::new(config, outputs, device)).flatten(),
            activation: config.activation,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let kxk = match &self.conv_kxk {
            Branches::One(conv) => std::slice::from_ref(conv),
            Branches::Several(convs) => convs,
        };
        let convs = [&self.conv_1x1, &self.conv_scale].into_iter().flatten().chain(kxk);
        let identity = self.identity.as_ref().map(|norm| norm.forward(x.clone(), Activation::Identity));
        let sum = convs.fold(identity, |sum, conv| Some(conv.forward_residual(x.clone(), sum, Activation::Identity)));
        let sum = sum.expect("there is a convolution");
        let sum = match &self.attn {
            Some(attention) => attention.forward(sum),
            None => sum,
        };
        self.activation.forward(sum)
    }
}
