//! Convolution in groups of few channels.
//!
//! The planes of a group are copied between zeros, so that each is one long row in which every tap looks a fixed way ahead
//! (see [`Padded::by_planes`]). A few output channels at a few vectors of places are kept in registers while all taps of all
//! input channels pass; what is computed in the gaps between the rows is thrown away. The gradient of the input is such a
//! convolution of the output's gradient, for each residue of the input's place modulo the stride.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Geometry;
use super::finish::{Finish, Outputs};
use crate::activation::Activation;
use crate::array::{Array, Output, Pointer};
use crate::fold::Fold;
use crate::padded::{Axis, Padded, Scratch, interleave};
use crate::{parallel, simd};

/// act(scale·(weight ∗ x) + shift + residual), and the activation's slope, if it is to be kept and the activation keeps it.
pub(crate) fn forward(
    geometry: &Geometry,
    x: &Array,
    weight: &Array,
    fold: &Fold,
    residual: Option<&Array>,
    activation: Activation,
    keep: bool,
) -> (Array, Option<Array>) {
    let mut made = Outputs::new(geometry, activation, keep);
    let [inputs, outputs] = [geometry.inputs, geometry.outputs].map(|all| all / geometry.groups);
    let taps = geometry.kernel[0] * geometry.kernel[1];
    let [rows, columns] = geometry.forward_axes();
    Groups {
        batch: geometry.batch,
        groups: geometry.groups,
        channels: [inputs, outputs],
        padded: Padded::by_planes(&rows, &columns),
        rows,
        columns,
        kernel: geometry.kernel,
        from: x.values(),
        weight: weight.values(),
        weight_steps: [taps, inputs * taps],
        scale_before: None,
        scale: fold.scale.as_deref(),
        shift: Some(&fold.shift),
        finish: made.finish_with(activation, residual),
    }
    .run(geometry.work());
    // SAFETY: all planes were computed.
    unsafe { made.into_arrays() }
}

/// The gradient of x, from that of scale·(weight ∗ x).
pub(crate) fn input_gradient(geometry: &Geometry, gradient: &Array, weight: &Array, scale: Option<&[f32]>) -> Array {
    let mut output = Output::new(&geometry.input_shape());
    let [inputs, outputs] = [geometry.inputs, geometry.outputs].map(|all| all / geometry.groups);
    let taps = geometry.kernel[0] * geometry.kernel[1];
    let [rows, columns] = geometry.backward_axes();
    Groups {
        batch: geometry.batch,
        groups: geometry.groups,
        channels: [outputs, inputs],
        padded: Padded::by_planes(&rows, &columns),
        rows,
        columns,
        kernel: geometry.kernel,
        from: gradient.values(),
        weight: weight.values(),
        weight_steps: [inputs * taps, taps],
        scale_before: scale,
        scale: None,
        shift: None,
        finish: Finish::plain(output.pointer()),
    }
    .run(geometry.work());
    // SAFETY: all planes were computed.
    unsafe { output.finish() }
}

/// The gradient of the weights, from that of weight ∗ x.
pub(crate) fn weight_gradient(geometry: &Geometry, x: &Array, gradient: &Array) -> Array {
    let [inputs, outputs] = [geometry.inputs, geometry.outputs].map(|all| all / geometry.groups);
    let mut output = Output::new(&[geometry.outputs, inputs, geometry.kernel[0], geometry.kernel[1]]);
    let to = output.pointer();
    let [rows, columns] = geometry.forward_axes();
    let padded = Padded::by_planes(&rows, &columns);
    let taps: Vec<usize> = (0..inputs)
        .flat_map(|channel| {
            let taps = taps_of(&padded, &rows.phases[0], &columns.phases[0], geometry.kernel[1]);
            let start = channel * padded.len();
            taps.map(move |(_, offset)| start + offset).collect::<Vec<_>>()
        })
        .collect();
    let blocks = outputs.div_ceil(CHANNELS);
    parallel::for_each(geometry.groups * blocks, geometry.work(), |task| {
        let [group, block] = [task / blocks, task % blocks];
        simd::dispatch(WeightGradient {
            geometry,
            padded: &padded,
            taps: &taps,
            x: x.values(),
            gradient: gradient.values(),
            to,
            group,
            channels: block * CHANNELS..((block + 1) * CHANNELS).min(outputs),
        });
    });
    // SAFETY: all blocks of channels were computed.
    unsafe { output.finish() }
}

