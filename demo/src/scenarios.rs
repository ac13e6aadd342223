//! The scenarios, each as a function that plays it on a [`Stack`] and reports what was seen.
//!
//! A scenario is played with Levee, where all must hold, and without it, where each promise must break: so what holds
//! does so because of Levee.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::stack::{COMMAND_LIMIT, HEADER_LIMIT, Outcome, QUERY_LIMIT, Stack};
use levee_harness::client::{Answer, Request};
use levee_harness::clock::Stopwatch;
use levee_harness::error::{Context, Error, Result};
use levee_harness::metrics::Metrics;
use levee_harness::process::Signal;
use levee_harness::wait::GENEROUS;

/// How long a client waits before it gives up: longer than any limit here, with a margin for a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);

/// For what takes a moment, and must not fail on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How long Redis is away when it restarts.
const OUTAGE: Duration = Duration::from_millis(400);

/// How soon a cleanup that begins each second must have done its work. A thousand rows are about ten batches; with its rests
/// each may take 1 s before this is too short.
const CLEANED_WITHIN: Duration = Duration::from_secs(15);

/// How long a service fails and answers nevertheless.
const MOMENT: Duration = Duration::from_millis(500);

/// How many of its failures clients may see then: five open its breaker, and some more are under way.
const FAILURES_SEEN: usize = 20;

/// How soon the service must be asked again when it is back. It is checked each second.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// Rows that the cleanups have to remove or end, and those that they have to leave alone.
const EXPIRED_TOKENS: u32 = 1_000;
const VALID_TOKENS: u32 = 100;
const STALE_CALLS: u32 = 1_000;
const RECENT_CALLS: u32 = 100;

/// Tokens that are used while Redis hangs.
const TOKENS_USED: usize = 10;

/// How soon logins must be refused then, without Redis being asked.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

/// Clients that ask at the same time.
const CROWD: usize = 8;

/// An expectation, and what was observed.
#[derive(Debug, Clone)]
pub struct Fact {
    pub wanted: String,
    pub seen: String,
    pub holds: bool,
}

/// The observations of a scenario.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Effects on clients and data: hold with Levee, and break without it.
    pub promises: Vec<Fact>,
    /// What Levee's metrics say. Empty without Levee.
    pub metrics: Vec<Fact>,
    /// Holds in either case: what must keep working, and that all is normal afterwards.
    pub always: Vec<Fact>,
}

impl Report {
    /// Facts that fail with Levee.
    pub fn broken(&self) -> Vec<&Fact> {
        let all = self
            .promises
            .iter()
            .chain(&self.metrics)
            .chain(&self.always);
        all.filter(|fact| !fact.holds).collect()
    }

    /// Without Levee: promises that hold all the same, and facts that should always hold but don't.
    pub fn unexpected_without_levee(&self) -> Vec<&Fact> {
        let kept = self.promises.iter().filter(|fact| fact.holds);
        let lost = self.always.iter().filter(|fact| !fact.holds);
        kept.chain(lost).collect()
    }

    fn promise(&mut self, wanted: impl Display, seen: impl Display, holds: bool) {
        self.promises.push(fact(wanted, seen, holds));
    }

    fn always(&mut self, wanted: impl Display, seen: impl Display, holds: bool) {
        self.always.push(fact(wanted, seen, holds));
    }

    /// A gauge has a value, soon. Only asked where there is Levee, as are counters.
    fn gauge(
        &mut self,
        stack: &Stack,
        name: &str,
        labels: &[(&str, &str)],
        wanted: u32,
    ) -> Result<()> {
        if !stack.has_levee() {
            return Ok(());
        }
        let (value, holds) = eventually(|| {
            let value = stack.metrics()?.get(name, labels);
            Ok((value, value == Some(f64::from(wanted))))
        })?;
        let seen = value.map_or_else(|| "absent".to_owned(), |value| value.to_string());
        let wanted = format!("{} is {wanted}", shown(name, labels));
        self.metrics.push(fact(wanted, seen, holds));
        Ok(())
    }

