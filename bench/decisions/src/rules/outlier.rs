//! Envoy's outlier detection: hosts are ejected, not services.

use levee_policy::time::Instant;
use std::time::Duration;

const ROW: u32 = 5;
const BASE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_mins(5);
/// How often Envoy looks for hosts whose time has passed.
const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Host {
    failures_in_row: u32,
    ejected: Option<Instant>,
    returned: Option<Instant>,
    /// The next ejection lasts this many times longer, plus one.
    backoff: u32,
}

/// Ejects a host after five failures in a row, for 30 s times the number of its recent ejections. It gets its full share
/// again without probes.
#[derive(Clone)]
pub struct Outlier {
    hosts: Vec<Host>,
    /// How many hosts may be ejected at once.
    most: usize,
    /// With a smaller share of hosts left, ejections are ignored.
    panic_percent: usize,
    next_sweep: Instant,
    pub ejections: u64,
}

impl Outlier {
    pub fn new(hosts: usize, most: usize, panic_percent: usize, now: Instant) -> Self {
        let host = Host {
            failures_in_row: 0,
            ejected: None,
            returned: None,
            backoff: 0,
        };
        Self {
            hosts: vec![host; hosts],
            most,
            panic_percent,
            next_sweep: now.after(INTERVAL),
            ejections: 0,
        }
    }

    pub fn ejected(&self) -> usize {
        self.hosts
            .iter()
            .filter(|host| host.ejected.is_some())
            .count()
    }

    /// Whether it gets requests.
    pub fn serves(&self, host: usize) -> bool {
        let healthy = self.hosts.len() - self.ejected();
        let panics = healthy * 100 < self.panic_percent * self.hosts.len();
        panics || self.hosts[host].ejected.is_none()
    }

    /// Returns hosts to service.
    pub fn sweep(&mut self, now: Instant) {
        while self.next_sweep <= now {
            let at = self.next_sweep;
            for host in &mut self.hosts {
                host.sweep(at);
            }
            self.next_sweep = at.after(INTERVAL);
        }
    }

    pub fn record(&mut self, place: usize, failed: bool, now: Instant) {
        self.sweep(now);
        let may_eject = self.ejected() < self.most;
        let host = &mut self.hosts[place];
        if !failed {
            host.failures_in_row = 0;
            return;
        }
        host.failures_in_row += 1;
        if host.failures_in_row < ROW || host.ejected.is_some() {
            return;
        }
        host.failures_in_row = 0;
        if may_eject {
            host.ejected = Some(now);
            host.backoff = (host.backoff + 1).min(11);
            self.ejections += 1;
        }
    }
}

impl Host {
    fn sweep(&mut self, now: Instant) {
        if let Some(since) = self.ejected {
            if now.since(since) >= (BASE * self.backoff).min(LONGEST) {
                self.ejected = None;
                self.failures_in_row = 0;
                self.returned = Some(now);
            }
        } else if self.returned.is_some_and(|at| now.since(at) > INTERVAL) {
            self.backoff = self.backoff.saturating_sub(1);
        }
    }
}
