//! `envoy/*.yaml`, loaded and changed structurally for a test or a demonstration.
//!
//! The files are complete and run as they are. A change that doesn't find its place in them ends the test.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::certificate::Certificate;

const GATEWAY: &str = include_str!("../../envoy/gateway.yaml");
const MINIMAL: &str = include_str!("../../envoy/minimal.yaml");
const TLS: &str = include_str!("../../envoy/tls.yaml");

const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// For the whole request, in milliseconds.
pub const SEEN_WHOLE_LIMIT: &str = "seen-whole-limit-ms";
/// For the headers of the answer, in milliseconds.
pub const SEEN_HEADER_LIMIT: &str = "seen-header-limit-ms";

/// An Envoy configuration that can be changed before it is written.
#[derive(Debug, Clone)]
pub struct EnvoyConfig {
    value: Value,
}

/// Where a service listens: a name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>()
            && address.port() != 0
        {
            return Ok(address.into());
        }
        let wanted =
            || format!("`{text}` is not HOST:PORT, such as 127.0.0.1:9001 or auth.internal:80");
        let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
        let port = port
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or_else(wanted)?;
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if host.len() > 253 || !host.trim_end_matches('.').split('.').all(is_label) {
            return Err(wanted());
        }
        // `1.2.3` or `999.0.0.1` would be looked up as a name, and never found.
        let last = host.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|byte| byte.is_ascii_digit())
            && host.parse::<std::net::Ipv4Addr>().is_err()
        {
            return Err(wanted());
        }
        Ok(Self {
            host: host.to_string(),
            port,
        })
    }
}

impl EnvoyConfig {
    /// `envoy/gateway.yaml`.
    pub fn gateway() -> Self {
        Self::parse(GATEWAY)
    }

    /// `envoy/minimal.yaml`.
    pub fn minimal() -> Self {
        Self::parse(MINIMAL)
    }

    /// Any Envoy configuration in YAML or JSON.
    pub fn parse(yaml: &str) -> Self {
        let value =
            serde_norway::from_str(yaml).unwrap_or_else(|error| panic!("not YAML: {error}"));
        Self { value }
    }

