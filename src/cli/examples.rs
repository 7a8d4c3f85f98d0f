//! Examples of every command, in one list, of which `--help`, README.md and docs/commands.md are made and which tests/examples.rs runs.

use clap::{Command, CommandFactory};

const LIST: &str = include_str!("examples.txt");

/// The examples of one command.
#[derive(Debug)]
pub struct Examples {
    /// The command, such as `matrix summary`.
    pub name: &'static str,
    /// What it is for, in one line.
    pub about: String,
    /// One to three.
    pub examples: Vec<Example>,
}

/// What is typed, and what is printed.
#[derive(Debug)]
pub struct Example {
    /// A line for a shell.
    pub typed: &'static str,
    /// What is printed, on both streams; `…` stands for any text, alone on a line for any lines.
    pub printed: Vec<&'static str>,
    /// How a test holds it to that.
    pub check: Check,
}

/// How an example is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// By its output.
    Output,
    /// By its output but for numbers, which depend on the machine.
    OutputButNumbers,
    /// By its options alone.
    Options,
}

/// All of them, in the order of the list.
pub fn all() -> Vec<Examples> {
    let cli = super::Cli::command();
    let mut all: Vec<Examples> = Vec::new();
    for line in LIST.lines().skip_while(|line| !line.starts_with("## ")) {
        if let Some(name) = line.strip_prefix("## ") {
            let command = name.split(' ').try_fold(&cli, |command, name| command.find_subcommand(name));
            let about = command.and_then(Command::get_about).map(ToString::to_string).unwrap_or_default();
            all.push(Examples { name, about, examples: Vec::new() });
            continue;
        }
        let examples = &mut all.last_mut().expect("the list begins with a name").examples;
        let checks = [("$ ", Check::Output), ("≈ ", Check::OutputButNumbers), ("? ", Check::Options)];
        match checks.into_iter().find_map(|(mark, check)| Some((line.strip_prefix(mark)?, check))) {
            Some((typed, check)) => examples.push(Example { typed, printed: Vec::new(), check }),
            None => examples.last_mut().expect("output comes after a command").printed.push(line),
        }
    }
    for example in all.iter_mut().flat_map(|command| &mut command.examples) {
        while example.printed.last().is_some_and(|line| line.is_empty()) {
            example.printed.pop();
        }
    }
    all
}

impl Example {
    /// As it looks in a terminal, a line each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        std::iter::once(format!("$ {}", self.typed)).chain(self.printed.iter().map(|line| line.to_string()))
    }
}

/// The command line of netkin, with the examples of each command at the end of its `--help`.
pub fn command_line() -> Command {
    all().into_iter().fold(super::Cli::command(), |cli, Examples { name, examples, .. }| {
        let lines = examples.iter().flat_map(Example::lines).map(|line| format!("  {line}").trim_end().to_owned());
        let text = format!("Examples:\n{}", lines.collect::<Vec<_>>().join("\n"));
        let path: Vec<&str> = name.split(' ').collect();
        add(cli, &path, text)
    })
}

/// Puts a text behind the long help of a subcommand, if there is one of that name.
fn add(command: Command, path: &[&str], text: String) -> Command {
    match path {
        [] => command.after_long_help(text),
        [name, ..] if command.find_subcommand(name).is_none() => command,
        [name, rest @ ..] => command.mut_subcommand(*name, |command| add(command, rest, text)),
    }
}
