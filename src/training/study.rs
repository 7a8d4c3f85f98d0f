//! Studies that train many networks: a folder in which each is trained once, and what is computed of all of them.
//!
//! ```text
//! STUDY/study.json                           what all its networks have in common; other options are refused
//! STUDY/networks/NAME/model.safetensors      a finished network
//! STUDY/networks/NAME/result.json            what it was trained with, and how many test images it gets right
//! STUDY/networks/NAME/…                      its run: recipe, configuration, checkpoint, log
//! ```
//!
//! A study that was stopped goes on where it was: finished networks are found, an unfinished one has its checkpoint.

use std::path::{Path, PathBuf};

use netkin_weights::Precision;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Ended, EpochReport, Event, Run, TrainingError, save, train};
use crate::analysis::compare::pearson;
use crate::analysis::teachers::Relation;
use crate::analysis::uncertainty::WithInterval;
use crate::files::{MAX_TABLE, read_regular};
use crate::random::Random;
use crate::runs::{RunError, create_atomically, first_difference, write_atomically, written};

pub(super) const STUDY: &str = "study.json";
const RESULT: &str = "result.json";
const WEIGHTS: &str = "model.safetensors";

/// The folder of a study.
#[derive(Debug, Clone)]
pub struct Study {
    folder: PathBuf,
    settings: Value,
}

/// A network that was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Test images that it classifies correctly.
    pub correct: usize,
    /// Test images that could be read.
    pub images: usize,
    /// The most images, those of the test among them, that could not be read in one epoch.
    #[serde(default)]
    pub skipped: usize,
}

