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
use crate::preprocessing::{Config, LARGEST_SIDE};
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
    /// What was chosen among several things in the file, such as averaged weights, or made for something else, in sentences
    /// for people.
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

impl Source {
    /// The file, unless the weights are in the program.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(file) | Self::Hub { file, .. } => Some(file),
            Self::Embedded => None,
        }
    }
}

/// The weights of a repository on the hub, newest format first; the second is found only where a person already has it.
const HUB_FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const CONFIG: &str = "config.json";

/// Finds the weights, downloads them if need be, and fills the network with them for computations in `precision` (see
/// [`Precision::held_on`]).
///
/// A path may lead to safetensors or a PyTorch checkpoint. Without one, `demo_…` names have their weights in the
/// program, all others on the Hugging Face hub. The file must fit exactly, after the conversions that timm does, too
/// ([`Configuration::convert`](netkin_architectures::Configuration::convert)): it has every parameter, in its shape, and
/// nothing else; only the number of classes is the file's own. Every number must be finite: weights that hold NaN or infinity
/// are refused, and [`check`] names them all. Images are prepared as [`preprocessing`] says.
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
    precision.check(device)?;
    let held = precision.held_on(device);
    let entry = spec.entry();
    let Found { file, source, preprocessing } = Found::from_spec(spec, hub, progress)?;
    let fitting = Fitting::new(entry, preprocessing.input_size, &file);
    if let Some(misfit) = fitting.misfit(entry, &file) {
        return Err(Error::Misfit(Box::new(misfit)));
    }

    let Fitting { network, checkpoint, layout, num_classes, .. } = fitting;
    let notes = file.notes.iter().chain(checkpoint.notes()).cloned().collect();
    let config = network.configuration();
    let tensors = layout
        .0
        .iter()
        .map(|(key, _)| Ok(bridge::from_data(file.read(&checkpoint, key, held)?, key.clone(), None)))
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
        notes,
    })
}

