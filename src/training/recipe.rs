//! Recipes: how a network is trained, as a TOML file plus overrides.
//!
//! ```toml
//! base = "deit-tiny"          # a shipped recipe, of which this one has what it does not name itself
//! model = "deit_small_patch16_224"
//! epochs = 100
//!
//! [optimizer]
//! lr = 1e-3
//! base_batch = 0
//! ```

use std::path::Path;

use netkin_architectures::{AnyConfiguration, Entry, InputRule};
use netkin_weights::{Interpolation, Precision, Preprocessing};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toml::Table;

use super::augment::Augmentation;
use super::data::MAX_CLASSES;
use super::objective::{adversarial, distillation, diverge};
use super::optimizer::{self, Kind};
use super::schedule::{self, Schedule};
use super::{TrainingError, objective};
use crate::files::read_regular;
use crate::images::Filter;

/// How a network is trained. Everything that its weights depend on, but for the images and what the objective brings with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// The network's name.
    pub model: String,
    /// Passes over the images, each in an order of its own, 1 to 1,000,000 (with repeated augmentation, how many images an epoch takes stays
    /// the same).
    pub epochs: usize,
    /// Images per batch, 1 to 2²⁰. What remains of an epoch's images and fills no batch is left out of that epoch.
    pub batch_size: usize,
    /// Decides initial weights, order, augmentation, and what is left out in training.
    pub seed: u64,
    /// Pixels of the images' side, 1 to 2048; if it is left out, what the network is made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_size: Option<usize>,
    /// Classes of the network, 1 to 2²⁰; if it is left out, those of the training set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// The number format of all computations, f32 or f64.
    pub precision: Precision,
    /// Threads that read and augment images, up to 1024; 0 for one per processor. The weights do not depend on it.
    pub threads: usize,
    /// A checkpoint is written after so many batches, and after each epoch; 0 for the latter alone. The weights do not depend on it.
    pub checkpoint_every: usize,
    /// The log gets a line after so many batches, and after each epoch; at least 1. The weights do not depend on it.
    pub log_every: usize,
    /// How gradients become steps.
    pub optimizer: optimizer::Options,
    /// How the learning rate rises and falls.
    pub schedule: schedule::Options,
    /// What keeps a network from learning images by heart.
    pub regularisation: Regularisation,
    /// What pixels become before the network sees them.
    pub normalisation: Normalisation,
    /// How test images are seen.
    pub evaluation: Evaluation,
    /// What becomes of training images.
    pub augmentation: Augmentation,
    /// A teacher, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<distillation::Options>,
    /// Attacks on the network itself, if it is to withstand them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adversarial: Option<adversarial::Options>,
    /// Networks that it is to differ from, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diverge: Option<diverge::Options>,
    /// What [`Self::parse`] changed that nobody had asked for, in sentences; comments of the TOML, which are not read again.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            model: String::new(),
            epochs: 10,
            batch_size: 128,
            seed: 0,
            input_size: None,
            classes: None,
            precision: Precision::F32,
            threads: 0,
            checkpoint_every: 0,
            log_every: 50,
            optimizer: optimizer::Options::default(),
            schedule: schedule::Options::default(),
            regularisation: Regularisation::default(),
            normalisation: Normalisation::default(),
            evaluation: Evaluation::default(),
            augmentation: Augmentation::default(),
            distillation: None,
            adversarial: None,
            diverge: None,
            notes: Vec::new(),
        }
    }
}

/// The table `[regularisation]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Regularisation {
    /// The share of the target that is spread evenly over all classes, 0 up to below 1.
    pub label_smoothing: f64,
    /// With which probability the last residual branch is left out for an image (stochastic depth), 0 up to below 1.
    pub drop_path: f64,
    /// With which probability a feature before the classifier is zero, 0 up to below 1.
    pub dropout: f64,
    /// How much of the moving average of the weights stays at each step, 0 up to below 1; 0 for no average.
    pub ema_decay: f64,
}

impl Default for Regularisation {
    fn default() -> Self {
        Self { label_smoothing: 0.1, drop_path: 0.0, dropout: 0.0, ema_decay: 0.0 }
    }
}

/// The table `[normalisation]`: the network sees (pixel − mean) / std.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Normalisation {
    /// For red, green and blue, of pixels in [0, 1].
    pub mean: [f64; 3],
    /// Above 0.
    pub std: [f64; 3],
}

impl Default for Normalisation {
    /// ImageNet's.
    fn default() -> Self {
        Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }
}

impl From<&Preprocessing> for Normalisation {
    /// The decimal numbers that were written down: 0.485, not the number of single precision next to it.
    fn from(preprocessing: &Preprocessing) -> Self {
        let written = |value: f32| value.to_string().parse::<f64>().expect("a printed number can be read");
        Self { mean: preprocessing.mean.map(written), std: preprocessing.std.map(written) }
    }
}

