//! Images on the host, each a slice of f64, for attacks that sort pixels, draw windows and decide for each image: what is
//! computed of an image there does not depend on the batch around it.

use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;
use serde::Serialize;

use super::{Attack, AttackError, Doubt, Effort, Norm, Perturbed, Surrogate, Targets};
use crate::noise;

/// Keeps a quotient finite, as the authors of AutoAttack do.
pub const TINY: f64 = 1e-12;

/// An image before an attack.
pub struct Image {
    /// `[3 · height · width]`.
    pub pixels: Vec<f64>,
    /// 1 where a pixel may change, else 0, `[height · width]`; without it, all may.
    mask: Option<Vec<f64>>,
}

impl Image {
    /// All images of a batch.
    pub fn all(targets: &Targets) -> Vec<Self> {
        let masks: Vec<Option<Vec<f64>>> = match &targets.mask {
            Some(mask) => split(mask.clone()).into_iter().map(Some).collect(),
            None => vec![None; targets.len()],
        };
        split(targets.pixels.clone()).into_iter().zip(masks).map(|(pixels, mask)| Self { pixels, mask }).collect()
    }

    /// Sets to 0 what may not change.
    pub fn keep(&self, change: &mut [f64]) {
        let Some(mask) = &self.mask else { return };
        for channel in change.chunks_exact_mut(mask.len()) {
            channel.iter_mut().zip(mask).for_each(|(change, mask)| *change *= mask);
        }
    }

    /// Takes back what rounding changed where nothing may.
    pub fn restore(&self, pixels: &mut [f64]) {
        let Some(mask) = &self.mask else { return };
        for ((pixel, original), mask) in pixels.iter_mut().zip(&self.pixels).zip(mask.iter().cycle()) {
            if *mask == 0.0 {
                *pixel = *original;
            }
        }
    }

    /// Those of `values`, one for each pixel and channel, that may change.
    pub fn free<'a>(&'a self, values: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        let is_free = move |index: usize| self.mask.as_ref().is_none_or(|mask| mask[index % mask.len()] > 0.0);
        values.iter().enumerate().filter(move |(index, _)| is_free(*index)).map(|(_, value)| *value)
    }

    /// How far `pixels` are from the image.
    pub fn distance(&self, pixels: &[f64], norm: Norm) -> f64 {
        length(pixels.iter().zip(&self.pixels).map(|(new, old)| new - old), norm)
    }
}

/// The length of a change.
pub fn length(change: impl Iterator<Item = f64>, norm: Norm) -> f64 {
    match norm {
        Norm::Linf => change.fold(0.0, |largest, value| largest.max(value.abs())),
        Norm::L2 => change.map(|value| value * value).sum::<f64>().sqrt(),
        Norm::L1 => change.map(f64::abs).sum(),
    }
}

/// The images of a batch.
pub fn split(batch: Tensor<4>) -> Vec<Vec<f64>> {
    let size = batch.dims()[1..].iter().product::<usize>().max(1);
    let data = batch.into_data();
    match data.as_slice::<f32>() {
        Ok(values) => {
            values.par_chunks_exact(size).map(|image| image.iter().map(|&v| f64::from(v)).collect()).collect()
        }
        Err(_) => data.iter::<f64>().collect::<Vec<_>>().chunks_exact(size).map(<[f64]>::to_vec).collect(),
    }
}

/// A batch of images, each of the shape `[3, height, width]` that ends `shape`, where the network computes.
pub fn join(images: &[&[f64]], [_, channels, height, width]: [usize; 4], network: &dyn Surrogate) -> Tensor<4> {
    let shape = [images.len(), channels, height, width];
    let (device, dtype) = network.placement();
    let data = match dtype {
        DType::F32 => {
            let narrow = |image: &&[f64]| image.iter().map(|&value| value as f32).collect::<Vec<_>>();
            TensorData::new(images.par_iter().flat_map_iter(narrow).collect::<Vec<f32>>(), shape)
        }
        _ => TensorData::new(images.concat(), shape),
    };
    Tensor::from_data(data, (&device, dtype))
}

/// What is wanted of some of the images, to judge other `pixels` in their places by.
pub fn about(targets: &Targets, positions: &[usize], pixels: Tensor<4>) -> Targets {
    let of = |classes: &Vec<usize>| positions.iter().map(|&position| classes[position]).collect();
    Targets {
        pixels,
        labels: of(&targets.labels),
        ids: Vec::new(),
        wanted: targets.wanted.as_ref().map(of),
        mask: None,
    }
}

