//! An engine over a real cache, a clock that the test moves, and a destination that answers by script.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callahead_cache::{Cache, Options, Scope, Timestamp};
use callahead_callout::{
    Ask, BoxFuture, Failure, Hop, HostFailure, Outcome, Report, Request, Route, TlsPolicy, Transcript,
};
use callahead_engine::{
    Alert, AlertKind, Decision, Directory, DomainConfig, Engine, Listener, Observer, Parts, Policy, Question, Settings,
    TestClock,
};
use callahead_smtp::{EnhancedCode, Reply};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub const DESTINATION: &str = "mail1.internal.example:25";

/// What the destination does next; the last one is done for ever.
#[derive(Clone)]
pub enum Act {
    Say(Outcome, bool),
    /// Waits until `Script::go`, then says.
    Wait(Outcome),
    /// Likewise, and the random local part is refused.
    WaitProbed(Outcome),
    Never,
    Panic,
}

#[derive(Clone, Default)]
pub struct Script {
    acts: Arc<Mutex<VecDeque<Act>>>,
    pub requests: Arc<Mutex<Vec<Request>>>,
    pub go: Arc<Notify>,
}

impl Ask for Script {
    fn ask(&self, request: Request) -> BoxFuture<'_, Report> {
        let probed = request.probe;
        self.requests.lock().unwrap().push(request);
        let act = {
            let mut acts = self.acts.lock().unwrap();
            if acts.len() > 1 { acts.pop_front() } else { acts.front().cloned() }
        };
        Box::pin(async move {
            let transcript = Transcript::start();
            let (outcome, not_accept_all) = match act.unwrap_or(Act::Never) {
                Act::Say(outcome, not_accept_all) => (outcome, not_accept_all && probed),
                Act::Wait(outcome) => {
                    self.go.notified().await;
                    (outcome, false)
                }
                Act::WaitProbed(outcome) => {
                    self.go.notified().await;
                    (outcome, probed)
                }
                Act::Never => std::future::pending().await,
                Act::Panic => panic!("a callout that goes wrong by script"),
            };
            let destination = Some(DESTINATION.to_owned());
            Report {
                outcome,
                not_accept_all,
                destination,
                elapsed: transcript.elapsed(),
                transcript: Arc::new(transcript),
            }
        })
    }
}

#[derive(Default)]
pub struct Alerts(pub Mutex<Vec<Alert>>);

impl Observer for Alerts {
    fn decided(&self, _: &Question<'_>, _: &Decision) {}
    fn alert(&self, alert: &Alert) {
        self.0.lock().unwrap().push(alert.clone());
    }
    fn alert_is_over(&self, domain: &str, kind: AlertKind) {
        self.0.lock().unwrap().retain(|alert| alert.domain != domain || alert.kind != kind);
    }
}

pub struct Bench {
    pub engine: Engine,
    pub clock: Arc<TestClock>,
    pub script: Script,
    pub alerts: Arc<Alerts>,
    _dir: tempfile::TempDir,
}

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn options() -> Options {
    Options { map_size: 64 << 20, ..Options::default() }
}

pub fn domain(policy: Policy) -> DomainConfig {
    let route = Route { hops: vec![Hop::Mx], tls: TlsPolicy::Opportunistic };
    DomainConfig { policy, ..DomainConfig::new("one.example", route) }
}

impl Bench {
    pub fn new() -> Self {
        Self::with(domain(Policy::default()), Settings::default())
    }

    pub fn policy(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy::default();
        change(&mut policy);
        Self::with(domain(policy), Settings::default())
    }

    pub fn with(domain: DomainConfig, settings: Settings) -> Self {
        Self::over(domain, settings, |dir| Cache::open(dir, &options(), NOW).unwrap())
    }

    /// A disk that takes no write, and gives no error either.
    pub fn hanging_disk() -> Self {
        let hanging =
            |dir: &std::path::Path| Cache::open_paced(dir, &options(), NOW, std::future::pending::<()>).unwrap();
        Self::over(domain(Policy::default()), Settings::default(), hanging)
    }

    /// A disk that takes writes until what is given says that it fails: from then on each is an error.
    pub fn failing_disk() -> (Self, Arc<AtomicBool>) {
        let fails = Arc::<AtomicBool>::default();
        let pace = {
            let fails = Arc::clone(&fails);
            move || {
                assert!(!fails.load(Ordering::Relaxed), "the writer ends, as by a disk that fails");
                std::future::ready(())
            }
        };
        let failing = |dir: &std::path::Path| Cache::open_paced(dir, &options(), NOW, pace).unwrap();
        (Self::over(domain(Policy::default()), Settings::default(), failing), fails)
    }

