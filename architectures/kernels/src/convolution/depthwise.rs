//! Convolution of each channel with a kernel of its own.
//!
//! A plane is copied between zeros. Then a block of a few output rows and one vector of columns is kept in registers while
//! the kernel's columns pass: a vector of the input is loaded once for all output rows that it reaches. The gradient of the
//! input is such a convolution of the output's gradient: with stride 1 by the turned kernel, else one for each residue of
//! the input's place modulo the stride, by the taps that reach this residue.

use pulp::{Simd, WithSimd};

use super::Geometry;
use super::finish::{Direct, Finish, Outputs};
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
    let finish = made.finish_with(activation, residual);
    let scale = fold.scale.as_deref();
    let [rows, columns] = geometry.forward_axes();
    let planes = Planes::new(geometry, rows, columns, x, weight, scale, Some(&fold.shift), finish);
    planes.run(geometry.work());
    // SAFETY: all planes were computed.
    unsafe { made.into_arrays() }
}

/// The gradient of x, from that of scale·(weight ∗ x).
pub(crate) fn input_gradient(geometry: &Geometry, gradient: &Array, weight: &Array, scale: Option<&[f32]>) -> Array {
    let mut output = Output::new(&geometry.input_shape());
    let finish = Finish::plain(output.pointer());
    let [rows, columns] = geometry.backward_axes();
    let planes = Planes::new(geometry, rows, columns, gradient, weight, scale, None, finish);
    planes.run(geometry.work());
    // SAFETY: all planes were computed.
    unsafe { output.finish() }
}

/// The gradient of the weights, from that of weight ∗ x.
pub(crate) fn weight_gradient(geometry: &Geometry, x: &Array, gradient: &Array) -> Array {
    let [rows, columns] = geometry.kernel;
    let mut output = Output::new(&[geometry.outputs, 1, rows, columns]);
    let to = output.pointer();
    let [row_axis, column_axis] = geometry.forward_axes();
    let padded =
        Padded::by_rows(&row_axis, &column_axis, [geometry.output[0], geometry.output[1].next_multiple_of(LANES)]);
    let taps: Vec<usize> = row_axis.phases[0]
        .iter()
        .flat_map(|&(_, row)| column_axis.phases[0].iter().map(move |&(_, column)| (row, column)))
        .map(|(row, column)| padded.index(row, column))
        .collect();
    parallel::for_ranges(geometry.outputs, 1, geometry.work(), |channels| {
        simd::dispatch(WeightGradient {
            geometry,
            padded: &padded,
            taps: &taps,
            x: x.values(),
            gradient: gradient.values(),
            to,
            channels,
        });
    });
    // SAFETY: all channels were computed.
    unsafe { output.finish() }
}

/// Rows of a block: as many as divide the usual maps, 7, 14, 28, 56, and fewer for what remains.
const BLOCK: usize = 7;
const SMALL_BLOCK: usize = 4;
/// Of the widest vector.
const LANES: usize = 16;

/// The convolution of many planes, forward or backward.
struct Planes<'a> {
    channels: usize,
    count: usize,
    rows: Axis,
    columns: Axis,
    padded: Padded,
    /// By the output's phase, rows first.
    parts: Vec<Part>,
    kernel: [usize; 2],
    from: &'a [f32],
    weight: &'a [f32],
    scale: Option<&'a [f32]>,
    shift: Option<&'a [f32]>,
    finish: Finish,
}

/// What the outputs of one phase take.
struct Part {
    /// The kernel's taps, column after column.
    taps: Vec<usize>,
    /// Where in the copy they look, from the output's place.
    row_offsets: Vec<usize>,
    column_offsets: Vec<usize>,
    /// How many rows the kernel has, if they follow one another; else 0.
    dense: usize,
}

