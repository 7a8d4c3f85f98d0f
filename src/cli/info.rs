//! `netkin info`: one network.

use netkin_weights::{ModelSpec, Preprocessing, catalogue};
use serde::Serialize;

use super::common::{Common, print, print_json};
use super::{Failure, Outcome};

/// Show one network: its family, size, weights and their preprocessing
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, or NAME.TAG for the preprocessing of those weights
    model: ModelSpec,
}

#[derive(Serialize)]
struct Document {
    name: &'static str,
    family: &'static str,
    params: usize,
    num_classes: usize,
    /// The weights that the name alone stands for.
    default_tag: Option<String>,
    /// All weights known by name.
    tags: Vec<String>,
    preprocessing: Preprocessing,
    config: String,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let entry = self.model.entry();
        let document = Document {
            name: entry.name,
            family: entry.family,
            params: entry.parameters(),
            num_classes: entry.config.num_classes(),
            default_tag: catalogue::default_tag(entry.name).map(str::to_owned),
            tags: catalogue::tags(entry.name).into_iter().map(str::to_owned).collect(),
            preprocessing: catalogue::preprocessing(entry.name, self.model.tag())
                .unwrap_or_else(|| Preprocessing::usual(entry)),
            config: format!("{:?}", entry.config),
        };
        if common.json {
            print_json(&document)?;
            return Ok(Outcome::Done);
        }
        let Document { name, family, params, num_classes, default_tag, tags, preprocessing, config } = &document;
        let Preprocessing { input_size: [height, width], crop_pct, interpolation, mean, std, .. } = preprocessing;
        let interpolation = format!("{interpolation:?}").to_lowercase();
        let default_tag = default_tag.as_deref().unwrap_or("none");
        let tags = tags.join(" ");
        print(&format!(
            "name            {name}\nfamily          {family}\nparameters      {params}\nclasses         {num_classes}\n\
             default weights {default_tag}\nweights         {tags}\ninput           {height} × {width}, {interpolation}, crop {crop_pct}\n\
             mean            {mean:?}\ndeviation       {std:?}\nconfiguration   {config}\n"
        ))?;
        Ok(Outcome::Done)
    }
}
