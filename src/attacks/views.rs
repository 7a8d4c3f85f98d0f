//! What a network is shown in place of an image, so that the gradient is one that other networks share.
//!
//! Each view is a linear map of the image (plus another image, for Admix). The gradient at an image is the mean over its views,
//! each taken back by the view's transpose.

use std::sync::Arc;

use burn::tensor::{DType, Element, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Serialize, Serializer};

use super::blocks::Blocks;
use super::pass::{Map, mapped};
use super::sums::Real;
use super::warp::Warp;
use super::{Effort, LossGradient, Targets};
use crate::images::{Filter, RgbImage, resize};
use crate::noise;
use crate::random::Random;

/// Which views there are of an image; by default only itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Views {
    /// Copies at 1, 1/2, 1/4, … of the brightness, at least 1. Lin et al., *Nesterov Accelerated Gradient and Scale Invariance
    /// for Adversarial Attacks* (arXiv 1908.06281), equation 8.
    pub scales: usize,
    /// Random resizing and padding.
    pub diversity: Option<Diversity>,
    /// Other images mixed in.
    pub admix: Option<Admix>,
    /// Blocks exchanged and turned.
    pub shuffle: Option<Shuffle>,
}

/// Xie et al., *Improving Transferability of Adversarial Examples with Input Diversity* (arXiv 1803.06978).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Diversity {
    /// How often an image is changed at all, 0 to 1.
    pub probability: f64,
    /// Above 1, an image is resized to a random size of up to `rate` times its own, padded with black at random to that, and
    /// resized back; below 1, resized to a random size from `rate` times its own and padded to its own.
    pub rate: f64,
}

/// Wang et al., *Admix: Enhancing the Transferability of Adversarial Attacks* (arXiv 2102.00436).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Admix {
    /// Other images mixed in, one for each copy.
    pub copies: usize,
    /// How much of the other image is added, above 0.
    pub strength: f64,
    /// Where they come from.
    pub pool: Pool,
}

/// Wang et al., *Boosting Adversarial Transferability by Block Shuffle and Rotation* (arXiv 2308.10299).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shuffle {
    /// Shuffled copies.
    pub copies: usize,
    /// Blocks along each axis.
    pub blocks: usize,
    /// The largest angle.
    pub degrees: f64,
}

/// Images with labels, of which those of another class than an attacked one are mixed into it. The authors' code mixes the images of a
/// batch, as far as they are attacked; a pool of clean images that is the same for all makes an image's result independent of its
/// batch.
#[derive(Debug, Clone)]
pub struct Pool {
    images: Arc<[(usize, RgbImage)]>,
    fingerprint: String,
}

impl Pool {
    /// Labels and images, of at least two classes.
    pub fn new(images: Vec<(usize, RgbImage)>) -> Option<Self> {
        let first = images.first()?.0;
        if images.iter().all(|(label, _)| *label == first) {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        for (label, image) in &images {
            hasher.update(&(*label as u64).to_le_bytes()).update(&(image.width() as u64).to_le_bytes());
            hasher.update(image.data());
        }
        Some(Self { images: images.into(), fingerprint: hasher.finalize().to_hex()[..16].to_owned() })
    }
}

impl PartialEq for Pool {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Serialize for Pool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{} images, {}", self.images.len(), self.fingerprint))
    }
}

impl Default for Views {
    fn default() -> Self {
        Self { scales: 1, diversity: None, admix: None, shuffle: None }
    }
}

/// What random numbers belong to, beside the image.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The attack's.
    pub seed: u64,
    /// The restart, from 0.
    pub restart: usize,
    /// The step, from 0.
    pub step: usize,
    /// Which gradient of the step, from 0.
    pub turn: usize,
}

impl Moment {
    /// Names the random numbers of an image.
    pub fn name(self, id: &str, copy: usize) -> String {
        let Self { restart, step, turn, .. } = self;
        format!("{id}\0{restart}\0{step}\0{turn}\0{copy}")
    }

    /// Uniform noise in [−radius, radius) for each pixel.
    pub fn uniform(self, purpose: &str, targets: &Targets, radius: f64) -> Tensor<4> {
        let of_image = |id: &String, size: usize| noise::uniform(purpose, self.seed, &self.name(id, 0), size);
        match targets.pixels.dtype() {
            DType::F32 => each_image(targets, |id, new: &mut [f32]| {
                let unit = of_image(id, new.len());
                new.iter_mut().zip(unit).for_each(|(new, unit)| *new = (radius * f64::from(unit)) as f32);
            }),
            _ => each_image(targets, |id, new: &mut [f64]| {
                let unit = of_image(id, new.len());
                new.iter_mut().zip(unit).for_each(|(new, unit)| *new = radius * f64::from(unit));
            }),
        }
    }

