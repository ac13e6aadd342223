//! The decisions of Levee, without I/O.
//!
//! Nothing here reads a clock, draws a random number, allocates, or knows where its input comes
//! from: time and randomness are arguments, results are values. That is why the same code runs
//! natively in the sidecar, in WebAssembly inside Envoy, and in tests without a single sleep.
//!
//! | module | decides |
//! |---|---|
//! | [`breaker`] | may this call go out, and what does its result mean for the next ones |
//! | [`replica`] | the same for several workers that share one breaker and talk little |
//! | [`window`] | how many calls failed in the last seconds |
//! | [`backoff`] | how long to wait before the next attempt |
//! | [`budget`] | how many further attempts there may be at all |
//! | [`timeout`] | how long a request may take |
//! | [`time`], [`ratio`], [`random`] | the units the others speak in |

#![warn(missing_docs)]

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod random;
pub mod ratio;
pub mod replica;
mod snapshot;
pub mod time;
pub mod timeout;
pub mod window;
