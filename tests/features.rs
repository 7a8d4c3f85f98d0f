//! What `compare`, `layers`, `condition` and `matrix fill` print, and how they refuse bad input.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{Scratch, json, netkin, refusal, text};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

#[track_caller]
fn refused(arguments: &[&str], parts: &[&str]) {
    let said = refusal(netkin().args(arguments), 2);
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Numbers that look random, another series for each seed.
fn noise(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * at + 17 * at) as f32 * 0.37 + seed as f32).sin()).collect()
}

/// A `.npy` file of `values` with so many rows; its path.
fn npy(scratch: &Scratch, name: &str, values: &[f32], rows: usize) -> String {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    npy_of(scratch, name, ("<f4", "False"), [rows, values.len() / rows], bytes)
}

/// The same in 64 bits.
fn wide_npy(scratch: &Scratch, name: &str, values: &[f64], rows: usize) -> String {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    npy_of(scratch, name, ("<f8", "False"), [rows, values.len() / rows], bytes)
}

/// Numbers of any kind, in C's or in Fortran's order.
fn npy_of(scratch: &Scratch, name: &str, (kind, order): (&str, &str), shape: [usize; 2], data: Vec<u8>) -> String {
    let [rows, width] = shape;
    let header = format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': ({rows}, {width}), }}\n");
    let length = (header.len() as u16).to_le_bytes();
    let path = scratch.path(name);
    std::fs::write(&path, [&b"\x93NUMPY\x01\x00"[..], &length[..], header.as_bytes(), &data[..]].concat()).unwrap();
    path.display().to_string()
}

/// A safetensors file of f32 tensors, each with so many rows; its path.
fn safetensors(scratch: &Scratch, name: &str, tensors: &[(&str, &[f32])], rows: usize) -> String {
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let data: Vec<(&str, Vec<u8>)> = tensors.iter().map(|(name, values)| (*name, bytes(values))).collect();
    let views = data
        .iter()
        .map(|(name, data)| (*name, TensorView::new(Dtype::F32, vec![rows, data.len() / 4 / rows], data).unwrap()));
    let path = scratch.path(name);
    std::fs::write(&path, safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()).unwrap();
    path.display().to_string()
}

/// Weights of two networks, and images with labels, as arguments.
struct Networks {
    scratch: Scratch,
    a: String,
    b: String,
    data: [String; 4],
}

impl Networks {
    fn new(images: usize) -> Self {
        let scratch = Scratch::new();
        let (a, b) = (scratch.weights("demo_resnet", 1), scratch.weights("demo_vit_patch7", 2));
        let (folder, labels) = scratch.images(images, |image| image % 3);
        let [folder, labels] = [folder, labels].map(|path| path.display().to_string());
        Self { scratch, a, b, data: ["--data".into(), folder, "--labels".into(), labels] }
    }

    fn with<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        arguments.iter().copied().chain(self.data.iter().map(String::as_str)).collect()
    }
}

#[test]
fn files_are_compared_by_every_measure() {
    let scratch = Scratch::new();
    let rows = 30;
    let values = noise(1, rows * 8);
    let x = npy(&scratch, "x.npy", &values, rows);
    let other: Vec<f32> = values.iter().zip(noise(5, rows * 8)).map(|(x, noise)| x + 0.5 * noise).collect();
    let y = safetensors(&scratch, "y.safetensors", &[("features", &other), ("logits", &values)], rows);
    let z = npy(&scratch, "z.npy", &noise(9, rows * 3), rows);
    for measure in ["dcor", "dcor-biased", "cka-linear", "cka-linear-biased", "cka-rbf", "cka-rbf-biased", "procrustes"]
    {
        let document = json(&["compare", &x, &y, "--measure", measure]);
        let (value, range) = (number(&document["value"]), &document["range"]);
        assert!(number(&range[0]) < value && value < number(&range[1]), "{measure}: {value}");
        assert_eq!((&document["images"], &document["measure"]), (&rows.into(), &measure.into()));
        let exchanged = number(&json(&["compare", &y, &x, "--measure", measure])["value"]);
        assert!((value - exchanged).abs() < 1e-5, "{measure}: {value}, {exchanged}");
    }
    for measure in ["pdcor", "semi-pdcor"] {
        let document = json(&["compare", &x, &y, "--measure", measure, "--given", &z]);
        assert!(number(&document["value"]) > 0.1, "{document}");
        assert_eq!(document["given"]["features"], 3);
    }
    // The logits of y are x, which does not say so.
    let document = json(&["compare", &x, &y, "--measure", "disagreement", "--layer", "logits"]);
    assert_eq!(document["value"], 0.0);
    refused(&["compare", &x, &y, "--measure", "disagreement"], &["x.npy", "logits", "--layer logits"]);
    let alone = safetensors(&scratch, "alone.safetensors", &[("features", &values)], rows);
    refused(
        &["compare", &alone, &y, "--measure", "disagreement"],
        &["alone.safetensors", "no tensor \"logits\"", "features"],
    );
    let document = json(&["compare", &x, &y, "--layer-b", "logits"]);
    assert!((number(&document["value"]) - 1.0).abs() < 1e-6, "{document}");
    let said = text(&["compare", &x, &y]);
    assert!(said.contains("x.npy (8 features)") && said.contains("dcor    0.") && said.contains("U-centred"), "{said}");
    let whole = number(&json(&["compare", &x, &y, "--measure", "cka-linear"])["value"]);
    let batches = json(&["compare", &x, &y, "--measure", "cka-linear", "--mini-batch", "10"]);
    assert!(batches["mini_batch"] == 10 && number(&batches["value"]) != whole, "{batches}");
    assert_eq!(batches["images"], 30);
    // Of 30 images in mini-batches of 14, two are left, which count neither in the value nor in the number of images.
    let output = netkin().args(["--json", "compare", &x, &y, "--mini-batch", "14"]).assert().code(1);
    let rest: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(
        rest["images"] == 28
            && rest["images_left_out"] == 2
            && said.contains("the rest of 2 images is no mini-batch of at least 4"),
        "{rest}, {said}"
    );
}

