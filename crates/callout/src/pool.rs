//! The sessions of one host: how many there may be, who waits for one, when they end, and what was learned of the host.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::breaker::Breaker;
use crate::outcome::{Failure, HostFailure};
use crate::refusal::{Refusal, Refusals};
use crate::session::Session;
use crate::settings::Settings;

/// Idle for less than this when it was found closed: the host ended it for what was done in it, not for its idleness.
const CLOSED_AT_ONCE: Duration = Duration::from_secs(1);
/// Sessions in a row that reached the learned limit in peace and so raise it by one.
const PEACEFUL_ENDS: u32 = 10;
/// How long a host whose TLS failed is asked in clear where the policy allows it.
const NO_TLS_FOR: Duration = Duration::from_secs(300);
/// How soon TLS is tried again before that, where a refusal in clear may be for want of it.
const TLS_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long it is believed of a host that it does not refuse recipients for want of TLS.
const TAKES_CLEAR_FOR: Duration = Duration::from_secs(3600);
/// What a host is given at least before its silence counts as a failure, or a fifth of the time for a question where that is less: a question may have
/// come to its session with hardly any left. The first of two hosts has half of the time, and without pipelining half of that is kept for another try.
const FAIR_CHANCE: Duration = Duration::from_secs(5);
/// How long commands leave one by one to a host whose answers to several at once were not what they should be. One slow answer looks the same.
const NO_PIPELINING_FOR: Duration = Duration::from_secs(300);

/// A host's sessions. One for each host, port and TLS policy, whatever domains lead there.
pub(crate) struct HostPool {
    pub(crate) name: String,
    state: Mutex<State>,
    /// The node's bound on sessions.
    node: Arc<Semaphore>,
    /// A relay has ended its session.
    relay_ended: Notify,
}

#[derive(Default)]
struct State {
    idle: Vec<Pooled>,
    waiting: VecDeque<Waiter>,
    /// Sessions that exist or are being made, those that are ending included.
    open: usize,
    background: usize,
    /// Sessions of relays.
    relays: usize,
    /// Those of them that were opened for a client, by its network.
    relays_of: HashMap<IpAddr, usize>,
    reaping: bool,
    closing: bool,
    breaker: Breaker,
    learned: Learned,
    /// Sessions opened before this are not used again.
    retired: Option<Instant>,
    counters: Counters,
    last_failure: Option<String>,
    last_used: Option<Instant>,
}

