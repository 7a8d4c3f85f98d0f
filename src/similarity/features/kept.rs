//! What a run folder keeps beside its scores for its report: matrices of other measures of its networks, and maps of layers.

use serde::{Deserialize, Serialize};

use super::{Measure, Properties};
use crate::runs::{Key, RunError, RunFolder};
use crate::similarity::Matrix;

/// A measure of all pairs of a run's networks on the run's images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasureRecord {
    /// The version that computed it.
    pub netkin: String,
    /// Of the images.
    pub fingerprint: String,
    /// What was measured.
    pub measure: Measure,
    /// Of a Gaussian kernel, as a multiple of the median distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<f64>,
    /// The networks, in the order of rows and columns.
    pub networks: Vec<Weights>,
    /// Row by row; higher is more alike.
    pub values: Vec<Vec<Option<f64>>>,
    /// What it was computed on.
    pub device: String,
}

/// A network by its name and the SHA-256 of its weights' file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Its name in the run.
    pub name: String,
    /// In hexadecimal.
    pub sha256: String,
}

/// How alike all layers of one or two networks are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The version that computed it.
    pub netkin: String,
    /// Of the images.
    pub fingerprint: String,
    /// How many images count.
    pub images: usize,
    /// What was measured.
    pub measure: Measure,
    /// Of a Gaussian kernel, as a multiple of the median distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<f64>,
    /// Images of a mini-batch.
    pub mini_batch: usize,
    /// The networks with their layers.
    pub models: Vec<LayersOf>,
    /// Row by row; none where a layer is constant.
    pub values: Vec<Vec<Option<f64>>>,
    /// The number format of the networks' computations.
    pub precision: String,
    /// What it was computed on.
    pub device: String,
}

/// A network with its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayersOf {
    /// Its name.
    pub name: String,
    /// The SHA-256 of its weights' file, in hexadecimal.
    pub sha256: String,
    /// By timm's names of blocks, in their order.
    pub layers: Vec<String>,
}

const MEASURES: &str = "measures";
const LAYERS: &str = "layers";

/// Of JSON, which has no word for what is no number.
pub fn values_of(matrix: &Matrix) -> Vec<Vec<Option<f64>>> {
    let known = |value: &f64| (!value.is_nan()).then_some(*value);
    matrix.values.chunks(matrix.names.len().max(1)).map(|row| row.iter().map(known).collect()).collect()
}

/// A matrix of these names; none if it is not square.
fn matrix(names: Vec<String>, values: &[Vec<Option<f64>>]) -> Option<Matrix> {
    let count = names.len();
    let is_square = count > 0 && values.len() == count && values.iter().all(|row| row.len() == count);
    let values = values.iter().flatten().map(|value| value.unwrap_or(f64::NAN)).collect();
    is_square.then_some(Matrix { names, values })
}

/// Whether scores are within a range and, of a symmetric measure, the same for both orders of a pair, but for a last digit. What is
/// not known is possible.
fn is_possible(matrix: &Matrix, [low, high]: [f64; 2], is_symmetric: bool) -> bool {
    const LAST_DIGIT: f64 = 1e-6;
    let is_same = |a: f64, b: f64| (a.is_nan() && b.is_nan()) || (a - b).abs() <= LAST_DIGIT;
    let count = matrix.names.len();
    let is_within = |value: &f64| value.is_nan() || (low - LAST_DIGIT..=high + LAST_DIGIT).contains(value);
    let pairs = || (0..count).flat_map(|a| (0..a).map(move |b| (a, b)));
    matrix.values.iter().all(is_within)
        && (!is_symmetric || pairs().all(|(a, b)| is_same(matrix.get(a, b), matrix.get(b, a))))
}

impl MeasureRecord {
    /// Keeps it in a run folder, where one of the same networks stays.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, run: &RunFolder) -> Result<(), RunError> {
        let depends_on = (&self.netkin, &self.fingerprint, self.measure, self.bandwidth, &self.networks);
        run.keep_record(MEASURES, self.measure.properties().column, Key::of(&depends_on), self)
    }

    /// Those that a run folder keeps.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn all(run: &RunFolder) -> Result<Vec<Self>, RunError> {
        run.records(MEASURES)
    }

    /// The scores; none if the record is not of so many networks, or its scores are none of the measure.
    pub fn matrix(&self) -> Option<Matrix> {
        let Properties { range, is_likeness, is_symmetric, .. } = self.measure.properties();
        // Distances are kept turned round.
        let range = if is_likeness { range } else { [0.0, 1.0] };
        let names = self.networks.iter().map(|network| network.name.clone()).collect();
        matrix(names, &self.values).filter(|matrix| is_possible(matrix, range, is_symmetric))
    }
}

