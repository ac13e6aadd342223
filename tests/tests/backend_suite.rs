//! No regressions for services: their own suite and clients that exercise HTTP, directly at the services, through a
//! gateway without Levee, and with all of Levee in the path.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use levee_demo::stack::{Parts, Stack};
use levee_harness::client::{Connection, Request};
use levee_harness::clock::Stopwatch;
use levee_harness::raw::{RawConnection, Read};
use levee_harness::wait::GENEROUS;
use levee_harness::web_socket::Socket;
use serde_json::{Value, json};

/// How the services are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Directly,
    ByPlainEnvoy,
    WithLevee,
}

const PATHS: [Path; 3] = [Path::Directly, Path::ByPlainEnvoy, Path::WithLevee];

/// The services, by one of the three paths.
struct System {
    stack: Stack,
    path: Path,
}

impl System {
    fn start(path: Path) -> Self {
        let parts = match path {
            Path::Directly | Path::ByPlainEnvoy => Parts::NONE,
            Path::WithLevee => Parts::ALL,
        };
        Self {
            stack: Stack::start(parts).unwrap(),
            path,
        }
    }

    fn address(&mut self, service: &str) -> SocketAddr {
        match self.path {
            Path::Directly => self.stack.service(service).unwrap().address,
            Path::ByPlainEnvoy | Path::WithLevee => self.stack.address(),
        }
    }

    /// Status and JSON of an answer; the service is named in the path, `/v1/<service>/...`.
    fn ask(&mut self, method: Method, path: &str, body: &str) -> (u16, Value) {
        let service = path.split('/').nth(2).expect("a path of a service");
        let to = self.address(service);
        let mut request = Request::new(method, path);
        if !body.is_empty() {
            request = request
                .header("content-type", "application/json")
                .slow_body(body.to_owned(), 1, Duration::ZERO);
        }
        let answer = self.stack.send_to(to, &request);
        let answer = answer.unwrap_or_else(|error| panic!("{:?}, {path}: {error}", self.path));
        assert_eq!(answer.broken, None, "{path}");
        let json = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        (answer.status, json)
    }
}

fn by_each_path(test: fn(&mut System)) {
    for path in PATHS {
        println!("{path:?}");
        let mut system = System::start(path);
        test(&mut system);
        // Checks the path: Levee saw the requests (its metrics lag a little), or was not there.
        let waited = Stopwatch::start();
        let levee_saw = || {
            let metrics = system.stack.metrics().unwrap();
            metrics.sum("circuit_breaker_requests_total", &[]) > 0.0
        };
        if path == Path::WithLevee {
            while !levee_saw() {
                assert!(waited.elapsed() < GENEROUS, "Levee saw no request");
            }
        } else {
            assert!(!levee_saw(), "Levee is in the path {path:?}");
        }
    }
}

