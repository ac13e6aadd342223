//! What all connections to one upstream decide together: its breaker, its retry budget, and who tries
//! whether it can be reached again.

use super::metrics::RedisMetrics;
use levee_policy::backoff::Backoff;
use levee_policy::breaker::{
    self, Breaker, BreakerSettings, Mode, Outcome, Permit, Phase, Verdict,
};
use levee_policy::budget::{Budget, BudgetSettings, Spent, Withdrawal};
use levee_policy::random::SplitMix64;
use levee_policy::time::Instant;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a command's time at the upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The upstream's reply.
    Reply,
    /// The upstream's error reply.
    Error,
    /// The upstream's reply that it can't serve at the moment.
    Unavailable,
    /// None: Levee answered in its place.
    Failure,
    /// Nobody waits for it any more.
    Abandoned,
}

impl Answer {
    const fn outcome(self) -> Outcome {
        match self {
            Self::Reply | Self::Error => Outcome::SUCCESS,
            Self::Unavailable | Self::Failure => Outcome::FAILURE,
            Self::Abandoned => Outcome::Neutral,
        }
    }
}

/// The last thing that went wrong.
#[derive(Clone, Debug)]
pub struct LastError {
    /// In words.
    pub message: String,
    /// When.
    pub at: Instant,
}

/// What can be seen of an upstream.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where the breaker is.
    pub phase: Phase,
    /// How long it has been there.
    pub in_phase: Duration,
    /// How the breaker is used.
    pub mode: Mode,
    /// How many retries could be paid for.
    pub budget_left: u32,
    /// Commands that wait for the upstream.
    pub attempts_in_flight: i64,
    /// What went wrong last.
    pub last_error: Option<LastError>,
}

/// What another process needs to go on where this one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The breaker, as [`Breaker::to_bytes`] has it.
    pub breaker: Vec<u8>,
    /// Commands of the budget's window.
    pub commands: u32,
    /// Retries of the budget's window.
    pub retries: u32,
}

/// The upstream can't be reached. One client's attempt tells all whether that is still so.
#[derive(Clone, Copy, Debug)]
struct Outage {
    /// Attempts that were made for all.
    attempts: u32,
    /// When the next may be made.
    next: Instant,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    budget: Budget,
    outage: Option<Outage>,
    random: SplitMix64,
    last_error: Option<LastError>,
}

/// Breaker and budget of one upstream.
#[derive(Debug)]
pub struct Gate {
    name: String,
    breaker: BreakerSettings,
    budget: BudgetSettings,
    state: Mutex<State>,
    in_flight: AtomicI64,
    /// What is counted.
    pub metrics: RedisMetrics,
}

impl Gate {
    /// A closed breaker and a full budget. `seed` spreads processes that start at once.
    pub fn new(
        name: &str,
        breaker: BreakerSettings,
        budget: BudgetSettings,
        metrics: RedisMetrics,
        seed: u64,
        now: Instant,
    ) -> Self {
        let state = State {
            breaker: Breaker::new(&breaker, now),
            budget: Budget::default(),
            outage: None,
            random: SplitMix64::new(seed),
            last_error: None,
        };
        let gate = Self {
            name: name.to_owned(),
            breaker,
            budget,
            state: Mutex::new(state),
            in_flight: AtomicI64::new(0),
            metrics,
        };
        gate.metrics.state.set(gate.phase_now() as i64);
        gate.metrics.mode.set(gate.breaker.mode as i64);
        gate
    }

    /// May a command go out?
    pub fn admit(&self, now: Instant) -> Verdict {
        let (verdict, transition) = self.lock().breaker.admit(&self.breaker, now);
        self.tell(transition);
        if matches!(verdict, Verdict::Refuse { .. }) {
            self.metrics.rejected.inc();
        }
        verdict
    }

    /// `commands` were taken on: their share goes into the budget.
    pub fn taken(&self, commands: u32, now: Instant) {
        self.in_flight
            .fetch_add(i64::from(commands), Ordering::Relaxed);
        self.lock().budget.deposit(commands, now);
    }

    /// A probe that is under way is not to decide: another may take its place.
    pub fn give_back(&self, permit: Permit, now: Instant) {
        let random = self.random();
        let transition =
            self.lock()
                .breaker
                .record(&self.breaker, permit, Outcome::Neutral, now, random);
        self.tell(transition);
    }

    /// `commands` that were admitted with the same permit ended in the same way, at once. What fails
    /// together has one cause, so it is one failure for the breaker: a lost connection with five
    /// commands in flight says no more than one with a single one.
    pub fn record(&self, permit: Permit, answer: Answer, commands: u32, now: Instant) {
        self.in_flight
            .fetch_sub(i64::from(commands), Ordering::Relaxed);
        let outcome = answer.outcome();
        match outcome {
            Outcome::Success { .. } => self.metrics.success.inc_by(u64::from(commands)),
            Outcome::Failure { .. } => {
                self.metrics.failure.inc_by(u64::from(commands));
                self.metrics.failures.inc_by(u64::from(commands));
            }
            Outcome::Neutral => self.metrics.neutral.inc_by(u64::from(commands)),
        }
        let mut transition = None;
        {
            let mut state = self.lock();
            let events = match outcome {
                Outcome::Failure { .. } => commands.min(1),
                _ => commands,
            };
            for _ in 0..events {
                let random = state.random.next_u64();
                let changed = state
                    .breaker
                    .record(&self.breaker, permit, outcome, now, random);
                transition = transition.or(changed);
            }
        }
        self.tell(transition);
    }

