//! Ensembles of a run's networks: do networks that are less alike make better ones?
//!
//! Hwang et al. (arXiv 2210.11407, ECCV 2024) average the outputs of networks and set the error reduction rate,
//! 1 − Err(ensemble) / mean Err(members), against the mean SAT score of the members' pairs. Everything here follows from
//! what a run keeps of its clean images: the classes always, the logits on request.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::analysis::compare::pearson;
use crate::analysis::uncertainty::{self, Observed, WithInterval, percentiles};
use crate::random::Random;
use crate::similarity::sat::{Outcomes, SatError, SatRun};

/// How the members' outputs become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Averaging {
    /// The mean of the logits.
    Logits,
    /// The mean of the softmax's probabilities.
    Probabilities,
    /// The class that most members name; between classes with as many votes the coin decides, so that an image may count by
    /// a part.
    Votes,
}

/// What an ensemble gets right: the share of each image, 1 but for undecided votes, in the order of the images.
pub type Credits = Vec<f32>;

/// The predictions of a run on the images that could be decoded, and its pairs.
#[derive(Debug)]
pub struct Predictions<'a> {
    outcomes: &'a Outcomes,
    averaging: Averaging,
    /// Network → image → whether it is classified correctly.
    correct: Vec<Vec<bool>>,
    /// For a pair of networks, the smaller position first, what the attacks did.
    pairs: HashMap<(usize, usize), uncertainty::Outcomes>,
    epsilon_s: f64,
}

/// Why there are no ensembles.
#[derive(Debug, thiserror::Error)]
pub enum EnsembleError {
    /// The run folder.
    #[error(transparent)]
    Run(#[from] SatError),
    /// The run kept classes only.
    #[error(
        "the run kept no logits, so there is nothing but votes to average: give --average votes, or run netkin sat again with --keep-logits"
    )]
    NoLogits,
    /// Logits of other classes cannot be averaged.
    #[error("{one} knows {classes} classes and {other} knows {others}; give --average votes, or leave one out")]
    OtherClasses {
        /// A network.
        one: String,
        /// Its classes.
        classes: usize,
        /// Another network.
        other: String,
        /// Its classes.
        others: usize,
    },
}

/// Ensembles of one size.
#[derive(Debug, Clone, Serialize)]
pub struct EnsemblesOfSize {
    /// Members of each.
    pub size: usize,
    /// How many there are of this size.
    pub possible: f64,
    /// The ensembles that were made, all or drawn.
    pub ensembles: Vec<Ensemble>,
    /// The correlation (Pearson) of the members' mean SAT score with the error reduction rate over these ensembles, and
    /// the middle 95 % of it over images drawn anew; none where it has no value.
    pub correlation: Option<WithInterval>,
}

/// One ensemble.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ensemble {
    /// The positions of the networks in the run.
    pub members: Vec<usize>,
    /// The mean SAT score of the members' pairs; none where a pair has none.
    pub sat: Option<f64>,
    /// The share of images that it gets wrong.
    pub error: f64,
    /// The mean of the members' shares.
    pub members_error: f64,
    /// 1 − error / members_error; none if no member is ever wrong.
    pub error_reduction: Option<f64>,
    /// The share of images that every member gets wrong.
    pub all_wrong: f64,
    /// From how many clusters the members come, where there are any.
    pub clusters: Option<usize>,
}

impl<'a> Predictions<'a> {
    /// Of a finished run.
    ///
    /// # Errors
    /// [`EnsembleError`].
    pub fn new(outcomes: &'a Outcomes, run: &SatRun, averaging: Averaging) -> Result<Self, EnsembleError> {
        if averaging != Averaging::Votes {
            let networks = outcomes.networks();
            let first = &networks[0];
            if let Some(other) = networks.iter().find(|network| network.num_classes != first.num_classes) {
                return Err(EnsembleError::OtherClasses {
                    one: first.name.clone(),
                    classes: first.num_classes,
                    other: other.name.clone(),
                    others: other.num_classes,
                });
            }
            for network in 0..networks.len() {
                outcomes.logits(0, network)?.ok_or(EnsembleError::NoLogits)?;
            }
        }
        let observed = Observed::of(run);
        let count = run.networks.len();
        let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
        let pairs = pairs.map(|(a, b)| ((a, b), observed.outcomes(run, a, b))).collect();
        Ok(Self { outcomes, averaging, pairs, epsilon_s: run.epsilon_s, correct: observed.correct })
    }

