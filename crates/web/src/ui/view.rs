//! What pages show of decisions, cache entries and rows of the log: in words, and in tones.

use std::fmt::Write as _;

use callahead_cache::Timestamp;
use serde_json::Value;

use super::frame::When;

/// A decision in words.
#[derive(Debug, Default)]
pub(super) struct DecisionView {
    pub(super) recipient: String,
    /// `good`, `bad`, `wait` or nothing.
    pub(super) tone: &'static str,
    /// `accepted`, `refused`, ...
    pub(super) outcome: &'static str,
    pub(super) accept_all: bool,
    pub(super) row: u64,
    pub(super) reason: String,
    pub(super) source: &'static str,
    /// What the sender is told.
    pub(super) answer: String,
    /// What the sender would be told, were it not for observe mode.
    pub(super) would: Option<String>,
    pub(super) destination: Option<String>,
    pub(super) reply: Option<String>,
    pub(super) checked_at: Option<When>,
    pub(super) expires_at: Option<When>,
    pub(super) elapsed: String,
    pub(super) transcript: Vec<LineView>,
}

/// A line of a dialogue.
#[derive(Debug)]
pub(super) struct LineView {
    pub(super) ms: String,
    /// `us`, `them` or `note`.
    pub(super) who: &'static str,
    pub(super) line: String,
}

/// A row of the decision log.
#[derive(Debug)]
pub(super) struct LogView {
    pub(super) at: When,
    pub(super) listener: String,
    pub(super) client: String,
    pub(super) sender: String,
    pub(super) decision: DecisionView,
}

/// An entry of the cache.
#[derive(Debug, Default)]
pub(super) struct EntryView {
    /// The address, or the domain.
    pub(super) key: String,
    pub(super) is_domain: bool,
    pub(super) tone: &'static str,
    pub(super) state: &'static str,
    /// `fresh`, `stale` or `expired`.
    pub(super) freshness: String,
    pub(super) checked_at: Option<When>,
    pub(super) expires_at: Option<When>,
    pub(super) destination: String,
    pub(super) reply: String,
}

fn text<'a>(json: &'a Value, key: &str) -> &'a str {
    json[key].as_str().unwrap_or_default()
}

/// A time as the API writes it.
pub(super) fn when(json: &Value, key: &str) -> Option<When> {
    let at: jiff::Timestamp = json[key].as_str()?.parse().ok()?;
    Some(When(Timestamp(u64::try_from(at.as_millisecond()).ok()?)))
}

/// `550 5.1.1 words` of a reply's or an answer's JSON.
fn reply(json: &Value) -> Option<String> {
    let mut shown = json["code"].as_u64()?.to_string();
    for part in ["enhanced", "text"] {
        if let Some(part) = json[part].as_str() {
            let _ = write!(shown, " {part}");
        }
    }
    Some(shown)
}

impl DecisionView {
    /// Of a decision's JSON: the same in the API, the log and here.
    pub(super) fn of(json: &Value) -> Self {
        let would = json.get("would");
        let acts = |answer: &Value| match text(answer, "action") {
            "accept" => ("good", "accepted"),
            "reject" => ("bad", "refused"),
            "defer" => ("wait", "deferred"),
            _ => ("", "not handled here"),
        };
        let (tone, outcome) = match would {
            None => acts(&json["answer"]),
            Some(would) if text(would, "action") == "reject" => ("wait", "accepted, would be refused"),
            Some(_) => ("wait", "accepted, would be deferred"),
        };
        let source = match text(json, "source") {
            "cache" => "from the cache",
            "callout" => "the destination was asked",
            "list" => "by the domain's own list",
            _ => "by the configuration",
        };
        let lines = json["transcript"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            recipient: text(json, "recipient").to_owned(),
            tone,
            outcome,
            accept_all: json["accept_all"].as_bool().unwrap_or_default(),
            row: json["row"].as_u64().unwrap_or_default(),
            reason: super::frame::sentence(text(json, "reason")),
            source,
            answer: reply(&json["answer"]).unwrap_or_default(),
            would: would.map(|would| reply(would).unwrap_or_default()),
            destination: json["destination"].as_str().map(str::to_owned),
            reply: reply(&json["reply"]),
            checked_at: when(json, "checked_at"),
            expires_at: when(json, "expires_at"),
            elapsed: milliseconds(json["elapsed_ms"].as_f64().unwrap_or_default()),
            transcript: lines.iter().map(LineView::of).collect(),
        }
    }
}

