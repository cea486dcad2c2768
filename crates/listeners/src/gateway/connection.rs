//! The loop around a session: a socket, the time, and what the session's events ask for.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use callahead_engine::{Action, Decision, Listener, Question, Unanswered, network_of};
use callahead_smtp::{Recipient, Reply};
use rand::RngExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::clients::Counted;
use super::command::{Rcpt, say};
use super::relay::{Finished, Patience, Relay};
use super::session::{Event, Session};
use super::wording::lost;
use super::{InForce, Inner, proxy, routing, trace};
use crate::server::{Counters, write_within};

/// Octets read at once, from a client.
const CHUNK: usize = 16 * 1024;
/// Octets of replies that may wait for others behind them.
const WRITE_AHEAD: usize = 16 * 1024;
/// For the PROXY header, which is sent with the connection.
const PROXY_WITHIN: Duration = Duration::from_secs(10);
/// For a TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(60);
/// How long a session with a server is kept while its client says nothing.
const LINK_IDLE: Duration = Duration::from_secs(2);
/// Recipients of a message that its log event names.
const RECIPIENTS_LOGGED: usize = 20;

/// Why a connection ends.
enum End {
    /// All is said.
    Closed,
    /// The client is gone.
    Gone,
}

/// A connection, encrypted or not.
enum Wire<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
    /// Between the two.
    Neither,
}

struct Connection<'a, S> {
    inner: &'a Inner,
    in_force: Arc<InForce>,
    counters: &'a Counters,
    /// Asked again for each command, so it waits in its line once.
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    wire: Wire<S>,
    session: Session,
    /// Made when it is first needed.
    relay: Option<Box<Relay>>,
    message: Option<Box<Message>>,
    /// When octets of the client came last.
    heard: Instant,
    ends_at: Instant,
    /// Since when it is waited for what brings the session on; from the next wait where that has just come.
    waits_since: Option<Instant>,
    /// Since when the server's session has been idle.
    link_idle_since: Option<Instant>,
    /// Rings when a wait is over, or before: it is set anew when it rings, and not for each command.
    alarm: Pin<Box<Sleep>>,
    _counted: Option<Counted>,
}

/// A message as its log event tells of it.
struct Message {
    id: String,
    began: Instant,
    chunks_begun: bool,
    recipients: Vec<String>,
    count: usize,
}

/// Serves a connection to its end.
pub(super) async fn serve<S>(inner: &Inner, stream: S, peer: IpAddr, counters: &Counters, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let in_force = inner.in_force.load_full();
    let settings = &in_force.settings;
    let mut wire = Wire::Plain(stream);
    let (mut client, mut first) = (peer, Vec::new());
    let mut is_named = true;
    if settings.proxy_protocol {
        let header = match settings.trusts(peer) {
            true => timeout(PROXY_WITHIN, proxy_header(&mut wire)).await.ok().flatten(),
            false => None,
        };
        let Some((header, rest)) = header else {
            count(&counters.malformed);
            if let Some(connections) = inner.headerless.happened() {
                tracing::warn!(
                    listener = "gateway",
                    client = %peer,
                    connections,
                    "closed: proxy_protocol is on, and no PROXY header came from a network in gateway.trusted; said once a minute"
                );
            }
            return;
        };
        is_named = header.client.is_some();
        client = header.client.map_or(peer, |client| client.to_canonical());
        first = rest;
    }
    // Behind a header without a client (`UNKNOWN`, `LOCAL`, no TCP) the proxy's own health checks come, and so may anybody whom it does not
    // name. They are not counted together, and are nobody whose XCLIENT counts.
    let trusted = is_named && settings.trusts(client);
    let counted = match settings.trusts(client) {
        true => None,
        false => match inner.clients.admit(client, settings.connections_per_client) {
            Some(counted) => Some(counted),
            None => {
                count(&counters.refused);
                let refusal = wire.write_all(b"421 4.7.0 Too many connections from your address; try again later\r\n");
                let _ = timeout(PROXY_WITHIN, refusal).await;
                return;
            }
        },
    };
    let mut session = Session::new(Arc::clone(&in_force.terms), client, trusted);
    session.push(&first);
    drop(first);
    let connection = Connection {
        inner,
        counters,
        stopping: Box::pin(shutdown.cancelled_owned()),
        wire,
        session,
        relay: None,
        message: None,
        heard: Instant::now(),
        ends_at: Instant::now() + settings.session_timeout,
        waits_since: None,
        link_idle_since: None,
        alarm: Box::pin(sleep(settings.command_timeout)),
        in_force,
        _counted: counted,
    };
    connection.run().await;
}

