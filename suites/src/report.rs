//! What the runs of a suite come to: a table of counts, and each test that passes directly and not through Levee.

use std::fmt::{self, Display, Formatter, Write};

use crate::known::{ALL, Known, row};
use crate::outcome::Run;

/// Both runs of a unit.
#[derive(Debug)]
pub struct Pair {
    pub unit: String,
    pub direct: Run,
    pub levee: Run,
    /// Further runs through Levee, made because of differences that were not known.
    pub again: Vec<Run>,
}

/// A test that passes directly and not through Levee.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// `unit: name`.
    pub test: String,
    /// What the suite says of the run through Levee.
    pub says: String,
    pub kind: Kind,
}

/// What is known about a difference.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reason in the list.
    Known(String),
    /// It passes through Levee now and then: nothing follows from one run.
    Unsteady,
    New,
}

/// What a suite comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Differences that are neither listed nor unsteady.
    new: usize,
    /// Units whose tests were not all compared.
    broke_off: usize,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        *self == Self::default()
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "differences that are not in docs/reference/redis-suites.md: {}; units that broke off: {}",
            self.new, self.broke_off
        )
    }
}

impl Pair {
    /// Whether this unit should be run through Levee again: something there is explained neither by the list nor by
    /// another run.
    pub fn is_in_doubt(&self, suite: &str, known: &Known) -> bool {
        let differences = self.differences(suite, known);
        let has_new = differences
            .iter()
            .any(|difference| difference.kind == Kind::New);
        has_new || self.broke_off_through_levee(&differences).is_some()
    }

    /// Why not all tests of this unit were compared, if so.
    fn broke_off(&self, suite: &str, known: &Known) -> Option<String> {
        if let Some(why) = &self.direct.broke_off {
            return Some(format!("directly: {why}"));
        }
        let why = self.broke_off_through_levee(&self.differences(suite, known))?;
        Some(format!("through Levee: {why}"))
    }

    /// Why it broke off each time through Levee, unless that made differences, which are told one by one.
    fn broke_off_through_levee(&self, differences: &[Difference]) -> Option<&str> {
        let all_broke_off = self.again.iter().all(|run| run.broke_off.is_some());
        let why = self.levee.broke_off.as_deref();
        why.filter(|_| all_broke_off && differences.is_empty() && self.direct.broke_off.is_none())
    }

    /// The tests that pass directly and not through Levee.
    pub fn differences(&self, suite: &str, known: &Known) -> Vec<Difference> {
        self.direct
            .beyond(&self.levee)
            .into_iter()
            .map(|(name, says)| {
                let test = self.full_name(name);
                let kind = match known.why(suite, &test) {
                    Some(why) => Kind::Known(why.to_owned()),
                    None if self.again.iter().any(|run| run.has_passed(name)) => Kind::Unsteady,
                    None => Kind::New,
                };
                Difference { test, says, kind }
            })
            .collect()
    }

    /// Known differences of this unit that are none any more.
    fn mended<'a>(&self, suite: &'a str, known: &'a Known) -> Vec<&'a str> {
        known
            .tests_of(suite)
            .filter(|test| {
                test.strip_prefix(self.unit.as_str())
                    .and_then(|test| test.strip_prefix(": "))
                    .is_some_and(|name| match name {
                        ALL => self.differences(suite, known).is_empty(),
                        name => self.levee.has_passed(name) && !known.is_unsteady(suite, test),
                    })
            })
            .collect()
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}: {name}", self.unit)
    }

    /// The unit's row of the table.
    pub fn line(&self, suite: &str, known: &Known) -> String {
        let mut line = format!(
            "{:<44}{:>8}{:>8}{:>8}",
            self.unit,
            self.direct.passed(),
            self.levee.passed(),
            self.differences(suite, known).len()
        );
        for (way, run) in [("directly", &self.direct), ("through Levee", &self.levee)] {
            if let Some(why) = &run.broke_off {
                let _ = write!(line, "  broke off {way}: {why}");
            }
        }
        line
    }
}

/// The head of the table.
pub fn head(suite: &str) -> String {
    format!(
        "\n=== {suite}: tests that pass\n{:<44}{:>8}{:>8}{:>8}",
        "unit", "direct", "levee", "differ"
    )
}

