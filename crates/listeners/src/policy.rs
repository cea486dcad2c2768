//! The policy delegation protocol (Postfix SMTPD_POLICY_README), also spoken to by Exim's `${readsocket}`.
//!
//! A request is lines of `name=value` and an empty line; the answer is `action=...` and an empty line. Any
//! number of requests may come over a connection, one after another or at once.
//!
//! | what comes | answer |
//! | --- | --- |
//! | anything but `request=smtpd_access_policy` with `protocol_state=RCPT` | `DUNNO` |
//! | accept, or no opinion | `DUNNO`: the restrictions behind this one go on |
//! | reject | the table's code and text, such as `550 5.1.1 ...` |
//! | defer | the table's code and text, such as `451 4.4.1 ...` |
//! | `protocol_state=RCPT` without a recipient | `451 4.3.5 ...`: there is nothing to check, and saying so beats skipping it |
//! | what is no request, or breaks a limit | none: the connection is closed, and Postfix says `451 4.3.5` after a retry |
//!
//! A deferral is said literally and not as `DEFER_IF_PERMIT`: with that, Postfix tells the sender a `450 4.7.1` of its
//! own, and whoever looks for the reason does not find the code of the table.

use std::net::IpAddr;

use bytes::{Buf as _, BytesMut};
use callahead_engine::{Action, Answer, Decision, Engine, Listener, Question};
use tokio_util::sync::CancellationToken;

use crate::listen::Bound;
use crate::reader::Format;
use crate::server::{self, Limits, Protocol, Replying};

/// The longest line, in octets without its end. Postfix takes SMTP lines of 2,048 (`line_length_limit`).
pub const MAX_LINE: usize = 4096;
/// Lines in a request at most. Postfix 3.9 sends about 30.
pub const MAX_ATTRIBUTES: usize = 200;
/// The longest request, in octets.
pub const MAX_REQUEST: usize = 64 * 1024;

/// What is used of a request. Attributes that are not named here are read over; of one that comes twice, the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `request=smtpd_access_policy`.
    pub is_access_policy: bool,
    /// `protocol_state=RCPT`.
    pub is_rcpt: bool,
    /// `recipient`, as it came.
    pub recipient: Option<Vec<u8>>,
    /// `client_address`; absent where it is no IP address.
    pub client: Option<IpAddr>,
    /// `sender`; empty for bounces.
    pub sender: Option<String>,
    /// `instance`: the same for all requests about one message.
    pub instance: Option<String>,
}

/// Why what came is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A line longer than [`MAX_LINE`].
    #[error("a line is longer than {MAX_LINE} octets")]
    LineTooLong,
    /// More lines than [`MAX_ATTRIBUTES`].
    #[error("the request has more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
    /// More octets than [`MAX_REQUEST`].
    #[error("the request is longer than {MAX_REQUEST} octets")]
    TooLong,
    /// A line that is no `name=value`.
    #[error("a line is not name=value")]
    NoAttribute,
    /// A zero octet, which neither names nor values have.
    #[error("a line has a zero octet in it")]
    ZeroOctet,
}

/// Requests as the protocol has them: lines of `name=value`, and an empty line.
#[derive(Debug, Default)]
pub struct Attributes {
    /// Octets at the start of what has arrived that are known to hold no line end.
    searched: usize,
    /// Whether there is a zero octet among them.
    has_zero: bool,
    /// What is read of the request so far, of so many lines and octets.
    request: Request,
    attributes: usize,
    octets: usize,
}

// === impl Attributes ===

impl Format for Attributes {
    type Request = Request;
    type Error = RequestError;

    fn has_partial(&self, arrived: &BytesMut) -> bool {
        !arrived.is_empty() || self.attributes > 0
    }

