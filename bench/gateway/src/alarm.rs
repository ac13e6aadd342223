//! A timer of Linux (`timerfd_create(2)`).
#![allow(unsafe_code, reason = "system calls")]

use levee_harness::clock::now;
use std::io::{Error, Result as IoResult};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Instant;
use tokio::io::unix::AsyncFd;

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
