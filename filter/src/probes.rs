//! The probes of a worker that have no result yet.
//!
//! A probe is judged as early as can be: when good headers have come and the stream has lived a
//! moment, it has succeeded, though it may last for hours. One whose request is slow to arrive has not
//! asked the service anything yet, and gives its place to another; its result still counts.

use crate::breakers::{Breakers, ServiceIndex};
use levee_policy::divided::Permits;
use levee_policy::time::Instant;
use std::time::Duration;

/// How long a probe must live after good headers, if its lease is twice as long or longer.
const MOMENT: Duration = Duration::from_secs(1);
/// How long a probe's request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(1);

const SWITCHING_PROTOCOLS: u64 = 101;
const CLIENT_ERROR: u64 = 400;

/// A probe of this worker.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub context_id: u32,
    pub breakers: Breakers,
    pub permits: Permits,
    pub since: Instant,
    /// Whether all of the request has arrived.
    pub has_arrived: bool,
    /// Whether its place was given to another. Its result still counts.
    pub gave_place_back: bool,
    /// When good headers were first seen.
    pub answered: Option<Instant>,
}

/// What can be seen of a probe in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It has succeeded.
    Succeeded,
    /// Its request does not arrive: another may have its place.
    NeverAsked,
    /// Nothing yet.
    Nothing,
}

/// The probes of a worker, at most a few for each service.
#[derive(Debug, Default)]
pub struct Probes {
    all: Vec<Probe>,
}

impl Probes {
    pub fn add(&mut self, probe: Probe) {
        self.all.push(probe);
    }

    pub fn get(&self, context_id: u32) -> Option<Probe> {
        let is_it = |probe: &&Probe| probe.context_id == context_id;
        self.all.iter().find(is_it).copied()
    }

    pub fn take(&mut self, context_id: u32) -> Option<Probe> {
        let is_it = |probe: &Probe| probe.context_id == context_id;
        let place = self.all.iter().position(is_it)?;
        Some(self.all.swap_remove(place))
    }

    pub fn contexts(&self) -> Vec<u32> {
        self.all.iter().map(|probe| probe.context_id).collect()
    }

    /// All of a request has arrived.
    pub fn arrived(&mut self, context_id: u32) {
        if let Some(probe) = self.find(context_id) {
            probe.has_arrived = true;
        }
    }

    /// Looks at a probe whose response has this status so far.
    pub fn look(
        &mut self,
        context_id: u32,
        status: Option<u64>,
        now: Instant,
        lease: impl Fn(ServiceIndex) -> Duration,
    ) -> Sight {
        let Some(probe) = self.find(context_id) else {
            return Sight::Nothing;
        };
        match status {
            Some(SWITCHING_PROTOCOLS) => Sight::Succeeded,
            Some(status) if status < CLIENT_ERROR => {
                let answered = *probe.answered.get_or_insert(now);
                let moment = MOMENT.min(lease(probe.breakers.nearest()) / 2);
                if now.since(answered) >= moment {
                    Sight::Succeeded
                } else {
                    Sight::Nothing
                }
            }
            None if !probe.has_arrived
                && !probe.gave_place_back
                && now.since(probe.since) >= ARRIVAL =>
            {
                probe.gave_place_back = true;
                Sight::NeverAsked
            }
            _ => Sight::Nothing,
        }
    }

    fn find(&mut self, context_id: u32) -> Option<&mut Probe> {
        self.all
            .iter_mut()
            .find(|probe| probe.context_id == context_id)
    }
}
