//! Traps about names: those that nothing has, and those that two filters share.

use super::trap::{Caught, Trap};
use crate::check::at::At;
use crate::check::envoy::Envoy;
use crate::check::levee_filter::LeveeFilter;
use std::collections::BTreeSet;

pub(super) const TRAPS: &[Trap] = &[
    Trap::warning("unknown-name", unknown_name),
    Trap::warning("shared-vm", shared_vm),
];

/// A name in the filter's configuration that nothing else has is a typing error.
fn unknown_name(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, filter) in envoy.guarded() {
        let Some(config) = &filter.config else {
            continue;
        };
        if envoy.has_all_clusters() {
            for cluster in config
                .aliases
                .keys()
                .filter(|name| envoy.cluster(name).is_none())
            {
                let message = format!(
                    "there is no cluster {cluster:?}, so this alias is of no use; name one of the file"
                );
                caught.there(filter.locate(&format!("aliases.{cluster}")), message);
            }
            let has_service = |name: &str| {
                envoy.cluster(name).is_some()
                    || config.aliases.values().any(|service| service == name)
            };
            for service in config.services.keys().filter(|name| !has_service(name)) {
                let message = format!(
                    "there is no cluster {service:?} and no alias for it, so these settings apply to nothing; name one of the file"
                );
                caught.there(filter.locate(&format!("services.{service}")), message);
            }
        }
        if !manager.has_all_routes() {
            continue;
        }
        let routes = manager.routes();
        let names: BTreeSet<&str> = routes
            .iter()
            .filter_map(|route| route.at.text_at("name"))
            .collect();
        let rules = rules_by_path(filter);
        for (path, route) in rules
            .iter()
            .filter(|(_, route)| !names.contains(route.as_str()))
        {
            let message = format!(
                "no route is called {route:?}, so this rule applies to nothing; give a route this name"
            );
            caught.there(filter.locate(path), message);
        }
    }
}

/// The names of routes in the filter's rules, with their paths.
fn rules_by_path(filter: &LeveeFilter<'_>) -> Vec<(String, String)> {
    let Some(config) = &filter.config else {
        return Vec::new();
    };
    let general = config.general.timeouts.rules.len();
    let sections = config.services.iter().map(|(name, service)| {
        let rules = &service.timeouts.rules;
        // A service's own rules come first, then the general ones.
        let own = rules.len().saturating_sub(general);
        let own = rules.get(..own).unwrap_or_default();
        (format!("services.{name}.timeouts.rules"), own)
    });
    let general = (
        "timeouts.rules".to_owned(),
        config.general.timeouts.rules.as_slice(),
    );
    sections
        .chain([general])
        .flat_map(|(path, rules)| {
            let named = rules.iter().enumerate().filter_map(|(place, rule)| {
                let route = rule.route.clone()?;
                Some((format!("{path}[{place}].route"), route))
            });
            named.collect::<Vec<_>>()
        })
        .collect()
}

/// Filters with the same `vm_id` share their breakers, and with them the window.
fn shared_vm(envoy: &Envoy<'_>, caught: &mut Caught) {
    let filters: Vec<&LeveeFilter<'_>> = envoy.guarded().map(|(_, filter)| filter).collect();
    for (place, filter) in filters.iter().enumerate() {
        let Some(plugin) = &filter.plugin else {
            continue;
        };
        let id = plugin.find("vm_config.vm_id");
        let text = id.as_ref().and_then(At::text);
        let Some(config) = &filter.config else {
            continue;
        };
        let differs = |other: &&&LeveeFilter<'_>| {
            let other_id = other
                .plugin
                .as_ref()
                .map(|plugin| plugin.text_at("vm_config.vm_id"));
            let is_shared = other_id == Some(text);
            let windows = other.config.as_ref().is_some_and(|other| {
                let names = other.services.keys().chain(config.services.keys());
                let window = |config: &levee_filter::config::Config, name: &str| {
                    config.of_service(name).breaker.window
                };
                config.general.breaker.window != other.general.breaker.window
                    || names
                        .into_iter()
                        .any(|name| window(config, name) != window(other, name))
            });
            is_shared && windows
        };
        if let Some(other) = filters.iter().take(place).find(differs) {
            let at = id.as_ref().unwrap_or(plugin);
            caught.at(
                at,
                format!("the filter in line {} has the same vm_id, and so the same breakers, but another failure_rate.window; give both the same window, or each its own vm_id", other.entry.line),
            );
        }
    }
}
