//! One service behind one breaker, and those who call it, in simulated time.

use crate::random::Random;
use levee_policy::breaker::{
    Breaker, BreakerSettings, Outcome, Phase, Report, Transition, Verdict,
};
use levee_policy::callers::Caller;
use levee_policy::replica::{Admission, Recorded, Replica, Visit};
use levee_policy::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

const START: Instant = Instant::from_nanos(1_000_000_000_000);
/// How often a worker of the filter syncs.
const TICK: Duration = Duration::from_millis(100);
/// How long it takes until the other workers know of a change.
const NEWS: Duration = Duration::from_millis(1);
/// As workers of the filter see it of a service that answers within 256 ms.
const USUAL_MILLIS: u32 = 300;
/// A probe whose request takes longer to arrive gives its place back.
const UPLOADED_WITHIN: Duration = Duration::from_secs(1);

/// How a call ends.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub outcome: Outcome,
    /// How long the call takes.
    pub after: Duration,
    /// How long its request takes to arrive.
    pub upload: Duration,
}

impl End {
    pub const fn new(outcome: Outcome, after: Duration) -> Self {
        Self {
            outcome,
            after,
            upload: Duration::ZERO,
        }
    }
}

/// Ends by the number of a call and the time since the start.
pub type Ends = Box<dyn FnMut(u64, Duration, &mut Random) -> End>;

/// When clients call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// At random: calls per second of all of them, and how many of one client arrive at once.
    Random { rate: f64, at_once: u32 },
    /// Each client calls once per interval, all at the same instant.
    Together(Duration),
}

/// Which workers a client is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    One,
    ToAllWorkers,
}

pub struct Clients {
    /// The hash of the first one's address, and how many there are.
    pub first: u32,
    pub count: u32,
    /// When the first call arrives, since the start.
    pub from: Duration,
    pub arrivals: Arrivals,
    pub connections: Connections,
    pub end: Ends,
}

/// How many workers share the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    OneWorker,
    FourWorkers,
}

/// What was seen of a group of clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub sent: u64,
    pub refused: u64,
    pub failed: u64,
}

/// What happened when.
pub struct History {
    /// Of each group of clients.
    pub seen: Vec<Seen>,
    pub changes: Vec<Change>,
}

/// A change of state.
#[derive(Clone, Debug)]
pub struct Change {
    /// Since the start.
    pub at: Duration,
    pub transition: Transition,
    /// What was seen of each group of clients until then.
    pub seen: Vec<Seen>,
}

impl History {
    pub fn openings(&self) -> usize {
        let opens = |change: &&Change| change.transition.to == Phase::Open;
        self.changes.iter().filter(opens).count()
    }

    /// The first change to `phase`.
    pub fn first(&self, phase: Phase) -> Option<&Change> {
        let mut changes = self.changes.iter();
        changes.find(|change| change.transition.to == phase)
    }
}

/// The breaker, and the workers that share it.
struct Gate {
    settings: BreakerSettings,
    breaker: Breaker,
    workers: Vec<Replica>,
    notified: Vec<bool>,
}

impl Gate {
    fn new(settings: BreakerSettings, sharing: Sharing) -> Self {
        let breaker = Breaker::new(&settings, START);
        let count = match sharing {
            Sharing::OneWorker => 1,
            Sharing::FourWorkers => 4,
        };
        Self {
            settings,
            workers: vec![Replica::new(&settings, &breaker, START); count],
            breaker,
            notified: vec![false; count],
        }
    }

    /// The worker that a call of `caller` reaches.
    fn worker_for(&self, caller: Caller, connections: Connections, random: &mut Random) -> usize {
        let count = self.workers.len() as u64;
        let worker = match connections {
            Connections::One => u64::from(caller.hash()) % count,
            Connections::ToAllWorkers => random.below(count),
        };
        usize::try_from(worker).expect("below the count")
    }

    fn visit(
        &mut self,
        worker: usize,
        visit: Visit,
        now: Instant,
        random: u64,
    ) -> (Option<Verdict>, Option<Transition>) {
        let replica = &mut self.workers[worker];
        let visited = replica.visit(&self.settings, &mut self.breaker, visit, now, random);
        replica.adopt(&self.breaker, now);
        if visited.tell_others {
            self.notified.fill(true);
            self.notified[worker] = false;
        }
        (visited.verdict, visited.transition)
    }

    fn admit(
        &mut self,
        worker: usize,
        caller: Caller,
        now: Instant,
    ) -> (Verdict, Option<Transition>) {
        match self.workers[worker].admit(&self.settings, now) {
            Admission::Decided(verdict) => (verdict, None),
            Admission::VisitNeeded => {
                if let Some(verdict) = self.workers[worker].admit_share(&self.settings, now) {
                    return (verdict, None);
                }
                let (verdict, transition) = self.visit(worker, Visit::Admit(caller), now, 0);
                (verdict.expect("an answer"), transition)
            }
        }
    }

    fn report(
        &mut self,
        worker: usize,
        report: Report,
        now: Instant,
        random: u64,
    ) -> Option<Transition> {
        match self.workers[worker].record(report.permit, report.outcome, now) {
            Recorded::Here => None,
            Recorded::WhoCalled => {
                self.workers[worker].answered(report.caller, now);
                None
            }
            Recorded::VisitNeeded => self.visit(worker, Visit::Record(report), now, random).1,
        }
    }

    fn has_news(&self) -> bool {
        self.notified.contains(&true)
    }

