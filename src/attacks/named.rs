//! Attacks by name, each with its authors' settings, any of which can be changed.
//!
//! x₀ is the image or a random point of the ball, Π the way back into the ball and into [0, 1], L the loss, α the length of a step and
//! m the momentum, mₜ₊₁ = μ·mₜ + g / mean|g|. Without momentum xₜ₊₁ = Π(xₜ + α·sign g) in L∞, with it Π(xₜ + α·sign mₜ₊₁).
//!
//! | name | paper | g | defaults besides ε = 8/255 | deviations |
//! |---|---|---|---|---|
//! | fgsm | Goodfellow et al., arXiv 1412.6572 | ∇L(x₀) | one step of ε from the image | |
//! | bim | Kurakin et al., 1607.02533 | ∇L(xₜ) | 10 steps of ε/10 from the image | |
//! | pgd | Madry et al., 1706.06083 | ∇L(xₜ) | 50 steps of 2/255 from a random point; in L2 and L1 of ε/4 | steps in L1: [`Bound::step`] |
//! | mi-fgsm | Dong et al., 1710.06081, equation 6 | ∇L(xₜ) | μ = 1, as bim; so all below but lf-pgd and nes | g over its mean, not its sum |
//! | ni-fgsm | Lin et al., 1908.06281, equation 6 | ∇L(xₜ + α·μ·mₜ) | | |
//! | di-fgsm | Xie et al., 1803.06978 | ∇L(D(xₜ)), D resizes and pads | probability 0.5, rate 1.1 | each image draws for itself |
//! | ti-fgsm | Dong et al., 1904.02884 | W ∗ ∇L(xₜ), W a Gaussian | 15 pixels | |
//! | si-fgsm, si-ni-fgsm | Lin et al., 1908.06281, equation 8 | 1/m Σᵢ ∇L(xₜ / 2ⁱ) | m = 5 | |
//! | vmi-fgsm, vni-fgsm | Wang & He, 2103.15571, algorithm 1 | ∇L(xₜ) + vₜ₋₁, vₜ = 1/N Σᵢ ∇L(xₜ + rᵢ) − ∇L(xₜ) | N = 20 within 1.5 ε | of vni-fgsm around the point, not ahead of it |
//! | admix | Wang et al., 2102.00436 | mean of ∇L((xₜ + η·x′) / 2ⁱ) | 3 images x′, η = 0.2, 5 scales | x′ are the data set's first, clean |
//! | bsr | Wang et al., 2308.10299 | 1/N Σᵢ ∇L(Bᵢ(xₜ)), B exchanges and turns blocks | N = 20, 3 × 3 blocks, 24° | each image draws for itself |
//! | pgn | Ge et al., 2306.05225, algorithm 1 | 1/N Σᵢ (1 − δ)·gᵢ + δ·∇L(xₜ + rᵢ − α·gᵢ / mean\|gᵢ\|), gᵢ = ∇L(xₜ + rᵢ) | N = 20 within 3 ε, δ = 0.5 | |
//! | lf-pgd | Guo et al., 1809.08758; Sharma et al., 1903.00073 | P∇L(xₜ), P keeps low frequencies | as pgd, the lowest quarter along each axis | the perturbation is projected by P and scaled into the ball, too; what leaves [0, 1] or the mask is set back, which leaves the subspace |
//! | nes | Ilyas et al., 1804.08598, algorithm 1 | 1/(2σn) Σᵢ (L(xₜ + σuᵢ) − L(xₜ − σuᵢ))·uᵢ | n = 25, σ = 0.001, 5000 queries, margin loss | no momentum, a fixed step |
//! | apgd-ce, apgd-dlr, apgd-t | | [`Apgd`] and its module | | |
//! | fab, fab-t | | [`Fab`] and its module | | |
//! | square | | [`Square`] and its module | | |
//! | autoattack | | [`AutoAttack`] and its module | | |
//! | patchfool | | [`PatchFool`] and its module | ε is 1 | |

use std::sync::Arc;

use super::iterative::{Estimate, Iterative, Neighbours};
use super::views::{Admix, Diversity, Pool, Shuffle};
use super::{Apgd, Attack, AttackError, AutoAttack, Bound, Fab, Loss, Norm, PatchFool, Square};

