//! The commands that have no test program of their own: what they print and write.

mod common;

use common::{Scratch, netkin, path_of};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

fn json(command: &mut assert_cmd::Command) -> serde_json::Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn models_are_listed_with_their_parameters() {
    let document = json(netkin().args(["models", "resnet5?", "--json"]));
    let models = document["models"].as_array().unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0]["name"], "resnet50");
    assert_eq!(models[0]["family"], "resnet");
    assert_eq!(models[0]["params"], 25_557_032);
    assert_eq!(models[0]["input_size"], serde_json::json!([3, 224, 224]));
}

#[test]
fn info_knows_the_preprocessing_of_a_tag() {
    let of = |name: &str| json(netkin().args(["info", name, "--json"]))["preprocessing"]["crop_pct"].clone();
    assert_eq!(of("resnet50"), 0.95);
    assert_eq!(of("resnet50.tv_in1k"), 0.875);
}

#[test]
fn completions_are_printed() {
    let output = netkin().args(["completions", "bash"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("_netkin()"));
}

#[test]
fn bench_tells_every_pass() {
    let document = json(netkin().args([
        "bench",
        "demo_resnet",
        "--pass",
        "forward",
        "--pass",
        "input-grad",
        "--pass",
        "train",
        "--batch",
        "2",
        "--repetitions",
        "1",
        "--json",
    ]));
    let results = document["results"].as_array().unwrap();
    let passes: Vec<_> = results.iter().map(|row| row["pass"].as_str().unwrap()).collect();
    assert_eq!(passes, ["forward", "input-grad", "train"]);
    for row in results {
        assert!(row["median_ms"].as_f64().unwrap() > 0.0);
        assert_eq!((&row["batch"], &row["precision"]), (&2.into(), &"f32".into()));
    }
}

/// Every combination is measured, each with the memory of a process of its own, and beside the first one.
#[test]
fn bench_compares_and_tells_the_blocks() {
    let arguments = [
        "bench",
        "demo_resnet",
        "demo_vit_patch7",
        "--pass",
        "forward",
        "--precision",
        "f32",
        "--precision",
        "f64",
        "--batch",
        "2",
        "--repetitions",
        "1",
        "--profile",
    ];
    let document = json(netkin().args(arguments).arg("--json"));
    let results = document["results"].as_array().unwrap();
    let rows: Vec<_> = results
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().unwrap().to_owned();
            assert!(!cfg!(target_os = "linux") || row["peak_bytes"].as_u64().unwrap() > 1 << 20);
            (text("model"), text("device"), text("precision"))
        })
        .collect();
    let expected = ["demo_resnet", "demo_vit_patch7"]
        .iter()
        .flat_map(|model| ["f32", "f64"].map(|precision| (model, precision)))
        .map(|(model, precision)| (model.to_string(), "flex".into(), precision.into()));
    assert_eq!(rows, expected.collect::<Vec<_>>());

    let profiles = document["profile"].as_array().unwrap();
    assert_eq!(profiles.len(), 4);
    let blocks = profiles[0]["blocks"].as_array().unwrap();
    assert!(blocks.iter().any(|block| block["name"] == "layer1.0"));
    let shares: f64 = blocks.iter().map(|block| block["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    let operations = &profiles[0]["operations"];
    let times = operations["times"].as_array().unwrap();
    let sum: f64 = times.iter().map(|time| time["ms"].as_f64().unwrap()).sum();
    assert!(sum > 0.0 && sum <= operations["pass_ms"].as_f64().unwrap());
    // The first convolution reads 2 × 3 × 28 × 28 pixels.
    let convolution =
        times.iter().find(|time| time["name"].as_str().unwrap().starts_with("convolution [2, 3, 28, 28]"));
    let convolution = convolution.expect("the stem");
    assert!(convolution["product"] == true && convolution["bytes"].as_u64().unwrap() > 4 * 2 * 3 * 28 * 28);
    assert!(times.iter().any(|time| time["product"] == false));

    let output = netkin().args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("× first") && text.contains("layer1.0"), "{text}");
}

/// A small network that comes after a large one does not show what the large one held.
#[test]
#[cfg(target_os = "linux")]
fn the_peak_of_a_row_is_its_own() {
    let peaks = |models: [&str; 2]| {
        let document = json(netkin().args([
            "bench",
            models[0],
            models[1],
            "--pass",
            "forward",
            "--batch",
            "64",
            "--size",
            "28",
            "--repetitions",
            "1",
            "--json",
        ]));
        let row = |index: usize| document["results"][index]["peak_bytes"].as_f64().unwrap();
        [row(0), row(1)]
    };
    let [large, small] = peaks(["resnet18", "demo_mobilenetv2"]);
    assert!(small < 0.8 * large, "{small} beside {large} bytes");
}

