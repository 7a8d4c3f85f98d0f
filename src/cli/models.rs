//! `netkin models`: what can be built.

use netkin_architectures::registry;
use serde::Serialize;

use super::common::{Common, print, print_json};
use super::{Failure, Outcome};

/// List the networks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names to list: part of a name, or with * and ? for any characters [default: all]
    pattern: Option<String>,
}

#[derive(Serialize)]
struct Document {
    models: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    family: &'static str,
    params: usize,
    /// Channels, height, width.
    input_size: [usize; 3],
    num_classes: usize,
    default_tag: Option<String>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let pattern = self.pattern.as_deref().unwrap_or("*");
        let entries = registry::matching(pattern);
        let rows: Vec<Row> = entries
            .into_iter()
            .map(|entry| {
                let [height, width] = entry.config.input_size();
                Row {
                    name: entry.name,
                    family: entry.family,
                    params: entry.parameters(),
                    input_size: [3, height, width],
                    num_classes: entry.config.num_classes(),
                    default_tag: netkin_weights::catalogue::default_tag(entry.name).map(str::to_owned),
                }
            })
            .collect();
        let found = !rows.is_empty();
        if common.json {
            print_json(&Document { models: rows })?;
        } else {
            print(&table(&rows))?;
        }
        if found {
            return Ok(Outcome::Done);
        }
        eprintln!("netkin: no network's name matches {pattern:?}; `netkin models` lists them all");
        Ok(Outcome::FellShort)
    }
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let Row { name, family, params, input_size: [_, height, image_width], .. } = row;
        let millions = *params as f64 / 1e6;
        text += &format!("{name:width$}  {family:18}  {millions:8.2} M  {height} × {image_width}\n");
    }
    text
}
