//! An engine over a scripted destination, and a client that talks to a listener.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use callahead_cache::{Cache, Options, Timestamp};
use callahead_callout::{Ask, BoxFuture, Hop, Outcome, Report, Request, Route, TlsPolicy, Transcript};
use callahead_engine::{Callouts, Directory, DomainConfig, Engine, LogObserver, Parts, Policy, Settings, TestClock};
use callahead_listeners::{Bound, Counters, Limits, Listen, MODE_EVERYONE, Stream, milter, policy, socketmap};
use callahead_smtp::{EnhancedCode, Reply};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Answers by the local part. `slow...` waits for a permit of `gate`.
pub struct Script {
    pub gate: Semaphore,
    pub asked: AtomicUsize,
}

impl Ask for Script {
    fn ask(&self, request: Request) -> BoxFuture<'_, Report> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let local = request.recipient.local_part();
            if local.starts_with("slow") {
                self.gate.acquire().await.unwrap().forget();
            }
            let reply =
                |code, enhanced| Reply::new(code, EnhancedCode::parse_prefix(enhanced).map(|(e, _)| e), "words");
            let outcome = match local {
                "down" => Outcome::Unreachable(Vec::new()),
                "grey" => Outcome::Deferred(reply(450, "4.2.0 ")),
                "bounce" => Outcome::NullSenderRefused(reply(550, "5.7.1 ")),
                "nullmx" => Outcome::NullMx,
                "busy" => Outcome::Busy,
                "full" => Outcome::Rejected(reply(552, "5.2.2 ")),
                "disabled" => Outcome::Rejected(reply(550, "5.2.1 ")),
                "any" => Outcome::AcceptsAll(reply(250, "2.1.5 ")),
                _ if local.starts_with("bad") || local.starts_with("slowbad") => {
                    Outcome::Rejected(reply(550, "5.1.1 "))
                }
                _ => Outcome::Accepted(reply(250, "2.1.5 ")),
            };
            Report {
                outcome,
                not_accept_all: false,
                destination: Some("mail.example.net:25".into()),
                elapsed: Duration::ZERO,
                transcript: Arc::new(Transcript::start()),
            }
        })
    }
}

/// A listener under test, with everything behind it.
pub struct Bench {
    pub at: Listen,
    pub engine: Engine,
    pub script: Arc<Script>,
    pub counters: Arc<Counters>,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<()>,
    pub folder: TempDir,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Policy,
    Socketmap,
    Milter,
}

fn domain(name: &str, policy: Policy) -> DomainConfig {
    DomainConfig {
        name: name.into(),
        route: Arc::new(Route { hops: vec![Hop::Mx], tls: TlsPolicy::Opportunistic }),
        relay: None,
        policy,
        valid: ["listed".to_owned()].into(),
        invalid: ["gone".to_owned()].into(),
    }
}

fn directory() -> Directory {
    // One domain for each answer that is kept for a whole domain, so that tests don't meet.
    let plain = ["example.com", "any.example", "bounce.example", "null.example", "*.wild.example"];
    let mut domains: Vec<_> = plain.iter().map(|name| domain(name, Policy::default())).collect();
    domains.push(domain("trial.example", Policy { reject_code: 450, ..Policy::default() }));
    domains.push(domain("watch.example", Policy { callouts: Callouts::Observe, ..Policy::default() }));
    domains.push(domain("off.example", Policy { callouts: Callouts::Off, ..Policy::default() }));
    Directory::new(domains).unwrap()
}

pub fn engine(folder: &TempDir) -> (Engine, Arc<Script>) {
    let now = Timestamp(1_800_000_000_000);
    let script = Arc::new(Script { gate: Semaphore::new(0), asked: AtomicUsize::new(0) });
    let options = Options { map_size: 16 << 20, ..Options::default() };
    let engine = Engine::new(Parts {
        cache: Cache::open(&folder.path().join("cache"), &options, now).unwrap(),
        callouts: script.clone(),
        clock: Arc::new(TestClock::at(now)),
        directory: directory(),
        settings: Settings::default(),
        observer: Arc::new(LogObserver),
    });
    (engine, script)
}

impl Bench {
    pub async fn tcp(kind: Kind, limits: Limits) -> Self {
        Self::at(kind, limits, |_| "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn unix(kind: Kind, limits: Limits) -> Self {
        Self::at(kind, limits, |folder| Listen::Unix(folder.path().join("test.sock"))).await
    }

    async fn at(kind: Kind, limits: Limits, listen: impl Fn(&TempDir) -> Listen) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (engine, script) = engine(&folder);
        let bound: Bound = listen(&folder).bind(MODE_EVERYONE).await.unwrap();
        let (at, counters) = (bound.local_addr().clone(), bound.counters());
        let shutdown = CancellationToken::new();
        let serving = match kind {
            Kind::Policy => tokio::spawn(policy::serve(bound, engine.clone(), limits, shutdown.clone())),
            Kind::Socketmap => tokio::spawn(socketmap::serve(bound, engine.clone(), limits, shutdown.clone())),
            Kind::Milter => tokio::spawn(milter::serve(bound, engine.clone(), limits, shutdown.clone())),
        };
        Self { at, engine, script, counters, shutdown, serving, folder }
    }

    pub async fn connect(&self) -> Client {
        Client(match &self.at {
            Listen::Tcp(address) => Stream::Tcp(TcpStream::connect(address).await.unwrap()),
            Listen::Unix(path) => Stream::Unix(UnixStream::connect(path).await.unwrap()),
        })
    }
}

pub struct Client(pub Stream);

impl Client {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// One answer of the policy protocol, without its end.
    pub async fn action(&mut self) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n\n") {
            answer.push(self.0.read_u8().await.expect("an answer"));
        }
        String::from_utf8(answer).unwrap().trim_end().to_owned()
    }

    /// One netstring's content.
    pub async fn netstring(&mut self) -> String {
        let mut length = 0;
        loop {
            match self.0.read_u8().await.expect("an answer") {
                b':' => break,
                digit => length = length * 10 + usize::from(digit - b'0'),
            }
        }
        let mut content = vec![0; length + 1];
        self.0.read_exact(&mut content).await.unwrap();
        assert_eq!(content.pop(), Some(b','));
        String::from_utf8(content).unwrap()
    }

    /// One reply of the milter protocol: its command and its data, as text.
    pub async fn packet(&mut self) -> String {
        let length = self.0.read_u32().await.expect("a reply");
        let mut packet = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut packet).await.unwrap();
        String::from_utf8_lossy(&packet).trim_end_matches('\0').to_owned()
    }

    /// Everything until the listener closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is a close too: the listener had not read everything.
        let _ = self.0.read_to_end(&mut rest).await;
        rest
    }
}

pub fn rcpt(recipient: &str) -> String {
    format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=s@elsewhere.example\nrecipient={recipient}\n\
         client_address=192.0.2.9\ninstance=1.2.3\n\n"
    )
}

/// A packet of the milter protocol.
pub fn packet(command: char, data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    let length = u32::try_from(data.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &[u8::try_from(command).unwrap()], data].concat()
}

pub fn lookup(map: &str, key: &str) -> String {
    let content = format!("{map} {key}");
    format!("{}:{content},", content.len())
}
