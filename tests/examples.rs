//! The list of examples is true: each is run, and `--help`, README.md and docs/commands.md say the same.
//!
//! `NETKIN_WRITE=1 cargo test --release --workspace --test examples` writes the two documents anew.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Scratch, netkin};
use netkin::cli::examples::{self, Check, Example, Examples};
use safetensors::tensor::{Dtype, TensorView};

/// What examples read: images as Fashion-MNIST has them, and pixels for `forward`.
fn prepare(scratch: &Scratch) {
    scratch.fashion_mnist();
    let pixels: Vec<u8> = (0..2 * 3 * 28 * 28).flat_map(|place| (place as f32 / 4704.0).to_le_bytes()).collect();
    let labels: Vec<u8> = [3i64, 5].into_iter().flat_map(i64::to_le_bytes).collect();
    let tensors = [
        ("pixels", TensorView::new(Dtype::F32, vec![2, 3, 28, 28], &pixels).unwrap()),
        ("labels", TensorView::new(Dtype::I64, vec![2], &labels).unwrap()),
    ];
    let bytes = safetensors::serialize(tensors, None::<std::collections::HashMap<String, String>>).unwrap();
    std::fs::write(scratch.path("pixels.safetensors"), bytes).unwrap();
}

/// A line with every number as `#` and every stretch of blanks as one, or the line itself.
fn compared(line: &str, check: Check) -> String {
    if check == Check::Output {
        return line.trim_end().to_owned();
    }
    let words = line.split_whitespace().map(|word| {
        let mut text = String::new();
        for letter in word.chars() {
            match letter {
                '0'..='9' if text.ends_with('#') => {}
                '0'..='9' => text.push('#'),
                other => text.push(other),
            }
        }
        // Points within numbers, signs and exponents belong to them.
        text.replace("#.#", "#").replace("-#", "#").replace("#e#", "#")
    });
    // A bracket may stand before a blank or a number, as wide as the number is.
    words.collect::<Vec<_>>().join(" ").replace("[ ", "[")
}

