//! Redis' own suite, in Tcl: against a server that is there, or with servers that it starts itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use levee_harness::process::output_of;
use levee_harness::tool;
use tempfile::TempDir;

use crate::bounded::{self, End};
use crate::outcome::Run;
use crate::ports::{self, Ports};
use crate::stand::{Stand, Way};
use crate::stand_in;
use crate::suite::Suite;
use crate::tcl;

/// Where the suite finds its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Servers {
    /// It gets an address.
    Given,
    /// It starts them: several, and again and again, with configurations of their own.
    Own,
}

impl Servers {
    /// How long one unit may take. Units with servers of their own start dozens of them.
    fn bound(self) -> Duration {
        match self {
            Self::Given => Duration::from_mins(5),
            Self::Own => Duration::from_mins(10),
        }
    }
}

/// After so many seconds without the end of a test the suite gives up by itself, and says what it was at.
const NO_PROGRESS_S: &str = "150";

/// Units that have Redis sleep for up to 10 s between two tests: an error there would end them.
const SLEEPERS: [&str; 1] = ["integration/replication"];

/// Redis' source, where the suite runs.
#[derive(Debug)]
pub struct Redis {
    servers: Servers,
    /// A copy: the suite writes into it.
    tree: TempDir,
}

/// Debian's name, and one that others use.
const TCLSH: [&str; 2] = ["tclsh8.6", "tclsh"];

/// How long the suite may take to name its units.
const LIST_BOUND: Duration = Duration::from_secs(30);

/// Programs that the suite looks for in `src/`, besides the server.
const PROGRAMS: [&str; 4] = [
    "redis-cli",
    "redis-benchmark",
    "redis-check-aof",
    "redis-check-rdb",
];

const SERVER: &str = "src/redis-server";

impl Redis {
    /// From the unpacked source at `source`.
    pub fn new(source: &Path, servers: Servers) -> Result<Self> {
        let tree = tempfile::Builder::new()
            .prefix("levee-suites-redis-")
            .tempdir()?;
        for name in ["tests", "utils", "redis.conf"] {
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(source.join(name)).arg(tree.path());
            output_of(&mut copy)?;
        }
        fs::create_dir(tree.path().join("src"))?;
        for name in PROGRAMS {
            let program = tool::on_the_path(name)
                .with_context(|| format!("{name} is missing (Debian: redis-tools)"))?;
            symlink(program, tree.path().join("src").join(name))?;
        }
        Ok(Self { servers, tree })
    }

    fn helper(&self) -> Result<Command> {
        let Some(tclsh) = TCLSH.into_iter().find_map(tool::on_the_path) else {
            bail!("tclsh is missing (Debian: tcl)");
        };
        let mut command = Command::new(tclsh);
        command
            .arg("tests/test_helper.tcl")
            .current_dir(self.tree.path())
            // Otherwise its words are coloured.
            .env("TERM", "dumb");
        Ok(command)
    }

    /// What the suite starts as its server.
    fn put_server(&self, way: Way) -> Result<()> {
        let link = self.tree.path().join(SERVER);
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        let program = match way {
            Way::Direct => stand_in::redis_server()?,
            Way::Levee => std::env::current_exe()?,
        };
        Ok(symlink(program, link)?)
    }
}

impl Suite for Redis {
    fn name(&self) -> &'static str {
        match self.servers {
            Servers::Given => "redis",
            Servers::Own => "redis-servers",
        }
    }

    fn units(&self) -> Result<Vec<String>> {
        let mut command = self.helper()?;
        command.arg("--list-tests");
        let log = self.tree.path().join("units");
        let end = bounded::run(command, &log, LIST_BOUND)?;
        let listed = bounded::text(&log)?;
        ensure!(
            end == End::ByItself && !listed.trim().is_empty(),
            "the suite does not name its units: {listed}"
        );
        Ok(listed.split_whitespace().map(str::to_owned).collect())
    }

    fn run(&self, unit: &str, way: Way, folder: &Path) -> Result<Run> {
        let ports = Ports::take()?;
        let mut command = self.helper()?;
        // After an exception the other tests of the unit are run, too.
        command.args(["--single", unit, "--durable", "--timeout", NO_PROGRESS_S]);
        command.arg("--baseport");
        command.args([
            ports.base().to_string(),
            "--portcount".to_owned(),
            ports::SERVERS.to_string(),
        ]);
        let stand = match self.servers {
            Servers::Given => {
                let stand = Stand::start(way, folder)?;
                let address = stand.address()?;
                command
                    .args(["--host", &address.ip().to_string()])
                    .args(["--port", &address.port().to_string()]);
                Some(stand)
            }
            Servers::Own => {
                self.put_server(way)?;
                // One at a time: tests that measure time are steadier.
                command.args(["--clients", "1"]);
                stand_in::prepare(&mut command, folder, None)?;
                if SLEEPERS.contains(&unit) {
                    stand_in::set_deadline(&mut command, "30s");
                }
                None
            }
        };
        let log: PathBuf = folder.join("suite.log");
        let bound = self.servers.bound();
        let end = bounded::run(command, &log, bound)?;
        drop(stand);
        let mut run = tcl::read(&bounded::text(&log)?);
        if end == End::Killed {
            run.broke_off = Some(format!("killed after {bound:?}"));
        }
        Ok(run)
    }
}
