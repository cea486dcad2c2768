//! The client's side: a transaction repeated live at the recipients' server.
//!
//! A [`Relay`] belongs to one client's session. It has at most one session with one next hop, opened at the first recipient
//! and used again for further transactions of that client. Each answer to the client is made of what the server said just now:
//!
//! | here | there |
//! | --- | --- |
//! | first accepted RCPT | connect, EHLO, (STARTTLS), `MAIL` with the real sender, `RCPT` |
//! | further RCPT | `RCPT` |
//! | DATA, or the first BDAT | `DATA` and 354, or `BDAT` where that is offered; then our Received line |
//! | content | content, as it comes |
//! | the end | the end; the reply to it is the client's |
//! | RSET | `RSET`, before the next transaction |
//!
//! What must not be delivered is not completed: [`Relay::abandon`] closes the connection within the message, without its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use callahead_callout::{Callouts, ClientSession, ConnectError, Failure, For, Hop, Refusal, Route, Step};
use callahead_engine::DomainConfig;
use callahead_smtp::{Domain, Recipient, Reply};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::command::{Mail, Rcpt, say};
use super::content::DotWriter;
use super::wording::{
    About, by_itself, lacking, lacking_for_header, lost, mail_from, passed, put_off, rcpt_to, unreachable,
};

/// For a session with a server to be opened: connection, greeting, EHLO and TLS, over all hosts of a route. As long as a callout, since
/// the client waits for its reply to RCPT, and everybody for a host that is tried again after failures.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// How long the server may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the reply to a command, or to take a part of the message.
    pub(crate) step: Duration,
    /// For the reply to the message's end, from when the client's end came.
    pub(crate) end: Duration,
}

/// A client's way to a recipients' server.
pub(crate) struct Relay {
    callouts: Callouts,
    patience: Patience,
    /// Sessions that are being ended.
    ending: TaskTracker,
    /// The client's network, where it is one of many.
    client: Option<IpAddr>,
    link: Option<Link>,
    transaction: Option<Transaction>,
}

/// A session with a server.
struct Link {
    session: ClientSession,
    hop: NextHop,
    /// It is the best of its route for mail that may need SMTPUTF8.
    for_smtputf8: bool,
    /// MAIL was said in it before, so it may have grown old.
    used: bool,
    needs_reset: bool,
}

/// Where recipients have to go alike to be in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NextHop {
    route: Arc<Route>,
    /// Where the route has `mx`, which is another server for each domain.
    domain: Option<Domain>,
}

struct Transaction {
    hop: NextHop,
    /// The server refused the sender, and so every recipient.
    refused: Option<Reply>,
    accepted: usize,
    /// How its first recipient was refused, where that was its session's first too and so can't have been refused for others.
    first_refusal: Option<Refusal>,
    /// All recipients' domains pass the server's words on.
    words: bool,
    message: Option<Message>,
}

/// A message on its way.
enum Message {
    Dots(DotWriter),
    Chunks,
}

/// Why a transaction could not be begun.
struct Broken {
    failure: Failure,
    /// The commands were pipelined, and which reply answers which is not certain. Another session without may fare better.
    pipelining_suspect: bool,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self { failure, pipelining_suspect: false }
    }
}

/// What became of a message at its end.
pub(crate) struct Finished {
    /// What the client is told.
    pub(crate) reply: Reply,
    /// What the server said, if it did.
    pub(crate) said: Option<Reply>,
}

impl Relay {
    pub(crate) fn new(callouts: Callouts, patience: Patience, ending: TaskTracker) -> Self {
        Self { callouts, patience, ending, client: None, link: None, transaction: None }
    }

    /// For which client sessions are opened from now on.
    pub(crate) fn is_for(&mut self, client: Option<IpAddr>) {
        self.client = client;
    }

    /// `host:port` of the server, as the route or the MX names it.
    pub(crate) fn destination(&self) -> Option<&str> {
        self.link.as_ref().map(|link| link.session.destination())
    }

    /// Whether a session is open and no transaction in it.
    pub(crate) fn is_idle(&self) -> bool {
        self.link.is_some() && self.transaction.is_none()
    }

