//! Other projects' test-suites, directly and through Levee. `suites/` runs and compares them; this fetches and builds
//! what they need.

mod sources;

use crate::bench::build_sidecar;
use crate::failure::Failure;
use crate::machine::cargo;
use crate::project::Project;
use crate::run::succeed;
use crate::tools;
use clap::{Args, ValueEnum};
use std::ffi::OsString;

/// The options of `cargo xtask suites`.
#[derive(Args)]
pub struct Options {
    /// Run only these
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Run only these units, such as `unit/dump` or `tests/test_lock.py`; for one suite
    #[arg(long = "unit", value_name = "UNIT")]
    units: Vec<String>,
}

/// A suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Redis' own, at a fresh server for each unit
    Redis,
    /// Redis' own, with servers that it starts itself and a Levee before each
    RedisServers,
    /// redis-py's
    RedisPy,
    /// go-redis'
    GoRedis,
}

impl Suite {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// What `levee-suites` wants to know besides the name.
    fn sources(self, project: &Project) -> Result<Vec<OsString>, Failure> {
        Ok(match self {
            Self::Redis | Self::RedisServers => vec![sources::redis(project)?.into()],
            Self::RedisPy => vec![
                sources::redis_py(project)?.into(),
                sources::pytest(project)?.into(),
            ],
            Self::GoRedis => vec![sources::go_redis(project)?.into()],
        })
    }
}

/// Runs the suites, all of them even if one has differences that are not in the list.
pub fn suites(project: &Project, options: &Options) -> Result<(), Failure> {
    let suites = match &options.suites[..] {
        [] => Suite::value_variants(),
        chosen => chosen,
    };
    if suites.len() != 1 && !options.units.is_empty() {
        return Err(Failure::Check(
            "--unit is for one suite: name it before".to_owned(),
        ));
    }
    let server = tools::redis_server(project)?;
    let sources: Vec<(Suite, Vec<OsString>)> = suites
        .iter()
        .map(|suite| Ok((*suite, suite.sources(project)?)))
        .collect::<Result<_, Failure>>()?;
    let levee = build_sidecar(project)?;
    let logs = project.target()?.join("suites");
    let mut failed = Vec::new();
    for (suite, sources) in sources {
        let mut run = cargo();
        run.current_dir(&project.root)
            .args(["run", "--locked", "--quiet", "--package=levee-suites", "--"])
            .arg(&logs)
            .arg(suite.name())
            .args(sources)
            .args(&options.units)
            .env("REDIS_SERVER_PATH", &server)
            .env("LEVEE_BIN", &levee);
        if succeed(&mut run, "").is_err() {
            failed.push(suite.name());
        }
    }
    println!("\nlogs: {}", logs.display());
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Check(format!(
        "not as listed in docs/reference/redis-suites.md: {}",
        failed.join(", ")
    )))
}
