//! How far what a run says depends on its images and on chance.
//!
//! The images of a run are divided into random halves, and scores, their order and the clusters are computed on each. A number
//! on a half, drawn without replacement, varies as much as the same number would over data sets as large as the whole (the
//! delete-d jackknife with half of the images deleted, Shao & Wu 1989), so the middle 95 % of such numbers are an interval. Halves
//! are sets of bits, which makes that fast where the bootstrap of [`super::uncertainty`] is slow: for numbers of a whole matrix.
//!
//! Two runs that differ by a seed are compared on the same images. What they differ by on a half is larger in the mean than on all
//! images, as chance parts two scores more on fewer of them (the difference that is left of two equal runs grows by √2), and their
//! orders agree less. So numbers of halves are moved until their median is the number on all images: the bootstrap's correction of
//! bias (Efron & Tibshirani 1993, chapter 10), applied to the interval. It holds what runs on so many other images would differ by
//! on average, where runs differ by chance alone more often than 95 times in 100 (the spread on halves is then up to a quarter too
//! wide), else about as often.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::clusters::{ClusterConfig, cluster, consensus, membership};
use super::compare::{pearson, ranks};
use super::partition::adjusted_rand_index;
use super::read::pairs;
use super::uncertainty::{WithInterval, images_needed, quantile_of, standard_error};
use crate::random::Random;
use crate::similarity::Matrix;
use crate::similarity::sat::SatRun;

/// How stability is measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StabilityConfig {
    /// How often the images are divided into two halves; at least 1.
    pub halves: usize,
    /// K, the number of clusters.
    pub clusters: usize,
    /// Decides which images are in which half.
    pub seed: u64,
}

/// How far two matrices of the same networks agree.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement<T> {
    /// Spearman's ρ of the scores of different networks: 1 where the pairs come in the same order.
    pub rank_correlation: T,
    /// The mean absolute difference of a score.
    pub mean_difference: T,
    /// The largest absolute difference of a score.
    pub largest_difference: T,
    /// The adjusted Rand index of the clusters.
    pub rand_index: T,
}

/// Why two runs cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StabilityError {
    /// They have other networks.
    #[error(
        "{name} is a network of one run and not of the other; give runs of the same networks, which differ by a seed alone"
    )]
    OtherNetworks {
        /// A network that one of them lacks.
        name: String,
    },
    /// They have other images.
    #[error(
        "the runs are of other images ({one} and {other} of them, or of another content); give runs on the same images"
    )]
    OtherImages {
        /// Images of the first.
        one: usize,
        /// Images of the second.
        other: usize,
    },
}

/// Runs of k-means, each from a seed of its own, for the clusters of a half.
const SEEDS: usize = 5;

/// Random divisions of the images that could be decoded into two halves; of an odd number, one image is in neither.
pub fn halves(run: &SatRun, count: usize, seed: u64) -> Vec<[FixedBitSet; 2]> {
    let mut images: Vec<usize> = (0..run.images).collect();
    images.retain(|image| run.skipped.iter().all(|skipped| skipped.index != *image));
    let divide = |division: u64| {
        let mut order = images.clone();
        Random::of(&[seed, division, 3]).shuffle(&mut order);
        let half = order.len() / 2;
        [&order[..half], &order[half..2 * half]].map(|images| {
            let mut set = FixedBitSet::with_capacity(run.images);
            images.iter().for_each(|&image| set.insert(image));
            set
        })
    };
    (0..count as u64).map(divide).collect()
}

/// A number of a run's matrix with its interval over images; `None` where it has no value.
pub fn over_images(
    run: &SatRun,
    halves: &[[FixedBitSet; 2]],
    number: impl Fn(&Matrix) -> f64 + Sync,
) -> Option<WithInterval> {
    let replicates = halves.par_iter().map(|[half, _]| number(&run.matrix_on(half))).collect();
    WithInterval::of(number(&run.matrix()), replicates)
}

