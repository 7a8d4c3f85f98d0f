//! What `compare`, `layers` and `condition` share: where features come from, networks on images or files.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{ArgGroup, ArgMatches, FromArgMatches};
use netkin_weights::{ModelSpec, Precision};
use serde::Serialize;

use super::common::{Common, DataOptions, ModelOptions, report_skipped, say};
use super::{Failure, sat, values};
use crate::images::{Dataset, Skipped, labels_alone};
use crate::model::{Crop, Model};
use crate::similarity::features::extract::{Layer, View, extract, named};
use crate::similarity::features::{FeatureError, Features, Measure, Values, counted, file};
use crate::training::data::MAX_CLASSES;

/// A network, or a file that holds what one made of some images.
#[derive(Debug, Clone)]
pub enum FeatureSource {
    Model(ModelSpec),
    File(PathBuf),
}

/// Ends of files in which people keep features, and which are not read.
const OTHER_FILES: [&str; 14] =
    ["bin", "csv", "feather", "h5", "hdf5", "json", "mat", "npz", "parquet", "pkl", "pt", "pth", "tsv", "txt"];

impl FromStr for FeatureSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = PathBuf::from(text);
        // NAME=WEIGHTS ends like a file, too.
        if text.contains('=') {
            return model(text);
        }
        if file::is_of_features(&path) {
            return Ok(Self::File(path));
        }
        let is_other = |ending: &&str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
        if OTHER_FILES.iter().any(is_other) {
            return Err("files of features are .npy (numpy.save) or .safetensors; save it as one of them".into());
        }
        model(text)
    }
}

fn model(text: &str) -> Result<FeatureSource, String> {
    text.parse().map(FeatureSource::Model).map_err(|error: netkin_weights::Error| error.to_string())
}

/// A third set of features, or the labels of the images.
#[derive(Debug, Clone)]
pub enum Third {
    Labels,
    Source(FeatureSource),
}

impl FromStr for Third {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "labels" { Ok(Self::Labels) } else { text.parse().map(Self::Source) }
    }
}

impl Third {
    /// Whether no network has to be run for it.
    pub fn is_no_network(&self) -> bool {
        !matches!(self, Self::Source(FeatureSource::Model(_)))
    }
}

/// Images that networks see at once, where nothing else is asked for.
const BATCH: usize = 32;

/// Options of every command that reads features.
#[derive(Debug, clap::Args)]
pub struct FeatureOptions {
    #[command(flatten)]
    data: DataOrLabels,
    #[command(flatten)]
    view: ViewOptions,
    /// Images at once
    #[arg(long, value_name = "COUNT", default_value_t = BATCH, value_parser = values::positive)]
    batch: usize,
    #[command(flatten)]
    options: ModelOptions,
}

/// The options of data, of which features from files need none, and labels not all.
#[derive(Debug)]
enum DataOrLabels {
    Neither,
    /// --labels alone: those of the images that the files' features are of.
    Labels {
        file: PathBuf,
        offset: i64,
    },
    Data(DataOptions),
}

