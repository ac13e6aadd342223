//! Workers that share a breaker decide like a single one.

use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::{
    Breaker, BreakerSettings, FailureRate, Mode, Outcome, Permit, Phase, Report, SlowCalls, Verdict,
};
use levee_policy::callers::Caller;
use levee_policy::ratio::Ratio;
use levee_policy::replica::{Admission, Recorded, Replica, Visit};
use levee_policy::time::Instant;
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Workers and the breaker they share.
struct Workers {
    settings: BreakerSettings,
    shared: Breaker,
    replicas: Vec<Replica>,
    /// Which workers have been notified and have not synced yet.
    notified: Vec<bool>,
    now: Instant,
    visits: u32,
    /// The shared breaker before the last visit: what an overtaken worker would have read.
    older: Breaker,
    /// The number of transitions, and how many of them each worker knows.
    episode: u32,
    known: Vec<u32>,
}

fn settings() -> BreakerSettings {
    let open = Backoff {
        factor: 1,
        jitter: Jitter::NONE,
        ..BreakerSettings::default().open
    };
    BreakerSettings {
        open,
        ..BreakerSettings::default()
    }
}

impl Workers {
    fn new(count: usize, settings: BreakerSettings) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let shared = Breaker::new(&settings, now);
        let replicas = vec![Replica::new(&settings, &shared, now); count];
        Self {
            settings,
            shared,
            replicas,
            notified: vec![false; count],
            now,
            visits: 0,
            older: Breaker::new(&settings, now),
            episode: 0,
            known: vec![0; count],
        }
    }

    /// Visits like the filter: on a copy that is then written back. Every third time the first copy
    /// is outdated, and the visit is repeated.
    fn visit(&mut self, worker: usize, visit: Visit) -> Option<Verdict> {
        self.visits += 1;
        let replica = &self.replicas[worker];
        if self.visits.is_multiple_of(3) {
            let mut overtaken = self.older.clone();
            let _ = replica.visit(&self.settings, &mut overtaken, visit, self.now, 0);
        }
        self.older = self.shared.clone();
        let visited = replica.visit(&self.settings, &mut self.shared, visit, self.now, 0);
        self.episode += u32::from(visited.transition.is_some());
        self.known[worker] = self.episode;
        self.replicas[worker].adopt(&self.shared, self.now);
        if visited.tell_others {
            for other in (0..self.notified.len()).filter(|other| *other != worker) {
                self.notified[other] = true;
            }
        }
        visited.verdict
    }

    fn deliver(&mut self) {
        for worker in 0..self.notified.len() {
            if std::mem::take(&mut self.notified[worker]) {
                self.visit(worker, Visit::Sync);
            }
        }
    }

    fn tick(&mut self) {
        for worker in 0..self.replicas.len() {
            if self.replicas[worker].wants_sync() {
                self.visit(worker, Visit::Sync);
            }
        }
        self.deliver();
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    fn begin(&mut self, worker: usize) -> Option<Permit> {
        let verdict = match self.replicas[worker].admit(&self.settings, self.now) {
            Admission::Decided(verdict) => verdict,
            Admission::VisitNeeded => self.replicas[worker]
                .admit_share(&self.settings, self.now)
                .or_else(|| self.visit(worker, Visit::Admit(Caller::UNKNOWN)))
                .expect("an answer"),
        };
        match verdict {
            Verdict::Admit(permit) => Some(permit),
            _ => None,
        }
    }

    fn end(&mut self, worker: usize, permit: Permit, outcome: Outcome) {
        self.end_of(worker, Report::new(permit, outcome));
    }

    fn end_of(&mut self, worker: usize, report: Report) {
        let replica = &mut self.replicas[worker];
        match replica.record(report.permit, report.outcome, self.now) {
            Recorded::Here => {}
            Recorded::WhoCalled => replica.answered(report.caller, self.now),
            Recorded::VisitNeeded => {
                self.visit(worker, Visit::Record(report));
            }
        }
    }

    /// A call of `caller`, without delivering messages. Returns whether it was let through.
    fn call_of(&mut self, worker: usize, caller: Caller, outcome: Outcome) -> bool {
        let permit = self.begin(worker);
        if let Some(permit) = permit {
            let report = Report {
                caller,
                ..Report::new(permit, outcome)
            };
            self.end_of(worker, report);
        }
        permit.is_some()
    }

    fn call(&mut self, worker: usize, outcome: Outcome) -> bool {
        let permit = self.begin(worker);
        if let Some(permit) = permit {
            self.end(worker, permit, outcome);
        }
        self.deliver();
        permit.is_some()
    }
}