impl Agreement<f64> {
    /// Compares two symmetric matrices. Pairs without a score in one of them do not count, and there are no clusters then; not a
    /// number where there is no value.
    pub fn of(one: &Matrix, other: &Matrix, clusters: usize) -> Self {
        let both = pairs(one.names.len()).map(|(row, column)| (one.get(row, column), other.get(row, column)));
        let (ours, theirs): (Vec<f64>, Vec<f64>) = both.filter(|(a, b)| !a.is_nan() && !b.is_nan()).unzip();
        let differences: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).collect();
        let labels = [one, other].map(|matrix| partition(matrix, clusters));
        Self {
            rank_correlation: pearson(&ranks(&ours), &ranks(&theirs)),
            mean_difference: differences.iter().sum::<f64>() / differences.len() as f64,
            largest_difference: differences.iter().copied().fold(f64::NAN, f64::max),
            rand_index: match &labels {
                [Some(one), Some(other)] => adjusted_rand_index(one, other),
                _ => f64::NAN,
            },
        }
    }
}

/// The clusters of a matrix, if it has a score for every pair and can be divided.
fn partition(matrix: &Matrix, clusters: usize) -> Option<Vec<usize>> {
    if matrix.values.iter().any(|score| score.is_nan()) {
        return None;
    }
    let config = ClusterConfig { clusters, seeds: SEEDS, ..ClusterConfig::default() };
    cluster(matrix, &config).ok().map(|clustering| clustering.labels)
}

/// Numbers with the middle 95 % of those that were drawn. Without an estimate, their median stands for it; with one, they are moved
/// until it is their median, and ends beyond what the number can be are cut off.
fn with_intervals(estimate: Option<Agreement<f64>>, drawn: &[Agreement<f64>]) -> Agreement<Option<WithInterval>> {
    let number = |of: fn(&Agreement<f64>) -> f64, [lowest, highest]: [f64; 2]| {
        let mut values: Vec<f64> = drawn.iter().map(of).filter(|value| !value.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        let middle = if values.is_empty() { f64::NAN } else { quantile_of(&values, 0.5) };
        let estimate = estimate.as_ref().map_or(middle, of);
        values.iter_mut().for_each(|value| *value = (estimate + (*value - middle)).clamp(lowest, highest));
        WithInterval::of(estimate, values)
    };
    let (correlation, difference) = ([-1.0, 1.0], [0.0, f64::INFINITY]);
    Agreement {
        rank_correlation: number(|it| it.rank_correlation, correlation),
        mean_difference: number(|it| it.mean_difference, difference),
        largest_difference: number(|it| it.largest_difference, difference),
        rand_index: number(|it| it.rand_index, correlation),
    }
}

/// How two halves of a run's images agree: the median over the divisions, and the middle 95 %.
pub fn within(run: &SatRun, config: &StabilityConfig) -> Agreement<Option<WithInterval>> {
    let drawn: Vec<Agreement<f64>> = halves(run, config.halves, config.seed)
        .par_iter()
        .map(|[one, other]| Agreement::of(&run.matrix_on(one), &run.matrix_on(other), config.clusters))
        .collect();
    with_intervals(None, &drawn)
}

/// How two runs of the same networks on the same images agree: on all images, with a 95 % interval for what runs on so many images give
/// on average. It is where the middle 95 % on random halves of the images lie, moved so that their median is the number on all.
///
/// # Errors
/// [`StabilityError`].
pub fn between(
    one: &SatRun,
    other: &SatRun,
    config: &StabilityConfig,
) -> Result<Agreement<Option<WithInterval>>, StabilityError> {
    let (names, others) = (one.names(), other.names());
    let places = names.iter().map(|name| others.iter().position(|other| other == name));
    let places: Option<Vec<usize>> = places.collect();
    let Some(places) = places.filter(|places| places.len() == others.len()) else {
        let lacks = |name: &&String| !names.contains(name) || !others.contains(name);
        let name = names.iter().chain(&others).find(lacks).cloned().unwrap_or_default();
        return Err(StabilityError::OtherNetworks { name });
    };
    if one.images != other.images || one.fingerprint != other.fingerprint {
        return Err(StabilityError::OtherImages { one: one.images, other: other.images });
    }
    let other = other.select(&places);
    let estimate = Agreement::of(&one.matrix(), &other.matrix(), config.clusters);
    let drawn: Vec<Agreement<f64>> = halves(one, config.halves, config.seed)
        .par_iter()
        .map(|[half, _]| Agreement::of(&one.matrix_on(half), &other.matrix_on(half), config.clusters))
        .collect();
    Ok(with_intervals(Some(estimate), &drawn))
}

/// In what two runs differ, of their settings and of their networks' weights: a phrase each.
pub fn differences(one: &SatRun, other: &SatRun) -> Vec<String> {
    let (ours, theirs) = (leaves(&one.settings), leaves(&other.settings));
    let nothing = Value::Null;
    let value = |of: &BTreeMap<String, Value>, name: &str| of.get(name).unwrap_or(&nothing).to_string();
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort();
    names.dedup();
    // The key follows from the attack.
    let differing = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name) && *name != "attack_key");
    let mut phrases: Vec<String> =
        differing.map(|name| format!("{name}: {} and {}", value(&ours, name), value(&theirs, name))).collect();
    for network in &one.networks {
        let same_name = other.networks.iter().find(|other| other.name == network.name);
        if same_name.is_some_and(|other| other.sha256 != network.sha256) {
            phrases.push(format!("the weights of {}", network.name));
        }
    }
    phrases
}

