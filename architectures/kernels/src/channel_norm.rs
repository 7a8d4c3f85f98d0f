//! Layer normalisation over the channels of images.

use std::ops::Range;

use pulp::Simd;

use crate::array::{Array, Output, Pointer};
use crate::layer_norm::{parameter_gradients, three};
use crate::operation::{Operation, Saved};
use crate::vectors::{Body, Part, Partial, Scratch, Target, clear, each};

/// Layer normalisation over the channels of `[batch, channel, height, width]`, each place by itself.
///
/// Inputs: x, scale and shift `[channel]`. Gradients flow to all three.
#[derive(Debug, Clone, Copy)]
pub struct ChannelNorm {
    /// Added to the variance.
    pub epsilon: f64,
}

impl Operation for ChannelNorm {
    fn name(&self) -> &'static str {
        "channel norm"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let [x, scale, shift] = three(inputs);
        let places = Places::new(&x);
        let kept = keep.then(|| x.clone());
        let statistics_shape = [places.images, 2, places.places];
        let mut statistics = keep.then(|| Output::new(&statistics_shape));
        let target = Target::over(x);
        let body = PlacesForward {
            places,
            epsilon: self.epsilon as f32,
            from: target.from,
            to: target.to,
            scale: Pointer::reading(scale.values()),
            shift: Pointer::reading(shift.values()),
            statistics: statistics.as_mut().map(Output::pointer),
        };
        // SAFETY: every task writes to its own places, and all are written.
        unsafe {
            each(places.tasks(), places.work(), &body);
            let saved = match (kept, statistics) {
                (Some(x), Some(statistics)) => vec![x, scale, statistics.finish()],
                _ => vec![],
            };
            (target.finish(), saved)
        }
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let [x, scale, statistics] = three(saved);
        let places = Places::new(&x);
        let parameters = wanted[1] || wanted[2];
        let mut partial = parameters.then(|| Partial::new(places.tasks(), 2 * places.channels));
        let target = Target::over(gradient);
        let body = PlacesBackward {
            places,
            gradient: target.from,
            to: target.to,
            x: Pointer::reading(x.values()),
            scale: Pointer::reading(scale.values()),
            statistics: Pointer::reading(statistics.values()),
            partial: partial.as_mut().map(Partial::pointer),
        };
        // SAFETY: every task writes to its own places and sums, and all places are written.
        let gradient = unsafe {
            each(places.tasks(), places.work(), &body);
            target.finish()
        };
        let [to_scale, to_shift] = parameter_gradients(partial, scale.shape(), wanted);
        vec![Some(gradient), to_scale, to_shift]
    }
}

/// Vectors of places that go together, so that neighbouring cache lines of a channel are read one after the other.
const TOGETHER: usize = 4;

/// Places of a task: whole cache lines.
const PLACES: usize = 512;

#[derive(Debug, Clone, Copy)]
struct Places {
    images: usize,
    channels: usize,
    places: usize,
}

impl Places {
    fn new(x: &Array) -> Self {
        let [images, channels, height, width] = x.dims();
        Self { images, channels, places: height * width }
    }

    fn per_image(&self) -> usize {
        self.places.div_ceil(PLACES)
    }

    fn tasks(&self) -> usize {
        self.images * self.per_image()
    }

    fn work(&self) -> usize {
        self.images * self.channels * self.places
    }

    /// The first place of a channel.
    #[inline(always)]
    unsafe fn at(&self, pointer: Pointer, image: usize, channel: usize) -> *mut f32 {
        // SAFETY: the caller's promise that there is such a channel.
        unsafe { pointer.at((image * self.channels + channel) * self.places) }
    }

    /// A task's image and places.
    #[inline(always)]
    fn task(&self, task: usize) -> (usize, Range<usize>) {
        let start = task % self.per_image() * PLACES;
        (task / self.per_image(), start..(start + PLACES).min(self.places))
    }
}

