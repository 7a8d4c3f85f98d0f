//! From a name to a network that is ready to run.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use burn_store::{ModuleSnapshot, bridge};
use netkin_architectures::{Entry, Network, registry};
use serde::Serialize;

use crate::error::Misfit;
use crate::file::WeightsFile;
use crate::layout::{Layout, Pattern};
use crate::preprocessing::Config;
use crate::{Error, HubConfig, ModelSpec, Precision, Preprocessing, Progress, catalogue, embedded, hub};

/// A network with its weights.
#[derive(Debug)]
pub struct Loaded {
    /// `NAME` or `NAME.TAG`, as asked for.
    pub name: String,
    /// The architecture.
    pub entry: &'static Entry,
    /// Frozen, on the device without autodiff.
    pub network: Network,
    /// How images are prepared for it.
    pub preprocessing: Preprocessing,
    /// Outputs of its classifier.
    pub num_classes: usize,
    /// Of the file, in hexadecimal.
    pub sha256: String,
    /// How many numbers an optimiser would change.
    pub parameters: usize,
    /// Where the weights come from.
    pub source: Source,
    /// What was chosen among several things in the file, such as averaged weights, in sentences for people.
    pub notes: Vec<String>,
}

/// Where weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The file that was named.
    File(PathBuf),
    /// The Hugging Face hub, or its cache folder.
    Hub {
        /// `timm/NAME.TAG`.
        repository: String,
        /// The file in the cache folder.
        file: PathBuf,
    },
    /// The program itself.
    Embedded,
}

/// The weights of a repository on the hub, newest format first; the second is found only where a person already has it.
const HUB_FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const CONFIG: &str = "config.json";

/// Finds the weights, downloads them if need be, and fills the network with them in `precision`.
///
/// A path may lead to safetensors or a PyTorch checkpoint. Without one, `demo_…` names have their weights in the
/// program, all others on the Hugging Face hub. The file must fit exactly: it has every parameter, in its shape, and
/// nothing else; only the number of classes is the file's own. Every number must be finite.
///
/// Images are prepared as `config.json` says, on the hub or beside a file (if it is about this architecture), else as
/// timm does for these weights (by the tag that was asked for, or the one in the file's name), else as usual ([`Preprocessing::usual`]).
///
/// # Errors
/// Any [`Error`] but those of parsing a [`ModelSpec`].
pub fn load(
    spec: &ModelSpec,
    precision: Precision,
    device: &Device,
    hub: &HubConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Loaded, Error> {
    let entry = spec.entry();
    let Found { file, source, preprocessing } = Found::from_spec(spec, hub, progress)?;

    let pattern = Pattern::of(entry);
    let num_classes = pattern.classes(|key| shape_in(&file, key));
    let layout = pattern.layout(num_classes);
    if let Some(misfit) = misfit(entry, &pattern, &layout, &file) {
        return Err(Error::Misfit(Box::new(misfit)));
    }

    let tensors = layout
        .0
        .iter()
        .map(|(key, _)| Ok(bridge::from_data(file.read(key, precision)?, key.clone(), None)))
        .collect::<Result<Vec<_>, Error>>()?;
    let device = device.clone().without_autodiff();
    let mut network = entry.config.build(num_classes, &device);
    let applied = network.apply(tensors, None, None, true);
    assert!(
        applied.missing.is_empty() && applied.unused.is_empty() && applied.errors.is_empty(),
        "the layout of {} is not that of the network: {applied}",
        entry.name
    );
    Ok(Loaded {
        name: spec.name().into(),
        entry,
        network: network.freeze(),
        preprocessing,
        num_classes,
        sha256: file.sha256,
        parameters: layout.parameters(),
        source,
        notes: file.notes,
    })
}

/// Weights before they are taken apart.
struct Found {
    file: WeightsFile,
    source: Source,
    preprocessing: Preprocessing,
}

impl Found {
    fn from_spec(spec: &ModelSpec, hub: &HubConfig, progress: &mut dyn FnMut(Progress)) -> Result<Self, Error> {
        let entry = spec.entry();
        let name = || spec.name().to_string();
        if let Some(path) = spec.path() {
            return Self::at_path(spec, path);
        }
        if let (Some(bytes), None) = (embedded::weights(entry.name), spec.tag()) {
            let label = format!("the embedded {}", entry.name);
            return Ok(Self {
                file: WeightsFile::from_safetensors(label, bytes.into())?,
                source: Source::Embedded,
                preprocessing: usual(entry, None),
            });
        }
        if entry.name.starts_with("demo_") {
            return Err(Error::NotEmbedded { name: name() });
        }
        match spec.tag().or(catalogue::default_tag(entry.name)) {
            Some(tag) => Self::on_hub(entry, tag, hub, progress),
            None => Err(Error::NotPublished { name: name() }),
        }
    }

    fn at_path(spec: &ModelSpec, path: &Path) -> Result<Self, Error> {
        let file = WeightsFile::open(path)?;
        let usual = usual(spec.entry(), spec.tag().or_else(|| tag_of(spec.entry(), path)));
        let config = path.with_file_name(CONFIG);
        let preprocessing = match config.is_file() {
            true => ConfigFile::open(&config)?.about(spec.entry(), usual)?,
            false => usual,
        };
        Ok(Self { file, source: Source::File(path.into()), preprocessing })
    }

    fn on_hub(entry: &Entry, tag: &str, hub: &HubConfig, progress: &mut dyn FnMut(Progress)) -> Result<Self, Error> {
        let repository = catalogue::repository(entry.name, tag);
        let cached = HUB_FILES.iter().find_map(|file| hub::cached(hub, &repository, file));
        let was_cached = cached.is_some();
        let path = match cached {
            Some(path) => path,
            None => hub::fetch(hub, &repository, HUB_FILES[0], progress)?,
        };
        let file = WeightsFile::open(&path)?;

        // timm itself leaves config.json on the hub, so a cache that timm filled lacks it; where the catalogue has the
        // answer, nothing is fetched for it.
        let usual = usual(entry, Some(tag));
        let known = catalogue::preprocessing(entry.name, Some(tag)).is_some();
        let config = match hub::cached(hub, &repository, CONFIG) {
            Some(config) => Some(config),
            None if known && was_cached => None,
            None => match hub::fetch(hub, &repository, CONFIG, progress) {
                Ok(config) => Some(config),
                Err(Error::NoSuchHubFile { .. }) => None,
                Err(_) if known => None,
                Err(error) => return Err(error),
            },
        };
        let preprocessing = match config {
            Some(config) => ConfigFile::open(&config)?.preprocessing(entry, usual)?,
            None => usual,
        };
        Ok(Self { file, source: Source::Hub { repository, file: path }, preprocessing })
    }
}

/// What timm does for these weights, or for the default ones of the architecture, or for those that it does not know.
fn usual(entry: &Entry, tag: Option<&str>) -> Preprocessing {
    catalogue::preprocessing(entry.name, tag)
        .or_else(|| catalogue::preprocessing(entry.name, None))
        .unwrap_or_else(|| Preprocessing::usual(entry))
}

/// The tag in a file's name, `NAME.TAG.safetensors`; one that the catalogue does not know is of no use.
fn tag_of<'p>(entry: &Entry, path: &'p Path) -> Option<&'p str> {
    let (name, tag) = path.file_stem()?.to_str()?.split_once('.')?;
    (name == entry.name && catalogue::tags(name).contains(&tag)).then_some(tag)
}

