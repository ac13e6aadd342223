//! Reaching Redis.

use super::addresses::Addresses;
use super::keepalive::end_when_silent;
use crate::resolve::Resolver;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

pub struct Upstream {
    /// Names are resolved at each connection.
    resolver: Resolver,
    addresses: Addresses,
    /// `None`: without TLS.
    tls: Option<Arc<tokio_rustls::rustls::ClientConfig>>,
}

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// How long it may take.
    pub within: Duration,
    /// How long Redis may then be [silent](end_when_silent).
    pub keepalive: Option<Duration>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() {
            "rediss"
        } else {
            "redis"
        };
        let (host, port) = (self.resolver.host(), self.resolver.port());
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl Upstream {
    /// `tls`: `None` is without TLS.
    pub fn new(resolver: Resolver, tls: Option<Arc<tokio_rustls::rustls::ClientConfig>>) -> Self {
        Self {
            resolver,
            addresses: Addresses::default(),
            tls,
        }
    }

    pub const fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Connects. The caller enforces `dial.within`; each address of the name is tried in it.
    pub async fn connect(&self, dial: Dial) -> io::Result<Stream> {
        let found = self.resolver.addresses().await?;
        let stream = self.addresses.connect(found, dial.within).await?;
        stream.set_nodelay(true)?;
        if let Some(within) = dial.keepalive {
            end_when_silent(&stream, within)?;
        }
        let Some(config) = &self.tls else {
            return Ok(Stream::Plain(stream));
        };
        let name = ServerName::try_from(self.resolver.host().to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connector = TlsConnector::from(config.clone());
        Ok(Stream::Tls(Box::new(
            connector.connect(name, stream).await?,
        )))
    }
}

#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Closes the connection by a reset: what was not sent yet never is.
    pub fn abort(self) {
        let _ = self.socket().set_zero_linger();
    }

    /// Writes a few bytes, all at once. Returns whether that was possible.
    pub fn try_write_all(&mut self, bytes: &[u8]) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let written = Pin::new(&mut *self).poll_write(&mut cx, bytes);
        let is_written = matches!(written, Poll::Ready(Ok(written)) if written == bytes.len());
        is_written && Pin::new(self).poll_flush(&mut cx).is_ready()
    }

    /// Whether the connection is open and there is nothing to read.
    pub fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(self.socket(), &mut [0_u8; 1], flags).is_err_and(|error| error == Errno::AGAIN)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use socket2::{SockFilter, SockRef};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

    const DIAL: Dial = Dial {
        within: Duration::from_secs(1),
        keepalive: None,
    };

    fn upstream(port: u16) -> Upstream {
        let addresses: fn(&str, u16) -> io::Result<Vec<SocketAddr>> = |_, port| {
            let ips = [
                Ipv4Addr::LOCALHOST,
                Ipv4Addr::new(127, 0, 0, 2),
                Ipv4Addr::new(127, 0, 0, 3),
            ];
            Ok(ips.map(|ip| (ip, port).into()).to_vec())
        };
        Upstream::new(Resolver::with("redis", port, addresses), None)
    }

    fn listen(ip: [u8; 4], port: u16) -> TcpListener {
        TcpListener::bind((Ipv4Addr::from(ip), port)).expect("the port is free there, too")
    }

    /// Makes the kernel drop all packets before the listener sees them: the filter program "return 0 bytes".
    fn swallows(listener: &TcpListener) {
        SockRef::from(listener)
            .attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])
            .expect("a filter");
    }

    /// Where a connection was made, and how long that took.
    async fn connect(upstream: &Upstream) -> (io::Result<IpAddr>, Duration) {
        let began = clock::monotonic();
        let result = match tokio::time::timeout(DIAL.within, upstream.connect(DIAL)).await {
            Ok(Ok(Stream::Plain(stream))) => Ok(stream.peer_addr().expect("a peer").ip()),
            Ok(Ok(Stream::Tls(_))) => panic!("without TLS"),
            Ok(Err(error)) => Err(error),
            Err(late) => Err(late.into()),
        };
        (result, clock::monotonic().saturating_sub(began))
    }

    #[tokio::test]
    async fn an_address_that_swallows_packets_costs_a_quarter_of_a_second_once() {
        let silent = listen([127, 0, 0, 1], 0);
        let port = silent.local_addr().expect("an address").port();
        swallows(&silent);
        let _works = listen([127, 0, 0, 3], port);
        let upstream = upstream(port);
        let wanted = IpAddr::from([127, 0, 0, 3]);
        // 127.0.0.1 is silent, 127.0.0.2 refuses at once.
        let (connected, took) = connect(&upstream).await;
        assert_eq!(connected.expect("the third address accepts"), wanted);
        assert!(took >= Duration::from_millis(240), "{took:?}");
        let (connected, took) = connect(&upstream).await;
        assert_eq!(connected.expect("it is tried first now"), wanted);
        assert!(took < Duration::from_millis(200), "{took:?}");
    }

    #[tokio::test]
    async fn of_addresses_that_all_refuse_the_error_is_told_at_once_and_each_is_tried_again() {
        let listener = listen([127, 0, 0, 2], 0);
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let upstream = upstream(port);
        let (connected, took) = connect(&upstream).await;
        let error = connected.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(took < Duration::from_millis(200), "{took:?}");
        let _works = listen([127, 0, 0, 2], port);
        let (connected, _) = connect(&upstream).await;
        assert_eq!(connected.expect("it accepts"), IpAddr::from([127, 0, 0, 2]));
    }

    #[tokio::test]
    async fn of_addresses_that_are_all_silent_each_is_tried_within_the_limit() {
        let silent: Vec<TcpListener> = (1..=3).fold(Vec::new(), |mut all, last| {
            let port = all.first().map_or(0, |first: &TcpListener| {
                first.local_addr().expect("an address").port()
            });
            all.push(listen([127, 0, 0, last], port));
            all
        });
        silent.iter().for_each(swallows);
        let upstream = upstream(silent[0].local_addr().expect("an address").port());
        let (connected, _) = connect(&upstream).await;
        assert_eq!(
            connected.expect_err("all are silent").kind(),
            io::ErrorKind::TimedOut
        );
        // The one that was tried last, and still waited, is the first of the next time.
        SockRef::from(&silent[2]).detach_filter().expect("a filter");
        let (connected, took) = connect(&upstream).await;
        assert_eq!(
            connected.expect("it works now"),
            IpAddr::from([127, 0, 0, 3])
        );
        assert!(took < Duration::from_millis(200), "{took:?}");
    }
}
