//! The loop: batches, losses, gradients, steps; tests, checkpoints, the log.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use netkin_architectures::{AnyConfiguration, Architecture, Network, Taps};
use netkin_weights::Precision;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, Position, Settings, unusable};
use super::data::{Ahead, Batch, Outage, Source, Stream, StreamPlan, evaluation, stream};
use super::ema::Average;
use super::lock::Lock;
use super::log::{EpochReport, Event, Log, StepReport};
use super::objective::{Losses, Objective, Student, TrainingBatch, normalise};
use super::sets::{check, widened};
use super::{Recipe, TrainingError};
use crate::device;
use crate::images::Skipped;
use crate::model::{Cast, to_f64};
use crate::random::Random;
use crate::runs::{RunError, write_atomically};

/// One training of one network.
pub struct Run<'a> {
    /// How.
    pub recipe: &'a Recipe,
    /// What for.
    pub objective: &'a dyn Objective,
    /// What is learnt from.
    pub training: Arc<dyn Source>,
    /// What is tested on after each epoch.
    pub testing: Arc<dyn Source>,
    /// Where the run is kept: `recipe.toml`, `config.json`, `checkpoint`, `log.jsonl`, `curves.svg` and `lock`. If it holds a checkpoint
    /// of the same recipe, objective and training images, the run goes on from it. `None` keeps nothing.
    pub folder: Option<&'a Path>,
    /// Where it computes.
    pub device: &'a Device,
    /// Once it is set, the run ends after the step that it is at, or before the one whose images it waits for, with a checkpoint.
    pub stop: &'a AtomicBool,
    /// What training begins with, with as many outputs as there are classes; else it is drawn from the seed.
    pub initial: Option<Network>,
}

/// What a run gives.
#[derive(Debug)]
pub struct Trained {
    /// In evaluation mode, without autodiff.
    pub network: Network,
    /// The moving average of its weights, if there is one.
    pub ema: Option<Network>,
    /// Every epoch, those before a checkpoint among them.
    pub epochs: Vec<EpochReport>,
    /// How it ended.
    pub ended: Ended,
    /// Whether the folder's checkpoint is of where the run ended; true as well of a run without a folder, which keeps nothing.
    pub is_kept: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// All epochs are done.
    Done,
    /// It was asked to stop.
    Stopped,
}

const CHECKPOINT: &str = "checkpoint";
pub(super) const LOG: &str = "log.jsonl";

/// Trains a network, and gives it in evaluation mode.
///
/// What happens to which image in which epoch, and what is left out at which step, is drawn from the seed and the numbers of epoch,
/// batch and image alone, and a checkpoint holds everything else: a run that is stopped after any step and goes on gives the same
/// weights, bit for bit, as one that never stopped (same device, same kernels).
///
/// If there is nothing to begin with, the device's random numbers are seeded, which on the CPU is global: build nothing else at random
/// meanwhile.
///
/// # Errors
/// If [`check`](super::check) refuses the run, a set has no image that can be read, the folder's checkpoint is of another run or
/// damaged, another process trains in the folder, it cannot be written to when training begins, many images in a row
/// are out of reach (with a checkpoint of the state before them), or the loss or the weights are no longer finite. A
/// file that cannot be written later, since the disk is full, ends nothing: see [`Event::NotWritten`].
pub fn train(run: &Run, on_event: &mut dyn FnMut(&Event)) -> Result<Trained, TrainingError> {
    let mut trainer = Trainer::begin(run, on_event)?;
    let mut ended = Ended::Done;
    while ended == Ended::Done && trainer.position.epoch <= run.recipe.all_epochs() {
        ended = trainer.epoch().map_err(|error| trainer.failed(error))?;
    }
    let Position { epoch, batch, .. } = trainer.position;
    Ok(Trained {
        is_kept: trainer.folder.as_ref().is_none_or(|folder| folder.checkpoint == Some((epoch, batch))),
        network: trainer.network.valid(),
        ema: trainer.average.map(Average::into_network),
        epochs: trainer.position.epochs,
        ended,
    })
}

