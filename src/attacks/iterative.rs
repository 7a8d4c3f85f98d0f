//! Attacks that step along a gradient, put together from parts.
//!
//! | part | setting | source |
//! |---|---|---|
//! | start | the image, or a random point of the ball | Madry et al. (arXiv 1706.06083) |
//! | loss | cross-entropy, margin, difference of logits ratio | [`Loss`] |
//! | gradient | of the network, or estimated from its answers | [`Estimate`] |
//! | where it is taken | the point, or ahead along the momentum | Lin et al. (arXiv 1908.06281), equation 6 |
//! | views | scaled, mixed, resized, shuffled copies | [`Views`] |
//! | neighbours | the variance of the gradient around the point; flat maxima | [`Neighbours`] |
//! | filter | blurred; low frequencies alone | [`Iterative::translation`], [`Iterative::low_pass`] |
//! | momentum | g ← μ·g + gradient / mean(abs gradient) | Dong et al. (arXiv 1710.06081), equation 6 |
//! | step and way back | in L∞, L2, L1 | [`Bound`] |
//!
//! x ← Π(x + step(g)), for `steps` steps.

use burn::tensor::Tensor;
use serde::Serialize;

use super::momentum::{add_up, by_mean};
use super::norm::{norms, per_image};
use super::separable::Separable;
use super::views::{Choices, Diversity, Drawn, Moment, Views};
use super::{
    Attack, AttackError, Bound, Doubt, Effort, Loss, LossGradient, LossOf, Norm, Perturbed, Reason, Surrogate, Targets,
    gradient, host, rows, with_rows,
};
use crate::model::{argmax, to_f64};

/// An attack that steps along a gradient.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Iterative {
    /// As users call it.
    pub name: String,
    /// The ball.
    #[serde(flatten)]
    pub bound: Bound,
    /// The length of a step in the ball's norm, above 0.
    pub step_size: f64,
    /// Steps, at least 1.
    pub steps: usize,
    /// Whether to start from a random point of the ball (else from the image).
    pub random_start: bool,
    /// Tries of each image, at least 1: later ones begin from other random points and are for images that still stand.
    pub restarts: usize,
    /// What rises.
    pub loss: Loss,
    /// How the gradient is found.
    pub estimate: Estimate,
    /// What the network is shown.
    pub views: Views,
    /// What is asked around the point.
    pub neighbours: Option<Neighbours>,
    /// The gradient is blurred by a Gaussian of so many pixels, an odd number, over ± 3 deviations. Dong et al., *Evading Defenses to
    /// Transferable Adversarial Examples by Translation-Invariant Attacks* (arXiv 1904.02884).
    pub translation: Option<usize>,
    /// Only the lowest frequencies of the perturbation are used, this share of those along each axis, in (0, 1]: gradient and
    /// perturbation are projected onto that part of the discrete cosine transform after each step, and the perturbation is then
    /// scaled into the ball; only where pixels would leave [0, 1] they are cut off. Guo et al., *Low Frequency Adversarial
    /// Perturbation* (arXiv 1809.08758); Sharma et al. (arXiv 1903.00073).
    pub low_pass: Option<f64>,
    /// μ of the momentum; without one, each step follows the gradient of its point.
    pub momentum: Option<f64>,
    /// Whether gradients are taken at x + step size · μ · g instead of x.
    pub look_ahead: bool,
    /// Seeds all random numbers.
    pub seed: u64,
}

/// How a gradient is found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimate {
    /// By a backward pass.
    Backward,
    /// From answers alone, by natural evolution strategies: the mean of (L(x + σu) − L(x − σu)) / 2σ · u over normal u. Ilyas et
    /// al., *Black-box Adversarial Attacks with Limited Queries and Information* (arXiv 1804.08598), algorithm 1.
    Evolution {
        /// Pairs of queries for each gradient.
        pairs: usize,
        /// σ, a change of pixels.
        deviation: f64,
    },
}

