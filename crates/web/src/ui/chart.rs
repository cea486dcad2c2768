//! Charts as SVG, drawn here and coloured by the stylesheet. They are made of numbers only, so there is nothing in them to escape.

use std::fmt::Write as _;

use super::series::Column;

/// The drawing's own size; the stylesheet stretches it.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// Decisions a second, stacked by where they came from, with a line for the refused ones.
pub(super) struct Throughput {
    /// The SVG's inner elements.
    pub(super) drawing: String,
    /// What the top edge stands for, a second.
    pub(super) top: String,
    /// For those who do not see it.
    pub(super) words: String,
}

impl Throughput {
    pub(super) fn of(columns: &[Column]) -> Self {
        let total = |column: &Column| column.cached + column.asked + column.other;
        let most = columns.iter().map(total).fold(0.0, f64::max);
        let top = round_up(most);
        let step = WIDTH / columns.len().max(1) as f64;
        let y = |value: f64| HEIGHT - value / top * (HEIGHT - 4.0);
        let mut drawing = String::new();
        for part in [0.25, 0.5, 0.75, 1.0] {
            let at = y(top * part);
            let _ = write!(drawing, r#"<path class="rule" d="M0 {at:.1}H{WIDTH}"/>"#);
        }
        for (at, column) in columns.iter().enumerate() {
            let mut floor = 0.0;
            for (class, value) in [("c1", column.cached), ("c2", column.asked), ("c3", column.other)] {
                if value > 0.0 {
                    let (x, high, low) = (at as f64 * step, y(floor + value), y(floor));
                    let _ = write!(
                        drawing,
                        r#"<rect class="{class}" x="{x:.1}" y="{high:.1}" width="{:.1}" height="{:.1}"/>"#,
                        step - 0.6,
                        (low - high).max(0.5)
                    );
                    floor += value;
                }
            }
        }
        if columns.iter().any(|column| column.refused > 0.0) {
            // From where there is something to refuse: before that the program did not run, most often.
            let quiet = columns.iter().take_while(|column| total(column) == 0.0).count();
            let points = columns.iter().enumerate().skip(quiet);
            let points = points.map(|(at, column)| ((at as f64 + 0.5) * step, y(column.refused)));
            let line: Vec<String> = points.map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            let _ = write!(drawing, r#"<path class="c4" d="M{}"/>"#, line.join("L"));
        }
        let words = match most {
            0.0 => "No decisions in the last hour.".to_owned(),
            _ => {
                let last = columns.last().copied().unwrap_or_default();
                format!(
                    "Decisions a second in the last hour: at most {}, lately {}, of which {} refused.",
                    number(most),
                    number(total(&last)),
                    number(last.refused)
                )
            }
        };
        Self { drawing, top: number(top), words }
    }
}

/// The next of 1, 2, 5, 10, 20, ...; at least 1.
fn round_up(value: f64) -> f64 {
    let mut decade = 1.0;
    loop {
        for step in [1.0, 2.0, 5.0] {
            if value <= step * decade {
                return step * decade;
            }
        }
        decade *= 10.0;
        if decade > 1e12 {
            return value;
        }
    }
}

/// A rate for people: `0`, `0.3`, `12`, `34,000`.
pub(super) fn number(value: f64) -> String {
    if value > 0.0 && value < 10.0 {
        let text = format!("{value:.1}");
        return text.strip_suffix(".0").map_or(text.clone(), str::to_owned);
    }
    with_commas(&format!("{value:.0}"))
}

/// A count with commas: `1,234,567`.
pub(super) fn count(value: u64) -> String {
    with_commas(&value.to_string())
}

fn with_commas(digits: &str) -> String {
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
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
    fn numbers_are_written_for_people() {
        for (value, text) in [(0.0, "0"), (0.34, "0.3"), (3.0, "3"), (12.4, "12"), (1_234_567.0, "1,234,567")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_top_is_a_round_number_above_everything() {
        for (value, top) in [(0.0, 1.0), (1.0, 1.0), (3.0, 5.0), (51.0, 100.0), (1999.0, 2000.0)] {
            assert_eq!(round_up(value), top);
        }
    }

    #[test]
    fn no_column_leaves_the_drawing() {
        let columns = [Column { cached: 7.0, asked: 2.0, other: 1.0, refused: 9.5 }, Column::default()];
        let chart = Throughput::of(&columns);
        assert_eq!(chart.top, "10");
        let heights =
            chart.drawing.split("height=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok());
        assert!(heights.sum::<f64>() <= HEIGHT, "{}", chart.drawing);
    }
}
