//! Sessions at the same Redis: its breaker, and who probes it.

use crate::play::{Play, settings};
use levee_policy::breaker::{BreakerSettings, Mode, Phase, Verdict};
use levee_policy::budget::BudgetSettings;
use levee_policy::callers::Caller;
use levee_redis_session::gate::{Answer, Check};
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

    // A new client does not wait for its turn. An answer ends the wait of all others.
    play.client(&["GET a"]).accepted();
    play.upstream("$-1\r\n");
    play.now = play.now.after(Duration::from_millis(100));
    for session in &mut sessions {
        session.wake(play.now);
        assert!(session.wants_connection());
    }
}

#[test]
fn five_commands_that_fail_open_the_breaker_and_then_no_byte_goes_out() {
    let mut play = Play::new();
    for failed in 1..=5 {
        assert_eq!(play.gate.phase_now(), Phase::Closed);
        play.client(&["INCR a"]).connect();
        let said = play.pass(3000).said();
        assert!(said.contains("no answer"), "{failed}: {said}");
    }
    assert_eq!(play.gate.phase_now(), Phase::Open);
    let said = play.client(&["INCR a", "GET a"]).said();
    assert_eq!(said.matches("circuit open for x").count(), 2, "{said}");
    assert!(!play.session.wants_connection() && !play.session.is_over());
}

#[test]
fn failures_of_one_moment_are_one_on_however_many_connections() {
    let mut play = Play::new();
    for loss in 1..=5 {
        let mut sessions: Vec<Session> = (0..20).map(|_| play.another()).collect();
        for session in &mut sessions {
            session.inbox().extend(encode(&["INCR", "a"]));
            session.client_sent(play.now);
            session.connected(Proof::Answered { at: play.now }, play.now);
            let sent = session.to_upstream().len();
            session.upstream_took(sent, play.now);
        }
        play.now = play.now.after(Duration::from_secs(3));
        for session in &mut sessions {
            session.wake(play.now);
            play.now = play.now.after(Duration::from_millis(1));
        }
        let phase = play.gate.phase_now();
        assert_eq!(phase == Phase::Open, loss == 5, "after {loss}: {phase:?}");
    }
    assert_eq!(play.gate.counts.failure.get(), 100);
}

#[test]
fn a_connection_that_redis_closes_is_weak_evidence_of_one_caller() {
    let lose = |callers: &[u32]| {
        let mut play = Play::new();
        for caller in callers.iter().cycle().take(10) {
            if play.gate.phase_now() == Phase::Open {
                break;
            }
            let caller = Caller::from_hash(*caller);
            play.session = play.another().called_by(caller);
            play.client(&["INCR a"]).connect();
            play.lost().pass(200);
        }
        play.gate.phase_now()
    };
    assert_eq!(lose(&[1]), Phase::Closed);
    assert_eq!(lose(&[1, 2]), Phase::Open);
}

#[test]
fn checks_alone_are_probes() {
    let mut play = Play::in_an_outage();
    play.pass(60_000);
    let said = play.client(&["GET a"]).said();
    assert!(said.contains("circuit open"), "{said}");
    assert_eq!(play.check(Check::Silent { why: "refused" }), Phase::Open);
    assert_eq!(play.check(Check::Refused), Phase::Open);
    assert_eq!(play.check(Check::Answered), Phase::HalfOpen);
    assert_eq!(play.check(Check::Answered), Phase::HalfOpen);
    let said = play.client(&["GET a"]).said();
    assert!(said.contains("circuit open"), "{said}");
    assert_eq!(play.check(Check::Answered), Phase::Closed);
    assert_eq!(play.client(&["GET a"]).connect(), "*2 GET a");
}

#[test]
fn a_half_open_breaker_opens_again_when_a_check_is_not_answered() {
    let mut play = Play::in_an_outage();
    assert_eq!(play.check(Check::Answered), Phase::HalfOpen);
    assert_eq!(play.check(Check::Silent { why: "refused" }), Phase::Open);
}

