//! Testing a route: what a callout would do, step by step, at each of its hosts, in sessions of their own.
//!
//! For each host: connect, greeting, TLS, the null sender, a random local part, `postmaster` (which has to exist, RFC 5321 4.5.1). Nothing
//! of it is kept, and neither the pool nor its circuit breakers learn from it.

use std::fmt;
use std::sync::Arc;

use callahead_smtp::{Domain, Recipient};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::callouts::{Callouts, Key};
use crate::dialogue;
use crate::outcome::{Failure, HostFailure, Outcome, Step};
use crate::pool::HostPool;
use crate::probe::{PersonProbe, Probe as _};
use crate::route::{Hop, HostPort, Route};
use crate::session::Session;
use crate::settings::Settings;
use crate::transcript::Transcript;

/// Hosts of a route that are tested.
const MAX_HOSTS: usize = 8;

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
    /// The steps that were taken; it ends with the first that failed.
    pub steps: Vec<TestedStep>,
    /// The host accepts every local part; absent where that was not found out.
    pub accept_all: Option<bool>,
    /// What was said.
    pub transcript: Transcript,
}

/// A step of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TestStep {
    /// Looking names up, and the connection.
    Connect,
    /// The greeting and EHLO.
    Greeting,
    /// STARTTLS, by the route's policy.
    Tls,
    /// `MAIL FROM:<>`.
    NullSender,
    /// RCPT of a random local part.
    RandomProbe,
    /// RCPT of `postmaster`.
    Postmaster,
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestedStep {
    /// Which.
    pub step: TestStep,
    /// Whether it went as it should for callouts to work.
    pub ok: bool,
    /// What happened, in one sentence, with the host's words where it had any.
    pub detail: String,
}

impl TestStep {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Tls => "tls",
            Self::NullSender => "null_sender",
            Self::RandomProbe => "random_probe",
            Self::Postmaster => "postmaster",
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
        Self { host, steps: Vec::new(), accept_all: None, transcript }
    }

    fn failed_lookup(failure: &HostFailure) -> Self {
        let mut test = Self::begin(failure.host.clone(), Transcript::start());
        test.step(TestStep::Connect, false, failure.failure.to_string());
        test
    }

    fn step(&mut self, step: TestStep, ok: bool, detail: impl Into<String>) {
        self.steps.push(TestedStep { step, ok, detail: detail.into() });
    }

    /// Writes the steps of a session's opening down.
    fn opened(&mut self, route: &Route, opened: Result<bool, (Failure, Option<String>)>) {
        let (failure, words) = match opened {
            Ok(encrypted) => {
                self.step(TestStep::Connect, true, "connected");
                self.step(TestStep::Greeting, true, "it greets and takes EHLO");
                let detail = if encrypted { "encrypted" } else { "in clear" };
                self.step(TestStep::Tls, true, format!("{detail}; the route's policy is {}", route.tls));
                return;
            }
            Err(failed) => failed,
        };
        let at = match &failure {
            Failure::TlsRequired | Failure::TlsFailed(_) => TestStep::Tls,
            Failure::Timeout(Step::StartTls) | Failure::Closed(Step::StartTls) | Failure::Ending(Step::StartTls) => {
                TestStep::Tls
            }
            Failure::ConnectionRefused
            | Failure::ConnectTimeout(_)
            | Failure::ConnectFailed(_)
            | Failure::Resolve(_)
            | Failure::OnlyOwnNames
            | Failure::CircuitOpen(_) => TestStep::Connect,
            _ => TestStep::Greeting,
        };
        if at != TestStep::Connect {
            self.step(TestStep::Connect, true, "connected");
        }
        if at == TestStep::Tls {
            self.step(TestStep::Greeting, true, "it greets and takes EHLO");
        }
        let words = words.map(|words| format!(": {words}")).unwrap_or_default();
        self.step(at, false, format!("{failure}{words}"));
    }

    /// Asks for a random local part and for `postmaster`, and writes the steps down.
    async fn ask(&mut self, session: &mut Session, domain: &Domain, deadline: Instant) {
        let Ok(postmaster) = Recipient::new("postmaster", domain.clone()) else { return };
        let Ok(random) = Recipient::new(&PersonProbe.local_part(), domain.clone()) else { return };
        let asked = dialogue::ask(session, &postmaster, Some(&random), false, deadline, &mut self.transcript).await;
        let found = match asked {
            Ok(found) => found,
            Err(broken) => {
                self.step(TestStep::NullSender, false, broken.trouble.failure.to_string());
                return;
            }
        };
        let words = found.outcome.reply().map(|reply| format!("{} {}", reply.code(), reply.text())).unwrap_or_default();
        match found.outcome {
            Outcome::NullSenderRefused(_) => {
                self.step(
                    TestStep::NullSender,
                    false,
                    format!("it refuses the null sender, so its recipients can't be verified: {words}"),
                );
                return;
            }
            Outcome::AcceptsAll(_) => {
                self.step(TestStep::NullSender, true, "it takes the null sender");
                self.accept_all = Some(true);
                self.step(
                    TestStep::RandomProbe,
                    false,
                    format!("it accepts every local part, so its recipients can't be told apart: {words}"),
                );
                return;
            }
            _ => self.step(TestStep::NullSender, true, "it takes the null sender"),
        }
        if found.not_accept_all {
            self.accept_all = Some(false);
            self.step(TestStep::RandomProbe, true, "it refuses a random local part");
        } else {
            self.step(
                TestStep::RandomProbe,
                false,
                "a random local part was neither accepted nor refused (greylisting?)",
            );
        }
        let accepted = matches!(found.outcome, Outcome::Accepted(_));
        let detail = if accepted { "it accepts" } else { "it does not accept" };
        self.step(TestStep::Postmaster, accepted, format!("{detail} postmaster: {words}"));
    }
}

