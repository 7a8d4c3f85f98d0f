//! The innermost part of every matrix product: a tile of the result, held in registers.

use pulp::Simd;

use crate::simd;

/// Rows of a tile.
pub(crate) const ROWS: usize = 8;
/// Vectors side by side in a tile.
pub(crate) const VECTORS: usize = 3;
/// The largest number of columns of a tile, whatever the processor's vectors.
pub(crate) const MOST_COLUMNS: usize = VECTORS * 16;

/// The left factor's element (row r, depth k) at `pointer + r·row + k·step`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    pub pointer: *const f32,
    pub row: usize,
    pub step: usize,
}

/// Columns of a tile on this processor.
#[inline(always)]
pub(crate) fn columns<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// The sums over `depth` of left · right for `R` rows and `V` vectors of columns, added to `sums`.
///
/// `right` holds rows of `right_step` values, one row per depth.
///
/// # Safety
/// The elements must exist.
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, const R: usize, const V: usize>(
    simd: S,
    depth: usize,
    left: Left,
    right: *const f32,
    right_step: usize,
    sums: &mut [[S::f32s; V]; R],
) {
    if S::REGISTER_COUNT >= 32 || V == 1 {
        // SAFETY: the caller's promise.
        return unsafe { accumulate_at_once(simd, depth, left, right, right_step, sums) };
    }
    // Sixteen registers: tiles of four rows and two vectors, and what remains.
    let mut part = Parts { depth, left, right, right_step, sums };
    // SAFETY: the caller's promise.
    unsafe {
        let mut row = 0;
        while row + 4 <= R {
            part.accumulate::<S, 4, 2>(simd, row, 0);
            row += 4;
        }
        while row < R {
            part.accumulate::<S, 1, 2>(simd, row, 0);
            row += 1;
        }
        if V > 2 {
            part.accumulate::<S, R, 1>(simd, 0, 2);
        }
    }
}

/// A tile of which only a part is computed at a time.
struct Parts<'a, T, const R: usize, const V: usize> {
    depth: usize,
    left: Left,
    right: *const f32,
    right_step: usize,
    sums: &'a mut [[T; V]; R],
}

impl<T: Copy, const ROWS: usize, const COLUMNS: usize> Parts<'_, T, ROWS, COLUMNS> {
    /// `R` rows and `V` vectors from this row and vector.
    #[inline(always)]
    unsafe fn accumulate<S: Simd<f32s = T>, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        vector: usize,
    ) {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (to, from) in sums.iter_mut().zip(&self.sums[row..]) {
            to.copy_from_slice(&from[vector..vector + V]);
        }
        let left = Left { pointer: self.left.pointer.wrapping_add(row * self.left.row), ..self.left };
        let right = self.right.wrapping_add(vector * S::F32_LANES);
        // SAFETY: the caller's promise.
        unsafe {
            accumulate_at_once(simd, self.depth, left, right, self.right_step, &mut sums);
        }
        for (to, from) in self.sums[row..].iter_mut().zip(&sums) {
            to[vector..vector + V].copy_from_slice(from);
        }
    }
}

/// As [`accumulate`], with all sums in registers.
#[inline(always)]
unsafe fn accumulate_at_once<S: Simd, const R: usize, const V: usize>(
    simd: S,
    depth: usize,
    left: Left,
    right: *const f32,
    right_step: usize,
    sums: &mut [[S::f32s; V]; R],
) {
    let mut tile = *sums;
    let mut left_at = left.pointer;
    let mut right_at = right;
    for _ in 0..depth {
        let mut columns = [simd.splat_f32s(0.0); V];
        for (vector, column) in columns.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *column = unsafe { simd::load(simd, right_at.add(vector * S::F32_LANES)) };
        }
        for (row, sums) in tile.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let factor = simd.splat_f32s(unsafe { *left_at.add(row * left.row) });
            for (sum, &column) in sums.iter_mut().zip(&columns) {
                *sum = simd.mul_add_e_f32s(factor, column, *sum);
            }
        }
        left_at = left_at.wrapping_add(left.step);
        right_at = right_at.wrapping_add(right_step);
    }
    *sums = tile;
}

/// A matrix `[depth, columns]` cut into panels of a tile's columns, each `[depth, tile columns]` and filled up with zeros.
#[derive(Debug)]
pub(crate) struct RightPanels {
    values: Vec<f32>,
    pub depth: usize,
    pub columns: usize,
    pub width: usize,
}

impl RightPanels {
    /// Packs a matrix whose element (k, column) is at `k·step + column·stride`.
    pub(crate) fn pack(values: &[f32], depth: usize, columns: usize, step: usize, stride: usize) -> Self {
        let width = width();
        let panels = columns.div_ceil(width);
        let mut packed = vec![0.0f32; panels * depth * width];
        let work = packed.len();
        let to = crate::array::Pointer::to(&mut packed);
        crate::parallel::for_each(panels, work, |panel| {
            let first = panel * width;
            let used = width.min(columns - first);
            // SAFETY: each panel is one task's.
            let panel = unsafe { to.slice(panel * depth * width, depth * width) };
            if stride == 1 {
                for k in 0..depth {
                    let from = k * step + first;
                    panel[k * width..k * width + used].copy_from_slice(&values[from..from + used]);
                }
            } else {
                // By blocks of depth, so that each column's cache lines serve several rows of the panel.
                for start in (0..depth).step_by(16) {
                    let end = (start + 16).min(depth);
                    for column in 0..used {
                        let from = (first + column) * stride;
                        for k in start..end {
                            panel[k * width + column] = values[from + k * step];
                        }
                    }
                }
            }
        });
        Self { values: packed, depth, columns, width }
    }

    /// Where the panel begins, at this depth.
    pub(crate) fn at(&self, panel: usize, depth: usize) -> *const f32 {
        self.values[(panel * self.depth + depth) * self.width..].as_ptr()
    }

    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(self.width)
    }
}

/// Columns of a tile on this processor.
pub(crate) fn width() -> usize {
    simd::dispatch(Width)
}

struct Width;

impl pulp::WithSimd for Width {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        columns::<S>()
    }
}
