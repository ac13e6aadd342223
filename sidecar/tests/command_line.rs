//! Manual pages and shell completions, which the program prints for packages.

use clap::{Command, CommandFactory};
use levee::cli::Cli;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{self, Output, Stdio};

const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

fn levee(arguments: &[&str]) -> Output {
    process::Command::new(env!("CARGO_BIN_EXE_levee"))
        .args(arguments)
        .output()
        .expect("levee runs")
}

fn printed(arguments: &[&str]) -> String {
    let output = levee(arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// `command` and all below it, named like their manual pages.
fn commands(command: &Command, name: &str) -> Vec<(String, Command)> {
    let below = command.get_subcommands().flat_map(|command| {
        let name = format!("{name}-{}", command.get_name());
        commands(command, &name)
    });
    [(name.to_owned(), command.clone())]
        .into_iter()
        .chain(below)
        .collect()
}

/// The output of a script, or `None` if the machine has no such shell.
fn in_shell(program: &str, arguments: &[&str], script: &str) -> Option<String> {
    let mut shell = process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = shell.stdin.take().expect("a pipe");
    stdin.write_all(script.as_bytes()).expect("write a script");
    drop(stdin);
    let output = shell.wait_with_output().expect("the shell ends");
    assert!(output.status.success(), "{program}: {output:?}");
    assert!(output.stderr.is_empty(), "{program}: {output:?}");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn each_command_has_a_manual_page_with_all_its_options() {
    let directory = std::env::temp_dir().join(format!("levee-man-{}", process::id()));
    let path = directory.to_str().expect("UTF-8");
    assert_eq!(printed(&["man", "--out", path]), "");
    let all = commands(&Cli::command(), "levee");
    assert!(all.len() > 10, "{}", all.len());
    let mut wanted = BTreeSet::new();
    for (name, command) in all {
        let page = fs::read_to_string(directory.join(format!("{name}.1"))).expect(&name);
        // Hyphens are escaped in roff.
        let plain = page.replace('\\', "");
        assert!(plain.contains(&format!(".TH {name} 1")), "{page}");
        for option in command.get_opts().filter_map(|option| option.get_long()) {
            assert!(plain.contains(&format!("--{option}")), "{name}: {option}");
        }
        wanted.insert(format!("{name}.1"));
    }
    let found: BTreeSet<String> = fs::read_dir(&directory)
        .expect("the pages")
        .map(|file| {
            file.expect("a page")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    assert_eq!(found, wanted);
    let first = fs::read_to_string(directory.join("levee.1")).expect("a page");
    assert_eq!(printed(&["man"]), first);
    fs::remove_dir_all(&directory).expect("remove the pages");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let output = levee(&["man", "--out", env!("CARGO_BIN_EXE_levee")]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(env!("CARGO_BIN_EXE_levee")), "{said}");
}

#[test]
fn lost_output_is_a_failure_and_a_reader_that_leaves_is_not() {
    let valid = std::env::temp_dir().join(format!("levee-full-{}.yaml", process::id()));
    fs::write(&valid, "log: {level: info}\n").expect("write a configuration");
    let path = valid.to_str().expect("UTF-8");
    for arguments in [
        &["man"][..],
        &["completions", "bash"],
        &["check", "--config", path],
    ] {
        let to = |output: Stdio| {
            process::Command::new(env!("CARGO_BIN_EXE_levee"))
                .args(arguments)
                .stdout(output)
                .output()
                .expect("levee runs")
        };
        if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
            let lost = to(full.into());
            assert_eq!(lost.status.code(), Some(1), "{arguments:?}: {lost:?}");
            let said = String::from_utf8_lossy(&lost.stderr);
            assert!(said.contains("standard output"), "{said}");
        }
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let unread = to(writer.into());
        assert_eq!(unread.status.code(), Some(0), "{arguments:?}: {unread:?}");
    }
    fs::remove_file(valid).expect("remove a configuration");
}

#[test]
fn each_shell_completes_each_command() {
    for shell in SHELLS {
        let script = printed(&["completions", shell]);
        for command in Cli::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{shell}: {script}");
        }
    }
    let bash = printed(&["completions", "bash"])
        + "COMP_WORDS=(levee st); COMP_CWORD=1; _levee levee st levee; echo ${COMPREPLY[@]}
           COMP_WORDS=(levee job run --d); COMP_CWORD=3; _levee levee --d run; echo ${COMPREPLY[@]}";
    let completed = in_shell("bash", &["--norc"], &bash).expect("bash");
    assert_eq!(completed, "status\n--dry-run\n");
    let fish = printed(&["completions", "fish"]) + "\ncomplete --do-complete 'levee st'";
    if let Some(completed) = in_shell("fish", &["--no-config"], &fish) {
        assert!(completed.starts_with("status\t"), "{completed}");
    }
    let zsh = printed(&["completions", "zsh"]);
    if let Some(printed) = in_shell("zsh", &["-f", "-n"], &zsh) {
        assert_eq!(printed, "");
    }
}
