//! What the tests of the program share: small weights and small data sets.
#![allow(dead_code, reason = "each test program uses its share")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use assert_cmd::Command;
use burn::tensor::Device;
use netkin::Model;
use netkin::images::{Dataset, RgbImage, decode_file, save_png};
use netkin_weights::Precision;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// The program, quiet, with no hub to reach.
pub fn netkin() -> Command {
    let mut command = Command::cargo_bin("netkin").expect("the program is built with its tests");
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", "/nonexistent").args(["--threads", "1"]);
    command
}

/// A folder that goes with the test, with the weights and images that are asked for.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for temporary files"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Random weights of a network, `NAME=PATH`.
    pub fn weights(&self, network: &str, seed: u64) -> String {
        let path = self.path(&format!("{network}-{seed}.safetensors"));
        let device = Device::flex();
        // The device's random numbers are one stream for all tests of this process, which run side by side.
        static RANDOM_NUMBERS: Mutex<()> = Mutex::new(());
        let _alone = RANDOM_NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        device.seed(seed);
        let entry = netkin_architectures::find(network).expect("the network is registered");
        netkin_weights::save(&entry.build(&device), &path, Precision::F32).expect("the weights can be written");
        // Branches that begin as nothing would leave little to compute with.
        rewrite(&path, |name, values| {
            if name.contains("bn") && name.ends_with(".weight") && values.iter().all(|gain| *gain == 0.0) {
                values.fill(1.0);
            }
        });
        format!("{network}={}", path.display())
    }

    /// The weights of `spec`, each a little changed, `NAME.SEED=PATH`.
    pub fn perturbed(&self, spec: &str, seed: u32) -> String {
        let (name, path) = spec.split_once('=').expect("NAME=PATH");
        let copy = self.path(&format!("{name}.{seed}.safetensors"));
        std::fs::copy(path, &copy).expect("the weights can be copied");
        rewrite(&copy, |_, values| {
            for (index, value) in values.iter_mut().enumerate() {
                *value *= 1.0 + 0.05 * ((index as f32 + 1.0) * seed as f32).sin();
            }
        });
        format!("{name}.{seed}={}", copy.display())
    }

    /// Weights of demo_resnet that say `class` whatever they see, `NAME=PATH`.
    pub fn constant(&self, class: usize) -> String {
        let spec = self.weights("demo_resnet", 1000 + class as u64);
        let path = path_of(&spec);
        rewrite(path, |name, values| match name {
            "fc.weight" => values.fill(0.0),
            "fc.bias" => {
                values.fill(0.0);
                values[class] = 1.0;
            }
            _ => {}
        });
        spec
    }

    /// The images that netkin carries, as a folder with the four files of Fashion-MNIST.
    pub fn fashion_mnist(&self) -> PathBuf {
        use netkin_weights::embedded::{TEST_IMAGES, TEST_LABELS};
        let folder = self.path("fashion-mnist");
        std::fs::create_dir_all(&folder).expect("folders can be made");
        for split in ["train", "t10k"] {
            for (kind, bytes) in [("images-idx3", TEST_IMAGES), ("labels-idx1", TEST_LABELS)] {
                let file = folder.join(format!("{split}-{kind}-ubyte.gz"));
                std::fs::write(file, bytes).expect("images can be written");
            }
        }
        folder
    }

    /// `count` images of coloured noise with the labels that `label` says; the folder and the labels file.
    pub fn images(&self, count: usize, label: impl Fn(usize) -> usize) -> (PathBuf, PathBuf) {
        let folder = self.path("images");
        let mut csv = String::from("file,label\n");
        for index in 0..count {
            let name = format!("{index:02}.png");
            std::fs::create_dir_all(&folder).expect("folders can be made");
            save_png(&folder.join(&name), &noise(index as u32)).expect("images can be written");
            csv += &format!("{name},{}\n", label(index));
        }
        let labels = self.path("labels.csv");
        std::fs::write(&labels, csv).expect("labels can be written");
        (folder, labels)
    }
}

/// The class that a model gives to each image of a data set.
pub fn predictions(spec: &str, folder: &Path, labels: &Path) -> Vec<usize> {
    let device = Device::flex();
    let spec = spec.parse().expect("NAME=PATH");
    let hub = netkin_weights::HubConfig::nowhere();
    let loaded = netkin_weights::load(&spec, Precision::F32, &device, &hub, &mut |_| {});
    let model = Model::new(loaded.expect("the weights fit"), Precision::F32, device);
    let dataset = Dataset::open(folder, Some(labels)).expect("the images are there");
    let images: Vec<RgbImage> =
        dataset.samples.iter().map(|sample| decode_file(&sample.path).expect("the image can be decoded")).collect();
    model.predict(model.pixels_of(&images))
}

pub fn path_of(spec: &str) -> &Path {
    Path::new(spec.split_once('=').expect("NAME=PATH").1)
}

fn noise(seed: u32) -> RgbImage {
    let mut state = seed.wrapping_mul(2654435761).wrapping_add(12345);
    let data = (0..28 * 28 * 3)
        .map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        })
        .collect();
    RgbImage::new(28, 28, data)
}

/// Changes f32 tensors of a safetensors file in place.
pub fn rewrite(path: &Path, change: impl Fn(&str, &mut [f32])) {
    let bytes = std::fs::read(path).expect("the weights are there");
    let file = SafeTensors::deserialize(&bytes).expect("the weights are safetensors");
    let changed: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let mut values: Vec<f32> = tensor
                .data()
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")))
                .collect();
            change(&name, &mut values);
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, tensor.shape().to_vec(), bytes)
        })
        .collect();
    let views = changed
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the shape fits")));
    let bytes = safetensors::serialize(views, None::<HashMap<String, String>>).expect("memory takes it");
    std::fs::write(path, bytes).expect("the weights can be written");
}

/// The one line that a refused command says, its exit code checked.
pub fn refusal(command: &mut Command, code: i32) -> String {
    let output = command.output().expect("the program starts");
    let text = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// The document that a command prints.
#[track_caller]
pub fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&text(&[arguments, &["--json"]].concat())).expect("a document is JSON")
}

/// What a command prints.
#[track_caller]
pub fn text(arguments: &[&str]) -> String {
    let output = netkin().args(arguments).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}
