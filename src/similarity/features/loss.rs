//! Distance correlations of tensors, differentiable with respect to both: losses for training.
//!
//! As in [`distance_correlation`](super::distance_correlation) and [`partial`](super::partial), on whatever device and in
//! whatever precision the tensors are; a batch of images is few enough for whole matrices. The gradient of a distance is 0
//! where the distance is, as PyTorch's `cdist` has it.

use burn::tensor::{Bool, DType, Tensor};

use super::Centring;

/// Keeps the quotients of [`diverge_loss`] and [`dependence`] finite, as the authors' code does.
const TINY: f64 = 1e-9;

/// |x_i − x_j| of rows `[batch, feature]` → `[batch, batch]`.
fn distances(x: Tensor<2>) -> Tensor<2> {
    // Squared distances below this share of the rows' squares are rounding.
    let rounding = if x.dtype() == DType::F64 { 1e-14 } else { 1e-6 };
    // Moved to mean 0, so that differences of products keep their digits.
    let x = x.clone() - x.mean_dim(0);
    let squares = x.clone().square().sum_dim(1);
    let both = squares.clone() + squares.transpose();
    let squared = both.clone() - x.clone().matmul(x.transpose()).mul_scalar(2.0);
    let is_zero: Tensor<2, Bool> = (squared.clone() - both.mul_scalar(rounding)).lower_equal_elem(0.0);
    squared.mask_fill(is_zero.clone(), 1.0).sqrt().mask_fill(is_zero, 0.0)
}

/// A matrix of distances, centred.
fn centred(a: Tensor<2>, centring: Centring) -> Tensor<2> {
    let [size, _] = a.dims();
    let n = size as f64;
    let rows = a.clone().sum_dim(1);
    let columns = a.clone().sum_dim(0);
    let all = rows.clone().sum_dim(0);
    match centring {
        Centring::Double => a - rows.mul_scalar(1.0 / n) - columns.mul_scalar(1.0 / n) + all.mul_scalar(1.0 / (n * n)),
        Centring::Unbiased => {
            let off_diagonal = Tensor::<2, Bool>::diag_mask([size, size], 0, &a.device().without_autodiff());
            let centred = a - rows.mul_scalar(1.0 / (n - 2.0)) - columns.mul_scalar(1.0 / (n - 2.0))
                + all.mul_scalar(1.0 / ((n - 1.0) * (n - 2.0)));
            centred.mask_fill(off_diagonal.bool_not(), 0.0)
        }
    }
}

/// ⟨A, B⟩ of centred matrices.
fn inner(a: &Tensor<2>, b: &Tensor<2>, centring: Centring) -> Tensor<1> {
    let n = a.dims()[0] as f64;
    let count = match centring {
        Centring::Double => n * n,
        Centring::Unbiased => n * (n - 3.0),
    };
    (a.clone() * b.clone()).sum().mul_scalar(1.0 / count)
}

fn correlation(a: &Tensor<2>, b: &Tensor<2>, centring: Centring) -> Tensor<1> {
    let inner = |a, b| inner(a, b, centring);
    inner(a, b) / (inner(a, a) * inner(b, b)).sqrt()
}

fn check(sets: &[&Tensor<2>], least: usize) {
    let [batch, _] = sets[0].dims();
    assert!(sets.iter().all(|set| set.dims()[0] == batch), "all features are of the same images");
    assert!(batch >= least, "a batch of {batch} images is too small; it takes {least}");
}

/// R² of the features x and y `[batch, feature]` of the same images, `[1]`.
///
/// Not a number where the features of one are all the same.
///
/// # Panics
/// If the batches differ, or have fewer images than the centring needs.
pub fn distance_correlation(x: Tensor<2>, y: Tensor<2>, centring: Centring) -> Tensor<1> {
    check(&[&x, &y], centring.least_images());
    let [a, b] = [x, y].map(|features| centred(distances(features), centring));
    correlation(&a, &b, centring)
}

/// The biased R² that Zhen et al. (arXiv 2207.09684) train networks to diverge with, `[1]`: rows of length 1, doubly centred, and
/// R² = ⟨A, B⟩ / √(⟨A, A⟩ ⟨B, B⟩ + 10⁻⁹). Give y detached where only x is to learn.
///
/// # Panics
/// If the batches differ, or have fewer than two images.
pub fn diverge_loss(x: Tensor<2>, y: Tensor<2>) -> Tensor<1> {
    const LEAST_LENGTH: f64 = 1e-12;
    check(&[&x, &y], Centring::Double.least_images());
    let unit = |x: Tensor<2>| {
        let squares = x.clone().square().sum_dim(1).clamp_min(LEAST_LENGTH * LEAST_LENGTH);
        x / squares.sqrt()
    };
    finite([x, y].map(unit))
}

