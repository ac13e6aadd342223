//! The state of a worker, and what happens at each of Envoy's callbacks.
//!
//! A good request costs four host calls: the names of its cluster and route, the two limits, and how it
//! ended. Up to ten times a second for each scope there is one more, for its caller's address, and once a second, or
//! always while this configuration follows a newer one, one for the number of its connection.
//! The tick, in `tick.rs`, hands counts to Envoy and, while there are failures, syncs with the other workers.

mod called;
mod meet;
mod scopes;
mod tick;

use crate::breakers::{Breakers, ServiceIndex};
use crate::caller;
use crate::config::{ClientDeadline, Config, ConfigError, Fallback};
use crate::deadline::{Deadlines, LimitedBy};
use crate::destination::Lookup;
use crate::health_check::HealthChecks;
use crate::host::{Host, LocalReply, MetricId};
use crate::metrics::{Counter, RequestLabel};
use crate::outcome::{self, Arrival, Circumstances, Ended, Expressions};
use crate::probes::{Probe, Probes};
use crate::services::Services;
use crate::shared;
use crate::workers::{self, Worker};
use levee_policy::backoff::Jitter;
use levee_policy::breaker::{Outcome, Permit, Phase, Report, Transition, Verdict};
use levee_policy::callers::Caller;
use levee_policy::divided::{self, Admitted, Permits, Replicas, Who, asks_about_all};
use levee_policy::random::SplitMix64;
use levee_policy::ratio::Ratio;
use levee_policy::replica::{Admission, Recorded, Replica, Visit, Visited};
use levee_policy::time::Instant;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// How often counts are handed to Envoy, open probes are checked, and rates are judged. It is also
/// the lag of the clock that decides when an open breaker's time has passed.
pub const TICK: Duration = Duration::from_millis(100);
/// A tick that comes this late shows that the worker stood still.
const STANDSTILL: Duration = Duration::from_secs(1);
/// How long after a standstill requests may end because of it.
const AFTER_STANDSTILL: Duration = Duration::from_secs(1);
/// The request header that selects a fallback route.
pub const FALLBACK_HEADER: &str = "x-levee-fallback";
/// The response code details of requests in which a client sent that header.
const STEERING_DETAILS: &str = "levee_fallback_header_refused";
/// gRPC's `INVALID_ARGUMENT`.
const GRPC_INVALID_ARGUMENT: u32 = 3;
/// Spreads `retry-after`, so that refused clients don't all come back at once.
const RETRY_AFTER_JITTER: Jitter = Jitter::longer(Ratio::percent(20));

/// What Envoy does with a request after the filter has seen its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The request goes on. What is in here must be passed to [`Plugin::on_end`] when it ends.
    Continue(Option<InFlight>),
    /// The filter has answered.
    Stop,
}

/// Whether a request has a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// It ends with its headers.
    None,
    /// It follows, in pieces. See [`Plugin::on_body`].
    Follows,
}

/// A piece of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// More will come.
    Some,
    /// Now all of the request has arrived.
    Last,
}

/// A request that the filter has let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    breakers: Breakers,
    role: Role,
    /// By the clock of the tick.
    since: Instant,
    arrival: Arrival<Instant>,
}

