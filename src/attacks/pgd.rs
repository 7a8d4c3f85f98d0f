//! Projected gradient descent in the L∞ ball.
//!
//! Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks* (arXiv 1706.06083), equation in section 2.1:
//! x ← Π(x + step · sign ∇ₓ L(x, y)), from a uniformly random point of the ball or from the image itself.

use burn::tensor::Tensor;
use serde::Serialize;

use super::{Attack, Targets, steps};
use crate::model::{Model, cross_entropy};

/// L∞ PGD on the cross-entropy, untargeted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pgd {
    /// The largest change of a pixel, in (0, 1].
    pub eps: f64,
    /// The change of a pixel in one step, in (0, 1].
    pub step_size: f64,
    /// The number of steps, at least 1.
    pub steps: usize,
    /// Whether to start from a random point of the ball (else from the image).
    pub random_start: bool,
    /// Seeds the random start.
    pub seed: u64,
}

/// Why an attack cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PgdError {
    /// eps outside of (0, 1].
    #[error(
        "eps {0} is out of range; it is a change of pixels in [0, 1], so give a number above 0 and up to 1, such as 8/255"
    )]
    Eps(f64),
    /// step size outside of (0, 1].
    #[error(
        "the step size {0} is out of range; it is a change of pixels in [0, 1], so give a number above 0 and up to 1, such as 2/255"
    )]
    StepSize(f64),
    /// No steps.
    #[error("an attack of {0} steps does nothing; give at least 1")]
    Steps(usize),
}

impl Default for Pgd {
    /// The paper's: ε = 8/255 in 50 steps of 2/255.
    fn default() -> Self {
        Self { eps: 8.0 / 255.0, step_size: 2.0 / 255.0, steps: 50, random_start: true, seed: 0 }
    }
}

impl Pgd {
    /// Checks the ranges.
    pub fn check(&self) -> Result<(), PgdError> {
        let in_range = |value: f64| value > 0.0 && value <= 1.0;
        if !in_range(self.eps) {
            return Err(PgdError::Eps(self.eps));
        }
        if !in_range(self.step_size) {
            return Err(PgdError::StepSize(self.step_size));
        }
        if self.steps == 0 {
            return Err(PgdError::Steps(self.steps));
        }
        Ok(())
    }
}

impl Attack for Pgd {
    fn perturb(&self, model: &Model, targets: &Targets) -> Tensor<4> {
        let Targets { pixels, labels, ids } = targets;
        let mut adversarial =
            if self.random_start { steps::random_start(pixels, ids, self.eps, self.seed) } else { pixels.clone() };
        for _ in 0..self.steps {
            // The sum, not the mean: an image's gradient must not shrink with the batch.
            let loss = |logits| cross_entropy(logits, labels).sum();
            let gradient = model.input_gradient(adversarial.clone(), loss).gradient;
            let moved = adversarial + gradient.sign().mul_scalar(self.step_size);
            adversarial = steps::project(moved, pixels, self.eps);
        }
        adversarial
    }

    fn eps(&self) -> f64 {
        self.eps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        let default = Pgd::default();
        assert_eq!(default.check(), Ok(()));
        let with = |eps, step_size, steps| Pgd { eps, step_size, steps, ..default.clone() }.check();
        assert!(matches!(with(0.0, 0.1, 1), Err(PgdError::Eps(_))));
        assert!(matches!(with(f64::NAN, 0.1, 1), Err(PgdError::Eps(_))));
        assert!(matches!(with(8.0, 0.1, 1), Err(PgdError::Eps(_))));
        assert!(matches!(with(0.1, -0.1, 1), Err(PgdError::StepSize(_))));
        assert!(matches!(with(0.1, 0.1, 0), Err(PgdError::Steps(0))));
    }
}
