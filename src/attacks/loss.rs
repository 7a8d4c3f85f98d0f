//! What an attack increases.

use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;

use super::Targets;
use crate::model::{cross_entropy, to_f64};

/// A loss of logits that grows as the network is nearer to being fooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// −ln p(label); with a wanted class, ln p(wanted).
    CrossEntropy,
    /// The largest other logit minus the label's; with a wanted class, its logit minus the largest other one. Carlini &
    /// Wagner, *Towards Evaluating the Robustness of Neural Networks* (arXiv 1608.04644), f₆, not cut off.
    Margin,
    /// The difference of logits ratio, Croce & Hein, *Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
    /// Parameter-free Attacks* (arXiv 2003.01690), equations 6 and 7 (with a wanted class).
    Dlr,
}

/// Keeps a quotient finite, as the authors' code does.
const TINY: f64 = 1e-12;

impl Loss {
    /// `[batch]` of logits `[batch, class]`.
    ///
    /// # Panics
    /// The difference of logits ratio of less than 3 classes, or 4 with a wanted class.
    pub fn of(self, logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
        let labels = &targets.labels;
        match (self, &targets.wanted) {
            (Self::CrossEntropy, None) => cross_entropy(logits, labels),
            (Self::CrossEntropy, Some(wanted)) => cross_entropy(logits, wanted).neg(),
            (Self::Margin, None) => best_but(&logits, labels) - pick(&logits, labels),
            (Self::Margin, Some(wanted)) => pick(&logits, wanted) - best_but(&logits, wanted),
            (Self::Dlr, None) => {
                let [first, _, third, _] = ranked(&logits, 3);
                let difference = best_but(&logits, labels) - pick(&logits, labels);
                difference / (pick(&logits, &first) - pick(&logits, &third)).add_scalar(TINY)
            }
            (Self::Dlr, Some(wanted)) => {
                let [first, _, third, fourth] = ranked(&logits, 4);
                let difference = pick(&logits, wanted) - pick(&logits, labels);
                let middle = (pick(&logits, &third) + pick(&logits, &fourth)).mul_scalar(0.5);
                difference / (pick(&logits, &first) - middle).add_scalar(TINY)
            }
        }
    }

    /// The least number of classes that it is defined for.
    pub fn least_classes(self, is_targeted: bool) -> usize {
        match (self, is_targeted) {
            (Self::Dlr, false) => 3,
            (Self::Dlr, true) => 4,
            _ => 2,
        }
    }
}

/// One logit of each image, `[batch]`.
pub fn pick(logits: &Tensor<2>, classes: &[usize]) -> Tensor<1> {
    let indices: Vec<i64> = classes.iter().map(|&class| class as i64).collect();
    let device = logits.device().without_autodiff();
    let indices = Tensor::<2, Int>::from_data(TensorData::new(indices, [classes.len(), 1]), &device);
    logits.clone().gather(1, indices).reshape([classes.len()])
}

/// The largest logit of each image but that of `classes`, `[batch]`.
pub fn best_but(logits: &Tensor<2>, classes: &[usize]) -> Tensor<1> {
    let ranked = order(logits, 2);
    let best: Vec<usize> = ranked
        .iter()
        .zip(classes)
        .map(|(ranked, class)| ranked.iter().copied().find(|other| other != class).unwrap_or(*class))
        .collect();
    pick(logits, &best)
}

/// The classes of each image by falling logits, the first `count` of them; of equal logits the first class comes first.
pub fn order(logits: &Tensor<2>, count: usize) -> Vec<Vec<usize>> {
    let [_, classes] = logits.dims();
    let values = to_f64(logits.clone().detach());
    let of_image = |values: &[f64]| {
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        order.truncate(count);
        order
    };
    values.chunks_exact(classes).map(of_image).collect()
}

/// The classes of the four largest logits, each for all images; those beyond `count` are not to be used.
fn ranked(logits: &Tensor<2>, count: usize) -> [Vec<usize>; 4] {
    let order = order(logits, count);
    assert!(order.iter().all(|order| order.len() == count), "the difference of logits ratio wants {count} classes");
    std::array::from_fn(|rank| order.iter().map(|order| order.get(rank).copied().unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn losses(loss: Loss, wanted: Option<Vec<usize>>) -> Vec<f64> {
        let device = Device::flex();
        let logits = Tensor::<2>::from_data([[3.0, 1.0, 0.0, -1.0], [0.5, 2.0, 1.0, -2.0]], &device);
        let targets = Targets { wanted, ..Targets::new(Tensor::zeros([2, 3, 1, 1], &device), &[0, 0], &["a", "b"]) };
        to_f64(loss.of(logits, &targets))
    }

    fn assert_near(values: &[f64], expected: &[f64]) {
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{values:?}, {expected:?}");
        }
    }

    #[test]
    fn losses_are_those_of_the_papers() {
        assert_near(&losses(Loss::Margin, None), &[-2.0, 1.5]);
        assert_near(&losses(Loss::Margin, Some(vec![2, 2])), &[-3.0, -1.0]);
        // −(3 − 1)/(3 − 0) and −(0.5 − 2)/(2 − 0.5).
        assert_near(&losses(Loss::Dlr, None), &[-2.0 / 3.0, 1.0]);
        // −(3 − 0)/(3 − (0 − 1)/2) and −(0.5 − 1)/(2 − (0.5 − 2)/2).
        assert_near(&losses(Loss::Dlr, Some(vec![2, 2])), &[-3.0 / 3.5, 0.5 / 2.75]);
        let sum = |logits: [f64; 4]| logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let of = |class: usize| {
            [[3.0, 1.0, 0.0, -1.0], [0.5, 2.0, 1.0, -2.0]].map(|logits: [f64; 4]| sum(logits) - logits[class])
        };
        assert_near(&losses(Loss::CrossEntropy, None), &of(0));
        assert_near(&losses(Loss::CrossEntropy, Some(vec![2, 2])), &of(2).map(|loss| -loss));
    }
}
