//! Attacks and predictions: fills a run folder with what is missing.
//!
//! All networks stay loaded. Work is done in groups of images, as many as a batch takes: a group is decoded once and resized
//! once for all networks that want it alike, while the networks work on the group before. It is attacked on A and judged by
//! every network while it is in memory, and kept in [units](super::units), a chunk of 32 images each. A group is always worked
//! on as a whole, so that a run that goes on computes in the same batches as one that never stopped.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::units::{Attacked, CHUNK, CleanUnit, JudgedUnit, Units};
use super::{Progress, SatConfig, SatError, Timing};
use crate::attacks::{Doubt, Targets, quantise};
use crate::images::{DatasetError, DecodeError, Filter, RgbImage, Sample, Transform, resize};
use crate::model::{Model, argmax, to_f32};
use crate::runs::{Bundle, Layout, Manifest, Plan, Provenance, RunError, RunFolder, ShelfPlan};
use crate::similarity::batches::Batches;

/// Chunks that are worked on together, by their position: as many images as a batch takes.
pub(super) type Group = [ShelfPlan];

/// The images of a group, or why there is none.
type Decoded = Result<Vec<Result<RgbImage, DecodeError>>, SatError>;

/// An image as the attacked network sees it, with its label and id.
type Target<'i> = (&'i RgbImage, &'i Sample);

/// The groups of a plan of which something is missing, with `batch` images at once.
pub(super) fn wanted(plan: &Plan, batch: usize) -> Vec<&Group> {
    let groups = plan.shelves.chunks(batch.div_ceil(CHUNK));
    groups.filter(|group| group.iter().any(|shelf| !shelf.missing.is_empty())).collect()
}

/// How far all devices of a run are together.
pub(super) struct Count {
    total: usize,
    done: Mutex<usize>,
    is_stopped: AtomicBool,
}

impl Count {
    /// Before any of what is missing is done.
    pub fn of(plan: &Plan) -> Self {
        let total = plan.total();
        Self { total, done: Mutex::new(total - plan.missing()), is_stopped: AtomicBool::new(false) }
    }

    /// So many rows more are done. `tell` gets the sum and the total while no other device can add to it, so that sums are told
    /// in their order.
    fn add(&self, rows: usize, tell: impl FnOnce(usize, usize)) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += rows;
        tell(*done, self.total);
    }

    /// Asks all devices to begin no other group.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}

/// The work of one device.
pub(super) struct Work<'a> {
    models: Vec<Subject<'a>>,
    samples: &'a [Sample],
    config: &'a SatConfig,
    folder: &'a RunFolder,
    manifest: &'a Manifest,
    units: &'a Units,
    /// The device's name, for people.
    device: String,
    batches: Batches,
    timing: Cell<Timing>,
    doubts: RefCell<Vec<(Vec<Doubt>, usize)>>,
}

/// What a device leaves behind beside units.
#[derive(Default)]
pub(super) struct Done {
    /// How long networks worked.
    pub timing: Timing,
    /// Of each model what its attacks gave reason to doubt, and how many images were attacked on it. Empty if nothing was done.
    pub doubts: Vec<(Vec<Doubt>, usize)>,
}

/// A model and how it sees images.
struct Subject<'a> {
    model: &'a Model,
    /// The model as it is attacked, if in another precision.
    attacked: Option<Model>,
    transform: Transform,
}

/// What is known of one model on one chunk.
struct Row {
    chunk: usize,
    clean: Option<CleanUnit>,
    /// Which images were attacked, if any judge has seen them.
    attacked: Option<Attacked>,
    /// The models whose predictions on the attacked images are missing.
    judges: Vec<usize>,
    /// The adversarial images, if they are kept.
    adversarial: Option<Adversarial>,
    /// Whether they are missing and are to be kept.
    wants_adversarial: bool,
    /// Whether the clean images' logits are missing and are to be kept.
    wants_logits: bool,
    new: New,
}

/// What is to be kept of one model on one chunk.
#[derive(Default)]
struct New {
    units: Bundle,
    large: Bundle,
}

