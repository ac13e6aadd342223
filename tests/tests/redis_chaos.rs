//! Connections are cut anywhere, repeatedly: each command still gets exactly one reply, and is applied at most once.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::process::Signal;
use levee_harness::redis::{Client, Redis};
use levee_harness::relay::Flaky;
use levee_harness::sidecar::Sidecar;
use levee_policy::random::SplitMix64;

const CLIENTS: usize = 6;
const ROUNDS: usize = 1500;

/// Results of one kind of command, as a client saw them.
#[derive(Debug, Default)]
struct Seen {
    applied: u64,
    /// Unknown whether applied.
    unsure: u64,
    /// Reported as not applied.
    failed: u64,
}

impl Seen {
    fn note(&mut self, reply: Option<&str>) {
        match reply {
            None => self.unsure += 1,
            Some(reply) if reply.contains("may or may not have been executed") => self.unsure += 1,
            Some(reply) if reply.starts_with('-') => {
                assert!(reply.starts_with("-ERR levee: "), "{reply}");
                self.failed += 1;
            }
            Some(_) => self.applied += 1,
        }
    }

    fn hold(&self, value: u64, what: &str) {
        assert!(
            self.applied <= value && value <= self.applied + self.unsure,
            "{what} is {value}: {self:?}"
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Echo(u64),
    Incr,
    Push(u64),
    Set(u64),
    Get,
    /// Which database is this?
    Where,
    Multi,
    IncrInMulti,
    Exec,
}

/// A client with a name and a database of its own.
struct Life {
    address: SocketAddr,
    number: usize,
    random: SplitMix64,
    client: Option<Client>,
    next: u64,
    incr: Seen,
    push: Seen,
    exec: Seen,
    pushed: BTreeSet<u64>,
    unsurely_pushed: BTreeSet<u64>,
    read: u64,
    not_read: u64,
    closed: u64,
}

impl Life {
    fn new(address: SocketAddr, number: usize, seed: u64) -> Self {
        Self {
            address,
            number,
            random: SplitMix64::new(seed),
            client: None,
            next: 0,
            incr: Seen::default(),
            push: Seen::default(),
            exec: Seen::default(),
            pushed: BTreeSet::new(),
            unsurely_pushed: BTreeSet::new(),
            read: 0,
            not_read: 0,
            closed: 0,
        }
    }

    fn connected(&mut self) -> Client {
        loop {
            if let Some(client) = self.client.take() {
                return client;
            }
            let mut client = Client::connect(self.address).unwrap();
            let hello = client.ask("HELLO 3 AUTH default secret").unwrap();
            let select = client.ask(&format!("SELECT {}", self.number + 1)).unwrap();
            if hello.starts_with('%') && select == "+OK\r\n" {
                self.client = Some(client);
            }
        }
    }

    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..=self.random.next_u64() % 12 {
            self.next += 1;
            match self.random.next_u64() % 8 {
                0 | 1 => steps.push(Step::Echo(self.next)),
                2 => steps.push(Step::Incr),
                3 => steps.push(Step::Push(self.next)),
                4 => steps.push(Step::Set(self.next)),
                5 => steps.push(Step::Get),
                6 => steps.push(Step::Where),
                _ => steps.extend([
                    Step::Multi,
                    Step::IncrInMulti,
                    Step::IncrInMulti,
                    Step::Exec,
                ]),
            }
        }
        steps
    }

    fn round(&mut self) {
        let steps = self.steps();
        let mut client = self.connected();
        let mut bytes = Vec::new();
        for step in &steps {
            let words = match step {
                Step::Echo(token) => format!("ECHO token{token}"),
                Step::Incr => "INCR count".to_owned(),
                Step::Push(token) => format!("LPUSH list {token}"),
                Step::Set(token) => format!("SET value {token}"),
                Step::Get => "GET value".to_owned(),
                Step::Where => "GET database".to_owned(),
                Step::Multi => "MULTI".to_owned(),
                Step::IncrInMulti => "INCR twice".to_owned(),
                Step::Exec => "EXEC".to_owned(),
            };
            let words: Vec<&str> = words.split(' ').collect();
            bytes.extend(levee_redis_session::resp::encode(&words));
        }
        // Half of them in two writes, so a cut may fall between them.
        let first = if self.random.next_u64().is_multiple_of(2) {
            bytes.len()
        } else {
            usize::try_from(self.random.next_u64()).expect("64 bits") % bytes.len()
        };
        let _ = client.send(&bytes[..first]) && client.send(&bytes[first..]);
        let mut is_open = true;
        for step in &steps {
            let reply = if is_open {
                client.reply().unwrap()
            } else {
                None
            };
            is_open = reply.is_some();
            self.check(*step, reply.as_deref());
        }
        if is_open {
            self.client = Some(client);
        } else {
            self.closed += 1;
        }
    }

    fn check(&mut self, step: Step, reply: Option<&str>) {
        let is_error = reply.is_none_or(|reply| reply.starts_with('-'));
        let show = reply.unwrap_or("closed");
        match step {
            Step::Echo(token) => {
                let token = format!("token{token}");
                assert!(
                    is_error || show == format!("${}\r\n{token}\r\n", token.len()),
                    "{token}: {show}"
                );
            }
            Step::Incr => self.incr.note(reply),
            Step::Push(token) => {
                let unsure = self.push.unsure;
                self.push.note(reply);
                if self.push.unsure > unsure {
                    self.unsurely_pushed.insert(token);
                } else if !is_error {
                    self.pushed.insert(token);
                }
            }
            Step::Set(_) | Step::Multi => assert!(is_error || show == "+OK\r\n", "{show}"),
            Step::Get => assert!(is_error || show.starts_with(['$', '_']), "{show}"),
            Step::Where => {
                let wanted = format!("$2\r\ndb{}\r\n", self.number + 1);
                // The database's number has one or two digits.
                let wanted = wanted.replace("$2", &format!("${}", wanted.len() - 8));
                assert!(
                    is_error || wanted.ends_with(&show[2..]),
                    "{wanted}: {show}: another client's database"
                );
            }
            Step::IncrInMulti => assert!(is_error || show == "+QUEUED\r\n", "{show}"),
            Step::Exec => self.exec.note(reply),
        }
        if matches!(step, Step::Echo(_) | Step::Set(_) | Step::Get | Step::Where) {
            if is_error {
                self.not_read += 1;
            } else {
                self.read += 1;
            }
        }
    }

    fn hold(&self, direct: &mut Client) {
        direct.ask(&format!("SELECT {}", self.number + 1)).unwrap();
        let mut number = |what: &str| -> u64 {
            let reply = direct.ask(&format!("GET {what}")).unwrap();
            reply
                .lines()
                .nth(1)
                .and_then(|line| line.parse().ok())
                .unwrap_or(0)
        };
        self.incr.hold(number("count"), "the counter");
        let twice = number("twice");
        assert!(twice.is_multiple_of(2), "half a transaction: {twice}");
        self.exec.hold(twice / 2, "the transactions' counter");
        let list = direct.ask("LRANGE list 0 -1").unwrap();
        let tokens: Vec<u64> = list
            .lines()
            .filter(|line| !line.starts_with(['*', '$']))
            .filter_map(|line| line.parse().ok())
            .collect();
        let once: BTreeSet<u64> = tokens.iter().copied().collect();
        assert_eq!(once.len(), tokens.len(), "pushed twice");
        assert!(self.pushed.is_subset(&once), "a push that was lost");
        let allowed: BTreeSet<u64> = self.pushed.union(&self.unsurely_pushed).copied().collect();
        assert!(
            once.is_subset(&allowed),
            "a push that was said not to have been executed"
        );
    }
}

#[test]
fn pipelines_over_connections_that_are_cut_anywhere_are_answered_in_order_and_applied_once_at_most()
{
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let redis = Redis::start_with(&["--requirepass", "secret"]).unwrap();
    let mut direct = redis.client().unwrap();
    direct.ask("AUTH secret").unwrap();
    for number in 1..=CLIENTS {
        direct.ask(&format!("SELECT {number}")).unwrap();
        direct.ask(&format!("SET database db{number}")).unwrap();
    }
    let flaky = Flaky::to(redis.address, seed, 3000).unwrap();
    let sidecar = Sidecar::before(
        flaky.address,
        "retry: {attempts: 5, base: 1ms, max: 2ms}\nbudget: {per_second: 10000}\nbreaker: {mode: disabled}",
    ).unwrap();
    let address = sidecar.address().unwrap();
    let lives: Vec<_> = (0..CLIENTS)
        .map(|number| {
            thread::spawn(move || {
                let mut life = Life::new(address, number, seed + number as u64);
                for _ in 0..ROUNDS {
                    life.round();
                }
                life
            })
        })
        .collect();
    for life in lives {
        let life = life.join().expect("a client whose replies were its own");
        println!(
            "{:?} {:?} {:?}, reads {} and {} errors, {} closed",
            life.incr, life.push, life.exec, life.read, life.not_read, life.closed
        );
        life.hold(&mut direct);
        assert!(life.read > 5 * life.not_read, "reads are tried again");
        assert!(life.closed < 20, "connections are kept");
    }
    println!("{} cuts", flaky.cuts());
    assert!(flaky.cuts() > 200);
    flaky.calm_down();
    assert!(!sidecar.log().contains("panicked"));
}

#[test]
fn large_values_over_connections_that_are_cut_are_whole_or_an_error() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let redis = Redis::start().unwrap();
    let flaky = Flaky::to(redis.address, seed, 3_000_000).unwrap();
    let sidecar = Sidecar::before(
        flaky.address,
        "retry: {attempts: 5, base: 1ms, max: 2ms}\nbudget: {per_second: 10000}\nbreaker: {mode: disabled}",
    ).unwrap();
    let (mut direct, mut client) = (redis.client().unwrap(), sidecar.client().unwrap());
    let (mut whole, mut errors, mut closed) = (0, 0, 0);
    for round in 0..100 {
        // Replies that are buffered until complete, and replies that are streamed.
        for length in [100, 60_000, 70_000, 600_000, 1_100_000] {
            let letter = char::from(b'a' + round % 26);
            let value: String = std::iter::repeat_n(letter, length).collect();
            let bulk = format!("${length}\r\n{value}\r\n");
            direct.ask(&format!("SET theirs {value}")).unwrap();
            for (command, wanted) in [
                ("GET theirs".to_owned(), bulk.as_str()),
                (format!("SET mine {value}"), "+OK\r\n"),
            ] {
                let reply = client.ask(&command).unwrap();
                if reply.is_empty() {
                    closed += 1;
                    client = sidecar.client().unwrap();
                } else if reply.starts_with('-') {
                    errors += 1;
                    assert!(reply.starts_with("-ERR levee: "), "{reply}");
                } else {
                    whole += 1;
                    assert!(reply == wanted, "{length} bytes came back changed");
                    assert!(
                        reply != "+OK\r\n" || direct.ask("GET mine").unwrap() == bulk,
                        "{length} bytes were changed"
                    );
                }
            }
        }
    }
    println!(
        "{whole} whole, {errors} errors, {closed} closed, {} cuts",
        flaky.cuts()
    );
    assert!(flaky.cuts() > 50 && whole > 5 * (errors + closed));
}