/// Calls `body`, to be marked `#[inline(always)]`, with groups of parts of the range.
#[inline(always)]
fn groups<S: Simd>(_simd: S, range: Range<usize>, mut body: impl FnMut([Part; TOGETHER])) {
    let lanes = S::F32_LANES;
    let mut index = range.start;
    while index + TOGETHER * lanes <= range.end {
        body(std::array::from_fn(
            #[inline(always)]
            |number| Part { index: index + number * lanes, count: lanes },
        ));
        index += TOGETHER * lanes;
    }
    if index < range.end {
        body(std::array::from_fn(
            #[inline(always)]
            |number| {
                let index = index + number * lanes;
                let count = range.end.saturating_sub(index).min(lanes);
                Part { index, count }
            },
        ));
    }
}

struct PlacesForward {
    places: Places,
    epsilon: f32,
    from: Pointer,
    to: Pointer,
    scale: Pointer,
    shift: Pointer,
    statistics: Option<Pointer>,
}

impl Body for PlacesForward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let Places { channels, places, .. } = self.places;
        let per_channel = simd.splat_f32s(1.0 / channels as f32);
        let one = simd.splat_f32s(1.0);
        let zeros = [simd.splat_f32s(0.0); TOGETHER];
        for task in range {
            let (image, range) = self.places.task(task);
            groups(
                simd,
                range,
                #[inline(always)]
                |group| {
                    // SAFETY: the places are within the image and belong to this task.
                    unsafe {
                        let mut mean = zeros;
                        for channel in 0..channels {
                            let from = self.places.at(self.from, image, channel);
                            for (mean, part) in mean.iter_mut().zip(group) {
                                *mean = simd.add_f32s(*mean, part.load(simd, from));
                            }
                        }
                        for mean in &mut mean {
                            *mean = simd.mul_f32s(*mean, per_channel);
                        }
                        let mut inverse = zeros;
                        for channel in 0..channels {
                            let from = self.places.at(self.from, image, channel);
                            for number in 0..TOGETHER {
                                let x = group[number].load(simd, from);
                                let centred = simd.sub_f32s(x, mean[number]);
                                inverse[number] = simd.mul_add_f32s(centred, centred, inverse[number]);
                            }
                        }
                        let epsilon = simd.splat_f32s(self.epsilon);
                        for inverse in &mut inverse {
                            let variance = simd.mul_add_f32s(*inverse, per_channel, epsilon);
                            *inverse = simd.div_f32s(one, simd.sqrt_f32s(variance));
                        }
                        for channel in 0..channels {
                            let (from, to) =
                                (self.places.at(self.from, image, channel), self.places.at(self.to, image, channel));
                            let scale = simd.splat_f32s(*self.scale.at(channel));
                            let shift = simd.splat_f32s(*self.shift.at(channel));
                            for number in 0..TOGETHER {
                                let part = group[number];
                                let centred = simd.sub_f32s(part.load(simd, from), mean[number]);
                                let normal = simd.mul_f32s(centred, inverse[number]);
                                part.store(simd, to, simd.mul_add_f32s(normal, scale, shift));
                            }
                        }
                        if let Some(statistics) = self.statistics {
                            for number in 0..TOGETHER {
                                let to = statistics.at(2 * image * places);
                                group[number].store(simd, to, mean[number]);
                                group[number].store(simd, to.add(places), inverse[number]);
                            }
                        }
                    }
                },
            );
        }
    }
}

struct PlacesBackward {
    places: Places,
    gradient: Pointer,
    to: Pointer,
    x: Pointer,
    scale: Pointer,
    statistics: Pointer,
    partial: Option<Pointer>,
}

