//! What one network's features share with a truth once another network's are projected out.
//!
//! Zhen et al. (arXiv 2207.09684) compare networks X and Y by R²(X | Y, GT): the unbiased distance correlation of X with an
//! embedding of the classes, Y projected out of X. Here with intervals by the bootstrap over images.
//!
//! An image that is drawn twice is at distance 0 from itself, which no two images of the data set are; in high dimensions,
//! where all distances are alike, a few such pairs would pass for a correlation. So a replicate is the U-statistic with
//! weights: sums over *different* images, each weighted by how often it was drawn. With all weights 1 these are the inner
//! products of U-centred matrices. All replicates are computed at once, block by block, as products of matrices.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;
use serde::Serialize;

use super::products::{Form, block};
use super::{Centring, FeatureError, Features, InnerProducts, Kernel, bytes_of, check_images, check_room};
use crate::analysis::uncertainty::WithInterval;
use crate::memory;
use crate::random::Random;

/// The least number of images for intervals. Of a few images so few different ones are drawn that their statistics are all alike,
/// and there are none of fewer than four.
pub const LEAST_FOR_INTERVALS: usize = 20;

/// Replicates that are computed at once: each has a weight for every image.
const AT_ONCE: usize = 1024;

/// A number with the interval in which the middle 95 % of replicates lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// On all images.
    pub estimate: f64,
    /// Over the replicates; none without replicates, and of fewer images than [`LEAST_FOR_INTERVALS`].
    pub interval: Option<[f64; 2]>,
}

/// How much two networks have in common with a truth, each alone and beyond the other. Squared distance correlations without
/// bias, each in [−1, 1].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Conditions {
    /// R²(X, GT).
    pub x_truth: Estimate,
    /// R²(Y, GT).
    pub y_truth: Estimate,
    /// R²(X | Y, GT): Y projected out of X only, as Zhen et al. compute.
    pub x_given_y: Estimate,
    /// R²(Y | X, GT): X projected out of Y only.
    pub y_given_x: Estimate,
    /// Y projected out of X and of the truth (Székely & Rizzo).
    pub partial_x: Estimate,
    /// X projected out of Y and of the truth.
    pub partial_y: Estimate,
}

/// Compares the features of X and Y with a truth, with `replicates` bootstrap replicates drawn from `seed`, of which at least 100
/// make a useful interval.
///
/// # Errors
/// [`FeatureError::OtherImages`], [`FeatureError::TooFew`], [`FeatureError::Constant`], [`FeatureError::Rounded`],
/// [`FeatureError::NothingLeft`], [`FeatureError::LittleLeft`] or [`FeatureError::Memory`].
pub fn conditions(
    x: &Features,
    y: &Features,
    truth: &Features,
    replicates: usize,
    seed: u64,
) -> Result<Conditions, FeatureError> {
    let sets = [x, y, truth];
    let products = InnerProducts::of(&sets, &Kernel::Distance, Centring::Unbiased)?;
    let estimates = numbers(&products)?;
    let replicates = if x.images() < LEAST_FOR_INTERVALS { 0 } else { replicates };
    let replicates = resampled(&sets, replicates, seed)?;
    let mut values: [Vec<f64>; 6] = Default::default();
    // A replicate in which a set is constant has no numbers.
    for numbers in replicates.iter().filter_map(|products| numbers(products).ok()) {
        values.iter_mut().zip(numbers).for_each(|(values, number)| values.push(number));
    }
    let mut all = estimates.into_iter().zip(values).map(|(estimate, values)| Estimate {
        estimate,
        interval: WithInterval::of(estimate, values).map(|found| found.interval),
    });
    let mut next = || all.next().expect("there are six numbers");
    Ok(Conditions {
        x_truth: next(),
        y_truth: next(),
        x_given_y: next(),
        y_given_x: next(),
        partial_x: next(),
        partial_y: next(),
    })
}

/// In the order of [`Conditions`].
fn numbers(products: &InnerProducts) -> Result<[f64; 6], FeatureError> {
    const X: usize = 0;
    const Y: usize = 1;
    const TRUTH: usize = 2;
    Ok([
        products.correlation(X, TRUTH)?,
        products.correlation(Y, TRUTH)?,
        products.semi_partial(X, TRUTH, Y)?,
        products.semi_partial(Y, TRUTH, X)?,
        products.partial(X, TRUTH, Y)?,
        products.partial(Y, TRUTH, X)?,
    ])
}

