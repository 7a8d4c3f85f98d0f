//! What `compare`, `layers` and `condition` share: where features come from, networks on images or files.

use std::path::PathBuf;
use std::str::FromStr;

use netkin_weights::ModelSpec;
use serde::Serialize;

use super::common::{Common, DataOptions, ModelOptions, report_skipped};
use super::{Failure, sat, values};
use crate::images::{Dataset, Skipped};
use crate::model::{Crop, Model};
use crate::similarity::features::extract::{Layer, View, extract, named};
use crate::similarity::features::{Features, Values, file};

/// A network, or a file that holds what one made of some images.
#[derive(Debug, Clone)]
pub enum FeatureSource {
    Model(ModelSpec),
    File(PathBuf),
}

impl FromStr for FeatureSource {
    type Err = netkin_weights::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = PathBuf::from(text);
        // NAME=WEIGHTS ends like a file, too.
        if file::is_of_features(&path) && !text.contains('=') {
            Ok(Self::File(path))
        } else {
            text.parse().map(Self::Model)
        }
    }
}

/// A third set of features, or the labels of the images.
#[derive(Debug, Clone)]
pub enum Third {
    Labels,
    Source(FeatureSource),
}

impl FromStr for Third {
    type Err = netkin_weights::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "labels" { Ok(Self::Labels) } else { text.parse().map(Self::Source) }
    }
}

/// Options of every command that reads features.
#[derive(Debug, clap::Args)]
#[command(mut_arg("data", |data| data.required(false)))]
#[command(mut_arg("labels", |labels| labels.requires("data")))]
#[command(mut_arg("label_offset", |offset| offset.requires("data")))]
#[command(mut_arg("limit", |limit| limit.requires("data")))]
#[command(mut_arg("strict", |strict| strict.requires("data")))]
pub struct FeatureOptions {
    #[command(flatten)]
    data: Option<DataOptions>,
    #[command(flatten)]
    view: ViewOptions,
    /// Images at once
    #[arg(long, value_name = "COUNT", default_value = "32", value_parser = values::positive)]
    batch: usize,
    #[command(flatten)]
    options: ModelOptions,
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
    /// Of a network's weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl SetSection {
    /// Of a network's layer, which messages call `name`.
    pub fn of_model(model: &Model, name: String, features: usize) -> Self {
        Self { name, features, sha256: Some(model.sha256().to_owned()) }
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
    /// The labels of the images that could be decoded, once a network has seen them.
    labels: Option<Vec<usize>>,
    skipped: Vec<Skipped>,
}

impl FeatureOptions {
    pub fn reader<'a>(&'a self, common: &'a Common) -> Result<Reader<'a>, Failure> {
        let dataset = self.data.as_ref().map(DataOptions::open).transpose()?;
        Ok(Reader { common, options: self, dataset, labels: None, skipped: Vec::new() })
    }

    pub fn precision(&self) -> String {
        self.options.precision.to_string()
    }
}

impl Reader<'_> {
    /// Runs a network, or reads a file. `usual` is the layer where none is asked for, and its name in a file.
    pub fn read(&mut self, source: &FeatureSource, asked: Option<&str>, usual: Layer) -> Result<Rows, Failure> {
        match source {
            FeatureSource::File(path) => {
                let are_logits = usual == Layer::Logits;
                if are_logits && asked.is_none() && file::is_npy(path) {
                    return Err(format!(
                        "{} does not say that it holds logits, of which predictions are made; if it does, give --layer logits (for B --layer-b logits)",
                        path.display()
                    )
                    .into());
                }
                // Features are no logits, so that the only tensor will not do for them.
                let usual = if are_logits { "logits" } else { "features" };
                let found = file::read(path, asked.unwrap_or(usual), are_logits || asked.is_some())?;
                let name = match asked {
                    Some(tensor) => format!("{}:{tensor}", path.display()),
                    None => path.display().to_string(),
                };
                let section = SetSection { name, features: found.values.len() / found.rows.max(1), sha256: None };
                Ok(Rows { section, values: found.values, images: found.rows })
            }
            FeatureSource::Model(spec) => self.run(spec, asked.map_or(usual, |tap| Layer::Tap(tap.to_owned()))),
        }
    }

    fn run(&mut self, spec: &ModelSpec, layer: Layer) -> Result<Rows, Failure> {
        let (Some(dataset), Some(data)) = (&self.dataset, &self.options.data) else {
            return Err(format!("{spec} is a network, and needs images to make features of: give --data").into());
        };
        let model = self.common.load_one(&self.options.options.sized(spec.clone()), self.options.options.precision)?;
        let bar = self.common.bar("images");
        bar.set_length(dataset.samples.len() as u64);
        bar.set_message(model.name().to_owned());
        let view = self.options.view.view(self.options.batch, data.strict);
        let extracted = extract(&model, &dataset.samples, &layer, view, |images| bar.inc(images as u64))?;
        bar.finish_and_clear();
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
    pub fn labels(&self, images: usize) -> Result<Vec<usize>, Failure> {
        let labels = match (&self.labels, &self.dataset) {
            (Some(labels), _) => labels.clone(),
            (None, Some(dataset)) => dataset.samples.iter().map(|sample| sample.label).collect(),
            (None, None) => return Err("labels are wanted, and only images have them: give --data".into()),
        };
        if labels.len() == images {
            return Ok(labels);
        }
        Err(format!(
            "--data has labels of {} images, and the features are of {images}; both must be of the same images in the same order",
            labels.len()
        )
        .into())
    }

    /// A third set of features; labels are 0 or 1 for each class.
    pub fn third(&mut self, third: &Third, images: usize) -> Result<(SetSection, Features), Failure> {
        match third {
            Third::Labels => {
                let features = Features::one_hot("labels", &self.labels(images)?)?;
                let section = SetSection { name: "labels".into(), features: features.width(), sha256: None };
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

    /// Whether there are images, and with them labels.
    pub fn has_data(&self) -> bool {
        self.dataset.is_some()
    }
}

/// A width of Gaussian kernels, as a multiple of the median distance.
pub fn bandwidth(text: &str) -> Result<f64, String> {
    values::fraction(text).ok().filter(|width| *width > 0.0).ok_or_else(|| "give a number above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_files_are_told_apart() {
        let is_file = |text: &str| matches!(text.parse(), Ok(FeatureSource::File(_)));
        assert!(is_file("x.npy") && is_file("../a/x.safetensors"));
        assert!(!is_file("resnet50") && !is_file("resnet50=x.safetensors"));
        assert!("x.csv".parse::<FeatureSource>().is_err());
        assert!(matches!("labels".parse(), Ok(Third::Labels)));
        assert!(matches!("x.npy".parse(), Ok(Third::Source(FeatureSource::File(_)))));
        assert!(bandwidth("0").is_err() && bandwidth("-1").is_err() && bandwidth("1/2") == Ok(0.5));
    }
}
