//! The sidecar of Levee: it stands between services and what they depend on, and makes that more
//! reliable than it is.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`redis`] | the Redis proxy |
//! | [`admin`] | the admin interface over HTTP |
//! | [`config`] | `levee.yaml` |
//! | [`run`] | starting all parts, and stopping them in order |
//! | [`metrics`] | all names of metrics |
//! | [`tls`] | whom to trust |
//! | [`logging`] | how the log looks |
//! | [`clock`] | the only place that reads a clock |

pub mod admin;
pub mod clock;
pub mod config;
pub mod logging;
pub mod metrics;
pub mod redis;
pub mod run;
pub mod tls;
