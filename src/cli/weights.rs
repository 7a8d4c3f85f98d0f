//! `netkin weights`: what is published, what is here, and how a file fits.

use std::path::PathBuf;

use clap::Subcommand;
use netkin_architectures::registry;
use netkin_weights::catalogue::{self, Published, PublishedAt};
use netkin_weights::{Check, HubConfig, ModelSet, ModelSpec, Source};
use serde::Serialize;

use super::common::{Common, print, print_json, say, visible};
use super::{Failure, Outcome, named};

/// List, fetch, find and check weights
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say which tensors of a file fit a network: applied, converted, missing, unused
    ///
    /// Exit code 1 if the file does not fit, or holds NaN or infinity: no command runs such a network.
    Check {
        /// NAME, NAME.TAG or NAME=WEIGHTS
        model: ModelSpec,
        /// The weights, as in NAME=WEIGHTS
        #[arg(long, value_name = "FILE")]
        weights: Option<PathBuf>,
    },
    /// List the published weights that netkin knows, as CSV
    List {
        /// Networks: part of a name, or with * and ? for any characters, NAME.TAG, @paper69 or @FILE [default: all]
        patterns: Vec<String>,
    },
    /// Download weights into the hub's cache folder, so that a machine without network can be prepared
    Fetch {
        /// NAME, NAME.TAG, @paper69, @demo or @FILE
        #[arg(required = true)]
        models: Vec<ModelSet>,
    },
    /// Print where the weights are on this machine
    Path {
        /// NAME, NAME.TAG, NAME=WEIGHTS, @paper69, @demo or @FILE
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
            Command::List { patterns } => list(common, &patterns, &hub),
            Command::Fetch { models } => each(common, &models, |spec| {
                let bar = common.bar("bytes");
                bar.set_message(visible(&spec.to_string()).into_owned());
                let source = netkin_weights::fetch(spec, &hub, &mut |progress| {
                    bar.set_length(progress.total.unwrap_or(0));
                    bar.set_position(progress.done);
                });
                bar.finish_and_clear();
                Ok(source?)
            }),
            Command::Path { models } => each(common, &models, |spec| match netkin_weights::locate(spec, &hub)? {
                Some(source) => Ok(source),
                None => {
                    let name = spec.name();
                    Err(format!("{name} is not on this machine: `netkin weights fetch {name}` brings it").into())
                }
            }),
        }
    }
}

/// Prints a path for each model whose weights are not in the program, and goes on behind one that has none.
fn each(
    common: &Common,
    sets: &[ModelSet],
    source: impl Fn(&ModelSpec) -> Result<Source, Failure>,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::Done;
    let mut found = serde_json::Map::new();
    for spec in sets.iter().flat_map(ModelSet::specs) {
        match source(spec) {
            Ok(source) => {
                let path = source.path().map(|path| path.display().to_string());
                match &path {
                    Some(path) if !common.json => print(&format!("{path}\n"))?,
                    Some(_) => {}
                    None => say_inside(spec.name()),
                }
                found.insert(spec.name().into(), path.into());
            }
            Err(failure) => {
                say(&failure.to_string());
                outcome = Outcome::FellShort;
            }
        }
    }
    if common.json {
        print_json(&found)?;
    }
    Ok(outcome)
}

fn say_inside(name: &str) {
    say(&format!("the weights of {name} are inside the program, which needs no file of them"));
}

fn list(common: &Common, patterns: &[String], hub: &HubConfig) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::Done;
    let mut rows: Vec<&'static Published> = Vec::new();
    let all = ["*".to_owned()];
    let patterns = if patterns.is_empty() { &all[..] } else { patterns };
    for pattern in patterns {
        let found: Vec<_> = if named(pattern) {
            let set: ModelSet = pattern.parse()?;
            let found = set.specs().iter().map(|spec| published(spec, hub));
            found.collect::<Result<Vec<_>, _>>()?.concat()
        } else {
            let entries = registry::matching(pattern);
            if entries.is_empty() {
                say(&format!("no network's name matches {pattern:?}; `netkin models` lists them all"));
                outcome = Outcome::FellShort;
            }
            entries.into_iter().flat_map(|entry| catalogue::published(entry.name)).collect()
        };
        for row in found {
            if !rows.iter().any(|other| (other.name, other.tag) == (row.name, row.tag)) {
                rows.push(row);
            }
        }
    }
    if rows.is_empty() && outcome == Outcome::FellShort {
        return Ok(outcome);
    }
    let rows: Vec<Row> = rows
        .into_iter()
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
                cached: spec
                    .and_then(|spec| netkin_weights::locate(&spec, hub).ok().flatten())
                    .and_then(|source| source.path().map(PathBuf::from)),
            }
        })
        .collect();
    if common.json {
        print_json(&serde_json::json!({"weights": rows}))?;
        return Ok(outcome);
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in &rows {
        writer.serialize(row)?;
    }
    print(&String::from_utf8(writer.into_inner()?)?)?;
    Ok(outcome)
}

/// The published weights that a model means; those that are elsewhere are said.
fn published(spec: &ModelSpec, hub: &HubConfig) -> Result<Vec<&'static Published>, Failure> {
    if let Some(path) = spec.path() {
        say(&format!("{} is a file of your own, {}", spec.name(), path.display()));
        return Ok(Vec::new());
    }
    let rows = catalogue::published(spec.entry().name);
    let Some(tag) = spec.tag().or(catalogue::tag_of_2022(spec.name())) else {
        if netkin_weights::embedded::weights(spec.entry().name).is_some() {
            say_inside(spec.name());
        } else if rows.is_empty() {
            say(&format!("timm publishes no weights of {}", spec.name()));
        }
        return Ok(rows);
    };
    let rows: Vec<_> = rows.into_iter().filter(|row| row.tag == tag).collect();
    if rows.is_empty() {
        // Either the reason why there are none, or weights of a tag that came to the cache folder since.
        netkin_weights::locate(spec, hub)?;
    }
    Ok(rows)
}

fn check(common: &Common, spec: &ModelSpec, hub: &HubConfig) -> Result<Outcome, Failure> {
    let bar = common.bar("bytes");
    let check = netkin_weights::check(spec, hub, &mut |progress| {
        bar.set_length(progress.total.unwrap_or(0));
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    for note in &check.notes {
        say(&format!("{spec}: {note}"));
    }
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
        let origins = if origins.is_empty() { "zeros".to_owned() } else { origins.join(" + ") };
        text += &format!("converted  {origins} → {key}\n");
    }
    let parts = [
        ("missing", &check.missing),
        ("unused", &check.unused),
        ("different", &check.different),
        ("unreadable", &check.unreadable),
    ];
    for (what, keys) in parts {
        for key in keys {
            text += &format!("{what:9}  {key}\n");
        }
    }
    if !check.not_finite.is_empty() {
        const SHOWN: usize = 5;
        let more = check.not_finite.len().saturating_sub(SHOWN);
        let shown = check.not_finite[..check.not_finite.len() - more].join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text += &format!("tensors with NaN or infinity, {} in all: {shown}{more}\n", check.not_finite.len());
    }
    if !check.fits.is_empty() {
        text += &format!("the file fits {}\n", check.fits.join(", "));
    }
    text
}
