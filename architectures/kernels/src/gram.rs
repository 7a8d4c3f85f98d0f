//! Inner products of rows with each other, for few rows of many columns: the features of a batch of images.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::simd;

/// Rows of a tile of products, and columns of it; the sums of a whole one need 32 registers.
const TILE: usize = 4;

/// The inner products of the rows of `values`, `[row, width]`, with each other over some of their columns, once each column is moved
/// to mean 0: `[row, row]`, symmetric.
///
/// One thread computes it, so that callers divide columns among theirs; those of one call, about a thousand, should fit eight times
/// into the first-level cache. Half of the products are computed and the others copied.
///
/// # Panics
/// If `values` are not whole rows, or a column is beyond their width.
pub fn centred_products(values: &[f32], width: usize, columns: Range<usize>) -> Vec<f32> {
    assert!(columns.start <= columns.end && columns.end <= width, "columns {columns:?} of rows of {width}");
    assert_eq!(values.len() % width, 0, "values are whole rows");
    simd::dispatch(CentredProducts { values, width, columns })
}

struct CentredProducts<'a> {
    values: &'a [f32],
    width: usize,
    columns: Range<usize>,
}

impl WithSimd for CentredProducts<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { values, width, columns } = self;
        let rows = values.len() / width;
        let depth = columns.len().next_multiple_of(S::F32_LANES);
        // Whole vectors and whole tiles, the rest zero. A line more for each row, so that rows do not all begin in the same
        // place of the cache.
        let stride = depth + 16;
        let mut moved = vec![0.0f32; rows.next_multiple_of(TILE) * stride];
        centre(values, width, columns, &mut moved, stride);
        let mut products = vec![0.0f32; rows * rows];
        for row in (0..rows).step_by(TILE) {
            for column in (row..rows).step_by(TILE) {
                let [left, right] = [row, column].map(|first| &moved[first * stride..][..TILE * stride]);
                // SAFETY: both have `TILE` rows of `stride` values, and `depth` is less.
                let tile = unsafe { tile(simd, left.as_ptr(), right.as_ptr(), stride, depth) };
                for (at, sums) in tile.iter().enumerate().take(rows - row) {
                    for (beside, &sum) in sums.iter().enumerate().take(rows - column) {
                        products[(row + at) * rows + column + beside] = sum;
                        products[(column + beside) * rows + row + at] = sum;
                    }
                }
            }
        }
        products
    }
}

/// Writes the columns of all rows, each moved to mean 0, row by row.
#[inline(always)]
fn centre(values: &[f32], width: usize, columns: Range<usize>, moved: &mut [f32], stride: usize) {
    // From the first row, so that a constant has no rounding. The mean itself may be rounded: no caller sees where rows are moved.
    let first = &values[columns.clone()];
    let mut means = vec![0.0f32; columns.len()];
    for row in values.chunks_exact(width) {
        for ((sum, &value), &first) in means.iter_mut().zip(&row[columns.clone()]).zip(first) {
            *sum += value - first;
        }
    }
    let share = 1.0 / (values.len() / width) as f32;
    for (mean, &first) in means.iter_mut().zip(first) {
        *mean = first + *mean * share;
    }
    for (to, row) in moved.chunks_exact_mut(stride).zip(values.chunks_exact(width)) {
        for ((to, &value), &mean) in to.iter_mut().zip(&row[columns.clone()]).zip(&means) {
            *to = value - mean;
        }
    }
}

/// The products of `TILE` rows with `TILE` rows.
///
/// # Safety
/// Both must have so many rows of `stride` values, and `depth`, whole vectors, be no more.
#[inline(always)]
unsafe fn tile<S: Simd>(
    simd: S,
    left: *const f32,
    right: *const f32,
    stride: usize,
    depth: usize,
) -> [[f32; TILE]; TILE] {
    const HALF: usize = TILE / 2;
    let mut products = [[0.0; TILE]; TILE];
    // SAFETY: the caller's promise.
    unsafe {
        if S::REGISTER_COUNT >= 32 {
            part::<S, TILE>(simd, left, right, stride, depth, &mut products);
        } else {
            let (above, below) = products.split_at_mut(HALF);
            part::<S, HALF>(simd, left, right, stride, depth, above);
            part::<S, HALF>(simd, left.add(HALF * stride), right, stride, depth, below);
        }
    }
    products
}

/// The products of `R` rows with `TILE` rows.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
unsafe fn part<S: Simd, const R: usize>(
    simd: S,
    left: *const f32,
    right: *const f32,
    stride: usize,
    depth: usize,
    products: &mut [[f32; TILE]],
) {
    let mut sums = [[simd.splat_f32s(0.0); TILE]; R];
    for at in (0..depth).step_by(S::F32_LANES) {
        let mut others = [simd.splat_f32s(0.0); TILE];
        for (row, other) in others.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *other = unsafe { simd::load(simd, right.add(row * stride + at)) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let value = unsafe { simd::load(simd, left.add(row * stride + at)) };
            for (sum, &other) in sums.iter_mut().zip(&others) {
                *sum = simd.mul_add_e_f32s(value, other, *sum);
            }
        }
    }
    for (products, sums) in products.iter_mut().zip(&sums) {
        for (product, &sum) in products.iter_mut().zip(sums) {
            *product = simd.reduce_sum_f32s(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between −2 and 3 that look random.
    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|at| 0.5 + 2.5 * ((at * at + 31 * at) as f32 * 0.71).sin()).collect()
    }

    /// Beside sums in double precision, for numbers of rows and columns that leave parts of tiles and vectors.
    #[test]
    fn products_are_those_of_the_definition() {
        let width = 1100;
        for (rows, columns) in [(1, 0..5), (2, 3..4), (4, 0..64), (7, 10..1034), (18, 0..1100), (33, 1000..1090)] {
            let values = numbers(rows * width);
            let found = centred_products(&values, width, columns.clone());
            let value = |row: usize, column: usize| f64::from(values[row * width + column]);
            let mean = |column: usize| (0..rows).map(|row| value(row, column)).sum::<f64>() / rows as f64;
            let means: Vec<f64> = (0..width).map(mean).collect();
            for a in 0..rows {
                for b in 0..rows {
                    let moved = |row: usize, column: usize| value(row, column) - means[column];
                    let expected: f64 = columns.clone().map(|column| moved(a, column) * moved(b, column)).sum();
                    let ours = f64::from(found[a * rows + b]);
                    let tolerance = 1e-5 * columns.len() as f64;
                    assert!((ours - expected).abs() < tolerance, "{rows} rows, {columns:?}: {ours}, {expected}");
                    assert_eq!(found[a * rows + b], found[b * rows + a]);
                }
            }
        }
    }

    #[test]
    fn what_is_constant_is_exactly_0() {
        assert_eq!(centred_products(&[1.1; 30], 6, 0..6), [0.0; 25]);
        let spoilt = centred_products(&[1.0, f32::NAN, 2.0, 3.0], 2, 0..2);
        assert!(spoilt.iter().any(|value| value.is_nan()));
    }
}
