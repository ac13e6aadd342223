//! Redis: directly, through Levee, through Envoy. Run by `cargo xtask bench redis`, with the number of rounds and of
//! commands in each.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use levee_bench_statistics::Spread;
use levee_harness::address::free_address;
use levee_harness::process::{Output, Process, Signal};
use levee_harness::redis::Redis;

/// The number of keys, and of random SETs that reach all of them.
const KEYS: &str = "10000";
const WARM_UP: u32 = 200_000;

/// Connections of redis-benchmark.
const CLIENTS: &str = "32";

/// How long a program may take until it listens.
const START: Duration = Duration::from_secs(30);

/// One measurement takes seconds.
const LIMIT: Duration = Duration::from_mins(2);

/// Where commands are sent, and whose processor time is counted.
struct Target<'a> {
    name: &'static str,
    address: SocketAddr,
    process: &'a Process,
}

/// How redis-benchmark is run.
struct Bench {
    program: PathBuf,
    /// The file of its output.
    output: PathBuf,
}

/// The output of redis-benchmark, and the processor time.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, commands] = &arguments[..] else {
        bail!("usage: ROUNDS COMMANDS");
    };
    let (rounds, commands) = (rounds.parse()?, commands.parse()?);

    let folder = tempfile::Builder::new().prefix("levee-bench-").tempdir()?;
    let redis = Redis::start()?;
    let (levee, levee_address) = start_levee(redis.address, folder.path())?;
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let (envoy, envoy_address) = start_envoy(threads, redis.address, folder.path())?;
    let targets = [
        (
            "direct",
            redis.address,
            redis.process().context("no Redis")?,
        ),
        ("levee", levee_address, &levee),
        ("envoy redis_proxy", envoy_address, &envoy),
    ]
    .map(|(name, address, process)| Target {
        name,
        address,
        process,
    });

    let bench = Bench {
        program: from_environment("REDIS_BENCHMARK_PATH")?,
        output: folder.path().join("redis-benchmark.csv"),
    };
    println!(
        "redis-benchmark -c {CLIENTS}, {rounds} rounds of {commands} commands (a quarter without pipelining), all on \
         {threads} processors: client, proxy and Redis share them.\nMedians; [lowest to highest] of the ratios. The \
         processor time is that of the row's process alone: Redis, Levee or Envoy.\n"
    );
    // All keys exist before any is read, and each target is warm.
    for target in &targets {
        bench.measure(target, "SET", 16, WARM_UP)?;
    }
    print_table(&bench, &targets, rounds, commands)
}

fn print_table(bench: &Bench, targets: &[Target; 3], rounds: usize, commands: u32) -> Result<()> {
    println!(
        "{:<4}{:<6}{:<19}{:>11}{:>8} {:<14}{:>8}{:>8}{:>15}",
        "", "", "", "commands/s", "ratio", "", "p50 ms", "p99 ms", "cpu us/command"
    );
    for (pipeline, commands) in [(1, commands / 4), (16, commands)] {
        for name in ["GET", "SET"] {
            let mut all: [Vec<Figures>; 3] = Default::default();
            for round in 0..rounds {
                // Each round starts with another target, so that none always follows the same one.
                for place in (0..targets.len()).map(|place| (round + place) % targets.len()) {
                    all[place].push(bench.measure(&targets[place], name, pipeline, commands)?);
                }
            }
            for (target, figures) in targets.iter().zip(&all) {
                print_row(
                    &format!("{name:<4}-P {pipeline:<3}"),
                    target.name,
                    figures,
                    &all[0],
                );
            }
        }
    }
    Ok(())
}

fn from_environment(name: &str) -> Result<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value
        .map(PathBuf::from)
        .with_context(|| format!("{name} is not set: start this by `cargo xtask bench redis`"))
}

fn start_levee(redis: SocketAddr, folder: &Path) -> Result<(Process, SocketAddr)> {
    let (address, admin) = (free_address()?, free_address()?);
    let file = folder.join("levee.yaml");
    let yaml = format!(
        "admin: {{listen: '{admin}'}}\n\
         redis: [{{name: x, listen: '{address}', upstream: 'redis://{redis}'}}]\n"
    );
    fs::write(&file, yaml)?;
    let mut command = Command::new(from_environment("LEVEE_BIN")?);
    command.args(["run", "--config"]).arg(&file);
    Ok((start(command, address)?, address))
}

