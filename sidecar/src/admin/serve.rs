//! Serving the admin interface with bounds: no client of it takes what Redis or a health check needs.

use super::connection::{self, Activity, Patience};
use crate::accept::Acceptor;
use axum::Router;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

/// How many connections there may be. For one more, the oldest idle one is closed.
pub const MOST_CONNECTIONS: usize = 32;

/// How many connections may have a request that waits for something, such as Envoy. They are fewer than
/// [`MOST_CONNECTIONS`], so that one of the others can always be closed for a health check.
const MOST_REQUESTS: usize = 24;

const PATIENCE: Patience = Patience {
    headers: Duration::from_secs(10),
    answer: Duration::from_secs(10),
};

#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    requests: usize,
    patience: Patience,
}

/// Serves until it is dropped.
pub async fn serve(acceptor: Acceptor, router: Router) {
    let bounds = Bounds {
        connections: MOST_CONNECTIONS,
        requests: MOST_REQUESTS,
        patience: PATIENCE,
    };
    serve_within(bounds, acceptor, router).await;
}

async fn serve_within(bounds: Bounds, mut acceptor: Acceptor, router: Router) {
    let permits = Arc::new(Semaphore::new(bounds.requests));
    let mut tasks = JoinSet::new();
    let mut open: Vec<Connection> = Vec::new();
    loop {
        let client = tokio::select! {
            client = acceptor.accept() => client,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        open.retain(Connection::is_open);
        while open.len() >= bounds.connections {
            if let Some(idle) = open.iter().find(|connection| connection.activity.is_idle()) {
                idle.task.abort();
            }
            // Its socket is closed once its task has ended, not before.
            tasks.join_next().await;
            open.retain(Connection::is_open);
        }
        let activity = Arc::new(Activity::default());
        let (router, permits) = (router.clone(), permits.clone());
        let serving = connection::serve(client, router, permits, activity.clone(), bounds.patience);
        open.push(Connection {
            task: tasks.spawn(serving),
            activity,
        });
        // It may read its request before the next one can take its place.
        tokio::task::yield_now().await;
    }
}

struct Connection {
    task: AbortHandle,
    activity: Arc<Activity>,
}

impl Connection {
    fn is_open(&self) -> bool {
        !self.task.is_finished()
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const GENEROUS: Duration = Duration::from_secs(20);
    const HALF: &[u8] = b"GET /fast HTTP/1.1\r\nhost: x";
    const BOUNDS: Bounds = Bounds {
        connections: 3,
        requests: 2,
        patience: Patience {
            headers: Duration::from_hours(1),
            answer: Duration::from_hours(1),
        },
    };

    /// `/slow` is answered once `gate` gives a permit.
    async fn start(bounds: Bounds, gate: Arc<Semaphore>) -> SocketAddr {
        let slow = async move || {
            let _ = gate.acquire().await;
            "slow"
        };
        let router = Router::new()
            .route("/healthz", get(async || "health"))
            .route("/fast", get(async || "fast"))
            .route("/large", get(async || vec![b'x'; 64 << 20]))
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

    async fn ask(address: SocketAddr, path: &str) -> String {
        read_all(&mut send(address, &request(path)).await).await
    }

    /// Asks until the answer ends with `wanted`.
    async fn ask_until(address: SocketAddr, path: &str, wanted: &str) {
        let asking = async {
            while !ask(address, path).await.ends_with(wanted) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(GENEROUS, asking).await.unwrap();
    }

    #[tokio::test]
    async fn half_sent_requests_give_their_places_to_others() {
        let address = start(BOUNDS, Arc::new(Semaphore::new(0))).await;
        let mut half = Vec::new();
        for _ in 0..10 {
            half.push(send(address, HALF).await);
        }
        assert!(ask(address, "/fast").await.ends_with("fast"));
        for stream in &mut half[..7] {
            assert_eq!(read_all(stream).await, "");
        }
    }

    #[tokio::test]
    async fn a_request_in_progress_keeps_its_place() {
        let gate = Arc::new(Semaphore::new(0));
        let address = start(BOUNDS, gate.clone()).await;
        let mut slow = send(address, &request("/slow")).await;
        for _ in 0..5 {
            assert!(ask(address, "/fast").await.ends_with("fast"));
            send(address, HALF).await;
        }
        gate.add_permits(1);
        assert!(read_all(&mut slow).await.ends_with("slow"));
    }

    #[tokio::test]
    async fn a_health_check_is_answered_whatever_others_ask_and_further_requests_are_refused() {
        let gate = Arc::new(Semaphore::new(0));
        let address = start(BOUNDS, gate.clone()).await;
        let mut slow = Vec::new();
        for _ in 0..BOUNDS.requests {
            slow.push(send(address, &request("/slow")).await);
        }
        let mut others = Vec::new();
        for _ in 0..5 {
            ask_until(address, "/fast", "try again\"}").await;
            assert!(ask(address, "/healthz").await.ends_with("health"));
            others.push(send(address, HALF).await);
        }
        gate.add_permits(1);
        for stream in &mut slow {
            assert!(read_all(stream).await.ends_with("slow"));
        }
        ask_until(address, "/fast", "fast").await;
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_is_given_up() {
        let bounds = Bounds {
            requests: 1,
            patience: Patience {
                answer: Duration::from_millis(50),
                ..BOUNDS.patience
            },
            ..BOUNDS
        };
        let address = start(bounds, Arc::new(Semaphore::new(0))).await;
        let deaf = send(address, &request("/large")).await;
        ask_until(address, "/fast", "fast").await;
        drop(deaf);
    }

    #[tokio::test]
    async fn a_connection_without_a_request_ends() {
        let bounds = Bounds {
            patience: Patience {
                headers: Duration::from_millis(50),
                ..BOUNDS.patience
            },
            ..BOUNDS
        };
        let address = start(bounds, Arc::new(Semaphore::new(0))).await;
        for bytes in [HALF, b""] {
            assert_eq!(read_all(&mut send(address, bytes).await).await, "");
        }
    }
}
