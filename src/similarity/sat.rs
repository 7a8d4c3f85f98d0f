//! SAT: similarity by attack transferability.
//!
//! Hwang et al., *Similarity of Neural Architectures using Adversarial Attack Transferability* (arXiv 2210.11407, ECCV 2024):
//!
//! SAT(A,B) = ln max(ε_s, 100 · 1/(2·|X_AB|) · Σ_{x ∈ X_AB} [1(A(x_B) ≠ y) + 1(B(x_A) ≠ y)])
//!
//! where X_AB are the images that both networks classify correctly, and x_A the image attacked on A. An image that was
//! attacked at A's size is resized to B's. Two equal networks under a perfect attack score ln 100 ≈ 4.605.
//!
//! All networks stay loaded. Work is done in groups of images, as many as a batch takes: a group is decoded once and resized
//! once for all networks that want it alike, while the networks work on the group before. It is attacked on A and judged by
//! every network while it is in memory, and kept as units of the [run folder](crate::runs), a chunk of 32 images each, from
//! which the scores are arithmetic. A group is always worked on as a whole, so that a run that goes on computes in the same
//! batches as one that never stopped.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Matrix;
use super::batches::Batches;
use crate::attacks::{Attack, Pgd, Targets, quantise};
use crate::images::{
    Dataset, DatasetError, DecodeError, Filter, RgbImage, Sample, Skipped, Transform, decode_file, resize,
};
use crate::model::{Crop, Model, to_f32};
use crate::runs::{RunError, RunFolder, unit_key};

/// Images in one unit of work.
const CHUNK: usize = 32;

/// Changes whenever the same settings would give other units, so that old run folders are not continued wrongly.
const PROTOCOL: u32 = 1;

/// How a SAT run is done.
#[derive(Debug, Clone)]
pub struct SatConfig {
    /// The attack.
    pub attack: Pgd,
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
}

impl Default for SatConfig {
    fn default() -> Self {
        Self {
            attack: Pgd::default(),
            crop: Crop::Shared,
            transfer_interpolation: Filter::Bicubic,
            epsilon_s: 0.01,
            batch: CHUNK,
            strict: false,
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
    /// An image was left out.
    Skipped(&'a Skipped),
    /// The device ran out of memory; from now on, so many images are worked on at once.
    SmallerBatch {
        /// The new size.
        batch: usize,
        /// The network that did not fit.
        model: &'a str,
    },
}

/// Where the time of a run went.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timing {
    /// The whole call.
    pub total: Duration,
    /// The steps of attacks.
    pub attacks: Duration,
    /// Predictions, of clean and of attacked images.
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
    /// An image cannot be decoded, and the run is strict.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The run folder.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Two models have the same name.
    #[error("{0} is given twice; give each model once")]
    Twice(String),
    /// Not one image could be decoded.
    #[error("none of the {0} images can be decoded; the first reason: {1}")]
    NoImages(usize, String),
}

/// The predictions of a run, from which every score follows.
#[derive(Debug, Clone)]
pub struct SatRun {
    /// The models' names.
    pub names: Vec<String>,
    /// Which images each model classifies correctly, by position in the data set.
    pub correct: Vec<Vec<bool>>,
    /// `fooled[a][b]`: which of the images that `a` classifies correctly `b` gets wrong once they were attacked on `a`.
    pub fooled: Vec<Vec<Vec<bool>>>,
    /// Images that could not be decoded.
    pub skipped: Vec<Skipped>,
    /// How many images there are, the skipped ones included.
    pub images: usize,
    /// [`Dataset::fingerprint`] of the images.
    pub fingerprint: String,
    /// Where the time of this call went, which may have found some of the work done.
    pub timing: Timing,
    epsilon_s: f64,
}

/// One pair of networks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// The first network.
    pub a: String,
    /// The second network.
    pub b: String,
    /// Images that both classify correctly.
    pub n: usize,
    /// Of those, how many `b` gets wrong once they were attacked on `a`.
    pub fooled_ab: usize,
    /// Of those, how many `a` gets wrong once they were attacked on `b`.
    pub fooled_ba: usize,
    /// The score; none if there is no image.
    pub sat: Option<f64>,
}

impl SatRun {
    /// The number of images that each model classifies correctly.
    pub fn clean(&self) -> Vec<usize> {
        self.correct.iter().map(|correct| correct.iter().filter(|&&c| c).count()).collect()
    }

