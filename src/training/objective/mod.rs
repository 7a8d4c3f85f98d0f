//! What a network is trained for: from a batch and the network's answers to the loss.
//!
//! | part | the loss |
//! |---|---|
//! | [`CrossEntropy`] | of the labels, smoothed and mixed as the augmentation has them |
//! | [`distillation`] | of the labels and of a teacher |
//! | [`adversarial`] | of the labels, on images that were attacked on the network as it is |
//! | [`diverge`] | of the labels, and of how alike its features are to those of earlier networks |
//! | [`conditioning`], [`disentanglement`] | what the distance correlation of features is made into, for objectives of one's own |

pub mod adversarial;
mod choice;
pub mod conditioning;
pub mod disentanglement;
pub mod distillation;
pub mod diverge;
mod reference;

use burn::tensor::{DType, Device, Tensor, TensorData, activation};
use netkin_architectures::layers::scale_and_shift;
use netkin_architectures::{Architecture, Network, Outputs, Taps, stochastic};
use serde_json::Value;

pub use choice::{networks, of};

/// A batch on the device that trains.
#[derive(Debug, Clone)]
pub struct TrainingBatch {
    /// `[batch, 3, height, width]`, in [0, 1] but for erased regions: not normalised.
    pub pixels: Tensor<4>,
    /// The class of each image, before images were mixed.
    pub labels: Vec<usize>,
    /// What is learnt, `[batch, class]`: smoothed, and mixed as the images are. Each row sums to 1.
    pub targets: Tensor<2>,
    /// For whatever an objective draws.
    pub seed: u64,
}

/// The network as it is at a step, in training, with its normalisation.
#[derive(Debug, Clone, Copy)]
pub struct Student<'a> {
    /// With autodiff.
    pub network: &'a Network,
    /// What is subtracted from the pixels' red, green and blue in [0, 1].
    pub mean: [f64; 3],
    /// What the difference is divided by.
    pub std: [f64; 3],
    /// Decides what stochastic depth and dropout leave out at this step.
    pub seed: u64,
}

impl Student<'_> {
    /// Runs in training mode on pixels `[batch, 3, height, width]`.
    pub fn forward(&self, pixels: Tensor<4>) -> Outputs {
        let images = normalise(pixels, self.mean, self.std);
        stochastic(self.seed, || self.network.forward(images, &mut Taps::none()))
    }

    /// As [`Self::forward`], with the outputs of the class token's head and, if the network is a distilled Vision Transformer, those
    /// of the distillation token's apart.
    pub fn forward_heads(&self, pixels: Tensor<4>) -> (Outputs, Option<Outputs>) {
        match self.network {
            Network::VisionTransformer(network) => {
                let images = normalise(pixels, self.mean, self.std);
                stochastic(self.seed, || network.forward_heads(images, &mut Taps::none()))
            }
            _ => (self.forward(pixels), None),
        }
    }
}

/// What a batch costs.
#[derive(Debug, Clone)]
pub struct Losses {
    /// What is made smaller, `[1]`.
    pub total: Tensor<1>,
    /// The network's answer by which its accuracy is counted, `[batch, class]`.
    pub logits: Tensor<2>,
    /// What the total is made of, by name, `[1]` each: for the log.
    pub parts: Vec<(&'static str, Tensor<1>)>,
}

/// What a network is trained for.
pub trait Objective {
    /// The losses of a batch.
    fn losses(&self, student: &Student, batch: &TrainingBatch) -> Losses;

    /// Everything beside the recipe that the weights depend on, such as the SHA-256 of a teacher's weights. It stands in the log, and
    /// a checkpoint goes with it.
    fn settings(&self) -> Value;
}

/// The mean over the batch of −Σ target · log softmax(logits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossEntropy;

impl Objective for CrossEntropy {
    fn losses(&self, student: &Student, batch: &TrainingBatch) -> Losses {
        let logits = student.forward(batch.pixels.clone()).logits;
        Losses { total: cross_entropy(logits.clone(), batch.targets.clone()), logits, parts: Vec::new() }
    }

    fn settings(&self) -> Value {
        Value::Null
    }
}

/// The mean over the batch of −Σ target · log softmax(logits): `[batch, class]`, `[batch, class]` → `[1]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let count = logits.dims()[0].max(1) as f64;
    // Not divided: Burn's gradient of a division by a number has that number in f32.
    (activation::log_softmax(logits, 1) * targets).sum().mul_scalar(-1.0 / count)
}

/// (pixels − mean) / std, per channel.
pub(super) fn normalise(pixels: Tensor<4>, mean: [f64; 3], std: [f64; 3]) -> Tensor<4> {
    let (device, dtype): (Device, DType) = (pixels.device().without_autodiff(), pixels.dtype());
    let of = |values: [f64; 3]| Tensor::<1>::from_data(TensorData::from(values), (&device, dtype));
    let scale = of(std.map(|std| 1.0 / std));
    let shift = of(std::array::from_fn(|channel| -mean[channel] / std[channel]));
    scale_and_shift(pixels, 1, scale, Some(shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::to_f64;

    /// torch.nn.functional.cross_entropy(logits, labels, label_smoothing=…) of PyTorch 2 gives these values.
    #[test]
    fn cross_entropy_is_that_of_pytorch() {
        let device = Device::flex();
        let logits = Tensor::from_data([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]], &device);
        let loss = |smoothing: f64| {
            let mut targets = [[smoothing / 3.0; 3]; 2];
            targets[0][2] += 1.0 - smoothing;
            targets[1][0] += 1.0 - smoothing;
            to_f64(cross_entropy(logits.clone(), Tensor::from_data(targets, &device)))[0]
        };
        assert!((loss(0.0) - 1.916_816_6).abs() < 1e-6);
        assert!((loss(0.1) - 1.925_149_9).abs() < 1e-6);
    }

    #[test]
    fn pixels_are_normalised_per_channel() {
        let pixels = Tensor::<4>::from_data([[[[0.5]], [[0.25]], [[1.0]]]], &Device::flex());
        let normal = to_f64(normalise(pixels, [0.5, 0.5, 0.0], [0.5, 0.25, 2.0]));
        assert_eq!(normal, [0.0, -1.0, 0.5]);
    }
}
