//! The scenarios of the audited system on the whole stack: each holds with Levee, and breaks without it.
#![allow(missing_docs)]

use levee_demo::scenarios::{ALL, Report, Scenario};
use levee_demo::stack::{Parts, Stack};

fn scenario(name: &str) -> Scenario {
    let scenario = ALL.into_iter().find(|scenario| scenario.name == name);
    scenario.expect("a scenario of this name")
}

/// Plays a scenario with Levee and without it.
fn plays(name: &str) {
    let scenario = scenario(name);
    let with = (scenario.play)(&mut Stack::start(Parts::ALL).unwrap()).unwrap();
    show("with Levee", &with);
    let without = (scenario.play)(&mut Stack::start(Parts::NONE).unwrap()).unwrap();
    show("without Levee", &without);
    assert!(!with.promises.is_empty() && !with.metrics.is_empty() && !with.always.is_empty());
    assert!(with.broken().is_empty(), "with Levee: {:#?}", with.broken());
    let unexpected = without.unexpected_without_levee();
    assert!(unexpected.is_empty(), "without Levee: {unexpected:#?}");
}

fn show(title: &str, report: &Report) {
    println!("{title}:");
    for fact in report
        .promises
        .iter()
        .chain(&report.metrics)
        .chain(&report.always)
    {
        let mark = if fact.holds { "holds" } else { "BROKEN" };
        println!("  {mark:6} {}: {}", fact.wanted, fact.seen);
    }
}

#[test]
fn a_slow_database_holds_nobody_up() {
    plays("database slow");
}

#[test]
fn redis_may_restart_or_hang() {
    plays("Redis down");
}

#[test]
fn logins_that_fail_are_refused_and_the_rest_of_their_service_works_on() {
    plays("login down");
}

#[test]
fn a_service_that_is_down_is_not_called_and_called_again_when_it_is_back() {
    plays("a backend down");
}

#[test]
fn a_service_that_fails_for_a_moment_is_asked_again_as_soon_as_it_is_back() {
    plays("a moment of failure");
}

#[test]
fn expired_tokens_are_removed() {
    plays("expired tokens pile up");
}

#[test]
fn stale_calls_are_ended() {
    plays("stale calls pile up");
}

/// Plays scenarios with one part of Levee only: its promises don't depend on the others.
fn one_part_keeps_its_promises(part: Parts, names: &[&str]) {
    let mut stack = Stack::start(part).unwrap();
    for name in names {
        let report = (scenario(name).play)(&mut stack).unwrap();
        show(name, &report);
        assert!(report.broken().is_empty(), "{:#?}", report.broken());
    }
}

#[test]
fn the_filter_needs_no_other_part() {
    let part = Parts {
        filter: true,
        ..Parts::NONE
    };
    one_part_keeps_its_promises(part, &["a backend down", "a moment of failure"]);
}

#[test]
fn the_redis_proxy_needs_no_other_part() {
    let part = Parts {
        redis_proxy: true,
        ..Parts::NONE
    };
    one_part_keeps_its_promises(part, &["Redis down"]);
}

#[test]
fn the_database_part_needs_no_other() {
    let part = Parts {
        database: true,
        ..Parts::NONE
    };
    let names = [
        "database slow",
        "expired tokens pile up",
        "stale calls pile up",
    ];
    one_part_keeps_its_promises(part, &names);
}
