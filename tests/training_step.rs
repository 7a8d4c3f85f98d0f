//! Five steps of training beside PyTorch's: losses, every parameter, running statistics, the moving average.
//!
//! `scripts/training_reference.py` writes what is compared. Both sides fill the networks by the same formula, so that no weights need to be
//! stored, and train on the same bytes with every augmentation off.

#[path = "../architectures/tests/formula/mod.rs"]
#[allow(dead_code, reason = "a part of the formula is enough here")]
mod formula;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use netkin::images::RgbImage;
use netkin::training::augment::Augmentation;
use netkin::training::data::{Images, Source};
use netkin::training::objective::CrossEntropy;
use netkin::training::optimizer::Kind;
use netkin::training::{Normalisation, Recipe, Run, Trained, train};
use netkin_architectures::Network;
use netkin_weights::{HubConfig, ModelSpec, Precision, finetune, to_safetensors};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;

const CLASSES: usize = 8;
const BATCH: usize = 8;
const STEPS: usize = 5;

#[derive(Deserialize)]
struct Fixture {
    networks: Vec<Reference>,
}

/// What PyTorch came to with one network.
#[derive(Deserialize)]
struct Reference {
    name: String,
    pixels: usize,
    /// Of all tensors, sorted.
    keys: Vec<String>,
    runs: Vec<OfOptimizer>,
}

#[derive(Deserialize)]
struct OfOptimizer {
    name: Kind,
    lr: f64,
    weight_decay: f64,
    clip_norm: Option<f64>,
    ema_decay: f64,
    losses: Vec<f64>,
    /// In the order of the keys.
    tensors: Vec<Digest>,
    average: Option<Vec<Digest>>,
}

/// The norm, a random projection and one value of a tensor.
#[derive(Deserialize)]
struct Digest(f64, f64, f64);

impl Digest {
    /// By how much `values` differ, relative to their norm, as far as the digest tells; in double precision, where every value must
    /// be right, one value relative to the typical one.
    fn relative_error(&self, values: &[f64], precision: Precision) -> f64 {
        let &Digest(norm, projection, sample) = self;
        let count = values.len();
        let norm_here = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let projection_here: f64 = values.iter().zip(formula::uniform("projection0")).map(|(a, b)| a * b).sum();
        let place = formula::bits("samples").next().unwrap() % count as u64;
        let scale = if precision == Precision::F64 { norm / (count as f64).sqrt() } else { norm };
        let errors = [
            (norm_here - norm).abs() / norm,
            3f64.sqrt() * (projection_here - projection).abs() / norm,
            (values[place as usize] - sample).abs() / scale,
        ];
        errors.into_iter().fold(0.0, f64::max)
    }
}

/// The images, one of each class.
fn images(pixels: usize) -> Arc<dyn Source> {
    let mut bytes = formula::bits("images").map(|bits| (bits >> 56) as u8);
    let image = |_| RgbImage::new(pixels, pixels, bytes.by_ref().take(3 * pixels * pixels).collect());
    let images: Vec<RgbImage> = (0..BATCH).map(image).collect();
    let labels = (0..BATCH).map(|index| index * 3 % CLASSES).collect();
    Arc::new(Images::new(images, labels, CLASSES).unwrap())
}

/// Key → numbers.
fn numbers(network: &Network) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = to_safetensors(network, Precision::F64).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let number = |eight: &[u8]| f64::from_le_bytes(eight.try_into().unwrap());
    let values = |tensor: &TensorView| tensor.data().chunks_exact(8).map(number).collect();
    tensors.into_iter().map(|(key, tensor)| (key, (tensor.shape().to_vec(), values(&tensor)))).collect()
}