#[test]
fn without_failures_no_worker_visits_the_shared_breaker() {
    let mut workers = Workers::new(4, settings());
    for call in 0..10_000 {
        assert!(workers.call(call % 4, Outcome::SUCCESS));
        workers.pass(Duration::from_millis(3));
        workers.tick();
    }
    assert_eq!(workers.visits, 0);
}

#[test]
fn after_a_failure_each_worker_visits_only_as_often_as_necessary() {
    let mut workers = Workers::new(4, settings());
    workers.call(0, Outcome::FAILURE);
    // The failure, a sync of each other worker, and the first success of each.
    for call in 0..1_000 {
        workers.call(call % 4, Outcome::SUCCESS);
    }
    assert!(workers.visits <= 12, "{}", workers.visits);
    workers.pass(Duration::from_secs(11));
    workers.tick();
    let visits = workers.visits;
    for call in 0..1_000 {
        workers.call(call % 4, Outcome::SUCCESS);
        workers.tick();
    }
    assert_eq!(workers.visits, visits, "the failure has left the window");
}

#[test]
fn a_failing_client_of_one_worker_does_not_open_the_breaker_for_all() {
    let mut workers = Workers::new(
        4,
        BreakerSettings {
            consecutive_failures: None,
            ..settings()
        },
    );
    for _ in 0..100 {
        for worker in 1..4 {
            for _ in 0..20 {
                workers.call(worker, Outcome::SUCCESS);
            }
        }
        workers.call(0, Outcome::FAILURE);
        workers.call(0, Outcome::FAILURE);
        workers.pass(Duration::from_millis(100));
        workers.tick();
    }
    assert_eq!(workers.shared.phase(), Phase::Closed);
}

#[test]
fn errors_spread_over_workers_open_by_the_rate() {
    let rule = FailureRate {
        ratio: Ratio::percent(5),
        minimum_requests: 20,
    };
    let mut workers = Workers::new(
        4,
        BreakerSettings {
            failure_rate: Some(rule),
            ..settings()
        },
    );
    let mut sent = 0;
    while workers.shared.phase() == Phase::Closed {
        sent += 1;
        assert!(sent < 1_000);
        let failed = sent % 10 == 0;
        workers.call(
            sent % 4,
            if failed {
                Outcome::FAILURE
            } else {
                Outcome::SUCCESS
            },
        );
        if sent % 20 == 0 {
            workers.pass(Duration::from_millis(100));
            workers.tick();
        }
    }
    for worker in 0..4 {
        assert!(!workers.call(worker, Outcome::SUCCESS));
    }
}

#[test]
fn a_row_of_failures_continues_after_a_long_pause() {
    let mut workers = Workers::new(2, settings());
    for _ in 0..4 {
        workers.call(0, Outcome::FAILURE);
        workers.pass(Duration::from_mins(5));
        workers.tick();
    }
    workers.call(1, Outcome::SUCCESS);
    workers.call(0, Outcome::FAILURE);
    assert_eq!(
        workers.shared.phase(),
        Phase::Closed,
        "the other worker's success ended the row"
    );
}

fn slow_calls_only() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: None,
        failure_rate: None,
        slow_calls: Some(SlowCalls {
            longer_than: Duration::from_secs(1),
            ratio: Ratio::percent(50),
            minimum_requests: 20,
        }),
        ..settings()
    }
}

const SLOW: Outcome = Outcome::Success { slow: true };

