//! `netkin ensemble` on a run of its own.

mod common;

use common::{Scratch, netkin};
use serde_json::Value;

/// Three networks that nearly agree and 40 images, with the labels of the first for most; the run folder.
fn run(scratch: &Scratch, options: &[&str]) -> std::path::PathBuf {
    let first = scratch.weights("demo_resnet", 3);
    let (folder, labels) = scratch.images(40, |_| 0);
    let predictions = common::predictions(&first, &folder, &labels);
    scratch.images(40, |index| if index % 5 == 0 { (predictions[index] + 1) % 10 } else { predictions[index] });
    let others = [1, 2].map(|seed| scratch.perturbed(&first, seed));
    let run = scratch.path("run");
    let mut command = netkin();
    command.arg("sat").arg(&first).args(&others).args(options);
    command.args(["--steps", "2", "--data"]).arg(&folder).arg("--labels").arg(&labels).arg("--run").arg(&run);
    command.assert().success();
    run
}

fn document(run: &std::path::Path, options: &[&str]) -> Value {
    let output = netkin().args(["--json", "ensemble"]).arg(run).args(options).assert().success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

#[test]
fn the_numbers_of_ensembles_agree_with_those_of_the_run() {
    let scratch = Scratch::new();
    let run = run(&scratch, &["--keep-logits"]);
    let made = document(&run, &["--sizes", "2..3"]);
    assert_eq!((&made["average"], &made["images"]), (&"probabilities".into(), &40.into()));
    let sat: Value = serde_json::from_slice(&std::fs::read(run.join("sat.json")).unwrap()).unwrap();
    let names: Vec<&str> = made["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for (index, name) in names.iter().enumerate() {
        let wrong = 40.0 - sat["clean"][name].as_f64().unwrap();
        assert!((made["errors"][index].as_f64().unwrap() - wrong / 40.0).abs() < 1e-12, "{name}");
    }
    let pair = &made["sizes"][0]["ensembles"][1];
    assert_eq!(pair["members"], serde_json::json!([0, 2]));
    let listed = sat["pairs"].as_array().unwrap().iter().find(|pair| pair["a"] == names[0] && pair["b"] == names[2]);
    assert!((pair["sat"].as_f64().unwrap() - listed.unwrap()["sat"].as_f64().unwrap()).abs() < 1e-12);
    let mean = (made["errors"][0].as_f64().unwrap() + made["errors"][2].as_f64().unwrap()) / 2.0;
    assert!((pair["members_error"].as_f64().unwrap() - mean).abs() < 1e-12);
    let all = &made["sizes"][1]["ensembles"];
    assert_eq!(all.as_array().unwrap().len(), 1);
    assert!(all[0]["all_wrong"].as_f64().unwrap() <= pair["all_wrong"].as_f64().unwrap());
    assert_eq!(made["best"].as_array().unwrap().len(), 3);
}

#[test]
fn two_votes_are_no_better_than_one() {
    let scratch = Scratch::new();
    let run = run(&scratch, &[]);
    let made = document(&run, &["--sizes", "2"]);
    assert_eq!(made["average"], "votes", "nothing else was kept");
    for pair in made["sizes"][0]["ensembles"].as_array().unwrap() {
        assert!(pair["error_reduction"].as_f64().unwrap().abs() < 1e-6, "where two differ, a coin decides: {pair}");
    }
    let refused = |options: &[&str], part: &str| {
        let output = netkin().arg("ensemble").arg(&run).args(options).assert().code(2);
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(said.contains(part), "{said}");
    };
    refused(&["--sizes", "2", "--average", "logits"], "--keep-logits");
    refused(&[], "has 3 networks");
    refused(&["--sizes", "2", "--add-to", "nobody"], "nobody is no network");
}

#[test]
fn the_text_ranks_what_could_be_added() {
    let scratch = Scratch::new();
    let run = run(&scratch, &["--keep-logits"]);
    let mut command = netkin();
    command.arg("ensemble").arg(&run).args(["--sizes", "2", "--add-to", "demo_resnet", "--max-params", "1"]);
    let output = command.assert().success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(said.contains("3 networks, 40 images, probabilities averaged"), "{said}");
    assert!(said.contains("added to demo_resnet") && said.contains("demo_resnet.2"), "{said}");
}

#[test]
fn the_nearest_network_comes_first_with_its_evidence() {
    let scratch = Scratch::new();
    let run = run(&scratch, &[]);
    let output = netkin().args(["--json", "nearest", "demo_resnet"]).arg(&run).assert().success();
    let document: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let others = document["others"].as_array().unwrap();
    let sat = |index: usize| others[index]["sat"].as_f64().unwrap();
    assert!(others.len() == 2 && sat(0) >= sat(1));
    assert!(others[0]["p_value"].is_null() && others[1]["p_value"].as_f64().unwrap() > 0.0);
    let interval = &others[0]["sat_interval"];
    assert!((interval["estimate"].as_f64().unwrap() - sat(0)).abs() < 1e-8, "sat.csv has nine decimals");

    let output = netkin().args(["nearest", "resnet50", "--published"]).assert().success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(said.starts_with("resnet50 beside 68 networks"), "{said}");
    netkin().args(["nearest", "nobody", "--published"]).assert().code(2);
}

#[test]
fn the_run_of_the_demo_is_a_run_like_any_other() {
    let scratch = Scratch::new();
    let out = scratch.path("demo");
    netkin().args(["demo", "--limit", "40", "--steps", "2", "--out"]).arg(&out).assert().success();
    let output = netkin().args(["nearest", "demo_resnet"]).arg(out.join("run")).assert().success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(said.starts_with("demo_resnet beside 9 networks"), "{said}");
    assert_eq!(document(&out.join("run"), &["--sizes", "2"])["average"], "probabilities");
}
