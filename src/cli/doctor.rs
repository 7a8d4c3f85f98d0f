//! `netkin doctor`: whether networks compute here what they should.

use std::time::Instant;

use serde::Serialize;

use super::common::{Common, ModelOptions, print, print_json};
use super::{Failure, Outcome, values};
use crate::doctor::{Bounds, Doctor, Finding};

/// Check that networks (with drawn weights) compute what they should on this machine
///
/// Each network's logits, features and input gradient are compared with double precision on the CPU, and that gradient with
/// finite differences; memory is watched over many steps; on the CPU, an image must give the same bytes alone and in a batch.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Networks: names, parts of names with * and ? for any characters, @paper69, @demo or @FILE [default: all]
    models: Vec<String>,
    /// Height and width of the images, for networks that take any
    #[arg(long, value_name = "PIXELS", default_value = "96", value_parser = size)]
    size: usize,
    /// Steps over which memory is watched
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = values::positive)]
    steps: usize,
    #[command(flatten)]
    options: ModelOptions,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    device: String,
    precision: String,
    steps: usize,
    bounds: Bounds,
    results: Vec<Finding>,
    failed: usize,
    seconds: f64,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let entries =
            if self.models.is_empty() { netkin_architectures::matching("*") } else { super::chosen(&self.models)? };
        let doctor = Doctor {
            device: common.device.open()?,
            precision: self.options.precision,
            size: self.size,
            steps: self.steps,
        };
        doctor.precision.check(&doctor.device)?;
        let start = Instant::now();
        let width = entries.iter().map(|entry| entry.name.len()).max();
        let width = width.unwrap_or(0).max("network".len());
        if !common.json {
            print(&header(width))?;
        }
        let bar = common.bar("networks");
        bar.set_length(entries.len() as u64);
        let mut results = Vec::new();
        for entry in entries {
            bar.set_message(entry.name);
            let finding = doctor.examine(entry);
            if !common.json {
                bar.suspend(|| print(&line(&finding, width)))?;
            }
            results.push(finding);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let failed = results.iter().filter(|finding| !finding.ok).count();
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            device: common.device.to_string(),
            precision: doctor.precision.to_string(),
            steps: doctor.steps,
            bounds: Bounds::of(doctor.precision, &doctor.device),
            failed,
            seconds: start.elapsed().as_secs_f64(),
            results,
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&format!(
                "{} networks on {} in {}, {:.0} s: {}\n",
                document.results.len(),
                document.device,
                document.precision,
                document.seconds,
                match failed {
                    0 => "all well".to_owned(),
                    _ => format!("{failed} not well"),
                }
            ))?;
        }
        Ok(match failed {
            0 => Outcome::Done,
            _ => Outcome::FellShort,
        })
    }
}

/// Networks halve the image up to five times, so smaller ones would vanish.
fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size >= 32 => Ok(size),
        _ => Err("give a whole number of at least 32".into()),
    }
}

fn header(width: usize) -> String {
    format!(
        "{:width$}  {:6}  {:>8}  {:>8}  {:>8}  {:>8}  {:>15}  {:>7}  {:>6}\n",
        "network", "", "logits", "features", "signs", "slope", "memory, MiB", "alone", "s"
    )
}

fn line(finding: &Finding, width: usize) -> String {
    let verdict = if finding.ok { "ok" } else { "FAILED" };
    let mut text = format!("{:width$}  {verdict:6}", finding.model);
    if let Some(measured) = &finding.measured {
        let mebibytes = |bytes: u64| bytes as f64 / 1048576.0;
        let memory = measured
            .memory
            .map_or("–".to_owned(), |[before, after]| format!("{:.0} → {:.0}", mebibytes(before), mebibytes(after)));
        let alone = match measured.alone {
            Some(0.0) => "same".to_owned(),
            Some(difference) => format!("{difference:.1e}"),
            None => "–".to_owned(),
        };
        text += &format!(
            "  {:>8.1e}  {:>8.1e}  {:>7.3}%  {:>8.1e}  {memory:>15}  {alone:>7}",
            measured.logits,
            measured.features,
            100.0 * measured.signs,
            measured.slope,
        );
    }
    text += &format!("  {:>6.1}\n", finding.seconds);
    for failure in &finding.failures {
        text += &format!("{:width$}  {failure}\n", "");
    }
    text
}
