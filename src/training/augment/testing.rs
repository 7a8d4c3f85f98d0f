//! What scripts/augmentation_reference.py wrote: images by a formula, the numbers that timm drew, and what came of them.

use std::fs;
use std::path::Path;
use std::vec::IntoIter;

use serde_json::Value;

use super::draws::Draws;
use crate::images::RgbImage;
use crate::random::Random;

/// The cases of one section of the reference values.
pub fn fixture(section: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/augmentation/reference.json");
    let mut sections: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    serde_json::from_value(sections[section].take()).unwrap()
}

pub fn text<'c>(case: &'c Value, name: &str) -> &'c str {
    case[name].as_str().unwrap()
}

pub fn number(case: &Value, name: &str) -> usize {
    case[name].as_u64().unwrap() as usize
}

/// A case's image, as the script computes it by the same formula.
pub fn image(case: &Value) -> RgbImage {
    let (width, height) = (number(case, "width"), number(case, "height"));
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let value = (x * 131 + y * 241 + channel * 59 + (x * y % 251) * ((x + 3 * y) % 17)) % 256;
                data.push(match text(case, "kind") {
                    "full" => value,
                    "dull" => value / 3 + 20 + 40 * channel,
                    "steps" => value / 32 * 9 + 100,
                    "flat" => 77 + channel,
                    other => panic!("unknown kind {other}"),
                } as u8);
            }
        }
    }
    RgbImage::new(width, height, data)
}

pub fn crc(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

/// The numbers that timm drew, in its order: `u` in [0, 1), `b` below a bound, `n` normal, `g` of a beta distribution.
pub struct Recorded {
    draws: IntoIter<String>,
}

impl Recorded {
    pub fn new(case: &Value) -> Self {
        let draws: Vec<String> = serde_json::from_value(case["draws"].clone()).unwrap();
        Self { draws: draws.into_iter() }
    }

    /// That everything that timm drew was drawn.
    pub fn end(mut self) {
        assert_eq!(self.draws.next(), None);
    }

    fn next(&mut self, kind: &str) -> Vec<String> {
        let draw = self.draws.next().expect("timm drew no more numbers");
        let mut parts = draw.split(' ').map(str::to_owned);
        assert_eq!(parts.next().as_deref(), Some(kind), "timm drew {draw}");
        parts.collect()
    }

    fn real(&mut self, kind: &str) -> f64 {
        self.next(kind)[0].parse().unwrap()
    }
}

impl Draws for Recorded {
    fn unit(&mut self) -> f64 {
        self.real("u")
    }

    fn below(&mut self, bound: usize) -> usize {
        let parts = self.next("b");
        assert_eq!(parts[0], bound.to_string());
        parts[1].parse().unwrap()
    }

    fn normal(&mut self) -> f64 {
        self.real("n")
    }

    fn beta(&mut self, _alpha: f64) -> f64 {
        self.real("g")
    }
}

/// Random numbers, of which those below a bound are noted.
pub struct Noting {
    random: Random,
    pub belows: Vec<usize>,
}

impl Noting {
    pub fn new(random: Random) -> Self {
        Self { random, belows: Vec::new() }
    }
}

impl Draws for Noting {
    fn unit(&mut self) -> f64 {
        self.random.unit()
    }

    fn below(&mut self, bound: usize) -> usize {
        let number = self.random.below(bound);
        self.belows.push(number);
        number
    }

    fn normal(&mut self) -> f64 {
        self.random.normal()
    }

    fn beta(&mut self, alpha: f64) -> f64 {
        self.random.beta(alpha)
    }
}
