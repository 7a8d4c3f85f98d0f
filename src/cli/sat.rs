//! `netkin sat`: the matrix of similarities by attack transferability.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use indicatif::ProgressBar;
use netkin_weights::{ModelSet, ModelSpec, Precision};
use serde::Serialize;
use serde_json::{Value, json};

use super::attack_options::AttackOptions;
use super::common::{
    Common, DataOptions, ModelOptions, check_shape, load_again, print, print_json, report_skipped, say, say_doubts,
};
use super::{Failure, Outcome, stability, values};
use crate::analysis::stability::{ImagesNeeded, images_for};
use crate::images::{Dataset, Filter};
use crate::model::{Crop, Model};
use crate::runs::{self, Provenance, Shard, Trust, write_atomically};
use crate::similarity::sat::{
    self, Devices, NetworkRecord, Pair, Progress, SatConfig, SatError, SatFolder, SatRun, Timing,
};
use crate::similarity::{is_device_lost, is_out_of_memory};

/// Measure how alike networks are: attack each, and see which others are fooled
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    score: ScoreOptions,
    /// Images attacked at once
    #[arg(long, value_name = "COUNT", default_value = "32", value_parser = values::positive)]
    batch: usize,
    /// Also say how many images make the 95 % intervals of scores at most so wide, with this run as a pilot
    #[arg(long, value_name = "WIDTH", value_parser = stability::width, conflicts_with = "shard")]
    plan: Option<f64>,
    /// Do only one of N equal shares of the work, number I from 0, and write no results; auto takes both from SLURM, auto/N
    /// takes I from SLURM, HyperQueue or Kubernetes. The exit code is 75 if the same may succeed at another time
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,
}

/// What a run folder is made with.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// NAME, NAME.TAG, NAME=WEIGHTS, @paper69, @demo or @FILE; at least two models in all
    #[arg(required = true)]
    models: Vec<ModelSet>,
    #[command(flatten)]
    pub data: DataOptions,
    #[command(flatten)]
    attack: AttackOptions,
    /// What networks see of an image: shared (all the same field of view), own (each its weights' crop) or whole (all of it, stretched
    /// where it has another size) [default: shared, or whole for a file of images]
    #[arg(long, value_name = "CROP", value_parser = crop)]
    crop: Option<Crop>,
    /// How an attacked image is resized for a network of another size: bicubic or bilinear
    #[arg(long, value_name = "FILTER", default_value = "bicubic", value_parser = filter)]
    transfer_interpolation: Filter,
    /// Attack in another number format than that of --precision, in which the networks judge: f32, f64, f16 or bf16
    #[arg(long, value_name = "FORMAT")]
    attack_precision: Option<Precision>,
    /// Keep the adversarial images, so that networks that are added later need not have them made again
    #[arg(long)]
    keep_adversarial: bool,
    /// Keep the logits of clean images (4 bytes for each class, image and network), for ensembles
    #[arg(long)]
    keep_logits: bool,
    /// The run folder: finished work is kept here, and the same command goes on from it
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    #[command(flatten)]
    pub options: ModelOptions,
}

/// How scores follow from predictions.
#[derive(Debug, clap::Args)]
pub struct ScoreOptions {
    /// The lower bound of a score's percentage (ε_s)
    #[arg(long, value_name = "PERCENT", default_value = "0.01", value_parser = values::fraction)]
    epsilon_s: f64,
}

impl Settings {
    /// The networks, in the order of their names.
    ///
    /// # Errors
    /// If there are fewer than two, which have no pair.
    pub fn specs(&self) -> Result<Vec<ModelSpec>, Failure> {
        let specs = self.options.specs(&self.models);
        match &specs[..] {
            [one] => Err(format!("{one} is one network, and a similarity needs two: name another").into()),
            _ => Ok(specs),
        }
    }

