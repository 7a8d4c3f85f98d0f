//! The gradient to an image of three colours: too few rows for the matrix product of the other convolutions.
//!
//! As there, each parity of the place is reached by its own taps. Here a task is a row of places; it copies those rows of
//! the gradient that it needs, with zeros around them, and sums over (channel, tap) for four vectors of places and three
//! colours at once.

use std::cell::RefCell;

use pulp::{Simd, WithSimd};

use super::Geometry;
use crate::array::{Array, Output, Pointer};
use crate::{parallel, simd};

const COLOURS: usize = 3;
/// Vectors of places side by side.
const VECTORS: usize = 4;

/// Whether [`input_gradient`] computes it.
pub(crate) fn applies(geometry: &Geometry) -> bool {
    geometry.inputs == COLOURS && geometry.groups == 1 && !geometry.is_tiling()
}

/// A tap of the kernel as one parity sees it.
#[derive(Debug, Clone, Copy)]
struct Tap {
    /// From the place to the row and column of the gradient.
    row: isize,
    column: isize,
    /// In the kernel.
    index: usize,
}

/// See [`dense::input_gradient`](super::dense::input_gradient).
pub(crate) fn input_gradient(geometry: &Geometry, gradient: &Array, weight: &Array, scale: Option<&[f32]>) -> Array {
    let [row_stride, column_stride] = geometry.stride;
    let area = geometry.kernel[0] * geometry.kernel[1];
    let parities: Vec<Vec<Tap>> = (0..row_stride * column_stride)
        .map(|parity| {
            let rows = geometry.reaching(0, parity / column_stride);
            let columns = geometry.reaching(1, parity % column_stride);
            let tap = |(row, y): (usize, isize), (column, x): (usize, isize)| Tap {
                row: y,
                column: x,
                index: row * geometry.kernel[1] + column,
            };
            rows.iter().flat_map(|&row| columns.iter().map(move |&column| tap(row, column))).collect()
        })
        .collect();
    // For each parity `[channel, tap, colour]`.
    let values = weight.values();
    let weights: Vec<Vec<f32>> = parities
        .iter()
        .map(|taps| {
            let of_tap = |channel: usize, tap: &Tap| {
                let scale = scale.map_or(1.0, |scale| scale[channel]);
                std::array::from_fn::<f32, COLOURS, _>(|colour| {
                    scale * values[(channel * COLOURS + colour) * area + tap.index]
                })
            };
            (0..geometry.outputs).flat_map(|channel| taps.iter().flat_map(move |tap| of_tap(channel, tap))).collect()
        })
        .collect();
    let taps = || parities.iter().flatten();
    let reach = [
        taps().map(|tap| tap.row).min().unwrap_or(0),
        taps().map(|tap| tap.row).max().unwrap_or(0),
        taps().map(|tap| tap.column).min().unwrap_or(0),
        taps().map(|tap| tap.column).max().unwrap_or(0),
    ];
    let mut output = Output::new(&geometry.input_shape());
    let job = Job {
        geometry,
        gradient: gradient.values(),
        parities: &parities,
        weights: &weights,
        reach,
        to: output.pointer(),
    };
    let rows = geometry.input[0].div_ceil(row_stride);
    parallel::for_each(geometry.batch * rows, geometry.work() / 16, |task| {
        simd::dispatch(Row { job: &job, image: task / rows, row: task % rows });
    });
    // SAFETY: rows and parities together are the whole image.
    unsafe { output.finish() }
}

struct Job<'a> {
    geometry: &'a Geometry,
    gradient: &'a [f32],
    parities: &'a [Vec<Tap>],
    weights: &'a [Vec<f32>],
    /// The first and last row and the first and last column that taps reach to.
    reach: [isize; 4],
    to: Pointer,
}

