//! Orthogonal Procrustes distance: how far features are apart after the best rotation of one onto the other.
//!
//! Ding, Denain & Steinhardt, *Grounding Representation Similarity with Statistical Testing* (arXiv 2108.01661): with both
//! matrices of features centred and of Frobenius norm 1, min_Q ‖X − Y Q‖² = 2 − 2 ‖Xᵀ Y‖_*, where ‖·‖_* is the sum of
//! singular values. Everything here is in f64.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

use super::data::{Features, Values};
use super::products::{Form, block};
use super::{FeatureError, Measure, bytes_of, check_images, check_room};
use crate::memory;

/// The squared distance, 0 (the same but for a rotation) to 2 (nothing in common).
///
/// # Errors
/// [`FeatureError::OtherImages`], [`FeatureError::TooFew`], [`FeatureError::Constant`] or [`FeatureError::Memory`].
pub fn procrustes(x: &Features, y: &Features) -> Result<f64, FeatureError> {
    check_images(&[x, y], "the Procrustes distance", Measure::Procrustes.properties().least_images)?;
    let (x, y) = (x.with_mean_0()?, y.with_mean_0()?);
    let (x, y): (&Features, &Features) = (&x, &y);
    let norm = |features: &Features| features.squares.iter().sum::<f64>().sqrt();
    if let Some(constant) = [x, y].into_iter().find(|features| norm(features) == 0.0) {
        return Err(FeatureError::Constant { name: constant.name().to_owned() });
    }
    check_room(
        format!("the Procrustes distance of {} and {}", x.name(), y.name()),
        bytes(x, y),
        memory::available(),
        ADVICE,
    )?;
    let cross = cross(&compact(x), &compact(y));
    let values = cross.singular_values().expect("finite matrices have singular values");
    let nuclear: f64 = values.iter().sum();
    Ok((2.0 - 2.0 * nuclear / (norm(x) * norm(y))).clamp(0.0, 2.0))
}

const ADVICE: &str = "take fewer images, narrower layers, or a measure such as dcor that needs no such matrices";

/// What the matrices take that are made on the way: products of all images and their eigenvectors where there are more features than
/// images, and the product of both sets with its own copy.
fn bytes(x: &Features, y: &Features) -> u64 {
    let images = x.images();
    let rotated =
        |set: &Features| if set.width() > images { bytes_of(images, 4 * images, size_of::<f64>()) } else { 0 };
    let [rows, columns] = [x, y].map(|set| set.width().min(images));
    rotated(x).saturating_add(rotated(y)).saturating_add(bytes_of(rows, 2 * columns, size_of::<f64>()))
}

/// Features, or a rotation of them that has no more features than images.
enum Compact<'a> {
    AsTheyAre(&'a Features),
    /// `[image, feature]`.
    Rotated(Mat<f64>),
}

/// More features than images span no more dimensions than there are images: X = F Vᵀ with F = U √Λ from X Xᵀ = U Λ Uᵀ.
fn compact(features: &Features) -> Compact<'_> {
    let images = features.images();
    if features.width() <= images {
        return Compact::AsTheyAre(features);
    }
    let products = block(features, Form::Linear, 0..images, 0..images);
    let products = MatRef::from_row_major_slice(&products, images, images);
    let eigen = products.self_adjoint_eigen(Side::Lower).expect("finite symmetric matrices have eigenvectors");
    let (values, vectors) = (eigen.S(), eigen.U());
    Compact::Rotated(Mat::from_fn(images, images, |image, axis| vectors[(image, axis)] * values[axis].max(0.0).sqrt()))
}

impl Compact<'_> {
    fn size(&self) -> [usize; 2] {
        match self {
            Self::AsTheyAre(features) => [features.images(), features.width()],
            Self::Rotated(rotated) => [rotated.nrows(), rotated.ncols()],
        }
    }

    /// Some rows and columns, row by row.
    fn part(&self, images: Range<usize>, columns: Range<usize>) -> Vec<f64> {
        match self {
            Self::Rotated(rotated) => {
                images.flat_map(|image| columns.clone().map(move |column| rotated[(image, column)])).collect()
            }
            Self::AsTheyAre(features) => {
                let row =
                    |image: usize| image * features.width() + columns.start..image * features.width() + columns.end;
                match &features.values {
                    Values::F32(values) => {
                        images.flat_map(|image| &values[row(image)]).map(|&value| value.into()).collect()
                    }
                    Values::F64(values) => images.flat_map(|image| &values[row(image)]).copied().collect(),
                }
            }
        }
    }
}

/// Xᵀ Y, by blocks of rows and of columns.
fn cross(x: &Compact, y: &Compact) -> Mat<f64> {
    const COLUMNS: usize = 256;
    const IMAGES: usize = 1024;
    let ([images, width_x], [_, width_y]) = (x.size(), y.size());
    let columns = |start: usize, width: usize| start..(start + COLUMNS).min(width);
    let tasks: Vec<(Range<usize>, Range<usize>)> = (0..width_x)
        .step_by(COLUMNS)
        .flat_map(|a| (0..width_y).step_by(COLUMNS).map(move |b| (columns(a, width_x), columns(b, width_y))))
        .collect();
    let product = |(a, b): &(Range<usize>, Range<usize>)| -> Vec<f64> {
        let mut sums = vec![0.0; a.len() * b.len()];
        for start in (0..images).step_by(IMAGES) {
            let rows = start..(start + IMAGES).min(images);
            let [left, right] = [(x, a), (y, b)].map(|(of, columns)| of.part(rows.clone(), columns.clone()));
            let left = MatRef::from_row_major_slice(&left, rows.len(), a.len());
            let right = MatRef::from_row_major_slice(&right, rows.len(), b.len());
            let to = MatMut::from_row_major_slice_mut(&mut sums, a.len(), b.len());
            matmul(to, Accum::Add, left.transpose(), right, 1.0, Par::Seq);
        }
        sums
    };
    let parts: Vec<Vec<f64>> = tasks.par_iter().map(product).collect();
    let mut cross = Mat::zeros(width_x, width_y);
    for ((a, b), part) in tasks.iter().zip(parts) {
        let part = MatRef::from_row_major_slice(&part, a.len(), b.len());
        cross.submatrix_mut(a.start, b.start, a.len(), b.len()).copy_from(part);
    }
    cross
}

#[cfg(test)]
mod tests {
    use super::super::tests::{drawn, for_each_case, in_f64, related};
    use super::*;

    /// SciPy; scripts/features_reference.py.
    #[test]
    fn beside_scipy() {
        for_each_case(|[x, y, _], check| check(procrustes(x, y).unwrap(), "procrustes"));
    }

    #[test]
    fn of_rotated_features_it_is_0() {
        // More images than features, and fewer.
        for (images, width) in [(600, 300), (20, 50)] {
            let [x, ..] = related(2, images, [width, 1, 1]);
            let turned: Vec<f64> =
                x.chunks_exact(width).flat_map(|row| row.iter().rev().map(|value| 1.0 - value)).collect();
            let value = procrustes(&in_f64("x", &x, images), &in_f64("turned", &turned, images)).unwrap();
            assert!(value.abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn constant_features_are_refused() {
        let (x, constant) = (in_f64("x", &drawn(1, 20), 10), in_f64("constant", &[1.5; 20], 10));
        assert!(matches!(procrustes(&x, &constant), Err(FeatureError::Constant { name }) if name == "constant"));
    }
}
