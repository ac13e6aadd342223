//! A client of a WebSocket (RFC 6455).

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The key that the RFC's example sends (section 1.3). A fixed one makes the answer to it known.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// The headers of the answer that agreed to it.
    pub headers: HeaderMap,
}

impl Socket {
    /// Opens one. The library checks the handshake.
    pub async fn open(to: SocketAddr, path: &str) -> Result<Self, Error> {
        let mut request = format!("ws://{to}{path}").into_client_request()?;
        let key = HeaderValue::from_static(KEY);
        request.headers_mut().insert("sec-websocket-key", key);
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (stream, answer) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(Self {
            stream,
            headers: answer.headers().clone(),
        })
    }

    /// Sends a message of text.
    pub async fn send(&mut self, text: &str) -> Result<(), Error> {
        self.stream.send(Message::text(text)).await
    }

    /// The next message of text. `None` once the other side has closed.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        while let Some(message) = self.stream.next().await {
            match message? {
                Message::Text(text) => return Ok(Some(text.to_string())),
                Message::Close(_) => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Closes it and waits until the other side has answered that and ended the connection.
    pub async fn close(mut self) -> Result<(), Error> {
        self.stream.close(None).await?;
        while let Some(message) = self.stream.next().await {
            message?;
        }
        Ok(())
    }
}
