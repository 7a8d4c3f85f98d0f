//! AutoAttack: four attacks without settings to be tuned, one after another.
//!
//! Croce & Hein, *Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks* (arXiv
//! 2003.01690), the authors' version "standard": [`Apgd`] on the cross-entropy, on the difference of logits ratio to nine
//! classes one by one, [`Fab`] to nine classes one by one, [`Square`] with 5000 proposals, each only on the images that still
//! stand; in L1 (*Mind the Box*, arXiv 2103.01208) APGD begins in larger balls, five times on the cross-entropy, and goes to five
//! classes. Of fewer classes, all are tried. Their versions "plus" and "rand" are not here.
//!
//! Deviation: an image that was not fooled is given as [`Apgd`] on the cross-entropy left it (theirs is given unchanged).
//! Whether outputs are random or probabilities, [`super::doubts_of`] says of a network under any attack.

use serde::Serialize;

use super::{
    Apgd, Attack, AttackError, Bound, Doubt, Effort, Fab, Norm, Perturbed, Reason, Square, Surrogate, Targets, host,
    rows, with_rows,
};
use crate::model::argmax;

/// AutoAttack, version "standard".
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AutoAttack {
    /// The ball.
    #[serde(flatten)]
    pub bound: Bound,
    /// Steps of each attack with gradients, at least 1.
    pub steps: usize,
    /// Square's proposals, at least 1.
    pub queries: usize,
    /// The most classes that an attack goes to one by one, at least 1; APGD in L1 goes to five at most.
    pub target_classes: usize,
    /// As [`Apgd::stop_when_fooled`].
    pub stop_when_fooled: bool,
    /// Seeds all random numbers.
    pub seed: u64,
}

impl Default for AutoAttack {
    /// The authors': ε = 8/255 in L∞.
    fn default() -> Self {
        Self {
            bound: Bound { norm: Norm::Linf, eps: 8.0 / 255.0 },
            steps: 100,
            queries: 5000,
            target_classes: 9,
            stop_when_fooled: false,
            seed: 0,
        }
    }
}

/// The attacks that it consists of, in their order.
const PARTS: [&str; 4] = ["apgd-ce", "apgd-t", "fab-t", "square"];

/// What AutoAttack made, and by what.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// As of any attack.
    pub perturbed: Perturbed,
    /// Which attack fooled the network on each image; none if none did or the network was wrong before.
    pub fooled_by: Vec<Option<&'static str>>,
}

impl AutoAttack {
    /// Checks the ranges.
    ///
    /// # Errors
    /// A sentence that names the first setting that is out of its range.
    pub fn check(&self) -> Result<(), AttackError> {
        self.bound.check()?;
        host::at_least_one("steps", self.steps)?;
        host::at_least_one("queries", self.queries)?;
        host::at_least_one("target-classes", self.target_classes)
    }

    /// The attacks that it consists of, in their order.
    pub fn parts(&self) -> (Apgd, Apgd, Fab, Square) {
        let Self { bound, steps, queries, target_classes, stop_when_fooled, seed } = *self;
        let targeted = Apgd::targeted(bound, seed);
        let most = targeted.target_classes.min(target_classes);
        (
            Apgd { steps, stop_when_fooled, ..Apgd::cross_entropy(bound, seed) },
            Apgd { steps, stop_when_fooled, target_classes: most, ..targeted },
            Fab { bound, steps, target_classes, seed, ..Fab::default() },
            Square { bound, queries, seed, ..Square::default() },
        )
    }