/// The share of the images that `network`, in evaluation mode, classifies correctly, of those that can be read; 0 to 1. Of the recipe it
/// uses what says how images are seen, and the batch size.
///
/// # Panics
/// If the recipe names no network, or none that runs at its size.
pub fn accuracy(network: &Network, recipe: &Recipe, images: Arc<dyn Source>, device: &Device) -> f64 {
    let size = recipe.configuration().expect("the recipe was trained with").input_size();
    match test(network, recipe, size, images, device, None) {
        Test::Done(tested) => tested.accuracy(),
        Test::Stopped | Test::Outage(_) => 0.0,
    }
}

/// As [`netkin_weights::save`], but what cannot be written is a [`RunError::Write`], which may pass.
///
/// # Errors
/// If the weights hold what is no number, or the file cannot be written.
pub fn save(network: &Network, path: &Path, precision: Precision) -> Result<(), TrainingError> {
    netkin_weights::save(network, path, precision).map_err(|error| match error {
        netkin_weights::Error::Io { path, error, .. } => RunError::Write { path, source: error }.into(),
        error => error.into(),
    })
}

/// A network whose parameters are drawn from the seed.
pub fn initial_network(config: &dyn AnyConfiguration, classes: usize, seed: u64, device: &Device) -> Network {
    let device = device.clone().without_autodiff();
    let network = config.build(classes, &device);
    draw(&network, seed, &device);
    network
}

/// Draws the parameters that have no value yet, from the seed.
///
/// They are drawn when first used, from one global source; using them in the order of their keys, and by one thread at a time, makes them
/// a function of the seed.
pub fn draw(network: &Network, seed: u64, device: &Device) {
    struct Draw;
    impl ModuleVisitor for Draw {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }
    static SOURCE: Mutex<()> = Mutex::new(());
    let _alone = SOURCE.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    network.visit(&mut Draw);
}

/// What an epoch has brought so far: sums.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    loss: f64,
    parts: BTreeMap<String, f64>,
    correct: usize,
    images: usize,
    batches: usize,
    skipped: usize,
    /// The rate of the last step.
    learning_rate: f64,
    /// In training, without tests.
    seconds: f64,
    /// Of them, spent waiting for images.
    waited: f64,
}

/// A run under way.
struct Trainer<'r, 'e> {
    run: &'r Run<'r>,
    on_event: &'e mut dyn FnMut(&Event),
    /// Height and width of the images.
    size: [usize; 2],
    training: Arc<dyn Source>,
    testing: Arc<dyn Source>,
    /// With autodiff.
    device: Device,
    dtype: DType,
    network: Network,
    optimizer: ModuleOptimizer,
    average: Option<Average>,
    position: Position,
    /// What of the steps is still on the device, not waited for.
    pending: Vec<Pending>,
    /// Since the last step event, and since the log's last line of steps.
    told: Interval,
    logged: Interval,
    /// Ids of images that could not be read.
    skipped: HashSet<String>,
    folder: Option<Folder>,
}

/// Where a run is kept.
struct Folder {
    path: PathBuf,
    settings: Settings,
    log: Log,
    /// The epoch and the batch with which its checkpoint goes on, if there is one.
    checkpoint: Option<(usize, usize)>,
    _lock: Lock,
}

