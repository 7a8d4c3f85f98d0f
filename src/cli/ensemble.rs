//! `netkin ensemble`: which networks together are right more often.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::cluster::default_clusters;
use super::common::{Common, print, print_json};
use super::sat::ScoreOptions;
use super::source::position;
use super::{Failure, Outcome, values};
use crate::analysis::clusters::{ClusterConfig, cluster};
use crate::analysis::ensembles::{Averaging, Credits, EnsemblesOfSize, Predictions, error, finding, possible, sets};
use crate::analysis::uncertainty::WithInterval;
use crate::similarity::sat::{Outcomes, SatRun};

/// Average the outputs of a run's networks, and tell whether networks that are less alike make better ensembles
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A run folder of `netkin sat`; with --keep-logits it has more than votes to average
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Members of an ensemble: a number, or from A to B [default: 2..5, as far as there are networks]
    #[arg(long, value_name = "A..B", value_parser = sizes)]
    sizes: Option<[usize; 2]>,
    /// What is averaged: probabilities, logits, or votes [default: probabilities, or votes where no logits were kept]
    #[arg(long, value_name = "OUTPUT", value_parser = averaging)]
    average: Option<Averaging>,
    /// Ensembles of each size; where there are more, so many are drawn
    #[arg(long, value_name = "COUNT", default_value = "2000", value_parser = values::positive)]
    samples: usize,
    /// Clusters of the networks, by which ensembles are grouped [default: 10, or half of the networks if there are fewer than 20]
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    k: Option<usize>,
    /// Rank the others by what they add to an ensemble that this network is in; may be given several times
    #[arg(long, value_name = "NAME")]
    add_to: Vec<String>,
    /// The best ensembles have at most so many million parameters in all
    #[arg(long, value_name = "MILLIONS", value_parser = values::fraction)]
    max_params: Option<f64>,
    /// The best ensembles need at most so many thousand million multiply-accumulate operations for an image in all
    #[arg(long, value_name = "GMACS", value_parser = values::fraction)]
    max_gmacs: Option<f64>,
    /// How often images are drawn anew for intervals
    #[arg(long, value_name = "COUNT", default_value = "200", value_parser = values::positive)]
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
    run: String,
    average: Averaging,
    names: Vec<String>,
    /// Images that could be decoded.
    images: usize,
    /// Network → the share of images that it gets wrong.
    errors: Vec<f64>,
    /// Network → cluster; none where there are no clusters.
    clusters: Option<Vec<usize>>,
    sizes: Vec<EnsemblesOfSize>,
    /// From one network up to the largest size, chosen on every second image and measured on the others.
    best: Vec<Best>,
    /// The others, the one that adds most first.
    #[serde(skip_serializing_if = "Option::is_none")]
    add_to: Option<Added>,
}

/// The best of a size under the budget.
#[derive(Serialize)]
struct Best {
    members: Vec<String>,
    /// The share of images that it gets wrong, on the half that did not choose it.
    error: f64,
    /// In millions.
    parameters: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gmacs: Option<f64>,
}

#[derive(Serialize)]
struct Added {
    members: Vec<String>,
    error: f64,
    others: Vec<Addition>,
}

#[derive(Serialize)]
struct Addition {
    name: String,
    /// Of the ensemble with it.
    error: f64,
    /// The error without it less that with it.
    gain: Option<WithInterval>,
    /// Its mean SAT score with the members.
    sat: Option<f64>,
}

/// The ensembles that were tried, members → the shares that they get wrong of every second image, which chooses the best, and
/// of the others, which measure it.
struct Tried {
    errors: BTreeMap<Vec<usize>, [f64; 2]>,
    /// How often each image counts in the two halves.
    halves: [Vec<u32>; 2],
}

impl Tried {
    fn new(images: usize) -> Self {
        let half = |which: usize| (0..images).map(|image| u32::from(image % 2 == which)).collect();
        Self { errors: BTreeMap::new(), halves: [half(0), half(1)] }
    }

    fn add(&mut self, ensembles: Vec<Vec<usize>>, credits: &[Credits]) {
        for (members, credits) in ensembles.into_iter().zip(credits) {
            self.errors.insert(members, [0, 1].map(|half| error(credits, &self.halves[half])));
        }
    }
}

