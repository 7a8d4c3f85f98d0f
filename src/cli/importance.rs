//! `netkin importance`: which components make networks differ.

use serde::Serialize;

use super::common::{Common, print, print_json};
use super::sat::ScoreOptions;
use super::source::{ComponentOptions, Source};
use super::{Failure, Outcome, values};
use crate::analysis::boosting::BoostingConfig;
use crate::analysis::importance::{Importance, ImportanceConfig, Importances, importance};

/// Find which components make networks differ
///
/// Gradient boosting predicts each pair's score from the components in which the two networks differ; a component is as
/// important as R² falls when its column is permuted.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    components: ComponentOptions,
    /// The regression: default (scikit-learn's defaults) or paper (500 trees of depth 12, which takes half a minute)
    #[arg(long, value_name = "SETTING", default_value = "default", value_parser = setting)]
    setting: BoostingConfig,
    /// Parts of which each is left out once, to see how unseen pairs and unseen networks are predicted
    #[arg(long, value_name = "COUNT", default_value = "5", value_parser = clap::value_parser!(u16).range(2..))]
    folds: u16,
    /// How often the parts are drawn anew
    #[arg(long, value_name = "COUNT", default_value = "5", value_parser = values::positive)]
    repetitions: usize,
    /// Of a run, how many random halves of its images are explained, too, for intervals over images
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = values::positive)]
    halves: usize,
    /// Decides all that is drawn
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    seed: u64,
    #[command(flatten)]
    score: ScoreOptions,
}

#[derive(Serialize)]
struct Document<'a> {
    netkin: &'static str,
    matrix: String,
    config: &'a ImportanceConfig,
    #[serde(flatten)]
    importances: &'a Importances,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let matrix = self.source.matrix()?;
        let components = self.components.of(&matrix.names)?;
        let config = ImportanceConfig {
            boosting: self.setting,
            folds: usize::from(self.folds),
            repetitions: self.repetitions,
            seed: self.seed,
            ..ImportanceConfig::default()
        };
        let mut importances = importance(&matrix, &components, &config)?;
        if let Some(behind) = self.source.run(&matrix, &self.score)? {
            importances.over_images(&behind.selected(), &components, &config, self.halves);
        }
        if common.json {
            print_json(&Document {
                netkin: env!("CARGO_PKG_VERSION"),
                matrix: self.source.name(),
                config: &config,
                importances: &importances,
            })?;
        } else {
            print(&to_text(&importances, &self.source.name()))?;
        }
        Ok(Outcome::Done)
    }
}

fn to_text(importances: &Importances, name: &str) -> String {
    let width = importances.components.iter().map(|found| found.component.chars().count()).max().unwrap_or(0);
    let has_images = importances.components.iter().any(|found| found.over_images.is_some());
    let images = if has_images { format!("  {:16}", "over images") } else { String::new() };
    let mut text = format!(
        "{} pairs: {name}\n\n{:width$}  importance  {:16}{images}  {:>7}  score if same  if different\n",
        importances.pairs, "component", "95 % interval", "differ"
    );
    let range = |[low, high]: [f64; 2]| format!("{low:6.3} to {high:6.3}");
    for Importance { component, importance, interval, over_images, differ, score_if_same, score_if_different } in
        &importances.components
    {
        let images = match over_images {
            Some(interval) => format!("  {}", range(*interval)),
            None if has_images => format!("  {:16}", "none"),
            None => String::new(),
        };
        text += &format!(
            "{component:width$}  {importance:10.3}  {}{images}  {:5.1} %  {score_if_same:13.3}  {score_if_different:12.3}\n",
            range(*interval),
            100.0 * differ
        );
    }
    text += &format!(
        "\nR²: {:.3} for pairs that were seen, {:.3} for pairs left out, {:.3} for networks left out\n",
        importances.r2_fitted, importances.r2_pairs_left_out, importances.r2_networks_left_out
    );
    text
}

fn setting(text: &str) -> Result<BoostingConfig, String> {
    match text {
        "default" => Ok(BoostingConfig::default()),
        "paper" => Ok(BoostingConfig::PAPER),
        _ => Err("give default or paper".into()),
    }
}
