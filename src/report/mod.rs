//! What people look at: figures as SVG, and pages that hold them.

mod bars;
mod beside;
mod curves;
mod dendrogram;
mod figure;
mod heat_map;
mod map;
mod page;
mod png;
mod scatter;
mod sections;

use crate::analysis::boosting::BoostingConfig;
use crate::analysis::clusters::{ClusterConfig, Clustering, Keyword, cluster, keywords};
use crate::analysis::components::NetworkComponents;
use crate::analysis::distance::Distances;
use crate::analysis::embedding::{Scaling, default_perplexity, scaling, tsne};
use crate::analysis::ensembles::{Averaging, EnsembleError, EnsemblesOfSize, Predictions, possible, sets};
use crate::analysis::hierarchy::Dendrogram;
use crate::analysis::importance::{ImportanceConfig, Importances, importance};
use crate::analysis::stability::{halves, over_images};
use crate::analysis::summary::{Summary, summary};
use crate::analysis::uncertainty::{WithInterval, standard_error};
use crate::similarity::Matrix;
use crate::similarity::sat::{Outcomes, SatRun};

pub use beside::{LayerMap, OtherMeasure};
pub use curves::{Panel, curves};
pub use figure::Figure;
pub use heat_map::HeatMap;
pub use png::{Painter, PngError};
pub use scatter::{Point, Quantity, Series, points};
pub use sections::{Page, Part, Section};

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
    /// What only the images of a run tell; `None` until [`Self::with_run`] adds it.
    pub observed: Option<Observed>,
    /// Other measures of the same networks.
    pub measures: Vec<OtherMeasure>,
    /// How alike the layers of networks are.
    pub layers: Vec<LayerMap>,
    /// Sentences on what the report cannot show.
    pub missing: Vec<String>,
    /// Those of them on measures and maps of layers that it was to show.
    pub not_shown: Vec<String>,
    /// What was done with what: names and values.
    pub provenance: Vec<(String, String)>,
    /// Text that is shown as it is, at the end; may be empty.
    pub text: String,
    dendrogram: Dendrogram,
}

/// What the images of a run tell of a matrix.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Row by row, how many images both networks classify correctly.
    pub counts: Vec<u32>,
    /// Row by row, the standard error of the score; not a number where it is not known.
    pub standard_errors: Vec<f64>,
    /// The mean score of different networks, with its 95 % interval over images.
    pub mean: Option<WithInterval>,
    /// Ensembles of two, three and more networks, by size.
    pub ensembles: Vec<EnsemblesOfSize>,
    /// Each network's name, the share of images that it classifies correctly, and the SHA-256 of its weights.
    pub networks: Vec<(String, f64, String)>,
}

/// Said of a matrix without its run.
const NO_INTERVALS: &str = "Scores have no intervals here: a matrix does not say what each image did.";
/// Networks up to which ensembles are made; those of more take long.
const MOST_IN_ENSEMBLES: usize = 150;
/// Ensembles of each size, at most.
const ENSEMBLES: usize = 300;
/// The largest ensembles.
const LARGEST: usize = 5;
/// How often images are drawn anew for intervals of the whole matrix.
const REPLICATES: usize = 100;