    /// The configuration as it is now.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// For changes that have no method here.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.value
    }

    /// As YAML, as a user writes it: Envoy reads it otherwise than JSON (a fraction becomes a text).
    pub fn to_yaml(&self) -> String {
        serde_norway::to_string(&self.value).expect("what was read as YAML can be written so")
    }

    // --- addresses ---------------------------------------------------------------------------------------------

    /// Lets the kernel choose all ports.
    #[must_use]
    pub fn free_ports(mut self) -> Self {
        set_port(&mut self.value["admin"]["address"], 0);
        for listener in self.listeners_mut() {
            set_port(&mut listener["address"], 0);
        }
        self
    }

    /// The first listener's address.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listener_mut()["address"] = socket_address(&address.into());
        self
    }

    /// The admin interface's address.
    #[must_use]
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.value["admin"]["address"] = socket_address(&address.into());
        self
    }

    /// Where a service is.
    #[must_use]
    pub fn upstream(mut self, service: &str, at: impl Into<HostPort>) -> Self {
        self.cluster_mut(service)["load_assignment"]["endpoints"] = endpoints(&[at.into()]);
        self
    }

    /// A service with several hosts.
    #[must_use]
    pub fn upstreams(mut self, service: &str, at: &[HostPort]) -> Self {
        self.cluster_mut(service)["load_assignment"]["endpoints"] = endpoints(at);
        self
    }

    /// Exactly these services, each at the path prefix `/v1/<name>`. One that the file has keeps its route and
    /// cluster; a new one gets those of the file's first service. The filter's settings of absent services go.
    #[must_use]
    pub fn only_services<'a>(mut self, services: impl IntoIterator<Item = &'a str>) -> Self {
        let old_routes = self.routes_mut().clone();
        let old_clusters = self.clusters_mut().clone();
        let mut routes = Vec::new();
        let mut clusters = Vec::new();
        for service in services {
            let cluster = old_clusters
                .iter()
                .find(|cluster| cluster["name"] == service);
            let mut cluster = cluster.unwrap_or(&old_clusters[0]).clone();
            cluster["name"] = json!(service);
            cluster["load_assignment"]["cluster_name"] = json!(service);
            clusters.push(cluster);

            let own: Vec<Value> = old_routes
                .iter()
                .filter(|route| route["route"]["cluster"] == service)
                .cloned()
                .collect();
            if own.is_empty() {
                let mut route = old_routes[0].clone();
                route["name"] = json!(service);
                route["match"] = json!({"path_separated_prefix": format!("/v1/{service}")});
                route["route"]["cluster"] = json!(service);
                routes.push(route);
            } else {
                routes.extend(own);
            }
        }
        let kept: Vec<Value> = clusters
            .iter()
            .map(|cluster| cluster["name"].clone())
            .collect();
        *self.routes_mut() = routes;
        *self.clusters_mut() = clusters;
        let mut plugin = self.plugin_configuration();
        if let Some(overrides) = plugin["services"].as_object_mut() {
            overrides.retain(|service, _| kept.iter().any(|name| name == service));
            self = self.plugin_exactly(&plugin);
        }
        self
    }

    // --- the filter --------------------------------------------------------------------------------------------

    /// The filter's wasm file.
    #[must_use]
    pub fn wasm_file(mut self, file: &Path) -> Self {
        self.filter_mut()["vm_config"]["code"]["local"]["filename"] = json!(file);
        self
    }

    /// Without Levee's filter: a bare gateway, to compare with.
    #[must_use]
    pub fn without_filter(mut self) -> Self {
        for filters in self.http_filter_lists_mut() {
            filters.retain(|filter| filter["name"] != "levee");
        }
        self
    }

    /// Whether Levee's filter is in it.
    pub fn has_filter(&self) -> bool {
        self.clone()
            .http_filter_lists_mut()
            .any(|filters| filters.iter().any(|filter| filter["name"] == "levee"))
    }

    /// Merges into the filter's configuration: objects key by key, anything else replaces, null takes out.
    #[must_use]
    pub fn plugin(self, patch: &Value) -> Self {
        let mut configuration = self.plugin_configuration();
        merge(&mut configuration, patch);
        self.plugin_exactly(&configuration)
    }

    /// Replaces the filter's configuration.
    #[must_use]
    pub fn plugin_exactly(mut self, configuration: &Value) -> Self {
        self.filter_mut()["configuration"] =
            json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": configuration});
        self
    }

    /// Replaces the filter's configuration by text, the other form in which Envoy hands it over.
    #[must_use]
    pub fn plugin_text(mut self, text: &str) -> Self {
        self.filter_mut()["configuration"] =
            json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text});
        self
    }

    /// The filter's configuration, where it isn't text. An absent one is empty.
    pub fn plugin_configuration(&self) -> Value {
        let mut copy = self.clone();
        match copy.filter_mut()["configuration"]["value"].take() {
            Value::Null => json!({}),
            Value::String(text) => panic!("the filter's configuration is text: {text}"),
            configuration => configuration,
        }
    }

    /// Lets backends see the limits that the filter set, in headers named by [`SEEN_WHOLE_LIMIT`] and
    /// [`SEEN_HEADER_LIMIT`]: Envoy's router takes the real ones away, from the access log too.
    #[must_use]
    pub fn show_limits_to_backends(mut self) -> Self {
        let copy =
            |name: &str, value: &str| json!({"append": {"header": {"key": name, "value": value}}});
        let filter = json!({
            "name": "show-limits",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                "mutations": {"request_mutations": [
                    copy(SEEN_WHOLE_LIMIT, "%REQ(X-ENVOY-UPSTREAM-RQ-TIMEOUT-MS)%"),
                    copy(SEEN_HEADER_LIMIT, "%REQ(X-ENVOY-UPSTREAM-RQ-PER-TRY-TIMEOUT-MS)%"),
                ]},
            },
        });
        for filters in self.http_filter_lists_mut() {
            let before_the_router = filters.len() - 1;
            filters.insert(before_the_router, filter.clone());
        }
        self
    }

    // --- services ----------------------------------------------------------------------------------------------

    /// Merges into a service's cluster.
    #[must_use]
    pub fn cluster(mut self, service: &str, patch: &Value) -> Self {
        merge(self.cluster_mut(service), patch);
        self
    }

    /// Merges into every route to a service.
    #[must_use]
    pub fn route(mut self, service: &str, patch: &Value) -> Self {
        let mut found = false;
        for route in self.routes_mut() {
            if route["route"]["cluster"] == service {
                merge(route, patch);
                found = true;
            }
        }
        assert!(found, "the configuration has no route to `{service}`");
        self
    }

    /// Puts a route before all others.
    #[must_use]
    pub fn first_route(mut self, route: Value) -> Self {
        self.routes_mut().insert(0, route);
        self
    }

    /// Merges into the settings of the HTTP connection manager.
    #[must_use]
    pub fn connection_manager(mut self, patch: &Value) -> Self {
        merge(self.connection_manager_mut(), patch);
        self
    }

    /// Dial and TLS handshake to a service.
    #[must_use]
    pub fn connect_timeout(self, service: &str, bound: Duration) -> Self {
        self.cluster(service, &json!({"connect_timeout": seconds(bound)}))
    }

    /// TLS to a service, whose certificate isn't looked at.
    #[must_use]
    pub fn upstream_tls(self, service: &str) -> Self {
        let context =
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        self.cluster(
            service,
            &json!({"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": context}}}),
        )
    }

    /// HTTP/2 to a service, as gRPC needs it.
    #[must_use]
    pub fn upstream_http2(self, service: &str) -> Self {
        self.cluster(
            service,
            &json!({"typed_extension_protocol_options": {HTTP_PROTOCOL_OPTIONS: {
                "@type": format!("type.googleapis.com/{HTTP_PROTOCOL_OPTIONS}"),
                "explicit_http_config": {"http_protocol_options": null, "http2_protocol_options": {}},
            }}}),
        )
    }

    /// No active health checks: then every connection that a backend sees is made for a request.
    #[must_use]
    pub fn without_health_checks(mut self) -> Self {
        for cluster in self.clusters_mut() {
            cluster
                .as_object_mut()
                .expect("a cluster is an object")
                .remove("health_checks");
        }
        self
    }

    // --- listener and logs ---------------------------------------------------------------------------------------

    /// TLS on the first listener, as `envoy/tls.yaml` has it.
    #[must_use]
    pub fn listener_tls(mut self, certificate: &Certificate) -> Self {
        let mut tls = Self::parse(TLS).value;
        let directory = certificate
            .certificate
            .parent()
            .expect("a file is in a directory");
        tls["transport_socket"]["typed_config"]["common_tls_context"]["tls_certificates"] = json!([{
            "certificate_chain": {"filename": certificate.certificate},
            "private_key": {"filename": certificate.key},
            "watched_directory": {"path": directory},
        }]);
        merge(&mut self.listener_mut()["filter_chains"][0], &tls);
        self
    }

    /// The access log's file. A configuration that has no access log gets one with the fields that tests ask for.
    #[must_use]
    pub fn access_log(mut self, file: &Path) -> Self {
        let format = Self::gateway().connection_manager_mut()["access_log"].clone();
        let log = &mut self.connection_manager_mut()["access_log"];
        if log.is_null() {
            *log = format;
        }
        log[0]["typed_config"]["path"] = json!(file);
        self
    }

    /// Moves the listeners into a file of their own (returned: its content), which Envoy reads again whenever another
    /// is moved to its place. `directory` is where it will be, as `name`.
    #[must_use]
    pub fn listeners_from_file(mut self, directory: &Path, name: &str) -> (Self, String) {
        let listeners = self.listeners_file();
        self.value["static_resources"]["listeners"] = json!([]);
        self.value["dynamic_resources"] = json!({"lds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": directory.join(name), "watched_directory": {"path": directory}},
        }});
        if self.value["node"].is_null() {
            // Envoy wants a node once anything is dynamic.
            self.value["node"] = json!({"id": "levee", "cluster": "levee"});
        }
        (self, listeners)
    }

    /// The listeners as a file for [`Self::listeners_from_file`].
    pub fn listeners_file(&self) -> String {
        let resources: Vec<Value> = self.value["static_resources"]["listeners"]
            .as_array()
            .expect("static_resources.listeners is a list")
            .iter()
            .map(|listener| {
                let mut listener = listener.clone();
                listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
                listener
            })
            .collect();
        format!("{:#}\n", json!({"resources": resources}))
    }

    // --- the places ----------------------------------------------------------------------------------------------

    fn listeners_mut(&mut self) -> &mut Vec<Value> {
        list(
            &mut self.value["static_resources"]["listeners"],
            "static_resources.listeners",
        )
    }

    fn listener_mut(&mut self) -> &mut Value {
        self.listeners_mut().first_mut().expect("a listener")
    }

    fn connection_manager_mut(&mut self) -> &mut Value {
        &mut self.listener_mut()["filter_chains"][0]["filters"][0]["typed_config"]
    }

    fn http_filter_lists_mut(&mut self) -> impl Iterator<Item = &mut Vec<Value>> {
        self.listeners_mut().iter_mut().map(|listener| {
            let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            list(&mut manager["http_filters"], "http_filters")
        })
    }

    fn routes_mut(&mut self) -> &mut Vec<Value> {
        list(
            &mut self.connection_manager_mut()["route_config"]["virtual_hosts"][0]["routes"],
            "routes",
        )
    }

    fn clusters_mut(&mut self) -> &mut Vec<Value> {
        list(
            &mut self.value["static_resources"]["clusters"],
            "static_resources.clusters",
        )
    }

    fn cluster_mut(&mut self, service: &str) -> &mut Value {
        self.clusters_mut()
            .iter_mut()
            .find(|cluster| cluster["name"] == service)
            .unwrap_or_else(|| panic!("the configuration has no cluster `{service}`"))
    }

    fn filter_mut(&mut self) -> &mut Value {
        let filters = self.http_filter_lists_mut().next().expect("a listener");
        let filter = filters
            .iter_mut()
            .find(|filter| filter["name"] == "levee")
            .expect("a filter named `levee`");
        &mut filter["typed_config"]["config"]
    }
}