    /// A counter soon grows by at least this much.
    fn counter(
        &mut self,
        stack: &Stack,
        before: &Metrics,
        name: &str,
        labels: &[(&str, &str)],
        least: u32,
    ) -> Result<()> {
        if !stack.has_levee() {
            return Ok(());
        }
        let (grown, holds) = eventually(|| {
            let grown = stack.metrics()?.sum(name, labels) - before.sum(name, labels);
            Ok((grown, grown >= f64::from(least)))
        })?;
        let wanted = format!("{} grows by {least} or more", shown(name, labels));
        self.metrics
            .push(fact(wanted, format!("by {grown}"), holds));
        Ok(())
    }

    /// A counter of what goes wrong does not grow.
    fn unchanged(&mut self, stack: &Stack, before: &Metrics, name: &str) -> Result<()> {
        if stack.has_levee() {
            let grown = stack.metrics()?.sum(name, &[]) - before.sum(name, &[]);
            self.metrics.push(fact(
                format!("{name} does not grow"),
                format!("by {grown}"),
                grown == 0.0,
            ));
        }
        Ok(())
    }
}

fn shown(name: &str, labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return name.to_owned();
    }
    let labels: Vec<String> = labels
        .iter()
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    format!("{name}{{{}}}", labels.join(","))
}

fn fact(wanted: impl Display, seen: impl Display, holds: bool) -> Fact {
    Fact {
        wanted: wanted.to_string(),
        seen: seen.to_string(),
        holds,
    }
}

/// Polls until it holds or the time is up; returns the last observation.
fn eventually<T>(look: impl FnMut() -> Result<(T, bool)>) -> Result<(T, bool)> {
    within(GENEROUS, look)
}

fn within<T>(bound: Duration, mut look: impl FnMut() -> Result<(T, bool)>) -> Result<(T, bool)> {
    let waited = Stopwatch::start();
    loop {
        let (seen, holds) = look()?;
        if holds || waited.elapsed() > bound {
            return Ok((seen, holds));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The number of answers, and the latest one's time.
struct Answered {
    clients: usize,
    answers: Vec<Answer>,
    slowest: Duration,
}

impl Answered {
    fn of(results: Vec<Outcome>) -> Self {
        let clients = results.len();
        let answers: Vec<Answer> = results
            .into_iter()
            .filter_map(std::result::Result::ok)
            .collect();
        let slowest = answers.iter().map(|answer| answer.took).max();
        Self {
            clients,
            answers,
            slowest: slowest.unwrap_or_default(),
        }
    }

    fn all_within(&self, bound: Duration) -> bool {
        self.answers.len() == self.clients && self.slowest <= bound
    }
}

impl Display for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            clients,
            answers,
            slowest,
        } = self;
        if answers.is_empty() {
            return write!(f, "0 of {clients} answered within {PATIENCE:?}");
        }
        let statuses: BTreeSet<u16> = answers.iter().map(|answer| answer.status).collect();
        write!(
            f,
            "{} of {clients} answered ({}), the last after {:.2} s",
            answers.len(),
            listed(&statuses),
            slowest.as_secs_f64()
        )
    }
}

/// `all 500`, or `200, 504`.
fn listed(statuses: &BTreeSet<u16>) -> String {
    let texts: Vec<String> = statuses.iter().map(u16::to_string).collect();
    match texts.as_slice() {
        [only] => format!("all {only}"),
        several => several.join(", "),
    }
}

fn ask(path: &str) -> Request {
    Request::get(path).bound(PATIENCE)
}

/// A scenario: what it is called, and how it is played.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    /// Plays it.
    pub play: fn(&mut Stack) -> Result<Report>,
}

