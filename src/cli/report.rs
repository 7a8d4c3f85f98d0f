//! `netkin report`: everything that a matrix says, or what the folder of a training tells, on one page.

use std::path::{Path, PathBuf};

use super::cluster::default_clusters;
use super::common::{Common, print, print_json, say};
use super::sat::ScoreOptions;
use super::source::{ComponentOptions, RunBehind, Source};
use super::{Failure, Outcome, values};
use crate::analysis::clusters::{ClusterConfig, cluster};
use crate::analysis::read::{self, Asymmetry};
use crate::files::read_regular;
use crate::report::{Figure, LayerMap, Painter, Report};
use crate::runs::{RunFolder, write_atomically};
use crate::similarity::features::kept::LayerRecord;
use crate::training;

/// Write a page with all that a matrix says: heat map, clusters, maps, importances
///
/// The page is one HTML file that loads nothing; it can be sent to anyone and opened from disk. Of a run it also shows what
/// `netkin matrix fill` and `netkin layers --run` left in its folder: other measures of its networks, with how far they agree with
/// its scores, and maps of layers. Of the run folder of `netkin train` it shows loss, learning rate and accuracy by epoch, of the folder
/// of `distill-study` or `diverge` its networks.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The page's file
    #[arg(long, value_name = "FILE.html", default_value = "report.html")]
    out: PathBuf,
    /// Write each figure as a file of its own into this folder, too
    #[arg(long, value_name = "DIR")]
    figures: Option<PathBuf>,
    /// What those files are; PNG takes fonts of this machine
    #[arg(long, value_enum, default_value = "svg", requires = "figures")]
    format: Format,
    /// The number of clusters [default: 10, or half of the networks if there are fewer than 20]
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    k: Option<usize>,
    /// Also show this matrix of another measure of the same networks; may be given several times
    #[arg(long = "measure", value_name = "FILE.csv")]
    measures: Vec<PathBuf>,
    /// Also show this map of layers, as `netkin layers` prints it by --csv or --json; may be given several times
    #[arg(long, value_name = "FILE.csv|FILE.json")]
    layers: Vec<PathBuf>,
    #[command(flatten)]
    components: ComponentOptions,
    #[command(flatten)]
    score: ScoreOptions,
}

/// The largest file of layers that is read, in bytes.
const MAX_LAYERS: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Svg,
    Png,
}

#[derive(serde::Serialize)]
struct Document {
    netkin: &'static str,
    report: PathBuf,
    figures: Vec<PathBuf>,
    /// What the report cannot show.
    missing: Vec<String>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        // A run of `sat` has no log, and a study none at its top.
        if let Some(page) = self.source.path().map(training::report::of).transpose()?.flatten() {
            if self.k.is_some() || !self.measures.is_empty() || !self.layers.is_empty() {
                return Err(format!(
                    "{} is a training, which has no matrix; leave --k, --measure and --layers out",
                    page.source
                )
                .into());
            }
            return self.write(&page.to_html(), page.figures(), Vec::new(), common);
        }
        let matrix = self.source.matrix()?;
        let components = self.components.if_known(&matrix.names)?;
        let clusters = self.k.unwrap_or_else(|| default_clusters(matrix.names.len()));
        if let Some(clusters) = self.k.filter(|&clusters| clusters > matrix.names.len()) {
            cluster(&matrix, &ClusterConfig { clusters, ..ClusterConfig::default() })?;
        }
        let title = format!("How alike are {} networks?", matrix.names.len());
        let behind = self.source.run(&matrix, &self.score)?;
        let mut report = Report::of(&title, &self.source.name(), matrix, components, clusters);
        if let Some(RunBehind { outcomes, run, places }) = &behind {
            report = report.with_run(outcomes, run, places)?;
            if let Some(folder) = self.source.folder() {
                report = report.with_kept(&RunFolder::existing(folder)?, &run.fingerprint)?;
            }
        }
        for path in &self.measures {
            let what = format!("Read from {}.", path.display());
            report.add_measure(&stem(path), &what, &read::open(path, Asymmetry::Refuse, &[])?);
        }
        for path in &self.layers {
            report.layers.push(layer_map(path)?);
        }
        let outcome = self.write(&report.to_html(), report.figures(), report.missing, common)?;
        report.not_shown.iter().for_each(|sentence| say(sentence));
        Ok(if report.not_shown.is_empty() { outcome } else { Outcome::FellShort })
    }

    /// Writes the page and, if they are wanted, its figures, and tells where.
    fn write(
        self,
        page: &str,
        drawn: Vec<(String, Figure)>,
        missing: Vec<String>,
        common: &Common,
    ) -> Result<Outcome, Failure> {
        write_atomically(&self.out, page.as_bytes())?;
        let mut figures = Vec::new();
        if let Some(folder) = &self.figures {
            let painter = match self.format {
                Format::Svg => None,
                Format::Png => Some(Painter::new()?),
            };
            for (name, figure) in drawn {
                let (path, bytes) = match &painter {
                    None => (folder.join(format!("{name}.svg")), figure.to_svg().into_bytes()),
                    Some(painter) => (folder.join(format!("{name}.png")), painter.paint(&figure)?),
                };
                write_atomically(&path, &bytes)?;
                figures.push(path);
            }
        }
        if common.json {
            print_json(&Document { netkin: env!("CARGO_PKG_VERSION"), report: self.out, figures, missing })?;
        } else {
            let written: String =
                std::iter::once(&self.out).chain(&figures).map(|path| format!("{}\n", path.display())).collect();
            print(&written)?;
        }
        Ok(Outcome::Done)
    }
}

/// A file's name without its ending.
fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

/// What `netkin layers` printed.
fn layer_map(path: &Path) -> Result<LayerMap, Failure> {
    if path.extension().is_none_or(|extension| extension != "json") {
        let matrix = read::square(path)?;
        let name = |layer: &String| layer.split_once(':').map_or(String::new(), |(network, _)| network.to_owned());
        let networks: Vec<String> = matrix.names.iter().map(name).collect();
        let mut known: Vec<&String> = Vec::new();
        let mut groups = Vec::new();
        for network in &networks {
            groups.push(known.iter().position(|other| *other == network).unwrap_or(known.len()));
            if !known.contains(&network) {
                known.push(network);
            }
        }
        // A CSV does not say of which measure it is; all that layers are compared by are correlations.
        if let Some(value) = matrix.values.iter().find(|value| value.abs() > 1.0 + 1e-6) {
            return Err(format!(
                "{} is no map of layers (it holds {value}, and likenesses of layers are from -1 to 1); give what `netkin layers --csv` \
                 prints",
                path.display()
            )
            .into());
        }
        let what = format!("Read from {}.", path.display());
        return Ok(LayerMap { title: stem(path), what, matrix, groups });
    }
    let wrong = |reason: String| {
        format!("{} is no map of layers ({reason}); give what `netkin layers --json` prints", path.display())
    };
    let bytes = read_regular(path, MAX_LAYERS).map_err(|error| wrong(error.to_string()))?;
    let record: LayerRecord = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    Ok(LayerMap::of(&record, "images").ok_or_else(|| {
        wrong(
            "it has not one number for each two layers, the same for both orders and within the measure's range".into(),
        )
    })?)
}