    /// Images that could be decoded.
    pub fn images(&self) -> usize {
        self.correct[0].len()
    }

    /// What each of the ensembles, of which none is empty, gets right.
    ///
    /// # Errors
    /// If the run folder cannot be read, or lacks logits.
    pub fn credits(&self, ensembles: &[Vec<usize>]) -> Result<Vec<Credits>, EnsembleError> {
        let mut credits = vec![Credits::with_capacity(self.images()); ensembles.len()];
        for index in 0..self.outcomes.chunks() {
            let chunk = self.outcomes.chunk(index)?;
            let labels = &self.outcomes.images().images()[chunk.start..];
            let images: Vec<usize> =
                (0..chunk.clean[0].len()).filter(|&image| chunk.clean[0][image].is_some()).collect();
            let scores = match self.averaging {
                Averaging::Votes => None,
                averaging => Some(self.scores(index, averaging)?),
            };
            credits.par_iter_mut().zip(ensembles).for_each(|(credits, members)| {
                for &image in &images {
                    let label = labels[image].label;
                    credits.push(match &scores {
                        None => vote(members.iter().filter_map(|&member| chunk.clean[member][image]), label),
                        Some((classes, scores)) => {
                            let row = image * classes..(image + 1) * classes;
                            average(members.iter().map(|&member| &scores[member][row.clone()]), label)
                        }
                    });
                }
            });
        }
        Ok(credits)
    }

    /// The number of classes, and for each network logits or probabilities, `[image, class]`.
    fn scores(&self, chunk: usize, averaging: Averaging) -> Result<(usize, Vec<Vec<f32>>), EnsembleError> {
        let networks = self.outcomes.networks();
        let classes = networks[0].num_classes;
        let scores = (0..networks.len()).map(|network| {
            let mut scores = self.outcomes.logits(chunk, network)?.ok_or(EnsembleError::NoLogits)?;
            if averaging == Averaging::Probabilities {
                scores.chunks_exact_mut(classes).for_each(softmax);
            }
            Ok(scores)
        });
        Ok((classes, scores.collect::<Result<_, EnsembleError>>()?))
    }

    /// The share of images that a network gets wrong, where image i counts `weights[i]` times.
    fn network_error(&self, network: usize, weights: &[u32]) -> f64 {
        let wrong = self.correct[network].iter().zip(weights).filter(|(correct, _)| !**correct);
        wrong.map(|(_, &weight)| f64::from(weight)).sum::<f64>() / self.images() as f64
    }

    /// The error of each network and the SAT score of each pair, where image i counts `weights[i]` times.
    fn alone_and_in_pairs(&self, weights: &[u32]) -> (Vec<f64>, HashMap<(usize, usize), f64>) {
        let errors = (0..self.correct.len()).map(|network| self.network_error(network, weights)).collect();
        let scores = self.pairs.iter().map(|(&pair, outcomes)| (pair, outcomes.sat(weights, self.epsilon_s))).collect();
        (errors, scores)
    }

    /// The numbers of ensembles and what they get right; `clusters` are those of the networks, if there are any.
    pub fn describe(&self, ensembles: &[Vec<usize>], credits: &[Credits], clusters: Option<&[usize]>) -> Vec<Ensemble> {
        let weights = vec![1; self.images()];
        let (errors, scores) = self.alone_and_in_pairs(&weights);
        let one = |(members, credits): (&Vec<usize>, &Credits)| {
            let error = error(credits, &weights);
            let members_error = mean(members.iter().map(|&member| errors[member]));
            let sat = mean(pairs_of(members).map(|pair| scores[&pair]));
            let all_wrong =
                (0..self.images()).filter(|&image| !members.iter().any(|&member| self.correct[member][image]));
            Ensemble {
                members: members.clone(),
                sat: (!sat.is_nan()).then_some(sat),
                error,
                members_error,
                error_reduction: (members_error > 0.0).then(|| 1.0 - error / members_error),
                all_wrong: all_wrong.count() as f64 / self.images() as f64,
                clusters: clusters.map(|clusters| distinct(members.iter().map(|&member| clusters[member]))),
            }
        };
        ensembles.iter().zip(credits).map(one).collect()
    }

