//! The options of every command that attacks.

use std::sync::Arc;

use clap::builder::{PossibleValue, PossibleValuesParser};

use serde_json::Value;

use super::common::say;
use super::{Failure, values};
use crate::attacks::named::PAIRS;
use crate::attacks::views::Pool;
use crate::attacks::{Attack, Loss, Norm, Target, Wishes, named};
use crate::images::Dataset;

/// Images that Admix takes its others from: so many of the data set's first.
const POOL: usize = 32;
/// Numbers that are apart by no more than this part of them were meant to be the same.
const ROUNDING: f64 = 1e-9;

/// Which attack, and its settings where they are not to be its authors'.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Attack")]
pub struct AttackOptions {
    /// The attack
    #[arg(long, value_name = "ATTACK", default_value = "pgd", value_parser = attack_names())]
    pub attack: String,
    /// What each image is to be taken for: a class's index, random, least-likely or second-best [default: anything but its label]
    ///
    /// An image whose label is the target stays as it is. attack counts what is taken for the target; sat counts, as without one,
    /// what is taken for anything but its label.
    #[arg(long, value_name = "CLASS", allow_negative_numbers = true, value_parser = Target::parse)]
    pub target: Option<Target>,
    /// The largest change of an image in the norm; in linf that of a pixel in [0, 1] [default: 8/255 in linf, of patchfool 1, any
    /// pixel at all]
    #[arg(long, value_name = "CHANGE[,…]", value_delimiter = ',', allow_hyphen_values = true, value_parser = Eps::parse)]
    pub eps: Vec<Eps>,
    /// How the change of an image is measured: linf, l2 or l1
    #[arg(long, value_name = "NORM", value_parser = norm)]
    norm: Option<Norm>,
    /// The change in one step, in the norm [default: the attack's; pgd 2/255, transfer attacks eps/steps]
    #[arg(long, value_name = "CHANGE", allow_hyphen_values = true, value_parser = values::fraction)]
    step_size: Option<f64>,
    /// Steps [default: the attack's; pgd 50]
    #[arg(long, value_name = "COUNT")]
    steps: Option<usize>,
    /// Start from the image instead of a random point around it
    #[arg(long)]
    no_random_start: bool,
    /// Tries of each image that still stands, each from another random start
    #[arg(long, value_name = "COUNT")]
    restarts: Option<usize>,
    /// What rises: cross-entropy, margin or dlr (difference of logits ratio)
    #[arg(long, value_name = "LOSS", value_parser = loss)]
    loss: Option<Loss>,
    /// How much of the gradients before is kept
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = values::fraction)]
    momentum: Option<f64>,
    /// Take gradients ahead of the point, along the momentum, which is then 1 if neither --momentum nor the attack has another
    #[arg(long)]
    look_ahead: bool,
    /// Average gradients over copies at 1, 1/2, 1/4, … of the brightness
    #[arg(long, value_name = "COUNT")]
    scales: Option<usize>,
    /// Resize and pad the image at random, with this probability
    #[arg(long, value_name = "PROBABILITY", value_parser = values::fraction)]
    diversity: Option<f64>,
    /// The relative size then: if it is above 1 the largest, and if it is below 1 the smallest
    #[arg(long, value_name = "RATE", value_parser = values::fraction)]
    diversity_rate: Option<f64>,
    /// Mix in so many images of other classes, from the data set's first ones
    #[arg(long, value_name = "COUNT")]
    admix: Option<usize>,
    /// How much of them
    #[arg(long, value_name = "SHARE", value_parser = values::fraction)]
    admix_strength: Option<f64>,
    /// Average gradients over so many copies with blocks exchanged and turned
    #[arg(long, value_name = "COUNT")]
    shuffle: Option<usize>,
    /// Blocks along each axis then
    #[arg(long, value_name = "COUNT")]
    blocks: Option<usize>,
    /// Blur the gradient over so many pixels, an odd number up to 255
    #[arg(long, value_name = "PIXELS")]
    translation: Option<usize>,
    /// Keep to this share of the lowest frequencies along each axis
    #[arg(long, value_name = "SHARE", value_parser = values::fraction)]
    low_pass: Option<f64>,
    /// Correct the gradient by its variance over so many neighbours
    #[arg(long, value_name = "COUNT", conflicts_with = "flat")]
    variance: Option<usize>,
    /// Seek flat maxima, by so many neighbours
    #[arg(long, value_name = "COUNT")]
    flat: Option<usize>,
    /// The neighbours' distance, in eps
    #[arg(long, value_name = "EPS", allow_negative_numbers = true, value_parser = values::fraction)]
    radius: Option<f64>,
    /// Pairs of queries for each gradient of nes [default: 25, or as many as --queries allow for one step]
    #[arg(long, value_name = "COUNT")]
    pairs: Option<usize>,
    /// Queries of each image: of nes at most in all; of square in each of its --restarts, besides one of the try's start, and one of
    /// the image
    #[arg(long, value_name = "COUNT")]
    queries: Option<usize>,
    /// Patches that patchfool changes
    #[arg(long, value_name = "COUNT")]
    patches: Option<usize>,
    /// The side of a patch where the network has none of its own; else it changes nothing, which is said [default: 16, a quarter of
    /// images of less than 64]
    #[arg(long, value_name = "PIXELS")]
    patch_size: Option<usize>,
    /// Seeds the attack's random numbers
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

