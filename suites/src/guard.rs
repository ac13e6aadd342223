//! Ends Levee with its server, from beside it. Levee can't be the server's child: Redis' suite takes any child for the one
//! that saves, and kills it.

use std::env;
use std::fs::File;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The first argument of this program as a guard. Then follow the process to watch, and the program to start.
const GUARD: &str = "guard";

/// Starts `program` with its output in `log`. It ends with this process, and is no child of it.
pub fn start(program: &Command, log: File) -> Result<()> {
    // The shell ends at once, and what it has started belongs to nobody.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "\"$@\" &", "sh"])
        .arg(env::current_exe()?)
        .args([GUARD, &std::process::id().to_string()])
        .arg(program.get_program())
        .args(program.get_args())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let status = shell.status().context("start a guard by sh")?;
    ensure!(status.success(), "the guard does not start: {status}");
    Ok(())
}

/// Whether this program was started as a guard.
pub fn is_wanted() -> bool {
    env::args().nth(1).is_some_and(|word| word == GUARD)
}

/// Runs the program that the arguments name, as long as the process that they name is there.
pub fn run() -> Result<ExitCode> {
    let mut words = env::args_os().skip(2);
    let watched = words.next().context("no process is named")?;
    let watched = watched.to_string_lossy().parse()?;
    let mut program = Command::new(words.next().context("no program is named")?);
    guard(watched, program.args(words))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `program` until it ends or `watched` has ended.
fn guard(watched: u32, program: &mut Command) -> Result<()> {
    let mut child = program.spawn().context("start the program")?;
    let pid = |id: u32| {
        let pid = id.try_into().ok().and_then(Pid::from_raw);
        pid.with_context(|| format!("{id} is no process"))
    };
    // Both at once, without pauses: a test may look right after it has ended a server.
    match pidfd_open(pid(watched)?, PidfdFlags::empty()) {
        Ok(watched) => {
            let program = pidfd_open(pid(child.id())?, PidfdFlags::empty())?;
            let fds = [&watched, &program];
            poll(&mut fds.map(|fd| PollFd::new(fd, PollFlags::IN)), None)?;
        }
        // It has ended.
        Err(Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use levee_harness::process::is_running;

    use super::*;

    fn sleep(seconds: &str) -> Command {
        let mut command = Command::new("sleep");
        command.arg(seconds);
        command
    }

    /// The suite may not have waited for its server yet: then that is a zombie.
    #[test]
    fn a_program_ends_with_the_server_even_if_nobody_waited_for_that() -> Result<()> {
        let mut server = sleep("0.2").spawn()?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("pid");
        let mut program = Command::new("sh");
        program
            .args(["-c", "echo $$ >\"$0\"; exec sleep 600"])
            .arg(&file);
        guard(server.id(), &mut program)?;
        let id = std::fs::read_to_string(file)?.trim().parse()?;
        assert!(!is_running(id));
        server.wait()?;
        Ok(())
    }

    #[test]
    fn a_guard_ends_with_its_program() -> Result<()> {
        let mut server = sleep("600").spawn()?;
        guard(server.id(), &mut sleep("0.1"))?;
        assert!(is_running(server.id()));
        server.kill()?;
        server.wait()?;
        Ok(())
    }
}
