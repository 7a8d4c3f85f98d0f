//! Batches for training and testing, made by threads ahead of the network.
//!
//! Everything that is drawn is a function of the seed and of where in the run it is for: the order of an epoch of (seed, epoch),
//! what happens to an image of (seed, epoch, image, repeat), how a batch is mixed of (seed, epoch, batch). So batches are the same
//! whatever the threads do, and any of them can be made without those before it.
//!
//! The threads are the stream's own, not rayon's, for the reason that [`crate::images::loader`] gives. They take the images of an
//! epoch one by one; whoever finishes the last one of a batch puts it together. How far they run ahead is bounded, and so is the
//! memory.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Source;
use crate::images::{Filter, Skipped, Transform};
use crate::random::Random;
use crate::training::augment::{Augmentation, Augmenter, Mix, Mixing, mix, targets};

/// What random numbers are for, so that those of different things have nothing to do with each other.
#[derive(Clone, Copy)]
enum Purpose {
    Order = 1,
    Image,
    Batch,
}

/// How an epoch's batches are made.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// What becomes of the images.
    pub augmentation: Augmentation,
    /// Height and width of what the network sees.
    pub size: [usize; 2],
    /// The normalisation's mean in [0, 1], for what is erased and for what RandAugment brings in.
    pub mean: [f64; 3],
    /// The normalisation's standard deviation, for what is erased.
    pub std: [f64; 3],
    /// Images per batch, at least 1.
    pub batch_size: usize,
    /// The share of a target that is spread over all classes; 0 up to below 1.
    pub label_smoothing: f64,
    /// Decides order, augmentation and mixing.
    pub seed: u64,
    /// From 1.
    pub epoch: usize,
    /// The first batch of the epoch that is wanted, from 0.
    pub first_batch: usize,
    /// At least 1.
    pub threads: usize,
}

/// Images of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The number of each image in its source.
    pub indices: Vec<usize>,
    /// The class of each image, before mixing.
    pub labels: Vec<usize>,
    /// What the network should say, `[batch, class]`.
    pub targets: Vec<f32>,
    /// `[batch, 3, height, width]`, in [0, 1] but for what is erased.
    pub pixels: Vec<f32>,
}

impl Batch {
    /// How many images.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether no image of the batch could be read.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

/// The batches of one epoch of training, from `first_batch` on. Batch k holds the positions from k × `batch_size` of the epoch's
/// order, without the images that cannot be read, so that it may be smaller, even empty. The images after the last whole
/// batch are left out, as in timm; a source of fewer images than a batch gives none.
///
/// # Panics
/// If the augmentation does not pass [`Augmentation::check`], or if batch size or threads are 0.
pub fn stream(source: Arc<dyn Source>, plan: StreamPlan) -> Stream {
    let StreamPlan { augmentation, size, batch_size, seed, .. } = plan;
    assert!(batch_size > 0, "a batch holds at least one image");
    let augmenter = match Augmenter::new(&augmentation, size, plan.mean, plan.std) {
        Ok(augmenter) => augmenter,
        Err(error) => panic!("{error}"),
    };
    let (repeats, epoch) = (augmentation.repeats, plan.epoch as u64);
    let training = Training {
        augmenter,
        mixing: Mixing::of(&augmentation),
        order: order(source.len(), repeats, seed, epoch),
        repeats,
        label_smoothing: plan.label_smoothing,
        seed,
        epoch,
    };
    let positions = batches(source.len(), repeats, batch_size) * batch_size;
    let kind = Kind::Training(Box::new(training));
    Stream::start(Job { source, kind, size, batch_size, positions }, plan.first_batch, plan.threads)
}

/// All images in order, each resized to `size` / `crop_pct` and its centre cropped, as timm tests; the last batch may be smaller.
/// Targets are 1 at the label and 0 elsewhere.
///
/// # Panics
/// If batch size, threads or a side are 0, or `crop_pct` is not above 0.
pub fn evaluation(
    source: Arc<dyn Source>,
    size: [usize; 2],
    interpolation: Filter,
    crop_pct: f64,
    batch_size: usize,
    threads: usize,
) -> Stream {
    assert!(batch_size > 0, "a batch holds at least one image");
    let kind = Kind::Evaluation(Transform::center((size[0], size[1]), crop_pct, interpolation));
    let positions = source.len();
    Stream::start(Job { source, kind, size, batch_size, positions }, 0, threads)
}

/// How many whole batches an epoch of so many images has.
pub(in crate::training) fn batches(images: usize, repeats: usize, batch_size: usize) -> usize {
    epoch_length(images, repeats) / batch_size
}

/// timm's `RepeatAugSampler` in one process: with repeats, an epoch is as many images as there are, but only whole 256, if
/// there are so many.
fn epoch_length(images: usize, repeats: usize) -> usize {
    const ROUND: usize = 256;
    if repeats == 1 || images < ROUND { images } else { images / ROUND * ROUND }
}

/// The images of an epoch, each of which comes `repeats` times in succession.
fn order(images: usize, repeats: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let count = u32::try_from(images).expect("a set has fewer than 2³² images");
    let mut order: Vec<u32> = (0..count).collect();
    Random::of(&[Purpose::Order as u64, seed, epoch]).shuffle(&mut order);
    order.truncate(epoch_length(images, repeats).div_ceil(repeats));
    order.shrink_to_fit();
    order
}

/// Gives the batches in order; dropping it stops its threads. A panic of a thread is resumed here.
pub struct Stream {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The batch that is given next.
    next: usize,
    waited: Duration,
    skipped: Vec<Skipped>,
    /// Batches that were looked at, and are given before any other.
    ahead: VecDeque<(Batch, Vec<Skipped>)>,
    row: Row,
}

/// What lies ahead of whoever takes batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ahead {
    /// The batches asked for.
    Ready,
    /// It is to stop.
    Stopped,
    /// The images cannot be reached.
    Outage(Outage),
}