    /// The same by the models' names, in their order.
    pub fn clean_by_name(&self) -> serde_json::Map<String, serde_json::Value> {
        let counts = self.clean().into_iter().map(Into::into);
        self.names.iter().cloned().zip(counts).collect()
    }

    /// The pair of the models at positions `a` and `b`, which may be the same.
    pub fn pair(&self, a: usize, b: usize) -> Pair {
        let both = |&image: &usize| self.correct[a][image] && self.correct[b][image];
        let images: Vec<usize> = (0..self.images).filter(both).collect();
        let count = |from: usize, on: usize| images.iter().filter(|&&image| self.fooled[from][on][image]).count();
        let (n, fooled_ab, fooled_ba) = (images.len(), count(a, b), count(b, a));
        Pair {
            a: self.names[a].clone(),
            b: self.names[b].clone(),
            n,
            fooled_ab,
            fooled_ba,
            sat: score(n, fooled_ab, fooled_ba, self.epsilon_s),
        }
    }

    /// All pairs of different models, in the order of the models.
    pub fn pairs(&self) -> Vec<Pair> {
        let count = self.names.len();
        (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).map(|(a, b)| self.pair(a, b)).collect()
    }

    /// The scores, each model with itself on the diagonal.
    pub fn matrix(&self) -> Matrix {
        Matrix::new(self.names.clone(), |a, b| self.pair(a, b).sat.unwrap_or(f64::NAN))
    }
}

/// The formula at the top of this file.
fn score(n: usize, fooled_ab: usize, fooled_ba: usize, epsilon_s: f64) -> Option<f64> {
    let percentage = 100.0 * (fooled_ab + fooled_ba) as f64 / (2 * n) as f64;
    (n > 0).then(|| percentage.max(epsilon_s).ln())
}

/// Attacks every model and shows the results to all of them, computing only what `run` does not hold yet.
///
/// # Errors
/// [`SatError`]; what was finished is kept, and the same call goes on from there.
pub fn run(
    models: &[Model],
    dataset: &Dataset,
    config: &SatConfig,
    folder: &std::path::Path,
    mut progress: impl FnMut(Progress),
) -> Result<SatRun, SatError> {
    let start = Instant::now();
    for (index, model) in models.iter().enumerate() {
        if models[..index].iter().any(|other| other.name() == model.name()) {
            return Err(SatError::Twice(model.name().to_owned()));
        }
        dataset.check_labels(model.num_classes())?;
    }
    let contents = dataset.content_hashes()?;
    let fingerprint = dataset.fingerprint_of(&contents);
    let precision = models.first().map(|model| model.precision());
    let settings = json!({
        "protocol": PROTOCOL,
        "data": fingerprint,
        "images": dataset.samples.len(),
        "attack": {"pgd": config.attack},
        "crop": config.crop,
        "transfer_interpolation": config.transfer_interpolation.name(),
        "precision": precision.map(|precision| precision.to_string()),
    });
    let folder = RunFolder::open(folder, &settings)?;
    let work = Work::new(models, dataset, &contents, config, folder);
    work.compute(&mut progress)?;
    let mut run = work.collect(fingerprint, &mut progress)?;
    run.timing = Timing { total: start.elapsed(), ..work.timing.get() };
    Ok(run)
}

/// Predictions of one model on one chunk of clean images.
#[derive(Serialize, Deserialize)]
struct CleanUnit {
    made_by: Provenance,
    /// Per image of the chunk; none if it could not be decoded.
    predictions: Vec<Option<usize>>,
    /// Position in the chunk and reason.
    skipped: Vec<(usize, String)>,
}

/// Predictions of some models on one chunk of images attacked on one model.
#[derive(Serialize, Deserialize)]
struct JudgedUnit {
    made_by: Provenance,
    /// Positions in the chunk of the images that were attacked: those that the model classifies correctly.
    attacked: Vec<usize>,
    /// Judge (its identity, see [`Subject::identity`]) → its prediction for each attacked image.
    predictions: BTreeMap<String, Vec<usize>>,
}

/// What a number was made by and from.
#[derive(Clone, Serialize, Deserialize)]
struct Provenance {
    netkin: String,
    model: String,
    sha256: String,
    device: String,
}

/// A model and the text that stands for all that its outputs depend on.
struct Subject<'a> {
    model: &'a Model,
    transform: Transform,
    identity: String,
}