impl FromArgMatches for DataOrLabels {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if matches.contains_id("data") {
            return DataOptions::from_arg_matches(matches).map(Self::Data);
        }
        for (option, is_given) in [("--limit", matches.contains_id("limit")), ("--strict", matches.get_flag("strict"))]
        {
            if is_given {
                let said = format!("{option} is of images, and there are none: give --data, or leave {option} out\n");
                return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, said));
            }
        }
        let offset = matches.get_one("label_offset").copied().unwrap_or(0);
        let labels = matches.get_one::<PathBuf>("labels").cloned();
        Ok(labels.map_or(Self::Neither, |file| Self::Labels { file, offset }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for DataOrLabels {
    fn augment_args(command: clap::Command) -> clap::Command {
        <DataOptions as clap::Args>::augment_args(command)
            .group(ArgGroup::new("labelled").args(["data", "labels"]).multiple(true))
            .mut_arg("data", |data| data.required(false))
            .mut_arg("label_offset", |offset| offset.requires("labelled"))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// What networks see of an image.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ViewOptions {
    /// What networks see of an image: shared (all the same field of view) or own (each its weights' crop)
    #[arg(long, value_name = "CROP", default_value = "shared", value_parser = sat::crop)]
    crop: Crop,
}

impl ViewOptions {
    pub fn view(self, batch: usize, strict: bool) -> View {
        View { crop: self.crop, batch, strict }
    }
}

/// Which data results are of.
#[derive(Debug, Serialize)]
pub struct DataSection {
    images: usize,
    skipped: Vec<String>,
    fingerprint: String,
}

impl DataSection {
    pub fn of(dataset: &Dataset, skipped: &[Skipped]) -> Result<Self, Failure> {
        Ok(Self::with_fingerprint(dataset, skipped, dataset.fingerprint()?))
    }

    /// The same where the fingerprint, for which all images are read, is there.
    pub fn with_fingerprint(dataset: &Dataset, skipped: &[Skipped], fingerprint: String) -> Self {
        let skipped = skipped.iter().map(|image| image.id.clone()).collect();
        Self { images: dataset.samples.len(), skipped, fingerprint }
    }
}

/// Where a set of features is from, for results.
#[derive(Debug, Clone, Serialize)]
pub struct SetSection {
    pub name: String,
    /// Numbers for each image.
    pub features: usize,
    /// The number format of the network's computations, or of a file's numbers once they are read.
    precision: String,
    /// Of a network's weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl SetSection {
    /// Of a network's layer, which messages call `name`.
    pub fn of_model(model: &Model, name: String, features: usize) -> Self {
        let precision = model.precision().to_string();
        Self { name, features, precision, sha256: Some(model.sha256().to_owned()) }
    }

    /// Of numbers that no network here made.
    fn of_values(name: String, features: usize, values: &Values) -> Self {
        let precision = match values {
            Values::F32(_) => "f32",
            Values::F64(_) => "f64",
        };
        Self { name, features, precision: precision.into(), sha256: None }
    }

    /// For people.
    pub fn described(&self) -> String {
        format!("{} ({})", self.name, counted(self.features, "feature"))
    }

    /// The number formats of two sets.
    pub fn precision_of([a, b]: [&Self; 2]) -> String {
        match a.precision == b.precision {
            true => a.precision.clone(),
            false => format!("{} and {}", a.precision, b.precision),
        }
    }
}

/// A row of numbers for each image.
#[derive(Debug)]
pub struct Rows {
    pub section: SetSection,
    pub values: Values,
    pub images: usize,
}

impl Rows {
    /// Standardised, their products to be computed on the device.
    pub fn features(self, common: &Common) -> Result<Features, Failure> {
        Ok(Features::new(self.section.name, self.values, self.images)?.on(&common.device.open()?))
    }
}

/// Reads features, all of the same images.
pub struct Reader<'a> {
    pub common: &'a Common,
    options: &'a FeatureOptions,
    dataset: Option<Dataset>,
    /// Those of a file, or of the images that could be decoded, once a network has seen them.
    labels: Option<Vec<usize>>,
    skipped: Vec<Skipped>,
    /// How many classes each network knows that was run.
    known: Vec<usize>,
}

impl FeatureOptions {
    /// Opens the data, or the labels.
    ///
    /// # Errors
    /// Whatever is wrong with these.
    pub fn reader<'a>(&'a self, common: &'a Common) -> Result<Reader<'a>, Failure> {
        let (mut dataset, mut labels) = (None, None);
        match &self.data {
            DataOrLabels::Neither => {}
            DataOrLabels::Data(data) => dataset = Some(data.open()?),
            DataOrLabels::Labels { file, offset } => {
                let mut found = labels_alone(file).map_err(|reason| format!("the labels cannot be used: {reason}"))?;
                let least = found.iter().copied().min().unwrap_or(0);
                let offset = isize::try_from(*offset).unwrap_or(isize::MAX);
                if least.checked_add_signed(offset).is_none() && offset < 0 {
                    return Err(format!(
                        "--label-offset {offset} would make the label {least} in {} less than 0; give one of at least -{least}, or leave \
                         it out",
                        file.display()
                    )
                    .into());
                }
                found.iter_mut().for_each(|label| *label = label.saturating_add_signed(offset));
                labels = Some(found);
            }
        }
        check_labels(labels.iter().flatten().copied())?;
        check_labels(dataset.iter().flat_map(|dataset| &dataset.samples).map(|sample| sample.label))?;
        Ok(Reader { common, options: self, dataset, labels, skipped: Vec::new(), known: Vec::new() })
    }

    /// The option that gives images or labels, if one does.
    pub fn given(&self) -> Option<&'static str> {
        match self.data {
            DataOrLabels::Neither => None,
            DataOrLabels::Labels { .. } => Some("--labels"),
            DataOrLabels::Data(_) => Some("--data"),
        }
    }
}

impl FeatureOptions {
    /// Refuses options of networks where there is none; `what` is what has no use for them.
    ///
    /// # Errors
    /// If one differs from what it is by default.
    pub fn check_networks_options(&self, what: &str) -> Result<(), Failure> {
        let option = match () {
            _ if self.options.precision != Precision::F32 => "--precision",
            _ if self.options.input_size.is_some() => "--input-size",
            _ if self.batch != BATCH => "--batch",
            _ if self.view.crop != Crop::Shared => "--crop",
            _ => return Ok(()),
        };
        Err(format!("{what} of features from files has no use for {option}, since no network is run; leave it out")
            .into())
    }
}

impl Reader<'_> {
    /// Runs a network, or reads a file. `usual` is the layer where none is asked for, and its name in a file.
    ///
    /// # Errors
    /// Whatever is wrong with the network, the images or the file, and a layer that they have not, or that is of no use for predictions.
    pub fn read(&mut self, source: &FeatureSource, asked: Option<&str>, usual: Layer) -> Result<Rows, Failure> {
        let are_logits = usual == Layer::Logits;
        match source {
            FeatureSource::File(path) => read_file(path, asked, are_logits),
            FeatureSource::Model(spec) => {
                let layer = match asked {
                    None => usual,
                    Some("logits") => Layer::Logits,
                    Some(tap) if are_logits => {
                        return Err(format!(
                            "predictions are made of what comes out of {spec}, not of its layer {tap:?}; leave --layer (for B --layer-b) \
                             out, or take a measure of features such as dcor"
                        )
                        .into());
                    }
                    Some("pooled") => Layer::Pooled,
                    Some(tap) => Layer::Tap(tap.to_owned()),
                };
                self.run(spec, layer)
            }
        }
    }

    fn run(&mut self, spec: &ModelSpec, layer: Layer) -> Result<Rows, Failure> {
        let (Some(dataset), DataOrLabels::Data(data)) = (&self.dataset, &self.options.data) else {
            return Err(format!("{spec} is a network, and needs images to make features of: give --data").into());
        };
        let model = self.common.load_one(&self.options.options.sized(spec.clone()), self.options.options.precision)?;
        let bar = self.common.bar("images");
        bar.set_length(dataset.samples.len() as u64);
        bar.set_message(model.name().to_owned());
        let view = self.options.view.view(self.options.batch, data.strict);
        let extracted = extract(&model, &dataset.samples, &layer, view, |images| bar.inc(images as u64))?;
        bar.finish_and_clear();
        self.known.push(model.num_classes());
        if self.labels.is_none() {
            report_skipped(&extracted.skipped);
            self.skipped = extracted.skipped;
            self.labels = Some(extracted.labels);
        }
        let images = extracted.images.len();
        let section = SetSection::of_model(&model, named(&model, &layer), extracted.values.len() / images);
        Ok(Rows { section, values: extracted.values, images })
    }

    /// The labels of the images of features that were read, `images` in all.
    ///
    /// # Errors
    /// If there are none, or another number of them.
    pub fn labels(&self, images: usize) -> Result<Vec<usize>, Failure> {
        let labels = match (&self.labels, &self.dataset) {
            (Some(labels), _) => labels.clone(),
            (None, Some(dataset)) => dataset.samples.iter().map(|sample| sample.label).collect(),
            (None, None) => {
                return Err("labels are wanted: give --data, or for features from files --labels alone".into());
            }
        };
        if labels.len() == images {
            return Ok(labels);
        }
        let given = self.options.given().unwrap_or("--data");
        Err(format!(
            "{given} has labels of {}, and the features are of {images}; both must be of the same images in the same order",
            counted(labels.len(), "image")
        )
        .into())
    }

    /// Refuses embeddings whose rows are not the classes that labels are of, or that a network knows.
    ///
    /// # Errors
    /// [`FeatureError::NoEmbedding`], and what is wrong with the data.
    pub fn check_classes(&self, name: &str, rows: usize, labels: &[usize]) -> Result<(), Failure> {
        let classes = self.classes()?;
        let is_known = rows == classes || self.known.contains(&rows);
        if is_known && labels.iter().all(|&label| label < rows) {
            return Ok(());
        }
        Err(FeatureError::NoEmbedding { name: name.to_owned(), rows, classes }.into())
    }

    /// The classes of the data's folders, or all up to the largest label, whatever --limit leaves of the images.
    fn classes(&self) -> Result<usize, Failure> {
        let beyond = |highest: Option<usize>| highest.map_or(0, |label| label.saturating_add(1));
        let (Some(dataset), DataOrLabels::Data(data)) = (&self.dataset, &self.options.data) else {
            return Ok(beyond(self.labels.iter().flatten().copied().max()));
        };
        if let Some(names) = &dataset.class_names {
            return Ok(names.len().saturating_add_signed(data.label_offset as isize));
        }
        let highest = |dataset: &Dataset| beyond(dataset.samples.iter().map(|sample| sample.label).max());
        match data.limit {
            None => Ok(highest(dataset)),
            Some(_) => {
                let whole = Dataset::open(&data.data, data.labels.as_deref())?.shifted_by(data.label_offset)?;
                Ok(highest(&whole))
            }
        }
    }

    /// A third set of features; labels are 0 or 1 for each class.
    pub fn third(&mut self, third: &Third, images: usize) -> Result<(SetSection, Features), Failure> {
        match third {
            Third::Labels => {
                let features = Features::one_hot("labels", &self.labels(images)?)?;
                let section = SetSection {
                    name: "labels".into(),
                    features: features.width(),
                    precision: "f64".into(),
                    sha256: None,
                };
                Ok((section, features))
            }
            Third::Source(source) => {
                let rows = self.read(source, None, Layer::Pooled)?;
                Ok((rows.section.clone(), rows.features(self.common)?))
            }
        }
    }

    /// Which data the results are of; none where all features came from files.
    pub fn data_section(&self) -> Result<Option<DataSection>, Failure> {
        self.dataset.as_ref().map(|dataset| DataSection::of(dataset, &self.skipped)).transpose()
    }

    /// Whether images were left out.
    pub fn has_skipped(&self) -> bool {
        !self.skipped.is_empty()
    }

    /// Whether there are labels, of images or alone.
    pub fn has_labels(&self) -> bool {
        self.dataset.is_some() || self.labels.is_some()
    }
}

