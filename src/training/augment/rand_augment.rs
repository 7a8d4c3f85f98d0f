//! RandAugment (Cubuk et al., arXiv 1909.13719) as timm's `rand_augment_transform` reads and applies it.
//!
//! A description is `rand` and sections behind dashes, such as `rand-m9-mstd0.5-inc1`:
//!
//! | section | meaning | without it |
//! |---|---|---|
//! | `m9` | magnitude, a whole number up to 100 | 10 |
//! | `mstd0.5` | standard deviation of the magnitude; above 100: even from 0 to the magnitude | 0 |
//! | `mmax20` | the largest magnitude, at which a deviation is cut off, up to 100 | 10 |
//! | `n2` | operations per image, 1 to 16 | 2 |
//! | `p0.5` | probability of each operation, 0 to 1 | 0.5 |
//! | `inc1` | whether a larger magnitude always changes more | 0 |
//! | `tweights` | operations by timm's weights, none twice, and as with `inc1` | all alike |

use super::Interpolation;
use super::draws::Draws;
use super::operations;
use crate::images::RgbImage;

/// The magnitude that stands for an operation's full strength.
const FULL: f64 = 10.0;
/// Bounds of what is read: timm has none, but numbers beyond are typing errors, and so many operations would take for ever.
const MOST_MAGNITUDE: f64 = 100.0;
const MOST_LAYERS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

/// timm's order, with its weights.
const OPERATIONS: [(Operation, f64); 15] = {
    use Operation::*;
    [
        (AutoContrast, 0.25),
        (Equalize, 0.05),
        (Invert, 0.05),
        (Rotate, 3.0),
        (Posterize, 0.05),
        (Solarize, 0.05),
        (SolarizeAdd, 0.05),
        (Color, 0.25),
        (Contrast, 0.05),
        (Brightness, 0.05),
        (Sharpness, 0.25),
        (ShearX, 2.0),
        (ShearY, 2.0),
        (TranslateX, 1.0),
        (TranslateY, 1.0),
    ]
};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RandAugment {
    layers: usize,
    probability: f64,
    magnitude: f64,
    deviation: Deviation,
    largest: f64,
    is_increasing: bool,
    is_weighted: bool,
    interpolation: Interpolation,
    /// The colour of what comes in from outside.
    fill: [u8; 3],
}

/// How magnitudes differ.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Deviation {
    None,
    /// A normal distribution around the magnitude, of this standard deviation.
    Normal(f64),
    /// Even from 0 to the magnitude.
    Even,
}

