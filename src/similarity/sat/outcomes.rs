//! Reads a finished run: what every network says of every image, clean and attacked, without any network.

use std::path::Path;

use fixedbitset::FixedBitSet;

use super::units::{Attacked, CleanUnit, JudgedUnit, NETWORKS, Units};
use super::{NetworkRecord, SatError, SatRun, Timing};
use crate::images::Skipped;
use crate::runs::{Layout, Manifest, Plan, RunError, RunFolder, Shard};

/// The predictions of a finished run, chunk by chunk of [`super::CHUNK`] images.
#[derive(Debug)]
pub struct Outcomes {
    folder: RunFolder,
    units: Units,
    manifest: Manifest,
}

/// All predictions on one chunk.
#[derive(Debug, Clone)]
pub struct ChunkOutcomes {
    /// The position of the chunk's first image in the data set.
    pub start: usize,
    /// Network → image of the chunk → class; none if the image could not be decoded.
    pub clean: Vec<Vec<Option<u16>>>,
    /// Attacked network → the images of the chunk that were attacked: those that it classifies correctly.
    pub attacked: Vec<Vec<usize>>,
    /// Attacked network → judging network → attacked image, in the order of `attacked` → class.
    pub adversarial: Vec<Vec<Vec<u16>>>,
    /// Images of the chunk that could not be decoded, and why.
    pub skipped: Vec<(usize, String)>,
}

impl Outcomes {
    pub(super) fn new(folder: RunFolder, units: Units, manifest: Manifest) -> Self {
        Self { folder, units, manifest }
    }

    /// Opens a run folder with all networks that ever took part, in the order in which they were given.
    ///
    /// # Errors
    /// If it is no run folder, or of another version.
    pub fn open(folder: &Path) -> Result<Self, SatError> {
        let folder = RunFolder::existing(folder)?;
        let manifest =
            Manifest::read(folder.path())?.ok_or_else(|| RunError::NoRun { folder: folder.path().to_owned() })?;
        let mut networks: Vec<NetworkRecord> = folder.records(NETWORKS)?;
        // They come by name, which decides between networks that were added at the same place.
        networks.sort_by_key(|network| network.position);
        let units = Units::new(networks, &manifest, folder.settings())?;
        Ok(Self::new(folder, units, manifest))
    }

    /// The networks, in whose order everything is.
    pub fn networks(&self) -> &[NetworkRecord] {
        &self.units.networks
    }

    /// The images, with their labels.
    pub fn images(&self) -> &Manifest {
        &self.manifest
    }

    /// What is done of a share of it, and what is missing.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn plan(&self, shard: Shard) -> Result<Plan, SatError> {
        Ok(Plan::of(&self.folder, &self.units, shard)?)
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.units.chunks.len()
    }

    /// Everything on one chunk.
    ///
    /// # Errors
    /// If a unit of it is missing, or the folder cannot be read.
    pub fn chunk(&self, index: usize) -> Result<ChunkOutcomes, SatError> {
        let (units, chunk) = (&self.units, &self.units.chunks[index]);
        let shelf = self.folder.units().shelf(units.shelf(index))?;
        let count = units.networks.len();
        let incomplete = || self.incomplete();
        let mut outcomes = ChunkOutcomes {
            start: chunk.start,
            clean: Vec::with_capacity(count),
            attacked: Vec::with_capacity(count),
            adversarial: Vec::with_capacity(count),
            skipped: Vec::new(),
        };
        for a in 0..count {
            let clean = shelf.get(units.clean(index, a)).and_then(|bytes| CleanUnit::decode(bytes, chunk.len));
            let clean = clean.ok_or_else(incomplete)?;
            outcomes.clean.push(clean.predictions);
            if a == 0 {
                outcomes.skipped = clean.skipped;
            }
            let attack = units.attack(index, a);
            let judged = (0..count).map(|b| shelf.get(units.judged(attack, b)).and_then(JudgedUnit::decode));
            let judged: Vec<JudgedUnit> = judged.collect::<Option<_>>().ok_or_else(incomplete)?;
            let attacked = judged.first().map_or(Attacked::new([]), |first| first.attacked);
            if judged.iter().any(|unit| unit.attacked != attacked) {
                return Err(SatError::Disagree { shelf: self.folder.units().shelf_folder(units.shelf(index)) });
            }
            outcomes.attacked.push(attacked.positions().collect());
            outcomes.adversarial.push(judged.into_iter().map(|unit| unit.predictions).collect());
        }
        Ok(outcomes)
    }

    /// The logits of a network on a chunk's clean images, `[image, class]` row by row, zero for images that could not be decoded;
    /// none if they were not kept.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn logits(&self, chunk: usize, network: usize) -> Result<Option<Vec<f32>>, SatError> {
        let bytes = self.folder.large().get(self.units.shelf(chunk), self.units.logits(chunk, network))?;
        let value = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        Ok(bytes.map(|bytes| bytes.chunks_exact(4).map(value).collect()))
    }

    /// The run, from all chunks.
    ///
    /// # Errors
    /// If a unit is missing, the folder cannot be read, or no image could be decoded.
    pub fn collect(&self, epsilon_s: f64) -> Result<SatRun, SatError> {
        let plan = self.plan(Shard::WHOLE)?;
        if plan.missing() > 0 {
            return Err(self.incomplete());
        }
        let (networks, images) = (self.units.networks.len(), self.manifest.images().len());
        let none = FixedBitSet::with_capacity(images);
        let mut run = SatRun {
            networks: self.units.networks.clone(),
            correct: vec![none.clone(); networks],
            fooled: vec![vec![none; networks]; networks],
            skipped: Vec::new(),
            images,
            fingerprint: self.manifest.fingerprint(),
            settings: self.folder.settings().clone(),
            made_by: plan.made_by(),
            timing: Timing::default(),
            epsilon_s,
        };
        for index in 0..self.chunks() {
            let chunk = self.chunk(index)?;
            let labels = &self.manifest.images()[chunk.start..];
            let is_right = |image: usize, class: u16| usize::from(class) == labels[image].label;
            for a in 0..networks {
                for (image, &class) in chunk.clean[a].iter().enumerate() {
                    run.correct[a].set(chunk.start + image, class.is_some_and(|class| is_right(image, class)));
                }
                for (b, classes) in chunk.adversarial[a].iter().enumerate() {
                    for (&image, &class) in chunk.attacked[a].iter().zip(classes) {
                        run.fooled[a][b].set(chunk.start + image, !is_right(image, class));
                    }
                }
            }
            run.skipped.extend(chunk.skipped.into_iter().map(|(image, reason)| Skipped {
                index: chunk.start + image,
                id: labels[image].id.clone(),
                reason,
            }));
        }
        match run.skipped.first() {
            Some(first) if run.skipped.len() == images => Err(SatError::NoImages(images, first.reason.clone())),
            _ => Ok(run),
        }
    }

    fn incomplete(&self) -> SatError {
        let plan = self.plan(Shard::WHOLE).unwrap_or_default();
        SatError::Incomplete { folder: self.folder.path().to_owned(), missing: plan.missing(), total: plan.total() }
    }
}
