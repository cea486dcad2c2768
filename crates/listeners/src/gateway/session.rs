//! The server's side of an SMTP session, without a socket: octets in, [`Event`]s and replies out (RFC 5321 4).
//!
//! The loop around it does what an event asks for and says how it went; until then nothing further is read. So commands that come
//! together (RFC 2920) are worked on one after another, in their order, and what is buffered is bounded by what is pushed at once.
//!
//! ```text
//!  push(octets) -> next() -> Recipient ---- answer(reply)
//!                            Data --------- data_goes() | answer(reply)
//!                            Chunk -------- chunk_goes() | fail(reply)
//!                            Content ------ (nothing) | fail(reply)
//!                            End, ChunkEnd  answer(reply)
//!                            Failed ------- (nothing): the transaction is over, the reply is out
//!                            Reset -------- (nothing): the client gave the transaction up
//!                            StartTls ----- encrypted()
//!                            Close -------- the end
//! ```
//!
//! Content that must not go out is found here ([`Guard`]): the event [`Event::Unfit`] says so once, the rest of the message is
//! swallowed, and the reply comes at its end, where the client looks for it.

mod commands;

use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use callahead_smtp::{Domain, Reply};

use super::command::{Command, Mail, Rcpt, say};
use super::content::{DotReader, Guard, Unfit};

/// The longest command line with its CRLF, in octets. RFC 5321 4.5.3.1.4 says 512, and extensions add to it: the longest RCPT is
/// one with ORCPT (RFC 3461 5.4 adds 500).
pub const MAX_LINE: usize = 2048;

/// What a session may do, and what it offers.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The name in the greeting.
    pub node: Domain,
    /// Octets in a message.
    pub message_size: u64,
    /// Commands.
    pub commands: u32,
    /// Commands that are none, or out of order.
    pub errors: u32,
    /// Recipients in a transaction.
    pub recipients: usize,
    /// Whether DSN is offered.
    pub dsn: bool,
    /// Whether STARTTLS can be offered.
    pub starttls: bool,
}

/// What the loop has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Decide on a recipient.
    Recipient(Rcpt),
    /// Begin a message.
    Data,
    /// Begin a chunk of a message.
    Chunk {
        /// Its octets.
        size: u64,
        /// Whether the message ends with it.
        last: bool,
    },
    /// Content, fit to go out.
    Content(Vec<u8>),
    /// The message must not go out: what went so far has to be thrown away.
    Unfit(Unfit),
    /// The message is whole.
    End,
    /// A chunk is whole; `last` as in [`Event::Chunk`].
    ChunkEnd {
        /// Whether the message is whole too.
        last: bool,
    },
    /// The message was refused by this reply, which has been given.
    Failed(Reply),
    /// The client gave its transaction up.
    Reset,
    /// Send the replies, then make the handshake.
    StartTls,
    /// Send the replies, then close.
    Close,
}

/// What is known of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address: the connection's, or what a trusted one said it is.
    pub address: IpAddr,
    /// What it said in EHLO or HELO.
    pub helo: Option<Box<str>>,
    /// It said EHLO.
    pub esmtp: bool,
    /// The session is encrypted.
    pub encrypted: bool,
}

#[derive(Debug)]
struct Transaction {
    mail: Mail,
    /// Recipients tried, and accepted.
    tried: usize,
    accepted: usize,
    /// BDAT was said, so DATA may not be (RFC 3030 2).
    chunked: bool,
    /// A chunk failed: nothing but RSET helps.
    spoiled: bool,
    guard: Guard,
    /// What a header beyond ASCII gets, where it can't be had.
    ascii_header: Option<Reply>,
    octets: u64,
}

#[derive(Debug)]
enum State {
    Commands,
    /// An event is with the loop.
    Waiting(Wait),
    /// Content behind DATA; with a reply when the message is refused already.
    Data {
        reader: DotReader,
        refused: Option<Reply>,
        ended: bool,
    },
    /// Content behind BDAT.
    Chunk {
        left: u64,
        last: bool,
        refused: Option<Reply>,
    },
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Recipient,
    Data,
    Chunk { size: u64, last: bool },
    End,
    ChunkEnd { last: bool },
    Tls,
}

