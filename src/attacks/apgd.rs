//! Auto-PGD: gradient ascent with momentum that chooses its own step size.
//!
//! In L∞ and L2: Croce & Hein, *Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
//! Attacks* (arXiv 2003.01690), algorithm 1. The step begins at 2ε; at checkpoints that lie ever closer it is halved, and the
//! ascent goes back to its best point, if the loss rose in too few of the steps since the last one (ρ), or if the best loss
//! is still what it was there and the step was not halved then.
//!
//! zₜ = Π(xₜ + αₜ·sign ∇L(xₜ)), xₜ₊₁ = Π(xₜ + 0.75·(zₜ − xₜ) + 0.25·(xₜ − xₜ₋₁)), in L2 along ∇L / ‖∇L‖₂.
//!
//! In L1: Croce & Hein, *Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers* (arXiv 2103.01208),
//! algorithm 1. A step goes along the signs of the largest gradients, as many as two thirds of the pixels that the best point
//! changes, and back into the intersection of ball and box; where the best point has become sparser, the step begins anew at ε,
//! else it shrinks, down to ε/10. With [`Apgd::larger_eps`], the first three tenths of the steps are taken in the ball of
//! 3ε, the next in that of 2ε.
//!
//! Constants and order of operations are those of the authors' code, `autopgd_base.py`. There, the loss at the start does not
//! count as the one before the first step, a zero does; so here. Deviations: an image that was not fooled is given at its
//! highest loss (theirs is given unchanged); the start of the first of L1's stages is moved into the ball once (theirs twice, and
//! rounding decides what the second time changes); with a mask, gradient and start are zero where pixels may not change, and
//! the pixels of L1's sparsity are those that may.

use rayon::prelude::*;
use serde::Serialize;

use super::host::{self, Draws, Image, Noise, Progress, TINY, length};
use super::norm::{l1_correction, sign};
use super::{
    Attack, AttackError, Bound, Doubt, Effort, Loss, Norm, Perturbed, Reason, Surrogate, Targets, gradient, loss,
};
use crate::model::{argmax, to_f64};

/// Auto-PGD.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Apgd {
    /// The ball.
    #[serde(flatten)]
    pub bound: Bound,
    /// What rises.
    pub loss: Loss,
    /// Classes that each image is to be taken for, one after another, those of the highest logits first; 0 for none, and as
    /// many as there are if there are fewer. Each counts as fooled if its label is not the answer. Without effect on images
    /// of which a class is wanted.
    pub target_classes: usize,
    /// Steps, at least 1.
    pub steps: usize,
    /// Tries of each image (and class) from random points, at least 1; later ones for images that still stand.
    pub restarts: usize,
    /// ρ: the share of the steps between two checkpoints in which the loss has to rise, in (0, 1); for L∞ and L2.
    pub rho: f64,
    /// Whether to begin in larger balls; for L1.
    pub larger_eps: bool,
    /// Whether an image is left as soon as it is fooled, not only after all steps: the same images are fooled, sooner and
    /// by less.
    pub stop_when_fooled: bool,
    /// Seeds the starts.
    pub seed: u64,
}

impl Default for Apgd {
    /// AutoAttack's `apgd-ce`: ε = 8/255 in L∞, 100 steps on the cross-entropy from one random point.
    fn default() -> Self {
        Self {
            bound: Bound { norm: Norm::Linf, eps: 8.0 / 255.0 },
            loss: Loss::CrossEntropy,
            target_classes: 0,
            steps: 100,
            restarts: 1,
            rho: 0.75,
            larger_eps: false,
            stop_when_fooled: false,
            seed: 0,
        }
    }
}

impl Apgd {
    /// AutoAttack's `apgd-ce`; in L1 with five restarts and larger balls first.
    pub fn cross_entropy(bound: Bound, seed: u64) -> Self {
        let is_l1 = bound.norm == Norm::L1;
        Self { bound, restarts: if is_l1 { 5 } else { 1 }, larger_eps: is_l1, seed, ..Self::default() }
    }

