//! The decisions of Levee, without I/O.
//!
//! Nothing here reads a clock, draws a random number, allocates, or knows where its input comes
//! from. Time and randomness are arguments, results are values, so the same code runs natively in
//! the sidecar, in WebAssembly inside Envoy, and in tests that never sleep.
//!
//! | module | decides |
//! |---|---|
//! | [`breaker`] | whether a call may go out, and what its result means for the next ones |
//! | [`replica`] | the same for several workers that share a breaker and rarely communicate |
//! | `recovery` | which share of the calls goes out after an outage |
//! | [`callers`] | who complains, and how much of it is one caller |
//! | `answered` | who was answered well, lately |
//! | [`evidence`] | whether that is enough to shut a service |
//! | `surprise` | whether a row of failures is news |
//! | [`scope`] | what a result in a part of a service says about all of it |
//! | [`divided`] | the same for a call that has two breakers before it: the service's and the scope's |
//! | [`usual`] | how long a service usually takes to answer |
//! | [`window`] | how many recent calls failed |
//! | [`backoff`] | how long to wait before the next attempt |
//! | [`budget`] | how many retries all calls together may make |
//! | [`timeout`] | how long a request may take |
//! | [`time`], [`ratio`], [`random`] | the units of the others |

#![warn(missing_docs)]

mod answered;
pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod callers;
pub mod divided;
pub mod evidence;
pub mod random;
pub mod ratio;
mod recovery;
pub mod replica;
pub mod scope;
mod snapshot;
pub mod surprise;
pub mod time;
pub mod timeout;
pub mod usual;
pub mod window;
