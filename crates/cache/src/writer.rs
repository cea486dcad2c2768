//! The one writer: takes what has queued up, writes it in one transaction, commits with a sync, and tells those who wait.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use callahead_smtp::{Domain, Recipient};
use heed::{Env, RwTxn};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::codec::{self, DomainSlot, Header, RecipientSlot};
use crate::key;
use crate::record::{DomainState, Epoch, FLIGHT_MAX, RecipientState, Record, State, Timestamp};
use crate::store::{CacheError, HEADER, Store, explained};
use crate::sweep::{self, Swept};

/// The least time between two commits that nobody waits for. Each is a sync of the disk, which others need too; what was learned
/// meanwhile is answered from memory.
const GATHER_FOR: Duration = Duration::from_millis(30);

/// What a clear forgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One recipient, and what its domain's record says of it.
    Recipient(Recipient),
    /// A domain and all its recipients; not its subdomains.
    Domain(Domain),
    /// Everything.
    All,
}

/// What a clear did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleared {
    /// Records that were kept before, expired ones too.
    pub entries: u64,
    /// The clear's epoch: everything learned before is under a smaller one.
    pub epoch: Epoch,
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// On disk.
    Written,
    /// Not written: somebody cleared since, or something newer is there.
    Superseded,
}

/// Resolves when a put is on disk, or will not be.
#[derive(Debug)]
pub struct PutTicket(pub(crate) oneshot::Receiver<Result<Put, String>>);

pub(crate) type PutDone = oneshot::Sender<Result<Put, String>>;

/// What the writer is asked to do, in the order of the queue.
#[derive(Debug)]
pub(crate) enum Operation {
    PutRecipient { key: Vec<u8>, record: Record<RecipientState>, epoch: Epoch, done: PutDone },
    PutDomain { key: Vec<u8>, record: Record<DomainState>, epoch: Epoch, done: PutDone },
    Clear { scope: Scope, now: Timestamp, done: oneshot::Sender<Result<Cleared, String>> },
    KeepRoutes { changed: Vec<(String, Option<String>)>, done: oneshot::Sender<Result<(), String>> },
    Sweep { now: Timestamp, done: oneshot::Sender<Result<Swept, String>> },
    Flush { done: oneshot::Sender<Result<(), String>> },
}

/// Somebody to be told after the commit, and what.
enum Notice {
    Put(PutDone, Put),
    Cleared(oneshot::Sender<Result<Cleared, String>>, Cleared),
    Swept(oneshot::Sender<Result<Swept, String>>, Swept),
    Done(oneshot::Sender<Result<(), String>>),
}

pub(crate) struct Writer {
    pub(crate) env: Env,
    pub(crate) store: Arc<Store>,
    pub(crate) header: Header,
    pub(crate) batch: usize,
    pub(crate) clears: Clears,
    /// The latest time in the file when it was opened. A clock that was set back by less than makes the cache begin empty is behind it for
    /// a moment: until then what is written later was learned later, whatever its time says.
    pub(crate) caught_up_at: Timestamp,
}

/// The slots of the domains that one commit is about: each is read once and written once, however many of its recipients are put.
#[derive(Default)]
struct Domains(BTreeMap<Vec<u8>, OfDomain>);

struct OfDomain {
    slot: DomainSlot,
    changed: bool,
}

/// The clears since the cache was opened, by a clock that nobody sets: a callout from before one of them may still be under way. None
/// can be from before the start.
#[derive(Debug)]
pub(crate) struct Clears {
    recent: VecDeque<Clear>,
    /// The last one that is longer ago than [`FLIGHT_MAX`].
    settled: Epoch,
}

/// One second's clears.
#[derive(Debug)]
struct Clear {
    first: Instant,
    last: Instant,
    epoch: Epoch,
}

