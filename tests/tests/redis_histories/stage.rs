//! A Redis, a network with trouble, and a sidecar, on which histories are played one after the other.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::linear::{Action, Operation, Outcome};
use levee_harness::process::Signal;
use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::Sidecar;
use levee_harness::trouble::{Calm, Fate, Script, Trouble, Welcome};
use levee_harness::wait::GENEROUS;
use levee_policy::random::SplitMix64;
use levee_redis_session::resp::{arguments, encode};

use crate::plan::{Key, Plan, Player, Step, Values, Way};

/// What goes wrong on a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The network.
    Network,
    /// The network, with a breaker that opens and a budget that is soon spent.
    Refusals,
    /// Redis itself, too: it is killed and started again, or stands still.
    Restarts,
}

impl Kind {
    /// The kind of stage of a history, by its seed.
    pub const fn of(seed: u64) -> Self {
        match seed % 20 {
            0 => Self::Restarts,
            1 | 2 => Self::Refusals,
            _ => Self::Network,
        }
    }

    const fn keys(self) -> &'static str {
        match self {
            Self::Network => {
                "deadline: 100ms\nconnect_timeout: 50ms\nbudget: {per_second: 10000}\nbreaker: {mode: disabled}"
            }
            Self::Refusals => {
                "deadline: 60ms\nconnect_timeout: 50ms\nbudget: {per_second: 0, ratio: 0.1}\n\
                 health: {every: 10ms}\nbreaker: {consecutive_failures: 2, open_for: 20ms, open_for_max: 20ms}"
            }
            Self::Restarts => {
                "deadline: 1s\nconnect_timeout: 50ms\nbudget: {per_second: 10000}\nbreaker: {mode: disabled}"
            }
        }
    }
}

/// What happened, over all histories.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub histories: u64,
    pub operations: u64,
    pub answered: u64,
    pub unknown: u64,
    pub not_executed: u64,
    /// Replies of Redis that did not reach Levee.
    pub lost: u64,
    pub retries: u64,
    /// `SET`, `SETEX` and `PSETEX` that came by again.
    pub repeated_sets: u64,
    pub restarts: u64,
}

impl Counts {
    pub fn add(&mut self, more: &Self) {
        self.histories += more.histories;
        self.operations += more.operations;
        self.answered += more.answered;
        self.unknown += more.unknown;
        self.not_executed += more.not_executed;
        self.lost += more.lost;
        self.retries += more.retries;
        self.repeated_sets += more.repeated_sets;
        self.restarts += more.restarts;
    }
}

/// What was seen of one history.
pub struct Played {
    pub initial: BTreeMap<String, String>,
    pub operations: Vec<Operation>,
}

pub struct Stage {
    kind: Kind,
    redis: Redis,
    trouble: Trouble,
    sidecar: Sidecar,
    repeated_sets: Arc<AtomicU64>,
    counts: Counts,
}

impl Stage {
    /// `retry`: further keys of the sidecar's `retry`.
    pub fn new(kind: Kind, retry: &str) -> Self {
        let redis = match kind {
            Kind::Restarts => {
                Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
            }
            Kind::Network | Kind::Refusals => Redis::start(),
        }
        .unwrap();
        let trouble = Trouble::before(redis.address).unwrap();
        let keys = kind.keys();
        let retry = format!("retry: {{attempts: 3, base: 2ms, max: 5ms{retry}}}");
        let sidecar = Sidecar::before(trouble.address, &format!("{keys}\n{retry}")).unwrap();
        Self {
            kind,
            redis,
            trouble,
            sidecar,
            repeated_sets: Arc::default(),
            counts: Counts::default(),
        }
    }

