//! One SMTP session: from the connection to EHLO, and its end in QUIT.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use callahead_smtp::{Command, Reply, ReplyReader};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout_at};

use crate::dial::{BoxStream, Dial};
use crate::outcome::{Failure, Step, is_ours};
use crate::route::{Host, TlsPolicy};
use crate::settings::Settings;
use crate::tls::TlsClient;
use crate::transcript::{Transcript, Who};

/// Why a session can't go on, and the reply that said so.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) failure: Failure,
    pub(crate) reply: Option<Reply>,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self { failure, reply: None }
    }
}

/// What a server offered in its reply to EHLO (RFC 5321 4.1.1.1); nothing after HELO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Commands may leave together (RFC 2920).
    pub pipelining: bool,
    /// Addresses and headers in UTF-8 (RFC 6531).
    pub smtputf8: bool,
    /// Content beyond ASCII (RFC 6152).
    pub eight_bit_mime: bool,
    /// BDAT (RFC 3030).
    pub chunking: bool,
    /// Delivery status notifications (RFC 3461).
    pub dsn: bool,
    /// The size of a message is declared in MAIL (RFC 1870).
    pub size: bool,
}

impl Offers {
    /// Takes one line of the reply.
    fn read(&mut self, line: &str) {
        let keyword = line.split(' ').next().unwrap_or_default();
        let is = |name: &str| keyword.eq_ignore_ascii_case(name);
        self.pipelining |= is("PIPELINING");
        self.smtputf8 |= is("SMTPUTF8");
        self.eight_bit_mime |= is("8BITMIME");
        self.chunking |= is("CHUNKING");
        self.dsn |= is("DSN");
        self.size |= is("SIZE");
    }
}

/// What has come beyond the replies that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surplus {
    Nothing,
    /// The end of the connection.
    End,
    /// A reply too many, or octets that are no reply.
    Reply,
}

/// Octets read at once.
const CHUNK: usize = 4096;

/// Recipients in a session with Exim. It drops a session after 10 commands that carry no mail
/// (`smtp_accept_max_nonmail`), and the RSET before each recipient is one, the random ones too.
const EXIM_USES: u32 = 8;

/// An open session.
pub(crate) struct Session {
    stream: BoxStream,
    reader: ReplyReader,
    /// What is read into. On the heap, so that the future of a question is small.
    chunk: Box<[u8]>,
    /// What EHLO offered.
    pub(crate) offers: Offers,
    /// Recipients asked for, the random ones too: servers count them over the whole session.
    pub(crate) uses: u32,
    /// Recipients at most, as far as the host's greeting tells.
    pub(crate) most_uses: u32,
    /// When its opening began, before the host's address was looked up.
    pub(crate) opened: Instant,
    /// Of the recipients, those that were refused.
    pub(crate) rejected: u32,
    /// Since when nobody has asked here.
    pub(crate) idle_since: Instant,
    /// TLS was negotiated.
    pub(crate) encrypted: bool,
    /// STARTTLS was offered in the last reply to EHLO: not taken, where the session goes on in clear.
    pub(crate) starttls: bool,
}

/// What opening a session needs to know.
pub(crate) struct Opening<'a> {
    pub(crate) dial: &'a dyn Dial,
    pub(crate) tls: &'a TlsClient,
    pub(crate) settings: &'a Settings,
    pub(crate) host: &'a Host,
    pub(crate) policy: TlsPolicy,
    pub(crate) deadline: Instant,
}

