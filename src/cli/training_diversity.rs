//! `netkin training-diversity`: do seeds, hyper-parameters and regimes make networks as different as architectures do?

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use netkin_architectures::Entry;
use netkin_weights::{HubConfig, ModelSpec, Precision, embedded};
use serde::Serialize;
use serde_json::{Value, json};

use super::common::{Common, print, print_json, say};
use super::sat::run_quietly;
use super::study_options::{Troubles, again_later, seed};
use super::{Failure, Outcome, demo, known, stop, values};
use crate::analysis::stability::{halves, over_images};
use crate::analysis::uncertainty::WithInterval;
use crate::attacks::Iterative;
use crate::files::{MAX_TABLE, read_regular};
use crate::images::RgbImage;
use crate::model::Crop;
use crate::runs::write_atomically;
use crate::similarity::Matrix;
use crate::similarity::sat::{SatConfig, SatRun};
use crate::training::augment::Augmentation;
use crate::training::data::{self, Source, Split};
use crate::training::diversity::{Comparison, Variant, variants};
use crate::training::objective::CrossEntropy;
use crate::training::study::Finished;
use crate::training::{self, Ended, Evaluation, Normalisation, Recipe, Run};

/// Compare networks of one architecture that were trained differently with networks of different architectures
///
/// Trains eleven networks of each architecture (five seeds, five settings of hyper-parameters, three regimes, which have one network in
/// common) and one of each other architecture, attacks them all and prints the mean SAT score of two networks that differ in each way.
/// What is done is kept: the same command goes on where it was stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The architectures that are trained in many ways
    #[arg(value_name = "NAME", default_values = ["demo_resnet", "demo_vit_patch4"])]
    models: Vec<String>,
    /// An architecture that is trained once; may be given several times [default: the other demo networks]
    #[arg(long, value_name = "NAME")]
    other: Vec<String>,
    /// As `netkin train` takes it, such as /usr/share/datasets/fashion-mnist of Debian's dataset-fashion-mnist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The folder for networks, images and the run
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Train on the first COUNT images
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = values::positive)]
    images: usize,
    /// Attack the first COUNT test images
    #[arg(long, value_name = "COUNT", default_value = "500", value_parser = values::positive)]
    test_images: usize,
    /// Epochs: passes over the images, each without those that fill no batch
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = values::positive)]
    epochs: usize,
    /// Images per step
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = values::positive)]
    batch: usize,
    /// Steps of the attack (PGD, 8/255 in steps of 2/255)
    #[arg(long, value_name = "COUNT", default_value = "20", value_parser = values::positive)]
    steps: usize,
    /// The first seed; decides the halves of the images, too
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = seed)]
    seed: u64,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    attack: Iterative,
    images: usize,
    networks: Vec<Trained>,
    architectures: Vec<Architecture>,
    /// Over all pairs of architectures, trained alike.
    between_architectures: Mean,
    /// Of all pairs, those that never fooled each other, whose score is the lower bound.
    never_fooled: usize,
}

/// A network that was trained.
#[derive(Serialize)]
struct Trained {
    name: String,
    architecture: &'static str,
    #[serde(flatten)]
    variant: Variant,
    /// Test images that it classifies correctly.
    correct: usize,
}

/// One that was trained in many ways.
#[derive(Serialize)]
struct Architecture {
    name: &'static str,
    comparisons: Vec<(Comparison, Mean)>,
    /// Beside every other architecture, trained alike.
    other_architectures: Mean,
    /// The least and the most test images that its networks classify correctly.
    correct: [usize; 2],
}

/// The mean SAT score of some pairs.
#[derive(Serialize)]
struct Mean {
    pairs: usize,
    sat: Option<WithInterval>,
}

