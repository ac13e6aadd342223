//! A connection on which Redis has answered.

use super::upstream::{Dial, Stream, Upstream};
use levee_redis_session::proof::{Judgement, QUESTION, judge};
use levee_redis_session::resp::ReplyScanner;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The longest answer that is read.
const LONGEST: usize = 4096;

/// Why a connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    #[error(transparent)]
    NoAnswer(#[from] io::Error),
    /// Redis serves nobody, in its own words.
    #[error("{0}")]
    NotNow(String),
}

/// Connects, and waits for an answer. The caller bounds how long it takes.
///
/// # Errors
/// There is no connection or no answer, or one that says that Redis serves nobody.
pub async fn connect(upstream: &Upstream, dial: Dial) -> Result<Stream, Unproven> {
    let mut stream = upstream.connect(dial).await?;
    prove(&mut stream).await?;
    Ok(stream)
}

/// Asks for an answer, and waits for it.
///
/// # Errors
/// There is none, or one that says that Redis serves nobody.
pub async fn prove(stream: &mut Stream) -> Result<(), Unproven> {
    stream.write_all(QUESTION).await?;
    stream.flush().await?;
    let reply = read_reply(stream).await?;
    match judge(&reply) {
        Judgement::Answers => Ok(()),
        Judgement::NotNow => {
            let words = String::from_utf8_lossy(&reply).trim_end().to_owned();
            Err(Unproven::NotNow(words))
        }
    }
}

async fn read_reply(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    let mut scanner = ReplyScanner::default();
    let mut end = 0;
    while reply.len() <= LONGEST {
        if stream.read_buf(&mut reply).await? == 0 {
            let closed = "closed by Redis";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, closed));
        }
        let unscanned = reply.get(end..).unwrap_or_default();
        let progress = scanner
            .advance(unscanned)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        end += progress.consumed;
        if progress.complete {
            return Ok(reply);
        }
    }
    Err(io::Error::other("what Redis answered to PING is too long"))
}
