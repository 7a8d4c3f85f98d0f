//! Splitting work over the threads.

use rayon::prelude::*;

/// Work below so many elementary steps is not worth waking another thread for.
const WORTH_SPLITTING: usize = 1 << 15;

/// Calls `task` with 0 … `count` − 1, on all threads if the `work` (elementary steps of all tasks) is worth it.
pub fn for_each(count: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
    if count == 1 || work < WORTH_SPLITTING || rayon::current_num_threads() == 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Splits 0 … `len` into ranges of whole `block`s, about four per thread, and calls `task` with each.
pub fn for_ranges(len: usize, block: usize, work: usize, task: impl Fn(std::ops::Range<usize>) + Sync + Send) {
    let blocks = len.div_ceil(block);
    let parts = if work < WORTH_SPLITTING { 1 } else { blocks.min(4 * rayon::current_num_threads()) };
    if parts == 0 {
        return;
    }
    for_each(parts, work, |part| {
        let start = blocks * part / parts * block;
        let end = (blocks * (part + 1) / parts * block).min(len);
        task(start..end);
    });
}
