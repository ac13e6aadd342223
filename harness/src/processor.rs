//! CPU affinity, CPU time and memory of processes. Linux only.
#![allow(
    unsafe_code,
    reason = "the standard library has no system calls for affinity and for a process's clock"
)]

use std::io::{Error, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use std::{fs, mem};

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
        // SAFETY: the index is less than the size of the set.
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect()
}

/// Restricts the calling thread, and all that it starts, to these CPUs.
pub fn pin(cpus: &[usize]) -> Result<()> {
    // SAFETY: a set of CPUs is plain data, and its own size is passed. `CPU_SET` ignores what is out of its range.
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

/// Restricts the process that `command` starts to these CPUs.
pub fn pin_command(command: &mut Command, cpus: &[usize]) {
    let cpus = cpus.to_vec();
    // SAFETY: between fork and exec this makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(move || pin(&cpus));
    }
}

/// CPU time of a process in user and kernel mode, by its own clock (`clock_getcpuclockid(3)`): in nanoseconds, including
/// threads that have ended. An error if there is no such process.
pub fn cpu_time(id: u32) -> Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut clock = 0;
    // SAFETY: both pointers are valid for the calls.
    let failure = unsafe {
        match libc::clock_getcpuclockid(id.cast_signed(), &raw mut clock) {
            0 if libc::clock_gettime(clock, &raw mut time) == 0 => return duration(time),
            0 => Error::last_os_error(),
            // It returns the error instead of setting `errno`.
            number => Error::from_raw_os_error(number),
        }
    };
    Err(failure)
}

fn duration(time: libc::timespec) -> Result<Duration> {
    let nanos = u32::try_from(time.tv_nsec).map_err(Error::other)?;
    Ok(Duration::new(time.tv_sec.cast_unsigned(), nanos))
}

/// Resident memory of a process (`VmRSS` of `proc_pid_status(5)`), in KiB. An error if it has ended.
pub fn resident_kib(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Error::other(format!("no VmRSS of process {id}: has it ended?")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_runs_on_the_cpus_that_it_was_given() {
        let last = *allowed_cpus().last().unwrap();
        let mut command = Command::new("cat");
        pin_command(command.arg("/proc/self/status"), &[last]);
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(
            said.contains(&format!("Cpus_allowed_list:\t{last}\n")),
            "{said}"
        );
    }

    #[test]
    fn time_and_memory_are_those_of_the_process() {
        let own = std::process::id();
        assert!(cpu_time(own).unwrap() > Duration::ZERO);
        assert!(resident_kib(own).unwrap() > 0);
        // Linux gives out ids below 2^22 (`proc_sys_kernel(5)`).
        assert!(cpu_time(1 << 22).is_err());
        assert!(resident_kib(1 << 22).is_err());
    }
}
