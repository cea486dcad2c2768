//! A gateway over a network in memory, under simulated time: an engine with real callouts, simulated destinations, and clients.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use callahead_cache::{Cache, Options, Timestamp};
use callahead_callout::{
    BoxFuture, BoxStream, Callouts, Dial, MxAnswer, Resolve, ResolveError, Route, Settings as CalloutSettings,
    TlsClient, TlsPolicy,
};
use callahead_engine::{
    Directory, DomainConfig, Engine, LogObserver, Parts, Policy, Settings as EngineSettings, TestClock,
};
use callahead_listeners::Counters;
use callahead_listeners::gateway::{Gateway, Settings};
use callahead_smtp::{Domain, DomainName};
use callahead_testbed::{Destination, Message, Net, Place, Script};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
struct NetDialer(Net, Unasked);

impl Dial for NetDialer {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = self.0.dial(address).await?;
            Ok(Box::new(Overheard { stream, unasked: self.1.clone(), said: Vec::new() }) as BoxStream)
        })
    }
}

/// What destinations say without being asked: whoever reads next has it. Clones are the same.
#[derive(Clone, Default)]
pub struct Unasked(Arc<Mutex<Saying>>);

#[derive(Default)]
struct Saying {
    now: Vec<u8>,
    /// Behind the reply to a command that begins so.
    behind: Option<(&'static str, &'static str)>,
    /// The command was said, and its reply comes next.
    is_due: bool,
}

impl Unasked {
    pub fn say(&self, reply: &str) {
        self.0.lock().unwrap().now.extend(format!("{reply}\r\n").into_bytes());
    }

    /// Once, behind the proper reply to a command that begins so.
    pub fn say_behind(&self, command: &'static str, reply: &'static str) {
        self.0.lock().unwrap().behind = Some((command, reply));
    }
}

struct Overheard {
    stream: DuplexStream,
    unasked: Unasked,
    /// Of that, what came here.
    said: Vec<u8>,
}

impl AsyncRead for Overheard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let said = std::mem::take(&mut self.unasked.0.lock().unwrap().now);
        self.said.extend(said);
        if !self.said.is_empty() {
            let length = self.said.len().min(buffer.remaining());
            buffer.put_slice(&self.said.drain(..length).collect::<Vec<u8>>());
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let mut saying = self.unasked.0.lock().unwrap();
        if std::mem::take(&mut saying.is_due)
            && let Some((_, reply)) = saying.behind.take()
        {
            saying.now.extend(format!("{reply}\r\n").into_bytes());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let mut saying = self.unasked.0.lock().unwrap();
        saying.is_due |= saying.behind.is_some_and(|(command, _)| octets.starts_with(command.as_bytes()));
        drop(saying);
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// No names: routes are addresses.
struct NoNames;

impl Resolve for NoNames {
    fn mx<'a>(&'a self, domain: &'a DomainName) -> BoxFuture<'a, Result<MxAnswer, ResolveError>> {
        Box::pin(async move { Ok(if domain.as_str() == "null.example" { MxAnswer::Null } else { MxAnswer::None }) })
    }
    fn addresses<'a>(&'a self, host: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move { Err(ResolveError::NoAddress(host.to_string())) })
    }
}

pub struct World {
    pub net: Net,
    pub unasked: Unasked,
    pub gateway: Gateway,
    pub engine: Engine,
    pub counters: Arc<Counters>,
    pub shutdown: CancellationToken,
    _folder: TempDir,
}

/// Another connection than the first has its own runtime task; this is what a test holds of it.
pub struct Client {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
    pub serving: JoinHandle<()>,
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub fn settings() -> Settings {
    Settings::default()
}

/// The domains of most tests: `one.example` and `also.example` at 10.0.0.1, `two.example` at 10.0.0.2, `filtered.example` verified
/// at 10.0.0.1 and relayed to 10.0.0.2.
pub fn domains() -> Vec<DomainConfig> {
    let route = |hops: &[&str]| Route {
        hops: hops.iter().map(|hop| hop.parse().unwrap()).collect(),
        tls: TlsPolicy::Opportunistic,
    };
    let filtered = DomainConfig {
        relay: Some(Arc::new(route(&["10.0.0.2"]))),
        ..DomainConfig::new("filtered.example", route(&["10.0.0.1"]))
    };
    let spoken = DomainConfig {
        policy: Policy { pass_reply_text: true, ..Policy::default() },
        ..DomainConfig::new("spoken.example", route(&["10.0.0.1"]))
    };
    vec![
        DomainConfig::new("one.example", route(&["10.0.0.1"])),
        DomainConfig::new("also.example", route(&["10.0.0.1"])),
        DomainConfig::new("two.example", route(&["10.0.0.2"])),
        DomainConfig::new("three.example", route(&["10.0.0.9", "10.0.0.1"])),
        DomainConfig::new("null.example", route(&["mx"])),
        filtered,
        spoken,
    ]
}

/// What clients begin with.
pub const MAIL: &str = "MAIL FROM:<sender@elsewhere.example>";

pub const MAILBOXES: [&str; 10] = [
    "anna@one.example",
    "ben@one.example",
    "d\u{f6}ner@one.example",
    "anna@also.example",
    "anna@two.example",
    "anna@three.example",
    "anna@filtered.example",
    "anna@spoken.example",
    "\"a b\"@one.example",
    "\"a..b\"@one.example",
];

impl World {
    pub fn new(settings: Settings) -> Self {
        Self::with_domains(settings, domains())
    }

