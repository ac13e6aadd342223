//! Raw bytes on a TCP connection, for what HTTP clients refuse to send; and crowds of clients that leave.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// More than any answer in these tests.
const LIMIT: usize = 16 * 1024 * 1024;

/// A TCP connection that sends any bytes.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The wanted bytes have come.
    Found,
    /// The other side closed in order.
    Closed,
    /// The other side reset the connection.
    Reset,
    /// The bound is over.
    TooLate,
    /// More bytes came than a test expects.
    TooMuch,
    /// What came is not an HTTP answer.
    NotHttp,
}

impl RawConnection {
    /// Connects.
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Reads until what was received holds `wanted`.
    pub async fn read_until(&mut self, wanted: &[u8], bound: Duration) -> Read {
        tokio::time::timeout(bound, async {
            loop {
                if find(&self.received, wanted).is_some() {
                    return Read::Found;
                }
                if let Some(end) = self.read_more().await {
                    return end;
                }
            }
        })
        .await
        .unwrap_or(Read::TooLate)
    }

    /// Reads to the end of an answer's headers and returns its status.
    pub async fn read_status(&mut self, bound: Duration) -> Result<u16, Read> {
        match self.read_until(b"\r\n\r\n", bound).await {
            Read::Found => {
                let line = String::from_utf8_lossy(&self.received);
                let status = line
                    .split_whitespace()
                    .nth(1)
                    .and_then(|word| word.parse().ok());
                status.ok_or(Read::NotHttp)
            }
            other => Err(other),
        }
    }

    /// Reads until the other side ends the connection.
    pub async fn read_to_end(&mut self, bound: Duration) -> Read {
        tokio::time::timeout(bound, async {
            loop {
                if let Some(end) = self.read_more().await {
                    return end;
                }
            }
        })
        .await
        .unwrap_or(Read::TooLate)
    }

    async fn read_more(&mut self) -> Option<Read> {
        if self.received.len() >= LIMIT {
            return Some(Read::TooMuch);
        }
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Some(Read::Closed),
            Ok(_) => None,
            Err(_) => Some(Read::Reset),
        }
    }

    /// What was received so far.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Forgets what was received, for the next answer.
    pub fn forget(&mut self) {
        self.received.clear();
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub fn reset(self) {
        reset(self.stream);
    }
}

/// Many clients, each with one request in flight.
#[derive(Debug)]
pub struct Crowd {
    clients: Vec<RawConnection>,
}

impl Crowd {
    /// Lets `count` clients send a GET for `path`, each on its own connection. No answer is read.
    pub async fn ask(to: SocketAddr, path: &str, count: usize) -> io::Result<Self> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = RawConnection::open(to).await?;
            client
                .send(format!("GET {path} HTTP/1.1\r\nhost: crowd\r\n\r\n"))
                .await?;
            clients.push(client);
        }
        Ok(Self { clients })
    }

    /// All clients close.
    pub fn leave(self) {
        drop(self.clients);
    }

    /// All clients reset their connections.
    pub fn vanish(self) {
        self.clients.into_iter().for_each(RawConnection::reset);
    }

    /// The clients, to read their answers.
    pub fn into_clients(self) -> Vec<RawConnection> {
        self.clients
    }
}

/// Closes with RST: a linger time of zero discards unsent bytes (socket(7), `SO_LINGER`).
pub(crate) fn reset(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