pub const ALL: [Scenario; 7] = [
    Scenario {
        name: "database slow",
        about: "somebody locks the table of calls; eight clients ask for a call",
        play: database_slow,
    },
    Scenario {
        name: "Redis down",
        about: "Redis restarts while clients read a session; then it hangs, and eight clients ask",
        play: redis_down,
    },
    Scenario {
        name: "login down",
        about: "Redis hangs, which only logins and sessions need; eight clients log in, and tokens are used",
        play: login_down,
    },
    Scenario {
        name: "a backend down",
        about: "the video service hangs, ends and comes back; eight clients ask meanwhile, and eight more",
        play: backend_down,
    },
    Scenario {
        name: "a moment of failure",
        about: "the storage service answers 502 for half a second while clients ask, and is back",
        play: moment_of_failure,
    },
    Scenario {
        name: "expired tokens pile up",
        about: "1,000 tokens have expired, 100 are valid, and clients ask for new ones",
        play: expired_tokens,
    },
    Scenario {
        name: "stale calls pile up",
        about: "1,000 calls have been ringing or active for 25 hours, 100 for 23, and one is new",
        play: stale_calls,
    },
];

/// The id in an answer that made something.
fn made<'a>(what: &str, status: u16, answer: &'a Value) -> Result<&'a str> {
    let id = answer[what].as_str().filter(|_| status == 201);
    id.ok_or_else(|| Error::new(format!("no new {what}, but {status}: {answer}")))
}

/// A new call: the path at which it can be asked for.
fn a_call(stack: &Stack) -> Result<String> {
    let (status, call) = stack.post("/v1/video/calls", &json!({"caller": "ann"}));
    made("call", status, &call).map(|id| format!("/v1/video/calls/{id}"))
}

/// A new session: the path at which it can be asked for.
fn a_session(stack: &Stack) -> Result<String> {
    let (status, session) = stack.post("/v1/auth/login", &json!({"user": "ann"}));
    made("session", status, &session).map(|id| format!("/v1/auth/session/{id}"))
}

/// A new token: the path at which it can be used.
fn a_token(stack: &Stack, session: &str) -> Result<String> {
    let id = session.rsplit('/').next().unwrap_or_default();
    let body = json!({"session": id, "email": "ann@example.org"});
    let (status, token) = stack.post("/v1/auth/email-token", &body);
    made("token", status, &token).map(|id| format!("/v1/auth/email-token/{id}/use"))
}

/// All is normal again: a path answers 200 three times in a row, and the breakers are closed.
fn normal_again(report: &mut Report, stack: &Stack, path: &str, breakers: &[&str]) -> Result<()> {
    let mut in_a_row = 0;
    let took = Stopwatch::start();
    let (status, holds) = eventually(|| {
        let status = stack.get(path).0;
        in_a_row = if status == 200 { in_a_row + 1 } else { 0 };
        Ok((status, in_a_row >= 3))
    })?;
    let seen = format!("{status}, {:.1} s later", took.elapsed().as_secs_f64());
    report.always("afterwards requests succeed", seen, holds);
    for service in breakers {
        let labels = [("service", *service)];
        // It closes by requests that succeed.
        eventually(|| {
            let closed = !stack.has_levee()
                || stack.metrics()?.get("circuit_breaker_state", &labels) == Some(0.0);
            if !closed {
                stack.get(path);
            }
            Ok(((), closed))
        })?;
        report.gauge(stack, "circuit_breaker_state", &labels, 0)?;
    }
    Ok(())
}

/// The database is slow: statements wait behind a lock.
pub fn database_slow(stack: &mut Stack) -> Result<Report> {
    let mut report = Report::default();
    let call = a_call(stack)?;
    let session = a_session(stack)?;
    let before = stack.metrics()?;
    let mut holder = stack.postgres.client()?;
    let mut lock = holder.transaction().context("a transaction")?;
    lock.batch_execute("LOCK TABLE calls").context("a lock")?;

    let crowd = Answered::of(stack.crowd(&ask(&call), CROWD));
    let bound = HEADER_LIMIT + AT_ONCE;
    let wanted = format!("{CROWD} clients are answered within {bound:?}");
    report.promise(wanted, &crowd, crowd.all_within(bound));
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event_type = 'Lock'";
    // Requests that got no connection from the pool at first wait once more.
    let bound = 2 * QUERY_LIMIT + AT_ONCE;
    let (left, holds) = within(bound, || {
        let left = stack.postgres.number(waiting)?;
        Ok((left, left == 0))
    })?;
    let wanted = format!("{bound:?} later no statement waits for the lock");
    report.promise(wanted, format!("{left} wait"), holds);
    let status = stack.get(&session).0;
    report.always("sessions keep working meanwhile", status, status == 200);
    let labels = [("database", "app"), ("class", "query")];
    report.counter(stack, &before, "db_query_timeout_total", &labels, 1)?;
    lock.rollback().context("the end of the lock")?;
    normal_again(&mut report, stack, &call, &["video"])?;
    Ok(report)
}

