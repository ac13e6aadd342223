//! Cases of the table: each has a service of its own behind one gateway, and ends some requests in its way.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::Request;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::grpc::{self, GrpcBackend, GrpcBehaviour};
use levee_harness::metrics::Metrics;
use levee_harness::wait;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::page::{self, Outcome};

/// How often a case ends a request by default: a row of strong failures that is as long opens a breaker.
const TIMES: u32 = 5;

const LABELS: [&str; 4] = ["success", "failure", "neutral", "rejected"];

/// What is behind the gateway.
#[derive(Clone, Debug)]
pub enum Service {
    Http(Behaviour),
    Grpc(GrpcBehaviour),
    /// It refuses connections.
    Refusing,
    /// It accepts connections and does not shake hands over TLS.
    SilentTls,
    /// Its cluster has no host.
    Hostless,
}

pub type Ends = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One way to bring about the ending that a row describes.
pub struct Case {
    /// The row's first cell.
    pub row: &'static str,
    what: &'static str,
    service: Service,
    settings: Value,
    route: Value,
    cluster: Value,
    first_route: Option<Value>,
    times: u32,
    provoke: Box<dyn Fn(Target) -> Ends>,
}

/// Where the requests of a case go.
#[derive(Clone)]
pub struct Target {
    pub gateway: SocketAddr,
    pub path: String,
    /// The number of the request, from 0.
    pub number: u32,
    pub backend: Option<Arc<Backend>>,
}

impl Target {
    pub fn get(&self) -> Request {
        Request::get(&self.path)
    }

    pub fn call(&self) -> Request {
        grpc::call(&self.path)
    }

    /// Waits until the service has a request.
    pub async fn service_is_asked(&self) {
        let backend = self.backend.as_ref().unwrap();
        backend
            .wait_until("a request", |seen| seen.in_flight > 0)
            .await
            .unwrap();
    }
}

impl Case {
    /// `provoke` is called for each request, all at the same time.
    pub fn new<F, E>(row: &'static str, what: &'static str, service: Service, provoke: F) -> Self
    where
        F: Fn(Target) -> E + 'static,
        E: Future<Output = ()> + Send + 'static,
    {
        Self {
            row,
            what,
            service,
            settings: json!({}),
            route: json!({}),
            cluster: json!({}),
            first_route: None,
            times: TIMES,
            provoke: Box::new(move |target| Box::pin(provoke(target))),
        }
    }

    /// A GET, whose answer is awaited.
    pub fn get(row: &'static str, what: &'static str, behaviour: Behaviour) -> Self {
        Self::asked(row, what, Service::Http(behaviour))
    }

    /// A GET to any service, whose answer is awaited.
    pub fn asked(row: &'static str, what: &'static str, service: Service) -> Self {
        Self::new(row, what, service, |target| async move {
            // Some answers are broken, and that is the case.
            let _ = target.get().send(target.gateway).await;
        })
    }

    /// A gRPC call, whose answer is awaited.
    pub fn call(row: &'static str, what: &'static str, behaviour: GrpcBehaviour) -> Self {
        Self::new(row, what, Service::Grpc(behaviour), |target| async move {
            let _ = grpc::send(&target.call(), target.gateway).await;
        })
    }

    /// Merged into the service's settings of the filter.
    pub fn settings(mut self, settings: Value) -> Self {
        self.settings = settings;
        self
    }

    /// Merged into the service's route.
    pub fn route(mut self, route: Value) -> Self {
        self.route = route;
        self
    }

    /// Merged into the service's cluster.
    pub fn cluster(mut self, cluster: Value) -> Self {
        self.cluster = cluster;
        self
    }

    /// A route to the service, before all others.
    pub fn first_route(mut self, route: Value) -> Self {
        self.first_route = Some(route);
        self
    }

    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }
}

/// A service that was started for a case.
struct Started {
    backend: Option<Arc<Backend>>,
    _grpc: Option<GrpcBackend>,
}

/// The gateway of all cases: `envoy/gateway.yaml` with the default breaker.
pub fn gateway() -> EnvoyConfig {
    EnvoyConfig::gateway().plugin_exactly(&json!({
        "timeouts": {"client_deadline_header": "x-deadline-ms"},
    }))
}

