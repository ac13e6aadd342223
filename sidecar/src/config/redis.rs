//! The sections `redis` and `state`.

use super::address::{Address, listen_address, read_address, read_upstream};
use crate::redis::keepalive::Keepalive;
use levee_config::LONGEST;
use levee_config::breaker::read_breaker;
use levee_config::reader::Section;
use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::BreakerSettings;
use levee_policy::budget::BudgetSettings;
use levee_policy::ratio::Ratio;
use levee_redis_session::session::RawPolicy;
use std::net::SocketAddr;
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);

/// One Redis upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Its name in metrics and logs.
    pub name: String,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Other machines are meant to connect.
    pub exposed: bool,
    /// Where Redis is, and how Levee's own connections log in.
    pub upstream: Address,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a command may take.
    pub deadline: Duration,
    /// How long a script or function may take.
    pub script_deadline: Duration,
    /// How often a command is sent at most.
    pub attempts: u32,
    /// After so much silence of a connection, another one is tried.
    pub attempt_timeout: Duration,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// Commands that may be repeated though they are not in the tables.
    pub also: Vec<String>,
    /// Commands that must not be repeated though they are in the tables.
    pub never: Vec<String>,
    /// What retries may cost.
    pub budget: BudgetSettings,
    /// The breaker.
    pub breaker: BreakerSettings,
    /// The most clients.
    pub connections: usize,
    /// How many connections to Redis are kept ready.
    pub spare_connections: usize,
    /// The most bytes of a command's arguments.
    pub command_bytes: u64,
    /// The most bytes held for a client in each direction.
    pub buffered_bytes: usize,
    /// How long a client may do nothing. `None`: as long as it likes.
    pub idle: Option<Duration>,
    /// How long Redis and a client may acknowledge nothing.
    pub keepalive: Keepalive,
    /// What becomes of clients that ask for MONITOR and its like.
    pub raw: RawPolicy,
    /// How often Redis is asked whether it answers, while the breaker is open.
    pub health_every: Duration,
}

/// Where retry state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// In which Redis.
    pub upstream: Address,
    /// What keys begin with.
    pub prefix: String,
    /// How long they live.
    pub ttl: Duration,
}

pub(super) fn read_redis(s: &mut Section<'_>) -> Redis {
    for (field, what) in [
        (
            "name",
            "what this upstream is called in metrics, such as \"sessions\"",
        ),
        (
            "listen",
            "the address that services connect to, such as \"127.0.0.1:6380\"",
        ),
        (
            "upstream",
            "where Redis is, such as \"redis://127.0.0.1:6379\"",
        ),
    ] {
        s.require(field, what);
    }
    let name = read_name(s);
    let retry = s.section("retry", read_retry);
    let budget = s.section("budget", read_budget);
    let mut base = BreakerSettings::default();
    base.open.base = Duration::from_secs(5);
    base.open.max = Duration::from_secs(30);
    let breaker = s.section("breaker", |s| read_breaker(s, base));
    let health_every = s.section("health", |s| {
        s.duration("every", Duration::from_millis(10)..=LONGEST)
    });
    let limits = s.section("limits", read_limits);
    let deadline = s
        .duration("deadline", MILLISECOND..=LONGEST)
        .unwrap_or(Duration::from_secs(3));
    let script_deadline = s
        .duration("script_deadline", MILLISECOND..=LONGEST)
        .unwrap_or(Duration::from_secs(30).max(deadline));
    if script_deadline < deadline {
        s.error(
            "script_deadline",
            "is less than deadline; it must be as long or longer",
        );
    }
    Redis {
        name,
        listen: listen_address(s, "listen").unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))),
        exposed: s.flag("exposed").unwrap_or(false),
        upstream: read_upstream(s),
        connect_timeout: s
            .duration("connect_timeout", MILLISECOND..=LONGEST)
            .unwrap_or(Duration::from_secs(1)),
        deadline,
        script_deadline,
        attempts: retry.attempts,
        attempt_timeout: retry.attempt_timeout.unwrap_or(deadline / 3),
        backoff: retry.backoff,
        also: retry.also,
        never: retry.never,
        budget,
        breaker,
        connections: limits.connections,
        spare_connections: limits.spare_connections,
        command_bytes: limits.command_bytes,
        buffered_bytes: limits.buffered_bytes,
        idle: limits.idle,
        keepalive: s.section("keepalive", read_keepalive),
        raw: s
            .choice(
                "raw",
                &[("allow", RawPolicy::Allow), ("refuse", RawPolicy::Refuse)],
            )
            .unwrap_or(RawPolicy::Allow),
        health_every: health_every.unwrap_or(Duration::from_millis(500)),
    }
}

