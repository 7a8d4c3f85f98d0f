//! What commands that train many networks for a study have in common.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use netkin_weights::{ModelSpec, Precision};

use super::common::{Common, say};
use super::{Failure, demo, values};
use crate::images::{Dataset, RgbImage};
use crate::model::Model;
use crate::training::data::{self, Source, Split};
use crate::training::objective::Objective;
use crate::training::study::{Finished, OverSeeds, Study};
use crate::training::{Event, Recipe, Run};

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
    /// How often every image is seen [default: the recipe's]
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    epochs: Option<usize>,
    /// Images per step [default: the recipe's]
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    batch: Option<usize>,
    /// How often all is done, each time from another seed
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = values::positive)]
    seeds: usize,
    /// The first seed
    #[arg(long, value_name = "NUMBER", default_value = "0")]
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

    /// The images.
    pub fn open(&self) -> Result<Images, Failure> {
        let training = data::limit(data::open(&self.data, Split::Train)?, self.images);
        let testing = data::open(&self.data, Split::Test)?;
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
}

impl Images {
    /// Writes the first test images as an ordinary data set into the folder of a study, once.
    pub fn write_tests(&self, study: &Study, count: usize) -> Result<Dataset, Failure> {
        let one = |index: usize| -> Result<(RgbImage, usize), Failure> {
            Ok((self.testing.read(index)?, self.testing.label(index)))
        };
        let images: Vec<(RgbImage, usize)> = (0..count.min(self.testing.len())).map(one).collect::<Result<_, _>>()?;
        demo::write_dataset(study.folder(), images.into_iter())
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
}

impl<'a> Trainees<'a> {
    /// `total` networks; training ends with a checkpoint once `stop` is set.
    pub fn new(
        study: &'a Study,
        images: &'a Images,
        total: usize,
        stop: &'a AtomicBool,
        common: &'a Common,
    ) -> Result<Self, Failure> {
        let device = common.device.open()?;
        Ok(Self { study, images, device, stop, common, total, done: Cell::new(0) })
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
        let mut tell = |event: &Event| match event {
            Event::Skipped { id, reason } => say(&format!("skipped {id}: {reason}")),
            Event::NotWritten { reason } => say(&format!("warning: training goes on, but {reason}")),
            _ => {}
        };
        let finished = self.study.trained(name, run, &mut tell)?;
        match finished {
            None => self.common.note(&format!("stopped while {name} was trained; the same command goes on")),
            Some(Finished { correct, images }) => {
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
