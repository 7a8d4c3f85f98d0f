//! Gradient boosting regression on features that are true or false (Friedman 2001), with squared error.
//!
//! It is what scikit-learn's `GradientBoostingRegressor` computes there. Our own, since pairs of networks have few different
//! rows of mismatches (539 among the 2,346 pairs of the published matrix, at most 8,192 with 13 components however many pairs
//! there are): equal rows are one row with a weight, which makes a fit independent of the number of pairs. smartcore 0.7, the
//! nearest crate, has no minimal size of a node that is split, so it cannot take the paper's setting, and sorts every row again
//! for each feature of each node.

use serde::Serialize;

/// How trees are grown and added.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BoostingConfig {
    /// Trees; at least 1.
    pub trees: usize,
    /// Splits between a tree's root and a leaf, at most; at least 1.
    pub depth: usize,
    /// Rows that a node must have to be split; at least 2.
    pub min_split: usize,
    /// The share of a tree's prediction that is added, above 0 and up to 1.
    pub rate: f64,
}

impl Default for BoostingConfig {
    /// scikit-learn's defaults.
    fn default() -> Self {
        Self { trees: 100, depth: 3, min_split: 2, rate: 0.1 }
    }
}

impl BoostingConfig {
    /// The setting of Hwang et al. (arXiv 2210.11407).
    pub const PAPER: Self = Self { trees: 500, depth: 12, min_split: 4, rate: 0.02 };
}

/// Equal rows: their features as bits, how many there are (or their weight), and sums over them of what is to be predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rows {
    /// Bit i is feature i.
    pub features: u64,
    /// How many rows, or the sum of their weights; above 0.
    pub weight: f64,
    /// Σ weight · target.
    pub sum: f64,
    /// Σ weight · target².
    pub sum_of_squares: f64,
}

/// A fitted model.
#[derive(Debug, Clone)]
pub struct Boosting {
    initial: f64,
    rate: f64,
    trees: Vec<Tree>,
}

/// The root comes first.
type Tree = Vec<Node>;

#[derive(Debug, Clone, Copy)]
enum Node {
    Leaf(f64),
    /// Where to go on by a feature: to the first node if it is false, else to the second.
    Split {
        feature: u8,
        next: [u16; 2],
    },
}

/// Predictions for kinds of rows, and for the same with one feature turned.
#[derive(Debug, Clone)]
pub struct Predictions {
    features: usize,
    plain: Vec<f64>,
    /// Kind after kind, a prediction for each feature.
    turned: Vec<f64>,
}

impl Predictions {
    /// The prediction for a kind of rows at a place among those that were asked about.
    pub fn plain(&self, kind: usize) -> f64 {
        self.plain[kind]
    }

    /// The same with that feature turned.
    pub fn turned(&self, kind: usize, feature: usize) -> f64 {
        self.turned[kind * self.features + feature]
    }
}

impl Boosting {
    /// Fits at least one kind of rows of `features` features (at most 64).
    pub fn fit(rows: &[Rows], features: usize, config: &BoostingConfig) -> Self {
        let weight: f64 = rows.iter().map(|rows| rows.weight).sum();
        let initial = rows.iter().map(|rows| rows.sum).sum::<f64>() / weight;
        let mut residuals: Vec<f64> = rows.iter().map(|rows| rows.sum - initial * rows.weight).collect();
        let mut order: Vec<usize> = (0..rows.len()).collect();
        let mut with = vec![(0.0, 0.0); features];
        let mut trees = Vec::with_capacity(config.trees);
        for _ in 0..config.trees {
            let mut grower = Grower { rows, config, residuals: &mut residuals, with: &mut with, nodes: Vec::new() };
            grower.grow(&mut order, 0);
            trees.push(grower.nodes);
        }
        Self { initial, rate: config.rate, trees }
    }

    /// The prediction for a row.
    pub fn predict(&self, features: u64) -> f64 {
        self.initial + self.rate * self.trees.iter().map(|tree| leaf(tree, 0, features)).sum::<f64>()
    }

    /// Predictions for kinds of rows of so many features. A turned feature changes only those trees that ask for it.
    pub fn predictions(&self, kinds: &[Rows], features: usize) -> Predictions {
        let mut plain = vec![0.0; kinds.len()];
        let mut turned = vec![0.0; kinds.len() * features];
        for tree in &self.trees {
            for (kind, rows) in kinds.iter().enumerate() {
                let value = leaf(tree, 0, rows.features);
                plain[kind] += value;
                let changes = &mut turned[kind * features..(kind + 1) * features];
                let mut node = tree[0];
                while let Node::Split { feature, next } = node {
                    let bit = (rows.features >> feature & 1) as usize;
                    // No feature is asked for twice on the way to a leaf.
                    changes[usize::from(feature)] += leaf(tree, next[1 - bit], rows.features) - value;
                    node = tree[usize::from(next[bit])];
                }
            }
        }
        let value = |sum: f64| self.initial + self.rate * sum;
        let turned = turned.iter().enumerate().map(|(index, change)| value(plain[index / features] + change)).collect();
        Predictions { features, turned, plain: plain.into_iter().map(value).collect() }
    }
}

/// The value of the leaf to which a row comes from a node.
fn leaf(tree: &Tree, from: u16, features: u64) -> f64 {
    let mut node = tree[usize::from(from)];
    loop {
        match node {
            Node::Leaf(value) => return value,
            Node::Split { feature, next } => node = tree[usize::from(next[(features >> feature & 1) as usize])],
        }
    }
}

/// One tree while it grows.
struct Grower<'a> {
    rows: &'a [Rows],
    config: &'a BoostingConfig,
    /// For each kind of rows, its weight times what is still to be predicted.
    residuals: &'a mut [f64],
    /// Feature → weight and residuals of a node's rows that have it; the room is used again for each node.
    with: &'a mut [(f64, f64)],
    nodes: Tree,
}

