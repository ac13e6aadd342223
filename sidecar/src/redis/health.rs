//! Asking Redis whether it answers: for `/readyz`, and for the breaker while that is open.

use super::own_client::OwnClient;
use crate::clock::Clock;
use crate::readiness::{PROBE_EVERY, PROBE_WITHIN, Part};
use levee_policy::breaker::Phase;
use levee_policy::time::Instant;
use levee_redis_session::gate::Gate;
use std::sync::Arc;
use std::time::Duration;

/// Checks forever: every `every` while the breaker is open, else every [`PROBE_EVERY`]. A check that is answered lets an
/// open breaker try clients' commands again.
pub async fn watch(gate: Arc<Gate>, client: OwnClient, part: Part, every: Duration, clock: Clock) {
    let mut ticks = tokio::time::interval(every.min(PROBE_EVERY));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last: Option<Instant> = None;
    loop {
        ticks.tick().await;
        let now = clock.now();
        let is_due = |every| last.is_none_or(|last| now.since(last) >= every);
        let is_open = gate.phase_now() == Phase::Open;
        if !is_due(if is_open { every } else { PROBE_EVERY }) {
            continue;
        }
        last = Some(now);
        let probe = tokio::time::timeout(PROBE_WITHIN, ping(&client)).await;
        if matches!(probe, Ok(Ok(()))) && gate.phase_now() == Phase::Open {
            gate.healthy(clock.now());
        }
        part.saw(probe.map(|answer| answer.map_err(|error| describe(&error))));
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

/// In Redis's own words where it has answered.
fn describe(error: &redis::RedisError) -> String {
    let Some(code) = error.code() else {
        return error.to_string();
    };
    match (code, error.detail()) {
        ("", None | Some("")) => "Redis answered with an error that has no text".to_owned(),
        (code, detail) => {
            let text = [code, detail.unwrap_or_default()].join(" ");
            format!("Redis answered with the error {}", text.trim())
        }
    }
}