fn by_rate_only() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: None,
        ..settings()
    }
}

#[test]
fn sixty_percent_of_errors_spread_over_workers_open_by_the_default_rate() {
    let mut workers = Workers::new(4, settings());
    for sent in 0..100 {
        let failed = sent % 5 < 3;
        workers.call(
            sent % 4,
            if failed {
                Outcome::FAILURE
            } else {
                Outcome::SUCCESS
            },
        );
        workers.pass(Duration::from_millis(5));
        if sent % 20 == 19 {
            workers.tick();
        }
    }
    assert_eq!(workers.shared.phase(), Phase::Open);
}

/// The other workers are notified a little later than the failures happen.
#[test]
fn a_burst_on_one_worker_waits_for_the_successes_of_the_others() {
    for (settings, outcome) in [
        (by_rate_only(), Outcome::FAILURE),
        (slow_calls_only(), SLOW),
    ] {
        let mut workers = Workers::new(4, settings);
        for call in 0..300 {
            workers.call(1 + call % 3, Outcome::SUCCESS);
        }
        assert_eq!(workers.visits, 0);
        for _ in 0..40 {
            let permit = workers.begin(0).expect("closed");
            workers.end(0, permit, outcome);
            workers.pass(Duration::from_millis(1));
        }
        workers.deliver();
        workers.pass(Duration::from_millis(100));
        workers.tick();
        assert_eq!(workers.shared.phase(), Phase::Closed);
    }
}

#[test]
fn a_burst_opens_at_the_next_tick_even_if_no_call_follows() {
    let mut workers = Workers::new(4, by_rate_only());
    for _ in 0..20 {
        workers.call(0, Outcome::FAILURE);
    }
    workers.pass(Duration::from_millis(100));
    workers.tick();
    for replica in &workers.replicas {
        assert_eq!(replica.phase(), Phase::Open);
    }
}

#[test]
fn continuous_failures_do_not_delay_the_judgement() {
    let mut workers = Workers::new(1, by_rate_only());
    for _ in 0..30 {
        workers.call(0, Outcome::FAILURE);
        workers.pass(Duration::from_millis(10));
    }
    assert_eq!(workers.shared.phase(), Phase::Open);
}

#[test]
fn workers_are_notified_of_trouble_again_after_it_left_the_window() {
    let mut workers = Workers::new(2, slow_calls_only());
    workers.call(0, SLOW);
    assert!(workers.replicas[1].wants_sync());
    workers.pass(Duration::from_secs(11));
    workers.visit(1, Visit::Sync);
    assert!(!workers.replicas[1].wants_sync());
    workers.call(0, SLOW);
    assert!(workers.replicas[1].wants_sync());
}

#[test]
fn a_new_worker_ignores_failures_that_have_left_the_window() {
    let mut workers = Workers::new(1, by_rate_only());
    workers.call(0, Outcome::FAILURE);
    let new = |now| Replica::new(&workers.settings, &workers.shared, now);
    assert!(new(workers.now).wants_sync());
    assert!(!new(workers.now.after(Duration::from_secs(11))).wants_sync());
}

#[test]
fn workers_sync_while_a_breaker_is_half_open() {
    let mut workers = Workers::new(2, settings());
    for _ in 0..5 {
        workers.call(0, Outcome::FAILURE);
    }
    assert!(
        !workers.replicas[1].wants_sync(),
        "an open breaker needs no sync"
    );
    workers.pass(Duration::from_secs(30));
    workers.begin(0).expect("a probe");
    workers.deliver();
    assert!(workers.replicas[1].wants_sync());
}

#[test]
fn an_open_worker_refuses_until_exactly_the_end_and_then_asks() {
    for mode in [Mode::Enforce, Mode::Shadow] {
        let mut workers = Workers::new(1, BreakerSettings { mode, ..settings() });
        for _ in 0..5 {
            workers.call(0, Outcome::FAILURE);
        }
        workers.pass(Duration::from_nanos(29_999_999_999));
        let replica = &workers.replicas[0];
        let left = Duration::from_nanos(1);
        let refused = if mode == Mode::Shadow {
            Verdict::WouldRefuse
        } else {
            Verdict::Refuse { retry_after: left }
        };
        assert_eq!(
            replica.admit(&workers.settings, workers.now),
            Admission::Decided(refused)
        );
        let end = workers.now.after(left);
        assert_eq!(
            replica.admit(&workers.settings, end),
            Admission::VisitNeeded
        );
    }
}

