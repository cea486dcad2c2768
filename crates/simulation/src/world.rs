//! What is outside of the node: names, hosts, mailboxes, configuration, and chance.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use callahead_cache::Timestamp;
use callahead_callout::{BoxFuture, BoxStream, Dial, Hop, MxAnswer, Probe, Resolve, ResolveError, Route, TlsPolicy};
use callahead_engine::{AcceptOrDefer, Callouts, Clock, DomainConfig, Policy, RejectOrDefer};
use callahead_smtp::DomainName;
use callahead_testbed::{Destination, Net, Place, Script};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::Instant;

use crate::history::History;
use crate::node::{SESSIONS, SESSIONS_PER_DESTINATION};

/// Hosts of destinations, `10.0.0.1:25` and on.
pub(crate) const HOSTS: u8 = 5;
/// Local parts that are asked for; some exist, some do not, some change.
pub(crate) const LOCAL_PARTS: [&str; 9] =
    ["anna", "bert", "Anna", "carl+tag", "dora", "listed", "gone", "j\u{fc}rgen", "postmaster"];
/// Domains that are asked for. The last is not configured.
pub(crate) const DOMAINS: [&str; 6] =
    ["one.example", "two.example", "mx.example", "seen.example", "sub.wild.example", "other.example"];
/// The shortest lives that a configuration gives to what is kept.
const LEAST_VALID_TTL: Duration = Duration::from_secs(24 * 3600);
const LEAST_INVALID_TTL: Duration = Duration::from_secs(3600);
/// When the simulated time begins.
const EPOCH: Timestamp = Timestamp(1_700_000_000_000);

/// Everything that is left to chance, from the seed.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Arc<Mutex<StdRng>>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A number below `end`.
    pub(crate) fn below(&self, end: usize) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..end)
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub(crate) fn millis(&self, below: usize) -> Duration {
        Duration::from_millis(self.below(below) as u64)
    }
}

/// The node's wall clock: simulated time, and what somebody sets it to.
#[derive(Debug)]
pub(crate) struct SimClock(Mutex<(Timestamp, Option<Instant>)>);

impl SimClock {
    fn state(&self) -> MutexGuard<'_, (Timestamp, Option<Instant>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process begins: from now on the current runtime's time counts.
    pub(crate) fn begin(&self) {
        self.state().1 = Some(Instant::now());
    }

    /// A process ends, and the node is down for so long.
    pub(crate) fn end(&self, down: Duration) {
        let now = self.now().after(down);
        *self.state() = (now, None);
    }

    /// Somebody sets it forward.
    pub(crate) fn step(&self, by: Duration) {
        let mut state = self.state();
        state.0 = state.0.after(by);
    }

    /// Somebody sets it back, while the node is down.
    pub(crate) fn back(&self, by: Duration) {
        let mut state = self.state();
        state.0 = Timestamp(state.0.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(0)));
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let (base, began) = *self.state();
        base.after(began.map_or(Duration::ZERO, |began| began.elapsed()))
    }
}

/// Where a domain's MX leads.
#[derive(Clone, Debug)]
pub(crate) enum Mx {
    Answer(MxAnswer),
    Fails,
    NeverAnswers,
}

/// What is outside of the node. Clones share it.
#[derive(Clone, Debug)]
pub struct World {
    pub(crate) chance: Chance,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) history: History,
    shared: Arc<Mutex<Shared>>,
    net: Net,
}

#[derive(Debug)]
struct Shared {
    scripts: Vec<Script>,
    destinations: Vec<Destination>,
    domains: Vec<DomainConfig>,
    /// Configurations from before in this process, and until when each was in force.
    past_domains: Vec<(Vec<DomainConfig>, Instant)>,
    mx: Mx,
    open: HashMap<SocketAddr, usize>,
}

pub(crate) fn host(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n + 1], 25))
}

/// In its own way: by name, else by the one wildcard.
fn find<'a>(domains: &'a [DomainConfig], domain: &str) -> Option<&'a DomainConfig> {
    let by_name = domains.iter().find(|config| config.name == domain);
    by_name.or_else(|| domains.iter().find(|config| domain.ends_with(&config.name[1..])))
}

