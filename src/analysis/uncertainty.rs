//! How certain scores are: the images of a data set stand for all that could have been drawn.
//!
//! Everything starts from [`Outcomes`], what the images of one data set did to a pair of networks. Intervals are bootstraps over
//! images (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993): images are drawn with replacement, the number is
//! computed again, and where the middle 95 % of such numbers lie is the interval.

use rayon::prelude::*;
use serde::Serialize;

use crate::random::Random;
use crate::similarity::sat::SatRun;

/// What the images of a data set did to a pair of networks; one element for each image.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcomes {
    /// Whether both networks classify the image correctly; only such images count.
    pub both_correct: Vec<bool>,
    /// Whether the second network is wrong once the image was attacked on the first.
    pub fooled_ab: Vec<bool>,
    /// Whether the first network is wrong once the image was attacked on the second.
    pub fooled_ba: Vec<bool>,
}

impl Outcomes {
    /// The SAT score (Hwang et al., arXiv 2210.11407) where image i counts `weights[i]` times; not a number without an image.
    pub fn sat(&self, weights: &[u32], epsilon_s: f64) -> f64 {
        let (mut images, mut fooled) = (0u64, 0u64);
        for (image, &weight) in weights.iter().enumerate() {
            if self.both_correct[image] {
                images += u64::from(weight);
                fooled += u64::from(weight) * self.times_fooled(image);
            }
        }
        let percentage = 100.0 * fooled as f64 / (2 * images) as f64;
        if images == 0 { f64::NAN } else { percentage.max(epsilon_s).ln() }
    }

    fn times_fooled(&self, image: usize) -> u64 {
        u64::from(self.fooled_ab[image]) + u64::from(self.fooled_ba[image])
    }

    /// How many images the data set has.
    pub fn images(&self) -> usize {
        self.both_correct.len()
    }
}

/// The images of a run that could be decoded: one element for each.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Their positions in the data set.
    pub images: Vec<usize>,
    /// Network → image → whether it is classified correctly.
    pub correct: Vec<Vec<bool>>,
}

impl Observed {
    /// Those of a run.
    pub fn of(run: &SatRun) -> Self {
        let mut decoded = vec![true; run.images];
        run.skipped.iter().for_each(|image| decoded[image.index] = false);
        let images: Vec<usize> = (0..run.images).filter(|&image| decoded[image]).collect();
        let correct = run.correct.iter().map(|correct| images.iter().map(|&image| correct[image]).collect());
        Self { correct: correct.collect(), images }
    }

    /// What they did to the networks at positions `a` and `b` of the run.
    pub fn outcomes(&self, run: &SatRun, a: usize, b: usize) -> Outcomes {
        let fooled = |from: usize, on: usize| self.images.iter().map(|&image| run.fooled[from][on][image]).collect();
        let both = self.correct[a].iter().zip(&self.correct[b]).map(|(&a, &b)| a && b);
        Outcomes { both_correct: both.collect(), fooled_ab: fooled(a, b), fooled_ba: fooled(b, a) }
    }
}

/// A number and where the middle 95 % of it lie when images are drawn anew.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WithInterval {
    /// The number, on all images unless said otherwise.
    pub estimate: f64,
    /// Its 2.5 % and 97.5 % quantiles.
    pub interval: [f64; 2],
}

impl WithInterval {
    /// The interval of an estimate from its replicates, of which those that are no number do not count; `None` if none is left.
    pub fn of(estimate: f64, mut replicates: Vec<f64>) -> Option<Self> {
        replicates.retain(|value| !value.is_nan());
        replicates.sort_by(f64::total_cmp);
        if estimate.is_nan() || replicates.is_empty() {
            return None;
        }
        Some(Self { estimate, interval: [0.025, 0.975].map(|level| quantile_of(&replicates, level)) })
    }
}

/// How intervals are found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BootstrapConfig {
    /// How often images are drawn anew; at least 100 for a useful interval.
    pub replicates: usize,
    /// How much lies within the interval, above 0 and below 1.
    pub confidence: f64,
    /// Decides what is drawn.
    pub seed: u64,
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self { replicates: 2000, confidence: 0.95, seed: 0 }
    }
}

