//! The keys of a circuit breaker.

use crate::LONGEST;
use crate::reader::Section;
use levee_policy::backoff::Backoff;
use levee_policy::breaker::{
    BreakerSettings, FailureRate, HalfOpen, MAX_PROBES, Mode, Silence, SlowCalls,
};
use levee_policy::evidence::Witnesses;
use levee_policy::ratio::Ratio;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A window has ten buckets, and the filter's clock advances in steps of a tenth of a second.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
const SHORTEST_OPEN: Duration = Duration::from_millis(10);
/// For numbers of failures, requests and successes.
const COUNT: RangeInclusive<u32> = 1..=1_000_000;

/// Reads a breaker's section. Keys that are absent keep their value from `base`.
pub fn read_breaker(section: &mut Section<'_>, base: BreakerSettings) -> BreakerSettings {
    let settings = read_keys(section, base);
    refuse_no_rule(section, &settings, None);
    settings
}

/// Reads the section of a breaker that knows its callers: with `silence`, `witnesses` and `recover_for`.
pub fn read_breaker_with_callers(
    section: &mut Section<'_>,
    base: BreakerSettings,
) -> BreakerSettings {
    let mut settings = read_keys(section, base);
    read_evidence(section, &mut settings);
    read_open_times_unreachable(section, &mut settings);
    if let Some(recover_for) = section.duration("recover_for", Duration::ZERO..=LONGEST) {
        settings.recover_for = recover_for;
    }
    refuse_no_rule(section, &settings, settings.silence);
    settings
}

fn refuse_no_rule(section: &mut Section<'_>, settings: &BreakerSettings, silence: Option<Silence>) {
    if settings.mode.learns()
        && settings.consecutive_failures.is_none()
        && settings.failure_rate.is_none()
        && settings.slow_calls.is_none()
        && silence.is_none()
    {
        section.error(
            "",
            "all rules are off, so it would never open; set one, or set mode to \"disabled\"",
        );
    }
}

fn read_keys(section: &mut Section<'_>, base: BreakerSettings) -> BreakerSettings {
    let mut settings = base;
    let modes = Mode::ALL.map(|mode| (mode.name(), mode));
    if let Some(mode) = section.choice("mode", &modes) {
        settings.mode = mode;
    }
    if let Some(limit) = section.integer("consecutive_failures", 0..=1_000_000) {
        settings.consecutive_failures = (limit > 0).then_some(limit);
    }
    section.section("failure_rate", |s| read_failure_rate(s, &mut settings));
    section.section("slow_calls", |s| {
        settings.slow_calls = read_slow_calls(s, settings.slow_calls);
    });
    read_open_times(section, &mut settings);
    section.section("half_open", |s| read_half_open(s, &mut settings.half_open));
    settings
}

fn read_failure_rate(section: &mut Section<'_>, settings: &mut BreakerSettings) {
    let base = settings
        .failure_rate
        .or(BreakerSettings::default().failure_rate);
    let ratio = section.ratio("ratio");
    let minimum_requests = section.integer("minimum_requests", COUNT);
    if let Some(window) = section.duration("window", SHORTEST_WINDOW..=LONGEST) {
        settings.window = window;
    }
    if let Some(base) = base
        && (ratio.is_some() || minimum_requests.is_some())
    {
        let rule = FailureRate {
            ratio: ratio.unwrap_or(base.ratio),
            minimum_requests: minimum_requests.unwrap_or(base.minimum_requests),
        };
        settings.failure_rate = is_on(rule.ratio).then_some(rule);
    }
}

fn read_slow_calls(section: &mut Section<'_>, base: Option<SlowCalls>) -> Option<SlowCalls> {
    let longer_than = section.duration("longer_than", Duration::from_millis(1)..=LONGEST);
    let ratio = section.ratio("ratio");
    let minimum_requests = section.integer("minimum_requests", COUNT);
    let base = base.or_else(|| {
        longer_than.map(|longer_than| SlowCalls {
            longer_than,
            ratio: Ratio::percent(50),
            minimum_requests: 20,
        })
    });
    let Some(base) = base else {
        if ratio.is_some_and(is_on) || minimum_requests.is_some() {
            section.error(
                "longer_than",
                "is missing: how long a slow call takes, a duration such as \"2s\"",
            );
        }
        return None;
    };
    let rule = SlowCalls {
        longer_than: longer_than.unwrap_or(base.longer_than),
        ratio: ratio.unwrap_or(base.ratio),
        minimum_requests: minimum_requests.unwrap_or(base.minimum_requests),
    };
    is_on(rule.ratio).then_some(rule)
}

fn read_evidence(section: &mut Section<'_>, settings: &mut BreakerSettings) {
    if let Some(witnesses) = section.integer("witnesses", 1..=2) {
        settings.witnesses = match witnesses {
            1 => Witnesses::One,
            _ => Witnesses::Two,
        };
    }
    section.section("silence", |s| {
        let ratio = s.ratio("ratio");
        let minimum_requests = s.integer("minimum_requests", COUNT);
        let base = settings.silence.or(BreakerSettings::default().silence);
        if let Some(base) = base
            && (ratio.is_some() || minimum_requests.is_some())
        {
            let rule = Silence {
                ratio: ratio.unwrap_or(base.ratio),
                minimum_requests: minimum_requests.unwrap_or(base.minimum_requests),
            };
            settings.silence = is_on(rule.ratio).then_some(rule);
        }
    });
}

fn read_open_times(section: &mut Section<'_>, settings: &mut BreakerSettings) {
    read_growing_time(section, "open_for", "open_for_max", &mut settings.open);
}

/// Reads how long it stays open while the service can't be reached: never longer than otherwise,
/// unless a key says so.
fn read_open_times_unreachable(section: &mut Section<'_>, settings: &mut BreakerSettings) {
    let most = settings.open;
    let open = &mut settings.open_unreachable;
    if section.has("open_for") {
        open.base = open.base.min(most.base);
    }
    if section.has("open_for") || section.has("open_for_max") {
        open.max = open.max.min(most.max);
    }
    let (first, longest) = ("open_for_unreachable", "open_for_unreachable_max");
    read_growing_time(section, first, longest, open);
}

/// Reads the first and the longest of times that grow. The longest is at least the first.
fn read_growing_time(
    section: &mut Section<'_>,
    first: &'static str,
    longest: &'static str,
    times: &mut Backoff,
) {
    if let Some(base) = section.duration(first, SHORTEST_OPEN..=LONGEST) {
        times.base = base;
        times.max = times.max.max(base);
    }
    if let Some(max) = section.duration(longest, SHORTEST_OPEN..=LONGEST) {
        if max < times.base {
            let least = humantime::format_duration(times.base);
            let message = format!("is less than {first} ({least}); it must be as long or longer");
            section.error(longest, &message);
        }
        times.max = max;
    }
}

fn read_half_open(section: &mut Section<'_>, half_open: &mut HalfOpen) {
    let most = u32::try_from(MAX_PROBES).unwrap_or(u32::MAX);
    if let Some(max) = section.integer("max_in_flight", 1..=most) {
        half_open.max_in_flight = u8::try_from(max).unwrap_or(u8::MAX);
    }
    if let Some(successes) = section.integer("successes_to_close", COUNT) {
        half_open.successes_to_close = successes;
    }
    if let Some(lease) = section.duration("lease", Duration::from_millis(100)..=LONGEST) {
        half_open.lease = lease;
    }
}

/// A ratio of 0 switches its rule off.
fn is_on(ratio: Ratio) -> bool {
    ratio > Ratio::ZERO
}
