//! `levee check`: all that is wrong with `levee.yaml` and with an Envoy configuration, each with its line.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`finding`] | something that is wrong in a file |
//! | [`levee`] | what is wrong with a `levee.yaml` |
//! | [`database`] | what the database says of it |
//! | [`at`] | a cursor into a document that knows its path |
//! | [`envoy`] | the parts of an Envoy configuration that Levee has to do with |
//! | [`traps`] | settings that Envoy accepts and that make Levee work less or not at all |
//! | `classes` | which time limits the filter may give to requests |
//! | `matcher` | what a `stats_matcher` leaves out |
//! | `stats_tags` | what `stats_tags` take out of the names of times |

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod at;
mod classes;
pub mod database;
pub mod envoy;
pub mod finding;
pub mod levee;
mod matcher;
mod stats_tags;
pub mod traps;

pub use finding::{Checked, Finding, Severity};
pub use levee::of_levee;

use crate::yaml;
use at::At;
use envoy::Envoy;

/// What is wrong with an Envoy configuration.
pub fn of_envoy(text: &str) -> Checked {
    let document = match yaml::parse(text) {
        Ok(document) => document,
        Err(mistake) => {
            return Checked {
                findings: vec![Finding::of_text(mistake, Severity::Error)],
                absent: None,
            };
        }
    };
    let envoy = Envoy::new(At::root(&document.root));
    let mut findings = traps::look(&envoy);
    let repeated = document.repeated.into_iter();
    findings.extend(repeated.map(|mistake| Finding::of_text(mistake, Severity::Warning)));
    findings.sort_by_key(|finding| finding.line);
    Checked {
        findings,
        absent: envoy.managers.is_empty().then_some("HTTP listener"),
    }
}
