//! The status as text.

mod breaker;
mod database;
mod redis;
mod services;
mod table;
mod time;

use super::view::Status;
use console::truncate_str;
use table::{GAP, plain};

/// The status in lines of at most `width` columns.
pub fn render(status: &Status, width: usize) -> Vec<String> {
    let mut lines = vec![title(status)];
    if let Some(problem) = &status.sidecar.problem {
        lines.push(format!("sidecar: UNREADABLE, it {problem}"));
        lines.push(
            "         Nothing is known of services, Redis, jobs and the watchdog.".to_owned(),
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
            services::services(&status.services, &status.envoy, width),
            redis::redis(&status.redis, width),
            database::jobs(&status.jobs, width),
            database::watchdog(status.watchdog.as_ref()),
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

#[cfg(test)]
mod tests {
    use super::table::MAX_NAME;
    use super::*;
    use crate::status::view::{
        Durations, Job, Redis, Requests, Scope, Service, Since, Source, Timeouts, Watchdog,
    };
    use console::measure_text_width;

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
            scopes: Vec::new(),
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
                Service {
                    scopes: [
                        ("login", "open"),
                        ("profile", "closed"),
                        ("upload", "half_open"),
                    ]
                    .map(|(name, state)| Scope {
                        name: name.to_owned(),
                        state: Some(state.to_owned()),
                    })
                    .to_vec(),
                    ..service("chat", "closed", 0.0042, 0.81)
                },
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
    fn all_parts_are_rendered() {
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
chat, scope login: OPEN
chat, scope upload: HALF-OPEN

REDIS     BREAKER        SINCE  COMMANDS  FAILURES  REJECTED  RETRIES  BUDGET  CONNECTIONS
sessions  open (shadow)  1h01m        15         5         0        9      97       4/1000
sessions: last error 3s ago: no [2J connection

JOB                      LAST RUN          NEXT RUN     ROWS  ALL ROWS  FAILURES
auth_cleanup             done 1m05s ago    in 58m20s      20      1020         0
video_cleanup (dry run)  failed 2d07h ago  late by 30s     0         0         2
video_cleanup: permission denied

WATCHDOG  polled 0s ago, 3 sessions watched, 1 action (dry run: only logged)
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
    fn what_can_not_be_read_is_shown_with_the_reason() {
        let sidecar = Status {
            sidecar: source("http://127.0.0.1:9464", Some("can't be reached: refused")),
            ..Status::default()
        };
        assert_eq!(
            render(&sidecar, 200).join("\n"),
            "levee at http://127.0.0.1:9464\n\
             sidecar: UNREADABLE, it can't be reached: refused\n         \
             Nothing is known of services, Redis, jobs and the watchdog."
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
    fn what_is_not_configured_is_shown_as_such() {
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
}