impl<'a> Planes<'a> {
    #[allow(clippy::too_many_arguments)]
    fn new(
        geometry: &Geometry,
        rows: Axis,
        columns: Axis,
        from: &'a Array,
        weight: &'a Array,
        scale: Option<&'a [f32]>,
        shift: Option<&'a [f32]>,
        finish: Finish,
    ) -> Self {
        let computed = [rows.outputs(0).max(BLOCK), columns.outputs(0).max(LANES)];
        let padded = Padded::by_rows(&rows, &columns, computed);
        let mut parts = Vec::new();
        for row_taps in &rows.phases {
            for column_taps in &columns.phases {
                let follow = row_taps.windows(2).all(|pair| pair[1].1 == pair[0].1 + 1);
                let taps = column_taps
                    .iter()
                    .flat_map(|&(column, _)| row_taps.iter().map(move |&(row, _)| row * geometry.kernel[1] + column));
                parts.push(Part {
                    taps: taps.collect(),
                    row_offsets: row_taps.iter().map(|&(_, row)| padded.index(row, 0)).collect(),
                    column_offsets: column_taps.iter().map(|&(_, column)| padded.index(0, column)).collect(),
                    dense: if follow { row_taps.len() } else { 0 },
                });
            }
        }
        Self {
            channels: geometry.outputs,
            count: geometry.batch * geometry.outputs,
            rows,
            columns,
            padded,
            parts,
            kernel: geometry.kernel,
            from: from.values(),
            weight: weight.values(),
            scale,
            shift,
            finish,
        }
    }

    fn run(&self, work: usize) {
        parallel::for_ranges(self.count, 1, work, |range| {
            simd::dispatch(Task { planes: self, range });
        });
    }
}

struct Task<'a> {
    planes: &'a Planes<'a>,
    range: std::ops::Range<usize>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { planes, range } = self;
        let phases = planes.columns.phases.len();
        let mut copy = planes.padded.scratch(1);
        let mut sums = Scratch::new(phases * BLOCK * S::F32_LANES + LANES, 0.0);
        let mut taps = vec![0.0; planes.parts.len() * planes.kernel[0] * planes.kernel[1]];
        let end = range.end * planes.rows.output * planes.columns.output;
        for plane in range {
            // SAFETY: the plane exists, and belongs to this task, as do those up to the end.
            unsafe { convolve(simd, planes, plane, end, &mut copy, &mut sums, &mut taps) };
        }
    }
}