/// The table `[evaluation]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evaluation {
    /// The part of the resized image's side that the central crop keeps, above 0 and at most 1.
    pub crop_pct: f64,
    /// How images are resized.
    pub interpolation: Interpolation,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { crop_pct: 0.875, interpolation: Interpolation::Bicubic }
    }
}

impl Evaluation {
    /// The filter with which images are resized.
    pub fn filter(&self) -> Filter {
        match self.interpolation {
            Interpolation::Bilinear => Filter::Bilinear,
            Interpolation::Bicubic => Filter::Bicubic,
        }
    }
}

/// The recipes inside the program.
const SHIPPED: &[(&str, &str)] = &[
    ("deit-tiny", include_str!("recipes/deit-tiny.toml")),
    ("deit-tiny-distilled", include_str!("recipes/deit-tiny-distilled.toml")),
    ("deit-tiny-hard-distilled", include_str!("recipes/deit-tiny-hard-distilled.toml")),
    ("diverge", include_str!("recipes/diverge.toml")),
    ("fashion-mnist", include_str!("recipes/fashion-mnist.toml")),
    ("fashion-mnist-distilled", include_str!("recipes/fashion-mnist-distilled.toml")),
    ("robust", include_str!("recipes/robust.toml")),
];

/// The largest recipe that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a recipe may ask for at most: numbers beyond are typing errors, and would take more memory or time than any machine has.
const MOST_EPOCHS: usize = 1_000_000;
const MOST_IMAGES: usize = 1 << 20;
const MOST_PIXELS: usize = 2048;
const MOST_THREADS: usize = 1024;

/// The deepest that the keys of a recipe are nested, with room.
const DEEPEST: usize = 8;

/// Options that the weights do not depend on.
const FREE: [&str; 3] = ["threads", "checkpoint_every", "log_every"];

impl Recipe {
    /// The names of the recipes inside the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// A recipe inside the program; `None` if there is none of that name.
    pub fn shipped(name: &str) -> Option<Result<Self, TrainingError>> {
        let (label, text) = SHIPPED.iter().find(|(shipped, _)| *shipped == name)?;
        Some(Self::parse(label, text, &[]))
    }

