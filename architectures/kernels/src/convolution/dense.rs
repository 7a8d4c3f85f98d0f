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
use crate::bf16::{self, Unit};
use crate::fold::Fold;
use crate::gemm::{self, Left, MOST_COLUMNS};
use crate::operation::Cache;
use crate::{parallel, simd, vectors};

/// Weights as the left factor.
#[derive(Debug)]
enum Packed {
    F32(Panels),
    Bf16(Unit, bf16::LeftPanels),
}

impl Packed {
    /// `weight` gives the element of (group, row, depth); the depth runs over channels and, within each, so many taps.
    fn new(
        unit: Option<Unit>,
        [groups, rows, depth]: [usize; 3],
        taps: usize,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        match unit {
            None => Self::F32(Panels::new(groups, rows, depth, weight)),
            Some(unit) => {
                let piece = (channels_at_once(taps, Some(unit)) * taps).max(1);
                Self::Bf16(unit, bf16::LeftPanels::new(unit, [groups, rows, depth], piece, weight))
            }
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::F32(panels) => panels.depth,
            Self::Bf16(_, panels) => panels.depth,
        }
    }

    fn unit(&self) -> Option<Unit> {
        match self {
            Self::F32(_) => None,
            Self::Bf16(unit, _) => Some(*unit),
        }
    }
}

/// How weights are packed, and where they are kept then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packing<'a> {
    /// `None` if they change from call to call.
    pub cache: Option<&'a Cache>,
    /// What multiplies them as bf16, if they are to be.
    pub unit: Option<Unit>,
}

impl Packing<'_> {
    /// What `make` makes from `sources`, under one name in f32 and under another in bf16.
    fn kept<T: Send + Sync + 'static>(
        &self,
        [plain, rounded]: [&'static str; 2],
        sources: &[&Array],
        make: impl FnOnce() -> T,
    ) -> std::sync::Arc<T> {
        cached(self.cache, if self.unit.is_some() { rounded } else { plain }, sources, make)
    }
}

/// For each group, panels of [`ROWS`] output channels, each `[depth, ROWS]`.
#[derive(Debug)]
struct Panels {
    values: Vec<f32>,
    /// Of one group.
    rows: usize,
    depth: usize,
    /// Of a panel.
    height: usize,
}

impl Panels {
    /// `weight` gives the element of (group, row, depth).
    fn new(groups: usize, rows: usize, depth: usize, weight: impl Fn(usize, usize, usize) -> f32 + Sync) -> Self {
        let [height, _] = gemm::tile();
        let panels = rows.div_ceil(height);
        let mut values = vec![0.0f32; groups * panels * depth * height];
        let work = values.len();
        let to = Pointer::to(&mut values);
        parallel::for_each(groups * panels, work, |index| {
            let (group, first) = (index / panels, index % panels * height);
            // SAFETY: each panel is one task's.
            let panel = unsafe { to.slice(index * depth * height, depth * height) };
            for (k, places) in panel.chunks_exact_mut(height).enumerate() {
                for (row, place) in places.iter_mut().enumerate().take(rows - first) {
                    *place = weight(group, first + row, k);
                }
            }
        });
        Self { values, rows, depth, height }
    }

    /// Panels of one group.
    fn panels(&self) -> usize {
        self.rows.div_ceil(self.height)
    }

