//! The last hundred calls.

use levee_policy::time::Instant;
use std::time::Duration;

const CALLS: u32 = 100;
/// Of failures in the last hundred calls, and of the probes.
const PERCENT: u32 = 50;
const OPEN_FOR: Duration = Duration::from_mins(1);
const PROBES: u32 = 10;

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        admitted: u32,
        ended: u32,
        failed: u32,
    },
}

/// Opens when half of the last hundred calls failed. Then ten probes decide. Results count in whatever state they come.
#[derive(Clone, Default)]
pub struct Ring {
    state: State,
    /// The lowest bit is the newest call, set if it failed.
    last: u128,
    count: u32,
    pub openings: u64,
}

impl Ring {
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    pub fn admit(&mut self, now: Instant) -> bool {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.state = State::HalfOpen {
                admitted: 0,
                ended: 0,
                failed: 0,
            };
        }
        match &mut self.state {
            State::Closed => true,
            State::Open { .. } => false,
            State::HalfOpen { admitted, .. } => {
                let is_free = *admitted < PROBES;
                *admitted += u32::from(is_free);
                is_free
            }
        }
    }

    pub fn record(&mut self, is_failure: bool, now: Instant) {
        match &mut self.state {
            State::Closed => {
                self.last = (self.last << 1 | u128::from(is_failure)) & ((1 << CALLS) - 1);
                self.count = (self.count + 1).min(CALLS);
                if self.count == CALLS && self.last.count_ones() * 100 >= PERCENT * CALLS {
                    self.openings += 1;
                    self.open(now);
                }
            }
            State::Open { .. } => {}
            State::HalfOpen { ended, failed, .. } => {
                *ended += 1;
                *failed += u32::from(is_failure);
                if *ended < PROBES {
                    return;
                }
                if *failed * 100 >= PERCENT * PROBES {
                    self.open(now);
                } else {
                    *self = Self {
                        openings: self.openings,
                        ..Self::default()
                    };
                }
            }
        }
    }

    fn open(&mut self, now: Instant) {
        *self = Self {
            state: State::Open {
                until: now.after(OPEN_FOR),
            },
            openings: self.openings,
            ..Self::default()
        };
    }
}
