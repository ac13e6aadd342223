//! A suite of somebody else, and running it both ways.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::known::Known;
use crate::outcome::Run;
use crate::report::{self, Pair, Verdict};
use crate::stand::Way;

/// A suite, in units that are run one after the other.
pub trait Suite {
    /// As users name it, and as it stands in the list of known differences.
    fn name(&self) -> &'static str;

    /// All its units.
    fn units(&self) -> Result<Vec<String>>;

    /// Runs one unit with fresh servers. Logs go into `folder`.
    fn run(&self, unit: &str, way: Way, folder: &Path) -> Result<Run>;
}

/// How often a unit is run again through Levee because of differences that are not known.
const AGAIN: usize = 2;

/// Runs these units, or all if none is named, and prints what differs.
pub fn compare(
    suite: &dyn Suite,
    chosen: &[String],
    known: &Known,
    logs: &Path,
) -> Result<Verdict> {
    let all = suite.units()?;
    let unknown: BTreeSet<&String> = chosen.iter().filter(|unit| !all.contains(unit)).collect();
    ensure!(
        unknown.is_empty(),
        "{} has no units {unknown:?}; it has {all:?}",
        suite.name()
    );
    let units = if chosen.is_empty() { &all } else { chosen };
    println!("{}", report::head(suite.name()));
    let mut pairs = Vec::new();
    for unit in units {
        let pair = both_ways(suite, unit, known, logs)?;
        println!("{}", pair.line(suite.name(), known));
        pairs.push(pair);
    }
    Ok(report::print(suite.name(), &pairs, known))
}

fn both_ways(suite: &dyn Suite, unit: &str, known: &Known, logs: &Path) -> Result<Pair> {
    let run = |way: Way, number: usize| -> Result<Run> {
        let folder = logs
            .join(suite.name())
            .join(unit.replace(['/', '.'], "-"))
            .join(format!("{}-{number}", way.name()));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        suite
            .run(unit, way, &folder)
            .with_context(|| format!("{unit}, {}", way.name()))
    };
    let mut direct = run(Way::Direct, 1)?;
    // What was not run directly can't be compared.
    if direct.broke_off.is_some() {
        direct = run(Way::Direct, 2)?;
    }
    let mut pair = Pair {
        unit: unit.to_owned(),
        direct,
        levee: run(Way::Levee, 1)?,
        again: vec![],
    };
    for number in 2..2 + AGAIN {
        if pair.is_in_doubt(suite.name(), known) {
            pair.again.push(run(Way::Levee, number)?);
        }
    }
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::outcome::Outcome;

    /// A suite of one test, which breaks off after it in the first `broken` runs of a way.
    struct Fragile {
        way: Way,
        broken: Cell<usize>,
    }

    impl Suite for Fragile {
        fn name(&self) -> &'static str {
            "fragile"
        }

        fn units(&self) -> Result<Vec<String>> {
            Ok(vec!["unit/a".to_owned()])
        }

        fn run(&self, _: &str, way: Way, _: &Path) -> Result<Run> {
            let mut run = Run::default();
            run.add("a", Outcome::Passed);
            let left = self.broken.get();
            if way == self.way && left > 0 {
                self.broken.set(left - 1);
                run.broke_off = Some("killed".to_owned());
            }
            Ok(run)
        }
    }

    fn verdict(way: Way, broken: usize) -> Result<Verdict> {
        let suite = Fragile {
            way,
            broken: Cell::new(broken),
        };
        let logs = tempfile::tempdir()?;
        compare(&suite, &[], &Known::default(), logs.path())
    }

    #[test]
    fn a_unit_that_breaks_off_directly_is_run_again_and_then_fails() -> Result<()> {
        assert!(verdict(Way::Direct, 1)?.is_good());
        let bad = verdict(Way::Direct, 2)?;
        assert!(!bad.is_good());
        assert!(bad.to_string().ends_with("broke off: 1"), "{bad}");
        Ok(())
    }

    #[test]
    fn a_unit_that_breaks_off_through_levee_each_time_fails() -> Result<()> {
        assert!(verdict(Way::Levee, 2)?.is_good());
        assert!(!verdict(Way::Levee, 3)?.is_good());
        Ok(())
    }
}
