//! One HTTP request, bounded in time and size.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

use crate::resolve::Resolver;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::http::request::Builder;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    host: String,
    port: u16,
}

impl Origin {
    /// # Errors
    /// What is wrong, and what would be right. The error doesn't repeat the text, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let right = "it must be http://host:port, such as \"http://127.0.0.1:9901\"";
        let url = url::Url::parse(text).map_err(|_| format!("is not a URL; {right}"))?;
        if url.scheme() != "http" {
            return Err(format!("begins with {:?}; {right}", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("names a user; {right}"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("has something after the port; {right}"));
        }
        let Some(host) = url.host() else {
            return Err(format!("names no host; {right}"));
        };
        // The parser drops the scheme's default port.
        let Some(port) = url.port_or_known_default() else {
            return Err(format!("names no port; {right}"));
        };
        let host = match host {
            url::Host::Ipv6(ip) => ip.to_string(),
            other => other.to_string(),
        };
        Ok(Self { host, port })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no page. As text, the rest of a sentence such as "Envoy ...".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("can't be reached: {0}")]
    Unreachable(String),
    /// No connection, or no complete answer, in time.
    #[error("has not answered within {}", humantime::format_duration(*.0))]
    Slow(Duration),
    /// Not 200.
    #[error("answered with status {0}")]
    Status(u16),
    /// Longer than this limit in bytes.
    #[error("answered with more than {0} bytes")]
    Long(usize),
    /// Not HTTP, or cut short.
    #[error("answered with something that can't be read: {0}")]
    Broken(String),
}

/// The page at `path`, of at most `limit` bytes, with `within` for all of it.
///
/// # Errors
/// There is no such page, with the reason.
pub async fn get(
    origin: &Origin,
    path: &str,
    within: Duration,
    limit: usize,
) -> Result<Vec<u8>, Failure> {
    let page = tokio::time::timeout(within, ask(origin, Request::get(path), limit))
        .await
        .unwrap_or(Err(Failure::Slow(within)))?;
    if page.status == 200 {
        Ok(page.body)
    } else {
        Err(Failure::Status(page.status))
    }
}

/// An answer with any status.
#[derive(Clone, Debug)]
pub struct Page {
    pub status: u16,
    pub body: Vec<u8>,
}

/// The answer to a POST with a bearer token, bounded as that of [`get`].
///
/// # Errors
/// There is no answer, with the reason.
pub async fn post(
    origin: &Origin,
    path: &str,
    token: &str,
    within: Duration,
    limit: usize,
) -> Result<Page, Failure> {
    let request = Request::post(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
    tokio::time::timeout(within, ask(origin, request, limit))
        .await
        .unwrap_or(Err(Failure::Slow(within)))
}

/// The name is looked up on a thread of its own, not on one that others need.
async fn connect(origin: &Origin) -> io::Result<TcpStream> {
    let resolver = Resolver::new(&origin.host, origin.port);
    TcpStream::connect(resolver.addresses().await?.as_slice()).await
}

async fn ask(origin: &Origin, request: Builder, limit: usize) -> Result<Page, Failure> {
    let stream = connect(origin)
        .await
        .map_err(|error| Failure::Unreachable(error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    // Ends with this request, even if the caller gives up.
    let _connection = AbortOnDrop(tokio::spawn(connection));
    let host = origin.to_string();
    let request = request
        .header(header::HOST, host.trim_start_matches("http://"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| broken(&error))?;
    let status = answer.status().as_u16();
    let (mut body, mut page) = (answer.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if data.len() > limit - page.len() {
            return Err(Failure::Long(limit));
        }
        page.extend_from_slice(data);
    }
    Ok(Page { status, body: page })
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn broken(error: &(dyn Error + 'static)) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Failure::Broken(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_host_and_a_port_and_nothing_else() {
        for (text, shown) in [
            ("http://127.0.0.1:9901", "http://127.0.0.1:9901"),
            ("http://envoy:80/", "http://envoy:80"),
            ("http://[::1]:9901", "http://[::1]:9901"),
        ] {
            assert_eq!(Origin::parse(text).unwrap().to_string(), shown);
        }
        for (text, wrong) in [
            ("127.0.0.1:9901", "is not a URL"),
            ("https://envoy:9901", "begins with \"https\""),
            ("http://u:hidden@envoy:9901", "names a user"),
            ("http://envoy:9901/stats", "has something after the port"),
            ("http://envoy:9901?a", "has something after the port"),
            ("http://:9901", "is not a URL"),
            ("unix:/run/envoy", "begins with \"unix\""),
        ] {
            let said = Origin::parse(text).unwrap_err();
            assert!(said.starts_with(wrong), "{text}: {said}");
            assert!(!said.contains("hidden"));
        }
    }
}
