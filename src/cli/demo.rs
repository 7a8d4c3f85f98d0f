//! `netkin demo`: the main job on a machine without any download.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use netkin_weights::{ModelSpec, Precision, embedded};
use serde::Serialize;

use super::cluster::default_clusters;
use super::common::{Common, print, print_json};
use super::sat::run_quietly;
use super::{Failure, Outcome, values};
use crate::analysis::components::{ComponentTable, NetworkComponents};
use crate::analysis::read::complete;
use crate::analysis::summary::{GroupMean, group_means};
use crate::attacks::Iterative;
use crate::device;
use crate::images::{Dataset, RgbImage, encode_png, idx};
use crate::model::{Crop, Model};
use crate::report::Report;
use crate::runs::{RunFolder, write_atomically};
use crate::similarity::Matrix;
use crate::similarity::features::extract::{Layer, View, extract, layers};
use crate::similarity::features::fill::matrix_of_features;
use crate::similarity::features::kept::{LayerRecord, MeasureRecord, Weights, values_of};
use crate::similarity::features::{Features, Measure};
use crate::similarity::sat::{Outcomes, Pair, SatConfig, SatRun};

/// Show SAT on ten small networks and 500 images that netkin carries
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder for images, results and the report
    #[arg(long, value_name = "DIR", default_value = "netkin-demo")]
    out: PathBuf,
    /// Use the first COUNT images only
    #[arg(long, value_name = "COUNT", default_value = "500", value_parser = values::positive)]
    limit: usize,
    /// Steps of the attack (PGD, 8/255 in steps of 2/255)
    #[arg(long, value_name = "COUNT", default_value = "20", value_parser = values::positive)]
    steps: usize,
}

/// What the report shows beside SAT.
const MEASURES: [Measure; 2] = [Measure::Dcor, Measure::CkaLinear];
/// Of whose layers it shows a map: a convolutional network and a transformer.
const LAYERS_OF: [&str; 2] = ["demo_resnet", "demo_vit_patch4"];
/// By which measure.
const LAYERS_BY: Measure = Measure::CkaLinear;

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    attack: serde_json::Value,
    images: usize,
    clean: serde_json::Map<String, serde_json::Value>,
    pairs: Vec<Pair>,
    /// The mean score of pairs of different networks, by the two families.
    families: Vec<GroupMean>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let start = Instant::now();
        let config = SatConfig {
            attack: Arc::new(Iterative { steps: self.steps, ..Iterative::default() }),
            crop: Crop::Own,
            batch: 128,
            // For `netkin ensemble`; 400 bytes an image.
            keep_logits: true,
            ..SatConfig::default()
        };
        let mut specs: Vec<ModelSpec> = embedded::names().map(str::parse).collect::<Result<_, _>>()?;
        specs.sort_by_key(|spec| spec.entry().family);
        let models = common.load(&specs, Precision::F32)?;
        let dataset = write_images(&self.out)?.limit(self.limit);

        let run = run_quietly(&models, &dataset, &config, &self.out.join("run"), common)?;

        let matrix = run.matrix();
        let groups: Vec<String> = models.iter().map(|model| model.entry().family.to_owned()).collect();
        let means = group_means(&matrix, &groups);
        let text = summary(&models, &run.clean(), run.images, &matrix, &means);
        // In the run's folder for the commands that read runs, and beside the report for people.
        for folder in ["run", ""] {
            write_atomically(&self.out.join(folder).join("sat.csv"), matrix.to_csv().as_bytes())?;
        }
        let missing = self.keep_measures(&models, &dataset, &run)?;
        let reported = self.report(matrix, &models, &run, &text, missing)?;
        if common.json {
            print_json(&Document {
                netkin: env!("CARGO_PKG_VERSION"),
                attack: config.attack.settings(),
                images: run.images,
                clean: run.clean_by_name(),
                pairs: run.pairs(),
                families: means,
            })?;
        } else {
            print(&text)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        match reported {
            Some(report) => common.note(&format!("done in {seconds:.0} s; the report is {}", report.display())),
            None => {
                common.note(&format!("done in {seconds:.0} s; no report, since fewer than two networks have scores"))
            }
        }
        Ok(Outcome::Done)
    }

    /// Leaves two measures of all networks and a map of the layers of two of them in the run's folder, for its report; what cannot be
    /// had is told in sentences.
    fn keep_measures(&self, models: &[Model], dataset: &Dataset, run: &SatRun) -> Result<Vec<String>, Failure> {
        let folder = RunFolder::existing(&self.out.join("run"))?;
        let of = |model: &Model| Weights { name: model.name().to_owned(), sha256: model.sha256().to_owned() };
        let networks: Vec<Weights> = models.iter().map(of).collect();
        let there = MeasureRecord::all(&folder)?;
        let is_there = |measure: &Measure| there.iter().any(|one| one.measure == *measure && one.networks == networks);
        let wanted: Vec<Measure> = MEASURES.into_iter().filter(|measure| !is_there(measure)).collect();
        let view = View { crop: Crop::Own, batch: 128, strict: false };
        let mut missing = Vec::new();
        if !wanted.is_empty() {
            let features = |model: &Model| {
                let found = extract(model, &dataset.samples, &Layer::Pooled, view, |_| {})?;
                Features::new(model.name(), found.values, found.images.len()).map(|set| set.on(model.device()))
            };
            let features: Vec<Features> = models.iter().map(features).collect::<Result<_, _>>()?;
            for measure in wanted {
                match matrix_of_features(&features, measure, 1.0) {
                    Ok(matrix) => MeasureRecord {
                        netkin: env!("CARGO_PKG_VERSION").to_owned(),
                        fingerprint: run.fingerprint.clone(),
                        measure,
                        bandwidth: None,
                        networks: networks.clone(),
                        values: values_of(&matrix),
                        device: device::name(models[0].device()),
                    }
                    .keep(&folder)?,
                    Err(error) => missing.push(format!("No {}: {error}.", measure.properties().column)),
                }
            }
        }
        let pair: Vec<&Model> = models.iter().filter(|model| LAYERS_OF.contains(&model.name())).collect();
        if pair.len() == LAYERS_OF.len() && LayerRecord::all(&folder)?.is_empty() {
            let (kernel, centring) = LAYERS_BY.products(1.0).expect("it is a ratio of products");
            let found = layers(&pair, &dataset.samples, &kernel, centring, view, |_| {});
            match found.and_then(|found| found.record(&pair, LAYERS_BY, None, view, run.fingerprint.clone())) {
                Ok((record, _)) => record.keep(&folder)?,
                Err(error) => missing.push(format!("No map of layers: {error}.")),
            }
        }
        Ok(missing)
    }

    /// Writes the report and its heat map, of the networks that have scores; where it is.
    fn report(
        &self,
        matrix: Matrix,
        models: &[Model],
        run: &SatRun,
        text: &str,
        missing: Vec<String>,
    ) -> Result<Option<PathBuf>, Failure> {
        let (matrix, left_out) = complete(matrix);
        if matrix.names.len() < 2 {
            return Ok(None);
        }
        let scored = models.iter().filter(|model| matrix.names.iter().any(|name| name == model.name()));
        let known = ComponentTable::known().select(&matrix.names)?;
        let columns = std::iter::once("Family".to_owned()).chain(known.columns).collect();
        let of_model =
            |(model, row): (&Model, Vec<String>)| std::iter::once(model.entry().family.to_owned()).chain(row).collect();
        let components = NetworkComponents { columns, rows: scored.zip(known.rows).map(of_model).collect() };
        let clusters = default_clusters(matrix.names.len());
        let title = "SAT: how often an attack on one network fools the other (ln %)";
        let source = format!("{} images of Fashion-MNIST, PGD of {} steps", run.images, self.steps);
        // All networks of the folder, which may be more than those of this run.
        let folder = self.out.join("run");
        let outcomes = Outcomes::open(&folder)?;
        let run = outcomes.collect(run.epsilon_s)?;
        let names = run.names();
        let places: Vec<usize> =
            matrix.names.iter().filter_map(|name| names.iter().position(|other| other == name)).collect();
        let mut report =
            Report::of(title, &source, matrix, Some(components), clusters).with_run(&outcomes, &run, &places)?;
        report = report.with_kept(&RunFolder::existing(&folder)?, &run.fingerprint)?;
        report.missing.extend(missing);
        report
            .missing
            .extend(left_out.iter().map(|name| format!("{name} has pairs without a score and was left out.")));
        report.text = text.to_owned();
        for (name, figure) in report.figures().into_iter().filter(|(name, _)| name == "heat-map") {
            write_atomically(&self.out.join(name).with_extension("svg"), figure.to_svg().as_bytes())?;
        }
        let path = self.out.join("index.html");
        write_atomically(&path, report.to_html().as_bytes())?;
        Ok(Some(path))
    }
}