impl Callouts {
    /// Tests a route for a domain: what a callout would do at each of its hosts (8 at most), in sessions of their own, within the timeout.
    pub async fn test_route(&self, route: &Route, domain: &Domain) -> RouteTest {
        let settings = self.inner.settings();
        let deadline = Instant::now() + settings.timeout;
        let mut found = RouteTest { hosts: Vec::new(), null_mx: false };
        for hop in &route.hops {
            // What the MX is stands in each of its hosts' transcripts.
            let mut before = Transcript::start();
            let hosts = match hop {
                Hop::Host { host, port } => vec![(host.clone(), *port)],
                Hop::Mx => match self.inner.exchangers(domain, &settings, deadline, &mut before).await {
                    Ok(Some(hosts)) => hosts,
                    Ok(None) => {
                        found.null_mx = true;
                        Vec::new()
                    }
                    Err(failure) => {
                        found.hosts.push(HostTest::failed_lookup(&failure));
                        Vec::new()
                    }
                },
            };
            for (host, port) in hosts {
                if found.hosts.len() >= MAX_HOSTS || Instant::now() >= deadline {
                    return found;
                }
                let key = Key { host, port, tls: route.tls };
                let test = HostTest::begin(HostPort(&key.host, key.port).to_string(), before.clone());
                // Half of the time that is left, so that a host that hangs leaves some to the next.
                let left = deadline.saturating_duration_since(Instant::now());
                let within = Instant::now() + left / 2;
                found.hosts.push(self.test_host(&key, route, domain, &settings, within, test).await);
            }
        }
        found
    }

    async fn test_host(
        &self,
        key: &Key,
        route: &Route,
        domain: &Domain,
        settings: &Settings,
        deadline: Instant,
        mut test: HostTest,
    ) -> HostTest {
        // A pool of its own, which nobody else sees and nobody learns from.
        let pool = HostPool::new(test.host.clone(), Arc::new(Semaphore::new(1)));
        match self.inner.open(key, &pool, settings, deadline, &mut test.transcript).await {
            Ok(mut session) => {
                test.opened(route, Ok(session.encrypted));
                test.ask(&mut session, domain, deadline).await;
                session.quit(settings.quit_timeout, Some(&mut test.transcript)).await;
            }
            Err(trouble) => {
                let words = trouble.reply.map(|reply| format!("{} {}", reply.code(), reply.text()));
                test.opened(route, Err((trouble.failure, words)));
            }
        }
        test
    }
}
