//! Training: AdamW with a warmed-up cosine schedule on cross-entropy, reproducible from a seed and resumable.
//!
//! [`train`] builds a network and trains it on [`LabelledImages`]. What happens to which image in which epoch is drawn
//! from (seed, epoch, image index) alone, and a checkpoint holds everything else, so a run that is stopped after any
//! epoch and resumed gives the same weights, bit for bit, as one that never stopped (same device, same thread count).
//!
//! Nothing is printed: every epoch's [`EpochReport`] goes to a callback.

mod checkpoint;
mod data;
pub mod diversity;
mod optimizer;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, activation};
use netkin_architectures::{Architecture, Entry, InputRule, Network, Taps};
use serde::{Deserialize, Serialize};

use crate::images::idx::IdxError;
use crate::runs::RunError;

pub use data::{LabelledImages, Split};

use checkpoint::{Checkpoint, Settings};
use data::{Augmentation, Batch, Normalization};

/// How a network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// How often every image is seen; at least 1.
    pub epochs: usize,
    /// Images per step; at least 1. What remains of an epoch's images and fills no batch is left out of that epoch.
    pub batch_size: usize,
    /// The highest learning rate, reached after the warmup; above 0.
    pub learning_rate: f64,
    /// The share of a parameter that is taken away per step, times the learning rate; at least 0. Parameters of one
    /// dimension (biases, normalisation) do not decay.
    pub weight_decay: f64,
    /// Epochs in which the learning rate rises linearly; below `epochs`. It then falls to 0 as half a cosine.
    pub warmup_epochs: usize,
    /// The share of the target that is spread evenly over all classes; 0 up to below 1.
    pub label_smoothing: f64,
    /// Whether images are moved by up to an eighth of their side (black comes in) and mirrored half of the time.
    pub augment: bool,
    /// Where the pixels' [0, 1] goes: (pixel − mean) / std, for red, green and blue.
    pub mean: [f64; 3],
    /// See `mean`; above 0.
    pub std: [f64; 3],
    /// Decides initial weights, order and augmentation.
    pub seed: u64,
    /// Where the state is kept after each epoch, replaced as a whole; `None` keeps nothing.
    #[serde(skip)]
    pub checkpoint: Option<PathBuf>,
    /// Whether to go on from the checkpoint if there is one; else training starts anew.
    #[serde(skip)]
    pub resume: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch_size: 128,
            learning_rate: 2e-3,
            weight_decay: 0.05,
            warmup_epochs: 1,
            label_smoothing: 0.1,
            augment: true,
            mean: [0.5; 3],
            std: [0.5; 3],
            seed: 0,
            checkpoint: None,
            resume: false,
        }
    }
}

/// What an epoch brought.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EpochReport {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean loss over the epoch's batches, each before its step, in nats.
    pub loss: f64,
    /// Share of the augmented training images that the network, as it was then, classified correctly; 0 to 1.
    pub train_accuracy: f64,
    /// Share of the test images that the network classifies correctly after the epoch; 0 to 1.
    pub test_accuracy: f64,
    /// Training speed, without the test.
    pub images_per_second: f64,
}

