//! Questions and decisions, and a decision's JSON: the same in the CLI, the API and the log.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use callahead_cache::{StoredReply, Timestamp};
use callahead_callout::{Transcript, TranscriptLine, Who};
use callahead_smtp::EnhancedCode;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// Where a question came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    /// The policy delegation protocol.
    Policy,
    /// A socketmap.
    Socketmap,
    /// The milter protocol.
    Milter,
    /// The gateway.
    Gateway,
    /// HTTP.
    Http,
    /// The admin socket.
    Admin,
    /// A command that asks by itself.
    Cli,
}

/// A question as a listener puts it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// As the client wrote it, without angle brackets; a local part that needs quotes may lack them.
    pub recipient: &'a [u8],
    /// Where it came in.
    pub listener: Listener,
    /// Who wants to send, where that is known.
    pub client: Option<IpAddr>,
    /// The message's sender, where that is known.
    pub sender: Option<&'a str>,
    /// Not answered from what is kept; the answer is kept all the same.
    pub live: bool,
    /// Answered from what is kept, or not at all.
    pub cached_only: bool,
}

/// What is known of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It exists.
    Valid,
    /// It does not exist.
    Invalid,
    /// Nothing was learned.
    Unknown,
    /// Its domain is not configured here.
    NotOurs,
}

/// Where a decision came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// What is kept.
    Cache,
    /// The destination.
    Callout,
    /// The domain's lists.
    List,
    /// What is configured, or what holds everywhere.
    Policy,
}

/// What the listener does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Accept the recipient.
    Accept,
    /// Refuse it for good (or, with a 4xx code, for a trial).
    Reject,
    /// Tell the sender to try again.
    Defer,
    /// No opinion.
    None,
}

/// What the sender is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What is done.
    pub action: Action,
    /// The reply's code, where it is not accepted.
    pub code: Option<u16>,
    /// Its enhanced code.
    pub enhanced: Option<EnhancedCode>,
    /// Its text: one line, printable ASCII, at most 400 octets; empty where it is accepted.
    pub text: Cow<'static, str>,
}

/// What became of a question.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The recipient in canonical form, or as it was written where it is no address.
    pub recipient: String,
    /// `None` for row 1.
    pub verdict: Option<Verdict>,
    /// The destination accepts every local part.
    pub accept_all: bool,
    /// The row of the decision table, 1 to 16.
    pub row: u8,
    /// Why, in one sentence.
    pub reason: Cow<'static, str>,
    /// Where from.
    pub source: Source,
    /// What the sender is told.
    pub answer: Answer,
    /// In observe mode: what the sender would have been told.
    pub would: Option<Answer>,
    /// Who said so, `host:port`.
    pub destination: Option<String>,
    /// In which words.
    pub reply: Option<StoredReply>,
    /// When.
    pub checked_at: Option<Timestamp>,
    /// Until when that counts.
    pub expires_at: Option<Timestamp>,
    /// When it was decided.
    pub at: Timestamp,
    /// How long the question took.
    pub elapsed: Duration,
    /// What was said, where somebody was asked.
    pub transcript: Option<Arc<Transcript>>,
}

impl<'a> Question<'a> {
    /// A question with nothing known but the recipient.
    pub fn new(recipient: &'a [u8], listener: Listener) -> Self {
        Self { recipient, listener, client: None, sender: None, live: false, cached_only: false }
    }
}

impl Listener {
    /// Its name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Socketmap => "socketmap",
            Self::Milter => "milter",
            Self::Gateway => "gateway",
            Self::Http => "http",
            Self::Admin => "admin",
            Self::Cli => "cli",
        }
    }
}

impl Verdict {
    /// Its name in JSON, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
            Self::NotOurs => "not_ours",
        }
    }
}

impl Source {
    /// Its name in JSON, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Callout => "callout",
            Self::List => "list",
            Self::Policy => "policy",
        }
    }
}

impl Action {
    /// Its name in JSON, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Defer => "defer",
            Self::None => "none",
        }
    }
}

impl Answer {
    /// Accept.
    pub fn accept() -> Self {
        Self { action: Action::Accept, code: None, enhanced: None, text: Cow::Borrowed("") }
    }

    /// The reply as a sender sees it, `550 5.1.1 text`; empty where there is none.
    pub fn reply(&self) -> String {
        match (self.code, self.enhanced) {
            (Some(code), Some(enhanced)) => format!("{code} {enhanced} {}", self.text),
            (Some(code), None) => format!("{code} {}", self.text),
            _ => String::new(),
        }
    }
}

/// A moment as RFC 3339 says it, in UTC with milliseconds.
pub fn rfc3339(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => String::from("9999-12-31T23:59:59.999Z"),
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("action", self.action.as_str())?;
        if let Some(code) = self.code {
            map.serialize_entry("code", &code)?;
        }
        if let Some(enhanced) = self.enhanced {
            map.serialize_entry("enhanced", &enhanced.to_string())?;
        }
        if !self.text.is_empty() {
            map.serialize_entry("text", &self.text)?;
        }
        map.end()
    }
}

struct ReplyJson<'a>(&'a StoredReply);

impl Serialize for ReplyJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("code", &self.0.code)?;
        if let Some(enhanced) = self.0.enhanced {
            map.serialize_entry("enhanced", &enhanced.to_string())?;
        }
        map.serialize_entry("text", &self.0.text)?;
        map.end()
    }
}

struct LineJson<'a>(TranscriptLine<'a>);

impl Serialize for LineJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ms", &milliseconds(self.0.at))?;
        let who = match self.0.who {
            Who::Us => "us",
            Who::Them => "them",
            Who::Note => "note",
        };
        map.serialize_entry("who", who)?;
        map.serialize_entry("line", &String::from_utf8_lossy(self.0.line))?;
        map.end()
    }
}

/// In milliseconds with three digits behind the point.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("recipient", &self.recipient)?;
        if let Some(verdict) = self.verdict {
            map.serialize_entry("verdict", verdict.as_str())?;
        }
        map.serialize_entry("accept_all", &self.accept_all)?;
        map.serialize_entry("row", &self.row)?;
        map.serialize_entry("reason", &self.reason)?;
        map.serialize_entry("source", self.source.as_str())?;
        map.serialize_entry("answer", &self.answer)?;
        if let Some(would) = &self.would {
            map.serialize_entry("would", would)?;
        }
        if let Some(destination) = &self.destination {
            map.serialize_entry("destination", destination)?;
        }
        if let Some(reply) = &self.reply {
            map.serialize_entry("reply", &ReplyJson(reply))?;
        }
        if let Some(at) = self.checked_at {
            map.serialize_entry("checked_at", &rfc3339(at))?;
        }
        if let Some(at) = self.expires_at {
            map.serialize_entry("expires_at", &rfc3339(at))?;
        }
        map.serialize_entry("elapsed_ms", &milliseconds(self.elapsed))?;
        if let Some(transcript) = &self.transcript {
            let lines: Vec<_> = transcript.lines().map(LineJson).collect();
            map.serialize_entry("transcript", &lines)?;
        }
        map.end()
    }
}