/// The same numbers as integers and column by column.
#[test]
fn files_of_other_formats_are_read() {
    let scratch = Scratch::new();
    let (rows, width) = (20, 5);
    // Whole numbers up to 100, which every format holds.
    let values: Vec<f32> = (0..rows * width).map(|at| ((at * at + 7 * at) % 101) as f32).collect();
    let plain = npy(&scratch, "plain.npy", &values, rows);
    let columns: Vec<f32> = (0..width).flat_map(|column| values.iter().skip(column).step_by(width)).copied().collect();
    let write =
        |name: &str, kind: &str, order: &str, data: Vec<u8>| npy_of(&scratch, name, (kind, order), [rows, width], data);
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let whole = values.iter().map(|&value| value as u8).collect();
    let wide = values.iter().flat_map(|&value| (value as i64).to_le_bytes()).collect();
    for other in [
        write("columns.npy", "<f4", "True", bytes(&columns)),
        write("whole.npy", "|u1", "False", whole),
        write("wide.npy", "<i8", "False", wide),
    ] {
        let value = number(&json(&["compare", &plain, &other, "--measure", "procrustes"])["value"]);
        assert!(value.abs() < 1e-6, "{other}: {value}");
    }
    let turned = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    refused(&["compare", &plain, &write("turned.npy", ">f4", "False", turned)], &["turned.npy", "big-endian"]);
}

#[test]
fn networks_are_compared_on_images() {
    let networks = Networks::new(12);
    let (a, b) = (networks.a.as_str(), networks.b.as_str());
    let document = json(&networks.with(&["compare", a, b]));
    assert_eq!((&document["images"], &document["a"]["features"]), (&12.into(), &96.into()));
    assert!(document["a"]["sha256"].as_str().unwrap().len() == 64 && document["data"]["fingerprint"].is_string());
    let itself = number(&json(&networks.with(&["compare", a, a]))["value"]);
    assert!((itself - 1.0).abs() < 1e-6, "{itself}");
    let tap = json(&networks.with(&["compare", a, b, "--layer", "layer2.0", "--layer-b", "blocks.1"]));
    assert!(tap["a"]["name"] == "demo_resnet:layer2.0" && tap["b"]["name"] == "demo_vit_patch7:blocks.1", "{tap}");
    // In double precision, it is the same up to what single precision can tell.
    let wide = json(&networks.with(&["compare", a, b, "--precision", "f64"]));
    let difference = (number(&wide["value"]) - number(&document["value"])).abs();
    assert!(difference > 0.0 && difference < 1e-3, "{difference}");
    let partial = json(&networks.with(&["compare", a, b, "--measure", "pdcor", "--given", "labels"]));
    assert!((-1.0..=1.0).contains(&number(&partial["value"])) && partial["given"]["features"] == 3, "{partial}");
    // Nothing is left of a network once it is projected out of itself.
    refused(
        &networks.with(&["compare", a, b, "--measure", "semi-pdcor", "--given", a]),
        &["demo_resnet is compared and projected out", "another third set"],
    );
    let disagreement = networks.with(&["compare", a, b, "--measure", "disagreement"]);
    let value = number(&json(&disagreement)["value"]);
    assert!((0.0..=1.0).contains(&value));
    // Predictions are made of logits alone, and these have a name as layers have.
    let named = [&disagreement[..], &["--layer", "logits", "--layer-b", "logits"]].concat();
    assert_eq!(number(&json(&named)["value"]), value);
    refused(&[&disagreement[..], &["--layer", "layer2.0"]].concat(), &["demo_resnet", "layer2.0", "--layer"]);
    let logits = json(&networks.with(&["compare", a, b, "--layer", "logits"]));
    assert_eq!((&logits["a"]["name"], &logits["a"]["features"]), (&"demo_resnet:logits".into(), &10.into()));
}

