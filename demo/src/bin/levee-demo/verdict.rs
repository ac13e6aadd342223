//! The results as text: each fact, and a table of scenarios.

use std::fmt::{self, Display, Write};

use levee_demo::scenarios::Report;

/// The results of a scenario.
#[derive(Debug)]
pub struct Played {
    pub name: &'static str,
    pub without: Report,
    pub with: Report,
}

impl Played {
    /// All facts hold with Levee, and each promise is broken without it.
    pub fn is_as_it_should_be(&self) -> bool {
        let shown = self.without.promises.len() == self.with.promises.len()
            && !self.with.promises.is_empty();
        shown && self.with.broken().is_empty() && self.without.unexpected_without_levee().is_empty()
    }
}

fn yes(holds: bool) -> &'static str {
    if holds { "yes" } else { "NO " }
}

impl Display for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { without, with, .. } = self;
        let promises = with.promises.iter().zip(&without.promises);
        let always = with.always.iter().zip(&without.always);
        for (with, without) in promises.chain(always) {
            writeln!(f, "   {}", with.wanted)?;
            writeln!(
                f,
                "     without Levee  {}  {}",
                yes(without.holds),
                without.seen
            )?;
            writeln!(f, "     with Levee     {}  {}", yes(with.holds), with.seen)?;
        }
        writeln!(f, "   Levee's metrics")?;
        for fact in &self.with.metrics {
            writeln!(
                f,
                "     {}  {}: {}",
                yes(fact.holds),
                fact.wanted,
                fact.seen
            )?;
        }
        Ok(())
    }
}

/// A line for each scenario, with its first promise.
pub fn table(played: &[Played]) -> String {
    let seen = |report: &Report| {
        let first = report.promises.first();
        first.map_or_else(|| "it broke off".to_owned(), |fact| fact.seen.clone())
    };
    let mut text = format!(
        "{:24}{:40}{:54}\n",
        "scenario", "without Levee", "with Levee"
    );
    for one in played {
        let (without, with) = (seen(&one.without), seen(&one.with));
        let verdict = if one.is_as_it_should_be() {
            "holds"
        } else {
            "DOES NOT HOLD"
        };
        let _ = writeln!(text, "{:24}{without:40}{with:54}{verdict}", one.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Played, table};
    use levee_demo::scenarios::{Fact, Report};

    fn fact(holds: bool) -> Fact {
        Fact {
            wanted: "x".into(),
            seen: "y".into(),
            holds,
        }
    }

    fn played(with: [bool; 3], promise_without: bool, always_without: bool) -> Played {
        let report = |promise, metrics: &[bool], always| Report {
            promises: vec![fact(promise)],
            metrics: metrics.iter().map(|holds| fact(*holds)).collect(),
            always: vec![fact(always)],
        };
        Played {
            name: "a scenario",
            with: report(with[0], &[with[1]], with[2]),
            without: report(promise_without, &[], always_without),
        }
    }

    #[test]
    fn a_scenario_holds_only_if_levee_keeps_all_and_its_absence_shows() {
        let good = played([true, true, true], false, true);
        assert!(good.is_as_it_should_be());
        assert!(table(&[good]).contains(" holds"));
        for bad in [
            played([false, true, true], false, true),
            played([true, false, true], false, true),
            played([true, true, false], false, true),
            played([true, true, true], true, true),
            played([true, true, true], false, false),
        ] {
            assert!(!bad.is_as_it_should_be(), "{bad:?}");
            assert!(table(&[bad]).contains("DOES NOT HOLD"));
        }
        let mut nothing = played([true, true, true], false, true);
        nothing.without = Report::default();
        assert!(!nothing.is_as_it_should_be(), "it broke off");
    }
}
