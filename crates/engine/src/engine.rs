//! From question to decision: facts for the table, flights where it asks for the destination, and what is kept afterwards.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use callahead_cache::{
    Cache, CacheError, Cleared, DomainState, Lookup, Put, RecipientState, Record, Scope, State, StoredReply, Timestamp,
};
use callahead_callout::{Ask, Outcome, Report, Request};
use callahead_smtp::{AddressLiteral, Domain, EnhancedCode, Recipient};
use tokio::time::{Instant, timeout, timeout_at};

use crate::answer::{answer, reason};
use crate::clock::Clock;
use crate::decision::{Action, Answer, Decision, Listener, Question, Source};
use crate::directory::{Callouts, Directory, DomainConfig, Policy, RejectOrDefer};
use crate::flights::{Arrival, Boarding, Flights, Flown, Start};
use crate::observer::{Alert, AlertKind, Observer};
use crate::protection::{Clients, Harvest, Held, HoldDowns};
use crate::table::{Because, Facts, Kept, Learned, Ruling, Step, decide};

/// The same alert is told again after this.
const ALERT_EVERY: Duration = Duration::from_secs(600);
/// Alerts that are remembered, so as not to tell them again.
const MAX_ALERTS: usize = 10_000;
/// A background refresh of the same recipient is tried again after this.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// Refreshes that are remembered.
const MAX_REFRESHES: usize = 10_000;
/// How long a callout waits for another one's random local part in the same domain, before it asks one of its own.
const PROBE_WAIT: Duration = Duration::from_secs(5);

/// What the engine is made of.
pub struct Parts {
    /// What is kept.
    pub cache: Cache,
    /// Whoever asks destinations.
    pub callouts: Arc<dyn Ask>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The configured domains.
    pub directory: Directory,
    /// Its own bounds.
    pub settings: Settings,
    /// Who is told of decisions.
    pub observer: Arc<dyn Observer>,
}

/// The engine's own bounds. `Default` has the documented values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a question waits. Default 30 s.
    pub deadline: Duration,
    /// When a client counts as one that guesses addresses.
    pub harvest: Harvest,
    /// How long a recipient that got a 4xx is not asked for again. Default 60 s.
    pub hold_down: Duration,
    /// Hold-downs at a time. Default 100,000.
    pub hold_downs: usize,
    /// Clients that are watched. Default 100,000.
    pub clients: usize,
    /// Callouts under way or being kept, in all. Default 20,000.
    pub flights: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            harvest: Harvest::default(),
            hold_down: Duration::from_secs(60),
            hold_downs: 100_000,
            clients: 100_000,
            flights: 20_000,
        }
    }
}

/// Counters for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Callouts that questions started.
    pub flights: u64,
    /// Questions that joined one.
    pub joined: u64,
    /// Callouts started in the background.
    pub refreshes: u64,
    /// Questions deferred because the client guesses.
    pub guesses: u64,
    /// Answers not kept because of a clear in between.
    pub superseded: u64,
    /// Callouts under way now.
    pub under_way: usize,
    /// Recipients held down now.
    pub held_down: usize,
}

#[derive(Debug, Default)]
struct Counters {
    flights: AtomicU64,
    joined: AtomicU64,
    refreshes: AtomicU64,
    guesses: AtomicU64,
    superseded: AtomicU64,
}

/// Decides. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    cache: Cache,
    callouts: Arc<dyn Ask>,
    clock: Arc<dyn Clock>,
    directory: ArcSwap<Directory>,
    settings: ArcSwap<Settings>,
    observer: Arc<dyn Observer>,
    flights: Flights<Recipient>,
    /// Of them, those that ask a random local part.
    probes: Flights<Domain>,
    held: HoldDowns,
    clients: Clients,
    counters: Counters,
    alerts: Mutex<HashMap<(String, AlertKind), Timestamp>>,
    refreshes: Mutex<HashMap<Recipient, Timestamp>>,
}

