//! Connections to Redis that are ready. A client gets one with its first command, so that its SUBSCRIBE is at Redis before
//! what others send after it, and no command waits for a connection.

use super::orders::Orders;
use super::proven::{RESET, Unproven, renew};
use super::upstream::{Dial, Stream, Upstream};
use crate::clock::Clock;
use levee_policy::backoff::Backoff;
use levee_policy::time::Instant;
use levee_redis_session::gate::Gate;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How often a spare is asked whether it answers.
const EVERY: Duration = Duration::from_secs(1);

/// How long the answer may take.
const WITHIN: Duration = Duration::from_millis(500);

/// How long an answer counts: a question that is due, and the attempt to make another connection before it.
const FRESH: Duration = Duration::from_secs(3);

/// Where Redis knows no RESET, it is tried again after so long: it may be another one by then.
const WITHOUT_RESET: Duration = Duration::from_mins(1);

/// The spare connections of one upstream. There are some only while clients are connected and Redis can be reached.
#[derive(Debug)]
pub struct Spares {
    upstream: Arc<Upstream>,
    gate: Arc<Gate>,
    clock: Clock,
    /// The one that answered last is the last.
    ready: Mutex<VecDeque<Spare>>,
    /// There may be something to do.
    changed: Notify,
}

/// A connection on which Redis has answered.
#[derive(Debug)]
pub struct Spare {
    pub stream: Stream,
    pub answered: Instant,
}

/// What there should be now.
struct Wanted {
    spares: usize,
    dial: Dial,
    backoff: Backoff,
}

impl Spares {
    pub fn new(upstream: Arc<Upstream>, gate: Arc<Gate>, clock: Clock) -> Self {
        Self {
            upstream,
            gate,
            clock,
            ready: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// A connection on which Redis has answered lately and that is not closed, if there is one. Another takes its place.
    ///
    /// RESET is on its way, since Redis leaves connections logged in when it begins to want a password: the first answer is
    /// [`WAS_RESET`](super::proven::WAS_RESET).
    pub fn take(&self) -> Option<Spare> {
        loop {
            let mut spare = self.lock().pop_back()?;
            self.wake();
            let is_fresh = self.clock.now().since(spare.answered) < FRESH;
            if is_fresh && spare.stream.is_quiet() && spare.stream.try_write_all(RESET) {
                return Some(spare);
            }
        }
    }

    /// A client came or left.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Keeps as many ready as `orders` say, until they say to stop. There is never more than one attempt to connect.
    pub async fn keep(&self, mut orders: watch::Receiver<Orders>) {
        let mut failures = 0;
        let mut next = self.clock.now();
        loop {
            let is_stopping = orders.borrow_and_update().stop;
            if is_stopping {
                self.lock().clear();
                return;
            }
            let wanted = self.wanted(&orders.borrow());
            self.lock().truncate(wanted.spares);
            self.ask_again().await;
            let now = self.clock.now();
            let is_short = self.lock().len() < wanted.spares;
            if is_short && next <= now {
                match self.make(wanted.dial).await {
                    Ok(spare) => {
                        self.lock().push_back(spare);
                        failures = 0;
                    }
                    Err(Unproven::NoReset) => next = self.clock.now().after(WITHOUT_RESET),
                    Err(_) => {
                        let wait = wanted.backoff.wait(failures, self.gate.random());
                        next = self.clock.now().after(wait);
                        failures += 1;
                    }
                }
                continue;
            }
            let wait = if is_short {
                next.since(now).min(EVERY)
            } else {
                EVERY
            };
            let is_idle = self.gate.counts.connections.get() == 0;
            tokio::select! {
                () = self.changed.notified() => {}
                changed = orders.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(wait), if !is_idle => {}
            }
        }
    }

    fn wanted(&self, orders: &Orders) -> Wanted {
        let is_of_use = self.gate.counts.connections.get() > 0 && self.gate.is_reachable();
        Wanted {
            spares: if is_of_use { orders.spares } else { 0 },
            dial: orders.dial(),
            backoff: orders.settings.backoff,
        }
    }

    /// Asks those that have not been asked for a while, and drops those that don't answer.
    async fn ask_again(&self) {
        loop {
            let now = self.clock.now();
            let due = {
                let mut ready = self.lock();
                let is_due = |spare: &Spare| now.since(spare.answered) >= EVERY;
                if ready.front().is_some_and(is_due) {
                    ready.pop_front()
                } else {
                    None
                }
            };
            let Some(mut spare) = due else {
                return;
            };
            if within(renew(&mut spare.stream)).await.is_ok() {
                spare.answered = self.clock.now();
                self.lock().push_back(spare);
            }
        }
    }

    async fn make(&self, dial: Dial) -> Result<Spare, Unproven> {
        let connecting = tokio::time::timeout(dial.within, self.upstream.connect(dial)).await;
        let mut stream = connecting.map_err(io::Error::from)??;
        within(renew(&mut stream)).await?;
        let answered = self.clock.now();
        Ok(Spare { stream, answered })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Spare>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether Redis answers in time.
async fn within(proof: impl Future<Output = Result<(), Unproven>>) -> Result<(), Unproven> {
    tokio::time::timeout(WITHIN, proof)
        .await
        .map_err(io::Error::from)?
}
