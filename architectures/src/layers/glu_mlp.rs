//! The two-layer perceptron with a gated linear unit.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Activation, Linear, multiply};

/// Linear, half of it times the activation of the other half, linear, over the last axis
/// (Dauphin et al. 2017, Shazeer 2020).
#[derive(Module, Debug)]
pub struct GluMlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl GluMlp {
    /// `channels` → `hidden`, which is even → `hidden` / 2 → `channels`. The gates' weights begin near zero, their biases at
    /// one, so that at first every gate is open, whatever the input.
    pub fn new(channels: usize, hidden: usize, activation: Activation, device: &Device) -> Self {
        let half = hidden / 2;
        let mut fc1 = Linear::new(channels, hidden, device);
        fc1.weight = fc1.weight.init_mapper(move |weight| {
            let [values, gates] = [0, half].map(|start| weight.clone().narrow(0, start, half));
            Tensor::cat(vec![values, gates.mul_scalar(1e-5)], 0)
        });
        fc1.bias = fc1.bias.map(|bias| {
            bias.init_mapper(move |bias| {
                let [values, gates] = [0, half].map(|start| bias.clone().narrow(0, start, half));
                Tensor::cat(vec![values, gates + 1.0], 0)
            })
        });
        Self { fc1, fc2: Linear::new(half, channels, device), activation }
    }

    /// shortcut + the perceptron over the last axis of `[batch, token, channel]`.
    pub fn forward_residual(&self, x: Tensor<3>, shortcut: Tensor<3>) -> Tensor<3> {
        let gated = self.gate(self.fc1.forward(x), 2);
        self.fc2.forward_residual(gated, None, shortcut)
    }

    /// shortcut + the perceptron over the middle axis of `[batch, channel, other]`.
    pub fn forward_across(&self, x: Tensor<3>, shortcut: Tensor<3>) -> Tensor<3> {
        let hidden = self.fc1.forward_across(x, Activation::Identity, None);
        self.fc2.forward_across(self.gate(hidden, 1), Activation::Identity, Some(shortcut))
    }

    /// The first half of an axis times the activation of the other half.
    fn gate(&self, hidden: Tensor<3>, axis: usize) -> Tensor<3> {
        let half = hidden.dims()[axis] / 2;
        let values = hidden.clone().narrow(axis, 0, half);
        let gates = hidden.narrow(axis, half, half);
        multiply(values, self.activation.forward(gates))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_begin_open() {
        let device = Device::flex();
        let mlp = GluMlp::new(3, 8, Activation::Identity, &device);
        let hidden = mlp.fc1.forward(Tensor::<2>::ones([1, 3], &device));
        let largest = |start| {
            let half = hidden.clone().narrow(1, start, 4);
            let distance = half - (start / 4) as f64;
            distance.abs().max().into_scalar::<f32>()
        };
        assert!(largest(0) > 1e-2);
        assert!(largest(4) < 1e-3);
    }
}
