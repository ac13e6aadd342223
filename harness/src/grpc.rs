//! A scripted gRPC service and a client for it. Messages are opaque bytes.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::backend::listen;
use crate::client::{Answer, Connection, NoAnswer, Request};
use crate::error::{Context, Result};
use crate::lock::lock;
use crate::runtime::{Serving, accept_each};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Status numbers that tests use.
pub mod status {
    #![allow(missing_docs, reason = "the names are gRPC's own")]
    pub const OK: u32 = 0;
    pub const UNKNOWN: u32 = 2;
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const NOT_FOUND: u32 = 5;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
    pub const DATA_LOSS: u32 = 15;
}

/// What the service does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcBehaviour {
    /// A message, then this status in the trailers. To a health check the message says that it serves.
    Trailers(u32),
    /// No message: the status is in the headers ("trailers-only").
    TrailersOnly(u32),
    /// As [`Self::TrailersOnly`], after a delay.
    Late(Duration, u32),
    /// Resets the stream after a delay, without an answer.
    ResetAfter(Duration),
    /// Never answers.
    Stall,
    /// Headers and a message, but never the trailers.
    StallInStream,
}

/// What a gRPC backend has seen.
#[derive(Clone, Debug, Default)]
pub struct GrpcSeen {
    /// All calls.
    pub calls: usize,
    /// Calls without an answer yet.
    pub in_flight: usize,
    /// Calls whose stream was reset before the answer began.
    pub cancelled: usize,
    /// The headers of the last call.
    pub last_headers: HeaderMap,
}

struct Shared {
    behaviour: Mutex<GrpcBehaviour>,
    seen: Mutex<GrpcSeen>,
}

/// The service. Dropping it closes its port and all connections.
#[derive(Debug)]
pub struct GrpcBackend {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: Serving,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

type Body = BoxBody<Bytes, Infallible>;

/// Makes hyper reset the stream of a call.
#[derive(Debug)]
struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the script resets this call")
    }
}

impl std::error::Error for Reset {}

impl GrpcBackend {
    /// Starts one that answers OK.
    pub fn start() -> Result<Self> {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener
            .local_addr()
            .context("the address of a gRPC backend")?;
        let behaviour = Mutex::new(GrpcBehaviour::Trailers(status::OK));
        let shared = Arc::new(Shared {
            behaviour,
            seen: Mutex::default(),
        });
        let for_task = Arc::clone(&shared);
        let serving = accept_each(listener, move |stream| {
            let shared = Arc::clone(&for_task);
            async move {
                let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
                // How a connection ends is not reported.
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        })?;
        Ok(Self {
            address,
            shared,
            _serving: serving,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the behaviour for all calls from now on.
    pub fn always(&self, behaviour: GrpcBehaviour) {
        *lock(&self.shared.behaviour) = behaviour;
    }

    /// What it has seen so far.
    pub fn seen(&self) -> GrpcSeen {
        lock(&self.shared.seen).clone()
    }
}

/// Counts a call as in flight; as cancelled if it is dropped before `done`.
struct InFlight {
    shared: Arc<Shared>,
    done: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut seen = lock(&self.shared.seen);
        seen.in_flight -= 1;
        seen.cancelled += usize::from(!self.done);
    }
}

async fn answer(
    request: http::Request<Incoming>,
    shared: Arc<Shared>,
) -> std::result::Result<http::Response<Body>, Reset> {
    {
        let mut seen = lock(&shared.seen);
        seen.calls += 1;
        seen.in_flight += 1;
        seen.last_headers = request.headers().clone();
    }
    let behaviour = *lock(&shared.behaviour);
    let is_health_check = request.uri().path() == HEALTH_CHECK;
    let mut in_flight = InFlight {
        shared,
        done: false,
    };
    let body = request
        .into_body()
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    if let GrpcBehaviour::Late(delay, _) | GrpcBehaviour::ResetAfter(delay) = behaviour {
        tokio::time::sleep(delay).await;
    }
    let body = match behaviour {
        GrpcBehaviour::Stall => std::future::pending().await,
        GrpcBehaviour::ResetAfter(_) => return Err(Reset),
        GrpcBehaviour::TrailersOnly(status) | GrpcBehaviour::Late(_, status) => {
            headers.insert(GRPC_STATUS, HeaderValue::from(status));
            Empty::new().boxed()
        }
        GrpcBehaviour::Trailers(status) => {
            let (mut sender, channel) = Channel::<Bytes, Infallible>::new(2);
            let echo = match body {
                _ if is_health_check => SERVING,
                body if body.is_empty() => EMPTY,
                body => body,
            };
            let _ = sender.send_data(echo).await;
            let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(status))]);
            let _ = sender.send_trailers(trailers).await;
            channel.boxed()
        }
        GrpcBehaviour::StallInStream => {
            let first = stream::once(std::future::ready(Ok(Frame::data(FIRST))));
            BodyExt::boxed(StreamBody::new(first.chain(stream::pending())))
        }
    };
    in_flight.done = true;
    let mut response = http::Response::new(body);
    *response.headers_mut() = headers;
    Ok(response)
}

// Messages as they are on the wire: not compressed, with their length.
const EMPTY: Bytes = Bytes::from_static(b"\0\0\0\0\0");
/// A message.
pub const PING: Bytes = Bytes::from_static(b"\0\0\0\0\x04ping");
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVING: Bytes = Bytes::from_static(b"\0\0\0\0\x02\x08\x01");
const FIRST: Bytes = Bytes::from_static(b"\0\0\0\0\x05first");

/// A gRPC message as it is on the wire: not compressed, with its length.
pub fn message(content: &[u8]) -> Result<Bytes> {
    let length = u32::try_from(content.len()).context("a message of 4 GiB or more")?;
    let mut bytes = BytesMut::with_capacity(5 + content.len());
    bytes.put_u8(0);
    bytes.put_u32(length);
    bytes.extend_from_slice(content);
    Ok(bytes.freeze())
}

/// A unary call of `path`, such as `/v1/auth/levee.Demo/Call`.
pub fn call(path: &str) -> Request {
    Request::post(path, PING)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Makes a unary call on a connection of its own.
pub async fn send(call: &Request, to: SocketAddr) -> std::result::Result<Answer, NoAnswer> {
    Connection::open_http2(to).await?.send(call).await
}

/// The status of a call: from the trailers, or from the headers of a "trailers-only" answer.
pub fn status_of(answer: &Answer) -> Option<u32> {
    let from = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    answer
        .trailers
        .as_ref()
        .and_then(from)
        .or_else(|| from(&answer.headers))
}
