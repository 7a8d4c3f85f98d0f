//! What scripts/attack_reference.py computes with, for tests: a tiny network, its images and the same random numbers.

use std::cell::RefCell;
use std::sync::Mutex;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::Value;

use super::host::Draws;
use super::{Bound, Norm, Surrogate, Targets};
use crate::model::{argmax, to_f64};
use crate::random::Random;

pub const SHAPE: [usize; 3] = [3, 8, 8];
const PIXELS: usize = 192;
const HIDDEN: usize = 16;
const CLASSES: usize = 10;

/// V tanh(W x + b) + c.
pub struct Tiny {
    dtype: DType,
    first: Tensor<3>,
    first_bias: Tensor<3>,
    second: Tensor<3>,
    second_bias: Tensor<3>,
    /// The fingerprint of every image that it was shown.
    pub seen: RefCell<Vec<f64>>,
    /// Whether it sees only so many levels of a pixel, so that its gradient is zero.
    pub levels: Option<f64>,
}

impl Tiny {
    pub fn new(dtype: DType) -> Self {
        let mut random = Random::of(&[0]);
        let mut weights = |scale: f64, outputs: usize, inputs: usize| {
            let values = (0..outputs * inputs).map(|_| scale * (2.0 * random.unit() - 1.0)).collect::<Vec<f64>>();
            let weights = TensorData::new(values, [1, outputs, inputs]);
            Tensor::<3>::from_data(weights, (&Device::flex(), dtype)).swap_dims(1, 2)
        };
        let first = weights(0.15, HIDDEN, PIXELS);
        let first_bias = weights(0.5, HIDDEN, 1);
        let second = weights(1.5, CLASSES, HIDDEN);
        let second_bias = weights(0.2, CLASSES, 1);
        Self { dtype, first, first_bias, second, second_bias, seen: RefCell::default(), levels: None }
    }

    /// Images of the script, each with the class that the network takes it for.
    pub fn targets(&self, seeds: std::ops::Range<u64>) -> Targets {
        let count = seeds.end as usize - seeds.start as usize;
        let values: Vec<f64> = seeds.clone().flat_map(image).collect();
        let data = TensorData::new(values, [count, 3, 8, 8]);
        let pixels = Tensor::<4>::from_data(data, (&Device::flex(), self.dtype));
        let labels = argmax(self.logits(pixels.clone()));
        let ids: Vec<String> = seeds.map(|seed| format!("{seed}.png")).collect();
        self.seen.borrow_mut().clear();
        Targets::new(pixels, &labels, &ids.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

impl Surrogate for Tiny {
    fn num_classes(&self) -> usize {
        CLASSES
    }

    fn logits(&self, pixels: Tensor<4>) -> Tensor<2> {
        let [batch, ..] = pixels.dims();
        let values = to_f64(pixels.clone().detach());
        self.seen.borrow_mut().extend(values.chunks_exact(PIXELS).map(fingerprint));
        let pixels = match self.levels {
            Some(levels) => pixels.mul_scalar(levels).round().div_scalar(levels),
            None => pixels,
        };
        // A product for each image, so that none's rounding depends on the others.
        let hidden = pixels.reshape([batch, 1, PIXELS]).matmul(self.first.clone()) + self.first_bias.clone();
        (hidden.tanh().matmul(self.second.clone()) + self.second_bias.clone()).reshape([batch, CLASSES])
    }

    fn placement(&self) -> (Device, DType) {
        (Device::flex(), self.dtype)
    }
}

/// Uniform pixels, a twelfth of them 0 and a twelfth 1.
fn image(seed: u64) -> Vec<f64> {
    let mut random = Random::of(&[1000 + seed]);
    (0..PIXELS).map(|_| (1.2 * random.unit() - 0.1).clamp(0.0, 1.0)).collect()
}

pub fn fingerprint(pixels: &[f64]) -> f64 {
    let mut random = Random::of(&[2]);
    pixels.iter().map(|pixel| pixel * random.unit()).sum()
}

/// The random numbers of a run of the script, one after another.
pub struct Recorded(Mutex<Random>);

impl Recorded {
    pub fn new(seed: u64) -> Self {
        Self::going_on(Random::of(&[seed]))
    }

    /// After some numbers were drawn.
    pub fn going_on(random: Random) -> Self {
        Self(Mutex::new(random))
    }
}

impl Draws for Recorded {
    fn uniform(&self, _: &str, _: u64, _: &str, count: usize) -> Vec<f64> {
        let mut random = self.0.lock().unwrap();
        (0..count).map(|_| 2.0 * random.unit() - 1.0).collect()
    }

    fn normal(&self, _: &str, _: u64, _: &str, count: usize) -> Vec<f64> {
        let mut random = self.0.lock().unwrap();
        let mut pair = || {
            let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
            let angle = std::f64::consts::TAU * random.unit();
            [radius * angle.cos(), radius * angle.sin()]
        };
        (0..count.div_ceil(2)).flat_map(|_| pair()).take(count).collect()
    }
}

/// What the script found.
pub fn fixture(part: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/attacks/autoattack.json")).unwrap();
    all[part].as_array().unwrap().clone()
}

/// The ball that a record of the script names.
pub fn bound(record: &Value) -> Bound {
    let (norm, eps) = match record["norm"].as_str().unwrap() {
        "Linf" => (Norm::Linf, 0.02),
        "L2" => (Norm::L2, 0.2),
        _ => (Norm::L1, 1.2),
    };
    Bound { norm, eps: record["eps"].as_f64().unwrap_or(eps) }
}

pub fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// Whether values are the script's up to rounding.
#[track_caller]
pub fn assert_near(values: &[f64], expected: &[f64], what: &str) {
    assert_within(1e-9, values, expected, what);
}

/// Whether values differ from the script's by so much at most.
#[track_caller]
pub fn assert_within(tolerance: f64, values: &[f64], expected: &[f64], what: &str) {
    assert_eq!(values.len(), expected.len(), "{what}");
    for (value, expected) in values.iter().zip(expected) {
        assert!((value - expected).abs() <= tolerance, "{what}: {value} instead of {expected}");
    }
}