    /// The correlation of the mean SAT score with the error reduction rate, with its interval over images drawn anew.
    pub fn correlation(
        &self,
        ensembles: &[Vec<usize>],
        credits: &[Credits],
        replicates: usize,
        seed: u64,
    ) -> Option<WithInterval> {
        let statistic = |weights: &[u32]| {
            let (errors, scores) = self.alone_and_in_pairs(weights);
            let points = ensembles.iter().zip(credits).filter_map(|(members, credits)| {
                let sat = mean(pairs_of(members).map(|pair| scores[&pair]));
                let members_error = mean(members.iter().map(|&member| errors[member]));
                let reduction = 1.0 - error(credits, weights) / members_error;
                (sat.is_finite() && reduction.is_finite()).then_some((sat, reduction))
            });
            let (scores, reductions): (Vec<f64>, Vec<f64>) = points.unzip();
            // Two votes are never better than one: all reductions are 0 but for rounding, which correlates with nothing.
            let is_flat = reductions.iter().all(|reduction| reduction.abs() < 1e-12);
            if is_flat { f64::NAN } else { pearson(&scores, &reductions) }
        };
        percentiles(self.images(), replicates, seed, statistic)
    }

    /// By how much less of the images one ensemble gets wrong than another, with its interval over images drawn anew.
    pub fn gain(&self, before: &Credits, after: &Credits, replicates: usize, seed: u64) -> Option<WithInterval> {
        percentiles(self.images(), replicates, seed, |weights| error(before, weights) - error(after, weights))
    }
}

/// A sentence on whether the paper's finding shows in these ensembles.
pub fn finding(sizes: &[EnsemblesOfSize]) -> String {
    let is_below =
        |sized: &&EnsemblesOfSize| sized.correlation.is_some_and(|correlation| correlation.interval[1] < 0.0);
    let below: Vec<String> = sizes.iter().filter(is_below).map(|sized| sized.size.to_string()).collect();
    if below.is_empty() {
        return "That members which are less alike reduce errors more does not show here: no interval of the correlation lies below 0."
            .into();
    }
    format!(
        "Members that are less alike reduce errors more in ensembles of {}, where the interval of the correlation lies below 0.",
        below.join(", ")
    )
}

/// All sets of `size` of so many networks if there are at most `most`, else `most` that are drawn, each another.
pub fn sets(networks: usize, size: usize, most: usize, seed: u64) -> Vec<Vec<usize>> {
    if possible(networks, size) <= most as f64 {
        let mut all = vec![Vec::new()];
        for _ in 0..size {
            let longer = |set: &Vec<usize>| {
                let set = set.clone();
                let next = set.last().map_or(0, |last| last + 1);
                (next..networks).map(move |network| [&set[..], &[network]].concat())
            };
            all = all.iter().flat_map(longer).collect();
        }
        return all;
    }
    let mut drawn = std::collections::BTreeSet::new();
    let mut random = Random::of(&[seed, size as u64]);
    while drawn.len() < most {
        let mut set = std::collections::BTreeSet::new();
        while set.len() < size {
            set.insert(random.below(networks));
        }
        drawn.insert(set.into_iter().collect::<Vec<_>>());
    }
    drawn.into_iter().collect()
}

/// How many sets of that size there are.
pub fn possible(networks: usize, size: usize) -> f64 {
    (0..size).map(|index| networks.saturating_sub(index) as f64 / (index + 1) as f64).product::<f64>().round()
}

/// The share of images that an ensemble gets wrong, where image i counts `weights[i]` times.
pub fn error(credits: &Credits, weights: &[u32]) -> f64 {
    let count: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let right: f64 = credits.iter().zip(weights).map(|(&credit, &weight)| f64::from(credit) * f64::from(weight)).sum();
    1.0 - right / count
}

