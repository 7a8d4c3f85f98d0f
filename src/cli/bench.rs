//! `netkin bench`: how fast networks run here.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Distribution, Tensor};
use clap::ValueEnum;
use netkin_architectures::{Architecture, Entry, Taps};
use netkin_weights::Precision;
use serde::Serialize;

use super::common::{Common, ModelOptions, print, print_json};
use super::{Failure, Outcome, values};
use crate::model::cross_entropy;

/// Time networks (with random weights): milliseconds and images per second
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names of networks; * and ? stand for any characters
    #[arg(required = true)]
    models: Vec<String>,
    /// What to time; may be given several times
    #[arg(long, value_enum, default_values_t = [Pass::Forward, Pass::InputGrad])]
    pass: Vec<Pass>,
    /// Images at once
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = values::positive)]
    batch: usize,
    /// Timed repetitions, of which the median is told
    #[arg(long, value_name = "COUNT", default_value = "5", value_parser = values::positive)]
    repetitions: usize,
    #[command(flatten)]
    options: ModelOptions,
}

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Pass {
    /// Logits
    Forward,
    /// Logits and the gradient with respect to the pixels: one step of an attack
    InputGrad,
    /// Logits and all gradients in training mode
    Train,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    results: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    model: &'static str,
    pass: Pass,
    batch: usize,
    device: String,
    precision: String,
    median_ms: f64,
    images_per_second: f64,
    /// The most memory that the process held during the pass; on the CPU under Linux only.
    peak_bytes: Option<u64>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let mut entries = Vec::new();
        for pattern in &self.models {
            match netkin_architectures::find(pattern) {
                Ok(entry) => entries.push(entry),
                Err(_) => match netkin_architectures::matching(pattern) {
                    found if found.is_empty() => entries.push(super::known(pattern)?),
                    found => entries.extend(found),
                },
            }
        }
        let bar = common.bar("runs");
        bar.set_length((entries.len() * self.pass.len()) as u64);
        let mut results = Vec::new();
        for entry in entries {
            for &pass in &self.pass {
                bar.set_message(entry.name);
                results.push(self.time(common, entry, pass)?);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        if common.json {
            print_json(&Document {
                netkin: env!("CARGO_PKG_VERSION"),
                results,
            })?;
        } else {
            print(&table(&results))?;
        }
        Ok(Outcome::Done)
    }

    fn time(&self, common: &Common, entry: &'static Entry, pass: Pass) -> Result<Row, Failure> {
        let precision = self.options.precision;
        let device = common.device.open()?;
        let build = match pass {
            Pass::Train => device.clone().autodiff(),
            Pass::Forward | Pass::InputGrad => device.clone(),
        };
        let network = cast(entry.build(&build), precision);
        let [height, width] = entry.config.input_size();
        let images = Tensor::<4>::random(
            [self.batch, 3, height, width],
            Distribution::Uniform(0.0, 1.0),
            (&device, precision.dtype()),
        );
        let labels: Vec<usize> = (0..self.batch)
            .map(|index| index % entry.config.num_classes())
            .collect();
        let step = || -> Result<(), Failure> {
            match pass {
                Pass::Forward => drop(network.forward(images.clone(), &mut Taps::none()).logits),
                Pass::InputGrad => {
                    let images = images.clone().autodiff().require_grad();
                    let logits = network.forward(images.clone(), &mut Taps::none()).logits;
                    let mut gradients = cross_entropy(logits, &labels).sum().backward();
                    drop(images.grad_remove(&mut gradients));
                }
                Pass::Train => {
                    let logits = network
                        .forward(images.clone().autodiff(), &mut Taps::none())
                        .logits;
                    drop(cross_entropy(logits, &labels).sum().backward());
                }
            }
            device
                .sync()
                .map_err(|error| format!("the device failed: {error:?}"))?;
            Ok(())
        };
        step()?;
        reset_peak();
        let mut milliseconds = Vec::with_capacity(self.repetitions);
        for _ in 0..self.repetitions {
            let start = Instant::now();
            step()?;
            milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
        }
        milliseconds.sort_by(f64::total_cmp);
        let median_ms = milliseconds[milliseconds.len() / 2];
        let on_cpu = common.device == crate::device::DeviceName::Flex;
        Ok(Row {
            model: entry.name,
            pass,
            batch: self.batch,
            device: common.device.to_string(),
            precision: precision.to_string(),
            median_ms,
            images_per_second: self.batch as f64 / median_ms * 1e3,
            peak_bytes: if on_cpu { peak() } else { None },
        })
    }
}

fn cast<M: Module>(network: M, precision: Precision) -> M {
    struct Cast(burn::tensor::FloatDType);
    impl burn::module::ModuleMapper for Cast {
        fn map_float<const D: usize>(
            &mut self,
            parameter: burn::module::Param<Tensor<D>>,
        ) -> burn::module::Param<Tensor<D>> {
            let tracked = parameter.is_require_grad();
            parameter.map(|tensor| tensor.detach().cast(self.0).set_require_grad(tracked))
        }
    }
    match precision {
        Precision::F32 => network,
        other => network.map(&mut Cast(other.dtype().into())),
    }
}

/// The largest resident size since [`reset_peak`], in bytes; Linux tells.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn reset_peak() {
    // Where the system does not allow it, the peak is that of the whole program.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn table(rows: &[Row]) -> String {
    let width = rows
        .iter()
        .map(|row| row.model.len())
        .max()
        .unwrap_or(0)
        .max("model".len());
    let mut text = format!(
        "{:width$}  {:10}  {:>5}  {:>9}  {:>9}  {:>9}\n",
        "model", "pass", "batch", "ms", "images/s", "peak MiB"
    );
    for row in rows {
        let pass = row
            .pass
            .to_possible_value()
            .map_or(String::new(), |value| value.get_name().to_owned());
        let peak = row.peak_bytes.map_or("–".to_owned(), |bytes| {
            format!("{:.0}", bytes as f64 / 1048576.0)
        });
        text += &format!(
            "{:width$}  {pass:10}  {:>5}  {:>9.1}  {:>9.1}  {peak:>9}\n",
            row.model, row.batch, row.median_ms, row.images_per_second
        );
    }
    text
}
