//! Runs a program of a suite: bounded, with its output in a file, and nothing left behind.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use levee_harness::process::{Process, Signal};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    ByItself,
    /// It took too long and was killed, with all that it had started.
    Killed,
}

/// Runs `command` with both outputs in `log`.
pub fn run(mut command: Command, log: &Path, bound: Duration) -> Result<End> {
    let file = File::create(log).with_context(|| format!("make {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let mut process = Process::spawn(command, Signal::Kill)?;
    let end = match process.wait(bound) {
        Some(_) => End::ByItself,
        None => End::Killed,
    };
    process.kill_group();
    Ok(end)
}

/// The text of a log. What is not UTF-8 in it is replaced.
pub fn text(log: &Path) -> Result<String> {
    let bytes = fs::read(log).with_context(|| format!("read {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How `script` ended, and the process that it has started and printed.
    fn ended(script: &str, bound: Duration) -> Result<(End, u32)> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let end = run(command, &log, bound)?;
        Ok((end, text(&log)?.trim().parse()?))
    }

    #[test]
    fn what_hangs_is_killed_with_what_it_has_started() -> Result<()> {
        let (end, child) = ended("sleep 600 & echo $!; wait", Duration::from_millis(300))?;
        assert_eq!(end, End::Killed);
        assert!(!levee_harness::process::is_running(child));
        Ok(())
    }

    #[test]
    fn what_a_program_has_left_behind_is_killed() -> Result<()> {
        let (end, child) = ended("sleep 600 & echo $!", Duration::from_mins(1))?;
        assert_eq!(end, End::ByItself);
        assert!(!levee_harness::process::is_running(child));
        Ok(())
    }
}
