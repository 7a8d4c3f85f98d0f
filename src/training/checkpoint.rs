//! The state of a run between two epochs, as one file.
//!
//! A safetensors container of two byte strings, `network` and `optimizer` (Burn's own records), whose metadata tell the
//! format, the epoch, the run's settings as JSON and a BLAKE3 hash of both strings.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Bytes;
use netkin_architectures::{Entry, Network};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value};

use super::{LabelledImages, TrainConfig, TrainingError, optimizer};
use crate::files::{MAX_TENSORS, read_regular};
use crate::runs::{RunError, write_atomically};

const FORMAT: &str = "netkin training checkpoint 1";

/// Everything that the weights depend on: the network, the data and the options.
pub struct Settings(Map<String, Value>);

impl Settings {
    pub fn new(entry: &Entry, training: &LabelledImages, config: &TrainConfig) -> Self {
        let mut settings = Map::new();
        settings.insert("network".into(), entry.name.into());
        settings.insert("training data".into(), training.fingerprint().into());
        if let Ok(Value::Object(options)) = serde_json::to_value(config) {
            settings.extend(options);
        }
        Self(settings)
    }

    /// The first setting that is another in `stored`, in words.
    fn difference(&self, stored: &Self) -> Option<String> {
        let (here, there) = (&self.0, &stored.0);
        let mut names = here.keys().chain(there.keys());
        let name = names.find(|name| here.get(*name) != there.get(*name))?;
        let shown = |settings: &Map<String, Value>| match settings.get(name) {
            Some(value) => value.to_string(),
            None => "unknown".into(),
        };
        Some(format!("its {name} is {}, yours is {}", shown(there), shown(here)))
    }
}

/// The state after an epoch.
#[derive(Debug)]
pub struct Checkpoint {
    /// Counted from 1.
    pub epoch: usize,
    network: Vec<u8>,
    optimizer: Vec<u8>,
}

impl Checkpoint {
    /// Puts the state into a network of the same architecture, with the optimiser that goes with it.
    pub fn restore(self, network: Network, weight_decay: f64) -> Result<(Network, ModuleOptimizer), RecordError> {
        let record = ModuleRecord::from_bytes(Bytes::from_bytes_vec(self.network))?;
        let network = network.try_load_record(record)?;
        let optimizer = optimizer::adamw(&network, weight_decay).from_bytes(Bytes::from_bytes_vec(self.optimizer))?;
        Ok((network, optimizer))
    }

    /// Replaces the file at `path` as a whole by the state after `epoch`: whatever happens meanwhile, the file holds the
    /// old state or the new one. `network` is in evaluation mode, for only there running statistics are up to date.
    pub fn write(
        path: &Path,
        settings: &Settings,
        epoch: usize,
        network: Network,
        optimizer: &ModuleOptimizer,
    ) -> Result<(), TrainingError> {
        let failed = |source| RunError::Write { path: path.into(), source };
        let recorded = |bytes: Result<Bytes, RecordError>| bytes.map_err(|error| failed(io::Error::other(error)));
        let network = recorded(network.into_record().into_bytes())?;
        let optimizer = recorded(optimizer.into_bytes())?;
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("epoch".to_owned(), epoch.to_string()),
            ("settings".to_owned(), Value::Object(settings.0.clone()).to_string()),
            ("blake3".to_owned(), hash(&network, &optimizer)),
        ]);
        let strings = [("network", &network), ("optimizer", &optimizer)];
        let views = strings.map(|(name, bytes)| {
            let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes);
            (name, view.expect("a byte string is as long as it is"))
        });
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| failed(io::Error::other(error)))?;
        Ok(write_atomically(path, &bytes)?)
    }

    /// The checkpoint at `path`, or `None` if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged or no checkpoint, or belongs to a run of other settings.
    pub fn read(path: &Path, settings: &Settings) -> Result<Option<Self>, TrainingError> {
        let bytes = match read_regular(path, MAX_TENSORS) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(path, error)),
        };
        let (checkpoint, stored) = Self::parse(&bytes).map_err(|reason| unusable(path, reason))?;
        match settings.difference(&stored) {
            None => Ok(Some(checkpoint)),
            Some(difference) => Err(TrainingError::OtherRun { path: path.into(), difference }),
        }
    }

    fn parse(bytes: &[u8]) -> Result<(Self, Settings), String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let told = |key: &str| {
            let value = metadata.get(key);
            value.ok_or_else(|| format!("it tells no {key}"))
        };
        if told("format")? != FORMAT {
            return Err(format!("its format is not \"{FORMAT}\""));
        }
        let epoch = told("epoch")?;
        let epoch = epoch.parse().map_err(|_| format!("its epoch is {epoch:?}"))?;
        let settings = serde_json::from_str(told("settings")?)
            .map_err(|error| format!("its settings are no JSON object ({error})"))?;

        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let string = |name| match tensors.tensor(name) {
            Ok(view) => Ok(view.data().to_vec()),
            Err(error) => Err(error.to_string()),
        };
        let (network, optimizer) = (string("network")?, string("optimizer")?);
        if *told("blake3")? != hash(&network, &optimizer) {
            return Err("its content does not match its hash, so it is damaged".into());
        }
        let checkpoint = Self { epoch, network, optimizer };
        Ok((checkpoint, Settings(settings)))
    }
}

/// The error of a checkpoint that cannot be used.
pub fn unusable(path: &Path, reason: impl ToString) -> TrainingError {
    TrainingError::Checkpoint { path: path.into(), reason: reason.to_string() }
}

fn hash(network: &[u8], optimizer: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(network.len() as u64).to_le_bytes());
    hasher.update(network).update(optimizer);
    hasher.finalize().to_string()
}
