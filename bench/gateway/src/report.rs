//! What was measured, as tables for people and as one JSON document for programs.

use crate::client::STREAMS;
use serde::Serialize;
use std::fmt::Write;

/// Of the values of all rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// The one in the middle.
    pub median: f64,
    /// The least.
    pub lowest: f64,
    /// The greatest.
    pub highest: f64,
}

impl Summary {
    /// `None`: there are no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[half - 1], sorted[half])
        } else {
            sorted[half]
        };
        Some(Self {
            median,
            lowest,
            highest,
        })
    }

    /// Of the ratios of each round.
    pub fn of_ratios(own: &[f64], other: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = own
            .iter()
            .zip(other)
            .map(|(own, other)| own / other)
            .collect();
        Self::of(&ratios)
    }
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Where it was measured.
    pub machine: Machine,
    /// CPU time for each request.
    pub cpu: Vec<CpuTable>,
    /// How long answers take.
    pub latency: Vec<LatencyTable>,
    /// How cost grows, and what a start costs.
    pub growth: Vec<GrowthTable>,
    /// What makes some of it doubtful.
    pub problems: Vec<String>,
}

/// The row of a proxy that the machine doesn't have and that may be missing.
pub const MISSING: &str = "this machine has none";

/// Where it was measured.
#[derive(Debug, Default, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// The CPUs that could be used.
    pub cpus: usize,
    /// Linux's version.
    pub kernel: String,
    /// Envoy's version.
    pub envoy: String,
    /// What Go's proxy says it is built with, where it was needed.
    pub go: Option<String>,
    /// What nginx says of its version, where the machine has it and it was needed.
    pub nginx: Option<String>,
    /// The size of the filter's file.
    pub filter_bytes: u64,
}

/// How a table was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Worker threads of the proxy.
    pub workers: usize,
    /// Between the load and the proxy; it is always HTTP/1.1 between the proxy and the service.
    pub protocol: &'static str,
    /// The answer's body.
    pub answer_bytes: usize,
    /// In each measurement.
    pub requests: u64,
    /// Measurements of each row.
    pub rounds: usize,
    /// Requests that can be under way at once, where the row doesn't say otherwise.
    pub clients: usize,
    /// The CPUs that the proxy may use.
    pub proxy_cpus: Vec<usize>,
    /// The CPUs that the load and the service may use.
    pub load_cpus: Vec<usize>,
}

impl Setting {
    fn describe(&self) -> String {
        let pinned = if self.proxy_cpus == self.load_cpus {
            format!("proxy, load and service share CPUs {:?}", self.proxy_cpus)
        } else {
            format!(
                "proxy on CPU {:?}, load and service on CPU {:?}",
                self.proxy_cpus, self.load_cpus
            )
        };
        let shared = if self.protocol == "HTTP/2" {
            format!(" with {STREAMS} clients to a connection")
        } else {
            String::new()
        };
        format!(
            "{} worker{}, {}{shared}, answers of {} bytes, {} rounds of {} requests; {pinned}",
            self.workers,
            if self.workers == 1 { "" } else { "s" },
            self.protocol,
            self.answer_bytes,
            self.rounds,
            self.requests
        )
    }
}

/// CPU time for each request.
#[derive(Debug, Serialize)]
pub struct CpuTable {
    /// What it is about.
    pub title: String,
    /// How it was measured.
    pub setting: Setting,
    /// The first is what others are compared with.
    pub rows: Vec<CpuRow>,
}

/// One case.
#[derive(Debug, Serialize)]
pub struct CpuRow {
    /// The case.
    pub name: String,
    /// The proxy.
    pub variant: String,
    /// User and kernel mode, of all threads, divided by the answers.
    pub cpu_us: Option<Summary>,
    /// To the row `compared_with`, in the same round.
    pub ratio: Option<Summary>,
    /// The name of that row.
    pub compared_with: String,
    /// To the floor filter.
    pub to_floor: Option<Summary>,
    /// To the ten lines of Lua.
    pub to_lua: Option<Summary>,
    /// Answers.
    pub per_second: Option<Summary>,
    /// Requests under way at once.
    pub clients: usize,
    /// Answers that were 503.
    pub refused_share: f64,
    /// Answers that were 500.
    pub failed_share: f64,
    /// Why it was not measured, or not to the end.
    pub problem: Option<String>,
}

/// How long answers take at a fixed rate.
#[derive(Debug, Serialize)]
pub struct LatencyTable {
    /// What it is about.
    pub title: String,
    /// How it was measured.
    pub setting: Setting,
    /// Requests a second.
    pub rate: f64,
    /// What latencies are counted from.
    pub bound: Bound,
    /// The first is what others are compared with.
    pub rows: Vec<LatencyRow>,
}

/// From where to where a latency counts.
#[derive(Debug, Serialize)]
pub struct Bound {
    from: &'static str,
    to: &'static str,
}

impl Default for Bound {
    fn default() -> Self {
        Self {
            from: "the moment at which the request was to be sent",
            to: "the last byte of the answer",
        }
    }
}

/// One case.
#[derive(Debug, Serialize)]
pub struct LatencyRow {
    /// The case.
    pub name: String,
    /// The proxy.
    pub variant: String,
    /// Half of the answers took no longer.
    pub p50_us: Option<Summary>,
    /// 99 % of them.
    pub p99_us: Option<Summary>,
    /// 99.9 % of them.
    pub p999_us: Option<Summary>,
    /// Over the first row, in the same round.
    pub added_p50_us: Option<Summary>,
    /// Over the first row, in the same round.
    pub added_p99_us: Option<Summary>,
    /// How late the load itself was: part of the latencies.
    pub lag_p99_us: Option<Summary>,
    /// Why it was not measured, or not to the end.
    pub problem: Option<String>,
}

