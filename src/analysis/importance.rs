//! Which components make networks differ.
//!
//! As in Hwang et al. (arXiv 2210.11407): for each pair of networks, whether they have the same value of each component; gradient
//! boosting predicts the pair's score from these mismatches; and a component is as important as the prediction gets worse
//! when its mismatches are permuted among the pairs (Breiman 2001), measured in R². The mean over all permutations is known
//! without drawing any: a permuted mismatch is true with the share of pairs in which it is.
//!
//! Pairs that share a network are alike, so how well unseen pairs are predicted is told twice: for pairs left out at random,
//! as the paper does, and for networks left out with all their pairs. The intervals are about networks, too: ± 1.96 standard errors
//! of the delete-d jackknife (Shao & Wu 1989), which holds for statistics that jump, as those of trees do.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use super::boosting::{Boosting, BoostingConfig, Predictions, Rows};
use super::components::NetworkComponents;
use super::read::pairs;
use super::stability::halves;
use super::uncertainty::{HALF_INTERVAL, WithInterval};
use crate::random::Random;
use crate::similarity::Matrix;
use crate::similarity::sat::SatRun;

/// How importances are found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportanceConfig {
    /// The regression.
    pub boosting: BoostingConfig,
    /// Parts of which each is left out once; at least 2.
    pub folds: usize,
    /// How often pairs, or networks, are divided into folds anew; at least 1.
    pub repetitions: usize,
    /// Subsets of the jackknife that gives intervals; at least 2.
    pub subsets: usize,
    /// Decides who is in which fold.
    pub seed: u64,
}

impl Default for ImportanceConfig {
    fn default() -> Self {
        Self { boosting: BoostingConfig::default(), folds: 5, repetitions: 5, subsets: 100, seed: 0 }
    }
}

/// Why importances cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportanceError {
    /// Too few networks for the folds.
    #[error(
        "{networks} networks are too few for {folds} folds; at least {needed} are needed, so that some are left when a fold is taken away"
    )]
    TooFew {
        /// How many there are.
        networks: usize,
        /// Folds.
        folds: usize,
        /// How many are needed.
        needed: usize,
    },
    /// A mismatch is a bit of a word.
    #[error("{0} components are too many; give a table of at most 64 columns")]
    TooManyComponents(usize),
    /// Nothing to explain.
    #[error(
        "all scores of different networks are {0}, so there is nothing that components could explain; check where the matrix comes from"
    )]
    Constant(String),
}

/// What components explain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Importances {
    /// Pairs of networks.
    pub pairs: usize,
    /// Different rows of mismatches among them.
    pub kinds: usize,
    /// R² on the pairs that the regression has seen.
    pub r2_fitted: f64,
    /// R² on pairs left out at random, the mean of the repetitions.
    pub r2_pairs_left_out: f64,
    /// The same of each repetition.
    pub r2_of_repetitions: Vec<f64>,
    /// R² on the pairs of networks left out, the mean of the repetitions; may be negative.
    pub r2_networks_left_out: f64,
    /// The components, the most important first.
    pub components: Vec<Importance>,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Importance {
    /// Its name.
    pub component: String,
    /// By how much R² falls when it is permuted.
    pub importance: f64,
    /// The 95 % interval over networks.
    pub interval: [f64; 2],
    /// The middle 95 % over random halves of a run's images; none until [`Importances::over_images`] adds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_images: Option<[f64; 2]>,
    /// The share of pairs that differ in it.
    pub differ: f64,
    /// The mean predicted score if all pairs had the same value (partial dependence, Friedman 2001).
    pub score_if_same: f64,
    /// And if all pairs differed.
    pub score_if_different: f64,
}

/// One of so many networks is left out of each subset of the jackknife.
const DELETED: usize = 4;

/// A pair of networks: their positions, mismatches as bits, and score.
struct PairRow {
    networks: [usize; 2],
    mismatches: u64,
    score: f64,
}