    /// The recipe of that name inside the program, or of that file, with `KEY=VALUE` in place of what they say.
    ///
    /// # Errors
    /// As [`Self::parse`]; if there is neither.
    pub fn open(name: &str, overrides: &[String]) -> Result<Self, TrainingError> {
        if let Some((label, text)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            return Self::assemble(label, on_base(label, read(label, text)?)?, Table::new(), overrides);
        }
        let unusable = |reason: String| TrainingError::Recipe { label: name.to_owned(), reason };
        let path = Path::new(name);
        if path.extension().is_none() && !path.exists() {
            let names: Vec<&str> = Self::names().collect();
            return Err(unusable(format!(
                "there is none of that name; give a file FILE.toml, or one of {}",
                names.join(", ")
            )));
        }
        let bytes = read_regular(path, MAX_FILE).map_err(|error| unusable(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|error| unusable(error.to_string()))?;
        Self::parse(name, &text, overrides)
    }

    /// Reads TOML, and puts the values of `KEY=VALUE` (such as `optimizer.lr=1e-3`) in place of what it says. `label` names it in
    /// messages. Ranges are not looked at: see [`Self::check`].
    ///
    /// A warm-up that neither the text nor an override names, but a shipped recipe or the default, and that is not shorter than the
    /// training, is shortened to one epoch less; [`Self::notes`] says so.
    ///
    /// # Errors
    /// If the text is no TOML, a value has another type than its option, or a key is none.
    pub fn parse(label: &str, text: &str, overrides: &[String]) -> Result<Self, TrainingError> {
        let own = read(label, text)?;
        Self::assemble(label, on_base(label, own.clone())?, own, overrides)
    }

    /// The recipe of a table with overrides. `own` is what of it is not a shipped recipe's.
    fn assemble(label: &str, mut table: Table, mut own: Table, overrides: &[String]) -> Result<Self, TrainingError> {
        for text in overrides {
            put(&mut table, text)?;
            put(&mut own, text)?;
        }
        known(label, &table)?;
        let unusable = |reason: String| TrainingError::Recipe { label: label.to_owned(), reason };
        let whole = toml::to_string(&table).map_err(|error| unusable(error.to_string()))?;
        let mut recipe: Self = toml::from_str(&whole).map_err(|error| {
            let line = error.span().and_then(|span| {
                let start = whole[..span.start].rfind('\n').map_or(0, |end| end + 1);
                whole[start..].lines().next()
            });
            unusable(match line {
                Some(line) => format!("{}, in `{line}`", in_words(error.message())),
                None => in_words(error.message()),
            })
        })?;
        if own.get("schedule").and_then(|schedule| schedule.get("warmup_epochs")).is_none() {
            recipe.shorten_warmup();
        }
        Ok(recipe)
    }

    /// Makes the warm-up shorter than the training.
    fn shorten_warmup(&mut self) {
        let (epochs, warmup_epochs) = (self.epochs, self.schedule.warmup_epochs);
        if (1..=warmup_epochs).contains(&epochs) {
            self.schedule.warmup_epochs = epochs - 1;
            self.notes.push(format!(
                "schedule.warmup_epochs is lowered from {warmup_epochs} to {}, since epochs is {epochs}",
                epochs - 1
            ));
        }
    }

    /// As TOML, everything named, below the notes as comments.
    pub fn to_toml(&self) -> String {
        let notes: String = self.notes.iter().map(|note| format!("# {note}\n")).collect();
        notes + &toml::to_string(self).expect("a recipe is made of tables, words and numbers")
    }

    /// Checks the ranges of all options.
    ///
    /// # Errors
    /// If one is out of its range, or there is no such network.
    pub fn check(&self) -> Result<(), TrainingError> {
        let is_share = |share: f64| (0.0..1.0).contains(&share);
        let share = "0 or above and below 1";
        let Regularisation { label_smoothing, drop_path, dropout, ema_decay } = self.regularisation;
        let schedule::Options { warmup_epochs, warmup_lr, min_lr, cooldown_epochs, .. } = self.schedule;
        let accumulate = self.optimizer.accumulate;
        let is_rate = |rate: f64| rate >= 0.0 && rate.is_finite();
        let told = |value: Option<usize>| value.map_or("left out".to_owned(), |value| value.to_string());
        let Normalisation { mean, std } = self.normalisation;
        let crop_pct = self.evaluation.crop_pct;
        let checks = [
            ("epochs", self.epochs.to_string(), (1..=MOST_EPOCHS).contains(&self.epochs), "from 1 to 1000000"),
            (
                "batch_size",
                self.batch_size.to_string(),
                (1..=MOST_IMAGES).contains(&self.batch_size),
                "from 1 to 1048576",
            ),
            // TOML knows no larger numbers.
            ("seed", self.seed.to_string(), i64::try_from(self.seed).is_ok(), "below 2^63"),
            (
                "input_size",
                told(self.input_size),
                self.input_size.is_none_or(|pixels| (1..=MOST_PIXELS).contains(&pixels)),
                "from 1 to 2048 pixels, or left out",
            ),
            (
                "classes",
                told(self.classes),
                self.classes.is_none_or(|classes| (1..=MAX_CLASSES).contains(&classes)),
                "from 1 to 1048576, or left out",
            ),
            ("threads", self.threads.to_string(), self.threads <= MOST_THREADS, "at most 1024"),
            (
                "precision",
                self.precision.to_string(),
                matches!(self.precision, Precision::F32 | Precision::F64),
                "f32 or f64: weights of 16 bits would lose small steps",
            ),
            ("log_every", self.log_every.to_string(), self.log_every >= 1, "at least 1"),
            (
                "optimizer.accumulate",
                accumulate.to_string(),
                (1..=MOST_IMAGES).contains(&accumulate),
                "from 1 to 1048576 batches",
            ),
            (
                "schedule.cooldown_epochs",
                cooldown_epochs.to_string(),
                cooldown_epochs <= MOST_EPOCHS,
                "at most 1000000",
            ),
            ("schedule.warmup_lr", warmup_lr.to_string(), is_rate(warmup_lr), "0 or above"),
            ("schedule.min_lr", min_lr.to_string(), is_rate(min_lr), "0 or above"),
            ("regularisation.label_smoothing", label_smoothing.to_string(), is_share(label_smoothing), share),
            ("regularisation.drop_path", drop_path.to_string(), is_share(drop_path), share),
            ("regularisation.dropout", dropout.to_string(), is_share(dropout), share),
            ("regularisation.ema_decay", ema_decay.to_string(), is_share(ema_decay), share),
            (
                "normalisation.mean",
                format!("{mean:?}"),
                mean.iter().all(|mean| mean.is_finite()),
                "three finite numbers",
            ),
            (
                "normalisation.std",
                format!("{std:?}"),
                std.iter().all(|std| *std > 0.0 && std.is_finite()),
                "three numbers above 0",
            ),
            ("evaluation.crop_pct", crop_pct.to_string(), crop_pct > 0.0 && crop_pct <= 1.0, "above 0 and at most 1"),
        ];
        if let Some((option, value, _, range)) = checks.into_iter().find(|(_, _, holds, _)| !holds) {
            return Err(TrainingError::Option { option, value, range });
        }
        if warmup_epochs >= self.epochs {
            return Err(TrainingError::WarmUp { warmup_epochs, epochs: self.epochs });
        }
        self.optimizer.check()?;
        // Few images per step may scale optimizer.lr below it, which timm allows, too.
        if min_lr > self.optimizer.lr.max(self.learning_rate()) {
            let range = "at most the highest learning rate, optimizer.lr";
            return Err(TrainingError::Option { option: "schedule.min_lr", value: min_lr.to_string(), range });
        }
        self.augmentation.check()?;
        self.distillation.as_ref().map_or(Ok(()), distillation::Options::check)?;
        self.adversarial.as_ref().map_or(Ok(()), adversarial::Options::check)?;
        self.diverge.as_ref().map_or(Ok(()), diverge::Options::check)?;
        objective::networks(self)?;
        self.configuration().map(|_| ())
    }

    /// The network at the size of the recipe, with what it leaves out in training.
    ///
    /// # Errors
    /// If there is no such network, it does not run at that size, or it leaves nothing out where the recipe wants that.
    pub fn configuration(&self) -> Result<Configured, TrainingError> {
        let entry = netkin_architectures::find(&self.model).map_err(|similar| TrainingError::UnknownNetwork {
            name: self.model.clone(),
            hint: match similar.as_slice() {
                [] => "; `netkin models` lists them".to_owned(),
                similar => format!("; did you mean {}?", similar.join(", ")),
            },
        })?;
        let size = self.input_size.map_or(entry.config.input_size(), |pixels| [pixels; 2]);
        let mut made: Option<Box<dyn AnyConfiguration>> = None;
        if size != entry.config.input_size() {
            let pixels = size[0];
            let refused = |reason: String| Err(TrainingError::InputSize { network: entry.name, pixels, reason });
            match entry.config.input_rule() {
                InputRule::Any => {}
                InputRule::Multiple(step) | InputRule::Retrained(step) if pixels.is_multiple_of(step) => {
                    made = Some(entry.config.resized(size));
                }
                InputRule::Multiple(step) | InputRule::Retrained(step) => {
                    return refused(format!("give a multiple of {step} as input_size"));
                }
                InputRule::Fixed => {
                    let [height, width] = entry.config.input_size();
                    return refused(format!("it is made for {height} × {width} alone; leave input_size out"));
                }
            }
        }
        let Regularisation { drop_path, dropout, .. } = self.regularisation;
        if drop_path > 0.0 || dropout > 0.0 {
            let config = made.as_deref().unwrap_or(entry.config);
            let regularisation = netkin_architectures::Regularisation { drop_path, dropout };
            let regularised = config.regularised(regularisation);
            made =
                Some(regularised.ok_or(TrainingError::NotRegularised { network: entry.name, drop_path, dropout })?);
        }
        Ok(Configured { entry, made, size })
    }

    /// Images of one step of the optimiser.
    pub fn images_per_step(&self) -> usize {
        self.batch_size * self.optimizer.accumulate
    }

    /// The highest learning rate, for the recipe's number of images per step.
    pub fn learning_rate(&self) -> f64 {
        let optimizer::Options { name, lr, base_batch, .. } = self.optimizer;
        if base_batch == 0 {
            return lr;
        }
        let ratio = self.images_per_step() as f64 / base_batch as f64;
        match name {
            Kind::Lamb => lr * ratio.sqrt(),
            Kind::AdamW | Kind::Sgd => lr * ratio,
        }
    }

    /// How the highest learning rate goes with the number of images per step, in a sentence.
    pub fn rate_rule(&self) -> String {
        let optimizer::Options { name, lr, base_batch, .. } = self.optimizer;
        let (rate, images) = (self.learning_rate(), self.images_per_step());
        let rule = match name {
            Kind::Lamb => "the square root rule",
            Kind::AdamW | Kind::Sgd => "the linear rule",
        };
        if base_batch == 0 {
            return format!(
                "learning rate {rate} for {images} images per step; {rule} gives {} for {}, and optimizer.base_batch={images} applies it",
                match name {
                    Kind::Lamb => rate * 2f64.sqrt(),
                    Kind::AdamW | Kind::Sgd => rate * 2.0,
                },
                2 * images
            );
        }
        format!("learning rate {rate} for {images} images per step, by {rule} from {lr} for {base_batch}")
    }

    /// The learning rates of a run with so many batches in an epoch.
    pub fn rates(&self, batches: usize) -> Schedule {
        let steps = batches.div_ceil(self.optimizer.accumulate);
        Schedule { peak: self.learning_rate(), options: self.schedule, epochs: self.epochs, steps }
    }

    /// All epochs, those after the cosine's end among them.
    pub fn all_epochs(&self) -> usize {
        self.epochs + self.schedule.cooldown_epochs
    }

    /// Threads that read and augment images.
    pub fn reading_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// Everything in it that the weights depend on.
    pub fn settings(&self) -> Value {
        let mut settings = serde_json::to_value(self).expect("a recipe is made of words and numbers");
        if let Value::Object(settings) = &mut settings {
            settings.retain(|name, _| !FREE.contains(&name.as_str()));
        }
        settings
    }

    /// What says beside the weights how images are prepared for them, as timm's `config.json` does, by which they load again.
    ///
    /// # Errors
    /// As [`Self::configuration`].
    pub fn model_config(&self, classes: usize) -> Result<Value, TrainingError> {
        let configured = self.configuration()?;
        let [height, width] = configured.input_size();
        Ok(json!({
            "architecture": configured.entry().name,
            "num_classes": classes,
            "pretrained_cfg": {
                "input_size": [3, height, width],
                "num_classes": classes,
                "mean": self.normalisation.mean,
                "std": self.normalisation.std,
                "crop_pct": self.evaluation.crop_pct,
                "crop_mode": "center",
                "interpolation": self.evaluation.interpolation,
            },
        }))
    }
}

/// A network as a recipe wants it.
#[derive(Debug)]
pub struct Configured {
    entry: &'static Entry,
    made: Option<Box<dyn AnyConfiguration>>,
    size: [usize; 2],
}

impl Configured {
    /// The network's name and family.
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    /// What the network is built from.
    pub fn config(&self) -> &dyn AnyConfiguration {
        self.made.as_deref().unwrap_or(self.entry.config)
    }

