//! Parts of a line of JSON, as tracing-subscriber would write them.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::time::Duration;

use jiff::Timestamp;

thread_local! {
    /// A second since 1970 and what it looks like, up to its point: most lines share theirs with the line before.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Puts a time since 1970 behind what is there, in UTC, RFC 3339 with microseconds.
pub(super) fn time(out: &mut String, since: Duration) -> fmt::Result {
    SECOND.with_borrow_mut(|(second, shown)| {
        if *second != since.as_secs() {
            let whole = i64::try_from(since.as_secs()).ok().and_then(|whole| Timestamp::from_second(whole).ok());
            shown.clear();
            write!(shown, "{}", whole.unwrap_or_default())?;
            // The digits behind the point, and the Z, are written below.
            shown.truncate(shown.len() - 1);
            shown.push('.');
            *second = since.as_secs();
        }
        out.push_str(shown);
        digits(out, since.subsec_micros(), 6);
        out.push('Z');
        Ok(())
    })
}

/// Puts the last so many decimal digits of a number behind what is there, zeros in front.
fn digits(out: &mut String, number: u32, count: u32) {
    for place in (0..count).rev() {
        let digit = number / 10u32.pow(place) % 10;
        out.push(char::from_digit(digit, 10).unwrap_or('0'));
    }
}

/// Puts a small number behind what is there.
pub(super) fn number(out: &mut String, number: u16) {
    let count = 1 + number.checked_ilog10().unwrap_or(0);
    digits(out, number.into(), count);
}

/// Puts a number behind what is there with its point, also where nothing stands behind it; JSON has no word for what is no number.
pub(super) fn real(out: &mut String, value: f64) {
    // Thousandths, as all durations here are, without the general way.
    if (0.0..MOST_THOUSANDTHS).contains(&value) {
        let thousandths = (value * 1e3).round();
        if thousandths / 1e3 == value {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10^9, and whole")]
            let thousandths = thousandths as u32;
            return thousandth(out, thousandths);
        }
    }
    let _ = if value.is_finite() { write!(out, "{value:?}") } else { out.write_str("null") };
}

/// Numbers below this are looked at for being whole thousandths.
const MOST_THOUSANDTHS: f64 = 1e6;

/// Puts a number of thousandths behind what is there as a decimal number: at least one digit behind the point, and no zeros
/// that say nothing.
fn thousandth(out: &mut String, thousandths: u32) {
    let (whole, mut rest, mut count) = (thousandths / 1000, thousandths % 1000, 3);
    while count > 1 && rest % 10 == 0 {
        rest /= 10;
        count -= 1;
    }
    let _ = write!(out, "{whole}.");
    digits(out, rest, count);
}

/// As in RFC 8259 7, with the short forms where there are any.
pub(super) fn escape(out: &mut String, text: &str) {
    let mut from = 0;
    for (at, octet) in text.bytes().enumerate() {
        if octet >= b' ' && octet != b'"' && octet != b'\\' {
            continue;
        }
        out.push_str(&text[from..at]);
        from = at + 1;
        match octet {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            other => drop(write!(out, "\\u{other:04x}")),
        }
    }
    out.push_str(&text[from..]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_in_utc_with_microseconds_also_across_seconds() {
        let shown = |since| {
            let mut out = String::new();
            time(&mut out, since).unwrap();
            out
        };
        let second = Duration::from_secs(1_764_035_618);
        let times =
            [second + Duration::from_nanos(238_599_999), second, second + Duration::from_millis(999), second * 2];
        assert_eq!(
            times.map(shown),
            [
                "2025-11-25T01:53:38.238599Z",
                "2025-11-25T01:53:38.000000Z",
                "2025-11-25T01:53:38.999000Z",
                "2081-10-19T03:47:16.000000Z"
            ]
        );
    }
}
