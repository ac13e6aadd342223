//! Connections that are cut anywhere, again and again: each command still has one reply of its own, and is applied
//! once at most.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;

use levee_policy::random::SplitMix64;
use levee_tests::redis::{Client, Redis};
use levee_tests::relay::Flaky;
use levee_tests::sidecar::Sidecar;

const CLIENTS: usize = 6;
const ROUNDS: usize = 1500;

/// What a client has seen of commands of a kind.
#[derive(Debug, Default)]
struct Seen {
    applied: u64,
    /// Perhaps applied, perhaps not.
    unsure: u64,
    /// Not applied, as was said.
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
            let mut client = Client::connect(self.address);
            let hello = client.ask("HELLO 3 AUTH default secret");
            let select = client.ask(&format!("SELECT {}", self.number + 1));
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
            bytes.extend(levee::redis::resp::encode(&words));
        }
        // Half of the time in two pieces, so that a cut may come between them.
        let first = if self.random.next_u64().is_multiple_of(2) {
            bytes.len()
        } else {
            usize::try_from(self.random.next_u64()).expect("64 bits") % bytes.len()
        };
        let _ = client.send(&bytes[..first]) && client.send(&bytes[first..]);
        let mut is_open = true;
        for step in &steps {
            let reply = if is_open { client.reply() } else { None };
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
                // The database has one digit, or two.
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
        direct.ask(&format!("SELECT {}", self.number + 1));
        let mut number = |what: &str| -> u64 {
            let reply = direct.ask(&format!("GET {what}"));
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
        let list = direct.ask("LRANGE list 0 -1");
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
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let mut direct = redis.client();
    direct.ask("AUTH secret");
    for number in 1..=CLIENTS {
        direct.ask(&format!("SELECT {number}"));
        direct.ask(&format!("SET database db{number}"));
    }
    let flaky = Flaky::to(redis.address, seed, 3000);
    let sidecar = Sidecar::before(
        flaky.address,
        "retry: {attempts: 5, base: 1ms, max: 2ms}\nbudget: {per_second: 10000}\nbreaker: {mode: disabled}",
    );
    let address = sidecar.address();
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
