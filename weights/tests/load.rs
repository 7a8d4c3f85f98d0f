//! Files of weights into networks, the good and the bad.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, Distribution, Tensor};
use netkin_architectures::{Architecture, Network, Taps, find};
use netkin_weights::{
    CropMode, Error, HubConfig, Interpolation, Loaded, Precision, Preprocessing, Source, load, save, to_safetensors,
};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::{TempDir, tempdir};

/// Of a safetensors file: key → type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn built(name: &str, classes: usize) -> Network {
    find(name).unwrap().config.build(classes, &Device::flex())
}

/// A network of ten classes as a file.
fn saved(name: &str) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join(format!("{name}.safetensors"));
    save(&built(name, 10), &path, Precision::F32).unwrap();
    (folder, path)
}

fn load_in(name: &str, path: &Path, precision: Precision) -> Result<Loaded, Error> {
    let spec = format!("{name}={}", path.display()).parse().unwrap();
    load(&spec, precision, &Device::flex(), &HubConfig::nowhere(), &mut |_| {})
}

fn load_file(name: &str, path: &Path) -> Result<Loaded, Error> {
    load_in(name, path, Precision::F32)
}

/// The sentence of an error, without the folder's name.
fn sentence(name: &str, path: &Path) -> String {
    let error = load_file(name, path).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error.replace(&format!("{}/", path.parent().unwrap().display()), "")
}

