//! Square: a random search over square windows, without gradients.
//!
//! Andriushchenko et al., *Square Attack: a query-efficient black-box adversarial attack via random search* (arXiv 1912.00049),
//! algorithm 1: a change of one window is proposed and kept if it makes the loss better; windows become smaller with time
//! (section 3.1, [`Square::window_share`]). In L∞ a window is set to ± ε for each channel, from vertical stripes at first
//! (algorithm 2). In L2 (algorithm 3) the change of a second window is moved into the first, in the form of two bumps of opposite
//! sign. In L1 as AutoAttack does it since Croce & Hein, *Mind the Box* (arXiv 2103.01208): as in L2 with steeper bumps and lengths
//! in L1, and back into the intersection of ball and box.
//!
//! x ← x + δ if L(x + δ) > L(x).
//!
//! Constants, and the order in which random numbers are drawn, are those of AutoAttack's `square.py`; as there, windows never lie
//! at an image's last row or column. Deviations: each image has its own windows (theirs are the same for all of a batch); an
//! image that was not fooled is given at its best loss (theirs is given unchanged); tiles of the start in L2 and L1 that the image
//! cuts off are cut off (there an error); with a wanted class, the loss is the same one for it (theirs is the cross-entropy
//! then); with a mask, changes are zero where pixels may not change.

use rayon::prelude::*;
use serde::Serialize;

use super::host::{self, Draws, Image, Noise, Progress, TINY, length};
use super::norm::l1_correction;
use super::{Attack, AttackError, Bound, Doubt, Effort, Loss, Norm, Perturbed, Reason, Surrogate, Targets};
use crate::model::{argmax, to_f64};

/// The Square attack.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Square {
    /// The ball.
    #[serde(flatten)]
    pub bound: Bound,
    /// What has to rise.
    pub loss: Loss,
    /// Proposals for each image in each of its tries, at least 1. Each try's start is one query more, and so is the image itself, so
    /// that an image costs 1 + restarts · (queries + 1) at most.
    pub queries: usize,
    /// Tries of each image, at least 1; later ones for images that still stand.
    pub restarts: usize,
    /// p: the share of the image's area that a window has at first, in (0, 1]; halved after proposals 10, 50, 200, 500, 1000,
    /// 2000, 4000, 6000 and 8000.
    pub window_share: f64,
    /// Whether those numbers are of 10000 proposals and scaled to how many there are.
    pub rescale: bool,
    /// Seeds all random numbers.
    pub seed: u64,
}

impl Default for Square {
    /// AutoAttack's: ε = 8/255 in L∞, 5000 proposals on the margin, windows of 0.8 of the area at first.
    fn default() -> Self {
        Self {
            bound: Bound { norm: Norm::Linf, eps: 8.0 / 255.0 },
            loss: Loss::Margin,
            queries: 5000,
            restarts: 1,
            window_share: 0.8,
            rescale: false,
            seed: 0,
        }
    }
}

/// Proposals after which a window's area is halved.
const HALVED_AFTER: [usize; 9] = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];
/// What all of them are of.
const ALL_PROPOSALS: f64 = 10_000.0;

impl Square {
    /// Checks the ranges.
    ///
    /// # Errors
    /// A sentence that names the first setting that is out of its range.
    pub fn check(&self) -> Result<(), AttackError> {
        self.bound.check()?;
        host::at_least_one("queries", self.queries)?;
        host::at_least_one("restarts", self.restarts)?;
        let is_right = self.window_share > 0.0 && self.window_share <= 1.0;
        AttackError::check("window-share", self.window_share, is_right, "a share above 0 and up to 1, such as 0.8")
    }

    /// p(t).
    fn share(&self, proposal: usize) -> f64 {
        let proposal = match self.rescale {
            true => (proposal as f64 / self.queries as f64 * ALL_PROPOSALS) as usize,
            false => proposal,
        };
        let halvings = HALVED_AFTER.iter().filter(|&&after| proposal > after).count();
        self.window_share / f64::from(1u32 << halvings)
    }

