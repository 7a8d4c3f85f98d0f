//! Adversarial attacks.
//!
//! An attack gets a [`Surrogate`], which it may look into, and [`Targets`], the images with what is wanted of them; it gives
//! images inside its [`Bound`] around them. Pixels are in [0, 1].
//!
//! | file | attacks |
//! |---|---|
//! | [`iterative`] | all that step along a gradient, put together from parts: FGSM, BIM, PGD, MI, NI, DI, TI, SI, VMI, Admix, BSR, PGN, low frequencies, without gradients |
//! | [`apgd`], [`fab`], [`square`], [`autoattack`] | AutoAttack and its parts |
//! | [`patchfool`] | Patch-Fool |
//! | [`named`] | every attack by its name, with its authors' settings |
//!
//! Random numbers are drawn from (seed, image, attack, restart, step) and never from the position in a batch, so an image is
//! attacked in the same way alone, in a batch, today or resumed.

mod advance;
pub mod apgd;
pub mod autoattack;
mod bands;
mod blocks;
mod ensemble;
mod error;
pub mod fab;
mod host;
pub mod iterative;
pub mod loss;
mod low_pass;
mod momentum;
pub mod named;
mod norm;
mod pass;
pub mod patchfool;
mod quantise;
mod separable;
pub mod square;
mod sums;
mod surrogate;
mod target;
#[cfg(test)]
mod testing;
pub mod transfer;
pub mod views;
mod warp;

pub use apgd::Apgd;
pub use autoattack::AutoAttack;
pub use ensemble::{Average, Ensemble, EnsembleError};
pub use error::AttackError;
pub use fab::Fab;
pub(crate) use host::length;
pub use iterative::Iterative;
pub use loss::Loss;
pub use named::{Wishes, named};
pub use patchfool::PatchFool;
pub use quantise::quantise;
pub use square::Square;
pub use surrogate::{LossGradient, LossOf, Surrogate, doubts_of, gradient};
pub use target::{Target, check_target};

use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;

/// Images to attack and what is wanted of them.
#[derive(Debug, Clone)]
pub struct Targets {
    /// In [0, 1], `[batch, 3, height, width]`, on the network's device.
    pub pixels: Tensor<4>,
    /// The true class of each image.
    pub labels: Vec<usize>,
    /// What identifies each image in its data set; seeds its random numbers.
    pub ids: Vec<String>,
    /// The class that each image is to be taken for; without it, any but the label.
    pub wanted: Option<Vec<usize>>,
    /// 1 where a pixel may change and 0 where it may not, `[batch, 1, height, width]`; without it, all may.
    pub mask: Option<Tensor<4>>,
}

