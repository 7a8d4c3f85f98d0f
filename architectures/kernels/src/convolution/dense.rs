//! Convolution as a matrix product whose right factor, the input's windows, is packed piece by piece and never whole.
//!
//! Rows of the product are output channels, columns are places of all images of the batch one after the other, and the depth
//! runs over (input channel, tap of the kernel). The gradient to the input is the same kind of product: for each parity of
//! the place (as many as the stride has) a convolution of the gradient with those taps that reach it.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Geometry;
use super::finish::{Finish, Outputs};
use super::source::Source;
use crate::activation::Activation;
use crate::array::{Array, Output, Pointer};
use crate::fold::Fold;
use crate::gemm::{self, Left, MOST_COLUMNS, ROWS, VECTORS};
use crate::operation::Cache;
use crate::{parallel, simd};

/// Weights as the left factor: for each group, panels of [`ROWS`] output channels, each `[depth, ROWS]`.
#[derive(Debug)]
struct Packed {
    values: Vec<f32>,
    /// Of one group.
    rows: usize,
    depth: usize,
}

impl Packed {
    /// `weight` gives the element of (group, row, depth).
    fn new(groups: usize, rows: usize, depth: usize, weight: impl Fn(usize, usize, usize) -> f32 + Sync) -> Self {
        let panels = rows.div_ceil(ROWS);
        let mut values = vec![0.0f32; groups * panels * depth * ROWS];
        let work = values.len();
        let to = Pointer::to(&mut values);
        parallel::for_each(groups * panels, work, |index| {
            let (group, first) = (index / panels, index % panels * ROWS);
            // SAFETY: each panel is one task's.
            let panel = unsafe { to.slice(index * depth * ROWS, depth * ROWS) };
            for (k, places) in panel.chunks_exact_mut(ROWS).enumerate() {
                for (row, place) in places.iter_mut().enumerate().take(rows - first) {
                    *place = weight(group, first + row, k);
                }
            }
        });
        Self { values, rows, depth }
    }

    fn at(&self, group: usize, row: usize, depth: usize) -> *const f32 {
        let panels = self.rows.div_ceil(ROWS);
        let panel = group * panels + row / ROWS;
        self.values[(panel * self.depth + depth) * ROWS..].as_ptr()
    }
}

/// One product: from planes `from` to those places of planes `to` that lie on a grid.
struct Grid<'a> {
    batch: usize,
    groups: usize,
    /// Channels of one group that are read.
    inputs: usize,
    /// Rows of one group: channels that are written, times the places of the window.
    outputs: usize,
    /// So many places, rows and columns, are written per channel and place of the grid.
    window: [usize; 2],
    from: [usize; 2],
    to: [usize; 2],
    /// Rows and columns of the grid.
    size: [usize; 2],
    /// Where the grid lies in `to`: first place and distance.
    first: [usize; 2],
    step: [usize; 2],
    /// From a grid's place to that which is read: place · stride + tap.
    stride: [usize; 2],
    taps: &'a [[isize; 2]],
}

/// See [`Convolution`](super::Convolution). The second array is the activation's slope, if it must be kept.
pub(crate) fn forward(
    geometry: &Geometry,
    [x, weight]: [&Array; 2],
    fold: &Fold,
    residual: Option<&Array>,
    activation: Activation,
    keep: bool,
    cache: Option<&Cache>,
) -> (Array, Option<Array>) {
    let &Geometry { groups, outputs, .. } = geometry;
    let [kernel_rows, kernel_columns] = geometry.kernel;
    let area = kernel_rows * kernel_columns;
    let (inputs, outputs_of_group) = (geometry.inputs / groups, outputs / groups);
    let depth = inputs * area;
    let values = weight.values();
    let pack = || {
        Packed::new(groups, outputs_of_group, depth, |group, row, k| {
            values[(group * outputs_of_group + row) * depth + k]
        })
    };
    let packed = cached(cache, "forward", &[weight], pack);
    let offset = |axis: usize, tap: usize| (tap * geometry.dilation[axis]) as isize - geometry.padding[axis] as isize;
    let taps: Vec<[isize; 2]> =
        (0..area).map(|tap| [offset(0, tap / kernel_columns), offset(1, tap % kernel_columns)]).collect();
    let mut made = Outputs::new(geometry, activation, keep);
    let grid = Grid {
        batch: geometry.batch,
        groups,
        inputs,
        outputs: outputs_of_group,
        window: [1, 1],
        from: geometry.input,
        to: geometry.output,
        size: geometry.output,
        first: [0, 0],
        step: [1, 1],
        stride: geometry.stride,
        taps: &taps,
    };
    let finish = made.finish_with(activation, residual);
    product(&grid, Source::plain(x.values()), &packed, Some(fold), finish);
    // SAFETY: the grid is the whole output.
    unsafe { made.into_arrays() }
}

