//! Efficient channel attention (Wang et al. 2020).

use burn::module::{Initializer, Module, Param};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, module};

use super::{Activation, gate, global_average_pool};

/// Scales each channel by a gate in (0, 1) computed from the means of the neighbouring channels.
#[derive(Module, Debug)]
pub struct EfficientChannelAttention {
    conv: Kernel,
}

/// A one-dimensional convolution over the channels, kept as PyTorch has it.
#[derive(Module, Debug)]
struct Kernel {
    /// `[1, 1, tap]`.
    weight: Param<Tensor<3>>,
}

impl EfficientChannelAttention {
    /// With as many taps as the paper gives so many channels: the odd number at or above (log₂ channels + 1) / 2, at least 3.
    pub fn new(channels: usize, device: &Device) -> Self {
        let taps = (((channels as f64).log2() + 1.0) / 2.0) as usize;
        let taps = (if taps.is_multiple_of(2) { taps + 1 } else { taps }).max(3);
        let initializer = Initializer::KaimingUniform { gain: 3f64.sqrt().recip(), fan_out_only: false };
        Self { conv: Kernel { weight: initializer.init_with([1, 1, taps], Some(taps), Some(taps), device) } }
    }

    /// `[batch, channel, height, width]`; the shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        gate(x.clone(), self.gates(x))
    }

    /// The gates of `[batch, channel, height, width]`: `[batch, channel]`.
    pub fn gates(&self, x: Tensor<4>) -> Tensor<2> {
        let [batch, channels, _, _] = x.dims();
        let weight = self.conv.weight.val();
        let [_, _, taps] = weight.dims();
        let means = global_average_pool(x).reshape([batch, 1, channels]);
        let gates = module::conv1d(means, weight, None, ConvOptions::new([1], [taps / 2], [1], 1));
        Activation::Sigmoid.forward(gates.reshape([batch, channels]))
    }
}