/// Why a network could not be trained.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TrainingError {
    #[error("the training option {option} is {value}, but must be {range}")]
    Option { option: &'static str, value: String, range: &'static str },
    #[error("{found} bytes of pixels are not {labels} RGB images of {height} × {width}; give one label for each image")]
    Pixels { labels: usize, height: usize, width: usize, found: usize },
    #[error(
        "image {index} has the label {label}, but there are only {classes} classes, numbered from 0; correct the label"
    )]
    Label { index: usize, label: usize, classes: usize },
    #[error("{path} has the dimensions {dimensions:?} where {expected} are needed; give the other file of the pair", path = path.display())]
    Dimensions { path: PathBuf, dimensions: Vec<usize>, expected: &'static str },
    #[error("the {set} set has no images; give at least one")]
    Empty { set: &'static str },
    #[error(
        "{network} takes images of {expected:?} pixels (height, width), but the {set} set has {found:?}; resize them first"
    )]
    ImageSize { network: &'static str, set: &'static str, expected: [usize; 2], found: [usize; 2] },
    #[error(
        "the loss of epoch {epoch} is {loss}; lower the learning rate, or warm up longer (a checkpoint keeps the epoch before)"
    )]
    Diverged { epoch: usize, loss: f64 },
    #[error("the checkpoint {path} belongs to another run: {difference}; give the same settings, or train without resuming", path = path.display())]
    OtherRun { path: PathBuf, difference: String },
    #[error("the checkpoint {path} cannot be used: {reason}; train without resuming", path = path.display())]
    Checkpoint { path: PathBuf, reason: String },
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Idx(#[from] IdxError),
    #[error(transparent)]
    Decode(#[from] crate::images::DecodeError),
}

/// Trains the network `entry` on `training` and gives it in evaluation mode, without autodiff.
///
/// After each epoch the network is tested on `testing`, the checkpoint is written if one is wanted, and `on_epoch` is
/// told. Epochs that a resumed checkpoint already has are not reported again.
///
/// The device's random numbers are seeded, which on the CPU is global: build nothing else at random meanwhile.
///
/// # Errors
/// If an option is out of range, a set does not suit the network, a checkpoint is of another run or damaged or cannot
/// be written, or the loss is no longer finite.
pub fn train(
    entry: &Entry,
    training: &LabelledImages,
    testing: &LabelledImages,
    config: &TrainConfig,
    device: &Device,
    mut on_epoch: impl FnMut(&EpochReport),
) -> Result<Network, TrainingError> {
    config.check()?;
    for (set, images) in [("training", training), ("test", testing)] {
        check_set(entry, set, images)?;
    }
    let settings = Settings::new(entry, training, config);
    let device = device.clone().autodiff();
    let mut network = initial_network(entry, training.classes(), config.seed, &device);
    let mut optimizer = optimizer::adamw(&network, config.weight_decay);
    let mut first_epoch = 1;
    if let (Some(path), true) = (&config.checkpoint, config.resume)
        && let Some(checkpoint) = Checkpoint::read(path, &settings)?
    {
        first_epoch = checkpoint.epoch + 1;
        (network, optimizer) =
            checkpoint.restore(network, config.weight_decay).map_err(|error| checkpoint::unusable(path, error))?;
    }

    for epoch in first_epoch..=config.epochs {
        let mut progress = Progress::new(&device);
        let start = Instant::now();
        let order = data::order(training.len(), config.seed, epoch);
        let batch_size = config.batch_size.min(training.len());
        let steps = training.len() / batch_size;
        for (step, images) in order.chunks_exact(batch_size).enumerate() {
            let augmentation = Augmentation::new(config, epoch);
            let batch = training.batch(images, augmentation, config.into(), &device);
            let logits = network.forward(batch.images.clone(), &mut Taps::none()).logits;
            let loss = cross_entropy(logits.clone(), batch.labels.clone(), config.label_smoothing);
            progress.add(&loss, logits, &batch);
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            let rate = config.learning_rate_at((epoch - 1) * steps + step, steps);
            network = optimizer.step(rate, network, gradients);
        }
        let (loss, train_accuracy) = progress.finish();
        let seconds = start.elapsed().as_secs_f64();
        if !loss.is_finite() {
            return Err(TrainingError::Diverged { epoch, loss });
        }

        let tested = network.valid();
        let report = EpochReport {
            epoch,
            loss,
            train_accuracy,
            test_accuracy: accuracy(&tested, testing, config, &device),
            images_per_second: (steps * batch_size) as f64 / seconds,
        };
        if let Some(path) = &config.checkpoint {
            Checkpoint::write(path, &settings, epoch, tested, &optimizer)?;
        }
        on_epoch(&report);
    }
    Ok(network.valid())
}

/// The share of the images that `network`, in evaluation mode, classifies correctly; 0 to 1.
/// Of `config` it uses the batch size and the normalisation.
pub fn accuracy(network: &Network, images: &LabelledImages, config: &TrainConfig, device: &Device) -> f64 {
    let device = device.clone().without_autodiff();
    let indices: Vec<usize> = (0..images.len()).collect();
    let mut correct = Tensor::<1, Int>::zeros([1], &device);
    for indices in indices.chunks(config.batch_size) {
        let batch = images.batch(indices, None, config.into(), &device);
        let logits = network.forward(batch.images.clone(), &mut Taps::none()).logits;
        correct = correct + count_correct(logits, &batch);
    }
    correct.into_scalar::<i64>() as f64 / images.len() as f64
}

impl TrainConfig {
    /// The learning rate of a step, counted from 0 over all epochs.
    fn learning_rate_at(&self, step: usize, steps_per_epoch: usize) -> f64 {
        let warmup = self.warmup_epochs * steps_per_epoch;
        if step < warmup {
            return self.learning_rate * (step + 1) as f64 / warmup as f64;
        }
        let total = self.epochs * steps_per_epoch;
        let progress = (step - warmup) as f64 / (total - warmup) as f64;
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }

    fn check(&self) -> Result<(), TrainingError> {
        let checks = [
            ("epochs", self.epochs.to_string(), self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size.to_string(), self.batch_size >= 1, "at least 1"),
            (
                "learning_rate",
                self.learning_rate.to_string(),
                self.learning_rate > 0.0 && self.learning_rate.is_finite(),
                "above 0",
            ),
            (
                "weight_decay",
                self.weight_decay.to_string(),
                self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
                "0 or above",
            ),
            (
                "warmup_epochs",
                self.warmup_epochs.to_string(),
                self.warmup_epochs < self.epochs,
                "below the number of epochs",
            ),
            (
                "label_smoothing",
                self.label_smoothing.to_string(),
                (0.0..1.0).contains(&self.label_smoothing),
                "0 or above and below 1",
            ),
            ("mean", format!("{:?}", self.mean), self.mean.iter().all(|mean| mean.is_finite()), "three finite numbers"),
            (
                "std",
                format!("{:?}", self.std),
                self.std.iter().all(|std| *std > 0.0 && std.is_finite()),
                "three numbers above 0",
            ),
        ];
        match checks.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((option, value, _, range)) => Err(TrainingError::Option { option, value, range }),
            None => Ok(()),
        }
    }
}

