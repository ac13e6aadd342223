//! Programs whose processor time is measured while they run.

use crate::failure::Failure;
use crate::machine;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A running program. Dropping it ends it.
pub struct Running {
    child: Child,
    pub port: u16,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts `command` and waits until it listens on `port`.
    pub fn start(command: &Command, port: u16) -> Result<Self, Failure> {
        let failed = |what: &str| Failure::Check(format!("{command:?} {what}"));
        // setpriv(1) makes the kernel end the program when this one dies.
        let mut started = match machine::find("setpriv") {
            Some(setpriv) => {
                let mut started = Command::new(setpriv);
                started
                    .args(["--pdeathsig", "TERM", "--"])
                    .arg(command.get_program());
                started
            }
            None => Command::new(command.get_program()),
        };
        let child = started
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(&format!("can't be started: {error}")))?;
        let mut running = Self { child, port };
        for _ in 0..500 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(running);
            }
            if running.child.try_wait().ok().flatten().is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(failed("does not listen"))
    }

    /// Its processor time in seconds (`proc_pid_stat(5)`; 100 ticks per second).
    pub fn cpu_seconds(&self) -> Result<f64, Failure> {
        let file = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&file)
            .map_err(|error| Failure::Check(format!("{file} can't be read: {error}")))?;
        let ticks =
            ticks(&stat).ok_or_else(|| Failure::Check(format!("{file} has no times: {stat}")))?;
        Ok(f64::from(ticks) / 100.0)
    }
}

/// User and kernel time. The name before them may hold blanks and brackets, so the fields start after the last bracket.
fn ticks(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u32>().ok();
    Some(next()? + next()?)
}

/// Free ports.
pub fn free_ports<const N: usize>() -> Result<[u16; N], Failure> {
    let failed = |error| Failure::Check(format!("there is no free port: {error}"));
    // All are held until all are known, so they differ.
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(held) {
        let address = listener.and_then(|listener| listener.local_addr());
        *port = address.map_err(failed)?.port();
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_after_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 99";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (a) S 1"), None);
    }
}
