//! Adversarial attacks.
//!
//! An attack is a few small [`steps`] that compose; one file each. Attacks work on pixels in [0, 1], untargeted, with a
//! model that is a white box. Random numbers are drawn from (seed, image, attack, restart) and never from the position in
//! a batch, so an image is attacked in the same way alone, in a batch, today or resumed.

mod pgd;
mod quantise;
pub mod steps;

pub use pgd::{Pgd, PgdError};
pub use quantise::quantise;

use burn::tensor::Tensor;

use crate::model::Model;

/// Images to attack.
#[derive(Debug, Clone)]
pub struct Targets<'a> {
    /// In [0, 1], `[batch, 3, height, width]`, on the model's device.
    pub pixels: Tensor<4>,
    /// The true class of each image.
    pub labels: &'a [usize],
    /// What identifies each image in its data set; seeds its random numbers.
    pub ids: &'a [&'a str],
}

/// An attack on one network.
pub trait Attack: std::fmt::Debug {
    /// Adversarial pixels in [0, 1] of the same shape, within the attack's bound of the original ones.
    fn perturb(&self, model: &Model, targets: &Targets) -> Tensor<4>;

    /// The largest change of a pixel, in [0, 1].
    fn eps(&self) -> f64;
}
