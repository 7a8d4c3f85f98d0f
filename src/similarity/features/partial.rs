//! Partial distance correlation: what two networks' features have in common beyond a third set of features.
//!
//! U-centred matrices of distances are vectors of a space with the inner product ⟨A, B⟩ (Székely & Rizzo 2014). There C is
//! projected out: P(A) = A − (⟨A, C⟩ / ⟨C, C⟩) C. The partial distance correlation is the correlation of P(A) and P(B). The
//! code of Zhen et al. (arXiv 2207.09684) projects A only, which is a semi-partial correlation. Both are offered, by their names.

use super::{Centring, FeatureError, Features, InnerProducts, Kernel};

/// What rounding may change what a projection leaves by, as a share of it: then four digits are right.
const MAY_CHANGE: f64 = 5e-5;
/// The same where what is left is nothing but rounding.
const IS_ALL: f64 = 0.1;

impl InnerProducts {
    /// The correlation of sets `a` and `b` once set `c` is projected out of both, in [−1, 1].
    ///
    /// # Errors
    /// [`FeatureError::Constant`], [`FeatureError::NothingLeft`] or [`FeatureError::LittleLeft`].
    pub fn partial(&self, a: usize, b: usize, c: usize) -> Result<f64, FeatureError> {
        let semi = self.semi_partial(a, b, c)?;
        Ok((semi / self.left(b, c)?.sqrt()).clamp(-1.0, 1.0))
    }

    /// The correlation of sets `a` and `b` once set `c` is projected out of `a`, in [−1, 1].
    ///
    /// # Errors
    /// [`FeatureError::Constant`], [`FeatureError::NothingLeft`] or [`FeatureError::LittleLeft`].
    pub fn semi_partial(&self, a: usize, b: usize, c: usize) -> Result<f64, FeatureError> {
        let shared = self.correlation(a, b)? - self.correlation(a, c)? * self.correlation(b, c)?;
        Ok((shared / self.left(a, c)?.sqrt()).clamp(-1.0, 1.0))
    }

    /// The share of ⟨A, A⟩ that is left once C is projected out.
    fn left(&self, a: usize, c: usize) -> Result<f64, FeatureError> {
        let left = 1.0 - self.correlation(a, c)?.powi(2);
        let rounding = 2.0 * (self.rounding(a) + self.rounding(c));
        let [name, given] = [a, c].map(|set| self.name(set).to_owned());
        match left {
            left if rounding < MAY_CHANGE * left => Ok(left),
            left if rounding < IS_ALL * left => Err(FeatureError::LittleLeft { name, given, left }),
            _ => Err(FeatureError::NothingLeft { name, given }),
        }
    }
}

fn products(x: &Features, y: &Features, given: &Features) -> Result<InnerProducts, FeatureError> {
    InnerProducts::of(&[x, y, given], &Kernel::Distance, Centring::Unbiased)
}

/// The unbiased correlation of distances of x and y once those of `given` are projected out of both, in [−1, 1].
///
/// # Errors
/// [`FeatureError::OtherImages`], [`FeatureError::TooFew`], [`FeatureError::Constant`], [`FeatureError::Rounded`],
/// [`FeatureError::NothingLeft`] or [`FeatureError::LittleLeft`].
pub fn partial_distance_correlation(x: &Features, y: &Features, given: &Features) -> Result<f64, FeatureError> {
    products(x, y, given)?.partial(0, 1, 2)
}

/// The same with `given` projected out of x only.
///
/// # Errors
/// As [`partial_distance_correlation`].
pub fn semi_partial_distance_correlation(x: &Features, y: &Features, given: &Features) -> Result<f64, FeatureError> {
    products(x, y, given)?.semi_partial(0, 1, 2)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{drawn, for_each_case, in_f32, in_f64, multiplied};
    use super::*;

    /// PyPI's dcor, and a script of ours in PyTorch for the semi-partial form; scripts/features_reference.py.
    #[test]
    fn beside_dcor_and_pytorch() {
        for_each_case(|[x, y, z], check| {
            check(partial_distance_correlation(x, y, z).unwrap(), "partial_distance_correlation");
            check(semi_partial_distance_correlation(x, y, z).unwrap(), "semi_partial");
        });
    }

    #[test]
    fn nothing_is_left_of_what_is_projected_out() {
        let images = 20;
        let values = drawn(1, images * 3);
        let x = in_f64("x", &values, images);
        // The same but for a rotation by a right angle.
        let turned = multiplied(&values, &[0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0], 3);
        let turned = in_f64("turned", &turned, images);
        let y = in_f64("y", &drawn(2, images * 3), images);
        let error = partial_distance_correlation(&x, &y, &turned).unwrap_err();
        assert!(
            matches!(error, FeatureError::NothingLeft { name, given } if (name.as_str(), given.as_str()) == ("x", "turned"))
        );
        assert!(semi_partial_distance_correlation(&y, &x, &turned).is_ok());
    }

    /// Of a third set that is nearly the first the answer has four digits, or is refused.
    #[test]
    fn little_is_left_of_what_is_nearly_projected_out() {
        let (images, width) = (40, 4);
        let x = drawn(1, images * width);
        let y: Vec<f64> = x.iter().zip(drawn(2, images * width)).map(|(x, noise)| x + noise).collect();
        let near = |noise: f64| -> Vec<f64> {
            x.iter().zip(drawn(3, images * width)).map(|(x, drawn)| x + noise * drawn).collect()
        };
        let of = |noise: f64, make: fn(&str, &[f64], usize) -> Features| {
            partial_distance_correlation(
                &make("x", &x, images),
                &make("y", &y, images),
                &make("near", &near(noise), images),
            )
        };
        for make in [in_f64 as fn(&str, &[f64], usize) -> Features, in_f32] {
            assert!(of(0.1, make).is_ok());
            assert!(of(0.0, make).is_err());
        }
        assert!(of(1e-3, in_f64).is_ok());
        let error = of(3e-6, in_f64).unwrap_err();
        assert!(matches!(error, FeatureError::LittleLeft { .. }), "{error}");
        assert!(of(1e-5, in_f32).is_err());
    }
}
