//! `netkin weights`: what is published, what is here, and how a file fits.

use std::path::PathBuf;

use clap::Subcommand;
use netkin_architectures::registry;
use netkin_weights::catalogue::{self, PublishedAt};
use netkin_weights::{Check, HubConfig, ModelSet, ModelSpec};
use serde::Serialize;

use super::common::{Common, print, print_json};
use super::{Failure, Outcome};

/// List, fetch, find and check weights
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say which tensors of a file fit a network: applied, converted, missing, unused
    Check {
        /// NAME, NAME.TAG or NAME=WEIGHTS
        model: ModelSpec,
        /// The weights, as in NAME=WEIGHTS
        #[arg(long, value_name = "FILE")]
        weights: Option<PathBuf>,
    },
    /// List the published weights that netkin knows, as CSV
    List {
        /// Networks: part of a name, or with * and ? for any characters [default: all]
        pattern: Option<String>,
    },
    /// Download weights into the hub's cache folder, so that a machine without network can be prepared
    Fetch {
        /// NAME, NAME.TAG, @paper69 or @FILE
        #[arg(required = true)]
        models: Vec<ModelSet>,
    },
    /// Print where the weights are on this machine
    Path {
        /// NAME, NAME.TAG, @paper69 or @FILE
        #[arg(required = true)]
        models: Vec<ModelSet>,
    },
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    tag: &'static str,
    default: bool,
    num_classes: usize,
    input_size: String,
    /// The repository on the hub; `file` for weights that are in files only.
    place: String,
    /// The file in the cache folder.
    cached: Option<PathBuf>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let hub = HubConfig::from_env();
        match self.command {
            Command::Check { model, weights } => {
                let spec = match weights {
                    Some(path) => model.with_path(path),
                    None => model,
                };
                check(common, &spec, &hub)
            }
            Command::List { pattern } => list(common, pattern.as_deref().unwrap_or("*"), &hub),
            Command::Fetch { models } => each(common, &models, |spec| {
                let bar = common.bar("bytes");
                bar.set_message(spec.to_string());
                let path = netkin_weights::fetch(spec, &hub, &mut |progress| {
                    bar.set_length(progress.total.unwrap_or(0));
                    bar.set_position(progress.done);
                });
                bar.finish_and_clear();
                Ok(path?)
            }),
            Command::Path { models } => each(common, &models, |spec| match netkin_weights::path(spec, &hub)? {
                Some(path) => Ok(path),
                None => {
                    let name = spec.name();
                    Err(format!("{name} is not on this machine: `netkin weights fetch {name}` brings it").into())
                }
            }),
        }
    }
}

/// Prints a path for each model, and goes on behind one that has none.
fn each(
    common: &Common,
    sets: &[ModelSet],
    path: impl Fn(&ModelSpec) -> Result<PathBuf, Failure>,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::Done;
    let mut found = serde_json::Map::new();
    for spec in sets.iter().flat_map(ModelSet::specs) {
        match path(spec) {
            Ok(path) if common.json => drop(found.insert(spec.name().into(), path.display().to_string().into())),
            Ok(path) => print(&format!("{}\n", path.display()))?,
            Err(failure) => {
                eprintln!("netkin: {failure}");
                outcome = Outcome::FellShort;
            }
        }
    }
    if common.json {
        print_json(&found)?;
    }
    Ok(outcome)
}

fn list(common: &Common, pattern: &str, hub: &HubConfig) -> Result<Outcome, Failure> {
    let entries = registry::matching(pattern);
    if entries.is_empty() {
        eprintln!("netkin: no network's name matches {pattern:?}; `netkin models` lists them all");
        return Ok(Outcome::FellShort);
    }
    let rows: Vec<Row> = entries
        .into_iter()
        .flat_map(|entry| catalogue::published(entry.name))
        .map(|row| {
            let [height, width] = row.preprocessing.input_size;
            let spec: Option<ModelSpec> = format!("{}.{}", row.name, row.tag).parse().ok();
            Row {
                name: row.name,
                tag: row.tag,
                default: row.default,
                num_classes: row.num_classes,
                input_size: format!("{height}x{width}"),
                place: match row.place {
                    PublishedAt::File => "file".into(),
                    _ => catalogue::repository(row.name, row.tag).unwrap_or_default(),
                },
                cached: spec.and_then(|spec| netkin_weights::path(&spec, hub).ok().flatten()),
            }
        })
        .collect();
    if common.json {
        print_json(&serde_json::json!({"weights": rows}))?;
        return Ok(Outcome::Done);
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in &rows {
        writer.serialize(row)?;
    }
    print(&String::from_utf8(writer.into_inner()?)?)?;
    Ok(Outcome::Done)
}

fn check(common: &Common, spec: &ModelSpec, hub: &HubConfig) -> Result<Outcome, Failure> {
    let bar = common.bar("bytes");
    let check = netkin_weights::check(spec, hub, &mut |progress| {
        bar.set_length(progress.total.unwrap_or(0));
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    if common.json {
        print_json(&check)?;
    } else {
        print(&text(&check))?;
    }
    Ok(if check.fits_exactly() { Outcome::Done } else { Outcome::FellShort })
}

fn text(check: &Check) -> String {
    let mut text = format!(
        "{}: {} tensors fit, {} of them converted, {} are missing, {} unused, {} different; {} classes; sha256 {}\n",
        check.name,
        check.applied,
        check.converted.len(),
        check.missing.len(),
        check.unused.len(),
        check.different.len(),
        check.num_classes,
        check.sha256
    );
    for (origins, key) in &check.converted {
        text += &format!("converted  {} → {key}\n", origins.join(" + "));
    }
    for (what, keys) in [("missing", &check.missing), ("unused", &check.unused), ("different", &check.different)] {
        for key in keys {
            text += &format!("{what:9}  {key}\n");
        }
    }
    if !check.fits.is_empty() {
        text += &format!("the file fits {}\n", check.fits.join(", "));
    }
    text
}
