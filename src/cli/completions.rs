//! `netkin completions`: for the shell.

use clap::CommandFactory;

use super::{Cli, Failure, Outcome, common};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell
    shell: clap_complete::Shell,
}

impl Args {
    pub fn run(self) -> Result<Outcome, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "netkin", &mut script);
        common::print(&String::from_utf8(script)?)?;
        Ok(Outcome::Done)
    }
}
