//! `netkin attack`: every attack keeps its promises on the networks that netkin carries, and what is written can be judged again.

mod common;

use std::path::Path;

use common::{Scratch, netkin};
use netkin::images::{RgbImage, decode_file, save_png};
use serde_json::Value;

/// 8 images of noise with the labels that demo_vit_patch7 gives them, and the options that name them.
fn data(scratch: &Scratch) -> Vec<String> {
    data_of("demo_vit_patch7", scratch)
}

/// The same with the labels that another network gives them.
fn data_of(model: &str, scratch: &Scratch) -> Vec<String> {
    let (folder, labels) = scratch.images(8, |_| 0);
    let predictions = common::predictions(model, &folder, &labels);
    let (folder, labels) = scratch.images(8, |index| predictions[index]);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    vec!["--data".into(), text(&folder), "--labels".into(), text(&labels)]
}

fn attack(scratch: &Scratch, data: &[String], options: &[&str]) -> Value {
    attack_on("demo_vit_patch7", scratch, data, options)
}

fn attack_on(model: &str, scratch: &Scratch, data: &[String], options: &[&str]) -> Value {
    let mut command = netkin();
    command.args(["--json", "attack", model]).args(data).args(options);
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
            assert!(row["iterations"].parse::<u32>().unwrap() > 0, "{name}");
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
        assert_eq!(changed_patches(&scratch, index, 7).len(), 1, "one of 16 patches");
    }
}

/// The patches of an image of 28 pixels of which any pixel is another after an attack.
fn changed_patches(scratch: &Scratch, index: usize, side: usize) -> std::collections::BTreeSet<usize> {
    let name = format!("{index:02}.png");
    let [before, after] =
        ["images", "out/images"].map(|folder| decode_file(&scratch.path(folder).join(&name)).unwrap());
    let pairs = before.data().chunks_exact(3).zip(after.data().chunks_exact(3)).enumerate();
    pairs
        .filter(|(_, (before, after))| before != after)
        .map(|(place, _)| place / 28 / side * (28 / side) + place % 28 / side)
        .collect()
}

/// The patch was chosen where nothing may change, and nothing changed.
#[test]
fn patchfool_chooses_among_the_patches_that_the_mask_leaves() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let mask = scratch.path("mask.png");
    for (side, model) in [(7, "demo_vit_patch7"), (14, "demo_resnet")] {
        // One patch along the lower edge.
        let white =
            |place: usize| if place / 28 >= 28 - side && (side..2 * side).contains(&(place % 28)) { 255 } else { 0 };
        let pixels = (0..3 * 28 * 28).map(|value| white(value / 3)).collect();
        save_png(&mask, &RgbImage::new(28, 28, pixels)).unwrap();
        let size = side.to_string();
        let options = ["--attack", "patchfool", "--steps", "3", "--patch-size", &size, "--mask"];
        attack_on(model, &scratch, &data, &[&options[..], &[mask.to_str().unwrap()]].concat());
        let only = [(28 / side - 1) * (28 / side) + 1].into();
        for index in 0..8 {
            assert_eq!(changed_patches(&scratch, index, side), only, "{model}, image {index}");
        }
    }
}

/// Only the labels and the folder of the images were looked after.
#[test]
fn nothing_that_an_attack_reads_is_written_over() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let refused = |options: &[&str], said: &str| {
        let mut command = netkin();
        let output = command.arg("attack").args(options).args(&data).args(["--attack", "fgsm"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{options:?}: {stderr}");
    };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let out = scratch.path("out");
    std::fs::create_dir_all(out.join("images")).unwrap();
    let weights = scratch.weights("demo_resnet", 1);
    let weights = Path::new(weights.split_once('=').unwrap().1).to_owned();
    std::fs::copy(&weights, out.join("adversarial.safetensors")).unwrap();
    let model = format!("demo_resnet={}", text(&out.join("adversarial.safetensors")));
    refused(&[&model, "--out", &text(&out)], "would write over");
    refused(&["demo_mixer", "--evaluate", &model, "--out", &text(&out)], "would write over");
    let mask = out.join("images/mask.png");
    save_png(&mask, &RgbImage::new(28, 28, vec![255; 3 * 28 * 28])).unwrap();
    refused(&["demo_mixer", "--mask", &text(&mask), "--out", &text(&out)], "would write over");
    #[cfg(unix)]
    {
        let link = scratch.path("link");
        std::os::unix::fs::symlink(&out, &link).unwrap();
        refused(&["demo_mixer", "--mask", &text(&mask), "--out", &text(&link)], "would write over");
    }
    assert!(
        mask.exists() && std::fs::read(out.join("adversarial.safetensors")).unwrap() == std::fs::read(weights).unwrap()
    );

    let classes = scratch.path("classes");
    std::fs::create_dir_all(classes.join("0")).unwrap();
    std::fs::copy(scratch.path("images/00.png"), classes.join("0/00.png")).unwrap();
    let [data, out] = [text(&classes), text(&classes.join("new/out"))];
    let output = netkin().args(["attack", "demo_mixer", "--data", &data, "--out", &out]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains("whose folders are classes"), "{stderr}");
}

/// An attack that stopped left the tables of an earlier one beside its own images.
#[test]
fn an_attack_that_stops_leaves_no_table_of_an_earlier_one() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    attack(&scratch, &data, &["--attack", "fgsm"]);
    std::fs::write(scratch.path("images/07.png"), "no image").unwrap();
    let mut command = netkin();
    command.args(["attack", "demo_mixer", "--attack", "fgsm", "--batch", "1", "--strict"]).args(&data);
    let output = command.arg("--out").arg(scratch.path("out")).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let mut left: Vec<_> =
        std::fs::read_dir(scratch.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["attack.json", "images"]);
}

