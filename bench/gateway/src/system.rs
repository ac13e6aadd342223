//! What the standard library lacks for processes: CPU affinity, CPU time, ending with their parent. Linux only.
#![allow(unsafe_code, reason = "system calls")]

use anyhow::{Context, Result, ensure};
use std::io::{Error, Result as IoResult};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, mem, ptr, thread};
use tokio::io::unix::AsyncFd;

#[allow(
    clippy::disallowed_methods,
    reason = "the only place that reads the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The CPUs that this program may use.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: a set of CPUs is plain data, and its own size is passed.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
        set
    };
    let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    (0..most)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect()
}

/// Restricts the calling thread, and all that it starts, to these CPUs.
pub fn pin(cpus: &[usize]) -> IoResult<()> {
    // SAFETY: as above.
    let result = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        for cpu in cpus {
            libc::CPU_SET(*cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}

/// A child process. It ends when this is dropped, and by the kernel if this program dies.
///
/// The kernel watches the thread that forks (`prctl(2)`, `PR_SET_PDEATHSIG`), so only the main thread may start one.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` on these CPUs.
    pub fn start(mut command: Command, cpus: &[usize]) -> Result<Self> {
        let parent = std::process::id();
        let own_cpus = cpus.to_vec();
        command.stdin(Stdio::null());
        // SAFETY: between fork and exec this only makes system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                    return Err(Error::last_os_error());
                }
                // The parent may have died before the call above.
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(Error::from_raw_os_error(libc::ESRCH));
                }
                pin(&own_cpus)
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("{} can't be started", command.get_program().display()))?;
        Ok(Self { child })
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().ok().flatten().is_some()
    }

    /// The CPU time of the process and its children, in user and kernel mode.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.family().into_iter().map(cpu_time).sum()
    }

    /// Its resident memory (`VmRSS`), in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.family().into_iter().map(resident_kib).sum()
    }

    fn family(&self) -> Vec<u32> {
        let own = self.child.id();
        let children = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|id| parent_of(*id) == Some(own));
        std::iter::once(own).chain(children).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After a wait the id may belong to another process.
        if self.has_ended() {
            return;
        }
        if let Ok(id) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: no pointers. The child was not waited for, as just checked, so the id is still its own.
            unsafe { libc::kill(id, libc::SIGTERM) };
        }
        for _ in 0..300 {
            if self.has_ended() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time by the process's clock (`clock_getcpuclockid(3)`): in nanoseconds, including threads that have ended.
fn cpu_time(id: u32) -> Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut clock = 0;
    // SAFETY: both pointers are valid for the calls.
    let is_read = unsafe {
        libc::clock_getcpuclockid(id.cast_signed(), &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    ensure!(
        is_read,
        "the CPU time of process {id} cannot be read: has it ended?"
    );
    Ok(Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec)?,
    ))
}

fn resident_kib(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn parent_of(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Waits much more precisely than tokio's own timers, which have a resolution of a millisecond.
#[derive(Debug)]
pub struct Alarm {
    file: AsyncFd<OwnedFd>,
}

impl Alarm {
    /// For the runtime of the calling thread.
    pub fn new() -> IoResult<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: no pointers. The file was just opened and has no other owner.
        let file = unsafe {
            let file: RawFd = libc::timerfd_create(libc::CLOCK_MONOTONIC, flags);
            if file < 0 {
                return Err(Error::last_os_error());
            }
            OwnedFd::from_raw_fd(file)
        };
        // SAFETY: the runtime owns the descriptor from here until it is dropped, and nothing else can close it.
        let file = unsafe { AsyncFd::register(file) }.map_err(Error::other)?;
        Ok(Self { file })
    }

    /// Waits until a moment.
    pub async fn wait_until(&self, moment: Instant) -> IoResult<()> {
        loop {
            let left = moment.saturating_duration_since(now());
            if left.is_zero() {
                return Ok(());
            }
            let time = libc::itimerspec {
                it_interval: libc::timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value: libc::timespec {
                    tv_sec: left.as_secs().cast_signed(),
                    tv_nsec: left.subsec_nanos().into(),
                },
            };
            // SAFETY: the pointer is valid for the call. The old value is not requested.
            let result = unsafe {
                libc::timerfd_settime(self.file.as_raw_fd(), 0, &raw const time, ptr::null_mut())
            };
            if result != 0 {
                return Err(Error::last_os_error());
            }
            // Setting the timer also clears its last expiry, so nothing needs to be read.
            self.file.readable().await?.clear_ready();
        }
    }
}