/// Names and what they stand for, as users see them.
pub const NAMES: &[(&str, &str)] = &[
    ("fgsm", "one step along the gradient's sign"),
    ("bim", "ten steps from the image"),
    ("pgd", "fifty steps from a random point"),
    ("mi-fgsm", "momentum"),
    ("ni-fgsm", "momentum, gradients taken ahead of the point"),
    ("di-fgsm", "momentum, the image resized and padded at random"),
    ("ti-fgsm", "momentum, the gradient blurred"),
    ("si-fgsm", "momentum, the image at five scales of brightness"),
    ("si-ni-fgsm", "ni-fgsm with the image at five scales of brightness"),
    ("vmi-fgsm", "momentum, the gradient corrected by its variance"),
    ("vni-fgsm", "ni-fgsm with the gradient corrected by its variance"),
    ("admix", "si-fgsm with images of other classes mixed in"),
    ("bsr", "momentum, blocks of the image exchanged and turned"),
    ("pgn", "momentum, towards flat maxima"),
    ("lf-pgd", "pgd within the low frequencies"),
    ("autoattack", "apgd-ce, apgd-t, fab-t and square, each on the images that still stand"),
    ("apgd-ce", "steps that adapt themselves, on the cross-entropy"),
    ("apgd-dlr", "the same on the difference of logits ratio"),
    ("apgd-t", "the same towards nine classes, one after another"),
    ("fab", "the nearest point beyond the boundary"),
    ("fab-t", "the same towards nine classes, one after another"),
    ("square", "without gradients, by random windows"),
    ("nes", "without gradients, by evolution strategies"),
    ("patchfool", "one patch, chosen by attention, changed at will"),
];

/// Pairs of queries for each gradient of nes, if its queries suffice for them.
pub const PAIRS: usize = 25;

/// What a user asked for; what is none is the attack's own.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The norm of the ball.
    pub norm: Option<Norm>,
    /// The ball's radius.
    pub eps: Option<f64>,
    /// The length of a step.
    pub step_size: Option<f64>,
    /// Steps.
    pub steps: Option<usize>,
    /// Whether to begin at the image.
    pub no_random_start: bool,
    /// Tries of each image.
    pub restarts: Option<usize>,
    /// The loss.
    pub loss: Option<Loss>,
    /// μ.
    pub momentum: Option<f64>,
    /// Whether to look ahead along the momentum.
    pub look_ahead: bool,
    /// Copies of falling brightness.
    pub scales: Option<usize>,
    /// The probability of resizing and padding.
    pub diversity: Option<f64>,
    /// The relative size up to which, or from which on, images are then resized.
    pub diversity_rate: Option<f64>,
    /// Images mixed in.
    pub admix: Option<usize>,
    /// How much of them.
    pub admix_strength: Option<f64>,
    /// Shuffled copies.
    pub shuffle: Option<usize>,
    /// Blocks along each axis.
    pub blocks: Option<usize>,
    /// The blur's size.
    pub translation: Option<usize>,
    /// The share of frequencies.
    pub low_pass: Option<f64>,
    /// Neighbours for the variance.
    pub variance: Option<usize>,
    /// Neighbours for flatness.
    pub flat: Option<usize>,
    /// The neighbours' distance, in ε.
    pub radius: Option<f64>,
    /// Pairs of queries for each estimated gradient.
    pub pairs: Option<usize>,
    /// Queries of each image: of nes in all, of square proposals of each try.
    pub queries: Option<usize>,
    /// Patches.
    pub patches: Option<usize>,
    /// A patch's side in pixels, where the network has no patches of its own.
    pub patch_size: Option<usize>,
    /// Where Admix takes its images from.
    pub pool: Option<Pool>,
    /// Seeds all random numbers.
    pub seed: u64,
}

