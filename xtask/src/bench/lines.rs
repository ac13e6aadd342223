//! Line charts as SVG.

use super::svg::escape;
use std::fmt::Write as _;

const WIDTH: f64 = 840.0;
const HEIGHT: f64 = 330.0;
/// Around the area of the lines.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// Colours of the lines, in order.
const COLOURS: [&str; 6] = [
    "#1f6fb2", "#7a7a7a", "#c96f1f", "#2e8b57", "#8e44ad", "#b03030",
];

pub struct LineChart {
    pub title: String,
    pub x: &'static str,
    pub scales: [Scale; 2],
    pub lines: Vec<Line>,
}

/// Of an axis.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// From the least value. Values must be positive.
    Logarithmic,
}

pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A scale, and the places of its ends.
struct Axis {
    scale: Scale,
    least: f64,
    greatest: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let greatest = values.clone().fold(f64::MIN_POSITIVE, f64::max);
        let least = match scale {
            Scale::Linear => 0.0,
            Scale::Logarithmic => values.fold(greatest, f64::min).min(greatest / 10.0),
        };
        Self {
            scale,
            least,
            greatest,
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => value / self.greatest,
            Scale::Logarithmic => (value / self.least).ln() / (self.greatest / self.least).ln(),
        };
        self.from + (self.to - self.from) * share
    }

    /// The values with a label: quarters, or powers of ten, and between few powers 2 and 5 times as much.
    fn ticks(&self) -> Vec<f64> {
        let factors: &[f64] = if self.greatest / self.least < 10_000.0 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        match self.scale {
            Scale::Linear => [0.0, 0.25, 0.5, 0.75, 1.0]
                .map(|part| self.greatest * part)
                .into(),
            Scale::Logarithmic => (-9..=9)
                .flat_map(|power| factors.iter().map(move |factor| (power, factor)))
                .map(|(power, factor)| factor * 10_f64.powi(power))
                .filter(|tick| (self.least * 0.999..=self.greatest * 1.001).contains(tick))
                .collect(),
        }
    }

    fn label(&self, tick: f64, decimals: usize) -> String {
        match self.scale {
            Scale::Linear => format!("{tick:.decimals$}"),
            // Without the error of the last bit.
            Scale::Logarithmic if tick < 1.0 => {
                format!("{tick:.9}").trim_end_matches('0').to_owned()
            }
            Scale::Logarithmic => format!("{tick:.0}"),
        }
    }
}

/// Lines, each with its name at the right.
pub fn draw(chart: &LineChart) -> String {
    let points = || chart.lines.iter().flat_map(|line| line.points.iter());
    let right = WIDTH - RIGHT;
    let bottom = HEIGHT - BOTTOM;
    let x = Axis::new(chart.scales[0], points().map(|point| point.0), LEFT, right);
    let y = Axis::new(chart.scales[1], points().map(|point| point.1), bottom, TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\">{}</text>\n",
        escape(&chart.title)
    );
    for tick in y.ticks() {
        let up = y.place(tick);
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right:.1}\" y1=\"{up:.1}\" y2=\"{up:.1}\" stroke=\"#dddddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            LEFT - 8.0,
            up + 4.0,
            y.label(tick, 0),
        );
    }
    for tick in x.ticks() {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x.place(tick),
            bottom + 18.0,
            x.label(tick, 1),
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(LEFT, right),
        HEIGHT - 10.0,
        escape(chart.x)
    );
    // The first is on top.
    for (place, line) in (0_u32..)
        .zip(&chart.lines)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        draw_line(&mut svg, place, line, [&x, &y]);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The name is in a column at the right: the lines may end at one point.
fn draw_line(svg: &mut String, place: u32, line: &Line, [x, y]: [&Axis; 2]) {
    let colour = COLOURS[place as usize % COLOURS.len()];
    let path: Vec<String> = line
        .points
        .iter()
        .map(|(across, up)| format!("{:.1},{:.1}", x.place(*across), y.place(*up)))
        .collect();
    let _ = write!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>\n",
        path.join(" "),
        WIDTH - RIGHT + 12.0,
        TOP + 10.0 + 18.0 * f64::from(place),
        escape(&line.name)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_reaches_from_edge_to_edge_by_the_greatest_values() {
        let line = |name: &str, end: f64| Line {
            name: name.to_owned(),
            points: vec![(0.0, 300.0), (end, 0.0)],
        };
        let svg = draw(&LineChart {
            title: "left <rows>".to_owned(),
            x: "seconds",
            scales: [Scale::Linear; 2],
            lines: vec![line("levee", 2.0), line("a loop", 1.0)],
        });
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let halfway = LEFT + (right - LEFT) / 2.0;
        for path in [
            format!("{LEFT:.1},{TOP:.1} {right:.1},{bottom:.1}"),
            format!("{LEFT:.1},{TOP:.1} {halfway:.1},{bottom:.1}"),
        ] {
            assert!(svg.contains(&path), "{path}: {svg}");
        }
        assert!(svg.contains("left &lt;rows&gt;") && svg.contains(">2.0<"));
    }

    #[test]
    fn a_logarithmic_axis_has_equal_steps_for_equal_ratios() {
        let svg = draw(&LineChart {
            title: String::new(),
            x: "percent",
            scales: [Scale::Logarithmic; 2],
            lines: vec![Line {
                name: String::new(),
                points: vec![(0.1, 1.0), (1.0, 10.0), (10.0, 100.0)],
            }],
        });
        let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
        let height = f64::midpoint(TOP, HEIGHT - BOTTOM);
        assert!(svg.contains(&format!(" {middle:.1},{height:.1} ")), "{svg}");
        assert!(svg.contains(">0.1<") && svg.contains(">100<"), "{svg}");
    }
}
