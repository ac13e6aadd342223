//! A connection counts once Redis has answered on it.

use crate::play::{Play, settings};
use levee_policy::budget::BudgetSettings;

const PONG: &str = "+PONG\r\n";

#[test]
fn what_must_not_be_repeated_waits_until_a_new_connection_has_answered() {
    let mut play = Play::new();
    assert_eq!(play.client(&["INCR a"]).accepted(), "*1 PING");
    // A balancer closes it: nothing was executed.
    assert_eq!(play.lost().said(), "");
    assert_eq!(play.pass(100).accepted(), "*1 PING");
    assert_eq!(play.upstream(PONG).sent(), "*2 INCR a");
    assert_eq!(play.upstream(":1\r\n").said(), ":1\r\n");
}

#[test]
fn what_may_be_repeated_goes_out_at_once_and_its_answer_is_the_proof() {
    let mut play = Play::new();
    play.client(&["GET a", "INCR b", "GET c"]);
    assert_eq!(play.accepted(), "*2 GET a");
    assert_eq!(play.upstream("$-1\r\n").sent(), "*2 INCR b *2 GET c");
}

#[test]
fn after_a_loss_nothing_goes_out_before_the_new_connection_has_answered() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    assert_eq!(play.lost().pass(100).accepted(), "*1 PING");
    assert_eq!(play.upstream(PONG).sent(), "*2 GET a");
}

#[test]
fn a_connection_that_never_answered_is_no_attempt_and_costs_nothing() {
    let budget = BudgetSettings {
        per_second: 0,
        ..BudgetSettings::default()
    };
    let mut play = Play::with(settings(), budget);
    assert_eq!(play.client(&["GET a"]).accepted(), "*2 GET a");
    for _ in 0..5 {
        play.lost().pass(200);
        while !play.session.wants_connection() {
            play.pass(10);
        }
        assert_eq!(play.accepted(), "*1 PING");
    }
    assert_eq!(play.upstream(PONG).sent(), "*2 GET a");
    assert_eq!(play.upstream("$-1\r\n").said(), "$-1\r\n");
}

#[test]
fn state_that_is_set_again_is_the_proof() {
    let mut play = Play::new();
    play.client(&["SELECT 1"]).connect();
    play.upstream("+OK\r\n").said();
    play.lost();
    assert_eq!(play.client(&["INCR a"]).accepted(), "*2 SELECT 1");
    assert_eq!(play.upstream("+OK\r\n").sent(), "*2 INCR a");
}

#[test]
fn a_connection_that_was_silent_is_proven_before_what_must_not_be_repeated() {
    let mut play = Play::new();
    play.client(&["INCR a"]).connect();
    play.upstream(":1\r\n").said();
    assert_eq!(play.pass(1000).client(&["INCR a"]).sent(), "*2 INCR a");
    play.upstream(":2\r\n").said();
    assert_eq!(play.pass(1001).client(&["INCR a"]).sent(), "*1 PING");
    assert_eq!(play.upstream(PONG).sent(), "*2 INCR a");
    play.upstream(":3\r\n").said();
    // What may be repeated needs none.
    assert_eq!(play.pass(5000).client(&["GET a"]).sent(), "*2 GET a");
}

#[test]
fn a_silent_connection_that_is_dead_costs_a_write_nothing() {
    let mut play = Play::new();
    play.client(&["INCR a"]).connect();
    play.upstream(":1\r\n").said();
    assert_eq!(play.pass(60_000).client(&["INCR a"]).sent(), "*1 PING");
    play.pass(1000);
    assert_eq!(play.second(), "*2 INCR a");
    assert_eq!(play.upstream(":2\r\n").said(), ":2\r\n");
}

#[test]
fn within_a_transaction_nothing_is_asked() {
    let mut play = Play::new();
    play.client(&["MULTI"]).connect();
    play.upstream("+OK\r\n").said();
    assert_eq!(play.pass(5000).client(&["INCR a"]).sent(), "*2 INCR a");
    // But what follows a MULTI waits until that is answered.
    let mut play = Play::new();
    play.client(&["MULTI", "INCR a", "EXEC"]);
    assert_eq!(play.accepted(), "*1 MULTI");
    assert_eq!(play.upstream("+OK\r\n").sent(), "*2 INCR a *1 EXEC");
}

#[test]
fn a_subscription_does_not_wait() {
    let mut play = Play::new();
    assert_eq!(play.client(&["SUBSCRIBE c"]).accepted(), "*2 SUBSCRIBE c");
    play.upstream("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        .said();
    assert_eq!(play.pass(5000).client(&["PING"]).sent(), "*1 PING");
    assert_eq!(play.client(&["UNSUBSCRIBE c"]).sent(), "*2 UNSUBSCRIBE c");
}

#[test]
fn a_redis_that_is_loading_is_no_proof() {
    let mut play = Play::new();
    play.client(&["INCR a"]).accepted();
    play.upstream("-LOADING x\r\n");
    assert!(!play.session.keeps_connection());
    assert_eq!(play.pass(100).accepted(), "*1 PING");
    assert_eq!(play.upstream(PONG).sent(), "*2 INCR a");
}

#[test]
fn nothing_is_asked_within_a_command_that_is_sent_as_it_arrives() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    play.upstream("$-1\r\n").said();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$400000\r\n");
    play.raw(&vec![b'v'; 200_000]);
    play.sent();
    for _ in 0..2 {
        play.pass(2000);
        play.raw(&vec![b'v'; 100_000]);
        let sent = play.sent();
        assert_eq!(sent.len(), 100_000, "{:?}", sent.get(..20));
    }
    play.raw(b"\r\n").sent();
    assert_eq!(play.upstream("+OK\r\n").said(), "+OK\r\n");
}

#[test]
fn a_push_that_comes_before_the_proof_is_the_clients() {
    let mut play = Play::new();
    play.client(&["HELLO 3", "CLIENT TRACKING ON"]).connect();
    play.upstream("%0\r\n+OK\r\n").said();
    play.pass(5000);
    assert_eq!(play.client(&["INCR a"]).sent(), "*1 PING");
    let push = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
    assert_eq!(play.upstream(push).said(), push);
    assert_eq!(play.upstream(PONG).sent(), "*2 INCR a");
}

#[test]
fn nothing_is_asked_within_a_reply_of_which_the_client_has_a_part() {
    let mut play = Play::new();
    play.client(&["PING"]).connect();
    play.upstream("+PONG\r\n").said();
    // Nobody has asked for it.
    let half = "v".repeat(70_000);
    play.upstream(&format!("$140000\r\n{half}"));
    assert!(play.said().ends_with(&half));
    play.pass(5000).client(&["INCR a"]);
    assert_eq!(play.sent(), "");
    assert_eq!(play.upstream(&format!("{half}\r\n")).said().len(), 70_002);
    assert_eq!(play.sent(), "*2 INCR a", "Redis has just answered");
    assert_eq!(play.upstream(":1\r\n").said(), ":1\r\n");
}
