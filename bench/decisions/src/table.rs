//! The report as tables in Markdown.

use crate::cold::{self, Recovery};
use crate::disturbances::{BadHost, MOMENTS_RATE, Moments, Shares};
use crate::openings::How;
use crate::outages::{RETURN_RATE, Return, UntilOpen};
use crate::report::{FalseOpenings, RATES, Report, UNTIL_OPEN_RATES};
use std::fmt::Write as _;

const HOW: &str = "`=` by formula, `~` estimated, the others counted in a simulation.";

pub fn tables(report: &Report) -> String {
    let mut text = format!("Seed {}.\n", report.seed);
    false_openings(&mut text, report);
    until_open(&mut text, report);
    comes_back(&mut text, report);
    bad_host(&mut text, report);
    moments(&mut text, report);
    recovery(&mut text, report);
    text
}

/// One cell: the rule of its column, the name of its row, and its text.
struct Cell {
    rule: &'static str,
    row: String,
    text: String,
}

fn false_openings(text: &mut String, report: &Report) {
    let _ = writeln!(text, "\n## False openings a year\n\n{HOW}");
    let cell = |figure: &FalseOpenings| Cell {
        rule: figure.rule,
        row: format!("{} %", figure.error_percent),
        text: {
            let mark = match figure.openings.how {
                How::Simulated => "",
                How::Exact => "= ",
                How::Estimated => "~ ",
            };
            format!("{mark}{}", number(figure.openings.per_year))
        },
    };
    for rate in RATES {
        let of_rate = report
            .false_openings
            .iter()
            .filter(|figure| is(figure.calls_per_second, rate));
        let title = format!("error rate, {rate} calls a second");
        table(text, &title, of_rate.map(cell));
    }
}

fn until_open(text: &mut String, report: &Report) {
    let _ = writeln!(
        text,
        "\n## Failing calls until it opens\n\nThe service answers all calls with 503. `-`: it was open before, mostly."
    );
    let cell = |figure: &UntilOpen| Cell {
        rule: figure.rule,
        row: format!("{} %", figure.error_percent_before),
        text: match (figure.failed, figure.seconds) {
            (Some(failed), Some(seconds)) => format!("{}, {} s", number(failed), number(seconds)),
            _ => "-".to_owned(),
        },
    };
    for rate in UNTIL_OPEN_RATES {
        let of_rate = report
            .until_open
            .iter()
            .filter(|figure| is(figure.calls_per_second, rate));
        let title = format!("error rate before, {rate} calls a second");
        table(text, &title, of_rate.map(cell));
    }
}

fn comes_back(text: &mut String, report: &Report) {
    type Show = fn(&Return) -> String;
    let parts: [(&str, Show); 3] = [
        (
            "From the return to the first good answer: mean, longest",
            |figure| {
                let [mean, longest] =
                    [figure.until_good_seconds, figure.longest_until_good_seconds].map(number);
                format!("{mean} s, {longest} s")
            },
        ),
        ("Calls refused after the return", |figure| {
            number(figure.refused_after)
        }),
        ("Calls that reach the service during the outage", |figure| {
            number(figure.reached)
        }),
    ];
    let _ = writeln!(
        text,
        "\n## After an outage\n\n{RETURN_RATE} calls a second."
    );
    for (title, show) in parts {
        let _ = writeln!(text, "\n{title}:");
        let cell = |figure: &Return| Cell {
            rule: figure.rule,
            row: format!("{}, {} s", figure.kind.name(), figure.outage_seconds),
            text: show(figure),
        };
        table(text, "outage", report.comes_back.iter().map(cell));
    }
}

fn bad_host(text: &mut String, report: &Report) {
    let _ = writeln!(
        text,
        "\n## One bad host of three\n\nIn percent of the calls: good, failed, refused."
    );
    let cell = |figure: &BadHost| Cell {
        rule: figure.rule,
        row: format!(
            "{}, {} calls a second",
            figure.balancing, figure.calls_per_second
        ),
        text: shares(&figure.shares),
    };
    table(text, "balancing", report.bad_host.iter().map(cell));
}

fn moments(text: &mut String, report: &Report) {
    let _ = writeln!(
        text,
        "\n## A bad moment each minute\n\n{MOMENTS_RATE} calls a second. In percent of the calls: good, failed, refused."
    );
    let cell = |figure: &Moments| Cell {
        rule: figure.rule,
        row: format!("{} ms", figure.moment_ms),
        text: shares(&figure.shares),
    };
    table(text, "moment", report.moments.iter().map(cell));
}

fn recovery(text: &mut String, report: &Report) {
    let rate = cold::RATE;
    let _ = writeln!(
        text,
        "\n## A service that is back\n\n{rate} calls a second. Until all calls are good, and how many fail and are refused after its return."
    );
    let cell = |figure: &Recovery| Cell {
        rule: figure.service.name(),
        row: format!("{} s", figure.recover_for_seconds),
        text: format!(
            "{}, {}, {}",
            figure.until_well_seconds.map_or_else(
                || "-".to_owned(),
                |seconds| format!("{} s", number(seconds))
            ),
            number(figure.failed_after),
            number(figure.refused_after)
        ),
    };
    table(text, "recover_for", report.recovery.iter().map(cell));
}

fn shares(shares: &Shares) -> String {
    format!(
        "{:.1}, {:.1}, {:.1}",
        shares.good, shares.failed, shares.refused
    )
}

/// A column for each rule, and rows and columns in the order in which they come.
fn table(text: &mut String, first: &str, cells: impl Iterator<Item = Cell>) {
    let cells: Vec<Cell> = cells.collect();
    let mut rules: Vec<&str> = Vec::new();
    let mut rows: Vec<(&str, Vec<&str>)> = Vec::new();
    for cell in &cells {
        if !rules.contains(&cell.rule) {
            rules.push(cell.rule);
        }
        match rows.iter_mut().find(|(name, _)| *name == cell.row) {
            Some((_, row)) => row.push(&cell.text),
            None => rows.push((&cell.row, vec![&cell.text])),
        }
    }
    let line = "---|".repeat(rules.len() + 1);
    let _ = writeln!(text, "\n| {first} | {} |\n|{line}", rules.join(" | "));
    for (name, row) in rows {
        let _ = writeln!(text, "| {name} | {} |", row.join(" | "));
    }
}

#[expect(clippy::float_cmp, reason = "copies of the same number")]
fn is(value: f64, other: f64) -> bool {
    value == other
}

/// Two significant digits.
pub fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        ..0.001 => "< 0.001".to_owned(),
        ..0.01 => format!("{value:.3}"),
        ..1.0 => format!("{value:.2}"),
        ..10.0 => format!("{value:.1}"),
        ..100.0 => format!("{value:.0}"),
        _ => thousands(value),
    }
}

/// Rounded to two significant digits, with commas.
fn thousands(value: f64) -> String {
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    let digits = format!("{:.0}", (value / unit).round() * unit);
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_two_digits() {
        let cases = [
            (0.0, "0"),
            (1e-9, "< 0.001"),
            (0.004, "0.004"),
            (0.25, "0.25"),
            (3.12, "3.1"),
            (284.4, "280"),
            (123_456.0, "120,000"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
    }
}
