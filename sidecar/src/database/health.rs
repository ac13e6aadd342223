//! Asking the database whether it answers, for `/readyz`, on a connection of its own.

use super::connect::own_options;
use super::error::Error;
use crate::readiness::{PROBE_EVERY, PROBE_WITHIN, Part};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

/// Probes forever.
pub async fn watch(options: PgConnectOptions, part: Part) {
    let options = own_options(options);
    let mut connection = None;
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // If the probe is cut short, its connection is dropped.
        let probe = probe(&options, connection.take());
        let probe = tokio::time::timeout(PROBE_WITHIN, probe).await;
        part.saw(probe.map(|answer| {
            connection = Some(answer.map_err(|error| Error::from(&error).to_string())?);
            Ok(())
        }));
    }
}

/// A connection that has just answered.
async fn probe(
    options: &PgConnectOptions,
    connection: Option<PgConnection>,
) -> Result<PgConnection, sqlx::Error> {
    // The old connection may have been ended for reasons of its own.
    if let Some(mut old) = connection
        && old.ping().await.is_ok()
    {
        return Ok(old);
    }
    let mut new = options.connect().await?;
    new.ping().await?;
    Ok(new)
}
