//! The status as text, for people.

use super::view::{Durations, Job, Redis, Service, Since, Source, Status, Watchdog};
use console::{measure_text_width, truncate_str};
use std::time::Duration;

/// The longest name in a table, in columns.
const MAX_NAME: usize = 48;

/// The least that is left of names where the terminal is too narrow.
const MIN_NAME: usize = 8;

/// Between two columns.
const GAP: &str = "  ";

/// The status in lines of at most this width.
pub fn render(status: &Status, width: usize) -> Vec<String> {
    let mut lines = vec![title(status)];
    if let Some(problem) = &status.sidecar.problem {
        lines.push(format!("sidecar: UNREADABLE, it {problem}"));
        lines.push(
            "         Nothing can be said of services, Redis, jobs and the watchdog.".to_owned(),
        );
    } else {
        lines.push(envoy(status));
        if status.redis.is_empty() {
            lines.push("redis:    not configured (redis in levee.yaml)".to_owned());
        }
        if !status.database.configured {
            lines.push("database: not configured (database in levee.yaml)".to_owned());
        }
        for part in [
            services(&status.services, &status.envoy, width),
            redis(&status.redis, width),
            jobs(&status.jobs, width),
            watchdog(status.watchdog.as_ref()),
        ] {
            if !part.is_empty() {
                lines.push(String::new());
                lines.extend(part);
            }
        }
    }
    let fit = |line: String| truncate_str(plain(&line).trim_end(), width, "…").into_owned();
    lines.into_iter().map(fit).collect()
}

fn title(status: &Status) -> String {
    let version = status.version.as_deref().unwrap_or("");
    let address = status.sidecar.address.as_deref().unwrap_or("");
    let at = status.at.as_deref().unwrap_or("");
    let words = ["levee", version, "at", address, GAP, at];
    let there: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    there.join(" ")
}

fn envoy(status: &Status) -> String {
    let source = &status.envoy;
    let address = source.address.as_deref().unwrap_or("");
    if !source.configured {
        return "envoy:    not configured (envoy.admin in levee.yaml), so nothing is known of services"
            .to_owned();
    }
    if let Some(problem) = &source.problem {
        return format!(
            "envoy:    UNREADABLE at {address}, it {problem}; so nothing is known of services"
        );
    }
    if status
        .services
        .iter()
        .all(|service| service.state.is_none())
    {
        return format!(
            "envoy:    read at {address}; it shows no breaker: no request has come yet, or the filter or its stats_tags are missing"
        );
    }
    format!("envoy:    read at {address}")
}

/// A table's column: its title, and whether it holds numbers.
type Column = (&'static str, bool);

/// Lines of a table, whose names are shortened where it would be wider than this. Numbers stand at the right.
fn table(columns: &[Column], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let titles = columns.iter().map(|(title, _)| (*title).to_owned());
    let mut all: Vec<Vec<String>> = std::iter::once(titles.collect())
        .chain(rows.iter().cloned())
        .map(|row: Vec<String>| row.iter().map(|cell| cell_of(cell)).collect())
        .collect();
    let widest = |all: &[Vec<String>], place: usize| {
        let widths = all.iter().map(|row| measure_text_width(&row[place]));
        widths.max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns.len())
        .map(|place| widest(&all, place))
        .collect();
    let whole = widths.iter().sum::<usize>() + GAP.len() * (columns.len() - 1);
    if whole > width {
        let name = widths[0].saturating_sub(whole - width).max(MIN_NAME);
        for row in &mut all {
            row[0] = truncate_str(&row[0], name, "…").into_owned();
        }
        widths[0] = widest(&all, 0);
    }
    all.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).zip(columns);
            let padded = cells.map(|((cell, width), (_, is_number))| {
                let space = " ".repeat(width - measure_text_width(cell));
                if *is_number {
                    space + cell
                } else {
                    cell.clone() + &space
                }
            });
            padded.collect::<Vec<String>>().join(GAP)
        })
        .collect()
}

fn cell_of(text: &str) -> String {
    truncate_str(&plain(text), MAX_NAME, "…").into_owned()
}

