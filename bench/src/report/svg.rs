//! Plots as SVG, readable on light and dark ground: nothing is filled behind them, and text and axes are of a grey that both bear.

use std::fmt::Write as _;

use crate::stats::{number, real};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;
/// Axes and text: 4.5:1 on white and on black, nearly.
const GREY: &str = "#777777";
/// Told apart by those who see colours otherwise too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A row of points with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// What a plot says beside its lines.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Above it.
    pub title: &'a str,
    /// Along it.
    pub x: &'a str,
    /// Up it.
    pub y: &'a str,
}

fn open(labels: Labels<'_>) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"{GREY}\" role=\"img\">\n<title>{}</title>\n",
        escape(labels.title)
    );
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{}</text>", escape(labels.title));
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"34\">{}</text>", escape(labels.y));
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 8.0,
        escape(labels.x)
    );
    out
}

/// Lines over a logarithmic x axis; the y axis begins at zero.
pub fn lines(labels: Labels<'_>, series: &[Series]) -> String {
    let mut out = open(labels);
    let points = || series.iter().flat_map(|series| &series.points);
    let (low, high) = points().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
    let top = nice(points().map(|(_, y)| *y).fold(0.0, f64::max));
    if low > 0.0 && high >= low {
        let (from, to) = (low.log10(), high.log10().max(low.log10() + 1e-9));
        let x = |value: f64| LEFT + (value.log10() - from) / (to - from) * (WIDTH - RIGHT - LEFT);
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP);
        grid(&mut out, top, &y);
        let mut ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        for tick in ticks {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x(tick),
                HEIGHT - BOTTOM + 16.0,
                whole(tick)
            );
        }
        for (number, one) in series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let path: Vec<String> = one.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
            let _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                path.join(" ")
            );
            for (px, py) in &one.points {
                let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(*px), y(*py));
            }
            let at = TOP + 16.0 * real(number as u64);
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT + 12.0,
                at,
                WIDTH - RIGHT + 27.0,
                at + 9.5,
                escape(&one.name)
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Bars along a logarithmic axis that begins a decade below the smallest: rates that lie far apart.
pub fn bars(labels: Labels<'_>, bars: &[(String, f64)]) -> String {
    let mut out = open(labels);
    let shown: Vec<&(String, f64)> = bars.iter().filter(|(_, value)| *value > 0.0).collect();
    let low = shown.iter().map(|(_, value)| value.log10()).fold(f64::MAX, f64::min).floor() - 1.0;
    let high = shown.iter().map(|(_, value)| value.log10()).fold(f64::MIN, f64::max).max(low + 1.0);
    let left = LEFT + 60.0;
    let step = (HEIGHT - TOP - BOTTOM) / real(shown.len().max(1) as u64);
    for (number_of, (name, value)) in shown.iter().enumerate() {
        let y = TOP + step * real(number_of as u64);
        let length = (value.log10() - low) / (high - low) * (WIDTH - RIGHT - left);
        let colour = COLOURS[number_of % COLOURS.len()];
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect x=\"{left:.1}\" y=\"{:.1}\" \
             width=\"{length:.1}\" height=\"{:.1}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left - 8.0,
            y + step / 2.0 + 4.0,
            escape(name),
            y + step * 0.15,
            step * 0.7,
            left + length + 8.0,
            y + step / 2.0 + 4.0,
            number(*value)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn grid(out: &mut String, top: f64, y: &dyn Fn(f64) -> f64) {
    for quarter in 0..=4 {
        let value = top * f64::from(quarter) / 4.0;
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{GREY}\" stroke-opacity=\"0.3\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            y(value),
            y(value),
            LEFT - 8.0,
            y(value) + 4.0,
            whole(value)
        );
    }
}

/// Without digits behind the point that say nothing.
fn whole(value: f64) -> String {
    if value.fract() == 0.0 && value < 100.0 { format!("{value:.0}") } else { number(value) }
}

/// The next of 1, 2, 4, 5, 8 times a power of ten: a quarter of it is a round number too.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(value)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
