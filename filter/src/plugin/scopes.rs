//! Services that are divided into scopes, each with a breaker below the service's.
//!
//! A service whose requests all take one route has no scopes by route: that route is all of it. When a
//! worker meets a second one, it divides the service and tells the other workers. A scope that a rule
//! names is there from its first request on.

use super::{Plugin, Target};
use crate::breakers::{Breakers, ServiceIndex};
use crate::destination::Names;
use crate::host::Host;
use crate::service::{Divided, Part};
use crate::shared::{self, BreakerId, List, Listed};
use levee_policy::replica::Visit;
use levee_policy::scope::{Standing, none_works};
use levee_policy::time::Instant;

/// The scope of requests that no rule and no route's name gives one, or whose scope has no place.
const OTHER: &str = "_other";

impl<H: Host> Plugin<H> {
    /// A scope has failed. If none works, the service is to open, too.
    #[cold]
    pub(super) fn judge_scopes(&mut self, index: ServiceIndex, now: Instant) {
        let of = &self.services[index];
        let list = List::ScopesOf(of.breaker_id);
        // Those of earlier deployments come first, and say nothing.
        let scopes = shared::breakers(&self.host, list).into_iter().rev();
        let service = shared::read(&self.host, of.breaker_id, &of.settings, now);
        let expected = service.expected_of_scopes(now);
        let standings = scopes.map(|(scope, id)| {
            let settings = self.rules.of_breaker(&of.name, Some(&scope)).breaker;
            let breaker = shared::read(&self.host, id, &settings, now);
            Standing::of(&breaker, &settings, expected, now)
        });
        if none_works(&of.settings, expected, standings) {
            self.visit(index, Visit::NoScopeWorks);
        }
    }

    /// The breakers of a destination in `service`.
    pub(super) fn breakers_of(
        &mut self,
        service: ServiceIndex,
        names: &Names,
        now: Instant,
    ) -> Breakers {
        let scope = self.scope_named(service, names).and_then(|name| {
            let (name, listed) = self.list_scope(service, name, now)?;
            if listed.among == 1 && !self.is_wanted(service, names, name) {
                self.services[service].divided = Divided::NotYet;
                return None;
            }
            self.divide(service, now);
            if listed.among == 2 && listed.is_new {
                // What the one route has shut is not shut for the other: see whether it works.
                self.visit(service, Visit::SecondScope);
                if let Some(worker) = &self.worker {
                    worker.tell_others(&self.host, self.services[service].breaker_id, now);
                }
            }
            Some(self.add_scope(service, name, listed.id, now))
        });
        Breakers { service, scope }
    }

    /// Whether the configuration asks for the scope `name`, though it may be the only one.
    fn is_wanted(&self, service: ServiceIndex, names: &Names, name: &str) -> bool {
        let config = self.config.of_service(&self.services[service].name);
        !names.by_rule.is_empty() || config.scopes.named.contains_key(name)
    }

    /// The scope that requests with these names belong to.
    fn scope_named<'a>(&self, service: ServiceIndex, names: &'a Names) -> Option<&'a str> {
        let settings = &self.config.of_service(&self.services[service].name).scopes;
        let by_route = Some(names.route.as_str()).filter(|_| settings.by_route);
        let by_rule = Some(names.by_rule.as_str()).filter(|name| !name.is_empty());
        let scope = by_rule.or(by_route).filter(|name| !name.is_empty());
        scope.or(settings.is_on().then_some(OTHER))
    }

    /// The scope of this name; [`OTHER`] if there are too many.
    fn list_scope<'a>(
        &mut self,
        service: ServiceIndex,
        name: &'a str,
        now: Instant,
    ) -> Option<(&'a str, Listed)> {
        let of = &self.services[service];
        let limit = self.config.of_service(&of.name).scopes.max;
        let list = List::ScopesOf(of.breaker_id);
        let find = |name, limit| {
            let settings = self.rules.of_breaker(&of.name, Some(name)).breaker;
            let listed = shared::find_or_create(&self.host, list, name, &settings, limit, now)?;
            Some((name, listed))
        };
        let listed = find(name, limit);
        let other = || find(OTHER, limit + 1);
        let (is_over_limit, listed) = (listed.is_none(), listed.or_else(other));
        if is_over_limit {
            self.services[service].count_scope_over_limit(&self.host, name, limit);
        }
        listed
    }

    pub(super) fn add_scope(
        &mut self,
        service: ServiceIndex,
        name: &str,
        id: BreakerId,
        now: Instant,
    ) -> ServiceIndex {
        if let Some(index) = self.services.with_breaker(id) {
            return index;
        }
        let part = Part::new(service, name);
        let name = self.services[service].name.clone();
        self.add_known(&name, Some(part), id, now)
    }

    /// There is more than one scope. Until now one route alone was all of the service.
    fn divide(&mut self, service: ServiceIndex, now: Instant) {
        let before = std::mem::replace(&mut self.services[service].divided, Divided::Yes);
        if before == Divided::Yes {
            return;
        }
        for (answer, target) in self.by_destination.clone() {
            if matches!(target, Target::Service(breakers) if breakers.service == service) {
                let names = self.lookup.names(&answer);
                let breakers = self.breakers_of(service, &names, now);
                self.by_destination
                    .insert(answer, Target::Service(breakers));
            }
        }
    }

    /// Another worker may have divided the service.
    pub(super) fn see_division(&mut self, service: ServiceIndex) {
        if self.services[service].divided != Divided::NotYet {
            return;
        }
        let list = List::ScopesOf(self.services[service].breaker_id);
        if shared::breakers(&self.host, list).len() > 1 {
            let now = self.host.now();
            self.divide(service, now);
        }
    }

    /// Meets the scopes of a service that was just met, so that their gauges are shown.
    pub(super) fn meet_known_scopes(&mut self, service: ServiceIndex, now: Instant) {
        let list = List::ScopesOf(self.services[service].breaker_id);
        let scopes = shared::breakers(&self.host, list);
        let config = self.config.of_service(&self.services[service].name);
        let at_least = if config.scopes.rules.is_empty() { 2 } else { 1 };
        if scopes.len() < at_least || !config.scopes.is_on() {
            return;
        }
        self.services[service].divided = Divided::Yes;
        for (name, id) in scopes {
            self.add_scope(service, &name, id, now);
        }
    }
}