    /// What they mean for the library, their ranges checked.
    pub fn config(&self, dataset: &Dataset) -> Result<SatConfig, Failure> {
        Ok(SatConfig {
            attack: self.attack.one(dataset)?,
            target: self.attack.target.map(|target| (target, self.attack.seed())),
            crop: self.crop.unwrap_or(if dataset.stack().is_some() { Crop::Whole } else { Crop::Shared }),
            transfer_interpolation: self.transfer_interpolation,
            strict: self.data.strict,
            input_size: self.options.input_size,
            keep_adversarial: self.keep_adversarial,
            keep_logits: self.keep_logits,
            attack_precision: self.attack_precision,
            ..SatConfig::default()
        })
    }
}

impl ScoreOptions {
    /// ε_s, its range checked.
    pub fn epsilon_s(&self) -> Result<f64, Failure> {
        let epsilon_s = self.epsilon_s;
        if epsilon_s > 0.0 && epsilon_s <= 100.0 {
            return Ok(epsilon_s);
        }
        Err(format!("--epsilon-s {epsilon_s} is out of range; it is a percentage above 0 and up to 100").into())
    }
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
    made_by: Vec<MadeBy>,
    /// How many images are needed, if that was asked for and is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<ImagesNeeded>,
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
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
}

#[derive(Serialize)]
struct WhiteBox {
    model: String,
    n: usize,
    fooled: usize,
    sat: Option<f64>,
}

/// What made how much of a run.
#[derive(Serialize)]
pub struct MadeBy {
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Units: one network's predictions on one chunk of images.
    pub units: usize,
}

/// As lists, for documents.
pub fn made_by(counts: &BTreeMap<Provenance, usize>) -> Vec<MadeBy> {
    counts.iter().map(|(provenance, &units)| MadeBy { provenance: provenance.clone(), units }).collect()
}

impl<'a> Document<'a> {
    fn of(run: &'a SatRun) -> Self {
        let settings = &run.settings;
        let model = |network: &'a NetworkRecord| ModelSection {
            name: &network.name,
            sha256: &network.sha256,
            preprocessing: &network.preprocessing,
            notes: &network.notes,
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
            attack: &settings["attack"],
            crop: &settings["crop"],
            transfer_interpolation: &settings["transfer_interpolation"],
            precision: &settings["precision"],
            models: run.networks.iter().map(model).collect(),
            clean: run.clean_by_name(),
            pairs: run.pairs(),
            white_box: (0..run.networks.len()).map(itself).collect(),
            made_by: made_by(&run.made_by),
            plan: None,
        }
    }
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let dataset = self.settings.data.open()?;
        let settings = self.settings.config(&dataset)?;
        let config = SatConfig { epsilon_s: self.score.epsilon_s()?, batch: self.batch, ..settings };
        tried_again_later(|| match self.shard {
            Some(shard) => self.do_share(shard, &dataset, &config, common),
            None => self.do_all(&dataset, &config, common),
        })
    }

    fn do_all(&self, dataset: &Dataset, config: &SatConfig, common: &Common) -> Result<Outcome, Failure> {
        let Settings { run: folder, options, .. } = &self.settings;
        let specs = self.settings.specs()?;
        let named = common.device.open_all()?;
        let models = common.load_on(&named[0].1, &specs, options.precision)?;
        models.iter().try_for_each(|model| check_shape(dataset, model, config.crop == Crop::Whole))?;
        say_doubts(dataset, models.iter().map(Model::num_classes));
        let teller = Teller::new(common);
        let load = |device: &Device| load_again(device, &specs, options.precision);
        let devices = Devices { named: &named, load: &load };
        let run = sat::run_on(&models, devices, dataset, config, folder, |progress| teller.tell(progress))?;
        teller.end();
        let outcome = report(&run, folder, self.plan, common)?;
        let Timing { total, attacks, predictions } = run.timing;
        common.note(&format!(
            "{:.1} s: {:.1} s in steps of attacks, {:.1} s in predictions, {:.1} % outside of the networks{}",
            total.as_secs_f64(),
            attacks.as_secs_f64(),
            predictions.as_secs_f64(),
            100.0 * run.timing.share_outside(),
            if named.len() > 1 { ", on average over the devices" } else { "" }
        ));
        Ok(outcome)
    }

    /// Skipped images are reported and no failure: they are skipped whoever tries.
    fn do_share(
        &self,
        shard: Shard,
        dataset: &Dataset,
        config: &SatConfig,
        common: &Common,
    ) -> Result<Outcome, Failure> {
        let Settings { run: path, options, .. } = &self.settings;
        let specs = self.settings.specs()?;
        let names: Vec<&str> = specs.iter().map(ModelSpec::name).collect();
        let planned = SatFolder::planned(&names, options.precision, dataset, config, path, Trust::List)?;
        let mut plan = planned.as_ref().map(|folder| folder.plan(shard)).transpose()?;
        let is_done = plan.as_ref().is_some_and(|plan| plan.missing() == 0);
        let teller = Teller::new(common);
        let (named, models, folder) = match planned.filter(|_| is_done) {
            Some(folder) => (Vec::new(), Vec::new(), folder),
            None => {
                let named = common.device.open_all()?;
                let models = common.load_on(&named[0].1, &specs, options.precision)?;
                models.iter().try_for_each(|model| check_shape(dataset, model, config.crop == Crop::Whole))?;
                say_doubts(dataset, models.iter().map(Model::num_classes));
                let networks = NetworkRecord::of_all(&models, config.crop);
                let folder = SatFolder::open(networks, dataset, config, path, Trust::List)?;
                plan = Some(folder.plan(shard)?);
                (named, models, folder)
            }
        };
        let plan = plan.expect("there is a plan for every folder");
        let load = |device: &Device| load_again(device, &specs, options.precision);
        let devices = Devices { named: &named, load: &load };
        folder.work(&models, devices, dataset, config, &plan, &mut |progress| teller.tell(progress))?;
        teller.end();
        let outcomes = folder.into_outcomes();
        let mut skipped = Vec::new();
        for shelf in &plan.shelves {
            skipped.extend(outcomes.skipped(shelf.index)?);
        }
        report_skipped(&skipped);
        let (total, missing) = (plan.total(), plan.missing());
        if common.json {
            print_json(&json!({
                "netkin": env!("CARGO_PKG_VERSION"),
                "shard": shard.to_string(),
                "total": total,
                "done_before": total - missing,
                "done_now": missing,
                "skipped": skipped.iter().map(|image| &image.id).collect::<Vec<_>>(),
            }))?;
        }
        common.note(&format!("share {shard} is done: {missing} of its {total} units of work now, the others before"));
        Ok(Outcome::Done)
    }
}

