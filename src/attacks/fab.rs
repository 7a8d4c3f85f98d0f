//! FAB: the nearest point beyond a class boundary.
//!
//! Croce & Hein, *Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack* (arXiv 1907.02044), algorithm 1:
//! the network is taken as linear at the present point, the point and the image are projected onto the boundary of that linear
//! network within [0, 1] (section 2.2, solved exactly), the next point lies between the two, a little beyond them (η), the
//! nearer to the image's projection the shorter that one is (α). Whenever the network is fooled, the point is kept if it is
//! nearer than the nearest so far, and a step is taken back towards the image (β). FAB-T is led by the boundary to one
//! class at a time, so that it needs one backward pass for each step instead of one for each class.
//!
//! xₜ₊₁ = (1 − a)·(xₜ + η·d(xₜ)) + a·(x₀ + η·d(x₀)), d(x) the shortest way from x to the boundary of the linear network within [0, 1],
//! a = min(α, ‖d(xₜ)‖ / (‖d(xₜ)‖ + ‖d(x₀)‖)); where the network is fooled, x ← x₀ + β·(x − x₀).
//!
//! Constants are those of AutoAttack's `fab_base.py`, which has no final search along the way back to the image as the paper's
//! code had it; so here. Deviations: an image whose nearest point is outside of the ball is given on the straight line there
//! at the ball's edge (theirs is given unchanged); differences of logits have their gradients by one forward and one backward
//! pass each; with a mask, gradients are zero where pixels may not change. With a wanted class, the boundary is that from the
//! label to it, and only what is taken for it counts.

use rayon::prelude::*;
use serde::Serialize;

use super::host::{self, Draws, Image, Noise, Progress, TINY, length};
use super::{Attack, AttackError, Bound, Doubt, Effort, Norm, Perturbed, Reason, Surrogate, Targets, gradient, loss};
use crate::model::{argmax, to_f64};

/// FAB and FAB-T.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fab {
    /// The ball: an image counts as fooled within it. Restarts begin in the ball of half its radius.
    #[serde(flatten)]
    pub bound: Bound,
    /// Classes whose boundaries are approached one after another, those of the highest logits first, and as many as there are
    /// if there are fewer; 0 for the nearest boundary of all at each step. Without effect on images of which a class is
    /// wanted.
    pub target_classes: usize,
    /// Steps, at least 1.
    pub steps: usize,
    /// Tries of each image (and class), at least 1; the first begins at the image, later ones at random points and for images
    /// that still stand.
    pub restarts: usize,
    /// The largest share of the image's projection, in [0, 1].
    pub alpha_max: f64,
    /// η: how far beyond the boundary a step leads, at least 1.
    pub eta: f64,
    /// β: the share of the way from the image that is left after a step back, above 0 and below 1.
    pub beta: f64,
    /// Seeds the starts.
    pub seed: u64,
}

impl Default for Fab {
    /// AutoAttack's `fab-t`: 100 steps towards each of nine classes, ε = 8/255 in L∞.
    fn default() -> Self {
        Self {
            bound: Bound { norm: Norm::Linf, eps: 8.0 / 255.0 },
            target_classes: 9,
            steps: 100,
            restarts: 1,
            alpha_max: 0.1,
            eta: 1.05,
            beta: 0.9,
            seed: 0,
        }
    }
}

impl Fab {
    /// Checks the ranges.
    ///
    /// # Errors
    /// A sentence that names the first setting that is out of its range.
    pub fn check(&self) -> Result<(), AttackError> {
        self.bound.check()?;
        host::at_least_one("steps", self.steps)?;
        host::at_least_one("restarts", self.restarts)?;
        let is_share = (0.0..=1.0).contains(&self.alpha_max);
        AttackError::check("alpha-max", self.alpha_max, is_share, "a share from 0 to 1, such as 0.1")?;
        let is_right = self.eta >= 1.0 && self.eta.is_finite();
        AttackError::check("eta", self.eta, is_right, "a factor of at least 1, such as 1.05")?;
        let is_right = self.beta > 0.0 && self.beta < 1.0;
        AttackError::check("beta", self.beta, is_right, "a share above 0 and below 1, such as 0.9")
    }
}