fn read_name(s: &mut Section<'_>) -> String {
    let name = s.text("name").unwrap_or_default();
    let is_plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    if !name.bytes().all(is_plain) || name.len() > 64 {
        s.error(
            "name",
            "must be at most 64 lower-case letters, digits, '-' and '_'",
        );
    }
    name
}

struct Retry {
    attempts: u32,
    attempt_timeout: Option<Duration>,
    backoff: Backoff,
    also: Vec<String>,
    never: Vec<String>,
}

fn read_retry(s: &mut Section<'_>) -> Retry {
    let attempts = s.integer("attempts", 1..=100).unwrap_or(3);
    let base = s
        .duration("base", MILLISECOND..=LONGEST)
        .unwrap_or(Duration::from_millis(100));
    let max = s
        .duration("max", MILLISECOND..=LONGEST)
        .unwrap_or(Duration::from_secs(1).max(base));
    if max < base {
        s.error("max", "is less than base; it must be as long or longer");
    }
    Retry {
        attempts,
        attempt_timeout: s.duration("attempt_timeout", MILLISECOND..=LONGEST),
        backoff: Backoff {
            base,
            max,
            factor: 2,
            jitter: Jitter::shorter(Ratio::percent(50)),
        },
        also: s.words("also"),
        never: s.words("never"),
    }
}

fn read_budget(s: &mut Section<'_>) -> BudgetSettings {
    let mut budget = BudgetSettings::default();
    budget.ratio = s.ratio("ratio").unwrap_or(budget.ratio);
    budget.per_second = s
        .integer("per_second", 0..=1_000_000)
        .unwrap_or(budget.per_second);
    budget
}

struct Limits {
    connections: usize,
    spare_connections: usize,
    command_bytes: u64,
    buffered_bytes: usize,
    idle: Option<Duration>,
}

fn read_limits(s: &mut Section<'_>) -> Limits {
    Limits {
        connections: s.size("connections", 1..=1_000_000).unwrap_or(1000),
        spare_connections: s.size("spare_connections", 0..=100).unwrap_or(1),
        command_bytes: s
            .integer("command_bytes", 1024..=u32::MAX)
            .map_or(512 * 1024 * 1024, u64::from),
        buffered_bytes: s
            .size("buffered_bytes", 4096..=1 << 30)
            .unwrap_or(1024 * 1024),
        idle: s.duration_or_off("idle", Duration::from_millis(100)..=LONGEST, None),
    }
}

fn read_keepalive(s: &mut Section<'_>) -> Keepalive {
    // Three probes, a second apart, and what the kernel can count.
    let range = Duration::from_secs(3)..=Duration::from_hours(8);
    let mut of = |field, default| s.duration_or_off(field, range.clone(), Some(default));
    Keepalive {
        redis: of("redis", Duration::from_secs(30)),
        clients: of("clients", Duration::from_mins(1)),
    }
}

pub(super) fn read_state(root: &mut Section<'_>) -> Option<State> {
    root.section("state", |s| {
        if s.is_absent() {
            return None;
        }
        s.require(
            "upstream",
            "where the state is kept, such as \"redis://127.0.0.1:6379\"",
        );
        let instance = s
            .text("instance")
            .unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into_owned());
        let prefix = s.text("prefix").unwrap_or_else(|| "levee:".to_owned());
        Some(State {
            upstream: read_address(s, "upstream"),
            prefix: format!("{prefix}{instance}:"),
            ttl: s
                .duration("ttl", Duration::from_secs(3)..=LONGEST)
                .unwrap_or(Duration::from_mins(10)),
        })
    })
}
