//! The decisions beside other circuit breakers.
//!
//! `bench/policy/` has a program per language, which prints a line of JSON per operation and library. The tables are made
//! here.

use crate::callgrind::{self, Callgrind};
use crate::failure::Failure;
use crate::machine::{self, cargo};
use crate::project::Project;
use crate::run::output_within;
use clap::Args;
use levee_bench_statistics::Spread;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

#[derive(Args)]
pub struct Options {
    /// A fifth of the time
    #[arg(long)]
    quick: bool,
    /// Print JSON in place of tables
    #[arg(long)]
    json: bool,
}

/// The number and length of an operation's repetitions.
#[derive(Clone, Copy, Serialize)]
struct Extent {
    repetitions: u32,
    milliseconds: u32,
}

/// A program's output for one operation.
#[derive(Deserialize)]
struct Said {
    library: String,
    operation: String,
    nanos: Vec<f64>,
}

/// One operation of one library.
#[derive(Serialize)]
struct Row {
    language: &'static str,
    library: String,
    operation: String,
    nanos: Spread,
    repetitions: Vec<f64>,
    /// Only for machine code, whose instructions callgrind can count.
    instructions: Option<f64>,
}

/// Something that this machine can't measure.
#[derive(Serialize)]
struct Skipped {
    what: &'static str,
    why: String,
}

#[derive(Serialize)]
struct Results {
    processor: String,
    extent: Extent,
    rows: Vec<Row>,
    skipped: Vec<Skipped>,
}

/// How to measure one language.
struct Language {
    name: &'static str,
    /// Its libraries, to name them if they are not measured.
    what: &'static str,
    /// The programs it requires.
    needs: &'static [&'static str],
    measure: fn(&Bench) -> Result<Vec<Row>, Failure>,
}

const LANGUAGES: [Language; 5] = [
    Language {
        name: "Rust",
        what: "levee, recloser, failsafe, breaker, tower-resilience-circuitbreaker",
        needs: &["cargo"],
        measure: rust,
    },
    Language {
        name: "Wasm",
        what: "levee in WebAssembly, in the V8 of node",
        needs: &["cargo", "node"],
        measure: wasm,
    },
    Language {
        name: "Go",
        what: "gobreaker, failsafe-go",
        needs: &["go"],
        measure: go,
    },
    Language {
        name: "Java",
        what: "resilience4j",
        needs: &["java", "javac", "mvn"],
        measure: java,
    },
    Language {
        name: "Node",
        what: "opossum",
        needs: &["node", "npm"],
        measure: node,
    },
];

/// One program takes a minute.
const LIMIT: Duration = Duration::from_mins(5);

/// The operations, in the order of the tables.
const OPERATIONS: [&str; 6] = [
    "pass",
    "refuse",
    "success",
    "failure",
    "pass+success",
    "pass+failure",
];

/// What all programs share.
struct Bench {
    folder: PathBuf,
    target: PathBuf,
    runner: PathBuf,
    extent: Extent,
    callgrind: Option<Callgrind>,
}

/// Measures the languages that the machine has.
pub fn policy(project: &Project, options: &Options) -> Result<(), Failure> {
    let extent = if options.quick {
        Extent {
            repetitions: 5,
            milliseconds: 20,
        }
    } else {
        Extent {
            repetitions: 15,
            milliseconds: 100,
        }
    };
    let bench = Bench {
        folder: project.root.join("bench/policy"),
        target: project.target()?.join("bench-policy"),
        runner: project.root.join("xtask/src/wasi-runner.mjs"),
        extent,
        callgrind: Callgrind::find(),
    };
    let mut results = Results {
        processor: processor(),
        extent,
        rows: Vec::new(),
        skipped: Vec::new(),
    };
    let mut failed = Vec::new();
    for language in &LANGUAGES {
        eprintln!("==> {}: {}", language.name, language.what);
        let missing: Vec<&str> = language
            .needs
            .iter()
            .copied()
            .filter(|program| machine::find(program).is_none())
            .collect();
        let why = if missing.is_empty() {
            match (language.measure)(&bench) {
                Ok(rows) => {
                    results.rows.extend(rows);
                    continue;
                }
                Err(failure) => {
                    failed.push(language.name);
                    format!("it failed: {failure}")
                }
            }
        } else {
            format!("{} missing on this machine", missing.join(", "))
        };
        let what = language.what;
        results.skipped.push(Skipped { what, why });
    }
    if bench.callgrind.is_none() {
        results.skipped.push(Skipped {
            what: "instructions",
            why: callgrind::MISSING.to_owned(),
        });
    }
    if options.json {
        let json = serde_json::to_string_pretty(&results)
            .map_err(|error| Failure::Check(error.to_string()))?;
        println!("{json}");
    } else {
        print!("{}", tables(&results));
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Check(format!(
        "could not be measured: {}",
        failed.join(", ")
    )))
}

fn processor() -> String {
    fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |model| model.trim_start_matches([' ', '\t', ':']).to_owned(),
        )
}