/// The biased R² of the features x and y `[batch, feature]` as a penalty, `[1]`: that of [`distance_correlation`], but 0, with gradients
/// of 0, where the features of one are all the same.
///
/// # Panics
/// If the batches differ, or have fewer than two images.
pub fn dependence(x: Tensor<2>, y: Tensor<2>) -> Tensor<1> {
    const LEAST_SIZE: f64 = 1e-12;
    check(&[&x, &y], Centring::Double.least_images());
    // Neither a shift nor a factor changes R², so that they can be taken for constants; with them, squares are about 1.
    let scaled = |x: Tensor<2>| {
        let constant = x.clone().inner();
        let mean = constant.clone().mean_dim(0);
        let size = (constant - mean.clone()).square().sum_dim(1).mean().sqrt();
        (x - mean) / size.clamp_min(LEAST_SIZE).reshape([1, 1])
    };
    finite([x, y].map(scaled))
}

/// R² of features whose squares are about 1, doubly centred; 0 where it had none.
fn finite(sets: [Tensor<2>; 2]) -> Tensor<1> {
    let [a, b] = sets.map(|features| centred(distances(features), Centring::Double));
    let inner = |a, b| inner(a, b, Centring::Double);
    inner(&a, &b) / (inner(&a, &a) * inner(&b, &b)).add_scalar(TINY).sqrt()
}

/// The unbiased correlation of x and y `[batch, feature]` once `given` is projected out of both, `[1]`.
///
/// # Panics
/// If the batches differ, or have fewer than four images.
pub fn partial_distance_correlation(x: Tensor<2>, y: Tensor<2>, given: Tensor<2>) -> Tensor<1> {
    let [a, b, c] = matrices(x, y, given);
    correlation(&without(a, &c), &without(b, &c), Centring::Unbiased)
}

/// The same with `given` projected out of x only, as the code of Zhen et al. does.
///
/// # Panics
/// As [`partial_distance_correlation`].
pub fn semi_partial_distance_correlation(x: Tensor<2>, y: Tensor<2>, given: Tensor<2>) -> Tensor<1> {
    let [a, b, c] = matrices(x, y, given);
    correlation(&without(a, &c), &b, Centring::Unbiased)
}

fn matrices(x: Tensor<2>, y: Tensor<2>, given: Tensor<2>) -> [Tensor<2>; 3] {
    check(&[&x, &y, &given], Centring::Unbiased.least_images());
    [x, y, given].map(|features| centred(distances(features), Centring::Unbiased))
}

