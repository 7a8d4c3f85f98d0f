//! The file of `--config`, together with the command line that it becomes. The first byte chooses the command.
#![no_main]

const COMMANDS: [&str; 12] = [
    "sat",
    "attack",
    "eval",
    "models",
    "compare",
    "matrix",
    "cluster",
    "ensemble",
    "train",
    "bench",
    "robustness",
    "teacher",
];

netkin_fuzz::target!(|bytes| {
    if let Some((&first, text)) = bytes.split_first() {
        let path = netkin_fuzz::file("netkin.toml", text);
        let command = COMMANDS[usize::from(first) % COMMANDS.len()];
        let arguments = ["netkin".into(), "--config".into(), path.into_os_string(), command.into()];
        netkin::fuzzing::command_line(arguments.into());
    }
});