/// Does `work` and says whether, if it failed, the same may succeed at another time or on another machine.
pub fn tried_again_later(work: impl FnOnce() -> Result<Outcome, Failure>) -> Result<Outcome, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Err(failure)) if is_temporary(&*failure) => {
            say(&failure.to_string());
            say("this may succeed at another time; what was finished is kept");
            Ok(Outcome::TryAgain)
        }
        Ok(ended) => ended,
        Err(panic) if is_out_of_memory(&*panic) || is_device_lost(&*panic) => {
            say("the device failed; this may succeed at another time, or on another one");
            Ok(Outcome::TryAgain)
        }
        Err(panic) => resume_unwind(panic),
    }
}

/// Whether what is behind a failure passes.
fn is_temporary(failure: &(dyn std::error::Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(failure), |error| error.source());
    chain.any(|error| {
        error.downcast_ref::<std::io::Error>().is_some_and(runs::is_temporary)
            || matches!(
                error.downcast_ref::<SatError>(),
                // Incomplete at the end of a share: somebody removed what was done.
                Some(SatError::Devices { .. } | SatError::Incomplete { .. })
            )
    })
}

/// Tells people what a run tells.
struct Teller<'c> {
    common: &'c Common,
    bar: ProgressBar,
    attacked_again: AtomicUsize,
}

impl<'c> Teller<'c> {
    fn new(common: &'c Common) -> Self {
        Self { common, bar: common.bar("images"), attacked_again: AtomicUsize::new(0) }
    }

