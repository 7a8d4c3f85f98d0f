//! `netkin matrix`: what a matrix says as a whole, whether two say the same, and matrices of other measures.

use std::path::{Path, PathBuf};

use netkin_weights::{ModelSpec, Precision};
use serde::Serialize;

use super::common::{Common, print, print_json, say, visible};
use super::features::{bandwidth, said_with_width, width_of};
use super::sat::ScoreOptions;
use super::source::{ComponentOptions, RunBehind, Source};
use super::{Failure, Outcome, values};
use crate::analysis::compare::{Comparison, Correlation, compare};
use crate::analysis::read::{self, Asymmetry};
use crate::analysis::stability::{halves, over_images};
use crate::analysis::summary::{GroupMean, Summary, group_means, summary};
use crate::images::Dataset;
use crate::model::Crop;
use crate::runs::{Manifest, RunFolder, Trust, write_atomically};
use crate::similarity::Matrix;
use crate::similarity::features::extract::{Layer, View, extract};
use crate::similarity::features::fill::{matrix_of, matrix_of_features};
use crate::similarity::features::kept::{MeasureRecord, Weights, values_of};
use crate::similarity::features::outputs::{Predictions, disagreement, kappa};
use crate::similarity::features::{Features, Measure, Properties};
use crate::similarity::sat::{NetworkRecord, Outcomes};

/// Describe a matrix of similarities, compare two, or fill one with another measure
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Summary(SummaryArgs),
    Compare(CompareArgs),
    Fill(FillArgs),
}

/// Print mean, spread, the most and the least alike pair, and means between groups
///
/// Of a run, what its images did gives intervals: where the middle 95 % lie on random halves of the images.
#[derive(Debug, clap::Args)]
struct SummaryArgs {
    #[command(flatten)]
    source: Source,
    /// Of a run, how many random halves of its images give the intervals
    #[arg(long, value_name = "COUNT", default_value = "200", value_parser = values::positive)]
    halves: usize,
    /// Decides the halves
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    seed: u64,
    /// The component whose values are the groups
    #[arg(long, value_name = "COLUMN", default_value = "Base architecture")]
    by: String,
    #[command(flatten)]
    components: ComponentOptions,
    #[command(flatten)]
    score: ScoreOptions,
}

/// Tell how two matrices correlate over the networks that both have
#[derive(Debug, clap::Args)]
struct CompareArgs {
    /// A run folder or a CSV file
    #[arg(value_name = "A")]
    one: PathBuf,
    /// Another
    #[arg(value_name = "B")]
    other: PathBuf,
    /// Take the mean of the two scores of each pair, where a matrix is not symmetric
    #[arg(long)]
    symmetrise: bool,
    /// How often the networks are permuted to see what chance gives
    #[arg(long, value_name = "COUNT", default_value = "999", value_parser = values::positive)]
    permutations: usize,
    /// Decides the permutations
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    seed: u64,
}

/// Fill a matrix with another measure, for the networks of a run on its images
///
/// disagreement and kappa are read from the run's predictions; the others run its networks on its images once more and compare
/// their pooled features. In the matrix, more alike networks have higher scores, as analyses of matrices take it: disagreement
/// d is written as 1 − d, the Procrustes distance d as 1 − d / 2. The run folder keeps it, and `netkin report` shows it.
#[derive(Debug, clap::Args)]
struct FillArgs {
    /// The folder of a finished run
    run: PathBuf,
    /// What is measured: any of `netkin compare` that needs no third set of features
    #[arg(long, value_name = "MEASURE", hide_possible_values = true)]
    measure: Measure,
    /// The folder of the run's images; disagreement and kappa need none
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A network of the run whose weights are a file; may be given several times
    #[arg(long = "model", value_name = "NAME=WEIGHTS")]
    models: Vec<ModelSpec>,
    /// The width of the Gaussian kernels of cka-rbf, as a multiple of the median distance between images [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = bandwidth)]
    bandwidth: Option<f64>,
    /// Images at once
    #[arg(long, value_name = "COUNT", default_value = "32", value_parser = values::positive)]
    batch: usize,
    /// Write the matrix as CSV into this file, which the other commands read
    #[arg(long, value_name = "FILE.csv")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    matrix: String,
    #[serde(flatten)]
    summary: Summary,
    /// Over images; none where there is no more than a matrix.
    intervals: Option<Intervals>,
    by: String,
    /// Empty where the components of the networks are not known.
    groups: Vec<Group>,
}

