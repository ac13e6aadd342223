//! A connection on which Redis has answered.

use super::upstream::{Dial, Stream, Upstream};
use levee_redis_session::proof::{Judgement, QUESTION, judge};
use levee_redis_session::resp::ReplyScanner;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Makes a connection like a new one.
pub const RESET: &[u8] = b"*1\r\n$5\r\nRESET\r\n";

/// The only good answer to [`RESET`].
pub const WAS_RESET: &[u8] = b"+RESET\r\n";

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
    /// Redis does not know RESET (before 6.2), or has renamed it.
    #[error("Redis has not reset the connection")]
    NoReset,
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
    ask(stream, QUESTION).await?;
    judge_reply(&read_reply(stream, &mut Vec::new()).await?)
}

/// Makes the connection like a new one, and proves it.
///
/// # Errors
/// As for [`prove`]. Or Redis does not reset it.
pub async fn renew(stream: &mut Stream) -> Result<(), Unproven> {
    ask(stream, &[RESET, QUESTION].concat()).await?;
    let mut unread = Vec::new();
    let reset = read_reply(stream, &mut unread).await?;
    judge_reply(&read_reply(stream, &mut unread).await?)?;
    if reset == WAS_RESET && unread.is_empty() {
        Ok(())
    } else {
        Err(Unproven::NoReset)
    }
}

async fn ask(stream: &mut Stream, question: &[u8]) -> io::Result<()> {
    stream.write_all(question).await?;
    stream.flush().await
}

fn judge_reply(reply: &[u8]) -> Result<(), Unproven> {
    match judge(reply) {
        Judgement::Answers => Ok(()),
        Judgement::NotNow => {
            let words = String::from_utf8_lossy(reply).trim_end().to_owned();
            Err(Unproven::NotNow(words))
        }
    }
}

/// The next reply, of which `unread` may have bytes already. What is read behind it stays there.
async fn read_reply(stream: &mut Stream, unread: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut scanner = ReplyScanner::default();
    let mut end = 0;
    loop {
        let progress = scanner
            .advance(unread.get(end..).unwrap_or_default())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        end += progress.consumed;
        if progress.complete {
            let rest = unread.split_off(end);
            return Ok(std::mem::replace(unread, rest));
        }
        if unread.len() > LONGEST {
            return Err(io::Error::other("what Redis answered is too long"));
        }
        if stream.read_buf(unread).await? == 0 {
            let closed = "closed by Redis";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, closed));
        }
    }
}
