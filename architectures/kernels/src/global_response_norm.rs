//! Global response normalisation (Woo et al. 2023, ConvNeXt V2).

use std::ops::Range;

use pulp::Simd;

use crate::array::{Array, Pointer};
use crate::operation::{Operation, Saved};
use crate::vectors::{BLOCK, Body, Partial, Target, each, over, parts};

/// x · (relative · scale + 1) + shift over `[batch, height, width, channel]`, where a channel's strength is the square root
/// of its sum of squares over an image, and its relative strength that divided by (the channels' mean strength + epsilon).
///
/// Inputs: x, scale and shift `[channel]`. Gradients flow to all three; a channel that is zero everywhere has none through
/// its strength.
#[derive(Debug, Clone, Copy)]
pub struct GlobalResponseNorm {
    /// Added to the mean strength.
    pub epsilon: f64,
}

impl Operation for GlobalResponseNorm {
    fn name(&self) -> &'static str {
        "global response norm"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let [x, scale, shift]: [Array; 3] = inputs.try_into().expect("three arrays");
        let sizes = Sizes::new(&x);
        let kept = keep.then(|| x.clone());
        let target = Target::over(x);
        let (mut strengths, mut factors) = (Vec::new(), Vec::new());
        for images in sizes.groups() {
            // SAFETY: x holds these images, and the sums are made before anything is written over them.
            let squares = unsafe { sizes.sums(images.clone(), target.from, target.from) };
            for of_image in squares {
                let start = strengths.len();
                strengths.extend(of_image.iter().map(|[square, _]| square.sqrt()));
                let divisor = self.divisor(&strengths[start..]);
                let factor = |(&strength, scale)| strength / divisor * scale + 1.0;
                factors.extend(std::iter::zip(&strengths[start..], scale.values()).map(factor));
            }
            let body = Scaled {
                sizes,
                first: images.start * sizes.places,
                factors: &factors,
                summand: Summand::Shift(Pointer::reading(shift.values())),
                from: target.from,
                to: target.to,
            };
            // SAFETY: every place writes to itself, and all are written.
            unsafe { over(images.len() * sizes.places, sizes.channels, &body) };
        }
        // SAFETY: as said.
        let y = unsafe { target.finish() };
        let saved = kept.map_or(vec![], |x| {
            let shape = [sizes.images, sizes.channels];
            let [strengths, factors] =
                [strengths, factors].map(|values| Array::from_vec(values, &shape));
            vec![x, scale, strengths, factors]
        });
        (y, saved)
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let [x, scale, strengths, factors]: [Array; 4] = saved.try_into().expect("four arrays");
        let sizes = Sizes::new(&x);
        let channels = sizes.channels;
        let mut to_scale = vec![0.0; channels];
        let mut to_shift = vec![0.0; channels];
        // What x is multiplied by for the way through the strengths.
        let mut through_strengths = Vec::with_capacity(strengths.values().len());
        let mut strengths = strengths.values().chunks_exact(channels);
        let x = Pointer::reading(x.values());
        let target = Target::over(gradient);
        for images in sizes.groups() {
            // SAFETY: both hold these images, and the sums are made before anything is written over them.
            let sums = unsafe { sizes.sums(images.clone(), target.from, x) };
            for (sums, strengths) in sums.zip(&mut strengths) {
                let divisor = self.divisor(strengths);
                let mut through_mean = 0.0;
                for (channel, [aligned, sum]) in sums.iter().enumerate() {
                    let relative = strengths[channel] / divisor;
                    to_scale[channel] += relative * aligned;
                    to_shift[channel] += sum;
                    through_mean += relative * aligned * scale.values()[channel];
                }
                through_mean /= channels as f32;
                for (channel, [aligned, _]) in sums.iter().enumerate() {
                    let slope = (aligned * scale.values()[channel] - through_mean) / divisor;
                    through_strengths.push(match strengths[channel] {
                        0.0 => 0.0,
                        strength => slope / strength,
                    });
                }
            }
            let body = Scaled {
                sizes,
                first: images.start * sizes.places,
                factors: factors.values(),
                summand: Summand::Product(&through_strengths, x),
                from: target.from,
                to: target.to,
            };
            // SAFETY: as in the forward pass.
            unsafe { over(images.len() * sizes.places, channels, &body) };
        }
        vec![
            // SAFETY: as said.
            Some(unsafe { target.finish() }),
            wanted[1].then(|| Array::from_vec(to_scale, scale.shape())),
            wanted[2].then(|| Array::from_vec(to_shift, scale.shape())),
        ]
    }
}

impl GlobalResponseNorm {
    fn divisor(&self, strengths: &[f32]) -> f32 {
        let sum: f64 = strengths.iter().map(|&strength| f64::from(strength)).sum();
        (sum / strengths.len() as f64 + self.epsilon) as f32
    }
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    images: usize,
    places: usize,
    channels: usize,
}

