//! The command line.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use levee_harness::host_port::HostPort;

use crate::failure::Failure;

/// Starts Envoy with Levee's filter in front of demonstration services, or of your own, until Ctrl-C.
///
/// Each service is at the path prefix /v1/NAME. The configuration is envoy/gateway.yaml with the changes below.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask up", bin_name = "cargo xtask up", version)]
pub struct Args {
    /// Puts the gateway in front of your own service instead of the demonstration services; may be repeated.
    /// `NAME=grpc://HOST:PORT` for one that speaks HTTP/2 without TLS, as gRPC services do.
    #[arg(long = "upstream", value_name = "NAME=HOST:PORT")]
    pub upstreams: Vec<Upstream>,

    /// Where the gateway listens. Port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Where Envoy's admin interface, and so the metrics, can be read. Whoever reaches it can stop Envoy.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9901")]
    pub admin: SocketAddr,

    /// Envoy's worker threads.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub concurrency: u32,

    /// How long a breaker stays open the first time; 30s unless set.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub open_for: Option<Duration>,

    /// How many failures in a row open a breaker; 5 unless set.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub consecutive_failures: Option<u32>,

    /// How long the response headers may take; 10s unless set.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub response_header: Option<Duration>,

    /// The timeout class of a service: short, medium, default, long or `very_long`; may be repeated.
    #[arg(long = "timeout-class", value_name = "NAME=CLASS")]
    pub timeout_classes: Vec<ServiceClass>,

    /// Where the Redis proxy listens. Port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6380")]
    pub redis_listen: SocketAddr,

    /// Puts the Redis proxy in front of your own Redis instead of a temporary one.
    #[arg(long, value_name = "HOST:PORT")]
    pub redis: Option<HostPort>,

    /// Where the sidecar's admin interface listens: its metrics, and the state of Redis, jobs and the watchdog. Port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9464")]
    pub sidecar_admin: SocketAddr,

    /// Keeps Envoy's log, the access log and the sidecar's log in this folder. Otherwise they are deleted at the end.
    #[arg(long, value_name = "FOLDER")]
    pub log_dir: Option<PathBuf>,
}

impl Args {
    /// The folder of `--log-dir`, made if it is missing.
    pub fn log_folder(&self) -> Result<Option<PathBuf>, Failure> {
        let Some(folder) = &self.log_dir else {
            return Ok(None);
        };
        let failed = |error| Failure::Other(format!("--log-dir {}: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(failed)?;
        folder.canonicalize().map(Some).map_err(failed)
    }
}

/// A service and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name: that of the cluster, and the last part of its path prefix.
    pub name: String,
    /// Where it is.
    pub at: HostPort,
    /// Whether it speaks HTTP/2.
    pub grpc: bool,
}

/// A service and its timeout class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceClass {
    /// The service.
    pub service: String,
    /// The class.
    pub class: Class,
}

/// The names of the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "their lengths are configured; the help names the defaults"
)]
pub enum Class {
    Short,
    Medium,
    Default,
    Long,
    VeryLong,
}

impl Class {
    /// Its name in the filter's configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Medium => "medium",
            Self::Default => "default",
            Self::Long => "long",
            Self::VeryLong => "very_long",
        }
    }
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, at) = text
            .split_once('=')
            .ok_or("wanted NAME=HOST:PORT, such as auth=127.0.0.1:9001")?;
        let name = service_name(name)?;
        let (at, grpc) = match at.strip_prefix("grpc://") {
            Some(at) => (at, true),
            None => (at, false),
        };
        Ok(Self {
            name,
            at: at.parse()?,
            grpc,
        })
    }
}

impl FromStr for ServiceClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, class) = text
            .split_once('=')
            .ok_or("wanted NAME=CLASS, such as auth=short")?;
        let class = Class::from_str(class, false).map_err(|_| {
            format!("no class `{class}`; there are short, medium, default, long and very_long")
        })?;
        Ok(Self {
            service: service_name(service)?,
            class,
        })
    }
}

fn service_name(name: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if fits {
        Ok(name.to_string())
    } else {
        Err(format!(
            "`{name}` is not a service's name: use 1 to 63 of a-z, 0-9 and -"
        ))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than 0".into()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("wanted a number with a unit, such as 500ms, 5s or 1m".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Args, Upstream};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn upstreams_are_read_and_bad_ones_are_refused() {
        let upstream: Upstream = "chat=grpc://chat.internal:9002".parse().unwrap();
        assert_eq!(
            (upstream.name.as_str(), upstream.at.port, upstream.grpc),
            ("chat", 9002, true)
        );
        for bad in [
            "auth",
            "auth=",
            "=127.0.0.1:1",
            "Auth=127.0.0.1:1",
            "a.b=127.0.0.1:1",
            "auth=127.0.0.1",
            "auth=http://127.0.0.1:1",
        ] {
            assert!(
                Args::try_parse_from(["up", "--upstream", bad]).is_err(),
                "{bad}"
            );
        }
    }
}