#[test]
fn a_network_of_one_size_refuses_another() {
    let text = common::refusal(netkin().args(["bench", "demo_resnet", "demo_mixer", "--size", "32"]), 2);
    assert!(text.contains("demo_mixer") && text.contains("28 × 28"), "{text}");
}

/// Of an option that may be given several times, what was typed replaces what the file lists.
#[test]
fn a_configuration_lists_what_may_be_given_several_times() {
    let scratch = Scratch::new();
    let file = scratch.path("netkin.toml");
    std::fs::write(&file, "device = \"flex\"\n[bench]\npass = [\"forward\", \"train\"]\nprecision = \"f64\"\n")
        .unwrap();
    let passes = |typed: &[&str]| {
        let mut command = netkin();
        command
            .args(["bench", "demo_resnet", "--batch", "1", "--repetitions", "1"])
            .args(typed)
            .arg("--json")
            .arg("--config")
            .arg(&file);
        let document = json(&mut command);
        let results = document["results"].as_array().unwrap().clone();
        results.iter().map(|row| format!("{} {}", row["pass"], row["precision"]).replace('"', "")).collect::<Vec<_>>()
    };
    assert_eq!(passes(&[]), ["forward f64", "train f64"]);
    assert_eq!(passes(&["--pass", "input-grad", "--device", "flex"]), ["input-grad f64"]);
}

#[test]
fn doctor_finds_healthy_networks_healthy() {
    let arguments = ["doctor", "demo_resnet", "demo_vit_patch?", "--steps", "3"];
    let document = json(netkin().args(arguments).arg("--json"));
    assert_eq!(document["failed"], 0, "{document}");
    let results = document["results"].as_array().unwrap();
    let names: Vec<_> = results.iter().map(|result| &result["model"]).collect();
    assert_eq!(names, ["demo_resnet", "demo_vit_patch4", "demo_vit_patch7"]);
    for result in results {
        let measured = |field: &str| result["measured"][field].as_f64().unwrap();
        assert_eq!(result["ok"], true);
        assert_eq!(measured("alone"), 0.0);
        // Single precision is not double precision; a comparison of something with itself would say that it is.
        assert!(measured("logits") > 1e-9 && measured("slope") < 1e-4);
    }
    let output = netkin().args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.contains("3 networks") && text.contains("all well"), "{text}");
}