    /// AutoAttack's `apgd-t`: the difference of logits ratio to nine classes, in L1 to five.
    pub fn targeted(bound: Bound, seed: u64) -> Self {
        let target_classes = if bound.norm == Norm::L1 { 5 } else { 9 };
        Self { loss: Loss::Dlr, target_classes, restarts: 1, ..Self::cross_entropy(bound, seed) }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// A sentence that names the first setting that is out of its range.
    pub fn check(&self) -> Result<(), AttackError> {
        self.bound.check()?;
        host::at_least_one("steps", self.steps)?;
        host::at_least_one("restarts", self.restarts)?;
        let is_right = self.rho > 0.0 && self.rho < 1.0;
        AttackError::check("rho", self.rho, is_right, "a share of steps above 0 and below 1, such as 0.75")
    }
}

impl Attack for Apgd {
    fn name(&self) -> &str {
        match (self.loss, self.target_classes) {
            (Loss::CrossEntropy, 0) => "apgd-ce",
            (Loss::CrossEntropy, _) => "apgd-ce-t",
            (Loss::Dlr, 0) => "apgd-dlr",
            (Loss::Dlr, _) => "apgd-t",
            (Loss::Margin, 0) => "apgd-margin",
            (Loss::Margin, _) => "apgd-margin-t",
        }
    }

    fn settings(&self) -> serde_json::Value {
        host::settings(self)
    }

    fn bound(&self) -> Bound {
        self.bound
    }

    fn least_classes(&self, is_targeted: bool) -> usize {
        self.loss.least_classes(is_targeted || self.target_classes > 0)
    }

    fn perturb(&self, network: &dyn Surrogate, targets: &Targets) -> Perturbed {
        self.perturb_with(network, targets, &Noise)
    }
}

impl Apgd {
    pub(super) fn perturb_with(&self, network: &dyn Surrogate, targets: &Targets, draws: &dyn Draws) -> Perturbed {
        if targets.is_empty() || self.bound.eps == 0.0 {
            return host::nothing(targets);
        }
        let images = Image::all(targets);
        let clean = network.logits(targets.pixels.clone());
        let mut progress = Progress::new(&images, targets.fooled(&argmax(clean.clone())));
        let ranked = loss::order(&clean, self.target_classes + 1);
        let of = progress.standing().len();
        let mut has_gradient = vec![false; images.len()];
        let mut has_risen = vec![false; images.len()];
        for (turn, wanted) in host::turns(targets, &ranked, self.target_classes).iter().enumerate() {
            for restart in 0..self.restarts {
                let standing = progress.standing();
                if standing.is_empty() {
                    break;
                }
                let name = |position: usize| format!("{}\0turn {turn}, restart {restart}", targets.ids[position]);
                let starts = standing
                    .par_iter()
                    .map(|&position| self.start(&images[position], &name(position), draws))
                    .collect();
                let goal = Goal { network, targets, wanted: wanted.as_deref() };
                for ascent in self.climb_all(&goal, &images, &standing, starts, &mut progress.effort) {
                    let position = ascent.position;
                    has_gradient[position] |= ascent.has_gradient;
                    has_risen[position] |= ascent.best_loss > ascent.first_loss || ascent.fooled.is_some();
                    match ascent.fooled {
                        Some(pixels) => progress.fooled(position, pixels),
                        None => progress.stands(position, ascent.best, ascent.best_loss),
                    }
                }
            }
        }
        let count = |is_so: &dyn Fn(usize) -> bool| {
            (0..images.len()).filter(|&position| progress.effort[position].gradients > 0 && is_so(position)).count()
        };
        let zero = count(&|position| !has_gradient[position]);
        let flat = count(&|position| has_gradient[position] && !has_risen[position]);
        let doubts = [
            Doubt { reason: Reason::ZeroGradient, images: zero, of },
            Doubt { reason: Reason::LossNotRising, images: flat, of },
        ];
        let doubts =
            doubts.into_iter().zip([zero, flat]).filter(|(_, count)| *count > 0).map(|(doubt, _)| doubt).collect();
        progress.end(targets.pixels.dims(), network, doubts)
    }

