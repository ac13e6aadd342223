//! What is sent again after a failure, how often, and at what cost.

use crate::play::{Play, settings};
use levee_policy::budget::BudgetSettings;
use levee_redis_session::proof::Proof;

#[test]
fn a_lost_read_is_sent_again_after_a_wait() {
    let mut play = Play::new();
    assert_eq!(play.client(&["GET a"]).connect(), "*2 GET a");
    play.lost();
    assert!(!play.session.wants_connection());
    assert_eq!(play.pass(100).connect(), "*2 GET a");
    assert_eq!(play.upstream("$1\r\nv\r\n").said(), "$1\r\nv\r\n");
}

#[test]
fn a_write_that_may_have_been_executed_is_not_sent_again() {
    let mut play = Play::new();
    play.client(&["INCR a"]).connect();
    let said = play.lost().said();
    assert!(said.starts_with("-ERR levee: connection lost"), "{said}");
    assert!(said.contains("may or may not have been executed"), "{said}");
    play.pass(5000);
    assert!(!play.session.wants_connection() && !play.session.is_over());
}

#[test]
fn a_write_of_which_a_byte_was_not_sent_is_sent_again() {
    let mut play = Play::new();
    play.client(&["INCR a"]);
    play.session
        .connected(Proof::Answered { at: play.now }, play.now);
    let bytes = play.session.to_upstream().len();
    play.session.upstream_took(bytes - 1, play.now);
    play.lost();
    assert_eq!(play.said(), "");
    assert_eq!(play.pass(100).connect(), "*2 INCR a");
}

#[test]
fn what_stands_before_a_lost_write_fails_with_it_and_what_stands_behind_is_sent_again() {
    let mut play = Play::new();
    play.client(&["GET a", "INCR a", "GET c", "SET b 1"])
        .connect();
    let said = play.lost().said();
    assert_eq!(said.matches("-ERR levee").count(), 2, "{said}");
    // What it may have overwritten is looked at first.
    assert_eq!(play.pass(100).connect(), "*2 GET c");
    assert_eq!(play.upstream("$-1\r\n").said(), "$-1\r\n");
    assert_eq!(play.sent(), "*2 WATCH b *2 EXISTS b *4 GETRANGE b 0 1");
    play.upstream("+OK\r\n:0\r\n$0\r\n\r\n");
    assert_eq!(play.sent(), "*1 MULTI");
    let said = play
        .upstream("+OK\r\n")
        .upstream("+QUEUED\r\n*1\r\n+OK\r\n")
        .said();
    assert_eq!(said, "+OK\r\n");
}

#[test]
fn what_was_answered_is_not_sent_again() {
    let mut play = Play::new();
    play.client(&["INCR a", "GET a"]).connect();
    assert_eq!(play.upstream(":1\r\n$1\r\n").said(), ":1\r\n");
    play.lost();
    assert_eq!(play.pass(100).connect(), "*2 GET a");
    assert_eq!(play.upstream("$1\r\n1\r\n").said(), "$1\r\n1\r\n");
}

#[test]
fn a_short_reply_of_which_a_part_has_come_is_asked_for_again() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    assert_eq!(play.upstream("$5\r\nhal").said(), "");
    assert_eq!(play.lost().pass(100).connect(), "*2 GET a");
    assert_eq!(play.upstream("$5\r\nwhole\r\n").said(), "$5\r\nwhole\r\n");
}

#[test]
fn a_reply_that_says_not_executed_is_tried_again_whatever_the_command() {
    let mut play = Play::new();
    play.client(&["INCR a", "INCR b"]).connect();
    play.upstream("-LOADING Redis is loading\r\n-LOADING Redis is loading\r\n");
    assert_eq!(play.said(), "");
    assert_eq!(play.pass(100).connect(), "*2 INCR a *2 INCR b");
    assert_eq!(play.upstream(":1\r\n:1\r\n").said(), ":1\r\n:1\r\n");
}

