//! The HTTP client: requests on new connections or on one, with or without a runtime.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::clock::Stopwatch;
use crate::runtime::runtime;

/// How long a request may take by default, so that no test hangs.
const BOUND: Duration = Duration::from_mins(1);

type Body = BoxBody<Bytes, Infallible>;

/// A request that can be sent any number of times.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Upload,
    bound: Duration,
    /// The `:protocol` of an extended CONNECT (RFC 8441).
    protocol: Option<&'static str>,
    /// Why it can't be sent.
    invalid: Option<String>,
}

#[derive(Debug, Clone)]
enum Upload {
    Whole(Bytes),
    Slow {
        chunk: Bytes,
        chunks: usize,
        pause: Duration,
    },
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as much of it as came.
    pub body: Bytes,
    /// The trailers, if any.
    pub trailers: Option<HeaderMap>,
    /// Why the body is incomplete; none if it is complete.
    pub broken: Option<String>,
    /// From sending to the headers.
    pub until_headers: Duration,
    /// From sending to the end.
    pub took: Duration,
}

impl Answer {
    /// A header as text; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether Levee's breaker refused the request.
    pub fn is_refusal(&self) -> bool {
        self.header("x-levee-reason") == "circuit_open"
    }

    /// The id by which Envoy logs it.
    pub fn request_id(&self) -> &str {
        self.header("x-request-id")
    }
}

/// An answer whose body is not read. Dropping it gives the request up.
#[derive(Debug)]
pub struct Unread {
    /// The status.
    pub status: u16,
    response: http::Response<Incoming>,
}

impl Unread {
    /// Whether Levee's breaker refused the request.
    pub fn is_refusal(&self) -> bool {
        self.response.headers().get("x-levee-reason")
            == Some(&HeaderValue::from_static("circuit_open"))
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// The request is not valid HTTP, so it was not sent.
    Invalid(String),
    /// No connection.
    NotConnected(String),
    /// The connection ended before the headers of an answer.
    Ended(String),
    /// Nothing within the request's bound.
    TooLate(Duration),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => write!(f, "not a request: {why}"),
            Self::NotConnected(why) => write!(f, "no connection: {why}"),
            Self::Ended(why) => write!(f, "the connection ended without an answer: {why}"),
            Self::TooLate(bound) => write!(f, "no answer within {bound:?}"),
        }
    }
}

impl std::error::Error for NoAnswer {}

