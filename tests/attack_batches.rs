//! What an attack makes of an image is the same to the bit when it is attacked alone, in a batch of 7, in a batch of 64, and in a run that
//! was stopped and goes on.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use common::Scratch;
use netkin::Model;
use netkin::attacks::named::NAMES;
use netkin::attacks::views::Pool;
use netkin::attacks::{Attack, Norm, Targets, Wishes, named, rows};
use netkin::images::{Dataset, RgbImage, idx, save_png};
use netkin::model::to_f32;
use netkin::similarity::sat::{self, SatConfig};
use netkin_weights::{HubConfig, Precision, embedded};

fn model(name: &str) -> Model {
    let loaded = netkin_weights::load(
        &name.parse().unwrap(),
        Precision::F32,
        &Device::flex(),
        &HubConfig::nowhere(),
        &mut |_| {},
    );
    Model::new(loaded.unwrap(), Precision::F32, Device::flex())
}

/// The first images of Fashion-MNIST's test set, with their classes.
fn images(count: usize) -> Vec<(usize, RgbImage)> {
    let images = idx::parse(embedded::TEST_IMAGES, "images".as_ref()).unwrap();
    let labels = idx::parse(embedded::TEST_LABELS, "labels".as_ref()).unwrap();
    let picture = |grey: &[u8]| RgbImage::new(28, 28, grey.iter().flat_map(|&level| [level; 3]).collect());
    let pictures = images.elements.chunks_exact(28 * 28).map(picture).take(count);
    labels.elements.iter().map(|&label| label.into()).zip(pictures).collect()
}

/// An attack in short.
fn short(name: &str, images: &[(usize, RgbImage)]) -> Arc<dyn Attack> {
    named(name, &in_short(name, images)).unwrap()
}

fn in_short(name: &str, images: &[(usize, RgbImage)]) -> Wishes {
    let steps = |count: usize| Wishes { steps: Some(count), ..Wishes::default() };
    match name {
        "fgsm" => Wishes::default(),
        "pgd" => Wishes { restarts: Some(2), ..steps(3) },
        "vmi-fgsm" | "vni-fgsm" => Wishes { variance: Some(2), ..steps(2) },
        "pgn" => Wishes { flat: Some(2), ..steps(2) },
        "bsr" => Wishes { shuffle: Some(2), ..steps(2) },
        "di-fgsm" => Wishes { diversity: Some(0.7), ..steps(3) },
        "ti-fgsm" => Wishes { translation: Some(5), ..steps(2) },
        "admix" => Wishes { admix: Some(1), scales: Some(2), pool: Pool::new(images[..8].to_vec()), ..steps(2) },
        "nes" => Wishes { queries: Some(40), pairs: Some(10), ..Wishes::default() },
        "square" => Wishes { queries: Some(20), ..Wishes::default() },
        "autoattack" => Wishes { queries: Some(10), ..steps(2) },
        "fab" | "fab-t" | "apgd-t" => steps(2),
        _ => steps(3),
    }
}

/// Bits of each image's pixels, and what it cost.
fn made(model: &Model, attack: &dyn Attack, targets: &Targets) -> Vec<(Vec<u32>, [u32; 2])> {
    let made = attack.perturb(model, targets);
    let pixels = to_f32(made.pixels);
    let images = pixels.chunks_exact(pixels.len() / targets.len());
    let bits = images.map(|image| image.iter().map(|pixel| pixel.to_bits()).collect::<Vec<_>>());
    bits.zip(made.effort).map(|(bits, effort)| (bits, [effort.queries, effort.gradients])).collect()
}

