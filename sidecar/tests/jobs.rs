//! The loop that runs a job, with a scripted job.
#![allow(missing_docs)]

use levee::clock::Clock;
use levee::jobs::metrics::{JobFamilies, JobMetrics};
use levee::jobs::others::{Look, Sessions};
use levee::jobs::pace::{PaceSettings, Rest};
use levee::jobs::report::{Outcome, Report};
use levee::jobs::runner::Runner;
use levee::jobs::settings::JobSettings;
use levee::jobs::{Backlog, Batch, Error, ErrorKind, Job, Preview, Run};
use levee_policy::ratio::Ratio;
use prometheus::Registry;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The result of each step, in order. After the last, no rows are left.
#[derive(Clone, Default)]
struct Script {
    begins_after: Duration,
    begins: Arc<Mutex<VecDeque<ErrorKind>>>,
    claims: Arc<Mutex<VecDeque<ErrorKind>>>,
    batches: Arc<Mutex<VecDeque<Result<u64, ErrorKind>>>>,
    lags: Arc<Mutex<VecDeque<Duration>>>,
    looks: Arc<Mutex<VecDeque<Sessions>>>,
    asked: Arc<Mutex<Vec<u32>>>,
}

fn error(kind: ErrorKind) -> Error {
    Error {
        kind,
        message: format!("{kind:?}"),
    }
}

fn next<T>(list: &Mutex<VecDeque<T>>) -> Option<T> {
    list.lock().unwrap().pop_front()
}

impl Job for Script {
    type Run = Self;

    async fn begin(&self) -> Result<Self, Error> {
        tokio::time::sleep(self.begins_after).await;
        next(&self.begins).map_or(Ok(self.clone()), |kind| Err(error(kind)))
    }
}

impl Run for Script {
    async fn claim(&mut self) -> Result<(), Error> {
        next(&self.claims).map_or(Ok(()), |kind| Err(error(kind)))
    }

    async fn batch(&mut self, size: u32) -> Result<Batch, Error> {
        self.asked.lock().unwrap().push(size);
        let rows = next(&self.batches).unwrap_or(Ok(0)).map_err(error)?;
        let is_last = rows < u64::from(size);
        Ok(Batch {
            rows,
            left: Vec::new(),
            work: None,
            is_last,
        })
    }

    async fn preview(&mut self) -> Result<Preview, Error> {
        Ok(Preview {
            rows: 7,
            ..Preview::default()
        })
    }

    async fn backlog(&mut self) -> Result<Option<Backlog>, Error> {
        let rows = self.batches.lock().unwrap().len() as u64;
        Ok(Some(Backlog { rows, oldest: None }))
    }

    fn warnings(&self) -> &[String] {
        &[]
    }

    async fn end(self) {}

    async fn look(&mut self) -> Option<Look> {
        let sessions = next(&self.looks)?;
        Some(Look {
            sessions,
            transactions: 0,
            own: 0,
            levee: 0,
        })
    }

    async fn lag(&mut self) -> Option<Duration> {
        next(&self.lags)
    }
}

const SETTINGS: JobSettings = JobSettings {
    every: None,
    pace: PaceSettings {
        batch: 100,
        aim: Duration::from_mins(1),
        rest: Rest::Never,
        max_lag: Duration::from_secs(10),
    },
    max_rows: 1_000_000,
    max_time: Duration::from_mins(1),
    dry_run: false,
};

fn metrics() -> JobMetrics {
    let families = JobFamilies::register(&Registry::new()).unwrap();
    families.job("x", None).unwrap()
}

async fn run(script: &Script, settings: JobSettings) -> Report {
    let (_stop, stopped) = watch::channel(false);
    let metrics = metrics();
    let clock = Clock::start();
    let runner = Runner::new("x", settings, script.clone(), clock, metrics, 1, stopped);
    let report = runner.run(runner.turn().unwrap(), settings.dry_run).await;
    assert!(runner.turn().is_ok(), "the turn is returned");
    assert!(runner.status().running.is_none());
    report
}