/// A question with all that is known before anybody is asked.
struct Case {
    started: Instant,
    now: Timestamp,
    shown: String,
    recipient: Option<Recipient>,
    is_mailbox: bool,
    domain: Option<Arc<DomainConfig>>,
    lookup: Lookup,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine of these parts. Callouts run as tasks of the runtime that asks.
    pub fn new(parts: Parts) -> Self {
        let Parts { cache, callouts, clock, directory, settings, observer } = parts;
        let inner = Inner {
            cache,
            callouts,
            clock,
            directory: ArcSwap::from_pointee(directory),
            settings: ArcSwap::from_pointee(settings),
            observer,
            flights: Flights::new(settings.flights),
            probes: Flights::new(settings.flights),
            held: HoldDowns::new(settings.hold_downs),
            clients: Clients::new(settings.clients),
            counters: Counters::default(),
            alerts: Mutex::default(),
            refreshes: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The domains from now on; questions under way keep what they began with.
    pub fn set_directory(&self, directory: Directory) {
        self.inner.directory.store(Arc::new(directory));
    }

    /// The domains.
    pub fn directory(&self) -> Arc<Directory> {
        self.inner.directory.load_full()
    }

    /// Deadline, hold-down and harvest protection from now on; the sizes stay.
    pub fn set_settings(&self, settings: Settings) {
        self.inner.settings.store(Arc::new(settings));
    }

    /// What is kept.
    pub fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// The time by the engine's clock.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// A recipient as its domain's configuration has it: with its local part folded where case means nothing.
    pub fn canonical(&self, recipient: Recipient) -> Recipient {
        match self.inner.directory.load().find(recipient.domain()) {
            Some(domain) if domain.policy.fold_local_part => recipient.fold_local_part(),
            _ => recipient,
        }
    }

    /// Forgets. When this resolves nothing learned before is served any more.
    ///
    /// # Errors
    /// When the cache can't be written; then nothing was forgotten.
    pub async fn clear(&self, scope: Scope) -> Result<Cleared, CacheError> {
        let scope = match scope {
            Scope::Recipient(recipient) => Scope::Recipient(self.canonical(recipient)),
            other => other,
        };
        // Before the clear: what is asked under the new epoch shall not find a session from before it.
        self.inner.callouts.retire_sessions();
        let cleared = self.inner.cache.clear(scope.clone(), self.inner.clock.now()).await?;
        // Flights and hold-downs are under smaller epochs and so found no more.
        tracing::info!(scope = ?scope, entries = cleared.entries, epoch = cleared.epoch.0, "cleared");
        Ok(cleared)
    }

    /// Waits until no callout is under way, or for so long, and then until all is on disk.
    pub async fn shutdown(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        while self.inner.flights.under_way() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if let Err(error) = self.inner.cache.flush().await {
            tracing::error!(%error, "the last entries could not be kept");
        }
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let counters = &self.inner.counters;
        Stats {
            flights: counters.flights.load(Ordering::Relaxed),
            joined: counters.joined.load(Ordering::Relaxed),
            refreshes: counters.refreshes.load(Ordering::Relaxed),
            guesses: counters.guesses.load(Ordering::Relaxed),
            superseded: counters.superseded.load(Ordering::Relaxed),
            under_way: self.inner.flights.under_way(),
            held_down: self.inner.held.len(),
        }
    }

    /// Decides from what is kept and configured, without waiting; `None` where the destination has to be asked.
    pub fn decide_cached(&self, question: &Question<'_>) -> Option<Decision> {
        let mut case = self.case(question);
        let decision = self.decide_from_kept(question, &mut case)?;
        Some(self.told(question, &case, decision))
    }

    /// Decides; where nothing that is kept does, the destination is asked. Always comes to an end within the deadline.
    ///
    /// A caller that goes away takes nothing with it: the callout goes on, and its answer is kept.
    pub async fn decide(&self, question: Question<'_>) -> Decision {
        let mut case = self.case(&question);
        if let Some(decision) = self.decide_from_kept(&question, &mut case) {
            return self.told(&question, &case, decision);
        }
        let decision = Box::pin(self.ask(&question, &case)).await;
        self.told(&question, &case, decision)
    }

    fn case(&self, question: &Question<'_>) -> Case {
        let started = Instant::now();
        let parsed = Recipient::parse(question.recipient);
        let is_mailbox = parsed.is_ok() || is_bare_local_part(question.recipient);
        let mut recipient = parsed.ok();
        let directory = self.inner.directory.load();
        let domain = recipient.as_ref().and_then(|recipient| directory.find(recipient.domain())).cloned();
        if domain.as_ref().is_some_and(|domain| domain.policy.fold_local_part) {
            recipient = recipient.map(|recipient| recipient.fold_local_part());
        }
        let shown = match &recipient {
            Some(recipient) => {
                let mut shown = String::with_capacity(question.recipient.len() + 2);
                let _ = write!(shown, "{recipient}");
                shown
            }
            None => {
                let text = String::from_utf8_lossy(question.recipient);
                text.chars().filter(|c| !c.is_control()).take(320).collect()
            }
        };
        let lookup = match (&recipient, &domain) {
            (Some(recipient), Some(_)) => self.inner.cache.lookup(recipient).unwrap_or_else(|error| {
                // Answers go on from callouts.
                tracing::error!(%error, "a lookup failed");
                Lookup::default()
            }),
            _ => Lookup::default(),
        };
        Case { started, now: self.inner.clock.now(), shown, recipient, is_mailbox, domain, lookup }
    }

    /// Where this decides, it takes what it cites out of the case.
    fn decide_from_kept(&self, question: &Question<'_>, case: &mut Case) -> Option<Decision> {
        let mut facts = case.facts();
        if question.live {
            facts.recipient = Kept::Nothing;
            facts.domain = Kept::Nothing;
        }
        match decide(&facts) {
            Step::Decide(ruling) => {
                if matches!(ruling.row, 6..=8) {
                    self.refresh_if_old(case, &ruling);
                }
                return Some(case.kept_decision(&ruling));
            }
            Step::Ask if question.live => return None,
            Step::Ask => {}
        }
        if let Some(decision) = self.decide_from_lately(case) {
            return Some(decision);
        }
        let settings = self.inner.settings.load();
        let guessing =
            question.client.is_some_and(|client| self.inner.clients.is_guessing(client, case.now, settings.harvest));
        if guessing {
            self.inner.counters.guesses.fetch_add(1, Ordering::Relaxed);
        }
        if guessing || question.cached_only {
            let learned = if guessing { Learned::Guessing } else { Learned::Busy };
            return Some(case.without_outcome(learned, question.cached_only && !guessing));
        }
        None
    }

    /// Decides by what came back a moment ago: it is not on disk yet, or it was a 4xx.
    fn decide_from_lately(&self, case: &Case) -> Option<Decision> {
        let recipient = case.recipient.as_ref()?;
        // What has come back is kept from then on, though it may not be on disk yet.
        if let Some(landed) = self.inner.flights.landed(recipient, case.lookup.floor)
            && let Some(mut case) = case.with(&landed)
            && let Step::Decide(ruling) = decide(&case.facts())
        {
            return Some(case.kept_decision(&ruling));
        }
        let held = self.inner.held.find(recipient, case.lookup.floor, case.now)?;
        let facts = Facts { learned: Some(learned(&held.flown.report.outcome)), held: true, ..case.facts() };
        let Step::Decide(ruling) = decide(&facts) else { return None };
        let mut decision = case.decision(&ruling, Some(&held.flown));
        decision.expires_at = Some(held.until);
        Some(decision)
    }

    /// What would be decided of a recipient now by what is kept and configured, and why; `None` where the destination would be
    /// asked. For pages that show it: nobody is told, nothing is counted, and nothing is begun.
    pub fn explain(&self, recipient: &[u8]) -> Option<Decision> {
        let mut case = self.case(&Question::new(recipient, Listener::Admin));
        let decision = match decide(&case.facts()) {
            Step::Decide(ruling) => case.kept_decision(&ruling),
            Step::Ask => self.decide_from_lately(&case)?,
        };
        Some(case.observed(decision))
    }

    /// Asks the destination, or joins those who do.
    async fn ask(&self, question: &Question<'_>, case: &Case) -> Decision {
        let (Some(recipient), Some(domain)) = (&case.recipient, &case.domain) else {
            return case.without_outcome(Learned::Busy, false);
        };
        let deadline = case.started + self.inner.settings.load().deadline;
        let join = !question.live;
        loop {
            let boarding = self.inner.flights.board(recipient, case.lookup.floor, case.lookup.epoch, self.now(), join);
            let arrival = match boarding {
                Boarding::Full => return case.without_outcome(Learned::Busy, false),
                Boarding::Joined(arrival) => {
                    self.inner.counters.joined.fetch_add(1, Ordering::Relaxed);
                    arrival
                }
                Boarding::Started(start) => {
                    self.inner.counters.flights.fetch_add(1, Ordering::Relaxed);
                    self.fly(recipient, domain, case, start, if question.live { Why::Live } else { Why::Question })
                }
            };
            let flown = match timeout_at(deadline, arrival.wait()).await {
                Ok(Some(flown)) => flown,
                Ok(None) => return case.without_outcome(Learned::Busy, false),
                Err(_) => return case.without_outcome(Learned::TooLate, false),
            };
            // Background work gives way; of those who joined it one asks, and the others join that one.
            if flown.gave_way() {
                continue;
            }
            let facts = Facts { learned: Some(learned(&flown.report.outcome)), ..case.facts() };
            return match decide(&facts) {
                Step::Decide(ruling) => case.decision(&ruling, Some(&flown)),
                Step::Ask => case.without_outcome(Learned::Busy, false),
            };
        }
    }

    /// Starts a callout as a task of its own.
    fn fly(&self, recipient: &Recipient, domain: &Arc<DomainConfig>, case: &Case, start: Start, why: Why) -> Arrival {
        let Start { id, landing, arrival } = start;
        let engine = self.clone();
        let (recipient, domain) = (recipient.clone(), Arc::clone(domain));
        let (mut epoch, floor, probe) = (case.lookup.epoch, case.lookup.floor, case.wants_probe());
        let asked_at = case.now;
        tokio::spawn(async move {
            // Ends the flight on every way out, a panic's included, so that nobody joins one that will not arrive.
            let _ending = Ending { flights: &engine.inner.flights, whose: recipient.clone(), id };
            let background = why == Why::Refresh;
            let route = Arc::clone(&domain.route);
            let mut request = Request { recipient: recipient.clone(), route, probe, background };
            // One random local part for a domain, however many of its recipients are asked for at the same time.
            let probes = &engine.inner.probes;
            let (mut probing, mut told) = (None, None);
            match probe.then(|| probes.board(recipient.domain(), floor, epoch, asked_at, why != Why::Live)) {
                Some(Boarding::Started(Start { id, landing, .. })) => {
                    probing = Some((landing, Ending { flights: probes, whose: recipient.domain().clone(), id }));
                }
                Some(Boarding::Joined(arrival)) => {
                    told = timeout(PROBE_WAIT, arrival.wait()).await.ok().flatten();
                    // What is asked from here on is newer than a clear that came while it waited.
                    let anew = told.as_deref().is_none_or(|flown| !speaks_of_domain(&flown.report.outcome));
                    if anew && let Ok(lookup) = engine.inner.cache.lookup(&recipient) {
                        epoch = lookup.epoch;
                        let newer = engine.inner.flights.renew(&recipient, id, epoch, engine.now());
                        // Whoever asked after that clear has a flight of their own, which is as good for those who wait here.
                        if let Some(newer) = newer
                            && let Some(flown) = newer.wait().await
                            && !flown.gave_way()
                        {
                            landing.land(flown);
                            return;
                        }
                    }
                }
                Some(Boarding::Full) | None => {}
            }
            let flown = match told {
                // As it came: said then, and under that epoch. A clear of whoever was asked for may have come since.
                Some(flown) if speaks_of_domain(&flown.report.outcome) => flown,
                told => {
                    request.probe = probe && told.is_none_or(|flown| !flown.report.not_accept_all);
                    let report = engine.inner.callouts.ask(request).await;
                    Arc::new(Flown { report, at: engine.inner.clock.now(), epoch, background })
                }
            };
            if let Some((landing, _)) = &probing {
                landing.land(Arc::clone(&flown));
            }
            engine.hold_down(&recipient, &domain.policy, &flown);
            landing.land(Arc::clone(&flown));
            engine.alert(&recipient, &domain.policy, &flown);
            engine.keep(&recipient, &domain.policy, &flown).await;
        });
        arrival
    }

    /// Keeps what was learned, and returns when that is on disk.
    async fn keep(&self, recipient: &Recipient, policy: &Policy, flown: &Flown) {
        let epoch = flown.epoch;
        let (of_domain, of_recipient) = records(policy, flown);
        let cache = &self.inner.cache;
        let of_domain = of_domain.map(|record| cache.put_domain(recipient.domain(), record, epoch));
        let of_recipient = of_recipient.map(|record| cache.put_recipient(recipient, record, epoch));
        for ticket in [of_domain, of_recipient].into_iter().flatten() {
            match ticket.await {
                Ok(Put::Written) => {}
                Ok(Put::Superseded) => drop(self.inner.counters.superseded.fetch_add(1, Ordering::Relaxed)),
                // The cache has told its log; the answer was given all the same.
                Err(_) => {}
            }
        }
    }

    fn hold_down(&self, recipient: &Recipient, policy: &Policy, flown: &Arc<Flown>) {
        let epoch = flown.epoch;
        let outcome = &flown.report.outcome;
        let later =
            matches!(outcome, Outcome::Deferred(_) | Outcome::NeedsSmtpUtf8) || is_deferred_reject(policy, outcome);
        if later {
            let until = flown.at.after(self.inner.settings.load().hold_down);
            self.inner.held.hold(recipient.clone(), Held { until, epoch, flown: Arc::clone(flown) }, flown.at);
        }
    }

    /// Asks again in the background for what is past its soft age.
    fn refresh_if_old(&self, case: &Case, ruling: &Ruling) {
        let (Some(recipient), Some(domain)) = (&case.recipient, &case.domain) else { return };
        let age = match ruling.row {
            6 => case.lookup.domain.as_ref().map(|record| record.age(case.now)),
            _ => case.lookup.recipient.as_ref().map(|record| record.age(case.now)),
        };
        let soft = if ruling.row == 8 { domain.policy.invalid_refresh } else { domain.policy.valid_refresh };
        if age.is_none_or(|age| age < soft) || self.inner.flights.is_under_way(recipient) {
            return;
        }
        {
            let mut tried = self.inner.refreshes.lock().unwrap_or_else(PoisonError::into_inner);
            if tried.get(recipient).is_some_and(|at| case.now.since(*at) < REFRESH_EVERY) {
                return;
            }
            if tried.len() >= MAX_REFRESHES {
                tried.retain(|_, at| case.now.since(*at) < REFRESH_EVERY);
            }
            if tried.len() >= MAX_REFRESHES {
                return;
            }
            tried.insert(recipient.clone(), case.now);
        }
        if let Boarding::Started(start) =
            self.inner.flights.board(recipient, case.lookup.floor, case.lookup.epoch, case.now, true)
        {
            self.inner.counters.refreshes.fetch_add(1, Ordering::Relaxed);
            self.fly(recipient, domain, case, start, Why::Refresh);
        }
    }

    fn alert(&self, recipient: &Recipient, policy: &Policy, flown: &Flown) {
        let outcome = &flown.report.outcome;
        let kind = match outcome {
            Outcome::NullSenderRefused(_) => AlertKind::RefusesNullSender,
            Outcome::Rejected(reply) if talks_of_filter(reply.enhanced()) => AlertKind::TalksOfFilter,
            Outcome::AcceptsAll(_) => AlertKind::AcceptAll,
            Outcome::Unreachable(_) if policy.callouts != Callouts::Off => AlertKind::Unreachable,
            _ => return,
        };
        let domain = recipient.domain().to_string();
        {
            let mut told = self.inner.alerts.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (domain.clone(), kind);
            if told.get(&key).is_some_and(|at| flown.at.since(*at) < ALERT_EVERY) {
                return;
            }
            if told.len() >= MAX_ALERTS {
                told.retain(|_, at| flown.at.since(*at) < ALERT_EVERY);
            }
            if told.len() < MAX_ALERTS {
                told.insert(key, flown.at);
            }
        }
        let detail = match outcome {
            Outcome::Unreachable(hosts) => hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            _ => {
                let words = outcome.reply().map(ToString::to_string).unwrap_or_default();
                format!("{}: {words}", flown.report.destination.as_deref().unwrap_or_default())
            }
        };
        self.inner.observer.alert(&Alert { domain, kind, detail });
    }

    /// The last thing of every decision: observe mode, who guesses, who is told.
    fn told(&self, question: &Question<'_>, case: &Case, mut decision: Decision) -> Decision {
        if matches!(decision.row, 8 | 11)
            && decision.verdict == Some(crate::Verdict::Invalid)
            && let (Some(client), Some(recipient)) = (question.client, &case.recipient)
        {
            self.inner.clients.missed(client, recipient, case.now, self.inner.settings.load().harvest);
        }
        decision = case.observed(decision);
        decision.elapsed = case.started.elapsed();
        self.inner.observer.decided(question, &decision);
        decision
    }
}

/// An address without a domain is qualified by the MTA and belongs to it; so does the bare `<postmaster>` of RFC 5321 4.5.1.
fn is_bare_local_part(address: &[u8]) -> bool {
    let nowhere = Domain::Literal(AddressLiteral::V4([0, 0, 0, 0].into()));
    std::str::from_utf8(address).is_ok_and(|text| Recipient::new(text, nowhere).is_ok())
}

/// Why a callout is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Question,
    /// Whatever is known or being asked.
    Live,
    Refresh,
}

struct Ending<'a, K: Clone + Eq + Hash> {
    flights: &'a Flights<K>,
    whose: K,
    id: u64,
}