#[test]
fn an_image_is_attacked_alike_alone_and_in_batches_of_7_and_64() {
    let images = images(64);
    let labels: Vec<usize> = images.iter().map(|(label, _)| *label).collect();
    let ids: Vec<String> = (0..64).map(|index| format!("{index:03}.png")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    // A network of tokens for all attacks, one of convolutions for those that ask for other things of it.
    let networks: [(&str, Vec<&str>); 2] = [
        ("demo_vit_patch7", NAMES.iter().map(|(name, _)| *name).collect()),
        ("demo_resnet", vec!["pgd", "di-fgsm", "apgd-ce", "fab", "square", "nes", "patchfool"]),
    ];
    for (network, attacks) in networks {
        let model = model(network);
        let targets = Targets::new(model.pixels_of(images.iter().map(|(_, image)| image)), &labels, &ids);
        for name in attacks {
            let attack = short(name, &images);
            let whole = made(&model, &*attack, &targets);
            let seven: Vec<usize> = (30..37).collect();
            assert!(made(&model, &*attack, &targets.some(&seven)) == whole[30..37], "{network} {name}: seven of 64");
            for position in [0, 33, 63] {
                let alone = made(&model, &*attack, &targets.some(&[position]));
                assert!(alone == whole[position..=position], "{network} {name}: image {position} alone");
            }
            // In another order.
            let turned: Vec<usize> = (0..64).rev().collect();
            let mut turned = made(&model, &*attack, &targets.some(&turned));
            turned.reverse();
            assert!(turned == whole, "{network} {name}: from the last to the first");
        }
    }
}

/// Every attack, in every norm that it has.
#[test]
fn within_an_eps_of_0_no_attack_changes_a_bit() {
    let model = model("demo_vit_patch7");
    let images = images(8);
    let labels: Vec<usize> = images.iter().map(|(label, _)| *label).collect();
    let targets = Targets::new(model.pixels_of(images.iter().map(|(_, image)| image)), &labels, &["0.png"; 8]);
    let before: Vec<u32> = to_f32(targets.pixels.clone()).into_iter().map(f32::to_bits).collect();
    for (name, _) in NAMES {
        for norm in [Norm::Linf, Norm::L2, Norm::L1] {
            let wishes = Wishes { eps: Some(0.0), norm: Some(norm), ..in_short(name, &images) };
            if *name == "patchfool" && norm != Norm::Linf {
                continue;
            }
            let made = made(&model, &*named(name, &wishes).unwrap(), &targets);
            let after: Vec<u32> = made.iter().flat_map(|(bits, _)| bits.clone()).collect();
            assert!(after == before, "{name} {norm:?}");
        }
    }
}

#[test]
fn rows_are_those_of_the_batch() {
    let model = model("demo_vit_patch7");
    let images = images(3);
    let pixels = model.pixels_of(images.iter().map(|(_, image)| image));
    assert_eq!(to_f32(rows(&pixels, &[2, 0])), [images[2].1.to_pixels(), images[0].1.to_pixels()].concat());
}

/// Every file under `folder` with its bytes.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(contents(&path)),
            false => all.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    all.sort();
    all
}

/// Two chunks of images on two networks; what goes missing is made again with the same bytes, adversarial images included.
#[test]
fn a_run_that_goes_on_makes_the_same_bytes() {
    let scratch = Scratch::new();
    let images = images(40);
    let folder = scratch.path("images");
    std::fs::create_dir_all(&folder).unwrap();
    let mut table = String::from("file,label\n");
    for (index, (label, image)) in images.iter().enumerate() {
        let name = format!("{index:03}.png");
        save_png(&folder.join(&name), image).unwrap();
        table += &format!("{name},{label}\n");
    }
    let labels = scratch.path("labels.csv");
    std::fs::write(&labels, table).unwrap();
    let dataset = Dataset::open(&folder, Some(&labels)).unwrap();
    let models = ["demo_vit_patch7", "demo_mobilenetv2"].map(model);
    for (name, _) in NAMES {
        let run = scratch.path(name);
        let config = SatConfig { attack: short(name, &images), keep_adversarial: true, ..SatConfig::default() };
        sat::run(&models, &dataset, &config, &run, |_| {}).unwrap();
        let before = ["units", "large"].map(|part| contents(&run.join(part)));
        assert!(before.iter().all(|files| files.len() >= 2), "{name}: a file for each chunk");
        // All that is known of one chunk.
        let shelf = before[0][0].0.parent().unwrap().file_name().unwrap();
        ["units", "large"].iter().for_each(|part| std::fs::remove_dir_all(run.join(part).join(shelf)).unwrap());
        sat::run(&models, &dataset, &config, &run, |_| {}).unwrap();
        let after = ["units", "large"].map(|part| contents(&run.join(part)));
        assert!(before == after, "{name}: other bytes after going on");
    }
}
