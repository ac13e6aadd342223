//! `levee check`: all that is wrong with `levee.yaml` and with an Envoy configuration, each with its line.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`finding`] | something that is wrong in a file |
//! | [`levee`] | what is wrong with a `levee.yaml` |
//! | [`database`] | what the database says of it |
//! | [`at`] | a cursor into a document that knows its path |
//! | `resources` | the resources in a file of Envoy's, whatever its form |
//! | `message` | a message in an `Any`, whichever way it is packed |
//! | `old_api` | what is written for Envoy's v2 API |
//! | [`envoy`] | connection managers, their filters and routes, and clusters |
//! | [`http_filter`] | a filter of a connection manager, wherever its configuration is |
//! | [`levee_filter`] | Levee's filter, and its own configuration |
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
pub mod http_filter;
pub mod levee;
pub mod levee_filter;
mod matcher;
mod message;
mod old_api;
mod resources;
mod stats_tags;
pub mod traps;

pub use finding::{Checked, Finding, Severity};
pub use levee::of_levee;

use crate::yaml::{self, Mistake};
use at::At;
use envoy::Envoy;
use resources::Resources;

/// What is wrong with an Envoy configuration.
pub fn of_envoy(text: &str) -> Checked {
    let document = match yaml::parse_first(text) {
        Ok(document) => document,
        Err(mistake) => return Checked::of(Finding::of_text(mistake, Severity::Error)),
    };
    let root = At::root(&document.root);
    let mut resources = match Resources::read(&root) {
        Ok(resources) => resources,
        Err(finding) => return Checked::of(finding),
    };
    let mut findings = std::mem::take(&mut resources.errors);
    findings.extend(old_api::find(&root, &resources));
    let envoy = Envoy::new(resources);
    findings.extend(traps::look(&envoy));
    let repeated = document.repeated.into_iter();
    let second = document.second.map(|line| Mistake {
        line,
        message:
            "Envoy reads only the first document of a file; nothing from here on has an effect"
                .to_owned(),
    });
    let warnings = repeated.chain(second);
    findings.extend(warnings.map(|mistake| Finding::of_text(mistake, Severity::Warning)));
    findings.sort_by_key(|finding| finding.line);
    Checked {
        findings,
        absent: envoy.managers.is_empty().then_some("HTTP listener"),
        unvalidated: None,
    }
}
