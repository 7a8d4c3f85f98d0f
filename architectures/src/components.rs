//! The thirteen components by which the paper on SAT tells networks apart (Hwang et al., arXiv 2210.11407, its table of
//! components).

use std::borrow::Cow;

use crate::layers::Activation;

/// What a network is made of, in the words of the paper's table. The thirteenth, the input resolution, is
/// [`Configuration::input_size`](crate::Configuration::input_size).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Components {
    /// `CNN`, `Transformer`, `MLP-Mixer`, `Hybrid` (of convolution and attention), `NAS (CNN)` or `NAS (TFM)` (found by search).
    pub base_architecture: &'static str,
    /// Whether the places become fewer from stage to stage.
    pub hierarchical: bool,
    /// The convolutions before the first block as kernel and stride: `7s2`; `3s2/3/3`, where stride 1 is left out behind the first.
    pub stem: Cow<'static, str>,
    /// `BN`, `LN`, `GN`, `EvoNorm`, `Affine transform`, `Norm-free`, or two of them, `LN + BN`.
    pub normalization: &'static str,
    /// `ReLU`, `GeLU`, `SiLU`, `HardSwish`, `Leaky ReLU`, or several of them, `ReLU + SiLU`.
    pub activation: Cow<'static, str>,
    /// Whether the stem pools.
    pub stem_pooling: bool,
    /// `GAP` (global average pooling) or `CLS token`.
    pub final_pooling: &'static str,
    /// Self-attention over places within a CNN, `Yes (Halo, BoT)`, else `No`.
    pub spatial_attention: Cow<'static, str>,
    /// Attention over channels, `Yes (SE)`, else `No`.
    pub channel_attention: &'static str,
    /// Where in a block the attention over channels is: `Middle`, `End`; `~` without.
    pub channel_attention_location: &'static str,
    /// Whether there are depthwise convolutions.
    pub depthwise_convolution: bool,
    /// Whether there are grouped convolutions that are not depthwise.
    pub grouped_convolution: bool,
}

impl Components {
    /// The columns of the paper's table, in its order.
    pub const COLUMNS: [&str; 13] = [
        "Base architecture",
        "Hierarchical structure",
        "Stem layer",
        "Input resolution",
        "Normalization",
        "Activation",
        "Pooling (stem)",
        "Pooling (final)",
        "2D SA",
        "CW attention",
        "Location of CW attention",
        "DW conv",
        "Group conv",
    ];

    /// A CNN of plain convolutions: `7s2` stem with pooling, BN, ReLU, GAP.
    pub const CNN: Self = Self {
        base_architecture: "CNN",
        hierarchical: true,
        stem: Cow::Borrowed("7s2"),
        normalization: "BN",
        activation: Cow::Borrowed("ReLU"),
        stem_pooling: true,
        final_pooling: "GAP",
        spatial_attention: Cow::Borrowed("No"),
        channel_attention: "No",
        channel_attention_location: "~",
        depthwise_convolution: false,
        grouped_convolution: false,
    };

    /// A Transformer of one width on patches of 16 pixels with a class token.
    pub const TRANSFORMER: Self = Self {
        base_architecture: "Transformer",
        hierarchical: false,
        stem: Cow::Borrowed("16s16"),
        normalization: "LN",
        activation: Cow::Borrowed("GeLU"),
        stem_pooling: false,
        final_pooling: "CLS token",
        ..Self::CNN
    };

    /// The table's words for activations, in the order in which they are given and each once: `ReLU + SiLU`.
    pub fn activations(activations: impl IntoIterator<Item = Activation>) -> Cow<'static, str> {
        let mut names: Vec<&str> = Vec::new();
        for activation in activations {
            let name = match activation {
                Activation::Identity => continue,
                Activation::Relu => "ReLU",
                Activation::Relu6 => "ReLU6",
                Activation::LeakyRelu => "Leaky ReLU",
                Activation::SquaredRelu => "Squared ReLU",
                Activation::Gelu => "GeLU",
                Activation::Silu => "SiLU",
                Activation::Sigmoid => "Sigmoid",
                Activation::HardSigmoid => "HardSigmoid",
                Activation::HardSwish => "HardSwish",
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(" + ").into()
    }

    /// One value for each of [`Self::COLUMNS`].
    pub fn values(&self, [height, width]: [usize; 2]) -> [String; 13] {
        let yes = |flag: bool| if flag { "Yes".to_owned() } else { "No".to_owned() };
        [
            self.base_architecture.into(),
            yes(self.hierarchical),
            self.stem.clone().into(),
            format!("{height} x {width}"),
            self.normalization.into(),
            self.activation.clone().into(),
            yes(self.stem_pooling),
            self.final_pooling.into(),
            self.spatial_attention.clone().into(),
            self.channel_attention.into(),
            self.channel_attention_location.into(),
            yes(self.depthwise_convolution),
            yes(self.grouped_convolution),
        ]
    }
}
