//! The table of services.

use super::breaker::state_in_mode;
use super::table::{Column, nothing, table};
use super::time::{short_time, since};
use crate::status::view::{Durations, Service, Source};

const COLUMNS: [Column; 9] = [
    Column::text("SERVICE"),
    Column::text("STATE"),
    Column::text("SINCE"),
    Column::number("REQUESTS"),
    Column::number("FAILURES"),
    Column::number("REJECTED"),
    Column::number("TIMEOUTS"),
    Column::number("P50"),
    Column::number("P99"),
];

pub fn services(services: &[Service], envoy: &Source, width: usize) -> Vec<String> {
    if services.is_empty() || envoy.problem.is_some() {
        return Vec::new();
    }
    let mut services: Vec<&Service> = services.iter().collect();
    services.sort_by(|one, other| (rank(one), &one.name).cmp(&(rank(other), &other.name)));
    let rows: Vec<Vec<String>> = services.iter().map(|service| row(service)).collect();
    let mut lines = table(&COLUMNS, &rows, width);
    for service in services {
        for scope in &service.scopes {
            let state = scope.state.as_deref();
            if let Some(state @ ("open" | "half_open")) = state {
                let state = state_in_mode(Some(state), service.mode.as_deref());
                lines.push(format!("{}, scope {}: {state}", service.name, scope.name));
            }
        }
        if service.mode.as_deref() == Some("shadow") && service.shadow_rejected > 0 {
            lines.push(format!(
                "{}: refuses nothing (mode shadow); would have refused {} so far",
                service.name, service.shadow_rejected
            ));
        }
    }
    lines
}

/// Services that refuse requests come first.
fn rank(service: &Service) -> u8 {
    match (service.state.as_deref(), service.mode.as_deref()) {
        (Some("open" | "half_open"), Some("shadow")) => 2,
        (Some("open"), _) => 0,
        (Some("half_open"), _) => 1,
        (Some(_), _) => 3,
        (None, _) => 4,
    }
}

fn row(service: &Service) -> Vec<String> {
    let quantile = |of: fn(&Durations) -> Option<f64>| {
        let seconds = service.durations.as_ref().and_then(of);
        seconds.map_or_else(nothing, short_time)
    };
    let count = |count: u64| match service.state {
        Some(_) => count.to_string(),
        None => nothing(),
    };
    let timeouts = service.timeouts;
    vec![
        service.name.clone(),
        state_in_mode(service.state.as_deref(), service.mode.as_deref()),
        service.since.map_or_else(nothing, since),
        count(service.requests.total()),
        count(service.failures),
        count(service.requests.rejected),
        count(timeouts.request + timeouts.response_header + timeouts.connect),
        quantile(|durations| durations.p50_seconds),
        quantile(|durations| durations.p99_seconds),
    ]
}
