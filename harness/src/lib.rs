//! Starters, clients, scripted backends, waits and readers, for tests, the demonstration and benches.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`error`] | the error of all of these |
//! | [`envoy`] | a running Envoy, and one that is expected not to start |
//! | [`envoy_config`] | `envoy/*.yaml`, loaded and changed for a test |
//! | [`backend`] | an HTTP/1.1 service that follows a script |
//! | [`go_client`] | clients in Go, and gRPC's interoperability programs |
//! | [`grpc`] | a gRPC service that follows a script, and a client for it |
//! | [`client`] | HTTP requests, on one connection or on new ones |
//! | [`web_socket`] | a client of a WebSocket |
//! | [`raw`] | bytes on a TCP connection, and crowds of clients that leave |
//! | [`metrics`] | the Prometheus text format |
//! | [`access_log`] | Envoy's JSON access log |
//! | [`address`] | free addresses of loopback |
//! | [`host_port`] | host and port as users write them |
//! | [`certificate`] | a self-made certificate |
//! | [`wait`] | waiting for a condition, with a bound |
//! | [`clock`] | the only place that reads a clock |
//! | [`process`] | child processes that never outlive their parent |
//! | [`processor`] | CPU affinity, CPU time and memory of processes |
//! | [`redis`] | a real redis-server, and a client that sends any bytes |
//! | [`pgbouncer`] | a real `PgBouncer` in front of it |
//! | [`postgres`] | a real `PostgreSQL` |
//! | [`sidecar`] | a running `levee run` |
//! | [`built`] | programs of this project that cargo has built |
//! | [`relay`] | a network that loses replies on demand |
//! | [`linear`] | whether what several clients saw can be explained by one order of their commands |
//! | [`trouble`] | a network that fails at single commands, as a script says |
//! | [`tool`] | where programs of the machine are |
//!
//! Nothing here panics: errors say what failed and what was seen last, and tests unwrap them.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

pub mod access_log;
pub mod address;
pub mod backend;
pub mod built;
pub mod certificate;
pub mod client;
pub mod clock;
pub mod envoy;
pub mod envoy_config;
pub mod error;
mod frames;
pub mod go_client;
pub mod grpc;
pub mod host_port;
pub mod linear;
mod lock;
pub mod metrics;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod processor;
pub mod raw;
pub mod redis;
pub mod relay;
mod runtime;
pub mod sidecar;
pub mod tool;
pub mod trouble;
pub mod wait;
pub mod web_socket;