    fn at(&self, group: usize, panel: usize, depth: usize) -> *const f32 {
        self.values[((group * self.panels() + panel) * self.depth + depth) * self.height..].as_ptr()
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
    packing: Packing,
) -> (Array, Option<Array>) {
    let &Geometry { groups, outputs, .. } = geometry;
    let [kernel_rows, kernel_columns] = geometry.kernel;
    let area = kernel_rows * kernel_columns;
    let (inputs, outputs_of_group) = (geometry.inputs / groups, outputs / groups);
    let depth = inputs * area;
    let values = weight.values();
    let pack = || {
        Packed::new(packing.unit, [groups, outputs_of_group, depth], area, |group, row, k| {
            values[(group * outputs_of_group + row) * depth + k]
        })
    };
    let packed = packing.kept(["forward", "forward in bf16"], &[weight], pack);
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
    packing: Packing,
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
            Packed::new(packing.unit, [groups, inputs * area, outputs], 1, |group, row, k| {
                let channel = group * outputs + k;
                let weight = values[channel * inputs * area + row];
                scale.map_or(weight, |(scale, _)| weight * scale[channel])
            })
        };
        let packed = packing.kept(["backward", "backward in bf16"], &sources, pack);
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
                Packed::new(packing.unit, [groups, inputs, outputs * taps.len()], taps.len(), |group, row, k| {
                    let channel = group * outputs + k / taps.len();
                    let weight = values[(channel * inputs + row) * area + taps[k % taps.len()]];
                    scale.map_or(weight, |(scale, _)| weight * scale[channel])
                })
            })
            .collect()
    };
    let packed = packing.kept(["backward", "backward in bf16"], &sources, pack);
    if packed.iter().any(|packed| packed.depth() == 0) {
        clear_all(to, geometry.input_shape().iter().product());
    }
    for (parity, packed) in parities(geometry).zip(packed.iter()).filter(|(_, packed)| packed.depth() > 0) {
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

/// Where the stride leaps over places, these have no gradient.
fn clear_all(to: Pointer, len: usize) {
    parallel::for_ranges(len, 1 << 14, len, |range| {
        // SAFETY: within the output, and each range is one task's.
        unsafe { clear(to.at(range.start), range.len()) }
    });
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

/// Planes of so many values are too far apart for the processor to foresee the next read …
const FAR: usize = 128;
/// … so that it is told of them so many channels ahead.
const AHEAD: isize = 4;

/// So much of the depth is packed at once; with the tile's columns it stays in the second-level cache.
const DEPTH: usize = 512;
/// Places of a task, some tiles side by side, which share the weights while these are in the cache.
const PLACES: usize = 192;

/// Channels whose windows are packed at once, for kernels of so many taps.
fn channels_at_once(taps: usize, unit: Option<Unit>) -> usize {
    let channels = (DEPTH / taps.max(1)).max(1);
    // bf16 is multiplied in pairs, none of which lies in two pieces.
    if unit.is_some() && taps % 2 == 1 { channels.next_multiple_of(2) } else { channels }
}

fn product(grid: &Grid, from: Source, weights: &Packed, fold: Option<&Fold>, finish: Finish) {
    let places = grid.batch * grid.size[0] * grid.size[1];
    let work = places * grid.groups * grid.outputs * weights.depth() / 16;
    let threads = rayon::current_num_threads();
    let [height, width] = gemm::tile();
    let tiles = places.div_ceil(width);
    let panels = grid.outputs.div_ceil(height);
    let [parts, row_parts] = cut(tiles, tiles.div_ceil(PLACES / width), panels, grid.groups, threads);
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
fn cut(tiles: usize, parts: usize, panels: usize, groups: usize, threads: usize) -> [usize; 2] {
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
    /// What is rounded to bf16 of the packed places.
    pairs: Vec<u32>,
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
        let [height, _] = gemm::size::<S>();
        let width = gemm::columns::<S>();
        let tiles = self.places.len().div_ceil(width);
        let depth = self.weights.depth();
        let unit = self.weights.unit();
        let taps = self.grid.taps.len();
        // Whole channels.
        let channels = channels_at_once(taps, unit);
        scratch.runs.clear();
        for tile in 0..tiles {
            let start = self.places.start + tile * width;
            let end = (start + width).min(self.places.end);
            scratch.runs.push(self.runs(start..end));
        }
        let pieces = self.grid.inputs.div_ceil(channels);
        let packed_depth = (channels * taps).min(depth);
        let right_len = tiles * packed_depth * width;
        let pairs_len = unit.map_or(0, |unit| unit.pairs(packed_depth) * width);
        bf16::grow(&mut scratch.pairs, tiles * pairs_len);
        let session = unit.map(Unit::begin);
        let sums_len = if pieces > 1 { self.panels.len() * tiles * height * width } else { 0 };
        let memory = vectors::Scratch::new([right_len, sums_len]);
        let [all_right, all_sums] = memory.pieces;
        self.moves(width, packed_depth * width, &scratch.runs, &mut scratch.moves);
        for piece in 0..pieces {
            let piece_channels = piece * channels..((piece + 1) * channels).min(self.grid.inputs);
            let (start, len) = (piece_channels.start * taps, piece_channels.len() * taps);
            // SAFETY: there is room for all tiles.
            unsafe { self.pack(simd, &scratch.moves, piece_channels, all_right) };
            if let Some(unit) = unit {
                for tile in 0..tiles {
                    let from = all_right.wrapping_add(tile * packed_depth * width);
                    let to = scratch.pairs[tile * pairs_len..].as_mut_ptr();
                    // SAFETY: there is room for the pairs of all tiles.
                    unsafe { bf16::pair_rows(from, width, [len, width], to, width, unit.pairs(len)) };
                }
            }
            for (panel_index, panel) in self.panels.clone().enumerate() {
                for (tile, runs) in scratch.runs.iter().enumerate() {
                    let factors = match self.weights {
                        Packed::F32(weights) => {
                            let pointer = weights.at(self.group, panel, start);
                            let right = all_right.wrapping_add(tile * packed_depth * width);
                            Factors::F32(Left { pointer, row: 1, step: height }, right)
                        }
                        Packed::Bf16(unit, weights) => {
                            let (left, pairs) = weights.at(*unit, self.group, panel, piece);
                            let right = scratch.pairs[tile * pairs_len..].as_ptr();
                            let session = session.as_ref().expect("there is a unit");
                            Factors::Bf16(
                                session,
                                bf16::Factors { pairs, left, left_row: pairs, right, right_step: width },
                            )
                        }
                    };
                    let partial = all_sums.wrapping_add((panel_index * tiles + tile) * height * width);
                    let place = Place { panel, runs, partial, begin: piece == 0, end: piece + 1 == pieces };
                    let used: usize = runs.iter().map(|run| run.len).sum();
                    // SAFETY: packed just now; the output's elements are this task's alone.
                    unsafe {
                        let size = [height, used.div_ceil(S::F32_LANES)];
                        gemm::with_size!(S, size, (Self::tile(self, simd, len, factors, &place)));
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
                    if plane >= FAR {
                        let ahead = from + AHEAD * plane as isize;
                        self.from.prefetch(ahead, part.len * step);
                    }
                    if step == 1 && from >= 0 && from as usize + whole <= self.from.len() {
                        self.from.copy(simd, from as usize, to, part.len, part.room);
                    } else {
                        let start = from + (part.before * step) as isize;
                        self.from.gather(start as usize, step, to.add(part.before), part.fits - part.before);
                    }
                    clear(to, part.before);
                    clear(to.add(part.fits), part.len - part.fits);
                }
            }
        }
    }

    /// One tile: its sums over this piece of the depth, and at the end what is to become of them.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        depth: usize,
        factors: Factors,
        place: &Place,
    ) {
        let width = gemm::columns::<S>();
        let first = place.panel * R;
        // SAFETY: the caller's promise.
        unsafe {
            if place.end {
                // While the sums are made, the places come where they go.
                for row in first..(first + R).min(self.grid.outputs) {
                    for run in place.runs {
                        let target = self.finish.to.at(self.target(row, run));
                        simd::prefetch(target, run.len * self.grid.step[1]);
                    }
                }
            }
            let mut sums: [[S::f32s; V]; R] = match factors {
                Factors::F32(left, right) => gemm::product(simd, depth, left, right, width),
                Factors::Bf16(session, factors) => session.product(simd, &factors),
            };
            let partial = |row: usize, vector: usize| place.partial.add(row * width + vector * S::F32_LANES);
            // Piece by piece, which rounds less than one long sum.
            if !place.begin {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.add_f32s(*sum, simd::load(simd, partial(row, vector)));
                    }
                }
            }
            if !place.end {
                for (row, sums) in sums.iter().enumerate() {
                    for (vector, &sum) in sums.iter().enumerate() {
                        simd::store(simd, partial(row, vector), sum);
                    }
                }
                return;
            }
            for (row, sums) in (first..self.grid.outputs).zip(&sums) {
                self.finish(simd, row, place.runs, sums);
            }
        }
    }

    /// Where a run's first place is written for this row of the product.
    #[inline(always)]
    fn target(&self, row: usize, run: &Run) -> usize {
        let grid = self.grid;
        let row = (run.image * grid.groups + self.group) * grid.outputs + row;
        let [window_rows, window_columns] = grid.window;
        let (plane, [window_y, window_x]) = match window_rows * window_columns {
            1 => (row, [0, 0]),
            window => (row / window, [row % window / window_columns, row % window_columns]),
        };
        let y = grid.first[0] + run.y * grid.step[0] + window_y;
        let x = grid.first[1] + run.x * grid.step[1] + window_x;
        (plane * grid.to[0] + y) * grid.to[1] + x
    }

    /// What is to become of the sums of a row of the product.
    #[inline(always)]
    unsafe fn finish<S: Simd, const V: usize>(&self, simd: S, row: usize, runs: &[Run], sums: &[S::f32s; V]) {
        let step = self.grid.step[1];
        let channel = self.group * self.grid.outputs + row;
        let affine = self.fold.map(|fold| fold.of(simd, channel));
        // SAFETY: the runs lie within the planes, and are this task's alone.
        unsafe {
            if let [run] = runs
                && step == 1
                && run.len == V * S::F32_LANES
            {
                return self.finish.whole(simd, sums, self.target(row, run), affine);
            }
            // With room for a vector that begins in the last run.
            let mut line = [0.0f32; 2 * MOST_COLUMNS];
            for (vector, &sum) in sums.iter().enumerate() {
                simd::store(simd, line.as_mut_ptr().add(vector * S::F32_LANES), sum);
            }
            for run in runs {
                let target = self.target(row, run);
                let sums = &line[run.column..];
                if step == 1 {
                    self.finish.row(simd, sums.as_ptr(), target, [run.len, run.len], affine);
                } else {
                    // Only gradients, behind which nothing comes.
                    for (index, &sum) in sums[..run.len].iter().enumerate() {
                        *self.finish.to.at(target + index * step) = sum;
                    }
                }
            }
        }
    }
}

/// What a tile multiplies.
#[derive(Clone, Copy)]
enum Factors<'a> {
    F32(Left, *const f32),
    Bf16(&'a bf16::Session, bf16::Factors),
}

struct Place<'a> {
    /// Of rows.
    panel: usize,
    runs: &'a [Run],
    /// Sums of the depth so far, if there are several pieces.
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