    /// The side of the windows of a proposal.
    fn side(&self, proposal: usize, [_, height, width]: [usize; 3]) -> usize {
        let side = (self.share(proposal) * (height * width) as f64).sqrt().round_ties_even() as usize;
        let side = match self.bound.norm {
            Norm::Linf => side.max(1),
            // Odd, so that it has a middle.
            Norm::L2 | Norm::L1 => side.max(3) | 1,
        };
        side.min(height).min(width)
    }
}

impl Attack for Square {
    fn name(&self) -> &str {
        "square"
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
        self.perturb_with(network, targets, &Noise)
    }
}

impl Square {
    pub(super) fn perturb_with(&self, network: &dyn Surrogate, targets: &Targets, draws: &dyn Draws) -> Perturbed {
        if targets.is_empty() || self.bound.eps == 0.0 {
            return host::nothing(targets);
        }
        let [_, channels, height, width] = targets.pixels.dims();
        let shape = [channels, height, width];
        let images = Image::all(targets);
        let clean = network.logits(targets.pixels.clone());
        let mut progress = Progress::new(&images, targets.fooled(&argmax(clean)));
        let of = progress.standing().len();
        let mut has_risen = vec![false; images.len()];
        for restart in 0..self.restarts {
            let mut searches: Vec<Search> = progress
                .standing()
                .into_iter()
                .map(|position| Search {
                    image: &images[position],
                    position,
                    best: Vec::new(),
                    loss: f64::NAN,
                    is_fooled: false,
                    has_ended: false,
                    has_risen: false,
                })
                .collect();
            for turn in 0..=self.queries {
                let mut active: Vec<&mut Search> = searches.iter_mut().filter(|search| !search.has_ended).collect();
                if active.is_empty() {
                    break;
                }
                let proposed: Vec<Vec<f64>> = active
                    .par_iter()
                    .map(|search| {
                        let id = &targets.ids[search.position];
                        let draw = |count| {
                            let name = format!("{id}\0restart {restart}, turn {turn}");
                            draws.uniform("netkin square", self.seed, &name, count)
                        };
                        match turn.checked_sub(1) {
                            None => self.start(search.image, shape, draw),
                            Some(proposal) => self.propose(search, proposal, shape, draw),
                        }
                    })
                    .collect();
                self.judge(network, targets, &mut active, proposed, &mut progress.effort);
            }
            for Search { position, best, loss, is_fooled, has_risen: has, .. } in searches {
                has_risen[position] |= has || is_fooled;
                match is_fooled {
                    true => progress.fooled(position, best),
                    false => progress.stands(position, best, loss),
                }
            }
        }
        // One query is the image's own.
        let attacked = progress.effort.iter().zip(has_risen).filter(|(effort, has)| effort.queries > 1 && !has);
        let doubts = match attacked.count() {
            0 => Vec::new(),
            images => vec![Doubt { reason: Reason::LossNotRising, images, of }],
        };
        progress.end(targets.pixels.dims(), network, doubts)
    }

    /// Shows the network what is proposed for each image, and keeps it where it is better.
    fn judge(
        &self,
        network: &dyn Surrogate,
        targets: &Targets,
        active: &mut [&mut Search],
        proposed: Vec<Vec<f64>>,
        effort: &mut [Effort],
    ) {
        let positions: Vec<usize> = active.iter().map(|search| search.position).collect();
        let pixels: Vec<&[f64]> = proposed.iter().map(Vec::as_slice).collect();
        let pixels = host::join(&pixels, targets.pixels.dims(), network);
        let judge = host::about(targets, &positions, pixels.clone());
        let (logits, losses) = network.losses(pixels, &|logits| self.loss.of(logits, &judge));
        let losses = to_f64(losses);
        let margins = to_f64(Loss::Margin.of(logits.clone(), &judge));
        let fooled = judge.fooled(&argmax(logits));
        for search in active.iter() {
            effort[search.position] += Effort::QUERY;
            // The start is no proposal.
            effort[search.position].iterations += u32::from(!search.best.is_empty());
        }
        for (index, pixels) in proposed.into_iter().enumerate() {
            let search = &mut *active[index];
            let is_first = search.best.is_empty();
            let is_better = losses[index] > search.loss;
            search.has_ended = margins[index] >= 0.0;
            if is_first || is_better || search.has_ended {
                search.best = pixels;
                search.is_fooled = fooled[index];
            }
            if is_first || is_better {
                search.loss = losses[index];
            }
            search.has_risen |= is_better;
        }
    }

