//! SAT: similarity by attack transferability.
//!
//! Hwang et al., *Similarity of Neural Architectures using Adversarial Attack Transferability* (arXiv 2210.11407, ECCV 2024):
//!
//! SAT(A,B) = ln max(ε_s, 100 · 1/(2·|X_AB|) · Σ_{x ∈ X_AB} [1(A(x_B) ≠ y) + 1(B(x_A) ≠ y)])
//!
//! where X_AB are the images that both networks classify correctly, and x_A the image attacked on A. An image that was
//! attacked at A's size is resized to B's. Two equal networks under a perfect attack score ln 100 ≈ 4.605.
//!
//! | part | what it does |
//! |---|---|
//! | [`score`](SatRun) | from predictions to scores |
//! | `units` | what is kept of a run in its [run folder](crate::runs), and under which keys |
//! | `work` | attacks and predictions: fills the folder |
//! | [`devices`](Devices) | divides that among several devices of one machine |
//! | [`outcomes`](Outcomes) | reads a finished folder, without any network |

mod devices;
mod outcomes;
mod score;
mod units;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netkin_weights::Precision;
use serde_json::json;

pub use devices::{Devices, Load};
pub use outcomes::{ChunkOutcomes, Outcomes};
pub use score::{Pair, SatRun};
pub use units::{CHUNK, NetworkRecord};

use crate::attacks::{Attack, AttackError, Doubt, Iterative, Target, check_target};
use crate::images::{Dataset, DatasetError, DecodeError, Filter, Skipped};
use crate::model::{Crop, Model};
use crate::runs::{Damage, Key, Manifest, ManifestError, Plan, RunError, RunFolder, Shard, Trust};
use crate::runtime::RuntimeError;
use units::Units;

/// How a SAT run is done.
#[derive(Debug, Clone)]
pub struct SatConfig {
    /// The attack.
    pub attack: Arc<dyn Attack>,
    /// What images are to be taken for, and what seeds random classes; without it, anything but their labels. An image whose label is
    /// the target is not changed. A judge is fooled, as without a target, if it takes an image for anything but its label.
    pub target: Option<(Target, u64)>,
    /// What networks see of an image.
    pub crop: Crop,
    /// How an attacked image is resized for a network of another size.
    pub transfer_interpolation: Filter,
    /// The lower bound of a score's percentage, ε_s.
    pub epsilon_s: f64,
    /// Images attacked at once, at least 1; scores do not depend on it but for rounding. A GPU that runs out of memory gets
    /// fewer.
    pub batch: usize,
    /// Whether an image that cannot be decoded ends the run.
    pub strict: bool,
    /// Height and width in pixels of the images that all networks were built for, if not each its weights' own: a run folder
    /// is for one or the other.
    pub input_size: Option<[usize; 2]>,
    /// Whether adversarial images are kept, so that networks that come later need not have them made again.
    pub keep_adversarial: bool,
    /// Whether the logits of clean images are kept, 4 bytes for each class, image and network.
    pub keep_logits: bool,
    /// The number format in which networks are attacked, if another than that in which they judge.
    pub attack_precision: Option<Precision>,
}

impl SatConfig {
    /// In which precision networks are attacked, if it is not this one, theirs.
    fn other_precision(&self, theirs: &str) -> Option<Precision> {
        self.attack_precision.filter(|precision| precision.to_string() != theirs)
    }
}

impl Default for SatConfig {
    fn default() -> Self {
        Self {
            attack: Arc::new(Iterative::default()),
            target: None,
            crop: Crop::Shared,
            transfer_interpolation: Filter::Bicubic,
            epsilon_s: 0.01,
            batch: CHUNK,
            strict: false,
            input_size: None,
            keep_adversarial: false,
            keep_logits: false,
            attack_precision: None,
        }
    }
}

