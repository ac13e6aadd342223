//! The metrics page: the sidecar's metrics and Envoy's, each family and each series once.

use crate::envoy::families::{FAMILIES, Family, FamilyType};
use crate::envoy::histogram::Histogram;
use crate::envoy::metrics::REQUEST_DURATION;
use crate::envoy::text::Labels;
use crate::envoy::translate::Gateway;
use crate::exposition;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder, register_int_gauge_vec_with_registry};
use std::collections::{BTreeMap, HashSet};

pub const BUILD_INFO: &str = "levee_build_info";

/// Registers [`BUILD_INFO`].
///
/// # Errors
/// `registry` already has it.
pub fn register_build_info(registry: &Registry) -> prometheus::Result<()> {
    register_int_gauge_vec_with_registry!(BUILD_INFO, "Always 1.", &["version"], registry)?
        .with_label_values(&[env!("CARGO_PKG_VERSION")])
        .set(1);
    Ok(())
}

/// The page, in the text format of Prometheus.
pub fn text(registry: &Registry, gateway: &Gateway) -> String {
    merged(registry.gather(), gateway)
}

/// As [`text`], of families that were gathered before.
pub fn merged(own: Vec<MetricFamily>, gateway: &Gateway) -> String {
    TextEncoder::new()
        .encode_to_string(&merge(own, gateway))
        .unwrap_or_default()
}

/// The sidecar's families and Envoy's, by name. If both have a series, the sidecar's wins.
fn merge(own: Vec<MetricFamily>, gateway: &Gateway) -> Vec<MetricFamily> {
    let mut families: BTreeMap<String, MetricFamily> = own
        .into_iter()
        .map(|family| (family.name().to_owned(), family))
        .collect();
    for theirs in families_of(gateway) {
        let name = theirs.name().to_owned();
        let family = families.entry(name).or_insert_with(|| {
            let mut family = theirs.clone();
            family.set_metric(Vec::new());
            family
        });
        add(family, theirs);
    }
    families.into_values().collect()
}

fn add(family: &mut MetricFamily, mut theirs: MetricFamily) {
    let known: HashSet<Vec<(String, String)>> = family.get_metric().iter().map(labels_of).collect();
    let new = theirs
        .take_metric()
        .into_iter()
        .filter(|metric| !known.contains(&labels_of(metric)));
    family.mut_metric().extend(new);
}

fn labels_of(metric: &Metric) -> Vec<(String, String)> {
    let pair = |pair: &LabelPair| (pair.name().to_owned(), pair.value().to_owned());
    let mut labels: Vec<_> = metric.get_label().iter().map(pair).collect();
    labels.sort();
    labels
}

/// Envoy's metrics in Levee's names.
fn families_of(gateway: &Gateway) -> Vec<MetricFamily> {
    let mut families: Vec<MetricFamily> = FAMILIES
        .iter()
        .filter_map(|family| Some(family_of(family, gateway.values.get(family.name)?)))
        .collect();
    if !gateway.durations.is_empty() {
        let series = gateway.durations.iter().map(|(labels, durations)| {
            let Histogram {
                buckets,
                count,
                sum,
            } = durations;
            exposition::histogram(pairs(labels), buckets, *count, *sum)
        });
        families.push(exposition::family(
            REQUEST_DURATION,
            "How long requests that were answered took at the upstream, as Envoy measured it.",
            MetricType::HISTOGRAM,
            series.collect(),
        ));
    }
    families
}

fn family_of(family: &Family, values: &BTreeMap<Labels, f64>) -> MetricFamily {
    type Series = fn(Vec<LabelPair>, f64) -> Metric;
    let (kind, series): (_, Series) = match family.of_type {
        FamilyType::Counter => (MetricType::COUNTER, exposition::counter),
        FamilyType::Gauge => (MetricType::GAUGE, exposition::gauge),
    };
    let series = values
        .iter()
        .map(|(labels, value)| series(pairs(labels), *value));
    exposition::family(family.name, family.help, kind, series.collect())
}

fn pairs(labels: &Labels) -> Vec<LabelPair> {
    labels
        .iter()
        .map(|(name, value)| exposition::label(name, value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::metrics::RedisFamilies;
    use levee_redis_session::counts::Counts;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn page(envoy: &str) -> String {
        let registry = Registry::new();
        let redis = RedisFamilies::register(&registry).unwrap();
        let counts = Arc::<Counts>::default();
        counts.failure.inc();
        redis.add("sessions", counts);
        text(&registry, &Gateway::read(envoy, &BTreeMap::new()))
    }

    const ENVOY: &str = "circuit_breaker_state{service=\"auth\"} 1\n\
        circuit_breaker_mode{service=\"auth\"} 1\n\
        circuit_breaker_failures_total{service=\"auth\"} 5\n\
        circuit_breaker_transitions_total{service=\"auth\",to=\"open\"} 1\n\
        envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"auth\",le=\"5\"} 2\n\
        envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"auth\",le=\"+Inf\"} 3\n\
        envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"auth\"} 12.5\n\
        envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"auth\"} 3\n";

    #[test]
    fn each_family_is_there_once_with_the_series_of_both() {
        let page = page(ENVOY);
        for line in [
            "circuit_breaker_failures_total{service=\"auth\"} 5",
            "circuit_breaker_failures_total{service=\"redis:sessions\"} 1",
            "circuit_breaker_state{service=\"auth\"} 1",
            "circuit_breaker_state{service=\"redis:sessions\"} 0",
            "circuit_breaker_mode{service=\"auth\"} 1",
            "circuit_breaker_mode{service=\"redis:sessions\"} 0",
            "# TYPE circuit_breaker_transitions_total counter",
            "# TYPE proxy_request_duration_seconds histogram",
            "proxy_request_duration_seconds_bucket{service=\"auth\",le=\"0.005\"} 2",
            "proxy_request_duration_seconds_bucket{service=\"auth\",le=\"+Inf\"} 3",
            "proxy_request_duration_seconds_sum{service=\"auth\"} 0.0125",
            "proxy_request_duration_seconds_count{service=\"auth\"} 3",
        ] {
            assert_eq!(
                page.lines().filter(|other| *other == line).count(),
                1,
                "{line}\n{page}"
            );
        }
        let comments: Vec<&str> = page.lines().filter(|line| line.starts_with('#')).collect();
        let once: BTreeSet<&&str> = comments.iter().collect();
        assert_eq!(comments.len(), once.len(), "{page}");
        // Each family has HELP and TYPE.
        let of = |kind: &str| {
            comments
                .iter()
                .filter(|line| line.starts_with(kind))
                .count()
        };
        assert_eq!(of("# HELP "), of("# TYPE "), "{page}");
    }

    #[test]
    fn if_both_have_a_series_the_sidecars_wins() {
        let page = page("circuit_breaker_failures_total{service=\"redis:sessions\"} 77\n");
        let series: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("circuit_breaker_failures_total{"))
            .collect();
        assert_eq!(
            series,
            ["circuit_breaker_failures_total{service=\"redis:sessions\"} 1"]
        );
    }

    #[test]
    fn labels_are_escaped_again() {
        let line = "circuit_breaker_state{service=\"a\\\"b\\\\c\\nd\"} 1";
        assert!(page(line).contains(line));
    }
}