    /// As [`Attack::perturb`], and says by what each image was fooled.
    ///
    /// # Panics
    /// If a class is wanted of the images.
    pub fn run(&self, network: &dyn Surrogate, targets: &Targets) -> Verdict {
        assert!(targets.wanted.is_none(), "AutoAttack is defined without a wanted class only");
        let mut fooled_by = vec![None; targets.len()];
        if targets.is_empty() || self.bound.eps == 0.0 {
            return Verdict { perturbed: host::nothing(targets), fooled_by };
        }
        let clean = argmax(network.logits(targets.pixels.clone()));
        let mut standing: Vec<usize> =
            (0..targets.len()).filter(|&index| clean[index] == targets.labels[index]).collect();
        let of = standing.len();
        let mut pixels = targets.pixels.clone();
        let mut effort = vec![Effort::QUERY; targets.len()];
        let mut doubts: Vec<Doubt> = Vec::new();
        let (ascent, targeted, fab, square) = self.parts();
        let parts: [&dyn Attack; 4] = [&ascent, &targeted, &fab, &square];
        for (part, name) in parts.into_iter().zip(PARTS) {
            if standing.is_empty() {
                break;
            }
            let (is_first, is_last) = (name == PARTS[0], name == PARTS[3]);
            let some = targets.some(&standing);
            let made = part.perturb(network, &some);
            let fooled = some.fooled(&argmax(network.logits(made.pixels.clone())));
            for (index, &position) in standing.iter().enumerate() {
                effort[position] += made.effort[index];
                effort[position] += Effort::QUERY;
                fooled_by[position] = fooled[index].then_some(name);
            }
            let taken: Vec<usize> = (0..standing.len()).filter(|&index| is_first || fooled[index]).collect();
            let positions: Vec<usize> = taken.iter().map(|&index| standing[index]).collect();
            if !taken.is_empty() {
                pixels = with_rows(&pixels, &positions, rows(&made.pixels, &taken));
            }
            let count = fooled.iter().filter(|&&is_fooled| is_fooled).count();
            if is_first {
                doubts.extend(made.doubts);
            }
            if is_last && count > 0 {
                doubts.push(Doubt { reason: Reason::BlackBoxWins, images: count, of });
            }
            standing = (0..standing.len()).filter(|&index| !fooled[index]).map(|index| standing[index]).collect();
        }
        Verdict { perturbed: Perturbed { pixels, effort, doubts }, fooled_by }
    }
}

impl Attack for AutoAttack {
    fn name(&self) -> &str {
        "autoattack"
    }

    fn settings(&self) -> serde_json::Value {
        host::settings(self)
    }

    fn bound(&self) -> Bound {
        self.bound
    }

    fn least_classes(&self, _is_targeted: bool) -> usize {
        self.parts().1.least_classes(false)
    }

    fn can_be_targeted(&self) -> bool {
        false
    }

    fn perturb(&self, network: &dyn Surrogate, targets: &Targets) -> Perturbed {
        self.run(network, targets).perturbed
    }

