//! `netkin cluster`: which networks belong together.

use serde::Serialize;

use super::common::{Common, print, print_json};
use super::sat::ScoreOptions;
use super::source::{ComponentOptions, Source};
use super::{Failure, Outcome, values};
use crate::analysis::clusters::{ClusterConfig, Clustering, Keyword, cluster, keywords};
use crate::analysis::distance::Distances;
use crate::analysis::embedding::{Scaling, default_perplexity, scaling, tsne};
use crate::analysis::stability::{ClustersOverImages, StabilityConfig, clusters_over_images};

/// Find clusters of networks that are alike, and tell how certain they are
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The number of clusters [default: 10, or half of the networks if there are fewer than 20]
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    k: Option<usize>,
    /// How often the clustering is done, each time from a seed of its own
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = values::positive)]
    seeds: usize,
    /// Restarts of k-means for each seed, of which the best counts
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = values::positive)]
    restarts: usize,
    /// Decides all that is drawn
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    seed: u64,
    /// How many neighbours of a network count for the map by t-SNE, about [default: a fifth of the others, at most 30]
    #[arg(long, value_name = "NUMBER", value_parser = values::fraction)]
    perplexity: Option<f64>,
    /// Of a run, how many random halves of its images are clustered, too
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = values::positive)]
    halves: usize,
    #[command(flatten)]
    components: ComponentOptions,
    #[command(flatten)]
    score: ScoreOptions,
}

#[derive(Serialize)]
struct Document<'a> {
    netkin: &'static str,
    matrix: String,
    config: &'a ClusterConfig,
    names: &'a [String],
    #[serde(flatten)]
    clustering: &'a Clustering,
    /// How the clusters hold on halves of the images; of a run only.
    over_images: Option<ClustersOverImages>,
    /// Cluster → what stands out in it; none where the components of the networks are not known.
    keywords: Option<Vec<Vec<Keyword>>>,
    mds: Scaling,
    tsne: Option<Vec<[f64; 2]>>,
}

/// The default number of clusters for so many networks.
pub fn default_clusters(networks: usize) -> usize {
    (networks / 2).clamp(1, 10)
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let matrix = self.source.matrix()?;
        let networks = matrix.names.len();
        let config = ClusterConfig {
            clusters: self.k.unwrap_or_else(|| default_clusters(networks)),
            seeds: self.seeds,
            restarts: self.restarts,
            seed: self.seed,
        };
        let clustering = cluster(&matrix, &config)?;
        let components = self.components.if_known(&matrix.names)?;
        let distances = Distances::of(&matrix);
        let halves = StabilityConfig { halves: self.halves, clusters: config.clusters, seed: self.seed };
        let behind = self.source.run(&matrix, &self.score)?;
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            matrix: self.source.name(),
            names: &matrix.names,
            over_images: behind
                .and_then(|behind| clusters_over_images(&behind.selected(), &clustering.labels, &halves)),
            keywords: components.map(|components| keywords(&clustering.labels, &components)),
            mds: scaling(&distances),
            tsne: tsne(&distances, self.perplexity.unwrap_or_else(|| default_perplexity(networks))),
            config: &config,
            clustering: &clustering,
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_text())?;
        }
        Ok(Outcome::Done)
    }
}

/// Keywords of a cluster that are printed.
const WORDS: usize = 5;
/// Eigenvalues that are printed behind the K-th.
const MORE_EIGENVALUES: usize = 2;

impl Document<'_> {
    fn to_text(&self) -> String {
        let Clustering { inertia, eigenvalues, eigengap, silhouettes, stability, .. } = self.clustering;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let mut text = format!("{} networks in {} clusters: {}\n", self.names.len(), self.config.clusters, self.matrix);
        let width = self.names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        for (cluster, members) in self.clustering.members().iter().enumerate() {
            text += &format!("\ncluster {}\n", cluster + 1);
            for &network in members {
                let (name, silhouette) = (&self.names[network], silhouettes[network]);
                let seeds = 100.0 * stability.membership[network];
                let images = self.over_images.as_ref().map_or(String::new(), |over| {
                    format!(" and {:3.0} % of halves of the images", 100.0 * over.membership[network])
                });
                text += &format!(
                    "  {name:width$}  with its cluster in {seeds:3.0} % of seeds{images}, silhouette {silhouette:6.3}\n"
                );
            }
            if let Some(keywords) = &self.keywords {
                let words: Vec<String> = keywords[cluster]
                    .iter()
                    .take(WORDS)
                    .map(|word| format!("{}: {}", word.component, word.value))
                    .collect();
                text += &format!("  stands out: {}\n", words.join(" · "));
            }
        }
        let shown = (self.config.clusters + MORE_EIGENVALUES).min(eigenvalues.len());
        let listed: Vec<String> = eigenvalues[..shown].iter().map(|value| format!("{value:.4}")).collect();
        text += &format!(
            "\ninertia {inertia:.3}, found by {:.0} % of {} seeds; two seeds agree by {:.3} (adjusted Rand index, at least {:.3})\n\
             mean silhouette {:.3}; agreement with the dendrogram {:.3}\n\
             eigenvalues {}; the largest gap behind the first is after {eigengap}\n",
            100.0 * stability.found_best,
            self.config.seeds,
            stability.mean_rand_index,
            stability.lowest_rand_index,
            mean(silhouettes),
            self.clustering.agreement_with_dendrogram,
            listed.join(" "),
        );
        if let Some(ClustersOverImages { halves, rand_index, .. }) = &self.over_images {
            let [low, high] = rand_index.interval;
            text += &format!(
                "on {halves} random halves of the images: {:.3} [{low:.3}, {high:.3}] (adjusted Rand index with these clusters, median and middle 95 %)\n",
                rand_index.estimate
            );
        }
        if self.clustering.negative > 0 {
            text += &format!("{} pair(s) with a negative score count as 0\n", self.clustering.negative);
        }
        text
    }
}
