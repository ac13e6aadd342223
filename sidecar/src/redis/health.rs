//! Asking Redis whether it answers: for `/readyz`, for commands that wait for it, and as the probes of a breaker that is not
//! closed.

use super::own_client::OwnClient;
use crate::clock::Clock;
use crate::readiness::{PROBE_EVERY, PROBE_WITHIN, Part};
use levee_policy::breaker::Phase;
use levee_policy::time::Instant;
use levee_redis_session::gate::{Check, Gate};
use std::sync::Arc;
use std::time::Duration;

/// How often a half-open breaker is told whether Redis still answers, at most: it wants several answers.
const HALF_OPEN_EVERY: Duration = Duration::from_millis(100);

/// Checks forever: every `every` while Redis does not answer or the breaker is open, more often while that is half-open,
/// else every [`PROBE_EVERY`].
pub async fn watch(gate: Arc<Gate>, client: OwnClient, part: Part, every: Duration, clock: Clock) {
    let shortest = every.min(HALF_OPEN_EVERY);
    let mut ticks = tokio::time::interval(shortest);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last: Option<Instant> = None;
    loop {
        ticks.tick().await;
        let now = clock.now();
        let pause = match gate.phase_now() {
            Phase::HalfOpen => shortest,
            _ if gate.needs_checks() => every,
            _ => PROBE_EVERY,
        };
        if last.is_some_and(|last| now.since(last) < pause) {
            continue;
        }
        last = Some(now);
        let answer = tokio::time::timeout(PROBE_WITHIN, ping(&client)).await;
        let answer = answer.map(|answer| answer.map_err(|error| Problem::from(&error)));
        let check = match &answer {
            Ok(Ok(())) => Check::Answered,
            Ok(Err(problem)) => problem.check(),
            Err(_) => Check::Silent {
                why: "no answer to PING",
            },
        };
        gate.checked(check, now, clock.now());
        part.saw(answer.map(|answer| answer.map_err(|problem| problem.words)));
    }
}

async fn ping(client: &OwnClient) -> redis::RedisResult<()> {
    let mut connection = client.connect().await?;
    match redis::cmd("PING").query_async::<()>(&mut connection).await {
        // It answers. Levee needs no more rights than that.
        Err(error) if error.code() == Some("NOAUTH") || error.code() == Some("NOPERM") => Ok(()),
        result => result,
    }
}

/// Why a check has failed.
struct Problem {
    /// In Redis's own words where it has answered.
    words: String,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Nothing has come in the time that the client gives it.
    Silent,
    /// There is no connection, or it was closed.
    Failed,
    /// Redis executes a script, and says so at once to whoever asks.
    Busy,
    /// Redis serves nobody.
    Refused,
}

impl Problem {
    fn check(&self) -> Check<'_> {
        match self.kind {
            Kind::Silent => Check::Silent { why: &self.words },
            Kind::Failed => Check::Failed { why: &self.words },
            Kind::Busy => Check::Answered,
            Kind::Refused => Check::Refused,
        }
    }
}

impl From<&redis::RedisError> for Problem {
    fn from(error: &redis::RedisError) -> Self {
        let Some(code) = error.code() else {
            return Self {
                words: error.to_string(),
                kind: if error.is_timeout() {
                    Kind::Silent
                } else {
                    Kind::Failed
                },
            };
        };
        let words = match (code, error.detail()) {
            ("", None | Some("")) => "Redis answered with an error that has no text".to_owned(),
            (code, detail) => {
                let text = [code, detail.unwrap_or_default()].join(" ");
                format!("Redis answered with the error {}", text.trim())
            }
        };
        Self {
            words,
            kind: if code == "BUSY" {
                Kind::Busy
            } else {
                Kind::Refused
            },
        }
    }
}
