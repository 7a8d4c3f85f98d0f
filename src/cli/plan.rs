//! `netkin plan`: what a run consists of, written down once, before many processes begin.

use super::common::{Common, print, print_json, say_doubts};
use super::{Failure, Outcome, sat};
use crate::runs::{Shard, Trust};
use crate::similarity::sat::{NetworkRecord, SatFolder};

/// Prepare the run folder of `sat`: check networks and images once, so that its shares need not
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: sat::Settings,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        sat::tried_again_later(|| self.plan(common))
    }

    fn plan(&self, common: &Common) -> Result<Outcome, Failure> {
        let dataset = self.settings.data.open()?;
        let config = self.settings.config(&dataset)?;
        let mut networks = Vec::new();
        for (position, spec) in self.settings.specs()?.iter().enumerate() {
            // One at a time: all networks need not fit into this machine.
            let model = common.load_one(spec, self.settings.options.precision)?;
            networks.push(NetworkRecord::of(&model, config.crop, position));
        }
        say_doubts(&dataset, networks.iter().map(|network| network.num_classes));
        let folder = SatFolder::open(networks, &dataset, &config, &self.settings.run, Trust::Files)?;
        let plan = folder.plan(Shard::WHOLE)?;
        let (networks, images, chunks) = (plan.rows, dataset.samples.len(), plan.shelves.len());
        if common.json {
            print_json(&serde_json::json!({
                "networks": networks,
                "images": images,
                "chunks": chunks,
                "total": plan.total(),
                "missing": plan.missing(),
            }))?;
        } else {
            print(&format!(
                "{networks} networks, {images} images in {chunks} chunks: {} units of work, of which {} are missing\n\
                 up to {chunks} shares can work at once: netkin sat … --shard I/N\n",
                plan.total(),
                plan.missing()
            ))?;
        }
        Ok(Outcome::Done)
    }
}
