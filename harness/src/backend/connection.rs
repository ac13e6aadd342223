//! A connection to a backend: requests on the wire, and what is done with them.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::behaviour::{Behaviour, Response, Script};
use super::seen::{Seen, SeenRequest};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::raw;

/// Limits for what one request may hold here.
const HEAD_LIMIT: usize = 256 * 1024;
const HEADERS_LIMIT: usize = 256;

/// What all connections of a backend share.
pub(super) struct Shared {
    pub(super) script: Mutex<Script>,
    pub(super) seen: Mutex<Seen>,
}

/// One connection with the bytes that were read ahead.
struct Connection {
    stream: TcpStream,
    ahead: BytesMut,
}

/// How the handling of a request ended.
enum Ended {
    /// Answered; the connection goes on.
    Answered,
    /// The other side left before the answer was complete.
    Cancelled,
    /// Ended here, as the script says.
    AsScripted,
}

struct Head {
    request: SeenRequest,
    body: BodyLength,
    expects_continue: bool,
}

enum BodyLength {
    Bytes(u64),
    Chunked,
}

/// Counts a request as under way for as long as it lives, also when its task is dropped.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn begin(shared: &Arc<Shared>, request: &SeenRequest) -> Self {
        lock(&shared.seen).begin(request);
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        lock(&self.0.seen).in_flight -= 1;
    }
}

pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut connection = Connection {
        stream,
        ahead: BytesMut::new(),
    };
    loop {
        let head = match connection.read_head().await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(why) => {
                lock(&shared.seen).not_http = Some(why.to_string());
                return;
            }
        };
        let in_flight = InFlight::begin(&shared, &head.request);
        let next = lock(&shared.script).take();
        let behaviour = next.unwrap_or_else(|(choice, number)| choice(number, &head.request));
        let ended = connection.carry_out(behaviour, &head).await;
        {
            let mut seen = lock(&shared.seen);
            match ended {
                Ok(Ended::Answered) => seen.answered += 1,
                Ok(Ended::Cancelled) | Err(_) => seen.cancelled += 1,
                Ok(Ended::AsScripted) => {}
            }
        }
        drop(in_flight);
        match ended {
            Ok(Ended::Answered) => {}
            Ok(Ended::AsScripted) => return raw::reset(connection.stream),
            Ok(Ended::Cancelled) | Err(_) => return,
        }
    }
}

impl Connection {
    async fn carry_out(&mut self, behaviour: Behaviour, head: &Head) -> io::Result<Ended> {
        match behaviour {
            Behaviour::Answer(response) => {
                self.read_body(head, usize::MAX, Duration::ZERO).await?;
                self.answer(&response).await
            }
            Behaviour::Delay(delay, response) => {
                self.read_body(head, usize::MAX, Duration::ZERO).await?;
                if self.left_before(tokio::time::sleep(delay)).await {
                    return Ok(Ended::Cancelled);
                }
                self.answer(&response).await
            }
            Behaviour::Drip(piece, pause, response) => {
                self.read_body(head, piece, pause).await?;
                self.answer(&response).await
            }
            Behaviour::Hold(gate, response) => {
                self.read_body(head, usize::MAX, Duration::ZERO).await?;
                if self.left_before(gate.wait()).await {
                    return Ok(Ended::Cancelled);
                }
                self.answer(&response).await
            }
            Behaviour::Raw(bytes) => {
                self.read_body(head, usize::MAX, Duration::ZERO).await?;
                self.stream.write_all(&bytes).await?;
                self.until_left().await;
                Ok(Ended::Cancelled)
            }
            Behaviour::Stall => {
                self.read_body(head, usize::MAX, Duration::ZERO).await?;
                self.until_left().await;
                Ok(Ended::Cancelled)
            }
            Behaviour::StallInBody(part) => {
                self.read_body(head, usize::MAX, Duration::ZERO).await?;
                self.send_part(&part).await?;
                self.until_left().await;
                Ok(Ended::Cancelled)
            }
            Behaviour::Reset => Ok(Ended::AsScripted),
            Behaviour::ResetInBody(part) => {
                self.read_body(head, usize::MAX, Duration::ZERO).await?;
                self.send_part(&part).await?;
                // A reset throws away what the other side's kernel has not handed over yet: let it arrive.
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(Ended::AsScripted)
            }
            Behaviour::Close => {
                self.stream.shutdown().await?;
                self.until_left().await;
                Ok(Ended::AsScripted)
            }
            Behaviour::Upgrade | Behaviour::UpgradeAndEcho => {
                let key = head.request.header("sec-websocket-key");
                self.stream.write_all(&upgrade(key).to_bytes(0)).await?;
                match (behaviour, key) {
                    (Behaviour::UpgradeAndEcho, Some(_)) => self.echo_messages().await,
                    (Behaviour::UpgradeAndEcho, None) => self.echo().await,
                    _ => self.until_left().await,
                }
                Ok(Ended::Cancelled)
            }
        }
    }