impl Attack for Fab {
    fn name(&self) -> &str {
        if self.target_classes == 0 { "fab" } else { "fab-t" }
    }

    fn settings(&self) -> serde_json::Value {
        host::settings(self)
    }

    fn bound(&self) -> Bound {
        self.bound
    }

    fn perturb(&self, network: &dyn Surrogate, targets: &Targets) -> Perturbed {
        self.perturb_with(network, targets, &Noise)
    }
}

impl Fab {
    pub(super) fn perturb_with(&self, network: &dyn Surrogate, targets: &Targets, draws: &dyn Draws) -> Perturbed {
        if targets.is_empty() || self.bound.eps == 0.0 {
            return host::nothing(targets);
        }
        let eps = self.bound.eps;
        let images = Image::all(targets);
        let clean = network.logits(targets.pixels.clone());
        let mut progress = Progress::new(&images, targets.fooled(&argmax(clean.clone())));
        let ranked = loss::order(&clean, self.target_classes + 1);
        let of = progress.standing().len();
        let mut has_gradient = vec![false; images.len()];
        for (turn, wanted) in host::turns(targets, &ranked, self.target_classes).iter().enumerate() {
            let wanted = wanted.as_ref().or(targets.wanted.as_ref()).map(Vec::as_slice);
            for restart in 0..self.restarts {
                let standing = progress.standing();
                if standing.is_empty() {
                    break;
                }
                let name = |position: usize| format!("{}\0turn {turn}, restart {restart}", targets.ids[position]);
                let mut paths: Vec<Path> = standing
                    .par_iter()
                    .map(|&position| {
                        let image = &images[position];
                        let start =
                            if restart == 0 { image.pixels.clone() } else { self.start(image, &name(position), draws) };
                        Path { image, position, pixels: start, nearest: None, has_gradient: false }
                    })
                    .collect();
                for _ in 0..self.steps {
                    self.step(network, targets, wanted, &mut paths, &mut progress.effort);
                }
                for Path { image, position, nearest, has_gradient: has, .. } in paths {
                    has_gradient[position] |= has;
                    match nearest {
                        Some((distance, pixels)) if distance <= eps => progress.fooled(position, pixels),
                        Some((distance, pixels)) => {
                            let pairs = pixels.iter().zip(&image.pixels);
                            let edge = pairs.map(|(far, original)| original + (far - original) * (eps / distance));
                            progress.stands(position, edge.collect(), -distance);
                        }
                        None => {}
                    }
                }
            }
        }
        let attacked = progress.effort.iter().zip(has_gradient).filter(|(effort, has)| effort.gradients > 0 && !has);
        let doubts = match attacked.count() {
            0 => Vec::new(),
            images => vec![Doubt { reason: Reason::ZeroGradient, images, of }],
        };
        progress.end(targets.pixels.dims(), network, doubts)
    }

    /// A random point at the edge of the ball of half the radius.
    fn start(&self, image: &Image, name: &str, draws: &dyn Draws) -> Vec<f64> {
        let Bound { norm, eps } = self.bound;
        let (purpose, size) = ("netkin fab start", image.pixels.len());
        let mut noise = match norm {
            Norm::Linf => draws.uniform(purpose, self.seed, name, size),
            Norm::L2 | Norm::L1 => draws.normal(purpose, self.seed, name, size),
        };
        image.keep(&mut noise);
        let size = length(noise.iter().copied(), norm).max(f64::MIN_POSITIVE);
        let of = |(pixel, noise): (&f64, f64)| (pixel + eps * noise / size * 0.5).clamp(0.0, 1.0);
        image.pixels.iter().zip(noise).map(of).collect()
    }