/// A stretch of the data set.
struct Chunk {
    start: usize,
    /// The identity of its images: ids, labels, contents.
    identity: String,
}

/// Chunks that are worked on together: as many images as a batch takes.
type Group = [Chunk];

struct Work<'a> {
    subjects: Vec<Subject<'a>>,
    samples: &'a [Sample],
    chunks: Vec<Chunk>,
    config: &'a SatConfig,
    folder: RunFolder,
    batches: Batches,
    timing: Cell<Timing>,
}

/// The images of a group, or why there is none.
type Decoded = Vec<Result<RgbImage, DecodeError>>;

/// An image as the attacked network sees it, with its label and id.
type Target<'i> = (&'i RgbImage, &'i Sample);

/// Judge → which images of a chunk were attacked, and what it says of each.
type Judged = BTreeMap<String, (Vec<usize>, Vec<usize>)>;

impl<'a> Work<'a> {
    fn new(
        models: &'a [Model],
        dataset: &'a Dataset,
        contents: &[blake3::Hash],
        config: &'a SatConfig,
        folder: RunFolder,
    ) -> Self {
        let subjects = models
            .iter()
            .map(|model| {
                let identity = unit_key(&json!({
                    "architecture": model.entry().name,
                    "sha256": model.sha256(),
                    "preprocessing": model.preprocessing(),
                    "crop": config.crop,
                    "precision": model.precision().to_string(),
                }));
                Subject { model, transform: model.transform(config.crop), identity }
            })
            .collect();
        let samples = &dataset.samples;
        let chunks = (0..samples.len())
            .step_by(CHUNK)
            .map(|start| {
                let images: Vec<_> = samples[start..]
                    .iter()
                    .zip(&contents[start..])
                    .take(CHUNK)
                    .map(|(sample, content)| (&sample.id, sample.label, content.to_hex().to_string()))
                    .collect();
                Chunk { start, identity: unit_key(&images) }
            })
            .collect();
        Self {
            subjects,
            samples,
            chunks,
            config,
            folder,
            batches: Batches::new(config.batch, samples.len()),
            timing: Cell::default(),
        }
    }