/// Whether a line is as expected, where `…` is any text.
fn fits(line: &str, expected: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (index, part) in parts.iter().enumerate() {
        let found = if index + 1 == parts.len() {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// Whether lines are as expected, where a line `…` is any lines.
fn all_fit(lines: &[String], expected: &[String]) -> bool {
    match expected {
        [] => lines.is_empty(),
        [any, rest @ ..] if any == "…" => (0..=lines.len()).any(|skipped| all_fit(&lines[skipped..], rest)),
        [first, rest @ ..] => lines.first().is_some_and(|line| fits(line, first)) && all_fit(&lines[1..], rest),
    }
}

#[test]
fn outputs_are_compared_as_the_list_says() {
    let same = |line: &str, expected: &str| {
        let [line, expected] = [line, expected].map(|line| compared(line, Check::OutputButNumbers));
        fits(&line, &expected)
    };
    assert!(same("a  -0.070 [ 2.1, -3.2]  1.5e-3", "a  12.5 [-2.1,  3.2]   7e-12"));
    assert!(same("made 3 of 20", "made 1… 5") && !same("made 3 of x", "made 1… 5") && !same("b 3", "a 3"));
    assert!(fits("abc", "a…c") && fits("ac", "a…c") && !fits("acd", "a…c") && !fits("ab", "…c"));
    let lines = |text: &str| text.split('|').map(String::from).collect::<Vec<_>>();
    assert!(all_fit(&lines("a|b|c|d"), &lines("a|…|d")) && all_fit(&lines("a|d"), &lines("a|…|d")));
    assert!(!all_fit(&lines("a|b"), &lines("a")) && !all_fit(&lines("a"), &lines("a|b")));
}

#[test]
#[cfg(unix)]
fn every_example_prints_what_the_list_says() {
    let scratch = Scratch::new();
    prepare(&scratch);
    let program = assert_cmd::cargo::cargo_bin("netkin");
    let path = std::env::join_paths(
        std::iter::once(program.parent().unwrap().to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let path = path.unwrap();
    let mut wrong = String::new();
    for Example { typed, printed, check } in examples::all().into_iter().flat_map(|command| command.examples) {
        if check == Check::Options {
            let parsed = examples::command_line().try_get_matches_from(typed.split_whitespace());
            if let Err(error) = parsed {
                wrong += &format!("$ {typed}\n{error}\n");
            }
            continue;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{{ {typed}; }} 2>&1")]).current_dir(scratch.path("")).env("PATH", &path);
        let output = shell.env("HF_HUB_OFFLINE", "1").env("HF_HOME", "/nonexistent").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let said: Vec<String> = text.trim_end().lines().map(|line| compared(line, check)).collect();
        let expected: Vec<String> = printed.iter().map(|line| compared(line, check)).collect();
        if !output.status.success() || !all_fit(&said, &expected) {
            wrong += &format!("$ {typed}\n{}\n--- {} ---\n{text}\n", printed.join("\n"), output.status);
        }
    }
    assert!(wrong.is_empty(), "expected, and what was printed:\n{wrong}");
}

/// Every command of `command` that does something, by its full name.
fn names(command: &clap::Command, before: &str) -> Vec<String> {
    let subcommands: Vec<_> = command.get_subcommands().filter(|command| command.get_name() != "help").collect();
    if subcommands.is_empty() {
        return vec![before.trim().to_owned()];
    }
    subcommands.into_iter().flat_map(|command| names(command, &format!("{before} {}", command.get_name()))).collect()
}

#[test]
fn every_command_has_one_to_three_examples_and_shows_them() {
    let listed: Vec<Examples> = examples::all();
    let mut missing = names(&examples::command_line(), "");
    missing.retain(|name| listed.iter().all(|examples| examples.name != name));
    assert!(missing.is_empty(), "src/cli/examples.txt has no example of {missing:?}");
    for Examples { name, about, examples } in listed {
        assert!(!about.is_empty(), "there is no command {name}");
        assert!((1..=3).contains(&examples.len()), "{name} has {} examples", examples.len());
        let output = netkin().args(name.split(' ')).arg("--help").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        for example in examples {
            assert!(help.contains(&format!("  $ {}", example.typed)) || example.typed.len() > 90, "{help}");
            // Wider lines are broken by a terminal, and by its help.
            for line in example.lines() {
                assert!(line.chars().count() <= 160, "{line} is too wide");
            }
        }
    }
}

/// The text between two marks of a document, which a test keeps.
const MARKS: [&str; 2] = ["<!-- commands: written by tests/examples.rs -->\n", "<!-- commands end -->\n"];

#[test]
fn the_documents_are_made_of_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = examples::all();
    let mut short = String::from("```\n");
    let mut long = String::from(
        "# Commands\n\nEvery command with examples, from the list of which `netkin COMMAND --help` and a test are made. `…` stands for what is \
         left out.\n",
    );
    for Examples { name, about, examples } in &all {
        short += &format!("{:27} # {about}\n", format!("netkin {name}"));
        long += &format!("\n## {name}\n{about}\n```\n");
        for line in examples.iter().flat_map(Example::lines) {
            long += &(line + "\n");
        }
        long += "```\n";
    }
    short += "```\n";
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let (before, rest) = readme.split_once(MARKS[0]).expect("README.md has the marks");
    let (_, after) = rest.split_once(MARKS[1]).expect("README.md has the marks");
    for (file, wanted) in
        [("README.md", [before, MARKS[0], &short, MARKS[1], after].concat()), ("docs/commands.md", long)]
    {
        let path = root.join(file);
        if std::env::var_os("NETKIN_WRITE").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == wanted, "{file} is not what src/cli/examples.txt says; NETKIN_WRITE=1 writes it anew");
    }
}
