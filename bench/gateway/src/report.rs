//! The results, as tables for people and as a JSON document for programs.

use crate::client::STREAMS;
use levee_bench_statistics::Spread;
use serde::Serialize;
use std::fmt::Write;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub machine: Machine,
    /// CPU time per request.
    pub cpu: Vec<CpuTable>,
    /// Latencies.
    pub latency: Vec<LatencyTable>,
    /// How the cost grows, and the cost of a start.
    pub growth: Vec<GrowthTable>,
    /// Reasons to doubt some of the results.
    pub problems: Vec<String>,
}

/// The text in the row of an optional proxy that is not installed.
pub const MISSING: &str = "not installed";

#[derive(Debug, Default, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// The number of available CPUs.
    pub cpus: usize,
    /// Linux's version.
    pub kernel: String,
    /// Envoy's version.
    pub envoy: String,
    /// What Go's proxy was built with, if it was used.
    pub go: Option<String>,
    /// nginx's version, if it was used and is installed.
    pub nginx: Option<String>,
    /// The size of the filter's file, in bytes.
    pub filter_bytes: u64,
}

/// How a table was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Worker threads of the proxy.
    pub workers: usize,
    /// Between load and proxy. Between proxy and service it is always HTTP/1.1.
    pub protocol: &'static str,
    /// Length of the answer's body, in bytes.
    pub answer_bytes: usize,
    /// Requests in each measurement.
    pub requests: u64,
    /// Measurements per row.
    pub rounds: usize,
    /// Requests in flight at once, unless the row says otherwise.
    pub clients: usize,
    /// The CPUs of the proxy.
    pub proxy_cpus: Vec<usize>,
    /// The CPUs of the load and the service.
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

/// CPU time per request.
#[derive(Debug, Serialize)]
pub struct CpuTable {
    pub title: String,
    pub setting: Setting,
    /// The first row is the reference.
    pub rows: Vec<CpuRow>,
}

#[derive(Debug, Serialize)]
pub struct CpuRow {
    pub name: String,
    pub variant: String,
    /// In user and kernel mode, of all threads, divided by the answers.
    pub cpu_us: Option<Spread>,
    /// Ratio to the row `compared_with` in the same round.
    pub ratio: Option<Spread>,
    /// The name of that row.
    pub compared_with: String,
    /// Ratio to the floor filter.
    pub to_floor: Option<Spread>,
    /// Ratio to the ten lines of Lua.
    pub to_lua: Option<Spread>,
    pub per_second: Option<Spread>,
    /// Requests in flight at once.
    pub clients: usize,
    /// Answers with status 503.
    pub refused_share: f64,
    /// Answers with status 500.
    pub failed_share: f64,
    /// Why it was not measured, or not completely.
    pub problem: Option<String>,
}

/// Latencies at a fixed rate.
#[derive(Debug, Serialize)]
pub struct LatencyTable {
    pub title: String,
    pub setting: Setting,
    /// Requests per second.
    pub rate: f64,
    /// What a latency includes.
    pub bound: Bound,
    /// The first row is the reference.
    pub rows: Vec<LatencyRow>,
}

/// Where a latency starts and ends.
#[derive(Debug, Serialize)]
pub struct Bound {
    from: &'static str,
    to: &'static str,
}

impl Default for Bound {
    fn default() -> Self {
        Self {
            from: "the scheduled time of the request",
            to: "the last byte of the answer",
        }
    }
}

#[derive(Debug, Serialize)]
pub struct LatencyRow {
    pub name: String,
    pub variant: String,
    /// Median.
    pub p50_us: Option<Spread>,
    /// 99th percentile.
    pub p99_us: Option<Spread>,
    /// 99.9th percentile.
    pub p999_us: Option<Spread>,
    /// Difference to the first row in the same round.
    pub added_p50_us: Option<Spread>,
    /// Difference to the first row in the same round.
    pub added_p99_us: Option<Spread>,
    /// The delay of the load itself, which is part of the latencies.
    pub lag_p99_us: Option<Spread>,
    /// Why it was not measured, or not completely.
    pub problem: Option<String>,
}

/// A table with named columns.
#[derive(Debug, Serialize)]
pub struct GrowthTable {
    pub title: String,
    pub how: String,
    /// Names of the columns after the first.
    pub columns: Vec<String>,
    /// The first column is the name of the row.
    pub rows: Vec<GrowthRow>,
}

#[derive(Debug, Serialize)]
pub struct GrowthRow {
    pub name: String,
    /// One per column.
    pub values: Vec<Option<Spread>>,
    /// Why it was not measured, or not completely.
    pub problem: Option<String>,
}

impl Report {
    /// What could not be measured, or not reliably.
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

    /// Tables for people.
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
                range(row.cpu_us, 2),
                median(row.ratio, 3),
                range(row.ratio, 3),
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
            "\n{}\n{}, open loop of {} requests per second by {} clients; microseconds from the scheduled time of a request",
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
                range(row.p99_us, 0),
                median(row.added_p50_us, 0),
                median(row.added_p99_us, 0),
                range(row.added_p99_us, 0),
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
                let _ = write!(text, "{:>15} {:<17}", median(*value, 2), range(*value, 2));
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

fn median(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |spread| format!("{:.digits$}", spread.median),
    )
}

fn range(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(String::new, |s| {
        format!("[{:.digits$} to {:.digits$}]", s.lowest, s.highest)
    })
}