    /// Repeats a recipient that the engine accepted.
    pub(crate) async fn recipient(
        &mut self,
        mail: &Mail,
        rcpt: &Rcpt,
        recipient: &Recipient,
        domain: &DomainConfig,
    ) -> Reply {
        let hop = NextHop::of(domain, recipient);
        if let Some(transaction) = &self.transaction {
            if transaction.hop == hop {
                return self.further_recipient(mail, rcpt, recipient, domain).await;
            }
            if transaction.accepted > 0 {
                return say(452, (4, 5, 3), "This recipient is on another server; send to it by itself");
            }
            // Nobody was accepted there, so nothing is lost by going elsewhere.
            self.abandon();
        }
        let words = domain.policy.pass_reply_text;
        let until = Instant::now() + self.patience.step + OPEN_WITHIN * 2;
        let mut pipelined = true;
        // A session that was used before may be one that the server has had enough of, and a group of commands may be more than it can
        // bear: then once more, in a new session, and without pipelining. What is refused in a used one may also be refused for what was asked there
        // before, as chkuser of qmail does, which counts over the whole connection: a new one tells.
        for _ in 0..3 {
            let fresh = match self.connect(&hop, mail, recipient, until).await {
                Ok(fresh) => fresh,
                Err(reply) => return reply,
            };
            if let Some(link) = &self.link
                && let Some(reply) = lacking(&link.session, mail, recipient)
            {
                return reply;
            }
            match self.begin(mail, rcpt, recipient, pipelined, until).await {
                Ok((refused, reply)) if !fresh && self.may_be_for_others(refused.as_ref(), &reply, recipient) => {
                    let said = refused.unwrap_or(reply);
                    tracing::debug!(destination = self.destination(), %said, "refused in a session that was used before");
                    self.end();
                }
                Ok((refused, reply)) => {
                    let is_refused_first = fresh && refused.is_none() && reply.is_permanent();
                    let transaction = Transaction {
                        hop,
                        refused: refused.map(|refusal| passed(&refusal, About::Sender, words)),
                        accepted: usize::from(reply.is_positive()),
                        first_refusal: is_refused_first.then(|| Refusal::of(&reply, recipient)),
                        words,
                        message: None,
                    };
                    let reply = match &transaction.refused {
                        Some(refused) => refused.clone(),
                        None => told(&reply, words),
                    };
                    self.transaction = Some(transaction);
                    return reply;
                }
                Err(Broken { failure, pipelining_suspect }) => {
                    tracing::debug!(destination = self.destination(), %failure, "a transaction could not be begun");
                    if pipelining_suspect && let Some(link) = &self.link {
                        link.session.learn_no_pipelining();
                    }
                    self.end();
                    if fresh && !pipelining_suspect {
                        return unreachable();
                    }
                    pipelined &= !pipelining_suspect;
                }
            }
        }
        unreachable()
    }

    /// A session with the next hop; whether it is a new one.
    async fn connect(
        &mut self,
        hop: &NextHop,
        mail: &Mail,
        recipient: &Recipient,
        until: Instant,
    ) -> Result<bool, Reply> {
        let whom = For { client: self.client, smtputf8: mail.smtputf8 };
        if let Some(link) = &mut self.link {
            let fits = !mail.smtputf8 || link.for_smtputf8 || link.session.offers().smtputf8;
            if link.hop == *hop && fits && link.session.is_quiet().await {
                return Ok(!link.used);
            }
            self.end();
        }
        let deadline = until.min(Instant::now() + self.patience.step.min(OPEN_WITHIN));
        match self.callouts.connect(&hop.route, recipient.domain(), whom, deadline).await {
            Ok(session) => {
                let (hop, for_smtputf8) = (hop.clone(), whom.smtputf8);
                self.link = Some(Link { session, hop, for_smtputf8, used: false, needs_reset: false });
                Ok(true)
            }
            Err(ConnectError::NullMx) => Err(say(556, (5, 1, 10), "The domain takes no mail (null MX)")),
            Err(error @ ConnectError::Unreachable(_)) => {
                tracing::info!(target: "callahead::message", domain = %recipient.domain(), %error, "no server to relay to");
                Err(unreachable())
            }
        }
    }

