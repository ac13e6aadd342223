//! An HTTP/1.1 service on 127.0.0.1 that follows a script, and remembers what it saw.
//!
//! ```no_run
//! use levee_harness::backend::{Backend, Behaviour};
//!
//! let auth = Backend::start()?;                            // answers 200
//! auth.next([Behaviour::status(500), Behaviour::Stall]);   // the next two requests
//! auth.always(Behaviour::status(204));                     // all after them
//! assert_eq!(auth.requests(), 0);
//! # Ok::<(), levee_harness::error::Error>(())
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::{Context, Error, Result};
use crate::lock::lock;
use crate::runtime::runtime;
use crate::{raw, wait};

/// Limits for what one request may hold here.
const HEAD_LIMIT: usize = 256 * 1024;
const HEADERS_LIMIT: usize = 256;
/// How many requests are remembered with their headers.
const REMEMBERED: usize = 10_000;

/// What is done with one request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Reads the request to its end and answers.
    Answer(Response),
    /// As [`Self::Answer`], after a delay.
    Delay(Duration, Response),
    /// Reads the upload in pieces of at most this many bytes with a pause after each, then answers.
    Drip(usize, Duration, Response),
    /// Waits until the gate is opened, then answers.
    Hold(Gate, Response),
    /// Never answers.
    Stall,
    /// Sends the headers, which announce more, and this part of the body; then nothing more.
    StallInBody(Bytes),
    /// Resets the connection before any answer.
    Reset,
    /// Sends headers and this part of the body, then resets the connection.
    ResetInBody(Bytes),
    /// Closes the connection in order, before any answer.
    Close,
    /// Agrees to an upgrade (101), then says nothing and waits for the other side to go.
    Upgrade,
    /// Agrees to an upgrade, then sends back all it gets.
    UpgradeAndEcho,
}

impl Behaviour {
    /// Answers with a status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Answer(Response::status(status))
    }
}

