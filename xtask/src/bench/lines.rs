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
const COLOURS: [&str; 3] = ["#1f6fb2", "#7a7a7a", "#c96f1f"];

pub struct LineChart {
    pub title: String,
    pub x: &'static str,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Lines from the origin, each with its name at its end.
pub fn draw(chart: &LineChart) -> String {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let greatest = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (last, most) = (greatest(|point| point.0), greatest(|point| point.1));
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / last;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\">{}</text>\n",
        escape(&chart.title)
    );
    for part in 0..=4_u8 {
        let part = f64::from(part) / 4.0;
        let (across, up) = (x(last * part), y(most * part));
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{up:.1}\" y2=\"{up:.1}\" stroke=\"#dddddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0}</text>\n\
             <text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.1}</text>\n",
            WIDTH - RIGHT,
            LEFT - 8.0,
            up + 4.0,
            most * part,
            HEIGHT - BOTTOM + 18.0,
            last * part,
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
        HEIGHT - 10.0,
        escape(chart.x)
    );
    for (place, line) in (0_u32..).zip(&chart.lines) {
        let colour = COLOURS[place as usize % COLOURS.len()];
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(across, up)| format!("{:.1},{:.1}", x(*across), y(*up)))
            .collect();
        // In a column at the right: the lines may end at one point.
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
    svg.push_str("</svg>\n");
    svg
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
}