impl Body for PlacesBackward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let channels = self.places.channels;
        for task in range {
            let Some(partial) = self.partial else {
                // SAFETY: the task's own promise.
                unsafe { self.task(simd, task, None) };
                continue;
            };
            // The parameters' sums, one per lane.
            let lanes = S::F32_LANES;
            let len = 2 * channels * lanes;
            let scratch = Scratch::new([len]);
            let [sums] = scratch.pieces;
            // SAFETY: as long as was asked for; the task's own promise.
            unsafe {
                clear(sums, len);
                self.task(simd, task, Some(sums));
                let sums = std::slice::from_raw_parts(sums, len);
                for (index, lanes) in sums.chunks_exact(lanes).enumerate() {
                    *partial.at(task * 2 * channels + index) = lanes.iter().sum();
                }
            }
        }
    }
}

impl PlacesBackward {
    #[inline(always)]
    unsafe fn task<S: Simd>(&self, simd: S, task: usize, sums: Option<*mut f32>) {
        let Places { channels, places, .. } = self.places;
        let per_channel = simd.splat_f32s(1.0 / channels as f32);
        let zeros = [simd.splat_f32s(0.0); TOGETHER];
        let lanes = S::F32_LANES;
        let (image, range) = self.places.task(task);
        groups(
            simd,
            range,
            #[inline(always)]
            |group| {
                // SAFETY: the places are within the image and belong to this task.
                unsafe {
                    let statistics = self.statistics.at(2 * image * places);
                    let (mut mean, mut inverse) = (zeros, zeros);
                    for number in 0..TOGETHER {
                        mean[number] = group[number].load(simd, statistics);
                        inverse[number] = group[number].load(simd, statistics.add(places));
                    }
                    let (mut sum, mut aligned) = (zeros, zeros);
                    for channel in 0..channels {
                        let (gradient, x) =
                            (self.places.at(self.gradient, image, channel), self.places.at(self.x, image, channel));
                        let scale = simd.splat_f32s(*self.scale.at(channel));
                        let (mut of_scale, mut of_shift) = (zeros[0], zeros[0]);
                        for number in 0..TOGETHER {
                            let part = group[number];
                            let gradient = part.load(simd, gradient);
                            let centred = simd.sub_f32s(part.load(simd, x), mean[number]);
                            let normal = simd.mul_f32s(centred, inverse[number]);
                            let scaled = simd.mul_f32s(gradient, scale);
                            sum[number] = simd.add_f32s(sum[number], scaled);
                            aligned[number] = simd.mul_add_f32s(scaled, normal, aligned[number]);
                            if sums.is_some() {
                                of_scale = simd.mul_add_f32s(gradient, normal, of_scale);
                                of_shift = simd.add_f32s(gradient, of_shift);
                            }
                        }
                        if let Some(sums) = sums {
                            for (index, values) in [(channel, of_scale), (channels + channel, of_shift)] {
                                let index = index * lanes;
                                let whole = Part { index, count: lanes };
                                let so_far = whole.load(simd, sums);
                                whole.store(simd, sums, simd.add_f32s(so_far, values));
                            }
                        }
                    }
                    for number in 0..TOGETHER {
                        sum[number] = simd.mul_f32s(sum[number], per_channel);
                        aligned[number] = simd.mul_f32s(aligned[number], per_channel);
                    }
                    for channel in 0..channels {
                        let (gradient, x) =
                            (self.places.at(self.gradient, image, channel), self.places.at(self.x, image, channel));
                        let to = self.places.at(self.to, image, channel);
                        let scale = simd.splat_f32s(*self.scale.at(channel));
                        for number in 0..TOGETHER {
                            let part = group[number];
                            let centred = simd.sub_f32s(part.load(simd, x), mean[number]);
                            let normal = simd.mul_f32s(centred, inverse[number]);
                            let scaled = simd.mul_f32s(part.load(simd, gradient), scale);
                            let rest = simd.sub_f32s(scaled, sum[number]);
                            let rest = simd.negate_mul_add_f32s(normal, aligned[number], rest);
                            part.store(simd, to, simd.mul_f32s(rest, inverse[number]));
                        }
                    }
                }
            },
        );
    }
}
