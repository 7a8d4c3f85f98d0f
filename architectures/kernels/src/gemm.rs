//! The innermost part of every matrix product: a tile of the result, held in registers.

use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

use crate::simd;

/// The largest number of columns of a tile, whatever the processor's vectors.
pub(crate) const MOST_COLUMNS: usize = 3 * 16;

/// Rows and vectors of a tile: as many sums as leave registers for a vector of each column and a factor.
#[inline(always)]
pub(crate) const fn size<S: Simd>() -> [usize; 2] {
    if S::REGISTER_COUNT >= 32 { [8, 3] } else { [6, 2] }
}

/// Columns of a tile on this processor.
#[inline(always)]
pub(crate) const fn columns<S: Simd>() -> usize {
    size::<S>()[1] * S::F32_LANES
}

/// Rows and columns of a tile on this processor.
pub(crate) fn tile() -> [usize; 2] {
    struct Size;
    impl WithSimd for Size {
        type Output = [usize; 2];

        #[inline(always)]
        fn with_simd<S: Simd>(self, _simd: S) -> [usize; 2] {
            [size::<S>()[0], columns::<S>()]
        }
    }
    simd::dispatch(Size)
}

/// Calls a function with the parameters `<S, ROWS, VECTORS>` of the largest tile that has no more than so many rows, and so
/// many vectors or all.
macro_rules! with_size {
    ($simd:ident, $size:expr, $call:tt) => {{
        let [rows, vectors]: [usize; 2] = $size;
        match ($simd::REGISTER_COUNT >= 32, vectors) {
            (true, 1) => $crate::gemm::with_size!($simd, rows, 8, 1, $call),
            (true, 2) => $crate::gemm::with_size!($simd, rows, 8, 2, $call),
            (true, _) => $crate::gemm::with_size!($simd, rows, 8, 3, $call),
            (false, 1) => $crate::gemm::with_size!($simd, rows, 6, 1, $call),
            (false, _) => $crate::gemm::with_size!($simd, rows, 6, 2, $call),
        }
    }};
    ($simd:ident, $rows:expr, $all:literal, $vectors:literal, ($owner:ident::$function:ident($($argument:expr),*))) => {
        match $rows {
            $all.. => $owner::$function::<$simd, $all, $vectors>($($argument),*),
            4.. => $owner::$function::<$simd, 4, $vectors>($($argument),*),
            3 => $owner::$function::<$simd, 3, $vectors>($($argument),*),
            _ => $owner::$function::<$simd, 1, $vectors>($($argument),*),
        }
    };
}
pub(crate) use with_size;

/// The left factor's element (row r, depth k) at `pointer + r·row + k·step`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    pub pointer: *const f32,
    pub row: usize,
    pub step: usize,
}

/// The sums over `depth` of left · right for `R` rows and `V` vectors of columns.
///
/// `right` holds rows of `right_step` values, one row per depth.
///
/// # Safety
/// The elements must exist.
#[inline(always)]
pub(crate) unsafe fn product<S: Simd, const R: usize, const V: usize>(
    simd: S,
    depth: usize,
    left: Left,
    right: *const f32,
    right_step: usize,
) -> [[S::f32s; V]; R] {
    let mut sums = MaybeUninit::<[[S::f32s; V]; R]>::uninit();
    // SAFETY: the caller's promise; every sum is written.
    unsafe {
        let to = sums.as_mut_ptr().cast();
        product_to::<S, R, V>(simd, depth, left, right, right_step, to, V * S::F32_LANES);
        sums.assume_init()
    }
}

/// As [`product`], written to rows that lie `row` values apart.
///
/// # Safety
/// The elements must exist, and the places be free to write.
#[inline(always)]
pub(crate) unsafe fn product_to<S: Simd, const R: usize, const V: usize>(
    simd: S,
    depth: usize,
    left: Left,
    right: *const f32,
    right_step: usize,
    sums: *mut f32,
    row: usize,
) {
    // Once per instruction set, where nothing else claims registers, instead of once per caller.
    simd.vectorize(Tile::<R, V> { depth, left, right, right_step, sums, row, add: false });
}

