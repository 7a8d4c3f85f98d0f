//! From the predictions of a run to its scores.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;
use serde::Serialize;
use serde_json::Value;

use super::{NetworkRecord, Timing};
use crate::images::Skipped;
use crate::runs::Provenance;
use crate::similarity::Matrix;

/// What the predictions of a run say of each image, from which every score follows. Images are named by their position in
/// the data set.
#[derive(Debug, Clone)]
pub struct SatRun {
    /// The networks.
    pub networks: Vec<NetworkRecord>,
    /// Which images each model classifies correctly.
    pub correct: Vec<FixedBitSet>,
    /// `fooled[a][b]`: which of the images that `a` classifies correctly `b` gets wrong once they were attacked on `a`.
    pub fooled: Vec<Vec<FixedBitSet>>,
    /// Images that could not be decoded.
    pub skipped: Vec<Skipped>,
    /// How many images there are, the skipped ones included.
    pub images: usize,
    /// [`Dataset::fingerprint`](crate::images::Dataset::fingerprint) of the images.
    pub fingerprint: String,
    /// What the run folder was made with: attack, crop, precision and so on.
    pub settings: Value,
    /// What the units of the run were made by, with their count.
    pub made_by: BTreeMap<Provenance, usize>,
    /// Where the time of this call went, which may have found some of the work done.
    pub timing: Timing,
    /// The lower bound of a score's percentage.
    pub epsilon_s: f64,
}

/// One pair of networks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// The first network.
    pub a: String,
    /// The second network.
    pub b: String,
    /// Images that both classify correctly.
    pub n: usize,
    /// Of those, how many `b` gets wrong once they were attacked on `a`.
    pub fooled_ab: usize,
    /// Of those, how many `a` gets wrong once they were attacked on `b`.
    pub fooled_ba: usize,
    /// The score; none if there is no image.
    pub sat: Option<f64>,
}

impl SatRun {
    /// The networks' names.
    pub fn names(&self) -> Vec<String> {
        self.networks.iter().map(|network| network.name.clone()).collect()
    }

    /// The number of images that each model classifies correctly.
    pub fn clean(&self) -> Vec<usize> {
        self.correct.iter().map(|correct| correct.count_ones(..)).collect()
    }

    /// The same by the models' names, in their order.
    pub fn clean_by_name(&self) -> serde_json::Map<String, serde_json::Value> {
        let counts = self.clean().into_iter().map(Into::into);
        self.names().into_iter().zip(counts).collect()
    }

    /// The pair of the models at positions `a` and `b`, which may be the same.
    pub fn pair(&self, a: usize, b: usize) -> Pair {
        let n = self.correct[a].intersection_count(&self.correct[b]);
        // Only images that the attacked network classifies correctly were attacked.
        let count = |from: usize, on: usize| {
            self.fooled[from][on].intersection(&self.correct[on]).filter(|&image| self.correct[from][image]).count()
        };
        let (fooled_ab, fooled_ba) = (count(a, b), count(b, a));
        Pair {
            a: self.networks[a].name.clone(),
            b: self.networks[b].name.clone(),
            n,
            fooled_ab,
            fooled_ba,
            sat: score(n, fooled_ab, fooled_ba, self.epsilon_s),
        }
    }

    /// All pairs of different models, in the order of the models.
    pub fn pairs(&self) -> Vec<Pair> {
        let count = self.networks.len();
        (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).map(|(a, b)| self.pair(a, b)).collect()
    }

    /// How many of a pair's images fool either network once they were attacked on the other.
    pub fn fooled_twice(&self, a: usize, b: usize) -> usize {
        let both = &self.correct[a] & &self.correct[b];
        (&both & &self.fooled[a][b]).intersection_count(&self.fooled[b][a])
    }

    /// The scores, each model with itself on the diagonal.
    pub fn matrix(&self) -> Matrix {
        Matrix::new(self.names(), |a, b| self.pair(a, b).sat.unwrap_or(f64::NAN))
    }

