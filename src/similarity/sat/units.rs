//! What is kept of a SAT run, and under which keys.
//!
//! A shelf is a chunk of 32 images; its name depends on their ids, labels and contents. A row is a network. On the shelf lie
//! for each network
//! - its predictions on the clean images,
//! - for each network that judges, its predictions on the images that were attacked on the first one,
//! - on request the adversarial images and the clean images' logits.
//!
//! Keys depend on the weights, not on names, so that a network that is added later adds a row and a column, and nothing else
//! is done again.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::SatConfig;
use crate::model::{Crop, Model};
use crate::runs::{Key, Layout, Listed, Manifest, RunError, written};

/// Images in one unit of work.
pub const CHUNK: usize = 32;

/// Changes whenever the same settings would give other units, so that old run folders are not continued wrongly.
pub(super) const PROTOCOL: u32 = 2;

/// The folder of [`NetworkRecord`]s in a run folder.
pub(super) const NETWORKS: &str = "models";

/// A network that takes part in a run, as far as its predictions depend on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The name as it was asked for.
    pub name: String,
    /// The architecture's name.
    pub architecture: String,
    /// Of the weights' file.
    pub sha256: String,
    /// How many classes it knows.
    pub num_classes: usize,
    /// How its weights want their images.
    pub preprocessing: Value,
    /// What was chosen among several things in the weights' file, in sentences for people.
    pub notes: Vec<String>,
    /// The number format of all computations.
    pub precision: String,
    /// Its place among the networks of the run, so that results list them in the order in which they were given.
    pub position: usize,
    /// Of all that its outputs depend on.
    pub key: Key,
}

impl NetworkRecord {
    /// Of the loaded networks of a run.
    pub fn of_all(models: &[Model], crop: Crop) -> Vec<Self> {
        models.iter().enumerate().map(|(position, model)| Self::of(model, crop, position)).collect()
    }

    /// Of a loaded network, the one at `position` of a run.
    pub fn of(model: &Model, crop: Crop, position: usize) -> Self {
        let architecture = model.entry().name;
        let key = Key::of(&json!({
            "protocol": PROTOCOL,
            "architecture": architecture,
            "sha256": model.sha256(),
            "preprocessing": model.preprocessing(),
            "crop": crop,
            "precision": model.precision().to_string(),
        }));
        Self {
            name: model.name().to_owned(),
            architecture: architecture.to_owned(),
            sha256: model.sha256().to_owned(),
            num_classes: model.num_classes(),
            preprocessing: written(model.preprocessing()),
            notes: model.notes().to_vec(),
            precision: model.precision().to_string(),
            position,
            key,
        }
    }
}

/// A stretch of the data set.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub start: usize,
    pub len: usize,
    /// Of its images: ids, labels, contents.
    key: Key,
}

/// All units of a run.
#[derive(Debug, Clone)]
pub(super) struct Units {
    pub networks: Vec<NetworkRecord>,
    pub chunks: Vec<Chunk>,
    attack: Key,
    /// Of each network as a judge.
    judges: Vec<Key>,
    keep_adversarial: bool,
    keep_logits: bool,
}

impl Units {
    /// `settings` are the run folder's.
    pub fn new(networks: Vec<NetworkRecord>, manifest: &Manifest, settings: &Value) -> Result<Self, RunError> {
        let attack = settings["attack_key"]
            .as_str()
            .and_then(|key| key.parse().ok())
            .ok_or_else(|| RunError::Damaged { path: "run.json".into(), reason: "it has no attack_key".to_owned() })?;
        let transfer = Key::of(&settings["transfer_interpolation"]);
        let judges = networks.iter().map(|network| Key::combined("judge", &[network.key, transfer])).collect();
        let mut chunks = Vec::new();
        for images in manifest.images().chunks(CHUNK) {
            let start = chunks.len() * CHUNK;
            chunks.push(Chunk {
                start,
                len: images.len(),
                key: Key::of(&images.iter().map(Listed::identity).collect::<Vec<_>>()),
            });
        }
        Ok(Self { networks, chunks, attack, judges, keep_adversarial: false, keep_logits: false })
    }

    /// With what is kept on request.
    pub fn keeping(self, config: &SatConfig) -> Self {
        Self { keep_adversarial: config.keep_adversarial, keep_logits: config.keep_logits, ..self }
    }

    pub fn clean(&self, chunk: usize, network: usize) -> Key {
        Key::combined("clean", &[self.chunks[chunk].key, self.networks[network].key])
    }

    /// Of the attack on one network's images; the keys of what came of it follow from it.
    pub fn attack(&self, chunk: usize, network: usize) -> Key {
        Key::combined("attack", &[self.chunks[chunk].key, self.networks[network].key, self.attack])
    }

    pub fn judged(&self, attack: Key, judge: usize) -> Key {
        Key::combined("judged", &[attack, self.judges[judge]])
    }

    pub fn adversarial(&self, attack: Key) -> Key {
        Key::combined("adversarial", &[attack])
    }

    pub fn logits(&self, chunk: usize, network: usize) -> Key {
        Key::combined("logits", &[self.chunks[chunk].key, self.networks[network].key])
    }
}

impl Layout for Units {
    fn shelves(&self) -> usize {
        self.chunks.len()
    }

    fn shelf(&self, index: usize) -> Key {
        self.chunks[index].key
    }

    fn rows(&self) -> usize {
        self.networks.len()
    }

