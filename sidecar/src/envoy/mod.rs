//! Envoy's own metrics, for the page that shows all metrics and for the status.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`scrape`] | reading Envoy's stats, bounded, and shared by all who ask at the same time |
//! | [`text`] | the text format of Prometheus |
//! | [`translate`] | what Levee shows of it, in Levee's names and units |
//! | [`families`] | the filter's metrics |
//! | `cluster_names` | clusters' names as Envoy mangles them |
//! | [`histogram`] | counts below upper bounds |
//! | [`metrics`] | the metrics of reading Envoy |
//! | [`history`] | when a breaker entered its state, and how long recent requests took |

mod cluster_names;
pub mod families;
pub mod histogram;
pub mod history;
pub mod metrics;
pub mod scrape;
pub mod text;
pub mod translate;
