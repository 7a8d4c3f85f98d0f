//! How many multiplications a network takes.

use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The multiply-accumulate operations of all convolutions, linear maps and attention products that `run` computes on this
/// thread; what is done value by value does not count.
pub fn multiply_accumulates<T>(run: impl FnOnce() -> T) -> (T, u64) {
    let before = COUNT.get();
    let result = run();
    (result, COUNT.get() - before)
}

/// Adds a product's share.
pub(crate) fn count(macs: usize) {
    COUNT.set(COUNT.get() + macs as u64);
}
