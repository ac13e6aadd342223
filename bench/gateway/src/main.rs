//! What Levee's filter costs in Envoy, beside what one would use instead. Started by `cargo xtask bench gateway`.

mod backend;
mod client;
mod envoy;
mod load;
mod measure;
mod report;
mod system;
mod tools;
mod variant;

use crate::backend::Backend;
use crate::client::Protocol;
use crate::measure::{Case, Plan, Proxies};
use crate::report::{Machine, Report};
use crate::tools::Tools;
use crate::variant::{Place, Variant};
use anyhow::{Context, Result, bail};
use clap::Parser;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// How it is measured.
#[derive(Debug, Parser)]
struct Options {
    /// CPU for each request of bare Envoy, Levee's filter, the floor filter and a breaker in Lua, in under two minutes
    #[arg(long)]
    quick: bool,
    /// Print one JSON document and nothing else
    #[arg(long)]
    json: bool,
    /// Another build of the filter to measure beside this one, as NAME=FILE; may be repeated
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_build)]
    also: Vec<(String, PathBuf)>,
    /// How often each case is measured
    #[arg(long)]
    rounds: Option<usize>,
}

fn parse_build(text: &str) -> Result<(String, PathBuf)> {
    let (name, file) = text.split_once('=').context("it must be NAME=FILE")?;
    let file = fs::canonicalize(file).with_context(|| format!("{file} can't be read"))?;
    Ok((name.to_owned(), file))
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in problems {
                eprintln!("error: not measured: {problem}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Vec<String>> {
    let tools = Tools::find()?;
    let folder = tempfile::Builder::new().prefix("levee-bench-").tempdir()?;
    let mut report = Report {
        machine: machine(&tools)?,
        ..Report::default()
    };
    quick(options, &tools, folder.path(), &mut report)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.to_text());
    }
    Ok(report.problems())
}

/// The CPUs for a proxy with this many workers, and those for the load and the service: apart, where there are enough.
fn share_cpus(workers: usize) -> (Vec<usize>, Vec<usize>) {
    let all = system::allowed_cpus();
    if all.len() > workers {
        let (proxy, load) = all.split_at(workers);
        (proxy.to_vec(), load.to_vec())
    } else {
        (all.clone(), all)
    }
}

fn quick(options: &Options, tools: &Tools, folder: &Path, report: &mut Report) -> Result<()> {
    let (cpus, load_cpus) = share_cpus(1);
    let backend = Backend::start(&load_cpus)?;
    let place = Place {
        tools,
        backend: &backend,
        folder,
        workers: 1,
        cpus: &cpus,
    };
    let plan = Plan {
        place,
        load_cpus: &load_cpus,
        protocol: Protocol::Http1,
        answer: "small",
        rounds: options.rounds.unwrap_or(7),
        requests: 30_000,
    };
    let mut variants = vec![Variant::Bare, Variant::Levee, Variant::Floor, Variant::Lua];
    variants.extend(
        options
            .also
            .iter()
            .map(|(name, file)| Variant::Build(name.clone(), file.clone())),
    );
    let proxies = start_all(&place, &variants)?;
    let cases: Vec<Case> = variants.into_iter().map(Case::good).collect();
    report
        .cpu
        .push(plan.cpu("CPU for each request", &cases, &proxies)?);
    Ok(())
}

fn start_all(place: &Place, variants: &[Variant]) -> Result<Proxies> {
    let start = |variant: &Variant| {
        let running = place
            .start(variant)
            .with_context(|| variant.name().to_owned())?;
        Ok((variant.clone(), running))
    };
    variants.iter().map(start).collect()
}

fn machine(tools: &Tools) -> Result<Machine> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            Some(
                line.strip_prefix("model name")?
                    .split_once(':')?
                    .1
                    .trim()
                    .to_owned(),
            )
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    let said = Command::new(&tools.envoy).arg("--version").output()?.stdout;
    // "envoy  version: <commit>/<version>/<state>/<build>/<ssl>"
    let said = String::from_utf8_lossy(&said).into_owned();
    let version = said
        .split_once("version:")
        .and_then(|(_, version)| version.split('/').nth(1));
    let Some(envoy) = version.map(str::to_owned) else {
        bail!("{} does not say its version", tools.envoy.display());
    };
    let filter = fs::metadata(&tools.levee).with_context(|| tools.levee.display().to_string())?;
    Ok(Machine {
        processor,
        cpus: system::allowed_cpus().len(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        envoy,
        filter_bytes: filter.len(),
    })
}
