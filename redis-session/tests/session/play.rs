//! A session between a client and an upstream whose bytes and failures a test chooses.

use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::{BreakerSettings, Phase};
use levee_policy::budget::BudgetSettings;
use levee_policy::time::Instant;
use levee_redis_session::counts::Counts;
use levee_redis_session::gate::{Check, Gate};
use levee_redis_session::idempotency::Idempotency;
use levee_redis_session::proof::Proof;
use levee_redis_session::resp::encode;
use levee_redis_session::session::{Choice, RawPolicy, Session, SessionSettings};
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
        script_deadline: Duration::from_secs(30),
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
        raw: RawPolicy::Allow,
        attempt_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
    }
}

impl Play {
    pub fn new() -> Self {
        Self::with(settings(), BudgetSettings::default())
    }

    pub fn with(settings: SessionSettings, budget: BudgetSettings) -> Self {
        Self::with_all(settings, budget, BreakerSettings::default())
    }

    pub fn with_breaker(breaker: BreakerSettings) -> Self {
        Self::with_all(settings(), BudgetSettings::default(), breaker)
    }

    fn with_all(
        settings: SessionSettings,
        budget: BudgetSettings,
        breaker: BreakerSettings,
    ) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let gate = Arc::new(Gate::new(
            "x",
            breaker,
            budget,
            Arc::new(Counts::default()),
            7,
            now,
        ));
        let session = Session::new(Arc::new(settings), gate.clone(), now);
        Self { session, gate, now }
    }

    /// A session that refuses what would make a raw pipe of it.
    pub fn refusing() -> Self {
        let mut settings = settings();
        settings.raw = RawPolicy::Refuse;
        Self::with(settings, BudgetSettings::default())
    }

    /// A session of another client at the same Redis.
    pub fn another(&self) -> Session {
        Session::new(Arc::new(settings()), self.gate.clone(), self.now)
    }

    /// A session whose breaker is open, since Redis can't be reached.
    pub fn in_an_outage() -> Self {
        let mut play = Self::new();
        play.client(&["INCR a"]);
        play.session.not_connected("refused", play.now);
        for _ in 0..5 {
            play.pass(3000);
            play.client(&["INCR a"]).said();
        }
        assert_eq!(play.gate.phase_now(), Phase::Open);
        play
    }

    /// A check of Levee's own has ended.
    pub fn check(&mut self, check: Check<'_>) -> Phase {
        self.gate.checked(check, self.now, self.now);
        self.gate.phase_now()
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
        self.session
            .connected(Proof::Answered { at: self.now }, self.now);
        self.sent()
    }

    /// Connects to something that may not be Redis, and returns what is [`sent`](Self::sent).
    pub fn accepted(&mut self) -> String {
        assert!(self.session.wants_connection());
        self.session.connected(Proof::None, self.now);
        self.sent()
    }

    /// Redis answers on another connection while the first one is silent. Returns what is [`sent`](Self::sent) on it.
    pub fn second(&mut self) -> String {
        assert!(self.session.wants_second());
        assert_eq!(self.session.second_connected(self.now), Choice::Second);
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
