//! Adversarial training: a network learns from images that were attacked on it as it is at that step.
//!
//! Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks* (arXiv 1706.06083), equation 2.1: the loss is the
//! cross-entropy at the worst point that PGD finds in the L∞ ball around each image. PGD is that of [`crate::attacks`], on the
//! network in evaluation mode and without gradients of its weights; what it learns then passes through it in training mode.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use netkin_architectures::{Architecture, Network, Taps};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Losses, Objective, Student, TrainingBatch, cross_entropy, normalise};
use crate::attacks::{Attack, Bound, Iterative, Norm, Surrogate, Targets};
use crate::training::TrainingError;

/// The table `[adversarial]` of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The radius of the L∞ ball, a change of pixels in [0, 1], above 0 and up to 1.
    pub eps: f64,
    /// The length of a step, above 0 and up to 1.
    pub step_size: f64,
    /// Steps of each attack, at least 1.
    pub steps: usize,
    /// Whether an attack starts from a random point of the ball (else from the image).
    pub random_start: bool,
}

impl Default for Options {
    /// As Madry et al. train on CIFAR-10: 8/255 in seven steps of 2/255 from a random point.
    fn default() -> Self {
        Self { eps: 8.0 / 255.0, step_size: 2.0 / 255.0, steps: 7, random_start: true }
    }
}

impl Options {
    /// Checks the ranges.
    ///
    /// # Errors
    /// If a number is out of its range.
    pub fn check(&self) -> Result<(), TrainingError> {
        let is_change = |value: f64| value > 0.0 && value <= 1.0;
        let change = "a change of pixels in [0, 1], above 0 and up to 1";
        let checks = [
            ("adversarial.eps", self.eps.to_string(), is_change(self.eps), change),
            ("adversarial.step_size", self.step_size.to_string(), is_change(self.step_size), change),
            ("adversarial.steps", self.steps.to_string(), self.steps >= 1, "at least 1"),
        ];
        match checks.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((option, value, _, range)) => Err(TrainingError::Option { option, value, range }),
            None => Ok(()),
        }
    }

    /// The attack of one step.
    fn attack(&self, seed: u64) -> Iterative {
        let Self { eps, step_size, steps, random_start } = *self;
        let bound = Bound { norm: Norm::Linf, eps };
        Iterative { bound, step_size, steps, random_start, seed, ..Iterative::default() }
    }
}

/// Learning from attacked images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adversarial {
    options: Options,
}

impl Adversarial {
    /// By attacks of these settings.
    ///
    /// # Errors
    /// If one is out of its range.
    pub fn new(options: Options) -> Result<Self, TrainingError> {
        options.check()?;
        Ok(Self { options })
    }
}

impl Objective for Adversarial {
    /// The logits are those of the attacked images. Where images were mixed, an attack leads away from the first one's label.
    fn losses(&self, student: &Student, batch: &TrainingBatch) -> Losses {
        // Erased regions hold noise beyond what pixels can be.
        let pixels = batch.pixels.clone().inner().clamp(0.0, 1.0);
        let ids: Vec<String> = (0..batch.labels.len()).map(|position| position.to_string()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let [_, classes] = batch.targets.dims();
        let network = Frozen::of(student, classes, &pixels);
        let targets = Targets::new(pixels, &batch.labels, &ids);
        let attacked = self.options.attack(batch.seed).perturb(&network, &targets).pixels;
        let logits = student.forward(attacked.autodiff()).logits;
        let total = cross_entropy(logits.clone(), batch.targets.clone());
        Losses { total: total.clone(), logits, parts: vec![("attacked", total)] }
    }

    fn settings(&self) -> Value {
        json!({"objective": "adversarial", "attack": self.options})
    }
}

/// A network in the midst of its training as attacks see it: in evaluation mode, its weights as they are now and without gradients.
#[derive(Debug)]
pub struct Frozen {
    network: Network,
    mean: [f64; 3],
    std: [f64; 3],
    classes: usize,
    device: Device,
    dtype: DType,
}

impl Frozen {
    /// Of a student that tells so many classes apart, for pixels where and as `like` is.
    pub fn of(student: &Student, classes: usize, like: &Tensor<4>) -> Self {
        Self {
            network: student.network.valid(),
            mean: student.mean,
            std: student.std,
            classes,
            device: like.device().without_autodiff(),
            dtype: like.dtype(),
        }
    }
}

impl Surrogate for Frozen {
    fn num_classes(&self) -> usize {
        self.classes
    }