/// Adversarial images of a chunk.
struct Adversarial {
    attacked: Attacked,
    images: Vec<RgbImage>,
}

/// What a network says of an image.
struct Prediction {
    class: u16,
    /// If they are kept.
    logits: Vec<f32>,
}

impl<'a> Work<'a> {
    /// `units` are of `models` in that order, all of which are on the device of that name.
    pub fn new(
        models: &'a [Model],
        samples: &'a [Sample],
        config: &'a SatConfig,
        folder: &'a RunFolder,
        manifest: &'a Manifest,
        units: &'a Units,
        device: String,
    ) -> Self {
        let subject = |model: &'a Model| {
            let precision = config.other_precision(&model.precision().to_string());
            let attacked = precision.map(|precision| model.in_precision(precision));
            Subject { model, attacked, transform: model.transform(config.crop) }
        };
        let models: Vec<Subject> = models.iter().map(subject).collect();
        let batches = Batches::new(config.batch, samples.len());
        let doubts = RefCell::new(vec![(Vec::new(), 0); models.len()]);
        Self { models, samples, config, folder, manifest, units, device, batches, timing: Cell::default(), doubts }
    }

    /// What is left of it beside units.
    pub fn done(self) -> Done {
        Done { timing: self.timing.get(), doubts: self.doubts.into_inner() }
    }

    /// Does what is missing of these groups, decoding one ahead, until it is done or all devices are asked to stop.
    pub fn compute(
        &self,
        groups: &[&Group],
        count: &Count,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), SatError> {
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(1);
            let samples: Vec<Vec<usize>> = groups.iter().map(|group| self.images_of(group)).collect();
            let decoder = Decoder { samples: self.samples, manifest: self.manifest };
            scope.spawn(move || {
                for images in samples {
                    if sender.send(decoder.decode(&images)).is_err() {
                        break;
                    }
                }
            });
            for (&group, decoded) in groups.iter().zip(receiver) {
                if count.is_stopped.load(Ordering::Relaxed) {
                    break;
                }
                let seen = self.seen(decoded?)?;
                for (index, subject) in self.models.iter().enumerate() {
                    let is_missing = |shelf: &&ShelfPlan| shelf.missing.contains(&index);
                    let missing = group.iter().filter(is_missing).count();
                    if missing > 0 {
                        self.work_on(group, index, &seen, progress)?;
                    }
                    let model = subject.model.name();
                    count.add(missing, |done, total| progress(Progress::Step { done, total, model }));
                }
                group.iter().try_for_each(|shelf| self.folder.tidy(self.units.shelf(shelf.index)))?;
            }
            Ok(())
        })
    }

    /// The positions of a group's images in the data set.
    fn images_of(&self, group: &Group) -> Vec<usize> {
        let chunks = group.iter().map(|shelf| &self.units.chunks[shelf.index]);
        chunks.flat_map(|chunk| chunk.start..chunk.start + chunk.len).collect()
    }

    /// What each model sees of each image of a group; models with the same transform share the work.
    fn seen(&self, decoded: Vec<Result<RgbImage, DecodeError>>) -> Result<Seen, SatError> {
        let mut skipped = Vec::new();
        let mut images = Vec::new();
        for (index, image) in decoded.into_iter().enumerate() {
            match image {
                Ok(image) => images.push(Some(image)),
                Err(error) if self.config.strict => return Err(error.into()),
                Err(error) => {
                    skipped.push((index, error.to_string()));
                    images.push(None);
                }
            }
        }
        let mut views: Vec<(Transform, Vec<Option<RgbImage>>)> = Vec::new();
        for subject in &self.models {
            if views.iter().all(|(transform, _)| *transform != subject.transform) {
                let view =
                    images.par_iter().map(|image| image.as_ref().map(|image| subject.transform.apply(image))).collect();
                views.push((subject.transform, view));
            }
        }
        Ok(Seen { views, skipped })
    }

    /// Does what is missing of one model on a group.
    fn work_on(
        &self,
        group: &Group,
        index: usize,
        seen: &Seen,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), SatError> {
        let mut rows = group.iter().map(|shelf| self.row(shelf.index, index)).collect::<Result<Vec<_>, _>>()?;
        let view = seen.by(&self.models[index].transform);
        self.clean(&mut rows, index, seen, progress);

        let is_wanted = |row: &Row| !row.judges.is_empty() || row.wants_adversarial;
        if rows.iter().any(is_wanted) {
            let samples: Vec<&Sample> = self.images_of(group).into_iter().map(|image| &self.samples[image]).collect();
            let attacked: Vec<Attacked> = rows.iter().map(|row| self.attacked(row)).collect();
            let positions = attacked.iter().enumerate();
            let positions =
                positions.flat_map(|(place, attacked)| attacked.positions().map(move |at| place * CHUNK + at));
            let targets: Vec<Target> = positions.filter_map(|at| Some((view[at].as_ref()?, samples[at]))).collect();
            let adversarial = self.adversarial(&mut rows, index, &attacked, &targets, progress);
            self.judge(&mut rows, index, &attacked, &adversarial, progress);
        }
        let made_by = self.provenance(self.models[index].model);
        for Row { chunk, new, .. } in rows {
            let shelf = self.units.shelf(chunk);
            for (store, units) in [(self.folder.large(), new.large), (self.folder.units(), new.units)] {
                if !units.is_empty() {
                    store.put(shelf, &made_by, &units)?;
                }
            }
        }
        Ok(())
    }

    /// What the folder has of a model on a chunk.
    fn row(&self, chunk: usize, index: usize) -> Result<Row, RunError> {
        let units = self.units;
        let name = units.shelf(chunk);
        let shelf = self.folder.units().shelf(name)?;
        let attack = units.attack(chunk, index);
        let clean = shelf.get(units.clean(chunk, index));
        let (mut attacked, mut judges) = (None, Vec::new());
        for judge in 0..self.models.len() {
            let unit = shelf.get(units.judged(attack, judge));
            match unit.and_then(|bytes| JudgedUnit::decode(bytes, units.chunks[chunk].len)) {
                Some(unit) => attacked = Some(unit.attacked),
                None => judges.push(judge),
            }
        }
        let large = self.folder.large();
        let wanted = units.large(chunk, index);
        let has_wanted = |key| Ok(!wanted.contains(&key) || large.get(name, key)?.is_some());
        let adversarial = match judges.is_empty() && !self.config.keep_adversarial {
            true => None,
            false => large.get(name, units.adversarial(attack))?,
        };
        let adversarial = adversarial.and_then(|bytes| self.stored(&bytes, index));
        Ok(Row {
            chunk,
            clean: clean.and_then(|bytes| CleanUnit::decode(bytes, units.chunks[chunk].len)),
            attacked,
            judges,
            wants_adversarial: self.config.keep_adversarial && adversarial.is_none(),
            adversarial,
            wants_logits: !has_wanted(units.logits(chunk, index))?,
            new: New::default(),
        })
    }

    /// Adversarial images as they were kept, if they are of the model's size.
    fn stored(&self, bytes: &[u8], index: usize) -> Option<Adversarial> {
        let [height, width] = self.models[index].model.input_size();
        let (attacked, bytes) = Attacked::split(bytes)?;
        let images = bytes.chunks_exact(3 * height * width);
        let images = images.map(|image| RgbImage::new(width, height, image.to_vec())).collect();
        (bytes.len() == 3 * height * width * attacked.len()).then_some(Adversarial { attacked, images })
    }

    /// The images of a chunk to attack: those that were attacked for judges that came earlier, else those that the model
    /// classifies correctly.
    fn attacked(&self, row: &Row) -> Attacked {
        let samples = &self.samples[self.units.chunks[row.chunk].start..];
        let clean = row.clean.iter().flat_map(|clean| &clean.predictions);
        let is_right = |(class, sample): (&Option<u16>, &Sample)| class.map(usize::from) == Some(sample.label);
        let right = clean.zip(samples).enumerate().filter(|(_, image)| is_right(*image)).map(|(position, _)| position);
        row.attacked.unwrap_or_else(|| Attacked::new(right))
    }

    /// Completes what rows know of the clean images of a group.
    fn clean(&self, rows: &mut [Row], index: usize, seen: &Seen, progress: &mut impl FnMut(Progress)) {
        if rows.iter().all(|row| row.clean.is_some() && !row.wants_logits) {
            return;
        }
        let model = self.models[index].model;
        let images: Vec<Option<&RgbImage>> =
            seen.by(&self.models[index].transform).iter().map(Option::as_ref).collect();
        let present: Vec<&RgbImage> = images.iter().copied().flatten().collect();
        let keep_logits = rows.iter().any(|row| row.wants_logits);
        let mut predictions = self.predict(model, &present, keep_logits, progress).into_iter();
        let predictions: Vec<Option<Prediction>> =
            images.iter().map(|image| image.and_then(|_| predictions.next())).collect();
        for (position, (row, predictions)) in rows.iter_mut().zip(predictions.chunks(CHUNK)).enumerate() {
            if row.wants_logits {
                let nothing = vec![0.0; model.num_classes()];
                let logits = predictions.iter().flat_map(|each| each.as_ref().map_or(&nothing, |each| &each.logits));
                let bytes = logits.flat_map(|logit| logit.to_le_bytes()).collect();
                row.new.large.insert(self.units.logits(row.chunk, index), bytes);
            }
            if row.clean.is_none() {
                let of_chunk = seen.skipped.iter().filter(|(image, _)| image / CHUNK == position);
                let unit = CleanUnit {
                    predictions: predictions.iter().map(|each| each.as_ref().map(|each| each.class)).collect(),
                    skipped: of_chunk.map(|(image, reason)| (image % CHUNK, reason.clone())).collect(),
                };
                row.new.units.insert(self.units.clean(row.chunk, index), unit.encode());
                row.clean = Some(unit);
            }
        }
    }

    /// The adversarial images of a group, 8-bit, in the order of `targets`: those of an earlier run if there are all, else
    /// new ones.
    fn adversarial(
        &self,
        rows: &mut [Row],
        index: usize,
        attacked: &[Attacked],
        targets: &[Target],
        progress: &mut impl FnMut(Progress),
    ) -> Vec<RgbImage> {
        let kept = |row: &Row, &attacked: &Attacked| {
            row.adversarial.as_ref().is_some_and(|adversarial| adversarial.attacked == attacked)
        };
        if rows.iter().zip(attacked).all(|(row, attacked)| kept(row, attacked)) {
            return rows.iter_mut().filter_map(|row| row.adversarial.take()).flat_map(|kept| kept.images).collect();
        }
        let model = self.models[index].model;
        let again: usize = rows.iter().filter_map(|row| row.attacked).map(Attacked::len).sum();
        if again > 0 {
            progress(Progress::AttackedAgain { images: again, model: model.name() });
        }
        let images = self.attack(index, targets, progress);
        let mut rest = images.as_slice();
        for (row, attacked) in rows.iter_mut().zip(attacked) {
            let (of_chunk, others) = rest.split_at(attacked.len());
            rest = others;
            if row.wants_adversarial {
                let key = self.units.adversarial(self.units.attack(row.chunk, index));
                let bytes = of_chunk.iter().flat_map(|image| image.data()).copied();
                row.new.large.insert(key, attacked.encode_with(bytes));
            }
        }
        images
    }

    /// What the judges that a chunk of the group still wants say of its adversarial images. A judge that one chunk wants
    /// sees all of the group.
    fn judge(
        &self,
        rows: &mut [Row],
        index: usize,
        attacked: &[Attacked],
        adversarial: &[RgbImage],
        progress: &mut impl FnMut(Progress),
    ) {
        let mut resized: Vec<([usize; 2], Vec<RgbImage>)> = Vec::new();
        for (judge, subject) in self.models.iter().enumerate() {
            if !rows.iter().any(|row| row.judges.contains(&judge)) {
                continue;
            }
            let size = subject.model.input_size();
            if resized.iter().all(|(other, _)| *other != size) {
                let filter = self.config.transfer_interpolation;
                let images = adversarial.par_iter().map(|image| transferred(image, size, filter));
                resized.push((size, images.collect()));
            }
            let images: Vec<&RgbImage> =
                resized.iter().filter(|(other, _)| *other == size).flat_map(|(_, images)| images).collect();
            let mut predictions = self.predict(subject.model, &images, false, progress).into_iter();
            for (row, &attacked) in rows.iter_mut().zip(attacked) {
                let predictions = predictions.by_ref().take(attacked.len()).map(|each| each.class).collect();
                if row.judges.contains(&judge) {
                    let key = self.units.judged(self.units.attack(row.chunk, index), judge);
                    row.new.units.insert(key, JudgedUnit { attacked, predictions }.encode());
                }
            }
        }
    }

    /// What a network says of each image.
    fn predict(
        &self,
        model: &Model,
        images: &[&RgbImage],
        keep_logits: bool,
        progress: &mut impl FnMut(Progress),
    ) -> Vec<Prediction> {
        let work = |batch: &[&RgbImage]| {
            let pixels = model.pixels_of(batch.iter().copied());
            let (classes, logits) = self.timed(
                |timing| &mut timing.predictions,
                || {
                    let logits = model.forward(pixels).logits;
                    let kept = if keep_logits { to_f32(logits.clone()) } else { Vec::new() };
                    (argmax(logits), kept)
                },
            );
            let size = if keep_logits { model.num_classes() } else { 0 };
            let each = classes.into_iter().enumerate().map(|(index, class)| Prediction {
                class: u16::try_from(class).expect("the number of classes was checked"),
                logits: logits[index * size..][..size].to_vec(),
            });
            each.collect()
        };
        self.batches.work(model.device(), images, work, |batch| {
            let (device, model) = (self.device.as_str(), model.name());
            progress(Progress::SmallerBatch { batch, device, model });
        })
    }

    /// Adversarial images, 8-bit, within ε of the originals.
    fn attack(&self, index: usize, targets: &[Target], progress: &mut impl FnMut(Progress)) -> Vec<RgbImage> {
        let (attack, subject) = (&self.config.attack, &self.models[index]);
        let model = subject.attacked.as_ref().unwrap_or(subject.model);
        let work = |batch: &[Target]| {
            let labels: Vec<usize> = batch.iter().map(|(_, sample)| sample.label).collect();
            let ids: Vec<&str> = batch.iter().map(|(_, sample)| sample.id.as_str()).collect();
            let pixels = model.pixels_of(batch.iter().map(|(original, _)| *original));
            let mut targets = Targets::new(pixels, &labels, &ids);
            let values = self.timed(
                |timing| &mut timing.attacks,
                || {
                    if let Some((target, seed)) = self.config.target {
                        let logits = model.forward(targets.pixels.clone()).logits;
                        targets.wanted = Some(target.classes(&logits, &labels, &ids, seed));
                    }
                    let perturbed = attack.perturb(model, &targets);
                    let (doubts, attacked) = &mut self.doubts.borrow_mut()[index];
                    *attacked += batch.len();
                    perturbed.doubts.into_iter().for_each(|doubt| Doubt::add(doubts, doubt));
                    to_f32(targets.only_where_wanted(perturbed.pixels))
                },
            );
            let size = values.len() / batch.len();
            batch
                .par_iter()
                .zip(values.par_chunks_exact(size))
                .map(|((original, _), values)| quantise(values, original, attack.bound()))
                .collect()
        };
        self.batches.work(model.device(), targets, work, |batch| {
            let (device, model) = (self.device.as_str(), model.name());
            progress(Progress::SmallerBatch { batch, device, model });
        })
    }

    /// Runs a network and adds the time to what `which` picks.
    fn timed<R>(&self, which: fn(&mut Timing) -> &mut Duration, run: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = run();
        let mut timing = self.timing.get();
        *which(&mut timing) += start.elapsed();
        self.timing.set(timing);
        result
    }

    fn provenance(&self, model: &Model) -> Provenance {
        Provenance { netkin: env!("CARGO_PKG_VERSION").to_owned(), device: crate::device::name(model.device()) }
    }
}