/// As many rows of the image as the stride has.
struct Row<'a> {
    job: &'a Job<'a>,
    image: usize,
    row: usize,
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = RefCell::default();
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut scratch = SCRATCH.take();
        self.run(simd, &mut scratch);
        SCRATCH.set(scratch);
    }
}

impl Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, scratch: &mut Vec<f32>) {
        let Job { geometry, gradient, parities, weights, reach: [first_row, last_row, first_column, last_column], to } =
            *self.job;
        let [row_stride, column_stride] = geometry.stride;
        let [height, width] = geometry.input;
        let [gradient_rows, gradient_columns] = geometry.output;
        let places = width.div_ceil(column_stride);
        let step = VECTORS * S::F32_LANES;
        let padded = places.next_multiple_of(step);
        let line = padded + (last_column - first_column) as usize;
        let lines = (last_row - first_row + 1) as usize;
        let channels = geometry.outputs;
        scratch.clear();
        scratch.resize(channels * lines * line + COLOURS * padded, 0.0);
        let (copies, sums) = scratch.split_at_mut(channels * lines * line);
        for channel in 0..channels {
            let plane = (self.image * channels + channel) * gradient_rows * gradient_columns;
            for index in 0..lines {
                let row = self.row as isize + first_row + index as isize;
                if !(0..gradient_rows as isize).contains(&row) {
                    continue;
                }
                let from = plane + row as usize * gradient_columns;
                let source = &gradient[from..from + gradient_columns];
                let copy = &mut copies[(channel * lines + index) * line..][..line];
                // Column `c` of the gradient lies at `c − first_column`.
                let start = (-first_column).max(0) as usize;
                let skipped = first_column.max(0) as usize;
                let count = gradient_columns.saturating_sub(skipped).min(line - start);
                copy[start..start + count].copy_from_slice(&source[skipped..skipped + count]);
            }
        }
        for (parity, (taps, weights)) in parities.iter().zip(weights).enumerate() {
            let y = self.row * row_stride + parity / column_stride;
            if y >= height {
                continue;
            }
            for start in (0..padded).step_by(step) {
                let mut tile = [[simd.splat_f32s(0.0); VECTORS]; COLOURS];
                for channel in 0..channels {
                    let copy = channel * lines * line + start;
                    for (index, tap) in taps.iter().enumerate() {
                        let row = (tap.row - first_row) as usize;
                        let from = copy + row * line + (tap.column - first_column) as usize;
                        let factors = (channel * taps.len() + index) * COLOURS;
                        let mut values = [simd.splat_f32s(0.0); VECTORS];
                        // SAFETY: the copy is wide enough for every tap of every place.
                        unsafe {
                            for (vector, value) in values.iter_mut().enumerate() {
                                let at = copies.as_ptr().add(from + vector * S::F32_LANES);
                                *value = simd::load(simd, at);
                            }
                            for (colour, sums) in tile.iter_mut().enumerate() {
                                let factor = *weights.get_unchecked(factors + colour);
                                let factor = simd.splat_f32s(factor);
                                for (sum, &value) in sums.iter_mut().zip(&values) {
                                    *sum = simd.mul_add_e_f32s(factor, value, *sum);
                                }
                            }
                        }
                    }
                }
                for (colour, row) in tile.into_iter().enumerate() {
                    for (vector, sum) in row.into_iter().enumerate() {
                        let at = colour * padded + start + vector * S::F32_LANES;
                        // SAFETY: within the colour's padded row.
                        unsafe { simd::store(simd, sums[at..].as_mut_ptr(), sum) };
                    }
                }
            }
            let first = parity % column_stride;
            for colour in 0..COLOURS {
                let target = ((self.image * COLOURS + colour) * height + y) * width;
                // SAFETY: the row belongs to this task.
                let target = unsafe { to.slice(target, width) };
                let places = target.iter_mut().skip(first).step_by(column_stride);
                for (place, &sum) in places.zip(&sums[colour * padded..]) {
                    *place = sum;
                }
            }
        }
    }
}
