//! What the README and `docs/` say: their commands, configurations, keys, metrics and links, and the tests that they
//! name as showing something.
#![allow(missing_docs)]

use levee::config::Config;
use regex::Regex;
use serde_norway::{Mapping, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MINIMAL: &str = include_str!("../../envoy/minimal.yaml");

/// What stands in a configuration that names an environment variable; nothing is reached by it.
const URL: &str = "postgres://levee:x@127.0.0.1:5432/app";

/// What is described for people: the README, the architecture, all pages.
struct Page {
    path: PathBuf,
    text: String,
}

/// What is between two fences.
struct Example {
    /// Where it stands.
    at: String,
    language: String,
    text: String,
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the project")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Markdown below a folder, but for what is built or fetched.
fn markdown_below(folder: &Path, pages: &mut Vec<Page>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            markdown_below(&path, pages);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            let text = read(&path);
            pages.push(Page { path, text });
        }
    }
}

fn pages() -> Vec<Page> {
    let mut pages = Vec::new();
    markdown_below(&root(), &mut pages);
    pages.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(pages.len() > 10, "{} pages", pages.len());
    pages
}

fn readme() -> String {
    read(&root().join("README.md"))
}

impl Page {
    fn name(&self) -> String {
        let path = self.path.strip_prefix(root()).expect("within the project");
        path.display().to_string()
    }

    /// What is between fences, and the text without it.
    fn parts(&self) -> (Vec<Example>, String) {
        let (mut examples, mut prose) = (Vec::new(), String::new());
        let mut open: Option<Example> = None;
        for (line, number) in self.text.lines().zip(1..) {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => examples.extend(open.take()),
                (Some(language), None) => {
                    open = Some(Example {
                        at: format!("{}:{number}", self.name()),
                        language: language.trim().to_owned(),
                        text: String::new(),
                    });
                }
                (None, Some(example)) => {
                    example.text.push_str(line);
                    example.text.push('\n');
                }
                (None, None) => {
                    prose.push_str(line);
                    prose.push('\n');
                }
            }
        }
        assert!(open.is_none(), "{}: a fence is left open", self.name());
        (examples, prose)
    }

    /// What stands in backquotes in the text.
    fn quoted(&self) -> Vec<String> {
        let (_, prose) = self.parts();
        let quoted = Regex::new("`([^`]+)`").unwrap();
        quoted
            .captures_iter(&prose)
            .map(|found| found[1].replace('\n', " "))
            .collect()
    }
}

fn examples(languages: &[&str]) -> Vec<Example> {
    let all = pages().into_iter().flat_map(|page| page.parts().0);
    let found: Vec<Example> = all
        .filter(|example| languages.contains(&example.language.as_str()))
        .collect();
    assert!(!found.is_empty(), "no examples in {languages:?}");
    found
}

/// A folder that is gone at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("levee-docs-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn levee(arguments: &[&str], variables: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_levee"))
        .args(arguments)
        .envs(variables.iter().map(|name| (name, URL)))
        .output()
        .expect("levee runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

// --- commands --------------------------------------------------------------------------------------------------------

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
            let is_it = program == "levee" || program.ends_with("/levee");
            is_it.then(|| {
                words
                    .take_while(|word| !word.starts_with(['>', '<']))
                    .collect()
            })
        })
        .collect()
}

