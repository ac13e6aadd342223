//! The keys of a circuit breaker.

use crate::LONGEST;
use crate::reader::Section;
use levee_policy::breaker::{FailureRate, MAX_PROBES, Mode, Settings, SlowCalls};
use levee_policy::ratio::Ratio;
use std::time::Duration;

/// The window has ten buckets, and time is told to a tenth of a second.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

/// Reads a breaker on top of `base`: what is not there stays as it is.
pub fn read_breaker(section: &mut Section<'_>, base: Settings) -> Settings {
    let mut settings = base;
    let modes = Mode::ALL.map(|mode| (mode.name(), mode));
    if let Some(mode) = section.choice("mode", &modes) {
        settings.mode = mode;
    }
    if let Some(limit) = section.integer("consecutive_failures", 0..=1_000_000) {
        settings.consecutive_failures = (limit > 0).then_some(limit);
    }
    section.section("failure_rate", |s| {
        let base = settings.failure_rate.or(Settings::default().failure_rate);
        let (ratio, minimum) = (
            s.ratio("ratio"),
            s.integer("minimum_requests", 1..=1_000_000),
        );
        if let Some(window) = s.duration("window", SHORTEST_WINDOW..=LONGEST) {
            settings.window = window;
        }
        if let Some(mut rule) = base
            && (ratio.is_some() || minimum.is_some())
        {
            rule.ratio = ratio.unwrap_or(rule.ratio);
            rule.minimum_requests = minimum.unwrap_or(rule.minimum_requests);
            settings.failure_rate = is_on(rule.ratio).then_some(FailureRate { ..rule });
        }
    });
    section.section("slow_calls", |s| {
        let longer_than = s.duration("longer_than", Duration::from_millis(1)..=LONGEST);
        let (ratio, minimum) = (
            s.ratio("ratio"),
            s.integer("minimum_requests", 1..=1_000_000),
        );
        let base = settings.slow_calls.or_else(|| {
            longer_than.map(|longer_than| SlowCalls {
                longer_than,
                ratio: Ratio::percent(50),
                minimum_requests: 20,
            })
        });
        match base {
            Some(rule) => {
                let rule = SlowCalls {
                    longer_than: longer_than.unwrap_or(rule.longer_than),
                    ratio: ratio.unwrap_or(rule.ratio),
                    minimum_requests: minimum.unwrap_or(rule.minimum_requests),
                };
                settings.slow_calls = is_on(rule.ratio).then_some(rule);
            }
            None if ratio.is_some_and(is_on) || minimum.is_some() => s.error(
                "longer_than",
                "is missing: how long a slow call takes, a duration such as \"2s\"",
            ),
            None => {}
        }
    });
    let moment = Duration::from_millis(10);
    if let Some(base) = section.duration("open_for", moment..=LONGEST) {
        settings.open.base = base;
        settings.open.max = settings.open.max.max(base);
    }
    if let Some(max) = section.duration("open_for_max", moment..=LONGEST) {
        if max < settings.open.base {
            section.error(
                "open_for_max",
                &format!(
                    "is less than open_for ({}); it must be as long or longer",
                    humantime::format_duration(settings.open.base)
                ),
            );
        }
        settings.open.max = max;
    }
    section.section("half_open", |s| {
        let most = u32::try_from(MAX_PROBES).unwrap_or(u32::MAX);
        if let Some(max) = s.integer("max_in_flight", 1..=most) {
            settings.half_open.max_in_flight = u8::try_from(max).unwrap_or(u8::MAX);
        }
        if let Some(successes) = s.integer("successes_to_close", 1..=1_000_000) {
            settings.half_open.successes_to_close = successes;
        }
        if let Some(lease) = s.duration("lease", Duration::from_millis(100)..=LONGEST) {
            settings.half_open.lease = lease;
        }
    });
    if settings.mode.learns()
        && settings.consecutive_failures.is_none()
        && settings.failure_rate.is_none()
        && settings.slow_calls.is_none()
    {
        section.error(
            "",
            "all rules are off, so it would never open; set one, or set mode to \"disabled\"",
        );
    }
    settings
}

fn is_on(ratio: Ratio) -> bool {
    ratio > Ratio::ZERO
}