/// Redis restarts, and then hangs.
pub fn redis_down(stack: &mut Stack) -> Result<Report> {
    let mut report = Report::default();
    let session = a_session(stack)?;
    let call = a_call(stack)?;
    let before = stack.metrics()?;

    let asking = stack.keep_asking(&ask(&session), 4);
    asking.wait_for(20)?;
    stack.redis.stop();
    thread::sleep(OUTAGE);
    stack.redis.start_again()?;
    asking.wait_for(20)?;
    let answers = asking.answers(stack);
    let failed = answers
        .iter()
        .filter(|answer| answer.as_ref().map_or(true, |answer| answer.status != 200))
        .count();
    let seen = format!("{failed} of {} failed", answers.len());
    let wanted = format!("no request fails while Redis restarts within {OUTAGE:?}");
    report.promise(wanted, seen, failed == 0);
    report.counter(
        stack,
        &before,
        "redis_retry_total",
        &[("upstream", "sessions")],
        1,
    )?;

    // Each service has its connection (again) before Redis hangs: an old one fails at its next use.
    let (connected, holds) = eventually(|| {
        let answered = Answered::of(stack.each_service(&ask(&session)));
        let well = answered
            .answers
            .iter()
            .filter(|answer| answer.status == 200);
        let holds = well.count() == answered.clients;
        Ok((answered, holds))
    })?;
    report.always(
        "after the restart each service reads the session",
        &connected,
        holds,
    );
    stack.redis.signal(Signal::Stop)?;
    let crowd = Answered::of(stack.crowd(&ask(&session), CROWD));
    let bound = COMMAND_LIMIT + AT_ONCE;
    let wanted = format!("while Redis hangs, {CROWD} clients are answered within {bound:?}");
    report.promise(wanted, &crowd, crowd.all_within(bound));
    // Commands that fail together are one failure for the breaker, so it takes more than that one connection.
    let (next, holds) = within(PATIENCE, || {
        let next = Answered::of(stack.each_service(&ask(&session)));
        let holds = next.all_within(AT_ONCE);
        Ok((next, holds))
    })?;
    let wanted = "soon all services get an error at once";
    report.promise(wanted, &next, holds);
    let labels = [("service", "redis:sessions")];
    if stack.has_levee() {
        // Failures within 100 ms are one for the breaker.
        within(PATIENCE, || {
            stack.each_service(&ask(&session));
            let state = stack.metrics()?.get("circuit_breaker_state", &labels);
            Ok(((), state == Some(1.0)))
        })?;
    }
    report.gauge(stack, "circuit_breaker_state", &labels, 1)?;
    report.counter(stack, &before, "circuit_breaker_failures_total", &labels, 5)?;
    let status = stack.get(&call).0;
    report.always("calls keep working meanwhile", status, status == 200);
    stack.redis.signal(Signal::Continue)?;
    normal_again(&mut report, stack, &session, &["auth", "redis:sessions"])?;
    Ok(report)
}

