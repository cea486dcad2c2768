//! Names to addresses, domains to mail exchangers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use callahead_smtp::DomainName;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver, TokioResolver};
use rand::seq::SliceRandom as _;

use crate::outcome::{BoxFuture, Failure, is_ours};

/// What a domain's MX says (RFC 5321 5.1, RFC 7505).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MxAnswer {
    /// Mail exchangers with their preferences, in no order.
    Hosts(Vec<(u16, DomainName)>),
    /// `0 .`: the domain takes no mail.
    Null,
    /// No MX: the domain itself is its mail exchanger, if it has an address.
    None,
}

/// Why a name could not be looked up. Never a reason to call a recipient invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist, or has no address.
    #[error("{0} has no address in the DNS")]
    NoAddress(String),
    /// The domain does not exist.
    #[error("{0} does not exist in the DNS")]
    NoSuchDomain(String),
    /// The DNS gave no answer.
    #[error("the DNS gave no answer for {0}: {1}")]
    Failed(String, String),
    /// This node has no file descriptor or no memory left to ask the DNS.
    #[error("the DNS can't be asked for {0}: {1}")]
    OutOfResources(String, String),
}

impl ResolveError {
    fn failed(name: &DomainName, error: &NetError) -> Self {
        // Why the resolver has no connection it does not tell; one of our own fails for the same reason.
        if matches!(error, NetError::NoConnections)
            && let Err(why) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            && is_ours(&why)
        {
            return Self::OutOfResources(name.to_string(), why.to_string());
        }
        Self::Failed(name.to_string(), error.to_string())
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        let words = error.to_string();
        if matches!(error, ResolveError::OutOfResources(..)) {
            Self::OutOfResources(words)
        } else {
            Self::Resolve(words)
        }
    }
}

/// Whoever can look names up. What is kept, and for how long, is its affair.
pub trait Resolve: Send + Sync + 'static {
    /// A domain's mail exchangers.
    fn mx<'a>(&'a self, domain: &'a DomainName) -> BoxFuture<'a, Result<MxAnswer, ResolveError>>;
    /// A host's addresses, IPv4 and IPv6; never none.
    fn addresses<'a>(&'a self, host: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>>;
    /// Nothing that was found before is given from now on.
    fn forget(&self) {}
}

/// How long an answer of the DNS is kept, however much longer its TTL is. A null MX is a reason to reject, and counts as said when it was
/// looked up here: so it must not be much older than that.
pub const KEPT_FOR: Duration = Duration::from_secs(300);
/// How long it is kept that there is no such name or record: those who have just added one wait for so long.
const NOTHING_KEPT_FOR: Duration = Duration::from_secs(60);

/// Looks names up in the DNS. Answers are kept for as long as their TTL says, 5 min at most, and 1 min that there is none.
pub struct DnsResolver {
    config: ResolverConfig,
    options: ResolverOpts,
    /// Another one after [`forget`](Resolve::forget): what is being looked up meanwhile comes into the memory of the one before. Made with the next
    /// lookup, since thousands of domains may be cleared before there is one, and it reads files.
    resolver: RwLock<Arc<TokioResolver>>,
    forgets: AtomicBool,
}

impl DnsResolver {
    /// With the system's name servers, or with these.
    ///
    /// # Errors
    /// When the system's configuration can't be read.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, ResolveError> {
        let failed = |error: NetError| ResolveError::Failed("the resolver".into(), error.to_string());
        let (config, mut options) = if servers.is_empty() {
            read_system_conf().map_err(failed)?
        } else {
            let servers = servers.iter().map(|server| {
                let with_port = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = vec![with_port(ConnectionConfig::udp()), with_port(ConnectionConfig::tcp())];
                NameServerConfig::new(server.ip(), true, connections)
            });
            (ResolverConfig::from_parts(None, Vec::new(), servers.collect()), ResolverOpts::default())
        };
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.positive_max_ttl = Some(KEPT_FOR);
        options.negative_max_ttl = Some(NOTHING_KEPT_FOR);
        let resolver = build(&config, &options).map_err(failed)?;
        Ok(Self { config, options, resolver: RwLock::new(Arc::new(resolver)), forgets: AtomicBool::new(false) })
    }

    fn resolver(&self) -> Arc<TokioResolver> {
        if self.forgets.load(Ordering::Acquire) {
            let mut resolver = self.resolver.write().unwrap_or_else(PoisonError::into_inner);
            // Before it is made, so that whoever forgets meanwhile has one more made; and under the lock, so that nobody gets the old one.
            if self.forgets.swap(false, Ordering::AcqRel) {
                match build(&self.config, &self.options) {
                    Ok(anew) => *resolver = Arc::new(anew),
                    Err(error) => {
                        tracing::debug!(%error, "the resolver can't be made anew; its memory is emptied");
                        resolver.clear_cache();
                    }
                }
            }
        }
        Arc::clone(&self.resolver.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn build(config: &ResolverConfig, options: &ResolverOpts) -> Result<TokioResolver, NetError> {
    Resolver::builder_with_config(config.clone(), TokioRuntimeProvider::default()).with_options(options.clone()).build()
}

impl fmt::Debug for DnsResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DnsResolver")
    }
}

