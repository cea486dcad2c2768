//! The hosts of a route as they were found last, and what is known of each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use callahead_smtp::{Domain, DomainName};
use tokio::time::Instant;

use crate::callouts::{Callouts, Key};
use crate::pool::DestinationStatus;
use crate::route::{Hop, Host, HostPort, Route};

/// Domains whose mail exchangers are remembered at most.
const MAX_DOMAINS: usize = 10_000;
/// How long they are remembered when nobody asks for them: pages that tell of them later would tell of another time.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Hosts of a route that are told of.
const MAX_SHOWN: usize = 40;

/// What the MX of each domain was, the last time that it was looked up.
#[derive(Debug, Default)]
pub(crate) struct Exchangers(Mutex<HashMap<DomainName, Found>>);

#[derive(Clone, Debug)]
struct Found {
    hosts: Vec<(Host, u16)>,
    at: Instant,
}

/// A host of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteHost {
    /// `host:port`.
    pub host: String,
    /// For a host that the MX names: the domain, and how long ago it was looked up.
    pub mx: Option<(DomainName, Duration)>,
    /// What is known of it; absent where it was not asked lately.
    pub status: Option<DestinationStatus>,
}

impl Exchangers {
    pub(crate) fn found(&self, domain: &DomainName, hosts: &[(Host, u16)]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(domain) && all.len() >= MAX_DOMAINS {
            all.retain(|_, found| found.at.elapsed() < FORGET_AFTER);
            if all.len() >= MAX_DOMAINS {
                return;
            }
        }
        all.insert(domain.clone(), Found { hosts: hosts.to_vec(), at: Instant::now() });
    }

    fn hosts(&self, domain: &DomainName) -> Option<Vec<(Host, u16)>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(domain).map(|found| found.hosts.clone())
    }

    /// Of the domains that are meant, by name.
    fn of(&self, is_meant: impl Fn(&DomainName) -> bool) -> Vec<(DomainName, Found)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().filter(|(domain, found)| found.at.elapsed() < FORGET_AFTER && is_meant(domain));
        let mut found: Vec<_> = found.map(|(domain, found)| (domain.clone(), found.clone())).collect();
        found.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        found
    }
}

impl Callouts {
    /// Where the recipients of a domain are asked for, as far as it was looked up; `None` where its MX was not.
    pub(crate) fn hosts_of(&self, domain: &Domain, route: &Route) -> Option<Vec<Key>> {
        let mut hosts = Vec::new();
        for hop in &route.hops {
            match (hop, domain) {
                (Hop::Host { host, port }, _) => hosts.push((host.clone(), *port)),
                (Hop::Mx, Domain::Name(name)) => hosts.extend(self.inner.exchangers.hosts(name)?),
                (Hop::Mx, Domain::Literal(_)) => return None,
            }
        }
        Some(hosts.into_iter().map(|(host, port)| Key { host, port, tls: route.tls }).collect())
    }

    /// The hosts of a route in its order (40 at most), with what is known of each. For `mx` these are the hosts that the MX of the domains that are
    /// meant named when it was looked up last; none where it was not, within the last 24 h.
    pub fn route_hosts(&self, route: &Route, is_meant: impl Fn(&DomainName) -> bool) -> Vec<RouteHost> {
        let mut hosts: Vec<RouteHost> = Vec::new();
        let mut add = |host: &Host, port: u16, mx: Option<(DomainName, Duration)>| {
            let key = Key { host: host.clone(), port, tls: route.tls };
            let name = HostPort(host, port).to_string();
            if hosts.len() < MAX_SHOWN && hosts.iter().all(|known| known.host != name) {
                hosts.push(RouteHost { host: name, mx, status: self.status_of(&key) });
            }
        };
        for hop in &route.hops {
            match hop {
                Hop::Host { host, port } => add(host, *port, None),
                Hop::Mx => {
                    for (domain, found) in self.inner.exchangers.of(&is_meant) {
                        for (host, port) in &found.hosts {
                            add(host, *port, Some((domain.clone(), found.at.elapsed())));
                        }
                    }
                }
            }
        }
        hosts
    }
}