impl Bench {
    /// Builds with `command`, which reports its own errors.
    fn build(command: &mut Command) -> Result<(), Failure> {
        // A build's output is not part of the results.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::Check(format!("{command:?}: {status}"))),
            Err(error) => Err(Failure::Check(format!("{command:?}: {error}"))),
        }
    }

    fn cargo(&self, target: Option<&str>) -> Result<(), Failure> {
        let mut build = cargo();
        build
            .current_dir(self.folder.join("rust"))
            .args(["build", "--quiet", "--locked", "--release", "--target-dir"])
            .arg(&self.target);
        if let Some(target) = target {
            build.args(["--no-default-features", "--target", target]);
        }
        Self::build(&mut build)
    }

    /// Runs `program` for the given repetitions, and reads its output.
    fn run(&self, program: &mut Command, language: &'static str) -> Result<Vec<Row>, Failure> {
        program
            .arg(self.extent.repetitions.to_string())
            .arg(self.extent.milliseconds.to_string());
        output_within(LIMIT, program)?
            .lines()
            .map(|line| {
                let said: Said = serde_json::from_str(line)
                    .map_err(|error| Failure::Check(format!("{program:?}: {error}: {line}")))?;
                Row::new(language, said)
            })
            .collect()
    }
}

impl Row {
    fn new(language: &'static str, said: Said) -> Result<Self, Failure> {
        let nanos = Spread::of(said.nanos.iter().copied())
            .filter(|_| OPERATIONS.contains(&said.operation.as_str()))
            .ok_or_else(|| {
                Failure::Check(format!(
                    "{}: {} is no operation that was measured",
                    said.library, said.operation
                ))
            })?;
        Ok(Self {
            language,
            library: said.library,
            operation: said.operation,
            nanos,
            repetitions: said.nanos,
            instructions: None,
        })
    }
}

fn rust(bench: &Bench) -> Result<Vec<Row>, Failure> {
    bench.cargo(None)?;
    let program = bench.target.join("release/bench-policy");
    let mut rows = bench.run(Command::new(&program).arg("time"), "Rust")?;
    if let Some(callgrind) = &bench.callgrind {
        eprintln!("==> Rust: counting instructions");
        for row in &mut rows {
            let case = format!("{}/{}", row.library, row.operation);
            let counted = callgrind.instructions(Command::new(&program).args(["repeat", &case]))?;
            row.instructions = Some(counted);
        }
    }
    Ok(rows)
}

fn wasm(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let target = "wasm32-wasip1";
    bench.cargo(Some(target))?;
    let program = bench.target.join(target).join("release/bench-policy.wasm");
    let mut node = Command::new("node");
    node.arg("--no-warnings").arg(&bench.runner);
    bench.run(node.arg(program).arg("time"), "Wasm")
}

fn go(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let program = bench.target.join("bench-policy-go");
    let mut build = Command::new("go");
    build
        .current_dir(bench.folder.join("go"))
        .args(["build", "-trimpath", "-o"])
        .args([program.as_path(), Path::new(".")]);
    Bench::build(&mut build)?;
    bench.run(&mut Command::new(program), "Go")
}

fn node(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let folder = bench.folder.join("js");
    Bench::build(Command::new("npm").current_dir(&folder).arg("ci"))?;
    bench.run(Command::new("node").arg(folder.join("main.js")), "Node")
}

/// The part of JMH's output for one benchmark that is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Jmh {
    benchmark: String,
    primary_metric: JmhMetric,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JmhMetric {
    raw_data: Vec<Vec<f64>>,
}

