//! Spectral clustering of networks, and how far its result can be trusted.
//!
//! As in Hwang et al. (arXiv 2210.11407) and Ng, Jordan & Weiss (*On Spectral Clustering*, 2001): the scores A with their
//! diagonal are the affinities; the rows of the leading K eigenvectors of D^-½ A D^-½, scaled to unit length, are clustered by
//! k-means, and the partition of the lowest inertia counts. k-means depends on the centres from which it begins, so it is done
//! from many seeds, and how often they agree is told beside the result.

use rayon::prelude::*;
use serde::Serialize;

use super::components::NetworkComponents;
use super::distance::Distances;
use super::hierarchy::Dendrogram;
use super::kmeans::{KMeans, kmeans};
use super::partition::{adjusted_rand_index, silhouettes};
use super::{eigen, read::pairs};
use crate::similarity::Matrix;

/// How networks are clustered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterConfig {
    /// K, the number of clusters: 1 up to the number of networks.
    pub clusters: usize,
    /// How often k-means is done, each time from a seed of its own; at least 1.
    pub seeds: usize,
    /// Runs of k-means for each seed, of which the best counts; at least 1.
    pub restarts: usize,
    /// Decides all that is drawn.
    pub seed: u64,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { clusters: 10, seeds: 100, restarts: 10, seed: 0 }
    }
}

/// Why networks cannot be clustered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// More clusters than networks.
    #[error("{networks} networks cannot be divided into {clusters} clusters; give --k from 1 to {networks}")]
    TooMany {
        /// How many were asked for.
        clusters: usize,
        /// How many networks there are.
        networks: usize,
    },
    /// All scores are the same.
    #[error(
        "all scores of different networks are {score}, so nothing tells clusters apart; check where the matrix comes from"
    )]
    Constant {
        /// The score, as text.
        score: String,
    },
    /// A network has no affinity to any, itself included.
    #[error(
        "{name} has no score above 0, not even with itself, so it belongs nowhere; leave it out by --without {name}"
    )]
    Alone {
        /// The network.
        name: String,
    },
}

/// Networks in clusters.
#[derive(Debug, Clone, Serialize)]
pub struct Clustering {
    /// The cluster of each network, 0 up to below K. Clusters are numbered along the dendrogram.
    pub labels: Vec<usize>,
    /// The sum of squared distances from the clusters' centres, in the space of the eigenvectors.
    pub inertia: f64,
    /// All eigenvalues of D^-½ A D^-½ from the largest down.
    pub eigenvalues: Vec<f64>,
    /// The K ≥ 2 behind which the eigenvalues fall most.
    pub eigengap: usize,
    /// How well each network lies within its cluster, −1 to 1, by the distances of the matrix.
    pub silhouettes: Vec<f64>,
    /// How the seeds agree.
    pub stability: Stability,
    /// The hierarchical clustering of the same distances.
    pub dendrogram: Dendrogram,
    /// The adjusted Rand index of these clusters and the dendrogram's K.
    pub agreement_with_dendrogram: f64,
    /// Pairs with a negative score, which have no affinity, as if they scored 0.
    pub negative: usize,
    /// Network → its row in the space in which k-means works.
    #[serde(skip)]
    pub embedding: Vec<Vec<f64>>,
}

/// How the partitions of many seeds agree.
#[derive(Debug, Clone, Serialize)]
pub struct Stability {
    /// The mean adjusted Rand index of two seeds.
    pub mean_rand_index: f64,
    /// The lowest one.
    pub lowest_rand_index: f64,
    /// The share of the seeds that found the partition of the lowest inertia.
    pub found_best: f64,
    /// Network → the mean share of seeds that put it together with the others of its cluster; 1 where it is alone.
    pub membership: Vec<f64>,
    /// Row by row, the share of the seeds that put two networks together.
    pub consensus: Vec<f64>,
}

