//! The sidecar of Levee: it sits between services and their dependencies, and makes these more reliable.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`redis`] | the Redis proxy |
//! | [`jobs`] | when and how jobs are run |
//! | [`database`] | cleanup jobs, the watchdog, limits at the role |
//! | [`envoy`] | Envoy's metrics, read for the metrics page and the status |
//! | [`status`] | `levee status`: the state of all parts, for people and scripts |
//! | [`fetch`] | one HTTP GET, bounded in time and size |
//! | [`foreign_text`] | text from other programs, made fit for one line |
//! | [`resolve`] | looking up the addresses of a name |
//! | [`readiness`] | which parts work |
//! | [`accept`] | accepting connections, whatever the process runs out of |
//! | [`descriptors`] | how many Redis clients the limit on open files is enough for |
//! | [`admin`] | the admin interface over HTTP |
//! | [`exposition`] | series and families as messages of the `prometheus` crate |
//! | [`config`] | `levee.yaml` |
//! | [`yaml`] | YAML with the line of every value |
//! | [`parts`] | building all parts from the configuration |
//! | [`run`] | starting all parts, and stopping them in order |
//! | [`cli`] | the command line |
//! | [`command`] | the commands, from arguments to exit code |
//! | [`check`] | mistakes in `levee.yaml` and in an Envoy configuration, line by line |
//! | [`logging`] | the log on standard error |
//! | [`clock`] | the only place that reads a clock |

pub mod accept;
pub mod admin;
pub mod check;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod database;
pub mod descriptors;
pub mod envoy;
pub mod exposition;
pub mod fetch;
pub mod foreign_text;
pub mod jobs;
pub mod logging;
pub mod parts;
pub mod readiness;
pub mod redis;
pub mod resolve;
pub mod run;
pub mod status;
pub mod yaml;