    /// One step of all images.
    fn step(
        &self,
        network: &dyn Surrogate,
        targets: &Targets,
        wanted: Option<&[usize]>,
        paths: &mut [Path],
        effort: &mut [Effort],
    ) {
        let shape = targets.pixels.dims();
        let positions: Vec<usize> = paths.iter().map(|path| path.position).collect();
        let join = |paths: &[Path]| {
            let pixels: Vec<&[f64]> = paths.iter().map(|path| path.pixels.as_slice()).collect();
            host::join(&pixels, shape, network)
        };
        let pixels = join(paths);
        let labels: Vec<usize> = positions.iter().map(|&position| targets.labels[position]).collect();
        let others: Vec<Vec<usize>> = match wanted {
            Some(wanted) => vec![positions.iter().map(|&position| wanted[position]).collect()],
            // All classes but each image's label.
            None => (1..network.num_classes())
                .map(|class| labels.iter().map(|&label| if class > label { class } else { class - 1 }).collect())
                .collect(),
        };
        let mut boundaries: Vec<Option<Boundary>> = paths.iter().map(|_| None).collect();
        for others in &others {
            let difference = |logits| loss::pick(&logits, others) - loss::pick(&logits, &labels);
            let found = gradient(network, pixels.clone(), &difference);
            let values = to_f64(found.losses);
            let gradients = host::split(found.gradient);
            positions.iter().for_each(|&position| effort[position] += Effort::GRADIENT);
            boundaries.par_iter_mut().zip(&*paths).zip(values).zip(gradients).for_each(
                |(((nearest, path), difference), mut gradient)| {
                    path.image.keep(&mut gradient);
                    let boundary = Boundary::new(difference, gradient, self.bound.norm);
                    if nearest.as_ref().is_none_or(|nearest| boundary.distance < nearest.distance) {
                        *nearest = Some(boundary);
                    }
                },
            );
        }
        paths.par_iter_mut().zip(boundaries).for_each(|(path, boundary)| {
            self.advance(path, &boundary.expect("a network has at least two classes"));
        });
        let pixels = join(paths);
        let judge = host::about(targets, &positions, pixels.clone());
        let fooled = judge.fooled(&argmax(network.logits(pixels)));
        for &position in &positions {
            effort[position] += Effort::QUERY;
            effort[position] += Effort::ITERATION;
        }
        paths.par_iter_mut().zip(fooled).filter(|(_, is_fooled)| *is_fooled).for_each(|(path, _)| self.retreat(path));
    }

    /// Moves on to the boundary.
    fn advance(&self, path: &mut Path, boundary: &Boundary) {
        let norm = self.bound.norm;
        let Boundary { difference, gradient, .. } = boundary;
        path.has_gradient |= gradient.iter().any(|&value| value != 0.0);
        let offset = path.pixels.iter().zip(gradient).map(|(pixel, slope)| pixel * slope).sum::<f64>() - difference;
        let moves = [&path.pixels, &path.image.pixels].map(|point| to_hyperplane(point, gradient, offset, norm));
        let [here, there] = [0, 1].map(|index| length(moves[index].iter().copied(), norm).max(1e-8));
        let share = (here / (here + there)).clamp(0.0, self.alpha_max);
        let [from_here, from_image] = moves;
        let pairs = path.pixels.iter().zip(&from_here).zip(path.image.pixels.iter().zip(&from_image));
        let of = |((pixel, here), (original, there)): ((&f64, &f64), (&f64, &f64))| {
            ((pixel + self.eta * here) * (1.0 - share) + (original + self.eta * there) * share).clamp(0.0, 1.0)
        };
        path.pixels = pairs.map(of).collect();
        path.image.restore(&mut path.pixels);
    }

    /// Keeps a point that fools the network, and goes back towards the image.
    fn retreat(&self, path: &mut Path) {
        let distance = path.image.distance(&path.pixels, self.bound.norm);
        if path.nearest.as_ref().is_none_or(|(nearest, _)| distance < *nearest) {
            path.nearest = Some((distance, path.pixels.clone()));
        }
        let pairs = path.pixels.iter_mut().zip(&path.image.pixels);
        pairs.for_each(|(pixel, original)| *pixel = original + (*pixel - original) * self.beta);
    }
}

/// How one image goes along the boundary.
struct Path<'a> {
    image: &'a Image,
    /// In the batch.
    position: usize,
    pixels: Vec<f64>,
    /// The nearest point that fools the network, with its distance from the image.
    nearest: Option<(f64, Vec<f64>)>,
    has_gradient: bool,
}

/// Where a network that is linear around a point takes it for another class.
struct Boundary {
    /// That class's logit minus the label's.
    difference: f64,
    gradient: Vec<f64>,
    /// Of the point, without regard to [0, 1].
    distance: f64,
}

