//! Maps: a place in the plane for every network, such that networks that are alike lie close.

use serde::Serialize;

use super::distance::Distances;
use super::eigen;
use super::read::pairs;

/// A map by classical multidimensional scaling (Torgerson 1952): the two leading eigenvectors of the doubly centred squared
/// distances. Far apart on it means unlike; what is close may still differ in what two dimensions do not show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scaling {
    /// The place of each network, in the unit of the distances.
    pub places: Vec<[f64; 2]>,
    /// The share of the distances' spread that the map shows, 0 to 1: the two eigenvalues over the sum of all positive ones.
    pub shown: f64,
}

/// Lays out at least two networks.
pub fn scaling(distances: &Distances) -> Scaling {
    let size = distances.size();
    let squared = |row, column| distances.get(row, column).powi(2);
    let means: Vec<f64> =
        (0..size).map(|row| (0..size).map(|column| squared(row, column)).sum::<f64>() / size as f64).collect();
    let mean = means.iter().sum::<f64>() / size as f64;
    let eigen =
        eigen::descending(size, |row, column| -0.5 * (squared(row, column) - means[row] - means[column] + mean));
    let positive: f64 = eigen.iter().map(|(value, _)| value.max(0.0)).sum();
    let scale = |index: usize| eigen[index].0.max(0.0).sqrt();
    Scaling {
        places: (0..size).map(|network| [0, 1].map(|index| eigen[index].1[network] * scale(index))).collect(),
        shown: if positive > 0.0 { (eigen[0].0.max(0.0) + eigen[1].0.max(0.0)) / positive } else { 1.0 },
    }
}

/// A map by t-SNE (van der Maaten & Hinton 2008), begun from classical scaling; who is whose neighbour is kept, distances are
/// not. `None` for fewer than 5 networks, which have too few neighbours, and where all are the same.
///
/// `perplexity` is about the number of neighbours that count; it is held to a third of the other networks.
pub fn tsne(distances: &Distances, perplexity: f64) -> Option<Vec<[f64; 2]>> {
    let size = distances.size();
    let nowhere = pairs(size).all(|(row, column)| distances.get(row, column) == 0.0);
    if size < 5 || nowhere {
        return None;
    }
    let perplexity = perplexity.clamp(1.0, (size - 1) as f64 / 3.0);
    let scaled = scaling(distances).places;
    let spread = (scaled.iter().map(|place| place[0] * place[0]).sum::<f64>() / size as f64).sqrt();
    // Small enough that the first steps decide by neighbours alone.
    let shrink = if spread > 0.0 { 1e-4 / spread } else { 0.0 };
    let start: Vec<f64> = scaled.iter().flatten().map(|coordinate| coordinate * shrink).collect();
    let networks: Vec<usize> = (0..size).collect();
    let fit = || {
        bhtsne::tSNE::<f64, usize, 2>::new(&networks)
            .perplexity(perplexity)
            .initial_embedding(start)
            .barnes_hut(0.2, |&row, &column| distances.get(row, column))
            .embedding()
    };
    // One thread adds up in one order, so that the same matrix gives the same map.
    let places = match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(one_thread) => one_thread.install(fit),
        Err(_) => fit(),
    };
    Some(places.chunks_exact(2).map(|place| [place[0], place[1]]).collect())
}

/// The perplexity for so many networks: a fifth of the others, at most 30.
pub fn default_perplexity(networks: usize) -> f64 {
    (networks.saturating_sub(1) as f64 / 5.0).clamp(1.0, 30.0)
}

/// How far the `neighbours` nearest of each network on a map are its nearest in truth, 0 to 1 (Venna & Kaski 2001).
pub fn trustworthiness(distances: &Distances, places: &[[f64; 2]], neighbours: usize) -> f64 {
    let size = places.len();
    let on_map =
        |row: usize, column: usize| places[row].iter().zip(places[column]).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let mut penalty = 0.0;
    for network in 0..size {
        let others = || (0..size).filter(|&other| other != network);
        let mut true_order: Vec<usize> = others().collect();
        true_order.sort_by(|&a, &b| distances.get(network, a).total_cmp(&distances.get(network, b)));
        let mut order: Vec<usize> = others().collect();
        order.sort_by(|&a, &b| on_map(network, a).total_cmp(&on_map(network, b)));
        for other in &order[..neighbours] {
            let rank = 1 + true_order.iter().position(|one| one == other).unwrap_or(0);
            penalty += rank.saturating_sub(neighbours) as f64;
        }
    }
    let (n, k) = (size as f64, neighbours as f64);
    1.0 - penalty * 2.0 / (n * k * (2.0 * n - 3.0 * k - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::published;

    #[test]
    fn points_of_a_plane_keep_their_distances() {
        let points = [[0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [-1.0, 2.0f64]];
        let length = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
        let map = scaling(&Distances::new(4, |row, column| length(points[row], points[column])));
        assert!((map.shown - 1.0).abs() < 1e-12);
        for (row, column) in pairs(4) {
            let difference = length(map.places[row], map.places[column]) - length(points[row], points[column]);
            assert!(difference.abs() < 1e-12);
        }
    }

    /// scripts/analysis_reference.py measures scikit-learn's map at the same perplexity.
    #[test]
    fn neighbours_are_as_true_as_on_the_map_of_scikit_learn() {
        let reference: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/analysis/published.json")).unwrap();
        let distances = Distances::of(&published::matrix());
        let places = tsne(&distances, default_perplexity(69)).unwrap();
        let ours = trustworthiness(&distances, &places, 5);
        let theirs = reference["tsne"]["trustworthiness"].as_f64().unwrap();
        assert!(ours >= theirs - 0.02, "{ours} beside {theirs}");
        assert_eq!(places, tsne(&distances, default_perplexity(69)).unwrap(), "the same again");
        let scaled = scaling(&distances);
        assert!((scaled.shown - reference["mds"]["shown"].as_f64().unwrap()).abs() < 1e-9);
        let theirs = reference["mds"]["trustworthiness"].as_f64().unwrap();
        assert!((trustworthiness(&distances, &scaled.places, 5) - theirs).abs() < 1e-9);
    }

    #[test]
    fn few_and_equal_networks() {
        assert_eq!(tsne(&Distances::new(4, |_, _| 1.0), 2.0), None);
        assert_eq!(tsne(&Distances::new(6, |_, _| 0.0), 2.0), None);
        let places = tsne(&Distances::new(6, |_, _| 1.0), 30.0).unwrap();
        assert!(places.iter().flatten().all(|coordinate| coordinate.is_finite()));
    }
}
