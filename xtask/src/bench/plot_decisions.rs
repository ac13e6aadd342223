//! Charts of when breakers open and close.

use super::bars::{self, Bar, Chart};
use super::figures::list;
use super::lines::{self, Line, LineChart, Scale};
use levee_bench_statistics::Spread;
use serde_json::Value;

/// Fewer openings a year are not drawn.
const LEAST_OPENINGS: f64 = 0.01;

/// Lines by rule, of those figures of a section that belong to one picture.
struct Picture {
    file: String,
    title: String,
    x: (&'static str, &'static str),
    y: &'static str,
    scales: [Scale; 2],
    /// The key and value that the figures have in common.
    of: (&'static str, Value),
    least: f64,
}

/// Pictures of all sections of the report.
pub fn of_decisions(report: &Value) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    for rate in [1.0, 100.0, 10_000.0] {
        let picture = Picture {
            file: format!("decisions-false-openings-{rate}.svg"),
            title: format!("False openings a year, {rate} calls a second, logarithmic"),
            x: ("error_percent", "percent of the calls that fail"),
            y: "per_year",
            scales: [Scale::Logarithmic; 2],
            of: ("calls_per_second", rate.into()),
            least: LEAST_OPENINGS,
        };
        pictures.extend(picture.draw(&report["false_openings"]));
    }
    let until_open = Picture {
        file: "decisions-until-open.svg".to_owned(),
        title: "Calls that fail until it opens, 100 calls a second".to_owned(),
        x: (
            "error_percent_before",
            "percent of the calls that failed before",
        ),
        y: "failed",
        scales: [Scale::Logarithmic, Scale::Linear],
        of: ("calls_per_second", 100.0.into()),
        least: 0.0,
    };
    pictures.extend(until_open.draw(&report["until_open"]));
    for (kind, file) in [("503 for all", "503"), ("no connection", "no-connection")] {
        let picture = Picture {
            file: format!("decisions-return-{file}.svg"),
            title: format!("Seconds from the return to the first good answer, {kind}, logarithmic"),
            x: ("outage_seconds", "length of the outage in seconds"),
            y: "until_good_seconds",
            scales: [Scale::Logarithmic; 2],
            of: ("kind", kind.into()),
            least: 0.01,
        };
        pictures.extend(picture.draw(&report["comes_back"]));
    }
    pictures.extend(of_probes(&report["comes_back"]));
    pictures
}

impl Picture {
    fn draw(self, section: &Value) -> Option<(String, String)> {
        let mut lines: Vec<Line> = Vec::new();
        let (key, common) = &self.of;
        for figure in list(section).filter(|figure| figure[*key] == *common) {
            let rule = figure["rule"].as_str()?;
            let point = (figure[self.x.0].as_f64()?, figure[self.y].as_f64());
            if !lines.iter().any(|line| line.name == rule) {
                lines.push(Line {
                    name: rule.to_owned(),
                    points: Vec::new(),
                });
            }
            if let (line, (x, Some(y))) = (lines.last_mut()?, point)
                && y >= self.least
            {
                line.points.push((x, y));
            }
        }
        let chart = LineChart {
            title: self.title,
            x: self.x.1,
            scales: self.scales,
            lines,
        };
        (!chart.lines.is_empty()).then(|| (self.file, lines::draw(&chart)))
    }
}

/// What a service sees that is down for ten minutes.
fn of_probes(section: &Value) -> Option<(String, String)> {
    let of_ten_minutes = list(section).filter(|figure| figure["outage_seconds"] == 600.0);
    let bars = of_ten_minutes.filter_map(|figure| {
        let reached = figure["reached"].as_f64()?;
        Some(Bar {
            label: format!("{}, {}", figure["rule"].as_str()?, figure["kind"].as_str()?),
            value: Spread {
                median: reached,
                lowest: reached,
                highest: reached,
            },
        })
    });
    let chart = Chart {
        file: "decisions-probes.svg".to_owned(),
        title: "Calls that reach a service that is down for ten minutes".to_owned(),
        bars: bars.collect(),
    };
    (!chart.bars.is_empty()).then(|| (chart.file.clone(), bars::draw(&chart)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_rule_has_a_line_through_its_figures_and_the_first_is_on_top() {
        let openings = |rule: &str, rate: f64, percent: f64, per_year: f64| json!({"rule": rule, "calls_per_second": rate, "error_percent": percent, "per_year": per_year});
        let report = json!({
            "false_openings": [
                openings("levee", 100.0, 1.0, 0.0), openings("levee", 100.0, 10.0, 5.0), openings("levee", 7.0, 10.0, 5.0),
                openings("other", 100.0, 1.0, 3.0), openings("other", 100.0, 10.0, 50.0),
            ],
            "comes_back": [
                {"rule": "levee", "kind": "no connection", "outage_seconds": 600.0, "reached": 7.0, "until_good_seconds": 2.0},
            ],
        });
        let pictures = of_decisions(&report);
        let files: Vec<&str> = pictures.iter().map(|(file, _)| file.as_str()).collect();
        let expected = [
            "decisions-false-openings-100.svg",
            "decisions-return-no-connection.svg",
            "decisions-probes.svg",
        ];
        assert_eq!(files, expected);
        let points = |line: &str| line.matches(',').count();
        let paths: Vec<usize> = pictures[0]
            .1
            .split("points=\"")
            .skip(1)
            .map(|line| points(line.split('"').next().unwrap()))
            .collect();
        assert_eq!(paths, [2, 1]);
        assert!(of_decisions(&json!({})).is_empty());
    }
}
