//! When a service that answers 500 to all opens its breaker, with four workers.
//!
//! `-- --nocapture a_service_that_breaks` prints the table.

use std::net::SocketAddr;
use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::clock::Stopwatch;
use levee_harness::wait::GENEROUS;
use serde_json::json;

use crate::callers::{self, Call, Callers, Ended, honest_address};

/// How long the service works before it breaks.
const WORKS: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
struct Case {
    callers: usize,
    per_second: u32,
    witnesses: u32,
}

#[derive(Debug)]
struct Opened {
    case: Case,
    failures: usize,
    after: Duration,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (callers, per_second) in [(1, 2), (1, 20), (10, 20), (1000, 20)] {
        for witnesses in [1, 2] {
            cases.push(Case {
                callers,
                per_second,
                witnesses,
            });
        }
    }
    cases
}

/// Calls until the breaker is open.
async fn until_open(gateway: SocketAddr, service: Backend, name: String, case: Case) -> Opened {
    let addresses = (0..case.callers).map(honest_address).collect();
    let connections = case.callers.min(8);
    let mut callers = Callers::open(gateway, &name, addresses, connections, 1).await;
    let pause = Duration::from_secs(1) / case.per_second;
    callers.call_well(WORKS, 1, pause).await;
    assert_eq!(callers.seen.failed + callers.seen.refused, 0, "{case:?}");
    service.always(Behaviour::status(500));
    let broken = Stopwatch::start();
    while callers.call(Call::Good).await != Ended::Refused {
        assert!(broken.elapsed() < GENEROUS, "{case:?}: {:?}", callers.seen);
        tokio::time::sleep(pause).await;
    }
    Opened {
        case,
        failures: callers.seen.failed,
        after: broken.elapsed(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_breaks_for_all_opens_and_for_one_caller_that_is_alone_a_little_later() {
    let cases = cases();
    let services: Vec<Backend> = cases.iter().map(|_| Backend::start().unwrap()).collect();
    let names: Vec<String> = (0..cases.len())
        .map(|number| format!("s{number}"))
        .collect();
    let witnesses: serde_json::Map<_, _> = names
        .iter()
        .zip(&cases)
        .map(|(name, case)| {
            let settings = json!({"breaker": {"witnesses": case.witnesses}});
            (name.clone(), settings)
        })
        .collect();
    let at = names.iter().zip(&services);
    let at = at.map(|(name, service)| (name.as_str(), service.address()));
    let envoy = callers::gateway(at, &json!({"services": witnesses})).await;
    let running: Vec<_> = services
        .into_iter()
        .zip(names)
        .zip(cases)
        .map(|((service, name), case)| {
            tokio::spawn(until_open(envoy.address(), service, name, case))
        })
        .collect();
    println!("| callers | calls/s | witnesses | failed calls | seconds |");
    println!("|---|---|---|---|---|");
    for opened in running {
        let opened = opened.await.unwrap();
        let Opened {
            case,
            failures,
            after,
        } = opened;
        println!(
            "| {} | {} | {} | {failures} | {:.1} |",
            case.callers,
            case.per_second,
            case.witnesses,
            after.as_secs_f64()
        );
        if (case.callers, case.witnesses) == (1, 2) {
            assert!(failures >= 15, "{opened:?}");
            // Seconds in which others would have been answered.
            assert!(after > Duration::from_secs(4), "{opened:?}");
        } else {
            // Another worker may let a call through before it knows.
            assert!((5..10).contains(&failures), "{opened:?}");
        }
    }
}