/// The classes by which each image is attacked, one after another: the most probable ones that are not its label.
/// One turn without a class if the images' classes are given or none is to be aimed at.
pub fn turns(targets: &Targets, ranked: &[Vec<usize>], target_classes: usize) -> Vec<Option<Vec<usize>>> {
    let classes = ranked.iter().map(Vec::len).min().unwrap_or(0);
    match (&targets.wanted, target_classes) {
        (None, 1..) => {
            let of_rank = |rank: usize| ranked.iter().map(|ranked| ranked[rank]).collect();
            (1..classes.min(target_classes + 1)).map(|rank| Some(of_rank(rank))).collect()
        }
        _ => vec![None],
    }
}

/// Where random numbers come from; tests put those of the authors' runs in this place.
pub trait Draws: Sync {
    /// `count` numbers in [−1, 1).
    fn uniform(&self, purpose: &str, seed: u64, name: &str, count: usize) -> Vec<f64>;

    /// `count` standard normal numbers.
    fn normal(&self, purpose: &str, seed: u64, name: &str, count: usize) -> Vec<f64>;
}

/// Random numbers as all attacks draw them.
pub struct Noise;

impl Draws for Noise {
    fn uniform(&self, purpose: &str, seed: u64, name: &str, count: usize) -> Vec<f64> {
        noise::uniform(purpose, seed, name, count).into_iter().map(f64::from).collect()
    }

    fn normal(&self, purpose: &str, seed: u64, name: &str, count: usize) -> Vec<f64> {
        noise::normal(purpose, seed, name, count)
    }
}

/// What is known of the images while they are attacked again and again.
pub struct Progress {
    pixels: Vec<Vec<f64>>,
    is_fooled: Vec<bool>,
    /// How good the pixels are of an image that stands.
    score: Vec<f64>,
    /// What each image cost.
    pub effort: Vec<Effort>,
}

impl Progress {
    /// After one pass over the images as they are.
    pub fn new(images: &[Image], is_fooled: Vec<bool>) -> Self {
        Self {
            pixels: images.iter().map(|image| image.pixels.clone()).collect(),
            score: vec![f64::NEG_INFINITY; images.len()],
            effort: vec![Effort::QUERY; images.len()],
            is_fooled,
        }
    }

    /// The positions of the images that still stand.
    pub fn standing(&self) -> Vec<usize> {
        (0..self.is_fooled.len()).filter(|&position| !self.is_fooled[position]).collect()
    }

    /// An image that fools the network.
    pub fn fooled(&mut self, position: usize, pixels: Vec<f64>) {
        self.is_fooled[position] = true;
        self.pixels[position] = pixels;
    }

    /// An image that does not; the one of the highest score is kept.
    pub fn stands(&mut self, position: usize, pixels: Vec<f64>, score: f64) {
        if score > self.score[position] {
            self.score[position] = score;
            self.pixels[position] = pixels;
        }
    }

    /// What the attack made, in [0, 1].
    pub fn end(mut self, shape: [usize; 4], network: &dyn Surrogate, doubts: Vec<Doubt>) -> Perturbed {
        self.pixels.iter_mut().flatten().for_each(|pixel| *pixel = pixel.clamp(0.0, 1.0));
        let images: Vec<&[f64]> = self.pixels.iter().map(Vec::as_slice).collect();
        Perturbed { pixels: join(&images, shape, network), effort: self.effort, doubts }
    }
}

/// What an attack makes where there is nothing to change: of no images, and of any within an ε of 0.
pub fn nothing(targets: &Targets) -> Perturbed {
    Perturbed { pixels: targets.pixels.clone(), effort: vec![Effort::default(); targets.len()], doubts: Vec::new() }
}

/// The settings of an attack with its name.
pub fn settings(attack: &(impl Attack + Serialize)) -> serde_json::Value {
    let mut settings = serde_json::to_value(attack).expect("settings are numbers and words");
    settings["name"] = attack.name().into();
    settings
}

/// An error if a setting that counts something is 0.
pub fn at_least_one(option: &'static str, value: usize) -> Result<(), AttackError> {
    AttackError::check(option, value as f64, value >= 1, "a whole number of at least 1")
}
