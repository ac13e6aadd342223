//! Asking the sidecar for the status.

use super::view::{Source, Status};
use crate::fetch::{self, Origin};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// How long the sidecar may take. It gives up on Envoy sooner.
const WITHIN: Duration = Duration::from_secs(6);

/// The longest answer, in bytes.
const LONGEST: usize = 16 * 1024 * 1024;

/// What the sidecar says; or that it says nothing, and why.
pub async fn read(admin: &Origin) -> Status {
    let problem = match fetch::get(admin, "/v1/status", WITHIN, LONGEST).await {
        Ok(page) => match serde_json::from_slice::<Status>(&page) {
            Ok(mut status) => {
                status.sidecar = source(admin, None);
                return status;
            }
            Err(error) => format!("answered with something that is not a status: {error}"),
        },
        Err(failure) => failure.to_string(),
    };
    Status {
        sidecar: source(admin, Some(problem)),
        ..Status::default()
    }
}

fn source(admin: &Origin, problem: Option<String>) -> Source {
    Source {
        configured: true,
        address: Some(admin.to_string()),
        problem,
    }
}

/// Where the sidecar is, by its configuration. Only `admin.listen` is looked at: whoever wants to see the status need not
/// have the sidecar's secrets. Without a file, the default.
///
/// # Errors
/// The file can't be read, or has no valid address.
pub fn admin_of(config: Option<&Path>) -> Result<Origin, String> {
    let usual = Path::new("levee.yaml");
    let file = config.or_else(|| usual.is_file().then_some(usual));
    let mut listen = SocketAddr::from(([127, 0, 0, 1], 9464));
    if let Some(file) = file {
        let said = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| said(&error))?;
        let yaml: serde_json::Value =
            serde_norway::from_str(&text).map_err(|error| said(&error))?;
        let written = &yaml["admin"]["listen"];
        if !written.is_null() {
            listen = written
                .as_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| said(&"admin.listen: is not an address with a port"))?;
        }
    }
    // One that listens everywhere is here as well.
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Origin::parse(&format!("http://{}", SocketAddr::new(ip, listen.port())))
}
