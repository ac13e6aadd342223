//! Whatever is lost, split, slow or away, and whatever Levee asks Redis meanwhile: a client gets one well-formed reply for
//! each command, in order, and nothing is executed twice.
//!
//! `LEVEE_SESSIONS=100000` plays that many, `LEVEE_SESSION=seed` one of them.

use crate::play::settings;
use levee_policy::breaker::BreakerSettings;
use levee_policy::budget::BudgetSettings;
use levee_policy::random::SplitMix64;
use levee_policy::time::Instant;
use levee_redis_session::counts::Counts;
use levee_redis_session::gate::{Check, Gate};
use levee_redis_session::proof::Proof;
use levee_redis_session::resp::{CommandScanner, ReplyScanner, arguments, encode};
use levee_redis_session::session::{Choice, Session};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What the client watches, and nobody else writes to.
const GUARD: &str = "guard";

const PUSH: &str = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nz\r\n";

/// What a connection of Redis knows of its client.
#[derive(Debug, Default)]
struct Connection {
    /// What has arrived and is not executed.
    input: Vec<u8>,
    /// What is on its way back.
    output: VecDeque<u8>,
    watched: Vec<(String, u64)>,
    queued: Option<Vec<Vec<String>>>,
    is_aborted: bool,
    is_silent: bool,
    database: String,
    is_tracking: bool,
}

/// As much of Redis as is needed: replies as it gives them.
#[derive(Debug, Default)]
struct Redis {
    values: BTreeMap<String, String>,
    versions: BTreeMap<String, u64>,
    /// How often each key was counted.
    counted: BTreeMap<String, u64>,
    refused: Vec<&'static str>,
    not_now: Option<&'static str>,
}

impl Redis {
    fn write(&mut self, key: &str, value: String) {
        self.values.insert(key.to_owned(), value);
        *self.versions.entry(key.to_owned()).or_default() += 1;
    }

    fn version(&self, key: &str) -> u64 {
        self.versions.get(key).copied().unwrap_or_default()
    }

    fn answer(&mut self, words: &[String], connection: &mut Connection) -> String {
        let name = words[0].as_str();
        let refusal = if self.refused.contains(&name) {
            Some(format!("-NOPERM this user may not {name}\r\n"))
        } else {
            let allows = ["AUTH", "HELLO", "MULTI", "WATCH", "UNWATCH"].contains(&name);
            self.not_now.filter(|_| !allows).map(str::to_owned)
        };
        if let Some(refusal) = refusal {
            connection.is_aborted |= connection.queued.is_some();
            if name != "EXEC" {
                return refusal;
            }
        }
        if let Some(queued) = connection.queued.as_mut().filter(|_| name != "EXEC") {
            assert!(name != "WATCH", "within a transaction");
            queued.push(words.to_vec());
            return "+QUEUED\r\n".to_owned();
        }
        match name {
            "MULTI" => connection.queued = Some(Vec::new()),
            "WATCH" => {
                let version = self.version(&words[1]);
                connection.watched.push((words[1].clone(), version));
            }
            "UNWATCH" => {
                let is_levees = connection.watched.iter().all(|(key, _)| key != GUARD);
                assert!(is_levees, "a client's WATCH");
                connection.watched.clear();
            }
            "SELECT" => connection.database.clone_from(&words[1]),
            "CLIENT" if words[1] == "TRACKING" => connection.is_tracking = true,
            "EXEC" => return self.execute(connection),
            _ => return self.plain(words),
        }
        "+OK\r\n".to_owned()
    }

    fn execute(&mut self, connection: &mut Connection) -> String {
        let watched = std::mem::take(&mut connection.watched);
        let is_aborted = std::mem::take(&mut connection.is_aborted);
        let Some(queued) = connection.queued.take() else {
            connection.watched = watched;
            return "-ERR EXEC without MULTI\r\n".to_owned();
        };
        if is_aborted {
            return "-EXECABORT Transaction discarded\r\n".to_owned();
        }
        let is_levees = queued.len() == 1;
        assert!(
            !is_levees || watched.iter().all(|(key, _)| key != GUARD),
            "a client's WATCH"
        );
        let is_changed = |(key, version): &(String, u64)| self.version(key) != *version;
        if watched.iter().any(is_changed) {
            return "*-1\r\n".to_owned();
        }
        let replies: String = queued.iter().map(|words| self.plain(words)).collect();
        format!("*{}\r\n{replies}", queued.len())
    }

