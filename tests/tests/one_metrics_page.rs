//! All of Levee's metrics in one place, the sidecar's `/metrics`, whatever Envoy does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use levee_demo::stack::{Parts, Stack};
use levee_harness::address::free_address;
use levee_harness::backend::Backend;
use levee_harness::client::Request;
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::{Envoy, Start};
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::metrics::Metrics;
use levee_harness::process::{Process, Signal};
use levee_harness::sidecar::Sidecar;
use levee_harness::tool::{prometheus, promtool};
use levee_harness::wait::{self, GENEROUS};
use serde_json::{Value, json};

/// Name, type, and labels of a required series.
type Promise = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

/// The metrics of the design.
const DESIGN: [Promise; 14] = [
    ("circuit_breaker_state", "gauge", &[("service", "video")]),
    (
        "circuit_breaker_failures_total",
        "counter",
        &[("service", "video")],
    ),
    (
        "circuit_breaker_requests_total",
        "counter",
        &[("service", "video"), ("outcome", "rejected")],
    ),
    (
        "proxy_request_timeout_total",
        "counter",
        &[("service", "chat"), ("kind", "response_header")],
    ),
    (
        "proxy_request_duration_seconds",
        "histogram",
        &[("service", "auth")],
    ),
    (
        "db_query_timeout_total",
        "counter",
        &[("database", "app"), ("class", "query")],
    ),
    ("redis_retry_total", "counter", &[("upstream", "sessions")]),
    (
        "redis_retry_failed_total",
        "counter",
        &[("upstream", "sessions")],
    ),
    ("auth_cleanup_expired_tokens_total", "counter", &[]),
    ("auth_cleanup_failed_total", "counter", &[]),
    ("auth_cleanup_duration_seconds", "histogram", &[]),
    ("video_cleanup_stale_calls_total", "counter", &[]),
    ("video_cleanup_failed_total", "counter", &[]),
    ("video_cleanup_duration_seconds", "histogram", &[]),
];

/// Waits until the condition holds.
fn eventually(what: &str, holds: impl FnMut() -> Result<(), String>) {
    wait::until_blocking(what, 2 * GENEROUS, holds).unwrap();
}

/// A stack after trouble: `video` is down and its breaker open, `chat` has hung once, `auth` is well.
fn stack_after_trouble() -> Stack {
    let mut stack = Stack::start(Parts::ALL).unwrap();
    let login = json!({"user": "5f0c1a52-54a2-4d0b-9f0c-000000000001"});
    for _ in 0..5 {
        let (status, answer) = stack.post("/v1/auth/login", &login);
        assert!(status < 300, "{status} {answer}");
    }
    stack.service("chat").unwrap().stand_still();
    assert_eq!(stack.get("/v1/chat/x").0, 504);
    stack.service("video").unwrap().stop();
    for _ in 0..12 {
        assert_eq!(stack.get("/v1/video/x").0, 503);
    }
    stack
}

#[test]
fn all_metrics_of_the_design_are_on_the_one_page_and_a_real_prometheus_reads_it() {
    let stack = stack_after_trouble();
    let sidecar = stack.sidecar.as_ref().expect("there is one");
    eventually("all metrics", || {
        let metrics = stack.metrics().unwrap();
        for (name, kind, labels) in DESIGN {
            if metrics.kind(name) != Some(kind) {
                return Err(format!("{name} is {:?}", metrics.kind(name)));
            }
            let series = match kind {
                "histogram" => format!("{name}_count"),
                _ => name.to_owned(),
            };
            if metrics.get(&series, labels).is_none() {
                return Err(format!("{labels:?} of {}", metrics.show(name)));
            }
        }
        let is = |name: &str, labels: &[(&str, &str)], wanted: f64| {
            let value = metrics.get(name, labels);
            let holds = value.is_some_and(|value| value >= wanted);
            holds
                .then_some(())
                .ok_or(format!("{name} {labels:?} is {value:?}"))
        };
        is("circuit_breaker_state", &[("service", "video")], 1.0)?;
        is(
            "circuit_breaker_state",
            &[("service", "redis:sessions")],
            0.0,
        )?;
        is(
            "circuit_breaker_failures_total",
            &[("service", "video")],
            5.0,
        )?;
        let rejected = [("service", "video"), ("outcome", "rejected")];
        is("circuit_breaker_requests_total", &rejected, 7.0)?;
        let timeout = [("service", "chat"), ("kind", "response_header")];
        is("proxy_request_timeout_total", &timeout, 1.0)?;
        let auth = [("service", "auth")];
        is("proxy_request_duration_seconds_count", &auth, 5.0)?;
        is("levee_envoy_up", &[], 1.0)?;
        is("auth_cleanup_duration_seconds_count", &[], 1.0)
    });
    durations_are_envoys_in_seconds(&stack);
    each_series_is_there_once(&sidecar.get("/metrics").unwrap().1);
    promtool_finds_nothing_wrong(&sidecar.get("/metrics").unwrap().1);
    a_prometheus_answers_for(sidecar.admin);
}

