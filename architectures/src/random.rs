//! Random numbers that are a function of named parts (seed, epoch, image), so that no position in a run matters.

/// SplitMix64 (Steele, Lea & Flood 2014): a counter and a bijective mixture of its bits.
pub struct Random(u64);

impl Random {
    /// The stream that belongs to these parts; other parts, or another number of them, give an unrelated one.
    pub fn of(parts: &[u64]) -> Self {
        Self(parts.iter().fold(0, |state, part| Self(state ^ mix(part.wrapping_add(STEP))).draw()))
    }

    /// Any 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// 0 up to below `bound`; even up to one part in 2⁶⁴ / bound.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.draw()) * bound as u128) >> 64) as usize
    }

    /// A number in [0, 1), a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Brings the items into an order of which each is as likely (Fisher & Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// 2⁶⁴ divided by the golden ratio, odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of Vigna's splitmix64.c for the seed 1234567.
    #[test]
    fn published_values() {
        let mut random = Random(1_234_567);
        assert_eq!(random.draw(), 6_457_827_717_110_365_317);
        assert_eq!(random.draw(), 3_203_168_211_198_807_973);
        assert_eq!(random.draw(), 9_817_491_932_198_370_423);
    }

    #[test]
    fn numbers_below_a_bound_are_even() {
        let mut counts = [0; 7];
        for part in 0..7000 {
            counts[Random::of(&[3, part]).below(7)] += 1;
        }
        assert!(counts.iter().all(|count| (880..1120).contains(count)), "{counts:?}");
    }

    #[test]
    fn every_order_comes_as_often() {
        let mut counts = std::collections::BTreeMap::new();
        for part in 0..6000 {
            let mut items = [0, 1, 2];
            Random::of(&[4, part]).shuffle(&mut items);
            *counts.entry(items).or_insert(0) += 1;
        }
        assert!(counts.len() == 6 && counts.values().all(|count| (880..1120).contains(count)), "{counts:?}");
        let mean = (0..1000).map(|part| Random::of(&[5, part]).unit()).sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}
