//! How alike networks are in what they say: their predictions.

use super::{FeatureError, Values};
use crate::analysis::uncertainty::error_consistency;

/// What a network says of some images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predictions {
    /// What messages call it.
    pub name: String,
    /// The most probable class of each image; the first of equals.
    pub classes: Vec<usize>,
}

impl Predictions {
    /// Of logits or probabilities, `[image, class]`.
    ///
    /// # Errors
    /// [`FeatureError::Empty`] or [`FeatureError::NotFinite`].
    pub fn of(name: impl Into<String>, values: &Values, images: usize) -> Result<Self, FeatureError> {
        let name = name.into();
        let width = values.len().checked_div(images).unwrap_or(0);
        if width == 0 {
            return Err(FeatureError::Empty { name, images, width });
        }
        let class = |image: usize| -> Result<usize, FeatureError> {
            let mut best = (0, f64::NEG_INFINITY);
            for feature in 0..width {
                let value = values.get(image * width + feature);
                if !value.is_finite() {
                    return Err(FeatureError::NotFinite { name: name.clone(), image, feature, value });
                }
                if value > best.1 {
                    best = (feature, value);
                }
            }
            Ok(best.0)
        };
        let classes = (0..images).map(class).collect::<Result<_, _>>()?;
        Ok(Self { name, classes })
    }
}

fn check(a: &Predictions, b: &Predictions) -> Result<(), FeatureError> {
    if a.classes.len() == b.classes.len() {
        return Ok(());
    }
    Err(FeatureError::OtherImages {
        a: a.name.clone(),
        images_a: a.classes.len(),
        b: b.name.clone(),
        images_b: b.classes.len(),
    })
}

/// The share of images whose most probable classes differ, 0 to 1.
///
/// # Errors
/// [`FeatureError::OtherImages`].
pub fn disagreement(a: &Predictions, b: &Predictions) -> Result<f64, FeatureError> {
    check(a, b)?;
    let different = a.classes.iter().zip(&b.classes).filter(|(a, b)| a != b).count();
    Ok(different as f64 / a.classes.len() as f64)
}

/// Error consistency, Cohen's κ of the images that each classifies correctly, −1 to 1: 1 where they err on the same images, 0
/// where as often as chance has it (Geirhos, Meding & Wichmann, arXiv 2006.16736).
///
/// # Errors
/// [`FeatureError::OtherImages`] or [`FeatureError::NoErrors`].
///
/// # Panics
/// If there are not as many labels as images.
pub fn kappa(a: &Predictions, b: &Predictions, labels: &[usize]) -> Result<f64, FeatureError> {
    check(a, b)?;
    assert_eq!(labels.len(), a.classes.len(), "every image has a label");
    let right = |predictions: &Predictions| -> Vec<bool> {
        predictions.classes.iter().zip(labels).map(|(class, label)| class == label).collect()
    };
    let value = error_consistency(&right(a), &right(b), &vec![1; labels.len()]);
    let images = labels.len();
    let none = || FeatureError::NoErrors { a: a.name.clone(), b: b.name.clone(), images };
    if value.is_nan() { Err(none()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(classes: &[usize]) -> Predictions {
        Predictions { name: "x".into(), classes: classes.to_vec() }
    }

    #[test]
    fn the_first_of_the_largest_is_predicted() {
        let values = Values::F32(vec![0.5, 2.0, 2.0, -1.0, -3.0, -2.0]);
        assert_eq!(Predictions::of("x", &values, 2).unwrap(), predictions(&[1, 0]));
        let error = Predictions::of("x", &Values::F64(vec![0.0, f64::NAN]), 1).unwrap_err();
        assert!(matches!(error, FeatureError::NotFinite { image: 0, feature: 1, .. }));
        assert!(Predictions::of("x", &Values::F64(vec![]), 0).is_err());
    }

    #[test]
    fn predictions_are_counted() {
        let (a, b) = (predictions(&[1, 2, 3, 0]), predictions(&[1, 2, 0, 3]));
        assert_eq!(disagreement(&a, &b).unwrap(), 0.5);
        assert_eq!(disagreement(&a, &a).unwrap(), 0.0);
        // Right on 0, 1, 2 and on 0, 1, 3: same on two of four, 5/8 by chance.
        let value = kappa(&a, &b, &[1, 2, 3, 3]).unwrap();
        assert!((value - (0.5 - 0.625) / 0.375).abs() < 1e-12, "{value}");
        assert!(matches!(kappa(&a, &a, &[1, 2, 3, 0]), Err(FeatureError::NoErrors { images: 4, .. })));
        assert!(matches!(disagreement(&a, &predictions(&[1])), Err(FeatureError::OtherImages { .. })));
    }
}