/// Output channels of a block.
const CHANNELS: usize = 4;
/// Vectors of a block where there are 32 registers, and where there are 16.
const VECTORS: usize = 6;
const FEW_VECTORS: usize = 3;
/// About so many places are computed before they are finished, so that they stay in the first-level cache.
const BAND: usize = 600;

/// Each tap of a phase's kernel and where it looks.
fn taps_of(
    padded: &Padded,
    rows: &[(usize, usize)],
    columns: &[(usize, usize)],
    width: usize,
) -> impl Iterator<Item = (usize, usize)> {
    rows.iter().flat_map(move |&(row_tap, row)| {
        columns.iter().map(move |&(tap, column)| (row_tap * width + tap, padded.index(row, column)))
    })
}

/// The convolution of all groups, forward or backward.
struct Groups<'a> {
    batch: usize,
    groups: usize,
    /// Of a group: those that are read, and those that are computed.
    channels: [usize; 2],
    rows: Axis,
    columns: Axis,
    padded: Padded,
    kernel: [usize; 2],
    from: &'a [f32],
    weight: &'a [f32],
    /// From one channel to the next, of those that are read and of those that are computed.
    weight_steps: [usize; 2],
    /// By channel that is read.
    scale_before: Option<&'a [f32]>,
    /// By channel that is computed.
    scale: Option<&'a [f32]>,
    shift: Option<&'a [f32]>,
    finish: Finish,
}

impl Groups<'_> {
    fn run(&self, work: usize) {
        // Of one phase, for each tap of each channel: where its weight is, and where it looks.
        let taps = |row_taps: &Vec<(usize, usize)>, column_taps: &Vec<(usize, usize)>| {
            let mut taps = Vec::new();
            for channel in 0..self.channels[0] {
                for (tap, offset) in taps_of(&self.padded, row_taps, column_taps, self.kernel[1]) {
                    let weight = channel * self.weight_steps[0] + tap;
                    taps.push([weight, channel * self.padded.len() + offset]);
                }
            }
            taps
        };
        let columns = &self.columns.phases;
        let phases: Vec<Vec<[usize; 2]>> = self
            .rows
            .phases
            .iter()
            .flat_map(|rows| columns.iter().map(move |columns| (rows, columns)))
            .map(|(rows, columns)| taps(rows, columns))
            .collect();
        parallel::for_ranges(self.batch * self.groups, 1, work, |range| {
            simd::dispatch(Task { groups: self, phases: &phases, range });
        });
    }
}

struct Task<'a> {
    groups: &'a Groups<'a>,
    phases: &'a [Vec<[usize; 2]>],
    range: Range<usize>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { groups, phases, range } = self;
        let mut copy = groups.padded.scratch(groups.channels[0]);
        let pitch = groups.padded.pitch();
        let band = (BAND / pitch).clamp(1, groups.rows.outputs(0));
        // Behind the last row a block of vectors may begin.
        let sums_pitch = band * pitch + VECTORS * S::F32_LANES;
        let mut sums = Scratch::new(groups.columns.phases.len() * CHANNELS * sums_pitch, 0.0);
        for group in range {
            let mut filled = 0;
            let mut row = 0;
            while row < groups.rows.outputs(0) {
                let rows = row..(row + band).min(groups.rows.outputs(0));
                // SAFETY: the group exists, and belongs to this task.
                unsafe {
                    let reach = groups.rows.reach(rows.end);
                    fill(simd, groups, group, &mut copy, filled..reach);
                    filled = reach;
                    compute(simd, groups, phases, group, rows, &copy, &mut sums);
                }
                row += band;
            }
        }
    }
}

