//! Whether two matrices of the same networks say the same.

use rayon::prelude::*;
use serde::Serialize;

use super::read::pairs;
use crate::random::Random;
use crate::similarity::Matrix;

/// How two matrices correlate over the pairs of networks that both have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The networks that both have, in the order of the first.
    pub networks: Vec<String>,
    /// Networks that only one of them has.
    pub left_out: Vec<String>,
    /// Pearson's r of the scores.
    pub pearson: Correlation,
    /// Spearman's ρ: the same of their ranks.
    pub spearman: Correlation,
    /// Kendall's τ-b: of two pairs of networks, how much more often both matrices order them alike than not.
    pub kendall: Correlation,
}

/// A correlation with its chance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Correlation {
    /// −1 to 1; not a number where all scores of a matrix are the same.
    pub correlation: f64,
    /// How likely a correlation as far from 0 is if the second matrix had its networks in an order by chance (Mantel 1967).
    pub p_value: f64,
}

/// Why two matrices cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// Too few networks in common.
    #[error(
        "the two matrices have {common} network(s) in common, and a comparison needs at least 3; the first begins with {first}, the second with {second}"
    )]
    TooFew {
        /// How many both have.
        common: usize,
        /// The first name of the first.
        first: String,
        /// The first name of the second.
        second: String,
    },
    /// A matrix says nothing.
    #[error("all scores of the {which} matrix are the same, so nothing correlates with them")]
    Constant {
        /// "first" or "second".
        which: &'static str,
    },
}

/// Compares two complete, symmetric matrices.
///
/// # Errors
/// [`CompareError`].
pub fn compare(one: &Matrix, other: &Matrix, permutations: usize, seed: u64) -> Result<Comparison, CompareError> {
    let (mut networks, mut places, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for (place, name) in one.names.iter().enumerate() {
        match other.names.iter().position(|other| other == name) {
            Some(there) => {
                networks.push(name.clone());
                places.push((place, there));
            }
            None => left_out.push(name.clone()),
        }
    }
    left_out.extend(other.names.iter().filter(|name| !one.names.contains(name)).cloned());
    let count = networks.len();
    if count < 3 {
        let [first, second] = [one, other].map(|matrix| matrix.names[0].clone());
        return Err(CompareError::TooFew { common: count, first, second });
    }
    let ours: Vec<f64> = pairs(count).map(|(a, b)| one.get(places[a].0, places[b].0)).collect();
    let theirs = |order: &[usize]| -> Vec<f64> {
        pairs(count).map(|(a, b)| other.get(places[order[a]].1, places[order[b]].1)).collect()
    };
    let as_it_is: Vec<usize> = (0..count).collect();
    for (which, scores) in [("first", &ours), ("second", &theirs(&as_it_is))] {
        if scores.iter().all(|score| *score == scores[0]) {
            return Err(CompareError::Constant { which });
        }
    }
    let our_ranks = ranks(&ours);
    let all = |order: &[usize]| {
        let scores = theirs(order);
        [pearson(&ours, &scores), pearson(&our_ranks, &ranks(&scores)), kendall(&ours, &scores)]
    };
    let observed = all(&as_it_is);
    let by_chance: Vec<[f64; 3]> = (0..permutations as u64)
        .into_par_iter()
        .map(|permutation| {
            let mut order = as_it_is.clone();
            Random::of(&[seed, permutation]).shuffle(&mut order);
            all(&order)
        })
        .collect();
    let correlation = |kind: usize| {
        // Rounding must not tell equal correlations apart.
        let as_far = by_chance.iter().filter(|chance| chance[kind].abs() >= observed[kind].abs() - 1e-12).count();
        Correlation { correlation: observed[kind], p_value: (1 + as_far) as f64 / (1 + permutations) as f64 }
    };
    let [pearson, spearman, kendall] = [0, 1, 2].map(correlation);
    Ok(Comparison { networks, left_out, pearson, spearman, kendall })
}

/// Pearson's correlation of two series of one length.
pub fn pearson(one: &[f64], other: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_one, mean_other) = (mean(one), mean(other));
    let (mut both, mut squares_one, mut squares_other) = (0.0, 0.0, 0.0);
    for (a, b) in one.iter().zip(other) {
        let (a, b) = (a - mean_one, b - mean_other);
        both += a * b;
        squares_one += a * a;
        squares_other += b * b;
    }
    both / (squares_one * squares_other).sqrt()
}

