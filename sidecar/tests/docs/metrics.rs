//! Names of metrics.

use crate::METRICS;
use levee::admin::page;
use levee::database::metrics::WatchdogMetrics;
use levee::database::preset::PRESETS;
use levee::database::watchdog::{BlockerPolicy, WatchdogSettings};
use levee::envoy::metrics::EnvoyMetrics;
use levee::envoy::translate::Gateway;
use levee::jobs::Backlog;
use levee::jobs::metrics::JobFamilies;
use levee::logging;
use levee::readiness::Readiness;
use levee::redis::buffers::Buffers;
use levee::redis::metrics::RedisFamilies;
use levee::run::reload::ReloadMetrics;
use levee_pages::Page;
use prometheus::Registry;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Envoy's only metric in the sidecar's tables; the others are in the filter's.
const ENVOY: &str = "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a\",le=\"+Inf\"} 1\n\
    envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"a\"} 1\n\
    envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"a\"} 1\n";

/// Words that only look like metrics of Levee.
const NO_METRICS: [&str; 3] = ["levee_circuit_open", "levee_filter", "job_name"];

/// The metrics in all tables below a heading.
fn listed(heading: &str) -> BTreeSet<String> {
    let section = Page::read(METRICS).section(heading);
    let rows = section.text.lines();
    let names = rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

#[test]
fn the_tables_of_the_sidecar_have_exactly_the_metrics_that_it_exports() {
    let registry = Registry::new();
    page::register_build_info(&registry).unwrap();
    logging::register_metrics(&registry).unwrap();
    ReloadMetrics::register(&registry).unwrap();
    Readiness::register(&registry).unwrap().probed("x");
    let _ = Buffers::new(0, &registry).unwrap();
    RedisFamilies::register(&registry)
        .unwrap()
        .add("x", Arc::default());
    let jobs = JobFamilies::register(&registry).unwrap();
    for preset in &PRESETS {
        let job = jobs.job(preset.name, Some(&preset.metrics)).unwrap();
        job.left(Backlog::default());
    }
    let _ = WatchdogMetrics::register(&registry, "x", &watched(), false).unwrap();
    let _ = EnvoyMetrics::register(&registry).unwrap();
    let text = page::text(&registry, &Gateway::read(ENVOY, &BTreeMap::new()));
    let exported = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let exported: BTreeSet<String> = exported.map(str::to_owned).collect();
    assert_eq!(listed("The sidecar"), exported);
}

fn watched() -> WatchdogSettings {
    WatchdogSettings {
        roles: vec!["app".to_owned()],
        applications: Vec::new(),
        query: Duration::from_secs(1),
        long_query: Duration::from_secs(1),
        rules: Vec::new(),
        idle_in_transaction: Duration::from_secs(1),
        transaction: None,
        blockers: BlockerPolicy::Report,
        terminate_after: None,
    }
}

#[test]
fn each_metric_that_a_page_names_is_in_a_table() {
    let mut known = listed("The filter");
    known.extend(listed("The sidecar"));
    let name = Regex::new(
        r"\b(circuit_breaker|proxy_request|redis_retry|redis_proxy|job|db|auth_cleanup|video_cleanup|levee)_[a-z_]+",
    )
    .unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in Page::all() {
        if page.name == "ARCHITECTURE.md" {
            continue;
        }
        for found in name.find_iter(&page.text) {
            let metric = found.as_str();
            if NO_METRICS.contains(&metric) {
                continue;
            }
            count += 1;
            let plain = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| metric.strip_suffix(end))
                .unwrap_or(metric);
            // Part of a pattern, such as `circuit_breaker_.+`.
            let is_start =
                metric.ends_with('_') && known.iter().any(|known| known.starts_with(metric));
            if !is_start && !known.contains(plain) && !known.contains(metric) {
                wrong.push(format!("{}: {metric}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 50, "{count}");
}