/// The gradient with respect to the input, from that with respect to scale·(w ∗ x).
pub(crate) fn input_gradient(
    geometry: &Geometry,
    gradient: Source,
    weight: &Array,
    scale: Option<(&[f32], &[&Array])>,
    cache: Option<&Cache>,
) -> Array {
    let &Geometry { groups, .. } = geometry;
    let [kernel_rows, kernel_columns] = geometry.kernel;
    let area = kernel_rows * kernel_columns;
    let (inputs, outputs) = (geometry.inputs / groups, geometry.outputs / groups);
    let values = weight.values();
    let mut sources = vec![weight];
    sources.extend(scale.iter().flat_map(|(_, sources)| sources.iter()));
    let mut output = Output::new(&geometry.input_shape());
    let to = output.pointer();
    if geometry.is_tiling() {
        // Windows do not overlap: one product gives all places of a window.
        let pack = || {
            Packed::new(groups, inputs * area, outputs, |group, row, k| {
                let channel = group * outputs + k;
                let weight = values[channel * inputs * area + row];
                scale.map_or(weight, |(scale, _)| weight * scale[channel])
            })
        };
        let packed = cached(cache, "backward", &sources, pack);
        let grid = Grid {
            batch: geometry.batch,
            groups,
            inputs: outputs,
            outputs: inputs * area,
            window: geometry.kernel,
            from: geometry.output,
            to: geometry.input,
            size: geometry.output,
            first: [0, 0],
            step: geometry.stride,
            stride: [1, 1],
            taps: &[[0, 0]],
        };
        product(&grid, gradient, &packed, None, Finish::plain(to));
        // SAFETY: the windows are the whole input.
        return unsafe { output.finish() };
    }
    let pack = || -> Vec<Packed> {
        parities(geometry)
            .map(|[row_parity, column_parity]| {
                let (rows, columns) = (geometry.reaching(0, row_parity), geometry.reaching(1, column_parity));
                let taps: Vec<usize> = rows
                    .iter()
                    .flat_map(|(row, _)| columns.iter().map(move |(c, _)| row * kernel_columns + c))
                    .collect();
                Packed::new(groups, inputs, outputs * taps.len(), |group, row, k| {
                    let channel = group * outputs + k / taps.len();
                    let weight = values[(channel * inputs + row) * area + taps[k % taps.len()]];
                    scale.map_or(weight, |(scale, _)| weight * scale[channel])
                })
            })
            .collect()
    };
    let packed = cached(cache, "backward", &sources, pack);
    for (parity, packed) in parities(geometry).zip(packed.iter()) {
        let (rows, columns) = (geometry.reaching(0, parity[0]), geometry.reaching(1, parity[1]));
        let taps: Vec<[isize; 2]> =
            rows.iter().flat_map(|&(_, row)| columns.iter().map(move |&(_, column)| [row, column])).collect();
        let size =
            [0, 1].map(|axis| (geometry.input[axis].saturating_sub(parity[axis])).div_ceil(geometry.stride[axis]));
        let grid = Grid {
            batch: geometry.batch,
            groups,
            inputs: outputs,
            outputs: inputs,
            window: [1, 1],
            from: geometry.output,
            to: geometry.input,
            size,
            first: parity,
            step: geometry.stride,
            stride: [1, 1],
            taps: &taps,
        };
        product(&grid, gradient, packed, None, Finish::plain(to));
    }
    // SAFETY: the parities' grids together are the whole input.
    unsafe { output.finish() }
}

