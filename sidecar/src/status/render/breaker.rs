//! A breaker's state as text.

use super::table::nothing;

/// With the mode, unless that is `enforce`. Lower case in mode `shadow`, which refuses nothing.
pub fn state_in_mode(name: Option<&str>, mode: Option<&str>) -> String {
    match (name, mode) {
        (_, None | Some("enforce")) => state(name),
        (Some(name), Some("shadow")) => format!("{} (shadow)", name.replace('_', "-")),
        (_, Some(mode)) => format!("{} ({mode})", state(name)),
    }
}

/// Capitals for what needs attention.
fn state(state: Option<&str>) -> String {
    match state {
        None => nothing(),
        Some("open") => "OPEN".to_owned(),
        Some("half_open") => "HALF-OPEN".to_owned(),
        Some(other) => other.to_owned(),
    }
}