    /// MAIL and the first RCPT, in one write where that is offered. Gives MAIL's reply where it was refused, and RCPT's.
    ///
    /// Which reply answers which command has to be certain, as in a callout: a 5xx to something else must not refuse the recipient.
    async fn begin(
        &mut self,
        mail: &Mail,
        rcpt: &Rcpt,
        recipient: &Recipient,
        pipelined: bool,
        until: Instant,
    ) -> Result<(Option<Reply>, Reply), Broken> {
        let Some(link) = &mut self.link else { return Err(Failure::Closed(Step::Mail).into()) };
        let offers = link.session.offers();
        let pipelined = pipelined && offers.pipelining;
        let reset = std::mem::take(&mut link.needs_reset).then(|| (Step::Rset, b"RSET\r\n".to_vec()));
        let mut commands = Vec::from_iter(reset);
        commands.push((Step::Mail, mail_from(mail, offers)));
        commands.push((Step::Rcpt, rcpt_to(rcpt, recipient, offers)));
        link.used = true;
        let mut deadline = until.min(Instant::now() + self.patience.step);
        if pipelined {
            quiet(&mut link.session, Step::Mail).await?;
            let together: Vec<u8> = commands.iter().flat_map(|(_, octets)| octets).copied().collect();
            link.session.send(Step::Mail, &together, deadline).await?;
        }
        let in_clear = link.session.is_in_clear_for_want_of_tls(link.hop.route.tls);
        let mut refused = None;
        let mut answered = false;
        let suspect = |failure| Broken { failure, pipelining_suspect: pipelined };
        for (step, octets) in commands {
            if !pipelined {
                quiet(&mut link.session, step).await?;
                link.session.send(step, &octets, deadline).await?;
            } else if answered {
                // A group that is answered in part only costs time: some is left for another try without pipelining.
                deadline = deadline.min(Instant::now() + self.patience.step / 2);
            }
            let reply = match (link.session.reply(step, deadline).await, refused.take()) {
                (Ok(reply), before) => {
                    refused = before;
                    reply
                }
                // It refused the sender, and left with that; or it still owes a reply, which must not become the next transaction's.
                (Err(_), Some(refusal)) => {
                    self.end_link();
                    return Ok((Some(Reply::clone(&refusal)), refusal));
                }
                (Err(failure @ Failure::Timeout(_)), None) if answered => return Err(suspect(failure)),
                (Err(failure), None) => return Err(failure.into()),
            };
            answered = true;
            match (step, reply.code()) {
                (Step::Rset, 200..=299) | (Step::Mail, 200..=299) => {}
                (Step::Mail, _) if is_refusal(step, &reply, in_clear) && pipelined => refused = Some(reply),
                (Step::Mail, _) if is_refusal(step, &reply, in_clear) => {
                    link.needs_reset = true;
                    return Ok((Some(reply.clone()), reply));
                }
                // What RCPT gets behind a MAIL that was refused says nothing, whatever it is.
                (Step::Rcpt, _) if refused.is_some() || reply.is_positive() || is_refusal(step, &reply, in_clear) => {
                    if pipelined && link.session.said_too_much().await {
                        return Err(suspect(Failure::Unsolicited(step)));
                    }
                    link.needs_reset = refused.is_some();
                    return Ok((refused, reply));
                }
                (_, code) => {
                    let destination = link.session.destination();
                    tracing::info!(target: "callahead::message", destination, %step, said = %reply, "a server refuses the session");
                    let failure = Failure::UnexpectedReply(step);
                    let for_tls = in_clear && reply.is_permanent() && code != 503;
                    if for_tls {
                        link.session.try_tls_again();
                    }
                    // What it wants for the session it wants whether commands come together or not.
                    return Err(if for_tls || code == 504 || reply.wants_tls_or_login() {
                        failure.into()
                    } else {
                        suspect(failure)
                    });
                }
            }
        }
        Err(Failure::UnexpectedReply(Step::Rcpt).into())
    }

