//! What Envoy says of itself, for the one page that shows all metrics.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`scrape`] | reading Envoy's stats, bounded, and once for all who ask at the same time |
//! | [`text`] | the text format of Prometheus |
//! | [`translate`] | what of it is Levee's, in Levee's names and units |
//! | [`histogram`] | counts below upper bounds |
//! | [`metrics`] | the metrics of reading Envoy |
//! | [`history`] | since when a breaker has been where it is, and how long requests took lately |

pub mod histogram;
pub mod history;
pub mod metrics;
pub mod scrape;
pub mod text;
pub mod translate;
