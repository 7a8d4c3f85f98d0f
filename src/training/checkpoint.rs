//! The state of a run between two steps, as one file.
//!
//! A safetensors container of byte strings, `network`, `optimizer` and, if there is a moving average, `average` (Burn's own records),
//! whose metadata tell the format, where the run is, its settings, and a BLAKE3 hash of the strings.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Bytes;
use netkin_architectures::Network;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::data::Source;
use super::log::EpochReport;
use super::trainer::Progress;
use super::{Recipe, TrainingError, optimizer};
use crate::files::{MAX_TENSORS, read_regular};
use crate::runs::{RunError, first_difference, write_atomically};

const FORMAT: &str = "netkin training checkpoint 2";
/// Under this name the settings have the fingerprint of the training images.
const DATA: &str = "training data";

/// Everything that the weights depend on: the recipe, the data, the objective, what training began with.
pub struct Settings {
    all: Value,
    images: Described,
}

/// What people can tell of a set of images, whose fingerprint tells them nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Described {
    images: usize,
    classes: usize,
    first: String,
    last: String,
}

impl Settings {
    /// `initial` is a hash of the weights that training began with, if they were not drawn.
    pub fn new(recipe: &Recipe, training: &dyn Source, objective: Value, initial: Option<String>) -> Self {
        let mut all = recipe.settings();
        all[DATA] = training.fingerprint().into();
        all["objective"] = objective;
        all["initial weights"] = initial.into();
        Self { all, images: Described::of(training) }
    }

    /// The first setting that is another in `stored`, in words; `images` are those of the stored run, if it tells.
    fn difference(&self, stored: &Value, images: Option<&Described>) -> Option<String> {
        let (name, there, here) = first_difference("", stored, &self.all)?;
        if name == DATA {
            return Some(self.images.difference(images));
        }
        let told = |value: String| if value == "null" { "left out".to_owned() } else { value };
        Some(format!("its {name} is {}, yours is {}", told(there), told(here)))
    }
}

impl Described {
    fn of(source: &dyn Source) -> Self {
        let id = |index: usize| if index < source.len() { source.id(index) } else { String::new() };
        let last = source.len().saturating_sub(1);
        Self { images: source.len(), classes: source.classes(), first: id(0), last: id(last) }
    }

    /// How the stored run's images, if it tells, are others.
    fn difference(&self, stored: Option<&Self>) -> String {
        match stored {
            Some(stored) if stored == self => {
                format!(
                    "it was trained on {stored}, as yours are called, but some of them have another size, label or content"
                )
            }
            Some(stored) => format!("it was trained on {stored}, yours are {self}"),
            None => format!("it was trained on other images, yours are {self}"),
        }
    }
}

impl fmt::Display for Described {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, classes, first, last } = self;
        write!(formatter, "{images} images of {classes} classes ({first} to {last})")
    }
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch that is next or under way, counted from 1.
    pub epoch: usize,
    /// Its batch that is next, counted from 0.
    pub batch: usize,
    /// What that epoch has brought so far.
    pub progress: Progress,
    /// What the epochs before it have brought.
    pub epochs: Vec<EpochReport>,
    /// How long the log is, in bytes.
    pub log: u64,
}

impl Default for Position {
    fn default() -> Self {
        Self { epoch: 1, batch: 0, progress: Progress::default(), epochs: Vec::new(), log: 0 }
    }
}

/// The state of a run.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the run is.
    pub position: Position,
    network: Vec<u8>,
    optimizer: Vec<u8>,
    average: Option<Vec<u8>>,
}

impl Checkpoint {
    /// Puts the state into a network of the same architecture, with the optimiser that goes with it and the moving average, if there
    /// is one.
    pub fn restore(
        self,
        network: Network,
        options: &optimizer::Options,
        family: &str,
    ) -> Result<(Network, ModuleOptimizer, Option<Network>), RecordError> {
        let record = |bytes: Vec<u8>| ModuleRecord::from_bytes(Bytes::from_bytes_vec(bytes));
        let network = network.try_load_record(record(self.network)?)?;
        // By the ids that the parameters had.
        let optimizer = options.build(&network, family).from_bytes(Bytes::from_bytes_vec(self.optimizer))?;
        let average = match self.average {
            Some(bytes) => Some(network.valid().try_load_record(record(bytes)?)?),
            None => None,
        };
        Ok((network, optimizer, average))
    }