    fn plain(&mut self, words: &[String]) -> String {
        let bulk = |value: &str| format!("${}\r\n{value}\r\n", value.len());
        match words[0].as_str() {
            "PING" => "+PONG\r\n".to_owned(),
            "ECHO" => bulk(&words[1]),
            "GET" => self
                .values
                .get(&words[1])
                .map_or_else(|| "$-1\r\n".to_owned(), |value| bulk(value)),
            "EXISTS" => format!(":{}\r\n", u8::from(self.values.contains_key(&words[1]))),
            "GETRANGE" => {
                let last: usize = words[3].parse().unwrap();
                let value = self.values.get(&words[1]).map_or("", String::as_str);
                bulk(&value[..value.len().min(last + 1)])
            }
            "SET" => {
                self.write(&words[1], words[2].clone());
                "+OK\r\n".to_owned()
            }
            "INCR" => {
                let count = self.counted.entry(words[1].clone()).or_default();
                *count += 1;
                format!(":{count}\r\n")
            }
            _ => "+OK\r\n".to_owned(),
        }
    }

    /// Executes what has arrived on the connection.
    fn run(&mut self, connection: &mut Connection) {
        loop {
            let progress = CommandScanner::default()
                .advance(&connection.input)
                .expect("Levee sends commands");
            if !progress.complete {
                return;
            }
            let command: Vec<u8> = connection.input.drain(..progress.consumed).collect();
            let words: Vec<String> = arguments(&command)
                .map(|word| String::from_utf8(word.to_vec()).unwrap())
                .collect();
            let reply = self.answer(&words, connection);
            connection.output.extend(reply.bytes());
        }
    }
}

/// A client, the session, and Redis.
struct Stage {
    random: SplitMix64,
    session: Session,
    now: Instant,
    redis: Redis,
    connection: Option<Connection>,
    /// What the client has not sent.
    outgoing: VecDeque<u8>,
    /// Its commands that are not answered.
    asked: VecDeque<Vec<String>>,
    received: Vec<u8>,
    written: u64,
    /// How many INCRs may have been executed, and were.
    unknown: u64,
    acknowledged: u64,
    in_transaction: bool,
    pushes_sent: usize,
    pushes_received: usize,
    log: Vec<String>,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let breaker = BreakerSettings::default();
        let budget = BudgetSettings::default();
        let counts = Arc::new(Counts::default());
        let gate = Arc::new(Gate::new("x", breaker, budget, counts, seed, now));
        let mut stage = Self {
            random: SplitMix64::new(seed),
            session: Session::new(Arc::new(settings()), gate, now),
            now,
            redis: Redis::default(),
            connection: None,
            outgoing: VecDeque::new(),
            asked: VecDeque::new(),
            received: Vec::new(),
            written: 0,
            unknown: 0,
            acknowledged: 0,
            in_transaction: false,
            pushes_sent: 0,
            pushes_received: 0,
            log: Vec::new(),
        };
        if stage.draw(4) == 0 {
            for name in [
                "WATCH", "EXISTS", "GETRANGE", "MULTI", "UNWATCH", "EXEC", "PING",
            ] {
                if stage.draw(4) == 0 {
                    stage.redis.refused.push(name);
                }
            }
        }
        if stage.draw(3) == 0 {
            stage.ask("CLIENT SETNAME me");
            stage.ask("SELECT 3");
        }
        if stage.draw(8) == 0 {
            stage.ask("CLIENT TRACKING ON");
        }
        stage
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    /// One of up to `length`, or all.
    fn part(&mut self, length: usize) -> usize {
        if self.draw(3) > 0 {
            return length;
        }
        usize::try_from(self.draw(length as u64 + 1)).unwrap()
    }

