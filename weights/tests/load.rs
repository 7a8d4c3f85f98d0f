//! Files of weights into networks, the good and the bad.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, Distribution, Tensor};
use netkin_architectures::{Architecture, Network, Taps, find};
use netkin_weights::{
    CropMode, Error, HubConfig, Interpolation, Loaded, ModelSpec, Precision, Preprocessing, Source, check, finetune,
    load, preprocessing, save, to_safetensors,
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

fn load_at(name: &str, path: &Path, size: [usize; 2]) -> Result<Loaded, Error> {
    let spec: ModelSpec = format!("{name}={}", path.display()).parse().unwrap();
    load(&spec.at_size(size), Precision::F32, &Device::flex(), &HubConfig::nowhere(), &mut |_| {})
}

#[test]
fn positions_follow_to_rectangles_where_timm_resamples_them() {
    let (_folder, path) = saved("demo_vit_patch7");
    let loaded = load_at("demo_vit_patch7", &path, [35, 21]).unwrap();
    assert_eq!(loaded.preprocessing.input_size, [35, 21]);
    let images = Tensor::zeros([2, 3, 35, 21], &Device::flex());
    assert_eq!(loaded.network.forward(images, &mut Taps::none()).logits.dims(), [2, 10]);
    let bytes = to_safetensors(&loaded.network, Precision::F32).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    // The class token's, and five rows of three.
    assert_eq!(tensors.tensor("pos_embed").unwrap().shape(), [1, 16, 64]);
}

#[test]
fn positions_that_timm_leaves_alone_are_refused_at_another_size() {
    let (_folder, path) = saved("pit_ti_224");
    let said = load_at("pit_ti_224", &path, [112, 112]).unwrap_err().to_string();
    assert!(said.contains("pos_embed is [1, 64, 27, 27], not [1, 64, 13, 13]"), "{said}");
    assert!(said.ends_with("the file fits pit_ti_224 at the size that it is made for: ask for no other"), "{said}");
    let rectangle = load_at("pit_ti_224", &path, [112, 56]).unwrap_err().to_string();
    assert!(rectangle.contains("give a square whose side is a multiple of 8"), "{rectangle}");
}

#[test]
fn a_saved_network_comes_back_bit_for_bit() {
    for precision in [Precision::F32, Precision::F16, Precision::BF16, Precision::F64] {
        if precision.check(&Device::flex()).is_err() {
            continue;
        }
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
        [(Precision::F64, DType::F64), (Precision::F16, DType::F16), (Precision::BF16, DType::F32)]
    {
        if precision.check(&Device::flex()).is_err() {
            continue;
        }
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
         layer2.0.bn2.bias), 1 tensor is left over (layer2.0.bn2.shift), 1 tensor is different (conv1.0.weight is \
         [16, 27], not [16, 3, 3, 3]), 1 tensor is of a number type that netkin does not read (bn1.weight: I32); take a \
         file that was saved for demo_resnet"
    );
}

#[test]
fn numbers_of_other_types_are_no_reason_to_take_another_file() {
    for dtype in [Dtype::I32, Dtype::F8_E4M3] {
        let (_folder, path) = saved("demo_resnet");
        edit(&path, |tensors| {
            let (kind, shape, data) = tensors.get_mut("bn1.weight").unwrap();
            *kind = dtype;
            data.truncate(shape[0] * if dtype == Dtype::I32 { 4 } else { 1 });
        });
        assert_eq!(
            sentence("demo_resnet", &path),
            format!(
                "demo_resnet.safetensors does not fit demo_resnet: 1 tensor is of a number type that netkin does not \
                 read (bn1.weight: {dtype:?}); save the weights as f32, f64, f16 or bf16, quantised ones after \
                 dequantising them"
            )
        );
    }
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

/// Those whose numbers are not finite are told, all of them, before anything runs.
#[test]
fn a_check_finds_what_cannot_be_computed_with() {
    let (_folder, path) = saved("demo_resnet");
    let spec: ModelSpec = format!("demo_resnet={}", path.display()).parse().unwrap();
    let checked = || check(&spec, &HubConfig::nowhere(), &mut |_| {}).unwrap();
    assert!(checked().fits_exactly() && checked().not_finite.is_empty());
    edit(&path, |tensors| {
        first_number(tensors, "fc.bias", f32::NAN);
        first_number(tensors, "bn1.running_var", f32::NEG_INFINITY);
    });
    assert_eq!(checked().not_finite, ["bn1.running_var", "fc.bias"]);
    assert!(!checked().fits_exactly() && checked().different.is_empty());
}

#[test]
fn files_of_other_programs_are_told() {
    let (_folder, path) = saved("demo_resnet");
    let named = |name: &str| {
        let length = (name.len() as u16).to_le_bytes();
        [b"PK\x03\x04 PK\x01\x02".as_slice(), &[0; 24], &length, &[0; 16], name.as_bytes()].concat()
    };
    let cases: [(&[u8], [&str; 2]); 6] = [
        (&named("embedding/kernel.npy"), ["an archive of NumPy arrays (.npz)", "`netkin weights list NAME`"]),
        (&named("w/constants.pkl"), ["a TorchScript archive", "save its state_dict"]),
        (b"\x89HDF\r\n\x1a\n", ["an HDF5 file", "`netkin weights list NAME`"]),
        (b"\x08\x07\x12\x07pytorch", ["an ONNX graph", "torch.save or as safetensors"]),
        (&[vec![b'w'; 257], b"ustar".to_vec(), vec![0; 250]].concat(), ["a TAR archive", "unpack it"]),
        (b"\x1f\x8b\x08", ["compressed with gzip", "unpack it"]),
    ];
    for (bytes, parts) in cases {
        fs::write(&path, bytes).unwrap();
        let sentence = sentence("demo_resnet", &path);
        assert!(parts.iter().all(|part| sentence.contains(part)), "{parts:?}: {sentence}");
    }
}

#[test]
fn files_without_tensors_are_told() {
    let (_folder, path) = saved("demo_resnet");
    let empty = [8u64.to_le_bytes().as_slice(), b"{}      "].concat();
    // Of Python: a dictionary without entries, a list of numbers, a dictionary of numbers.
    let pickles: [&[u8]; 3] =
        [b"\x80\x02}q\x00.", b"\x80\x02]q\x00(K\x01K\x02e.", b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s."];
    for bytes in [&empty[..]].into_iter().chain(pickles) {
        fs::write(&path, bytes).unwrap();
        let sentence = sentence("demo_resnet", &path);
        assert!(sentence.starts_with("demo_resnet.safetensors holds no tensors: "), "{sentence}");
    }
}

/// What timm's names are in the files of ConvNeXt's authors.
fn of_the_authors(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["stem", rest @ ..] => format!("downsample_layers.0.{}", rest.join(".")),
        ["stages", stage, "downsample", rest @ ..] => format!("downsample_layers.{stage}.{}", rest.join(".")),
        ["stages", stage, "blocks", block, rest @ ..] => {
            let rest = rest.join(".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv");
            format!("stages.{stage}.{block}.{rest}")
        }
        ["head", "norm", last] => format!("norm.{last}"),
        ["head", "fc", last] => format!("head.{last}"),
        _ => panic!("{name}"),
    }
}

#[test]
fn the_layouts_of_others_give_the_same_network() {
    let (_folder, path) = saved("demo_convnext");
    let bytes = || {
        let loaded = load_file("demo_convnext", &path).unwrap();
        to_safetensors(&loaded.network, Precision::F32).unwrap()
    };
    let before = bytes();
    edit(&path, |tensors| {
        *tensors = std::mem::take(tensors).into_iter().map(|(name, it)| (of_the_authors(&name), it)).collect();
    });
    assert!(bytes() == before);

    // OpenCLIP has no bias behind the network.
    save(&built("demo_convnext", 10), &path, Precision::F32).unwrap();
    edit(&path, |tensors| {
        tensors.remove("head.fc.bias").unwrap();
        let trunk = |name: String| match name.as_str() {
            "head.fc.weight" => "visual.head.proj.weight".to_owned(),
            _ => format!("visual.trunk.{name}"),
        };
        *tensors = std::mem::take(tensors).into_iter().map(|(name, it)| (trunk(name), it)).collect();
        tensors.insert("logit_scale".into(), (Dtype::F32, vec![], 4.6f32.to_le_bytes().to_vec()));
    });
    let bytes = bytes();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(parsed.tensor("head.fc.bias").unwrap().data(), [0; 40]);
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
    let path = folder.path().join("folder");
    fs::create_dir(&path).unwrap();
    let error = save(&built("demo_resnet", 10), &path, Precision::F32).unwrap_err();
    assert!(error.to_string().starts_with("cannot write"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // Folders on the way to it are made.
    save(&built("demo_resnet", 10), &path.join("deep/weights"), Precision::F32).unwrap();
    assert_eq!(fs::read_dir(path.join("deep")).unwrap().count(), 1);
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
    // A misspelt tag is none, and never the default.
    let misspelt = error("resnet18.a1_in1K");
    let begin = "there are no weights resnet18.a1_in1K (did you mean a1_in1k or ";
    assert!(misspelt.starts_with(begin) && misspelt.contains("tv_in1k"), "{misspelt}");
    assert!(misspelt.ends_with("weights of your own are given as resnet18.a1_in1K=PATH"), "{misspelt}");
    let unknown = error("seresnet18.a1_in1k");
    assert!(unknown.starts_with("timm publishes no weights of seresnet18.a1_in1k"), "{unknown}");
    // A name of 2022 stands for other weights than today's default.
    let of_2022 = error("resnetv2_50x1_bitm");
    assert!(of_2022.starts_with("timm/resnetv2_50x1_bit.goog_in21k_ft_in1k/model.safetensors"), "{of_2022}");
}

/// Without a network: what [`load`] would find.
#[test]
fn how_images_are_prepared_is_known_without_the_weights() {
    let of = |name: &str| preprocessing(&name.parse::<ModelSpec>().unwrap(), &HubConfig::nowhere());
    assert_eq!(of("resnet18").unwrap().crop_pct, 0.95);
    assert_eq!(of("resnet18.tv_in1k").unwrap().crop_pct, 0.875);
    assert_eq!(of("mobilenetv2_100.tv_in1k").unwrap().input_size, [224, 224]);
    assert_eq!(of("resnetv2_50x1_bitm").unwrap().input_size, [448, 448]);
    assert_eq!(of("resnetv2_50x1_bit").unwrap().input_size, [224, 224]);
    assert_eq!(of("seresnet18").unwrap().input_size, [224, 224]);
    assert!(matches!(of("resnet18.nonsense"), Err(Error::UnknownTag { .. })));
    assert!(matches!(of("demo_resnet.mine"), Err(Error::NotEmbedded { .. })));
    let (folder, path) = saved("demo_resnet");
    let spec: ModelSpec = format!("demo_resnet={}", path.display()).parse().unwrap();
    let config = r#"{"architecture": "demo_resnet", "pretrained_cfg": {"crop_pct": 0.9}}"#;
    fs::write(folder.path().join("config.json"), config).unwrap();
    let known = preprocessing(&spec, &HubConfig::nowhere()).unwrap();
    assert_eq!((known.crop_pct, known), (0.9, load_file("demo_resnet", &path).unwrap().preprocessing));
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
    fs::write(&config, ours.replace("32, 32", "100000, 100000")).unwrap();
    assert_eq!(
        sentence("demo_resnet", &path),
        "config.json does not say how images are prepared (demo_resnet does not take images of 100000 × 100000 pixels: \
         give 1 to 2048 for each side; its usual size is 28 × 28): mend it, or move it away to use timm's usual values"
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

#[test]
fn a_network_is_trained_further_with_other_classes() {
    let (_folder, path) = saved("demo_resnet");
    let begun = |classes: usize| {
        let spec = format!("demo_resnet={}", path.display()).parse().unwrap();
        let config = find("demo_resnet").unwrap().config;
        let (device, hub) = (Device::flex(), HubConfig::nowhere());
        finetune(&spec, config, classes, Precision::F32, &device, &hub, &mut |_| {}).unwrap()
    };
    let tensors = |network: &Network| -> Tensors {
        let bytes = to_safetensors(network, Precision::F32).unwrap();
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        parsed.tensors().into_iter().map(|(key, view)| (key, tensor(view))).collect()
    };
    let whole = tensors(&load_file("demo_resnet", &path).unwrap().network);
    assert!(tensors(&begun(10).network) == whole);
    let other = begun(3);
    assert_eq!(other.num_classes, 3);
    for (key, tensor) in tensors(&other.network) {
        if key.starts_with("fc.") {
            assert_eq!(tensor.1[0], 3);
        } else {
            assert!(tensor == whole[&key], "{key}");
        }
    }

    // A file without a classifier begins a network, too.
    edit(&path, |tensors| tensors.retain(|key, _| !key.starts_with("fc.")));
    assert!(load_file("demo_resnet", &path).is_err());
    assert_eq!(begun(7).num_classes, 7);
    edit(&path, |tensors| tensors.retain(|key, _| key != "conv1.0.weight"));
    let spec = format!("demo_resnet={}", path.display()).parse().unwrap();
    let config = find("demo_resnet").unwrap().config;
    let refused = finetune(&spec, config, 7, Precision::F32, &Device::flex(), &HubConfig::nowhere(), &mut |_| {});
    assert!(refused.unwrap_err().to_string().contains("conv1.0.weight"));
}
