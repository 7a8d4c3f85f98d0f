//! RegNet X, Y and Z: networks whose widths follow a quantised line.
//!
//! Radosavovic et al., *Designing Network Design Spaces* (arXiv 2003.13678); Dollár et al., *Fast and Accurate Model Scaling*
//! (2103.06877), for Z.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::components::Components;
use crate::family::{Architecture, InputRule, Outputs, configuration};
use crate::layers::{
    Activation, Conv2d, ConvNorm, Linear, Named, Padding, SqueezeExcite, global_average_pool, make_divisible,
};
use crate::taps::Taps;

/// Which RegNet.
#[derive(Debug, Clone)]
pub struct Config {
    /// Blocks in all.
    pub depth: usize,
    /// The width of the first block.
    pub width: usize,
    /// By how much each block is wider than the one before, before rounding.
    pub slope: f64,
    /// By which factor the widths of two stages differ.
    pub factor: f64,
    /// Channels of a group in the 3×3 convolutions.
    pub group_width: usize,
    /// Channels within a block, as a multiple of its own.
    pub bottle_ratio: usize,
    /// Whether blocks have squeeze-and-excitation, of a quarter of their inputs (Y and Z).
    pub squeeze_excite: bool,
    /// Whether widths are made multiples of the group's as torchvision does it.
    pub torchvision: bool,
    /// Without a shortcut where the shape changes, and without an activation behind the sum (Z).
    pub linear: bool,
    /// Channels of a last convolution, if there is one.
    pub head: Option<usize>,
    /// Of the whole network.
    pub activation: Activation,
    /// Pixels, both ways.
    pub input_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
}

const fn x(depth: usize, width: usize, slope: f64, factor: f64, group_width: usize) -> Config {
    Config {
        depth,
        width,
        slope,
        factor,
        group_width,
        bottle_ratio: 1,
        squeeze_excite: false,
        torchvision: false,
        linear: false,
        head: None,
        activation: Activation::Relu,
        input_size: 224,
        num_classes: 1000,
    }
}
const fn y(depth: usize, width: usize, slope: f64, factor: f64, group_width: usize) -> Config {
    Config { squeeze_excite: true, ..x(depth, width, slope, factor, group_width) }
}
const fn z(depth: usize, width: usize, slope: f64, factor: f64, group_width: usize, head: Option<usize>) -> Config {
    Config {
        bottle_ratio: 4,
        linear: true,
        head,
        activation: Activation::Silu,
        ..y(depth, width, slope, factor, group_width)
    }
}
const fn torchvision(config: Config) -> Config {
    Config { torchvision: true, ..config }
}
const fn sized(input_size: usize, config: Config) -> Config {
    Config { input_size, ..config }
}

/// The networks of this family: depth, first width, slope, factor, width of a group.
pub const VARIANTS: &[(&str, Config)] = &[
    ("regnetx_002", x(13, 24, 36.44, 2.49, 8)),
    ("regnetx_004", x(22, 24, 24.48, 2.54, 16)),
    ("regnetx_004_tv", torchvision(x(22, 24, 24.48, 2.54, 16))),
    ("regnetx_006", x(16, 48, 36.97, 2.24, 24)),
    ("regnetx_008", x(16, 56, 35.73, 2.28, 16)),
    ("regnetx_016", x(18, 80, 34.01, 2.25, 24)),
    ("regnetx_032", x(25, 88, 26.31, 2.25, 48)),
    ("regnetx_040", x(23, 96, 38.65, 2.43, 40)),
    ("regnetx_064", x(17, 184, 60.83, 2.07, 56)),
    ("regnetx_080", x(23, 80, 49.56, 2.88, 120)),
    ("regnetx_120", x(19, 168, 73.36, 2.37, 112)),
    ("regnetx_160", x(22, 216, 55.59, 2.1, 128)),
    ("regnetx_320", x(23, 320, 69.86, 2.0, 168)),
    ("regnety_002", y(13, 24, 36.44, 2.49, 8)),
    ("regnety_004", y(16, 48, 27.89, 2.09, 8)),
    ("regnety_006", y(15, 48, 32.54, 2.32, 16)),
    ("regnety_008", y(14, 56, 38.84, 2.4, 16)),
    ("regnety_008_tv", torchvision(y(14, 56, 38.84, 2.4, 16))),
    ("regnety_016", y(27, 48, 20.71, 2.65, 24)),
    ("regnety_032", y(21, 80, 42.63, 2.66, 24)),
    ("regnety_040", y(22, 96, 31.41, 2.24, 64)),
    ("regnety_064", y(25, 112, 33.22, 2.27, 72)),
    ("regnety_080", y(17, 192, 76.82, 2.19, 56)),
    ("regnety_080_tv", torchvision(y(17, 192, 76.82, 2.19, 56))),
    ("regnety_120", y(19, 168, 73.36, 2.37, 112)),
    ("regnety_160", y(18, 200, 106.23, 2.48, 112)),
    ("regnety_320", y(20, 232, 115.89, 2.53, 232)),
    ("regnetz_005", z(21, 16, 10.7, 2.51, 4, Some(1024))),
    ("regnetz_040", sized(256, z(28, 48, 14.5, 2.226, 8, None))),
    ("regnetz_040_h", sized(256, z(28, 48, 14.5, 2.226, 8, Some(1536)))),
];

configuration!(RegNet, InputRule::Any);

const STEM: usize = 32;