/// What a network costs.
struct Cost {
    parameters: f64,
    gmacs: Option<f64>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let outcomes = Outcomes::open(&self.run)?;
        let run = outcomes.collect(self.score.epsilon_s()?)?;
        let names = run.names();
        let [smallest, largest] = self.sizes.unwrap_or([2, names.len().min(5)]);
        if largest > names.len() {
            return Err(format!(
                "{} has {} networks, so there is no ensemble of {largest}; give --sizes up to {}",
                self.run.display(),
                names.len(),
                names.len()
            )
            .into());
        }
        let costs: Vec<Cost> =
            run.networks.iter().map(|network| self.cost(&network.architecture)).collect::<Result<_, _>>()?;
        self.check_budget(&names, &costs)?;
        let average = match self.average {
            Some(average) => average,
            None if outcomes.logits(0, 0)?.is_some() => Averaging::Probabilities,
            None => Averaging::Votes,
        };
        let predictions = Predictions::new(&outcomes, &run, average)?;
        let clusters = self.clusters(&run, common);
        let bar = common.bar("sizes");
        bar.set_length((largest - smallest + 1) as u64);
        let every = vec![1; predictions.images()];
        let networks = sets(names.len(), 1, usize::MAX, 0);
        let alone = predictions.credits(&networks)?;
        let mut tried = Tried::new(predictions.images());
        tried.add(networks, &alone);
        let mut made = Vec::new();
        for size in smallest..=largest {
            let ensembles = sets(names.len(), size, self.samples, self.seed);
            let credits = predictions.credits(&ensembles)?;
            made.push(EnsemblesOfSize {
                size,
                possible: possible(names.len(), size),
                correlation: predictions.correlation(&ensembles, &credits, self.replicates, self.seed),
                ensembles: predictions.describe(&ensembles, &credits, clusters.as_deref()),
            });
            tried.add(ensembles, &credits);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            run: self.run.display().to_string(),
            average,
            images: predictions.images(),
            errors: alone.iter().map(|credits| error(credits, &every)).collect(),
            clusters,
            best: self.best(&run, &costs, &predictions, tried, largest)?,
            add_to: self.additions(&names, &run, &predictions)?,
            sizes: made,
            names,
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_text())?;
        }
        Ok(Outcome::Done)
    }

    fn clusters(&self, run: &SatRun, common: &Common) -> Option<Vec<usize>> {
        let clusters = self.k.unwrap_or_else(|| default_clusters(run.networks.len()));
        match cluster(&run.matrix(), &ClusterConfig { clusters, seed: self.seed, ..ClusterConfig::default() }) {
            Ok(found) => Some(found.labels),
            Err(reason) => {
                common.note(&format!("no clusters: {reason}"));
                None
            }
        }
    }

    /// For each size up to the largest the best within the budget: of the ensembles that were tried, and of those that add a network to the
    /// best of the size before.
    fn best(
        &self,
        run: &SatRun,
        costs: &[Cost],
        predictions: &Predictions,
        mut tried: Tried,
        largest: usize,
    ) -> Result<Vec<Best>, Failure> {
        let sum = |members: &[usize], of: &dyn Fn(&Cost) -> f64| {
            members.iter().map(|&member| of(&costs[member])).sum::<f64>()
        };
        let parameters = |members: &[usize]| sum(members, &|cost| cost.parameters);
        let gmacs = |members: &[usize]| sum(members, &|cost| cost.gmacs.unwrap_or(0.0));
        let fits = |members: &[usize]| self.is_within(parameters(members), gmacs(members));
        let mut all = Vec::new();
        let mut last: Vec<usize> = Vec::new();
        for size in 1..=largest {
            let longer = (0..run.networks.len()).filter(|network| !last.contains(network)).map(|network| {
                let mut members = [&last[..], &[network]].concat();
                members.sort_unstable();
                members
            });
            let new: Vec<Vec<usize>> =
                longer.filter(|members| fits(members) && !tried.errors.contains_key(members)).collect();
            let credits = predictions.credits(&new)?;
            tried.add(new, &credits);
            let within = tried.errors.iter().filter(|(members, _)| members.len() == size && fits(members));
            // Between equals the map's order decides.
            let Some((members, [_, measured])) = within.min_by(|(_, [a, _]), (_, [b, _])| a.total_cmp(b)) else {
                break;
            };
            last.clone_from(members);
            all.push(Best {
                members: last.iter().map(|&member| run.networks[member].name.clone()).collect(),
                error: *measured,
                parameters: parameters(&last),
                gmacs: self.max_gmacs.map(|_| gmacs(&last)),
            });
        }
        Ok(all)
    }

    /// Whether so many million parameters and thousand million operations are within the budget.
    fn is_within(&self, parameters: f64, gmacs: f64) -> bool {
        self.max_params.is_none_or(|most| parameters <= most) && self.max_gmacs.is_none_or(|most| gmacs <= most)
    }

    /// Refuses a budget that no network is within, so that there is no best of any size.
    fn check_budget(&self, names: &[String], costs: &[Cost]) -> Result<(), Failure> {
        if costs.iter().any(|cost| self.is_within(cost.parameters, cost.gmacs.unwrap_or(0.0))) {
            return Ok(());
        }
        let least = |of: &dyn Fn(&Cost) -> f64| {
            let all = names.iter().zip(costs).map(|(name, cost)| (name, of(cost)));
            all.min_by(|(_, a), (_, b)| a.total_cmp(b))
        };
        let mut reasons = Vec::new();
        if let (Some(most), Some((name, least))) = (self.max_params, least(&|cost| cost.parameters))
            && least > most
        {
            reasons.push(format!("--max-params is {most}, and {name} has the fewest with {least:.2} million"));
        }
        if let (Some(most), Some((name, least))) = (self.max_gmacs, least(&|cost| cost.gmacs.unwrap_or(0.0)))
            && least > most
        {
            reasons.push(format!("--max-gmacs is {most}, and {name} needs the fewest with {least:.2}"));
        }
        if reasons.is_empty() {
            reasons.push("some have few enough parameters and others need few enough operations, but none both".into());
        }
        Err(format!(
            "not one network of {} is within the budget ({}); give more",
            self.run.display(),
            reasons.join("; ")
        )
        .into())
    }

    fn cost(&self, architecture: &str) -> Result<Cost, Failure> {
        let entry = super::known(architecture)?;
        Ok(Cost {
            parameters: entry.parameters() as f64 / 1e6,
            gmacs: self.max_gmacs.map(|_| entry.multiply_accumulates() as f64 / 1e9),
        })
    }

    /// What each other network adds to the ensemble of `--add-to`.
    fn additions(&self, names: &[String], run: &SatRun, predictions: &Predictions) -> Result<Option<Added>, Failure> {
        if self.add_to.is_empty() {
            return Ok(None);
        }
        let of = self.run.display().to_string();
        let base: Vec<usize> = self.add_to.iter().map(|name| position(names, name, &of)).collect::<Result<_, _>>()?;
        let others: Vec<usize> = (0..names.len()).filter(|network| !base.contains(network)).collect();
        let ensembles: Vec<Vec<usize>> =
            std::iter::once(base.clone()).chain(others.iter().map(|&other| [&base[..], &[other]].concat())).collect();
        let credits: Vec<Credits> = predictions.credits(&ensembles)?;
        let every = vec![1; predictions.images()];
        let mut added: Vec<Addition> = others
            .iter()
            .zip(&credits[1..])
            .map(|(&other, with)| {
                let scores: Option<Vec<f64>> = base.iter().map(|&member| run.pair(member, other).sat).collect();
                Addition {
                    name: names[other].clone(),
                    error: error(with, &every),
                    gain: predictions.gain(&credits[0], with, self.replicates, self.seed),
                    sat: scores.map(|scores| scores.iter().sum::<f64>() / scores.len() as f64),
                }
            })
            .collect();
        added.sort_by(|a, b| a.error.total_cmp(&b.error));
        Ok(Some(Added { members: self.add_to.clone(), error: error(&credits[0], &every), others: added }))
    }
}