    /// Reads the head of the next request; none if the connection ends before it.
    async fn read_head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some((head, length)) = parse_head(&self.ahead)? {
                self.ahead.advance(length);
                return Ok(Some(head));
            }
            if self.ahead.len() >= HEAD_LIMIT {
                return Err(Error::new(format!(
                    "a request's head of more than {HEAD_LIMIT} bytes"
                )));
            }
            if !matches!(self.read_more().await, Ok(true)) {
                return Ok(None);
            }
        }
    }

    async fn read_more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.ahead).await? > 0)
    }

    async fn need_more(&mut self) -> io::Result<()> {
        if self.read_more().await? {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Reads the body and throws it away, in pieces of at most this many bytes with a pause after each.
    async fn read_body(&mut self, head: &Head, piece: usize, pause: Duration) -> io::Result<()> {
        if head.expects_continue {
            self.stream
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await?;
        }
        match head.body {
            BodyLength::Bytes(length) => self.read_bytes(length, piece, pause).await,
            BodyLength::Chunked => loop {
                let line = self.read_line().await?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
                if size == 0 {
                    while !self.read_line().await?.is_empty() {}
                    return Ok(());
                }
                self.read_bytes(size, piece, pause).await?;
                self.read_line().await?;
            },
        }
    }

    async fn read_bytes(&mut self, mut left: u64, piece: usize, pause: Duration) -> io::Result<()> {
        while left > 0 {
            if self.ahead.is_empty() {
                self.need_more().await?;
            }
            let taken = self
                .ahead
                .len()
                .min(piece)
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            self.ahead.advance(taken);
            left -= taken as u64;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    async fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = raw::find(&self.ahead, b"\r\n") {
                let line = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
                self.ahead.advance(end + 2);
                return Ok(line);
            }
            self.need_more().await?;
        }
    }

    async fn answer(&mut self, response: &Response) -> io::Result<Ended> {
        let head = Bytes::from(response.to_bytes(response.body.len()));
        let mut bytes = head.chain(response.body.clone());
        self.stream.write_all_buf(&mut bytes).await?;
        Ok(Ended::Answered)
    }

    async fn send_part(&mut self, part: &[u8]) -> io::Result<()> {
        let mut bytes = Response::status(200).to_bytes(part.len() + 1_000_000);
        bytes.extend_from_slice(part);
        self.stream.write_all(&bytes).await
    }

    /// Waits until the other side closes or resets. What it sends meanwhile is kept, within a limit.
    async fn until_left(&mut self) {
        while self.ahead.len() < HEAD_LIMIT && matches!(self.read_more().await, Ok(true)) {}
    }

    /// Whether the other side left before `done`.
    async fn left_before(&mut self, done: impl Future<Output = ()>) -> bool {
        tokio::select! {
            () = done => false,
            () = self.until_left() => true,
        }
    }

    /// Sends back each message of a WebSocket, until the other side has closed it.
    async fn echo_messages(&mut self) {
        let ahead = self.ahead.split().to_vec();
        let mut socket =
            WebSocketStream::from_partially_read(&mut self.stream, ahead, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let is_echoed = message.is_text() || message.is_binary();
            if is_echoed && socket.send(message).await.is_err() {
                return;
            }
        }
    }

    async fn echo(&mut self) {
        loop {
            let bytes = self.ahead.split();
            if self.stream.write_all(&bytes).await.is_err()
                || !matches!(self.read_more().await, Ok(true))
            {
                return;
            }
        }
    }
}

/// The answer that agrees to an upgrade. A client that sends a key expects the value derived from it (RFC 6455, section
/// 4.2.2).
fn upgrade(key: Option<&[u8]>) -> Response {
    let response = Response::status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    match key {
        Some(key) => response.header("sec-websocket-accept", derive_accept_key(key)),
        None => response,
    }
}

/// The head at the beginning of `bytes` and its length; none while it is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => {
            let sent = String::from_utf8_lossy(bytes);
            return Err(Error::new(format!("{error}: {sent}")));
        }
    };
    let request = SeenRequest {
        method: parsed.method.unwrap_or_default().to_string(),
        target: parsed.path.unwrap_or_default().to_string(),
        headers: parsed
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec()))
            .collect(),
    };
    let has = |name: &str, value: &str| {
        request
            .header(name)
            .is_some_and(|seen| seen.eq_ignore_ascii_case(value.as_bytes()))
    };
    let body = if has("transfer-encoding", "chunked") {
        BodyLength::Chunked
    } else {
        let length = request
            .header("content-length")
            .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        BodyLength::Bytes(length.unwrap_or(0))
    };
    let expects_continue = has("expect", "100-continue");
    Ok(Some((
        Head {
            request,
            body,
            expects_continue,
        },
        length,
    )))
}
