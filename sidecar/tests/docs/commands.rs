//! Command lines of `levee`.

use crate::{levee, printed};
use levee_pages::Page;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// The arguments of each call of `levee` in a line of a shell.
fn calls_in(line: &str) -> Vec<Vec<String>> {
    let line = Regex::new("(^| )#.*").unwrap().replace(line, "");
    let commands = line.split(['|', ';', '&']);
    let words = commands.map(|command| {
        let words = command.split_whitespace();
        let words = words.map(|word| word.trim_matches(['\'', '"']).to_owned());
        words.skip_while(|word| word == "sudo" || word.contains('=') && !word.starts_with('-'))
    });
    words
        .filter_map(|mut words| {
            let program = words.next()?;
            let is_levee = program == "levee" || program.ends_with("/levee");
            let arguments = words.take_while(|word| !word.starts_with(['>', '<']));
            is_levee.then(|| arguments.collect())
        })
        .collect()
}

/// Lines of examples in `sh` and code in backquotes, each with its place.
fn lines() -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for page in Page::all() {
        for example in page.examples("sh") {
            let text = example.text.replace("\\\n", " ");
            let of_example = text.lines();
            lines.extend(of_example.map(|line| (example.at.clone(), line.to_owned())));
        }
        let quoted = page.quoted().into_iter();
        let calls = quoted.filter(|code| code.starts_with("levee "));
        lines.extend(calls.map(|code| (page.name.clone(), code)));
    }
    lines
}

#[test]
fn each_command_line_of_levee_is_accepted_and_each_command_is_shown() {
    let mut seen = BTreeSet::new();
    for (at, line) in lines() {
        for arguments in calls_in(&line) {
            if !seen.insert(arguments.clone()) {
                continue;
            }
            // With `--help` at its end, a command line is parsed and nothing is executed.
            let words = arguments.iter().map(String::as_str);
            let all: Vec<&str> = words.chain(["--help"]).collect();
            let output = levee(&all, &[]);
            assert!(
                output.status.success(),
                "{at}: {line}\n{}",
                printed(&output)
            );
        }
    }
    assert!(seen.len() > 5, "{seen:?}");
    for command in commands() {
        let is_shown = seen.iter().any(|call| call.starts_with(&command));
        assert!(is_shown, "no page shows levee {}", command.join(" "));
    }
}

fn help_of(command: &[String]) -> String {
    let words = command.iter().map(String::as_str);
    let all: Vec<&str> = words.chain(["--help"]).collect();
    let output = levee(&all, &[]);
    assert!(output.status.success(), "{command:?}");
    printed(&output)
}

/// The commands without subcommands, as words: `job run`, but not `job`.
fn commands() -> Vec<Vec<String>> {
    let (mut open, mut found) = (vec![Vec::new()], Vec::new());
    while let Some(command) = open.pop() {
        let help = help_of(&command);
        let Some((_, list)) = help.split_once("\nCommands:\n") else {
            found.push(command);
            continue;
        };
        let names = list.lines().take_while(|line| line.starts_with(' '));
        let names = names.filter_map(|line| line.split_whitespace().next());
        open.extend(names.filter(|name| *name != "help").map(|name| {
            let words = command.iter().cloned();
            words.chain([name.to_owned()]).collect()
        }));
    }
    assert!(found.len() > 5, "{found:?}");
    found
}

/// The arguments in a command's `--help` except `--help` itself, and their defaults where these are one word.
fn arguments_of(command: &[String]) -> BTreeSet<(String, Option<String>)> {
    let argument = Regex::new(r"^ +(?:-\w, )?(--[a-z-]+|<[A-Z_]+>)").unwrap();
    let default = Regex::new(r"\[default: ([^\] ]+)\]").unwrap();
    let help = help_of(command);
    let lines = help.lines().filter_map(|line| {
        let name = argument.captures(line)?[1].to_owned();
        let default = default.captures(line).map(|found| found[1].to_owned());
        (name != "--help").then_some((name, default))
    });
    lines.collect()
}

#[test]
fn the_table_of_commands_has_each_command_with_all_of_its_arguments() {
    let page = Page::read("docs/reference/command-line.md");
    let mut rows = BTreeMap::new();
    for row in page.rows("command") {
        let command = row.codes(0).remove(0);
        assert_eq!(row.cell(0), format!("`{command}`"));
        let words = command.split_whitespace().map(str::to_owned);
        let mut words: Vec<String> = words.filter(|word| !word.starts_with('<')).collect();
        assert_eq!(words.remove(0), "levee", "{}", row.text);
        assert!(
            rows.insert(words, row.clone()).is_none(),
            "twice: {}",
            row.text
        );
    }
    let mut wanted = commands();
    wanted.sort();
    let found: Vec<Vec<String>> = rows.keys().cloned().collect();
    assert_eq!(found, wanted);
    let argument = Regex::new(r"`[^`]*?(--[a-z-]+|<[A-Z_]+>)").unwrap();
    for (command, row) in rows {
        let names = argument
            .captures_iter(&row.text)
            .map(|found| found[1].to_owned());
        let names: BTreeSet<String> = names.collect();
        let arguments = arguments_of(&command);
        let wanted = arguments.iter().map(|(name, _)| name.clone());
        assert_eq!(names, wanted.collect(), "{command:?}");
        for (name, default) in arguments {
            let default = default.map(|default| format!("`{default}`"));
            assert!(
                default
                    .as_ref()
                    .is_none_or(|default| row.text.contains(default)),
                "{command:?}: the default of {name} is {default:?}"
            );
        }
    }
    for (name, _) in arguments_of(&[]) {
        assert!(page.text.contains(&format!("`levee {name}`")), "{name}");
    }
}
