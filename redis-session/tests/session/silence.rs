//! A connection that stops without a word.

use crate::play::{Play, settings};
use levee_policy::budget::BudgetSettings;
use levee_redis_session::gate::Check;
use levee_redis_session::session::Choice;

/// Everything works, then nothing comes any more.
fn silent(lines: &[&str]) -> Play {
    let mut play = Play::new();
    play.client(&["PING"]).connect();
    play.upstream("+PONG\r\n").said();
    play.client(lines).sent();
    play.pass(999);
    assert!(!play.session.wants_second());
    play.pass(1);
    play
}

#[test]
fn what_may_be_repeated_goes_out_again_on_another_connection() {
    let mut play = silent(&["GET a", "GET b"]);
    assert_eq!(play.second(), "*2 GET a *2 GET b");
    let said = play.upstream("$1\r\n1\r\n$1\r\n2\r\n").said();
    assert_eq!(said, "$1\r\n1\r\n$1\r\n2\r\n");
    assert_eq!(play.gate.counts.failure.get(), 0);
}

#[test]
fn a_slow_redis_answers_the_first_connection_which_is_kept() {
    let mut play = silent(&["KEYS *"]);
    assert!(play.session.wants_second());
    play.pass(500);
    assert_eq!(play.upstream("*0\r\n").said(), "*0\r\n");
    assert!(!play.session.wants_second() && play.session.keeps_connection());
    // Even if the other one answers a moment later.
    assert_eq!(play.session.second_connected(play.now), Choice::First);
    assert_eq!(play.client(&["GET a"]).sent(), "*2 GET a");
}

#[test]
fn what_must_not_be_repeated_waits_for_its_deadline() {
    let mut play = silent(&["GET a", "INCR a"]);
    for _ in 0..1999 {
        assert!(!play.pass(1).session.wants_second());
    }
    let said = play.pass(1).said();
    assert_eq!(
        said.matches("no answer from Redis within 3s").count(),
        2,
        "{said}"
    );
}

#[test]
fn a_set_goes_out_again_once_its_key_was_looked_at() {
    let mut play = silent(&["SET a 1"]);
    assert_eq!(play.second(), "*2 WATCH a *2 EXISTS a *4 GETRANGE a 0 1");
}

#[test]
fn what_waits_on_purpose_is_not_silent() {
    for line in ["BLPOP a 0", "XREAD BLOCK 0 STREAMS s $"] {
        let mut play = silent(&[line]);
        for _ in 0..100 {
            assert!(!play.pass(1000).session.wants_second(), "{line}");
        }
        assert!(play.session.keeps_connection());
    }
}

#[test]
fn another_connection_that_fails_too_is_an_outage() {
    let mut play = silent(&["GET a"]);
    let refused = Check::Silent { why: "refused" };
    play.session.second_failed(refused, play.now);
    assert!(!play.session.wants_second());
    assert!(play.pass(1000).session.wants_second());
    // Since the silence began, 3 s ago.
    play.pass(1000).said();
    play.session = play.another();
    let said = play.client(&["GET b"]).said();
    assert!(
        said.contains("can't be reached since 3s (refused)"),
        "{said}"
    );
}

#[test]
fn another_connection_without_an_answer_is_given_up() {
    let mut play = silent(&["GET a"]);
    play.pass(999);
    assert!(play.session.wants_second());
    play.pass(1);
    let last = play.gate.status(play.now).last_error.unwrap();
    assert!(
        last.message.contains("no answer on a new connection"),
        "{last:?}"
    );
}

#[test]
fn it_is_paid_for() {
    let budget = BudgetSettings {
        per_second: 0,
        ..BudgetSettings::default()
    };
    let mut play = Play::with(settings(), budget);
    play.client(&["GET a"]).connect();
    play.pass(1000);
    assert!(play.session.wants_second());
    assert_eq!(play.session.second_connected(play.now), Choice::First);
    assert!(play.session.keeps_connection());
    assert_eq!(play.upstream("$-1\r\n").said(), "$-1\r\n");
}

#[test]
fn the_clients_state_is_set_on_the_other_connection_first() {
    let mut play = Play::new();
    play.client(&["SELECT 2"]).connect();
    play.upstream("+OK\r\n").said();
    play.client(&["GET a"]).sent();
    play.pass(1000);
    assert_eq!(play.second(), "*2 SELECT 2");
    assert_eq!(play.upstream("+OK\r\n").sent(), "*2 GET a");
}

#[test]
fn another_connection_on_which_redis_is_busy_is_no_outage() {
    let mut play = silent(&["GET a"]);
    play.session.second_failed(Check::Refused, play.now);
    play.pass(2000).said();
    play.session = play.another();
    assert_eq!(play.client(&["GET b"]).connect(), "*2 GET b");
}

#[test]
fn what_has_to_wait_for_proof_finds_it_on_another_connection() {
    for line in ["INCR a", "EVAL x 0", "BLPOP a 0", "BLPOP a 1"] {
        let mut play = Play::new();
        play.client(&["PING"]).connect();
        play.upstream("+PONG\r\n").said();
        play.pass(5000);
        assert_eq!(play.client(&[line]).sent(), "*1 PING", "{line}");
        play.pass(1000);
        assert!(play.session.wants_second(), "{line}");
        assert!(play.second().ends_with(line), "{line}");
    }
}

#[test]
fn a_client_that_does_not_take_its_replies_is_not_a_silent_redis() {
    let mut play = Play::new();
    play.client(&["GET a", "GET b"]).connect();
    let long = format!("${}\r\n{}\r\n", 300_000, "v".repeat(300_000));
    play.upstream(&long);
    assert!(!play.session.wants_upstream());
    play.pass(1000);
    assert!(!play.session.wants_second());
    play.said();
    play.pass(999);
    assert!(!play.session.wants_second());
    play.pass(1);
    assert!(play.session.wants_second());
}

#[test]
fn a_script_that_was_not_sent_is_not_said_to_run() {
    let mut play = Play::new();
    assert_eq!(play.client(&["EVAL x 0"]).accepted(), "*1 PING");
    for _ in 0..3 {
        play.pass(1000);
    }
    let said = play.said();
    assert!(said.contains("no answer from Redis within 3s"), "{said}");
    assert!(!said.contains("may still run"), "{said}");
}
