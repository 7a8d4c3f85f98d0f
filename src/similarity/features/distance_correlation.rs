//! Distance correlation: whether images that are far apart for one network are far apart for the other.
//!
//! Székely, Rizzo & Bakirov, *Measuring and Testing Dependence by Correlation of Distances* (Annals of Statistics 2007), and, without
//! bias, Székely & Rizzo, *Partial Distance Correlation with Methods for Dissimilarities* (Annals of Statistics 2014). What is
//! given is the square of the correlation, R² = ⟨A, B⟩ / √(⟨A, A⟩ ⟨B, B⟩), as both papers and Zhen et al. (arXiv 2207.09684)
//! compute with; the unbiased one is below 0 where features have nothing in common, as often as above it.

use super::{Centring, FeatureError, Features, InnerProducts, Kernel};

/// R² of two networks' features of the same images, in [0, 1], or in [−1, 1] if unbiased.
///
/// # Errors
/// [`FeatureError::OtherImages`], [`FeatureError::TooFew`] or [`FeatureError::Constant`].
pub fn distance_correlation(x: &Features, y: &Features, centring: Centring) -> Result<f64, FeatureError> {
    InnerProducts::of(&[x, y], &Kernel::Distance, centring)?.correlation(0, 1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::for_each_case;
    use super::*;

    /// PyPI's dcor; scripts/features_reference.py.
    #[test]
    fn beside_dcor() {
        for_each_case(|[x, y, _], check| {
            check(distance_correlation(x, y, Centring::Unbiased).unwrap(), "u_distance_correlation_sqr");
            check(distance_correlation(x, y, Centring::Double).unwrap(), "distance_correlation_sqr");
        });
    }
}