/// A part of a service needs Redis, which hangs. The other part does not.
pub fn login_down(stack: &mut Stack) -> Result<Report> {
    let mut report = Report::default();
    let session = a_session(stack)?;
    let tokens: Vec<String> = (0..TOKENS_USED)
        .map(|_| a_token(stack, &session))
        .collect::<Result<_>>()?;
    let before = stack.metrics()?;
    stack.redis.signal(Signal::Stop)?;

    let login = Request::post("/v1/auth/login", json!({"user": "ann"}).to_string())
        .header("content-type", "application/json")
        .bound(PATIENCE);
    let mut used = Vec::new();
    let (logins, holds) = within(REFUSED_WITHIN, || {
        let logins = Answered::of(stack.crowd(&login, CROWD));
        // Between the rounds, as other clients would.
        if let Some(token) = tokens.get(used.len()) {
            used.push(stack.post(token, &Value::Null).0);
        }
        let refused = logins.answers.iter().filter(|answer| answer.is_refusal());
        let holds = refused.count() == CROWD && logins.all_within(AT_ONCE);
        Ok((logins, holds))
    })?;
    let wanted = format!("within {REFUSED_WITHIN:?} {CROWD} logins are refused at once");
    report.promise(wanted, &logins, holds);
    for token in tokens.iter().skip(used.len()) {
        used.push(stack.post(token, &Value::Null).0);
    }
    let statuses = listed(&used.iter().copied().collect());
    let wanted = format!("meanwhile {TOKENS_USED} tokens of the same service can be used");
    report.always(wanted, &statuses, used.iter().all(|status| *status == 204));
    let sessions = [("service", "auth"), ("scope", "sessions")];
    report.gauge(stack, "circuit_breaker_state", &sessions, 1)?;
    report.gauge(stack, "circuit_breaker_state", &[("service", "auth")], 0)?;
    report.counter(
        stack,
        &before,
        "circuit_breaker_failures_total",
        &sessions,
        5,
    )?;
    let rejected = [sessions[0], sessions[1], ("outcome", "rejected")];
    let requests = "circuit_breaker_requests_total";
    report.counter(stack, &before, requests, &rejected, 8)?;

    stack.redis.signal(Signal::Continue)?;
    normal_again(&mut report, stack, &session, &["auth", "redis:sessions"])?;
    report.gauge(stack, "circuit_breaker_state", &sessions, 0)?;
    Ok(report)
}

/// A service hangs, ends, and comes back.
pub fn backend_down(stack: &mut Stack) -> Result<Report> {
    let mut report = Report::default();
    let session = a_session(stack)?;
    let call = a_call(stack)?;
    let before = stack.metrics()?;
    stack.service("video")?.stand_still();

    let crowd = Answered::of(stack.crowd(&ask(&call), CROWD));
    let bound = HEADER_LIMIT + AT_ONCE;
    let wanted = format!("while the service hangs, {CROWD} clients are answered within {bound:?}");
    report.promise(wanted, &crowd, crowd.all_within(bound));
    let next = Answered::of(stack.crowd(&ask(&call), CROWD));
    let refused = next
        .answers
        .iter()
        .filter(|answer| answer.is_refusal())
        .count();
    let wanted = format!("the next {CROWD} are refused at once, without a call to the service");
    let seen = format!("{next}, {refused} refused");
    report.promise(wanted, seen, next.all_within(AT_ONCE) && refused == CROWD);
    let status = stack.get(&session).0;
    report.always(
        "the other services keep working meanwhile",
        status,
        status == 200,
    );
    let labels = [("service", "video")];
    report.gauge(stack, "circuit_breaker_state", &labels, 1)?;
    report.counter(stack, &before, "circuit_breaker_failures_total", &labels, 5)?;
    let rejected = [("service", "video"), ("outcome", "rejected")];
    report.counter(
        stack,
        &before,
        "circuit_breaker_requests_total",
        &rejected,
        8,
    )?;
    let kind = [("service", "video"), ("kind", "response_header")];
    report.counter(stack, &before, "proxy_request_timeout_total", &kind, 5)?;

    stack.service("video")?.stop();
    stack.service("video")?.start_again()?;
    normal_again(&mut report, stack, &call, &["video"])?;
    Ok(report)
}