impl InFlight {
    /// How long it has waited since its last piece came.
    #[inline]
    fn waited(&self, now: Instant) -> Duration {
        now.since(self.arrival.last_piece().unwrap_or(self.since))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It goes to the service.
    Call {
        permits: Permits,
        limited_by: LimitedBy,
    },
    /// The breaker refused it, and it goes to a fallback route.
    Fallback,
}

/// Where a request goes.
#[derive(Debug)]
enum Destination {
    /// Nowhere that a breaker could protect: a redirect, a direct response, no route.
    NoCluster,
    Known(Target),
    /// Somewhere that this worker has not met, as the lookup answers.
    Unknown(Vec<u8>),
}

/// What protects a destination.
#[derive(Clone, Copy, Debug)]
enum Target {
    Service(Breakers),
    /// `max_services` was reached: only time limits.
    OverLimit,
}

/// The filter in one worker, for one configuration.
#[derive(Debug)]
pub struct Plugin<H> {
    host: H,
    general: Deadlines,
    client_deadline: Option<ClientDeadline>,
    has_fallback_routes: bool,
    config: Rc<Config>,
    /// Whose settings of breakers are in force: its own, or a newer one's.
    rules: Rc<Config>,
    /// `None` where Envoy was built without CEL.
    expressions: Option<Expressions>,
    /// The time of the last tick.
    now: Instant,
    /// When a tick came too late for the last time.
    stood_still: Option<Instant>,
    random: SplitMix64,
    /// `None` until the worker gets its first request.
    worker: Option<Worker>,
    services: Services,
    lookup: Lookup,
    /// By the answer of the lookup.
    by_destination: HashMap<Vec<u8>, Target>,
    probes: Probes,
    health_checks: HealthChecks,
    over_limit: Option<MetricId>,
    unseen: Option<MetricId>,
}

impl<H: Host> Plugin<H> {
    /// Starts with a configuration.
    ///
    /// # Errors
    /// Every mistake in the configuration.
    pub fn new(host: H, configuration: &[u8]) -> Result<Self, Vec<ConfigError>> {
        let config = Rc::new(Config::parse(configuration)?);
        shared::create_list(&host);
        workers::create_list(&host);
        let expressions = Expressions::compile(&host, config.all_failures());
        if expressions.is_none() {
            log::warn!(
                "this Envoy was built without CEL expressions: each request costs four more host calls"
            );
        }
        let lookup = Lookup::compile(&host, &config);
        host.tick_every(TICK);
        Ok(Self {
            general: Deadlines::new(&config.general.timeouts),
            client_deadline: config.client_deadline.clone(),
            has_fallback_routes: config.has_fallback_routes(),
            rules: Rc::clone(&config),
            config,
            expressions,
            now: host.now(),
            stood_still: None,
            random: SplitMix64::new(host.random()),
            worker: None,
            services: Services::default(),
            lookup,
            by_destination: HashMap::new(),
            probes: Probes::default(),
            health_checks: HealthChecks::default(),
            over_limit: None,
            unseen: None,
            host,
        })
    }

    /// The headers of a request have arrived.
    pub fn on_request(&mut self, context_id: u32, body: Body) -> Next {
        if self.has_fallback_routes && self.host.request_header(FALLBACK_HEADER).is_some() {
            return self.refuse_steering();
        }
        let target = match self.destination() {
            Destination::NoCluster => return Next::Continue(None),
            Destination::Known(target) => target,
            Destination::Unknown(answer) => self.meet(answer),
        };
        let Target::Service(breakers) = target else {
            self.general.set(&self.host, self.client_deadline.as_ref());
            return Next::Continue(None);
        };
        match self.admit(breakers) {
            Admitted::With(permits) => {
                Next::Continue(Some(self.let_go(context_id, breakers, permits, body)))
            }
            Admitted::ByShadow(permits) => {
                let service = self.services.touch(breakers.nearest());
                service.count(Counter::ShadowRejected);
                Next::Continue(Some(self.let_go(context_id, breakers, permits, body)))
            }
            Admitted::No { by, retry_after } => self.refuse(breakers, by, retry_after),
        }
    }

    /// Where the current request goes.
    #[inline]
    fn destination(&self) -> Destination {
        let find = |answer: &[u8]| match self.by_destination.get(answer) {
            Some(target) => Destination::Known(*target),
            None if answer.is_empty() => Destination::NoCluster,
            None => Destination::Unknown(answer.to_vec()),
        };
        self.lookup
            .ask(&self.host, find)
            .unwrap_or(Destination::NoCluster)
    }

    /// Asks the breakers before a request.
    #[inline]
    fn admit(&mut self, breakers: Breakers) -> Admitted<ServiceIndex> {
        let service = breakers.service;
        if let Some(scope) = breakers.scope {
            return divided::admit(self, service, scope);
        }
        match self.ask(service) {
            Verdict::Admit(permit) => Admitted::With(Permits::of_service(permit)),
            Verdict::WouldRefuse => Admitted::ByShadow(Permits::UNTRACKED),
            Verdict::Refuse { retry_after } => Admitted::No {
                by: service,
                retry_after,
            },
        }
    }

    /// If the shared breaker cannot be reached, the call goes out and decides nothing.
    #[cold]
    fn ask_shared(&mut self, index: ServiceIndex) -> Verdict {
        let service = &mut self.services[index];
        if let Some(verdict) = service.replica.admit_share(&service.settings, self.now) {
            return verdict;
        }
        let caller = self.caller(Who::Client);
        self.visit(index, Visit::Admit(caller))
            .and_then(|visited| visited.verdict)
            .unwrap_or(Verdict::Admit(Permit::UNTRACKED))
    }