impl Writer {
    /// Runs until the queue is closed and empty. Whoever unparks its thread has what is queued written without delay.
    pub(crate) fn run(mut self, mut operations: mpsc::Receiver<Operation>) {
        let mut batch = Vec::new();
        let mut sweep_from = Vec::new();
        while operations.blocking_recv_many(&mut batch, self.batch) > 0 {
            self.write(&mut batch, &mut sweep_from);
            std::thread::park_timeout(GATHER_FOR);
        }
    }

    /// The same as a task.
    pub(crate) async fn run_paced<P, F>(mut self, mut operations: mpsc::Receiver<Operation>, mut pace: P)
    where
        P: FnMut() -> F,
        F: Future<Output = ()>,
    {
        let mut batch = Vec::new();
        let mut sweep_from = Vec::new();
        while operations.recv_many(&mut batch, self.batch).await > 0 {
            pace().await;
            self.write(&mut batch, &mut sweep_from);
        }
    }

    /// One commit, where there is anything to write, and the word to those who wait for it.
    fn write(&mut self, batch: &mut Vec<Operation>, sweep_from: &mut Vec<u8>) {
        let before = self.header;
        let mut notices = Vec::with_capacity(batch.len());
        // After the batch was taken: whatever is in there and was learned under a new route was queued after the doubt in its name.
        let doubted = std::mem::take(&mut *self.store.doubted());
        let outcome = self.commit(batch, &doubted, &mut notices, sweep_from);
        if outcome.is_err() {
            self.store.doubted().extend(doubted);
            self.header = before;
        }
        self.store.all_cleared.store(self.header.all_cleared.0, Ordering::Release);
        self.store.last_epoch.store(self.header.last_epoch.0, Ordering::Release);
        if outcome.is_ok() && self.header.last_epoch > before.last_epoch {
            self.clears.note(self.header.last_epoch, Instant::now());
        }
        let wrote = !matches!(outcome, Ok(false));
        let error = outcome.err().map(|error| explained(&error));
        if let Some(error) = &error {
            tracing::error!(error, "the cache can't be written; answers go on without it");
        }
        let superseded = notices.iter().filter(|n| matches!(n, Notice::Put(_, Put::Superseded))).count() as u64;
        self.store.update_health(|health| {
            health.failed_commits += u64::from(error.is_some());
            health.superseded += if error.is_none() { superseded } else { 0 };
            // A sweep that found nothing to do says nothing of the disk.
            if wrote {
                health.write_error.clone_from(&error);
            }
        });
        for notice in notices {
            notice.tell(error.as_deref());
        }
        // What an error left undone is told of by dropping it after the notices, with the same error.
        for operation in batch.drain(..) {
            operation.refuse(error.as_deref().unwrap_or("the writer stopped"));
        }
    }

