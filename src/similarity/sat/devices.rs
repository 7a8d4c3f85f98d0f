//! Several devices of one machine in one process: each does a part of what is missing, with networks of its own.
//!
//! The groups of images of which something is missing go to the devices in turn. A group is worked on in the same batches
//! whichever device has it, so that on devices of one kind the units have the bytes of a run on one of them. The calling thread
//! works for the first device, and each other device has a thread, and threads of the CPU, of its own: what decodes, resizes and
//! quantises for one never waits for another.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;

use super::work::{Count, Done, Group, Work, wanted};
use super::{NetworkRecord, Progress, SatConfig, SatError, SatFolder, Timing};
use crate::attacks::Doubt;
use crate::device::{self, DeviceName};
use crate::images::{Dataset, Sample};
use crate::model::Model;
use crate::runs::{Plan, Shard};
use crate::runtime::RuntimeError;
use crate::similarity::batches::{is_device_lost, is_out_of_memory, text_of};

/// Loads the networks of a run, in their order, on a device.
pub type Load<'a> = dyn Fn(&Device) -> Result<Vec<Model>, netkin_weights::Error> + Sync + 'a;

/// The devices that divide the work of a run among them, each about the same number of images: they should be equally fast.
#[derive(Clone, Copy)]
pub struct Devices<'a> {
    /// Their names and themselves, of which the first is that of the networks that are loaded; none is that device alone.
    pub named: &'a [(DeviceName, Device)],
    /// Loads the same networks on another one. It is called in the thread that works for that device, if there is work for it.
    pub load: &'a Load<'a>,
}

impl Devices<'_> {
    /// The device of the loaded networks alone.
    pub fn alone() -> Devices<'static> {
        Devices { named: &[], load: &|_| Ok(Vec::new()) }
    }
}

/// What all devices of a run have in common while they work.
struct Job<'a> {
    run: &'a SatFolder,
    devices: Devices<'a>,
    samples: &'a [Sample],
    config: &'a SatConfig,
    groups: Vec<&'a Group>,
    count: Count,
}

/// Why a device has not done its part.
enum Failed {
    /// Something that is no matter of the device.
    Error(SatError),
    /// A backend says by panics what is wrong with a device.
    Panic(Box<dyn Any + Send>),
}

impl SatFolder {
    /// As [`SatFolder::work`], where something is missing.
    pub(super) fn divide<P: FnMut(Progress) + Send>(
        &self,
        models: &[Model],
        devices: Devices,
        dataset: &Dataset,
        config: &SatConfig,
        plan: &Plan,
        progress: &mut P,
    ) -> Result<Timing, SatError> {
        let (groups, count) = (wanted(plan, config.batch), Count::of(plan));
        let job = Job { run: self, devices, samples: &dataset.samples, config, groups, count };
        if devices.named.len() < 2 {
            let done = job.work(0, models, progress)?;
            return Ok(job.ended(vec![done], progress));
        }
        let told = Mutex::new(progress);
        let ended: Vec<Result<Done, Failed>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..devices.named.len())
                .map(|place| {
                    let (job, told) = (&job, &told);
                    let part = move || job.load_and_work(place, &mut |event: Progress<'_>| tell(told, event));
                    scope.spawn(move || job.attempt(place, told, part))
                })
                .collect();
            let part = || job.work(0, models, &mut |event: Progress<'_>| tell(&told, event));
            let first = job.attempt(0, &told, part);
            let others = others.into_iter().map(|other| other.join().expect("panics of the work are caught in it"));
            std::iter::once(first).chain(others).collect()
        });
        let progress = told.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(job.ended(job.all_done(ended)?, progress))
    }
}

