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
    /// If it is no run folder, of another version, holds no network, or its list of images is not the one that it was made with.
    pub fn open(folder: &Path) -> Result<Self, SatError> {
        let folder = RunFolder::existing(folder)?;
        let manifest = super::list_of(&folder)?.ok_or_else(|| RunError::Damaged {
            path: folder.path().join("images.csv"),
            reason: "it is not there".into(),
        })?;
        let mut networks: Vec<NetworkRecord> = folder.records(NETWORKS)?;
        if networks.is_empty() {
            return Err(SatError::NoNetworks { folder: folder.path().to_owned() });
        }
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

    /// The images of a chunk that could not be decoded.
    ///
    /// # Errors
    /// If that is not known yet, or the folder cannot be read.
    pub fn skipped(&self, index: usize) -> Result<Vec<Skipped>, SatError> {
        let (units, chunk) = (&self.units, &self.units.chunks[index]);
        let shelf = self.folder.units().shelf(units.shelf(index))?;
        let clean = shelf.get(units.clean(index, 0)).and_then(|bytes| CleanUnit::decode(bytes, chunk.len));
        let clean = clean.ok_or_else(|| self.incomplete())?;
        Ok(self.named(chunk.start, clean.skipped).collect())
    }

    fn named(&self, start: usize, skipped: Vec<(usize, String)>) -> impl Iterator<Item = Skipped> {
        skipped.into_iter().map(move |(image, reason)| {
            let index = start + image;
            Skipped { index, id: self.manifest.images()[index].id.clone(), reason }
        })
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
            let by = |b| JudgedUnit::decode(shelf.get(units.judged(attack, b))?, chunk.len);
            let judged: Vec<JudgedUnit> = (0..count).map(by).collect::<Option<_>>().ok_or_else(incomplete)?;
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
    /// none if they were not kept, or are not as many as they should be.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn logits(&self, chunk: usize, network: usize) -> Result<Option<Vec<f32>>, SatError> {
        let bytes = self.folder.large().get(self.units.shelf(chunk), self.units.logits(chunk, network))?;
        let length = self.units.networks[network].num_classes.checked_mul(4 * self.units.chunks[chunk].len);
        let is_whole = |bytes: &Vec<u8>| !bytes.is_empty() && Some(bytes.len()) == length;
        let value = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        Ok(bytes.filter(is_whole).map(|bytes| bytes.chunks_exact(4).map(value).collect()))
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
            run.skipped.extend(self.named(chunk.start, chunk.skipped));
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

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::time::Instant;

    use serde_json::json;

    use super::super::units::CHUNK;
    use super::*;
    use crate::memory;
    use crate::runs::{Bundle, Key, Provenance};

    /// A run folder of that size as `netkin plan` leaves it, with networks and images that there are not.
    fn planned(folder: &Path, networks: usize, images: usize) -> Outcomes {
        let settings = json!({"attack_key": Key::of(&"an attack"), "transfer_interpolation": "bicubic"});
        let run = RunFolder::open(folder, &settings).unwrap();
        let mut list = String::from("file,label,bytes,modified,blake3\n");
        for image in 0..images {
            let hash = blake3::hash(&image.to_le_bytes()).to_hex();
            writeln!(list, "n01440764/ILSVRC2012_val_{image:08}.JPEG,{},100000,1,{hash}", image % 1000).unwrap();
        }
        std::fs::write(folder.join("images.csv"), list).unwrap();
        for position in 0..networks {
            let (name, key) = (format!("network{position}"), Key::of(&position));
            let record = NetworkRecord {
                name: name.clone(),
                architecture: name.clone(),
                sha256: key.to_string(),
                num_classes: 1000,
                preprocessing: json!({}),
                notes: Vec::new(),
                precision: "f32".to_owned(),
                position,
                key,
            };
            run.keep_record(NETWORKS, &name, key, &record).unwrap();
        }
        Outcomes::open(folder).unwrap()
    }

    /// Units as a run leaves them on a shelf: every network is right about four fifths of the images.
    fn fill(outcomes: &Outcomes, shelf: usize, made_by: &Provenance) {
        let (units, labels) = (&outcomes.units, outcomes.images().images());
        let chunk = &units.chunks[shelf];
        let label = |image: usize| labels[chunk.start + image].label as u16;
        let is_right = |image: usize| !(chunk.start + image).is_multiple_of(5);
        let mut bundle = Bundle::new();
        for network in 0..units.networks.len() {
            let classes = (0..chunk.len).map(|image| if is_right(image) { label(image) } else { label(image) + 1 });
            let clean = CleanUnit { predictions: classes.map(Some).collect(), skipped: Vec::new() };
            bundle.insert(units.clean(shelf, network), clean.encode());
            let attack = units.attack(shelf, network);
            let attacked = Attacked::new((0..chunk.len).filter(|&image| is_right(image)));
            for judge in 0..units.networks.len() {
                let fools = |image: usize| (chunk.start + image + network * judge).is_multiple_of(3);
                let classes = attacked.positions().map(|image| label(image) + u16::from(fools(image)));
                let judged = JudgedUnit { attacked, predictions: classes.collect() };
                bundle.insert(units.judged(attack, judge), judged.encode());
            }
        }
        outcomes.folder.units().put(units.shelf(shelf), made_by, &bundle).unwrap();
    }

    #[test]
    fn outcomes_of_a_simulated_run_are_collected() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = planned(folder.path(), 3, 2 * CHUNK + 5);
        let made_by = Provenance { netkin: "1".into(), device: "flex".into() };
        (0..3).for_each(|shelf| fill(&outcomes, shelf, &made_by));
        let run = outcomes.collect(0.01).unwrap();
        let wrong = (0..69).filter(|image| image % 5 == 0).count();
        assert_eq!(run.clean(), [69 - wrong; 3]);
        let fooled = |sum: usize| (0..69).filter(|image| image % 5 != 0 && (image + sum).is_multiple_of(3)).count();
        let pair = run.pair(1, 2);
        assert_eq!((pair.n, pair.fooled_ab, pair.fooled_ba), (69 - wrong, fooled(2), fooled(2)));
    }

    #[test]
    fn a_folder_without_networks_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        planned(folder.path(), 1, 2);
        std::fs::remove_dir_all(folder.path().join("models")).unwrap();
        assert!(matches!(Outcomes::open(folder.path()), Err(SatError::NoNetworks { .. })));
    }

    #[test]
    fn logits_of_another_length_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = planned(folder.path(), 1, 2);
        let made_by = Provenance { netkin: "1".into(), device: "flex".into() };
        let kept = |bytes: usize| {
            let unit = Bundle::from([(outcomes.units.logits(0, 0), vec![0; bytes])]);
            let folder = tempfile::tempdir().unwrap();
            let other = planned(folder.path(), 1, 2);
            other.folder.large().put(other.units.shelf(0), &made_by, &unit).unwrap();
            other.logits(0, 0).unwrap().map(|logits| logits.len())
        };
        assert_eq!([8000, 7996, 4000, 0].map(kept), [Some(2000), None, None, None]);
        assert_eq!(outcomes.logits(0, 0).unwrap(), None);
    }

    /// The largest run that is planned for, 69 networks × 50,000 images: what its folder holds, and what a start costs.
    /// `cargo test --release --workspace --lib -- --ignored --nocapture the_largest_run`
    #[test]
    #[ignore = "writes 0.6 GB"]
    fn the_largest_run_is_cheap_to_start() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = planned(folder.path(), 69, 50_000);
        let made_by = Provenance { netkin: "1".into(), device: "flex".into() };
        (0..outcomes.chunks()).for_each(|shelf| fill(&outcomes, shelf, &made_by));
        drop(outcomes);
        let (mut files, mut bytes, mut folders) = (0, 0, vec![folder.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else {
                    files += 1;
                    bytes += metadata.len();
                }
            }
        }
        let measure = |what: &str, work: &dyn Fn()| {
            crate::runtime::release_freed_memory();
            let start = Instant::now();
            work();
            let peak = memory::peak().unwrap_or(0) / 1_000_000;
            let seconds = start.elapsed().as_secs_f64();
            println!("{what}: {seconds:.2} s, {peak} MB at most so far");
            assert!(seconds < 60.0 && peak < 500, "far from what is promised");
        };
        println!("{files} files, {:.2} GB", bytes as f64 / 1e9);
        assert!(files <= 20_000 && bytes <= 2_000_000_000);
        let plan = |shard: &str| {
            let plan = Outcomes::open(folder.path()).unwrap().plan(shard.parse().unwrap()).unwrap();
            assert_eq!(plan.missing(), 0);
        };
        measure("start of share 3 of 100, nothing to do", &|| plan("3/100"));
        measure("start of the whole, nothing to do", &|| plan("0/1"));
        measure("all scores", &|| {
            let run = Outcomes::open(folder.path()).unwrap().collect(0.01).unwrap();
            assert_eq!(run.pairs().len(), 69 * 34);
        });
    }
}
