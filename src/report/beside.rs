//! What a report shows beside its matrix: other measures of the same networks, and how alike their layers are.

use std::cmp::Reverse;

use super::heat_map::HeatMap;
use super::{Figure, Report};
use crate::analysis::compare::{Comparison, compare};
use crate::images::Dataset;
use crate::runs::{Listed, Manifest, RunError, RunFolder};
use crate::similarity::Matrix;
use crate::similarity::features::kept::{LayerRecord, MeasureRecord};

/// Another measure of a report's networks.
#[derive(Debug, Clone)]
pub struct OtherMeasure {
    /// What it is called.
    pub name: String,
    /// Which statistic of what it is.
    pub what: String,
    /// Of the report's networks, in its order.
    pub matrix: Matrix,
    /// How it agrees with the report's matrix; none where that has no value, which [`Report::missing`] tells.
    pub agreement: Option<Comparison>,
}

/// How alike the layers of networks are.
#[derive(Debug, Clone)]
pub struct LayerMap {
    /// What the figure is called.
    pub title: String,
    /// Which statistic of what it is.
    pub what: String,
    /// Not a number where a layer is constant.
    pub matrix: Matrix,
    /// Which network each layer is of.
    pub groups: Vec<usize>,
}

impl Report {
    /// How often networks are permuted to see how far matrices agree by chance; of many networks it takes long.
    pub(super) fn permutations(&self) -> usize {
        if self.matrix.names.len() <= 150 { 999 } else { 99 }
    }

    /// Adds what a run folder keeps: matrices of other measures of its networks, and maps of layers. `fingerprint` is that of the
    /// run's images.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn with_kept(mut self, run: &RunFolder, fingerprint: &str) -> Result<Self, RunError> {
        let mut records = MeasureRecord::all(run)?;
        // Of one measure that of most networks, since a run may have grown, and of this version.
        records.sort_by_key(|record| {
            let is_older = record.netkin != env!("CARGO_PKG_VERSION");
            let measure = (record.measure.properties().column, record.bandwidth.map(f64::to_bits));
            (measure, Reverse(record.networks.len()), is_older)
        });
        records.dedup_by_key(|record| (record.measure, record.bandwidth));
        for record in records {
            let properties = record.measure.properties();
            let name = match record.bandwidth {
                Some(bandwidth) if bandwidth != 1.0 => format!("{} of bandwidth {bandwidth}", properties.column),
                _ => properties.column.to_owned(),
            };
            let of = if record.measure.is_of_outputs() { "predictions" } else { "pooled features" };
            let likeness = if properties.is_likeness { "" } else { "; turned round, so that higher is more alike" };
            let what = format!(
                "{}{likeness}. Of {of} of the run's clean images, computed on {} by netkin {}.",
                properties.estimator, record.device, record.netkin
            );
            match record.matrix() {
                Some(matrix) => self.add_measure(&name, &what, &matrix),
                None => self.lack(damaged(&name, "measures", "netkin matrix fill")),
            }
        }
        let manifest = Manifest::read(run.path())?;
        for record in LayerRecord::all(run)? {
            let is_of_run = record.fingerprint == fingerprint
                || manifest.as_ref().is_some_and(|manifest| is_of_first(&record, manifest));
            let images = if is_of_run { "the run's images" } else { "images that are not the run's, or not its first" };
            match LayerMap::of(&record, images) {
                Some(map) => self.layers.push(map),
                None => {
                    let name = format!("The map of the layers of {}", record.models_by_name());
                    self.lack(damaged(&name, "layers", "netkin layers --run"));
                }
            }
        }
        Ok(self)
    }

    /// Says that a measure or a map of layers is not shown.
    fn lack(&mut self, sentence: String) {
        self.missing.push(sentence.clone());
        self.not_shown.push(sentence);
    }

    /// Adds the matrix of another measure. If it is not of all the report's networks, that is said instead.
    pub fn add_measure(&mut self, name: &str, what: &str, matrix: &Matrix) {
        let place = |name: &String| matrix.names.iter().position(|other| other == name);
        let places: Option<Vec<usize>> = self.matrix.names.iter().map(place).collect();
        let Some(places) = places else {
            let lacks = self.matrix.names.iter().filter(|name| !matrix.names.contains(name));
            let lacks: Vec<&str> = lacks.map(String::as_str).collect();
            self.lack(format!("{name} is not shown: its matrix lacks {}.", lacks.join(", ")));
            return;
        };
        let names = self.matrix.names.clone();
        let matrix = Matrix::new(names, |row, column| matrix.get(places[row], places[column]));
        if matrix.values.iter().any(|value| value.is_nan()) {
            self.lack(format!("{name} is not shown: its matrix has pairs without a score."));
            return;
        }
        let agreement = match compare(&self.matrix, &matrix, self.permutations(), 0) {
            Ok(comparison) => Some(comparison),
            Err(error) => {
                self.missing.push(format!("{name} is shown without its agreement: {error}."));
                None
            }
        };
        self.measures.push(OtherMeasure { name: name.to_owned(), what: what.to_owned(), matrix, agreement });
    }

    /// The heat maps beside the report's own.
    pub(super) fn further(&self) -> Vec<Further<'_>> {
        let mut all = Vec::new();
        for (index, OtherMeasure { name, matrix, .. }) in self.measures.iter().enumerate() {
            let id = format!("measure-{}-{}", index + 1, plain(name));
            all.push(Further { id, title: name, matrix, order: self.order(), groups: self.groups() });
        }
        for (index, LayerMap { title, matrix, groups, .. }) in self.layers.iter().enumerate() {
            let order = (0..matrix.names.len()).collect();
            all.push(Further { id: format!("layers-{}", index + 1), title, matrix, order, groups: groups.clone() });
        }
        all
    }
}

