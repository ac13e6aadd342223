//! What suites start instead of `redis-server`: the real server at another port, and a Levee at the one that the suite
//! wants.
//!
//! The suites know their servers by process id, and stop, resume and kill them. So the stand-in starts Levee beside itself
//! and then becomes the real server. [`crate::guard`] ends Levee with it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result, bail};
use levee_harness::address::free_address;
use levee_harness::{built, redis};

use crate::guard;

/// The real server.
const REAL: &str = "LEVEE_SUITES_REDIS";
/// The folder of Levee's configurations and logs.
const FOLDER: &str = "LEVEE_SUITES_FOLDER";
/// The only port that gets a Levee; unset: each.
const PORT: &str = "LEVEE_SUITES_PORT";

/// Levee's deadline, in place of the default.
const DEADLINE: &str = "LEVEE_SUITES_DEADLINE";

/// The file name by which this program is started as a stand-in.
const NAME: &str = "redis-server";

/// The real server.
pub fn redis_server() -> Result<PathBuf> {
    redis::find_program().context("no redis-server: start this by `cargo xtask suites`")
}

/// Gives `command`, a suite, what the stand-in needs to know.
pub fn prepare(command: &mut Command, folder: &Path, only: Option<u16>) -> Result<()> {
    command
        .env(REAL, redis_server()?)
        .env("LEVEE_BIN", built::levee()?)
        .env(FOLDER, folder);
    if let Some(port) = only {
        command.env(PORT, port.to_string());
    }
    Ok(())
}

/// Gives the Levees of `command` another deadline, such as `30s`.
pub fn set_deadline(command: &mut Command, deadline: &str) {
    command.env(DEADLINE, deadline);
}

/// Whether this program was started in place of a server.
pub fn is_wanted() -> bool {
    let name = env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name() == Some(OsStr::new(NAME))
}

/// Becomes the real server. Returns only if that fails.
pub fn become_server() -> Result<()> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let mut real = Command::new(env::var_os(REAL).context("the real server is not named")?);
    real.args(&arguments);
    // If the port is taken, Redis says so in its own words.
    if let Some(moved) = Moved::of(&arguments)?
        && moved.is_free()
    {
        start_levee(&moved)?;
        moved.note()?;
        real.args(["--port", &moved.to.to_string()])
            // Masters and sentinels tell this port to others.
            .args(["--replica-announce-port", &moved.from.to_string()]);
    }
    bail!("{real:?} could not be started: {}", real.exec());
}

/// A server that is moved to another port.
#[derive(Debug)]
struct Moved {
    config: PathBuf,
    from: u16,
    to: u16,
}

impl Moved {
    /// None if the server is left as it is: it does not listen, or its port is told to others in ways of their own, as
    /// in a cluster and between sentinels.
    fn of(arguments: &[OsString]) -> Result<Option<Self>> {
        let words: Vec<String> = arguments
            .iter()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        // Without a file the suites only look at what the server says of its arguments.
        let Some(config) = words.first().map(PathBuf::from) else {
            return Ok(None);
        };
        if !config.is_file() {
            return Ok(None);
        }
        let settings = Settings {
            words: &words,
            config: &fs::read_to_string(&config)?,
        };
        if words.iter().any(|word| word == "--sentinel")
            || settings.last("cluster-enabled") == Some("yes")
        {
            return Ok(None);
        }
        let port = settings.last("port").unwrap_or("6379");
        let port: u16 = port
            .trim_matches('"')
            .parse()
            .with_context(|| format!("port {port}"))?;
        let before = Note::read(&config, port);
        let from = before.map_or(port, |note| note.from);
        let is_chosen = env::var(PORT).map_or(true, |only| only == from.to_string());
        if from == 0 || !is_chosen {
            return Ok(None);
        }
        let to = match before {
            Some(note) => note.to,
            None => free_address()?.port(),
        };
        Ok(Some(Self { config, from, to }))
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.from).into()
    }

    /// Whether Levee can listen. The Levee of a server that has just ended may take a moment to end.
    fn is_free(&self) -> bool {
        until(|| TcpListener::bind(self.address()).is_ok())
    }

    /// Writes down which port the suite wants.
    fn note(&self) -> Result<()> {
        let text = format!("{} {}", self.from, self.to);
        Ok(fs::write(note_of(&self.config), text)?)
    }
}

/// Where a server was before, when it had the same configuration. It stays there when it is started again: the suite
/// compares what it says of its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    from: u16,
    to: u16,
}

