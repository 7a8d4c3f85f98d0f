//! Centred kernel alignment.
//!
//! Kornblith, Norouzi, Lee & Hinton, *Similarity of Neural Network Representations Revisited* (arXiv 1905.00414): the
//! Hilbert–Schmidt independence criterion (HSIC) of two networks' kernels, normalised by those of each with itself. With HSIC
//! biased as there, CKA of unrelated features is far above 0 on few images; with the unbiased HSIC₁ of Song, Smola, Gretton,
//! Bedo & Borgwardt, *Feature Selection via Dependence Maximization* (JMLR 2012) it is about 0, also as the mean over
//! mini-batches (Nguyen, Raghu & Kornblith, arXiv 2010.15327).

use super::{Centring, FeatureError, Features, InnerProducts, Kernel};

/// CKA of two networks' features of the same images, in [0, 1], or in [−1, 1] if unbiased.
///
/// # Errors
/// [`FeatureError::OtherImages`], [`FeatureError::TooFew`] or [`FeatureError::Constant`].
pub fn cka(x: &Features, y: &Features, kernel: &Kernel, centring: Centring) -> Result<f64, FeatureError> {
    InnerProducts::of(&[x, y], kernel, centring)?.correlation(0, 1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{drawn, for_each_case, in_f32, in_f64, related};
    use super::*;

    /// repsim (biased), pytorch-cka (linear, unbiased) and PyTorch (Gaussian, unbiased); scripts/features_reference.py.
    #[test]
    fn beside_packages() {
        let gaussian = |bandwidth| Kernel::Gaussian { bandwidth };
        for_each_case(|[x, y, _], check| {
            check(cka(x, y, &Kernel::Linear, Centring::Double).unwrap(), "cka_linear_biased");
            check(cka(x, y, &Kernel::Linear, Centring::Unbiased).unwrap(), "cka_linear_unbiased");
            check(cka(x, y, &gaussian(1.0), Centring::Double).unwrap(), "cka_rbf_biased");
            check(cka(x, y, &gaussian(0.8), Centring::Unbiased).unwrap(), "cka_rbf_unbiased");
            let batch = x.images() / 2;
            let products = InnerProducts::of_mini_batches(&[x, y], &Kernel::Linear, Centring::Unbiased, batch.max(4));
            check(products.unwrap().correlation(0, 1).unwrap(), "cka_linear_mini_batches");
        });
    }

    /// The same features in another order of their columns, so that nothing is the same by construction.
    #[test]
    fn of_the_same_features_it_is_1() {
        let images = 90;
        let [x, ..] = related(2, images, [30, 1, 1]);
        let turned: Vec<f64> = x.chunks_exact(30).flat_map(|row| row.iter().rev().map(|value| -2.0 * value)).collect();
        for (a, b) in [
            (in_f64("x", &x, images), in_f64("turned", &turned, images)),
            (in_f32("x", &x, images), in_f32("turned", &turned, images)),
        ] {
            for kernel in [Kernel::Linear, Kernel::Gaussian { bandwidth: 1.0 }] {
                for centring in [Centring::Double, Centring::Unbiased] {
                    let value = cka(&a, &b, &kernel, centring).unwrap();
                    assert!((value - 1.0).abs() < 1e-6, "{kernel:?}, {centring:?}: {value}");
                }
            }
        }
    }

    /// Without bias, unrelated features score 0 on average; with it, they do not.
    #[test]
    fn of_noise_it_is_0_on_average() {
        const DRAWS: u64 = 40;
        for images in [64, 128, 256, 512, 1024, 2048, 4096] {
            // Of many images one kernel is enough.
            let kernels = [Kernel::Linear, Kernel::Gaussian { bandwidth: 1.0 }];
            for kernel in kernels.into_iter().take(if images > 1024 { 1 } else { 2 }) {
                let value = |draw: u64, centring| {
                    let noise = |seed: u64| in_f32("noise", &drawn(1000 * draw + seed, images * 24), images);
                    cka(&noise(images as u64), &noise(images as u64 + 500), &kernel, centring).unwrap()
                };
                let values: Vec<f64> = (0..DRAWS).map(|draw| value(draw, Centring::Unbiased)).collect();
                let mean = values.iter().sum::<f64>() / DRAWS as f64;
                let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (DRAWS - 1) as f64;
                let error = (variance / DRAWS as f64).sqrt();
                assert!(mean.abs() <= 2.0 * error, "{images} images, {kernel:?}: {mean} beside {error}");
                let biased = value(0, Centring::Double);
                assert!(biased > 5.0 * error, "{images} images, {kernel:?}: {biased} beside {error}");
            }
        }
    }
}
