//! Parsers that nobody but a fuzzer asks for by name: see docs/fuzzing.md.

use std::ffi::OsString;

use crate::cli;
use crate::images::jpeg;

/// Our own decoder of JPEG, without the library's behind it: the size of the picture, if it is one.
pub fn jpeg(bytes: &[u8]) -> Option<(usize, usize)> {
    jpeg::decode(bytes).ok().map(|image| (image.width, image.height))
}

/// The command line with the options of a configuration file, up to where a command would run: whether it would.
pub fn command_line(arguments: Vec<OsString>) -> bool {
    let expanded = cli::config_file::expand(arguments);
    expanded.is_ok_and(|arguments| cli::examples::command_line().try_get_matches_from(arguments).is_ok())
}
