//! `netkin compare`: how alike two networks are by what they make of the same images.

use serde::Serialize;

use super::common::{Common, print, print_json};
use super::features::{DataSection, FeatureOptions, FeatureSource, Reader, SetSection, Third, bandwidth};
use super::{Failure, Outcome, values};
use crate::similarity::features::extract::Layer;
use crate::similarity::features::outputs::{Predictions, disagreement, kappa};
use crate::similarity::features::procrustes::procrustes;
use crate::similarity::features::{InnerProducts, Measure, Properties};

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
    /// The width of the Gaussian kernels of cka-rbf, as a multiple of the median distance between images
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = bandwidth)]
    bandwidth: f64,
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
    measure: Measure,
    #[serde(flatten)]
    properties: Properties,
    #[serde(skip_serializing_if = "Option::is_none")]
    mini_batch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<f64>,
    value: f64,
    precision: String,
    device: String,
}

/// What was compared, and the result.
struct Compared {
    sets: [SetSection; 2],
    given: Option<SetSection>,
    /// Images that count.
    images: usize,
    value: f64,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let products = self.measure.products(self.bandwidth);
        if self.measure.is_partial() != self.given.is_some() {
            return Err(match self.given {
                None => {
                    "pdcor and semi-pdcor project a third set of features out: give --given labels, a network or a file"
                }
                Some(_) => "--given is for pdcor and semi-pdcor; give one of them as --measure, or leave --given out",
            }
            .into());
        }
        if self.mini_batch.is_some() && products.is_none() {
            let column = self.measure.properties().column;
            return Err(format!("{column} is no mean over mini-batches; leave --mini-batch out").into());
        }
        let mut reader = self.features.reader(common)?;
        let Compared { sets: [a, b], given, images, value } =
            if self.measure.is_of_outputs() { self.outputs(&mut reader)? } else { self.features(&mut reader, common)? };
        let is_gaussian = matches!(self.measure, Measure::CkaRbf | Measure::CkaRbfBiased);
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            a,
            b,
            given,
            data: reader.data_section()?,
            images,
            measure: self.measure,
            properties: self.measure.properties(),
            mini_batch: self.mini_batch,
            bandwidth: is_gaussian.then_some(self.bandwidth),
            value,
            precision: self.features.precision(),
            device: common.device.to_string(),
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_text())?;
        }
        Ok(if reader.has_skipped() { Outcome::FellShort } else { Outcome::Done })
    }

    fn features(&self, reader: &mut Reader, common: &Common) -> Result<Compared, Failure> {
        let a = reader.read(&self.a, self.layer.as_deref(), Layer::Pooled)?;
        let b = reader.read(&self.b, self.layer_b.as_deref(), Layer::Pooled)?;
        let (images, sets) = (a.images, [a.section.clone(), b.section.clone()]);
        let (a, b) = (a.features(common)?, b.features(common)?);
        let third = self.given.as_ref().map(|given| reader.third(given, images)).transpose()?;
        let (given, third) = third.unzip();
        let mut left_out = 0;
        let value = match self.measure.products(self.bandwidth) {
            None => procrustes(&a, &b)?,
            Some((kernel, centring)) => {
                let sets: Vec<_> = [&a, &b].into_iter().chain(&third).collect();
                let products = match self.mini_batch {
                    None => InnerProducts::of(&sets, &kernel, centring)?,
                    Some(batch) => {
                        let products = InnerProducts::of_mini_batches(&sets, &kernel, centring, batch)?;
                        let (rest, least) = (images % batch, centring.least_images());
                        if (1..least).contains(&rest) {
                            left_out = rest;
                            common.note(&format!(
                                "the last {rest} image(s) are no mini-batch of at least {least} and were left out"
                            ));
                        }
                        products
                    }
                };
                products.measure(self.measure)?
            }
        };
        Ok(Compared { sets, given, images: images - left_out, value })
    }

    fn outputs(&self, reader: &mut Reader) -> Result<Compared, Failure> {
        let mut predictions = |source, layer: &Option<String>| -> Result<(SetSection, Predictions), Failure> {
            let rows = reader.read(source, layer.as_deref(), Layer::Logits)?;
            let predictions = Predictions::of(rows.section.name.clone(), &rows.values, rows.images)?;
            Ok((rows.section, predictions))
        };
        let (section_a, a) = predictions(&self.a, &self.layer)?;
        let (section_b, b) = predictions(&self.b, &self.layer_b)?;
        let images = a.classes.len();
        let value = match self.measure {
            Measure::Kappa => kappa(&a, &b, &reader.labels(images)?)?,
            _ => disagreement(&a, &b)?,
        };
        Ok(Compared { sets: [section_a, section_b], given: None, images, value })
    }
}

impl Document {
    fn to_text(&self) -> String {
        let Properties { column, estimator, range: [low, high], is_likeness, .. } = self.properties;
        let width = column.len().max("images".len());
        let mut text = String::new();
        for (name, set) in [("a", Some(&self.a)), ("b", Some(&self.b)), ("given", self.given.as_ref())] {
            if let Some(SetSection { name: of, features, .. }) = set {
                text += &format!("{name:width$}  {of} ({features} features)\n");
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