#[test]
fn kappa_is_that_of_the_labels() {
    let scratch = Scratch::new();
    let rows = 6;
    let (folder, labels) = scratch.images(rows, |image| image % 3);
    // Right on all but the last; right on all but the first two.
    let logits = |classes: [usize; 6]| -> Vec<f32> {
        classes.iter().flat_map(|&class| (0..3).map(move |at| if at == class { 1.0 } else { 0.0 })).collect()
    };
    let x = safetensors(&scratch, "x.safetensors", &[("logits", &logits([0, 1, 2, 0, 1, 0]))], rows);
    let y = safetensors(&scratch, "y.safetensors", &[("logits", &logits([1, 0, 2, 0, 1, 2]))], rows);
    let arguments = ["compare", &x, &y, "--measure", "kappa"];
    let data = ["--data", folder.to_str().unwrap(), "--labels", labels.to_str().unwrap()];
    let value = number(&json(&[&arguments[..], &data[..]].concat())["value"]);
    // Both right on 3 of 6, by chance on 5/6 · 4/6 + 1/6 · 2/6 = 22/36.
    assert!((value - (0.5 - 22.0 / 36.0) / (14.0 / 36.0)).abs() < 1e-12, "{value}");
    assert_eq!(number(&json(&["compare", &x, &y, "--measure", "disagreement"])["value"]), 0.5);
    refused(&arguments, &["--data"]);
    refused(&[&arguments[..], &data[..], &["--limit", "5"]].concat(), &["labels of 5 images", "are of 6"]);
    let same = ["compare", &x, &x, "--measure", "kappa"];
    let right = safetensors(&scratch, "right.safetensors", &[("logits", &logits([0, 1, 2, 0, 1, 2]))], rows);
    let always = ["compare", &right, &right, "--measure", "kappa"];
    assert_eq!(number(&json(&[&same[..], &data[..]].concat())["value"]), 1.0);
    refused(&[&always[..], &data[..]].concat(), &["always right"]);

    // Labels alone, as a table with files or without, or an array.
    let column = scratch.path("column.csv").display().to_string();
    std::fs::write(&column, "0\n1\n2\n0\n1\n2\n").unwrap();
    let array = npy_of(&scratch, "labels.npy", ("|u1", "False"), [rows, 1], vec![0, 1, 2, 0, 1, 2]);
    for labels in [labels.to_str().unwrap(), &column, &array] {
        let alone = [&arguments[..], &["--labels", labels]].concat();
        assert_eq!(number(&json(&alone)["value"]), value, "{labels}");
    }
    let refused_with = |more: &[&str], parts: &[&str]| {
        refused(&[&arguments[..], &["--labels", &column], more].concat(), parts);
    };
    refused_with(&["--label-offset", "1"], &["label 3", "3 classes", "--label-offset"]);
    refused_with(&["--limit", "5"], &["--data"]);
    // Labels that count from 1.
    refused_with(&["--label-offset", "-1"], &["--label-offset -1", "label 0", "less than 0"]);
    let from_1 = scratch.path("from-1.csv").display().to_string();
    std::fs::write(&from_1, "1\n2\n3\n1\n2\n3\n").unwrap();
    let down = [&arguments[..], &["--labels", &from_1, "--label-offset", "-1"]].concat();
    assert_eq!(number(&json(&down)["value"]), value);
    refused(&[&arguments[..], &data[..], &["--label-offset", "-1"]].concat(), &["00.png", "label 0", "less than 0"]);
    std::fs::write(&column, "0\n1\n2\n").unwrap();
    refused_with(&[], &["--labels has labels of 3 images", "are of 6"]);
    std::fs::write(&column, "0\ncat\n").unwrap();
    refused_with(&[], &["column.csv", "line 2", "cat"]);
    refused(&[&arguments[..], &["--label-offset", "1"]].concat(), &["--labels"]);
    let wide = |name: &str, labels: [i64; 6]| {
        let bytes = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        npy_of(&scratch, name, ("<i8", "False"), [rows, 1], bytes)
    };
    let (below, beyond) = (wide("below.npy", [0, 1, -1, 0, 1, 2]), wide("beyond.npy", [0, 1, 2, 0, 1 << 40, 2]));
    refused(&[&arguments[..], &["--labels", &below]].concat(), &["below.npy", "row 2", "-1", "int64"]);
    refused(&[&arguments[..], &["--labels", &beyond]].concat(), &["row 4", "1099511627776", "1048576 classes"]);
}