    /// A random point of the ball: in L∞ and L2 at its edge.
    fn start(&self, image: &Image, name: &str, draws: &dyn Draws) -> Vec<f64> {
        let Bound { norm, eps } = self.bound;
        let (purpose, size) = ("netkin apgd start", image.pixels.len());
        let mut noise = match norm {
            Norm::Linf => draws.uniform(purpose, self.seed, name, size),
            Norm::L2 | Norm::L1 => draws.normal(purpose, self.seed, name, size),
        };
        image.keep(&mut noise);
        let pairs = image.pixels.iter().zip(&noise);
        if norm == Norm::L1 {
            let far: Vec<f64> = pairs.map(|(pixel, noise)| pixel + noise).collect();
            return back_into_l1(&image.pixels, far, self.stages()[0].0);
        }
        let size = length(noise.iter().copied(), norm) + TINY;
        pairs.map(|(pixel, noise)| pixel + eps * (noise / size)).collect()
    }

    /// ε and the number of steps of each stage.
    fn stages(&self) -> Vec<(f64, usize)> {
        let (eps, steps) = (self.bound.eps, self.steps);
        if !(self.larger_eps && self.bound.norm == Norm::L1) {
            return vec![(eps, steps)];
        }
        let first = (0.3 * steps as f64).ceil() as usize;
        vec![(3.0 * eps, first), (2.0 * eps, first), (eps, steps.saturating_sub(2 * first))]
    }

    /// Climbs from `starts`, one for each position in `standing`, through all stages.
    fn climb_all<'a>(
        &self,
        goal: &Goal,
        images: &'a [Image],
        standing: &[usize],
        mut starts: Vec<Vec<f64>>,
        effort: &mut [Effort],
    ) -> Vec<Ascent<'a>> {
        let stages = self.stages();
        let mut ascents = Vec::new();
        for &(eps, steps) in &stages {
            let (is_staged, is_smaller) = (stages.len() > 1, eps < stages[0].0);
            ascents = standing
                .par_iter()
                .zip(starts)
                .map(|(&position, start)| {
                    let image = &images[position];
                    let start = if is_smaller { back_into_l1(&image.pixels, start, eps) } else { start };
                    Ascent::new(image, position, start, Bound { eps, ..self.bound }, steps, self.rho, is_staged)
                })
                .collect();
            // In a larger ball, being fooled is no reason to stop.
            let may_stop = self.stop_when_fooled && eps <= self.bound.eps;
            climb(self.loss, goal, &mut ascents, steps, may_stop, effort);
            starts = ascents.iter().map(|ascent| ascent.best.clone()).collect();
        }
        ascents
    }
}

/// What is attacked.
struct Goal<'a> {
    network: &'a dyn Surrogate,
    targets: &'a Targets,
    /// The classes that the loss leads to instead of those that are wanted, by position.
    wanted: Option<&'a [usize]>,
}

/// Takes all steps of all ascents.
fn climb(loss: Loss, goal: &Goal, ascents: &mut [Ascent], steps: usize, stop_when_fooled: bool, effort: &mut [Effort]) {
    let shape = goal.targets.pixels.dims();
    for step in 0..=steps {
        let mut active: Vec<&mut Ascent> =
            ascents.iter_mut().filter(|ascent| !stop_when_fooled || ascent.fooled.is_none()).collect();
        if active.is_empty() {
            return;
        }
        if step > 0 {
            active.par_iter_mut().for_each(|ascent| ascent.step());
        }
        let positions: Vec<usize> = active.iter().map(|ascent| ascent.position).collect();
        let pixels: Vec<&[f64]> = active.iter().map(|ascent| ascent.pixels.as_slice()).collect();
        let pixels = host::join(&pixels, shape, goal.network);
        let judge = host::about(goal.targets, &positions, pixels.clone());
        let mut aim = judge.clone();
        if let Some(wanted) = goal.wanted {
            aim.wanted = Some(positions.iter().map(|&position| wanted[position]).collect());
        }
        let found = gradient(goal.network, pixels, &|logits| loss.of(logits, &aim));
        for &position in &positions {
            effort[position] += Effort::GRADIENT;
            effort[position].iterations += u32::from(step > 0);
        }
        let fooled = judge.fooled(&argmax(found.logits));
        let losses = to_f64(found.losses);
        let gradients = host::split(found.gradient);
        active.into_par_iter().zip(losses).zip(gradients).zip(fooled).for_each(
            |(((ascent, loss), gradient), is_fooled)| match step {
                0 => ascent.begin(loss, gradient, is_fooled),
                _ => ascent.learn(loss, gradient, is_fooled),
            },
        );
    }
}

