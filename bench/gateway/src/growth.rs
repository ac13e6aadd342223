//! How the cost of a request grows with services, workers and configuration, and what the start of the filter costs.

use crate::backend::Backend;
use crate::client::Protocol;
use crate::envoy::{self, Config, Envoy};
use crate::matrix::{Bench, share_cpus};
use crate::measure::{Case, Plan, Proxies};
use crate::report::{GrowthRow, GrowthTable, Report, Summary};
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
    let one = || vec!["s0".to_owned()];
    let many = [1, 10, 1000].map(|number| Measured {
        name: plural(number, "service"),
        workers: 1,
        is_pinned: true,
        services: (0..number).map(|index| format!("s{index}")).collect(),
        settings: json!({}),
    });
    report.growth.push(table(
        bench,
        "Requests to many services",
        "one worker on its own CPU; requests go to the services in turns",
        &many,
    )?);

    let workers = [1, 2, 4].map(|workers| Measured {
        name: plural(workers, "worker"),
        workers,
        is_pinned: false,
        services: one(),
        settings: json!({}),
    });
    report.growth.push(table(
        bench,
        "Workers",
        "all on all CPUs, with the load and the service",
        &workers,
    )?);

    let sizes = [
        ("no services", 0),
        ("1 kB of services", 1_000),
        ("1 MB of services", 1_000_000),
    ];
    let configured = sizes.map(|(name, bytes)| Measured {
        name: name.to_owned(),
        workers: 1,
        is_pinned: true,
        services: one(),
        settings: configuration(bytes),
    });
    report.growth.push(table(
        bench,
        "Configuration of the filter",
        "one worker on its own CPU; the configuration of gateway.yaml, with services that have a breaker and a time limit \
         each in the place of its own",
        &configured,
    )?);

    report.growth.push(starts(bench)?);
    Ok(())
}

/// Bare Envoy and Levee, side by side in each row.
fn table(bench: &Bench, title: &str, how: &str, rows: &[Measured]) -> Result<GrowthTable> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let rows: Result<Vec<GrowthRow>> = rows.iter().map(|row| measure(bench, row)).collect();
    Ok(GrowthTable {
        title: title.to_owned(),
        how: format!(
            "{how}; {rounds} rounds of {REQUESTS} requests, closed loop of 16 clients, HTTP/1.1, answers of 100 bytes"
        ),
        columns: ["envoy, CPU us", "levee, CPU us", "ratio"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows?,
    })
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

struct Measured {
    name: String,
    workers: usize,
    is_pinned: bool,
    services: Vec<String>,
    settings: Value,
}

fn measure(bench: &Bench, what: &Measured) -> Result<GrowthRow> {
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
        let Envoy { process, port, .. } = Envoy::start(config, &place.envoy(&variant))
            .with_context(|| format!("{}, {}", what.name, variant.name()))?;
        proxies.insert(variant, Running::envoy(process, port));
    }
    let plan = Plan {
        place,
        load_cpus: &load_cpus,
        protocol: Protocol::Http1,
        answer: "small",
        rounds: bench.rounds.unwrap_or(ROUNDS),
        requests: REQUESTS,
        services: &what.services,
    };
    let cases = [Variant::Bare, Variant::Levee].map(Case::good);
    let [bare, levee] = &plan.cpu(&what.name, &cases, &proxies).rows[..] else {
        unreachable!("two cases are measured")
    };
    Ok(GrowthRow {
        name: what.name.clone(),
        values: vec![bare.cpu_us, levee.cpu_us, levee.ratio],
        problem: bare.problem.clone().or_else(|| levee.problem.clone()),
    })
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
            "levee, 1 MB of services",
            Variant::Levee,
            configuration(1_000_000),
        ),
    ];
    eprintln!("==> Starts");
    // By kind and workers: milliseconds, MiB.
    let mut all = vec![[(); 2].map(|()| (Vec::new(), Vec::new())); kinds.len()];
    for _ in 0..bench.rounds.unwrap_or(STARTS) {
        for ((name, variant, settings), own) in kinds.iter().zip(&mut all) {
            for (workers, (times, memory)) in [1, 4].into_iter().zip(own) {
                let place = Place {
                    tools: bench.tools,
                    backend: &backend,
                    folder: bench.folder,
                    workers,
                    cpus: &cpus,
                };
                let what = Measured {
                    name: (*name).to_owned(),
                    workers,
                    is_pinned: false,
                    services: vec!["s0".to_owned()],
                    settings: settings.clone(),
                };
                let config = config(bench, &place, &what, variant)?;
                let envoy = Envoy::start(config, &place.envoy(variant))
                    .with_context(|| format!("the start of {name}"))?;
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
        let [(one_ms, one), (four_ms, four)] = own;
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
