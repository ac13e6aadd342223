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
//! | [`validation`] | what an Envoy says of a file |
//! | [`nesting`] | whether the time limits of both files fit into each other |
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
pub mod nesting;
mod old_api;
mod resources;
mod stats_tags;
pub mod traps;
pub mod validation;

pub use finding::{Checked, Finding, Severity};
pub use levee::of_levee;

use crate::yaml::{self, Document, Mistake};
use at::At;
use envoy::Envoy;
use resources::{Form, Resources};
use std::path::Path;
use validation::Verdict;

/// What is wrong with an Envoy configuration, as far as Levee can tell.
pub fn of_envoy(text: &str) -> Checked {
    match yaml::parse_first(text) {
        Ok(document) => of_document(&document).0,
        Err(mistake) => Checked::of(Finding::of_text(mistake, Severity::Error)),
    }
}

/// What is wrong with an Envoy configuration. `envoy`: a program to validate it with, unless it has errors anyway.
pub fn of_envoy_file(file: &Path, text: &str, envoy: Option<&Path>) -> Checked {
    let Ok(document) = yaml::parse_first(text) else {
        return of_envoy(text);
    };
    let (mut checked, form) = of_document(&document);
    if checked.has(Severity::Error) {
        return checked;
    }
    let verdict = match (form, envoy) {
        (Some(Form::Bootstrap), Some(envoy)) => validation::ask(envoy, file, validation::LIMIT),
        (Some(Form::Bootstrap), None) => Verdict::Unknown(
            "there is none on PATH, nor in .tools/; name it by --envoy-binary".to_owned(),
        ),
        _ => Verdict::Unknown("it validates bootstraps only".to_owned()),
    };
    match verdict {
        Verdict::Accepts => {}
        Verdict::Refuses(message) => {
            let finding = validation::refusal(&message, text, &document.root);
            checked.findings.push(finding);
        }
        Verdict::Unknown(reason) => checked.unvalidated = Some(reason),
    }
    checked
}

/// What is wrong, and the form of the file if it has one.
fn of_document(document: &Document) -> (Checked, Option<Form>) {
    let root = At::root(&document.root);
    let mut resources = match Resources::read(&root) {
        Ok(resources) => resources,
        Err(finding) => return (Checked::of(finding), None),
    };
    let form = resources.form;
    let mut findings = std::mem::take(&mut resources.errors);
    findings.extend(old_api::find(&root, &resources));
    let envoy = Envoy::new(resources);
    findings.extend(traps::look(&envoy));
    let repeated = document.repeated.iter().cloned();
    let second = document.second.map(|line| Mistake {
        line,
        message:
            "Envoy reads only the first document of a file; nothing from here on has an effect"
                .to_owned(),
    });
    let warnings = repeated.chain(second);
    findings.extend(warnings.map(|mistake| Finding::of_text(mistake, Severity::Warning)));
    findings.sort_by_key(|finding| finding.line);
    let checked = Checked {
        findings,
        absent: envoy.managers.is_empty().then_some("HTTP listener"),
        unvalidated: None,
    };
    (checked, Some(form))
}