impl Targets {
    /// Images that are to be taken for anything but their labels.
    ///
    /// # Panics
    /// If there are not as many labels and ids as images.
    pub fn new(pixels: Tensor<4>, labels: &[usize], ids: &[&str]) -> Self {
        assert!(labels.len() == ids.len() && labels.len() == pixels.dims()[0], "each image has a label and an id");
        let ids = ids.iter().map(|&id| id.to_owned()).collect();
        Self { pixels, labels: labels.to_vec(), ids, wanted: None, mask: None }
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Some of the images, in the order of their `positions`.
    pub fn some(&self, positions: &[usize]) -> Self {
        Self {
            pixels: rows(&self.pixels, positions),
            labels: positions.iter().map(|&position| self.labels[position]).collect(),
            ids: positions.iter().map(|&position| self.ids[position].clone()).collect(),
            wanted: self.wanted.as_ref().map(|wanted| positions.iter().map(|&position| wanted[position]).collect()),
            mask: self.mask.as_ref().map(|mask| rows(mask, positions)),
        }
    }

    /// Whether each image is taken for what is wanted, if the network says so.
    pub fn fooled(&self, predictions: &[usize]) -> Vec<bool> {
        let of = |(position, &prediction): (usize, &usize)| match &self.wanted {
            Some(wanted) => prediction == wanted[position],
            None => prediction != self.labels[position],
        };
        predictions.iter().enumerate().map(of).collect()
    }

    /// Whether each image is to be taken for its own label: there is nothing to reach, and to reach it is no success.
    pub fn wants_label(&self) -> Vec<bool> {
        match &self.wanted {
            Some(wanted) => wanted.iter().zip(&self.labels).map(|(wanted, label)| wanted == label).collect(),
            None => vec![false; self.len()],
        }
    }

    /// What an attack made of the images, `[batch, 3, height, width]`; those that are to be taken for their own label are given back
    /// as they were.
    pub fn only_where_wanted(&self, made: Tensor<4>) -> Tensor<4> {
        let wants_label = self.wants_label();
        let positions: Vec<usize> = (0..self.len()).filter(|&position| wants_label[position]).collect();
        if positions.is_empty() {
            return made;
        }
        with_rows(&made, &positions, rows(&self.pixels, &positions))
    }

    /// A change of the pixels, kept to where they may change.
    pub fn masked(&self, change: Tensor<4>) -> Tensor<4> {
        match &self.mask {
            Some(mask) => change * mask.clone(),
            None => change,
        }
    }
}

/// What an attack made.
#[derive(Debug, Clone)]
pub struct Perturbed {
    /// In [0, 1], of the targets' shape.
    pub pixels: Tensor<4>,
    /// What each image cost.
    pub effort: Vec<Effort>,
    /// What could be wrong with the network or the attack, each said once.
    pub doubts: Vec<Doubt>,
}

/// What an attack of one image cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Effort {
    /// Forward passes, those followed by a backward pass included.
    pub queries: u32,
    /// Backward passes.
    pub gradients: u32,
    /// Steps, or proposals of an attack that makes some, of all tries, classes and parts together.
    pub iterations: u32,
}

impl Effort {
    /// One forward pass.
    pub const QUERY: Self = Self { queries: 1, gradients: 0, iterations: 0 };
    /// One forward pass with its backward pass.
    pub const GRADIENT: Self = Self { queries: 1, gradients: 1, iterations: 0 };
    /// One step, its passes not counted.
    pub const ITERATION: Self = Self { queries: 0, gradients: 0, iterations: 1 };
}

impl std::ops::AddAssign for Effort {
    fn add_assign(&mut self, other: Self) {
        self.queries += other.queries;
        self.gradients += other.gradients;
        self.iterations += other.iterations;
    }
}

/// Why a result is not to be trusted, and how many images of how many show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Doubt {
    /// Why.
    #[serde(rename = "doubt")]
    pub reason: Reason,
    /// Images that show it.
    pub images: usize,
    /// Images in all.
    pub of: usize,
}

/// Why a result is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The gradient is zero in all pixels: a gradient attack sees nothing.
    ZeroGradient,
    /// The loss did not rise over all steps.
    LossNotRising,
    /// Two passes over the same images gave different logits.
    Randomised,
    /// Logits lie in [0, 1] and sum to 1: a softmax was taken before, and the losses want the logits.
    Probabilities,
    /// An attack without gradients fooled the network where those with gradients failed.
    BlackBoxWins,
    /// The network pays no attention to patches, so the attack went without that.
    NoAttention,
    /// An image has no more patches than were to be changed, so all of it could change.
    EveryPatch,
    /// The network has patches of its own, of another size than was asked for.
    OwnPatches,
    /// Of the images that fool the network as computed, those that no longer do as 8-bit images.
    LostOnSaving,
}

impl Doubt {
    /// The same, of so many images in all: batches without a doubt count, too.
    pub fn of_all(self, all: usize) -> Self {
        Self { of: all, ..self }
    }

