//! Scopes and their service, called at random: who is refused, and who comes back.

mod gate;

use gate::{Gate, Moment, TICK};
use levee_policy::breaker::{Breaker, BreakerSettings, Cause, Outcome, Phase, Verdict};
use levee_policy::callers::Caller;
use levee_policy::divided::Permits;
use levee_policy::random::SplitMix64;
use levee_policy::time::Instant;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::Duration;

const START: Instant = Instant::from_nanos(1_000_000_000_000);
const MILLI: Duration = Duration::from_millis(1);

/// A service that is divided, and workers that hear news at once.
struct Divided {
    gate: Gate,
    scopes: usize,
    random: SplitMix64,
    now: Instant,
    next_tick: Instant,
    opened_by_scopes: usize,
}

impl Divided {
    fn new(scopes: usize, seed: u64) -> Self {
        Self {
            gate: Gate::new(BreakerSettings::default(), 4, scopes, START),
            scopes,
            random: SplitMix64::new(seed),
            now: START,
            next_tick: START.after(TICK),
            opened_by_scopes: 0,
        }
    }

    fn moment(&mut self, caller: Caller) -> Moment {
        Moment {
            worker: usize::try_from(caller.hash()).unwrap() % self.gate.workers(),
            caller,
            now: self.now,
            random: self.random.next_u64(),
        }
    }

    fn admit(&mut self, scope: usize, client: Caller) -> Option<Permits> {
        let moment = self.moment(client);
        let permits = self.gate.admit(moment, Some(scope));
        self.hear_news();
        permits
    }

    fn end(&mut self, scope: usize, client: Caller, permits: Permits, outcome: Outcome) {
        let moment = self.moment(client);
        self.gate.end(moment, Some(scope), permits, outcome);
        self.hear_news();
        let changes = self.gate.take_changes().into_iter();
        self.opened_by_scopes += changes
            .filter(|(_, change)| change.cause == Cause::NoScopeWorks)
            .count();
    }

    fn hear_news(&mut self) {
        if self.gate.has_news() {
            self.gate.hear_news(self.now, self.random.next_u64());
        }
    }

    /// A whole call by one of many clients. Returns whether it was let through.
    fn call(&mut self, scope: usize, outcome: Outcome) -> bool {
        let client = self.any_client();
        self.call_by(client, scope, outcome)
    }

    fn call_by(&mut self, client: Caller, scope: usize, outcome: Outcome) -> bool {
        match self.admit(scope, client) {
            Some(permits) => {
                self.end(scope, client, permits, outcome);
                true
            }
            None => false,
        }
    }

    fn any_client(&mut self) -> Caller {
        Caller::from_hash(1 + u32::try_from(self.below(50)).unwrap())
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while self.next_tick <= end {
            let random = self.random.next_u64();
            self.gate.tick(self.next_tick, random);
            self.next_tick = self.next_tick.after(TICK);
        }
        self.now = end;
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % bound as u64).unwrap()
    }

    fn any_scope(&mut self) -> usize {
        self.below(self.scopes)
    }
}

/// An error that a caller may have brought about, and one that none can.
const REACHED: [Outcome; 2] = [Outcome::WEAK_FAILURE, Outcome::FAILURE];

#[test]
fn scopes_that_work_are_never_refused_however_many_others_fail() {
    for scopes in 2..12 {
        for failing in 1..scopes {
            for outcome in REACHED {
                let mut service = Divided::new(scopes, (scopes * 100 + failing) as u64);
                // All are called before, and a tick hands that in, so that they are known to be.
                for scope in 0..scopes {
                    assert!(service.call(scope, Outcome::SUCCESS));
                }
                service.pass(TICK);
                for _ in 0..20_000 {
                    let scope = service.any_scope();
                    if scope < failing {
                        service.call(scope, outcome);
                    } else {
                        assert!(service.call(scope, Outcome::SUCCESS), "{scopes} {failing}");
                    }
                    service.pass(5 * MILLI);
                }
                assert_eq!(service.gate.phase(None), Phase::Closed);
                for scope in 0..failing {
                    assert_ne!(service.gate.phase(Some(scope)), Phase::Closed);
                }
            }
        }
    }
}

