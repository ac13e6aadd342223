//! What Redis says in place of executing a command.

/// Replies that begin like this say that the command was not executed.
const NOT_EXECUTED: [&[u8]; 6] = [
    b"-LOADING",
    b"-TRYAGAIN",
    b"-CLUSTERDOWN",
    b"-MASTERDOWN",
    b"-READONLY",
    b"-ERR max number of clients reached",
];

/// Those of them that say that Redis serves nobody at the moment.
const UNAVAILABLE: [&[u8]; 3] = [b"-LOADING", b"-CLUSTERDOWN", b"-MASTERDOWN"];

/// The command was not executed. Another attempt may succeed.
pub(super) fn says_not_executed(reply: &[u8]) -> bool {
    NOT_EXECUTED.iter().any(|start| reply.starts_with(start))
}

/// Redis serves nobody at the moment.
pub(super) fn says_unavailable(reply: &[u8]) -> bool {
    UNAVAILABLE.iter().any(|start| reply.starts_with(start))
}

/// Redis runs a script that takes long. Nothing is gained by waiting: it may run for hours.
pub(super) fn says_busy(reply: &[u8]) -> bool {
    reply.starts_with(b"-BUSY")
}

/// To a client that must log in first.
pub(super) fn wants_login(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOAUTH")
}

/// The reply as text, for a message.
pub(super) fn words(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply).trim_end().to_owned()
}
