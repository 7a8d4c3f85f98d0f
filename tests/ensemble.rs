//! `netkin ensemble` on a run of its own.

mod common;

use common::{Scratch, netkin};
use serde_json::Value;

/// Three networks that nearly agree and 40 images, with the labels of the first for most; the run folder.
fn run(scratch: &Scratch, options: &[&str]) -> std::path::PathBuf {
    run_into(scratch, "run", options)
}

fn run_into(scratch: &Scratch, name: &str, options: &[&str]) -> std::path::PathBuf {
    let first = scratch.weights("demo_resnet", 3);
    let (folder, labels) = scratch.images(40, |_| 0);
    let predictions = common::predictions(&first, &folder, &labels);
    scratch.images(40, |index| if index % 5 == 0 { (predictions[index] + 1) % 10 } else { predictions[index] });
    let others = [1, 2].map(|seed| scratch.perturbed(&first, seed));
    let run = scratch.path(name);
    let mut command = netkin();
    command.arg("sat").arg(&first).args(&others).args(options);
    command
        .args(["--steps", "2", "--eps", "2/255", "--data"])
        .arg(&folder)
        .arg("--labels")
        .arg(&labels)
        .arg("--run")
        .arg(&run);
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
    refused(&["--sizes", "2..4"], "has 3 networks");
    let all = document(&run, &[]);
    assert_eq!(all["sizes"].as_array().unwrap().len(), 2, "pairs and all three");
    assert!(all["sizes"][0]["correlation"].is_null(), "nothing correlates with rounding");
    refused(&["--sizes", "2", "--add-to", "nobody"], "nobody is no network");
    refused(&["--max-params", "0"], "--max-params is 0, and demo_resnet has the fewest with 0.26 million");
    refused(&["--max-params", "1", "--max-gmacs", "0"], "--max-gmacs is 0");
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
    let html = std::fs::read_to_string(out.join("index.html")).unwrap();
    for part in ["measure-1-cka_linear", "measure-2-dcor", "layers-1", "demo_vit_patch4:blocks.0", "Mantel"] {
        assert!(html.contains(part), "{part}");
    }
    // Once more, with what is there.
    netkin().args(["demo", "--limit", "40", "--steps", "2", "--out"]).arg(&out).assert().success();
    let html = std::fs::read_to_string(out.join("index.html")).unwrap();
    assert_eq!((html.matches("id=\"measure-").count(), html.matches("id=\"layers-1").count()), (2, 1));
}

#[test]
fn the_stability_of_runs_is_told() {
    let scratch = Scratch::new();
    let runs = ["0", "1"].map(|seed| run_into(&scratch, &format!("run{seed}"), &["--seed", seed]));
    let output = netkin().args(["--json", "stability"]).args(&runs).args(["--width", "0.5"]).assert().success();
    let document: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let (halves, pair) = (document["runs"].as_array().unwrap(), &document["pairs"][0]);
    assert_eq!((&document["networks"], &document["images"], halves.len()), (&3.into(), &40.into(), 2));
    for number in [&halves[0]["halves"], &pair["agreement"]] {
        let largest = &number["largest_difference"];
        let [low, high] = [0, 1].map(|end| largest["interval"][end].as_f64().unwrap());
        assert!(
            low <= high
                && largest["estimate"].as_f64().unwrap() >= number["mean_difference"]["estimate"].as_f64().unwrap()
        );
    }
    for name in ["rank_correlation", "mean_difference", "largest_difference", "rand_index"] {
        let number = &pair["agreement"][name];
        if let (Some(estimate), Some(interval)) = (number["estimate"].as_f64(), number["interval"].as_array()) {
            let [low, high] = [0, 1].map(|end| interval[end].as_f64().unwrap());
            assert!(low <= estimate && estimate <= high, "{name}: {number}");
        }
    }
    let differ = pair["differ"].as_array().unwrap();
    assert!(differ.len() == 1 && differ[0].as_str().unwrap().contains("seed: 0 and 1"), "{differ:?}");
    assert!(halves[0]["needed"]["every"].as_u64() >= halves[0]["needed"]["half"].as_u64());

    let output = netkin().arg("stability").args(&runs).assert().success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(said.contains("halves of ") && said.contains("same clusters") && said.contains("seed: 0 and 1"), "{said}");
}