/// Bucket by bucket.
fn durations_are_envoys_in_seconds(stack: &Stack) {
    eventually("the same durations", || {
        let own = stack.metrics().unwrap();
        let envoy = Metrics::parse(&stack.ask_envoy("/stats/prometheus").unwrap()).unwrap();
        let mut buckets = 0;
        for theirs in envoy.named("envoy_cluster_upstream_rq_time_bucket") {
            let (service, bound) = (&theirs.labels["envoy_cluster_name"], &theirs.labels["le"]);
            let bound: f64 = bound.parse().map_err(|_| format!("{bound} is no bound"))?;
            let ours = own
                .named("proxy_request_duration_seconds_bucket")
                .find(|ours| {
                    let seconds: f64 = ours.labels["le"].parse().unwrap_or(f64::NAN);
                    // The last bound is infinite on both pages.
                    let is_same = (bound.is_infinite() && seconds.is_infinite())
                        || (seconds * 1000.0 - bound).abs() < 1e-6 * bound;
                    ours.labels["service"] == *service && is_same
                });
            if ours.is_none_or(|ours| (ours.value - theirs.value).abs() > 0.1) {
                return Err(format!("{theirs}, but here {ours:?}"));
            }
            buckets += 1;
        }
        let sum = |metrics: &Metrics, name: &str| metrics.sum(name, &[]);
        let (theirs, ours) = (
            sum(&envoy, "envoy_cluster_upstream_rq_time_sum") / 1000.0,
            sum(&own, "proxy_request_duration_seconds_sum"),
        );
        // Envoy has 19 bounds and +Inf. It records no duration for timeouts and missing answers, so only `auth` has any.
        if buckets != 20 || (theirs - ours).abs() > 1e-6 {
            return Err(format!("{buckets} buckets, {theirs} and {ours} seconds"));
        }
        Ok(())
    });
}

fn each_series_is_there_once(page: &str) {
    let mut seen = BTreeMap::new();
    for line in page.lines() {
        let key = match line.strip_prefix('#') {
            Some(comment) => comment
                .split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" "),
            None => line.rsplit_once(' ').expect("a value").0.to_owned(),
        };
        if let Some(other) = seen.insert(key, line) {
            panic!("twice: {other} and {line}");
        }
    }
}

fn promtool_finds_nothing_wrong(page: &str) {
    let folder = tempfile::tempdir().expect("make a directory");
    let file = folder.path().join("page");
    fs::write(&file, page).expect("write the page");
    let mut promtool = promtool().unwrap();
    promtool.args(["check", "metrics"]);
    let output = promtool
        .stdin(fs::File::open(&file).expect("open the page"))
        .output()
        .expect("run promtool");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{page}");
}