impl Wishes {
    /// The settings that were given, as the command line calls them.
    pub fn given(&self) -> Vec<&'static str> {
        let all = [
            ("norm", self.norm.is_some()),
            ("eps", self.eps.is_some()),
            ("step-size", self.step_size.is_some()),
            ("steps", self.steps.is_some()),
            ("no-random-start", self.no_random_start),
            ("restarts", self.restarts.is_some()),
            ("loss", self.loss.is_some()),
            ("momentum", self.momentum.is_some()),
            ("look-ahead", self.look_ahead),
            ("scales", self.scales.is_some()),
            ("diversity", self.diversity.is_some()),
            ("diversity-rate", self.diversity_rate.is_some()),
            ("admix", self.admix.is_some()),
            ("admix-strength", self.admix_strength.is_some()),
            ("shuffle", self.shuffle.is_some()),
            ("blocks", self.blocks.is_some()),
            ("translation", self.translation.is_some()),
            ("low-pass", self.low_pass.is_some()),
            ("variance", self.variance.is_some()),
            ("flat", self.flat.is_some()),
            ("radius", self.radius.is_some()),
            ("pairs", self.pairs.is_some()),
            ("queries", self.queries.is_some()),
            ("patches", self.patches.is_some()),
            ("patch-size", self.patch_size.is_some()),
        ];
        all.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option).collect()
    }

    /// An error if a setting was given that `attack` does not have.
    fn only(&self, attack: &str, known: &[&str]) -> Result<(), AttackError> {
        match self.given().into_iter().find(|option| !known.contains(option)) {
            Some(option) => Err(AttackError::NoSetting { option, attack: attack.to_owned() }),
            None => Ok(()),
        }
    }

    /// An error if a number is so small or so large that no attack is meant by it, by the name that the option has for users.
    fn check_ranges(&self) -> Result<(), AttackError> {
        let counts = [
            ("steps", self.steps, 100_000, "a whole number of at least 1 and at most 100000"),
            ("restarts", self.restarts, 10_000, "a whole number of at least 1 and at most 10000"),
            ("scales", self.scales, 16, "a number of copies, each half as bright as the one before, from 1 to 16"),
            ("admix", self.admix, 1000, "a number of images from 1 to 1000"),
            ("shuffle", self.shuffle, 1000, "a number of copies from 1 to 1000"),
            ("blocks", self.blocks, 16, "a number of blocks along each axis from 1 to 16"),
            ("variance", self.variance, 1000, "a number of neighbours from 1 to 1000"),
            ("flat", self.flat, 1000, "a number of neighbours from 1 to 1000"),
            ("pairs", self.pairs, 100_000, "a number of pairs from 1 to 100000"),
            ("queries", self.queries, 10_000_000, "a whole number of at least 1 and at most 10000000"),
        ];
        for (option, count, most, wanted) in counts {
            let is_right = count.is_none_or(|count| (1..=most).contains(&count));
            AttackError::check(option, count.unwrap_or(0) as f64, is_right, wanted)?;
        }
        if let Some(size) = self.translation {
            let is_right = size % 2 == 1 && size <= 255;
            AttackError::check(
                "translation",
                size as f64,
                is_right,
                "an odd number of pixels from 1 to 255, such as 15",
            )?;
        }
        let numbers = [
            ("momentum", self.momentum, 10.0, "a number from 0 to 10, such as 1"),
            ("admix-strength", self.admix_strength, 1.0, "a share above 0 and up to 1, such as 0.2"),
            ("radius", self.radius, 100.0, "a distance in eps above 0 and up to 100, such as 1.5"),
        ];
        for (option, number, most, wanted) in numbers {
            let is_right = number.is_none_or(|number| (0.0..=most).contains(&number));
            AttackError::check(option, number.unwrap_or(0.0), is_right, wanted)?;
        }
        Ok(())
    }

    fn bound(&self) -> Result<Bound, AttackError> {
        let norm = self.norm.unwrap_or(Norm::Linf);
        let eps = match (self.eps, norm) {
            (Some(eps), _) => eps,
            (None, Norm::Linf) => 8.0 / 255.0,
            (None, Norm::L2 | Norm::L1) => return Err(AttackError::NoEps(norm)),
        };
        Ok(Bound { norm, eps })
    }
}

