//! What people look at: figures as SVG, and a page that holds them.

mod bars;
mod dendrogram;
mod figure;
mod heat_map;
mod map;
mod page;

use crate::analysis::boosting::BoostingConfig;
use crate::analysis::clusters::{ClusterConfig, Clustering, Keyword, cluster, keywords};
use crate::analysis::components::NetworkComponents;
use crate::analysis::distance::Distances;
use crate::analysis::embedding::{Scaling, default_perplexity, scaling, tsne};
use crate::analysis::hierarchy::Dendrogram;
use crate::analysis::importance::{ImportanceConfig, Importances, importance};
use crate::analysis::summary::{Summary, summary};
use crate::similarity::Matrix;

pub use figure::Figure;
pub use heat_map::HeatMap;

/// A matrix with all that its analyses say.
#[derive(Debug)]
pub struct Report {
    /// Above everything.
    pub title: String,
    /// Where the matrix comes from.
    pub source: String,
    /// The scores.
    pub matrix: Matrix,
    /// The networks' components, where they are known.
    pub components: Option<NetworkComponents>,
    /// What all scores say together.
    pub summary: Summary,
    /// Clusters; `None` where there can be none, which [`Self::missing`] tells.
    pub clustering: Option<Clustering>,
    /// Cluster → what stands out in it.
    pub keywords: Vec<Vec<Keyword>>,
    /// Which components make networks differ.
    pub importances: Option<Importances>,
    /// A map that keeps distances.
    pub mds: Scaling,
    /// A map that keeps neighbours.
    pub tsne: Option<Vec<[f64; 2]>>,
    /// Sentences on what the report cannot show.
    pub missing: Vec<String>,
    /// What was done with what: names and values.
    pub provenance: Vec<(String, String)>,
    /// Text that is shown as it is, at the end; may be empty.
    pub text: String,
    dendrogram: Dendrogram,
}

impl Report {
    /// Analyses a complete, symmetric matrix of at least two networks. What cannot be found is left out, and said.
    pub fn of(
        title: &str,
        source: &str,
        matrix: Matrix,
        components: Option<NetworkComponents>,
        clusters: usize,
    ) -> Self {
        let mut missing = vec!["Scores have no intervals here: a matrix does not say what each image did.".to_owned()];
        let config = ClusterConfig { clusters, ..ClusterConfig::default() };
        let clustering = match cluster(&matrix, &config) {
            Ok(clustering) => Some(clustering),
            Err(error) => {
                missing.push(format!("No clusters: {error}."));
                None
            }
        };
        // With one component there is nothing to rank.
        let ranked = components.as_ref().filter(|components| components.columns.len() > 1);
        let importances = ranked.map(|components| {
            importance(
                &matrix,
                components,
                &ImportanceConfig { boosting: BoostingConfig::default(), ..ImportanceConfig::default() },
            )
        });
        let importances = match importances {
            Some(Ok(importances)) => Some(importances),
            Some(Err(error)) => {
                missing.push(format!("No importances: {error}."));
                None
            }
            None if components.is_some() => {
                missing.push("No importances: they need at least two components.".into());
                None
            }
            None => {
                missing.push("No importances and no keywords: the networks' components are not known; give a table as --components.".into());
                None
            }
        };
        let distances = Distances::of(&matrix);
        let tsne = tsne(&distances, default_perplexity(matrix.names.len()));
        if tsne.is_none() {
            missing.push("No map by t-SNE: it needs at least five networks that are not all the same.".into());
        }
        let keywords = match (&clustering, &components) {
            (Some(clustering), Some(components)) => keywords(&clustering.labels, components),
            _ => Vec::new(),
        };
        let mut provenance = vec![
            ("Matrix".to_owned(), source.to_owned()),
            (
                "Clusters".to_owned(),
                format!(
                    "spectral, K = {clusters}, best of {} × {} runs of k-means, seed {}",
                    config.seeds, config.restarts, config.seed
                ),
            ),
            (
                "Dendrogram, maps".to_owned(),
                "distance = highest score − score; average linkage; classical scaling; t-SNE".to_owned(),
            ),
        ];
        if importances.is_some() {
            let how = "gradient boosting (100 trees of depth 3) on component mismatches, permutation importance";
            provenance.push(("Importance".to_owned(), how.to_owned()));
        }
        provenance.push(("Made by".to_owned(), format!("netkin {}", env!("CARGO_PKG_VERSION"))));
        Self {
            title: title.to_owned(),
            source: source.to_owned(),
            summary: summary(&matrix),
            dendrogram: Dendrogram::of(&distances),
            mds: scaling(&distances),
            tsne,
            clustering,
            keywords,
            importances,
            missing,
            provenance,
            text: String::new(),
            components,
            matrix,
        }
    }

    /// The page: one HTML file that loads nothing.
    pub fn to_html(&self) -> String {
        page::page(self)
    }

    /// Every figure by its name.
    pub fn figures(&self) -> Vec<(&'static str, Figure)> {
        let (names, groups) = (&self.matrix.names, self.groups());
        let order = self.order();
        let map = HeatMap { matrix: &self.matrix, order: &order, groups: &groups, title: &self.title };
        let mut figures = vec![("heat-map", map.figure())];
        let title = "Dendrogram: networks joined at their mean distance";
        figures.push(("dendrogram", dendrogram::dendrogram(&self.dendrogram, names, &groups, title)));
        if let Some(places) = &self.tsne {
            figures.push(("map-tsne", map::map(places, names, &groups, "Map of the networks by t-SNE")));
        }
        figures
            .push(("map-mds", map::map(&self.mds.places, names, &groups, "Map of the networks by classical scaling")));
        if let Some(importances) = &self.importances {
            figures.push(("importance", bars::bars(&importances.components, "Importance of components")));
        }
        figures
    }

    /// The cluster of each network, or one for all.
    fn groups(&self) -> Vec<usize> {
        match &self.clustering {
            Some(clustering) => clustering.labels.clone(),
            None => vec![0; self.matrix.names.len()],
        }
    }

    /// Networks by cluster, within it as the dendrogram has them.
    fn order(&self) -> Vec<usize> {
        match &self.clustering {
            Some(clustering) => clustering.members().concat(),
            None => self.dendrogram.order.clone(),
        }
    }
}
