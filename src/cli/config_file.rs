//! Options from a TOML file.
//!
//! ```toml
//! device = "cuda:0"     # an option of every command
//!
//! [sat]                 # options of one command, by their long names
//! steps = 20
//! eps = "8/255"
//!
//! [bench]
//! pass = ["forward", "train"]   # an option that may be given several times
//! ```
//!
//! What the file says is put before what was typed, so the command line wins; of an option that may be given several
//! times, it is left out if any was typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, CommandFactory};
use toml::Value;

use super::{Cli, Failure};
use crate::files::read_regular;

/// The largest configuration that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The arguments with those of the file that `--config` names, if it is given.
pub fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let Some(path) = config_path(&arguments) else {
        return Ok(arguments);
    };
    let place = path.display();
    let unreadable = |reason: &dyn std::fmt::Display| {
        format!("cannot read the configuration {place} ({reason}); check the path given as --config")
    };
    let bytes = read_regular(&path, MAX_FILE).map_err(|error| unreadable(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| unreadable(&error))?;
    let table: toml::Table = text.parse().map_err(|error| format!("the configuration {place} is not TOML: {error}"))?;

    let cli = Cli::command();
    let is_command = |argument: &OsString| argument.to_str().is_some_and(|name| cli.find_subcommand(name).is_some());
    // The first word that names a command is the command, unless an option takes it as its value, which none does.
    let position = arguments.iter().skip(1).position(is_command).map(|index| index + 1);
    let Some(position) = position else {
        return Ok(arguments);
    };
    let chosen = arguments[position].to_string_lossy().into_owned();
    let is_typed = |key: &str| {
        arguments.iter().filter_map(|word| word.to_str()).any(|word| {
            let name = word.strip_prefix("--").unwrap_or_default();
            name.split('=').next() == Some(key)
        })
    };
    let push = |inserted: &mut _, option: &clap::Arg, key: &str, value: &_| match matches!(
        option.get_action(),
        ArgAction::Append
    ) && is_typed(key)
    {
        true => Ok(()),
        false => push(inserted, option, key, value, &path),
    };

    let mut inserted = Vec::new();
    for (key, value) in &table {
        match value {
            Value::Table(options) => {
                let command = cli.find_subcommand(key).ok_or_else(|| {
                    format!("the configuration {place} has a table [{key}], but there is no such command; see `netkin --help`")
                })?;
                for (key, value) in options {
                    let option = find_option(&cli, command, key).ok_or_else(|| {
                        format!("the configuration {place} sets {key} in [{}], but that command has no such option; see `netkin {0} --help`", command.get_name())
                    })?;
                    if command.get_name() == chosen {
                        push(&mut inserted, option, key, value)?;
                    }
                }
            }
            value => {
                let option = find_argument(&cli, key).ok_or_else(|| {
                    format!("the configuration {place} sets {key}, which is no option of every command; put options of one command into a table such as [sat], and see `netkin --help`")
                })?;
                // A command may have its own form of it.
                let own = cli.find_subcommand(&chosen);
                let option = own.and_then(|own| find_argument(own, key)).unwrap_or(option);
                // Before the options of the command's own table, so that those win.
                let mut common = Vec::new();
                push(&mut common, option, key, value)?;
                inserted.splice(0..0, common);
            }
        }
    }
    let mut expanded = arguments;
    expanded.splice(position + 1..position + 1, inserted);
    Ok(expanded)
}

fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("--config") => return rest.next().map(PathBuf::from),
            Some("--") => return None,
            Some(text) => {
                if let Some(path) = text.strip_prefix("--config=") {
                    return Some(path.into());
                }
            }
            None => {}
        }
    }
    None
}

fn find_argument<'c>(command: &'c clap::Command, name: &str) -> Option<&'c clap::Arg> {
    // A configuration that names a configuration would make no sense.
    let is_it = |argument: &&clap::Arg| argument.get_long() == Some(name) && name != "config";
    command.get_arguments().find(is_it)
}

fn find_option<'c>(cli: &'c clap::Command, command: &'c clap::Command, name: &str) -> Option<&'c clap::Arg> {
    find_argument(command, name).or_else(|| find_argument(cli, name))
}

fn push(
    arguments: &mut Vec<OsString>,
    option: &clap::Arg,
    key: &str,
    value: &Value,
    path: &std::path::Path,
) -> Result<(), Failure> {
    let takes_value = option.get_action().takes_values();
    if let (Value::Array(values), ArgAction::Append) = (value, option.get_action()) {
        return values.iter().try_for_each(|value| push(arguments, option, key, value, path));
    }
    let text = match value {
        Value::Boolean(true) if !takes_value => {
            arguments.push(format!("--{key}").into());
            return Ok(());
        }
        Value::Boolean(false) if !takes_value => return Ok(()),
        Value::String(text) if takes_value => text.clone(),
        Value::Integer(number) if takes_value => number.to_string(),
        Value::Float(number) if takes_value => number.to_string(),
        _ => {
            let wanted = if takes_value { "a string or a number" } else { "true or false" };
            return Err(format!("the configuration {} sets {key} to {value}; it wants {wanted}", path.display()).into());
        }
    };
    arguments.push(format!("--{key}={text}").into());
    Ok(())
}
