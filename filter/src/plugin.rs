//! The state of a worker, and what happens at each of Envoy's callbacks.
//!
//! A good request costs four host calls: the name of its cluster, the two limits, and how it ended.
//! The tick hands counts to Envoy and, while there are failures, syncs with the other workers.

use crate::config::{ClientDeadline, Config, ConfigError, Fallback};
use crate::deadline::{Deadlines, LimitedBy};
use crate::host::{Host, LocalReply, MetricId, property};
use crate::metrics::{Counter, RequestLabel, SERVICES_OVER_LIMIT};
use crate::outcome::{self, AnsweredWell, Ended, TimeoutKind};
use crate::service::Service;
use crate::services::{ServiceIndex, Services};
use crate::shared;
use crate::workers::{self, Renewal, Worker};
use levee_policy::backoff::Jitter;
use levee_policy::breaker::{Mode, Outcome, Permit, Phase, Transition, Verdict};
use levee_policy::random::SplitMix64;
use levee_policy::ratio::Ratio;
use levee_policy::replica::{Admission, Recorded, Visit, Visited};
use levee_policy::time::Instant;
use std::collections::HashMap;
use std::time::Duration;

/// How often counts are handed to Envoy, open probes are checked, and rates are judged. It is also
/// the lag of the clock that decides when an open breaker's time has passed.
pub const TICK: Duration = Duration::from_millis(100);
/// The request header that selects a fallback route.
pub const FALLBACK_HEADER: &str = "x-levee-fallback";
/// The response code details of requests in which a client sent that header.
const STEERING_DETAILS: &str = "levee_fallback_header_refused";
/// gRPC's `INVALID_ARGUMENT`.
const GRPC_INVALID_ARGUMENT: u32 = 3;
/// Spreads `retry-after`, so that refused clients don't all come back at once.
const RETRY_AFTER_JITTER: Jitter = Jitter::longer(Ratio::percent(20));
/// Capacity of the cache of cluster names, per allowed service.
const CLUSTERS_PER_SERVICE: usize = 4;

/// What Envoy does with a request after the filter has seen its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The request goes on. What is in here must be passed to [`Plugin::on_end`] when it ends.
    Continue(Option<InFlight>),
    /// The filter has answered.
    Stop,
}

/// A request that the filter has let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    service: ServiceIndex,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It goes to the service.
    Call {
        permit: Permit,
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
    /// The name of a cluster that this worker has not met.
    Unknown(Vec<u8>),
}

/// What protects a cluster.
#[derive(Clone, Copy, Debug)]
enum Target {
    Service(ServiceIndex),
    /// `max_services` was reached: only time limits.
    OverLimit,
}

/// A probe of this worker that has no result yet.
#[derive(Clone, Copy, Debug)]
struct Probe {
    context_id: u32,
    service: ServiceIndex,
    permit: Permit,
}

/// The filter in one worker, for one configuration.
#[derive(Debug)]
pub struct Plugin<H> {
    host: H,
    general: Deadlines,
    client_deadline: Option<ClientDeadline>,
    has_fallback_routes: bool,
    config: Config,
    answered_well: Option<AnsweredWell>,
    /// The time of the last tick.
    now: Instant,
    random: SplitMix64,
    /// `None` until the worker gets its first request.
    worker: Option<Worker>,
    services: Services,
    by_cluster: HashMap<Vec<u8>, Target>,
    probes: Vec<Probe>,
    over_limit: Option<MetricId>,
}

impl<H: Host> Plugin<H> {
    /// Starts with a configuration.
    ///
    /// # Errors
    /// Every mistake in the configuration.
    pub fn new(host: H, configuration: &[u8]) -> Result<Self, Vec<ConfigError>> {
        let config = Config::parse(configuration)?;
        shared::create_list(&host);
        workers::create_list(&host);
        let answered_well = AnsweredWell::compile(&host);
        if answered_well.is_none() {
            log::warn!(
                "this Envoy was built without CEL expressions: each request costs four more host calls"
            );
        }
        host.tick_every(TICK);
        Ok(Self {
            general: Deadlines::new(&config.general.timeouts),
            client_deadline: config.client_deadline.clone(),
            has_fallback_routes: config.has_fallback_routes(),
            config,
            answered_well,
            now: host.now(),
            random: SplitMix64::new(host.random()),
            worker: None,
            services: Services::default(),
            by_cluster: HashMap::new(),
            probes: Vec::new(),
            over_limit: None,
            host,
        })
    }