#[test]
fn runs_that_cannot_be_compared_are_refused() {
    let scratch = Scratch::new();
    let one = run(&scratch, &[]);
    let fewer = run_into(&scratch, "fewer", &["--limit", "30"]);
    let said = common::refusal(netkin().arg("stability").args([&one, &fewer]), 2);
    assert!(said.contains("other images (40 and 30"), "{said}");
    let said = common::refusal(netkin().arg("stability").arg(&one).args(["--k", "4"]), 2);
    assert!(said.contains("4 clusters"), "{said}");
    let said = common::refusal(netkin().arg("stability").arg(&one).args(["--width", "0"]), 2);
    assert!(said.contains("a width above 0"), "{said}");
    let said = common::refusal(netkin().args(["stability", "/nonexistent"]), 2);
    assert!(said.contains("/nonexistent"), "{said}");
}

/// What a run tells beyond its matrix: how clusters and importances hold over images, and how many of them are needed.
#[test]
fn analyses_of_a_run_have_intervals_over_images() {
    let scratch = Scratch::new();
    let run = run(&scratch, &["--plan", "0.5", "--json"]);
    let output = netkin().args(["--json", "cluster"]).arg(&run).args(["--k", "2"]).assert().success();
    let document: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let over = &document["over_images"];
    assert_eq!(over["membership"].as_array().unwrap().len(), 3);
    assert!(over["rand_index"]["estimate"].as_f64().unwrap() <= 1.0);
    let output = netkin().arg("cluster").arg(&run).args(["--k", "2"]).assert().success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(said.contains("% of halves of the images") && said.contains("random halves of the images:"), "{said}");

    let table = scratch.path("components.csv");
    std::fs::write(&table, "name,Seed,Kind\ndemo_resnet,0,a\ndemo_resnet.1,1,a\ndemo_resnet.2,1,b\n").unwrap();
    let mut command = netkin();
    command.args(["--json", "matrix", "summary", "--by", "Kind", "--components"]).arg(&table).arg(&run);
    let output = command.assert().success();
    let document: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let within = |estimate: &Value, interval: &Value| {
        let [low, high] = [0, 1].map(|end| interval[end].as_f64().unwrap());
        let estimate = estimate.as_f64().unwrap();
        assert!(low <= high && low - 0.5 < estimate && estimate < high + 0.5, "{low}, {estimate}, {high}");
    };
    within(&document["mean"], &document["intervals"]["mean"]);
    within(&document["median"], &document["intervals"]["median"]);
    within(&document["groups"][0]["mean"], &document["groups"][0]["interval"]);
    let output = netkin().args(["matrix", "summary"]).arg(&run).assert().success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(said.contains("  [") && said.contains("in brackets 95 % intervals over the run's images"), "{said}");
    let matrix = run.join("sat.csv");
    let output = netkin().args(["--json", "matrix", "summary"]).arg(&matrix).assert().success();
    let document: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert!(document["intervals"].is_null(), "a file says nothing of images");

    let output =
        netkin().args(["--json", "importance"]).arg(&run).args(["--folds", "2", "--components"]).arg(&table).assert();
    let document: Value = serde_json::from_slice(&output.success().get_output().stdout).unwrap();
    for found in document["components"].as_array().unwrap() {
        let [low, high] = [0, 1].map(|end| found["over_images"][end].as_f64().unwrap());
        assert!(low <= high, "{found}");
    }
}

/// The page of a run has what only its images tell.
#[test]
fn the_report_of_a_run_shows_ensembles_and_intervals() {
    let scratch = Scratch::new();
    let run = run(&scratch, &["--keep-logits"]);
    let (page, figures) = (scratch.path("report.html"), scratch.path("figures"));
    let mut command = netkin();
    command.arg("report").arg(&run).arg("--out").arg(&page).arg("--figures").arg(&figures).assert().success();
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("id=\"ensembles\"") && html.contains("id=\"ensembles-section\""), "the scatter is there");
    assert_eq!(html.matches("class=\"point\"").count(), 4, "three pairs and one of all three");
    assert!(!html.contains("Scores have no intervals") && html.contains("\"errors\":\""));
    assert!(
        html.contains("95 % interval over images")
            && html.contains("SHA-256")
            && html.contains("probabilities averaged")
    );
    assert!(figures.join("ensembles.svg").exists());

    let votes = run_into(&scratch, "votes", &[]);
    let mut command = netkin();
    command.arg("report").arg(&votes).arg("--out").arg(&page).assert().success();
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("the run kept no logits") && html.contains("majority votes"), "what is missing is said");
}
