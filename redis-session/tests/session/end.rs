//! How a session ends: idle, by its client, at a stop.

use crate::play::{Play, settings};
use levee_policy::budget::BudgetSettings;
use levee_redis_session::proof::Proof;
use levee_redis_session::session::SessionSettings;

#[test]
fn an_idle_client_is_closed_and_a_subscriber_is_not() {
    let mut play = Play::new();
    play.pass(600_000);
    assert!(play.session.is_over());

    let mut play = Play::new();
    play.client(&["SUBSCRIBE a"]).connect();
    play.upstream("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
        .said();
    play.pass(600_000);
    assert!(!play.session.is_over());
}

#[test]
fn without_a_limit_no_idle_client_is_closed() {
    let settings = SessionSettings {
        idle: None,
        ..settings()
    };
    let mut play = Play::with(settings, BudgetSettings::default());
    play.client(&["PING"]).connect();
    play.upstream("+PONG\r\n").said();
    play.pass(366 * 24 * 3_600_000);
    assert!(!play.session.is_over() && play.session.keeps_connection());
    assert!(
        play.session.wake_at() > play.now,
        "it is not woken for nothing"
    );
}

#[test]
fn a_client_that_does_not_complete_its_command_is_idle() {
    let mut play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$600000\r\n")
        .raw(&vec![b'v'; 200_000]);
    play.session
        .connected(Proof::Answered { at: play.now }, play.now);
    play.sent();
    for _ in 0..599 {
        play.pass(1000);
    }
    assert!(!play.session.is_over());
    play.pass(1000);
    assert!(play.session.is_over());
}

#[test]
fn a_client_that_takes_no_replies_is_closed_without_a_panic() {
    let mut play = Play::new();
    play.client(&["GET a", "GET b", "GET c"]).connect();
    let (first, half) = ("v".repeat(100_000), "v".repeat(200_000));
    play.upstream(&format!("$100000\r\n{first}\r\n$300000\r\n{half}"));
    play.pass(600_000);
    assert!(play.session.is_over());
    assert!(!play.session.wants_upstream());
}

#[test]
fn the_end_of_a_client_is_noticed_behind_a_command_that_waits() {
    let mut play = Play::refusing();
    play.client(&["BLPOP q 0", "MONITOR"]).connect();
    assert!(play.session.wants_client());
    play.session.client_ended();
    assert!(play.session.is_over());
}

#[test]
fn a_stop_waits_for_what_is_owed() {
    let mut play = Play::new();
    play.client(&["INCR a"]).connect();
    play.session.stop();
    assert!(!play.session.is_over() && !play.session.wants_client());
    play.upstream(":1\r\n");
    assert!(!play.session.is_over());
    assert_eq!(play.said(), ":1\r\n");
    assert!(play.session.is_over());
}

#[test]
fn an_incomplete_line_is_dropped_at_a_stop() {
    let mut play = Play::new();
    play.client(&["INCR a"]).raw(b"PIN").connect();
    play.session.stop();
    play.upstream(":1\r\n");
    assert_eq!(play.said(), ":1\r\n");
    assert!(play.session.is_over());
    assert_eq!(play.gate.counts.refused_protocol.get(), 0);
}

#[test]
fn at_a_stop_a_command_beside_a_subscription_is_answered() {
    let mut play = Play::new();
    play.client(&["HELLO 3", "SUBSCRIBE a"]).connect();
    play.upstream("%0\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
        .said();
    play.client(&["INCR a"]).sent();
    play.session.stop();
    assert!(!play.session.is_over());
    assert_eq!(play.upstream(":1\r\n").said(), ":1\r\n");
    assert!(play.session.is_over());
}

#[test]
fn a_stop_does_not_wait_for_a_command_that_blocks() {
    let mut play = Play::new();
    play.client(&["INCR a", "BLPOP q 0"]).connect();
    play.sent();
    play.session.stop();
    assert!(!play.session.hangs_up(), "the reply before it is owed");
    assert_eq!(play.upstream(":1\r\n").said(), ":1\r\n");
    assert!(play.session.hangs_up() && !play.session.is_over());
    play.lost();
    assert_eq!(play.said(), "", "as if Redis had ended");
    assert!(play.session.is_over());
}

#[test]
fn what_was_popped_before_a_stop_is_delivered() {
    let mut play = Play::new();
    play.client(&["BLPOP q 0"]).connect();
    play.sent();
    play.session.stop();
    assert!(play.session.hangs_up());
    let popped = "*2\r\n$1\r\nq\r\n$1\r\nx\r\n";
    assert_eq!(play.upstream(popped).said(), popped);
    assert!(play.session.is_over());
}

#[test]
fn a_command_that_would_block_is_not_sent_any_more_at_a_stop() {
    let mut play = Play::new();
    play.client(&["BLPOP q 0"]);
    play.session.stop();
    assert!(play.session.is_over());
}
