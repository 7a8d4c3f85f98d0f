//! `netkin attack`: every attack keeps its promises on the networks that netkin carries, and what is written can be judged again.

mod common;

use std::path::Path;

use common::{Scratch, netkin};
use netkin::images::{RgbImage, decode_file, save_png};
use serde_json::Value;

/// 8 images of noise with the labels that demo_vit_patch7 gives them, and the options that name them.
fn data(scratch: &Scratch) -> Vec<String> {
    let (folder, labels) = scratch.images(8, |_| 0);
    let predictions = common::predictions("demo_vit_patch7", &folder, &labels);
    let (folder, labels) = scratch.images(8, |index| predictions[index]);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    vec!["--data".into(), text(&folder), "--labels".into(), text(&labels)]
}

fn attack(scratch: &Scratch, data: &[String], options: &[&str]) -> Value {
    let mut command = netkin();
    command.args(["--json", "attack", "demo_vit_patch7"]).args(data).args(options);
    let output = command.arg("--out").arg(scratch.path("out")).output().unwrap();
    assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn rows(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row = |line: &str| {
        names.iter().zip(line.split(',')).map(|(name, cell)| ((*name).to_owned(), cell.to_owned())).collect()
    };
    lines.map(row).collect()
}

/// Each attack in short, with the largest distance that it may leave.
const ATTACKS: &[(&str, &[&str], &str, f64)] = &[
    ("fgsm", &[], "linf", 8.0 / 255.0),
    ("bim", &["--steps", "3"], "linf", 8.0 / 255.0),
    ("pgd", &["--steps", "3", "--restarts", "2"], "linf", 8.0 / 255.0),
    ("pgd", &["--steps", "3", "--norm", "l2", "--eps", "1.5"], "l2", 1.5),
    ("pgd", &["--steps", "3", "--norm", "l1", "--eps", "20"], "l1", 20.0),
    ("pgd", &["--steps", "3", "--loss", "margin"], "linf", 8.0 / 255.0),
    ("mi-fgsm", &["--steps", "3"], "linf", 8.0 / 255.0),
    ("ni-fgsm", &["--steps", "3"], "linf", 8.0 / 255.0),
    ("di-fgsm", &["--steps", "3"], "linf", 8.0 / 255.0),
    ("ti-fgsm", &["--steps", "3", "--translation", "5"], "linf", 8.0 / 255.0),
    ("si-fgsm", &["--steps", "2"], "linf", 8.0 / 255.0),
    ("si-ni-fgsm", &["--steps", "2", "--diversity", "1"], "linf", 8.0 / 255.0),
    ("vmi-fgsm", &["--steps", "2", "--variance", "3"], "linf", 8.0 / 255.0),
    ("vni-fgsm", &["--steps", "2", "--variance", "3"], "linf", 8.0 / 255.0),
    ("admix", &["--steps", "2"], "linf", 8.0 / 255.0),
    ("bsr", &["--steps", "2", "--shuffle", "3"], "linf", 8.0 / 255.0),
    ("pgn", &["--steps", "2", "--flat", "3"], "linf", 8.0 / 255.0),
    ("lf-pgd", &["--steps", "3"], "linf", 8.0 / 255.0),
    ("nes", &["--queries", "100"], "linf", 8.0 / 255.0),
    ("patchfool", &["--steps", "5"], "linf", 1.0),
    ("apgd-ce", &["--steps", "5"], "linf", 8.0 / 255.0),
    ("apgd-dlr", &["--steps", "5"], "linf", 8.0 / 255.0),
    ("apgd-t", &["--steps", "5"], "linf", 8.0 / 255.0),
    ("fab", &["--steps", "5"], "linf", 8.0 / 255.0),
    ("fab-t", &["--steps", "5"], "linf", 8.0 / 255.0),
    ("square", &["--queries", "50"], "linf", 8.0 / 255.0),
    ("autoattack", &["--steps", "5", "--queries", "20"], "linf", 8.0 / 255.0),
];

#[test]
fn every_attack_stays_in_its_ball_and_is_the_same_in_any_batch() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    for (name, options, norm, eps) in ATTACKS {
        let all = |batch: &str| {
            let options: Vec<&str> =
                ["--attack", name, "--batch", batch].into_iter().chain(options.iter().copied()).collect();
            let document = attack(&scratch, &data, &options);
            let rows = rows(&scratch.path("out/attack.csv"));
            let images = std::fs::read(scratch.path("out/adversarial.safetensors")).unwrap();
            (document, rows, images)
        };
        let (document, rows, images) = all("3");
        assert_eq!(document["attack"]["name"], *name);
        assert_eq!(document["correct"], 8, "{name}");
        for row in &rows {
            let distance: f64 = row[*norm].parse().unwrap();
            assert!(distance <= eps + 1e-9, "{name}: {distance}");
            assert!(row["queries"].parse::<u32>().unwrap() > 0, "{name}");
        }
        let fooled = rows.iter().filter(|row| row["saved"] != row["label"]).count();
        assert_eq!(document["fooled_8bit"], fooled);
        let (_, same_rows, same_images) = all("8");
        assert_eq!(rows, same_rows, "{name}");
        assert!(images == same_images, "{name}: other bytes in another batch");
    }
    // Every name is in the list above.
    let help = netkin().args(["attack", "--attack", "nothing"]).output().unwrap();
    let said = String::from_utf8_lossy(&help.stderr).into_owned();
    let names = said.split("possible values:").nth(1).unwrap().split(']').next().unwrap();
    assert!(names.split(',').all(|name| ATTACKS.iter().any(|(other, ..)| *other == name.trim())), "{names}");
}

