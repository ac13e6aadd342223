//! What a service at `PostgreSQL` notices of a cleanup job beside it: rounds without and with the job, in turns.
//!
//! Started by `cargo xtask bench database`, with the number of rounds. `BENCH_JOB` in the environment has further keys of
//! the job, such as `, batch: 1000`; what is printed says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use levee_tests::clock::Stopwatch;
use levee_tests::postgres::Postgres;
use levee_tests::sidecar::Sidecar;
use serde_json::Value;

/// Connections of the service.
const CLIENTS: usize = 4;

/// Each of them inserts and reads a row so often, so that the machine is not full already. One that is late for it waits
/// already: what keeps the service from asking counts for each time that it was to ask.
const EVERY: Duration = Duration::from_millis(4);

/// How long a round without the job takes; about as long as one with it.
const CALM: Duration = Duration::from_secs(30);

/// The longest that the job may take.
const LONGEST: Duration = Duration::from_mins(10);

const EXPIRED: u32 = 300_000;
const VALID: u32 = 150_000;

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|rounds| rounds.parse().ok());
    let rounds: u32 = rounds.unwrap_or(1);
    let keys = std::env::var("BENCH_JOB").unwrap_or_default();
    let settings = match &keys[..] {
        "" => "its default settings",
        keys => keys.trim_start_matches([',', ' ']),
    };
    println!(
        "{CLIENTS} connections of a service insert and read a row each {EVERY:?}; the job deletes {EXPIRED} of {} rows \
         with {settings}. Milliseconds, from when a row was to be inserted.\n",
        EXPIRED + VALID
    );
    println!("round   without: p50   p99    with: p50   p99   ratio of p99   the job");
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let postgres = Postgres::start();
        postgres.make_tables();
        postgres.add_tokens(EXPIRED, VALID);
        let jobs =
            format!("jobs: {{auth_cleanup: {{preset: expired_tokens, scheduled: false{keys}}}}}");
        let sidecar = Sidecar::at(&postgres, "levee", &jobs);
        let without = measure(&postgres, || thread::sleep(CALM));
        let mut report = Value::Null;
        let with = measure(&postgres, || {
            report = run(&sidecar);
        });
        assert_eq!(report["rows"], EXPIRED, "{report}");
        let ratio = with.1 / without.1;
        println!(
            "{round:>5} {:>14.2} {:>5.2} {:>12.2} {:>5.2} {ratio:>14.2}   {:.1} s",
            without.0,
            without.1,
            with.0,
            with.1,
            report["seconds"].as_f64().unwrap_or_default()
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "\nmedian of the ratios {:.2} [{:.2} to {:.2}]",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

/// The report of a run, when it has ended.
fn run(sidecar: &Sidecar) -> Value {
    sidecar.post("/v1/auth/cleanup?wait=0s");
    let waited = Stopwatch::start();
    loop {
        let (_, job) = sidecar.get("/v1/jobs/auth_cleanup");
        let mut job: Value = serde_json::from_str(&job).expect("JSON");
        if !job["last"].is_null() {
            return job["last"].take();
        }
        assert!(waited.elapsed() < LONGEST, "{job}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// The median and the 99th percentile of the service's steps while `meanwhile` runs, in milliseconds.
fn measure(postgres: &Postgres, meanwhile: impl FnOnce()) -> (f64, f64) {
    let running = Arc::new(AtomicBool::new(true));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (mut client, running) = (postgres.client_as("app"), running.clone());
            thread::spawn(move || {
                let insert = client
                    .prepare(
                        "INSERT INTO email_verification_tokens (expires_at) VALUES (now() + interval '1 day') \
                         RETURNING token_id::text",
                    )
                    .expect("a statement");
                let read = client
                    .prepare("SELECT 1 FROM email_verification_tokens WHERE token_id = $1::text::uuid")
                    .expect("a statement");
                let mut times = Vec::new();
                let clock = Stopwatch::start();
                let mut due = Duration::ZERO;
                while running.load(Ordering::Relaxed) {
                    let early = due.saturating_sub(clock.elapsed());
                    thread::sleep(early);
                    // That a thread wakes late is not the database's doing; that the step before took long is.
                    let begin = if early.is_zero() { due } else { clock.elapsed() };
                    let id: String = client.query_one(&insert, &[]).expect("an insert").get(0);
                    client.query_one(&read, &[&id]).expect("the row");
                    let took = clock.elapsed().saturating_sub(begin);
                    times.push(took.as_secs_f64() * 1000.0);
                    due += EVERY;
                }
                times
            })
        })
        .collect();
    meanwhile();
    running.store(false, Ordering::Relaxed);
    let mut times: Vec<f64> = clients
        .into_iter()
        .flat_map(|client| client.join().expect("the service saw no error"))
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
