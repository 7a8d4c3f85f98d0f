//! `netkin train`: a network from scratch.

use std::path::{Path, PathBuf};

use netkin_weights::Precision;
use serde::Serialize;

use super::common::{Common, print, print_json};
use super::{Failure, Outcome, values};
use crate::images::Dataset;
use crate::training::{EpochReport, LabelledImages, Split, TrainConfig, train};

/// Train a network from scratch: AdamW, cosine schedule, cross-entropy
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The network's name
    model: String,
    /// A folder with train and test (or val) of class folders, or with the four IDX files of an MNIST-like set
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How often every image is seen
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = values::positive)]
    epochs: usize,
    /// Images per step
    #[arg(long, value_name = "COUNT", default_value = "128", value_parser = values::positive)]
    batch: usize,
    /// The highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 2e-3)]
    lr: f64,
    /// The weight decay of AdamW
    #[arg(long, value_name = "RATE", default_value_t = 0.05)]
    weight_decay: f64,
    /// Epochs in which the learning rate rises
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    warmup_epochs: usize,
    /// The share of the target that is spread over all classes
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    label_smoothing: f64,
    /// Neither move nor mirror the images
    #[arg(long)]
    no_augment: bool,
    /// Decides initial weights, order and augmentation
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// The weights, as safetensors with timm's keys
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Write the weights in half precision
    #[arg(long)]
    half: bool,
    /// Go on from the checkpoint (OUT.checkpoint) if there is one
    #[arg(long)]
    resume: bool,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    model: &'static str,
    config: TrainConfig,
    epochs: Vec<EpochReport>,
    weights: PathBuf,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let entry = super::known(&self.model)?;
        let device = common.device.open()?;
        let size = entry.config.input_size();
        let training = images(&self.data, Split::Train, size)?;
        let testing = images(&self.data, Split::Test, size)?;
        let checkpoint = self.out.with_extension("checkpoint");
        let config = TrainConfig {
            epochs: self.epochs,
            batch_size: self.batch,
            learning_rate: self.lr,
            weight_decay: self.weight_decay,
            warmup_epochs: self.warmup_epochs,
            label_smoothing: self.label_smoothing,
            augment: !self.no_augment,
            seed: self.seed,
            checkpoint: Some(checkpoint.clone()),
            resume: self.resume,
            ..TrainConfig::default()
        };
        let mut epochs = Vec::new();
        if !common.json {
            print("epoch,loss,train_accuracy,test_accuracy,images_per_second\n")?;
        }
        let network = train(entry, &training, &testing, &config, &device, |report| {
            let EpochReport { epoch, loss, train_accuracy, test_accuracy, images_per_second } = report;
            if !common.json {
                // Training goes on without a reader.
                let _ = print(&format!(
                    "{epoch},{loss:.4},{train_accuracy:.4},{test_accuracy:.4},{images_per_second:.0}\n"
                ));
            }
            epochs.push(*report);
        })?;
        let precision = if self.half { Precision::F16 } else { Precision::F32 };
        netkin_weights::save(&network, &self.out, precision)?;
        // The weights are there; a checkpoint that cannot be removed does no harm.
        let _ = std::fs::remove_file(&checkpoint);
        common.note(&format!("wrote {}", self.out.display()));
        if common.json {
            let weights = self.out;
            print_json(&Document { netkin: env!("CARGO_PKG_VERSION"), model: entry.name, config, epochs, weights })?;
        }
        Ok(Outcome::Done)
    }
}

/// The images of a folder as `--data` takes it.
pub fn images(data: &Path, split: Split, size: [usize; 2]) -> Result<LabelledImages, Failure> {
    let names: &[&str] = match split {
        Split::Train => &["train"],
        Split::Test => &["test", "val"],
    };
    let folders: Vec<PathBuf> = names.iter().map(|name| data.join(name)).collect();
    match folders.into_iter().find(|folder| folder.is_dir()) {
        Some(folder) => Ok(LabelledImages::from_dataset(&Dataset::open(&folder, None)?, size)?),
        None => Ok(LabelledImages::from_idx_folder(data, split)?),
    }
}