fn edit(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let bytes = fs::read(path).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = parsed
        .iter()
        .map(|(key, view)| {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (key.to_string(), tensor)
        })
        .collect();
    change(&mut tensors);
    let views =
        tensors.iter().map(|(key, (dtype, shape, data))| (key, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn first_number(tensors: &mut Tensors, key: &str, number: f32) {
    tensors.get_mut(key).unwrap().2[..4].copy_from_slice(&number.to_le_bytes());
}

#[test]
fn a_saved_network_comes_back_bit_for_bit() {
    for precision in [Precision::F32, Precision::F16, Precision::BF16, Precision::F64] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("weights");
        save(&built("demo_resnet", 10), &path, precision).unwrap();
        let bytes = fs::read(&path).unwrap();
        // What f16 holds, f32 and f64 hold as well, so it must come back from there too.
        for held in [precision, Precision::F64] {
            let loaded = load_in("demo_resnet", &path, held).unwrap();
            let again = to_safetensors(&loaded.network, precision).unwrap();
            assert!(again == bytes, "{precision} by way of {held}");
        }
        let leftovers = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(leftovers, 1);
    }
}

#[test]
fn what_is_known_of_a_loaded_network() {
    let (_folder, path) = saved("demo_resnet");
    let loaded = load_file("demo_resnet.mine", &path).unwrap();
    assert_eq!(loaded.name, "demo_resnet.mine");
    assert_eq!(loaded.entry.name, "demo_resnet");
    assert_eq!(loaded.num_classes, 10);
    assert_eq!(loaded.source, Source::File(path.clone()));
    let bytes = fs::read(&path).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let trained: usize = parsed
        .iter()
        .filter(|(key, _)| !key.contains("running_"))
        .map(|(_, view)| view.shape().iter().product::<usize>())
        .sum();
    assert_eq!(loaded.parameters, trained);
    assert_eq!(loaded.sha256.len(), 64);
    let keys: Vec<&str> = parsed.names();
    assert!(keys.contains(&"layer1.0.bn1.running_var"));
    assert!(!keys.iter().any(|key| key.contains("num_batches_tracked")));
}

#[test]
fn a_loaded_network_is_frozen() {
    let (_folder, path) = saved("demo_resnet");
    let device = Device::flex().autodiff();
    let spec = format!("demo_resnet={}", path.display()).parse().unwrap();
    let hub = HubConfig::nowhere();
    let network = load(&spec, Precision::F32, &device, &hub, &mut |_| {}).unwrap().network;
    assert!(network.devices().iter().all(|device| !device.is_autodiff()));

    let images = Tensor::<4>::random([3, 3, 28, 28], Distribution::Default, &device);
    let logits = |images| {
        let outputs = network.forward(images, &mut Taps::none());
        outputs.logits.into_data().try_to_vec::<f32>().unwrap()
    };
    let alone = logits(images.clone().narrow(0, 0, 1).require_grad());
    let together = logits(images.require_grad());
    for (alone, together) in alone.iter().zip(&together) {
        assert!((alone - together).abs() < 1e-4, "{alone} {together}");
    }
}

#[test]
fn every_precision_reaches_every_parameter() {
    let (_folder, path) = saved("demo_resnet");
    for (precision, dtype) in
        [(Precision::F64, DType::F64), (Precision::F16, DType::F16), (Precision::BF16, DType::BF16)]
    {
        let loaded = load_in("demo_resnet", &path, precision).unwrap();
        let images = Tensor::<4>::ones([1, 3, 28, 28], (&Device::flex(), dtype));
        let outputs = loaded.network.forward(images, &mut Taps::none());
        assert_eq!(outputs.logits.dtype(), dtype);
    }
}

#[test]
fn the_file_says_how_many_classes() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("fine-tuned");
    save(&built("demo_resnet", 37), &path, Precision::F32).unwrap();
    let loaded = load_file("demo_resnet", &path).unwrap();
    assert_eq!(loaded.num_classes, 37);
    let images = Tensor::<4>::ones([1, 3, 28, 28], &Device::flex());
    let outputs = loaded.network.forward(images, &mut Taps::none());
    assert_eq!(outputs.logits.dims(), [1, 37]);
}

#[test]
fn missing_left_over_and_misshapen_tensors_are_named() {
    let (_folder, path) = saved("demo_resnet");
    edit(&path, |tensors| {
        tensors.remove("layer1.0.bn1.running_mean").unwrap();
        let bias = tensors.remove("layer2.0.bn2.bias").unwrap();
        tensors.insert("layer2.0.bn2.shift".into(), bias);
        tensors.get_mut("conv1.0.weight").unwrap().1 = vec![16, 27];
        let bn = tensors.get_mut("bn1.weight").unwrap();
        bn.0 = Dtype::I32;
    });
    assert_eq!(
        sentence("demo_resnet", &path),
        "demo_resnet.safetensors does not fit demo_resnet: 2 tensors are missing (layer1.0.bn1.running_mean, \
         layer2.0.bn2.bias), 1 tensor is left over (layer2.0.bn2.shift), 2 tensors are different (conv1.0.weight is \
         [16, 27], not [16, 3, 3, 3], bn1.weight holds I32, not floating point numbers); take a file that was saved for \
         demo_resnet"
    );
}

#[test]
fn the_file_of_another_network_is_recognised() {
    let (_folder, path) = saved("demo_seresnet");
    let sentence = sentence("demo_resnet", &path);
    assert!(sentence.contains("layer1.0.se.fc1.bias"), "{sentence}");
    assert!(sentence.ends_with("; the file fits demo_seresnet"), "{sentence}");
    assert!(sentence.contains(" more)"), "{sentence}");
    assert!(sentence.len() < 2000, "{sentence}");
}

#[test]
fn weights_without_a_classifier_are_recognised() {
    let (_folder, path) = saved("demo_resnet");
    edit(&path, |tensors| tensors.retain(|key, _| !key.starts_with("fc.")));
    let sentence = sentence("demo_resnet", &path);
    assert!(sentence.ends_with("these weights have no classifier, take some that have"));
    assert!(sentence.contains("2 tensors are missing (fc.weight, fc.bias)"), "{sentence}");
}

#[test]
fn batch_counters_are_no_matter() {
    let (_folder, path) = saved("demo_resnet");
    edit(&path, |tensors| {
        let counter = (Dtype::I64, vec![], 5i64.to_le_bytes().to_vec());
        tensors.insert("bn1.num_batches_tracked".into(), counter);
    });
    load_file("demo_resnet", &path).unwrap();
}

#[test]
fn what_cannot_be_computed_with_is_refused() {
    for number in [f32::NAN, f32::INFINITY] {
        let (_folder, path) = saved("demo_resnet");
        edit(&path, |tensors| first_number(tensors, "bn1.running_var", number));
        assert_eq!(
            sentence("demo_resnet", &path),
            "bn1.running_var of demo_resnet.safetensors holds NaN or infinity: use other weights, these cannot be computed with"
        );
    }
    let (_folder, path) = saved("demo_resnet");
    edit(&path, |tensors| first_number(tensors, "fc.weight", 1e6));
    let error = load_in("demo_resnet", &path, Precision::F16).unwrap_err();
    assert!(error.to_string().contains("beyond the range of f16"), "{error}");
    let network = load_file("demo_resnet", &path).unwrap().network;
    assert!(matches!(
        to_safetensors(&network, Precision::F16),
        Err(Error::Overflow { tensor, .. }) if tensor == "fc.weight"
    ));
}

#[test]
fn broken_files() {
    let (folder, path) = saved("demo_resnet");
    let whole = fs::read(&path).unwrap();
    for length in [9, 1000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(
            sentence("demo_resnet", &path),
            "demo_resnet.safetensors is damaged or cut short (its length is not what its header announces): copy or \
             download it again"
        );
    }
    fs::write(&path, "").unwrap();
    assert_eq!(sentence("demo_resnet", &path), "demo_resnet.safetensors is empty: copy or download it again");
    fs::write(&path, "<!doctype html><html>").unwrap();
    assert_eq!(
        sentence("demo_resnet", &path),
        "demo_resnet.safetensors is a web page, neither safetensors nor a PyTorch checkpoint: give the file of weights itself"
    );
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a").unwrap();
    assert!(sentence("demo_resnet", &path).contains("Git LFS pointer"));
    let missing = sentence("demo_resnet", &folder.path().join("missing"));
    assert_eq!(missing, "there is no file missing: check the path");
    let inside = load_file("demo_resnet", folder.path()).unwrap_err();
    assert!(inside.to_string().contains("is a folder"), "{inside}");
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("missing").join("weights");
    let error = save(&built("demo_resnet", 10), &path, Precision::F32).unwrap_err();
    assert!(error.to_string().starts_with("cannot write"), "{error}");
    let path = folder.path().join("folder");
    fs::create_dir(&path).unwrap();
    save(&built("demo_resnet", 10), &path, Precision::F32).unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn without_a_file() {
    let error = |name: &str| {
        let spec = name.parse().unwrap();
        let hub = HubConfig::nowhere();
        let error = load(&spec, Precision::F32, &Device::flex(), &hub, &mut |_| {}).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        error("demo_resnet.mine"),
        "netkin carries no weights of demo_resnet.mine: give a file as demo_resnet.mine=PATH"
    );
    assert_eq!(
        error("seresnet18"),
        "timm publishes no weights of seresnet18 that netkin knows of: give a file as seresnet18=PATH"
    );
    assert!(error("resnet18").contains("HF_HUB_OFFLINE"));
}

#[test]
fn images_are_prepared_as_the_file_beside_says() {
    let (folder, path) = saved("demo_resnet");
    let config = folder.path().join("config.json");
    let preprocessing = || load_file("demo_resnet", &path).unwrap().preprocessing;
    let usual = Preprocessing {
        input_size: [28, 28],
        crop_pct: 1.0,
        crop_mode: CropMode::Center,
        interpolation: Interpolation::Bicubic,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    assert_eq!(preprocessing(), usual);
    let ours = r#"{"architecture": "demo_resnet", "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 0.9}}"#;
    fs::write(&config, ours).unwrap();
    let said = Preprocessing { input_size: [32, 32], crop_pct: 0.9, ..usual };
    assert_eq!(preprocessing(), said);
    fs::write(&config, ours.replace("demo_resnet", "resnet18")).unwrap();
    assert_eq!(preprocessing(), usual);
    fs::write(&config, ours.replace("0.9", "-1")).unwrap();
    assert_eq!(
        sentence("demo_resnet", &path),
        "config.json does not say how images are prepared (crop_pct is not in (0, 1]): mend it, or move it away to use \
         timm's usual values"
    );
    fs::write(&config, "{").unwrap();
    assert!(sentence("demo_resnet", &path).starts_with("config.json does not say"));
}

#[test]
fn pytorch_checkpoints() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["resnet10t.pth", "resnet10t_training.pth", "resnet10t_before_1.6.pth"] {
        let loaded = load_file("resnet10t", &fixtures.join(name)).unwrap();
        assert_eq!(loaded.num_classes, 1000);
        let bytes = to_safetensors(&loaded.network, Precision::F32).unwrap();
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        for (key, view) in parsed.iter() {
            assert_eq!(view.data(), overlapping(view.shape()), "{key} of {name}");
        }
    }
}

/// The numbers that scripts/pth_fixtures.py gives a tensor.
fn overlapping(shape: &[usize]) -> Vec<u8> {
    let mut places = vec![0];
    for &length in shape {
        places = places.iter().flat_map(|place| (0..length).map(move |index| place + index)).collect();
    }
    let number = |place: usize| ((place * 37 % 257) as f32 - 128.0) / 256.0;
    places.into_iter().flat_map(|place| number(place).to_le_bytes()).collect()
}

#[test]
fn the_extension_is_no_matter_but_the_content() {
    let folder = tempdir().unwrap();
    let checkpoint = include_bytes!("fixtures/resnet10t.pth");
    let path = folder.path().join("resnet10t.safetensors");
    fs::write(&path, checkpoint).unwrap();
    assert_eq!(load_file("resnet10t", &path).unwrap().num_classes, 1000);

    fs::write(&path, &checkpoint[..checkpoint.len() / 2]).unwrap();
    let cut = sentence("resnet10t", &path);
    assert!(cut.starts_with("resnet10t.safetensors is damaged or cut short ("), "{cut}");
    assert!(cut.ends_with("): copy or download it again"), "{cut}");

    let path = folder.path().join("demo_resnet.pth");
    save(&built("demo_resnet", 10), &path, Precision::F32).unwrap();
    load_file("demo_resnet", &path).unwrap();
}

/// Real files of timm, where somebody has put them.
#[test]
fn files_of_timm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/assets/weights");
    for (name, file, parameters) in [
        ("mobilenetv2_100", "mobilenetv2_100.tv_in1k.safetensors", 3_504_872),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0.safetensors", 4_652_008),
    ] {
        let path = folder.join(file);
        if !path.exists() || find(name).is_err() {
            eprintln!("skipped: {name} is not registered, or there is no {}", path.display());
            continue;
        }
        let loaded = load_file(name, &path).unwrap();
        assert_eq!(loaded.parameters, parameters);
        assert_eq!(loaded.num_classes, 1000);
    }
}

#[test]
fn the_tag_in_a_files_name_says_how_images_are_prepared() {
    let (folder, path) = saved("resnet18");
    let crop = |path: &Path| load_file("resnet18", path).unwrap().preprocessing.crop_pct;
    assert_eq!(crop(&path), 0.95, "the default tag's");
    let tagged = folder.path().join("resnet18.tv_in1k.safetensors");
    fs::rename(&path, &tagged).unwrap();
    assert_eq!(crop(&tagged), 0.875);
    let other = folder.path().join("resnet18.mine.safetensors");
    fs::rename(&tagged, &other).unwrap();
    assert_eq!(crop(&other), 0.95);
}