/// Without what would move the cursor: some of it others have written.
fn plain(text: &str) -> String {
    let printed = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(printed).collect()
}

fn services(services: &[Service], envoy: &Source, width: usize) -> Vec<String> {
    if services.is_empty() || envoy.problem.is_some() {
        return Vec::new();
    }
    let mut services: Vec<&Service> = services.iter().collect();
    let rank = |service: &Service| match (service.state.as_deref(), service.mode.as_deref()) {
        (Some("open" | "half_open"), Some("shadow")) => 2,
        (Some("open"), _) => 0,
        (Some("half_open"), _) => 1,
        (Some(_), _) => 3,
        (None, _) => 4,
    };
    services.sort_by(|one, other| (rank(one), &one.name).cmp(&(rank(other), &other.name)));
    let row = |service: &&Service| {
        let quantile = |of: fn(&Durations) -> Option<f64>| {
            let seconds = service.durations.as_ref().and_then(of);
            seconds.map_or_else(nothing, short_time)
        };
        let count = |count: u64| match service.state {
            Some(_) => count.to_string(),
            None => nothing(),
        };
        let timeouts = service.timeouts;
        vec![
            service.name.clone(),
            state_in_mode(service.state.as_deref(), service.mode.as_deref()),
            service.since.map_or_else(nothing, since),
            count(service.requests.total()),
            count(service.failures),
            count(service.requests.rejected),
            count(timeouts.request + timeouts.response_header + timeouts.connect),
            quantile(|durations| durations.p50_seconds),
            quantile(|durations| durations.p99_seconds),
        ]
    };
    let rows: Vec<Vec<String>> = services.iter().map(row).collect();
    let mut lines = table(
        &[
            ("SERVICE", false),
            ("STATE", false),
            ("SINCE", false),
            ("REQUESTS", true),
            ("FAILURES", true),
            ("REJECTED", true),
            ("TIMEOUTS", true),
            ("P50", true),
            ("P99", true),
        ],
        &rows,
        width,
    );
    for service in services {
        if service.mode.as_deref() == Some("shadow") && service.shadow_rejected > 0 {
            lines.push(format!(
                "{}: refuses nothing (mode shadow); would have refused {} so far",
                service.name, service.shadow_rejected
            ));
        }
    }
    lines
}

fn redis(upstreams: &[Redis], width: usize) -> Vec<String> {
    if upstreams.is_empty() {
        return Vec::new();
    }
    let row = |redis: &Redis| {
        vec![
            redis.name.clone(),
            state_in_mode(Some(&redis.state), Some(&redis.mode)),
            since(redis.since),
            redis.requests.total().to_string(),
            redis.failures.to_string(),
            redis.requests.rejected.to_string(),
            redis.retries.to_string(),
            redis.budget_left.to_string(),
            format!("{}/{}", redis.connections, redis.connections_limit),
        ]
    };
    let rows: Vec<Vec<String>> = upstreams.iter().map(row).collect();
    let mut lines = table(
        &[
            ("REDIS", false),
            ("BREAKER", false),
            ("SINCE", false),
            ("COMMANDS", true),
            ("FAILURES", true),
            ("REJECTED", true),
            ("RETRIES", true),
            ("BUDGET", true),
            ("CONNECTIONS", true),
        ],
        &rows,
        width,
    );
    for redis in upstreams {
        if let (Some(error), Some(ago)) = (&redis.last_error, redis.last_error_seconds_ago) {
            let ago = long_time(ago);
            lines.push(format!("{}: last error {ago} ago: {error}", redis.name));
        }
    }
    lines
}