/// A service fails for a moment, which opens its breaker for 30 s. A health check ends that as soon as it is back.
pub fn moment_of_failure(stack: &mut Stack) -> Result<Report> {
    const PATH: &str = "/v1/storage/x";
    let mut report = Report::default();
    let before = stack.metrics()?;
    let service = stack.service("storage")?.address;
    let switch = |stack: &Stack, fault| {
        let request = Request::post(&format!("/demo/{fault}"), "");
        let answer = stack.send_to(service, &request);
        let status = answer.map_or(0, |answer| answer.status);
        match status {
            200 => Ok(()),
            _ => Err(Error::new(format!("/demo/{fault}: {status}"))),
        }
    };
    let asking = stack.keep_asking(&ask(PATH), CROWD);
    asking.wait_for(20)?;
    switch(stack, "fail")?;
    thread::sleep(MOMENT);
    switch(stack, "recover")?;
    let back = Stopwatch::start();
    let (took, holds) = within(GENEROUS, || {
        let status = stack.get(PATH).0;
        Ok((back.elapsed(), status == 200))
    })?;
    let answers = asking.answers(stack);
    let failed = answers
        .iter()
        .filter(|answer| answer.as_ref().map_or(true, |answer| answer.status == 502))
        .count();
    let wanted = format!(
        "while it fails for {MOMENT:?}, {CROWD} clients see {FAILURES_SEEN} failures or fewer"
    );
    let seen = format!("{failed} failures, back after {:.1} s", took.as_secs_f64());
    report.promise(wanted, seen, failed <= FAILURES_SEEN);
    let wanted = format!("{BACK_WITHIN:?} after its return, or sooner, requests succeed");
    let seen = format!("after {:.1} s", took.as_secs_f64());
    report.always(wanted, seen, holds && took <= BACK_WITHIN);
    for to in ["open", "half_open"] {
        let labels = [("service", "storage"), ("to", to)];
        report.counter(
            stack,
            &before,
            "circuit_breaker_transitions_total",
            &labels,
            1,
        )?;
    }
    normal_again(&mut report, stack, PATH, &["storage"])?;
    Ok(report)
}

/// Tokens expire and nobody removes them.
pub fn expired_tokens(stack: &mut Stack) -> Result<Report> {
    let mut report = Report::default();
    let session = a_session(stack)?;
    let before = stack.metrics()?;
    let id = session.rsplit('/').next().unwrap_or_default();
    let body = json!({"session": id, "email": "ann@example.org"}).to_string();
    let wanted_valid = "SELECT count(*) FROM email_verification_tokens WHERE expires_at > now()";
    let valid_before = stack.postgres.number(wanted_valid)?;
    stack.postgres.add_tokens(EXPIRED_TOKENS, VALID_TOKENS)?;

    let request =
        Request::post("/v1/auth/email-token", body).header("content-type", "application/json");
    let asking = stack.keep_asking(&request.bound(PATIENCE), 1);
    let (left, holds) = within(CLEANED_WITHIN, || {
        let left = stack.postgres.expired_tokens()?;
        Ok((left, left == 0))
    })?;
    let answers = asking.answers(stack);
    let wanted = format!("{EXPIRED_TOKENS} expired tokens are removed within {CLEANED_WITHIN:?}");
    report.promise(wanted, format!("{left} are left"), holds);
    let made = answers
        .iter()
        .filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 201))
        .count();
    let seen = format!("{made} of {} requests succeeded", answers.len());
    report.always(
        "new tokens are created meanwhile",
        seen,
        made == answers.len(),
    );
    let valid = stack.postgres.number(wanted_valid)?;
    let lost =
        valid_before + i64::from(VALID_TOKENS) + i64::try_from(made).unwrap_or(i64::MAX) - valid;
    report.always("no valid token is lost", format!("{lost} were"), lost == 0);
    report.counter(
        stack,
        &before,
        "auth_cleanup_expired_tokens_total",
        &[],
        EXPIRED_TOKENS,
    )?;
    report.counter(
        stack,
        &before,
        "auth_cleanup_duration_seconds_count",
        &[],
        1,
    )?;
    report.unchanged(stack, &before, "auth_cleanup_failed_total")?;
    normal_again(&mut report, stack, &session, &["auth"])?;
    Ok(report)
}