/// Writes the images that netkin carries as an ordinary data set, once.
fn write_images(out: &Path) -> Result<Dataset, Failure> {
    let images = idx::parse(embedded::TEST_IMAGES, "the embedded images".as_ref())?;
    let labels = idx::parse(embedded::TEST_LABELS, "the embedded labels".as_ref())?;
    let [_, height, width] = images.dimensions[..] else {
        return Err("the embedded images are damaged".into());
    };
    let picture = |grey: &[u8]| RgbImage::new(width, height, grey.iter().flat_map(|&level| [level; 3]).collect());
    let pictures = images.elements.chunks_exact(height * width).map(picture);
    write_dataset(out, pictures.zip(labels.elements.iter().map(|&label| usize::from(label))))
}

/// Writes images with their labels as an ordinary data set, `images` beside `labels.csv`; images that are there stay.
pub fn write_dataset(out: &Path, images: impl Iterator<Item = (RgbImage, usize)>) -> Result<Dataset, Failure> {
    let folder = out.join("images");
    let mut csv = String::from("file,label\n");
    for (index, (image, label)) in images.enumerate() {
        let name = format!("{index:03}.png");
        let path = folder.join(&name);
        if !path.exists() {
            write_atomically(&path, &encode_png(&image))?;
        }
        csv += &format!("{name},{label}\n");
    }
    let file = out.join("labels.csv");
    write_atomically(&file, csv.as_bytes())?;
    Ok(Dataset::open(&folder, Some(&file))?)
}

fn summary(models: &[Model], clean: &[usize], images: usize, matrix: &Matrix, means: &[GroupMean]) -> String {
    let mut text = format!("{:18} {:20} {:>10} {:>9}\n", "network", "family", "parameters", "correct");
    for (model, correct) in models.iter().zip(clean) {
        let (name, family, parameters) = (model.name(), model.entry().family, model.parameters());
        text += &format!("{name:18} {family:20} {parameters:>10} {:>8.1}%\n", 100.0 * *correct as f64 / images as f64);
    }
    text += "\nSAT: ln of the percentage of images that fool the other network (4.605 = always)\n\n";
    text += &matrix.to_table();
    text += "\nmean SAT of two different networks, by family\n\n";
    for GroupMean { a, b, mean, .. } in means {
        text += &format!("{a:20} {b:20} {mean:.3}\n");
    }
    text
}