/// What a run tells while it works.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// So much of the work is done; one step is one chunk of images attacked on one network.
    Step {
        /// Finished, those of earlier runs included.
        done: usize,
        /// All.
        total: usize,
        /// The network that was attacked.
        model: &'a str,
    },
    /// Units of an earlier run are damaged and done again.
    Damaged(&'a Damage),
    /// Images were attacked again for networks that came later, since their adversarial images were not kept.
    AttackedAgain {
        /// How many.
        images: usize,
        /// The network that was attacked.
        model: &'a str,
    },
    /// What an attack's results are to be doubted for.
    Doubt {
        /// The reason, and how many images show it.
        doubt: Doubt,
        /// The network that was attacked.
        model: &'a str,
    },
    /// An image was left out.
    Skipped(&'a Skipped),
    /// A device ran out of memory; from now on, it works on so many images at once.
    SmallerBatch {
        /// The new size.
        batch: usize,
        /// The device.
        device: &'a str,
        /// The network that did not fit.
        model: &'a str,
    },
    /// One of several devices failed, and does no more; the others go on with their parts.
    DeviceFailed {
        /// The device.
        device: &'a str,
        /// What was said.
        reason: &'a str,
    },
}

/// Where the time of a run went.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timing {
    /// The whole call.
    pub total: Duration,
    /// The steps of attacks; on several devices, their mean.
    pub attacks: Duration,
    /// Predictions, of clean and of attacked images; on several devices, their mean.
    pub predictions: Duration,
}

impl Timing {
    /// The share of the time in which no network worked, 0 to 1: hashing, decoding and resizing as far as they do not run
    /// beside the networks, transfers, files.
    pub fn share_outside(&self) -> f64 {
        let inside = (self.attacks + self.predictions).as_secs_f64();
        match self.total.as_secs_f64() {
            0.0 => 0.0,
            total => 1.0 - inside / total,
        }
    }
}

