//! Dense 3×3 convolutions of stride 1 with a quarter of the multiplications (Lavin & Gray, *Fast Algorithms for Convolutional
//! Neural Networks*, arXiv 1509.09308, F(4×4, 3×3)).
//!
//! The output is cut into tiles of 4 × 4 places, each of which depends on 6 × 6 places of the input. For each of the 36 places
//! of the transformed tiles there is one matrix product over the channels; a task takes some tiles through all three
//! steps. Rounding is some ten times that of the plain sum.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Geometry;
use super::dense::cached;
use super::finish::{Finish, Outputs};
use super::source::Source;
use crate::activation::Activation;
use crate::array::{Array, Output, Pointer};
use crate::bf16::Unit;
use crate::fold::Fold;
use crate::gemm::{self, Left};
use crate::operation::Cache;
use crate::{parallel, simd, vectors};

/// Places of a tile of the output along one axis.
const TILE: usize = 4;
/// Places of the input that it depends on.
const WINDOW: usize = 6;
const PLACES: usize = WINDOW * WINDOW;

/// Transformed weights take four times the memory of the weights; above so many pairs of channels it is not worth it.
const MOST_WEIGHTS: usize = 256 * 256;
/// Below so many channels the transformations take longer than what they save.
const LEAST_CHANNELS: usize = 32;

/// Whether [`forward`] and [`input_gradient`] are the way to go, where weights stay what they are.
///
/// It computes in f32 alone, as its transformations would make too much of bf16's rounding. A quarter of the multiplications
/// takes less time than all of them twice as fast (AVX512-BF16), and more than all of them in AMX's tiles.
pub(crate) fn applies(geometry: &Geometry, unit: Option<Unit>) -> bool {
    unit != Some(Unit::Amx)
        && geometry.kernel == [3, 3]
        && geometry.stride == [1, 1]
        && geometry.dilation == [1, 1]
        && geometry.groups == 1
        && geometry.inputs.min(geometry.outputs) >= LEAST_CHANNELS
        && geometry.inputs * geometry.outputs <= MOST_WEIGHTS
        && geometry.padding.iter().all(|&padding| padding <= 2)
}

/// Transformed weights: for each of the 36 places, panels of a tile's rows of output channels, each `[input, row]`.
#[derive(Debug)]
struct Packed(Vec<f32>);

