//! `netkin train`: a network by a recipe, from scratch or from published weights.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use indicatif::{ProgressBar, ProgressStyle};
use netkin_architectures::Network;
use netkin_weights::{HubConfig, ModelSpec, Precision};
use serde::Serialize;

use super::common::{Common, print, print_json, say, visible};
use super::study_options::{again_later, given_once, seed};
use super::{Failure, Outcome, stop, values};
use crate::training::data::{self, Split};
use crate::training::{
    self, Ended, EpochReport, Event, Normalisation, Recipe, Run, StepReport, draw, objective, train,
};

/// Train a network by a recipe, from scratch or from published weights
///
/// What was stopped, by SIGTERM or Ctrl-C too, goes on with the same command, to the same weights as if it had never stopped. The run
/// folder gets the recipe, the weights (model.safetensors, and model_ema.safetensors if there is a moving average), a log and curves,
/// of which `netkin report` makes a page.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The network's name [default: the recipe's, or that of --from]
    model: Option<String>,
    /// How to train: a recipe that netkin carries (deit-tiny, fashion-mnist, …) or a file of one
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "fashion-mnist")]
    recipe: String,
    /// The folder of the images: with train and test (or val) in it, or IDX files (MNIST), or the batches of CIFAR-10
    ///
    /// It holds one of these: train/ and test/ (or val/, validation/), each with a folder per class, with labels.csv (columns file and
    /// label) and what it names, or with tar shards; tar shards with train and test (or val) as a word of their names, in webdataset's
    /// layout (KEY.jpg with KEY.cls or KEY.json); train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
    /// t10k-labels-idx1-ubyte, each also as .gz; data_batch_1.bin to data_batch_5.bin and test_batch.bin of CIFAR-10.
    #[arg(long, value_name = "DIR", required_unless_present = "print_recipe")]
    data: Option<PathBuf>,
    /// The folder of the run; one that was stopped goes on
    #[arg(long, value_name = "DIR", required_unless_present = "print_recipe")]
    run: Option<PathBuf>,
    /// Give an option of the recipe another value, such as optimizer.lr=1e-3; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Epochs: passes over the training images, each in an order of its own, without those at its end that fill no batch
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    epochs: Option<usize>,
    /// Images per batch
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    batch: Option<usize>,
    /// The highest learning rate (optimizer.lr)
    #[arg(long, value_name = "RATE", value_parser = rate)]
    lr: Option<f64>,
    /// Decides initial weights, order, augmentation
    #[arg(long, value_name = "NUMBER", value_parser = seed)]
    seed: Option<u64>,
    /// Begin with these weights, their normalisation too; the classifier is drawn anew if classes differ
    #[arg(long, value_name = "MODEL[=FILE]")]
    from: Option<ModelSpec>,
    /// Write the weights in half precision
    #[arg(long)]
    half: bool,
    /// Print the whole recipe, and train nothing
    #[arg(long)]
    print_recipe: bool,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    recipe: Recipe,
    epochs: Vec<EpochReport>,
    weights: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    ema_weights: Option<PathBuf>,
}

