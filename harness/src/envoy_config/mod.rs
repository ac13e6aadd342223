//! `envoy/*.yaml`, loaded and changed for a test or a demonstration.
//!
//! | file | the one thing in it |
//! |---|---|
//! | `mod.rs` | loading and writing, addresses, listeners, logs |
//! | `filter.rs` | Levee's filter and its configuration |
//! | `services.rs` | routes and clusters |
//! | `tree.rs` | places in the configuration |
//!
//! The files are complete and run as they are. Changes are chained; the first one that does not find its place is reported
//! when the configuration is written.

mod filter;
mod services;
mod tree;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::certificate::Certificate;
use crate::error::{Context, Error, Result};
use crate::host_port::HostPort;
use tree::{at, list, merge};

pub use filter::{SEEN_HEADER_LIMIT, SEEN_WHOLE_LIMIT};

const GATEWAY: &str = include_str!("../../../envoy/gateway.yaml");
const MINIMAL: &str = include_str!("../../../envoy/minimal.yaml");
const TLS: &str = include_str!("../../../envoy/tls.yaml");

const LISTENERS: &str = "/static_resources/listeners";

/// The first listener's HTTP connection manager.
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// An Envoy configuration that can be changed before it is written.
#[derive(Debug, Clone)]
pub struct EnvoyConfig {
    value: Value,
    /// The first failure, reported by [`Self::to_yaml`].
    error: Option<Error>,
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
        let parsed = serde_norway::from_str(yaml).context("Envoy's configuration is not YAML");
        let (value, error) = match parsed {
            Ok(value) => (value, None),
            Err(error) => (Value::Null, Some(error)),
        };
        Self { value, error }
    }

    /// The configuration as it is now.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// For changes that have no method here.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.value
    }

    /// As YAML, as users write it. Envoy reads JSON differently: a fraction becomes a string.
    pub fn to_yaml(&self) -> Result<String> {
        self.check()?;
        serde_norway::to_string(&self.value).context("write Envoy's configuration")
    }

    /// The first failure of the changes so far.
    fn check(&self) -> Result<()> {
        self.error.clone().map_or(Ok(()), Err)
    }

    fn change(mut self, change: impl FnOnce(&mut Value) -> Result<()>) -> Self {
        if self.error.is_none() {
            self.error = change(&mut self.value).err();
        }
        self
    }

    // --- addresses ---------------------------------------------------------------------------------------------

    /// Lets the kernel choose all ports.
    #[must_use]
    pub fn free_ports(self) -> Self {
        self.change(|value| {
            set_port(at(value, "/admin/address")?)?;
            for listener in list(value, LISTENERS)? {
                set_port(at(listener, "/address")?)?;
            }
            Ok(())
        })
    }

    /// The first listener's address.
    #[must_use]
    pub fn listen(self, address: SocketAddr) -> Self {
        self.change(|value| {
            let place = at(value, "/static_resources/listeners/0/address")?;
            *place = socket_address(&address.into());
            Ok(())
        })
    }

    /// The admin interface's address.
    #[must_use]
    pub fn admin(self, address: SocketAddr) -> Self {
        self.change(|value| {
            *at(value, "/admin/address")? = socket_address(&address.into());
            Ok(())
        })
    }

    // --- listener and logs ---------------------------------------------------------------------------------------

    /// Merges into the settings of the HTTP connection manager.
    #[must_use]
    pub fn connection_manager(self, patch: &Value) -> Self {
        self.change(|value| {
            merge(at(value, MANAGER)?, patch);
            Ok(())
        })
    }

    /// TLS on the first listener, as in `envoy/tls.yaml`.
    #[must_use]
    pub fn listener_tls(self, certificate: &Certificate) -> Self {
        self.change(|value| {
            let mut tls: Value = serde_norway::from_str(TLS).context("envoy/tls.yaml")?;
            let certificates = "/transport_socket/typed_config/common_tls_context/tls_certificates";
            *at(&mut tls, certificates)? = json!([{
                "certificate_chain": {"filename": certificate.certificate},
                "private_key": {"filename": certificate.key},
                "watched_directory": {"path": certificate.certificate.parent()},
            }]);
            merge(
                at(value, "/static_resources/listeners/0/filter_chains/0")?,
                &tls,
            );
            Ok(())
        })
    }

    /// HTTP/3 on the first listener in place of HTTP/1.1 and 2: a UDP port.
    #[must_use]
    pub fn http3(self, certificate: &Certificate) -> Self {
        let quic = "type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport";
        let patch = json!({
            "address": {"socket_address": {"protocol": "UDP"}},
            "udp_listener_config": {"quic_options": {}},
            // Only for connections of TCP.
            "per_connection_buffer_high_watermark_timeout": null,
        });
        let transport = json!({
            "name": "envoy.transport_sockets.quic",
            "typed_config": {"@type": quic, "downstream_tls_context": {"common_tls_context": {
                "tls_certificates": [{
                    "certificate_chain": {"filename": certificate.certificate},
                    "private_key": {"filename": certificate.key},
                }],
            }}},
        });
        self.connection_manager(&json!({"codec_type": "HTTP3", "http2_protocol_options": null}))
            .change(|value| {
                let listener = at(value, "/static_resources/listeners/0")?;
                merge(listener, &patch);
                *at(listener, "/filter_chains/0/transport_socket")? = transport;
                Ok(())
            })
    }

    /// The access log's file. A configuration without an access log gets that of `envoy/gateway.yaml`.
    #[must_use]
    pub fn access_log(self, file: &Path) -> Self {
        self.change(|value| {
            let log = at(at(value, MANAGER)?, "/access_log")?;
            if log.is_null() {
                let mut gateway = Self::gateway().value;
                *log = at(at(&mut gateway, MANAGER)?, "/access_log")?.take();
            }
            *at(log, "/0/typed_config/path")? = json!(file);
            Ok(())
        })
    }

    /// Moves the listeners into a file of their own, which Envoy reads again whenever another file is moved there.
    /// `directory` is where it will be, as `name`. Returns its content too.
    pub fn listeners_from_file(mut self, directory: &Path, name: &str) -> Result<(Self, String)> {
        let listeners = self.listeners_file()?;
        self = self.change(|value| {
            *at(value, LISTENERS)? = json!([]);
            *at(value, "/dynamic_resources")? = json!({"lds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": directory.join(name), "watched_directory": {"path": directory}},
            }});
            let node = at(value, "/node")?;
            if node.is_null() {
                // Envoy requires a node once anything is dynamic.
                *node = json!({"id": "levee", "cluster": "levee"});
            }
            Ok(())
        });
        Ok((self, listeners))
    }

    /// The listeners as a file for [`Self::listeners_from_file`].
    pub fn listeners_file(&self) -> Result<String> {
        self.check()?;
        let mut listeners = self.value.pointer(LISTENERS).cloned().unwrap_or_default();
        for listener in list(&mut listeners, "")? {
            *at(listener, "/@type")? =
                json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        }
        Ok(format!("{:#}\n", json!({"resources": listeners})))
    }
}

/// A duration as Envoy writes it: `0.250s`.
pub fn seconds(duration: Duration) -> String {
    format!("{:.3}s", duration.as_secs_f64())
}

fn socket_address(at: &HostPort) -> Value {
    json!({"socket_address": {"address": at.host, "port_value": at.port}})
}

fn set_port(address: &mut Value) -> Result<()> {
    *at(address, "/socket_address/port_value")? = json!(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_that_finds_no_place_is_reported_when_the_configuration_is_written() {
        let config = EnvoyConfig::gateway()
            .route("billing", &json!({}))
            .cluster("nobody", &json!({}));
        let error = config.to_yaml().unwrap_err().to_string();
        assert_eq!(error, "the configuration has no route to `billing`");
    }
}