#[inline(always)]
unsafe fn convolve<S: Simd>(
    simd: S,
    planes: &Planes,
    plane: usize,
    end: usize,
    copy: &mut [f32],
    sums: &mut [f32],
    taps: &mut [f32],
) {
    let Planes { rows, columns, padded, parts, kernel, finish, .. } = planes;
    let channel = plane % planes.channels;
    let [height, width] = [rows.output, columns.output];
    let from = &planes.from[plane * rows.source * columns.source..];
    let to = plane * height * width;
    let kernel_size = kernel[0] * kernel[1];
    let kernel_at = &planes.weight[channel * kernel_size..][..kernel_size];
    let scale = planes.scale.map_or(1.0, |scale| scale[channel]);
    let shift = simd.splat_f32s(planes.shift.map_or(0.0, |shift| shift[channel]));
    for (part, taps) in parts.iter().zip(taps.chunks_exact_mut(kernel_size)) {
        for (to, &tap) in taps.iter_mut().zip(&part.taps) {
            *to = kernel_at[tap] * scale;
        }
    }
    let phases = [rows.phases.len(), columns.phases.len()];
    let counts = [rows.outputs(0), columns.outputs(0)];
    let lanes = S::F32_LANES;
    // Then rows come in order, and overwrite what the row before left where they begin.
    let ordered = phases[0] == 1;
    let direct = if phases == [1, 1] { finish.direct() } else { None };
    let mut filled = 0;
    let mut row = 0;
    while row < counts[0] {
        let block = if counts[0] - row > SMALL_BLOCK { BLOCK } else { SMALL_BLOCK };
        // The last block may compute some rows again.
        let first = row.min(counts[0].saturating_sub(block));
        row += block;
        let reach = rows.reach(first + block);
        // SAFETY: the plane and its copy have the size for it.
        unsafe { padded.fill(simd, from, copy.as_mut_ptr(), filled..reach, 1.0) };
        filled = reach;
        for row_phase in 0..phases[0] {
            let valid = rows.outputs(row_phase).saturating_sub(first).min(block);
            let mut column = 0;
            while column < counts[1] {
                let first_column = column.min(counts[1].saturating_sub(lanes));
                column += lanes;
                let place = padded.lead() + padded.index(first * rows.split, 0) + first_column;
                let to_place = to + first * width + first_column;
                let fits = counts[1] >= lanes || to_place + (block - 1) * width + lanes <= end;
                let direct = direct.filter(|_| fits && valid == block);
                for phase in 0..phases[1] {
                    let part = row_phase * phases[1] + phase;
                    let (to, to_pitch) = match direct {
                        // SAFETY: the rows and columns are in this task's planes.
                        Some(_) => (unsafe { finish.to.at(to_place) }, width),
                        None => (sums[phase * BLOCK * lanes..].as_mut_ptr(), lanes),
                    };
                    let from = copy[place..].as_ptr();
                    let view = View {
                        from,
                        pitch: padded.row_length(),
                        to,
                        to_pitch,
                        part: &parts[part],
                        taps: taps[part * kernel_size..].as_ptr(),
                        step: rows.split,
                        direct: direct.unwrap_or(Direct::Plain),
                    };
                    // SAFETY: the copy is large enough for a block and a vector at every place, and so are the sums.
                    unsafe {
                        match block {
                            BLOCK => view.compute::<S, BLOCK>(simd, shift),
                            _ => view.compute::<S, SMALL_BLOCK>(simd, shift),
                        }
                    }
                }
                if direct.is_some() {
                    continue;
                }
                for index in 0..valid {
                    let row = (first + index) * phases[0] + row_phase;
                    if phases[1] == 1 {
                        let place = to + row * width + first_column;
                        let count = lanes.min(width - first_column);
                        let room = if ordered { end - place } else { count };
                        // SAFETY: the outputs are in this task's plane.
                        unsafe {
                            let from = sums[index * lanes..].as_ptr();
                            finish.row(simd, from, place, [count, room], None);
                        }
                    } else {
                        let start = first_column * phases[1];
                        let count = (lanes * phases[1]).min(width - start);
                        // SAFETY: the outputs are in this task's plane.
                        let to = unsafe { finish.to.slice(to + row * width + start, count) };
                        interleave(&sums[index * lanes..], BLOCK * lanes, phases[1], to);
                    }
                }
            }
        }
    }
}

/// A block of one phase's outputs, and what it is computed from.
struct View<'a> {
    from: *const f32,
    /// From one row of the copy to the next.
    pitch: usize,
    to: *mut f32,
    to_pitch: usize,
    part: &'a Part,
    /// Column after column.
    taps: *const f32,
    /// Rows of the copy from one output row to the next.
    step: usize,
    direct: Direct,
}