fn a_prometheus_answers_for(admin: SocketAddr) {
    let (folder, web) = (
        tempfile::tempdir().expect("make a directory"),
        free_address().unwrap(),
    );
    let path = |name: &str| folder.path().join(name);
    let config = json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "levee", "static_configs": [{"targets": [admin.to_string()]}]}],
    });
    fs::write(path("prometheus.yml"), config.to_string()).expect("write a configuration");
    let mut command = prometheus().unwrap();
    command
        .arg(format!(
            "--config.file={}",
            path("prometheus.yml").display()
        ))
        .arg(format!("--storage.tsdb.path={}", path("data").display()))
        .arg(format!("--web.listen-address={web}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(path("log")).expect("make a log"));
    let _prometheus = Process::spawn(command, Signal::Kill).expect("start Prometheus");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ask = |query: &str| {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in query.bytes() {
            let _ = write!(path, "%{byte:02X}");
        }
        let request = Request::get(&path);
        let answer = runtime
            .block_on(request.send(web))
            .map_err(|error| error.to_string())?;
        let text = answer.text();
        let page: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        let result = page["data"]["result"].as_array().cloned();
        result.filter(|result| !result.is_empty()).ok_or(text)
    };
    eventually("Prometheus", || {
        let buckets = ask(r#"proxy_request_duration_seconds_bucket{service="auth"}"#)?;
        if buckets.len() != 20 {
            return Err(format!("{buckets:?}"));
        }
        let p99 = ask(
            r#"histogram_quantile(0.99, proxy_request_duration_seconds_bucket{service="auth"})"#,
        )?;
        let seconds: Option<f64> = p99[0]["value"][1]
            .as_str()
            .and_then(|text| text.parse().ok());
        if seconds.is_none_or(|seconds| !(0.0..60.0).contains(&seconds)) {
            return Err(format!("{p99:?}"));
        }
        let open = ask(r#"circuit_breaker_state{service="video"} == 1"#)?;
        let both = ask(r#"count(circuit_breaker_state{service=~"video|redis:sessions"}) == 2"#)?;
        (open.len() == 1 && both.len() == 1)
            .then_some(())
            .ok_or(format!("{open:?} {both:?}"))
    });
}

/// The sidecar with an Envoy at this address, and its page, which must arrive within the promised time.
fn sidecar_of(envoy: SocketAddr) -> Sidecar {
    Sidecar::start(&format!("envoy: {{admin: 'http://{envoy}'}}\n")).unwrap()
}

fn page_of(sidecar: &Sidecar, headers: &[(&str, &str)]) -> (Metrics, Duration) {
    let took = Stopwatch::start();
    let request = headers
        .iter()
        .fold(Request::get("/metrics"), |request, (name, value)| {
            request.header(name, value)
        });
    let (status, page) = sidecar.request(&request).unwrap();
    assert_eq!(status, 200, "{page}");
    let metrics = Metrics::parse(&page).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(metrics.named("levee_build_info").count(), 1, "{page}");
    (metrics, took.elapsed())
}

/// How the fake Envoy answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bad {
    Silent,
    Status500,
    Endless,
    Drips,
    NoHttp,
    EndsTooSoon,
}

/// A faulty Envoy that counts requests.
fn bad_envoy(bad: Bad) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    // Both end with the test process, or when the sidecar closes the connection.
    thread::spawn(move || {
        for stream in listener.incoming().take(1000).flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || serve(stream, bad));
        }
    });
    (address, asked)
}

fn serve(mut stream: TcpStream, bad: Bad) {
    let _ = stream.read(&mut [0; 4096]);
    let mut say = |text: &[u8]| stream.write_all(text).is_ok();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n";
    let line = "circuit_breaker_state{service=\"auth\"} 0\n";
    match bad {
        Bad::Silent => {
            let _ = stream.read_to_end(&mut Vec::new());
        }
        Bad::Status500 => {
            say(b"HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\nno\n");
        }
        Bad::Endless => {
            say(format!("{head}\r\n").as_bytes());
            let piece = line.repeat(2000);
            while say(piece.as_bytes()) {}
        }
        Bad::Drips => {
            say(format!("{head}\r\n").as_bytes());
            while say(line.as_bytes()) {
                thread::sleep(Duration::from_millis(100));
            }
        }
        Bad::NoHttp => {
            say(b"+PONG\r\n");
        }
        Bad::EndsTooSoon => {
            say(format!("{head}content-length: 1000\r\n\r\n{line}").as_bytes());
        }
    }
}