    fn take(&mut self, arrived: &mut BytesMut) -> Result<Option<Request>, RequestError> {
        // Octets of whole lines that are read; taken out at once and not line by line.
        let mut taken = 0;
        let mut has_zero = std::mem::take(&mut self.has_zero);
        let mut done = None;
        // One search for all lines: a search for each would cost more than what it finds.
        for at in memchr::memchr2_iter(b'\n', 0, &arrived[self.searched..]).map(|at| self.searched + at) {
            if arrived[at] == 0 {
                has_zero = true;
                continue;
            }
            let line = &arrived[taken..at];
            // Telnet and other hands end lines with CR LF.
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() > MAX_LINE {
                return Err(RequestError::LineTooLong);
            }
            self.octets += at + 1 - taken;
            if self.octets > MAX_REQUEST {
                return Err(RequestError::TooLong);
            }
            let is_end = line.is_empty();
            if !is_end {
                self.attributes += 1;
                if self.attributes > MAX_ATTRIBUTES {
                    return Err(RequestError::TooManyAttributes);
                }
                self.request.take(line, std::mem::take(&mut has_zero))?;
            }
            taken = at + 1;
            if is_end {
                self.octets = 0;
                // An empty line before a request is read over, as one left behind by a careless client.
                if self.attributes > 0 {
                    self.attributes = 0;
                    done = Some(std::mem::take(&mut self.request));
                    break;
                }
            }
        }
        arrived.advance(taken);
        if done.is_some() {
            self.searched = 0;
            return Ok(done);
        }
        self.searched = arrived.len();
        self.has_zero = has_zero;
        // One more for a CR that its LF may follow.
        if self.searched > MAX_LINE + 1 {
            return Err(RequestError::LineTooLong);
        }
        if self.octets + self.searched > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        Ok(None)
    }
}

impl Request {
    /// Takes a line, of which it is known whether a zero octet is in it.
    fn take(&mut self, line: &[u8], has_zero: bool) -> Result<(), RequestError> {
        // Names are short, so this is found sooner than a search of many octets begins.
        let equals =
            line.iter().position(|octet| *octet == b'=').filter(|at| *at > 0).ok_or(RequestError::NoAttribute)?;
        if has_zero {
            return Err(RequestError::ZeroOctet);
        }
        let value = &line[equals + 1..];
        let text = || String::from_utf8_lossy(value).into_owned();
        match &line[..equals] {
            b"request" => self.is_access_policy = value == b"smtpd_access_policy",
            b"protocol_state" => self.is_rcpt = value == b"RCPT",
            b"recipient" => self.recipient = (!value.is_empty()).then(|| value.to_vec()),
            b"client_address" => {
                let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse::<IpAddr>().ok());
                self.client = parsed.map(|ip| ip.to_canonical());
            }
            b"sender" => self.sender = Some(text()),
            b"instance" => self.instance = Some(text()),
            _ => {}
        }
        Ok(())
    }
}

// === the listener ===

/// Answers policy requests that come in at `bound`, until `shutdown`; comes back when everything that was asked
/// is answered, or after [`Limits::grace`].
pub async fn serve(bound: Bound, engine: Engine, limits: Limits, shutdown: CancellationToken) {
    server::serve(bound, Policy { engine }, limits, shutdown).await;
}

struct Policy {
    engine: Engine,
}

impl Protocol for Policy {
    const NAME: &'static str = "policy";
    type Format = Attributes;

    fn reply(&self, request: Request, output: &mut Vec<u8>) -> Option<Replying> {
        if !(request.is_access_policy && request.is_rcpt) {
            output.extend_from_slice(b"action=DUNNO\n\n");
            return None;
        }
        let Some(recipient) = &request.recipient else {
            tracing::warn!(
                instance = request.instance,
                "a policy request at RCPT has no recipient: deferred, since there is nothing to check"
            );
            output.extend_from_slice(b"action=451 4.3.5 the policy request has no recipient\n\n");
            return None;
        };
        let unanswered = match self.engine.decide_cached(&question(&request, recipient)) {
            Ok(decision) => {
                answered(&request, &decision, output);
                return None;
            }
            Err(unanswered) => unanswered,
        };
        let (engine, recipient) = (self.engine.clone(), recipient.clone());
        Some(Box::pin(async move {
            let mut output = Vec::new();
            let decision = engine.decide_by_callout(&question(&request, &recipient), unanswered).await;
            answered(&request, &decision, &mut output);
            output
        }))
    }
}

fn question<'a>(request: &'a Request, recipient: &'a [u8]) -> Question<'a> {
    Question {
        recipient,
        listener: Listener::Policy,
        client: request.client,
        sender: request.sender.as_deref(),
        live: false,
        cached_only: false,
    }
}

/// Puts the decision in the protocol's words behind what is there.
fn answered(request: &Request, decision: &Decision, output: &mut Vec<u8>) {
    tracing::debug!(instance = request.instance, row = decision.row, "policy request answered");
    action(&decision.answer, output);
}

/// The engine's answer in the protocol's words.
fn action(answer: &Answer, output: &mut Vec<u8>) {
    output.extend_from_slice(b"action=");
    match answer.action {
        Action::Accept | Action::None => output.extend_from_slice(b"DUNNO"),
        Action::Reject => server::status(answer, 550, "5.1.1", output),
        Action::Defer => server::status(answer, 451, "4.4.0", output),
    }
    output.extend_from_slice(b"\n\n");
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
