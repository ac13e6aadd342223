//! Callers at addresses of their own, and what becomes of their calls.

use std::net::SocketAddr;
use std::time::Duration;

use levee_harness::backend::{Behaviour, SeenRequest};
use levee_harness::client::{Connection, Request};
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::{Envoy, Start};
use levee_harness::envoy_config::EnvoyConfig;
use levee_policy::random::SplitMix64;
use serde_json::Value;

use crate::{at, believing};

/// With four workers, and these services by name.
pub async fn gateway(
    services: impl IntoIterator<Item = (&str, SocketAddr)>,
    plugin: &Value,
) -> Envoy {
    let services: Vec<(&str, SocketAddr)> = services.into_iter().collect();
    let mut config = EnvoyConfig::gateway()
        .only_services(services.iter().map(|(name, _)| *name))
        .without_health_checks();
    for (name, address) in services {
        config = config.upstream(name, address);
    }
    let start = Start {
        concurrency: 4,
        ..Start::default()
    };
    Envoy::start_with(believing(config.plugin(plugin)), &start)
        .await
        .unwrap()
}

/// From 0 to 99, evenly distributed.
pub fn percent(random: &mut SplitMix64) -> u32 {
    u32::try_from(random.next_u64() % 100).expect("below 100")
}

/// The address of an honest caller, of a thousand.
pub fn honest_address(number: usize) -> String {
    format!("10.0.{}.{}", number / 250, number % 250)
}

/// How many calls were sent, and what became of those that were not answered well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub sent: usize,
    pub refused: usize,
    pub failed: usize,
}

impl Seen {
    pub fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            refused: self.refused + other.refused,
            failed: self.failed + other.failed,
        }
    }
}

const BAD: &str = "?bad";

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Good,
    /// What [`answer`] can't serve, whoever asks.
    Bad,
}

/// A service that works, and answers bad calls with 500.
pub fn answer(request: &SeenRequest) -> Behaviour {
    let is_bad = request.target.ends_with(BAD);
    Behaviour::status(if is_bad { 500 } else { 200 })
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    Badly,
    Refused,
}

/// Callers of one service who call one after the other.
pub struct Callers {
    path: String,
    addresses: Vec<String>,
    connections: Vec<Connection>,
    pub random: SplitMix64,
    pub seen: Seen,
}

impl Callers {
    /// Each connection is served by one worker, which Envoy chooses.
    pub async fn open(
        gateway: SocketAddr,
        service: &str,
        addresses: Vec<String>,
        connections: usize,
        seed: u64,
    ) -> Self {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Connection::open(gateway).await.unwrap());
        }
        Self {
            path: format!("/v1/{service}/x"),
            addresses,
            connections: open,
            random: SplitMix64::new(seed),
            seen: Seen::default(),
        }
    }

    /// A call of the next caller.
    pub async fn call(&mut self, call: Call) -> Ended {
        let number = self.seen.sent;
        let caller = &self.addresses[number % self.addresses.len()];
        let connections = self.connections.len();
        let connection = &mut self.connections[number % connections];
        let request = match call {
            Call::Good => Request::get(&self.path),
            Call::Bad => Request::get(&format!("{}{BAD}", self.path)),
        };
        let request = at(caller, request);
        let answer = connection.send(&request).await.unwrap();
        self.seen.sent += 1;
        if answer.is_refusal() {
            self.seen.refused += 1;
            return Ended::Refused;
        }
        if answer.status == 200 {
            return Ended::Well;
        }
        self.seen.failed += 1;
        Ended::Badly
    }

    /// Good calls for `length`: this many at once, then a pause of about this long, and as many in the end.
    pub async fn call_well(&mut self, length: Duration, at_once: usize, pause: Duration) {
        let watch = Stopwatch::start();
        loop {
            for _ in 0..at_once {
                self.call(Call::Good).await;
            }
            let left = length.saturating_sub(watch.elapsed());
            if left.is_zero() {
                return;
            }
            let pause = pause / 2 + pause * percent(&mut self.random) / 100;
            tokio::time::sleep(pause.min(left)).await;
        }
    }
}
