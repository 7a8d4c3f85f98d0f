//! `netkin stability`: how far scores, their order and clusters depend on the images and on chance.

use std::path::PathBuf;

use serde::Serialize;

use super::cluster::default_clusters;
use super::common::{Common, print, print_json};
use super::sat::ScoreOptions;
use super::{Failure, Outcome, values};
use crate::analysis::stability::{Agreement, ImagesNeeded, StabilityConfig, between, differences, images_for, within};
use crate::analysis::uncertainty::WithInterval;
use crate::similarity::sat::{Outcomes, SatRun};

/// Tell how a run's scores, their order and the clusters change with the images, and from run to run
///
/// Each run is compared on random halves of its images. Runs of the same networks on the same images, such as runs of another seed, are
/// compared with each other.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run folders of `netkin sat`
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// How often the images are divided into halves
    #[arg(long, value_name = "COUNT", default_value = "200", value_parser = values::positive)]
    halves: usize,
    /// The number of clusters [default: 10, or half of the networks if there are fewer than 20]
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    k: Option<usize>,
    /// Also say how many images make the 95 % intervals of scores at most so wide
    #[arg(long, value_name = "WIDTH", value_parser = width)]
    width: Option<f64>,
    /// Decides the halves
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    seed: u64,
    #[command(flatten)]
    score: ScoreOptions,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    config: StabilityConfig,
    networks: usize,
    images: usize,
    /// Two halves of the images of each run.
    runs: Vec<Within>,
    /// Each two runs.
    pairs: Vec<Between>,
}

#[derive(Serialize)]
struct Within {
    run: String,
    /// The median over the divisions into halves, and the middle 95 %.
    halves: Agreement<Option<WithInterval>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    needed: Option<ImagesNeeded>,
}

#[derive(Serialize)]
struct Between {
    runs: [String; 2],
    /// In what they differ.
    differ: Vec<String>,
    /// On all images, and where it lies for so many images on average (95 %).
    agreement: Agreement<Option<WithInterval>>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let epsilon_s = self.score.epsilon_s()?;
        let collect = |path: &PathBuf| Outcomes::open(path)?.collect(epsilon_s);
        let runs: Vec<SatRun> = self.runs.iter().map(collect).collect::<Result<_, _>>()?;
        let names: Vec<String> = self.runs.iter().map(|path| path.display().to_string()).collect();
        let networks = runs[0].networks.len();
        if networks < 3 {
            return Err(format!(
                "{} is of {networks} network(s), whose pairs have no order to speak of; give a run of at least 3",
                names[0]
            )
            .into());
        }
        let clusters = self.k.unwrap_or_else(|| default_clusters(networks));
        if clusters > networks {
            return Err(format!(
                "{networks} networks cannot be divided into {clusters} clusters; give --k up to {networks}"
            )
            .into());
        }
        let config = StabilityConfig { halves: self.halves, clusters, seed: self.seed };
        let bar = common.bar("comparisons");
        bar.set_length((runs.len() * (runs.len() + 1) / 2) as u64);
        let mut pairs = Vec::new();
        for one in 0..runs.len() {
            for other in one + 1..runs.len() {
                let agreement = between(&runs[one], &runs[other], &config)
                    .map_err(|error| format!("{} and {}: {error}", names[one], names[other]))?;
                pairs.push(Between {
                    runs: [names[one].clone(), names[other].clone()],
                    differ: differences(&runs[one], &runs[other]),
                    agreement,
                });
                bar.inc(1);
            }
        }
        let within = |(run, name): (&SatRun, &String)| {
            bar.inc(1);
            Within {
                run: name.clone(),
                halves: within(run, &config),
                needed: self.width.and_then(|width| images_for(run, width)),
            }
        };
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            networks,
            images: runs[0].images - runs[0].skipped.len(),
            runs: runs.iter().zip(&names).map(within).collect(),
            pairs,
            config,
        };
        bar.finish_and_clear();
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_text(self.width))?;
        }
        Ok(Outcome::Done)
    }
}

impl Document {
    fn to_text(&self, width: Option<f64>) -> String {
        let StabilityConfig { halves, clusters, .. } = self.config;
        let mut text = format!(
            "{} networks, {} images, {clusters} clusters; middle 95 % in brackets\n\n",
            self.networks, self.images
        );
        let of_halves = self.runs.iter().map(|row| (format!("halves of {}", row.run), &row.halves));
        let of_pairs = self.pairs.iter().map(|row| (row.runs.join(" – "), &row.agreement));
        let rows: Vec<(String, &Agreement<_>)> = of_halves.chain(of_pairs).collect();
        let wide = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        text += &format!(
            "{:wide$}  {:22}  {:22}  {:22}  same clusters\n",
            "", "rank correlation", "mean difference", "largest difference"
        );
        let cell = |number: &Option<WithInterval>| match number {
            Some(WithInterval { estimate, interval: [low, high] }) => format!("{estimate:.3} [{low:.3}, {high:.3}]"),
            None => "none".into(),
        };
        for (name, Agreement { rank_correlation, mean_difference, largest_difference, rand_index }) in rows {
            let line = format!(
                "{name:wide$}  {:22}  {:22}  {:22}  {}\n",
                cell(rank_correlation),
                cell(mean_difference),
                cell(largest_difference),
                cell(rand_index)
            );
            text += &line;
        }
        text += &format!(
            "\nhalves: two random halves of the images beside each other, the median of {halves} divisions;\n\
             same clusters: adjusted Rand index, 1 where all are the same\n"
        );
        if !self.pairs.is_empty() {
            text += "two runs: on all images, and in brackets what other images, as many, would give on average\n";
        }
        for Between { runs, differ, .. } in &self.pairs {
            let differ = if differ.is_empty() { "nothing".to_owned() } else { differ.join(", ") };
            text += &format!("{} differ in {differ}\n", runs.join(" – "));
        }
        for Within { run, needed, .. } in &self.runs {
            text += &width.map_or(String::new(), |width| format!("\n{run}: {}", in_words(needed.as_ref(), width)));
        }
        text
    }
}

/// How many images are needed, and on what that rests.
pub fn in_words(needed: Option<&ImagesNeeded>, wanted: f64) -> String {
    let Some(ImagesNeeded { images, half, every, most: [a, b], unknown, .. }) = needed else {
        return format!(
            "nothing tells how many images make intervals {wanted} wide, since no attack fools another network\n"
        );
    };
    let mut text = format!(
        "95 % intervals at most {wanted} wide take {half} images for half of the pairs, {every} for all ({a} – {b} needs most),\n\
         if further images are like these {images}: a standard error falls with the square root of their number\n"
    );
    if *unknown > 0 {
        text += &format!("{unknown} pair(s) never fooled each other and tell nothing\n");
    }
    text
}

/// A width above 0.
pub fn width(text: &str) -> Result<f64, String> {
    values::fraction(text).ok().filter(|width| *width > 0.0).ok_or_else(|| "give a width above 0 such as 0.2".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_above_0() {
        assert_eq!(width("0.2"), Ok(0.2));
        for wrong in ["0", "-1", "x", "inf"] {
            assert!(width(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_needed_is_said_with_what_it_rests_on() {
        let most = ["a", "b"].map(String::from);
        let needed = ImagesNeeded { width: 0.2, images: 50, half: 120, every: 400, most, unknown: 1 };
        let said = in_words(Some(&needed), 0.2);
        for part in ["0.2 wide take 120 images", "400 for all (a – b", "like these 50", "1 pair(s)"] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        assert!(in_words(None, 0.2).contains("nothing tells"));
    }
}