    fn part_names(&self) -> &'static [&'static str] {
        &PARTS
    }

    fn perturb_by_parts(&self, network: &dyn Surrogate, targets: &Targets) -> (Perturbed, Vec<Option<&'static str>>) {
        let Verdict { perturbed, fooled_by } = self.run(network, targets);
        (perturbed, fooled_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacks::Loss;
    use crate::attacks::testing::{Recorded, Tiny, assert_within, bound, fingerprint, fixture};
    use crate::model::to_f64;
    use burn::tensor::{DType, Tensor};
    use proptest::prelude::*;

    /// Single images by each part, all restarts and classes included, with the authors' random numbers.
    #[test]
    fn images_are_fooled_as_by_the_authors() {
        let network = Tiny::new(DType::F64);
        let records = fixture("perturbed");
        assert!(records.iter().filter(|record| record["fooled"] == true).count() > 20);
        for record in records {
            let seed = record["seed"].as_u64().unwrap();
            let what = format!("{} {} {seed}", record["norm"], record["attack"]);
            let targets = network.targets(seed..seed + 1);
            let (ascent, targeted, fab, square) =
                AutoAttack { bound: bound(&record), queries: 300, ..AutoAttack::default() }.parts();
            let draws = Recorded::new(seed);
            let made = match record["attack"].as_str().unwrap() {
                "apgd-ce" => ascent.perturb_with(&network, &targets, &draws),
                "apgd-t" => targeted.perturb_with(&network, &targets, &draws),
                "fab-t" => fab.perturb_with(&network, &targets, &draws),
                _ => square.perturb_with(&network, &targets, &draws),
            };
            let is_fooled = argmax(network.logits(made.pixels.clone())) != targets.labels;
            assert_eq!(is_fooled, record["fooled"] == true, "{what}");
            if is_fooled {
                let expected = record["pixels"].as_f64().unwrap();
                // As for proposals in L1, see there.
                let tolerance = if what.starts_with("\"L1\" \"square\"") { 1e-4 } else { 1e-9 };
                assert_within(tolerance, &[fingerprint(&to_f64(made.pixels))], &[expected], &what);
            }
        }
    }

    /// Two hundred images by each part alone and by all, with our own random numbers: within 1 percentage point of the mean
    /// of their five runs.
    #[test]
    fn as_many_images_withstand_as_by_the_authors() {
        let network = Tiny::new(DType::F64);
        let targets = network.targets(10_000..10_200);
        for record in fixture("standing") {
            let attack = AutoAttack { bound: bound(&record), ..AutoAttack::default() };
            let (ascent, targeted, fab, square) = attack.parts();
            let all: [&dyn Attack; 5] = [&ascent, &targeted, &fab, &square, &attack];
            for attack in all {
                let made = attack.perturb(&network, &targets);
                let answers = argmax(network.logits(made.pixels));
                let standing = targets.fooled(&answers).into_iter().filter(|is_fooled| !is_fooled).count();
                let expected = record["standing"][attack.name()].as_f64().unwrap();
                let what = format!("{} {}: {standing} of 200, {expected}", record["norm"], attack.name());
                println!("{what}");
                assert!((standing as f64 - expected).abs() <= 2.0, "{what}");
            }
        }
    }

    /// Every attack of AutoAttack, of few steps.
    fn attacks(bound: Bound, steps: usize) -> Vec<Box<dyn Attack>> {
        let whole = AutoAttack { bound, steps, queries: 3 * steps, ..AutoAttack::default() };
        let (ascent, targeted, fab, square) = whole.parts();
        vec![
            Box::new(Apgd { loss: Loss::Dlr, stop_when_fooled: true, restarts: 2, ..ascent.clone() }),
            Box::new(Apgd { loss: Loss::Margin, larger_eps: false, ..ascent.clone() }),
            Box::new(ascent),
            Box::new(targeted),
            Box::new(Fab { target_classes: 0, restarts: 2, ..fab.clone() }),
            Box::new(fab),
            Box::new(Square { restarts: 2, rescale: true, ..square.clone() }),
            Box::new(square),
            Box::new(whole),
        ]
    }

    fn mask(batch: usize, is_free: impl Fn(usize, usize) -> bool) -> Tensor<4> {
        let values: Vec<f64> =
            (0..batch * 64).map(|index| f64::from(u8::from(is_free(index / 64, index % 64)))).collect();
        let data = burn::tensor::TensorData::new(values, [batch, 1, 8, 8]);
        Tensor::from_data(data, (&burn::tensor::Device::flex(), DType::F64))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn attacks_keep_to_ball_box_and_mask(
            seed in 0u64..1000,
            norm in prop::sample::select(vec![Norm::Linf, Norm::L2, Norm::L1]),
            size in 0.02f64..3.0,
            steps in 1usize..12,
            is_masked in any::<bool>(),
            is_targeted in any::<bool>(),
        ) {
            let network = Tiny::new(DType::F64);
            let mut targets = network.targets(seed..seed + 3);
            if is_masked {
                targets.mask = Some(mask(3, |image, place| (place + image) % 3 != 0));
            }
            if is_targeted {
                targets.wanted = Some(targets.labels.iter().map(|label| (label + 3) % 10).collect());
            }
            let usual = match norm { Norm::Linf => 0.02, Norm::L2 => 0.2, Norm::L1 => 1.2 };
            let bound = Bound { norm, eps: size * usual };
            for attack in attacks(bound, steps).into_iter().filter(|attack| attack.can_be_targeted() || !is_targeted) {
                let made = attack.perturb(&network, &targets);
                prop_assert_eq!(made.pixels.dims(), targets.pixels.dims());
                prop_assert_eq!(made.effort.len(), 3);
                let distances = bound.distances(&made.pixels, &targets.pixels);
                prop_assert!(distances.iter().all(|distance| *distance <= bound.eps + 1e-9), "{}", attack.name());
                prop_assert!(to_f64(made.pixels.clone()).iter().all(|pixel| (0.0..=1.0).contains(pixel)));
                if let Some(mask) = &targets.mask {
                    let change = made.pixels - targets.pixels.clone();
                    let outside = to_f64((change * mask.clone().neg().add_scalar(1.0)).abs().max());
                    prop_assert_eq!(outside, vec![0.0], "{}", attack.name());
                }
            }
        }
    }

    #[test]
    fn an_image_alone_gives_the_bytes_that_it_gives_in_a_batch() {
        for dtype in [DType::F32, DType::F64] {
            let network = Tiny::new(dtype);
            let targets = network.targets(300..307);
            for (norm, eps) in [(Norm::Linf, 0.02), (Norm::L2, 0.2), (Norm::L1, 1.2)] {
                for attack in attacks(Bound { norm, eps }, 9) {
                    let batch = attack.perturb(&network, &targets);
                    for position in 0..targets.len() {
                        let alone = attack.perturb(&network, &targets.some(&[position]));
                        let name = attack.name();
                        let of_batch = to_f64(rows(&batch.pixels, &[position]));
                        assert_eq!(to_f64(alone.pixels), of_batch, "{name}, {norm:?}, {dtype:?}");
                        assert_eq!(alone.effort[0], batch.effort[position], "{name}, {norm:?}, {dtype:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn f32_stays_in_the_ball_up_to_rounding() {
        let network = Tiny::new(DType::F32);
        let targets = network.targets(400..404);
        for (norm, eps) in [(Norm::Linf, 0.02), (Norm::L2, 0.2), (Norm::L1, 1.2)] {
            let bound = Bound { norm, eps };
            for attack in attacks(bound, 9) {
                let made = attack.perturb(&network, &targets);
                let distances = bound.distances(&made.pixels, &targets.pixels);
                assert!(distances.iter().all(|distance| *distance <= eps * 1.0001), "{} {distances:?}", attack.name());
            }
        }
    }

    #[test]
    fn no_images_and_images_that_are_wrong_before_stay_as_they_are() {
        let network = Tiny::new(DType::F64);
        let mut wrong = network.targets(500..502);
        wrong.labels.iter_mut().for_each(|label| *label = (*label + 1) % 10);
        for attack in attacks(Bound { norm: Norm::Linf, eps: 0.02 }, 3) {
            let nothing = attack.perturb(&network, &wrong.some(&[]));
            assert_eq!((nothing.pixels.dims(), nothing.effort.len()), ([0, 3, 8, 8], 0));
            let made = attack.perturb(&network, &wrong);
            assert_eq!(to_f64(made.pixels), to_f64(wrong.pixels.clone()), "{}", attack.name());
            assert!(made.effort.iter().all(|effort| *effort == Effort::QUERY) && made.doubts.is_empty());
        }
    }

    #[test]
    fn within_an_eps_of_0_nothing_changes() {
        let network = Tiny::new(DType::F32);
        let targets = network.targets(550..553);
        for norm in [Norm::Linf, Norm::L2, Norm::L1] {
            for attack in attacks(Bound { norm, eps: 0.0 }, 3) {
                let made = attack.perturb(&network, &targets);
                assert_eq!(to_f64(made.pixels), to_f64(targets.pixels.clone()), "{} {norm:?}", attack.name());
                assert!(made.effort == [Effort::default(); 3] && made.doubts.is_empty(), "{}", attack.name());
            }
        }
    }

    /// Each attack that can, brings some images to the class that is wanted, and says nothing else of the others.
    #[test]
    fn wanted_classes_are_reached() {
        let network = Tiny::new(DType::F64);
        let mut targets = network.targets(600..612);
        let second = super::super::loss::order(&network.logits(targets.pixels.clone()), 2);
        targets.wanted = Some(second.iter().map(|ranked| ranked[1]).collect());
        for (norm, eps) in [(Norm::Linf, 0.04), (Norm::L2, 0.4), (Norm::L1, 3.0)] {
            for attack in attacks(Bound { norm, eps }, 40).into_iter().filter(|attack| attack.can_be_targeted()) {
                let made = attack.perturb(&network, &targets);
                let reached = targets.fooled(&argmax(network.logits(made.pixels)));
                let count = reached.into_iter().filter(|&is_there| is_there).count();
                let least = if attack.name() == "square" { 1 } else { 5 };
                assert!(count >= least, "{} {norm:?}: {count} of 12", attack.name());
            }
        }
        assert!(!AutoAttack::default().can_be_targeted());
    }

    /// Later parts see only what stands, and an image that is left early is fooled all the same.
    #[test]
    fn parts_work_on_what_stands() {
        let network = Tiny::new(DType::F64);
        let targets = network.targets(700..720);
        let attack = AutoAttack { bound: Bound { norm: Norm::Linf, eps: 0.02 }, queries: 50, ..AutoAttack::default() };
        let verdict = attack.run(&network, &targets);
        let made = attack.perturb(&network, &targets);
        assert_eq!(to_f64(made.pixels.clone()), to_f64(verdict.perturbed.pixels));
        let is_fooled = targets.fooled(&argmax(network.logits(made.pixels)));
        assert_eq!(is_fooled, verdict.fooled_by.iter().map(Option::is_some).collect::<Vec<_>>());
        assert!(verdict.fooled_by.contains(&Some("apgd-ce")) && verdict.fooled_by.contains(&None));
        for (effort, by) in made.effort.iter().zip(&verdict.fooled_by) {
            // The image itself twice, 101 points, and what was made.
            let only_first = Effort { queries: 104, gradients: 101, iterations: 100 };
            assert_eq!(*effort == only_first, *by == Some("apgd-ce"), "{effort:?} {by:?}");
        }
        let early = AutoAttack { stop_when_fooled: true, ..attack }.run(&network, &targets);
        assert_eq!(early.fooled_by, verdict.fooled_by);
        let queries = |efforts: &[Effort]| efforts.iter().map(|effort| effort.queries).sum::<u32>();
        assert!(queries(&early.perturbed.effort) < queries(&made.effort));
    }

    #[test]
    fn masked_gradients_are_doubted() {
        let mut network = Tiny::new(DType::F64);
        network.levels = Some(16.0);
        let targets = network.targets(800..820);
        let attack = AutoAttack {
            bound: Bound { norm: Norm::Linf, eps: 0.04 },
            steps: 5,
            queries: 100,
            ..AutoAttack::default()
        };
        let doubts = attack.perturb(&network, &targets).doubts;
        let is_there = |wanted: &dyn Fn(&Doubt) -> bool| doubts.iter().any(wanted);
        assert!(
            is_there(&|doubt| matches!(doubt, Doubt { reason: Reason::ZeroGradient, images: 20, of: 20 })),
            "{doubts:?}"
        );
        assert!(is_there(&|doubt| matches!(doubt, Doubt { reason: Reason::BlackBoxWins, of: 20, .. })), "{doubts:?}");
        let open = attack.perturb(&Tiny::new(DType::F64), &targets).doubts;
        assert!(!open.iter().any(|doubt| matches!(doubt, Doubt { reason: Reason::ZeroGradient, .. })), "{open:?}");
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        assert_eq!(AutoAttack::default().check(), Ok(()));
        let refused = AutoAttack { target_classes: 0, ..AutoAttack::default() }.check().unwrap_err();
        assert!(refused.to_string().contains("--target-classes 0"));
        assert_eq!(AutoAttack::default().least_classes(false), 4);
        assert_eq!(AutoAttack::default().settings()["name"], "autoattack");
    }
}