    /// Where the search begins.
    fn start(&self, image: &Image, shape: [usize; 3], draw: impl Fn(usize) -> Vec<f64>) -> Vec<f64> {
        let [channels, height, width] = shape;
        let mut change = vec![0.0; image.pixels.len()];
        if self.bound.norm == Norm::Linf {
            let stripes = draw(channels * width);
            for (index, value) in change.iter_mut().enumerate() {
                *value = self.bound.eps * sign(stripes[index / (height * width) * width + index % width]);
            }
        } else {
            // Five tiles in a column and about as many in a row.
            let side = (height / 5).max(1);
            let edge = height.saturating_sub(5 * side) / 2;
            let tiles = [height / side, width / side];
            let numbers = draw(tiles[0] * tiles[1] * (1 + channels));
            for (tile, numbers) in numbers.chunks_exact(1 + channels).enumerate() {
                let bumps = self.bumps(side, numbers[0]);
                let window = Window { top: edge + tile / tiles[1] * side, left: edge + tile % tiles[1] * side, side };
                for (channel, number) in numbers[1..].iter().enumerate() {
                    for (place, bump) in window.places(channel, shape).zip(&bumps) {
                        if let Some(place) = place {
                            change[place] += bump * sign(*number);
                        }
                    }
                }
            }
        }
        image.keep(&mut change);
        self.within(image, change)
    }

    /// What is proposed next.
    fn propose(
        &self,
        search: &Search,
        proposal: usize,
        shape: [usize; 3],
        draw: impl Fn(usize) -> Vec<f64>,
    ) -> Vec<f64> {
        let [channels, height, width] = shape;
        let (image, eps) = (search.image, self.bound.eps);
        let side = self.side(proposal, shape);
        let window = |numbers: &[f64]| {
            let below = |number: f64, bound: usize| ((number + 1.0) / 2.0 * bound as f64) as usize;
            Window { top: below(numbers[0], height - side), left: below(numbers[1], width - side), side }
        };
        if self.bound.norm == Norm::Linf {
            let numbers = draw(2 + channels);
            let window = window(&numbers);
            let mut step = vec![0.0; search.best.len()];
            for (channel, number) in numbers[2..].iter().enumerate() {
                window.places(channel, shape).flatten().for_each(|place| step[place] = 2.0 * eps * sign(*number));
            }
            image.keep(&mut step);
            let near = |pixel: f64, original: f64| pixel.max(original - eps).min(original + eps).clamp(0.0, 1.0);
            let pairs = search.best.iter().zip(step).zip(&image.pixels);
            return pairs.map(|((best, step), original)| near(best + step, *original)).collect();
        }
        let numbers = draw(5 + channels);
        let (to, from) = (window(&numbers), window(&numbers[2..]));
        let bumps = self.bumps(side, numbers[4]);
        let mut change: Vec<f64> =
            search.best.iter().zip(&image.pixels).map(|(best, original)| best - original).collect();
        let old = change.clone();
        self.exchange(&mut change, &old, to, from, &bumps, &numbers[5..], shape);
        image.keep(&mut change);
        self.within(image, change)
    }

