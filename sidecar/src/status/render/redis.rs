//! The table of Redis upstreams.

use super::breaker::state_in_mode;
use super::table::{Column, table};
use super::time::{long_time, since};
use crate::status::view::Redis;

const COLUMNS: [Column; 9] = [
    Column::text("REDIS"),
    Column::text("BREAKER"),
    Column::text("SINCE"),
    Column::number("COMMANDS"),
    Column::number("FAILURES"),
    Column::number("REJECTED"),
    Column::number("RETRIES"),
    Column::number("BUDGET"),
    Column::number("CONNECTIONS"),
];

pub fn redis(upstreams: &[Redis], width: usize) -> Vec<String> {
    if upstreams.is_empty() {
        return Vec::new();
    }
    let rows: Vec<Vec<String>> = upstreams.iter().map(row).collect();
    let mut lines = table(&COLUMNS, &rows, width);
    for redis in upstreams {
        if let (Some(error), Some(ago)) = (&redis.last_error, redis.last_error_seconds_ago) {
            let ago = long_time(ago);
            lines.push(format!("{}: last error {ago} ago: {error}", redis.name));
        }
    }
    lines
}

fn row(redis: &Redis) -> Vec<String> {
    vec![
        redis.name.clone(),
        state_in_mode(Some(&redis.state), Some(&redis.mode)),
        since(redis.since),
        redis.requests.total().to_string(),
        redis.failures.to_string(),
        redis.requests.rejected.to_string(),
        redis.retries.to_string(),
        redis.budget_left.to_string(),
        format!("{}/{}", redis.connections, redis.connections_limit),
    ]
}