impl RandAugment {
    /// Reads a description; it then interpolates at random and fills with gray.
    ///
    /// # Errors
    /// What the description must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut sections = text.split('-');
        if sections.next() != Some("rand") {
            return Err("empty, or RandAugment as timm writes it, such as rand-m9-mstd0.5-inc1");
        }
        let mut parsed = Self {
            layers: 2,
            probability: 0.5,
            magnitude: FULL,
            deviation: Deviation::None,
            largest: FULL,
            is_increasing: false,
            is_weighted: false,
            interpolation: Interpolation::Random,
            fill: [128; 3],
        };
        for section in sections {
            parsed.set(section)?;
        }
        if parsed.is_weighted && parsed.layers > OPERATIONS.len() {
            return Err("at most n15 with tweights, which takes no operation twice");
        }
        if !(1..=MOST_LAYERS).contains(&parsed.layers) {
            return Err("n1 to n16: so many operations change an image");
        }
        if !(0.0..=1.0).contains(&parsed.probability) {
            return Err("p0 to p1, the probability of each operation");
        }
        if parsed.magnitude > MOST_MAGNITUDE || parsed.largest > MOST_MAGNITUDE {
            return Err("at most m100 and mmax100; the full strength is 10");
        }
        Ok(parsed)
    }

    fn set(&mut self, section: &str) -> Result<(), &'static str> {
        if section == "tweights" {
            (self.is_weighted, self.is_increasing) = (true, true);
            return Ok(());
        }
        if section.starts_with('t') {
            return Err("without a section t, or with tweights; timm's other sets of operations are not there");
        }
        let digits = section.find(|character: char| character.is_ascii_digit()).unwrap_or(section.len());
        let (key, value) = section.split_at(digits);
        let whole =
            || value.parse::<u32>().map_err(|_| "rand and sections with whole numbers behind m, mmax, n and inc");
        let real = || {
            let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
            number.ok_or("rand and sections with a number from 0 behind mstd and p")
        };
        match key {
            "m" => self.magnitude = whole()?.into(),
            "mmax" => {
                // As in timm, 0 stands for the usual one.
                let largest = f64::from(whole()?);
                self.largest = if largest == 0.0 { FULL } else { largest };
            }
            "mstd" => {
                self.deviation = match real()? {
                    0.0 => Deviation::None,
                    deviation if deviation > 100.0 => Deviation::Even,
                    deviation => Deviation::Normal(deviation),
                };
            }
            "n" => self.layers = whole()? as usize,
            "p" => self.probability = real()?,
            "inc" => self.is_increasing = self.is_weighted || whole()? != 0,
            _ => {
                return Err(
                    "rand and sections that begin with m, mmax, mstd, n, p, inc or tweights, divided by dashes",
                );
            }
        }
        Ok(())
    }

    /// The same with this interpolation and this colour outside.
    pub fn on(self, interpolation: Interpolation, fill: [u8; 3]) -> Self {
        Self { interpolation, fill, ..self }
    }

    /// Applies operations, each drawn anew.
    pub fn apply(&self, image: RgbImage, draws: &mut impl Draws) -> RgbImage {
        let chosen = self.choose(draws);
        chosen.into_iter().fold(image, |image, operation| self.perhaps(operation, image, draws))
    }

    fn choose(&self, draws: &mut impl Draws) -> Vec<Operation> {
        if !self.is_weighted {
            return (0..self.layers).map(|_| OPERATIONS[draws.below(OPERATIONS.len())].0).collect();
        }
        let mut left = OPERATIONS.to_vec();
        let mut chosen = Vec::with_capacity(self.layers);
        for _ in 0..self.layers {
            let mut place = draws.unit() * left.iter().map(|(_, weight)| weight).sum::<f64>();
            let passed = left.iter().take_while(|(_, weight)| {
                place -= weight;
                place >= 0.0
            });
            let index = passed.count().min(left.len() - 1);
            chosen.push(left.remove(index).0);
        }
        chosen
    }

    fn perhaps(&self, operation: Operation, image: RgbImage, draws: &mut impl Draws) -> RgbImage {
        if self.probability < 1.0 && draws.unit() > self.probability {
            return image;
        }
        let magnitude = match self.deviation {
            Deviation::None => self.magnitude,
            Deviation::Normal(deviation) => self.magnitude + draws.normal() * deviation,
            Deviation::Even => draws.between(0.0, self.magnitude),
        };
        self.certainly(operation, image, magnitude.min(self.largest).max(0.0) / FULL, draws)
    }

    /// `strength` is 1 at the magnitude 10.
    fn certainly(&self, operation: Operation, image: RgbImage, strength: f64, draws: &mut impl Draws) -> RgbImage {
        let fill = self.fill;
        match operation {
            Operation::AutoContrast => operations::auto_contrast(image),
            Operation::Equalize => operations::equalize(image),
            Operation::Invert => operations::invert(image),
            Operation::Posterize => {
                let bits = (strength * 4.0) as usize;
                operations::posterize(image, if self.is_increasing { 4_usize.saturating_sub(bits) } else { bits })
            }
            Operation::Solarize => {
                let threshold = ((strength * 256.0) as usize).min(256);
                operations::solarize(image, if self.is_increasing { 256 - threshold } else { threshold })
            }
            Operation::SolarizeAdd => operations::solarize_add(image, ((strength * 110.0) as usize).min(128)),
            Operation::Color => operations::color(image, self.factor(strength, draws)),
            Operation::Contrast => operations::contrast(image, self.factor(strength, draws)),
            Operation::Brightness => operations::brightness(image, self.factor(strength, draws)),
            Operation::Sharpness => operations::sharpness(image, self.factor(strength, draws)),
            Operation::Rotate => {
                let degrees = signed(strength * 30.0, draws);
                operations::rotate(&image, degrees, self.interpolation.draw(draws), fill)
            }
            Operation::ShearX => {
                let factor = signed(strength * 0.3, draws);
                operations::shear_x(&image, factor, self.interpolation.draw(draws), fill)
            }
            Operation::ShearY => {
                let factor = signed(strength * 0.3, draws);
                operations::shear_y(&image, factor, self.interpolation.draw(draws), fill)
            }
            Operation::TranslateX => {
                let share = signed(strength * 0.45, draws);
                operations::translate_x(&image, share, self.interpolation.draw(draws), fill)
            }
            Operation::TranslateY => {
                let share = signed(strength * 0.45, draws);
                operations::translate_y(&image, share, self.interpolation.draw(draws), fill)
            }
        }
    }

    /// The factor of an enhancement, where 1 changes nothing: from 0.1 to 1.9, or as far from 1 as the strength says.
    fn factor(&self, strength: f64, draws: &mut impl Draws) -> f64 {
        if self.is_increasing { (1.0 + signed(strength * 0.9, draws)).max(0.1) } else { strength * 1.8 + 0.1 }
    }
}