impl Config {
    fn components(&self) -> Components {
        Components {
            base_architecture: "NAS (CNN)",
            stem: "3s2".into(),
            activation: Components::activations([self.activation]),
            stem_pooling: false,
            channel_attention: if self.squeeze_excite { "Yes (SE)" } else { "No" },
            channel_attention_location: if self.squeeze_excite { "Middle" } else { "~" },
            grouped_convolution: true,
            ..Components::CNN
        }
    }

    /// Width, width of a group and number of blocks of each stage (section 3.3 of the paper).
    fn stages(&self) -> Vec<[usize; 3]> {
        const STEP: f64 = 8.0;
        let mut stages: Vec<[usize; 3]> = Vec::new();
        let first = self.width as f64;
        for block in 0..self.depth {
            let width = block as f64 * self.slope + first;
            let power = ((width / first).ln() / self.factor.ln()).round_ties_even();
            let width = ((first * self.factor.powf(power)) / STEP).round_ties_even() * STEP;
            match stages.last_mut() {
                Some([before, _, blocks]) if *before == width as usize => *blocks += 1,
                _ => stages.push([width as usize, 0, 1]),
            }
        }
        for [width, group, _] in &mut stages {
            let middle = *width * self.bottle_ratio;
            *group = self.group_width.min(middle);
            let middle = if self.torchvision {
                make_divisible(middle as f64, *group)
            } else {
                (middle as f64 / *group as f64).round_ties_even() as usize * *group
            };
            *width = middle / self.bottle_ratio;
        }
        stages
    }
}

/// A RegNet. See [`Config`].
#[derive(Module, Debug)]
pub struct RegNet {
    stem: ConvNorm,
    s1: Named<Block>,
    s2: Named<Block>,
    s3: Named<Block>,
    s4: Named<Block>,
    final_conv: Option<ConvNorm>,
    head: Head,
    #[module(skip)]
    last_activation: Activation,
}

#[derive(Module, Debug)]
struct Head {
    fc: Linear,
}

impl RegNet {
    /// Builds the network with `num_classes` outputs.
    pub fn new(config: &Config, num_classes: usize, device: &Device) -> Self {
        let mut inputs = STEM;
        let stages = config.stages().into_iter().map(|[width, group, blocks]| {
            let block = |position| {
                let stride = if position == 0 { 2 } else { 1 };
                let block = Block::new(config, inputs, width, group, stride, device);
                inputs = width;
                (format!("b{}", position + 1), block)
            };
            (0..blocks).map(block).collect::<Named<Block>>()
        });
        let stages: Vec<_> = stages.collect();
        let [s1, s2, s3, s4] = stages.try_into().expect("four stages come of the published numbers");
        let head = |channels| ConvNorm::new(Conv2d::config(inputs, channels, 1), config.activation, device);
        let no_head = config.linear && config.head.is_none();
        Self {
            stem: ConvNorm::new(Conv2d::config(3, STEM, 3).stride(2), config.activation, device),
            s1,
            s2,
            s3,
            s4,
            final_conv: config.head.map(head),
            head: Head { fc: Linear::new(config.head.unwrap_or(inputs), num_classes, device) },
            last_activation: if no_head { config.activation } else { Activation::Identity },
        }
    }
}

impl Architecture for RegNet {
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
        let mut x = taps.map(|| "stem".into(), self.stem.forward(images));
        for (index, stage) in [&self.s1, &self.s2, &self.s3, &self.s4].into_iter().enumerate() {
            for (name, block) in stage.iter() {
                x = taps.map(|| format!("s{}.{name}", index + 1), block.forward(x));
            }
            x = taps.map(|| format!("s{}", index + 1), x);
        }
        let x = match &self.final_conv {
            Some(conv) => conv.forward(x),
            None => self.last_activation.forward(x),
        };
        let features = taps.map(|| "head.global_pool".into(), global_average_pool(x));
        Outputs { logits: self.head.fc.forward(features.clone()), features }
    }
}

/// 1×1, grouped 3×3, squeeze-and-excitation, 1×1, beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    conv1: ConvNorm,
    conv2: ConvNorm,
    se: Option<SqueezeExcite>,
    conv3: ConvNorm,
    downsample: Option<ConvNorm>,
    shortcut: bool,
    #[module(skip)]
    activation: Activation,
}

impl Block {
    fn new(config: &Config, inputs: usize, outputs: usize, group: usize, stride: usize, device: &Device) -> Self {
        let middle = outputs * config.bottle_ratio;
        let conv = |conv, activation| ConvNorm::new(conv, activation, device);
        let same_shape = inputs == outputs && stride == 1;
        let attention = || {
            let reduced = (inputs as f64 * 0.25).round_ties_even() as usize;
            SqueezeExcite::with_activation(middle, reduced, config.activation, device)
        };
        let downsample = || {
            let narrow = Conv2d::config(inputs, outputs, 1).stride(stride).padding(Padding::Symmetric(0));
            conv(narrow, Activation::Identity)
        };
        Self {
            conv1: conv(Conv2d::config(inputs, middle, 1), config.activation),
            conv2: conv(Conv2d::config(middle, middle, 3).stride(stride).groups(middle / group), config.activation),
            se: config.squeeze_excite.then(attention),
            conv3: conv(Conv2d::config(middle, outputs, 1), Activation::Identity),
            downsample: (!same_shape && !config.linear).then(downsample),
            shortcut: same_shape || !config.linear,
            activation: if config.linear { Activation::Identity } else { config.activation },
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut y = self.conv2.forward(self.conv1.forward(x.clone()));
        if let Some(attention) = &self.se {
            y = attention.forward(y);
        }
        if !self.shortcut {
            return self.activation.forward(self.conv3.forward(y));
        }
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        };
        self.conv3.forward_residual(y, shortcut, self.activation)
    }
}