/// The part of a coin that falls on the label among the classes with most votes.
fn vote(classes: impl Iterator<Item = u16>, label: usize) -> f32 {
    let mut votes: Vec<(u16, usize)> = Vec::new();
    for class in classes {
        match votes.iter_mut().find(|(voted, _)| *voted == class) {
            Some((_, count)) => *count += 1,
            None => votes.push((class, 1)),
        }
    }
    let most = votes.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let first: Vec<usize> =
        votes.iter().filter(|(_, count)| *count == most).map(|(class, _)| (*class).into()).collect();
    if first.contains(&label) { 1.0 / first.len() as f32 } else { 0.0 }
}

/// Whether the sum of the members' scores is largest for the label.
fn average<'s>(members: impl Iterator<Item = &'s [f32]>, label: usize) -> f32 {
    let sums = members.fold(Vec::new(), |mut sums: Vec<f32>, scores| {
        sums.resize(scores.len(), 0.0);
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
        sums
    });
    let class = sums.iter().enumerate().fold(0, |best, (class, sum)| if *sum > sums[best] { class } else { best });
    if class == label { 1.0 } else { 0.0 }
}

fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|logit| *logit = (*logit - largest).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|logit| *logit /= sum);
}

fn pairs_of(members: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let ordered = |a: usize, b: usize| (a.min(b), a.max(b));
    members.iter().enumerate().flat_map(move |(index, &a)| members[index + 1..].iter().map(move |&b| ordered(a, b)))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count)
}

fn distinct(values: impl Iterator<Item = usize>) -> usize {
    values.collect::<std::collections::BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sets_or_so_many_drawn() {
        assert_eq!(sets(4, 2, 6, 0), [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
        assert_eq!((possible(69, 2), possible(69, 5)), (2346.0, 11_238_513.0));
        let drawn = sets(20, 3, 50, 1);
        assert_eq!(drawn.len(), 50);
        assert!(drawn.iter().all(|set| set.len() == 3 && set.is_sorted() && set[2] < 20));
        assert!(drawn.is_sorted_by(|a, b| a < b), "each is another");
        assert_ne!(drawn, sets(20, 3, 50, 2));
    }

    #[test]
    fn a_finding_needs_an_interval_below_0() {
        let sized = |size: usize, high: f64| EnsemblesOfSize {
            size,
            possible: 1.0,
            ensembles: Vec::new(),
            correlation: Some(WithInterval { estimate: -0.5, interval: [-0.9, high] }),
        };
        assert!(
            finding(&[sized(2, 0.1), EnsemblesOfSize { correlation: None, ..sized(3, 0.0) }]).contains("does not show")
        );
        assert!(finding(&[sized(2, -0.1), sized(3, 0.1), sized(4, -0.2)]).contains("ensembles of 2, 4,"));
    }

    #[test]
    fn undecided_votes_count_by_parts() {
        assert_eq!(vote([3, 3, 5].into_iter(), 3), 1.0);
        assert_eq!(vote([3, 5].into_iter(), 5), 0.5);
        assert_eq!(vote([3, 5, 6].into_iter(), 7), 0.0);
    }

    #[test]
    fn sums_of_scores_decide() {
        let members = [[0.0, 3.0, 2.0], [0.0, 0.0, 2.5]];
        let rows = || members.iter().map(|row| &row[..]);
        assert_eq!((average(rows(), 2), average(rows(), 1)), (1.0, 0.0));
        // Probabilities: 0.035, 0.705, 0.259 and 0.071, 0.071, 0.859: the sure member wins.
        let mut probabilities = members;
        probabilities.iter_mut().for_each(|row| softmax(row));
        assert!((probabilities[0][1] - 0.705_385).abs() < 1e-5, "{probabilities:?}");
        assert_eq!(average(probabilities.iter().map(|row| &row[..]), 2), 1.0);
    }

    #[test]
    fn weights_are_how_often_an_image_counts() {
        assert_eq!(error(&vec![1.0, 0.0, 0.5], &[1, 1, 2]), 0.5);
    }
}