/// What a host taught.
#[derive(Default)]
struct Learned {
    /// Recipients after which it ends sessions, less one.
    uses: Option<u32>,
    refusals: Refusals,
    peaceful_ends: u32,
    no_pipelining_until: Option<Instant>,
    no_tls_until: Option<Instant>,
    tls_tried_again: Option<Instant>,
    /// When it accepted a recipient in a session that was to be encrypted and was not.
    took_clear: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
struct Counters {
    connections: u64,
    questions: u64,
    rejected: u64,
    failures: u64,
}

/// What one who wants to ask gets.
pub(crate) enum Slot {
    Reuse(Pooled),
    /// The right to open a session.
    Open(Ticket),
}

/// What somebody wants of a session.
#[derive(Clone, Copy)]
pub(crate) struct Wants {
    /// A new one, in which nobody has asked before.
    pub(crate) fresh: bool,
    /// Recipients that they ask for, with the random one.
    pub(crate) recipients: u32,
}

/// One who waits for a session.
struct Waiter {
    hand: oneshot::Sender<Slot>,
    wants: Wants,
    /// A session that is of no use to them is ending, so that they may open theirs.
    promised: bool,
}

/// What becomes of a session that came back.
enum Back {
    Taken,
    Idle(Pooled),
    End(Pooled),
}

/// The right to one session of a host; given back when dropped.
pub(crate) struct Ticket {
    // In this order: the node's permit is there again when the next one is looked for.
    _node: OwnedSemaphorePermit,
    #[allow(dead_code, reason = "held for its drop")]
    counted: Counted,
}

/// A session and its right to be there.
pub(crate) struct Pooled {
    pub(crate) session: Box<Session>,
    pub(crate) ticket: Ticket,
}

/// A place among the background questions of a host; given back when dropped.
pub(crate) struct Background(Arc<HostPool>);

/// What is to be done for one who wants a session.
enum Turn {
    Idle(Pooled),
    Open(Counted),
    /// With an idle session that is of no use and to be ended, where there is one: its place is the next to be free.
    Wait(oneshot::Receiver<Slot>, Option<Pooled>),
}

/// A relay's place at a host; given back when dropped.
pub(crate) struct RelayPlace {
    pool: Arc<HostPool>,
    client: Option<IpAddr>,
}

/// Being the one who sees whether a host is back; given back when dropped.
pub(crate) struct Admission {
    pool: Arc<HostPool>,
    probing: bool,
}

/// No session can be had.
pub(crate) struct NoSession;

/// What is known of a host, for metrics and pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationStatus {
    /// `host:port`.
    pub host: String,
    /// Sessions open, those that are ending included.
    pub sessions: usize,
    /// Of them, idle.
    pub idle: usize,
    /// Questions that wait for a session.
    pub waiting: usize,
    /// The circuit breaker is open: the host is left alone for so long yet.
    pub open_for: Option<Duration>,
    /// The learned limit on recipients in a session, where one was learned.
    pub learned_uses: Option<u32>,
    /// Connections made.
    pub connections: u64,
    /// Questions answered.
    pub questions: u64,
    /// Of them, recipients refused.
    pub rejected: u64,
    /// Times that the host could not be asked.
    pub failures: u64,
    /// Why it could not be asked, the last time.
    pub last_failure: Option<String>,
}

impl Wants {
    /// Whether a session that was used before will do.
    fn are_met_by(self, session: &Session, limit: u32) -> bool {
        !self.fresh && session.uses.saturating_add(self.recipients) <= limit
    }
}

impl State {
    /// Recipients that a session may be asked for.
    fn limit(&self, session: &Session, settings: &Settings) -> u32 {
        self.learned.uses.unwrap_or(u32::MAX).min(settings.uses).min(session.most_uses)
    }

    /// The right to open a session, to the first who waits; back where nobody does.
    fn hand_on(&mut self, ticket: Ticket) -> Option<Slot> {
        let mut slot = Slot::Open(ticket);
        while let Some(waiter) = self.waiting.pop_front() {
            match waiter.hand.send(slot) {
                Ok(()) => return None,
                // That one waits no more.
                Err(unwanted) => slot = unwanted,
            }
        }
        Some(slot)
    }

    /// A session, to the first who waits. Where it is of no use to them it is to be ended, and those behind them get the next one.
    fn hand_back(&mut self, mut pooled: Pooled, limit: u32) -> Back {
        self.waiting.retain(|waiter| !waiter.hand.is_closed());
        let is_next =
            |waiter: &Waiter, pooled: &Pooled| !waiter.promised || waiter.wants.are_met_by(&pooled.session, limit);
        while let Some(nth) = self.waiting.iter().position(|waiter| is_next(waiter, &pooled)) {
            if !self.waiting[nth].wants.are_met_by(&pooled.session, limit) {
                self.waiting[nth].promised = true;
                return Back::End(pooled);
            }
            let Some(waiter) = self.waiting.remove(nth) else { break };
            match waiter.hand.send(Slot::Reuse(pooled)) {
                // That one waits no more.
                Err(Slot::Reuse(unwanted)) => pooled = unwanted,
                Ok(()) | Err(Slot::Open(_)) => return Back::Taken,
            }
        }
        Back::Idle(pooled)
    }
}

