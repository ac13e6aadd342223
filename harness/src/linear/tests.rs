use super::*;
use levee_policy::random::SplitMix64;

/// A history from lines such as `2 1-4 SET a = ok`: client, times, command, reply. Without a second time the outcome is
/// unknown, with `!` it was not executed.
fn history(lines: &str) -> Vec<Operation> {
    lines
        .trim()
        .lines()
        .map(|line| operation(line.trim()))
        .collect()
}

fn operation(line: &str) -> Operation {
    let (sent, reply) = line.split_once(" = ").unwrap_or((line, ""));
    let words: Vec<&str> = sent.split(' ').collect();
    let (from, to) = words[1].split_once('-').expect("two times");
    let argument = words.get(3).map(ToString::to_string).unwrap_or_default();
    let action = match words[2] {
        "GET" => Action::Get,
        "SET" => Action::Set(argument),
        "SETNX" => Action::SetIfAbsent(argument),
        "GETSET" => Action::SetAndGet(argument),
        "APPEND" => Action::Append(argument),
        "SETRANGE" => Action::Overwrite(argument),
        "INCRBY" => Action::Add(argument.parse().expect("a number")),
        "DEL" => Action::Delete,
        other => panic!("{other}"),
    };
    let answered = |at: &str| {
        let reply = match (reply, reply.parse()) {
            ("ok", _) => Reply::Done,
            ("nil", _) => Reply::Nothing,
            (_, Ok(number)) if !action.only_reads() => Reply::Number(number),
            (text, _) => Reply::Text(text.to_owned()),
        };
        Outcome::Answered(reply, at.parse().expect("a time"))
    };
    let outcome = match to {
        "" => Outcome::Unknown(String::new()),
        "!" => Outcome::NotExecuted(String::new()),
        at => answered(at),
    };
    Operation {
        client: words[0].parse().expect("a number"),
        key: "k".to_owned(),
        command: words[2..].join(" "),
        invoked: from.parse().expect("a time"),
        action,
        outcome,
    }
}

fn checked(lines: &str) -> Result<(), Box<Violation>> {
    check(&BTreeMap::new(), &history(lines))
}

#[test]
fn histories_with_an_order_are_accepted() {
    for lines in [
        // One after the other.
        "1 1-2 SET a = ok\n2 3-4 GET = a\n1 5-6 SET b = ok\n2 7-8 GET = b",
        // At the same time: either may be first.
        "1 1-4 SET a = ok\n2 2-3 SET b = ok\n3 5-6 GET = a",
        "1 1-4 SET a = ok\n2 2-3 SET b = ok\n3 5-6 GET = b",
        // A read sees a write that is not answered yet, and the next one does too.
        "1 1-8 SET a = ok\n2 2-3 GET = nil\n2 4-5 GET = a\n3 6-7 GET = a",
        // What was repeated, unseen, has taken effect when it was repeated.
        "1 1-6 SET old = ok\n2 2-3 SET new = ok\n2 7-8 GET = old",
        // Unknown: never, at once, much later.
        "1 1- SET a\n2 2-3 GET = nil",
        "1 1- SET a\n2 2-3 GET = a",
        "1 1- SET a\n2 2-3 SET b = ok\n2 4-5 GET = b\n2 6-7 GET = a",
        "1 1- INCRBY 1\n2 2-3 INCRBY 1 = 1\n2 4-5 INCRBY 1 = 3",
        // Not executed, and not seen.
        "1 1-! SET a\n2 2-3 GET = nil",
        // Of two that both want to be first, one is.
        "1 1-4 SETNX a = ok\n2 2-3 SETNX b = nil\n2 5-6 GET = a",
        "1 1-4 GETSET a = b\n2 2-3 GETSET b = nil",
        "1 1-2 SET abc = ok\n1 3-4 SETRANGE x = 3\n1 5-6 APPEND d = 4\n1 7-8 GET = xbcd",
        "1 1-2 SET a = ok\n1 3-4 DEL = 1\n1 5-6 DEL = 0\n1 7-8 GET = nil",
        // A pipeline: sent together, answered in order.
        "1 1-3 SET a = ok\n1 2-4 GET = a",
    ] {
        assert_eq!(checked(lines), Ok(()), "{lines}");
    }
}