/// Copies the group's planes.
#[inline(always)]
unsafe fn fill<S: Simd>(simd: S, groups: &Groups, group: usize, copy: &mut [f32], rows: Range<usize>) {
    let channels = groups.channels[0];
    let plane = groups.rows.source * groups.columns.source;
    for (channel, copy) in copy.chunks_exact_mut(groups.padded.len()).enumerate() {
        let from = &groups.from[(group * channels + channel) * plane..];
        let scale = groups.scale_before.map_or(1.0, |scale| scale[group % groups.groups * channels + channel]);
        // SAFETY: the plane and its copy have the size for it.
        unsafe { groups.padded.fill(simd, from, copy.as_mut_ptr(), rows.clone(), scale) };
    }
}

/// Computes and finishes these rows of every phase.
#[inline(always)]
unsafe fn compute<S: Simd>(
    simd: S,
    groups: &Groups,
    phases: &[Vec<[usize; 2]>],
    group: usize,
    rows: Range<usize>,
    copy: &[f32],
    sums: &mut [f32],
) {
    let [height, width] = [groups.rows.output, groups.columns.output];
    let pitch = groups.padded.pitch();
    let column_phases = groups.columns.phases.len();
    let row_phases = groups.rows.phases.len();
    let from = copy[rows.start * pitch..].as_ptr();
    let first = group % groups.groups * groups.channels[1];
    let sums_pitch = sums.len() / (column_phases * CHANNELS);
    let weight = groups.weight.len() / groups.groups;
    let weight = &groups.weight[group % groups.groups * weight..][..weight];
    for row_phase in 0..row_phases {
        let valid = groups.rows.outputs(row_phase).saturating_sub(rows.start).min(rows.len());
        if valid == 0 {
            continue;
        }
        let mut channel = 0;
        while channel < groups.channels[1] {
            let channels = match groups.channels[1] - channel {
                count @ 0..CHANNELS => count,
                _ => CHANNELS,
            };
            for phase in 0..column_phases {
                let block = Block {
                    from,
                    weight: weight[channel * groups.weight_steps[1]..].as_ptr(),
                    weight_step: groups.weight_steps[1],
                    taps: &phases[row_phase * column_phases + phase],
                    to: sums[phase * sums_pitch..].as_mut_ptr(),
                    to_pitch: column_phases * sums_pitch,
                    places: (valid - 1) * pitch + groups.columns.outputs(phase),
                };
                // SAFETY: the copy and the sums are large enough for these rows and a block of vectors.
                unsafe {
                    match channels {
                        1 => block.run::<S, 1>(simd),
                        2 => block.run::<S, 2>(simd),
                        3 => block.run::<S, 3>(simd),
                        _ => block.run::<S, CHANNELS>(simd),
                    }
                }
            }
            for index in 0..channels {
                let affine = groups.shift.map(|shift| {
                    let channel = first + channel + index;
                    let scale = groups.scale.map_or(1.0, |scale| scale[channel]);
                    [scale, shift[channel]].map(|value| simd.splat_f32s(value))
                });
                let sums = &sums[index * column_phases * sums_pitch..];
                let plane = (group * groups.channels[1] + channel + index) * height * width;
                for row in 0..valid {
                    let to = plane + ((rows.start + row) * row_phases + row_phase) * width;
                    let sums = &sums[row * pitch..];
                    if column_phases == 1 {
                        // Rows that come in order overwrite what the row before left there.
                        let end = plane + height * width;
                        let room = if row_phases == 1 { end - to } else { width };
                        // SAFETY: the row is in one of this task's planes.
                        unsafe {
                            groups.finish.row(simd, sums.as_ptr(), to, [width, room], affine);
                        }
                    } else {
                        // SAFETY: as above.
                        let to = unsafe { groups.finish.to.slice(to, width) };
                        interleave(sums, sums_pitch, column_phases, to);
                    }
                }
            }
            channel += channels;
        }
    }
}