/// Images in a row that cannot be read, although they are not damaged: the storage that they lie on is gone, or was for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// The first of them.
    pub first: Skipped,
    /// How many, counted until it was noticed.
    pub images: usize,
    /// Whether an image was read before them, by this stream.
    pub has_read: bool,
}

/// So many different images in a row that cannot be read are looked into: of images that are damaged here and there no epoch has such a row.
const LONG_ROW: usize = 32;
/// How many images of the set, evenly spread, are read to see whether any can be.
const PROBES: usize = 16;

/// The images that could not be read since the last one that could, in the order of the epoch.
#[derive(Debug, Default)]
struct Row {
    first: Option<Skipped>,
    /// The last one, which comes again where images are repeated.
    last: Option<usize>,
    images: usize,
    has_read: bool,
}

impl Row {
    fn end(&mut self) {
        *self = Self { has_read: self.has_read, ..Self::default() };
    }
}

impl Stream {
    fn start(job: Job, first_batch: usize, threads: usize) -> Self {
        assert!(threads > 0, "reading takes at least one thread");
        let batches = job.batches();
        let next = first_batch.min(batches);
        // One batch is ready or put together while as many images as there are threads are in work, twice over.
        let window = 1 + (2 * threads).div_ceil(job.batch_size);
        let position = (next * job.batch_size).min(job.positions);
        let threads = threads.min(job.positions - position);
        let state = State { position, wanted: next, pending: HashMap::new(), finished: HashMap::new(), stop: false };
        let shared =
            Arc::new(Shared { job, state: Mutex::new(state), room: Condvar::new(), ready: Condvar::new(), window });
        let workers = (0..threads)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || work(&shared))
            })
            .collect();
        let (skipped, ahead) = (Vec::new(), VecDeque::new());
        Self { shared, workers, next, waited: Duration::ZERO, skipped, ahead, row: Row::default() }
    }

    /// Waits for the next `count` batches, or all that are left if those are fewer, and looks further as long as the last image looked at
    /// cannot be read: either the row of such images ends, or it is an outage that begins within these batches. No batch is lost.
    pub fn look_ahead(&mut self, count: usize, stop: &AtomicBool) -> Ahead {
        while (self.ahead.len() < count || self.row.images > 0) && self.next < self.batches() {
            if !self.wait(stop) {
                return Ahead::Stopped;
            }
            let Some(Made { batch, skipped, is_read }) = self.receive() else { break };
            let outage = self.follow(&is_read, &skipped);
            self.ahead.push_back((batch, skipped));
            if let Some(outage) = outage {
                return Ahead::Outage(outage);
            }
        }
        if self.row.images == 0 || self.next < self.batches() {
            return Ahead::Ready;
        }
        // The epoch ends in a row of such images, which no other image may have ended.
        match self.end_of_row() {
            Some(outage) => Ahead::Outage(outage),
            None => Ahead::Ready,
        }
    }

    /// Goes on with the row of images that cannot be read; gives it if it is an outage. `is_read` is of every image of a batch.
    fn follow(&mut self, is_read: &[bool], skipped: &[Skipped]) -> Option<Outage> {
        let mut skipped = skipped.iter();
        for &is_read in is_read {
            if is_read {
                self.row.end();
                self.row.has_read = true;
                continue;
            }
            let Some(image) = skipped.next() else { continue };
            if self.row.last.replace(image.index) != Some(image.index) {
                self.row.images += 1;
            }
            self.row.first.get_or_insert_with(|| image.clone());
            if self.row.images >= LONG_ROW.min(self.shared.job.images()) {
                let outage = self.end_of_row();
                if outage.is_some() {
                    return outage;
                }
            }
        }
        None
    }

    /// Ends the row; gives it if its images are out of reach, not damaged.
    fn end_of_row(&mut self) -> Option<Outage> {
        let Row { first, images, has_read, .. } = std::mem::take(&mut self.row);
        self.row.has_read = has_read;
        let first = first.filter(|first| self.shared.job.is_out_of_reach(first.index))?;
        Some(Outage { first, images, has_read })
    }

    /// How many batches the whole epoch has, those before the first one given included.
    pub fn batches(&self) -> usize {
        self.shared.job.batches()
    }

    /// Waits until [`Iterator::next`] needs to wait no longer, and gives true; false once `stop` is set before that. No batch is lost.
    pub fn wait(&mut self, stop: &AtomicBool) -> bool {
        /// How often `stop` is looked at, to which nothing wakes who waits.
        const LOOK: Duration = Duration::from_millis(50);
        if self.next == self.batches() {
            return true;
        }
        let mut state = self.shared.lock();
        if state.finished.contains_key(&self.next) {
            return true;
        }
        let start = Instant::now();
        while !state.finished.contains_key(&self.next) && !stop.load(Ordering::Relaxed) {
            (state, _) = self.shared.ready.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        self.waited += start.elapsed();
        state.finished.contains_key(&self.next)
    }

    /// How long [`Iterator::next`] and [`Self::wait`] have waited for batches that were not ready.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The images that could not be read, in order, of the batches given so far; with repeats each one as often as it came.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }
}