    async fn further_recipient(
        &mut self,
        mail: &Mail,
        rcpt: &Rcpt,
        recipient: &Recipient,
        domain: &DomainConfig,
    ) -> Reply {
        let Some(transaction) = &mut self.transaction else { return lost() };
        if let Some(refused) = &transaction.refused {
            return refused.clone();
        }
        let Some(link) = &mut self.link else { return lost() };
        if let Some(reply) = lacking(&link.session, mail, recipient) {
            return reply;
        }
        let deadline = Instant::now() + self.patience.step;
        let command = rcpt_to(rcpt, recipient, link.session.offers());
        let in_clear = link.session.is_in_clear_for_want_of_tls(link.hop.route.tls);
        match exchange(&mut link.session, Step::Rcpt, &command, deadline).await {
            Ok(reply) if reply.is_positive() || is_refusal(Step::Rcpt, &reply, in_clear) => {
                transaction.accepted += usize::from(reply.is_positive());
                transaction.words &= domain.policy.pass_reply_text;
                let as_the_first =
                    |first: &Refusal| reply.is_permanent() && Refusal::of(&reply, recipient).is_like(first);
                if !transaction.first_refusal.as_ref().is_some_and(as_the_first)
                    && is_doubtful(&link.session, &reply, recipient)
                {
                    let destination = link.session.destination();
                    tracing::info!(target: "callahead::message", destination, said = %reply, "refused behind other recipients");
                    return by_itself();
                }
                told(&reply, domain.policy.pass_reply_text)
            }
            _ => {
                // And with it the transaction: what follows finds no session.
                self.end_link();
                lost()
            }
        }
    }

    /// Whether a session that was used before may have refused the sender, or else the recipient, for what was said in it before.
    fn may_be_for_others(&self, refused: Option<&Reply>, reply: &Reply, recipient: &Recipient) -> bool {
        match (refused, &self.link) {
            (Some(refusal), _) => refusal.is_permanent() && !is_of_an_address(refusal),
            (None, Some(link)) => is_doubtful(&link.session, reply, recipient),
            (None, None) => reply.is_permanent(),
        }
    }

    /// What a message gets whose header is beyond ASCII, where the server takes none.
    pub(crate) fn refusal_of_header(&self, mail: &Mail) -> Option<Reply> {
        self.link.as_ref().and_then(|link| lacking_for_header(&link.session, mail))
    }

    /// Begins a message: DATA, or nothing yet where it comes and goes in chunks; then the Received line.
    ///
    /// # Errors
    /// The reply to the client: the message can't be taken.
    pub(crate) async fn begin_message(&mut self, chunked: bool, trace: &str) -> Result<(), Reply> {
        if !self.is_quiet().await {
            self.end();
            return Err(lost());
        }
        let (Some(transaction), Some(link)) = (&mut self.transaction, &mut self.link) else { return Err(lost()) };
        let deadline = Instant::now() + self.patience.step;
        let words = transaction.words;
        let begun = if chunked && link.session.offers().chunking {
            transaction.message = Some(Message::Chunks);
            let mut chunk = format!("BDAT {}\r\n", trace.len()).into_bytes();
            chunk.extend_from_slice(trace.as_bytes());
            exchange(&mut link.session, Step::Data, &chunk, deadline).await.map(|reply| (reply.is_positive(), reply))
        } else {
            transaction.message = Some(Message::Dots(DotWriter::default()));
            exchange(&mut link.session, Step::Data, b"DATA\r\n", deadline)
                .await
                .map(|reply| (reply.code() == 354, reply))
        };
        match begun {
            Ok((true, _)) => {}
            Ok((false, reply)) if is_refusal(Step::Data, &reply, false) => {
                let reply = passed(&reply, About::Message, words);
                if let Some(Message::Dots(_)) = transaction.message {
                    // It was DATA that was refused, so no message is begun there.
                    transaction.message = None;
                }
                self.abandon();
                return Err(reply);
            }
            _ => {
                self.cut();
                return Err(lost());
            }
        }
        match &transaction.message {
            Some(Message::Dots(_)) => self.content(trace.as_bytes()).await,
            _ => Ok(()),
        }
    }

    /// Begins a chunk of the client's, of so many octets.
    ///
    /// # Errors
    /// The reply to the client.
    pub(crate) async fn begin_chunk(&mut self, size: u64, last: bool) -> Result<(), Reply> {
        let Some(Message::Chunks) = self.transaction.as_ref().and_then(|transaction| transaction.message.as_ref())
        else {
            // It goes on as DATA, which has no chunks.
            return if self.link.is_some() { Ok(()) } else { Err(lost()) };
        };
        if !self.is_quiet().await {
            self.cut();
            return Err(lost());
        }
        let command = format!("BDAT {size}{}\r\n", if last { " LAST" } else { "" });
        self.write(command.as_bytes()).await
    }