    /// Adds what a batch shows to what the batches before it showed.
    pub fn add(doubts: &mut Vec<Self>, more: Self) {
        match doubts.iter_mut().find(|doubt| doubt.reason == more.reason) {
            None => doubts.push(more),
            Some(doubt) => {
                doubt.images += more.images;
                doubt.of += more.of;
            }
        }
    }
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let why = match self.reason {
            Reason::ZeroGradient => {
                "the gradient is zero in every pixel, so that an attack along it sees nothing; try --loss margin or dlr, an attack without gradients (square, nes), or --precision f64"
            }
            Reason::LossNotRising => {
                "the loss is no higher after the last step than at the first; try a smaller step, more steps, or autoattack"
            }
            Reason::Randomised => {
                "two passes over the same image gave different logits; a network with chance in it wants gradients averaged over several passes"
            }
            Reason::Probabilities => {
                "the outputs look like probabilities, while the losses want logits; gradients behind a softmax vanish"
            }
            Reason::BlackBoxWins => {
                "an attack without gradients fooled the network where attacks with gradients did not: gradients are masked, so that gradient attacks say too little"
            }
            Reason::NoAttention => {
                "the network pays no attention to patches, so the patch was chosen by its gradient and attacked by the cross-entropy alone"
            }
            Reason::EveryPatch => {
                "the image has no more patches than --patches asks for, so that all of it could change; ask for fewer, or for smaller ones by --patch-size"
            }
            Reason::OwnPatches => {
                "the network attends to patches of its own, of another size than --patch-size, which therefore changed nothing; leave it out"
            }
            Reason::LostOnSaving => {
                "all of these fool the network as computed, and the former no longer do once they are saved at 8 bits, since what they were changed by is lost in rounding; judge adversarial.safetensors, which keeps the numbers as computed (so does a .npy made of it), or give a larger --eps"
            }
        };
        write!(f, "{} of {} images: {why}", self.images, self.of)
    }
}

/// How far an attack may go from an image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// How distance is measured.
    pub norm: Norm,
    /// The largest distance, at least 0; within 0 an attack gives the images as they are.
    pub eps: f64,
}

/// A norm of the change of an image, over all pixels and channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// The largest change.
    Linf,
    /// The root of the sum of squares.
    L2,
    /// The sum of absolute changes.
    L1,
}

/// An attack on one network.
pub trait Attack: std::fmt::Debug + Send + Sync {
    /// Its name, as users give it.
    fn name(&self) -> &str;

    /// Everything that its result depends on, for run folders and results.
    fn settings(&self) -> serde_json::Value;

    /// What it stays within.
    fn bound(&self) -> Bound;

    /// The least number of classes that it is defined for.
    fn least_classes(&self, _is_targeted: bool) -> usize {
        2
    }

    /// Whether it can be told what an image is to be taken for.
    fn can_be_targeted(&self) -> bool {
        true
    }

    /// Whether it keeps to the pixels that may change.
    fn honours_mask(&self) -> bool {
        true
    }

    /// Adversarial images of the targets. An image that was not fooled is given as far as the attack came.
    fn perturb(&self, network: &dyn Surrogate, targets: &Targets) -> Perturbed;

    /// The names of the attacks that it consists of, in their order; none if it is of one piece.
    fn part_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// As [`Self::perturb`], and which part fooled the network on each image; none where none did or the network was wrong before,
    /// and where the attack has no parts.
    fn perturb_by_parts(&self, network: &dyn Surrogate, targets: &Targets) -> (Perturbed, Vec<Option<&'static str>>) {
        (self.perturb(network, targets), vec![None; targets.len()])
    }
}

/// The rows of a batch at `positions`, in that order.
pub fn rows<const D: usize>(x: &Tensor<D>, positions: &[usize]) -> Tensor<D> {
    let indices: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
    let count = indices.len();
    x.clone().select(0, Tensor::<1, Int>::from_data(TensorData::new(indices, [count]), &x.device()))
}

/// `x` with the rows at `positions` exchanged for those of `new`.
pub fn with_rows<const D: usize>(x: &Tensor<D>, positions: &[usize], new: Tensor<D>) -> Tensor<D> {
    if positions.is_empty() {
        return x.clone();
    }
    let count = x.dims()[0];
    let mut from: Vec<usize> = (0..count).collect();
    for (index, &position) in positions.iter().enumerate() {
        from[position] = count + index;
    }
    rows(&Tensor::cat(vec![x.clone(), new], 0), &from)
}
