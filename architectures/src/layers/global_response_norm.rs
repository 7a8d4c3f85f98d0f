//! Global response normalisation.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

/// Scales each channel by its strength over the whole image, relative to that of the other channels, and adds the result
/// to the input (Woo et al. 2023, ConvNeXt V2).
///
/// Over `[batch, channel, height, width]`.
#[derive(Module, Debug)]
pub struct GlobalResponseNorm {
    /// `[channel]`.
    pub weight: Param<Tensor<1>>,
    /// `[channel]`.
    pub bias: Param<Tensor<1>>,
}

impl GlobalResponseNorm {
    const EPSILON: f64 = 1e-6;

    /// For so many channels; starts as the identity.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { weight: Initializer::Zeros.init([channels], device), bias: Initializer::Zeros.init([channels], device) }
    }

    /// The shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // A channel that is zero everywhere has no gradient of its norm, and the square root one of infinity: the bound,
        // far below the epsilon, makes it zero.
        let squares = x.clone().square().sum_dim(2).sum_dim(3);
        let strength = squares.clamp_min(f64::from(f32::MIN_POSITIVE)).sqrt();
        let relative = strength.clone() / (strength.mean_dim(1) + Self::EPSILON);
        let per_channel = |values: &Param<Tensor<1>>| values.val().reshape([1, -1, 1, 1]);
        x * (relative * per_channel(&self.weight) + 1.0) + per_channel(&self.bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_channel_has_a_finite_gradient() {
        let device = Device::flex();
        let mut norm = GlobalResponseNorm::new(2, &device);
        norm.weight = Initializer::Ones.init([2], &device);
        let x = Tensor::<4>::from_data([[[[3.0, 4.0]], [[0.0, 0.0]]]], &device).autodiff().require_grad();
        let y = norm.forward(x.clone());
        // The strengths are 5 and 0, their mean 2.5: the first channel grows by the factor 1 + 2.
        y.clone().inner().into_data().assert_approx_eq::<f32>(
            &[[[[9.0f32, 12.0]], [[0.0, 0.0]]]].into(),
            burn::tensor::Tolerance::relative(1e-5),
        );
        let gradient = x.grad(&y.sum().backward()).unwrap().into_data();
        assert!(gradient.iter::<f32>().all(f32::is_finite), "{gradient}");
    }
}