    /// Replaces the file at `path` as a whole: whatever happens meanwhile, it holds the old state or the new one. The average is
    /// in evaluation mode.
    pub fn write(
        path: &Path,
        settings: &Settings,
        position: &Position,
        network: &Network,
        optimizer: &ModuleOptimizer,
        average: Option<&Network>,
    ) -> Result<(), RunError> {
        let failed = |source| RunError::Write { path: path.into(), source };
        let recorded = |bytes: Result<Bytes, RecordError>| bytes.map_err(|error| failed(io::Error::other(error)));
        // Running statistics are up to date in evaluation mode.
        let mut strings = vec![
            ("network", recorded(network.valid().into_record().into_bytes())?),
            ("optimizer", recorded(optimizer.into_bytes())?),
        ];
        if let Some(average) = average {
            strings.push(("average", recorded(average.clone().into_record().into_bytes())?));
        }
        let position = serde_json::to_string(position).expect("a position is made of words and numbers");
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("blake3".to_owned(), hash(&position, strings.iter().map(|(_, bytes)| &bytes[..]))),
            ("position".to_owned(), position),
            ("settings".to_owned(), settings.all.to_string()),
            ("images".to_owned(), serde_json::to_string(&settings.images).expect("images are words and numbers")),
        ]);
        let views = strings.iter().map(|(name, bytes)| {
            let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes);
            (*name, view.expect("a byte string is as long as it is"))
        });
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| failed(io::Error::other(error)))?;
        write_atomically(path, &bytes)
    }

    /// The checkpoint at `path`, or `None` if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged or no checkpoint, or belongs to a run of other settings.
    pub fn read(path: &Path, settings: &Settings) -> Result<Option<Self>, TrainingError> {
        let bytes = match read_regular(path, MAX_TENSORS) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(unusable(path, error)),
        };
        let (checkpoint, stored, images) = Self::parse(&bytes).map_err(|reason| unusable(path, reason))?;
        match settings.difference(&stored, images.as_ref()) {
            None => Ok(Some(checkpoint)),
            Some(difference) => Err(TrainingError::OtherRun { path: path.into(), difference }),
        }
    }

    /// The checkpoint, the settings of its run, and that run's images, which older versions did not tell.
    fn parse(bytes: &[u8]) -> Result<(Self, Value, Option<Described>), String> {
        let cut_off = |error: safetensors::SafeTensorError| format!("it is damaged or cut short ({error})");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(cut_off)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let told = |key: &str| {
            let value = metadata.get(key);
            value.ok_or_else(|| format!("it tells no {key}"))
        };
        let format = told("format")?;
        if format != FORMAT {
            return Err(format!("its format is {format:?}, not {FORMAT:?}"));
        }
        let position = told("position")?;
        let settings = told("settings")?;
        let settings = serde_json::from_str(settings).map_err(|error| format!("its settings are no JSON ({error})"))?;

        let tensors = SafeTensors::deserialize(bytes).map_err(cut_off)?;
        let string = |name: &str| tensors.tensor(name).map(|view| view.data().to_vec());
        let network = string("network").map_err(cut_off)?;
        let optimizer = string("optimizer").map_err(cut_off)?;
        let average = string("average").ok();
        let strings = [Some(&network), Some(&optimizer), average.as_ref()];
        if *told("blake3")? != hash(position, strings.into_iter().flatten().map(|bytes| &bytes[..])) {
            return Err("it is damaged (its content does not match its hash)".into());
        }
        let position =
            serde_json::from_str(position).map_err(|error| format!("its position cannot be read ({error})"))?;
        let images = metadata.get("images").and_then(|images| serde_json::from_str(images).ok());
        Ok((Self { position, network, optimizer, average }, settings, images))
    }
}

/// The error of a checkpoint that cannot be used.
pub fn unusable(path: &Path, reason: impl ToString) -> TrainingError {
    TrainingError::Checkpoint { path: path.into(), reason: reason.to_string() }
}

fn hash<'a>(position: &'a str, strings: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for string in std::iter::once(position.as_bytes()).chain(strings) {
        hasher.update(&(string.len() as u64).to_le_bytes());
        hasher.update(string);
    }
    hasher.finalize().to_string()
}