/// The middle 95 % of the numbers of a summary.
#[derive(Serialize)]
struct Intervals {
    mean: Option<[f64; 2]>,
    standard_deviation: Option<[f64; 2]>,
    median: Option<[f64; 2]>,
    mean_diagonal: Option<[f64; 2]>,
}

#[derive(Serialize)]
struct Group {
    #[serde(flatten)]
    mean: GroupMean,
    /// Over images; none where there is no more than a matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<[f64; 2]>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        match self.command {
            Command::Summary(args) => args.run(common),
            Command::Compare(args) => args.run(common),
            Command::Fill(args) => args.run(common),
        }
    }
}

impl SummaryArgs {
    fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let matrix = self.source.matrix()?;
        let run = match self.source.run(&matrix, &self.score) {
            Ok(behind) => behind.as_ref().map(RunBehind::selected),
            Err(error) => {
                common.note(&format!("no intervals over images: {error}"));
                None
            }
        };
        let halves = run.as_ref().map_or_else(Vec::new, |run| halves(run, self.halves, self.seed));
        let interval = |number: &(dyn Fn(&Matrix) -> f64 + Sync)| -> Option<[f64; 2]> {
            over_images(run.as_ref()?, &halves, number).map(|found| found.interval)
        };
        let groups = match self.components.if_known(&matrix.names)? {
            Some(components) => {
                let of = components.column(&self.by)?;
                let same = |group: &GroupMean, other: &GroupMean| (&group.a, &group.b) == (&other.a, &other.b);
                let with_interval = |mean: GroupMean| {
                    let again = |matrix: &Matrix| {
                        let means = group_means(matrix, &of);
                        means.iter().find(|other| same(&mean, other)).map_or(f64::NAN, |other| other.mean)
                    };
                    let interval = interval(&again);
                    Group { mean, interval }
                };
                group_means(&matrix, &of).into_iter().map(with_interval).collect()
            }
            None => Vec::new(),
        };
        let intervals = run.as_ref().map(|_| Intervals {
            mean: interval(&|matrix| summary(matrix).mean),
            standard_deviation: interval(&|matrix| summary(matrix).standard_deviation),
            median: interval(&|matrix| summary(matrix).median),
            mean_diagonal: interval(&|matrix| summary(matrix).mean_diagonal),
        });
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            matrix: self.source.name(),
            summary: summary(&matrix),
            intervals,
            by: self.by,
            groups,
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_text())?;
        }
        Ok(Outcome::Done)
    }
}

#[derive(Serialize)]
struct FilledDocument<'a> {
    netkin: &'static str,
    run: String,
    /// Of the run's images.
    fingerprint: String,
    measure: Measure,
    #[serde(flatten)]
    properties: Properties,
    names: &'a [String],
    /// Row by row; higher is more alike.
    values: Vec<&'a [f64]>,
    device: String,
}