/// The attack of one of [`NAMES`] as `wishes` want it, all ranges checked.
///
/// # Errors
/// If a setting is out of its range, or not one of this attack's, or would change nothing, or if nes has fewer queries than it asks for.
///
/// # Panics
/// If there is no attack of that name.
pub fn named(name: &str, wishes: &Wishes) -> Result<Arc<dyn Attack>, AttackError> {
    wishes.check_ranges()?;
    match name {
        "autoattack" => {
            wishes.only(name, &["norm", "eps", "steps", "queries"])?;
            let default = AutoAttack::default();
            let steps = wishes.steps.unwrap_or(default.steps);
            let queries = wishes.queries.unwrap_or(default.queries);
            checked(
                AutoAttack { bound: wishes.bound()?, steps, queries, seed: wishes.seed, ..default },
                AutoAttack::check,
            )
        }
        "apgd-ce" | "apgd-dlr" | "apgd-t" => {
            wishes.only(name, &["norm", "eps", "steps", "restarts"])?;
            let (bound, seed) = (wishes.bound()?, wishes.seed);
            let default = match name {
                "apgd-t" => Apgd::targeted(bound, seed),
                "apgd-dlr" => Apgd { loss: Loss::Dlr, ..Apgd::cross_entropy(bound, seed) },
                _ => Apgd::cross_entropy(bound, seed),
            };
            let steps = wishes.steps.unwrap_or(default.steps);
            checked(Apgd { steps, restarts: wishes.restarts.unwrap_or(default.restarts), ..default }, Apgd::check)
        }
        "fab" | "fab-t" => {
            wishes.only(name, &["norm", "eps", "steps", "restarts"])?;
            let default = Fab::default();
            let attack = Fab {
                bound: wishes.bound()?,
                target_classes: if name == "fab" { 0 } else { default.target_classes },
                steps: wishes.steps.unwrap_or(default.steps),
                restarts: wishes.restarts.unwrap_or(default.restarts),
                seed: wishes.seed,
                ..default
            };
            checked(attack, Fab::check)
        }
        "square" => {
            wishes.only(name, &["norm", "eps", "queries", "restarts", "loss"])?;
            let default = Square::default();
            let attack = Square {
                bound: wishes.bound()?,
                loss: wishes.loss.unwrap_or(default.loss),
                queries: wishes.queries.unwrap_or(default.queries),
                restarts: wishes.restarts.unwrap_or(default.restarts),
                seed: wishes.seed,
                ..default
            };
            checked(attack, Square::check)
        }
        "patchfool" => {
            wishes.only(name, &["norm", "eps", "steps", "patches", "patch-size"])?;
            let default = PatchFool::default();
            let norm = wishes.norm.unwrap_or(Norm::Linf);
            let attack = PatchFool {
                bound: Bound { norm, eps: wishes.eps.unwrap_or(default.bound.eps) },
                patches: wishes.patches.unwrap_or(default.patches),
                patch_size: wishes.patch_size.or(default.patch_size),
                steps: wishes.steps.unwrap_or(default.steps),
                seed: wishes.seed,
                ..default
            };
            checked(attack, PatchFool::check)
        }
        _ => checked(iterative(name, wishes)?, Iterative::check),
    }
}

fn checked<A: Attack + 'static>(
    attack: A,
    check: impl FnOnce(&A) -> Result<(), AttackError>,
) -> Result<Arc<dyn Attack>, AttackError> {
    check(&attack)?;
    Ok(Arc::new(attack))
}

