//! Distillation and adversarial training: who teaches which head, what is learnt, and what cannot be.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use netkin::Model;
use netkin::attacks::{Attack, Bound, Iterative, Norm, Targets};
use netkin::images::{RgbImage, idx};
use netkin::training::data::{Images, Source};
use netkin::training::objective::distillation::{Distillation, Options};
use netkin::training::objective::{self, Objective, Student, TrainingBatch};
use netkin::training::{Recipe, Run, accuracy, train};
use netkin_architectures::families::vision_transformer::{self, VisionTransformer};
use netkin_architectures::{Architecture, Network, Taps, names};
use netkin_weights::{HubConfig, ModelSpec, Precision, embedded};

fn load(spec: &ModelSpec) -> Model {
    let (device, hub) = (Device::flex(), HubConfig::nowhere());
    let loaded = netkin_weights::load(spec, Precision::F32, &device, &hub, &mut |_| {}).unwrap();
    Model::new(loaded, Precision::F32, device)
}

/// The first images that netkin carries, each with what `label` makes of its class.
fn images(count: usize, label: impl Fn(usize) -> usize) -> Arc<dyn Source> {
    let pixels = idx::parse(embedded::TEST_IMAGES, "images".as_ref()).unwrap().elements;
    let labels = idx::parse(embedded::TEST_LABELS, "labels".as_ref()).unwrap().elements;
    let image = |grey: &[u8]| RgbImage::new(28, 28, grey.iter().flat_map(|&level| [level; 3]).collect());
    let images: Vec<RgbImage> = pixels.chunks_exact(784).map(image).take(count).collect();
    let labels: Vec<usize> = labels.into_iter().map(|class| label(usize::from(class))).take(count).collect();
    Arc::new(Images::new(images, labels, 10).unwrap())
}

fn recipe(name: &str, overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Recipe::open(name, &overrides).unwrap()
}

/// Trains by a recipe, and gives the network in evaluation.
fn trained(recipe: &Recipe, training: Arc<dyn Source>, testing: Arc<dyn Source>) -> Network {
    let models = objective::networks(recipe).unwrap().iter().map(load).collect();
    let objective = objective::of(recipe, 10, models).unwrap();
    let (device, stop) = (Device::flex(), AtomicBool::new(false));
    let run = Run {
        recipe,
        objective: &*objective,
        training,
        testing,
        folder: None,
        device: &device,
        stop: &stop,
        initial: None,
    };
    train(&run, &mut |_| {}).unwrap().network
}

/// The class token's head learns from the labels alone and the distillation token's from the teacher alone, and of two students one
/// whose share is the teacher's knows no label.
#[test]
fn each_head_has_its_own_teacher() {
    let device = Device::flex();
    let (_, published) =
        vision_transformer::VARIANTS.iter().find(|(name, _)| *name == "deit_tiny_distilled_patch16_224").unwrap();
    let config = vision_transformer::Config {
        patch_size: 14,
        embed_dim: 16,
        depth: 1,
        heads: 2,
        input_size: [28; 2],
        num_classes: 10,
        ..published.clone()
    };
    let network = Network::from(VisionTransformer::new(&config, 10, &device.clone().autodiff()));
    let source = images(6, |class| class);
    let pixels: Vec<f32> = (0..6).flat_map(|index| source.read(index).unwrap().to_pixels()).collect();
    let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [6, 3, 28, 28]), &device);
    // Weights are drawn when they are first used.
    network.forward(pixels.clone(), &mut Taps::none());
    let tensors = names::tensors(&network);
    let id = |name: &str| {
        let found = tensors.iter().find(|tensor| tensor.name == name);
        found.unwrap_or_else(|| panic!("there is no {name} among {tensors:?}")).id
    };
    let mut targets = vec![0f32; 60];
    let labels: Vec<usize> = (0..6).map(|index| source.label(index)).collect();
    labels.iter().enumerate().for_each(|(image, label)| targets[10 * image + label] = 1.0);
    let batch = TrainingBatch {
        pixels: pixels.autodiff(),
        labels,
        targets: Tensor::<2>::from_data(TensorData::new(targets, [6, 10]), &device).autodiff(),
        seed: 0,
    };
    let student = Student { network: &network, mean: [0.5; 3], std: [0.5; 3], seed: 0 };
    let spec = "demo_seresnet".parse().unwrap();
    for (alpha, learns) in [(0.0, [true, false]), (1.0, [false, true]), (0.5, [true, true])] {
        let options = Options { teacher: "demo_seresnet".into(), alpha, ..Options::default() };
        let objective = Distillation::new(load(&spec), options, 10).unwrap();
        let losses = objective.losses(&student, &batch);
        assert_eq!(losses.logits.dims(), [6, 10]);
        let gradients = GradientsParams::from_grads(losses.total.backward(), &network);
        let changes = |name: &str| {
            let gradient: Option<Tensor<2>> = gradients.get(id(name));
            gradient.is_some_and(|gradient| gradient.abs().max().into_scalar::<f32>() > 1e-6)
        };
        assert_eq!([changes("head.weight"), changes("head_dist.weight")], learns, "α = {alpha}");
        assert!(changes("blocks.0.mlp.fc1.weight"));
    }
}