/// One session. Small while nothing happens in it: its buffers are empty then, and free.
#[derive(Debug)]
pub struct Session {
    terms: Arc<Terms>,
    client: Client,
    /// XCLIENT is allowed.
    trusted: bool,
    state: State,
    transaction: Option<Box<Transaction>>,
    commands: u32,
    errors: u32,
    input: Vec<u8>,
    /// Where the next octet to read is in `input`.
    start: usize,
    /// A line was too long; the rest of it is dropped.
    skipping: bool,
    output: Vec<u8>,
}

impl Session {
    /// A session that greets. `trusted` is whether the client may say XCLIENT.
    pub fn new(terms: Arc<Terms>, address: IpAddr, trusted: bool) -> Self {
        let mut session = Self {
            terms,
            client: Client { address, helo: None, esmtp: false, encrypted: false },
            trusted,
            state: State::Commands,
            transaction: None,
            commands: 0,
            errors: 0,
            input: Vec::new(),
            start: 0,
            skipping: false,
            output: Vec::new(),
        };
        session.greet();
        session
    }

    /// Takes octets as they came. To be called when [`next`](Self::next) has given `None`.
    pub fn push(&mut self, octets: &[u8]) {
        if !matches!(self.state, State::Closed) {
            self.input.drain(..self.start);
            self.start = 0;
            self.input.extend_from_slice(octets);
        }
    }

