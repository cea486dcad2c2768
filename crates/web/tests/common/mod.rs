//! An engine over a scripted destination, served through HTTP, and a client that speaks plain HTTP/1.1.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use callahead_cache::{Cache, Options, Timestamp};
use callahead_callout::{Ask, BoxFuture, Guard, Hop, Outcome, Report, Request, Route, TlsPolicy, Transcript};
use callahead_control::{Actor, Control, DecisionLog, Domains, LogSettings, Passwords};
use callahead_engine::{
    Decision, Directory, DomainConfig, Engine, Listener, Parts, Policy, Question, Settings, TestClock,
};
use callahead_listeners::{Listen, ListenError, MODE_OWNER, Stream};
use callahead_smtp::{EnhancedCode, Reply};
use callahead_web::{
    Administration, Events, HttpLimits, ListenerStatus, Metrics, Readiness, State, Throttle, serve_http,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// `bad...` is refused, `any` is everybody, `slow` waits for the gate, the rest exists.
struct Script(Arc<Semaphore>);

impl Ask for Script {
    fn ask(&self, request: Request) -> BoxFuture<'_, Report> {
        Box::pin(async move {
            let local = request.recipient.local_part();
            if local == "slow" {
                self.0.acquire().await.unwrap().forget();
            }
            let reply = |code, class| Reply::new(code, EnhancedCode::new(class, 1, 1), "words");
            let outcome = match local {
                "any" => Outcome::AcceptsAll(reply(250, 2)),
                _ if local.starts_with("bad") => Outcome::Rejected(reply(550, 5)),
                _ => Outcome::Accepted(reply(250, 2)),
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

/// Who asks at a place.
pub struct Client {
    pub at: Listen,
}

pub struct Bench {
    client: Client,
    state: State,
    pub engine: Engine,
    pub clock: Arc<TestClock>,
    pub gate: Arc<Semaphore>,
    pub readiness: Arc<Readiness>,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<()>,
    pub folder: TempDir,
    pub administration: Administration,
}

pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    /// A header's value, by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn location(&self) -> String {
        self.header("location").unwrap_or_default().to_owned()
    }

    /// The cookie that was set, as it is sent back.
    pub fn cookie(&self) -> String {
        self.header("set-cookie").unwrap_or_default().split(';').next().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    #[track_caller]
    pub fn created(&self) -> Value {
        assert_eq!(self.status, 201, "{}", self.body);
        self.json()
    }

    /// The sentence of a problem of this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        problem["detail"].as_str().unwrap().to_owned()
    }
}

impl Bench {
    pub async fn start(router: fn(State) -> Router, limits: HttpLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = Listen::Unix(folder.path().join("http.sock"));
        Self::start_at(router, limits, folder, Ok(at)).await
    }

    pub async fn start_tcp(router: fn(State) -> Router, limits: HttpLimits) -> Self {
        Self::start_at(router, limits, tempfile::tempdir().unwrap(), "127.0.0.1:0".parse()).await
    }

    async fn start_at(
        router: fn(State) -> Router,
        limits: HttpLimits,
        folder: TempDir,
        listen: Result<Listen, ListenError>,
    ) -> Self {
        let now = Timestamp(1_800_000_000_000);
        let (gate, clock) = (Arc::new(Semaphore::new(0)), Arc::new(TestClock::at(now)));
        let options = Options { map_size: 16 << 20, ..Options::default() };
        let route = Route { hops: vec![Hop::Mx], tls: TlsPolicy::Opportunistic };
        let domains =
            ["example.com", "other.example", "any.example"].map(|name| DomainConfig::new(name, route.clone()));
        let metrics = Arc::new(Metrics::default());
        let control = Control::open(&folder.path().join("control.db")).unwrap();
        let log = DecisionLog::open(&folder.path().join("log.db"), LogSettings::default(), clock.clone()).unwrap();
        let events = Events::new(clock.clone());
        let engine = Engine::new(Parts {
            cache: Cache::open(&folder.path().join("cache"), &options, now).unwrap(),
            callouts: Arc::new(Script(gate.clone())),
            clock: clock.clone(),
            directory: Directory::default(),
            settings: Settings::default(),
            observer: Arc::new((metrics.clone(), (log.clone(), events.clone()))),
        });
        let registry = Arc::new(Domains::new(engine.clone(), log.clone()));
        registry.set_file(domains.into(), Policy::default(), TlsPolicy::Opportunistic, &control.local());
        let followed = registry.clone();
        control.set_follower(move |local| followed.follow(local));
        let start = Actor { who: "configuration file".into(), from: "start".into() };
        registry.settle(&control, &start).await.unwrap();
        let shutdown = CancellationToken::new();
        let guard = Guard::default();
        guard.set(Guard::default_networks(), []);
        let administration = Administration {
            control,
            domains: registry,
            log,
            events,
            guard,
            passwords: Passwords::new().unwrap(),
            node: "filter.example".into(),
            shutdown: shutdown.clone(),
            throttle: Throttle::default(),
        };
        let bound = listen.unwrap().bind(MODE_OWNER).await.unwrap();
        let readiness = Arc::new(Readiness::default());
        let state = State {
            engine: engine.clone(),
            callouts: None,
            metrics,
            readiness: readiness.clone(),
            listeners: [ListenerStatus::of("http", &bound)].into(),
            administration: administration.clone(),
        };
        let at = bound.local_addr().clone();
        let serving = tokio::spawn(serve_http(bound, router(state.clone()), limits, shutdown.clone()));
        let client = Client { at };
        Self { client, state, engine, clock, gate, readiness, shutdown, serving, folder, administration }
    }

    /// What the router was made of.
    pub fn state(&self) -> State {
        self.state.clone()
    }

    /// The same state behind another router.
    pub async fn beside(&self, router: fn(State) -> Router) -> Client {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("beside{}.sock", NUMBER.fetch_add(1, Ordering::Relaxed));
        let bound = Listen::Unix(self.folder.path().join(name)).bind(MODE_OWNER).await.unwrap();
        let at = bound.local_addr().clone();
        let router = router(self.state.clone());
        tokio::spawn(serve_http(bound, router, HttpLimits::default(), self.shutdown.clone()));
        Client { at }
    }

    /// Asks as an MTA does.
    pub async fn decide(&self, recipient: &str) -> Decision {
        self.engine.decide(Question::new(recipient.as_bytes(), Listener::Policy)).await
    }

    /// Waits until what was decided is in the log.
    pub async fn logged(&self) {
        while self.administration.log.counters().waiting > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Asks for each, so that it is kept.
    pub async fn keep(&self, recipients: &[&str]) {
        for recipient in recipients {
            self.get(&format!("/api/v1/recipients/{recipient}/verdict")).await.ok();
        }
        self.engine.shutdown(Duration::from_secs(5)).await;
    }
}

impl Deref for Bench {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Client {
    pub async fn connect(&self) -> Stream {
        match &self.at {
            Listen::Tcp(at) => Stream::Tcp(tokio::net::TcpStream::connect(at).await.unwrap()),
            Listen::Unix(path) => Stream::Unix(tokio::net::UnixStream::connect(path).await.unwrap()),
        }
    }

    pub async fn request(&self, method: &str, target: &str) -> Response {
        self.send(method, target, &[], "").await
    }

    /// With a body of JSON and a token.
    pub async fn call(&self, token: &str, method: &str, target: &str, body: Option<&Value>) -> Response {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("Content-Type", "application/json")];
        if !token.is_empty() {
            headers.push(("Authorization", &bearer));
        }
        self.send(method, target, &headers, &body.map(Value::to_string).unwrap_or_default()).await
    }

    pub async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut stream = self.connect().await;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(stream.read_u8().await.unwrap()));
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = Response { status, head, body: String::new() };
        // A stream of events does not end by itself.
        if response.header("content-type") != Some("text/event-stream") {
            stream.read_to_string(&mut response.body).await.unwrap();
        }
        response
    }

    pub async fn get(&self, target: &str) -> Response {
        self.request("GET", target).await
    }

    pub async fn delete(&self, target: &str) -> Response {
        self.request("DELETE", target).await
    }
}