#[test]
fn each_command_line_of_levee_is_one_that_it_takes() {
    let mut lines: Vec<(String, String)> = Vec::new();
    for example in examples(&["sh"]) {
        let text = example.text.replace("\\\n", " ");
        lines.extend(
            text.lines()
                .map(|line| (example.at.clone(), line.to_owned())),
        );
    }
    for page in pages() {
        let quoted = page.quoted().into_iter();
        let calls = quoted.filter(|code| code.starts_with("levee "));
        lines.extend(calls.map(|code| (page.name(), code)));
    }
    let mut seen = BTreeSet::new();
    for (at, line) in lines {
        for arguments in calls_in(&line) {
            if !seen.insert(arguments.clone()) {
                continue;
            }
            // What stands before `--help` is read, and nothing of it is done.
            let all: Vec<&str> = arguments
                .iter()
                .map(String::as_str)
                .chain(["--help"])
                .collect();
            let output = levee(&all, &[]);
            assert!(output.status.success(), "{at}: {line}\n{}", said(&output));
        }
    }
    assert!(seen.len() > 5, "{seen:?}");
    for command in commands() {
        let is_shown = seen.iter().any(|call| call.starts_with(&command));
        assert!(is_shown, "levee {} is nowhere described", command.join(" "));
    }
}

/// What `--help` says of a command.
fn help_of(command: &[String]) -> String {
    let words = command.iter().map(String::as_str);
    let all: Vec<&str> = words.chain(["--help"]).collect();
    let output = levee(&all, &[]);
    assert!(output.status.success(), "{command:?}");
    said(&output)
}

/// The commands that do something, as words: `job run`, but not `job`.
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

/// The arguments of a command by its `--help`, but for that, and their defaults where these are one word.
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
fn each_command_and_each_of_its_arguments_is_in_the_readme_and_no_others() {
    let readme = readme();
    let (_, section) = readme.split_once("## The command line").expect("a section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let mut rows: BTreeMap<Vec<String>, &str> = BTreeMap::new();
    for row in section.lines() {
        if let Some(rest) = row.strip_prefix("| `levee ") {
            let (command, rest) = rest.split_once('`').expect("a command");
            let words = command.split_whitespace().map(str::to_owned);
            let words: Vec<String> = words.filter(|word| !word.starts_with('<')).collect();
            assert!(rest.starts_with(" |"), "{row}");
            assert!(rows.insert(words, row).is_none(), "twice: {row}");
        }
    }
    let mut wanted = commands();
    wanted.sort();
    let found: Vec<Vec<String>> = rows.keys().cloned().collect();
    assert_eq!(found, wanted);
    let argument = Regex::new(r"`[^`]*?(--[a-z-]+|<[A-Z_]+>)").unwrap();
    for (command, row) in rows {
        let names = argument.captures_iter(row).map(|found| found[1].to_owned());
        let names: BTreeSet<String> = names.collect();
        let arguments = arguments_of(&command);
        let wanted = arguments.iter().map(|(name, _)| name.clone());
        assert_eq!(names, wanted.collect(), "{command:?}");
        for (name, default) in arguments {
            let default = default.map(|default| format!("`{default}`"));
            assert!(
                default.as_ref().is_none_or(|default| row.contains(default)),
                "{command:?}: the default of {name} is {default:?}"
            );
        }
    }
    for (name, _) in arguments_of(&[]) {
        assert!(section.contains(&format!("`levee {name}`")), "{name}");
    }
}

// --- examples of configurations --------------------------------------------------------------------------------------

/// What an example in YAML is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Levee,
    /// Of Envoy's configuration, at its top.
    Bootstrap,
    ConnectionManager,
    Filter,
    /// Only read as YAML here; `tests/tests/alerts.rs` has promtool read it.
    Prometheus,
}

const KINDS: [(Kind, &[&str]); 5] = [
    (Kind::Bootstrap, &["static_resources", "stats_config"]),
    (Kind::ConnectionManager, &["http_filters"]),
    (Kind::Filter, &["configuration"]),
    (
        Kind::Prometheus,
        &["scrape_configs", "metric_relabel_configs"],
    ),
    (
        Kind::Levee,
        &["admin", "envoy", "redis", "database", "state"],
    ),
];

