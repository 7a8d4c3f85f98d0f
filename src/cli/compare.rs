//! `netkin compare`: how alike two networks are by what they make of the same images.

use serde::Serialize;

use super::common::{Common, print, print_json, say};
use super::features::{
    DataSection, FeatureOptions, FeatureSource, Reader, SetSection, Third, bandwidth, note_rest, said_with_width,
    width_of,
};
use super::{Failure, Outcome, values};
use crate::similarity::features::extract::Layer;
use crate::similarity::features::outputs::{Predictions, disagreement, kappa};
use crate::similarity::features::procrustes::procrustes;
use crate::similarity::features::{FeatureError, Features, InnerProducts, Measure, Properties, counted};

/// Compare two networks by their features or predictions of the same images
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG or NAME=WEIGHTS, or a .safetensors or .npy file with a row for each image
    #[arg(value_name = "A")]
    a: FeatureSource,
    /// The other one
    #[arg(value_name = "B")]
    b: FeatureSource,
    /// What is measured
    #[arg(long, value_name = "MEASURE", default_value = "dcor")]
    measure: Measure,
    /// A layer of A by timm's name of its block, such as layer1.0 or blocks.3, or a tensor of its file [default: pooled features]
    #[arg(long, value_name = "NAME", visible_alias = "layer-a")]
    layer: Option<String>,
    /// The same of B
    #[arg(long, value_name = "NAME")]
    layer_b: Option<String>,
    /// What pdcor and semi-pdcor project out: labels, a network, or a file with a row for each image
    #[arg(long, value_name = "C")]
    given: Option<Third>,
    /// Take the mean over mini-batches of COUNT images; a rest of fewer than the measure needs is left out
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    mini_batch: Option<usize>,
    /// The width of the Gaussian kernels of cka-rbf, as a multiple of the median distance between images, or of the mean
    /// where the median is 0 [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = bandwidth)]
    bandwidth: Option<f64>,
    #[command(flatten)]
    features: FeatureOptions,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    a: SetSection,
    b: SetSection,
    #[serde(skip_serializing_if = "Option::is_none")]
    given: Option<SetSection>,
    data: Option<DataSection>,
    /// Images that count.
    images: usize,
    /// Images at the end that are too few for a mini-batch.
    images_left_out: usize,
    measure: Measure,
    #[serde(flatten)]
    properties: Properties,
    #[serde(skip_serializing_if = "Option::is_none")]
    mini_batch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<f64>,
    value: f64,
    /// The number formats of the two sets.
    precision: String,
    device: String,
}