impl Iterator for Stream {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let (batch, skipped) = match self.ahead.pop_front() {
            Some(seen) => seen,
            None => self.receive().map(|Made { batch, skipped, .. }| (batch, skipped))?,
        };
        self.skipped.extend(skipped);
        Some(batch)
    }
}

impl Stream {
    /// The next batch that was not looked at.
    fn receive(&mut self) -> Option<Made> {
        if self.next == self.batches() {
            return None;
        }
        let mut state = self.shared.lock();
        let finished = match state.finished.remove(&self.next) {
            Some(finished) => finished,
            None => {
                let start = Instant::now();
                let finished = loop {
                    state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                    if let Some(finished) = state.finished.remove(&self.next) {
                        break finished;
                    }
                };
                self.waited += start.elapsed();
                finished
            }
        };
        state.wanted += 1;
        drop(state);
        self.shared.room.notify_all();
        self.next += 1;
        Some(finished.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.room.notify_all();
        for worker in self.workers.drain(..) {
            // A worker hands its panics over as results, so that joining it always succeeds.
            let _ = worker.join();
        }
    }
}

/// What is to be done.
struct Job {
    source: Arc<dyn Source>,
    kind: Kind,
    /// Height and width.
    size: [usize; 2],
    batch_size: usize,
    /// How many images the epoch takes, whole batches in training.
    positions: usize,
}

enum Kind {
    Training(Box<Training>),
    Evaluation(Transform),
}

struct Training {
    augmenter: Augmenter,
    mixing: Option<Mixing>,
    order: Vec<u32>,
    repeats: usize,
    label_smoothing: f64,
    seed: u64,
    epoch: u64,
}

/// One image's pixels, or why there are none.
type Outcome = Result<(usize, Vec<f32>), Skipped>;
/// `Err` is a worker's panic.
type Finished = Result<Made, Box<dyn Any + Send>>;

/// A batch with the images that it lacks.
struct Made {
    batch: Batch,
    skipped: Vec<Skipped>,
    /// Of every image that it should have.
    is_read: Vec<bool>,
}

impl Job {
    fn batches(&self) -> usize {
        self.positions.div_ceil(self.batch_size)
    }