    /// Sends content. It returns when it is on its way, so that the client is read no faster than the server reads.
    ///
    /// # Errors
    /// The reply to the client: the server is lost, and with it the message.
    pub(crate) async fn content(&mut self, content: &[u8]) -> Result<(), Reply> {
        let message = self.transaction.as_mut().and_then(|transaction| transaction.message.as_mut());
        match message {
            Some(Message::Dots(writer)) => {
                let mut stuffed = Vec::new();
                writer.write(content, &mut stuffed);
                self.write(&stuffed).await
            }
            Some(Message::Chunks) => {
                // What it says before it has the last of a chunk is no answer to the chunk, nor to the message.
                if !self.is_quiet().await {
                    self.cut();
                    return Err(lost());
                }
                self.write(content).await
            }
            None => Err(lost()),
        }
    }

    /// Ends a chunk that is not the last.
    pub(crate) async fn end_chunk(&mut self) -> Reply {
        let (Some(transaction), Some(link)) = (&mut self.transaction, &mut self.link) else { return lost() };
        if matches!(transaction.message, Some(Message::Dots(_))) {
            return say(250, (2, 0, 0), "Ok");
        }
        let words = transaction.words;
        match link.session.reply(Step::Message, Instant::now() + self.patience.step).await {
            Ok(reply) if reply.is_positive() => say(250, (2, 0, 0), "Ok"),
            Ok(reply) if is_refusal(Step::Message, &reply, false) => {
                let reply = passed(&reply, About::Message, words);
                self.cut();
                reply
            }
            _ => {
                self.cut();
                lost()
            }
        }
    }

    /// Ends the message, and the transaction with it. The reply is the server's.
    ///
    /// The client has waited since its end `came`, while a server that is slow to read got the rest of the message. One deadline holds for
    /// that, the end and the reply, so that the client is still there to hear of it; only where that would leave no time for a reply, as
    /// behind many chunks that came together, is there a step's.
    pub(crate) async fn finish(&mut self, came: Instant) -> Finished {
        let Patience { step, end } = self.patience;
        let deadline = (came + end).max(Instant::now() + step.min(end));
        let unsaid = |reply| Finished { reply, said: None };
        let message = self.transaction.as_mut().and_then(|transaction| transaction.message.take());
        let ended = match message {
            // What it says before the end is no answer to the message, and a 250 least of all.
            Some(Message::Dots(_)) if !self.is_quiet().await => {
                self.cut();
                Err(lost())
            }
            Some(Message::Dots(mut writer)) => {
                let mut end = Vec::new();
                writer.end(&mut end);
                self.write_until(&end, deadline.min(Instant::now() + step)).await
            }
            Some(Message::Chunks) => Ok(()),
            None => Err(lost()),
        };
        if let Err(reply) = ended {
            return unsaid(reply);
        }
        let words = self.transaction.take().is_some_and(|transaction| transaction.words);
        let Some(link) = &mut self.link else { return unsaid(lost()) };
        let said = match link.session.reply(Step::Message, deadline).await {
            Ok(reply) if reply.is_positive() || is_refusal(Step::Message, &reply, false) => reply,
            _ => {
                // Nobody can tell whether it was delivered (RFC 1047): the client sends again, and the recipient may have it twice.
                self.end_link();
                return unsaid(say(
                    451,
                    (4, 4, 2),
                    "The recipient's server gave no answer to the message; try again later",
                ));
            }
        };
        Finished { reply: passed(&said, About::Message, words), said: Some(said) }
    }