/// What was compared, and the result.
struct Compared {
    sets: [SetSection; 2],
    given: Option<SetSection>,
    /// Images that count.
    images: usize,
    /// Images at the end that are too few for a mini-batch.
    left_out: usize,
    value: f64,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let bandwidth = width_of(self.measure, self.bandwidth)?;
        self.check()?;
        let mut reader = self.features.reader(common)?;
        let Compared { sets: [a, b], given, images, left_out, value } = match self.measure.is_of_outputs() {
            true => self.outputs(&mut reader)?,
            false => self.features(&mut reader, bandwidth)?,
        };
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            precision: SetSection::precision_of([&a, &b]),
            a,
            b,
            given,
            data: reader.data_section()?,
            images,
            images_left_out: left_out,
            measure: self.measure,
            properties: self.measure.properties(),
            mini_batch: self.mini_batch,
            bandwidth,
            value,
            device: common.device.to_string(),
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_text())?;
        }
        Ok(if reader.has_skipped() || left_out > 0 { Outcome::FellShort } else { Outcome::Done })
    }

    /// Refuses options that do not go together.
    fn check(&self) -> Result<(), Failure> {
        let column = self.measure.properties().column;
        match (self.measure.is_partial(), &self.given) {
            (true, None) => {
                return Err(
                    "pdcor and semi-pdcor project a third set of features out: give --given labels, a network or a \
                            file"
                        .into(),
                );
            }
            (false, Some(_)) => {
                return Err(
                    "--given is for pdcor and semi-pdcor; give one of them as --measure, or leave --given out".into()
                );
            }
            _ => {}
        }
        if self.mini_batch.is_some() && self.measure.products(1.0).is_none() {
            return Err(format!("{column} is no mean over mini-batches; leave --mini-batch out").into());
        }
        let is_file = |source: &FeatureSource| matches!(source, FeatureSource::File(_));
        let wants_none = match &self.given {
            None => self.measure != Measure::Kappa,
            Some(Third::Labels) => false,
            Some(Third::Source(source)) => is_file(source),
        };
        match self.features.given() {
            Some(option) if wants_none && is_file(&self.a) && is_file(&self.b) => {
                Err(format!("{column} of features from files has no use for {option}; leave it out").into())
            }
            _ if is_file(&self.a) && is_file(&self.b) && self.given.as_ref().is_none_or(Third::is_no_network) => {
                self.features.check_networks_options(column)
            }
            _ => Ok(()),
        }
    }

    fn features(&self, reader: &mut Reader, bandwidth: Option<f64>) -> Result<Compared, Failure> {
        let common = reader.common;
        let a = reader.read(&self.a, self.layer.as_deref(), Layer::Pooled)?;
        let b = reader.read(&self.b, self.layer_b.as_deref(), Layer::Pooled)?;
        let (images, sections) = (a.images, [a.section.clone(), b.section.clone()]);
        if let Some(batch) = self.mini_batch.filter(|&batch| batch > images) {
            let images = counted(images, "image");
            return Err(format!("--mini-batch {batch} is more than {images}; give no more, or leave it out").into());
        }
        let (a, b) = (a.features(common)?, b.features(common)?);
        let third = self.given.as_ref().map(|given| reader.third(given, images)).transpose()?;
        let (given, third) = third.unzip();
        let sets: Vec<&Features> = [&a, &b].into_iter().chain(&third).collect();
        let (value, left_out) = self.value(&sets, bandwidth).map_err(|error| said_with_width(error, bandwidth))?;
        note_rest(left_out, self.measure.properties().least_images);
        Ok(Compared { sets: sections, given, images: images - left_out, left_out, value })
    }

    /// The measure of sets of features, and how many images at their end are no mini-batch.
    fn value(&self, sets: &[&Features], bandwidth: Option<f64>) -> Result<(f64, usize), FeatureError> {
        let Some((kernel, centring)) = self.measure.products(bandwidth.unwrap_or(1.0)) else {
            return Ok((procrustes(sets[0], sets[1])?, 0));
        };
        let (products, rest) = match self.mini_batch {
            None => (InnerProducts::of(sets, &kernel, centring)?, 0),
            Some(batch) => (InnerProducts::of_mini_batches(sets, &kernel, centring, batch)?, sets[0].images() % batch),
        };
        let value = products.measure(self.measure)?;
        // Nothing of B is left beyond C that could be told from rounding.
        let is_nothing = || matches!(products.partial(0, 1, 2), Err(FeatureError::NothingLeft { .. }));
        if self.measure == Measure::SemiPdcor && is_nothing() {
            let [a, b, c] = [0, 1, 2].map(|set| sets[set].name());
            say(&format!(
                "{b} follows from {c}, as far as rounding tells, which is projected out of {a}: what is left of {a} has nothing in common \
                 with {c}"
            ));
        }
        Ok((value, if rest < centring.least_images() { rest } else { 0 }))
    }

    fn outputs(&self, reader: &mut Reader) -> Result<Compared, Failure> {
        let mut predictions = |source, layer: &Option<String>| -> Result<(SetSection, Predictions), Failure> {
            let rows = reader.read(source, layer.as_deref(), Layer::Logits)?;
            let predictions = Predictions::of(rows.section.name.clone(), &rows.values, rows.images)?;
            Ok((rows.section, predictions))
        };
        let (section_a, a) = predictions(&self.a, &self.layer)?;
        let (section_b, b) = predictions(&self.b, &self.layer_b)?;
        let ([classes, classes_b], images) = ([section_a.features, section_b.features], a.classes.len());
        if classes != classes_b {
            return Err(format!(
                "{} tells {classes} classes apart and {} {classes_b}, so that their predictions are no common ones; compare networks of \
                 the same classes, or take a measure of features such as dcor",
                section_a.name, section_b.name
            )
            .into());
        }
        let value = match self.measure {
            Measure::Kappa => {
                let labels = reader.labels(images)?;
                if let Some(label) = labels.iter().find(|&&label| label >= classes) {
                    return Err(format!(
                        "an image has the label {label}, and {} tells {classes} classes apart (labels 0 to {}); give the labels of these \
                         classes, or shift them by --label-offset",
                        section_a.name,
                        classes - 1
                    )
                    .into());
                }
                kappa(&a, &b, &labels)?
            }
            _ => disagreement(&a, &b)?,
        };
        Ok(Compared { sets: [section_a, section_b], given: None, images, left_out: 0, value })
    }
}

impl Document {
    fn to_text(&self) -> String {
        let Properties { column, estimator, range: [low, high], is_likeness, .. } = self.properties;
        let width = column.len().max("images".len());
        let mut text = String::new();
        for (name, set) in [("a", Some(&self.a)), ("b", Some(&self.b)), ("given", self.given.as_ref())] {
            if let Some(set) = set {
                text += &format!("{name:width$}  {}\n", set.described());
            }
        }
        let mean = self.mini_batch.map_or(String::new(), |batch| format!("; mean over mini-batches of {batch}"));
        let alike = if is_likeness { "higher" } else { "lower" };
        text += &format!("{:width$}  {}\n", "images", self.images);
        text += &format!("{column:width$}  {:.6}\n", self.value);
        text += &format!("{:width$}  {low} to {high}, {alike} is more alike; {estimator}{mean}\n", "");
        text
    }
}
