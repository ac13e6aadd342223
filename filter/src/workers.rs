//! The list of workers, and notifying them that a breaker has changed.
//!
//! Each of Envoy's workers runs its own virtual machine. Each one that serves requests has a queue
//! and renews its entry in a shared list. A message in a queue wakes its worker at once, even an
//! idle one.
//!
//! When a virtual machine ends (it is reloaded, or its configuration is replaced), its entry goes
//! stale and its queue gets no more messages. A worker that was stalled for that long finds its
//! entry missing and syncs everything.

use crate::host::{Host, Swap, Version};
use crate::shared::BreakerId;
use levee_policy::time::Instant;
use std::time::Duration;

const WORKERS: &str = "levee/1/workers";

/// How often an entry is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// An entry that was not renewed for this long is removed.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// More than any machine has workers: bounds the space that stale entries take.
const MAX_WORKERS: usize = 1024;
/// Each failed compare-and-swap means that another worker's has succeeded.
const TRIES: usize = 1000;

/// This worker's place among the others.
#[derive(Debug)]
pub struct Worker {
    queue: u32,
    renewed: Instant,
}

/// What [`Worker::renew`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The other workers know of this one.
    Current,
    /// The other workers had removed this one, so it may have missed messages.
    MissedNews,
}

/// An entry of the list: a queue, and when its worker was last alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    queue: u32,
    alive: Instant,
}

/// Creates the list of workers if it does not exist. Must be called before there are workers.
pub fn create_list<H: Host>(host: &H) {
    if host.shared(WORKERS).is_none() {
        host.set_shared(WORKERS, &[], Version::ANY);
    }
}

impl Worker {
    /// Joins the list. Returns `None` if Envoy gives no queue; then this worker only learns what
    /// the others do when it syncs for a reason of its own.
    pub fn join<H: Host>(host: &H, now: Instant) -> Option<Self> {
        let queue = host.register_queue(&format!("levee/{:016x}", host.random()))?;
        renew(host, queue, now);
        Some(Self {
            queue,
            renewed: now,
        })
    }

    /// Keeps this worker's entry alive.
    pub fn renew<H: Host>(&mut self, host: &H, now: Instant) -> Renewal {
        if now.since(self.renewed) < RENEW_EVERY {
            return Renewal::Current;
        }
        self.renewed = now;
        renew(host, self.queue, now)
    }

    /// Tells all other workers that `breaker` has changed, and wakes them.
    pub fn tell_others<H: Host>(&self, host: &H, breaker: BreakerId, now: Instant) {
        let list = host.shared(WORKERS).unwrap_or_default().value;
        for entry in entries(&list) {
            if entry.queue != self.queue && now.since(entry.alive) < STALE_AFTER {
                host.enqueue(entry.queue, &breaker.to_bytes());
            }
        }
    }

    /// The next breaker that another worker has changed.
    pub fn next_news<H: Host>(&self, host: &H) -> Option<BreakerId> {
        loop {
            let message = host.dequeue(self.queue)?;
            if let Some(id) = BreakerId::from_bytes(&message) {
                return Some(id);
            }
        }
    }
}

/// Writes the entry of `queue`, and removes stale ones.
fn renew<H: Host>(host: &H, queue: u32, now: Instant) -> Renewal {
    for _ in 0..TRIES {
        let list = host.shared(WORKERS).unwrap_or_default();
        let is_alive = |entry: &Entry| now.since(entry.alive) < STALE_AFTER;
        let is_listed = entries(&list.value).any(|entry| entry.queue == queue && is_alive(&entry));
        let others = entries(&list.value).filter(|entry| entry.queue != queue && is_alive(entry));
        let mut renewed = Vec::with_capacity(list.value.len() + 12);
        for entry in others
            .take(MAX_WORKERS - 1)
            .chain([Entry { queue, alive: now }])
        {
            renewed.extend_from_slice(&entry.queue.to_le_bytes());
            renewed.extend_from_slice(&entry.alive.as_nanos().to_le_bytes());
        }
        if host.set_shared(WORKERS, &renewed, list.version) == Swap::Written {
            return if is_listed {
                Renewal::Current
            } else {
                Renewal::MissedNews
            };
        }
    }
    Renewal::MissedNews
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
