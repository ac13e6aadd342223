//! The demonstration: what `cargo xtask up` and `cargo xtask demo` run, and what end-to-end tests play.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`demo_backend`] | a service like those of Levee's users, unaware of Levee |
//! | [`stack`] | all parts together, and the same without Levee |
//! | [`scenarios`] | failures of all of it, played |

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

pub mod demo_backend;
pub mod scenarios;
pub mod stack;
