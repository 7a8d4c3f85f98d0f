//! How long a network takes here: its passes as a whole, and the forward pass block by block.
//!
//! Weights and images are random, since time does not depend on them.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use clap::ValueEnum;
use netkin_architectures::{Architecture, Entry, Network, Taps};
use netkin_kernels::profile as kernels;
use netkin_weights::Precision;
use serde::{Deserialize, Serialize};

use crate::device::is_cpu;
use crate::memory;
use crate::model::{Cast, cross_entropy};

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// Logits
    Forward,
    /// Logits and the gradient with respect to the pixels: one step of an attack
    InputGrad,
    /// Logits and all gradients in training mode
    Train,
}

impl Pass {
    /// As it is written on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::InputGrad => "input-grad",
            Self::Train => "train",
        }
    }
}

/// A network on a device, with images.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Which network.
    pub entry: &'static Entry,
    /// Images at once, at least 1.
    pub batch: usize,
    /// Height and width of the images; the network must take them.
    pub size: [usize; 2],
    /// The number format of all computations.
    pub precision: Precision,
    /// Where to compute.
    pub device: Device,
    /// Timed repetitions, of which the median is told; at least 1.
    pub repetitions: usize,
}

/// What was measured of a pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The median of one pass, in milliseconds.
    pub median_ms: f64,
    /// The most memory that was held: by the process since it began (the CPU), or of the device (a GPU).
    pub peak_bytes: Option<u64>,
}

/// A stretch of the forward pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// timm's name of the block that ends it: `layer1.0`.
    pub name: String,
    /// The median, in milliseconds.
    pub ms: f64,
    /// Of all parts' time, 0 to 1.
    pub share: f64,
}

/// All calls of one operation on arrays of one shape, in one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationTime {
    /// The operation and the shapes of its first inputs (backward: of the gradient).
    pub name: String,
    /// Whether it is the way back.
    pub backward: bool,
    /// Calls in one pass.
    pub calls: usize,
    /// All calls of one pass together, in milliseconds; the mean over the repetitions.
    pub ms: f64,
    /// Of all operations' time, 0 to 1.
    pub share: f64,
    /// What all calls of one pass read and write at least: the arrays that they get, keep and give, each once.
    pub bytes: u64,
    /// Whether it is a product: a linear map, attention or a convolution.
    pub product: bool,
}

/// The kernels' operations in a pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operations {
    /// The whole pass, in milliseconds, with what is not one of these operations; the mean over the repetitions.
    pub pass_ms: f64,
    /// The longest first.
    pub times: Vec<OperationTime>,
}

impl Operations {
    /// Of the pass's time, 0 to 1, that in which no product runs.
    pub fn share_without_product(&self) -> f64 {
        let products: f64 = self.times.iter().filter(|time| time.product).map(|time| time.ms).sum();
        1.0 - products / self.pass_ms
    }

    /// What one pass reads and writes at least, and the part of it that is not products'.
    pub fn bytes(&self) -> [u64; 2] {
        let sum = |wanted: fn(&OperationTime) -> bool| {
            self.times.iter().filter(|time| wanted(time)).map(|time| time.bytes).sum()
        };
        [sum(|_| true), sum(|time| !time.product)]
    }
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
#[error("the device failed while {model} ran ({reason}); a smaller --batch may fit into its memory")]
pub struct SpeedError {
    model: &'static str,
    reason: String,
}

/// A GPU compiles and tunes kernels in its first passes; the CPU fills its caches.
fn warm_up(device: &Device) -> usize {
    if is_cpu(device) { 1 } else { 5 }
}

impl Setting {
    /// Times a pass.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(&self, pass: Pass) -> Result<Measured, SpeedError> {
        let step = self.step(pass);
        for _ in 0..warm_up(&self.device) {
            step()?;
        }
        let mut milliseconds = Vec::with_capacity(self.repetitions);
        for _ in 0..self.repetitions {
            let start = Instant::now();
            step()?;
            milliseconds.push(elapsed_ms(start));
        }
        Ok(Measured {
            median_ms: median(milliseconds),
            peak_bytes: if is_cpu(&self.device) { memory::peak() } else { memory::reserved(&self.device) },
        })
    }

    /// Times the kernels' operations in a pass; none where the kernels do not compute (on a GPU, or in
    /// f64 or f16).
    ///
    /// # Errors
    /// If the device fails.
    pub fn operations(&self, pass: Pass) -> Result<Operations, SpeedError> {
        let step = self.step(pass);
        for _ in 0..warm_up(&self.device) {
            step()?;
        }
        kernels::start();
        let start = Instant::now();
        for _ in 0..self.repetitions {
            step()?;
        }
        let pass_ms = elapsed_ms(start) / self.repetitions as f64;
        let records = kernels::finish();
        let total: f64 = records.iter().map(|record| record.time.as_secs_f64()).sum();
        let times = records
            .into_iter()
            .map(|record| OperationTime {
                name: record.operation,
                backward: record.pass == kernels::Pass::Backward,
                calls: record.calls / self.repetitions,
                ms: record.time.as_secs_f64() * 1e3 / self.repetitions as f64,
                share: record.time.as_secs_f64() / total,
                bytes: record.bytes / self.repetitions as u64,
                product: record.multiplies,
            })
            .collect();
        Ok(Operations { pass_ms, times })
    }

