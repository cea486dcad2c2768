//! The socket loop that all listeners share: accept, read, ask, answer in order, stop gracefully.
//!
//! Requests of one connection are worked on at the same time, up to [`Limits::pipeline`], and answered in
//! the order in which they came: one that needs a callout delays the answers behind it, but not their work. An answer that is
//! at hand is written without a task of its own.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, Write as _};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use callahead_engine::Answer;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;

use crate::accept::{Accepting, Open};
use crate::listen::{Bound, Stream};
use crate::reader::{Format, Reader};

/// What one listener allows its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time; further ones are closed at once, and logged. Default 10,000.
    pub connections: usize,
    /// How long a connection may go without a whole request, at least; a tenth more at most. Default 10 min: Postfix keeps its own open
    /// for 5 (`smtpd_policy_service_max_idle`), and the client should be the one who closes.
    pub idle: Duration,
    /// How long a client may take to read an answer. Default 30 s.
    pub write: Duration,
    /// Requests of one connection that are worked on at the same time. Default 32.
    pub pipeline: usize,
    /// How long a stop waits for answers that are under way. Default 35 s: the default of the engine's deadline and some; the daemon gives what
    /// its own deadline needs.
    pub grace: Duration,
}

/// What one listener has seen, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that are open.
    pub open: AtomicU64,
    /// Connections accepted since the start.
    pub accepted: AtomicU64,
    /// Connections closed at once because [`Limits::connections`] were open.
    pub refused: AtomicU64,
    /// Connections closed because what came was no request.
    pub malformed: AtomicU64,
    /// Connections closed because no request came, or its answer was not read, in time.
    pub timed_out: AtomicU64,
    /// Requests answered; in the gateway, commands.
    pub requests: AtomicU64,
    /// Messages that a recipients' server accepted; the gateway's only.
    pub messages_relayed: AtomicU64,
    /// Messages that were begun and not accepted, whoever refused them; the gateway's only.
    pub messages_refused: AtomicU64,
}

/// A protocol: how its requests are read, and what is replied.
pub(crate) trait Protocol: Send + Sync + 'static {
    const NAME: &'static str;
    /// Whether the client sends things that get no answer. They are acknowledged at once then; see [`Stream::acknowledge`].
    const HAS_QUIET_STEPS: bool = false;
    type Format: Format<Request: Send, Error: Send> + Send;
    /// Writes the reply behind `output` where it is at hand; else it is worked on.
    fn reply(&self, request: <Self::Format as Format>::Request, output: &mut Vec<u8>) -> Option<Replying>;
}

/// A reply that is being worked on.
pub(crate) type Replying = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// Octets read at once.
const CHUNK: usize = 4096;
/// Octets of requests that may wait behind a full pipeline before reading stops.
const READ_AHEAD: usize = 64 * 1024;
/// Octets of replies that are gathered before they are written.
const WRITE_AHEAD: usize = 64 * 1024;
/// How long a connection is still read when the listener stops, for requests that were sent and had not arrived. It can't
/// be nothing: that bytes have arrived is only known after a turn of the runtime.
const LINGER: Duration = Duration::from_millis(50);
/// Parts that [`Limits::idle`] is counted in: so a request costs no look at the clock.
const IDLE_PARTS: u32 = 10;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            idle: Duration::from_secs(600),
            write: Duration::from_secs(30),
            pipeline: 32,
            grace: Duration::from_secs(35),
        }
    }
}