/// An attacked image as a network of another size gets it.
fn transferred(image: &RgbImage, [height, width]: [usize; 2], filter: Filter) -> RgbImage {
    if (image.width(), image.height()) == (width, height) {
        return image.clone();
    }
    resize(image, (width, height), filter)
}

/// Reads images and makes sure that they are those of the run.
#[derive(Clone, Copy)]
struct Decoder<'a> {
    samples: &'a [Sample],
    manifest: &'a Manifest,
}

impl Decoder<'_> {
    /// In threads of its own: rayon's are busy with the network, and the caller may be all that rayon has.
    fn decode(self, images: &[usize]) -> Decoded {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let part = images.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let decode = |images: &[usize]| images.iter().map(|&image| self.decode_one(image)).collect::<Vec<_>>();
            let parts: Vec<_> = images.chunks(part).map(|images| scope.spawn(move || decode(images))).collect();
            parts.into_iter().flat_map(|part| part.join().expect("decoding does not panic")).collect()
        })
    }

    /// A file that cannot be read now may be readable later: it ends the run, while an image that cannot be decoded is
    /// left out for good.
    fn decode_one(self, index: usize) -> Result<Result<RgbImage, DecodeError>, SatError> {
        let sample = &self.samples[index];
        let path = || sample.path.clone();
        let bytes = sample.content().map_err(|source| DatasetError::Read { path: path(), source })?;
        if !self.manifest.is_content(index, &bytes) {
            return Err(SatError::Changed { path: path() });
        }
        Ok(sample.decode_content(&bytes))
    }
}

