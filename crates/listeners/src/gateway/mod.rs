//! The gateway: a filtering server without an MTA of its own. SMTP comes in, and goes out while it comes in.
//!
//! The way of a message:
//!
//! 1. A client connects. Where a load balancer stands before us its PROXY header comes first ([`proxy`]).
//! 2. [`session::Session`] reads commands ([`command`]) and keeps their order, their number and their length within bounds. It has no
//!    socket: octets in, events and replies out. The loop around it is in `connection`.
//! 3. At RCPT the engine decides. A recipient that it accepts is repeated live at the domain's relay or route (`relay`), with the real
//!    sender and its parameters; so what the client is told is what that server has just said.
//! 4. DATA or BDAT: the content passes [`content::Guard`], gets one Received line (`trace`), and goes out as it comes, at the pace
//!    at which the server takes it. The reply to its end is the server's.
//!
//! There is no queue. Until the server has said 250 the client has the message; if anything goes wrong before that the client is told
//! to come again, and the connection to the server is closed within the message, so that nothing is delivered that was not
//! acknowledged. The one case that SMTP can't tell is a lost reply to the end (RFC 1047): then the client comes again too, and the
//! message may arrive twice.
//!
//! # Trust
//!
//! Nothing that a client sends is trusted. It is bounded by [`Settings`] and the `MAX_` constants; a line ends in CR LF and content in
//! CR LF `.` CR LF and nothing else; what could be read in another way by another server is refused. Nobody relays to a domain
//! that is not configured, however the address is spelled: only a [`Recipient`](callahead_smtp::Recipient) in a configured domain is ever
//! written into a RCPT, and none whose local part is an address again (`routing`), which the server behind might send on. XCLIENT and PROXY headers count only from [`Settings::trusted`] networks.

mod clients;
pub mod command;
mod connection;
pub mod content;
pub mod proxy;
mod relay;
mod routing;
pub mod session;
mod trace;
mod wording;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use callahead_callout::Callouts;
use callahead_engine::Engine;
use callahead_smtp::Domain;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{Accepting, Open};
use crate::listen::{Bound, Stream};
use crate::seldom::Seldom;
use crate::server::Counters;
use crate::tls::TlsServer;

/// For a client beyond [`Settings::connections`].
const TOO_MANY: &[u8] = b"421 4.7.0 Too many connections; try again later\r\n";
/// How long a stop waits for the QUITs to servers once all clients are gone.
const QUIT_WITHIN: Duration = Duration::from_secs(3);

/// What the gateway allows. [`Default`] has the documented values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Networks whose XCLIENT and PROXY headers count, and that may have any number of connections. Default none.
    pub trusted: Vec<IpNet>,
    /// Every connection begins with a PROXY header. Default no.
    pub proxy_protocol: bool,
    /// DSN is offered. Default no: without a queue the gateway can't send the notification that RFC 3461 5.2.2 wants where a server
    /// behind it has no DSN. Not offered, the client sends that itself.
    pub dsn: bool,
    /// Connections at the same time; further ones get a 421. Default 10,000. Takes effect at the start.
    pub connections: usize,
    /// Of them, from one client: an IPv4 address, or the /64 of an IPv6 one. Default 20: fewer than the sessions that a server behind is
    /// given, so that one slow client does not have them all.
    pub connections_per_client: usize,
    /// Commands in a session. Default 5,000.
    pub commands: u32,
    /// Commands in a session that are none, or out of order. Default 20.
    pub errors: u32,
    /// Recipients in a transaction. Default 1,000 (RFC 5321 4.5.3.1.8 wants 100 at least).
    pub recipients: usize,
    /// Octets in a message. Default 50 MiB.
    pub message_size: u64,
    /// For the next whole command; within a transaction for the next that brings it on, which NOOP does not. Default 5 min (RFC 5321 4.5.3.2.7).
    pub command_timeout: Duration,
    /// For the next part of a message, and for replies to be read. Default 3 min (RFC 5321 4.5.3.2.5).
    pub data_timeout: Duration,
    /// For a session. Default 1 h.
    pub session_timeout: Duration,
    /// For each step of a recipients' server but the last. Default 90 s, below the 2 min that clients wait for the reply to DATA
    /// (RFC 5321 4.5.3.2.4).
    pub destination_timeout: Duration,
    /// For its reply to the message, from when the client's end of it came. Default 9 min, below the 10 that clients wait (RFC 5321
    /// 4.5.3.2.6): so they hear of it.
    pub reply_timeout: Duration,
    /// How long a stop waits for transactions that are under way. Default 35 s.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            trusted: Vec::new(),
            proxy_protocol: false,
            dsn: false,
            connections: 10_000,
            connections_per_client: 20,
            commands: 5000,
            errors: 20,
            recipients: 1000,
            message_size: 50 << 20,
            command_timeout: MINUTE * 5,
            data_timeout: MINUTE * 3,
            session_timeout: MINUTE * 60,
            destination_timeout: Duration::from_secs(90),
            reply_timeout: MINUTE * 9,
            grace: Duration::from_secs(35),
        }
    }
}

