//! What the analyses of a matrix print, and how they refuse bad input.

mod common;

use common::{Scratch, netkin, refusal};

fn json(arguments: &[&str]) -> serde_json::Value {
    let output = netkin().args(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(arguments: &[&str]) -> String {
    let output = netkin().args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

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
    let file = file(&scratch, "m.csv", ",a,b\na,1,2\nb,3,1\n");
    assert_eq!(json(&["matrix", "summary", &file, "--symmetrise"])["mean"], 2.5);
    let said = refusal(netkin().args(["matrix", "summary", "/nonexistent/m.csv"]), 2);
    assert!(said.contains("/nonexistent/m.csv"), "{said}");
    let said = refusal(netkin().args(["matrix", "summary"]), 2);
    assert!(said.contains("--published") || said.contains("RUN|FILE"), "{said}");
    let said = refusal(netkin().args(["matrix", "summary", "--published", "--by", "Colour"]), 2);
    assert!(said.contains("\"Colour\"") && said.contains("Stem layer"), "{said}");
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
    let output =
        netkin().args(["report", "--published", "--out"]).arg(&page).arg("--figures").arg(&figures).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
