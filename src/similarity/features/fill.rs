//! A measure of all pairs of networks, as the matrix that analyses read: more alike networks have higher scores.

use super::procrustes::procrustes;
use super::{FeatureError, Features, InnerProducts, Measure};
use crate::similarity::Matrix;

/// The matrix of networks of these names, of whose pairs `value` tells the measure. Distances are turned round: disagreement d is
/// written as 1 − d, the Procrustes distance d as 1 − d / 2, so that the same scores 1.
///
/// # Errors
/// Whatever `value` says.
pub fn matrix_of(
    names: Vec<String>,
    measure: Measure,
    value: impl Fn(usize, usize) -> Result<f64, FeatureError>,
) -> Result<Matrix, FeatureError> {
    let properties = measure.properties();
    let likeness = |value: f64| if properties.is_likeness { value } else { 1.0 - value / properties.range[1] };
    let count = names.len();
    let mut matrix = Matrix::new(names, |_, _| f64::NAN);
    for (a, b) in (0..count).flat_map(|a| (a..count).map(move |b| (a, b))) {
        let score = likeness(value(a, b)?);
        for place in [a * count + b, b * count + a] {
            matrix.values[place] = score;
        }
    }
    Ok(matrix)
}

/// The same of features of the same images, one set for each network, for a measure of features that needs no third set.
///
/// # Errors
/// [`FeatureError::OtherImages`], [`FeatureError::TooFew`] or [`FeatureError::Constant`].
///
/// # Panics
/// If the measure is of predictions.
pub fn matrix_of_features(features: &[Features], measure: Measure, bandwidth: f64) -> Result<Matrix, FeatureError> {
    assert!(!measure.is_of_outputs(), "{measure:?} is of predictions");
    let names = features.iter().map(|set| set.name().to_owned()).collect();
    match measure.products(bandwidth) {
        Some((kernel, centring)) => {
            let sets: Vec<&Features> = features.iter().collect();
            let products = InnerProducts::of(&sets, &kernel, centring)?;
            matrix_of(names, measure, |a, b| products.correlation(a, b))
        }
        None => matrix_of(names, measure, |a, b| procrustes(&features[a], &features[b])),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{in_f64, related};
    use super::*;

    #[test]
    fn the_same_scores_1_whatever_the_measure() {
        let images = 12;
        let [x, y, z] = related(1, images, [5, 4, 3]);
        let sets = [in_f64("x", &x, images), in_f64("y", &y, images), in_f64("z", &z, images)];
        for measure in [Measure::Dcor, Measure::CkaLinear, Measure::Procrustes] {
            let matrix = matrix_of_features(&sets, measure, 1.0).unwrap();
            assert_eq!(matrix.names, ["x", "y", "z"]);
            for at in 0..3 {
                assert!((matrix.get(at, at) - 1.0).abs() < 1e-9, "{measure:?}: {}", matrix.get(at, at));
            }
            assert!(matrix.get(0, 1) == matrix.get(1, 0) && matrix.get(0, 1) < 1.0, "{measure:?}");
        }
        let different = |a: usize, b: usize| Ok(if a == b { 0.0 } else { 0.25 });
        let turned = matrix_of(vec!["a".into(), "b".into()], Measure::Disagreement, different).unwrap();
        assert_eq!(turned.values, [1.0, 0.75, 0.75, 1.0]);
    }
}
