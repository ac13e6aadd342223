//! How the cost of a request grows with services, workers and configuration, and what the start of the filter costs.

use crate::backend::Backend;
use crate::client::Protocol;
use crate::envoy::{self, Config, Envoy, Start};
use crate::matrix::{Bench, share_cpus};
use crate::measure::{Case, Plan, Proxies};
use crate::report::{CpuTable, GrowthRow, GrowthTable, Report, Summary};
use crate::system;
use crate::variant::{Place, Running, Variant};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

const REQUESTS: u64 = 6_000;
const ROUNDS: usize = 7;
/// How often each start is measured.
const STARTS: usize = 5;

/// All of it.
pub fn growth(bench: &Bench, report: &mut Report) -> Result<()> {
    let columns = ["envoy, CPU us", "levee, CPU us", "ratio"]
        .map(str::to_owned)
        .to_vec();
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let how = format!(
        "{rounds} rounds of {REQUESTS} requests, closed loop of 16, HTTP/1.1, answers of 100 bytes"
    );

    let mut rows = Vec::new();
    for number in [1, 10, 1000] {
        let services: Vec<String> = (0..number).map(|index| format!("s{index}")).collect();
        let row = measure(
            bench,
            &Measured {
                workers: 1,
                is_pinned: true,
                services: &services,
                settings: json!({}),
            },
        )?;
        rows.push(row.named(plural(number, "service")));
    }
    let title = "Requests to many services".to_owned();
    let pinned = format!("one worker on its own CPU; requests go to the services in turns; {how}");
    report.growth.push(GrowthTable {
        title,
        how: pinned,
        columns: columns.clone(),
        rows,
    });

    let mut rows = Vec::new();
    for workers in [1, 2, 4] {
        let services = ["s0".to_owned()];
        let row = measure(
            bench,
            &Measured {
                workers,
                is_pinned: false,
                services: &services,
                settings: json!({}),
            },
        )?;
        rows.push(row.named(plural(workers, "worker")));
    }
    let title = "Workers".to_owned();
    let shared = format!("all on all CPUs, with the load and the service; {how}");
    report.growth.push(GrowthTable {
        title,
        how: shared,
        columns: columns.clone(),
        rows,
    });

    let mut rows = Vec::new();
    for (name, bytes) in [
        ("least configuration", 0),
        ("1 kB", 1_000),
        ("1 MB", 1_000_000),
    ] {
        let services = ["s0".to_owned()];
        let settings = configuration(bytes);
        let row = measure(
            bench,
            &Measured {
                workers: 1,
                is_pinned: true,
                services: &services,
                settings,
            },
        )?;
        rows.push(row.named(name.to_owned()));
    }
    let title = "Configuration of the filter".to_owned();
    let pinned =
        format!("one worker on its own CPU; services with a breaker and a time limit each; {how}");
    report.growth.push(GrowthTable {
        title,
        how: pinned,
        columns,
        rows,
    });

    report.growth.push(starts(bench)?);
    Ok(())
}

/// Settings for as many services as make this many bytes of JSON.
fn configuration(bytes: usize) -> Value {
    let mut services = Map::new();
    let mut size = 0;
    while size < bytes {
        let name = format!("service-{}", services.len());
        let own = json!({"breaker": {"open_for": "10s"}, "timeouts": {"class": "short"}});
        size += name.len() + own.to_string().len() + 4;
        services.insert(name, own);
    }
    json!({"services": services})
}

fn plural(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

struct Measured<'a> {
    workers: usize,
    is_pinned: bool,
    services: &'a [String],
    settings: Value,
}

/// Bare Envoy and Levee, side by side.
struct SideBySide(CpuTable);

impl SideBySide {
    fn named(self, name: String) -> GrowthRow {
        let [bare, levee] = &self.0.rows[..] else {
            unreachable!("two cases are measured")
        };
        let problem = bare.problem.clone().or_else(|| levee.problem.clone());
        GrowthRow {
            name,
            values: vec![bare.cpu_us, levee.cpu_us, levee.ratio],
            problem,
        }
    }
}