impl From<&TrainConfig> for Normalization {
    fn from(config: &TrainConfig) -> Self {
        Self { mean: config.mean, std: config.std }
    }
}

fn check_set(entry: &Entry, set: &'static str, images: &LabelledImages) -> Result<(), TrainingError> {
    if images.is_empty() {
        return Err(TrainingError::Empty { set });
    }
    let expected = entry.config.input_size();
    if images.size() != expected && entry.config.input_rule() != InputRule::Any {
        return Err(TrainingError::ImageSize { network: entry.name, set, expected, found: images.size() });
    }
    Ok(())
}

/// Parameters are drawn when first used, from one global source; using them in the order of their keys, and by one
/// thread at a time, makes them a function of the seed.
fn initial_network(entry: &Entry, classes: usize, seed: u64, device: &Device) -> Network {
    struct Draw;
    impl ModuleVisitor for Draw {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }
    static SOURCE: Mutex<()> = Mutex::new(());
    let _alone = SOURCE.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    let network = entry.config.build(classes, device);
    network.visit(&mut Draw);
    network
}

/// Mean over the batch of −Σ target · log softmax(logits), where the target is 1 − smoothing at the label, and the
/// smoothing is spread over all classes (Szegedy et al. 2016). `[batch, class]`, `[batch, 1]` → `[1]`.
fn cross_entropy(logits: Tensor<2>, labels: Tensor<2, Int>, smoothing: f64) -> Tensor<1> {
    let log_probabilities = activation::log_softmax(logits, 1);
    let at_label = log_probabilities.clone().gather(1, labels).mean();
    match smoothing {
        0.0 => -at_label,
        _ => -(at_label * (1.0 - smoothing) + log_probabilities.mean() * smoothing),
    }
}

/// `[batch, class]` → `[1]`.
fn count_correct(logits: Tensor<2>, batch: &Batch) -> Tensor<1, Int> {
    logits.inner().argmax(1).equal(batch.labels.clone().inner()).int().sum()
}

/// Sums over an epoch, kept on the device so that it need not be waited for at every step.
struct Progress {
    loss: Tensor<1>,
    correct: Tensor<1, Int>,
    batches: usize,
    images: usize,
}

impl Progress {
    fn new(device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        Self { loss: Tensor::zeros([1], &device), correct: Tensor::zeros([1], &device), batches: 0, images: 0 }
    }

    fn add(&mut self, loss: &Tensor<1>, logits: Tensor<2>, batch: &Batch) {
        self.images += logits.dims()[0];
        self.batches += 1;
        self.loss = self.loss.clone() + loss.clone().inner();
        self.correct = self.correct.clone() + count_correct(logits, batch);
    }

    /// Mean loss, and share of correct answers.
    fn finish(self) -> (f64, f64) {
        let loss = self.loss.into_scalar::<f32>();
        let correct = self.correct.into_scalar::<i64>();
        (f64::from(loss) / self.batches as f64, correct as f64 / self.images as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let config = TrainConfig { epochs: 3, warmup_epochs: 1, learning_rate: 1.0, ..Default::default() };
        let rates: Vec<f64> = (0..12).map(|step| config.learning_rate_at(step, 4)).collect();
        assert_eq!(&rates[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert!((rates[8] - 0.5).abs() < 1e-12);
        assert!(rates[5..].windows(2).all(|pair| pair[1] < pair[0]));
        assert!(rates[11] > 0.0);
    }

    /// torch.nn.functional.cross_entropy(logits, labels, label_smoothing=…) of PyTorch 2 gives these values.
    #[test]
    fn cross_entropy_is_that_of_pytorch() {
        let device = Device::flex();
        let logits = Tensor::from_data([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]], &device);
        let labels = Tensor::from_data([[2], [0]], &device);
        let loss = |smoothing| cross_entropy(logits.clone(), labels.clone(), smoothing).into_scalar::<f32>();
        assert!((loss(0.0) - 1.916_816_6).abs() < 1e-6);
        assert!((loss(0.1) - 1.925_149_9).abs() < 1e-6);
    }

    #[test]
    fn options_out_of_range_are_named() {
        let config = TrainConfig { warmup_epochs: 10, ..Default::default() };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "the training option warmup_epochs is 10, but must be below the number of epochs"
        );
        assert!(TrainConfig::default().check().is_ok());
    }
}
