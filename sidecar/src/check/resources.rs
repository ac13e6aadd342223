//! The resources in a file of Envoy's, whatever its form: a bootstrap, a file that Envoy watches, or a config dump.

use super::at::At;
use super::finding::Finding;
use super::message::{Message, message};

/// The keys of a bootstrap in Envoy 1.40
/// (<https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/bootstrap/v3/bootstrap.proto>).
const BOOTSTRAP: [&str; 41] = [
    "admin",
    "application_log_config",
    "bootstrap_extensions",
    "certificate_provider_instances",
    "cluster_manager",
    "config_sources",
    "default_config_source",
    "default_regex_engine",
    "default_socket_interface",
    "deferred_stat_options",
    "dns_resolution_config",
    "dynamic_resources",
    "enable_dispatcher_stats",
    "enable_worker_cpu_affinity",
    "fatal_actions",
    "flags_path",
    "grpc_async_client_manager_config",
    "hds_config",
    "header_prefix",
    "inline_headers",
    "layered_runtime",
    "listener_manager",
    "memory_allocator_manager",
    "node",
    "node_context_params",
    "overload_manager",
    "perf_tracing_file_path",
    "static_resources",
    "stats_config",
    "stats_eviction_interval",
    "stats_flush_interval",
    "stats_flush_on_admin",
    "stats_server_version_override",
    "stats_sinks",
    "tracing",
    "typed_dns_resolver_config",
    "use_tcp_for_dns_lookups",
    "watchdog",
    "watchdogs",
    "xds_config_tracker_extension",
    "xds_delegate_extension",
];

/// What Envoy can be sent, or watches a file for, and Levee has nothing to do with.
const OTHERS: [&str; 7] = [
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.endpoint.v3.LbEndpoint",
    "envoy.config.listener.v3.FilterChain",
    "envoy.config.route.v3.ScopedRouteConfiguration",
    "envoy.extensions.clusters.aggregate.v3.AggregateClusterResource",
    "envoy.extensions.transport_sockets.tls.v3.Secret",
    "envoy.service.runtime.v3.Runtime",
];

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// What Envoy starts with.
    Bootstrap,
    /// A file that Envoy watches.
    Watched,
    /// An answer of the admin interface's `/config_dump`.
    Dump,
}

/// The resources in a file.
#[derive(Debug)]
pub struct Resources<'a> {
    pub form: Form,
    pub bootstrap: Option<At<'a>>,
    pub listeners: Vec<At<'a>>,
    pub clusters: Vec<At<'a>>,
    /// `RouteConfiguration`s outside of listeners.
    pub routes: Vec<At<'a>>,
    /// `VirtualHost`s outside of `RouteConfiguration`s.
    pub hosts: Vec<At<'a>>,
    /// `TypedExtensionConfig`s: filters by ECDS.
    pub extensions: Vec<At<'a>>,
    /// What can't be read.
    pub errors: Vec<Finding>,
}

impl<'a> Resources<'a> {
    /// # Errors
    /// The file is no configuration of Envoy's.
    pub fn read(root: &At<'a>) -> Result<Self, Finding> {
        let form = form_of(root)?;
        let mut resources = Self {
            form,
            bootstrap: None,
            listeners: Vec::new(),
            clusters: Vec::new(),
            routes: Vec::new(),
            hosts: Vec::new(),
            extensions: Vec::new(),
            errors: Vec::new(),
        };
        match form {
            Form::Bootstrap => {
                resources.check_keys(root);
                resources.read_bootstrap(root.clone());
            }
            Form::Watched => resources.read_watched(root),
            Form::Dump => resources.read_dump(root),
        }
        Ok(resources)
    }

