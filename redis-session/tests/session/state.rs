//! The state of a client's connection, on the next one: who it is, its database, what it subscribed to.

use crate::play::{Play, settings};
use levee_policy::budget::BudgetSettings;

#[test]
fn the_next_connection_gets_the_clients_identity_and_database() {
    let mut play = Play::new();
    play.client(&[
        "HELLO 3 AUTH u p",
        "SELECT 2",
        "SELECT 99",
        "CLIENT SETNAME n",
    ])
    .connect();
    play.upstream("%0\r\n+OK\r\n-ERR out of range\r\n+OK\r\n")
        .said();
    play.lost().client(&["GET a"]);
    assert_eq!(
        play.connect(),
        "*3 AUTH u p *2 HELLO 3 *2 SELECT 2 *3 CLIENT SETNAME n"
    );
    play.upstream("+OK\r\n%0\r\n+OK\r\n+OK\r\n");
    assert_eq!(play.said(), "");
    assert_eq!(play.sent(), "*2 GET a");
    assert_eq!(play.upstream("$-1\r\n").said(), "$-1\r\n");
}

#[test]
fn a_connection_that_can_not_be_made_the_clients_is_not_used() {
    let mut play = Play::new();
    play.client(&["AUTH p"]).connect();
    play.upstream("+OK\r\n").said();
    play.lost().client(&["GET a"]).connect();
    let said = play.upstream("-WRONGPASS\r\n").said();
    assert!(
        said.starts_with("-ERR levee: the connection's state"),
        "{said}"
    );
    assert!(play.session.is_over());
}

#[test]
fn replies_to_a_replay_that_was_refused_are_not_taken_for_those_of_the_next() {
    let mut play = Play::new();
    play.client(&["SELECT 1", "CLIENT SETNAME n"]).connect();
    play.upstream("+OK\r\n+OK\r\n").said();
    play.lost().client(&["GET a"]).connect();
    play.upstream("-LOADING x\r\n-LOADING x\r\n");
    play.pass(100).connect();
    play.upstream("+OK\r\n+OK\r\n");
    assert_eq!(play.sent(), "*2 GET a");
    assert_eq!(play.upstream("$1\r\nv\r\n").said(), "$1\r\nv\r\n");
}

#[test]
fn watch_multi_subscriptions_and_tracking_end_with_their_connection() {
    for (commands, replies) in [
        (&["WATCH a"][..], "+OK\r\n"),
        (&["MULTI", "INCR a"], "+OK\r\n+QUEUED\r\n"),
        (
            &["SUBSCRIBE a"],
            "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
        ),
        (&["CLIENT TRACKING ON"], "+OK\r\n"),
    ] {
        let mut play = Play::new();
        play.client(commands).connect();
        play.upstream(replies).said();
        assert!(play.lost().session.is_over(), "{commands:?}");

        let mut play = Play::new();
        play.client(commands).connect();
        play.upstream(replies).said();
        play.client(&["GET a"]).sent();
        let said = play.lost().said();
        assert!(
            said.starts_with("-ERR levee: connection lost"),
            "{commands:?} {said}"
        );
        assert!(play.session.is_over(), "{commands:?}");
    }
}

#[test]
fn a_subscription_behind_a_reset_is_not_forgotten() {
    let mut play = Play::new();
    play.client(&["RESET", "SUBSCRIBE a"]).connect();
    play.upstream("+RESET\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
        .said();
    assert!(play.lost().session.is_over());
}

#[test]
fn nothing_is_executed_after_a_state_that_could_not_be_set() {
    for state in [
        "SELECT 1",
        "AUTH bob pw",
        "HELLO 3",
        "CLIENT SETNAME n",
        "MULTI",
        "WATCH k",
    ] {
        let mut play = Play::new();
        play.client(&[state, "INCR a", "SET x 1"]).connect();
        let said = play.lost().said();
        assert_eq!(said.matches("-ERR").count(), 3, "{state}: {said}");
        assert!(play.session.is_over(), "{state}");
        assert!(!play.session.wants_connection(), "{state}");

        // The same where it is time that ends it.
        let mut play = Play::new();
        play.client(&[state]);
        play.session.not_connected("refused", play.now);
        play.pass(2500).client(&["SET x 1"]).pass(500);
        assert_eq!(play.said().matches("-ERR").count(), 2, "{state}");
        assert!(play.session.is_over(), "{state}");

        // And where it is the budget.
        let none = BudgetSettings {
            per_second: 0,
            ..BudgetSettings::default()
        };
        let mut play = Play::with(settings(), none);
        play.client(&[state]).connect();
        assert!(play.lost().said().starts_with("-ERR"), "{state}");
        assert!(play.session.is_over(), "{state}");
    }
}

#[test]
fn after_a_refused_select_nothing_goes_to_the_other_database() {
    let mut play = Play::in_an_outage();
    let said = play.client(&["SELECT 1", "SET x 1"]).said();
    assert_eq!(said.matches("-ERR").count(), 1, "{said}");
    assert_eq!(play.sent(), "");
    assert!(play.session.is_over());
}