/// Images of 28 pixels had one patch of 16 in networks without attention, always the same one, whatever was asked for.
#[test]
fn patchfool_changes_as_many_patches_of_small_images_as_are_asked_for() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let patchfool = ["--attack", "patchfool", "--steps", "3", "--patches"];
    let doubts = |document: &Value| -> Vec<String> {
        let doubts = document["doubts"].as_array().unwrap().iter();
        doubts.map(|doubt| doubt["doubt"].as_str().unwrap().to_owned()).collect()
    };
    for (model, side) in [("demo_resnet", 7), ("demo_mixer", 7), ("demo_vit_patch4", 4), ("demo_vit_patch7", 7)] {
        let document = attack_on(model, &scratch, &data, &[&patchfool[..], &["3"]].concat());
        let mut chosen = std::collections::BTreeSet::new();
        for index in 0..8 {
            let patches = changed_patches(&scratch, index, side);
            assert_eq!(patches.len(), 3, "{model}, image {index}");
            chosen.insert(patches);
        }
        assert!(chosen.len() > 1 || model != "demo_resnet", "images have patches of their own");
        let said = doubts(&document);
        assert_eq!(said.contains(&"no-attention".to_owned()), !model.starts_with("demo_vit"), "{said:?}");
        assert!(!said.contains(&"every-patch".to_owned()), "{said:?}");
        let whole = attack_on(model, &scratch, &data, &[&patchfool[..], &["100"]].concat());
        assert!(doubts(&whole).contains(&"every-patch".to_owned()), "{model}: {whole}");
        assert_eq!(changed_patches(&scratch, 0, side).len(), (28 / side) * (28 / side), "{model}");
    }
    // A network with patches of its own says that it keeps to them, unless they are those that were asked for.
    let own = |size: &str| {
        let options = [&patchfool[..], &["1", "--patch-size", size]].concat();
        doubts(&attack_on("demo_vit_patch4", &scratch, &data, &options)).contains(&"own-patches".to_owned())
    };
    assert!(own("7") && !own("4"));
    attack_on("demo_resnet", &scratch, &data, &[&patchfool[..], &["1", "--patch-size", "14"]].concat());
    assert_eq!(changed_patches(&scratch, 0, 14).len(), 1);
    assert_eq!(changed_patches(&scratch, 0, 7).len(), 4, "four quarters of a larger patch");
}

/// What each part of AutoAttack leaves is told, as the authors' log tells it, and adds up to what the whole does.
#[test]
fn the_parts_of_autoattack_are_told() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let options = ["--attack", "autoattack", "--eps", "0.004", "--steps", "5", "--queries", "20"];
    let document = attack(&scratch, &data, &options);
    let parts = document["parts"].as_array().unwrap();
    let names: Vec<&str> = parts.iter().map(|part| part["attack"].as_str().unwrap()).collect();
    assert_eq!(names, ["apgd-ce", "apgd-t", "fab-t", "square"]);
    let rows = rows(&scratch.path("out/attack.csv"));
    let mut standing = 8;
    for part in parts {
        let fooled = rows.iter().filter(|row| row["fooled_by"] == part["attack"].as_str().unwrap()).count();
        assert_eq!(part["fooled"], fooled);
        standing -= fooled;
        assert_eq!(part["robust_accuracy"], 100.0 * standing as f64 / 8.0);
    }
    assert_eq!(document["robust_accuracy"], parts[3]["robust_accuracy"]);
    assert_eq!(rows.iter().filter(|row| row["fooled_by"].is_empty()).count(), standing);
    let mut command = netkin();
    command.args(["attack", "demo_vit_patch7"]).args(&data).args(options).arg("--out").arg(scratch.path("out"));
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(said.contains("robust accuracy after fab-t    "), "{said}");
    let plain = attack(&scratch, &data, &["--steps", "1"]);
    assert_eq!(plain["parts"], Value::Null, "an attack of one piece has none");
}

