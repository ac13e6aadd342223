//! What a worker has, and what happens at each of Envoy's callbacks.
//!
//! A good request costs four host calls: the name of its cluster, the two limits, and how it ended.
//! Counts are handed to Envoy, and other workers' news of failures are looked at, from the tick.

use crate::config::{ClientDeadline, Config, ConfigError, Fallback};
use crate::deadline::Deadlines;
use crate::host::{Host, LocalReply, MetricId, property};
use crate::metrics::{Counter, RequestLabel, SERVICES_OVER_LIMIT};
use crate::outcome::{self, AnsweredWell, Ended, TimeoutKind};
use crate::service::Service;
use crate::shared::{self, BreakerId};
use crate::workers::{self, Worker};
use levee_policy::backoff::Jitter;
use levee_policy::breaker::{Mode, Outcome, Permit, Phase, Transition, Verdict};
use levee_policy::random::SplitMix64;
use levee_policy::ratio::Ratio;
use levee_policy::replica::{Admission, Recorded, Visit};
use levee_policy::time::Instant;
use std::collections::HashMap;
use std::time::Duration;

/// How often counts are shown, probes that go on are looked at, and rates are judged. Also how far
/// the time lags by which an open breaker's end is told.
pub const TICK: Duration = Duration::from_millis(100);
/// The request header that leads to a fallback route.
pub const FALLBACK_HEADER: &str = "x-levee-fallback";
/// The response code details of requests that tried to use it.
const STEERING_DETAILS: &str = "levee_fallback_header_refused";
/// gRPC's `INVALID_ARGUMENT`.
const GRPC_INVALID_ARGUMENT: u32 = 3;
/// How far `retry-after` is spread, so that refused clients don't all come back at once.
const RETRY_AFTER_JITTER: Jitter = Jitter::longer(Ratio::percent(20));
/// Names of clusters are remembered for up to this many times as many as there may be services.
const CLUSTERS_PER_SERVICE: usize = 4;

/// What Envoy does with a request after the filter has seen its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on. With the request's end, [`Plugin::on_end`] gets this back if it is there.
    Continue(Option<InFlight>),
    /// The filter has answered.
    Stop,
}

/// A request that went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    service: usize,
    role: Role,
}

/// Why it went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// To the service.
    Call {
        permit: Permit,
        /// The client's own deadline is shorter than the service's limit.
        is_shortened: bool,
    },
    /// To a fallback route, in place of a refusal.
    Fallback,
}

/// Where requests to a cluster belong.
#[derive(Clone, Copy, Debug)]
enum Target {
    Service(usize),
    /// There were breakers for `max_services` already.
    OverLimit,
}

/// A probe of this worker without a result so far.
#[derive(Clone, Copy, Debug)]
struct Probe {
    context_id: u32,
    service: usize,
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
    /// The time at the last tick.
    now: Instant,
    random: SplitMix64,
    worker: Option<Worker>,
    services: Vec<Service>,
    by_cluster: HashMap<Vec<u8>, Target>,
    by_breaker: HashMap<BreakerId, usize>,
    /// Services to look after at the next tick.
    touched: Vec<usize>,
    probes: Vec<Probe>,
    over_limit: Option<MetricId>,
}