impl Document {
    fn to_text(&self) -> String {
        let average = match self.average {
            Averaging::Logits => "logits averaged",
            Averaging::Probabilities => "probabilities averaged",
            Averaging::Votes => "majority votes, undecided ones counted by parts",
        };
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let mut text = format!("{} networks, {} images, {average}: {}\n\n", self.names.len(), self.images, self.run);
        text += &format!(
            "{:>4}  {:>12}  {:>8}  {:>8}  {:>9}  {:>9}  correlation of SAT and reduction [95 %]\n",
            "size", "ensembles", "members", "together", "reduction", "all wrong"
        );
        for sized in &self.sizes {
            let of = |value: fn(&crate::analysis::ensembles::Ensemble) -> f64| {
                mean(sized.ensembles.iter().map(value).collect())
            };
            let count = match sized.ensembles.len() {
                all if all as f64 >= sized.possible => format!("all {all}"),
                some => format!("{some} drawn"),
            };
            let reductions: Vec<f64> = sized.ensembles.iter().filter_map(|ensemble| ensemble.error_reduction).collect();
            let correlation = match sized.correlation {
                Some(WithInterval { estimate, interval: [low, high] }) => {
                    format!("{estimate:.3} [{low:.3}, {high:.3}]")
                }
                None => "none".into(),
            };
            text += &format!(
                "{:>4}  {count:>12}  {:>8}  {:>8}  {:>9}  {:>9}  {correlation}\n",
                sized.size,
                percent(of(|ensemble| ensemble.members_error)),
                percent(of(|ensemble| ensemble.error)),
                percent(mean(reductions)),
                percent(of(|ensemble| ensemble.all_wrong)),
            );
        }
        text += &format!("{}\n", finding(&self.sizes));
        if self.clusters.is_some() {
            text += "\nby how many clusters the members come from: mean reduction (ensembles)\n";
            for sized in &self.sizes {
                let groups: Vec<String> = (1..=sized.size)
                    .filter_map(|count| {
                        let group = sized.ensembles.iter().filter(|ensemble| ensemble.clusters == Some(count));
                        let reductions: Vec<f64> = group.filter_map(|ensemble| ensemble.error_reduction).collect();
                        let made = reductions.len();
                        (made > 0).then(|| format!("{count}: {} ({made})", percent(mean(reductions))))
                    })
                    .collect();
                text += &format!("{:>4}  {}\n", sized.size, groups.join("   "));
            }
        }
        text += "\nbest, chosen on every second image, wrong on the others\n";
        for best in &self.best {
            let gmacs = best.gmacs.map_or(String::new(), |gmacs| format!(", {gmacs:.2} GMACs"));
            text += &format!(
                "{:>4}  {:>8}  {} ({:.1} M parameters{gmacs})\n",
                best.members.len(),
                percent(best.error),
                best.members.join(" + "),
                best.parameters
            );
        }
        if let Some(added) = &self.add_to {
            text += &format!("\nadded to {}, which is wrong on {}\n", added.members.join(" + "), percent(added.error));
            let width = added.others.iter().map(|other| other.name.chars().count()).max().unwrap_or(0);
            for other in &added.others {
                let gain = other.gain.map_or(String::new(), |WithInterval { estimate, interval: [low, high] }| {
                    format!("  better by {:.2} [{:.2}, {:.2}] points", 100.0 * estimate, 100.0 * low, 100.0 * high)
                });
                let sat = other.sat.map_or("none".into(), |sat| format!("{sat:.3}"));
                text += &format!("  {:width$}  {:>8}{gain}, SAT {sat}\n", other.name, percent(other.error));
            }
        }
        text
    }
}

/// `3`, or `2..5`, both of which count.
fn sizes(text: &str) -> Result<[usize; 2], String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    match (values::positive(from), values::positive(to.trim_start_matches('='))) {
        (Ok(from), Ok(to)) if (2..=to).contains(&from) => Ok([from, to]),
        _ => Err("give a number of members such as 3, or the smallest and the largest such as 2..5, from 2 up".into()),
    }
}

fn averaging(text: &str) -> Result<Averaging, String> {
    match text {
        "logits" => Ok(Averaging::Logits),
        "probabilities" => Ok(Averaging::Probabilities),
        "votes" => Ok(Averaging::Votes),
        _ => Err("give probabilities, logits or votes".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_one_or_a_range() {
        assert_eq!((sizes("3"), sizes("2..5")), (Ok([3, 3]), Ok([2, 5])));
        for wrong in ["1", "5..2", "..", "2..x", ""] {
            assert!(sizes(wrong).is_err(), "{wrong}");
        }
    }
}