    /// The headers of a request have arrived.
    pub fn on_request(&mut self, context_id: u32) -> Next {
        if self.has_fallback_routes && self.host.request_header(FALLBACK_HEADER).is_some() {
            return self.refuse_steering();
        }
        let target = match self.destination() {
            Destination::NoCluster => return Next::Continue(None),
            Destination::Known(target) => target,
            Destination::Unknown(cluster) => self.meet(cluster),
        };
        let Target::Service(index) = target else {
            self.general.set(&self.host, self.client_deadline.as_ref());
            return Next::Continue(None);
        };
        match self.admit(index) {
            Verdict::Admit(permit) => Next::Continue(Some(self.let_go(context_id, index, permit))),
            Verdict::WouldRefuse => {
                self.services.touch(index).count(Counter::ShadowRejected);
                Next::Continue(Some(self.let_go(context_id, index, Permit::UNTRACKED)))
            }
            Verdict::Refuse { retry_after } => self.refuse(index, retry_after),
        }
    }

    /// Where the current request goes.
    #[inline]
    fn destination(&self) -> Destination {
        let find = |cluster: &[u8]| match self.by_cluster.get(cluster) {
            Some(target) => Destination::Known(*target),
            None if cluster.is_empty() => Destination::NoCluster,
            None => Destination::Unknown(cluster.to_vec()),
        };
        self.host
            .with_property(property::CLUSTER, find)
            .unwrap_or(Destination::NoCluster)
    }

    /// If the shared breaker cannot be reached, the call goes out and decides nothing.
    #[inline]
    fn admit(&mut self, index: ServiceIndex) -> Verdict {
        let service = &self.services[index];
        match service.replica.admit(&service.settings, self.now) {
            Admission::Decided(verdict) => verdict,
            Admission::VisitNeeded => self
                .visit(index, Visit::Admit)
                .and_then(|visited| visited.verdict)
                .unwrap_or(Verdict::Admit(Permit::UNTRACKED)),
        }
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

    fn let_go(&mut self, context_id: u32, index: ServiceIndex, permit: Permit) -> InFlight {
        if permit.is_probe() {
            self.probes.push(Probe {
                context_id,
                service: index,
                permit,
            });
        }
        let deadlines = &self.services[index].deadlines;
        let limited_by = deadlines.set(&self.host, self.client_deadline.as_ref());
        InFlight {
            service: index,
            role: Role::Call { permit, limited_by },
        }
    }

    fn refuse(&mut self, index: ServiceIndex, retry_after: Duration) -> Next {
        let service = self.services.touch(index);
        service.count(Counter::Requests(RequestLabel::Rejected));
        if let Fallback::Route(route) = &service.fallback {
            self.host.set_request_header(FALLBACK_HEADER, route);
            self.host.clear_route_cache();
            service
                .deadlines
                .set(&self.host, self.client_deadline.as_ref());
            return Next::Continue(Some(InFlight {
                service: index,
                role: Role::Fallback,
            }));
        }
        let retry_after = RETRY_AFTER_JITTER.apply(retry_after, self.random.next_u64());
        service.refuse(&self.host, retry_after);
        Next::Stop
    }

    /// A request that was let through has ended. Its properties can still be read.
    pub fn on_end(&mut self, context_id: u32, in_flight: InFlight) {
        let index = in_flight.service;
        let Role::Call { permit, limited_by } = in_flight.role else {
            self.check_fallback(index);
            return;
        };
        let service = self.services.touch(index);
        let Ended {
            mut outcome,
            timeout,
        } = outcome::of_current_request(
            &self.host,
            self.answered_well,
            &mut service.protocol,
            service.settings.slow_calls,
        );
        if limited_by == LimitedBy::Client
            && matches!(
                timeout,
                Some(TimeoutKind::Request | TimeoutKind::ResponseHeader)
            )
        {
            // As if the client had left: by its own limit the service had more time.
            outcome = Outcome::Neutral;
        }
        if service.settings.mode != Mode::Disabled {
            service.count_outcome(outcome);
        }
        if let Some(kind) = timeout {
            service.count(Counter::Timeouts(kind));
        }
        if permit.is_probe() {
            self.settle_probe(context_id, outcome);
        } else {
            self.settle(index, permit, outcome);
        }
    }

    /// A fallback route that is missing, or that leads back to the service, would disable its
    /// breaker. After the first request that shows this, requests are refused instead.
    fn check_fallback(&mut self, index: ServiceIndex) {
        let destination = self.destination();
        let service = &mut self.services[index];
        if matches!(destination, Destination::Known(Target::Service(to)) if to == index)
            && let Fallback::Route(route) = &service.fallback
        {
            log::error!(
                "{}: no route for x-levee-fallback: {route} leads to another cluster; \
                 refusing requests instead",
                service.name
            );
            service.fallback = Fallback::Refusal;
        }
    }

    /// A request's context was deleted before the request was logged: its result is unknown.
    pub fn on_abandoned(&mut self, context_id: u32, in_flight: InFlight) {
        if matches!(in_flight.role, Role::Call { permit, .. } if permit.is_probe()) {
            self.settle_probe(context_id, Outcome::Neutral);
        }
    }

    /// Other workers have changed breakers.
    pub fn on_news(&mut self) {
        while let Some(breaker_id) = self
            .worker
            .as_ref()
            .and_then(|worker| worker.next_news(&self.host))
        {
            // Ignore news of a service that this worker has not met.
            if let Some(index) = self.services.with_breaker(breaker_id) {
                self.visit(index, Visit::Sync);
            }
        }
    }

    /// The timer has fired.
    pub fn on_tick(&mut self) {
        self.now = self.host.now();
        let renewal = self
            .worker
            .as_mut()
            .map(|worker| worker.renew(&self.host, self.now));
        if renewal == Some(Renewal::MissedNews) {
            for index in self.services.indices() {
                self.visit(index, Visit::Sync);
            }
        }
        self.check_probes();
        for index in self.services.take_touched() {
            if self.services[index].replica.wants_sync() {
                self.visit(index, Visit::Sync);
            }
            self.services[index].flush(&self.host);
        }
    }

    /// This plugin ends. Without this Envoy would keep calling its tick.
    pub fn finish(&mut self) {
        self.flush();
        self.host.tick_every(Duration::ZERO);
    }

    /// Hands all counts to Envoy.
    pub fn flush(&mut self) {
        for index in self.services.take_touched() {
            self.services[index].flush(&self.host);
        }
    }

    /// A probe whose connection was upgraded has succeeded, though it may stay open for hours. All
    /// other probes end by their time limit.
    fn check_probes(&mut self) {
        for probe in self.probes.clone() {
            if self.host.enter_request(probe.context_id) && outcome::is_upgraded(&self.host) {
                self.settle_probe(probe.context_id, Outcome::SUCCESS);
            }
        }
    }

    /// Records the result of a probe, unless it had one already.
    fn settle_probe(&mut self, context_id: u32, outcome: Outcome) {
        let place = self
            .probes
            .iter()
            .position(|probe| probe.context_id == context_id);
        if let Some(place) = place {
            let probe = self.probes.swap_remove(place);
            self.settle(probe.service, probe.permit, outcome);
        }
    }

    fn settle(&mut self, index: ServiceIndex, permit: Permit, outcome: Outcome) {
        let replica = &mut self.services[index].replica;
        if replica.record(permit, outcome, self.now) == Recorded::VisitNeeded {
            self.visit(index, Visit::Record(permit, outcome));
        }
    }

    /// Visits the shared breaker of a service. Returns `None` if it could not be written, which is
    /// not expected to happen.
    fn visit(&mut self, index: ServiceIndex, visit: Visit) -> Option<Visited> {
        let now = self.host.now();
        let random = self.random.next_u64();
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
            log::error!("{}: the shared breaker could not be written", service.name);
            return None;
        };
        service.replica.adopt(&breaker, now);
        service.show_phase(&self.host);
        let expired = breaker.expired_leases().wrapping_sub(expired_before);
        service.count_many(Counter::LeasesExpired, expired);
        if let Some(transition) = visited.transition {
            service.count(Counter::Transitions(transition.to));
            announce(&service.name, transition);
        }
        if visited.tell_others
            && let Some(worker) = &self.worker
        {
            worker.tell_others(&self.host, service.breaker_id, now);
        }
        Some(visited)
    }