    /// Standard normal noise for each pixel, the one of that number.
    pub fn normal(self, purpose: &str, targets: &Targets, copy: usize) -> Tensor<4> {
        match targets.pixels.dtype() {
            DType::F32 => each_image(targets, |id, new: &mut [f32]| {
                new.copy_from_slice(&noise::normal_f32(purpose, self.seed, &self.name(id, copy), new.len()));
            }),
            _ => each_image(targets, |id, new: &mut [f64]| {
                new.copy_from_slice(&noise::normal(purpose, self.seed, &self.name(id, copy), new.len()));
            }),
        }
    }
}

/// A tensor like the targets' pixels, each image of which is filled by its id.
fn each_image<T: Element + Real>(targets: &Targets, fill: impl Fn(&String, &mut [T]) + Sync) -> Tensor<4> {
    let shape = targets.pixels.dims();
    let size = shape[1..].iter().product::<usize>().max(1);
    let mut values = vec![T::default(); shape.iter().product()];
    values.par_chunks_exact_mut(size).zip(&targets.ids).for_each(|(new, id)| fill(id, new));
    Tensor::from_data(TensorData::new(values, shape), (&targets.pixels.device(), targets.pixels.dtype()))
}

/// Where an image that is resized comes to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placing {
    /// Its height and width.
    pub resized: [usize; 2],
    /// The row and the column of its upper left corner.
    pub corner: [usize; 2],
}

/// What is drawn for the views of an image; tests put what the authors' code drew in this place.
pub(super) trait Choices: Sync {
    /// Where [`Diversity`] puts an image of that size; none where it leaves the image as it is.
    fn placing(&self, diversity: Diversity, moment: Moment, id: &str, copy: usize, size: [usize; 2])
    -> Option<Placing>;

    /// How [`Shuffle`] cuts an image of that size.
    fn blocks(&self, shuffle: Shuffle, moment: Moment, id: &str, copy: usize, size: [usize; 2]) -> Blocks;
}

/// As all attacks draw.
pub(super) struct Drawn;

impl Choices for Drawn {
    fn placing(
        &self,
        diversity: Diversity,
        moment: Moment,
        id: &str,
        copy: usize,
        size: [usize; 2],
    ) -> Option<Placing> {
        let mut random = noise::stream("netkin attack diversity", moment.seed, &moment.name(id, copy));
        diversity.draw(size, &mut random)
    }

    fn blocks(&self, shuffle: Shuffle, moment: Moment, id: &str, copy: usize, size: [usize; 2]) -> Blocks {
        let mut random = noise::stream("netkin attack shuffle", moment.seed, &moment.name(id, copy));
        Blocks::draw(size, shuffle.blocks, shuffle.degrees, &mut random)
    }
}

impl Views {
    /// How many views there are of an image.
    pub fn count(&self) -> usize {
        let copies = |copies: Option<usize>| copies.unwrap_or(1);
        let admixed = copies(self.admix.as_ref().map(|admix| admix.copies));
        self.scales * admixed * copies(self.shuffle.map(|shuffle| shuffle.copies))
    }

    /// The mean over all views at `point` of what `gradient` gives of a view; losses and logits are those of the first view.
    pub(super) fn mean(
        &self,
        targets: &Targets,
        point: &Tensor<4>,
        (moment, choices): (Moment, &dyn Choices),
        effort: &mut Effort,
        mut gradient: impl FnMut(Tensor<4>, &mut Effort) -> LossGradient,
    ) -> LossGradient {
        let mut mean: Option<LossGradient> = None;
        let count = self.count();
        let mut copy = 0;
        for shuffled in 0..self.shuffle.map_or(1, |shuffle| shuffle.copies) {
            let shuffle = self.shuffle.map(|shuffle| {
                self.warps(targets, point, |id, size| {
                    Some(Warp::shuffled(size, &choices.blocks(shuffle, moment, id, shuffled, size)))
                })
            });
            for mixed in 0..self.admix.as_ref().map_or(1, |admix| admix.copies) {
                let base = match &self.admix {
                    Some(admix) => point.clone() + admix.others(targets, moment, mixed).mul_scalar(admix.strength),
                    None => point.clone(),
                };
                for scale in 0..self.scales {
                    let scale = 0.5f64.powi(scale as i32);
                    let diversity = self.diversity.map(|diversity| {
                        self.warps(targets, point, |id, size| {
                            Some(diversity.warp(choices.placing(diversity, moment, id, copy, size)?, size))
                        })
                    });
                    let warps: Vec<&Vec<Option<Warp>>> = [&shuffle, &diversity].into_iter().flatten().collect();
                    let seen = warps.iter().fold(base.clone(), |seen, warps| through(seen, warps, false));
                    let scaled = |x: Tensor<4>| if scale == 1.0 { x } else { x.mul_scalar(scale) };
                    let mut found = gradient(scaled(seen), effort);
                    let scaled = scaled(found.gradient);
                    found.gradient = warps.iter().rev().fold(scaled, |back, warps| through(back, warps, true));
                    mean = Some(match mean {
                        None => found,
                        Some(mean) => LossGradient { gradient: mean.gradient + found.gradient, ..mean },
                    });
                    copy += 1;
                }
            }
        }
        let mut mean = mean.expect("there is a view");
        if count > 1 {
            mean.gradient = mean.gradient.mul_scalar(1.0 / count as f64);
        }
        mean
    }

