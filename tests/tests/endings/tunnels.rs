//! Tunnels and upgrades.

use http::Method;
use levee_harness::backend::{Behaviour, Response};
use levee_harness::client::{Connection, Request};
use levee_harness::raw::RawConnection;
use levee_harness::wait;
use levee_harness::web_socket::Socket;
use serde_json::{Value, json};

use crate::case::{Case, Service, Target, compare_with_the_table, gateway};

const CONNECT: &str = "a CONNECT tunnel that was opened";
const UPGRADE: &str = "an upgrade (WebSocket)";
const NOT_UPGRADED: &str = "an answer to an upgrade that is neither 101 nor an error";
const REFUSED: &str = "4xx other than 429, 501 or 505, whatever `grpc-status` comes along";
const ERROR: &str = "500, or 506 and above";
const UNAVAILABLE: &str = "502, 503 or 504";

pub fn cases() -> Vec<Case> {
    let mut cases = that_are_opened();
    cases.extend(that_are_refused());
    cases
}

fn web_socket() -> Value {
    json!({"route": {"upgrade_configs": [{"upgrade_type": "websocket"}]}})
}

fn that_are_opened() -> Vec<Case> {
    let opens = Service::Http(Behaviour::Raw("HTTP/1.1 200 OK\r\n\r\n".into()));
    let echoes = || Service::Http(Behaviour::UpgradeAndEcho);
    vec![
        Case::new(CONNECT, "HTTP/1 and HTTP/2", opens, |target| async move {
            if target.number % 2 == 0 {
                let mut tunnel = RawConnection::open(target.gateway).await.unwrap();
                tunnel
                    .send("CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n")
                    .await
                    .unwrap();
                assert_eq!(tunnel.read_status(wait::GENEROUS).await, Ok(200));
            } else {
                over_http2(&target, Request::new(Method::CONNECT, "")).await;
            }
        })
        .first_route(json!({
            "match": {"connect_matcher": {}},
            "route": {"upgrade_configs": [{"upgrade_type": "CONNECT"}]},
        })),
        Case::new(UPGRADE, "over HTTP/1", echoes(), |target| async move {
            let mut socket = Socket::open(target.gateway, &target.path).await.unwrap();
            socket.send("hello").await.unwrap();
            assert_eq!(socket.next().await.unwrap().as_deref(), Some("hello"));
        })
        .route(web_socket()),
        Case::new(UPGRADE, "over HTTP/2", echoes(), |target| async move {
            let connect = Request::new(Method::CONNECT, &target.path).protocol("websocket");
            over_http2(&target, connect).await;
        })
        .route(web_socket()),
    ]
}

/// Upgrades that are answered with another status than 101.
fn that_are_refused() -> Vec<Case> {
    let mut cases = Vec::new();
    for (row, status) in [
        (NOT_UPGRADED, 200),
        (NOT_UPGRADED, 302),
        (REFUSED, 403),
        (ERROR, 500),
        (UNAVAILABLE, 503),
    ] {
        let service = || {
            let answer = Response::status(status).body("no");
            Service::Http(Behaviour::Answer(answer))
        };
        let over_http1 = move |target: Target| async move {
            let upgrade = (target.get())
                .header("connection", "upgrade")
                .header("upgrade", "websocket");
            let answer = upgrade.send(target.gateway).await.unwrap();
            assert_eq!(answer.status, status);
        };
        let over_http2 = move |target: Target| async move {
            let connect = Request::new(Method::CONNECT, &target.path).protocol("websocket");
            let mut connection = Connection::open_http2(target.gateway).await.unwrap();
            let answer = connection.send_unread(&connect).await.unwrap();
            assert_eq!(answer.status, status);
        };
        let over_http1 = Case::new(row, "to an upgrade over HTTP/1", service(), over_http1);
        cases.push(over_http1.route(web_socket()));
        let over_http2 = Case::new(row, "to an upgrade over HTTP/2", service(), over_http2);
        cases.push(over_http2.route(web_socket()));
    }
    cases
}

/// Opens a tunnel, and resets it.
async fn over_http2(target: &Target, request: Request) {
    let mut connection = Connection::open_http2(target.gateway).await.unwrap();
    let tunnel = connection.send_unread(&request).await.unwrap();
    assert_eq!(tunnel.status, 200);
}

#[tokio::test]
async fn tunnels_are_counted_as_the_table_says() {
    let config = gateway().connection_manager(&json!({
        "http2_protocol_options": {"allow_connect": true},
    }));
    compare_with_the_table(config, cases()).await;
}