    /// One pass, to be run as often as wanted.
    fn step(&self, pass: Pass) -> impl Fn() -> Result<(), SpeedError> {
        let device = match pass {
            Pass::Train => self.device.clone().autodiff(),
            Pass::Forward | Pass::InputGrad => self.device.clone(),
        };
        let network = self.network(&device);
        let images = self.images();
        let classes = self.entry.config.num_classes();
        let labels: Vec<usize> = (0..self.batch).map(|index| index % classes).collect();
        let setting = self.clone();
        let products = self.precision.products_on(&self.device);
        move || {
            let forward = |images| products.within(|| network.forward(images, &mut Taps::none()).logits);
            match pass {
                Pass::Forward => drop(forward(images.clone())),
                Pass::InputGrad => {
                    let images = images.clone().autodiff().require_grad();
                    let loss = cross_entropy(forward(images.clone()), &labels).sum();
                    drop(images.grad_remove(&mut loss.backward()));
                }
                Pass::Train => {
                    let loss = cross_entropy(forward(images.clone().autodiff()), &labels).sum();
                    drop(loss.backward());
                }
            }
            setting.sync()
        }
    }

    /// Times the forward pass block by block: what lies between two [`Taps`]. The last part is the classifier.
    ///
    /// The device finishes each block before the next begins, so the parts can take longer together than the pass does.
    ///
    /// # Errors
    /// If the device fails.
    pub fn profile(&self) -> Result<Vec<Part>, SpeedError> {
        let network = self.network(&self.device);
        let images = self.images();
        let products = self.precision.products_on(&self.device);
        let once = || -> Result<Vec<(String, f64)>, SpeedError> {
            let mut parts = Vec::new();
            let mut failed = None;
            let mut start = Instant::now();
            let outputs = {
                let mut taps = Taps::observe(|name, _, x| {
                    if let Err(error) = self.sync() {
                        failed.get_or_insert(error);
                    }
                    parts.push((name.to_owned(), elapsed_ms(start)));
                    start = Instant::now();
                    x
                })
                .without_repeats();
                products.within(|| network.forward(images.clone(), &mut taps))
            };
            self.sync()?;
            parts.push(("classifier".to_owned(), elapsed_ms(start)));
            drop(outputs);
            failed.map_or(Ok(parts), Err)
        };
        for _ in 0..warm_up(&self.device) {
            once()?;
        }
        let runs = (0..self.repetitions).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
        let medians: Vec<(String, f64)> = (0..runs[0].len())
            .map(|part| {
                let times = runs.iter().map(|run| run[part].1).collect();
                (runs[0][part].0.clone(), median(times))
            })
            .collect();
        let total: f64 = medians.iter().map(|(_, ms)| ms).sum();
        Ok(medians.into_iter().map(|(name, ms)| Part { name, ms, share: ms / total }).collect())
    }

    fn network(&self, device: &Device) -> Network {
        let network = self.entry.build(device);
        match self.precision.held_on(device) {
            Precision::F32 => network,
            other => network.map(&mut Cast(other.dtype().into())),
        }
    }

    fn images(&self) -> Tensor<4> {
        let [height, width] = self.size;
        Tensor::random(
            [self.batch, 3, height, width],
            Distribution::Uniform(0.0, 1.0),
            (&self.device, self.precision.held_on(&self.device).dtype()),
        )
    }

    fn sync(&self) -> Result<(), SpeedError> {
        self.device.sync().map_err(|error| SpeedError { model: self.entry.name, reason: format!("{error:?}") })
    }
}

fn elapsed_ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// The middle one; of an even number, the slower of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_its_part() {
        let entry = netkin_architectures::find("demo_resnet").unwrap();
        let setting = Setting {
            entry,
            batch: 1,
            size: entry.config.input_size(),
            precision: Precision::F32,
            device: Device::flex(),
            repetitions: 3,
        };
        let parts = setting.profile().unwrap();
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let blocks = ["act1", "maxpool", "layer1.0", "layer2.0", "layer3.0", "layer4.0", "global_pool", "classifier"];
        assert_eq!(names, blocks);
        let all: f64 = parts.iter().map(|part| part.share).sum();
        assert!((all - 1.0).abs() < 1e-9);
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for pass in Pass::value_variants() {
            let value = pass.to_possible_value().unwrap();
            assert_eq!(value.get_name(), pass.name());
            assert_eq!(serde_json::to_value(pass).unwrap(), pass.name());
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![2.0, 1.0]), 2.0);
    }
}