/// Why a study cannot go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StudyError {
    #[error("{folder} belongs to another study: its {setting} is {there}, and now it is {asked}; give the same options and images, or another folder as --out", folder = folder.display())]
    Other { folder: PathBuf, setting: String, there: String, asked: String },
    #[error("{folder} belongs to another study: its {set} are others, by their number, names, sizes or content; give the same images (--data, --images and --test-images), or another folder as --out", folder = folder.display())]
    OtherImages { folder: PathBuf, set: String },
    #[error("{folder} is a file, and a study is kept in a folder; give a folder as --out", folder = folder.display())]
    NotAFolder { folder: PathBuf },
    #[error("{folder} has no {STUDY} but other files; give an empty or a new folder as --out", folder = folder.display())]
    Foreign { folder: PathBuf },
    #[error("{folder} is no folder of a study, it has no {STUDY}; give the folder that was --out of the study", folder = folder.display())]
    Missing { folder: PathBuf },
    #[error("{path} cannot be read ({reason}); restore it, or begin the study anew in another folder", path = path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{network} in {folder} was trained with another {setting}: it is {there}, and now it is {asked}; give the same options, images and networks, or another folder as --out", folder = folder.display())]
    OtherNetwork { network: String, folder: PathBuf, setting: String, there: String, asked: String },
    #[error(transparent)]
    Training(#[from] TrainingError),
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Finished {
    /// By what the epochs brought, the last of which has tested the network as it is; `tests` is the number of test images.
    ///
    /// # Panics
    /// If there is no epoch.
    pub fn of(epochs: &[EpochReport], tests: usize) -> Self {
        let last = epochs.last().expect("a network that was trained has an epoch");
        let images = tests - last.test_skipped.min(tests);
        let correct = (last.test_accuracy * images as f64).round() as usize;
        let skipped = epochs.iter().map(|epoch| epoch.skipped + epoch.test_skipped).max().unwrap_or(0);
        Self { correct, images, skipped }
    }

    /// The share of the test images that it classifies correctly, 0 to 1.
    pub fn accuracy(self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }
}

impl Study {
    /// Opens or makes the folder. `settings` is an object of everything that all networks of the study depend on.
    ///
    /// # Errors
    /// If the folder is none, holds other files, belongs to a study of other settings, or cannot be read or written.
    pub fn open(folder: &Path, settings: &Value) -> Result<Self, StudyError> {
        let path = folder.join(STUDY);
        if folder.exists() && !folder.is_dir() {
            return Err(StudyError::NotAFolder { folder: folder.to_owned() });
        }
        if !path.exists() {
            if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(StudyError::Foreign { folder: folder.to_owned() });
            }
            let text = serde_json::to_vec_pretty(settings).expect("settings are words and numbers");
            create_atomically(&path, &text)?;
        }
        let study = Self::existing(folder)?;
        match first_difference("", &study.settings, &written(settings)) {
            None => Ok(study),
            // Fingerprints tell people nothing.
            Some((setting, there, _)) if is_images(&setting) && there != "null" => {
                Err(StudyError::OtherImages { folder: folder.to_owned(), set: set(&setting) })
            }
            Some((setting, there, asked)) => {
                Err(StudyError::Other { folder: folder.to_owned(), setting, there, asked })
            }
        }
    }

    /// Opens a folder that is there.
    ///
    /// # Errors
    /// If it is no folder of a study, or cannot be read.
    pub fn existing(folder: &Path) -> Result<Self, StudyError> {
        let path = folder.join(STUDY);
        if !path.exists() {
            return Err(StudyError::Missing { folder: folder.to_owned() });
        }
        Ok(Self { folder: folder.to_owned(), settings: read(&path)? })
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What all its networks have in common.
    pub fn settings(&self) -> &Value {
        &self.settings
    }

    /// Where the weights of a network are once it is finished.
    pub fn weights(&self, name: &str) -> PathBuf {
        self.network(name).join(WEIGHTS)
    }

    fn network(&self, name: &str) -> PathBuf {
        self.folder.join("networks").join(name)
    }

    /// Trains a network, or finds it. The run's own folder and initial network are not used. None if training was stopped.
    ///
    /// # Errors
    /// If a network of that name was trained otherwise, or training fails.
    pub fn trained(
        &self,
        name: &str,
        run: Run,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Option<Finished>, StudyError> {
        let (folder, record) = (self.network(name), self.network(name).join(RESULT));
        let settings = written(&json!({
            "recipe": run.recipe.settings(),
            "objective": run.objective.settings(),
            "training data": run.training.fingerprint(),
            "test data": run.testing.fingerprint(),
        }));
        if record.exists() && self.weights(name).exists() {
            let there: Value = read(&record)?;
            if let Some((setting, there, asked)) = first_difference("", &there["settings"], &settings) {
                let (network, folder) = (name.to_owned(), self.folder.clone());
                if is_images(&setting) {
                    return Err(StudyError::OtherImages { folder, set: set(&setting) });
                }
                return Err(StudyError::OtherNetwork { network, folder, setting, there, asked });
            }
            let damaged = |error: serde_json::Error| {
                let (path, reason) = (record.clone(), error.to_string());
                StudyError::Damaged { path, reason }
            };
            return Ok(Some(serde_json::from_value(there["result"].clone()).map_err(damaged)?));
        }
        let tests = run.testing.len();
        let trained = train(&Run { folder: Some(&folder), initial: None, ..run }, on_event)?;
        if trained.ended == Ended::Stopped {
            return Ok(None);
        }
        let finished = Finished::of(&trained.epochs, tests);
        save(&trained.network, &self.weights(name), Precision::F32)?;
        let document = json!({"settings": settings, "result": finished});
        write_atomically(&record, &serde_json::to_vec_pretty(&document).expect("settings are words and numbers"))?;
        Ok(Some(finished))
    }
}

/// Whether a setting is the fingerprint of images.
fn is_images(setting: &str) -> bool {
    ["training data", "test data"].contains(&setting)
}

/// What such images are called in sentences.
fn set(setting: &str) -> String {
    setting.replace("data", "images")
}

fn read(path: &Path) -> Result<Value, StudyError> {
    let damaged = |reason: String| StudyError::Damaged { path: path.to_owned(), reason };
    let bytes = read_regular(path, MAX_TABLE).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
}

/// The mean of a number over the seeds of a study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OverSeeds {
    /// Of each seed.
    pub values: Vec<f64>,
    /// Their mean; not a number of no seeds.
    pub mean: f64,
    /// Where the mean over all seeds lies with 95 %, if seeds' numbers are normal (Student's t); none of one seed.
    pub interval: Option<[f64; 2]>,
}

/// The 97.5 % quantiles of Student's t with 1, 2, … degrees of freedom.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

impl OverSeeds {
    /// Of a number for each seed.
    pub fn of(values: Vec<f64>) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let interval = (values.len() > 1).then(|| {
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
            let freedom = values.len() - 1;
            // The normal distribution's quantile and the first term of its expansion (Fisher & Cornish 1960).
            let quantile = STUDENT.get(freedom - 1).copied().unwrap_or(1.95996 + 2.37227 / freedom as f64);
            let half = quantile * (variance / count).sqrt();
            [mean - half, mean + half]
        });
        Self { values, mean, interval }
    }

    /// Of what each seed's number exceeds another one's by: pairs are of one seed.
    ///
    /// # Panics
    /// If they are not of equally many seeds.
    pub fn difference(ours: &[f64], theirs: &[f64]) -> Self {
        assert_eq!(ours.len(), theirs.len(), "each seed has both numbers");
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs).collect())
    }
}