/// A learning rate.
fn rate(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|rate: &f64| *rate > 0.0 && rate.is_finite());
    number.ok_or_else(|| "give a number above 0 such as 1e-3".into())
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        again_later(|| self.train(common))
    }

    fn train(&self, common: &Common) -> Result<Outcome, Failure> {
        let mut recipe = self.recipe()?;
        if self.print_recipe {
            if common.json {
                print_json(&recipe)?;
            } else {
                print(&recipe.to_toml())?;
            }
            return Ok(Outcome::Done);
        }
        let (Some(data), Some(folder)) = (&self.data, &self.run) else {
            return Err("give the images as --data and the folder of the run as --run".into());
        };
        recipe.check()?;
        if recipe.diverge.as_ref().is_some_and(|options| options.against.is_empty()) {
            return Err(format!(
                "the recipe {} has [diverge], but no networks to differ from; give their weights as diverge.against, such as --set \
                 'diverge.against=[\"NAME=FILE\"]', or train several networks away from each other by `netkin diverge`",
                self.recipe
            )
            .into());
        }
        let device = common.device.open()?;
        let (training, testing) = (data::open(data, Split::Train)?, data::open(data, Split::Test)?);
        training::check(&recipe, &training, &testing, &device)?;
        let classes = recipe.classes.unwrap_or_else(|| training.classes());
        training::without_images(&*training).iter().for_each(|note| say(note));
        data::ignored(data).iter().for_each(|note| say(&format!("warning: {note}")));
        let initial = match &self.from {
            Some(spec) => Some(self.initial(spec, &mut recipe, classes, &device, common)?),
            None => None,
        };
        let models = common.load(&objective::networks(&recipe)?, recipe.precision)?;
        let objective = objective::of(&recipe, classes, models)?;
        common.note(&recipe.rate_rule());

        let mut display = Display::new(common, &recipe, folder);
        let run = Run {
            recipe: &recipe,
            objective: &*objective,
            training,
            testing,
            folder: Some(folder),
            device: &device,
            stop: stop::flag(),
            initial,
        };
        let trained = train(&run, &mut |event| display.show(event))?;
        display.bar.finish_and_clear();
        if trained.ended == Ended::Stopped {
            say(&format!("stopped; the same command {}, and gives the same weights", display.next()));
            return Ok(Outcome::TryAgain);
        }
        let precision = if self.half { Precision::F16 } else { recipe.precision };
        let weights = display.write(&trained.network, "model.safetensors", precision)?;
        let ema_weights = match &trained.ema {
            Some(average) => Some(display.write(average, "model_ema.safetensors", precision)?),
            None => None,
        };
        // Those of an earlier process, too, which told them.
        let has_skipped = trained.epochs.iter().any(|epoch| epoch.skipped + epoch.test_skipped > 0);
        if has_skipped {
            say(
                "some images could not be read, and the network was trained or tested without them; the log names them",
            );
        }
        if common.json {
            let netkin = env!("CARGO_PKG_VERSION");
            let (recipe, epochs) = (recipe.clone(), trained.epochs);
            print_json(&Document { netkin, recipe, epochs, weights, ema_weights })?;
        }
        if !trained.is_kept {
            say(&format!(
                "the training is done and its weights are written, but its last checkpoint is not; to have that, too, make room and run the same \
                 command again, which {}",
                display.next()
            ));
            return Ok(Outcome::TryAgain);
        }
        Ok(if has_skipped { Outcome::FellShort } else { Outcome::Done })
    }

    /// The recipe with everything that was typed.
    fn recipe(&self) -> Result<Recipe, Failure> {
        given_once(
            &self.overrides,
            &[
                ("epochs", "--epochs", self.epochs.is_some()),
                ("batch_size", "--batch", self.batch.is_some()),
                ("optimizer.lr", "--lr", self.lr.is_some()),
                ("seed", "--seed", self.seed.is_some()),
                ("model", "MODEL", self.model.is_some()),
            ],
        )?;
        let mut overrides = self.overrides.clone();
        let mut add = |key: &str, value: Option<String>| overrides.extend(value.map(|value| format!("{key}={value}")));
        let named = |name: &str| format!("\"{name}\"");
        add("epochs", self.epochs.map(|epochs| epochs.to_string()));
        add("batch_size", self.batch.map(|batch| batch.to_string()));
        // As TOML writes a number that is not whole.
        add("optimizer.lr", self.lr.map(|rate| format!("{rate:?}")));
        add("seed", self.seed.map(|seed| seed.to_string()));
        add("model", self.model.as_deref().map(named));
        let mut recipe = Recipe::open(&self.recipe, &overrides)?;
        recipe.notes.iter().for_each(|note| say(note));
        if let Some(spec) = &self.from
            && recipe.model.is_empty()
        {
            recipe.model = spec.entry().name.to_owned();
        }
        if recipe.model.is_empty() && !self.print_recipe {
            return Err(format!("the recipe {} names no network; give one as MODEL", self.recipe).into());
        }
        Ok(recipe)
    }

    /// What training begins with: weights in place of numbers that are drawn.
    fn initial(
        &self,
        spec: &ModelSpec,
        recipe: &mut Recipe,
        classes: usize,
        device: &Device,
        common: &Common,
    ) -> Result<Network, Failure> {
        let configured = recipe.configuration()?;
        if configured.entry().name != spec.entry().name {
            return Err(format!(
                "--from gives weights of {}, but the network is {}; give weights of that, or leave MODEL out",
                spec.entry().name,
                configured.entry().name
            )
            .into());
        }
        let bar = common.bar("bytes");
        bar.set_message(visible(&spec.to_string()).into_owned());
        let hub = HubConfig::from_env();
        let mut progress = |progress: netkin_weights::Progress| {
            bar.set_length(progress.total.unwrap_or(0));
            bar.set_position(progress.done);
        };
        let precision = recipe.precision;
        let loaded =
            netkin_weights::finetune(spec, configured.config(), classes, precision, device, &hub, &mut progress)?;
        bar.finish_and_clear();
        for note in &loaded.notes {
            say(&format!("{spec}: {note}"));
        }
        draw(&loaded.network, recipe.seed, device);
        let is_typed = |key: &str| self.overrides.iter().any(|text| text.trim_start().starts_with(key));
        if !is_typed("normalisation.") {
            let wanted = Normalisation::from(&loaded.preprocessing);
            // A shipped recipe's is nobody's wish.
            if recipe.normalisation != wanted && !Recipe::names().any(|name| name == self.recipe) {
                let Normalisation { mean, std } = wanted;
                say(&format!(
                    "images are normalised as {spec} wants them (mean {mean:?}, std {std:?}), not as the recipe {} says; --set \
                     normalisation.mean=… and --set normalisation.std=… decide otherwise",
                    self.recipe
                ));
            }
            recipe.normalisation = wanted;
        }
        Ok(loaded.network)
    }
}

