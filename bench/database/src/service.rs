//! What a service notices of a job at the same table.
//!
//! The job alternately runs and rests for a few seconds, so the table is measured with and without it, and other load on the
//! machine affects both alike. So do the job's after-effects, such as work for vacuum: they are not separated.

use crate::subject::{prepared, run, sidecar};
use levee_harness::clock::Stopwatch;
use levee_harness::postgres::Postgres;
use postgres::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Connections of the service.
const CLIENTS: usize = 4;

/// Each of them inserts and reads a row so often, so that the machine is not full already. One that is late for it waits
/// already: what keeps the service from asking counts for each time that it was to ask.
const EVERY: Duration = Duration::from_millis(4);

/// How long the job runs, and how long it rests then.
const SLICE: Duration = Duration::from_secs(3);

/// How often, unless it is done before.
const SLICES: u32 = 10;

pub const WHAT: &str = "4 connections insert and read a row each 4 ms; the job runs every other 3 s; milliseconds from when a row was to be inserted";

/// A service, with and without the job.
pub struct Round {
    /// Without the job, and with it.
    pub durations: [Durations; 2],
    /// Of the job.
    pub rows_per_second: f64,
}

impl Round {
    /// How many times as long p99 is with the job.
    pub fn ratio(&self) -> f64 {
        let [without, with] = &self.durations;
        with.p99 / without.p99
    }
}

pub fn beside_job(keys: &str) -> Round {
    let postgres = prepared();
    let sidecar = sidecar(
        &postgres,
        &format!(", max_time: {}s{keys}", SLICE.as_secs()),
    );
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
    Round {
        durations: service.stop(),
        rows_per_second: rows / seconds,
    }
}

/// How long steps of the service took, in milliseconds.
pub struct Durations {
    pub p50: f64,
    pub p99: f64,
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