impl Packed {
    /// `weight` gives the 3 × 3 weights from an input to an output.
    fn new(inputs: usize, outputs: usize, weight: impl Fn(usize, usize) -> [f64; 9] + Sync) -> Self {
        const G: [[f64; 3]; WINDOW] = [
            [1.0 / 4.0, 0.0, 0.0],
            [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
            [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
            [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
            [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
            [0.0, 0.0, 1.0],
        ];
        let [height, _] = gemm::tile();
        let panels = outputs.div_ceil(height);
        let mut values = vec![0.0f32; PLACES * panels * inputs * height];
        let work = values.len();
        let to = Pointer::to(&mut values);
        parallel::for_each(outputs, work, |output| {
            for input in 0..inputs {
                let weight = weight(output, input);
                for place in 0..PLACES {
                    let (row, column) = (G[place / WINDOW], G[place % WINDOW]);
                    let mut sum = 0.0;
                    for tap in 0..9 {
                        sum += row[tap / 3] * weight[tap] * column[tap % 3];
                    }
                    let panel = place * panels + output / height;
                    let at = (panel * inputs + input) * height + output % height;
                    // SAFETY: each output channel is one task's.
                    unsafe { *to.at(at) = sum as f32 };
                }
            }
        });
        Self(values)
    }
}

/// See [`dense::forward`](super::dense::forward).
pub(crate) fn forward(
    geometry: &Geometry,
    [x, weight]: [&Array; 2],
    fold: &Fold,
    residual: Option<&Array>,
    activation: Activation,
    keep: bool,
    cache: &Cache,
) -> (Array, Option<Array>) {
    let &Geometry { inputs, outputs, .. } = geometry;
    let packed = cached(Some(cache), "forward", &[weight], || {
        Packed::new(inputs, outputs, |output, input| {
            let from = (output * inputs + input) * 9;
            std::array::from_fn(|tap| f64::from(weight.values()[from + tap]))
        })
    });
    let mut made = Outputs::new(geometry, activation, keep);
    product(&Job {
        batch: geometry.batch,
        inputs,
        outputs,
        from: geometry.input,
        to: geometry.output,
        padding: geometry.padding,
        values: Source::plain(x.values()),
        weights: &packed,
        fold: Some(fold),
        finish: made.finish_with(activation, residual),
    });
    // SAFETY: the tiles are the whole output.
    unsafe { made.into_arrays() }
}

/// See [`dense::input_gradient`](super::dense::input_gradient).
pub(crate) fn input_gradient(
    geometry: &Geometry,
    gradient: Source,
    weight: &Array,
    scale: Option<(&[f32], &[&Array])>,
    cache: &Cache,
) -> Array {
    let &Geometry { inputs, outputs, .. } = geometry;
    let mut sources = vec![weight];
    sources.extend(scale.iter().flat_map(|(_, sources)| sources.iter()));
    // A convolution of the gradient with the turned kernel.
    let packed = cached(Some(cache), "backward", &sources, || {
        Packed::new(outputs, inputs, |input, output| {
            let from = (output * inputs + input) * 9;
            let scale = scale.map_or(1.0, |(scale, _)| f64::from(scale[output]));
            std::array::from_fn(|tap| scale * f64::from(weight.values()[from + 8 - tap]))
        })
    });
    let mut output = Output::new(&geometry.input_shape());
    product(&Job {
        batch: geometry.batch,
        inputs: outputs,
        outputs: inputs,
        from: geometry.output,
        to: geometry.input,
        padding: geometry.padding.map(|padding| 2 - padding),
        values: gradient,
        weights: &packed,
        fold: None,
        finish: Finish::plain(output.pointer()),
    });
    // SAFETY: the tiles are the whole input.
    unsafe { output.finish() }
}

struct Job<'a> {
    batch: usize,
    inputs: usize,
    outputs: usize,
    from: [usize; 2],
    to: [usize; 2],
    padding: [usize; 2],
    values: Source<'a>,
    weights: &'a Packed,
    fold: Option<&'a Fold>,
    finish: Finish,
}

/// Tiles of a task; what they are transformed to stays in the caches.
const TILES: usize = 48;

fn product(job: &Job) {
    let [rows, columns] = job.to.map(|size| size.div_ceil(TILE));
    let tiles = job.batch * rows * columns;
    let threads = rayon::current_num_threads();
    let parts = tiles.div_ceil(TILES).next_multiple_of(threads).min(tiles);
    let work = tiles * job.inputs * job.outputs * PLACES / 16;
    parallel::for_each(parts, work, |part| {
        simd::dispatch(Part { job, tiles: tiles * part / parts..tiles * (part + 1) / parts });
    });
}

struct Part<'a> {
    job: &'a Job<'a>,
    tiles: Range<usize>,
}

/// Tiles side by side.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Of the task's tiles the first.
    column: usize,
    len: usize,
    image: usize,
    /// Of the first place of the first tile.
    y: usize,
    x: usize,
}

#[derive(Default)]
struct Scratch {
    /// `[row of a window, LINE]`.
    lines: Vec<f32>,
    runs: Vec<Run>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut scratch = SCRATCH.take();
        self.run(simd, &mut scratch);
        SCRATCH.set(scratch);
    }
}

/// A multiple of every vector.
const MOST_TILES: usize = 64;
/// Places of a window beyond those of its tile.
const OVERLAP: usize = WINDOW - TILE;
/// A line holds the tiles' own places side by side, and from here on, run by run, those beyond the last tile; between them is
/// room for what lies beyond the task's last tile.
const ENDS: usize = TILE * MOST_TILES + 16;
const LINE: usize = ENDS + OVERLAP * MOST_TILES;

