//! Files of a crate don't import each other in circles.
//!
//! A file imports another if it names its module by `crate::`, `super::` or, for a module that it declares, by name.
//! Declaring and re-exporting modules (`mod`, `pub use`) is no import, nor is anything behind `#[cfg(test)]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Module = Vec<String>;

const CRATES: [&str; 5] = ["sidecar", "filter", "policy", "config", "redis-session"];

/// Circles that are left, each with its files. One that is broken up must be removed from this list.
const KNOWN: &[&[&str]] = &[&[
    "redis-session::session",
    "redis-session::session::inbox",
    "redis-session::session::outbox",
]];

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("bin") {
            files(&path, into);
        } else if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("main.rs") {
            into.push(path);
        }
    }
}

fn module(path: &Path) -> Module {
    let path = path.with_extension("");
    let words = path.iter().map(|word| word.to_string_lossy().into_owned());
    let mut words: Module = words.collect();
    if matches!(words.last().map(String::as_str), Some("mod" | "lib")) {
        words.pop();
    }
    words
}

/// All paths of a text whose groups are written out: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(text: &str) -> Vec<String> {
    let Some(open) = text.find('{') else {
        return text.split(',').map(|it| it.trim().to_owned()).collect();
    };
    let start = text[..open].rfind(',').map_or(0, |at| at + 1);
    let mut depth = 0;
    let close = text[open..].find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    let close = open + close.unwrap_or(text.len() - open - 1);
    let prefix = text[start..open].trim();
    let mut paths = expand(&text[..start]);
    paths.extend(
        expand(&text[open + 1..close])
            .into_iter()
            .map(|it| format!("{prefix}{it}")),
    );
    paths.extend(expand(text[close + 1..].trim_start_matches(',')));
    paths
}

/// The paths that a file names.
fn paths(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let mut all = Vec::new();
    for statement in code.split(';') {
        if let Some(at) = statement.find("use ")
            && !statement[..at].trim_end().ends_with("pub")
        {
            all.extend(expand(statement[at + 4..].trim()));
            continue;
        }
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        all.extend(
            statement
                .split(|c| !is_path(c))
                .filter(|it| it.contains("::"))
                .map(str::to_owned),
        );
    }
    all
}

fn imports(at: &[String], text: &str, all: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let resolve = |path: String| {
        let mut words = path.split("::").map(|it| it.trim().to_owned()).peekable();
        let mut full = at.to_vec();
        match words.peek().map(String::as_str) {
            Some("crate") => full.clear(),
            Some("super") => {}
            _ => {
                full.extend(words);
                full = longest(full, all)?;
                return (full.len() > at.len()).then_some(full);
            }
        }
        for word in words.skip_while(|it| it == "crate") {
            if word == "super" {
                full.pop();
            } else {
                full.push(word);
            }
        }
        longest(full, all)
    };
    paths(text)
        .into_iter()
        .filter_map(resolve)
        .filter(|it| it != at)
        .collect()
}

fn longest(mut path: Module, all: &BTreeMap<Module, String>) -> Option<Module> {
    while !path.is_empty() && !all.contains_key(&path) {
        path.pop();
    }
    all.contains_key(&path).then_some(path)
}

#[test]
fn no_circles_between_files() {
    let mut found = BTreeSet::new();
    for name in CRATES {
        let src = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(name)
            .join("src");
        let mut list = Vec::new();
        files(&src, &mut list);
        let read = |path: &PathBuf| {
            (
                module(path.strip_prefix(&src).unwrap()),
                fs::read_to_string(path).unwrap(),
            )
        };
        let all: BTreeMap<Module, String> = list.iter().map(read).collect();
        let graph: BTreeMap<&Module, BTreeSet<Module>> = all
            .iter()
            .map(|(at, text)| (at, imports(at, text, &all)))
            .collect();
        let reach = |from: &Module| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
            while let Some(at) = next.pop() {
                next.extend(graph[at].iter().filter(|it| seen.insert((*it).clone())));
            }
            seen
        };
        for at in all.keys() {
            let others = reach(at);
            if others.contains(at) {
                let circle = others.iter().filter(|it| reach(it).contains(at));
                let names: Vec<String> = circle
                    .map(|it| format!("{name}::{}", it.join("::")))
                    .collect();
                found.insert(names);
            }
        }
    }
    let known: BTreeSet<Vec<String>> = KNOWN
        .iter()
        .map(|it| it.iter().map(|it| (*it).to_owned()).collect())
        .collect();
    assert_eq!(found, known);
}
