//! The proxy-wasm filter of Levee: a circuit breaker for each service behind Envoy, and time limits
//! by class.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | the plugin's configuration: read, checked, every error at once |
//! | [`contexts`] | which of Envoy's contexts is what |
//! | [`plugin`] | what a worker has: its services; what happens at each of Envoy's callbacks |
//! | [`service`] | one service: breaker, limits, counts, refusal |
//! | [`outcome`] | what the end of a request says about the service |
//! | [`deadline`] | the class of a request, and the headers that make Envoy's router keep to it |
//! | [`shared`] | breakers in memory that all workers share |
//! | [`workers`] | who the other workers are, and telling them |
//! | [`label`] | how metrics name a service |
//! | [`metrics`] | the names of the metrics |
//! | [`host`] | what is asked of Envoy, as a trait |
//! | `envoy` | the real host: the one place with `unsafe` |
//!
//! Everything but `envoy` is generic over [`host::Host`] and runs in native tests against a fake.

// A panic ends the worker's virtual machine.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod config;
pub mod contexts;
pub mod deadline;
pub mod host;
pub mod label;
pub mod metrics;
pub mod outcome;
#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        reason = "an index of a service is handed out when the service is added, and none is removed"
    )
)]
pub mod plugin;
pub mod service;
pub mod shared;
pub mod workers;

#[cfg(target_os = "wasi")]
mod envoy;
