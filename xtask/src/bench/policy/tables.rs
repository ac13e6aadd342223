//! The results as tables.

use super::results::{OPERATIONS, Results, Row, Skipped};
use std::fmt::Write as _;

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
pub(super) fn tables(results: &Results) -> String {
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
    use crate::bench::policy::results::{Extent, Said};

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
}