    pub fn play(&mut self, plan: &Plan) -> Played {
        let initial = self.set_up(plan);
        self.trouble.follow(Troubles {
            random: SplitMix64::new(!plan.seed),
            rate: plan.trouble,
            closed: 0,
            seen: (plan.values == Values::Unique).then(HashSet::new),
            repeated_sets: self.repeated_sets.clone(),
        });
        let clock = AtomicU64::new(1);
        let (levee, direct) = (self.sidecar.address().unwrap(), self.redis.address);
        let mut operations = Vec::new();
        thread::scope(|scope| {
            let playing: Vec<_> = plan
                .players
                .iter()
                .enumerate()
                .map(|(number, player)| {
                    let clock = &clock;
                    let address = match player.way {
                        Way::ThroughLevee => levee,
                        Way::Direct => direct,
                    };
                    scope.spawn(move || {
                        Playing {
                            number,
                            address,
                            plan,
                            clock,
                            client: None,
                        }
                        .play(player)
                    })
                })
                .collect();
            if self.kind == Kind::Restarts {
                self.disturb(plan.seed);
            }
            for one in playing {
                operations.extend(one.join().expect("a client that understood all replies"));
            }
        });
        self.trouble.follow(Calm);
        operations.extend(self.look(plan, &clock));
        self.count(&operations);
        Played {
            initial,
            operations,
        }
    }

    fn set_up(&self, plan: &Plan) -> BTreeMap<String, String> {
        let mut initial = BTreeMap::new();
        let mut direct = ready(self.redis.address);
        direct.ask("FLUSHALL").unwrap();
        for key in &plan.keys {
            let Some((command, value)) = key.setup() else {
                continue;
            };
            let reply = direct.ask(&command).unwrap();
            assert!(!reply.starts_with('-'), "{command}: {reply}");
            initial.extend(value.map(|value| (key.name.clone(), value)));
        }
        initial
    }

    /// Redis is killed and comes back with its data, or stands still for a while.
    fn disturb(&mut self, seed: u64) {
        let mut random = SplitMix64::new(seed.rotate_left(32));
        let mut wait = |most: u64| thread::sleep(Duration::from_micros(random.next_u64() % most));
        wait(15_000);
        if seed.is_multiple_of(3) {
            self.redis.signal(Signal::Stop).unwrap();
            wait(100_000);
            self.redis.signal(Signal::Continue).unwrap();
        } else {
            self.redis.stop();
            wait(10_000);
            self.redis.start_again().unwrap();
            self.counts.restarts += 1;
        }
    }

    /// What all keys hold in the end.
    fn look(&self, plan: &Plan, clock: &AtomicU64) -> Vec<Operation> {
        let mut direct = ready(self.redis.address);
        let look = |(place, key): (usize, &Key)| {
            let (command, answers) = key.read();
            let invoked = clock.fetch_add(1, Ordering::SeqCst);
            let reply = direct.ask(&command).unwrap();
            let at = clock.fetch_add(1, Ordering::SeqCst);
            Operation {
                client: plan.players.len(),
                key: plan.keys[place].name.clone(),
                command,
                action: Action::Get,
                invoked,
                outcome: Outcome::Answered(answers.read(&reply), at),
            }
        };
        plan.keys.iter().enumerate().map(look).collect()
    }

    fn count(&mut self, operations: &[Operation]) {
        self.counts.histories += 1;
        for operation in operations {
            self.counts.operations += 1;
            match operation.outcome {
                Outcome::Answered(..) => self.counts.answered += 1,
                Outcome::Unknown(_) => self.counts.unknown += 1,
                Outcome::NotExecuted(_) => self.counts.not_executed += 1,
            }
        }
    }

    /// What happened on it until now.
    pub fn counts(&self) -> Counts {
        let retries = self.sidecar.metric("redis_retry_total{upstream=\"x\"}");
        assert!(!self.sidecar.log().contains("panicked"));
        Counts {
            lost: self.trouble.lost(),
            retries: retries.unwrap(),
            repeated_sets: self.repeated_sets.load(Ordering::SeqCst),
            ..self.counts
        }
    }
}

