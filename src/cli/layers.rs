//! `netkin layers`: how alike every layer of a network is to every other, and to those of another network.

use std::path::PathBuf;

use netkin_weights::ModelSpec;
use serde::Serialize;

use super::common::{Common, DataOptions, ModelOptions, print, print_json, report_skipped, say};
use super::features::{DataSection, FeatureSource, ViewOptions, bandwidth, note_rest, said_with_width, width_of};
use super::{Failure, Outcome, values};
use crate::model::Model;
use crate::report::HeatMap;
use crate::runs::{RunFolder, write_atomically};
use crate::similarity::features::extract::{LayerTiming, layers};
use crate::similarity::features::kept::LayerRecord;
use crate::similarity::features::{Measure, Properties};

/// Compare every layer of a network with every other, and with those of another network
///
/// Each image passes through each network once. Of every mini-batch, the statistic's terms are computed for each pair of
/// layers; their means over mini-batches give the measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG or NAME=WEIGHTS; one or two
    #[arg(value_name = "MODEL", required = true, num_args = 1..=2, value_parser = network)]
    models: Vec<ModelSpec>,
    #[command(flatten)]
    data: DataOptions,
    /// What is measured: dcor, dcor-biased, or one of cka
    #[arg(long, value_name = "MEASURE", default_value = "dcor", hide_possible_values = true)]
    measure: Measure,
    /// Images of a mini-batch, which pass through the networks at once
    #[arg(long, value_name = "COUNT", default_value = "128", value_parser = values::positive)]
    mini_batch: usize,
    /// The width of the Gaussian kernels of cka-rbf, as a multiple of the median distance between images, or of the mean
    /// where the median is 0 [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = bandwidth)]
    bandwidth: Option<f64>,
    /// Print the matrix as CSV
    #[arg(long)]
    csv: bool,
    /// Draw a heat map into this file
    #[arg(long, value_name = "FILE.svg")]
    figure: Option<PathBuf>,
    /// Keep the map in this run folder, of which `netkin report` shows it
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    #[command(flatten)]
    view: ViewOptions,
    #[command(flatten)]
    options: ModelOptions,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    record: &'a LayerRecord,
    data: DataSection,
    /// Images at the end that are too few for a mini-batch.
    images_left_out: usize,
    #[serde(flatten)]
    properties: Properties,
    /// Of rows and columns.
    layers: &'a [String],
}

/// A network; features in a file have no layers.
fn network(text: &str) -> Result<ModelSpec, String> {
    match text.parse()? {
        FeatureSource::Model(spec) => Ok(spec),
        FeatureSource::File(_) => {
            Err("layers are those of networks, which it runs on images; give a network, or compare files of \
                                       features with each other by `netkin compare`"
                .into())
        }
    }
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let bandwidth = width_of(self.measure, self.bandwidth)?;
        let (kernel, centring) = self.measure.products(bandwidth.unwrap_or(1.0)).filter(|_| !self.measure.is_partial()).ok_or(
            "layers are compared by dcor, dcor-biased, cka-linear, cka-linear-biased, cka-rbf or cka-rbf-biased; give one of them as --measure",
        )?;
        if let Some(path) = self.figure.as_ref().filter(|path| path.extension().is_none_or(|kind| kind != "svg")) {
            let svg = path.with_extension("svg");
            return Err(format!("--figure {} is written as SVG; name it so: {}", path.display(), svg.display()).into());
        }
        let folder = self.run.as_deref().map(RunFolder::existing).transpose()?;
        let dataset = self.data.open()?;
        let specs: Vec<ModelSpec> = self.models.iter().map(|spec| self.options.sized(spec.clone())).collect();
        let models = common.load(&specs, self.options.precision)?;
        let bar = common.bar("images");
        bar.set_length(dataset.samples.len() as u64);
        let view = self.view.view(self.mini_batch, self.data.strict);
        let models: Vec<&Model> = models.iter().collect();
        let found = layers(&models, &dataset.samples, &kernel, centring, view, |images| bar.inc(images as u64))?;
        bar.finish_and_clear();
        report_skipped(&found.skipped);
        note_rest(found.left_out, centring.least_images());
        // For it all images are read once more.
        let is_kept = common.json || folder.is_some();
        let fingerprint = if is_kept { dataset.fingerprint()? } else { String::new() };
        let (record, constant) = found
            .record(&models, self.measure, bandwidth, view, fingerprint.clone())
            .map_err(|error| said_with_width(error, bandwidth))?;
        for error in constant {
            say(&said_with_width(error, bandwidth));
        }
        let matrix = record.matrix().expect("it is as large as it has layers");
        let properties = self.measure.properties();
        if let Some(path) = &self.figure {
            let order: Vec<usize> = (0..matrix.names.len()).collect();
            let title = format!("{} of the layers of {}", properties.column, record.models_by_name());
            let groups = record.groups();
            let map = HeatMap { matrix: &matrix, order: &order, groups: &groups, title: &title };
            write_atomically(path, map.figure().to_svg().as_bytes())?;
            common.note(&format!("the heat map is {}", path.display()));
        }
        if let Some(folder) = folder {
            record.keep(&folder)?;
        }
        if common.json {
            let data = DataSection::with_fingerprint(&dataset, &found.skipped, fingerprint);
            let images_left_out = found.left_out;
            print_json(&Document { record: &record, data, images_left_out, properties, layers: &matrix.names })?;
        } else {
            print(&if self.csv { matrix.to_csv() } else { matrix.to_table() })?;
        }
        let LayerTiming { networks, comparison } = found.timing;
        let [networks, comparison] = [networks, comparison].map(|part| part.as_secs_f64());
        common.note(&format!("{networks:.2} s in networks, {comparison:.2} s in comparing their layers"));
        let is_whole = found.skipped.is_empty() && found.left_out == 0;
        Ok(if is_whole { Outcome::Done } else { Outcome::FellShort })
    }
}
