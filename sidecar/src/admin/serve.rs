//! Serving the admin interface with bounds, so that no client of it takes what Redis or other clients need.

use crate::accept::Acceptor;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

/// How many connections there may be. For one more, the oldest without a request in progress is closed.
pub const MOST_CONNECTIONS: usize = 32;

/// How long a connection may take for the headers of a request, the wait for it included.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    headers_within: Duration,
}

/// Serves until it is dropped.
pub async fn serve(acceptor: Acceptor, router: Router) {
    let bounds = Bounds {
        connections: MOST_CONNECTIONS,
        headers_within: HEADERS_WITHIN,
    };
    serve_within(bounds, acceptor, router).await;
}

async fn serve_within(bounds: Bounds, mut acceptor: Acceptor, router: Router) {
    let mut tasks = JoinSet::new();
    let mut open = VecDeque::new();
    loop {
        let client = tokio::select! {
            client = acceptor.accept() => client,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        open.retain(Connection::is_open);
        while open.len() >= bounds.connections && !close_oldest_idle(&mut open) {
            tasks.join_next().await;
            open.retain(Connection::is_open);
        }
        let request = Arc::new(());
        let serving = serve_client(client, router.clone(), request.clone(), bounds);
        open.push_back(Connection {
            task: tasks.spawn(serving),
            request,
        });
    }
}

struct Connection {
    task: AbortHandle,
    /// Requests in progress hold clones of it, and so does the connection's task.
    request: Arc<()>,
}

impl Connection {
    fn is_open(&self) -> bool {
        !self.task.is_finished()
    }

    fn is_idle(&self) -> bool {
        const OWNERS_WITHOUT_REQUEST: usize = 2;
        Arc::strong_count(&self.request) <= OWNERS_WITHOUT_REQUEST
    }
}

/// Returns whether there was one.
fn close_oldest_idle(open: &mut VecDeque<Connection>) -> bool {
    let idle = open.iter().position(Connection::is_idle);
    let closed = idle.and_then(|place| open.remove(place));
    closed
        .inspect(|connection| connection.task.abort())
        .is_some()
}

async fn serve_client(client: TcpStream, router: Router, request: Arc<()>, bounds: Bounds) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|incoming| {
        let (in_progress, answer) = (request.clone(), router.call(incoming));
        async move {
            let answer = answer.await;
            drop(in_progress);
            answer
        }
    });
    // How a client ends its connection is its own affair.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.headers_within)
        .serve_connection(TokioIo::new(client), service)
        .await;
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    const GENEROUS: Duration = Duration::from_secs(20);
    const HALF: &[u8] = b"GET /fast HTTP/1.1\r\nhost: x";

    /// `/slow` is answered once `gate` gives a permit.
    async fn start(bounds: Bounds, gate: Arc<Semaphore>) -> SocketAddr {
        let slow = async move || {
            let _ = gate.acquire().await;
            "slow"
        };
        let router = Router::new()
            .route("/fast", get(async || "fast"))
            .route("/slow", get(slow));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(listener, "admin", Clock::start());
        tokio::spawn(serve_within(bounds, acceptor, router));
        address
    }

    async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn read_all(stream: &mut TcpStream) -> String {
        let mut all = Vec::new();
        let read = tokio::time::timeout(GENEROUS, stream.read_to_end(&mut all));
        // A connection that is closed with bytes unread is reset.
        let _ = read.await.expect("the connection ends");
        String::from_utf8(all).unwrap()
    }

    fn request(path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
    }

    #[tokio::test]
    async fn half_sent_requests_give_their_places_to_others() {
        let bounds = Bounds {
            connections: 3,
            headers_within: Duration::from_hours(1),
        };
        let address = start(bounds, Arc::new(Semaphore::new(0))).await;
        let mut half = Vec::new();
        for _ in 0..10 {
            half.push(send(address, HALF).await);
        }
        let mut whole = send(address, &request("/fast")).await;
        assert!(read_all(&mut whole).await.ends_with("fast"));
        for stream in &mut half[..7] {
            assert_eq!(read_all(stream).await, "");
        }
    }

    #[tokio::test]
    async fn a_request_in_progress_keeps_its_place() {
        let bounds = Bounds {
            connections: 2,
            headers_within: Duration::from_hours(1),
        };
        let gate = Arc::new(Semaphore::new(0));
        let address = start(bounds, gate.clone()).await;
        let mut slow = send(address, &request("/slow")).await;
        for _ in 0..5 {
            let mut fast = send(address, &request("/fast")).await;
            assert!(read_all(&mut fast).await.ends_with("fast"));
            send(address, HALF).await;
        }
        gate.add_permits(1);
        assert!(read_all(&mut slow).await.ends_with("slow"));
    }

    #[tokio::test]
    async fn a_connection_without_a_request_ends() {
        let bounds = Bounds {
            connections: 2,
            headers_within: Duration::from_millis(50),
        };
        let address = start(bounds, Arc::new(Semaphore::new(0))).await;
        for bytes in [HALF, b""] {
            assert_eq!(read_all(&mut send(address, bytes).await).await, "");
        }
    }
}