    /// Pays for `retries`. False: the budget is spent.
    pub fn pay(&self, retries: u32, now: Instant) -> bool {
        let paid = self.lock().budget.withdraw(&self.budget, retries, now) == Withdrawal::Paid;
        if paid {
            self.metrics.retries.inc_by(u64::from(retries));
        } else {
            self.metrics.budget_exhausted.inc();
        }
        paid
    }

    /// A connection could not be made. Says when to ask for a [`turn`](Self::turn).
    pub fn unreachable(&self, backoff: &Backoff, now: Instant) -> Instant {
        let mut state = self.lock();
        let wait = backoff.wait(0, state.random.next_u64());
        state.outage.get_or_insert(Outage {
            attempts: 0,
            next: now.after(wait),
        });
        now.after(wait)
    }

    /// A connection was made: all that wait may connect.
    pub fn reachable(&self) {
        self.lock().outage = None;
    }

    /// May a client that waits connect now? While the upstream can't be reached, one may at a time: so
    /// its attempts are as many as those of a single client, however many wait, and cost no budget.
    ///
    /// # Errors
    /// Not yet: when to ask again.
    pub fn turn(&self, backoff: &Backoff, now: Instant) -> Result<(), Instant> {
        let mut state = self.lock();
        let Some(mut outage) = state.outage else {
            return Ok(());
        };
        if now < outage.next {
            // Asking costs nothing; so all are back soon after the one that gets through.
            return Err(now.after(backoff.wait(0, state.random.next_u64())));
        }
        outage.attempts = outage.attempts.saturating_add(1);
        outage.next = now.after(backoff.wait(outage.attempts, state.random.next_u64()));
        state.outage = Some(outage);
        self.metrics.retries.inc();
        Ok(())
    }

    /// 64 evenly distributed bits.
    pub fn random(&self) -> u64 {
        self.lock().random.next_u64()
    }

    /// Something went wrong.
    pub fn note(&self, message: &str, now: Instant) {
        let mut state = self.lock();
        // One line for each second, not for each command of an outage.
        let is_news = state
            .last_error
            .as_ref()
            .is_none_or(|last| now.since(last.at) >= Duration::from_secs(1));
        state.last_error = Some(LastError {
            message: message.to_owned(),
            at: now,
        });
        drop(state);
        if is_news {
            log::warn!(upstream = self.name.as_str(); "{message}");
        }
    }

    /// A health check was answered.
    pub fn healthy(&self, now: Instant) {
        let transition = self.lock().breaker.hasten(&self.breaker, now);
        self.tell(transition);
    }

    /// Where the breaker is.
    pub fn phase_now(&self) -> Phase {
        let phase = self.lock().breaker.phase();
        self.breaker.mode.fixed_phase().unwrap_or(phase)
    }

    /// What can be seen.
    pub fn status(&self, now: Instant) -> Status {
        let phase = self.phase_now();
        let mut state = self.lock();
        Status {
            phase,
            in_phase: now.since(state.breaker.since()),
            mode: self.breaker.mode,
            budget_left: state.budget.left(&self.budget, now),
            attempts_in_flight: self.in_flight.load(Ordering::Relaxed),
            last_error: state.last_error.clone(),
        }
    }

    /// What is worth remembering.
    pub fn memory(&self, now: Instant) -> Memory {
        let mut state = self.lock();
        let spent = state.budget.spent(now);
        Memory {
            breaker: state.breaker.to_bytes().to_vec(),
            commands: spent.calls,
            retries: spent.retries,
        }
    }

    /// Goes on where another process ended. A breaker of another layout is left out.
    pub fn resume(&self, memory: &Memory, now: Instant) {
        {
            let mut state = self.lock();
            if let Some(breaker) = Breaker::from_bytes(&memory.breaker) {
                state.breaker = breaker.resumed(&self.breaker, now);
            }
            let spent = Spent {
                calls: memory.commands,
                retries: memory.retries,
            };
            state.budget = Budget::resumed(spent, now);
        }
        self.metrics.state.set(self.phase_now() as i64);
    }

    fn tell(&self, transition: Option<breaker::Transition>) {
        let Some(transition) = transition else {
            return;
        };
        self.metrics.state.set(self.phase_now() as i64);
        log::warn!(
            upstream = self.name.as_str();
            "breaker: {:?} -> {:?} ({:?})", transition.from, transition.to, transition.cause
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
