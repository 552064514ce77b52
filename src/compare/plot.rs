//! Small charts as SVG text: lines and points over linear or logarithmic axes, enough for a roofline and for curves over
//! layers or positions.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 56.0;
const COLORS: [&str; 8] =
    ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f"];

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with the unit.
    pub label: String,
    /// Powers of ten instead of equal steps.
    pub logarithmic: bool,
}

/// Points of one kind.
#[derive(Clone, Debug)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// Whether the points are joined.
    pub line: bool,
    /// x and y. Points that are not finite, or not positive on a logarithmic axis, are left out.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above the chart.
    pub title: String,
    /// Horizontal.
    pub x: Axis,
    /// Vertical.
    pub y: Axis,
    /// What is drawn, first to last.
    pub series: Vec<Series>,
}

/// An axis with its range.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        if axis.logarithmic {
            (low, high) = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()));
        } else if low > 0.0 {
            low = 0.0;
        }
        if low >= high {
            high = if axis.logarithmic { low * 10.0 } else { low + 1.0 };
        }
        Self { low, high, logarithmic: axis.logarithmic }
    }

    /// Where a value lies between 0 and 1.
    fn at(&self, value: f64) -> f64 {
        if self.logarithmic {
            (value / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = (self.high / self.low).log10().round() as i32;
            return (0..=decades.min(20)).map(|i| self.low * 10f64.powi(i)).collect();
        }
        let rough = (self.high - self.low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil();
        (0..20)
            .map(|i| (first + f64::from(i)) * step)
            .take_while(|tick| *tick <= self.high * 1.0001)
            .collect()
    }
}

/// Charts one below the other as SVG.
pub fn stacked(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let inner = charts.iter().enumerate().fold(String::new(), |text, (index, chart)| {
        let place = format!("<svg y=\"{}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" ", HEIGHT * index as f64);
        text + &chart.svg().replacen("<svg ", &place, 1)
    });
    format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\">\n{inner}</svg>\n")
}

impl Chart {
    /// The chart as SVG.
    pub fn svg(&self) -> String {
        let shown = |&(x, y): &(f64, f64)| {
            x.is_finite()
                && y.is_finite()
                && (x > 0.0 || !self.x.logarithmic)
                && (y > 0.0 || !self.y.logarithmic)
        };
        let points =
            || self.series.iter().flat_map(|series| series.points.iter().copied().filter(|p| shown(p)));
        let x_scale = Scale::new(&self.x, points().map(|p| p.0));
        let y_scale = Scale::new(&self.y, points().map(|p| p.1));
        let px = |x: f64| LEFT + x_scale.at(x) * (WIDTH - LEFT - RIGHT);
        let py = |y: f64| HEIGHT - BOTTOM - y_scale.at(y) * (HEIGHT - TOP - BOTTOM);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            escape(&self.title)
        );
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in x_scale.ticks() {
            let x = px(tick);
            line(&mut svg, (x, TOP), (x, bottom), "#e0e0e0");
            let text = number(tick);
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                bottom + 16.0
            );
        }
        for tick in y_scale.ticks() {
            let y = py(tick);
            line(&mut svg, (LEFT, y), (right, y), "#e0e0e0");
            let text = number(tick);
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 6.0,
                y + 4.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 14.0,
            escape(&self.x.label),
            (TOP + bottom) / 2.0,
            escape(&self.y.label)
        );
        for (index, series) in self.series.iter().enumerate() {
            let color = COLORS[index % COLORS.len()];
            let points: Vec<(f64, f64)> =
                series.points.iter().filter(|p| shown(p)).map(|&(x, y)| (px(x), py(y))).collect();
            if series.line {
                let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                let _ = writeln!(
                    svg,
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
                    path.join(" ")
                );
            } else {
                for (x, y) in points {
                    let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{color}\"/>");
                }
            }
            let y = TOP + 14.0 + 18.0 * index as f64;
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                right + 12.0,
                y - 9.0,
                right + 27.0,
                escape(&series.name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), color: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_that_an_axis_cannot_show_are_left_out() {
        let axis = |logarithmic| Axis { label: "a < b".to_owned(), logarithmic };
        let points = vec![(1.0, 2.0), (0.0, 1.0), (10.0, f64::NAN), (100.0, 20.0)];
        let series = vec![Series { name: "s".to_owned(), line: false, points }];
        let svg = Chart { title: "t".to_owned(), x: axis(true), y: axis(false), series }.svg();
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
