//! Uploads, server-sent events, and a WebSocket.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use serde_json::{Value, json};

use super::failure::Failure;

/// Between two events.
const EVENT_EVERY: Duration = Duration::from_millis(50);

/// The most events for one request.
const MOST_EVENTS: u32 = 10_000;

/// Largest WebSocket message, in bytes.
const MESSAGE_LIMIT: usize = 64 * 1024;

/// The length of a body in bytes. The body is not kept.
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

/// Sends as many events as the query asks for (`count=3`).
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

/// A WebSocket that sends back each message.
pub(super) async fn socket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MESSAGE_LIMIT).on_upgrade(echo)
}

/// Pings and the closing handshake are answered by the library.
async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_))
            && socket.send(message).await.is_err()
        {
            break;
        }
    }
}