#[test]
fn targets_masks_several_eps_surrogates_and_judges() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let documents = attack(&scratch, &data, &["--steps", "3", "--eps", "4/255,64/255", "--step-size", "16/255"]);
    let [small, large] = documents.as_array().unwrap().as_slice() else { panic!("two radii") };
    assert!(small["fooled_8bit"].as_u64() <= large["fooled_8bit"].as_u64());
    assert!(scratch.path("out/eps-4_255/attack.csv").exists());

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
    assert_eq!((&member["attacked"], &other["attacked"]), (&true.into(), &false.into()));
}

/// Of a matrix those are taken that are least like the attacked network and each other, and that are no judges.
#[test]
fn surrogates_are_chosen_by_a_matrix() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let matrix = scratch.path("matrix.csv");
    let names = ["demo_vit_patch7", "demo_vit_patch4", "demo_resnet", "demo_mixer"];
    let scores = ["4.6,3,1,2", "3,4.6,1,2", "1,1,4.6,1", "2,2,1,4.6"];
    let rows: String = names.iter().zip(scores).map(|(name, scores)| format!("{name},{scores}\n")).collect();
    std::fs::write(&matrix, format!(",{}\n{rows}", names.join(","))).unwrap();
    let from = ["--attack", "fgsm", "--surrogates-from", matrix.to_str().unwrap(), "--surrogates-count"];
    let surrogates = |options: &[&str]| attack(&scratch, &data, &[&from[..], options].concat())["surrogates"].clone();
    assert_eq!(surrogates(&["1"]), serde_json::json!(["demo_resnet"]));
    assert_eq!(surrogates(&["2"]), serde_json::json!(["demo_resnet", "demo_mixer"]));
    assert_eq!(surrogates(&["1", "--evaluate", "demo_resnet"]), serde_json::json!(["demo_mixer"]));
    let mut command = netkin();
    command.args(["attack", "demo_vit_patch7"]).args(&data).args(from).arg("4").arg("--out").arg(scratch.path("out"));
    let said = common::refusal(&mut command, 2);
    assert!(said.contains("3 network(s)") && said.contains("--surrogates-count asks for 4"), "{said}");
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

/// Whatever part of the data set was attacked: the folder brings its own labels.
#[test]
fn a_part_of_the_data_set_is_judged_again_by_the_labels_beside_it() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let document = attack(&scratch, &data, &["--steps", "5", "--limit", "3"]);
    let mut command = netkin();
    command.args(["--json", "eval", "demo_vit_patch7", "--crop", "whole", "--data"]).arg(scratch.path("out/images"));
    let output = command.arg("--labels").arg(scratch.path("out/labels.csv")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let judged: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(judged["results"][0]["images"], 3);
    let right = judged["results"][0]["correct"].as_u64().unwrap();
    assert_eq!(3 - right, document["fooled_8bit"].as_u64().unwrap());
}

/// To be taken for its own label is no success of an attack: such images stay as they are and count in nothing.
#[test]
fn images_whose_label_is_the_target_are_counted_apart() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let labels: Vec<String> =
        rows(&scratch.path("labels.csv")).into_iter().map(|mut row| row.remove("label").unwrap()).collect();
    let target = labels[1].as_str();
    let own = labels.iter().filter(|label| *label == target).count();
    let options = ["--steps", "3", "--target", target, "--evaluate", "demo_vit_patch7"];
    let document = attack(&scratch, &data, &options);
    assert_eq!((&document["images"], &document["target_is_label"]), (&8.into(), &own.into()));
    assert_eq!(document["correct"], 8 - own);
    let rows = rows(&scratch.path("out/attack.csv"));
    let reached = rows.iter().filter(|row| row["label"] != target && row["saved"] == target).count();
    assert_eq!(document["fooled_8bit"], reached);
    assert_eq!(document["evaluated"][0]["correct"], 8 - own);
    assert_eq!(document["evaluated"][0]["wrong"], reached);
    for row in rows.iter().filter(|row| row["label"] == target) {
        assert_eq!(row["linf"].parse::<f64>().unwrap(), 0.0);
    }
    let mut command = netkin();
    command.args(["attack", "demo_vit_patch7"]).args(&data).args(options).arg("--out").arg(scratch.path("out"));
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(said.contains(&format!("{own} image(s) have the target as their label")), "{said}");
}