/// Divisions of the images into halves, for intervals.
const HALVES: usize = 500;

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        again_later(|| self.study(common))
    }

    fn study(&self, common: &Common) -> Result<Outcome, Failure> {
        let entries =
            |names: &[String]| names.iter().map(|name| known(name)).collect::<Result<Vec<&'static Entry>, _>>();
        let models = entries(&self.models)?;
        let mut others = entries(&self.other)?;
        if self.other.is_empty() {
            let all: Vec<String> = embedded::names().map(String::from).collect();
            others = entries(&all)?;
        }
        others.retain(|other| models.iter().all(|model| model.name != other.name));
        let size = models[0].config.input_size();
        if let Some(other) = models.iter().chain(&others).find(|entry| entry.config.input_size() != size) {
            return Err(format!(
                "{} takes images of {:?} pixels and {} of {size:?}; name architectures of one size",
                other.name,
                other.config.input_size(),
                models[0].name
            )
            .into());
        }
        let device = common.device.open()?;
        let training = data::limit(data::open(&self.data, Split::Train)?, self.images);
        let testing = data::limit(data::open(&self.data, Split::Test)?, self.test_images);
        let (usual, augmentation) = self.recipes(size[0])?;
        let of_first = Recipe { model: models[0].name.into(), ..usual.clone() };
        training::check(&of_first, &training, &testing, &device)?;
        let mut wanted = Vec::new();
        for model in &models {
            wanted.extend(variants(&usual, &augmentation).into_iter().map(|variant| (*model, variant)));
        }
        // The usual one comes first.
        wanted.extend(others.iter().map(|other| (*other, variants(&usual, &augmentation).swap_remove(0))));
        let mut networks = Vec::new();
        let troubles = Troubles::default();
        for (number, (entry, variant)) in wanted.iter().enumerate() {
            let Some(trained) = self.trained(entry, variant, &training, &testing, &device, &troubles)? else {
                say("stopped; the same command goes on from here, and gives the same networks");
                return Ok(Outcome::TryAgain);
            };
            common.note(&format!(
                "{} of {} networks: {} is right about {} of {} test images",
                number + 1,
                wanted.len(),
                trained.name,
                trained.correct,
                testing.len()
            ));
            networks.push(trained);
        }
        let attack = Iterative { steps: self.steps, ..Iterative::default() };
        let run = self.compare(&networks, attack.clone(), &*testing, common)?;
        let document = document(networks, attack, &models, &run, self.seed);
        let text = document.to_text();
        write_atomically(&self.out.join("training-diversity.txt"), text.as_bytes())?;
        if common.json {
            print_json(&document)?;
        } else {
            print(&text)?;
        }
        Ok(troubles.outcome())
    }

    /// The usual way to train on images of that side, and the augmentation of the regimes that have one.
    fn recipes(&self, side: usize) -> Result<(Recipe, Augmentation), Failure> {
        let mut usual = Recipe::open("fashion-mnist", &[])?;
        let augmentation = Augmentation { padding: side / 8, ..usual.augmentation };
        usual.augmentation = Augmentation::none();
        usual.epochs = self.epochs;
        usual.batch_size = self.batch;
        usual.optimizer.lr = 3e-3;
        usual.schedule.warmup_epochs = usize::from(self.epochs > 1);
        usual.seed = self.seed;
        Ok((usual, augmentation))
    }

    fn weights(&self, name: &str) -> PathBuf {
        self.out.join("networks").join(format!("{name}.safetensors"))
    }

    /// Trains a network, or finds it in the folder; none if that was stopped.
    fn trained(
        &self,
        entry: &'static Entry,
        variant: &Variant,
        training: &Arc<dyn Source>,
        testing: &Arc<dyn Source>,
        device: &Device,
        troubles: &Troubles,
    ) -> Result<Option<Trained>, Failure> {
        let name = format!("{}.{}", entry.name, variant.tag);
        let weights = self.weights(&name);
        let mut recipe = Recipe { model: entry.name.into(), ..variant.recipe.clone() };
        // As images will be prepared for the weights when they are loaded.
        let spec = name.parse::<ModelSpec>()?.with_path(weights.clone());
        let preprocessing = netkin_weights::preprocessing(&spec, &HubConfig::from_env())?;
        recipe.normalisation = Normalisation::from(&preprocessing);
        recipe.evaluation = Evaluation { crop_pct: preprocessing.crop_pct, interpolation: preprocessing.interpolation };
        let settings = json!({
            "recipe": recipe.settings(),
            "training": training.fingerprint(),
            "testing": testing.fingerprint(),
        });
        let record = weights.with_extension("json");
        let trained =
            |correct| Trained { name: name.clone(), architecture: entry.name, variant: variant.clone(), correct };
        if weights.exists()
            && let Some((correct, skipped)) = recorded(&record, &settings)?
        {
            troubles.count(skipped);
            return Ok(Some(trained(correct)));
        }
        let folder = weights.with_extension("run");
        let run = Run {
            recipe: &recipe,
            objective: &CrossEntropy,
            training: Arc::clone(training),
            testing: Arc::clone(testing),
            folder: Some(&folder),
            device,
            stop: stop::flag(),
            initial: None,
        };
        let done = training::train(&run, &mut |event| troubles.tell(event))?;
        if done.ended == Ended::Stopped {
            return Ok(None);
        }
        let Finished { correct, skipped, .. } = Finished::of(&done.epochs, testing.len());
        troubles.count(skipped);
        training::save(&done.network, &weights, Precision::F32)?;
        let document = json!({"settings": settings, "correct": correct, "skipped": skipped});
        write_atomically(&record, &serde_json::to_vec_pretty(&document)?)?;
        // The weights are there; a run that cannot be removed does no harm.
        let _ = std::fs::remove_dir_all(&folder);
        Ok(Some(trained(correct)))
    }

    /// Attacks them all.
    fn compare(
        &self,
        networks: &[Trained],
        attack: Iterative,
        testing: &dyn Source,
        common: &Common,
    ) -> Result<SatRun, Failure> {
        // Those that cannot be read were told when the networks were tested.
        let image = |index: usize| Some((testing.read(index).ok()?, testing.label(index)));
        let images: Vec<(RgbImage, usize)> = (0..testing.len()).filter_map(image).collect();
        let dataset = demo::write_dataset(&self.out, images.into_iter())?;
        let spec = |network: &Trained| -> Result<ModelSpec, netkin_weights::Error> {
            Ok(network.name.parse::<ModelSpec>()?.with_path(self.weights(&network.name)))
        };
        let specs: Vec<ModelSpec> = networks.iter().map(spec).collect::<Result<_, _>>()?;
        let models = common.load(&specs, Precision::F32)?;
        let config = SatConfig { attack: Arc::new(attack), crop: Crop::Own, batch: 128, ..SatConfig::default() };
        let run = run_quietly(&models, &dataset, &config, &self.out.join("run"), common)?;
        write_atomically(&self.out.join("run").join("sat.csv"), run.matrix().to_csv().as_bytes())?;
        Ok(run)
    }
}

