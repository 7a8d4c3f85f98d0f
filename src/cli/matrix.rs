//! `netkin matrix`: what a matrix says as a whole, and whether two say the same.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::common::{Common, print, print_json};
use super::source::{ComponentOptions, Source};
use super::{Failure, Outcome, values};
use crate::analysis::compare::{Comparison, Correlation, compare};
use crate::analysis::read::{self, Asymmetry};
use crate::analysis::summary::{GroupMean, Summary, group_means, summary};

/// Describe a matrix of similarities, or compare two
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Summary(SummaryArgs),
    Compare(CompareArgs),
}

/// Print mean, spread, the most and the least alike pair, and means between groups
#[derive(Debug, clap::Args)]
struct SummaryArgs {
    #[command(flatten)]
    source: Source,
    /// The component whose values are the groups
    #[arg(long, value_name = "COLUMN", default_value = "Base architecture")]
    by: String,
    #[command(flatten)]
    components: ComponentOptions,
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

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    matrix: String,
    #[serde(flatten)]
    summary: Summary,
    by: String,
    /// Empty where the components of the networks are not known.
    groups: Vec<GroupMean>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        match self.command {
            Command::Summary(args) => args.run(common),
            Command::Compare(args) => args.run(common),
        }
    }
}

impl SummaryArgs {
    fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let matrix = self.source.matrix()?;
        let groups = match self.components.if_known(&matrix.names)? {
            Some(components) => group_means(&matrix, &components.column(&self.by)?),
            None => Vec::new(),
        };
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            matrix: self.source.name(),
            summary: summary(&matrix),
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
        let mut text = format!(
            "{networks} networks, {pairs} pairs: {}\n\n\
             mean                {mean:9.6}\n\
             standard deviation  {standard_deviation:9.6}\n\
             median              {median:9.6}\n\
             mean with itself    {mean_diagonal:9.6}\n\
             most alike          {:9.6}  {} – {}\n\
             least alike         {:9.6}  {} – {}\n",
            self.matrix, most_alike.score, most_alike.a, most_alike.b, least_alike.score, least_alike.a, least_alike.b,
        );
        if !self.groups.is_empty() {
            let width =
                self.groups.iter().flat_map(|group| [&group.a, &group.b]).map(|name| name.chars().count()).max();
            let width = width.unwrap_or(0);
            text += &format!("\nmean by {}\n", self.by);
            for GroupMean { a, b, pairs, mean } in &self.groups {
                text += &format!("{a:width$}  {b:width$}  {mean:6.3}  of {pairs} pair(s)\n");
            }
        }
        text
    }
}
