//! What all sessions of one upstream share: its breaker, its retry budget, and who tries to connect while it can't be
//! reached.

use crate::counts::Counts;
use levee_policy::backoff::Backoff;
use levee_policy::breaker::{
    self, Breaker, BreakerSettings, Mode, Outcome, Permit, Phase, Verdict,
};
use levee_policy::budget::{Budget, BudgetSettings, Spent, Withdrawal};
use levee_policy::random::SplitMix64;
use levee_policy::time::Instant;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a command's time at the upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Reply,
    Error,
    /// An error reply that says that the upstream serves nobody at the moment.
    Unavailable,
    /// No reply: Levee answered instead.
    Failure,
    /// The client left.
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
    pub message: String,
    pub at: Instant,
}

/// An upstream as operators see it.
#[derive(Clone, Debug)]
pub struct GateStatus {
    pub phase: Phase,
    pub in_phase: Duration,
    pub mode: Mode,
    /// Retries that the budget would allow now.
    pub budget_left: u32,
    /// Commands without an answer.
    pub attempts_in_flight: i64,
    pub last_error: Option<LastError>,
}

/// What the next process needs to continue where this one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The breaker, as [`Breaker::to_bytes`] has it.
    pub breaker: Vec<u8>,
    /// Commands of the budget's window.
    pub commands: u32,
    /// Retries of the budget's window.
    pub retries: u32,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    breaker: BreakerSettings,
    budget: BudgetSettings,
}

/// The upstream can't be reached. One client at a time tries for all.
#[derive(Clone, Copy, Debug)]
struct Outage {
    attempts: u32,
    next: Instant,
}

#[derive(Debug)]
struct State {
    settings: Settings,
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
    state: Mutex<State>,
    in_flight: AtomicI64,
    pub counts: Arc<Counts>,
}

impl Gate {
    /// A closed breaker and a full budget. `seed` makes processes that start together differ.
    pub fn new(
        name: &str,
        breaker: BreakerSettings,
        budget: BudgetSettings,
        counts: Arc<Counts>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let state = State {
            settings: Settings { breaker, budget },
            breaker: Breaker::new(&breaker, now),
            budget: Budget::default(),
            outage: None,
            random: SplitMix64::new(seed),
            last_error: None,
        };
        let gate = Self {
            name: name.to_owned(),
            state: Mutex::new(state),
            in_flight: AtomicI64::new(0),
            counts,
        };
        gate.counts.state.set(gate.phase_now() as i64);
        gate.counts.mode.set(breaker.mode as i64);
        gate
    }

    /// Whether a command may go out.
    pub fn admit(&self, now: Instant) -> Verdict {
        let (verdict, transition) = {
            let state = &mut *self.lock();
            state.breaker.admit(&state.settings.breaker, now)
        };
        self.report(transition);
        if matches!(verdict, Verdict::Refuse { .. }) {
            self.counts.rejected.inc();
        }
        verdict
    }

    /// `commands` were admitted: their share goes into the budget.
    pub fn entered(&self, commands: u32, now: Instant) {
        self.in_flight
            .fetch_add(i64::from(commands), Ordering::Relaxed);
        self.lock().budget.deposit(commands, now);
    }

    /// Frees the place of a probe that is still under way and won't decide.
    pub fn give_back(&self, permit: Permit, now: Instant) {
        let transition = {
            let state = &mut *self.lock();
            let random = state.random.next_u64();
            let settings = &state.settings.breaker;
            state
                .breaker
                .record(settings, permit, Outcome::Neutral, now, random)
        };
        self.report(transition);
    }

    /// `commands` with the same permit ended the same way at the same time. Failures at the same time have one cause,
    /// so they are one failure to the breaker: a lost connection with five commands in flight says no more than one
    /// with a single command.
    pub fn record(&self, permit: Permit, answer: Answer, commands: u32, now: Instant) {
        self.in_flight
            .fetch_sub(i64::from(commands), Ordering::Relaxed);
        let outcome = answer.outcome();
        match outcome {
            Outcome::Success { .. } | Outcome::After { .. } => {
                self.counts.success.add(u64::from(commands));
            }
            Outcome::Failure { .. } => {
                self.counts.failure.add(u64::from(commands));
            }
            Outcome::Unanswered | Outcome::Unknown | Outcome::Neutral => {
                self.counts.neutral.add(u64::from(commands));
            }
        }
        let mut transition = None;
        {
            let state = &mut *self.lock();
            let events = match outcome {
                Outcome::Failure { .. } => commands.min(1),
                _ => commands,
            };
            for _ in 0..events {
                let random = state.random.next_u64();
                let changed =
                    state
                        .breaker
                        .record(&state.settings.breaker, permit, outcome, now, random);
                transition = transition.or(changed);
            }
        }
        self.report(transition);
    }

