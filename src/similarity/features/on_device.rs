//! Products of features on a GPU: of a mini-batch's, which are there and would be far more to fetch than their products are, and of
//! all images', which are brought there, block by block.

use std::cell::OnceCell;
use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};

use super::data::Element;
use super::products::{DEPTH, Pairs, squared_distance};
use super::{FeatureError, Kernel, Values};

/// Features over which products are added up on the device; above it, in f64 here.
const STRETCH: usize = 2048;
/// Images up to which that is worth it: of more, the stretches' products are as many numbers as the features.
const MOST_IMAGES: usize = 512;

/// As [`Pairs::of`], of rows `[image, feature]` on any device. Half precision is computed with as f32.
///
/// A GPU may round the factors of products to 10 bits (TF32). Then what is found is exact for features that were rounded so, as they
/// were on their way through the network: squared lengths come from the same products, and distances of near images from the features
/// themselves.
///
/// # Errors
/// As [`Pairs::of`].
pub(super) fn pairs(name: &str, rows: Tensor<2>, kernel: &Kernel) -> Result<Pairs, FeatureError> {
    let [count, width] = rows.dims();
    if count > MOST_IMAGES || count * width == 0 {
        return Pairs::of(name, Values::of(rows).numbers(), count, kernel);
    }
    let wide = if rows.dtype() == DType::F64 { rows.clone() } else { rows.clone().cast(DType::F32) };
    // From the first row, so that a constant has no rounding.
    let moved = wide.clone() - wide.narrow(0, 0, 1);
    let moved = moved.clone() - moved.mean_dim(0);
    let rounded = if moved.dtype() == DType::F64 { [f64::NEAR, f64::UNIT] } else { [f32::NEAR, f32::UNIT] };
    let here = OnceCell::new();
    let exact = |a: usize, b: usize| match here.get_or_init(|| Values::of(moved.clone())) {
        Values::F32(values) => squared_distance(&values[a * width..][..width], &values[b * width..][..width]),
        Values::F64(values) => squared_distance(&values[a * width..][..width], &values[b * width..][..width]),
    };
    let found = Pairs::of_products(products(moved.clone()), count, kernel, rounded, exact);
    found.ok_or_else(|| Values::of(rows).numbers().not_finite(name, width))
}

/// The products of the images `rows` with the images `columns` of features `[image, feature]`, row by row.
pub(super) fn products_of(features: &Tensor<2>, rows: &Range<usize>, columns: &Range<usize>) -> Vec<f64> {
    let width = features.dims()[1];
    let mut sums = vec![0.0f64; rows.len() * columns.len()];
    for start in (0..width).step_by(DEPTH) {
        let part = |images: &Range<usize>| {
            let stretch = features.clone().narrow(1, start, DEPTH.min(width - start));
            stretch.narrow(0, images.start, images.len())
        };
        let products = part(rows).matmul(part(columns).transpose()).into_data();
        sums.iter_mut().zip(products.iter::<f64>()).for_each(|(sum, product)| *sum += product);
    }
    sums
}

/// The products of all rows with all others, stretch by stretch.
fn products(rows: Tensor<2>) -> Vec<f64> {
    let [count, width] = rows.dims();
    let mut sums = vec![0.0f64; count * count];
    let mut add = |products: TensorData| {
        let all: Vec<f64> = products.iter::<f64>().collect();
        for square in all.chunks_exact(count * count) {
            sums.iter_mut().zip(square).for_each(|(sum, product)| *sum += product);
        }
    };
    let whole = width / STRETCH * STRETCH;
    if whole > 0 {
        let stretches: Tensor<3> = rows.clone().narrow(1, 0, whole).reshape([count, whole / STRETCH, STRETCH]);
        let stretches = stretches.swap_dims(0, 1);
        add(stretches.clone().matmul(stretches.transpose()).into_data());
    }
    if whole < width {
        let rest = rows.narrow(1, whole, width - whole);
        add(rest.clone().matmul(rest.transpose()).into_data());
    }
    sums
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::products::MiniBatches;
    use super::super::tests::{drawn, in_f32, in_f64, related};
    use super::super::{Centring, Features, InnerProducts, Numbers};
    use super::*;

    fn tensor(values: &[f64], images: usize, dtype: DType) -> Tensor<2> {
        let data = TensorData::new(values.to_vec(), [images, values.len() / images]);
        Tensor::from_data(data, (&Device::flex(), dtype))
    }

    /// The CPU's tensors stand for a GPU's: the same inner products, of less than a stretch, a whole one, and more.
    #[test]
    fn what_is_found_on_a_device_is_found_here() {
        let images = 20;
        for width in [3, STRETCH, STRETCH + 7, 3 * STRETCH + 1] {
            let [x, y, _] = related(3, images, [width, 5, 1]);
            for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 1e-4)] {
                for kernel in [Kernel::Distance, Kernel::Linear, Kernel::Gaussian { bandwidth: 1.0 }] {
                    let on_device = |values: &[f64]| pairs("x", tensor(values, images, dtype), &kernel).unwrap();
                    let here = |values: &[f64]| Pairs::of("x", Numbers::F64(values), images, &kernel).unwrap();
                    let correlation = |sets: [Pairs; 2]| {
                        let mut means = MiniBatches::new(vec!["x".into(), "y".into()], Centring::Unbiased);
                        assert!(means.add(&sets));
                        means.finish().unwrap().correlation(0, 1).unwrap()
                    };
                    let (ours, expected) =
                        (correlation([on_device(&x), on_device(&y)]), correlation([here(&x), here(&y)]));
                    assert!((ours - expected).abs() < tolerance, "{width}, {dtype:?}, {kernel:?}: {ours}, {expected}");
                }
            }
        }
    }

    /// As above, of blocks: more images than a block has, more features than are multiplied at once, two formats in one comparison.
    #[test]
    fn blocks_on_a_device_are_those_here() {
        let images = 2100;
        let [x, y, _] = related(5, images, [DEPTH + 3, 4, 1]);
        let here = [in_f32("x", &x, images), in_f64("y", &y, images)];
        let there = here.clone().map(|set| set.multiplied_on(&Device::flex()));
        assert!(there[0].on_device.is_some() && there[1].on_device.is_none());
        for kernel in [Kernel::Distance, Kernel::Linear, Kernel::Gaussian { bandwidth: 1.0 }] {
            let of = |[x, y]: &[Features; 2]| {
                InnerProducts::of(&[x, y], &kernel, Centring::Unbiased).unwrap().correlation(0, 1).unwrap()
            };
            let (ours, expected) = (of(&there), of(&here));
            assert!((ours - expected).abs() < 1e-6, "{kernel:?}: {ours}, {expected}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let mut values = drawn(1, 40);
        values[13] = f64::NAN;
        let error = pairs("x", tensor(&values, 10, DType::F32), &Kernel::Distance).unwrap_err();
        assert!(matches!(error, FeatureError::NotFinite { image: 3, feature: 1, .. }), "{error}");
        // All images the same, which only a mean without rounding shows.
        let same = pairs("x", tensor(&[1.1; 30], 10, DType::F32), &Kernel::Linear).unwrap();
        let mut means = MiniBatches::new(vec!["x".into()], Centring::Double);
        means.add(&[same]);
        assert!(matches!(means.finish().unwrap().correlation(0, 0), Err(FeatureError::Constant { .. })));
    }
}
