//! Small services to try the gateway on. Each says who it is, and fails or dawdles when asked to.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::args::Upstream;
use crate::failure::Failure;

/// The services of the audited system.
const NAMES: [&str; 4] = ["auth", "chat", "video", "storage"];

/// No request is held longer, whatever it asks for.
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// All demonstration services. Dropping it ends them.
#[derive(Debug)]
pub struct Demo {
    upstreams: Vec<Upstream>,
    _serving: JoinSet<()>,
}

struct Service {
    name: &'static str,
    failing: AtomicBool,
    requests: AtomicU64,
}

impl Demo {
    /// Starts each on a free port of 127.0.0.1.
    pub async fn start() -> Result<Self, Failure> {
        let mut serving = JoinSet::new();
        let mut upstreams = Vec::new();
        for name in NAMES {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .map_err(Failure::other)?;
            let at = listener.local_addr().map_err(Failure::other)?.into();
            upstreams.push(Upstream {
                name: name.into(),
                at,
                grpc: false,
            });
            let service = Service {
                name,
                failing: AtomicBool::new(false),
                requests: AtomicU64::new(0),
            };
            serving.spawn(serve(listener, Arc::new(service)));
        }
        Ok(Self {
            upstreams,
            _serving: serving,
        })
    }

    /// Where they are.
    pub fn upstreams(&self) -> Vec<Upstream> {
        self.upstreams.clone()
    }
}

async fn serve(listener: TcpListener, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, say: going on at once would only burn a core.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let service = Arc::clone(&service);
        connections.spawn(async move {
            let answer = service_fn(move |request| answer(Arc::clone(&service), request));
            // How a connection ends is the other side's business.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    service: Arc<Service>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    // An upload is read and thrown away.
    while let Some(Ok(_)) = body.frame().await {}
    let path = head.uri.path();
    if path == "/demo/fail" || path == "/demo/recover" {
        return Ok(switch(&service, &head.method, path == "/demo/fail"));
    }
    let number = service.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let asked = Asked::from_query(head.uri.query().unwrap_or_default());
    tokio::time::sleep(asked.delay).await;
    let status = asked
        .status
        .unwrap_or(if service.failing.load(Ordering::Relaxed) {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        });
    Ok(json_answer(
        status,
        &json!({"service": service.name, "path": path, "request": number}),
    ))
}

fn switch(service: &Service, method: &Method, failing: bool) -> Response<Full<Bytes>> {
    if method != Method::POST {
        return json_answer(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({"error": "use POST"}),
        );
    }
    service.failing.store(failing, Ordering::Relaxed);
    json_answer(
        StatusCode::OK,
        &json!({"service": service.name, "failing": failing}),
    )
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// What a request asks for in its query. What isn't understood is left out.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    status: Option<StatusCode>,
    delay: Duration,
}

impl Asked {
    fn from_query(query: &str) -> Self {
        let mut asked = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "status" => {
                    asked.status = value
                        .parse()
                        .ok()
                        .filter(|status| (200..=599).contains(status))
                        .and_then(|status| StatusCode::from_u16(status).ok());
                }
                "delay" => {
                    asked.delay = humantime::parse_duration(value)
                        .unwrap_or_default()
                        .min(LONGEST_DELAY);
                }
                _ => {}
            }
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, LONGEST_DELAY};
    use http::StatusCode;
    use std::time::Duration;

    #[test]
    fn what_a_request_asks_for_is_bounded() {
        let asked = Asked::from_query("x=1&status=503&delay=250ms");
        let wanted = Asked {
            status: Some(StatusCode::SERVICE_UNAVAILABLE),
            delay: Duration::from_millis(250),
        };
        assert_eq!(asked, wanted);
        assert_eq!(Asked::from_query("status=99&delay=soon"), Asked::default());
        assert_eq!(Asked::from_query("delay=1year").delay, LONGEST_DELAY);
    }
}
