//! Redis: directly, through the sidecar, through Envoy.

use super::running::{Running, free_ports};
use super::statistics::{Spread, median};
use super::{Options, build_sidecar};
use crate::envoy;
use crate::failure::Failure;
use crate::machine;
use crate::project::Project;
use crate::run::output_within;
use crate::tools;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// The output of redis-benchmark.
#[derive(Clone, Copy, Default)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
}

/// The number of keys, and of random SETs that reach all of them.
const KEYS: &str = "10000";
const WARM_UP: u32 = 200_000;

/// One measurement takes seconds.
const LIMIT: Duration = Duration::from_mins(2);

const NAMES: [&str; 3] = ["direct", "levee", "envoy redis_proxy"];

pub fn redis(project: &Project, options: &Options) -> Result<(), Failure> {
    let server = tools::redis_server(project)?;
    let benchmark = machine::find("redis-benchmark").ok_or_else(|| {
        Failure::Missing("redis-benchmark is missing. Install it (Debian: redis-tools)".to_owned())
    })?;
    let envoy = envoy::program(project)?;
    let levee = build_sidecar(project)?;

    let folder = std::env::temp_dir().join(format!("levee-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(written(&folder))?;
    let result = run(&levee, options, &server, &benchmark, &envoy, &folder);
    let _ = fs::remove_dir_all(&folder);
    result
}

fn run(
    levee: &Path,
    options: &Options,
    server: &Path,
    benchmark: &Path,
    envoy: &Path,
    folder: &Path,
) -> Result<(), Failure> {
    let [redis_port, levee_port, admin_port, envoy_port] = free_ports()?;
    let redis = start_redis(server, redis_port, folder)?;
    let levee = start_levee(levee, [levee_port, admin_port, redis_port], folder)?;
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let envoy = start_envoy(envoy, threads, [envoy_port, redis_port], folder)?;

    let (rounds, commands) = if options.quick {
        (1, 40_000)
    } else {
        (5, 400_000)
    };
    println!(
        "redis-benchmark -c 32, {rounds} rounds of {commands} commands (a quarter without pipelining), all on {threads} \
         processors: client, proxy and Redis share them.\nMedians; [lowest to highest] of the ratios. The processor time \
         is that of the row's process alone: Redis, Levee or Envoy.\n"
    );
    measure_all(benchmark, [&redis, &levee, &envoy], rounds, commands)
}

fn written(path: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Check(format!("{}: {error}", path.display()))
}

fn start_redis(server: &Path, port: u16, folder: &Path) -> Result<Running, Failure> {
    let mut command = Command::new(server);
    command
        .args(["--bind", "127.0.0.1", "--save", ""])
        .args(["--port", &port.to_string(), "--dir"])
        .arg(folder);
    Running::start(&command, port)
}

fn start_levee(
    program: &Path,
    [port, admin_port, redis_port]: [u16; 3],
    folder: &Path,
) -> Result<Running, Failure> {
    let file = folder.join("levee.yaml");
    let yaml = format!(
        "admin: {{listen: '127.0.0.1:{admin_port}'}}\n\
         redis: [{{name: x, listen: '127.0.0.1:{port}', upstream: 'redis://127.0.0.1:{redis_port}'}}]\n"
    );
    fs::write(&file, yaml).map_err(written(&file))?;
    Running::start(
        Command::new(program).args(["run", "--config"]).arg(&file),
        port,
    )
}

fn start_envoy(
    program: &Path,
    threads: usize,
    [port, redis_port]: [u16; 2],
    folder: &Path,
) -> Result<Running, Failure> {
    let file = folder.join("envoy.yaml");
    let yaml = ENVOY
        .replace("{listen}", &port.to_string())
        .replace("{redis}", &redis_port.to_string());
    fs::write(&file, yaml).map_err(written(&file))?;
    let mut command = Command::new(program);
    command
        .args(["--disable-hot-restart", "--log-level", "off"])
        .args(["--concurrency", &threads.to_string(), "-c"])
        .arg(&file);
    Running::start(&command, port)
}

/// Measures the three, in the order of [`NAMES`], and prints a row for each.
fn measure_all(
    benchmark: &Path,
    all_running: [&Running; 3],
    rounds: usize,
    commands: u32,
) -> Result<(), Failure> {
    // All keys exist before any is read, and each of the three is warm.
    for running in all_running {
        measure(benchmark, running, "SET", 16, WARM_UP)?;
    }
    println!(
        "{:<4}{:<6}{:<19}{:>11}{:>8} {:<14}{:>8}{:>8}{:>15}",
        "", "", "", "commands/s", "ratio", "", "p50 ms", "p99 ms", "cpu us/command"
    );
    for pipeline in [1, 16] {
        for name in ["GET", "SET"] {
            let commands = if pipeline == 1 {
                commands / 4
            } else {
                commands
            };
            let mut all: [Vec<Figures>; 3] = Default::default();
            for round in 0..rounds {
                // Each round starts with another one, so that none always follows the same one.
                for place in (0..3).map(|place| (round + place) % 3) {
                    let running = all_running[place];
                    all[place].push(measure(benchmark, running, name, pipeline, commands)?);
                }
            }
            for (place, what) in NAMES.iter().enumerate() {
                print_row(pipeline, name, what, &all[place], &all[0]);
            }
        }
    }
    Ok(())
}

fn print_row(pipeline: u32, name: &str, what: &str, figures: &[Figures], direct: &[Figures]) {
    let of = |read: fn(&Figures) -> f64| median(figures.iter().map(read).collect());
    let ratios = Spread::of(
        figures
            .iter()
            .zip(direct)
            .map(|(own, direct)| own.per_second / direct.per_second)
            .collect(),
    );
    println!(
        "{name:<4}-P {pipeline:<3}{what:<19}{:>11.0}{:>8.2} {:<14}{:>8.2}{:>8.2}{:>15.2}",
        of(|f| f.per_second),
        ratios.median,
        format!("[{:.2} to {:.2}]", ratios.lowest, ratios.highest),
        of(|f| f.p50_ms),
        of(|f| f.p99_ms),
        of(|f| f.cpu_us),
    );
}

fn measure(
    benchmark: &Path,
    running: &Running,
    name: &str,
    pipeline: u32,
    commands: u32,
) -> Result<Figures, Failure> {
    let before = running.cpu_seconds()?;
    let mut command = Command::new(benchmark);
    command.args(["--csv", "-c", "32", "-r", KEYS, "-t", name]);
    command.args(["-p", &running.port.to_string()]);
    command.args(["-P", &pipeline.to_string(), "-n", &commands.to_string()]);
    let said = output_within(LIMIT, &mut command)?;
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms",...
    let fields: Vec<f64> = said
        .lines()
        .last()
        .unwrap_or_default()
        .split(',')
        .filter_map(|field| field.trim_matches('"').parse().ok())
        .collect();
    let [per_second, _, _, p50_ms, _, p99_ms, ..] = fields[..] else {
        return Err(Failure::Check(format!("redis-benchmark said: {said}")));
    };
    let cpu_us = (running.cpu_seconds()? - before) * 1e6 / f64::from(commands);
    Ok(Figures {
        per_second,
        p50_ms,
        p99_ms,
        cpu_us,
    })
}

/// The smallest configuration that makes Envoy a proxy for one Redis.
const ENVOY: &str = r"
static_resources:
  listeners:
  - name: redis
    address: {socket_address: {address: 127.0.0.1, port_value: {listen}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: redis
          settings: {op_timeout: 5s}
          prefix_routes: {catch_all_route: {cluster: redis}}
  clusters:
  - name: redis
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: redis
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {redis}}}}
";
