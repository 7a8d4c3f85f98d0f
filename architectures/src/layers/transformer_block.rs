//! The block of Transformers.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Activation, Attention, LayerNorm, LayerScale, Mlp, StochasticDepth};

/// Attention between the tokens, then a perceptron on each, both residual and normalised at their beginning.
#[derive(Module, Debug)]
pub struct TransformerBlock {
    norm1: LayerNorm,
    attn: Attention,
    ls1: Option<LayerScale>,
    norm2: LayerNorm,
    mlp: Mlp,
    ls2: Option<LayerScale>,
    #[module(skip)]
    drop_path: StochasticDepth,
}

impl TransformerBlock {
    /// For so many channels, which `heads` must divide; `hidden` are the perceptron's, and the branches begin with learnt
    /// scales of `layer_scale`, if there are any.
    pub fn new(channels: usize, heads: usize, hidden: usize, layer_scale: Option<f64>, device: &Device) -> Self {
        let norm = || LayerNorm::new(channels, 1e-6, device);
        let scale = || layer_scale.map(|value| LayerScale::new(channels, value, device));
        Self {
            norm1: norm(),
            attn: Attention::new(channels, heads, device),
            ls1: scale(),
            norm2: norm(),
            mlp: Mlp::new(channels, hidden, Activation::Gelu, device),
            ls2: scale(),
            drop_path: StochasticDepth::NONE,
        }
    }

    /// With branches that are left out at random in training.
    pub fn stochastic(self, drop_path: StochasticDepth) -> Self {
        Self { drop_path, ..self }
    }

    /// `[batch, token, channel]`; the shape stays.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = self.drop_path.residual(x, |x| self.attn.forward_residual(y, LayerScale::gamma(&self.ls1), x));
        let y = self.norm2.forward(x.clone());
        self.drop_path.residual(x, |x| self.mlp.forward_residual(y, LayerScale::gamma(&self.ls2), x))
    }
}