impl Boundary {
    fn new(difference: f64, gradient: Vec<f64>, norm: Norm) -> Self {
        let dual = match norm {
            Norm::Linf => Norm::L1,
            Norm::L2 => Norm::L2,
            Norm::L1 => Norm::Linf,
        };
        let distance = difference.abs() / (TINY + length(gradient.iter().copied(), dual));
        Self { difference, gradient, distance }
    }
}

/// The shortest change of `point` that leads to the hyperplane weights · x = offset within [0, 1]; if there is none, the one
/// that leads nearest to it.
///
/// FAB, section 2.2: all pixels with a weight move towards the plane, up to the edge of [0, 1]: in L∞ as far, in L2 as far for
/// their weight, in L1 those of the largest weights first. In L2 and L1, weights up to 10⁻⁸ count as none.
fn to_hyperplane(point: &[f64], weights: &[f64], offset: f64, norm: Norm) -> Vec<f64> {
    let beyond = point.iter().zip(weights).map(|(pixel, weight)| pixel * weight).sum::<f64>() - offset;
    let side = if beyond >= 0.0 { 1.0 } else { -1.0 };
    let gap = beyond.abs();
    let least = if norm == Norm::Linf { 0.0 } else { 1e-8 };
    let room = |pixel: f64, weight: f64| if weight * side < 0.0 { 1.0 - pixel } else { pixel };
    let movers: Vec<usize> = (0..point.len()).filter(|&index| weights[index].abs() > least).collect();
    let mut change = vec![0.0; point.len()];
    let mut go = |index: usize, distance: f64| change[index] = -side * weights[index].signum() * distance;
    match norm {
        Norm::Linf | Norm::L2 => {
            let speed = |weight: f64| if norm == Norm::L2 { weight } else { 1.0 };
            let parts: Vec<(f64, f64)> = movers
                .iter()
                .map(|&index| {
                    let (weight, speed) = (weights[index].abs(), speed(weights[index].abs()));
                    (room(point[index], weights[index]) / speed, weight * speed)
                })
                .collect();
            let time = time_to(&parts, gap);
            for &index in &movers {
                let weight = weights[index];
                go(index, (time * speed(weight.abs())).min(room(point[index], weight)));
            }
        }
        Norm::L1 => {
            let mut order = movers;
            order.sort_unstable_by(|&a, &b| weights[b].abs().total_cmp(&weights[a].abs()).then(a.cmp(&b)));
            let mut left = gap;
            for index in order {
                let weight = weights[index];
                let distance = (left / weight.abs()).min(room(point[index], weight));
                go(index, distance);
                left -= distance * weight.abs();
                if left <= 0.0 {
                    break;
                }
            }
        }
    }
    change
}