    /// Whether there was anything to write.
    fn commit(
        &mut self,
        batch: &mut Vec<Operation>,
        doubted: &HashSet<String>,
        notices: &mut Vec<Notice>,
        sweep_from: &mut Vec<u8>,
    ) -> Result<bool, heed::Error> {
        let env = self.env.clone();
        let mut txn = env.write_txn()?;
        let mut failed = Ok(());
        let mut has_changed = !doubted.is_empty();
        let mut domains = Domains::default();
        let mut rest = std::mem::take(batch).into_iter();
        for operation in rest.by_ref() {
            match self.apply(&mut txn, &mut domains, operation, notices, sweep_from) {
                Ok(changed) => has_changed |= changed,
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        batch.extend(rest);
        failed?;
        if !has_changed {
            return Ok(false);
        }
        for name in doubted {
            self.store.routes.put(&mut txn, name.as_bytes(), &codec::encode_route(name.as_bytes(), ""))?;
        }
        domains.write(&self.store, &mut txn)?;
        self.store.meta.put(&mut txn, HEADER, &self.header.encode(HEADER))?;
        txn.commit().map(|()| true)
    }

    /// Whether it has to be written.
    fn apply(
        &mut self,
        txn: &mut RwTxn<'_>,
        domains: &mut Domains,
        operation: Operation,
        notices: &mut Vec<Notice>,
        sweep_from: &mut Vec<u8>,
    ) -> Result<bool, heed::Error> {
        match operation {
            Operation::PutRecipient { key, record, epoch, done } => {
                let put = self.put_recipient(txn, domains, &key, record, epoch);
                notices.push(Notice::Put(done, *put.as_ref().unwrap_or(&Put::Superseded)));
                put.map(|_| true)
            }
            Operation::PutDomain { key, record, epoch, done } => {
                let put = self.put_domain(txn, domains, &key, record, epoch);
                notices.push(Notice::Put(done, *put.as_ref().unwrap_or(&Put::Superseded)));
                put.map(|_| true)
            }
            Operation::Clear { scope, now, done } => {
                let nothing = Cleared { entries: 0, epoch: Epoch(0) };
                let cleared = self.clear(txn, domains, &scope, now);
                notices.push(Notice::Cleared(done, *cleared.as_ref().unwrap_or(&nothing)));
                cleared.map(|_| true)
            }
            Operation::KeepRoutes { changed, done } => {
                notices.push(Notice::Done(done));
                self.keep_routes(txn, &changed).map(|()| true)
            }
            Operation::Sweep { now, done } => {
                // It reads and writes the slots itself.
                std::mem::take(domains).write(&self.store, txn)?;
                self.header.latest = self.header.latest.max(now);
                let settled = self.clears.settled(Instant::now());
                let swept = sweep::sweep(&self.store, txn, &mut self.header, sweep_from, now, settled);
                let (told, changed) = *swept.as_ref().unwrap_or(&(Swept::default(), false));
                notices.push(Notice::Swept(done, told));
                // The end of each pass puts the time on disk, by which a clock that went back is found at the next start.
                swept.map(|_| changed || told.done)
            }
            Operation::Flush { done } => {
                notices.push(Notice::Done(done));
                Ok(true)
            }
        }
    }

    fn recipient_slot(&self, txn: &RwTxn<'_>, key: &[u8]) -> Result<Option<RecipientSlot>, heed::Error> {
        let lost = RecipientSlot { epoch: self.header.last_epoch, at: Timestamp::default(), record: None };
        Ok(self.store.slots.get(txn, key)?.map(|bytes| RecipientSlot::decode(key, bytes).unwrap_or(lost)))
    }

    fn put_recipient(
        &mut self,
        txn: &mut RwTxn<'_>,
        domains: &mut Domains,
        key: &[u8],
        mut record: Record<RecipientState>,
        epoch: Epoch,
    ) -> Result<Put, heed::Error> {
        bound(&mut record);
        let domain_key = &key[..key::domain_len(key).unwrap_or(key.len())];
        let OfDomain { slot: domain, changed } = domains.get(&self.store, &self.header, txn, domain_key)?;
        let floor = domain.floor(self.header.all_cleared);
        let old = self.recipient_slot(txn, key)?.filter(|slot| slot.epoch >= floor);
        let cleared = old.as_ref().map_or(floor, |slot| slot.epoch);
        if epoch < cleared || self.is_too_old(epoch) {
            return Ok(Put::Superseded);
        }
        let old_record = old.and_then(|slot| slot.record);
        if old_record.as_ref().is_some_and(|old| self.is_newer(old.checked_at, record.checked_at)) {
            return Ok(Put::Superseded);
        }
        if let Some(old) = old_record {
            count_out(domain.counter(old.state));
            count_out(self.header.counter(old.state));
        }
        *domain.counter(record.state) += 1;
        *self.header.counter(record.state) += 1;
        self.header.latest = self.header.latest.max(record.checked_at);
        domain.at = domain.at.max(record.checked_at);
        *changed = true;
        let slot = RecipientSlot { epoch: cleared, at: record.checked_at, record: Some(record) };
        self.store.slots.put(txn, key, &slot.encode(key))?;
        Ok(Put::Written)
    }

    fn keep_routes(&self, txn: &mut RwTxn<'_>, changed: &[(String, Option<String>)]) -> Result<(), heed::Error> {
        for (name, hops) in changed {
            let key = name.as_bytes();
            match hops {
                Some(hops) => self.store.routes.put(txn, key, &codec::encode_route(key, hops))?,
                None => drop(self.store.routes.delete(txn, key)?),
            }
        }
        Ok(())
    }

    /// Whether the mark of a clear since then may be gone: no callout is under way for so long, unless it was held up.
    fn is_too_old(&self, epoch: Epoch) -> bool {
        epoch < self.clears.settled
    }

    /// Whether what is kept was learned after what is to be kept.
    fn is_newer(&self, kept: Timestamp, learned: Timestamp) -> bool {
        kept > learned && learned >= self.caught_up_at
    }

    fn put_domain(
        &mut self,
        txn: &mut RwTxn<'_>,
        domains: &mut Domains,
        key: &[u8],
        mut record: Record<DomainState>,
        epoch: Epoch,
    ) -> Result<Put, heed::Error> {
        bound(&mut record);
        let OfDomain { slot: domain, changed } = domains.get(&self.store, &self.header, txn, key)?;
        let floor = domain.floor(self.header.all_cleared);
        let old = domain.record.as_ref().filter(|(learned, _)| *learned >= floor);
        let newer = old.is_some_and(|(_, old)| self.is_newer(old.checked_at, record.checked_at));
        if epoch < floor || newer || self.is_too_old(epoch) {
            return Ok(Put::Superseded);
        }
        self.header.domains += u64::from(old.is_none());
        self.header.latest = self.header.latest.max(record.checked_at);
        domain.at = domain.at.max(record.checked_at);
        domain.record = Some((epoch, record));
        *changed = true;
        Ok(Put::Written)
    }

    fn clear(
        &mut self,
        txn: &mut RwTxn<'_>,
        domains: &mut Domains,
        scope: &Scope,
        now: Timestamp,
    ) -> Result<Cleared, heed::Error> {
        self.header.latest = self.header.latest.max(now);
        let entries = match scope {
            Scope::All => clear_all(&mut self.header),
            Scope::Domain(domain) => {
                let key = key::domain(domain);
                let OfDomain { slot, changed } = domains.get(&self.store, &self.header, txn, &key)?;
                let floor = slot.floor(self.header.all_cleared);
                let record = u64::from(slot.record.take().is_some_and(|(learned, _)| learned >= floor));
                let entries = slot.valid + slot.invalid + record;
                self.header.valid = self.header.valid.saturating_sub(slot.valid);
                self.header.invalid = self.header.invalid.saturating_sub(slot.invalid);
                self.header.domains = self.header.domains.saturating_sub(record);
                self.header.last_epoch.0 += 1;
                *slot = DomainSlot {
                    cleared: self.header.last_epoch,
                    at: slot.at.max(now),
                    counted_under: slot.counted_under,
                    ..DomainSlot::default()
                };
                *changed = true;
                entries
            }
            Scope::Recipient(recipient) => {
                let key = key::recipient(recipient);
                let domain_key = key::domain(recipient.domain());
                let OfDomain { slot: domain, changed } = domains.get(&self.store, &self.header, txn, &domain_key)?;
                let floor = domain.floor(self.header.all_cleared);
                let old = self.recipient_slot(txn, &key)?.filter(|slot| slot.epoch >= floor);
                let old = old.and_then(|slot| slot.record);
                if let Some(old) = &old {
                    count_out(domain.counter(old.state));
                    count_out(self.header.counter(old.state));
                }
                self.header.last_epoch.0 += 1;
                domain.at = domain.at.max(now);
                *changed = true;
                // Written where nothing was kept, too: a callout that is under way must find it.
                let slot = RecipientSlot { epoch: self.header.last_epoch, at: now, record: None };
                self.store.slots.put(txn, &key, &slot.encode(&key))?;
                u64::from(old.is_some())
            }
        };
        Ok(Cleared { entries, epoch: self.header.last_epoch })
    }
}

/// Raises the epoch of everything. Gives how many records that forgot.
pub(crate) fn clear_all(header: &mut Header) -> u64 {
    let entries = header.valid + header.invalid + header.domains;
    header.last_epoch.0 += 1;
    header.all_cleared = header.last_epoch;
    (header.valid, header.invalid, header.domains) = (0, 0, 0);
    entries
}

/// A counter may be behind where a slot could not be read; it never goes below zero.
pub(crate) fn count_out(counter: &mut u64) {
    *counter = counter.saturating_sub(1);
}

/// Nothing that speaks against a recipient is written with a longer life than it may have.
fn bound<S: State>(record: &mut Record<S>) {
    record.expires_at = record.end();
    crate::record::cut(&mut record.destination, 255);
}

// === impl Scope ===

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recipient(recipient) => recipient.fmt(f),
            Self::Domain(domain) => domain.fmt(f),
            Self::All => f.write_str("everything"),
        }
    }
}

