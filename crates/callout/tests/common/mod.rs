//! Callouts over a network in memory, under simulated time.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use callahead_callout::{
    Ask as _, BoxFuture, BoxStream, Callouts, Dial, Hop, MxAnswer, Outcome, Report, Request, Resolve, ResolveError,
    Route, Settings, TlsClient, TlsPolicy, Who,
};
use callahead_smtp::{Domain, DomainName, Recipient};
use callahead_testbed::{Destination, Net, Place, Script};
use tokio::task::JoinHandle;

#[derive(Clone)]
pub struct NetDialer(pub Net);

impl Dial for NetDialer {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move { Ok(Box::new(self.0.dial(address).await?) as BoxStream) })
    }
}

/// Names and MX records in memory; what is not there does not exist.
#[derive(Clone, Default)]
pub struct Names {
    pub hosts: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
    pub mx: Arc<Mutex<HashMap<String, Result<MxAnswer, ResolveError>>>>,
}

impl Resolve for Names {
    fn mx<'a>(&'a self, domain: &'a DomainName) -> BoxFuture<'a, Result<MxAnswer, ResolveError>> {
        let answer = self.mx.lock().unwrap().get(domain.as_str()).cloned();
        Box::pin(async move { answer.unwrap_or_else(|| Err(ResolveError::NoSuchDomain(domain.to_string()))) })
    }
    fn addresses<'a>(&'a self, host: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        let found = self.hosts.lock().unwrap().get(host.as_str()).cloned();
        Box::pin(async move { found.ok_or_else(|| ResolveError::NoAddress(host.to_string())) })
    }
}

pub struct Bench {
    pub net: Net,
    pub names: Names,
    pub callouts: Callouts,
}

pub fn settings() -> Settings {
    Settings::new(Domain::parse("filter.example").unwrap())
}

pub fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 25))
}

pub fn route(hops: &[&str], tls: TlsPolicy) -> Arc<Route> {
    Arc::new(Route { hops: hops.iter().map(|hop| hop.parse::<Hop>().unwrap()).collect(), tls })
}

impl Bench {
    pub fn new(settings: Settings) -> Self {
        Self::with_tls(settings, TlsClient::new(&[]).unwrap())
    }

    pub fn with_tls(settings: Settings, tls: TlsClient) -> Self {
        let (net, names) = (Net::default(), Names::default());
        let callouts = Callouts::new(settings, NetDialer(net.clone()), names.clone(), tls);
        Self { net, names, callouts }
    }

    /// A bench with one destination at 10.0.0.1.
    pub fn one(script: Script) -> (Self, Destination) {
        let bench = Self::new(settings());
        let destination = bench.server(1, script);
        (bench, destination)
    }

    pub fn server(&self, n: u8, script: Script) -> Destination {
        let destination = Destination::new(script);
        self.net.set(address(n), Place::Server(destination.clone()));
        destination
    }

    pub async fn ask_route(&self, recipient: &str, route: &Arc<Route>, probe: bool) -> Report {
        let recipient: Recipient = recipient.parse().unwrap();
        self.callouts.ask(Request { recipient, route: Arc::clone(route), probe, background: false }).await
    }

    pub async fn ask(&self, recipient: &str) -> Report {
        self.ask_route(recipient, &route(&["10.0.0.1"], TlsPolicy::Opportunistic), false).await
    }

    /// Asks one of the hosts in a task of its own.
    pub fn asks(&self, host: u8, local_part: &str, background: bool) -> JoinHandle<Report> {
        let callouts = self.callouts.clone();
        let recipient = format!("{local_part}@one.example").parse().unwrap();
        let route = route(&[&address(host).ip().to_string()], TlsPolicy::Off);
        tokio::spawn(async move { callouts.ask(Request { recipient, route, probe: false, background }).await })
    }

    pub async fn probe(&self, recipient: &str) -> Report {
        self.ask_route(recipient, &route(&["10.0.0.1"], TlsPolicy::Opportunistic), true).await
    }

    /// Ends the idle sessions; the next question opens one.
    pub async fn end_sessions(&self) {
        self.callouts.ask_anew(None);
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    }

    /// Ends all sessions, so that it can be asserted how they ended.
    pub async fn end(&self) {
        self.callouts.shutdown(std::time::Duration::from_secs(10)).await;
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    }
}

pub fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::AcceptsAll(_) => "accepts all",
        Outcome::Accepted(_) => "accepted",
        Outcome::Rejected(_) => "rejected",
        Outcome::Deferred(_) => "deferred",
        Outcome::NeedsSmtpUtf8 => "needs smtputf8",
        Outcome::NullSenderRefused(_) => "null sender refused",
        Outcome::Unreachable(_) => "unreachable",
        Outcome::NullMx => "null mx",
        Outcome::Busy => "busy",
    }
}

pub fn dialogue(report: &Report) -> String {
    let lines = report.transcript.lines().map(|line| {
        let mark = match line.who {
            Who::Us => '>',
            Who::Them => '<',
            Who::Note => '*',
        };
        format!("{:>8} ms {mark} {}\n", line.at.as_millis(), String::from_utf8_lossy(line.line))
    });
    lines.collect()
}