#[test]
fn a_pipeline_of_which_a_part_was_executed_is_answered_as_it_is() {
    let mut play = Play::new();
    play.client(&["SET a 1", "SET a 2"]).connect();
    let replies = "-TRYAGAIN x\r\n+OK\r\n";
    assert_eq!(play.upstream(replies).said(), replies);
}

#[test]
fn what_a_script_says_is_not_taken_for_redis_own_words() {
    for script in ["EVAL x 0", "EVALSHA_RO x 0", "FCALL f 0", "FT.ADD x"] {
        let mut play = Play::new();
        play.client(&[script]).connect();
        assert_eq!(
            play.upstream("-TRYAGAIN mine\r\n").said(),
            "-TRYAGAIN mine\r\n"
        );
        assert_eq!(play.pass(100).sent(), "");
    }
}

#[test]
fn a_command_is_sent_three_times_at_most() {
    let mut play = Play::new();
    assert_eq!(play.client(&["GET a"]).connect(), "*2 GET a");
    for _ in 0..2 {
        play.pass(1000);
        assert_eq!(play.second(), "*2 GET a");
    }
    let said = play.pass(1000).said();
    assert!(said.contains("3 attempts"), "{said}");
}

#[test]
fn a_command_on_which_redis_closes_two_connections_is_its_cause() {
    let mut play = Play::new();
    play.client(&["LRANGE a 0 -1", "GET b"]).connect();
    assert_eq!(play.lost().pass(100).connect(), "*4 LRANGE a 0 -1 *2 GET b");
    let said = play.lost().said();
    assert_eq!(said.matches("-ERR").count(), 1, "{said}");
    assert!(
        said.contains("each connection was closed on which it was sent"),
        "{said}"
    );
    assert_eq!(play.pass(200).connect(), "*2 GET b");
}

#[test]
fn a_spent_budget_fails_at_once_and_says_so() {
    let budget = BudgetSettings {
        per_second: 0,
        ..BudgetSettings::default()
    };
    let mut play = Play::with(settings(), budget);
    play.client(&["GET a"]).connect();
    let said = play.lost().said();
    assert!(said.contains("retry budget is spent"), "{said}");
}

#[test]
fn all_that_is_sent_again_is_paid_for() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    play.pass(10).client(&["GET b"; 50]).sent();
    let before = play.gate.status(play.now).budget_left;
    play.pass(2990);
    assert_eq!(play.said().matches("-ERR").count(), 1);
    assert_eq!(before - play.gate.status(play.now).budget_left, 50);
}

#[test]
fn an_upstream_without_free_connections_is_quoted_once_the_budget_is_spent() {
    let full = "-ERR max number of clients reached\r\n";
    let budget = BudgetSettings {
        per_second: 0,
        ..BudgetSettings::default()
    };
    let mut play = Play::with(settings(), budget);
    play.client(&["GET a"]).connect();
    assert_eq!(play.upstream(full).said(), full);

    let mut play = Play::new();
    play.client(&["INCR a", "INCR b"]).connect();
    assert_eq!(play.upstream(full).lost().said(), "");
    assert_eq!(play.pass(100).connect(), "*2 INCR a *2 INCR b");
}

#[test]
fn a_read_that_has_waited_for_long_is_sent_again() {
    let mut play = Play::new();
    play.client(&["XREAD BLOCK 0 STREAMS s $"]).connect();
    play.pass(60_000).lost();
    play.pass(100);
    assert_eq!(play.connect(), "*6 XREAD BLOCK 0 STREAMS s");
}

#[test]
fn a_script_waits_for_a_connection_as_long_as_others() {
    let mut play = Play::new();
    play.client(&["EVAL x 0"]);
    play.session.not_connected("refused", play.now);
    play.pass(2999);
    assert_eq!(play.said(), "");
    assert!(play.pass(1).said().contains("can't be reached within 3s"));
}