impl World {
    /// A world by its seed.
    pub fn new(seed: u64) -> Self {
        let chance = Chance::new(seed);
        let clock = Arc::new(SimClock(Mutex::new((EPOCH, None))));
        let shared = Shared {
            scripts: Vec::new(),
            destinations: Vec::new(),
            domains: Vec::new(),
            past_domains: Vec::new(),
            mx: Mx::Answer(MxAnswer::None),
            open: HashMap::new(),
        };
        let world = Self {
            history: History::new(Arc::clone(&clock)),
            clock,
            chance,
            shared: Arc::new(Mutex::new(shared)),
            net: Net::default(),
        };
        let scripts = (0..HOSTS).map(|_| world.sound_script()).collect();
        world.shared().scripts = scripts;
        world.choose_mx(true);
        world.choose_policies();
        world
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A destination without faults: some of the mailboxes, and this or that ability.
    fn sound_script(&self) -> Script {
        let mut script = Script {
            remembers: self.chance.percent(30),
            reply_delay: Duration::from_millis(*self.chance.pick(&[0, 0, 20, 700])),
            ..Script::default()
        };
        for local_part in LOCAL_PARTS {
            for domain in DOMAINS {
                if self.chance.percent(55) {
                    script.mailboxes.insert(format!("{local_part}@{domain}").to_lowercase());
                }
            }
        }
        if self.chance.percent(25) {
            script = script.without("PIPELINING");
        }
        script
    }

    /// A process begins: the hosts know nothing of connections from before.
    pub(crate) fn begin_life(&self) {
        self.clock.begin();
        let mut shared = self.shared();
        shared.open.clear();
        shared.past_domains.clear();
        shared.destinations = shared.scripts.iter().cloned().map(Destination::new).collect();
        for (n, destination) in (0..HOSTS).zip(&shared.destinations) {
            destination.watch(Arc::new(self.history.clone()));
            self.net.set(host(n), Place::Server(destination.clone()));
        }
    }

    /// A process ends: what the hosts have become by now, they stay.
    pub(crate) fn end_life(&self) {
        let mut shared = self.shared();
        shared.scripts = shared.destinations.iter().map(|destination| destination.script().clone()).collect();
    }

    pub(crate) fn destinations(&self) -> Vec<Destination> {
        self.shared().destinations.clone()
    }

    /// Puts something at a host's address.
    pub(crate) fn place(&self, n: u8, place: Option<Place>) {
        let server = self.shared().destinations[usize::from(n)].clone();
        self.net.set(host(n), place.unwrap_or(Place::Server(server)));
    }

    /// Every host is well again and reachable, and so is the DNS; the mailboxes stay.
    pub(crate) fn heal(&self) {
        for (n, destination) in (0..HOSTS).zip(self.destinations()) {
            let mut script = destination.script();
            let sound = Script { mailboxes: std::mem::take(&mut script.mailboxes), ..Script::default() };
            *script = sound;
            drop(script);
            self.place(n, None);
        }
        self.choose_mx(true);
    }

    /// The domains as they are configured now.
    pub(crate) fn domains(&self) -> Vec<DomainConfig> {
        self.shared().domains.clone()
    }

    /// The domain's configuration.
    pub(crate) fn config(&self, domain: &str) -> Option<DomainConfig> {
        find(&self.shared().domains, domain).cloned()
    }

    /// The domain's policies: that of now, and those from before with the end of their time.
    pub(crate) fn policies(&self, domain: &str) -> Vec<(Policy, Option<Instant>)> {
        let shared = self.shared();
        let past = shared.past_domains.iter().map(|(domains, until)| (domains, Some(*until)));
        let all = past.chain([(&shared.domains, None)]);
        all.filter_map(|(domains, until)| Some((find(domains, domain)?.policy.clone(), until))).collect()
    }

    /// The host that a domain's mail goes to when all is well.
    pub(crate) fn first_host(domain: &str) -> u8 {
        match domain {
            "mx.example" => 2,
            "seen.example" => 1,
            "sub.wild.example" => 3,
            _ => 0,
        }
    }

    pub(crate) fn choose_mx(&self, sound: bool) {
        let hosts = || {
            let names = [(10, "a.mail.example"), (20, "b.mail.example")];
            MxAnswer::Hosts(
                names.into_iter().filter_map(|(n, name)| Some((n, DomainName::parse(name).ok()?))).collect(),
            )
        };
        let mx = match if sound { 9 } else { self.chance.below(10) } {
            0 | 1 => Mx::Answer(MxAnswer::Null),
            2 => Mx::Fails,
            3 => Mx::NeverAnswers,
            4 => Mx::Answer(MxAnswer::None),
            _ => Mx::Answer(hosts()),
        };
        self.history.note(|| format!("the MX of mx.example is now {mx:?}"));
        self.shared().mx = mx;
    }

    /// Writes the configuration anew. What decides which mailbox is meant (case) and where it is (routes) stays as it is.
    pub(crate) fn choose_policies(&self) {
        let chance = &self.chance;
        let either = || *chance.pick(&[AcceptOrDefer::Accept, AcceptOrDefer::Defer]);
        let hours = |of: &[u64]| Duration::from_secs(*chance.pick(of) * 3600);
        let address = |n: u8| Hop::Host { host: callahead_callout::Host::Address(host(n).ip()), port: 25 };
        let names: [(&str, Vec<Hop>, TlsPolicy); 5] = [
            ("one.example", vec![address(0), address(1)], TlsPolicy::Off),
            ("two.example", vec![address(0)], TlsPolicy::Off),
            ("mx.example", vec![Hop::Mx], TlsPolicy::Opportunistic),
            ("seen.example", vec![address(1)], TlsPolicy::Off),
            ("*.wild.example", vec![Hop::Mx, address(3)], TlsPolicy::Off),
        ];
        let domains = names.into_iter().map(|(name, hops, tls)| {
            let policy = Policy {
                callouts: match name {
                    "seen.example" => Callouts::Observe,
                    _ if chance.percent(3) => Callouts::Off,
                    _ => Callouts::Enforce,
                },
                reject_code: if chance.percent(10) { 450 } else { 550 },
                valid_ttl: if chance.percent(33) { LEAST_VALID_TTL } else { Duration::from_secs(96 * 3600) },
                valid_refresh: hours(&[12, 12, 1]),
                invalid_ttl: if chance.percent(33) { LEAST_INVALID_TTL } else { Duration::from_secs(2 * 3600) },
                invalid_refresh: Duration::from_secs(1800),
                accept_all: either(),
                unverifiable: either(),
                tempfail: if chance.percent(15) { AcceptOrDefer::Accept } else { AcceptOrDefer::Defer },
                policy_rejects: *chance.pick(&[RejectOrDefer::Reject, RejectOrDefer::Defer]),
                pass_reply_text: chance.percent(10),
                fold_local_part: name == "two.example",
                ..Policy::default()
            };
            DomainConfig {
                policy,
                valid: ["listed".to_owned()].into(),
                invalid: ["gone".to_owned()].into(),
                ..DomainConfig::new(name, Route { hops, tls })
            }
        });
        let domains = domains.collect();
        let mut shared = self.shared();
        let before = std::mem::replace(&mut shared.domains, domains);
        shared.past_domains.push((before, Instant::now()));
    }

    /// Connections to a host now.
    pub(crate) fn open(&self) -> Vec<(SocketAddr, usize)> {
        let mut open: Vec<_> = self.shared().open.iter().map(|(address, open)| (*address, *open)).collect();
        open.sort_unstable();
        open
    }
}

impl Dial for World {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        let (here, all) = {
            let mut shared = self.shared();
            let here = shared.open.entry(address).or_default();
            *here += 1;
            (*here, shared.open.values().sum::<usize>())
        };
        let history = &self.history;
        history.check(here <= SESSIONS_PER_DESTINATION, || format!("{here} connections to {address} are open"));
        history.check(all <= SESSIONS, || format!("{all} connections are open"));
        let counted = Counted(self.clone(), address);
        Box::pin(async move {
            let stream = self.net.dial(address).await?;
            Ok(Box::new(Connection { stream, _counted: counted }) as BoxStream)
        })
    }
}

