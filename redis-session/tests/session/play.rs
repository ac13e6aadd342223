//! A session between a client and an upstream whose bytes and failures a test chooses.

use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::{BreakerSettings, Phase};
use levee_policy::budget::BudgetSettings;
use levee_policy::time::Instant;
use levee_redis_session::counts::Counts;
use levee_redis_session::gate::Gate;
use levee_redis_session::idempotency::Idempotency;
use levee_redis_session::proof::Proof;
use levee_redis_session::resp::encode;
use levee_redis_session::session::{Session, SessionSettings};
use std::sync::Arc;
use std::time::Duration;

/// One session, and its clock.
pub struct Play {
    pub session: Session,
    pub gate: Arc<Gate>,
    pub now: Instant,
}

pub fn settings() -> SessionSettings {
    SessionSettings {
        name: "x".to_owned(),
        deadline: Duration::from_secs(3),
        attempts: 3,
        backoff: Backoff {
            base: Duration::from_millis(100),
            max: Duration::from_secs(1),
            factor: 2,
            jitter: Jitter::NONE,
        },
        idempotency: Idempotency::new(&[], &[]),
        command_bytes: 1 << 20,
        buffered_bytes: 256 * 1024,
        idle: Some(Duration::from_mins(10)),
        connect_timeout: Duration::from_secs(1),
    }
}

impl Play {
    pub fn new() -> Self {
        Self::with(settings(), BudgetSettings::default())
    }

    pub fn with(settings: SessionSettings, budget: BudgetSettings) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let gate = Arc::new(Gate::new(
            "x",
            BreakerSettings::default(),
            budget,
            Arc::new(Counts::default()),
            7,
            now,
        ));
        let session = Session::new(Arc::new(settings), gate.clone(), now);
        Self { session, gate, now }
    }

    /// A session whose breaker has opened and now admits probes.
    pub fn after_an_outage() -> Self {
        let mut play = Self::new();
        for _ in 0..5 {
            play.client(&["INCR a"]).connect();
            play.lost().said();
        }
        assert_eq!(play.gate.phase_now(), Phase::Open);
        play.pass(60_000);
        play
    }

    /// The client sends commands: one per line, words separated by spaces.
    pub fn client(&mut self, lines: &[&str]) -> &mut Self {
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            self.session.inbox().extend(encode(&words));
        }
        self.session.client_sent(self.now);
        self
    }

    /// The client sends bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.session.inbox().extend(bytes);
        self.session.client_sent(self.now);
        self
    }

    /// Connects to the upstream, and returns what is [`sent`](Self::sent).
    pub fn connect(&mut self) -> String {
        assert!(self.session.wants_connection());
        self.session.connected(Proof::None);
        self.sent()
    }

    /// The words of the commands sent to the upstream since the last call.
    pub fn sent(&mut self) -> String {
        let mut all = Vec::new();
        while !self.session.to_upstream().is_empty() {
            let bytes = self.session.to_upstream().to_vec();
            self.session.upstream_took(bytes.len(), self.now);
            all.extend(bytes);
        }
        let text = String::from_utf8_lossy(&all).into_owned();
        let words: Vec<&str> = text
            .split("\r\n")
            .filter(|line| !line.starts_with('$') && !line.is_empty())
            .collect();
        words.join(" ")
    }

    /// The upstream sends bytes.
    pub fn upstream(&mut self, bytes: &str) -> &mut Self {
        self.session.replies().extend(bytes.as_bytes());
        self.session.upstream_sent(bytes.len(), self.now);
        self
    }

    /// The bytes sent to the client since the last call.
    pub fn said(&mut self) -> String {
        let bytes = self.session.to_client().to_vec();
        self.session.client_took(bytes.len(), self.now);
        String::from_utf8(bytes).unwrap()
    }

    /// The connection to the upstream is lost.
    pub fn lost(&mut self) -> &mut Self {
        self.session.lost("reset", self.now);
        self
    }

    /// Time passes.
    pub fn pass(&mut self, millis: u64) -> &mut Self {
        self.now = self.now.after(Duration::from_millis(millis));
        self.session.wake(self.now);
        self
    }
}