    fn over(domain: DomainConfig, settings: Settings, open: impl FnOnce(&std::path::Path) -> Cache) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::at(NOW));
        let cache = open(dir.path());
        let script = Script::default();
        let alerts = Arc::new(Alerts::default());
        let engine = Engine::new(Parts {
            cache,
            callouts: Arc::new(script.clone()),
            clock: Arc::clone(&clock) as _,
            directory: Directory::new([domain]).unwrap(),
            settings,
            observer: Arc::clone(&alerts) as _,
        });
        Self { engine, clock, script, alerts, _dir: dir }
    }

    /// The destination says this from now on; random local parts are refused where it is asked for them.
    pub fn says(&self, outcome: Outcome) -> &Self {
        self.acts([Act::Say(outcome, true)])
    }

    pub fn acts(&self, acts: impl IntoIterator<Item = Act>) -> &Self {
        *self.script.acts.lock().unwrap() = acts.into_iter().collect();
        self
    }

    pub async fn ask(&self, recipient: &str) -> Decision {
        let decision = self.engine.decide(Question::new(recipient.as_bytes(), Listener::Policy)).await;
        self.settle().await;
        decision
    }

    /// Asks, and does not wait until what was learned is on disk.
    pub async fn ask_only(&self, recipient: &str) -> Decision {
        self.engine.decide(Question::new(recipient.as_bytes(), Listener::Policy)).await
    }

    /// Asks as a task of its own, while the test goes on.
    pub fn asks(&self, recipient: &str) -> JoinHandle<Decision> {
        self.asks_either(recipient, false)
    }

    /// As [`asks`](Self::asks), the destination whatever is kept.
    pub fn asks_live(&self, recipient: &str) -> JoinHandle<Decision> {
        self.asks_either(recipient, true)
    }

    fn asks_either(&self, recipient: &str, live: bool) -> JoinHandle<Decision> {
        let (engine, recipient) = (self.engine.clone(), recipient.to_owned());
        tokio::spawn(async move {
            engine.decide(Question { live, ..Question::new(recipient.as_bytes(), Listener::Policy) }).await
        })
    }

    /// Until what was learned is on disk.
    pub async fn settle(&self) {
        begun().await;
        awake(self.engine.cache().flush()).await.unwrap();
        begun().await;
    }

    pub async fn clear(&self, scope: Scope) {
        awake(self.engine.clear(scope)).await.unwrap();
    }

    pub fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    pub fn callouts(&self) -> usize {
        self.script.requests.lock().unwrap().len()
    }
}

/// Until what was asked waits for its callout; on a disk that hangs nothing settles.
pub async fn begun() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Waits for another thread (the cache's writer) without letting simulated time run, which it does whenever all tasks wait.
pub async fn awake<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        tokio::select! {
            biased;
            done = &mut future => return done,
            () = tokio::task::yield_now() => {}
        }
    }
}

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);

pub fn reply(code: u16, enhanced: (u8, u16, u16), text: &str) -> Reply {
    Reply::new(code, EnhancedCode::new(enhanced.0, enhanced.1, enhanced.2), text)
}

pub fn accepted() -> Outcome {
    Outcome::Accepted(reply(250, (2, 1, 5), "Ok"))
}

pub fn rejected() -> Outcome {
    Outcome::Rejected(reply(550, (5, 1, 1), "mail1.internal.example: no such user"))
}

pub fn blocked() -> Outcome {
    Outcome::Rejected(reply(554, (5, 7, 1), "your address is on our list"))
}

pub fn deferred() -> Outcome {
    Outcome::Deferred(reply(450, (4, 2, 0), "Greylisted"))
}

pub fn accepts_all() -> Outcome {
    Outcome::AcceptsAll(reply(250, (2, 1, 5), "Ok"))
}

pub fn null_sender_refused() -> Outcome {
    Outcome::NullSenderRefused(reply(550, (5, 7, 1), "no bounces"))
}

pub fn unreachable() -> Outcome {
    let failure = HostFailure { host: DESTINATION.into(), failure: Failure::ConnectionRefused, reply: None };
    Outcome::Unreachable(vec![failure])
}

/// `action row verdict source`, for tests that read as tables.
pub fn short(decision: &Decision) -> String {
    let verdict = decision.verdict.map_or("-", |verdict| verdict.as_str());
    let (action, source) = (decision.answer.action.as_str(), decision.source.as_str());
    let answer = decision.answer.reply();
    let code: String = answer.split(' ').take(2).collect::<Vec<_>>().join(" ");
    format!("{} {verdict} {source} {action} {code}", decision.row).trim_end().to_owned()
}
