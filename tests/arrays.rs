//! Images that other programs saved in one file are judged by `eval`, `forward` and `sat` as images in a folder are.

mod common;

use std::path::{Path, PathBuf};

use common::{Scratch, json, netkin, refusal};
use safetensors::tensor::SafeTensors;
use serde_json::Value;

const MODEL: &str = "demo_vit_patch7";

/// A NumPy file.
fn npy(path: PathBuf, kind: &str, shape: &[usize], data: &[u8]) -> PathBuf {
    let shape: Vec<String> = shape.iter().map(|axis| format!("{axis},")).collect();
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}\n", shape.join(" "));
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Eight images, attacked, with the labels that the network gave them before, and what `netkin attack` says of it.
struct Attacked {
    scratch: Scratch,
    document: Value,
}

impl Attacked {
    fn new() -> Self {
        let scratch = Scratch::new();
        let (folder, labels) = scratch.images(8, |_| 0);
        let predictions = common::predictions(MODEL, &folder, &labels);
        let (folder, labels) = scratch.images(8, |index| predictions[index]);
        let out = scratch.path("out");
        let document = json(&[
            "attack",
            MODEL,
            "--data",
            text(&folder),
            "--labels",
            text(&labels),
            "--steps",
            "5",
            "--out",
            text(&out),
        ]);
        Self { scratch, document }
    }

    /// The bytes of a tensor of adversarial.safetensors.
    fn tensor(&self, name: &str) -> Vec<u8> {
        let bytes = std::fs::read(self.scratch.path("out/adversarial.safetensors")).unwrap();
        SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().data().to_vec()
    }

    /// The labels, one a row, without a header.
    fn table(&self) -> PathBuf {
        let labels = self.tensor("labels");
        let rows: String = labels.chunks_exact(8).map(|label| format!("{}\n", label[0])).collect();
        let path = self.scratch.path("table.csv");
        std::fs::write(&path, rows).unwrap();
        path
    }
}

fn correct(arguments: &[&str]) -> u64 {
    json(&[&["eval", MODEL], arguments].concat())["results"][0]["correct"].as_u64().unwrap()
}

#[test]
fn eval_judges_what_was_saved_as_it_is() {
    let attacked = Attacked::new();
    let [float, levels] = ["fooled_float", "fooled_8bit"].map(|key| attacked.document[key].as_u64().unwrap());
    let scratch = &attacked.scratch;
    // Pixels come before images there: they are between 8-bit levels.
    let saved = scratch.path("out/adversarial.safetensors");
    assert_eq!(correct(&["--data", text(&saved)]), 8 - float);

    // The same as another program may have it: double precision, colours last, labels in a table.
    let pixels = attacked.tensor("pixels");
    let value = |place: usize| f32::from_le_bytes(pixels[4 * place..][..4].try_into().unwrap());
    let plane = 28 * 28;
    let turned = (0..8 * plane).flat_map(|place| (0..3).map(move |channel| (place, channel)));
    let turned = turned.map(|(place, channel)| value((place / plane * 3 + channel) * plane + place % plane));
    let turned: Vec<u8> = turned.flat_map(|value| f64::from(value).to_le_bytes()).collect();
    let turned = npy(scratch.path("turned.npy"), "<f8", &[8, 28, 28, 3], &turned);
    let table = attacked.table();
    assert_eq!(correct(&["--data", text(&turned), "--labels", text(&table)]), 8 - float);
    assert!(correct(&["--data", text(&turned), "--labels", text(&table), "--limit", "1"]) <= 1);

    // 8-bit levels, in a file and in a folder.
    let images = npy(scratch.path("images.npy"), "|u1", &[8, 3, 28, 28], &attacked.tensor("images"));
    let numbers = npy(scratch.path("labels.npy"), "<i8", &[8], &attacked.tensor("labels"));
    assert_eq!(correct(&["--data", text(&images), "--labels", text(&numbers)]), 8 - levels);
    let (folder, labels) = (scratch.path("out/images"), scratch.path("labels.csv"));
    assert_eq!(correct(&["--data", text(&folder), "--labels", text(&labels), "--crop", "whole"]), 8 - levels);

    // A smaller image is resized as for transfer.
    let half = npy(scratch.path("half.npy"), "|u1", &[2, 3, 14, 14], &[77; 2 * 3 * 14 * 14]);
    let two = npy(scratch.path("two.npy"), "|u1", &[2], &[1, 2]);
    assert!(correct(&["--data", text(&half), "--labels", text(&two)]) <= 2);
}

