//! The CPU's fast operations, behind the layers of `netkin-architectures` and unknown to the networks.
//!
//! Each operation is an [`Operation`]: a forward pass over contiguous arrays and a hand-written backward pass, which
//! [`run`] hands to Burn's Flex backend and to its autodiff. They compute in f32 and only there: a layer asks [`applies`],
//! and where the answer is no (another device, another precision) it computes the same by Burn's own operations, which is
//! also what the tests here compare with. Within [`Products::within`] the factors of matrix products are rounded to bf16.
//!
//! Every output element is computed from its own inputs in one fixed order, so that an image's result does not depend on
//! the batch around it.

mod activation;
mod array;
mod attention;
mod batch_norm;
mod bf16;
mod channel_norm;
mod convolution;
mod elementwise;
mod fold;
mod gemm;
mod gram;
mod group_norm;
mod layer_norm;
mod linear;
mod operation;
mod padded;
mod parallel;
mod pool;
mod products;
pub mod profile;
mod rows;
mod simd;
mod small_product;
mod softmax;
mod standardisation;
mod transposition;
mod vectors;

pub use activation::{Activate, Activation};
pub use array::Array;
pub use attention::Attention;
pub use batch_norm::{BatchNorm, batch_moments};
pub use channel_norm::ChannelNorm;
pub use convolution::Convolution;
pub use elementwise::{Add, Affine, MeanTokens, Multiply};
pub use gram::centred_products;
pub use group_norm::{EvoNorm, GroupNorm};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use operation::{Cache, Operation, Saved, applies, run};
pub use pool::{AveragePool, Gate, GlobalAveragePool, MaxPool};
pub use products::Products;
pub use rows::{GatherRows, RowOrder};
pub use softmax::{CrossEntropy, Softmax};
pub use standardisation::Standardisation;
pub use transposition::SwapAxes;