impl Part<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, scratch: &mut Scratch) {
        let job = self.job;
        let count = self.tiles.len();
        let width = count.next_multiple_of(S::F32_LANES);
        assert!(width <= MOST_TILES, "a task has few tiles");
        let [height, most] = gemm::size::<S>();
        let outputs = job.outputs.next_multiple_of(height);
        // `[place, input, tile]` and `[place, output, tile]`.
        let memory = vectors::Scratch::new([PLACES * job.inputs * width, PLACES * outputs * width]);
        let [windows, products] = memory.pieces;
        scratch.lines.resize(WINDOW * LINE, 0.0);
        self.runs(&mut scratch.runs);
        for input in 0..job.inputs {
            // SAFETY: the scratch is large enough.
            unsafe { self.transform(simd, input, width, windows, scratch) };
        }
        let panels = outputs / height;
        for place in 0..PLACES {
            let windows = windows.wrapping_add(place * job.inputs * width);
            for panel in 0..panels {
                let left = Left {
                    pointer: job.weights.0[(place * panels + panel) * job.inputs * height..].as_ptr(),
                    row: 1,
                    step: height,
                };
                let to = (place * outputs + panel * height) * width;
                let mut column = 0;
                while column < width {
                    let vectors = ((width - column) / S::F32_LANES).min(most);
                    let right = windows.wrapping_add(column);
                    let to = products.wrapping_add(to + column);
                    // SAFETY: both factors were just made, and the products have room.
                    unsafe {
                        gemm::with_size!(
                            S,
                            [height, vectors],
                            (Self::multiply(simd, job.inputs, left, right, width, to))
                        );
                    }
                    column += vectors * S::F32_LANES;
                }
            }
        }
        for output in 0..job.outputs {
            // SAFETY: these places of the output are this task's alone.
            unsafe { self.finish(simd, output, [outputs, width], products, &scratch.runs) };
        }
    }

    /// Rows of a place's product.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const R: usize, const V: usize>(
        simd: S,
        depth: usize,
        left: Left,
        right: *const f32,
        width: usize,
        to: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe { gemm::product_to::<S, R, V>(simd, depth, left, right, width, to, width) }
    }

    fn runs(&self, runs: &mut Vec<Run>) {
        let [rows, columns] = self.job.to.map(|size| size.div_ceil(TILE));
        runs.clear();
        let mut tile = self.tiles.start;
        while tile < self.tiles.end {
            let (row, x) = (tile / columns, tile % columns);
            let len = (columns - x).min(self.tiles.end - tile);
            runs.push(Run {
                column: tile - self.tiles.start,
                len,
                image: row / rows,
                y: row % rows * TILE,
                x: x * TILE,
            });
            tile += len;
        }
    }

    /// The windows of a channel, transformed: Bᵀ·d·B.
    ///
    /// First down the columns, where neighbouring places are a vector and those that two windows share are transformed once;
    /// then along the rows, where the same place of neighbouring windows is.
    #[inline(always)]
    unsafe fn transform<S: Simd>(&self, simd: S, input: usize, width: usize, windows: *mut f32, scratch: &mut Scratch) {
        let job = self.job;
        let Scratch { lines, runs } = scratch;
        self.read(simd, input, lines, runs);
        let ends = (OVERLAP * runs.len()).next_multiple_of(S::F32_LANES);
        for range in [0..TILE * width, ENDS..ENDS + ends] {
            for start in range.step_by(S::F32_LANES) {
                let mut column = [simd.splat_f32s(0.0); WINDOW];
                for (row, value) in column.iter_mut().enumerate() {
                    // SAFETY: a line's parts are multiples of a vector.
                    *value = unsafe { simd::load(simd, lines.as_ptr().add(row * LINE + start)) };
                }
                for (row, value) in window_transform(simd, column).into_iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { simd::store(simd, lines.as_mut_ptr().add(row * LINE + start), value) };
                }
            }
        }
        // `[column of the window, tile]`.
        let mut columns = [[0.0f32; MOST_TILES]; WINDOW];
        for (row, line) in lines.chunks_exact(LINE).enumerate() {
            for (tile, places) in line[..TILE * width].chunks_exact(TILE).enumerate() {
                for column in 0..TILE {
                    columns[column][tile] = places[column];
                }
            }
            // The next tile's first places, and at the end of a run those beyond.
            for column in 0..OVERLAP {
                let [first, beyond] = columns.get_disjoint_mut([column, TILE + column]).expect("two columns");
                beyond[..width - 1].copy_from_slice(&first[1..width]);
                for (run, end) in runs.iter().zip(line[ENDS..].chunks_exact(OVERLAP)) {
                    beyond[run.column + run.len - 1] = end[column];
                }
            }
            for start in (0..width).step_by(S::F32_LANES) {
                let mut window = [simd.splat_f32s(0.0); WINDOW];
                for (value, column) in window.iter_mut().zip(&columns) {
                    // SAFETY: the width is a multiple of a vector.
                    *value = unsafe { simd::load(simd, column.as_ptr().add(start)) };
                }
                for (column, value) in window_transform(simd, window).into_iter().enumerate() {
                    let at = ((row * WINDOW + column) * job.inputs + input) * width + start;
                    // SAFETY: the caller's promise.
                    unsafe { simd::store(simd, windows.add(at), value) };
                }
            }
        }
    }

    /// Reads a channel's windows into lines, with zeros for what lies outside of the image.
    #[inline(always)]
    fn read<S: Simd>(&self, simd: S, input: usize, lines: &mut [f32], runs: &[Run]) {
        let job = self.job;
        let [height, row_len] = job.from;
        for (index, run) in runs.iter().enumerate() {
            let plane = (run.image * job.inputs + input) * height * row_len;
            let needed = TILE * run.len + OVERLAP;
            let start = run.x as isize - job.padding[1] as isize;
            let before = (-start).max(0) as usize;
            let end = (start + needed as isize).min(row_len as isize);
            let count = (end - start.max(0)).max(0) as usize;
            for (row, line) in lines.chunks_exact_mut(LINE).enumerate() {
                // What is written beyond the run is the next one's, which comes later.
                let (places, ends) = line.split_at_mut(ENDS);
                let places = &mut places[TILE * run.column..][..needed];
                let y = (run.y + row).wrapping_sub(job.padding[0]);
                if y < height {
                    let from = plane + y * row_len + start.max(0) as usize;
                    let (zeros, rest) = places.split_at_mut(before);
                    zeros.fill(0.0);
                    // SAFETY: the run lies within the plane, and its places within the line.
                    unsafe { job.values.copy_exactly(simd, from, rest.as_mut_ptr(), count) };
                    rest[count..].fill(0.0);
                } else {
                    places.fill(0.0);
                }
                ends[OVERLAP * index..][..OVERLAP].copy_from_slice(&places[TILE * run.len..]);
            }
        }
    }

    /// A channel's tiles: Aᵀ·m·A, and what follows the convolution.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        output: usize,
        [outputs, width]: [usize; 2],
        from: *const f32,
        runs: &[Run],
    ) {
        let job = self.job;
        // `[row, column, tile]`, and side by side `[row, tile, column]`.
        let mut tiles = [[[0.0f32; MOST_TILES]; TILE]; TILE];
        let mut lines = [[0.0f32; TILE * MOST_TILES]; TILE];
        for start in (0..width).step_by(S::F32_LANES) {
            let mut rows = [[simd.splat_f32s(0.0); TILE]; WINDOW];
            for (row, values) in rows.iter_mut().enumerate() {
                let mut products = [simd.splat_f32s(0.0); WINDOW];
                for (column, product) in products.iter_mut().enumerate() {
                    let at = ((row * WINDOW + column) * outputs + output) * width + start;
                    // SAFETY: the caller's promise.
                    *product = unsafe { simd::load(simd, from.add(at)) };
                }
                *values = tile_transform(simd, products);
            }
            for column in 0..TILE {
                let mut values = [simd.splat_f32s(0.0); WINDOW];
                for (value, row) in values.iter_mut().zip(&rows) {
                    *value = row[column];
                }
                for (row, value) in tile_transform(simd, values).into_iter().enumerate() {
                    // SAFETY: the width is a multiple of a vector.
                    unsafe {
                        simd::store(simd, tiles[row][column].as_mut_ptr().add(start), value);
                    }
                }
            }
        }
        for (line, columns) in lines.iter_mut().zip(&tiles) {
            for (tile, places) in line[..TILE * width].chunks_exact_mut(TILE).enumerate() {
                for column in 0..TILE {
                    places[column] = columns[column][tile];
                }
            }
        }
        let [height, row_len] = job.to;
        for run in runs {
            let count = (TILE * run.len).min(row_len - run.x);
            let plane = run.image * job.outputs + output;
            for (row, line) in lines.iter().enumerate().take(height - run.y) {
                let target = (plane * height + run.y + row) * row_len + run.x;
                // SAFETY: as the caller promises.
                unsafe { self.follow(simd, output, &line[TILE * run.column..][..count], target) };
            }
        }
    }

    /// Writes a part of a row, and on the way what follows the convolution.
    #[inline(always)]
    unsafe fn follow<S: Simd>(&self, simd: S, channel: usize, line: &[f32], target: usize) {
        let job = self.job;
        let affine = job.fold.map(|fold| fold.of(simd, channel));
        let mut index = 0;
        while index < line.len() {
            let count = S::F32_LANES.min(line.len() - index);
            let at = target + index;
            // SAFETY: as the caller promises.
            unsafe {
                let mut value = simd::load_some(simd, line.as_ptr().add(index), count);
                if let Some([scale, shift]) = affine {
                    value = simd.mul_add_f32s(value, scale, shift);
                }
                if let Some(residual) = job.finish.residual {
                    let more = simd::load_some(simd, residual.at(at), count);
                    value = simd.add_f32s(value, more);
                }
                let value = match job.finish.slope {
                    None => job.finish.activation.value(simd, value),
                    Some(slope) => {
                        let (value, values) = job.finish.activation.value_and_slope(simd, value);
                        simd::store_some(simd, slope.at(at), count, values);
                        value
                    }
                };
                simd::store_some(simd, job.finish.to.at(at), count, value);
            }
            index += count;
        }
    }
}