impl LayerRecord {
    /// Keeps it in a run folder, where one of the same networks stays.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, run: &RunFolder) -> Result<(), RunError> {
        let how = (self.measure, self.bandwidth, self.mini_batch, &self.precision);
        let key = Key::of(&(&self.netkin, &self.fingerprint, how, &self.models));
        run.keep_record(LAYERS, &self.models_by_name(), key, self)
    }

    /// Those that a run folder keeps.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn all(run: &RunFolder) -> Result<Vec<Self>, RunError> {
        run.records(LAYERS)
    }

    /// The networks' names.
    pub fn models_by_name(&self) -> String {
        self.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(" and ")
    }

    /// What rows and columns are called: of two networks with the network's name in front.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (index, LayersOf { name, layers, .. }) in self.models.iter().enumerate() {
            // Two of one name are told apart by their place.
            let is_twice = self.models.iter().filter(|other| other.name == *name).count() > 1;
            let prefix = match self.models.len() {
                1 => String::new(),
                _ if is_twice => format!("{name} {}:", index + 1),
                _ => format!("{name}:"),
            };
            names.extend(layers.iter().map(|layer| format!("{prefix}{layer}")));
        }
        names
    }

    /// Which network each row is of.
    pub fn groups(&self) -> Vec<usize> {
        let of = |(index, model): (usize, &LayersOf)| vec![index; model.layers.len()];
        self.models.iter().enumerate().flat_map(of).collect()
    }

    /// The scores; none if the record is not of so many layers, or its scores are none of the measure.
    pub fn matrix(&self) -> Option<Matrix> {
        let Properties { range, is_symmetric, .. } = self.measure.properties();
        matrix(self.names(), &self.values).filter(|matrix| is_possible(matrix, range, is_symmetric))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layers() -> LayerRecord {
        let of = |name: &str, layers: &[&str]| LayersOf {
            name: name.into(),
            sha256: "0".into(),
            layers: layers.iter().map(|layer| layer.to_string()).collect(),
        };
        LayerRecord {
            netkin: "1".into(),
            fingerprint: "f".into(),
            images: 8,
            measure: Measure::CkaLinear,
            bandwidth: None,
            mini_batch: 4,
            models: vec![of("a", &["x"]), of("b", &["x", "y"])],
            values: vec![vec![Some(1.0), Some(0.5), None], vec![Some(0.5), Some(1.0), None], vec![None; 3]],
            precision: "f32".into(),
            device: "flex".into(),
        }
    }

    #[test]
    fn a_run_keeps_them_once() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run"), &json!({})).unwrap();
        let measure = MeasureRecord {
            netkin: "1".into(),
            fingerprint: "f".into(),
            measure: Measure::Dcor,
            bandwidth: None,
            networks: ["a", "b"].map(|name| Weights { name: name.into(), sha256: "0".into() }).into(),
            values: vec![vec![Some(1.0), Some(0.1)], vec![Some(0.1), Some(1.0)]],
            device: "flex".into(),
        };
        for _ in 0..2 {
            measure.keep(&run).unwrap();
            layers().keep(&run).unwrap();
        }
        assert_eq!(MeasureRecord::all(&run).unwrap(), std::slice::from_ref(&measure));
        assert_eq!(measure.matrix().unwrap().values, [1.0, 0.1, 0.1, 1.0]);
        assert_eq!(LayerRecord::all(&run).unwrap(), [layers()]);
        assert_eq!(MeasureRecord { values: Vec::new(), ..measure }.matrix(), None);
    }

    #[test]
    fn layers_bear_their_networks_names() {
        let record = layers();
        assert_eq!((record.names(), record.groups()), (["a:x", "b:x", "b:y"].map(String::from).into(), vec![0, 1, 1]));
        let matrix = record.matrix().unwrap();
        assert!(matrix.get(0, 1) == 0.5 && matrix.get(0, 2).is_nan());
        assert_eq!(values_of(&matrix), record.values);
        let mut twice = record.clone();
        twice.models[1].name = "a".into();
        assert_eq!(twice.names()[2], "a 2:y");
        let one = LayerRecord { models: record.models[1..].to_vec(), ..record };
        assert_eq!((one.names().join(" "), one.matrix()), ("x y".into(), None));
    }
}