impl Request {
    /// A request with this method and path.
    pub fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_string(),
            headers: HeaderMap::new(),
            body: Upload::Whole(Bytes::new()),
            bound: BOUND,
            protocol: None,
            invalid: None,
        }
    }

    /// GET.
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// POST with a body.
    pub fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self {
            body: Upload::Whole(body.into()),
            ..Self::new(Method::POST, path)
        }
    }

    /// Adds a header. Its value may be any bytes that HTTP allows; for others see [`crate::raw`]. Sending fails if name or
    /// value are invalid.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        match (
            HeaderName::try_from(name),
            HeaderValue::from_bytes(value.as_ref()),
        ) {
            (Ok(name), Ok(value)) => {
                self.headers.append(name, value);
            }
            _ => self.invalid = Some(format!("the header `{name}`")),
        }
        self
    }

    /// Uploads `chunks` chunks, with a pause before each but the first.
    #[must_use]
    pub fn slow_body(mut self, chunk: impl Into<Bytes>, chunks: usize, pause: Duration) -> Self {
        self.body = Upload::Slow {
            chunk: chunk.into(),
            chunks,
            pause,
        };
        self
    }

    /// Makes a CONNECT over HTTP/2 an extended one (RFC 8441): for `websocket`, for example.
    #[must_use]
    pub fn protocol(mut self, protocol: &'static str) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Sets how long it may take in all.
    #[must_use]
    pub fn bound(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// Sends it on a connection of its own, HTTP/1.1.
    pub async fn send(&self, to: SocketAddr) -> Result<Answer, NoAnswer> {
        Connection::open(to).await?.send(self).await
    }

    /// As [`Self::send`], for callers without a runtime. Blocks the thread.
    pub fn send_blocking(&self, to: SocketAddr) -> Result<Answer, NoAnswer> {
        let runtime = runtime().map_err(|error| NoAnswer::NotConnected(error.to_string()))?;
        let (reply, answer) = mpsc::channel();
        let request = self.clone();
        runtime.spawn(async move { reply.send(request.send(to).await) });
        answer
            .recv()
            .unwrap_or_else(|_| Err(NoAnswer::Ended("the task that sends has ended".into())))
    }

    fn build(&self, authority: &str, http2: bool) -> Result<http::Request<Body>, NoAnswer> {
        if let Some(invalid) = &self.invalid {
            return Err(NoAnswer::Invalid(invalid.clone()));
        }
        let target = if http2 {
            format!("http://{authority}{}", self.path)
        } else {
            self.path.clone()
        };
        let mut request = http::Request::new(self.body.start());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target
            .parse()
            .map_err(|error| NoAnswer::Invalid(format!("{target}: {error}")))?;
        *request.headers_mut() = self.headers.clone();
        if let Some(protocol) = self.protocol {
            request
                .extensions_mut()
                .insert(Protocol::from_static(protocol));
        }
        if !http2 {
            let host = HeaderValue::from_str(authority)
                .map_err(|error| NoAnswer::Invalid(format!("the host {authority}: {error}")))?;
            request.headers_mut().entry("host").or_insert(host);
        }
        Ok(request)
    }
}

impl Upload {
    fn start(&self) -> Body {
        match self {
            Self::Whole(bytes) => Full::new(bytes.clone()).boxed(),
            Self::Slow {
                chunk,
                chunks,
                pause,
            } => {
                let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
                let (chunk, chunks, pause) = (chunk.clone(), *chunks, *pause);
                tokio::spawn(async move {
                    for number in 0..chunks {
                        if number > 0 {
                            tokio::time::sleep(pause).await;
                        }
                        if sender.send_data(chunk.clone()).await.is_err() {
                            break;
                        }
                    }
                });
                body.boxed()
            }
        }
    }
}

/// One connection: all its requests go to the same worker of Envoy.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    authority: String,
    protocol: Option<String>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    /// HTTP/1.1.
    pub async fn open(to: SocketAddr) -> Result<Self, NoAnswer> {
        Self::http1(connect(to).await?, to.to_string()).await
    }

    /// HTTP/2 without TLS, by prior knowledge.
    pub async fn open_http2(to: SocketAddr) -> Result<Self, NoAnswer> {
        Self::open_http2_with(to, &http2::Builder::new(TokioExecutor::new())).await
    }

    /// As [`Self::open_http2`]. The other side may send only this many bytes of a body that is not read.
    pub async fn open_http2_with_window(to: SocketAddr, bytes: u32) -> Result<Self, NoAnswer> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(bytes);
        Self::open_http2_with(to, &builder).await
    }

    async fn open_http2_with(
        to: SocketAddr,
        builder: &http2::Builder<TokioExecutor>,
    ) -> Result<Self, NoAnswer> {
        Self::http2(connect(to).await?, to.to_string(), builder).await
    }

    /// TLS, with HTTP/2 if both sides offer it.
    pub async fn open_tls(to: SocketAddr, config: Arc<ClientConfig>) -> Result<Self, NoAnswer> {
        let stream = connect(to).await?;
        let name = ServerName::try_from("localhost")
            .map_err(|error| NoAnswer::NotConnected(error.to_string()))?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| NoAnswer::NotConnected(format!("TLS: {error}")))?;
        let protocol = stream
            .get_ref()
            .1
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        let authority = format!("localhost:{}", to.port());
        let mut connection = if protocol.as_deref() == Some("h2") {
            let builder = http2::Builder::new(TokioExecutor::new());
            Self::http2(stream, authority, &builder).await?
        } else {
            Self::http1(stream, authority).await?
        };
        connection.protocol = protocol;
        Ok(connection)
    }

    async fn http1(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        authority: String,
    ) -> Result<Self, NoAnswer> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ended(&e))?;
        tokio::spawn(connection);
        Ok(Self {
            sender: Sender::Http1(sender),
            authority,
            protocol: None,
        })
    }

    async fn http2(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        authority: String,
        builder: &http2::Builder<TokioExecutor>,
    ) -> Result<Self, NoAnswer> {
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ended(&e))?;
        tokio::spawn(connection);
        Ok(Self {
            sender: Sender::Http2(sender),
            authority,
            protocol: None,
        })
    }

    /// The protocol that ALPN chose.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Sends a request and waits for the end of its answer.
    pub async fn send(&mut self, request: &Request) -> Result<Answer, NoAnswer> {
        tokio::time::timeout(request.bound, self.exchange(request))
            .await
            .unwrap_or(Err(NoAnswer::TooLate(request.bound)))
    }

    /// Sends a request and returns once the headers of its answer are there. The body is not read.
    pub async fn send_unread(&mut self, request: &Request) -> Result<Unread, NoAnswer> {
        let response = tokio::time::timeout(request.bound, self.begin(request))
            .await
            .unwrap_or(Err(NoAnswer::TooLate(request.bound)))?;
        Ok(Unread {
            status: response.status().as_u16(),
            response,
        })
    }

    async fn begin(&mut self, request: &Request) -> Result<http::Response<Incoming>, NoAnswer> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(|error| ended(&error))?;
                sender
                    .send_request(request.build(&self.authority, false)?)
                    .await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(|error| ended(&error))?;
                sender
                    .send_request(request.build(&self.authority, true)?)
                    .await
            }
        }
        .map_err(|error| ended(&error))
    }

    async fn exchange(&mut self, request: &Request) -> Result<Answer, NoAnswer> {
        let watch = Stopwatch::start();
        let response = self.begin(request).await?;
        let until_headers = watch.elapsed();
        let (head, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        let mut trailers = None;
        let mut broken = None;
        while let Some(frame) = incoming.frame().await {
            match frame {
                Ok(frame) if frame.is_trailers() => trailers = frame.into_trailers().ok(),
                Ok(frame) => body.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Err(error) => {
                    broken = Some(describe(&error));
                    break;
                }
            }
        }
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.into(),
            trailers,
            broken,
            until_headers,
            took: watch.elapsed(),
        })
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream, NoAnswer> {
    let stream = TcpStream::connect(to)
        .await
        .map_err(|error| NoAnswer::NotConnected(error.to_string()))?;
    // Small requests one after the other would wait for acknowledgements.
    stream
        .set_nodelay(true)
        .map_err(|error| NoAnswer::NotConnected(error.to_string()))?;
    Ok(stream)
}

fn ended(error: &hyper::Error) -> NoAnswer {
    NoAnswer::Ended(describe(error))
}

/// An error with its causes, which hyper's own texts omit.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