/// How many test images a network that was trained gets right, and how many images could not be read, by its record; none if there is
/// no record that can be read.
///
/// # Errors
/// If it was trained with other settings.
fn recorded(record: &Path, settings: &Value) -> Result<Option<(usize, usize)>, Failure> {
    let Ok(bytes) = read_regular(record, MAX_TABLE) else { return Ok(None) };
    let Ok(document) = serde_json::from_slice::<Value>(&bytes) else { return Ok(None) };
    if document["settings"] != *settings {
        return Err(format!(
            "{} was made with other options or other images; give the same ones, or another folder as --out",
            record.display()
        )
        .into());
    }
    let count = |name: &str| document[name].as_u64().map(|count| count as usize);
    Ok(count("correct").map(|correct| (correct, count("skipped").unwrap_or(0))))
}

/// The networks are those of the run, in its order.
fn document(networks: Vec<Trained>, attack: Iterative, models: &[&'static Entry], run: &SatRun, seed: u64) -> Document {
    let halves = halves(run, HALVES, seed);
    let all: Vec<(usize, usize)> =
        (0..networks.len()).flat_map(|a| (a + 1..networks.len()).map(move |b| (a, b))).collect();
    let mean = |is_wanted: &dyn Fn(&Trained, &Trained) -> bool| {
        let pairs: Vec<(usize, usize)> =
            all.iter().copied().filter(|&(a, b)| is_wanted(&networks[a], &networks[b])).collect();
        Mean { sat: over_images(run, &halves, |matrix| mean_of(matrix, &pairs)), pairs: pairs.len() }
    };
    // The networks that were trained in the usual way take part in every comparison.
    let is_usual = |network: &Trained| network.variant.comparisons.len() == Comparison::ALL.len();
    let between = |a: &Trained, b: &Trained| a.architecture != b.architecture && is_usual(a) && is_usual(b);
    let architecture = |model: &&'static Entry| {
        let is_one = |network: &Trained| network.architecture == model.name;
        let compared = |comparison: Comparison| {
            let takes_part = |network: &Trained| is_one(network) && network.variant.comparisons.contains(&comparison);
            (comparison, mean(&|a, b| takes_part(a) && takes_part(b)))
        };
        let correct = networks.iter().filter(|network| is_one(network)).map(|network| network.correct);
        Architecture {
            name: model.name,
            comparisons: Comparison::ALL.into_iter().map(compared).collect(),
            other_architectures: mean(&|a, b| between(a, b) && (is_one(a) || is_one(b))),
            correct: correct.fold([usize::MAX, 0], |[low, high], count| [count.min(low), count.max(high)]),
        }
    };
    Document {
        netkin: env!("CARGO_PKG_VERSION"),
        images: run.images,
        architectures: models.iter().map(architecture).collect(),
        between_architectures: mean(&between),
        never_fooled: run.pairs().iter().filter(|pair| pair.n > 0 && pair.fooled_ab + pair.fooled_ba == 0).count(),
        attack,
        networks,
    }
}

