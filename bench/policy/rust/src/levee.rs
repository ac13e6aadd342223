//! Levee's decisions: a `Breaker` as in the sidecar, a `Replica` as in each worker of the filter.

use crate::case::{Case, FAILURE, PASS, PASS_FAILURE, PASS_SUCCESS, REFUSE, SUCCESS};
use levee_policy::breaker::{
    Breaker, BreakerSettings, FailureRate, Outcome, Permit, Report, Verdict,
};
use levee_policy::budget::{Budget, BudgetSettings};
use levee_policy::callers::Caller;
use levee_policy::divided::{self, Admitted, Replicas, Who};
use levee_policy::ratio::Ratio;
use levee_policy::replica::{Admission, Recorded, Replica, Visit};
use levee_policy::time::{Instant, nanos};
use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant as Clock};

pub fn cases() -> Vec<Case> {
    [
        of::<Breaking<Given>>("levee Breaker"),
        of::<Breaking<Read>>("levee Breaker, clock read"),
        of::<Locked>("levee Breaker, clock read, lock"),
        of::<Replicated<Given>>("levee Replica"),
        of::<Replicated<Read>>("levee Replica, clock read"),
        with_a_scope(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Operations that are rare or not part of a call: only their instructions are counted.
pub fn what_is_rare() -> Vec<Case> {
    let each_in_another_bucket = |own: &mut Held<Breaking<Given>>| {
        own.subject.time.0 = own.subject.time.0.after(Duration::from_secs(1));
        own.record(Outcome::SUCCESS);
    };
    let closed = || Held::<Breaking<Given>>::closed(settings());
    vec![
        Case::new(
            "levee Breaker",
            "success in another bucket",
            closed,
            each_in_another_bucket,
        ),
        Case::new("levee Breaker", "to bytes and back", closed, |own| {
            Breaker::from_bytes(black_box(&own.subject.breaker.to_bytes()))
        }),
        Case::new(
            "levee Budget",
            "deposit+withdraw",
            Budget::default,
            |budget| {
                let now = Given::new().now();
                budget.deposit(1, now);
                budget.withdraw(black_box(&BudgetSettings::default()), 1, now)
            },
        ),
        Case::new(
            "levee Backoff",
            "wait",
            || (settings(), 0_u64),
            |(settings, random)| {
                *random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
                settings.open.wait(2, *random)
            },
        ),
    ]
}

/// The source of `now`.
trait Time: 'static {
    fn new() -> Self;
    fn now(&self) -> Instant;
}

/// The caller has the time already: in the filter, from the tick.
struct Given(Instant);

impl Time for Given {
    fn new() -> Self {
        Self(Instant::from_nanos(1_000_000_000_000))
    }
    #[inline]
    fn now(&self) -> Instant {
        self.0
    }
}

/// The clock is read for each decision.
struct Read {
    origin: Clock,
}

impl Time for Read {
    fn new() -> Self {
        let origin = Clock::now();
        Self { origin }
    }
    #[inline]
    fn now(&self) -> Instant {
        Instant::from_nanos(nanos(self.origin.elapsed()))
    }
}

/// The default rules (five failures in a row; half of twenty in ten seconds), with a long open time.
fn settings() -> BreakerSettings {
    let mut settings = BreakerSettings::default();
    settings.open.base = Duration::from_hours(1);
    settings.open.max = Duration::from_hours(1);
    settings
}

/// Every rule is evaluated and none is ever met: one call has succeeded, and all would have to fail.
fn tolerant() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: Some(u32::MAX),
        failure_rate: Some(FailureRate {
            ratio: Ratio::ONE,
            minimum_requests: 20,
        }),
        ..settings()
    }
}

/// Something that decides.
trait Decides: 'static {
    /// Starts closed.
    fn new(settings: BreakerSettings) -> Self;
    fn admit(&mut self) -> Verdict;
    fn record(&mut self, permit: Permit, outcome: Outcome);
}

/// Something that decides, with a permit of its current state.
struct Held<S> {
    subject: S,
    permit: Permit,
}