    /// What is to be sent, taken out.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// How many octets there are to send.
    pub fn output(&self) -> usize {
        self.output.len()
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What MAIL said, within a transaction.
    pub fn mail(&self) -> Option<&Mail> {
        self.transaction.as_deref().map(|transaction| &transaction.mail)
    }

    /// Octets of the message so far.
    pub fn octets(&self) -> u64 {
        self.transaction.as_deref().map_or(0, |transaction| transaction.octets)
    }

    /// Commands read so far.
    pub fn commands(&self) -> u32 {
        self.commands
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether content is what comes next.
    pub fn in_content(&self) -> bool {
        matches!(self.state, State::Data { .. } | State::Chunk { .. })
    }

    /// The next thing to do; `None` when more octets are needed, or an event is still to be answered.
    #[allow(clippy::should_implement_trait, reason = "it is no iterator: what comes next depends on the answers")]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let event = match &mut self.state {
                State::Closed | State::Waiting(_) => return None,
                State::Commands => self.read_command()?,
                State::Data { .. } => Some(self.read_data()?),
                State::Chunk { .. } => Some(self.read_chunk()?),
            };
            if event.is_some() {
                return event;
            }
        }
    }

    // === answers to events ===

    /// Answers [`Event::Recipient`], [`Event::Data`] (when it can't go on), [`Event::End`] and [`Event::ChunkEnd`].
    pub fn answer(&mut self, reply: &Reply) {
        let State::Waiting(wait) = self.state else { return };
        self.state = State::Commands;
        self.reply(reply);
        let Some(transaction) = &mut self.transaction else { return };
        match wait {
            Wait::Recipient => {
                if reply.is_positive() {
                    transaction.accepted += 1;
                }
            }
            Wait::Data | Wait::End | Wait::ChunkEnd { last: true } => self.transaction = None,
            Wait::ChunkEnd { last: false } => transaction.spoiled |= !reply.is_positive(),
            Wait::Chunk { .. } | Wait::Tls => {}
        }
    }

    /// Answers [`Event::Data`]: the client may send its message.
    pub fn data_goes(&mut self) {
        if let State::Waiting(Wait::Data) = self.state {
            self.output.extend_from_slice(b"354 End data with <CR><LF>.<CR><LF>\r\n");
            self.state = State::Data { reader: DotReader::default(), refused: None, ended: false };
        }
    }

    /// Answers [`Event::Chunk`]: its content is wanted.
    pub fn chunk_goes(&mut self) {
        if let State::Waiting(Wait::Chunk { size, last }) = self.state {
            self.state = State::Chunk { left: size, last, refused: None };
        }
    }

    /// The server behind takes no header beyond ASCII: a message with one is refused by this reply, at its end. To be said before
    /// [`data_goes`](Self::data_goes) and the first [`chunk_goes`](Self::chunk_goes).
    pub fn want_ascii_header(&mut self, refusal: Reply) {
        if let Some(transaction) = &mut self.transaction {
            transaction.guard.want_ascii_header();
            transaction.ascii_header = Some(refusal);
        }
    }

    /// The message can't be had any more: the rest is swallowed, and this is the reply at its end. Answers [`Event::Chunk`] and
    /// [`Event::Content`].
    pub fn fail(&mut self, reply: Reply) {
        match &mut self.state {
            State::Waiting(Wait::Chunk { size, last }) => {
                self.state = State::Chunk { left: *size, last: *last, refused: Some(reply) };
            }
            State::Data { refused, .. } | State::Chunk { refused, .. } => *refused = Some(reply),
            // The content was the last of a chunk or a message, and its end is with the loop.
            _ => {}
        }
    }

    /// Answers [`Event::StartTls`]: all that was said in clear is forgotten (RFC 3207 4.2).
    pub fn encrypted(&mut self) {
        self.client.encrypted = true;
        self.client.helo = None;
        self.client.esmtp = false;
        self.transaction = None;
        self.state = State::Commands;
    }

    /// Ends the session: this reply, and nothing after it.
    pub fn close(&mut self, reply: &Reply) {
        self.reply(reply);
        self.state = State::Closed;
        self.input = Vec::new();
        self.start = 0;
    }

    /// Lets go of buffers that are not needed while nobody speaks.
    pub fn rest(&mut self) {
        if self.start == self.input.len() {
            self.input = Vec::new();
            self.start = 0;
        }
    }

    // === reading ===

    /// One command; `None` when more octets are needed.
    fn read_command(&mut self) -> Option<Option<Event>> {
        let input = &self.input[self.start..];
        let end = memchr::memchr(b'\n', input);
        let too_long = end.map_or(input.len(), |end| end + 1) > MAX_LINE;
        if self.skipping || too_long {
            if !self.skipping {
                self.skipping = true;
                return Some(self.refuse(&say(500, (5, 5, 2), "The line is too long")));
            }
            match end {
                Some(end) => {
                    self.start += end + 1;
                    self.skipping = false;
                    return Some(None);
                }
                None => {
                    self.start = self.input.len();
                    return None;
                }
            }
        }
        let end = end?;
        let Some(line) = input[..end].strip_suffix(b"\r") else {
            // Whoever ends lines otherwise is no mail server, or tries what a mail server makes of it.
            return Some(self.end(&say(521, (5, 5, 2), "Lines end in CR LF here; closing")));
        };
        let first = self.commands == 0;
        let parsed = Command::parse(line);
        let foreign = first && Command::is_another_protocol(line);
        self.start += end + 1;
        self.commands = self.commands.saturating_add(1);
        if foreign {
            return Some(self.end(&say(521, (5, 5, 1), "This is SMTP; closing")));
        }
        if self.commands > self.terms.commands {
            return Some(self.end(&say(421, (4, 7, 0), "Too many commands; closing")));
        }
        Some(match parsed {
            Ok(command) => self.command(command),
            Err(reply) => self.refuse(&reply),
        })
    }

    fn read_data(&mut self) -> Option<Event> {
        loop {
            let State::Data { reader, refused, ended } = &mut self.state else { return None };
            if *ended {
                let refused = refused.take();
                return Some(self.message_ends(refused));
            }
            let input = &self.input[self.start..];
            if input.is_empty() {
                return None;
            }
            let mut content = Vec::with_capacity(input.len());
            let used;
            (used, *ended) = reader.read(input, &mut content);
            let (is_refused, ended) = (refused.is_some(), *ended);
            self.start += used;
            if let Some(event) = self.pass(content, ended, is_refused) {
                return Some(event);
            }
        }
    }

    /// Content through the guard: what the loop is told of it, if anything.
    fn pass(&mut self, content: Vec<u8>, ended: bool, refused: bool) -> Option<Event> {
        let transaction = self.transaction.as_deref_mut()?;
        let room = usize::try_from(self.terms.message_size.saturating_sub(transaction.octets)).unwrap_or(usize::MAX);
        transaction.octets = transaction.octets.saturating_add(content.len() as u64);
        if refused {
            return None;
        }
        let within = &content[..content.len().min(room)];
        let fit = match transaction.guard.check(within) {
            Ok(()) if within.len() < content.len() => Err(Unfit::TooLarge),
            Ok(()) if ended => transaction.guard.end(),
            checked => checked,
        };
        match fit {
            Ok(()) if content.is_empty() => None,
            Ok(()) => Some(Event::Content(content)),
            Err(unfit) => {
                let header = transaction.ascii_header.take().filter(|_| unfit == Unfit::HeaderBeyondAscii);
                self.fail(header.unwrap_or_else(|| unfit_reply(unfit)));
                Some(Event::Unfit(unfit))
            }
        }
    }

    fn message_ends(&mut self, refused: Option<Reply>) -> Event {
        match refused {
            None => {
                self.state = State::Waiting(Wait::End);
                Event::End
            }
            Some(reply) => {
                self.reply(&reply);
                self.transaction = None;
                self.state = State::Commands;
                Event::Failed(reply)
            }
        }
    }

    fn read_chunk(&mut self) -> Option<Event> {
        let State::Chunk { left, last, refused } = &mut self.state else { return None };
        let (last, is_refused) = (*last, refused.is_some());
        let input = &self.input[self.start..];
        if *left > 0 {
            if input.is_empty() {
                return None;
            }
            let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
            let content = input[..length].to_vec();
            *left -= length as u64;
            let ended = *left == 0 && last;
            self.start += length;
            // Before the last octet of the last chunk goes out, all of it has been looked at.
            return match self.pass(content, ended, is_refused) {
                Some(event) => Some(event),
                None => self.read_chunk(),
            };
        }
        let refused = refused.take();
        if let Some(reply) = refused {
            self.reply(&reply);
            self.state = State::Commands;
            match &mut self.transaction {
                Some(transaction) if !last => transaction.spoiled = true,
                _ => self.transaction = None,
            }
            return Some(Event::Failed(reply));
        }
        self.state = State::Waiting(Wait::ChunkEnd { last });
        Some(Event::ChunkEnd { last })
    }

    // === replies ===

    fn greet(&mut self) {
        // The greeting has no enhanced code (RFC 2034 3).
        self.output.extend_from_slice(format!("220 {} ESMTP\r\n", self.terms.node).as_bytes());
    }

    fn reply(&mut self, reply: &Reply) {
        // Writing into memory does not fail.
        let _ = write!(self.output, "{reply}\r\n");
    }

    fn note(&mut self, reply: &Reply) -> Option<Event> {
        self.reply(reply);
        None
    }

    /// A reply that counts as an error; too many of them end the session.
    fn refuse(&mut self, reply: &Reply) -> Option<Event> {
        self.reply(reply);
        self.count_error();
        if self.errors > self.terms.errors {
            return self.end(&say(421, (4, 7, 0), "Too many errors; closing"));
        }
        None
    }

    fn count_error(&mut self) {
        self.errors = self.errors.saturating_add(1);
    }

    fn end(&mut self, reply: &Reply) -> Option<Event> {
        self.close(reply);
        Some(Event::Close)
    }
}

fn too_large(limit: u64) -> Reply {
    say(552, (5, 3, 4), &format!("The message is larger than {limit} octets"))
}

fn unfit_reply(unfit: Unfit) -> Reply {
    match unfit {
        Unfit::BareLineEnd => say(550, (5, 6, 0), "The message has a bare CR or a bare LF in it (RFC 5321 2.3.8)"),
        Unfit::DotAmongNuls => say(550, (5, 6, 0), "The message has a line of a dot and NULs"),
        Unfit::HeaderBeyondAscii => say(550, (5, 6, 9), "The message has a header beyond ASCII"),
        Unfit::Loop => say(554, (5, 4, 6), "The message goes round: it has too many Received lines"),
        Unfit::TooLarge => say(552, (5, 3, 4), "The message is too large"),
    }
}