#[tokio::test]
async fn a_run_goes_on_until_a_batch_is_not_full() {
    let script = Script::default();
    script
        .batches
        .lock()
        .unwrap()
        .extend([Ok(100), Ok(100), Ok(99), Ok(100)]);
    let report = run(&script, SETTINGS).await;
    assert_eq!(
        (report.outcome, report.rows, report.batches),
        (Outcome::Done, 299, 3)
    );
    assert_eq!(*script.asked.lock().unwrap(), [100; 3]);
}

#[tokio::test]
async fn transient_failures_are_retried_and_permanent_ones_reported() {
    use ErrorKind::{Elsewhere, Permanent, Slow, Transient};
    for (batches, outcome, rows) in [
        (
            vec![Ok(100), Err(Transient), Err(Transient), Ok(1)],
            Outcome::Done,
            101,
        ),
        (vec![Ok(100), Err(Slow), Ok(50), Ok(1)], Outcome::Done, 151),
        (vec![Ok(100), Err(Permanent), Ok(1)], Outcome::Failed, 100),
    ] {
        let script = Script::default();
        script.batches.lock().unwrap().extend(batches.clone());
        let report = run(&script, SETTINGS).await;
        assert_eq!(
            (report.outcome, report.rows),
            (outcome, rows),
            "{batches:?}"
        );
    }

    let script = Script::default();
    script.begins.lock().unwrap().extend([Transient; 5]);
    let report = run(&script, SETTINGS).await;
    assert_eq!(
        (report.outcome, report.error.as_deref()),
        (Outcome::Failed, Some("Transient"))
    );

    let script = Script::default();
    script.claims.lock().unwrap().push_back(Elsewhere);
    assert_eq!(run(&script, SETTINGS).await.outcome, Outcome::Elsewhere);
    assert!(script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_claim_that_is_still_held_after_a_lost_connection_is_our_own() {
    for (held_for, outcome, rows, error) in [
        (1, Outcome::Done, 101, None),
        // So long only by another instance.
        (
            5,
            Outcome::Elsewhere,
            100,
            Some("Elsewhere; before that: Transient"),
        ),
    ] {
        let script = Script::default();
        let batches = [Ok(100), Err(ErrorKind::Transient), Ok(1)];
        script.batches.lock().unwrap().extend(batches);
        let pause = Duration::from_millis(50);
        let pace = PaceSettings {
            rest: Rest::Beside {
                pause,
                share: Ratio::ONE,
            },
            ..SETTINGS.pace
        };
        let ((), report) = tokio::join!(
            async {
                // After the first claim.
                while script.asked.lock().unwrap().is_empty() {
                    tokio::task::yield_now().await;
                }
                let held = [ErrorKind::Elsewhere].repeat(held_for);
                script.claims.lock().unwrap().extend(held);
            },
            run(&script, JobSettings { pace, ..SETTINGS })
        );
        assert_eq!((report.outcome, report.rows), (outcome, rows));
        assert_eq!(
            report.error.as_deref(),
            error,
            "the first error is reported, too"
        );
    }
}

#[tokio::test]
async fn a_claim_that_is_still_held_after_the_first_batch_was_lost_is_our_own() {
    let script = Script::default();
    let batches = [Err(ErrorKind::Transient), Ok(1)];
    script.batches.lock().unwrap().extend(batches);
    let ((), report) = tokio::join!(
        async {
            // After the first claim.
            while script.asked.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            script
                .claims
                .lock()
                .unwrap()
                .push_back(ErrorKind::Elsewhere);
        },
        run(&script, SETTINGS)
    );
    assert_eq!((report.outcome, report.rows), (Outcome::Done, 1));
}

#[tokio::test]
async fn a_run_waits_for_lagging_replicas() {
    let script = Script::default();
    script
        .lags
        .lock()
        .unwrap()
        .push_back(Duration::from_secs(11));
    script.batches.lock().unwrap().push_back(Ok(1));
    let report = run(&script, SETTINGS).await;
    assert_eq!(report.rows, 1);
    assert!(report.took >= Duration::from_secs(1), "{:?}", report.took);
    assert!(script.lags.lock().unwrap().is_empty());
}

#[tokio::test]
async fn batches_grow_while_nobody_else_is_there() {
    for (sessions, largest) in [
        (Some(Sessions::Still), 6400),
        (Some(Sessions::Active), 500),
        (Some(Sessions::Untracked), 500),
        (None, 500),
    ] {
        let script = Script::default();
        script.looks.lock().unwrap().extend(sessions);
        let full = [100, 200, 400, 800, 1600, 3200].map(Ok);
        script.batches.lock().unwrap().extend(full);
        let rest = Rest::Beside {
            pause: Duration::ZERO,
            share: Ratio::percent(50),
        };
        let pace = PaceSettings {
            batch: 10_000,
            rest,
            ..SETTINGS.pace
        };
        run(&script, JobSettings { pace, ..SETTINGS }).await;
        let asked = script.asked.lock().unwrap().clone();
        assert_eq!(asked[0], 100, "{asked:?}");
        let found = asked.iter().max().copied().unwrap_or_default();
        assert!(
            if largest > 500 {
                found == largest
            } else {
                found < largest
            },
            "{sessions:?}: {asked:?}"
        );
    }
}

#[tokio::test]
async fn a_run_has_limits() {
    let script = Script::default();
    script.batches.lock().unwrap().extend([Ok(100); 5]);
    let report = run(
        &script,
        JobSettings {
            max_rows: 250,
            ..SETTINGS
        },
    )
    .await;
    assert_eq!(report.outcome, Outcome::Limit);
    assert_eq!(*script.asked.lock().unwrap(), [100, 100, 50]);

    let script = Script::default();
    script.batches.lock().unwrap().extend([Ok(100); 5]);
    let report = run(
        &script,
        JobSettings {
            max_time: Duration::ZERO,
            ..SETTINGS
        },
    )
    .await;
    // The current batch is finished.
    assert_eq!((report.outcome, report.rows), (Outcome::Limit, 100));
}

#[tokio::test]
async fn waiting_for_others_does_not_count_towards_max_time() {
    let script = Script {
        begins_after: Duration::from_millis(2100),
        ..Script::default()
    };
    script.batches.lock().unwrap().extend([Ok(100); 3]);
    let max_time = Duration::from_secs(2);
    let settings = JobSettings {
        max_time,
        ..SETTINGS
    };
    let report = run(&script, settings).await;
    assert_eq!((report.outcome, report.rows), (Outcome::Done, 300));
}

#[tokio::test]
async fn a_dry_run_only_counts() {
    let script = Script::default();
    let report = run(
        &script,
        JobSettings {
            dry_run: true,
            ..SETTINGS
        },
    )
    .await;
    assert_eq!(
        (report.outcome, report.rows, report.batches),
        (Outcome::Done, 7, 0)
    );
    assert!(script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_first_run_comes_within_a_minute_and_later_ones_up_to_a_tenth_early() {
    let clock = Clock::start();
    let scheduled = |seed: u64, every: Duration| {
        let (stop, stopped) = watch::channel(false);
        let settings = JobSettings {
            every: Some(every),
            ..SETTINGS
        };
        let metrics = metrics();
        let script = Script::default();
        let runner = Runner::new("x", settings, script, clock, metrics, seed, stopped);
        let runner = Arc::new(runner);
        let task = tokio::spawn(runner.clone().run_on_schedule());
        (runner, task, stop)
    };
    let now = clock.now();
    let mut firsts = Vec::new();
    for seed in 0..20 {
        let (runner, task, stop) = scheduled(seed, Duration::from_hours(1));
        let next = loop {
            if let Some(next) = runner.status().next {
                break next;
            }
            tokio::task::yield_now().await;
        };
        firsts.push(next.since(now).as_secs());
        stop.send(true).unwrap();
        task.await.unwrap();
    }
    println!("{firsts:?}");
    assert!(firsts.iter().all(|seconds| *seconds <= 61));
    assert!(firsts.iter().any(|seconds| *seconds < 20));
    assert!(firsts.iter().any(|seconds| *seconds > 40));

    let every = Duration::from_secs(1);
    let (runner, task, stop) = scheduled(1, every);
    let (began, next) = loop {
        let status = runner.status();
        if let (Some(last), Some(next)) = (status.last, status.next)
            && next > last.began
        {
            break (last.began, next);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    stop.send(true).unwrap();
    task.await.unwrap();
    let wait = next.since(began);
    // Measured from when the run was due, slightly before it began.
    assert!(
        wait > every * 8 / 10 && wait < every,
        "{wait:?} after the run began"
    );
}
