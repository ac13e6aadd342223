//! Jobs and the watchdog: their state, and running a job on request.

use super::state::{Admin, Live};
use crate::config::Secret;
use crate::database::activity::Duty;
use crate::database::blockers::Wait;
use crate::database::cleanup::Cleanup;
use crate::database::fingerprint::fingerprint;
use crate::database::preset::{PRESETS, Preset};
use crate::database::spec::Action;
use crate::database::watchdog::Session;
use crate::jobs::report::{Outcome, Report};
use crate::jobs::runner::Runner;
use crate::jobs::{Left, Sample};
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use levee_policy::time::Instant;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use subtle::ConstantTimeEq;

/// How long a request waits for its run to end, by default.
const WAIT: Duration = Duration::from_secs(10);

const LONGEST_WAIT: Duration = Duration::from_hours(1);

pub(super) fn router() -> Router<Live> {
    let router = Router::new()
        .route("/v1/jobs", get(list))
        .route("/v1/jobs/{name}", get(one))
        .route("/v1/jobs/{name}/run", post(run))
        .route("/v1/watchdog", get(watchdog));
    PRESETS.iter().fold(router, |router, preset| {
        let run = move |admin, query, headers| run_preset(admin, query, headers, preset);
        router.route(preset.run_path, post(run))
    })
}

type Job = Arc<Runner<Cleanup>>;

impl Admin {
    fn jobs(&self) -> &[Job] {
        self.database.as_ref().map_or(&[], |part| &part.jobs)
    }
}

async fn list(State(admin): State<Admin>) -> Json<Value> {
    let jobs: Vec<Value> = admin.jobs().iter().map(describe).collect();
    Json(json!({"jobs": jobs}))
}

async fn one(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    match admin.jobs().iter().find(|job| job.name == name) {
        Some(job) => Json(describe(job)).into_response(),
        None => unknown(&admin, &format!("there is no job {name:?}")),
    }
}

async fn run(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let job = admin.jobs().iter().find(|job| job.name == name);
    let missing = format!("there is no job {name:?}");
    begin(&admin, job, &missing, query.as_deref(), &headers).await
}

async fn run_preset(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    preset: &'static Preset,
) -> Response {
    let is_it = |job: &&Job| job.job.preset == Some(preset);
    let job = admin.jobs().iter().find(is_it);
    let missing = "there is no job with this preset";
    begin(&admin, job, missing, query.as_deref(), &headers).await
}

/// The query of a request to run a job.
struct RunQuery {
    /// `None`: as configured for the job.
    dry_run: Option<bool>,
    wait: Duration,
}

fn run_query(query: Option<&str>) -> Result<RunQuery, String> {
    let mut wanted = RunQuery {
        dry_run: None,
        wait: WAIT,
    };
    for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match (&*key, &*value) {
            ("dry_run", "true" | "1") => wanted.dry_run = Some(true),
            ("dry_run", "false" | "0") => wanted.dry_run = Some(false),
            ("wait", text) => {
                wanted.wait = humantime::parse_duration(text)
                    .ok()
                    .filter(|wait| *wait <= LONGEST_WAIT)
                    .ok_or("wait must be a duration of at most 1h, such as 30s")?;
            }
            _ => {
                return Err(format!(
                    "{key}={value} is not known; known are dry_run=true and wait=30s"
                ));
            }
        }
    }
    Ok(wanted)
}

/// Runs `job`, and waits for its end as long as the request asks.
async fn begin(
    admin: &Admin,
    job: Option<&Job>,
    missing: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Response {
    if let Some(refusal) = refusal(admin.token.as_deref(), headers) {
        return refusal;
    }
    let Some(job) = job else {
        return unknown(admin, missing);
    };
    let wanted = match run_query(query) {
        Ok(wanted) => wanted,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    let Ok(turn) = job.turn() else {
        return error(StatusCode::CONFLICT, "a run is under way; see /v1/jobs");
    };
    let running = job.clone();
    let dry_run = wanted.dry_run.unwrap_or(job.settings.dry_run);
    // A task of its own: the run continues if the client disconnects.
    let run = tokio::spawn(async move { running.run(turn, dry_run).await });
    match tokio::time::timeout(wanted.wait, run).await {
        Ok(Ok(report)) => {
            let status = match report.outcome {
                Outcome::Done | Outcome::Limit => StatusCode::OK,
                Outcome::Elsewhere => StatusCode::CONFLICT,
                Outcome::Stopped => StatusCode::SERVICE_UNAVAILABLE,
                Outcome::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let mut value = describe_report(&report);
            value["job"] = json!(job.name);
            (status, Json(value)).into_response()
        }
        Ok(Err(_)) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the run has failed; see the log",
        ),
        Err(_) => {
            let see = format!("/v1/jobs/{}", encode(&job.name));
            let value = json!({"job": job.name, "outcome": "running", "see": see});
            (StatusCode::ACCEPTED, Json(value)).into_response()
        }
    }
}

/// `name` as a segment of a path.
fn encode(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}

/// The refusal, unless the request has the token.
pub(super) fn refusal(token: Option<&Secret>, headers: &HeaderMap) -> Option<Response> {
    let Some(token) = token else {
        return Some(error(
            StatusCode::FORBIDDEN,
            "nothing can be changed here before admin.token_env or admin.token_file is configured",
        ));
    };
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, shown)| shown);
    if shown.is_some_and(|shown| bool::from(shown.ct_eq(token.reveal().as_bytes()))) {
        return None;
    }
    let mut refusal = error(
        StatusCode::UNAUTHORIZED,
        "the header Authorization must hold the bearer token",
    );
    let challenge = header::HeaderValue::from_static("Bearer");
    refusal
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    Some(refusal)
}

