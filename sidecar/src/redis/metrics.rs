//! Metrics of the Redis proxy: what sessions and gates count, in families of Prometheus. Its breakers share their
//! families with those of the filter.

use crate::exposition::{self, label};
use levee_filter::metrics as filter;
use levee_redis_session::counts::{Counts, DurationCounts};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Opts, Registry};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

pub const RETRY: &str = "redis_retry_total";
pub const RETRY_FAILED: &str = "redis_retry_failed_total";
pub const BUDGET_EXHAUSTED: &str = "redis_retry_budget_exhausted_total";
pub const BUDGET_LEFT: &str = "redis_retry_budget_left";
pub const CONNECTIONS: &str = "redis_proxy_connections";
pub const CONNECTIONS_TOTAL: &str = "redis_proxy_connections_total";
pub const REFUSED: &str = "redis_proxy_connections_refused_total";
pub const RAW: &str = "redis_proxy_raw_total";
pub const DURATION: &str = "redis_proxy_command_duration_seconds";
pub const BYTES: &str = "redis_proxy_bytes_total";

/// Which label says whose series it is.
#[derive(Clone, Copy)]
enum Owner {
    /// As the filter's breakers: `service="redis:<name>"`.
    Service,
    /// `upstream="<name>"`.
    Upstream,
}

/// How the series of a family are read.
enum Series {
    Counter(fn(&Counts) -> u64),
    Gauge(fn(&Counts) -> i64),
    /// A counter for each value of another label.
    Counters(&'static str, fn(&Counts) -> Vec<(&'static str, u64)>),
    /// A histogram for each value of another label.
    Durations(
        &'static str,
        fn(&Counts) -> Vec<(&'static str, DurationCounts)>,
    ),
}

/// One row for each family.
struct Family {
    name: &'static str,
    help: &'static str,
    owner: Owner,
    series: Series,
}

impl Family {
    const fn of_service(name: &'static str, help: &'static str, series: Series) -> Self {
        Self {
            name,
            help,
            owner: Owner::Service,
            series,
        }
    }

    const fn of_upstream(name: &'static str, help: &'static str, series: Series) -> Self {
        Self {
            name,
            help,
            owner: Owner::Upstream,
            series,
        }
    }

    fn kind(&self) -> MetricType {
        match self.series {
            Series::Counter(_) | Series::Counters(..) => MetricType::COUNTER,
            Series::Gauge(_) => MetricType::GAUGE,
            Series::Durations(..) => MetricType::HISTOGRAM,
        }
    }
}

const FAMILIES: [Family; 14] = [
    Family::of_service(
        filter::STATE,
        filter::STATES,
        Series::Gauge(|counts| counts.state.get()),
    ),
    Family::of_service(
        filter::MODE,
        filter::MODES,
        Series::Gauge(|counts| counts.mode.get()),
    ),
    Family::of_service(
        filter::FAILURES,
        "Failed requests.",
        Series::Counter(|counts| counts.failure.get()),
    ),
    Family::of_service(
        filter::REQUESTS,
        "Requests by outcome.",
        Series::Counters("outcome", |counts| {
            vec![
                ("success", counts.success.get()),
                ("failure", counts.failure.get()),
                ("neutral", counts.neutral.get()),
                ("rejected", counts.rejected.get()),
            ]
        }),
    ),
    Family::of_upstream(
        RETRY,
        "Further attempts.",
        Series::Counter(|counts| counts.retries.get()),
    ),
    Family::of_upstream(
        RETRY_FAILED,
        "Commands that failed though they were tried again.",
        Series::Counter(|counts| counts.retry_failed.get()),
    ),
    Family::of_upstream(
        BUDGET_EXHAUSTED,
        "Retries that could not be paid for.",
        Series::Counter(|counts| counts.budget_exhausted.get()),
    ),
    Family::of_upstream(
        BUDGET_LEFT,
        "Retries that could be paid for.",
        Series::Gauge(|counts| counts.budget_left.get()),
    ),
    Family::of_upstream(
        CONNECTIONS,
        "Clients that are connected.",
        Series::Gauge(|counts| counts.connections.get()),
    ),
    Family::of_upstream(
        CONNECTIONS_TOTAL,
        "Clients that were accepted.",
        Series::Counter(|counts| counts.connections_total.get()),
    ),
    Family::of_upstream(
        REFUSED,
        "Clients that were refused or ended.",
        Series::Counters("reason", |counts| {
            vec![
                ("limit", counts.refused_limit.get()),
                ("idle", counts.refused_idle.get()),
                ("protocol", counts.refused_protocol.get()),
                ("memory", counts.refused_memory.get()),
            ]
        }),
    ),
    Family::of_upstream(
        RAW,
        "Sessions that became raw pipes.",
        Series::Counter(|counts| counts.raw.get()),
    ),
    Family::of_upstream(
        DURATION,
        "From a command's arrival to its reply.",
        Series::Durations("outcome", |counts| {
            vec![
                ("success", counts.duration_success.counts()),
                ("error", counts.duration_error.counts()),
                ("failure", counts.duration_failure.counts()),
            ]
        }),
    ),
    Family::of_upstream(
        BYTES,
        "Bytes passed on.",
        Series::Counters("direction", |counts| {
            vec![
                ("to_redis", counts.bytes_to.get()),
                ("from_redis", counts.bytes_from.get()),
            ]
        }),
    ),
];

