//! Distillation: a student learns from a teacher's answers beside the labels.
//!
//! | kind | what the student is to do | source |
//! |---|---|---|
//! | hard | give the class that the teacher finds most probable: cross-entropy with its argmax | Touvron et al., *Training data-efficient image transformers & distillation through attention* (DeiT, arXiv 2012.12877), equation 3 |
//! | soft | give the teacher's probabilities: the Kullback–Leibler divergence at a temperature | Hinton, Vinyals & Dean, *Distilling the Knowledge in a Neural Network* (arXiv 1503.02531); DeiT, equation 2 |
//!
//! The loss is (1 − α) · cross-entropy with the labels + α · distillation, as in DeiT's code (`losses.py`). The teacher is frozen, in
//! evaluation mode, and sees the very batch that the student sees, augmented and mixed, at its own size and with its own normalisation.
//!
//! A student with a distillation token learns from the labels by its class token's head and from the teacher by the other one, and
//! answers with the mean of both. One without learns from both by its only head.

use std::ops::RangeInclusive;

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::reference::outputs;
use super::{Losses, Objective, Student, TrainingBatch, cross_entropy};
use crate::model::Model;
use crate::training::TrainingError;

/// The table `[distillation]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The teacher with its weights: `NAME`, `NAME.TAG` or `NAME=FILE`.
    pub teacher: String,
    /// What is learnt of it.
    pub kind: Kind,
    /// α, the share of the loss that is the teacher's, 0 to 1.
    pub alpha: f64,
    /// What logits of both are divided by before soft distillation compares them, 0.01 to 100.
    pub temperature: f64,
    /// Over what soft distillation takes the mean.
    pub reduction: Reduction,
}

/// What is learnt of a teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing.
    None,
    /// Its most probable class.
    Hard,
    /// Its probabilities.
    Soft,
}

/// Over what soft distillation takes the mean of Σ p·(ln p − ln q).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// Over images and classes: DeiT divides by `numel`, so that its α is a thousand times smaller on ImageNet than it seems.
    Deit,
    /// Over images, as Hinton et al. have it.
    BatchMean,
}

impl Default for Options {
    /// Hard distillation with DeiT's α, of no teacher.
    fn default() -> Self {
        Self { teacher: String::new(), kind: Kind::Hard, alpha: 0.5, temperature: 1.0, reduction: Reduction::Deit }
    }
}

/// Beyond, the two distributions are so much alike that the square of the temperature multiplies little but rounding, or so far apart that
/// its square leaves nothing.
const TEMPERATURES: RangeInclusive<f64> = 0.01..=100.0;

impl Options {
    /// Checks the ranges.
    ///
    /// # Errors
    /// If a number is out of its range, or no teacher is named where one is to be learnt from.
    pub fn check(&self) -> Result<(), TrainingError> {
        if self.kind != Kind::None && self.teacher.is_empty() {
            return Err(TrainingError::NoTeacher);
        }
        let wrong = |option, value: f64, range| Err(TrainingError::Option { option, value: value.to_string(), range });
        if !(0.0..=1.0).contains(&self.alpha) {
            return wrong("distillation.alpha", self.alpha, "0 to 1");
        }
        if !TEMPERATURES.contains(&self.temperature) {
            return wrong("distillation.temperature", self.temperature, "from 0.01 to 100");
        }
        Ok(())
    }
}

/// Learning from labels and a teacher.
#[derive(Debug)]
pub struct Distillation {
    teacher: Model,
    options: Options,
}

impl Distillation {
    /// By a teacher that tells as many classes apart as the student, `classes`; it is loaded where the student trains.
    ///
    /// # Errors
    /// If it tells another number of classes apart, or an option is out of its range.
    pub fn new(teacher: Model, options: Options, classes: usize) -> Result<Self, TrainingError> {
        options.check()?;
        let has = teacher.num_classes();
        if has != classes {
            return Err(TrainingError::TeacherClasses { teacher: teacher.name().to_owned(), has, student: classes });
        }
        Ok(Self { teacher, options })
    }
}