    /// How many images the batch has if all of them can be read.
    fn length(&self, batch: usize) -> usize {
        self.batch_size.min(self.positions - batch * self.batch_size)
    }

    /// How many different images the epoch takes.
    fn images(&self) -> usize {
        match &self.kind {
            Kind::Training(training) => self.positions.div_ceil(training.repeats),
            Kind::Evaluation(_) => self.positions,
        }
    }

    /// Whether an image that could not be read was out of reach, not damaged: no image of the set can be read, or that one can again.
    fn is_out_of_reach(&self, index: usize) -> bool {
        let count = self.source.len();
        let probes = PROBES.min(count);
        let is_there = (0..probes).any(|probe| self.source.read(probe * count / probes).is_ok());
        // Asked last: storage that came back between the two shows here.
        !is_there || self.source.read(index).is_ok()
    }

    /// The image at a position of the epoch.
    fn image(&self, position: usize) -> Outcome {
        let (index, repeat) = match &self.kind {
            Kind::Training(training) => {
                (training.order[position / training.repeats] as usize, position % training.repeats)
            }
            Kind::Evaluation(_) => (position, 0),
        };
        let image = self.source.read(index).map_err(|error| Skipped {
            index,
            id: self.source.id(index),
            reason: error.to_string(),
        })?;
        let pixels = match &self.kind {
            Kind::Training(training) => {
                let Training { augmenter, seed, epoch, .. } = &**training;
                let parts = [Purpose::Image as u64, *seed, *epoch, index as u64, repeat as u64];
                augmenter.pixels(&image, &mut Random::of(&parts))
            }
            Kind::Evaluation(transform) => transform.apply(&image).to_pixels(),
        };
        Ok((index, pixels))
    }