/// The mean score of these pairs; pairs without a score do not count.
fn mean_of(matrix: &Matrix, pairs: &[(usize, usize)]) -> f64 {
    let scores: Vec<f64> = pairs.iter().map(|&(a, b)| matrix.get(a, b)).filter(|score| !score.is_nan()).collect();
    scores.iter().sum::<f64>() / scores.len() as f64
}

impl Document {
    fn to_text(&self) -> String {
        let mut text = format!(
            "{} networks, {} images, PGD of {} steps: mean SAT of two networks [95 % over images]\n\n",
            self.networks.len(),
            self.images,
            self.attack.steps
        );
        let cell = |mean: &Mean| match mean.sat {
            Some(WithInterval { estimate, interval: [low, high] }) => {
                format!("{estimate:.3} [{low:.3}, {high:.3}], {} pair(s)", mean.pairs)
            }
            None => "none".into(),
        };
        let mut line = |name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!("  {cell:32}")).collect();
            text += format!("{name:19}{cells}").trim_end();
            text.push('\n');
        };
        line("", self.architectures.iter().map(|architecture| architecture.name.to_owned()).collect());
        for (index, comparison) in Comparison::ALL.into_iter().enumerate() {
            let name = match comparison {
                Comparison::Initialisation => "initialisation",
                Comparison::HyperParameters => "hyper-parameters",
                Comparison::Regime => "regime",
            };
            line(
                name,
                self.architectures.iter().map(|architecture| cell(&architecture.comparisons[index].1)).collect(),
            );
        }
        line(
            "other architectures",
            self.architectures.iter().map(|architecture| cell(&architecture.other_architectures)).collect(),
        );
        let correct = |Architecture { correct: [low, high], .. }: &Architecture| {
            let [low, high] = [low, high].map(|count| 100.0 * *count as f64 / self.images as f64);
            format!("{low:.1} % to {high:.1} %")
        };
        line("correct", self.architectures.iter().map(correct).collect());
        text += &format!("\nany two architectures, trained alike: {}\n", cell(&self.between_architectures));
        if self.never_fooled > 0 {
            text += &format!(
                "{} pair(s) of all never fooled each other; their scores are the lower bound, which more images would raise\n",
                self.never_fooled
            );
        }
        text
    }
}