/// A duration as Envoy writes it: `0.250s`.
pub fn seconds(duration: Duration) -> String {
    format!("{:.3}s", duration.as_secs_f64())
}

fn list<'a>(value: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    value
        .as_array_mut()
        .unwrap_or_else(|| panic!("the configuration has no list `{name}`"))
}

fn socket_address(at: &HostPort) -> Value {
    json!({"socket_address": {"address": at.host, "port_value": at.port}})
}

fn endpoints(at: &[HostPort]) -> Value {
    let hosts: Vec<Value> = at
        .iter()
        .map(|at| json!({"endpoint": {"address": socket_address(at)}}))
        .collect();
    json!([{"lb_endpoints": hosts}])
}

fn set_port(address: &mut Value, port: u16) {
    address["socket_address"]["port_value"] = json!(port);
}

/// Merges `patch` into `target` as RFC 7396 says.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().expect("made an object above");
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EnvoyConfig, HostPort};
    use serde_json::json;

    #[test]
    fn addresses_are_read_and_what_is_none_is_refused() {
        for good in [
            "127.0.0.1:9001",
            "localhost:80",
            "auth.internal:8080",
            "[::1]:9001",
            "my_svc-1:1",
        ] {
            assert_eq!(
                good.parse::<HostPort>().map(|at| at.to_string()),
                Ok(good.to_string())
            );
        }
        for bad in [
            "",
            "9001",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:70000",
            "a..b:1",
            "a b:1",
            ":1",
            "1.2.3:4",
            "999.0.0.1:80",
            "http://a:1",
        ] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_new_service_gets_route_and_cluster_and_absent_ones_leave_no_settings() {
        let mut config = EnvoyConfig::gateway()
            .plugin(&json!({"services": {"auth": {}, "billing": {}}}))
            .only_services(["billing", "storage"]);
        let names: Vec<String> = config
            .clusters_mut()
            .iter()
            .map(|cluster| cluster["name"].to_string())
            .collect();
        assert_eq!(names, ["\"billing\"", "\"storage\""]);
        assert_eq!(
            config.routes_mut()[0]["match"],
            json!({"path_separated_prefix": "/v1/billing"})
        );
        assert_eq!(
            config.routes_mut()[1]["route"]["timeout"],
            "60s",
            "the file's own route is kept"
        );
        assert_eq!(
            config.plugin_configuration()["services"],
            json!({"billing": {}})
        );
    }
}