#[test]
fn who_needs_a_connection_in_an_outage_is_answered_at_once_with_and_without_a_breaker() {
    let breaker = BreakerSettings {
        mode: Mode::Disabled,
        ..BreakerSettings::default()
    };
    for breaker in [BreakerSettings::default(), breaker] {
        let mut play = Play::with_breaker(breaker);
        play.client(&["HELLO 3"]);
        play.session.not_connected("refused", play.now);
        // The first one that notices waits for its deadline.
        let said = play.pass(2999).said();
        assert_eq!(said, "");
        play.pass(1);
        for _ in 0..4 {
            play.session = play.another();
            let said = play.client(&["HELLO 3"]).said();
            assert!(
                said.contains("can't be reached since 3s (refused) for x"),
                "{said}"
            );
            assert!(play.session.is_over() && !play.session.wants_connection());
        }
        play.check(Check::Answered);
        play.session = play.another();
        assert_eq!(play.client(&["HELLO 3"]).connect(), "*2 HELLO 3");
    }
}

#[test]
fn an_error_of_several_lines_is_told_in_one() {
    let mut play = Play::new();
    play.client(&["GET a"]);
    play.session.not_connected("Parse error\r\nat 2", play.now);
    play.pass(3000);
    play.session = play.another();
    let said = play.client(&["GET a"]).said();
    assert!(said.contains("(Parse error  at 2) for x\r\n"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_check_that_is_not_answered_begins_an_outage() {
    let mut play = Play::new();
    play.check(Check::Silent { why: "refused" });
    play.pass(3000);
    // One check is not enough: Redis may be back since.
    assert_eq!(play.client(&["GET a"]).connect(), "*2 GET a");
    play.upstream("$-1\r\n").said();
    play.session = play.another();
    play.check(Check::Silent { why: "refused" });
    play.pass(3000);
    play.check(Check::Silent { why: "refused" });
    let said = play.client(&["GET a"]).said();
    assert!(said.contains("can't be reached since 3s"), "{said}");
    assert!(!play.session.is_over(), "it relied on nothing");
    // What is connected goes on.
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    play.upstream("$-1\r\n").said();
    play.check(Check::Silent { why: "timeout" });
    play.pass(3000);
    play.check(Check::Silent { why: "timeout" });
    assert_eq!(play.client(&["GET b"]).sent(), "*2 GET b");
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
fn a_redis_that_answers_not_now_is_there() {
    let mut play = Play::new();
    play.check(Check::Failed { why: "refused" });
    play.pass(3000).check(Check::Failed { why: "refused" });
    let loading = "-LOADING Redis is loading the dataset in memory\r\n";
    play.check(Check::Refused);
    play.client(&["GET a"]).connect();
    assert_eq!(play.upstream(loading).pass(3000).said(), loading);
}

#[test]
fn an_answer_from_before_the_last_failure_ends_no_outage() {
    let mut play = Play::new();
    let before = play.now;
    play.pass(1000).check(Check::Failed { why: "refused" });
    let mut session = play.another();
    session.inbox().extend(encode(&["GET", "a"]));
    session.client_sent(play.now);
    session.connected(Proof::Answered { at: before }, play.now);
    assert!(!play.gate.is_reachable());
}

#[test]
fn what_one_caller_brings_about_hides_no_failure_of_redis() {
    let mut play = Play::new();
    for _ in 0..5 {
        for (answer, caller) in [(Answer::Provoked, 1), (Answer::Failure, 2)] {
            let Verdict::Admit(permit) = play.gate.admit(play.now) else {
                continue;
            };
            let caller = Caller::from_hash(caller);
            play.gate.record(permit, answer, caller, 1, play.now);
            play.pass(60);
        }
    }
    assert_eq!(play.gate.phase_now(), Phase::Open);
}
