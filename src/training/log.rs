//! What a run tells while it goes on, and the log that keeps it: one JSON object per line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an epoch brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean loss over the epoch's batches, each before its step, in nats.
    pub loss: f64,
    /// What the loss is made of, by name, each the mean over the epoch's batches.
    pub parts: BTreeMap<String, f64>,
    /// Share of the augmented training images that the network, as it was then, classified correctly; 0 to 1. An image that others
    /// are mixed into counts by its own class.
    pub train_accuracy: f64,
    /// Share of the test images that the network classifies correctly after the epoch; 0 to 1.
    pub test_accuracy: f64,
    /// The same of the moving average of the weights, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_accuracy: Option<f64>,
    /// Of the epoch's last step.
    pub learning_rate: f64,
    /// Training speed, without the test.
    pub images_per_second: f64,
    /// Share of the time in training that was spent waiting for images; 0 to 1.
    pub waited: f64,
    /// Training images that could not be read, with repeated augmentation as often as they came.
    pub skipped: usize,
    /// Test images that could not be read.
    #[serde(default)]
    pub test_skipped: usize,
}

/// What some steps brought.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Counted from 1.
    pub epoch: usize,
    /// All epochs.
    pub epochs: usize,
    /// Batches of the epoch that are done.
    pub batch: usize,
    /// Batches of the epoch.
    pub batches: usize,
    /// Mean over these steps' batches, in nats.
    pub loss: f64,
    /// What the loss is made of.
    pub parts: BTreeMap<String, f64>,
    /// Of the last of these steps.
    pub learning_rate: f64,
    /// Speed over these steps.
    pub images_per_second: f64,
    /// Share of the time of these steps that was spent waiting for images; 0 to 1.
    pub waited: f64,
}

/// What a run tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It begins, or goes on from a checkpoint.
    Start {
        /// This program's version.
        netkin: &'static str,
        /// Where it computes.
        device: String,
        /// The epoch that is next or under way, counted from 1.
        epoch: usize,
        /// Its batch that is next, counted from 0.
        batch: usize,
        /// Training images.
        images: usize,
        /// Test images.
        test_images: usize,
        /// Classes of the network.
        classes: usize,
        /// Numbers that are trained.
        parameters: usize,
        /// What the objective depends on beside the recipe.
        objective: Value,
    },
    /// Steps were made.
    Step(StepReport),
    /// An epoch ended.
    Epoch(EpochReport),
    /// An image could not be read; each is told once.
    Skipped {
        /// Its id.
        id: String,
        /// Why, in a sentence.
        reason: String,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// The epoch with which it goes on, counted from 1.
        epoch: usize,
        /// The batch with which it goes on, counted from 0.
        batch: usize,
    },
    /// A file of the run folder could not be written. Training goes on, and tries again with the next one.
    NotWritten {
        /// Why, in a sentence that names the file and says what would be lost, and what to do.
        reason: String,
    },
    /// The run ended by an error.
    Failed {
        /// The epoch that was under way, counted from 1.
        epoch: usize,
        /// The batch, counted from 1: of a loss that is not finite its own, else the last one that was done, 0 before the first.
        batch: usize,
        /// Why, in a sentence.
        reason: String,
    },
}

/// The log of a run folder.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Opens or makes the file and cuts off what is behind the first `keep` bytes: what a run did after its checkpoint, it does again.
    pub fn open(path: &Path, keep: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let there = file.metadata()?.len();
        let length = there.min(keep);
        if length < there {
            file.set_len(length)?;
        }
        file.seek(SeekFrom::Start(length))?;
        Ok(Self { path: path.to_owned(), file, length })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds a line. If that fails, no part of the line stays.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_string(event).expect("events are made of words and numbers");
        line.push('\n');
        match self.file.write_all(line.as_bytes()) {
            Ok(()) => {
                self.length += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                // What cannot be cut off either is cut off when the run goes on.
                let _ = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_where_its_checkpoint_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let event = |epoch| Event::Checkpoint { epoch, batch: 0 };
        let mut log = Log::open(&path, 0).unwrap();
        log.write(&event(1)).unwrap();
        let kept = log.length();
        log.write(&event(2)).unwrap();
        let mut log = Log::open(&path, kept).unwrap();
        log.write(&event(3)).unwrap();
        let lines: Vec<Value> =
            std::fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let epochs: Vec<u64> = lines.iter().map(|line| line["epoch"].as_u64().unwrap()).collect();
        assert_eq!(epochs, [1, 3]);
        assert_eq!(lines[0]["event"], "checkpoint");
        // A log that somebody shortened is as long as it is.
        assert_eq!(Log::open(&path, 1 << 40).unwrap().length(), std::fs::metadata(&path).unwrap().len());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told() {
        let mut log = Log::open(Path::new("/dev/full"), 0).unwrap();
        let error = log.write(&Event::Checkpoint { epoch: 1, batch: 0 }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(log.length(), 0);
    }
}