/// Inner products of images drawn with replacement, so many times.
fn resampled(sets: &[&Features], replicates: usize, seed: u64) -> Result<Vec<InnerProducts>, FeatureError> {
    check_images(sets, "an unbiased statistic", Centring::Unbiased.least_images())?;
    let images = sets[0].images();
    // Weights and their squares.
    let bytes = bytes_of(images, 2 * replicates.min(AT_ONCE), size_of::<f64>());
    check_room("how often each image is drawn", bytes, memory::available(), "take fewer images or fewer --replicates")?;
    let mut found = Vec::new();
    for start in (0..replicates).step_by(AT_ONCE) {
        let count = AT_ONCE.min(replicates - start);
        let mut weights = Mat::<f64>::zeros(images, count);
        for replicate in 0..count {
            let mut random = Random::of(&[seed, (start + replicate) as u64]);
            for _ in 0..images {
                weights[(random.below(images), replicate)] += 1.0;
            }
        }
        found.extend(weighted(sets, &weights));
    }
    Ok(found)
}

/// For each column of weights `[image, replicate]` the U-statistics of distances that are inner products of U-centred matrices.
fn weighted(sets: &[&Features], weights: &Mat<f64>) -> Vec<InnerProducts> {
    const SIDE: usize = 256;
    let (images, replicates, count) = (weights.nrows(), weights.ncols(), sets.len());
    let pairs: Vec<(usize, usize)> = (0..count).flat_map(|a| (a..count).map(move |b| (a, b))).collect();
    let squared = Mat::from_fn(images, replicates, |image, replicate| weights[(image, replicate)].powi(2));
    let rows: Vec<Range<usize>> = (0..images).step_by(SIDE).map(|start| start..(start + SIDE).min(images)).collect();
    let of_rows = |rows: &Range<usize>| -> Vec<Moments> {
        let zeros = || Mat::<f64>::zeros(rows.len(), replicates);
        // Σ_j w_j a_ij of each set; Σ_j w_j a_ij b_ij and Σ_j w_j² a_ij b_ij of each pair.
        let mut of_sets = vec![zeros(); count];
        let mut of_pairs = vec![[zeros(), zeros()]; pairs.len()];
        for start in (0..images).step_by(SIDE) {
            let columns = start..(start + SIDE).min(images);
            let [plain, squared] = [weights, &squared].map(|weights| weights.subrows(columns.start, columns.len()));
            let add = |to: &mut Mat<f64>, values: &[f64], weights: MatRef<f64>| {
                let values = MatRef::from_row_major_slice(values, rows.len(), columns.len());
                matmul(to, Accum::Add, values, weights, 1.0, Par::Seq);
            };
            let values: Vec<Vec<f64>> =
                sets.iter().map(|set| block(set, Form::Distance, rows.clone(), columns.clone())).collect();
            for (to, values) in of_sets.iter_mut().zip(&values) {
                add(to, values, plain);
            }
            for ([to_plain, to_squared], &(a, b)) in of_pairs.iter_mut().zip(&pairs) {
                let products: Vec<f64> = values[a].iter().zip(&values[b]).map(|(a, b)| a * b).collect();
                add(to_plain, &products, plain);
                add(to_squared, &products, squared);
            }
        }
        let moments = |replicate: usize| {
            let mut moments = Moments::new(count);
            for (row, image) in rows.clone().enumerate() {
                let weight = weights[(image, replicate)];
                let sums: Vec<f64> = of_sets.iter().map(|sums| sums[(row, replicate)]).collect();
                let products = of_pairs.iter().map(|pair| [0, 1].map(|power| pair[power][(row, replicate)]));
                moments.add(weight, &sums, products);
            }
            moments
        };
        (0..replicates).map(moments).collect()
    };
    let parts: Vec<Vec<Moments>> = rows.par_iter().map(of_rows).collect();
    (0..replicates)
        .map(|replicate| {
            let mut moments = Moments::new(count);
            parts.iter().for_each(|part| moments.merge(&part[replicate]));
            let of_weights = Moments::of_weights(&weights.col(replicate).iter().copied().collect::<Vec<f64>>());
            let [once, twice, thrice] = of_weights.sums(0, 0, 0);
            let inner = |at: usize| {
                let (a, b) = (at / count, at % count);
                let pair = pairs.iter().position(|&pair| pair == (a.min(b), a.max(b))).expect("all pairs are there");
                let [first, second, third] = moments.sums(a, b, pair);
                first / once - 2.0 * second / twice + third / thrice
            };
            let magnitude = |set: usize| {
                let pair = pairs.iter().position(|&pair| pair == (set, set)).expect("all pairs are there");
                moments.sums(set, set, pair)[0] / once
            };
            let values = (0..count * count).map(inner).collect();
            InnerProducts::new(sets, values, (0..count).map(magnitude).collect())
        })
        .collect()
}