/// `envoy/minimal.yaml` with an example in its place.
fn envoy_with(kind: Kind, example: &Mapping) -> String {
    let mut whole: Value = serde_norway::from_str(MINIMAL).unwrap();
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let filter = format!("{manager}/http_filters/0/typed_config/config");
    let place = match kind {
        Kind::Bootstrap => "",
        Kind::ConnectionManager => manager,
        _ => &filter,
    };
    // Longer than any class, as the page says where a class is long.
    if kind == Kind::Filter {
        at(&mut whole, manager).insert("stream_idle_timeout".into(), "310s".into());
    }
    at(&mut whole, place).extend(example.clone());
    serde_norway::to_string(&whole).unwrap()
}

fn at<'a>(value: &'a mut Value, path: &str) -> &'a mut Mapping {
    let steps = path.split('/').filter(|step| !step.is_empty());
    let found = steps.fold(value, |value, step| match step.parse::<usize>() {
        Ok(place) => &mut value[place],
        Err(_) => &mut value[step],
    });
    found.as_mapping_mut().expect("keys")
}

#[test]
fn each_configuration_that_is_shown_is_valid() {
    let folder = Folder::new("examples");
    let variable = Regex::new(r"_env: ?([A-Z_]+)").unwrap();
    let mut seen = BTreeSet::new();
    for example in examples(&["yaml"]) {
        let at = &example.at;
        let keys: Mapping =
            serde_norway::from_str(&example.text).unwrap_or_else(|error| panic!("{at}: {error}"));
        let known = KINDS
            .iter()
            .find(|(_, names)| names.iter().any(|name| keys.contains_key(*name)));
        let (kind, _) = *known.unwrap_or_else(|| panic!("{at}: what is it part of?"));
        seen.insert(kind);
        let (flag, text) = match kind {
            Kind::Prometheus => continue,
            Kind::Levee => ("--config", example.text),
            _ => ("--envoy", envoy_with(kind, &keys)),
        };
        let variables: Vec<String> = variable
            .captures_iter(&text)
            .map(|found| found[1].to_owned())
            .collect();
        let file = folder.file("example.yaml", &text);
        let output = levee(&["check", flag, &file], &variables);
        let said = said(&output);
        assert!(output.status.success(), "{at}:\n{said}");
        // Names of services in an example are the reader's.
        let is_trap =
            |line: &&str| line.contains(": warning: ") && !line.ends_with("[unknown-name]");
        let traps: Vec<&str> = said.lines().filter(is_trap).collect();
        assert!(traps.is_empty(), "{at}:\n{traps:#?}");
    }
    assert_eq!(seen.len(), KINDS.len(), "{seen:?}");
    for example in examples(&["json"]) {
        filter_takes(&example.at, &example.text);
    }
    for page in pages() {
        let inline = page.quoted().into_iter();
        for code in inline.filter(|code| code.starts_with("{\"") && !code.contains("...")) {
            filter_takes(&page.name(), &code);
        }
    }
}

fn filter_takes(at: &str, json: &str) {
    if let Err(errors) = levee_filter::config::Config::parse(json.as_bytes()) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{at}: {json}\n{}", errors.join("\n"));
    }
}

// --- keys ------------------------------------------------------------------------------------------------------------

/// The rows of the tables whose first column is headed `head`, after the README's heading `from`: keys, and the row.
fn rows<'a>(readme: &'a str, from: &str, head: &str) -> Vec<(Vec<String>, &'a str)> {
    let (_, part) = readme.split_once(from).expect("the heading");
    let (_, table) = part.split_once(&format!("| {head} |")).expect("the table");
    let lines = table.lines().skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cell = row.split('|').nth(1).expect("a cell");
        let mut parent = "";
        let keys = cell
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|key| match key.rsplit_once('.') {
                Some((before, _)) => {
                    parent = before;
                    key.to_owned()
                }
                None if parent.is_empty() => key.to_owned(),
                None => format!("{parent}.{key}"),
            });
        (keys.collect(), row)
    })
    .collect()
}

