//! What happens besides requests: the tick, news from other workers, and answers to health checks.

use super::{Plugin, STANDSTILL};
use crate::breakers::ServiceIndex;
use crate::health_check::{Due, Permitted};
use crate::host::Host;
use crate::outcome;
use crate::probes::Sight;
use crate::shared::{self, BreakerId, List};
use crate::workers::Renewal;
use levee_policy::breaker::{CheckPermit, Outcome};
use levee_policy::replica::Visit;
use levee_policy::time::Instant;
use std::time::Duration;

impl<H: Host> Plugin<H> {
    /// The timer has fired.
    pub fn on_tick(&mut self) {
        let now = self.host.now();
        if now.since(self.now) >= STANDSTILL {
            self.stood_still = Some(now);
        }
        self.now = now;
        let renewal = self
            .worker
            .as_mut()
            .map(|worker| worker.renew(&self.host, self.now));
        if renewal == Some(Renewal::MissedNews) {
            for index in self.services.indices() {
                self.visit(index, Visit::Sync);
                self.see_division(index);
            }
        }
        self.check_probes();
        self.check_health();
        for index in self.services.take_touched() {
            if self.services[index].wants_sync(now) {
                self.visit(index, Visit::Sync);
            }
            self.services[index].flush(&self.host);
            if self.services[index].has_more() {
                self.services.touch(index);
            }
        }
    }

    /// Other workers have changed breakers.
    pub fn on_news(&mut self) {
        while let Some(breaker_id) = self
            .worker
            .as_ref()
            .and_then(|worker| worker.next_news(&self.host))
        {
            // Ignore news of a service that this worker has not met.
            if let Some(index) = self.services.with_breaker(breaker_id) {
                self.visit(index, Visit::Sync);
                self.see_division(index);
            }
        }
    }

    /// A request that this filter has sent itself has ended.
    pub fn on_answer(&mut self, token: u32, body_size: u32) {
        let (host, services) = (&self.host, &self.services);
        let hastened = self
            .health_checks
            .on_answer(host, services, &self.rules, token, body_size);
        for Permitted { breaker, permit } in hastened {
            self.visit(breaker, Visit::Hasten(permit));
        }
    }

    /// Some probes have a result before they end.
    fn check_probes(&mut self) {
        for context_id in self.probes.contexts() {
            if !self.host.enter_request(context_id) {
                continue;
            }
            let status = outcome::status_so_far(&self.host);
            let lease = |index| self.services[index].settings.half_open.lease;
            match self.probes.look(context_id, status, self.now, lease) {
                Sight::Succeeded => self.settle_probe(context_id, Outcome::SUCCESS),
                Sight::NeverAsked => {
                    if let Some(probe) = self.probes.get(context_id) {
                        self.settle(probe.breakers, probe.permits, Outcome::Neutral);
                    }
                }
                Sight::Nothing => {}
            }
        }
    }

    /// Asks services whose breakers are open whether they are well. A worker that the others don't
    /// know could not tell them.
    fn check_health(&mut self) {
        if self.worker.is_none() {
            return;
        }
        let due = self
            .health_checks
            .due(&self.services, &self.rules, self.now);
        for Due { service, every } in due {
            let permits = self.permits_to_check(service, every);
            if !permits.is_empty() {
                let (host, services) = (&self.host, &self.services);
                self.health_checks
                    .send(host, services, &self.rules, service, permits);
            }
        }
    }

    /// The breakers of a service that a check is for, if this worker is to send one now. Those of scopes
    /// that it has not met are among them: it may send all checks.
    fn permits_to_check(&mut self, service: ServiceIndex, every: Duration) -> Vec<Permitted> {
        let now = self.host.now();
        let id = self.services[service].breaker_id;
        if !shared::take_turn_to_check(&self.host, id, every, now) {
            return Vec::new();
        }
        let own = self.permit_to_check(service, None, id, every, now);
        let mut permits = Vec::from_iter(own.map(|permit| Permitted {
            breaker: service,
            permit,
        }));
        for (scope, id) in shared::breakers(&self.host, List::ScopesOf(id)) {
            if let Some(permit) = self.permit_to_check(service, Some(&scope), id, every, now) {
                let breaker = self.add_scope(service, &scope, id, now);
                permits.push(Permitted { breaker, permit });
            }
        }
        permits
    }

    fn permit_to_check(
        &self,
        service: ServiceIndex,
        scope: Option<&str>,
        id: BreakerId,
        every: Duration,
        now: Instant,
    ) -> Option<CheckPermit> {
        let settings = self
            .rules
            .of_breaker(&self.services[service].name, scope)
            .breaker;
        shared::read(&self.host, id, &settings, now).permit_check(&settings, every, now)
    }
}