/// As [`load`], into a network that is trained further: that of `config`, which is of the same architecture but may be for images of
/// another size or leave something out in training, with `num_classes` outputs. If the file has another number of classes, or no
/// classifier, that of the network has no values yet: they are drawn when it is first used.
///
/// # Errors
/// Those of [`load`].
pub fn finetune(
    spec: &ModelSpec,
    config: &dyn AnyConfiguration,
    num_classes: usize,
    precision: Precision,
    device: &Device,
    hub: &HubConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Loaded, Error> {
    precision.check(device)?;
    let held = precision.held_on(device);
    let entry = spec.entry();
    let Found { file, source, preprocessing } = Found::from_spec(spec, hub, progress)?;
    let fitting = Fitting::of(Configured::Own(config), &file);
    if let Some(misfit) = fitting.misfit(entry, &file).filter(|misfit| !misfit.headless) {
        return Err(Error::Misfit(Box::new(misfit)));
    }
    let Fitting { checkpoint, pattern, layout, .. } = &fitting;
    let keeps_classifier = fitting.num_classes == num_classes;
    let is_taken = |key: &str| {
        checkpoint.contains(key) && (keeps_classifier || pattern.classifier().all(|of_classifier| of_classifier != key))
    };
    let tensors = layout
        .0
        .iter()
        .filter(|(key, _)| is_taken(key.as_str()))
        .map(|(key, _)| Ok(bridge::from_data(file.read(checkpoint, key, held)?, key.clone(), None)))
        .collect::<Result<Vec<_>, Error>>()?;
    let notes = file.notes.iter().chain(checkpoint.notes()).cloned().collect();
    let parameters = pattern.layout(num_classes).parameters();
    let mut network = config.build(num_classes, &device.clone().without_autodiff());
    let applied = network.apply(tensors, None, None, true);
    assert!(
        applied.unused.is_empty() && applied.errors.is_empty(),
        "the layout of {} is not that of the network: {applied}",
        entry.name
    );
    Ok(Loaded {
        name: spec.name().into(),
        entry,
        network,
        preprocessing,
        num_classes,
        sha256: file.sha256,
        parameters,
        source,
        notes,
    })
}

/// How images are prepared for a model, without its weights; nothing is downloaded for it.
///
/// As `config.json` says, on the hub (if it is in the cache folder) or beside a file (if it is about this architecture), else as
/// timm does for these weights (by the tag that was asked for, or the one in the file's name, or
/// [`ModelSpec::usual_tag`]), else as usual ([`Preprocessing::usual`]).
///
/// # Errors
/// [`Error::UnknownTag`], [`Error::NotPublished`] or [`Error::NotEmbedded`] if there are no weights of a tag that was asked
/// for, [`Error::Config`], [`Error::Io`] or [`Error::InputSize`].
pub fn preprocessing(spec: &ModelSpec, hub: &HubConfig) -> Result<Preprocessing, Error> {
    if let Some(path) = spec.path() {
        return sized(spec, beside(spec, path)?);
    }
    let entry = spec.entry();
    let usual = || usual(entry, spec.tag().or(spec.usual_tag()));
    let preprocessing = match published(spec, hub) {
        Ok((repository, _)) => said(entry, hub::cached(hub, &repository, CONFIG).as_deref(), usual())?,
        Err(Error::FileOnly { .. }) => usual(),
        Err(_) if spec.tag().is_none() => usual(),
        Err(error) => return Err(error),
    };
    sized(spec, preprocessing)
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
    /// Tensors in both, with another shape, each as a phrase.
    pub different: Vec<String>,
    /// Tensors in both, of numbers that are no f32, f64, f16 or bf16, each as a phrase with their type.
    pub unreadable: Vec<String>,
    /// Keys of the network whose numbers in the file are not all finite, so that nothing can be computed with them.
    pub not_finite: Vec<String>,
    /// Networks that the file fits exactly, if it does not fit this one.
    pub fits: Vec<&'static str>,
    /// What was chosen among several things in the file, or made for something else, in sentences for people.
    pub notes: Vec<String>,
}

impl Check {
    /// Whether [`load`] takes the file.
    pub fn fits_exactly(&self) -> bool {
        [&self.missing, &self.unused, &self.different, &self.unreadable, &self.not_finite]
            .iter()
            .all(|flaws| flaws.is_empty())
    }
}

/// Finds the weights as [`load`] does, and says how they fit and whether they are finite, without loading them.
///
/// # Errors
/// Any [`Error`] but [`Error::Misfit`], and those of parsing a [`ModelSpec`].
pub fn check(spec: &ModelSpec, hub: &HubConfig, progress: &mut dyn FnMut(Progress)) -> Result<Check, Error> {
    let entry = spec.entry();
    let Found { file, source, preprocessing } = Found::from_spec(spec, hub, progress)?;
    let fitting = Fitting::new(entry, preprocessing.input_size, &file);
    let Misfit { missing, unused, different, unreadable, fits, .. } =
        fitting.misfit(entry, &file).unwrap_or_else(|| Misfit::none(&file.label, entry.name));
    let (mut applied, mut not_finite) = (0, Vec::new());
    for (key, shape) in &fitting.layout.0 {
        if fitting.checkpoint.shape(key) == Some(shape.as_slice()) && readable(&fitting.checkpoint, key, &file) {
            applied += 1;
            match file.read(&fitting.checkpoint, key, Precision::F64) {
                Ok(_) => {}
                Err(Error::NotFinite { .. }) => not_finite.push(key.clone()),
                Err(error) => return Err(error),
            }
        }
    }
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
        applied,
        converted,
        missing,
        unused,
        different,
        unreadable,
        not_finite,
        fits,
        notes: file.notes.iter().chain(fitting.checkpoint.notes()).cloned().collect(),
        sha256: file.sha256,
    })
}

/// What [`check`] does with a file, for fuzzing: how many tensors of the network can be read. Other networks are not tried.
#[cfg(fuzzing)]
pub fn remap(entry: &'static Entry, path: &Path) -> Result<usize, Error> {
    let file = WeightsFile::open(path)?;
    let Fitting { checkpoint, layout, .. } = Fitting::new(entry, entry.config.input_size(), &file);
    let fits = |(key, shape): &&(String, Vec<usize>)| {
        checkpoint.shape(key) == Some(shape.as_slice()) && readable(&checkpoint, key, &file)
    };
    let read = layout.0.iter().filter(fits).filter(|(key, _)| file.read(&checkpoint, key, Precision::F32).is_ok());
    Ok(read.count())
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
        let found = Self::as_published(spec, hub, progress)?;
        Ok(Self { preprocessing: sized(spec, found.preprocessing)?, ..found })
    }

    fn as_published(spec: &ModelSpec, hub: &HubConfig, progress: &mut dyn FnMut(Progress)) -> Result<Self, Error> {
        let entry = spec.entry();
        if let Some(path) = spec.path() {
            return Self::at_path(spec, path);
        }
        if let Some(bytes) = embedded::weights(entry.name).filter(|_| is_embedded(spec)) {
            let label = format!("the embedded {}", entry.name);
            return Ok(Self {
                file: WeightsFile::from_safetensors(label, bytes.into())?,
                source: Source::Embedded,
                preprocessing: usual(entry, None),
            });
        }
        let (repository, tag) = published(spec, hub)?;
        Self::on_hub(entry, &repository, tag, hub, progress)
    }

    fn at_path(spec: &ModelSpec, path: &Path) -> Result<Self, Error> {
        let file = WeightsFile::open(path)?;
        Ok(Self { file, source: Source::File(path.into()), preprocessing: beside(spec, path)? })
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
        let preprocessing = said(entry, config.as_deref(), usual)?;
        Ok(Self { file, source: Source::Hub { repository: repository.into(), file: path }, preprocessing })
    }
}

