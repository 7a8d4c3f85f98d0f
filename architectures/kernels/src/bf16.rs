//! Matrix products whose factors are rounded to bf16 (to nearest, ties to even) and whose sums are f32.
//!
//! Two units of a processor do this: AVX512-BF16 (`vdpbf16ps`: two products added to each of 16 sums) and AMX (`tdpbf16ps`:
//! tiles of products). Both read the same layout, in which values that follow each other in depth are pairs of 32 bits:
//!
//! * the left factor row by row, `[row, pair]`;
//! * the right factor `[pair, column]`.
//!
//! Numbers below 2⁻¹²⁶ are zero to both units. They differ in the order of the sums, and so in the last bits; on one
//! processor the same product is the same to the bit, whatever is computed beside it.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::LazyLock;

use pulp::Simd;

use crate::small_product::{PADDING, Product};
use crate::transposition::transpose;
use crate::{parallel, simd};

/// Rows of a tile; that of f32 has the same shape where vectors are as long.
pub(crate) const ROWS: usize = 8;
/// Vectors side by side in a tile.
pub(crate) const VECTORS: usize = 3;
/// Columns of a vector of sums.
pub(crate) const LANES: usize = 16;
/// Columns of a whole tile.
pub(crate) const COLUMNS: usize = VECTORS * LANES;

// Tiles fit into AMX's: 16 rows, and one tile of sums for each vector. The columns of a small product are whole vectors.
const _: () = assert!(ROWS > 4 && ROWS <= 16 && VECTORS <= 3 && LANES == PADDING);

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Avx512,
    Amx,
}

static UNIT: LazyLock<Option<Unit>> = LazyLock::new(|| {
    let asked = std::env::var("NETKIN_BF16");
    match asked.as_deref() {
        Ok("none") => None,
        Ok("avx512") => x86::has_avx512().then_some(Unit::Avx512),
        _ if x86::has_avx512() && x86::may_use_amx() => Some(Unit::Amx),
        _ => x86::has_avx512().then_some(Unit::Avx512),
    }
});

impl Unit {
    /// The best that the processor has, and that the system lets us use. AMX, too, is only used with AVX512-BF16, which rounds.
    pub fn find() -> Option<Self> {
        *UNIT
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "AVX512-BF16",
            Self::Amx => "AMX-BF16",
        }
    }

    /// So many values of depth are multiplied at once; factors are filled up with zeros to a multiple of it.
    pub fn step(self) -> usize {
        match self {
            Self::Avx512 => 2,
            Self::Amx => 32,
        }
    }

    /// Pairs that stand for so many values of depth.
    pub fn pairs(self, depth: usize) -> usize {
        depth.next_multiple_of(self.step()) / 2
    }

    /// Readies this thread for tiles.
    #[inline]
    pub fn begin(self) -> Session {
        if self == Self::Amx {
            // SAFETY: the unit is there, and the system has allowed it.
            unsafe { x86::configure() };
        }
        Session { unit: self, _of_this_thread: std::marker::PhantomData }
    }
}

/// While it lives, this thread multiplies tiles.
pub(crate) struct Session {
    unit: Unit,
    _of_this_thread: std::marker::PhantomData<*const ()>,
}

impl Drop for Session {
    #[inline]
    fn drop(&mut self) {
        if self.unit == Unit::Amx {
            // SAFETY: it was configured on this thread.
            unsafe { x86::release() };
        }
    }
}

/// Rounded factors, from where a tile of their product begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    /// A multiple of half the unit's [`Unit::step`].
    pub pairs: usize,
    pub left: *const u32,
    /// From one row to the next.
    pub left_row: usize,
    pub right: *const u32,
    /// From one pair to the next.
    pub right_step: usize,
}

impl Session {
    /// Writes the sums of `rows` rows and `vectors` vectors of columns to rows `step` apart. Up to [`ROWS`] rows may be written,
    /// however few are wanted.
    ///
    /// # Safety
    /// The factors must exist, the left one with [`ROWS`] rows; so must the places for the sums.
    #[inline]
    pub unsafe fn multiply(&self, factors: &Factors, [rows, vectors]: [usize; 2], to: *mut f32, step: usize) {
        // SAFETY: the unit is there; the rest is the caller's promise.
        unsafe {
            match self.unit {
                Unit::Avx512 => x86::multiply_avx512(factors, [rows, vectors], to, step),
                Unit::Amx => x86::multiply_amx(factors, vectors, to, step),
            }
        }
    }