impl FillArgs {
    fn run(self, common: &Common) -> Result<Outcome, Failure> {
        if self.measure.is_partial() {
            return Err(
                "pdcor and semi-pdcor need a third set of features, and a matrix is of pairs; use netkin compare"
                    .into(),
            );
        }
        let bandwidth = width_of(self.measure, self.bandwidth)?;
        let outcomes = Outcomes::open(&self.run)?;
        self.check_whole(&outcomes)?;
        let properties = self.measure.properties();
        let matrix = if self.measure.is_of_outputs() {
            let (predictions, labels) = predictions(&outcomes)?;
            let names = predictions.iter().map(|predictions| predictions.name.clone()).collect();
            match self.measure {
                Measure::Kappa => {
                    matrix_of(names, self.measure, |a, b| kappa(&predictions[a], &predictions[b], &labels))
                }
                _ => matrix_of(names, self.measure, |a, b| disagreement(&predictions[a], &predictions[b])),
            }?
        } else {
            matrix_of_features(&self.features(&outcomes, common)?, self.measure, bandwidth.unwrap_or(1.0))
                .map_err(|error| said_with_width(error, bandwidth))?
        };
        let count = matrix.names.len();
        if let Some(path) = &self.out {
            write_atomically(path, matrix.to_csv().as_bytes())?;
        }
        if common.json {
            print_json(&FilledDocument {
                netkin: env!("CARGO_PKG_VERSION"),
                run: self.run.display().to_string(),
                fingerprint: outcomes.images().fingerprint(),
                measure: self.measure,
                properties,
                names: &matrix.names,
                values: matrix.values.chunks_exact(count.max(1)).collect(),
                device: common.device.to_string(),
            })?;
        } else {
            print(&matrix.to_table())?;
        }
        if let Some(path) = &self.out {
            common.note(&format!(
                "the scores are in {0}; `netkin matrix compare {1} {0}` compares them with SAT",
                path.display(),
                self.run.display()
            ));
        }
        let of = |network: &NetworkRecord| Weights { name: network.name.clone(), sha256: network.sha256.clone() };
        let record = MeasureRecord {
            netkin: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: outcomes.images().fingerprint(),
            measure: self.measure,
            bandwidth,
            networks: outcomes.networks().iter().map(of).collect(),
            values: values_of(&matrix),
            device: common.device.to_string(),
        };
        // What was computed is printed, whether or not the run can be written.
        match RunFolder::existing(&self.run).and_then(|run| record.keep(&run)) {
            Ok(()) => Ok(Outcome::Done),
            Err(error) => {
                say(&format!("the run keeps no {} for its report: {error}", properties.column));
                Ok(Outcome::FellShort)
            }
        }
    }

    /// Refuses a run of which a network's record has gone.
    fn check_whole(&self, outcomes: &Outcomes) -> Result<(), Failure> {
        let run = self.run.display();
        // A run that is not finished has no scores yet.
        let scores = self.run.join("sat.csv");
        if !scores.is_file() {
            return Ok(());
        }
        let scored = read::square(&scores)?.names;
        let is_known = |name: &&String| outcomes.networks().iter().any(|network| network.name == **name);
        match scored.iter().find(|name| !is_known(name)) {
            None => Ok(()),
            Some(name) => Err(format!(
                "{name} is in {}, and there is no record of it in {run}/models; run what made the run again, `netkin sat` with the same networks, images and settings and --run {run}",
                scores.display()
            )
            .into()),
        }
    }

    /// The pooled features of all networks of the run, of all its images that can be decoded.
    fn features(&self, outcomes: &Outcomes, common: &Common) -> Result<Vec<Features>, Failure> {
        let column = self.measure.properties().column;
        let data = self.data.as_deref().ok_or_else(|| {
            format!("{column} runs the networks on the run's images: give --data, the folder that the run had")
        })?;
        let dataset = Dataset::open(data, Some(&self.run.join("images.csv")))?;
        Manifest::of_run(&self.run, &dataset, Trust::Files)?;
        let settings = RunFolder::existing(&self.run)?.settings().clone();
        let crop = match settings["crop"].as_str() {
            Some("own") => Crop::Own,
            Some("whole") => Crop::Whole,
            _ => Crop::Shared,
        };
        let size: Option<[usize; 2]> = serde_json::from_value(settings["input_size"].clone())?;
        let one = |network: &NetworkRecord| -> Result<Features, Failure> {
            let given = self.models.iter().find(|spec| spec.name() == network.name).cloned();
            let spec = given.map_or_else(|| network.name.parse::<ModelSpec>(), Ok)?;
            let spec = match size {
                Some(size) => spec.at_size(size),
                None => spec,
            };
            let model = common.load_one(&spec, network.precision.parse::<Precision>()?)?;
            if model.sha256() != network.sha256 {
                let name = &network.name;
                return Err(format!(
                    "{name} took part in the run with other weights than these; give them as --model {name}=WEIGHTS"
                )
                .into());
            }
            let bar = common.bar("images");
            bar.set_length(dataset.samples.len() as u64);
            bar.set_message(visible(&network.name).into_owned());
            let view = View { crop, batch: self.batch, strict: false };
            let extracted = extract(&model, &dataset.samples, &Layer::Pooled, view, |images| bar.inc(images as u64))?;
            bar.finish_and_clear();
            Ok(Features::new(network.name.clone(), extracted.values, extracted.images.len())?.on(model.device()))
        };
        outcomes.networks().iter().map(one).collect()
    }
}

