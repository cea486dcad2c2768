//! Durations as they are written in the configuration and in the API: `30s`, `1h30m`, `500ms`, `4d`.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a duration: numbers with their units (ms, s, m, h, d), one after another.
///
/// # Errors
/// A sentence part that says what is wrong and how it is written.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = |why: &str| {
        format!("{text:?} is no duration ({why}): write a number with ms, s, m, h or d, such as \"30s\" or \"1h30m\"")
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong("it is empty"));
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| wrong("a unit is missing"))?;
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong("a number is missing or too large"))?;
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let millis = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis);
        let millis = millis.ok_or_else(|| wrong(&format!("{unit:?} is no unit")))?;
        let part = number.checked_mul(millis).and_then(|part| total.checked_add(part));
        total = part.ok_or_else(|| wrong("it is too large"))?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration the shortest way: `96h`, `1h30m`, `500ms`. Hours are not made days of, as administrators write `96h`.
pub fn format_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, millis) in &UNITS[1..] {
        if left >= *millis {
            text.push_str(&format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, millis) in
            [("30s", 30_000), ("1h30m", 5_400_000), ("500ms", 500), ("4d", 345_600_000), ("2 h", 7_200_000)]
        {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis));
            assert_eq!(parse_duration(&format_duration(duration)).unwrap(), duration);
        }
        for text in ["", "30", "30 parsecs", "-3s", "h", "1.5h", "99999999999999999999d", "18446744073709551615d"] {
            assert!(parse_duration(text).unwrap_err().contains("is no duration"), "{text}");
        }
        assert_eq!(format_duration(Duration::from_secs(96 * 3600)), "96h");
    }
}
