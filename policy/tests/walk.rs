//! Every event in every state, compared with a table.

use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::{
    Breaker, BreakerSettings, Cause, CheckPermit, Mode, Outcome, Permit, Phase, Report, Transition,
    Verdict,
};
use levee_policy::callers::Caller;
use levee_policy::evidence::Weight;
use levee_policy::time::Instant;
use std::time::Duration;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The state in which the walk begins. Each is reached by events only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Closed,
    /// One failure short of opening.
    ClosedOnTheBrink,
    /// One caller that is alone has brought about 14 failures.
    ClosedOneCallerOnTheBrink,
    Open,
    /// Open, and its time has passed.
    OpenAndDue,
    /// With one probe in flight.
    HalfOpen,
    /// One success short of closing, with one probe in flight.
    HalfOpenOnTheBrink,
    /// One caller that is alone has brought about two failures, and has one probe in flight.
    HalfOpenOneCallerOnTheBrink,
    /// With the maximum of probes in flight.
    HalfOpenAndFull,
    /// The same, but their leases have expired.
    HalfOpenAndExpired,
}

const STARTS: [Start; 10] = [
    Start::Closed,
    Start::ClosedOnTheBrink,
    Start::ClosedOneCallerOnTheBrink,
    Start::Open,
    Start::OpenAndDue,
    Start::HalfOpen,
    Start::HalfOpenOnTheBrink,
    Start::HalfOpenOneCallerOnTheBrink,
    Start::HalfOpenAndFull,
    Start::HalfOpenAndExpired,
];

const OUTCOMES: [Outcome; 8] = [
    Outcome::SUCCESS,
    Outcome::FAILURE,
    Outcome::WEAK_FAILURE,
    Outcome::Neutral,
    Outcome::Unanswered,
    Outcome::Success { slow: true },
    Outcome::Failure {
        slow: true,
        weight: Weight::Strong,
    },
    Outcome::Failure {
        slow: true,
        weight: Weight::Weak,
    },
];

/// Who has brought about the failures before, and somebody else.
const CALLERS: [Caller; 2] = [Caller::UNKNOWN, Caller::from_hash(7)];

/// Whose result is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// A call admitted in the state in which the walk begins. Open states admit none.
    Current,
    /// A call admitted while closed, before the breaker first opened.
    FromBefore,
    /// A probe of an earlier half-open state.
    EarlierProbe,
    Untracked,
}

const ALL: [Whose; 4] = [
    Whose::Current,
    Whose::FromBefore,
    Whose::EarlierProbe,
    Whose::Untracked,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Call,
    Probe,
    Refused,
}

struct Walk {
    settings: BreakerSettings,
    breaker: Breaker,
    now: Instant,
    current: Option<Permit>,
    from_before: Permit,
    earlier_probe: Permit,
    /// Of the open period before.
    earlier_check: Option<CheckPermit>,
}

impl Walk {
    /// All starts follow a failed recovery, so there are stale permits of both kinds. Before the
    /// closed ones there was also a successful recovery.
    fn to(start: Start, mode: Mode) -> Self {
        let open = Backoff {
            factor: 1,
            jitter: Jitter::NONE,
            ..BreakerSettings::default().open
        };
        let settings = BreakerSettings {
            mode,
            open,
            failure_rate: None,
            ..BreakerSettings::default()
        };
        let now = Instant::from_nanos(5_000_000_000_000);
        let mut walk = Self {
            settings,
            breaker: Breaker::new(&settings, now),
            now,
            current: None,
            from_before: Permit::UNTRACKED,
            earlier_probe: Permit::UNTRACKED,
            earlier_check: None,
        };
        walk.from_before = walk.admitted();
        walk.first_open_period();
        walk.earlier_probe = walk.admitted();
        walk.fail(1);
        assert_eq!(walk.breaker.phase(), Phase::Open);
        match start {
            Start::Open => {}
            Start::OpenAndDue => walk.pass(30),
            Start::HalfOpen => {
                walk.pass(30);
                walk.current = Some(walk.admitted());
            }
            Start::HalfOpenOnTheBrink => {
                walk.pass(30);
                walk.succeed(2);
                walk.current = Some(walk.admitted());
            }
            Start::HalfOpenOneCallerOnTheBrink => {
                walk.pass(30);
                walk.fail_by(Outcome::WEAK_FAILURE, 2);
                walk.pass(5);
                walk.current = Some(walk.admitted());
            }
            Start::HalfOpenAndFull | Start::HalfOpenAndExpired => {
                walk.pass(30);
                for _ in 0..3 {
                    walk.current = Some(walk.admitted());
                }
                if start == Start::HalfOpenAndExpired {
                    walk.pass(15);
                }
            }
            Start::Closed | Start::ClosedOnTheBrink | Start::ClosedOneCallerOnTheBrink => {
                walk.pass(30);
                walk.succeed(3);
                match start {
                    Start::ClosedOnTheBrink => walk.fail(4),
                    Start::ClosedOneCallerOnTheBrink => {
                        walk.fail_by(Outcome::WEAK_FAILURE, 14);
                        walk.pass(5);
                    }
                    _ => {}
                }
                walk.current = Some(walk.admitted());
            }
        }
        walk
    }