/// Reads a PROXY header; gives it with what came behind it.
async fn proxy_header<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Option<(proxy::Header, Vec<u8>)> {
    let mut octets = Vec::new();
    loop {
        match proxy::read(&octets) {
            Ok(Some(header)) => {
                octets.drain(..header.length);
                return Some((header, octets));
            }
            Ok(None) => {}
            Err(proxy::NoHeader) => return None,
        }
        if receive(wire, &mut |received| octets.extend_from_slice(received)).await.ok()? == 0 {
            return None;
        }
    }
}

/// Waits for octets, and hands them on. The buffer lives on the stack while there is something to read, and nowhere while there is not; to
/// fill it with zeros first would take longer than most commands do.
async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    take: &mut (dyn FnMut(&[u8]) + Send),
) -> io::Result<usize> {
    poll_fn(|context| {
        let mut chunk = [const { MaybeUninit::uninit() }; CHUNK];
        let mut buffer = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut *wire).poll_read(context, &mut buffer))?;
        let received = buffer.filled();
        take(received);
        Poll::Ready(Ok(received.len()))
    })
    .await
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    async fn run(mut self) {
        let end = loop {
            // Not only where it is waited for the client: one that always has something to say never is.
            if Instant::now() >= self.ends_at {
                break self.out_of_time();
            }
            let said = self.session.commands();
            let was_in_transaction = self.session.in_transaction();
            let event = self.session.next();
            let commands = self.session.commands() - said;
            if commands > 0 {
                self.counters.requests.fetch_add(commands.into(), Ordering::Relaxed);
            }
            // Octets that make no command yet bring nothing on. Within a transaction neither does a command that nothing comes of, such as NOOP:
            // a transaction holds a place at the server, and there are few.
            let in_transaction = was_in_transaction && self.session.in_transaction();
            if event.is_some() || (commands > 0 && !in_transaction) {
                self.waits_since = None;
            }
            let went_on = match event {
                Some(event) => {
                    // What is decided at once waits for nothing: a client that sends thousands of recipients would have the thread until the last.
                    tokio::task::consume_budget().await;
                    self.handle(event).await
                }
                None => self.wait().await,
            };
            if let Err(end) = went_on {
                break end;
            }
        };
        // Within a message this closes the server's connection without the message's end.
        self.relay = None;
        if matches!(end, End::Closed) {
            let _ = self.flush().await;
            let _ = timeout(self.in_force.settings.data_timeout, self.wire.shutdown()).await;
        }
    }

    /// Sends what there is to say, and waits for the client.
    async fn wait(&mut self) -> Result<(), End> {
        self.flush().await?;
        self.session.rest();
        let settings = &self.in_force.settings;
        let now = Instant::now();
        let until = if self.session.in_content() {
            now + settings.data_timeout
        } else {
            *self.waits_since.get_or_insert(now) + settings.command_timeout
        };
        let until = until.min(self.ends_at);
        // Not only where the alarm rings: what comes in is seen first.
        if now >= until {
            return Err(self.out_of_time());
        }
        // A server should not wait for our client's next thought, nor while it only says NOOP.
        let mut link_idle = self.relay.as_ref().is_some_and(|relay| relay.is_idle()) && !self.session.in_transaction();
        self.link_idle_since = link_idle.then(|| self.link_idle_since.unwrap_or(now));
        let link_until = self.link_idle_since.unwrap_or(now) + LINK_IDLE;
        loop {
            let session = &mut self.session;
            let stops = !session.in_transaction();
            let now_until = if link_idle { until.min(link_until) } else { until };
            if self.alarm.deadline() > now_until {
                self.alarm.as_mut().reset(now_until);
            }
            let mut take = |received: &[u8]| session.push(received);
            tokio::select! {
                biased;
                () = &mut self.stopping, if stops => {
                    self.session.close(&say(421, (4, 3, 2), "The service is stopping; try again later"));
                    return Err(End::Closed);
                }
                received = receive(&mut self.wire, &mut take) => match received {
                    Ok(1..) => {
                        self.heard = Instant::now();
                        return Ok(());
                    }
                    Ok(_) | Err(_) => return Err(End::Gone),
                },
                () = &mut self.alarm => {
                    let now = Instant::now();
                    if now < now_until {
                        self.alarm.as_mut().reset(now_until);
                        continue;
                    }
                    if link_idle && now < until {
                        if let Some(relay) = &mut self.relay {
                            relay.end();
                        }
                        link_idle = false;
                        self.alarm.as_mut().reset(until);
                        continue;
                    }
                }
            }
            return Err(self.out_of_time());
        }
    }

    fn out_of_time(&mut self) -> End {
        count(&self.counters.timed_out);
        let text = if Instant::now() >= self.ends_at {
            "The session has gone on for too long; closing"
        } else {
            "Nothing came in time; closing"
        };
        self.session.close(&say(421, (4, 4, 2), text));
        self.log_unfinished("the client took too long");
        End::Closed
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.session.output() == 0 {
            return Ok(());
        }
        let output = self.session.take_output();
        match write_within(&mut self.wire, &output, self.in_force.settings.data_timeout).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                count(&self.counters.timed_out);
                Err(End::Gone)
            }
        }
    }

    /// What waits for somebody else is in a box, so that a connection which waits for its client has no room for it.
    async fn handle(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Recipient(rcpt) => self.recipient(&rcpt).await?,
            Event::Data => {
                self.flush().await?;
                match Box::pin(self.begin_message(false)).await {
                    Ok(()) => self.session.data_goes(),
                    Err(reply) => {
                        self.abandon();
                        self.finished(&Finished { reply: reply.clone(), said: None });
                        self.session.answer(&reply);
                    }
                }
            }
            Event::Chunk { size, last } => {
                let begun = match self.message.as_ref().is_some_and(|message| message.chunks_begun) {
                    true => Ok(()),
                    false => Box::pin(self.begin_message(true)).await,
                };
                let begun = match (begun, &mut self.relay) {
                    (Ok(()), Some(relay)) => Box::pin(relay.begin_chunk(size, last)).await,
                    (begun, _) => begun,
                };
                match begun {
                    Ok(()) => self.session.chunk_goes(),
                    Err(reply) => self.session.fail(reply),
                }
            }
            Event::Content(content) => {
                if let Some(relay) = &mut self.relay
                    && let Err(reply) = Box::pin(relay.content(&content)).await
                {
                    self.session.fail(reply);
                }
            }
            Event::Unfit(unfit) => {
                tracing::debug!(client = %self.session.client().address, ?unfit, "a message is not relayed");
                self.abandon();
            }
            Event::ChunkEnd { last: false } => {
                let reply = match &mut self.relay {
                    Some(relay) => Box::pin(relay.end_chunk()).await,
                    None => return Err(End::Gone),
                };
                if !reply.is_positive() {
                    self.finished(&Finished { reply: reply.clone(), said: None });
                }
                self.session.answer(&reply);
            }
            Event::End | Event::ChunkEnd { last: true } => {
                let Some(relay) = &mut self.relay else { return Err(End::Gone) };
                let finished = Box::pin(relay.finish(self.heard)).await;
                self.finished(&finished);
                self.session.answer(&finished.reply);
            }
            Event::Failed(reply) => {
                self.abandon();
                self.finished(&Finished { reply, said: None });
            }
            Event::Reset => {
                self.message = None;
                self.abandon();
            }
            Event::StartTls => Box::pin(self.start_tls()).await?,
            Event::Close => return Err(End::Closed),
        }
        Ok(())
    }

    /// Answers RCPT: at once where nobody has to be asked, with the replies to what came with it.
    async fn recipient(&mut self, rcpt: &Rcpt) -> Result<(), End> {
        let reply = if routing::is_given(&rcpt.address) {
            self.refuse_routing(rcpt)
        } else {
            let decided = self.inner.engine.decide_cached(&self.question(rcpt));
            let refusal = decided.as_ref().ok().and_then(refusal);
            match refusal {
                Some(reply) => reply,
                None => {
                    self.flush().await?;
                    Box::pin(self.recipient_by_server(rcpt, decided)).await
                }
            }
        };
        self.session.answer(&reply);
        if self.session.output() >= WRITE_AHEAD { self.flush().await } else { Ok(()) }
    }

    /// Whatever is kept of such a recipient, and whatever its domain's lists say of it: the server behind must not see it.
    fn refuse_routing(&self, rcpt: &Rcpt) -> Reply {
        let reply = say(550, (5, 7, 1), "Relaying denied: sender-specified routing is not accepted here");
        tracing::info!(
            target: "callahead::message",
            client = %self.session.client().address,
            sender = self.session.mail().map(|mail| mail.sender.as_str()),
            recipient = %String::from_utf8_lossy(&rcpt.address),
            reply = %reply,
            "the recipient's address names a way of its own"
        );
        reply
    }

    fn question<'q>(&'q self, rcpt: &'q Rcpt) -> Question<'q> {
        // A trusted client that does not say for whom it speaks is an MTA with many clients: those that guess among them are not known.
        let client = self.session.client().address;
        Question {
            client: (!self.in_force.settings.trusts(client)).then_some(client),
            sender: self.session.mail().map(|mail| mail.sender.as_str()),
            ..Question::new(&rcpt.address, Listener::Gateway)
        }
    }

    /// Answers RCPT where somebody has to be asked: the destination, by a callout, or the server that the transaction is repeated at.
    async fn recipient_by_server(&mut self, rcpt: &Rcpt, decided: Result<Decision, Unanswered>) -> Reply {
        let Some(mail) = self.session.mail().cloned() else { return say(503, (5, 5, 1), "RCPT comes behind MAIL") };
        let decision = match decided {
            Ok(decision) => decision,
            Err(unanswered) => self.inner.engine.decide_by_callout(&self.question(rcpt), unanswered).await,
        };
        if let Some(reply) = refusal(&decision) {
            return reply;
        }
        let directory = self.inner.engine.directory();
        let Ok(recipient) = Recipient::parse_as_written(&rcpt.address) else { return relaying_denied() };
        let Some(domain) = directory.find(recipient.domain()) else { return relaying_denied() };
        let settings = &self.in_force.settings;
        let client = self.session.client().address;
        let relay = self.relay.get_or_insert_with(|| {
            let patience = Patience { step: settings.destination_timeout, end: settings.reply_timeout };
            Box::new(Relay::new(self.inner.callouts.clone(), patience, self.inner.ending.clone()))
        });
        // A trusted one that does not say for whom it speaks has many clients.
        relay.is_for((!settings.trusts(client)).then(|| network_of(client)));
        let reply = relay.recipient(&mail, rcpt, &recipient, domain).await;
        if reply.is_positive() {
            let message = self.message.get_or_insert_with(Box::default);
            message.count += 1;
            if message.recipients.len() < RECIPIENTS_LOGGED {
                message.recipients.push(decision.recipient);
            }
        } else {
            tracing::info!(
                target: "callahead::message",
                client = %self.session.client().address,
                sender = mail.sender.as_str(),
                recipient = decision.recipient,
                reply = %reply,
                "the recipient's server did not accept it"
            );
        }
        reply
    }

    async fn begin_message(&mut self, chunked: bool) -> Result<(), Reply> {
        let message = self.message.get_or_insert_with(Box::default);
        message.began = Instant::now();
        message.chunks_begun = chunked;
        let smtputf8 = self.session.mail().is_some_and(|mail| mail.smtputf8);
        let node = &self.in_force.terms.node;
        let trace = trace::received(self.session.client(), node, smtputf8, &message.id, self.inner.engine.now().0);
        let Some(relay) = &mut self.relay else { return Err(lost()) };
        relay.begin_message(chunked, &trace).await?;
        if let Some(refusal) = self.session.mail().and_then(|mail| relay.refusal_of_header(mail)) {
            self.session.want_ascii_header(refusal);
        }
        Ok(())
    }

    fn abandon(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.abandon();
        }
    }

    async fn start_tls(&mut self) -> Result<(), End> {
        self.flush().await?;
        let Some(tls) = &self.in_force.tls else { return Err(End::Gone) };
        let acceptor = TlsAcceptor::from(tls.config());
        let Wire::Plain(stream) = std::mem::replace(&mut self.wire, Wire::Neither) else { return Err(End::Gone) };
        match timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                self.wire = Wire::Tls(Box::new(stream));
                self.session.encrypted();
                self.abandon();
                self.message = None;
                Ok(())
            }
            Ok(Err(error)) => {
                tracing::debug!(client = %self.session.client().address, %error, "a TLS handshake failed");
                Err(End::Gone)
            }
            Err(_) => {
                count(&self.counters.timed_out);
                Err(End::Gone)
            }
        }
    }

    // === the log ===

    /// A message came to its end: one event, and counted.
    fn finished(&mut self, finished: &Finished) {
        let Some(message) = self.message.take() else { return };
        let relayed = finished.reply.is_positive();
        count(if relayed { &self.counters.messages_relayed } else { &self.counters.messages_refused });
        let client = self.session.client();
        tracing::info!(
            target: "callahead::message",
            id = message.id,
            client = %client.address,
            helo = client.helo.as_deref(),
            encrypted = client.encrypted,
            sender = self.session.mail().map(|mail| mail.sender.as_str()),
            recipients = message.recipients.join(" "),
            recipient_count = message.count,
            size = self.session.octets(),
            destination = self.relay.as_ref().and_then(|relay| relay.destination()),
            reply = %finished.reply,
            said = finished.said.as_ref().map(ToString::to_string),
            ms = (message.began.elapsed().as_secs_f64() * 1e6).round() / 1e3,
            "{}",
            if relayed { "message relayed" } else { "message not relayed" }
        );
    }

    /// A message that will not come to its end.
    fn log_unfinished(&mut self, why: &str) {
        if self.session.octets() == 0 {
            return;
        }
        if let Some(message) = self.message.take() {
            count(&self.counters.messages_refused);
            tracing::info!(
                target: "callahead::message",
                id = message.id,
                client = %self.session.client().address,
                recipients = message.recipients.join(" "),
                size = self.session.octets(),
                "message not relayed: {why}"
            );
        }
    }
}