    /// The sums of a tile of `R` rows and `V` vectors of columns.
    ///
    /// # Safety
    /// As for [`Self::multiply`].
    #[inline(always)]
    pub unsafe fn product<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        factors: &Factors,
    ) -> [[S::f32s; V]; R] {
        #[repr(align(64))]
        struct Memory(MaybeUninit<[f32; ROWS * COLUMNS]>);
        assert!(S::F32_LANES == LANES && R <= ROWS && V <= VECTORS, "a unit has its own tiles");
        let mut memory = Memory(MaybeUninit::uninit());
        let memory = memory.0.as_mut_ptr().cast::<f32>();
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        // SAFETY: the caller's promise; what is read was written.
        unsafe {
            self.multiply(factors, [R, V], memory, COLUMNS);
            for (row, sums) in sums.iter_mut().enumerate() {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = simd::load(simd, memory.add(row * COLUMNS + vector * LANES));
                }
            }
        }
        sums
    }
}

/// Rounds a row of `len` values to pairs, and fills up with zeros to so many pairs.
///
/// # Safety
/// There must be a [`Unit`], so many values, and places for the pairs.
#[inline]
pub(crate) unsafe fn round_row(from: *const f32, len: usize, to: *mut u32, pairs: usize) {
    // SAFETY: the caller's promise.
    unsafe { x86::round_row(from, len, to, pairs) }
}

/// Rounds `depth` rows of `columns` values (a multiple of [`LANES`]), `step` apart, to rows of pairs that are `to_step` apart, and
/// fills up with zeros to so many rows of pairs.
///
/// # Safety
/// There must be a [`Unit`], the values, and places for the pairs.
#[inline]
pub(crate) unsafe fn pair_rows(
    from: *const f32,
    step: usize,
    [depth, columns]: [usize; 2],
    to: *mut u32,
    to_step: usize,
    pairs: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { x86::pair_rows(from, step, [depth, columns], to, to_step, pairs) }
}

/// A left factor that is kept: for each group, panels of [`ROWS`] rows; of each panel the pieces of depth, one after the
/// other, each `[ROWS, pair]`.
#[derive(Debug)]
pub(crate) struct LeftPanels {
    values: Vec<u32>,
    /// Panels of a group.
    panels: usize,
    /// Values of depth of a piece, and the pairs of all but the last.
    piece: usize,
    piece_pairs: usize,
    pub depth: usize,
    /// Pairs of all pieces.
    row: usize,
}

impl LeftPanels {
    /// Rounds what `value` gives for (group, row, depth); `piece` values of depth are multiplied at a time.
    pub fn new(
        unit: Unit,
        [groups, rows, depth]: [usize; 3],
        piece: usize,
        value: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let panels = rows.div_ceil(ROWS);
        let pieces = depth.div_ceil(piece).max(1);
        let piece_pairs = unit.pairs(piece);
        let row = (pieces - 1) * piece_pairs + unit.pairs(depth - (pieces - 1) * piece);
        let mut values = vec![0u32; groups * panels * ROWS * row];
        let work = values.len();
        let to = Places(values.as_mut_ptr());
        parallel::for_each(groups * panels, work, |index| {
            let (group, first) = (index / panels, index % panels * ROWS);
            let mut line = vec![0.0f32; piece];
            for number in 0..pieces {
                let start = number * piece;
                let len = piece.min(depth - start);
                let pairs = unit.pairs(len);
                for in_panel in 0..ROWS.min(rows - first) {
                    for (k, line) in line[..len].iter_mut().enumerate() {
                        *line = value(group, first + in_panel, start + k);
                    }
                    let at = index * ROWS * row + number * ROWS * piece_pairs + in_panel * pairs;
                    // SAFETY: each panel is one task's; there is a unit, since the caller has one.
                    unsafe { round_row(line.as_ptr(), len, to.at(at), pairs) };
                }
            }
        });
        Self { values, panels, piece, piece_pairs, depth, row }
    }

