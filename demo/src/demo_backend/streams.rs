//! What is not one answer to one request: uploads, server-sent events, a WebSocket (RFC 6455).

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Failure;

/// Between two events.
const EVENT_EVERY: Duration = Duration::from_millis(50);

/// The most events for one request.
const MOST_EVENTS: u32 = 10_000;

/// How many bytes a body has. It is not kept.
pub(super) async fn count(mut body: Body) -> Result<u64, Failure> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::BadRequest(format!("the upload: {error}")))?;
        length += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(length)
}

pub(super) async fn upload(body: Body) -> Result<(StatusCode, Json<Value>), Failure> {
    let uploaded = count(body).await?;
    Ok((
        StatusCode::CREATED,
        Json(json!({"uploaded_bytes": uploaded})),
    ))
}

/// As many events as the query says (`count=3`), one after the other.
pub(super) async fn events(uri: Uri) -> Response {
    let wanted = uri.query().and_then(|query| query.strip_prefix("count="));
    let wanted: u32 = wanted.and_then(|count| count.parse().ok()).unwrap_or(3);
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        for number in 1..=wanted.min(MOST_EVENTS) {
            let event = Bytes::from(format!("id: {number}\ndata: event {number}\n\n"));
            if sender.send_data(event).await.is_err() {
                break;
            }
            tokio::time::sleep(EVENT_EVERY).await;
        }
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::new(body)).into_response()
}

/// Agrees to a WebSocket and sends back each message.
pub(super) async fn socket(mut request: Request) -> Result<Response, Failure> {
    let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
    let wants = header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    let key = header("sec-websocket-key").filter(|_| wants);
    let key = key.ok_or_else(|| Failure::BadRequest("wanted a WebSocket's handshake".into()))?;
    // RFC 6455, section 1.3.
    let sealed = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &sealed);
    let accept = STANDARD.encode(digest);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(connection) = upgrade.await {
            // How it ends is the other side's business.
            let _ = echo(TokioIo::new(connection)).await;
        }
    });
    let headers = [
        (CONNECTION, "upgrade".to_owned()),
        (UPGRADE, "websocket".to_owned()),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Sends back frames, unmasked, until one closes. Only short ones are understood: RFC 6455, section 5.2.
async fn echo(mut connection: TokioIo<Upgraded>) -> io::Result<()> {
    const CLOSE: u8 = 8;
    loop {
        let mut head = [0; 6];
        connection.read_exact(&mut head).await?;
        let (kind, length, mask) = (head[0], head[1] & 0x7f, &head[2..]);
        if head[1] & 0x80 == 0 || length > 125 {
            return Err(io::Error::other(
                "wanted a masked frame of at most 125 bytes",
            ));
        }
        let mut data = vec![0; usize::from(length)];
        connection.read_exact(&mut data).await?;
        for (byte, mask) in data.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        let frame = [&[kind, length][..], &data].concat();
        connection.write_all(&frame).await?;
        connection.flush().await?;
        if kind & 0x0f == CLOSE {
            return connection.shutdown().await;
        }
    }
}