impl AttackOptions {
    /// The attack within each eps that was given, or within its own.
    ///
    /// # Errors
    /// If a setting is out of its range or not the attack's, an eps is given twice, or images to mix in cannot be read.
    pub fn all(&self, dataset: &Dataset) -> Result<Vec<Arc<dyn Attack>>, Failure> {
        let pool = if self.wants_pool() { pool(dataset)? } else { None };
        let each = |eps: Option<f64>| Ok(named(&self.attack, &Wishes { eps, pool: pool.clone(), ..self.wishes() })?);
        for (index, Eps { value, text }) in self.eps.iter().enumerate() {
            if let Some(before) = self.eps[..index].iter().find(|before| before.value == *value) {
                return Err(
                    format!("--eps names {text} after {}, which is the same; give each once", before.text).into()
                );
            }
        }
        let attacks: Vec<Arc<dyn Attack>> = match &self.eps[..] {
            [] => vec![each(None)?],
            all => all.iter().map(|eps| each(Some(eps.value))).collect::<Result<_, Failure>>()?,
        };
        self.say_fewer_pairs(&*attacks[0]);
        Ok(attacks)
    }

    /// Says if nes takes fewer pairs than its usual ones, since there are no more queries.
    fn say_fewer_pairs(&self, attack: &dyn Attack) {
        let pairs = attack.settings()["estimate"]["evolution"]["pairs"].as_u64();
        if let Some(pairs) = pairs.filter(|&pairs| self.pairs.is_none() && pairs < PAIRS as u64) {
            say(&format!(
                "each gradient of {} is estimated from {pairs} pair(s) of queries instead of {PAIRS}, since there are queries for no more; give more --queries for better ones",
                attack.name()
            ));
        }
    }

