//! Random numbers that are a function of names, the same on every device and in every batch.

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
}