    fn units(&self, shelf: usize, row: usize) -> Vec<Key> {
        let attack = self.attack(shelf, row);
        let judged = (0..self.judges.len()).map(|judge| self.judged(attack, judge));
        std::iter::once(self.clean(shelf, row)).chain(judged).collect()
    }

    fn large(&self, shelf: usize, row: usize) -> Vec<Key> {
        let adversarial = self.keep_adversarial.then(|| self.adversarial(self.attack(shelf, row)));
        let logits = self.keep_logits.then(|| self.logits(shelf, row));
        adversarial.into_iter().chain(logits).collect()
    }
}

/// Predictions of one network on one chunk of clean images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CleanUnit {
    /// Per image of the chunk; none if it could not be decoded.
    pub predictions: Vec<Option<u16>>,
    /// Position in the chunk and reason.
    pub skipped: Vec<(usize, String)>,
}

/// Stands for an image that could not be decoded; no network has that many classes.
const SKIPPED: u16 = u16::MAX;

impl CleanUnit {
    /// A class for each image, u16, then the reasons of those that were skipped as JSON, if there are any.
    pub fn encode(&self) -> Vec<u8> {
        let classes = self.predictions.iter().map(|class| class.unwrap_or(SKIPPED));
        let mut bytes: Vec<u8> = classes.flat_map(u16::to_le_bytes).collect();
        if !self.skipped.is_empty() {
            bytes.extend(serde_json::to_vec(&self.skipped).expect("reasons are strings"));
        }
        bytes
    }

    /// Of a chunk of `images`.
    pub fn decode(bytes: &[u8], images: usize) -> Option<Self> {
        let (classes, skipped) = bytes.split_at_checked(2 * images)?;
        let predictions = classes_of(classes).map(|class| Some(class).filter(|&class| class != SKIPPED)).collect();
        let skipped: Vec<(usize, String)> =
            if skipped.is_empty() { Vec::new() } else { serde_json::from_slice(skipped).ok()? };
        skipped.iter().all(|(image, _)| *image < images).then_some(Self { predictions, skipped })
    }
}

/// Predictions of one network on those images of a chunk that were attacked on another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JudgedUnit {
    pub attacked: Attacked,
    /// For each attacked image.
    pub predictions: Vec<u16>,
}

impl JudgedUnit {
    pub fn encode(&self) -> Vec<u8> {
        let classes = self.predictions.iter().flat_map(|class| class.to_le_bytes());
        self.attacked.0.to_le_bytes().into_iter().chain(classes).collect()
    }

    /// Of a chunk of `images`.
    pub fn decode(bytes: &[u8], images: usize) -> Option<Self> {
        let (attacked, classes) = Attacked::split(bytes)?;
        let predictions: Vec<u16> = classes_of(classes).collect();
        let is_whole = classes.len() == 2 * attacked.len() && attacked.positions().all(|image| image < images);
        is_whole.then_some(Self { attacked, predictions })
    }
}

fn classes_of(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]))
}

/// Which images of a chunk were attacked, a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attacked(u32);

const _: () = assert!(CHUNK == u32::BITS as usize, "a chunk has as many images as there are bits");

impl Attacked {
    pub fn new(positions: impl IntoIterator<Item = usize>) -> Self {
        Self(positions.into_iter().fold(0, |bits, position| bits | 1 << position))
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn positions(self) -> impl Iterator<Item = usize> {
        (0..CHUNK).filter(move |position| self.0 >> position & 1 == 1)
    }

    /// Adversarial images, one after the other, with which of the chunk they are.
    pub fn encode_with(self, images: impl Iterator<Item = u8>) -> Vec<u8> {
        self.0.to_le_bytes().into_iter().chain(images).collect()
    }

    /// From the beginning of a unit; the rest of the unit.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (bits, rest) = bytes.split_first_chunk()?;
        Some((Self(u32::from_le_bytes(*bits)), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn units_come_back(
            classes in prop::collection::vec(prop::option::of(0u16..u16::MAX), 1..=CHUNK),
            reason in ".{0,20}",
        ) {
            let skipped = classes.iter().enumerate().filter(|(_, class)| class.is_none());
            let skipped = skipped.map(|(index, _)| (index, reason.clone())).collect();
            let unit = CleanUnit { predictions: classes.clone(), skipped };
            prop_assert_eq!(CleanUnit::decode(&unit.encode(), classes.len()), Some(unit));
            let attacked = Attacked::new((0..classes.len()).filter(|&index| classes[index].is_some()));
            let images = classes.len();
            let unit = JudgedUnit { attacked, predictions: classes.into_iter().flatten().collect() };
            prop_assert_eq!(JudgedUnit::decode(&unit.encode(), images), Some(unit));
        }

        /// Whoever reads them looks the images up.
        #[test]
        fn images_that_a_chunk_has_not_are_refused(images in 0usize..CHUNK, beyond in 0usize..1000) {
            let skipped = vec![(images + beyond, "unreadable".to_owned())];
            let unit = CleanUnit { predictions: vec![None; images], skipped };
            prop_assert_eq!(CleanUnit::decode(&unit.encode(), images), None);
            let unit = JudgedUnit { attacked: Attacked::new([images]), predictions: vec![0] };
            prop_assert_eq!(JudgedUnit::decode(&unit.encode(), images), None);
        }

        #[test]
        fn whatever_a_unit_holds_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            CleanUnit::decode(&bytes, CHUNK);
            if let Some(unit) = JudgedUnit::decode(&bytes, CHUNK) {
                prop_assert_eq!(unit.predictions.len(), unit.attacked.positions().count());
            }
        }
    }
}