impl View<'_> {
    #[inline(always)]
    unsafe fn compute<S: Simd, const R: usize>(&self, simd: S, start: S::f32s) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.part.dense, self.step) {
                (1, 1) => self.dense::<S, R, 1, 1>(simd, start),
                (2, 1) => self.dense::<S, R, 2, 1>(simd, start),
                (3, 1) => self.dense::<S, R, 3, 1>(simd, start),
                (4, 1) => self.dense::<S, R, 4, 1>(simd, start),
                (5, 1) => self.dense::<S, R, 5, 1>(simd, start),
                (6, 1) => self.dense::<S, R, 6, 1>(simd, start),
                (7, 1) => self.dense::<S, R, 7, 1>(simd, start),
                (9, 1) => self.dense::<S, R, 9, 1>(simd, start),
                (11, 1) => self.dense::<S, R, 11, 1>(simd, start),
                (3, 2) => self.dense::<S, R, 3, 2>(simd, start),
                (5, 2) => self.dense::<S, R, 5, 2>(simd, start),
                (7, 2) => self.dense::<S, R, 7, 2>(simd, start),
                _ => self.sparse::<S, R>(simd, start),
            }
        }
    }

    /// `K` neighbouring rows of the kernel, `STEP` rows from one output to the next.
    #[inline(always)]
    unsafe fn dense<S: Simd, const R: usize, const K: usize, const STEP: usize>(&self, simd: S, start: S::f32s) {
        let mut sums = [start; R];
        let mut taps = self.taps;
        let from = self.from.wrapping_add(self.part.row_offsets[0]);
        for &offset in &self.part.column_offsets {
            // SAFETY: the kernel has so many taps, the copy so many rows.
            unsafe {
                let mut splats = [start; K];
                for (tap, splat) in splats.iter_mut().enumerate() {
                    *splat = simd.splat_f32s(*taps.add(tap));
                }
                taps = taps.add(K);
                let mut from = from.add(offset);
                // Written out, so that all indices are known to the compiler and the sums stay in registers.
                macro_rules! rows {
                    ($($row:literal)*) => {$(
                        if $row < (R - 1) * STEP + K {
                            let x = simd::load(simd, from);
                            from = from.wrapping_add(self.pitch);
                            let mut output = 0;
                            while output < R {
                                if $row >= output * STEP && $row - output * STEP < K {
                                    let tap = splats[$row - output * STEP];
                                    sums[output] = simd.mul_add_f32s(x, tap, sums[output]);
                                }
                                output += 1;
                            }
                        }
                    )*};
                }
                rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
                let _ = from;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.store(simd, sums) };
    }

    /// Any rows of the kernel.
    #[inline(always)]
    unsafe fn sparse<S: Simd, const R: usize>(&self, simd: S, start: S::f32s) {
        let mut sums = [start; R];
        let mut taps = self.taps;
        for &column in &self.part.column_offsets {
            for &row in &self.part.row_offsets {
                // SAFETY: the kernel has so many taps, the copy so many rows.
                unsafe {
                    let tap = simd.splat_f32s(*taps);
                    taps = taps.add(1);
                    let from = self.from.add(row + column);
                    for (output, sum) in sums.iter_mut().enumerate() {
                        let x = simd::load(simd, from.add(output * self.step * self.pitch));
                        *sum = simd.mul_add_f32s(x, tap, *sum);
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.store(simd, sums) };
    }

    #[inline(always)]
    unsafe fn store<S: Simd, const R: usize>(&self, simd: S, sums: [S::f32s; R]) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.direct {
                Direct::Plain => {
                    for (row, &sum) in sums.iter().enumerate() {
                        simd::store(simd, self.to.add(row * self.to_pitch), sum);
                    }
                }
                Direct::Relu => {
                    for (row, &sum) in sums.iter().enumerate() {
                        let value = Activation::Relu.value(simd, sum);
                        simd::store(simd, self.to.add(row * self.to_pitch), value);
                    }
                }
                Direct::Relu6 => {
                    for (row, &sum) in sums.iter().enumerate() {
                        let value = Activation::Relu6.value(simd, sum);
                        simd::store(simd, self.to.add(row * self.to_pitch), value);
                    }
                }
            }
        }
    }
}

struct WeightGradient<'a> {
    geometry: &'a Geometry,
    padded: &'a Padded,
    /// Where each tap looks.
    taps: &'a [usize],
    x: &'a [f32],
    gradient: &'a [f32],
    to: Pointer,
    channels: std::ops::Range<usize>,
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Geometry { batch, outputs: channels, input, output, stride, .. } = *self.geometry;
        let [height, width] = output;
        let lanes = S::F32_LANES;
        let row = width.next_multiple_of(lanes);
        let mut copy = self.padded.scratch(1);
        let mut gradient = Scratch::new(height * row, 0.0);
        let mut sums = vec![simd.splat_f32s(0.0); self.taps.len()];
        for channel in self.channels.clone() {
            sums.fill(simd.splat_f32s(0.0));
            for image in 0..batch {
                let plane = image * channels + channel;
                let x = &self.x[plane * input[0] * input[1]..];
                // SAFETY: the plane and its copy have the size for it.
                unsafe { self.padded.fill(simd, x, copy.as_mut_ptr(), 0..usize::MAX, 1.0) };
                let source = &self.gradient[plane * height * width..][..height * width];
                for (to, from) in gradient.chunks_exact_mut(row).zip(source.chunks_exact(width)) {
                    to[..width].copy_from_slice(from);
                }
                let pair = Pair {
                    copy: copy[self.padded.lead()..].as_ptr(),
                    gradient: gradient.as_ptr(),
                    rows: height,
                    row,
                    step: stride[0] * self.padded.row_length(),
                };
                for (taps, sums) in self.taps.chunks(9).zip(sums.chunks_mut(9)) {
                    // SAFETY: the copy is large enough for every tap.
                    unsafe { pair.correlate(simd, taps, sums) };
                }
            }
            for (tap, &sum) in sums.iter().enumerate() {
                // SAFETY: the channel belongs to this task.
                unsafe {
                    *self.to.at(channel * self.taps.len() + tap) = simd.reduce_sum_f32s(sum);
                }
            }
        }
    }
}