    fn groups(&self) -> std::slice::Chunks<'_, Chunk> {
        self.chunks.chunks(self.config.batch.div_ceil(CHUNK))
    }

    fn samples_of(&self, group: &Group) -> &'a [Sample] {
        let (start, end) = match group {
            [] => (0, 0),
            [first, ..] => (first.start, first.start + group.len() * CHUNK),
        };
        &self.samples[start..end.min(self.samples.len())]
    }

    fn clean_key(&self, chunk: &Chunk, subject: &Subject) -> String {
        unit_key(&(PROTOCOL, &chunk.identity, &subject.identity))
    }

    fn attack_key(&self, chunk: &Chunk, subject: &Subject) -> String {
        unit_key(&(PROTOCOL, &chunk.identity, &subject.identity, &self.config.attack))
    }

    /// A judged unit's key says who judged: a model that comes later judges into a unit of its own.
    fn judged_kind(&self, attack_key: &str) -> String {
        format!("judged/{attack_key}")
    }

    fn judge_key(&self, judge: &Subject) -> String {
        unit_key(&(&judge.identity, self.config.transfer_interpolation.name()))
    }

    /// The judges whose predictions on a chunk attacked on `subject` are still wanted.
    fn missing_judges(&self, chunk: &Chunk, subject: &Subject) -> Result<Vec<&Subject<'a>>, RunError> {
        let judged = self.judged(&self.attack_key(chunk, subject))?;
        Ok(self.subjects.iter().filter(|judge| !judged.contains_key(&self.judge_key(judge))).collect())
    }

    fn judged(&self, attack_key: &str) -> Result<Judged, RunError> {
        let mut all = BTreeMap::new();
        for unit in self.folder.read_all_json::<JudgedUnit>(&self.judged_kind(attack_key))? {
            for (judge, predictions) in unit.predictions {
                all.insert(judge, (unit.attacked.clone(), predictions));
            }
        }
        Ok(all)
    }

    fn is_clean_missing(&self, chunk: &Chunk, subject: &Subject) -> Result<bool, RunError> {
        let key = self.clean_key(chunk, subject);
        Ok(self.folder.read_json::<CleanUnit>("clean", &key)?.is_none())
    }

    /// Fills the folder, decoding one group ahead.
    fn compute(&self, progress: &mut impl FnMut(Progress)) -> Result<(), SatError> {
        let total = self.chunks.len() * self.subjects.len();
        let mut done = total;
        let mut wanted: Vec<&Group> = Vec::new();
        for group in self.groups() {
            let mut missing = 0;
            for chunk in group {
                for subject in &self.subjects {
                    let is_done =
                        !self.is_clean_missing(chunk, subject)? && self.missing_judges(chunk, subject)?.is_empty();
                    missing += usize::from(!is_done);
                }
            }
            done -= missing;
            if missing > 0 {
                wanted.push(group);
            }
        }
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(1);
            let samples: Vec<&[Sample]> = wanted.iter().map(|group| self.samples_of(group)).collect();
            scope.spawn(move || {
                for samples in samples {
                    if sender.send(decode(samples)).is_err() {
                        break;
                    }
                }
            });
            for (group, decoded) in wanted.into_iter().zip(receiver) {
                let seen = self.seen(decoded)?;
                for subject in &self.subjects {
                    done += self.work_on(group, subject, &seen, progress)?;
                    let model = subject.model.name();
                    progress(Progress::Step { done, total, model });
                }
            }
            Ok(())
        })
    }

    /// What each model sees of each image of a group; models with the same transform share the work.
    fn seen(&self, decoded: Decoded) -> Result<Seen, SatError> {
        let mut skipped = Vec::new();
        let mut images = Vec::new();
        for (index, image) in decoded.into_iter().enumerate() {
            match image {
                Ok(image) => images.push(Some(image)),
                Err(error) if self.config.strict => return Err(error.into()),
                Err(error) => {
                    skipped.push((index, error.to_string()));
                    images.push(None);
                }
            }
        }
        let mut views: Vec<(Transform, Vec<Option<RgbImage>>)> = Vec::new();
        for subject in &self.subjects {
            if views.iter().all(|(transform, _)| *transform != subject.transform) {
                let view =
                    images.par_iter().map(|image| image.as_ref().map(|image| subject.transform.apply(image))).collect();
                views.push((subject.transform, view));
            }
        }
        Ok(Seen { views, skipped })
    }

    /// Does what is missing of one model on a group; for how many of its chunks anything was.
    fn work_on(
        &self,
        group: &Group,
        subject: &Subject,
        seen: &Seen,
        progress: &mut impl FnMut(Progress),
    ) -> Result<usize, SatError> {
        let view = seen.by(&subject.transform);
        let mut worked = vec![false; group.len()];
        let predictions = self.clean(group, subject, seen, &mut worked, progress)?;

        let mut judges = Vec::with_capacity(group.len());
        for chunk in group {
            judges.push(self.missing_judges(chunk, subject)?);
        }
        if judges.iter().any(|judges| !judges.is_empty()) {
            let samples = self.samples_of(group);
            let attacked: Vec<usize> =
                (0..samples.len()).filter(|&index| predictions[index] == Some(samples[index].label)).collect();
            let targets: Vec<Target> =
                attacked.iter().filter_map(|&index| Some((view[index].as_ref()?, &samples[index]))).collect();
            let by_chunk = |position: usize| -> Vec<usize> {
                let in_chunk = attacked.iter().filter(|&&index| index / CHUNK == position);
                in_chunk.map(|&index| index % CHUNK).collect()
            };
            let attacked: Vec<Vec<usize>> = (0..group.len()).map(by_chunk).collect();
            let adversarial = self.adversarial(group, subject, &attacked, &targets, progress)?;
            let judged = self.judged_by(&judges, &attacked, &adversarial, progress);
            for (position, (attacked, predictions)) in attacked.into_iter().zip(judged).enumerate() {
                if predictions.is_empty() {
                    continue;
                }
                worked[position] = true;
                let unit_name = unit_key(&predictions.keys().collect::<Vec<_>>());
                let unit = JudgedUnit { made_by: self.provenance(subject), attacked, predictions };
                let kind = self.judged_kind(&self.attack_key(&group[position], subject));
                self.folder.write_json(&kind, &unit_name, &unit)?;
            }
        }
        Ok(worked.into_iter().filter(|&worked| worked).count())
    }

    /// The predictions of a model on the clean images of a group; what the folder lacks is written, its chunk marked.
    fn clean(
        &self,
        group: &Group,
        subject: &Subject,
        seen: &Seen,
        worked: &mut [bool],
        progress: &mut impl FnMut(Progress),
    ) -> Result<Vec<Option<usize>>, SatError> {
        let mut kept = Vec::with_capacity(group.len());
        for chunk in group {
            let key = self.clean_key(chunk, subject);
            kept.push(self.folder.read_json::<CleanUnit>("clean", &key)?);
        }
        let mut computed = Vec::new();
        if kept.iter().any(Option::is_none) {
            let images: Vec<Option<&RgbImage>> = seen.by(&subject.transform).iter().map(Option::as_ref).collect();
            let present: Vec<&RgbImage> = images.iter().copied().flatten().collect();
            let mut predictions = self.predict(subject.model, &present, progress).into_iter();
            computed = images.iter().map(|image| image.and_then(|_| predictions.next())).collect();
        }
        let mut all = Vec::new();
        for (position, kept) in kept.into_iter().enumerate() {
            if let Some(unit) = kept {
                all.extend(unit.predictions);
                continue;
            }
            let start = position * CHUNK;
            let end = (start + CHUNK).min(computed.len());
            let in_chunk = |(index, _): &&(usize, String)| index / CHUNK == position;
            let skipped = seen.skipped.iter().filter(in_chunk);
            let unit = CleanUnit {
                made_by: self.provenance(subject),
                predictions: computed[start..end].to_vec(),
                skipped: skipped.map(|(index, reason)| (index % CHUNK, reason.clone())).collect(),
            };
            let key = self.clean_key(&group[position], subject);
            self.folder.write_json("clean", &key, &unit)?;
            worked[position] = true;
            all.extend(unit.predictions);
        }
        Ok(all)
    }

    /// The adversarial images of a group, 8-bit, in the order of `targets`: those of an earlier run if there are all, else
    /// new ones, of which are written what the folder lacks.
    fn adversarial(
        &self,
        group: &Group,
        subject: &Subject,
        attacked: &[Vec<usize>],
        targets: &[Target],
        progress: &mut impl FnMut(Progress),
    ) -> Result<Vec<RgbImage>, SatError> {
        let mut stored = Vec::with_capacity(group.len());
        for (chunk, attacked) in group.iter().zip(attacked) {
            let key = self.attack_key(chunk, subject);
            stored.push(self.stored(&key, subject, attacked.len())?);
        }
        if stored.iter().all(Option::is_some) {
            return Ok(stored.into_iter().flatten().flatten().collect());
        }
        let mut computed = self.attack(subject.model, targets, progress).into_iter();
        let mut all = Vec::with_capacity(targets.len());
        for (position, stored) in stored.into_iter().enumerate() {
            let new: Vec<RgbImage> = computed.by_ref().take(attacked[position].len()).collect();
            match stored {
                Some(images) => all.extend(images),
                None => {
                    let key = self.attack_key(&group[position], subject);
                    self.folder.write("adversarial", &key, &concatenated(&new))?;
                    all.extend(new);
                }
            }
        }
        Ok(all)
    }

    /// What the judges that a chunk of the group still wants say of its adversarial images. A judge that one chunk wants
    /// sees all of the group.
    fn judged_by(
        &self,
        judges: &[Vec<&Subject>],
        attacked: &[Vec<usize>],
        adversarial: &[RgbImage],
        progress: &mut impl FnMut(Progress),
    ) -> Vec<BTreeMap<String, Vec<usize>>> {
        let mut judged = vec![BTreeMap::new(); judges.len()];
        let mut resized: Vec<([usize; 2], Vec<RgbImage>)> = Vec::new();
        for judge in &self.subjects {
            let key = self.judge_key(judge);
            let wants = |judges: &Vec<&Subject>| judges.iter().any(|other| other.identity == judge.identity);
            if !judges.iter().any(wants) {
                continue;
            }
            let size = judge.model.input_size();
            if resized.iter().all(|(other, _)| *other != size) {
                let filter = self.config.transfer_interpolation;
                let images = adversarial.par_iter();
                resized.push((size, images.map(|image| transfer(image, size, filter)).collect()));
            }
            let images: Vec<&RgbImage> =
                resized.iter().filter(|(other, _)| *other == size).flat_map(|(_, images)| images).collect();
            let mut predictions = self.predict(judge.model, &images, progress).into_iter();
            for ((judged, judges), attacked) in judged.iter_mut().zip(judges).zip(attacked) {
                let of_chunk: Vec<usize> = predictions.by_ref().take(attacked.len()).collect();
                if wants(judges) {
                    judged.insert(key.clone(), of_chunk);
                }
            }
        }
        judged
    }

    /// The most probable class of each image.
    fn predict(&self, model: &Model, images: &[&RgbImage], progress: &mut impl FnMut(Progress)) -> Vec<usize> {
        let work = |batch: &[&RgbImage]| {
            let pixels = model.pixels_of(batch.iter().copied());
            self.timed(|timing| &mut timing.predictions, || model.predict(pixels))
        };
        self.batches.work(model.device(), images, work, |batch| {
            let model = model.name();
            progress(Progress::SmallerBatch { batch, model });
        })
    }

    /// Adversarial images, 8-bit, within ε of the originals.
    fn attack(&self, model: &Model, targets: &[Target], progress: &mut impl FnMut(Progress)) -> Vec<RgbImage> {
        let attack = &self.config.attack;
        let work = |batch: &[Target]| {
            let labels: Vec<usize> = batch.iter().map(|(_, sample)| sample.label).collect();
            let ids: Vec<&str> = batch.iter().map(|(_, sample)| sample.id.as_str()).collect();
            let targets = Targets {
                pixels: model.pixels_of(batch.iter().map(|(original, _)| *original)),
                labels: &labels,
                ids: &ids,
            };
            let values = self.timed(|timing| &mut timing.attacks, || to_f32(attack.perturb(model, &targets)));
            let size = values.len() / batch.len();
            batch
                .par_iter()
                .zip(values.par_chunks_exact(size))
                .map(|((original, _), values)| quantise(values, original, attack.eps()))
                .collect()
        };
        self.batches.work(model.device(), targets, work, |batch| {
            let model = model.name();
            progress(Progress::SmallerBatch { batch, model });
        })
    }

    /// Runs a network and adds the time to what `which` picks.
    fn timed<R>(&self, which: fn(&mut Timing) -> &mut Duration, run: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = run();
        let mut timing = self.timing.get();
        *which(&mut timing) += start.elapsed();
        self.timing.set(timing);
        result
    }

    /// The adversarial images of an earlier run, if they are whole.
    fn stored(&self, attack_key: &str, subject: &Subject, count: usize) -> Result<Option<Vec<RgbImage>>, RunError> {
        let [height, width] = subject.model.input_size();
        let size = 3 * height * width;
        let bytes = self.folder.read("adversarial", attack_key)?;
        Ok(bytes
            .filter(|bytes| bytes.len() == count * size)
            .map(|bytes| bytes.chunks_exact(size).map(|image| RgbImage::new(width, height, image.to_vec())).collect()))
    }

    fn provenance(&self, subject: &Subject) -> Provenance {
        Provenance {
            netkin: env!("CARGO_PKG_VERSION").to_owned(),
            model: subject.model.name().to_owned(),
            sha256: subject.model.sha256().to_owned(),
            device: format!("{:?}", subject.model.device()),
        }
    }

    /// Reads the finished folder.
    fn collect(&self, fingerprint: String, progress: &mut impl FnMut(Progress)) -> Result<SatRun, SatError> {
        let (models, images) = (self.subjects.len(), self.samples.len());
        let mut run = SatRun {
            names: self.subjects.iter().map(|subject| subject.model.name().to_owned()).collect(),
            correct: vec![vec![false; images]; models],
            fooled: vec![vec![vec![false; images]; models]; models],
            skipped: Vec::new(),
            images,
            fingerprint,
            timing: Timing::default(),
            epsilon_s: self.config.epsilon_s,
        };
        for chunk in &self.chunks {
            let samples = self.samples_of(std::slice::from_ref(chunk));
            for (a, subject) in self.subjects.iter().enumerate() {
                let key = self.clean_key(chunk, subject);
                let Some(clean) = self.folder.read_json::<CleanUnit>("clean", &key)? else {
                    continue;
                };
                for (index, predicted) in clean.predictions.iter().enumerate() {
                    run.correct[a][chunk.start + index] = *predicted == Some(samples[index].label);
                }
                if a == 0 {
                    run.skipped.extend(clean.skipped.into_iter().map(|(index, reason)| Skipped {
                        index: chunk.start + index,
                        id: samples[index].id.clone(),
                        reason,
                    }));
                }
                let judged = self.judged(&self.attack_key(chunk, subject))?;
                for (b, judge) in self.subjects.iter().enumerate() {
                    let Some((attacked, predictions)) = judged.get(&self.judge_key(judge)) else {
                        continue;
                    };
                    for (&index, &predicted) in attacked.iter().zip(predictions) {
                        run.fooled[a][b][chunk.start + index] = predicted != samples[index].label;
                    }
                }
            }
        }
        for skipped in &run.skipped {
            progress(Progress::Skipped(skipped));
        }
        match run.skipped.first() {
            Some(first) if run.skipped.len() == images => Err(SatError::NoImages(images, first.reason.clone())),
            _ => Ok(run),
        }
    }
}