/// How one image climbs.
struct Ascent<'a> {
    image: &'a Image,
    /// In the batch.
    position: usize,
    bound: Bound,
    pixels: Vec<f64>,
    /// Where the last step began.
    before: Vec<f64>,
    gradient: Vec<f64>,
    /// Where the loss is the highest.
    best: Vec<f64>,
    best_gradient: Vec<f64>,
    best_loss: f64,
    first_loss: f64,
    has_gradient: bool,
    /// The last point that fools the network.
    fooled: Option<Vec<f64>>,
    step_size: f64,
    steps_taken: usize,
    schedule: Schedule,
}

/// When and how the step size changes.
enum Schedule {
    Halving(Halving),
    Sparsity(Sparsity),
}

/// The schedule of L∞ and L2.
struct Halving {
    /// Steps up to the next checkpoint, of which so many were taken.
    interval: usize,
    taken: usize,
    /// Each interval is that much shorter than the one before, down to the least.
    shorter: usize,
    least: usize,
    rho: f64,
    /// Steps since the last checkpoint in which the loss rose.
    rises: usize,
    last_loss: f64,
    /// What was so at the last checkpoint.
    was_halved: bool,
    best_loss: f64,
}

impl Halving {
    fn new(steps: usize, rho: f64) -> Self {
        let part = |share: f64| ((share * steps as f64) as usize).max(1);
        Self {
            interval: part(0.22),
            taken: 0,
            shorter: part(0.03),
            least: part(0.06),
            rho,
            rises: 0,
            last_loss: 0.0,
            was_halved: true,
            best_loss: f64::NAN,
        }
    }

    /// Whether the step is to be halved after one that led to `loss`.
    fn learn(&mut self, loss: f64, best_loss: f64) -> bool {
        self.rises += usize::from(loss > self.last_loss);
        self.last_loss = loss;
        self.taken += 1;
        if self.taken < self.interval {
            return false;
        }
        let swings = self.rises as f64 <= self.interval as f64 * self.rho;
        let is_stuck = !self.was_halved && self.best_loss >= best_loss;
        self.was_halved = swings || is_stuck;
        self.best_loss = best_loss;
        self.interval = self.interval.saturating_sub(self.shorter).max(self.least);
        (self.taken, self.rises) = (0, 0);
        self.was_halved
    }
}

/// The schedule of L1.
struct Sparsity {
    interval: usize,
    taken: usize,
    /// The share of the pixels along which a step goes.
    top: f64,
    /// Pixels that the best point changed at the last checkpoint.
    changed: usize,
}

/// The step shrinks by this …
const SHRINK: f64 = 1.5;
/// … down to this part of ε.
const LEAST_STEP: f64 = 10.0;

impl<'a> Ascent<'a> {
    fn new(
        image: &'a Image,
        position: usize,
        start: Vec<f64>,
        bound: Bound,
        steps: usize,
        rho: f64,
        is_staged: bool,
    ) -> Self {
        let pixels: Vec<f64> = start.into_iter().map(|pixel| pixel.clamp(0.0, 1.0)).collect();
        let schedule = match bound.norm {
            Norm::Linf | Norm::L2 => Schedule::Halving(Halving::new(steps, rho)),
            Norm::L1 => {
                let count = image.free(&image.pixels).count();
                let changed = if is_staged { changed(&pixels, image) } else { count };
                let top = if is_staged { top(changed, count) } else { 0.2 };
                let interval = ((0.04 * steps as f64) as usize).max(1);
                Schedule::Sparsity(Sparsity { interval, taken: 0, top, changed })
            }
        };
        Self {
            image,
            position,
            before: pixels.clone(),
            gradient: Vec::new(),
            best: pixels.clone(),
            best_gradient: Vec::new(),
            best_loss: f64::NAN,
            first_loss: f64::NAN,
            has_gradient: false,
            fooled: None,
            step_size: match bound.norm {
                Norm::Linf | Norm::L2 => 2.0 * bound.eps,
                Norm::L1 => bound.eps,
            },
            steps_taken: 0,
            schedule,
            bound,
            pixels,
        }
    }