fn unknown(admin: &Admin, message: &str) -> Response {
    let names: Vec<&str> = admin.jobs().iter().map(|job| job.name.as_str()).collect();
    let value = json!({"error": message, "jobs": names});
    (StatusCode::NOT_FOUND, Json(value)).into_response()
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": message}))).into_response()
}

fn describe(job: &Job) -> Value {
    let status = job.status();
    let spec = &job.job.spec;
    json!({
        "name": job.name,
        "table": spec.quoted_table(),
        "action": match spec.action {
            Action::Delete => "delete",
            Action::Set(_) => "set",
        },
        "every_seconds": job.settings.every.map(|every| every.as_secs_f64()),
        "dry_run": job.settings.dry_run,
        "running": status.running.map(|run| json!({"since": wall(run.since), "rows": run.rows})),
        "problem": status.problem,
        "warnings": status.warnings,
        "last": status.last.as_ref().map(describe_report),
        "next": status.next.map(wall),
    })
}

/// A run as JSON, for the admin interface and `levee job run`.
pub fn describe_report(report: &Report) -> Value {
    let skipped_rows: Vec<Value> = report
        .left
        .iter()
        .map(|Left { key, why }| json!({"key": key, "error": why}))
        .collect();
    let mut value = json!({
        "outcome": report.outcome.name(),
        "dry_run": report.dry_run,
        "rows": report.rows,
        "batches": report.batches,
        "skipped": report.skipped,
        "skipped_rows": skipped_rows,
        "began": wall(report.began),
        "seconds": report.took.as_secs_f64(),
        "error": report.error,
    });
    if let Some(preview) = &report.preview {
        value["oldest"] = json!(preview.oldest.as_ref().map(describe_sample));
        value["newest"] = json!(preview.newest.as_ref().map(describe_sample));
    }
    value
}

fn describe_sample(sample: &Sample) -> Value {
    json!({
        "key": sample.key,
        "value": sample.value,
        "age": sample.age_in_words(),
    })
}

/// In RFC 3339.
fn wall(at: Instant) -> String {
    let since = Duration::from_nanos(at.as_nanos());
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

/// A statement that waits for a lock, and the sessions that it waits for.
fn describe_wait(wait: &Wait) -> Value {
    let of = |session: &Session| {
        json!({
            "process": session.process,
            "role": session.role,
            "application": session.application,
            "client": session.client,
            "seconds": session.since.as_secs_f64(),
            "statement": fingerprint(&session.statement.text),
        })
    };
    let mut value = of(&wait.session);
    let blockers = wait.blockers.iter().map(|blocker| {
        let mut value = of(&blocker.session);
        value["state"] = json!(blocker.state);
        value
    });
    value["blockers"] = blockers.collect();
    value
}

/// Who acts. Null: nobody is known to.
fn describe_duty(duty: &Duty) -> Value {
    let (is_here, holder) = match duty {
        Duty::Unknown | Duty::StandsBy(None) => return Value::Null,
        Duty::ActsToo => return json!({"here": true}),
        Duty::Acts(holder) => (true, holder),
        Duty::StandsBy(Some(holder)) => (false, holder),
    };
    json!({"here": is_here, "process": holder.process, "client": holder.client, "role": holder.role})
}

async fn watchdog(State(admin): State<Admin>) -> Response {
    let guard = admin.database.as_ref().and_then(|part| part.guard.as_ref());
    let Some(guard) = guard else {
        return error(StatusCode::NOT_FOUND, "no watchdog is configured");
    };
    let status = guard.status();
    let seconds = |duration: Duration| duration.as_secs_f64();
    Json(json!({
        "problem": status.problem,
        "stands_by": matches!(status.duty, Duty::StandsBy(_)),
        "acting": describe_duty(&status.duty),
        "dry_run": guard.dry_run,
        "looked": status.looked.map(wall),
        "watched": status.watched,
        "acts": status.acts,
        "waits": status.waits.iter().map(describe_wait).collect::<Vec<Value>>(),
        "roles": guard.settings.roles,
        "applications": guard.settings.applications,
        "classes": {
            "query": seconds(guard.settings.query),
            "long_query": seconds(guard.settings.long_query),
        },
        "idle_in_transaction_seconds": seconds(guard.settings.idle_in_transaction),
        "transaction_seconds": guard.settings.transaction.map(seconds),
    }))
    .into_response()
}
