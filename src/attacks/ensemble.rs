//! Several networks attacked at once, as transfer attacks do.

use burn::tensor::{DType, Device, Tensor, TensorData, activation};
use serde::Serialize;

use super::{LossOf, Surrogate};
use crate::images::{Filter, resize_f32};
use crate::model::Model;

/// What of the networks is averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// Logits. Dong et al., *Boosting Adversarial Attacks with Momentum* (arXiv 1710.06081), equation 9.
    Logits,
    /// Losses.
    Losses,
    /// Probabilities, whose logarithm then stands for logits.
    Probabilities,
}

/// Networks that are attacked as if they were one, which takes images of the first one's size; the others get them resized.
#[derive(Debug)]
pub struct Ensemble<'a> {
    members: Vec<Member<'a>>,
    average: Average,
}

#[derive(Debug)]
struct Member<'a> {
    model: &'a Model,
    /// Resizing as two matrices, `[1, 1, to, from]` for rows and `[1, 1, from, to]` for columns.
    resize: Option<[Tensor<4>; 2]>,
}

/// Why networks make no ensemble.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{first} has {classes} classes and {other} has {others}; surrogates must know the same classes")]
pub struct EnsembleError {
    first: String,
    classes: usize,
    other: String,
    others: usize,
}

impl<'a> Ensemble<'a> {
    /// At least one network, all on one device.
    ///
    /// # Errors
    /// If they know different numbers of classes.
    pub fn new(models: &[&'a Model], average: Average) -> Result<Self, EnsembleError> {
        let first = models[0];
        let member = |&model: &&'a Model| {
            if model.num_classes() != first.num_classes() {
                return Err(EnsembleError {
                    first: first.name().to_owned(),
                    classes: first.num_classes(),
                    other: model.name().to_owned(),
                    others: model.num_classes(),
                });
            }
            let (from, to) = (first.input_size(), model.input_size());
            let resize =
                (from != to).then(|| [matrix(from[0], to[0], model), matrix(from[1], to[1], model).transpose()]);
            Ok(Member { model, resize })
        };
        Ok(Self { members: models.iter().map(member).collect::<Result<_, _>>()?, average })
    }
}

/// Pillow's bicubic resizing of one axis, `[1, 1, to, from]`.
fn matrix(from: usize, to: usize, model: &Model) -> Tensor<4> {
    let unit: Vec<f32> = (0..from * from).map(|index| f32::from(u8::from(index / from == index % from))).collect();
    let values = resize_f32(&unit, (from, from), (to, from), Filter::Bicubic);
    Tensor::from_data(TensorData::new(values, [1, 1, to, from]), (model.device(), model.dtype()))
}

impl Member<'_> {
    fn logits(&self, pixels: Tensor<4>) -> Tensor<2> {
        let pixels = match &self.resize {
            None => pixels,
            Some([rows, columns]) => rows.clone().matmul(pixels).matmul(columns.clone()).clamp(0.0, 1.0),
        };
        self.model.forward(pixels).logits
    }
}

/// The mean of what `of_member` gives.
fn mean<const D: usize>(values: impl ExactSizeIterator<Item = Tensor<D>>) -> Tensor<D> {
    let count = values.len();
    let sum = values.reduce(|sum, value| sum + value).expect("an ensemble has a member");
    sum.mul_scalar(1.0 / count as f64)
}

impl Surrogate for Ensemble<'_> {
    fn num_classes(&self) -> usize {
        self.members[0].model.num_classes()
    }

    fn logits(&self, pixels: Tensor<4>) -> Tensor<2> {
        let logits = self.members.iter().map(|member| member.logits(pixels.clone()));
        match self.average {
            Average::Probabilities => mean(logits.map(|logits| activation::softmax(logits, 1))).log(),
            Average::Logits | Average::Losses => mean(logits),
        }
    }

    fn losses(&self, pixels: Tensor<4>, loss: &LossOf) -> (Tensor<2>, Tensor<1>) {
        if self.average != Average::Losses {
            let logits = self.logits(pixels);
            return (logits.clone(), loss(logits));
        }
        let logits: Vec<Tensor<2>> = self.members.iter().map(|member| member.logits(pixels.clone())).collect();
        let losses = mean(logits.iter().map(|logits| loss(logits.clone())));
        (mean(logits.into_iter()), losses)
    }

    fn placement(&self) -> (Device, DType) {
        self.members[0].model.placement()
    }
}