pub(crate) async fn serve<P: Protocol>(bound: Bound, protocol: P, limits: Limits, shutdown: CancellationToken) {
    let counters = bound.counters();
    let protocol = Arc::new(protocol);
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut accepting = Accepting::new(P::NAME, bound, room);
    while let Some((stream, permit)) = accepting.next(&shutdown, b"").await {
        let open = Open::count(&counters);
        let connection = Connection {
            protocol: Arc::clone(&protocol),
            peer: stream.peer(),
            stream,
            limits,
            counters: Arc::clone(&counters),
            reader: Reader::default(),
            pending: VecDeque::new(),
            output: Vec::new(),
        };
        // One of its own: all connections wait for the stop, and would take turns at one token's lock.
        let shutdown = shutdown.child_token();
        accepting.spawn(async move {
            connection.run(shutdown).await;
            drop((open, permit));
        });
    }
    accepting.finish(limits.grace).await;
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

// === one connection ===

struct Connection<P: Protocol> {
    protocol: Arc<P>,
    peer: String,
    stream: Stream,
    limits: Limits,
    counters: Arc<Counters>,
    reader: Reader<P::Format>,
    /// In the order of their requests.
    pending: VecDeque<Pending>,
    output: Vec<u8>,
}

enum Pending {
    Waiting(Replying),
    Ready(Vec<u8>),
}

/// Why a connection ends.
enum End {
    /// The client has closed its side.
    Closed,
    /// We are stopping.
    Stopping,
    /// What came is no request.
    Malformed(String),
    /// No request in time, or an answer that was not read.
    TimedOut,
    /// The connection is gone.
    Broken,
}

impl<P: Protocol> Connection<P> {
    async fn run(mut self, shutdown: CancellationToken) {
        let end = match self.talk(&shutdown).await {
            // What was asked before is still answered.
            end @ (End::Closed | End::Stopping | End::Malformed(_)) => match (end, self.finish().await) {
                (end @ End::Malformed(_), _) | (end, Ok(())) => end,
                (_, Err(worse)) => worse,
            },
            end => end,
        };
        match end {
            End::Malformed(error) => {
                count(&self.counters.malformed);
                tracing::warn!(
                    listener = P::NAME,
                    client = self.peer,
                    error,
                    "what came is no request: the connection is closed, which the client takes for a temporary failure"
                );
            }
            End::TimedOut => {
                count(&self.counters.timed_out);
                tracing::debug!(listener = P::NAME, client = self.peer, "connection closed: the client took too long");
            }
            End::Closed if self.reader.has_partial() => {
                tracing::debug!(listener = P::NAME, client = self.peer, "the client closed within a request");
            }
            End::Closed | End::Stopping | End::Broken => {}
        }
        let _ = tokio::time::timeout(self.limits.write, self.stream.shutdown()).await;
    }

    /// Reads and answers until there is a reason to end.
    async fn talk(&mut self, shutdown: &CancellationToken) -> End {
        let mut chunk = vec![0; CHUNK];
        let part = self.limits.idle / IDLE_PARTS;
        let mut parts_quiet = 0;
        // Set again when it has run out, and not for each request: most requests come long before. The first part has any length, so that
        // thousands of connections that were opened together do not ring together ever after.
        let mut quiet = pin!(tokio::time::sleep(part.mul_f32(rand::random())));
        let mut stopping = pin!(shutdown.cancelled());
        loop {
            match self.advance().await {
                Ok(true) => {
                    parts_quiet = 0;
                    continue;
                }
                Ok(false) => {}
                Err(end) => return end,
            }
            if self.reader.is_over() {
                return End::Closed;
            }
            let may_read = self.reader.buffered() < READ_AHEAD;
            let waits = !self.pending.is_empty();
            tokio::select! {
                biased;
                () = &mut stopping => {
                    self.read_last(&mut chunk).await;
                    return End::Stopping;
                }
                () = first_ready(&mut self.pending), if waits => {}
                read = self.stream.read(&mut chunk), if may_read => match read {
                    Ok(0) => return End::Closed,
                    Ok(length) => {
                        self.reader.push(&chunk[..length]);
                        if P::HAS_QUIET_STEPS {
                            self.stream.acknowledge();
                        }
                    }
                    Err(_) => return End::Broken,
                },
                // Only whole requests count: bytes that trickle in don't hold a connection open.
                () = &mut quiet, if !waits => {
                    // The first part may have begun long before the last request.
                    parts_quiet += 1;
                    if parts_quiet > IDLE_PARTS {
                        return End::TimedOut;
                    }
                    quiet.as_mut().reset(Instant::now() + part);
                }
            }
        }
    }

    /// Answers everything that was asked, reading no more.
    async fn finish(&mut self) -> Result<(), End> {
        loop {
            match self.advance().await {
                Ok(true) => {}
                Ok(false) | Err(End::Malformed(_)) if self.pending.is_empty() => return Ok(()),
                Ok(false) | Err(End::Malformed(_)) => first_ready(&mut self.pending).await,
                Err(end) => return Err(end),
            }
        }
    }

    /// Starts on the requests that are whole, while the pipeline has room, and writes the answers that are at hand.
    /// Whether it did anything, so that there may be more to do.
    async fn advance(&mut self) -> Result<bool, End> {
        let mut malformed = None;
        let mut taken = false;
        while self.pending.len() < self.limits.pipeline.max(1) && self.output.len() < WRITE_AHEAD {
            match self.reader.read() {
                Ok(Some(request)) if self.pending.is_empty() => {
                    let before = self.output.len();
                    match self.protocol.reply(request, &mut self.output) {
                        Some(replying) => self.pending.push_back(Pending::Waiting(replying)),
                        None if self.output.len() > before => count(&self.counters.requests),
                        // Of some things that a protocol says nobody wants to hear an answer.
                        None => {}
                    }
                }
                // Behind one that waits, a reply that is at hand has to wait too.
                Ok(Some(request)) => {
                    let mut reply = Vec::new();
                    let replying = self.protocol.reply(request, &mut reply);
                    self.pending.push_back(replying.map_or(Pending::Ready(reply), Pending::Waiting));
                }
                Ok(None) => break,
                Err(error) => {
                    malformed = Some(End::Malformed(error.to_string()));
                    break;
                }
            }
            taken = true;
            // What is at hand waits for nothing: a client that sends thousands of requests would have the thread until the last.
            tokio::task::consume_budget().await;
        }
        if !self.pending.is_empty() {
            poll_fn(|cx| {
                poll_all(&mut self.pending, cx);
                Poll::Ready(())
            })
            .await;
        }
        while let Some(Pending::Ready(reply)) = self.pending.pop_front_if(|one| matches!(one, Pending::Ready(_))) {
            if !reply.is_empty() {
                count(&self.counters.requests);
            }
            self.output.extend_from_slice(&reply);
        }
        let writes = !self.output.is_empty();
        if writes {
            let written = self.write().await;
            self.output.clear();
            written?;
        }
        malformed.map_or(Ok(taken || writes), Err)
    }

    /// Writes what is in `output`.
    async fn write(&mut self) -> Result<(), End> {
        match write_within(&mut self.stream, &self.output, self.limits.write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Broken),
            Err(_) => Err(End::TimedOut),
        }
    }

    /// Takes what the client sent before it could know of the stop.
    async fn read_last(&mut self, chunk: &mut [u8]) {
        let until = Instant::now() + LINGER;
        while self.reader.buffered() < READ_AHEAD {
            match tokio::time::timeout_at(until, self.stream.read(chunk)).await {
                Ok(Ok(length)) if length > 0 => self.reader.push(&chunk[..length]),
                _ => return,
            }
        }
    }
}

