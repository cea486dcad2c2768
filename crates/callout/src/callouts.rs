//! The way of a question through a route: hops to hosts, hosts to sessions, and on to the next host when one can't be asked.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use callahead_smtp::{About, Domain, Recipient, Reply};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::dial::Dial;
use crate::dialogue::{self, Broken, Found};
use crate::exchangers::Exchangers;
use crate::outcome::{Ask, BoxFuture, Failure, HostFailure, Outcome, Report, Request, Step};
use crate::pool::{DestinationStatus, HostPool, NoSession, Pooled, Slot, Wants};
use crate::probe::{PersonProbe, Probe};
use crate::refusal::Refusal;
use crate::resolve::Resolve;
use crate::route::{Host, HostPort, Route, TlsPolicy};
use crate::session::Trouble;
use crate::settings::Settings;
use crate::tls::TlsClient;
use crate::transcript::Transcript;
use crate::way::{Next, Walk};

/// Hosts that are remembered; those that nobody needs are forgotten first.
const MAX_HOSTS: usize = 10_000;
/// How long a host is remembered that nobody asks.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Makes callouts, and keeps the sessions. Clones share them.
#[derive(Clone)]
pub struct Callouts {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    settings: RwLock<Arc<Settings>>,
    pub(crate) dial: Box<dyn Dial>,
    pub(crate) resolve: Box<dyn Resolve>,
    pub(crate) tls: TlsClient,
    probe: Box<dyn Probe>,
    node: Arc<Semaphore>,
    hosts: Mutex<HashMap<Key, Arc<HostPool>>>,
    pub(crate) exchangers: Exchangers,
    questions: AtomicU64,
    busy: AtomicU64,
}

/// Domains that lead to the same host share its sessions and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) tls: TlsPolicy,
}

/// Counters over all destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Callouts begun.
    pub questions: u64,
    /// Callouts that got no session, because too many waited.
    pub busy: u64,
    /// Sessions open now.
    pub sessions: u64,
}

/// The way of one question.
struct Errand<'a> {
    inner: &'a Inner,
    settings: &'a Settings,
    request: &'a Request,
    probe: Option<Recipient>,
    deadline: Instant,
    transcript: Transcript,
    not_accept_all: bool,
}

impl Callouts {
    /// With everything that it needs from outside.
    pub fn new(settings: Settings, dial: impl Dial, resolve: impl Resolve, tls: TlsClient) -> Self {
        Self::with_probe(settings, dial, resolve, tls, PersonProbe)
    }

