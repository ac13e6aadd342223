//! How a cleanup job affects a service that uses the same `PostgreSQL`.
//!
//! The job alternately runs and rests for a few seconds, so the same table is measured with and without it, and other load
//! on the machine affects both alike. So do the job's after-effects, such as work for vacuum: they are not separated.
//!
//! Started by `cargo xtask bench database`, with the number of rounds. `BENCH_JOB` in the environment has further keys of
//! the job, such as `, batch: 1000`; the output names them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use postgres::Client;
use serde_json::Value;

/// Connections of the service.
const CLIENTS: usize = 4;

/// Each of them inserts and reads a row so often, so that the machine is not full already. One that is late for it waits
/// already: what keeps the service from asking counts for each time that it was to ask.
const EVERY: Duration = Duration::from_millis(4);

/// How long the job runs, and how long it rests then.
const SLICE: Duration = Duration::from_secs(3);

/// How often, unless it is done before.
const SLICES: u32 = 20;

/// As `PostgreSQL` is by default, where the tests have it quicker.
const DURABLE: [&str; 3] = ["fsync=on", "full_page_writes=on", "shared_buffers=128MB"];

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
        "{CLIENTS} connections of a service insert and read a row each {EVERY:?}; the job deletes from {} rows, of which \
         {EXPIRED} have expired, with {settings}, each other {SLICE:?}. Milliseconds, from when a row was to be inserted.\n",
        EXPIRED + VALID
    );
    println!("round   without: p50   p99    with: p50   p99   ratio of p99   rows/s");
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let postgres = Postgres::start_with(&DURABLE).unwrap();
        postgres.make_tables().unwrap();
        postgres.add_tokens(EXPIRED, VALID).unwrap();
        // As a table that has been there for a while.
        postgres
            .execute("VACUUM ANALYZE email_verification_tokens")
            .unwrap();
        postgres.execute("CHECKPOINT").unwrap();
        let sidecar = Sidecar::at(
            &postgres,
            "levee",
            &format!(
                "jobs: {{auth_cleanup: {{preset: expired_tokens, scheduled: false, max_time: {}s{keys}}}}}",
                SLICE.as_secs()
            ),
        ).unwrap();
        let service = Service::start(&postgres);
        let (mut rows, mut seconds) = (0.0, 0.0);
        for _ in 0..SLICES {
            thread::sleep(SLICE);
            service.is_beside_job.store(true, Ordering::Relaxed);
            let report = run(&sidecar);
            service.is_beside_job.store(false, Ordering::Relaxed);
            rows += report["rows"].as_f64().expect("its rows");
            seconds += report["seconds"].as_f64().expect("how long it took");
            match report["outcome"].as_str() {
                Some("limit") => {}
                Some("done") => break,
                _ => panic!("{report}"),
            }
        }
        let [without, with] = service.stop();
        let ratio = with.p99 / without.p99;
        println!(
            "{round:>5} {:>14.2} {:>5.2} {:>12.2} {:>5.2} {ratio:>14.2} {:>8.0}",
            without.p50,
            without.p99,
            with.p50,
            with.p99,
            rows / seconds
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
    let (status, report) = sidecar.post("/v1/auth/cleanup?wait=1m").unwrap();
    assert_eq!(status, 200, "{report}");
    report
}

/// How long steps of the service took, in milliseconds.
struct Durations {
    p50: f64,
    p99: f64,
}

impl Durations {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self {
            p50: times[times.len() / 2],
            p99: times[times.len() * 99 / 100],
        }
    }
}

/// A service that inserts and reads rows.
struct Service {
    is_running: Arc<AtomicBool>,
    is_beside_job: Arc<AtomicBool>,
    clients: Vec<JoinHandle<[Vec<f64>; 2]>>,
}

impl Service {
    fn start(postgres: &Postgres) -> Self {
        let is_running = Arc::new(AtomicBool::new(true));
        let is_beside_job = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let client = postgres.client_as("app").unwrap();
            let (is_running, is_beside_job) = (is_running.clone(), is_beside_job.clone());
            thread::spawn(move || steps(client, &is_running, &is_beside_job))
        };
        Self {
            clients: (0..CLIENTS).map(client).collect(),
            is_running,
            is_beside_job,
        }
    }

    /// Without the job, and with it.
    fn stop(self) -> [Durations; 2] {
        self.is_running.store(false, Ordering::Relaxed);
        let mut all = [Vec::new(), Vec::new()];
        for client in self.clients {
            let times = client.join().expect("the service saw no error");
            for (all, times) in all.iter_mut().zip(times) {
                all.extend(times);
            }
        }
        all.map(Durations::of)
    }
}

/// The steps of one connection, in milliseconds: without the job, and with it.
fn steps(mut client: Client, is_running: &AtomicBool, is_beside_job: &AtomicBool) -> [Vec<f64>; 2] {
    let insert = client
        .prepare(
            "INSERT INTO email_verification_tokens (expires_at) VALUES (now() + interval '1 day') \
             RETURNING token_id::text",
        )
        .expect("a statement");
    let read = client
        .prepare("SELECT 1 FROM email_verification_tokens WHERE token_id = $1::text::uuid")
        .expect("a statement");
    let mut times = [Vec::new(), Vec::new()];
    let clock = Stopwatch::start();
    let mut due = Duration::ZERO;
    while is_running.load(Ordering::Relaxed) {
        let early = due.saturating_sub(clock.elapsed());
        thread::sleep(early);
        // That a thread wakes late is not the database's doing; that the step before took long is.
        let begin = if early.is_zero() {
            due
        } else {
            clock.elapsed()
        };
        let times = &mut times[usize::from(is_beside_job.load(Ordering::Relaxed))];
        let id: String = client.query_one(&insert, &[]).expect("an insert").get(0);
        client.query_one(&read, &[&id]).expect("the row");
        let took = clock.elapsed().saturating_sub(begin);
        times.push(took.as_secs_f64() * 1000.0);
        due += EVERY;
    }
    times
}
