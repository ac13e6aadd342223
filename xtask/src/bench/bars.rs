//! Charts of horizontal bars.

use super::svg::escape;
use levee_bench_statistics::Spread;
use std::fmt::Write as _;

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

    #[test]
    fn values_that_are_far_apart_are_drawn_on_a_logarithmic_scale() {
        let bar = |median| Bar {
            label: String::new(),
            value: Spread {
                median,
                lowest: median - 0.5,
                highest: median + 0.5,
            },
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
}
