//! Socket maps (Postfix socketmap_table(5), Sendmail's `socket` map class).
//!
//! A request is a netstring of a map's name, a space, and a key; the answer is a netstring of a status and a text. There is no
//! client address here, so destination protection by client does not reach this listener; the policy listener has it.
//!
//! Two maps are answered:
//!
//! | map | key | answer |
//! | --- | --- | --- |
//! | `recipients` | `user@domain`, accepted | `OK` and the address |
//! | | rejected with a 5xx, or no mailbox by its form | `NOTFOUND` |
//! | | rejected with a 4xx (a trial period), or deferred | `TEMP` and why |
//! | | rejected since the mailbox is full or disabled (5.2.x) | `TEMP` and why: to `NOTFOUND` MTAs say "550 5.1.1 User unknown", for which lists take the address off |
//! | | of a domain that is not configured here | `NOTFOUND` |
//! | | `user`, `@domain`, or anything else without both parts | `NOTFOUND`, always: Postfix asks for these too, and an `OK` to `@domain` would let every recipient in |
//! | `domains` | a domain that is configured here | `OK` and the domain |
//! | | anything else | `NOTFOUND` |
//! | any other | | `PERM`: a misspelt name must show, and not let the check go away |
//!
//! Sendmail folds keys to lower case unless the map has `-f`.
//!
//! With `recipient_delimiter` set, Postfix asks for `user@domain` once `user+tag@domain` is not found; it can't be told here
//! that the second question is about the first.

use bytes::{Buf as _, BytesMut};
use callahead_engine::{Action, Answer, Decision, Engine, Listener, Question, Unanswered};
use callahead_smtp::Domain;
use tokio_util::sync::CancellationToken;

use crate::listen::Bound;
use crate::reader::Format;
use crate::server::{self, Limits, Protocol, Replying};

/// The longest request, in octets of the netstring's content. Postfix's own limit for replies is 100,000; a key is an
/// address, and SMTP lines are 2,048 there.
pub const MAX_REQUEST: usize = 10_000;
/// Digits in [`MAX_REQUEST`].
const MAX_DIGITS: usize = 5;

/// A request: which map, and what is looked up in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The map's name; may be anything without a space.
    pub map: Vec<u8>,
    /// The key, as it came; `None` where the request had no space.
    pub key: Option<Vec<u8>>,
}

/// Why what came is no netstring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Something else than digits before the colon, or a number with a zero before it.
    #[error("the request does not begin with its length")]
    NoLength,
    /// Longer than [`MAX_REQUEST`].
    #[error("the request is longer than {MAX_REQUEST} octets")]
    TooLong,
    /// The netstring's comma is not where its length says.
    #[error("the request is not as long as it says")]
    NoComma,
}

/// Requests as the protocol has them: netstrings.
#[derive(Debug, Default)]
pub struct Netstrings;

// === impl Netstrings ===

impl Format for Netstrings {
    type Request = Request;
    type Error = RequestError;

    fn take(&mut self, arrived: &mut BytesMut) -> Result<Option<Request>, RequestError> {
        let digits = arrived.iter().take_while(|octet| octet.is_ascii_digit()).count();
        if digits > 1 && arrived[0] == b'0' {
            return Err(RequestError::NoLength);
        }
        if digits > MAX_DIGITS {
            return Err(RequestError::TooLong);
        }
        let length = arrived[..digits].iter().fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
        if length > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        match arrived.get(digits) {
            None => return Ok(None),
            Some(b':') if digits > 0 => {}
            Some(_) => return Err(RequestError::NoLength),
        }
        let start = digits + 1;
        match arrived.get(start + length) {
            None => return Ok(None),
            Some(b',') => {}
            Some(_) => return Err(RequestError::NoComma),
        }
        let content = &arrived[start..start + length];
        let request = match memchr::memchr(b' ', content) {
            Some(space) => Request { map: content[..space].to_vec(), key: Some(content[space + 1..].to_vec()) },
            None => Request { map: content.to_vec(), key: None },
        };
        arrived.advance(start + length + 1);
        Ok(Some(request))
    }
}

