//! One service behind its breakers, and those who call it, in simulated time.

pub use crate::gate::Part;
use crate::gate::{Gate, Moment, TICK};
use crate::random::Random;
use levee_policy::breaker::{BreakerSettings, Outcome, Phase, Transition};
use levee_policy::callers::Caller;
use levee_policy::divided::Permits;
use levee_policy::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

const START: Instant = Instant::from_nanos(1_000_000_000_000);
/// How long it takes until the other workers know of a change.
const NEWS: Duration = Duration::from_millis(1);
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
    /// The scopes that they call, each as often. None if the service is not divided.
    pub scopes: Vec<usize>,
    pub end: Ends,
}

impl Clients {
    /// The same, at a divided service.
    pub fn to(self, scopes: &[usize]) -> Self {
        Self {
            scopes: scopes.to_vec(),
            ..self
        }
    }
}

/// How many workers share the breakers.
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
    /// When one was answered well last, since the start.
    pub answered: Option<Duration>,
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
    pub part: Part,
    pub transition: Transition,
    /// What was seen of each group of clients until then.
    pub seen: Vec<Seen>,
}

impl History {
    /// Of the service's breaker.
    pub fn openings(&self) -> usize {
        self.openings_of(None)
    }

    pub fn openings_of(&self, part: Part) -> usize {
        let opens = |change: &&Change| change.transition.to == Phase::Open && change.part == part;
        self.changes.iter().filter(opens).count()
    }

    /// The first change of the service's breaker to `phase`.
    pub fn first(&self, phase: Phase) -> Option<&Change> {
        let mut changes = self.changes.iter();
        changes.find(|change| change.transition.to == phase && change.part.is_none())
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
    group: usize,
    worker: usize,
    scope: Part,
    caller: Caller,
    permits: Permits,
    outcome: Outcome,
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
    enough: impl Fn(&Change) -> bool,
) -> History {
    let mut world = World::new(settings, sharing, clients, seed);
    let end = START.after(length);
    let mut changes = 0;
    while let Some(Reverse((at, event))) = world.events.pop() {
        if at > end {
            break;
        }
        world.now = at;
        world.handle(event);
        let new = &world.history.changes[changes..];
        if new.iter().any(&enough) {
            break;
        }
        changes = world.history.changes.len();
    }
    world.history
}

impl World {
    fn new(settings: BreakerSettings, sharing: Sharing, clients: Vec<Clients>, seed: u64) -> Self {
        let workers = match sharing {
            Sharing::OneWorker => 1,
            Sharing::FourWorkers => 4,
        };
        let scopes = clients.iter().flat_map(|clients| &clients.scopes);
        let scopes = scopes.max().map_or(0, |last| 1 + last);
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
            gate: Gate::new(settings, workers, scopes, START),
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
                let scope = self.scope_for(group);
                for _ in 0..at_once {
                    self.call(group, scope, Caller::from_hash(caller));
                }
                Duration::from_secs_f64(self.random.exponential() * f64::from(at_once) / rate)
            }
            Arrivals::Together(interval) => {
                for caller in first..first + count {
                    let scope = self.scope_for(group);
                    self.call(group, scope, Caller::from_hash(caller));
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
                call.outcome = Outcome::Neutral;
                self.report(call);
            }
            Event::End(place) => {
                self.free.push(place);
                self.report(self.calls[place]);
            }
            Event::Tick => {
                let random = self.random.bits();
                self.gate.tick(self.now, random);
                self.note();
                self.at(TICK, Event::Tick);
            }
            Event::News => {
                self.news_due = false;
                let random = self.random.bits();
                self.gate.hear_news(self.now, random);
                self.note();
            }
        }
        if !self.news_due && self.gate.has_news() {
            self.news_due = true;
            self.at(NEWS, Event::News);
        }
    }

    fn report(&mut self, call: Call) {
        if matches!(call.outcome, Outcome::Success { .. }) {
            self.history.seen[call.group].answered = Some(self.now.since(START));
        }
        let moment = Moment {
            worker: call.worker,
            caller: call.caller,
            now: self.now,
            random: self.random.bits(),
        };
        self.gate
            .end(moment, call.scope, call.permits, call.outcome);
        self.note();
    }

    /// The worker that a call of `caller` reaches.
    fn worker_for(&mut self, caller: Caller, connections: Connections) -> usize {
        let count = self.gate.workers() as u64;
        let worker = match connections {
            Connections::One => u64::from(caller.hash()) % count,
            Connections::ToAllWorkers => self.random.below(count),
        };
        usize::try_from(worker).expect("below the count")
    }

    fn scope_for(&mut self, group: usize) -> Part {
        let scopes = &self.clients[group].scopes;
        if scopes.len() < 2 {
            return scopes.first().copied();
        }
        let place = self.random.below(scopes.len() as u64);
        Some(scopes[usize::try_from(place).expect("below the count")])
    }

    fn call(&mut self, group: usize, scope: Part, caller: Caller) {
        let connections = self.clients[group].connections;
        let moment = Moment {
            worker: self.worker_for(caller, connections),
            caller,
            now: self.now,
            random: 0,
        };
        let permits = self.gate.admit(moment, scope);
        self.note();
        let since_start = self.now.since(START);
        let number = self.history.seen[group].sent;
        let end = (self.clients[group].end)(number, since_start, &mut self.random);
        let failed = matches!(end.outcome, Outcome::Failure { .. } | Outcome::Unanswered);
        let seen = &mut self.history.seen[group];
        seen.sent += 1;
        let Some(permits) = permits else {
            seen.refused += 1;
            return;
        };
        seen.failed += u64::from(failed);
        let place = self.store(Call {
            group,
            worker: moment.worker,
            scope,
            caller,
            permits,
            outcome: end.outcome,
        });
        if permits.is_probe() && end.upload > UPLOADED_WITHIN {
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

    fn note(&mut self) {
        for (part, transition) in self.gate.take_changes() {
            self.history.changes.push(Change {
                at: self.now.since(START),
                part,
                transition,
                seen: self.history.seen.clone(),
            });
        }
    }
}