/// The rank of each value, from 1; equal values share the mean of their ranks.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for same in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = first as f64 + 0.5 * (same.len() as f64 + 1.0);
        for &place in same {
            ranks[place] = rank;
        }
        first += same.len();
    }
    ranks
}

/// Kendall's τ-b of two series of one length, by Knight's method (1966): pairs that are ordered otherwise are the exchanges of a merge sort.
pub fn kendall(one: &[f64], other: &[f64]) -> f64 {
    let choose_two = |count: usize| (count * count.saturating_sub(1) / 2) as f64;
    let mut order: Vec<usize> = (0..one.len()).collect();
    order.sort_by(|&a, &b| one[a].total_cmp(&one[b]).then(other[a].total_cmp(&other[b])));
    let tied_one: f64 = order.chunk_by(|&a, &b| one[a] == one[b]).map(|same| choose_two(same.len())).sum();
    let tied_both: f64 =
        order.chunk_by(|&a, &b| one[a] == one[b] && other[a] == other[b]).map(|same| choose_two(same.len())).sum();
    let mut sequence: Vec<f64> = order.into_iter().map(|place| other[place]).collect();
    let mut room = sequence.clone();
    let exchanges = sort(&mut sequence, &mut room);
    let tied_other: f64 = sequence.chunk_by(|a, b| a == b).map(|same| choose_two(same.len())).sum();
    let all = choose_two(one.len());
    (all - tied_one - tied_other + tied_both - 2.0 * exchanges as f64) / ((all - tied_one) * (all - tied_other)).sqrt()
}

/// Sorts, and counts the pairs that stood the other way round.
fn sort(values: &mut [f64], room: &mut [f64]) -> u64 {
    if values.len() < 2 {
        return 0;
    }
    let middle = values.len() / 2;
    let (left, right) = values.split_at_mut(middle);
    let (left_room, right_room) = room.split_at_mut(middle);
    let mut exchanges = sort(left, left_room) + sort(right, right_room);
    let (mut a, mut b) = (0, 0);
    for place in room.iter_mut() {
        if b == right.len() || a < left.len() && left[a] <= right[b] {
            *place = left[a];
            a += 1;
        } else {
            *place = right[b];
            b += 1;
            exchanges += (left.len() - a) as u64;
        }
    }
    values.copy_from_slice(room);
    exchanges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::published;

    /// SciPy's values for the published scores and how many components two networks share; scripts/analysis_reference.py.
    #[test]
    fn beside_scipy() {
        let reference: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/analysis/published.json")).unwrap();
        let matrix = published::matrix();
        let rows = published::components().select(&matrix.names).unwrap().rows;
        let shared = Matrix::new(matrix.names.clone(), |a, b| {
            rows[a].iter().zip(&rows[b]).filter(|(a, b)| a == b).count() as f64 / 13.0
        });
        let found = compare(&matrix, &shared, 99, 0).unwrap();
        for (name, ours) in [("pearson", found.pearson), ("spearman", found.spearman), ("kendall", found.kendall)] {
            let theirs = reference["correlation"][name].as_f64().unwrap();
            assert!((ours.correlation - theirs).abs() < 1e-9, "{name}: {} beside {theirs}", ours.correlation);
            assert_eq!(ours.p_value, 0.01, "{name}");
        }
    }

    #[test]
    fn networks_are_matched_by_name() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let one = Matrix::new(names(&["a", "b", "c", "d"]), |row, column| (row * column + row + column) as f64);
        let places = [2, 0, 1];
        let other =
            Matrix::new(names(&["c", "a", "b"]), |row, column| 2.0 * one.get(places[row], places[column]) + 1.0);
        let found = compare(&one, &other, 10, 0).unwrap();
        assert_eq!((found.networks.join(""), found.left_out.join("")), ("abc".into(), "d".into()));
        assert!((found.pearson.correlation - 1.0).abs() < 1e-12 && (found.kendall.correlation - 1.0).abs() < 1e-12);
        let strange = Matrix::new(names(&["x", "y", "z"]), |row, column| (row + column) as f64);
        assert!(matches!(compare(&one, &strange, 10, 0), Err(CompareError::TooFew { common: 0, .. })));
        let constant = Matrix::new(names(&["a", "b", "c"]), |_, _| 1.0);
        assert_eq!(compare(&one, &constant, 10, 0), Err(CompareError::Constant { which: "second" }));
    }

    #[test]
    fn ties_share_their_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }
}
