//! An attacker at a service that fails now and then for all: one of its ten hosts is dead, and nothing is retried.

use std::time::Duration;

use levee_harness::backend::Backend;
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::{Envoy, Start};
use levee_harness::envoy_config::EnvoyConfig;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::callers::{self, Call, Callers, honest_address};
use crate::{ATTACKER, believing};

const LENGTH: Duration = Duration::from_secs(15);

/// Bad calls, this long apart.
async fn attack(attacker: &mut Callers, apart: Duration) {
    let watch = Stopwatch::start();
    for number in 1.. {
        if watch.elapsed() >= LENGTH {
            return;
        }
        attacker.call(Call::Bad).await;
        tokio::time::sleep((apart * number).saturating_sub(watch.elapsed())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attacker_opens_nothing_where_one_of_ten_hosts_is_dead() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    // It has an address, and refuses connections.
    let dead = TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let hosts: Vec<Backend> = (0..9).map(|_| Backend::start().unwrap()).collect();
    for host in &hosts {
        host.choose(|_, request| callers::answer(request));
    }
    let alive = hosts.iter().map(Backend::address);
    let addresses: Vec<_> = alive.chain([dead.local_addr().unwrap()]).collect();
    let addresses: Vec<_> = addresses.into_iter().map(Into::into).collect();
    let config = EnvoyConfig::gateway()
        .only_services(["video"])
        .upstreams("video", &addresses)
        .cluster("video", &json!({"outlier_detection": null}))
        .route("video", &json!({"route": {"retry_policy": null}}))
        .without_health_checks()
        .plugin(&json!({}));
    let start = Start {
        concurrency: 4,
        ..Start::default()
    };
    let envoy = Envoy::start_with(believing(config), &start).await.unwrap();

    let addresses = (0..10).map(honest_address).collect();
    let mut honest = Callers::open(envoy.address(), "video", addresses, 4, seed).await;
    let addresses = vec![ATTACKER.to_owned()];
    let mut attacker = Callers::open(envoy.address(), "video", addresses, 4, seed + 1).await;
    tokio::join!(
        honest.call_well(LENGTH, 1, Duration::from_millis(160)),
        attack(&mut attacker, Duration::from_millis(33)),
    );
    let (honest, attacker) = (honest.seen, attacker.seen);
    println!("honest {honest:?}, attacker {attacker:?}");
    assert!(honest.failed > 0, "the dead host is asked: {honest:?}");
    assert!(attacker.failed > 100, "{attacker:?}");
    assert_eq!(honest.refused, 0, "{honest:?}, {attacker:?}");
}