    /// Where the piece of a panel begins, and how many pairs its rows have.
    #[inline]
    pub fn at(&self, unit: Unit, group: usize, panel: usize, piece: usize) -> (*const u32, usize) {
        let panel = group * self.panels + panel;
        let len = self.piece.min(self.depth.saturating_sub(piece * self.piece));
        if len == 0 {
            // A product of no depth is zero.
            return (self.values.as_ptr(), 0);
        }
        let at = panel * ROWS * self.row + piece * ROWS * self.piece_pairs;
        (self.values[at..].as_ptr(), unit.pairs(len))
    }
}

/// A right factor that is kept: panels of [`COLUMNS`] columns, each `[pair, COLUMNS]`.
#[derive(Debug)]
pub(crate) struct RightPanels {
    values: Vec<u32>,
    pub depth: usize,
    pub columns: usize,
    /// Of a panel.
    pairs: usize,
}

impl RightPanels {
    /// Rounds a matrix whose element (depth, column) is what `value` gives.
    pub fn new(unit: Unit, depth: usize, columns: usize, value: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let pairs = unit.pairs(depth);
        let panels = columns.div_ceil(COLUMNS);
        let mut values = vec![0u32; panels * pairs * COLUMNS];
        let work = values.len();
        let to = Places(values.as_mut_ptr());
        parallel::for_each(panels, work, |panel| {
            let first = panel * COLUMNS;
            let used = COLUMNS.min(columns - first);
            // By blocks of depth, so that each column's cache lines serve several rows of the panel.
            let mut block = [[0.0f32; COLUMNS]; 16];
            for start in (0..depth).step_by(block.len()) {
                let len = block.len().min(depth - start);
                for column in 0..used {
                    for (k, row) in block[..len].iter_mut().enumerate() {
                        row[column] = value(start + k, first + column);
                    }
                }
                let at = (panel * pairs + start / 2) * COLUMNS;
                // SAFETY: each panel is one task's; there is a unit, since the caller has one.
                unsafe {
                    let from = block.as_ptr().cast();
                    pair_rows(from, COLUMNS, [len, COLUMNS], to.at(at), COLUMNS, len.div_ceil(2));
                }
            }
        });
        Self { values, depth, columns, pairs }
    }

    pub fn panels(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    /// Where the panel begins, at this depth, which must be even.
    #[inline]
    pub fn at(&self, panel: usize, depth: usize) -> *const u32 {
        self.values[(panel * self.pairs + depth / 2) * COLUMNS..].as_ptr()
    }
}

/// A place for pairs that several threads write to, each at elements of its own.
#[derive(Clone, Copy)]
struct Places(*mut u32);

// SAFETY: whoever writes through it promises, in an unsafe block of its own, that no two threads meet.
unsafe impl Send for Places {}
// SAFETY: as above.
unsafe impl Sync for Places {}

impl Places {
    unsafe fn at(self, index: usize) -> *mut u32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}

/// Memory for rounded factors.
#[derive(Default)]
pub(crate) struct Scratch {
    pub left: Vec<u32>,
    pub right: Vec<u32>,
    transposed: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// This thread's, to be given back by [`Self::keep`].
    pub fn take() -> Self {
        SCRATCH.take()
    }

    pub fn keep(self) {
        SCRATCH.set(self);
    }
}

/// Makes room for so many.
pub(crate) fn grow<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    if values.len() < len {
        values.resize(len, T::default());
    }
}

/// Rounded rows of a left factor, for a task on one thread.
pub(crate) struct Rows {
    unit: Unit,
    session: Session,
    scratch: Scratch,
    /// Of a row.
    pairs: usize,
}

impl Rows {
    /// None yet.
    pub fn new(unit: Unit) -> Self {
        Self { unit, session: unit.begin(), scratch: Scratch::take(), pairs: 0 }
    }

    /// Rounds these rows of `len` values, instead of those before.
    pub fn fill<'a>(&mut self, rows: impl ExactSizeIterator<Item = &'a [f32]>, len: usize) {
        self.pairs = self.unit.pairs(len);
        // A tile has all its rows, though only some may be wanted.
        grow(&mut self.scratch.left, (rows.len() + ROWS) * self.pairs);
        for (index, row) in rows.enumerate() {
            let to = self.scratch.left[index * self.pairs..][..self.pairs].as_mut_ptr();
            // SAFETY: there is a unit, and the row and its place have the length.
            unsafe { round_row(row[..len].as_ptr(), len, to, self.pairs) };
        }
    }

    /// The sums of `R` rows from `row` on with `V` vectors of columns of the right factor.
    ///
    /// # Safety
    /// There must be such rows, and in a panel of [`COLUMNS`] columns from `right` on as many pairs.
    #[inline(always)]
    pub unsafe fn product<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        row: usize,
        right: *const u32,
    ) -> [[S::f32s; V]; R] {
        let left = self.scratch.left[row * self.pairs..].as_ptr();
        let factors = Factors { pairs: self.pairs, left, left_row: self.pairs, right, right_step: COLUMNS };
        // SAFETY: the caller's promise; behind the last row there is room for a tile.
        unsafe { self.session.product(simd, &factors) }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        std::mem::take(&mut self.scratch).keep();
    }
}