impl<H: Host> Plugin<H> {
    /// Starts with a configuration.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn new(host: H, configuration: &[u8]) -> Result<Self, Vec<ConfigError>> {
        let config = Config::parse(configuration)?;
        shared::create_list(&host);
        workers::create_list(&host);
        let answered_well = AnsweredWell::compile(&host);
        if answered_well.is_none() {
            log::warn!("this Envoy has no CEL expressions: each request costs four more calls");
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
            services: Vec::new(),
            by_cluster: HashMap::new(),
            by_breaker: HashMap::new(),
            touched: Vec::new(),
            probes: Vec::new(),
            over_limit: None,
            host,
        })
    }

    /// The headers of a request have come.
    pub fn on_request(&mut self, context_id: u32) -> Next {
        if self.has_fallback_routes && self.host.request_header(FALLBACK_HEADER).is_some() {
            return self.refuse_steering();
        }
        // Without a cluster there is no service: a redirect, a direct response, no route.
        let target = match self.target_of_current_request() {
            Ok(target) => target,
            Err(cluster) if cluster.is_empty() => return Next::Continue(None),
            Err(cluster) => self.meet(cluster),
        };
        let Target::Service(index) = target else {
            self.general.set(&self.host, self.client_deadline.as_ref());
            return Next::Continue(None);
        };
        let service = &self.services[index];
        let verdict = match service.replica.admit(&service.settings, self.now) {
            Admission::Decided(verdict) => verdict,
            Admission::VisitNeeded => self
                .visit(index, Visit::Admit)
                .unwrap_or(Verdict::Admit(Permit::UNTRACKED)),
        };
        match verdict {
            Verdict::Admit(permit) => Next::Continue(Some(self.let_go(context_id, index, permit))),
            Verdict::WouldRefuse => {
                self.count(index, Counter::ShadowRejected);
                Next::Continue(Some(self.let_go(context_id, index, Permit::UNTRACKED)))
            }
            Verdict::Refuse { retry_after } => self.refuse(index, retry_after),
        }
    }

    /// Where the current request belongs, or the name of its cluster if that is not known: empty where it has none.
    #[inline]
    fn target_of_current_request(&self) -> Result<Target, Vec<u8>> {
        let find = |cluster: &[u8]| match self.by_cluster.get(cluster) {
            Some(target) => Ok(*target),
            None => Err(cluster.to_vec()),
        };
        self.host
            .with_property(property::CLUSTER, find)
            .unwrap_or(Err(Vec::new()))
    }

    /// A client has sent the header that is the filter's alone, and the route may have been chosen
    /// by it. A gateway that removes the header before it chooses a route, as `envoy/gateway.yaml`
    /// does, never comes here.
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

    fn let_go(&mut self, context_id: u32, index: usize, permit: Permit) -> InFlight {
        if permit.is_probe() {
            self.probes.push(Probe {
                context_id,
                service: index,
                permit,
            });
        }
        let deadlines = &self.services[index].deadlines;
        let is_shortened = deadlines.set(&self.host, self.client_deadline.as_ref());
        InFlight {
            service: index,
            role: Role::Call {
                permit,
                is_shortened,
            },
        }
    }

    fn refuse(&mut self, index: usize, retry_after: Duration) -> Next {
        self.count(index, Counter::Requests(RequestLabel::Rejected));
        let service = &self.services[index];
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

    /// A request that went out has ended; its properties can be read.
    pub fn on_end(&mut self, context_id: u32, in_flight: InFlight) {
        let InFlight {
            service: index,
            role,
        } = in_flight;
        let Role::Call {
            permit,
            is_shortened,
        } = role
        else {
            self.check_fallback(index);
            return;
        };
        let service = &mut self.services[index];
        let Ended {
            mut outcome,
            timeout,
        } = outcome::of_current_request(
            &self.host,
            self.answered_well,
            &mut service.protocol,
            service.settings.slow_calls,
        );
        if is_shortened
            && matches!(
                timeout,
                Some(TimeoutKind::Request | TimeoutKind::ResponseHeader)
            )
        {
            // As if the client had gone away: by its own limit the service had more time.
            outcome = Outcome::Neutral;
        }
        if service.settings.mode != Mode::Disabled {
            service.count(Counter::Requests(match outcome {
                Outcome::Success { .. } => RequestLabel::Success,
                Outcome::Failure { .. } => RequestLabel::Failure,
                Outcome::Neutral => RequestLabel::Neutral,
            }));
            if matches!(outcome, Outcome::Failure { .. }) {
                service.count(Counter::Failures);
            }
        }
        if let Some(kind) = timeout {
            service.count(Counter::Timeouts(kind));
        }
        self.touch(index);
        if permit.is_probe() {
            self.settle_probe(context_id, outcome);
        } else {
            self.settle(index, permit, outcome);
        }
    }

    /// A fallback route that is missing, or leads back to the service, would switch its breaker
    /// off: from the first request that shows it, the service's requests are refused instead.
    fn check_fallback(&mut self, index: usize) {
        let target = self.target_of_current_request();
        let service = &mut self.services[index];
        if matches!(target, Ok(Target::Service(to)) if to == index)
            && let Fallback::Route(route) = &service.fallback
        {
            log::error!(
                "{}: no route for x-levee-fallback: {route} leads elsewhere; refusing instead",
                service.name
            );
            service.fallback = Fallback::Refusal;
        }
    }

    /// A request is gone without having been logged: nothing is known of it.
    pub fn on_abandoned(&mut self, context_id: u32, in_flight: InFlight) {
        if matches!(in_flight.role, Role::Call { permit, .. } if permit.is_probe()) {
            self.settle_probe(context_id, Outcome::Neutral);
        }
    }

    /// Another worker has news.
    pub fn on_news(&mut self) {
        while let Some(breaker_id) = self
            .worker
            .as_ref()
            .and_then(|worker| worker.next_news(&self.host))
        {
            // Not there: news of a service that this worker has not met.
            if let Some(&index) = self.by_breaker.get(&breaker_id) {
                self.visit(index, Visit::Sync);
            }
        }
    }

    /// Time has passed.
    pub fn on_tick(&mut self) {
        self.now = self.host.now();
        let missed_news = self
            .worker
            .as_mut()
            .is_some_and(|worker| worker.renew(&self.host, self.now));
        if missed_news {
            for index in 0..self.services.len() {
                self.visit(index, Visit::Sync);
            }
        }
        self.look_at_probes();
        for index in std::mem::take(&mut self.touched) {
            self.services[index].is_touched = false;
            if self.services[index].replica.wants_sync() {
                self.visit(index, Visit::Sync);
            }
            self.services[index].flush(&self.host);
        }
    }

    /// There will be no such plugin any more: Envoy would go on with its ticks.
    pub fn finish(&mut self) {
        self.flush();
        self.host.tick_every(Duration::ZERO);
    }

    /// Hands everything that was counted to Envoy.
    pub fn flush(&mut self) {
        for index in std::mem::take(&mut self.touched) {
            self.services[index].is_touched = false;
            self.services[index].flush(&self.host);
        }
    }

    /// A probe whose connection was upgraded has succeeded, though it may stay open for hours. All
    /// others come to an end by their time limit.
    fn look_at_probes(&mut self) {
        for probe in self.probes.clone() {
            if self.host.enter_request(probe.context_id) && outcome::is_upgraded(&self.host) {
                self.settle_probe(probe.context_id, Outcome::SUCCESS);
            }
        }
    }

    /// The result of a probe, unless it had one already.
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

    fn settle(&mut self, index: usize, permit: Permit, outcome: Outcome) {
        let recorded = self.services[index]
            .replica
            .record(permit, outcome, self.now);
        if recorded == Recorded::VisitNeeded {
            self.visit(index, Visit::Record(permit, outcome));
        }
    }

    /// Goes to the shared breaker of a service. `None`: there was nothing to answer, or, against
    /// all expectation, no getting through.
    fn visit(&mut self, index: usize, visit: Visit) -> Option<Verdict> {
        let now = self.host.now();
        let random = self.random.next_u64();
        let service = &mut self.services[index];
        let visited = shared::change(
            &self.host,
            service.breaker_id,
            &service.settings,
            now,
            |breaker| {
                let expired = breaker.expired_leases();
                (
                    expired,
                    service
                        .replica
                        .visit(&service.settings, breaker, visit, now, random),
                )
            },
        );
        let Some((breaker, (expired_before, visited))) = visited else {
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
        self.touch(index);
        visited.verdict
    }

    /// The first request to a cluster.
    fn meet(&mut self, cluster: Vec<u8>) -> Target {
        let now = self.host.now();
        if self.worker.is_none() {
            self.worker = Worker::join(&self.host, now);
        }
        let name = String::from_utf8_lossy(&cluster);
        let name = self.config.service_of(&name);
        let target = match self
            .services
            .iter()
            .position(|service| service.name == name)
        {
            Some(index) => Target::Service(index),
            None => Self::add_service(
                &self.host,
                &self.config,
                name,
                &mut self.services,
                &mut self.by_breaker,
                now,
            ),
        };
        if self.by_cluster.len() >= self.config.max_services * CLUSTERS_PER_SERVICE {
            return target;
        }
        if matches!(target, Target::OverLimit) {
            log::warn!(
                "no breaker for {name}: there are {} already",
                self.config.max_services
            );
            let counter = self
                .over_limit
                .or_else(|| self.host.define_counter(SERVICES_OVER_LIMIT));
            self.over_limit = counter;
            if let Some(counter) = counter {
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
        services: &mut Vec<Service>,
        by_breaker: &mut HashMap<BreakerId, usize>,
        now: Instant,
    ) -> Target {
        let own = config.of_service(name);
        let Some(id) = shared::find_or_create(host, name, &own.breaker, config.max_services, now)
        else {
            return Target::OverLimit;
        };
        let breaker = shared::read(host, id, &own.breaker, now);
        let index = services.len();
        services.push(Service::new(host, name, own, id, &breaker, now));
        by_breaker.insert(id, index);
        Target::Service(index)
    }

    #[inline]
    fn count(&mut self, index: usize, counter: Counter) {
        self.services[index].count(counter);
        self.touch(index);
    }

    #[inline]
    fn touch(&mut self, index: usize) {
        let service = &mut self.services[index];
        if !service.is_touched {
            service.is_touched = true;
            self.touched.push(index);
        }
    }
}

fn announce(service: &str, transition: Transition) {
    let Transition { from, to, cause } = transition;
    match to {
        Phase::Open => log::warn!("{service}: {from:?} to {to:?}, {cause:?}"),
        Phase::Closed | Phase::HalfOpen => log::info!("{service}: {from:?} to {to:?}, {cause:?}"),
    }
}