/// Whatever else, by name.
#[derive(Debug, Serialize)]
pub struct GrowthTable {
    /// What it is about.
    pub title: String,
    /// How it was measured.
    pub how: String,
    /// Of the columns after the first.
    pub columns: Vec<String>,
    /// The first of a row is its name.
    pub rows: Vec<GrowthRow>,
}

/// One case.
#[derive(Debug, Serialize)]
pub struct GrowthRow {
    /// The case.
    pub name: String,
    /// One for each column.
    pub values: Vec<Option<Summary>>,
    /// Why it was not measured, or not to the end.
    pub problem: Option<String>,
}

impl Report {
    /// What could not be measured, or not well.
    pub fn problems(&self) -> Vec<String> {
        let cpu = self.cpu.iter().flat_map(|table| {
            let rows = table.rows.iter();
            rows.map(|row| (&table.title, &row.name, &row.problem))
        });
        let latency = self.latency.iter().flat_map(|table| {
            let rows = table.rows.iter();
            rows.map(|row| (&table.title, &row.name, &row.problem))
        });
        let growth = self.growth.iter().flat_map(|table| {
            let rows = table.rows.iter();
            rows.map(|row| (&table.title, &row.name, &row.problem))
        });
        let rows = cpu.chain(latency).chain(growth);
        let of_rows = rows.filter_map(|(title, name, problem)| {
            let problem = problem.as_ref().filter(|problem| *problem != MISSING)?;
            Some(format!("{title}: {name}: {problem}"))
        });
        self.problems.iter().cloned().chain(of_rows).collect()
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "{} with {} CPUs, Linux {}, Envoy {}; the filter's file has {} bytes.\n",
            machine.processor, machine.cpus, machine.kernel, machine.envoy, machine.filter_bytes
        );
        for version in [&machine.go, &machine.nginx].into_iter().flatten() {
            let _ = writeln!(text, "{version}");
        }
        text.push_str(
            "Medians of the rounds, [lowest to highest]; ratios and differences are taken within a round.\n",
        );
        for table in &self.cpu {
            table.write_to(&mut text);
        }
        for table in &self.latency {
            table.write_to(&mut text);
        }
        for table in &self.growth {
            table.write_to(&mut text);
        }
        text
    }
}

impl CpuTable {
    fn write_to(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\n{}\n{}, closed loop of {} clients",
            self.title,
            self.setting.describe(),
            self.setting.clients
        );
        let _ = writeln!(
            text,
            "{:<34}{:>8} {:<18}{:>7} {:<16}{:>9}{:>8}{:>11}",
            "", "CPU us", "", "ratio", "", "to floor", "to lua", "requests/s"
        );
        for row in &self.rows {
            let _ = write!(
                text,
                "{:<34}{:>8} {:<18}{:>7} {:<16}{:>9}{:>8}{:>11}",
                row.name,
                median(row.cpu_us, 2),
                spread(row.cpu_us, 2),
                median(row.ratio, 3),
                spread(row.ratio, 3),
                median(row.to_floor, 3),
                median(row.to_lua, 3),
                median(row.per_second, 0),
            );
            if row.refused_share > 0.0 && row.refused_share < 0.9999 {
                let _ = write!(text, "  {:.1} % refused", row.refused_share * 100.0);
            }
            if row.compared_with != self.rows[0].name {
                let _ = write!(text, "  ratio to: {}", row.compared_with);
            }
            end_line(text, row.problem.as_deref());
        }
    }
}

impl LatencyTable {
    fn write_to(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\n{}\n{}, open loop of {} requests a second by {} clients; microseconds from when a request was to be sent",
            self.title,
            self.setting.describe(),
            self.rate,
            self.setting.clients
        );
        let _ = writeln!(
            text,
            "{:<34}{:>8}{:>9}{:>9} {:<18}{:>10}{:>10} {:<16}{:>9}",
            "", "p50", "p99.9", "p99", "", "p50 added", "p99 added", "", "lag p99"
        );
        for row in &self.rows {
            let _ = write!(
                text,
                "{:<34}{:>8}{:>9}{:>9} {:<18}{:>10}{:>10} {:<16}{:>9}",
                row.name,
                median(row.p50_us, 0),
                median(row.p999_us, 0),
                median(row.p99_us, 0),
                spread(row.p99_us, 0),
                median(row.added_p50_us, 0),
                median(row.added_p99_us, 0),
                spread(row.added_p99_us, 0),
                median(row.lag_p99_us, 0),
            );
            end_line(text, row.problem.as_deref());
        }
    }
}

impl GrowthTable {
    fn write_to(&self, text: &mut String) {
        let _ = writeln!(text, "\n{}\n{}", self.title, self.how);
        let _ = write!(text, "{:<34}", "");
        for column in &self.columns {
            let _ = write!(text, "{column:>15} {:<17}", "");
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "{:<34}", row.name);
            for value in &row.values {
                let _ = write!(text, "{:>15} {:<17}", median(*value, 2), spread(*value, 2));
            }
            end_line(text, row.problem.as_deref());
        }
    }
}

fn end_line(text: &mut String, problem: Option<&str>) {
    if let Some(problem) = problem {
        let _ = write!(text, "  NOT MEASURED: {problem}");
    }
    text.push('\n');
}

fn median(summary: Option<Summary>, digits: usize) -> String {
    summary.map_or_else(
        || "-".to_owned(),
        |summary| format!("{:.digits$}", summary.median),
    )
}

fn spread(summary: Option<Summary>, digits: usize) -> String {
    summary.map_or_else(String::new, |s| {
        format!("[{:.digits$} to {:.digits$}]", s.lowest, s.highest)
    })
}