    /// The filter of this name.
    pub fn extension(&self, name: &str) -> Option<&At<'a>> {
        named(&self.extensions, name)
    }

    fn check_keys(&mut self, root: &At<'_>) {
        let keys = root.entries().into_iter();
        for (_, at) in keys.filter(|(key, _)| !is_key_of_bootstrap(key)) {
            self.error(
                &at,
                "is no key of Envoy's bootstrap, and Envoy would refuse the file; is it a typing error?",
            );
        }
    }

    fn read_bootstrap(&mut self, root: At<'a>) {
        if let Some(fixed) = root.get("static_resources") {
            if fixed.is_object() {
                let listeners = self.objects(fixed.list("listeners"));
                self.listeners.extend(listeners);
                let clusters = self.objects(fixed.list("clusters"));
                self.clusters.extend(clusters);
            } else {
                self.error(&fixed, "must be an object with listeners and clusters");
            }
        }
        self.bootstrap = Some(root);
    }

    fn read_watched(&mut self, root: &At<'a>) {
        for resource in root.list("resources") {
            match message(&resource) {
                None => self.error(
                    &resource,
                    "has no @type; it must be one such as type.googleapis.com/envoy.config.listener.v3.Listener",
                ),
                Some(message) => {
                    let is_other = OTHERS.contains(&message.kind) || !message.kind.starts_with("envoy.");
                    if !self.take(message) && !is_other {
                        self.error(
                            &resource,
                            "has a type that Envoy does not know as a resource; it must be one such as type.googleapis.com/envoy.config.listener.v3.Listener",
                        );
                    }
                }
            }
        }
    }

    fn read_dump(&mut self, root: &At<'a>) {
        let configs = root.list("configs");
        let mut bootstraps = configs.iter().filter_map(|config| config.get("bootstrap"));
        if let Some(bootstrap) = bootstraps.next() {
            self.read_bootstrap(bootstrap);
        }
        for config in &configs {
            if config.is_object() {
                self.search(config);
            } else {
                self.error(config, "must be a list of objects, as /config_dump answers");
            }
        }
    }

    /// Takes all resources within a part of a dump that are in force.
    fn search(&mut self, at: &At<'a>) {
        if message(at).is_some_and(|message| self.take(message)) {
            return;
        }
        let is_active = at.get("active_state").is_some();
        for (key, value) in at.entries() {
            let is_past = matches!(key, "draining_state" | "error_state")
                || (key == "warming_state" && is_active);
            // The bootstrap has them as well.
            let is_known = key == "bootstrap"
                || (self.bootstrap.is_some()
                    && matches!(key, "static_listeners" | "static_clusters"));
            if is_past || is_known {
                continue;
            }
            for item in value.items().iter().filter(|item| item.is_object()) {
                self.search(item);
            }
        }
    }

    /// Takes a resource. Returns false if it is of a type that Levee has nothing to do with.
    fn take(&mut self, resource: Message<'a>) -> bool {
        let list = match resource.kind {
            "envoy.config.listener.v3.Listener" => &mut self.listeners,
            "envoy.config.cluster.v3.Cluster" => &mut self.clusters,
            "envoy.config.route.v3.RouteConfiguration" => &mut self.routes,
            "envoy.config.route.v3.VirtualHost" => &mut self.hosts,
            "envoy.config.core.v3.TypedExtensionConfig" => &mut self.extensions,
            _ => return false,
        };
        list.push(resource.at);
        true
    }

    fn objects(&mut self, items: Vec<At<'a>>) -> Vec<At<'a>> {
        let (objects, others): (Vec<_>, Vec<_>) = items.into_iter().partition(At::is_object);
        for other in &others {
            self.error(other, "must be an object");
        }
        objects
    }

    fn error(&mut self, at: &At<'_>, message: &str) {
        self.errors.push(Finding::of_reading(at, message));
    }
}

/// The resource of this name.
pub fn named<'r, 'a>(resources: &'r [At<'a>], name: &str) -> Option<&'r At<'a>> {
    let mut resources = resources.iter();
    resources.find(|resource| resource.text_at("name") == Some(name))
}

fn form_of(root: &At<'_>) -> Result<Form, Finding> {
    const WANTED: &str = "it must be a bootstrap (static_resources, ...), a file that Envoy watches (resources), or an answer of the admin interface's /config_dump (configs)";
    let refuse = |what: &str| {
        let finding = Finding::of_reading(root, &format!("{what}; {WANTED}"));
        Err(Finding { line: 1, ..finding })
    };
    if root.node().is_null() {
        return refuse("is empty, and Envoy would refuse it");
    }
    if root.node().is_list() {
        return refuse("is a list");
    }
    if !root.is_object() {
        return refuse("is a text");
    }
    if root.get("apiVersion").is_some() && root.get("kind").is_some() {
        return refuse("is a Kubernetes object: take the configuration of Envoy out of it");
    }
    if root.get("configs").is_some() {
        return Ok(Form::Dump);
    }
    if root.get("resources").is_some() {
        return Ok(Form::Watched);
    }
    let mut keys = root.entries().into_iter().map(|(key, _)| key);
    if keys.any(is_key_of_bootstrap) {
        return Ok(Form::Bootstrap);
    }
    refuse("has none of the keys of an Envoy configuration")
}

/// Whether a bootstrap may have this key, in either spelling.
fn is_key_of_bootstrap(key: &str) -> bool {
    let snake_case = key.chars().fold(String::new(), |mut text, letter| {
        if letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
        text
    });
    BOOTSTRAP.contains(&snake_case.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_key_are_known() {
        assert!(is_key_of_bootstrap("static_resources") && is_key_of_bootstrap("staticResources"));
        assert!(!is_key_of_bootstrap("static_resource") && !is_key_of_bootstrap("resources"));
    }
}