/// A plane's copy and its gradient, rows filled up with zeros.
struct Pair {
    copy: *const f32,
    gradient: *const f32,
    rows: usize,
    /// Values of a row of the gradient.
    row: usize,
    /// Values of the copy from one row of outputs to the next.
    step: usize,
}

impl Pair {
    /// Adds, for every tap, the products of the gradient with what the tap sees.
    #[inline(always)]
    unsafe fn correlate<S: Simd>(&self, simd: S, taps: &[usize], sums: &mut [S::f32s]) {
        // SAFETY: the caller's promise.
        unsafe {
            match taps.len() {
                1 => self.correlate_some::<S, 1>(simd, taps, sums),
                2 => self.correlate_some::<S, 2>(simd, taps, sums),
                3 => self.correlate_some::<S, 3>(simd, taps, sums),
                4 => self.correlate_some::<S, 4>(simd, taps, sums),
                5 => self.correlate_some::<S, 5>(simd, taps, sums),
                6 => self.correlate_some::<S, 6>(simd, taps, sums),
                7 => self.correlate_some::<S, 7>(simd, taps, sums),
                8 => self.correlate_some::<S, 8>(simd, taps, sums),
                _ => self.correlate_some::<S, 9>(simd, taps, sums),
            }
        }
    }

    #[inline(always)]
    unsafe fn correlate_some<S: Simd, const N: usize>(&self, simd: S, taps: &[usize], sums: &mut [S::f32s]) {
        let taps: [usize; N] = std::array::from_fn(|tap| taps[tap]);
        let mut local: [S::f32s; N] = std::array::from_fn(|tap| sums[tap]);
        for row in 0..self.rows {
            for column in (0..self.row).step_by(S::F32_LANES) {
                // SAFETY: the caller's promise.
                unsafe {
                    let gradient = simd::load(simd, self.gradient.add(row * self.row + column));
                    let from = self.copy.add(row * self.step + column);
                    for (tap, sum) in taps.iter().zip(&mut local) {
                        let x = simd::load(simd, from.add(*tap));
                        *sum = simd.mul_add_f32s(gradient, x, *sum);
                    }
                }
            }
        }
        sums.copy_from_slice(&local);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Functions, cases, check};
    use super::*;

    const DEPTHWISE: Functions = Functions { forward, input_gradient, weight_gradient };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn is_what_burn_computes(mut case in cases(11), channels in 1..20usize) {
            case.groups = channels;
            case.channels = [1, 1];
            check(&DEPTHWISE, case);
        }
    }
}
