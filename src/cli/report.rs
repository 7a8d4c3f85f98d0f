//! `netkin report`: everything that a matrix says, on one page.

use std::path::PathBuf;

use super::cluster::default_clusters;
use super::common::{Common, print, print_json};
use super::sat::ScoreOptions;
use super::source::{ComponentOptions, RunBehind, Source};
use super::{Failure, Outcome, values};
use crate::analysis::clusters::{ClusterConfig, cluster};
use crate::report::{Painter, Report};
use crate::runs::write_atomically;

/// Write a page with all that a matrix says: heat map, clusters, maps, importances
///
/// The page is one HTML file that loads nothing; it can be sent to anyone and opened from disk.
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
    #[command(flatten)]
    components: ComponentOptions,
    #[command(flatten)]
    score: ScoreOptions,
}

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
        }
        write_atomically(&self.out, report.to_html().as_bytes())?;
        let mut figures = Vec::new();
        if let Some(folder) = &self.figures {
            let painter = match self.format {
                Format::Svg => None,
                Format::Png => Some(Painter::new()?),
            };
            for (name, figure) in report.figures() {
                let (path, bytes) = match &painter {
                    None => (folder.join(format!("{name}.svg")), figure.to_svg().into_bytes()),
                    Some(painter) => (folder.join(format!("{name}.png")), painter.paint(&figure)?),
                };
                write_atomically(&path, &bytes)?;
                figures.push(path);
            }
        }
        if common.json {
            print_json(&Document {
                netkin: env!("CARGO_PKG_VERSION"),
                report: self.out,
                figures,
                missing: report.missing,
            })?;
        } else {
            let written: String =
                std::iter::once(&self.out).chain(&figures).map(|path| format!("{}\n", path.display())).collect();
            print(&written)?;
        }
        Ok(Outcome::Done)
    }
}
