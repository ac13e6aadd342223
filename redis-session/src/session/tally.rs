//! What is reported to the gate once per read instead of once per command.

use crate::gate::{Answer, Gate};
use levee_policy::breaker::Permit;
use levee_policy::callers::Caller;
use levee_policy::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Commands admitted since the last report to the gate.
    entered: u32,
    /// A permit that further commands may share until the next report to the gate.
    shared: Option<Permit>,
    ended: Option<Ended>,
    /// Who calls.
    pub caller: Caller,
}

/// Commands that ended the same way since the last report to the gate.
#[derive(Clone, Copy, Debug)]
struct Ended {
    permit: Permit,
    answer: Answer,
    count: u32,
}

impl Tally {
    pub const fn shared_permit(&self) -> Option<Permit> {
        self.shared
    }

    /// The gate gave this permit.
    pub const fn share(&mut self, permit: Permit) {
        self.shared = Some(permit);
    }

    pub const fn enter(&mut self) {
        self.entered += 1;
    }

    /// A command ended.
    pub fn end(&mut self, permit: Permit, answer: Answer, gate: &Gate, now: Instant) {
        match &mut self.ended {
            Some(ended) if (ended.permit, ended.answer) == (permit, answer) => ended.count += 1,
            _ => {
                self.flush(gate, now);
                self.ended = Some(Ended {
                    permit,
                    answer,
                    count: 1,
                });
            }
        }
    }

    /// Tells the gate what has happened.
    pub fn flush(&mut self, gate: &Gate, now: Instant) {
        self.shared = None;
        let entered = std::mem::take(&mut self.entered);
        if entered > 0 {
            gate.entered(entered, now);
        }
        if let Some(ended) = self.ended.take() {
            gate.record(ended.permit, ended.answer, self.caller, ended.count, now);
        }
    }
}
