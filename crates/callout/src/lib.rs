//! The recipient callout: asks a destination whether it would take mail for a recipient, and sends none.
//!
//! The way of a question:
//!
//! 1. [`Callouts::ask`](Ask::ask) goes through the [`Route`]'s hops; `mx` is resolved to hosts ([`Resolve`]).
//! 2. For each host it takes a session from the host's pool, or opens one: dial ([`Dial`]), greeting, EHLO, STARTTLS.
//! 3. On the session it says `MAIL FROM:<>` and `RCPT TO`, with a random local part asked before where that is wanted; in one
//!    write where the host offers PIPELINING. There is no DATA.
//! 4. The session goes back to the pool, or ends in QUIT.
//!
//! What comes back is an [`Outcome`]. Only [`Outcome::Rejected`] and [`Outcome::NullMx`] speak against a recipient; every
//! fault ends in [`Outcome::Unreachable`], which says nothing of it.
//!
//! Whoever relays mail gets a session of its own by [`Callouts::connect`], by the same way: hops, MX, addresses, STARTTLS, EHLO.
//! What is said in it from MAIL on is the caller's affair ([`ClientSession`]).
//!
//! Time is `tokio::time`; the network is behind [`Dial`] and [`Resolve`]; random local parts come from a [`Probe`]. So tests run
//! under simulated time over a network in memory.

mod breaker;
mod callouts;
mod client;
mod dial;
mod dialogue;
mod exchangers;
mod guard;
mod outcome;
mod pool;
mod probe;
mod refusal;
mod resolve;
mod route;
mod route_test;
mod session;
mod settings;
mod tls;
mod transcript;
mod way;

pub use callouts::{Callouts, Totals};
pub use client::{ClientSession, ConnectError, For};
pub use dial::{BoxStream, Dial, Stream, TcpDialer};
pub use exchangers::RouteHost;
pub use guard::{Guard, GuardedDialer, GuardedResolver};
pub use outcome::{Ask, BoxFuture, Failure, HostFailure, Outcome, Report, Request, Step};
pub use pool::DestinationStatus;
pub use probe::{PersonProbe, Probe};
pub use refusal::Refusal;
pub use resolve::{DnsResolver, KEPT_FOR, MxAnswer, Resolve, ResolveError};
pub use route::{Hop, Host, Route, RouteError, TlsPolicy};
pub use session::Offers;
pub use settings::Settings;
pub use tls::{TlsClient, TlsError};
pub use transcript::{Transcript, TranscriptLine, Who};

pub use route_test::{HostTest, RouteTest, TestEvent, TestStep, TestedStep};
