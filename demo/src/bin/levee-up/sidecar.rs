//! The sidecar, with a Redis behind it (the user's own, or a temporary one), and at the services' database.

use std::env;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use levee_harness::host_port::HostPort;
use levee_harness::postgres::{self, Postgres};
use levee_harness::redis;
use levee_harness::sidecar::{self, Config, Start};

use crate::args::Args;
use crate::failure::Failure;
use crate::ports::check_free;
use crate::redis::Redis;

/// A running sidecar. Dropping it ends it, and the Redis that was started for it.
#[derive(Debug)]
pub struct Sidecar {
    /// Where services connect to Redis, where there is one.
    pub listen: Option<SocketAddr>,
    /// Where Redis is, where there is one.
    pub upstream: Option<HostPort>,
    // Dropped in this order.
    process: sidecar::Sidecar,
    redis: Option<Redis>,
}

/// What to start, and why a part is left out.
#[derive(Debug)]
pub struct Plan {
    /// The program.
    pub levee: Option<PathBuf>,
    /// The Redis behind the sidecar.
    pub redis: Result<Upstream, &'static str>,
    /// A temporary database for the demonstration services.
    pub database: Result<(), &'static str>,
}

/// The Redis behind the sidecar.
#[derive(Debug)]
pub enum Upstream {
    /// The user's.
    Own(HostPort),
    /// One that ends with the sidecar.
    Temporary,
}

impl Plan {
    /// What this machine and the command line allow.
    pub fn make(args: &Args, with_demo: bool) -> Result<Self, Failure> {
        let levee = env::var_os("LEVEE_BIN").map(PathBuf::from);
        let no_levee = "LEVEE_BIN is not set; start this by `cargo xtask up`, which sets it";
        let redis = match (&levee, &args.redis, redis::find_program()) {
            (None, ..) => Err(no_levee),
            (_, Some(own), _) => Ok(Upstream::Own(own.clone())),
            (_, None, Some(_)) => Ok(Upstream::Temporary),
            (_, None, None) => Err(
                "redis-server is not installed (Debian: redis-server); install it, or name your own by --redis HOST:PORT",
            ),
        };
        let database = match &levee {
            None => Err(no_levee),
            Some(_) if !with_demo => Err("there are no demonstration services, for which it is"),
            Some(_) if postgres::find_programs().is_none() => Err(
                "it is not installed (Debian: postgresql); install it, or name the folder of initdb and postgres by POSTGRES_BIN_PATH",
            ),
            Some(_) => Ok(()),
        };
        if redis.is_ok() {
            check_free(args.redis_listen, "the Redis proxy", "--redis-listen")?;
        }
        if redis.is_ok() || database.is_ok() {
            check_free(
                args.sidecar_admin,
                "the sidecar's admin interface",
                "--sidecar-admin",
            )?;
        }
        Ok(Self {
            levee,
            redis,
            database,
        })
    }
}

impl Sidecar {
    /// Starts it and waits until it is ready. None where there is nothing for it to do.
    pub async fn start(
        args: &Args,
        plan: &Plan,
        database: Option<&Postgres>,
        log_folder: Option<PathBuf>,
    ) -> Result<Option<Self>, Failure> {
        let Some(levee) = plan.levee.clone() else {
            return Ok(None);
        };
        let (upstream, redis) = match &plan.redis {
            Ok(Upstream::Own(own)) => (Some(own.clone()), None),
            Ok(Upstream::Temporary) => {
                let redis = Redis::start().await?;
                (Some(redis.address().into()), Some(redis))
            }
            Err(_) => (None, None),
        };
        if upstream.is_none() && database.is_none() {
            return Ok(None);
        }
        let config = configuration(args, upstream.as_ref(), database);
        let start = Start {
            program: Some(levee),
            log_folder,
            ..Start::default()
        };
        let process = sidecar::Sidecar::start_in_task(&config, &start)
            .await
            .map_err(Failure::other)?;
        let listen = match upstream {
            Some(_) => Some(process.address().map_err(Failure::other)?),
            None => None,
        };
        Ok(Some(Self {
            listen,
            upstream,
            process,
            redis,
        }))
    }

    /// Where its admin interface listens.
    pub fn admin(&self) -> SocketAddr {
        self.process.admin
    }

    /// The file of its log.
    pub fn log(&self) -> &Path {
        self.process.log_file()
    }

    /// Where the Redis is that was started for it.
    pub fn temporary_redis(&self) -> Option<SocketAddr> {
        self.redis.as_ref().map(Redis::address)
    }

    /// An error if it has ended. The temporary Redis may end: it is started again.
    pub async fn check_alive(&mut self) -> Result<(), Failure> {
        self.process.check_alive().map_err(Failure::other)?;
        match &mut self.redis {
            Some(redis) => redis.bring_back().await,
            None => Ok(()),
        }
    }
}

/// Its configuration.
fn configuration(args: &Args, upstream: Option<&HostPort>, database: Option<&Postgres>) -> Config {
    let mut yaml = format!(
        "log: {{format: json}}\nadmin: {{listen: '{}'}}\n",
        args.sidecar_admin
    );
    // A port that Envoy chooses is not known yet.
    if args.admin.port() != 0 {
        let _ = writeln!(yaml, "envoy: {{admin: 'http://{}'}}", args.admin);
    }
    if let Some(upstream) = upstream {
        let _ = writeln!(
            yaml,
            "redis:\n  - name: demo\n    listen: '{}'\n    upstream: 'redis://{upstream}'",
            args.redis_listen
        );
    }
    let config = Config::new(yaml);
    match database {
        Some(database) => config.database(
            &database.url_of("levee"),
            "jobs:\n  auth_cleanup: {preset: expired_tokens}\n  video_cleanup: {preset: stale_calls}\n\
             watchdog: {roles: [app]}",
        ),
        None => config,
    }
}
