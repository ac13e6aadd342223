//! The proxy-wasm filter of Levee: a circuit breaker for each service behind Envoy, and time limits
//! by class.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | the plugin's configuration: read and checked, with every error reported at once |
//! | [`contexts`] | which of Envoy's contexts are filters, and which are requests |
//! | [`succession`] | which configuration's breaker settings are in force when one replaces another |
//! | [`plugin`] | the state of a worker, and what happens at each of Envoy's callbacks |
//! | [`services`] | the services that a worker has met |
//! | [`service`] | a service: breaker, limits, counts, refusal |
//! | [`outcome`] | what the end of a request says about its service |
//! | [`caller`] | who calls |
//! | [`probes`] | which probes are in flight, and what can be seen of them |
//! | [`health_check`] | asking services whose breakers are open whether they are well again |
//! | [`deadline`] | the class of a request, and the headers that make Envoy's router enforce its limits |
//! | [`shared`] | breakers in memory that all workers share |
//! | [`workers`] | the list of workers, and notifying them |
//! | [`label`] | how metrics name a service |
//! | [`metrics`] | the names of the metrics |
//! | [`host`] | what the filter asks of Envoy, as a trait |
//! | `envoy` | the real host: the only module with `unsafe` |
//!
//! Everything but `envoy` is generic over [`host::Host`] and runs in native tests against a fake.

// A panic would end the worker's virtual machine.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod breakers;
pub mod caller;
pub mod config;
pub mod contexts;
pub mod deadline;
pub mod destination;
pub mod health_check;
pub mod host;
pub mod label;
pub mod metrics;
pub mod outcome;
pub mod plugin;
pub mod probes;
pub mod service;
pub mod services;
pub mod shared;
pub mod succession;
pub mod workers;

#[cfg(target_os = "wasi")]
mod envoy;