impl<'r, 'e> Trainer<'r, 'e> {
    fn begin(run: &'r Run<'r>, on_event: &'e mut dyn FnMut(&Event)) -> Result<Self, TrainingError> {
        let recipe = run.recipe;
        check(recipe, &run.training, &run.testing, run.device)?;
        let configured = recipe.configuration()?;
        let [training, testing] = widened(recipe, &run.training, &run.testing)?;
        let lock = run.folder.map(Lock::of).transpose()?;
        let classes = training.classes();
        let (size, family) = (configured.input_size(), configured.entry().family);
        let plain = run.device.clone().without_autodiff();
        let dtype = recipe.precision.dtype();

        let (network, hash) = match &run.initial {
            Some(network) => {
                let bytes = netkin_weights::to_safetensors(&network.valid(), recipe.precision)?;
                (network.valid(), Some(blake3::hash(&bytes).to_string()))
            }
            None => (initial_network(configured.config(), classes, recipe.seed, &plain).valid(), None),
        };
        let network = network.map(&mut Cast(dtype.into()));
        if run.initial.is_some() {
            let [height, width] = size;
            let image = Tensor::zeros([1, 3, height, width], (&plain, dtype));
            let [_, found] = network.forward(image, &mut Taps::none()).logits.dims();
            if found != classes {
                return Err(TrainingError::InitialClasses { found, classes });
            }
        }
        let parameters = netkin_architectures::registry::parameters(&network);
        let mut network = network.unfreeze().train();
        let mut optimizer = recipe.optimizer.build(&network, family);
        let decay = recipe.regularisation.ema_decay;
        let mut average = (decay > 0.0).then(|| Average::new(&network, decay));
        let mut position = Position::default();

        let mut folder = None;
        if let Some((path, lock)) = run.folder.zip(lock) {
            let settings = Settings::new(recipe, &*training, run.objective.settings(), hash);
            let file = path.join(CHECKPOINT);
            let mut checkpoint = None;
            if let Some(found) = Checkpoint::read(&file, &settings)? {
                position = found.position.clone();
                checkpoint = Some((position.epoch, position.batch));
                let restored = found.restore(network, &recipe.optimizer, family);
                let (stored, steps, followed) = restored.map_err(|error| unusable(&file, error))?;
                (network, optimizer) = (stored, steps);
                if let (Some(average), Some(followed)) = (&mut average, followed) {
                    average.replace(followed);
                }
            }
            let config = recipe.model_config(classes)?;
            let config = serde_json::to_vec_pretty(&config).expect("a configuration is made of words and numbers");
            write_atomically(&path.join("recipe.toml"), recipe.to_toml().as_bytes())?;
            write_atomically(&path.join("config.json"), &config)?;
            let log = path.join(LOG);
            let log = Log::open(&log, position.log).map_err(|source| RunError::Write { path: log, source })?;
            folder = Some(Folder { path: path.to_owned(), settings, log, checkpoint, _lock: lock });
        }
        let mut trainer = Self {
            run,
            on_event,
            size,
            training,
            testing,
            device: plain.autodiff(),
            dtype,
            network,
            optimizer,
            average,
            position,
            pending: Vec::new(),
            told: Interval::default(),
            logged: Interval::default(),
            skipped: HashSet::new(),
            folder,
        };
        let Position { epoch, batch, .. } = trainer.position;
        trainer.tell(&Event::Start {
            netkin: env!("CARGO_PKG_VERSION"),
            device: device::name(run.device),
            epoch,
            batch,
            images: trainer.training.len(),
            test_images: trainer.testing.len(),
            classes,
            parameters,
            objective: run.objective.settings(),
        });
        Ok(trainer)
    }

