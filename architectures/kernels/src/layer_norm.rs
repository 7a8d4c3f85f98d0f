//! Layer normalisation (Ba et al. 2016): over the last axis, and over the channels of images.

use std::ops::Range;

use pulp::Simd;

use crate::array::{Array, Output, Pointer};
use crate::operation::{Operation, Saved};
use crate::vectors::{BLOCK, Body, Part, Partial, Scratch, Target, clear, each, over, parts, sums};

/// (x − mean) / √(variance + epsilon) · scale + shift over the last axis.
///
/// Inputs: x of any shape, scale and shift `[channel]` of the last axis' size. Gradients flow to all three.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// Added to the variance.
    pub epsilon: f64,
}

impl Operation for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let [x, scale, shift] = three(inputs);
        let columns = scale.values().len();
        assert_eq!(
            x.shape().last(),
            Some(&columns),
            "layer norm over the last axis"
        );
        let rows = x.values().len() / columns.max(1);
        let kept = keep.then(|| x.clone());
        let mut statistics = keep.then(|| Output::new(&[rows, 2]));
        let target = Target::over(x);
        let body = RowsForward {
            epsilon: self.epsilon as f32,
            columns,
            from: target.from,
            to: target.to,
            scale: Pointer::reading(scale.values()),
            shift: Pointer::reading(shift.values()),
            statistics: statistics.as_mut().map(Output::pointer),
        };
        // SAFETY: every row writes to itself, and all are written.
        unsafe {
            over(rows, columns, &body);
            let saved = match (kept, statistics) {
                (Some(x), Some(statistics)) => vec![x, scale, statistics.finish()],
                _ => vec![],
            };
            (target.finish(), saved)
        }
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let [x, scale, statistics] = three(saved);
        let columns = scale.values().len();
        let rows = x.values().len() / columns.max(1);
        let block = (BLOCK / columns.max(1)).max(1);
        let blocks = rows.div_ceil(block);
        let parameters = wanted[1] || wanted[2];
        let mut partial = parameters.then(|| Partial::new(blocks, 2 * columns));
        let target = Target::over(gradient);
        let body = RowsBackward {
            rows,
            columns,
            block,
            gradient: target.from,
            to: target.to,
            x: Pointer::reading(x.values()),
            scale: Pointer::reading(scale.values()),
            statistics: Pointer::reading(statistics.values()),
            partial: partial.as_mut().map(Partial::pointer),
        };
        // SAFETY: every block writes to its own rows and sums, and all rows are written.
        let gradient = unsafe {
            each(blocks, rows * columns, &body);
            target.finish()
        };
        let [to_scale, to_shift] = parameter_gradients(partial, scale.shape(), wanted);
        vec![Some(gradient), to_scale, to_shift]
    }
}

fn three(arrays: Vec<Array>) -> [Array; 3] {
    arrays.try_into().expect("three arrays")
}

/// Gradients to scale and shift from sums `[scale … shift …]`.
fn parameter_gradients(
    partial: Option<Partial>,
    shape: &[usize],
    wanted: &[bool],
) -> [Option<Array>; 2] {
    let Some(partial) = partial else {
        return [None, None];
    };
    let mut to_scale = partial.total();
    let to_shift = to_scale.split_off(to_scale.len() / 2);
    [
        wanted[1].then(|| Array::from_vec(to_scale, shape)),
        wanted[2].then(|| Array::from_vec(to_shift, shape)),
    ]
}

struct RowsForward {
    epsilon: f32,
    columns: usize,
    from: Pointer,
    to: Pointer,
    scale: Pointer,
    shift: Pointer,
    statistics: Option<Pointer>,
}

impl Body for RowsForward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let columns = self.columns;
        let count = columns as f32;
        for row in range {
            // SAFETY: the row is within the arrays and belongs to this task.
            unsafe {
                let from = self.from.at(row * columns).cast_const();
                let to = self.to.at(row * columns);
                let [sum] = sums(
                    simd,
                    columns,
                    #[inline(always)]
                    |[sum], part: Part| [simd.add_f32s(sum, part.load(simd, from))],
                );
                let mean = sum / count;
                let mean_lanes = simd.splat_f32s(mean);
                let [squares] = sums(
                    simd,
                    columns,
                    #[inline(always)]
                    |[sum], part: Part| {
                        let centred = simd.sub_f32s(part.load(simd, from), mean_lanes);
                        let centred = part.only(simd, centred, 0.0);
                        [simd.mul_add_f32s(centred, centred, sum)]
                    },
                );
                let inverse = 1.0 / (squares / count + self.epsilon).sqrt();
                let inverse_lanes = simd.splat_f32s(inverse);
                let scale = self.scale.at(0).cast_const();
                let shift = self.shift.at(0).cast_const();
                parts(
                    simd,
                    columns,
                    #[inline(always)]
                    |part| {
                        let centred = simd.sub_f32s(part.load(simd, from), mean_lanes);
                        let normal = simd.mul_f32s(centred, inverse_lanes);
                        let (scale, shift) = (part.load(simd, scale), part.load(simd, shift));
                        part.store(simd, to, simd.mul_add_f32s(normal, scale, shift));
                    },
                );
                if let Some(statistics) = self.statistics {
                    *statistics.at(2 * row) = mean;
                    *statistics.at(2 * row + 1) = inverse;
                }
            }
        }
    }
}