/// What the networks see of a group.
struct Seen {
    views: Vec<(Transform, Vec<Option<RgbImage>>)>,
    /// Position in the group and reason.
    skipped: Vec<(usize, String)>,
}

impl Seen {
    fn by(&self, transform: &Transform) -> &[Option<RgbImage>] {
        let view = self.views.iter().find(|(other, _)| other == transform);
        view.map_or(&[], |(_, images)| images)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NetworkRecord, SatFolder};
    use super::*;
    use crate::images::{Dataset, save_png};
    use crate::runs::Trust;

    #[test]
    fn images_are_resized_once_for_all_networks_that_want_them_alike() {
        let device = burn::tensor::Device::flex();
        let hub = netkin_weights::HubConfig::nowhere();
        let precision = netkin_weights::Precision::F32;
        let load = |name: &str| {
            let spec = name.parse().unwrap();
            let loaded = netkin_weights::load(&spec, precision, &device, &hub, &mut |_| {});
            Model::new(loaded.unwrap(), precision, device.clone())
        };
        let models = ["demo_resnet", "demo_mixer", "demo_vit_patch7"].map(load);
        let folder = tempfile::tempdir().unwrap();
        let config = SatConfig::default();
        let image = RgbImage::new(40, 30, vec![7; 40 * 30 * 3]);
        let class = folder.path().join("images/class");
        std::fs::create_dir_all(&class).unwrap();
        save_png(&class.join("a.png"), &image).unwrap();
        let dataset = Dataset::open(&folder.path().join("images"), None).unwrap();
        let run = folder.path().join("run");
        let networks = NetworkRecord::of_all(&models, config.crop);
        let SatFolder { folder: run, manifest, units } =
            SatFolder::open(networks, &dataset, &config, &run, Trust::Files).unwrap();
        let work = Work::new(&models, &dataset.samples, &config, &run, &manifest, &units, "flex".to_owned());
        let seen = work.seen(vec![Ok(image)]).unwrap();
        assert_eq!(seen.views.len(), 1);
        let view = seen.by(&work.models[2].transform)[0].as_ref().unwrap();
        assert_eq!((view.width(), view.height()), (28, 28));

        // An image that was exchanged meanwhile is no image of the run.
        let decoder = Decoder { samples: &dataset.samples, manifest: &manifest };
        assert!(decoder.decode(&[0]).unwrap()[0].is_ok());
        save_png(&dataset.samples[0].path, &RgbImage::new(40, 30, vec![8; 40 * 30 * 3])).unwrap();
        assert!(matches!(decoder.decode(&[0]), Err(SatError::Changed { .. })));
    }
}
