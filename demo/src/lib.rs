//! The demonstration: what `cargo xtask up` and `cargo xtask demo` run, and what end-to-end tests play.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`demo_backend`] | a service like those of Levee's users, unaware of Levee |
//! | [`stack`] | all parts together, and the same without Levee |
//! | [`scenarios`] | failures of all of it, played |

#![allow(
    clippy::missing_panics_doc,
    reason = "the stack panics where it can't go on, as the harness does"
)]

pub mod demo_backend;
pub mod scenarios;
pub mod stack;