    /// Does what remains of an epoch.
    fn epoch(&mut self) -> Result<Ended, TrainingError> {
        let recipe = self.run.recipe;
        let mut stream = stream(Arc::clone(&self.training), self.plan());
        let batches = stream.batches();
        let rates = recipe.rates(batches);
        let accumulate = recipe.optimizer.accumulate;
        // Waiting for a step's result costs nothing on the CPU; elsewhere the device would idle.
        let most_pending = if device::is_cpu(self.run.device) { 1 } else { 16 };
        let Progress { seconds, waited, .. } = self.position.progress;
        let clock = Clock { start: Instant::now(), seconds, waited };
        self.told = Interval::at(&self.position.progress);
        self.logged = self.told.clone();
        let mut skipped = 0;

        while self.position.batch < batches {
            let before = self.position.batch;
            let count = accumulate.min(batches - before);
            // Not within a step: what its first batches did to running statistics could not be undone.
            if self.is_stopped() {
                return self.stop(&clock, &stream);
            }
            match stream.look_ahead(count, self.run.stop) {
                Ahead::Ready => {}
                Ahead::Stopped => return self.stop(&clock, &stream),
                Ahead::Outage(outage) => {
                    self.stop(&clock, &stream)?;
                    let has_read = outage.has_read || self.position.progress.images > 0;
                    return Err(self.out_of_reach("training", outage, has_read));
                }
            }
            let rate = rates.rate(self.position.epoch, before / accumulate);
            self.step(&mut stream, count, rate);
            skipped = self.tell_skipped(stream.skipped(), skipped);

            let every = recipe.checkpoint_every;
            let is_due = every > 0 && self.position.batch / every > before / every;
            let is_last = self.position.batch >= batches;
            if self.pending.len() >= most_pending || is_due || is_last {
                self.settle(&clock, &stream)?;
                self.tell_steps(batches);
            }
            if is_due && !is_last {
                self.check_weights()?;
                self.keep();
            }
        }
        let Progress { images, .. } = self.position.progress;
        if images == 0 {
            let first = stream.skipped().first().map_or("there is none".to_owned(), |skipped| skipped.reason.clone());
            return Err(TrainingError::Unreadable { set: "training", first, kept: String::new() });
        }
        // The threads that read are of no more use.
        drop(stream);
        self.check_weights()?;

        let tested = self.network.valid();
        let Some(tested) = self.tested(&tested)? else { return self.stopped() };
        let mut ema_accuracy = None;
        if let Some(average) = &self.average {
            let average = average.network().clone();
            let Some(tested) = self.tested(&average)? else { return self.stopped() };
            ema_accuracy = Some(tested.accuracy());
        }
        self.end_epoch(&tested, ema_accuracy);
        Ok(Ended::Done)
    }

    /// What the epoch's images are to be.
    fn plan(&self) -> StreamPlan {
        let recipe = self.run.recipe;
        StreamPlan {
            augmentation: recipe.augmentation.clone(),
            size: self.size,
            mean: recipe.normalisation.mean,
            std: recipe.normalisation.std,
            batch_size: recipe.batch_size.min(self.training.len()),
            label_smoothing: recipe.regularisation.label_smoothing,
            seed: recipe.seed,
            epoch: self.position.epoch,
            first_batch: self.position.batch,
            threads: recipe.reading_threads(),
        }
    }

    /// One step of the optimiser, from the gradients of so many batches.
    fn step(&mut self, stream: &mut Stream, count: usize, rate: f64) {
        let recipe = self.run.recipe;
        let mut sum = GradientsAccumulator::new();
        for _ in 0..count {
            self.position.batch += 1;
            // A batch of which no image can be read teaches nothing.
            let Some(batch) = stream.next().filter(|batch| !batch.indices.is_empty()) else { continue };
            let batch = self.on_device(batch);
            let student = Student {
                network: &self.network,
                mean: recipe.normalisation.mean,
                std: recipe.normalisation.std,
                seed: self.draws(b"student"),
            };
            let losses = self.run.objective.losses(&student, &batch);
            let total = match count {
                1 => losses.total.clone(),
                _ => losses.total.clone().mul_scalar(1.0 / count as f64),
            };
            let gradients = GradientsParams::from_grads(total.backward(), &self.network);
            sum.accumulate(&self.network, gradients);
            self.pending.push(Pending::new(losses, &batch.labels, self.position.batch, rate));
        }
        let gradients = sum.grads();
        if gradients.is_empty() {
            return;
        }
        let gradients = recipe.optimizer.clip(&self.network, gradients);
        self.network = self.optimizer.step(rate, self.network.clone(), gradients);
        if let Some(average) = &mut self.average {
            average.follow(&self.network);
        }
    }

    fn on_device(&self, batch: Batch) -> TrainingBatch {
        let (count, [height, width]) = (batch.labels.len(), self.size);
        let classes = batch.targets.len() / count;
        let options = || (&self.device, self.dtype);
        TrainingBatch {
            pixels: Tensor::from_data(TensorData::new(batch.pixels, [count, 3, height, width]), options()),
            targets: Tensor::from_data(TensorData::new(batch.targets, [count, classes]), options()),
            labels: batch.labels,
            seed: self.draws(b"objectiv"),
        }
    }

