//! What a suite runs against: a fresh Redis, and perhaps a fresh Levee before it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use levee_harness::redis::Redis;
use levee_harness::sidecar::{Config, Sidecar, Start};

/// The way to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Direct,
    Levee,
}

impl Way {
    /// For names of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Levee => "levee",
        }
    }
}

/// Servers of their own for each unit, so that none finds what another has left behind.
#[derive(Debug)]
pub struct Stand {
    // Dropped first, so that it does not see its upstream go away.
    levee: Option<Sidecar>,
    redis: Redis,
}

/// The suites use these commands, which Redis refuses by default.
const OPTIONS: [&str; 6] = [
    "--enable-debug-command",
    "yes",
    "--enable-protected-configs",
    "yes",
    "--enable-module-command",
    "yes",
];

impl Stand {
    /// Starts the servers. The log of Levee is in `folder`, as `levee.log`.
    pub fn start(way: Way, folder: &Path) -> Result<Self> {
        let redis = Redis::start_with(&OPTIONS)?;
        let levee = match way {
            Way::Direct => None,
            Way::Levee => Some(start_levee(redis.address, folder)?),
        };
        Ok(Self { levee, redis })
    }

    /// Where the suite connects.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(match &self.levee {
            Some(levee) => levee.address()?,
            None => self.redis.address,
        })
    }
}

/// With the defaults that users have.
fn start_levee(upstream: SocketAddr, folder: &Path) -> Result<Sidecar> {
    let config = Config::new(format!(
        "log: {{format: json, level: info}}\n\
         redis: [{{name: redis, listen: '127.0.0.1:0', upstream: 'redis://{upstream}'}}]\n"
    ));
    let start = Start {
        log_folder: Some(folder.to_owned()),
        ..Start::default()
    };
    Ok(Sidecar::start_with(&config, &start)?)
}