/// A − (⟨A, C⟩ / ⟨C, C⟩) C.
fn without(a: Tensor<2>, c: &Tensor<2>) -> Tensor<2> {
    let inner = |a, b| inner(a, b, Centring::Unbiased);
    let share = inner(&a, c) / inner(c, c);
    a - c.clone() * share.reshape([1, 1])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::tests::{drawn, for_each_case, reference, related};
    use super::*;
    use crate::model::to_f64;

    type Loss = fn([Tensor<2>; 3]) -> Tensor<1>;

    /// By the names of the reference values.
    const LOSSES: [(&str, Loss); 5] = [
        ("biased", |[x, y, _]| distance_correlation(x, y, Centring::Double)),
        ("unbiased", |[x, y, _]| distance_correlation(x, y, Centring::Unbiased)),
        ("partial", |[x, y, z]| partial_distance_correlation(x, y, z)),
        ("semi_partial", |[x, y, z]| semi_partial_distance_correlation(x, y, z)),
        ("diverge", |[x, y, _]| diverge_loss(x, y)),
    ];

    fn tensor(values: &[f64], images: usize, dtype: DType) -> Tensor<2> {
        let data = TensorData::new(values.to_vec(), [images, values.len() / images]);
        Tensor::from_data(data, (&Device::flex(), dtype))
    }

    /// The loss and its gradients.
    fn gradients(loss: Loss, sets: &[Vec<f64>; 3], images: usize, dtype: DType) -> (f64, [Vec<f64>; 3]) {
        let tracked: [Tensor<2>; 3] =
            std::array::from_fn(|set| tensor(&sets[set], images, dtype).autodiff().require_grad());
        let value = loss(tracked.clone());
        let mut gradients = value.clone().backward();
        let of = |x: Tensor<2>| {
            let gradient = x.grad_remove(&mut gradients).unwrap_or_else(|| x.inner().zeros_like());
            to_f64(gradient)
        };
        (to_f64(value.inner())[0], tracked.map(of))
    }

    fn largest(values: &[f64]) -> f64 {
        values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()))
    }

    /// PyTorch's autograd on a script of ours from the definitions; scripts/features_reference.py.
    #[test]
    fn beside_pytorch() {
        let reference = reference();
        let case = &reference["gradients"];
        let images = case["images"].as_u64().unwrap() as usize;
        let widths: [usize; 3] = serde_json::from_value(case["widths"].clone()).unwrap();
        let sets = related(case["seed"].as_u64().unwrap(), images, widths);
        for (name, loss) in LOSSES {
            let theirs = &case["losses"][name];
            for (dtype, tolerance) in [(DType::F64, 1e-6), (DType::F32, 1e-4)] {
                let (value, ours) = gradients(loss, &sets, images, dtype);
                let expected = theirs["value"].as_f64().unwrap();
                let error = (value - expected).abs() / expected.abs();
                assert!(error <= tolerance, "{name}, {dtype:?}: {value} beside {expected}");
                for (set, ours) in ["x", "y", "z"].iter().zip(&ours) {
                    let expected: Vec<f64> = serde_json::from_value(theirs[*set].clone()).unwrap();
                    assert_eq!(ours.len(), expected.len(), "{name}, {set}");
                    let differences: Vec<f64> = ours.iter().zip(&expected).map(|(a, b)| a - b).collect();
                    let (difference, scale) = (largest(&differences), largest(&expected));
                    assert!(difference <= tolerance * scale, "{name}, {set}, {dtype:?}: {difference} of {scale}");
                }
            }
        }
    }

    /// Along random directions, the loss changes as its gradient says.
    #[test]
    fn beside_central_differences() {
        const STEP: f64 = 1e-5;
        let images = 11;
        let sets = related(21, images, [4, 6, 3]);
        for (name, loss) in LOSSES {
            let (_, ours) = gradients(loss, &sets, images, DType::F64);
            for set in 0..3 {
                for direction in 0..3 {
                    let along = drawn(100 + direction, sets[set].len());
                    let moved = |step: f64| {
                        let mut sets = sets.clone();
                        sets[set].iter_mut().zip(&along).for_each(|(value, along)| *value += step * along);
                        to_f64(loss(sets.map(|values| tensor(&values, images, DType::F64))))[0]
                    };
                    let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                    let found: f64 = ours[set].iter().zip(&along).map(|(a, b)| a * b).sum();
                    assert!((found - expected).abs() < 1e-7, "{name}, set {set}: {found} beside {expected}");
                }
            }
        }
    }

    /// Losses are the statistics of the analyses.
    #[test]
    fn they_are_what_analyses_compute() {
        for_each_case(|[x, y, z], check| {
            if !matches!(x.values, super::super::Values::F64(_)) {
                return;
            }
            let images = x.images();
            let [x, y, z] = [x, y, z].map(|set| {
                let values: Vec<f64> = (0..set.values.len()).map(|at| set.values.get(at)).collect();
                tensor(&values, images, DType::F64)
            });
            let of = |value: Tensor<1>| to_f64(value)[0];
            check(of(distance_correlation(x.clone(), y.clone(), Centring::Unbiased)), "u_distance_correlation_sqr");
            check(of(distance_correlation(x.clone(), y.clone(), Centring::Double)), "distance_correlation_sqr");
            check(of(partial_distance_correlation(x.clone(), y.clone(), z.clone())), "partial_distance_correlation");
            check(of(semi_partial_distance_correlation(x, y, z)), "semi_partial");
        });
    }

    /// The penalty is the correlation, whatever the features' size, and has a value where the correlation has none.
    #[test]
    fn a_penalty_is_the_correlation_and_always_a_number() {
        let images = 11;
        let sets = related(5, images, [4, 6, 3]);
        let penalty: Loss = |[x, y, _]| dependence(x, y);
        let (expected, theirs) = gradients(LOSSES[0].1, &sets, images, DType::F64);
        let (value, ours) = gradients(penalty, &sets, images, DType::F64);
        assert!((value - expected).abs() < 1e-5, "{value} beside {expected}");
        for (ours, theirs) in ours.iter().flatten().zip(theirs.iter().flatten()) {
            assert!((ours - theirs).abs() < 1e-5, "{ours} beside {theirs}");
        }
        let mut small = sets.clone();
        small[0].iter_mut().for_each(|value| *value *= 1e-6);
        assert!((gradients(penalty, &small, images, DType::F64).0 - expected).abs() < 1e-5);
        for set in 0..2 {
            let mut constant = sets.clone();
            constant[set].fill(0.5);
            let (value, gradients) = gradients(penalty, &constant, images, DType::F64);
            assert!(value == 0.0 && gradients.iter().flatten().all(|value| *value == 0.0), "{value}");
        }
    }

    /// Two images with the same features are at distance 0, where the root has no derivative.
    #[test]
    fn images_that_are_the_same_have_a_gradient() {
        let images = 6;
        let mut sets = related(3, images, [4, 4, 4]);
        sets[0].copy_within(0..4, 4);
        for (name, loss) in LOSSES {
            for dtype in [DType::F64, DType::F32] {
                let (value, gradients) = gradients(loss, &sets, images, dtype);
                assert!(value.is_finite() && gradients.iter().flatten().all(|value| value.is_finite()), "{name}");
            }
        }
    }
}