    /// A seed for one purpose at this batch.
    fn draws(&self, purpose: &[u8]) -> u64 {
        let purpose = purpose.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte));
        let Position { epoch, batch, .. } = self.position;
        Random::of(&[self.run.recipe.seed, epoch as u64, batch as u64, purpose]).draw()
    }

    /// Waits for what the steps brought, and adds it up.
    fn settle(&mut self, clock: &Clock, stream: &Stream) -> Result<(), TrainingError> {
        for pending in std::mem::take(&mut self.pending) {
            let settled = pending.settle();
            if !settled.loss.is_finite() {
                return Err(self.diverged(settled.batch, Some(settled.loss)));
            }
            for interval in [&mut self.told, &mut self.logged] {
                interval.add(&settled);
            }
            self.position.progress.add(settled);
        }
        self.position.progress.seconds = clock.seconds + clock.start.elapsed().as_secs_f64();
        self.position.progress.waited = clock.waited + stream.waited().as_secs_f64();
        Ok(())
    }

    /// The error of the loss of a batch, or without one of the weights after it, that is no longer finite.
    fn diverged(&self, batch: usize, loss: Option<f64>) -> TrainingError {
        let kept = match &self.folder {
            Some(Folder { path, checkpoint: Some((epoch, batch)), .. }) => {
                let file = path.join(CHECKPOINT);
                format!("; {} keeps the state before epoch {epoch}, batch {}", file.display(), batch + 1)
            }
            Some(Folder { path, .. }) => {
                format!("; {} has no checkpoint yet, so the same command begins anew", path.display())
            }
            None => String::new(),
        };
        TrainingError::Diverged { epoch: self.position.epoch, batch, loss, kept }
    }

    /// Refuses weights that are not finite: a finite loss may have brought steps that are not.
    fn check_weights(&self) -> Result<(), TrainingError> {
        let mut sum = Sum(None);
        self.network.visit(&mut sum);
        match sum.0.map(|sum| to_f64(sum)[0]) {
            Some(sum) if !sum.is_finite() => Err(self.diverged(self.position.batch, None)),
            _ => Ok(()),
        }
    }

    /// Tells what the steps since the last time brought, and the log, if it is time.
    fn tell_steps(&mut self, batches: usize) {
        let Position { epoch, batch, progress, .. } = &self.position;
        let epochs = self.run.recipe.all_epochs();
        let report = |interval: &Interval| interval.report(progress, [*epoch, epochs], [*batch, batches]);
        let step = (self.told.batches > 0).then(|| Event::Step(report(&self.told)));
        let line = (self.logged.batches >= self.run.recipe.log_every).then(|| Event::Step(report(&self.logged)));
        let now = Interval::at(progress);
        if let Some(step) = step {
            (self.on_event)(&step);
            self.told = now.clone();
        }
        if let Some(line) = line {
            self.log(&line);
            self.logged = now;
        }
    }

    /// Tells which images could not be read, each once, and counts them; `counted` were counted before.
    fn tell_skipped(&mut self, skipped: &[Skipped], counted: usize) -> usize {
        for Skipped { id, reason, .. } in &skipped[counted..] {
            self.position.progress.skipped += 1;
            self.tell_one_skipped(id, reason);
        }
        skipped.len()
    }

    fn tell_one_skipped(&mut self, id: &str, reason: &str) {
        if self.skipped.insert(id.to_owned()) {
            self.tell(&Event::Skipped { id: id.to_owned(), reason: reason.to_owned() });
        }
    }

    /// Tests a network, and tells which images could not be read; `None` if the run is to stop.
    fn tested(&mut self, network: &Network) -> Result<Option<Tested>, TrainingError> {
        let Run { recipe, device, stop, .. } = self.run;
        let tested = match test(network, recipe, self.size, Arc::clone(&self.testing), device, Some(*stop)) {
            Test::Done(tested) => tested,
            Test::Stopped => return Ok(None),
            Test::Outage(outage) => {
                // The epoch is trained, and only its test is done again.
                self.keep();
                let has_read = outage.has_read;
                return Err(self.out_of_reach("test", outage, has_read));
            }
        };
        for Skipped { id, reason, .. } in &tested.skipped {
            self.tell_one_skipped(id, reason);
        }
        match tested.skipped.first() {
            Some(first) if tested.images == 0 => {
                let first = first.reason.clone();
                self.keep();
                Err(TrainingError::Unreadable { set: "test", first, kept: self.goes_on() })
            }
            _ => Ok(Some(tested)),
        }
    }

    /// The error of images out of reach. Of a set of which none was ever read, `has_read` false, it is more likely that none can be.
    fn out_of_reach(&self, set: &'static str, outage: Outage, has_read: bool) -> TrainingError {
        let Outage { first, images, .. } = outage;
        let kept = self.goes_on();
        if has_read || !self.position.epochs.is_empty() {
            TrainingError::Outage { set, images, first: first.id, reason: first.reason, kept }
        } else {
            TrainingError::Unreadable { set, first: first.reason, kept }
        }
    }

    /// What the same command does once a run that ended here can go on, as the end of a sentence.
    fn goes_on(&self) -> String {
        match self.folder.as_ref().map(|folder| folder.checkpoint) {
            None => String::new(),
            Some(None) => "; it begins anew".to_owned(),
            Some(Some((epoch, batch))) if batch > 0 && (epoch, batch) == (self.position.epoch, self.position.batch) => {
                format!(
                    "; nothing that was trained is lost: the same command goes on after epoch {epoch}, batch {batch}"
                )
            }
            Some(Some((epoch, batch))) => format!("; the same command goes on with epoch {epoch}, batch {}", batch + 1),
        }
    }

    /// Tells that the run ended by an error, which is given back.
    fn failed(&mut self, error: TrainingError) -> TrainingError {
        let batch = match error {
            TrainingError::Diverged { batch, .. } => batch,
            _ => self.position.batch,
        };
        self.tell(&Event::Failed { epoch: self.position.epoch, batch, reason: error.to_string() });
        error
    }

    fn end_epoch(&mut self, tested: &Tested, ema_accuracy: Option<f64>) {
        let progress = std::mem::take(&mut self.position.progress);
        let report = progress.report(self.position.epoch, tested, ema_accuracy);
        self.position.epochs.push(report.clone());
        self.position.epoch += 1;
        self.position.batch = 0;
        let event = Event::Epoch(report);
        self.log(&event);
        if let Some(folder) = &self.folder {
            let figure = super::report::curves(&self.position.epochs, &self.run.recipe.model);
            let written = write_atomically(&folder.path.join("curves.svg"), figure.to_svg().as_bytes());
            if let Err(error) = written {
                (self.on_event)(&not_written(error, "it is drawn anew after each epoch; make room"));
            }
        }
        self.keep();
        (self.on_event)(&event);
    }

    fn is_stopped(&self) -> bool {
        self.run.stop.load(Ordering::Relaxed)
    }

    /// Ends the run between two steps.
    fn stop(&mut self, clock: &Clock, stream: &Stream) -> Result<Ended, TrainingError> {
        self.settle(clock, stream)?;
        self.stopped()
    }

    fn stopped(&mut self) -> Result<Ended, TrainingError> {
        self.check_weights()?;
        self.keep();
        Ok(Ended::Stopped)
    }

    /// Writes a checkpoint, if there is a folder for it. One that cannot be written is told, and nothing else: the one before it, if
    /// there is one, is still there.
    fn keep(&mut self) {
        let Some(folder) = &mut self.folder else { return };
        self.position.log = folder.log.length();
        let average = self.average.as_ref().map(Average::network);
        let file = folder.path.join(CHECKPOINT);
        let written =
            Checkpoint::write(&file, &folder.settings, &self.position, &self.network, &self.optimizer, average);
        let Position { epoch, batch, .. } = self.position;
        match written {
            Ok(()) => {
                folder.checkpoint = Some((epoch, batch));
                self.tell(&Event::Checkpoint { epoch, batch });
            }
            Err(error) => {
                let from = match folder.checkpoint {
                    Some((epoch, batch)) => format!("go on with epoch {epoch}, batch {}", batch + 1),
                    None => "begin anew".to_owned(),
                };
                let advice = format!("if training ended now, it would {from}; make room for the next checkpoint");
                self.tell(&not_written(error, &advice));
            }
        }
    }

    /// Tells an event, and the log.
    fn tell(&mut self, event: &Event) {
        self.log(event);
        (self.on_event)(event);
    }

    fn log(&mut self, event: &Event) {
        let Some(Folder { log, .. }) = &mut self.folder else { return };
        if let Err(source) = log.write(event) {
            let error = RunError::Write { path: log.path().to_owned(), source };
            (self.on_event)(&not_written(error, "the log lacks a line; make room"));
        }
    }
}