/// What would be ignored is refused.
#[test]
fn options_without_use_are_refused() {
    let scratch = Scratch::new();
    let rows = 10;
    let x = npy(&scratch, "x.npy", &noise(1, 4 * rows), rows);
    let y = safetensors(&scratch, "y.safetensors", &[("features", &noise(2, 4 * rows))], rows);
    let (folder, labels) = scratch.images(rows, |image| image % 3);
    let [folder, labels] = [folder, labels].map(|path| path.display().to_string());
    let compare = |more: &[&str], parts: &[&str]| refused(&[&["compare", &x, &y][..], more].concat(), parts);
    compare(&["--bandwidth", "2"], &["--bandwidth", "cka-rbf"]);
    compare(&["--data", &folder, "--labels", &labels], &["no use for --data"]);
    compare(&["--labels", &labels], &["no use for --labels"]);
    for [option, value] in [["--precision", "f64"], ["--batch", "4"], ["--crop", "own"], ["--input-size", "64"]] {
        compare(&[option, value], &[option, "no network is run"]);
    }
    compare(&["--layer", "foo"], &["x.npy", "no layer \"foo\""]);
    compare(&["--layer-b", "feature"], &["y.safetensors", "no tensor \"feature\", but features"]);
    refused(&["layers", "demo_resnet", "--data", &folder, "--labels", &labels, "--bandwidth", "2"], &["--bandwidth"]);
    // Labels are of use to be projected out, and so is the width to Gaussian kernels.
    let partial = json(&["compare", &x, &y, "--measure", "pdcor", "--given", "labels", "--labels", &labels]);
    assert_eq!(partial["given"]["features"], 3);
    let wide = json(&["compare", &x, &y, "--measure", "cka-rbf", "--bandwidth", "2"]);
    let usual = json(&["compare", &x, &y, "--measure", "cka-rbf"]);
    assert!(
        wide["bandwidth"] == 2.0 && usual["bandwidth"] == 1.0 && wide["value"] != usual["value"],
        "{wide}, {usual}"
    );

    let of_classes = |name: &str, classes: usize| {
        let logits = noise(classes, classes * rows);
        safetensors(&scratch, name, &[("logits", &logits)], rows)
    };
    let (seven, twelve) = (of_classes("seven.safetensors", 7), of_classes("twelve.safetensors", 12));
    refused(
        &["compare", &twelve, &seven, "--measure", "disagreement"],
        &["twelve.safetensors", "12 classes", "seven.safetensors", "7"],
    );
}

/// Formats and sizes of numbers: each set says its own, and no measure sees a factor.
#[test]
fn numbers_of_any_size_and_format_are_compared() {
    let scratch = Scratch::new();
    let rows = 12;
    let values: Vec<f64> = noise(1, 3 * rows).into_iter().map(f64::from).collect();
    let scaled = |name: &str, scale: f64| {
        let values: Vec<f64> = values.iter().map(|value| scale * value).collect();
        wide_npy(&scratch, name, &values, rows)
    };
    let (plain, y) = (scaled("plain.npy", 1.0), npy(&scratch, "y.npy", &noise(5, 2 * rows), rows));
    let narrow = npy(&scratch, "narrow.npy", &noise(1, 3 * rows), rows);
    let expected = number(&json(&["compare", &plain, &y])["value"]);
    for scale in [1e-300, 1e-170, 1e170, 1e300] {
        let value = number(&json(&["compare", &scaled("scaled.npy", scale), &y])["value"]);
        assert!((value - expected).abs() < 1e-9, "{scale}: {value}, {expected}");
    }
    for (a, b, [of_a, of_b], both) in [
        (&plain, &plain, ["f64", "f64"], "f64"),
        (&narrow, &y, ["f32", "f32"], "f32"),
        (&plain, &y, ["f64", "f32"], "f64 and f32"),
    ] {
        let document = json(&["compare", a, b]);
        assert!(document["precision"] == both, "{document}");
        assert!(document["a"]["precision"] == of_a && document["b"]["precision"] == of_b, "{document}");
    }
    let one = npy(&scratch, "one.npy", &noise(2, rows), rows);
    assert!(text(&["compare", &one, &y]).contains("one.npy (1 feature)\n"));
    // What is projected out of X is Y itself.
    let semi = ["compare", &plain, &y, "--measure", "semi-pdcor", "--given", &y];
    let output = netkin().args(semi).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success()
            && said.contains("y.npy follows from")
            && said.contains("as far as rounding tells")
            && said.contains("nothing in common"),
        "{said}"
    );
}

