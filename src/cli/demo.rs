//! `netkin demo`: the main job on a machine without any download.

use std::path::{Path, PathBuf};
use std::time::Instant;

use netkin_weights::{ModelSpec, Precision, embedded};
use serde::Serialize;

use super::common::{Common, print, print_json};
use super::{Failure, Outcome, values};
use crate::attacks::Pgd;
use crate::images::{Dataset, RgbImage, encode_png, idx};
use crate::model::{Crop, Model};
use crate::report::{HeatMap, page};
use crate::runs::write_atomically;
use crate::similarity::Matrix;
use crate::similarity::sat::{self, Pair, Progress, SatConfig};

/// Show SAT on ten small networks and 500 images that netkin carries
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder for images, results and the heat map
    #[arg(long, value_name = "DIR", default_value = "netkin-demo")]
    out: PathBuf,
    /// Use the first COUNT images only
    #[arg(long, value_name = "COUNT", default_value = "500", value_parser = values::positive)]
    limit: usize,
    /// Steps of the attack (PGD, 8/255 in steps of 2/255)
    #[arg(long, value_name = "COUNT", default_value = "20", value_parser = values::positive)]
    steps: usize,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    attack: Pgd,
    images: usize,
    clean: serde_json::Map<String, serde_json::Value>,
    pairs: Vec<Pair>,
    /// The mean score of pairs of different networks, by the two families.
    families: Vec<FamilyMean>,
}

#[derive(Serialize)]
struct FamilyMean {
    a: &'static str,
    b: &'static str,
    mean_sat: f64,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let start = Instant::now();
        let config = SatConfig {
            attack: Pgd { steps: self.steps, ..Pgd::default() },
            crop: Crop::Own,
            batch: 128,
            ..SatConfig::default()
        };
        let mut specs: Vec<ModelSpec> = embedded::names().map(str::parse).collect::<Result<_, _>>()?;
        specs.sort_by_key(|spec| spec.entry().family);
        let models = common.load(&specs, Precision::F32)?;
        let dataset = write_images(&self.out)?.limit(self.limit);

        let bar = common.bar("images");
        let run = sat::run(&models, &dataset, &config, &self.out.join("run"), |progress| {
            if let Progress::Step { done, total, model } = progress {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                bar.set_message(format!("attacked {model}"));
            }
        })?;
        bar.finish_and_clear();

        let matrix = run.matrix();
        let families: Vec<&'static str> = models.iter().map(|model| model.entry().family).collect();
        let means = family_means(&matrix, &families);
        let text = summary(&models, &run.clean(), run.images, &matrix, &means);
        let groups: Vec<String> = families.iter().map(|family| family.to_string()).collect();
        let map = HeatMap {
            matrix: &matrix,
            groups: &groups,
            title: "SAT: how often an attack on one network fools the other (ln %)",
        };
        let (csv, svg, html) = (self.out.join("sat.csv"), self.out.join("heat-map.svg"), self.out.join("index.html"));
        write_atomically(&csv, matrix.to_csv().as_bytes())?;
        write_atomically(&svg, map.to_svg().as_bytes())?;
        write_atomically(&html, page(&map, &text).as_bytes())?;
        if common.json {
            print_json(&Document {
                netkin: env!("CARGO_PKG_VERSION"),
                attack: config.attack,
                images: run.images,
                clean: run.clean_by_name(),
                pairs: run.pairs(),
                families: means,
            })?;
        } else {
            print(&text)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        common.note(&format!("done in {seconds:.0} s; the heat map is {}", html.display()));
        Ok(Outcome::Done)
    }
}

/// Writes the images that netkin carries as an ordinary data set, once.
fn write_images(out: &Path) -> Result<Dataset, Failure> {
    let images = idx::parse(embedded::TEST_IMAGES, "the embedded images".as_ref())?;
    let labels = idx::parse(embedded::TEST_LABELS, "the embedded labels".as_ref())?;
    let [_, height, width] = images.dimensions[..] else {
        return Err("the embedded images are damaged".into());
    };
    let folder = out.join("images");
    let mut csv = String::from("file,label\n");
    let pictures = images.elements.chunks_exact(height * width).zip(&labels.elements);
    for (index, (grey, label)) in pictures.enumerate() {
        let name = format!("{index:03}.png");
        let path = folder.join(&name);
        if !path.exists() {
            let rgb = grey.iter().flat_map(|&level| [level; 3]).collect();
            write_atomically(&path, &encode_png(&RgbImage::new(width, height, rgb)))?;
        }
        csv += &format!("{name},{label}\n");
    }
    let file = out.join("labels.csv");
    write_atomically(&file, csv.as_bytes())?;
    Ok(Dataset::open(&folder, Some(&file))?)
}

/// The mean over pairs of different networks for every two families, in the order of `families`.
fn family_means(matrix: &Matrix, families: &[&'static str]) -> Vec<FamilyMean> {
    let mut names = families.to_vec();
    names.dedup();
    let mut means = Vec::new();
    for (position, &a) in names.iter().enumerate() {
        for &b in &names[position..] {
            let scores: Vec<f64> = (0..families.len())
                .flat_map(|row| (row + 1..families.len()).map(move |column| (row, column)))
                .filter(|&(row, column)| (families[row], families[column]) == (a, b))
                .map(|(row, column)| matrix.get(row, column))
                .filter(|score| !score.is_nan())
                .collect();
            if !scores.is_empty() {
                let mean_sat = scores.iter().sum::<f64>() / scores.len() as f64;
                means.push(FamilyMean { a, b, mean_sat });
            }
        }
    }
    means
}

fn summary(models: &[Model], clean: &[usize], images: usize, matrix: &Matrix, means: &[FamilyMean]) -> String {
    let mut text = format!("{:18} {:20} {:>10} {:>9}\n", "network", "family", "parameters", "correct");
    for (model, correct) in models.iter().zip(clean) {
        let (name, family, parameters) = (model.name(), model.entry().family, model.parameters());
        text += &format!("{name:18} {family:20} {parameters:>10} {:>8.1}%\n", 100.0 * *correct as f64 / images as f64);
    }
    text += "\nSAT: ln of the percentage of images that fool the other network (4.605 = always)\n\n";
    text += &matrix.to_table();
    text += "\nmean SAT of two different networks, by family\n\n";
    for FamilyMean { a, b, mean_sat } in means {
        text += &format!("{a:20} {b:20} {mean_sat:.3}\n");
    }
    text
}