#[test]
fn patchfool_attends_and_changes_one_patch() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let document = attack(&scratch, &data, &["--attack", "patchfool", "--steps", "30"]);
    assert_eq!(document["doubts"], serde_json::json!([]), "a ViT pays attention to patches");
    assert!(document["fooled_8bit"].as_u64().unwrap() > 0);
    for index in 0..8 {
        let name = format!("{index:02}.png");
        let [before, after] =
            ["images", "out/images"].map(|folder| decode_file(&scratch.path(folder).join(&name)).unwrap());
        let pairs = before.data().chunks_exact(3).zip(after.data().chunks_exact(3)).enumerate();
        let patches: std::collections::BTreeSet<usize> = pairs
            .filter(|(_, (before, after))| before != after)
            .map(|(place, _)| place / 28 / 7 * 4 + place % 28 / 7)
            .collect();
        assert_eq!(patches.len(), 1, "one of 16 patches");
    }
}

#[test]
fn targets_masks_several_eps_surrogates_and_judges() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let documents = attack(&scratch, &data, &["--steps", "3", "--eps", "4/255,64/255", "--step-size", "16/255"]);
    let [small, large] = documents.as_array().unwrap().as_slice() else { panic!("two radii") };
    assert!(small["fooled_8bit"].as_u64() <= large["fooled_8bit"].as_u64());
    assert!(scratch.path(&format!("out/eps-{}/attack.csv", 4.0 / 255.0)).exists());

    let targeted = ["--eps", "64/255", "--steps", "20", "--step-size", "8/255", "--target", "second-best"];
    attack(&scratch, &data, &targeted);
    let rows = rows(&scratch.path("out/attack.csv"));
    assert!(rows.iter().all(|row| row["target"] != row["label"]));
    assert!(rows.iter().filter(|row| row["saved"] == row["target"]).count() >= 6, "{rows:?}");

    // The left half may change.
    let half: Vec<u8> = (0..28 * 28).flat_map(|place| [if place % 28 < 14 { 255 } else { 0 }; 3]).collect();
    let mask = scratch.path("mask.png");
    save_png(&mask, &RgbImage::new(28, 28, half)).unwrap();
    attack(&scratch, &data, &["--steps", "3", "--mask", mask.to_str().unwrap()]);
    let [before, after] = ["images/00.png", "out/images/00.png"].map(|name| decode_file(&scratch.path(name)).unwrap());
    let changed = |place: &usize| before.data()[3 * place..][..3] != after.data()[3 * place..][..3];
    assert!((0..784).filter(changed).all(|place| place % 28 < 14));
    assert!((0..784).filter(changed).count() > 300);

    let document = attack(
        &scratch,
        &data,
        &[
            "--attack",
            "mi-fgsm",
            "--surrogates",
            "demo_resnet",
            "--average",
            "losses",
            "--evaluate",
            "demo_resnet",
            "demo_mixer",
        ],
    );
    assert_eq!(document["surrogates"], serde_json::json!(["demo_resnet"]));
    let [member, other] = document["evaluated"].as_array().unwrap().as_slice() else { panic!("two judges") };
    assert_eq!((&member["model"], &other["model"]), (&"demo_resnet".into(), &"demo_mixer".into()));
    assert!(member["fooled"].as_u64() <= member["correct"].as_u64());
}

/// What is saved is a data set like any other.
#[test]
fn saved_images_are_judged_again_alike() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let document = attack(&scratch, &data, &["--steps", "5"]);
    let mut command = netkin();
    command.args(["--json", "eval", "demo_vit_patch7", "--data"]).arg(scratch.path("out/images"));
    let output = command.arg("--labels").arg(scratch.path("labels.csv")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let judged: Value = serde_json::from_slice(&output.stdout).unwrap();
    let right = judged["results"][0]["correct"].as_u64().unwrap();
    assert_eq!(8 - right, document["fooled_8bit"].as_u64().unwrap());
}