#[test]
fn histories_without_an_order_are_found_out() {
    for lines in [
        // A read of what was never written, of what is not written yet, of what was overwritten.
        "1 1-2 GET = a",
        "1 1-2 GET = a\n2 3-4 SET a = ok",
        "1 1-2 SET a = ok\n1 3-4 SET b = ok\n2 5-6 GET = a",
        // A write that was acknowledged and lost.
        "1 1-2 SET a = ok\n2 3-4 GET = nil",
        // What was repeated had been seen before: it undoes another client's acknowledged SET.
        "1 1-8 SET old = ok\n2 2-3 GET = old\n2 4-5 SET new = ok\n2 9-10 GET = old",
        "1 1-6 SET old = ok\n2 2-3 GETSET new = old\n2 7-8 GET = old",
        "1 1- SET old\n2 2-3 GETSET new = old\n2 7-8 GET = old",
        // Time goes back from one reader to the next.
        "1 1-8 SET a = ok\n2 2-3 GET = a\n3 4-5 GET = nil",
        // Counted twice, once by one whose outcome is unknown, and by one that said that it was not executed.
        "1 1-6 INCRBY 1 = 2\n2 7-8 GET = 2",
        "1 1- INCRBY 1\n2 7-8 GET = 2",
        "1 1-! INCRBY 1\n2 7-8 GET = 1",
        "1 1-2 APPEND a = 1\n2 3-4 GET = aa",
        // Two were first.
        "1 1-4 SETNX a = ok\n2 2-3 SETNX b = ok",
        // A deleted value came back.
        "1 1-6 SET a = ok\n2 2-3 DEL = 1\n2 7-8 GET = a",
        // A pipeline out of order.
        "1 1-3 SET a = ok\n1 2-4 GET = nil",
    ] {
        assert!(checked(lines).is_err(), "{lines}");
    }
}

#[test]
fn keys_are_independent_and_may_hold_something_at_first() {
    let mut operations = history("1 1-2 GET = a\n1 3-4 GET = nil");
    assert!(check(&BTreeMap::new(), &operations).is_err());
    operations[1].key = "other".to_owned();
    let initial = BTreeMap::from([("k".to_owned(), "a".to_owned())]);
    assert_eq!(check(&initial, &operations), Ok(()));
}

#[test]
fn a_violation_shows_what_it_takes_and_nothing_else() {
    let violation = checked(
        "1 1-12 SET old = ok\n2 2-3 GET = nil\n2 4-5 GET = old\n2 6-7 SET new = ok\n3 8-9 GET = new\n\
         2 10-11 GET = old\n3 13-14 SET later = ok\n3 15-16 GET = later",
    )
    .unwrap_err();
    let shown = "k holds nothing at first\n  \
        1 ..     client 1  SET old  ->  unknown: not answered yet\n  \
        4 ..  5  client 2  GET  ->  Text(\"old\")\n  \
        6 ..  7  client 2  SET new  ->  Done\n \
        10 .. 11  client 2  GET  ->  Text(\"old\")\n\
        the longest order:\n  \
        client 1  SET old\n  \
        client 2  GET\n  \
        client 2  SET new\n\
        leaves \"new\", after which none of the others fits";
    let plain = |text: &str| -> String {
        text.lines()
            .map(|line| line.trim().to_owned() + "\n")
            .collect()
    };
    assert_eq!(plain(&violation.to_string()), plain(shown));
}

/// All orders, one after the other: slow, and plainly right.
fn has_an_order(operations: &[Operation], value: Option<&str>, done: &mut Vec<usize>) -> bool {
    let open = |done: &[usize]| -> Vec<usize> {
        (0..operations.len())
            .filter(|at| !done.contains(at))
            .collect()
    };
    let left = open(done);
    if left
        .iter()
        .all(|at| operations[*at].answered_at().is_none())
    {
        return true;
    }
    left.iter().any(|at| {
        let operation = &operations[*at];
        let is_before = |other: &usize| {
            let other = &operations[*other];
            other
                .answered_at()
                .is_some_and(|answered| answered < operation.invoked)
        };
        let (next, reply) = operation.action.apply(value);
        let fits = match &operation.outcome {
            Outcome::Answered(seen, _) => *seen == reply,
            Outcome::Unknown(_) => true,
            Outcome::NotExecuted(_) => false,
        };
        if !fits || left.iter().any(is_before) {
            return false;
        }
        done.push(*at);
        let found = has_an_order(operations, next.as_deref(), done);
        done.pop();
        found
    })
}

#[test]
fn random_histories_are_judged_as_by_trying_all_orders() {
    let mut random = SplitMix64::new(1);
    let mut draw = |below: u64| random.next_u64() % below;
    let mut accepted = 0;
    for _ in 0..20_000 {
        // Each client sends one after the other, and times overlap those of others.
        let (mut operations, mut now) = (Vec::new(), 0);
        for client in 0..3 {
            let mut at = draw(3);
            for _ in 0..=draw(2) {
                let (from, to) = (at * 4 + client, (at + 1 + draw(3)) * 4 + client);
                at = to / 4 + 1;
                now = now.max(to);
                let value = ["a", "b"][usize::try_from(draw(2)).expect("0 or 1")];
                let written = format!("{client} {from}-{to} SET {value} = ok");
                let line = match draw(6) {
                    0 => written,
                    1 => format!("{client} {from}- SET {value}"),
                    2 => format!("{client} {from}-{to} GET = nil"),
                    3 => format!("{client} {from}-{to} GETSET a = {value}"),
                    _ => format!("{client} {from}-{to} GET = {value}"),
                };
                operations.push(operation(&line));
            }
        }
        let found = check(&BTreeMap::new(), &operations).is_ok();
        assert_eq!(
            found,
            has_an_order(&operations, None, &mut Vec::new()),
            "{operations:#?}"
        );
        accepted += u32::from(found);
    }
    assert!((2_000..18_000).contains(&accepted), "{accepted}");
}
