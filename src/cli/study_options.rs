//! What commands that train many networks for a study have in common.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use netkin_weights::{ModelSpec, Precision};

use super::common::{Common, say};
use super::sat::tried_again_later;
use super::{Failure, Outcome, demo, values};
use crate::images::{Dataset, RgbImage};
use crate::model::Model;
use crate::training::data::{self, Source, Split};
use crate::training::objective::Objective;
use crate::training::study::{Finished, OverSeeds, Study, StudyError};
use crate::training::{self, Event, Recipe, Run, TrainingError};

/// A seed as a recipe takes it: TOML knows no larger numbers.
pub fn seed(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|seed: &u64| i64::try_from(*seed).is_ok());
    number.ok_or_else(|| "give a whole number of at least 0 and below 2^63".into())
}

/// Whether a `KEY=VALUE` of `--set` gives a value to that key.
pub fn sets(overrides: &[String], key: &str) -> bool {
    overrides.iter().any(|text| text.split_once('=').is_some_and(|(set, _)| set.trim() == key))
}

/// Refuses keys that `--set` gives as well as an option of their own; of each key its option, and whether that is there.
pub fn given_once(overrides: &[String], options: &[(&str, &str, bool)]) -> Result<(), Failure> {
    match options.iter().find(|(key, _, is_given)| *is_given && sets(overrides, key)) {
        Some((key, option, _)) => {
            Err(format!("{option} and --set {key} give the same value; leave one of them out").into())
        }
        None => Ok(()),
    }
}

/// Does work that trains, and says whether, if it failed, the same may succeed at another time: once the disk has room again, or once
/// another process has left the folder.
pub fn again_later(work: impl FnOnce() -> Result<Outcome, Failure>) -> Result<Outcome, Failure> {
    match tried_again_later(work) {
        Err(failure) if is_busy(&failure) => {
            say(&failure.to_string());
            Ok(Outcome::TryAgain)
        }
        ended => ended,
    }
}

fn is_busy(failure: &Failure) -> bool {
    let busy = |error: &TrainingError| matches!(error, TrainingError::Busy { .. } | TrainingError::Outage { .. });
    match failure.downcast_ref() {
        Some(StudyError::Training(error)) => busy(error),
        _ => failure.downcast_ref().is_some_and(busy),
    }
}

/// Options of every command that trains networks for a study.
#[derive(Debug, clap::Args)]
pub struct StudyOptions {
    /// As `netkin train` takes it, such as /usr/share/datasets/fashion-mnist of Debian's dataset-fashion-mnist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The folder for networks and results; the same command goes on from it
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Train on the first COUNT images
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = values::positive)]
    images: usize,
    /// Count accuracy on the first COUNT test images [default: all]
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    test_images: Option<usize>,
    /// Epochs: passes over the images, each without those that fill no batch [default: the recipe's]
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    epochs: Option<usize>,
    /// Images per step [default: the recipe's]
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    batch: Option<usize>,
    /// How often all is done, each time from another seed
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = values::positive)]
    seeds: usize,
    /// The first seed
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = seed)]
    pub seed: u64,
    /// Another value of an option of the recipe, such as optimizer.lr=1e-3; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// The images of a study.
pub struct Images {
    pub training: Arc<dyn Source>,
    pub testing: Arc<dyn Source>,
}

impl StudyOptions {
    /// The recipe of that name or file for a network, or for the recipe's own, with what the options say in place of what it says.
    pub fn recipe(&self, name: &str, model: Option<&str>) -> Result<Recipe, Failure> {
        let (epochs, batch) = (self.epochs.is_some(), self.batch.is_some());
        given_once(
            &self.overrides,
            &[
                ("model", "the network's name", model.is_some()),
                ("epochs", "--epochs", epochs),
                ("batch_size", "--batch", batch),
            ],
        )?;
        if self.sets("seed") {
            let said = "--set seed is in vain, since each network of a study has a seed of its own; give the first one as --seed";
            return Err(said.into());
        }
        let mut overrides = self.overrides.clone();
        overrides.extend(model.map(|model| format!("model={model}")));
        overrides.extend(self.epochs.map(|epochs| format!("epochs={epochs}")));
        overrides.extend(self.batch.map(|batch| format!("batch_size={batch}")));
        let mut recipe = Recipe::open(name, &overrides)?;
        recipe.notes.iter().for_each(|note| say(note));
        // The seeds are the study's.
        recipe.seed = 0;
        Ok(recipe)
    }

