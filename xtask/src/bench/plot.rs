//! Charts as SVG, from the JSON that `bench gateway`, `policy`, `database` and `decisions` print.

use super::lines::{self, Line, LineChart, Scale as AxisScale};
use super::plot_decisions::of_decisions;
use super::svg::escape;
use crate::failure::Failure;
use clap::Args;
use levee_bench_statistics::Spread;
use serde_json::Value;
use std::fmt::Write as _;
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

pub(super) struct Chart {
    pub(super) file: String,
    pub(super) title: String,
    pub(super) bars: Vec<Bar>,
}

/// One line of a picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: Spread,
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

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn spread(value: &Value) -> Option<Spread> {
    Some(Spread {
        median: value["median"].as_f64()?,
        lowest: value["lowest"].as_f64()?,
        highest: value["highest"].as_f64()?,
    })
}

const LABELS: f64 = 330.0;
const BARS: f64 = 420.0;
const VALUES: f64 = 90.0;
const LINE: f64 = 24.0;
/// The ratio from which on a linear scale hides the short bars.
const LOGARITHMIC_FROM: f64 = 50.0;

/// Bars to the median, with a line from the lowest to the highest value.
pub(super) fn draw(chart: &Chart) -> String {
    let scale = Scale::of(&chart.bars);
    let lines: u32 = u32::try_from(chart.bars.len()).unwrap_or(u32::MAX);
    let (width, height) = (LABELS + BARS + VALUES, LINE * (f64::from(lines) + 2.0));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\">{}{}</text>\n",
        escape(&chart.title),
        if scale.is_logarithmic {
            ", logarithmic"
        } else {
            ""
        }
    );
    for (place, bar) in (0_u32..).zip(&chart.bars) {
        let top = LINE * (f64::from(place) + 1.5);
        let is_ours = bar.label.starts_with("levee") || bar.label == "gateway.yaml";
        let [lowest, median, highest] = [bar.value.lowest, bar.value.median, bar.value.highest]
            .map(|value| scale.length(value));
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LABELS}\" y=\"{:.0}\" width=\"{median:.1}\" height=\"14\" fill=\"{}\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.0}\" y2=\"{:.0}\" stroke=\"#222222\"/>\n\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n",
            LABELS - 8.0,
            top + 12.0,
            escape(&bar.label),
            top,
            if is_ours { "#1f6fb2" } else { "#b8b8b8" },
            LABELS + lowest,
            LABELS + highest,
            top + 7.0,
            top + 7.0,
            LABELS + median.max(highest) + 6.0,
            top + 12.0,
            number(bar.value.median),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// From values to lengths.
struct Scale {
    least: f64,
    greatest: f64,
    is_logarithmic: bool,
}

impl Scale {
    fn of(bars: &[Bar]) -> Self {
        let values = || {
            bars.iter()
                .flat_map(|bar| [bar.value.lowest, bar.value.highest])
        };
        let greatest = values().fold(f64::MIN_POSITIVE, f64::max);
        let least = values().fold(greatest, f64::min).max(greatest / 1e9);
        Self {
            least,
            greatest,
            is_logarithmic: greatest / least > LOGARITHMIC_FROM,
        }
    }

    fn length(&self, value: f64) -> f64 {
        if !self.is_logarithmic {
            return BARS * (value / self.greatest).clamp(0.0, 1.0);
        }
        // The lowest value gets a short bar, not none.
        let origin = self.least / 2.0;
        let share = (value.max(origin) / origin).ln() / (self.greatest / origin).ln();
        BARS * share.clamp(0.0, 1.0)
    }
}

/// Three significant digits.
fn number(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
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
    fn values_that_are_far_apart_are_drawn_on_a_logarithmic_scale() {
        let bar = |median| Bar {
            label: String::new(),
            value: spread(&value(median)).unwrap(),
        };
        let near = Scale::of(&[bar(10.0), bar(20.0)]);
        assert!((near.length(20.5) - BARS).abs() < 1e-9 && near.length(10.25) < BARS / 1.9);
        let far = Scale::of(&[bar(1.0), bar(10_000.0)]);
        assert!(far.length(100.0) > BARS / 3.0);
        let says = |bars: &[Bar]| {
            let chart = Chart {
                file: String::new(),
                title: String::new(),
                bars: bars.to_vec(),
            };
            draw(&chart).contains("logarithmic")
        };
        assert!(says(&[bar(1.0), bar(10_000.0)]) && !says(&[bar(10.0), bar(20.0)]));
        assert!(far.length(0.5) > 0.0, "the least is seen");
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