/// What an answer holds.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Headers as bytes; need not be UTF-8. `content-length` is added.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// Without headers and body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// With a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_string(), value.as_ref().to_vec()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    fn to_bytes(&self, announced: usize) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {} Scripted\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        // 1xx and 204 have no content, and may not announce any (RFC 9110, section 8.6).
        if self.status >= 200 && self.status != 204 {
            bytes.extend_from_slice(format!("content-length: {announced}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// Holds requests back until it is opened. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed one.
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets all through that wait, and all that come.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn wait(&self) {
        // The sender is in `self`, so waiting can't end by its loss.
        let _ = self.0.subscribe().wait_for(|&open| open).await;
    }
}

/// A request as it was seen.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers in order, names in lower case, values as bytes.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl SeenRequest {
    /// The first header of this name, as bytes.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(seen, _)| seen == name)
            .map(|(_, value)| value.as_slice())
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What a backend has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections accepted.
    pub connections: usize,
    /// Requests whose headers came.
    pub requests: usize,
    /// The same by path (without the query).
    pub by_path: BTreeMap<String, usize>,
    /// Requests under way now.
    pub in_flight: usize,
    /// The most that were under way at once.
    pub most_in_flight: usize,
    /// Requests whose sender closed or reset before the answer was complete.
    pub cancelled: usize,
    /// Requests answered in full.
    pub answered: usize,
    /// The last requests, at most 10,000.
    pub last: VecDeque<SeenRequest>,
    /// Why a connection was closed because what came on it is not HTTP.
    pub not_http: Option<String>,
}

type Choice = Arc<dyn Fn(usize, &SeenRequest) -> Behaviour + Send + Sync>;

struct Script {
    next: VecDeque<Behaviour>,
    /// Asked with the number of the request (from 0 on, since this choice was set).
    always: Choice,
    chosen: usize,
}

struct Shared {
    script: Mutex<Script>,
    seen: Mutex<Seen>,
}

/// The service. Dropping it closes its port and all connections.
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Bound, but never listening: keeps the port ours while connections are refused.
    _reserved: Socket,
    serving: Mutex<Option<JoinSet<()>>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Backend {
    /// Starts one that answers every request with 200.
    pub fn start() -> Result<Self> {
        let backend = Self::start_refusing()?;
        backend.accept()?;
        Ok(backend)
    }

    /// Starts one that refuses connections, until [`Self::accept`].
    pub fn start_refusing() -> Result<Self> {
        let reserved =
            bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("bind a port on 127.0.0.1")?;
        let address = reserved
            .local_addr()
            .context("the address of a backend")?
            .as_socket()
            .ok_or_else(|| Error::new("a backend has no IP address"))?;
        let always: Choice = Arc::new(|_, _| Behaviour::status(200));
        let script = Mutex::new(Script {
            next: VecDeque::new(),
            always,
            chosen: 0,
        });
        let shared = Arc::new(Shared {
            script,
            seen: Mutex::default(),
        });
        Ok(Self {
            address,
            shared,
            _reserved: reserved,
            serving: Mutex::new(None),
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    // --- what it shall do ----------------------------------------------------------------------------------------

    /// For all requests from now on (after those of [`Self::next`]).
    pub fn always(&self, behaviour: Behaviour) {
        self.choose(move |_, _| behaviour.clone());
    }

    /// For the next requests, one after the other.
    pub fn next(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        lock(&self.shared.script).next.extend(behaviours);
    }

    /// Chosen for each request by its number (from 0 on) and what is in it.
    pub fn choose(
        &self,
        choice: impl Fn(usize, &SeenRequest) -> Behaviour + Send + Sync + 'static,
    ) {
        let mut script = lock(&self.shared.script);
        script.always = Arc::new(choice);
        script.chosen = 0;
    }

    /// 500 for this share of the requests, spread as evenly as can be, 200 for the others.
    pub fn fail_per_thousand(&self, share: usize) {
        self.choose(move |number, _| {
            Behaviour::status(if spread(number, share) { 500 } else { 200 })
        });
    }

    /// Closes the port and all connections: new ones are refused.
    pub fn refuse(&self) {
        *lock(&self.serving) = None;
    }

    /// Opens the port (again).
    pub fn accept(&self) -> Result<()> {
        self.serve(serve)
    }

    /// Accepts connections and says nothing on them, ever: to a client that begins with TLS, a silent handshake.
    pub fn be_silent(&self) -> Result<()> {
        self.serve(|stream, _| async move {
            // Only holds it open.
            let _held = stream;
            std::future::pending::<()>().await;
        })
    }

    fn serve<F, Fut>(&self, each: F) -> Result<()>
    where
        F: Fn(TcpStream, Arc<Shared>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut serving = lock(&self.serving);
        // The old listener must be gone before the port can be listened on again.
        *serving = None;
        let listener = listen(self.address)?;
        let shared = Arc::clone(&self.shared);
        let mut tasks = JoinSet::new();
        tasks.spawn_on(
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        continue;
                    };
                    while connections.try_join_next().is_some() {}
                    lock(&shared.seen).connections += 1;
                    connections.spawn(each(stream, Arc::clone(&shared)));
                }
            },
            runtime()?.handle(),
        );
        *serving = Some(tasks);
        Ok(())
    }

    // --- what it saw ---------------------------------------------------------------------------------------------

    /// Everything it saw so far.
    pub fn seen(&self) -> Seen {
        lock(&self.shared.seen).clone()
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        lock(&self.shared.seen).requests
    }

    /// The last request that came.
    pub fn last_request(&self) -> Result<SeenRequest> {
        let last = lock(&self.shared.seen).last.back().cloned();
        last.ok_or_else(|| Error::new("the backend has seen no request"))
    }

    /// Waits until what it saw `fits`.
    pub async fn wait_until(&self, what: &str, fits: impl Fn(&Seen) -> bool) -> Result<()> {
        wait::until_now(&format!("the backend to see {what}"), wait::GENEROUS, || {
            let seen = lock(&self.shared.seen);
            if fits(&seen) {
                return Ok(());
            }
            Err(format!(
                "{} connections, {} requests, {} in flight (most {}), {} cancelled, {} answered, not HTTP: {:?}",
                seen.connections,
                seen.requests,
                seen.in_flight,
                seen.most_in_flight,
                seen.cancelled,
                seen.answered,
                seen.not_http
            ))
        })
        .await
    }

    /// Waits until this many requests are in flight.
    pub async fn wait_in_flight(&self, count: usize) -> Result<()> {
        self.wait_until(&format!("{count} requests in flight"), |seen| {
            seen.in_flight == count
        })
        .await
    }
}

/// Whether request `number` is one of those, when this many per thousand are, spread evenly.
pub fn spread(number: usize, per_thousand: usize) -> bool {
    (number + 1) * per_thousand / 1000 > number * per_thousand / 1000
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Lets the listening socket and the reserving one have the same port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let _context = runtime()?.enter();
    // The task that held the old listener is dropped by another thread, which may take a moment.
    let mut last = None;
    for _ in 0..200 {
        match bind(address).and_then(|socket| {
            socket.listen(1024)?;
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket.into())
        }) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Error::new(format!("listen on {address}: {last:?}")))
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
    /// Ended here as told.
    AsTold,
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
        let mut seen = lock(&shared.seen);
        seen.requests += 1;
        *seen.by_path.entry(request.path().to_string()).or_default() += 1;
        seen.in_flight += 1;
        seen.most_in_flight = seen.most_in_flight.max(seen.in_flight);
        if seen.last.len() == REMEMBERED {
            seen.last.pop_front();
        }
        seen.last.push_back(request.clone());
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        lock(&self.0.seen).in_flight -= 1;
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
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
        let behaviour = {
            let mut script = lock(&shared.script);
            if let Some(next) = script.next.pop_front() {
                next
            } else {
                let number = script.chosen;
                script.chosen += 1;
                let always = Arc::clone(&script.always);
                drop(script);
                always(number, &head.request)
            }
        };
        let ended = connection.carry_out(behaviour, &head).await;
        {
            let mut seen = lock(&shared.seen);
            match ended {
                Ok(Ended::Answered) => seen.answered += 1,
                Ok(Ended::Cancelled) | Err(_) => seen.cancelled += 1,
                Ok(Ended::AsTold) => {}
            }
        }
        drop(in_flight);
        match ended {
            Ok(Ended::Answered) => {}
            Ok(Ended::AsTold) => return raw::reset(connection.stream),
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
            Behaviour::Reset => Ok(Ended::AsTold),
            Behaviour::ResetInBody(part) => {
                self.read_body(head, usize::MAX, Duration::ZERO).await?;
                self.send_part(&part).await?;
                // A reset throws away what the other side's kernel has not handed over yet: let it arrive.
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(Ended::AsTold)
            }
            Behaviour::Close => {
                self.stream.shutdown().await?;
                self.until_left().await;
                Ok(Ended::AsTold)
            }
            Behaviour::Upgrade | Behaviour::UpgradeAndEcho => {
                let response = Response::status(101)
                    .header("connection", "upgrade")
                    .header("upgrade", "websocket");
                self.stream.write_all(&response.to_bytes(0)).await?;
                if matches!(behaviour, Behaviour::UpgradeAndEcho) {
                    self.echo().await;
                } else {
                    self.until_left().await;
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
        let mut bytes = response.to_bytes(response.body.len());
        bytes.extend_from_slice(&response.body);
        self.stream.write_all(&bytes).await?;
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

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_share_is_spread_evenly() {
        let failures: Vec<bool> = (0..1000).map(|number| spread(number, 600)).collect();
        assert_eq!(failures.iter().filter(|&&failed| failed).count(), 600);
        assert!(
            failures.windows(5).all(|five| five.contains(&false)),
            "never five in a row"
        );
        assert_eq!((0..10_000).filter(|&number| spread(number, 1)).count(), 10);
    }
}