fn measure(bench: &Bench, what: &Measured) -> Result<SideBySide> {
    let all = system::allowed_cpus();
    let (cpus, load_cpus) = if what.is_pinned {
        share_cpus(what.workers)
    } else {
        (all.clone(), all)
    };
    let backend = Backend::start(&load_cpus)?;
    let place = Place {
        tools: bench.tools,
        backend: &backend,
        folder: bench.folder,
        workers: what.workers,
        cpus: &cpus,
    };
    let mut proxies = Proxies::new();
    for variant in [Variant::Bare, Variant::Levee] {
        let config = config(bench, &place, what, &variant)?;
        let Envoy { process, port, .. } = Envoy::start(config, &place.envoy(&variant))?;
        proxies.insert(variant, Running::envoy(process, port));
    }
    let plan = Plan {
        place,
        load_cpus: &load_cpus,
        protocol: Protocol::Http1,
        answer: "small",
        rounds: bench.rounds.unwrap_or(ROUNDS),
        requests: REQUESTS,
        services: what.services,
    };
    let cases = [Variant::Bare, Variant::Levee].map(Case::good);
    Ok(SideBySide(plan.cpu("How cost grows", &cases, &proxies)))
}

fn config(bench: &Bench, place: &Place, what: &Measured, variant: &Variant) -> Result<Config> {
    let config = Config::bare(place.backend.port, what.services.iter().map(String::as_str))?;
    let tools = bench.tools;
    match variant {
        Variant::Levee => config.with_filter(envoy::levee(
            &tools.recommended,
            &tools.levee,
            &what.settings,
        )?),
        Variant::Floor => config.with_filter(envoy::levee(
            &tools.recommended,
            &tools.floor,
            &what.settings,
        )?),
        _ => Ok(config),
    }
}

/// Time and memory of a start.
fn starts(bench: &Bench) -> Result<GrowthTable> {
    let cpus = system::allowed_cpus();
    let backend = Backend::start(&cpus)?;
    let kinds = [
        ("envoy", Variant::Bare, json!({})),
        ("floor", Variant::Floor, json!({})),
        ("levee", Variant::Levee, json!({})),
        (
            "levee, 1 MB of configuration",
            Variant::Levee,
            configuration(1_000_000),
        ),
    ];
    eprintln!("==> Starts");
    let workers = [1, 2, 4];
    // By kind and workers: milliseconds, MiB.
    let mut all = vec![[(); 3].map(|()| (Vec::new(), Vec::new())); kinds.len()];
    for _ in 0..bench.rounds.unwrap_or(STARTS) {
        for ((_, variant, settings), own) in kinds.iter().zip(&mut all) {
            for (workers, (times, memory)) in workers.iter().zip(own) {
                let place = Place {
                    tools: bench.tools,
                    backend: &backend,
                    folder: bench.folder,
                    workers: *workers,
                    cpus: &cpus,
                };
                let services = ["s0".to_owned()];
                let what = Measured {
                    workers: *workers,
                    is_pinned: false,
                    services: &services,
                    settings: settings.clone(),
                };
                let start = Start {
                    ..place.envoy(variant)
                };
                let envoy = Envoy::start(config(bench, &place, &what, variant)?, &start)
                    .context("a start")?;
                times.push(envoy.start.as_secs_f64() * 1e3);
                memory.push(mebibytes(envoy.process.resident_kib()));
            }
        }
    }
    let differences = |own: &[f64], other: &[f64], parts: f64| {
        Summary::of(
            &own.iter()
                .zip(other)
                .map(|(own, other)| (own - other) / parts)
                .collect::<Vec<_>>(),
        )
    };
    let rows = kinds.iter().zip(&all).map(|((name, ..), own)| {
        let [(one_ms, one), _, (four_ms, four)] = own;
        GrowthRow {
            name: (*name).to_owned(),
            values: vec![
                Summary::of(one_ms),
                Summary::of(four_ms),
                Summary::of(one),
                Summary::of(four),
                differences(four_ms, one_ms, 3.0),
                differences(four, one, 3.0),
            ],
            problem: None,
        }
    });
    Ok(GrowthTable {
        title: "Start".to_owned(),
        how: format!(
            "from the start of the process until it is ready, and the memory that it holds then; {} starts of each, in \
             turns, on all CPUs. A worker more costs what the last two columns say",
            bench.rounds.unwrap_or(STARTS)
        ),
        columns: [
            "1 worker, ms",
            "4 workers, ms",
            "1 worker, MiB",
            "4 workers, MiB",
            "each more, ms",
            "each more, MiB",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: rows.collect(),
    })
}

#[allow(clippy::cast_precision_loss, reason = "far less than 2^52")]
fn mebibytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
