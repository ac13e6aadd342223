//! One client's connection to Redis as a value: bytes and moments in, bytes and wishes out.
//!
//! | module | what is in it |
//! |---|---|
//! | [`resp`] | where commands and replies end |
//! | [`commands`] | what a command does to its connection |
//! | [`idempotency`] | which commands may be sent again |
//! | [`session`] | all decisions about one client's connection |
//! | [`replay`] | client state that a new connection to Redis gets first |
//! | [`proof`] | whether a new connection leads to a Redis that answers |
//! | [`gate`] | what all sessions of one upstream share: breaker, retry budget, who tries to connect |
//! | `reach` | whether Redis can be reached, as far as all of its clients together know |
//! | [`counts`] | what is counted |
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod commands;
pub mod counts;
pub mod gate;
pub mod idempotency;
pub mod proof;
mod reach;
pub mod replay;
pub mod resp;
pub mod session;