/// A connection counted as open, from dialling on.
struct Counted(World, SocketAddr);

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(open) = self.0.shared().open.get_mut(&self.1) {
            *open = open.saturating_sub(1);
        }
    }
}

struct Connection {
    stream: DuplexStream,
    _counted: Counted,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Resolve for World {
    fn mx<'a>(&'a self, domain: &'a DomainName) -> BoxFuture<'a, Result<MxAnswer, ResolveError>> {
        Box::pin(async move {
            tokio::time::sleep(self.chance.millis(50)).await;
            // Of another domain than that, the DNS says that it takes no mail: the host behind it in its route has to be asked all the same.
            let mx =
                if domain.as_str() == "mx.example" { self.shared().mx.clone() } else { Mx::Answer(MxAnswer::Null) };
            match mx {
                Mx::Answer(MxAnswer::Null) => {
                    self.history.null_mx(domain.as_str());
                    Ok(MxAnswer::Null)
                }
                Mx::Answer(answer) => Ok(answer),
                Mx::Fails => Err(ResolveError::Failed(domain.to_string(), "SERVFAIL".into())),
                Mx::NeverAnswers => std::future::pending().await,
            }
        })
    }

    fn addresses<'a>(&'a self, host: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move {
            match host.as_str() {
                "a.mail.example" => Ok(vec![crate::world::host(2).ip()]),
                "b.mail.example" => Ok(vec![crate::world::host(4).ip()]),
                _ => Err(ResolveError::NoAddress(host.to_string())),
            }
        })
    }
}

impl Probe for World {
    fn local_part(&self) -> String {
        let local_part: String = (0..20).map(|_| char::from(*self.chance.pick(b"bcdfghjklmnpqrstvwxz"))).collect();
        self.history.probe(&local_part);
        local_part
    }
}
