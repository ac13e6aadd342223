//! Transactions: executed whole, or not at all.

use crate::play::Play;
use levee_policy::breaker::Phase;
use levee_redis_session::gate::Check;

#[test]
fn a_transaction_that_was_not_sent_is_sent_whole() {
    let mut play = Play::new();
    play.client(&["MULTI", "INCR a", "EXEC"]);
    play.session.not_connected("refused", play.now);
    assert_eq!(play.pass(100).connect(), "*1 MULTI *2 INCR a *1 EXEC");
}

#[test]
fn a_transaction_that_may_have_been_executed_fails_and_leaves_a_clean_connection() {
    let mut play = Play::new();
    play.client(&["WATCH a", "MULTI", "INCR a", "EXEC", "GET b"])
        .connect();
    let said = play.lost().said();
    assert_eq!(said.matches("-ERR levee").count(), 4, "{said}");
    assert!(!play.session.is_over());
    assert_eq!(play.pass(100).connect(), "*2 GET b");
}

#[test]
fn a_transaction_whose_begin_is_too_late_fails_as_a_whole() {
    let mut play = Play::new();
    play.client(&["MULTI"]);
    play.session.not_connected("refused", play.now);
    play.pass(2500).client(&["INCR a", "EXEC", "GET b"]);
    play.session.not_connected("refused", play.now);
    assert_eq!(play.pass(500).said().matches("-ERR").count(), 3);
    assert_eq!(play.pass(1000).connect(), "*2 GET b");
}

#[test]
fn a_refused_transaction_is_refused_to_its_end() {
    let mut play = Play::in_an_outage();
    let mut said = play.client(&["MULTI", "INCR x"]).said();
    for _ in 0..3 {
        play.check(Check::Answered);
    }
    assert_eq!(play.gate.phase_now(), Phase::Closed);
    said += &play.client(&["INCR y", "EXEC", "GET d"]).said();
    assert_eq!(
        said.matches("-ERR levee: circuit open").count(),
        1,
        "{said}"
    );
    let refused = said.matches("-ERR levee: the transaction was refused");
    assert_eq!(refused.count(), 3, "{said}");
    assert_eq!(play.connect(), "*2 GET d");
}

#[test]
fn what_follows_a_multi_that_may_have_failed_is_not_taken_for_queued() {
    let mut play = Play::new();
    play.client(&["MULTI x", "INCR a"]).connect();
    let said = play.lost().said();
    assert_eq!(said.matches("-ERR levee").count(), 2, "{said}");
    play.pass(5000);
    assert!(!play.session.wants_connection());
}

#[test]
fn an_exec_outside_of_a_transaction_leaves_the_watch() {
    let mut play = Play::new();
    play.client(&["WATCH a", "EXEC"]).connect();
    play.upstream("+OK\r\n-ERR EXEC without MULTI\r\n").said();
    assert!(play.lost().session.is_over());
}

#[test]
fn a_command_that_is_not_passed_on_ends_a_transaction_unexecuted() {
    let mut play = Play::refusing();
    play.client(&["MULTI", "INCR a", "MONITOR", "EXEC"]);
    assert_eq!(play.connect(), "*1 MULTI *2 INCR a");
    play.upstream("+OK\r\n+QUEUED\r\n");
    assert_eq!(play.sent(), "");
    assert!(play.said().contains("MONITOR"));
    assert!(play.session.is_over());
}

#[test]
fn a_reset_within_a_transaction_resets() {
    let mut play = Play::new();
    play.client(&["AUTH a b"]).connect();
    play.upstream("+OK\r\n").said();
    play.client(&["MULTI", "RESET"]).sent();
    play.upstream("+OK\r\n+RESET\r\n").said();
    play.lost();
    assert!(!play.session.is_over());
    assert_eq!(play.client(&["GET a"]).connect(), "*2 GET a");
}