    /// Height and width of the images in pixels.
    pub fn input_size(&self) -> [usize; 2] {
        self.size
    }
}

/// A recipe's own table.
fn read(label: &str, text: &str) -> Result<Table, TrainingError> {
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        let reason = format!("line {line} is no TOML ({})", error.message());
        TrainingError::Recipe { label: label.to_owned(), reason }
    })
}

/// What serde says of a value of the wrong type, without Rust's names of types.
fn in_words(message: &str) -> String {
    if let Some((found, known)) = message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`')) {
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        let lower = found.to_lowercase();
        let scored = known.iter().map(|known| (strsim::jaro_winkler(known, &lower), known));
        let similar = scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = similar.map_or(String::new(), |(_, known)| format!("; did you mean {known}?"));
        return format!("{found} is none of {}{hint}", known.join(", "));
    }
    let rest = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, wanted)) = rest.and_then(|rest| rest.rsplit_once(", expected ")) else {
        return message.to_owned();
    };
    let found = match found {
        "map" => "a table",
        "sequence" => "a list",
        // Behind the name of its type stands the value.
        _ => {
            let names = ["integer ", "floating point ", "boolean ", "string "];
            names.iter().find_map(|name| found.strip_prefix(name)).unwrap_or(found).trim_matches('`')
        }
    };
    let wanted = match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string or table" => "a word",
        "a sequence" => "a list",
        _ if wanted.starts_with("struct ") => "a table",
        _ => wanted,
    };
    format!("{found} stands where {wanted} is needed")
}