/// Explains the scores of a complete matrix by its networks' components.
///
/// # Errors
/// [`ImportanceError`].
pub fn importance(
    matrix: &Matrix,
    components: &NetworkComponents,
    config: &ImportanceConfig,
) -> Result<Importances, ImportanceError> {
    let networks = matrix.names.len();
    let columns = components.columns.len();
    // Two networks at least must be left when one fold of them is taken away, and more pairs than folds.
    let needed = config.folds.max(3);
    if networks < needed {
        return Err(ImportanceError::TooFew { networks, folds: config.folds, needed });
    }
    if columns > u64::BITS as usize {
        return Err(ImportanceError::TooManyComponents(columns));
    }
    let rows = rows(matrix, components);
    if rows.iter().all(|row| row.score == rows[0].score) {
        return Err(ImportanceError::Constant(rows[0].score.to_string()));
    }
    let kinds = joined(rows.iter());
    let fitted = Fitted::new(&kinds, columns, config);
    let values = fitted.permuted();
    let intervals = intervals(&rows, networks, columns, config, &values);

    let repetitions: Vec<u64> = (0..config.repetitions as u64).collect();
    let by_pairs: Vec<f64> =
        repetitions.par_iter().map(|&repetition| pairs_left_out(&rows, columns, config, repetition)).collect();
    let by_networks: Vec<f64> = repetitions
        .par_iter()
        .map(|&repetition| networks_left_out(&rows, networks, columns, config, repetition))
        .collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let mut found: Vec<Importance> = (0..columns)
        .map(|column| Importance {
            component: components.columns[column].clone(),
            importance: values[column],
            interval: intervals[column],
            over_images: None,
            differ: share(&kinds, column),
            score_if_same: fitted.mean_prediction(column, false),
            score_if_different: fitted.mean_prediction(column, true),
        })
        .collect();
    found.sort_by(|a, b| b.importance.total_cmp(&a.importance));
    Ok(Importances {
        pairs: rows.len(),
        kinds: kinds.len(),
        r2_fitted: 1.0 - fitted.squared_error() / spread(&kinds),
        r2_pairs_left_out: mean(&by_pairs),
        r2_of_repetitions: by_pairs,
        r2_networks_left_out: mean(&by_networks),
        components: found,
    })
}

impl Importances {
    /// Adds to each component where its importance lies on so many random halves of the images of the run from which the
    /// matrix comes. `run` and `components` are of the matrix's networks in its order.
    pub fn over_images(
        &mut self,
        run: &SatRun,
        components: &NetworkComponents,
        config: &ImportanceConfig,
        count: usize,
    ) {
        let replicates: Vec<Vec<f64>> = halves(run, count, config.seed)
            .par_iter()
            .map(|[half, _]| rows(&run.matrix_on(half), components))
            // Where a half has no score for a pair, it says nothing.
            .filter(|rows| rows.iter().all(|row| !row.score.is_nan()))
            .map(|rows| Fitted::new(&joined(rows.iter()), components.columns.len(), config).permuted())
            .collect();
        for found in &mut self.components {
            let column = components.columns.iter().position(|column| *column == found.component);
            let column = column.expect("the importances are of these components");
            let replicates = replicates.iter().map(|values| values[column]).collect();
            found.over_images = WithInterval::of(found.importance, replicates).map(|with| with.interval);
        }
    }
}

fn rows(matrix: &Matrix, components: &NetworkComponents) -> Vec<PairRow> {
    let row = |(a, b)| PairRow {
        networks: [a, b],
        mismatches: mismatches(&components.rows[a], &components.rows[b]),
        score: matrix.get(a, b),
    };
    pairs(matrix.names.len()).map(row).collect()
}

/// Bit i says whether the values of component i differ.
fn mismatches(a: &[String], b: &[String]) -> u64 {
    a.iter().zip(b).enumerate().fold(0, |bits, (index, (a, b))| bits | u64::from(a != b) << index)
}