    /// Takes in what is found at the start.
    fn begin(&mut self, loss: f64, mut gradient: Vec<f64>, is_fooled: bool) {
        self.image.keep(&mut gradient);
        self.has_gradient = gradient.iter().any(|&value| value != 0.0);
        self.fooled = is_fooled.then(|| self.pixels.clone());
        (self.first_loss, self.best_loss) = (loss, loss);
        self.best_gradient.clone_from(&gradient);
        self.gradient = gradient;
        if let Schedule::Halving(halving) = &mut self.schedule {
            halving.best_loss = loss;
        }
    }

    /// Moves on along the gradient.
    fn step(&mut self) {
        let Self { image, pixels, before, gradient, step_size, .. } = self;
        let Bound { norm, eps } = self.bound;
        let (original, step_size) = (&image.pixels, *step_size);
        let share = if self.steps_taken == 0 { 1.0 } else { 0.75 };
        let mixed =
            |ahead: f64, pixel: f64, before: f64| pixel + (ahead - pixel) * share + (pixel - before) * (1.0 - share);
        let points = || pixels.iter().zip(before.iter());
        let moved = match norm {
            Norm::Linf => {
                let near = |pixel: f64, original: f64| pixel.max(original - eps).min(original + eps).clamp(0.0, 1.0);
                let of = |(((pixel, before), gradient), &original): (((&f64, &f64), &f64), &f64)| {
                    let ahead = near(pixel + step_size * sign(*gradient), original);
                    near(mixed(ahead, *pixel, *before), original)
                };
                points().zip(gradient.iter()).zip(original).map(of).collect()
            }
            Norm::L2 => {
                let size = length(gradient.iter().copied(), norm) + TINY;
                let ahead =
                    pixels.iter().zip(gradient.iter()).map(|(pixel, gradient)| pixel + step_size * (gradient / size));
                let ahead = back_into_l2(original, ahead.collect(), eps);
                let mixed = points().zip(ahead).map(|((pixel, before), ahead)| mixed(ahead, *pixel, *before));
                back_into_l2(original, mixed.collect(), eps)
            }
            Norm::L1 => {
                let Schedule::Sparsity(Sparsity { top, .. }) = self.schedule else {
                    unreachable!("L1 has this schedule")
                };
                let mut sizes: Vec<f64> = image.free(gradient).map(f64::abs).collect();
                let rank = ((1.0 - top) * sizes.len() as f64).max(0.0) as usize;
                let rank = rank.min(sizes.len().saturating_sub(1));
                let least = if sizes.is_empty() { 0.0 } else { *sizes.select_nth_unstable_by(rank, f64::total_cmp).1 };
                let signs: Vec<f64> =
                    gradient.iter().map(|&value| if value.abs() >= least { sign(value) } else { 0.0 }).collect();
                let count = length(signs.iter().copied(), Norm::L1) + 1e-10;
                let of = |((pixel, sign), original): ((&f64, &f64), &f64)| pixel + step_size * sign / count - original;
                let change: Vec<f64> = pixels.iter().zip(&signs).zip(original).map(of).collect();
                let less = l1_correction(original, &change, eps);
                original
                    .iter()
                    .zip(change)
                    .zip(less)
                    .map(|((original, change), less)| original + change + less)
                    .collect()
            }
        };
        self.before = std::mem::replace(&mut self.pixels, moved);
        self.steps_taken += 1;
    }

    /// Takes in what is found after a step.
    fn learn(&mut self, loss: f64, mut gradient: Vec<f64>, is_fooled: bool) {
        self.image.keep(&mut gradient);
        if is_fooled {
            self.fooled = Some(self.pixels.clone());
        }
        if loss > self.best_loss {
            self.best_loss = loss;
            self.best.clone_from(&self.pixels);
            self.best_gradient.clone_from(&gradient);
        }
        self.gradient = gradient;
        let goes_back = match &mut self.schedule {
            Schedule::Halving(halving) => {
                let is_halved = halving.learn(loss, self.best_loss);
                if is_halved {
                    self.step_size /= 2.0;
                }
                is_halved
            }
            Schedule::Sparsity(sparsity) => {
                sparsity.taken += 1;
                if sparsity.taken < sparsity.interval {
                    return;
                }
                sparsity.taken = 0;
                let count = changed(&self.best, self.image);
                let is_sparser = (count as f64 / sparsity.changed as f64) < 0.95;
                let eps = self.bound.eps;
                self.step_size = if is_sparser { eps } else { (self.step_size / SHRINK).clamp(eps / LEAST_STEP, eps) };
                sparsity.top = top(count, self.image.free(&self.image.pixels).count());
                sparsity.changed = count;
                is_sparser
            }
        };
        if goes_back {
            self.pixels.clone_from(&self.best);
            self.gradient.clone_from(&self.best_gradient);
        }
    }
}