#[test]
fn a_worker_in_a_fixed_mode_neither_visits_nor_opens() {
    let mut workers = Workers::new(1, settings());
    for _ in 0..5 {
        workers.call(0, Outcome::FAILURE);
    }
    for mode in [Mode::Disabled, Mode::ForcedClosed, Mode::ForcedOpen] {
        workers.settings.mode = mode;
        let visits = workers.visits;
        assert_eq!(
            workers.call(0, Outcome::FAILURE),
            mode != Mode::ForcedOpen,
            "{mode:?}"
        );
        assert_eq!(workers.visits, visits, "{mode:?}");
    }

    let mut workers = Workers::new(1, by_rate_only());
    for _ in 0..30 {
        workers.call(0, Outcome::FAILURE);
    }
    workers.settings.mode = Mode::Disabled;
    workers.pass(Duration::from_secs(1));
    workers.tick();
    assert_eq!(workers.shared.phase(), Phase::Closed);
}

#[test]
fn a_stale_result_costs_no_visit() {
    let mut workers = Workers::new(1, settings());
    let early = workers.begin(0).expect("closed");
    for _ in 0..5 {
        workers.call(0, Outcome::FAILURE);
    }
    let visits = workers.visits;
    workers.end(0, early, Outcome::FAILURE);
    assert_eq!(workers.visits, visits);
}

const ATTACKER: Caller = Caller::from_hash(666);
const HONEST: Caller = Caller::from_hash(1);
const WEAK: Outcome = Outcome::WEAK_FAILURE;

#[test]
fn one_caller_opens_nothing_after_another_worker_has_answered_others() {
    let mut workers = Workers::new(2, settings());
    for _ in 0..10 {
        assert!(workers.call_of(1, HONEST, Outcome::SUCCESS));
        workers.pass(Duration::from_millis(100));
    }
    let until_open = (1..=500).find(|_| {
        workers.call_of(0, ATTACKER, WEAK);
        workers.deliver();
        workers.pass(Duration::from_millis(100));
        workers.tick();
        workers.shared.phase() == Phase::Open
    });
    // Nobody else was answered for half a minute.
    assert!(
        until_open.is_some_and(|calls| (290..=300).contains(&calls)),
        "{until_open:?}"
    );
}