    /// Puts a batch together.
    fn batch(&self, number: usize, outcomes: Vec<Outcome>) -> Made {
        let (mut indices, mut skipped) = (Vec::with_capacity(outcomes.len()), Vec::new());
        let is_read = outcomes.iter().map(Result::is_ok).collect();
        let mut pixels = Vec::with_capacity(outcomes.len() * 3 * self.size[0] * self.size[1]);
        for outcome in outcomes {
            match outcome {
                Ok((index, image)) => {
                    indices.push(index);
                    pixels.extend_from_slice(&image);
                }
                Err(image) => skipped.push(image),
            }
        }
        let labels: Vec<usize> = indices.iter().map(|&index| self.source.label(index)).collect();
        let (mixes, smoothing) = match &self.kind {
            Kind::Training(training) => (training.mixes(number, labels.len(), self.size), training.label_smoothing),
            Kind::Evaluation(_) => (vec![Mix::NONE; labels.len()], 0.0),
        };
        mix(&mut pixels, self.size, &mixes);
        let targets = targets(&labels, self.source.classes(), smoothing, &mixes);
        Made { batch: Batch { indices, labels, targets, pixels }, skipped, is_read }
    }
}

impl Training {
    /// How the images of a batch are mixed.
    fn mixes(&self, number: usize, images: usize, size: [usize; 2]) -> Vec<Mix> {
        match &self.mixing {
            Some(mixing) => {
                let parts = [Purpose::Batch as u64, self.seed, self.epoch, number as u64];
                mixing.draw(images, size, &mut Random::of(&parts))
            }
            None => vec![Mix::NONE; images],
        }
    }
}

struct Shared {
    job: Job,
    state: Mutex<State>,
    /// Told to the workers: the consumer took a batch, or stopped.
    room: Condvar,
    /// Told to the consumer: a batch is finished.
    ready: Condvar,
    /// How many batches may be in work or ready.
    window: usize,
}

struct State {
    /// The first position that no worker has taken.
    position: usize,
    /// The batch that the consumer takes next.
    wanted: usize,
    /// Batches of which images are in work.
    pending: HashMap<usize, Pending>,
    finished: HashMap<usize, Finished>,
    stop: bool,
}

struct Pending {
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next position, once there is room for its batch; `None` if there is nothing more to do.
    fn take(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stop || state.position == self.job.positions {
                return None;
            }
            if state.position / self.job.batch_size < state.wanted + self.window {
                state.position += 1;
                return Some(state.position - 1);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Keeps an image; gives all of its batch if it was the last one.
    fn put(&self, batch: usize, place: usize, outcome: Outcome) -> Option<Vec<Outcome>> {
        let length = self.job.length(batch);
        let mut state = self.lock();
        let pending = state
            .pending
            .entry(batch)
            .or_insert_with(|| Pending { outcomes: (0..length).map(|_| None).collect(), missing: length });
        pending.outcomes[place] = Some(outcome);
        pending.missing -= 1;
        if pending.missing > 0 {
            return None;
        }
        let pending = state.pending.remove(&batch)?;
        Some(pending.outcomes.into_iter().flatten().collect())
    }

    fn finish(&self, batch: usize, finished: Finished) {
        self.lock().finished.insert(batch, finished);
        self.ready.notify_one();
    }
}

fn work(shared: &Shared) {
    let job = &shared.job;
    while let Some(position) = shared.take() {
        let (batch, place) = (position / job.batch_size, position % job.batch_size);
        let outcomes = match catch_unwind(AssertUnwindSafe(|| job.image(position))) {
            Ok(outcome) => shared.put(batch, place, outcome),
            Err(panic) => {
                // Its batch is never complete, and this is what the consumer finds instead.
                shared.finish(batch, Err(panic));
                continue;
            }
        };
        if let Some(outcomes) = outcomes {
            shared.finish(batch, catch_unwind(AssertUnwindSafe(|| job.batch(batch, outcomes))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{DecodeError, RgbImage};
    use crate::training::augment::Crop;
    use crate::training::data::Images;
    use std::sync::atomic::AtomicUsize;

    const SIDE: usize = 8;

    /// Images that can be told apart by their first byte.
    fn images(count: usize) -> Arc<dyn Source> {
        let image = |index: usize| (0..3 * SIDE * SIDE).map(|place| (index + place * 7 % 50) as u8).collect();
        let images = (0..count).map(|index| RgbImage::new(SIDE, SIDE, image(index))).collect();
        Arc::new(Images::new(images, (0..count).map(|index| index % 3).collect(), 3).unwrap())
    }

    fn plan(batch_size: usize, threads: usize) -> StreamPlan {
        StreamPlan {
            augmentation: Augmentation::none(),
            size: [SIDE; 2],
            mean: [0.5; 3],
            std: [0.25; 3],
            batch_size,
            label_smoothing: 0.0,
            seed: 5,
            epoch: 1,
            first_batch: 0,
            threads,
        }
    }

    /// Everything at once.
    fn wild() -> Augmentation {
        Augmentation {
            rand_augment: "rand-m9-mstd0.5-inc1".to_owned(),
            erase: 0.25,
            mixup: 0.8,
            cutmix: 1.0,
            mix_probability: 0.9,
            ..Augmentation::default()
        }
    }

    fn indices(batches: &[Batch]) -> Vec<usize> {
        batches.iter().flat_map(|batch| batch.indices.clone()).collect()
    }

    /// A source of which some images cannot be read, or are a panic, and which notes what is read.
    struct Trouble {
        source: Arc<dyn Source>,
        unreadable: Vec<usize>,
        panics: Option<usize>,
        read: AtomicUsize,
    }

    impl Trouble {
        fn new(count: usize, unreadable: &[usize], panics: Option<usize>) -> Arc<Self> {
            let unreadable = unreadable.to_vec();
            Arc::new(Self { source: images(count), unreadable, panics, read: AtomicUsize::new(0) })
        }
    }

    impl Source for Trouble {
        fn len(&self) -> usize {
            self.source.len()
        }

        fn classes(&self) -> usize {
            self.source.classes()
        }

        fn label(&self, index: usize) -> usize {
            self.source.label(index)
        }

        fn id(&self, index: usize) -> String {
            format!("image {index}")
        }

        fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
            self.read.fetch_add(1, Ordering::SeqCst);
            assert_ne!(Some(index), self.panics, "the image {index} is a panic");
            if self.unreadable.contains(&index) {
                return Err(DecodeError::NotAnImage { name: self.id(index), found: "it is not" });
            }
            self.source.read(index)
        }

        fn fingerprint(&self) -> String {
            self.source.fingerprint()
        }
    }

    #[test]
    fn an_epoch_is_every_image_once_in_an_order_of_its_own() {
        let epoch =
            |seed, epoch| -> Vec<Batch> { stream(images(23), StreamPlan { seed, epoch, ..plan(5, 2) }).collect() };
        let first = epoch(5, 1);
        assert_eq!(first.iter().map(Batch::len).collect::<Vec<_>>(), [5; 4]);
        let mut seen = indices(&first);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 20);
        assert_ne!(indices(&first), indices(&epoch(5, 2)));
        assert_ne!(indices(&first), indices(&epoch(6, 1)));
        for batch in &first {
            for (place, &index) in batch.indices.iter().enumerate() {
                assert_eq!(batch.labels[place], index % 3);
                let target: Vec<f32> = (0..3).map(|class| f32::from(u8::from(class == index % 3))).collect();
                assert_eq!(batch.targets[place * 3..][..3], target);
                assert_eq!(batch.pixels[place * 3 * SIDE * SIDE], index as f32 / 255.0);
            }
        }
    }

    #[test]
    fn batches_are_the_same_for_any_threads_and_from_any_first_one() {
        let batches = |threads, first_batch| -> Vec<Batch> {
            let plan = StreamPlan { augmentation: wild(), label_smoothing: 0.1, first_batch, ..plan(6, threads) };
            let stream = stream(images(40), plan);
            assert_eq!(stream.batches(), 6);
            stream.collect()
        };
        let whole = batches(1, 0);
        assert_eq!(whole.len(), 6);
        assert_eq!(whole[0].pixels.len(), 6 * 3 * SIDE * SIDE);
        for threads in [2, 3, 40] {
            assert!(batches(threads, 0) == whole);
        }
        for first in [1, 4, 6, 9] {
            assert!(batches(2, first) == whole[first.min(6)..]);
        }
    }

    #[test]
    fn targets_sum_to_1_and_pixels_are_numbers_whatever_happens() {
        let plan = StreamPlan { augmentation: wild(), label_smoothing: 0.1, ..plan(4, 2) };
        for batch in stream(images(64), plan) {
            for target in batch.targets.chunks(3) {
                assert!((target.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{target:?}");
            }
            assert!(batch.pixels.iter().all(|pixel| pixel.is_finite()));
        }
    }

    #[test]
    fn repeats_come_in_succession_and_differ() {
        let epoch = |count, batch_size| -> Vec<Batch> {
            let augmentation = Augmentation { repeats: 3, crop: Crop::Pad, padding: 4, ..Augmentation::none() };
            stream(images(count), StreamPlan { augmentation, ..plan(batch_size, 2) }).collect()
        };
        let batches = epoch(31, 6);
        let indices = indices(&batches);
        assert_eq!(indices.len(), 30);
        assert!(indices.chunks(3).all(|same| same[0] == same[1] && same[1] == same[2]));
        let mut once: Vec<usize> = indices.chunks(3).map(|same| same[0]).collect();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), 10);
        let image = 3 * SIDE * SIDE;
        let differ = batches.iter().filter(|batch| batch.pixels[..image] != batch.pixels[image..2 * image]).count();
        assert!(differ >= 4);
    }

    #[test]
    fn an_epoch_with_repeats_is_as_long_as_timms() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/augmentation/reference.json");
        let sections: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(fixture).unwrap()).unwrap();
        let cases = sections["repeats"].as_array().unwrap();
        assert!(cases.len() >= 6);
        for case in cases {
            let [images, repeats, positions] =
                ["images", "repeats", "positions"].map(|name| case[name].as_u64().unwrap() as usize);
            assert_eq!(epoch_length(images, repeats), positions, "{case}");
            assert_eq!(order(images, repeats, 1, 1).len(), positions.div_ceil(repeats));
        }
        assert_eq!(epoch_length(300, 1), 300);
    }

    #[test]
    fn unreadable_images_are_left_out_and_counted() {
        let source = Trouble::new(12, &[2, 7], None);
        let plan = StreamPlan { augmentation: Augmentation { mixup: 0.8, ..Augmentation::none() }, ..plan(4, 3) };
        let mut stream = stream(source, plan.clone());
        let batches: Vec<Batch> = stream.by_ref().collect();
        assert_eq!(batches.iter().map(Batch::len).sum::<usize>(), 10);
        assert_eq!(batches.len(), 3);
        let mut skipped: Vec<usize> = stream.skipped().iter().map(|skipped| skipped.index).collect();
        skipped.sort();
        assert_eq!(skipped, [2, 7]);
        assert!(stream.skipped()[0].id.starts_with("image ") && stream.skipped()[0].reason.contains("it is not"));
        for batch in &batches {
            assert_eq!(batch.pixels.len(), batch.len() * 3 * SIDE * SIDE);
            assert_eq!(batch.targets.len(), batch.len() * 3);
        }
        // The last batch is the same without those before it.
        let last: Vec<Batch> =
            self::stream(Trouble::new(12, &[2, 7], None), StreamPlan { first_batch: 2, ..plan }).collect();
        assert!(last == batches[2..]);
    }

    #[test]
    fn a_batch_without_a_readable_image_is_empty() {
        let source = Trouble::new(4, &[0, 1, 2, 3], None);
        let mut stream = stream(source, StreamPlan { augmentation: wild(), ..plan(2, 2) });
        assert!(stream.by_ref().all(|batch| batch.is_empty() && batch.pixels.is_empty()));
        assert_eq!(stream.skipped().len(), 4);
    }

    #[test]
    fn a_panic_of_a_thread_is_the_consumers() {
        let mut stream = stream(Trouble::new(30, &[], Some(11)), plan(3, 3));
        let panic = catch_unwind(AssertUnwindSafe(|| stream.by_ref().count())).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("the image 11 is a panic"));
    }

    #[test]
    fn threads_run_no_further_ahead_than_the_window() {
        let source = Trouble::new(300, &[], None);
        let mut stream = stream(Arc::clone(&source) as Arc<dyn Source>, plan(3, 4));
        let window = stream.shared.window;
        assert_eq!(window, 4);
        for given in 1..=100 {
            assert!(stream.next().is_some());
            let state = stream.shared.lock();
            assert!(state.pending.len() + state.finished.len() <= window);
            assert!(state.position <= (given + window) * 3, "{} taken, {given} given", state.position);
            drop(state);
            assert!(source.read.load(Ordering::SeqCst) <= (given + window) * 3);
        }
        assert!(stream.next().is_none());
        assert_eq!(source.read.load(Ordering::SeqCst), 300);
    }

    #[test]
    fn dropping_the_stream_early_ends_its_threads() {
        let mut stream = stream(images(60), plan(3, 3));
        assert!(stream.next().is_some());
        let shared = Arc::downgrade(&stream.shared);
        drop(stream);
        assert!(shared.upgrade().is_none());
    }

    #[test]
    fn sets_smaller_than_a_batch_give_none() {
        for count in [0, 3] {
            let mut stream = stream(images(count), plan(4, 2));
            assert_eq!((stream.batches(), stream.next()), (0, None));
        }
    }

    /// Images that take so long each.
    struct Slow(Arc<dyn Source>, Duration);

    impl Source for Slow {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn classes(&self) -> usize {
            self.0.classes()
        }
        fn label(&self, index: usize) -> usize {
            self.0.label(index)
        }
        fn id(&self, index: usize) -> String {
            self.0.id(index)
        }
        fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
            thread::sleep(self.1);
            self.0.read(index)
        }
        fn fingerprint(&self) -> String {
            self.0.fingerprint()
        }
    }

