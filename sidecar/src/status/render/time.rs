//! Durations as text.

use crate::status::view::Since;
use std::time::Duration;

/// `5s` if known exactly, `5s-10s` if between the two, `>5s` without an upper bound.
pub fn since(since: Since) -> String {
    let least = long_time(since.at_least_seconds);
    match since.at_most_seconds {
        None => format!(">{least}"),
        Some(most) if most - since.at_least_seconds < 1.0 => least,
        Some(most) => {
            let most = long_time(most);
            if most == least {
                least
            } else {
                format!("{least}-{most}")
            }
        }
    }
}

/// In the two largest units.
pub fn long_time(seconds: f64) -> String {
    let whole =
        Duration::try_from_secs_f64(seconds.max(0.0)).map_or(u64::MAX, |time| time.as_secs());
    let (days, hours, minutes) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", whole % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A request's duration.
pub fn short_time(seconds: f64) -> String {
    let millis = seconds * 1000.0;
    match millis {
        _ if millis < 10.0 => format!("{millis:.1}ms"),
        _ if millis < 1000.0 => format!("{millis:.0}ms"),
        _ if millis < 100_000.0 => format!("{seconds:.1}s"),
        _ => format!("{seconds:.0}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_units_at_most() {
        for (seconds, text) in [
            (0.9, "0s"),
            (59.0, "59s"),
            (61.0, "1m01s"),
            (3599.0, "59m59s"),
            (7260.0, "2h01m"),
            (100_000.0, "1d03h"),
            (-1.0, "0s"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(long_time(seconds), text, "{seconds}");
        }
        for (seconds, text) in [
            (0.0, "0.0ms"),
            (0.0099, "9.9ms"),
            (0.5, "500ms"),
            (3600.0, "3600s"),
        ] {
            assert_eq!(short_time(seconds), text, "{seconds}");
        }
    }
}
