//! What `tests/test_helper.tcl` of Redis prints, as the outcomes of tests.

use crate::outcome::{Outcome, Run};

/// How names begin that have drawn numbers in them: of replicas and their masters, and of what was written.
const DRAWN: &str = "PSYNC2: ";

/// Reads the output of one unit, without colours.
///
/// ```text
/// [ok]: NAME (3 ms)
/// [err]: NAME in tests/unit/dump.tcl
/// Expected '1' to be equal to '2'
/// [ignore]: NAME: Not supported on external server
/// [exception]: Executing test client: I/O error reading reply.
/// ```
pub fn read(output: &str) -> Run {
    let mut run = Run::default();
    let mut lines = output.lines().peekable();
    let mut has_end = false;
    while let Some(line) = lines.next() {
        let Some((kind, text)) = message(line) else {
            has_end |= is_end(line);
            continue;
        };
        let mut details = Vec::new();
        if matches!(kind, "err" | "exception") {
            while let Some(line) = lines.next_if(|line| message(line).is_none() && !is_end(line)) {
                details.push(line);
            }
        }
        match kind {
            "ok" => run.add(&without_drawn(without_time(text)), Outcome::Passed),
            "err" => {
                let name = text
                    .rsplit_once(" in tests/")
                    .map_or(text, |(name, _)| name);
                run.add(&without_drawn(name), Outcome::Failed(explanation(&details)));
            }
            "skip" => run.add(text, Outcome::Skipped),
            "ignore" => run.add(
                text.rsplit_once(": ").map_or(text, |(name, _)| name),
                Outcome::Skipped,
            ),
            "exception" => {
                let text = text.strip_prefix("Executing test client: ").unwrap_or(text);
                run.broke_off = Some(text.trim_end_matches('.').to_owned());
            }
            "TIMEOUT" => run.broke_off = Some("no progress".to_owned()),
            _ => {}
        }
    }
    if !has_end && run.broke_off.is_none() {
        let said = output.lines().find(|line| line.contains("couldn't"));
        let said = said.or(output.lines().last()).unwrap_or("nothing");
        run.broke_off = Some(format!("the suite did not end in order: {said}"));
    }
    run
}

/// The kind and the text of `[kind]: text`.
fn message(line: &str) -> Option<(&str, &str)> {
    let (kind, text) = line.strip_prefix('[')?.split_once("]: ")?;
    let is_kind = ["ok", "err", "skip", "ignore", "exception", "TIMEOUT"].contains(&kind)
        || kind.ends_with("done");
    is_kind.then_some((kind, text))
}

/// The list of failures at the end repeats them.
fn is_end(line: &str) -> bool {
    line.trim() == "The End"
}

/// `NAME (3 ms)`
fn without_time(text: &str) -> &str {
    text.rsplit_once(" (").map_or(text, |(name, _)| name)
}

/// The name without numbers, if they are drawn in each run. Then the tests are told apart by their order.
fn without_drawn(name: &str) -> String {
    if !name.starts_with(DRAWN) {
        return name.to_owned();
    }
    let mut rest = name.trim_start_matches(DRAWN);
    let mut shown = DRAWN.to_owned();
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_digit()) {
        shown.push_str(&rest[..at]);
        shown.push('N');
        rest = rest[at..].trim_start_matches(|letter: char| letter.is_ascii_digit());
    }
    shown + rest
}

/// With `--durable` an error that is no assertion has its first ten characters cut off, and stands whole in the line
/// after that.
fn explanation(details: &[&str]) -> String {
    let first = details.first().copied().unwrap_or_default().trim();
    let second = details.get(1).copied().unwrap_or_default().trim();
    let whole = if second.ends_with(first) && !second.is_empty() {
        second
    } else {
        first
    };
    // Where in the suite it was.
    let (whole, _) = whole.split_once(" (context: ").unwrap_or((whole, ""));
    whole.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
Cleanup: may take some time... OK
[ready]: 26290
Testing unit/dump
[ok]: RESTORE (with ABSTTL) in the past (0 ms)
[err]: RESTORE fails in tests in tests/unit/dump.tcl
Expected '1' to be equal to '2' (context: type eval)
    and more
[err]: MONITOR can log executed commands in tests/unit/introspection.tcl
: MONITOR is not allowed
ERR levee: MONITOR is not allowed
    while executing
[ignore]: MIGRATE: cached: Not supported on external server
[skip]: A test
[ok]: A test (15004 ms)
[exception]: Executing test client: I/O error reading reply.
I/O error reading reply
    while executing
[1/1 done]: unit/dump (15 seconds)

                   The End

!!! WARNING The following tests failed:

*** [err]: RESTORE fails in tests in tests/unit/dump.tcl
";

    #[test]
    fn the_outcome_of_each_test_is_read() {
        let mut expected = Run::default();
        expected.add("RESTORE (with ABSTTL) in the past", Outcome::Passed);
        let why = "Expected '1' to be equal to '2'";
        expected.add("RESTORE fails in tests", Outcome::Failed(why.to_owned()));
        let why = "ERR levee: MONITOR is not allowed";
        expected.add(
            "MONITOR can log executed commands",
            Outcome::Failed(why.to_owned()),
        );
        expected.add("MIGRATE: cached", Outcome::Skipped);
        expected.add("A test", Outcome::Skipped);
        expected.add("A test", Outcome::Passed);
        expected.broke_off = Some("I/O error reading reply".to_owned());
        assert_eq!(read(OUTPUT), expected);
    }

    #[test]
    fn numbers_that_are_drawn_make_no_other_test() {
        let one = read(
            "[ok]: PSYNC2: Set #1 to replicate from #0 (9 ms)\n[ok]: PSYNC2: load (x = 52) (9 ms)\nThe End\n",
        );
        let other = read(
            "[ok]: PSYNC2: Set #4 to replicate from #2 (9 ms)\n[ok]: PSYNC2: load (x = 9) (9 ms)\nThe End\n",
        );
        assert_eq!(one, other);
        assert!(one.has_passed("PSYNC2: Set #N to replicate from #N"));
        assert!(read("[ok]: PSYNC2 #3899 (9 ms)\n").has_passed("PSYNC2 #3899"));
    }

    #[test]
    fn a_suite_that_does_not_start_broke_off() {
        let run =
            read("Cleanup\ncouldn't open socket: address already in use\n    while executing\n");
        assert!(run.broke_off.unwrap().contains("address already in use"));
        assert_eq!(read("The End\n").broke_off, None);
    }

    #[test]
    fn a_unit_that_makes_no_progress_broke_off() {
        let run = read("[ok]: a (1 ms)\n[TIMEOUT]: clients state report follows.\n");
        assert_eq!(run.passed(), 1);
        assert!(run.broke_off.is_some());
    }
}