/// In threads of its own: rayon's are busy with the network, and the caller may be all that rayon has.
fn decode(samples: &[Sample]) -> Decoded {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = samples.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let decode = |samples: &[Sample]| samples.iter().map(|sample| decode_file(&sample.path)).collect::<Vec<_>>();
        let parts: Vec<_> = samples.chunks(part).map(|samples| scope.spawn(move || decode(samples))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("decoding does not panic")).collect()
    })
}

/// An attacked image as a network of another size gets it.
fn transfer(image: &RgbImage, [height, width]: [usize; 2], filter: Filter) -> RgbImage {
    match (image.width(), image.height()) == (width, height) {
        true => image.clone(),
        false => resize(image, (width, height), filter),
    }
}

/// What the networks see of a group.
struct Seen {
    views: Vec<(Transform, Vec<Option<RgbImage>>)>,
    skipped: Vec<(usize, String)>,
}

impl Seen {
    fn by(&self, transform: &Transform) -> &[Option<RgbImage>] {
        let view = self.views.iter().find(|(other, _)| other == transform);
        view.map_or(&[], |(_, images)| images)
    }
}

fn concatenated(images: &[RgbImage]) -> Vec<u8> {
    images.iter().flat_map(|image| image.data()).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_networks_under_a_perfect_attack_score_the_logarithm_of_100() {
        assert_eq!(score(7, 7, 7, 0.01), Some(100f64.ln()));
        assert_eq!(score(100, 10, 20, 0.01), Some(15f64.ln()));
    }

    #[test]
    fn the_score_is_bounded_below_and_absent_without_images() {
        assert_eq!(score(5, 0, 0, 0.01), Some(0.01f64.ln()));
        assert_eq!(score(0, 0, 0, 0.01), None);
    }

    #[test]
    fn a_pair_counts_only_images_that_both_classify_correctly() {
        let run = SatRun {
            names: vec!["a".into(), "b".into()],
            correct: vec![vec![true, true, false], vec![false, true, true]],
            fooled: vec![
                vec![vec![true, true, false], vec![true, true, false]],
                vec![vec![false, false, true], vec![false, true, true]],
            ],
            skipped: Vec::new(),
            images: 3,
            fingerprint: String::new(),
            timing: Timing::default(),
            epsilon_s: 0.01,
        };
        let pair = run.pair(0, 1);
        assert_eq!((pair.n, pair.fooled_ab, pair.fooled_ba), (1, 1, 0));
        assert_eq!(pair.sat, Some(50f64.ln()));
        assert_eq!(run.clean(), [2, 2]);
    }

    #[test]
    fn images_are_resized_once_for_all_networks_that_want_them_alike() {
        let device = burn::tensor::Device::flex();
        let hub = netkin_weights::HubConfig::nowhere();
        let precision = netkin_weights::Precision::F32;
        let load = |name: &str| {
            let spec = name.parse().unwrap();
            let loaded = netkin_weights::load(&spec, precision, &device, &hub, &mut |_| {});
            Model::new(loaded.unwrap(), precision, device.clone())
        };
        let models = ["demo_resnet", "demo_mixer", "demo_vit_patch7"].map(load);
        let folder = tempfile::tempdir().unwrap();
        let config = SatConfig::default();
        let run = RunFolder::open(&folder.path().join("run"), &json!({})).unwrap();
        let image = RgbImage::new(40, 30, vec![7; 40 * 30 * 3]);
        let class = folder.path().join("images/class");
        std::fs::create_dir_all(&class).unwrap();
        crate::images::save_png(&class.join("a.png"), &image).unwrap();
        let dataset = Dataset::open(&folder.path().join("images"), None).unwrap();
        let contents = dataset.content_hashes().unwrap();
        let work = Work::new(&models, &dataset, &contents, &config, run);
        let seen = work.seen(vec![Ok(image)]).unwrap();
        assert_eq!(seen.views.len(), 1);
        let view = seen.by(&work.subjects[2].transform)[0].as_ref().unwrap();
        assert_eq!((view.width(), view.height()), (28, 28));
    }

    #[test]
    fn what_is_not_in_a_network_is_outside() {
        let seconds = Duration::from_secs;
        let timing = Timing { total: seconds(10), attacks: seconds(6), predictions: seconds(3) };
        assert!((timing.share_outside() - 0.1).abs() < 1e-12);
    }
}
