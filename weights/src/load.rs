//! From a name to a network that is ready to run.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use burn_store::{ModuleSnapshot, bridge};
use netkin_architectures::{AnyConfiguration, Checkpoint, Entry, InputRule, Network, registry};
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
/// program, all others on the Hugging Face hub. The file must fit exactly, after the conversions that timm does, too
/// ([`Configuration::convert`](netkin_architectures::Configuration::convert)): it has every parameter, in its shape, and
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
    let fitting = Fitting::new(entry, preprocessing.input_size, &file);
    if let Some(misfit) = fitting.misfit(entry, &file) {
        return Err(Error::Misfit(Box::new(misfit)));
    }

    let Fitting { network, checkpoint, layout, num_classes, .. } = fitting;
    let config = network.configuration();
    let tensors = layout
        .0
        .iter()
        .map(|(key, _)| Ok(bridge::from_data(file.read(&checkpoint, key, precision)?, key.clone(), None)))
        .collect::<Result<Vec<_>, Error>>()?;
    let device = device.clone().without_autodiff();
    let mut network = config.build(num_classes, &device);
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

/// What a file's tensors become.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// `NAME` or `NAME.TAG`, as asked for.
    pub name: String,
    /// Where the weights come from.
    pub source: Source,
    /// Of the file, in hexadecimal.
    pub sha256: String,
    /// Outputs of the classifier.
    pub num_classes: usize,
    /// How many tensors fit.
    pub applied: usize,
    /// Those among them that the file keeps otherwise: their keys there, and the one here.
    pub converted: Vec<(Vec<String>, String)>,
    /// Keys of the network that the file lacks.
    pub missing: Vec<String>,
    /// Keys of the file that the network lacks.
    pub unused: Vec<String>,
    /// Tensors in both, with another shape or no floating point numbers, each as a phrase.
    pub different: Vec<String>,
    /// Networks that the file fits exactly, if it does not fit this one.
    pub fits: Vec<&'static str>,
}

impl Check {
    /// Whether [`load`] takes the file.
    pub fn fits_exactly(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.different.is_empty()
    }
}

/// Finds the weights as [`load`] does, and says how they fit without loading them.
///
/// # Errors
/// Any [`Error`] but [`Error::Misfit`], and those of parsing a [`ModelSpec`].
pub fn check(spec: &ModelSpec, hub: &HubConfig, progress: &mut dyn FnMut(Progress)) -> Result<Check, Error> {
    let entry = spec.entry();
    let Found { file, source, preprocessing } = Found::from_spec(spec, hub, progress)?;
    let fitting = Fitting::new(entry, preprocessing.input_size, &file);
    let Misfit { missing, unused, different, fits, .. } =
        fitting.misfit(entry, &file).unwrap_or_else(|| Misfit::none(&file.label, entry.name));
    let converted = fitting
        .layout
        .0
        .iter()
        .filter(|(key, _)| fitting.checkpoint.contains(key))
        .map(|(key, _)| {
            (fitting.checkpoint.origins(key).into_iter().map(String::from).collect::<Vec<_>>(), key.clone())
        })
        .filter(|(origins, key)| fitting.checkpoint.unchanged(key).is_none() || origins.iter().ne([key]))
        .collect();
    Ok(Check {
        name: spec.name().into(),
        source,
        num_classes: fitting.num_classes,
        applied: fitting.layout.0.len() - missing.len() - different.len(),
        converted,
        missing,
        unused,
        different,
        fits,
        sha256: file.sha256,
    })
}

/// Weights before they are taken apart.
struct Found {
    file: WeightsFile,
    source: Source,
    preprocessing: Preprocessing,
}

impl Found {
    /// With images of the size that was asked for, if one was.
    fn from_spec(spec: &ModelSpec, hub: &HubConfig, progress: &mut dyn FnMut(Progress)) -> Result<Self, Error> {
        if let Some(size) = spec.input_size() {
            takes(spec.entry(), size)?;
        }
        let mut found = Self::as_published(spec, hub, progress)?;
        if let Some(size) = spec.input_size() {
            found.preprocessing.input_size = size;
        }
        Ok(found)
    }

