//! Learnt scales, one per channel.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::scale_and_shift;

/// Scales each channel of a residual branch (Touvron et al. 2021).
#[derive(Module, Debug)]
pub struct LayerScale {
    /// `[channel]`.
    pub gamma: Param<Tensor<1>>,
}

impl LayerScale {
    /// All scales begin with `value`; the deeper the network, the smaller.
    pub fn new(channels: usize, value: f64, device: &Device) -> Self {
        Self { gamma: Initializer::Constant { value }.init([channels], device) }
    }

    /// The scales, if there are any; what applies them is the last layer of the branch.
    pub fn gamma(scale: &Option<Self>) -> Option<&Param<Tensor<1>>> {
        scale.as_ref().map(|scale| &scale.gamma)
    }
}

/// Scales and shifts each channel: what is left of a normalisation without statistics (ResMLP, Touvron et al. 2021).
#[derive(Module, Debug)]
pub struct Affine {
    /// Scale, `[1, 1, channel]`.
    pub alpha: Param<Tensor<3>>,
    /// Shift, `[1, 1, channel]`.
    pub beta: Param<Tensor<3>>,
}

impl Affine {
    /// Begins as the identity.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self {
            alpha: Initializer::Ones.init([1, 1, channels], device),
            beta: Initializer::Zeros.init([1, 1, channels], device),
        }
    }

    /// `[batch, token, channel]`; the shape stays.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (alpha, beta) = (self.alpha.val(), self.beta.val());
        let [_, _, channels] = alpha.dims();
        let [alpha, beta] = [alpha, beta].map(|values| values.reshape([channels]));
        scale_and_shift(x, 2, alpha, Some(beta))
    }
}