/// Refuses labels that are no classes.
fn check_labels(mut labels: impl Iterator<Item = usize>) -> Result<(), String> {
    let mut last = 0;
    let found = labels.by_ref().inspect(|&label| last = label).position(|label| label >= MAX_CLASSES);
    found.map_or(Ok(()), |row| {
        Err(format!(
            "the label of row {row} (counted from 0) is {last}, and there are at most {MAX_CLASSES} classes, numbered from 0; give labels \
             that are classes"
        ))
    })
}

/// A matrix from a file: of a .npy file the only one, of a safetensors file the tensor that is asked for.
fn read_file(path: &Path, asked: Option<&str>, are_logits: bool) -> Result<Rows, Failure> {
    let shown = path.display();
    match asked {
        _ if !file::is_npy(path) => {}
        Some("logits") if are_logits => {}
        _ if are_logits => {
            return Err(format!(
                "{shown} does not say that it holds logits, of which predictions are made; if it does, give --layer logits (for B --layer-b logits)"
            )
            .into());
        }
        Some(layer) => {
            return Err(format!(
                "{shown} holds one matrix without a name, and no layer {layer:?}; leave --layer (for B --layer-b) out, or give the \
                 layer's own file"
            )
            .into());
        }
        None => {}
    }
    // Features are no logits, so that the only tensor will not do for them.
    let usual = if are_logits { "logits" } else { "features" };
    let found = file::read(path, asked.unwrap_or(usual), are_logits || asked.is_some())?;
    let name = match asked {
        Some(tensor) => format!("{shown}:{tensor}"),
        None => shown.to_string(),
    };
    let section = SetSection::of_values(name, found.values.len() / found.rows.max(1), &found.values);
    Ok(Rows { section, values: found.values, images: found.rows })
}

