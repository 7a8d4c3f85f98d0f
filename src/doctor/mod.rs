//! Whether networks compute here what they should.
//!
//! Each network gets weights that are drawn from a seed, and is asked four questions:
//!
//! 1. Do logits, features and the gradient with respect to the pixels agree with those of double precision on the CPU, in
//!    which networks are compared with timm? See [`Bounds`].
//! 2. Is that gradient the slope of the loss? In double precision, its product with a random direction is compared with
//!    the central difference of the loss along it.
//! 3. Does memory stay flat over many steps of an attack?
//! 4. On the CPU: are the logits of an image the same, to the byte, alone and in a batch?

mod parameters;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use netkin_architectures::{Entry, InputRule};
use netkin_weights::{Loaded, Precision, Preprocessing, Source};
use serde::Serialize;

use crate::device::is_cpu;
use crate::memory;
use crate::model::{Model, cross_entropy, to_f64};

/// Seeds weights and images.
const SEED: u64 = 0;

/// Images in the comparisons with double precision.
const BATCH: usize = 2;

/// Images in the comparison of an image alone with the same one in a batch.
const BATCH_OF_ALONE: usize = 3;

/// Steps before memory is looked at for the first time.
const WARM_UP_STEPS: usize = 5;

/// The scale of the weights is chosen so that the features of two images differ by this share at least: where gates and
/// activations shrink what they let through, small weights would leave nothing of the image.
const LEAST_DIFFERENCE: f64 = 0.02;

/// And so that features change, relative to the pixels, at most so many times as much: many gates in a row would make of
/// rounding errors what no precision withstands.
const MOST_SENSITIVITY: f64 = 10.0;

/// And so that features stay far from where single precision ends: products of values in layer after layer grow faster than any
/// power.
const LARGEST_FEATURE: f64 = 1e6;

/// By how much the scale of the weights, 1 at first, is changed until all hold (half as much after each turn), and how
/// often.
const GAIN_STEP: f64 = 0.25;
const GAIN_TRIALS: usize = 10;

/// How far pixels move for the central difference, of which the nearest to the gradient counts. Its own error is the square
/// of the step, rounding adds about 1e-15 divided by the step, and the shorter it is the fewer kinks of ReLU and max-pooling
/// it crosses: one of a million units that switches on between the two points is seen.
const DIFFERENCE_STEPS: [f64; 3] = [1e-6, 1e-7, 1e-8];

/// How far the gradient's product with a direction may be from the central difference, relative to its typical size: the
/// kink of a single unit was seen to make 2e-4 of it even at the shortest step.
const SLOPE_BOUND: f64 = 1e-3;

/// How far an image's logits may be apart alone and in a batch: not at all.
const ALONE_BOUND: f64 = 0.0;

/// By how much memory may grow after the warm-up: a share of what is held, and what the allocator's heaps, one for each
/// thread, take until they have found their size.
const GROWTH_SHARE: f64 = 0.02;
const GROWTH_BYTES: u64 = 16 << 20;

/// How networks are examined.
#[derive(Debug, Clone)]
pub struct Doctor {
    /// Where they compute.
    pub device: Device,
    /// The number format of their computations.
    pub precision: Precision,
    /// Height and width of the images for networks that take any; others get their own size.
    pub size: usize,
    /// Steps over which memory is watched, at least 1.
    pub steps: usize,
}

/// How far a precision may be from double precision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bounds {
    /// ‖Δ‖/‖·‖ of the logits.
    pub logits: f64,
    /// ‖Δ‖/‖·‖ of the features.
    pub features: f64,
    /// The least share of pixels whose gradient has the same sign. Its norm says less: near the kinks of ReLU and
    /// max-pooling, rounding decides which way the gradient goes.
    pub signs: f64,
}

impl Bounds {
    /// For a precision. A GPU may compute products of f32 as TF32, which keeps 10 bits of the factors' mantissa, as f16 does.
    pub fn of(precision: Precision, device: &Device) -> Self {
        let (outputs, signs) = match precision {
            Precision::F64 => (1e-10, 0.9999),
            Precision::F32 if is_cpu(device) => (1e-4, 0.99),
            Precision::F32 | Precision::F16 => (2e-2, 0.9),
            Precision::BF16 => (1e-1, 0.8),
        };
        Self { logits: outputs, features: outputs, signs }
    }
}