    /// Whether `--set` gives a value to that key.
    pub fn sets(&self, key: &str) -> bool {
        sets(&self.overrides, key)
    }

    /// The images.
    pub fn open(&self) -> Result<Images, Failure> {
        let training = data::limit(data::open(&self.data, Split::Train)?, self.images);
        let testing = data::open(&self.data, Split::Test)?;
        data::ignored(&self.data).iter().for_each(|note| say(&format!("warning: {note}")));
        let testing = match self.test_images {
            Some(count) => data::limit(testing, count),
            None => testing,
        };
        Ok(Images { training, testing })
    }

    /// The seeds.
    pub fn seeds(&self) -> Vec<u64> {
        (0..self.seeds as u64).map(|index| self.seed.wrapping_add(index)).collect()
    }

    /// The highest seed, which a recipe must take, too.
    pub fn last_seed(&self) -> u64 {
        self.seed.saturating_add(self.seeds as u64 - 1)
    }
}

impl Images {
    /// Checks all that can fail before anything is trained, so that a command that is refused leaves no folder behind.
    pub fn check(&self, recipe: &Recipe, device: &Device) -> Result<(), Failure> {
        Ok(training::check(recipe, &self.training, &self.testing, device)?)
    }

    /// Writes the first test images as an ordinary data set into the folder of a study, once; those that cannot be read are left out.
    pub fn write_tests(&self, study: &Study, count: usize) -> Result<Dataset, Failure> {
        let one = |index: usize| Some((self.testing.read(index).ok()?, self.testing.label(index)));
        let images: Vec<(RgbImage, usize)> = (0..count.min(self.testing.len())).filter_map(one).collect();
        demo::write_dataset(study.folder(), images.into_iter())
    }
}

/// Says what goes wrong while the networks of a study are trained, each image once, since all of them see the same.
#[derive(Default)]
pub struct Troubles {
    told: RefCell<BTreeSet<String>>,
    has_skipped: Cell<bool>,
}

impl Troubles {
    pub fn tell(&self, event: &Event) {
        match event {
            Event::Skipped { id, reason } if self.told.borrow_mut().insert(id.clone()) => {
                say(&format!("skipped {id}: {reason}"));
            }
            Event::NotWritten { reason } => say(&format!("warning: training goes on, but {reason}")),
            _ => {}
        }
    }

    /// Takes down how many images a network was trained without, which an earlier process may have told.
    pub fn count(&self, skipped: usize) {
        self.has_skipped.set(self.has_skipped.get() || skipped > 0);
    }

    /// How the command ended, all networks being there.
    pub fn outcome(&self) -> Outcome {
        if !self.has_skipped.get() {
            return Outcome::Done;
        }
        say("some images could not be read, and every network was trained or tested without them");
        Outcome::FellShort
    }
}

/// Trains the networks of a study, one after another, and says how far it is.
pub struct Trainees<'a> {
    study: &'a Study,
    images: &'a Images,
    device: Device,
    stop: &'a AtomicBool,
    common: &'a Common,
    total: usize,
    done: Cell<usize>,
    troubles: Troubles,
}

impl<'a> Trainees<'a> {
    /// `total` networks; training ends with a checkpoint once `stop` is set.
    pub fn new(
        study: &'a Study,
        images: &'a Images,
        total: usize,
        device: Device,
        stop: &'a AtomicBool,
        common: &'a Common,
    ) -> Self {
        Self { study, images, device, stop, common, total, done: Cell::new(0), troubles: Troubles::default() }
    }

