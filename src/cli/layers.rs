//! `netkin layers`: how alike every layer of a network is to every other, and to those of another network.

use std::path::PathBuf;

use netkin_weights::ModelSpec;
use serde::Serialize;

use super::common::{Common, DataOptions, ModelOptions, print, print_json, report_skipped};
use super::features::{DataSection, ViewOptions, bandwidth};
use super::{Failure, Outcome, values};
use crate::model::Model;
use crate::report::HeatMap;
use crate::runs::write_atomically;
use crate::similarity::Matrix;
use crate::similarity::features::extract::{Layers, layers};
use crate::similarity::features::{FeatureError, InnerProducts, Measure, Properties};

/// Compare every layer of a network with every other, and with those of another network
///
/// Each image passes through each network once. Of every mini-batch, the statistic's terms are computed for each pair of
/// layers; their means over mini-batches give the measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG or NAME=WEIGHTS; one or two
    #[arg(value_name = "MODEL", required = true, num_args = 1..=2)]
    models: Vec<ModelSpec>,
    #[command(flatten)]
    data: DataOptions,
    /// What is measured: dcor, dcor-biased, or one of cka
    #[arg(long, value_name = "MEASURE", default_value = "dcor", hide_possible_values = true)]
    measure: Measure,
    /// Images of a mini-batch, which pass through the networks at once
    #[arg(long, value_name = "COUNT", default_value = "128", value_parser = values::positive)]
    mini_batch: usize,
    /// The width of the Gaussian kernels of cka-rbf, as a multiple of the median distance between images
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = bandwidth)]
    bandwidth: f64,
    /// Print the matrix as CSV
    #[arg(long)]
    csv: bool,
    /// Draw a heat map into this file
    #[arg(long, value_name = "FILE.svg")]
    figure: Option<PathBuf>,
    #[command(flatten)]
    view: ViewOptions,
    #[command(flatten)]
    options: ModelOptions,
}

#[derive(Serialize)]
struct Document<'a> {
    netkin: &'static str,
    models: Vec<ModelSection<'a>>,
    data: DataSection,
    /// Images that count.
    images: usize,
    measure: Measure,
    #[serde(flatten)]
    properties: Properties,
    mini_batch: usize,
    /// Of rows and columns.
    layers: &'a [String],
    /// Row by row; none where a layer is constant.
    values: Vec<&'a [f64]>,
    precision: String,
    device: String,
}

#[derive(Serialize)]
struct ModelSection<'a> {
    name: &'a str,
    sha256: &'a str,
    layers: &'a Vec<String>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let (kernel, centring) = self.measure.products(self.bandwidth).filter(|_| !self.measure.is_partial()).ok_or(
            "layers are compared by dcor, dcor-biased, cka-linear, cka-linear-biased, cka-rbf or cka-rbf-biased; give one of them as --measure",
        )?;
        let dataset = self.data.open()?;
        let specs: Vec<ModelSpec> = self.models.iter().map(|spec| self.options.sized(spec.clone())).collect();
        let models = common.load(&specs, self.options.precision)?;
        let bar = common.bar("images");
        bar.set_length(dataset.samples.len() as u64);
        let view = self.view.view(self.mini_batch, self.data.strict);
        let found = layers(&models, &dataset.samples, &kernel, centring, view, |images| bar.inc(images as u64))?;
        bar.finish_and_clear();
        report_skipped(&found.skipped);
        if found.left_out > 0 {
            let least = centring.least_images();
            common.note(&format!(
                "the last {} image(s) are no mini-batch of at least {least} and were left out",
                found.left_out
            ));
        }
        let (names, groups) = names_of(&models, &found);
        let matrix = matrix_of(names, &found.products)?;
        let properties = self.measure.properties();
        if let Some(path) = &self.figure {
            if path.extension().is_none_or(|extension| extension != "svg") {
                return Err(format!(
                    "--figure {} is written as SVG; name it so: {}",
                    path.display(),
                    path.with_extension("svg").display()
                )
                .into());
            }
            let of: Vec<&str> = models.iter().map(Model::name).collect();
            let order: Vec<usize> = (0..matrix.names.len()).collect();
            let title = format!("{} of the layers of {}", properties.column, of.join(" and "));
            let map = HeatMap { matrix: &matrix, order: &order, groups: &groups, title: &title };
            write_atomically(path, map.figure().to_svg().as_bytes())?;
            common.note(&format!("the heat map is {}", path.display()));
        }
        if common.json {
            let section = |(model, layers)| ModelSection { name: Model::name(model), sha256: model.sha256(), layers };
            print_json(&Document {
                netkin: env!("CARGO_PKG_VERSION"),
                models: models.iter().zip(&found.names).map(section).collect(),
                data: DataSection::of(&dataset, &found.skipped)?,
                images: found.images,
                measure: self.measure,
                properties,
                mini_batch: self.mini_batch,
                layers: &matrix.names,
                values: matrix.values.chunks_exact(matrix.names.len()).collect(),
                precision: self.options.precision.to_string(),
                device: common.device.to_string(),
            })?;
        } else {
            print(&if self.csv { matrix.to_csv() } else { matrix.to_table() })?;
        }
        Ok(if found.skipped.is_empty() { Outcome::Done } else { Outcome::FellShort })
    }
}

/// What rows and columns are called, and which network each is of.
fn names_of(models: &[Model], found: &Layers) -> (Vec<String>, Vec<usize>) {
    let (mut names, mut groups) = (Vec::new(), Vec::new());
    for (index, (model, layers)) in models.iter().zip(&found.names).enumerate() {
        // Two of one name are told apart by their place.
        let is_twice = models.iter().filter(|other| other.name() == model.name()).count() > 1;
        let prefix = match models.len() {
            1 => String::new(),
            _ if is_twice => format!("{} {}:", model.name(), index + 1),
            _ => format!("{}:", model.name()),
        };
        names.extend(layers.iter().map(|layer| format!("{prefix}{layer}")));
        groups.extend(layers.iter().map(|_| index));
    }
    (names, groups)
}

/// Layers that are constant have no values.
fn matrix_of(names: Vec<String>, products: &InnerProducts) -> Result<Matrix, Failure> {
    let constant = |index: usize| match products.correlation(index, index) {
        Err(error @ FeatureError::Constant { .. }) => Some(error),
        _ => None,
    };
    let errors: Vec<Option<FeatureError>> = (0..names.len()).map(constant).collect();
    if errors.iter().all(Option::is_some) {
        return Err(errors.into_iter().flatten().next().map_or_else(|| "there is no layer".into(), Into::into));
    }
    for error in errors.iter().flatten() {
        eprintln!("netkin: {error}");
    }
    Ok(Matrix::new(names, |row, column| products.correlation(row, column).unwrap_or(f64::NAN)))
}