/// Places of a few channels, and what they are computed from.
struct Block<'a> {
    from: *const f32,
    weight: *const f32,
    /// From one channel to the next.
    weight_step: usize,
    /// Where the weight is, and where it looks.
    taps: &'a [[usize; 2]],
    to: *mut f32,
    /// From one channel to the next.
    to_pitch: usize,
    places: usize,
}

impl Block<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const C: usize>(&self, simd: S) {
        let lanes = S::F32_LANES;
        let most = if lanes >= 16 { VECTORS } else { FEW_VECTORS };
        let vectors = self.places.div_ceil(lanes);
        let mut done = 0;
        while done < vectors {
            let count = most.min(vectors - done);
            // SAFETY: the caller's promise.
            unsafe {
                match count {
                    1 => self.sums::<S, C, 1>(simd, done * lanes),
                    2 => self.sums::<S, C, 2>(simd, done * lanes),
                    3 => self.sums::<S, C, 3>(simd, done * lanes),
                    4 => self.sums::<S, C, 4>(simd, done * lanes),
                    5 => self.sums::<S, C, 5>(simd, done * lanes),
                    _ => self.sums::<S, C, VECTORS>(simd, done * lanes),
                }
            }
            done += count;
        }
    }

    #[inline(always)]
    unsafe fn sums<S: Simd, const C: usize, const V: usize>(&self, simd: S, place: usize) {
        let mut sums = [[simd.splat_f32s(0.0); V]; C];
        let from = self.from.wrapping_add(place);
        for &[weight, offset] in self.taps {
            // SAFETY: the caller's promise.
            unsafe {
                let mut x = [simd.splat_f32s(0.0); V];
                for (index, x) in x.iter_mut().enumerate() {
                    *x = simd::load(simd, from.add(offset + index * S::F32_LANES));
                }
                for (channel, sums) in sums.iter_mut().enumerate() {
                    let weight = *self.weight.add(channel * self.weight_step + weight);
                    let weight = simd.splat_f32s(weight);
                    for (sum, &x) in sums.iter_mut().zip(&x) {
                        *sum = simd.mul_add_f32s(x, weight, *sum);
                    }
                }
            }
        }
        for (channel, sums) in sums.into_iter().enumerate() {
            for (index, sum) in sums.into_iter().enumerate() {
                let to = channel * self.to_pitch + place + index * S::F32_LANES;
                // SAFETY: the caller's promise.
                unsafe { simd::store(simd, self.to.add(to), sum) };
            }
        }
    }
}