#[test]
fn all_layers_are_compared_in_one_pass() {
    let networks = Networks::new(11);
    let (a, b) = (networks.a.as_str(), networks.b.as_str());
    let figure = networks.scratch.path("layers.svg");
    let arguments = networks.with(&["layers", a, b, "--mini-batch", "6", "--figure", figure.to_str().unwrap()]);
    let document = json(&arguments);
    let layers: Vec<&str> = document["layers"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for name in
        ["demo_resnet:layer1.0", "demo_resnet:global_pool", "demo_vit_patch7:blocks.0", "demo_vit_patch7:pooled"]
    {
        assert!(layers.contains(&name), "{name} is not among {layers:?}");
    }
    assert_eq!((&document["images"], &document["mini_batch"]), (&11.into(), &6.into()));
    let values = document["values"].as_array().unwrap();
    let at = |row: usize, column: usize| number(&values[row][column]);
    for row in 0..layers.len() {
        assert_eq!(at(row, row), 1.0);
        for column in 0..layers.len() {
            assert!((-1.0..=1.0).contains(&at(row, column)) && at(row, column) == at(column, row));
        }
    }
    let svg = std::fs::read_to_string(&figure).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("demo_vit_patch7:blocks.0"));
    assert_eq!(document["models"][1]["name"], "demo_vit_patch7");
    let png = networks.scratch.path("layers.png");
    refused(&networks.with(&["layers", a, "--figure", png.to_str().unwrap()]), &["layers.png", "layers.svg"]);
    // A pair of it is what `compare` finds of the same mini-batches.
    let place = |name: &str| layers.iter().position(|layer| *layer == name).unwrap();
    let (first, second) = (place("demo_resnet:layer2.0"), place("demo_vit_patch7:blocks.1"));
    let layers = ["--layer", "layer2.0", "--layer-b", "blocks.1", "--mini-batch", "6"];
    let pair = json(&[&networks.with(&["compare", a, b])[..], &layers[..]].concat());
    let difference = number(&pair["value"]) - at(first, second);
    assert!(difference.abs() < 1e-5, "{difference}");

    let one = text(&networks.with(&["layers", a, "--measure", "cka-linear", "--csv"]));
    assert!(one.starts_with(",act1,maxpool,layer1.0,") && one.lines().count() == 8, "{one}");
    assert!(text(&networks.with(&["layers", a, a])).contains("demo_resnet 2:layer1.0"));
    refused(&networks.with(&["layers", a, "--measure", "procrustes"]), &["dcor-biased"]);
    refused(&networks.with(&["layers", a, b, "--limit", "3"]), &["3 images", "at least 4"]);
    refused(&networks.with(&["layers", a, b, a]), &["MODEL"]);
    refused(&networks.with(&["layers", "a.npy"]), &["layers are those of networks", "netkin compare"]);
    // Of 11 images in mini-batches of 9, two are left.
    let output = netkin().args(networks.with(&["layers", a, "--mini-batch", "9", "--json"])).assert().code(1);
    let document: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert!(document["images"] == 9 && document["images_left_out"] == 2, "{document}");
}

#[test]
fn what_networks_know_of_classes_beyond_each_other() {
    let scratch = Scratch::new();
    let rows = 60;
    // X knows the class, Y does not.
    let classes: Vec<f32> = (0..rows).flat_map(|row| [(row % 3) as f32, (row % 3 == 0) as u8 as f32]).collect();
    let x: Vec<f32> = classes.iter().zip(noise(3, 2 * rows)).map(|(class, noise)| class + 0.1 * noise).collect();
    let x = npy(&scratch, "x.npy", &x, rows);
    let y = npy(&scratch, "y.npy", &noise(4, 4 * rows), rows);
    let truth = npy(&scratch, "truth.npy", &classes, rows);
    let document = json(&["condition", &x, &y, "--truth", &truth, "--replicates", "200"]);
    let of = |name: &str| number(&document[name]["estimate"]);
    assert!(of("x_truth") > 0.9 && of("x_given_y") > 0.9 && of("partial_x") > 0.9, "{document}");
    assert!(of("y_truth").abs() < 0.2 && of("y_given_x").abs() < 0.2, "{document}");
    let interval = &document["x_truth"]["interval"];
    assert!(number(&interval[0]) < of("x_truth") && of("x_truth") < number(&interval[1]) + 0.02, "{document}");

    // One row for each class, with the labels of the data.
    let (folder, labels) = scratch.images(rows, |image| image % 3);
    let embedding = npy(&scratch, "classes.npy", &[0.0, 1.0, 1.0, 0.0, 2.0, 0.0], 3);
    let data = ["--data", folder.to_str().unwrap(), "--labels", labels.to_str().unwrap()];
    let by_class = [&["condition", &x, &y, "--truth", &embedding, "--replicates", "100"][..], &data[..]].concat();
    let difference = number(&json(&by_class)["x_truth"]["estimate"]) - of("x_truth");
    assert!(difference.abs() < 1e-6, "{difference}");
    let by_labels = [&["condition", &x, &y, "--replicates", "100"][..], &data[..]].concat();
    let said = text(&by_labels);
    assert!(said.contains("labels (3 features)") && said.contains("R²(X | Y, GT)"), "{said}");

    refused(&["condition", &x, &y], &["--data"]);
    let few = npy(&scratch, "few.npy", &[0.0, 1.0, 1.0, 0.0], 2);
    let too_few = [&["condition", &x, &y, "--truth", &few][..], &data[..]].concat();
    refused(&too_few, &["few.npy has 2 rows", "number of classes is 3"]);
    let many = npy(&scratch, "many.npy", &noise(6, 10), 5);
    let too_many = [&["condition", &x, &y, "--truth", &many][..], &data[..]].concat();
    refused(&too_many, &["many.npy has 5 rows", "number of classes is 3"]);
    // A row for each image is no row for each class.
    let of_images = [&["condition", &x, &y, "--truth", &truth][..], &data[..]].concat();
    refused(&of_images, &["truth.npy has 60 rows", "number of classes is 3", "row per image"]);
    // The classes of images beyond the limit count.
    let first: Vec<f32> = noise(7, 8);
    let some = npy(&scratch, "some.npy", &first, 2);
    let limited = [&["condition", &some, &some, "--truth", &embedding, "--limit", "2"][..], &data[..]].concat();
    refused(&limited, &["2 images", "at least 4"]);
    let alone =
        ["condition", &x, &y, "--truth", &embedding, "--replicates", "100", "--labels", labels.to_str().unwrap()];
    assert_eq!(json(&alone)["x_truth"], json(&by_class)["x_truth"]);

    for wrong in ["99999999999999", "100001", "99", "0", "x"] {
        let arguments = ["condition", &x, &y, "--truth", &truth, "--replicates", wrong];
        refused(&arguments, &["--replicates", "from 100 to 100000"]);
    }
    // Of so few images there are no intervals, which is said.
    let [x8, y8, truth8] = [1, 2, 3].map(|seed| npy(&scratch, &format!("{seed}.npy"), &noise(seed, 24), 8));
    let output = netkin().args(["--json", "condition", &x8, &y8, "--truth", &truth8]).output().unwrap();
    let (said, document) = (String::from_utf8_lossy(&output.stderr), serde_json::from_slice(&output.stdout));
    let document: Value = document.unwrap_or_else(|_| panic!("{said}"));
    assert!(document["replicates"] == 0 && document["x_truth"]["interval"].is_null(), "{document}");
    assert!(said.contains("8 images") && said.contains("at least 20"), "{said}");
    refused(&["condition", &x, &y, "--truth", &few], &["60", "2", "same images"]);
    for wrong in ["demo_resnet", "banana"] {
        refused(&["condition", &x, &y, "--truth", wrong], &["labels or a file"]);
    }
    // X again, but turned and larger: there is no third set that could be another one.
    let pairs = classes.iter().zip(noise(3, 2 * rows)).map(|(class, noise)| class + 0.1 * noise).collect::<Vec<f32>>();
    let turned: Vec<f32> = pairs.chunks_exact(2).flat_map(|pair| [-2.0 * pair[1], 2.0 * pair[0]]).collect();
    let turned = npy(&scratch, "turned.npy", &turned, rows);
    refused(
        &["condition", &x, &turned, "--truth", &truth],
        &["x.npy", "turned.npy", "the same", "give two that differ"],
    );
    let holes = npy(&scratch, "holes.npy", &[0.0, 1.0, f32::NAN, 0.0, 2.0, 0.0], 3);
    let with_holes = [&["condition", &x, &y, "--truth", &holes][..], &data[..]].concat();
    refused(&with_holes, &["holes.npy", "NaN for class 1", "feature 0"]);
    refused(&["condition", &x, &y, "--truth", &truth, "--precision", "f64"], &["no use for --precision"]);
}

