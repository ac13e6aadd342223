//! The active fault, and the requests it affects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How the service treats all its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fault {
    None,
    /// Answers 502.
    Fail,
    /// Never answers.
    Hang,
}

impl Fault {
    const ALL: [Self; 3] = [Self::None, Self::Fail, Self::Hang];

    /// The name in `GET /demo/state`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Fail => "fail",
            Self::Hang => "hang",
        }
    }
}

/// The active fault, and the requests so far.
#[derive(Default)]
pub(super) struct Faults {
    active: AtomicU8,
    requests: AtomicU64,
    in_flight: AtomicU64,
}

impl Faults {
    pub(super) fn active(&self) -> Fault {
        let active = self.active.load(Ordering::Relaxed);
        let mut all = Fault::ALL.into_iter();
        all.find(|fault| *fault as u8 == active)
            .unwrap_or(Fault::None)
    }

    pub(super) fn activate(&self, fault: Fault) {
        self.active.store(fault as u8, Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request.
    pub(super) fn enter(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }
}

/// Counts a request as in flight until it is dropped, even if the client has left.
pub(super) struct InFlight(Arc<Faults>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
