//! The momentum of steps: gradients of one size, added up.

use burn::tensor::Tensor;

use super::norm::per_image;
use super::pass::{can_pass, pass_images};
use super::sums::fold;

/// A gradient divided by the mean of its absolute values, as attacks with momentum add them up. A gradient of zeros stays one.
pub fn by_mean(gradient: Tensor<4>) -> Tensor<4> {
    if can_pass(&gradient) {
        return pass_images(gradient, Vec::new(), |image, _| {
            let mean = mean_size(image);
            image.iter_mut().for_each(|value| *value /= mean);
        });
    }
    let [batch, channels, height, width] = gradient.dims();
    let flat = gradient.clone().reshape([batch, channels * height * width]);
    let mean = flat.abs().mean_dim(1).clamp_min(f64::from(f32::MIN_POSITIVE)).reshape([batch]);
    gradient / per_image(mean)
}

/// The `share` of the momentum that there was before, if there was one, and the gradient [`by_mean`].
pub fn add_up(before: Option<Tensor<4>>, share: f64, gradient: Tensor<4>) -> Tensor<4> {
    let Some(before) = before else { return by_mean(gradient) };
    if can_pass(&before) {
        let share = share as f32;
        return pass_images(before, vec![gradient], move |momentum, others| {
            let gradient = others[0];
            let mean = mean_size(gradient);
            momentum.iter_mut().zip(gradient).for_each(|(value, gradient)| *value = *value * share + gradient / mean);
        });
    }
    let along = by_mean(gradient);
    if share == 1.0 { before + along } else { before.mul_scalar(share) + along }
}

/// The mean of the absolute values of an image's gradient, above 0, in double precision until it is rounded.
fn mean_size(gradient: &[f32]) -> f32 {
    let mean = (fold(gradient, f64::abs, |sum, size| sum + size) / gradient.len() as f64) as f32;
    // What is no number stays so.
    if mean < f32::MIN_POSITIVE { f32::MIN_POSITIVE } else { mean }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::to_f64;
    use burn::tensor::{DType, Device, TensorData};

    /// Single precision on the CPU goes another way than all else; the second image's gradient is zero.
    #[test]
    fn momentum_is_the_same_in_both_ways() {
        let [single, double] = [DType::F32, DType::F64].map(|dtype| {
            let gradient = |step: f64| {
                let value = |index: usize| if index < 60 { 1e-4 * (index as f64 * step).sin() } else { 0.0 };
                let data = TensorData::new((0..120).map(value).collect::<Vec<f64>>(), [2, 3, 4, 5]);
                Tensor::<4>::from_data(data, (&Device::flex(), dtype))
            };
            let first = add_up(None, 0.7, gradient(0.37));
            [to_f64(first.clone()), to_f64(add_up(Some(first), 0.7, gradient(0.91)))].concat()
        });
        for (single, double) in single.iter().zip(&double) {
            assert!((single - double).abs() < 1e-5, "{single} is not {double}");
        }
        let mean = double[..60].iter().map(|value| value.abs()).sum::<f64>() / 60.0;
        assert!((mean - 1.0).abs() < 1e-9 && double[60..120].iter().all(|&value| value == 0.0));
    }
}
