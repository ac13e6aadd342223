//! Builds the parts from the configuration. Nothing runs yet: [`run`](crate::run) starts and stops them.
//!
//! | module | what it builds |
//! |---|---|
//! | [`redis`] | the proxies, and where they keep their retry state |
//! | [`database`] | the jobs and the watchdog |
//! | [`envoy`] | the reader of Envoy's stats |
//! | [`tls`] | TLS settings for upstreams |

pub mod database;
pub mod envoy;
pub mod redis;
pub mod tls;
