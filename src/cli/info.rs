//! `netkin info`: one network.

use netkin_weights::{HubConfig, ModelSpec, Precision, Preprocessing, catalogue};
use serde::Serialize;

use super::common::{Common, print, print_json};
use super::{Failure, Outcome};

/// Show one network: its family, size, weights and their preprocessing
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG for the preprocessing of those weights, or NAME=WEIGHTS to look into a file
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
    /// Of the weights' file, if one was named: its SHA-256, and what was chosen among several things in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<Weights>,
}

#[derive(Serialize)]
struct Weights {
    sha256: String,
    num_classes: usize,
    notes: Vec<String>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let entry = self.model.entry();
        let weights = match self.model.path() {
            None => None,
            Some(_) => {
                let model = common.load_one(&self.model, Precision::F32)?;
                let (sha256, num_classes) = (model.sha256().to_owned(), model.num_classes());
                Some(Weights { sha256, num_classes, notes: model.notes().to_vec() })
            }
        };
        let document = Document {
            name: entry.name,
            family: entry.family,
            params: entry.parameters(),
            num_classes: entry.config.num_classes(),
            default_tag: self.model.usual_tag().map(str::to_owned),
            tags: catalogue::tags(entry.name).into_iter().map(str::to_owned).collect(),
            preprocessing: netkin_weights::preprocessing(&self.model, &HubConfig::from_env())?,
            config: format!("{:?}", entry.config),
            weights,
        };
        if common.json {
            print_json(&document)?;
            return Ok(Outcome::Done);
        }
        let Document { name, family, params, num_classes, default_tag, tags, preprocessing, config, weights } =
            &document;
        let Preprocessing { input_size: [height, width], crop_pct, interpolation, mean, std, .. } = preprocessing;
        let interpolation = format!("{interpolation:?}").to_lowercase();
        let default_tag = default_tag.as_deref().unwrap_or("none");
        let tags = tags.join(" ");
        print(&format!(
            "name            {name}\nfamily          {family}\nparameters      {params}\nclasses         {num_classes}\n\
             default weights {default_tag}\nweights         {tags}\ninput           {height} × {width}, {interpolation}, crop {crop_pct}\n\
             mean            {mean:?}\ndeviation       {std:?}\nconfiguration   {config}\n"
        ))?;
        if let Some(Weights { sha256, num_classes, notes }) = weights {
            print(&format!("file            {num_classes} classes, SHA-256 {sha256}\n"))?;
            notes.iter().try_for_each(|note| print(&format!("                {note}\n")))?;
        }
        Ok(Outcome::Done)
    }
}