impl<'a> Job<'a> {
    /// The groups of the device at that place.
    fn groups_of(&self, place: usize) -> Vec<&'a Group> {
        let part = Shard::new(place, self.devices.named.len().max(1)).expect("places are below their number");
        part.of(self.groups.len()).map(|index| self.groups[index]).collect()
    }

    /// Does the part of the device at that place, on which `models` are.
    fn work(&self, place: usize, models: &[Model], progress: &mut impl FnMut(Progress)) -> Result<Done, SatError> {
        let SatFolder { folder, manifest, units } = self.run;
        let named = self.devices.named.get(place).map(|(name, _)| name.to_string());
        let name = named.unwrap_or_else(|| device::name(models[0].device()));
        let work = Work::new(models, self.samples, self.config, folder, manifest, units, name);
        work.compute(&self.groups_of(place), &self.count, progress)?;
        Ok(work.done())
    }

    /// Does the part of another device than the first, in its share of as many threads as the first has.
    fn load_and_work(&self, place: usize, progress: &mut (impl FnMut(Progress) + Send)) -> Result<Done, SatError> {
        if self.groups_of(place).is_empty() {
            return Ok(Done::default());
        }
        let (name, device) = &self.devices.named[place];
        let (name, threads) = (*name, (rayon::current_num_threads() / self.devices.named.len()).max(1));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(move |_| name.to_string()).build();
        let pool = pool.map_err(|source| RuntimeError::Refused { threads, source })?;
        pool.install(|| {
            let models = (self.devices.load)(device)?;
            self.check(&models)?;
            self.work(place, &models, progress)
        })
    }

    /// Whether these are the networks of the run: the file of one may have changed since it was loaded on the first device.
    fn check(&self, models: &[Model]) -> Result<(), SatError> {
        let networks = &self.run.units.networks;
        assert!(models.len() == networks.len(), "the networks of each device are all those of the run");
        let now = NetworkRecord::of_all(models, self.config.crop);
        match networks.iter().zip(now).find(|(there, now)| there.key != now.key) {
            None => Ok(()),
            Some((there, now)) => Err(SatError::OtherWeights {
                name: now.name,
                folder: self.run.folder.path().to_owned(),
                there: there.sha256.clone(),
                now: now.sha256,
            }),
        }
    }

    /// The part of one device among several. If it fails by itself, that is told and the others go on; if what went wrong is no
    /// matter of the device, the others are asked to stop.
    fn attempt<P: FnMut(Progress)>(
        &self,
        place: usize,
        told: &Mutex<&mut P>,
        work: impl FnOnce() -> Result<Done, SatError>,
    ) -> Result<Done, Failed> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                self.count.stop();
                Err(Failed::Error(error))
            }
            Err(panic) => {
                let (device, reason) = (self.devices.named[place].0.to_string(), reason_of(&*panic));
                tell(told, Progress::DeviceFailed { device: &device, reason: &reason });
                Err(Failed::Panic(panic))
            }
        }
    }

    /// What all devices have done, if each has done its part.
    ///
    /// # Panics
    /// As a device's part did, unless the device was lost or had too little memory.
    fn all_done(&self, ended: Vec<Result<Done, Failed>>) -> Result<Vec<Done>, SatError> {
        let devices = ended.len();
        let (mut done, mut failed, mut other) = (Vec::new(), Vec::new(), None);
        for (ended, (name, _)) in ended.into_iter().zip(self.devices.named) {
            match ended {
                Ok(part) => done.push(part),
                Err(Failed::Error(error)) => return Err(error),
                Err(Failed::Panic(panic)) if is_device_lost(&*panic) || is_out_of_memory(&*panic) => {
                    failed.push((name.to_string(), reason_of(&*panic)));
                }
                Err(Failed::Panic(panic)) => other = Some(panic),
            }
        }
        match other {
            Some(panic) => resume_unwind(panic),
            None if failed.is_empty() => Ok(done),
            None => Err(SatError::Devices { devices, failed }),
        }
    }

    /// Tells what attacks gave reason to doubt, of all devices together; how long networks worked, on average over the devices.
    fn ended(&self, parts: Vec<Done>, progress: &mut impl FnMut(Progress)) -> Timing {
        let networks = &self.run.units.networks;
        let (devices, mut sum) = (parts.len() as u32, Timing::default());
        let mut all = vec![(Vec::new(), 0); networks.len()];
        for Done { timing, doubts } in parts {
            sum.attacks += timing.attacks;
            sum.predictions += timing.predictions;
            for ((all, attacked), (doubts, images)) in all.iter_mut().zip(doubts) {
                doubts.into_iter().for_each(|doubt| Doubt::add(all, doubt));
                *attacked += images;
            }
        }
        for ((doubts, attacked), network) in all.into_iter().zip(networks) {
            for doubt in doubts {
                progress(Progress::Doubt { doubt: doubt.of_all(attacked), model: &network.name });
            }
        }
        Timing { attacks: sum.attacks / devices, predictions: sum.predictions / devices, ..sum }
    }
}

/// Tells something, one device at a time.
fn tell<P: FnMut(Progress)>(told: &Mutex<&mut P>, event: Progress) {
    let mut progress = told.lock().unwrap_or_else(PoisonError::into_inner);
    (**progress)(event);
}

/// What a device said when it failed, in one line.
fn reason_of(panic: &(dyn Any + Send)) -> String {
    text_of(panic).lines().next().unwrap_or("it does not say why").trim().to_owned()
}
