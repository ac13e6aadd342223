//! Charts as SVG, from the JSON that `bench gateway`, `policy`, `database` and `decisions` print.

use super::bars::{Bar, Chart, draw};
use super::figures::{list, spread};
use super::lines::{self, Line, LineChart, Scale as AxisScale};
use super::plot_decisions::of_decisions;
use crate::failure::Failure;
use clap::Args;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Options {
    /// The output of `cargo xtask bench gateway --json`
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// The output of `cargo xtask bench policy --json`
    #[arg(long)]
    policy: Option<PathBuf>,
    /// The output of `cargo xtask bench database --json`
    #[arg(long)]
    database: Option<PathBuf>,
    /// The output of `cargo xtask bench decisions --json`
    #[arg(long)]
    decisions: Option<PathBuf>,
    /// The folder of the pictures
    #[arg(long, default_value = "docs/images")]
    out: PathBuf,
}

/// Draws everything in the files.
pub fn plot(options: &Options) -> Result<(), Failure> {
    let mut charts = Vec::new();
    if let Some(file) = &options.gateway {
        charts.extend(of_gateway(&read(file)?));
    }
    if let Some(file) = &options.policy {
        charts.extend(of_policy(&read(file)?));
    }
    let mut pictures: Vec<(String, String)> = charts
        .iter()
        .map(|chart| (chart.file.clone(), draw(chart)))
        .collect();
    if let Some(file) = &options.database {
        pictures.extend(of_database(&read(file)?));
    }
    if let Some(file) = &options.decisions {
        pictures.extend(of_decisions(&read(file)?));
    }
    if pictures.is_empty() {
        return Err(Failure::Check(
            "there is nothing to draw: name a file by --gateway, --policy, --database or --decisions that has tables"
                .to_owned(),
        ));
    }
    let failed = |path: &Path, error| {
        Failure::Check(format!("{} can't be written: {error}", path.display()))
    };
    fs::create_dir_all(&options.out).map_err(|error| failed(&options.out, error))?;
    for (file, svg) in pictures {
        let path = options.out.join(file);
        fs::write(&path, svg).map_err(|error| failed(&path, error))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn read(file: &Path) -> Result<Value, Failure> {
    let failed = |error: String| Failure::Check(format!("{}: {error}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

/// One picture per table of CPU and per table of latency.
fn of_gateway(report: &Value) -> Vec<Chart> {
    let mut charts = Vec::new();
    for (kind, key, unit) in [
        ("cpu", "cpu_us", "CPU time for each request, microseconds"),
        ("latency", "p99_us", "p99 of latency, microseconds"),
    ] {
        for (place, table) in list(&report[kind]).enumerate() {
            let bars: Vec<Bar> = list(&table["rows"])
                .filter_map(|row| {
                    Some(Bar {
                        label: row["name"].as_str()?.to_owned(),
                        value: spread(&row[key])?,
                    })
                })
                .collect();
            if !bars.is_empty() {
                let title = table["title"].as_str().unwrap_or_default();
                let setting = setting(&table["setting"]).unwrap_or_default();
                charts.push(Chart {
                    file: format!("gateway-{kind}-{}.svg", place + 1),
                    title: format!("{title}{setting}: {unit}"),
                    bars,
                });
            }
        }
    }
    charts
}

/// The distinction between tables of the same title.
fn setting(setting: &Value) -> Option<String> {
    let workers = setting["workers"].as_u64()?;
    Some(format!(
        ", {}, {} bytes, {workers} worker{}",
        setting["protocol"].as_str()?,
        setting["answer_bytes"].as_u64()?,
        if workers == 1 { "" } else { "s" }
    ))
}

/// One picture per operation that enough libraries have.
fn of_policy(report: &Value) -> Vec<Chart> {
    ["pass", "refuse", "pass+success", "pass+failure"]
        .into_iter()
        .filter_map(|operation| {
            let bars: Vec<Bar> = list(&report["rows"])
                .filter(|row| row["operation"] == operation)
                .filter_map(|row| {
                    let (language, library) = (row["language"].as_str()?, row["library"].as_str()?);
                    Some(Bar {
                        label: format!("{library} ({language})"),
                        value: spread(&row["nanos"])?,
                    })
                })
                .collect();
            (bars.len() > 1).then(|| Chart {
                file: format!("policy-{}.svg", operation.replace('+', "-")),
                title: format!("{operation}: nanoseconds"),
                bars,
            })
        })
        .collect()
}

/// What is left of a backlog over time, and what a service notices.
fn of_database(report: &Value) -> Vec<(String, String)> {
    let lines = list(&report["alone"]).filter_map(|way| {
        let points = list(&way["left"]);
        Some(Line {
            name: way["name"].as_str()?.to_owned(),
            points: points
                .filter_map(|point| Some((point[0].as_f64()?, point[1].as_f64()?)))
                .collect(),
        })
    });
    let backlog = LineChart {
        title: "Rows that are left while nobody else uses the database".to_owned(),
        x: "seconds",
        scales: [AxisScale::Linear; 2],
        lines: lines.collect(),
    };
    let bars = list(&report["beside_service"]).flat_map(|way| {
        ["p50_ms", "p99_ms"].map(|key| {
            Some(Bar {
                label: format!("{}, {}", way["name"].as_str()?, key.trim_end_matches("_ms")),
                value: spread(&way[key])?,
            })
        })
    });
    let mut service = Chart {
        file: "database-service.svg".to_owned(),
        title: "A service at the same table: milliseconds".to_owned(),
        bars: bars.flatten().collect(),
    };
    // p50 beside p50, p99 beside p99.
    service.bars.sort_by_key(|bar| bar.label.ends_with("p99"));
    let mut pictures = Vec::new();
    if !backlog.lines.is_empty() {
        let file = "database-backlog.svg".to_owned();
        pictures.push((file, lines::draw(&backlog)));
    }
    if !service.bars.is_empty() {
        pictures.push((service.file.clone(), draw(&service)));
    }
    pictures
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(median: f64) -> Value {
        json!({"median": median, "lowest": median - 0.5, "highest": median + 0.5})
    }

    #[test]
    fn there_is_a_picture_for_each_table_and_a_bar_for_what_was_measured() {
        let report = json!({
            "cpu": [{
                "title": "good <requests>",
                "setting": {"workers": 2, "protocol": "HTTP/2", "answer_bytes": 100},
                "rows": [
                    {"name": "bare", "cpu_us": value(10.0)},
                    {"name": "levee", "cpu_us": value(12.0)},
                    {"name": "gateway.yaml without levee", "cpu_us": value(11.0)},
                    {"name": "absent", "cpu_us": null},
                ],
            }],
            "latency": [],
        });
        let charts = of_gateway(&report);
        let [chart] = &charts[..] else {
            panic!("one table has rows");
        };
        assert_eq!(chart.bars.len(), 3);
        let svg = draw(chart);
        assert!(
            svg.contains("good &lt;requests&gt;, HTTP/2, 100 bytes, 2 workers: CPU")
                && svg.contains(">12.0<"),
            "{svg}"
        );
        assert_eq!(svg.matches("#1f6fb2").count(), 1, "Levee's own stand out");
    }

    #[test]
    fn of_the_database_there_is_a_line_for_each_way_and_a_bar_for_each_time() {
        let way = |name: &str| json!({"name": name, "p50_ms": value(1.0), "p99_ms": value(2.0)});
        let report = json!({
            "alone": [{"name": "levee", "left": [[0.0, 3], [1.5, 0]]}],
            "beside_service": [way("without the job"), way("levee at work")],
        });
        let pictures = of_database(&report);
        let files: Vec<&str> = pictures.iter().map(|(file, _)| file.as_str()).collect();
        assert_eq!(files, ["database-backlog.svg", "database-service.svg"]);
        assert_eq!(pictures[0].1.matches("<polyline").count(), 1);
        let (service, p99) = (&pictures[1].1, "levee at work, p99");
        assert!(
            service.find("without the job, p99") < service.find(p99),
            "{service}"
        );
        assert!(of_database(&json!({})).is_empty());
    }

    #[test]
    fn of_the_decisions_there_is_a_picture_for_each_operation() {
        let row = |library: &str, operation: &str| json!({"language": "Rust", "library": library, "operation": operation, "nanos": value(2.0)});
        let report =
            json!({"rows": [row("levee", "pass"), row("other", "pass"), row("levee", "refuse")]});
        let charts = of_policy(&report);
        assert_eq!(charts.len(), 1);
        assert_eq!(charts[0].file, "policy-pass.svg");
    }
}
