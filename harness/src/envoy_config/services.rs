//! Services: their routes and clusters.

use std::time::Duration;

use serde_json::{Value, json};

use super::tree::{at, list, merge};
use super::{EnvoyConfig, MANAGER, filter, seconds, socket_address};
use crate::error::{Error, Result};
use crate::host_port::HostPort;

const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

impl EnvoyConfig {
    /// Where a service is.
    #[must_use]
    pub fn upstream(self, service: &str, at: impl Into<HostPort>) -> Self {
        self.upstreams(service, &[at.into()])
    }

    /// The hosts of a service.
    #[must_use]
    pub fn upstreams(self, service: &str, hosts: &[HostPort]) -> Self {
        self.change(|value| {
            let endpoints: Vec<Value> = hosts
                .iter()
                .map(|host| json!({"endpoint": {"address": socket_address(host)}}))
                .collect();
            *at(cluster(value, service)?, "/load_assignment/endpoints")? =
                json!([{"lb_endpoints": endpoints}]);
            Ok(())
        })
    }

    /// Exactly these services, each at the path prefix `/v1/<name>`. One that the file has keeps its route and cluster; a
    /// new one gets copies of the first service's. The filter's settings of absent services are removed.
    #[must_use]
    pub fn only_services<'a>(self, services: impl IntoIterator<Item = &'a str>) -> Self {
        self.change(|value| {
            let old_routes = routes(value)?.clone();
            let old_clusters = clusters(value)?.clone();
            let mut new_routes = Vec::new();
            let mut new_clusters = Vec::new();
            let services: Vec<&str> = services.into_iter().collect();
            for &service in &services {
                new_clusters.push(cluster_for(service, &old_clusters)?);
                new_routes.extend(routes_for(service, &old_routes)?);
            }
            *routes(value)? = new_routes;
            *clusters(value)? = new_clusters;
            let mut plugin = filter::configuration(value)?;
            if let Some(overrides) = at(&mut plugin, "/services")?.as_object_mut() {
                overrides.retain(|service, _| services.contains(&service.as_str()));
                filter::set_configuration(value, &plugin)?;
            }
            Ok(())
        })
    }

    /// Merges into a service's cluster.
    #[must_use]
    pub fn cluster(self, service: &str, patch: &Value) -> Self {
        self.change(|value| {
            merge(cluster(value, service)?, patch);
            Ok(())
        })
    }

    /// Merges into every route to a service.
    #[must_use]
    pub fn route(self, service: &str, patch: &Value) -> Self {
        self.change(|value| {
            let mut found = false;
            for route in routes(value)? {
                if leads_to(route, service) {
                    merge(route, patch);
                    found = true;
                }
            }
            found
                .then_some(())
                .ok_or_else(|| Error::new(format!("the configuration has no route to `{service}`")))
        })
    }

    /// Puts a route before all others.
    #[must_use]
    pub fn first_route(self, route: Value) -> Self {
        self.change(|value| {
            routes(value)?.insert(0, route);
            Ok(())
        })
    }

    /// The limit for dial and TLS handshake to a service.
    #[must_use]
    pub fn connect_timeout(self, service: &str, bound: Duration) -> Self {
        self.cluster(service, &json!({"connect_timeout": seconds(bound)}))
    }

    /// TLS to a service, without verifying its certificate.
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

    /// No active health checks, so that every connection to a backend is made for a request.
    #[must_use]
    pub fn without_health_checks(self) -> Self {
        self.change(|value| {
            for cluster in clusters(value)? {
                merge(cluster, &json!({"health_checks": null}));
            }
            Ok(())
        })
    }
}

fn routes(value: &mut Value) -> Result<&mut Vec<Value>> {
    list(at(value, MANAGER)?, "/route_config/virtual_hosts/0/routes")
}

fn clusters(value: &mut Value) -> Result<&mut Vec<Value>> {
    list(value, "/static_resources/clusters")
}

fn cluster<'a>(value: &'a mut Value, service: &str) -> Result<&'a mut Value> {
    clusters(value)?
        .iter_mut()
        .find(|cluster| cluster["name"] == service)
        .ok_or_else(|| Error::new(format!("the configuration has no cluster `{service}`")))
}

/// The cluster of `service` among `old`, or a copy of the first one.
fn cluster_for(service: &str, old: &[Value]) -> Result<Value> {
    let own = old.iter().find(|cluster| cluster["name"] == service);
    let mut cluster = own
        .or(old.first())
        .cloned()
        .ok_or_else(|| Error::new("the configuration has no cluster"))?;
    *at(&mut cluster, "/name")? = json!(service);
    *at(&mut cluster, "/load_assignment/cluster_name")? = json!(service);
    Ok(cluster)
}

/// The routes to `service` among `old`, or a copy of the first one.
fn routes_for(service: &str, old: &[Value]) -> Result<Vec<Value>> {
    let to_it = old.iter().filter(|route| leads_to(route, service));
    let own: Vec<Value> = to_it.cloned().collect();
    if !own.is_empty() {
        return Ok(own);
    }
    let mut route = old
        .first()
        .cloned()
        .ok_or_else(|| Error::new("the configuration has no route"))?;
    *at(&mut route, "/name")? = json!(service);
    *at(&mut route, "/match")? = json!({"path_separated_prefix": format!("/v1/{service}")});
    *at(&mut route, "/route/cluster")? = json!(service);
    Ok(vec![route])
}

fn leads_to(route: &Value, service: &str) -> bool {
    route["route"]["cluster"] == service
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_service_gets_route_and_cluster_and_absent_ones_leave_no_settings() {
        let mut value = EnvoyConfig::gateway()
            .plugin(&json!({"services": {"auth": {}, "billing": {}}}))
            .only_services(["billing", "storage"])
            .value;
        let names: Vec<String> = clusters(&mut value)
            .unwrap()
            .iter()
            .map(|cluster| cluster["name"].to_string())
            .collect();
        assert_eq!(names, ["\"billing\"", "\"storage\""]);
        assert_eq!(
            routes(&mut value).unwrap()[0]["match"],
            json!({"path_separated_prefix": "/v1/billing"})
        );
        assert_eq!(
            routes(&mut value).unwrap()[1]["route"]["timeout"],
            "60s",
            "the file's own route is kept"
        );
        assert_eq!(
            filter::configuration(&mut value).unwrap()["services"],
            json!({"billing": {}})
        );
    }
}