impl HostPool {
    pub(crate) fn new(name: String, node: Arc<Semaphore>) -> Self {
        Self { name, state: Mutex::default(), node, relay_ended: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the circuit breaker lets a question through.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Admission, Failure> {
        let mut state = self.state();
        state.last_used = Some(Instant::now());
        let probing = state.breaker.ask(Instant::now()).map_err(Failure::CircuitOpen)?;
        Ok(Admission { pool: Arc::clone(self), probing })
    }

    /// A session, or the right to open one, in the order of asking.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        settings: &Settings,
        wants: Wants,
        deadline: Instant,
    ) -> Result<Slot, NoSession> {
        loop {
            // Decided under the lock, done without it.
            match self.turn(settings, wants)? {
                Turn::Idle(pooled) => {
                    if let Some(pooled) = self.check(pooled, settings).await {
                        return Ok(Slot::Reuse(pooled));
                    }
                }
                Turn::Open(counted) => return counted.ticket(deadline).await.map(Slot::Open),
                // An error is the pool's closing, or the end of the time.
                Turn::Wait(waiter, useless) => {
                    if let Some(useless) = useless {
                        useless.end(settings.quit_timeout);
                    }
                    return timeout_at(deadline, waiter).await.ok().and_then(Result::ok).ok_or(NoSession);
                }
            }
        }
    }

    fn turn(self: &Arc<Self>, settings: &Settings, wants: Wants) -> Result<Turn, NoSession> {
        let mut state = self.state();
        if state.closing {
            return Err(NoSession);
        }
        let of_use = state.idle.iter().rposition(|pooled| {
            let limit = state.limit(&pooled.session, settings);
            wants.are_met_by(&pooled.session, limit)
        });
        if let Some(nth) = of_use {
            return Ok(Turn::Idle(state.idle.remove(nth)));
        }
        if state.open < settings.sessions_per_destination {
            state.open += 1;
            return Ok(Turn::Open(Counted(Arc::clone(self))));
        }
        if state.waiting.len() >= settings.queue_per_destination {
            state.waiting.retain(|waiter| !waiter.hand.is_closed());
            if state.waiting.len() >= settings.queue_per_destination {
                return Err(NoSession);
            }
        }
        let useless = (!state.idle.is_empty()).then(|| state.idle.remove(0));
        let (hand, waiter) = oneshot::channel();
        state.waiting.push_back(Waiter { hand, wants, promised: useless.is_some() });
        Ok(Turn::Wait(waiter, useless))
    }

    /// An idle session as it was left; one that was closed or told something meanwhile is ended.
    async fn check(&self, mut pooled: Pooled, settings: &Settings) -> Option<Pooled> {
        if pooled.session.is_quiet().await {
            return Some(pooled);
        }
        if pooled.session.idle_since.elapsed() < CLOSED_AT_ONCE {
            self.learn_uses(pooled.session.uses);
        }
        pooled.end(settings.quit_timeout);
        None
    }

    /// A place for background work, which neither waits nor takes more than a tenth of the sessions.
    pub(crate) fn background(self: &Arc<Self>, settings: &Settings) -> Result<Background, NoSession> {
        let mut state = self.state();
        let places = (settings.sessions_per_destination / 10).max(1);
        let none_left = state.idle.is_empty() && state.open >= settings.sessions_per_destination;
        if state.background >= places || !state.waiting.is_empty() || none_left {
            return Err(NoSession);
        }
        state.background += 1;
        Ok(Background(Arc::clone(self)))
    }

    /// A place for a relay's session, when there is one before the deadline.
    ///
    /// A client takes one only while it has fewer than are free. So one alone has half of them, and however many places a few take, those who come
    /// after them still find some.
    pub(crate) async fn relay(
        self: &Arc<Self>,
        client: Option<IpAddr>,
        settings: &Settings,
        deadline: Instant,
    ) -> Result<RelayPlace, Failure> {
        loop {
            // Before the look, so that no end is missed, not the second of two that come at once either.
            let mut ended = pin!(self.relay_ended.notified());
            ended.as_mut().enable();
            {
                let mut state = self.state();
                let free = settings.relays_per_destination.saturating_sub(state.relays);
                let own = client.and_then(|client| state.relays_of.get(&client).copied()).unwrap_or(0);
                if own < free {
                    state.relays += 1;
                    if let Some(client) = client {
                        *state.relays_of.entry(client).or_default() += 1;
                    }
                    return Ok(RelayPlace { pool: Arc::clone(self), client });
                }
            }
            if timeout_at(deadline, ended).await.is_err() {
                return Err(Failure::TooManyRelays);
            }
        }
    }

    /// Takes a session back after a question: hands it on, keeps it, or ends it.
    pub(crate) fn release(self: &Arc<Self>, pooled: Pooled, settings: &Settings) {
        let mut state = self.state();
        let limit = state.limit(&pooled.session, settings);
        let old = state.retired.is_some_and(|retired| pooled.session.opened <= retired);
        let spent = old || pooled.session.uses >= limit || pooled.session.rejected >= settings.rejected_per_session;
        if spent || state.closing {
            if pooled.session.uses >= limit && state.learned.uses.is_some() {
                state.learned.peaceful_ends += 1;
                if state.learned.peaceful_ends >= PEACEFUL_ENDS {
                    state.learned.peaceful_ends = 0;
                    state.learned.uses = Some(limit + 1).filter(|raised| *raised < settings.uses);
                }
            }
            drop(state);
            pooled.end(settings.quit_timeout);
            return;
        }
        let mut pooled = match state.hand_back(pooled, limit) {
            Back::Idle(pooled) => pooled,
            Back::Taken => return,
            Back::End(pooled) => {
                drop(state);
                pooled.end(settings.quit_timeout);
                return;
            }
        };
        pooled.session.idle_since = Instant::now();
        state.idle.push(pooled);
        if !state.reaping {
            state.reaping = true;
            tokio::spawn(reap(Arc::clone(self), settings.idle, settings.quit_timeout));
        }
    }

    /// The host ended a session after so many recipients, or answered by them: others end before that.
    pub(crate) fn learn_uses(&self, uses: u32) {
        let mut state = self.state();
        let below = uses.saturating_sub(1).max(1);
        state.learned.uses = Some(state.learned.uses.map_or(below, |known| known.min(below)));
        state.learned.peaceful_ends = 0;
    }

    /// The first recipient of a session was refused so.
    pub(crate) fn learn_refusal(&self, refusal: Refusal) {
        self.state().learned.refusals.learn(refusal);
    }

    /// Whether first recipients of sessions are refused so.
    pub(crate) fn knows(&self, refusal: &Refusal) -> bool {
        self.state().learned.refusals.know(refusal)
    }

    pub(crate) fn learn_no_pipelining(&self) {
        self.state().learned.no_pipelining_until = Some(Instant::now() + NO_PIPELINING_FOR);
    }

    pub(crate) fn pipelines(&self) -> bool {
        self.state().learned.no_pipelining_until.is_none_or(|until| Instant::now() >= until)
    }

    pub(crate) fn learn_no_tls(&self) {
        self.state().learned.no_tls_until = Some(Instant::now() + NO_TLS_FOR);
    }

    /// Encryption may be what the host wants: it is tried again, and no question begins in a session that is open now. At most once in
    /// [`TLS_AGAIN_AFTER`]: a host whose TLS never works is asked in clear meanwhile.
    pub(crate) fn try_tls_again(&self, quit_timeout: Duration) {
        {
            let mut state = self.state();
            if state.learned.tls_tried_again.is_some_and(|tried| tried.elapsed() < TLS_AGAIN_AFTER) {
                return;
            }
            state.learned.tls_tried_again = Some(Instant::now());
            state.learned.no_tls_until = None;
        }
        self.retire(quit_timeout);
    }

    /// The host accepted a recipient in a session that was to be encrypted and is not.
    pub(crate) fn learn_takes_clear(&self) {
        self.state().learned.took_clear = Some(Instant::now());
    }

    /// Whether it lately did: then what it refuses in clear it does not refuse for want of encryption.
    pub(crate) fn takes_clear(&self) -> bool {
        self.state().learned.took_clear.is_some_and(|took| took.elapsed() < TAKES_CLEAR_FOR)
    }

    pub(crate) fn tls_works(&self) -> bool {
        self.state().learned.no_tls_until.is_none_or(|until| Instant::now() >= until)
    }

    pub(crate) fn count_connection(&self) {
        self.state().counters.connections += 1;
    }

    pub(crate) fn count_question(&self, rejected: bool) {
        let mut state = self.state();
        state.counters.questions += 1;
        state.counters.rejected += u64::from(rejected);
    }

    pub(crate) fn status(&self) -> DestinationStatus {
        let state = self.state();
        DestinationStatus {
            host: self.name.clone(),
            sessions: state.open,
            idle: state.idle.len(),
            waiting: state.waiting.iter().filter(|waiter| !waiter.hand.is_closed()).count(),
            open_for: state.breaker.open_for(Instant::now()),
            learned_uses: state.learned.uses,
            connections: state.counters.connections,
            questions: state.counters.questions,
            rejected: state.counters.rejected,
            failures: state.counters.failures,
            last_failure: state.last_failure.clone(),
        }
    }

    /// Sessions open now.
    pub(crate) fn sessions(&self) -> usize {
        self.state().open
    }

    /// Whether nothing would be lost by forgetting it.
    pub(crate) fn is_forgettable(&self, unused_for: Duration) -> bool {
        let state = self.state();
        let quiet = state.open == 0
            && state.relays == 0
            && state.waiting.is_empty()
            && state.breaker.open_for(Instant::now()).is_none();
        quiet && state.last_used.is_none_or(|used| used.elapsed() > unused_for)
    }

    /// Whether it is left alone for now, and when it was last asked.
    pub(crate) fn last_needed(&self) -> (bool, Option<Instant>) {
        let state = self.state();
        (state.breaker.open_for(Instant::now()).is_some(), state.last_used)
    }

    /// Lets no question begin in a session that is open now.
    pub(crate) fn retire(&self, quit_timeout: Duration) {
        let idle = {
            let mut state = self.state();
            state.retired = Some(Instant::now());
            std::mem::take(&mut state.idle)
        };
        idle.into_iter().for_each(|pooled| pooled.end(quit_timeout));
    }

    /// Asks anew, as whoever clears wants: in new sessions only, whatever the host did before, and with no refusal taken for a known one.
    pub(crate) fn begin_anew(&self, quit_timeout: Duration) {
        {
            let mut state = self.state();
            state.learned.refusals = Refusals::default();
            state.learned.no_tls_until = None;
            state.learned.took_clear = None;
            state.breaker.succeeded();
        }
        self.retire(quit_timeout);
    }

    /// Ends idle sessions, and those in use when they come back. Gives how many there are yet.
    pub(crate) fn close(&self, quit_timeout: Duration) -> usize {
        let (idle, open) = {
            let mut state = self.state();
            state.closing = true;
            state.waiting.clear();
            (std::mem::take(&mut state.idle), state.open)
        };
        idle.into_iter().for_each(|pooled| pooled.end(quit_timeout));
        open
    }
}

/// Ends sessions that have been idle for long enough, until none is.
async fn reap(pool: Arc<HostPool>, idle: Duration, quit_timeout: Duration) {
    loop {
        let (old, next) = {
            let mut state = pool.state();
            let now = Instant::now();
            let (old, young): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.idle).into_iter().partition(|pooled| now >= pooled.session.idle_since + idle);
            let next = young.iter().map(|pooled| pooled.session.idle_since + idle).min();
            state.idle = young;
            state.reaping = next.is_some();
            (old, next)
        };
        old.into_iter().for_each(|pooled| pooled.end(quit_timeout));
        match next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => return,
        }
    }
}