/// A recipe's table, put over that of its base.
fn on_base(label: &str, mut table: Table) -> Result<Table, TrainingError> {
    match table.remove("base") {
        None => Ok(table),
        Some(base) => {
            let shipped = SHIPPED.iter().find(|(name, _)| base.as_str() == Some(*name));
            let Some((label, text)) = shipped else {
                let names: Vec<&str> = Recipe::names().collect();
                let reason = format!("its base is {base}, but must be one of {}", names.join(", "));
                return Err(TrainingError::Recipe { label: label.to_owned(), reason });
            };
            let mut below = on_base(label, read(label, text)?)?;
            merge(&mut below, table);
            Ok(below)
        }
    }
}

/// Puts `above` over `below`, table by table.
fn merge(below: &mut Table, above: Table) {
    for (key, value) in above {
        if let (Some(toml::Value::Table(below)), toml::Value::Table(above)) = (below.get_mut(&key), &value) {
            merge(below, above.clone());
            continue;
        }
        below.insert(key, value);
    }
}

/// Puts the value of `KEY=VALUE` into a table. What is neither a value in TOML nor a number is a word.
fn put(table: &mut Table, text: &str) -> Result<(), TrainingError> {
    let malformed =
        |reason: &str| TrainingError::Recipe { label: format!("override {text:?}"), reason: reason.to_owned() };
    let (key, value) =
        text.split_once('=').ok_or_else(|| malformed("it is not KEY=VALUE, such as optimizer.lr=1e-3"))?;
    let parsed = format!("value = {value}").parse::<Table>().ok().filter(|table| table.len() == 1);
    let digits = value.trim();
    if key.trim() == "seed" && digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<i64>().is_err() {
        let range = "a whole number of at least 0 and below 2^63";
        return Err(TrainingError::Option { option: "seed", value: digits.to_owned(), range });
    }
    // TOML knows no whole numbers of 2^63 and above, and writes what is no number in one way only.
    let number = || value.trim().parse().ok().map(toml::Value::Float);
    let found = parsed.and_then(|mut table| table.remove("value")).or_else(number);
    let found = found.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    if found.is_table() {
        return Err(malformed("a table is set key by key, such as optimizer.lr=1e-3"));
    }
    // Tables in tables without an end would use up the stack.
    if key.matches('.').count() >= DEEPEST {
        let start: String = key.chars().take(20).collect();
        let reason =
            format!("it names more than {DEEPEST} tables in one another; `netkin train --print-recipe` shows all keys");
        return Err(TrainingError::Recipe { label: format!("override \"{start}…\""), reason });
    }
    let mut segments: Vec<&str> = key.trim().split('.').collect();
    let last = segments.pop().unwrap_or_default();
    let mut place = table;
    for segment in segments {
        let entry = place.entry(segment).or_insert_with(|| toml::Value::Table(Table::new()));
        let toml::Value::Table(below) = entry else {
            return Err(malformed(&format!("{segment} is no table")));
        };
        place = below;
    }
    place.insert(last.to_owned(), found);
    Ok(())
}