fn jobs(jobs: &[Job], width: usize) -> Vec<String> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let row = |job: &Job| {
        let last = match (&job.last_outcome, job.last_seconds_ago) {
            (Some(outcome), Some(ago)) => format!("{outcome} {} ago", long_time(ago)),
            _ => "never".to_owned(),
        };
        let next = match (job.running_seconds, job.next_in_seconds) {
            (Some(seconds), _) => format!("running for {}", long_time(seconds)),
            (None, Some(seconds)) if seconds < 0.0 => format!("late by {}", long_time(-seconds)),
            (None, Some(seconds)) => format!("in {}", long_time(seconds)),
            (None, None) => "by hand".to_owned(),
        };
        let name = if job.dry_run {
            format!("{} (dry run)", job.name)
        } else {
            job.name.clone()
        };
        let last_rows = job.running_rows.or(job.last_rows);
        vec![
            name,
            last,
            next,
            last_rows.map_or_else(nothing, |rows| rows.to_string()),
            job.rows_total.to_string(),
            job.failures_total.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    let mut lines = table(
        &[
            ("JOB", false),
            ("LAST RUN", false),
            ("NEXT RUN", false),
            ("ROWS", true),
            ("ALL ROWS", true),
            ("FAILURES", true),
        ],
        &rows,
        width,
    );
    for job in jobs {
        if let Some(problem) = job.problem.as_ref().or(job.last_error.as_ref()) {
            lines.push(format!("{}: {problem}", job.name));
        }
    }
    lines
}

fn watchdog(watchdog: Option<&Watchdog>) -> Vec<String> {
    let Some(watchdog) = watchdog else {
        return Vec::new();
    };
    let looked = match watchdog.looked_seconds_ago {
        Some(ago) => format!("looked {} ago", long_time(ago)),
        None => "has not looked".to_owned(),
    };
    let mut line = format!(
        "WATCHDOG  {looked}, {} sessions watched, {} acts",
        watchdog.watched, watchdog.acts
    );
    if watchdog.dry_run {
        line += " (dry run: only said)";
    }
    if watchdog.stands_by {
        line += ", stands by: another instance acts";
    }
    let mut lines = vec![line];
    lines.extend(
        watchdog
            .problem
            .iter()
            .map(|problem| format!("watchdog: {problem}")),
    );
    lines
}

fn nothing() -> String {
    "-".to_owned()
}

/// With the mode, unless it is as usual. Without capitals in mode `shadow`, in which nothing is refused.
fn state_in_mode(name: Option<&str>, mode: Option<&str>) -> String {
    match (name, mode) {
        (_, None | Some("enforce")) => state(name),
        (Some(name), Some("shadow")) => format!("{} (shadow)", name.replace('_', "-")),
        (_, Some(mode)) => format!("{} ({mode})", state(name)),
    }
}

/// What is not as usual is in capitals.
fn state(state: Option<&str>) -> String {
    match state {
        None => nothing(),
        Some("open") => "OPEN".to_owned(),
        Some("half_open") => "HALF-OPEN".to_owned(),
        Some(other) => other.to_owned(),
    }
}

/// `5s`; `5s-10s` where it is between the two; `>5s` where nobody knows.
fn since(since: Since) -> String {
    let least = long_time(since.at_least_seconds);
    match since.at_most_seconds {
        None => format!(">{least}"),
        Some(most) if most - since.at_least_seconds < 1.0 => least,
        Some(most) => {
            let most = long_time(most);
            if most == least {
                least
            } else {
                format!("{least}-{most}")
            }
        }
    }
}

/// A time in its two largest units.
fn long_time(seconds: f64) -> String {
    let whole =
        Duration::try_from_secs_f64(seconds.max(0.0)).map_or(u64::MAX, |time| time.as_secs());
    let (days, hours, minutes) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", whole % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// How long a request took.
fn short_time(seconds: f64) -> String {
    let millis = seconds * 1000.0;
    match millis {
        _ if millis < 10.0 => format!("{millis:.1}ms"),
        _ if millis < 1000.0 => format!("{millis:.0}ms"),
        _ if millis < 100_000.0 => format!("{seconds:.1}s"),
        _ => format!("{seconds:.0}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::view::{Requests, Timeouts};

    fn source(address: &str, problem: Option<&str>) -> Source {
        Source {
            configured: true,
            address: Some(address.to_owned()),
            problem: problem.map(str::to_owned),
        }
    }

    fn since(least: f64, most: Option<f64>) -> Since {
        Since {
            at_least_seconds: least,
            at_most_seconds: most,
        }
    }

    fn service(name: &str, state: &str, p50: f64, p99: f64) -> Service {
        Service {
            name: name.to_owned(),
            state: Some(state.to_owned()),
            since: Some(since(7.4, Some(12.2))),
            mode: Some("enforce".to_owned()),
            shadow_rejected: 0,
            requests: Requests {
                success: 12345,
                failure: 6,
                neutral: 1,
                rejected: 3,
            },
            failures: 6,
            timeouts: Timeouts {
                request: 1,
                response_header: 2,
                connect: 3,
            },
            durations: Some(Durations {
                count: 12354,
                p50_seconds: Some(p50),
                p99_seconds: Some(p99),
                window_seconds: None,
            }),
        }
    }

    /// One of everything.
    #[expect(clippy::too_many_lines, reason = "lists every field")]
    fn all() -> Status {
        Status {
            version: Some("0.2.0".to_owned()),
            at: Some("2026-01-01T00:00:00Z".to_owned()),
            sidecar: source("http://127.0.0.1:9464", None),
            envoy: source("http://127.0.0.1:9901", None),
            database: source("", None),
            services: vec![
                service("chat", "closed", 0.0042, 0.81),
                Service {
                    mode: Some("shadow".to_owned()),
                    shadow_rejected: 16,
                    ..service("billing", "open", 0.0042, 0.81)
                },
                Service {
                    mode: Some("shadow".to_owned()),
                    shadow_rejected: 1,
                    ..service("storage", "half_open", 0.0042, 0.81)
                },
                Service {
                    mode: Some("forced_open".to_owned()),
                    ..service("reports", "open", 0.0042, 0.81)
                },
                Service {
                    name: "metrics".to_owned(),
                    durations: Some(Durations::default()),
                    ..Service::default()
                },
                service("auth", "open", 1.5, 250.0),
                Service {
                    shadow_rejected: 2,
                    since: Some(since(90.0, None)),
                    ..service("video", "half_open", 0.12, 0.13)
                },
            ],
            redis: vec![Redis {
                name: "sessions".to_owned(),
                state: "open".to_owned(),
                mode: "shadow".to_owned(),
                since: since(3700.0, Some(3700.0)),
                budget_left: 97,
                connections: 4,
                connections_limit: 1000,
                requests: Requests {
                    success: 10,
                    failure: 5,
                    ..Requests::default()
                },
                failures: 5,
                retries: 9,
                last_error: Some("no\u{1b}[2J connection\n".to_owned()),
                last_error_seconds_ago: Some(3.0),
                ..Redis::default()
            }],
            jobs: vec![
                Job {
                    name: "auth_cleanup".to_owned(),
                    last_outcome: Some("done".to_owned()),
                    last_seconds_ago: Some(65.0),
                    last_rows: Some(20),
                    next_in_seconds: Some(3500.0),
                    rows_total: 1020,
                    ..Job::default()
                },
                Job {
                    name: "video_cleanup".to_owned(),
                    dry_run: true,
                    last_outcome: Some("failed".to_owned()),
                    last_seconds_ago: Some(200_000.0),
                    last_rows: Some(0),
                    last_error: Some("permission denied".to_owned()),
                    next_in_seconds: Some(-30.0),
                    failures_total: 2,
                    ..Job::default()
                },
            ],
            watchdog: Some(Watchdog {
                looked_seconds_ago: Some(0.4),
                watched: 3,
                acts: 1,
                dry_run: true,
                problem: Some("lacks pg_signal_backend".to_owned()),
                ..Watchdog::default()
            }),
        }
    }

    #[test]
    fn all_of_it_looks_so() {
        let wanted = "\
levee 0.2.0 at http://127.0.0.1:9464    2026-01-01T00:00:00Z
envoy:    read at http://127.0.0.1:9901

SERVICE  STATE               SINCE   REQUESTS  FAILURES  REJECTED  TIMEOUTS    P50    P99
auth     OPEN                7s-12s     12355         6         3         6   1.5s   250s
reports  OPEN (forced_open)  7s-12s     12355         6         3         6  4.2ms  810ms
video    HALF-OPEN           >1m30s     12355         6         3         6  120ms  130ms
billing  open (shadow)       7s-12s     12355         6         3         6  4.2ms  810ms
storage  half-open (shadow)  7s-12s     12355         6         3         6  4.2ms  810ms
chat     closed              7s-12s     12355         6         3         6  4.2ms  810ms
metrics  -                   -              -         -         -         -      -      -
billing: refuses nothing (mode shadow); would have refused 16 so far
storage: refuses nothing (mode shadow); would have refused 1 so far

REDIS     BREAKER        SINCE  COMMANDS  FAILURES  REJECTED  RETRIES  BUDGET  CONNECTIONS
sessions  open (shadow)  1h01m        15         5         0        9      97       4/1000
sessions: last error 3s ago: no [2J connection

JOB                      LAST RUN          NEXT RUN     ROWS  ALL ROWS  FAILURES
auth_cleanup             done 1m05s ago    in 58m20s      20      1020         0
video_cleanup (dry run)  failed 2d07h ago  late by 30s     0         0         2
video_cleanup: permission denied

WATCHDOG  looked 0s ago, 3 sessions watched, 1 acts (dry run: only said)
watchdog: lacks pg_signal_backend";
        assert_eq!(render(&all(), 200).join("\n"), wanted);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_names_have_an_end() {
        let mut status = all();
        status.services[0].name = "n".repeat(300);
        for width in [20, 40, 79] {
            for line in render(&status, width) {
                assert!(measure_text_width(&line) <= width, "{width}: {line}");
            }
        }
        let shortened = render(&status, 90).join("\n");
        assert!(
            shortened.contains("  P99\n") && shortened.contains("n…"),
            "{shortened}"
        );
        let name = format!("{}…", "n".repeat(MAX_NAME - 1));
        assert!(
            render(&status, 200)
                .iter()
                .any(|line| line.starts_with(&name))
        );
    }

    #[test]
    fn what_can_not_be_read_is_said_with_the_reason() {
        let sidecar = Status {
            sidecar: source("http://127.0.0.1:9464", Some("can't be reached: refused")),
            ..Status::default()
        };
        assert_eq!(
            render(&sidecar, 200).join("\n"),
            "levee at http://127.0.0.1:9464\n\
             sidecar: UNREADABLE, it can't be reached: refused\n         \
             Nothing can be said of services, Redis, jobs and the watchdog."
        );
        let mut envoy = all();
        envoy.envoy.problem = Some("answered with status 500".to_owned());
        let text = render(&envoy, 200).join("\n");
        assert!(
            text.contains("envoy:    UNREADABLE at http://127.0.0.1:9901, it answered with status 500; so nothing"),
            "{text}"
        );
        assert!(
            !text.contains("SERVICE") && text.contains("REDIS"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_configured_is_said() {
        let nothing = Status {
            sidecar: source("http://127.0.0.1:9464", None),
            ..Status::default()
        };
        let text = render(&nothing, 200).join("\n");
        for part in ["envoy: ", "redis: ", "database: "] {
            let line = text.lines().find(|line| line.starts_with(part));
            assert!(
                line.is_some_and(|line| line.contains("not configured")),
                "{text}"
            );
        }
        let mut bare = nothing;
        bare.envoy = source("http://127.0.0.1:9901", None);
        assert!(render(&bare, 200)[1].contains("it shows no breaker"));
    }

    #[test]
    fn times_have_two_units_at_most() {
        for (seconds, text) in [
            (0.9, "0s"),
            (59.0, "59s"),
            (61.0, "1m01s"),
            (3599.0, "59m59s"),
            (7260.0, "2h01m"),
            (100_000.0, "1d03h"),
            (-1.0, "0s"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(long_time(seconds), text, "{seconds}");
        }
        for (seconds, text) in [
            (0.0, "0.0ms"),
            (0.0099, "9.9ms"),
            (0.5, "500ms"),
            (3600.0, "3600s"),
        ] {
            assert_eq!(short_time(seconds), text, "{seconds}");
        }
    }
}
