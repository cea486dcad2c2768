//! From question to decision: facts for the table, flights where it asks for the destination, and what is kept afterwards.

mod case;
mod flying;

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use callahead_cache::{Cache, CacheError, Cleared, Lookup, Scope, Timestamp};
use callahead_callout::Ask;
use callahead_smtp::{AddressLiteral, Domain, Recipient};
use tokio::time::{Instant, timeout_at};

use case::learned;
use flying::Why;

use crate::answer::says_closed;
use crate::clock::Clock;
use crate::decision::{Decision, Listener, Question};
use crate::directory::{Directory, DomainConfig};
use crate::flights::{Boarding, Flights};
use crate::greylisting::Answers;
use crate::lately::Lately;
use crate::observer::{AlertKind, Observer};
use crate::protection::{Clients, Harvest, HoldDowns, NoPlace, Place};
use crate::table::{Facts, Kept, Learned, Step, decide};
use crate::unwritten::Unwritten;

/// The same alert is told again after this.
const ALERT_EVERY: Duration = Duration::from_secs(600);
/// Alerts that are remembered, so as not to tell them again.
const MAX_ALERTS: usize = 10_000;
/// A background refresh of the same recipient is tried again after this.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// Refreshes that are remembered.
const MAX_REFRESHES: usize = 10_000;
/// What was known of a question so long ago is looked up again before its destination is asked.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
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
    /// Flights that questions started. One that finds another asking a random local part of the domain may be told by that.
    pub flights: u64,
    /// Questions that joined one.
    pub joined: u64,
    /// Callouts started in the background.
    pub refreshes: u64,
    /// Questions deferred because the client guesses.
    pub guesses: u64,
    /// Records not kept because of a clear in between, or because something newer was there.
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
    clients: Arc<Clients>,
    counters: Counters,
    alerts: Lately<(String, AlertKind)>,
    /// Whether destinations greylist.
    answers: Answers,
    refreshes: Lately<Recipient>,
    unwritten: Unwritten,
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

/// A question whose destination has to be asked, with all that is known without that.
pub struct Unanswered(Box<Case>);