impl Opening<'_> {
    /// Connects, and brings the session to where MAIL may be said.
    pub(crate) async fn open(&self, address: SocketAddr, transcript: &mut Transcript) -> Result<Session, Trouble> {
        let mut session = self.connect(address, transcript).await?;
        match self.greet(&mut session, transcript).await {
            Ok(starttls) => self.encrypt(session, starttls, transcript).await,
            Err(trouble) => {
                session.quit(self.settings.quit_timeout, Some(transcript)).await;
                Err(trouble)
            }
        }
    }

    /// Connects; nothing is said yet.
    pub(crate) async fn connect(&self, address: SocketAddr, transcript: &mut Transcript) -> Result<Session, Trouble> {
        let within = self.deadline.min(Instant::now() + self.settings.connect_timeout);
        let waited = within.saturating_duration_since(Instant::now());
        let stream = match timeout_at(within, self.dial.dial(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                transcript.note(format!("{address} refused the connection"));
                return Err(Failure::ConnectionRefused.into());
            }
            Ok(Err(error)) => {
                transcript.note(format!("no connection to {address}: {error}"));
                let failure = if is_ours(&error) { Failure::OutOfResources } else { Failure::ConnectFailed };
                return Err(failure(error.to_string()).into());
            }
            Err(_) => {
                transcript.note(format!("no connection to {address} in time"));
                return Err(Failure::ConnectTimeout(waited).into());
            }
        };
        transcript.note(format!("connected to {address}"));
        Ok(Session::new(stream, self.settings))
    }

    /// Greeting and EHLO. Gives whether STARTTLS is offered.
    async fn greet(&self, session: &mut Session, transcript: &mut Transcript) -> Result<bool, Trouble> {
        self.greeting(session, transcript).await?;
        session.ehlo(self, transcript).await
    }

    /// Waits for the greeting.
    pub(crate) async fn greeting(&self, session: &mut Session, transcript: &mut Transcript) -> Result<Reply, Trouble> {
        let greeting = session.reply(Step::Greeting, self.deadline, transcript).await?;
        if greeting.code() != 220 {
            return Err(Trouble { failure: Failure::GreetingRejected, reply: Some(greeting) });
        }
        if greeting.text().contains(" Exim ") {
            session.most_uses = EXIM_USES;
        }
        Ok(greeting)
    }

    /// STARTTLS where the policy wants it and it is `offered`; the session is ended where that fails.
    pub(crate) async fn encrypt(
        &self,
        mut session: Session,
        offered: bool,
        transcript: &mut Transcript,
    ) -> Result<Session, Trouble> {
        if self.policy == TlsPolicy::Off || (self.policy == TlsPolicy::Opportunistic && !offered) {
            return Ok(session);
        }
        let upgraded = match offered {
            false => Err(Failure::TlsRequired.into()),
            true => self.start_tls(&mut session, transcript).await,
        };
        match upgraded {
            Ok(true) => {}
            Ok(false) => return Ok(session),
            Err(trouble) => {
                session.quit(self.settings.quit_timeout, Some(transcript)).await;
                return Err(trouble);
            }
        }
        let most_uses = session.most_uses;
        let handshake = self.tls.handshake(session.stream, self.host, self.policy == TlsPolicy::Verified);
        // Where it may go on in clear, some time is left for that.
        let in_clear_then = self.policy == TlsPolicy::Opportunistic;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let until = if in_clear_then { Instant::now() + left / 2 } else { self.deadline };
        let stream = match timeout_at(until, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                transcript.note(format!("the TLS handshake failed: {error}"));
                return Err(Failure::TlsFailed(error).into());
            }
            Err(_) if in_clear_then => {
                transcript.note("the TLS handshake did not come to an end in time");
                return Err(Failure::TlsFailed("it did not come to an end in time".into()).into());
            }
            Err(_) => return Err(Failure::Timeout(Step::StartTls).into()),
        };
        transcript.note("encrypted");
        // What was offered in clear does not count any more (RFC 3207 4.2).
        let mut session = Session::new(stream, self.settings);
        session.most_uses = most_uses;
        session.encrypted = true;
        if let Err(trouble) = session.ehlo(self, transcript).await {
            session.quit(self.settings.quit_timeout, Some(transcript)).await;
            return Err(match trouble.failure {
                // This side's handshake is over before the other has looked at its last part (RFC 8446 2): what that does not like shows here.
                Failure::Closed(Step::Ehlo) if in_clear_then => {
                    Failure::TlsFailed("it closed the connection behind it".into()).into()
                }
                _ => trouble,
            });
        }
        Ok(session)
    }

    /// Says STARTTLS. `Ok(false)` when the host does not want to after all and the policy lets it be.
    async fn start_tls(&self, session: &mut Session, transcript: &mut Transcript) -> Result<bool, Trouble> {
        let reply = session.say(Step::StartTls, &Command::StartTls, self.deadline, transcript).await?;
        if reply.code() != 220 {
            if self.policy == TlsPolicy::Opportunistic && (reply.is_transient() || reply.is_permanent()) {
                return Ok(false);
            }
            return Err(Trouble { failure: Failure::TlsRequired, reply: Some(reply) });
        }
        // Anything behind the 220 came in clear, whoever sent it (CVE-2011-0411 and its kin).
        if session.reader.has_partial() {
            return Err(Failure::TlsFailed("something came in clear behind the reply to STARTTLS".into()).into());
        }
        Ok(true)
    }
}