impl Settings {
    /// Whether an address is in one of the trusted networks.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// Settings with what sessions share of them.
struct InForce {
    settings: Settings,
    tls: Option<TlsServer>,
    terms: Arc<session::Terms>,
}

impl InForce {
    fn new(node: Domain, tls: Option<TlsServer>, settings: Settings) -> Self {
        let terms = session::Terms {
            node,
            message_size: settings.message_size,
            commands: settings.commands,
            errors: settings.errors,
            recipients: settings.recipients,
            dsn: settings.dsn,
            starttls: tls.is_some(),
        };
        Self { settings, tls, terms: Arc::new(terms) }
    }
}

/// The gateway. Clones share everything.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    callouts: Callouts,
    in_force: ArcSwap<InForce>,
    clients: clients::Clients,
    /// Sessions with servers that are being ended.
    ending: TaskTracker,
    /// Connections without the PROXY header that they have to begin with.
    headerless: Seldom,
    room: Arc<Semaphore>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("settings", &self.inner.in_force.load().settings).finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway that decides by this engine and connects by these callouts' way. `node` is its name: in the greeting and in Received.
    /// `tls` is for STARTTLS, which is not offered without.
    pub fn new(engine: Engine, callouts: Callouts, node: Domain, tls: Option<TlsServer>, settings: Settings) -> Self {
        let room = Arc::new(Semaphore::new(settings.connections));
        let inner = Inner {
            engine,
            callouts,
            in_force: ArcSwap::from_pointee(InForce::new(node, tls, settings)),
            clients: clients::Clients::default(),
            ending: TaskTracker::new(),
            headerless: Seldom::default(),
            room,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The settings for sessions from now on; those that are open keep theirs. The bound on all connections stays, and the name.
    pub fn reconfigure(&self, tls: Option<TlsServer>, settings: Settings) {
        let node = self.inner.in_force.load().terms.node.clone();
        self.inner.in_force.store(Arc::new(InForce::new(node, tls, settings)));
    }

    /// What is shown to clients at STARTTLS from now on.
    pub fn tls(&self) -> Option<TlsServer> {
        self.inner.in_force.load().tls.clone()
    }

    /// Serves a place until `shutdown`. Then nobody is accepted, clients without a transaction get a 421, and transactions have
    /// [`Settings::grace`] to come to their end.
    pub async fn serve(self, bound: Bound, shutdown: CancellationToken) {
        let counters = bound.counters();
        let mut accepting = Accepting::new("gateway", bound, Arc::clone(&self.inner.room));
        while let Some((stream, permit)) = accepting.next(&shutdown, TOO_MANY).await {
            // The configuration lets no Unix socket through: a client without an address can't be written down.
            let Stream::Tcp(stream) = stream else { continue };
            // One that has no address any more is gone already.
            let Ok(peer) = stream.peer_addr() else { continue };
            let (gateway, counters, shutdown) = (self.clone(), Arc::clone(&counters), shutdown.child_token());
            accepting.spawn(async move {
                gateway.handle(stream, peer.ip(), &counters, shutdown).await;
                drop(permit);
            });
        }
        // What is cut off then within a message is delivered nowhere. Where the server had its end already nobody can tell, as after a lost reply.
        accepting.finish(self.inner.in_force.load().settings.grace).await;
        self.inner.ending.close();
        let _ = tokio::time::timeout(QUIT_WITHIN, self.inner.ending.wait()).await;
    }

    /// Serves one connection from `peer`, to its end.
    pub async fn handle<S>(&self, stream: S, peer: IpAddr, counters: &Arc<Counters>, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let _open = Open::count(counters);
        connection::serve(&self.inner, stream, peer.to_canonical(), counters, shutdown).await;
    }
}