/// A client of Redis once it serves commands.
fn ready(address: SocketAddr) -> Client {
    let waited = Stopwatch::start();
    while waited.elapsed() < GENEROUS {
        if let Ok(mut client) = Client::connect(address)
            && client.ask("PING").is_ok_and(|reply| reply == "+PONG\r\n")
        {
            return client;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("Redis does not answer");
}

/// One client at work.
struct Playing<'a> {
    number: usize,
    address: SocketAddr,
    plan: &'a Plan,
    clock: &'a AtomicU64,
    client: Option<Client>,
}

impl Playing<'_> {
    fn play(mut self, player: &Player) -> Vec<Operation> {
        let steps = player.steps.iter();
        steps.flat_map(|step| self.step(step)).collect()
    }

    fn step(&mut self, step: &Step) -> Vec<Operation> {
        thread::sleep(step.pause);
        let mut client = self.connected();
        let mut bytes = Vec::new();
        for command in &step.commands {
            let words: Vec<&str> = command.line.split(' ').collect();
            bytes.extend(encode(&words));
        }
        let invoked = self.tick();
        // Replies that came before the connection was closed are there all the same.
        client.send(&bytes);
        let (mut operations, mut is_open) = (Vec::new(), true);
        for command in &step.commands {
            let reply = if is_open {
                client.reply().unwrap()
            } else {
                None
            };
            is_open = reply.is_some();
            let at = self.tick();
            let outcome = match reply {
                None => Outcome::Unknown("closed".to_owned()),
                Some(error) if error.starts_with('-') => of_error(&error),
                Some(reply) => Outcome::Answered(command.answers.read(&reply), at),
            };
            operations.extend(command.actions.iter().map(|(place, action)| Operation {
                client: self.number,
                key: self.plan.keys[*place].name.clone(),
                command: command.line.clone(),
                action: action.clone(),
                invoked,
                outcome: outcome.clone(),
            }));
        }
        self.client = is_open.then_some(client);
        operations
    }

    fn connected(&mut self) -> Client {
        self.client.take().unwrap_or_else(|| {
            let waited = Stopwatch::start();
            loop {
                match Client::connect(self.address) {
                    Ok(client) => return client,
                    Err(error) => assert!(waited.elapsed() < GENEROUS, "{error}"),
                }
                thread::sleep(Duration::from_millis(1));
            }
        })
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

/// What an error says about its command.
fn of_error(error: &str) -> Outcome {
    let words = error.trim().to_owned();
    if error.contains("may or may not have been executed") {
        return Outcome::Unknown(words);
    }
    let is_known = ["-ERR levee: ", "-LOADING "]
        .iter()
        .any(|start| error.starts_with(start));
    assert!(is_known, "{error}");
    Outcome::NotExecuted(words)
}

/// Trouble by chance.
#[derive(Debug)]
struct Troubles {
    random: SplitMix64,
    /// How many of 1,000 commands meet it.
    rate: u64,
    /// How many of the next connections are closed at once.
    closed: u64,
    /// Sets that came by; none if clients may write the same value twice.
    seen: Option<HashSet<Vec<u8>>>,
    repeated_sets: Arc<AtomicU64>,
}

impl Troubles {
    fn is_trouble(&mut self) -> bool {
        self.random.next_u64() % 1000 < self.rate
    }
}

impl Script for Troubles {
    fn connection(&mut self) -> Welcome {
        if self.closed == 0 && self.is_trouble() {
            self.closed = self.random.next_u64() % 3;
        }
        if self.closed == 0 {
            return Welcome::Passes;
        }
        self.closed -= 1;
        Welcome::Closed
    }

    fn command(&mut self, command: &[u8]) -> Fate {
        let name = arguments(command).next().unwrap_or_default();
        let is_set = [&b"SET"[..], b"SETEX", b"PSETEX"].contains(&name);
        if is_set
            && self
                .seen
                .as_mut()
                .is_some_and(|seen| !seen.insert(command.to_vec()))
        {
            self.repeated_sets.fetch_add(1, Ordering::SeqCst);
        }
        if !self.is_trouble() {
            return Fate::Passes;
        }
        match self.random.next_u64() % 20 {
            0..=7 => Fate::ReplyLost,
            8 | 9 => Fate::ReplyCut,
            10 | 11 => Fate::ReplyLate(Duration::from_micros(self.random.next_u64() % 8000)),
            12 | 13 => Fate::SilenceAfter,
            14 => Fate::SilenceBefore,
            15..=17 => Fate::Closed,
            _ => Fate::Cut,
        }
    }
}