    fn as_published(spec: &ModelSpec, hub: &HubConfig, progress: &mut dyn FnMut(Progress)) -> Result<Self, Error> {
        let entry = spec.entry();
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
        let (repository, tag) = published(spec)?;
        Self::on_hub(entry, &repository, tag, hub, progress)
    }

    fn at_path(spec: &ModelSpec, path: &Path) -> Result<Self, Error> {
        let file = WeightsFile::open(path)?;
        let usual = usual(spec.entry(), spec.tag().or_else(|| tag_of(spec.entry(), path)));
        let config = path.with_file_name(CONFIG);
        let preprocessing =
            if config.is_file() { ConfigFile::open(&config)?.about(spec.entry(), usual)? } else { usual };
        Ok(Self { file, source: Source::File(path.into()), preprocessing })
    }

    fn on_hub(
        entry: &Entry,
        repository: &str,
        tag: &str,
        hub: &HubConfig,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let cached = cached(hub, repository);
        let was_cached = cached.is_some();
        let path = match cached {
            Some(path) => path,
            None => hub::fetch(hub, repository, HUB_FILES[0], progress)?,
        };
        let file = WeightsFile::open(&path)?;

        // timm itself leaves config.json on the hub, so a cache that timm filled lacks it; where the catalogue has the
        // answer, nothing is fetched for it.
        let usual = usual(entry, Some(tag));
        let known = catalogue::preprocessing(entry.name, Some(tag)).is_some();
        let config = match hub::cached(hub, repository, CONFIG) {
            Some(config) => Some(config),
            None if known && was_cached => None,
            None => match hub::fetch(hub, repository, CONFIG, progress) {
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
        Ok(Self { file, source: Source::Hub { repository: repository.into(), file: path }, preprocessing })
    }
}

/// A network of an architecture, of its own size or built for another one.
enum Configured {
    Own(&'static dyn AnyConfiguration),
    Resized(Box<dyn AnyConfiguration>),
}

impl Configured {
    /// For images of that size, which it takes.
    fn new(entry: &'static Entry, size: [usize; 2]) -> Self {
        if entry.config.input_size() == size || entry.config.input_rule() == InputRule::Any {
            Self::Own(entry.config)
        } else {
            Self::Resized(entry.config.resized(size[0]))
        }
    }

    fn configuration(&self) -> &dyn AnyConfiguration {
        match self {
            Self::Own(config) => *config,
            Self::Resized(config) => &**config,
        }
    }
}

/// A file's tensors in the layout of a network's.
struct Fitting {
    network: Configured,
    checkpoint: Checkpoint,
    pattern: Pattern,
    layout: Layout,
    num_classes: usize,
}

impl Fitting {
    fn new(entry: &'static Entry, size: [usize; 2], file: &WeightsFile) -> Self {
        let network = Configured::new(entry, size);
        let mut checkpoint = file.checkpoint();
        network.configuration().convert(&mut checkpoint);
        let pattern = Pattern::of(network.configuration());
        let num_classes = pattern.classes(|key| checkpoint.shape(key));
        let layout = pattern.layout(num_classes);
        Self { network, checkpoint, pattern, layout, num_classes }
    }
}

/// Whether a network takes images of that size.
fn takes(entry: &Entry, size: [usize; 2]) -> Result<(), Error> {
    let [height, width] = size;
    let rule = entry.config.input_rule();
    let fits = size == entry.config.input_size()
        || match rule {
            InputRule::Any => height > 0 && width > 0,
            InputRule::Multiple(step) => height == width && height > 0 && height.is_multiple_of(step),
            InputRule::Fixed => false,
        };
    if fits {
        return Ok(());
    }
    Err(Error::InputSize { network: entry.name, height, width, rule, own: entry.config.input_size() })
}

/// Where weights are that no file was given for, and their tag.
fn published(spec: &ModelSpec) -> Result<(String, &str), Error> {
    let (entry, name) = (spec.entry(), || spec.name().to_owned());
    if entry.name.starts_with("demo_") {
        return Err(Error::NotEmbedded { name: name() });
    }
    let tag = spec.tag().or(catalogue::default_tag(entry.name)).ok_or_else(|| Error::NotPublished { name: name() })?;
    let repository = catalogue::repository(entry.name, tag).ok_or_else(|| Error::FileOnly { name: name() })?;
    Ok((repository, tag))
}

/// A repository's weights in the cache folder.
fn cached(hub: &HubConfig, repository: &str) -> Option<PathBuf> {
    HUB_FILES.iter().find_map(|file| hub::cached(hub, repository, file))
}

/// The file of a model's weights on this machine, if it is there: the one that was named, or one in the hub's cache
/// folder. Nobody is asked.
///
/// # Errors
/// [`Error::NotEmbedded`], [`Error::NotPublished`] or [`Error::FileOnly`].
pub fn path(spec: &ModelSpec, hub: &HubConfig) -> Result<Option<PathBuf>, Error> {
    match spec.path() {
        Some(path) => Ok(path.is_file().then(|| path.into())),
        None => Ok(cached(hub, &published(spec)?.0)),
    }
}

/// Brings a model's weights and their configuration to this machine, if they are not there yet, so that it runs without
/// a network later.
///
/// # Errors
/// Those of [`path`] and of [`hub::fetch`].
pub fn fetch(spec: &ModelSpec, hub: &HubConfig, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, Error> {
    if let Some(path) = path(spec, hub)? {
        return Ok(path);
    }
    if let Some(path) = spec.path() {
        return Err(Error::NoFile { path: path.into() });
    }
    let (repository, tag) = published(spec)?;
    let path = hub::fetch(hub, &repository, HUB_FILES[0], progress)?;
    match hub::fetch(hub, &repository, CONFIG, progress) {
        Err(error)
            if !matches!(error, Error::NoSuchHubFile { .. })
                && catalogue::preprocessing(spec.entry().name, Some(tag)).is_none() =>
        {
            Err(error)
        }
        _ => Ok(path),
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
        match takes(entry, preprocessing.input_size) {
            Ok(()) => Ok(preprocessing),
            Err(error) => Err(self.unusable(error.to_string())),
        }
    }

    fn unusable(&self, reason: String) -> Error {
        Error::Config { file: self.label.clone(), reason }
    }
}

impl Fitting {
    /// How the file differs from the layout, if it does.
    fn misfit(&self, entry: &Entry, file: &WeightsFile) -> Option<Misfit> {
        let (mut missing, mut different) = (Vec::new(), Vec::new());
        for (key, shape) in &self.layout.0 {
            let Some(found) = self.checkpoint.shape(key) else {
                missing.push(key.clone());
                continue;
            };
            if found != shape {
                different.push(format!("{key} is {found:?}, not {shape:?}"));
            }
            for origin in self.checkpoint.origins(key) {
                if let Err(kind) = &file.tensors[origin].kind {
                    different.push(format!("{key} holds {kind}, not floating point numbers"));
                }
            }
        }
        let expected: HashSet<&str> = self.layout.0.iter().map(|(key, _)| key.as_str()).collect();
        let unused: Vec<String> =
            self.checkpoint.names().filter(|key| !expected.contains(key)).map(String::from).collect();
        if missing.is_empty() && different.is_empty() && unused.is_empty() {
            return None;
        }
        let headless = different.is_empty()
            && unused.is_empty()
            && self.pattern.classifier().eq(missing.iter().map(String::as_str));
        Some(Misfit {
            missing,
            unused,
            different,
            fits: fitting(file),
            headless,
            ..Misfit::none(&file.label, entry.name)
        })
    }
}

/// The networks that the file fits exactly, at the size that they are made for.
fn fitting(file: &WeightsFile) -> Vec<&'static str> {
    let fits = |entry: &&Entry| {
        let mut checkpoint = file.checkpoint();
        entry.config.convert(&mut checkpoint);
        let pattern = Pattern::of(entry.config);
        let layout = pattern.layout(pattern.classes(|key| checkpoint.shape(key)));
        layout.0.len() == checkpoint.names().count()
            && layout.0.iter().all(|(key, shape)| checkpoint.shape(key) == Some(shape))
    };
    registry::all().iter().filter(fits).map(|entry| entry.name).collect()
}
