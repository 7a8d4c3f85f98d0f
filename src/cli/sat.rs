//! `netkin sat`: the matrix of similarities by attack transferability.

use std::path::{Path, PathBuf};

use netkin_weights::ModelSpec;
use serde::Serialize;
use serde_json::Value;

use super::common::{Common, DataOptions, ModelOptions, print, print_json, report_skipped};
use super::{Failure, Outcome, attack, values};
use crate::images::Filter;
use crate::model::Crop;
use crate::runs::{Provenance, write_atomically};
use crate::similarity::sat::{self, NetworkRecord, Pair, Progress, SatConfig, SatRun, Timing};

/// Measure how alike networks are: attack each, and see which others are fooled
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG or NAME=WEIGHTS; at least two
    #[arg(required = true, num_args = 2..)]
    models: Vec<ModelSpec>,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    attack: attack::PgdOptions,
    /// What networks see of an image: shared (all the same field of view) or own (each its weights' crop)
    #[arg(long, value_name = "CROP", default_value = "shared", value_parser = crop)]
    crop: Crop,
    /// How an attacked image is resized for a network of another size: bicubic or bilinear
    #[arg(long, value_name = "FILTER", default_value = "bicubic", value_parser = filter)]
    transfer_interpolation: Filter,
    /// The lower bound of a score's percentage (ε_s)
    #[arg(long, value_name = "PERCENT", default_value = "0.01", value_parser = values::fraction)]
    epsilon_s: f64,
    /// Images attacked at once
    #[arg(long, value_name = "COUNT", default_value = "32", value_parser = values::positive)]
    batch: usize,
    /// Keep the adversarial images, so that networks that are added later need not have them made again
    #[arg(long)]
    keep_adversarial: bool,
    /// Keep the logits of clean images (4 bytes for each class, image and network), for ensembles
    #[arg(long)]
    keep_logits: bool,
    /// The run folder: finished work is kept here, and the same command goes on from it
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    options: ModelOptions,
}

/// All that is known of a run.
#[derive(Serialize)]
struct Document<'a> {
    netkin: &'static str,
    data: DataSection,
    attack: &'a Value,
    crop: &'a Value,
    transfer_interpolation: &'a Value,
    precision: &'a Value,
    models: Vec<ModelSection<'a>>,
    /// Model → images that it classifies correctly.
    clean: serde_json::Map<String, Value>,
    pairs: Vec<Pair>,
    /// The diagonal: each model attacked and judging itself.
    white_box: Vec<WhiteBox>,
    /// What made the predictions.
    made_by: Vec<MadeBy<'a>>,
}

#[derive(Serialize)]
struct DataSection {
    images: usize,
    skipped: Vec<String>,
    fingerprint: String,
}

#[derive(Serialize)]
struct ModelSection<'a> {
    name: &'a str,
    sha256: &'a str,
    preprocessing: &'a Value,
}

#[derive(Serialize)]
struct WhiteBox {
    model: String,
    n: usize,
    fooled: usize,
    sat: Option<f64>,
}

#[derive(Serialize)]
struct MadeBy<'a> {
    #[serde(flatten)]
    provenance: &'a Provenance,
    /// Units: one network's predictions on one chunk of images.
    units: usize,
}

