//! Where random decisions come from: in training a [`Random`], in tests the numbers that timm drew.

use std::f64::consts::TAU;

use crate::random::Random;

/// A source of random decisions. What is decided is a function of what it gives, in order.
pub(crate) trait Draws {
    /// A number in [0, 1).
    fn unit(&mut self) -> f64;

    /// 0 up to below `bound`.
    fn below(&mut self, bound: usize) -> usize;

    /// A standard normal number.
    fn normal(&mut self) -> f64;

    /// A number of the symmetric beta distribution with parameter `alpha`, above 0.
    fn beta(&mut self, alpha: f64) -> f64;

    /// A number in [low, high), as Python's `random.uniform` makes it of one in [0, 1).
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
}

impl Draws for Random {
    fn unit(&mut self) -> f64 {
        Random::unit(self)
    }

    fn below(&mut self, bound: usize) -> usize {
        Random::below(self, bound)
    }

    /// By Box and Muller's transformation.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * positive(self).ln()).sqrt();
        radius * (TAU * Random::unit(self)).cos()
    }

    fn beta(&mut self, alpha: f64) -> f64 {
        if alpha <= 1.0 { small_beta(self, alpha) } else { large_beta(self, alpha) }
    }
}

/// In (0, 1]: has a logarithm.
fn positive(random: &mut Random) -> f64 {
    1.0 - Random::unit(random)
}

/// Jöhnk's method (Metrika 8, 1964): u^(1/α) and v^(1/α), if they sum to at most 1, in logarithms since for small α both
/// may be too small for a number.
fn small_beta(random: &mut Random, alpha: f64) -> f64 {
    loop {
        let (x, y) = (positive(random).ln() / alpha, positive(random).ln() / alpha);
        // ln(eˣ + eʸ)
        let sum = x.max(y) + (-(x - y).abs()).exp().ln_1p();
        if sum <= 0.0 {
            return (x - sum).exp();
        }
    }
}

/// X / (X + Y) of two gamma variates by Marsaglia and Tsang's method (ACM TOMS 26, 2000), for which α is at least 1.
fn large_beta(random: &mut Random, alpha: f64) -> f64 {
    let mut gamma = || {
        let d = alpha - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let normal = random.normal();
            let cube = (1.0 + c * normal).powi(3);
            if cube > 0.0 && positive(random).ln() < 0.5 * normal * normal + d - d * cube + d * cube.ln() {
                return d * cube;
            }
        }
    };
    let (x, y) = (gamma(), gamma());
    x / (x + y)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 40_000;

    fn moment(values: &[f64], centre: f64, power: i32) -> f64 {
        values.iter().map(|value| (value - centre).powi(power)).sum::<f64>() / values.len() as f64
    }

    #[test]
    fn normal_numbers_have_the_moments_of_their_distribution() {
        let mut random = Random::of(&[1]);
        let values: Vec<f64> = (0..COUNT).map(|_| random.normal()).collect();
        assert!(moment(&values, 0.0, 1).abs() < 0.02);
        assert!((moment(&values, 0.0, 2) - 1.0).abs() < 0.03);
        assert!((moment(&values, 0.0, 4) - 3.0).abs() < 0.2);
    }

    /// Of the symmetric beta distribution: mean 1/2, second central moment 1 / 4(2α + 1), fourth 3 / 16(2α + 1)(2α + 3).
    #[test]
    fn beta_numbers_have_the_moments_of_their_distribution() {
        for alpha in [0.01, 0.2, 0.8, 1.0, 1.5, 4.0] {
            let mut random = Random::of(&[2]);
            let values: Vec<f64> = (0..COUNT).map(|_| random.beta(alpha)).collect();
            assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
            let second = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            let fourth = 3.0 / (16.0 * (2.0 * alpha + 1.0) * (2.0 * alpha + 3.0));
            assert!((moment(&values, 0.5, 1)).abs() < 0.012, "α = {alpha}");
            assert!((moment(&values, 0.5, 2) - second).abs() < 0.02 * second + 1e-4, "α = {alpha}");
            assert!((moment(&values, 0.5, 4) - fourth).abs() < 0.04 * fourth + 1e-4, "α = {alpha}");
        }
    }

    /// For α = 1 all numbers are as likely; for α = 1/2 the distribution function is 2 arcsin(√x) / π.
    #[test]
    fn beta_numbers_follow_their_distribution_function() {
        for alpha in [1.0, 0.5] {
            let function = |x: f64| if alpha == 1.0 { x } else { 2.0 * x.sqrt().asin() / std::f64::consts::PI };
            let mut random = Random::of(&[3]);
            let mut values: Vec<f64> = (0..COUNT).map(|_| random.beta(alpha)).collect();
            values.sort_by(f64::total_cmp);
            let distances =
                values.iter().enumerate().map(|(index, &x)| (index as f64 / COUNT as f64 - function(x)).abs());
            // Kolmogorov and Smirnov's bound for one sample in a thousand.
            assert!(distances.fold(0.0, f64::max) < 1.95 / (COUNT as f64).sqrt(), "α = {alpha}");
        }
    }
}