/// What is said to a recipient that is not to be relayed to; `None` where it is.
fn refusal(decision: &Decision) -> Option<Reply> {
    let answer = &decision.answer;
    match (answer.action, answer.code) {
        (Action::Accept, _) => None,
        (Action::None, _) => Some(relaying_denied()),
        (_, Some(code)) => Some(Reply::new(code, answer.enhanced, &answer.text)),
        (_, None) => Some(say(451, (4, 3, 0), "The recipient can't be verified now; try again later")),
    }
}

fn relaying_denied() -> Reply {
    say(550, (5, 7, 1), "Relaying denied: that domain's mail is not taken here")
}

impl<S> Drop for Connection<'_, S> {
    fn drop(&mut self) {
        if self.session.octets() > 0 && self.message.take().is_some() {
            count(&self.counters.messages_refused);
            tracing::info!(
                target: "callahead::message",
                client = %self.session.client().address,
                size = self.session.octets(),
                "message not relayed: the connection ended within it"
            );
        }
    }
}

impl Default for Message {
    fn default() -> Self {
        let id = format!("{:016x}", rand::rng().random::<u64>());
        Self { id, began: Instant::now(), chunks_begun: false, recipients: Vec::new(), count: 0 }
    }
}

// === impl Wire ===

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Neither => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::Neither => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Neither => Poll::Ready(Ok(())),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Neither => Poll::Ready(Ok(())),
        }
    }
}