/// A network of an architecture, of its own size or built for another one.
enum Configured<'a> {
    Own(&'a dyn AnyConfiguration),
    Resized(Box<dyn AnyConfiguration>),
}

impl Configured<'_> {
    /// For images of that size, which it takes.
    fn new(entry: &'static Entry, size: [usize; 2]) -> Self {
        if entry.config.input_size() == size || entry.config.input_rule() == InputRule::Any {
            Self::Own(entry.config)
        } else {
            Self::Resized(entry.config.resized(size))
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
struct Fitting<'a> {
    network: Configured<'a>,
    checkpoint: Checkpoint,
    pattern: Pattern,
    layout: Layout,
    num_classes: usize,
}

impl<'a> Fitting<'a> {
    fn new(entry: &'static Entry, size: [usize; 2], file: &WeightsFile) -> Self {
        Self::of(Configured::new(entry, size), file)
    }

    fn of(network: Configured<'a>, file: &WeightsFile) -> Self {
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
            InputRule::Any => true,
            InputRule::Multiple(step) => size.iter().all(|side| side.is_multiple_of(step)),
            InputRule::Retrained(step) => height == width && height.is_multiple_of(step),
            InputRule::Fixed => false,
        } && size.iter().all(|side| (1..=LARGEST_SIDE).contains(side));
    if fits {
        return Ok(());
    }
    Err(Error::InputSize { network: entry.name, height, width, rule, own: entry.config.input_size() })
}

/// Whether the weights that are asked for are in the program.
fn is_embedded(spec: &ModelSpec) -> bool {
    spec.path().is_none() && spec.tag().is_none() && embedded::weights(spec.entry().name).is_some()
}

/// Where weights are that no file was given for, and their tag. One that the catalogue does not know may have come to the hub
/// since: it is taken if the cache folder has it, and else more likely misspelt.
fn published<'s>(spec: &'s ModelSpec, hub: &HubConfig) -> Result<(String, &'s str), Error> {
    let (entry, name) = (spec.entry(), || spec.name().to_owned());
    if entry.name.starts_with("demo_") {
        return Err(Error::NotEmbedded { name: name() });
    }
    let tag = spec.tag().or(spec.usual_tag()).ok_or_else(|| Error::NotPublished { name: name() })?;
    let repository = catalogue::repository(entry.name, tag).ok_or_else(|| Error::FileOnly { name: name() })?;
    let tags = catalogue::tags(entry.name);
    if tags.contains(&tag) || cached(hub, &repository).is_some() {
        return Ok((repository, tag));
    }
    if tags.is_empty() {
        return Err(Error::NotPublished { name: name() });
    }
    let similar = registry::most_similar(tag, tags.iter().copied());
    Err(Error::UnknownTag { name: entry.name, tag: tag.into(), similar, tags })
}

/// A repository's weights in the cache folder.
fn cached(hub: &HubConfig, repository: &str) -> Option<PathBuf> {
    HUB_FILES.iter().find_map(|file| hub::cached(hub, repository, file))
}

/// Where a model's weights are on this machine, if they are there: in the file that was named, in one of the hub's cache folder,
/// or in the program. Nobody is asked.
///
/// # Errors
/// [`Error::NoFile`], [`Error::Folder`], [`Error::NotEmbedded`], [`Error::NotPublished`], [`Error::UnknownTag`] or
/// [`Error::FileOnly`].
pub fn locate(spec: &ModelSpec, hub: &HubConfig) -> Result<Option<Source>, Error> {
    match spec.path() {
        Some(path) if path.is_dir() => Err(Error::Folder { path: path.into() }),
        Some(path) if path.exists() => Ok(Some(Source::File(path.into()))),
        Some(path) => Err(Error::NoFile { path: path.into() }),
        None if is_embedded(spec) => Ok(Some(Source::Embedded)),
        None => {
            let (repository, _) = published(spec, hub)?;
            Ok(cached(hub, &repository).map(|file| Source::Hub { repository, file }))
        }
    }
}

