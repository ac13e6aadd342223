//! Sessions at the same Redis: its breaker, and who probes it.

use crate::play::{Play, settings};
use levee_policy::breaker::Phase;
use levee_policy::budget::BudgetSettings;
use levee_redis_session::proof::Proof;
use levee_redis_session::resp::encode;
use levee_redis_session::session::Session;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn one_client_at_a_time_tries_for_all_whether_redis_is_back_and_that_costs_no_budget() {
    const CLIENTS: usize = 200;
    let mut play = Play::with(
        settings(),
        BudgetSettings {
            per_second: 0,
            ..BudgetSettings::default()
        },
    );
    let mut sessions: Vec<Session> = (0..CLIENTS)
        .map(|_| {
            let mut session = Session::new(Arc::new(settings()), play.gate.clone(), play.now);
            session.inbox().extend(encode(&["INCR", "a"]));
            session.client_sent(play.now);
            session.not_connected("refused", play.now);
            session
        })
        .collect();
    let mut attempts = 0;
    for _ in 0..2000 {
        play.now = play.now.after(Duration::from_millis(1));
        for session in &mut sessions {
            session.wake(play.now);
            if session.wants_connection() {
                attempts += 1;
                session.not_connected("refused", play.now);
            }
        }
    }
    // After 100, 300, 700 and 1500 ms.
    assert_eq!(attempts, 4);
    assert!(
        sessions
            .iter()
            .all(|session| session.to_client().is_empty())
    );

    // A new client does not wait for its turn. Its success ends the wait of all others.
    play.client(&["GET a"]).connect();
    play.now = play.now.after(Duration::from_millis(100));
    for session in &mut sessions {
        session.wake(play.now);
        assert!(session.wants_connection());
    }
}

#[test]
fn five_commands_that_fail_open_the_breaker_and_then_no_byte_goes_out() {
    let mut play = Play::new();
    for _ in 0..5 {
        assert_eq!(play.gate.phase_now(), Phase::Closed);
        play.client(&["INCR a"]).connect();
        play.lost().said();
    }
    assert_eq!(play.gate.phase_now(), Phase::Open);
    let said = play.client(&["INCR a", "GET a"]).said();
    assert_eq!(said.matches("circuit open for x").count(), 2, "{said}");
    assert!(!play.session.wants_connection() && !play.session.is_over());
}

#[test]
fn a_lost_connection_is_one_failure_whatever_was_in_flight() {
    let mut play = Play::new();
    for loss in 1..=5 {
        play.client(&["INCR a", "INCR b", "INCR c", "INCR d", "INCR e"]);
        play.connect();
        play.lost().said();
        let phase = play.gate.phase_now();
        assert_eq!(phase == Phase::Open, loss == 5, "after {loss}: {phase:?}");
    }
    assert_eq!(play.gate.counts.failure.get(), 25);
}

#[test]
fn a_client_that_leaves_decides_nothing() {
    let mut play = Play::new();
    for _ in 0..20 {
        let mut session = Session::new(Arc::new(settings()), play.gate.clone(), play.now);
        std::mem::swap(&mut session, &mut play.session);
        play.client(&["GET a"]).connect();
        play.session.abandon(play.now);
    }
    assert_eq!(play.gate.phase_now(), Phase::Closed);
    assert_eq!(play.gate.status(play.now).attempts_in_flight, 0);
}

#[test]
fn commands_that_wait_take_no_probe_from_others() {
    let mut play = Play::after_an_outage();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut session = Session::new(Arc::new(settings()), play.gate.clone(), play.now);
        session.inbox().extend(encode(&["BLPOP", "q", "0"]));
        session.client_sent(play.now);
        session.connected(Proof::None);
        let sent = session.to_upstream().len();
        session.upstream_took(sent, play.now);
        waiting.push(session);
    }
    play.client(&["GET a", "GET b", "GET c"]).connect();
    play.upstream("$-1\r\n$-1\r\n$-1\r\n");
    assert_eq!(play.said(), "$-1\r\n$-1\r\n$-1\r\n");
    assert_eq!(play.gate.phase_now(), Phase::Closed);
    for mut session in waiting {
        session.replies().extend(b"*-1\r\n");
        session.upstream_sent(5, play.now);
    }
    assert_eq!(play.gate.status(play.now).attempts_in_flight, 0);
}
