//! The differences that are known, from `docs/reference/redis-suites.md`: a row for each, with its reason.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// In a row, in place of a test's name: all tests of the unit.
pub const ALL: &str = "*";

/// So begins the reason of a test that also passes.
const NOW_AND_THEN: &str = "now and then: ";

/// Why tests differ, by suite and test.
#[derive(Debug, Default)]
pub struct Known {
    reasons: BTreeMap<(String, String), String>,
}

impl Known {
    /// The page's tables that are headed `| suite | test | why |`.
    pub fn read(page: &str) -> Result<Self> {
        let mut reasons = BTreeMap::new();
        let mut in_table = false;
        for line in page.lines() {
            let cells = cells(line);
            let [suite, test, why] = &cells[..] else {
                in_table = false;
                continue;
            };
            if (suite.as_str(), test.as_str(), why.as_str()) == ("suite", "test", "why") {
                in_table = true;
            } else if in_table && !suite.starts_with("--") {
                let test = test
                    .strip_prefix('`')
                    .and_then(|test| test.strip_suffix('`'))
                    .with_context(|| format!("the test is not in backquotes: {line}"))?;
                ensure!(!why.is_empty(), "the reason is missing: {line}");
                reasons.insert((suite.clone(), test.to_owned()), why.clone());
            }
        }
        Ok(Self { reasons })
    }

    /// Why this test of a suite differs, if that is known. The row `unit: *` is for all tests of a unit.
    pub fn why(&self, suite: &str, test: &str) -> Option<&str> {
        let why = |test: String| self.reasons.get(&(suite.to_owned(), test));
        let of_the_unit = || {
            let (unit, _) = test.split_once(": ")?;
            why(format!("{unit}: {ALL}"))
        };
        why(test.to_owned())
            .or_else(of_the_unit)
            .map(String::as_str)
    }

    /// Whether this row is of a test that also passes.
    pub fn is_unsteady(&self, suite: &str, test: &str) -> bool {
        self.why(suite, test)
            .is_some_and(|why| why.starts_with(NOW_AND_THEN))
    }

    /// The tests that are known to differ in a suite.
    pub fn tests_of<'a>(&'a self, suite: &'a str) -> impl Iterator<Item = &'a str> {
        self.reasons
            .keys()
            .filter(move |(of, _)| of == suite)
            .map(|(_, test)| test.as_str())
    }
}

/// The row that `test` would have.
pub fn row(suite: &str, test: &str, why: &str) -> String {
    format!("| {suite} | `{}` | {why} |", test.replace('|', "\\|"))
}

/// The cells of a row; none if the line is no row. `\|` is a bar in a cell.
fn cells(line: &str) -> Vec<String> {
    const BAR: &str = "\u{0}";
    let line = line.trim().replace("\\|", BAR);
    let Some(row) = line
        .strip_prefix('|')
        .and_then(|line| line.strip_suffix('|'))
    else {
        return Vec::new();
    };
    row.split('|')
        .map(|cell| cell.trim().replace(BAR, "|"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_are_read_from_the_tables() {
        let test = "unit/a: x | y";
        let page = format!(
            "# A page\n\n| suite | test | why |\n|---|---|---|\n{}\n\n| other | test | why |\n|---|---|---|\n| redis | \
             no | no |\n",
            row("redis", test, "by design")
        );
        let known = Known::read(&page).unwrap();
        assert_eq!(known.why("redis", test), Some("by design"));
        assert_eq!(known.why("go-redis", test), None);
        assert_eq!(known.tests_of("redis").collect::<Vec<_>>(), [test]);
    }

    #[test]
    fn a_row_can_be_for_a_whole_unit() {
        let page = format!(
            "| suite | test | why |\n|---|---|---|\n{}\n{}\n",
            row("redis", "unit/a: *", "by design"),
            row("redis", "unit/a: x", "its own")
        );
        let known = Known::read(&page).unwrap();
        assert_eq!(known.why("redis", "unit/a: x"), Some("its own"));
        assert_eq!(known.why("redis", "unit/a: y: z"), Some("by design"));
        assert_eq!(known.why("redis", "unit/ab: y"), None);
    }

    #[test]
    fn a_row_without_a_reason_is_refused() {
        let page = "| suite | test | why |\n|---|---|---|\n| redis | `x` | |\n";
        assert!(Known::read(page).is_err());
        let page = "| suite | test | why |\n|---|---|---|\n| redis | x | why |\n";
        assert!(Known::read(page).is_err());
    }

    #[test]
    fn the_page_of_the_project_can_be_read() {
        Known::read(include_str!("../../docs/reference/redis-suites.md")).unwrap();
    }
}
