//! The arithmetic: medians, ratios round by round, and their spread.

/// A median and the smallest and the greatest value beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The value in the middle; of an even number the mean of the two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some values; not numbers where there is none, so that what was not measured is neither more nor less than any target.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self { median: f64::NAN, min: f64::NAN, max: f64::NAN };
        };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Self { median, min, max }
    }

    /// Of the [`ratios`]; a round whose divisor is zero is left out.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        let told = ratios(ours, theirs).into_iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0);
        Self::of(&told.map(|(ratio, _)| ratio).collect::<Vec<_>>())
    }

    /// `median (min to max)`, each written by `write`.
    pub fn show(&self, write: impl Fn(f64) -> String) -> String {
        if self.median.is_nan() {
            return write(self.median);
        }
        format!("{} ({} to {})", write(self.median), write(self.min), write(self.max))
    }
}

/// Round by round: what was measured in the same round is compared, so that a machine that gets slower on the way changes no ratio. Of a
/// round whose divisor is zero it is no number.
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    let ratio = |(ours, theirs): (&f64, &f64)| if *theirs > 0.0 { ours / theirs } else { f64::NAN };
    ours.iter().zip(theirs).map(ratio).collect()
}

/// What is no number, because nothing was measured.
const NONE: &str = "none";

/// With so many digits as say something: 0.123, 1.23, 12.3, 1,234.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        return NONE.to_owned();
    }
    let digits = match value.abs() {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut out = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(rest) = rest {
        out.push('.');
        out.push_str(rest);
    }
    out
}

/// A whole number, in groups of three digits.
pub fn count(count: u64) -> String {
    if count < 100 { count.to_string() } else { number(real(count)) }
}

/// Nanoseconds in the unit that suits them.
pub fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n.is_nan() => NONE.to_owned(),
        n if n >= 1e9 => format!("{} s", number(n / 1e9)),
        n if n >= 1e6 => format!("{} ms", number(n / 1e6)),
        n => format!("{} µs", number(n / 1e3)),
    }
}

/// Bytes in MB (10^6).
pub fn megabytes(bytes: f64) -> String {
    if bytes.is_nan() { NONE.to_owned() } else { format!("{} MB", number(bytes / 1e6)) }
}

/// A count as a number to divide by. Counts here are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub fn real(count: u64) -> f64 {
    count as f64
}