/// Brings a model's weights and their configuration to this machine, if they are not there yet, so that it runs without
/// a network later.
///
/// # Errors
/// Those of [`locate`] and of [`hub::fetch`].
pub fn fetch(spec: &ModelSpec, hub: &HubConfig, progress: &mut dyn FnMut(Progress)) -> Result<Source, Error> {
    if let Some(source) = locate(spec, hub)? {
        return Ok(source);
    }
    let (repository, tag) = published(spec, hub)?;
    let file = hub::fetch(hub, &repository, HUB_FILES[0], progress)?;
    match hub::fetch(hub, &repository, CONFIG, progress) {
        Err(error)
            if !matches!(error, Error::NoSuchHubFile { .. })
                && catalogue::preprocessing(spec.entry().name, Some(tag)).is_none() =>
        {
            Err(error)
        }
        _ => Ok(Source::Hub { repository, file }),
    }
}

/// How images are prepared for a file's weights: as `config.json` beside it says, if it is about this architecture.
fn beside(spec: &ModelSpec, path: &Path) -> Result<Preprocessing, Error> {
    let entry = spec.entry();
    let usual = usual(entry, spec.tag().or_else(|| tag_of(entry, path)).or(spec.usual_tag()));
    let config = path.with_file_name(CONFIG);
    if config.is_file() { ConfigFile::open(&config)?.about(entry, usual) } else { Ok(usual) }
}

/// What a configuration says, if there is one.
fn said(entry: &Entry, config: Option<&Path>, usual: Preprocessing) -> Result<Preprocessing, Error> {
    match config {
        Some(config) => ConfigFile::open(config)?.preprocessing(entry, usual),
        None => Ok(usual),
    }
}

/// With images of the size that was asked for, if one was.
fn sized(spec: &ModelSpec, preprocessing: Preprocessing) -> Result<Preprocessing, Error> {
    match spec.input_size() {
        Some(input_size) => {
            takes(spec.entry(), input_size)?;
            Ok(Preprocessing { input_size, ..preprocessing })
        }
        None => Ok(preprocessing),
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

/// Whether a tensor is made of floating point numbers that netkin reads.
fn readable(checkpoint: &Checkpoint, key: &str, file: &WeightsFile) -> bool {
    checkpoint.origins(key).into_iter().all(|origin| file.tensors[origin].kind.is_ok())
}

impl Fitting<'_> {
    /// How the file differs from the layout, if it does.
    fn misfit(&self, entry: &Entry, file: &WeightsFile) -> Option<Misfit> {
        let (mut missing, mut different, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
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
                    unreadable.push(format!("{origin}: {kind}"));
                }
            }
        }
        let expected: HashSet<&str> = self.layout.0.iter().map(|(key, _)| key.as_str()).collect();
        let unused: Vec<String> =
            self.checkpoint.names().filter(|key| !expected.contains(key)).map(String::from).collect();
        if [&missing, &different, &unreadable, &unused].iter().all(|flaws| flaws.is_empty()) {
            return None;
        }
        let headless = different.is_empty()
            && unreadable.is_empty()
            && unused.is_empty()
            && self.pattern.classifier().eq(missing.iter().map(String::as_str));
        Some(Misfit {
            missing,
            unused,
            different,
            unreadable,
            fits: fitting(file),
            headless,
            ..Misfit::none(&file.label, entry.name)
        })
    }
}

/// No network has so many, and to compare them with all of them takes long.
const MOST_TENSORS: usize = 10_000;

/// The networks that the file fits exactly, at the size that they are made for.
fn fitting(file: &WeightsFile) -> Vec<&'static str> {
    if file.tensors.len() > MOST_TENSORS {
        return Vec::new();
    }
    let fits = |entry: &&Entry| {
        let mut checkpoint = file.checkpoint();
        entry.config.convert(&mut checkpoint);
        let pattern = Pattern::of(entry.config);
        let layout = pattern.layout(pattern.classes(|key| checkpoint.shape(key)));
        let in_place = |(key, shape): &(String, Vec<usize>)| {
            checkpoint.shape(key) == Some(shape.as_slice()) && readable(&checkpoint, key, file)
        };
        layout.0.len() == checkpoint.names().count() && layout.0.iter().all(in_place)
    };
    registry::all().iter().filter(fits).map(|entry| entry.name).collect()
}
