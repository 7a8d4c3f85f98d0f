//! What the folder of a training, or that of a study of many, tells, as a page: from the logs alone, also while training goes on.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::Recipe;
use super::log::EpochReport;
use super::study::STUDY;
use super::trainer::LOG;
use crate::files::read_regular;
use crate::report::{self, Figure, Page, Panel, Part, Point, Quantity, Section, Series};
use crate::runs::RunError;

/// The largest log, recipe or text that is read, in bytes.
const MAX_FILE: u64 = 1 << 30;
/// Networks of a study up to which their accuracies are drawn; of more, curves cannot be told apart.
const MOST_DRAWN: usize = 10;
/// What commands write into the folder of a study.
const RESULTS: [&str; 2] = ["distill-study.txt", "robustness.txt"];

/// What a log tells.
#[derive(Debug, Default)]
struct History {
    /// The last of the events with which a process began; null if there is none.
    start: Value,
    epochs: BTreeMap<usize, EpochReport>,
    /// Sentences on images and files.
    troubles: Vec<String>,
}

/// The page of a folder: of a training, which has a log, or of a study. None if it is neither.
///
/// # Errors
/// If a file in it cannot be read.
pub fn of(folder: &Path) -> Result<Option<Page>, RunError> {
    if let Some(history) = History::open(folder)? {
        return Ok(Some(history.page(folder)?));
    }
    if folder.join(STUDY).is_file() {
        return Ok(Some(study(folder)?));
    }
    Ok(None)
}

/// Losses, learning rates and accuracies over the epochs.
pub(super) fn curves(epochs: &[EpochReport], title: &str) -> Figure {
    let series = |name: &str, of: &dyn Fn(&EpochReport) -> Option<f64>| series(name, epochs, of);
    let mut losses = vec![series("loss", &|epoch| Some(epoch.loss))];
    let names: Vec<&String> = epochs.first().map(|epoch| epoch.parts.keys().collect()).unwrap_or_default();
    losses.extend(names.into_iter().map(|name| series(name.as_str(), &|epoch| epoch.parts.get(name).copied())));
    let mut accuracies = vec![
        series("training", &|epoch| Some(100.0 * epoch.train_accuracy)),
        series("test", &|epoch| Some(100.0 * epoch.test_accuracy)),
        series("test, average", &|epoch| epoch.ema_accuracy.map(|accuracy| 100.0 * accuracy)),
    ];
    accuracies.retain(|series| !series.points.is_empty());
    let rates = vec![series("last step", &|epoch| Some(epoch.learning_rate))];
    let panels = [
        Panel { quantity: Quantity { name: "loss", unit: "" }, series: losses },
        Panel { quantity: Quantity { name: "accuracy", unit: " %" }, series: accuracies },
        Panel { quantity: Quantity { name: "learning rate", unit: "" }, series: rates },
    ];
    report::curves(&panels, title)
}

/// A number of each epoch that has it.
fn series(name: &str, epochs: &[EpochReport], of: &dyn Fn(&EpochReport) -> Option<f64>) -> Series {
    let point = |epoch: &EpochReport| {
        let value = of(epoch)?;
        // Accuracies in percent and losses to four digits behind the point; learning rates are far smaller.
        let shown = if value.abs() < 0.01 { format!("{value:.3e}") } else { format!("{value:.4}") };
        Some(Point { place: [epoch.epoch as f64, value], text: format!("epoch {}, {name}: {shown}", epoch.epoch) })
    };
    Series { name: name.to_owned(), points: epochs.iter().filter_map(point).collect() }
}

impl History {
    /// What the log of a run folder tells; none if there is no log.
    fn open(folder: &Path) -> Result<Option<Self>, RunError> {
        let Some(text) = text(&folder.join(LOG))? else { return Ok(None) };
        let mut history = Self::default();
        for line in text.lines() {
            history.add(line);
        }
        Ok(Some(history))
    }

    /// Adds what a line tells; one that is half written, as the last one of a run that was killed, tells nothing.
    fn add(&mut self, line: &str) {
        let Ok(event) = serde_json::from_str::<Value>(line) else { return };
        let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        match word("event").as_str() {
            "start" => self.start = event,
            "epoch" => {
                if let Ok(report) = EpochReport::deserialize(&event) {
                    self.epochs.insert(report.epoch, report);
                }
            }
            "skipped" => self.troubles.push(format!("The image {} was left out: {}.", word("id"), word("reason"))),
            "failed" => self.troubles.push(format!(
                "The run ended in epoch {} at batch {}: {}.",
                event["epoch"],
                event["batch"],
                word("reason")
            )),
            "not-written" => self.troubles.push(format!("{}.", word("reason"))),
            _ => {}
        }
    }