/// The value or its opposite, each as likely.
fn signed(value: f64, draws: &mut impl Draws) -> f64 {
    if draws.unit() > 0.5 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noting, Recorded, crc, fixture, image, text};
    use super::*;
    use crate::random::Random;

    #[test]
    fn images_are_timms_in_every_byte_for_the_same_numbers() {
        let cases = fixture("rand_augment");
        assert!(cases.len() >= 60);
        for case in cases {
            let interpolation = match text(&case, "interpolation") {
                "bilinear" => Interpolation::Bilinear,
                "bicubic" => Interpolation::Bicubic,
                _ => Interpolation::Random,
            };
            let augment = RandAugment::parse(text(&case, "rand_augment")).unwrap().on(interpolation, [124, 116, 104]);
            let mut draws = Recorded::new(&case);
            let augmented = augment.apply(image(&case), &mut draws);
            draws.end();
            assert_eq!(crc(augmented.data()), text(&case, "crc"), "{case}");
        }
    }

    #[test]
    fn descriptions_are_read_as_by_timm() {
        let usual = RandAugment::parse("rand-m9-mstd0.5-inc1").unwrap();
        assert_eq!((usual.layers, usual.probability, usual.magnitude, usual.largest), (2, 0.5, 9.0, 10.0));
        assert!(usual.deviation == Deviation::Normal(0.5) && usual.is_increasing && !usual.is_weighted);
        let plain = RandAugment::parse("rand").unwrap();
        assert!(plain.magnitude == 10.0 && plain.deviation == Deviation::None && !plain.is_increasing);
        let other = RandAugment::parse("rand-n3-m15-mmax20-p0.9-mstd101-inc0-tweights").unwrap();
        assert_eq!((other.layers, other.probability, other.magnitude, other.largest), (3, 0.9, 15.0, 20.0));
        assert!(other.deviation == Deviation::Even && other.is_increasing && other.is_weighted);
        for (wrong, said) in [
            ("augmix-m3", "such as rand-m9"),
            ("rand-w0", "begin with m, mmax"),
            ("rand-m", "whole numbers"),
            ("rand-m9.5", "whole numbers"),
            ("rand-mstd", "a number from 0"),
            ("rand-t3a", "without a section t"),
            ("rand--m9", "begin with m, mmax"),
            ("rand-n16-tweights", "at most n15"),
            ("rand-m9-n1000000", "n1 to n16"),
            ("rand-n0", "n1 to n16"),
            ("rand-p1.5", "p0 to p1"),
            ("rand-m101", "at most m100"),
            ("rand-m9-mmax1000", "at most m100"),
        ] {
            let error = RandAugment::parse(wrong).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn every_operation_comes_as_often_and_half_of_them_act() {
        let augment = RandAugment::parse("rand-m9-inc1").unwrap();
        let mut draws = Noting::new(Random::of(&[1]));
        for _ in 0..15_000 {
            augment.choose(&mut draws);
        }
        let count = |operation: usize| draws.belows.iter().filter(|&&drawn| drawn == operation).count();
        assert!((0..15).all(|operation| (1820..2180).contains(&count(operation))));

        let image = RgbImage::new(1, 1, vec![10, 20, 30]);
        let inverted = RgbImage::new(1, 1, vec![245, 235, 225]);
        let mut random = Random::of(&[2]);
        let acted = (0..4000).filter(|_| augment.perhaps(Operation::Invert, image.clone(), &mut random) == inverted);
        assert!((1870..2130).contains(&acted.count()));
    }

    #[test]
    fn weighted_operations_come_by_their_weights_and_none_twice() {
        let augment = RandAugment::parse("rand-n2-tweights").unwrap();
        let mut random = Random::of(&[3]);
        let mut first = [0; 15];
        for _ in 0..20_000 {
            let chosen = augment.choose(&mut random);
            assert!(chosen.len() == 2 && chosen[0] != chosen[1]);
            first[chosen[0] as usize] += 1;
        }
        let total: f64 = OPERATIONS.iter().map(|(_, weight)| weight).sum();
        for (count, (operation, weight)) in first.iter().zip(OPERATIONS) {
            let expected = 20_000.0 * weight / total;
            assert!((f64::from(*count) - expected).abs() < 4.5 * expected.sqrt(), "{operation:?}: {count}, {expected}");
        }
        let all = RandAugment::parse("rand-n15-tweights").unwrap().choose(&mut random);
        assert!(OPERATIONS.iter().all(|(operation, _)| all.contains(operation)));
    }

    /// A brightness of 100 times the factor tells the magnitude: 0.9 apart from 1 at 10, either way, and not beyond it.
    #[test]
    fn magnitudes_follow_their_distribution() {
        let image = RgbImage::new(1, 1, vec![100; 3]);
        let mut random = Random::of(&[4]);
        let mut distances = |text: &str| -> Vec<f64> {
            let augment = RandAugment::parse(text).unwrap();
            let level = |_| f64::from(augment.perhaps(Operation::Brightness, image.clone(), &mut random).data()[0]);
            (0..10_000).map(level).map(|level| (level + 0.5 - 100.0) / 9.0).collect()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let sizes = |values: Vec<f64>| values.into_iter().map(f64::abs).collect::<Vec<_>>();

        let fixed = distances("rand-p1-m5-inc1");
        assert!(mean(&fixed).abs() < 0.25);
        assert!(sizes(fixed).iter().all(|size| (size - 5.0).abs() < 0.12));

        let normal = sizes(distances("rand-p1-m5-mstd1-inc1"));
        assert!((mean(&normal) - 5.0).abs() < 0.06);
        let variance = mean(&normal.iter().map(|size| (size - 5.0).powi(2)).collect::<Vec<_>>());
        assert!((variance - 1.0).abs() < 0.08, "{variance}");

        let cut_off = sizes(distances("rand-p1-m9-mstd2-inc1"));
        let at_the_end = cut_off.iter().filter(|size| **size > 9.9).count();
        // Half a deviation above the mean.
        assert!((2800..3500).contains(&at_the_end), "{at_the_end}");
        assert!(cut_off.iter().all(|size| *size < 10.12));

        let even = sizes(distances("rand-p1-m8-mstd200-inc1"));
        assert!((mean(&even) - 4.0).abs() < 0.12 && even.iter().all(|size| *size < 8.12));
    }
}
