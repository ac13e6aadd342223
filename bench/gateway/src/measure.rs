//! Measures in rounds. Each round measures every case once, one after the other, so that disturbances of the machine
//! affect all of them. Each round starts with another case, so that none always follows the same one. Ratios are computed
//! within a round.

use crate::backend::{LARGE, SMALL};
use crate::client::{Protocol, Request};
use crate::load::{Load, Outcome, Statuses};
use crate::report::{Bound, CpuRow, CpuTable, LatencyRow, LatencyTable, MISSING, Setting};
use crate::variant::{Place, Running, Variant};
use anyhow::{Result, bail, ensure};
use levee_bench_statistics::Spread;
use std::collections::HashMap;
use std::time::Duration;

/// Requests before a round's first measurement of a proxy, for connections, compilation and new services.
const WARM_UP: u64 = 8_000;
/// Clients of a closed loop, unless a case says otherwise.
const CLIENTS: usize = 16;
/// Clients of an open loop: far more than requests in flight, unless something stalls.
const OPEN_CLIENTS: usize = 128;
/// The duration of a measurement of latencies.
const LATENCY_SECONDS: f64 = 3.0;

/// The answers that a case must get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Always 200.
    Good,
    /// Always 503.
    Refused,
    /// Every tenth 500, the others 200.
    TenthFailed,
    /// 200 or 503, as a half-open breaker answers.
    SomeRefused,
}

/// A row of a table.
#[derive(Clone, Debug)]
pub struct Case {
    pub variant: Variant,
    /// Follows the variant's name.
    pub note: &'static str,
    /// The service of the requests.
    pub service: &'static str,
    /// Requests in flight at once.
    pub clients: usize,
    /// The answers that they must get.
    pub expected: Expected,
    /// The row that this one is compared with.
    pub baseline: usize,
}

impl Case {
    /// Good requests, compared with the first row.
    pub fn good(variant: Variant) -> Self {
        Self {
            variant,
            note: "",
            service: "service",
            clients: CLIENTS,
            expected: Expected::Good,
            baseline: 0,
        }
    }

    /// The same case with another suffix.
    pub fn with(self, note: &'static str, service: &'static str, expected: Expected) -> Self {
        Self {
            note,
            service,
            expected,
            ..self
        }
    }

    fn name(&self) -> String {
        match self.note {
            "" => self.variant.name().to_owned(),
            note => format!("{}, {note}", self.variant.name()),
        }
    }
}

/// Where and how it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub place: Place<'a>,
    pub load_cpus: &'a [usize],
    pub protocol: Protocol,
    /// `small` or `large`.
    pub answer: &'static str,
    /// Number of rounds.
    pub rounds: usize,
    /// Requests in each measurement of CPU time.
    pub requests: u64,
    /// If not empty, requests go to these services in turns, instead of to the case's own.
    pub services: &'a [String],
}

/// Running proxies, by variant.
pub type Proxies = HashMap<Variant, Running>;

