//! Conditioning: a network learns what another one does not hold.
//!
//! Zhen, Meng, Chakraborty & Singh, *On the Versatile Uses of Partial Distance Correlation in Deep Learning* (arXiv 2207.09684, ECCV
//! 2022): cross-entropy − α · R²(X, GT | Y), the distance correlation of the network's features X with a truth GT, once the features
//! Y of a frozen network are projected out. In a program: [`conditioning_loss`] for any features, [`Conditioning`] for
//! a network that is trained with labels.

use burn::tensor::{Tensor, TensorData};
use netkin_architectures::Outputs;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::reference::outputs;
use super::{Losses, Objective, Student, TrainingBatch, cross_entropy};
use crate::attacks::rows;
use crate::model::Model;
use crate::similarity::features::loss::{partial_distance_correlation, semi_partial_distance_correlation};
use crate::training::TrainingError;

/// Out of which features the given ones are projected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Projection {
    /// Out of the network's and the truth's (Székely & Rizzo 2014).
    Both,
    /// Out of the network's alone, as the authors' code does it.
    First,
}

/// −R²(features, truth | given), `[1]`, each `[batch, number]` of the same images. Give `given` detached where it is not to learn.
///
/// Not a number where one of the three does not tell the images apart.
///
/// # Panics
/// If the batches differ, or have fewer than four images.
pub fn conditioning_loss(features: Tensor<2>, given: Tensor<2>, truth: Tensor<2>, projection: Projection) -> Tensor<1> {
    match projection {
        Projection::Both => partial_distance_correlation(features, truth, given).neg(),
        Projection::First => semi_partial_distance_correlation(features, truth, given).neg(),
    }
}

/// Learning from labels, and what a given network does not hold of them.
#[derive(Debug)]
pub struct Conditioning {
    given: Model,
    alpha: f64,
    projection: Projection,
    /// Of each class, `[class, number]`; without it, classes are equally unlike.
    embedding: Option<Tensor<2>>,
}

impl Conditioning {
    /// Given a network, which is loaded where the student trains and may be of any architecture. The paper's α is 1.
    ///
    /// # Errors
    /// If α is below 0 or no number.
    pub fn new(given: Model, alpha: f64, projection: Projection) -> Result<Self, TrainingError> {
        if !(alpha >= 0.0 && alpha.is_finite()) {
            let value = alpha.to_string();
            return Err(TrainingError::Option { option: "alpha", value, range: "0 or above" });
        }
        Ok(Self { given, alpha, projection, embedding: None })
    }

    /// With an embedding of each class as the truth, `[class, number]`, on the same device: the paper takes that of the classes' names.
    pub fn with_embedding(self, embedding: Tensor<2>) -> Self {
        Self { embedding: Some(embedding), ..self }
    }

    /// What is true of the images, where `like` is; none if it does not tell these images apart, or there are too few.
    fn truth(&self, labels: &[usize], like: &Tensor<2>) -> Option<Tensor<2>> {
        let count = labels.len();
        let pairs = || (0..count).flat_map(|a| (a + 1..count).map(move |b| labels[a] == labels[b]));
        let (same, other) = (pairs().any(|is_same| is_same), pairs().any(|is_same| !is_same));
        if count < 4 || !other {
            return None;
        }
        match &self.embedding {
            Some(embedding) => Some(rows(embedding, labels).cast(like.dtype())),
            // Images of as many classes are equally far from each other.
            None if !same => None,
            None => {
                let classes = labels.iter().max()? + 1;
                let mut values = vec![0f32; count * classes];
                labels.iter().enumerate().for_each(|(image, label)| values[image * classes + label] = 1.0);
                let data = TensorData::new(values, [count, classes]);
                Some(Tensor::from_data(data, (&like.device().without_autodiff(), like.dtype())))
            }
        }
    }
}

impl Objective for Conditioning {
    fn losses(&self, student: &Student, batch: &TrainingBatch) -> Losses {
        let Outputs { features, logits } = student.forward(batch.pixels.clone());
        let labels = cross_entropy(logits.clone(), batch.targets.clone());
        let mut parts = vec![("labels", labels.clone())];
        let total = match self.truth(&batch.labels, &features) {
            None => labels,
            Some(truth) => {
                let given = outputs(&self.given, &batch.pixels).features.cast(features.dtype());
                let loss = conditioning_loss(features, given, truth, self.projection);
                parts.push(("conditioning", loss.clone()));
                labels + loss.mul_scalar(self.alpha)
            }
        };
        Losses { total, logits, parts }
    }

