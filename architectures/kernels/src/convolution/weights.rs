//! The gradient to the weights of a dense convolution: a product whose depth is all places of all images.
//!
//! Its columns are output channels, whose gradient is packed once as `[place, channel]`. Its rows are values of the input,
//! read where they lie: for each tap of the kernel the input channels or, where there are few of these, for each channel
//! and row of the kernel its columns.

use std::ops::Range;

use pulp::Simd;

use super::Geometry;
use crate::array::{Array, Output, Pointer};
use crate::gemm::{self, Left};
use crate::transposition::transpose;
use crate::vectors::{self, Body};
use crate::{parallel, simd};

/// Input channels of a group from which they are the product's rows.
const MANY: usize = 8;
/// So many places are summed at a time: sums of pieces round less than one long sum.
const DEPTH: usize = 512;

/// The gradient with respect to the weights, from that with respect to w ∗ x.
pub(crate) fn gradient(geometry: &Geometry, x: &Array, gradient: &Array) -> Array {
    let mut geometry = *geometry;
    let few = geometry.inputs / geometry.groups < MANY;
    let padded;
    let x = if few && geometry.padding_is_read() {
        padded = pad(&mut geometry, x.values());
        &padded
    } else {
        x.values()
    };
    if geometry.kernel == [1, 1]
        && geometry.stride == [1, 1]
        && geometry.padding == [0, 0]
        && geometry.output == geometry.input
    {
        // The rows of a plane follow each other without a gap.
        geometry.input = [1, geometry.input[0] * geometry.input[1]];
        geometry.output = geometry.input;
    }
    let (inputs, outputs) = (geometry.inputs / geometry.groups, geometry.outputs / geometry.groups);
    let [kernel_rows, kernel_columns] = geometry.kernel;
    let (taps, rows) =
        if few { (inputs * kernel_rows, kernel_columns) } else { (kernel_rows * kernel_columns, inputs) };
    let [height, width] = gemm::tile();
    let panels = outputs.div_ceil(width);
    let packed = pack(&geometry, gradient.values(), width, panels);
    let mut output = Output::new(&[geometry.outputs, inputs, kernel_rows, kernel_columns]);
    let tiles =
        Tiles { few, taps, rows, panels, outputs, x, gradient: &packed, to: output.pointer(), geometry: &geometry };
    let places = geometry.batch * geometry.output[0] * geometry.output[1];
    let count = geometry.groups * panels * rows.div_ceil(height) * taps;
    // SAFETY: the tiles are the whole output, and no two share an element.
    unsafe {
        vectors::over(count, places * height, &tiles);
        output.finish()
    }
}

impl Geometry {
    /// Whether some window reaches over the edge.
    fn padding_is_read(&self) -> bool {
        (0..2).any(|axis| self.padding[axis] > 0 || self.reach(axis) > self.input[axis])
    }

    /// Padded rows (axis 0) or columns (axis 1) up to the last that a window sees.
    fn reach(&self, axis: usize) -> usize {
        (self.output[axis] - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }
}

/// The planes with their padding, as far as windows reach.
fn pad(geometry: &mut Geometry, x: &[f32]) -> Vec<f32> {
    let [height, width] = geometry.input;
    let [top, left] = geometry.padding;
    let size = [0, 1].map(|axis| geometry.reach(axis));
    let planes = geometry.batch * geometry.inputs;
    let mut padded = vec![0.0; planes * size[0] * size[1]];
    let to = Pointer::to(&mut padded);
    let columns = width.min(size[1].saturating_sub(left));
    parallel::for_each(planes, planes * size[0] * size[1], |plane| {
        // SAFETY: each plane is one task's.
        let to = unsafe { to.slice(plane * size[0] * size[1], size[0] * size[1]) };
        for row in 0..height.min(size[0].saturating_sub(top)) {
            let from = (plane * height + row) * width;
            let at = (top + row) * size[1] + left;
            to[at..at + columns].copy_from_slice(&x[from..from + columns]);
        }
    });
    geometry.input = size;
    geometry.padding = [0, 0];
    padded
}

/// For each group, panels of `width` output channels, each `[image and place, channel]`, filled up with zeros.
fn pack(geometry: &Geometry, gradient: &[f32], width: usize, panels: usize) -> Vec<f32> {
    let outputs = geometry.outputs / geometry.groups;
    let places = geometry.output[0] * geometry.output[1];
    let panel_len = geometry.batch * places * width;
    let mut packed = vec![0.0; geometry.groups * panels * panel_len];
    let work = packed.len();
    let to = Pointer::to(&mut packed);
    parallel::for_each(geometry.groups * panels * geometry.batch, work, |task| {
        let (panel, image) = (task / geometry.batch, task % geometry.batch);
        let (group, first) = (panel / panels, panel % panels * width);
        let rows = width.min(outputs - first);
        let from = (image * geometry.outputs + group * outputs + first) * places;
        // SAFETY: each image's part of a panel is one task's.
        unsafe {
            let to = to.at(panel * panel_len + image * places * width);
            transpose(gradient[from..].as_ptr(), places, [rows, places], to, width);
        }
    });
    packed
}

struct Tiles<'a> {
    geometry: &'a Geometry,
    /// Whether rows of the product are columns of the kernel, not input channels.
    few: bool,
    /// Taps of the kernel or, if `few`, input channels times rows of the kernel.
    taps: usize,
    /// Of the product, for one tap.
    rows: usize,
    /// Of one group.
    panels: usize,
    outputs: usize,
    x: &'a [f32],
    gradient: &'a [f32],
    to: Pointer,
}