// === the listener ===

/// Answers lookups that come in at `bound`, until `shutdown`; comes back when everything that was asked is
/// answered, or after [`Limits::grace`].
pub async fn serve(bound: Bound, engine: Engine, limits: Limits, shutdown: CancellationToken) {
    server::serve(bound, Socketmap { engine }, limits, shutdown).await;
}

struct Socketmap {
    engine: Engine,
}

impl Protocol for Socketmap {
    const NAME: &'static str = "socketmap";
    type Format = Netstrings;

    fn reply(&self, request: Request, output: &mut Vec<u8>) -> Option<Replying> {
        let unanswered = match reply(&self.engine, &request) {
            Ok(reply) => {
                put(&reply, output);
                return None;
            }
            Err(unanswered) => unanswered,
        };
        let engine = self.engine.clone();
        Some(Box::pin(async move {
            let recipient = request.key.as_deref().unwrap_or_default();
            let decision = engine.decide_by_callout(&Question::new(recipient, Listener::Socketmap), unanswered).await;
            let mut output = Vec::new();
            put(&said(&decision), &mut output);
            output
        }))
    }
}

const NOT_FOUND: &str = "NOTFOUND ";

/// Puts a reply behind what is there, as a netstring.
fn put(reply: &str, output: &mut Vec<u8>) {
    output.extend_from_slice(format!("{}:{reply},", reply.len()).as_bytes());
}

/// The reply, where nobody has to be asked for it.
fn reply(engine: &Engine, request: &Request) -> Result<String, Unanswered> {
    let Some(key) = &request.key else {
        return Ok("PERM the request is not a map's name, a space and a key".into());
    };
    match request.map.as_slice() {
        b"recipients" => recipients(engine, key),
        b"domains" => Ok(domains(engine, key)),
        other => {
            let name = String::from_utf8_lossy(other);
            let name: &str = &server::one_line(&name);
            tracing::warn!(map = name, "a socket map is asked for that is not there: use recipients or domains");
            Ok(format!("PERM there is no map {name:?} here: use recipients or domains"))
        }
    }
}

fn recipients(engine: &Engine, key: &[u8]) -> Result<String, Unanswered> {
    if !is_full(key) {
        return Ok(NOT_FOUND.into());
    }
    engine.decide_cached(&Question::new(key, Listener::Socketmap)).map(|decision| said(&decision))
}

/// The engine's answer in the protocol's words.
fn said(decision: &Decision) -> String {
    match &decision.answer {
        Answer { action: Action::Accept, .. } => format!("OK {}", server::one_line(&decision.recipient)),
        Answer { action: Action::None, .. } => NOT_FOUND.into(),
        answer if is_not_there(answer) => NOT_FOUND.into(),
        answer => format!("TEMP {}", server::one_line(&answer.text)),
    }
}

/// Whether it rejects for good, and not a mailbox that exists (subject 2 of RFC 3463) or may (7, policy): MTAs make "user unknown" of what is not
/// found, and senders take such an address off.
fn is_not_there(answer: &Answer) -> bool {
    let may_exist = answer.enhanced.is_some_and(|enhanced| matches!(enhanced.subject(), 2 | 7));
    answer.action == Action::Reject && !matches!(answer.code, Some(400..=499)) && !may_exist
}

/// Whether it has something on both sides of an @: only then is it a question about a recipient.
fn is_full(key: &[u8]) -> bool {
    memchr::memrchr(b'@', key).is_some_and(|at| at > 0 && at + 1 < key.len())
}

fn domains(engine: &Engine, key: &[u8]) -> String {
    let domain = std::str::from_utf8(key).ok().and_then(|key| Domain::parse(key).ok());
    match domain.filter(|domain| engine.directory().find(domain).is_some()) {
        Some(domain) => format!("OK {domain}"),
        None => NOT_FOUND.into(),
    }
}

#[cfg(test)]
#[path = "socketmap_tests.rs"]
mod tests;
