//! Measuring, side by side in one run: ratios hold on other machines, absolute figures don't.

use crate::failure::Failure;
use crate::machine;
use crate::project::Project;
use crate::run::succeed;
use crate::tools::{self, cargo};
use clap::{Args, Subcommand};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// What is measured.
#[derive(Subcommand)]
pub enum Bench {
    /// Throughput and latency of Redis: directly, through the sidecar, through Envoy
    Redis(Options),
    /// Latency of a service at its database, with and without a cleanup job beside it
    Database(Options),
}

/// How long it is measured.
#[derive(Args)]
pub struct Options {
    /// One round, and a tenth of the commands
    #[arg(long)]
    quick: bool,
}

/// Measures.
pub fn bench(project: &Project, bench: &Bench) -> Result<(), Failure> {
    match bench {
        Bench::Redis(options) => redis(project, options),
        Bench::Database(options) => database(project, options),
    }
}

/// Builds the sidecar for release: where it is.
fn build_sidecar(project: &Project) -> Result<PathBuf, Failure> {
    println!("==> building the sidecar for release");
    let mut build = cargo();
    build
        .current_dir(&project.root)
        .args(["build", "--locked", "--release", "--package=levee"]);
    succeed(&mut build, "the sidecar could not be built")?;
    Ok(project.target()?.join("release/levee"))
}

fn database(project: &Project, options: &Options) -> Result<(), Failure> {
    let postgres = machine::postgres()?;
    let levee = build_sidecar(project)?;
    let mut run = cargo();
    run.current_dir(&project.root)
        .args([
            "run",
            "--locked",
            "--quiet",
            "--package=levee-tests",
            "--bin=bench-database",
            "--",
        ])
        .arg(if options.quick { "1" } else { "5" })
        .env("POSTGRES_BIN_PATH", postgres)
        .env("LEVEE_BIN", levee);
    succeed(&mut run, "the measurement has failed")
}

/// A program that is ended when this is dropped.
struct Running {
    child: Child,
    port: u16,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts `command` and waits until it listens on `port`.
    fn start(command: &mut Command, port: u16) -> Result<Self, Failure> {
        let failed = |what: &str| Failure::Check(format!("{command:?} {what}"));
        let child = Command::new(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(&format!("can't be started: {error}")))?;
        let mut running = Self { child, port };
        for _ in 0..500 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(running);
            }
            if running.child.try_wait().ok().flatten().is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(failed("does not listen"))
    }

    /// The processor time that it has used, in seconds (`proc_pid_stat(5)`; a hundred ticks a second).
    fn cpu_seconds(&self) -> f64 {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: u32 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u32>().ok())
            .sum();
        f64::from(ticks) / 100.0
    }
}

/// What redis-benchmark said.
#[derive(Clone, Copy, Default)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
}

const NAMES: [&str; 3] = ["direct", "levee", "envoy redis_proxy"];

fn redis(project: &Project, options: &Options) -> Result<(), Failure> {
    let server = machine::redis_server()?;
    let benchmark = machine::find("redis-benchmark").ok_or_else(|| {
        Failure::Missing("redis-benchmark is missing. Install it (Debian: redis-tools)".to_owned())
    })?;
    let envoy = tools::envoy(project)?;
    let levee = build_sidecar(project)?;

    let folder = std::env::temp_dir().join(format!("levee-bench-{}", std::process::id()));
    let written = |error| Failure::Check(format!("{}: {error}", folder.display()));
    fs::create_dir_all(&folder).map_err(written)?;
    let result = run(&levee, options, &server, &benchmark, &envoy, &folder);
    let _ = fs::remove_dir_all(&folder);
    result
}

fn run(
    program: &Path,
    options: &Options,
    server: &Path,
    benchmark: &Path,
    envoy: &Path,
    folder: &Path,
) -> Result<(), Failure> {
    let written = |error| Failure::Check(format!("{}: {error}", folder.display()));
    let [redis_port, levee_port, admin_port, envoy_port] = free_ports();
    let mut command = Command::new(server);
    command.args([
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--port",
        &redis_port.to_string(),
        "--dir",
    ]);
    let redis = Running::start(command.arg(folder), redis_port)?;

    let file = folder.join("levee.yaml");
    let yaml = format!(
        "admin: {{listen: '127.0.0.1:{admin_port}'}}\n\
         redis: [{{name: x, listen: '127.0.0.1:{levee_port}', upstream: 'redis://127.0.0.1:{redis_port}'}}]\n"
    );
    fs::write(&file, yaml).map_err(written)?;
    let levee = Running::start(
        Command::new(program).args(["run", "--config"]).arg(&file),
        levee_port,
    )?;

    let file = folder.join("envoy.yaml");
    let yaml = ENVOY
        .replace("{listen}", &envoy_port.to_string())
        .replace("{redis}", &redis_port.to_string());
    fs::write(&file, yaml).map_err(written)?;
    let threads = thread::available_parallelism()
        .map_or(2, usize::from)
        .to_string();
    let mut command = Command::new(envoy);
    command.args([
        "--disable-hot-restart",
        "--concurrency",
        &threads,
        "--log-level",
        "off",
        "-c",
    ]);
    let envoy = Running::start(command.arg(&file), envoy_port)?;

    let (rounds, commands) = if options.quick {
        (1, 40_000)
    } else {
        (5, 400_000)
    };
    println!(
        "redis-benchmark -c 32, {rounds} rounds of {commands} commands (a quarter without pipelining), all on {threads} \
         processors: client, proxy and Redis share them.\nMedians; [lowest to highest] of the ratios.\n"
    );
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
            for _ in 0..rounds {
                for (figures, running) in all.iter_mut().zip([&redis, &levee, &envoy]) {
                    figures.push(measure(benchmark, running, name, pipeline, commands)?);
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
    let mut ratios: Vec<f64> = figures
        .iter()
        .zip(direct)
        .map(|(own, direct)| own.per_second / direct.per_second)
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "{name:<4}-P {pipeline:<3}{what:<19}{:>11.0}{:>8.2} {:<14}{:>8.2}{:>8.2}{:>15.2}",
        of(|f| f.per_second),
        median(ratios.clone()),
        format!("[{:.2} to {:.2}]", ratios[0], ratios[ratios.len() - 1]),
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
    let before = running.cpu_seconds();
    let mut command = Command::new(benchmark);
    command.args(["--csv", "-c", "32", "-r", "10000", "-t", name]);
    command.args(["-p", &running.port.to_string()]);
    command.args(["-P", &pipeline.to_string(), "-n", &commands.to_string()]);
    let said = machine::output_of(&mut command)
        .ok_or_else(|| Failure::Check(format!("{command:?} has failed")))?;
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
    let cpu_us = (running.cpu_seconds() - before) * 1e6 / f64::from(commands);
    Ok(Figures {
        per_second,
        p50_ms,
        p99_ms,
        cpu_us,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn free_ports<const N: usize>() -> [u16; N] {
    // All are held until all are known, so that they differ.
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    held.map(|listener| {
        listener
            .and_then(|l| l.local_addr())
            .map_or(0, |address| address.port())
    })
}

/// The least that makes Envoy a proxy for one Redis.
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
