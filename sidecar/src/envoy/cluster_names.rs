//! Clusters' names as Envoy mangles them in the names of metrics, and the services that they were.
//!
//! Envoy moves the first word of a cluster's name into a label. In the rest, dots and all other characters that a metric's
//! name can't contain become underscores.

use levee_filter::label::label;
use std::collections::{BTreeMap, HashMap};

/// What follows a cluster's name in Envoy's metrics for the times of a subset of its requests. Those requests are also in
/// the cluster's own times.
const SUBSETS: [&str; 3] = ["canary", "external", "internal"];

/// The same for the requests between two zones, whose names follow it.
const ZONE: &str = "zone_";

/// The names of the clusters of which `rest` may be a subset. The cluster's own name may end in such a word, too.
pub(super) fn wholes_of(rest: &str) -> impl Iterator<Item = &str> {
    let behind = |before: &str| before.is_empty() || before.ends_with('_');
    let of_subset = SUBSETS
        .iter()
        .filter_map(move |subset| rest.strip_suffix(subset))
        .filter(move |before| behind(before));
    let of_zone = rest
        .match_indices(ZONE)
        .map(move |(at, _)| &rest[..at])
        .filter(move |before| behind(before));
    of_subset
        .chain(of_zone)
        .map(|before| before.strip_suffix('_').unwrap_or(before))
}

/// Finds the service of a cluster by its mangled name, with the help of the known services and aliases.
pub(super) struct Names<'a> {
    whole: HashMap<(String, String), &'a str>,
    aliases: &'a BTreeMap<String, String>,
}

impl<'a> Names<'a> {
    pub(super) fn new(
        aliases: &'a BTreeMap<String, String>,
        services: impl Iterator<Item = &'a str>,
    ) -> Self {
        let clusters = aliases.keys().map(String::as_str);
        let whole = services
            .chain(clusters)
            .map(|name| (left_of(name), name))
            .collect();
        Self { whole, aliases }
    }

    /// Whether a service or an alias has this mangled name.
    pub(super) fn knows(&self, cluster: &str, rest: &str) -> bool {
        self.whole
            .contains_key(&(cluster.to_owned(), rest.to_owned()))
    }

    /// The label of the service.
    pub(super) fn service(&self, cluster: &str, rest: &str) -> String {
        let joined;
        let name = if rest.is_empty() {
            cluster
        } else if let Some(name) = self.whole.get(&(cluster.to_owned(), rest.to_owned())) {
            *name
        } else {
            joined = format!("{cluster}.{rest}");
            joined.as_str()
        };
        label(self.aliases.get(name).map_or(name, String::as_str))
    }
}

/// A cluster's name as Envoy mangles it: its label, and the rest in the metric's name.
fn left_of(name: &str) -> (String, String) {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == ':' {
            c
        } else {
            '_'
        }
    };
    (first.to_owned(), rest.chars().map(plain).collect())
}
