//! Testing a route: what a callout would do, step by step, at each of its hosts, in sessions of their own; and what no callout asks:
//! `postmaster` (which has to exist, RFC 5321 4.5.1), and whether the host would take mail for other people's domains.
//!
//! Each step is told when it is taken, with its own time. Nothing of it is kept, and neither the pool nor its circuit breakers learn from it.

mod host;

use std::fmt;
use std::time::Duration;

use callahead_smtp::Domain;
use tokio::time::Instant;

use crate::callouts::{Callouts, Key};
use crate::outcome::HostFailure;
use crate::route::{Hop, HostPort, Route};
use crate::transcript::Transcript;
use host::Tester;

/// What a test found.
#[derive(Clone, Debug)]
pub struct RouteTest {
    /// Each host that was tried, in the order of the route.
    pub hosts: Vec<HostTest>,
    /// A null MX (RFC 7505): there is nothing to test.
    pub null_mx: bool,
}

/// What a test found at one host.
#[derive(Clone, Debug)]
pub struct HostTest {
    /// `host:port`, or the name that could not be looked up.
    pub host: String,
    /// The steps that were taken, in the order in which they were. Where the session could not go on, the last is the one that failed.
    pub steps: Vec<TestedStep>,
    /// The host accepts every local part; absent where that was not found out.
    pub accept_all: Option<bool>,
    /// The host accepts recipients in other people's domains from here; absent where that was not found out.
    pub relays: Option<bool>,
    /// What was said.
    pub transcript: Transcript,
}

/// A step of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TestStep {
    /// Looking the MX and the host's addresses up; not there for an address.
    Resolve,
    /// The connection.
    Connect,
    /// The greeting.
    Greeting,
    /// EHLO, or HELO.
    Ehlo,
    /// STARTTLS, by the route's policy, and EHLO again.
    Tls,
    /// `MAIL FROM:<>`.
    NullSender,
    /// RCPT of a random local part.
    RandomProbe,
    /// RCPT of `postmaster`, in a transaction of its own.
    Postmaster,
    /// RCPT of a random local part in a domain that can't be local anywhere (`.invalid`, RFC 6761 6.4), in a transaction of its own. Its sender
    /// is the null one; where that is refused, `postmaster` of this node.
    OpenRelay,
    /// `QUIT`.
    Quit,
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestedStep {
    /// Which.
    pub step: TestStep,
    /// Whether it went as it should for callouts to work.
    pub ok: bool,
    /// It is worth a look all the same: callouts work, and somebody should know.
    pub warning: bool,
    /// How long it took by itself.
    pub took: Duration,
    /// What happened, in one sentence, with the host's words where it had any.
    pub detail: String,
}

/// What is told while a test goes on.
#[derive(Clone, Copy, Debug)]
pub enum TestEvent<'a> {
    /// A host's turn has come.
    Host(&'a str),
    /// A step was taken there.
    Step(&'a str, &'a TestedStep),
}

/// Who is told.
type Tell<'a> = &'a mut (dyn FnMut(TestEvent<'_>) + Send);

impl RouteTest {
    /// Hosts of a route that are tested at most.
    pub const MAX_HOSTS: usize = 8;
    /// Events of a test at most: a host's turn and its steps, some of which can come for each of its addresses.
    pub const MAX_EVENTS: usize = Self::MAX_HOSTS * 64;
}

impl TestStep {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::Tls => "tls",
            Self::NullSender => "null_sender",
            Self::RandomProbe => "random_probe",
            Self::Postmaster => "postmaster",
            Self::OpenRelay => "open_relay",
            Self::Quit => "quit",
        }
    }
}

impl fmt::Display for TestStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl HostTest {
    fn begin(host: String, transcript: Transcript) -> Self {
        Self { host, steps: Vec::new(), accept_all: None, relays: None, transcript }
    }

    /// A name of the route that leads to no host.
    fn failed_lookup(failure: &HostFailure, began: Instant, transcript: Transcript, tell: Tell<'_>) -> Self {
        let mut test = Self::begin(failure.host.clone(), transcript);
        let detail = failure.failure.to_string();
        let step = TestedStep { step: TestStep::Resolve, ok: false, warning: false, took: began.elapsed(), detail };
        tell(TestEvent::Host(&test.host));
        tell(TestEvent::Step(&test.host, &step));
        test.steps.push(step);
        test
    }
}

impl Callouts {
    /// Tests a route for a domain at each of its hosts ([`RouteTest::MAX_HOSTS`] at most), in sessions of their own, within the timeout. No
    /// message is sent.
    pub async fn test_route(&self, route: &Route, domain: &Domain) -> RouteTest {
        self.test_route_telling(route, domain, &mut |_| {}).await
    }

    /// Likewise, and tells each step when it is taken.
    pub async fn test_route_telling(
        &self,
        route: &Route,
        domain: &Domain,
        tell: &mut (dyn FnMut(TestEvent<'_>) + Send),
    ) -> RouteTest {
        let settings = self.inner.settings();
        let deadline = Instant::now() + settings.timeout;
        let mut found = RouteTest { hosts: Vec::new(), null_mx: false };
        for hop in &route.hops {
            // What the MX is stands in each of its hosts' transcripts, and its time in the first one's.
            let mut before = Transcript::start();
            let mut began = Instant::now();
            let hosts = match hop {
                Hop::Host { host, port } => vec![(host.clone(), *port)],
                Hop::Mx => match self.inner.exchangers(domain, &settings, deadline, &mut before).await {
                    Ok(Some(hosts)) => hosts,
                    Ok(None) => {
                        found.null_mx = true;
                        Vec::new()
                    }
                    Err(failure) => {
                        found.hosts.push(HostTest::failed_lookup(&failure, began, before.clone(), &mut *tell));
                        Vec::new()
                    }
                },
            };
            for (host, port) in hosts {
                if found.hosts.len() >= RouteTest::MAX_HOSTS || Instant::now() >= deadline {
                    return found;
                }
                let key = Key { host, port, tls: route.tls };
                let test = HostTest::begin(HostPort(&key.host, key.port).to_string(), before.clone());
                // Half of the time that is left, so that a host that hangs leaves some to the next.
                let left = deadline.saturating_duration_since(Instant::now());
                let within = Instant::now() + left / 2;
                tell(TestEvent::Host(&test.host));
                let tester = Tester {
                    inner: &self.inner,
                    settings: &settings,
                    key: &key,
                    domain,
                    deadline: within,
                    is_mx: matches!(hop, Hop::Mx),
                    began,
                    test,
                    tell: &mut *tell,
                };
                found.hosts.push(tester.run().await);
                began = Instant::now();
            }
        }
        found
    }
}
