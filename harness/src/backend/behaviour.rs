//! What a backend can do with a request, and its script.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::seen::SeenRequest;

/// What is done with one request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Reads the request to its end and answers.
    Answer(Response),
    /// As [`Self::Answer`], after a delay.
    Delay(Duration, Response),
    /// Reads the upload in pieces of at most this many bytes with a pause after each, then answers.
    Drip(usize, Duration, Response),
    /// Waits until the gate is opened, then answers.
    Hold(Gate, Response),
    /// Reads the request to its end and sends exactly these bytes; then nothing more.
    Raw(Bytes),
    /// Never answers.
    Stall,
    /// Sends the headers, which announce more, and this part of the body; then nothing more.
    StallInBody(Bytes),
    /// Resets the connection before any answer.
    Reset,
    /// Sends headers and this part of the body, then resets the connection.
    ResetInBody(Bytes),
    /// Closes the connection in order, before any answer.
    Close,
    /// Agrees to an upgrade (101), then says nothing and waits for the other side to go.
    Upgrade,
    /// Agrees to an upgrade, then sends back what it gets: messages, if the client sent the key of a WebSocket; otherwise bytes.
    UpgradeAndEcho,
}

impl Behaviour {
    /// Answers with a status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Answer(Response::status(status))
    }
}

/// What an answer holds.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Headers as bytes; need not be UTF-8. `content-length` is added.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// Without headers and body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// With a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_string(), value.as_ref().to_vec()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(super) fn to_bytes(&self, announced: usize) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {} Scripted\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        // 1xx and 204 have no content, and may not announce any (RFC 9110, section 8.6).
        if self.status >= 200 && self.status != 204 {
            bytes.extend_from_slice(format!("content-length: {announced}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// Holds requests back until it is opened. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed one.
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets all through that wait, and all that come.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn wait(&self) {
        // The sender is in `self`, so waiting can't end by its loss.
        let _ = self.0.subscribe().wait_for(|&open| open).await;
    }
}

pub(super) type Choice = Arc<dyn Fn(usize, &SeenRequest) -> Behaviour + Send + Sync>;

/// Which behaviour is next.
pub(super) struct Script {
    next: VecDeque<Behaviour>,
    always: Choice,
    /// How often `always` was asked.
    chosen: usize,
}

impl Script {
    pub(super) fn new(
        always: impl Fn(usize, &SeenRequest) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        Self {
            next: VecDeque::new(),
            always: Arc::new(always),
            chosen: 0,
        }
    }

    /// For the next requests.
    pub(super) fn insert(&mut self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.next.extend(behaviours);
    }

    /// For all requests after these, by their number (from 0) and what is in them.
    pub(super) fn choose(
        &mut self,
        always: impl Fn(usize, &SeenRequest) -> Behaviour + Send + Sync + 'static,
    ) {
        self.always = Arc::new(always);
        self.chosen = 0;
    }

    /// What to do with the next request, or the choice to ask for it, with its number. The choice is asked without the
    /// lock of the script, since it may change the script.
    pub(super) fn take(&mut self) -> Result<Behaviour, (Choice, usize)> {
        self.next.pop_front().ok_or_else(|| {
            self.chosen += 1;
            (Arc::clone(&self.always), self.chosen - 1)
        })
    }
}
