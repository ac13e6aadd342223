//! What was really called: a later filter, a fallback route, or a filter before this one may lead a request
//! elsewhere.

use super::{Destination, Plugin, Target};
use crate::breakers::{Breakers, ServiceIndex};
use crate::config::Fallback;
use crate::host::Host;
use crate::metrics::UNSEEN;
use crate::outcome;
use levee_policy::breaker::Outcome;

impl<H: Host> Plugin<H> {
    /// What was called in place of what the filter was asked for, if a later filter has changed the
    /// route. Only results that may decide something are worth the host call.
    pub(super) fn called_instead(
        &mut self,
        breakers: Breakers,
        outcome: Outcome,
    ) -> Option<Breakers> {
        if !matches!(outcome, Outcome::Failure { .. } | Outcome::Unanswered) {
            return None;
        }
        let target = match self.destination() {
            Destination::NoCluster => return None,
            Destination::Known(target) => target,
            Destination::Unknown(answer) => self.meet(answer),
        };
        let Target::Service(others) = target else {
            return None;
        };
        let is_other = if self.lookup.lasts() {
            others != breakers
        } else {
            others.service != breakers.service
        };
        is_other.then_some(others)
    }

    /// A fallback route that is missing, or that leads back to the service, would disable its
    /// breaker. After the first request that shows this, requests are refused instead.
    pub(super) fn check_fallback(&mut self, index: ServiceIndex) {
        let Fallback::Route(route) = &self.services[index].fallback else {
            return;
        };
        let leads_back = self
            .lookup
            .ask(&self.host, |answer| self.leads_to(answer, index));
        if leads_back == Some(true) {
            log::error!(
                "{}: no route for x-levee-fallback: {route} leads to another cluster; \
                 refusing requests instead",
                self.services[index].name
            );
            self.services[index].fallback = Fallback::Refusal;
        }
    }

    /// Whether requests with this answer of the lookup go to the service. It may be new to this worker, as
    /// that of a route which only fallbacks take.
    fn leads_to(&self, answer: &[u8], service: ServiceIndex) -> bool {
        match self.by_destination.get(answer) {
            Some(Target::Service(to)) => to.service == service,
            Some(Target::OverLimit) => false,
            None => {
                let cluster = self.lookup.cluster(answer);
                self.config.service_of(&cluster) == self.services[service].name
            }
        }
    }

    /// A request has ended that the filter was not asked about.
    pub fn on_unseen(&mut self) {
        if !outcome::was_answered_by_upstream(&self.host) {
            return;
        }
        if self.unseen.is_none() {
            log::warn!(
                "requests reach services though this filter is not asked: a filter before it goes \
                 upstream by itself, as a cache does; put Levee before it"
            );
            self.unseen = self.host.define_counter(UNSEEN);
        }
        if let Some(counter) = self.unseen {
            self.host.add(counter, 1);
        }
    }
}
