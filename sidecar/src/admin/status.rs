//! `GET /v1/status`: the state of all parts, as `levee status` shows it.

use super::state::{Admin, Live, RedisListener};
use crate::clock;
use crate::database::activity::Duty;
use crate::database::claim::Holder;
use crate::database::cleanup::Cleanup;
use crate::envoy::history::History;
use crate::envoy::scrape;
use crate::envoy::text::Labels;
use crate::envoy::translate::{Gateway, SCOPE, SERVICE};
use crate::foreign_text::shown;
use crate::jobs::runner::Runner;
use crate::parts::database::DatabasePart;
use crate::status::view::{
    Acting, Durations, Job, Redis, Requests, Scope, Service, Since, Source, Status, Watchdog,
};
use axum::Router;
use axum::extract::State;
use axum::response::Json;
use axum::routing::get;
use levee_filter::metrics as filter;
use levee_policy::breaker::{Mode, Phase};
use levee_policy::time::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn router() -> Router<Live> {
    Router::new().route("/v1/status", get(status))
}

async fn status(State(admin): State<Admin>) -> Json<Status> {
    let (envoy, services) = envoy(&admin).await;
    let now = admin.clock.now();
    let redis = admin.redis.iter();
    Json(Status {
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        at: Some(humantime::format_rfc3339_seconds(clock::wall()).to_string()),
        sidecar: Source {
            configured: true,
            ..Source::default()
        },
        envoy,
        database: Source {
            configured: admin.database.is_some(),
            ..Source::default()
        },
        services,
        redis: redis.map(|listener| upstream(listener, now)).collect(),
        jobs: admin
            .database
            .as_ref()
            .map_or_else(Vec::new, |part| jobs(part, now)),
        watchdog: admin.database.as_ref().and_then(|part| watchdog(part, now)),
    })
}

async fn envoy(admin: &Admin) -> (Source, Vec<Service>) {
    let Some(envoy) = &admin.envoy else {
        return (Source::default(), Vec::new());
    };
    let reading = envoy.read(scrape::PATIENCE).await;
    let now = admin.clock.now();
    let source = Source {
        configured: true,
        address: Some(envoy.config.admin.to_string()),
        problem: reading.as_ref().err().map(ToString::to_string),
    };
    let of = |gateway: &Gateway| envoy.with_history(|history| services(gateway, history, now));
    (source, reading.as_deref().map_or_else(|_| Vec::new(), of))
}

/// Envoy's current values for each service and its scopes together, with the history of earlier readings.
fn services(gateway: &Gateway, history: &History, now: Instant) -> Vec<Service> {
    let mut services: BTreeMap<&str, Service> = BTreeMap::new();
    for (family, series) in &gateway.values {
        for (labels, value) in series {
            if let Some(name) = labels.get(SERVICE) {
                count(services.entry(name).or_default(), family, labels, *value);
            }
        }
    }
    for name in gateway
        .durations
        .keys()
        .filter_map(|labels| labels.get(SERVICE))
    {
        let service = services.entry(name).or_default();
        service.durations = history.lately(name).map(|lately| Durations {
            count: lately.durations.count,
            p50_seconds: lately.durations.quantile(0.5),
            p99_seconds: lately.durations.quantile(0.99),
            window_seconds: lately.since.map(|since| seconds(now, since)),
        });
    }
    for (name, service) in &mut services {
        (*name).clone_into(&mut service.name);
        service.since = history.since(name).map(|since| Since {
            at_least_seconds: seconds(now, since.seen),
            at_most_seconds: since.before.map(|before| seconds(now, before)),
        });
    }
    services.into_values().collect()
}