fn java(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let folder = bench.folder.join("java");
    let mut build = Command::new("mvn");
    Bench::build(
        build
            .current_dir(&folder)
            .args(["--batch-mode", "--quiet", "package"]),
    )?;
    fs::create_dir_all(&bench.target).map_err(|error| Failure::Check(error.to_string()))?;
    let results = bench.target.join("jmh.json");
    // The JIT compiler takes seconds to settle, whatever the extent.
    let mut run = Command::new("java");
    run.arg("-jar")
        .arg(folder.join("target/bench-policy.jar"))
        .args(["-f", "1", "-wi", "3", "-w", "1s", "-rf", "json", "-i"])
        .arg(bench.extent.repetitions.to_string())
        .arg("-r")
        .arg(format!("{}ms", bench.extent.milliseconds * 2))
        .arg("-rff")
        .arg(&results);
    output_within(LIMIT, &mut run)?;
    let text = fs::read_to_string(&results).map_err(|error| Failure::Check(error.to_string()))?;
    let all: Vec<Jmh> = serde_json::from_str(&text)
        .map_err(|error| Failure::Check(format!("what JMH says: {error}")))?;
    let pom = fs::read_to_string(folder.join("pom.xml")).unwrap_or_default();
    let version = between(&pom, "<resilience4j.version>", "<").unwrap_or_default();
    all.into_iter()
        .map(|one| {
            let method = one.benchmark.rsplit('.').next().unwrap_or_default();
            let operation = match method {
                "passSuccess" => "pass+success",
                "passFailure" => "pass+failure",
                other => other,
            };
            let said = Said {
                library: format!("resilience4j {version}"),
                operation: operation.to_owned(),
                nanos: one.primary_metric.raw_data.concat(),
            };
            Row::new("Java", said)
        })
        .collect()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

const NOTES: &str = "\
`pass` asks while closed, `refuse` asks while open; `success` and `failure` record a result while closed, and a failure \
opens nothing.
Where a library asks and records only around a call, there are the combined operations alone: compare those with those.
`Breaker` and `Replica` take the time as an argument; the rows `clock read` read the machine's for each decision, twice \
in the combined ones.
All others may be used by several threads at once, by locks or atomic operations, which `Breaker` and `Replica` are not \
made for: `lock` is the row to compare them with.
recloser, breaker, and tower-resilience-circuitbreaker as set up here, count calls, not time: they read no clock unless \
they are open.
A failure at a `Replica` visits the shared breaker: it is read from bytes, changed, and written back.";

/// The tables, for people.
fn tables(results: &Results) -> String {
    let mut text = format!(
        "{}; {} repetitions of {} ms (Java: of {} ms)\n",
        results.processor,
        results.extent.repetitions,
        results.extent.milliseconds,
        results.extent.milliseconds * 2,
    );
    text.push_str("\nNanoseconds: medians; [lowest to highest]\n");
    table(&mut text, results, |row| {
        Some((
            amount(row.nanos.median),
            format!(
                "[{} to {}]",
                amount(row.nanos.lowest),
                amount(row.nanos.highest)
            ),
        ))
    });
    if results.rows.iter().any(|row| row.instructions.is_some()) {
        text.push_str(
            "\nInstructions, by callgrind (reading the clock is a system call there, which counts as one)\n",
        );
        table(&mut text, results, |row| {
            row.instructions
                .map(|count| (format!("{count:.1}"), String::new()))
        });
    }
    let _ = writeln!(text, "\n{NOTES}");
    for Skipped { what, why } in &results.skipped {
        let _ = writeln!(text, "SKIPPED {what}: {why}");
    }
    text
}

/// Rounds to the precision of the measurement.
fn amount(nanos: f64) -> String {
    if nanos < 100.0 {
        format!("{nanos:.1}")
    } else {
        format!("{nanos:.0}")
    }
}

/// One line per library, plus one below it where `cell` returns something.
fn table(text: &mut String, results: &Results, cell: impl Fn(&Row) -> Option<(String, String)>) {
    let _ = write!(text, "{:<6}{:<40}", "", "");
    for operation in OPERATIONS {
        let _ = write!(text, "{operation:>18}");
    }
    text.push('\n');
    let mut done: Vec<(&str, &str)> = Vec::new();
    for row in &results.rows {
        let own = (row.language, row.library.as_str());
        if done.contains(&own) {
            continue;
        }
        done.push(own);
        let cells: Vec<(String, String)> = OPERATIONS
            .iter()
            .map(|operation| {
                results
                    .rows
                    .iter()
                    .find(|row| {
                        (row.language, row.library.as_str()) == own && row.operation == *operation
                    })
                    .and_then(&cell)
                    .unwrap_or_else(|| ("-".to_owned(), String::new()))
            })
            .collect();
        if cells.iter().all(|(above, _)| above == "-") {
            continue;
        }
        let _ = write!(text, "{:<6}{:<40}", own.0, own.1);
        for (above, _) in &cells {
            let _ = write!(text, "{above:>18}");
        }
        text.push('\n');
        if cells.iter().any(|(_, below)| !below.is_empty()) {
            let _ = write!(text, "{:<46}", "");
            for (_, below) in &cells {
                let _ = write!(text, "{below:>18}");
            }
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(library: &str, operation: &str, nanos: &[f64]) -> Row {
        let said = Said {
            library: library.to_owned(),
            operation: operation.to_owned(),
            nanos: nanos.to_vec(),
        };
        Row::new("Rust", said).unwrap()
    }

    #[test]
    fn a_library_has_one_line_and_says_what_it_does_not_offer() {
        let results = Results {
            processor: "x".to_owned(),
            extent: Extent {
                repetitions: 3,
                milliseconds: 1,
            },
            rows: vec![
                row("a", "pass", &[3.0, 1.0, 2.0]),
                row("a", "refuse", &[400.4]),
            ],
            skipped: vec![Skipped {
                what: "resilience4j",
                why: "mvn missing on this machine".to_owned(),
            }],
        };
        let text = tables(&results);
        let words = |start: &str| -> Vec<&str> {
            let line = text.lines().find(|line| line.starts_with(start));
            line.unwrap_or_default().split_whitespace().collect()
        };
        assert_eq!(
            words("Rust"),
            ["Rust", "a", "2.0", "400", "-", "-", "-", "-"]
        );
        assert!(text.contains("[1.0 to 3.0]"), "{text}");
        assert!(
            text.contains("SKIPPED resilience4j: mvn missing on this machine"),
            "{text}"
        );
        assert!(!text.contains("Instructions"), "{text}");
    }

    #[test]
    fn an_operation_that_is_not_in_the_table_is_not_lost_silently() {
        let said = Said {
            library: "a".to_owned(),
            operation: "pas".to_owned(),
            nanos: vec![1.0],
        };
        assert!(Row::new("Rust", said).is_err());
    }
}