impl LineView {
    /// Of a transcript line's JSON.
    pub(super) fn of(json: &Value) -> Self {
        let who = match text(json, "who") {
            "us" => "us",
            "them" => "them",
            _ => "note",
        };
        let ms = format!("{:.1}", json["ms"].as_f64().unwrap_or_default());
        Self { ms, who, line: text(json, "line").to_owned() }
    }

    /// Whose words these are, for those who do not see colours.
    pub(super) fn mark(&self) -> &'static str {
        match self.who {
            "us" => ">",
            "them" => "<",
            _ => "*",
        }
    }
}

impl LogView {
    /// Of a row's JSON, as the API has it.
    pub(super) fn of(json: &Value) -> Self {
        Self {
            at: when(json, "at").unwrap_or(When(Timestamp(0))),
            listener: text(json, "listener").to_owned(),
            client: text(json, "client").to_owned(),
            sender: text(json, "sender").to_owned(),
            decision: DecisionView::of(&json["decision"]),
        }
    }
}

impl EntryView {
    /// Of an entry's JSON, as the API has it.
    pub(super) fn of(json: &Value) -> Self {
        let is_domain = json.get("recipient").is_none();
        let (tone, state) = match text(json, "state") {
            "valid" => ("good", "exists"),
            "invalid" => ("bad", "does not exist"),
            "accept_all" => ("info", "accepts all"),
            "not_accept_all" => ("", "tells recipients apart"),
            "refuses_null_sender" => ("wait", "refuses bounces"),
            "null_mx" => ("bad", "takes no mail"),
            _ => ("", "unknown"),
        };
        Self {
            key: text(json, if is_domain { "domain" } else { "recipient" }).to_owned(),
            is_domain,
            tone,
            state,
            freshness: text(json, "freshness").to_owned(),
            checked_at: when(json, "checked_at"),
            expires_at: when(json, "expires_at"),
            destination: text(json, "destination").to_owned(),
            reply: reply(&json["reply"]).unwrap_or_default(),
        }
    }
}

/// A time in milliseconds for people.
pub(super) fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 0.1 => "under 0.1 ms".to_owned(),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// How long ago something was, as exactly as a reader wants it.
pub(super) fn ago(age: std::time::Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}

/// Percent-encoded for a path's segment or a query's value.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' | b'*' => {
                encoded.push(octet.into())
            }
            _ => drop(write!(encoded, "%{octet:02X}")),
        }
    }
    encoded
}

/// A query with these values; empty ones are left out.
pub(super) fn query(values: &[(&str, &str)]) -> String {
    let given = values.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<String> = given.map(|(name, value)| format!("{name}={}", encode(value))).collect();
    pairs.join("&")
}

/// What there is in a JSON list, each as a page shows it.
pub(super) fn each<T>(json: &Value, key: &str, of: impl Fn(&Value) -> T) -> Vec<T> {
    json[key].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(of).collect()
}

/// A list of texts.
pub(super) fn texts(json: &Value, key: &str) -> Vec<String> {
    each(json, key, |text| text.as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_decision_in_observe_mode_says_what_would_have_been() {
        let json = json!({"recipient": "a@example.com", "verdict": "invalid", "row": 11, "reason": "it said no",
            "answer": {"action": "accept"}, "would": {"action": "reject", "code": 550, "enhanced": "5.1.1", "text": "no"},
            "reply": {"code": 550, "text": "No such user"}, "expires_at": "2026-11-25T01:02:03.004Z"});
        let view = DecisionView::of(&json);
        assert_eq!((view.tone, view.outcome), ("wait", "accepted, would be refused"));
        assert_eq!(view.would.as_deref(), Some("550 5.1.1 no"));
        assert_eq!(view.reply.as_deref(), Some("550 No such user"));
        assert_eq!(view.reason, "It said no.");
        assert_eq!(
            view.expires_at.map(|at| at.to_string()).as_deref(),
            Some(r#"<time datetime="2026-11-25T01:02:03.004Z">2026-11-25 01:02:03 UTC</time>"#)
        );
    }

    #[test]
    fn what_goes_into_an_address_is_encoded() {
        assert_eq!(encode("a+b/c?d&e=f@x.example"), "a%2Bb%2Fc%3Fd%26e%3Df@x.example");
        assert_eq!(query(&[("a", "1 2"), ("b", ""), ("c", "<>")]), "a=1%202&c=%3C%3E");
    }
}
