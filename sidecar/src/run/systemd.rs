//! Notifies systemd of the state of the process (`sd_notify(3)`), if there is a `NOTIFY_SOCKET`.

use crate::clock;
use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Systemd {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    has_warned: Arc<AtomicBool>,
}

impl Systemd {
    pub fn from_environment() -> Self {
        let connect = || {
            let path = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
            let address = match path.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&path),
            };
            // Nothing waits for somebody to take a message.
            let socket = UnixDatagram::unbound()
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
            match (socket, address) {
                (Ok(socket), Ok(address)) => Some(Arc::new((socket, address))),
                (Err(error), _) | (_, Err(error)) => {
                    log::warn!("NOTIFY_SOCKET can't be used: {error}");
                    None
                }
            }
        };
        Self {
            socket: connect(),
            has_warned: Arc::default(),
        }
    }

    pub fn ready(&self) {
        let pid = std::process::id();
        self.send(&format!("READY=1\nMAINPID={pid}\nSTATUS=ready"));
    }

    pub fn reloading(&self) {
        let now = clock::monotonic().as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    pub fn reloaded(&self, outcome: &str) {
        self.send(&format!(
            "READY=1\nSTATUS=ready; the last reload: {outcome}"
        ));
    }

    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=waiting for work in flight");
    }

    /// Reports forever, twice in each `WATCHDOG_USEC`, that tasks of this process still run.
    pub async fn watchdog(self) {
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_for_us =
            number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let within = number("WATCHDOG_USEC").filter(|within| is_for_us && *within > 1);
        let Some(within) = within else { return };
        let mut ticks = tokio::time::interval(Duration::from_micros(within / 2));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.send("WATCHDOG=1");
        }
    }

    fn send(&self, state: &str) {
        if let Some(target) = &self.socket {
            let (socket, address) = &**target;
            if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
                // Once: the watchdog's messages would fail for ever.
                if !self.has_warned.swap(true, Ordering::Relaxed) {
                    log::warn!("systemd can't be notified at NOTIFY_SOCKET: {error}");
                }
            }
        }
    }
}