fn start_envoy(threads: usize, redis: SocketAddr, folder: &Path) -> Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let file = folder.join("envoy.yaml");
    let yaml = include_str!("envoy.yaml")
        .replace("{listen}", &address.port().to_string())
        .replace("{redis}", &redis.port().to_string());
    fs::write(&file, yaml)?;
    let mut command = Command::new(from_environment("ENVOY_PATH")?);
    command
        .args(["--disable-hot-restart", "--log-level", "off"])
        .args(["--concurrency", &threads.to_string(), "-c"])
        .arg(&file);
    Ok((start(command, address)?, address))
}

/// Starts `command` and waits until it listens.
fn start(mut command: Command, address: SocketAddr) -> Result<Process> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let name = command.get_program().display().to_string();
    let mut process = Process::spawn(command, Signal::Terminate)?;
    process.until_it_listens(&name, address, START, Output::NotKept)?;
    Ok(process)
}

fn print_row(case: &str, target: &str, figures: &[Figures], direct: &[Figures]) {
    let of = |read: fn(&Figures) -> f64| figures.iter().map(read).collect::<Vec<_>>();
    let median = |read| Spread::of(of(read)).map_or(f64::NAN, |spread| spread.median);
    let direct: Vec<f64> = direct.iter().map(|direct| direct.per_second).collect();
    let Some(ratio) = Spread::of_ratios(&of(|f| f.per_second), &direct) else {
        return;
    };
    println!(
        "{case}{target:<19}{:>11.0}{:>8.2} {:<14}{:>8.2}{:>8.2}{:>15.2}",
        median(|f| f.per_second),
        ratio.median,
        format!("[{:.2} to {:.2}]", ratio.lowest, ratio.highest),
        median(|f| f.p50_ms),
        median(|f| f.p99_ms),
        median(|f| f.cpu_us),
    );
}

impl Bench {
    fn measure(
        &self,
        target: &Target,
        name: &str,
        pipeline: u32,
        commands: u32,
    ) -> Result<Figures> {
        let mut command = Command::new(&self.program);
        command
            .args(["--csv", "-c", CLIENTS, "-r", KEYS, "-t", name])
            .args(["-p", &target.address.port().to_string()])
            .args(["-P", &pipeline.to_string(), "-n", &commands.to_string()])
            .stdin(Stdio::null())
            .stdout(fs::File::create(&self.output)?);
        let before = target.process.cpu_time()?;
        let exit = Process::spawn(command, Signal::Kill)?.wait(LIMIT);
        let used = target.process.cpu_time()?.saturating_sub(before);
        let said = fs::read_to_string(&self.output)?;
        match exit {
            Some(exit) if exit.success() => {}
            Some(exit) => bail!("redis-benchmark failed ({exit}): {said}"),
            None => bail!("redis-benchmark did not end within {LIMIT:?}"),
        }
        let [per_second, p50_ms, p99_ms] =
            figures(&said).with_context(|| format!("redis-benchmark said: {said}"))?;
        Ok(Figures {
            per_second,
            p50_ms,
            p99_ms,
            cpu_us: used.as_secs_f64() * 1e6 / f64::from(commands),
        })
    }
}

/// Requests per second, median and 99th percentile in milliseconds, from the last line of `redis-benchmark --csv`:
///
/// ```csv
/// "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms",...
/// ```
fn figures(csv: &str) -> Option<[f64; 3]> {
    let fields: Vec<f64> = csv
        .lines()
        .last()?
        .split(',')
        .skip(1)
        .map(|field| field.trim_matches('"').parse().ok())
        .collect::<Option<_>>()?;
    let [per_second, _, _, p50_ms, _, p99_ms, ..] = fields[..] else {
        return None;
    };
    Some([per_second, p50_ms, p99_ms])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_redis_benchmark_are_found() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                   \"p99_latency_ms\",\"max_latency_ms\"\n\
                   \"GET\",\"98039.22\",\"0.171\",\"0.048\",\"0.159\",\"0.263\",\"0.343\",\"1.423\"\n";
        assert_eq!(figures(csv), Some([98_039.22, 0.159, 0.343]));
        assert_eq!(figures("Could not connect to Redis"), None);
        assert_eq!(figures(""), None);
    }
}
