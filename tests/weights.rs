//! `netkin weights`, sets of models, and other image sizes.

mod common;

use std::fs;

use common::{Scratch, netkin, path_of, rewrite};
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
fn weights_that_cannot_be_computed_with_are_found() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    rewrite(path_of(&spec), |name, values| {
        if name == "fc.bias" || name.starts_with("layer1.0.bn") {
            values[0] = f32::NAN;
        }
    });
    netkin()
        .args(["weights", "check", &spec])
        .assert()
        .code(1)
        .stdout(contains("tensors with NaN or infinity, 9 in all: layer1.0.bn1"))
        .stdout(contains(" and 4 more"));
    let found = document(netkin().args(["weights", "check", &spec, "--json"]), 1);
    assert_eq!(found["not_finite"].as_array().unwrap().len(), 9);
    assert_eq!(found["not_finite"][8], "fc.bias");
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
    // Of a set, the weights that it names; those of a name without a tag, all.
    let listed = document(netkin().args(["weights", "list", "@paper69", "--json"]), 0);
    assert_eq!(listed["weights"].as_array().unwrap().len(), 69);
    assert_eq!(listed["weights"][0]["name"], "nfnet_l0");
    let listed = document(netkin().args(["weights", "list", "resnet50.a1_in1k", "gluon_resnet101_v1c", "--json"]), 0);
    assert_eq!(listed["weights"].as_array().unwrap().len(), 2);
    assert_eq!(listed["weights"][1]["name"], "resnet101c");
    netkin().args(["weights", "list", "@demo"]).assert().success().stderr(contains("inside the program"));
}

#[test]
fn a_tag_that_does_not_exist_is_never_the_default() {
    for command in [&["info"][..], &["weights", "path"], &["weights", "list"], &["models"]] {
        let code = if command == ["weights", "path"] { 1 } else { 2 };
        netkin()
            .args(command)
            .arg("resnet50.a1_in1")
            .assert()
            .code(code)
            .stderr(contains("did you mean a1_in1k"))
            .stderr(contains("tv_in1k"));
    }
    // Unless a file is given, whose tag is anyone's.
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1).replace("demo_resnet=", "demo_resnet.mine=");
    netkin().args(["info", &spec]).assert().success();
}

#[test]
fn networks_are_listed_once_with_the_weights_of_their_set() {
    let names = |arguments: &[&str]| -> Vec<String> {
        let listed = document(netkin().arg("models").args(arguments).arg("--json"), 0);
        let name = |model: &Value| match model["tag"].as_str() {
            Some(tag) => format!("{}.{tag}", model["name"].as_str().unwrap()),
            None => model["name"].as_str().unwrap().to_owned(),
        };
        listed["models"].as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(names(&["demo_resnet", "demo_resn*", "demo_resnet"]), ["demo_resnet", "demo_resnext"]);
    assert_eq!(names(&["gluon_resnet101_v1c"]), ["resnet101c"]);
    let paper = names(&["@paper69"]);
    assert!(paper.len() == 69 && paper.contains(&"convnext_tiny.fb_in1k".into()), "{paper:?}");
    netkin().args(["models", "@paper69"]).assert().success().stdout(contains("convnext_tiny.fb_in1k"));
    let scratch = Scratch::new();
    let set = scratch.path("models.txt");
    fs::write(&set, "@demo\nresnetv2_50x1_bitm # of 2022\n").unwrap();
    let set = format!("@{}", set.display());
    let mine = names(&[set.as_str()]);
    assert_eq!((mine.len(), mine[10].as_str()), (11, "resnetv2_50x1_bit.goog_in21k_ft_in1k"));
}

#[test]
fn weights_that_are_elsewhere_are_named_one_by_one() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    // One is here; one is nowhere; one is in the program; one is on the hub, which may not be asked; one is in files only.
    netkin()
        .args(["weights", "path", &spec, "resnet18=/nonexistent.pth", "demo_resnet", "resnet18"])
        .arg("mobilenetv2_100.tv_in1k")
        .assert()
        .code(1)
        .stdout(contains(path_of(&spec).display().to_string()))
        .stderr(contains("there is no file /nonexistent.pth"))
        .stderr(contains("the weights of demo_resnet are inside the program"))
        .stderr(contains("`netkin weights fetch resnet18` brings it"))
        .stderr(contains("mobilenetv2_100.tv_in1k is on no hub"));
    netkin().args(["weights", "fetch", "resnet18"]).assert().code(1).stderr(contains("HF_HUB_OFFLINE forbids"));
    // What is in the program lacks nothing.
    for command in ["path", "fetch"] {
        let arguments = ["weights", command, "@demo"];
        netkin().args(arguments).assert().success().stdout("").stderr(contains("demo_vit_patch7 are inside"));
        let found = document(netkin().args(arguments).arg("--json"), 0);
        assert!(found.as_object().unwrap().len() == 10 && found["demo_resnet"].is_null());
    }
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
        .stderr(contains("give a height and a width that are multiples of 7"));
    eval(&scratch.weights("demo_vit_patch7", 1), "35x21").assert().success().stdout(contains(",35,"));
    eval(&scratch.weights("demo_resnet", 1), "100000")
        .assert()
        .code(2)
        .stderr(contains("does not take images of 100000 × 100000 pixels: give 1 to 2048"));
}