    /// A client has sent the header that only the filter may set, so its value may have chosen the
    /// route. A gateway that removes the header before it chooses a route, as
    /// `envoy/gateway.yaml` does, never gets here.
    fn refuse_steering(&self) -> Next {
        self.host.reply(LocalReply {
            status: 400,
            details: STEERING_DETAILS,
            headers: &[("content-type", "application/json")],
            body: br#"{"error":"x-levee-fallback is not for clients"}"#,
            grpc_status: GRPC_INVALID_ARGUMENT,
        });
        Next::Stop
    }

    fn let_go(
        &mut self,
        context_id: u32,
        breakers: Breakers,
        permits: Permits,
        body: Body,
    ) -> InFlight {
        let arrival = match body {
            Body::None => Arrival::Whole(self.now),
            Body::Follows => Arrival::Begun,
        };
        if permits.is_probe() {
            self.probes.add(Probe {
                context_id,
                breakers,
                permits,
                since: self.now,
                has_arrived: body == Body::None,
                gave_place_back: false,
                answered: None,
            });
        }
        let deadlines = &self.services[breakers.service].deadlines;
        let limited_by = deadlines.set(&self.host, self.client_deadline.as_ref());
        InFlight {
            breakers,
            role: Role::Call {
                permits,
                limited_by,
            },
            since: self.now,
            arrival,
        }
    }

    /// A piece of a request's body has arrived.
    pub fn on_body(&mut self, context_id: u32, in_flight: &mut InFlight, piece: Piece) {
        match piece {
            Piece::Some => in_flight.arrival = Arrival::Partly(self.now),
            Piece::Last => {
                in_flight.arrival = Arrival::Whole(self.now);
                self.probes.arrived(context_id);
            }
        }
    }

    /// The breaker `by` has refused the current request.
    fn refuse(&mut self, breakers: Breakers, by: ServiceIndex, retry_after: Duration) -> Next {
        let nearest = self.services.touch(breakers.nearest());
        nearest.count(Counter::Requests(RequestLabel::Rejected));
        let service = &self.services[breakers.service];
        if let Fallback::Route(route) = &service.fallback {
            self.host.set_request_header(FALLBACK_HEADER, route);
            self.host.clear_route_cache();
            service
                .deadlines
                .set(&self.host, self.client_deadline.as_ref());
            return Next::Continue(Some(InFlight {
                breakers,
                role: Role::Fallback,
                since: self.now,
                arrival: Arrival::Begun,
            }));
        }
        let retry_after = RETRY_AFTER_JITTER.apply(retry_after, self.random.next_u64());
        self.services[by].refuse(&self.host, &service.fallback, retry_after);
        Next::Stop
    }

    /// A request that was let through has ended. Its properties can still be read.
    pub fn on_end(&mut self, context_id: u32, in_flight: InFlight) {
        let breakers = in_flight.breakers;
        let Role::Call {
            permits,
            limited_by,
        } = in_flight.role
        else {
            self.check_fallback(breakers.service);
            return;
        };
        if breakers.scope.is_some() {
            self.services.touch(breakers.service);
        }
        let index = breakers.nearest();
        let service = self.services.touch(index);
        if outcome::is_good(&self.host, service.answered_well, service.protocol) {
            let mut outcome = Outcome::SUCCESS;
            outcome::mark_slow(&self.host, &mut outcome, service.settings.slow_calls);
            service.usual.add(in_flight.waited(self.now));
            service.count_outcome_if_enabled(outcome);
            self.settle_call(context_id, breakers, permits, outcome);
            return;
        }
        let circumstances = self.circumstances(in_flight, limited_by);
        let (last_tick, stood_still) = (self.now, self.stood_still);
        let service = &mut self.services[index];
        let Ended {
            mut outcome,
            timeout,
        } = outcome::look_closer(
            &self.host,
            &mut service.protocol,
            &service.failures,
            self.client_deadline.as_ref(),
            circumstances,
            || stood_still_since(in_flight.since, self.host.now(), last_tick, stood_still),
        );
        outcome::mark_slow(&self.host, &mut outcome, service.settings.slow_calls);
        if matches!(outcome, Outcome::Success { .. }) {
            service.usual.add(in_flight.waited(last_tick));
        }
        if let Some(kind) = timeout {
            service.count(Counter::Timeouts(kind));
        }
        self.conclude(context_id, breakers, permits, outcome);
    }

