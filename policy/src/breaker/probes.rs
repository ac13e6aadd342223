//! The probes of a half-open breaker: who may have a place, and for how long.

use super::call::{Outcome, ProbeId};
use super::settings::{HalfOpen, MAX_PROBES};
use crate::callers::Caller;
use crate::time::Instant;
use std::time::Duration;

/// A caller that holds the place of a probe gets another one only if nobody else wanted it for this
/// long. So does the one whose probe was the last to hold its place for [`LONG`] and not succeed.
const OTHERS_FIRST: Duration = Duration::from_secs(1);
/// A probe that holds its place for this long keeps others out.
const LONG: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) probe: ProbeId,
    pub(crate) caller: Caller,
    pub(crate) expires: Instant,
}

/// The probes of a half-open breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probes {
    pub(crate) leases: [Option<Lease>; MAX_PROBES],
    /// How many probes have been admitted in total (wraps around). The id of the next one.
    pub(crate) admitted: u32,
    pub(crate) expired: u32,
    pub(crate) successes: u32,
    /// Whose probe was the last to hold its place for long and not succeed. Unknown if another caller
    /// has come since.
    pub(crate) held_long: Caller,
    /// When the last probe was admitted, or a place became free that was held in vain.
    pub(crate) wanted: Instant,
}

impl Probes {
    pub(super) fn acquire(
        &mut self,
        limits: HalfOpen,
        caller: Caller,
        now: Instant,
    ) -> Option<ProbeId> {
        for place in &mut self.leases {
            if let Some(lease) = place.take_if(|lease| lease.expires <= now) {
                (self.held_long, self.wanted) = (lease.caller, now);
                self.expired = self.expired.wrapping_add(1);
            }
        }
        if self.must_wait(caller) && now.since(self.wanted) < OTHERS_FIRST {
            return None;
        }
        let held = self.leases.iter().flatten().count();
        if held >= usize::from(limits.max_in_flight) {
            return None;
        }
        let free = self.leases.iter_mut().find(|place| place.is_none())?;
        let probe = ProbeId(self.admitted);
        self.admitted = self.admitted.wrapping_add(1);
        self.wanted = now;
        if self.held_long != caller {
            self.held_long = Caller::UNKNOWN;
        }
        *free = Some(Lease {
            probe,
            caller,
            expires: now.after(limits.lease),
        });
        Some(probe)
    }

    /// Whether others go before this caller, so that it can't keep the places to itself.
    fn must_wait(&self, caller: Caller) -> bool {
        let mut held = self.leases.iter().flatten();
        caller != Caller::UNKNOWN
            && (caller == self.held_long || held.any(|lease| lease.caller == caller))
    }

    /// A probe has ended.
    pub(super) fn release(
        &mut self,
        probe: ProbeId,
        outcome: Outcome,
        limits: HalfOpen,
        now: Instant,
    ) {
        for place in &mut self.leases {
            let Some(lease) = place.take_if(|lease| lease.probe == probe) else {
                continue;
            };
            let was_long = now.after(limits.lease).since(lease.expires) >= LONG;
            if was_long && !matches!(outcome, Outcome::Success { .. }) {
                (self.held_long, self.wanted) = (lease.caller, now);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self {
            admitted: self.admitted,
            expired: self.expired,
            ..Self::default()
        };
    }
}