    fn page(&self, folder: &Path) -> Result<Page, RunError> {
        let written = text(&folder.join("recipe.toml"))?.unwrap_or_default();
        let recipe = Recipe::parse("recipe.toml", &written, &[]).unwrap_or_default();
        let epochs: Vec<EpochReport> = self.epochs.values().cloned().collect();
        let title = match recipe.model.as_str() {
            "" => "A training".to_owned(),
            model => format!("Training of {model}"),
        };
        let mut sections = vec![Section {
            title: "Overview".into(),
            note: String::new(),
            parts: vec![Part::Facts(self.facts(&recipe, &epochs))],
        }];
        if epochs.is_empty() {
            sections[0].note = "No epoch has ended yet.".into();
        } else {
            sections.push(Section {
                title: "Curves".into(),
                note: "Mean loss of each epoch’s batches, with what it is made of; accuracies on augmented training images, during the epoch, \
                       and on test images after it; the learning rate of the epoch’s last step."
                    .into(),
                parts: vec![Part::Drawing("curves".into(), curves(&epochs, &title))],
            });
            sections.push(Section { title: "Epochs".into(), note: String::new(), parts: vec![table(&epochs)] });
        }
        if !self.troubles.is_empty() {
            let parts = vec![Part::List(self.troubles.clone())];
            sections.push(Section { title: "What went wrong".into(), note: String::new(), parts });
        }
        if !written.is_empty() {
            let is_one_of_several = recipe.diverge.is_some_and(|options| options.against.is_empty());
            let note = if is_one_of_several {
                "One of several networks: the command `netkin diverge` of its study trains the same again."
            } else {
                "`netkin train --recipe recipe.toml` with this file trains the same again."
            };
            let note = note.into();
            sections.push(Section { title: "Recipe".into(), note, parts: vec![Part::Text(written)] });
        }
        Ok(Page { title, source: folder.display().to_string(), sections })
    }

    fn facts(&self, recipe: &Recipe, epochs: &[EpochReport]) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
        if !recipe.model.is_empty() {
            add("Network", recipe.model.clone());
            add("Epochs that ended", format!("{} of {}", epochs.len(), recipe.all_epochs()));
        }
        let best = epochs.iter().max_by(|a, b| a.test_accuracy.total_cmp(&b.test_accuracy));
        if let (Some(last), Some(best)) = (epochs.last(), best) {
            let percent = |epoch: &EpochReport| format!("{:.2} % (epoch {})", 100.0 * epoch.test_accuracy, epoch.epoch);
            add("Test accuracy, last", percent(last));
            add("Test accuracy, best", percent(best));
        }
        let known = [
            ("Training images", "images"),
            ("Test images", "test_images"),
            ("Classes", "classes"),
            ("Parameters", "parameters"),
            ("Computed on", "device"),
            ("By netkin", "netkin"),
            ("Objective", "objective"),
        ];
        for (name, key) in known {
            match &self.start[key] {
                Value::Null => {}
                Value::String(word) => add(name, word.clone()),
                value => add(name, value.to_string()),
            }
        }
        facts
    }
}

/// A row for each epoch.
fn table(epochs: &[EpochReport]) -> Part {
    let has_average = epochs.iter().any(|epoch| epoch.ema_accuracy.is_some());
    let mut head = vec!["Epoch", "Loss", "Training accuracy", "Test accuracy"];
    head.extend(has_average.then_some("Of the average"));
    head.extend(["Learning rate", "Images/s", "Waited for images", "Images left out"]);
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let row = |epoch: &EpochReport| {
        let mut row = vec![
            epoch.epoch.to_string(),
            format!("{:.4}", epoch.loss),
            percent(epoch.train_accuracy),
            percent(epoch.test_accuracy),
        ];
        row.extend(has_average.then(|| epoch.ema_accuracy.map_or(String::new(), percent)));
        row.extend([
            format!("{:.3e}", epoch.learning_rate),
            format!("{:.0}", epoch.images_per_second),
            format!("{:.0} %", 100.0 * epoch.waited),
            (epoch.skipped + epoch.test_skipped).to_string(),
        ]);
        row
    };
    Part::Table(head.into_iter().map(String::from).collect(), epochs.iter().map(row).collect())
}