/// Of several networks attacked as one, the first is asked whether it is fooled, by the whole and by the parts alike.
#[test]
fn parts_agree_with_the_whole_where_several_networks_are_attacked() {
    let scratch = Scratch::new();
    let first = scratch.weights("demo_resnet", 3);
    let data = data_of(&first, &scratch);
    let other = scratch.perturbed(&first, 1);
    let options = ["--attack", "autoattack", "--eps", "0.1", "--steps", "3", "--queries", "10", "--surrogates", &other];
    let document = attack_on(&first, &scratch, &data, &options);
    let fooled = document["fooled_float"].as_u64().unwrap();
    assert!(fooled > 0, "{document}");
    let parts = document["parts"].as_array().unwrap();
    assert_eq!(parts.iter().map(|part| part["fooled"].as_u64().unwrap()).sum::<u64>(), fooled);
    assert_eq!(parts[3]["robust_accuracy"], document["robust_accuracy"]);
    let rows = rows(&scratch.path("out/attack.csv"));
    for row in &rows {
        assert_eq!(row["fooled_by"].is_empty(), row["float"] == row["label"], "{row:?}");
    }
}

/// What rounding undoes is said with both numbers.
#[test]
fn success_that_is_lost_on_saving_is_said() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let document = attack(&scratch, &data, &["--attack", "fab", "--steps", "30"]);
    let rows = rows(&scratch.path("out/attack.csv"));
    let lost = rows.iter().filter(|row| row["float"] != row["label"] && row["saved"] == row["label"]).count();
    assert!(lost > 0, "the nearest points are lost: {document}");
    let doubt = document["doubts"].as_array().unwrap().iter().find(|doubt| doubt["doubt"] == "lost-on-saving").unwrap();
    assert_eq!((&doubt["images"], &doubt["of"]), (&lost.into(), &document["fooled_float"]));
    let kept = attack(&scratch, &data, &["--steps", "5", "--eps", "32/255", "--step-size", "8/255"]);
    let said = kept["doubts"].to_string();
    assert!(!said.contains("lost-on-saving"), "{said}");
}

/// Within an eps of 0 the images stay as they are, to the byte.
#[test]
fn an_eps_of_0_is_an_attack_that_changes_nothing() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    for options in [&["--attack", "pgd"][..], &["--attack", "autoattack", "--norm", "l1"], &["--attack", "patchfool"]] {
        let document = attack(&scratch, &data, &[options, &["--eps", "0"]].concat());
        assert_eq!((&document["fooled_float"], &document["fooled_8bit"]), (&0.into(), &0.into()));
        assert_eq!(document["doubts"], serde_json::json!([]), "{options:?}");
        for index in 0..8 {
            let name = format!("{index:02}.png");
            let [before, after] =
                ["images", "out/images"].map(|folder| decode_file(&scratch.path(folder).join(&name)).unwrap());
            assert!(before == after, "{options:?}");
        }
    }
}

/// What would be believed and is not so: a judge that was attacked, one network attacked twice, labels that nothing is right by.
#[test]
fn what_misleads_is_said() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let said_of = |model: &str, options: &[&str]| {
        let mut command = netkin();
        command.args(["attack", model, "--attack", "fgsm"]).args(&data).args(options);
        let output = command.arg("--out").arg(scratch.path("out")).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        text
    };
    let said = |options: &[&str]| said_of("demo_vit_patch7", options);
    let both = said(&["--surrogates", "demo_resnet", "--evaluate", "demo_resnet", "demo_mixer"]);
    assert!(both.contains("demo_resnet of --evaluate is attacked itself") && !both.contains("demo_mixer of"), "{both}");
    let twice = said(&["--surrogates", "demo_vit_patch7", "demo_resnet"]);
    assert!(twice.contains("surrogate demo_vit_patch7") && twice.contains("counts once"), "{twice}");
    let document = attack(&scratch, &data, &["--attack", "fgsm", "--surrogates", "demo_vit_patch7"]);
    assert_eq!(document["surrogates"], Value::Null, "it is attacked alone");
    let table = said_of("demo_resnet", &["--protocol", "transferattack", "--input-size", "224", "--limit", "1"]);
    assert!(table.contains("not the published setting") && table.contains("resnet50 attacked alone"), "{table}");
    assert!(!table.contains("figures are left out"), "nobody is judged: {table}");
    // Labels that are all wrong.
    let labels = std::fs::read_to_string(scratch.path("labels.csv")).unwrap();
    let wrong = |line: &str| match line.rsplit_once(',') {
        Some((file, label)) if label != "label" => format!("{file},{}", (label.parse::<usize>().unwrap() + 1) % 10),
        _ => line.to_owned(),
    };
    let wrong: Vec<String> = labels.lines().map(wrong).collect();
    std::fs::write(scratch.path("labels.csv"), wrong.join("\n")).unwrap();
    let none = said(&[]);
    assert!(none.contains("none of the 8 images correctly") && none.contains("--label-offset"), "{none}");
    assert!(!none.contains("28 × 28"), "{none}");
}

