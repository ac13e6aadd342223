//! What all sessions of one upstream share: its breaker, its retry budget, and who tries to connect while it can't be
//! reached.

use crate::counts::Counts;
pub use crate::reach::Gone;
use crate::reach::{Reach, Turn};
use levee_policy::backoff::Backoff;
use levee_policy::breaker::{
    Breaker, BreakerSettings, Mode, Outcome, Permit, Phase, Report, Transition, Verdict,
};
use levee_policy::budget::{Budget, BudgetSettings, Spent, Withdrawal};
use levee_policy::callers::Caller;
use levee_policy::random::SplitMix64;
use levee_policy::time::Instant;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
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
    /// The same, and the client may have brought it about by what it sent: a connection was closed on which Redis had
    /// answered, or a script took too long.
    Provoked,
    /// The same, and Redis may have been silent since it executed somebody's script.
    HeldUp,
    /// The client left.
    Abandoned,
}

impl Answer {
    const fn outcome(self) -> Outcome {
        match self {
            Self::Reply | Self::Error => Outcome::SUCCESS,
            Self::Unavailable | Self::Failure => Outcome::FAILURE,
            Self::Provoked => Outcome::WEAK_FAILURE,
            Self::HeldUp | Self::Abandoned => Outcome::Neutral,
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

/// How a check of Levee's own ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check<'a> {
    /// Redis serves commands, or says at once that a script keeps it busy.
    Answered,
    /// There is an answer, but Redis serves nobody.
    Refused,
    /// Nothing has come in time.
    Silent { why: &'a str },
    /// There was no connection, or it was closed.
    Failed { why: &'a str },
}

/// Failures within this time of the first one have one cause: the loss of a host, of a network.
const MOMENT: Duration = Duration::from_millis(100);

/// When the breaker was told of failures last.
#[derive(Clone, Copy, Debug, Default)]
struct LastFailures {
    /// Of any that Redis alone can have brought about.
    strong: Option<Instant>,
    any: Option<Instant>,
}

impl LastFailures {
    /// Whether a failure now has a cause of its own. A weak one says nothing about the cause of a strong one.
    fn is_another(&mut self, is_weak: bool, now: Instant) -> bool {
        let last = if is_weak { self.any } else { self.strong };
        if last.is_some_and(|at| now.since(at) < MOMENT) {
            return false;
        }
        self.any = Some(now);
        if !is_weak {
            self.strong = Some(now);
        }
        true
    }
}

#[derive(Debug)]
struct State {
    settings: Settings,
    breaker: Breaker,
    budget: Budget,
    reach: Reach,
    random: SplitMix64,
    last_error: Option<LastError>,
    last_failures: LastFailures,
}

impl State {
    /// A check ended while the breaker was not closed.
    fn probe(&mut self, check: Check<'_>, now: Instant) -> [Option<Transition>; 3] {
        let settings = self.settings.breaker;
        let is_answered = check == Check::Answered;
        let hastened = is_answered.then(|| self.breaker.hasten(&settings, now));
        let (verdict, half_open) = self.breaker.admit(&settings, now);
        let outcome = if is_answered {
            Outcome::SUCCESS
        } else {
            Outcome::FAILURE
        };
        let decided = match verdict {
            Verdict::Admit(permit) => self.report(Report::new(permit, outcome), now),
            Verdict::WouldRefuse | Verdict::Refuse { .. } => None,
        };
        [hastened.flatten(), half_open, decided]
    }

    fn report(&mut self, report: Report, now: Instant) -> Option<Transition> {
        let random = self.random.next_u64();
        self.breaker
            .record_report(&self.settings.breaker, report, now, random)
    }
}

/// Breaker and budget of one upstream.
#[derive(Debug)]
pub struct Gate {
    name: String,
    state: Mutex<State>,
    in_flight: AtomicI64,
    /// Redis asks clients to log in, as far as its last answer to one that had not says.
    wants_login: AtomicBool,
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
            reach: Reach::default(),
            random: SplitMix64::new(seed),
            last_error: None,
            last_failures: LastFailures::default(),
        };
        let gate = Self {
            name: name.to_owned(),
            state: Mutex::new(state),
            in_flight: AtomicI64::new(0),
            wants_login: AtomicBool::new(false),
            counts,
        };
        gate.counts.state.set(gate.phase_now() as i64);
        gate.counts.mode.set(breaker.mode as i64);
        gate
    }

    /// Whether a command may go out. No command is a probe: while the breaker is not closed, only Levee's own
    /// [`checks`](Self::checked) ask whether the upstream is back.
    pub fn admit(&self, now: Instant) -> Verdict {
        let verdict = {
            let state = self.lock();
            let settings = &state.settings.breaker;
            state.breaker.admit_when_closed(settings, now)
        };
        if matches!(verdict, Verdict::Refuse { .. }) {
            self.counts.rejected.inc();
        }
        verdict
    }

    /// Whether a command that needs a new connection would wait in vain: attempts have failed for as long as the command may
    /// take.
    pub fn gone(&self, deadline: Duration, now: Instant) -> Option<Gone> {
        self.lock().reach.gone(deadline, now)
    }

    /// Whether Redis asks clients to log in before they do anything else.
    pub fn wants_login(&self) -> bool {
        self.wants_login.load(Ordering::Relaxed)
    }

    /// Redis has answered a client that has not logged in.
    pub fn set_wants_login(&self, wants: bool) {
        self.wants_login.store(wants, Ordering::Relaxed);
    }

    /// `commands` were admitted: their share goes into the budget.
    pub fn entered(&self, commands: u32, now: Instant) {
        self.in_flight
            .fetch_add(i64::from(commands), Ordering::Relaxed);
        self.lock().budget.deposit(commands, now);
    }

    /// `commands` of `caller` with the same permit ended the same way at the same time. Failures at the same time have one
    /// cause, so they are one failure to the breaker, on however many connections: twenty that are lost together say no
    /// more than one.
    pub fn record(
        &self,
        permit: Permit,
        answer: Answer,
        caller: Caller,
        commands: u32,
        now: Instant,
    ) {
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
                Outcome::Failure { .. } => {
                    let is_weak = outcome == Outcome::WEAK_FAILURE;
                    u32::from(commands > 0 && state.last_failures.is_another(is_weak, now))
                }
                _ => commands,
            };
            let report = Report {
                caller,
                ..Report::new(permit, outcome)
            };
            for _ in 0..events {
                transition = state.report(report, now).or(transition);
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

    /// A connection could not be made that was begun at `since`, or Redis has not answered since then. Returns when to ask
    /// for a [`turn`](Self::turn).
    pub fn unreachable(
        &self,
        backoff: &Backoff,
        why: &str,
        since: Instant,
        now: Instant,
    ) -> Instant {
        let mut state = self.lock();
        let next = now.after(backoff.wait(0, state.random.next_u64()));
        state.reach.failed(why, since, next, now);
        next
    }

    /// A command has waited for its deadline in vain. If Redis could not be reached before, it still can't be.
    pub fn waited_in_vain(&self, now: Instant) {
        self.lock().reach.waited_in_vain(now);
    }

    /// Redis has answered at `at` on a new connection: all waiting clients may connect, if no attempt has failed since.
    pub fn reachable(&self, at: Instant) {
        self.lock().reach.answered(at);
    }

    /// Whether nothing is known against connecting: the last attempt did not fail.
    pub fn is_reachable(&self) -> bool {
        self.lock().reach.is_given()
    }

    /// Whether a waiting client may connect now. While the upstream can't be reached, only one at a time may. So
    /// there are as many attempts as from a single client, however many wait, and they cost no budget.
    ///
    /// # Errors
    /// Not yet, and when to ask again.
    pub fn turn(&self, backoff: &Backoff, now: Instant) -> Result<(), Instant> {
        let State { reach, random, .. } = &mut *self.lock();
        if reach.turn(backoff, random.next_u64(), now)? == Turn::ForAll {
            self.counts.retries.inc();
        }
        Ok(())
    }

    /// A script went out on a connection that had none. Redis may be silent while it executes it.
    pub fn script_sent(&self, now: Instant) {
        self.lock().reach.script_sent(now);
    }

    /// A script is answered, and there are others on its connection.
    pub fn script_answered(&self, now: Instant) {
        self.lock().reach.script_answered(now);
    }

    /// All scripts of a connection are answered.
    pub fn scripts_ended(&self, now: Instant) {
        self.lock().reach.scripts_ended(now);
    }

    /// A connection is lost on which there were scripts.
    pub fn scripts_left(&self) {
        self.lock().reach.scripts_left();
    }

    /// How long it may make sense to wait for a Redis that a script holds up.
    pub fn held_up_until(&self) -> Option<Instant> {
        self.lock().reach.held_up_until()
    }

    /// Redis may be silent since it executes a script. It is not away then.
    pub fn is_held_up(&self, now: Instant) -> bool {
        self.lock().reach.is_held_up(now)
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

    /// A check of Levee's own that was begun at `since` has ended. Checks alone are the probes of a breaker that is not
    /// closed.
    pub fn checked(&self, check: Check<'_>, since: Instant, now: Instant) {
        let mut transitions = [None; 3];
        {
            let state = &mut *self.lock();
            match check {
                Check::Answered | Check::Refused => state.reach.answered_question(since, now),
                Check::Silent { .. } if state.reach.is_held_up(now) => return,
                Check::Silent { why } | Check::Failed { why } => {
                    state.reach.failed(why, since, now, now);
                }
            }
            if state.breaker.phase() != Phase::Closed {
                transitions = state.probe(check, now);
            }
        }
        for transition in transitions {
            self.report(transition);
        }
    }

    /// Whether checks are to be frequent: something is to be found out.
    pub fn needs_checks(&self) -> bool {
        let state = self.lock();
        !state.reach.is_given() || state.breaker.phase() != Phase::Closed
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

    fn report(&self, transition: Option<Transition>) {
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