/// What is told of a file that cannot be written while training goes on. That nothing is lost, as is said of other runs, is not so here.
fn not_written(error: RunError, advice: &str) -> Event {
    let reason = match error {
        RunError::Write { path, source } => format!("cannot write {} ({source}); {advice}", path.display()),
        error => error.to_string(),
    };
    Event::NotWritten { reason }
}

/// Since when, and how long before.
struct Clock {
    start: Instant,
    seconds: f64,
    waited: f64,
}

/// What a batch brought, on the device.
struct Pending {
    batch: usize,
    learning_rate: f64,
    images: usize,
    loss: Tensor<1>,
    parts: Vec<(&'static str, Tensor<1>)>,
    correct: Tensor<1, Int>,
}

/// What a batch brought.
struct Settled {
    batch: usize,
    learning_rate: f64,
    images: usize,
    loss: f64,
    parts: Vec<(&'static str, f64)>,
    correct: usize,
}

impl Pending {
    fn new(losses: Losses, labels: &[usize], batch: usize, learning_rate: f64) -> Self {
        Self {
            batch,
            learning_rate,
            images: labels.len(),
            loss: losses.total.inner(),
            parts: losses.parts.into_iter().map(|(name, part)| (name, part.inner())).collect(),
            correct: count_correct(losses.logits.inner(), labels),
        }
    }

