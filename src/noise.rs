//! Random numbers that are a function of names, the same on every device and in every batch.

use crate::random::Random;

/// `count` numbers in [−1, 1), each exact in f32: BLAKE3 as a stream of random bytes, keyed by what they are for
/// (`purpose`), `seed` and `name`.
pub fn uniform(purpose: &str, seed: u64, name: &str, count: usize) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new_derive_key(purpose);
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut bytes = vec![0; 4 * count];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
        .chunks_exact(4)
        .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        // 24 bits fill an f32's mantissa.
        .map(|bits| (bits >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// A stream of random numbers by the same names, for those who need few.
pub fn stream(purpose: &str, seed: u64, name: &str) -> Random {
    let mut hasher = blake3::Hasher::new_derive_key(purpose);
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    Random::of(&[u64::from_le_bytes(bytes)])
}

/// `count` standard normal numbers by the same names, by Box and Muller's transformation of pairs of uniform ones.
pub fn normal(purpose: &str, seed: u64, name: &str, count: usize) -> Vec<f64> {
    let pairs = uniform(purpose, seed, name, 2 * count.div_ceil(2));
    let of_pair = |pair: &[f32]| {
        // In (0, 1]: the logarithm of 0 is no number.
        let radius = (-2.0 * ((1.0 - f64::from(pair[0])) / 2.0).ln()).sqrt();
        let angle = std::f64::consts::PI * f64::from(pair[1]);
        [radius * angle.cos(), radius * angle.sin()]
    };
    pairs.chunks_exact(2).flat_map(of_pair).take(count).collect()
}

/// As [`normal`] in single precision, in which they are computed: the same numbers up to its rounding, and sooner.
pub fn normal_f32(purpose: &str, seed: u64, name: &str, count: usize) -> Vec<f32> {
    let pairs = uniform(purpose, seed, name, 2 * count.div_ceil(2));
    let of_pair = |pair: &[f32]| {
        // Both 1 − u and its half are exact.
        let radius = (-2.0 * ((1.0 - pair[0]) / 2.0).ln()).sqrt();
        let (sin, cos) = (std::f32::consts::PI * pair[1]).sin_cos();
        [radius * cos, radius * sin]
    };
    pairs.chunks_exact(2).flat_map(of_pair).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_purpose_seed_and_name_alone() {
        let numbers = |purpose, seed, name| uniform(purpose, seed, name, 1000);
        let values = numbers("test", 1, "a.png");
        assert_eq!(values, numbers("test", 1, "a.png"));
        assert_ne!(values, numbers("other", 1, "a.png"));
        assert_ne!(values, numbers("test", 2, "a.png"));
        assert_ne!(values, numbers("test", 1, "b.png"));
        assert!(values.iter().all(|u| (-1.0..1.0).contains(u)));
        let mean = values.iter().sum::<f32>() / 1000.0;
        assert!(mean.abs() < 0.1, "the mean is {mean}");
    }

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let values = normal("test", 3, "a.png", 20_001);
        assert_eq!(values.len(), 20_001);
        let mean = |power: i32| values.iter().map(|value| value.powi(power)).sum::<f64>() / values.len() as f64;
        // Four standard errors.
        assert!(mean(1).abs() < 0.03 && (mean(2) - 1.0).abs() < 0.04 && (mean(4) - 3.0).abs() < 0.3);
        let single = normal_f32("test", 3, "a.png", 20_001);
        assert!(values.iter().zip(&single).all(|(wide, &narrow)| (wide - f64::from(narrow)).abs() < 1e-5));
    }
}