impl Plan<'_> {
    fn load(&self, case: &Case, proxies: &Proxies, clients: usize) -> Result<Load> {
        let Some(running) = proxies.get(&case.variant) else {
            bail!(MISSING)
        };
        let path = case.variant.path(case.service, self.answer);
        let requests: Result<Vec<Request>> = match self.services {
            [] => vec![Request::new(case.service, &path)]
                .into_iter()
                .collect(),
            services => services
                .iter()
                .map(|service| Request::new(service, &path))
                .collect(),
        };
        Ok(Load {
            port: running.port(self.protocol),
            protocol: self.protocol,
            clients,
            requests: requests?,
            cpus: self.load_cpus.to_vec(),
        })
    }

    fn setting(&self, clients: usize, requests: u64) -> Setting {
        Setting {
            workers: self.place.workers,
            protocol: match self.protocol {
                Protocol::Http1 => "HTTP/1.1",
                Protocol::Http2 => "HTTP/2",
            },
            answer_bytes: if self.answer == "small" { SMALL } else { LARGE },
            clients,
            requests,
            rounds: self.rounds,
            proxy_cpus: self.place.cpus.to_vec(),
            load_cpus: self.load_cpus.to_vec(),
        }
    }

    /// The requests per second of bare Envoy in a closed loop.
    pub fn rate(&self, proxies: &Proxies) -> Result<f64> {
        let load = self.load(&Case::good(Variant::Bare), proxies, CLIENTS)?;
        load.closed(WARM_UP)?;
        Ok(per_second(&load.closed(WARM_UP)?))
    }

    /// The CPU time per request of each case, in a closed loop.
    pub fn cpu(&self, title: &str, cases: &[Case], proxies: &Proxies) -> CpuTable {
        eprintln!("==> {title}");
        let mut rows: Vec<Measured> = cases.iter().map(|_| Measured::default()).collect();
        for round in 0..self.rounds {
            for index in in_turn(round, cases.len()) {
                let (case, row) = (&cases[index], &mut rows[index]);
                if row.problem.is_some() {
                    continue;
                }
                match self.cpu_once(case, proxies, round == 0) {
                    Ok(measured) => row.add(measured),
                    Err(error) => row.problem = Some(format!("{error:#}")),
                }
            }
        }
        let cpu = |index: usize| &rows[index].cpu_us;
        let named = |variant: &Variant| {
            cases
                .iter()
                .position(|case| case.variant == *variant && case.note.is_empty())
        };
        let rows = cases
            .iter()
            .zip(&rows)
            .enumerate()
            .map(|(index, (case, row))| {
                let to = |other: usize| Spread::of_ratios(cpu(index), cpu(other));
                let to_named = |variant| named(&variant).and_then(to);
                CpuRow {
                    name: case.name(),
                    variant: case.variant.name().to_owned(),
                    cpu_us: Spread::of(cpu(index).iter().copied()),
                    ratio: to(case.baseline),
                    compared_with: cases[case.baseline].name(),
                    to_floor: to_named(Variant::Floor),
                    to_lua: to_named(Variant::Lua),
                    per_second: Spread::of(row.per_second.iter().copied()),
                    clients: case.clients,
                    refused_share: share(&row.statuses, 503),
                    failed_share: share(&row.statuses, 500),
                    problem: row.problem.clone(),
                }
            });
        CpuTable {
            title: title.to_owned(),
            setting: self.setting(CLIENTS, self.requests),
            rows: rows.collect(),
        }
    }

    fn cpu_once(&self, case: &Case, proxies: &Proxies, is_first: bool) -> Result<Once> {
        let load = self.load(case, proxies, case.clients)?;
        if is_first {
            self.bring_about(case, &load)?;
            load.closed(WARM_UP)?;
        }
        let process = &proxies[&case.variant].process;
        let before = process.cpu_time()?;
        let outcome = load.closed(self.requests)?;
        let Some(used) = process.cpu_time()?.checked_sub(before) else {
            bail!("a process of the proxy has ended");
        };
        check(case.expected, &outcome.statuses)?;
        if case.expected == Expected::SomeRefused {
            // A few clients may all be let through. Only more of them show whether it is still half-open.
            let load = self.load(case, proxies, CLIENTS)?;
            let statuses = load.closed(64)?.statuses;
            ensure!(
                statuses.contains_key(&200) && statuses.contains_key(&503),
                "it is no longer half-open: {CLIENTS} clients got {statuses:?}"
            );
        }
        Ok(Once {
            cpu_us: micros(used) / count(self.requests),
            per_second: per_second(&outcome),
            statuses: outcome.statuses,
        })
    }

    /// Brings the breaker into the state that the case measures.
    fn bring_about(&self, case: &Case, load: &Load) -> Result<()> {
        let until = |status: u16| -> Result<()> {
            for _ in 0..300 {
                // More than the consecutive failures that open a breaker, for each worker.
                if load.closed(64)?.statuses.contains_key(&status) {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            bail!("{} never gets {status}", case.name())
        };
        match case.expected {
            Expected::Refused => {
                until(503)?;
                // So that other workers are notified.
                std::thread::sleep(Duration::from_millis(500));
                Ok(())
            }
            Expected::SomeRefused => {
                self.place.backend.switch(true);
                let opened = until(503);
                self.place.backend.switch(false);
                opened?;
                until(200)
            }
            Expected::Good | Expected::TenthFailed => Ok(()),
        }
    }

    /// The latencies of each case at a fixed rate.
    pub fn latency(&self, title: &str, cases: &[Case], proxies: &Proxies) -> Result<LatencyTable> {
        let rate = (self.rate(proxies)? / 2.0 / 100.0).floor() * 100.0;
        ensure!(rate > 0.0, "bare Envoy is too slow to measure");
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "about ten thousand"
        )]
        let requests = (rate * LATENCY_SECONDS) as u64;
        eprintln!("==> {title}");
        let all = self.latencies(cases, proxies, rate, requests);
        let rows = cases.iter().zip(&all).map(|(case, own)| {
            let at = |percent| Spread::of(own.percentiles(percent));
            let added = |percent| {
                let base = all[case.baseline].percentiles(percent);
                let pairs = own.percentiles(percent).into_iter().zip(base);
                Spread::of(pairs.map(|(own, base)| own - base))
            };
            LatencyRow {
                name: case.name(),
                variant: case.variant.name().to_owned(),
                p50_us: at(50.0),
                p99_us: at(99.0),
                p999_us: at(99.9),
                added_p50_us: added(50.0),
                added_p99_us: added(99.0),
                lag_p99_us: Spread::of(own.lags()),
                problem: own.problem.clone(),
            }
        });
        Ok(LatencyTable {
            title: title.to_owned(),
            setting: self.setting(OPEN_CLIENTS, requests),
            rate,
            bound: Bound::default(),
            rows: rows.collect(),
        })
    }

    /// Measures all cases in all rounds. A case with a problem is not measured again.
    fn latencies(
        &self,
        cases: &[Case],
        proxies: &Proxies,
        rate: f64,
        requests: u64,
    ) -> Vec<Latencies> {
        let mut all: Vec<Latencies> = cases.iter().map(|_| Latencies::default()).collect();
        for round in 0..self.rounds {
            for index in in_turn(round, cases.len()) {
                let own = &mut all[index];
                if own.problem.is_some() {
                    continue;
                }
                match self.latency_once(&cases[index], proxies, rate, requests, round == 0) {
                    Ok(outcome) => own.rounds.push(outcome),
                    Err(error) => own.problem = Some(format!("{error:#}")),
                }
            }
        }
        all
    }

    fn latency_once(
        &self,
        case: &Case,
        proxies: &Proxies,
        rate: f64,
        requests: u64,
        is_first: bool,
    ) -> Result<Outcome> {
        let load = self.load(case, proxies, OPEN_CLIENTS)?;
        if is_first {
            self.bring_about(case, &load)?;
            load.closed(WARM_UP)?;
        }
        // Reopens connections to the service that were closed since.
        load.closed(2_000)?;
        let outcome = load.open(rate, requests)?;
        check(case.expected, &outcome.statuses)?;
        Ok(outcome)
    }
}