/// Pairs with equal mismatches as one.
fn joined<'a>(rows: impl Iterator<Item = &'a PairRow>) -> Vec<Rows> {
    let mut kinds: BTreeMap<u64, Rows> = BTreeMap::new();
    for row in rows {
        let empty = Rows { features: row.mismatches, weight: 0.0, sum: 0.0, sum_of_squares: 0.0 };
        let kind = kinds.entry(row.mismatches).or_insert(empty);
        kind.weight += 1.0;
        kind.sum += row.score;
        kind.sum_of_squares += row.score * row.score;
    }
    kinds.into_values().collect()
}

/// Σ (score − prediction)², with the prediction of each kind by its place.
fn squared_error(kinds: &[Rows], predict: impl Fn(usize) -> f64) -> f64 {
    let of = |(place, kind): (usize, &Rows)| {
        let prediction = predict(place);
        kind.sum_of_squares - 2.0 * prediction * kind.sum + prediction * prediction * kind.weight
    };
    kinds.iter().enumerate().map(of).sum()
}

/// Σ (score − mean score)².
fn spread(kinds: &[Rows]) -> f64 {
    let mean = kinds.iter().map(|kind| kind.sum).sum::<f64>() / weight(kinds);
    squared_error(kinds, |_| mean)
}

fn weight(kinds: &[Rows]) -> f64 {
    kinds.iter().map(|kind| kind.weight).sum()
}

fn differs(kind: &Rows, column: usize) -> bool {
    kind.features >> column & 1 == 1
}

/// The share of the pairs that differ in a column.
fn share(kinds: &[Rows], column: usize) -> f64 {
    kinds.iter().filter(|kind| differs(kind, column)).map(|kind| kind.weight).sum::<f64>() / weight(kinds)
}

/// A model beside the pairs that it has seen.
struct Fitted<'a> {
    kinds: &'a [Rows],
    columns: usize,
    predictions: Predictions,
}

impl<'a> Fitted<'a> {
    fn new(kinds: &'a [Rows], columns: usize, config: &ImportanceConfig) -> Self {
        let predictions = Boosting::fit(kinds, columns, &config.boosting).predictions(kinds, columns);
        Self { kinds, columns, predictions }
    }

    /// What is predicted for a kind of pairs if it differs in the column, or does not.
    fn predict(&self, place: usize, column: usize, differing: bool) -> f64 {
        if differs(&self.kinds[place], column) == differing {
            self.predictions.plain(place)
        } else {
            self.predictions.turned(place, column)
        }
    }

    fn squared_error(&self) -> f64 {
        squared_error(self.kinds, |place| self.predictions.plain(place))
    }

    /// Column → by how much R² falls, in the mean over all permutations of that column's mismatches.
    fn permuted(&self) -> Vec<f64> {
        let (spread, error) = (spread(self.kinds), self.squared_error());
        (0..self.columns)
            .map(|column| {
                let share = share(self.kinds, column);
                let with = |differing| squared_error(self.kinds, |place| self.predict(place, column, differing));
                (share * with(true) + (1.0 - share) * with(false) - error) / spread
            })
            .collect()
    }

    /// The mean prediction if all pairs differed in the column, or none did.
    fn mean_prediction(&self, column: usize, differing: bool) -> f64 {
        let kinds = self.kinds.iter().enumerate();
        let sum: f64 = kinds.map(|(place, kind)| kind.weight * self.predict(place, column, differing)).sum();
        sum / weight(self.kinds)
    }
}

/// Column → its interval, by the delete-d jackknife.
fn intervals(
    rows: &[PairRow],
    networks: usize,
    columns: usize,
    config: &ImportanceConfig,
    values: &[f64],
) -> Vec<[f64; 2]> {
    let deleted = (networks / DELETED).max(1);
    let subsets: Vec<Vec<f64>> = (0..config.subsets as u64)
        .into_par_iter()
        .map(|subset| {
            let mut left_out: Vec<bool> = (0..networks).map(|network| network < deleted).collect();
            Random::of(&[config.seed, subset, 2]).shuffle(&mut left_out);
            let kinds = joined(rows.iter().filter(|row| row.networks.iter().all(|&network| !left_out[network])));
            Fitted::new(&kinds, columns, config).permuted()
        })
        .collect();
    let factor = (networks - deleted) as f64 / deleted as f64 / config.subsets as f64;
    (0..columns)
        .map(|column| {
            let mean = subsets.iter().map(|values| values[column]).sum::<f64>() / config.subsets as f64;
            let sum: f64 = subsets.iter().map(|values| (values[column] - mean).powi(2)).sum();
            let half = HALF_INTERVAL * (factor * sum).sqrt();
            [values[column] - half, values[column] + half]
        })
        .collect()
}