// === impl Domains ===

impl Domains {
    /// The domain's slot with its counters up to date. One that can't be read counts as cleared just now.
    fn get(
        &mut self,
        store: &Store,
        header: &Header,
        txn: &RwTxn<'_>,
        key: &[u8],
    ) -> Result<&mut OfDomain, heed::Error> {
        let domain = match self.0.entry(key.to_vec()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let slot = DomainSlot::read(key, store.slots.get(txn, key)?, header.last_epoch);
                place.insert(OfDomain { slot, changed: false })
            }
        };
        domain.slot.recount(header.all_cleared);
        Ok(domain)
    }

    /// Puts what was changed into the transaction.
    fn write(self, store: &Store, txn: &mut RwTxn<'_>) -> Result<(), heed::Error> {
        for (key, domain) in self.0.iter().filter(|(_, domain)| domain.changed) {
            store.slots.put(txn, key, &domain.slot.encode(key))?;
        }
        Ok(())
    }
}

// === impl Clears ===

impl Clears {
    pub(crate) fn since(opened: Epoch) -> Self {
        Self { recent: VecDeque::new(), settled: opened }
    }

    fn note(&mut self, epoch: Epoch, now: Instant) {
        match self.recent.back_mut() {
            Some(clear) if now.duration_since(clear.first) < Duration::from_secs(1) => {
                (clear.last, clear.epoch) = (now, epoch);
            }
            _ => self.recent.push_back(Clear { first: now, last: now, epoch }),
        }
    }