impl Pooled {
    /// Ends the session in the background; its right to be there is given back when it is over.
    pub(crate) fn end(self, quit_timeout: Duration) {
        let Self { session, ticket } = self;
        tokio::spawn(async move {
            session.quit(quit_timeout, None).await;
            drop(ticket);
        });
    }
}

/// A session counted in `open`; counted out when dropped.
struct Counted(Arc<HostPool>);

impl Counted {
    /// With the node's part of the right.
    async fn ticket(self, deadline: Instant) -> Result<Ticket, NoSession> {
        let node = Arc::clone(&self.0.node).acquire_owned();
        match timeout_at(deadline, node).await {
            Ok(Ok(node)) => Ok(Ticket { _node: node, counted: self }),
            _ => Err(NoSession),
        }
    }
}

impl Ticket {
    /// To the first who waits for a session of the host; given back where nobody does.
    fn hand_on(self) {
        let pool = Arc::clone(&self.counted.0);
        let unwanted = pool.state().hand_on(self);
        // Not under the lock, which it takes itself.
        drop(unwanted);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        count_out(&self.0);
    }
}

/// One session less; the first who waits may open one in its place.
fn count_out(pool: &Arc<HostPool>) {
    {
        let mut state = pool.state();
        state.open -= 1;
        while state.waiting.pop_front_if(|waiter| waiter.hand.is_closed()).is_some() {}
        if state.waiting.is_empty() {
            return;
        }
        state.open += 1;
    }
    let pool = Arc::clone(pool);
    if let Ok(node) = Arc::clone(&pool.node).try_acquire_owned() {
        Ticket { _node: node, counted: Counted(pool) }.hand_on();
        return;
    }
    // Another host has the node's last one. Who waits goes on waiting for a session that comes back, too. No guard counts this one until then: a
    // runtime that ends drops the task at once, and a guard dropped with it would start the next from here, for ever.
    tokio::spawn(async move {
        if let Ok(node) = Arc::clone(&pool.node).acquire_owned().await {
            Ticket { _node: node, counted: Counted(pool) }.hand_on();
        }
    });
}