/// Clusters the networks of a complete, symmetric matrix.
///
/// # Errors
/// [`ClusterError`].
pub fn cluster(matrix: &Matrix, config: &ClusterConfig) -> Result<Clustering, ClusterError> {
    let networks = matrix.names.len();
    if config.clusters > networks || config.clusters == 0 {
        return Err(ClusterError::TooMany { clusters: config.clusters, networks });
    }
    let first = matrix.get(0, networks - 1);
    if networks > 2 && pairs(networks).all(|(row, column)| matrix.get(row, column) == first) {
        return Err(ClusterError::Constant { score: first.to_string() });
    }
    let affinity = |row, column| matrix.get(row, column).max(0.0);
    let degrees: Vec<f64> = (0..networks).map(|row| (0..networks).map(|column| affinity(row, column)).sum()).collect();
    if let Some(alone) = degrees.iter().position(|&degree| degree <= 0.0) {
        return Err(ClusterError::Alone { name: matrix.names[alone].clone() });
    }
    let eigen =
        eigen::descending(networks, |row, column| affinity(row, column) / (degrees[row] * degrees[column]).sqrt());
    let embedding: Vec<Vec<f64>> = (0..networks)
        .map(|network| unit(eigen[..config.clusters].iter().map(|(_, vector)| vector[network]).collect()))
        .collect();
    let found: Vec<KMeans> = (0..config.seeds as u64)
        .into_par_iter()
        .map(|seed| kmeans(&embedding, config.clusters, config.restarts, config.seed.wrapping_mul(1 << 20) + seed))
        .collect();
    let best = found.iter().min_by(|a, b| a.inertia.total_cmp(&b.inertia)).expect("there is at least one seed");

    let distances = Distances::of(matrix);
    let dendrogram = Dendrogram::of(&distances);
    let labels = renumbered(&best.labels, &dendrogram.order);
    let eigenvalues: Vec<f64> = eigen.iter().map(|(value, _)| *value).collect();
    Ok(Clustering {
        inertia: best.inertia,
        eigengap: eigengap(&eigenvalues),
        silhouettes: silhouettes(&distances, &labels),
        stability: stability(&found, best, &labels),
        agreement_with_dendrogram: adjusted_rand_index(&labels, &dendrogram.cut(config.clusters)),
        negative: pairs(networks).filter(|&(row, column)| matrix.get(row, column) < 0.0).count(),
        labels,
        eigenvalues,
        dendrogram,
        embedding,
    })
}

impl Clustering {
    /// The networks of each cluster, in the order of the dendrogram.
    pub fn members(&self) -> Vec<Vec<usize>> {
        let clusters = self.labels.iter().max().map_or(0, |max| max + 1);
        let mut members = vec![Vec::new(); clusters];
        for &network in &self.dendrogram.order {
            members[self.labels[network]].push(network);
        }
        members
    }
}

fn unit(mut row: Vec<f64>) -> Vec<f64> {
    let length = row.iter().map(|element| element * element).sum::<f64>().sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|element| *element /= length);
    }
    row
}

/// Labels such that the mean place of a cluster's members in `order` rises with its number.
fn renumbered(labels: &[usize], order: &[usize]) -> Vec<usize> {
    let clusters = labels.iter().max().map_or(0, |max| max + 1);
    let mut places = vec![(0usize, 0usize); clusters];
    for (place, &network) in order.iter().enumerate() {
        let (sum, count) = &mut places[labels[network]];
        (*sum, *count) = (*sum + place, *count + 1);
    }
    let mean = |cluster: usize| places[cluster].0 as f64 / places[cluster].1.max(1) as f64;
    let mut by_place: Vec<usize> = (0..clusters).filter(|&cluster| places[cluster].1 > 0).collect();
    by_place.sort_by(|&a, &b| mean(a).total_cmp(&mean(b)));
    labels.iter().map(|label| by_place.iter().position(|cluster| cluster == label).unwrap_or(0)).collect()
}

fn eigengap(eigenvalues: &[f64]) -> usize {
    let gap = |clusters: usize| eigenvalues[clusters - 1] - eigenvalues[clusters];
    (2..eigenvalues.len()).max_by(|&a, &b| gap(a).total_cmp(&gap(b))).unwrap_or(1)
}

fn stability(found: &[KMeans], best: &KMeans, labels: &[usize]) -> Stability {
    let indices: Vec<f64> = pairs(found.len())
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|(one, other)| adjusted_rand_index(&found[one].labels, &found[other].labels))
        .collect();
    let partitions: Vec<&[usize]> = found.iter().map(|found| &found.labels[..]).collect();
    let consensus = consensus(&partitions);
    let same_inertia = |found: &&KMeans| found.inertia <= best.inertia * (1.0 + 1e-9);
    Stability {
        mean_rand_index: if indices.is_empty() { 1.0 } else { indices.iter().sum::<f64>() / indices.len() as f64 },
        lowest_rand_index: indices.iter().copied().fold(1.0, f64::min),
        found_best: found.iter().filter(same_inertia).count() as f64 / found.len() as f64,
        membership: membership(&consensus, labels),
        consensus,
    }
}

/// Row by row, the share of at least one partition of the same networks that puts two of them together.
pub(super) fn consensus(partitions: &[&[usize]]) -> Vec<f64> {
    let (networks, count) = (partitions[0].len(), partitions.len() as f64);
    let together = |row: usize, column: usize| {
        partitions.iter().filter(|labels| labels[row] == labels[column]).count() as f64 / count
    };
    (0..networks * networks).into_par_iter().map(|index| together(index / networks, index % networks)).collect()
}

