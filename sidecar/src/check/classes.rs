//! Which time limits the filter may give to requests.

use super::at::At;
use super::envoy::{Envoy, Manager, Route, clusters_of};
use super::levee_filter::LeveeFilter;
use levee_filter::config::{Rule, Timeouts};
use levee_policy::timeout::Class;
use std::time::Duration;

/// The longest limit of any request.
pub fn longest(filter: &LeveeFilter<'_>) -> Option<Duration> {
    let config = filter.config.as_ref()?;
    config
        .all_services()
        .flat_map(|service| {
            let timeouts = &service.timeouts;
            let ruled = timeouts.rules.iter().map(|rule| rule.class);
            ruled
                .chain([timeouts.class])
                .map(|class: Class| timeouts.classes.limit(class))
        })
        .max()
}

/// The shortest limit that a request to `cluster` may get.
pub fn shortest_to(envoy: &Envoy<'_>, cluster: &str) -> Option<Duration> {
    let limits = envoy.guarded().filter_map(|(manager, filter)| {
        let config = filter.config.as_ref()?;
        let timeouts = &config.of_service(config.service_of(cluster)).timeouts;
        let classes = classes_to(manager, timeouts, cluster);
        classes
            .into_iter()
            .map(|class| timeouts.classes.limit(class))
            .min()
    });
    limits.min()
}

/// The classes of requests to `cluster`; of any request where routes come from elsewhere.
pub fn classes_to(manager: &Manager<'_>, timeouts: &Timeouts, cluster: &str) -> Vec<Class> {
    if !manager.has_all_routes() {
        let ruled = timeouts.rules.iter().map(|rule| rule.class);
        return ruled.chain([timeouts.class]).collect();
    }
    let routes = manager.routes().into_iter();
    routes
        .filter(|route| manager.sees(route) && clusters_of(&route.at).contains(&cluster))
        .flat_map(|route| classes_of(timeouts, &route.at))
        .collect()
}

/// The longest limit of a route's requests.
pub fn longest_of(filter: &LeveeFilter<'_>, route: &Route<'_>) -> Option<Duration> {
    let config = filter.config.as_ref()?;
    let clusters = clusters_of(&route.at);
    let services = clusters
        .iter()
        .map(|cluster| config.of_service(config.service_of(cluster)));
    let of_service = |timeouts: &Timeouts| {
        let classes = classes_of(timeouts, &route.at).into_iter();
        classes.map(|class| timeouts.classes.limit(class)).max()
    };
    if clusters.is_empty() {
        return of_service(&config.general.timeouts);
    }
    services
        .filter_map(|service| of_service(&service.timeouts))
        .max()
}

/// The classes that requests of a route may get.
fn classes_of(timeouts: &Timeouts, route: &At<'_>) -> Vec<Class> {
    let mut classes = Vec::new();
    for rule in &timeouts.rules {
        match applies(rule, route) {
            Applies::Never => {}
            Applies::Sometimes => classes.push(rule.class),
            Applies::Always => {
                classes.push(rule.class);
                return classes;
            }
        }
    }
    classes.push(timeouts.class);
    classes
}

/// To which of a route's requests a rule applies.
enum Applies {
    Never,
    Sometimes,
    Always,
}

fn applies(rule: &Rule, route: &At<'_>) -> Applies {
    const PATHS: [&str; 3] = ["match.prefix", "match.path_separated_prefix", "match.path"];
    if rule.route.is_some() && rule.route.as_deref() != route.text_at("name") {
        return Applies::Never;
    }
    let Some(wanted) = rule.path_prefix.as_deref() else {
        return some_or_all(rule.method.is_some());
    };
    // A path that is matched in another way may be any.
    let Some(path) = PATHS.iter().find_map(|key| route.text_at(key)) else {
        return Applies::Sometimes;
    };
    if path.starts_with(wanted) {
        some_or_all(rule.method.is_some())
    } else if wanted.starts_with(path) {
        Applies::Sometimes
    } else {
        Applies::Never
    }
}

const fn some_or_all(is_some: bool) -> Applies {
    if is_some {
        Applies::Sometimes
    } else {
        Applies::Always
    }
}