impl<K: Clone + Eq + Hash> Drop for Ending<'_, K> {
    fn drop(&mut self) {
        self.flights.end(&self.whose, self.id);
    }
}

impl Case {
    /// In observe mode everything is accepted, and what would have been answered stands beside that.
    fn observed(&self, mut decision: Decision) -> Decision {
        let observe = self.domain.as_ref().is_some_and(|domain| domain.policy.callouts == Callouts::Observe);
        if observe && decision.answer.action != Action::Accept {
            decision.would = Some(std::mem::replace(&mut decision.answer, Answer::accept()));
        }
        decision
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            is_mailbox: self.is_mailbox,
            policy: self.domain.as_ref().map(|domain| &domain.policy),
            listed: self.domain.as_ref().zip(self.recipient.as_ref()).and_then(|(d, r)| d.listed(r)),
            postmaster: self.recipient.as_ref().is_some_and(Recipient::is_postmaster),
            domain: kept(self.lookup.domain.as_ref(), self.now, |state| self.ttl_of_domain(state)),
            recipient: kept(self.lookup.recipient.as_ref(), self.now, |state| self.ttl_of_recipient(state)),
            learned: None,
            held: false,
        }
    }

    /// The case as it is once what came back is kept; `None` where nothing of it is.
    fn with(&self, landed: &Flown) -> Option<Self> {
        let (of_domain, of_recipient) = records(&self.domain.as_ref()?.policy, landed);
        if of_domain.is_none() && of_recipient.is_none() {
            return None;
        }
        let lookup = Lookup {
            domain: of_domain.or_else(|| self.lookup.domain.clone()),
            recipient: of_recipient.or_else(|| self.lookup.recipient.clone()),
            ..self.lookup
        };
        let (shown, recipient, domain) = (self.shown.clone(), self.recipient.clone(), self.domain.clone());
        Some(Self { shown, recipient, domain, lookup, ..*self })
    }

    fn ttl_of_domain(&self, state: DomainState) -> Duration {
        self.domain.as_ref().map_or(Duration::MAX, |domain| match state {
            DomainState::AcceptAll => domain.policy.valid_ttl,
            DomainState::NotAcceptAll => domain.policy.valid_refresh,
            DomainState::RefusesNullSender => callahead_cache::MAX_INVALID_AGE,
            DomainState::NullMx => domain.policy.invalid_ttl,
        })
    }

    fn ttl_of_recipient(&self, state: RecipientState) -> Duration {
        self.domain.as_ref().map_or(Duration::MAX, |domain| match state {
            RecipientState::Valid => domain.policy.valid_ttl,
            RecipientState::Invalid => domain.policy.invalid_ttl,
        })
    }

    /// A random local part is asked while nothing fresh is known of the domain, and to see whether an accept-all one still is.
    fn wants_probe(&self) -> bool {
        self.facts().domain != Kept::Fresh(DomainState::NotAcceptAll)
    }

    /// The decision of a ruling, without who said it and when.
    fn bare_decision(&self, ruling: &Ruling, recipient: String) -> Decision {
        Decision {
            recipient,
            verdict: ruling.verdict,
            accept_all: ruling.because == Because::AcceptAll,
            row: ruling.row,
            reason: Cow::Borrowed(reason(ruling)),
            source: ruling.source,
            answer: Answer::accept(),
            would: None,
            destination: None,
            reply: None,
            checked_at: None,
            expires_at: None,
            elapsed: Duration::ZERO,
            transcript: None,
        }
    }

    /// The decision of a ruling on what is kept, with what it cites: moved and not copied, since most questions end here.
    fn kept_decision(&mut self, ruling: &Ruling) -> Decision {
        let shown = std::mem::take(&mut self.shown);
        let mut decision = self.bare_decision(ruling, shown);
        match (ruling.source, ruling.row) {
            (Source::Cache, 7 | 8) => {
                let record = self.lookup.recipient.take();
                decision.cite(record, |state| self.ttl_of_recipient(state));
            }
            (Source::Cache, _) => {
                let record = self.lookup.domain.take();
                decision.cite(record, |state| self.ttl_of_domain(state));
            }
            _ => {}
        }
        decision.answer = answer(ruling, self.policy(), decision.reply.as_ref());
        decision
    }

    /// The decision of a ruling on what a callout brought, with who said it and when.
    fn decision(&self, ruling: &Ruling, flown: Option<&Flown>) -> Decision {
        let mut decision = self.bare_decision(ruling, self.shown.clone());
        if let Some(flown) = flown {
            let report = &flown.report;
            decision.destination.clone_from(&report.destination);
            decision.reply = report.outcome.reply().map(StoredReply::from);
            decision.checked_at = Some(flown.at);
            decision.expires_at = self.policy().and_then(|policy| kept_until(policy, report, flown.at));
            decision.transcript = Some(Arc::new(report.transcript.clone()));
            if let Outcome::Unreachable(hosts) = &report.outcome
                && ruling.because == Because::Unreachable
            {
                let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
                decision.reason =
                    Cow::Owned(format!("no host of the destination could be asked: {}", hosts.join("; ")));
            }
        }
        decision.answer = answer(ruling, self.policy(), decision.reply.as_ref());
        decision
    }

    fn policy(&self) -> Option<&Policy> {
        self.domain.as_ref().map(|domain| &domain.policy)
    }

    /// The decision where nothing was learned.
    fn without_outcome(&self, learned: Learned, cached_only: bool) -> Decision {
        let facts = Facts { learned: Some(learned), ..self.facts() };
        let ruling = match decide(&facts) {
            Step::Decide(ruling) => ruling,
            // With something learned the table always decides.
            Step::Ask => unreachable!("the table asked for what it was given"),
        };
        let mut decision = self.decision(&ruling, None);
        if cached_only {
            decision.reason =
                Cow::Borrowed("nothing is kept of the recipient, and the destination was not to be asked");
            decision.source = Source::Cache;
        }
        decision
    }
}

