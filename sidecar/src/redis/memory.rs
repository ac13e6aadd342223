//! The state of breakers and budgets, kept in a Redis for the next process.
//!
//! One key for each upstream, `<prefix><instance>:redis:<name>`, with a time to live. It is a hash with
//! the fields `breaker` (bytes), `commands` and `retries`. Losing it loses nothing else.

use super::own_client::OwnClient;
use crate::clock::Clock;
use crate::foreign_text::shown;
use levee_redis_session::gate::{Gate, Memory};
use std::sync::Arc;
use std::time::Duration;

/// How often changes are written.
const EVERY: Duration = Duration::from_secs(1);

/// How long the store may take to answer.
const LONGEST: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Store {
    pub client: OwnClient,
    /// Of keys, with the instance.
    pub prefix: String,
    /// How long keys live.
    pub ttl: Duration,
}

impl Store {
    fn key(&self, name: &str) -> String {
        format!("{}redis:{name}", self.prefix)
    }

    async fn read(&self, name: &str) -> redis::RedisResult<Option<Memory>> {
        let mut connection = self.client.connect().await?;
        let (breaker, commands, retries): (Option<Vec<u8>>, Option<u32>, Option<u32>) =
            redis::cmd("HMGET")
                .arg(self.key(name))
                .arg(&["breaker", "commands", "retries"])
                .query_async(&mut connection)
                .await?;
        Ok(breaker.map(|breaker| Memory {
            breaker,
            commands: commands.unwrap_or(0),
            retries: retries.unwrap_or(0),
        }))
    }

    async fn write(&self, name: &str, memory: &Memory) -> redis::RedisResult<()> {
        let mut connection = self.client.connect().await?;
        let key = self.key(name);
        redis::pipe()
            .atomic()
            .cmd("HSET")
            .arg(&key)
            .arg("breaker")
            .arg(&memory.breaker)
            .arg("commands")
            .arg(memory.commands)
            .arg("retries")
            .arg(memory.retries)
            .ignore()
            .cmd("PEXPIRE")
            .arg(&key)
            .arg(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX))
            .ignore()
            .query_async(&mut connection)
            .await
    }

    /// Restores the last process's state in `gate`, if there is one.
    pub async fn recall(&self, name: &str, gate: &Gate, clock: Clock) {
        match tokio::time::timeout(LONGEST, self.read(name)).await {
            Ok(Ok(Some(memory))) => {
                gate.resume(&memory, clock.now());
                log::info!(upstream = name; "the retry state of the last process was taken over");
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                let error = shown(&error.to_string());
                log::warn!(upstream = name; "no retry state was taken over: {error}");
            }
            Err(_) => {
                log::warn!(upstream = name; "no retry state was taken over: no answer within {LONGEST:?}");
            }
        }
    }

    /// Writes the state of `gate` forever.
    pub async fn keep(self, name: String, gate: Arc<Gate>, clock: Clock) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_working = true;
        let mut last = None;
        let mut unchanged_for = Duration::ZERO;
        loop {
            ticks.tick().await;
            let memory = gate.memory(clock.now());
            unchanged_for += EVERY;
            // Unchanged state is written again before it expires.
            if last.as_ref() == Some(&memory) && unchanged_for * 3 < self.ttl {
                continue;
            }
            let result = tokio::time::timeout(LONGEST, self.write(&name, &memory)).await;
            let error = match result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(shown(&error.to_string())),
                Err(_) => Some(format!("no answer within {LONGEST:?}")),
            };
            if error.is_none() {
                last = Some(memory);
                unchanged_for = Duration::ZERO;
            }
            if is_working != error.is_none() {
                is_working = error.is_none();
                match error {
                    Some(error) => {
                        log::warn!(upstream = name.as_str(); "the retry state can't be written down: {error}");
                    }
                    None => {
                        log::info!(upstream = name.as_str(); "the retry state is written down again");
                    }
                }
            }
        }
    }
}
