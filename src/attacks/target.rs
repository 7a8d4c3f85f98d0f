//! What images are to be taken for.

use burn::tensor::Tensor;

use super::loss::order;
use super::{Attack, AttackError};
use crate::noise;

/// What images are to be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All for one class.
    Class(usize),
    /// Each for a class of its own, drawn from (seed, image).
    Random,
    /// Each for the class that the network holds least likely (Kurakin et al., arXiv 1611.01236).
    LeastLikely,
    /// Each for the class that the network holds most likely after its label.
    SecondBest,
}

impl Target {
    /// A class's index, `random`, `least-likely` or `second-best`.
    ///
    /// # Errors
    /// What can be given, if it is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            "least-likely" => Ok(Self::LeastLikely),
            "second-best" => Ok(Self::SecondBest),
            class => class
                .parse()
                .map(Self::Class)
                .map_err(|_| "give a class's index, random, least-likely or second-best".to_owned()),
        }
    }

    /// The wanted class of each image, from the logits `[batch, class]` of the clean images; only of [`Self::Class`] it may be the
    /// image's label.
    pub fn classes(self, logits: &Tensor<2>, labels: &[usize], ids: &[&str], seed: u64) -> Vec<usize> {
        let [_, classes] = logits.dims();
        match self {
            Self::Class(class) => vec![class; labels.len()],
            Self::Random => {
                let of_image = |(&id, &label): (&&str, &usize)| {
                    let mut random = noise::stream("netkin attack target", seed, id);
                    (label + 1 + random.below(classes.saturating_sub(1).max(1))) % classes
                };
                ids.iter().zip(labels).map(of_image).collect()
            }
            Self::LeastLikely | Self::SecondBest => {
                let of_image = |(order, label): (Vec<usize>, &usize)| {
                    let mut others = order.into_iter().filter(|class| class != label);
                    let other = if self == Self::SecondBest { others.next() } else { others.next_back() };
                    other.unwrap_or(*label)
                };
                order(logits, classes).into_iter().zip(labels).map(of_image).collect()
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Class(class) => write!(f, "{class}"),
            Self::Random => f.write_str("random"),
            Self::LeastLikely => f.write_str("least-likely"),
            Self::SecondBest => f.write_str("second-best"),
        }
    }
}

/// Checks that an attack is defined for what is wanted of a network with so many classes.
///
/// # Errors
/// If it is not, or if the wanted class is none of the network's.
pub fn check_target(
    attack: &dyn Attack,
    network: &str,
    classes: usize,
    target: Option<Target>,
) -> Result<(), AttackError> {
    let name = attack.name().to_owned();
    if target.is_some() && !attack.can_be_targeted() {
        return Err(AttackError::Untargeted(name));
    }
    let least = attack.least_classes(target.is_some());
    if classes < least {
        return Err(AttackError::Classes { attack: name, least, classes });
    }
    match target {
        Some(Target::Class(class)) if class >= classes => {
            Err(AttackError::NoClass { class, network: network.to_owned(), classes })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Targets, rows};
    use super::*;
    use crate::attacks::testing::Tiny;
    use crate::model::to_f64;
    use burn::tensor::{DType, Device};

    #[test]
    fn targets_are_other_classes() {
        let logits = Tensor::<2>::from_data([[3.0, 1.0, 0.0, 2.0], [0.5, 2.0, 1.0, -2.0]], &Device::flex());
        let classes = |target: Target| target.classes(&logits, &[0, 3], &["a", "b"], 0);
        assert_eq!(classes(Target::SecondBest), [3, 1]);
        assert_eq!(classes(Target::LeastLikely), [2, 0]);
        assert_eq!(classes(Target::Class(2)), [2, 2]);
        assert!((0..50).all(|seed| Target::Random.classes(&logits, &[0, 3], &["a", "b"], seed)[1] != 3));
        assert_eq!(Target::parse("7"), Ok(Target::Class(7)));
        assert!(Target::parse("-1").is_err() && Target::parse("cat").is_err());
        for word in ["7", "random", "least-likely", "second-best"] {
            assert_eq!(Target::parse(word).unwrap().to_string(), word);
        }
    }

    /// An image that is to be taken for its label is no success, and stays as it is.
    #[test]
    fn images_that_want_their_label_stay() {
        let network = Tiny::new(DType::F64);
        let mut targets: Targets = network.targets(0..3);
        assert_eq!(targets.wants_label(), [false; 3]);
        let wanted = targets.labels[1];
        targets.labels = vec![(wanted + 1) % 10, wanted, (wanted + 2) % 10];
        targets.wanted = Some(vec![wanted; 3]);
        assert_eq!(targets.wants_label(), [false, true, false]);
        let made = targets.pixels.clone().mul_scalar(0.5);
        let kept = targets.only_where_wanted(made.clone());
        assert_eq!(to_f64(rows(&kept, &[0, 2])), to_f64(rows(&made, &[0, 2])));
        assert_eq!(to_f64(rows(&kept, &[1])), to_f64(rows(&targets.pixels, &[1])));
    }
}
