//! The demonstration: what `cargo xtask up` and `cargo xtask demo` run, and what end-to-end tests play.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`demo_backend`] | a service as Levee's users have them, which knows nothing of it |
//! | [`stack`] | all parts together, and the same without Levee |
//! | [`scenarios`] | what can go wrong with all of it, played |

#![allow(
    clippy::missing_panics_doc,
    reason = "the stack panics where it can't go on, as the harness does"
)]

pub mod demo_backend;
pub mod scenarios;
pub mod stack;