/// What a tile is made from.
struct Source {
    /// The first row's first value, if no window reached over the edge.
    x: isize,
    /// From one row to the next.
    row: usize,
    /// Of the packed gradient.
    gradient: *const f32,
    /// Places whose window has this tap within the image, along rows and columns.
    inside: [Range<usize>; 2],
}

impl Body for Tiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let [height, _] = gemm::size::<S>();
        let blocks = self.rows.div_ceil(height);
        for tile in range {
            let (tap, rest) = (tile % self.taps, tile / self.taps);
            let (block, rest) = (rest % blocks, rest / blocks);
            let (panel, group) = (rest % self.panels, rest / self.panels);
            let used = (self.outputs - panel * gemm::columns::<S>()).min(gemm::columns::<S>());
            let end = ((block + 1) * height).min(self.rows);
            let mut row = block * height;
            while row < end {
                let at = [group, panel, tap, row];
                let size = [end - row, used.div_ceil(S::F32_LANES)];
                // SAFETY: the caller's promise.
                row += unsafe { gemm::with_size!(S, size, (Self::tile(self, simd, at, used))) };
            }
        }
    }
}

impl Tiles<'_> {
    fn source<S: Simd>(&self, [group, panel, tap, row]: [usize; 4]) -> Source {
        let geometry = self.geometry;
        let inputs = geometry.inputs / geometry.groups;
        let [kernel_rows, kernel_columns] = geometry.kernel;
        let [channel, kernel_row, kernel_column] = if self.few {
            [tap / kernel_rows, tap % kernel_rows, row]
        } else {
            [row, tap / kernel_columns, tap % kernel_columns]
        };
        let offset =
            |axis: usize, tap: usize| (tap * geometry.dilation[axis]) as isize - geometry.padding[axis] as isize;
        let [y, x] = [offset(0, kernel_row), offset(1, kernel_column)];
        let inside = |axis: usize, offset: isize| {
            let stride = geometry.stride[axis];
            let first = ((-offset).max(0) as usize).div_ceil(stride);
            let room = (geometry.input[axis] as isize - offset).max(0) as usize;
            let end = room.div_ceil(stride).min(geometry.output[axis]);
            first.min(end)..end
        };
        let [height, width] = geometry.input;
        let plane = (group * inputs + channel) * height * width;
        let panel_len = geometry.batch * geometry.output[0] * geometry.output[1] * gemm::columns::<S>();
        Source {
            x: plane as isize + y * width as isize + x,
            row: if self.few { geometry.dilation[1] } else { height * width },
            gradient: self.gradient[(group * self.panels + panel) * panel_len..].as_ptr(),
            inside: match self.few {
                // All rows of the tile are within the padded image.
                true => geometry.output.map(|size| 0..size),
                false => [inside(0, y), inside(1, x)],
            },
        }
    }

    /// A tile of `R` rows; says of how many.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(&self, simd: S, at: [usize; 4], used: usize) -> usize {
        let geometry = self.geometry;
        let source = self.source::<S>(at);
        let [rows, columns] = source.inside.clone();
        let width = gemm::columns::<S>();
        let [row_step, column_step] = [geometry.stride[0] * geometry.input[1], geometry.stride[1]];
        let image_len = geometry.inputs * geometry.input[0] * geometry.input[1];
        let places = geometry.output[0] * geometry.output[1];
        // Along the longer axis: the columns of a row, or the images at one place.
        let along_images = columns.len() < geometry.batch;
        let (runs, run_len) = if along_images {
            (rows.len() * columns.len(), geometry.batch)
        } else {
            (rows.len() * geometry.batch, columns.len())
        };
        let (step, right_step) = if along_images { (image_len, places * width) } else { (column_step, width) };
        let per_piece = (DEPTH / run_len.max(1)).max(1);
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for first in (0..runs).step_by(per_piece) {
            let mut piece = [[simd.splat_f32s(0.0); V]; R];
            for run in first..(first + per_piece).min(runs) {
                let [image, row, column] = if along_images {
                    [0, rows.start + run / columns.len(), columns.start + run % columns.len()]
                } else {
                    [run / rows.len(), rows.start + run % rows.len(), columns.start]
                };
                let from = image * image_len + row * row_step + column * column_step;
                let place = image * places + row * geometry.output[1] + column;
                let left =
                    Left { pointer: self.x.as_ptr().wrapping_offset(source.x + from as isize), row: source.row, step };
                // SAFETY: places inside the image, whose gradient is packed.
                unsafe {
                    let right = source.gradient.add(place * width);
                    gemm::accumulate(simd, run_len, left, right, right_step, &mut piece);
                }
            }
            add_all(simd, &mut sums, &piece);
        }
        let [group, panel, tap, row] = at;
        let inputs = geometry.inputs / geometry.groups;
        let area = geometry.kernel[0] * geometry.kernel[1];
        let mut values = [0.0f32; gemm::MOST_COLUMNS];
        for (index, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                // SAFETY: a tile is no wider than that.
                unsafe { simd::store(simd, values[vector * S::F32_LANES..].as_mut_ptr(), sum) };
            }
            let place = if self.few { tap * geometry.kernel[1] + row + index } else { (row + index) * area + tap };
            for (column, &value) in values.iter().enumerate().take(used) {
                let output = group * self.outputs + panel * width + column;
                // SAFETY: this tile's own elements.
                unsafe { *self.to.at(output * inputs * area + place) = value };
            }
        }
        R
    }
}