/// What is asked around a point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Neighbours {
    /// The gradient is corrected by its variance around the point before: the mean at random neighbours minus that at the point.
    /// Wang & He, *Enhancing the Transferability of Adversarial Attacks through Variance Tuning* (arXiv 2103.15571), algorithm 1.
    Variance {
        /// Neighbours.
        count: usize,
        /// Their distance in L∞, in ε.
        radius: f64,
    },
    /// The mean over random neighbours of (1 − share)·gradient + share·gradient a step below them, which is small where the loss is
    /// flat. Ge et al., *Boosting Adversarial Transferability by Achieving Flat Local Maxima* (arXiv 2306.05225), algorithm 1.
    Flat {
        /// Neighbours.
        count: usize,
        /// Their distance in L∞, in ε.
        radius: f64,
        /// The share, 0 to 1.
        share: f64,
    },
}

impl Default for Iterative {
    /// The SAT paper's PGD: ε = 8/255 in 50 steps of 2/255 from a random point.
    fn default() -> Self {
        Self {
            name: "pgd".into(),
            bound: Bound { norm: Norm::Linf, eps: 8.0 / 255.0 },
            step_size: 2.0 / 255.0,
            steps: 50,
            random_start: true,
            restarts: 1,
            loss: Loss::CrossEntropy,
            estimate: Estimate::Backward,
            views: Views::default(),
            neighbours: None,
            translation: None,
            low_pass: None,
            momentum: None,
            look_ahead: false,
            seed: 0,
        }
    }
}

impl Iterative {
    /// Checks the ranges.
    ///
    /// # Errors
    /// A sentence that names the first setting that is out of its range.
    pub fn check(&self) -> Result<(), AttackError> {
        self.bound.check()?;
        let largest = match self.bound.norm {
            Norm::Linf => 1.0,
            Norm::L2 | Norm::L1 => f64::INFINITY,
        };
        AttackError::check(
            "step-size",
            self.step_size,
            self.step_size > 0.0 && self.step_size <= largest,
            match largest {
                1.0 => "a change of pixels in [0, 1], above 0 and up to 1, such as 2/255",
                _ => "a distance above 0",
            },
        )?;
        host::at_least_one("steps", self.steps)?;
        host::at_least_one("restarts", self.restarts)?;
        host::at_least_one("scales", self.views.scales)?;
        self.check_parts()?;
        if self.restarts > 1 && !self.random_start {
            return Err(AttackError::SameStart);
        }
        Ok(())
    }

    /// Checks the ranges of what only some attacks have.
    fn check_parts(&self) -> Result<(), AttackError> {
        let check = AttackError::check;
        let share = |value: f64| (0.0..=1.0).contains(&value);
        if let Some(momentum) = self.momentum {
            check("momentum", momentum, momentum >= 0.0, "a number of at least 0, such as 1")?;
        }
        if let Some(size) = self.translation {
            check("translation", size as f64, size % 2 == 1, "an odd number of pixels, such as 15")?;
        }
        if let Some(part) = self.low_pass {
            check("low-pass", part, part > 0.0 && part <= 1.0, "a share above 0 and up to 1, such as 0.25")?;
        }
        if let Some(Diversity { probability, rate }) = self.views.diversity {
            check("diversity", probability, share(probability), "a probability from 0 to 1")?;
            check("diversity-rate", rate, rate > 0.1 && rate < 4.0, "a ratio of sizes such as 1.1")?;
        }
        if let Some(admix) = &self.views.admix {
            host::at_least_one("admix", admix.copies)?;
            check("admix-strength", admix.strength, admix.strength > 0.0, "a number above 0, such as 0.2")?;
        }
        if let Some(shuffle) = self.views.shuffle {
            host::at_least_one("shuffle", shuffle.copies)?;
            host::at_least_one("blocks", shuffle.blocks)?;
        }
        if let Some(Neighbours::Variance { count, radius } | Neighbours::Flat { count, radius, .. }) = self.neighbours {
            host::at_least_one("neighbours", count)?;
            check("radius", radius, radius > 0.0, "a distance in eps above 0, such as 1.5")?;
        }
        if let Some(Neighbours::Flat { share: part, .. }) = self.neighbours {
            check("flatness", part, share(part), "a share from 0 to 1")?;
        }
        if let Estimate::Evolution { pairs, deviation } = self.estimate {
            host::at_least_one("pairs", pairs)?;
            check("deviation", deviation, deviation > 0.0, "a change of pixels above 0, such as 0.001")?;
        }
        Ok(())
    }
}

impl Attack for Iterative {
    fn name(&self) -> &str {
        &self.name
    }

