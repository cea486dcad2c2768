//! Events as JSON, a line each: `timestamp`, `level`, the event's fields, `target`.
//!
//! tracing-subscriber's own format says the same, field by field through a serializer, which costs more than everything else
//! that a cached answer needs. So decisions are written here, octet for octet as it would write them (a test compares the two), and every other
//! event is left to it.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{self, Format, Json, Writer};
use tracing_subscriber::fmt::time::SystemTime as TheirTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The events that are written here.
const DECISION: &str = "callahead::decision";

/// The format.
#[derive(Debug)]
pub(super) struct Lines {
    others: Format<Json, TheirTime>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { others: format::json().flatten_event(true).with_current_span(false).with_span_list(false) }
    }
}

thread_local! {
    /// A line in the making, so that it is one write and no allocation.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if event.metadata().target() != DECISION {
            return self.others.format_event(context, writer, event);
        }
        let mut line = LINE.take();
        line.clear();
        line.push_str("{\"timestamp\":\"");
        time(&mut line, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())?;
        line.push_str("\",\"level\":\"");
        line.push_str(event.metadata().level().as_str());
        line.push('"');
        event.record(&mut Fields(&mut line));
        line.push_str(",\"target\":\"");
        line.push_str(DECISION);
        line.push_str("\"}\n");
        let written = writer.write_str(&line);
        LINE.set(line);
        written
    }
}

thread_local! {
    /// A second since 1970 and what it looks like, up to its point: most lines share theirs with the line before.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Puts a time since 1970 behind what is there, in UTC, RFC 3339 with microseconds.
fn time(out: &mut String, since: Duration) -> fmt::Result {
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

/// Puts `,"name":value` behind what is there.
struct Fields<'a>(&'a mut String);

impl Fields<'_> {
    fn name(&mut self, field: &Field) {
        // Names of fields are identifiers, and a raw one is shown without its mark.
        let name = field.name();
        self.0.push_str(",\"");
        self.0.push_str(name.strip_prefix("r#").unwrap_or(name));
        self.0.push_str("\":");
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field);
        let _ = write!(self.0, "{value}");
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.0.push('"');
        escape(self.0, value);
        self.0.push('"');
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field);
        // Thousandths, as all durations here are, without the general way.
        if (0.0..MOST_THOUSANDTHS).contains(&value) {
            let thousandths = (value * 1e3).round();
            if thousandths / 1e3 == value {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10^9, and whole")]
                let thousandths = thousandths as u32;
                return thousandth(self.0, thousandths);
            }
        }
        // With its point, also where nothing stands behind it; JSON has no word for what is no number.
        let _ = if value.is_finite() { write!(self.0, "{value:?}") } else { self.0.write_str("null") };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field);
        self.0.push('"');
        let _ = write!(Escaped(self.0), "{value:?}");
        self.0.push('"');
    }
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

/// What is written to it is escaped.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

/// As in RFC 8259 7, with the short forms where there are any.
fn escape(out: &mut String, text: &str) {
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
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use tracing_subscriber::fmt::format::JsonFields;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What an event looks like in our format, or in tracing-subscriber's; without its time.
    fn line(ours: bool, log: impl FnOnce()) -> String {
        let written = Written::default();
        let to = written.clone();
        let log_to = tracing_subscriber::fmt().with_writer(move || to.clone());
        if ours {
            let log_to = log_to.fmt_fields(JsonFields::new()).event_format(Lines::default());
            tracing::subscriber::with_default(log_to.finish(), log);
        } else {
            let log_to = log_to.json().flatten_event(true).with_current_span(false).with_span_list(false);
            tracing::subscriber::with_default(log_to.finish(), log);
        }
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let (time, rest) = text.strip_prefix("{\"timestamp\":\"").unwrap().split_once('"').unwrap();
        assert_eq!(time.len(), "2026-11-25T01:53:38.238599Z".len(), "{time}");
        rest.to_owned()
    }

    proptest! {
        #[test]
        fn decisions_are_written_as_the_subscribers_own_format_would(
            text in ".*", odd in "[\\x00-\\x1f\"\\\\ä\u{2028}]*", is in any::<bool>(),
            unsigned in any::<u64>(), signed in any::<i64>(), real in 0.0..1e9f64, thousandths in 0..2_000_000_000u32, words in proptest::option::of(".*"),
        ) {
            let log = || tracing::info!(
                target: "callahead::decision",
                recipient = text.as_str(),
                client = words.as_ref().map(tracing::field::display),
                reply = words,
                shown = ?odd,
                thousandths = f64::from(thousandths) / 1e3,
                is,
                unsigned,
                signed,
                ms = (real * 1e3).round() / 1e3,
                nan = f64::NAN,
                r#type = 1,
                "{odd}",
            );
            prop_assert_eq!(line(true, log), line(false, log));
        }
    }

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

    #[test]
    fn other_events_are_left_to_the_subscribers_own_format() {
        let log = || tracing::warn!(target: "callahead::alert", domain = "a\"b", "the destination");
        let text = line(true, log);
        assert_eq!(text, line(false, log));
        assert!(text.contains(r#""level":"WARN","message":"the destination","domain":"a\"b""#), "{text}");
    }
}