#[test]
fn a_scope_that_is_rarely_called_is_refused_for_a_second_at_most() {
    let mut service = Divided::new(3, 7);
    let mut refused = 0;
    for number in 1..120_000 {
        let scope = service.below(2);
        service.call(scope, Outcome::WEAK_FAILURE);
        // Once a minute.
        if number % 12_000 == 0 {
            refused += usize::from(!service.call(2, Outcome::SUCCESS));
        }
        service.pass(5 * MILLI);
    }
    assert!(service.opened_by_scopes > 0);
    assert!(refused <= 1, "{refused}");
}

#[test]
fn after_an_outage_two_scopes_that_fail_keep_the_others_out_no_longer() {
    let mut service = Divided::new(5, 3);
    for _ in 0..5 {
        service.call(0, Outcome::UNREACHABLE);
    }
    assert_eq!(service.gate.phase(None), Phase::Open);
    service.pass(Duration::from_millis(1_200));
    for _ in 0..5 {
        for scope in [0, 1] {
            service.call(scope, Outcome::WEAK_FAILURE);
            service.pass(100 * MILLI);
        }
    }
    // Nobody has called the others, so none was known to work.
    service.pass(Duration::from_millis(2_300));
    for scope in [2, 3, 4] {
        assert!(service.call(scope, Outcome::SUCCESS));
    }
    assert_eq!(service.gate.phase(None), Phase::Closed);
}

#[test]
fn an_unreachable_service_opens_at_the_fifth_failure_whichever_scopes_are_called() {
    for seed in 0..100 {
        let mut service = Divided::new(8, seed);
        for _ in 0..100 {
            let scope = service.any_scope();
            assert!(service.call(scope, Outcome::SUCCESS));
            service.pass(MILLI);
        }
        for _ in 0..5 {
            let scope = service.any_scope();
            assert!(service.call(scope, Outcome::UNREACHABLE));
        }
        for scope in 0..8 {
            assert!(!service.call(scope, Outcome::UNREACHABLE));
            assert_eq!(service.gate.phase(Some(scope)), Phase::Closed);
        }
        // It is back: within a second and a bit all scopes are answered.
        service.pass(Duration::from_millis(1_200));
        for _ in 0..100 {
            let scope = service.any_scope();
            service.call(scope, Outcome::SUCCESS);
        }
        for scope in 0..8 {
            assert!(service.call(scope, Outcome::SUCCESS));
        }
    }
}

#[test]
fn calls_that_clients_give_up_hide_no_row_of_calls_without_a_connection() {
    let mut service = Divided::new(3, 1);
    for scope in 0..3 {
        assert!(service.call(scope, Outcome::SUCCESS));
    }
    for scope in [0, 1, 2, 0, 1] {
        assert!(service.call(scope, Outcome::Unanswered));
        assert!(service.call(scope, Outcome::UNREACHABLE));
    }
    assert!(!service.call(2, Outcome::SUCCESS));
}

#[test]
fn a_service_that_fails_in_all_scopes_gets_five_calls_of_each_at_most_before_it_is_shut() {
    for scopes in 2..20 {
        for outcome in REACHED {
            let mut service = Divided::new(scopes, scopes as u64);
            for scope in 0..scopes {
                assert!(service.call(scope, Outcome::SUCCESS));
            }
            let mut let_through = 0;
            while service.opened_by_scopes == 0 {
                let scope = service.any_scope();
                let_through += usize::from(service.call(scope, outcome));
                service.pass(MILLI);
            }
            // Callers are random: a witness may be the same twice.
            assert!(
                (10..=5 * scopes + 1).contains(&let_through),
                "{scopes}: {let_through}"
            );
            // At 1,000 a second, for ten seconds.
            for _ in 0..10_000 {
                let scope = service.any_scope();
                let_through += usize::from(service.call(scope, outcome));
                service.pass(MILLI);
            }
            // A few are probes.
            assert!(let_through <= 6 * scopes + 30, "{scopes}: {let_through}");
        }
    }
}