fn count(service: &mut Service, family: &str, labels: &Labels, value: f64) {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Not negative.
    let (value, place) = (value as u64, value as usize);
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    let add = |sum: &mut u64| *sum = sum.saturating_add(value);
    match family {
        filter::STATE => {
            let state = Phase::ALL.get(place).map(|state| state.name().to_owned());
            match labels.get(SCOPE) {
                Some(scope) => service.scopes.push(Scope {
                    name: scope.clone(),
                    state,
                }),
                None => service.state = state,
            }
        }
        filter::MODE if !labels.contains_key(SCOPE) => {
            let mode = Mode::ALL.get(place);
            service.mode = mode.map(|mode| mode.name().to_owned());
        }
        filter::FAILURES => add(&mut service.failures),
        filter::SHADOW_REJECTED => add(&mut service.shadow_rejected),
        filter::REQUESTS => match label("outcome") {
            "success" => add(&mut service.requests.success),
            "failure" => add(&mut service.requests.failure),
            "neutral" => add(&mut service.requests.neutral),
            "rejected" => add(&mut service.requests.rejected),
            _ => {}
        },
        filter::TIMEOUTS => match label("kind") {
            "request" => add(&mut service.timeouts.request),
            "response_header" => add(&mut service.timeouts.response_header),
            "connect" => add(&mut service.timeouts.connect),
            _ => {}
        },
        _ => {}
    }
}

fn upstream(listener: &RedisListener, now: Instant) -> Redis {
    let RedisListener { address, proxy } = listener;
    let status = proxy.gate.status(now);
    let counts = &proxy.gate.counts;
    let in_phase = status.in_phase.as_secs_f64();
    Redis {
        name: proxy.name.clone(),
        listen: address.to_string(),
        upstream: proxy.upstream.to_string(),
        state: status.phase.name().to_owned(),
        mode: status.mode.name().to_owned(),
        since: Since {
            at_least_seconds: in_phase,
            at_most_seconds: Some(in_phase),
        },
        budget_left: u64::from(status.budget_left),
        connections: u64::try_from(counts.connections.get()).unwrap_or(0),
        connections_limit: proxy.connections() as u64,
        attempts_in_flight: status.attempts_in_flight,
        requests: Requests {
            success: counts.success.get(),
            failure: counts.failure.get(),
            neutral: counts.neutral.get(),
            rejected: counts.rejected.get(),
        },
        failures: counts.failure.get(),
        retries: counts.retries.get(),
        last_error_seconds_ago: status
            .last_error
            .as_ref()
            .map(|error| seconds(now, error.at)),
        last_error: status.last_error.map(|error| shown(&error.message)),
    }
}

fn jobs(part: &DatabasePart, now: Instant) -> Vec<Job> {
    let job = |job: &Arc<Runner<Cleanup>>| {
        let status = job.status();
        let totals = job.totals();
        let last = status.last;
        Job {
            name: job.name.clone(),
            dry_run: job.settings.dry_run,
            running_seconds: status.running.map(|run| seconds(now, run.since)),
            running_rows: status.running.map(|run| run.rows),
            last_outcome: last.as_ref().map(|last| last.outcome.name().to_owned()),
            last_seconds_ago: last
                .as_ref()
                .map(|last| seconds(now, last.began.after(last.took))),
            last_rows: last.as_ref().map(|last| last.rows),
            last_error: last.and_then(|last| last.error),
            next_in_seconds: status
                .next
                .map(|next| seconds(next, now) - seconds(now, next)),
            rows_total: totals.rows,
            failures_total: totals.failed_runs,
            problem: status.problem,
        }
    };
    part.jobs.iter().map(job).collect()
}

fn acting(duty: Duty) -> Option<Acting> {
    let of = |here, holder: Holder| Acting {
        here,
        process: Some(holder.process),
        client: Some(holder.client),
    };
    match duty {
        Duty::Unknown | Duty::StandsBy(None) => None,
        Duty::ActsToo => Some(Acting {
            here: true,
            ..Acting::default()
        }),
        Duty::Acts(holder) => Some(of(true, holder)),
        Duty::StandsBy(Some(holder)) => Some(of(false, holder)),
    }
}

fn watchdog(part: &DatabasePart, now: Instant) -> Option<Watchdog> {
    let guard = part.guard.as_ref()?;
    let status = guard.status();
    Some(Watchdog {
        problem: status.problem,
        stands_by: matches!(status.duty, Duty::StandsBy(_)),
        acting: acting(status.duty),
        dry_run: guard.dry_run,
        looked_seconds_ago: status.looked.map(|looked| seconds(now, looked)),
        watched: status.watched as u64,
        acts: status.acts,
    })
}

/// From `earlier` to `later`, or 0 if they are the other way round.
fn seconds(later: Instant, earlier: Instant) -> f64 {
    later.since(earlier).as_secs_f64()
}