#[test]
fn the_page_is_there_in_time_whatever_envoy_does() {
    for (bad, reason) in [
        (Bad::Silent, "has not answered within 2s"),
        (Bad::Status500, "answered with status 500"),
        (Bad::Endless, "answered with more than 16777216 bytes"),
        (Bad::Drips, "has not answered within 2s"),
        (Bad::NoHttp, "can't be read"),
        (Bad::EndsTooSoon, "can't be read"),
    ] {
        let sidecar = sidecar_of(bad_envoy(bad).0);
        let (metrics, took) = page_of(&sidecar, &[]);
        // One reading of at most 2 s, with a margin for a busy machine.
        assert!(took < Duration::from_secs(4), "{bad:?} took {took:?}");
        assert_eq!(metrics.get("levee_envoy_up", &[]), Some(0.0), "{bad:?}");
        assert_eq!(metrics.named("circuit_breaker_state").count(), 0, "{bad:?}");
        eventually("the failure to be counted", || {
            let (metrics, _) = page_of(&sidecar, &[]);
            let failed = metrics.get("levee_envoy_scrapes_failed_total", &[]);
            let counted = failed.is_some_and(|failed| failed >= 1.0);
            counted.then_some(()).ok_or(format!("{bad:?}: {failed:?}"))
        });
        if matches!(bad, Bad::Silent | Bad::Drips) {
            for _ in 0..5 {
                thread::sleep(Duration::from_millis(700));
                let (metrics, took) = page_of(&sidecar, &[]);
                assert!(
                    took < Duration::from_secs(1),
                    "nobody waits again: {took:?}"
                );
                assert_eq!(metrics.get("levee_envoy_up", &[]), Some(0.0));
            }
        }
        sidecar.wait_for_log(reason).unwrap();
        let log = sidecar.log();
        let lines = log.lines().filter(|line| line.contains(reason)).count();
        assert_eq!(lines, 1, "once, not at each reading: {log}");
    }
}

#[test]
fn prometheus_own_limit_shortens_the_wait() {
    let sidecar = sidecar_of(bad_envoy(Bad::Silent).0);
    let header = "x-prometheus-scrape-timeout-seconds";
    let (metrics, took) = page_of(&sidecar, &[(header, "0.5")]);
    assert_eq!(metrics.get("levee_envoy_up", &[]), Some(0.0));
    assert!(took < Duration::from_millis(1800), "{took:?}");
    for nonsense in ["-1", "soon", "1e300", "NaN"] {
        let (metrics, _) = page_of(&sidecar, &[(header, nonsense)]);
        assert_eq!(metrics.get("levee_envoy_up", &[]), Some(0.0), "{nonsense}");
    }
}

/// Asks for the page again and again on one connection, until that is closed.
fn ask_on_and_on(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        .is_ok()
    {
        let (mut length, mut line) = (None, String::new());
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            let value = line.to_ascii_lowercase();
            let value = value.strip_prefix("content-length:");
            length = length.or(value.and_then(|value| value.trim().parse().ok()));
            line.clear();
        }
        let body = length.map(|length| reader.read_exact(&mut vec![0; length]));
        if !matches!(body, Some(Ok(()))) {
            return;
        }
    }
}

#[test]
fn health_is_answered_at_once_while_all_others_wait_for_a_silent_envoy() {
    let sidecar = sidecar_of(bad_envoy(Bad::Silent).0);
    let admin = sidecar.admin;
    for _ in 0..40 {
        // They end with the sidecar.
        thread::spawn(move || {
            while let Ok(stream) = TcpStream::connect(admin) {
                ask_on_and_on(stream);
            }
        });
    }
    let whole = Stopwatch::start();
    while whole.elapsed() < Duration::from_secs(4) {
        for path in ["/healthz", "/readyz"] {
            let took = Stopwatch::start();
            assert_eq!(sidecar.get(path).unwrap().0, 200);
            let took = took.elapsed();
            assert!(took < Duration::from_secs(1), "{path} took {took:?}");
        }
    }
}

