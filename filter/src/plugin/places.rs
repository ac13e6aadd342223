//! Places in the lists of scopes. A list has a limit, and routes may get new names at each deployment: so a scope that
//! is not called any more gives its place to one that is.

use super::{Plugin, Target};
use crate::breakers::{Breakers, ServiceIndex};
use crate::host::Host;
use crate::shared::{self, List, SAY_CALLED_EVERY};
use levee_policy::time::Instant;
use std::time::Duration;

/// How often scopes without a place try again.
pub(super) const SEEK_EVERY: Duration = Duration::from_mins(1);

impl<H: Host> Plugin<H> {
    /// What a tick does for the place of a scope that was called, or for the scopes of a service without one.
    pub(super) fn keep_place(&mut self, index: ServiceIndex, now: Instant) {
        let service = &mut self.services[index];
        if let Some(part) = &service.scope {
            if now.since(service.said_called) >= SAY_CALLED_EVERY && service.was_called() {
                let of = part.of;
                self.say_called(of, index, now);
            }
        } else if service.placeless.again.is_some_and(|again| again <= now) {
            service.placeless.again = None;
            self.meet_again(|breakers| breakers == Breakers::of_service(index));
        }
    }

    #[cold]
    fn say_called(&mut self, service: ServiceIndex, scope: ServiceIndex, now: Instant) {
        self.services[scope].said_called = now;
        let list = List::ScopesOf(self.services[service].breaker_id);
        let id = self.services[scope].breaker_id;
        if shared::say_called(&self.host, list, id, now).is_none() {
            // Other workers don't know its breaker any more.
            self.meet_again(|breakers| breakers.scope == Some(scope));
        }
    }

    /// Forgets the breakers of destinations until their next requests.
    fn meet_again(&mut self, which: impl Fn(Breakers) -> bool) {
        self.by_destination.retain(|_, target| match target {
            Target::Service(breakers) => !which(*breakers),
            Target::OverLimit => true,
        });
    }
}