/// When things that each go on at their own speed until they stop have covered `gap` together: the t with
/// Σ speed · min(t, stop) = gap, infinite if they never have. `parts` are (stop, speed).
///
/// The sum is concave, so Newton's method from 0 comes nearer with each step, and is there once nothing more stops.
fn time_to(parts: &[(f64, f64)], gap: f64) -> f64 {
    let (mut time, mut stopped) = (0.0, usize::MAX);
    loop {
        let (mut covered, mut speed, mut count) = (0.0, 0.0, 0);
        for &(stop, own) in parts {
            if stop <= time {
                covered += own * stop;
                count += 1;
            } else {
                speed += own;
            }
        }
        if count == stopped {
            return time;
        }
        if count == parts.len() {
            return f64::INFINITY;
        }
        (time, stopped) = (time.max((gap - covered) / speed), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacks::testing::{Recorded, Tiny, assert_near, bound, fingerprint, fixture, numbers};
    use crate::random::Random;
    use burn::tensor::DType;

    /// The points of the authors' first ten steps, at which gradients are taken.
    #[test]
    fn points_are_those_of_the_authors() {
        let network = Tiny::new(DType::F64);
        for trace in fixture("fab") {
            let seed = trace["seed"].as_u64().unwrap();
            let what = format!("{} targeted {} start {}", trace["norm"], trace["targeted"], trace["start"]);
            let targets = network.targets(seed..seed + 1);
            let fab = Fab { bound: bound(&trace), ..Fab::default() };
            let images = Image::all(&targets);
            let image = &images[0];
            let pixels = match trace["start"] == true {
                true => fab.start(image, "", &Recorded::new(seed)),
                false => image.pixels.clone(),
            };
            let wanted = (trace["targeted"] == true)
                .then(|| vec![loss::order(&network.logits(targets.pixels.clone()), 2)[0][1]]);
            let mut paths = [Path { image, position: 0, pixels, nearest: None, has_gradient: false }];
            let iterates = trace["iterates"].as_array().unwrap();
            assert_eq!(iterates.len(), 10);
            for (step, expected) in iterates.iter().enumerate() {
                let what = format!("{what}, step {step}");
                match expected.as_f64() {
                    Some(expected) => assert_near(&[fingerprint(&paths[0].pixels)], &[expected], &what),
                    None => assert_near(&paths[0].pixels, &numbers(expected), &what),
                }
                fab.step(&network, &targets, wanted.as_deref(), &mut paths, &mut [Effort::default()]);
            }
            let [Path { nearest, .. }] = paths;
            let nearest = nearest.map_or_else(|| image.pixels.clone(), |(_, pixels)| pixels);
            assert_near(&nearest, &numbers(&trace["nearest"]), &what);
        }
    }

    #[test]
    fn projections_onto_planes_are_those_of_the_authors() {
        let records = fixture("projections_planes");
        assert_eq!(records.len(), 36);
        for record in records {
            let case = record["case"].as_u64().unwrap() as usize;
            let mut random = Random::of(&[record["seed"].as_u64().unwrap()]);
            let point: Vec<f64> = (0..24).map(|_| (1.2 * random.unit() - 0.1).clamp(0.0, 1.0)).collect();
            let draws = Recorded::going_on(random);
            draws.normal("", 0, "", 24);
            let mut weights = draws.normal("", 0, "", 24);
            weights[case % 24] = 0.0;
            weights[(case + 7) % 24] = 1e-10;
            let norm = bound(&record).norm;
            let change = to_hyperplane(&point, &weights, record["offset"].as_f64().unwrap(), norm);
            assert_near(&change, &numbers(&record["move"]), &format!("{norm:?}, case {case}"));
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        assert_eq!(Fab::default().check(), Ok(()));
        let default = Fab::default();
        for (fab, part) in [
            (Fab { bound: Bound { norm: Norm::L2, eps: -1.0 }, ..default.clone() }, "--eps -1"),
            (Fab { steps: 0, ..default.clone() }, "--steps 0"),
            (Fab { restarts: 0, ..default.clone() }, "--restarts 0"),
            (Fab { alpha_max: 1.1, ..default.clone() }, "--alpha-max 1.1"),
            (Fab { eta: 0.9, ..default.clone() }, "--eta 0.9"),
            (Fab { beta: 1.0, ..default.clone() }, "--beta 1"),
        ] {
            let said = fab.check().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }

    proptest::proptest! {
        /// The change ends on the plane, within [0, 1], and is no longer than the way to another point of the plane there.
        #[test]
        fn a_plane_is_reached(
            pixels in proptest::collection::vec((0.0f64..=1.0, -1.0f64..1.0), 6),
            goal in proptest::collection::vec(0.0f64..=1.0, 6),
        ) {
            let (point, weights): (Vec<f64>, Vec<f64>) = pixels.into_iter().unzip();
            let product = |x: &[f64]| x.iter().zip(&weights).map(|(x, weight)| x * weight).sum::<f64>();
            // A plane through a point of the box.
            let offset = product(&goal);
            for norm in [Norm::Linf, Norm::L2, Norm::L1] {
                let change = to_hyperplane(&point, &weights, offset, norm);
                let there: Vec<f64> = point.iter().zip(&change).map(|(pixel, change)| pixel + change).collect();
                proptest::prop_assert!((product(&there) - offset).abs() < 1e-9);
                proptest::prop_assert!(there.iter().all(|pixel| (-1e-12..=1.0 + 1e-12).contains(pixel)));
                let other = length(goal.iter().zip(&point).map(|(goal, pixel)| goal - pixel), norm);
                proptest::prop_assert!(length(change.into_iter(), norm) <= other + 1e-9);
            }
        }
    }
}