    /// The first of the settings besides the radius, the target and the seed that makes another attack than the authors' within
    /// `eps`, as the command line calls it; none if all that were given are as the attack has them anyhow.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub fn departure(&self, dataset: &Dataset, eps: f64) -> Result<Option<&'static str>, Failure> {
        let wishes =
            Wishes { eps: Some(eps), pool: if self.wants_pool() { pool(dataset)? } else { None }, ..self.wishes() };
        let usual = Wishes { eps: wishes.eps, pool: wishes.pool.clone(), seed: self.seed, ..Wishes::default() };
        let [ours, theirs] = [named(&self.attack, &wishes)?.settings(), named(&self.attack, &usual)?.settings()];
        if is_near(&ours, &theirs) {
            return Ok(None);
        }
        // Settings of parts lie deeper and under other names; one of those is blamed if nothing else is another one.
        let given = self.wishes().given();
        let pair = |option: &str| {
            let key = option.replace('-', "_");
            ours.get(&key).zip(theirs.get(&key))
        };
        let differs = given.iter().find(|option| pair(option).is_some_and(|(ours, theirs)| !is_near(ours, theirs)));
        Ok(differs.or_else(|| given.iter().find(|option| pair(option).is_none())).or(given.first()).copied())
    }

    /// The attack.
    ///
    /// # Errors
    /// As [`Self::all`], and if more than one eps was given.
    pub fn one(&self, dataset: &Dataset) -> Result<Arc<dyn Attack>, Failure> {
        match &self.all(dataset)?[..] {
            [one] => Ok(one.clone()),
            all => {
                Err(format!("--eps has {} values, and this command wants one; run it once for each", all.len()).into())
            }
        }
    }

    /// The same within `eps`, if none was given.
    pub fn within(mut self, eps: f64) -> Self {
        if self.eps.is_empty() {
            self.eps = vec![Eps { value: eps, text: eps.to_string() }];
        }
        self
    }

    /// What seeds the attack's random numbers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    fn wants_pool(&self) -> bool {
        named::wants_pool(&self.attack, &self.wishes())
    }

    fn wishes(&self) -> Wishes {
        Wishes {
            norm: self.norm,
            eps: None,
            step_size: self.step_size,
            steps: self.steps,
            no_random_start: self.no_random_start,
            restarts: self.restarts,
            loss: self.loss,
            momentum: self.momentum,
            look_ahead: self.look_ahead,
            scales: self.scales,
            diversity: self.diversity,
            diversity_rate: self.diversity_rate,
            admix: self.admix,
            admix_strength: self.admix_strength,
            shuffle: self.shuffle,
            blocks: self.blocks,
            translation: self.translation,
            low_pass: self.low_pass,
            variance: self.variance,
            flat: self.flat,
            radius: self.radius,
            pairs: self.pairs,
            queries: self.queries,
            patches: self.patches,
            patch_size: self.patch_size,
            pool: None,
            seed: self.seed,
        }
    }
}

/// A radius, and how it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Eps {
    /// In the attack's norm.
    pub value: f64,
    text: String,
}

impl Eps {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { value: values::fraction(text)?, text: text.split_whitespace().collect() })
    }

    /// As it was written, without spaces.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The folder that its results have where there are several radii: named as it was written.
    pub fn folder(&self) -> String {
        format!("eps-{}", self.text.replace('/', "_"))
    }
}

/// Whether two settings are the same but for the rounding of numbers: 1.6/255 is not quite a tenth of 16/255.
pub fn is_near(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let is_there = |(key, value): (&String, &Value)| other.get(key).is_some_and(|other| is_near(value, other));
            one.len() == other.len() && one.iter().all(is_there)
        }
        (Value::Number(_), Value::Number(_)) => {
            let numbers = one.as_f64().zip(other.as_f64());
            numbers.is_some_and(|(one, other)| (one - other).abs() <= ROUNDING * other.abs())
        }
        _ => one == other,
    }
}

/// The first images of a data set that can be decoded, with their labels; none if they are all of one class.
fn pool(dataset: &Dataset) -> Result<Option<Pool>, Failure> {
    let samples = dataset.samples.iter().take(POOL);
    let images = samples.filter_map(|sample| Some((sample.label, sample.decode().ok()?)));
    Ok(Pool::new(images.collect()))
}

fn attack_names() -> PossibleValuesParser {
    PossibleValuesParser::new(named::NAMES.iter().map(|(name, what)| PossibleValue::new(*name).help(*what)))
}

fn norm(text: &str) -> Result<Norm, String> {
    [Norm::Linf, Norm::L2, Norm::L1].into_iter().find(|norm| norm.name() == text).ok_or("give linf, l2 or l1".into())
}

fn loss(text: &str) -> Result<Loss, String> {
    match text {
        "cross-entropy" => Ok(Loss::CrossEntropy),
        "margin" => Ok(Loss::Margin),
        "dlr" => Ok(Loss::Dlr),
        _ => Err("give cross-entropy, margin or dlr".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_as_radii_are_written() {
        let folder = |text: &str| Eps::parse(text).unwrap().folder();
        assert_eq!(folder("4/255"), "eps-4_255");
        assert_eq!(folder(" 8 / 255"), "eps-8_255");
        assert_eq!(folder("0.03"), "eps-0.03");
        assert_eq!(Eps::parse("4/255").unwrap().value, 4.0 / 255.0);
        assert!(Eps::parse("x").is_err());
    }
}
