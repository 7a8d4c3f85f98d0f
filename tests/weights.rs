//! `netkin weights`, sets of models, and other image sizes.

mod common;

use std::fs;

use common::{Scratch, netkin, path_of};
use predicates::str::contains;
use serde_json::Value;

fn document(command: &mut assert_cmd::Command, code: i32) -> Value {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_file_is_checked_against_a_network() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let found = document(netkin().args(["weights", "check", &spec, "--json"]), 0);
    assert_eq!(found["missing"], Value::Array(vec![]));
    assert_eq!(found["unused"], Value::Array(vec![]));
    assert_eq!(found["num_classes"], 10);
    assert!(found["applied"].as_u64().unwrap() > 20);

    let file = path_of(&spec).display().to_string();
    let other = document(netkin().args(["weights", "check", "demo_seresnet", "--weights", &file, "--json"]), 1);
    assert!(!other["missing"].as_array().unwrap().is_empty());
    assert_eq!(other["fits"], serde_json::json!(["demo_resnet"]));
    netkin()
        .args(["weights", "check", "demo_seresnet", "--weights", &file])
        .assert()
        .code(1)
        .stdout(contains("the file fits demo_resnet"));
}

#[test]
fn published_weights_are_listed() {
    netkin()
        .args(["weights", "list", "mobilenetv2_100"])
        .assert()
        .success()
        .stdout(contains("mobilenetv2_100,ra_in1k,true,1000,224x224,timm/mobilenetv2_100.ra_in1k,"))
        .stdout(contains("mobilenetv2_100,tv_in1k,false,1000,224x224,file,"));
    netkin()
        .args(["weights", "list", "nothing-like-it"])
        .assert()
        .code(1)
        .stderr(contains("no network's name matches"));
}

#[test]
fn weights_that_are_elsewhere_are_named_one_by_one() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    // One is here; one is in the program; one is on the hub, which may not be asked; one is in files only.
    netkin()
        .args(["weights", "path", &spec, "demo_resnet", "resnet18", "mobilenetv2_100.tv_in1k"])
        .assert()
        .code(1)
        .stdout(contains(path_of(&spec).display().to_string()))
        .stderr(contains("netkin carries no weights of demo_resnet"))
        .stderr(contains("`netkin weights fetch resnet18` brings it"))
        .stderr(contains("mobilenetv2_100.tv_in1k is on no hub"));
    netkin().args(["weights", "fetch", "resnet18"]).assert().code(1).stderr(contains("HF_HUB_OFFLINE forbids"));
    netkin().args(["eval", "mobilenetv2_100.tv_in1k", "--data", "/"]).assert().code(2);
}

#[test]
fn sets_stand_where_models_do() {
    let listed = document(netkin().args(["models", "@demo", "--json"]), 0);
    assert_eq!(listed["models"].as_array().unwrap().len(), 10);

    let scratch = Scratch::new();
    let (folder, labels) = scratch.images(4, |index| index);
    let set = scratch.path("models.txt");
    fs::write(
        &set,
        format!("{}\n{} # again\n", scratch.weights("demo_resnet", 1), scratch.weights("demo_vit_patch7", 2)),
    )
    .unwrap();
    let arguments = ["eval", &format!("@{}", set.display()), "--data"];
    netkin()
        .args(arguments)
        .arg(&folder)
        .arg("--labels")
        .arg(&labels)
        .assert()
        .success()
        .stdout(contains("demo_resnet,"))
        .stdout(contains("demo_vit_patch7,"));
    netkin().args(["eval", "@nowhere.txt", "--data", "."]).assert().code(2).stderr(contains("@paper69"));
}

#[test]
fn networks_run_at_other_sizes_where_they_can() {
    let scratch = Scratch::new();
    let (folder, labels) = scratch.images(2, |index| index);
    let eval = |spec: &str, size: &str| {
        let mut command = netkin();
        command.args(["eval", spec, "--input-size", size, "--data"]).arg(&folder).arg("--labels").arg(&labels);
        command
    };
    eval(&scratch.weights("demo_resnet", 1), "40x36").assert().success().stdout(contains(",40,"));
    eval(&scratch.weights("demo_mixer", 1), "56")
        .assert()
        .code(2)
        .stderr(contains("it is made for 28 × 28 and cannot be built for another size"));
    eval(&scratch.weights("demo_vit_patch7", 1), "30")
        .assert()
        .code(2)
        .stderr(contains("give a square whose side is a multiple of 7"));
}
