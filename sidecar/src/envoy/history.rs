//! What earlier polls saw: since when each breaker has had its state, and how long recent requests took.
//!
//! Envoy knows neither. The filter counts changes of state, so a change between two polls is noticed even if the breaker
//! is back in its old state; but not when it happened.

use super::histogram::Histogram;
use super::text::Labels;
use super::translate::{Gateway, SCOPE, SERVICE};
use levee_filter::metrics as filter;
use levee_policy::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// The least age of the window of durations, once polls go back that far. The most is twice that.
pub const WINDOW: Duration = Duration::from_mins(1);

/// What polls saw of all services. Services that Envoy no longer shows are forgotten, so this is bounded as Envoy's are.
#[derive(Clone, Debug, Default)]
pub struct History {
    services: BTreeMap<String, Seen>,
    last_look: Option<Instant>,
}

/// When a breaker entered its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The first poll that saw the state.
    pub seen: Instant,
    /// The poll before that: the change came between the two. `None`: there was none.
    pub before: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    state: Option<StateCount>,
    since: Option<Since>,
    durations: Histogram,
    /// Where the window begins. `None`: at Envoy's start.
    begin: Option<Mark>,
    /// Where the next window begins.
    next_begin: Option<Mark>,
}

/// A breaker's state, as the filter's gauge has it, and how often it has changed in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StateCount {
    state: u64,
    changes: u64,
}

/// The durations of all requests up to a time.
#[derive(Clone, Debug)]
struct Mark {
    at: Instant,
    durations: Histogram,
}

/// How long recent requests took.
#[derive(Clone, Debug, PartialEq)]
pub struct Lately {
    pub durations: Histogram,
    /// `None`: since Envoy started.
    pub since: Option<Instant>,
}

impl History {
    /// Adds a poll.
    pub fn look(&mut self, gateway: &Gateway, now: Instant) {
        let mut before = std::mem::take(&mut self.services);
        let last_look = self.last_look.replace(now);
        let mut changes: BTreeMap<&str, u64> = BTreeMap::new();
        for (labels, value) in series(gateway, filter::TRANSITIONS) {
            let sum = changes.entry(service_of(labels)).or_default();
            *sum = sum.saturating_add(whole(value));
        }
        for (labels, value) in series(gateway, filter::STATE) {
            let service = service_of(labels);
            let mut seen = before.remove(service).unwrap_or_default();
            let state = StateCount {
                state: whole(value),
                changes: changes.get(service).copied().unwrap_or(0),
            };
            if seen.state != Some(state) {
                let since = Since {
                    seen: now,
                    // Also for a new service: the filter has met it since the last poll.
                    before: last_look,
                };
                seen.since = Some(since);
                seen.state = Some(state);
            }
            self.services.insert(service.to_owned(), seen);
        }
        // With tags of the user's own, a service has several.
        let mut all: BTreeMap<&str, Histogram> = BTreeMap::new();
        for (labels, durations) in &gateway.durations {
            all.entry(service_of(labels))
                .and_modify(|sum| sum.add(durations))
                .or_insert_with(|| durations.clone());
        }
        for (service, durations) in &all {
            let service = *service;
            let seen = self
                .services
                .entry(service.to_owned())
                .or_insert_with(|| before.remove(service).unwrap_or_default());
            seen.take(durations, now);
        }
    }

    /// When the breaker of `service` entered its state.
    pub fn since(&self, service: &str) -> Option<Since> {
        self.services.get(service)?.since
    }

    /// How long recent requests to `service` took.
    pub fn lately(&self, service: &str) -> Option<Lately> {
        let seen = self.services.get(service)?;
        let begin = seen.begin.as_ref();
        let durations = match begin {
            Some(mark) => seen.durations.since(&mark.durations)?,
            None => seen.durations.clone(),
        };
        Some(Lately {
            durations,
            since: begin.map(|mark| mark.at),
        })
    }
}

impl Seen {
    fn take(&mut self, durations: &Histogram, now: Instant) {
        if durations.since(&self.durations).is_none() {
            // Envoy has restarted.
            (self.begin, self.next_begin) = (None, None);
        }
        self.durations = durations.clone();
        let is_current = |mark: &Mark| now.since(mark.at) < WINDOW;
        if !self.next_begin.as_ref().is_some_and(is_current) {
            let mark = Mark {
                at: now,
                durations: durations.clone(),
            };
            self.begin = self.next_begin.replace(mark);
        }
    }
}