    /// How the command ended, all networks being there.
    pub fn outcome(&self) -> Outcome {
        self.troubles.outcome()
    }

    /// Trains a network, or finds it. None if training was stopped.
    pub fn train(&self, name: &str, recipe: &Recipe, objective: &dyn Objective) -> Result<Option<Finished>, Failure> {
        let run = Run {
            recipe,
            objective,
            training: self.images.training.clone(),
            testing: self.images.testing.clone(),
            folder: None,
            device: &self.device,
            stop: self.stop,
            initial: None,
        };
        let finished = self.study.trained(name, run, &mut |event| self.troubles.tell(event))?;
        match finished {
            None => self.common.note(&format!("stopped while {name} was trained; the same command goes on")),
            Some(Finished { correct, images, skipped }) => {
                self.troubles.count(skipped);
                self.done.set(self.done.get() + 1);
                let (done, total) = (self.done.get(), self.total);
                self.common.note(&format!(
                    "{done} of {total} networks: {name} is right about {correct} of {images} test images"
                ));
            }
        }
        Ok(finished)
    }
}

/// A network that was trained for a study, by its name there.
pub fn spec(study: &Study, model: &str, name: &str) -> Result<ModelSpec, Failure> {
    Ok(format!("{model}.{name}").parse::<ModelSpec>()?.with_path(study.weights(name)))
}

/// The network itself.
pub fn load(study: &Study, model: &str, name: &str, common: &Common) -> Result<Model, Failure> {
    common.load_one(&spec(study, model, name)?, Precision::F32)
}

/// A share over seeds in percent, with its interval.
pub fn percent(over_seeds: &OverSeeds) -> String {
    let of = |share: f64| format!("{:.2}", 100.0 * share);
    match over_seeds.interval {
        Some([low, high]) => format!("{} [{}, {}]", of(over_seeds.mean), of(low), of(high)),
        None => of(over_seeds.mean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_another_process_has_is_for_another_time() {
        let busy = || TrainingError::Busy { folder: "run".into() };
        assert_eq!(again_later(|| Err(busy().into())).unwrap(), Outcome::TryAgain);
        assert_eq!(again_later(|| Err(StudyError::from(busy()).into())).unwrap(), Outcome::TryAgain);
        assert!(again_later(|| Err(TrainingError::NoTeacher.into())).is_err());
        let text = || String::from("it");
        let outage =
            TrainingError::Outage { set: "test", images: 32, first: text(), reason: text(), kept: String::new() };
        assert_eq!(again_later(|| Err(outage.into())).unwrap(), Outcome::TryAgain);
    }

    #[test]
    fn images_that_were_left_out_fall_short_whoever_told_them() {
        let troubles = Troubles::default();
        troubles.count(0);
        assert_eq!(troubles.outcome(), Outcome::Done);
        troubles.count(2);
        troubles.count(0);
        assert_eq!(troubles.outcome(), Outcome::FellShort);
    }

    #[test]
    fn a_key_that_is_given_twice_is_refused_with_both() {
        let overrides = ["optimizer.lr=0.1", " batch_size = 8"].map(String::from);
        let options = |is_given| [("batch_size", "--batch", is_given)];
        assert!(given_once(&overrides, &options(false)).is_ok());
        let said = given_once(&overrides, &options(true)).unwrap_err().to_string();
        assert_eq!(said, "--batch and --set batch_size give the same value; leave one of them out");
        assert!(given_once(&overrides, &[("optimizer", "--optimizer", true), ("lr", "--lr", true)]).is_ok());
    }

    #[test]
    fn seeds_are_those_of_toml() {
        assert_eq!(seed("9223372036854775807"), Ok(i64::MAX as u64));
        for wrong in ["9223372036854775808", "-1", "1.5", ""] {
            assert!(seed(wrong).is_err(), "{wrong}");
        }
    }
}
