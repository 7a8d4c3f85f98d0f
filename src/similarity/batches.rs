//! Work in batches, as a device likes it.
//!
//! A GPU compiles and tunes its kernels for each shape, so there every batch has the same size: the last one is filled up
//! with copies of its last item. It can also run out of memory, upon which the batch is halved and the work goes on. The
//! CPU needs neither.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn::tensor::Device;

use crate::device::is_cpu;

/// How many items are worked on at once. It shrinks where memory does not suffice, and stays so.
#[derive(Debug)]
pub struct Batches {
    size: Cell<usize>,
    /// A batch is filled up to no more than there are items in all.
    items_in_all: usize,
}

impl Batches {
    /// `size` at once, at least 1, of `items_in_all` in all calls together.
    pub fn new(size: usize, items_in_all: usize) -> Self {
        Self { size: Cell::new(size), items_in_all }
    }

    /// One result for each item, by `work` on batches of them on `device`. `smaller` is told each new size.
    ///
    /// # Panics
    /// As `work` does, unless it runs out of a GPU's memory with more than one item.
    pub fn work<T: Copy, R>(
        &self,
        device: &Device,
        items: &[T],
        work: impl FnMut(&[T]) -> Vec<R>,
        smaller: impl FnMut(usize),
    ) -> Vec<R> {
        match is_cpu(device) {
            true => items.chunks(self.size.get()).flat_map(work).collect(),
            false => self.work_on_gpu(items, work, || device.memory_cleanup(), smaller),
        }
    }

    fn work_on_gpu<T: Copy, R>(
        &self,
        items: &[T],
        mut work: impl FnMut(&[T]) -> Vec<R>,
        clean_up: impl Fn(),
        mut smaller: impl FnMut(usize),
    ) -> Vec<R> {
        let mut results = Vec::with_capacity(items.len());
        while let Some(&[first, ..]) = items.get(results.len()..) {
            let size = self.size.get();
            let mut batch: Vec<T> = items[results.len()..].iter().copied().take(size).collect();
            let count = batch.len();
            let last = batch.last().copied().unwrap_or(first);
            batch.resize(size.min(self.items_in_all).max(count), last);
            match catch_unwind(AssertUnwindSafe(|| work(&batch))) {
                Ok(done) => results.extend(done.into_iter().take(count)),
                Err(panic) if size > 1 && is_out_of_memory(&*panic) => {
                    self.size.set(size.min(self.items_in_all).div_ceil(2));
                    clean_up();
                    smaller(self.size.get());
                }
                Err(panic) => resume_unwind(panic),
            }
        }
        results
    }
}

/// Whether a panic's words are those with which backends say that an allocation failed.
pub fn is_out_of_memory(panic: &(dyn Any + Send)) -> bool {
    says(panic, &["out of memory", "out of device memory", "outofmemory", "out_of_memory", "can't allocate"])
}

/// Whether a panic's words are those with which backends say that the device is gone or broken.
pub fn is_device_lost(panic: &(dyn Any + Send)) -> bool {
    says(panic, &["device lost", "device is lost", "devicelost", "device_lost", "cuda_error_ecc", "launch_failed"])
}

/// What a panic says; nothing if it is no text.
pub fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default()
}

fn says(panic: &(dyn Any + Send), words: &[&str]) -> bool {
    let text = text_of(panic).to_lowercase();
    words.iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Doubles numbers and keeps the batches' sizes; more than `room` at once do not fit.
    fn doubled(batches: &Batches, items: &[usize], room: usize, sizes: &mut Vec<usize>) -> Vec<usize> {
        let work = |batch: &[usize]| {
            assert!(batch.len() <= room, "out of device memory allocating 9 bytes");
            sizes.push(batch.len());
            batch.iter().map(|item| 2 * item).collect()
        };
        batches.work_on_gpu(items, work, || (), |_| ())
    }

    #[test]
    fn on_a_gpu_every_batch_has_the_same_size() {
        let items: Vec<usize> = (0..10).collect();
        let mut sizes = Vec::new();
        let batches = Batches::new(4, 100);
        let results = doubled(&batches, &items, 4, &mut sizes);
        assert_eq!(results, items.iter().map(|item| 2 * item).collect::<Vec<_>>());
        assert_eq!(sizes, [4, 4, 4]);
        assert!(doubled(&batches, &[], 4, &mut sizes).is_empty());
    }

    #[test]
    fn a_batch_is_not_filled_up_beyond_what_there_is() {
        let mut sizes = Vec::new();
        doubled(&Batches::new(32, 3), &[1, 2], 32, &mut sizes);
        assert_eq!(sizes, [3]);
    }

    #[test]
    fn where_memory_does_not_suffice_the_batch_is_halved_for_good() {
        let items: Vec<usize> = (0..10).collect();
        let mut sizes = Vec::new();
        let batches = Batches::new(16, 100);
        let mut told = Vec::new();
        let work = |batch: &[usize]| {
            assert!(batch.len() <= 5, "IoError(OutOfMemory)");
            sizes.push(batch.len());
            batch.to_vec()
        };
        let results = batches.work_on_gpu(&items, work, || (), |size| told.push(size));
        assert_eq!(results, items);
        assert_eq!(told, [8, 4]);
        assert_eq!(sizes, [4, 4, 4]);
        doubled(&batches, &items[..1], 5, &mut sizes);
        assert_eq!(sizes.last(), Some(&4));
    }

    #[test]
    #[should_panic(expected = "out of device memory")]
    fn one_item_that_does_not_fit_is_the_end() {
        doubled(&Batches::new(2, 100), &[1], 0, &mut Vec::new());
    }

    #[test]
    #[should_panic(expected = "another reason")]
    fn other_panics_go_on() {
        let work = |_: &[u8]| -> Vec<u8> { panic!("another reason") };
        Batches::new(2, 100).work_on_gpu(&[1], work, || (), |_| ());
    }

    #[test]
    fn the_cpu_takes_what_there_is() {
        let mut sizes = Vec::new();
        let work = |batch: &[u8]| {
            sizes.push(batch.len());
            batch.to_vec()
        };
        let results = Batches::new(4, 100).work(&Device::flex(), &[7; 6], work, |_| ());
        assert_eq!((results, sizes), (vec![7; 6], vec![4, 2]));
    }
}