    fn settle(self) -> Settled {
        let Self { batch, learning_rate, images, .. } = self;
        Settled {
            batch,
            learning_rate,
            images,
            loss: to_f64(self.loss)[0],
            parts: self.parts.into_iter().map(|(name, part)| (name, to_f64(part)[0])).collect(),
            correct: self.correct.into_scalar::<i64>() as usize,
        }
    }
}

impl Progress {
    fn add(&mut self, settled: Settled) {
        self.loss += settled.loss;
        for (name, part) in settled.parts {
            *self.parts.entry(name.to_owned()).or_default() += part;
        }
        self.correct += settled.correct;
        self.images += settled.images;
        self.batches += 1;
        self.learning_rate = settled.learning_rate;
    }

    fn report(self, epoch: usize, tested: &Tested, ema_accuracy: Option<f64>) -> EpochReport {
        let batches = self.batches as f64;
        EpochReport {
            epoch,
            loss: self.loss / batches,
            parts: self.parts.into_iter().map(|(name, sum)| (name, sum / batches)).collect(),
            train_accuracy: self.correct as f64 / self.images as f64,
            test_accuracy: tested.accuracy(),
            ema_accuracy,
            learning_rate: self.learning_rate,
            images_per_second: self.images as f64 / self.seconds,
            waited: (self.waited / self.seconds).min(1.0),
            skipped: self.skipped,
            test_skipped: tested.skipped.len(),
        }
    }
}

/// What some steps of an epoch brought.
#[derive(Clone, Default)]
struct Interval {
    loss: f64,
    parts: BTreeMap<String, f64>,
    images: usize,
    batches: usize,
    learning_rate: f64,
    /// Of the epoch, when it began.
    seconds: f64,
    waited: f64,
}

impl Interval {
    fn at(progress: &Progress) -> Self {
        Self { seconds: progress.seconds, waited: progress.waited, ..Self::default() }
    }

