//! What is asked, and what comes of it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use callahead_smtp::{Domain, Recipient, Reply, ReplyError};
use rustix::io::Errno;

use crate::route::Route;
use crate::transcript::Transcript;

/// A future that can be kept behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever can ask a destination: the pool in the product, a script in the engine's tests.
pub trait Ask: Send + Sync + 'static {
    /// Asks. Always comes to an end, within the settings' timeout. A future that is dropped gives its session up.
    fn ask(&self, request: Request) -> BoxFuture<'_, Report>;

    /// From now on asks anew for a domain's recipients, or for all: in new sessions only, and with names looked up again. A server may look a
    /// recipient up once in a session and answer from memory after that (Exim does), and the DNS may have led to another server, or to none
    /// (RFC 7505): either could bring back what a clear forgot. What was learned of the hosts' refusals and failures is forgotten, too: whoever
    /// clears has put something right.
    fn ask_anew(&self, _of: Option<(&Domain, &Route)>) {}
}

/// One question to a destination.
#[derive(Clone, Debug)]
pub struct Request {
    /// Of whom.
    pub recipient: Recipient,
    /// Where.
    pub route: Arc<Route>,
    /// Whether a random local part is asked first.
    pub probe: bool,
    /// Background work gets at most a tenth of a destination's sessions and does not wait for one.
    pub background: bool,
}

/// What a callout found out. Only `Rejected` and `NullMx` can speak against a recipient: what a refusal is about, [`About`](callahead_smtp::About)
/// tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// RCPT of a random local part got 2xx; the reply to it.
    AcceptsAll(Reply),
    /// RCPT got 2xx.
    Accepted(Reply),
    /// RCPT got 5xx, but for those that are about the session (500, 502, 503, and what asks for TLS or authentication first) and a bare 552.
    Rejected(Reply),
    /// RCPT or MAIL got 4xx, or RCPT a 552 without an enhanced code (RFC 5321 4.5.3.1.10).
    Deferred(Reply),
    /// The address needs SMTPUTF8 and the destination does not offer it.
    NeedsSmtpUtf8,
    /// `MAIL FROM:<>` got 5xx, but for those that are about the session.
    NullSenderRefused(Reply),
    /// No host of the route could be asked: what each did.
    Unreachable(Vec<HostFailure>),
    /// The domain's null MX (RFC 7505).
    NullMx,
    /// Too many questions wait for that destination, or background work that gave way.
    Busy,
}

/// Why one host gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFailure {
    /// `host:port`, or the name that could not be looked up.
    pub host: String,
    /// What happened.
    pub failure: Failure,
    /// The host's words, where it had any.
    pub reply: Option<Reply>,
}

/// Where in the dialogue something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Waiting for the greeting.
    Greeting,
    /// EHLO.
    Ehlo,
    /// HELO.
    Helo,
    /// STARTTLS and the handshake.
    StartTls,
    /// RSET.
    Rset,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA or BDAT, which only a relay says.
    Data,
    /// The message, and the reply to its end.
    Message,
}

/// The ways in which a host can fail to answer. None of them says anything of a recipient.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody listens.
    #[error("the connection was refused")]
    ConnectionRefused,
    /// No connection in time.
    #[error("no connection within {} s", .0.as_secs())]
    ConnectTimeout(Duration),
    /// The system could not connect.
    #[error("no connection: {0}")]
    ConnectFailed(String),
    /// This node has no file descriptor or no memory left for a connection.
    #[error("this node can make no connection: {0}")]
    OutOfResources(String),
    /// A greeting that is no 220.
    #[error("it refused the session with its greeting")]
    GreetingRejected,
    /// Neither EHLO nor HELO was taken.
    #[error("it refused EHLO and HELO")]
    EhloRejected,
    /// No reply in time.
    #[error("no reply to {0} in time")]
    Timeout(Step),
    /// It closed the connection.
    #[error("it closed the connection at {0}")]
    Closed(Step),
    /// It said 421.
    #[error("it ended the session at {0}")]
    Ending(Step),
    /// What it sent is no reply.
    #[error("at {0}: {1}")]
    Malformed(Step, ReplyError),
    /// It sent something that nobody asked for.
    #[error("it sent a reply at {0} that nobody had asked for")]
    Unsolicited(Step),
    /// A reply with a code that can't be there.
    #[error("its reply to {0} makes no sense there")]
    UnexpectedReply(Step),
    /// The route wants TLS, and the host has none.
    #[error("it does not offer STARTTLS, which the route requires")]
    TlsRequired,
    /// No TLS session came about.
    #[error("the TLS handshake failed: {0}")]
    TlsFailed(String),
    /// In clear, where encryption was to be had and did not come about, it refused what it may refuse for that.
    #[error("in clear it refuses what it may want encryption for")]
    RefusedInClear,
    /// A name could not be looked up.
    #[error("{0}")]
    Resolve(String),
    /// The MX leads to this node only.
    #[error("its MX leads back to this node")]
    OnlyOwnNames,
    /// As many relays have a session with it as may.
    #[error("too many messages are on their way to it")]
    TooManyRelays,
    /// The host failed before and is left alone for now.
    #[error("it failed before and is asked again in {} s", .0.as_secs_f32().ceil())]
    CircuitOpen(Duration),
}

impl Failure {
    /// Whether it says nothing of the host either: what failed is this node, or the DNS that it asks.
    pub(crate) fn is_not_the_hosts(&self) -> bool {
        matches!(self, Self::Resolve(_) | Self::OutOfResources(_))
    }
}

/// Whether it is this node that can't connect, and to nobody (connect(2), socket(2)).
pub(crate) fn is_ours(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// What [`Ask::ask`] gives.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was found out.
    pub outcome: Outcome,
    /// The random local part was asked and refused by a 5xx: the domain does not accept every one.
    pub not_accept_all: bool,
    /// `host:port` of the destination that answered, as the route or the MX names it.
    pub destination: Option<String>,
    /// From start to end.
    pub elapsed: Duration,
    /// What was said.
    pub transcript: Arc<Transcript>,
}

impl Outcome {
    /// The destination's reply, or that of the last host that had one.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::AcceptsAll(reply)
            | Self::Accepted(reply)
            | Self::Rejected(reply)
            | Self::Deferred(reply)
            | Self::NullSenderRefused(reply) => Some(reply),
            Self::Unreachable(hosts) => hosts.iter().rev().find_map(|host| host.reply.as_ref()),
            Self::NeedsSmtpUtf8 | Self::NullMx | Self::Busy => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "the greeting",
            Self::Ehlo => "EHLO",
            Self::Helo => "HELO",
            Self::StartTls => "STARTTLS",
            Self::Rset => "RSET",
            Self::Mail => "MAIL FROM",
            Self::Rcpt => "RCPT TO",
            Self::Data => "DATA",
            Self::Message => "the message's end",
        })
    }
}

impl fmt::Display for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.host, self.failure)
    }
}
