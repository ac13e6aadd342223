//! What is written for Envoy's v2 API, which Envoy 1.18 removed.

use super::at::At;
use super::finding::Finding;
use super::message::type_of;
use super::resources::Resources;

/// Keys that v3 no longer has.
const OF_CLUSTERS: [&str; 2] = ["hosts", "tls_context"];

/// All that is of v2.
pub fn find(root: &At<'_>, resources: &Resources<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    types(root, &mut found);
    for cluster in &resources.clusters {
        let keys = OF_CLUSTERS.iter().filter_map(|key| cluster.get(key));
        found.extend(keys.map(|at| refuse(&at, "")));
    }
    for listener in &resources.listeners {
        for chain in listener.list("filter_chains") {
            found.extend(chain.get("tls_context").map(|at| refuse(&at, "")));
            for filter in chain.list("filters") {
                found.extend(old_filter(&filter));
                let inner = filter.list("typed_config.http_filters");
                found.extend(inner.iter().filter_map(old_filter));
            }
        }
    }
    found
}

/// A filter whose configuration has no type.
fn old_filter(filter: &At<'_>) -> Option<Finding> {
    let config = filter.get("config")?;
    filter.get("name")?;
    Some(refuse(&config, ""))
}

/// All types of v2, wherever they are.
fn types(at: &At<'_>, found: &mut Vec<Finding>) {
    for (key, value) in at.entries() {
        match value.text() {
            Some(url) if matches!(key, "@type" | "type_url") && is_old(type_of(url)) => {
                found.push(refuse(&value, type_of(url)));
            }
            Some(_) => {}
            None => {
                let items = value.items();
                for item in &items {
                    types(item, found);
                }
            }
        }
    }
}

/// Whether a type is of v2: `envoy.api.v2.Cluster`, `envoy.admin.v2alpha.ConfigDump`.
fn is_old(kind: &str) -> bool {
    kind.starts_with("envoy.")
        && kind.split('.').any(|word| {
            word.strip_prefix("v2")
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("alpha"))
        })
}

fn refuse(at: &At<'_>, kind: &str) -> Finding {
    let separator = if kind.is_empty() { "" } else { " " };
    let message = format!(
        "{kind}{separator}is of the v2 API, which Envoy has not had since 1.18; write it for v3, with typed_config and types such as envoy.config.cluster.v3.Cluster"
    );
    Finding::of_reading(at, &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_old_by_its_version_alone() {
        for kind in [
            "envoy.api.v2.Cluster",
            "envoy.admin.v2alpha.ConfigDump",
            "envoy.config.rbac.v2alpha1.X",
        ] {
            assert!(is_old(kind), "{kind}");
        }
        for kind in [
            "envoy.config.cluster.v3.Cluster",
            "envoy.extensions.filters.http.cache_v2.v3.CacheV2Config",
            "envoy.extensions.filters.http.golang.v3alpha.Config",
            "udpa.type.v1.TypedStruct",
            "mine.v2.Filter",
        ] {
            assert!(!is_old(kind), "{kind}");
        }
    }
}