    /// The outcome of a call belongs to the service and scope that were called, which need not be
    /// those that the filter was asked for.
    fn conclude(
        &mut self,
        context_id: u32,
        breakers: Breakers,
        permits: Permits,
        outcome: Outcome,
    ) {
        let Some(others) = self.called_instead(breakers, outcome) else {
            self.services[breakers.nearest()].count_outcome_if_enabled(outcome);
            self.settle_call(context_id, breakers, permits, outcome);
            return;
        };
        self.services[breakers.nearest()].count_outcome_if_enabled(Outcome::Neutral);
        self.settle_call(context_id, breakers, permits, Outcome::Neutral);
        let nearest = self.services.touch(others.nearest());
        nearest.count_outcome_if_enabled(outcome);
        let view = |index: ServiceIndex| match self.services[index].view(self.now) {
            Verdict::Admit(permit) => permit,
            Verdict::WouldRefuse | Verdict::Refuse { .. } => Permit::UNTRACKED,
        };
        let permits = Permits {
            service: view(others.service),
            scope: others.scope.map_or(Permit::UNTRACKED, view),
        };
        self.settle(others, permits, outcome);
    }

    /// What is known of a request that did not plainly end well.
    fn circumstances(&self, in_flight: InFlight, limited_by: LimitedBy) -> Circumstances {
        // Times are known by ticks. So a request that arrives at once may seem to take one.
        let took = |at: Instant| at.since(in_flight.since).saturating_sub(TICK);
        Circumstances {
            arrival: in_flight.arrival.map(took),
            limited_by_caller: limited_by == LimitedBy::Client,
            longer_than_usual: self.services[in_flight.breakers.nearest()]
                .usual
                .exceeded_by(),
        }
    }

    /// This plugin ends. Without this Envoy would keep calling its tick.
    pub fn finish(&mut self) {
        self.hand_over();
        self.host.tick_every(Duration::ZERO);
    }

    /// Tells the other workers what only this one knows, and hands all counts to Envoy.
    pub fn hand_over(&mut self) {
        for index in self.services.indices() {
            self.visit(index, Visit::Sync);
        }
        self.flush();
    }

    /// Hands all counts to Envoy.
    fn flush(&mut self) {
        for index in self.services.take_touched() {
            self.services[index].flush(&self.host);
        }
    }

    fn settle_call(
        &mut self,
        context_id: u32,
        breakers: Breakers,
        permits: Permits,
        outcome: Outcome,
    ) {
        if permits.is_probe() {
            self.settle_probe(context_id, outcome);
        } else {
            self.settle(breakers, permits, outcome);
        }
    }

    /// Records the result of a probe, unless it had one already.
    fn settle_probe(&mut self, context_id: u32, outcome: Outcome) {
        if let Some(probe) = self.probes.take(context_id) {
            self.settle(probe.breakers, probe.permits, outcome);
        }
    }

    /// Records the result of the current request.
    #[inline]
    fn settle(&mut self, breakers: Breakers, permits: Permits, outcome: Outcome) {
        match breakers.scope {
            None => {
                self.record(breakers.service, permits.service, outcome, Who::Client);
            }
            Some(scope) => divided::record(self, breakers.service, scope, permits, outcome),
        }
    }

    fn caller(&self, who: Who) -> Caller {
        match who {
            Who::Client => caller::of_current_request(&self.host),
            Who::Known(caller) => caller,
        }
    }

    /// Tells the shared breaker the result of the current request.
    fn report(
        &mut self,
        index: ServiceIndex,
        permit: Permit,
        outcome: Outcome,
        who: Who,
    ) -> Option<Visited> {
        let caller = self.caller(who);
        let again_after_secs = match outcome {
            Outcome::Failure { .. } if self.services[index].failures.retry_after => {
                outcome::asked_to_wait_secs(&self.host)
            }
            _ => 0,
        };
        let report = Report {
            permit,
            outcome,
            caller,
            again_after_secs,
            usual_millis: milliseconds(self.services[index].usual.exceeded_by()),
        };
        self.visit(index, Visit::Record(report))
    }

    /// Tells the replica of a scope what is expected of its service.
    fn hear_of_service(&mut self, scope: ServiceIndex, now: Instant) {
        if let Some(part) = &self.services[scope].scope {
            let service = &self.services[part.of];
            let (id, settings) = (service.breaker_id, &service.settings);
            let breaker = shared::read(&self.host, id, settings, now);
            self.services[scope].replica.hear_of_service(&breaker, now);
        }
    }

