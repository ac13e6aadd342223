//! Decisions allocate nothing, as counted by the allocator.
#![cfg(not(target_family = "wasm"))]
#![allow(unsafe_code)] // an allocator is inherently unsafe

use levee_policy::backoff::Jitter;
use levee_policy::breaker::Report;
use levee_policy::breaker::{
    Breaker, BreakerSettings, Mode, Outcome, Permit, Phase, SlowCalls, Transition, Verdict,
};
use levee_policy::budget::{Budget, BudgetSettings};
use levee_policy::callers::Caller;
use levee_policy::evidence::Weight;
use levee_policy::random::SplitMix64;
use levee_policy::ratio::Ratio;
use levee_policy::replica::{Admission, Recorded, Replica, Visit};
use levee_policy::time::Instant;
use levee_policy::timeout::{Class, Classes, Limits};
use levee_policy::window::{Counts, Window};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: forwards to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(of: impl FnOnce()) -> u32 {
    let before = ALLOCATIONS.with(Cell::get);
    of();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_count_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1);
}

#[test]
fn no_decision_allocates() {
    let settings = BreakerSettings::default();
    let mut now = Instant::from_nanos(1);
    let mut breaker = Breaker::new(&settings, now);
    let mut replica = Replica::new(&settings, &breaker, now);
    let mut met = [false; 3];
    let counted = allocations(|| {
        for round in 0..10_000_u64 {
            now = now.after(Duration::from_millis(round % 500));
            let outcome = if round % 7 < 6 {
                Outcome::FAILURE
            } else {
                Outcome::SUCCESS
            };
            let verdict = match replica.admit(&settings, now) {
                Admission::Decided(verdict) => Some(verdict),
                Admission::VisitNeeded => {
                    let visited = replica.visit(
                        &settings,
                        &mut breaker,
                        Visit::Admit(Caller::UNKNOWN),
                        now,
                        0,
                    );
                    replica.adopt(&breaker, now);
                    visited.verdict
                }
            };
            let permit = match verdict {
                Some(Verdict::Admit(permit)) => permit,
                _ => Permit::UNTRACKED,
            };
            if replica.record(permit, outcome, now) == Recorded::VisitNeeded {
                let visit = Visit::Record(Report::new(permit, outcome));
                let _ = replica.visit(&settings, &mut breaker, visit, now, round);
                replica.adopt(&breaker, now);
            }
            if let (Verdict::Admit(permit), _) = breaker.admit(&settings, now) {
                breaker.record(&settings, permit, outcome, now, round);
            }
            met[breaker.phase() as usize] = true;
            breaker = Breaker::from_bytes(&breaker.to_bytes()).unwrap();
        }
    });
    assert_eq!(counted, 0);
    assert_eq!(met, [true; 3], "closed, open and half-open");
}

const OUTCOMES: [Outcome; 7] = [
    Outcome::WEAK_FAILURE,
    Outcome::Unanswered,
    Outcome::SUCCESS,
    Outcome::Success { slow: true },
    Outcome::FAILURE,
    Outcome::Failure {
        slow: true,
        weight: Weight::Strong,
    },
    Outcome::Neutral,
];

/// The paths that were taken.
#[derive(Debug, Default, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // one per path
struct Met {
    admitted_at_once: bool,
    refused_at_once: bool,
    asked: bool,
    counted_at_once: bool,
    asked_who_called: bool,
    visited: bool,
    opened: bool,
    half_opened: bool,
    closed: bool,
    hastened: bool,
    check_passed: bool,
    shared: bool,
}

/// A call asks a worker.
fn admit(
    replica: &mut Replica,
    settings: &BreakerSettings,
    breaker: &mut Breaker,
    met: &mut Met,
    now: Instant,
) -> Verdict {
    match replica.admit(settings, now) {
        Admission::Decided(verdict) => {
            met.admitted_at_once |= matches!(verdict, Verdict::Admit(_));
            met.refused_at_once |= matches!(verdict, Verdict::Refuse { .. } | Verdict::WouldRefuse);
            verdict
        }
        Admission::VisitNeeded => {
            if let Some(verdict) = replica.admit_share(settings, now) {
                met.shared = true;
                return verdict;
            }
            met.asked = true;
            let visit = Visit::Admit(Caller::UNKNOWN);
            let visited = replica.visit(settings, breaker, visit, now, 0);
            replica.adopt(breaker, now);
            met.half_opened |= visited.transition.is_some();
            visited.verdict.unwrap()
        }
    }
}

/// A worker may send a health check.
fn check(
    replica: &mut Replica,
    settings: &BreakerSettings,
    breaker: &mut Breaker,
    passes: bool,
    now: Instant,
) -> Option<Transition> {
    let every = Duration::from_secs(1);
    let permit = replica
        .wants_check(settings, every, now)
        .then(|| breaker.permit_check(settings, every, now))?
        .filter(|_| passes)?;
    let visited = replica.visit(settings, breaker, Visit::Hasten(permit), now, 0);
    replica.adopt(breaker, now);
    visited.transition
}