impl Sizes {
    fn new(x: &Array) -> Self {
        let [images, height, width, channels] = x.dims();
        Self {
            images,
            places: height * width,
            channels,
        }
    }

    /// Places of a task.
    fn block(&self) -> usize {
        (BLOCK / self.channels.max(1)).max(1)
    }

    /// Images that are still in the cache when they are read for the second time.
    fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        const VALUES: usize = 1 << 20;
        let count = (VALUES / (self.places * self.channels).max(1)).max(1);
        let images = self.images;
        let end = move |start: usize| (start + count).min(images);
        (0..images)
            .step_by(count)
            .map(move |start| start..end(start))
    }

    /// For each of these images, and each of its channels, the sums of a · b and of a over the places.
    ///
    /// # Safety
    /// Both arrays must have these sizes.
    unsafe fn sums(
        &self,
        images: Range<usize>,
        a: Pointer,
        b: Pointer,
    ) -> impl Iterator<Item = Vec<[f32; 2]>> + use<> {
        let per_image = self.places.div_ceil(self.block());
        let mut partials: Vec<Partial> = images
            .clone()
            .map(|_| Partial::new(per_image, 2 * self.channels))
            .collect();
        let pointers: Vec<Pointer> = partials.iter_mut().map(Partial::pointer).collect();
        let body = ChannelSums {
            sizes: *self,
            first: images.start,
            block: self.block(),
            a,
            b,
            to: &pointers,
        };
        let work = images.len() * self.places * self.channels;
        // SAFETY: every block writes to its own sums.
        unsafe { each(images.len() * per_image, work, &body) };
        let channels = self.channels;
        partials.into_iter().map(move |partial| {
            let total = partial.total();
            let (products, sums) = total.split_at(channels);
            std::iter::zip(products, sums)
                .map(|(&a, &b)| [a, b])
                .collect()
        })
    }
}

struct ChannelSums<'a> {
    sizes: Sizes,
    /// The first image.
    first: usize,
    block: usize,
    a: Pointer,
    b: Pointer,
    /// Each image's sums.
    to: &'a [Pointer],
}

impl Body for ChannelSums<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let Sizes {
            places, channels, ..
        } = self.sizes;
        let per_image = places.div_ceil(self.block);
        for task in range {
            let (image, block) = (task / per_image, task % per_image);
            // SAFETY: the places are within the image, and the block's sums belong to this task.
            unsafe {
                let products = self.to[image].at(2 * block * channels);
                let sums = products.add(channels);
                for place in block * self.block..((block + 1) * self.block).min(places) {
                    let start = ((self.first + image) * places + place) * channels;
                    let (a, b) = (self.a.at(start), self.b.at(start));
                    parts(
                        simd,
                        channels,
                        #[inline(always)]
                        |part| {
                            let a = part.load(simd, a);
                            let so_far = part.load(simd, products);
                            let sum = simd.mul_add_f32s(a, part.load(simd, b), so_far);
                            part.store(simd, products, sum);
                            part.store(simd, sums, simd.add_f32s(a, part.load(simd, sums)));
                        },
                    );
                }
            }
        }
    }
}

/// What is added to the scaled values.
#[derive(Clone, Copy)]
enum Summand<'a> {
    /// One value per channel.
    Shift(Pointer),
    /// One factor per image and channel times another array.
    Product(&'a [f32], Pointer),
}

struct Scaled<'a> {
    sizes: Sizes,
    /// The first place.
    first: usize,
    /// One per image and channel.
    factors: &'a [f32],
    summand: Summand<'a>,
    from: Pointer,
    to: Pointer,
}

impl Body for Scaled<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let Sizes {
            places, channels, ..
        } = self.sizes;
        for place in self.first + range.start..self.first + range.end {
            let of_image = place / places * channels;
            // SAFETY: the place is within the arrays and belongs to this task.
            unsafe {
                let factors = self.factors.as_ptr().add(of_image);
                let (from, to) = (self.from.at(place * channels), self.to.at(place * channels));
                match self.summand {
                    Summand::Shift(shift) => {
                        let shift = shift.at(0);
                        parts(
                            simd,
                            channels,
                            #[inline(always)]
                            |part| {
                                let (x, factor) = (part.load(simd, from), part.load(simd, factors));
                                let y = simd.mul_add_f32s(x, factor, part.load(simd, shift));
                                part.store(simd, to, y);
                            },
                        );
                    }
                    Summand::Product(slopes, x) => {
                        let (slopes, x) = (slopes.as_ptr().add(of_image), x.at(place * channels));
                        parts(
                            simd,
                            channels,
                            #[inline(always)]
                            |part| {
                                let (x, slope) = (part.load(simd, x), part.load(simd, slopes));
                                let through = simd.mul_f32s(x, slope);
                                let gradient = part.load(simd, from);
                                let factor = part.load(simd, factors);
                                part.store(simd, to, simd.mul_add_f32s(gradient, factor, through));
                            },
                        );
                    }
                }
            }
        }
    }
}