    /// The first request to a cluster.
    fn meet(&mut self, cluster: Vec<u8>) -> Target {
        let now = self.host.now();
        if self.worker.is_none() {
            self.worker = Worker::join(&self.host, now);
        }
        let name = String::from_utf8_lossy(&cluster);
        let name = self.config.service_of(&name);
        let target = match self.services.named(name) {
            Some(index) => Target::Service(index),
            None => Self::add_service(&self.host, &self.config, name, &mut self.services, now),
        };
        if self.by_cluster.len() >= self.config.max_services * CLUSTERS_PER_SERVICE {
            return target;
        }
        if matches!(target, Target::OverLimit) {
            log::warn!(
                "no breaker for {name}: the limit of {} services (max_services) is reached",
                self.config.max_services
            );
            self.over_limit = self
                .over_limit
                .or_else(|| self.host.define_counter(SERVICES_OVER_LIMIT));
            if let Some(counter) = self.over_limit {
                self.host.add(counter, 1);
            }
        }
        self.by_cluster.insert(cluster, target);
        target
    }

    fn add_service(
        host: &H,
        config: &Config,
        name: &str,
        services: &mut Services,
        now: Instant,
    ) -> Target {
        let own = config.of_service(name);
        let Some(id) = shared::find_or_create(host, name, &own.breaker, config.max_services, now)
        else {
            return Target::OverLimit;
        };
        let breaker = shared::read(host, id, &own.breaker, now);
        Target::Service(services.add(Service::new(host, name, own, id, &breaker, now)))
    }
}

fn announce(service: &str, transition: Transition) {
    let Transition { from, to, cause } = transition;
    match to {
        Phase::Open => log::warn!("{service}: {from:?} to {to:?}, {cause:?}"),
        Phase::Closed | Phase::HalfOpen => log::info!("{service}: {from:?} to {to:?}, {cause:?}"),
    }
}