/// Widths of Gaussian kernels that tell images apart: with far narrower ones all of them are unlike each other, with far wider ones
/// alike.
const BANDWIDTHS: RangeInclusive<f64> = 0.01..=100.0;

/// A width of Gaussian kernels, as a multiple of the median distance.
pub fn bandwidth(text: &str) -> Result<f64, String> {
    let width = values::fraction(text).ok().filter(|width| BANDWIDTHS.contains(width));
    width.ok_or_else(|| format!("give a number from {} to {}", BANDWIDTHS.start(), BANDWIDTHS.end()))
}

/// The width of a measure's kernels, 1 if none is asked for; none of a measure without Gaussian kernels.
///
/// # Errors
/// If one is asked for that the measure has no use for.
pub fn width_of(measure: Measure, asked: Option<f64>) -> Result<Option<f64>, Failure> {
    if measure.is_gaussian() {
        return Ok(Some(asked.unwrap_or(1.0)));
    }
    let column = measure.properties().column;
    let refused = || format!("{column} has no Gaussian kernels; leave --bandwidth out, or take cka-rbf as --measure");
    if asked.is_some() { Err(refused().into()) } else { Ok(None) }
}

/// What is said of an error if kernels have that width, which may be what does not tell the images apart.
pub fn said_with_width(error: FeatureError, width: Option<f64>) -> String {
    match (error, width) {
        (FeatureError::Constant { name }, Some(width)) if width != 1.0 => format!(
            "{name} does not tell the images apart with Gaussian kernels of --bandwidth {width}; give one that is nearer to 1, or other \
             images"
        ),
        (error, _) => error.to_string(),
    }
}