fn parities(geometry: &Geometry) -> impl Iterator<Item = [usize; 2]> + use<> {
    let [rows, columns] = geometry.stride;
    (0..rows).flat_map(move |row| (0..columns).map(move |column| [row, column]))
}

/// What `make` makes, from the cache if there is one.
pub(super) fn cached<T: Send + Sync + 'static>(
    cache: Option<&Cache>,
    purpose: &'static str,
    sources: &[&Array],
    make: impl FnOnce() -> T,
) -> std::sync::Arc<T> {
    match cache {
        Some(cache) => cache.get(purpose, sources, make),
        None => std::sync::Arc::new(make()),
    }
}

/// Planes of so many values (a memory page) are too far apart for the processor to foresee the next read …
const FAR: usize = 1024;
/// … so that it is told of them so many channels ahead.
const AHEAD: isize = 4;

/// So much of the depth is packed at once; with the tile's columns it stays in the second-level cache.
const DEPTH: usize = 384;
/// Tiles side by side in a task, which share the weights while these are in the cache.
const TILES: usize = 4;

fn product(grid: &Grid, from: Source, weights: &Packed, fold: Option<&Fold>, finish: Finish) {
    let places = grid.batch * grid.size[0] * grid.size[1];
    let work = places * grid.groups * grid.outputs * weights.depth / 16;
    let threads = rayon::current_num_threads();
    let width = gemm::width();
    let tiles = places.div_ceil(width);
    let panels = grid.outputs.div_ceil(ROWS);
    let [parts, row_parts] = cut(tiles, panels, grid.groups, threads);
    parallel::for_each(grid.groups * row_parts * parts, work, |task| {
        let (group, task) = (task / (row_parts * parts), task % (row_parts * parts));
        let (row_part, part) = (task / parts, task % parts);
        let place = |part: usize| (tiles * part / parts * width).min(places);
        simd::dispatch(Part {
            grid,
            from,
            weights,
            fold,
            finish,
            group,
            panels: panels * row_part / row_parts..panels * (row_part + 1) / row_parts,
            places: place(part)..place(part + 1),
        });
    });
}

/// Into how many parts the tiles and the rows are cut, so that all threads have as much to do.
fn cut(tiles: usize, panels: usize, groups: usize, threads: usize) -> [usize; 2] {
    let parts = tiles.div_ceil(TILES);
    let even = parts.next_multiple_of(threads).min(tiles);
    if parts * groups >= 4 * threads || panels < 4 * threads {
        return [even, 1];
    }
    // With few tiles each thread takes its part of the rows, and packs the places for itself.
    [parts, threads]
}

struct Part<'a> {
    grid: &'a Grid<'a>,
    from: Source<'a>,
    weights: &'a Packed,
    fold: Option<&'a Fold>,
    finish: Finish,
    group: usize,
    panels: Range<usize>,
    places: Range<usize>,
}

/// Places of a tile that lie side by side in a row (or, where nothing lies between them, in a plane).
#[derive(Debug, Clone, Copy)]
struct Run {
    /// In the tile.
    column: usize,
    len: usize,
    image: usize,
    /// On the grid.
    y: usize,
    x: usize,
}

/// A run as one tap of the kernel sees it.
#[derive(Debug, Clone, Copy)]
struct Move {
    /// Where its first column is read, from the channel's plane of the first image on; perhaps outside.
    from: isize,
    /// Where it goes, from the channel's first row on.
    to: usize,
    len: usize,
    /// Columns before this, and from `fits` on, lie outside of the image.
    before: usize,
    fits: usize,
    /// Columns to the tile's end.
    room: usize,
}