    /// Visits the shared breaker of a service. Returns `None` if it could not be written, which is
    /// not expected to happen.
    fn visit(&mut self, index: ServiceIndex, visit: Visit) -> Option<Visited> {
        let now = self.host.now();
        let random = self.random.next_u64();
        self.hear_of_service(index, now);
        let service = self.services.touch(index);
        let changed = shared::change(
            &self.host,
            service.breaker_id,
            &service.settings,
            now,
            |breaker| {
                let expired = breaker.expired_leases();
                let settings = &service.settings;
                let visited = service.replica.visit(settings, breaker, visit, now, random);
                (expired, visited)
            },
        );
        let Some((breaker, (expired_before, visited))) = changed else {
            let title = service.title();
            log::error!("{title}: the shared breaker could not be written");
            return None;
        };
        service.visited = now;
        service.replica.adopt(&breaker, now);
        service.show_phase(&self.host);
        let is_open = service.replica.phase() == Phase::Open;
        let expired = breaker.expired_leases().wrapping_sub(expired_before);
        service.count_many(Counter::LeasesExpired, expired);
        if let Some(transition) = visited.transition {
            service.count(Counter::Transitions(transition.to));
            announce(&service.title(), transition);
        }
        if visited.tell_others
            && let Some(worker) = &self.worker
        {
            worker.tell_others(&self.host, service.breaker_id, now);
        }
        let asks_about = match &service.scope {
            Some(part) => {
                let of_service = service.replica.of_service();
                asks_about_all(visit, &breaker, &service.settings, of_service, now)
                    .then_some(part.of)
            }
            None => None,
        };
        if is_open {
            self.health_checks
                .see(&self.services, index, &self.rules, now);
        }
        if let Some(service) = asks_about {
            self.judge_scopes(service, now);
        }
        Some(visited)
    }

    pub const fn host(&self) -> &H {
        &self.host
    }

    /// The time of the last tick.
    pub const fn now(&self) -> Instant {
        self.now
    }

    pub const fn config(&self) -> &Rc<Config> {
        &self.config
    }
}

impl<H: Host> Replicas for Plugin<H> {
    type Index = ServiceIndex;

    #[inline]
    fn replica(&self, index: ServiceIndex) -> &Replica {
        &self.services[index].replica
    }

    #[inline]
    fn view(&self, index: ServiceIndex) -> Admission {
        let service = &self.services[index];
        service.replica.admit(&service.settings, self.now)
    }

    #[inline]
    fn ask(&mut self, index: ServiceIndex) -> Verdict {
        match self.view(index) {
            Admission::Decided(verdict) => verdict,
            Admission::VisitNeeded => self.ask_shared(index),
        }
    }

    #[inline]
    fn record(&mut self, index: ServiceIndex, permit: Permit, outcome: Outcome, who: Who) -> u32 {
        let replica = &mut self.services[index].replica;
        match replica.record(permit, outcome, self.now) {
            Recorded::Here => 0,
            Recorded::WhoCalled => {
                let caller = self.caller(who);
                self.services[index].replica.answered(caller, self.now);
                0
            }
            Recorded::VisitNeeded => {
                let visited = self.report(index, permit, outcome, who);
                visited.map_or(0, |visited| visited.ended_failures)
            }
        }
    }

    #[inline]
    fn as_caller(&self, scope: ServiceIndex) -> Caller {
        let part = self.services[scope].scope.as_ref();
        part.map_or(Caller::UNKNOWN, |part| part.as_caller)
    }
}

/// Whether a worker stood still while a request was in flight that began `since` and has just ended:
/// its tick is late, or was late lately.
fn stood_still_since(
    since: Instant,
    now: Instant,
    last_tick: Instant,
    late_tick: Option<Instant>,
) -> bool {
    now.since(last_tick) >= STANDSTILL
        || late_tick.is_some_and(|at| since < at && now.since(at) < AFTER_STANDSTILL)
}

/// As many as fit.
fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn announce(service: &str, transition: Transition) {
    let Transition { from, to, cause } = transition;
    match to {
        Phase::Open => log::warn!("{service}: {from:?} to {to:?}, {cause:?}"),
        Phase::Closed | Phase::HalfOpen => log::info!("{service}: {from:?} to {to:?}, {cause:?}"),
    }
}