/// As [`product`], added to `sums`.
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
    let (sums, row) = (sums.as_mut_ptr().cast(), V * S::F32_LANES);
    simd.vectorize(Tile::<R, V> { depth, left, right, right_step, sums, row, add: true });
}

/// See [`product`].
struct Tile<const R: usize, const V: usize> {
    depth: usize,
    left: Left,
    right: *const f32,
    right_step: usize,
    /// Without values if nothing is added to them.
    sums: *mut f32,
    /// From one row of sums to the next.
    row: usize,
    add: bool,
}

impl<const R: usize, const V: usize> WithSimd for Tile<R, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // A known step lets the compiler address the rows without multiplying.
        match self.left {
            Left { step: 1, .. } => self.accumulate(simd, Left { step: 1, ..self.left }),
            Left { row: 1, .. } => self.accumulate(simd, Left { row: 1, ..self.left }),
            left => self.accumulate(simd, left),
        }
    }
}

impl<const R: usize, const V: usize> Tile<R, V> {
    #[inline(always)]
    fn accumulate<S: Simd>(&self, simd: S, left: Left) {
        let place = |row: usize, vector: usize| self.sums.wrapping_add(row * self.row + vector * S::F32_LANES);
        let mut tile = [[simd.splat_f32s(0.0); V]; R];
        if self.add {
            for (row, sums) in tile.iter_mut().enumerate() {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: as many vectors as the tile has.
                    *sum = unsafe { simd::load(simd, place(row, vector)) };
                }
            }
        }
        let mut left_at = left.pointer;
        let mut right_at = self.right;
        for _ in 0..self.depth {
            let mut columns = [simd.splat_f32s(0.0); V];
            for (vector, column) in columns.iter_mut().enumerate() {
                // SAFETY: promised by the caller.
                *column = unsafe { simd::load(simd, right_at.add(vector * S::F32_LANES)) };
            }
            for (row, sums) in tile.iter_mut().enumerate() {
                // SAFETY: promised by the caller.
                let factor = simd.splat_f32s(unsafe { *left_at.add(row * left.row) });
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = simd.mul_add_e_f32s(factor, column, *sum);
                }
            }
            left_at = left_at.wrapping_add(left.step);
            right_at = right_at.wrapping_add(self.right_step);
        }
        for (row, sums) in tile.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe { simd::store(simd, place(row, vector), sum) };
            }
        }
    }
}

/// Values in a cache line.
const LINE: usize = 16;

/// A matrix `[depth, columns]` cut into panels of a tile's columns, each `[depth, tile columns]` and filled up with zeros.
#[derive(Debug)]
pub(crate) struct RightPanels {
    values: Vec<f32>,
    /// Where the first panel begins: at a cache line, so that no vector lies in two.
    start: usize,
    pub depth: usize,
    pub columns: usize,
    pub width: usize,
}

impl RightPanels {
    /// Packs a matrix whose element (k, column) is at `k·step + column·stride`.
    pub(crate) fn pack(values: &[f32], depth: usize, columns: usize, step: usize, stride: usize) -> Self {
        let [_, width] = tile();
        let panels = columns.div_ceil(width);
        let work = panels * depth * width;
        let mut packed = vec![0.0f32; work + LINE];
        let start = packed.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let to = crate::array::Pointer::to(&mut packed[start..]);
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
        Self { values: packed, start, depth, columns, width }
    }

    /// Where the panel begins, at this depth.
    pub(crate) fn at(&self, panel: usize, depth: usize) -> *const f32 {
        self.values[self.start + (panel * self.depth + depth) * self.width..].as_ptr()
    }

    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(self.width)
    }
}