/// Calls of 30 scopes, three a second over all, each of another client, for two minutes after all have
/// worked for 20 s. Returns how many of the 360 were let through.
fn let_through_of_rare_calls(takes: Duration, outcome: impl Fn(usize) -> Outcome) -> usize {
    let mut service = Divided::new(30, 1);
    for _ in 0..60 {
        let scope = service.any_scope();
        assert!(service.call(scope, Outcome::SUCCESS));
        service.pass(333 * MILLI);
    }
    let mut let_through = 0;
    let mut in_flight: VecDeque<(Instant, usize, Caller, Permits)> = VecDeque::new();
    for _ in 0..360 {
        while let Some((_, scope, client, permits)) =
            in_flight.pop_front_if(|(ends, ..)| *ends <= service.now)
        {
            service.end(scope, client, permits, outcome(scope));
        }
        let (scope, client) = (service.any_scope(), service.any_client());
        if let Some(permits) = service.admit(scope, client) {
            let_through += 1;
            in_flight.push_back((service.now.after(takes), scope, client, permits));
        }
        service.pass(333 * MILLI);
    }
    let_through
}

#[test]
fn a_service_that_fails_in_many_scopes_is_shut_before_each_of_them_has_failed_five_times() {
    // Those that were called lately count as working until they fail.
    for outcome in REACHED {
        let let_through = let_through_of_rare_calls(MILLI, |_| outcome);
        assert!(let_through < 110, "{let_through}");
    }
}

#[test]
fn a_service_that_is_silent_in_all_scopes_is_shut_though_each_is_called_rarely() {
    let patience = Duration::from_secs(3);
    let let_through = let_through_of_rare_calls(patience, |_| Outcome::Unanswered);
    assert!(let_through < 180, "{let_through}");
    // One in three calls is answered, so that hardly ever none is for as long as the window.
    let some = |scope| {
        if scope < 10 {
            Outcome::SUCCESS
        } else {
            Outcome::Unanswered
        }
    };
    assert_eq!(let_through_of_rare_calls(patience, some), 360);
}

/// One host of three fails all its calls, and each scope is called three times a second.
#[test]
fn what_all_scopes_suffer_opens_none_and_one_that_is_broken_opens_all_the_same() {
    for outcome in REACHED {
        let mut service = Divided::new(10, 5);
        let call = |service: &mut Divided, broken: Option<usize>| {
            let scope = service.any_scope();
            let is_bad = service.below(3) == 0 || broken == Some(scope);
            let result = if is_bad { outcome } else { Outcome::SUCCESS };
            let is_let_through = service.call(scope, result);
            service.pass(33 * MILLI);
            is_let_through
        };
        let refused = (0..30_000).filter(|_| !call(&mut service, None)).count();
        assert_eq!(refused, 0, "{outcome:?}");
        let mut calls = 0;
        while service.gate.phase(Some(0)) == Phase::Closed {
            call(&mut service, Some(0));
            calls += 1;
        }
        // Of ten scopes.
        assert!(calls < 10 * 30, "{outcome:?} {calls}");
    }
}

#[test]
fn one_client_shuts_no_service_by_what_it_does_in_all_scopes() {
    let attacker = Caller::from_hash(1_000_000);
    for bad in [Outcome::WEAK_FAILURE, Outcome::Unanswered] {
        for honest_every in [10, 100, 300] {
            let mut service = Divided::new(4, 1);
            // Where a caller is the only one that was ever seen, it is believed.
            for scope in 0..4 {
                service.call_by(attacker, scope, Outcome::WEAK_FAILURE);
                assert!(service.call(scope, Outcome::SUCCESS));
            }
            for number in 0..100_000 {
                let scope = service.any_scope();
                if number % honest_every == 0 {
                    assert!(
                        service.call(scope, Outcome::SUCCESS),
                        "{bad:?} {honest_every}"
                    );
                } else {
                    service.call_by(attacker, scope, bad);
                }
                service.pass(3 * MILLI);
            }
            assert_eq!(service.opened_by_scopes, 0);
        }
    }
}