    fn settings(&self) -> Value {
        json!({
            "objective": "conditioning",
            "given": self.given.name(),
            "given sha256": self.given.sha256(),
            "alpha": self.alpha,
            "projection": self.projection,
            "embedding": self.embedding.as_ref().map(|embedding| {
                let bytes: Vec<u8> = crate::model::to_f64(embedding.clone()).into_iter().flat_map(f64::to_le_bytes).collect();
                blake3::hash(&bytes).to_string()
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use netkin_weights::{HubConfig, Precision};

    use super::*;
    use crate::model::to_f64;
    use crate::similarity::features::Centring;
    use crate::similarity::features::loss::distance_correlation;
    use crate::similarity::features::tests::drawn;

    fn columns(columns: &[&[f64]]) -> Tensor<2> {
        let images = columns[0].len();
        let values: Vec<f64> = (0..images).flat_map(|image| columns.iter().map(move |column| column[image])).collect();
        Tensor::from_data(TensorData::new(values, [images, columns.len()]), (&Device::flex(), DType::F64))
    }

    /// The worked example of docs/diverge.md. Two things, u and v, are true of each image. Another network knows u. One feature is
    /// learnt, a weighted sum of both, which begins as mostly u.
    #[test]
    fn a_feature_learns_what_the_other_network_does_not_know() {
        let (u, v) = (drawn(11, 48), drawn(12, 48));
        let (known, new, truth) = (columns(&[&u]), columns(&[&v]), columns(&[&u, &v]));
        let correlation =
            |x: &Tensor<2>, y: &Tensor<2>| to_f64(distance_correlation(x.clone(), y.clone(), Centring::Unbiased))[0];
        let learnt = |loss: &dyn Fn(Tensor<2>) -> Tensor<1>| {
            let start = TensorData::new(vec![1.0f64, 0.2], [2, 1]);
            let mut weights = Tensor::<2>::from_data(start, (&Device::flex(), DType::F64));
            for _ in 0..60 {
                let tracked = weights.autodiff().require_grad();
                let mut gradients = loss(truth.clone().matmul(tracked.clone())).backward();
                let gradient = tracked.grad_remove(&mut gradients).unwrap();
                weights = tracked.inner() - gradient.mul_scalar(0.5);
            }
            truth.clone().matmul(weights)
        };
        // Without a condition, the best single feature holds some of both.
        let plain = learnt(&|x| distance_correlation(x, truth.clone(), Centring::Unbiased).neg());
        assert!(correlation(&plain, &known) > 0.15, "{}", correlation(&plain, &known));
        for projection in [Projection::Both, Projection::First] {
            let feature = learnt(&|x| conditioning_loss(x, known.clone(), truth.clone(), projection));
            let (of_known, of_new) = (correlation(&feature, &known), correlation(&feature, &new));
            assert!(of_known < 0.02 && of_new > 0.99, "{projection:?}: {of_known} and {of_new}");
        }
    }

    #[test]
    fn a_truth_that_tells_nothing_is_left_out() {
        let spec = "demo_resnet".parse().unwrap();
        let loaded = netkin_weights::load(&spec, Precision::F32, &Device::flex(), &HubConfig::nowhere(), &mut |_| {});
        let given = Model::new(loaded.unwrap(), Precision::F32, Device::flex());
        let conditioning = Conditioning::new(given, 1.0, Projection::First).unwrap();
        let features = Tensor::<2>::zeros([4, 3], &Device::flex());
        for labels in [vec![1, 1, 1, 1], vec![0, 1, 2, 3], vec![0, 0, 1]] {
            assert!(conditioning.truth(&labels, &features).is_none(), "{labels:?}");
        }
        let truth = conditioning.truth(&[2, 0, 2, 1], &features).unwrap();
        assert_eq!(to_f64(truth), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        let embedding = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], &Device::flex());
        let embedded = conditioning.with_embedding(embedding);
        assert_eq!(to_f64(embedded.truth(&[3, 0, 2, 1], &features).unwrap()), [7.0, 8.0, 1.0, 2.0, 5.0, 6.0, 3.0, 4.0]);
    }
}