/// As [`Product::compute`], with factors that are rounded first.
///
/// # Safety
/// As there.
pub(crate) unsafe fn product(unit: Unit, product: &Product) {
    let &Product { rows, columns, depth, a, a_row, a_step, b, b_step, c, c_row, add, .. } = product;
    let pairs = unit.pairs(depth);
    let mut scratch = Scratch::take();
    let Scratch { left, right, transposed } = &mut scratch;
    grow(left, rows.next_multiple_of(ROWS) * pairs);
    grow(right, pairs * columns);
    let session = unit.begin();
    // SAFETY: the caller's promise; the scratch is large enough.
    unsafe {
        let (mut a, mut a_row) = (a, a_row);
        if a_step != 1 {
            assert!(a_row == 1, "a factor has neighbours in rows or in columns");
            grow(transposed, rows * depth);
            transpose(a, a_step, [depth, rows], transposed.as_mut_ptr(), depth);
            (a, a_row) = (transposed.as_ptr(), depth);
        }
        for row in 0..rows {
            round_row(a.add(row * a_row), depth, left[row * pairs..].as_mut_ptr(), pairs);
        }
        pair_rows(b, b_step, [depth, columns], right.as_mut_ptr(), columns, pairs);
        let mut sums = [0.0f32; ROWS * COLUMNS];
        for column in (0..columns).step_by(COLUMNS) {
            let used = COLUMNS.min(columns - column);
            for row in (0..rows).step_by(ROWS) {
                let factors = Factors {
                    pairs,
                    left: left[row * pairs..].as_ptr(),
                    left_row: pairs,
                    right: right[column..].as_ptr(),
                    right_step: columns,
                };
                let size = [ROWS.min(rows - row), used / LANES];
                let to = c.add(row * c_row + column);
                if !add && size[0] == ROWS {
                    session.multiply(&factors, size, to, c_row);
                    continue;
                }
                session.multiply(&factors, size, sums.as_mut_ptr(), COLUMNS);
                for (row, sums) in sums.chunks_exact(COLUMNS).enumerate().take(size[0]) {
                    for (column, &sum) in sums[..used].iter().enumerate() {
                        let to = to.add(row * c_row + column);
                        *to = if add { *to + sum } else { sum };
                    }
                }
            }
        }
    }
    drop(session);
    scratch.keep();
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::{Factors, LANES, ROWS};

    /// Whether there is AVX512-BF16, and vectors of 512 bits are not forbidden by `NETKIN_SIMD`.
    pub fn has_avx512() -> bool {
        crate::simd::are_512_bits()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16")
    }

    /// Whether there is AMX with products of bf16, and the system lets this process use it.
    pub fn may_use_amx() -> bool {
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        let flags = __cpuid_count(7, 0).edx;
        flags & AMX_BF16 != 0 && flags & AMX_TILE != 0 && is_permitted()
    }

    /// Asks Linux for the tiles' state, which it gives to those processes alone that ask, for all of their threads.
    #[cfg(target_os = "linux")]
    fn is_permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and changes nothing but the process's permissions. A system that does not
        // know it, or whose threads' stacks for signals are too small, says no.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn is_permitted() -> bool {
        false
    }

    /// The tiles' shapes, as the processor reads them.
    #[repr(C, align(64))]
    struct Shapes {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// Tiles 0 to 2 are sums and tile 3 is of the left factor, with [`ROWS`] rows; 4 to 6 are of the right one, with 16 rows of
    /// pairs.
    static SHAPES: Shapes = Shapes {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [ROWS as u8, ROWS as u8, ROWS as u8, ROWS as u8, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// # Safety
    /// [`may_use_amx`] must have said yes.
    pub unsafe fn configure() {
        // SAFETY: the shapes are valid; until `release` no code of ours but that for tiles touches them.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, preserves_flags, readonly)) };
    }

    /// # Safety
    /// As for [`configure`].
    pub unsafe fn release() {
        // SAFETY: leaves the tiles as a new thread has them.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }

    /// # Safety
    /// As for [`Session::multiply`](super::Session::multiply), after [`configure`].
    pub unsafe fn multiply_amx(factors: &Factors, vectors: usize, to: *mut f32, row: usize) {
        let bytes = |values: usize| values * size_of::<u32>();
        let &Factors { pairs, left, left_row, right, right_step } = factors;
        let steps = pairs / 16;
        if steps == 0 {
            for index in 0..ROWS {
                // SAFETY: the caller's promise.
                unsafe { to.add(index * row).write_bytes(0, vectors * LANES) };
            }
            return;
        }
        // The loads' strides are the index registers. Each case keeps its sums in tiles until the end.
        macro_rules! tiles {
            ([$($zero:literal),*], [$($multiply:literal),*], [$($store:literal),*]) => {
                asm!(
                    $($zero,)*
                    "2:",
                    "tileloadd tmm3, [{left} + {left_row}*1]",
                    $($multiply,)*
                    "add {left}, 64",
                    "add {right}, {right_block}",
                    "dec {steps}",
                    "jnz 2b",
                    $($store,)*
                    left = inout(reg) left => _,
                    left_row = in(reg) bytes(left_row),
                    right = inout(reg) right => _,
                    right_step = in(reg) bytes(right_step),
                    right_block = in(reg) bytes(16 * right_step),
                    steps = inout(reg) steps => _,
                    to = in(reg) to,
                    row = in(reg) bytes(row),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _,
                    options(nostack),
                )
            };
        }
        // SAFETY: what is read and written is the caller's promise; tiles are configured for it.
        unsafe {
            match vectors {
                1 => tiles!(
                    ["tilezero tmm0"],
                    ["tileloadd tmm4, [{right} + {right_step}*1]", "tdpbf16ps tmm0, tmm3, tmm4"],
                    ["tilestored [{to} + {row}*1], tmm0"]
                ),
                2 => tiles!(
                    ["tilezero tmm0", "tilezero tmm1"],
                    [
                        "tileloadd tmm4, [{right} + {right_step}*1]",
                        "tdpbf16ps tmm0, tmm3, tmm4",
                        "tileloadd tmm5, [{right} + {right_step}*1 + 64]",
                        "tdpbf16ps tmm1, tmm3, tmm5"
                    ],
                    ["tilestored [{to} + {row}*1], tmm0", "tilestored [{to} + {row}*1 + 64], tmm1"]
                ),
                _ => tiles!(
                    ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2"],
                    [
                        "tileloadd tmm4, [{right} + {right_step}*1]",
                        "tdpbf16ps tmm0, tmm3, tmm4",
                        "tileloadd tmm5, [{right} + {right_step}*1 + 64]",
                        "tdpbf16ps tmm1, tmm3, tmm5",
                        "tileloadd tmm6, [{right} + {right_step}*1 + 128]",
                        "tdpbf16ps tmm2, tmm3, tmm6"
                    ],
                    [
                        "tilestored [{to} + {row}*1], tmm0",
                        "tilestored [{to} + {row}*1 + 64], tmm1",
                        "tilestored [{to} + {row}*1 + 128], tmm2"
                    ]
                ),
            }
        }
    }

    /// # Safety
    /// As for [`Session::multiply`](super::Session::multiply); [`has_avx512`] must have said yes.
    #[inline]
    pub unsafe fn multiply_avx512(factors: &Factors, size: [usize; 2], to: *mut f32, row: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match size {
                [1, 1] => rows_by_vectors::<1, 1>(factors, to, row),
                [1, 2] => rows_by_vectors::<1, 2>(factors, to, row),
                [1, _] => rows_by_vectors::<1, 3>(factors, to, row),
                [2..=4, 1] => rows_by_vectors::<4, 1>(factors, to, row),
                [2..=4, 2] => rows_by_vectors::<4, 2>(factors, to, row),
                [2..=4, _] => rows_by_vectors::<4, 3>(factors, to, row),
                [_, 1] => rows_by_vectors::<ROWS, 1>(factors, to, row),
                [_, 2] => rows_by_vectors::<ROWS, 2>(factors, to, row),
                [_, _] => rows_by_vectors::<ROWS, 3>(factors, to, row),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn rows_by_vectors<const R: usize, const V: usize>(factors: &Factors, to: *mut f32, row: usize) {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        let (mut left, mut right) = (factors.left, factors.right);
        for _ in 0..factors.pairs {
            let mut columns = [_mm512_setzero_si512(); V];
            for (vector, column) in columns.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *column = unsafe { _mm512_loadu_si512(right.add(vector * LANES).cast()) };
            }
            for (index, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let factor = _mm512_set1_epi32(unsafe { *left.add(index * factors.left_row) }.cast_signed());
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_dpbf16_ps(*sum, as_bf16(factor), as_bf16(column));
                }
            }
            left = left.wrapping_add(1);
            right = right.wrapping_add(factors.right_step);
        }
        for (index, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { _mm512_storeu_ps(to.add(index * row + vector * LANES), sum) };
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn as_bf16(pairs: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits that may be any.
        unsafe { std::mem::transmute(pairs) }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn as_pairs(values: __m512bh) -> __m512i {
        // SAFETY: both are 512 bits that may be any.
        unsafe { std::mem::transmute(values) }
    }

    /// The first `count` of 16 lanes; all, if there are more.
    fn first(count: usize) -> __mmask16 {
        if count >= LANES { !0 } else { (1 << count) - 1 }
    }

    /// # Safety
    /// As for [`round_row`](super::round_row).
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn round_row(from: *const f32, len: usize, to: *mut u32, pairs: usize) {
        for pair in (0..pairs).step_by(LANES) {
            let index = 2 * pair;
            // Lanes that have no value are not read, and zero.
            let value = |index: usize| {
                let mask = first(len.saturating_sub(index));
                // SAFETY: the caller's promise.
                unsafe { _mm512_maskz_loadu_ps(mask, from.wrapping_add(index)) }
            };
            let rounded = as_pairs(_mm512_cvtne2ps_pbh(value(index + LANES), value(index)));
            // SAFETY: the caller's promise.
            unsafe { _mm512_mask_storeu_epi32(to.add(pair).cast(), first(pairs - pair), rounded) };
        }
    }

    /// # Safety
    /// As for [`pair_rows`](super::pair_rows).
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn pair_rows(
        from: *const f32,
        step: usize,
        [depth, columns]: [usize; 2],
        to: *mut u32,
        to_step: usize,
        pairs: usize,
    ) {
        // Value i of the first row, and value i of the second, in turn.
        let mut order = [0u16; 32];
        for (index, order) in order.iter_mut().enumerate() {
            *order = (index / 2 + index % 2 * LANES) as u16;
        }
        // SAFETY: as many bits.
        let order: __m512i = unsafe { std::mem::transmute(order) };
        for pair in 0..pairs {
            for column in (0..columns).step_by(LANES) {
                let value = |k: usize| match k < depth {
                    // SAFETY: the caller's promise.
                    true => unsafe { _mm512_loadu_ps(from.add(k * step + column)) },
                    false => _mm512_setzero_ps(),
                };
                let rounded = as_pairs(_mm512_cvtne2ps_pbh(value(2 * pair + 1), value(2 * pair)));
                let paired = _mm512_permutexvar_epi16(order, rounded);
                // SAFETY: the caller's promise.
                unsafe { _mm512_storeu_si512(to.add(pair * to_step + column).cast(), paired) };
            }
        }
    }
}

/// Elsewhere there is no unit, so that nothing of this is called.
#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    use super::Factors;

    pub fn has_avx512() -> bool {
        false
    }

    pub fn may_use_amx() -> bool {
        false
    }

    pub unsafe fn configure() {
        unreachable!("no unit")
    }

    pub unsafe fn release() {}

    pub unsafe fn multiply_amx(_: &Factors, _: usize, _: *mut f32, _: usize) {
        unreachable!("no unit")
    }

    pub unsafe fn multiply_avx512(_: &Factors, _: [usize; 2], _: *mut f32, _: usize) {
        unreachable!("no unit")
    }

    pub unsafe fn round_row(_: *const f32, _: usize, _: *mut u32, _: usize) {
        unreachable!("no unit")
    }

    pub unsafe fn pair_rows(_: *const f32, _: usize, _: [usize; 2], _: *mut u32, _: usize, _: usize) {
        unreachable!("no unit")
    }
}