/// Sums over images of one replicate, from which sums over *different* images follow. With v_i = Σ_j w_j a_ij:
#[derive(Debug, Clone)]
struct Moments {
    /// Set → Σ_i w_i v_i.
    totals: Vec<f64>,
    /// Pair → Σ_i w_i v_i v'_i and Σ_i w_i² v_i v'_i.
    rows: Vec<[f64; 2]>,
    /// Pair → Σ_ij of a_ij b_ij times w_i w_j, w_i w_j², w_i² w_j².
    products: Vec<[f64; 3]>,
}

impl Moments {
    fn new(sets: usize) -> Self {
        let pairs = sets * (sets + 1) / 2;
        Self { totals: vec![0.0; sets], rows: vec![[0.0; 2]; pairs], products: vec![[0.0; 3]; pairs] }
    }

    /// One image: its weight, v_i of each set, and for each pair Σ_j w_j a_ij b_ij and Σ_j w_j² a_ij b_ij.
    fn add(&mut self, weight: f64, sums: &[f64], products: impl Iterator<Item = [f64; 2]>) {
        self.totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += weight * sum);
        let pairs = (0..sums.len()).flat_map(|a| (a..sums.len()).map(move |b| (a, b)));
        for (pair, ((a, b), [plain, squared])) in pairs.zip(products).enumerate() {
            let both = sums[a] * sums[b];
            self.rows[pair][0] += weight * both;
            self.rows[pair][1] += weight * weight * both;
            self.products[pair][0] += weight * plain;
            self.products[pair][1] += weight * squared;
            self.products[pair][2] += weight * weight * squared;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.totals.iter_mut().zip(&other.totals).for_each(|(to, from)| *to += from);
        let rows = self.rows.iter_mut().flatten().zip(other.rows.iter().flatten());
        let products = self.products.iter_mut().flatten().zip(other.products.iter().flatten());
        rows.chain(products).for_each(|(to, from)| *to += from);
    }

    /// Those of a matrix of ones off the diagonal: what the sums are divided by.
    fn of_weights(weights: &[f64]) -> Self {
        let power = |power: i32| weights.iter().map(|weight| weight.powi(power)).sum::<f64>();
        let (all, squares) = (power(1), power(2));
        let mut moments = Self::new(1);
        for &weight in weights {
            let others = [all - weight, squares - weight * weight];
            moments.add(weight, &[others[0]], std::iter::once(others));
        }
        moments
    }

