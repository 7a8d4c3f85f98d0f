//! Attention between channels.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::attention::{join_heads, split_heads};
use super::{Linear, macs, softmax};

/// Multi-head attention between the channels of tokens instead of between the tokens: its cost grows linearly with their
/// number (El-Nouby et al. 2021, *XCiT: Cross-Covariance Image Transformers*).
#[derive(Module, Debug)]
pub struct CrossCovarianceAttention {
    qkv: Linear,
    /// What the cosines are multiplied by, `[head, 1, 1]`.
    temperature: Param<Tensor<3>>,
    proj: Linear,
}

impl CrossCovarianceAttention {
    /// `heads` must divide `channels`.
    pub fn new(channels: usize, heads: usize, device: &Device) -> Self {
        Self {
            qkv: Linear::new(channels, 3 * channels, device),
            temperature: Initializer::Ones.init([heads, 1, 1], device),
            proj: Linear::new(channels, channels, device),
        }
    }

    /// shortcut + gamma·attention(x) over `[batch, token, channel]`, gamma `[channel]`.
    pub fn forward_residual(&self, x: Tensor<3>, gamma: &Param<Tensor<1>>, shortcut: Tensor<3>) -> Tensor<3> {
        let mixed = mix(self.qkv.forward(x), self.temperature.val());
        self.proj.forward_residual(mixed, Some(gamma), shortcut)
    }
}

/// softmax(temperature · cosines of all pairs of a query's and a key's channel over the tokens), by which the channels of
/// the values are mixed, in each head: queries, keys and values side by side, `[batch, token, 3 · channel]`, and
/// temperatures `[head, 1, 1]` → `[batch, token, channel]`.
fn mix(qkv: Tensor<3>, temperature: Tensor<3>) -> Tensor<3> {
    /// Below this a norm counts as this.
    const LEAST_NORM: f64 = 1e-12;

    let ([batch, tokens, channels], [heads, ..]) = (qkv.dims(), temperature.dims());
    let channels = channels / 3;
    macs::count(2 * batch * tokens * channels * channels / heads);
    let [queries, keys, values] =
        [0, 1, 2].map(|index| split_heads(qkv.clone().narrow(2, index * channels, channels), heads));
    let unit = |x: Tensor<4>| x.clone() / x.square().sum_dim(2).sqrt().clamp_min(LEAST_NORM);
    let cosines = unit(queries).transpose().matmul(unit(keys));
    let weights = softmax(cosines * temperature.unsqueeze());
    join_heads(values.matmul(weights.transpose()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_compared_by_their_cosines() {
        let device = Device::flex();
        // Two tokens of two channels: queries (3, 4) and (0, 0), keys (3, 4) and (4, -3), values (1, 2) and (10, 20).
        let qkv = [[[3.0, 0.0, 3.0, 4.0, 1.0, 10.0], [4.0, 0.0, 4.0, -3.0, 2.0, 20.0]]];
        let qkv = Tensor::<3>::from_data(qkv, &device);
        let temperature = Tensor::<3>::from_data([[[3f64.ln()]]], &device);
        let mixed: Vec<f32> = mix(qkv, temperature).into_data().try_into_vec().unwrap();
        // e^(ln 3 · 1) : e^0 = 3 : 1 for the first channel; the second's query says nothing.
        let expected = [3.25, 5.5, 6.5, 11.0];
        assert!(mixed.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{mixed:?}");
    }
}