/// The gradient that `forward` writes is that of the mean cross-entropy: it agrees with finite differences of the logits.
#[test]
fn forward_writes_logits_features_and_the_gradient_of_the_mean_loss() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_vit_patch7", 1);
    let (count, size) = (3, 3 * 28 * 28);
    let pixels: Vec<f32> = (0..count * size).map(|i| 0.5 + 0.4 * (i as f32 * 0.37).sin()).collect();
    let labels = [1i64, 7, 4];
    let forward = |pixels: &[f32]| {
        let (inputs, out) = (scratch.path("in.safetensors"), scratch.path("out.safetensors"));
        let pixel_bytes: Vec<u8> = pixels.iter().flat_map(|v| v.to_le_bytes()).collect();
        let label_bytes: Vec<u8> = labels.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensors = [
            ("pixels", TensorView::new(Dtype::F32, vec![count, 3, 28, 28], &pixel_bytes).unwrap()),
            ("labels", TensorView::new(Dtype::I64, vec![count], &label_bytes).unwrap()),
        ];
        std::fs::write(&inputs, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let mut command = netkin();
        command.args(["forward", "demo_vit_patch7", "--weights"]).arg(path_of(&spec));
        command.arg("--inputs").arg(&inputs).arg("--out").arg(&out);
        let output = command.args(["--grad", "--features", "--precision", "f64", "--batch", "2"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = std::fs::read(&out).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        ["logits", "features", "input_grad"].map(|name| {
            let tensor = file.tensor(name).unwrap();
            assert_eq!(tensor.dtype(), Dtype::F64);
            let values = tensor.data().chunks_exact(8).map(|eight| f64::from_le_bytes(eight.try_into().unwrap()));
            (tensor.shape().to_vec(), values.collect::<Vec<f64>>())
        })
    };
    let loss = |logits: &[f64]| {
        let each = logits
            .chunks_exact(10)
            .zip(labels)
            .map(|(logits, label)| logits.iter().map(|v| v.exp()).sum::<f64>().ln() - logits[label as usize]);
        each.sum::<f64>() / count as f64
    };
    let [(logit_shape, logits), (feature_shape, _), (gradient_shape, gradient)] = forward(&pixels);
    assert_eq!(logit_shape, [count, 10]);
    assert_eq!(feature_shape, [count, 64]);
    assert_eq!(gradient_shape, [count, 3, 28, 28]);
    for index in [0, 1000, size + 17, 2 * size + 2000] {
        let step = 2f32.powi(-10);
        let mut moved = pixels.clone();
        moved[index] += step;
        let change = f64::from(moved[index]) - f64::from(pixels[index]);
        let [(_, up), ..] = forward(&moved);
        moved[index] = pixels[index] - change as f32;
        let [(_, down), ..] = forward(&moved);
        let slope = (loss(&up) - loss(&down)) / (2.0 * change);
        let error = (slope - gradient[index]).abs() / gradient[index].abs();
        assert!(error < 1e-3, "at {index}: {slope} by differences, {} by the gradient", gradient[index]);
    }
    assert!(logits.iter().all(|logit| logit.is_finite()));
}

/// Adversarial images stay in the ball, 8-bit images and files agree, and the attack does what it is for.
#[test]
fn attack_writes_images_within_the_ball() {
    let scratch = Scratch::new();
    let (folder, labels) = scratch.images(6, |_| 0);
    let spec = "demo_resnet";
    let predictions = common::predictions(spec, &folder, &labels);
    let (folder, labels) = scratch.images(6, |index| predictions[index]);
    let out = scratch.path("out");
    let mut command = netkin();
    command.args(["attack", spec, "--attack", "pgd", "--steps", "10", "--seed", "3", "--batch", "4", "--json"]);
    command.arg("--data").arg(&folder).arg("--labels").arg(&labels).arg("--out").arg(&out);
    let document = json(&mut command);
    assert_eq!((&document["images"], &document["correct"]), (&6.into(), &6.into()));
    assert!(document["fooled_8bit"].as_u64().unwrap() > 0, "{document}");

    let bytes = std::fs::read(out.join("adversarial.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (float, levels) = (file.tensor("pixels").unwrap(), file.tensor("images").unwrap());
    assert_eq!(float.shape(), [6, 3, 28, 28]);
    assert_eq!(levels.shape(), [6, 3, 28, 28]);
    for index in 0..6 {
        let name = format!("{index:02}.png");
        let before = netkin::images::decode_file(&folder.join(&name)).unwrap();
        let after = netkin::images::decode_file(&out.join("images").join(&name)).unwrap();
        let mut changed = 0;
        for (place, (old, new)) in before.data().iter().zip(after.data()).enumerate() {
            assert!(old.abs_diff(*new) <= 8);
            changed += usize::from(old != new);
            let (pixel, channel) = (place / 3, place % 3);
            assert_eq!(levels.data()[(index * 3 + channel) * 784 + pixel], *new);
        }
        assert!(changed > 1000, "the attack changes most of an image");
    }
}

/// The demo at its smallest; its own figures are in the README.
#[test]
fn the_demo_shows_its_networks_and_writes_a_heat_map() {
    let scratch = Scratch::new();
    let out = scratch.path("demo");
    let mut command = netkin();
    command.args(["demo", "--limit", "32", "--steps", "2", "--json", "--out"]).arg(&out);
    let document = json(&mut command);
    assert_eq!(document["clean"].as_object().unwrap().len(), 10);
    assert_eq!(document["pairs"].as_array().unwrap().len(), 45);
    for (model, correct) in document["clean"].as_object().unwrap() {
        assert!(correct.as_u64().unwrap() >= 24, "{model} is right about {correct} of 32 images");
    }
    assert!(std::fs::read_to_string(out.join("index.html")).unwrap().contains("<svg"));
    assert!(out.join("sat.csv").exists() && out.join("heat-map.svg").exists());
}

/// Where the system gives no memory, a program of Rust aborts, which schedulers take for a crash.
#[cfg(target_os = "linux")]
#[test]
fn without_memory_it_says_what_to_do() {
    let program = netkin().get_program().to_owned();
    let command =
        "ulimit -v 4000000 && exec \"$0\" bench demo_resnet --pass forward --batch 1000000 --repetitions 1 --threads 2";
    let mut shell = assert_cmd::Command::new("sh");
    let text = common::refusal(shell.arg("-c").arg(command).arg(program), 75);
    assert!(text.contains("memory allocation of") && text.contains("smaller --batch"), "{text}");
}