impl<S: Decides> Held<S> {
    fn closed(settings: BreakerSettings) -> Self {
        let mut subject = S::new(settings);
        let Verdict::Admit(permit) = subject.admit() else {
            panic!("closed");
        };
        subject.record(permit, Outcome::SUCCESS);
        Self { subject, permit }
    }

    fn open() -> Self {
        let mut own = Self::closed(settings());
        for _ in 0..5 {
            own.record(Outcome::FAILURE);
        }
        assert!(matches!(own.admit(), Verdict::Refuse { .. }));
        own
    }

    #[inline]
    fn admit(&mut self) -> Verdict {
        self.subject.admit()
    }

    #[inline]
    fn record(&mut self, outcome: Outcome) {
        self.subject.record(self.permit, outcome);
    }

    /// Admits and records, like a call.
    #[inline]
    fn call(&mut self, outcome: Outcome) {
        if let Verdict::Admit(permit) = self.subject.admit() {
            self.subject.record(permit, outcome);
        }
    }
}

fn of<S: Decides>(name: &str) -> Vec<Case> {
    let closed = || Held::<S>::closed(settings());
    let tolerant = || Held::<S>::closed(tolerant());
    vec![
        Case::new(name, PASS, closed, Held::admit),
        Case::new(name, REFUSE, Held::<S>::open, Held::admit),
        Case::new(name, SUCCESS, closed, |own| own.record(Outcome::SUCCESS)),
        Case::new(name, FAILURE, tolerant, |own| own.record(Outcome::FAILURE)),
        Case::new(name, PASS_SUCCESS, closed, |own| own.call(Outcome::SUCCESS)),
        Case::new(name, PASS_FAILURE, tolerant, |own| {
            own.call(Outcome::FAILURE);
        }),
    ]
}

/// A breaker of a single thread.
struct Breaking<T> {
    settings: BreakerSettings,
    breaker: Breaker,
    time: T,
}

impl<T: Time> Decides for Breaking<T> {
    fn new(settings: BreakerSettings) -> Self {
        let time = T::new();
        let breaker = Breaker::new(&settings, time.now());
        Self {
            settings,
            breaker,
            time,
        }
    }
    #[inline]
    fn admit(&mut self) -> Verdict {
        self.breaker.admit(&self.settings, self.time.now()).0
    }
    #[inline]
    fn record(&mut self, permit: Permit, outcome: Outcome) {
        let now = self.time.now();
        self.breaker.record(&self.settings, permit, outcome, now, 0);
    }
}

/// A breaker that several threads can share, like those of the libraries.
struct Locked {
    settings: BreakerSettings,
    breaker: Mutex<Breaker>,
    time: Read,
}

impl Decides for Locked {
    fn new(settings: BreakerSettings) -> Self {
        let time = Read::new();
        Self {
            breaker: Mutex::new(Breaker::new(&settings, time.now())),
            settings,
            time,
        }
    }
    #[inline]
    fn admit(&mut self) -> Verdict {
        let now = self.time.now();
        let mut breaker = self.breaker.lock().expect("no thread has panicked");
        breaker.admit(&self.settings, now).0
    }
    #[inline]
    fn record(&mut self, permit: Permit, outcome: Outcome) {
        let now = self.time.now();
        let mut breaker = self.breaker.lock().expect("no thread has panicked");
        breaker.record(&self.settings, permit, outcome, now, 0);
    }
}

/// A worker's view of a breaker that is kept as bytes. The cost of the host calls for the bytes is not included.
struct Replicated<T> {
    settings: BreakerSettings,
    replica: Replica,
    shared: Vec<u8>,
    time: T,
}

impl<T: Time> Replicated<T> {
    /// Out of line, as in the filter.
    #[inline(never)]
    fn report(&mut self, permit: Permit, outcome: Outcome, now: Instant) {
        self.visit(Visit::Record(Report::new(permit, outcome)), now);
    }