    fn first_open_period(&mut self) {
        self.fail(5);
        self.pass(1);
        self.earlier_check = self.permit_check();
        self.pass(29);
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    fn admitted(&mut self) -> Permit {
        match self.breaker.admit(&self.settings, self.now).0 {
            Verdict::Admit(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn record(&mut self, permit: Permit, outcome: Outcome) {
        self.breaker
            .record(&self.settings, permit, outcome, self.now, 0);
    }

    fn fail(&mut self, times: u32) {
        self.fail_by(Outcome::FAILURE, times);
    }

    fn fail_by(&mut self, outcome: Outcome, times: u32) {
        for _ in 0..times {
            let permit = self.admitted();
            self.record(permit, outcome);
        }
    }

    fn succeed(&mut self, times: u32) {
        for _ in 0..times {
            let permit = self.admitted();
            self.record(permit, Outcome::SUCCESS);
        }
    }

    fn permit_check(&self) -> Option<CheckPermit> {
        self.breaker
            .permit_check(&self.settings, Duration::from_secs(1), self.now)
    }

    fn check_passed(&mut self, check: CheckPermit) -> Option<Transition> {
        self.breaker.check_passed(&self.settings, check, self.now)
    }

    fn permit(&self, whose: Whose) -> Option<Permit> {
        match whose {
            Whose::Current => self.current,
            Whose::FromBefore => Some(self.from_before),
            Whose::EarlierProbe => Some(self.earlier_probe),
            Whose::Untracked => Some(Permit::UNTRACKED),
        }
    }
}

fn phase_of(start: Start) -> Phase {
    match start {
        Start::Closed | Start::ClosedOnTheBrink | Start::ClosedOneCallerOnTheBrink => Phase::Closed,
        Start::Open | Start::OpenAndDue => Phase::Open,
        _ => Phase::HalfOpen,
    }
}

#[test]
fn a_call_asks_in_every_state() {
    let table = [
        (Start::Closed, Answer::Call, Phase::Closed),
        (Start::ClosedOnTheBrink, Answer::Call, Phase::Closed),
        (
            Start::ClosedOneCallerOnTheBrink,
            Answer::Call,
            Phase::Closed,
        ),
        (Start::Open, Answer::Refused, Phase::Open),
        (Start::OpenAndDue, Answer::Probe, Phase::HalfOpen),
        (Start::HalfOpen, Answer::Probe, Phase::HalfOpen),
        (Start::HalfOpenOnTheBrink, Answer::Probe, Phase::HalfOpen),
        (
            Start::HalfOpenOneCallerOnTheBrink,
            Answer::Probe,
            Phase::HalfOpen,
        ),
        (Start::HalfOpenAndFull, Answer::Refused, Phase::HalfOpen),
        (Start::HalfOpenAndExpired, Answer::Probe, Phase::HalfOpen),
    ];
    for mode in [Mode::Enforce, Mode::Shadow] {
        for (start, expected, phase) in table {
            let mut walk = Walk::to(start, mode);
            assert_eq!(walk.breaker.phase(), phase_of(start), "{start:?}");
            let (verdict, transition) = walk.breaker.admit(&walk.settings, walk.now);
            let answer = match verdict {
                Verdict::Admit(permit) if permit.is_probe() => Answer::Probe,
                Verdict::Admit(_) => Answer::Call,
                Verdict::Refuse { .. } => {
                    assert_eq!(mode, Mode::Enforce);
                    Answer::Refused
                }
                Verdict::WouldRefuse => {
                    assert_eq!(mode, Mode::Shadow);
                    Answer::Refused
                }
            };
            assert_eq!(answer, expected, "{start:?}");
            assert_eq!(walk.breaker.phase(), phase, "{start:?}");
            assert_eq!(transition.is_some(), phase != phase_of(start), "{start:?}");
        }
    }
}

#[test]
fn every_result_in_every_state() {
    for mode in [Mode::Enforce, Mode::Shadow] {
        for start in STARTS {
            for whose in ALL {
                for outcome in OUTCOMES {
                    for caller in CALLERS {
                        check_result(mode, start, whose, outcome, caller);
                    }
                }
            }
        }
    }
}

/// What must happen, in words: nothing, unless a call of the current state failed on the brink of
/// opening, or a probe failed (or was slow), or succeeded on the brink of closing. A probe that
/// failed by something that its caller may have brought about counts only with others of its kind.
fn check_result(mode: Mode, start: Start, whose: Whose, outcome: Outcome, caller: Caller) {
    let mut walk = Walk::to(start, mode);
    let Some(permit) = walk.permit(whose) else {
        return;
    };
    let before = walk.breaker.clone();
    let report = Report {
        caller,
        ..Report::new(permit, outcome)
    };
    let transition = walk.breaker.report(&walk.settings, report, walk.now, 0);
    let is_strong = matches!(
        outcome,
        Outcome::Failure {
            weight: Weight::Strong,
            ..
        }
    );
    let failed = matches!(outcome, Outcome::Failure { .. });
    let complains = failed || outcome == Outcome::Unanswered;
    let expected = if whose == Whose::Current {
        match (phase_of(start), start) {
            // What the caller of the others may have brought about says nothing more.
            (Phase::Closed, Start::ClosedOnTheBrink)
                if failed && (is_strong || caller != Caller::UNKNOWN) =>
            {
                Phase::Open
            }
            (Phase::Closed, Start::ClosedOneCallerOnTheBrink) if failed => Phase::Open,
            (Phase::HalfOpen, _) if is_strong || outcome == (Outcome::Success { slow: true }) => {
                Phase::Open
            }
            (Phase::HalfOpen, Start::HalfOpenOneCallerOnTheBrink) if complains => Phase::Open,
            (Phase::HalfOpen, Start::HalfOpenOnTheBrink) if outcome == Outcome::SUCCESS => {
                Phase::Closed
            }
            (same, _) => same,
        }
    } else {
        assert_eq!(
            walk.breaker, before,
            "{start:?} {whose:?} {outcome:?}: a stale result"
        );
        phase_of(start)
    };
    assert_eq!(
        walk.breaker.phase(),
        expected,
        "{start:?} {whose:?} {outcome:?}"
    );
    assert_eq!(
        transition.is_some(),
        expected != phase_of(start),
        "{start:?} {whose:?}"
    );
    // Whatever it was, a probe of the current state has given its place back.
    if whose == Whose::Current && start == Start::HalfOpenAndFull && expected == Phase::HalfOpen {
        assert!(walk.admitted().is_probe());
    }
}

#[test]
fn from_every_state_it_closes_when_calls_succeed_again() {
    for start in STARTS {
        let mut walk = Walk::to(start, Mode::Enforce);
        for _ in 0..100 {
            walk.pass(10);
            let verdict = walk.breaker.admit(&walk.settings, walk.now).0;
            if let Verdict::Admit(permit) = verdict {
                walk.record(permit, Outcome::SUCCESS);
            }
        }
        assert_eq!(walk.breaker.phase(), Phase::Closed, "{start:?}");
    }
}

/// In a mode that learns nothing the answer is always the same, and no result changes the state.
#[test]
fn every_event_in_every_state_once_the_mode_is_fixed() {
    for mode in [Mode::Disabled, Mode::ForcedClosed, Mode::ForcedOpen] {
        for start in STARTS {
            let mut walk = Walk::to(start, Mode::Enforce);
            walk.settings.mode = mode;
            let before = walk.breaker.clone();
            let (verdict, transition) = walk.breaker.admit(&walk.settings, walk.now);
            let expected = if mode == Mode::ForcedOpen {
                Verdict::Refuse {
                    retry_after: walk.settings.open.base,
                }
            } else {
                Verdict::Admit(Permit::UNTRACKED)
            };
            assert_eq!(
                (verdict, transition),
                (expected, None),
                "{mode:?} {start:?}"
            );
            assert_eq!(walk.breaker, before, "{mode:?} {start:?}");
            for whose in ALL {
                for outcome in OUTCOMES {
                    let Some(permit) = walk.permit(whose) else {
                        continue;
                    };
                    let before = walk.breaker.clone();
                    let transition =
                        walk.breaker
                            .record(&walk.settings, permit, outcome, walk.now, 0);
                    assert_eq!(transition, None, "{mode:?} {start:?} {whose:?} {outcome:?}");
                    assert_eq!(walk.breaker.phase(), phase_of(start), "{mode:?} {start:?}");
                    if whose != Whose::Current {
                        assert_eq!(walk.breaker, before, "{mode:?} {start:?} {whose:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_health_check_hastens_an_open_breaker_and_changes_no_other() {
    for mode in [Mode::Enforce, Mode::Shadow] {
        for start in STARTS {
            let mut walk = Walk::to(start, mode);
            let before = walk.breaker.clone();
            let transition = walk.breaker.hasten(&walk.settings, walk.now);
            if phase_of(start) == Phase::Open {
                let transition = transition.expect("it was open");
                assert_eq!(transition.cause, Cause::HealthCheckPassed);
                assert_eq!(walk.breaker.phase(), Phase::HalfOpen);
                // It takes as many probes to close it as ever, and one failure opens it for longer.
                walk.succeed(2);
                assert_eq!(walk.breaker.phase(), Phase::HalfOpen);
                walk.fail(1);
                assert_eq!(walk.breaker.phase(), Phase::Open);
            } else {
                assert_eq!(transition, None, "{start:?}");
                assert_eq!(walk.breaker, before, "{start:?}");
            }
        }
    }
}

#[test]
fn a_breaker_whose_scopes_are_open_opens_unless_it_is_or_is_back() {
    for mode in [Mode::Enforce, Mode::Shadow] {
        for start in STARTS {
            let mut walk = Walk::to(start, mode);
            let before = walk.breaker.clone();
            let opened = walk.breaker.open_with_scopes(&walk.settings, walk.now, 0);
            // A probe has succeeded.
            let is_back = start == Start::HalfOpenOnTheBrink;
            if phase_of(start) == Phase::Open || is_back {
                assert_eq!((opened, &walk.breaker), (None, &before), "{start:?}");
                continue;
            }
            let transition = Transition {
                from: phase_of(start),
                to: Phase::Open,
                cause: Cause::NoScopeWorks,
            };
            assert_eq!(opened, Some(transition), "{start:?}");
            // For a second, and nothing of before counts any more.
            for whose in ALL {
                if let Some(permit) = walk.permit(whose) {
                    let now = walk.now;
                    let changed =
                        walk.breaker
                            .record(&walk.settings, permit, Outcome::FAILURE, now, 0);
                    assert_eq!(changed, None, "{start:?} {whose:?}");
                }
            }
            walk.pass(1);
            assert!(walk.admitted().is_probe(), "{start:?}");
        }
    }
}

#[test]
fn what_a_check_has_cut_short_is_forgotten_where_the_service_was_well() {
    let mut walk = Walk::to(Start::Closed, Mode::Enforce);
    let every = Duration::from_secs(1);
    walk.fail(5);
    walk.pass(1);
    let check = walk.breaker.permit_check(&walk.settings, every, walk.now);
    let passed = walk
        .breaker
        .check_passed(&walk.settings, check.expect("it is due"), walk.now);
    assert!(passed.is_some());
    walk.succeed(3);
    assert_eq!(walk.breaker.phase(), Phase::Closed);
    let waits = |walk: &Walk| match walk.breaker.clone().admit(&walk.settings, walk.now).0 {
        Verdict::Refuse { retry_after } => retry_after.as_secs(),
        other => panic!("{other:?}"),
    };
    // It fails again at once: the 29 s that were cut off come on top.
    let mut soon = Walk {
        breaker: walk.breaker.clone(),
        ..walk
    };
    soon.fail(5);
    assert_eq!(waits(&soon), 59);
    // Without a connection, it costs nothing to ask again.
    let mut unreachable = Walk {
        breaker: walk.breaker.clone(),
        ..walk
    };
    unreachable.fail_by(Outcome::UNREACHABLE, 5);
    assert_eq!(waits(&unreachable), 1);
    walk.pass(10);
    walk.fail(5);
    assert_eq!(waits(&walk), 30);
}

#[test]
fn a_health_check_changes_nothing_in_a_mode_that_learns_nothing() {
    for mode in [Mode::Disabled, Mode::ForcedOpen, Mode::ForcedClosed] {
        let mut walk = Walk::to(Start::Open, Mode::Enforce);
        walk.settings.mode = mode;
        assert_eq!(walk.breaker.hasten(&walk.settings, walk.now), None);
        assert_eq!(walk.breaker.phase(), Phase::Open);
    }
}

#[test]
fn health_checks_are_sent_only_while_open_and_those_of_an_earlier_period_change_nothing() {
    for mode in [Mode::Enforce, Mode::Shadow] {
        for start in STARTS {
            let mut walk = Walk::to(start, mode);
            let earlier = walk.earlier_check.expect("it was due");
            let before = walk.breaker.clone();
            assert_eq!(walk.check_passed(earlier), None, "{start:?}");
            assert_eq!(
                walk.permit_check(),
                None,
                "{start:?}: too soon, or too late"
            );
            assert_eq!(walk.breaker, before, "{start:?}");
            walk.pass(1);
            assert_eq!(walk.permit_check().is_some(), start == Start::Open);
        }
    }
}

#[test]
fn a_check_that_passes_brings_the_probes_forward_once_in_an_open_period() {
    let mut walk = Walk::to(Start::Open, Mode::Enforce); // for 30 s
    walk.pass(1);
    let check = walk.permit_check().expect("it is due");
    let transition = walk.check_passed(check).expect("it is open");
    assert_eq!(transition.cause, Cause::HealthCheckPassed);
    assert_eq!(walk.check_passed(check), None, "it is half-open");
    walk.fail(1);
    // What was saved is added: 29 s and 30 s. It can't be saved again.
    assert_eq!(walk.check_passed(check), None, "of an earlier period");
    walk.pass(28);
    assert_eq!(walk.permit_check(), None);
    walk.pass(1);
    let check = walk.permit_check().expect("the first period is over");
    walk.check_passed(check).expect("it is open");
    walk.fail(1);
    walk.pass(59);
    let (verdict, _) = walk.breaker.admit(&walk.settings, walk.now);
    let Verdict::Refuse { retry_after } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(retry_after, Duration::from_secs(1));
    walk.pass(1);
    assert!(walk.admitted().is_probe());
    walk.succeed(3);
    assert_eq!(walk.breaker.phase(), Phase::Closed);
}

#[test]
fn no_check_is_sent_in_a_mode_that_learns_nothing() {
    for mode in [Mode::Disabled, Mode::ForcedOpen, Mode::ForcedClosed] {
        let mut walk = Walk::to(Start::Open, Mode::Enforce);
        walk.pass(1);
        let check = walk.permit_check().expect("it is due");
        walk.settings.mode = mode;
        assert_eq!(walk.check_passed(check), None);
        walk.pass(1);
        assert_eq!(walk.permit_check(), None);
    }
}

/// When probes fail within an hour, whether its health checks pass or not.
fn failed_probes(checks_pass: bool) -> Vec<u64> {
    let settings = BreakerSettings {
        open: Backoff {
            jitter: Jitter::NONE,
            ..BreakerSettings::default().open
        },
        ..BreakerSettings::default()
    };
    let at = |second: u64| Instant::from_nanos(second * 1_000_000_000);
    let mut breaker = Breaker::new(&settings, at(0));
    let mut failed = Vec::new();
    for second in 0..3_600 {
        let check = breaker.permit_check(&settings, Duration::from_secs(1), at(second));
        if let Some(check) = check.filter(|_| checks_pass) {
            breaker.check_passed(&settings, check, at(second));
        }
        while let (Verdict::Admit(permit), _) = breaker.admit(&settings, at(second)) {
            breaker.record(&settings, permit, Outcome::FAILURE, at(second), 0);
            failed.extend(permit.is_probe().then_some(second));
        }
    }
    failed
}

#[test]
fn a_service_that_passes_its_checks_and_stays_down_gets_no_more_probes() {
    let (without, with) = (failed_probes(false), failed_probes(true));
    assert_eq!(without[..4], [30, 90, 210, 450]);
    // The first of each period, instead of its end.
    assert_eq!(with[..5], [1, 30, 90, 210, 450]);
    assert_eq!(with[1..], without);
}
