//! What most operations on rows share: going through values vector by vector, over all threads, in place where possible.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::array::{Array, Output, Pointer};
use crate::{parallel, simd};

/// A piece of an operation, to be run with the widest vectors for ranges of tasks.
pub(crate) trait Body: Sync {
    /// Does the tasks of this range. To be marked `#[inline(always)]`.
    ///
    /// # Safety
    /// Each task runs once, and its arrays are as large as the operation says.
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>);
}

struct Tasks<'a, B>(&'a B, Range<usize>);

impl<B: Body> WithSimd for Tasks<'_, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: promised to `over` or `each`.
        unsafe { self.0.run(simd, self.1) }
    }
}

/// Values that a task is worth: large enough to be a task, small enough for the second-level cache.
pub(crate) const BLOCK: usize = 1 << 14;

/// Runs `body` for 0 … `len` − 1, of which each stands for so many `values`, in a few ranges per thread.
///
/// # Safety
/// No two indices write to the same place, and all places exist.
pub(crate) unsafe fn over(len: usize, values: usize, body: &impl Body) {
    let block = (BLOCK / values.max(1)).max(1);
    parallel::for_ranges(len, block, len * values, |range| {
        simd::dispatch(Tasks(body, range));
    });
}

/// Runs `body` for 0 … `count` − 1, each a task of its own.
///
/// # Safety
/// As for [`over`].
pub(crate) unsafe fn each(count: usize, work: usize, body: &impl Body) {
    parallel::for_each(count, work, |index| {
        simd::dispatch(Tasks(body, index..index + 1));
    });
}

/// Neighbouring values: a whole vector, or the fewer at the end.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub index: usize,
    pub count: usize,
}

impl Part {
    /// The values, zero in lanes that have none.
    ///
    /// # Safety
    /// There must be so many values behind `start`.
    #[inline(always)]
    pub unsafe fn load<S: Simd>(self, simd: S, start: *const f32) -> S::f32s {
        // SAFETY: the caller's promise.
        unsafe {
            let pointer = start.add(self.index);
            if self.count == S::F32_LANES {
                simd::load(simd, pointer)
            } else {
                simd::load_some(simd, pointer, self.count)
            }
        }
    }

    /// Writes the values.
    ///
    /// # Safety
    /// There must be so many places behind `start`, free to write.
    #[inline(always)]
    pub unsafe fn store<S: Simd>(self, simd: S, start: *mut f32, values: S::f32s) {
        // SAFETY: the caller's promise.
        unsafe {
            let pointer = start.add(self.index);
            if self.count == S::F32_LANES {
                simd::store(simd, pointer, values)
            } else {
                simd::store_some(simd, pointer, self.count, values)
            }
        }
    }

    /// `values` with `rest` in the lanes that have none.
    #[inline(always)]
    pub fn only<S: Simd>(self, simd: S, values: S::f32s, rest: f32) -> S::f32s {
        if self.count == S::F32_LANES { values } else { simd::first_lanes(simd, self.count, values, rest) }
    }
}

/// Calls `body`, which is to be marked `#[inline(always)]`, for every part of `len` values.
#[inline(always)]
pub(crate) fn parts<S: Simd>(_simd: S, len: usize, mut body: impl FnMut(Part)) {
    let count = S::F32_LANES;
    let mut index = 0;
    while index + count <= len {
        body(Part { index, count });
        index += count;
    }
    if index < len {
        let count = len - index;
        body(Part { index, count });
    }
}

/// N accumulators over the parts of `len` values, from `start`: `body` takes them one part further, `join` puts two together.
#[inline(always)]
fn fold<S: Simd, const N: usize>(
    simd: S,
    len: usize,
    start: f32,
    mut body: impl FnMut([S::f32s; N], Part) -> [S::f32s; N],
    join: impl Fn(S::f32s, S::f32s) -> S::f32s,
) -> [S::f32s; N] {
    // Independent chains, because an addition's result comes some cycles late.
    const CHAINS: usize = 4;
    let count = S::F32_LANES;
    let mut chains = [[simd.splat_f32s(start); N]; CHAINS];
    let mut index = 0;
    while index + CHAINS * count <= len {
        for (number, chain) in chains.iter_mut().enumerate() {
            let index = index + number * count;
            *chain = body(*chain, Part { index, count });
        }
        index += CHAINS * count;
    }
    while index + count <= len {
        chains[0] = body(chains[0], Part { index, count });
        index += count;
    }
    if index < len {
        let count = len - index;
        chains[1] = body(chains[1], Part { index, count });
    }
    let [first, second, third, fourth] = chains;
    let mut result = first;
    for (number, value) in result.iter_mut().enumerate() {
        *value = join(join(first[number], second[number]), join(third[number], fourth[number]));
    }
    result
}

/// N sums over the parts of `len` values; `body`, to be marked `#[inline(always)]`, adds one part to each.
#[inline(always)]
pub(crate) fn sums<S: Simd, const N: usize>(
    simd: S,
    len: usize,
    body: impl FnMut([S::f32s; N], Part) -> [S::f32s; N],
) -> [f32; N] {
    let sums = fold(
        simd,
        len,
        0.0,
        body,
        #[inline(always)]
        |a, b| simd.add_f32s(a, b),
    );
    let mut result = [0.0; N];
    for (result, sum) in result.iter_mut().zip(sums) {
        *result = simd.reduce_sum_f32s(sum);
    }
    result
}