impl Decision {
    /// Says who said what is kept, and until when it counts.
    fn cite<S: State>(&mut self, record: Option<Record<S>>, ttl: impl Fn(S) -> Duration) {
        let Some(record) = record else { return };
        self.checked_at = Some(record.checked_at);
        self.expires_at = Some(record.end().min(record.checked_at.after(ttl(record.state))));
        self.destination = Some(record.destination).filter(|destination| !destination.is_empty());
        self.reply = record.reply;
    }
}

/// Fresh by the policy of when it was written and by that of now, whichever is shorter.
fn kept<S: State>(record: Option<&Record<S>>, now: Timestamp, ttl: impl Fn(S) -> Duration) -> Kept<S> {
    match record {
        None => Kept::Nothing,
        Some(record) if record.is_fresh(now) && record.age(now) < ttl(record.state) => Kept::Fresh(record.state),
        Some(record) if record.is_stale(now) || (record.is_fresh(now) && record.state.speaks_for()) => {
            Kept::Stale(record.state)
        }
        Some(_) => Kept::Nothing,
    }
}

/// What is to be kept of what a callout brought: of the domain, and of the recipient.
fn records(policy: &Policy, flown: &Flown) -> (Option<Record<DomainState>>, Option<Record<RecipientState>>) {
    let report = &flown.report;
    let of_domain = match &report.outcome {
        Outcome::AcceptsAll(_) => Some((DomainState::AcceptAll, policy.valid_ttl)),
        Outcome::NullSenderRefused(_) => Some((DomainState::RefusesNullSender, callahead_cache::MAX_INVALID_AGE)),
        Outcome::NullMx => Some((DomainState::NullMx, policy.invalid_ttl)),
        _ if report.not_accept_all => Some((DomainState::NotAcceptAll, policy.valid_refresh)),
        _ => None,
    };
    let of_recipient = match &report.outcome {
        Outcome::Accepted(_) => Some((RecipientState::Valid, policy.valid_ttl)),
        Outcome::Rejected(_) if !is_deferred_reject(policy, &report.outcome) => {
            Some((RecipientState::Invalid, policy.invalid_ttl))
        }
        _ => None,
    };
    (
        of_domain.map(|(state, ttl)| record(state, ttl, flown)),
        of_recipient.map(|(state, ttl)| record(state, ttl, flown)),
    )
}