/// All that a worker and the sidecar do with a breaker, over several minutes.
fn play(settings: &BreakerSettings, met: &mut Met) {
    let mut now = Instant::from_nanos(1_000_000_000_000);
    let mut random = SplitMix64::new(7);
    let mut breaker = Breaker::new(settings, now);
    let mut replica = Replica::new(settings, &breaker, now);
    for _ in 0..20_000 {
        let drawn = random.next_u64();
        now = now.after(Duration::from_millis(drawn % 100));
        let verdict = admit(&mut replica, settings, &mut breaker, met, now);
        let permit = match verdict {
            Verdict::Admit(permit) => permit,
            Verdict::WouldRefuse | Verdict::Refuse { .. } => Permit::UNTRACKED,
        };
        // Bad and good minutes alternate.
        let minute = now.as_nanos() / 60_000_000_000;
        let is_bad = minute.is_multiple_of(2);
        let outcome = match drawn >> 32 {
            n if is_bad => OUTCOMES[usize::try_from(n % 5).unwrap()],
            n if n.is_multiple_of(16) => Outcome::Neutral,
            _ => Outcome::SUCCESS,
        };
        match replica.record(permit, outcome, now) {
            Recorded::Here => met.counted_at_once |= permit != Permit::UNTRACKED,
            Recorded::WhoCalled => {
                met.asked_who_called = true;
                replica.answered(Caller::UNKNOWN, now);
            }
            Recorded::VisitNeeded => {
                met.visited = true;
                let visit = Visit::Record(Report::new(permit, outcome));
                let visited = replica.visit(settings, &mut breaker, visit, now, drawn);
                if let Some(transition) = visited.transition {
                    met.opened |= transition.to == Phase::Open;
                    met.half_opened |= transition.to == Phase::HalfOpen;
                    met.closed |= transition.to == Phase::Closed;
                }
                replica.adopt(&breaker, now);
            }
        }
        if replica.wants_sync() && drawn.is_multiple_of(4) {
            let visited = replica.visit(settings, &mut breaker, Visit::Sync, now, drawn);
            met.opened |= visited.transition.is_some();
            replica.adopt(&breaker, now);
        }
        let passes = minute % 4 < 2;
        met.check_passed |= check(&mut replica, settings, &mut breaker, passes, now).is_some();
        if drawn.is_multiple_of(512) {
            met.hastened |= breaker.hasten(settings, now).is_some();
            breaker = breaker.resumed(settings, now);
        }
        if let (Verdict::Admit(permit), transition) = breaker.admit(settings, now) {
            met.half_opened |= transition.is_some();
            let transition = breaker.record(settings, permit, outcome, now, drawn);
            met.closed |= transition.is_some_and(|transition| transition.to == Phase::Closed);
        }
    }
}

#[test]
fn a_worker_allocates_nothing_on_any_path() {
    let settings = BreakerSettings {
        slow_calls: Some(SlowCalls {
            longer_than: Duration::from_secs(1),
            ratio: Ratio::percent(50),
            minimum_requests: 20,
        }),
        recover_for: Duration::from_secs(5),
        ..BreakerSettings::default()
    };
    let mut met = Met::default();
    assert_eq!(allocations(|| play(&settings, &mut met)), 0);
    let all = Met {
        admitted_at_once: true,
        refused_at_once: true,
        asked: true,
        counted_at_once: true,
        asked_who_called: true,
        visited: true,
        opened: true,
        half_opened: true,
        closed: true,
        hastened: true,
        check_passed: true,
        shared: true,
    };
    assert_eq!(met, all, "every path was taken");
}

#[test]
fn no_mode_allocates() {
    for mode in [
        Mode::Enforce,
        Mode::Shadow,
        Mode::Disabled,
        Mode::ForcedOpen,
        Mode::ForcedClosed,
    ] {
        let settings = BreakerSettings {
            mode,
            ..BreakerSettings::default()
        };
        let counted = allocations(|| play(&settings, &mut Met::default()));
        assert_eq!(counted, 0, "{mode:?}");
    }
}

#[test]
fn a_window_allocates_nothing() {
    let failure = Counts {
        total: 1,
        failures: 1,
        ..Counts::default()
    };
    let counted = allocations(|| {
        let mut now = Instant::from_nanos(1);
        let (mut window, mut other) = (
            Window::new(Duration::from_secs(10)),
            Window::new(Duration::from_secs(10)),
        );
        for round in 0..1_000_u64 {
            now = now.after(Duration::from_millis(round * 7 % 3_000));
            window.add(now, failure);
            other.add(now, failure);
            window.absorb(&other);
            black_box((window.totals(now), window.sum()));
            if round.is_multiple_of(100) {
                other.clear();
                other.resize(Duration::from_secs(10 + round / 500));
            }
        }
    });
    assert_eq!(counted, 0);
}

#[test]
fn budget_backoff_and_limits_allocate_nothing() {
    let counted = allocations(|| {
        let mut random = SplitMix64::new(7);
        let (settings, breaker) = (BudgetSettings::default(), BreakerSettings::default());
        let mut now = Instant::from_nanos(1);
        let mut budget = Budget::default();
        for attempt in 0..1_000 {
            now = now.after(Duration::from_millis(u64::from(attempt)));
            budget.deposit(1, now);
            let _ = black_box(budget.withdraw(&settings, attempt % 50, now));
            black_box((budget.left(&settings, now), budget.spent(now)));
            let wait = breaker.open.wait(attempt, random.next_u64());
            black_box(Jitter::shorter(Ratio::percent(50)).apply(wait, random.next_u64()));
            let limits = Limits::new(Classes::default().limit(Class::Long), wait);
            black_box(limits.shortened_to(wait));
        }
        black_box(Budget::resumed(budget.spent(now), now));
    });
    assert_eq!(counted, 0);
}