    /// Σ w_i w_j a_ij b_ij, Σ w_i w_j w_k a_ij b_ik and Σ w_i w_j w_k w_l a_ij b_kl, each over different images.
    fn sums(&self, a: usize, b: usize, pair: usize) -> [f64; 3] {
        let ([once, squared_once], [plain, squared, both]) = (self.rows[pair], self.products[pair]);
        [plain, once - squared, self.totals[a] * self.totals[b] - 4.0 * squared_once + 2.0 * both]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{drawn, for_each_case, in_f64, related};
    use super::*;

    /// With all weights 1 a replicate is the statistic itself.
    #[test]
    fn without_weights_it_is_the_statistic() {
        let images = 300;
        let [x, y, z] = related(4, images, [12, 9, 5]).map(|values| in_f64("set", &values, images));
        let plain = InnerProducts::of(&[&x, &y, &z], &Kernel::Distance, Centring::Unbiased).unwrap();
        let ones = Mat::from_fn(images, 2, |_, _| 1.0);
        for found in weighted(&[&x, &y, &z], &ones) {
            for (a, b) in [(0, 0), (0, 1), (2, 1), (2, 2)] {
                let (ours, expected) = (found.get(a, b), plain.get(a, b));
                assert!((ours - expected).abs() < 1e-10 * plain.get(a, a), "{a}, {b}: {ours}, {expected}");
            }
        }
    }

    /// Sums over different images with weights, by loops over all fours of images.
    #[test]
    fn weighted_sums_are_those_of_the_definition() {
        let images = 7;
        let weights = [1.0, 0.0, 2.0, 3.0, 1.0, 0.0, 1.0];
        let (x, y) = (in_f64("x", &drawn(1, images * 3), images), in_f64("y", &drawn(2, images * 3), images));
        let [a, b] = [&x, &y].map(|set| block(set, Form::Distance, 0..images, 0..images));
        let (mut sums, mut norms) = ([0.0; 3], [0.0; 3]);
        for i in 0..images {
            for j in (0..images).filter(|&j| j != i) {
                let weight = weights[i] * weights[j];
                let at = i * images + j;
                sums[0] += weight * a[at] * b[at];
                norms[0] += weight;
                for k in (0..images).filter(|k| ![i, j].contains(k)) {
                    let weight = weight * weights[k];
                    sums[1] += weight * a[at] * b[i * images + k];
                    norms[1] += weight;
                    for l in (0..images).filter(|l| ![i, j, k].contains(l)) {
                        let weight = weight * weights[l];
                        sums[2] += weight * a[at] * b[k * images + l];
                        norms[2] += weight;
                    }
                }
            }
        }
        let expected = sums[0] / norms[0] - 2.0 * sums[1] / norms[1] + sums[2] / norms[2];
        let weights = Mat::from_fn(images, 1, |image, _| weights[image]);
        let found = weighted(&[&x, &y], &weights)[0].get(0, 1);
        assert!((found - expected).abs() < 1e-12, "{found}, {expected}");
    }

    /// The numbers without intervals, beside PyTorch and PyPI's dcor; scripts/features_reference.py.
    #[test]
    fn beside_packages() {
        for_each_case(|[x, y, z], check| {
            let found = conditions(x, z, y, 0, 0).unwrap();
            check(found.x_truth.estimate, "u_distance_correlation_sqr");
            check(found.x_given_y.estimate, "semi_partial");
            check(found.partial_x.estimate, "partial_distance_correlation");
            assert_eq!(found.x_truth.interval, None);
        });
    }

    /// Intervals hold the number on ten times as many images about as often as they say.
    #[test]
    fn intervals_cover_what_more_images_tell() {
        let many = 3000;
        let sets = related(11, many, [10, 8, 4]);
        let features = |images: Range<usize>| -> [Features; 3] {
            std::array::from_fn(|set| {
                let width = sets[set].len() / many;
                in_f64(["x", "y", "z"][set], &sets[set][images.start * width..images.end * width], images.len())
            })
        };
        let [x, y, z] = features(0..many);
        let truth = conditions(&x, &y, &z, 0, 0).unwrap();
        let (mut covered, mut below) = (0, 0);
        for part in 0..30 {
            let [x, y, z] = features(100 * part..100 * (part + 1));
            let found = conditions(&x, &y, &z, 200, 1).unwrap();
            for (found, truth) in [(found.x_truth, truth.x_truth), (found.x_given_y, truth.x_given_y)] {
                let [low, high] = found.interval.unwrap();
                covered += usize::from(low <= truth.estimate && truth.estimate <= high);
                below += usize::from(high < truth.estimate);
            }
        }
        // Of 60, each at 95 %: 57 on average.
        assert!(covered >= 51, "{covered} of 60, {below} below");
    }

    #[test]
    fn of_a_few_images_there_are_no_intervals() {
        let of = |images: usize| {
            let [x, y, z] = related(4, images, [3, 3, 3]).map(|values| in_f64("x", &values, images));
            conditions(&x, &y, &z, 100, 0).unwrap()
        };
        let (few, enough) = (of(LEAST_FOR_INTERVALS - 1), of(LEAST_FOR_INTERVALS));
        assert!([few.x_truth, few.partial_y].iter().all(|found| found.interval.is_none()));
        for Estimate { estimate, interval } in [enough.x_truth, enough.y_truth, enough.x_given_y, enough.partial_x] {
            let [low, high] = interval.unwrap();
            assert!(low < estimate && estimate < high, "{low}, {estimate}, {high}");
        }
    }

    /// What is drawn for a replicate depends on its number alone.
    #[test]
    fn replicates_are_the_same_in_parts() {
        let images = 25;
        let [x, y, _] = related(4, images, [3, 3, 3]).map(|values| in_f64("x", &values, images));
        let of = |count: usize| resampled(&[&x, &y], count, 3).unwrap();
        let (some, more) = (of(AT_ONCE - 1), of(AT_ONCE + 2));
        assert_eq!(more.len(), AT_ONCE + 2);
        for (some, more) in some.iter().zip(&more) {
            let difference = some.get(0, 1) - more.get(0, 1);
            assert!(difference.abs() <= 1e-12 * some.get(0, 0), "{difference}");
        }
        assert!(more[AT_ONCE].get(0, 1) != more[0].get(0, 1));
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let images = 40;
        let [x, y, z] = related(4, images, [3, 3, 3]).map(|values| in_f64("x", &values, images));
        let of = |seed| conditions(&x, &y, &z, 100, seed).unwrap();
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
    }
}
