//! Addresses to listen on, and addresses of Redis servers.

use super::secret::{Secret, secret};
use levee_config::reader::Section;
use std::net::SocketAddr;
use std::path::PathBuf;
use url::Url;

const RIGHT: &str = "redis://host:port or rediss://host:port";

/// A Redis server, and how Levee's own connections log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether to speak TLS.
    pub tls: bool,
    /// The database of Levee's own connections.
    pub database: i64,
    /// The user of Levee's own connections.
    pub username: Option<String>,
    /// The password of Levee's own connections.
    pub password: Option<Secret>,
    /// Certificates that are trusted in place of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// The client's key, PEM.
    pub key_file: Option<PathBuf>,
}

/// An address to listen on.
pub(super) fn listen_address(s: &mut Section<'_>, field: &'static str) -> Option<SocketAddr> {
    let text = s.text(field)?;
    let address = text.parse().ok();
    if address.is_none() {
        s.error(
            field,
            &format!("{text:?} is not an address with a port such as \"127.0.0.1:6380\""),
        );
    }
    address
}

/// The Redis that services' commands go to.
pub(super) fn read_upstream(s: &mut Section<'_>) -> Address {
    let upstream = read_address(s, "upstream");
    if upstream.database != 0 {
        s.error(
            "upstream",
            "names a database; services choose theirs by SELECT, so leave it out",
        );
    }
    upstream
}

/// Reads `redis://[user@]host[:port][/database]`, and the keys beside it.
pub(super) fn read_address(s: &mut Section<'_>, field: &'static str) -> Address {
    let mut address = Address {
        host: String::new(),
        port: 6379,
        tls: false,
        database: 0,
        username: s.text("username"),
        password: secret(s, "password_env", "password_file"),
        ca_file: None,
        cert_file: None,
        key_file: None,
    };
    read_tls(s, &mut address);
    let Some(text) = s.text(field) else {
        return address;
    };
    let Ok(url) = Url::parse(&text) else {
        // Not shown: it may contain a password.
        s.error(field, &format!("is not a URL; it must be {RIGHT}"));
        return address;
    };
    read_url(s, field, &url, &mut address);
    address
}

fn read_tls(s: &mut Section<'_>, address: &mut Address) {
    s.section("tls", |s| {
        address.ca_file = s.text("ca_file").map(PathBuf::from);
        address.cert_file = s.text("cert_file").map(PathBuf::from);
        address.key_file = s.text("key_file").map(PathBuf::from);
        if address.cert_file.is_some() != address.key_file.is_some() {
            s.error(
                "",
                "cert_file and key_file belong together; give both or none",
            );
        }
    });
}

fn read_url(s: &mut Section<'_>, field: &'static str, url: &Url, address: &mut Address) {
    match url.scheme() {
        "redis" => {}
        "rediss" => address.tls = true,
        other => s.error(field, &format!("begins with {other:?}; it must be {RIGHT}")),
    }
    let has_files = address.ca_file.is_some() || address.cert_file.is_some();
    if has_files && url.scheme() == "redis" {
        s.error(
            "tls",
            "is set, but redis:// is without TLS; write rediss://, or leave it out",
        );
    }
    if url.password().is_some() {
        s.error(
            field,
            "holds a password; name it by password_env or password_file",
        );
    }
    match url.host() {
        Some(url::Host::Ipv6(ip)) => address.host = ip.to_string(),
        Some(host) => {
            address.host = host.to_string();
            if !may_be_a_host(&address.host) {
                // Not shown: with a mistake in the URL it may be a password.
                s.error(
                    field,
                    &format!(
                        "names a host that is neither a name nor an address; it must be {RIGHT}, and variables such as \
                         ${{NAME}} are not replaced"
                    ),
                );
            }
        }
        None => s.error(field, &format!("names no host; it must be {RIGHT}")),
    }
    address.port = url.port().unwrap_or(6379);
    if !url.username().is_empty() {
        address.username = Some(url.username().to_owned());
    }
    let path = url.path().trim_matches('/');
    if !path.is_empty() {
        match path.parse() {
            Ok(database) => address.database = database,
            Err(_) => s.error(field, "has a path that is not the number of a database"),
        }
    }
    if url.query().is_some() || url.fragment().is_some() {
        s.error(
            field,
            &format!("has a query or fragment; it must be {RIGHT}"),
        );
    }
}

/// A name, or an IPv4 address. Underscores are in names of containers.
fn may_be_a_host(host: &str) -> bool {
    host.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}