impl Resolve for DnsResolver {
    fn mx<'a>(&'a self, domain: &'a DomainName) -> BoxFuture<'a, Result<MxAnswer, ResolveError>> {
        Box::pin(async move {
            // With a trailing dot, so that no search list is tried.
            let found = self.resolver().lookup(format!("{domain}."), RecordType::MX).await;
            let answer = match found {
                Ok(answer) => answer,
                Err(error) if error.is_nx_domain() => return Err(ResolveError::NoSuchDomain(domain.to_string())),
                Err(error) if error.is_no_records_found() => return Ok(MxAnswer::None),
                Err(error) => return Err(ResolveError::failed(domain, &error)),
            };
            let records: Vec<_> = answer
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii())),
                    _ => None,
                })
                .collect();
            if let [(_, host)] = records.as_slice()
                && host == "."
            {
                return Ok(MxAnswer::Null);
            }
            if records.is_empty() {
                return Ok(MxAnswer::None);
            }
            // What is no host name (an address, a label with spaces) can't be asked; others may be.
            let hosts =
                records.iter().filter_map(|(preference, host)| Some((*preference, DomainName::parse(host).ok()?)));
            Ok(MxAnswer::Hosts(hosts.collect()))
        })
    }

    fn addresses<'a>(&'a self, host: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move {
            match self.resolver().lookup_ip(format!("{host}.")).await {
                Ok(found) => {
                    let addresses: Vec<IpAddr> = found.iter().collect();
                    if addresses.is_empty() { Err(ResolveError::NoAddress(host.to_string())) } else { Ok(addresses) }
                }
                Err(error) if error.is_nx_domain() || error.is_no_records_found() => {
                    Err(ResolveError::NoAddress(host.to_string()))
                }
                Err(error) => Err(ResolveError::failed(host, &error)),
            }
        })
    }

    fn forget(&self) {
        self.forgets.store(true, Ordering::Release);
    }
}

/// The hosts of an MX in the order in which they are tried: by preference, equals in any order; from the first that is this
/// node itself on they are left out, or mail would go round (RFC 5321 5.1).
pub(crate) fn order(mut hosts: Vec<(u16, DomainName)>, own_names: &[DomainName]) -> Vec<DomainName> {
    hosts.shuffle(&mut rand::rng());
    hosts.sort_by_key(|(preference, _)| *preference);
    let own = hosts.iter().filter(|(_, host)| own_names.contains(host)).map(|(preference, _)| *preference).min();
    hosts.into_iter().filter(|(preference, _)| own.is_none_or(|own| *preference < own)).map(|(_, host)| host).collect()
}

/// IPv4 and IPv6 in turn, so that a family that leads nowhere costs one attempt.
pub(crate) fn interleave(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    let longest = v4.len().max(v6.len());
    (0..longest).flat_map(|n| [v4.get(n), v6.get(n)]).flatten().copied().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use callahead_testbed::dns::{DnsServer, Zone};

    use super::*;

    // The resolver goes by the system's clock: no test can wait until an answer is forgotten.
    #[tokio::test]
    async fn an_answer_is_kept_for_five_minutes_however_long_the_zone_allows() {
        let dns = DnsServer::start().await.unwrap();
        let zone = Zone { mx: vec![(0, ".".to_owned())], ttl: Some(86_400), ..Zone::default() };
        dns.set("null.example", zone);
        let resolver = DnsResolver::new(&[dns.address()]).unwrap();
        assert_eq!(resolver.mx(&DomainName::parse("null.example").unwrap()).await, Ok(MxAnswer::Null));
        let kept = resolver.resolver().lookup("null.example.", RecordType::MX).await.unwrap();
        assert_eq!(dns.queries(), 1, "it is kept");
        let left = kept.valid_until().saturating_duration_since(std::time::Instant::now());
        assert!(left <= KEPT_FOR, "{left:?}");
    }
}
