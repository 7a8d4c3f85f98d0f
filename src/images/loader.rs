//! Batches of images, read, decoded and transformed by threads while the network works on the batch before.
//!
//! The order is that of the samples, whatever the threads do. An image that cannot be decoded is skipped and reported, and its
//! place is taken by the next one, so that batches stay full; with `strict` it ends the iteration with its error.
//!
//! The threads are the loader's own, not rayon's: a consumer that is itself a thread of rayon's pool may wait here, and would
//! wait for ever if the pool had no other thread.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::dataset::Sample;
use super::decode::DecodeError;
use super::resize::Transform;
use super::{RgbImage, bytes_to_pixels};

/// How images are loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoaderOptions {
    /// Images per batch, at least 1; the last batch may be smaller.
    pub batch_size: usize,
    /// Whether an image that cannot be decoded is an error instead of being skipped.
    pub strict: bool,
    /// How many batches may be ready or in work before they are asked for: bounds the memory.
    pub prefetch: usize,
    /// Threads, at least 1.
    pub threads: usize,
}

impl LoaderOptions {
    /// Lenient, two batches ahead, one thread per processor.
    pub fn new(batch_size: usize) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self { batch_size, strict: false, prefetch: 2, threads }
    }
}

/// Images of one size, with where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Position of each image among the samples, ascending.
    pub indices: Vec<usize>,
    /// Label of each image.
    pub labels: Vec<usize>,
    /// The images, `[count, height, width, 3]`.
    pub bytes: Vec<u8>,
    /// Height and width of each image.
    pub size: (usize, usize),
}

impl Batch {
    /// How many images.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none; the loader gives no such batch.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The pixels in [0, 1], `[count, 3, height, width]`.
    pub fn pixels(&self) -> Vec<f32> {
        let image = self.image_bytes();
        let mut pixels = vec![0.0; self.bytes.len()];
        for (bytes, pixels) in self.bytes.chunks_exact(image).zip(pixels.chunks_exact_mut(image)) {
            bytes_to_pixels(bytes, pixels);
        }
        pixels
    }

    /// The image at `position` of the batch.
    ///
    /// # Panics
    /// If the batch has no such position.
    pub fn image(&self, position: usize) -> RgbImage {
        let image = self.image_bytes();
        let bytes = self.bytes[position * image..][..image].to_vec();
        RgbImage::new(self.size.1, self.size.0, bytes)
    }

    fn image_bytes(&self) -> usize {
        self.size.0 * self.size.1 * 3
    }
}

/// An image that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its position among the samples.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// One sentence, which names the file.
    pub reason: String,
}

/// Starts loading `samples`; iterate over the result.
///
/// # Panics
/// If `batch_size` or `threads` is 0.
pub fn load(samples: &[Sample], transform: Transform, options: LoaderOptions) -> Loader {
    assert!(options.batch_size > 0, "a batch holds at least one image");
    assert!(options.threads > 0, "loading takes at least one thread");
    let samples: Arc<[Sample]> = samples.into();
    let shared = Arc::new(Shared {
        state: Mutex::new(State { next: 0, wanted: 0, done: HashMap::new(), stop: false }),
        room: Condvar::new(),
        ready: Condvar::new(),
        window: options.batch_size.saturating_mul(options.prefetch.saturating_add(1)),
    });
    let workers = (0..options.threads.min(samples.len()))
        .map(|_| {
            let (shared, samples) = (Arc::clone(&shared), Arc::clone(&samples));
            thread::spawn(move || work(&shared, &samples, &transform))
        })
        .collect();
    Loader { samples, size: transform.input_size, options, shared, workers, skipped: Vec::new() }
}

/// Gives the batches in order; dropping it stops its threads.
pub struct Loader {
    samples: Arc<[Sample]>,
    size: (usize, usize),
    options: LoaderOptions,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    skipped: Vec<Skipped>,
}

