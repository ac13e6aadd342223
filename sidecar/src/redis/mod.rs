//! The Redis proxy.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`resp`] | where commands and replies end |
//! | [`commands`] | what a command means: may it be sent twice, what does it do to its connection |
//! | [`session`] | one client's connection, without sockets: all decisions about it |
//! | [`replay`] | what a new upstream connection must be told |
//! | [`gate`] | what all clients of one upstream share: breaker, retry budget, who tries to connect |
//! | [`upstream`] | reaching Redis: names, TCP, TLS |
//! | [`connection`] | a session with its sockets |
//! | [`listener`] | accepting clients, and how many |
//! | [`health`] | asking Redis whether it answers while the breaker is not closed |
//! | [`metrics`] | what is counted |
//! | [`memory`] | what a breaker and a budget know, kept for the next process |

pub mod commands;
pub mod connection;
pub mod gate;
pub mod health;
pub mod listener;
pub mod memory;
pub mod metrics;
pub mod replay;
pub mod resp;
pub mod session;
pub mod upstream;