struct RowsBackward {
    rows: usize,
    columns: usize,
    /// Rows in a block.
    block: usize,
    gradient: Pointer,
    to: Pointer,
    x: Pointer,
    scale: Pointer,
    statistics: Pointer,
    partial: Option<Pointer>,
}

impl Body for RowsBackward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let columns = self.columns;
        let per_column = simd.splat_f32s(1.0 / columns as f32);
        for block in range {
            for row in block * self.block..((block + 1) * self.block).min(self.rows) {
                // SAFETY: the row is within the arrays and belongs to this task.
                unsafe {
                    let gradient = self.gradient.at(row * columns).cast_const();
                    let to = self.to.at(row * columns);
                    let x = self.x.at(row * columns).cast_const();
                    let scale = self.scale.at(0).cast_const();
                    let mean = simd.splat_f32s(*self.statistics.at(2 * row));
                    let inverse = simd.splat_f32s(*self.statistics.at(2 * row + 1));
                    let [sum, aligned] = sums(
                        simd,
                        columns,
                        #[inline(always)]
                        |[sum, aligned], part: Part| {
                            // Zero in lanes without values, because the gradient is.
                            let scaled =
                                simd.mul_f32s(part.load(simd, gradient), part.load(simd, scale));
                            let centred = simd.sub_f32s(part.load(simd, x), mean);
                            [
                                simd.add_f32s(sum, scaled),
                                simd.mul_add_f32s(scaled, centred, aligned),
                            ]
                        },
                    );
                    let sum = simd.mul_f32s(simd.splat_f32s(sum), per_column);
                    let aligned = simd.mul_f32s(simd.splat_f32s(aligned), per_column);
                    let aligned = simd.mul_f32s(aligned, inverse);
                    parts(
                        simd,
                        columns,
                        #[inline(always)]
                        |part| {
                            let gradient = part.load(simd, gradient);
                            let centred = simd.sub_f32s(part.load(simd, x), mean);
                            let normal = simd.mul_f32s(centred, inverse);
                            if let Some(partial) = self.partial {
                                let to_scale = partial.at(block * 2 * columns);
                                let to_shift = partial.at((block * 2 + 1) * columns);
                                let so_far = part.load(simd, to_scale);
                                let now = simd.mul_add_f32s(gradient, normal, so_far);
                                part.store(simd, to_scale, now);
                                let now = simd.add_f32s(part.load(simd, to_shift), gradient);
                                part.store(simd, to_shift, now);
                            }
                            let scaled = simd.mul_f32s(gradient, part.load(simd, scale));
                            let rest = simd.sub_f32s(scaled, sum);
                            let rest = simd.negate_mul_add_f32s(normal, aligned, rest);
                            part.store(simd, to, simd.mul_f32s(rest, inverse));
                        },
                    );
                }
            }
        }
    }
}

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
        Self {
            images,
            channels,
            places: height * width,
        }
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
        (
            task / self.per_image(),
            start..(start + PLACES).min(self.places),
        )
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
            |number| Part {
                index: index + number * lanes,
                count: lanes,
            },
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
        let Places {
            channels, places, ..
        } = self.places;
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
                                inverse[number] =
                                    simd.mul_add_f32s(centred, centred, inverse[number]);
                            }
                        }
                        let epsilon = simd.splat_f32s(self.epsilon);
                        for inverse in &mut inverse {
                            let variance = simd.mul_add_f32s(*inverse, per_channel, epsilon);
                            *inverse = simd.div_f32s(one, simd.sqrt_f32s(variance));
                        }
                        for channel in 0..channels {
                            let (from, to) = (
                                self.places.at(self.from, image, channel),
                                self.places.at(self.to, image, channel),
                            );
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
        let Places {
            channels, places, ..
        } = self.places;
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
                        let (gradient, x) = (
                            self.places.at(self.gradient, image, channel),
                            self.places.at(self.x, image, channel),
                        );
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
                            for (index, values) in
                                [(channel, of_scale), (channels + channel, of_shift)]
                            {
                                let index = index * lanes;
                                let whole = Part {
                                    index,
                                    count: lanes,
                                };
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
                        let (gradient, x) = (
                            self.places.at(self.gradient, image, channel),
                            self.places.at(self.x, image, channel),
                        );
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