/// From labels that are all wrong a student learns what the teacher knows, if the teacher alone counts.
#[test]
fn a_student_follows_its_teacher_against_the_labels() {
    let wrong = images(400, |class| (class + 1) % 10);
    let right = images(400, |class| class);
    let common = [
        "model=demo_resnet",
        "epochs=6",
        "batch_size=32",
        "optimizer.lr=3e-3",
        "augmentation.crop=center",
        "augmentation.horizontal_flip=0.0",
    ];
    let told = |alpha: &str, kind: &str| {
        let overrides = [&common[..], &[alpha, kind]].concat();
        let recipe = recipe("fashion-mnist-distilled", &overrides);
        accuracy(&trained(&recipe, wrong.clone(), right.clone()), &recipe, right.clone(), &Device::flex())
    };
    let by_labels = told("distillation.alpha=0.0", "distillation.kind=hard");
    assert!(by_labels < 0.2, "{by_labels}");
    for kind in ["distillation.kind=hard", "distillation.kind=soft"] {
        let by_teacher = told("distillation.alpha=1.0", kind);
        assert!(by_teacher > 0.5, "{kind}: {by_teacher}");
    }
}

/// A teacher for images of 28 pixels teaches a student that sees 32, and stays what it was.
#[test]
fn a_teacher_sees_images_at_its_own_size() {
    let overrides = ["model=demo_resnet", "input_size=32", "epochs=1", "schedule.warmup_epochs=0", "batch_size=16"];
    let recipe = recipe("fashion-mnist-distilled", &overrides);
    let small = images(32, |class| class);
    let network = trained(&recipe, small.clone(), small.clone());
    let images = Tensor::<4>::zeros([1, 3, 32, 32], &Device::flex());
    assert_eq!(network.forward(images, &mut Taps::none()).logits.dims(), [1, 10]);
    assert!((0.0..=1.0).contains(&accuracy(&network, &recipe, small, &Device::flex())));
}

/// A network that learnt from attacked images stands attacks that one which did not falls for.
#[test]
fn adversarial_training_makes_robust() {
    let training = images(400, |class| class);
    let common = ["model=demo_resnet", "epochs=8", "batch_size=32", "optimizer.lr=3e-3"];
    let attack = ["adversarial.eps=0.05", "adversarial.step_size=0.02", "adversarial.steps=5"];
    let robust = recipe("robust", &[&common[..], &attack].concat());
    let usual = recipe("fashion-mnist", &common);
    let standing = |recipe: &Recipe| {
        let network = trained(recipe, training.clone(), training.clone());
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        netkin_weights::save(&network, &weights, Precision::F32).unwrap();
        let model = load(&"demo_resnet".parse::<ModelSpec>().unwrap().with_path(weights));
        let pictures: Vec<RgbImage> = (0..100).map(|index| training.read(index).unwrap()).collect();
        let labels: Vec<usize> = (0..100).map(|index| training.label(index)).collect();
        let ids: Vec<String> = (0..100).map(|index| index.to_string()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let targets = Targets::new(model.pixels_of(&pictures), &labels, &ids);
        let bound = Bound { norm: Norm::Linf, eps: 0.05 };
        let attack = Iterative { bound, step_size: 0.01, steps: 10, ..Iterative::default() };
        let classes = model.predict(attack.perturb(&model, &targets).pixels);
        classes.iter().zip(&labels).filter(|(class, label)| class == label).count()
    };
    let (robust, usual) = (standing(&robust), standing(&usual));
    assert!(robust >= usual + 10, "{robust} and {usual} of 100");
}

#[test]
fn a_teacher_that_does_not_fit_is_refused_in_a_sentence() {
    let with = |overrides: &[&str]| recipe("fashion-mnist-distilled", overrides);
    let models = |recipe: &Recipe| objective::networks(recipe).unwrap().iter().map(load).collect::<Vec<_>>();
    let usual = with(&[]);
    let said = objective::of(&usual, 4, models(&usual)).err().unwrap().to_string();
    assert!(said.contains("the teacher demo_seresnet tells 10 classes apart and the student 4"), "{said}");
    let nobody = with(&["distillation.teacher="]);
    let said = objective::networks(&nobody).unwrap_err().to_string();
    assert!(said.contains("names no teacher"), "{said}");
    let both = with(&["adversarial.eps=0.1"]);
    let said = both.check().unwrap_err().to_string();
    assert!(said.contains("[distillation] and [adversarial]"), "{said}");
    let missing: ModelSpec = "demo_resnet=nowhere.safetensors".parse().unwrap();
    let (device, hub) = (Device::flex(), HubConfig::nowhere());
    let said = netkin_weights::load(&missing, Precision::F32, &device, &hub, &mut |_| {}).unwrap_err().to_string();
    assert!(said.contains("nowhere.safetensors"), "{said}");
}