/// Network → the mean share, by a consensus, with which it is together with the others of its cluster; 1 where it is alone.
pub(super) fn membership(consensus: &[f64], labels: &[usize]) -> Vec<f64> {
    let networks = labels.len();
    (0..networks)
        .map(|network| {
            let others = (0..networks).filter(|&other| other != network && labels[other] == labels[network]);
            let (sum, count) =
                others.fold((0.0, 0), |(sum, count), other| (sum + consensus[network * networks + other], count + 1));
            if count == 0 { 1.0 } else { sum / f64::from(count) }
        })
        .collect()
}

/// A component value that stands out in a cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Keyword {
    /// The component.
    pub component: String,
    /// Its value.
    pub value: String,
    /// The TF-IDF weight, 0 to 1.
    pub weight: f64,
    /// The share of the cluster's networks with this value.
    pub share: f64,
}

/// The component values of each cluster, the one that stands out most first, by TF-IDF: a cluster is a document and a
/// component's value a word. A word's weight is its count times ln((1 + K) / (1 + clusters that have it)) + 1, and a
/// cluster's weights are scaled to unit length (scikit-learn's definition).
pub fn keywords(labels: &[usize], components: &NetworkComponents) -> Vec<Vec<Keyword>> {
    let clusters = labels.iter().max().map_or(0, |max| max + 1);
    let mut words: Vec<(usize, &String)> = Vec::new();
    for row in &components.rows {
        words.extend(row.iter().enumerate());
    }
    words.sort();
    words.dedup();
    let mut counts = vec![vec![0usize; words.len()]; clusters];
    let mut sizes = vec![0usize; clusters];
    for (row, &label) in components.rows.iter().zip(labels) {
        sizes[label] += 1;
        for word in row.iter().enumerate() {
            counts[label][words.binary_search(&word).expect("every word is listed")] += 1;
        }
    }
    let holders = |word: usize| counts.iter().filter(|counts| counts[word] > 0).count();
    let rarity: Vec<f64> =
        (0..words.len()).map(|word| ((1 + clusters) as f64 / (1 + holders(word)) as f64).ln() + 1.0).collect();
    counts
        .iter()
        .zip(sizes)
        .map(|(counts, size)| {
            let weights: Vec<f64> = counts.iter().zip(&rarity).map(|(&count, rarity)| count as f64 * rarity).collect();
            let length = weights.iter().map(|weight| weight * weight).sum::<f64>().sqrt();
            let mut keywords: Vec<Keyword> = (0..words.len())
                .filter(|&word| counts[word] > 0)
                .map(|word| Keyword {
                    component: components.columns[words[word].0].clone(),
                    value: words[word].1.clone(),
                    weight: weights[word] / length,
                    share: counts[word] as f64 / size as f64,
                })
                .collect();
            keywords.sort_by(|a, b| b.weight.total_cmp(&a.weight));
            keywords
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{components::ComponentTable, published};

    /// Figure 1 of the paper shows two networks of each cluster.
    const LEGEND: [[&str; 2]; 10] = [
        ["vit_base_patch32_224", "deit_base_patch16_224"],
        ["swin_tiny_patch4_window7_224", "convnext_tiny"],
        ["pit_s_224", "xcit_tiny_12_p8_224"],
        ["halonet50ts", "botnet26t_256"],
        ["lamhalobotnet50ts_256", "gcresnet50t"],
        ["resnet50", "resnetv2_50"],
        ["regnety_032", "rexnet_150"],
        ["nfnet_l0", "resnest50d"],
        ["gluon_resnet101_v1c", "regnetx_320"],
        ["cspresnet50", "cspdarknet53"],
    ];

    /// What scikit-learn and SciPy make of the published matrix; scripts/analysis_reference.py.
    fn reference() -> serde_json::Value {
        serde_json::from_str(include_str!("../../tests/fixtures/analysis/published.json")).unwrap()
    }

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    }

    #[test]
    fn the_published_clusters() {
        let matrix = published::matrix();
        let clustering = cluster(&matrix, &ClusterConfig::default()).unwrap();
        let eigenvalues = [1.0, 0.0789, 0.0489, 0.0426, 0.0257, 0.0208, 0.0191, 0.0167, 0.0161, 0.0151];
        for (value, expected) in clustering.eigenvalues.iter().zip(eigenvalues) {
            assert!((value - expected).abs() < 5.1e-5, "{value} is not {expected}");
        }
        let label = |name: &str| {
            let index = matrix.names.iter().position(|other| other == name).unwrap();
            clustering.labels[index]
        };
        let mut clusters = Vec::new();
        for [one, other] in LEGEND {
            clusters.push(label(other));
            if one != "vit_base_patch32_224" {
                assert_eq!(label(one), label(other), "{one} and {other}");
            }
        }
        clusters.sort();
        assert_eq!(clusters, (0..10).collect::<Vec<_>>(), "pairs of the legend are in clusters of their own");
        assert!((clustering.inertia - 15.997).abs() < 5e-4, "{}", clustering.inertia);
    }

    #[test]
    fn beside_scikit_learn_and_scipy() {
        let (matrix, reference) = (published::matrix(), reference());
        let clustering = cluster(&matrix, &ClusterConfig::default()).unwrap();
        let labels: Vec<usize> =
            numbers(&reference["kmeans"]["labels"]).into_iter().map(|label| label as usize).collect();
        let index = adjusted_rand_index(&clustering.labels, &labels);
        assert!(index >= 0.95, "the adjusted Rand index is {index}");
        let inertia = reference["kmeans"]["inertia"].as_f64().unwrap();
        assert!(clustering.inertia <= inertia * (1.0 + 1e-9), "{} beside {inertia}", clustering.inertia);
        for (ours, theirs) in clustering.eigenvalues.iter().zip(numbers(&reference["eigenvalues"])) {
            assert!((ours - theirs).abs() < 1e-12);
        }
        let distances = Distances::of(&matrix);
        for (ours, theirs) in silhouettes(&distances, &labels).iter().zip(numbers(&reference["silhouettes"])) {
            assert!((ours - theirs).abs() < 1e-9);
        }
        for (ours, theirs) in clustering.dendrogram.joins.iter().zip(numbers(&reference["heights"])) {
            assert!((ours.height - theirs).abs() < 1e-9);
        }
        let components = published::components().select(&matrix.names).unwrap();
        for (ours, theirs) in keywords(&labels, &components).iter().zip(reference["keywords"].as_array().unwrap()) {
            for word in theirs.as_array().unwrap() {
                let found = ours.iter().find(|ours| format!("{}={}", ours.component, ours.value) == word[0]);
                assert!((found.unwrap().weight - word[1].as_f64().unwrap()).abs() < 1e-9, "{word}");
            }
        }
    }

    #[test]
    fn seeds_agree_where_clusters_are_clear_and_say_who_is_loose() {
        let matrix = published::matrix();
        let config = ClusterConfig { seeds: 30, restarts: 2, ..ClusterConfig::default() };
        let stability = cluster(&matrix, &config).unwrap().stability;
        let loose = matrix.names.iter().position(|name| name == "vit_base_patch32_224").unwrap();
        let mean = stability.membership.iter().sum::<f64>() / 69.0;
        assert!(stability.membership[loose] < mean, "{} beside {mean}", stability.membership[loose]);
        assert!(stability.mean_rand_index > 0.5 && stability.mean_rand_index < 1.0);

        let blocks =
            Matrix::new(
                (0..6).map(|index| index.to_string()).collect(),
                |row, column| {
                    if row / 3 == column / 3 { 4.0 } else { 0.5 }
                },
            );
        let clustering = cluster(&blocks, &ClusterConfig { clusters: 2, ..config }).unwrap();
        assert_eq!(clustering.labels[..3], [clustering.labels[0]; 3]);
        assert_eq!((clustering.stability.mean_rand_index, clustering.stability.found_best), (1.0, 1.0));
        assert_eq!(clustering.eigengap, 2);
        assert_eq!(clustering.agreement_with_dendrogram, 1.0);
        assert!(clustering.silhouettes.iter().all(|&silhouette| silhouette == 1.0 - 0.0));
    }

    #[test]
    fn what_cannot_be_clustered_is_refused() {
        let names = |count: usize| (0..count).map(|index| format!("n{index}")).collect();
        let config = ClusterConfig { clusters: 2, ..ClusterConfig::default() };
        let constant = Matrix::new(names(4), |row, column| if row == column { 4.0 } else { 2.0 });
        assert!(matches!(cluster(&constant, &config), Err(ClusterError::Constant { .. })));
        let two = Matrix::new(names(2), |row, column| (row + column) as f64);
        let error = cluster(&two, &ClusterConfig::default()).unwrap_err().to_string();
        assert!(error.contains("2 networks") && error.contains("10 clusters"), "{error}");
        let alone = Matrix::new(names(3), |row, column| if row.max(column) == 2 { -1.0 } else { 1.0 + row as f64 });
        assert!(matches!(cluster(&alone, &config), Err(ClusterError::Alone { name }) if name == "n2"));
    }

    #[test]
    fn words_that_few_clusters_share_stand_out() {
        let table = ComponentTable::parse("name,Stem,Norm\na,4s4,LN\nb,4s4,BN\nc,7s2,BN\n", "x".as_ref()).unwrap();
        let components = table.select(&["a".into(), "b".into(), "c".into()]).unwrap();
        let words = keywords(&[0, 0, 1], &components);
        assert_eq!((words[0][0].component.as_str(), words[0][0].value.as_str()), ("Stem", "4s4"));
        assert_eq!(words[0][0].share, 1.0);
        assert_eq!(words[1][0].value, "7s2");
    }
}