    fn settings(&self) -> serde_json::Value {
        host::settings(self)
    }

    fn bound(&self) -> Bound {
        self.bound
    }

    fn least_classes(&self, is_targeted: bool) -> usize {
        self.loss.least_classes(is_targeted)
    }

    fn perturb(&self, network: &dyn Surrogate, targets: &Targets) -> Perturbed {
        self.perturb_with(network, targets, &Drawn)
    }
}

impl Iterative {
    /// As [`Attack::perturb`], with other choices of what the network is shown.
    fn perturb_with(&self, network: &dyn Surrogate, targets: &Targets, choices: &dyn Choices) -> Perturbed {
        if targets.is_empty() || self.bound.eps == 0.0 {
            return host::nothing(targets);
        }
        let first = self.climb(network, targets, choices, 0);
        if self.restarts == 1 {
            return Perturbed { pixels: first.pixels, effort: vec![first.effort; targets.len()], doubts: first.doubts };
        }
        let mut effort = vec![Effort::default(); targets.len()];
        let mut best = vec![f64::NEG_INFINITY; targets.len()];
        let mut pixels = targets.pixels.clone();
        let mut standing: Vec<usize> = (0..targets.len()).collect();
        let doubts = first.doubts.clone();
        let mut climbed = Some(first);
        for restart in 0..self.restarts {
            let part = targets.some(&standing);
            let climb = climbed.take().unwrap_or_else(|| self.climb(network, &part, choices, restart));
            let logits = network.logits(climb.pixels.clone());
            let losses = to_f64(self.loss.of(logits.clone(), &part));
            let fooled = part.fooled(&argmax(logits));
            for &position in &standing {
                effort[position] += climb.effort;
                effort[position] += Effort::QUERY;
            }
            let better: Vec<usize> =
                (0..standing.len()).filter(|&index| fooled[index] || losses[index] > best[standing[index]]).collect();
            let positions: Vec<usize> = better.iter().map(|&index| standing[index]).collect();
            pixels = with_rows(&pixels, &positions, rows(&climb.pixels, &better));
            for &index in &better {
                best[standing[index]] = losses[index];
            }
            standing = (0..standing.len()).filter(|&index| !fooled[index]).map(|index| standing[index]).collect();
            if standing.is_empty() {
                break;
            }
        }
        Perturbed { pixels, effort, doubts }
    }
}

/// What one try of all images gives.
struct Climb {
    pixels: Tensor<4>,
    /// Of each image.
    effort: Effort,
    doubts: Vec<Doubt>,
}

/// Blurs and low-passes of the gradient's size.
struct Filters {
    translation: Option<Separable>,
    low_pass: Option<Separable>,
}

impl Filters {
    fn of_gradient(&self, gradient: Tensor<4>) -> Tensor<4> {
        [&self.translation, &self.low_pass]
            .into_iter()
            .flatten()
            .fold(gradient, |gradient, filter| filter.apply(gradient))
    }
}

