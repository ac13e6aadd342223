//! A backlog at a database that nobody else uses.

use crate::subject::{EXPIRED, prepared, run, sidecar};
use levee_harness::clock::Stopwatch;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often what is left is noted.
const NOTED_EVERY: Duration = Duration::from_millis(50);

/// How it was worked off.
pub struct Backlog {
    /// Until nothing was left.
    pub seconds: f64,
    /// Seconds since the start, and rows that were left.
    pub left: Vec<(f64, u64)>,
}

pub fn by_levee(keys: &str) -> Backlog {
    let postgres = prepared();
    let sidecar = sidecar(&postgres, keys);
    let is_over = AtomicBool::new(false);
    let clock = Stopwatch::start();
    let mut left = vec![(0.0, EXPIRED.into())];
    let seconds = thread::scope(|scope| {
        let running = scope.spawn(|| {
            let report = run(&sidecar);
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(
                (&report["outcome"], &report["rows"]),
                (&"done".into(), &EXPIRED.into())
            );
            report["seconds"].as_f64().expect("how long it took")
        });
        while !is_over.load(Ordering::Relaxed) {
            thread::sleep(NOTED_EVERY);
            // Levee's own count, so that noting does not load the database.
            let gone = sidecar.metric("auth_cleanup_expired_tokens_total");
            let gone = gone.expect("a metric");
            left.push((clock.elapsed().as_secs_f64(), u64::from(EXPIRED) - gone));
        }
        running.join().expect("a run")
    });
    Backlog { seconds, left }
}

/// What one would write without Levee, and without regard for anybody.
pub fn by_loop() -> Backlog {
    let postgres = prepared();
    let mut client = postgres.client_as("levee").expect("a client");
    let clock = Stopwatch::start();
    let (mut rows, mut left) = (u64::from(EXPIRED), vec![(0.0, EXPIRED.into())]);
    loop {
        let gone = client.execute(
            "DELETE FROM email_verification_tokens WHERE token_id IN (SELECT token_id FROM email_verification_tokens \
             WHERE expires_at < now() ORDER BY expires_at LIMIT 1000)",
            &[],
        );
        let gone = gone.expect("a batch");
        let seconds = clock.elapsed().as_secs_f64();
        if gone == 0 {
            return Backlog { seconds, left };
        }
        rows -= gone;
        left.push((seconds, rows));
    }
}
