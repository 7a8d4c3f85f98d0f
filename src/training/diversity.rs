//! Ways to train one architecture, for the question of Hwang et al. (arXiv 2210.11407, *Same architecture, different training*):
//! do initial weights, hyper-parameters and training regimes make networks as different as architectures do?

use serde::Serialize;

use super::TrainConfig;

/// What differs between the networks of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Comparison {
    /// The seed alone: initial weights, the order of the images.
    Initialisation,
    /// Learning rate, weight decay or batch size, and the seed.
    HyperParameters,
    /// What is learnt from (moved and mirrored images, hard labels, more epochs), and the seed.
    Regime,
}

impl Comparison {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Initialisation, Self::HyperParameters, Self::Regime];
}

/// One way to train.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Variant {
    /// A short name, as a weight's tag.
    pub tag: String,
    /// Everything that the weights depend on beside network and images.
    pub config: TrainConfig,
    /// Where it takes part.
    pub comparisons: Vec<Comparison>,
}

/// Eleven ways around a usual one, which takes part in every comparison: five seeds, five settings of hyper-parameters and three
/// regimes. Each has a seed of its own, as networks that people train have, so that no two begin from the same weights.
pub fn variants(usual: &TrainConfig) -> Vec<Variant> {
    use Comparison::{HyperParameters, Initialisation, Regime};
    let like = || usual.clone();
    let mut variants =
        vec![Variant { tag: "usual".into(), config: usual.clone(), comparisons: Comparison::ALL.to_vec() }];
    let mut add = |tag: &str, comparison, config: TrainConfig| {
        let seed = usual.seed.wrapping_add(variants.len() as u64);
        let config = TrainConfig { seed, ..config };
        variants.push(Variant { tag: tag.into(), config, comparisons: vec![comparison] });
    };
    for tag in ["seed1", "seed2", "seed3", "seed4"] {
        add(tag, Initialisation, like());
    }
    add("rate-third", HyperParameters, TrainConfig { learning_rate: usual.learning_rate / 3.0, ..like() });
    add("rate-double", HyperParameters, TrainConfig { learning_rate: usual.learning_rate * 2.0, ..like() });
    add("decay-tenfold", HyperParameters, TrainConfig { weight_decay: usual.weight_decay * 10.0, ..like() });
    add("batch-half", HyperParameters, TrainConfig { batch_size: usual.batch_size.div_ceil(2), ..like() });
    add("augmented", Regime, TrainConfig { augment: true, ..like() });
    let long = TrainConfig { augment: true, label_smoothing: 0.0, epochs: 2 * usual.epochs, ..like() };
    add("augmented-hard-long", Regime, long);
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_seeds_five_settings_and_three_regimes_of_which_each_is_another() {
        let variants = variants(&TrainConfig { augment: false, ..TrainConfig::default() });
        let count = |comparison| variants.iter().filter(|variant| variant.comparisons.contains(&comparison)).count();
        assert_eq!(Comparison::ALL.map(count), [5, 5, 3]);
        for (index, one) in variants.iter().enumerate() {
            assert!(variants[..index].iter().all(|other| other.tag != one.tag && other.config != one.config));
        }
    }
}