/// Sends pipelines of INCR while `running`. Returns the longest time of one, the number of replies, and the number of
/// commands with an unknown result.
fn count_up(address: SocketAddr, key: &str, running: &AtomicBool) -> (Duration, Seen) {
    let mut client = Client::connect(address).unwrap();
    let (mut longest, mut seen) = (Duration::ZERO, Seen::default());
    while running.load(Ordering::SeqCst) {
        let took = Stopwatch::start();
        for _ in 0..10 {
            client.command(&format!("INCR {key}"));
        }
        for _ in 0..10 {
            let reply = client.reply().unwrap().expect("the connection is kept");
            seen.note(Some(&reply));
        }
        longest = longest.max(took.elapsed());
    }
    (longest, seen)
}

#[test]
fn a_redis_that_stands_still_now_and_then_holds_nobody_up_and_counts_right() {
    let mut redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(
        redis.address,
        "deadline: 500ms\nbudget: {per_second: 1000}\nbreaker: {mode: disabled}",
    )
    .unwrap();
    let address = sidecar.address().unwrap();
    let running = Arc::new(AtomicBool::new(true));
    let clients: Vec<_> = (0..10)
        .map(|number| {
            let running = running.clone();
            thread::spawn(move || count_up(address, &format!("k{number}"), &running))
        })
        .collect();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(200));
        redis.signal(Signal::Stop).unwrap();
        thread::sleep(Duration::from_millis(800));
        redis.signal(Signal::Continue).unwrap();
    }
    thread::sleep(Duration::from_millis(200));
    running.store(false, Ordering::SeqCst);
    let mut direct = redis.client().unwrap();
    for (number, client) in clients.into_iter().enumerate() {
        let (longest, seen) = client.join().expect("a client that was answered");
        let value = direct.ask(&format!("GET k{number}")).unwrap();
        let value = value.lines().nth(1).and_then(|line| line.parse().ok());
        println!("{longest:?} {seen:?} {value:?}");
        seen.hold(value.expect("a number"), "the counter");
        assert!(seen.unsure > 0, "nobody was held up");
        assert!(longest < Duration::from_secs(3), "{longest:?}");
    }
}
