//! The listeners, each with a client that reads its answer. One more is a variant of [`Front`], a line in [`Front::ALL`] and an
//! arm in [`Front::serve`] and [`Front::ask`].

use std::path::Path;
use std::sync::{Arc, LazyLock};

use callahead_callout::{Callouts, Guard};
use callahead_control::{Control, DecisionLog, Domains, LogSettings, Passwords};
use callahead_engine::{Engine, SystemClock};
use callahead_listeners::{Limits, Listen, MODE_OWNER, policy, socketmap};
use callahead_web::{
    Administration, Events, HttpLimits, Metrics, Readiness, State, Throttle, admin_router, serve_http,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// Made once: it hashes, which takes its time on purpose.
static PASSWORDS: LazyLock<Passwords> = LazyLock::new(|| Passwords::new().unwrap());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    Policy,
    Socketmap,
    Admin,
}

/// What a client makes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Accept,
    Reject,
    Defer,
}

impl Front {
    pub const ALL: [Self; 3] = [Self::Policy, Self::Socketmap, Self::Admin];

    fn socket(self, folder: &Path) -> std::path::PathBuf {
        folder.join(format!("{self:?}"))
    }

    /// Listens on a Unix socket in the folder: one end's write is there at the other's next read, so simulated time stands meanwhile.
    pub async fn serve(self, folder: &Path, engine: &Engine, callouts: &Callouts) {
        let bound = Listen::Unix(self.socket(folder)).bind(MODE_OWNER).await.unwrap();
        let (engine, stop) = (engine.clone(), CancellationToken::new());
        match self {
            Self::Policy => drop(tokio::spawn(policy::serve(bound, engine, Limits::default(), stop))),
            Self::Socketmap => drop(tokio::spawn(socketmap::serve(bound, engine, Limits::default(), stop))),
            Self::Admin => {
                let clock = Arc::new(SystemClock::new());
                // Every front is served in a folder of its own; nothing of these is asked for by a question.
                let at = |name: &str| folder.join(name);
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

    /// Asks as its clients do, and gives the answer with the words in which it came.
    pub async fn ask(self, folder: &Path, recipient: &str) -> (Seen, String) {
        let mut stream = UnixStream::connect(self.socket(folder)).await.unwrap();
        let question = match self {
            Self::Policy => {
                format!("request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient={recipient}\n\n")
            }
            Self::Socketmap => format!("{}:recipients {recipient},", "recipients ".len() + recipient.len()),
            Self::Admin => format!(
                "GET /api/v1/recipients/{recipient}/verdict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            ),
        };
        stream.write_all(question.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let whole = |answer: &[u8]| match self {
            Self::Policy => answer.ends_with(b"\n\n"),
            Self::Socketmap => answer.ends_with(b","),
            Self::Admin => false,
        };
        while !whole(&answer) && stream.read_buf(&mut answer).await.unwrap() > 0 {}
        let answer = String::from_utf8(answer).unwrap();
        let has = |words: &[&str]| words.iter().any(|word| answer.contains(word));
        let seen = match self {
            Self::Policy if answer == "action=DUNNO\n\n" => Some(Seen::Accept),
            Self::Policy if answer.starts_with("action=5") => Some(Seen::Reject),
            Self::Policy if answer.starts_with("action=4") => Some(Seen::Defer),
            Self::Socketmap if has(&[":OK "]) => Some(Seen::Accept),
            Self::Socketmap if has(&[":NOTFOUND "]) => Some(Seen::Reject),
            Self::Socketmap if has(&[":TEMP "]) => Some(Seen::Defer),
            Self::Admin if has(&[r#""action":"accept""#]) => Some(Seen::Accept),
            Self::Admin if has(&[r#""action":"reject","code":5"#]) => Some(Seen::Reject),
            Self::Admin if has(&[r#""action":"defer","code":4"#]) => Some(Seen::Defer),
            _ => None,
        };
        (seen.unwrap_or_else(|| panic!("{self:?} said {answer:?}")), answer)
    }

    /// The decision table's row, where the answer tells.
    pub fn row(self, answer: &str) -> Option<u8> {
        let (_, rest) = answer.split_once(r#""row":"#).filter(|_| self == Self::Admin)?;
        rest.split(',').next()?.parse().ok()
    }
}
