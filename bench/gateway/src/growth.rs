//! How the cost of a request grows with services, workers and configuration, and the cost of starting the filter.

use crate::backend::Backend;
use crate::client::Protocol;
use crate::envoy::{self, Config, Envoy};
use crate::matrix::{Bench, share_cpus};
use crate::measure::{Case, Plan, Proxies};
use crate::report::{GrowthRow, GrowthTable, Report};
use crate::variant::{Place, Running, Variant};
use anyhow::{Context, Result};
use levee_bench_statistics::Spread;
use levee_harness::processor;
use serde_json::{Map, Value, json};

const REQUESTS: u64 = 6_000;
const ROUNDS: usize = 7;
/// How often each start is measured.
const STARTS: usize = 5;

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

/// Settings for enough services to make this many bytes of JSON.
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
    let all = processor::allowed_cpus();
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

/// What is started, by its name.
type Started = (&'static str, Variant, Value);

/// The starts of one kind with one number of workers.
#[derive(Clone, Default)]
struct Starts {
    times_ms: Vec<f64>,
    memory_mib: Vec<f64>,
}

/// Duration and memory of a start.
fn starts(bench: &Bench) -> Result<GrowthTable> {
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
    let rounds = bench.rounds.unwrap_or(STARTS);
    let all = measure_starts(bench, &kinds, rounds)?;
    Ok(GrowthTable {
        title: "Start".to_owned(),
        how: format!(
            "from the start of the process until it is ready, and its memory then; {rounds} starts of each, \
             interleaved, on all CPUs. The last two columns say what one more worker costs"
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
        rows: kinds
            .iter()
            .zip(&all)
            .map(|((name, ..), [one, four])| row_of_starts(name, one, four))
            .collect(),
    })
}

/// For each kind: its starts with one worker, and with four.
fn measure_starts(bench: &Bench, kinds: &[Started], rounds: usize) -> Result<Vec<[Starts; 2]>> {
    let cpus = processor::allowed_cpus();
    let backend = Backend::start(&cpus)?;
    let mut all = vec![<[Starts; 2]>::default(); kinds.len()];
    for _ in 0..rounds {
        for ((name, variant, settings), own) in kinds.iter().zip(&mut all) {
            for (workers, starts) in [1, 4].into_iter().zip(own) {
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
                starts.times_ms.push(envoy.start.as_secs_f64() * 1e3);
                starts
                    .memory_mib
                    .push(mebibytes(envoy.process.resident_kib()?));
            }
        }
    }
    Ok(all)
}

fn row_of_starts(name: &str, one: &Starts, four: &Starts) -> GrowthRow {
    let for_each_more = |four: &[f64], one: &[f64]| {
        let differences = four.iter().zip(one).map(|(four, one)| (four - one) / 3.0);
        Spread::of(differences)
    };
    GrowthRow {
        name: name.to_owned(),
        values: vec![
            Spread::of(one.times_ms.iter().copied()),
            Spread::of(four.times_ms.iter().copied()),
            Spread::of(one.memory_mib.iter().copied()),
            Spread::of(four.memory_mib.iter().copied()),
            for_each_more(&four.times_ms, &one.times_ms),
            for_each_more(&four.memory_mib, &one.memory_mib),
        ],
        problem: None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "far less than 2^52")]
fn mebibytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
