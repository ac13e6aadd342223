//! Services that a worker meets: at their first request, or because others know them already. And the settings
//! that they follow.

use super::{Plugin, Target};
use crate::breakers::ServiceIndex;
use crate::config::Config;
use crate::host::Host;
use crate::metrics::SERVICES_OVER_LIMIT;
use crate::service::{Part, Service};
use crate::shared::{self, BreakerId, List};
use crate::workers::Worker;
use levee_policy::replica::Visit;
use levee_policy::time::Instant;
use std::collections::HashSet;
use std::rc::Rc;

/// Capacity of the cache of destinations, per allowed service and besides its scopes.
const CLUSTERS_PER_SERVICE: usize = 4;

impl<H: Host> Plugin<H> {
    /// The first request to a destination, by the answer of the lookup.
    pub(super) fn meet(&mut self, answer: Vec<u8>) -> Target {
        let now = self.host.now();
        if self.worker.is_none() {
            self.worker = Worker::join(&self.host, now);
            // What has changed before was told to others only.
            for index in self.services.indices() {
                self.visit(index, Visit::Sync);
            }
        }
        let config = Rc::clone(&self.config);
        let names = self.lookup.names(&answer);
        let name = config.service_of(&names.cluster);
        let service = match self.services.named(name) {
            Some(index) => Some(index),
            None => self.add_service(name, now),
        };
        let target = match service {
            Some(index) => Target::Service(self.breakers_of(index, &names, now)),
            None => Target::OverLimit,
        };
        let most_scopes = config.all_services().map(|service| service.scopes.max);
        let per_service = CLUSTERS_PER_SERVICE + most_scopes.max().unwrap_or(0);
        if self.by_destination.len() >= config.max_services * per_service {
            return target;
        }
        if matches!(target, Target::OverLimit) {
            log::warn!(
                "no breaker for {name}: the limit of {} services (max_services) is reached",
                config.max_services
            );
            self.over_limit = self
                .over_limit
                .or_else(|| self.host.define_counter(SERVICES_OVER_LIMIT));
            if let Some(counter) = self.over_limit {
                self.host.add(counter, 1);
            }
        }
        self.by_destination.insert(answer, target);
        target
    }

    fn add_service(&mut self, name: &str, now: Instant) -> Option<ServiceIndex> {
        let settings = self.rules.of_service(name).breaker;
        let limit = self.config.max_services;
        let list = List::Services;
        let listed = shared::find_or_create(&self.host, list, name, &settings, limit, now)?;
        Some(self.add_known(name, None, listed.id, now))
    }

    pub(super) fn add_known(
        &mut self,
        name: &str,
        scope: Option<Part>,
        id: BreakerId,
        now: Instant,
    ) -> ServiceIndex {
        let mut own = self.config.of_service(name).clone();
        let part = scope.as_ref().map(|part| part.name.as_str());
        own.failures = self.config.of_breaker(name, part).failures;
        own.breaker = self.rules.of_breaker(name, part).breaker;
        let breaker = shared::read(&self.host, id, &own.breaker, now);
        let mut service = Service::new(&self.host, name, scope, &own, id, &breaker, now);
        let expressions = self.expressions.as_ref();
        service.answered_well = expressions.and_then(|all| all.of(&own.failures));
        let index = self.services.add(service);
        self.health_checks
            .see(&self.services, index, &self.rules, now);
        index
    }

    pub fn names_of_services(&self) -> impl Iterator<Item = &str> {
        let indices = self.services.indices();
        indices.map(|index| self.services[index].name.as_str())
    }

    /// Meets these services as far as they have breakers, so that their gauges show this configuration
    /// though no request has come.
    pub fn meet_known_services(&mut self, names: &HashSet<String>) {
        let now = self.host.now();
        for (name, id) in shared::breakers(&self.host, List::Services) {
            if names.contains(&name) && self.services.with_breaker(id).is_none() {
                let index = self.add_known(&name, None, id, now);
                self.meet_known_scopes(index, now);
            }
        }
    }

    /// Applies the settings of breakers that `rules` has, and shows them.
    pub fn follow(&mut self, rules: &Rc<Config>) {
        self.rules = Rc::clone(rules);
        let now = self.host.now();
        for index in self.services.indices() {
            let service = &self.services[index];
            let scope = service.scope.as_ref().map(|part| part.name.as_str());
            let settings = self.rules.of_breaker(&service.name, scope).breaker;
            // Hands over what was counted by the settings that may end, and sees what has changed.
            self.visit(index, Visit::Sync);
            if self.services[index].settings != settings {
                let service = &mut self.services[index];
                let breaker = shared::read(&self.host, service.breaker_id, &settings, now);
                service.change_settings(settings, &breaker, now);
            }
            self.services[index].show_again(&self.host);
        }
    }
}