    #[inline(never)]
    fn visit(&mut self, visit: Visit, now: Instant) -> Option<Verdict> {
        if let Visit::Admit(_) = visit
            && let Some(verdict) = self.replica.admit_share(&self.settings, now)
        {
            return Some(verdict);
        }
        let mut breaker = Breaker::from_bytes(&self.shared).expect("written here");
        let visited = self
            .replica
            .visit(&self.settings, &mut breaker, visit, now, 0);
        self.shared.copy_from_slice(&breaker.to_bytes());
        self.replica.adopt(&breaker, now);
        visited.verdict
    }
}

impl<T: Time> Decides for Replicated<T> {
    fn new(settings: BreakerSettings) -> Self {
        let time = T::new();
        let breaker = Breaker::new(&settings, time.now());
        Self {
            replica: Replica::new(&settings, &breaker, time.now()),
            shared: breaker.to_bytes().to_vec(),
            settings,
            time,
        }
    }
    #[inline]
    fn admit(&mut self) -> Verdict {
        let now = self.time.now();
        match self.replica.admit(&self.settings, now) {
            Admission::Decided(verdict) => verdict,
            Admission::VisitNeeded => self
                .visit(Visit::Admit(Caller::UNKNOWN), now)
                .expect("the visit asked for it"),
        }
    }
    #[inline]
    fn record(&mut self, permit: Permit, outcome: Outcome) {
        let now = self.time.now();
        match self.replica.record(permit, outcome, now) {
            Recorded::Here => {}
            Recorded::WhoCalled => self.replica.answered(Caller::UNKNOWN, now),
            Recorded::VisitNeeded => self.report(permit, outcome, now),
        }
    }
}

/// A call that needs the permits of two breakers: its service's, and below that its scope's.
fn with_a_scope() -> Vec<Case> {
    let name = "levee Replica, with a scope";
    vec![
        Case::new(name, PASS, Divided::new, Divided::admit),
        Case::new(name, PASS_SUCCESS, Divided::new, |own| {
            if let Admitted::With(permits) = own.admit() {
                divided::record(own, Part::Service, Part::Scope, permits, Outcome::SUCCESS);
            }
        }),
    ]
}

struct Divided {
    service: Replicated<Given>,
    scope: Replicated<Given>,
}

#[derive(Clone, Copy)]
enum Part {
    Service,
    Scope,
}

impl Divided {
    fn new() -> Self {
        let mut own = Self {
            service: Replicated::new(settings()),
            scope: Replicated::new(settings()),
        };
        let Admitted::With(permits) = own.admit() else {
            panic!("closed");
        };
        divided::record(
            &mut own,
            Part::Service,
            Part::Scope,
            permits,
            Outcome::SUCCESS,
        );
        own
    }

    #[inline]
    fn admit(&mut self) -> Admitted<Part> {
        divided::admit(self, Part::Service, Part::Scope)
    }

    #[inline]
    fn part(&self, part: Part) -> &Replicated<Given> {
        match part {
            Part::Service => &self.service,
            Part::Scope => &self.scope,
        }
    }

    #[inline]
    fn part_mut(&mut self, part: Part) -> &mut Replicated<Given> {
        match part {
            Part::Service => &mut self.service,
            Part::Scope => &mut self.scope,
        }
    }
}

impl Replicas for Divided {
    type Index = Part;

    #[inline]
    fn replica(&self, part: Part) -> &Replica {
        &self.part(part).replica
    }

    #[inline]
    fn view(&self, part: Part) -> Admission {
        let of = self.part(part);
        of.replica.admit(&of.settings, of.time.now())
    }

    #[inline]
    fn ask(&mut self, part: Part) -> Verdict {
        self.part_mut(part).admit()
    }

    #[inline]
    fn record(&mut self, part: Part, permit: Permit, outcome: Outcome, _: Who) -> u32 {
        self.part_mut(part).record(permit, outcome);
        0
    }

    #[inline]
    fn as_caller(&self, _: Part) -> Caller {
        Caller::from_hash(1)
    }
}