/// Writes a network's numbers by the formula to a file.
fn fill(network: &Network, path: &Path) {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = numbers(network)
        .into_iter()
        .map(|(key, (shape, _))| {
            let values = formula::parameter_values(&key, &shape, 1.0);
            (key, shape, values.into_iter().flat_map(f64::to_le_bytes).collect())
        })
        .collect();
    let views =
        tensors.iter().map(|(key, shape, bytes)| (key, TensorView::new(Dtype::F64, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Five epochs of one batch, at a rate that stays.
fn recipe(reference: &Reference, run: &OfOptimizer, precision: Precision) -> Recipe {
    let mut recipe = Recipe { model: reference.name.clone(), precision, ..Recipe::default() };
    (recipe.epochs, recipe.batch_size) = (STEPS, BATCH);
    recipe.input_size = Some(reference.pixels);
    recipe.optimizer.name = run.name;
    (recipe.optimizer.lr, recipe.optimizer.weight_decay) = (run.lr, run.weight_decay);
    recipe.optimizer.clip_norm = run.clip_norm;
    (recipe.schedule.warmup_epochs, recipe.schedule.min_lr) = (0, run.lr);
    recipe.regularisation.label_smoothing = 0.125;
    recipe.regularisation.ema_decay = run.ema_decay;
    recipe.normalisation = Normalisation { mean: [0.5; 3], std: [0.5; 3] };
    recipe.evaluation.crop_pct = 1.0;
    recipe.augmentation = Augmentation::none();
    recipe
}

fn trained(recipe: &Recipe, folder: &Path) -> Trained {
    let device = Device::flex();
    let configured = recipe.configuration().unwrap();
    let file = folder.join(format!("{}.safetensors", recipe.model));
    if !file.exists() {
        fill(&configured.config().build(CLASSES, &device), &file);
    }
    let spec = recipe.model.parse::<ModelSpec>().unwrap().with_path(file);
    let (precision, hub) = (recipe.precision, HubConfig::nowhere());
    let loaded = finetune(&spec, configured.config(), CLASSES, precision, &device, &hub, &mut |_| {}).unwrap();
    let images = images(recipe.input_size.unwrap());
    let run = Run {
        recipe,
        objective: &CrossEntropy,
        training: Arc::clone(&images),
        testing: images,
        folder: None,
        device: &device,
        stop: &AtomicBool::new(false),
        initial: Some(loaded.network),
    };
    train(&run, &mut |_| ()).unwrap()
}

/// The complaints about one network in one precision.
fn compare(reference: &Reference, precision: Precision, bound: f64) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut complaints = Vec::new();
    for run in &reference.runs {
        let trained = trained(&recipe(reference, run, precision), folder.path());
        let mut complain = |what: &str, error: f64| {
            if error.is_nan() || error > bound {
                complaints.push(format!("{}, {:?}, {precision}: {what} is {error:.1e} away", reference.name, run.name));
            }
        };
        assert_eq!(trained.epochs.len(), run.losses.len());
        for (epoch, expected) in trained.epochs.iter().zip(&run.losses) {
            complain(&format!("loss {}", epoch.epoch), (epoch.loss - expected).abs() / expected);
        }
        let networks = [(Some(&trained.network), Some(&run.tensors)), (trained.ema.as_ref(), run.average.as_ref())];
        for (index, (network, digests)) in networks.into_iter().enumerate() {
            assert_eq!(network.is_some(), digests.is_some());
            let (Some(network), Some(digests)) = (network, digests) else { continue };
            let found = numbers(network);
            assert!(found.keys().eq(&reference.keys), "{}: the keys are others", reference.name);
            for ((key, (_, values)), digest) in found.iter().zip(digests) {
                let of = if index == 0 { "" } else { "average of " };
                complain(&format!("{of}{key}"), digest.relative_error(values, precision));
            }
        }
    }
    complaints
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/training/step.json")).unwrap()
}

#[test]
fn five_steps_in_double_precision_are_those_of_pytorch() {
    let complaints: Vec<String> =
        fixture().networks.iter().flat_map(|reference| compare(reference, Precision::F64, 1e-9)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn five_steps_in_single_precision_are_near() {
    let complaints: Vec<String> =
        fixture().networks.iter().flat_map(|reference| compare(reference, Precision::F32, 1e-4)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