impl Grower<'_> {
    /// Grows the node of some kinds of rows, brings them into the order of its leaves, takes its predictions off the
    /// residuals, and returns its place.
    fn grow(&mut self, kinds: &mut [usize], depth: usize) -> u16 {
        let place = self.nodes.len();
        let weight: f64 = kinds.iter().map(|&kind| self.rows[kind].weight).sum();
        let sum: f64 = kinds.iter().map(|&kind| self.residuals[kind]).sum();
        self.nodes.push(Node::Leaf(sum / weight));
        let room = self.nodes.len() + 2 * kinds.len() < usize::from(u16::MAX);
        let may_split = room && depth < self.config.depth && weight >= self.config.min_split as f64;
        if let Some(feature) = may_split.then(|| self.best_split(kinds, weight, sum)).flatten() {
            let middle = divide(kinds, |kind| self.rows[kind].features >> feature & 1 == 0);
            let (without, with) = kinds.split_at_mut(middle);
            let next = [self.grow(without, depth + 1), self.grow(with, depth + 1)];
            self.nodes[place] = Node::Split { feature: feature as u8, next };
        } else {
            for &kind in kinds.iter() {
                self.residuals[kind] -= self.config.rate * sum / weight * self.rows[kind].weight;
            }
        }
        place as u16
    }

    /// The feature that divides the node with the largest decrease of squared error, none if all rows are of one kind.
    fn best_split(&mut self, kinds: &[usize], weight: f64, sum: f64) -> Option<usize> {
        if kinds.len() < 2 {
            return None;
        }
        self.with.fill((0.0, 0.0));
        for &kind in kinds {
            let mut bits = self.rows[kind].features;
            while bits != 0 {
                let (weight, sum) = &mut self.with[bits.trailing_zeros() as usize];
                *weight += self.rows[kind].weight;
                *sum += self.residuals[kind];
                bits &= bits - 1;
            }
        }
        let mut best = None;
        let mut largest = f64::NEG_INFINITY;
        for (feature, (weight_with, sum_with)) in self.with.iter().copied().enumerate() {
            let weight_without = weight - weight_with;
            // Weights are whole numbers, or sums of such, so these are exact.
            if weight_with <= 0.0 || weight_without <= 0.0 {
                continue;
            }
            let difference = sum_with / weight_with - (sum - sum_with) / weight_without;
            let decrease = weight_with * weight_without * difference * difference;
            if decrease > largest {
                (best, largest) = (Some(feature), decrease);
            }
        }
        best
    }
}

/// Brings the items that fulfil the condition to the front and returns how many there are.
fn divide(items: &mut [usize], fulfils: impl Fn(usize) -> bool) -> usize {
    let mut count = 0;
    for index in 0..items.len() {
        if fulfils(items[index]) {
            items.swap(index, count);
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(targets: &[(u64, f64)]) -> Vec<Rows> {
        let row = |&(features, target): &(u64, f64)| Rows {
            features,
            weight: 1.0,
            sum: target,
            sum_of_squares: target * target,
        };
        targets.iter().map(row).collect()
    }

    #[test]
    fn one_full_tree_repeats_what_it_has_seen() {
        let rows = rows(&[(0b00, 1.0), (0b01, 2.0), (0b10, 4.0), (0b11, -3.0)]);
        let config = BoostingConfig { trees: 1, depth: 2, min_split: 2, rate: 1.0 };
        let model = Boosting::fit(&rows, 2, &config);
        for kind in &rows {
            assert!((model.predict(kind.features) - kind.sum).abs() < 1e-12);
        }
    }

    #[test]
    fn a_weight_is_as_many_rows() {
        let single = rows(&[(0b0, 1.0), (0b0, 2.0), (0b1, 5.0), (0b1, 6.0), (0b1, 10.0)]);
        let joined = [
            Rows { features: 0, weight: 2.0, sum: 3.0, sum_of_squares: 5.0 },
            Rows { features: 1, weight: 3.0, sum: 21.0, sum_of_squares: 161.0 },
        ];
        let config = BoostingConfig { trees: 20, ..BoostingConfig::default() };
        let (one, other) = (Boosting::fit(&single, 1, &config), Boosting::fit(&joined, 1, &config));
        for features in [0, 1] {
            assert!((one.predict(features) - other.predict(features)).abs() < 1e-12);
        }
    }

    #[test]
    fn turned_features_are_predicted_as_rows_that_have_them() {
        let rows: Vec<Rows> = (0..32u64)
            .map(|features| {
                let target = (features * features % 13) as f64;
                Rows { features, weight: 1.0, sum: target, sum_of_squares: target * target }
            })
            .collect();
        let model = Boosting::fit(&rows, 5, &BoostingConfig { depth: 4, ..BoostingConfig::default() });
        let predictions = model.predictions(&rows, 5);
        for (kind, row) in rows.iter().enumerate() {
            assert!((predictions.plain(kind) - model.predict(row.features)).abs() < 1e-12);
            for feature in 0..5 {
                let expected = model.predict(row.features ^ 1 << feature);
                assert!((predictions.turned(kind, feature) - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn small_nodes_are_not_split() {
        let rows = rows(&[(0b0, 0.0), (0b0, 0.0), (0b1, 3.0)]);
        let fit = |min_split| Boosting::fit(&rows, 1, &BoostingConfig { trees: 1, depth: 3, min_split, rate: 1.0 });
        assert_eq!(fit(4).predict(1), 1.0);
        assert_eq!(fit(3).predict(1), 3.0);
    }
}
