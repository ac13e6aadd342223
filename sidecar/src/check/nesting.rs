//! Whether the time limits of both files fit into each other: a statement and a Redis command must end before the request that
//! waits for them does. Otherwise Envoy gives up first, and what Levee would have ended and counted is never counted.

use super::at::At;
use super::classes::classes_to;
use super::envoy::{Envoy, Manager, clusters_of};
use super::finding::{Finding, Severity};
use super::levee::Valid;
use super::levee_filter::LeveeFilter;
use super::resources::Resources;
use crate::yaml;
use levee_filter::config::{CLASSES, Config, ServiceConfig};
use levee_policy::timeout::Class;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// The name of these findings.
pub const NAME: &str = "limits-nest";

/// The shortest time that a service has for its response.
#[derive(Debug)]
struct Request {
    service: String,
    limit: Duration,
    /// Which setting it is: `class short`.
    setting: String,
    /// What makes it longer.
    key: String,
    line: usize,
}

/// A time limit of `levee.yaml` for something that a request waits for.
struct Inner {
    path: String,
    limit: Duration,
    what: &'static str,
    consequence: &'static str,
}

/// Limits of `levee` that are not shorter than those of requests in the Envoy configuration `text`. None if that can't be read:
/// then it has findings of its own.
pub fn compare(levee: &Valid, envoy_file: &Path, text: &str) -> Vec<Finding> {
    let Ok(document) = yaml::parse_first(text) else {
        return Vec::new();
    };
    let Ok(resources) = Resources::read(&At::root(&document.root)) else {
        return Vec::new();
    };
    let envoy = Envoy::new(resources);
    let requests = envoy
        .guarded()
        .flat_map(|(manager, filter)| requests_of(manager, filter));
    let Some(shortest) = requests.min_by_key(|request| request.limit) else {
        return Vec::new();
    };
    let inner = inner_limits(&levee.config).into_iter();
    inner
        .filter(|inner| inner.limit >= shortest.limit)
        .map(|inner| finding(levee, inner, envoy_file, &shortest))
        .collect()
}

fn inner_limits(config: &crate::config::Config) -> Vec<Inner> {
    let mut limits = Vec::new();
    let database = config.database.as_ref();
    if let Some(watchdog) = database.and_then(|database| database.watchdog.as_ref()) {
        limits.push(Inner {
            path: "database.watchdog.classes.query".to_owned(),
            limit: watchdog.settings.query,
            what: "a statement",
            consequence: "the watchdog neither cancels nor counts the statement",
        });
    }
    for (place, redis) in config.redis.iter().enumerate() {
        limits.push(Inner {
            path: format!("redis[{place}].deadline"),
            limit: redis.deadline,
            what: "a Redis command with its retries",
            consequence: "the service has no time left to answer without Redis",
        });
    }
    limits
}

fn finding(levee: &Valid, inner: Inner, envoy_file: &Path, request: &Request) -> Finding {
    let Request {
        service,
        setting,
        key,
        line,
        ..
    } = request;
    let [limit, given] = [inner.limit, request.limit].map(humantime::format_duration);
    let message = format!(
        "{what} may take {limit}, and a request to {service} {given} ({setting}, {file}:{line}). Envoy gives up first: \
         {consequence}. Make this shorter, or {key} longer",
        what = inner.what,
        consequence = inner.consequence,
        file = envoy_file.display(),
    );
    Finding {
        line: levee.document.root.line_of(&inner.path),
        path: inner.path,
        message,
        severity: Severity::Warning,
        trap: Some(NAME),
    }
}

/// Stands for the services that have no settings of their own.
const ANY_OTHER: &str = "any other service";

/// One for each service of the manager, as far as the file says which there are.
fn requests_of(manager: &Manager<'_>, filter: &LeveeFilter<'_>) -> Vec<Request> {
    let Some(config) = &filter.config else {
        return Vec::new();
    };
    let routes = manager.routes();
    let seen = routes.iter().filter(|route| manager.sees(route));
    let mut clusters: BTreeSet<&str> = seen.flat_map(|route| clusters_of(&route.at)).collect();
    if !manager.has_all_routes() {
        clusters.extend(config.services.keys().map(String::as_str));
    }
    // Clusters that only a discovery service knows have the general settings.
    if !manager.has_all_routes() {
        clusters.insert(ANY_OTHER);
    }
    clusters
        .into_iter()
        .filter_map(|cluster| {
            let service = config.service_of(cluster);
            let settings = config.of_service(service);
            let classes = classes_to(manager, &settings.timeouts, cluster).into_iter();
            let shortest = classes.min_by_key(|class| settings.timeouts.classes.limit(*class))?;
            Some(request(config, filter, service, settings, shortest))
        })
        .collect()
}

fn request(
    config: &Config,
    filter: &LeveeFilter<'_>,
    service: &str,
    settings: &ServiceConfig,
    class: Class,
) -> Request {
    let timeouts = &settings.timeouts;
    let (whole, headers) = (timeouts.classes.limit(class), timeouts.response_header);
    let section = if config.services.contains_key(service) {
        format!("services.{service}")
    } else {
        String::new()
    };
    let (setting, key) = if headers < whole {
        let name = "response_header";
        (name.to_owned(), format!("timeouts.{name}"))
    } else {
        let known = CLASSES.iter().find(|(_, known)| *known == class);
        let name = known.map_or("", |(name, _)| name);
        (format!("class {name}"), format!("timeouts.classes.{name}"))
    };
    Request {
        service: service.to_owned(),
        limit: whole.min(headers),
        setting,
        key,
        line: filter.locate(&section).line,
    }
}