/// An iterative attack by name, its ranges not checked.
///
/// # Panics
/// If there is none of that name.
pub(super) fn iterative(name: &str, wishes: &Wishes) -> Result<Iterative, AttackError> {
    let pgd = Iterative { name: name.to_owned(), bound: wishes.bound()?, seed: wishes.seed, ..Iterative::default() };
    let Bound { norm, eps } = pgd.bound;
    // The transfer attacks' authors go ε in ten steps from the image.
    let ten = Iterative { steps: 10, step_size: f64::NAN, random_start: false, ..pgd.clone() };
    let momentum = Iterative { momentum: Some(1.0), ..ten.clone() };
    let ahead = Iterative { look_ahead: true, ..momentum.clone() };
    let variance = Some(Neighbours::Variance { count: 20, radius: 1.5 });
    let mut attack = match name {
        "pgd" => pgd,
        "fgsm" => Iterative { steps: 1, ..ten },
        "bim" => ten,
        "mi-fgsm" | "di-fgsm" | "si-fgsm" | "admix" | "bsr" => momentum,
        "ni-fgsm" | "si-ni-fgsm" => ahead,
        "ti-fgsm" => Iterative { translation: Some(15), ..momentum },
        "vmi-fgsm" => Iterative { neighbours: variance, ..momentum },
        "vni-fgsm" => Iterative { neighbours: variance, ..ahead },
        "pgn" => Iterative { neighbours: Some(Neighbours::Flat { count: 20, radius: 3.0, share: 0.5 }), ..momentum },
        "lf-pgd" => Iterative { low_pass: Some(0.25), ..pgd },
        "nes" => Iterative {
            estimate: Estimate::Evolution { pairs: PAIRS, deviation: 0.001 },
            loss: Loss::Margin,
            random_start: false,
            ..pgd
        },
        _ => panic!("{name} is not the name of an attack"),
    };
    let is_evolution = matches!(attack.estimate, Estimate::Evolution { .. });
    let has_neighbours = attack.neighbours.is_some() || wishes.variance.is_some() || wishes.flat.is_some();
    let others = [
        ("patches", false),
        ("patch-size", false),
        ("queries", is_evolution),
        ("pairs", is_evolution),
        ("radius", has_neighbours),
    ];
    let known = |option: &&str| others.iter().all(|(other, is_known)| other != option || *is_known);
    wishes.only(name, &wishes.given().into_iter().filter(known).collect::<Vec<_>>())?;

    attack.steps = wishes.steps.unwrap_or(attack.steps);
    let is_often = wishes.restarts.is_some_and(|count| count > 1);
    attack.random_start = !wishes.no_random_start && (attack.random_start || is_often);
    attack.restarts = wishes.restarts.unwrap_or(attack.restarts);
    attack.loss = wishes.loss.unwrap_or(attack.loss);
    attack.momentum = wishes.momentum.or(attack.momentum);
    if wishes.look_ahead && wishes.momentum == Some(0.0) {
        return Err(AttackError::NothingAhead);
    }
    attack.look_ahead |= wishes.look_ahead;
    if attack.look_ahead && attack.momentum.is_none() {
        attack.momentum = Some(1.0);
    }
    attack.translation = wishes.translation.or(attack.translation);
    attack.low_pass = wishes.low_pass.or(attack.low_pass);
    attack.step_size = match (wishes.step_size, attack.step_size.is_nan(), norm) {
        (Some(step_size), ..) => step_size,
        // Within no distance no step leads anywhere, and its length is only to be one.
        _ if eps == 0.0 => Iterative::default().step_size,
        (None, true, _) => eps / attack.steps.max(1) as f64,
        (None, false, Norm::Linf) => attack.step_size,
        (None, false, Norm::L2 | Norm::L1) => eps / 4.0,
    };
    match (wishes.variance, wishes.flat) {
        (Some(count), _) => attack.neighbours = Some(Neighbours::Variance { count, radius: 1.5 }),
        (None, Some(count)) => attack.neighbours = Some(Neighbours::Flat { count, radius: 3.0, share: 0.5 }),
        (None, None) => {}
    }
    if let (Some(wanted), Some(Neighbours::Variance { radius, .. } | Neighbours::Flat { radius, .. })) =
        (wishes.radius, &mut attack.neighbours)
    {
        *radius = wanted;
    }
    attack.views.scales =
        wishes.scales.unwrap_or(if matches!(name, "si-fgsm" | "si-ni-fgsm" | "admix") { 5 } else { 1 });
    if name == "di-fgsm" || wishes.diversity.is_some() || wishes.diversity_rate.is_some() {
        let (probability, rate) = (wishes.diversity.unwrap_or(0.5), wishes.diversity_rate.unwrap_or(1.1));
        attack.views.diversity = Some(Diversity { probability, rate });
    }
    if name == "bsr" || wishes.shuffle.is_some() || wishes.blocks.is_some() {
        let (copies, blocks) = (wishes.shuffle.unwrap_or(20), wishes.blocks.unwrap_or(3));
        attack.views.shuffle = Some(Shuffle { copies, blocks, degrees: 24.0 });
    }
    if name == "admix" || wishes.admix.is_some() || wishes.admix_strength.is_some() {
        let pool = wishes.pool.clone().ok_or(AttackError::NoPool)?;
        let (copies, strength) = (wishes.admix.unwrap_or(3), wishes.admix_strength.unwrap_or(0.2));
        attack.views.admix = Some(Admix { copies, strength, pool });
    }
    if let Estimate::Evolution { pairs, deviation } = attack.estimate {
        let (pairs, steps) = within_budget(&attack, pairs, wishes)?;
        attack.estimate = Estimate::Evolution { pairs, deviation };
        attack.steps = steps;
    }
    Ok(attack)
}