    /// Syncs the workers that were notified, or all that want to.
    fn sync(&mut self, all: bool, now: Instant, random: u64) -> Option<Transition> {
        let mut transition = None;
        for worker in 0..self.workers.len() {
            let is_notified = std::mem::take(&mut self.notified[worker]);
            if is_notified || (all && self.workers[worker].wants_sync()) {
                let changed = self.visit(worker, Visit::Sync, now, random).1;
                transition = transition.or(changed);
            }
        }
        transition
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Calls of these clients.
    Arrival(usize),
    /// The request of the probe in this place has not arrived in time.
    GiveBack(usize),
    /// The end of the call in this place.
    End(usize),
    Tick,
    News,
}

#[derive(Clone, Copy)]
struct Call {
    worker: usize,
    report: Report,
}

struct World {
    gate: Gate,
    clients: Vec<Clients>,
    random: Random,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
    calls: Vec<Call>,
    free: Vec<usize>,
    news_due: bool,
    now: Instant,
    history: History,
}

/// Lets the clients call for this long.
pub fn run(
    settings: BreakerSettings,
    sharing: Sharing,
    clients: Vec<Clients>,
    length: Duration,
    seed: u64,
) -> History {
    run_until(settings, sharing, clients, length, seed, |_| false)
}

/// The same, but ends after a change of state of which `enough` is true.
pub fn run_until(
    settings: BreakerSettings,
    sharing: Sharing,
    clients: Vec<Clients>,
    length: Duration,
    seed: u64,
    enough: impl Fn(Transition) -> bool,
) -> History {
    let mut world = World::new(Gate::new(settings, sharing), clients, seed);
    let end = START.after(length);
    let mut changes = 0;
    while let Some(Reverse((at, event))) = world.events.pop() {
        if at > end {
            break;
        }
        world.now = at;
        world.handle(event);
        let new = &world.history.changes[changes..];
        if new.iter().any(|change| enough(change.transition)) {
            break;
        }
        changes = world.history.changes.len();
    }
    world.history
}

impl World {
    fn new(gate: Gate, clients: Vec<Clients>, seed: u64) -> Self {
        let mut world = Self {
            history: History {
                seen: vec![Seen::default(); clients.len()],
                changes: Vec::new(),
            },
            random: Random::new(seed),
            events: BinaryHeap::new(),
            calls: Vec::new(),
            free: Vec::new(),
            news_due: false,
            now: START,
            gate,
            clients,
        };
        for group in 0..world.clients.len() {
            world.at(world.clients[group].from, Event::Arrival(group));
        }
        world.at(TICK, Event::Tick);
        world
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.events.push(Reverse((self.now.after(after), event)));
    }

    /// Calls of the group now, and the next ones later.
    fn arrive(&mut self, group: usize) {
        let Clients {
            first,
            count,
            arrivals,
            ..
        } = self.clients[group];
        let wait = match arrivals {
            Arrivals::Random { rate, at_once } => {
                let place = self.random.below(u64::from(count));
                let caller = first + u32::try_from(place).expect("below the count");
                for _ in 0..at_once {
                    self.call(group, Caller::from_hash(caller));
                }
                Duration::from_secs_f64(self.random.exponential() * f64::from(at_once) / rate)
            }
            Arrivals::Together(interval) => {
                for caller in first..first + count {
                    self.call(group, Caller::from_hash(caller));
                }
                interval
            }
        };
        self.at(wait, Event::Arrival(group));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrival(group) => self.arrive(group),
            Event::GiveBack(place) => {
                let mut call = self.calls[place];
                call.report.outcome = Outcome::Neutral;
                self.report(call);
            }
            Event::End(place) => {
                self.free.push(place);
                self.report(self.calls[place]);
            }
            Event::Tick => {
                let random = self.random.bits();
                let transition = self.gate.sync(true, self.now, random);
                self.note(transition);
                self.at(TICK, Event::Tick);
            }
            Event::News => {
                self.news_due = false;
                let random = self.random.bits();
                let transition = self.gate.sync(false, self.now, random);
                self.note(transition);
            }
        }
        if !self.news_due && self.gate.has_news() {
            self.news_due = true;
            self.at(NEWS, Event::News);
        }
    }

    fn report(&mut self, Call { worker, report }: Call) {
        let random = self.random.bits();
        let transition = self.gate.report(worker, report, self.now, random);
        self.note(transition);
    }

    fn call(&mut self, group: usize, caller: Caller) {
        let connections = self.clients[group].connections;
        let worker = self.gate.worker_for(caller, connections, &mut self.random);
        let (verdict, transition) = self.gate.admit(worker, caller, self.now);
        self.note(transition);
        let since_start = self.now.since(START);
        let number = self.history.seen[group].sent;
        let end = (self.clients[group].end)(number, since_start, &mut self.random);
        let failed = matches!(end.outcome, Outcome::Failure { .. } | Outcome::Unanswered);
        let seen = &mut self.history.seen[group];
        seen.sent += 1;
        let Verdict::Admit(permit) = verdict else {
            seen.refused += 1;
            return;
        };
        seen.failed += u64::from(failed);
        let report = Report {
            caller,
            usual_millis: USUAL_MILLIS,
            ..Report::new(permit, end.outcome)
        };
        let place = self.store(Call { worker, report });
        if permit.is_probe() && end.upload > UPLOADED_WITHIN {
            self.at(UPLOADED_WITHIN, Event::GiveBack(place));
        }
        self.at(end.after.max(end.upload), Event::End(place));
    }

    fn store(&mut self, call: Call) -> usize {
        if let Some(place) = self.free.pop() {
            self.calls[place] = call;
            place
        } else {
            self.calls.push(call);
            self.calls.len() - 1
        }
    }

    fn note(&mut self, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.history.changes.push(Change {
                at: self.now.since(START),
                transition,
                seen: self.history.seen.clone(),
            });
        }
    }
}