/// For each of `count` items its fold, as even as can be.
fn folds(count: usize, folds: usize, seed: &[u64]) -> Vec<usize> {
    let mut assigned: Vec<usize> = (0..count).map(|item| item % folds).collect();
    Random::of(seed).shuffle(&mut assigned);
    assigned
}

fn pairs_left_out(rows: &[PairRow], columns: usize, config: &ImportanceConfig, repetition: u64) -> f64 {
    let fold = folds(rows.len(), config.folds, &[config.seed, repetition, 0]);
    let of = |wanted: usize, left_out: bool| {
        joined(rows.iter().zip(&fold).filter(move |(_, fold)| (**fold == wanted) == left_out).map(|(row, _)| row))
    };
    left_out_score(config, columns, of)
}

fn networks_left_out(
    rows: &[PairRow],
    networks: usize,
    columns: usize,
    config: &ImportanceConfig,
    repetition: u64,
) -> f64 {
    let fold = folds(networks, config.folds, &[config.seed, repetition, 1]);
    let of = |wanted: usize, left_out: bool| {
        joined(rows.iter().filter(|row| row.networks.iter().any(|&network| fold[network] == wanted) == left_out))
    };
    left_out_score(config, columns, of)
}

/// R² over all that is left out in turn; `of(fold, whether left out)` gives the rows.
fn left_out_score(config: &ImportanceConfig, columns: usize, of: impl Fn(usize, bool) -> Vec<Rows>) -> f64 {
    let (mut error, mut all) = (0.0, Vec::new());
    for fold in 0..config.folds {
        let (seen, unseen) = (of(fold, false), of(fold, true));
        if !seen.is_empty() {
            let model = Boosting::fit(&seen, columns, &config.boosting);
            error += squared_error(&unseen, |place| model.predict(unseen[place].features));
            all.extend(unseen);
        }
    }
    1.0 - error / spread(&all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::published;

    fn published_importances(boosting: BoostingConfig, subsets: usize) -> Importances {
        let matrix = published::matrix();
        let components = published::components().select(&matrix.names).unwrap();
        let config = ImportanceConfig { boosting, repetitions: 3, subsets, ..ImportanceConfig::default() };
        importance(&matrix, &components, &config).unwrap()
    }

    fn reference(setting: &str) -> serde_json::Value {
        let all: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/analysis/published.json")).unwrap();
        all["importance"][setting].clone()
    }

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    }

    /// Spearman's correlation of values without ties.
    fn rank_correlation(one: &[f64], other: &[f64]) -> f64 {
        let ranks = |values: &[f64]| -> Vec<f64> {
            values.iter().map(|value| values.iter().filter(|other| *other < value).count() as f64).collect()
        };
        let squares: f64 = ranks(one).iter().zip(ranks(other)).map(|(a, b)| (a - b).powi(2)).sum();
        let n = one.len() as f64;
        1.0 - 6.0 * squares / (n * (n * n - 1.0))
    }

    /// Ties between features are broken by chance in scikit-learn, so the deep trees of the paper agree less closely.
    #[test]
    fn beside_scikit_learn() {
        for (setting, boosting, bound) in
            [("default", BoostingConfig::default(), 0.005), ("paper", BoostingConfig::PAPER, 0.05)]
        {
            let (ours, theirs) = (published_importances(boosting, 2), reference(setting));
            let columns = published::components().columns;
            let values: Vec<f64> = columns
                .iter()
                .map(|column| ours.components.iter().find(|found| found.component == *column).unwrap().importance)
                .collect();
            let expected = numbers(&theirs["permutation"]);
            let correlation = rank_correlation(&values, &expected);
            assert!(correlation >= 0.9, "{setting}: the rank correlation is {correlation}");
            for ((value, expected), column) in values.iter().zip(&expected).zip(&columns) {
                assert!((value - expected).abs() < bound, "{setting}: {column} is {value}, not {expected}");
            }
            assert!((ours.r2_fitted - theirs["fitted"].as_f64().unwrap()).abs() < 1e-9, "{}", ours.r2_fitted);
            let folds = numbers(&theirs["out_of_fold"]);
            let expected = folds.iter().sum::<f64>() / folds.len() as f64;
            assert!((ours.r2_pairs_left_out - expected).abs() < 0.015, "{} beside {expected}", ours.r2_pairs_left_out);
            assert!(ours.r2_pairs_left_out >= 0.63, "{}", ours.r2_pairs_left_out);
            assert_eq!(ours.components[0].component, "Base architecture");
            assert_eq!(ours.components[1].component, "Stem layer");
            for (column, expected) in columns.iter().zip(theirs["partial_dependence"].as_array().unwrap()) {
                let found = ours.components.iter().find(|found| found.component == *column).unwrap();
                let expected = numbers(expected);
                assert!((found.score_if_same - expected[0]).abs() < 0.02, "{setting}: {column}");
                assert!((found.score_if_different - expected[1]).abs() < 0.02, "{setting}: {column}");
            }
        }
    }

    #[test]
    fn intervals_hold_the_value_and_unseen_networks_are_harder() {
        let found = published_importances(BoostingConfig::default(), 100);
        for component in &found.components {
            let [low, high] = component.interval;
            assert!(low < component.importance && component.importance < high);
        }
        assert!(found.components[0].interval[0] > 0.0, "base architecture matters: {:?}", found.components[0]);
        assert!(found.r2_networks_left_out < found.r2_pairs_left_out);
        assert_eq!((found.pairs, found.kinds), (2346, 539));
    }

    #[test]
    fn what_decides_is_found_and_what_does_not_is_not() {
        let names: Vec<String> = (0..24).map(|index| format!("n{index}")).collect();
        let rows =
            (0..24).map(|index| vec![(index % 2).to_string(), (index / 2 % 3).to_string(), "x".into()]).collect();
        let components = NetworkComponents { columns: vec!["a".into(), "b".into(), "c".into()], rows };
        let noise = |row: usize, column: usize| ((row.min(column) * 7 + row.max(column) * 13) % 11) as f64 * 0.01;
        let matrix =
            Matrix::new(names, |row, column| 4.0 - if row % 2 == column % 2 { 0.0 } else { 1.0 } + noise(row, column));
        let found = importance(&matrix, &components, &ImportanceConfig::default()).unwrap();
        assert_eq!(found.components[0].component, "a");
        assert!(found.components[0].importance > 1.5 && found.components[1].importance < 0.05);
        assert!((found.components[0].score_if_same - found.components[0].score_if_different - 1.0).abs() < 0.05);
        let constant = found.components.iter().find(|component| component.component == "c").unwrap();
        assert_eq!((constant.importance, constant.differ), (0.0, 0.0));
    }

    #[test]
    fn what_cannot_be_explained_is_refused() {
        let names = |count: usize| (0..count).map(|index| format!("n{index}")).collect::<Vec<_>>();
        let components = |count: usize, columns: usize| NetworkComponents {
            columns: names(columns),
            rows: vec![vec!["x".into(); columns]; count],
        };
        let config = ImportanceConfig::default();
        let matrix = Matrix::new(names(4), |row, column| (row + column) as f64);
        assert!(matches!(importance(&matrix, &components(4, 1), &config), Err(ImportanceError::TooFew { .. })));
        let constant = Matrix::new(names(6), |_, _| 2.0);
        assert!(matches!(importance(&constant, &components(6, 1), &config), Err(ImportanceError::Constant(_))));
        let matrix = Matrix::new(names(6), |row, column| (row + column) as f64);
        assert!(matches!(
            importance(&matrix, &components(6, 65), &config),
            Err(ImportanceError::TooManyComponents(65))
        ));
    }
}