/// Bᵀ·d of one column.
#[inline(always)]
fn window_transform<S: Simd>(simd: S, d: [S::f32s; WINDOW]) -> [S::f32s; WINDOW] {
    let splat = |value| simd.splat_f32s(value);
    let add = |a, b| simd.add_f32s(a, b);
    let sub = |a, b| simd.sub_f32s(a, b);
    // a + factor·b.
    let more = |a, factor, b| simd.mul_add_f32s(splat(factor), b, a);
    let even = more(d[4], -4.0, d[2]);
    let odd = more(d[3], -4.0, d[1]);
    let difference = sub(d[4], d[2]);
    let twice = simd.mul_f32s(splat(2.0), sub(d[3], d[1]));
    [
        more(more(d[4], -5.0, d[2]), 4.0, d[0]),
        add(even, odd),
        sub(even, odd),
        add(difference, twice),
        sub(difference, twice),
        more(more(d[5], -5.0, d[3]), 4.0, d[1]),
    ]
}

/// Aᵀ·m of one column.
#[inline(always)]
fn tile_transform<S: Simd>(simd: S, m: [S::f32s; WINDOW]) -> [S::f32s; TILE] {
    let splat = |value| simd.splat_f32s(value);
    let add = |a, b| simd.add_f32s(a, b);
    let more = |a, factor, b| simd.mul_add_f32s(splat(factor), b, a);
    let (near, near_odd) = (add(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    let (far, far_odd) = (add(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
    [
        add(add(m[0], near), far),
        more(near_odd, 2.0, far_odd),
        more(near, 4.0, far),
        add(more(near_odd, 8.0, far_odd), m[5]),
    ]
}
