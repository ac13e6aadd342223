//! One service: its name, its clients, its faults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use super::failure::Failure;
use super::faults::Faults;

/// How long it waits for Redis: like a widely used client with its default retries.
const REDIS_PATIENCE: Duration = Duration::from_secs(20);

/// Maximum of connections to the database.
const CONNECTIONS: u32 = 4;

/// One service. Clones are the same.
#[derive(Clone, Debug)]
pub struct Service(Arc<Parts>);

struct Parts {
    name: String,
    redis: Option<ConnectionManager>,
    database: Option<PgPool>,
    faults: Arc<Faults>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Without Redis or the database, requests that need them get 501. Neither needs to be up yet: the service connects
    /// at the first request. Fails if a URL is invalid, and says which.
    pub fn new(name: &str, redis: Option<&str>, database: Option<&str>) -> Result<Self, String> {
        let redis = redis
            .map(|url| {
                let patience = ConnectionManagerConfig::new()
                    .set_connection_timeout(Some(REDIS_PATIENCE))
                    .set_response_timeout(Some(REDIS_PATIENCE));
                redis::Client::open(url)
                    .and_then(|client| ConnectionManager::new_lazy_with_config(client, patience))
                    .map_err(|error| format!("Redis at `{url}`: {error}"))
            })
            .transpose()?;
        let database = database
            .map(|url| {
                PgPoolOptions::new()
                    .max_connections(CONNECTIONS)
                    .connect_lazy(url)
                    .map_err(|error| format!("the database's URL: {error}"))
            })
            .transpose()?;
        Ok(Self(Arc::new(Parts {
            name: name.to_owned(),
            redis,
            database,
            faults: Arc::default(),
        })))
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn redis(&self) -> Result<ConnectionManager, Failure> {
        self.0.redis.clone().ok_or(Failure::Without("Redis"))
    }

    pub(super) fn database(&self) -> Result<&PgPool, Failure> {
        self.0
            .database
            .as_ref()
            .ok_or(Failure::Without("the database"))
    }

    pub(super) fn faults(&self) -> &Arc<Faults> {
        &self.0.faults
    }
}