    fn logits(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.network.forward(normalise(pixels, self.mean, self.std), &mut Taps::none()).logits
    }

    fn placement(&self) -> (Device, DType) {
        (self.device.clone(), self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::attacks::gradient;
    use crate::model::to_f64;
    use crate::random::Random;

    /// Pixels with their labels, and a network of two classes that was not trained.
    fn network() -> (Network, Tensor<4>, Vec<usize>) {
        let entry = netkin_architectures::find("demo_vit_patch7").unwrap();
        let device = Device::flex().autodiff();
        let network = entry.config.build(2, &device);
        let mut random = Random::of(&[3]);
        let values: Vec<f32> = (0..4 * 3 * 28 * 28).map(|_| random.unit() as f32).collect();
        let pixels = Tensor::<4>::from_data(TensorData::new(values, [4, 3, 28, 28]), &Device::flex());
        // Weights are drawn when they are first used.
        network.forward(pixels.clone(), &mut Taps::none());
        (network, pixels, vec![0, 1, 1, 0])
    }

    #[test]
    fn an_attack_raises_the_loss_of_the_network_as_it_is() {
        let (network, pixels, labels) = network();
        let student = Student { network: &network, mean: [0.5; 3], std: [0.25; 3], seed: 0 };
        let frozen = Frozen::of(&student, 2, &pixels);
        let ids = ["0", "1", "2", "3"];
        let targets = Targets::new(pixels.clone(), &labels, &ids);
        let losses = |pixels: Tensor<4>| to_f64(crate::model::cross_entropy(frozen.logits(pixels), &labels));
        let options = Options { eps: 0.1, step_size: 0.03, steps: 5, random_start: true };
        let attacked = options.attack(1).perturb(&frozen, &targets).pixels;
        for (before, after) in losses(pixels.clone()).into_iter().zip(losses(attacked.clone())) {
            assert!(after > before, "{after} from {before}");
        }
        let change = (attacked.clone() - pixels).abs().max().into_scalar::<f32>();
        assert!(change > 0.05 && change < 0.1001, "{change}");
        let again = options.attack(1).perturb(&frozen, &targets).pixels;
        assert_eq!(to_f64(again), to_f64(attacked.clone()));
        assert_ne!(to_f64(options.attack(2).perturb(&frozen, &targets).pixels), to_f64(attacked));
    }

    /// What an attack sees are the same logits and gradients that a pass of the student in evaluation gives.
    #[test]
    fn pixels_are_normalised_once_and_weights_are_not_tracked() {
        let (network, pixels, labels) = network();
        let student = Student { network: &network, mean: [0.5; 3], std: [0.25; 3], seed: 0 };
        let frozen = Frozen::of(&student, 2, &pixels);
        assert!(!frozen.logits(pixels.clone()).is_autodiff());
        let by_hand = pixels.clone().sub_scalar(0.5).div_scalar(0.25);
        let expected = network.valid().forward(by_hand, &mut Taps::none()).logits;
        for (ours, theirs) in to_f64(frozen.logits(pixels.clone())).into_iter().zip(to_f64(expected)) {
            assert!((ours - theirs).abs() < 1e-4, "{ours} beside {theirs}");
        }
        let found = gradient(&frozen, pixels, &|logits| crate::model::cross_entropy(logits, &labels));
        assert!(to_f64(found.gradient).iter().any(|value| *value != 0.0));
    }

    #[test]
    fn options_out_of_range_are_named() {
        let said = |options: Options| Adversarial::new(options).unwrap_err().to_string();
        assert!(said(Options { eps: 8.0, ..Options::default() }).contains("adversarial.eps is 8"));
        assert!(said(Options { step_size: 0.0, ..Options::default() }).contains("adversarial.step_size is 0"));
        assert!(said(Options { steps: 0, ..Options::default() }).contains("adversarial.steps is 0"));
        assert!(toml::from_str::<Options>("epsilon = 0.1").is_err());
        let typed: Options = toml::from_str("eps = 0.1\nsteps = 3").unwrap();
        assert_eq!(typed, Options { eps: 0.1, steps: 3, ..Options::default() });
    }
}
