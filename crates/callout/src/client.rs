//! A session for whoever relays mail: opened by the same way as a callout's, and said in it is what the caller writes.
//!
//! [`Callouts::connect`] goes through a route's hops until a host has greeted, answered EHLO, encrypted where the route
//! says so, and offered what the mail needs. The session belongs to the caller alone: it is not in the pool, and it does not count against a callout's
//! bounds but has one of its own ([`Settings::relays_per_destination`](crate::Settings::relays_per_destination)). Commands and content are the caller's octets; replies are read by the same reader, with the same limits, as a callout's.
//!
//! A session that is dropped closes its connection without a word. That is what has to happen in the middle of a message that
//! shall not be delivered; everywhere else it is ended by [`ClientSession::quit`].

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use callahead_smtp::{Domain, Reply};
use tokio::time::{Instant, timeout_at};

use crate::callouts::Callouts;
use crate::outcome::{Failure, HostFailure, Step};
use crate::pool::{HostPool, RelayPlace};
use crate::refusal::Refusal;
use crate::route::{Route, TlsPolicy};
use crate::session::{Offers, Session, Surplus};
use crate::transcript::Transcript;
use crate::way::{Next, Walk};

/// An open session, greeted and past EHLO.
pub struct ClientSession {
    session: Session,
    destination: String,
    quit_timeout: Duration,
    others_unknown: bool,
    pool: Arc<HostPool>,
    _place: RelayPlace,
}

/// For whom a session is opened, and for what.
#[derive(Clone, Copy, Debug, Default)]
pub struct For {
    /// The network of the client that has its mail relayed, where it is one of many: it takes a place at a host only while it has fewer than are free.
    pub client: Option<IpAddr>,
    /// The mail may need SMTPUTF8: a host that offers it is preferred to those before it in the route.
    pub smtputf8: bool,
}

/// Why no session could be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The domain's null MX (RFC 7505), and the route is nothing but the MX.
    #[error("the domain has a null MX: it takes no mail")]
    NullMx,
    /// No host of the route could be used: what each did.
    #[error("no host could be used: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unreachable(Vec<HostFailure>),
}

impl Callouts {
    /// Opens a session with the first host of a route that can be used, or of those the first that offers what the mail needs. `domain` is the
    /// recipient's, for a hop that is its MX.
    ///
    /// A host that failed before is left alone by the circuit breaker that callouts have too.
    ///
    /// # Errors
    /// When there is no such host before the deadline.
    pub async fn connect(
        &self,
        route: &Route,
        domain: &Domain,
        whom: For,
        deadline: Instant,
    ) -> Result<ClientSession, ConnectError> {
        let settings = self.inner.settings();
        let mut transcript = Transcript::none();
        let mut walk = Walk::new(route, domain, deadline);
        // The first without what the mail needs, and whether another can't be told not to have it.
        let mut unfit: Option<ClientSession> = None;
        let mut others_unknown = false;
        loop {
            let (key, until) = match walk.next(&self.inner, &settings, &mut transcript).await {
                Next::Host(key, until) => (key, until),
                Next::NullMx => return Err(ConnectError::NullMx),
                Next::End => {
                    others_unknown |= !walk.failures.is_empty();
                    let unfit = unfit.map(|session| ClientSession { others_unknown, ..session });
                    return unfit.ok_or(ConnectError::Unreachable(walk.failures));
                }
            };
            let pool = self.inner.pool(&key);
            let failed = |failure, reply| HostFailure { host: pool.name.clone(), failure, reply };
            // Before the breaker is asked, so that nobody waits who is the one to see whether the host is back.
            let place = match pool.relay(whom.client, &settings, until).await {
                Ok(place) => place,
                Err(failure) => {
                    walk.failures.push(failed(failure, None));
                    continue;
                }
            };
            let admission = match pool.admit() {
                Ok(admission) => admission,
                Err(failure) => {
                    walk.failures.push(failed(failure, None));
                    continue;
                }
            };
            let began = Instant::now();
            match self.inner.open(&key, &pool, &settings, until, &mut transcript).await {
                Ok(mut session) => {
                    admission.succeeded();
                    // A callout may have found that it offers what it can't do.
                    session.offers.pipelining &= pool.pipelines();
                    let destination = pool.name.clone();
                    let quit_timeout = settings.quit_timeout;
                    let session = ClientSession {
                        session,
                        destination,
                        quit_timeout,
                        others_unknown: false,
                        pool,
                        _place: place,
                    };
                    if !whom.smtputf8 || session.offers().smtputf8 {
                        if let Some(unfit) = unfit {
                            tokio::spawn(unfit.quit());
                        }
                        return Ok(session);
                    }
                    match &unfit {
                        None => unfit = Some(session),
                        Some(_) => {
                            // Nothing at all is what is offered by HELO, if only this once.
                            others_unknown |= session.offers() == Offers::default();
                            tokio::spawn(session.quit());
                        }
                    }
                }
                Err(trouble) => {
                    let failure = failed(trouble.failure, trouble.reply);
                    admission.failed(&failure, began, &settings);
                    walk.failures.push(failure);
                }
            }
        }
    }
}

