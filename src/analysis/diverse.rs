//! Networks that are little alike, as surrogates of transfer attacks: what fools all of them relies on what few networks share.
//!
//! Of all sets of the wanted size the one is best whose two most alike networks are the least alike (the max-min dispersion of
//! Kuby, *Programming Models for Facility Dispersion*, 1987); between equal sets the smaller mean decides, then the order of
//! the matrix. Few sets are all looked at. Of many, the set is built network by network, each the one that is least like its
//! most alike among those before (farthest first: Gonzalez, *Clustering to Minimize the Maximum Intercluster Distance*, 1985),
//! and then members are exchanged as long as that makes it better.

use super::ensembles::{possible, sets};
use crate::similarity::Matrix;

/// So many sets at most are all looked at.
const FEW: f64 = 100_000.0;

/// `count` of `candidates`, which with those of `fixed` are the least alike: positions in a symmetric matrix without gaps, of
/// which a higher score means more alike. In the order of the matrix.
///
/// # Panics
/// If there are fewer candidates.
pub fn least_alike(matrix: &Matrix, fixed: &[usize], candidates: &[usize], count: usize) -> Vec<usize> {
    assert!(candidates.len() >= count, "{count} of {} candidates", candidates.len());
    let mut chosen = match possible(candidates.len(), count) <= FEW {
        true => by_all_sets(matrix, fixed, candidates, count),
        false => by_exchange(matrix, fixed, candidates, count),
    };
    chosen.sort_unstable();
    chosen
}

/// How alike the members of a set are: the largest score of two of them, and the mean of all, both least where there are no two.
pub fn likeness(matrix: &Matrix, members: &[usize]) -> (f64, f64) {
    let pairs =
        members.iter().enumerate().flat_map(|(place, &one)| members[..place].iter().map(move |&other| (one, other)));
    let (mut largest, mut sum, mut count) = (f64::NEG_INFINITY, 0.0, 0);
    for (one, other) in pairs {
        let score = matrix.get(one, other);
        largest = largest.max(score);
        sum += score;
        count += 1;
    }
    (largest, if count == 0 { f64::NEG_INFINITY } else { sum / f64::from(count) })
}

fn is_less(one: (f64, f64), other: (f64, f64)) -> bool {
    one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)).is_lt()
}

fn with_fixed(fixed: &[usize], chosen: &[usize]) -> Vec<usize> {
    [fixed, chosen].concat()
}

fn by_all_sets(matrix: &Matrix, fixed: &[usize], candidates: &[usize], count: usize) -> Vec<usize> {
    let of_candidates = |set: Vec<usize>| -> Vec<usize> { set.into_iter().map(|place| candidates[place]).collect() };
    let mut best: Option<(Vec<usize>, (f64, f64))> = None;
    for set in sets(candidates.len(), count, FEW as usize, 0).into_iter().map(of_candidates) {
        let found = likeness(matrix, &with_fixed(fixed, &set));
        if best.as_ref().is_none_or(|(_, best)| is_less(found, *best)) {
            best = Some((set, found));
        }
    }
    best.map(|(set, _)| set).unwrap_or_default()
}

fn by_exchange(matrix: &Matrix, fixed: &[usize], candidates: &[usize], count: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    if fixed.is_empty() && count >= 2 {
        chosen = by_all_sets(matrix, fixed, candidates, 2);
    }
    while chosen.len() < count {
        let together = with_fixed(fixed, &chosen);
        // The largest score with one of those that are there.
        let most = |candidate: usize| {
            together.iter().map(|&member| matrix.get(candidate, member)).fold(f64::NEG_INFINITY, f64::max)
        };
        let others = candidates.iter().copied().filter(|candidate| !chosen.contains(candidate));
        let next = others.min_by(|&a, &b| most(a).total_cmp(&most(b))).expect("there are as many candidates");
        chosen.push(next);
    }
    let mut now = likeness(matrix, &with_fixed(fixed, &chosen));
    // Each exchange makes the set better, so that none comes twice.
    loop {
        let others: Vec<usize> = candidates.iter().copied().filter(|candidate| !chosen.contains(candidate)).collect();
        let exchanged = |(place, candidate): (usize, usize)| {
            let mut other = chosen.clone();
            other[place] = candidate;
            let found = likeness(matrix, &with_fixed(fixed, &other));
            is_less(found, now).then_some((other, found))
        };
        let mut exchanges = (0..count).flat_map(|place| others.iter().map(move |&candidate| (place, candidate)));
        match exchanges.find_map(exchanged) {
            Some(better) => (chosen, now) = better,
            None => return chosen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Points on a line, the more alike the nearer.
    fn line(points: &[f64]) -> Matrix {
        let names = (0..points.len()).map(|index| index.to_string()).collect();
        Matrix::new(names, |row, column| -(points[row] - points[column]).abs())
    }

    #[test]
    fn the_least_alike_are_far_apart() {
        let matrix = line(&[0.0, 1.0, 5.0, 9.0, 10.0]);
        let all = [0, 1, 2, 3, 4];
        assert_eq!(least_alike(&matrix, &[], &all, 2), [0, 4]);
        assert_eq!(least_alike(&matrix, &[], &all, 3), [0, 2, 4]);
        assert_eq!(least_alike(&matrix, &[], &all, 1), [0], "one is like no other");
        assert_eq!(least_alike(&matrix, &[], &all, 5), all);
        // Beside the second, which is there: {5, 10} and {5, 9} are both 4 apart at least, and the first is farther in the mean.
        assert_eq!(least_alike(&matrix, &[1], &[0, 2, 3, 4], 2), [2, 4]);
        assert_eq!(least_alike(&matrix, &[1], &[0, 2], 2), [0, 2]);
        assert_eq!(likeness(&matrix, &[0, 2, 4]), (-5.0, -20.0 / 3.0));
    }

    #[test]
    fn exchanges_come_near_the_best_of_all_sets() {
        for seed in 0..20 {
            let mut random = Random::of(&[seed]);
            let mut scores = vec![0.0; 144];
            for row in 0..12 {
                for column in 0..row {
                    let score = random.unit();
                    (scores[row * 12 + column], scores[column * 12 + row]) = (score, score);
                }
            }
            let matrix =
                Matrix::new((0..12).map(|index| index.to_string()).collect(), |row, column| scores[row * 12 + column]);
            let candidates: Vec<usize> = (1..12).collect();
            let best = likeness(&matrix, &with_fixed(&[0], &by_all_sets(&matrix, &[0], &candidates, 4))).0;
            let found = by_exchange(&matrix, &[0], &candidates, 4);
            let mut distinct = found.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!((distinct.len(), distinct.contains(&0)), (4, false));
            let found = likeness(&matrix, &with_fixed(&[0], &found)).0;
            assert!(best <= found && found < best + 0.25, "seed {seed}: {found} and at best {best}");
        }
    }

    /// There are a thousand million sets of seven among 69.
    #[test]
    fn of_many_networks_some_are_found_at_once() {
        let matrix = super::super::published::matrix();
        let all: Vec<usize> = (0..matrix.names.len()).collect();
        let chosen = least_alike(&matrix, &[], &all, 7);
        assert_eq!(chosen.len(), 7);
        let (largest, _) = likeness(&matrix, &chosen);
        // Two networks score 2.66 in the mean.
        assert!(largest < 2.66, "{largest}");
    }
}
