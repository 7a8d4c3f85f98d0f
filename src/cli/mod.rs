//! The command line: what was typed becomes ready objects, then one call into the library.
//!
//! stdout is data, everything else goes to stderr. Exit codes: 0 done; 1 done, but something failed or fell short;
//! 2 could not run; 75 may succeed at another time: a run of `sat` or a share of it, `plan` or `merge` whose disk was full or whose
//! device failed, or a training that was stopped, whose disk was full, or whose folder another process uses.

mod attack;
mod attack_options;
mod attack_target;
mod bench;
mod cluster;
mod common;
mod compare;
mod completions;
mod condition;
pub(crate) mod config_file;
mod demo;
mod distill_study;
mod diverge;
mod doctor;
mod ensemble;
mod eval;
pub mod examples;
mod features;
mod forward;
mod importance;
mod info;
mod layers;
mod matrix;
mod merge;
mod models;
mod nearest;
mod plan;
mod report;
mod robustness;
mod sat;
mod source;
mod stability;
mod status;
mod stop;
mod study_options;
mod surrogates;
mod teacher;
mod train;
mod training_diversity;
mod values;
mod weights;

use std::process::ExitCode;

use clap::{FromArgMatches, Parser, Subcommand};

use common::Common;

/// How alike are neural networks? Similarity by attack transferability, on your own machine.
#[derive(Debug, Parser)]
#[command(name = "netkin", version, args_override_self = true, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
enum Command {
    Models(models::Args),
    Info(info::Args),
    Weights(weights::Args),
    Forward(forward::Args),
    Eval(eval::Args),
    Attack(attack::Args),
    Sat(sat::Args),
    Plan(plan::Args),
    Status(status::Args),
    Merge(merge::Args),
    Demo(demo::Args),
    Compare(compare::Args),
    Layers(layers::Args),
    Condition(condition::Args),
    Matrix(matrix::Args),
    Cluster(cluster::Args),
    Importance(importance::Args),
    Ensemble(ensemble::Args),
    Nearest(nearest::Args),
    Stability(stability::Args),
    Report(report::Args),
    Train(train::Args),
    TrainingDiversity(training_diversity::Args),
    Teacher(teacher::Args),
    DistillStudy(distill_study::Args),
    Diverge(diverge::Args),
    Robustness(robustness::Args),
    Bench(bench::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// How a command that ran ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All of it.
    Done,
    /// Something was left out or failed; it was said on stderr.
    FellShort,
    /// Not, but the same may succeed at another time.
    TryAgain,
}

/// A sentence for stderr.
type Failure = Box<dyn std::error::Error>;

/// Runs the program with the arguments that it was started with.
pub fn main() -> ExitCode {
    let arguments = match config_file::expand(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(failure) => return could_not_run(&failure),
    };
    let parsed = examples::command_line().try_get_matches_from(arguments);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            match made_visible(&error) {
                Some(text) => eprint!("{text}"),
                // Help and version are what was asked for; a reader that has gone is no matter.
                None => drop(error.print()),
            }
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    if let Err(error) = crate::runtime::prepare(cli.common.threads) {
        return could_not_run(&error.into());
    }
    let common = &cli.common;
    if !matches!(cli.command, Command::Sat(_) | Command::Bench(_))
        && let Err(error) = common.device.one()
    {
        return could_not_run(&error.into());
    }
    let ended = match cli.command {
        Command::Models(args) => args.run(common),
        Command::Info(args) => args.run(common),
        Command::Weights(args) => args.run(common),
        Command::Forward(args) => args.run(common),
        Command::Eval(args) => args.run(common),
        Command::Attack(args) => args.run(common),
        Command::Sat(args) => args.run(common),
        Command::Plan(args) => args.run(common),
        Command::Status(args) => args.run(common),
        Command::Merge(args) => args.run(common),
        Command::Demo(args) => args.run(common),
        Command::Compare(args) => args.run(common),
        Command::Layers(args) => args.run(common),
        Command::Condition(args) => args.run(common),
        Command::Matrix(args) => args.run(common),
        Command::Cluster(args) => args.run(common),
        Command::Importance(args) => args.run(common),
        Command::Ensemble(args) => args.run(common),
        Command::Nearest(args) => args.run(common),
        Command::Stability(args) => args.run(common),
        Command::Report(args) => args.run(common),
        Command::Train(args) => args.run(common),
        Command::TrainingDiversity(args) => args.run(common),
        Command::Teacher(args) => args.run(common),
        Command::DistillStudy(args) => args.run(common),
        Command::Diverge(args) => args.run(common),
        Command::Robustness(args) => args.run(common),
        Command::Bench(args) => args.run(common),
        Command::Doctor(args) => args.run(common),
        Command::Completions(args) => args.run(),
    };
    match ended {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::FellShort) => ExitCode::from(1),
        // What sysexits.h calls EX_TEMPFAIL.
        Ok(Outcome::TryAgain) => ExitCode::from(75),
        Err(failure) => could_not_run(&failure),
    }
}

/// The network of that name, or a sentence with those most like it.
fn known(name: &str) -> Result<&'static netkin_architectures::Entry, Failure> {
    netkin_architectures::find(name).map_err(|similar| match similar.as_slice() {
        [] => format!("there is no network {name:?}; `netkin models` lists them").into(),
        similar => format!("there is no network {name:?}; did you mean {}?", similar.join(", ")).into(),
    })
}

/// The networks that names, aliases, patterns and sets (`@paper69`) mean, in their order; a name that means none is refused with those most
/// like it.
fn chosen(patterns: &[String]) -> Result<Vec<&'static netkin_architectures::Entry>, Failure> {
    let mut entries = Vec::new();
    for pattern in patterns {
        if pattern.starts_with('@') {
            let set: netkin_weights::ModelSet = pattern.parse()?;
            entries.extend(set.specs().iter().map(netkin_weights::ModelSpec::entry));
            continue;
        }
        match netkin_architectures::find(pattern) {
            Ok(entry) => entries.push(entry),
            Err(_) => match netkin_architectures::matching(pattern) {
                found if found.is_empty() => entries.push(known(pattern)?),
                found => entries.extend(found),
            },
        }
    }
    Ok(entries)
}

/// Whether this is written as a set or as a model with its tag, and not as a part of names.
fn named(pattern: &str) -> bool {
    pattern.starts_with('@') || (pattern.contains('.') && !pattern.contains(['*', '?']))
}

/// What is wrong with a command line, if it holds what a terminal would obey. It has no colours, which are commands as well.
fn made_visible(error: &clap::Error) -> Option<String> {
    let reason = std::error::Error::source(error).map(|reason| reason.to_string());
    let mut told = error.context().map(|(_, value)| value.to_string()).chain(reason);
    let is_odd = told.any(|text| common::visible(&text) != text);
    is_odd.then(|| common::visible(&error.render().to_string()).into_owned())
}

fn could_not_run(failure: &Failure) -> ExitCode {
    common::say(&failure.to_string());
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_command_line_is_shown_as_people_can_see_it() {
        let said = |threads: &str| {
            let parsed = Cli::command().try_get_matches_from(["netkin", "--threads", threads, "models"]);
            made_visible(&parsed.unwrap_err())
        };
        assert_eq!(said("three"), None);
        let text = said("\u{1b}[31m3\u{202e}").unwrap();
        assert!(!text.contains(['\u{1b}', '\u{202e}']) && text.contains("3\\u{202e}"), "{text:?}");
    }
}
