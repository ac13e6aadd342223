//! One connection to the admin interface: what it is doing, and how long that may take.

use axum::Router;
use axum::http::{self, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Answered from memory without waiting for anything, so they need no permit and are never refused.
const QUICK: [&str; 2] = ["/healthz", "/readyz"];

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the headers of a request, the wait for it included.
    pub headers: Duration,
    /// To take an answer.
    pub answer: Duration,
}

/// What a connection is doing.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Request>);

/// The last request of a connection.
#[derive(Debug, Default)]
struct Request {
    /// From its headers until its answer is written; quick requests have none.
    permit: Option<OwnedSemaphorePermit>,
    /// The answer is known, but maybe not written.
    is_answered: bool,
}

/// All permits are in use.
struct Busy;

impl Activity {
    pub fn is_idle(&self) -> bool {
        self.lock().permit.is_none()
    }

    fn begin(&self, path: &str, permits: &Arc<Semaphore>) -> Result<(), Busy> {
        let permit = if QUICK.contains(&path) {
            None
        } else {
            Some(permits.clone().try_acquire_owned().map_err(|_| Busy)?)
        };
        *self.lock() = Request {
            permit,
            is_answered: false,
        };
        Ok(())
    }

    fn answer(&self) {
        self.lock().is_answered = true;
    }

    /// The kernel has all that was to be written.
    fn written(&self) {
        let mut request = self.lock();
        if request.is_answered {
            request.permit = None;
        }
    }

    fn end(&self) {
        self.lock().permit = None;
    }

    fn lock(&self) -> MutexGuard<'_, Request> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until the client leaves or takes too long. A request that waits for something needs one of `permits`.
pub async fn serve(
    tcp: TcpStream,
    router: Router,
    permits: Arc<Semaphore>,
    activity: Arc<Activity>,
    patience: Patience,
) {
    let client = Client {
        tcp,
        activity: activity.clone(),
        patience: patience.answer,
        waiting: None,
    };
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: http::Request<Incoming>| {
        let begun = activity.begin(request.uri().path(), &permits);
        let answer = begun.map(|()| router.call(request));
        let activity = &activity;
        async move {
            let Ok(answer) = answer else {
                return Ok(busy());
            };
            let answer = answer.await;
            activity.answer();
            answer
        }
    });
    // How a client ends its connection is its own affair.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.headers)
        .serve_connection(TokioIo::new(client), service)
        .await;
}

fn busy() -> Response {
    let body = json!({"error": "too many requests are in progress; try again"});
    let headers = [(header::RETRY_AFTER, "1"), (header::CONNECTION, "close")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, Json(body)).into_response()
}

/// A client's stream, which fails if the client takes too long to take an answer.
struct Client {
    tcp: TcpStream,
    activity: Arc<Activity>,
    patience: Duration,
    /// While something is to be written that the kernel has no room for.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Client {
    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_pending() {
            let patience = self.patience;
            let waiting = self
                .waiting
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            ready!(waiting.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        write
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.activity.end();
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = Pin::new(&mut this.tcp).poll_write(cx, buf);
        this.bound(cx, write)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = Pin::new(&mut this.tcp).poll_write_vectored(cx, bufs);
        this.bound(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    /// Called when all was written.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.waiting = None;
        this.activity.written();
        Pin::new(&mut this.tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