/// The values of services, without those of their scopes.
fn series<'a>(
    gateway: &'a Gateway,
    name: &str,
) -> impl Iterator<Item = (&'a Labels, f64)> + use<'a> {
    let series = gateway.values.get(name);
    series
        .into_iter()
        .flatten()
        .filter(|(labels, _)| !labels.contains_key(SCOPE))
        .map(|(labels, value)| (labels, *value))
}

fn service_of(labels: &Labels) -> &str {
    labels.get(SERVICE).map_or("", String::as_str)
}

/// A value that is not negative, as an integer.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 * (1000 + seconds))
    }

    fn gateway(state: u64, opened: u64) -> Gateway {
        Gateway::read(
            &format!(
                "circuit_breaker_state{{service=\"a\"}} {state}\n\
                 circuit_breaker_transitions_total{{service=\"a\",to=\"open\"}} {opened}\n"
            ),
            &BTreeMap::new(),
        )
    }

    fn since(seen: u64, before: Option<u64>) -> Since {
        Since {
            seen: at(seen),
            before: before.map(at),
        }
    }

    #[test]
    fn a_services_state_is_not_its_scopes() {
        let look = |history: &mut History, scope: u64, now| {
            let page = format!(
                "circuit_breaker_state{{service=\"a\"}} 0\n\
                 circuit_breaker_state{{scope=\"s\",service=\"a\"}} {scope}\n\
                 circuit_breaker_transitions_total{{scope=\"s\",service=\"a\",to=\"open\"}} {scope}\n"
            );
            let gateway = Gateway::read(&page, &BTreeMap::new());
            assert_eq!(gateway.services().collect::<Vec<_>>(), ["a"]);
            history.look(&gateway, now);
        };
        let mut history = History::default();
        look(&mut history, 0, at(0));
        look(&mut history, 1, at(5));
        assert_eq!(history.since("a"), Some(since(0, None)));
    }

    #[test]
    fn a_change_came_between_two_looks() {
        let mut history = History::default();
        assert_eq!(history.since("a"), None);
        history.look(&gateway(0, 0), at(0));
        assert_eq!(
            history.since("a"),
            Some(since(0, None)),
            "nobody knows since when"
        );
        history.look(&gateway(0, 0), at(5));
        assert_eq!(history.since("a"), Some(since(0, None)));
        history.look(&gateway(1, 1), at(10));
        history.look(&gateway(1, 1), at(15));
        assert_eq!(history.since("a"), Some(since(10, Some(5))));
    }

    #[test]
    fn a_breaker_that_was_elsewhere_between_two_looks_is_seen_to_have_changed() {
        let mut history = History::default();
        history.look(&gateway(1, 1), at(0));
        history.look(&gateway(1, 2), at(5));
        assert_eq!(history.since("a"), Some(since(5, Some(0))));
    }

    #[test]
    fn a_service_that_is_new_was_met_since_the_last_look_and_one_that_is_gone_is_forgotten() {
        let mut history = History::default();
        history.look(&Gateway::default(), at(0));
        history.look(&gateway(0, 0), at(5));
        assert_eq!(history.since("a"), Some(since(5, Some(0))));
        history.look(&Gateway::default(), at(10));
        assert_eq!(history.since("a"), None);
        assert!(history.services.is_empty());
    }

    fn durations(count: u32) -> Gateway {
        let name = "envoy_cluster_upstream_rq_time";
        let label = "envoy_cluster_name=\"a\"";
        Gateway::read(
            &format!(
                "{name}_bucket{{{label},le=\"5\"}} {count}\n{name}_sum{{{label}}} 1\n{name}_count{{{label}}} {count}\n"
            ),
            &BTreeMap::new(),
        )
    }

    fn lately(history: &History) -> (u64, Option<Instant>) {
        let lately = history.lately("a").unwrap();
        (lately.durations.count, lately.since)
    }

    #[test]
    fn durations_are_those_of_the_last_one_to_two_minutes() {
        let mut history = History::default();
        for (seconds, count, wanted) in [
            (0, 100, (100, None)),
            (5, 110, (110, None)),
            // The first poll was a minute ago: the window begins there.
            (60, 150, (50, Some(0))),
            (119, 160, (60, Some(0))),
            (120, 170, (20, Some(60))),
            (600, 200, (30, Some(120))),
        ] {
            history.look(&durations(count), at(seconds));
            let (found, since) = lately(&history);
            assert_eq!((found, since), (wanted.0, wanted.1.map(at)), "{seconds}");
        }
    }

    #[test]
    fn several_series_of_a_service_are_one() {
        let page = |first: u32, second: u32| {
            let of = |subset: &str, count: u32| {
                let name = "envoy_cluster_upstream_rq_time";
                let label = format!("envoy_cluster_name=\"a\",subset=\"{subset}\"");
                format!(
                    "{name}_bucket{{{label},le=\"5\"}} {count}\n{name}_sum{{{label}}} 1\n{name}_count{{{label}}} {count}\n"
                )
            };
            Gateway::read(&(of("x", first) + &of("y", second)), &BTreeMap::new())
        };
        let mut history = History::default();
        history.look(&page(100, 1), at(0));
        history.look(&page(110, 2), at(60));
        assert_eq!(lately(&history), (11, Some(at(0))));
    }

    #[test]
    fn an_envoy_that_restarted_is_not_compared_with_the_one_before() {
        let mut history = History::default();
        history.look(&durations(100), at(0));
        history.look(&durations(200), at(60));
        history.look(&durations(3), at(65));
        assert_eq!(lately(&history), (3, None));
    }
}