    /// The scores on some of the images, which are named by their positions in the data set.
    pub fn matrix_on(&self, images: &FixedBitSet) -> Matrix {
        let count = self.networks.len();
        let correct: Vec<FixedBitSet> = self.correct.iter().map(|correct| correct & images).collect();
        let mut matrix = Matrix::new(self.names(), |_, _| f64::NAN);
        for (a, b) in (0..count).flat_map(|a| (a..count).map(move |b| (a, b))) {
            let both = &correct[a] & &correct[b];
            let fooled = |from: usize, on: usize| both.intersection_count(&self.fooled[from][on]);
            let score = score(both.count_ones(..), fooled(a, b), fooled(b, a), self.epsilon_s);
            for place in [a * count + b, b * count + a] {
                matrix.values[place] = score.unwrap_or(f64::NAN);
            }
        }
        matrix
    }

    /// The same run of the networks at these positions alone, in that order.
    pub fn select(&self, networks: &[usize]) -> Self {
        let fooled = |&a: &usize| networks.iter().map(|&b| self.fooled[a][b].clone()).collect();
        Self {
            networks: networks.iter().map(|&network| self.networks[network].clone()).collect(),
            correct: networks.iter().map(|&network| self.correct[network].clone()).collect(),
            fooled: networks.iter().map(fooled).collect(),
            skipped: self.skipped.clone(),
            images: self.images,
            fingerprint: self.fingerprint.clone(),
            settings: self.settings.clone(),
            made_by: self.made_by.clone(),
            timing: self.timing,
            epsilon_s: self.epsilon_s,
        }
    }
}

/// The formula at the top of [`super`].
fn score(n: usize, fooled_ab: usize, fooled_ba: usize, epsilon_s: f64) -> Option<f64> {
    let percentage = 100.0 * (fooled_ab + fooled_ba) as f64 / (2 * n) as f64;
    (n > 0).then(|| percentage.max(epsilon_s).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::Key;

    #[test]
    fn equal_networks_under_a_perfect_attack_score_the_logarithm_of_100() {
        assert_eq!(score(7, 7, 7, 0.01), Some(100f64.ln()));
        assert_eq!(score(100, 10, 20, 0.01), Some(15f64.ln()));
    }

    #[test]
    fn the_score_is_bounded_below_and_absent_without_images() {
        assert_eq!(score(5, 0, 0, 0.01), Some(0.01f64.ln()));
        assert_eq!(score(0, 0, 0, 0.01), None);
    }

    #[test]
    fn a_pair_counts_only_images_that_both_classify_correctly() {
        let bits = |bits: [bool; 3]| {
            let mut set = FixedBitSet::with_capacity(3);
            bits.into_iter().enumerate().for_each(|(index, bit)| set.set(index, bit));
            set
        };
        let network = |name: &str| NetworkRecord {
            name: name.to_owned(),
            architecture: name.to_owned(),
            sha256: String::new(),
            num_classes: 2,
            preprocessing: Value::Null,
            notes: Vec::new(),
            precision: String::new(),
            position: 0,
            key: Key::of(&name),
        };
        let run = SatRun {
            networks: ["a", "b"].map(network).to_vec(),
            correct: vec![bits([true, true, false]), bits([false, true, true])],
            fooled: vec![
                vec![bits([true, true, false]), bits([true, true, false])],
                vec![bits([false, false, true]), bits([false, true, true])],
            ],
            skipped: Vec::new(),
            images: 3,
            fingerprint: String::new(),
            settings: Value::Null,
            made_by: BTreeMap::new(),
            timing: Timing::default(),
            epsilon_s: 0.01,
        };
        let pair = run.pair(0, 1);
        assert_eq!((pair.n, pair.fooled_ab, pair.fooled_ba), (1, 1, 0));
        assert_eq!(pair.sat, Some(50f64.ln()));
        assert_eq!(run.clean(), [2, 2]);
        assert_eq!((run.fooled_twice(0, 1), run.fooled_twice(1, 1)), (0, 2));
        let mut images = FixedBitSet::with_capacity(3);
        images.insert_range(..);
        assert_eq!(run.matrix_on(&images), run.matrix());
        images.set(1, false);
        assert!(run.matrix_on(&images).get(0, 1).is_nan(), "both classify the second image alone");
        assert_eq!(run.select(&[1, 0]).pair(0, 1).fooled_ba, 1);
    }
}