impl Objective for Distillation {
    fn losses(&self, student: &Student, batch: &TrainingBatch) -> Losses {
        let Options { kind, alpha, temperature, reduction, .. } = self.options;
        let (class, distillation) = student.forward_heads(batch.pixels.clone());
        let (class, taught, logits) = match distillation {
            None => (class.logits.clone(), class.logits.clone(), class.logits),
            Some(distillation) => {
                let mean = (class.logits.clone() + distillation.logits.clone()).mul_scalar(0.5);
                (class.logits, distillation.logits, mean)
            }
        };
        let labels = cross_entropy(class, batch.targets.clone());
        if kind == Kind::None {
            return Losses { total: labels.clone(), logits, parts: vec![("labels", labels)] };
        }
        let teacher = outputs(&self.teacher, &batch.pixels).logits.cast(taught.dtype());
        let teacher = match kind {
            Kind::Soft => soft(taught, teacher, temperature, reduction),
            Kind::Hard | Kind::None => hard(taught, teacher),
        };
        let total = labels.clone().mul_scalar(1.0 - alpha) + teacher.clone().mul_scalar(alpha);
        Losses { total, logits, parts: vec![("labels", labels), ("teacher", teacher)] }
    }

    fn settings(&self) -> Value {
        let Options { kind, alpha, temperature, reduction, .. } = self.options;
        json!({
            "objective": "distillation",
            "teacher": self.teacher.name(),
            "teacher sha256": self.teacher.sha256(),
            "kind": kind,
            "alpha": alpha,
            "temperature": temperature,
            "reduction": reduction,
        })
    }
}

/// The cross-entropy of the student's logits with the teacher's most probable class, the mean over the images: `[batch, class]`
/// both → `[1]`. The teacher's are constants.
pub fn hard(student: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
    let classes = teacher.inner().argmax(1);
    activation::log_softmax(student, 1).gather(1, classes).mean().neg()
}