/// What netkin says of an attack that goes well.
fn said(model: &str, scratch: &Scratch, data: &[String], options: &[&str]) -> [String; 2] {
    let mut command = netkin();
    command.args(["attack", model]).args(data).args(options);
    let output = command.arg("--out").arg(scratch.path("out")).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{options:?}: {stderr}");
    [stdout, stderr]
}

/// Settings of the protocol may be spelt out, and labels that no network is right by at its size are told from the size itself.
#[test]
fn the_protocols_own_settings_are_no_others() {
    let scratch = Scratch::new();
    let (folder, labels) = scratch.images(1, |_| 0);
    let data = |label: usize| -> Vec<String> {
        std::fs::write(&labels, format!("file,label\n00.png,{label}\n")).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec!["--data".into(), text(&folder), "--labels".into(), text(&labels)]
    };
    let options = ["--attack", "mi-fgsm", "--protocol", "transferattack"];
    let own = ["--eps", "16/255", "--step-size", "1.6/255", "--steps", "10", "--momentum", "1", "--no-random-start"];
    let of = |label: usize, more: &[&str]| said("demo_resnet", &scratch, &data(label), &[&options[..], more].concat());
    let [plain, hint] = of(0, &[]);
    assert_eq!(of(0, &own)[0], plain);
    // It takes the image for one class, so that one of two labels is wrong.
    let hints = hint + &of(1, &[])[1];
    assert!(hints.contains("224 × 224 pixels, which --protocol transferattack asks for"), "{hints}");
    assert!(hints.contains("its weights are for 28 × 28"), "{hints}");
    let smaller = ["--attack", "fgsm", "--input-size", "14"];
    let hints: String = [0, 1].map(|label| said("demo_resnet", &scratch, &data(label), &smaller)[1].clone()).concat();
    assert!(hints.contains("14 × 14 pixels, which --input-size asks for"), "{hints}");
}

/// Images of an earlier attack beside the new ones would be taken for some of these; and several radii are told as they were written.
#[test]
fn what_an_earlier_attack_left_is_said() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let said =
        |options: &[&str]| said("demo_vit_patch7", &scratch, &data, &[&["--attack", "fgsm"][..], options].concat());
    assert!(!said(&[])[1].contains("earlier attack"));
    assert!(!said(&[])[1].contains("earlier attack"), "all is written over");
    let left = &said(&["--limit", "3"])[1];
    assert!(left.contains("5 image(s) of an earlier attack") && left.contains("03.png"), "{left}");
    assert!(scratch.path("out/images/07.png").exists(), "nothing of it is deleted");
    let [text, beside] = said(&["--eps", "4/255,0.05"]);
    assert!(beside.contains("beside the folders"), "{beside}");
    assert!(text.contains("eps 4/255\n") && text.contains("eps 0.05\n"), "{text}");
}

/// Gradients that are estimated from less than is usual are worse ones.
#[test]
fn nes_says_that_it_has_few_queries() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    let said =
        |options: &[&str]| said("demo_vit_patch7", &scratch, &data, &[&["--attack", "nes"][..], options].concat());
    let few = &said(&["--queries", "20"])[1];
    assert!(few.contains("10 pair(s) of queries instead of 25"), "{few}");
    for options in [&["--queries", "50"][..], &["--queries", "20", "--pairs", "5"]] {
        assert!(!said(options)[1].contains("instead of 25"), "{options:?}");
    }
}

/// Each try of square has all the queries.
#[test]
fn the_queries_of_square_are_those_of_a_try() {
    let scratch = Scratch::new();
    let data = data(&scratch);
    for (restarts, most) in [("1", 1 + 6), ("3", 1 + 3 * 6)] {
        let options = ["--attack", "square", "--eps", "1e-6", "--queries", "5", "--restarts", restarts];
        attack(&scratch, &data, &options);
        for row in rows(&scratch.path("out/attack.csv")) {
            assert_eq!(row["queries"], most.to_string(), "{restarts}");
        }
    }
}