    /// With random local parts of another kind.
    pub fn with_probe(
        settings: Settings,
        dial: impl Dial,
        resolve: impl Resolve,
        tls: TlsClient,
        probe: impl Probe,
    ) -> Self {
        let node = Arc::new(Semaphore::new(settings.sessions));
        let inner = Inner {
            settings: RwLock::new(Arc::new(settings)),
            dial: Box::new(dial),
            resolve: Box::new(resolve),
            tls,
            probe: Box::new(probe),
            node,
            hosts: Mutex::default(),
            exchangers: Exchangers::default(),
            questions: AtomicU64::new(0),
            busy: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The limits for questions from now on; those under way keep theirs. The bound on all sessions stays as it was.
    pub fn reconfigure(&self, settings: Settings) {
        *self.inner.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// What is known of each host, by name.
    pub fn destinations(&self) -> Vec<DestinationStatus> {
        let mut all: Vec<_> = self.inner.pools().iter().map(|pool| pool.status()).collect();
        all.sort_by(|a, b| a.host.cmp(&b.host));
        all
    }

    /// What is known of one host; `None` where it was not asked lately.
    pub(crate) fn status_of(&self, key: &Key) -> Option<DestinationStatus> {
        let hosts = self.inner.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(key).map(|pool| pool.status())
    }

    /// Counters over all.
    pub fn totals(&self) -> Totals {
        let hosts = self.inner.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Totals {
            questions: self.inner.questions.load(Ordering::Relaxed),
            busy: self.inner.busy.load(Ordering::Relaxed),
            sessions: hosts.values().map(|pool| pool.sessions() as u64).sum(),
        }
    }

    /// Ends all sessions by QUIT, those in use when their question is answered; waits until that is done, or for so long.
    pub async fn shutdown(&self, patience: Duration) {
        let quit_timeout = self.inner.settings().quit_timeout;
        let deadline = Instant::now() + patience;
        loop {
            let open: usize = {
                let hosts = self.inner.hosts.lock().unwrap_or_else(PoisonError::into_inner);
                hosts.values().map(|pool| pool.close(quit_timeout)).sum()
            };
            if open == 0 || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl fmt::Debug for Callouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callouts").field("totals", &self.totals()).finish()
    }
}

impl Ask for Callouts {
    fn ask_anew(&self, of: Option<(&Domain, &Route)>) {
        let quit_timeout = self.inner.settings().quit_timeout;
        // Where the MX was not looked up, any host may be the domain's, asked for another's recipients.
        let pools = match of.and_then(|(domain, route)| self.hosts_of(domain, route)) {
            Some(keys) => {
                let hosts = self.inner.hosts.lock().unwrap_or_else(PoisonError::into_inner);
                keys.iter().filter_map(|key| hosts.get(key).cloned()).collect()
            }
            None => self.inner.pools(),
        };
        pools.iter().for_each(|pool| pool.begin_anew(quit_timeout));
        self.inner.resolve.forget();
    }

    fn ask(&self, request: Request) -> BoxFuture<'_, Report> {
        Box::pin(async move {
            self.inner.questions.fetch_add(1, Ordering::Relaxed);
            let settings = self.inner.settings();
            let probe = if request.probe { self.inner.random(&request.recipient) } else { None };
            let mut errand = Errand {
                inner: &self.inner,
                settings: &settings,
                request: &request,
                probe,
                // A little before the one who asked gives up: so it learns what happened.
                deadline: Instant::now() + settings.timeout.mul_f32(0.9),
                transcript: Transcript::start(),
                not_accept_all: false,
            };
            let (outcome, destination) = errand.go().await;
            if outcome == Outcome::Busy {
                self.inner.busy.fetch_add(1, Ordering::Relaxed);
            }
            let elapsed = errand.transcript.elapsed();
            let Errand { transcript, not_accept_all, .. } = errand;
            Report { outcome, not_accept_all, destination, elapsed, transcript: Arc::new(transcript) }
        })
    }
}

impl Inner {
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// All of them as they are now: questions need the map while something is done with each.
    fn pools(&self) -> Vec<Arc<HostPool>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn random(&self, like: &Recipient) -> Option<Recipient> {
        Recipient::new(&self.probe.local_part(), like.domain().clone()).ok()
    }

    pub(crate) fn pool(&self, key: &Key) -> Arc<HostPool> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = hosts.get(key) {
            return Arc::clone(pool);
        }
        if hosts.len() >= MAX_HOSTS {
            make_room(&mut hosts);
        }
        let pool = HostPool::new(HostPort(&key.host, key.port).to_string(), Arc::clone(&self.node));
        Arc::clone(hosts.entry(key.clone()).or_insert(Arc::new(pool)))
    }
}

impl Errand<'_> {
    /// Through the hosts, until one answers.
    async fn go(&mut self) -> (Outcome, Option<String>) {
        let mut walk = Walk::new(&self.request.route, self.request.recipient.domain(), self.deadline);
        // A host that can't be asked for such an address; others may be.
        let mut unfit = None;
        loop {
            let (key, until) = match walk.next(self.inner, self.settings, &mut self.transcript).await {
                Next::Host(key, until) => (key, until),
                Next::NullMx => return (Outcome::NullMx, None),
                Next::End => return unfit.unwrap_or((Outcome::Unreachable(walk.failures), None)),
            };
            let pool = self.inner.pool(&key);
            match self.host(&key, &pool, until).await {
                Ok(Some(found)) if found.outcome == Outcome::NeedsSmtpUtf8 => {
                    self.transcript.note(format!("{}: it does not offer SMTPUTF8", pool.name));
                    unfit.get_or_insert((found.outcome, Some(pool.name.clone())));
                }
                Ok(Some(found)) => {
                    self.not_accept_all |= found.not_accept_all;
                    return (found.outcome, Some(pool.name.clone()));
                }
                Ok(None) => return (Outcome::Busy, Some(pool.name.clone())),
                Err(failure) => {
                    self.transcript.note(failure.to_string());
                    walk.failures.push(failure);
                }
            }
        }
    }

    /// Asks one host; `Ok(None)` when it has no session to spare.
    async fn host(&mut self, key: &Key, pool: &Arc<HostPool>, deadline: Instant) -> Result<Option<Found>, HostFailure> {
        let failed =
            |trouble: Trouble| HostFailure { host: pool.name.clone(), failure: trouble.failure, reply: trouble.reply };
        let admission = pool.admit().map_err(|failure| failed(failure.into()))?;
        let _background = match self.request.background.then(|| pool.background(self.settings)).transpose() {
            Ok(place) => place,
            Err(NoSession) => return Ok(None),
        };
        let mut fresh = false;
        let mut pipeline = pool.pipelines();
        let mut probe = self.probe.clone();
        // A refusal that may have been for what was asked before in its session, and for how many recipients.
        let mut doubted: Option<(Refusal, u32)> = None;
        loop {
            let wants = Wants { fresh, recipients: 1 + u32::from(probe.is_some()) };
            let slot = match pool.acquire(self.settings, wants, deadline).await {
                Ok(slot) => slot,
                Err(NoSession) => return Ok(None),
            };
            let began = Instant::now();
            let mut pooled = match slot {
                Slot::Reuse(pooled) => pooled,
                Slot::Open(ticket) => {
                    // Boxed, since few questions come here, and all would carry the room for it.
                    match Box::pin(self.inner.open(key, pool, self.settings, deadline, &mut self.transcript)).await {
                        Ok(session) => Pooled { session: Box::new(session), ticket },
                        Err(trouble) => {
                            let failure = failed(trouble);
                            admission.failed(&failure, began, self.settings);
                            return Err(failure);
                        }
                    }
                }
            };
            let used_before = pooled.session.uses;
            let in_clear = pooled.session.is_in_clear_for_want_of_tls(key.tls);
            // A group that is answered in part only costs time; some is left for another try without pipelining.
            let left = deadline.saturating_duration_since(Instant::now());
            let patience =
                if pipeline && pooled.session.offers.pipelining { Instant::now() + left / 2 } else { deadline };
            let (recipient, random) = (&self.request.recipient, probe.as_ref());
            let asked =
                dialogue::ask(&mut pooled.session, recipient, random, pipeline, patience, &mut self.transcript).await;
            match asked {
                Ok(found) => {
                    if in_clear && matches!(found.outcome, Outcome::Accepted(_)) {
                        pool.learn_takes_clear();
                    }
                    if in_clear
                        && !pool.takes_clear()
                        && let Some(reply) = not_of_the_mailbox(&found.outcome)
                    {
                        pooled.end(self.settings.quit_timeout);
                        pool.try_tls_again(self.settings.quit_timeout);
                        // It answered, and others may fare better.
                        admission.succeeded();
                        return Err(failed(Trouble { failure: Failure::RefusedInClear, reply: Some(reply) }));
                    }
                    let refusal = match &found.outcome {
                        Outcome::Rejected(reply) => Some(Refusal::of(reply, recipient)),
                        _ => None,
                    };
                    if let Some(first) = found.first_refusal {
                        pool.learn_refusal(first);
                    }
                    if let Some(refusal) = refusal.filter(|refusal| found.asked_before > 0 && !pool.knows(refusal)) {
                        pooled.end(self.settings.quit_timeout);
                        if Instant::now() >= deadline {
                            let reply = found.outcome.reply().cloned();
                            admission.succeeded();
                            return Err(failed(Trouble { failure: Failure::Timeout(Step::Rcpt), reply }));
                        }
                        self.transcript.note(
                            "a session's first recipient is not known to be refused so; asking again as the first of a new session",
                        );
                        // A random local part that was the session's first can't have been refused for others; any other is asked once more, too.
                        if used_before == 0 {
                            self.not_accept_all |= found.not_accept_all;
                            probe = None;
                        }
                        doubted = Some((refusal, found.asked_before));
                        fresh = true;
                        continue;
                    }
                    if let Some((doubted, asked_before)) = doubted
                        && (found.outcome.reply().is_some_and(Reply::is_positive)
                            || (refusal.is_some_and(|refusal| refusal.is_of_the_address())
                                && !doubted.is_of_the_address()))
                    {
                        // It was the session.
                        pool.learn_uses(asked_before);
                    }
                    pool.count_question(matches!(found.outcome, Outcome::Rejected(_)));
                    if found.reusable {
                        pool.release(pooled, self.settings);
                    } else {
                        pool.learn_uses(pooled.session.uses);
                        pooled.end(self.settings.quit_timeout);
                    }
                    admission.succeeded();
                    return Ok(Some(found));
                }
                Err(Broken { trouble, pipelining_suspect, at_probe, not_accept_all }) => {
                    pooled.end(self.settings.quit_timeout);
                    // Whatever becomes of the recipient, here or at the next host. Not where a reply may have been read as that to another command, nor
                    // where the random local part may have been refused for what was asked before.
                    self.not_accept_all |= not_accept_all && !in_clear && !pipelining_suspect && used_before == 0;
                    let refused_in_clear = in_clear && trouble.reply.as_ref().is_some_and(Reply::is_permanent);
                    if refused_in_clear {
                        pool.try_tls_again(self.settings.quit_timeout);
                    }
                    if pipelining_suspect && Instant::now() < deadline {
                        self.transcript.note("asking again without pipelining");
                        pool.learn_no_pipelining();
                        (fresh, pipeline) = (true, false);
                    } else if at_probe && Instant::now() < deadline {
                        // Some end the session with the first refusal, or after one transaction: the recipient gets its own.
                        self.transcript.note(format!("{}; asking again without a random local part", trouble.failure));
                        (probe, fresh) = (None, true);
                    } else if used_before > 0 && !fresh && Instant::now() < deadline {
                        // It was used before, so the host may have had enough of it: that is no failure of the host.
                        self.transcript.note(format!("{}; asking again in a new session", trouble.failure));
                        // Its slowness tells nothing of that, nor how little time this question had.
                        if !matches!(trouble.failure, Failure::Timeout(_)) {
                            pool.learn_uses(used_before);
                        }
                        fresh = true;
                    } else {
                        let failure = failed(trouble);
                        match refused_in_clear {
                            true => admission.succeeded(),
                            false => admission.failed(&failure, began, self.settings),
                        }
                        return Err(failure);
                    }
                }
            }
        }
    }
}

/// Forgets hosts that nobody needs; where there are none, a tenth of those that nobody is asking, the longest unused first: so a full table does not
/// cost a search with each new host.
fn make_room(hosts: &mut HashMap<Key, Arc<HostPool>>) {
    hosts.retain(|_, pool| !pool.is_forgettable(FORGET_AFTER));
    if hosts.len() < MAX_HOSTS {
        return;
    }
    // Questions, sessions and relays hold theirs. One that is left alone for now goes last: it would be asked again too soon.
    let unheld = hosts.iter().filter(|(_, pool)| Arc::strong_count(pool) == 1);
    let mut unheld: Vec<_> = unheld.map(|(key, pool)| (pool.last_needed(), key.clone())).collect();
    let tenth = unheld.len() / 10;
    if !unheld.is_empty() {
        unheld.select_nth_unstable_by_key(tenth, |(needed, _)| *needed);
    }
    for (_, key) in unheld.into_iter().take(tenth + 1) {
        hosts.remove(&key);
    }
}

/// The reply that refuses the recipient or the null sender, unless its code says that something is wrong with the mailbox.
fn not_of_the_mailbox(outcome: &Outcome) -> Option<Reply> {
    let (Outcome::Rejected(reply) | Outcome::NullSenderRefused(reply)) = outcome else { return None };
    (!About::from(reply).is_of_the_mailbox()).then(|| reply.clone())
}