/// T² · Σ p·(ln p − ln q), the mean as `reduction` says, where p and q are the teacher's and the student's probabilities of logits
/// divided by the temperature T: `[batch, class]` both → `[1]`. The teacher's are constants.
pub fn soft(student: Tensor<2>, teacher: Tensor<2>, temperature: f64, reduction: Reduction) -> Tensor<1> {
    let [images, classes] = student.dims();
    let count = match reduction {
        Reduction::Deit => images * classes,
        Reduction::BatchMean => images,
    };
    let ours = activation::log_softmax(student.mul_scalar(1.0 / temperature), 1);
    let theirs = activation::log_softmax(teacher.inner().div_scalar(temperature), 1);
    let (probability, learnt) = (theirs.clone().exp(), ours.clone().exp());
    // Both sum to 1, so their difference adds nothing but what rounding has left out: in f32 the divergence of nearly equal distributions
    // would drown in it.
    let divergence = (probability.clone() * (theirs - ours) + (learnt - probability)).sum();
    divergence.mul_scalar(temperature * temperature / count as f64)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};
    use netkin_weights::{HubConfig, Precision};

    use super::*;
    use crate::model::to_f64;
    use crate::similarity::features::tests::drawn;

    const BATCH: usize = 6;
    const CLASSES: usize = 10;

    /// As scripts/distillation_reference.py draws them.
    fn logits(seed: u64, dtype: DType) -> Tensor<2> {
        let values: Vec<f64> = drawn(seed, BATCH * CLASSES).into_iter().map(|value| 8.0 * value).collect();
        Tensor::from_data(TensorData::new(values, [BATCH, CLASSES]), (&Device::flex(), dtype))
    }

    #[track_caller]
    fn assert_near(ours: &[f64], theirs: &[f64], tolerance: f64) {
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{a} beside {b}");
        }
    }

    fn numbers(value: &Value) -> Vec<f64> {
        serde_json::from_value(value.clone()).unwrap()
    }

    /// DeiT's `DistillationLoss` in PyTorch: the loss, and its gradient to the logits of each head.
    #[test]
    fn losses_and_gradients_are_those_of_deit() {
        let reference: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/training/distillation.json")).unwrap();
        let cases = reference["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 10);
        for case in cases {
            let number = |name: &str| case[name].as_f64().unwrap();
            for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-6)] {
                let heads = case["heads"].as_u64().unwrap();
                let heads: Vec<Tensor<2>> =
                    (0..heads).map(|head| logits(1 + head, dtype).autodiff().require_grad()).collect();
                let (class, taught) = (heads[0].clone(), heads[heads.len() - 1].clone());
                let teacher = logits(3, dtype);
                let targets = activation::softmax(logits(4, dtype), 1);
                let labels = cross_entropy(class, targets);
                let distilled = match case["kind"].as_str().unwrap() {
                    "hard" => hard(taught, teacher),
                    _ => soft(taught, teacher, number("temperature"), Reduction::Deit),
                };
                let alpha = number("alpha");
                let total = labels.mul_scalar(1.0 - alpha) + distilled.mul_scalar(alpha);
                let mut gradients = total.clone().backward();
                assert_near(&to_f64(total.inner()), &[number("total")], tolerance);
                for (head, theirs) in heads.iter().zip(case["gradients"].as_array().unwrap()) {
                    let ours = head.grad_remove(&mut gradients).unwrap();
                    assert_near(&to_f64(ours), &numbers(theirs), tolerance);
                }
            }
        }
    }

    /// Hinton's mean is over the images alone.
    #[test]
    fn the_reductions_differ_by_the_number_of_classes() {
        let loss = |reduction| to_f64(soft(logits(1, DType::F64), logits(3, DType::F64), 2.0, reduction))[0];
        assert_near(&[loss(Reduction::BatchMean)], &[loss(Reduction::Deit) * CLASSES as f64], 1e-12);
    }

    #[test]
    fn who_answers_as_the_teacher_has_learnt_all() {
        let teacher = logits(3, DType::F64);
        let moved = teacher.clone().add_scalar(5.0).autodiff().require_grad();
        let loss = soft(moved.clone(), teacher, 3.0, Reduction::BatchMean);
        let mut gradients = loss.clone().backward();
        assert_near(&to_f64(loss.inner()), &[0.0], 1e-12);
        assert_near(&to_f64(moved.grad_remove(&mut gradients).unwrap()), &[0.0; BATCH * CLASSES], 1e-12);
    }

    /// At the ends of its range, too, where single precision has the fewest digits of it.
    #[test]
    fn a_temperature_leaves_single_precision_enough_digits() {
        for temperature in [*TEMPERATURES.start(), 1.0, 10.0, *TEMPERATURES.end()] {
            for reduction in [Reduction::Deit, Reduction::BatchMean] {
                // Of a student that knows nothing, and of one that knows nearly all.
                for [own, taught] in [[1.0, 0.0], [0.125, 1.0]] {
                    let loss = |dtype| {
                        let teacher = logits(3, dtype);
                        let student = logits(1, dtype).mul_scalar(own) + teacher.clone().mul_scalar(taught);
                        to_f64(soft(student, teacher, temperature, reduction))[0]
                    };
                    let (single, double) = (loss(DType::F32), loss(DType::F64));
                    assert!((single - double).abs() < 3e-3 * double, "{temperature}: {single}, {double}");
                }
            }
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        let good = Options { teacher: "demo_resnet".into(), ..Options::default() };
        assert!(good.check().is_ok());
        let said = |options: Options| options.check().unwrap_err().to_string();
        assert!(said(Options::default()).contains("names no teacher"));
        assert!(Options { kind: Kind::None, ..Options::default() }.check().is_ok());
        assert!(said(Options { alpha: 1.5, ..good.clone() }).contains("distillation.alpha is 1.5"));
        for temperature in [0.0, 1e-3, 101.0, 1e300, f64::NAN] {
            let said = said(Options { temperature, ..good.clone() });
            assert!(said.contains("distillation.temperature is ") && said.contains("from 0.01 to 100"), "{said}");
        }
        let table = toml::to_string(&good).unwrap();
        assert_eq!(toml::from_str::<Options>(&table).unwrap(), good);
        let typed: Options =
            toml::from_str("teacher = \"demo_resnet\"\nkind = \"soft\"\nreduction = \"batch-mean\"").unwrap();
        assert_eq!((typed.kind, typed.reduction), (Kind::Soft, Reduction::BatchMean));
        assert!(toml::from_str::<Options>("tau = 3").is_err());
    }

    #[test]
    fn a_teacher_of_other_classes_is_refused() {
        let spec = "demo_resnet".parse().unwrap();
        let loaded = netkin_weights::load(&spec, Precision::F32, &Device::flex(), &HubConfig::nowhere(), &mut |_| {});
        let teacher = Model::new(loaded.unwrap(), Precision::F32, Device::flex());
        let options = Options { teacher: "demo_resnet".into(), ..Options::default() };
        let said = Distillation::new(teacher, options, 100).unwrap_err().to_string();
        assert!(said.contains("demo_resnet tells 10 classes apart and the student 100"), "{said}");
    }
}
