//! Rows become columns.

use std::ops::Range;

use pulp::Simd;

use crate::array::{Array, Output, Pointer};
use crate::operation::{Operation, Saved};
use crate::vectors::{Body, each};

/// `[…, row, column]` to `[…, column, row]`.
#[derive(Debug, Clone, Copy)]
pub struct SwapAxes;

impl Operation for SwapAxes {
    fn name(&self) -> &'static str {
        "swap axes"
    }

    fn forward(&self, inputs: Vec<Array>, _keep: bool) -> (Array, Saved) {
        (swapped(&inputs[0]), vec![])
    }

    fn backward(&self, gradient: Array, _saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        vec![Some(swapped(&gradient))]
    }
}

/// Rows of a task: some cache lines of every column.
const ROWS: usize = 64;

fn swapped(x: &Array) -> Array {
    let mut shape = x.shape().to_vec();
    let &[.., rows, columns] = shape.as_slice() else {
        panic!("two axes to swap in {shape:?}");
    };
    let axes = shape.len();
    shape.swap(axes - 2, axes - 1);
    let mut output = Output::new(&shape);
    let len = x.values().len();
    let matrices = len / (rows * columns).max(1);
    let body = Matrices { rows, columns, from: Pointer::reading(x.values()), to: output.pointer() };
    // SAFETY: every task writes to its own rows of a matrix, which are all.
    unsafe {
        each(matrices * rows.div_ceil(ROWS), len, &body);
        output.finish()
    }
}

struct Matrices {
    rows: usize,
    columns: usize,
    from: Pointer,
    to: Pointer,
}

impl Body for Matrices {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, range: Range<usize>) {
        let Self { rows, columns, .. } = *self;
        let per_matrix = rows.div_ceil(ROWS);
        for task in range {
            let start = task / per_matrix * rows * columns;
            let row = task % per_matrix * ROWS;
            // SAFETY: the rows are within the matrix.
            unsafe {
                let from = self.from.at(start + row * columns);
                let to = self.to.at(start + row);
                transpose(from, columns, [ROWS.min(rows - row), columns], to, rows);
            }
        }
    }
}

/// `to[column · to_step + row] = from[row · from_step + column]`.
///
/// # Safety
/// Both matrices must exist, and `to` be free to write.
pub(crate) unsafe fn transpose(
    from: *const f32,
    from_step: usize,
    [rows, columns]: [usize; 2],
    to: *mut f32,
    to_step: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor can; the caller's promise.
        unsafe { eights::transpose(from, from_step, [rows, columns], to, to_step) };
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { plain(from, from_step, [rows, columns], to, to_step) }
}

/// As [`transpose`], value by value.
#[inline(always)]
unsafe fn plain(from: *const f32, from_step: usize, [rows, columns]: [usize; 2], to: *mut f32, to_step: usize) {
    for column in 0..columns {
        for row in 0..rows {
            // SAFETY: the caller's promise.
            unsafe { *to.add(column * to_step + row) = *from.add(row * from_step + column) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod eights {
    use std::arch::x86_64::*;

    /// As outside, in squares of eight.
    #[target_feature(enable = "avx2")]
    pub unsafe fn transpose(
        from: *const f32,
        from_step: usize,
        [rows, columns]: [usize; 2],
        to: *mut f32,
        to_step: usize,
    ) {
        // Two squares one below the other fill whole cache lines of the result.
        const BLOCK: usize = 16;
        let whole_columns = columns / 8 * 8;
        // SAFETY: within the matrices.
        unsafe {
            for first in (0..rows).step_by(BLOCK) {
                let block = BLOCK.min(rows - first);
                let from = from.add(first * from_step);
                let to = to.add(first);
                for column in (0..whole_columns).step_by(8) {
                    let (from, to) = (from.add(column), to.add(column * to_step));
                    for row in (0..block / 8 * 8).step_by(8) {
                        square(from.add(row * from_step), from_step, to.add(row), to_step);
                    }
                    let done = block / 8 * 8;
                    if done < block {
                        let from = from.add(done * from_step);
                        super::plain(from, from_step, [block - done, 8], to.add(done), to_step);
                    }
                }
                if whole_columns < columns {
                    let (from, to) = (from.add(whole_columns), to.add(whole_columns * to_step));
                    super::plain(from, from_step, [block, columns - whole_columns], to, to_step);
                }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn square(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's promise that the squares exist.
        unsafe {
            // The halves of rows i and i + 4 side by side: then everything happens within halves.
            let half = |row: usize, column: usize| _mm_loadu_ps(from.add(row * from_step + column));
            let pair = |row: usize, column: usize| {
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(half(row, column)), half(row + 4, column))
            };
            for column in [0, 4] {
                let rows = [pair(0, column), pair(1, column), pair(2, column), pair(3, column)];
                let low = [_mm256_unpacklo_ps(rows[0], rows[1]), _mm256_unpacklo_ps(rows[2], rows[3])];
                let high = [_mm256_unpackhi_ps(rows[0], rows[1]), _mm256_unpackhi_ps(rows[2], rows[3])];
                let to = to.add(column * to_step);
                for (number, [first, second]) in [low, high].into_iter().enumerate() {
                    let to = to.add(2 * number * to_step);
                    _mm256_storeu_ps(to, _mm256_shuffle_ps::<0b01_00_01_00>(first, second));
                    _mm256_storeu_ps(to.add(to_step), _mm256_shuffle_ps::<0b11_10_11_10>(first, second));
                }
            }
        }
    }
}
