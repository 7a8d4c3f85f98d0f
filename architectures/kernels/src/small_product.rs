//! Matrix products small enough for one thread and its second-level cache.

use pulp::{Simd, WithSimd};

use crate::bf16::{self, Unit};
use crate::simd;

/// Columns of the matrices are padded to a multiple of this, which is one of every vector's length.
pub(crate) const PADDING: usize = 16;

/// Rows of a product are padded to a multiple of this, which is one of every tile's rows.
pub(crate) const ROWS: usize = 8;

/// c = a·b, or c += a·b.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// Rows of c, a multiple of [`ROWS`].
    pub rows: usize,
    /// Columns of c, a multiple of [`PADDING`].
    pub columns: usize,
    /// Over how many products is summed.
    pub depth: usize,
    pub a: *const f32,
    /// From one row of c to the next.
    pub a_row: usize,
    /// From one summand to the next.
    pub a_step: usize,
    pub b: *const f32,
    /// From one summand to the next; columns are neighbours.
    pub b_step: usize,
    pub c: *mut f32,
    /// From one row to the next; columns are neighbours.
    pub c_row: usize,
    /// Whether c holds something to add to.
    pub add: bool,
    /// What multiplies a and b as bf16, if they are to be.
    pub unit: Option<Unit>,
}

impl Product {
    /// Computes it, in the order of the depth for every element.
    ///
    /// # Safety
    /// The matrices must exist with these sizes, and c be free to write.
    #[inline(always)]
    pub unsafe fn compute<S: Simd>(self, simd: S) {
        match self.unit {
            // Once per instruction set instead of once per call.
            None => simd.vectorize(self),
            // SAFETY: the caller's promise.
            Some(unit) => unsafe { bf16::product(unit, &self) },
        }
    }

    /// All rows of `V` vectors of columns from `column`.
    #[inline(always)]
    unsafe fn panel<S: Simd, const V: usize>(&self, simd: S, column: usize) {
        // SAFETY: as for `compute`.
        unsafe {
            let mut row = 0;
            while row < self.rows {
                row += match self.rows - row {
                    _ if S::REGISTER_COUNT >= 32 || V == 1 => self.tile::<S, ROWS, V>(simd, row, column),
                    // As many sums as sixteen registers hold.
                    6.. => self.tile::<S, 6, V>(simd, row, column),
                    4.. => self.tile::<S, 4, V>(simd, row, column),
                    _ => self.tile::<S, 2, V>(simd, row, column),
                };
            }
        }
    }

    /// A tile of `R` rows; says of how many.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(&self, simd: S, row: usize, column: usize) -> usize {
        let lanes = S::F32_LANES;
        // SAFETY: as for `compute`.
        unsafe {
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            let mut a = self.a.add(row * self.a_row);
            let mut b = self.b.add(column);
            for _ in 0..self.depth {
                let mut values = [simd.splat_f32s(0.0); V];
                for (number, value) in values.iter_mut().enumerate() {
                    *value = simd::load(simd, b.add(number * lanes));
                }
                for (number, sums) in sums.iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*a.add(number * self.a_row));
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = simd.mul_add_f32s(factor, value, *sum);
                    }
                }
                a = a.wrapping_add(self.a_step);
                b = b.wrapping_add(self.b_step);
            }
            for (number, sums) in sums.iter().enumerate() {
                let c = self.c.add((row + number) * self.c_row + column);
                for (number, &sum) in sums.iter().enumerate() {
                    let c = c.add(number * lanes);
                    let sum = if self.add { simd.add_f32s(simd::load(simd, c), sum) } else { sum };
                    simd::store(simd, c, sum);
                }
            }
        }
        R
    }
}

impl WithSimd for Product {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = S::F32_LANES;
        let mut column = 0;
        while column < self.columns {
            // SAFETY: promised to `compute`.
            unsafe {
                // No panel of one vector where two of two are possible; three need more than 16 registers.
                let vectors = match (self.columns - column) / lanes {
                    1 => 1,
                    3 | 5.. if S::REGISTER_COUNT >= 32 => 3,
                    _ => 2,
                };
                match vectors {
                    1 => self.panel::<S, 1>(simd, column),
                    2 => self.panel::<S, 2>(simd, column),
                    _ => self.panel::<S, 3>(simd, column),
                }
                column += vectors * lanes;
            }
        }
    }
}