/// Every value that holds no others, by the names that lead to it.
fn leaves(value: &Value) -> BTreeMap<String, Value> {
    let Value::Object(object) = value else { return BTreeMap::from([(String::new(), value.clone())]) };
    let named = |(name, value): (&String, &Value)| {
        let path = |rest: String| if rest.is_empty() { name.clone() } else { format!("{name}.{rest}") };
        leaves(value).into_iter().map(|(rest, leaf)| (path(rest), leaf)).collect::<Vec<_>>()
    };
    object.iter().flat_map(named).collect()
}

/// How clusters hold on random halves of the images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClustersOverImages {
    /// How many halves.
    pub halves: usize,
    /// The adjusted Rand index of a half's clusters with those on all images: the median, and the middle 95 %.
    pub rand_index: WithInterval,
    /// Network → the mean share of halves that put it together with the others of its cluster; 1 where it is alone.
    pub membership: Vec<f64>,
}

/// Compares the clusters `labels` of a run's networks with those on halves of its images; `None` where no half has clusters.
pub fn clusters_over_images(run: &SatRun, labels: &[usize], config: &StabilityConfig) -> Option<ClustersOverImages> {
    let found: Vec<Vec<usize>> = halves(run, config.halves, config.seed)
        .par_iter()
        .filter_map(|[half, _]| partition(&run.matrix_on(half), config.clusters))
        .collect();
    let mut indices: Vec<f64> = found.iter().map(|found| adjusted_rand_index(found, labels)).collect();
    if indices.is_empty() {
        return None;
    }
    indices.sort_by(f64::total_cmp);
    let partitions: Vec<&[usize]> = found.iter().map(|found| &found[..]).collect();
    Some(ClustersOverImages {
        halves: found.len(),
        rand_index: WithInterval::of(quantile_of(&indices, 0.5), indices)?,
        membership: membership(&consensus(&partitions), labels),
    })
}

/// How many images make the intervals of a run's scores narrow enough.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImagesNeeded {
    /// The width that 95 % intervals are to have at most.
    pub width: f64,
    /// The images of the run.
    pub images: usize,
    /// Images with which half of the pairs have such an interval.
    pub half: usize,
    /// Images with which all have it.
    pub every: usize,
    /// The pair that needs most.
    pub most: [String; 2],
    /// Pairs that tell nothing, since no image counts or none fools.
    pub unknown: usize,
}