#[test]
fn those_who_ask_together_share_a_reading() {
    let (address, asked) = bad_envoy(Bad::Silent);
    let sidecar = sidecar_of(address);
    thread::scope(|threads| {
        for _ in 0..20 {
            threads.spawn(|| page_of(&sidecar, &[]));
        }
    });
    // The sidecar's own, the one shared by the twenty, and one of each that may have begun since.
    let asked = asked.load(Ordering::SeqCst);
    assert!((1..=4).contains(&asked), "{asked} readings");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_comes_goes_and_comes_back_is_seen() {
    let admin = free_address().unwrap();
    let sidecar = sidecar_of(admin);
    let is = async |wanted: f64| {
        wait::until("levee_envoy_up", 2 * GENEROUS, || async {
            let (metrics, _) = page_of(&sidecar, &[]);
            let up = metrics.get("levee_envoy_up", &[]);
            let lines = metrics.named("circuit_breaker_state").count();
            let holds = up == Some(wanted) && (lines > 0) == (wanted > 0.0);
            holds.then_some(()).ok_or(format!("{up:?}, {lines} states"))
        })
        .await
        .unwrap();
    };
    is(0.0).await;
    for _ in 0..2 {
        let auth = Backend::start().unwrap();
        let start = Start {
            admin: Some(admin),
            ..Start::default()
        };
        let config = EnvoyConfig::gateway().upstream("auth", auth.address());
        let envoy = Envoy::start_with(config, &start).await.unwrap();
        assert_eq!(envoy.get("/v1/auth/x").await.unwrap().status, 200);
        is(1.0).await;
        drop(envoy);
        is(0.0).await;
    }
    sidecar.wait_for_log("can be read again").unwrap();
}

#[test]
fn without_envoy_in_the_configuration_there_is_nothing_of_it() {
    let sidecar = Sidecar::start("").unwrap();
    let (metrics, _) = page_of(&sidecar, &[]);
    assert_eq!(metrics.get("levee_envoy_up", &[]), None);
}

/// A cluster whose name Envoy splits.
const DOTTED: &str = "outbound|8080||auth.default.svc.cluster-a.local";

#[tokio::test(flavor = "multi_thread")]
async fn a_clusters_name_with_dots_is_the_services_and_aliases_are_heeded() {
    let auth = Backend::start().unwrap();
    let yaml = EnvoyConfig::gateway()
        .upstream("auth", auth.address())
        .to_yaml()
        .unwrap()
        .replace("cluster: auth\n", &format!("cluster: {DOTTED}\n"))
        .replace("name: auth\n", &format!("name: {DOTTED}\n"));
    let envoy = Envoy::start(EnvoyConfig::parse(&yaml)).await.unwrap();
    assert_eq!(envoy.get("/v1/auth/x").await.unwrap().status, 200);
    let plain = sidecar_of(envoy.admin());
    let aliased = Sidecar::start(&format!(
        "envoy: {{admin: 'http://{}', aliases: {{'{DOTTED}': auth}}}}\n",
        envoy.admin()
    ))
    .unwrap();
    for (sidecar, service) in [(&plain, DOTTED), (&aliased, "auth")] {
        wait::until("the durations", 2 * GENEROUS, || async {
            let (metrics, _) = page_of(sidecar, &[]);
            let name = "proxy_request_duration_seconds_count";
            let count = metrics.get(name, &[("service", service)]);
            (count == Some(1.0))
                .then_some(())
                .ok_or(metrics.show("proxy_request_duration_seconds"))
        })
        .await
        .unwrap();
    }
    let (metrics, _) = page_of(&plain, &[]);
    assert_eq!(
        metrics.get("circuit_breaker_state", &[("service", DOTTED)]),
        Some(0.0)
    );
}