/// What people see of a run.
struct Display<'a> {
    common: &'a Common,
    recipe: &'a Recipe,
    folder: &'a Path,
    bar: ProgressBar,
    /// How the bar looks once the time left is known.
    timed: ProgressStyle,
    /// How often the bar moved.
    moves: usize,
    /// Whether it was said that the device waits.
    has_waited: bool,
    /// Whether the table of epochs has its head, which comes with the first of them: a run that is refused prints nothing.
    has_head: bool,
    /// The epoch and the batch with which the last checkpoint goes on.
    checkpoint: Option<(usize, usize)>,
    /// Images of the epoch that could not be read, those of its test among them.
    skipped: usize,
}

/// So many images that could not be read are named in each epoch.
const MOST_SKIPPED: usize = 10;

/// The share of the time from which on waiting is worth a word.
const LONG: f64 = 0.2;
/// Steps after which the speed says something: the first ones wait for images, and for kernels that are chosen or compiled.
const FEW: usize = 5;

impl<'a> Display<'a> {
    fn new(common: &'a Common, recipe: &'a Recipe, folder: &'a Path) -> Self {
        let bar = common.bar("batches");
        let timed = bar.style();
        bar.set_style(
            ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}").expect("the template is well-formed"),
        );
        Self {
            common,
            recipe,
            folder,
            bar,
            timed,
            moves: 0,
            has_waited: false,
            has_head: false,
            checkpoint: None,
            skipped: 0,
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Start { epoch, batch, .. } => {
                if (*epoch, *batch) != (1, 0) {
                    self.checkpoint = Some((*epoch, *batch));
                    if *epoch > self.recipe.all_epochs() {
                        self.note(&self.finished());
                    } else {
                        self.note(&format!("goes on with epoch {epoch}, batch {}", batch + 1));
                    }
                }
            }
            Event::Step(report) => self.move_bar(report),
            Event::Epoch(report) => {
                self.tell_more_skipped();
                if !self.common.json {
                    let head = if self.has_head { String::new() } else { head(report) };
                    self.has_head = true;
                    self.bar.suspend(|| tell(&(head + &line(report))));
                }
                // The first images always take a moment.
                if report.waited > LONG && report.epoch > 1 && !self.has_waited {
                    self.has_waited = true;
                    self.note(&format!(
                        "training waited for images {:.0} % of the time; faster disks, smaller images or more processors help",
                        100.0 * report.waited
                    ));
                }
            }
            Event::Skipped { id, reason } => {
                self.skipped += 1;
                if self.skipped <= MOST_SKIPPED {
                    self.bar.suspend(|| say(&format!("skipped {id}: {reason}")));
                }
            }
            // Said at the end, as the error.
            Event::Failed { .. } => self.tell_more_skipped(),
            Event::Checkpoint { epoch, batch } => self.checkpoint = Some((*epoch, *batch)),
            Event::NotWritten { reason } => {
                self.bar.suspend(|| say(&format!("warning: training goes on, but {reason}")));
            }
        }
    }

    /// Counts those images of an epoch that could not be read and were not named.
    fn tell_more_skipped(&mut self) {
        let more = std::mem::take(&mut self.skipped).saturating_sub(MOST_SKIPPED);
        if more > 0 {
            self.bar.suspend(|| say(&format!("skipped {more} more images that could not be read; the log names them")));
        }
    }

    /// What is said of a run that has nothing left to do.
    fn finished(&self) -> String {
        let (folder, epochs) = (self.folder.display(), self.recipe.all_epochs());
        format!(
            "{folder} is finished: all {epochs} epochs are done; to train further, begin another run with its weights, by --from \
             {}={folder}/model.safetensors and another folder as --run",
            self.recipe.model
        )
    }

    /// What the same command would do now.
    fn next(&self) -> String {
        match self.checkpoint {
            Some((epoch, _)) if epoch > self.recipe.all_epochs() => "has no more than that to do".to_owned(),
            Some((epoch, batch)) => format!("goes on with epoch {epoch}, batch {}", batch + 1),
            None => "begins anew".to_owned(),
        }
    }

    /// Writes weights into the run folder, and says so.
    fn write(&self, network: &Network, name: &str, precision: Precision) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        netkin_weights::save(network, &path, precision).map_err(|error| match error {
            netkin_weights::Error::Io { error, .. } => Failure::from(io::Error::new(
                error.kind(),
                format!(
                    "cannot write {} ({error}); make room or see to the folder, then run the same command again, which {}",
                    path.display(),
                    self.next()
                ),
            )),
            error => error.into(),
        })?;
        self.common.note(&format!("wrote {}", path.display()));
        Ok(path)
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| self.common.note(text));
    }

    fn move_bar(&mut self, report: &StepReport) {
        let StepReport { epoch, epochs, batch, batches, loss, images_per_second, .. } = report;
        self.bar.set_length((epochs * batches) as u64);
        self.bar.set_position(((epoch - 1) * batches + batch) as u64);
        self.moves += 1;
        let mut message = format!("epoch {epoch}/{epochs}, loss {loss:.4}");
        if self.moves == FEW {
            self.bar.set_style(self.timed.clone());
            // What was done before says nothing about the time left.
            self.bar.reset_eta();
        }
        if self.moves >= FEW {
            message += &format!(", {images_per_second:.0} images/s");
        }
        self.bar.set_message(message);
    }
}

/// The head of the table of epochs.
fn head(report: &EpochReport) -> String {
    let average = if report.ema_accuracy.is_some() { ",ema_accuracy" } else { "" };
    format!("epoch,loss,train_accuracy,test_accuracy,images_per_second{average}\n")
}

/// A line of the table of epochs.
fn line(report: &EpochReport) -> String {
    let EpochReport { epoch, loss, train_accuracy, test_accuracy, ema_accuracy, images_per_second, .. } = report;
    let average = ema_accuracy.map_or(String::new(), |accuracy| format!(",{accuracy:.4}"));
    format!("{epoch},{loss:.4},{train_accuracy:.4},{test_accuracy:.4},{images_per_second:.0}{average}\n")
}

/// Prints to stdout; training goes on without a reader.
fn tell(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
