//! Why an attack cannot be made.

use super::{Bound, Norm};

/// Why an attack cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AttackError {
    /// A setting is out of its range.
    #[error("--{option} {value} is out of range; it is {wanted}")]
    Range {
        /// The setting, as the command line calls it.
        option: &'static str,
        /// What was given.
        value: f64,
        /// What could be.
        wanted: &'static str,
    },
    /// A setting of other attacks.
    #[error("--{option} is no setting of {attack}, so it would change nothing; leave it out")]
    NoSetting {
        /// The setting, as the command line calls it.
        option: &'static str,
        /// The attack's name.
        attack: String,
    },
    /// Gradients ahead of the point along no momentum.
    #[error(
        "--look-ahead goes ahead along the momentum, and with --momentum 0 there is none; leave out one of the two"
    )]
    NothingAhead,
    /// A norm that has no usual eps.
    #[error("give --eps with --norm {}: how far is usual there depends on the size of the images (0.5 in L2 for 32 pixels, 3 for 224; 12 in L1 for 32 pixels, 75 for 224)", .0.name())]
    NoEps(Norm),
    /// A norm that the attack has no form for.
    #[error("{attack} is not defined in {}; give --norm linf", norm.name())]
    Norm {
        /// The attack's name.
        attack: &'static str,
        /// The norm that was asked for.
        norm: Norm,
    },
    /// Restarts from the image itself.
    #[error("restarts without a random start are all the same; leave out --no-random-start or --restarts")]
    SameStart,
    /// A budget that is spent before the steps are done.
    #[error(
        "--queries {queries} is less than the {wanted} that {steps} step(s) of {attack} ask for; give more queries, fewer --steps, or fewer --pairs"
    )]
    Budget {
        /// The attack's name.
        attack: String,
        /// What was given, for each image.
        queries: usize,
        /// What would be needed.
        wanted: usize,
        /// For so many steps.
        steps: usize,
    },
    /// Admix without images to mix in.
    #[error(
        "admix mixes in images of other classes, and the data set's first images are all of one class; give a data set of several"
    )]
    NoPool,
    /// A wanted class for an attack that only knows what to get away from.
    #[error(
        "{0} is defined without a wanted class only; leave out --target, or take another attack, such as apgd-t or pgd"
    )]
    Untargeted(String),
    /// A wanted class that is none.
    #[error("--target {class} is no class of {network}, which has {classes}: give 0 to {}", classes.saturating_sub(1))]
    NoClass {
        /// The class.
        class: usize,
        /// The network.
        network: String,
        /// The number of its classes.
        classes: usize,
    },
    /// Too few classes for the loss.
    #[error(
        "{attack} wants networks of at least {least} classes, and this one has {classes}; take another --loss or --attack"
    )]
    Classes {
        /// The attack's name.
        attack: String,
        /// The number of classes that it is defined for.
        least: usize,
        /// What the network has.
        classes: usize,
    },
}

impl AttackError {
    /// An error if a setting is not right.
    pub(super) fn check(option: &'static str, value: f64, is_right: bool, wanted: &'static str) -> Result<(), Self> {
        if is_right { Ok(()) } else { Err(Self::Range { option, value, wanted }) }
    }
}

impl Bound {
    /// Checks the range of ε: from 0 on, in L∞ up to 1. Within 0, every attack gives the images as they are.
    ///
    /// # Errors
    /// A sentence with what it can be.
    pub fn check(self) -> Result<(), AttackError> {
        let Self { norm, eps } = self;
        match norm {
            Norm::Linf => {
                let wanted = "a change of pixels in [0, 1], from 0 up to 1, such as 8/255";
                AttackError::check("eps", eps, (0.0..=1.0).contains(&eps), wanted)
            }
            Norm::L2 | Norm::L1 => {
                AttackError::check("eps", eps, eps >= 0.0 && eps.is_finite(), "a distance of at least 0")
            }
        }
    }
}

impl Norm {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linf => "linf",
            Self::L2 => "l2",
            Self::L1 => "l1",
        }
    }
}
