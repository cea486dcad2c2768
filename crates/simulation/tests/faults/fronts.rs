//! The listeners, each with a client that reads its answer. One more is a variant of [`Front`], a line in [`Front::ALL`] and an
//! arm in [`Fronts::serve`] and [`Fronts::ask`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use callahead_callout::{Callouts, Guard};
use callahead_control::{Control, DecisionLog, Domains, LogSettings, Passwords};
use callahead_engine::{Engine, SystemClock};
use callahead_listeners::gateway::{self, Gateway};
use callahead_listeners::{Counters, Limits, Listen, MODE_OWNER, milter, policy, socketmap};
use callahead_smtp::Domain;
use callahead_web::{
    Administration, Events, HttpLimits, Metrics, Readiness, State, Throttle, admin_router, serve_http,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// Made once: it hashes, which takes its time on purpose.
static PASSWORDS: LazyLock<Passwords> = LazyLock::new(|| Passwords::new().unwrap());

/// Who sends the messages; callouts never name anybody.
pub const SENDER: &str = "sender@elsewhere.example";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    Policy,
    Socketmap,
    Milter,
    Gateway,
    Admin,
}

/// What a client makes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Accept,
    Reject,
    Defer,
}

/// All of them, before one engine.
pub struct Fronts {
    folder: PathBuf,
    /// It takes any stream; the others listen.
    gateway: Gateway,
}

impl Front {
    pub const ALL: [Self; 5] = [Self::Policy, Self::Socketmap, Self::Milter, Self::Gateway, Self::Admin];

