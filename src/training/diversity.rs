//! Ways to train one architecture, for the question of Hwang et al. (arXiv 2210.11407, *Same architecture, different training*):
//! do initial weights, hyper-parameters and training regimes make networks as different as architectures do?

use serde::Serialize;

use super::Recipe;
use super::augment::Augmentation;

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
    pub recipe: Recipe,
    /// Where it takes part.
    pub comparisons: Vec<Comparison>,
}

/// Eleven ways around a usual one, which takes part in every comparison: five seeds, five settings of hyper-parameters and three
/// regimes, two of which have that augmentation. Each has a seed of its own, as networks that people train have, so that no two begin
/// from the same weights.
pub fn variants(usual: &Recipe, augmentation: &Augmentation) -> Vec<Variant> {
    use Comparison::{HyperParameters, Initialisation, Regime};
    let mut variants =
        vec![Variant { tag: "usual".into(), recipe: usual.clone(), comparisons: Comparison::ALL.to_vec() }];
    let mut add = |tag: &str, comparison, change: &dyn Fn(&mut Recipe)| {
        let mut recipe = usual.clone();
        change(&mut recipe);
        recipe.seed = usual.seed.wrapping_add(variants.len() as u64);
        variants.push(Variant { tag: tag.into(), recipe, comparisons: vec![comparison] });
    };
    for tag in ["seed1", "seed2", "seed3", "seed4"] {
        add(tag, Initialisation, &|_| {});
    }
    add("rate-third", HyperParameters, &|recipe| recipe.optimizer.lr /= 3.0);
    add("rate-double", HyperParameters, &|recipe| recipe.optimizer.lr *= 2.0);
    add("decay-tenfold", HyperParameters, &|recipe| recipe.optimizer.weight_decay *= 10.0);
    add("batch-half", HyperParameters, &|recipe| recipe.batch_size = recipe.batch_size.div_ceil(2));
    add("augmented", Regime, &|recipe| recipe.augmentation = augmentation.clone());
    add("augmented-hard-long", Regime, &|recipe| {
        recipe.augmentation = augmentation.clone();
        recipe.regularisation.label_smoothing = 0.0;
        recipe.epochs *= 2;
    });
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_seeds_five_settings_and_three_regimes_of_which_each_is_another() {
        let usual = Recipe { augmentation: Augmentation::none(), ..Recipe::default() };
        let variants = variants(&usual, &Augmentation::default());
        let count = |comparison| variants.iter().filter(|variant| variant.comparisons.contains(&comparison)).count();
        assert_eq!(Comparison::ALL.map(count), [5, 5, 3]);
        for (index, one) in variants.iter().enumerate() {
            assert!(variants[..index].iter().all(|other| other.tag != one.tag && other.recipe != one.recipe));
        }
    }
}