    /// Of each image the map that its planes go through, none for one that stays as it is.
    fn warps(
        &self,
        targets: &Targets,
        point: &Tensor<4>,
        of_image: impl Fn(&str, [usize; 2]) -> Option<Warp> + Sync,
    ) -> Vec<Option<Warp>> {
        let [_, _, height, width] = point.dims();
        targets.ids.par_iter().map(|id| of_image(id, [height, width])).collect()
    }
}

impl Diversity {
    /// The smaller and the larger of the two sizes between which a random one lies.
    fn sizes(self, size: [usize; 2]) -> [[usize; 2]; 2] {
        let other = size.map(|side| (side as f64 * self.rate) as usize);
        if self.rate < 1.0 { [other, size] } else { [size, other] }
    }

    fn draw(self, size: [usize; 2], random: &mut Random) -> Option<Placing> {
        if random.unit() >= self.probability {
            return None;
        }
        let [small, large] = self.sizes(size);
        // The same relative size on both axes, as the authors' images are square.
        let share = random.unit();
        let resized = [0, 1].map(|axis| small[axis] + ((large[axis] - small[axis]) as f64 * share) as usize);
        let corner = [0, 1].map(|axis| random.below((large[axis] - resized[axis]).max(1)));
        Some(Placing { resized, corner })
    }

    fn warp(self, Placing { resized, corner }: Placing, size: [usize; 2]) -> Warp {
        let [_, canvas] = self.sizes(size);
        Warp::placed(size, resized, corner, canvas)
    }
}

impl Admix {
    /// An image of another class for each target, at the targets' size.
    fn others(&self, targets: &Targets, moment: Moment, copy: usize) -> Tensor<4> {
        let [_, _, height, width] = targets.pixels.dims();
        let of_image = |(id, &label): (&String, &usize)| {
            let others: Vec<&RgbImage> =
                self.pool.images.iter().filter(|(other, _)| *other != label).map(|(_, image)| image).collect();
            let mut random = noise::stream("netkin attack admix", moment.seed, &moment.name(id, copy));
            let image = others[random.below(others.len())];
            let is_size = (image.height(), image.width()) == (height, width);
            let pixels =
                if is_size { image.to_pixels() } else { resize(image, (width, height), Filter::Bicubic).to_pixels() };
            pixels.into_iter().map(f64::from)
        };
        let values: Vec<f64> = targets.ids.par_iter().zip(&targets.labels).flat_map_iter(of_image).collect();
        let pixels = &targets.pixels;
        Tensor::from_data(TensorData::new(values, pixels.dims()), (&pixels.device(), pixels.dtype()))
    }
}

/// The planes of each image through the image's map, or back through its transpose.
fn through(x: Tensor<4>, warps: &[Option<Warp>], back: bool) -> Tensor<4> {
    let [images, channels, _, _] = x.dims();
    // What the channels of an image share is found once if there are images enough for all threads.
    let per_image = if images < rayon::current_num_threads() { channels } else { 1 };
    mapped(x, images * per_image, &Through { warps, per_image, back })
}

struct Through<'a> {
    /// One for each image.
    warps: &'a [Option<Warp>],
    /// Parts of an image.
    per_image: usize,
    back: bool,
}

impl Map for Through<'_> {
    fn apply<T: Real>(&self, index: usize, part: &mut [T]) {
        let Some(warp) = &self.warps[index / self.per_image] else { return };
        let moved = if self.back { warp.transpose(part) } else { warp.apply(part) };
        part.copy_from_slice(&moved);
    }
}