    pub fn with_domains(settings: Settings, domains: Vec<DomainConfig>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (net, unasked) = (Net::default(), Unasked::default());
        let now = Timestamp(1_800_000_000_000);
        let node = Domain::parse("filter.example").unwrap();
        let callouts = Callouts::new(
            CalloutSettings::new(node.clone()),
            NetDialer(net.clone(), unasked.clone()),
            NoNames,
            TlsClient::new(&[]).unwrap(),
        );
        let engine = Engine::new(Parts {
            cache: Cache::open(
                &folder.path().join("cache"),
                &Options { map_size: 16 << 20, ..Options::default() },
                now,
            )
            .unwrap(),
            callouts: Arc::new(callouts.clone()),
            clock: Arc::new(TestClock::at(now)),
            directory: Directory::new(domains).unwrap(),
            settings: EngineSettings::default(),
            observer: Arc::new(LogObserver),
        });
        let gateway = Gateway::new(engine.clone(), callouts, node, None, settings);
        Self {
            net,
            unasked,
            gateway,
            engine,
            counters: Arc::default(),
            shutdown: CancellationToken::new(),
            _folder: folder,
        }
    }

    /// With one destination at 10.0.0.1 that takes messages.
    pub fn one() -> (Self, Destination) {
        let world = Self::new(settings());
        let destination = world.server(1, taking());
        (world, destination)
    }

    pub fn server(&self, n: u8, script: Script) -> Destination {
        let destination = Destination::new(script);
        self.net.set(SocketAddr::from(([10, 0, 0, n], 25)), Place::Server(destination.clone()));
        destination
    }

    pub fn connect_from(&self, ip: &str) -> Client {
        let (near, far) = tokio::io::duplex(65_536);
        let (gateway, counters, shutdown) = (self.gateway.clone(), Arc::clone(&self.counters), self.shutdown.clone());
        let ip: IpAddr = ip.parse().unwrap();
        let serving = tokio::spawn(async move { gateway.handle(far, ip, &counters, shutdown).await });
        Client { stream: Box::new(near), read: Vec::new(), serving }
    }

    /// A client past its EHLO.
    pub async fn client(&self) -> Client {
        let mut client = self.connect_from("192.0.2.7");
        assert_eq!(client.reply().await, "220 filter.example ESMTP");
        assert!(client.say("EHLO client.example").await.starts_with("250-filter.example"));
        client
    }

    /// A client past a sender and a recipient that were accepted.
    pub async fn client_with(&self, recipient: &str) -> Client {
        let mut client = self.client().await;
        client.envelope(recipient).await;
        client
    }
}

/// A destination that takes messages for all mailboxes of the tests.
pub fn taking() -> Script {
    Script::taking_messages(MAILBOXES)
}

impl Client {
    pub async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).await.unwrap();
    }

    /// Whether it could be sent.
    pub async fn try_send(&mut self, octets: &[u8]) -> bool {
        self.stream.write_all(octets).await.is_ok()
    }

    /// One reply, its lines joined by `\n`; empty at the end.
    pub async fn reply(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            if let Some(at) = self.read.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..at + 2).take(at).collect();
                let line = String::from_utf8(line).unwrap();
                let last = line.as_bytes().get(3) != Some(&b'-');
                lines.push(line);
                if last {
                    return lines.join("\n");
                }
                continue;
            }
            self.read.reserve(4096);
            match self.stream.read_buf(&mut self.read).await {
                Ok(1..) => {}
                _ => return lines.join("\n"),
            }
        }
    }

    pub async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    pub async fn expect(&mut self, line: &str, reply: &str) {
        let said = self.say(line).await;
        assert!(said.starts_with(reply), "{line:?} got {said:?} and not {reply:?}");
    }

    pub async fn envelope(&mut self, recipient: &str) {
        self.expect(MAIL, "250 2.1.0").await;
        self.expect(&format!("RCPT TO:<{recipient}>"), "250 2.1.5").await;
    }

    /// DATA with what is between, which has its dots and its end; gives the last reply.
    pub async fn data(&mut self, stuffed: impl AsRef<[u8]>) -> String {
        self.expect("DATA", "354").await;
        self.send(stuffed).await;
        self.reply().await
    }

    pub async fn quit(mut self) {
        self.expect("QUIT", "221 2.0.0").await;
        assert_eq!(self.reply().await, "");
        self.serving.await.unwrap();
    }

    /// Gone without a word.
    pub async fn vanish(self) {
        drop(self.stream);
        self.serving.await.unwrap();
    }

    pub async fn is_closed(&mut self) -> bool {
        self.reply().await.is_empty()
    }

    /// The same connection, encrypted.
    pub async fn encrypt(self, root: rustls::pki_types::CertificateDer<'static>, name: &str) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, self.stream).await.unwrap();
        Self { stream: Box::new(stream), read: Vec::new(), serving: self.serving }
    }
}

/// The content without our Received line, which has to be there.
pub fn without_trace(message: &Message) -> Vec<u8> {
    let text = &message.content;
    assert!(text.starts_with(b"Received: from client.example ([192.0.2.7])\r\n\tby filter.example with "), "{}", {
        String::from_utf8_lossy(&text[..text.len().min(200)])
    });
    let mut end = 0;
    for _ in 0..3 {
        end += text[end..].iter().position(|octet| *octet == b'\n').unwrap() + 1;
    }
    text[end..].to_vec()
}

/// Lets tasks in the background (QUIT) come to their end.
pub async fn settle() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}