/// A number with its intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The number on all images.
    pub estimate: f64,
    /// The standard deviation over replicates.
    pub standard_error: f64,
    /// The quantiles of the replicates.
    pub percentile: [f64; 2],
    /// The same, corrected for bias and for a spread that depends on the number (BCa, Efron 1987).
    pub bca: [f64; 2],
}

/// Images up to which the number is computed without each of them once, for the BCa interval.
const MOST_LEFT_OUT: usize = 10_000;

/// The interval of any number that follows from images: `statistic` gets how often each of `images` images counts.
///
/// Replicates for which it gives no number do not count; `None` if no number is left or it has none on all images.
pub fn bootstrap(
    images: usize,
    config: &BootstrapConfig,
    statistic: impl Fn(&[u32]) -> f64 + Sync,
) -> Option<Interval> {
    let mut weights = vec![1u32; images];
    let (estimate, replicates) = replicates(images, config.replicates, config.seed, &statistic)?;
    let count = replicates.len() as f64;
    let mean = replicates.iter().sum::<f64>() / count;
    let standard_error = (replicates.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    let outside = 0.5 * (1.0 - config.confidence);
    let levels = [outside, 1.0 - outside];
    let percentile = levels.map(|level| quantile_of(&replicates, level));

    // Half of the replicates that equal the estimate count as below it, since scores are of few values.
    let below = replicates.iter().filter(|&&value| value < estimate).count() as f64;
    let equal = replicates.iter().filter(|&&value| value == estimate).count() as f64;
    let bias = normal_quantile(((below + 0.5 * equal) / count).clamp(0.5 / count, 1.0 - 0.5 / count));
    // Of so many images none moves the number so far that the correction for its spread could be seen.
    let counted = if images > MOST_LEFT_OUT { 0 } else { images };
    let left_out: Vec<f64> = (0..counted)
        .map(|image| {
            weights[image] = 0;
            let value = statistic(&weights);
            weights[image] = 1;
            value
        })
        .filter(|value| !value.is_nan())
        .collect();
    let acceleration = acceleration(&left_out);
    let bca = levels.map(|level| {
        let shifted = bias + normal_quantile(level);
        quantile_of(&replicates, normal(bias + shifted / (1.0 - acceleration * shifted)))
    });
    Some(Interval { estimate, standard_error, percentile, bca })
}

/// A number on all images and where its middle 95 % lie over so many replicates. As [`bootstrap`], but without the correction,
/// for which the number is computed without each image once: for numbers that take long.
pub fn percentiles(
    images: usize,
    count: usize,
    seed: u64,
    statistic: impl Fn(&[u32]) -> f64 + Sync,
) -> Option<WithInterval> {
    let (estimate, replicates) = replicates(images, count, seed, &statistic)?;
    WithInterval::of(estimate, replicates)
}

/// The number on all images, and the sorted numbers on images drawn with replacement.
fn replicates(
    images: usize,
    count: usize,
    seed: u64,
    statistic: &(impl Fn(&[u32]) -> f64 + Sync),
) -> Option<(f64, Vec<f64>)> {
    let estimate = statistic(&vec![1; images]);
    if estimate.is_nan() {
        return None;
    }
    let mut replicates: Vec<f64> = (0..count as u64)
        .into_par_iter()
        .map(|replicate| {
            let mut random = Random::of(&[seed, replicate]);
            let mut weights = vec![0; images];
            for _ in 0..images {
                weights[random.below(images)] += 1;
            }
            statistic(&weights)
        })
        .filter(|value| !value.is_nan())
        .collect();
    replicates.sort_by(f64::total_cmp);
    (!replicates.is_empty()).then_some((estimate, replicates))
}

/// The interval of a pair's SAT score; `None` if no image is classified correctly by both.
pub fn sat_interval(outcomes: &Outcomes, epsilon_s: f64, config: &BootstrapConfig) -> Option<Interval> {
    bootstrap(outcomes.images(), config, |weights| outcomes.sat(weights, epsilon_s))
}

/// Of the numbers that are left when one image is left out: a sixth of their skewness, turned round.
fn acceleration(left_out: &[f64]) -> f64 {
    let mean = left_out.iter().sum::<f64>() / left_out.len().max(1) as f64;
    let (squares, cubes) = left_out.iter().fold((0.0, 0.0), |(squares, cubes), value| {
        let difference = mean - value;
        (squares + difference.powi(2), cubes + difference.powi(3))
    });
    if squares > 0.0 { cubes / (6.0 * squares.powf(1.5)) } else { 0.0 }
}

/// Between the two sorted values beside the place of the level.
pub(super) fn quantile_of(sorted: &[f64], level: f64) -> f64 {
    let place = level.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + place.fract() * (high - low)
}

/// The share of a standard normal distribution below `value`.
fn normal(value: f64) -> f64 {
    0.5 * libm::erfc(-value / std::f64::consts::SQRT_2)
}

/// The value with that share of a standard normal distribution below it, by bisection; needed a few times only.
fn normal_quantile(share: f64) -> f64 {
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if normal(middle) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Whether two pairs of networks differ in their scores on the same images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// The first pair's score less the second's.
    pub difference: Interval,
    /// How likely a difference as large is if it were left to chance, image by image, which pair did what; two-sided.
    pub p_value: f64,
}

/// Compares two pairs on the same data set: the interval of the difference by the bootstrap over images, and a permutation
/// test that exchanges what an image did to the two pairs. `None` if a pair has no score.
///
/// # Panics
/// If the pairs are of data sets of different sizes.
pub fn difference(one: &Outcomes, other: &Outcomes, epsilon_s: f64, config: &BootstrapConfig) -> Option<Difference> {
    let images = one.images();
    assert_eq!(images, other.images(), "both pairs are of one data set");
    let interval = bootstrap(images, config, |weights| one.sat(weights, epsilon_s) - other.sat(weights, epsilon_s))?;
    let contribution = |outcomes: &Outcomes, image: usize| {
        if outcomes.both_correct[image] { (1, outcomes.times_fooled(image)) } else { (0, 0) }
    };
    let score = |(images, fooled): (u64, u64)| (100.0 * fooled as f64 / (2 * images) as f64).max(epsilon_s).ln();
    let as_far = (0..config.replicates as u64)
        .into_par_iter()
        .filter(|&replicate| {
            let mut random = Random::of(&[config.seed, replicate, 1]);
            let mut sums = [(0, 0); 2];
            for image in 0..images {
                let exchanged = (random.draw() & 1) as usize;
                for (outcomes, sum) in [(one, exchanged), (other, 1 - exchanged)] {
                    let (counted, fooled) = contribution(outcomes, image);
                    sums[sum] = (sums[sum].0 + counted, sums[sum].1 + fooled);
                }
            }
            // Rounding must not tell equal differences apart.
            (score(sums[0]) - score(sums[1])).abs() >= interval.estimate.abs() - 1e-12
        })
        .count();
    let p_value = (1 + as_far) as f64 / (1 + config.replicates) as f64;
    Some(Difference { difference: interval, p_value })
}

/// Error consistency: Cohen's κ of the images on which two networks are right or wrong (Geirhos, Meding & Wichmann 2020,
/// arXiv 2006.16736). 1: they err on the same images; 0: as often as two independent networks of their accuracies; below 0:
/// less often. Image i counts `weights[i]` times; not a number where both are always right, or always wrong.
pub fn error_consistency(correct_a: &[bool], correct_b: &[bool], weights: &[u32]) -> f64 {
    let (mut all, mut a, mut b, mut same) = (0.0, 0.0, 0.0, 0.0);
    for ((&right_a, &right_b), &weight) in correct_a.iter().zip(correct_b).zip(weights) {
        let weight = f64::from(weight);
        all += weight;
        a += weight * f64::from(u8::from(right_a));
        b += weight * f64::from(u8::from(right_b));
        same += weight * f64::from(u8::from(right_a == right_b));
    }
    let (a, b, same) = (a / all, b / all, same / all);
    let expected = a * b + (1.0 - a) * (1.0 - b);
    if expected < 1.0 { (same - expected) / (1.0 - expected) } else { f64::NAN }
}

/// The interval of the error consistency; `None` where it has no value.
pub fn error_consistency_interval(
    correct_a: &[bool],
    correct_b: &[bool],
    config: &BootstrapConfig,
) -> Option<Interval> {
    bootstrap(correct_a.len(), config, |weights| error_consistency(correct_a, correct_b, weights))
}

/// The standard error of a pair's SAT score by the delta method for the logarithm: how often an image fools, 0 to 2 times, varies
/// over the `n` images that both networks classify correctly, of which attacks turned `fooled` in all (both ways added) and
/// `twice` both ways. The score ± 1.96 of it is a 95 % interval that needs no images but these counts. `None` if no image
/// counts, or none fools: then nothing is known.
pub fn standard_error(n: usize, fooled: usize, twice: usize) -> Option<f64> {
    if n == 0 || fooled == 0 {
        return None;
    }
    let (n, fooled, twice) = (n as f64, fooled as f64, twice as f64);
    let mean = fooled / n;
    // Those that fool twice count four times.
    let variance = (fooled + 2.0 * twice) / n - mean * mean;
    Some((variance.max(0.0) / n).sqrt() / mean)
}

/// Of a standard error, half of a 95 % interval.
pub const HALF_INTERVAL: f64 = 1.96;

/// How many images a data set must have so that the 95 % interval of a score is `width` wide, if its standard error is that
/// on so many images, and further ones are like them.
pub fn images_needed(standard_error: f64, images: usize, width: f64) -> usize {
    (images as f64 * (2.0 * HALF_INTERVAL * standard_error / width).powi(2)).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair that is fooled in one direction with `share`, and in the other as in the first with the share `alike`.
    fn drawn(images: usize, share: f64, alike: f64, random: &mut Random) -> Outcomes {
        let fooled_ab: Vec<bool> = (0..images).map(|_| random.unit() < share).collect();
        let fooled_ba = fooled_ab
            .iter()
            .map(|&fooled| if random.unit() < alike { fooled } else { random.unit() < share })
            .collect();
        let both_correct = (0..images).map(|_| random.unit() < 0.75).collect();
        Outcomes { both_correct, fooled_ab, fooled_ba }
    }

    /// Of a simulated pair.
    fn standard_error_of(outcomes: &Outcomes) -> Option<f64> {
        let counted: Vec<u64> = (0..outcomes.images())
            .filter(|&image| outcomes.both_correct[image])
            .map(|image| outcomes.times_fooled(image))
            .collect();
        let twice = counted.iter().filter(|&&times| times == 2).count();
        standard_error(counted.len(), counted.iter().sum::<u64>() as usize, twice)
    }

    #[test]
    fn the_score_is_that_of_the_paper() {
        let outcomes = Outcomes {
            both_correct: vec![true, true, false, true],
            fooled_ab: vec![true, false, true, false],
            fooled_ba: vec![true, true, true, false],
        };
        assert_eq!(outcomes.sat(&[1; 4], 0.01), 50f64.ln());
        assert_eq!(outcomes.sat(&[0, 0, 5, 2], 0.01), 0.01f64.ln());
        assert!(outcomes.sat(&[0, 0, 5, 0], 0.01).is_nan());
    }

    #[test]
    fn normal_distribution() {
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-12);
        assert!((normal(normal_quantile(0.01)) - 0.01).abs() < 1e-14);
    }

    /// The truth lies within 95 % intervals in 95 of 100 data sets, up to the chance of 1,000 simulations.
    #[test]
    fn intervals_cover_the_truth() {
        const SIMULATIONS: u64 = 1000;
        for (share, alike) in [(0.12f64, 0.6), (0.45, 0.2)] {
            let truth = (100.0 * share).ln();
            let covered: Vec<[bool; 3]> = (0..SIMULATIONS)
                .into_par_iter()
                .map(|simulation| {
                    let outcomes = drawn(400, share, alike, &mut Random::of(&[simulation, 77]));
                    let config = BootstrapConfig { replicates: 500, seed: simulation, ..BootstrapConfig::default() };
                    let interval = sat_interval(&outcomes, 0.01, &config).unwrap();
                    let half = HALF_INTERVAL * standard_error_of(&outcomes).unwrap();
                    let delta = [interval.estimate - half, interval.estimate + half];
                    [interval.percentile, interval.bca, delta].map(|[low, high]| low <= truth && truth <= high)
                })
                .collect();
            for kind in [0, 1, 2] {
                let percent =
                    100.0 * covered.iter().filter(|covered| covered[kind]).count() as f64 / SIMULATIONS as f64;
                assert!((93.0..=97.0).contains(&percent), "interval {kind} of {share} covers {percent} %");
            }
        }
    }

    /// Of 4 images one fools twice and one once: mean 3/4, variance (4 + 1)/4 − 9/16 = 11/16.
    #[test]
    fn a_standard_error_from_counts() {
        assert!((standard_error(4, 3, 1).unwrap() - (11f64 / 64.0).sqrt() / 0.75).abs() < 1e-15);
        assert_eq!(standard_error(5, 10, 5), Some(0.0), "every image fools twice");
        assert_eq!((standard_error(0, 0, 0), standard_error(5, 0, 0)), (None, None));
    }

    #[test]
    fn equal_pairs_do_not_differ_and_unequal_ones_do() {
        let mut random = Random::of(&[5]);
        let (one, same) = (drawn(1000, 0.3, 0.5, &mut random), drawn(1000, 0.3, 0.5, &mut random));
        let other = drawn(1000, 0.45, 0.5, &mut random);
        let config = BootstrapConfig { replicates: 999, ..BootstrapConfig::default() };
        let unlike = difference(&other, &one, 0.01, &config).unwrap();
        assert!(unlike.p_value < 0.01 && unlike.difference.percentile[0] > 0.0, "{unlike:?}");
        let alike = difference(&same, &one, 0.01, &config).unwrap();
        assert!(alike.p_value > 0.05, "{alike:?}");
        assert_eq!(difference(&one, &one, 0.01, &config).unwrap().p_value, 1.0);
    }

    /// Under chance the p-values of many comparisons are below 0.05 in one of twenty.
    #[test]
    fn chance_alone_is_rarely_found_significant() {
        let config = BootstrapConfig { replicates: 199, ..BootstrapConfig::default() };
        let found = (0..400u64).into_par_iter().filter(|&simulation| {
            let mut random = Random::of(&[simulation, 9]);
            let (one, other) = (drawn(200, 0.3, 0.5, &mut random), drawn(200, 0.3, 0.5, &mut random));
            let config = BootstrapConfig { seed: simulation, ..config.clone() };
            difference(&one, &other, 0.01, &config).unwrap().p_value <= 0.05
        });
        let share = found.count() as f64 / 400.0;
        assert!((0.025..=0.085).contains(&share), "{share}");
    }

    /// Cohen's κ as scikit-learn's cohen_kappa_score gives it.
    #[test]
    fn error_consistencies() {
        let a = [true, true, true, false, false, true, false, true];
        let b = [true, true, false, false, true, true, false, true];
        let kappa = error_consistency(&a, &b, &[1; 8]);
        assert!((kappa - 0.466_666_666_666_666_6).abs() < 1e-12, "{kappa}");
        assert!((error_consistency(&a, &a, &[1; 8]) - 1.0).abs() < 1e-12);
        assert!(error_consistency(&[true; 8], &[true; 8], &[1; 8]).is_nan());
        let interval = error_consistency_interval(&a, &b, &BootstrapConfig::default()).unwrap();
        assert!(interval.percentile[0] < kappa && kappa < interval.percentile[1]);
        assert_eq!(error_consistency_interval(&[true; 8], &[true; 8], &BootstrapConfig::default()), None);
    }

    #[test]
    fn a_plan_gives_the_width_that_was_wanted() {
        let pilot = drawn(4000, 0.25, 0.5, &mut Random::of(&[1]));
        let needed = images_needed(standard_error_of(&pilot).unwrap(), pilot.images(), 0.3);
        let outcomes = drawn(needed, 0.25, 0.5, &mut Random::of(&[2]));
        let interval = sat_interval(&outcomes, 0.01, &BootstrapConfig::default()).unwrap();
        let width = interval.percentile[1] - interval.percentile[0];
        assert!((width - 0.3).abs() < 0.045, "{needed} images give {width}");
        let never = Outcomes { fooled_ab: vec![false; 4000], fooled_ba: vec![false; 4000], ..pilot };
        assert_eq!(standard_error_of(&never), None);
    }
}