    fn tell(&self, progress: Progress) {
        let bar = &self.bar;
        match progress {
            Progress::Step { done, total, model } => {
                show_step(bar, done, total, model);
            }
            Progress::SmallerBatch { batch, device, model } => bar.suspend(|| {
                say(&format!("{device} ran out of memory with {model}; going on with {batch} images at once"));
            }),
            Progress::DeviceFailed { device, reason } => bar.suspend(|| {
                say(&format!("{device} failed ({reason}); the other devices go on with their parts"));
            }),
            Progress::Damaged(damage) => bar.suspend(|| say(&damage.to_string())),
            Progress::AttackedAgain { images, .. } => {
                self.attacked_again.fetch_add(images, Ordering::Relaxed);
            }
            Progress::Doubt { doubt, model } => {
                bar.suspend(|| say(&format!("warning: the attack of {model}: {doubt}")));
            }
            Progress::Skipped(_) => {}
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
        let images = self.attacked_again.load(Ordering::Relaxed);
        if images > 0 {
            self.common.note(&format!(
                "{images} images were attacked again for networks that are new here; \
                 --keep-adversarial keeps adversarial images, which makes that needless"
            ));
        }
    }
}

fn show_step(bar: &ProgressBar, done: usize, total: usize, model: &str) {
    bar.set_length(total as u64);
    bar.set_position(done as u64);
    bar.set_message(format!("attacked {model}"));
}

/// A run of which people see the bar alone.
pub fn run_quietly(
    models: &[Model],
    dataset: &Dataset,
    config: &SatConfig,
    folder: &Path,
    common: &Common,
) -> Result<SatRun, SatError> {
    let bar = common.bar("images");
    let run = sat::run(models, dataset, config, folder, |progress| {
        if let Progress::Step { done, total, model } = progress {
            show_step(&bar, done, total, model);
        }
    })?;
    bar.finish_and_clear();
    Ok(run)
}

/// Writes and prints the results of a finished run, and how many images are needed for intervals of a width, if one is given.
pub fn report(run: &SatRun, folder: &Path, width: Option<f64>, common: &Common) -> Result<Outcome, Failure> {
    report_skipped(&run.skipped);
    let (mut document, matrix) = (Document::of(run), run.matrix());
    write_atomically(&folder.join("sat.csv"), matrix.to_csv().as_bytes())?;
    write_atomically(&folder.join("sat.json"), &serde_json::to_vec_pretty(&document)?)?;
    document.plan = width.and_then(|width| images_for(run, width));
    if common.json {
        print_json(&document)?;
    } else {
        print(&matrix.to_table())?;
        if let Some(width) = width {
            print(&format!("\n{}", stability::in_words(document.plan.as_ref(), width)))?;
        }
        common.note(&format!("the scores are in {}", folder.join("sat.csv").display()));
    }
    let empty: Vec<&Pair> = document.pairs.iter().filter(|pair| pair.n == 0).collect();
    for pair in &empty {
        say(&format!("{} and {} classify no image both correctly (n = 0), so they have no score", pair.a, pair.b));
    }
    Ok(if run.skipped.is_empty() && empty.is_empty() { Outcome::Done } else { Outcome::FellShort })
}

fn shard(text: &str) -> Result<Shard, String> {
    Shard::parse(text, |name| std::env::var(name).ok()).map_err(|error| error.to_string())
}

pub fn crop(text: &str) -> Result<Crop, String> {
    match text {
        "shared" => Ok(Crop::Shared),
        "own" => Ok(Crop::Own),
        "whole" => Ok(Crop::Whole),
        _ => Err("give shared, own or whole".into()),
    }
}

pub fn filter(text: &str) -> Result<Filter, String> {
    match text {
        "bicubic" => Ok(Filter::Bicubic),
        "bilinear" => Ok(Filter::Bilinear),
        _ => Err("give bicubic or bilinear".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_which_a_device_failed_or_work_was_removed_may_succeed_at_another_time() {
        let failed = vec![("cuda:1".to_owned(), "device lost".to_owned())];
        let ended = tried_again_later(|| Err(SatError::Devices { devices: 2, failed }.into()));
        assert_eq!(ended.unwrap(), Outcome::TryAgain);
        let removed = SatError::Incomplete { folder: "run".into(), missing: 1, total: 2 };
        assert_eq!(tried_again_later(|| Err(removed.into())).unwrap(), Outcome::TryAgain);
        assert!(tried_again_later(|| Err(SatError::Twice("resnet50".to_owned()).into())).is_err());
    }
}