#[test]
fn calls_that_one_client_gives_up_make_no_row_of_the_connections_that_it_misses() {
    let well = || {
        let mut service = Divided::new(3, 1);
        for _ in 0..30 {
            let scope = service.any_scope();
            assert!(service.call(scope, Outcome::SUCCESS));
            service.pass(TICK);
        }
        service
    };
    let attacker = Caller::from_hash(1_000_000);
    let mut service = well();
    for _ in 0..20 {
        assert!(service.call_by(attacker, 0, Outcome::UNREACHABLE));
        assert!(service.call_by(attacker, 1, Outcome::Unanswered));
    }
    // Many that give up do not hide that no connection is possible.
    let mut service = well();
    for _ in 0..5 {
        service.call(0, Outcome::Unanswered);
        service.call(1, Outcome::UNREACHABLE);
    }
    assert_eq!(service.gate.phase(None), Phase::Open);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Begin(usize),
    /// The oldest call, or the newest.
    End(bool, Outcome),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![
        3 => Just(Outcome::SUCCESS),
        2 => Just(Outcome::FAILURE),
        2 => Just(Outcome::WEAK_FAILURE),
        2 => Just(Outcome::UNREACHABLE),
        1 => Just(Outcome::Unanswered),
        1 => Just(Outcome::Neutral),
        1 => Just(Outcome::Success { slow: true }),
    ];
    prop_oneof![
        4 => any::<usize>().prop_map(Event::Begin),
        4 => (any::<bool>(), outcome).prop_map(|(oldest, outcome)| Event::End(oldest, outcome)),
        1 => (0_u64..40_000).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn whatever_has_happened_a_service_that_works_is_used_again_in_all_scopes(
        scopes in 2_usize..6, seed in any::<u64>(), events in prop::collection::vec(event(), 1..300),
    ) {
        let mut service = Divided::new(scopes, seed);
        let mut in_flight: Vec<(usize, Caller, Permits)> = Vec::new();
        for event in events {
            match event {
                Event::Begin(scope) => {
                    let scope = scope % scopes;
                    let client = service.any_client();
                    if let Some(permits) = service.admit(scope, client) {
                        in_flight.push((scope, client, permits));
                    }
                }
                Event::End(oldest, outcome) if !in_flight.is_empty() => {
                    let place = if oldest { 0 } else { in_flight.len() - 1 };
                    let (scope, client, permits) = in_flight.remove(place);
                    service.end(scope, client, permits, outcome);
                }
                Event::End(..) => {}
                Event::Pass(millis) => service.pass(Duration::from_millis(millis)),
            }
        }
        // Those in flight never end: their places are leases. No wait is longer than 5 min and a tenth.
        for _ in 0..400 {
            service.pass(Duration::from_secs(1));
            for scope in 0..scopes {
                service.call(scope, Outcome::SUCCESS);
            }
        }
        prop_assert_eq!(service.gate.phase(None), Phase::Closed);
        for scope in 0..scopes {
            prop_assert_eq!(service.gate.phase(Some(scope)), Phase::Closed);
            prop_assert!(service.call(scope, Outcome::SUCCESS));
        }
    }

    #[test]
    fn a_scope_is_never_shut_by_what_other_scopes_do_while_it_is_reached(
        failures in prop::collection::vec((any::<bool>(), 0_u64..2_000), 1..200),
    ) {
        let mut service = Divided::new(2, 1);
        for (weak, millis) in failures {
            service.call(0, if weak { Outcome::WEAK_FAILURE } else { Outcome::FAILURE });
            prop_assert!(service.call(1, Outcome::SUCCESS));
            service.pass(Duration::from_millis(millis));
        }
    }
}

#[test]
fn the_cause_is_said_and_modes_that_learn_nothing_do_not_open() {
    let mut breaker = Breaker::new(&BreakerSettings::default(), START);
    let mut settings = BreakerSettings::default();
    for mode in levee_policy::breaker::Mode::ALL {
        settings.mode = mode;
        let mut breaker = breaker.clone();
        let opened = breaker.open_with_scopes(&settings, START, 0);
        assert_eq!(opened.is_some(), mode.learns(), "{mode:?}");
        if let Some(transition) = opened {
            assert_eq!(transition.cause, Cause::NoScopeWorks);
            assert_eq!(breaker.open_with_scopes(&settings, START, 0), None);
        }
    }
    settings.mode = levee_policy::breaker::Mode::Enforce;
    let _ = breaker.open_with_scopes(&settings, START, 0);
    let (verdict, _) = breaker.admit(&settings, START.after(Duration::from_millis(999)));
    assert!(matches!(verdict, Verdict::Refuse { .. }));
    let (verdict, _) = breaker.admit(&settings, START.after(Duration::from_millis(1_100)));
    assert!(matches!(verdict, Verdict::Admit(_)));
}
