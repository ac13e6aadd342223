//! What a suite says about its tests.

use std::collections::BTreeMap;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// With what the suite said, in one line.
    Failed(String),
    /// The suite left it out.
    Skipped,
}

/// One run of a unit, in the order in which its tests ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// By name. A name that occurs again gets a number: `name #2`.
    tests: Vec<(String, Outcome)>,
    /// Why the unit ended before all of its tests were run.
    pub broke_off: Option<String>,
}

impl Run {
    pub fn add(&mut self, name: &str, outcome: Outcome) {
        let count = self
            .tests
            .iter()
            .filter(|(other, _)| {
                other == name
                    || other
                        .strip_prefix(name)
                        .and_then(|rest| rest.strip_prefix(" #"))
                        .is_some_and(|number| number.parse::<usize>().is_ok())
            })
            .count();
        let name = match count {
            0 => name.to_owned(),
            count => format!("{name} #{}", count + 1),
        };
        self.tests.push((name, outcome));
    }

    /// How many tests passed.
    pub fn passed(&self) -> usize {
        self.tests
            .iter()
            .filter(|(_, outcome)| *outcome == Outcome::Passed)
            .count()
    }

    /// How many tests failed.
    pub fn failed(&self) -> usize {
        self.tests
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
            .count()
    }

    /// The tests that pass here and not in `other`, with what is said there.
    pub fn beyond<'a>(&'a self, other: &'a Self) -> Vec<(&'a str, String)> {
        let others: BTreeMap<&str, &Outcome> = other
            .tests
            .iter()
            .map(|(name, outcome)| (name.as_str(), outcome))
            .collect();
        self.tests
            .iter()
            .filter(|(_, outcome)| *outcome == Outcome::Passed)
            .filter_map(|(name, _)| {
                let why = match others.get(name.as_str()) {
                    Some(Outcome::Passed) => return None,
                    Some(Outcome::Failed(why)) => why.clone(),
                    Some(Outcome::Skipped) => "skipped".to_owned(),
                    None => match &other.broke_off {
                        Some(why) => format!("not run, since the unit broke off: {why}"),
                        None => "not run".to_owned(),
                    },
                };
                Some((name.as_str(), why))
            })
            .collect()
    }

    /// Whether this test passed.
    pub fn has_passed(&self, name: &str) -> bool {
        self.tests
            .iter()
            .any(|(other, outcome)| other == name && *outcome == Outcome::Passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_in_one_run_only_is_found_with_what_the_other_says() {
        let mut direct = Run::default();
        for name in ["a", "b", "c", "d"] {
            direct.add(name, Outcome::Passed);
        }
        direct.add("e", Outcome::Failed("broken anyway".to_owned()));
        let mut through = Run::default();
        through.add("a", Outcome::Passed);
        through.add("b", Outcome::Failed("refused".to_owned()));
        through.add("c", Outcome::Skipped);
        through.add("e", Outcome::Passed);
        through.broke_off = Some("I/O error".to_owned());
        let expected = [
            ("b", "refused".to_owned()),
            ("c", "skipped".to_owned()),
            (
                "d",
                "not run, since the unit broke off: I/O error".to_owned(),
            ),
        ];
        assert_eq!(direct.beyond(&through), expected);
        assert!(direct.beyond(&direct).is_empty());
    }

    #[test]
    fn tests_of_one_name_are_told_apart_by_their_order() {
        let (mut direct, mut through) = (Run::default(), Run::default());
        for _ in 0..3 {
            direct.add("SORT", Outcome::Passed);
        }
        through.add("SORT", Outcome::Passed);
        through.add("SORT", Outcome::Failed("no".to_owned()));
        through.add("SORT", Outcome::Passed);
        assert_eq!(direct.beyond(&through), [("SORT #2", "no".to_owned())]);
        assert_eq!((through.passed(), through.failed()), (2, 1));
    }
}