#[test]
fn a_burst_waits_for_the_news_of_whom_another_worker_has_answered() {
    let mut workers = Workers::new(2, settings());
    assert!(workers.call_of(1, HONEST, Outcome::SUCCESS));
    for _ in 0..90 {
        assert!(workers.call_of(0, ATTACKER, WEAK));
        workers.pass(Duration::from_micros(100));
    }
    workers.deliver();
    for _ in 0..1_000 {
        assert!(workers.call_of(0, ATTACKER, WEAK));
        workers.pass(Duration::from_micros(100));
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Begin(usize),
    End(usize, Outcome),
    /// A call that never ends.
    Lose(usize),
    Pass(u64),
    Tick,
    Deliver,
}

fn event(delayed: bool) -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![
        3 => Just(Outcome::FAILURE), 2 => Just(Outcome::SUCCESS), 1 => Just(Outcome::Neutral)
    ];
    prop_oneof![
        8 => any::<usize>().prop_map(Event::Begin),
        8 => (any::<usize>(), outcome).prop_map(|(place, outcome)| Event::End(place, outcome)),
        2 => (0_u64..20_000).prop_map(Event::Pass),
        1 => any::<usize>().prop_map(Event::Lose),
        1 => Just(Event::Tick),
        if delayed { 2 } else { 0 } => Just(Event::Deliver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn notified_at_once_they_are_one_breaker(
        count in 1_usize..5, events in vec(event(false), 1..200),
    ) {
        // Without the rates, which are judged a little later by design.
        let settings = BreakerSettings { failure_rate: None, ..settings() };
        let mut workers = Workers::new(count, settings);
        let mut one = Breaker::new(&settings, workers.now);
        let mut calls: Vec<(usize, Permit, Permit)> = Vec::new();
        for event in events {
            match event {
                Event::Begin(worker) => {
                    let worker = worker % count;
                    let verdict = one.admit(&settings, workers.now).0;
                    let permit = workers.begin(worker);
                    match (permit, verdict) {
                        (Some(permit), Verdict::Admit(expected)) => {
                            prop_assert_eq!(permit.is_probe(), expected.is_probe());
                            calls.push((worker, permit, expected));
                        }
                        (None, Verdict::Refuse { .. }) => {}
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Event::End(place, outcome) if !calls.is_empty() => {
                    let (worker, permit, expected) = calls.swap_remove(place % calls.len());
                    one.record(&settings, expected, outcome, workers.now, 0);
                    workers.end(worker, permit, outcome);
                }
                Event::Pass(millis) => workers.pass(Duration::from_millis(millis)),
                Event::Tick => workers.tick(),
                Event::Lose(place) if !calls.is_empty() => {
                    calls.swap_remove(place % calls.len());
                }
                Event::End(..) | Event::Lose(_) | Event::Deliver => {}
            }
            workers.deliver();
            prop_assert_eq!(workers.shared.phase(), one.phase());
            for replica in &workers.replicas {
                prop_assert_eq!(replica.phase(), one.phase());
            }
        }
    }

    #[test]
    fn how_many_failures_open_it_depends_on_the_callers_and_not_on_their_workers(
        count in 1_usize..5,
        failures in vec((any::<usize>(), 1_u32..4, prop::bool::weighted(0.1), any::<bool>()), 1..40),
    ) {
        let settings = settings();
        let mut workers = Workers::new(count, settings);
        let mut one = Breaker::new(&settings, workers.now);
        for (worker, caller, is_strong, is_delivered) in failures {
            let Some(permit) = workers.begin(worker % count) else {
                break;
            };
            let outcome = if is_strong { Outcome::FAILURE } else { WEAK };
            let caller = Caller::from_hash(caller);
            let report = Report { caller, ..Report::new(permit, outcome) };
            workers.end_of(worker % count, report);
            one.report(&settings, report, workers.now, 0);
            prop_assert_eq!(workers.shared.phase(), one.phase());
            if is_delivered {
                workers.deliver();
            }
            workers.pass(Duration::from_millis(10));
        }
    }

    #[test]
    fn notified_late_they_still_keep_the_limit_and_agree_in_the_end(
        count in 1_usize..5, events in vec(event(true), 1..200),
    ) {
        let settings = settings();
        let mut workers = Workers::new(count, settings);
        let mut calls: Vec<(usize, Permit, Instant, u32)> = Vec::new();
        // Probes hold their places even if their calls are lost.
        let mut lost: Vec<(Permit, Instant)> = Vec::new();
        for event in events {
            match event {
                Event::Begin(worker) => {
                    let worker = worker % count;
                    if let Some(permit) = workers.begin(worker) {
                        calls.push((worker, permit, workers.now, workers.known[worker]));
                    }
                }
                Event::End(place, outcome) if !calls.is_empty() => {
                    let (worker, permit, _, episode) = calls.swap_remove(place % calls.len());
                    let before = workers.shared.phase();
                    // A stale result changes no more than a sync does.
                    let untouched = workers.shared.clone();
                    let mut synced = workers.shared.clone();
                    let replica = &workers.replicas[worker];
                    let _ = replica.visit(&settings, &mut synced, Visit::Sync, workers.now, 0);
                    let is_stale = episode != workers.episode;
                    workers.end(worker, permit, outcome);
                    if is_stale {
                        prop_assert!(workers.shared == untouched || workers.shared == synced);
                    }
                    if outcome == Outcome::Neutral && before != Phase::Closed {
                        prop_assert_eq!(workers.shared.phase(), before);
                    }
                }
                Event::Pass(millis) => workers.pass(Duration::from_millis(millis)),
                Event::Tick => workers.tick(),
                Event::Deliver => workers.deliver(),
                Event::Lose(place) if !calls.is_empty() => {
                    let (_, permit, begun, _) = calls.swap_remove(place % calls.len());
                    lost.push((permit, begun));
                }
                Event::End(..) | Event::Lose(_) => {}
            }
            let lease = settings.half_open.lease;
            let newest = workers.shared.since();
            let in_flight = calls.iter().map(|(_, permit, begun, _)| (permit, begun));
            let lost = lost.iter().map(|(permit, begun)| (permit, begun));
            let probes = in_flight.chain(lost).filter(|(permit, begun)| {
                permit.is_probe() && **begun >= newest && workers.now.since(**begun) < lease
            });
            if workers.shared.phase() == Phase::HalfOpen {
                prop_assert!(probes.count() <= 3);
            }
        }
        workers.tick();
        workers.deliver();
        for replica in &workers.replicas {
            prop_assert_eq!(replica.phase(), workers.shared.phase());
            let verdict = replica.admit(&settings, workers.now);
            prop_assert_eq!(verdict, workers.replicas[0].admit(&settings, workers.now));
        }
    }
}

#[test]
fn one_worker_sends_a_health_check_and_all_hear_that_it_has_passed() {
    let mut workers = Workers::new(4, settings());
    for worker in [0, 1, 2, 3, 0] {
        workers.call(worker, Outcome::FAILURE);
    }
    let (settings, second) = (workers.settings, Duration::from_secs(1));
    for (at, is_due) in [(0, false), (1, true)] {
        workers.pass(at * second);
        let permit = workers.shared.permit_check(&settings, second, workers.now);
        assert_eq!(permit.is_some(), is_due);
        for replica in &workers.replicas {
            assert_eq!(replica.wants_check(&settings, second, workers.now), is_due);
        }
    }
    let permit = workers.shared.permit_check(&settings, second, workers.now);
    workers.visit(3, Visit::Hasten(permit.expect("it is due")));
    workers.deliver();
    assert_eq!(workers.shared.phase(), Phase::HalfOpen);
    for worker in 0..4 {
        assert!(!workers.replicas[worker].wants_check(&settings, second, workers.now));
        assert_eq!(workers.replicas[worker].phase(), Phase::HalfOpen);
    }
    for worker in 0..3 {
        assert!(workers.call(worker, Outcome::SUCCESS));
    }
    assert_eq!(workers.shared.phase(), Phase::Closed);
}

fn recovers_for(recover_for: Duration) -> BreakerSettings {
    BreakerSettings {
        recover_for,
        ..settings()
    }
}

/// Opens and closes the breaker again.
fn recover(workers: &mut Workers) {
    let first = workers.replicas.len() - 1;
    for _ in 0..5 {
        workers.call(first, Outcome::FAILURE);
    }
    workers.pass(Duration::from_secs(30));
    for probe in 0..3 {
        assert!(workers.call(probe % workers.replicas.len(), Outcome::SUCCESS));
    }
    assert_eq!(workers.shared.phase(), Phase::Closed);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Against the definition in floating point.
    #[test]
    fn after_an_outage_each_worker_lets_the_share_through_that_is_due(
        count in 1_usize..5,
        takes in 1_u32..120,
        gaps in vec(0_u32..400, 1..600),
    ) {
        let takes = Duration::from_secs(takes.into());
        let mut workers = Workers::new(count, recovers_for(takes));
        recover(&mut workers);
        let closed = workers.now;
        let mut due = vec![0.0; count];
        let mut passed = vec![0_u32; count];
        for (place, gap) in gaps.into_iter().enumerate() {
            workers.pass(Duration::from_millis(gap.into()));
            let worker = place * 7 % count;
            let elapsed = workers.now.since(closed);
            let share = (0.1 + 0.9 * elapsed.as_secs_f64() / takes.as_secs_f64()).min(1.0);
            due[worker] += share;
            let was_passed = workers.call(worker, Outcome::SUCCESS);
            passed[worker] += u32::from(was_passed);
            prop_assert!(was_passed || elapsed < takes, "it is over after {:?}", elapsed);
            // The first call goes out, and at most one is owed.
            let ahead = f64::from(passed[worker]) - due[worker];
            prop_assert!((-0.1..=1.0).contains(&ahead), "{ahead} at {share}");
            if place % 5 == 0 {
                workers.tick();
            }
        }
    }
}

#[test]
fn a_ramp_ends_when_its_time_is_over_and_then_no_worker_visits() {
    let mut workers = Workers::new(2, recovers_for(Duration::from_secs(5)));
    recover(&mut workers);
    let passed = |workers: &mut Workers, calls: usize| {
        let all = (0..calls).filter(|call| workers.call(call % 2, Outcome::SUCCESS));
        all.count()
    };
    assert!(passed(&mut workers, 100) < 15);
    workers.pass(Duration::from_secs(5));
    assert_eq!(passed(&mut workers, 100), 100);
    workers.tick();
    let visits = workers.visits;
    workers.tick();
    assert_eq!(passed(&mut workers, 100), 100);
    assert_eq!(workers.visits, visits);
}

#[test]
fn a_refusal_during_the_ramp_says_when_to_come_again_and_shadow_mode_refuses_nothing() {
    for mode in [Mode::Enforce, Mode::Shadow] {
        let settings = BreakerSettings {
            mode,
            ..recovers_for(Duration::from_secs(5))
        };
        let mut workers = Workers::new(1, settings);
        recover(&mut workers);
        let admit = |workers: &mut Workers| {
            let replica = &mut workers.replicas[0];
            assert_eq!(
                replica.admit(&settings, workers.now),
                Admission::VisitNeeded
            );
            let verdict = replica.admit_share(&settings, workers.now);
            verdict.expect("the worker knows")
        };
        assert!(matches!(admit(&mut workers), Verdict::Admit(_)));
        for (wait, retry_after) in [(0, 1_000), (4_500, 500)] {
            workers.pass(Duration::from_millis(wait));
            let refused = (0..20)
                .map(|_| admit(&mut workers))
                .find(|verdict| !matches!(verdict, Verdict::Admit(_)));
            let expected = match mode {
                Mode::Shadow => Verdict::WouldRefuse,
                _ => Verdict::Refuse {
                    retry_after: Duration::from_millis(retry_after),
                },
            };
            assert_eq!(refused, Some(expected));
        }
    }
}

#[test]
fn failures_during_the_ramp_open_the_breaker_and_the_next_ramp_begins_anew() {
    let mut workers = Workers::new(2, recovers_for(Duration::from_mins(1)));
    recover(&mut workers);
    workers.pass(Duration::from_secs(50));
    let mut failed = 0;
    while workers.shared.phase() == Phase::Closed {
        failed += u32::from(workers.call(0, Outcome::FAILURE));
    }
    assert_eq!(failed, 5);
    assert!(!workers.call(1, Outcome::SUCCESS));
    workers.pass(Duration::from_secs(30));
    for _ in 0..3 {
        assert!(workers.call(1, Outcome::SUCCESS));
    }
    let passed = (0..100).filter(|_| workers.call(1, Outcome::SUCCESS));
    assert!((10..=12).contains(&passed.count()));
}

#[test]
fn there_is_no_ramp_before_the_first_outage_nor_where_it_is_off() {
    let mut workers = Workers::new(1, recovers_for(Duration::from_mins(1)));
    assert!((0..100).all(|_| workers.call(0, Outcome::SUCCESS)));
    let mut workers = Workers::new(1, settings());
    recover(&mut workers);
    assert!((0..100).all(|_| workers.call(0, Outcome::SUCCESS)));
}