#[derive(Default)]
struct Scratch {
    moves: Vec<Move>,
    right: Vec<f32>,
    sums: Vec<f32>,
    runs: Vec<Vec<Run>>,
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

impl Part<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, scratch: &mut Scratch) {
        let width = gemm::columns::<S>();
        let tiles = self.places.len().div_ceil(width);
        let depth = self.weights.depth;
        let taps = self.grid.taps.len();
        // Whole channels.
        let channels = (DEPTH / taps.max(1)).max(1);
        scratch.runs.clear();
        for tile in 0..tiles {
            let start = self.places.start + tile * width;
            let end = (start + width).min(self.places.end);
            scratch.runs.push(self.runs(start..end));
        }
        let pieces = self.grid.inputs.div_ceil(channels);
        let packed_depth = (channels * taps).min(depth);
        let right_len = tiles * packed_depth * width;
        if scratch.right.len() < right_len {
            scratch.right.resize(right_len, 0.0);
        }
        let sums_len = self.panels.len() * tiles * ROWS * width;
        if pieces > 1 && scratch.sums.len() < sums_len {
            scratch.sums.resize(sums_len, 0.0);
        }
        self.moves(width, packed_depth * width, &scratch.runs, &mut scratch.moves);
        for piece in 0..pieces {
            let piece_channels = piece * channels..((piece + 1) * channels).min(self.grid.inputs);
            let (start, len) = (piece_channels.start * taps, piece_channels.len() * taps);
            // SAFETY: there is room for all tiles.
            unsafe { self.pack(simd, &scratch.moves, piece_channels, scratch.right.as_mut_ptr()) };
            for (panel_index, panel) in self.panels.clone().enumerate() {
                let left = Left { pointer: self.weights.at(self.group, panel * ROWS, start), row: 1, step: ROWS };
                for (tile, runs) in scratch.runs.iter().enumerate() {
                    let right = scratch.right[tile * packed_depth * width..].as_ptr();
                    let at = (panel_index * tiles + tile) * ROWS * width;
                    let partial = match pieces {
                        1 => std::ptr::null_mut(),
                        _ => scratch.sums[at..].as_mut_ptr(),
                    };
                    let place = Place { panel, runs, partial, begin: piece == 0, end: piece + 1 == pieces };
                    let used: usize = runs.iter().map(|run| run.len).sum();
                    // SAFETY: packed just now; the output's elements are this task's alone.
                    unsafe {
                        match used.div_ceil(S::F32_LANES) {
                            1 => self.tile::<S, 1>(simd, len, left, right, &place, used),
                            2 => self.tile::<S, 2>(simd, len, left, right, &place, used),
                            _ => self.tile::<S, VECTORS>(simd, len, left, right, &place, used),
                        }
                    }
                }
            }
        }
    }

    /// Cuts places (of all images, one after the other) where they cease to be neighbours.
    fn runs(&self, places: Range<usize>) -> Vec<Run> {
        let grid = self.grid;
        let [rows, columns] = grid.size;
        let plane = rows * columns;
        // With one tap that stays in place, rows follow each other without a gap.
        let flat = grid.taps == [[0, 0]]
            && grid.stride == [1, 1]
            && grid.step == [1, 1]
            && grid.from == grid.size
            && grid.to == grid.size;
        let mut runs = Vec::new();
        let mut place = places.start;
        while place < places.end {
            let (image, inside) = (place / plane, place % plane);
            let left_over = if flat { plane - inside } else { columns - inside % columns };
            let len = left_over.min(places.end - place);
            runs.push(Run { column: place - places.start, len, image, y: inside / columns, x: inside % columns });
            place += len;
        }
        runs
    }

    /// What must be copied for one channel, to which place: the same for all channels.
    fn moves(&self, width: usize, panel_len: usize, runs: &[Vec<Run>], moves: &mut Vec<Move>) {
        let grid = self.grid;
        let [height, row_len] = grid.from;
        let step = grid.stride[1];
        let image_len = grid.groups * grid.inputs * height * row_len;
        moves.clear();
        for (tile, runs) in runs.iter().enumerate() {
            for (tap, &[tap_y, tap_x]) in grid.taps.iter().enumerate() {
                for run in runs {
                    let y = (run.y * grid.stride[0]) as isize + tap_y;
                    let x = (run.x * step) as isize + tap_x;
                    // Columns of the run that lie before the row's first and from its last on.
                    let before = ((-x).max(0) as usize).div_ceil(step).min(run.len);
                    // A run over several rows has one tap that stays in place.
                    let flat = run.x + run.len > grid.size[1];
                    let fits = if flat {
                        run.len
                    } else {
                        ((row_len as isize - x).max(0) as usize).div_ceil(step).min(run.len)
                    };
                    let inside = (0..height as isize).contains(&y);
                    moves.push(Move {
                        from: (run.image * image_len) as isize + y * row_len as isize + x,
                        to: tile * panel_len + tap * width + run.column,
                        len: run.len,
                        before: if inside { before } else { run.len },
                        fits: if inside { fits.max(before) } else { run.len },
                        room: width - run.column,
                    });
                }
            }
        }
    }

    /// Packs the windows of some channels: for each tile `[channel and tap, column]`.
    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, simd: S, moves: &[Move], channels: Range<usize>, to: *mut f32) {
        let grid = self.grid;
        let plane = grid.from[0] * grid.from[1];
        let row = grid.taps.len() * gemm::columns::<S>();
        let step = grid.stride[1];
        for (index, channel) in channels.enumerate() {
            let base = ((self.group * grid.inputs + channel) * plane) as isize;
            for part in moves {
                let from = base + part.from;
                // SAFETY: the caller's promise for `to`; what is read is checked here or was when the move was made.
                unsafe {
                    let to = to.add(index * row + part.to);
                    let whole = part.len.next_multiple_of(S::F32_LANES);
                    if part.before == part.len {
                        clear(to, part.len);
                        continue;
                    }
                    if step == 1 && from >= 0 && from as usize + whole <= self.from.len() {
                        if plane >= FAR {
                            let ahead = from + AHEAD * plane as isize;
                            self.from.prefetch(ahead, part.len);
                        }
                        self.from.copy(simd, from as usize, to, part.len, part.room);
                    } else {
                        for column in part.before..part.fits {
                            let at = from + (column * step) as isize;
                            *to.add(column) = self.from.value(at as usize);
                        }
                    }
                    clear(to, part.before);
                    clear(to.add(part.fits), part.len - part.fits);
                }
            }
        }
    }

    /// One tile: its sums over this piece of the depth, and at the end what is to become of them.
    #[inline(always)]
    unsafe fn tile<S: Simd, const V: usize>(
        &self,
        simd: S,
        depth: usize,
        left: Left,
        right: *const f32,
        place: &Place,
        used: usize,
    ) {
        let width = gemm::columns::<S>();
        let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
        // SAFETY: the caller's promise.
        unsafe {
            gemm::accumulate(simd, depth, left, right, width, &mut sums);
            // Piece by piece, which rounds less than one long sum.
            if !place.begin {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        let at = place.partial.add(row * width + vector * S::F32_LANES);
                        *sum = simd.add_f32s(*sum, simd::load(simd, at));
                    }
                }
            }
            if !place.end {
                for (row, sums) in sums.into_iter().enumerate() {
                    for (vector, sum) in sums.into_iter().enumerate() {
                        let at = place.partial.add(row * width + vector * S::F32_LANES);
                        simd::store(simd, at, sum);
                    }
                }
                return;
            }
            let rows = ROWS.min(self.grid.outputs - place.panel * ROWS);
            let one_run = place.runs.len() == 1 && self.grid.step[1] == 1;
            for (row, sums) in sums.into_iter().enumerate().take(rows) {
                let channel = self.group * self.grid.outputs + place.panel * ROWS + row;
                if one_run && used == V * S::F32_LANES {
                    self.finish_whole(simd, channel, &place.runs[0], sums);
                } else {
                    self.finish_parts(simd, channel, place.runs, sums);
                }
            }
        }
    }

    /// Where a run's first place is written for this row of the product.
    #[inline(always)]
    fn target(&self, channel: usize, run: &Run) -> usize {
        let grid = self.grid;
        let row = run.image * grid.groups * grid.outputs + channel;
        let [window_rows, window_columns] = grid.window;
        let window = window_rows * window_columns;
        let (plane, place) = (row / window, row % window);
        let y = grid.first[0] + run.y * grid.step[0] + place / window_columns;
        let x = grid.first[1] + run.x * grid.step[1] + place % window_columns;
        (plane * grid.to[0] + y) * grid.to[1] + x
    }

    #[inline(always)]
    fn fold<S: Simd>(&self, simd: S, channel: usize, sum: S::f32s) -> S::f32s {
        match self.fold {
            None => sum,
            Some(fold) => fold.apply(simd, channel, sum),
        }
    }

    /// A row of whole vectors that lies in one piece.
    #[inline(always)]
    unsafe fn finish_whole<S: Simd, const V: usize>(&self, simd: S, channel: usize, run: &Run, sums: [S::f32s; V]) {
        let target = self.target(channel, run);
        for (vector, sum) in sums.into_iter().enumerate() {
            let at = target + vector * S::F32_LANES;
            let mut value = self.fold(simd, channel, sum);
            // SAFETY: the run lies within the planes.
            unsafe {
                if let Some(residual) = self.finish.residual {
                    let more = simd::load(simd, residual.at(at));
                    value = simd.add_f32s(value, more);
                }
                let value = match self.finish.slope {
                    None => self.finish.activation.value(simd, value),
                    Some(slope) => {
                        let (value, values) = self.finish.activation.value_and_slope(simd, value);
                        simd::store(simd, slope.at(at), values);
                        value
                    }
                };
                simd::store(simd, self.finish.to.at(at), value);
            }
        }
    }

    /// A row of several runs, by way of a row in one piece.
    #[inline(always)]
    unsafe fn finish_parts<S: Simd, const V: usize>(&self, simd: S, channel: usize, runs: &[Run], sums: [S::f32s; V]) {
        let step = self.grid.step[1];
        let mut row = [0.0f32; MOST_COLUMNS];
        let mut slopes = [0.0f32; MOST_COLUMNS];
        if let Some(residual) = self.finish.residual {
            for run in runs {
                let from = self.target(channel, run);
                for index in 0..run.len {
                    // SAFETY: the run lies within the planes.
                    row[run.column + index] = unsafe { *residual.at(from + index * step) };
                }
            }
        }
        for (vector, sum) in sums.into_iter().enumerate() {
            let value = self.fold(simd, channel, sum);
            // SAFETY: a tile is no wider than the rows.
            unsafe {
                let at = row.as_mut_ptr().add(vector * S::F32_LANES);
                let value = simd.add_f32s(value, simd::load(simd, at));
                let value = match self.finish.slope {
                    None => self.finish.activation.value(simd, value),
                    Some(_) => {
                        let (value, slope) = self.finish.activation.value_and_slope(simd, value);
                        let at = slopes.as_mut_ptr().add(vector * S::F32_LANES);
                        simd::store(simd, at, slope);
                        value
                    }
                };
                simd::store(simd, at, value);
            }
        }
        let scatter = |row: &[f32; MOST_COLUMNS], to: Pointer| {
            for run in runs {
                let target = self.target(channel, run);
                for index in 0..run.len {
                    // SAFETY: the run lies within the planes, and is this task's alone.
                    unsafe { *to.at(target + index * step) = row[run.column + index] };
                }
            }
        };
        scatter(&row, self.finish.to);
        if let Some(slope) = self.finish.slope {
            scatter(&slopes, slope);
        }
    }
}

struct Place<'a> {
    /// Of rows.
    panel: usize,
    runs: &'a [Run],
    /// Sums of the depth so far.
    partial: *mut f32,
    begin: bool,
    end: bool,
}

#[inline(always)]
unsafe fn clear(to: *mut f32, len: usize) {
    for index in 0..len {
        // SAFETY: the caller's promise.
        unsafe { *to.add(index) = 0.0 };
    }
}