impl Report {
    /// Analyses a complete, symmetric matrix of at least two networks. What cannot be found is left out, and said.
    pub fn of(
        title: &str,
        source: &str,
        matrix: Matrix,
        components: Option<NetworkComponents>,
        clusters: usize,
    ) -> Self {
        let mut missing = vec![NO_INTERVALS.to_owned()];
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
            observed: None,
            measures: Vec::new(),
            layers: Vec::new(),
            missing,
            not_shown: Vec::new(),
            provenance,
            text: String::new(),
            components,
            matrix,
        }
    }

    /// Adds what the run behind the matrix tells: intervals, ensembles, and what was done with what. `places` says where the
    /// matrix's networks are in the run.
    ///
    /// # Errors
    /// If the run folder cannot be read.
    pub fn with_run(mut self, outcomes: &Outcomes, run: &SatRun, places: &[usize]) -> Result<Self, EnsembleError> {
        let shown = run.select(places);
        let count = places.len();
        let decoded = run.images - run.skipped.len();
        let (mut counts, mut standard_errors) = (vec![0; count * count], vec![f64::NAN; count * count]);
        for (a, b) in (0..count).flat_map(|a| (a..count).map(move |b| (a, b))) {
            let pair = shown.pair(a, b);
            let error = standard_error(pair.n, pair.fooled_ab + pair.fooled_ba, shown.fooled_twice(a, b));
            for place in [a * count + b, b * count + a] {
                counts[place] = pair.n as u32;
                standard_errors[place] = error.unwrap_or(f64::NAN);
            }
        }
        let networks = shown.networks.iter().zip(shown.clean());
        let networks = networks
            .map(|(network, correct)| (network.name.clone(), correct as f64 / decoded as f64, network.sha256.clone()));
        self.missing.retain(|sentence| sentence != NO_INTERVALS);
        let ensembles = self.ensembles(outcomes, run, places)?;
        self.observed = Some(Observed {
            counts,
            standard_errors,
            mean: over_images(&shown, &halves(run, REPLICATES, 0), |matrix| summary(matrix).mean),
            ensembles,
            networks: networks.collect(),
        });
        self.tell_provenance(run);
        Ok(self)
    }

    /// Ensembles of the networks at these places of the run, as far as they can be made; what cannot is said.
    fn ensembles(
        &mut self,
        outcomes: &Outcomes,
        run: &SatRun,
        places: &[usize],
    ) -> Result<Vec<EnsemblesOfSize>, EnsembleError> {
        let count = places.len();
        if count > MOST_IN_ENSEMBLES {
            self.missing.push(format!(
                "No ensembles: they are made of up to {MOST_IN_ENSEMBLES} networks here; `netkin ensemble` makes those of more."
            ));
            return Ok(Vec::new());
        }
        // Of two votes that differ, a coin decides.
        let votes =
            || Ok::<_, EnsembleError>((Predictions::new(outcomes, run, Averaging::Votes)?, "majority votes", 3));
        let (predictions, how, smallest) = match Predictions::new(outcomes, run, Averaging::Probabilities) {
            Ok(predictions) => (predictions, "probabilities averaged", 2),
            Err(EnsembleError::NoLogits) => {
                let sentence =
                    "Ensembles vote, since the run kept no logits: with --keep-logits they average probabilities.";
                self.missing.push(sentence.into());
                votes()?
            }
            Err(error @ EnsembleError::OtherClasses { .. }) => {
                self.missing.push(format!("Ensembles vote: {error}."));
                votes()?
            }
            Err(error) => return Err(error),
        };
        if count < smallest {
            self.missing.push(format!("No ensembles: {count} networks are too few."));
        }
        let clusters: Option<Vec<usize>> = self.clustering.as_ref().map(|clustering| {
            let mut labels = vec![0; run.networks.len()];
            places.iter().zip(&clustering.labels).for_each(|(&place, &label)| labels[place] = label);
            labels
        });
        let mut made = Vec::new();
        for size in smallest..=LARGEST.min(count) {
            let members = sets(count, size, ENSEMBLES, 0);
            let in_run = |members: &Vec<usize>| members.iter().map(|&member| places[member]).collect();
            let chosen: Vec<Vec<usize>> = members.iter().map(in_run).collect();
            let credits = predictions.credits(&chosen)?;
            let mut ensembles = predictions.describe(&chosen, &credits, clusters.as_deref());
            ensembles.iter_mut().zip(members).for_each(|(ensemble, members)| ensemble.members = members);
            made.push(EnsemblesOfSize {
                size,
                possible: possible(count, size),
                correlation: predictions.correlation(&chosen, &credits, REPLICATES, 0),
                ensembles,
            });
        }
        let has_any =
            |sized: &EnsemblesOfSize| sized.ensembles.iter().any(|ensemble| ensemble.error_reduction.is_some());
        if !made.is_empty() && !made.iter().any(has_any) {
            self.missing.push("No ensembles: no network gets any image wrong.".into());
            made.clear();
        }
        let place = self.provenance.len() - 1;
        self.provenance.insert(place, (
            "Ensembles".into(),
            format!("{how}, at most {ENSEMBLES} of each size, drawn by seed 0; intervals over {REPLICATES} draws of the images"),
        ));
        Ok(made)
    }

    /// What was done with what.
    fn tell_provenance(&mut self, run: &SatRun) {
        for image in run.skipped.iter().take(5) {
            self.missing.push(format!("The image {} was skipped: {}.", image.id, image.reason));
        }
        if run.skipped.len() > 5 {
            self.missing.push(format!("{} images were skipped in all.", run.skipped.len()));
        }
        let left_out: Vec<String> = run.names().into_iter().filter(|name| !self.matrix.names.contains(name)).collect();
        if !left_out.is_empty() {
            self.missing.push(format!("Networks of the run that are not shown: {}.", left_out.join(", ")));
        }
        let settings = &run.settings;
        let of = |name: &str| settings[name].to_string().replace('"', "").replace(',', ", ").replace(':', ": ");
        let images =
            format!("{}, of which {} were skipped; fingerprint {}", run.images, run.skipped.len(), run.fingerprint);
        let made_by = run.made_by.iter().map(|(made_by, units)| {
            format!("{} (netkin {}): {units} predictions of up to 32 images", made_by.device, made_by.netkin)
        });
        let made_by: Vec<String> = made_by.collect();
        // Before the last row, which says what wrote the report.
        let place = self.provenance.len() - 1;
        let rows = [
            ("Images".to_owned(), images),
            ("Attack".to_owned(), of("attack")),
            ("Crop, resize, precision".to_owned(), [of("crop"), of("transfer_interpolation"), of("precision")].join(", ")),
            ("Computed on".to_owned(), made_by.join("; ")),
            (
                "Intervals".to_owned(),
                "of scores: ± 1.96 standard errors by the delta method; of the mean: middle 95 % over random halves of the images"
                    .to_owned(),
            ),
        ];
        self.provenance.splice(place..place, rows);
    }

    /// The page: one HTML file that loads nothing.
    pub fn to_html(&self) -> String {
        page::page(self)
    }

    /// Every figure by its name.
    pub fn figures(&self) -> Vec<(String, Figure)> {
        let (names, groups) = (&self.matrix.names, self.groups());
        let order = self.order();
        let map = HeatMap { matrix: &self.matrix, order: &order, groups: &groups, title: &self.title };
        let mut figures = Vec::new();
        let mut add = |name: &str, figure: Figure| figures.push((name.to_owned(), figure));
        add("heat-map", map.figure());
        let title = "Dendrogram: networks joined at their mean distance";
        add("dendrogram", dendrogram::dendrogram(&self.dendrogram, names, &groups, title));
        if let Some(places) = &self.tsne {
            add("map-tsne", map::map(places, names, &groups, "Map of the networks by t-SNE"));
        }
        add("map-mds", map::map(&self.mds.places, names, &groups, "Map of the networks by classical scaling"));
        if let Some(observed) = self.observed.as_ref().filter(|observed| !observed.ensembles.is_empty()) {
            let names: Vec<&str> = observed.networks.iter().map(|(name, ..)| name.as_str()).collect();
            let title = "Ensembles: by how much fewer images are wrong, beside how alike the members are";
            add("ensembles", scatter::scatter(&observed.ensembles, &names, title));
        }
        if let Some(importances) = &self.importances {
            add("importance", bars::bars(&importances.components, "Importance of components"));
        }
        for further in self.further() {
            add(&further.id, further.figure());
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