    /// Sets the `change` of window `from` to zero and puts it, and what is left of ε, into window `to`, in the form of what
    /// was there and bumps of the channels' signs.
    #[allow(clippy::too_many_arguments)]
    fn exchange(
        &self,
        change: &mut [f64],
        old: &[f64],
        to: Window,
        from: Window,
        bumps: &[f64],
        signs: &[f64],
        shape: [usize; 3],
    ) {
        let Bound { norm, eps } = self.bound;
        let channels = shape[0] as f64;
        let left = match norm {
            Norm::L2 => (eps * eps - length(old.iter().copied(), norm).powi(2)).max(0.0),
            _ => (eps - length(old.iter().copied(), norm)).max(0.0),
        };
        for (channel, number) in signs.iter().enumerate() {
            let places = || to.places(channel, shape).flatten();
            let outside = |place: &usize| !to.holds(*place, shape);
            let both = places().chain(from.places(channel, shape).flatten().filter(outside));
            let here = length(both.map(|place| old[place]), norm);
            let size = match norm {
                Norm::L2 => (left / channels + here * here).sqrt(),
                _ => (left / channels + here) * channels,
            };
            let before = length(places().map(|place| old[place]), norm);
            let form: Vec<f64> =
                places().zip(bumps).map(|(place, bump)| bump * sign(*number) + old[place] / (TINY + before)).collect();
            let scale = size / (TINY + length(form.iter().copied(), norm));
            from.places(channel, shape).flatten().for_each(|place| change[place] = 0.0);
            places().zip(form).for_each(|(place, form)| change[place] = form * scale);
        }
    }

    /// The image with a `change`, in [0, 1]: in L∞ as it is, in L2 at the ball's edge, in L1 in the ball.
    fn within(&self, image: &Image, change: Vec<f64>) -> Vec<f64> {
        let Bound { norm, eps } = self.bound;
        let original = &image.pixels;
        match norm {
            Norm::Linf => original.iter().zip(change).map(|(pixel, change)| (pixel + change).clamp(0.0, 1.0)).collect(),
            Norm::L2 => {
                let size = length(change.iter().copied(), norm) + TINY;
                let pairs = original.iter().zip(change);
                pairs.map(|(pixel, change)| (pixel + change / size * eps).clamp(0.0, 1.0)).collect()
            }
            Norm::L1 => {
                let less = l1_correction(original, &change, eps * (1.0 - 1e-6));
                original.iter().zip(change).zip(less).map(|((pixel, change), less)| pixel + change + less).collect()
            }
        }
    }

    /// Two bumps of opposite sign, one above the other or, if `number` is above 0, beside it; `[side · side]`, of length 1.
    fn bumps(&self, side: usize, number: f64) -> Vec<f64> {
        let norm = self.bound.norm;
        let upper = bump(side / 2, side, norm);
        let lower = bump(side - side / 2, side, norm).into_iter().map(|value| -value);
        let both: Vec<f64> = upper.into_iter().chain(lower).collect();
        let size = length(both.iter().copied(), norm);
        let is_turned = number > 0.0;
        let place = |index: usize| if is_turned { index % side * side + index / side } else { index };
        (0..both.len()).map(|index| both[place(index)] / size).collect()
    }
}

/// Growing rectangles around a middle on top of each other, the r-th of them 1/r² high, in L1 1/r⁴; `[rows · columns]`, of
/// length 1.
fn bump(rows: usize, columns: usize, norm: Norm) -> Vec<f64> {
    let power = if norm == Norm::L1 { 4 } else { 2 };
    let mut heights = vec![0.0; rows.max(columns) / 2 + 2];
    for ring in (0..heights.len() - 1).rev() {
        heights[ring] = heights[ring + 1] + 1.0 / ((ring + 1) as f64).powi(power);
    }
    let height =
        |index: usize| heights[(index / columns).abs_diff(rows / 2).max((index % columns).abs_diff(columns / 2))];
    let values: Vec<f64> = (0..rows * columns).map(height).collect();
    let size = length(values.iter().copied(), norm);
    values.into_iter().map(|value| value / size).collect()
}

/// −1 or 1.
fn sign(number: f64) -> f64 {
    if number < 0.0 { -1.0 } else { 1.0 }
}

/// The search for one image.
struct Search<'a> {
    image: &'a Image,
    /// In the batch.
    position: usize,
    /// The best pixels; empty before the start.
    best: Vec<f64>,
    loss: f64,
    /// Whether they fool the network.
    is_fooled: bool,
    /// Whether no logit is below the label's any more, or, with a wanted class, that class's is the highest.
    has_ended: bool,
    has_risen: bool,
}