/// The indices of the cases in the order in which a round measures them.
fn in_turn(round: usize, cases: usize) -> impl Iterator<Item = usize> {
    (0..cases).map(move |place| (round + place) % cases)
}

/// A case's latencies.
#[derive(Default)]
struct Latencies {
    rounds: Vec<Outcome>,
    /// Why it was not measured, or not completely.
    problem: Option<String>,
}

impl Latencies {
    /// The percentile of each round, in microseconds.
    fn percentiles(&self, percent: f64) -> Vec<f64> {
        let of = |outcome: &Outcome| micros(percentile(&outcome.latencies, percent));
        self.rounds.iter().map(of).collect()
    }

    /// The 99th percentile of the load's own delay in each round, in microseconds.
    fn lags(&self) -> Vec<f64> {
        let of = |outcome: &Outcome| micros(percentile(&outcome.lags, 99.0));
        self.rounds.iter().map(of).collect()
    }
}

#[derive(Default)]
struct Measured {
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
    statuses: Statuses,
    problem: Option<String>,
}

struct Once {
    cpu_us: f64,
    per_second: f64,
    statuses: Statuses,
}

impl Measured {
    fn add(&mut self, once: Once) {
        self.cpu_us.push(once.cpu_us);
        self.per_second.push(once.per_second);
        for (status, number) in once.statuses {
            *self.statuses.entry(status).or_default() += number;
        }
    }
}

fn check(expected: Expected, statuses: &Statuses) -> Result<()> {
    let (good, refused, failed) = (
        share(statuses, 200),
        share(statuses, 503),
        share(statuses, 500),
    );
    let is_so = match expected {
        Expected::Good => good >= 1.0,
        // A breaker lets a few through when its time has passed; one without a half-open state lets all in flight through.
        Expected::Refused => refused > 0.99,
        Expected::TenthFailed => (failed - 0.1).abs() < 0.01 && good + failed >= 1.0,
        Expected::SomeRefused => good > 0.0 && good + refused >= 1.0,
    };
    ensure!(
        is_so,
        "{expected:?} was expected, but the answers were {statuses:?}"
    );
    Ok(())
}

fn share(statuses: &Statuses, status: u16) -> f64 {
    let all: u64 = statuses.values().sum();
    count(statuses.get(&status).copied().unwrap_or(0)) / count(all.max(1))
}

/// The nearest rank.
fn percentile(sorted: &[Duration], percent: f64) -> Duration {
    let Some(last) = sorted.len().checked_sub(1) else {
        return Duration::ZERO;
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "between 0 and the length"
    )]
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.saturating_sub(1).min(last)]
}

fn per_second(outcome: &Outcome) -> f64 {
    count(outcome.statuses.values().sum()) / outcome.elapsed.as_secs_f64()
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}
