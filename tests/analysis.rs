//! What the analyses of a matrix print, and how they refuse bad input.

mod common;

use std::time::{Duration, Instant};

use common::{Scratch, json, netkin, refusal, text};

/// The path of a CSV file with that text.
fn file(scratch: &Scratch, name: &str, text: &str) -> String {
    let path = scratch.path(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn the_published_matrix_is_described() {
    let document = json(&["matrix", "summary", "--published"]);
    assert_eq!((&document["networks"], &document["pairs"]), (&69.into(), &2346.into()));
    assert_eq!(format!("{:.6}", document["mean"].as_f64().unwrap()), "2.664887");
    let text = text(&["matrix", "summary", "--published", "--by", "Hierarchical structure"]);
    assert!(text.contains("arXiv 2210.11407") && text.contains("mean by Hierarchical structure"), "{text}");
}

#[test]
fn a_file_and_a_run_folder_are_read_alike() {
    let scratch = Scratch::new();
    let file = file(&scratch, "sat.csv", ",a,b,c\na,4,1,2\nb,1,4,3\nc,2,3,4\n");
    let folder = scratch.path("").display().to_string();
    let [file, folder] = [file, folder].map(|path| json(&["matrix", "summary", &path]));
    assert_eq!(file["mean"], folder["mean"]);
    assert_eq!(file["groups"], serde_json::json!([]));
}

#[test]
fn bad_matrices_are_refused() {
    let scratch = Scratch::new();
    let refused = |text: &str, parts: &[&str]| {
        let file = file(&scratch, "m.csv", text);
        let said = refusal(netkin().args(["matrix", "summary", &file]), 2);
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };
    refused(",a,b\na,1,2\nb,3,1\n", &["not symmetric", "--symmetrise"]);
    refused(",a,b\na,1,2\n", &["not square"]);
    refused(",a\na,1\n", &["at least two"]);
    refused(",a,b\na,1,NaN\nb,NaN,1\n", &["no score where a meets b", "--without"]);
    let file = file(&scratch, "m.csv", ",a,b\na,1,2\nb,3,1\n");
    assert_eq!(json(&["matrix", "summary", &file, "--symmetrise"])["mean"], 2.5);
    let said = refusal(netkin().args(["matrix", "summary", "/nonexistent/m.csv"]), 2);
    assert!(said.contains("/nonexistent/m.csv"), "{said}");
    let said = refusal(netkin().args(["matrix", "summary"]), 2);
    assert!(said.contains("--published") || said.contains("RUN|FILE"), "{said}");
    let said = refusal(netkin().args(["matrix", "summary", "--published", "--by", "Colour"]), 2);
    assert!(said.contains("\"Colour\"") && said.contains("Stem layer"), "{said}");
}

/// Every command that reads a matrix refuses what is none, and a folder in which a run has only begun.
#[test]
fn every_analysis_refuses_what_is_no_matrix() {
    let scratch = Scratch::new();
    let broken = file(&scratch, "m.csv", ",a,b\na,1,2\n");
    let folder = scratch.path("begun");
    let (images, labels) = scratch.images(3, |_| 0);
    let mut plan = netkin();
    plan.args(["plan", "demo_resnet", "demo_mixer", "--data"]).arg(images).arg("--labels").arg(labels);
    plan.arg("--run").arg(&folder).assert().success();
    let begun = folder.display().to_string();
    let out = scratch.path("report.html").display().to_string();
    let commands: [&[&str]; 5] =
        [&["matrix", "summary"], &["cluster"], &["importance"], &["nearest", "a"], &["report", "--out", &out]];
    for command in commands {
        let said = refusal(netkin().args(command).arg(&broken), 2);
        assert!(said.contains("not square"), "{command:?}: {said}");
        let said = refusal(netkin().args(command).arg(&begun), 2);
        assert!(said.contains("its run is unfinished"), "{command:?}: {said}");
    }
    for command in ["ensemble", "stability"] {
        let said = refusal(netkin().args([command, &begun]), 2);
        assert!(said.contains("2 of 2 units of work") && said.contains("are missing"), "{command}: {said}");
    }
}

#[test]
fn the_published_networks_are_clustered() {
    let document = json(&["cluster", "--published", "--seeds", "20"]);
    assert_eq!(document["labels"].as_array().unwrap().len(), 69);
    assert_eq!(document["keywords"].as_array().unwrap().len(), 10);
    assert_eq!(document["tsne"].as_array().unwrap().len(), 69);
    let text = text(&["cluster", "--published", "--k", "3", "--seeds", "5"]);
    assert!(text.contains("cluster 3\n") && !text.contains("cluster 4\n") && text.contains("stands out"), "{text}");
}

#[test]
fn networks_without_components_are_clustered_but_not_explained() {
    let scratch = Scratch::new();
    let matrix =
        file(&scratch, "m.csv", ",a,b,c,d,e\na,4,3,1,1,2\nb,3,4,1,1,1\nc,1,1,4,3,2\nd,1,1,3,4,1\ne,2,1,2,1,4\n");
    let document = json(&["cluster", &matrix, "--k", "2"]);
    assert!(document["keywords"].is_null() && document["labels"].as_array().unwrap().len() == 5);
    let said = refusal(netkin().args(["importance", &matrix]), 2);
    assert!(said.contains("no components of a, b, c, d, e") && said.contains("--components"), "{said}");
    let page = scratch.path("page.html");
    let mut report = netkin();
    refusal(report.args(["report", &matrix, "--k", "9", "--out"]).arg(&page), 2);
    assert!(!page.exists());
    let said = refusal(netkin().args(["cluster", &matrix, "--k", "9"]), 2);
    assert!(said.contains("5 networks") && said.contains("9 clusters"), "{said}");

    let table = file(&scratch, "t.csv", "name,Kind\na,x\nb,x\nc,y\nd,y\ne,x\n");
    let document = json(&["importance", &matrix, "--components", &table]);
    assert_eq!(document["components"][0]["component"], "Kind");
    let table = file(&scratch, "t.csv", "name,Kind\na,x\n");
    for command in ["cluster", "importance"] {
        let said = refusal(netkin().args([command, &matrix, "--components", &table]), 2);
        assert!(said.contains("no components of b, c, d, e"), "{said}");
    }
}

#[test]
fn the_published_components_are_ranked() {
    let document = json(&["importance", "--published"]);
    let components = document["components"].as_array().unwrap();
    assert_eq!((components.len(), &components[0]["component"]), (13, &"Base architecture".into()));
    assert!(document["r2_pairs_left_out"].as_f64().unwrap() >= 0.63);
    assert!(text(&["importance", "--published"]).contains("networks left out"));
}

#[test]
fn a_constant_matrix_is_refused() {
    let scratch = Scratch::new();
    let rows: String = (0..6).map(|row| format!("n{row},2,2,2,2,2,2\n")).collect();
    let matrix = file(&scratch, "m.csv", &format!(",n0,n1,n2,n3,n4,n5\n{rows}"));
    let said = refusal(netkin().args(["cluster", &matrix]), 2);
    assert!(said.contains("all scores"), "{said}");
}

#[test]
fn two_matrices_are_compared_by_their_common_names() {
    let scratch = Scratch::new();
    let one = file(&scratch, "one.csv", ",a,b,c,d\na,4,1,2,3\nb,1,4,3,2\nc,2,3,4,1\nd,3,2,1,4\n");
    let other = file(&scratch, "other.csv", ",c,b,a\nc,9,6,4\nb,6,9,2\na,4,2,9\n");
    let document = json(&["matrix", "compare", &one, &other]);
    assert!((document["pearson"]["correlation"].as_f64().unwrap() - 1.0).abs() < 1e-12);
    assert_eq!(document["left_out"], serde_json::json!(["d"]));
    assert!(text(&["matrix", "compare", &one, &other]).contains("Kendall's τ"));
    let strange = file(&scratch, "strange.csv", ",x,y\nx,4,1\ny,1,4\n");
    let said = refusal(netkin().args(["matrix", "compare", &one, &strange]), 2);
    assert!(said.contains("0 network(s) in common"), "{said}");
}

/// What the page says without a browser: every figure is there, and every name in the heat map.
#[test]
fn the_published_report_is_one_whole_page() {
    let scratch = Scratch::new();
    let (page, figures) = (scratch.path("report.html"), scratch.path("figures"));
    let start = Instant::now();
    let output =
        netkin().args(["report", "--published", "--out"]).arg(&page).arg("--figures").arg(&figures).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    for id in ["heat-map", "dendrogram", "map-tsne", "importance", "clusters", "provenance"] {
        assert!(html.contains(&format!("id=\"{id}\"")), "{id}");
    }
    assert_eq!(html.matches("class=\"row\"").count(), 69);
    assert_eq!(html.matches("class=\"mark\"").count(), 69);
    assert!(html.contains("arXiv 2210.11407") && html.contains("What is missing"));
    let mut files: Vec<_> = std::fs::read_dir(&figures).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["dendrogram.svg", "heat-map.svg", "importance.svg", "map-mds.svg", "map-tsne.svg"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 6);
}

/// A thousand networks with thirteen components each, in twelve groups.
#[test]
fn a_report_on_a_thousand_networks_takes_less_than_a_minute() {
    const NETWORKS: usize = 1000;
    let mut state = 1u64;
    let mut random = move |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let groups: Vec<u64> = (0..NETWORKS).map(|_| random(12)).collect();
    let mut scores = vec![4.6; NETWORKS * NETWORKS];
    for row in 0..NETWORKS {
        for column in 0..row {
            let score = 2.0 + if groups[row] == groups[column] { 0.8 } else { 0.0 } + random(1000) as f64 / 2000.0;
            (scores[row * NETWORKS + column], scores[column * NETWORKS + row]) = (score, score);
        }
    }
    let header: Vec<String> = (0..NETWORKS).map(|network| format!("n{network}")).collect();
    let mut matrix = format!(",{}\n", header.join(","));
    for (name, row) in header.iter().zip(scores.chunks_exact(NETWORKS)) {
        let row: Vec<String> = row.iter().map(|score| format!("{score:.6}")).collect();
        matrix += &format!("{name},{}\n", row.join(","));
    }
    let columns: Vec<String> = (0..13).map(|column| format!("c{column}")).collect();
    let mut table = format!("name,{}\n", columns.join(","));
    for name in &header {
        let values: Vec<String> = (0..13).map(|column| random(3 + column).to_string()).collect();
        table += &format!("{name},{}\n", values.join(","));
    }
    let scratch = Scratch::new();
    let (matrix, table) = (file(&scratch, "m.csv", &matrix), file(&scratch, "t.csv", &table));
    let start = Instant::now();
    let mut command = netkin();
    command.args(["report", &matrix, "--components", &table, "--out"]).arg(scratch.path("report.html"));
    command.assert().success();
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// What is on a PNG figure: most of it white, and every colour of the scale.
#[test]
fn figures_are_drawn_as_png() {
    let scratch = Scratch::new();
    let matrix = file(&scratch, "m.csv", ",a,b,c\na,4,1,2\nb,1,4,3\nc,2,3,4\n");
    let figures = scratch.path("figures");
    let mut command = netkin();
    command.args(["report", &matrix, "--format", "png", "--figures"]).arg(&figures).arg("--out");
    let output = command.arg(scratch.path("report.html")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("no fonts") {
        assert_eq!(output.status.code(), Some(2));
        eprintln!("skipped: this machine has no fonts");
        return;
    }
    assert!(output.status.success(), "{said}");
    let drawn = image::open(figures.join("heat-map.png")).unwrap().into_rgb8();
    let colours: std::collections::HashSet<[u8; 3]> = drawn.pixels().map(|pixel| pixel.0).collect();
    assert!(
        colours.contains(&[255, 255, 255])
            && colours.contains(&[0xff, 0xf7, 0xce])
            && colours.contains(&[0x3b, 0x0f, 0x63])
    );
    let said = refusal(netkin().args(["report", &matrix, "--format", "png"]), 2);
    assert!(said.contains("--figures"), "{said}");
}
