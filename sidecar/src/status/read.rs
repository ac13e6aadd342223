//! Asking the sidecar for the status.

use super::view::{Source, Status};
use crate::fetch::{self, Origin};
use crate::yaml;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// More than the sidecar itself waits for Envoy.
const WITHIN: Duration = Duration::from_secs(6);

const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The sidecar's answer, or a status that says why there is none.
pub async fn read(admin: &Origin) -> Status {
    let problem = match fetch::get(admin, "/v1/status", WITHIN, MAX_BYTES).await {
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

/// The sidecar's address by its configuration, or the default without a file. Only `admin.listen` is read, so a user of
/// `levee status` doesn't need the sidecar's secrets.
///
/// # Errors
/// The file can't be read, or has no valid address.
pub fn admin_of(config: Option<&Path>) -> Result<Origin, String> {
    let default = Path::new("levee.yaml");
    let file = config.or_else(|| default.is_file().then_some(default));
    let mut listen = SocketAddr::from(([127, 0, 0, 1], 9464));
    if let Some(file) = file {
        let named = |error: &dyn Display| format!("{}: {error}", file.display());
        let text = yaml::read_file(file).map_err(|error| named(&error))?;
        listen = admin_listen(&text)
            .map_err(|mistake| format!("{}:{}: {}", file.display(), mistake.line, mistake.message))?
            .unwrap_or(listen);
    }
    // An address that listens on every interface is reachable here as well.
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Origin::parse(&format!("http://{}", SocketAddr::new(ip, listen.port())))
}

/// Ignores the rest of the configuration, valid or not.
fn admin_listen(text: &str) -> Result<Option<SocketAddr>, yaml::Mistake> {
    let root = yaml::parse(text)?.root;
    let admin = root.get("admin");
    let Some(written) = admin.and_then(|admin| admin.value.get("listen")) else {
        return Ok(None);
    };
    if written.value.is_null() {
        return Ok(None);
    }
    let address = written.value.text().and_then(|text| text.parse().ok());
    address.map(Some).ok_or_else(|| yaml::Mistake {
        line: written.line,
        message: "admin.listen: is not an address with a port".to_owned(),
    })
}