/// Writes all of it, and sees it on its way; gives what the system says of it. Nearly always that is at once, and no timer is set.
///
/// # Errors
/// Where it is not taken in time.
pub(crate) async fn write_within<S>(stream: &mut S, bytes: &[u8], patience: Duration) -> Result<io::Result<()>, Elapsed>
where
    S: AsyncWrite + Unpin,
{
    let mut writing = pin!(async {
        stream.write_all(bytes).await?;
        stream.flush().await
    });
    match poll_fn(|context| Poll::Ready(writing.as_mut().poll(context))).await {
        Poll::Ready(written) => Ok(written),
        Poll::Pending => tokio::time::timeout(patience, writing).await,
    }
}

/// Resolves when the first in order is ready. All are worked on meanwhile. Cancel-safe.
async fn first_ready(pending: &mut VecDeque<Pending>) {
    poll_fn(|cx| {
        poll_all(pending, cx);
        match pending.front() {
            Some(Pending::Waiting(_)) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
}

fn poll_all(pending: &mut VecDeque<Pending>, cx: &mut std::task::Context<'_>) {
    for one in pending {
        if let Pending::Waiting(replying) = one
            && let Poll::Ready(reply) = replying.as_mut().poll(cx)
        {
            *one = Pending::Ready(reply);
        }
    }
}

// === words that protocols share ===

/// Puts code, enhanced code and text behind what is there, as one line, with what is missing filled in.
pub(crate) fn status(answer: &Answer, code: u16, enhanced: &str, output: &mut Vec<u8>) {
    let code = answer.code.unwrap_or(code);
    // Writing into memory does not fail.
    let _ = match &answer.enhanced {
        Some(enhanced) => write!(output, "{code} {enhanced} "),
        None => write!(output, "{code} {enhanced} "),
    };
    output.extend_from_slice(one_line(&answer.text).as_bytes());
}

/// The text without anything that could end its line: the engine's texts have nothing of that kind, and a line that
/// splits would be a second answer.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    // What is printable ASCII needs no look at each character.
    if text.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}
