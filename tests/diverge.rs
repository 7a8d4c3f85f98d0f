//! Networks that diverge: they do, the commands go on where they were, and other folders are refused.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use assert_cmd::Command;
use burn::tensor::Device;
use common::{Scratch, netkin, refusal};
use netkin::Model;
use netkin::images::{RgbImage, idx};
use netkin::training::data::{Images, Source};
use netkin::training::objective::{CrossEntropy, Objective, diverge::Diverge};
use netkin::training::transfer::correlation;
use netkin::training::{Recipe, Run, train};
use netkin_weights::{HubConfig, ModelSpec, Precision, embedded};

/// The first images that netkin carries.
fn pictures(count: usize) -> Vec<(RgbImage, usize)> {
    let pixels = idx::parse(embedded::TEST_IMAGES, "images".as_ref()).unwrap().elements;
    let labels = idx::parse(embedded::TEST_LABELS, "labels".as_ref()).unwrap().elements;
    let image = |grey: &[u8]| RgbImage::new(28, 28, grey.iter().flat_map(|&level| [level; 3]).collect());
    pixels.chunks_exact(784).map(image).zip(labels.into_iter().map(usize::from)).take(count).collect()
}

/// Trains a network, keeps it, and loads it again.
fn trained(seed: u64, objective: &dyn Objective, folder: &Path, name: &str) -> Model {
    let (images, labels) = pictures(400).into_iter().unzip();
    let source: Arc<dyn Source> = Arc::new(Images::new(images, labels, 10).unwrap());
    let overrides = ["epochs=4", "batch_size=32", "augmentation.crop=center", "augmentation.horizontal_flip=0.0"];
    let mut recipe = Recipe::open("diverge", &overrides.map(String::from)).unwrap();
    recipe.seed = seed;
    let (device, stop) = (Device::flex(), AtomicBool::new(false));
    let run = Run {
        recipe: &recipe,
        objective,
        training: source.clone(),
        testing: source,
        folder: None,
        device: &device,
        stop: &stop,
        initial: None,
    };
    let network = train(&run, &mut |_| {}).unwrap().network;
    let weights = folder.join(format!("{name}.safetensors"));
    netkin_weights::save(&network, &weights, Precision::F32).unwrap();
    load(&weights)
}

fn load(weights: &Path) -> Model {
    let spec = "demo_resnet".parse::<ModelSpec>().unwrap().with_path(weights.to_owned());
    let (device, hub) = (Device::flex(), HubConfig::nowhere());
    let loaded = netkin_weights::load(&spec, Precision::F32, &device, &hub, &mut |_| {}).unwrap();
    Model::new(loaded, Precision::F32, device)
}

/// With the same weights to begin with and the same images, the one that diverges has features less like the first network's.
#[test]
fn a_network_that_diverges_correlates_less_with_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let first = trained(1, &CrossEntropy, folder, "first");
    let baseline = trained(2, &CrossEntropy, folder, "baseline");
    let again = load(&folder.join("first.safetensors"));
    let diverged = trained(2, &Diverge::new(1.0, vec![again]).unwrap(), folder, "diverged");
    let pictures = pictures(384);
    let of = |model: &Model| correlation(model, &[&first], &pictures, 128);
    let (usual, diverged) = (of(&baseline), of(&diverged));
    // Trained alike, the two would differ by a few hundredths.
    assert!(diverged < 0.9 * usual, "{diverged} beside {usual}");
}

fn diverge(scratch: &Scratch, options: &[&str]) -> Command {
    let mut command = netkin();
    command.arg("diverge").arg("--data").arg(scratch.fashion_mnist()).arg("--out").arg(scratch.path("diverged"));
    command.args(["--images", "96", "--test-images", "24", "--epochs", "1", "--batch", "32", "--attack-images", "12"]);
    command.args(["--count", "2", "--seeds", "1"]).args(options);
    command
}

fn robustness(scratch: &Scratch, options: &[&str]) -> Command {
    let mut command = netkin();
    command.arg("robustness").arg(scratch.path("diverged")).args(options);
    command
}