impl Drop for RelayPlace {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.relays -= 1;
        if let Some(client) = self.client
            && let Some(count) = state.relays_of.get_mut(&client)
        {
            *count -= 1;
            if *count == 0 {
                state.relays_of.remove(&client);
            }
        }
        drop(state);
        // All, since the first of them may be one whose client has its share.
        self.pool.relay_ended.notify_waiters();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.state().background -= 1;
    }
}

impl Admission {
    /// The host answered.
    pub(crate) fn succeeded(mut self) {
        self.pool.state().breaker.succeeded();
        self.probing = false;
    }

    /// The host could not be asked, in the time since `began`. Where it was the DNS that failed, or this node, or the question had no time left when
    /// it got here, that is no failure of the host.
    pub(crate) fn failed(mut self, failure: &HostFailure, began: Instant, settings: &Settings) {
        let in_time = match failure.failure {
            Failure::Timeout(_) => true,
            // It had all that a connection is given.
            Failure::ConnectTimeout(waited) => waited < settings.connect_timeout,
            _ => false,
        };
        let too_late = in_time && began.elapsed() < FAIR_CHANCE.min(settings.timeout / 5);
        if too_late || failure.failure.is_not_the_hosts() {
            return;
        }
        let mut state = self.pool.state();
        state.breaker.failed(self.probing, Instant::now(), settings);
        state.counters.failures += 1;
        state.last_failure = Some(failure.failure.to_string());
        drop(state);
        self.probing = false;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.probing {
            self.pool.state().breaker.released();
        }
    }
}