/// How many values differ from the image's, be it by rounding.
fn changed(pixels: &[f64], image: &Image) -> usize {
    pixels.iter().zip(&image.pixels).filter(|(new, old)| new != old).count()
}

/// The share of the pixels along which a step goes when so many of `count` are changed.
fn top(changed: usize, count: usize) -> f64 {
    changed as f64 / count as f64 / SHRINK
}

/// `pixels` scaled into the L2 ball around `original`, then into [0, 1].
fn back_into_l2(original: &[f64], pixels: Vec<f64>, eps: f64) -> Vec<f64> {
    let change: Vec<f64> = pixels.iter().zip(original).map(|(pixel, original)| pixel - original).collect();
    let size = length(change.iter().copied(), Norm::L2);
    let of = |(change, original): (f64, &f64)| (original + change / (size + TINY) * eps.min(size)).clamp(0.0, 1.0);
    change.into_iter().zip(original).map(of).collect()
}

/// `pixels` moved to the nearest point of the L1 ball around `original` and of [0, 1].
fn back_into_l1(original: &[f64], pixels: Vec<f64>, eps: f64) -> Vec<f64> {
    let change: Vec<f64> = pixels.iter().zip(original).map(|(pixel, original)| pixel - original).collect();
    let less = l1_correction(original, &change, eps);
    pixels.into_iter().zip(less).map(|(pixel, less)| pixel + less).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacks::norm::root;
    use crate::attacks::testing::{Recorded, Tiny, assert_near, bound, fingerprint, fixture, numbers};
    use crate::random::Random;
    use burn::tensor::DType;
    use serde_json::Value;

    /// All points and decisions of the authors' runs: step sizes, and in L1 the share of the pixels along which a step goes.
    #[test]
    fn points_and_decisions_are_those_of_the_authors() {
        let network = Tiny::new(DType::F64);
        for trace in fixture("apgd") {
            let seed = trace["seed"].as_u64().unwrap();
            let what = format!("{} {} staged {}", trace["norm"], trace["loss"], trace["staged"]);
            let mut targets = network.targets(seed..seed + 1);
            let loss = if trace["loss"] == "ce" { Loss::CrossEntropy } else { Loss::Dlr };
            if trace["loss"] == "dlr-targeted" {
                targets.wanted = Some(vec![loss::order(&network.logits(targets.pixels.clone()), 2)[0][1]]);
            }
            let larger_eps = trace["staged"] == true;
            let apgd = Apgd { bound: bound(&trace), loss, larger_eps, ..Apgd::default() };
            let images = Image::all(&targets);
            let image = &images[0];
            let mut start = apgd.start(image, "", &Recorded::new(seed));
            let mut calls = 0;
            let mut last = None;
            for (eps, steps) in apgd.stages() {
                if eps < apgd.stages()[0].0 {
                    start = back_into_l1(&image.pixels, start, eps);
                }
                let bound = Bound { eps, ..apgd.bound };
                let mut ascent = Ascent::new(image, 0, start, bound, steps, apgd.rho, larger_eps);
                for step in 0..=steps {
                    let what = format!("{what}, step {step}");
                    if step > 0 {
                        assert_near(&[ascent.step_size], &[trace["step_size"][calls].as_f64().unwrap()], &what);
                        if let Schedule::Sparsity(sparsity) = &ascent.schedule {
                            assert_near(&[sparsity.top], &[trace["top"][calls].as_f64().unwrap()], &what);
                        }
                        ascent.step();
                    }
                    assert_near(&[fingerprint(&ascent.pixels)], &[trace["pixels"][calls].as_f64().unwrap()], &what);
                    calls += 1;
                    let pixels = host::join(&[&ascent.pixels], targets.pixels.dims(), &network);
                    let found = gradient(&network, pixels, &|logits| loss.of(logits, &targets));
                    let is_fooled = argmax(found.logits)[0] != targets.labels[0];
                    let (loss, gradient) = (to_f64(found.losses)[0], host::split(found.gradient).remove(0));
                    match step {
                        0 => ascent.begin(loss, gradient, is_fooled),
                        _ => ascent.learn(loss, gradient, is_fooled),
                    }
                }
                start = ascent.best.clone();
                last = Some(ascent);
            }
            let ascent = last.unwrap();
            assert_eq!(calls, trace["pixels"].as_array().unwrap().len(), "{what}");
            assert_near(&ascent.best, &numbers(&trace["best"]), &what);
            assert_near(&[ascent.best_loss], &[trace["best_loss"].as_f64().unwrap()], &what);
            assert_eq!(ascent.fooled.is_some(), trace["fooled"] == true, "{what}");
            if let Some(pixels) = ascent.fooled {
                assert_near(&[fingerprint(&pixels)], &[trace["last_fooled"].as_f64().unwrap()], &what);
            }
        }
    }

    #[test]
    fn projections_onto_ball_and_box_are_those_of_the_authors() {
        let records = fixture("projections_ball");
        assert_eq!(records.len(), 12);
        for (case, record) in records.iter().enumerate() {
            let (point, change) = point_and_change(record, 0.2 + 0.3 * (case % 4) as f64);
            let correction = l1_correction(&point, &change, record["eps"].as_f64().unwrap());
            assert_near(&correction, &numbers(&record["correction"]), &format!("case {case}"));
        }
    }

    fn point_and_change(record: &Value, scale: f64) -> (Vec<f64>, Vec<f64>) {
        let mut random = Random::of(&[record["seed"].as_u64().unwrap()]);
        let point = (0..24).map(|_| (1.2 * random.unit() - 0.1).clamp(0.0, 1.0)).collect();
        let draws = Recorded::going_on(random);
        (point, draws.normal("", 0, "", 24).into_iter().map(|value| scale * value).collect())
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        assert_eq!(Apgd::default().check(), Ok(()));
        let refused = |apgd: Apgd, part: &str| {
            let said = apgd.check().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        };
        let default = Apgd::default();
        refused(Apgd { bound: Bound { norm: Norm::Linf, eps: 1.5 }, ..default.clone() }, "--eps 1.5");
        refused(Apgd { steps: 0, ..default.clone() }, "--steps 0");
        refused(Apgd { restarts: 0, ..default.clone() }, "--restarts 0");
        refused(Apgd { rho: 1.0, ..default }, "--rho 1");
    }

    /// Sorted corners, one after another, as the definition has it.
    fn by_sorting(limits: &[(f64, f64)], wanted: f64) -> f64 {
        let sum = |value: f64| limits.iter().map(|&(least, most)| value.clamp(least, most)).sum::<f64>();
        let mut corners: Vec<f64> = limits.iter().flat_map(|&(least, most)| [least, most]).collect();
        corners.sort_by(f64::total_cmp);
        let above = corners.iter().position(|&corner| sum(corner) >= wanted).unwrap();
        if above == 0 {
            return corners[0];
        }
        let (left, right) = (corners[above - 1], corners[above]);
        left + (right - left) * (wanted - sum(left)) / (sum(right) - sum(left))
    }

    proptest::proptest! {
        #[test]
        fn the_root_is_found(pairs in proptest::collection::vec((0.0f64..1.0, 0.0f64..1.0), 1..30), share in 0.001f64..0.999) {
            let limits: Vec<(f64, f64)> = pairs.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            let [least, most]: [f64; 2] = [limits.iter().map(|pair| pair.0).sum(), limits.iter().map(|pair| pair.1).sum()];
            proptest::prop_assume!(most - least > 1e-6);
            let wanted = least + share * (most - least);
            let sum = |value: f64| limits.iter().map(|&(least, most)| value.clamp(least, most)).sum::<f64>();
            for found in [root(&limits, wanted), by_sorting(&limits, wanted)] {
                proptest::prop_assert!((sum(found) - wanted).abs() < 1e-9);
            }
        }
    }
}