impl Iterative {
    fn climb(&self, network: &dyn Surrogate, targets: &Targets, choices: &dyn Choices, restart: usize) -> Climb {
        let original = &targets.pixels;
        let filters = Filters {
            translation: self.translation.map(|size| Separable::gaussian(original, size)),
            low_pass: self.low_pass.map(|share| Separable::low_pass(original, share)),
        };
        let mut effort = Effort { iterations: self.steps as u32, ..Effort::default() };
        let mut pixels = match self.random_start {
            true => self.bound.random_point(targets, self.seed, restart),
            false => original.clone(),
        };
        if let (Some(low_pass), true) = (&filters.low_pass, self.random_start) {
            pixels = self.bound.scaled(low_pass.apply(pixels - original.clone()), targets);
        }
        let mut momentum: Option<Tensor<4>> = None;
        let mut variance: Option<Tensor<4>> = None;
        let (mut first, mut last) = (None, None);
        for step in 0..self.steps {
            let moment = |turn| Moment { seed: self.seed, restart, step, turn };
            let ahead = match (&momentum, self.momentum) {
                (Some(along), Some(share)) if self.look_ahead => {
                    Some(pixels.clone() + along.clone().mul_scalar(self.step_size * share))
                }
                _ => None,
            };
            let point = ahead.as_ref().unwrap_or(&pixels);
            let mut at = |point: &Tensor<4>, turn: usize, effort: &mut Effort| {
                let mut found = self.gradient(network, targets, point, (moment(turn), choices), effort);
                found.gradient = filters.of_gradient(found.gradient);
                found
            };
            let found = match self.neighbours {
                Some(Neighbours::Flat { count, radius, share }) => {
                    self.flat(targets, point, count, radius, share, &moment, &mut effort, &mut at)
                }
                _ => at(point, 0, &mut effort),
            };
            first.get_or_insert_with(|| found.clone());
            let LossGradient { losses, gradient, .. } = found;
            last = Some(losses);
            let before = variance.take();
            if let Some(Neighbours::Variance { count, radius }) = self.neighbours
                && step + 1 < self.steps
            {
                let around = (0..count).map(|turn| {
                    let noise = moment(turn + 1).uniform("netkin attack neighbours", targets, radius * self.bound.eps);
                    at(&(pixels.clone() + noise), turn + 1, &mut effort).gradient
                });
                let sum = around.reduce(|sum, gradient| sum + gradient).expect("there is a neighbour");
                variance = Some(sum.mul_scalar(1.0 / count as f64) - gradient.clone());
            }
            let mut along = match before {
                Some(variance) => gradient + variance,
                None => gradient,
            };
            if let Some(share) = self.momentum {
                along = add_up(momentum.take(), share, along);
                momentum = Some(along.clone());
            }
            // Nobody else holds the pixels any more, so that they can be changed in place.
            drop(ahead);
            pixels = match &filters.low_pass {
                Some(low_pass) => {
                    let change = self.bound.change_after(pixels, along, self.step_size, targets);
                    self.bound.scaled(low_pass.apply(change), targets)
                }
                None => self.bound.advance(pixels, along, self.step_size, targets),
            };
        }
        let doubts = first.zip(last).map_or_else(Vec::new, |(first, last)| self.doubts(&first, &last));
        Climb { pixels, effort, doubts }
    }

    /// Losses at the views of a point and the mean of their gradients.
    fn gradient(
        &self,
        network: &dyn Surrogate,
        targets: &Targets,
        point: &Tensor<4>,
        (moment, choices): (Moment, &dyn Choices),
        effort: &mut Effort,
    ) -> LossGradient {
        let loss: &LossOf = &|logits| self.loss.of(logits, targets);
        let mut view = 0;
        self.views.mean(targets, point, (moment, choices), effort, |seen, effort| {
            view += 1;
            match self.estimate {
                Estimate::Backward => {
                    *effort += Effort::GRADIENT;
                    gradient(network, seen, loss)
                }
                Estimate::Evolution { pairs, deviation } => {
                    *effort += Effort { queries: 2 * pairs as u32, ..Effort::default() };
                    evolution(network, targets, &seen, loss, [pairs, view - 1], deviation, moment)
                }
            }
        })
    }

    /// As [`Neighbours::Flat`] says.
    #[allow(clippy::too_many_arguments)]
    fn flat(
        &self,
        targets: &Targets,
        point: &Tensor<4>,
        count: usize,
        radius: f64,
        share: f64,
        moment: &dyn Fn(usize) -> Moment,
        effort: &mut Effort,
        at: &mut dyn FnMut(&Tensor<4>, usize, &mut Effort) -> LossGradient,
    ) -> LossGradient {
        let mut sum: Option<LossGradient> = None;
        for neighbour in 0..count {
            let turn = 2 * neighbour;
            let noise = moment(turn).uniform("netkin attack neighbours", targets, radius * self.bound.eps);
            let near = point.clone() + noise;
            let here = at(&near, turn, effort);
            let below = near - by_mean(here.gradient.clone()).mul_scalar(self.step_size);
            let there = at(&below, turn + 1, effort);
            let gradient = here.gradient.mul_scalar(1.0 - share) + there.gradient.mul_scalar(share);
            sum = Some(match sum {
                None => LossGradient { gradient, ..here },
                Some(sum) => LossGradient { gradient: sum.gradient + gradient, ..sum },
            });
        }
        let sum = sum.expect("there is a neighbour");
        LossGradient { gradient: sum.gradient.mul_scalar(1.0 / count as f64), ..sum }
    }

