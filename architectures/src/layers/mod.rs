//! The parts that networks share, each written once.
//!
//! Every layer keeps its parameters in timm's layout under timm's names, so that weights load and save without an
//! adapter. Networks go through these layers only; how a layer computes is its own affair.
//!
//! A layer trains (batch norm: takes the batch's statistics) only if its parameters were made on an autodiff device and
//! are not frozen. On parameters without autodiff everything is in evaluation mode, whatever the input tracks.

mod arithmetic;
mod attention;
mod block_attention;
mod bottleneck_attention;
mod boxed;
mod branches;
mod class_attention;
mod conv;
mod conv_norm;
mod cross_covariance_attention;
mod efficient_channel_attention;
mod evo_norm;
mod factorised_attention;
mod filter_response_norm;
mod gated_positional_attention;
mod global_context;
mod global_response_norm;
mod glu_mlp;
mod halo_attention;
mod lambda_layer;
mod linear;
mod macs;
mod mixed_conv;
mod mlp;
mod named;
mod norm;
mod patch_embed;
mod pointwise;
mod pool;
mod regularisation;
mod resize;
mod scale;
mod squeeze_excite;
mod standardisation;
mod talking_heads_attention;
mod transformer_block;
mod windows;

pub use arithmetic::{
    add, cross_entropy, image_to_tokens, mean_of_tokens, multiply, prepend_class_token, scale_and_shift, softmax,
    split_class_token, tokens_to_image, transposed,
};
pub use attention::{
    Attention, attention, biased_self_attention, channels_first_attention, mixed_attention, self_attention,
    with_attention,
};
pub use bottleneck_attention::BottleneckAttention;
pub use boxed::Boxed;
pub use branches::{Branch, BranchLayer, BranchPool, Branches};
pub use class_attention::ClassAttention;
pub use conv::{Conv2d, Conv2dConfig, Padding, Then};
pub use conv_norm::ConvNorm;
pub use cross_covariance_attention::CrossCovarianceAttention;
pub use efficient_channel_attention::EfficientChannelAttention;
pub use evo_norm::EvoNorm;
pub use factorised_attention::{ConvolutionalPositions, FactorisedAttention};
pub use filter_response_norm::FilterResponseNorm;
pub use gated_positional_attention::GatedPositionalAttention;
pub use global_context::GlobalContext;
pub use global_response_norm::GlobalResponseNorm;
pub use glu_mlp::GluMlp;
pub use halo_attention::{HaloAttention, HaloShape};
pub use lambda_layer::{LambdaLayer, LambdaScope};
pub use linear::Linear;
pub use macs::multiply_accumulates;
pub use mixed_conv::MixedConv2d;
pub use mlp::Mlp;
pub use named::Named;
pub use norm::{BatchNorm2d, GroupNorm, LayerNorm, LayerNorm2d, Norm2d};
pub use patch_embed::{PatchEmbed, assert_size};
pub use pointwise::Pointwise;
pub use pool::{
    average_pool, average_pool_3x3, average_pool_floor, average_pool_inside, average_pool_less_middle, blur_pool, gate,
    global_average_pool, max_pool, max_pool_ceil,
};
pub use regularisation::{Dropout, Regularisation, StochasticDepth, stochastic};
pub use resize::resize;
pub use scale::{Affine, LayerScale};
pub use squeeze_excite::{EffectiveSqueezeExcite, SqueezeExcite, gated};
pub use talking_heads_attention::TalkingHeadsAttention;
pub use transformer_block::TransformerBlock;
pub use windows::{WindowAttention, Windows, gather_rows};

pub use crate::interpolation::Interpolation;
pub use netkin_kernels::{Activation, Products};

/// The multiple of `divisor` nearest to `value`, not below `divisor`, and not below 90 % of `value`
/// (the rule of MobileNet's channel counts).
pub fn make_divisible(value: f64, divisor: usize) -> usize {
    make_divisible_limited(value, divisor, 0.9)
}

/// As [`make_divisible`], with another bound than 90 %; 0 sets no bound.
pub fn make_divisible_limited(value: f64, divisor: usize, limit: f64) -> usize {
    let rounded = ((value + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
    if (rounded as f64) < limit * value { rounded + divisor } else { rounded }
}