#[test]
fn forward_reads_every_format() {
    let attacked = Attacked::new();
    let scratch = &attacked.scratch;
    let logits = |inputs: &Path, options: &[&str]| {
        let out = scratch.path("logits.safetensors");
        let mut command = netkin();
        command.args(["forward", MODEL, "--inputs", text(inputs), "--out", text(&out)]).args(options);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = std::fs::read(out).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut names = file.names();
        names.sort_unstable();
        names.into_iter().map(|name| file.tensor(name).unwrap().data().to_vec()).collect::<Vec<_>>()
    };
    let saved = logits(&scratch.path("out/adversarial.safetensors"), &[]);
    let npy = |name: &str, kind, data: &[u8]| npy(scratch.path(name), kind, &[8, 3, 28, 28], data);
    assert_eq!(logits(&npy("pixels.npy", "<f4", &attacked.tensor("pixels")), &["--batch", "3"]), saved);
    let levels = npy("images.npy", "|u1", &attacked.tensor("images"));
    let (folder, labels) = (scratch.path("out/images"), scratch.path("labels.csv"));
    assert_eq!(logits(&levels, &[]), logits(&folder, &["--labels", text(&labels)]));
    let table = attacked.table();
    let with_gradient = logits(&levels, &["--grad", "--labels", text(&table)]);
    assert_eq!(with_gradient, logits(&folder, &["--grad", "--labels", text(&labels)]));
    assert_eq!(with_gradient.len(), 2);
}

/// A run of the same images gives the same scores; only the images' names, from which random starts are drawn, differ.
#[test]
fn sat_takes_a_file_for_a_folder() {
    let attacked = Attacked::new();
    let scratch = &attacked.scratch;
    let images = npy(scratch.path("images.npy"), "|u1", &[8, 3, 28, 28], &attacked.tensor("images"));
    let table = attacked.table();
    let (folder, labels) = (scratch.path("out/images"), scratch.path("labels.csv"));
    let run = |data: &Path, labels: &Path, name: &str, options: &[&str]| {
        let run = scratch.path(name);
        let arguments = [
            "sat",
            MODEL,
            "demo_resnet",
            "--steps",
            "3",
            "--no-random-start",
            "--data",
            text(data),
            "--labels",
            text(labels),
            "--run",
            text(&run),
        ];
        let mut command = netkin();
        let output = command.arg("--json").args(arguments).args(options).output().unwrap();
        // A pair without common images falls short.
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let of_file = run(&images, &table, "of-file", &[]);
    let of_folder = run(&folder, &labels, "of-folder", &["--crop", "whole"]);
    assert_eq!(of_file["crop"], "whole");
    for part in ["pairs", "clean", "white_box"] {
        assert_eq!(of_file[part], of_folder[part], "{part}");
    }
    assert_eq!(run(&images, &table, "of-file", &[]), of_file, "a finished run is the same again");
    // Another file in its place is another data set.
    npy(scratch.path("images.npy"), "|u1", &[8, 3, 28, 28], &[99; 8 * 3 * 28 * 28]);
    let mut command = netkin();
    command.args(["sat", MODEL, "demo_resnet", "--steps", "3", "--no-random-start", "--data", text(&images)]);
    command.args(["--labels", text(&table), "--run", text(&scratch.path("of-file"))]);
    let said = refusal(&mut command, 2);
    assert!(said.contains("another content of 000000"), "{said}");
}

#[test]
fn what_cannot_be_judged_is_refused_with_a_sentence() {
    let scratch = Scratch::new();
    let table = scratch.path("table.csv");
    std::fs::write(&table, "1\n2\n").unwrap();
    let refused = |data: &Path, options: &[&str], parts: &[&str]| {
        let mut command = netkin();
        command.args(["eval", MODEL, "--data", text(data)]).args(options);
        let said = refusal(&mut command, 2);
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} not in: {said}");
    };
    let with_table = ["--labels", text(&table)];
    let pixels = |value: f32| -> Vec<u8> { (0..2 * 3 * 28 * 28).flat_map(|_| value.to_le_bytes()).collect() };
    let float = |value| npy(scratch.path("x.npy"), "<f4", &[2, 3, 28, 28], &pixels(value));
    refused(&float(2.0), &with_table, &["x.npy", "pixel of 2", "from 0 to 1"]);
    refused(&float(0.5), &[], &["x.npy", "--labels"]);
    std::fs::write(&table, "1\n2\n3\n").unwrap();
    refused(&float(0.5), &with_table, &["3 of them and 2 images"]);
    std::fs::write(&table, "1\n10\n").unwrap();
    refused(&float(0.5), &with_table, &["000001", "label 10"]);
    std::fs::write(&table, "1\n2\n").unwrap();
    let wide = npy(scratch.path("wide.npy"), "|u1", &[2, 3, 28, 56], &[0; 2 * 3 * 28 * 56]);
    refused(&wide, &with_table, &["28 × 56", "stretch"]);
    let other = scratch.path("other.npz");
    std::fs::write(&other, "nothing").unwrap();
    refused(&other, &with_table, &["other.npz", ".npy"]);
    let half = npy(scratch.path("short.npy"), "<f4", &[200, 3, 28, 28], &[0; 400]);
    refused(&half, &with_table, &["short.npy", "half written"]);

    // What lies between 8-bit levels is rounded by those who keep images, and they say so.
    let mut command = netkin();
    command.args(["attack", MODEL, "--steps", "1", "--data", text(&float(0.3)), "--labels", text(&table), "--out"]);
    let output = command.arg(scratch.path("out")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("no 8-bit levels"), "{said}");
    assert!(scratch.path("out/images/000001.png").exists());
}