/// A `config.json` of timm, or some other program's.
struct ConfigFile {
    label: String,
    text: String,
}

impl ConfigFile {
    fn open(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|error| Error::Io { action: "read", path: path.into(), error })?;
        Ok(Self { label: path.display().to_string(), text })
    }

    /// What it says if it is about this architecture, else `usual`.
    fn about(&self, entry: &Entry, usual: Preprocessing) -> Result<Preprocessing, Error> {
        let named = Config::architecture(&self.text);
        match named.map_err(|reason| self.unusable(reason))? {
            Some(architecture) if architecture == entry.name => self.preprocessing(entry, usual),
            _ => Ok(usual),
        }
    }

    /// What it says; what it leaves out stays as in `usual`.
    fn preprocessing(&self, entry: &Entry, usual: Preprocessing) -> Result<Preprocessing, Error> {
        let parsed = Config::parse(&self.text, usual);
        let preprocessing = parsed.map_err(|reason| self.unusable(reason))?;
        let [height, width] = entry.config.input_size();
        match entry.config.any_input_size() || preprocessing.input_size == [height, width] {
            true => Ok(preprocessing),
            false => Err(self.unusable(format!("{} takes images of {height}×{width} pixels only", entry.name))),
        }
    }

    fn unusable(&self, reason: String) -> Error {
        Error::Config { file: self.label.clone(), reason }
    }
}

fn shape_in<'a>(file: &'a WeightsFile, key: &str) -> Option<&'a [usize]> {
    file.tensors.get(key).map(|tensor| tensor.shape.as_slice())
}

/// How the file differs from the layout, if it does.
fn misfit(entry: &Entry, pattern: &Pattern, layout: &Layout, file: &WeightsFile) -> Option<Misfit> {
    let (mut missing, mut different) = (Vec::new(), Vec::new());
    for (key, shape) in &layout.0 {
        match file.tensors.get(key) {
            None => missing.push(key.clone()),
            Some(tensor) if tensor.shape != *shape => {
                different.push(format!("{key} is {:?}, not {shape:?}", tensor.shape));
            }
            Some(tensor) => {
                if let Err(kind) = &tensor.kind {
                    different.push(format!("{key} holds {kind}, not floating point numbers"));
                }
            }
        }
    }
    let expected: HashSet<&String> = layout.0.iter().map(|(key, _)| key).collect();
    let unused: Vec<String> = file.tensors.keys().filter(|key| !expected.contains(key)).cloned().collect();
    if missing.is_empty() && different.is_empty() && unused.is_empty() {
        return None;
    }
    let headless =
        different.is_empty() && unused.is_empty() && pattern.classifier().eq(missing.iter().map(String::as_str));
    Some(Misfit {
        file: file.label.clone(),
        network: entry.name,
        missing,
        unused,
        different,
        fits: fitting(file),
        headless,
    })
}

/// The networks that the file fits exactly.
fn fitting(file: &WeightsFile) -> Vec<&'static str> {
    registry::all()
        .iter()
        .filter(|entry| {
            let pattern = Pattern::of(entry);
            let classes = pattern.classes(|key| shape_in(file, key));
            let layout = pattern.layout(classes);
            layout.0.len() == file.tensors.len()
                && layout.0.iter().all(|(key, shape)| shape_in(file, key) == Some(shape))
        })
        .map(|entry| entry.name)
        .collect()
}