/// What every network of a run says of the clean images that could be decoded, and their labels.
fn predictions(outcomes: &Outcomes) -> Result<(Vec<Predictions>, Vec<usize>), Failure> {
    let networks = outcomes.networks().iter();
    let mut predictions: Vec<Predictions> =
        networks.map(|network| Predictions { name: network.name.clone(), classes: Vec::new() }).collect();
    let mut labels = Vec::new();
    for index in 0..outcomes.chunks() {
        let chunk = outcomes.chunk(index)?;
        for (predictions, classes) in predictions.iter_mut().zip(&chunk.clean) {
            predictions.classes.extend(classes.iter().flatten().map(|&class| usize::from(class)));
        }
        let decoded = chunk.clean.first().into_iter().flatten().enumerate().filter(|(_, class)| class.is_some());
        labels.extend(decoded.map(|(image, _)| outcomes.images().images()[chunk.start + image].label));
    }
    Ok((predictions, labels))
}

#[derive(Serialize)]
struct ComparisonDocument {
    netkin: &'static str,
    a: String,
    b: String,
    permutations: usize,
    #[serde(flatten)]
    comparison: Comparison,
}

impl CompareArgs {
    fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let asymmetry = if self.symmetrise { Asymmetry::Mean } else { Asymmetry::Refuse };
        let open = |path: &Path| read::open(path, asymmetry, &[]);
        let comparison = compare(&open(&self.one)?, &open(&self.other)?, self.permutations, self.seed)?;
        for name in &comparison.left_out {
            common.note(&format!("{name} is in one of the matrices only and was left out"));
        }
        if common.json {
            print_json(&ComparisonDocument {
                netkin: env!("CARGO_PKG_VERSION"),
                a: self.one.display().to_string(),
                b: self.other.display().to_string(),
                permutations: self.permutations,
                comparison,
            })?;
        } else {
            let mut text = format!("{} networks in both\n\n", comparison.networks.len());
            for (name, Correlation { correlation, p_value }) in [
                ("Pearson's r", comparison.pearson),
                ("Spearman's ρ", comparison.spearman),
                ("Kendall's τ", comparison.kendall),
            ] {
                text += &format!("{name:12}  {correlation:6.3}  p = {p_value:.3}\n");
            }
            print(&text)?;
        }
        Ok(Outcome::Done)
    }
}

impl Document {
    fn to_text(&self) -> String {
        let Summary { networks, pairs, mean, standard_deviation, median, most_alike, least_alike, mean_diagonal } =
            &self.summary;
        let of = |interval: fn(&Intervals) -> Option<[f64; 2]>| in_brackets(self.intervals.as_ref().and_then(interval));
        let mut text = format!(
            "{networks} networks, {pairs} pairs: {}\n\n\
             mean                {mean:9.6}{}\n\
             standard deviation  {standard_deviation:9.6}{}\n\
             median              {median:9.6}{}\n\
             mean with itself    {mean_diagonal:9.6}{}\n\
             most alike          {:9.6}  {} – {}\n\
             least alike         {:9.6}  {} – {}\n",
            self.matrix,
            of(|intervals| intervals.mean),
            of(|intervals| intervals.standard_deviation),
            of(|intervals| intervals.median),
            of(|intervals| intervals.mean_diagonal),
            most_alike.score,
            most_alike.a,
            most_alike.b,
            least_alike.score,
            least_alike.a,
            least_alike.b,
        );
        if !self.groups.is_empty() {
            let names = self.groups.iter().flat_map(|group| [&group.mean.a, &group.mean.b]);
            let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
            text += &format!("\nmean by {}\n", self.by);
            for Group { mean: GroupMean { a, b, pairs, mean }, interval } in &self.groups {
                let interval = in_brackets(*interval);
                text += &format!("{a:width$}  {b:width$}  {mean:6.3}{interval}  of {pairs} pair(s)\n");
            }
        }
        if self.intervals.is_some() {
            text += "\nin brackets 95 % intervals over the run's images\n";
        }
        text
    }
}

fn in_brackets(interval: Option<[f64; 2]>) -> String {
    interval.map_or_else(String::new, |[low, high]| format!("  [{low:.3}, {high:.3}]"))
}