/// A square of an image, the same in all channels.
#[derive(Clone, Copy)]
struct Window {
    top: usize,
    left: usize,
    side: usize,
}

impl Window {
    /// Where its pixels are in one channel of an image `[channels, height, width]`, row by row; none for those outside.
    fn places(self, channel: usize, [_, height, width]: [usize; 3]) -> impl Iterator<Item = Option<usize>> {
        let Self { top, left, side } = self;
        (0..side * side).map(move |index| {
            let (row, column) = (top + index / side, left + index % side);
            (row < height && column < width).then_some((channel * height + row) * width + column)
        })
    }

    /// Whether a place is in it.
    fn holds(self, place: usize, [_, height, width]: [usize; 3]) -> bool {
        let (row, column) = (place / width % height, place % width);
        (self.top..self.top + self.side).contains(&row) && (self.left..self.left + self.side).contains(&column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacks::testing::{Recorded, SHAPE, Tiny, assert_near, assert_within, bound, fixture, numbers};
    use burn::tensor::DType;

    /// All that the authors' runs propose, and what they keep.
    #[test]
    fn proposals_are_those_of_the_authors() {
        let network = Tiny::new(DType::F64);
        for trace in fixture("square") {
            let seed = trace["seed"].as_u64().unwrap();
            let what = trace["norm"].to_string();
            let targets = network.targets(seed..seed + 1);
            let square = Square { bound: bound(&trace), queries: 300, ..Square::default() };
            let made = square.perturb_with(&network, &targets, &Recorded::new(seed));
            // Where a window holds only what rounding left in L1, the authors divide that by 1e-12.
            let tolerance = if square.bound.norm == Norm::L1 { 1e-4 } else { 1e-9 };
            // The first one is the image itself.
            let seen = network.seen.borrow();
            for (query, (seen, expected)) in seen[1..].iter().zip(numbers(&trace["proposed"])).enumerate() {
                assert_within(tolerance, &[*seen], &[expected], &format!("{what}, query {query}"));
            }
            assert_eq!(u64::from(made.effort[0].queries), 1 + trace["queries"].as_u64().unwrap(), "{what}");
            assert_within(tolerance, &to_f64(made.pixels), &numbers(&trace["best"]), &what);
            let sizes = trace["sizes"].as_array().unwrap();
            assert!(sizes[0].is_null() && sizes.len() > 100);
            for (proposal, side) in sizes[1..].iter().enumerate() {
                assert_eq!(square.side(proposal, SHAPE) as u64, side.as_u64().unwrap(), "{what}");
            }
        }
    }

    #[test]
    fn windows_are_as_large_as_the_authors() {
        for record in fixture("square_sizes") {
            let side = record["side"].as_u64().unwrap() as usize;
            let square = Square { bound: bound(&record), ..Square::default() };
            let mut found: Vec<[u64; 2]> = Vec::new();
            for proposal in 0..square.queries {
                let size = square.side(proposal, [3, side, side]) as u64;
                if found.last().is_none_or(|last| last[1] != size) {
                    found.push([proposal as u64, size]);
                }
            }
            assert_eq!(serde_json::to_value(found).unwrap(), record["sizes"], "{}", record["norm"]);
        }
        let rescaled = Square { queries: 2500, rescale: true, ..Square::default() };
        for record in fixture("square_shares") {
            let step = record[0].as_u64().unwrap() as usize;
            let shares = [Square::default().share(step), rescaled.share(step)];
            assert_near(&shares, &numbers(&record)[1..], &format!("step {step}"));
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        assert_eq!(Square::default().check(), Ok(()));
        let default = Square::default();
        for (square, part) in [
            (Square { bound: Bound { norm: Norm::L1, eps: f64::NAN }, ..default.clone() }, "--eps NaN"),
            (Square { queries: 0, ..default.clone() }, "--queries 0"),
            (Square { restarts: 0, ..default.clone() }, "--restarts 0"),
            (Square { window_share: 0.0, ..default.clone() }, "--window-share 0"),
        ] {
            let said = square.check().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }
}