impl Session {
    /// Whether the policy wanted TLS, the host offered it, and it did not come about, because the handshake failed or STARTTLS was refused: what is
    /// refused now may be refused for that.
    pub(crate) fn is_in_clear_for_want_of_tls(&self, policy: TlsPolicy) -> bool {
        policy == TlsPolicy::Opportunistic && self.starttls && !self.encrypted
    }

    fn new(stream: BoxStream, settings: &Settings) -> Self {
        Self {
            stream,
            reader: ReplyReader::new(settings.replies),
            chunk: vec![0; CHUNK].into(),
            offers: Offers::default(),
            uses: 0,
            most_uses: u32::MAX,
            opened: Instant::now(),
            rejected: 0,
            idle_since: Instant::now(),
            encrypted: false,
            starttls: false,
        }
    }

    /// EHLO, or HELO where that is refused. Gives whether STARTTLS is offered.
    pub(crate) async fn ehlo(&mut self, opening: &Opening<'_>, transcript: &mut Transcript) -> Result<bool, Trouble> {
        let node = &opening.settings.node;
        let reply = self.say(Step::Ehlo, &Command::Ehlo(node), opening.deadline, transcript).await?;
        if reply.code() == 250 {
            let mut starttls = false;
            // The first line is the host's name.
            for line in reply.lines().skip(1) {
                starttls |= line.split(' ').next().is_some_and(|keyword| keyword.eq_ignore_ascii_case("STARTTLS"));
                self.offers.read(line);
            }
            self.starttls = starttls;
            return Ok(starttls);
        }
        if !reply.is_permanent() {
            return Err(Trouble { failure: Failure::EhloRejected, reply: Some(reply) });
        }
        let reply = self.say(Step::Helo, &Command::Helo(node), opening.deadline, transcript).await?;
        if reply.code() == 250 {
            return Ok(false);
        }
        Err(Trouble { failure: Failure::EhloRejected, reply: Some(reply) })
    }

    /// Says one command and reads its reply.
    async fn say(
        &mut self,
        step: Step,
        command: &Command<'_>,
        deadline: Instant,
        transcript: &mut Transcript,
    ) -> Result<Reply, Trouble> {
        let mut octets = Vec::new();
        command.write(&mut octets);
        self.send(step, &octets, deadline, transcript).await?;
        self.reply(step, deadline, transcript).await
    }

    /// Writes commands.
    pub(crate) async fn send(
        &mut self,
        step: Step,
        octets: &[u8],
        deadline: Instant,
        transcript: &mut Transcript,
    ) -> Result<(), Trouble> {
        // A reply that is there before its command answers nothing that was asked.
        if self.reader.has_partial() {
            return Err(Failure::Unsolicited(step).into());
        }
        transcript.said(Who::Us, octets);
        let written = timeout_at(deadline, async {
            self.stream.write_all(octets).await?;
            self.stream.flush().await
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Failure::Closed(step).into()),
            Err(_) => Err(Failure::Timeout(step).into()),
        }
    }

    /// Writes octets as they are, and sees them off.
    pub(crate) async fn write(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(octets).await?;
        self.stream.flush().await
    }

