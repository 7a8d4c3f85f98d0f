//! Global context (Cao et al. 2019, *GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond*).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Activation, Conv2d, LayerNorm2d, make_divisible_limited, softmax};

/// Adds the same vector to every place, computed from a weighted mean of all places.
#[derive(Module, Debug)]
pub struct GlobalContext {
    conv_attn: Conv2d,
    mlp_add: Perceptron,
}

#[derive(Module, Debug)]
struct Perceptron {
    fc1: Conv2d,
    norm: LayerNorm2d,
    fc2: Conv2d,
}

impl GlobalContext {
    /// For so many channels, of which the perceptron has an eighth inside.
    pub fn new(channels: usize, device: &Device) -> Self {
        let hidden = make_divisible_limited(channels as f64 / 8.0, 1, 0.0);
        let conv = |inputs, outputs| Conv2d::config(inputs, outputs, 1).bias().build(device);
        Self {
            conv_attn: conv(channels, 1),
            mlp_add: Perceptron {
                fc1: conv(channels, hidden),
                norm: LayerNorm2d::new(hidden, 1e-6, device),
                fc2: conv(hidden, channels),
            },
        }
    }

    /// `[batch, channel, height, width]`; the shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let places = height * width;
        let weights = softmax(self.conv_attn.forward(x.clone()).reshape([batch, 1, places]));
        let context = x.clone().reshape([batch, channels, places]).matmul(weights.transpose());
        let Perceptron { fc1, norm, fc2 } = &self.mlp_add;
        let hidden = norm.forward(fc1.forward(context.reshape([batch, channels, 1, 1])));
        x + fc2.forward(Activation::Relu.forward(hidden))
    }
}
