//! A service or one of its scopes, as one worker knows it.

use crate::breakers::ServiceIndex;
use crate::config::{Failures, Fallback, ServiceConfig};
use crate::deadline::Deadlines;
use crate::host::{Host, LocalReply, MetricId};
use crate::label::{fnv1a_32, label, label_of_scope};
use crate::metrics::{Counter, RequestLabel, mode_name, scopes_over_limit_name, state_name};
use crate::outcome::{AnsweredWell, Protocol};
use crate::shared::BreakerId;
use levee_policy::breaker::{Breaker, BreakerSettings, Mode, Outcome, Phase, Verdict};
use levee_policy::callers::Caller;
use levee_policy::replica::{Admission, Replica};
use levee_policy::scope::wants_to_hand_in;
use levee_policy::time::Instant;
use levee_policy::usual::Usual;
use std::borrow::Cow;
use std::time::Duration;

/// The response code details of refused requests.
pub const DETAILS: &str = "levee_circuit_open";
/// The response header that says why Levee answered.
pub const REASON_HEADER: &str = "x-levee-reason";
const REASON: &str = "circuit_open";
/// gRPC's UNAVAILABLE.
const GRPC_UNAVAILABLE: u32 = 14;

/// A scope, as a part of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub of: ServiceIndex,
    pub name: String,
    /// As the service's breaker sees it: the caller of its requests.
    pub as_caller: Caller,
}

impl Part {
    pub fn new(of: ServiceIndex, name: &str) -> Self {
        Self {
            of,
            name: name.to_owned(),
            as_caller: Caller::from_hash(fnv1a_32(name.as_bytes())),
        }
    }
}

/// Whether a service is divided into scopes. One part alone is all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Divided {
    /// No request has named a part.
    #[default]
    No,
    /// One part is known.
    NotYet,
    Yes,
}

/// A service that this worker has met, or a scope.
#[derive(Debug)]
pub struct Service {
    /// The name of its cluster, or the alias of that name; for a scope, its service's.
    pub name: String,
    /// For a scope only.
    pub scope: Option<Part>,
    pub divided: Divided,
    pub breaker_id: BreakerId,
    pub settings: BreakerSettings,
    pub replica: Replica,
    pub deadlines: Deadlines,
    pub fallback: Fallback,
    /// Which of its answers are failures.
    pub failures: Failures,
    /// Knows most of the others.
    pub answered_well: Option<AnsweredWell>,
    /// The protocol of the last good answer whose properties were read one by one.
    pub protocol: Protocol,
    /// How long its answers take, as this worker has seen it.
    pub usual: Usual,
    /// Whether the next tick takes care of it.
    pub is_touched: bool,
    /// When this worker visited the breaker last.
    pub visited: Instant,
    /// Not yet handed to Envoy.
    counts: [u32; Counter::ALL.len()],
    counters: [Option<MetricId>; Counter::ALL.len()],
    state: Option<MetricId>,
    mode: Option<MetricId>,
    /// Counts scopes beyond the limit, once there are any.
    scopes_over_limit: Option<MetricId>,
    /// The value of the `state` gauge.
    shown: Option<Phase>,
}

impl Service {
    /// Defines the service's metrics, too. A service can have many scopes, so most of their counters
    /// are defined when they count something.
    pub fn new<H: Host>(
        host: &H,
        name: &str,
        scope: Option<Part>,
        config: &ServiceConfig,
        breaker_id: BreakerId,
        breaker: &Breaker,
        now: Instant,
    ) -> Self {
        let is_scope = scope.is_some();
        let label = label_of(name, scope.as_ref());
        let mut service = Self {
            name: name.to_owned(),
            scope,
            divided: Divided::default(),
            breaker_id,
            settings: config.breaker,
            replica: Replica::new(&config.breaker, breaker, now),
            deadlines: Deadlines::new(&config.timeouts),
            fallback: config.fallback.clone(),
            failures: config.failures,
            answered_well: None,
            protocol: Protocol::default(),
            usual: Usual::default(),
            is_touched: false,
            // A scope's first success is handed in at once.
            visited: Instant::default(),
            counts: [0; Counter::ALL.len()],
            counters: Counter::ALL.map(|counter| {
                let is_shown = !is_scope || matches!(counter, Counter::Requests(_));
                let name = is_shown.then(|| counter.name(&label));
                name.and_then(|name| host.define_counter(&name))
            }),
            state: host.define_gauge(&state_name(&label)),
            mode: host.define_gauge(&mode_name(&label)),
            scopes_over_limit: None,
            shown: None,
        };
        service.show_phase(host);
        service
    }

    /// The breaker's answer, as far as this worker knows it, to a call that is not asked for: one that
    /// another filter has led here.
    pub fn view(&self, now: Instant) -> Verdict {
        match self.replica.admit(&self.settings, now) {
            Admission::Decided(verdict) => verdict,
            Admission::VisitNeeded => Verdict::WouldRefuse,
        }
    }

