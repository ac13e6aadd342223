//! What was seen, in words and as a table.

use std::fmt::{self, Display, Write};

use levee_tests::scenarios::{Fact, Report};

/// A scenario that was played.
#[derive(Debug)]
pub struct Played {
    /// Its name.
    pub name: &'static str,
    /// What was seen without Levee.
    pub without: Report,
    /// What was seen with it.
    pub with: Report,
}

impl Played {
    /// All holds with Levee, and each promise is broken without.
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
        let pairs =
            |both: fn(&Report) -> &Vec<Fact>| both(&self.with).iter().zip(both(&self.without));
        for (with, without) in pairs(|report| &report.promises) {
            writeln!(f, "   {}", with.wanted)?;
            writeln!(
                f,
                "     without Levee  {}  {}",
                yes(without.holds),
                without.seen
            )?;
            writeln!(f, "     with Levee     {}  {}", yes(with.holds), with.seen)?;
        }
        for (with, without) in pairs(|report| &report.always) {
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

/// A line for each scenario: how much of what was promised was kept.
pub fn table(played: &[Played]) -> String {
    let kept = |facts: &[Fact]| {
        let kept = facts.iter().filter(|fact| fact.holds).count();
        format!("{kept} of {}", facts.len())
    };
    let mut text = format!(
        "{:24} {:>14} {:>14} {:>14} {:>14}\n{:24} {:>14} {:>14} {:>14} {:>14}\n",
        "scenario",
        "promises kept",
        "promises kept",
        "metrics as",
        "goes on, and",
        "",
        "without Levee",
        "with Levee",
        "expected",
        "is normal after",
    );
    for one in played {
        let verdict = if one.is_as_it_should_be() {
            "holds"
        } else {
            "DOES NOT HOLD"
        };
        let _ = writeln!(
            text,
            "{:24} {:>14} {:>14} {:>14} {:>14}  {verdict}",
            one.name,
            kept(&one.without.promises),
            kept(&one.with.promises),
            kept(&one.with.metrics),
            kept(&one.with.always),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Played, table};
    use levee_tests::scenarios::{Fact, Report};

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
        assert!(table(&[good]).contains("1 of 1  holds"));
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