impl Note {
    /// Of the server with this configuration, in which now stands `port`. CONFIG REWRITE writes where it was moved to.
    fn read(config: &Path, port: u16) -> Option<Self> {
        let text = fs::read_to_string(note_of(config)).ok()?;
        let (from, to) = text.split_once(' ')?;
        let note = Self {
            from: from.parse().ok()?,
            to: to.parse().ok()?,
        };
        [note.from, note.to].contains(&port).then_some(note)
    }
}

fn note_of(config: &Path) -> PathBuf {
    let mut name = config.as_os_str().to_owned();
    name.push(".wanted");
    name.into()
}

/// Settings of a server, as it reads them.
struct Settings<'a> {
    /// `--port 1234`
    words: &'a [String],
    /// `port 1234`
    config: &'a str,
}

impl<'a> Settings<'a> {
    /// The value that is in force: the command line's, or the last one of the file.
    fn last(&self, key: &str) -> Option<&'a str> {
        let flag = format!("--{key}");
        let place = self.words.iter().rposition(|word| *word == flag);
        if let Some(value) = place.and_then(|place| self.words.get(place + 1)) {
            return Some(value);
        }
        let values = self.config.lines().rev();
        values
            .filter_map(|line| line.trim().split_once(' '))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.trim())
    }
}

/// The configuration of a Levee at `address` before a server at port `to`.
fn config_of(address: SocketAddr, to: u16, deadline: Option<&str>) -> String {
    let deadline = deadline.map_or_else(String::new, |deadline| format!(", deadline: {deadline}"));
    format!(
        "admin: {{listen: '127.0.0.1:0'}}\n\
         redis: [{{name: redis, listen: '{address}', upstream: 'redis://127.0.0.1:{to}'{deadline}}}]\n"
    )
}

/// Starts Levee, which ends with this process, and waits until it listens.
fn start_levee(moved: &Moved) -> Result<()> {
    let folder = PathBuf::from(env::var_os(FOLDER).context("no folder is named")?);
    let name = format!("levee-{}-{}", moved.from, moved.to);
    let config = folder.join(format!("{name}.yaml"));
    let (address, to) = (moved.address(), moved.to);
    let deadline = env::var(DEADLINE).ok();
    fs::write(&config, config_of(address, to, deadline.as_deref()))?;
    // A server that is started again has the same ports.
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join(format!("{name}.log")))?;
    let mut levee = Command::new(built::levee()?);
    levee.args(["run", "--config"]).arg(&config);
    guard::start(&levee, log)?;
    if !until(|| TcpStream::connect(address).is_ok()) {
        bail!("Levee does not listen at {address}");
    }
    Ok(())
}

/// Looks for ten seconds whether this holds.
fn until(holds: impl Fn() -> bool) -> bool {
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 0..1000 {
        if holds() {
            return true;
        }
        thread::sleep(PAUSE);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_in_force_is_the_command_lines_or_the_last_of_the_file() {
        let words: Vec<String> = ["redis.conf", "--port", "1", "--dir", "x", "--port", "2"]
            .map(str::to_owned)
            .into();
        let config = "port 3\nport 4\ncluster-enabled yes\n# dir y\n";
        let both = Settings {
            words: &words,
            config,
        };
        assert_eq!(both.last("port"), Some("2"));
        assert_eq!(both.last("cluster-enabled"), Some("yes"));
        assert_eq!(both.last("dir"), Some("x"));
        let file = Settings { words: &[], config };
        assert_eq!((file.last("port"), file.last("dir")), (Some("4"), None));
    }

    #[test]
    fn a_server_that_is_started_again_stays_where_it_was() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("redis.conf");
        assert_eq!(Note::read(&config, 21111), None);
        let (from, to) = (21111, 40000);
        let moved = Moved {
            config: config.clone(),
            from,
            to,
        };
        moved.note()?;
        assert_eq!(Note::read(&config, 21111), Some(Note { from, to }));
        // CONFIG REWRITE.
        assert_eq!(Note::read(&config, 40000), Some(Note { from, to }));
        assert_eq!(Note::read(&config, 21112), None);
        Ok(())
    }

    #[test]
    fn a_levee_has_the_defaults_unless_the_unit_needs_a_longer_deadline() {
        let address = ([127, 0, 0, 1], 21111).into();
        let config = config_of(address, 40000, None);
        assert!(config.contains("upstream: 'redis://127.0.0.1:40000'}]"));
        let config = config_of(address, 40000, Some("30s"));
        assert!(config.contains("'redis://127.0.0.1:40000', deadline: 30s}]"));
    }

    #[test]
    fn a_server_without_a_configuration_is_left_as_it_is() -> Result<()> {
        for words in [
            &["--port"][..],
            &["--port", "6380", "--loglevel"],
            &["--version"],
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(Moved::of(&words)?.is_none());
        }
        Ok(())
    }
}
