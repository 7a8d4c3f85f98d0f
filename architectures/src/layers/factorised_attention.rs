//! The attention of Co-scale conv-attentional Image Transformers (Xu et al. 2021).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::attention::{join_heads, split_heads};
use super::{
    Activation, Conv2d, Linear, add, image_to_tokens, macs, multiply, prepend_class_token, softmax, split_class_token,
    tokens_to_image, transposed,
};

/// Multi-head attention by two factors: the keys, as weights over the tokens, gather the values, and each query takes what
/// it wants of the result. The cost grows linearly with the number of tokens.
#[derive(Module, Debug)]
pub struct FactorisedAttention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl FactorisedAttention {
    /// `heads` must divide `channels`.
    pub fn new(channels: usize, heads: usize, device: &Device) -> Self {
        Self { qkv: Linear::new(channels, 3 * channels, device), proj: Linear::new(channels, channels, device), heads }
    }

    /// The class token and those of an image of `size`, `[batch, 1 + height · width, channel]`; the shape stays.
    pub fn forward(&self, x: Tensor<3>, positions: &ConvolutionalPositions, size: [usize; 2]) -> Tensor<3> {
        self.proj.forward(self.mix(x, positions, size))
    }

    /// shortcut + forward(x).
    pub fn forward_residual(
        &self,
        x: Tensor<3>,
        positions: &ConvolutionalPositions,
        size: [usize; 2],
        shortcut: Tensor<3>,
    ) -> Tensor<3> {
        self.proj.forward_residual(self.mix(x, positions, size), None::<&Param<Tensor<1>>>, shortcut)
    }

    fn mix(&self, x: Tensor<3>, positions: &ConvolutionalPositions, size: [usize; 2]) -> Tensor<3> {
        let [batch, tokens, channels] = x.dims();
        let (heads, head) = (self.heads, channels / self.heads);
        macs::count(2 * batch * tokens * channels * head);
        let qkv = self.qkv.forward(x);
        let [queries, keys, values] = [0, 1, 2].map(|index| qkv.clone().narrow(2, index * channels, channels));
        let weights = softmax(transposed(keys)).reshape([batch, heads, head, tokens]);
        let gathered = weights.matmul(split_heads(values.clone(), heads));
        let scale = (head as f64).powf(-0.5);
        let mixed = join_heads(split_heads(queries.clone(), heads).matmul(gathered.mul_scalar(scale)));
        add(mixed, multiply(queries, positions.forward(values, size)), Activation::Identity)
    }
}

/// Relative positions as depthwise convolutions of the values, whose window is larger for later heads.
#[derive(Module, Debug)]
pub struct ConvolutionalPositions {
    /// Each over its heads.
    conv_list: Vec<Conv2d>,
}

impl ConvolutionalPositions {
    /// Windows of so many places, both ways, and for how many of the heads.
    const WINDOWS: [(usize, usize); 3] = [(3, 2), (5, 3), (7, 3)];
    /// How many heads that makes.
    pub const HEADS: usize = 8;

    /// For so many channels, a multiple of [`Self::HEADS`].
    pub fn new(channels: usize, device: &Device) -> Self {
        let conv = |(window, heads)| {
            let share = heads * (channels / Self::HEADS);
            Conv2d::config(share, share, window).groups(share).bias().build(device)
        };
        Self { conv_list: Self::WINDOWS.map(conv).into() }
    }

    /// Values `[batch, 1 + height · width, channel]` → by what each query is multiplied, nothing for the class token.
    fn forward(&self, values: Tensor<3>, size: [usize; 2]) -> Tensor<3> {
        let [_, patches] = split_class_token(values);
        let image = tokens_to_image(patches, size);
        let [_, channels, ..] = image.dims();
        let mut start = 0;
        let parts = self.conv_list.iter().zip(Self::WINDOWS).map(|(conv, (_, heads))| {
            let share = heads * (channels / Self::HEADS);
            let part = image.clone().narrow(1, start, share);
            start += share;
            conv.forward(part)
        });
        let patches = image_to_tokens(Tensor::cat(parts.collect(), 1));
        let nothing = Tensor::zeros([1, 1, channels], (&patches.device().without_autodiff(), patches.dtype()));
        prepend_class_token(nothing, patches)
    }
}
