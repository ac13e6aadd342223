//! Who the other workers are, and telling them that a breaker has news.
//!
//! Each of Envoy's workers runs its own virtual machine. Each that serves requests has a queue, and
//! keeps an entry in a shared list alive. A message in a queue wakes its worker at once, however
//! idle it is.
//!
//! A virtual machine that is gone (reloaded, or its configuration replaced) leaves its entry to
//! grow stale; its queue gets no more messages then. One that was stalled for so long finds itself
//! missing, and looks at everything anew.

use crate::host::Host;
use crate::shared::BreakerId;
use levee_policy::time::Instant;
use std::time::Duration;

const WORKERS: &str = "levee/1/workers";

/// How often an entry is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// An entry that was not renewed for this long is removed.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// More entries than any machine has workers: a bound for what stale ones can take up.
const MAX_WORKERS: usize = 1024;
const TRIES: usize = 1000;

/// This worker among the others.
#[derive(Debug)]
pub struct Worker {
    queue: u32,
    renewed: Instant,
}

/// An entry of the list: a queue, and when its worker was last alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    queue: u32,
    alive: Instant,
}

/// Makes the list of workers, if there is none. To be called before there are workers.
pub fn create_list<H: Host>(host: &H) {
    if host.shared(WORKERS).is_none() {
        host.set_shared(WORKERS, &[], 0);
    }
}

impl Worker {
    /// Joins the others. `None` where Envoy gives no queue; then this worker learns what the
    /// others do only when it looks.
    pub fn join<H: Host>(host: &H, now: Instant) -> Option<Self> {
        let queue = host.register_queue(&format!("levee/{:016x}", host.random()))?;
        renew(host, queue, now);
        Some(Self {
            queue,
            renewed: now,
        })
    }

    /// Keeps this worker's entry alive. True if the others had given it up: messages were missed.
    pub fn renew<H: Host>(&mut self, host: &H, now: Instant) -> bool {
        if now.since(self.renewed) < RENEW_EVERY {
            return false;
        }
        self.renewed = now;
        renew(host, self.queue, now)
    }

    /// Wakes all other workers with news of `breaker`.
    pub fn tell_others<H: Host>(&self, host: &H, breaker: BreakerId, now: Instant) {
        let (list, _) = host.shared(WORKERS).unwrap_or_default();
        for entry in entries(&list) {
            if entry.queue != self.queue && now.since(entry.alive) < STALE_AFTER {
                host.enqueue(entry.queue, &breaker.to_bytes());
            }
        }
    }

    /// The next breaker that another worker has news of.
    pub fn next_news<H: Host>(&self, host: &H) -> Option<BreakerId> {
        loop {
            let message = host.dequeue(self.queue)?;
            if let Some(id) = BreakerId::from_bytes(&message) {
                return Some(id);
            }
        }
    }
}

/// Writes the entry of `queue`, and removes stale ones. True if it was missing.
fn renew<H: Host>(host: &H, queue: u32, now: Instant) -> bool {
    for _ in 0..TRIES {
        let (list, version) = host.shared(WORKERS).unwrap_or_default();
        let is_alive = |entry: &Entry| now.since(entry.alive) < STALE_AFTER;
        let was_missing = !entries(&list).any(|entry| entry.queue == queue && is_alive(&entry));
        let others = entries(&list).filter(|entry| entry.queue != queue && is_alive(entry));
        let mut renewed = Vec::with_capacity(list.len() + 12);
        for entry in others
            .take(MAX_WORKERS - 1)
            .chain([Entry { queue, alive: now }])
        {
            renewed.extend_from_slice(&entry.queue.to_le_bytes());
            renewed.extend_from_slice(&entry.alive.as_nanos().to_le_bytes());
        }
        if host.set_shared(WORKERS, &renewed, version) {
            return was_missing;
        }
    }
    true
}

fn entries(mut list: &[u8]) -> impl Iterator<Item = Entry> {
    std::iter::from_fn(move || {
        let (queue, rest) = list.split_first_chunk::<4>()?;
        let (alive, rest) = rest.split_first_chunk::<8>()?;
        list = rest;
        Some(Entry {
            queue: u32::from_le_bytes(*queue),
            alive: Instant::from_nanos(u64::from_le_bytes(*alive)),
        })
    })
}