#[inline(always)]
fn add_all<S: Simd, const R: usize, const V: usize>(simd: S, sums: &mut [[S::f32s; V]; R], more: &[[S::f32s; V]; R]) {
    for (sums, more) in sums.iter_mut().zip(more) {
        for (sum, &more) in sums.iter_mut().zip(more) {
            *sum = simd.add_f32s(*sum, more);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dense::{self, Packing};
    use super::super::source::Source;
    use super::super::tests::{Functions, cases, check};
    use super::*;

    const PLAIN: Packing = Packing { cache: None, unit: None };

    const DENSE: Functions = Functions {
        forward: |geometry, x, weight, fold, residual, activation, keep| {
            dense::forward(geometry, [x, weight], fold, residual, activation, keep, PLAIN)
        },
        input_gradient: |geometry, gradient, weight, scale| {
            let gradient = Source::plain(gradient.values());
            dense::input_gradient(geometry, gradient, weight, scale.map(|scale| (scale, &[][..])), PLAIN)
        },
        weight_gradient: gradient,
    };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn is_what_burn_computes(
            mut case in cases(4),
            batch in 1..12usize,
            groups in 1..3usize,
            inputs in 1..12usize,
            outputs in 1..100usize,
        ) {
            case.batch = batch;
            case.groups = groups;
            case.channels = [inputs, outputs];
            check(&DENSE, case);
        }

        #[test]
        fn is_what_burn_computes_for_pixels(mut case in cases(1), batch in 1..80usize, inputs in 1..40usize) {
            case.batch = batch;
            case.channels = [inputs, 20];
            case.size = case.size.map(|size| size.div_ceil(4));
            check(&DENSE, case);
        }
    }
}