/// Refuses keys that no recipe has, and names the one that may be meant.
fn known(label: &str, table: &Table) -> Result<(), TrainingError> {
    // Everything that may be left out is there.
    let complete = Recipe {
        input_size: Some(0),
        classes: Some(0),
        optimizer: optimizer::Options { eps: Some(0.0), clip_norm: Some(0.0), ..optimizer::Options::default() },
        distillation: Some(distillation::Options::default()),
        adversarial: Some(adversarial::Options::default()),
        diverge: Some(diverge::Options::default()),
        ..Recipe::default()
    };
    let complete = Table::try_from(complete).expect("a recipe is made of tables, words and numbers");
    let (mut keys, mut given) = (Vec::new(), Vec::new());
    list("", &complete, &mut keys);
    list("", table, &mut given);
    let Some(key) = given.into_iter().find(|key| !keys.contains(key)) else { return Ok(()) };
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    // Its place may be wrong, or its spelling.
    let elsewhere = keys.iter().find(|known| last(known) == last(&key));
    let similar = || {
        let scored = keys.iter().map(|known| (strsim::jaro_winkler(known, &key), known));
        scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
    };
    let hint = match elsewhere.or_else(similar) {
        Some(known) => format!("; did you mean {known}?"),
        None => "; `netkin train --print-recipe` shows all of them".to_owned(),
    };
    Err(TrainingError::UnknownKey { label: label.to_owned(), key, hint })
}