#[test]
fn sessions_and_tokens_work_by_each_path() {
    by_each_path(|system| {
        let login = "/v1/auth/login";
        let (status, made) = system.ask(Method::POST, login, r#"{"user": "ann"}"#);
        assert_eq!((status, &made["user"]), (201, &json!("ann")));
        let id = made["session"].as_str().expect("an id").to_owned();
        let session = format!("/v1/auth/session/{id}");
        assert_eq!(system.ask(Method::GET, &session, ""), (200, made));

        let body = json!({"session": id, "email": "ann@example.org"}).to_string();
        let (status, token) = system.ask(Method::POST, "/v1/auth/email-token", &body);
        assert_eq!(status, 201);
        let token = token["token"].as_str().expect("an id");
        let used = format!("/v1/auth/email-token/{token}/use");
        assert_eq!(system.ask(Method::POST, &used, "").0, 204);
        assert_eq!(system.ask(Method::POST, &used, "").0, 404, "only once");

        assert_eq!(system.ask(Method::DELETE, &session, "").0, 204);
        let (status, error) = system.ask(Method::GET, &session, "");
        assert_eq!((status, &error["error"]), (404, &json!("no such session")));
        assert_eq!(system.ask(Method::DELETE, &session, "").0, 404);
        let (status, _) = system.ask(Method::POST, "/v1/auth/email-token", &body);
        assert_eq!(status, 404, "no token without a session");
        assert_eq!(system.ask(Method::GET, "/v1/auth/session/x", "").0, 404);
        assert_eq!(system.ask(Method::POST, login, "{}").0, 400);
        assert_eq!(system.ask(Method::POST, login, "no JSON").0, 400);
        assert_eq!(system.ask(Method::GET, login, "").0, 405);
    });
}

#[test]
fn calls_work_by_each_path() {
    by_each_path(|system| {
        let calls = "/v1/video/calls";
        let (status, made) = system.ask(Method::POST, calls, r#"{"caller": "ann"}"#);
        assert_eq!((status, &made["status"]), (201, &json!("ringing")));
        let call = format!("{calls}/{}", made["call"].as_str().expect("an id"));
        let (status, seen) = system.ask(Method::GET, &call, "");
        assert_eq!((status, &seen["status"]), (200, &json!("ringing")));
        let end = format!("{call}/end");
        let (status, ended) = system.ask(Method::POST, &end, "");
        assert_eq!((status, &ended["status"]), (200, &json!("ended")));
        assert_eq!(system.ask(Method::POST, &end, "").0, 404, "only once");
        let (_, seen) = system.ask(Method::GET, &call, "");
        assert_eq!(seen["status"], "ended");
        assert!(
            seen["duration"]
                .as_i64()
                .is_some_and(|seconds| seconds <= 60)
        );
        let nobody = format!("{calls}/00000000-0000-0000-0000-000000000000");
        assert_eq!(system.ask(Method::GET, &nobody, "").0, 404);
    });
}

#[test]
fn http_is_used_to_the_full_by_each_path() {
    by_each_path(|system| {
        let [auth, chat, storage] = ["auth", "chat", "storage"].map(|name| system.address(name));
        let directly = system.path == Path::Directly;
        system.stack.block_on(async {
            keep_alive_and_head(auth).await;
            large_headers(auth).await;
            chunked_upload(storage).await;
            continue_100(storage).await;
            events(chat).await;
            web_socket(chat).await;
        });
        // The request reached the right service.
        if !directly {
            let (_, state) = system.ask(Method::GET, "/v1/storage/x", "");
            assert_eq!(state["service"], "storage");
        }
    });
}

async fn keep_alive_and_head(to: SocketAddr) {
    let mut connection = Connection::open(to).await.unwrap();
    for number in 0..30 {
        let path = format!("/v1/auth/hello/{number}");
        // A response to HEAD announces a body that it lacks: a client that reads one misses the next response.
        let head = Request::new(Method::HEAD, &path);
        let answer = connection.send(&head).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_ne!(answer.header("content-length"), "0");
        let answer = connection.send(&Request::get(&path)).await.unwrap();
        assert_eq!(answer.status, 200, "request {number} on one connection");
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (&body["path"], &body["method"]),
            (&json!(path), &json!("GET"))
        );
    }
}

/// Just within `max_request_headers_kb` and `max_headers_count` of the gateway.
async fn large_headers(to: SocketAddr) {
    let large = Request::get("/v1/auth/hello").header("x-large", "x".repeat(56 * 1024));
    assert_eq!(large.send(to).await.unwrap().status, 200);
    let many = (0..80).fold(Request::get("/v1/auth/hello"), |request, number| {
        request.header(&format!("x-header-{number}"), "value")
    });
    assert_eq!(many.send(to).await.unwrap().status, 200);
}

async fn chunked_upload(to: SocketAddr) {
    let request = Request::new(Method::PUT, "/v1/storage/film").slow_body(
        vec![b'x'; 64 * 1024],
        32,
        Duration::from_millis(5),
    );
    let answer = request.send(to).await.unwrap();
    assert_eq!(answer.status, 201);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["uploaded_bytes"], 32 * 64 * 1024);
}

async fn continue_100(to: SocketAddr) {
    let mut client = RawConnection::open(to).await.unwrap();
    let head = "PUT /v1/storage/film HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    client.send(head).await.unwrap();
    assert_eq!(client.read_status(GENEROUS).await, Ok(100));
    client.forget();
    client.send("hello").await.unwrap();
    assert_eq!(
        client.read_until(b"\"uploaded_bytes\":5", GENEROUS).await,
        Read::Found
    );
    let answer = String::from_utf8_lossy(client.received()).into_owned();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

async fn events(to: SocketAddr) {
    let mut client = RawConnection::open(to).await.unwrap();
    let request = "GET /v1/chat/events?count=20 HTTP/1.1\r\nhost: x\r\n\r\n";
    client.send(request).await.unwrap();
    assert_eq!(
        client.read_until(b"data: event 1\n", GENEROUS).await,
        Read::Found
    );
    let so_far = String::from_utf8_lossy(client.received()).into_owned();
    assert!(so_far.contains("text/event-stream"), "{so_far}");
    assert!(
        !so_far.contains("event 20"),
        "each comes when it is sent: {so_far}"
    );
    assert_eq!(
        client.read_until(b"data: event 20\n", GENEROUS).await,
        Read::Found
    );
}

/// The answer to the handshake's key is that of RFC 6455, section 1.3.
async fn web_socket(to: SocketAddr) {
    let talk = async {
        let mut socket = Socket::open(to, "/v1/chat/socket").await.unwrap();
        assert_eq!(
            socket.headers["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        for _ in 0..3 {
            socket.send("Hello").await.unwrap();
            assert_eq!(socket.next().await.unwrap().as_deref(), Some("Hello"));
        }
        socket.close().await.unwrap();
    };
    tokio::time::timeout(GENEROUS, talk).await.unwrap();
}
