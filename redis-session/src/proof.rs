//! Whether a new connection leads to a Redis that serves commands. A connection alone proves nothing: a balancer accepts
//! it for a Redis that is gone, and closes it or is silent. A reply is the proof.

use crate::resp::ReplyScanner;
use levee_policy::time::Instant;

/// The question that costs Redis least, and that it answers even to a client that has not logged in.
pub const QUESTION: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// What is known of a connection that has just been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Redis has answered [`QUESTION`] on it, see [`judge`].
    Answered { at: Instant },
    /// It was accepted, by Redis or something before it. That is all.
    None,
}

/// What an answer to [`QUESTION`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Redis serves commands: clients' own, with whatever rights these have.
    Answers,
    /// Redis, or what stands before it, serves nobody on this connection at the moment.
    NotNow,
}

/// Replies that begin like this come from a Redis that would answer a client's command the same way.
const NOT_NOW: [&[u8]; 5] = [
    b"-LOADING",
    b"-MASTERDOWN",
    b"-BUSY",
    // Protected mode. It closes the connection then.
    b"-DENIED",
    b"-ERR max number of clients reached",
];

/// Reads a whole answer to [`QUESTION`]. Other errors count as answers: `-NOAUTH` and `-NOPERM` come from a Redis that
/// serves clients that log in.
///
/// What isn't a reply of Redis, or is incomplete, is no proof.
pub fn judge(reply: &[u8]) -> Judgement {
    let is_whole = ReplyScanner::default()
        .advance(reply)
        .is_ok_and(|progress| progress.complete && progress.consumed == reply.len());
    if is_whole && !NOT_NOW.iter().any(|start| reply.starts_with(start)) {
        Judgement::Answers
    } else {
        Judgement::NotNow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_answer_is_proof_except_one_that_says_not_now() {
        for proof in [
            "+PONG\r\n",
            "$4\r\nPONG\r\n",
            "-NOAUTH Authentication required.\r\n",
            "-NOPERM this user has no permissions to run the 'ping' command\r\n",
            "-ERR unknown command 'PING'\r\n",
        ] {
            assert_eq!(judge(proof.as_bytes()), Judgement::Answers, "{proof}");
        }
        for none in [
            "-LOADING Redis is loading the dataset in memory\r\n",
            "-MASTERDOWN Link with MASTER is down\r\n",
            "-BUSY Redis is busy running a script.\r\n",
            "-DENIED Redis is running in protected mode\r\n",
            "-ERR max number of clients reached\r\n",
        ] {
            assert_eq!(judge(none.as_bytes()), Judgement::NotNow, "{none}");
        }
    }

    #[test]
    fn what_is_not_one_whole_reply_is_no_proof() {
        for none in [
            "",
            "+PON",
            "HTTP/1.1 400 Bad Request\r\n",
            "+PONG\r\n+PONG\r\n",
        ] {
            assert_eq!(judge(none.as_bytes()), Judgement::NotNow, "{none}");
        }
    }
}
