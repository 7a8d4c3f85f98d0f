//! The steps that attacks are made of.

use burn::tensor::{Tensor, TensorData};

use crate::noise::uniform;

/// The point nearest to `x` that is within `eps` of `original` in every pixel and within [0, 1].
pub fn project(x: Tensor<4>, original: &Tensor<4>, eps: f64) -> Tensor<4> {
    let delta = (x - original.clone()).clamp(-eps, eps);
    (original.clone() + delta).clamp(0.0, 1.0)
}

/// A uniformly random point of the L∞ ball of radius `eps` around each image, within [0, 1].
///
/// Each image's noise comes from (`seed`, its id) alone.
pub fn random_start(original: &Tensor<4>, ids: &[&str], eps: f64, seed: u64) -> Tensor<4> {
    let shape = original.dims();
    let size = shape[1..].iter().product::<usize>();
    let mut noise = Vec::with_capacity(shape[0] * size);
    for id in ids {
        let unit = uniform("netkin attack random start v1", seed, id, size);
        noise.extend(unit.into_iter().map(|u| (eps * f64::from(u)) as f32));
    }
    let noise = TensorData::new(noise, shape);
    let noise = Tensor::from_data(noise, (&original.device(), original.dtype()));
    (original.clone() + noise).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::to_f32;
    use burn::tensor::Device;

    #[test]
    fn a_start_is_the_same_alone_and_in_a_batch() {
        let device = Device::flex();
        let original = Tensor::<4>::full([2, 3, 4, 4], 0.5, &device);
        let both = random_start(&original, &["a", "b"], 0.1, 7);
        let alone = random_start(&original.narrow(0, 1, 1), &["b"], 0.1, 7);
        assert_eq!(to_f32(both.narrow(0, 1, 1)), to_f32(alone));
    }

    #[test]
    fn projection_keeps_ball_and_range() {
        let device = Device::flex();
        let original = Tensor::<4>::from_data([[[[0.0, 0.5, 0.99]]]], &device);
        let far = Tensor::<4>::from_data([[[[-1.0, 0.7, 2.0]]]], &device);
        let near = to_f32(project(far, &original, 0.1));
        assert_eq!(near, [0.0, 0.6, 1.0]);
    }
}