/// How many images make 95 % intervals at most `width` wide, if further images are like those of the run: a score's standard error then
/// falls with the square root of their number. `None` where no pair tells.
pub fn images_for(run: &SatRun, width: f64) -> Option<ImagesNeeded> {
    let images = run.images - run.skipped.len();
    let (mut needed, mut unknown) = (Vec::new(), 0);
    for (a, b) in pairs(run.networks.len()) {
        let pair = run.pair(a, b);
        match standard_error(pair.n, pair.fooled_ab + pair.fooled_ba, run.fooled_twice(a, b)) {
            Some(error) => needed.push((images_needed(error, images, width), [pair.a, pair.b])),
            None => unknown += 1,
        }
    }
    needed.sort();
    let half = needed.get(needed.len().div_ceil(2).saturating_sub(1))?.0;
    let (every, most) = needed.pop()?;
    Some(ImagesNeeded { width, images, half, every, most, unknown })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runs::Key;
    use crate::similarity::sat::{NetworkRecord, Timing};

    /// How likely an image attacked on one of two networks fools the other: within two groups more than between them, and the less
    /// the further down they are.
    fn share(a: usize, b: usize) -> f64 {
        match (a == b, a % 2 == b % 2) {
            (true, _) => 1.0,
            (_, same_group) => (if same_group { 0.5 } else { 0.2 }) * (1.0 - 0.03 * (a + b) as f64),
        }
    }

    /// A run of such networks, each right about nine of ten images.
    fn run(networks: usize, images: usize, seed: u64) -> SatRun {
        let mut random = Random::of(&[seed]);
        let mut drawn = |share: f64| {
            let mut set = FixedBitSet::with_capacity(images);
            (0..images).for_each(|image| set.set(image, random.unit() < share));
            set
        };
        let correct: Vec<FixedBitSet> = (0..networks).map(|_| drawn(0.9)).collect();
        let fooled =
            (0..networks).map(|a| (0..networks).map(|b| &drawn(share(a, b)) & &correct[a]).collect()).collect();
        let network = |position: usize| NetworkRecord {
            name: format!("n{position}"),
            architecture: String::new(),
            sha256: String::new(),
            num_classes: 2,
            preprocessing: Value::Null,
            notes: Vec::new(),
            precision: String::new(),
            position,
            key: Key::of(&position),
        };
        SatRun {
            networks: (0..networks).map(network).collect(),
            correct,
            fooled,
            skipped: Vec::new(),
            images,
            fingerprint: String::new(),
            settings: json!({"attack": {"seed": seed, "steps": 10}, "attack_key": seed}),
            made_by: BTreeMap::new(),
            timing: Timing::default(),
            epsilon_s: 0.01,
        }
    }

    fn config(clusters: usize) -> StabilityConfig {
        StabilityConfig { halves: 100, clusters, seed: 0 }
    }

    #[test]
    fn halves_are_equal_and_have_no_image_in_common() {
        let run = run(2, 11, 0);
        for [one, other] in halves(&run, 20, 5) {
            assert_eq!((one.count_ones(..), other.count_ones(..), one.intersection_count(&other)), (5, 5, 0));
        }
        assert_ne!(halves(&run, 1, 5), halves(&run, 1, 6));
    }

    /// The middle 95 % over halves hold the true mean score in 95 of 100 data sets, as those of the bootstrap do.
    #[test]
    fn intervals_over_images_cover_the_truth() {
        let count = 400;
        let truth = (100.0 * share(0, 2)).ln();
        let covered = (0..count).into_par_iter().filter(|&seed| {
            let run = run(3, 300, 1000 + seed);
            let found = over_images(&run, &halves(&run, 200, seed), |matrix| matrix.get(0, 2)).unwrap();
            found.interval[0] <= truth && truth <= found.interval[1]
        });
        let percent = 100.0 * covered.count() as f64 / count as f64;
        assert!((92.0..=98.0).contains(&percent), "{percent} %");
    }

    #[test]
    fn more_images_agree_better() {
        let [few, many] = [60, 2000].map(|images| within(&run(8, images, 1), &config(2)));
        let estimate = |of: Option<WithInterval>| of.unwrap().estimate;
        assert!(estimate(many.rank_correlation) > estimate(few.rank_correlation));
        assert!(estimate(many.largest_difference) < estimate(few.largest_difference));
        assert_eq!(estimate(many.rand_index), 1.0, "the two groups are found in every half");
        assert!(estimate(many.mean_difference) < estimate(many.largest_difference));
    }

    #[test]
    fn a_run_agrees_with_itself_in_any_order_of_its_networks() {
        let run = run(6, 500, 2);
        let found = between(&run, &run.select(&[5, 3, 1, 0, 2, 4]), &config(2)).unwrap();
        let all = |number: Option<WithInterval>, value: f64| {
            let WithInterval { estimate, interval } = number.unwrap();
            assert!([estimate, interval[0], interval[1]].iter().all(|number| (number - value).abs() < 1e-12));
        };
        all(found.rank_correlation, 1.0);
        all(found.largest_difference, 0.0);
        all(found.rand_index, 1.0);
    }

    #[test]
    fn other_runs_are_refused_or_told_apart() {
        let one = run(4, 100, 3);
        let fewer = one.select(&[0, 1, 2]);
        assert_eq!(between(&one, &fewer, &config(2)), Err(StabilityError::OtherNetworks { name: "n3".into() }));
        assert_eq!(between(&fewer, &one, &config(2)), Err(StabilityError::OtherNetworks { name: "n3".into() }));
        let other = run(4, 90, 3);
        assert!(matches!(between(&one, &other, &config(2)), Err(StabilityError::OtherImages { one: 100, other: 90 })));
        let mut other = run(4, 100, 4);
        other.networks[2].sha256 = "x".into();
        assert_eq!(differences(&one, &other), ["attack.seed: 3 and 4", "the weights of n2"]);
        let found = between(&one, &other, &config(2)).unwrap().rank_correlation.unwrap();
        assert!(found.estimate < 1.0 && found.interval[0] < found.interval[1]);
    }

    /// The intervals of two runs that differ by chance alone hold what such runs differ by on average, and their own number.
    #[test]
    fn intervals_of_two_runs_cover_what_runs_differ_by() {
        let config = StabilityConfig { halves: 100, clusters: 99, seed: 0 };
        let found: Vec<Agreement<Option<WithInterval>>> = (0..200u64)
            .into_par_iter()
            .map(|seed| between(&run(8, 300, 2 * seed), &run(8, 300, 2 * seed + 1), &config).unwrap())
            .collect();
        type Number = fn(&Agreement<Option<WithInterval>>) -> Option<WithInterval>;
        let numbers: [(&str, Number); 3] = [
            ("mean difference", |it| it.mean_difference),
            ("largest difference", |it| it.largest_difference),
            ("rank correlation", |it| it.rank_correlation),
        ];
        for (name, number) in numbers {
            let all: Vec<WithInterval> = found.iter().map(|found| number(found).unwrap()).collect();
            let average = all.iter().map(|one| one.estimate).sum::<f64>() / all.len() as f64;
            let holds =
                |value: f64, WithInterval { interval: [low, high], .. }: &WithInterval| *low <= value && value <= *high;
            assert!(all.iter().all(|one| holds(one.estimate, one)), "{name}");
            let percent = 100.0 * all.iter().filter(|one| holds(average, one)).count() as f64 / all.len() as f64;
            assert!(percent >= 91.0, "the interval of the {name} covers {percent} %");
            // Not because it holds everything.
            let spread = all.iter().map(|one| (one.estimate - average).powi(2)).sum::<f64>() / all.len() as f64;
            let width = all.iter().map(|one| one.interval[1] - one.interval[0]).sum::<f64>() / all.len() as f64;
            assert!(width < 1.5 * 2.0 * 1.96 * spread.sqrt(), "{name}: {width} beside {}", spread.sqrt());
        }
        assert!(found.iter().all(|found| found.rand_index.is_none()), "there are not so many clusters");
    }

    #[test]
    fn two_networks_have_neither_order_nor_clusters() {
        let found = within(&run(2, 100, 5), &config(1));
        assert_eq!(found.rank_correlation, None);
        assert!(found.largest_difference.is_some());
    }

    #[test]
    fn clusters_hold_where_groups_lie_apart() {
        let run = run(6, 1000, 6);
        let found = clusters_over_images(&run, &[0, 1, 0, 1, 0, 1], &config(2)).unwrap();
        assert_eq!((found.rand_index.estimate, found.membership[3]), (1.0, 1.0));
        let wrong = clusters_over_images(&run, &[0, 0, 0, 1, 1, 1], &config(2)).unwrap();
        assert!(wrong.rand_index.estimate < 0.1 && wrong.membership[0] < 0.6);
    }

    /// As many images as are said to be needed give intervals of the width that was wanted.
    #[test]
    fn as_many_images_as_are_needed() {
        let pilot = run(4, 500, 7);
        let needed = images_for(&pilot, 0.2).unwrap();
        assert!(needed.half < needed.every && needed.unknown == 0);
        let whole = run(4, needed.every, 8);
        let width = |a: usize, b: usize| {
            let found = over_images(&whole, &halves(&whole, 500, 0), |matrix| matrix.get(a, b)).unwrap();
            found.interval[1] - found.interval[0]
        };
        let widest = pairs(4).map(|(a, b)| width(a, b)).fold(0.0, f64::max);
        assert!((0.15..=0.25).contains(&widest), "{needed:?} gives {widest}");
        let mut never = run(2, 50, 9);
        never.fooled.iter_mut().flatten().for_each(FixedBitSet::clear);
        assert_eq!(images_for(&never, 0.2), None);
    }
}