fn record<S>(state: S, ttl: Duration, flown: &Flown) -> Record<S> {
    Record {
        state,
        checked_at: flown.at,
        expires_at: flown.at.after(ttl),
        destination: flown.report.destination.clone().unwrap_or_default(),
        reply: flown.report.outcome.reply().map(StoredReply::from),
    }
}

/// Until when what was learned counts; `None` where nothing was.
fn kept_until(policy: &Policy, report: &Report, at: Timestamp) -> Option<Timestamp> {
    let ttl = match &report.outcome {
        Outcome::AcceptsAll(_) | Outcome::Accepted(_) => policy.valid_ttl,
        Outcome::Rejected(_) if is_deferred_reject(policy, &report.outcome) => return None,
        Outcome::Rejected(_) | Outcome::NullMx => policy.invalid_ttl,
        Outcome::NullSenderRefused(_) => callahead_cache::MAX_INVALID_AGE,
        _ => return None,
    };
    Some(at.after(ttl))
}

/// Whether it is the same for every recipient of the domain.
fn speaks_of_domain(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::AcceptsAll(_) | Outcome::NullSenderRefused(_) | Outcome::NullMx)
}

fn learned(outcome: &Outcome) -> Learned {
    match outcome {
        Outcome::AcceptsAll(_) => Learned::AcceptsAll,
        Outcome::Accepted(_) => Learned::Accepted,
        Outcome::Rejected(reply) => Learned::Rejected { of_the_filter: talks_of_filter(reply.enhanced()) },
        Outcome::Deferred(_) | Outcome::NeedsSmtpUtf8 => Learned::Deferred,
        Outcome::NullSenderRefused(_) => Learned::NullSenderRefused,
        Outcome::Unreachable(_) => Learned::Unreachable,
        Outcome::NullMx => Learned::NullMx,
        Outcome::Busy => Learned::Busy,
    }
}

/// Subjects 3 (mail system), 4 (network), 5 (protocol) and 7 (policy) of RFC 3463 are not about the mailbox.
fn talks_of_filter(enhanced: Option<EnhancedCode>) -> bool {
    enhanced.is_some_and(|enhanced| matches!(enhanced.subject(), 3 | 4 | 5 | 7))
}

fn is_deferred_reject(policy: &Policy, outcome: &Outcome) -> bool {
    let of_the_filter = matches!(outcome, Outcome::Rejected(reply) if talks_of_filter(reply.enhanced()));
    of_the_filter && policy.policy_rejects == RejectOrDefer::Defer
}