/// A teacher of a distillation study and the students that it taught.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Taught {
    /// The teacher.
    pub teacher: String,
    /// What it is made of.
    pub base_architecture: String,
    /// Whether that is what the student is made of.
    pub relation: Relation,
    /// Seed → SAT of the teacher and the student of that seed that had no teacher; not a number where they have none.
    pub sat: Vec<f64>,
    /// Seed → the share of the test images that the student which it taught classifies correctly, 0 to 1.
    pub accuracy: Vec<f64>,
}

/// How teachers' similarity and their students' accuracy correlate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Correlation {
    /// Teachers.
    pub teachers: usize,
    /// Pearson's correlation of both, each the mean over seeds, with the middle 95 % of it when teachers and seeds are drawn anew;
    /// none of fewer than three teachers.
    pub pearson: Option<WithInterval>,
    /// How likely a correlation as far from 0 is if students had their teachers by chance, by permutations.
    pub p_value: Option<f64>,
}

/// Correlates the SAT of teachers and the accuracy of their students. `replicates` are drawn for the interval and as many permutations
/// for the p-value, from `seed`.
///
/// # Panics
/// If teachers differ in their number of seeds.
pub fn correlation(taught: &[&Taught], replicates: usize, seed: u64) -> Correlation {
    let teachers = taught.len();
    let seeds = taught.first().map_or(0, |first| first.sat.len());
    assert!(
        taught.iter().all(|taught| taught.sat.len() == seeds && taught.accuracy.len() == seeds),
        "each teacher has as many students"
    );
    if teachers < 3 || seeds == 0 {
        return Correlation { teachers, pearson: None, p_value: None };
    }
    let all = |count: usize| (0..count).collect::<Vec<usize>>();
    let estimate = of_means(taught, &all(teachers), &all(teachers), &all(seeds));
    let replicate = |replicate: u64| {
        let mut random = Random::of(&[seed, replicate, 4]);
        let mut drawn = |count: usize| (0..count).map(|_| random.below(count)).collect::<Vec<usize>>();
        let (places, seeds) = (drawn(teachers), drawn(seeds));
        of_means(taught, &places, &places, &seeds)
    };
    let replicates_of: Vec<f64> = (0..replicates as u64).into_par_iter().map(replicate).collect();
    let as_far = (0..replicates as u64)
        .into_par_iter()
        .filter(|&permutation| {
            let mut order = all(teachers);
            Random::of(&[seed, permutation, 5]).shuffle(&mut order);
            // Rounding must not tell equal correlations apart.
            of_means(taught, &all(teachers), &order, &all(seeds)).abs() >= estimate.abs() - 1e-12
        })
        .count();
    let p_value = (!estimate.is_nan()).then(|| (1 + as_far) as f64 / (1 + replicates) as f64);
    Correlation { teachers, pearson: WithInterval::of(estimate, replicates_of), p_value }
}