    /// The transaction is over, and its message must not be delivered: the connection is closed within it. Where chunks go out as DATA a
    /// RSET would be a line of it, and the next transaction too; what a RSET does to chunks is not worth trusting either. Where no message was
    /// begun there, the session goes on.
    pub(crate) fn abandon(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            if transaction.message.is_some() {
                self.link = None;
            }
            if let Some(link) = &mut self.link {
                link.needs_reset = true;
            }
        }
    }

    /// Closes the connection without a word.
    fn cut(&mut self) {
        self.transaction = None;
        self.link = None;
    }

    /// Ends the session with the server, properly where nothing is under way. It does not wait.
    pub(crate) fn end(&mut self) {
        let within_message = self.transaction.take().is_some_and(|transaction| transaction.message.is_some());
        match within_message {
            true => self.link = None,
            false => self.end_link(),
        }
    }

    fn end_link(&mut self) {
        if let Some(link) = self.link.take()
            // Dropped with its runtime there is nobody to say it.
            && let Ok(runtime) = Handle::try_current()
        {
            self.ending.spawn_on(link.session.quit(), &runtime);
        }
    }

    async fn is_quiet(&mut self) -> bool {
        match &mut self.link {
            Some(link) => link.session.is_quiet().await,
            None => false,
        }
    }

    async fn write(&mut self, octets: &[u8]) -> Result<(), Reply> {
        self.write_until(octets, Instant::now() + self.patience.step).await
    }

    async fn write_until(&mut self, octets: &[u8], deadline: Instant) -> Result<(), Reply> {
        let Some(link) = &mut self.link else { return Err(lost()) };
        if let Err(failure) = link.session.write(octets, deadline).await {
            tracing::debug!(destination = link.session.destination(), %failure, "a message could not be written");
            self.cut();
            return Err(lost());
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the client is told of the reply to RCPT. What refuses that which this node said, its name in EHLO most often, and a 552 that says no more put
/// the recipient off, as with callouts.
fn told(reply: &Reply, words: bool) -> Reply {
    let is_of_protocol = reply.is_permanent() && callahead_smtp::About::from(reply) == callahead_smtp::About::Protocol;
    match is_of_protocol || reply.is_bare_552() {
        true => put_off(reply, words),
        false => passed(reply, About::Recipient, words),
    }
}

/// Whether a recipient that was not its session's first may be refused for those before it: but for what is said of its address, and for what callouts
/// heard of first recipients.
fn is_doubtful(session: &ClientSession, reply: &Reply, recipient: &Recipient) -> bool {
    let is_of_the_address = callahead_smtp::About::from(reply) == callahead_smtp::About::Address;
    reply.is_permanent() && !is_of_the_address && !session.knows(&Refusal::of(reply, recipient))
}

/// Whether it says what is wrong with an address: 5.1.x. 5.1.7 and 5.1.8 talk of the sender's, and to the real one that is as good a word.
fn is_of_an_address(reply: &Reply) -> bool {
    reply.enhanced().is_some_and(|enhanced| enhanced.subject() == 1)
}

/// Whether a reply says no to the sender, the recipient or the message. `in_clear` is whether it may say so for want of TLS: then only what
/// is said of an address is.
fn is_refusal(step: Step, reply: &Reply, in_clear: bool) -> bool {
    let for_tls = in_clear && reply.is_permanent() && !is_of_an_address(reply);
    (reply.is_transient() || reply.is_permanent()) && !is_of_the_session(step, reply) && !for_tls
}

/// Whether it says what is wrong with the session instead, which is no word on anybody: that the server does not know a command (500,
/// 502), has lost track of them (503), or wants TLS or a login first (530, 538: RFC 3207 4, RFC 4954 6). To MAIL also that it does not know
/// a parameter (504).
fn is_of_the_session(step: Step, reply: &Reply) -> bool {
    match (step, reply.code()) {
        (_, 500 | 502 | 503 | 530 | 538) | (Step::Mail, 504) => true,
        // To a message 523 would be its length, by qmail's numbers.
        (Step::Mail | Step::Rcpt, _) => reply.wants_tls_or_login(),
        _ => false,
    }
}

/// Fails where the server has said something unasked, a notice that it will end or a second reply to what was said before: that would be
/// taken for the reply to what is said next, and a 5xx refuse whom it does not mean.
async fn quiet(session: &mut ClientSession, step: Step) -> Result<(), Failure> {
    if session.is_quiet().await { Ok(()) } else { Err(Failure::Unsolicited(step)) }
}

/// Says a command, with what belongs to it, and reads its reply.
async fn exchange(session: &mut ClientSession, step: Step, octets: &[u8], deadline: Instant) -> Result<Reply, Failure> {
    quiet(session, step).await?;
    session.send(step, octets, deadline).await?;
    session.reply(step, deadline).await
}

impl NextHop {
    fn of(domain: &DomainConfig, recipient: &Recipient) -> Self {
        let route = Arc::clone(domain.relay.as_ref().unwrap_or(&domain.route));
        let by_mx = route.hops.contains(&Hop::Mx);
        Self { route, domain: by_mx.then(|| recipient.domain().clone()) }
    }
}