/// Ends requests in the way of each case and compares what is counted with the table.
pub async fn compare_with_the_table(config: EnvoyConfig, cases: Vec<Case>) {
    let names: Vec<String> = (0..cases.len()).map(name_of).collect();
    let mut config = config
        .only_services(names.iter().map(String::as_str))
        .without_health_checks();
    let mut started = Vec::new();
    for (name, case) in names.iter().zip(&cases) {
        let (changed, service) = start(config, name, &case.service);
        config = changed
            .route(name, &case.route)
            .cluster(name, &case.cluster)
            .plugin(&json!({"services": {name: case.settings}}));
        if let Some(mut route) = case.first_route.clone() {
            route["route"]["cluster"] = json!(name);
            config = config.first_route(route);
        }
        started.push(service);
    }
    let envoy = Envoy::start(config).await.unwrap();
    let mut requests = JoinSet::new();
    for ((name, case), service) in names.iter().zip(&cases).zip(&started) {
        for number in 0..case.times {
            requests.spawn((case.provoke)(Target {
                gateway: envoy.address(),
                path: format!("/v1/{name}/levee.Demo/Call"),
                number,
                backend: service.backend.clone(),
            }));
        }
    }
    requests.join_all().await;
    let wanted: Vec<Outcome> = cases
        .iter()
        .map(|case| page::outcome_of(case.row))
        .collect();
    let counted = wait::until("each case to be counted", wait::GENEROUS / 4, || async {
        let metrics = envoy.metrics().await.map_err(|error| error.to_string())?;
        let wrong: Vec<String> = (names.iter().zip(&cases).zip(&wanted))
            .filter_map(|((name, case), wanted)| differs(&metrics, name, case, wanted))
            .collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("\n{}", wrong.join("\n")))
        }
    });
    counted.await.unwrap();
}

fn name_of(number: usize) -> String {
    format!("case-{number}")
}

fn start(config: EnvoyConfig, name: &str, service: &Service) -> (EnvoyConfig, Started) {
    let http = |backend: Backend| Started {
        backend: Some(Arc::new(backend)),
        _grpc: None,
    };
    match service {
        Service::Http(behaviour) => {
            let backend = Backend::start().unwrap();
            backend.always(behaviour.clone());
            (config.upstream(name, backend.address()), http(backend))
        }
        Service::Refusing => {
            let backend = Backend::start_refusing().unwrap();
            (config.upstream(name, backend.address()), http(backend))
        }
        Service::SilentTls => {
            let backend = Backend::start_refusing().unwrap();
            backend.be_silent().unwrap();
            let config = config.upstream(name, backend.address());
            (config.upstream_tls(name), http(backend))
        }
        Service::Grpc(behaviour) => {
            let backend = GrpcBackend::start().unwrap();
            backend.always(*behaviour);
            let config = config.upstream(name, backend.address());
            let started = Started {
                backend: None,
                _grpc: Some(backend),
            };
            (config.upstream_http2(name), started)
        }
        Service::Hostless => {
            let started = Started {
                backend: None,
                _grpc: None,
            };
            (config.upstreams(name, &[]), started)
        }
    }
}

/// How what was counted differs from what the table says.
fn differs(metrics: &Metrics, name: &str, case: &Case, wanted: &Outcome) -> Option<String> {
    let times = |is_so| if is_so { case.times } else { 0 };
    let service = [("service", name)];
    let is_open = metrics.sum("circuit_breaker_state", &service) > 0.0;
    let by_label = LABELS.map(|label| counted(metrics, name, label));
    let unanswered = whole(metrics.sum("circuit_breaker_unanswered_total", &service));
    // Its metric counts only limits of Levee's.
    let timeouts = whole(metrics.sum("proxy_request_timeout_total", &service));
    let no_timeouts = !case.row.starts_with("`max_stream_duration`") || timeouts == 0;
    let is_as_expected = no_timeouts
        && by_label == LABELS.map(|label| times(label == wanted.label))
        && unanswered == times(wanted.is_unanswered())
        && (is_open == wanted.opens_by_five() || wanted.label == "rejected");
    let Case { row, what, .. } = case;
    (!is_as_expected).then(|| {
        format!(
            "{name}, {row}, {what}: not {}, but {by_label:?} of {LABELS:?}, unanswered: {unanswered}, timeouts: {timeouts}, open: {is_open}",
            wanted.name
        )
    })
}

/// How many requests to a service were counted with this label.
pub fn counted(metrics: &Metrics, service: &str, label: &str) -> u32 {
    let labels = [("service", service), ("outcome", label)];
    whole(metrics.sum("circuit_breaker_requests_total", &labels))
}

/// A count, which Prometheus writes as a floating-point number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of a test are small"
)]
pub fn whole(count: f64) -> u32 {
    count as u32
}
