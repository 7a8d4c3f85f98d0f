//! Elementwise nonlinearities.

use burn::tensor::{Tensor, activation};

/// An elementwise nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x.
    Identity,
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// x·Φ(x) with the exact normal distribution function.
    Gelu,
    /// x·σ(x), also called swish.
    Silu,
    /// 1/(1 + exp(−x)).
    Sigmoid,
}

impl Activation {
    /// Applies the nonlinearity; the shape stays.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Identity => x,
            Self::Relu => activation::relu(x),
            Self::Relu6 => activation::hardtanh(x, 0.0, 6.0),
            Self::Gelu => activation::gelu(x),
            Self::Silu => activation::silu(x),
            Self::Sigmoid => activation::sigmoid(x),
        }
    }
}