struct WeightGradient<'a> {
    geometry: &'a Geometry,
    padded: &'a Padded,
    /// Where the taps of all channels look.
    taps: &'a [usize],
    x: &'a [f32],
    gradient: &'a [f32],
    to: Pointer,
    group: usize,
    /// Of the group's outputs.
    channels: Range<usize>,
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Geometry { batch, groups, input, output: [height, width], .. } = *self.geometry;
        let [inputs, outputs] = [self.geometry.inputs, self.geometry.outputs].map(|all| all / groups);
        let pitch = self.padded.pitch();
        // The gradient's rows as far apart as those of the copy, with zeros between.
        let places = (height * pitch).next_multiple_of(S::F32_LANES);
        let count = self.channels.len();
        let mut copy = self.padded.scratch(inputs);
        let mut gradient = Scratch::new(count * places, 0.0);
        let mut sums = vec![simd.splat_f32s(0.0); count * self.taps.len()];
        for image in 0..batch {
            let group = image * groups + self.group;
            for (channel, copy) in copy.chunks_exact_mut(self.padded.len()).enumerate() {
                let x = &self.x[(group * inputs + channel) * input[0] * input[1]..];
                // SAFETY: the plane and its copy have the size for it.
                unsafe { self.padded.fill(simd, x, copy.as_mut_ptr(), 0..usize::MAX, 1.0) };
            }
            for (channel, to) in self.channels.clone().zip(gradient.chunks_exact_mut(places)) {
                let from = &self.gradient[(group * outputs + channel) * height * width..];
                for (to, from) in to.chunks_mut(pitch).zip(from.chunks_exact(width)).take(height) {
                    to[..width].copy_from_slice(from);
                }
            }
            let pair = Pair { copy: copy.as_ptr(), gradient: gradient.as_ptr(), places };
            for (taps, sums) in self.taps.chunks(TAPS).zip(sums.chunks_mut(TAPS * count)) {
                // SAFETY: the copy is large enough for every tap.
                unsafe {
                    match (count, taps.len()) {
                        (CHANNELS, TAPS) => pair.correlate::<S, CHANNELS, TAPS>(simd, taps, sums),
                        (CHANNELS, _) => pair.one_by_one::<S, CHANNELS>(simd, taps, sums),
                        (3, _) => pair.one_by_one::<S, 3>(simd, taps, sums),
                        (2, _) => pair.one_by_one::<S, 2>(simd, taps, sums),
                        _ => pair.one_by_one::<S, 1>(simd, taps, sums),
                    }
                }
            }
        }
        let first = self.group * outputs + self.channels.start;
        for (index, &sum) in sums.iter().enumerate() {
            let [tap, channel] = [index / count, index % count];
            // SAFETY: the channels belong to this task.
            unsafe {
                *self.to.at((first + channel) * self.taps.len() + tap) = simd.reduce_sum_f32s(sum);
            }
        }
    }
}

/// Taps of a block for the gradient of the weights.
const TAPS: usize = 6;

/// The copies of a group's planes and of some gradients.
struct Pair {
    copy: *const f32,
    gradient: *const f32,
    /// Values of a gradient.
    places: usize,
}

impl Pair {
    #[inline(always)]
    unsafe fn one_by_one<S: Simd, const C: usize>(&self, simd: S, taps: &[usize], sums: &mut [S::f32s]) {
        for (tap, sums) in taps.chunks_exact(1).zip(sums.chunks_exact_mut(C)) {
            // SAFETY: the caller's promise.
            unsafe { self.correlate::<S, C, 1>(simd, tap, sums) };
        }
    }

    /// Adds, for every tap and channel, the products of the gradient with what the tap sees.
    #[inline(always)]
    unsafe fn correlate<S: Simd, const C: usize, const N: usize>(&self, simd: S, taps: &[usize], sums: &mut [S::f32s]) {
        let taps: [usize; N] = std::array::from_fn(|tap| taps[tap]);
        let mut local: [[S::f32s; C]; N] =
            std::array::from_fn(|tap| std::array::from_fn(|channel| sums[tap * C + channel]));
        for place in (0..self.places).step_by(S::F32_LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let mut gradients = [simd.splat_f32s(0.0); C];
                for (channel, gradient) in gradients.iter_mut().enumerate() {
                    let from = self.gradient.add(channel * self.places + place);
                    *gradient = simd::load(simd, from);
                }
                for (tap, sums) in taps.iter().zip(&mut local) {
                    let x = simd::load(simd, self.copy.add(tap + place));
                    for (gradient, sum) in gradients.iter().zip(sums) {
                        *sum = simd.mul_add_f32s(x, *gradient, *sum);
                    }
                }
            }
        }
        for (sums, local) in sums.chunks_exact_mut(C).zip(local) {
            sums.copy_from_slice(&local);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Functions, cases, check};
    use super::*;

    const GROUPED: Functions = Functions { forward, input_gradient, weight_gradient };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn is_what_burn_computes(
            mut case in cases(5),
            groups in 1..5usize,
            channels in prop::array::uniform2(1..11usize),
        ) {
            case.groups = groups;
            case.channels = channels;
            check(&GROUPED, case);
        }
    }
}