/// What was found of a network.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The network's name.
    pub model: &'static str,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// What is wrong, a sentence each.
    pub failures: Vec<String>,
    /// The measurements; none if the network could not run.
    pub measured: Option<Measured>,
    /// How long it took.
    pub seconds: f64,
}

/// The numbers behind a finding.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Height and width of the images.
    pub size: [usize; 2],
    /// ‖Δ‖/‖·‖ of the logits to double precision.
    pub logits: f64,
    /// ‖Δ‖/‖·‖ of the features to double precision.
    pub features: f64,
    /// The share of pixels whose gradient has the sign that it has in double precision, 0 to 1.
    pub signs: f64,
    /// The difference between the gradient's product with a direction and the loss's central difference along it, relative
    /// to the typical size of such a product.
    pub slope: f64,
    /// Bytes held after the warm-up and after the steps: by the process (the CPU), or of the device.
    pub memory: Option<[u64; 2]>,
    /// ‖Δ‖/‖·‖ between an image's logits alone and in a batch, the largest of several images: 0 if they are the same bytes.
    /// Asked on the CPU only.
    pub alone: Option<f64>,
}

impl Doctor {
    /// Examines a network. A panic inside of it is a finding too.
    pub fn examine(&self, entry: &'static Entry) -> Finding {
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| self.measure(entry)));
        let (measured, failures) = match result {
            Ok(Ok(measured)) => {
                let failures = self.judge(&measured);
                (Some(measured), failures)
            }
            Ok(Err(failure)) => (None, vec![failure]),
            Err(panic) => (None, vec![format!("it panicked: {}", message(&*panic))]),
        };
        Finding {
            model: entry.name,
            ok: failures.is_empty(),
            failures,
            measured,
            seconds: start.elapsed().as_secs_f64(),
        }
    }

    /// Height and width of the images that a network gets.
    fn size(&self, entry: &Entry) -> [usize; 2] {
        if entry.config.input_rule() == InputRule::Any {
            entry.config.input_size().map(|own| own.min(self.size))
        } else {
            entry.config.input_size()
        }
    }

    fn measure(&self, entry: &'static Entry) -> Result<Measured, String> {
        let size = self.size(entry);
        let (reference, gain) = Reference::compute(entry, size)?;
        let model = model(entry, size, gain, self.precision, &self.device);
        let images = images(&model, BATCH);
        let labels = labels(entry, BATCH);

        let outputs = model.forward(images.clone());
        let (logits, features) = (to_f64(outputs.logits), to_f64(outputs.features));
        let loss = |logits| cross_entropy(logits, &labels).sum();
        let gradient = to_f64(model.input_gradient(images.clone(), loss).gradient);
        let same = gradient.iter().zip(&reference.gradient);
        let same = same.filter(|(a, b)| a.partial_cmp(&&0.0) == b.partial_cmp(&&0.0));

        Ok(Measured {
            size,
            logits: relative_difference(&logits, &reference.logits),
            features: relative_difference(&features, &reference.features),
            signs: same.count() as f64 / gradient.len() as f64,
            slope: reference.slope.error,
            memory: self.watch_memory(&model, images.narrow(0, 0, 1), &labels[..1]),
            alone: is_cpu(&self.device).then(|| difference_alone(&model)),
        })
    }

    /// What is held after the warm-up and after the steps, each the gradient of one image.
    fn watch_memory(&self, model: &Model, image: Tensor<4>, labels: &[usize]) -> Option<[u64; 2]> {
        let step = || {
            let loss = |logits| cross_entropy(logits, labels).sum();
            let gradient = model.input_gradient(image.clone(), loss).gradient;
            // A device works when its results are wanted.
            drop(gradient.into_data());
        };
        let held = || if is_cpu(&self.device) { memory::resident() } else { memory::reserved(&self.device) };
        // What earlier networks have left would hide what this one takes.
        crate::runtime::release_freed_memory();
        (0..WARM_UP_STEPS).for_each(|_| step());
        let before = held()?;
        (0..self.steps).for_each(|_| step());
        Some([before, held()?])
    }

    /// What of the measurements is out of bounds.
    fn judge(&self, measured: &Measured) -> Vec<String> {
        let bounds = Bounds::of(self.precision, &self.device);
        let mut failures = Vec::new();
        let mut at_most = |what: &str, value: f64, bound: f64| {
            if value.is_nan() || value > bound {
                failures.push(format!("{what} is {value:.1e}, above {bound:.0e}"));
            }
        };
        at_most("the distance of the logits to double precision", measured.logits, bounds.logits);
        at_most("the distance of the features to double precision", measured.features, bounds.features);
        at_most("the gradient's distance to finite differences", measured.slope, SLOPE_BOUND);
        if let Some(alone) = measured.alone {
            let what = "the difference of an image's logits alone and in a batch";
            at_most(what, alone, ALONE_BOUND);
        }
        if measured.signs < bounds.signs {
            failures.push(format!(
                "{:.2} % of the gradient's signs are those of double precision, below {} %",
                100.0 * measured.signs,
                100.0 * bounds.signs
            ));
        }
        if let Some([before, after]) = measured.memory {
            let allowed = (before as f64 * GROWTH_SHARE) as u64 + GROWTH_BYTES;
            if after > before + allowed {
                let mebibytes = |bytes: u64| bytes as f64 / 1048576.0;
                failures.push(format!(
                    "memory grew from {:.0} to {:.0} MiB in {} steps",
                    mebibytes(before),
                    mebibytes(after),
                    self.steps
                ));
            }
        }
        failures
    }
}