    #[test]
    fn whoever_is_asked_to_stop_waits_no_longer_and_loses_no_batch() {
        let mut stream = stream(Arc::new(Slow(images(6), Duration::from_millis(100))), plan(2, 1));
        assert!(stream.wait(&AtomicBool::new(false)), "a batch is ready");
        assert!(stream.wait(&AtomicBool::new(true)), "it is ready still");
        assert!(stream.next().is_some());
        assert!(!stream.wait(&AtomicBool::new(true)), "the next one is not");
        assert_eq!(stream.by_ref().count(), 2);
        assert!(stream.wait(&AtomicBool::new(false)), "after the last one there is nothing to wait for");
    }

    /// Images of which some reads, counted from 0, find nothing.
    struct Away(Arc<dyn Source>, std::ops::Range<usize>, AtomicUsize);

    impl Source for Away {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn classes(&self) -> usize {
            self.0.classes()
        }
        fn label(&self, index: usize) -> usize {
            self.0.label(index)
        }
        fn id(&self, index: usize) -> String {
            self.0.id(index)
        }
        fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
            if self.1.contains(&self.2.fetch_add(1, Ordering::SeqCst)) {
                let source = std::io::ErrorKind::NotFound.into();
                return Err(DecodeError::Read { name: self.id(index), source });
            }
            self.0.read(index)
        }
        fn fingerprint(&self) -> String {
            self.0.fingerprint()
        }
    }

