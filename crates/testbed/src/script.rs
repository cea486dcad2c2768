//! How a destination behaves, as data.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Where in the dialogue something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// The greeting.
    Greeting,
    /// `EHLO`.
    Ehlo,
    /// `HELO`.
    Helo,
    /// `STARTTLS`.
    StartTls,
    /// `MAIL FROM`.
    Mail,
    /// `RCPT TO`.
    Rcpt,
    /// `RSET`.
    Rset,
    /// `QUIT`.
    Quit,
    /// `DATA`, or the command of a chunk: only for a destination that takes messages.
    Data,
    /// The end of a message, or of a chunk: only for a destination that takes messages.
    Message,
}

impl Step {
    /// All steps of a callout, in the order of its dialogue.
    pub const ALL: [Self; 8] =
        [Self::Greeting, Self::Ehlo, Self::Helo, Self::StartTls, Self::Mail, Self::Rcpt, Self::Rset, Self::Quit];
}

/// What goes wrong at a step instead of the proper reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This reply, without its CRLF; several lines are divided by `\n` and written as they stand.
    Reply(String),
    /// This reply, and then the connection is closed.
    ReplyAndClose(String),
    /// No reply, ever; what comes is still read.
    Hang,
    /// The proper reply's first octets, and then the connection is closed.
    CloseAfter(usize),
    /// The proper reply, an octet at a time, with this between two.
    SlowBytes(Duration),
    /// These octets instead of a reply.
    Garbage(Vec<u8>),
    /// A reply line of that many octets.
    OverlongLine(usize),
    /// A multi-line reply that never ends.
    EndlessLines,
}

/// What the destination does about STARTTLS.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// Does not offer it.
    #[default]
    None,
    /// Offers it, with this certificate.
    Certificate(Arc<rustls::ServerConfig>),
    /// Offers it, says 220, and then sends octets that are no TLS.
    GarbageAfter220,
    /// Offers it, says 220, and closes.
    CloseAfter220,
    /// Offers it, says 220, and nothing more.
    HangAfter220,
    /// Offers it, and closes once the handshake is made.
    CloseAfterHandshake(Arc<rustls::ServerConfig>),
    /// Offers it, and sends a reply in clear right behind its 220.
    Injection(Arc<rustls::ServerConfig>),
}

/// A destination's behaviour. All fields may be changed while it runs.
#[derive(Clone, Debug)]
pub struct Script {
    /// Addresses that exist, compared without regard to case.
    pub mailboxes: HashSet<String>,
    /// Every recipient is accepted, but those of others' domains.
    pub accept_all: bool,
    /// Recipients of others' domains are accepted, for which `.invalid` stands (RFC 6761 6.4).
    pub relays: bool,
    /// Replies to certain recipients, by address in lower case.
    pub rcpt_replies: HashMap<String, String>,
    /// A recipient that is asked for the first time is deferred until so much time has passed.
    pub greylist: Option<Duration>,
    /// `MAIL FROM:<>` gets this.
    pub null_sender_reply: Option<String>,
    /// Faults, and how often they happen yet; `None` is for ever.
    pub faults: HashMap<Step, (Fault, Option<u32>)>,
    /// EHLO keywords besides STARTTLS.
    pub extensions: Vec<String>,
    /// What is done about STARTTLS.
    pub tls: Tls,
    /// RCPT gets this in a session without TLS.
    pub refuses_in_clear: Option<String>,
    /// Only the first of several commands that come together is answered.
    pub broken_pipelining: bool,
    /// A session ends with a 421 once it has refused so many recipients.
    pub drop_after_errors: Option<u32>,
    /// A session ends with a 421 instead of its so-manieth MAIL plus one.
    pub drop_after_uses: Option<u32>,
    /// Once a session has heard so many RCPTs each further one gets this reply: a mailbox's that exists too, and neither RSET nor MAIL starts
    /// the count anew.
    pub rcpt_limit: Option<(u32, String)>,
    /// Likewise once it has refused so many.
    pub wrong_rcpt_limit: Option<(u32, String)>,
    /// A session that hears nothing for so long ends with a 421 (RFC 5321 4.5.3.2.7).
    pub idle: Option<Duration>,
    /// A recipient is looked up once in a session and answered from memory after that, as Exim does.
    pub remembers: bool,
    /// Further connections get a 421.
    pub max_connections: Option<u32>,
    /// Waited before every reply, the greeting included: a round trip.
    pub reply_delay: Duration,
    /// Messages are taken. Else DATA and BDAT are offences, as is any sender but the null one where the
    /// recipient is not of an `.invalid` domain: callouts say neither.
    pub takes_messages: bool,
    /// The connection is closed once so many octets of a message have come.
    pub close_within_message: Option<usize>,
    /// Waited before each piece of a message is read.
    pub read_pause: Duration,
    /// Bare CR, bare LF and LF `.` LF end lines and messages here, as in servers that can be smuggled to.
    pub lenient_lines: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            mailboxes: HashSet::new(),
            accept_all: false,
            relays: false,
            rcpt_replies: HashMap::new(),
            greylist: None,
            null_sender_reply: None,
            faults: HashMap::new(),
            extensions: ["PIPELINING", "SIZE 10240000", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8"]
                .map(String::from)
                .into(),
            tls: Tls::None,
            refuses_in_clear: None,
            broken_pipelining: false,
            drop_after_errors: None,
            drop_after_uses: None,
            rcpt_limit: None,
            wrong_rcpt_limit: None,
            idle: None,
            remembers: false,
            max_connections: None,
            reply_delay: Duration::ZERO,
            takes_messages: false,
            close_within_message: None,
            read_pause: Duration::ZERO,
            lenient_lines: false,
        }
    }
}

impl Script {
    /// A destination with these mailboxes.
    pub fn with_mailboxes<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        Self { mailboxes: addresses.into_iter().map(str::to_lowercase).collect(), ..Self::default() }
    }

    /// A destination that accepts every recipient.
    pub fn accept_all() -> Self {
        Self { accept_all: true, ..Self::default() }
    }

    /// A destination that takes messages for these mailboxes, and offers CHUNKING and DSN besides the rest.
    pub fn taking_messages<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let mut script = Self { takes_messages: true, ..Self::with_mailboxes(addresses) };
        script.extensions.extend(["CHUNKING", "DSN"].map(String::from));
        script
    }

    /// With this fault at this step, for ever.
    #[must_use]
    pub fn fault(mut self, step: Step, fault: Fault) -> Self {
        self.faults.insert(step, (fault, None));
        self
    }

    /// With this fault at this step, so many times.
    #[must_use]
    pub fn fault_times(mut self, step: Step, fault: Fault, times: u32) -> Self {
        self.faults.insert(step, (fault, Some(times)));
        self
    }

    /// Without an EHLO keyword.
    #[must_use]
    pub fn without(mut self, keyword: &str) -> Self {
        self.extensions.retain(|extension| extension != keyword);
        self
    }

    /// The fault that is due at a step, counted down.
    pub(crate) fn due(&mut self, step: Step) -> Option<Fault> {
        let (fault, times) = self.faults.get_mut(&step)?;
        match times {
            None => Some(fault.clone()),
            Some(0) => None,
            Some(left) => {
                *left -= 1;
                Some(fault.clone())
            }
        }
    }
}