    /// Its name in the log.
    pub fn title(&self) -> Cow<'_, str> {
        match &self.scope {
            Some(scope) => format!("{}, scope {}", self.name, scope.name).into(),
            None => Cow::Borrowed(&self.name),
        }
    }

    /// Counts an outcome, unless the breaker is disabled.
    #[inline]
    pub fn count_outcome_if_enabled(&mut self, outcome: Outcome) {
        if self.settings.mode != Mode::Disabled {
            self.count_outcome(outcome);
        }
    }

    /// Adds one to a counter. Envoy gets it with the next [`flush`](Self::flush).
    #[inline]
    pub fn count(&mut self, counter: Counter) {
        self.count_many(counter, 1);
    }

    #[inline]
    pub fn count_many(&mut self, counter: Counter, amount: u32) {
        if let Some(count) = self.counts.get_mut(counter.index()) {
            *count = count.saturating_add(amount);
        }
    }

    /// There was no place for the scope `name`.
    #[cold]
    pub fn count_scope_over_limit<H: Host>(&mut self, host: &H, name: &str, at_most: usize) {
        if self.scopes_over_limit.is_none() {
            let of = &self.name;
            log::warn!(
                "no breaker for {of}, scope {name}, nor for further ones: the limit of {at_most} scopes (scopes.max) is \
                 reached"
            );
            self.scopes_over_limit = host.define_counter(&scopes_over_limit_name(&label(of)));
        }
        if let Some(counter) = self.scopes_over_limit {
            host.add(counter, 1);
        }
    }

    fn count_outcome(&mut self, outcome: Outcome) {
        self.count(Counter::Requests(match outcome {
            Outcome::Success { .. } | Outcome::After { .. } => RequestLabel::Success,
            Outcome::Failure { .. } => RequestLabel::Failure,
            Outcome::Unanswered | Outcome::Unknown | Outcome::Neutral => RequestLabel::Neutral,
        }));
        match outcome {
            Outcome::Failure { .. } => self.count(Counter::Failures),
            Outcome::Unanswered => self.count(Counter::Unanswered),
            Outcome::Success { .. }
            | Outcome::After { .. }
            | Outcome::Unknown
            | Outcome::Neutral => {}
        }
    }

    /// Hands the counts to Envoy.
    pub fn flush<H: Host>(&mut self, host: &H) {
        let counts = self.counts.iter_mut().zip(&mut self.counters);
        for ((count, id), counter) in counts.zip(Counter::ALL) {
            let amount = std::mem::take(count);
            if amount == 0 {
                continue;
            }
            if id.is_none() {
                let label = label_of(&self.name, self.scope.as_ref());
                *id = host.define_counter(&counter.name(&label));
            }
            if let Some(id) = id {
                host.add(*id, amount);
            }
        }
    }

    /// Replaces the settings of the breaker. `breaker` has all that was counted.
    pub fn change_settings(&mut self, settings: BreakerSettings, breaker: &Breaker, now: Instant) {
        self.settings = settings;
        self.replica = Replica::new(&settings, breaker, now);
    }

    /// Sets the gauges, though another configuration may have set them since.
    pub fn show_again<H: Host>(&mut self, host: &H) {
        self.shown = None;
        self.show_phase(host);
    }

    /// Sets the gauges if the phase has changed. The last worker that hears of a change sets them
    /// last, to the newest state.
    pub fn show_phase<H: Host>(&mut self, host: &H) {
        let phase = self
            .settings
            .mode
            .fixed_phase()
            .unwrap_or(self.replica.phase());
        if self.shown != Some(phase)
            && let Some(gauge) = self.state
        {
            self.shown = Some(phase);
            host.set(gauge, phase as u32);
            if let Some(gauge) = self.mode {
                host.set(gauge, self.settings.mode as u32);
            }
        }
    }

    /// Whether this worker should visit the shared breaker at this tick.
    pub fn wants_sync(&self, now: Instant) -> bool {
        self.replica.wants_sync()
            || (self.scope.is_some()
                && wants_to_hand_in(&self.replica, &self.settings, self.visited, now))
    }

    /// Whether the next tick should take care of it though there may be no request until then.
    pub fn has_more(&self) -> bool {
        self.scope.is_some() && self.replica.has_successes()
    }

    /// Refuses the current request. The client may try again after `retry_after`.
    pub fn refuse<H: Host>(&self, host: &H, fallback: &Fallback, retry_after: Duration) {
        let seconds = whole_seconds(retry_after).to_string();
        let mut headers = vec![("retry-after", seconds.as_str()), (REASON_HEADER, REASON)];
        let body;
        let (status, body) = match fallback {
            Fallback::Answer {
                status,
                headers: own,
                body,
            } => {
                headers.extend(
                    own.iter()
                        .map(|(name, value)| (name.as_str(), value.as_str())),
                );
                (*status, body.as_bytes())
            }
            Fallback::Refusal | Fallback::Route(_) => {
                headers.push(("content-type", "application/json"));
                let name = serde_json::Value::from(self.name.as_str());
                let scope = self.scope.as_ref().map_or_else(String::new, |scope| {
                    let scope = serde_json::Value::from(scope.name.as_str());
                    format!(r#""scope":{scope},"#)
                });
                body = format!(
                    r#"{{"error":"{REASON}","service":{name},{scope}"retry_after_seconds":{seconds}}}"#
                );
                (503, body.as_bytes())
            }
        };
        host.reply(LocalReply {
            status,
            details: DETAILS,
            headers: &headers,
            body,
            grpc_status: GRPC_UNAVAILABLE,
        });
    }
}

/// In the names of its metrics.
fn label_of(name: &str, scope: Option<&Part>) -> String {
    scope.map_or_else(|| label(name), |scope| label_of_scope(name, &scope.name))
}

/// `wait` in seconds, the unit of `retry-after` (RFC 9110, section 10.2.3): rounded up, at least 1.
fn whole_seconds(wait: Duration) -> u64 {
    let begun = u64::from(wait.subsec_nanos() > 0);
    (wait.as_secs() + begun).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up_to_whole_seconds() {
        for (millis, seconds) in [
            (0, 1),
            (1, 1),
            (1000, 1),
            (1001, 2),
            (29_999, 30),
            (30_000, 30),
        ] {
            assert_eq!(
                whole_seconds(Duration::from_millis(millis)),
                seconds,
                "{millis} ms"
            );
        }
    }
}