/// The families of all upstreams.
#[derive(Clone, Debug)]
pub struct RedisFamilies {
    descriptions: Vec<Desc>,
    upstreams: Arc<RwLock<Vec<Upstream>>>,
}

#[derive(Clone, Debug)]
struct Upstream {
    name: String,
    counts: Arc<Counts>,
}

impl RedisFamilies {
    /// # Errors
    /// `registry` already has one of the names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let describe = |family: &Family| {
            let owner = match family.owner {
                Owner::Service => "service",
                Owner::Upstream => "upstream",
            };
            let mut labels = vec![owner.to_owned()];
            if let Series::Counters(label, _) | Series::Durations(label, _) = family.series {
                labels.push(label.to_owned());
            }
            let options = Opts::new(family.name, family.help);
            Desc::new(options.fq_name(), options.help, labels, HashMap::new())
        };
        let families = Self {
            descriptions: FAMILIES.iter().map(describe).collect::<Result<_, _>>()?,
            upstreams: Arc::default(),
        };
        registry.register(Box::new(families.clone()))?;
        Ok(families)
    }

    /// Ends the series of an upstream.
    pub fn remove(&self, name: &str) {
        self.upstreams
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|upstream| upstream.name != name);
    }

    /// Begins the series of an upstream.
    pub fn add(&self, name: &str, counts: Arc<Counts>) {
        let name = name.to_owned();
        self.upstreams
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Upstream { name, counts });
    }
}

impl Collector for RedisFamilies {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let upstreams = self
            .upstreams
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let collect = |family: &Family| {
            let metrics = upstreams
                .iter()
                .flat_map(|upstream| upstream.metrics(family));
            let kind = family.kind();
            exposition::family(family.name, family.help, kind, metrics.collect())
        };
        FAMILIES.iter().map(collect).collect()
    }
}

impl Upstream {
    fn metrics(&self, family: &Family) -> Vec<Metric> {
        let owner = match family.owner {
            Owner::Service => label("service", &format!("redis:{}", self.name)),
            Owner::Upstream => label("upstream", &self.name),
        };
        let with = |name: &str, value: &str| vec![label(name, value), owner.clone()];
        match family.series {
            Series::Counter(read) => vec![counter(vec![owner], read(&self.counts))],
            Series::Gauge(read) => vec![gauge(vec![owner], read(&self.counts))],
            Series::Counters(name, read) => read(&self.counts)
                .into_iter()
                .map(|(value, count)| counter(with(name, value), count))
                .collect(),
            Series::Durations(name, read) => read(&self.counts)
                .into_iter()
                .map(|(value, durations)| histogram(with(name, value), &durations))
                .collect(),
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the text format has no integers; counts beyond 2^53 are not reached"
)]
fn counter(labels: Vec<LabelPair>, count: u64) -> Metric {
    exposition::counter(labels, count as f64)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the text format has no integers; gauges beyond 2^53 are not reached"
)]
fn gauge(labels: Vec<LabelPair>, value: i64) -> Metric {
    exposition::gauge(labels, value as f64)
}

fn histogram(labels: Vec<LabelPair>, durations: &DurationCounts) -> Metric {
    let DurationCounts {
        buckets,
        count,
        sum_seconds,
    } = durations;
    exposition::histogram(labels, buckets, *count, *sum_seconds)
}