impl fmt::Debug for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unanswered").field(&self.0.shown).finish()
    }
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
            clients: Arc::new(Clients::new(settings.clients)),
            counters: Counters::default(),
            alerts: Lately::new(ALERT_EVERY, MAX_ALERTS),
            answers: Answers::default(),
            refreshes: Lately::new(REFRESH_EVERY, MAX_REFRESHES),
            unwritten: Unwritten::default(),
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
        // Before the clear: what is asked under the new epoch shall find no session, and no answer of the DNS, from before it.
        let whose = match &scope {
            Scope::Recipient(recipient) => Some(recipient.domain()),
            Scope::Domain(domain) => Some(domain),
            Scope::All => None,
        };
        let directory = self.directory();
        let of = whose.and_then(|whose| Some((whose, &*directory.find(whose)?.route)));
        self.inner.callouts.ask_anew(of);
        let cleared = self.inner.cache.clear(scope.clone(), self.inner.clock.now()).await?;
        // Flights and hold-downs are under smaller epochs and so found no more.
        tracing::info!(%scope, entries = cleared.entries, epoch = cleared.epoch.0, "cleared");
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

    /// The domains whose destinations are being asked, or said a moment ago that they can't tell: what was learned there need not be in the cache.
    pub fn domains_in_memory(&self) -> HashSet<Domain> {
        let mut domains = self.inner.flights.domains();
        domains.extend(self.inner.held.domains());
        domains
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
            held_down: self.inner.held.held_down(self.now()),
        }
    }

    /// Decides from what is kept and configured, without waiting.
    ///
    /// # Errors
    /// What is known, where the destination has to be asked: [`decide_by_callout`](Self::decide_by_callout) goes on with it.
    pub fn decide_cached(&self, question: &Question<'_>) -> Result<Decision, Unanswered> {
        let mut case = self.case(question, Instant::now());
        match self.decide_from_kept(question, &mut case) {
            Some(decision) => Ok(self.told(question, &case, decision)),
            None => Err(Unanswered(Box::new(case))),
        }
    }

    /// Asks the destination what [`decide_cached`](Self::decide_cached) could not answer of the same question. Always comes to an end within
    /// the deadline, which began there.
    ///
    /// A caller that goes away takes nothing with it: the callout goes on, and its answer is kept.
    pub async fn decide_by_callout(&self, question: &Question<'_>, unanswered: Unanswered) -> Decision {
        let mut case = unanswered.0;
        // A gateway may have waited for its client in between.
        if case.started.elapsed() >= LOOK_AGAIN_AFTER {
            self.look_again(question, &mut case);
            if let Some(decision) = self.decide_from_kept(question, &mut case) {
                return self.told(question, &case, decision);
            }
        }
        let decision = loop {
            let over = match self.place(question, &case) {
                Ok(place) => break self.ask(question, &case, place).await,
                Err(NoPlace::Wait(over)) => Some(over),
                Err(NoPlace::Guessing) => None,
            };
            if let Some(over) = over
                && timeout_at(self.deadline_of(&case), over).await.is_err()
            {
                break case.without_outcome(Learned::TooLate, false);
            }
            // What was waited for may be what this question asks, or may have told that the client guesses.
            self.look_again(question, &mut case);
            if let Some(decision) = self.decide_from_kept(question, &mut case) {
                break decision;
            }
        };
        self.told(question, &case, decision)
    }

    /// Decides; where nothing that is kept does, the destination is asked. Always comes to an end within the deadline.
    ///
    /// A caller that goes away takes nothing with it: the callout goes on, and its answer is kept.
    pub async fn decide(&self, question: Question<'_>) -> Decision {
        match self.decide_cached(&question) {
            Ok(decision) => decision,
            Err(unanswered) => Box::pin(self.decide_by_callout(&question, unanswered)).await,
        }
    }

    /// A route that changes is in the directory first, and then its domain is cleared. So an epoch that was read while the directory was still the
    /// one before is from before that clear, and nothing that the old route brings is kept; with another directory it is read again.
    fn case(&self, question: &Question<'_>, started: Instant) -> Case {
        loop {
            let directory = self.inner.directory.load();
            let case = self.case_in(&directory, question, started);
            if Arc::ptr_eq(&directory, &self.inner.directory.load()) {
                return case;
            }
        }
    }

    /// For a question that has waited: what is kept may answer it by now. Its policy stays the one that it began with; its route is the one of
    /// now, since the epoch is. Where the domain is gone, or its recipients are told apart in another way, it stays as it began, and nobody is asked
    /// any more (`fly`).
    fn look_again(&self, question: &Question<'_>, case: &mut Case) {
        let mut again = self.case(question, case.started);
        let (Some(new), Some(old)) = (&again.domain, &case.domain) else { return };
        if new.policy.fold_local_part != old.policy.fold_local_part {
            return;
        }
        if !Arc::ptr_eq(new, old) {
            again.domain = Some(Arc::new(DomainConfig { route: Arc::clone(&new.route), ..DomainConfig::clone(old) }));
        }
        *case = again;
    }

    fn case_in(&self, directory: &Directory, question: &Question<'_>, started: Instant) -> Case {
        let parsed = Recipient::parse_as_written(question.recipient);
        let is_mailbox = parsed.is_ok() || is_bare_local_part(question.recipient);
        let mut recipient = parsed.ok();
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
            (Some(recipient), Some(_)) => self.lookup(recipient),
            _ => Lookup::default(),
        };
        Case { started, now: self.inner.clock.now(), shown, recipient, is_mailbox, domain, lookup }
    }

    /// What is kept of a recipient. Where that can't be read, answers go on from callouts.
    fn lookup(&self, recipient: &Recipient) -> Lookup {
        let mut lookup = self.inner.cache.lookup(recipient).unwrap_or_else(|error| {
            tracing::error!(%error, "a lookup failed");
            self.inner.cache.unread()
        });
        self.inner.unwritten.correct(recipient, &mut lookup);
        lookup
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
        let mut case = self.case(&Question::new(recipient, Listener::Admin), Instant::now());
        let decision = match decide(&case.facts()) {
            Step::Decide(ruling) => case.kept_decision(&ruling),
            Step::Ask => self.decide_from_lately(&case)?,
        };
        Some(case.observed(decision))
    }

    /// By when its question has to be answered.
    fn deadline_of(&self, case: &Case) -> Instant {
        case.started + self.inner.settings.load().deadline
    }

    /// A place for a callout among those of the client, where it is known. Questions of administrators are nobody's guesses.
    fn place(&self, question: &Question<'_>, case: &Case) -> Result<Option<Place>, NoPlace> {
        let (Some(client), Some(recipient)) = (question.client.filter(|_| !question.live), &case.recipient) else {
            return Ok(None);
        };
        self.inner.clients.place(client, recipient.domain(), case.now, self.inner.settings.load().harvest)
    }

    /// Asks the destination, or joins those who do.
    async fn ask(&self, question: &Question<'_>, case: &Case, mut place: Option<Place>) -> Decision {
        let (Some(recipient), Some(domain)) = (&case.recipient, &case.domain) else {
            return case.without_outcome(Learned::Busy, false);
        };
        let deadline = self.deadline_of(case);
        let join = !question.live;
        loop {
            let boarding = self.inner.flights.board(recipient, case.lookup.floor, case.lookup.epoch, self.now(), join);
            let arrival = match boarding {
                Boarding::Full => return case.without_outcome(Learned::Busy, false),
                Boarding::Joined(arrival) => {
                    // No callout of its own.
                    place = None;
                    self.inner.counters.joined.fetch_add(1, Ordering::Relaxed);
                    arrival
                }
                Boarding::Started(start) => {
                    self.inner.counters.flights.fetch_add(1, Ordering::Relaxed);
                    let why = if question.live { Why::Live } else { Why::Question };
                    self.fly(recipient, domain, case, start, why, place.take())
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

    /// The last thing of every decision: observe mode, who guesses, who is told.
    fn told(&self, question: &Question<'_>, case: &Case, mut decision: Decision) -> Decision {
        if matches!(decision.row, 8 | 11)
            && decision.verdict == Some(crate::Verdict::Invalid)
            && let (Some(client), Some(recipient)) = (question.client, &case.recipient)
            && !says_closed(&decision.answer)
        {
            self.inner.clients.missed(client, recipient, case.now, self.inner.settings.load().harvest);
        }
        decision = case.observed(decision);
        decision.elapsed = case.started.elapsed();
        decision.at = case.now.after(decision.elapsed);
        self.inner.observer.decided(question, &decision);
        decision
    }
}

/// An address without a domain is qualified by the MTA and belongs to it; so does the bare `<postmaster>` of RFC 5321 4.5.1.
fn is_bare_local_part(address: &[u8]) -> bool {
    let nowhere = Domain::Literal(AddressLiteral::V4([0, 0, 0, 0].into()));
    std::str::from_utf8(address).is_ok_and(|text| Recipient::new(text, nowhere).is_ok())
}