#[test]
fn other_measures_fill_the_matrix_of_a_run() {
    let networks = Networks::new(12);
    let (a, b) = (networks.a.as_str(), networks.b.as_str());
    let run = networks.scratch.path("run").display().to_string();
    let sat = networks.with(&["sat", a, b, "--steps", "1", "--run", &run]);
    let output = netkin().args(&sat).output().unwrap();
    // A pair may have no image that both classify correctly.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    let score = |document: &Value| number(&document["values"][0][1]);
    let found = json(&["matrix", "fill", &run, "--measure", "disagreement"]);
    let expected = json(&networks.with(&["compare", a, b, "--measure", "disagreement"]));
    assert_eq!(score(&found), 1.0 - number(&expected["value"]));
    assert_eq!(found["names"], serde_json::json!(["demo_resnet", "demo_vit_patch7"]));

    let out = networks.scratch.path("cka.csv").display().to_string();
    let fill = |measure: &'static str| {
        let data = networks.data[1].as_str();
        vec!["matrix", "fill", &run, "--measure", measure, "--data", data, "--model", a, "--model", b, "--out", &out]
    };
    let found = json(&fill("cka-linear"));
    let expected = json(&networks.with(&["compare", a, b, "--measure", "cka-linear"]));
    assert!((score(&found) - number(&expected["value"])).abs() < 1e-6, "{found}");
    assert_eq!(number(&found["values"][0][0]), 1.0);
    let csv = std::fs::read_to_string(&out).unwrap();
    assert!(csv.starts_with(",demo_resnet,demo_vit_patch7\n"), "{csv}");
    assert!(text(&["matrix", "summary", &out]).contains("2 networks"));
    let (procrustes, distance) =
        (json(&fill("procrustes")), networks.with(&["compare", a, b, "--measure", "procrustes"]));
    assert!((score(&procrustes) - (1.0 - number(&json(&distance)["value"]) / 2.0)).abs() < 1e-6, "{procrustes}");

    refused(&["matrix", "fill", &run, "--measure", "dcor"], &["--data"]);
    refused(&["matrix", "fill", &run, "--measure", "pdcor"], &["third set", "netkin compare"]);
    // What has gone from the run is said, and not left out.
    let list = Path::new(&run).join("images.csv");
    let whole = std::fs::read_to_string(&list).unwrap();
    let cut: String = whole.lines().take(8).map(|line| format!("{line}\n")).collect();
    std::fs::write(&list, cut).unwrap();
    refused(&fill("dcor"), &["images.csv is damaged", "lists 7 images", "run.json says 12"]);
    std::fs::write(&list, whole).unwrap();
    let models = Path::new(&run).join("models");
    let is_of_vit = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("demo_vit_patch7");
    let record = std::fs::read_dir(models).unwrap().flatten().find(is_of_vit).unwrap().path();
    let text_of_record = std::fs::read(&record).unwrap();
    std::fs::write(&record, "{").unwrap();
    refused(&fill("dcor"), &["demo_vit_patch7", "is damaged", "`netkin sat`"]);
    std::fs::remove_file(&record).unwrap();
    refused(&fill("dcor"), &["demo_vit_patch7", "no record", "netkin sat"]);
    std::fs::write(&record, text_of_record).unwrap();
    let other = networks.scratch.weights("demo_resnet", 3);
    let mut arguments = fill("dcor");
    arguments[8] = &other;
    refused(&arguments, &["demo_resnet", "other weights"]);
}