/// The rows for `levee.yaml`; keys are whole paths.
fn sidecar_rows(readme: &str) -> Vec<(Vec<String>, &str)> {
    let mut all = rows(readme, "## The sidecar: Redis", "key");
    for (keys, row) in rows(readme, "## The sidecar: the database", "key of `database`") {
        let keys = keys.iter().map(|key| format!("database.{key}"));
        all.push((keys.collect(), row));
    }
    all
}

/// A configuration that has just `value` at a path such as `redis[].retry.base`.
fn with(path: &str, value: serde_json::Value) -> String {
    let json = path
        .split('.')
        .rev()
        .fold(value, |value, part| match part.strip_suffix("[]") {
            Some(name) => serde_json::json!({ name: [value] }),
            None => serde_json::json!({ part.trim_matches(['<', '>']): value }),
        });
    json.to_string()
}

#[test]
fn each_key_in_the_tables_of_levee_yaml_is_known_and_each_that_is_known_is_in_them() {
    let readme = readme();
    let rows = sidecar_rows(&readme);
    let keys: Vec<&String> = rows.iter().flat_map(|(keys, _)| keys).collect();
    assert!(keys.len() > 50, "{keys:?}");
    for key in &keys {
        // A value of a type that none has: it must be looked at.
        let yaml = with(key, serde_json::json!([[]]));
        let errors = Config::parse(&yaml).expect_err(key);
        for error in errors {
            let error = error.to_string();
            assert!(!error.contains("is not known here"), "{key}: {error}");
        }
    }
    let sections = sections();
    let mut missing = Vec::new();
    for (section, known) in &sections {
        // The README names those of a breaker once, for the filter.
        if section == "redis[].breaker" || section.starts_with("redis[].breaker.") {
            continue;
        }
        for key in known {
            let path = format!("{section}.{key}");
            let path = path.trim_start_matches('.');
            let begins = [format!("{path}."), format!("{path}[]")];
            let is_named = |named: &String| {
                named == path || begins.iter().any(|begin| named.starts_with(begin))
            };
            // What belongs to one key, or to a preset, may be said in its row.
            let is_around = |named: &String| {
                let rest = section.strip_prefix(named.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                    || section.ends_with("NAME") && is_within(named, section)
            };
            let is_there = rows.iter().any(|(keys, row)| {
                keys.iter().any(is_named) || keys.iter().any(is_around) && has_code(row, key)
            });
            if !is_there {
                missing.push(path.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "in no table: {missing:?}");
    for section in [
        "",
        "envoy",
        "redis[].tls",
        "state",
        "state.tls",
        "database.jobs.NAME",
    ] {
        assert!(sections.contains_key(section), "{section}: {sections:?}");
    }
}

fn is_within(key: &str, section: &str) -> bool {
    let rest = key.strip_prefix(section);
    rest.is_some_and(|rest| rest.starts_with('.'))
}

/// Whether this word stands in backquotes.
fn has_code(row: &str, word: &str) -> bool {
    let word = Regex::new(&format!(r"\b{word}\b")).unwrap();
    row.split('`')
        .skip(1)
        .step_by(2)
        .any(|code| word.is_match(code))
}

/// All sections that `levee.yaml` may have, with their keys: a key that is not known is answered by those that are.
fn sections() -> BTreeMap<String, Vec<String>> {
    let known = Regex::new("^(.*): is not known here; known are: (.*)").unwrap();
    let keys_of = |section: &str| -> Option<Vec<String>> {
        let nonsense = serde_json::json!({"?": 1});
        let yaml = match section {
            "" => nonsense.to_string(),
            section => with(section, nonsense),
        };
        let unknown = match section {
            "" => "?".to_owned(),
            section => format!("{}.?", section.replace("[]", "[0]")),
        };
        let errors = Config::parse(&yaml).err()?;
        errors.iter().find_map(|error| {
            let error = error.to_string();
            let found = known.captures(&error)?;
            let is_here = found[1] == unknown;
            is_here.then(|| found[2].split(", ").map(str::to_owned).collect())
        })
    };
    let (mut open, mut found) = (vec![String::new()], BTreeMap::new());
    while let Some(section) = open.pop() {
        let Some(keys) = keys_of(&section) else {
            continue;
        };
        for key in &keys {
            let path = format!("{section}.{key}");
            let path = path.trim_start_matches('.');
            // A section, a list of them, or one by name.
            open.extend(["", "[]", ".NAME"].map(|end| format!("{path}{end}")));
        }
        assert!(found.len() < 100, "{found:?}");
        found.insert(section, keys);
    }
    found
}

/// Keys that the text names are those of the tables.
#[test]
fn each_key_that_a_page_names_is_in_a_table() {
    let readme = readme();
    let mut known: BTreeSet<String> = rows(&readme, "## Configuration", "key")
        .into_iter()
        .flat_map(|(keys, _)| keys)
        .collect();
    let of_sidecar: Vec<String> = sidecar_rows(&readme)
        .into_iter()
        .flat_map(|(keys, _)| keys)
        .collect();
    for key in of_sidecar {
        // Where it is clear what is meant, the section is left out: `watchdog.dry_run`, `jobs.NAME.batch`.
        known.extend(key.strip_prefix("database.").map(str::to_owned));
        known.extend(key.strip_prefix("database.jobs.NAME.").map(str::to_owned));
        known.extend(key.strip_prefix("redis[].").map(str::to_owned));
        known.insert(key);
    }
    // The keys of the filter's breaker hold for Redis, too.
    let breaker: Vec<String> = known
        .iter()
        .filter(|key| key.starts_with("breaker."))
        .map(|key| format!("redis[].{key}"))
        .collect();
    known.extend(breaker);
    let starts: BTreeSet<&str> = known
        .iter()
        .filter_map(|key| key.split('.').next())
        .collect();
    let shape = Regex::new(r"^[a-z_]+(\[\])?(\.[a-z_]+|\.<[a-z]+>|\.NAME)+$").unwrap();
    let service = Regex::new(r"^services\.(<name>|[a-z]+)\.").unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in pages()
        .iter()
        .filter(|page| !page.path.ends_with("ARCHITECTURE.md"))
    {
        for code in page.quoted() {
            let code = service.replace(&code, "").into_owned();
            let start = code.split('.').next().unwrap_or_default();
            let is_file = [".yaml", ".md", ".rs", ".json"]
                .iter()
                .any(|end| code.ends_with(end));
            if is_file || !shape.is_match(&code) || !starts.contains(start) {
                continue;
            }
            count += 1;
            let begins = format!("{code}.");
            if !known
                .iter()
                .any(|key| *key == code || key.starts_with(&begins))
            {
                wrong.push(format!("{}: {code}", page.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 40, "{count}");
}

// --- metrics ---------------------------------------------------------------------------------------------------------

/// What begins like a metric of Levee's and is none.
const NO_METRICS: [&str; 3] = ["levee_circuit_open", "levee_filter", "job_name"];

/// The README's tables are held to the code by `config.rs` here and by the filter's `readme.rs`.
#[test]
fn each_metric_that_a_page_names_is_in_a_table() {
    let readme = readme();
    let known: BTreeSet<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let name = Regex::new(
        r"\b(circuit_breaker|proxy_request|redis_retry|redis_proxy|job|db|auth_cleanup|video_cleanup|levee)_[a-z_]+",
    )
    .unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in pages()
        .iter()
        .filter(|page| !page.path.ends_with("ARCHITECTURE.md"))
    {
        for found in name.find_iter(&page.text) {
            let metric = found.as_str();
            if NO_METRICS.contains(&metric) {
                continue;
            }
            count += 1;
            let plain = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| metric.strip_suffix(end))
                .unwrap_or(metric);
            // Part of a pattern, as in `circuit_breaker_.+`.
            let is_start =
                metric.ends_with('_') && known.iter().any(|known| known.starts_with(metric));
            if !is_start && !known.contains(plain) && !known.contains(metric) {
                wrong.push(format!("{}: {metric}", page.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 50, "{count}");
}

// --- links -----------------------------------------------------------------------------------------------------------

/// As GitHub makes them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|char| char.is_alphanumeric() || "-_ ".contains(*char));
            kept.map(|char| if char == ' ' { '-' } else { char })
                .collect()
        })
        .collect()
}

#[test]
fn each_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)]+)\)").unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in pages() {
        let (_, prose) = page.parts();
        for found in link.captures_iter(&prose) {
            let target = &found[1];
            if target.starts_with("https://") {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => page.path.clone(),
                file => page.path.parent().expect("a folder").join(file),
            };
            let is_there = path.exists();
            if !is_there || !anchor.is_empty() && !anchors(&read(&path)).contains(anchor) {
                wrong.push(format!("{}: {target}", page.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 20, "{count}");
    let readme = readme();
    for page in pages() {
        let name = page.name();
        let is_page = name.starts_with("docs/") && !name.starts_with("docs/alerts/");
        assert!(
            !is_page || readme.contains(&format!("]({name})")),
            "the README does not name {name}"
        );
    }
}

// --- what shows it ---------------------------------------------------------------------------------------------------

/// The tables of the section, and how many rows each has.
const SHOWN: [(&str, usize); 4] = [
    ("fix", 6),
    ("edge case", 8),
    ("scenario", 5),
    ("metric of the design", 14),
];

/// Metrics with a fixed name: there is a row for each of them.
const METRICS: [&str; 14] = [
    "circuit_breaker_state",
    "circuit_breaker_failures_total",
    "circuit_breaker_requests_total",
    "proxy_request_timeout_total",
    "proxy_request_duration_seconds",
    "db_query_timeout_total",
    "redis_retry_total",
    "redis_retry_failed_total",
    "auth_cleanup_expired_tokens_total",
    "auth_cleanup_failed_total",
    "auth_cleanup_duration_seconds",
    "video_cleanup_stale_calls_total",
    "video_cleanup_failed_total",
    "video_cleanup_duration_seconds",
];

/// Whether a file has a test of this name.
fn has_test(file: &Path, name: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    // The attribute is right before it, or before other attributes.
    let function = Regex::new(&format!(
        r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:async )?fn {name}\("
    ))
    .unwrap();
    function.is_match(&text)
}

#[test]
fn each_test_that_is_said_to_show_something_is_there_and_nothing_is_left_out() {
    let readme = readme();
    let heading = "## What shows it";
    let (_, section) = readme.split_once(heading).expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let test = Regex::new(r"`([a-z_/]+)\.rs::([a-z0-9_]+)`").unwrap();
    let mut tests = 0;
    for (head, wanted) in SHOWN {
        let rows = rows(&readme, heading, head);
        assert_eq!(rows.len(), wanted, "{head}");
        let mut firsts = BTreeSet::new();
        for (names, row) in &rows {
            let first = row.split('|').nth(1).expect("a cell");
            assert!(firsts.insert(first), "twice: {first}");
            if head.starts_with("metric") {
                assert_eq!(names.len(), 1, "{row}");
                assert!(METRICS.contains(&names[0].as_str()), "{row}");
            }
            let named = test.captures_iter(row).count();
            assert!(named > 0 || row.contains("not shown yet"), "{row}");
            let cell = row.split('|').nth(2).expect("a cell");
            assert_eq!(
                cell.matches("::").count(),
                named,
                "not of the form `file.rs::test`: {cell}"
            );
            tests += named;
        }
    }
    for found in test.captures_iter(section) {
        let file = match &found[1] {
            file if file.contains('/') => format!("{file}.rs"),
            file => format!("tests/tests/{file}.rs"),
        };
        assert!(
            has_test(&root().join(&file), &found[2]),
            "{file} has no test {}",
            &found[2]
        );
    }
    assert!(tests >= 33, "{tests}");
}
