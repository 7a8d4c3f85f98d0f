//! SAT: similarity by attack transferability.
//!
//! Hwang et al., *Similarity of Neural Architectures using Adversarial Attack Transferability* (arXiv 2210.11407, ECCV 2024):
//!
//! SAT(A,B) = ln max(ε_s, 100 · 1/(2·|X_AB|) · Σ_{x ∈ X_AB} [1(A(x_B) ≠ y) + 1(B(x_A) ≠ y)])
//!
//! where X_AB are the images that both networks classify correctly, and x_A the image attacked on A. An image that was
//! attacked at A's size is resized to B's. Two equal networks under a perfect attack score ln 100 ≈ 4.605.
//!
//! Work is done in chunks of images: a chunk is decoded once, attacked on A, judged by every network, and kept as units of
//! the [run folder](crate::runs), from which the scores are arithmetic.

use std::collections::BTreeMap;
use std::sync::mpsc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Matrix;
use crate::attacks::{Attack, Pgd, Targets, quantise};
use crate::images::{
    Dataset, DatasetError, DecodeError, Filter, RgbImage, Sample, Skipped, Transform, decode_file,
    resize,
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
    /// Images attacked at once, at least 1; scores do not depend on it but for rounding.
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
        self.correct
            .iter()
            .map(|correct| correct.iter().filter(|&&c| c).count())
            .collect()
    }

    /// The pair of the models at positions `a` and `b`, which may be the same.
    pub fn pair(&self, a: usize, b: usize) -> Pair {
        let both = |&image: &usize| self.correct[a][image] && self.correct[b][image];
        let images: Vec<usize> = (0..self.images).filter(both).collect();
        let count = |from: usize, on: usize| {
            images
                .iter()
                .filter(|&&image| self.fooled[from][on][image])
                .count()
        };
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
        (0..count)
            .flat_map(|a| (a + 1..count).map(move |b| (a, b)))
            .map(|(a, b)| self.pair(a, b))
            .collect()
    }

    /// The scores, each model with itself on the diagonal.
    pub fn matrix(&self) -> Matrix {
        Matrix::new(self.names.clone(), |a, b| {
            self.pair(a, b).sat.unwrap_or(f64::NAN)
        })
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
    for (index, model) in models.iter().enumerate() {
        if models[..index]
            .iter()
            .any(|other| other.name() == model.name())
        {
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
    work.collect(fingerprint, &mut progress)
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

struct Work<'a> {
    subjects: Vec<Subject<'a>>,
    samples: &'a [Sample],
    chunks: Vec<Chunk>,
    config: &'a SatConfig,
    folder: RunFolder,
}

/// A decoded chunk: per model the images as it sees them, or why there is none.
type Decoded = Vec<Result<RgbImage, DecodeError>>;

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
                Subject {
                    model,
                    transform: model.transform(config.crop),
                    identity,
                }
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
                    .map(|(sample, content)| {
                        (&sample.id, sample.label, content.to_hex().to_string())
                    })
                    .collect();
                Chunk {
                    start,
                    identity: unit_key(&images),
                }
            })
            .collect();
        Self {
            subjects,
            samples,
            chunks,
            config,
            folder,
        }
    }

    fn samples_of(&self, chunk: &Chunk) -> &'a [Sample] {
        &self.samples[chunk.start..(chunk.start + CHUNK).min(self.samples.len())]
    }

    fn clean_key(&self, chunk: &Chunk, subject: &Subject) -> String {
        unit_key(&(PROTOCOL, &chunk.identity, &subject.identity))
    }

    fn attack_key(&self, chunk: &Chunk, subject: &Subject) -> String {
        unit_key(&(
            PROTOCOL,
            &chunk.identity,
            &subject.identity,
            &self.config.attack,
        ))
    }

    /// A judged unit's key says who judged: a model that comes later judges into a unit of its own.
    fn judged_kind(&self, attack_key: &str) -> String {
        format!("judged/{attack_key}")
    }

    fn judge_key(&self, judge: &Subject) -> String {
        unit_key(&(&judge.identity, self.config.transfer_interpolation.name()))
    }

    /// The judges whose predictions on a chunk attacked on `subject` are still wanted.
    fn missing_judges(
        &self,
        chunk: &Chunk,
        subject: &Subject,
    ) -> Result<Vec<&Subject<'a>>, RunError> {
        let judged = self.judged(&self.attack_key(chunk, subject))?;
        Ok(self
            .subjects
            .iter()
            .filter(|judge| !judged.contains_key(&self.judge_key(judge)))
            .collect())
    }

    fn judged(&self, attack_key: &str) -> Result<Judged, RunError> {
        let mut all = BTreeMap::new();
        for unit in self
            .folder
            .read_all_json::<JudgedUnit>(&self.judged_kind(attack_key))?
        {
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

    /// Fills the folder, decoding one chunk ahead.
    fn compute(&self, progress: &mut impl FnMut(Progress)) -> Result<(), SatError> {
        let total = self.chunks.len() * self.subjects.len();
        let mut wanted = Vec::new();
        for chunk in &self.chunks {
            let mut missing = 0;
            for subject in &self.subjects {
                let done = !self.is_clean_missing(chunk, subject)?
                    && self.missing_judges(chunk, subject)?.is_empty();
                missing += usize::from(!done);
            }
            if missing > 0 {
                wanted.push((chunk, missing));
            }
        }
        let mut done = total - wanted.iter().map(|(_, missing)| missing).sum::<usize>();
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(1);
            let to_decode: Vec<&Chunk> = wanted.iter().map(|(chunk, _)| *chunk).collect();
            scope.spawn(move || {
                for chunk in to_decode {
                    let decoded = self.decode(chunk);
                    if sender.send((chunk, decoded)).is_err() {
                        break;
                    }
                }
            });
            for (chunk, decoded) in receiver {
                let seen = self.seen(chunk, decoded)?;
                for subject in 0..self.subjects.len() {
                    if self.work_on(chunk, subject, &seen)? {
                        done += 1;
                        let model = self.subjects[subject].model.name();
                        progress(Progress::Step { done, total, model });
                    }
                }
            }
            Ok(())
        })
    }

    /// In threads of its own: rayon's are busy with the network, and the caller may be all that rayon has.
    fn decode(&self, chunk: &Chunk) -> Decoded {
        let samples = self.samples_of(chunk);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let part = samples.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let decode = |samples: &'a [Sample]| {
                scope.spawn(move || {
                    samples
                        .iter()
                        .map(|sample| decode_file(&sample.path))
                        .collect::<Vec<_>>()
                })
            };
            let parts: Vec<_> = samples.chunks(part).map(decode).collect();
            parts
                .into_iter()
                .flat_map(|part| part.join().expect("decoding does not panic"))
                .collect()
        })
    }

    /// What each model sees of each image of a chunk; models with the same transform share the work.
    fn seen(&self, chunk: &Chunk, decoded: Decoded) -> Result<Seen, SatError> {
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
        debug_assert_eq!(images.len(), self.samples_of(chunk).len());
        let mut views: Vec<(Transform, Vec<Option<RgbImage>>)> = Vec::new();
        for subject in &self.subjects {
            if views
                .iter()
                .all(|(transform, _)| *transform != subject.transform)
            {
                let view = images
                    .par_iter()
                    .map(|image| image.as_ref().map(|image| subject.transform.apply(image)))
                    .collect();
                views.push((subject.transform, view));
            }
        }
        Ok(Seen { views, skipped })
    }

    /// Does what is missing of one model on one chunk; whether anything was.
    fn work_on(&self, chunk: &Chunk, subject: usize, seen: &Seen) -> Result<bool, SatError> {
        let subject = &self.subjects[subject];
        let samples = self.samples_of(chunk);
        let view = seen.by(&subject.transform);
        let made_by = self.provenance(subject);

        let clean_key = self.clean_key(chunk, subject);
        let mut worked = false;
        let clean = match self.folder.read_json::<CleanUnit>("clean", &clean_key)? {
            Some(unit) => unit,
            None => {
                let predictions = self.predict(subject.model, view.iter().map(Option::as_ref));
                let skipped = seen.skipped.clone();
                let unit = CleanUnit {
                    made_by: made_by.clone(),
                    predictions,
                    skipped,
                };
                self.folder.write_json("clean", &clean_key, &unit)?;
                worked = true;
                unit
            }
        };

        let judges = self.missing_judges(chunk, subject)?;
        if judges.is_empty() {
            return Ok(worked);
        }
        let attacked: Vec<usize> = (0..samples.len())
            .filter(|&index| clean.predictions[index] == Some(samples[index].label))
            .collect();
        let attack_key = self.attack_key(chunk, subject);
        let originals: Vec<&RgbImage> = attacked
            .iter()
            .filter_map(|&index| view[index].as_ref())
            .collect();
        let targets: Vec<&Sample> = attacked.iter().map(|&index| &samples[index]).collect();
        let adversarial = match self.stored(&attack_key, subject, attacked.len())? {
            Some(images) => images,
            None => {
                let images = self.attack(subject.model, &originals, &targets);
                self.folder
                    .write("adversarial", &attack_key, &concatenated(&images))?;
                images
            }
        };

        let mut resized: Vec<([usize; 2], Vec<RgbImage>)> = Vec::new();
        let mut predictions = BTreeMap::new();
        for judge in &judges {
            let size = judge.model.input_size();
            if resized.iter().all(|(other, _)| *other != size) {
                let images = adversarial
                    .par_iter()
                    .map(|image| self.transfer(image, size))
                    .collect();
                resized.push((size, images));
            }
            let images = resized
                .iter()
                .find(|(other, _)| *other == size)
                .map(|(_, images)| images);
            let images = images.into_iter().flatten().map(Some);
            let predicted = self
                .predict(judge.model, images)
                .into_iter()
                .flatten()
                .collect();
            predictions.insert(self.judge_key(judge), predicted);
        }
        let unit_name = unit_key(&predictions.keys().collect::<Vec<_>>());
        let unit = JudgedUnit {
            made_by,
            attacked,
            predictions,
        };
        self.folder
            .write_json(&self.judged_kind(&attack_key), &unit_name, &unit)?;
        Ok(true)
    }

    /// The most probable class of each image that there is.
    fn predict<'i>(
        &self,
        model: &Model,
        images: impl Iterator<Item = Option<&'i RgbImage>>,
    ) -> Vec<Option<usize>> {
        let images: Vec<_> = images.collect();
        let present: Vec<&RgbImage> = images.iter().copied().flatten().collect();
        let mut predictions = present
            .chunks(self.config.batch)
            .flat_map(|batch| model.predict(model.pixels_of(batch.iter().copied())));
        images
            .iter()
            .map(|image| image.and_then(|_| predictions.next()))
            .collect()
    }

    /// Adversarial images, 8-bit, within ε of the originals.
    fn attack(&self, model: &Model, originals: &[&RgbImage], samples: &[&Sample]) -> Vec<RgbImage> {
        let attack = &self.config.attack;
        let batches = originals
            .chunks(self.config.batch)
            .zip(samples.chunks(self.config.batch));
        batches
            .flat_map(|(originals, samples)| {
                let labels: Vec<usize> = samples.iter().map(|sample| sample.label).collect();
                let ids: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
                let pixels = model.pixels_of(originals.iter().copied());
                let targets = Targets {
                    pixels,
                    labels: &labels,
                    ids: &ids,
                };
                let values = to_f32(attack.perturb(model, &targets));
                let size = values.len() / originals.len();
                originals
                    .iter()
                    .zip(values.chunks_exact(size))
                    .map(|(original, values)| quantise(values, original, attack.eps()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// The adversarial images of an earlier run, if they are whole.
    fn stored(
        &self,
        attack_key: &str,
        subject: &Subject,
        count: usize,
    ) -> Result<Option<Vec<RgbImage>>, RunError> {
        let [height, width] = subject.model.input_size();
        let size = 3 * height * width;
        let bytes = self.folder.read("adversarial", attack_key)?;
        Ok(bytes
            .filter(|bytes| bytes.len() == count * size)
            .map(|bytes| {
                bytes
                    .chunks_exact(size)
                    .map(|image| RgbImage::new(width, height, image.to_vec()))
                    .collect()
            }))
    }

    /// An attacked image as a network of another size gets it.
    fn transfer(&self, image: &RgbImage, [height, width]: [usize; 2]) -> RgbImage {
        match (image.width(), image.height()) == (width, height) {
            true => image.clone(),
            false => resize(image, (width, height), self.config.transfer_interpolation),
        }
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
    fn collect(
        &self,
        fingerprint: String,
        progress: &mut impl FnMut(Progress),
    ) -> Result<SatRun, SatError> {
        let (models, images) = (self.subjects.len(), self.samples.len());
        let mut run = SatRun {
            names: self
                .subjects
                .iter()
                .map(|subject| subject.model.name().to_owned())
                .collect(),
            correct: vec![vec![false; images]; models],
            fooled: vec![vec![vec![false; images]; models]; models],
            skipped: Vec::new(),
            images,
            fingerprint,
            epsilon_s: self.config.epsilon_s,
        };
        for chunk in &self.chunks {
            let samples = self.samples_of(chunk);
            for (a, subject) in self.subjects.iter().enumerate() {
                let key = self.clean_key(chunk, subject);
                let Some(clean) = self.folder.read_json::<CleanUnit>("clean", &key)? else {
                    continue;
                };
                for (index, predicted) in clean.predictions.iter().enumerate() {
                    run.correct[a][chunk.start + index] = *predicted == Some(samples[index].label);
                }
                if a == 0 {
                    run.skipped
                        .extend(clean.skipped.into_iter().map(|(index, reason)| Skipped {
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
            Some(first) if run.skipped.len() == images => {
                Err(SatError::NoImages(images, first.reason.clone()))
            }
            _ => Ok(run),
        }
    }
}

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
    images
        .iter()
        .flat_map(|image| image.data())
        .copied()
        .collect()
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
            epsilon_s: 0.01,
        };
        let pair = run.pair(0, 1);
        assert_eq!((pair.n, pair.fooled_ab, pair.fooled_ba), (1, 1, 0));
        assert_eq!(pair.sat, Some(50f64.ln()));
        assert_eq!(run.clean(), [2, 2]);
    }
}