/// What `matrix fill` and `layers` leave in a run is on its page, and so is what they printed elsewhere.
#[test]
fn the_report_of_a_run_shows_other_measures_and_layers() {
    let scratch = Scratch::new();
    let first = scratch.weights("demo_resnet", 3);
    let (folder, labels) = scratch.images(24, |_| 0);
    let predictions = common::predictions(&first, &folder, &labels);
    scratch.images(24, |index| predictions[index]);
    let others = [1, 2].map(|seed| scratch.perturbed(&first, seed));
    let models = [first.as_str(), others[0].as_str(), others[1].as_str()];
    let run = scratch.path("run").display().to_string();
    let [folder, labels] = [folder, labels].map(|path| path.display().to_string());
    let data = ["--data", folder.as_str(), "--labels", labels.as_str()];
    let sat = [&["sat"][..], &models[..], &["--steps", "2", "--run", &run], &data[..]].concat();
    netkin().args(&sat).assert().success();
    let page = scratch.path("report.html");
    let report = |more: &[&str]| -> String {
        let mut command = netkin();
        command.args(["report", &run, "--out"]).arg(&page).args(more).assert().success();
        std::fs::read_to_string(&page).unwrap()
    };
    assert!(!report(&[]).contains("measures-section"));

    let given: Vec<&str> = models.iter().flat_map(|model| ["--model", model]).collect();
    for measure in ["cka-linear", "disagreement"] {
        let fill = [&["matrix", "fill", &run, "--measure", measure, "--data", &folder][..], &given[..]].concat();
        netkin().args(&fill).assert().success();
    }
    let two = ["layers", models[0], models[1], "--mini-batch", "8", "--run", &run];
    let document = json(&[&two[..], &data[..]].concat());
    let figures = scratch.path("figures").display().to_string();
    let html = report(&["--figures", &figures]);
    for part in [
        "measure-1-cka_linear",
        "measure-2-disagreement",
        "layers-1",
        "Mantel",
        "turned round",
        "24 of the run&#39;s images",
    ] {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(html.matches("id=\"measure-").count(), 2, "each once");
    for figure in ["measure-1-cka_linear.svg", "measure-2-disagreement.svg", "layers-1.svg"] {
        assert!(Path::new(&figures).join(figure).is_file(), "{figure}");
    }
    // The same twice is kept once.
    json(&[&two[..], &data[..]].concat());
    assert_eq!(report(&[]).matches("id=\"layers-2").count(), 0);

    // From files: what `layers` and `matrix fill` printed.
    let path = |name: &str, text: &str| -> String {
        let path = scratch.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let of_file = path("map.json", &document.to_string());
    let csv = path("of-one.csv", &text(&[&["layers", models[0], "--csv"][..], &data[..]].concat()));
    let score = path(
        "other.csv",
        ",demo_resnet,demo_resnet.1,demo_resnet.2\ndemo_resnet,1,2,3\ndemo_resnet.1,2,1,4\ndemo_resnet.2,3,4,1\n",
    );
    let html = report(&["--layers", &of_file, "--layers", &csv, "--measure", &score]);
    for part in ["layers-3", "of-one", "measure-3-other"] {
        assert!(html.contains(part), "{part}");
    }
    // Of the run's first images; and what is of other networks is said, where it was asked for.
    let some = ["layers", models[0], "--limit", "12", "--mini-batch", "6", "--run", &run];
    json(&[&some[..], &data[..]].concat());
    let html = report(&[]);
    assert!(html.contains("12 of the run&#39;s images") && !html.contains("not the run&#39;s"), "{html}");
    let elsewhere = path("elsewhere.csv", ",x,y\nx,1,0\ny,0,1\n");
    let mut command = netkin();
    let output = command.args(["report", &run, "--measure", &elsewhere, "--out"]).arg(&page).assert().code(1);
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(said.contains("elsewhere is not shown") && said.contains("demo_resnet"), "{said}");
    refused(&["report", &run, "--layers", &path("not.json", "{}")], &["not.json", "netkin layers --json"]);
    let beyond = path("beyond.csv", ",x,y\nx,1,7.9\ny,7.9,1\n");
    refused(&["report", &run, "--layers", &beyond], &["beyond.csv", "7.9", "netkin layers --csv"]);
    refused(&["report", &run, "--layers", "/nonexistent/x.csv"], &["/nonexistent/x.csv"]);
    refused(&["report", &run, "--measure", "/nonexistent/x.csv"], &["/nonexistent/x.csv"]);
}

#[test]
fn bad_features_are_refused() {
    let scratch = Scratch::new();
    let x = npy(&scratch, "x.npy", &noise(1, 40), 10);
    let compare = |y: &str, parts: &[&str]| refused(&["compare", &x, y], parts);
    compare(&npy(&scratch, "constant.npy", &[2.5; 40], 10), &["constant.npy", "does not tell the images apart"]);
    compare(&npy(&scratch, "other.npy", &noise(2, 40), 20), &["10", "20", "same images in the same order"]);
    let mut values = noise(2, 40);
    values[13] = f32::NAN;
    compare(&npy(&scratch, "nan.npy", &values, 10), &["nan.npy", "NaN", "image 3", "feature 1"]);
    compare("/nonexistent/y.npy", &["/nonexistent/y.npy", "check the path"]);
    std::fs::write(scratch.path("broken.npy"), "something else").unwrap();
    compare(scratch.path("broken.npy").to_str().unwrap(), &["broken.npy", "numpy.save"]);
    let two = safetensors(&scratch, "two.safetensors", &[("a", &noise(1, 40)), ("b", &noise(2, 40))], 10);
    compare(&two, &["two.safetensors", "a, b", "--layer"]);
    let few = npy(&scratch, "few.npy", &noise(1, 9), 3);
    refused(&["compare", &few, &few], &["3 images", "at least 4"]);
    for width in ["0", "1e-5", "1e300"] {
        refused(&["compare", &few, &few, "--measure", "cka-rbf-biased", "--bandwidth", width], &["from 0.01 to 100"]);
    }
    let narrow = ["compare", &x, &x, "--measure", "cka-rbf", "--bandwidth", "0.01"];
    refused(&narrow, &["x.npy", "--bandwidth 0.01", "nearer to 1"]);
    refused(&["compare", &x, &x, "--mini-batch", "2"], &["2 images", "at least 4"]);
    refused(&["compare", &x, &x, "--measure", "procrustes", "--mini-batch", "5"], &["--mini-batch"]);
    refused(&["compare", &x, &x, "--measure", "pdcor"], &["--given"]);
    refused(&["compare", &x, &x, "--given", &few], &["--given", "pdcor"]);
    for other in ["x.csv", "x.npz", "x.pt"] {
        refused(&["compare", &x, other], &[other, ".npy", ".safetensors"]);
    }
    refused(&["compare", &x, "demo_resnet"], &["demo_resnet", "--data"]);
    refused(&["compare", &x, &x, "--measure", "dcorr"], &["dcorr", "dcor"]);
    refused(&["compare", &x, &x, "--limit", "3"], &["--limit is of images", "give --data"]);
    refused(&["compare", &x, &x, "--strict"], &["--strict is of images", "give --data"]);
    refused(&["compare", &x, &x, "--mini-batch", "11"], &["--mini-batch 11", "10 images"]);
}

#[test]
fn a_layer_that_is_not_there_brings_its_neighbours() {
    let networks = Networks::new(5);
    let (a, b) = (networks.a.as_str(), networks.b.as_str());
    refused(
        &networks.with(&["compare", a, b, "--layer", "layer2_0"]),
        &[
            "demo_resnet",
            "layer2_0",
            "did you mean layer2.0",
            "--layer takes act1, ",
            "layer1.0, ",
            "pooled and logits",
        ],
    );
}

/// An image that cannot be decoded is left out for both networks, and said once.
#[test]
fn images_that_cannot_be_decoded_are_left_out() {
    let networks = Networks::new(6);
    std::fs::write(Path::new(&networks.data[1]).join("02.png"), b"\x89PNG\r\n\x1a\n and then nothing").unwrap();
    for command in ["compare", "layers"] {
        let arguments = networks.with(&[command, &networks.a, &networks.b, "--json"]);
        let output = netkin().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.matches("1 image(s) skipped").count()), (Some(1), 1), "{said}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&document["images"], &document["data"]["skipped"][0]), (&5.into(), &"02.png".into()));
        let strict = networks.with(&[command, &networks.a, &networks.b, "--strict"]);
        refused(&strict, &["02.png"]);
    }
}