/// Says that a last mini-batch of so many images is too small for a statistic, if there is one; then the command falls short.
pub fn note_rest(images: usize, least: usize) {
    if images > 0 {
        let rest = counted(images, "image");
        say(&format!("the rest of {rest} is no mini-batch of at least {least} and was left out"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_files_are_told_apart() {
        let is_file = |text: &str| matches!(text.parse(), Ok(FeatureSource::File(_)));
        assert!(is_file("x.npy") && is_file("../a/x.safetensors"));
        assert!(!is_file("resnet50") && !is_file("resnet50=x.safetensors"));
        assert!(is_file("X.NPY") && !is_file("resnet50=x.npy"));
        for other in ["x.csv", "a/x.npz", "x.PT"] {
            let error = other.parse::<FeatureSource>().unwrap_err();
            assert!(error.contains(".npy") && error.contains(".safetensors"), "{error}");
        }
        assert!("resnet5O".parse::<Third>().unwrap_err().contains("did you mean resnet50"));
        assert!(matches!("labels".parse(), Ok(Third::Labels)));
        assert!(matches!("x.npy".parse(), Ok(Third::Source(FeatureSource::File(_)))));
        assert!(bandwidth("1/2") == Ok(0.5) && bandwidth("100") == Ok(100.0));
        for wrong in ["0", "-1", "0.001", "1e9", "nan"] {
            assert_eq!(bandwidth(wrong), Err("give a number from 0.01 to 100".into()), "{wrong}");
        }
    }
}