    fn doubts(&self, first: &LossGradient, last: &Tensor<1>) -> Vec<Doubt> {
        let of = first.losses.dims()[0];
        let zero = to_f64(norms(&first.gradient, Norm::Linf)).into_iter().filter(|&size| size == 0.0).count();
        let pairs = to_f64(first.losses.clone()).into_iter().zip(to_f64(last.clone()));
        let flat = pairs.filter(|(first, last)| last <= first).count();
        let mut doubts = Vec::new();
        if zero > 0 {
            doubts.push(Doubt { reason: Reason::ZeroGradient, images: zero, of });
        }
        if self.steps > 1 && flat > 0 {
            doubts.push(Doubt { reason: Reason::LossNotRising, images: flat, of });
        }
        doubts
    }
}

/// As [`Estimate::Evolution`] says; the losses are means over all queries.
fn evolution(
    network: &dyn Surrogate,
    targets: &Targets,
    point: &Tensor<4>,
    loss: &LossOf,
    [pairs, view]: [usize; 2],
    deviation: f64,
    moment: Moment,
) -> LossGradient {
    let mut sum: Option<LossGradient> = None;
    for pair in 0..pairs {
        let noise = targets.masked(moment.normal("netkin attack evolution", targets, view * pairs + pair));
        let shift = noise.clone().mul_scalar(deviation);
        let (logits, above) = network.losses(point.clone() + shift.clone(), loss);
        let (_, below) = network.losses(point.clone() - shift, loss);
        let slope = (above.clone() - below.clone()).mul_scalar(0.5 / (deviation * pairs as f64));
        let gradient = noise * per_image(slope);
        let losses = (above + below).mul_scalar(0.5 / pairs as f64);
        sum = Some(match sum {
            None => LossGradient { logits, losses, gradient },
            Some(sum) => LossGradient { losses: sum.losses + losses, gradient: sum.gradient + gradient, ..sum },
        });
    }
    sum.expect("there is a pair of queries")
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::blocks::{Blocks, Strip};
    use super::super::testing::{Tiny, assert_near, fingerprint, numbers};
    use super::super::views::{Placing, Pool, Shuffle};
    use super::super::{Wishes, named, views};
    use super::*;
    use crate::images::RgbImage;

    fn fingerprints(pixels: &Tensor<4>) -> Vec<f64> {
        to_f64(pixels.clone()).chunks_exact(192).map(fingerprint).collect()
    }

    fn attack(record: &Value, pool: Option<Pool>) -> Iterative {
        let settings = &record["settings"];
        let (number, count) =
            (|name: &str| settings[name].as_f64(), |name: &str| settings[name].as_u64().map(|count| count as usize));
        let wishes = Wishes {
            norm: (settings["norm"] == "l2").then_some(Norm::L2),
            eps: number("eps"),
            step_size: number("step_size"),
            steps: count("steps"),
            no_random_start: settings["no_random_start"] == true,
            translation: count("translation"),
            variance: count("variance"),
            flat: count("flat"),
            admix: count("admix"),
            diversity: number("diversity"),
            diversity_rate: number("diversity_rate"),
            shuffle: count("shuffle"),
            blocks: count("blocks"),
            pool,
            ..Wishes::default()
        };
        let attack = named::iterative(record["attack"].as_str().unwrap(), &wishes).unwrap();
        attack.check().unwrap();
        attack
    }

    /// What the authors' code drew for the views of a whole batch.
    struct Kept<'a>(&'a [Value]);

    fn lengths(values: &Value) -> Vec<usize> {
        numbers(values).into_iter().map(|value| value as usize).collect()
    }

    /// Neighbouring ranges of some lengths, in another order.
    fn ranges(part: &Value) -> Vec<std::ops::Range<usize>> {
        let mut end = 0;
        let ranges: Vec<_> = lengths(&part["lengths"])
            .into_iter()
            .map(|length| {
                end += length;
                end - length..end
            })
            .collect();
        lengths(&part["order"]).into_iter().map(|index| ranges[index].clone()).collect()
    }

    impl Choices for Kept<'_> {
        fn placing(&self, _: Diversity, moment: Moment, _: &str, _: usize, _: [usize; 2]) -> Option<Placing> {
            let placing = &self.0[moment.step];
            let side = placing["resized"].as_u64()? as usize;
            let corner = lengths(&placing["corner"]);
            Some(Placing { resized: [side, side], corner: [corner[0], corner[1]] })
        }

        fn blocks(&self, shuffle: Shuffle, moment: Moment, _: &str, copy: usize, _: [usize; 2]) -> Blocks {
            let drawn = &self.0[moment.step * shuffle.copies + copy];
            let strips = ranges(drawn).into_iter().zip(drawn["strips"].as_array().unwrap()).map(|(from, strip)| {
                Strip { from, degrees: strip["degrees"].as_f64().unwrap(), pieces: ranges(strip) }
            });
            Blocks { axis: drawn["axis"].as_u64().unwrap() as usize, strips: strips.collect() }
        }
    }

    /// scripts/iterative_reference.py: what others' attacks showed the same network, and what they made.
    #[test]
    fn attacks_are_those_of_torchattacks_and_transferattack() {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/attacks/iterative.json")).unwrap();
        let records = all["records"].as_array().unwrap();
        assert_eq!(records.len(), 17);
        for record in records {
            let name = record["attack"].as_str().unwrap();
            let network = Tiny::new(DType::F64);
            let mut targets = network.targets(0..3);
            let mut pool = None;
            if name == "admix" {
                targets = network.targets(0..2);
                let bytes: Vec<RgbImage> = to_f64(targets.pixels.clone())
                    .chunks_exact(192)
                    .map(|image| {
                        RgbImage::from_pixels(&image.iter().map(|&value| value as f32).collect::<Vec<_>>(), 8, 8)
                    })
                    .collect();
                let exact: Vec<f64> = bytes
                    .iter()
                    .flat_map(|image| {
                        (0..192).map(|index| f64::from(image.data()[index % 64 * 3 + index / 64]) / 255.0)
                    })
                    .collect();
                targets.labels = vec![3, 4];
                targets.pixels = Tensor::from_data(
                    burn::tensor::TensorData::new(exact, [2, 3, 8, 8]),
                    (&targets.pixels.device(), DType::F64),
                );
                pool = Pool::new(targets.labels.iter().copied().zip(bytes).collect());
            }
            network.seen.borrow_mut().clear();
            let attack = attack(record, pool);
            let perturbed = match record.get("draws") {
                Some(draws) => attack.perturb_with(&network, &targets, &Kept(draws.as_array().unwrap())),
                None => attack.perturb(&network, &targets),
            };
            let seen = network.seen.borrow();
            let shown = numbers(&record["shown"]);
            // Neighbours of the last point change nothing, and are not asked.
            assert!(shown.is_empty() || seen.len() <= shown.len(), "{name}");
            let count = seen.len().min(shown.len());
            assert_near(&seen[..count], &shown[..count], name);
            let results = fingerprints(&perturbed.pixels).into_iter().zip(numbers(&record["result"]));
            let pairs = seen[..count].iter().copied().zip(shown).chain(results);
            let largest = pairs.map(|(actual, expected)| (actual - expected).abs()).fold(0.0, f64::max);
            println!("{name} {}: {count} points, at most {largest:.1e} apart", record["settings"]);
            // A pool's images are f32.
            assert!(largest < if name == "admix" { 1e-6 } else { 1e-9 }, "{name}: {largest}");
            if let Some(pixels) = record.get("pixels") {
                let change = |pixels: Vec<f64>| -> Vec<f64> {
                    pixels.into_iter().zip(to_f64(targets.pixels.clone())).map(|(new, old)| new - old).collect()
                };
                assert_near(&change(to_f64(perturbed.pixels)), &change(numbers(pixels)), name);
            }
        }
    }

    fn all_parts(norm: Norm, eps: f64) -> Vec<Iterative> {
        let pgd = Iterative { bound: Bound { norm, eps }, step_size: eps / 2.0, steps: 3, ..Iterative::default() };
        let momentum = Iterative { momentum: Some(1.0), look_ahead: true, ..pgd.clone() };
        let pool = Pool::new((0..3).map(|label| (label, RgbImage::new(8, 8, vec![90; 192]))).collect()).unwrap();
        let views = Views {
            scales: 2,
            diversity: Some(Diversity { probability: 0.7, rate: 1.3 }),
            admix: Some(views::Admix { copies: 2, strength: 0.2, pool }),
            shuffle: Some(Shuffle { copies: 2, blocks: 2, degrees: 24.0 }),
        };
        let evolution = Estimate::Evolution { pairs: 3, deviation: 0.01 };
        vec![
            Iterative { restarts: 3, ..pgd.clone() },
            Iterative { views, ..momentum.clone() },
            Iterative { neighbours: Some(Neighbours::Variance { count: 2, radius: 1.5 }), ..momentum.clone() },
            Iterative { neighbours: Some(Neighbours::Flat { count: 2, radius: 3.0, share: 0.5 }), ..momentum },
            Iterative { translation: Some(3), loss: Loss::Dlr, ..pgd.clone() },
            Iterative { low_pass: Some(0.5), loss: Loss::Margin, ..pgd.clone() },
            Iterative { estimate: evolution, ..pgd },
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn every_part_keeps_the_promises(
            norm in prop::sample::select(vec![Norm::Linf, Norm::L2, Norm::L1]),
            eps in 0.01f64..0.9,
            seed in any::<u64>(),
            is_targeted in any::<bool>(),
        ) {
            let network = Tiny::new(DType::F32);
            let mut targets = network.targets(0..5);
            // The first is misclassified from the beginning.
            targets.labels[0] = (targets.labels[0] + 1) % 10;
            targets.wanted = is_targeted.then(|| targets.labels.iter().map(|label| (label + 3) % 10).collect());
            let half: Vec<f64> = (0..5 * 64).map(|index| f64::from(u8::from(index % 3 != 0))).collect();
            let half = burn::tensor::TensorData::new(half, [5, 1, 8, 8]);
            targets.mask = Some(Tensor::from_data(half, (&targets.pixels.device(), DType::F32)));
            for attack in all_parts(norm, eps) {
                let attack = Iterative { seed, ..attack };
                attack.check().unwrap();
                let whole = attack.perturb(&network, &targets);
                prop_assert_eq!(whole.effort.len(), 5);
                let distances = attack.bound.distances(&whole.pixels, &targets.pixels);
                // 192 pixels of f32, each rounded.
                prop_assert!(distances.iter().all(|distance| *distance <= eps + 1e-5), "{:?}", distances);
                let values = to_f64(whole.pixels.clone());
                prop_assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
                let kept = to_f64(targets.pixels.clone());
                let is_kept = |index: usize| !(index / 192 * 64 + index % 64).is_multiple_of(3) || (values[index] - kept[index]).abs() < 1e-6;
                prop_assert!((0..values.len()).all(is_kept), "the mask");
                let alone = attack.perturb(&network, &targets.some(&[3]));
                prop_assert_eq!(to_f64(alone.pixels), to_f64(rows(&whole.pixels, &[3])), "alone and in a batch");
                prop_assert_eq!(attack.perturb(&network, &targets.some(&[])).effort.len(), 0);
            }
        }
    }

    #[test]
    fn restarts_are_for_what_stands_and_gradients_of_zero_are_told() {
        let network = Tiny::new(DType::F64);
        let targets = network.targets(0..6);
        let bound = Bound { norm: Norm::Linf, eps: 0.03 };
        let once = Iterative { bound, step_size: 0.01, steps: 4, ..Iterative::default() };
        let often = Iterative { restarts: 5, ..once.clone() };
        let fooled = |perturbed: &Perturbed| targets.fooled(&argmax(network.logits(perturbed.pixels.clone())));
        let (one, five) = (once.perturb(&network, &targets), often.perturb(&network, &targets));
        for ((one, five), effort) in fooled(&one).into_iter().zip(fooled(&five)).zip(five.effort) {
            assert!(five || !one, "more tries fool no fewer");
            // A try is four steps and one look at what came of it.
            assert!(if one { effort.queries == 5 } else { effort.queries > 5 });
            assert!(five || effort.queries == 25);
        }
        assert!(one.doubts.is_empty());
        let mut flat = Tiny::new(DType::F64);
        flat.levels = Some(8.0);
        assert!(once.perturb(&flat, &targets).doubts.contains(&Doubt {
            reason: Reason::ZeroGradient,
            images: 6,
            of: 6
        }));
    }
}