impl ClientSession {
    /// What the host offered in its reply to EHLO.
    pub fn offers(&self) -> Offers {
        self.session.offers
    }

    /// Whether a host of the route may offer what this one, which was the best, lacks: it could not be opened, or not by EHLO.
    pub fn others_may_offer_more(&self) -> bool {
        self.others_unknown
    }

    /// `host:port`, as the route or the MX names it.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Whether the policy wanted TLS, the host offered it, and it did not come about: what is refused then may be refused for that alone.
    pub fn is_in_clear_for_want_of_tls(&self, policy: TlsPolicy) -> bool {
        self.session.is_in_clear_for_want_of_tls(policy)
    }

    /// It refuses in clear what it may want encryption for: TLS is tried again, by callouts too.
    pub fn try_tls_again(&self) {
        self.pool.try_tls_again(self.quit_timeout);
    }

    /// Whether callouts know that the host refuses a session's first recipient so: then it does not refuse for what was asked before.
    pub fn knows(&self, refusal: &Refusal) -> bool {
        self.pool.knows(refusal)
    }

    /// Writes commands, each with its CRLF.
    ///
    /// # Errors
    /// When the host has said something unasked, has gone, or does not take them in time.
    pub async fn send(&mut self, step: Step, commands: &[u8], deadline: Instant) -> Result<(), Failure> {
        let sent = self.session.send(step, commands, deadline, &mut Transcript::none()).await;
        sent.map_err(|trouble| trouble.failure)
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// When there is none in time, or none that is one. A 421 is such an error, since it is the session's end (RFC 5321 4.2.3).
    pub async fn reply(&mut self, step: Step, deadline: Instant) -> Result<Reply, Failure> {
        let reply = self.session.reply(step, deadline, &mut Transcript::none()).await;
        reply.map_err(|trouble| trouble.failure)
    }

    /// Writes a part of a message. Nothing is kept of it.
    ///
    /// # Errors
    /// When the host has gone, or does not take it in time.
    pub async fn write(&mut self, content: &[u8], deadline: Instant) -> Result<(), Failure> {
        match timeout_at(deadline, self.session.write(content)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Failure::Closed(Step::Message)),
            Err(_) => Err(Failure::Timeout(Step::Message)),
        }
    }

    /// Whether it is as it was left: neither closed nor told anything meanwhile. Does not wait.
    pub async fn is_quiet(&mut self) -> bool {
        self.session.is_quiet().await
    }

    /// Whether it has said more than it was asked, so that of a pipelined group nobody can tell which reply answers which command. Does
    /// not wait.
    pub async fn said_too_much(&mut self) -> bool {
        self.session.what_else_came(&mut Transcript::none()).await == Surplus::Reply
    }

    /// The host offers PIPELINING and can't do it: further sessions with it, callouts' too, do without.
    pub fn learn_no_pipelining(&self) {
        self.pool.learn_no_pipelining();
    }

    /// Ends it: QUIT, and a wait for the reply of at most 2 s.
    pub async fn quit(self) {
        self.session.quit(self.quit_timeout, None).await;
    }
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession").field("destination", &self.destination).finish_non_exhaustive()
    }
}