/// What a network gives in double precision on the CPU.
struct Reference {
    logits: Vec<f64>,
    features: Vec<f64>,
    gradient: Vec<f64>,
    slope: Slope,
}

impl Reference {
    /// With the scale of the weights that was chosen.
    fn compute(entry: &'static Entry, size: [usize; 2]) -> Result<(Self, f64), String> {
        let labels = labels(entry, BATCH);
        let (mut gain, mut step, mut last) = (1.0, GAIN_STEP, 0.0);
        // Up or down, and half as far after each turn.
        let mut turn = |direction: f64| {
            if last * direction < 0.0 {
                step /= 2.0;
            }
            last = direction;
            step * direction
        };
        for _ in 0..GAIN_TRIALS {
            let model = model(entry, size, gain, Precision::F64, &Device::flex());
            let images = images(&model, BATCH);
            let outputs = model.forward(images.clone());
            let features = to_f64(outputs.features);
            if !features.iter().all(|feature| feature.abs() <= LARGEST_FEATURE) {
                gain += turn(-1.0);
                continue;
            }
            let (one, other) = features.split_at(features.len() / BATCH);
            let enough = relative_difference(one, other) >= LEAST_DIFFERENCE;
            if !enough {
                gain += turn(1.0);
                continue;
            }
            let loss = |logits| cross_entropy(logits, &labels).sum();
            let gradient = to_f64(model.input_gradient(images.clone(), loss).gradient);
            let slope = Slope::measure(&model, &images, &labels, &gradient);
            if slope.sensitivity > MOST_SENSITIVITY {
                gain += turn(-1.0);
                continue;
            }
            let logits = to_f64(outputs.logits);
            return Ok((Self { logits, features, gradient, slope }, gain));
        }
        Err("no scale of the weights lets the features follow the image without following every rounding error".into())
    }
}

/// The loss's central difference along a random direction, and what else it tells.
struct Slope {
    /// How far ⟨gradient, direction⟩ is from (L(x + h·direction) − L(x − h·direction)) / 2h, relative to the larger of
    /// that and the typical size of such a product, ‖gradient‖·‖direction‖/√n.
    error: f64,
    /// The relative change of the features over that of the pixels.
    sensitivity: f64,
}

impl Slope {
    /// With the step of [`DIFFERENCE_STEPS`] that comes nearest.
    fn measure(model: &Model, images: &Tensor<4>, labels: &[usize], gradient: &[f64]) -> Self {
        let direction: Vec<f64> =
            parameters::uniform(SEED, "direction", gradient.len()).into_iter().map(f64::from).collect();
        let values = to_f64(images.clone());
        let product: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let typical = norm(gradient) * norm(&direction) / (gradient.len() as f64).sqrt();
        let at = |h: f64| {
            let moved: Vec<f64> =
                values.iter().zip(&direction).map(|(value, direction)| value + h * direction).collect();
            let data = TensorData::new(moved, images.dims());
            let pixels = Tensor::<4>::from_data(data, (model.device(), Precision::F64.dtype()));
            let outputs = model.forward(pixels);
            let loss = to_f64(cross_entropy(outputs.logits, labels));
            (loss.into_iter().sum::<f64>(), to_f64(outputs.features))
        };
        let mut slope = Self { error: f64::INFINITY, sensitivity: f64::INFINITY };
        for h in DIFFERENCE_STEPS {
            let ((loss_up, features_up), (loss_down, features_down)) = (at(h), at(-h));
            let difference = (loss_up - loss_down) / (2.0 * h);
            let error = (product - difference).abs() / difference.abs().max(typical);
            slope.error = slope.error.min(error);
            let of_features = relative_difference(&features_up, &features_down);
            let of_pixels = 2.0 * h * norm(&direction) / norm(&values);
            slope.sensitivity = slope.sensitivity.min(of_features / of_pixels);
            if slope.error <= SLOPE_BOUND {
                break;
            }
        }
        slope
    }
}

