//! Tunnels and upgrades.

use http::Method;
use levee_harness::backend::Behaviour;
use levee_harness::client::{Connection, Request};
use levee_harness::raw::RawConnection;
use levee_harness::wait;
use levee_harness::web_socket::Socket;
use serde_json::json;

use crate::case::{Case, Service, Target, compare_with_the_table, gateway};

const CONNECT: &str = "a CONNECT tunnel that was opened";
const UPGRADE: &str = "an upgrade (WebSocket)";

pub fn cases() -> Vec<Case> {
    let opens = Service::Http(Behaviour::Raw("HTTP/1.1 200 OK\r\n\r\n".into()));
    let echoes = || Service::Http(Behaviour::UpgradeAndEcho);
    let web_socket = json!({"route": {"upgrade_configs": [{"upgrade_type": "websocket"}]}});
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
        .route(web_socket.clone()),
        Case::new(UPGRADE, "over HTTP/2", echoes(), |target| async move {
            let connect = Request::new(Method::CONNECT, &target.path).protocol("websocket");
            over_http2(&target, connect).await;
        })
        .route(web_socket),
    ]
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