    #[test]
    fn storage_that_was_gone_for_a_while_is_told_before_its_first_batch() {
        let go_on = AtomicBool::new(false);
        // A long row in the middle, and a short one at the end.
        for (reads, whole) in [(10..60, 1), (90..100, 11)] {
            let mut stream = stream(Arc::new(Away(images(96), reads, AtomicUsize::new(0))), plan(8, 1));
            for _ in 0..whole {
                assert_eq!(stream.look_ahead(1, &go_on), Ahead::Ready);
                assert_eq!(stream.next().unwrap().len(), 8);
            }
            let Ahead::Outage(outage) = stream.look_ahead(1, &go_on) else { panic!("an outage") };
            assert!(outage.has_read && outage.images == if whole == 1 { LONG_ROW } else { 6 }, "{outage:?}");
            assert!(stream.skipped().is_empty());
        }
    }

    #[test]
    fn damaged_images_are_no_outage_however_many() {
        let go_on = AtomicBool::new(false);
        let damaged: Vec<usize> = (5..60).collect();
        let set = Trouble::new(64, &damaged, None);
        let mut ordered = evaluation(set, [4, 4], Filter::Bilinear, 1.0, 4, 2);
        let mut read = 0;
        while ordered.look_ahead(1, &go_on) == Ahead::Ready {
            let Some(batch) = ordered.next() else { break };
            read += batch.len();
        }
        assert_eq!((read, ordered.skipped().len()), (9, 55));
        // A single one at the end neither.
        let mut ordered = evaluation(Trouble::new(5, &[4], None), [4, 4], Filter::Bilinear, 1.0, 2, 1);
        assert_eq!(ordered.look_ahead(3, &go_on), Ahead::Ready);
        assert_eq!(ordered.map(|batch| batch.len()).sum::<usize>(), 4);
    }

    #[test]
    fn the_time_that_was_waited_is_measured() {
        let start = Instant::now();
        let mut stream = stream(Arc::new(Slow(images(6), Duration::from_millis(20))), plan(2, 1));
        assert_eq!(stream.by_ref().count(), 3);
        assert!(stream.waited() >= Duration::from_millis(60) && stream.waited() <= start.elapsed());
    }

    #[test]
    fn tests_take_all_images_in_order() {
        let mut stream = evaluation(images(7), [4, 4], Filter::Bilinear, 1.0, 3, 2);
        assert_eq!(stream.batches(), 3);
        let batches: Vec<Batch> = stream.by_ref().collect();
        assert_eq!(indices(&batches), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(batches[2].targets, [1.0, 0.0, 0.0]);
        let transform = Transform::center((4, 4), 1.0, Filter::Bilinear);
        let image = images(7).read(6).unwrap();
        assert_eq!(batches[2].pixels, transform.apply(&image).to_pixels());
    }
}