    /// The epoch up to which no callout from before its clear is under way any more.
    fn settled(&mut self, now: Instant) -> Epoch {
        while let Some(clear) = self.recent.pop_front_if(|clear| now.duration_since(clear.last) > FLIGHT_MAX) {
            self.settled = clear.epoch;
        }
        self.settled
    }
}

// === impl PutTicket ===

impl Future for PutTicket {
    type Output = Result<Put, CacheError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|told| match told {
            Ok(put) => put.map_err(CacheError::Write),
            Err(_) => Err(CacheError::Write("the queue of the cache's writer is full".into())),
        })
    }
}

// === impl Notice ===

impl Notice {
    /// Tells the one who waits; one that waits no more is no fault.
    fn tell(self, error: Option<&str>) {
        match self {
            Self::Put(done, put) => drop(done.send(result(put, error))),
            Self::Cleared(done, cleared) => drop(done.send(result(cleared, error))),
            Self::Swept(done, swept) => drop(done.send(result(swept, error))),
            Self::Done(done) => drop(done.send(result((), error))),
        }
    }
}

fn result<T>(value: T, error: Option<&str>) -> Result<T, String> {
    error.map_or(Ok(value), |error| Err(error.to_owned()))
}

impl Operation {
    fn refuse(self, error: &str) {
        let error = error.to_owned();
        match self {
            Self::PutRecipient { done, .. } | Self::PutDomain { done, .. } => drop(done.send(Err(error))),
            Self::Clear { done, .. } => drop(done.send(Err(error))),
            Self::Sweep { done, .. } => drop(done.send(Err(error))),
            Self::KeepRoutes { done, .. } | Self::Flush { done } => drop(done.send(Err(error))),
        }
    }
}
