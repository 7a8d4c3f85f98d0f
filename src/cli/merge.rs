//! `netkin merge`: several run folders become one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::common::{Common, say};
use super::status::unrecorded;
use super::{Failure, Outcome, sat};
use crate::runs::{RunFolder, Shard, merge};
use crate::similarity::sat::Outcomes;

/// Copy the finished work of run folders into one, and write its results once nothing is missing
///
/// Shares of a run that were done in one shared folder need no merge: give the folder as --into alone, to write the results
/// without loading any network.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run folders
    #[arg(value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// The run folder that gets it all
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    #[command(flatten)]
    score: sat::ScoreOptions,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        sat::tried_again_later(|| self.merge(common))
    }

    fn merge(&self, common: &Common) -> Result<Outcome, Failure> {
        let epsilon_s = self.score.epsilon_s()?;
        let folders = self.runs.iter().map(|path| RunFolder::existing(path)).collect::<Result<Vec<_>, _>>()?;
        self.check_networks()?;
        let (_, merged) = merge(&folders, &self.into)?;
        if !folders.is_empty() {
            let (copied, there) = (merged.copied, merged.there);
            common.note(&format!("{copied} predictions and other units copied, {there} were there"));
        }
        let mut conflicts = BTreeMap::<_, usize>::new();
        for conflict in &merged.conflicts {
            *conflicts.entry((&conflict.kept.device, &conflict.left.device)).or_default() += 1;
        }
        for ((kept, left), count) in conflicts {
            say(&format!("{count} units made by {kept} stayed, although those made by {left} are others"));
        }
        if merged.damaged > 0 {
            say(&format!("{} damaged units were not copied", merged.damaged));
        }

        let outcomes = Outcomes::open(&self.into)?;
        let plan = outcomes.plan(Shard::WHOLE)?;
        if plan.missing() > 0 {
            say(&format!(
                "{} of {} units of work are missing, so there are no results yet; see `netkin status {}`",
                plan.missing(),
                plan.total(),
                self.into.display()
            ));
            return Ok(Outcome::FellShort);
        }
        let outcome = sat::report(&outcomes.collect(epsilon_s)?, &self.into, None, common)?;
        if plan.unwanted() > 0 {
            say(&format!("there are {}", unrecorded(plan.unwanted())));
        }
        let is_all = merged.conflicts.is_empty() && plan.unwanted() == 0;
        Ok(if is_all { outcome } else { Outcome::FellShort })
    }

    /// Networks of one name and different weights would be rows of one name: refused before anything is copied.
    fn check_networks(&self) -> Result<(), Failure> {
        let mut seen = BTreeMap::new();
        let target = self.into.join("run.json").exists().then_some(&self.into);
        for folder in self.runs.iter().chain(target) {
            for network in Outcomes::open(folder)?.networks() {
                let first = seen.entry(network.name.clone()).or_insert((network.key, folder));
                if first.0 != network.key {
                    return Err(format!(
                        "{} has other weights in {} than in {}; name one of them NAME.TAG=WEIGHTS",
                        network.name,
                        folder.display(),
                        first.1.display()
                    )
                    .into());
                }
            }
        }
        Ok(())
    }
}
