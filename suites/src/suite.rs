//! A suite of somebody else, and running it both ways.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::known::Known;
use crate::outcome::Run;
use crate::report::{self, Pair};
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

/// Runs these units, or all if none is named, and prints what differs. Returns how many differences are not known.
pub fn compare(suite: &dyn Suite, chosen: &[String], known: &Known, logs: &Path) -> Result<usize> {
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
    let mut pair = Pair {
        unit: unit.to_owned(),
        direct: run(Way::Direct, 1)?,
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