/// All keys of a table, with those of the tables in it.
fn list(prefix: &str, table: &Table, keys: &mut Vec<String>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if let toml::Value::Table(table) = value {
            list(&key, table, keys);
        }
        keys.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::augment::{Crop, EraseMode};
    use crate::training::schedule::Per;

    fn message(text: &str, overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let recipe = Recipe::parse("mine.toml", text, &overrides);
        recipe.and_then(|recipe| recipe.check()).unwrap_err().to_string()
    }

    #[test]
    fn shipped_recipes_are_in_their_ranges() {
        for name in Recipe::names() {
            let mut recipe = Recipe::shipped(name).unwrap().unwrap();
            if recipe.model.is_empty() {
                recipe.model = "demo_resnet".into();
            }
            recipe.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(Recipe::shipped("deit").is_none());
    }

    /// What DeiT's main.py comes to.
    #[test]
    fn deit_tiny_is_that_of_deit() {
        let recipe = Recipe::shipped("deit-tiny").unwrap().unwrap();
        assert!((recipe.learning_rate() - 1e-3).abs() < 1e-12);
        let rates = recipe.rates(1251);
        assert_eq!((rates.rate(1, 0), rates.rate(1, 1250)), (1e-6, 1e-6));
        assert!((rates.rate(6, 0) - 9.993_2e-4).abs() < 1e-6, "{}", rates.rate(6, 0));
        assert_eq!((recipe.all_epochs(), recipe.schedule.per), (300, Per::Epoch));
        assert_eq!((recipe.augmentation.crop, recipe.augmentation.erase_mode), (Crop::RandomResized, EraseMode::Pixel));
        let quarter = Recipe::open("deit-tiny", &["batch_size=256".into()]).unwrap();
        assert!((quarter.learning_rate() - 2.5e-4).abs() < 1e-12);
        let accumulated =
            Recipe::open("deit-tiny", &["batch_size=256".into(), "optimizer.accumulate=4".into()]).unwrap();
        assert_eq!(accumulated.learning_rate(), recipe.learning_rate());
    }

    #[test]
    fn lamb_scales_by_the_root() {
        let text = "batch_size = 1024\n[optimizer]\nname = \"lamb\"\nlr = 1e-3\nbase_batch = 256";
        let recipe = Recipe::parse("mine.toml", text, &[]).unwrap();
        assert!((recipe.learning_rate() - 2e-3).abs() < 1e-12);
        assert!(recipe.rate_rule().contains("square root"), "{}", recipe.rate_rule());
    }

    #[test]
    fn a_recipe_is_written_and_read() {
        let mut recipe = Recipe::shipped("deit-tiny").unwrap().unwrap();
        recipe.classes = Some(10);
        recipe.adversarial = Some(adversarial::Options::default());
        assert_eq!(Recipe::parse("again", &recipe.to_toml(), &[]).unwrap(), recipe);
    }

    #[test]
    fn a_base_and_overrides_give_the_rest() {
        let text = "base = \"deit-tiny\"\nepochs = 5\n[optimizer]\nlr = 0.01\n";
        let overrides =
            ["optimizer.name=sgd", "augmentation.scale=[0.5, 1]", "augmentation.rand_augment=", "model=resnet18"];
        let recipe = Recipe::parse("mine.toml", text, &overrides.map(String::from)).unwrap();
        assert_eq!((recipe.epochs, recipe.optimizer.lr, recipe.optimizer.base_batch), (5, 0.01, 512));
        assert_eq!((recipe.optimizer.name, recipe.augmentation.scale), (Kind::Sgd, [0.5, 1.0]));
        assert_eq!((recipe.model.as_str(), recipe.augmentation.rand_augment.as_str()), ("resnet18", ""));
        assert!(message("base = \"deit\"", &[]).contains("its base is \"deit\", but must be one of deit-tiny"));
    }

    #[test]
    fn a_warm_up_that_nobody_asked_for_is_shortened() {
        let opened = |name: &str, overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
            Recipe::open(name, &overrides).unwrap()
        };
        for (recipe, warmup_epochs, lowered) in [
            (opened("fashion-mnist", &["epochs=1"]), 0, "from 1 to 0, since epochs is 1"),
            // Of the base of the recipe.
            (opened("robust", &["epochs=1"]), 0, "from 1 to 0"),
            (opened("deit-tiny", &["epochs=4"]), 3, "from 5 to 3"),
            (Recipe::parse("mine.toml", "base = \"deit-tiny\"\nepochs = 5", &[]).unwrap(), 4, "from 5 to 4"),
            // The default.
            (Recipe::parse("mine.toml", "epochs = 3", &["epochs=1".into()]).unwrap(), 0, "from 1 to 0"),
        ] {
            assert_eq!(recipe.schedule.warmup_epochs, warmup_epochs);
            let [note] = recipe.notes.as_slice() else { panic!("{:?}", recipe.notes) };
            assert!(note.starts_with("schedule.warmup_epochs is lowered ") && note.contains(lowered), "{note}");
            let echoed = recipe.to_toml();
            assert!(echoed.starts_with(&format!("# {note}\n")), "{echoed}");
            assert_eq!(Recipe::parse("echo", &echoed, &[]).unwrap(), Recipe { notes: Vec::new(), ..recipe });
        }
        let enough = opened("deit-tiny", &["epochs=6"]);
        assert_eq!((enough.schedule.warmup_epochs, enough.notes.len()), (5, 0));
    }

    #[test]
    fn a_warm_up_that_was_asked_for_stays_and_is_refused_with_both_keys() {
        let both = "schedule.warmup_epochs is 2, but must be below epochs, which is 2; set schedule.warmup_epochs to at most 1, or \
                    epochs to at least 3";
        let model = "model = \"demo_resnet\"\n";
        let table = "[schedule]\nwarmup_epochs = 2";
        let cases: [(String, &[&str]); 3] = [
            (model.to_owned(), &["epochs=2", "schedule.warmup_epochs=2"]),
            (format!("{model}{table}"), &["epochs=2"]),
            (format!("base = \"deit-tiny\"\n{model}epochs = 2\n{table}"), &[]),
        ];
        for (text, overrides) in cases {
            let said = message(&text, overrides);
            assert!(said.contains(both), "{said}");
        }
        // The recipe's epochs count as much.
        let said = message(model, &["schedule.warmup_epochs=10"]);
        assert!(said.contains("epochs, which is 10; set schedule.warmup_epochs to at most 9"), "{said}");
    }

    #[test]
    fn unknown_keys_bring_the_one_that_is_meant() {
        let hinted = |text: &str| message(text, &[]);
        assert!(
            hinted("lr = 0.1").ends_with("sets lr, which is no option; did you mean optimizer.lr?"),
            "{}",
            hinted("lr = 0.1")
        );
        assert!(hinted("[optimizer]\nweigth_decay = 1.0").contains("did you mean optimizer.weight_decay?"));
        assert!(hinted("[distillation]\nteachr = \"x\"").contains("did you mean distillation.teacher?"));
        assert!(hinted("qqq = 1").contains("--print-recipe"));
        assert!(message("", &["schedule.warmup_epoch=3"]).contains("did you mean schedule.warmup_epochs?"));
    }

    #[test]
    fn numbers_that_toml_does_not_know_are_numbers() {
        let overrides =
            |texts: &[&str]| Recipe::parse("mine.toml", "", &texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(overrides(&["optimizer.lr=1000000000000000000000000000000"]).unwrap().optimizer.lr, 1e30);
        assert_eq!(overrides(&["optimizer.lr=1e30"]).unwrap().optimizer.lr, 1e30);
        let model = "model = \"demo_mixer\"";
        let said = message(model, &["optimizer.lr=NaN"]);
        assert!(said.contains("optimizer.lr is NaN, but must be above 0"), "{said}");
        for seed in ["9223372036854775808", "18446744073709551615"] {
            let said = message(model, &[&format!("seed={seed}")]);
            assert!(
                said.ends_with(&format!("seed is {seed}, but must be a whole number of at least 0 and below 2^63")),
                "{said}"
            );
        }
    }

    /// Each of them took more memory than there is, or wrapped around.
    #[test]
    fn what_no_machine_holds_is_refused() {
        for (text, expected) in [
            ("input_size=100000", "input_size is 100000, but must be from 1 to 2048 pixels"),
            ("classes=100000000", "classes is 100000000, but must be from 1 to 1048576"),
            ("batch_size=1000000000000", "batch_size is 1000000000000, but must be from 1 to 1048576"),
            ("epochs=9000000000000000000", "but must be from 1 to 1000000"),
            ("optimizer.accumulate=9000000000000000000", "from 1 to 1048576 batches"),
            ("schedule.cooldown_epochs=9000000000000000000", "at most 1000000"),
            ("threads=1000000", "threads is 1000000, but must be at most 1024"),
        ] {
            let said = message("model = \"demo_resnet\"", &[text]);
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn keys_are_nested_only_so_deep() {
        let deep = format!("{}a=1", "a.".repeat(100_000));
        let said = message("", &[&deep]);
        assert!(said.contains("more than 8 tables") && said.len() < 300, "{said}");
        assert!(message(&format!("{} = 1", &deep[..deep.len() - 2]), &[]).contains("line 1 is no TOML"));
        assert!(message("", &["a.b.c.d=1"]).contains("sets a.b.c.d, which is no option"));
    }

    #[test]
    fn what_is_wrong_is_said_where_it_is() {
        assert!(message("epochs = 3\nepochs =", &[]).contains("line 2 is no TOML"));
        let wrong_type = message("[optimizer]\nlr = \"fast\"", &[]);
        assert!(wrong_type.contains("\"fast\" stands where a number is needed, in `lr = \"fast\"`"), "{wrong_type}");
        for (text, expected) in [
            ("epochs=-1", "-1 stands where a whole number from 0 is needed, in `epochs = -1`"),
            ("optimizer.accumulate=1.5", "1.5 stands where a whole number from 0 is needed"),
            ("seed=many", "\"many\" stands where a whole number from 0 is needed"),
            ("optimizer.nesterov=1", "1 stands where true or false is needed"),
            ("optimizer=3", "3 stands where a table is needed"),
            ("optimizer.name=LAMB", "LAMB is none of adamw, sgd, lamb; did you mean lamb?"),
            ("optimizer={}", "a table is set key by key, such as optimizer.lr=1e-3"),
        ] {
            let said = message("", &[text]);
            assert!(said.contains(expected), "{said}");
        }
        assert!(message("", &["epochs"]).contains("is not KEY=VALUE"));
        assert!(message("", &["epochs=1", "epochs.x=1"]).contains("epochs is no table"));
        assert!(message("model = \"resnet5O\"", &[]).contains("did you mean resnet50"));
        let ranges = [
            ("optimizer.lr=0", "optimizer.lr is 0, but must be above 0"),
            ("optimizer.betas=[0.9, 1.0]", "optimizer.betas is [0.9, 1.0]"),
            ("regularisation.label_smoothing=1.0", "below 1"),
            ("normalisation.std=[1, 1, 0]", "three numbers above 0"),
            ("precision=bf16", "f32 or f64"),
            ("augmentation.erase=2", "augmentation.erase is 2"),
            ("augmentation.rand_augment=rand-m9-n1000000", "must be n1 to n16"),
            ("schedule.min_lr=0.5", "schedule.min_lr is 0.5, but must be at most the highest learning rate"),
            ("diverge.alpha=0", "diverge.alpha is 0, but must be above 0"),
            ("input_size=30", "made for 28 × 28 alone"),
        ];
        for (text, expected) in ranges {
            let said = message("model = \"demo_mixer\"", &[text]);
            assert!(said.contains(expected), "{said}");
        }
        let said = message("model = \"deit_tiny_patch16_224\"\ninput_size = 100", &[]);
        assert!(said.contains("multiple of 16"), "{said}");
    }
}
