//! `netkin nearest`: which networks behave most like one.

use serde::Serialize;

use super::common::{Common, print, print_json};
use super::sat::ScoreOptions;
use super::source::{Source, position};
use super::{Failure, Outcome, values};
use crate::analysis::uncertainty::{
    BootstrapConfig, Interval, Observed, difference, error_consistency_interval, sat_interval,
};
use crate::similarity::sat::SatRun;

/// List the networks of a run or a matrix by how much they behave like one of them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The network; one that is new to a run joins it by `netkin sat` with all its models, which computes its pairs alone
    #[arg(value_name = "NAME")]
    network: String,
    #[command(flatten)]
    source: Source,
    /// How often images are drawn anew for intervals and tests
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = values::positive)]
    replicates: usize,
    /// Decides all that is drawn
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    seed: u64,
    #[command(flatten)]
    score: ScoreOptions,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    matrix: String,
    network: String,
    /// The nearest first.
    others: Vec<Neighbour>,
}

#[derive(Serialize)]
struct Neighbour {
    name: String,
    sat: f64,
    /// What only the images of a run tell.
    #[serde(flatten)]
    images: Option<Evidence>,
}

#[derive(Serialize)]
struct Evidence {
    /// Images that both classify correctly.
    n: usize,
    /// Of those, the share on which the other is wrong once they were attacked on the network, and the way back.
    fooled: [f64; 2],
    sat_interval: Option<Interval>,
    /// Cohen's κ of the images that each classifies correctly, clean.
    error_consistency: Option<Interval>,
    /// How likely it is by chance that this one seems so much less near than the first; none for the first.
    p_value: Option<f64>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let matrix = self.source.matrix()?;
        let row = position(&matrix.names, &self.network, &self.source.name())?;
        let mut order: Vec<usize> = (0..matrix.names.len()).filter(|&other| other != row).collect();
        order.sort_by(|&a, &b| matrix.get(row, b).total_cmp(&matrix.get(row, a)));
        let behind = self.source.run(&matrix, &self.score)?;
        let evidence = behind.map(|behind| self.evidence(&behind.selected(), row, &order));
        let mut evidence = evidence.into_iter().flatten();
        let neighbour = |&other: &usize| Neighbour {
            name: matrix.names[other].clone(),
            sat: matrix.get(row, other),
            images: evidence.next(),
        };
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            matrix: self.source.name(),
            network: self.network.clone(),
            others: order.iter().map(neighbour).collect(),
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_text())?;
        }
        Ok(Outcome::Done)
    }

    /// What the images tell of the pairs of a network with those of `order`.
    fn evidence(&self, run: &SatRun, network: usize, order: &[usize]) -> Vec<Evidence> {
        let config = BootstrapConfig { replicates: self.replicates, seed: self.seed, ..BootstrapConfig::default() };
        let observed = Observed::of(run);
        let first = observed.outcomes(run, network, order[0]);
        let one = |(place, &other): (usize, &usize)| {
            let outcomes = observed.outcomes(run, network, other);
            let pair = run.pair(network, other);
            let test = || difference(&first, &outcomes, run.epsilon_s, &config).map(|found| found.p_value);
            Evidence {
                n: pair.n,
                fooled: [pair.fooled_ab, pair.fooled_ba].map(|fooled| fooled as f64 / pair.n as f64),
                sat_interval: sat_interval(&outcomes, run.epsilon_s, &config),
                error_consistency: error_consistency_interval(
                    &observed.correct[network],
                    &observed.correct[other],
                    &config,
                ),
                p_value: if place == 0 { None } else { test() },
            }
        };
        order.iter().enumerate().map(one).collect()
    }
}

impl Document {
    fn to_text(&self) -> String {
        let mut text = format!("{} beside {} networks: {}\n\n", self.network, self.others.len(), self.matrix);
        let width = self.others.iter().map(|other| other.name.chars().count()).max().unwrap_or(0).max("network".len());
        let has_images = self.others.iter().any(|other| other.images.is_some());
        text += &format!("{:width$}     SAT", "network");
        if has_images {
            text += &format!(
                "  {:16}  {:>6}  {:>7}  {:>7}  {:>6}  {:16}  {}",
                "[95 %]", "n", "fooled", "fools", "kappa", "[95 %]", "p"
            );
        }
        text.push('\n');
        let range = |interval: &Option<Interval>| match interval {
            Some(Interval { bca: [low, high], .. }) => format!("[{low:6.3}, {high:6.3}]"),
            None => "none".into(),
        };
        for other in &self.others {
            text += &format!("{:width$}  {:6.3}", other.name, other.sat);
            if let Some(Evidence { n, fooled, sat_interval, error_consistency, p_value }) = &other.images {
                let [fooled, fools] = fooled.map(|share| format!("{:.1} %", 100.0 * share));
                let kappa = error_consistency.map_or("none".into(), |kappa| format!("{:.3}", kappa.estimate));
                let p_value = p_value.map_or(String::new(), |p_value| format!("{p_value:.3}"));
                text += &format!(
                    "  {:16}  {n:>6}  {fooled:>7}  {fools:>7}  {kappa:>6}  {:16}  {p_value}",
                    range(sat_interval),
                    range(error_consistency)
                );
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        if has_images {
            text += &format!(
                "\nn: images that both classify correctly; fooled: of those, the other is wrong once they were attacked on {0}; fools:\n\
                 {0} is wrong once they were attacked on the other; kappa: error consistency; p: as far from the first by chance\n",
                self.network
            );
        }
        text
    }
}
