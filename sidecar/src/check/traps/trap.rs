//! What a trap is, and where one was found.

use crate::check::at::At;
use crate::check::envoy::Envoy;
use crate::check::finding::{Finding, Severity};
use crate::check::levee_filter::Place;
use std::collections::BTreeMap;

/// A setting that Envoy accepts, and that makes Levee work less or not at all.
pub struct Trap {
    /// Its name in messages.
    pub name: &'static str,
    pub severity: Severity,
    find: fn(&Envoy<'_>, &mut Caught),
}

impl Trap {
    /// Levee does not work in it.
    pub(super) const fn error(name: &'static str, find: fn(&Envoy<'_>, &mut Caught)) -> Self {
        Self {
            name,
            severity: Severity::Error,
            find,
        }
    }

    /// Levee works less well in it.
    pub(super) const fn warning(name: &'static str, find: fn(&Envoy<'_>, &mut Caught)) -> Self {
        Self {
            name,
            severity: Severity::Warning,
            find,
        }
    }

    /// Levee works in it, though perhaps not as one expects.
    pub(super) const fn remark(name: &'static str, find: fn(&Envoy<'_>, &mut Caught)) -> Self {
        Self {
            name,
            severity: Severity::Remark,
            find,
        }
    }

    /// Where an Envoy configuration has it.
    pub fn look(&self, envoy: &Envoy<'_>) -> impl Iterator<Item = Finding> {
        let mut caught = Caught(BTreeMap::new());
        (self.find)(envoy, &mut caught);
        caught.0.into_iter().map(|((line, message), path)| Finding {
            line,
            path,
            message,
            severity: self.severity,
            trap: Some(self.name),
        })
    }
}

/// Where a trap was found: paths by line and message, so that what many parts share by an alias is reported once.
pub(super) struct Caught(BTreeMap<(usize, String), String>);

impl Caught {
    pub(super) fn at(&mut self, at: &At<'_>, message: impl Into<String>) {
        let (line, path) = (at.line, at.path.clone());
        self.there(Place { line, path }, message);
    }

    pub(super) fn there(&mut self, Place { line, path }: Place, message: impl Into<String>) {
        self.0.entry((line, message.into())).or_insert(path);
    }
}
