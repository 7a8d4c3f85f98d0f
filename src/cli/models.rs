//! `netkin models`: what can be built.

use clap::ValueEnum;
use netkin_architectures::{Components, Entry, matching};
use netkin_weights::{HubConfig, ModelSet, ModelSpec, catalogue};
use serde::Serialize;

use super::common::{Common, print, print_json, say};
use super::{Failure, Outcome, named};
use crate::analysis::components::derived;
use crate::analysis::published;

/// List the networks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Networks to list: part of a name, of today or of 2022, or with * and ? for any characters, NAME.TAG, @paper69, @demo or
    /// @FILE [default: all]
    patterns: Vec<String>,
    /// Also compute the multiply-accumulate operations for one image, which runs each network once, and the components by
    /// which the paper on SAT tells networks apart
    #[arg(long)]
    components: bool,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    /// As the paper's table of components, with --components.
    Csv,
    Markdown,
}

#[derive(Serialize)]
struct Document {
    models: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    /// Of the weights that a set names.
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    family: &'static str,
    params: usize,
    /// Channels, height, width.
    input_size: [usize; 3],
    num_classes: usize,
    default_tag: Option<String>,
    #[serde(flatten)]
    more: Option<More>,
}

#[derive(Serialize)]
struct More {
    /// Thousand millions of multiply-accumulate operations.
    gmacs: f64,
    /// By the columns of the paper's table.
    components: Vec<(&'static str, String)>,
}

impl Row {
    fn new(entry: &Entry, tag: Option<String>, components: bool) -> Self {
        let [height, width] = entry.config.input_size();
        Self {
            name: entry.name,
            tag,
            family: entry.family,
            params: entry.parameters(),
            input_size: [3, height, width],
            num_classes: entry.config.num_classes(),
            default_tag: catalogue::default_tag(entry.name).map(str::to_owned),
            more: components.then(|| More {
                gmacs: entry.multiply_accumulates() as f64 / 1e9,
                components: Components::COLUMNS.into_iter().zip(derived(entry)).collect(),
            }),
        }
    }

    /// `NAME`, or `NAME.TAG` of a set that names weights.
    fn model(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}.{tag}", self.name),
            None => self.name.to_owned(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let [_, height, width] = self.input_size;
        let mut cells = vec![
            self.model(),
            self.family.to_owned(),
            format!("{:.2}", self.params as f64 / 1e6),
            format!("{height} × {width}"),
            self.tag.clone().or(self.default_tag.clone()).unwrap_or_default(),
        ];
        if let Some(more) = &self.more {
            cells.push(format!("{:.2}", more.gmacs));
            cells.extend(more.components.iter().map(|(_, value)| value.clone()));
        }
        cells
    }
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let all = ["*".to_owned()];
        let patterns = if self.patterns.is_empty() { &all[..] } else { &self.patterns[..] };
        let mut models: Vec<(&'static Entry, Option<String>)> = Vec::new();
        for pattern in patterns {
            let found = found(pattern)?;
            if found.is_empty() {
                say(&format!("no network's name matches {pattern:?}; `netkin models` lists them all"));
            }
            for (entry, tag) in found {
                if !models.iter().any(|(other, its_tag)| other.name == entry.name && *its_tag == tag) {
                    models.push((entry, tag));
                }
            }
        }
        if models.is_empty() {
            return Ok(Outcome::FellShort);
        }
        let bar = common.bar("networks");
        bar.set_length(models.len() as u64);
        let rows: Vec<Row> = models
            .into_iter()
            .map(|(entry, tag)| {
                bar.inc(1);
                Row::new(entry, tag, self.components)
            })
            .collect();
        bar.finish_and_clear();
        if common.json {
            print_json(&Document { models: rows })?;
        } else {
            print(&match self.format {
                Format::Text => text(&rows, self.components),
                Format::Csv => csv(&rows)?,
                Format::Markdown => markdown(&rows, self.components),
            })?;
        }
        Ok(Outcome::Done)
    }
}

/// The networks that a pattern, a model or a set means, with the tags of weights that it names; such as do not exist are
/// refused.
fn found(pattern: &str) -> Result<Vec<(&'static Entry, Option<String>)>, Failure> {
    if !named(pattern) {
        return Ok(matching(pattern).into_iter().map(|entry| (entry, None)).collect());
    }
    let hub = HubConfig::from_env();
    let set: ModelSet = pattern.parse()?;
    for spec in set.specs().iter().filter(|spec| spec.path().is_none()) {
        netkin_weights::preprocessing(spec, &hub)?;
    }
    let model = |spec: &ModelSpec| {
        let tag = spec.tag().or(catalogue::tag_of_2022(spec.name()));
        (spec.entry(), tag.map(str::to_owned))
    };
    Ok(set.specs().iter().map(model).collect())
}

/// Names and sizes, or with components every column.
fn text(rows: &[Row], components: bool) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    let shown = if components { usize::MAX } else { 4 };
    let columns = cells.first().map_or(0, Vec::len).min(shown);
    let widths: Vec<usize> =
        (0..columns).map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in cells {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn csv(rows: &[Row]) -> Result<String, Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header = vec!["Model name"];
    if let Some(More { components, .. }) = rows.first().and_then(|row| row.more.as_ref()) {
        header.extend(components.iter().map(|(column, _)| column));
    }
    header.extend(["family", "params", "default_tag", "gmacs"]);
    writer.write_record(&header)?;
    for row in rows {
        let mut record = vec![row.model()];
        let more = row.more.as_ref();
        record.extend(more.iter().flat_map(|more| &more.components).map(|(_, value)| value.clone()));
        record.extend([row.family.to_owned(), row.params.to_string(), row.default_tag.clone().unwrap_or_default()]);
        record.push(more.map_or(String::new(), |more| more.gmacs.to_string()));
        writer.write_record(&record)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

fn markdown(rows: &[Row], components: bool) -> String {
    let mut columns = vec!["name", "family", "parameters, M", "input", "weights"];
    if components {
        columns.push("GMACs");
        columns.extend(Components::COLUMNS);
    }
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = columns.iter().map(|column| column.to_string()).collect();
    let rule = vec!["---".to_owned(); columns.len()];
    let body: String = rows.iter().map(|row| line(&row.cells())).collect();
    let table = line(&header) + &line(&rule) + &body;
    if components { format!("{INTRODUCTION}\n{table}{}", contradictions(rows)) } else { table }
}

const INTRODUCTION: &str = "\
# Networks

Printed by `netkin models --components --format markdown`. Parameters are those that are trained; GMACs are thousand millions
of multiply-accumulate operations for one image of the size that is named; *weights* is the tag that is loaded if none is given;
the thirteen components behind them are those of the paper on SAT (arXiv 2210.11407), derived from each network's configuration.
";

/// Where the published table of components says otherwise of these networks.
fn contradictions(rows: &[Row]) -> String {
    let listed =
        |name: &str| netkin_architectures::find(name).is_ok_and(|it| rows.iter().any(|row| row.name == it.name));
    let lines: String = published::DISAGREEMENTS
        .iter()
        .filter(|it| listed(it.name))
        .map(|it| {
            let published::Disagreement { name, column, published, derived, reason } = it;
            format!("| {name} | {column} | {published} | {derived} | {reason} |\n")
        })
        .collect();
    if lines.is_empty() {
        return lines;
    }
    format!(
        "\n## Where the paper's table says otherwise\n\n\
         | network | component | table | configuration | because |\n|---|---|---|---|---|\n{lines}"
    )
}