#[test]
fn the_commands_go_on_where_they_were() {
    let scratch = Scratch::new();
    let first = diverge(&scratch, &["--json"]).assert().success().get_output().clone();
    let document: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    let names: Vec<&str> =
        document["networks"].as_array().unwrap().iter().map(|network| network["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["seed0-source", "seed0-net1", "seed0-net2", "seed0-baseline2"]);
    assert_eq!((&document["alpha"], &document["count"]), (&0.05.into(), &2.into()));

    let networks = scratch.path("diverged").join("networks");
    let weights = |name: &str| fs::read(networks.join(name).join("model.safetensors")).unwrap();
    assert!(weights("seed0-net2") != weights("seed0-baseline2"), "one of them diverged");
    assert!(weights("seed0-net1") != weights("seed0-source"));
    let bytes = weights("seed0-net2");
    fs::remove_dir_all(networks.join("seed0-net2")).unwrap();
    let again = diverge(&scratch, &["--json"]).assert().success().get_output().clone();
    assert!(weights("seed0-net2") == bytes, "what was missing is trained to the same weights");
    assert!(first.stdout == again.stdout);

    let said = refusal(&mut diverge(&scratch, &["--batch", "16"]), 2);
    assert!(said.contains("belongs to another study: its recipe.batch_size is 32, and now it is 16"), "{said}");
    for (set, expected) in [
        ("seed=5", "--set seed is in vain"),
        ("batch_size=0", "--batch and --set batch_size give the same value"),
        ("adversarial.eps=0.1", "[adversarial] and [diverge]"),
        ("diverge.alpha=0", "diverge.alpha is 0, but must be above 0"),
    ] {
        let said = refusal(&mut diverge(&scratch, &["--set", set]), 2);
        assert!(said.contains(expected), "{said}");
    }
    for (recipe, table) in [("robust", "adversarial"), ("fashion-mnist-distilled", "distillation")] {
        let said = refusal(&mut diverge(&scratch, &["--recipe", recipe]), 2);
        assert!(said.contains(&format!("has [{table}], and `netkin diverge` trains with [diverge] alone")), "{said}");
    }
    let said = refusal(&mut diverge(&scratch, &["--count", "1"]), 2);
    assert!(said.contains("it takes 2 networks"), "{said}");

    let attacked = robustness(&scratch, &["--eps", "0.1", "--json"]).assert().success().get_output().clone();
    let document: serde_json::Value = serde_json::from_slice(&attacked.stdout).unwrap();
    let rows = document["rows"].as_array().unwrap();
    let methods: Vec<&str> = rows.iter().map(|row| row["method"].as_str().unwrap_or("clean")).collect();
    assert_eq!((methods, &document["images"]), (vec!["clean", "fgm", "pgd"], &12.into()));
    for row in rows {
        let number = |name: &str| row[name]["mean"].as_f64().unwrap();
        assert!((number("diverge") - number("baseline") - number("difference")).abs() < 1e-12);
        assert!((0.0..=1.0).contains(&number("baseline")) && row["baseline"]["interval"].is_null());
    }
    assert!(document["correlation"]["diverge"]["mean"].as_f64().unwrap() > 0.0);
    // What was counted is found, so the networks' answers need not be asked for again.
    let kept = scratch.path("diverged").join("robustness");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 3);
    let again =
        robustness(&scratch, &["--eps", "0.1", "--eps", "0.1", "--json"]).assert().success().get_output().clone();
    assert!(attacked.stdout == again.stdout && fs::read_dir(&kept).unwrap().count() == 3);
    let svg = fs::read_to_string(scratch.path("diverged").join("robustness-eps-0.1.svg")).unwrap();
    assert!(svg.contains("PGD, diverge") && svg.matches("class=\"point\"").count() == 8);
    let csv = fs::read_to_string(scratch.path("diverged").join("robustness-eps-0.1.csv")).unwrap();
    assert!(
        csv.starts_with("seed,network,attack,eps,correct,images\n0,seed0-net1,clean,,") && csv.lines().count() == 10
    );
    let text =
        String::from_utf8(robustness(&scratch, &["--eps", "0.1"]).assert().success().get_output().stdout.clone());
    assert!(text.as_ref().is_ok_and(|text| text.contains("\nPGD 0.1 ")), "{text:?}");

    let page = scratch.path("report.html");
    netkin().arg("report").arg(scratch.path("diverged")).arg("--out").arg(&page).assert().success();
    let html = fs::read_to_string(&page).unwrap();
    for part in ["A study (diverge)", "seed0-baseline2", "robustness-eps-0.1.txt", "test accuracy"] {
        assert!(html.contains(part), "{part}");
    }
}

#[test]
fn folders_of_other_things_are_refused() {
    let scratch = Scratch::new();
    let folder = scratch.path("diverged");
    let said = refusal(&mut robustness(&scratch, &[]), 2);
    assert!(said.contains("is no folder of a study"), "{said}");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("thesis.tex"), "").unwrap();
    let said = refusal(&mut diverge(&scratch, &[]), 2);
    assert!(said.contains("has no study.json but other files"), "{said}");
    fs::write(folder.join("study.json"), "{\"study\": \"distillation\"}").unwrap();
    let said = refusal(&mut robustness(&scratch, &[]), 2);
    assert!(said.contains("the folder of another study (distillation)"), "{said}");
    let said = refusal(&mut diverge(&scratch, &[]), 2);
    assert!(said.contains("belongs to another study: its study is \"distillation\""), "{said}");
    fs::write(folder.join("study.json"), "{\"study\": \"diverge\"}").unwrap();
    let said = refusal(&mut robustness(&scratch, &[]), 2);
    assert!(said.contains("run the `netkin diverge` command of that folder to its end"), "{said}");
    let said = refusal(&mut robustness(&scratch, &["--eps", "8"]), 2);
    assert!(said.contains("diverge.json"), "{said}");
}
