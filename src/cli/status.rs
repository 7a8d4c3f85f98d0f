//! `netkin status`: how far a run is.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::common::{Common, print, print_json};
use super::sat::{MadeBy, made_by};
use super::{Failure, Outcome, values};
use crate::runs::{Plan, Shard};
use crate::similarity::sat::Outcomes;

/// Say what is done and what is missing of a run; the exit code is 1 while something is missing
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run folder
    #[arg(value_name = "DIR")]
    run: PathBuf,
    /// List which of COUNT shares are not done, as `sbatch --array=` wants it
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    shards: Option<usize>,
}

#[derive(Serialize)]
struct Document {
    networks: usize,
    images: usize,
    /// Chunks of 32 images attacked on one network and judged by all.
    total: usize,
    done: usize,
    missing: usize,
    /// Units of networks that the folder has no record of.
    unrecorded: usize,
    /// Of those, the ones that were done and are damaged.
    damaged: Vec<String>,
    made_by: Vec<MadeBy>,
    /// At the pace of late; none if nothing is missing, or there is no pace yet.
    seconds_left: Option<f64>,
    /// The shares that are not done, for `--array=`, if `--shards` was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    array: Option<String>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let outcomes = Outcomes::open(&self.run)?;
        let plan = outcomes.plan(Shard::WHOLE)?;
        let missing = plan.missing();
        let document = Document {
            networks: outcomes.networks().len(),
            images: outcomes.images().images().len(),
            total: plan.total(),
            done: plan.total() - missing,
            missing,
            unrecorded: plan.unwanted(),
            damaged: plan.damaged().map(ToString::to_string).collect(),
            made_by: made_by(&plan.made_by()),
            seconds_left: seconds_left(&plan),
            array: self.shards.map(|count| array(&plan, count)),
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_text())?;
        }
        Ok(if missing == 0 && document.unrecorded == 0 { Outcome::Done } else { Outcome::FellShort })
    }
}

impl Document {
    fn to_text(&self) -> String {
        let Self { networks, images, total, done, missing, .. } = self;
        let percent = 100.0 * *done as f64 / (*total).max(1) as f64;
        let mut text = format!(
            "networks  {networks}\nimages    {images}\n\
             done      {done} of {total} units of work ({percent:.1} %)\nmissing   {missing}\n"
        );
        for MadeBy { provenance, units } in &self.made_by {
            text += &format!("made by   {} (netkin {}): {units} predictions\n", provenance.device, provenance.netkin);
        }
        for damage in &self.damaged {
            text += &format!("damaged   {damage}\n");
        }
        if self.unrecorded > 0 {
            text += &format!("besides   {}\n", unrecorded(self.unrecorded));
        }
        if let Some(seconds) = self.seconds_left {
            text += &format!("still     about {}\n", in_words(seconds));
        }
        if let Some(array) = self.array.as_ref().filter(|array| !array.is_empty()) {
            text += &format!("--array={array}\n");
        }
        text
    }
}

/// What to say of units whose networks the run folder does not know.
pub fn unrecorded(units: usize) -> String {
    format!(
        "{units} units of networks of which the folder models/ has no record: run `netkin sat` with these networks again, \
         or restore that folder"
    )
}

/// The shares of `count` of which something is missing, as a list of numbers and ranges.
fn array(plan: &Plan, count: usize) -> String {
    let mut shares: Vec<usize> =
        plan.shelves.iter().filter(|shelf| !shelf.missing.is_empty()).map(|shelf| shelf.index % count).collect();
    shares.sort_unstable();
    shares.dedup();
    let runs = shares.chunk_by(|a, b| a + 1 == *b);
    let text = runs.map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    text.collect::<Vec<_>>().join(",")
}

/// How long what is missing takes, if chunks go on being done as often as in the last hour of the run's work.
fn seconds_left(plan: &Plan) -> Option<f64> {
    const WINDOW: Duration = Duration::from_secs(3600);
    let missing = plan.missing();
    let mut done: Vec<(SystemTime, usize)> = plan
        .shelves
        .iter()
        .filter_map(|shelf| Some((shelf.changed?, plan.rows - shelf.missing.len())))
        .filter(|(_, rows)| *rows > 0)
        .collect();
    done.sort_unstable();
    let &(last, _) = done.last()?;
    let late: Vec<_> =
        done.into_iter().filter(|(time, _)| last.duration_since(*time).unwrap_or_default() <= WINDOW).collect();
    let (first, _) = late.first()?;
    let seconds = last.duration_since(*first).ok()?.as_secs_f64();
    // What was done until the first of these times was done before.
    let rows: usize = late[1..].iter().map(|(_, rows)| rows).sum();
    (missing > 0 && rows > 0 && seconds > 0.0).then(|| missing as f64 * seconds / rows as f64)
}

fn in_words(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::ShelfPlan;

    /// Shelves of two rows, each with what is missing and the second at which it changed last.
    fn plan(shelves: &[(&[usize], Option<u64>)]) -> Plan {
        let shelf = |(index, (missing, changed)): (usize, &(&[usize], Option<u64>))| ShelfPlan {
            index,
            missing: missing.to_vec(),
            made_by: Default::default(),
            unwanted: 0,
            damaged: Vec::new(),
            is_untidy: false,
            changed: changed.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        };
        Plan { shelves: shelves.iter().enumerate().map(shelf).collect(), rows: 2 }
    }

    #[test]
    fn missing_shares_are_listed_as_ranges() {
        let missing: (&[usize], _) = (&[0], None);
        let done: (&[usize], _) = (&[], Some(0));
        let plan = plan(&[missing, done, missing, missing, missing, done, missing]);
        assert_eq!(array(&plan, 7), "0,2-4,6");
        assert_eq!(array(&plan, 5), "0-4");
        assert_eq!(array(&plan, 100), "0,2-4,6");
        assert_eq!(array(&Plan::default(), 3), "");
    }

    #[test]
    fn what_is_left_goes_on_at_the_pace_of_the_last_hour() {
        // Long ago one shelf; of late two rows in 100 seconds, twice.
        let plan =
            plan(&[(&[], Some(0)), (&[], Some(90_000)), (&[], Some(90_100)), (&[], Some(90_200)), (&[0, 1], None)]);
        assert_eq!(seconds_left(&plan), Some(100.0));
        assert_eq!(seconds_left(&Plan::default()), None);
        assert_eq!([30.0, 600.0, 9000.0, 864_000.0].map(in_words), ["30 s", "10 min", "2.5 h", "10.0 days"]);
    }
}