/// The mean of `len` values and the sum of their squared distances from it.
///
/// # Safety
/// So many must exist at `pointer`.
#[inline(always)]
pub(crate) unsafe fn moments<S: Simd>(simd: S, len: usize, pointer: *const f32) -> (f32, f32) {
    let [sum] = sums(
        simd,
        len,
        #[inline(always)]
        |[sum], part: Part| {
            // SAFETY: the caller's promise.
            [simd.add_f32s(sum, unsafe { part.load(simd, pointer) })]
        },
    );
    let mean = sum / len as f32;
    let lanes = simd.splat_f32s(mean);
    let [squares] = sums(
        simd,
        len,
        #[inline(always)]
        |[sum], part: Part| {
            // SAFETY: the caller's promise.
            let centred = simd.sub_f32s(unsafe { part.load(simd, pointer) }, lanes);
            let centred = part.only(simd, centred, 0.0);
            [simd.mul_add_f32s(centred, centred, sum)]
        },
    );
    (mean, squares)
}

/// The largest of `len` values.
///
/// # Safety
/// So many must exist at `pointer`.
#[inline(always)]
pub(crate) unsafe fn largest<S: Simd>(simd: S, len: usize, pointer: *const f32) -> f32 {
    let [lanes] = fold(
        simd,
        len,
        f32::NEG_INFINITY,
        #[inline(always)]
        |[largest], part| {
            // SAFETY: the caller's promise.
            let values = unsafe { part.load(simd, pointer) };
            [simd.max_f32s(largest, part.only(simd, values, f32::NEG_INFINITY))]
        },
        #[inline(always)]
        |a, b| simd.max_f32s(a, b),
    );
    simd.reduce_max_f32s(lanes)
}

/// Sets `len` values to zero.
///
/// # Safety
/// They must exist at `pointer` and be free to write.
#[inline(always)]
pub(crate) unsafe fn clear(pointer: *mut f32, len: usize) {
    // Not a call for nothing.
    if len > 0 {
        // SAFETY: the caller's promise; all bits zero are the number zero.
        unsafe { pointer.write_bytes(0, len) }
    }
}

/// An elementwise result: over its input if nobody else holds that, else in new memory.
pub(crate) struct Target {
    /// Where the input is read.
    pub from: Pointer,
    /// Where the result is written.
    pub to: Pointer,
    input: Array,
    output: Option<Output>,
}

impl Target {
    /// In place if possible.
    pub fn over(mut input: Array) -> Self {
        match input.unique_values().map(Pointer::to) {
            Some(pointer) => Self { from: pointer, to: pointer, input, output: None },
            None => Self::beside(input),
        }
    }

    /// In new memory.
    pub fn beside(input: Array) -> Self {
        let mut output = Output::new(input.shape());
        Self { from: Pointer::reading(input.values()), to: output.pointer(), input, output: Some(output) }
    }

    /// The result.
    ///
    /// # Safety
    /// Every value must have been written.
    pub unsafe fn finish(self) -> Array {
        match self.output {
            // SAFETY: the caller's promise.
            Some(output) => unsafe { output.finish() },
            None => self.input,
        }
    }
}

/// Sums that blocks of work make each for itself, `[block, len]`, to be added up in the blocks' order.
pub(crate) struct Partial {
    sums: Vec<f32>,
    len: usize,
}

impl Partial {
    /// All zero.
    pub fn new(blocks: usize, len: usize) -> Self {
        Self { sums: vec![0.0; blocks * len], len }
    }

    /// To the first block's first sum.
    pub fn pointer(&mut self) -> Pointer {
        Pointer::to(&mut self.sums)
    }

    /// The blocks' sums together.
    pub fn total(&self) -> Vec<f32> {
        let mut total = vec![0.0; self.len];
        for block in self.sums.chunks_exact(self.len) {
            for (total, value) in total.iter_mut().zip(block) {
                *total += value;
            }
        }
        total
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Values in a cache line.
const LINE: usize = 16;

/// Memory of this thread, kept from call to call: N pieces, each from the start of a cache line on. What they hold at first
/// is unknown, but initialised.
///
/// A guard and not a function that takes a closure: there the compiler would not inline what runs inside.
pub(crate) struct Scratch<const N: usize> {
    memory: Vec<f32>,
    /// Where the pieces begin.
    pub pieces: [*mut f32; N],
}

impl<const N: usize> Scratch<N> {
    /// Pieces of these lengths.
    pub fn new(lengths: [usize; N]) -> Self {
        let mut memory = SCRATCH.take();
        let padded = lengths.map(|len| len.next_multiple_of(LINE));
        let total = padded.iter().sum::<usize>() + LINE;
        if memory.len() < total {
            memory.resize(total, 0.0);
        }
        let start = memory.as_mut_ptr();
        let mut index = start.align_offset(LINE * size_of::<f32>()).min(LINE);
        let pieces = padded.map(|len| {
            let pointer = start.wrapping_add(index);
            index += len;
            pointer
        });
        Self { memory, pieces }
    }
}

impl<const N: usize> Drop for Scratch<N> {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.memory));
    }
}