/// Pearson's correlation of the SAT of the teachers `ours` and the accuracy of the students of the teachers `theirs`, each the mean over
/// `seeds`, all of them positions.
fn of_means(taught: &[&Taught], ours: &[usize], theirs: &[usize], seeds: &[usize]) -> f64 {
    let mean = |values: &[f64]| seeds.iter().map(|&seed| values[seed]).sum::<f64>() / seeds.len() as f64;
    let sat: Vec<f64> = ours.iter().map(|&teacher| mean(&taught[teacher].sat)).collect();
    let accuracy: Vec<f64> = theirs.iter().map(|&teacher| mean(&taught[teacher].accuracy)).collect();
    // The same number again and again correlates with nothing; rounding would make something of it.
    let is_one = |values: &[f64]| values.iter().all(|value| (value - values[0]).abs() < 1e-12);
    if is_one(&sat) || is_one(&accuracy) { f64::NAN } else { pearson(&sat, &accuracy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_study() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("study");
        let said = Study::existing(&folder).unwrap_err().to_string();
        assert!(said.contains("is no folder of a study"), "{said}");
        let settings =
            json!({"study": "distillation", "student": "demo_vit_patch7", "recipe": {"epochs": 3, "lr": 0.1}});
        Study::open(&folder, &settings).unwrap();
        assert_eq!(Study::open(&folder, &settings).unwrap().settings()["student"], "demo_vit_patch7");
        let other = json!({"study": "distillation", "student": "demo_vit_patch7", "recipe": {"epochs": 4, "lr": 0.1}});
        let said = Study::open(&folder, &other).unwrap_err().to_string();
        assert!(said.contains("another study: its recipe.epochs is 3, and now it is 4"), "{said}");
        let file = scratch.path().join("file");
        std::fs::write(&file, "").unwrap();
        let said = Study::open(&file, &settings).unwrap_err().to_string();
        assert!(said.contains("is a file, and a study is kept in a folder"), "{said}");
        std::fs::write(scratch.path().join("thesis.tex"), "").unwrap();
        let said = Study::open(scratch.path(), &settings).unwrap_err().to_string();
        assert!(said.contains("other files"), "{said}");
        std::fs::write(folder.join(STUDY), "{").unwrap();
        assert!(matches!(Study::open(&folder, &settings), Err(StudyError::Damaged { .. })));
    }

    #[test]
    fn other_images_are_told_without_their_fingerprints() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("study");
        Study::open(&folder, &json!({"training data": "3f7a"})).unwrap();
        let said = Study::open(&folder, &json!({"training data": "9bc0"})).unwrap_err().to_string();
        assert!(said.contains("its training images are others") && !said.contains("3f7a"), "{said}");
    }

    #[test]
    fn images_that_cannot_be_read_are_not_counted() {
        let epoch = |skipped, test_skipped| EpochReport {
            epoch: 1,
            loss: 1.0,
            parts: Default::default(),
            train_accuracy: 0.5,
            test_accuracy: 0.75,
            ema_accuracy: None,
            learning_rate: 0.1,
            images_per_second: 1.0,
            waited: 0.0,
            skipped,
            test_skipped,
        };
        let finished = Finished::of(&[epoch(3, 2), epoch(0, 2)], 10);
        assert_eq!(finished, Finished { correct: 6, images: 8, skipped: 5 });
        let older: Finished = serde_json::from_str(r#"{"correct": 1, "images": 2}"#).unwrap();
        assert_eq!(older.skipped, 0);
    }

    /// By the quantile 4.302653 of t with two degrees of freedom.
    #[test]
    fn intervals_over_seeds_are_those_of_student() {
        let OverSeeds { mean, interval, .. } = OverSeeds::of(vec![0.71, 0.74, 0.70]);
        let [low, high] = interval.unwrap();
        assert!((mean - 0.716_666_67).abs() < 1e-8);
        assert!((low - 0.664_955_12).abs() < 1e-5 && (high - 0.768_378_21).abs() < 1e-5, "{low} to {high}");
        assert_eq!(OverSeeds::of(vec![0.5]).interval, None);
        // With 60 degrees of freedom it is 2.000298.
        let many: Vec<f64> = (0..61).map(f64::from).collect();
        let [low, high] = OverSeeds::of(many).interval.unwrap();
        let error = (61.0f64 * 62.0 / 12.0 / 61.0).sqrt();
        assert!(((high - low) / 2.0 / error - 2.000_298).abs() < 2e-3, "{low} to {high}");
        assert_eq!(OverSeeds::difference(&[0.5, 0.25], &[0.25, 0.5]).mean, 0.0);
    }

    fn taught(sat: [f64; 2], accuracy: [f64; 2]) -> Taught {
        Taught {
            teacher: String::new(),
            base_architecture: "CNN".into(),
            relation: Relation::Other,
            sat: sat.to_vec(),
            accuracy: accuracy.to_vec(),
        }
    }

    #[test]
    fn means_over_seeds_are_correlated() {
        let all = [
            taught([1.0, 1.2], [0.70, 0.72]),
            taught([2.0, 2.2], [0.69, 0.69]),
            taught([3.0, 2.8], [0.66, 0.70]),
            taught([4.0, 4.2], [0.66, 0.64]),
            taught([5.0, 5.4], [0.60, 0.64]),
        ];
        let refs: Vec<&Taught> = all.iter().collect();
        let found = correlation(&refs, 500, 0);
        let pearson = found.pearson.unwrap();
        // NumPy: corrcoef([1.1, 2.1, 2.9, 4.1, 5.2], [.71, .69, .68, .65, .62]).
        assert!((pearson.estimate + 0.993_171_56).abs() < 1e-7, "{}", pearson.estimate);
        let [low, high] = pearson.interval;
        assert!(-1.0 - 1e-9 <= low && low <= pearson.estimate && high < -0.5, "{low} to {high}");
        // Of 120 orders, one is as far.
        let p_value = found.p_value.unwrap();
        assert!((1.0 / 501.0..0.05).contains(&p_value), "{p_value}");
        assert_eq!(correlation(&refs, 500, 0), found);
        let few = correlation(&refs[..2], 500, 0);
        assert_eq!((few.teachers, few.pearson, few.p_value), (2, None, None));
        let same = [&all[0], &all[0], &all[0]];
        assert_eq!(correlation(&same, 100, 0).pearson, None);
    }
}
