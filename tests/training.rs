//! Training: it learns, repeats itself, resumes to the same bits, and says clearly what it cannot do.

mod common;

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use netkin::training::{self, EpochReport, LabelledImages, TrainConfig, TrainingError};
use netkin_architectures::{Entry, Network};
use netkin_weights::{Precision, to_safetensors};
use safetensors::{Dtype, SafeTensors};

fn demo_resnet() -> &'static Entry {
    netkin_architectures::find("demo_resnet").unwrap()
}

/// Four classes, told by the quarter of the image that is bright, on a noisy background.
fn quarters(count: usize) -> LabelledImages {
    const SIDE: usize = 28;
    let labels: Vec<usize> = (0..count).map(|image| image % 4).collect();
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 26) as u8
    };
    let mut pixels = Vec::new();
    for &label in &labels {
        for place in 0..3 * SIDE * SIDE {
            let (row, column) = (place / SIDE % SIDE, place % SIDE);
            let quarter = row / (SIDE / 2) * 2 + column / (SIDE / 2);
            pixels.push(noise() + if quarter == label { 150 } else { 0 });
        }
    }
    LabelledImages::new(pixels, labels, [SIDE; 2], 4).unwrap()
}

fn config(folder: &Path) -> TrainConfig {
    TrainConfig {
        epochs: 3,
        batch_size: 8,
        learning_rate: 3e-3,
        checkpoint: Some(folder.join("checkpoint")),
        resume: true,
        ..TrainConfig::default()
    }
}

fn train(config: &TrainConfig, on_epoch: impl FnMut(&EpochReport)) -> Result<Network, TrainingError> {
    let (training, testing) = (quarters(44), quarters(20));
    let device = Device::flex();
    training::train(demo_resnet(), &training, &testing, config, &device, on_epoch)
}

#[test]
fn a_run_killed_after_any_epoch_and_resumed_gives_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let checkpoint = config.checkpoint.clone().unwrap();
    let bytes = |network: &Network| to_safetensors(network, Precision::F32).unwrap();
    let kept = |epoch: usize| folder.path().join(format!("checkpoint{epoch}"));

    let mut reports = Vec::new();
    let network = train(&config, |report| {
        fs::copy(&checkpoint, kept(report.epoch)).unwrap();
        reports.push(*report);
    })
    .unwrap();
    let uninterrupted = bytes(&network);
    assert_eq!(reports.len(), 3);

    for stopped in 1..=3 {
        fs::copy(kept(stopped), &checkpoint).unwrap();
        let mut resumed_reports = Vec::new();
        let resumed = train(&config, |report| resumed_reports.push(*report)).unwrap();
        assert!(bytes(&resumed) == uninterrupted, "after epoch {stopped}");
        let told = |report: &EpochReport| (report.epoch, report.loss, report.test_accuracy);
        assert!(resumed_reports.iter().map(told).eq(reports[stopped..].iter().map(told)));
    }
}

#[test]
fn the_seed_decides() {
    let folder = tempfile::tempdir().unwrap();
    let run = |seed| {
        let config = TrainConfig { epochs: 2, seed, checkpoint: None, ..config(folder.path()) };
        to_safetensors(&train(&config, |_| ()).unwrap(), Precision::F32).unwrap()
    };
    let first = run(1);
    assert!(first == run(1));
    assert!(first != run(2));
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let short = TrainConfig { epochs: 2, ..config.clone() };
    train(&short, |_| ()).unwrap();
    let message = train(&config, |_| ()).unwrap_err().to_string();
    assert!(message.contains("belongs to another run: its epochs is 2, yours is 3"), "{message}");
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = TrainConfig { epochs: 2, ..config(folder.path()) };
    let checkpoint = config.checkpoint.clone().unwrap();
    train(&config, |_| ()).unwrap();
    let whole = fs::read(&checkpoint).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() / 2], &flipped, b"", b"no checkpoint"] {
        fs::write(&checkpoint, damaged).unwrap();
        let error = train(&config, |_| ()).unwrap_err();
        assert!(matches!(error, TrainingError::Checkpoint { .. }), "{error}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("no folder");
    fs::write(&file, "").unwrap();
    let config = TrainConfig { checkpoint: Some(file.join("checkpoint")), resume: false, ..config(folder.path()) };
    let message = train(&config, |_| ()).unwrap_err().to_string();
    assert!(message.starts_with("cannot write "), "{message}");
}

#[test]
fn it_learns_and_its_weights_are_stored_as_timm_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = TrainConfig { epochs: 10, augment: false, checkpoint: None, ..config(folder.path()) };
    let mut last = None;
    let network = train(&config, |report| last = Some(*report)).unwrap();
    let last = last.unwrap();
    assert!(last.train_accuracy > 0.9, "{last:?}");
    assert!(last.test_accuracy > 0.9, "{last:?}");
    let accuracy = training::accuracy(&network, &quarters(20), &config, &Device::flex());
    assert_eq!(accuracy, last.test_accuracy);

    let half = to_safetensors(&network, Precision::F16).unwrap();
    let half = SafeTensors::deserialize(&half).unwrap();
    for name in ["conv1.0.weight", "bn1.running_var", "layer2.0.downsample.1.weight", "fc.bias"] {
        assert_eq!(half.tensor(name).unwrap().dtype(), Dtype::F16);
    }
}

#[test]
fn sets_without_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let empty = LabelledImages::new(Vec::new(), Vec::new(), [28; 2], 4).unwrap();
    let error = training::train(demo_resnet(), &quarters(8), &empty, &config(folder.path()), &Device::flex(), |_| ());
    assert_eq!(error.unwrap_err().to_string(), "the test set has no images; give at least one");
}

/// The command trains what is missing, goes on from there, and does not mix settings.
#[test]
fn training_diversity_goes_on_where_it_was() {
    let scratch = common::Scratch::new();
    let (data, out) = (scratch.fashion_mnist(), scratch.path("diversity"));
    let command = |options: &[&str]| {
        let mut command = common::netkin();
        command.args(["training-diversity", "demo_vit_patch7", "--other", "demo_resnet", "--images", "128"]);
        command
            .args(["--test-images", "24", "--steps", "1", "--epochs", "1", "--data"])
            .arg(&data)
            .arg("--out")
            .arg(&out);
        command.args(options);
        command
    };
    let first = command(&["--json"]).assert().success().get_output().clone();
    let document: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    let networks = document["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 12);
    let architecture = &document["architectures"][0];
    let pairs: Vec<u64> =
        architecture["comparisons"].as_array().unwrap().iter().map(|row| row[1]["pairs"].as_u64().unwrap()).collect();
    assert_eq!(pairs, [10, 10, 3]);
    assert_eq!(document["between_architectures"]["pairs"], 1);

    let weights = out.join("networks").join("demo_vit_patch7.seed2.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::remove_file(&weights).unwrap();
    let again = command(&["--json"]).assert().success().get_output().clone();
    assert!(fs::read(&weights).unwrap() == bytes, "what was missing is trained to the same weights");
    assert!(first.stdout == again.stdout);
    let said = common::refusal(&mut command(&["--batch", "32"]), 2);
    assert!(said.contains("other options") && said.contains("--out"), "{said}");
}
