//! Decisions on their way into the log, without an event for each.
//!
//! An event hands its fields over one by one, to whoever may want them; that costs as much as looking a recipient up does. Where the
//! log is JSON, a decision is written here instead, octet for octet what [`LogObserver`]'s event would come to (a test compares the two).

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use callahead_engine::{Alert, Decision, LogObserver, Observer, Question, Source};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter as _;

use super::json;
use super::writer::LogWriter;

/// The target of a decision's line, by which `CALLAHEAD_LOG` chooses.
const DECISION: &str = "callahead::decision";

/// Writes each decision into the log, and each alert.
#[derive(Clone, Debug)]
pub struct DecisionLines {
    /// Where lines of JSON go; `None` where the log is for people.
    json: Option<LogWriter>,
}

thread_local! {
    /// A line in the making, so that it is one write and no allocation.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl DecisionLines {
    pub(super) fn new(json: Option<LogWriter>) -> Self {
        Self { json }
    }
}

impl Observer for DecisionLines {
    fn decided(&self, question: &Question<'_>, decision: &Decision) {
        let Some(writer) = &self.json else { return LogObserver.decided(question, decision) };
        if !tracing::enabled!(target: DECISION, Level::INFO) {
            return;
        }
        let mut line = LINE.take();
        line.clear();
        write(&mut line, question, decision);
        // A log that can't be written can tell nobody.
        let _ = writer.make_writer().write_all(line.as_bytes());
        LINE.set(line);
    }

    fn alert(&self, alert: &Alert) {
        LogObserver.alert(alert);
    }
}

fn write(line: &mut String, question: &Question<'_>, decision: &Decision) {
    line.push_str("{\"timestamp\":\"");
    // Writing into memory does not fail, here and below.
    let _ = json::time(line, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    line.push_str("\",\"level\":\"INFO\",\"message\":\"");
    json::escape(line, &decision.reason);
    line.push_str("\",\"recipient\":\"");
    json::escape(line, &decision.recipient);
    line.push_str("\",\"listener\":\"");
    line.push_str(question.listener.as_str());
    if let Some(client) = question.client {
        let _ = write!(line, "\",\"client\":\"{client}");
    }
    if let Some(sender) = question.sender {
        line.push_str("\",\"sender\":\"");
        json::escape(line, sender);
    }
    if let Some(verdict) = decision.verdict {
        line.push_str("\",\"verdict\":\"");
        line.push_str(verdict.as_str());
    }
    line.push_str("\",\"action\":\"");
    line.push_str(decision.answer.action.as_str());
    if let Some(would) = &decision.would {
        line.push_str("\",\"would\":\"");
        line.push_str(would.action.as_str());
    }
    line.push_str("\",\"row\":");
    json::number(line, decision.row.into());
    line.push_str(if decision.source == Source::Cache { ",\"cached\":true" } else { ",\"cached\":false" });
    line.push_str(",\"source\":\"");
    line.push_str(decision.source.as_str());
    if let Some(destination) = &decision.destination {
        line.push_str("\",\"destination\":\"");
        json::escape(line, destination);
    }
    if let Some(reply) = &decision.reply {
        line.push_str("\",\"reply\":\"");
        json::number(line, reply.code);
        line.push(' ');
        json::escape(line, &reply.text);
    }
    line.push_str("\",\"answer\":\"");
    let answer = decision.would.as_ref().unwrap_or(&decision.answer);
    if let Some(code) = answer.code {
        json::number(line, code);
        line.push(' ');
        if let Some(enhanced) = answer.enhanced {
            let _ = write!(line, "{enhanced} ");
        }
        json::escape(line, &answer.text);
    }
    line.push_str("\",\"ms\":");
    json::real(line, (decision.elapsed.as_secs_f64() * 1e6).round() / 1e3);
    line.push_str(",\"target\":\"");
    line.push_str(DECISION);
    line.push_str("\"}\n");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::borrow::Cow;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use callahead_cache::{StoredReply, Timestamp};
    use callahead_engine::{Action, Answer, Listener, Verdict};
    use callahead_smtp::EnhancedCode;
    use proptest::prelude::*;

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

    /// The line that the event comes to, in tracing-subscriber's format.
    fn event(question: &Question<'_>, decision: &Decision) -> String {
        let written = Written::default();
        let to = written.clone();
        let log = tracing_subscriber::fmt().with_writer(move || to.clone());
        let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
        tracing::subscriber::with_default(log.finish(), || LogObserver.decided(question, decision));
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    fn line(question: &Question<'_>, decision: &Decision) -> String {
        let mut line = String::new();
        write(&mut line, question, decision);
        line
    }

    fn without_time(line: &str) -> &str {
        let (time, rest) = line.strip_prefix("{\"timestamp\":\"").unwrap().split_once('"').unwrap();
        assert_eq!(time.len(), "2026-11-25T01:53:38.238599Z".len(), "{time}");
        rest
    }

    fn answers() -> impl Strategy<Value = Answer> {
        let actions = prop_oneof![Just(Action::Accept), Just(Action::Reject), Just(Action::Defer), Just(Action::None)];
        let enhanced = proptest::option::of((0u16..1000, 0u16..1000));
        (actions, proptest::option::of(any::<u16>()), enhanced, ".*").prop_map(|(action, code, enhanced, text)| {
            let enhanced = enhanced.and_then(|(subject, detail)| EnhancedCode::new(5, subject, detail));
            Answer { action, code, enhanced, text: Cow::Owned(text) }
        })
    }

    fn decisions() -> impl Strategy<Value = Decision> {
        let verdicts = proptest::option::of(prop_oneof![Just(Verdict::Valid), Just(Verdict::NotOurs)]);
        let sources = prop_oneof![Just(Source::Cache), Just(Source::Callout), Just(Source::List)];
        let odd = "[\\x00-\\x1f\"\\\\ä\u{2028}a]*";
        let replies = proptest::option::of((200u16..600, odd));
        let texts = (odd, ".*", proptest::option::of(".*"), replies);
        // Up to eleven days.
        let elapsed = prop_oneof![0u64..2_000_000_000, 0u64..1_000_000_000_000_000].prop_map(Duration::from_nanos);
        (verdicts, any::<u8>(), sources, answers(), proptest::option::of(answers()), texts, elapsed).prop_map(
            |(verdict, row, source, answer, would, (recipient, reason, destination, reply), elapsed)| Decision {
                recipient,
                verdict,
                accept_all: false,
                row,
                reason: Cow::Owned(reason),
                source,
                answer,
                would,
                destination,
                reply: reply.map(|(code, text)| StoredReply { code, enhanced: None, text }),
                checked_at: None,
                expires_at: None,
                at: Timestamp(0),
                elapsed,
                transcript: None,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_decision_is_written_as_its_event_would_be(
            decision in decisions(), sender in proptest::option::of(".*"), client in proptest::option::of(any::<std::net::IpAddr>()),
        ) {
            let question = Question { sender: sender.as_deref(), client, ..Question::new(b"", Listener::Policy) };
            let (ours, theirs) = (line(&question, &decision), event(&question, &decision));
            prop_assert_eq!(without_time(&ours), without_time(&theirs));
        }
    }
}
