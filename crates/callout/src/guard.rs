//! Addresses that routes may not lead to.
//!
//! Who may write a route and is not the administrator of the machine could have it lead to the machine itself, to its neighbours on the
//! link, or to a cloud's metadata server, and read in a transcript what answers there. So addresses are looked at where they are
//! dialled, after all names are resolved: a name that leads to such an address is no way around.
//!
//! What the configuration file itself names is allowed: its addresses with their ports, and what its names resolve to with theirs. The
//! mail exchangers of a domain are named by whoever runs its DNS, so `mx` allows nothing.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use callahead_smtp::DomainName;
use ipnet::IpNet;

use crate::dial::{BoxStream, Dial};
use crate::outcome::BoxFuture;
use crate::resolve::{MxAnswer, Resolve, ResolveError};
use crate::route::{Hop, Host, Route};

/// Addresses that names of the file resolved to, remembered at most; beyond, the oldest knowledge is dropped and learned again.
const MAX_LEARNED: usize = 10_000;

/// The rules, shared by the dialer and the resolver that it guards. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    rules: Arc<RwLock<Rules>>,
    learned: Arc<Mutex<HashSet<SocketAddr>>>,
}

#[derive(Debug, Default)]
struct Rules {
    deny: Vec<IpNet>,
    addresses: HashSet<SocketAddr>,
    names: HashMap<String, HashSet<u16>>,
}

/// A dialer that does not dial what is denied.
#[derive(Debug)]
pub struct GuardedDialer<D>(pub D, pub Guard);

/// A resolver that remembers what the file's names lead to.
#[derive(Debug)]
pub struct GuardedResolver<R>(pub R, pub Guard);

impl Guard {
    /// What is denied where nobody says otherwise: this host, unspecified and link-local addresses (RFC 6890), which the metadata servers
    /// of most clouds are, and those of the others.
    pub fn default_networks() -> Vec<IpNet> {
        let texts = [
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "::/128",
            "::1/128",
            "fe80::/10",
            "fd00:ec2::254/128",
            "100.100.100.200/32",
        ];
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// What holds from now on: the denied networks, and the file's routes.
    pub fn set<'a>(&self, deny: Vec<IpNet>, file: impl IntoIterator<Item = &'a Route>) {
        let mut rules = Rules { deny, ..Rules::default() };
        for route in file {
            for hop in &route.hops {
                match hop {
                    Hop::Mx => {}
                    Hop::Host { host: Host::Address(ip), port } => {
                        rules.addresses.insert(SocketAddr::new(ip.to_canonical(), *port));
                    }
                    Hop::Host { host: Host::Name(name), port } => {
                        rules.names.entry(name.to_string()).or_default().insert(*port);
                    }
                }
            }
        }
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether an address may be connected to.
    pub fn allows(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let address = SocketAddr::new(ip, address.port());
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let denied = rules.deny.iter().any(|network| network.contains(&ip));
        !denied
            || rules.addresses.contains(&address)
            || self.learned.lock().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }

    fn learn(&self, host: &DomainName, addresses: &[IpAddr]) {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let Some(ports) = rules.names.get(host.as_str()) else { return };
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        for port in ports {
            if learned.len() >= MAX_LEARNED {
                learned.clear();
            }
            learned.extend(addresses.iter().map(|ip| SocketAddr::new(ip.to_canonical(), *port)));
        }
    }
}

impl<D: Dial> Dial for GuardedDialer<D> {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        if self.1.allows(address) {
            return self.0.dial(address);
        }
        let why = format!("{address} lies in deny_destinations, and the configuration file does not name it");
        Box::pin(async move { Err(io::Error::new(io::ErrorKind::PermissionDenied, why)) })
    }
}

impl<R: Resolve> Resolve for GuardedResolver<R> {
    fn mx<'a>(&'a self, domain: &'a DomainName) -> BoxFuture<'a, Result<MxAnswer, ResolveError>> {
        self.0.mx(domain)
    }

    fn addresses<'a>(&'a self, host: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move {
            let addresses = self.0.addresses(host).await?;
            self.1.learn(host, &addresses);
            Ok(addresses)
        })
    }

    fn forget(&self) {
        self.0.forget();
    }
}