/// The page of a study's folder: its networks, and what its commands printed.
fn study(folder: &Path) -> Result<Page, RunError> {
    let networks = networks(folder)?;
    let row = |(name, history): &(String, History)| {
        let last = history.epochs.values().next_back();
        let shown = |of: &dyn Fn(&EpochReport) -> String| last.map_or(String::new(), of);
        vec![
            name.clone(),
            history.epochs.len().to_string(),
            shown(&|last| format!("{:.4}", last.loss)),
            shown(&|last| format!("{:.2} %", 100.0 * last.train_accuracy)),
            shown(&|last| format!("{:.2} %", 100.0 * last.test_accuracy)),
        ]
    };
    let head = ["Network", "Epochs that ended", "Loss", "Training accuracy", "Test accuracy"].map(String::from);
    let mut parts = vec![Part::Table(head.into(), networks.iter().map(row).collect())];
    if (1..=MOST_DRAWN).contains(&networks.len()) {
        let accuracy = |epoch: &EpochReport| Some(100.0 * epoch.test_accuracy);
        let of_network = |(name, history): &(String, History)| {
            series(name, &history.epochs.values().cloned().collect::<Vec<_>>(), &accuracy)
        };
        let series = networks.iter().map(of_network).collect();
        let panel = Panel { quantity: Quantity { name: "test accuracy", unit: " %" }, series };
        parts.push(Part::Drawing("accuracies".into(), report::curves(&[panel], "Test accuracy of the networks")));
    }
    let note =
        "Numbers are of the last epoch that ended. `netkin report` on a folder below `networks` shows one training."
            .into();
    let mut sections = vec![Section { title: "Networks".into(), note, parts }];
    let mut names: Vec<String> = RESULTS.map(String::from).into();
    // Those of other options than the paper's.
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut others: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    others.retain(|name| name.starts_with("robustness-") && name.ends_with(".txt"));
    others.sort();
    names.extend(others);
    for name in names {
        if let Some(text) = text(&folder.join(&name))? {
            sections.push(Section { title: name, note: String::new(), parts: vec![Part::Text(text)] });
        }
    }
    let settings = text(&folder.join(STUDY))?.unwrap_or_default();
    let kind = serde_json::from_str::<Value>(&settings).ok();
    let kind = kind.and_then(|settings| settings["study"].as_str().map(String::from));
    let title = kind.map_or("A study".to_owned(), |kind| format!("A study ({kind})"));
    sections.push(Section { title: "Settings".into(), note: String::new(), parts: vec![Part::Text(settings)] });
    Ok(Page { title, source: folder.display().to_string(), sections })
}

/// The networks of a study that have a log, by name.
fn networks(folder: &Path) -> Result<Vec<(String, History)>, RunError> {
    let folder = folder.join("networks");
    let Ok(entries) = folder.read_dir() else { return Ok(Vec::new()) };
    let mut networks = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| RunError::Read { path: folder.clone(), source })?;
        if let Some(history) = History::open(&entry.path())? {
            networks.push((entry.file_name().to_string_lossy().into_owned(), history));
        }
    }
    networks.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(networks)
}

/// A text file; none if there is none.
fn text(path: &Path) -> Result<Option<String>, RunError> {
    if !path.is_file() {
        return Ok(None);
    }
    match read_regular(path, MAX_FILE) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(source) => Err(RunError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = r#"{"event":"epoch","epoch":1,"loss":2.0,"parts":{"labels":1.5},"train_accuracy":0.25,"test_accuracy":0.5,"learning_rate":0.001,"images_per_second":10.0,"waited":0.0,"skipped":1}"#;

    #[test]
    fn a_log_that_ends_in_the_middle_of_a_line_tells_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        assert!(of(folder.path()).unwrap().is_none());
        let start = r#"{"event":"start","device":"flex","images":12,"classes":4,"parameters":99,"objective":null}"#;
        let again = EPOCH.replace("2.0", "1.0").replace(":1,\"loss", ":2,\"loss");
        std::fs::write(folder.path().join(LOG), format!("{start}\n{EPOCH}\n{again}\n{{\"event\":\"ep")).unwrap();
        let failed = r#"{"event":"failed","epoch":3,"batch":7,"reason":"the loss is NaN"}"#;
        let log = std::fs::read_to_string(folder.path().join(LOG)).unwrap();
        std::fs::write(folder.path().join(LOG), format!("{failed}\n{log}")).unwrap();
        let page = of(folder.path()).unwrap().unwrap();
        let html = page.to_html();
        assert!(html.contains("What went wrong") && html.contains("in epoch 3 at batch 7: the loss is NaN."), "{html}");
        for part in ["A training", "<td>12</td>", "2.0000", "1.0000", "50.00 %", "1.000e-3", "labels", "learning rate"]
        {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert_eq!(page.figures()[0].0, "curves");
        std::fs::write(folder.path().join(LOG), "").unwrap();
        assert!(of(folder.path()).unwrap().unwrap().to_html().contains("No epoch has ended yet"));
    }

    #[test]
    fn a_study_shows_its_networks_and_what_was_printed() {
        let folder = tempfile::tempdir().unwrap();
        let network = folder.path().join("networks/seed0");
        std::fs::create_dir_all(&network).unwrap();
        std::fs::write(network.join(LOG), EPOCH).unwrap();
        std::fs::write(folder.path().join(STUDY), r#"{"study": "distillation"}"#).unwrap();
        std::fs::write(folder.path().join(RESULTS[0]), "the table").unwrap();
        let page = of(folder.path()).unwrap().unwrap();
        assert_eq!(page.title, "A study (distillation)");
        let html = page.to_html();
        for part in ["<td>seed0</td>", "50.00 %", "the table", "&quot;study&quot;"] {
            assert!(html.contains(part), "{part} in {html}");
        }
    }
}