/// ‖Δ‖/‖·‖ between each image's logits alone and among [`BATCH_OF_ALONE`], the largest.
fn difference_alone(model: &Model) -> f64 {
    let images = images(model, BATCH_OF_ALONE);
    let together = model.forward(images.clone()).logits;
    let differences = (0..BATCH_OF_ALONE).map(|index| {
        let alone = model.forward(images.clone().narrow(0, index, 1)).logits;
        let in_batch = together.clone().narrow(0, index, 1);
        relative_difference(&to_f64(alone), &to_f64(in_batch))
    });
    differences
        .fold(0.0, |worst, difference| if difference > worst || difference.is_nan() { difference } else { worst })
}

/// A network with drawn weights, as it is attacked.
fn model(entry: &'static Entry, size: [usize; 2], gain: f64, precision: Precision, device: &Device) -> Model {
    let loaded = Loaded {
        name: entry.name.to_owned(),
        entry,
        network: parameters::drawn(entry, SEED, gain, precision.held_on(device), device),
        preprocessing: Preprocessing { input_size: size, ..Preprocessing::usual(entry) },
        num_classes: entry.config.num_classes(),
        sha256: String::new(),
        parameters: 0,
        notes: Vec::new(),
        source: Source::Embedded,
    };
    Model::new(loaded, precision, device.clone())
}

/// Noise around a colour of each image's own, in [0, 1), the same in every precision. Noise alone would look alike to a
/// network that takes the mean over the places.
fn images(model: &Model, count: usize) -> Tensor<4> {
    let [height, width] = model.input_size();
    let shape = [count, 3, height, width];
    let mut values = parameters::uniform(SEED, "pixels", shape.iter().product());
    let colours = parameters::uniform(SEED, "colours", 3 * count);
    for (plane, colour) in values.chunks_exact_mut(height * width).zip(colours) {
        for value in plane {
            *value = 0.5 + 0.25 * (colour + *value);
        }
    }
    model.pixels(values, shape)
}

fn labels(entry: &Entry, count: usize) -> Vec<usize> {
    (0..count).map(|index| (7 * index + 3) % entry.config.num_classes()).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn relative_difference(values: &[f64], reference: &[f64]) -> f64 {
    let difference: Vec<f64> = values.iter().zip(reference).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(reference)
}

/// The words of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it left no words")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doctor() -> Doctor {
        Doctor { device: Device::flex(), precision: Precision::F32, size: 96, steps: 1 }
    }

    #[test]
    fn what_is_out_of_bounds_is_said() {
        let good = Measured {
            size: [28, 28],
            logits: 1e-6,
            features: 1e-6,
            signs: 1.0,
            slope: 1e-8,
            memory: Some([100 << 20, 101 << 20]),
            alone: Some(0.0),
        };
        assert!(doctor().judge(&good).is_empty());
        let bad = Measured {
            logits: f64::NAN,
            features: 2e-4,
            signs: 0.98,
            slope: 1e-2,
            memory: Some([100 << 20, 119 << 20]),
            alone: Some(1e-7),
            ..good
        };
        let failures = doctor().judge(&bad);
        assert_eq!(failures.len(), 6, "{failures:?}");
    }

    /// The finite differences must notice a gradient that is wrong in a few pixels only.
    #[test]
    fn a_wrong_gradient_is_noticed() {
        let entry = netkin_architectures::find("demo_resnet").unwrap();
        let model = model(entry, [28, 28], 1.0, Precision::F64, &Device::flex());
        let (images, labels) = (images(&model, BATCH), labels(entry, BATCH));
        let loss = |logits| cross_entropy(logits, &labels).sum();
        let mut gradient = to_f64(model.input_gradient(images.clone(), loss).gradient);
        assert!(Slope::measure(&model, &images, &labels, &gradient).error < SLOPE_BOUND);
        gradient[100..120].fill(0.0);
        assert!(Slope::measure(&model, &images, &labels, &gradient).error > SLOPE_BOUND);
    }
}