impl Loader {
    /// The images left out so far, in order; all of them once the iteration has ended.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The next sample's position and result, or `None` at the end.
    fn next_image(&self) -> Option<(usize, Result<RgbImage, DecodeError>)> {
        let mut state = self.shared.lock();
        let index = state.wanted;
        if state.stop || index == self.samples.len() {
            return None;
        }
        let outcome = loop {
            match state.done.remove(&index) {
                Some(outcome) => break outcome,
                None => state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        state.wanted += 1;
        drop(state);
        self.shared.room.notify_one();
        match outcome {
            Ok(result) => Some((index, result)),
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Batch { indices: Vec::new(), labels: Vec::new(), bytes: Vec::new(), size: self.size };
        while batch.len() < self.options.batch_size {
            match self.next_image() {
                None => break,
                Some((index, Ok(image))) => {
                    batch.indices.push(index);
                    batch.labels.push(self.samples[index].label);
                    batch.bytes.extend_from_slice(image.data());
                }
                Some((_, Err(error))) if self.options.strict => {
                    self.shared.stop();
                    return Some(Err(error));
                }
                Some((index, Err(error))) => {
                    let id = self.samples[index].id.clone();
                    self.skipped.push(Skipped { index, id, reason: error.to_string() });
                }
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // A worker hands its panics over as results, so that joining it always succeeds.
            let _ = worker.join();
        }
    }
}

/// A decoded image or why there is none; `Err` on the outside is a worker's panic.
type Outcome = Result<Result<RgbImage, DecodeError>, Box<dyn Any + Send>>;

struct Shared {
    state: Mutex<State>,
    /// Told to the workers: the consumer took an image, or stopped.
    room: Condvar,
    /// Told to the consumer: an image is done.
    ready: Condvar,
    /// How far the workers may run ahead, in images.
    window: usize,
}

struct State {
    /// The first sample that no worker has taken.
    next: usize,
    /// The sample that the consumer takes next.
    wanted: usize,
    done: HashMap<usize, Outcome>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.room.notify_all();
    }
}

fn work(shared: &Shared, samples: &[Sample], transform: &Transform) {
    loop {
        let mut state = shared.lock();
        while !state.stop && state.next < samples.len() && state.next >= state.wanted.saturating_add(shared.window) {
            state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stop || state.next == samples.len() {
            return;
        }
        let index = state.next;
        state.next += 1;
        drop(state);
        let job = || samples[index].decode().map(|image| transform.apply(&image));
        let outcome = catch_unwind(AssertUnwindSafe(job));
        shared.lock().done.insert(index, outcome);
        shared.ready.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{Filter, save_png};
    use std::path::Path;

    /// `count` images of 4×3, the image i filled with i; those in `corrupt` are text.
    fn samples(folder: &Path, count: usize, corrupt: &[usize]) -> Vec<Sample> {
        (0..count)
            .map(|index| {
                let id = format!("{index}.png");
                let path = folder.join(&id);
                if corrupt.contains(&index) {
                    std::fs::write(&path, "not an image").unwrap();
                } else {
                    save_png(&path, &RgbImage::new(4, 3, vec![index as u8; 36])).unwrap();
                }
                Sample { id, path, label: index % 7, stacked: None }
            })
            .collect()
    }

    fn transform() -> Transform {
        Transform::center((2, 2), 1.0, Filter::Bilinear)
    }

    fn options(batch_size: usize, prefetch: usize, threads: usize) -> LoaderOptions {
        LoaderOptions { batch_size, strict: false, prefetch, threads }
    }

    #[test]
    fn batches_are_full_in_order_and_the_same_for_any_threads() {
        let folder = tempfile::tempdir().unwrap();
        let samples = samples(folder.path(), 23, &[0, 4, 5, 22]);
        for (threads, prefetch) in [(1, 0), (1, 3), (4, 0), (4, 2), (40, 100)] {
            let mut loader = load(&samples, transform(), options(5, prefetch, threads));
            let batches: Vec<Batch> = loader.by_ref().map(Result::unwrap).collect();
            let sizes: Vec<usize> = batches.iter().map(Batch::len).collect();
            assert_eq!(sizes, [5, 5, 5, 4]);
            let indices: Vec<usize> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
            let good: Vec<usize> = (0..23).filter(|index| ![0, 4, 5, 22].contains(index)).collect();
            assert_eq!(indices, good);
            for batch in &batches {
                for (position, &index) in batch.indices.iter().enumerate() {
                    assert_eq!(batch.labels[position], index % 7);
                    assert_eq!(batch.image(position), RgbImage::new(2, 2, vec![index as u8; 12]));
                    assert_eq!(batch.pixels()[position * 12], index as f32 / 255.0);
                }
            }
            let skipped: Vec<&str> = loader.skipped().iter().map(|skipped| skipped.id.as_str()).collect();
            assert_eq!(skipped, ["0.png", "4.png", "5.png", "22.png"]);
            assert!(loader.skipped()[0].reason.contains("0.png"));
            assert!(loader.next().is_none());
        }
    }

    #[test]
    fn strict_gives_what_came_before_and_then_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let samples = samples(folder.path(), 10, &[5]);
        let mut loader = load(&samples, transform(), LoaderOptions { strict: true, ..options(4, 1, 2) });
        assert_eq!(loader.next().unwrap().unwrap().indices, [0, 1, 2, 3]);
        assert!(loader.next().unwrap().unwrap_err().to_string().contains("5.png"));
        assert!(loader.next().is_none());
        assert!(loader.skipped().is_empty());
    }

    #[test]
    fn nothing_to_load_and_nothing_good_end_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(&[], transform(), options(4, 1, 2)).next().is_none());
        let samples = samples(folder.path(), 3, &[0, 1, 2]);
        let mut loader = load(&samples, transform(), options(4, 1, 2));
        assert!(loader.next().is_none());
        assert_eq!(loader.skipped().len(), 3);
    }

    #[test]
    fn dropping_the_loader_early_ends_its_threads() {
        let folder = tempfile::tempdir().unwrap();
        let samples = samples(folder.path(), 50, &[]);
        let mut loader = load(&samples, transform(), options(3, 1, 3));
        assert!(loader.next().is_some());
        let shared = Arc::downgrade(&loader.shared);
        drop(loader);
        assert!(shared.upgrade().is_none());
    }

    #[test]
    fn threads_run_no_further_ahead_than_the_window() {
        let folder = tempfile::tempdir().unwrap();
        let samples = samples(folder.path(), 50, &[]);
        let mut loader = load(&samples, transform(), options(3, 1, 3));
        while let Some(Ok(_)) = loader.next() {
            let state = loader.shared.lock();
            assert!(state.next <= state.wanted + 6, "{} taken, {} given", state.next, state.wanted);
        }
    }
}
