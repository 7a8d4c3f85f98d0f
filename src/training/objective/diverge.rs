//! Diverge training: a network learns to see images unlike networks that were trained before it.
//!
//! Zhen, Meng, Chakraborty & Singh, *On the Versatile Uses of Partial Distance Correlation in Deep Learning* (arXiv 2207.09684, ECCV
//! 2022), "Independent features help robustness": cross-entropy + α · the mean, over the earlier networks, of the biased distance
//! correlation between its pooled features and theirs on the batch. The earlier networks are frozen, in evaluation mode.

use burn::tensor::Tensor;
use netkin_architectures::Outputs;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::reference::outputs;
use super::{Losses, Objective, Student, TrainingBatch, cross_entropy};
use crate::model::Model;
use crate::similarity::features::loss::diverge_loss;
use crate::training::TrainingError;

/// The table `[diverge]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// α, what the mean correlation is multiplied by, above 0.
    pub alpha: f64,
    /// The earlier networks with their weights: `NAME`, `NAME.TAG` or `NAME=FILE` each.
    pub against: Vec<String>,
}

impl Default for Options {
    /// The paper's α, of no networks.
    fn default() -> Self {
        Self { alpha: 0.05, against: Vec::new() }
    }
}

impl Options {
    /// Checks the ranges.
    ///
    /// # Errors
    /// If α is out of its range.
    pub fn check(&self) -> Result<(), TrainingError> {
        if self.alpha > 0.0 && self.alpha.is_finite() {
            return Ok(());
        }
        let value = self.alpha.to_string();
        Err(TrainingError::Option { option: "diverge.alpha", value, range: "above 0, at which nothing diverges" })
    }
}

/// Learning away from other networks.
#[derive(Debug)]
pub struct Diverge {
    alpha: f64,
    earlier: Vec<Model>,
}

impl Diverge {
    /// Away from these networks, which may be none and are loaded where the student trains; they may be of any architecture.
    ///
    /// # Errors
    /// If α is not above 0.
    pub fn new(alpha: f64, earlier: Vec<Model>) -> Result<Self, TrainingError> {
        Options { alpha, against: Vec::new() }.check()?;
        Ok(Self { alpha, earlier })
    }
}

impl Objective for Diverge {
    fn losses(&self, student: &Student, batch: &TrainingBatch) -> Losses {
        let Outputs { features, logits } = student.forward(batch.pixels.clone());
        let labels = cross_entropy(logits.clone(), batch.targets.clone());
        let mut parts = vec![("labels", labels.clone())];
        let correlation = |model: &Model| {
            let theirs = outputs(model, &batch.pixels).features;
            diverge_loss(features.clone(), theirs.cast(features.dtype()))
        };
        // One image is at a distance from none.
        let earlier: &[Model] = if batch.labels.len() < 2 { &[] } else { &self.earlier };
        let sum: Option<Tensor<1>> = earlier.iter().map(correlation).reduce(|sum, correlation| sum + correlation);
        let total = match sum {
            None => labels,
            Some(sum) => {
                let mean = sum.mul_scalar(1.0 / earlier.len() as f64);
                parts.push(("correlation", mean.clone()));
                labels + mean.mul_scalar(self.alpha)
            }
        };
        Losses { total, logits, parts }
    }

    fn settings(&self) -> Value {
        let earlier: Vec<Value> =
            self.earlier.iter().map(|model| json!({"name": model.name(), "sha256": model.sha256()})).collect();
        json!({"objective": "diverge", "alpha": self.alpha, "against": earlier})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        assert!(Options::default().check().is_ok());
        let said = Diverge::new(-0.1, Vec::new()).unwrap_err().to_string();
        assert!(said.contains("diverge.alpha is -0.1"), "{said}");
        let said = Diverge::new(0.0, Vec::new()).unwrap_err().to_string();
        assert!(said.contains("diverge.alpha is 0, but must be above 0"), "{said}");
        let typed: Options = toml::from_str("against = [\"demo_resnet\"]").unwrap();
        assert_eq!((typed.alpha, typed.against.len()), (0.05, 1));
    }
}