    /// Reads one reply. A 421 is the session's end, wherever it comes (RFC 5321 4.2.3).
    pub(crate) async fn reply(
        &mut self,
        step: Step,
        deadline: Instant,
        transcript: &mut Transcript,
    ) -> Result<Reply, Trouble> {
        loop {
            match self.reader.next_reply() {
                Ok(Some(reply)) if reply.code() == 421 => {
                    let failure =
                        if step == Step::Greeting { Failure::GreetingRejected } else { Failure::Ending(step) };
                    return Err(Trouble { failure, reply: Some(reply) });
                }
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(error) => return Err(Failure::Malformed(step, error).into()),
            }
            match timeout_at(deadline, self.stream.read(&mut self.chunk)).await {
                Ok(Ok(0)) => {
                    transcript.note("the destination closed the connection");
                    return Err(Failure::Closed(step).into());
                }
                Ok(Ok(octets)) => {
                    transcript.said(Who::Them, &self.chunk[..octets]);
                    self.reader.push(&self.chunk[..octets]);
                }
                Ok(Err(_)) => {
                    transcript.note("the connection broke");
                    return Err(Failure::Closed(step).into());
                }
                Err(_) => {
                    transcript.note("no reply in time");
                    return Err(Failure::Timeout(step).into());
                }
            }
        }
    }

    /// Looks at what has come beyond the replies that were read. Does not wait, so what is still on its way is not seen.
    pub(crate) async fn what_else_came(&mut self, transcript: &mut Transcript) -> Surplus {
        let mut ended = false;
        let came = poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut self.chunk);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) => Poll::Ready(Some(buffer.filled().len())),
                Poll::Ready(Err(_)) => Poll::Ready(Some(0)),
                Poll::Pending => Poll::Ready(None),
            }
        });
        match came.await {
            Some(0) => ended = true,
            Some(octets) => {
                transcript.said(Who::Them, &self.chunk[..octets]);
                self.reader.push(&self.chunk[..octets]);
            }
            None => {}
        }
        match (self.reader.has_partial(), ended) {
            (true, _) => Surplus::Reply,
            (false, true) => Surplus::End,
            (false, false) => Surplus::Nothing,
        }
    }

    /// Looks whether nothing has come that was not asked for, before something is: it would be taken for the reply to that. Does not wait.
    pub(crate) async fn nothing_else_came(&mut self, step: Step, transcript: &mut Transcript) -> Result<(), Trouble> {
        match self.what_else_came(transcript).await {
            Surplus::Nothing => Ok(()),
            Surplus::End => Err(Failure::Closed(step).into()),
            Surplus::Reply => Err(Failure::Unsolicited(step).into()),
        }
    }

    /// Whether the session is as it was left: neither closed nor told anything meanwhile. Does not wait.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        let mut octet = [0];
        let quiet = poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut octet);
            Poll::Ready(Pin::new(&mut self.stream).poll_read(context, &mut buffer).is_pending())
        });
        quiet.await && !self.reader.has_partial()
    }

    /// Ends it: QUIT, and a bounded wait for the reply. Whatever happens here, the session is over. Gives whether a 221 came.
    pub(crate) async fn quit(mut self, patience: Duration, transcript: Option<&mut Transcript>) -> bool {
        let mut own = Transcript::start();
        let transcript = transcript.unwrap_or(&mut own);
        let deadline = Instant::now() + patience;
        let mut octets = Vec::new();
        Command::Quit.write(&mut octets);
        transcript.said(Who::Us, &octets);
        let said = timeout_at(deadline, async {
            self.stream.write_all(&octets).await?;
            self.stream.flush().await
        });
        if !matches!(said.await, Ok(Ok(()))) {
            return false;
        }
        // Replies that are still owed come first; the end of the stream is as good as a 221.
        let mut chunk = [0; 1024];
        let mut taken = 0;
        // How the line begins that is coming in; the whole of it may be anything, and long.
        let mut head = Vec::with_capacity(4);
        let mut is_said = false;
        'replies: while let Ok(Ok(octets @ 1..)) = timeout_at(deadline, self.stream.read(&mut chunk)).await {
            transcript.said(Who::Them, &chunk[..octets]);
            taken += octets;
            for octet in &chunk[..octets] {
                match octet {
                    // The text may be missing (RFC 5321 4.2.1).
                    b'\n' if matches!(head[..], [b'2', b'2', b'1'] | [b'2', b'2', b'1', b' ' | b'\r']) => {
                        is_said = true;
                        break 'replies;
                    }
                    b'\n' => head.clear(),
                    octet if head.len() < 4 => head.push(*octet),
                    _ => {}
                }
            }
            if taken > 65_536 {
                break;
            }
        }
        let _ = timeout_at(deadline, self.stream.shutdown()).await;
        is_said
    }
}