/// Pairs of queries for each gradient and steps, so that an attack asks for no more than its queries: those that are wished for, else
/// `usual` pairs, or as many as there are queries for, and all the steps that the queries allow.
fn within_budget(attack: &Iterative, usual: usize, wishes: &Wishes) -> Result<(usize, usize), AttackError> {
    let queries = wishes.queries.unwrap_or(5000);
    // Points at which each step wants a gradient.
    let points = attack.views.count()
        * match attack.neighbours {
            None => 1,
            Some(Neighbours::Variance { count, .. }) => count + 1,
            Some(Neighbours::Flat { count, .. }) => 2 * count,
        };
    // What several tries made is looked at once more.
    let looks = usize::from(attack.restarts > 1);
    let of_try = (queries / attack.restarts.max(1)).saturating_sub(looks);
    let pairs = wishes.pairs.unwrap_or(usual.min(of_try / (2 * points)).max(1));
    let of_step = 2 * pairs * points;
    let steps = wishes.steps.unwrap_or(of_try / of_step).max(1);
    let is_limited = wishes.steps.is_none() || wishes.queries.is_some();
    if is_limited && steps * of_step > of_try {
        let wanted = attack.restarts * (steps * of_step + looks);
        return Err(AttackError::Budget { attack: attack.name.clone(), queries, wanted, steps });
    }
    Ok((pairs, steps))
}