impl LayerMap {
    /// What `netkin layers` found, of images that are called `images`; none if the record is not of so many layers.
    pub fn of(record: &LayerRecord, images: &str) -> Option<Self> {
        let properties = record.measure.properties();
        let LayerRecord { images: count, mini_batch, precision, device, netkin, .. } = record;
        Some(Self {
            title: format!("{} of the layers of {}", properties.column, record.models_by_name()),
            what: format!(
                "{}. {count} of {images}, in mini-batches of {mini_batch}; {precision} on {device}, by netkin {netkin}.",
                properties.estimator
            ),
            matrix: record.matrix()?,
            groups: record.groups(),
        })
    }
}

/// Whether a record is of a run's first images, as --limit leaves them: as many as count, or more of which some were left out.
fn is_of_first(record: &LayerRecord, manifest: &Manifest) -> bool {
    const LEFT_OUT: usize = 16;
    let images = manifest.images();
    let counts = record.images..=images.len().min(record.images.saturating_add(LEFT_OUT));
    let fingerprint = |count: usize| Dataset::fingerprint_of(images[..count].iter().map(Listed::identity));
    counts.into_iter().any(|count| fingerprint(count) == record.fingerprint)
}

/// That what a run keeps in that folder is no result of its measure.
fn damaged(name: &str, folder: &str, command: &str) -> String {
    format!(
        "{name} is not shown: what the run keeps of it is damaged (numbers are missing, beyond the measure's range, or not the same for \
         both orders of a pair); delete it from the run's folder {folder} and run `{command}` again."
    )
}

/// A heat map beside the report's own.
pub(super) struct Further<'a> {
    /// The name of its element of the page, and of its file.
    pub id: String,
    title: &'a str,
    pub matrix: &'a Matrix,
    /// From top to bottom and from left to right.
    pub order: Vec<usize>,
    groups: Vec<usize>,
}

impl Further<'_> {
    pub fn heat_map(&self) -> HeatMap<'_> {
        HeatMap { matrix: self.matrix, order: &self.order, groups: &self.groups, title: self.title }
    }

    pub fn figure(&self) -> Figure {
        self.heat_map().figure()
    }
}

