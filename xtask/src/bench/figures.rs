//! Reading what the benchmarks print as JSON.

use levee_bench_statistics::Spread;
use serde_json::Value;

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn spread(value: &Value) -> Option<Spread> {
    Some(Spread {
        median: value["median"].as_f64()?,
        lowest: value["lowest"].as_f64()?,
        highest: value["highest"].as_f64()?,
    })
}