    fn ask(&mut self, line: &str) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        self.outgoing.extend(encode(&words));
        self.asked.push_back(words);
    }

    fn ask_something(&mut self) {
        self.written += 1;
        let number = self.written;
        let key = ["a", "b", "c"][usize::try_from(self.draw(3)).unwrap()];
        match self.draw(14) {
            0..=2 => self.ask(&format!("GET {key}")),
            3..=6 => self.ask(&format!("SET {key} v{number}")),
            7 => self.ask(&format!("SET {key} {}", "w".repeat(3000))),
            8..=10 => self.ask("INCR n"),
            11 if self.draw(3) == 0 => self.ask("WATCH guard"),
            11 => {
                self.ask("MULTI");
                self.ask(&format!("SET {key} v{number}"));
                self.ask("INCR n");
                self.ask("EXEC");
            }
            _ => self.ask(&format!("ECHO e{number}")),
        }
    }

    fn step(&mut self) {
        match self.draw(22) {
            0 | 1 if self.asked.len() < 8 => {
                for _ in 0..=self.draw(4) {
                    self.ask_something();
                }
            }
            2 | 3 => self.client_sends(),
            4 | 5 => self.session_sends(),
            6 | 7 => self.redis_runs(),
            8..=11 => self.redis_sends(),
            12 | 13 => self.connects(),
            14 => self.client_takes(),
            15 if self.draw(2) == 0 => self.loses(),
            16 if self.draw(4) == 0 => self.goes_silent(),
            17 => {
                let key = ["a", "b", "c"][usize::try_from(self.draw(3)).unwrap()];
                self.redis.write(key, format!("other{}", self.written));
            }
            18 if self.draw(3) == 0 => {
                let all = [
                    None,
                    None,
                    None,
                    Some("-LOADING x\r\n"),
                    Some("-BUSY x\r\n"),
                    Some("-READONLY x\r\n"),
                ];
                self.redis.not_now = all[usize::try_from(self.draw(6)).unwrap()];
            }
            19 => self.pushes(),
            _ => self.time_passes(),
        }
    }

    fn client_sends(&mut self) {
        let bytes = self.part(self.outgoing.len());
        if bytes > 0 && self.session.wants_client() {
            let sent: Vec<u8> = self.outgoing.drain(..bytes).collect();
            self.session.inbox().extend(sent);
            self.session.client_sent(self.now);
        }
    }

    fn session_sends(&mut self) {
        self.drops_what_is_left();
        let bytes = self.part(self.session.to_upstream().len());
        if let Some(connection) = self.connection.as_mut()
            && bytes > 0
        {
            let sent = self.session.to_upstream()[..bytes].to_vec();
            self.log.push(format!("> {}", sent.escape_ascii()));
            connection.input.extend(sent);
            self.session.upstream_took(bytes, self.now);
        }
    }

    fn redis_runs(&mut self) {
        if let Some(connection) = self.connection.as_mut() {
            self.redis.run(connection);
        }
    }

    fn redis_sends(&mut self) {
        self.drops_what_is_left();
        let waiting = self.connection.as_ref().map_or(0, |one| one.output.len());
        let bytes = self.part(waiting);
        if let Some(connection) = self.connection.as_mut()
            && bytes > 0
            && !connection.is_silent
            && self.session.wants_upstream()
        {
            let sent: Vec<u8> = connection.output.drain(..bytes).collect();
            self.log.push(format!("< {}", sent.escape_ascii()));
            self.session.replies().extend(sent);
            self.session.upstream_sent(bytes, self.now);
        }
    }

    /// As the sidecar does: a connection that the session has left is closed before another is made.
    fn drops_what_is_left(&mut self) {
        if self.connection.is_some() && !self.session.keeps_connection() {
            self.connection = None;
            self.log.push("left".to_owned());
        }
    }

    fn connects(&mut self) {
        self.drops_what_is_left();
        let how = self.draw(8);
        if self.session.wants_second() {
            match how {
                0 => {
                    let check = Check::Silent { why: "x" };
                    self.session.second_failed(check, self.now);
                }
                1..=4 => {
                    self.log.push("second".to_owned());
                    if self.session.second_connected(self.now) == Choice::Second {
                        self.connection = Some(Connection::default());
                    }
                }
                _ => {}
            }
        } else if self.session.wants_connection() {
            assert!(self.connection.is_none());
            self.log.push(format!("connects {how}"));
            match how {
                0 => self.session.not_connected("refused", self.now),
                1..=4 => {
                    self.connection = Some(Connection::default());
                    let proof = Proof::Answered { at: self.now };
                    self.session.connected(proof, self.now);
                }
                _ => {
                    self.connection = Some(Connection::default());
                    self.session.connected(Proof::None, self.now);
                }
            }
        }
    }

    fn loses(&mut self) {
        self.drops_what_is_left();
        if self.connection.take().is_some() {
            self.log.push("lost".to_owned());
            self.session.lost("reset", self.now);
        }
    }

    fn goes_silent(&mut self) {
        if let Some(connection) = self.connection.as_mut() {
            connection.is_silent = true;
        }
    }

    fn pushes(&mut self) {
        if let Some(connection) = self.connection.as_mut()
            && connection.is_tracking
            && !connection.is_silent
        {
            connection.output.extend(PUSH.bytes());
            self.pushes_sent += 1;
        }
    }

    fn time_passes(&mut self) {
        let millis = [1, 20, 200, 1100][usize::try_from(self.draw(4)).unwrap()];
        self.now = self.now.after(Duration::from_millis(millis));
        if self.session.wake_at() <= self.now {
            self.session.wake(self.now);
        }
    }

    fn client_takes(&mut self) {
        let bytes = self.part(self.session.to_client().len());
        if bytes > 0 {
            let taken = self.session.to_client()[..bytes].to_vec();
            self.log.push(format!("= {}", taken.escape_ascii()));
            self.received.extend(taken);
            self.session.client_took(bytes, self.now);
        }
        self.client_reads();
    }

    fn client_reads(&mut self) {
        loop {
            let mut scanner = ReplyScanner::default();
            let progress = scanner.advance(&self.received).expect("a reply");
            if !progress.complete {
                return;
            }
            let reply: Vec<u8> = self.received.drain(..progress.consumed).collect();
            let reply = String::from_utf8(reply).unwrap();
            if reply == PUSH {
                self.pushes_received += 1;
                continue;
            }
            let words = self.asked.pop_front().expect("a command for each reply");
            self.judge(&words, &reply);
        }
    }

    fn judge(&mut self, words: &[String], reply: &str) {
        let name = words[0].as_str();
        if name == "MULTI" && reply == "+OK\r\n" {
            self.in_transaction = true;
            return;
        }
        let queues = std::mem::take(&mut self.in_transaction) && name != "EXEC";
        self.in_transaction = queues;
        let may_be = reply.contains("may or may not");
        if reply.starts_with('-') {
            let starts = [
                "-ERR ",
                "-LOADING",
                "-BUSY",
                "-READONLY",
                "-NOPERM",
                "-EXECABORT",
            ];
            assert!(
                starts.iter().any(|start| reply.starts_with(start)),
                "{words:?}: {reply:?}"
            );
            assert!(!reply.contains("EXEC without") || self.redis.refused.contains(&"MULTI"));
            if may_be && (name == "INCR" || name == "EXEC") {
                self.unknown += 1;
            }
            return;
        }
        if queues {
            assert_eq!(reply, "+QUEUED\r\n", "{words:?}");
            return;
        }
        match name {
            "GET" => assert!(reply.starts_with('$'), "{words:?}: {reply:?}"),
            "ECHO" => assert!(
                reply.ends_with(&format!("{}\r\n", words[1])),
                "{words:?}: {reply:?}"
            ),
            "INCR" => {
                assert!(reply.starts_with(':'), "{words:?}: {reply:?}");
                self.acknowledged += 1;
            }
            "EXEC" => {
                assert!(reply.starts_with("*2\r\n+OK\r\n:"), "{words:?}: {reply:?}");
                self.acknowledged += 1;
            }
            _ => assert_eq!(reply, "+OK\r\n", "{words:?}"),
        }
    }

    /// Everything works again, until all is answered.
    fn ends(&mut self) {
        self.redis.not_now = None;
        for _ in 0..4000 {
            if self.session.is_over() || (self.asked.is_empty() && self.received.is_empty()) {
                break;
            }
            self.client_sends();
            self.session_sends();
            self.redis_runs();
            self.redis_sends();
            self.connects();
            self.client_takes();
            self.time_passes();
        }
        self.client_takes();
        let is_over = self.session.is_over();
        if !is_over {
            assert!(self.asked.is_empty(), "no answer to {:?}", self.asked);
            assert!(self.received.is_empty(), "{:?}", self.received);
        }
        let lost = self.asked.iter().filter(|words| words[0] == "INCR").count() as u64;
        let counted = self.redis.counted.get("n").copied().unwrap_or_default();
        let most = self.acknowledged + self.unknown + lost;
        assert!(
            self.acknowledged <= counted && counted <= most,
            "{counted} of {most}"
        );
        if let Some(connection) = &self.connection
            && !is_over
            && connection.input.is_empty()
        {
            assert!(connection.queued.is_none());
            let is_clients = |(key, _): &(String, u64)| key == GUARD;
            assert!(
                connection.watched.iter().all(is_clients),
                "{:?}",
                connection.watched
            );
            if connection.is_tracking && connection.output.is_empty() {
                assert_eq!(self.pushes_received, self.pushes_sent);
            }
        }
    }
}

fn play(seed: u64) {
    let mut stage = Stage::new(seed);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..300 {
            stage.step();
            if stage.session.is_over() {
                break;
            }
        }
        stage.ends();
    }));
    if let Err(panic) = result {
        println!("LEVEE_SESSION={seed}\n{}", stage.log.join("\n"));
        std::panic::resume_unwind(panic);
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_client_gets_one_reply_for_each_command_and_none_of_levees_own() {
    if let Some(seed) = variable("LEVEE_SESSION") {
        play(seed);
        return;
    }
    let first = u64::from(std::process::id()) << 24;
    let many = variable("LEVEE_SESSIONS").unwrap_or(2000);
    println!("{many} sessions, from seed {first}");
    (first..first + many).for_each(play);
}