    /// The decision table's row, where the answer tells.
    pub fn row(self, answer: &str) -> Option<u8> {
        let (_, rest) = answer.split_once(r#""row":"#).filter(|_| self == Self::Admin)?;
        rest.split(',').next()?.parse().ok()
    }

    fn seen(self, answer: &str) -> Option<Seen> {
        let has = |words: &[&str]| words.iter().any(|word| answer.contains(word));
        match self {
            Self::Policy if answer == "action=DUNNO\n\n" => Some(Seen::Accept),
            Self::Policy if answer.starts_with("action=5") => Some(Seen::Reject),
            Self::Policy if answer.starts_with("action=4") => Some(Seen::Defer),
            Self::Socketmap if has(&[":OK "]) => Some(Seen::Accept),
            Self::Socketmap if has(&[":NOTFOUND "]) => Some(Seen::Reject),
            Self::Socketmap if has(&[":TEMP "]) => Some(Seen::Defer),
            Self::Milter if answer == "c" => Some(Seen::Accept),
            Self::Milter if answer.starts_with("y5") => Some(Seen::Reject),
            Self::Milter if answer.starts_with("y4") => Some(Seen::Defer),
            Self::Gateway if answer.starts_with("250 2.1.5 ") => Some(Seen::Accept),
            Self::Gateway if answer.starts_with('5') => Some(Seen::Reject),
            // A 421 would be this node's own word, that it closes.
            Self::Gateway if answer.starts_with("45") => Some(Seen::Defer),
            Self::Admin if has(&[r#""action":"accept""#]) => Some(Seen::Accept),
            Self::Admin if has(&[r#""action":"reject","code":5"#]) => Some(Seen::Reject),
            Self::Admin if has(&[r#""action":"defer","code":4"#]) => Some(Seen::Defer),
            _ => None,
        }
    }
}

impl Fronts {
    fn socket(&self, front: Front) -> PathBuf {
        self.folder.join(format!("{front:?}"))
    }

    /// Listens on Unix sockets in the folder: one end's write is there at the other's next read, so simulated time stands meanwhile.
    pub async fn serve(folder: &Path, engine: &Engine, callouts: &Callouts) -> Self {
        let node = Domain::parse("filter.example").unwrap();
        let settings = gateway::Settings::default();
        let gateway = Gateway::new(engine.clone(), callouts.clone(), node, None, settings);
        let fronts = Self { folder: folder.to_owned(), gateway };
        for front in Front::ALL {
            if front != Front::Gateway {
                fronts.listen(front, engine.clone(), callouts).await;
            }
        }
        fronts
    }

    async fn listen(&self, front: Front, engine: Engine, callouts: &Callouts) {
        let bound = Listen::Unix(self.socket(front)).bind(MODE_OWNER).await.unwrap();
        let stop = CancellationToken::new();
        match front {
            Front::Policy => drop(tokio::spawn(policy::serve(bound, engine, Limits::default(), stop))),
            Front::Socketmap => drop(tokio::spawn(socketmap::serve(bound, engine, Limits::default(), stop))),
            Front::Milter => drop(tokio::spawn(milter::serve(bound, engine, milter::limits(), stop))),
            Front::Gateway => unreachable!("it has no Unix socket"),
            Front::Admin => {
                let clock = Arc::new(SystemClock::new());
                // Nothing of these is asked for by a question.
                let at = |name: &str| self.folder.join(name);
                let log = DecisionLog::open(&at("log.db"), LogSettings::default(), clock.clone()).unwrap();
                let administration = Administration {
                    control: Control::open(&at("control.db")).unwrap(),
                    domains: Arc::new(Domains::new(engine.clone(), log.clone())),
                    log,
                    events: Events::new(clock),
                    guard: Guard::default(),
                    passwords: PASSWORDS.clone(),
                    node: "node.example".into(),
                    shutdown: stop.clone(),
                    throttle: Throttle::default(),
                };
                let state = State {
                    administration,
                    engine,
                    callouts: Some(callouts.clone()),
                    metrics: Arc::new(Metrics::default()),
                    readiness: Arc::new(Readiness::default()),
                    listeners: Arc::new([]),
                };
                tokio::spawn(serve_http(bound, admin_router(state), HttpLimits::default(), stop));
            }
        }
    }

    /// Asks as its clients do and gives the answer with the words in which it came.
    pub async fn ask(&self, front: Front, recipient: &str) -> (Seen, String) {
        let answer = match front {
            Front::Gateway => self.ask_gateway(recipient).await,
            Front::Milter => self.ask_milter(recipient).await,
            Front::Policy => {
                let words = format!("request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient={recipient}\n\n");
                self.exchange(front, &words, |answer| answer.ends_with(b"\n\n")).await
            }
            Front::Socketmap => {
                let words = format!("{}:recipients {recipient},", "recipients ".len() + recipient.len());
                self.exchange(front, &words, |answer| answer.ends_with(b",")).await
            }
            Front::Admin => {
                let words = format!(
                    "GET /api/v1/recipients/{recipient}/verdict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                );
                self.exchange(front, &words, |_| false).await
            }
        };
        (front.seen(&answer).unwrap_or_else(|| panic!("{front:?} said {answer:?}")), answer)
    }

    async fn exchange(&self, front: Front, words: &str, is_whole: impl Fn(&[u8]) -> bool) -> String {
        let mut stream = UnixStream::connect(self.socket(front)).await.unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
        read(&mut stream, is_whole).await
    }

    /// An MTA that can't leave a step's reply out, so that each step has one.
    async fn ask_milter(&self, recipient: &str) -> String {
        let mut stream = UnixStream::connect(self.socket(Front::Milter)).await.unwrap();
        let packet = |command: u8, data: &[u8]| {
            let length = u32::try_from(data.len() + 1).unwrap().to_be_bytes();
            [&length[..], &[command], data].concat()
        };
        let negotiation = [6_u32, 0x1ff, 0].map(u32::to_be_bytes).concat();
        let mut told = String::new();
        for (command, data) in [
            (b'O', negotiation),
            (b'M', format!("<{SENDER}>\0").into_bytes()),
            (b'R', format!("<{recipient}>\0").into_bytes()),
        ] {
            stream.write_all(&packet(command, &data)).await.unwrap();
            let length = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
            let mut reply = vec![0; length];
            stream.read_exact(&mut reply).await.unwrap();
            told = String::from_utf8_lossy(&reply).into_owned();
            assert!(command != b'M' || told == "c", "MAIL was answered by {told:?}");
        }
        stream.write_all(&packet(b'Q', b"")).await.unwrap();
        told
    }

    /// A client that gives the message up once it knows.
    async fn ask_gateway(&self, recipient: &str) -> String {
        let (mut client, server) = tokio::io::duplex(4096);
        let gateway = self.gateway.clone();
        let serving = tokio::spawn(async move {
            let counters = Arc::<Counters>::default();
            gateway.handle(server, [192, 0, 2, 7].into(), &counters, CancellationToken::new()).await;
        });
        let mut told = String::new();
        for (words, due) in [
            (String::new(), "220 "),
            ("EHLO client.example\r\n".into(), "250-"),
            (format!("MAIL FROM:<{SENDER}>\r\n"), "250 2.1.0 "),
            (format!("RCPT TO:<{recipient}>\r\n"), ""),
            ("QUIT\r\n".into(), "221 "),
        ] {
            client.write_all(words.as_bytes()).await.unwrap();
            let reply = read(&mut client, |reply| {
                let last = reply.strip_suffix(b"\r\n").map(|lines| lines.rsplit(|octet| *octet == b'\n').next());
                last.flatten().is_some_and(|last| last.get(3) == Some(&b' '))
            })
            .await;
            assert!(reply.starts_with(due), "{words:?} got {reply:?}");
            if due.is_empty() {
                told = reply;
            }
        }
        serving.await.unwrap();
        told
    }
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, is_whole: impl Fn(&[u8]) -> bool) -> String {
    let mut answer = Vec::new();
    while !is_whole(&answer) && stream.read_buf(&mut answer).await.unwrap() > 0 {}
    String::from_utf8(answer).unwrap()
}