    fn add(&mut self, settled: &Settled) {
        self.loss += settled.loss;
        for (name, part) in &settled.parts {
            *self.parts.entry((*name).to_owned()).or_default() += part;
        }
        self.images += settled.images;
        self.batches += 1;
        self.learning_rate = settled.learning_rate;
    }

    fn report(&self, progress: &Progress, [epoch, epochs]: [usize; 2], [batch, batches]: [usize; 2]) -> StepReport {
        let count = self.batches as f64;
        let seconds = (progress.seconds - self.seconds).max(1e-9);
        StepReport {
            epoch,
            epochs,
            batch,
            batches,
            loss: self.loss / count,
            parts: self.parts.iter().map(|(name, sum)| (name.clone(), sum / count)).collect(),
            learning_rate: self.learning_rate,
            images_per_second: self.images as f64 / seconds,
            waited: ((progress.waited - self.waited) / seconds).min(1.0),
        }
    }
}

/// What a test brought.
struct Tested {
    correct: usize,
    images: usize,
    skipped: Vec<Skipped>,
}

impl Tested {
    fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }
}

/// How a test ended.
enum Test {
    Done(Tested),
    Stopped,
    Outage(Outage),
}

/// Tests a network in evaluation mode; without `stop` it stops for nothing.
fn test(
    network: &Network,
    recipe: &Recipe,
    size: [usize; 2],
    images: Arc<dyn Source>,
    device: &Device,
    stop: Option<&AtomicBool>,
) -> Test {
    let plain = device.clone().without_autodiff();
    let options = (&plain, recipe.precision.dtype());
    let [height, width] = size;
    let (filter, crop_pct) = (recipe.evaluation.filter(), recipe.evaluation.crop_pct);
    let mut batches = evaluation(images, size, filter, crop_pct, recipe.batch_size, recipe.reading_threads());
    let mut correct = Tensor::<1, Int>::zeros([1], &plain);
    let mut count = 0;
    loop {
        if let Some(stop) = stop {
            match batches.look_ahead(1, stop) {
                Ahead::Ready if !stop.load(Ordering::Relaxed) => {}
                Ahead::Ready | Ahead::Stopped => return Test::Stopped,
                Ahead::Outage(outage) => return Test::Outage(outage),
            }
        }
        let Some(batch) = batches.next() else { break };
        if batch.labels.is_empty() {
            continue;
        }
        let shape = [batch.labels.len(), 3, height, width];
        let pixels = Tensor::<4>::from_data(TensorData::new(batch.pixels, shape), options);
        let normal = normalise(pixels, recipe.normalisation.mean, recipe.normalisation.std);
        let logits = network.forward(normal, &mut Taps::none()).logits;
        correct = correct + count_correct(logits, &batch.labels);
        count += batch.labels.len();
    }
    let correct = correct.into_scalar::<i64>() as usize;
    Test::Done(Tested { correct, images: count, skipped: batches.skipped().to_vec() })
}

/// How many of the logits `[batch, class]` are highest at their labels, `[1]`.
fn count_correct(logits: Tensor<2>, labels: &[usize]) -> Tensor<1, Int> {
    let labels: Vec<i64> = labels.iter().map(|&label| label as i64).collect();
    let count = labels.len();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [count, 1]), &logits.device());
    logits.argmax(1).equal(labels).int().sum()
}

/// The sum of all numbers of a network: not finite if one of them is not.
struct Sum(Option<Tensor<1>>);

impl ModuleVisitor for Sum {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let sum = param.val().inner().sum();
        self.0 = Some(match self.0.take() {
            Some(before) => before + sum,
            None => sum,
        });
    }
}
