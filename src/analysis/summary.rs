//! The numbers that describe a matrix as a whole.

use serde::Serialize;

use super::read::pairs;
use crate::similarity::Matrix;

/// Over all pairs of different networks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// How many networks there are.
    pub networks: usize,
    /// How many pairs.
    pub pairs: usize,
    /// The mean score.
    pub mean: f64,
    /// The standard deviation of the scores (of the pairs that there are, so divided by their number).
    pub standard_deviation: f64,
    /// The score in the middle.
    pub median: f64,
    /// The pair that is most alike.
    pub most_alike: ScoredPair,
    /// The pair that is least alike.
    pub least_alike: ScoredPair,
    /// The mean score on the diagonal: each network with itself.
    pub mean_diagonal: f64,
}

/// A pair with its score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoredPair {
    /// The first network.
    pub a: String,
    /// The second network.
    pub b: String,
    /// The score.
    pub score: f64,
}

/// The mean score of pairs of different networks between two groups, or within one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupMean {
    /// A group.
    pub a: String,
    /// Another, or the same.
    pub b: String,
    /// Pairs.
    pub pairs: usize,
    /// Their mean score.
    pub mean: f64,
}

/// Describes a complete matrix of at least two networks.
pub fn summary(matrix: &Matrix) -> Summary {
    let size = matrix.names.len();
    let mut scored: Vec<(f64, usize, usize)> =
        pairs(size).map(|(row, column)| (matrix.get(row, column), row, column)).collect();
    let count = scored.len() as f64;
    let mean = scored.iter().map(|pair| pair.0).sum::<f64>() / count;
    let variance = scored.iter().map(|pair| (pair.0 - mean).powi(2)).sum::<f64>() / count;
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let middle = scored.len() / 2;
    let median = if scored.len() % 2 == 1 { scored[middle].0 } else { 0.5 * (scored[middle - 1].0 + scored[middle].0) };
    let named = |&(score, row, column): &(f64, usize, usize)| ScoredPair {
        a: matrix.names[row].clone(),
        b: matrix.names[column].clone(),
        score,
    };
    Summary {
        networks: size,
        pairs: scored.len(),
        mean,
        standard_deviation: variance.sqrt(),
        median,
        most_alike: named(&scored[scored.len() - 1]),
        least_alike: named(&scored[0]),
        mean_diagonal: (0..size).map(|index| matrix.get(index, index)).sum::<f64>() / size as f64,
    }
}

/// The mean over pairs of different networks for every two groups that have one, in the order in which groups first come;
/// `groups` has one for each network. Pairs without a score do not count.
pub fn group_means(matrix: &Matrix, groups: &[String]) -> Vec<GroupMean> {
    let mut names: Vec<&String> = Vec::new();
    for group in groups {
        if !names.contains(&group) {
            names.push(group);
        }
    }
    let mut sums = vec![(0, 0.0); names.len() * names.len()];
    let places: Vec<usize> = groups.iter().filter_map(|group| names.iter().position(|name| *name == group)).collect();
    for (row, column) in pairs(groups.len()) {
        let score = matrix.get(row, column);
        if !score.is_nan() {
            let (low, high) = (places[row].min(places[column]), places[row].max(places[column]));
            let sum = &mut sums[low * names.len() + high];
            *sum = (sum.0 + 1, sum.1 + score);
        }
    }
    let all = (0..names.len()).flat_map(|a| (a..names.len()).map(move |b| (a, b)));
    all.map(|(a, b)| (a, b, sums[a * names.len() + b]))
        .filter(|(_, _, (pairs, _))| *pairs > 0)
        .map(|(a, b, (pairs, sum))| GroupMean {
            a: names[a].clone(),
            b: names[b].clone(),
            pairs,
            mean: sum / pairs as f64,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::published;

    #[track_caller]
    fn near(value: f64, expected: f64, decimals: i32) {
        assert!((value - expected).abs() <= 0.5000001 * 10f64.powi(-decimals), "{value} is not {expected}");
    }

    /// As NumPy gives them for the published matrix.
    #[test]
    fn the_published_matrix() {
        let summary = summary(&published::matrix());
        assert_eq!((summary.networks, summary.pairs), (69, 2346));
        near(summary.mean, 2.664887, 6);
        near(summary.standard_deviation, 0.327520, 6);
        near(summary.median, 2.657683, 6);
        near(summary.most_alike.score, 4.140911, 6);
        near(summary.least_alike.score, 1.827594, 6);
        let names = |pair: &ScoredPair| {
            let mut names = [pair.a.clone(), pair.b.clone()];
            names.sort();
            names.join(" – ")
        };
        assert_eq!(names(&summary.most_alike), "swin_s3_tiny_224 – swin_tiny_patch4_window7_224");
        assert_eq!(names(&summary.least_alike), "vit_base_patch32_224 – wide_resnet50_2");
    }

    #[test]
    fn the_published_base_architectures() {
        let matrix = published::matrix();
        let bases = published::components().select(&matrix.names).unwrap().column("Base architecture").unwrap();
        let means = group_means(&matrix, &bases);
        let mean = |a: &str, b: &str| {
            let found = means.iter().find(|mean| [(a, b), (b, a)].contains(&(mean.a.as_str(), mean.b.as_str())));
            found.map(|mean| mean.mean).unwrap()
        };
        near(mean("CNN", "CNN"), 2.883, 3);
        near(mean("Transformer", "Transformer"), 2.882, 3);
        near(mean("CNN", "Transformer"), 2.341, 3);
        assert_eq!(means.iter().map(|mean| mean.pairs).sum::<usize>(), 2346);
    }
}