/// Calls are never ended.
pub fn stale_calls(stack: &mut Stack) -> Result<Report> {
    let mut report = Report::default();
    let recent = a_call(stack)?;
    let before = stack.metrics()?;
    stack.postgres.execute(&format!(
        "INSERT INTO calls (status, started_at) SELECT (ARRAY['ringing', 'active'])[1 + n % 2], \
           now() - interval '25 hours' FROM generate_series(1, {STALE_CALLS}) n; \
         INSERT INTO calls (status, started_at) SELECT 'active', now() - interval '23 hours' \
           FROM generate_series(1, {RECENT_CALLS})"
    ))?;
    let stale =
        "SELECT call_id::text FROM calls WHERE started_at < now() - interval '24 hours' LIMIT 1";
    let row = stack.postgres.client()?.query_one(stale, &[]);
    let id: String = row.context("a call that is stale")?.get(0);
    let stale = format!("/v1/video/calls/{id}");
    let since = Stopwatch::start();
    let (seen, holds) = within(CLEANED_WITHIN, || {
        let call = stack.get(&stale).1;
        let seen = format!("its status is {}", call["status"]);
        Ok((seen, call["status"] == "ended"))
    })?;
    let wanted = format!("a client sees a stale call ended within {CLEANED_WITHIN:?}");
    report.promise(wanted, seen, holds);
    let open = "SELECT count(*) FROM calls WHERE status <> 'ended' AND started_at < now() - interval '24 hours'";
    let (left, holds) = within(CLEANED_WITHIN.saturating_sub(since.elapsed()), || {
        let left = stack.postgres.number(open)?;
        Ok((left, left == 0))
    })?;
    report.promise(
        format!("all {STALE_CALLS} are ended by then"),
        format!("{left} are not"),
        holds,
    );
    let status = stack.get(&recent).1["status"].clone();
    report.always("a recent call still rings", &status, status == "ringing");
    let open = stack.postgres.number(
        "SELECT count(*) FROM calls WHERE status = 'active' AND ended_at IS NULL \
        AND started_at > now() - interval '24 hours'",
    )?;
    report.always(
        format!("the {RECENT_CALLS} calls of 23 hours are left alone"),
        open,
        open == i64::from(RECENT_CALLS),
    );
    report.counter(
        stack,
        &before,
        "video_cleanup_stale_calls_total",
        &[],
        STALE_CALLS,
    )?;
    report.counter(
        stack,
        &before,
        "video_cleanup_duration_seconds_count",
        &[],
        1,
    )?;
    report.unchanged(stack, &before, "video_cleanup_failed_total")?;
    let (status, _) = stack.post(&format!("{recent}/end"), &json!({}));
    report.always("its caller can end it", status, status == 200);
    normal_again(&mut report, stack, &recent, &["video"])?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `about` writes numbers.
    fn written(number: u32) -> String {
        if number < 1_000 {
            number.to_string()
        } else {
            format!("{},{:03}", number / 1_000, number % 1_000)
        }
    }

    #[test]
    fn one_status_of_all_answers_is_named_as_such() {
        assert_eq!(listed(&BTreeSet::from([500])), "all 500");
        assert_eq!(listed(&BTreeSet::from([504, 200])), "200, 504");
    }

    #[test]
    fn the_descriptions_name_the_numbers_that_are_counted() {
        for (name, numbers) in [
            ("expired tokens pile up", [EXPIRED_TOKENS, VALID_TOKENS]),
            ("stale calls pile up", [STALE_CALLS, RECENT_CALLS]),
        ] {
            let scenario = ALL.iter().find(|scenario| scenario.name == name).unwrap();
            for number in numbers.map(written) {
                let has_it = scenario.about.split_whitespace().any(|word| word == number);
                assert!(has_it, "{name}: {number} is not in: {}", scenario.about);
            }
        }
    }
}
