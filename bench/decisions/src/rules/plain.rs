//! Rows of a fixed length, and perhaps a rate.

use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::{BreakerSettings, FailureRate};
use levee_policy::time::Instant;
use levee_policy::window::{Counts, Window};
use std::time::Duration;

#[derive(Clone, Copy)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { in_flight: u32, successes: u32 },
}

#[derive(Clone)]
pub struct Plain {
    /// How many failures in a row open it.
    row: Option<u32>,
    rate: Option<FailureRate>,
    open: Backoff,
    /// Of probes.
    max_in_flight: u32,
    successes_to_close: u32,
    state: State,
    generation: u32,
    failures_in_row: u32,
    window: Window,
    reopened: u32,
    pub openings: u64,
}

impl Plain {
    /// Opens on more than 5 failures in a row, for 60 s. Then one probe decides.
    pub fn gobreaker() -> Self {
        let a_minute = Duration::from_mins(1);
        Self {
            row: Some(6),
            rate: None,
            open: Backoff {
                base: a_minute,
                max: a_minute,
                factor: 1,
                jitter: Jitter::NONE,
            },
            max_in_flight: 1,
            successes_to_close: 1,
            ..Self::before()
        }
    }

    /// Levee's default settings, but five failures in a row open it whatever was before.
    pub fn before() -> Self {
        let settings = BreakerSettings::default();
        Self {
            row: settings.consecutive_failures,
            rate: settings.failure_rate,
            open: settings.open,
            max_in_flight: u32::from(settings.half_open.max_in_flight),
            successes_to_close: settings.half_open.successes_to_close,
            state: State::Closed,
            generation: 0,
            failures_in_row: 0,
            window: Window::new(settings.window),
            reopened: 0,
            openings: 0,
        }
    }

    pub fn without_rows(self) -> Self {
        Self { row: None, ..self }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    pub fn admit(&mut self, now: Instant) -> Option<u32> {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.change(State::HalfOpen {
                in_flight: 0,
                successes: 0,
            });
        }
        match &mut self.state {
            State::Closed => Some(self.generation),
            State::Open { .. } => None,
            State::HalfOpen { in_flight, .. } => {
                let is_free = *in_flight < self.max_in_flight;
                *in_flight += u32::from(is_free);
                is_free.then_some(self.generation)
            }
        }
    }

    pub fn record(&mut self, generation: u32, failed: bool, now: Instant, random: u64) {
        if generation != self.generation {
            return;
        }
        match self.state {
            State::Closed => {
                self.failures_in_row = if failed { self.failures_in_row + 1 } else { 0 };
                let is_row = self.row.is_some_and(|row| self.failures_in_row >= row);
                if self.is_rate_met(failed, now) || is_row {
                    self.reopened = 0;
                    self.openings += 1;
                    self.open(now, random);
                }
            }
            State::Open { .. } => {}
            State::HalfOpen { .. } if failed => {
                self.reopened += 1;
                self.open(now, random);
            }
            State::HalfOpen {
                in_flight,
                successes,
            } => {
                let successes = successes + 1;
                if successes >= self.successes_to_close {
                    self.change(State::Closed);
                } else {
                    let in_flight = in_flight - 1;
                    self.state = State::HalfOpen {
                        in_flight,
                        successes,
                    };
                }
            }
        }
    }

    fn is_rate_met(&mut self, failed: bool, now: Instant) -> bool {
        let Some(rate) = self.rate else {
            return false;
        };
        let call = Counts {
            total: 1,
            failures: u32::from(failed),
            ..Counts::default()
        };
        self.window.add(now, call);
        let sum = self.window.sum();
        sum.total >= rate.minimum_requests && rate.ratio.is_reached_by(sum.failures, sum.total)
    }

    fn open(&mut self, now: Instant, random: u64) {
        let until = now.after(self.open.wait(self.reopened, random));
        self.change(State::Open { until });
    }

    fn change(&mut self, to: State) {
        self.state = to;
        self.generation += 1;
        self.failures_in_row = 0;
        self.window.clear();
    }
}
