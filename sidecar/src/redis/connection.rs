//! A session with its sockets: bytes are moved, nothing is decided.

use super::buffers::Share;
use super::close::close;
use super::orders::Orders;
use super::proven::{self, Unproven, WAS_RESET};
use super::spares::Spares;
use super::upstream::{Dial, Stream, Upstream};
use crate::clock::Clock;
use levee_policy::time::Instant;
use levee_redis_session::gate::Check;
use levee_redis_session::proof::Proof;
use levee_redis_session::session::{Choice, Session};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

/// How many bytes are read at once.
const CHUNK: usize = 16 * 1024;

/// How long a client may take to receive its last replies.
const LINGER: Duration = Duration::from_secs(1);

/// At a stop, a connection is served until it is this old: many clients connect for one command only.
const YOUNGEST: Duration = Duration::from_millis(250);

type Dialing = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;
type Proving = Pin<Box<dyn Future<Output = Result<Stream, Unproven>> + Send>>;

enum Link {
    None,
    Dialing(Dialing),
    Up {
        stream: Stream,
        /// The answer of Levee's own that comes first.
        unread: &'static [u8],
    },
}

impl Link {
    const fn up(stream: Stream) -> Self {
        Self::Up {
            stream,
            unread: &[],
        }
    }
}

/// Serves one client until its end.
pub async fn serve(
    client: TcpStream,
    session: Session,
    upstream: Arc<Upstream>,
    spares: Arc<Spares>,
    share: Share,
    clock: Clock,
    mut orders: watch::Receiver<Orders>,
) {
    let mut wire = Wire {
        client,
        session,
        share,
        upstream,
        spares,
        dial: orders.borrow().dial(),
        link: Link::None,
        second: None,
        clock,
    };
    let mut timer = Box::pin(tokio::time::sleep_until(
        clock.timer(wire.session.wake_at()),
    ));
    let mut grown_up = std::pin::pin!(tokio::time::sleep(YOUNGEST));
    // It may have come before this connection.
    let mut is_stopping = orders.borrow_and_update().stop;
    let mut has_stopped = false;
    let ended = loop {
        tokio::select! {
            biased;
            changed = orders.changed(), if !is_stopping => {
                let current = orders.borrow_and_update().clone();
                wire.dial = current.dial();
                is_stopping = current.stop || changed.is_err();
                wire.session.configure(current.settings);
            }
            () = grown_up.as_mut(), if is_stopping && !has_stopped => {
                has_stopped = true;
                wire.stop().await;
            }
            ended = poll_fn(|cx| wire.poll(cx, timer.as_mut())) => break ended,
        }
    };
    wire.session.abandon(clock.now());
    if ended.is_ok() {
        close(wire.into_client(), LINGER).await;
    }
}

struct Wire {
    client: TcpStream,
    session: Session,
    share: Share,
    upstream: Arc<Upstream>,
    spares: Arc<Spares>,
    dial: Dial,
    link: Link,
    /// Another connection, which is made while the first one is silent, and by when it must have answered.
    second: Option<(Instant, Proving)>,
    clock: Clock,
}

impl Wire {
    /// Closes the connection to Redis and releases the buffers.
    fn into_client(self) -> TcpStream {
        self.client
    }

