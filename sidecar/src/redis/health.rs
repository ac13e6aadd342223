//! Asking Redis whether it answers, while its breaker is not closed.

use crate::clock::Clock;
use levee_policy::breaker::Phase;
use levee_redis_session::gate::Gate;
use std::sync::Arc;
use std::time::Duration;

/// How long a check may take.
const LONGEST: Duration = Duration::from_secs(1);

/// Checks for ever. A check that is answered lets an open breaker try clients' commands again.
pub async fn watch(gate: Arc<Gate>, client: redis::Client, every: Duration, clock: Clock) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if gate.phase_now() != Phase::Open {
            continue;
        }
        match tokio::time::timeout(LONGEST, ping(&client)).await {
            Ok(Ok(())) => gate.healthy(clock.now()),
            Ok(Err(error)) => log::debug!("health check: {error}"),
            Err(_) => log::debug!("health check: no answer within {LONGEST:?}"),
        }
    }
}

async fn ping(client: &redis::Client) -> redis::RedisResult<()> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    match redis::cmd("PING").query_async::<()>(&mut connection).await {
        // It answers; whom it lets in is not our question.
        Err(error) if error.code() == Some("NOAUTH") || error.code() == Some("NOPERM") => Ok(()),
        result => result,
    }
}