/// Why a run stopped. Finished units stay.
#[derive(Debug, thiserror::Error)]
pub enum SatError {
    /// A file of the data set cannot be read, or a label is too large for a network.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The attack is not defined for a network, or for what it is to reach.
    #[error(transparent)]
    Attack(#[from] AttackError),
    /// An image cannot be decoded, and the run is strict.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The run folder.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The images of the run folder.
    #[error(transparent)]
    Images(#[from] ManifestError),
    /// Two models have the same name.
    #[error("{0} is given twice; give each model once")]
    Twice(String),
    /// A network says more classes than are kept apart.
    #[error("{name} has {classes} classes; a run keeps classes apart up to {}", u16::MAX)]
    Classes {
        /// The network.
        name: String,
        /// Its classes.
        classes: usize,
    },
    /// An image is another than when the run was begun.
    #[error("{} has another content than when the run was begun; restore it, or give another folder as --run", path.display())]
    Changed {
        /// The image.
        path: PathBuf,
    },
    /// A network of the same name but other weights took part in the run.
    #[error("the run folder {} has {name} with weights of SHA-256 {}…, and now they are of {}… (or want other preprocessing); give the same weights, another name (NAME.TAG=WEIGHTS), or another folder as --run", folder.display(), start_of(there), start_of(now))]
    OtherWeights {
        /// The network.
        name: String,
        /// The run folder.
        folder: PathBuf,
        /// The hash of the weights in the folder.
        there: String,
        /// The hash of the weights now.
        now: String,
    },
    /// The weights cannot be loaded on another device.
    #[error(transparent)]
    Weights(#[from] netkin_weights::Error),
    /// The system gives no threads for another device.
    #[error(transparent)]
    Threads(#[from] RuntimeError),
    /// Of several devices, some were lost or had too little memory. The same may succeed at another time.
    #[error("{} of {devices} devices failed: {}{}", failed.len(), in_words(failed), others_of(*devices, failed))]
    Devices {
        /// How many worked.
        devices: usize,
        /// Those that failed, and what each said.
        failed: Vec<(String, String)>,
    },
    /// No network is recorded in the run folder.
    #[error("the run folder {} has no networks: its folder models/ is empty; run the command that made it again, or restore that folder", folder.display())]
    NoNetworks {
        /// The run folder.
        folder: PathBuf,
    },
    /// Some of the work is not done.
    #[error("{missing} of {total} units of work in {} are missing; run the command that makes them", folder.display())]
    Incomplete {
        /// The run folder.
        folder: PathBuf,
        /// Chunks of images attacked on one network.
        missing: usize,
        /// All of them.
        total: usize,
    },
    /// Judges saw different images: a part of a network's units was made again on a device that gives other predictions.
    #[error("the units in {} are of different attacks; delete that folder and run the same command again", shelf.display())]
    Disagree {
        /// The folder of the chunk's units.
        shelf: PathBuf,
    },
    /// Not one image could be decoded.
    #[error("none of the {0} images can be decoded; the first reason: {1}")]
    NoImages(usize, String),
}

/// The list of a run's images, if it is there; it must be of the images that the run's settings speak of.
fn list_of(folder: &RunFolder) -> Result<Option<Manifest>, RunError> {
    let Some(list) = Manifest::read(folder.path())? else { return Ok(None) };
    let settings = folder.settings();
    let (images, listed) = (&settings["images"], json!(list.images().len()));
    let reason = if !images.is_null() && *images != listed {
        format!("it lists {listed} images, and run.json says {images}")
    } else if settings["data"].as_str().is_some_and(|data| data != list.fingerprint()) {
        "its images or labels are not those of which run.json has the hash".to_owned()
    } else {
        return Ok(Some(list));
    };
    Err(RunError::Damaged { path: folder.path().join("images.csv"), reason })
}

fn start_of(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn in_words(failed: &[(String, String)]) -> String {
    let each: Vec<String> = failed.iter().map(|(device, reason)| format!("{device} ({reason})")).collect();
    each.join(", ")
}

fn others_of(devices: usize, failed: &[(String, String)]) -> &'static str {
    if failed.len() < devices { "; what the others had to do is done" } else { "" }
}

/// Attacks every model and shows the results to all of them, computing only what `folder` does not hold yet.
///
/// # Errors
/// [`SatError`]; what was finished is kept, and the same call goes on from there.
pub fn run(
    models: &[Model],
    dataset: &Dataset,
    config: &SatConfig,
    folder: &Path,
    progress: impl FnMut(Progress) + Send,
) -> Result<SatRun, SatError> {
    run_on(models, Devices::alone(), dataset, config, folder, progress)
}

/// As [`run`], on several devices at once, which give the same units as one of them. `models` are on the first.
///
/// # Errors
/// As [`run`]. Where a device is lost or has too little memory, the others go on with their parts, and then
/// [`SatError::Devices`] is the end.
///
/// # Panics
/// As [`SatFolder::work`].
pub fn run_on(
    models: &[Model],
    devices: Devices,
    dataset: &Dataset,
    config: &SatConfig,
    folder: &Path,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<SatRun, SatError> {
    let start = Instant::now();
    let folder = SatFolder::open(NetworkRecord::of_all(models, config.crop), dataset, config, folder, Trust::Files)?;
    let timing = folder.work(models, devices, dataset, config, &folder.plan(Shard::WHOLE)?, &mut progress)?;
    let mut run = folder.into_outcomes().collect(config.epsilon_s)?;
    for skipped in &run.skipped {
        progress(Progress::Skipped(skipped));
    }
    run.timing = Timing { total: start.elapsed(), ..timing };
    Ok(run)
}

/// A run folder that fits networks, images and settings: what [`run`] is made of, for those who divide a run among
/// processes.
#[derive(Debug)]
pub struct SatFolder {
    folder: RunFolder,
    manifest: Manifest,
    units: Units,
}

impl SatFolder {
    /// Opens or makes it, with a list of the images and a record of each network.
    ///
    /// # Errors
    /// If the folder was made with other images, settings, or other weights of a network; or networks and labels do not fit.
    pub fn open(
        networks: Vec<NetworkRecord>,
        dataset: &Dataset,
        config: &SatConfig,
        folder: &Path,
        trust: Trust,
    ) -> Result<Self, SatError> {
        for (index, NetworkRecord { name, num_classes, .. }) in networks.iter().enumerate() {
            if networks[..index].iter().any(|other| other.name == *name) {
                return Err(SatError::Twice(name.clone()));
            }
            if *num_classes > usize::from(u16::MAX) {
                return Err(SatError::Classes { name: name.clone(), classes: *num_classes });
            }
            dataset.check_labels(*num_classes)?;
            check_target(&*config.attack, name, *num_classes, config.target.map(|(target, _)| target))?;
        }
        if folder.join("run.json").exists() {
            list_of(&RunFolder::existing(folder)?)?;
        }
        let kept = Manifest::of_run(folder, dataset, trust)?;
        let is_kept = kept.is_some();
        let manifest = match kept {
            Some(manifest) => manifest,
            None => Manifest::new(dataset)?,
        };
        // Another attack than the same in the networks' own precision.
        let mut attack = config.attack.settings();
        if let Some(precision) = networks.first().and_then(|network| config.other_precision(&network.precision)) {
            attack["precision"] = json!(precision.to_string());
        }
        if let Some((target, _)) = config.target {
            attack["target"] = json!(target.to_string());
        }
        let settings = json!({
            "protocol": units::PROTOCOL,
            "data": manifest.fingerprint(),
            "images": dataset.samples.len(),
            "attack_key": Key::of(&attack),
            "attack": attack,
            "crop": config.crop,
            "input_size": config.input_size,
            "transfer_interpolation": config.transfer_interpolation.name(),
            "precision": networks.first().map(|network| &network.precision),
        });
        let folder = RunFolder::open(folder, &settings)?;
        if !is_kept {
            manifest.keep(folder.path())?;
        }
        let known: Vec<NetworkRecord> = folder.records(units::NETWORKS)?;
        for network in &networks {
            if let Some(other) = known.iter().find(|other| other.name == network.name && other.key != network.key) {
                return Err(SatError::OtherWeights {
                    name: network.name.clone(),
                    folder: folder.path().to_owned(),
                    there: other.sha256.clone(),
                    now: network.sha256.clone(),
                });
            }
            folder.keep_record(units::NETWORKS, &network.name, network.key, network)?;
        }
        let units = Units::new(networks, &manifest, folder.settings())?.keeping(config);
        Ok(Self { folder, manifest, units })
    }

    /// As [`Self::open`] with the networks of these names in this precision that the folder has records of, so that none need
    /// be loaded; none if it has not all of them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn planned(
        names: &[&str],
        precision: Precision,
        dataset: &Dataset,
        config: &SatConfig,
        folder: &Path,
        trust: Trust,
    ) -> Result<Option<Self>, SatError> {
        if !folder.join("run.json").exists() {
            return Ok(None);
        }
        let known: Vec<NetworkRecord> = RunFolder::existing(folder)?.records(units::NETWORKS)?;
        let is_it =
            |network: &&NetworkRecord, name: &str| network.name == name && network.precision == precision.to_string();
        let find = |name: &&str| known.iter().find(|network| is_it(network, name)).cloned();
        match names.iter().map(find).collect() {
            None => Ok(None),
            Some(networks) => Self::open(networks, dataset, config, folder, trust).map(Some),
        }
    }

    /// What is done and what is missing of a share.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn plan(&self, shard: Shard) -> Result<Plan, SatError> {
        Ok(Plan::of(&self.folder, &self.units, shard)?)
    }

    /// Does what a plan says is missing. `models` are the networks that the folder was opened with, in that order, on the first
    /// of `devices`; where nothing is missing they are not asked for anything, and may be none.
    ///
    /// # Errors
    /// [`SatError`]; what was finished is kept. If one of several devices is lost or has too little memory, the others do their
    /// parts before this returns; after any other error they begin no other group of images.
    ///
    /// # Panics
    /// As backends do when the only device fails; of several, once the others have done their parts, if it is neither lost nor
    /// out of memory.
    pub fn work(
        &self,
        models: &[Model],
        devices: Devices,
        dataset: &Dataset,
        config: &SatConfig,
        plan: &Plan,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<Timing, SatError> {
        for damage in plan.damaged() {
            progress(Progress::Damaged(damage));
        }
        plan.tidy(&self.folder, &self.units)?;
        if plan.missing() == 0 {
            return Ok(Timing::default());
        }
        if let (Some(precision), Some(model)) = (config.attack_precision, models.first()) {
            precision.check(model.device())?;
        }
        self.divide(models, devices, dataset, config, plan, progress)
    }

    /// To read what is finished.
    pub fn into_outcomes(self) -> Outcomes {
        Outcomes::new(self.folder, self.units, self.manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_a_network_is_outside() {
        let seconds = Duration::from_secs;
        let timing = Timing { total: seconds(10), attacks: seconds(6), predictions: seconds(3) };
        assert!((timing.share_outside() - 0.1).abs() < 1e-12);
    }
}