    /// Takes `retries` out of the budget, if it has them.
    pub fn pay(&self, retries: u32, now: Instant) -> Withdrawal {
        let withdrawal = {
            let state = &mut *self.lock();
            state.budget.withdraw(&state.settings.budget, retries, now)
        };
        if withdrawal == Withdrawal::Paid {
            self.counts.retries.add(u64::from(retries));
        } else {
            self.counts.budget_exhausted.inc();
        }
        withdrawal
    }

    /// A connection could not be made. Returns when to ask for a [`turn`](Self::turn).
    pub fn unreachable(&self, backoff: &Backoff, now: Instant) -> Instant {
        let mut state = self.lock();
        let wait = backoff.wait(0, state.random.next_u64());
        state.outage.get_or_insert(Outage {
            attempts: 0,
            next: now.after(wait),
        });
        now.after(wait)
    }

    /// A connection was made: all waiting clients may connect.
    pub fn reachable(&self) {
        self.lock().outage = None;
    }

    /// Whether nothing is known against connecting: the last attempt did not fail.
    pub fn is_reachable(&self) -> bool {
        self.lock().outage.is_none()
    }

    /// Whether a waiting client may connect now. While the upstream can't be reached, only one at a time may. So
    /// there are as many attempts as from a single client, however many wait, and they cost no budget.
    ///
    /// # Errors
    /// Not yet, and when to ask again.
    pub fn turn(&self, backoff: &Backoff, now: Instant) -> Result<(), Instant> {
        let mut state = self.lock();
        let Some(mut outage) = state.outage else {
            return Ok(());
        };
        if now < outage.next {
            // Asking is cheap, so all are back soon after the one that gets through.
            return Err(now.after(backoff.wait(0, state.random.next_u64())));
        }
        outage.attempts = outage.attempts.saturating_add(1);
        outage.next = now.after(backoff.wait(outage.attempts, state.random.next_u64()));
        state.outage = Some(outage);
        self.counts.retries.inc();
        Ok(())
    }

    pub fn random(&self) -> u64 {
        self.lock().random.next_u64()
    }

    /// Keeps `message` as the last error and logs it.
    pub fn note(&self, message: &str, now: Instant) {
        let mut state = self.lock();
        // At most one line per second, not one per command of an outage.
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

    /// A health check succeeded.
    pub fn healthy(&self, now: Instant) {
        let transition = {
            let state = &mut *self.lock();
            state.breaker.hasten(&state.settings.breaker, now)
        };
        self.report(transition);
    }

    pub fn phase_now(&self) -> Phase {
        let state = self.lock();
        let mode = state.settings.breaker.mode;
        mode.fixed_phase().unwrap_or(state.breaker.phase())
    }

    pub fn status(&self, now: Instant) -> GateStatus {
        let phase = self.phase_now();
        let state = &mut *self.lock();
        GateStatus {
            phase,
            in_phase: now.since(state.breaker.since()),
            mode: state.settings.breaker.mode,
            budget_left: state.budget.left(&state.settings.budget, now),
            attempts_in_flight: self.in_flight.load(Ordering::Relaxed),
            last_error: state.last_error.clone(),
        }
    }

    pub fn memory(&self, now: Instant) -> Memory {
        let mut state = self.lock();
        let spent = state.budget.spent(now);
        Memory {
            breaker: state.breaker.to_bytes().to_vec(),
            commands: spent.calls,
            retries: spent.retries,
        }
    }

    /// Other settings take force. Breaker and budget keep what they have counted, except for a window of another length.
    pub fn reconfigure(&self, breaker: BreakerSettings, budget: BudgetSettings, now: Instant) {
        let changed_window = {
            let mut state = self.lock();
            let before = state.settings.breaker.window;
            state.settings = Settings { breaker, budget };
            before != breaker.window
        };
        if changed_window {
            self.lock().breaker = Breaker::new(&breaker, now);
        }
        self.counts.mode.set(breaker.mode as i64);
        self.counts.state.set(self.phase_now() as i64);
    }

    /// Continues where another process ended. A breaker of another layout is ignored.
    pub fn resume(&self, memory: &Memory, now: Instant) {
        {
            let mut state = self.lock();
            if let Some(breaker) = Breaker::from_bytes(&memory.breaker) {
                state.breaker = breaker.resumed(&state.settings.breaker, now);
            }
            let spent = Spent {
                calls: memory.commands,
                retries: memory.retries,
            };
            state.budget = Budget::resumed(spent, now);
        }
        self.counts.state.set(self.phase_now() as i64);
    }

    fn report(&self, transition: Option<breaker::Transition>) {
        let Some(transition) = transition else {
            return;
        };
        self.counts.state.set(self.phase_now() as i64);
        log::warn!(
            upstream = self.name.as_str();
            "breaker: {:?} -> {:?} ({:?})", transition.from, transition.to, transition.cause
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
