//! From a hop to a session: the hosts of an MX, the addresses of a host, and the first of them that can be talked to.
//!
//! Callouts and whoever relays mail ([`Callouts::connect`](crate::Callouts::connect)) go this way alike.

use std::net::SocketAddr;

use callahead_smtp::{Domain, DomainName};
use tokio::time::{Instant, timeout_at};

use crate::callouts::{Inner, Key};
use crate::outcome::{Failure, HostFailure};
use crate::pool::HostPool;
use crate::resolve::{MxAnswer, interleave, order};
use crate::route::{Hop, Host, Route, TlsPolicy};
use crate::session::{Opening, Session, Trouble};
use crate::settings::Settings;
use crate::transcript::Transcript;

/// The hosts of a route in the order in which they are tried, and what was wrong with those that were.
pub(crate) struct Walk<'a> {
    route: &'a Route,
    /// Whose MX it is where the route says so.
    domain: &'a Domain,
    deadline: Instant,
    hops: std::slice::Iter<'a, Hop>,
    hosts: std::vec::IntoIter<(Host, u16)>,
    pub(crate) failures: Vec<HostFailure>,
}

/// Where a [`Walk`] leads next.
pub(crate) enum Next {
    /// To a host, until then.
    Host(Key, Instant),
    /// Nowhere: the MX is all that there is, and it is a null MX.
    NullMx,
    /// Nowhere: every host was tried.
    End,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(route: &'a Route, domain: &'a Domain, deadline: Instant) -> Self {
        Self { route, domain, deadline, hops: route.hops.iter(), hosts: Vec::new().into_iter(), failures: Vec::new() }
    }

    pub(crate) async fn next(&mut self, inner: &Inner, settings: &Settings, transcript: &mut Transcript) -> Next {
        loop {
            // A host that is left alone for want of time has done nothing; and whoever asked is gone.
            if !self.failures.is_empty() && Instant::now() >= self.deadline {
                return Next::End;
            }
            if let Some((host, port)) = self.hosts.next() {
                // Half of the time that is left, while there is somewhere else to go.
                let last = self.hosts.len() == 0 && self.hops.len() == 0;
                let left = self.deadline.saturating_duration_since(Instant::now());
                let until = if last { self.deadline } else { Instant::now() + left / 2 };
                return Next::Host(Key { host, port, tls: self.route.tls }, until);
            }
            let hosts = match self.hops.next() {
                None => return Next::End,
                Some(Hop::Host { host, port }) => vec![(host.clone(), *port)],
                // Boxed, since few questions come here, and all would carry the room for it.
                Some(Hop::Mx) => {
                    match Box::pin(inner.exchangers(self.domain, settings, self.deadline, transcript)).await {
                        // With other hops beside it, a null MX is no word on the domain: the administrator says where it is.
                        Ok(None) if self.route.hops.len() == 1 => return Next::NullMx,
                        Ok(hosts) => hosts.unwrap_or_default(),
                        Err(failure) => {
                            self.failures.push(failure);
                            continue;
                        }
                    }
                }
            };
            self.hosts = hosts.into_iter();
        }
    }
}

impl Inner {
    /// The hosts of the domain's MX, in order; `None` for a null MX.
    pub(crate) async fn exchangers(
        &self,
        domain: &Domain,
        settings: &Settings,
        deadline: Instant,
        transcript: &mut Transcript,
    ) -> Result<Option<Vec<(Host, u16)>>, HostFailure> {
        let port = settings.mx_port;
        let name: &DomainName = match domain {
            Domain::Name(name) => name,
            // RFC 5321 5.1: a literal is its own mail exchanger.
            Domain::Literal(literal) => {
                let address = match *literal {
                    callahead_smtp::AddressLiteral::V4(ip) => ip.into(),
                    callahead_smtp::AddressLiteral::V6(ip) => ip.into(),
                };
                return Ok(Some(vec![(Host::Address(address), port)]));
            }
        };
        let failed = |failure| HostFailure { host: name.to_string(), failure, reply: None };
        let within = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
        let answer = match timeout_at(within, self.resolve.mx(name)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(error.into())),
            Err(_) => return Err(failed(Failure::Resolve(format!("the DNS gave no answer for {name} in time")))),
        };
        let hosts = match answer {
            MxAnswer::Null => {
                transcript.note(format!("{name} has a null MX: it takes no mail"));
                return Ok(None);
            }
            MxAnswer::None => vec![name.clone()],
            // What is no host name was left out.
            MxAnswer::Hosts(hosts) if hosts.is_empty() => {
                return Err(failed(Failure::Resolve(format!("the MX of {name} names no host that can be asked"))));
            }
            MxAnswer::Hosts(hosts) => order(hosts, &settings.own_names),
        };
        if hosts.is_empty() {
            return Err(failed(Failure::OnlyOwnNames));
        }
        let shown: Vec<&str> = hosts.iter().map(DomainName::as_str).collect();
        transcript.note(format!("MX of {name}: {}", shown.join(", ")));
        let hosts: Vec<_> =
            hosts.into_iter().take(settings.hosts_per_mx).map(|host| (Host::Name(host), port)).collect();
        self.exchangers.found(name, &hosts);
        Ok(Some(hosts))
    }

    /// Opens a session with one of the host's addresses.
    pub(crate) async fn open(
        &self,
        key: &Key,
        pool: &HostPool,
        settings: &Settings,
        deadline: Instant,
        transcript: &mut Transcript,
    ) -> Result<Session, Trouble> {
        let began = Instant::now();
        let addresses = match &key.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => match timeout_at(deadline, self.resolve.addresses(name)).await {
                Ok(Ok(addresses)) => interleave(addresses),
                Ok(Err(error)) => return Err(Failure::from(error).into()),
                Err(_) => return Err(Failure::Resolve(format!("the DNS gave no answer for {name} in time")).into()),
            },
        };
        let addresses = &addresses[..addresses.len().min(settings.addresses_per_host)];
        let mut trouble = Trouble::from(Failure::Resolve(format!("{} has no address", pool.name)));
        for (nth, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let deadline = if nth + 1 == addresses.len() { deadline } else { Instant::now() + left / 2 };
            let address = SocketAddr::new(*address, key.port);
            let opportunistic = key.tls == TlsPolicy::Opportunistic;
            let policy = if opportunistic && !pool.tls_works() { TlsPolicy::Off } else { key.tls };
            let mut opening =
                Opening { dial: &*self.dial, tls: &self.tls, settings, host: &key.host, policy, deadline };
            pool.count_connection();
            let mut opened = opening.open(address, transcript).await;
            if let Err(Trouble { failure: Failure::TlsFailed(_), .. }) = &opened
                && opportunistic
            {
                transcript.note("going on in clear");
                pool.learn_no_tls();
                pool.count_connection();
                opening.policy = TlsPolicy::Off;
                opened = opening.open(address, transcript).await;
            }
            match opened {
                Ok(mut session) => {
                    // Whoever cleared meanwhile wants nothing of what was looked up before.
                    session.opened = began;
                    return Ok(session);
                }
                Err(next) => trouble = next,
            }
        }
        Err(trouble)
    }
}
