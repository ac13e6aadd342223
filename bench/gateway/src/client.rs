//! Clients that keep their connection and send one request after the other. They do as little as possible, so that the
//! proxy dominates the measurement.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The protocol between client and proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    Http2,
}

/// A prepared GET request.
#[derive(Clone, Debug)]
pub struct Request {
    http1: Vec<u8>,
    http2: http::Request<()>,
}

impl Request {
    /// A request to `service` for `path`.
    pub fn new(service: &str, path: &str) -> Result<Self> {
        let http1 = format!(
            "GET {path} HTTP/1.1\r\nhost: gateway.test\r\nuser-agent: levee-bench\r\naccept: */*\r\nx-service: \
             {service}\r\n\r\n"
        );
        let http2 = http::Request::get(format!("http://gateway.test{path}"))
            .version(http::Version::HTTP_2)
            .header("user-agent", "levee-bench")
            .header("accept", "*/*")
            .header("x-service", service)
            .body(())?;
        Ok(Self {
            http1: http1.into_bytes(),
            http2,
        })
    }
}

/// A client with at most one request in flight.
#[derive(Debug)]
pub enum Client {
    /// With a connection of its own.
    Http1(Http1),
    /// With a connection that it may share.
    Http2(h2::client::SendRequest<Bytes>),
}

/// The number of HTTP/2 clients that share a connection.
pub const STREAMS: usize = 8;

/// Connects `number` clients. Needs a `LocalSet`.
pub async fn connect(protocol: Protocol, port: u16, number: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(number);
    while clients.len() < number {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .context("the proxy does not listen")?;
        stream.set_nodelay(true)?;
        match protocol {
            Protocol::Http1 => clients.push(Client::Http1(Http1 {
                stream,
                buffer: Vec::with_capacity(128 * 1024),
            })),
            Protocol::Http2 => {
                let mut builder = h2::client::Builder::new();
                // Large enough that no answer has to wait for the window.
                builder
                    .initial_window_size(1 << 20)
                    .initial_connection_window_size(1 << 24);
                let (send, connection) = builder.handshake(stream).await?;
                tokio::task::spawn_local(connection);
                let share = STREAMS.min(number - clients.len());
                clients.extend((0..share).map(|_| Client::Http2(send.clone())));
            }
        }
    }
    Ok(clients)
}

impl Client {
    /// Sends the request and reads the whole answer. Returns its status.
    pub async fn get(&mut self, request: &Request) -> Result<u16> {
        match self {
            Self::Http1(connection) => connection.get(&request.http1).await,
            Self::Http2(send) => {
                let mut ready = send.clone().ready().await?;
                let (response, _) = ready.send_request(request.http2.clone(), true)?;
                let response = response.await?;
                let status = response.status().as_u16();
                let mut body = response.into_body();
                while let Some(chunk) = body.data().await {
                    let size = chunk?.len();
                    body.flow_control().release_capacity(size)?;
                }
                Ok(status)
            }
        }
    }
}

#[derive(Debug)]
pub struct Http1 {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http1 {
    async fn get(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let (status, size) = loop {
            ensure!(
                self.stream.read_buf(&mut self.buffer).await? > 0,
                "the proxy has closed the connection"
            );
            if let Some(head) = parse(&self.buffer)? {
                break head;
            }
        };
        while self.buffer.len() < size {
            ensure!(
                self.stream.read_buf(&mut self.buffer).await? > 0,
                "the answer was cut short"
            );
        }
        Ok(status)
    }
}

/// The status, and the length of the whole answer.
fn parse(buffer: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(buffer)? else {
        return Ok(None);
    };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let Some(length) = length else {
        bail!("an answer without content-length")
    };
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    Ok(Some((response.code.unwrap_or(0), head + length)))
}