/// Prints what follows the table.
pub fn print(suite: &str, pairs: &[Pair], known: &Known) -> Verdict {
    let sum = |count: fn(&Run) -> usize, run: fn(&Pair) -> &Run| -> usize {
        pairs.iter().map(|pair| count(run(pair))).sum()
    };
    let differences: Vec<Difference> = pairs
        .iter()
        .flat_map(|pair| pair.differences(suite, known))
        .collect();
    println!(
        "{:<44}{:>8}{:>8}{:>8}",
        "total",
        sum(Run::passed, |pair| &pair.direct),
        sum(Run::passed, |pair| &pair.levee),
        differences.len()
    );
    println!(
        "{:<44}{:>8}{:>8}",
        "failed",
        sum(Run::failed, |pair| &pair.direct),
        sum(Run::failed, |pair| &pair.levee)
    );
    for difference in &differences {
        let what = match &difference.kind {
            Kind::Known(why) => format!("known: {why}"),
            Kind::Unsteady => "unsteady: it passed in another run through Levee".to_owned(),
            Kind::New => "NEW".to_owned(),
        };
        println!("\n{}\n    {}\n    {what}", difference.test, difference.says);
    }
    for test in pairs.iter().flat_map(|pair| pair.mended(suite, known)) {
        println!("\n{test}\n    passes now: remove its row from the list");
    }
    let new: Vec<&Difference> = differences
        .iter()
        .filter(|difference| difference.kind == Kind::New)
        .collect();
    if !new.is_empty() {
        println!("\nRows for the list, if these are meant to differ:");
        for difference in &new {
            println!("{}", row(suite, &difference.test, "?"));
        }
    }
    Verdict {
        new: new.len(),
        broke_off: print_broken_off(suite, pairs, known),
    }
}

/// Prints which units broke off. Returns how many.
fn print_broken_off(suite: &str, pairs: &[Pair], known: &Known) -> usize {
    let broke_off = pairs.iter().filter_map(|pair| {
        let why = pair.broke_off(suite, known)?;
        Some(format!("    {} broke off {why}", pair.unit))
    });
    let lines: Vec<String> = broke_off.collect();
    if !lines.is_empty() {
        println!("\nNOT COMPARED: nothing is known of the tests that these units did not run:");
        println!("{}", lines.join("\n"));
    }
    lines.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    fn run(tests: &[(&str, bool)]) -> Run {
        let mut run = Run::default();
        for (name, has_passed) in tests {
            let outcome = if *has_passed {
                Outcome::Passed
            } else {
                Outcome::Failed("no".to_owned())
            };
            run.add(name, outcome);
        }
        run
    }

    fn pair(again: Vec<Run>) -> Pair {
        Pair {
            unit: "unit/a".to_owned(),
            direct: run(&[("a", true), ("b", true), ("c", false), ("d", true)]),
            levee: run(&[("a", true), ("b", false), ("c", false), ("d", false)]),
            again,
        }
    }

    fn known() -> Known {
        let page = "| suite | test | why |\n|---|---|---|\n| redis | `unit/a: b` | by design |\n\
                    | redis | `unit/a: a` | old |\n";
        Known::read(page).unwrap()
    }

    #[test]
    fn a_difference_is_known_or_new_and_none_where_the_direct_run_fails_too() {
        let (pair, known) = (pair(vec![]), known());
        let kinds: Vec<(String, Kind)> = pair
            .differences("redis", &known)
            .into_iter()
            .map(|difference| (difference.test, difference.kind))
            .collect();
        let expected = [
            ("unit/a: b".to_owned(), Kind::Known("by design".to_owned())),
            ("unit/a: d".to_owned(), Kind::New),
        ];
        assert_eq!(kinds, expected);
        assert!(pair.is_in_doubt("redis", &known));
        assert_eq!(print("redis", &[pair], &known).new, 1);
    }

    #[test]
    fn what_passes_in_another_run_through_levee_is_unsteady() {
        let pair = pair(vec![run(&[("d", true)])]);
        assert!(!pair.is_in_doubt("redis", &known()));
        assert!(print("redis", &[pair], &known()).is_good());
    }

    #[test]
    fn a_test_that_differs_now_and_then_is_not_told_as_gone() {
        let page = "| suite | test | why |\n|---|---|---|\n| redis | `unit/a: a` | now and then: order |\n";
        let known = Known::read(page).unwrap();
        assert!(pair(vec![]).mended("redis", &known).is_empty());
    }

    #[test]
    fn a_known_difference_that_is_gone_is_told() {
        assert_eq!(pair(vec![]).mended("redis", &known()), ["unit/a: a"]);
    }
}