impl<'a> Document<'a> {
    fn of(run: &'a SatRun) -> Self {
        let settings = &run.settings;
        let model = |network: &'a NetworkRecord| ModelSection {
            name: &network.name,
            sha256: &network.sha256,
            preprocessing: &network.preprocessing,
        };
        let itself = |index| {
            let Pair { a, n, fooled_ab, sat, .. } = run.pair(index, index);
            WhiteBox { model: a, n, fooled: fooled_ab, sat }
        };
        Self {
            netkin: env!("CARGO_PKG_VERSION"),
            data: DataSection {
                images: run.images,
                skipped: run.skipped.iter().map(|image| image.id.clone()).collect(),
                fingerprint: run.fingerprint.clone(),
            },
            attack: &settings["attack"]["pgd"],
            crop: &settings["crop"],
            transfer_interpolation: &settings["transfer_interpolation"],
            precision: &settings["precision"],
            models: run.networks.iter().map(model).collect(),
            clean: run.clean_by_name(),
            pairs: run.pairs(),
            white_box: (0..run.networks.len()).map(itself).collect(),
            made_by: run.made_by.iter().map(|(provenance, &units)| MadeBy { provenance, units }).collect(),
        }
    }
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let config = SatConfig {
            attack: self.attack.pgd()?,
            crop: self.crop,
            transfer_interpolation: self.transfer_interpolation,
            epsilon_s: self.epsilon_s,
            batch: self.batch,
            strict: self.data.strict,
            keep_adversarial: self.keep_adversarial,
            keep_logits: self.keep_logits,
        };
        if !(config.epsilon_s > 0.0 && config.epsilon_s <= 100.0) {
            return Err(format!(
                "--epsilon-s {} is out of range; it is a percentage above 0 and up to 100",
                config.epsilon_s
            )
            .into());
        }
        let dataset = self.data.open()?;
        let models = common.load(&self.models, self.options.precision)?;
        let bar = common.bar("images");
        let mut attacked_again = 0;
        let run = sat::run(&models, &dataset, &config, &self.run, |progress| match progress {
            Progress::Step { done, total, model } => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                bar.set_message(format!("attacked {model}"));
            }
            Progress::SmallerBatch { batch, model } => bar.suspend(|| {
                eprintln!(
                    "netkin: {} ran out of memory with {model}; going on with {batch} images at once",
                    common.device
                );
            }),
            Progress::Damaged(damage) => bar.suspend(|| eprintln!("netkin: {damage}")),
            Progress::AttackedAgain { images, .. } => attacked_again += images,
            Progress::Skipped(_) => {}
        })?;
        bar.finish_and_clear();
        if attacked_again > 0 {
            common.note(&format!(
                "{attacked_again} images were attacked again for networks that are new here; \
                 --keep-adversarial keeps adversarial images, which makes that needless"
            ));
        }

        let outcome = report(&run, &self.run, common)?;
        let Timing { total, attacks, predictions } = run.timing;
        common.note(&format!(
            "{:.1} s: {:.1} s in steps of attacks, {:.1} s in predictions, {:.1} % outside of the networks",
            total.as_secs_f64(),
            attacks.as_secs_f64(),
            predictions.as_secs_f64(),
            100.0 * run.timing.share_outside()
        ));
        Ok(outcome)
    }
}

/// Writes and prints the results of a finished run.
fn report(run: &SatRun, folder: &Path, common: &Common) -> Result<Outcome, Failure> {
    report_skipped(&run.skipped);
    let (document, matrix) = (Document::of(run), run.matrix());
    write_atomically(&folder.join("sat.csv"), matrix.to_csv().as_bytes())?;
    write_atomically(&folder.join("sat.json"), &serde_json::to_vec_pretty(&document)?)?;
    if common.json {
        print_json(&document)?;
    } else {
        print(&matrix.to_table())?;
        common.note(&format!("the scores are in {}", folder.join("sat.csv").display()));
    }
    let empty: Vec<&Pair> = document.pairs.iter().filter(|pair| pair.n == 0).collect();
    for pair in &empty {
        eprintln!("netkin: {} and {} classify no image both correctly (n = 0), so they have no score", pair.a, pair.b);
    }
    Ok(if run.skipped.is_empty() && empty.is_empty() { Outcome::Done } else { Outcome::FellShort })
}

fn crop(text: &str) -> Result<Crop, String> {
    match text {
        "shared" => Ok(Crop::Shared),
        "own" => Ok(Crop::Own),
        _ => Err("give shared or own".into()),
    }
}

pub fn filter(text: &str) -> Result<Filter, String> {
    match text {
        "bicubic" => Ok(Filter::Bicubic),
        "bilinear" => Ok(Filter::Bilinear),
        _ => Err("give bicubic or bilinear".into()),
    }
}