    /// Moves what can be moved. Ready when the connection is to be closed; an error when the client
    /// has gone.
    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<io::Result<()>> {
        loop {
            let now = self.clock.now();
            let mut moved = false;
            if self.session.wake_at() <= now {
                self.session.wake(now);
            }
            let has_read = self.read_client(cx, now)?;
            if has_read && self.session.lets_others_go_first() {
                // To the end of the queue: the runtime polls first what has become ready last.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            moved |= has_read;
            moved |= self.poll_upstream(cx, now);
            moved |= self.poll_second(cx, now);
            moved |= self.write_client(cx, now)?;
            if self.session.is_over() {
                return Poll::Ready(Ok(()));
            }
            if moved || self.account(cx, now) {
                continue;
            }
            let at = self.clock.timer(self.session.wake_at());
            // A timer that fires too early is only polled once more; it is set again when it has fired.
            if at < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// What the client has sent before is answered.
    async fn stop(&mut self) {
        poll_fn(|cx| {
            let now = self.clock.now();
            // The session's limits end it. An error is met again.
            while matches!(self.read_client(cx, now), Ok(true)) {}
            Poll::Ready(())
        })
        .await;
        self.session.stop();
    }

    /// Reports what the buffers take. Returns whether there may be something to move again.
    fn account(&mut self, cx: &Context<'_>, now: Instant) -> bool {
        self.share.hold(self.session.held_bytes(), cx.waker());
        if !self.share.is_asked() {
            return self.session.set_memory(self.share.memory(), now);
        }
        self.session.shrink();
        self.share.hold(self.session.held_bytes(), cx.waker());
        if !self.share.is_counted() {
            return false;
        }
        self.session.give_up_memory(now);
        self.share.hold(self.session.held_bytes(), cx.waker());
        true
    }

    fn read_client(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<bool> {
        if !self.session.wants_client() {
            return Ok(false);
        }
        let inbox = self.session.inbox();
        inbox.reserve(CHUNK);
        match poll_read_buf(Pin::new(&mut self.client), cx, inbox) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => {
                self.session.client_ended();
                Ok(true)
            }
            Poll::Ready(Ok(_)) => {
                self.session.client_sent(now);
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    fn write_client(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<bool> {
        let mut moved = false;
        while !self.session.to_client().is_empty() {
            match Pin::new(&mut self.client).poll_write(cx, self.session.to_client()) {
                Poll::Pending => break,
                Poll::Ready(Ok(written)) => {
                    self.session.client_took(written, now);
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(moved)
    }

    fn poll_upstream(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let is_wanted = match self.link {
            Link::None => {
                if !self.session.wants_connection() {
                    return false;
                }
                if let Some(spare) = self.spares.take() {
                    self.link = Link::Up {
                        stream: spare.stream,
                        unread: WAS_RESET,
                    };
                    let proof = Proof::Answered { at: spare.answered };
                    self.session.connected(proof, now);
                    return true;
                }
                let (upstream, dial) = (self.upstream.clone(), self.dial);
                self.link = Link::Dialing(Box::pin(async move { upstream.connect(dial).await }));
                return true;
            }
            Link::Dialing(_) => self.session.wants_connection(),
            Link::Up { .. } => self.session.keeps_connection(),
        };
        if !is_wanted {
            self.link = Link::None;
            return true;
        }
        let result = match &mut self.link {
            Link::None => Ok(false),
            Link::Dialing(dialing) => match dialing.as_mut().poll(cx) {
                Poll::Pending => Ok(false),
                Poll::Ready(Ok(stream)) => {
                    self.link = Link::up(stream);
                    self.session.connected(Proof::None, now);
                    Ok(true)
                }
                Poll::Ready(Err(error)) => {
                    self.link = Link::None;
                    self.session.not_connected(&error.to_string(), now);
                    Ok(true)
                }
            },
            Link::Up { stream, unread } => exchange(stream, unread, &mut self.session, cx, now),
        };
        result.unwrap_or_else(|error| {
            self.link = Link::None;
            self.session.lost(&error.to_string(), now);
            true
        })
    }

    /// What is still on its way on the old connection must not arrive after what goes out on the new one.
    fn replace_link(&mut self, stream: Stream) {
        if let Link::Up { stream: old, .. } = std::mem::replace(&mut self.link, Link::up(stream)) {
            old.abort();
        }
    }

    /// Makes another connection beside a silent one, if the session wants it.
    fn poll_second(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let Some(until) = self.session.second_until() else {
            return self.second.take().is_some();
        };
        if self.second.as_ref().is_some_and(|(by, _)| *by != until) {
            self.second = None;
        }
        let (upstream, dial) = (&self.upstream, self.dial);
        let (_, dialing) = self.second.get_or_insert_with(|| {
            let upstream = upstream.clone();
            let proving = async move { proven::connect(&upstream, dial).await };
            (until, Box::pin(proving))
        });
        let Poll::Ready(result) = dialing.as_mut().poll(cx) else {
            return false;
        };
        self.second = None;
        match result {
            Ok(stream) => {
                if self.session.second_connected(now) == Choice::Second {
                    self.replace_link(stream);
                }
            }
            Err(Unproven::NotNow(_) | Unproven::NoReset) => {
                self.session.second_failed(Check::Refused, now);
            }
            Err(Unproven::NoAnswer(error)) => {
                let why = &*error.to_string();
                let check = match error.kind() {
                    io::ErrorKind::TimedOut => Check::Silent { why },
                    _ => Check::Failed { why },
                };
                self.session.second_failed(check, now);
            }
        }
        true
    }
}

fn exchange(
    stream: &mut Stream,
    unread: &mut &'static [u8],
    session: &mut Session,
    cx: &mut Context<'_>,
    now: Instant,
) -> io::Result<bool> {
    let mut moved = false;
    if session.hangs_up() {
        // Redis then closes, after its last reply. Whether this fails, the read says.
        let _ = Pin::new(&mut *stream).poll_shutdown(cx);
    }
    // Levee's own question is answered before a pipe begins.
    let is_early = !unread.is_empty() && session.begins_pipe();
    while !is_early && !session.hangs_up() && !session.to_upstream().is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, session.to_upstream()) {
            // Where writing fails, the read decides: the reply may still say why.
            Poll::Pending | Poll::Ready(Err(_)) => break,
            Poll::Ready(Ok(written)) => {
                session.upstream_took(written, now);
                moved = true;
            }
        }
    }
    // Also when nothing was written this time: TLS may still hold what was written before.
    if !session.hangs_up()
        && let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_flush(cx)
    {
        return Err(error);
    }
    if session.wants_upstream() {
        let replies = session.replies();
        replies.reserve(CHUNK);
        match poll_read_buf(Pin::new(stream), cx, replies) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "closed by Redis",
                ));
            }
            Poll::Ready(Ok(bytes)) => {
                let bytes = bytes - remove_own(replies, bytes, unread)?;
                if bytes > 0 {
                    session.upstream_sent(bytes, now);
                }
                moved = true;
            }
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
    Ok(moved)
}

/// Removes what belongs to `unread` from the last `bytes` of `replies`, and returns how much that is.
fn remove_own(
    replies: &mut Vec<u8>,
    bytes: usize,
    unread: &mut &'static [u8],
) -> io::Result<usize> {
    let (own, rest) = unread.split_at(bytes.min(unread.len()));
    let at = replies.len() - bytes;
    if replies.get(at..at + own.len()) != Some(own) {
        // It is nobody's.
        replies.truncate(at);
        return Err(io::Error::other("Redis has not reset the connection"));
    }
    replies.drain(at..at + own.len());
    *unread = rest;
    Ok(own.len())
}