/// A name with nothing that means something in a path or a page.
fn plain(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() || letter == '_' { letter } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::similarity::features::Measure;
    use crate::similarity::features::kept::{LayersOf, Weights, values_of};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    /// Of four networks, each less like those that are further away.
    fn matrix() -> Matrix {
        let score = |row: usize, column: usize| 4.0 - row.abs_diff(column) as f64 - 0.1 * (row * column) as f64;
        Matrix::new(names(&["a", "b", "c", "<d>"]), score)
    }

    fn report() -> Report {
        Report::of("T", "here", matrix(), None, 2)
    }

    fn record(matrix: &Matrix) -> MeasureRecord {
        let of = |name: &String| Weights { name: name.clone(), sha256: "0".into() };
        MeasureRecord {
            netkin: env!("CARGO_PKG_VERSION").into(),
            fingerprint: "f".into(),
            measure: Measure::CkaLinear,
            bandwidth: None,
            networks: matrix.names.iter().map(of).collect(),
            values: values_of(matrix),
            device: "flex".into(),
        }
    }

    #[test]
    fn what_a_run_keeps_is_on_the_page() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run"), &json!({})).unwrap();
        // In another order; and an earlier one, of fewer networks.
        let turned = Matrix::new(names(&["<d>", "c", "b", "a"]), |row, column| 0.1 * matrix().get(3 - row, 3 - column));
        let fewer = Matrix::new(names(&["a", "b"]), |_, _| 0.5);
        for matrix in [&fewer, &turned] {
            record(matrix).keep(&run).unwrap();
        }
        let of = |name: &str| LayersOf { name: name.into(), sha256: "0".into(), layers: names(&["x<", "y"]) };
        let layers = LayerRecord {
            netkin: "1".into(),
            fingerprint: "f".into(),
            images: 8,
            measure: Measure::Dcor,
            bandwidth: None,
            mini_batch: 4,
            models: vec![of("one"), of("other")],
            values: vec![
                vec![Some(1.0), Some(0.25), None, Some(0.5)],
                vec![Some(0.25), Some(1.0), None, Some(0.75)],
                vec![None; 4],
                vec![Some(0.5), Some(0.75), None, Some(1.0)],
            ],
            precision: "f32".into(),
            device: "flex".into(),
        };
        layers.keep(&run).unwrap();
        // Damaged: beyond the measure's range, and not symmetric.
        let mut beyond = MeasureRecord { measure: Measure::CkaRbf, ..record(&turned) };
        beyond.values[0][1] = Some(7.0);
        beyond.values[1][0] = Some(7.0);
        let mut crooked = MeasureRecord { measure: Measure::Kappa, ..record(&turned) };
        crooked.values[0][1] = Some(-0.5);
        beyond.keep(&run).unwrap();
        crooked.keep(&run).unwrap();
        let report = report().with_kept(&run, "f").unwrap();
        assert_eq!((report.measures.len(), report.layers.len()), (1, 1));
        let is_said =
            |name: &str| report.missing.iter().any(|said| said.contains(name) && said.contains("matrix fill"));
        assert!(is_said("cka_rbf") && is_said("kappa"), "{:?}", report.missing);
        let agreement = report.measures[0].agreement.as_ref().unwrap();
        assert!((agreement.pearson.correlation - 1.0).abs() < 1e-12 && report.measures[0].matrix.names[0] == "a");
        let files: Vec<String> = report.figures().into_iter().map(|(name, _)| name).collect();
        for name in ["measure-1-cka_linear", "layers-1"] {
            assert!(files.iter().any(|file| file == name), "{name} is not among {files:?}");
        }
        let html = report.to_html();
        for part in ["id=\"measure-1-cka_linear\"", "id=\"layers-1\"", "one:x&lt;", "8 of the run&#39;s images"] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("<d>"));
    }

    #[test]
    fn what_cannot_be_shown_is_said() {
        let mut report = report();
        report.add_measure("fewer", "", &Matrix::new(names(&["a", "b"]), |_, _| 0.5));
        report.add_measure("gaps", "", &Matrix::new(matrix().names, |row, _| if row == 0 { f64::NAN } else { 1.0 }));
        assert!(report.measures.is_empty() && report.not_shown.len() == 2);
        report.add_measure("constant", "", &Matrix::new(matrix().names, |_, _| 1.0));
        assert!(report.measures.len() == 1 && report.measures[0].agreement.is_none());
        let html = report.to_html();
        for part in ["lacks c, &lt;d&gt;", "gaps is not shown", "constant is shown without its agreement"] {
            assert!(html.contains(part), "{part}");
        }
    }
}