/// Whether an attack of that name, or these wishes, mix in other images, so that [`Wishes::pool`] is needed.
pub fn wants_pool(name: &str, wishes: &Wishes) -> bool {
    name == "admix" || wishes.admix.is_some() || wishes.admix_strength.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::RgbImage;

    fn pool() -> Option<Pool> {
        Pool::new((0..2).map(|label| (label, RgbImage::new(1, 1, vec![0; 3]))).collect())
    }

    #[test]
    fn every_name_is_an_attack() {
        for (name, _) in NAMES {
            let attack = named(name, &Wishes { pool: pool(), ..Wishes::default() }).unwrap();
            assert_eq!(attack.name(), *name);
            assert!(attack.settings().is_object());
        }
    }

    #[test]
    fn wishes_are_heard_and_ranges_are_checked() {
        let wishes = Wishes { eps: Some(0.1), scales: Some(3), variance: Some(4), ..Wishes::default() };
        let settings = named("di-fgsm", &wishes).unwrap().settings();
        assert_eq!(settings["views"]["scales"], 3);
        assert_eq!(settings["neighbours"]["variance"]["count"], 4);
        assert_eq!(settings["step_size"], 0.1 / 10.0);
        let error = |name: &str, wishes: Wishes| named(name, &wishes).unwrap_err().to_string();
        let eps = error("pgd", Wishes { eps: Some(8.0), ..Wishes::default() });
        assert!(eps.starts_with("--eps 8 is out of range"), "{eps}");
        assert!(named("pgd", &Wishes { eps: Some(f64::NAN), ..Wishes::default() }).is_err());
        assert!(named("pgd", &Wishes { step_size: Some(-0.1), ..Wishes::default() }).is_err());
        assert!(named("pgd", &Wishes { steps: Some(0), ..Wishes::default() }).is_err());
        assert!(named("pgd", &Wishes { restarts: Some(2), no_random_start: true, ..Wishes::default() }).is_err());
        let norm = error("pgd", Wishes { norm: Some(Norm::L2), ..Wishes::default() });
        assert!(norm.contains("--eps"), "{norm}");
        let other = error("patchfool", Wishes { momentum: Some(1.0), ..Wishes::default() });
        assert!(other.contains("--momentum is no setting of patchfool"), "{other}");
        assert!(error("pgd", Wishes { pairs: Some(3), ..Wishes::default() }).contains("--pairs"));
        let ahead = Wishes { look_ahead: true, ..Wishes::default() };
        assert_eq!(named("pgd", &ahead).unwrap().settings()["momentum"], 1.0);
        let nothing = Wishes { momentum: Some(0.0), ..ahead };
        assert_eq!(named("pgd", &nothing).unwrap_err(), AttackError::NothingAhead);
        assert_eq!(named("admix", &Wishes::default()).unwrap_err(), AttackError::NoPool);
    }

    #[test]
    fn what_no_attack_is_meant_by_is_refused_by_its_own_name() {
        let error = |name: &str, wishes: Wishes| named(name, &wishes).unwrap_err().to_string();
        for (wishes, said) in [
            (Wishes { variance: Some(0), ..Wishes::default() }, "--variance 0"),
            (Wishes { flat: Some(0), ..Wishes::default() }, "--flat 0"),
            (Wishes { translation: Some(9_999_999), ..Wishes::default() }, "--translation 9999999"),
            (Wishes { translation: Some(4), ..Wishes::default() }, "--translation 4"),
            (Wishes { blocks: Some(100), ..Wishes::default() }, "--blocks 100"),
            (Wishes { momentum: Some(1e30), ..Wishes::default() }, "--momentum 1000000"),
            (Wishes { scales: Some(5000), ..Wishes::default() }, "--scales 5000"),
            (Wishes { steps: Some(0), ..Wishes::default() }, "--steps 0"),
            (Wishes { radius: Some(1e9), variance: Some(2), ..Wishes::default() }, "--radius 1000000000"),
        ] {
            let text = error("mi-fgsm", wishes);
            assert!(text.starts_with(said) && text.contains("out of range"), "{text}");
        }
    }

    /// Queries are counted on a network, with restarts, views and neighbours that cost more of them.
    #[test]
    fn nes_asks_for_no_more_queries_than_it_has() {
        use crate::attacks::testing::Tiny;
        let network = Tiny::new(burn::tensor::DType::F64);
        let targets = network.targets(0..2);
        let of = |queries: usize| Wishes { queries: Some(queries), ..Wishes::default() };
        for (wishes, most) in [
            (of(2), 2),
            (of(49), 49),
            (of(130), 130),
            (Wishes { pairs: Some(3), steps: Some(4), ..of(24) }, 24),
            (Wishes { restarts: Some(3), ..of(100) }, 100),
            (Wishes { scales: Some(2), ..of(60) }, 60),
            (Wishes { scales: Some(2), variance: Some(2), ..of(70) }, 70),
            (Wishes { flat: Some(2), restarts: Some(2), ..of(70) }, 70),
        ] {
            let made = named("nes", &wishes).unwrap().perturb(&network, &targets);
            let asked = made.effort.iter().map(|effort| effort.queries).max().unwrap();
            assert!(asked <= most && asked * 4 >= most, "{asked} of {most}: {wishes:?}");
        }
        for (wishes, said) in [
            (of(0), "--queries 0"),
            (of(1), "--queries 1 is less than the 2 "),
            (Wishes { pairs: Some(25), ..of(49) }, "less than the 50 that 1 step"),
            (Wishes { pairs: Some(0), ..of(49) }, "--pairs 0"),
            (Wishes { pairs: Some(5), steps: Some(10), ..of(99) }, "less than the 100 that 10 step"),
        ] {
            let text = named("nes", &wishes).unwrap_err().to_string();
            assert!(text.contains(said), "{text}");
        }
        assert_eq!(named("nes", &Wishes::default()).unwrap().settings()["steps"], 100);
    }
}
