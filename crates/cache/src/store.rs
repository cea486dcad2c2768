//! The cache as its users see it: opening, looking up, counting, and handing work to the writer.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use callahead_smtp::{Domain, Recipient};
use heed::types::Bytes;
use heed::{Database, Env, EnvOpenOptions, RoTxn};
use tokio::sync::{mpsc, oneshot};

use crate::codec::{self, DomainSlot, Header, RecipientSlot};
use crate::damage;
use crate::ending::{Ending, Marker};
use crate::key;
use crate::record::{DomainState, Epoch, RecipientState, Record, Timestamp};
use crate::sweep::Swept;
use crate::writer::{self, Cleared, Operation, PutTicket, Scope};

/// The verdict cache of one node. Clones share it; the last one closes it, after everything queued is written.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

/// How a cache is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The size that the file may grow to, in bytes; address space, not memory. Default 64 GiB.
    pub map_size: usize,
    /// Threads that may read at the same time. Default 1,024.
    pub max_readers: u32,
    /// Writes that may wait for the writer; further new entries are dropped and counted, clears wait. Default 65,536.
    pub queue: usize,
    /// Writes in one commit at most. Default 4,096.
    pub batch: usize,
}

/// What happened when the cache was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The clock stood earlier than in the file, so everything was cleared.
    pub clock_went_back: bool,
    /// Whether the file was made.
    pub created: bool,
    /// The file that was there is damaged and was moved aside ([`Cache::open_or_begin_anew`]).
    pub replaced: bool,
    /// How the process before left it.
    pub before: Ending,
}

/// What the store holds, read in one snapshot; nothing in it is older than a clear that was acknowledged.
///
/// Records may have expired: [`Record::is_fresh`] and [`Record::is_stale`] tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The latest clear of all: what is learned from now on carries it to the put.
    pub epoch: Epoch,
    /// The latest clear that covers this recipient: what was learned under a smaller epoch does not count for it.
    pub floor: Epoch,
    /// What the destination said of the recipient.
    pub recipient: Option<Record<RecipientState>>,
    /// What is known of its domain. Hidden where the recipient was cleared later than this was learned.
    pub domain: Option<Record<DomainState>>,
}

/// Counters and sizes. Expired records count until they are swept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Recipients kept as valid.
    pub valid: u64,
    /// Recipients kept as invalid.
    pub invalid: u64,
    /// Domains with a record of their own (accept-all, null MX, ...); 0 or 1 for one domain.
    pub domains: u64,
    /// The file's size in bytes; it is used again and does not shrink.
    pub file_bytes: u64,
    /// Bytes in pages that hold something.
    pub used_bytes: u64,
}

/// Whether the cache takes writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The last commit's error, or that there will be no more; `None` when it went well.
    pub write_error: Option<String>,
    /// Commits that failed.
    pub failed_commits: u64,
    /// New entries that were not queued because the queue was full.
    pub dropped: u64,
    /// Entries not written because of a clear, or because something newer was there.
    pub superseded: u64,
    /// Slots that could not be read.
    pub unreadable: u64,
    /// The last lookup's error; `None` when it went well.
    pub read_error: Option<String>,
    /// The file was looked through and is damaged ([`Cache::looked_through`]).
    pub damaged: bool,
}

/// Why the cache can't do something.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder can't be made or used.
    #[error("the cache folder {path} can't be used: {source}", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("the cache in {path} is in use by another callahead process; stop that one first", path = .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// LMDB can't open the file.
    #[error("the cache file in {path} can't be opened ({source}); move it away to start with an empty cache", path = .path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// What LMDB says.
        source: heed::Error,
    },
    /// A file of a format that this version does not know, or whose head is damaged.
    #[error("the cache file in {path} is damaged, or has a format that this version does not know; move it away to start with an empty cache", path = .path.display())]
    Format {
        /// The folder.
        path: PathBuf,
    },
    /// A part of the file is missing.
    #[error("the cache file in {path} is damaged: {missing} of its bytes are missing at the end; move it away to start with an empty cache", path = .path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// Bytes that should be there.
        missing: u64,
    },
    /// It was looked through, and what is wrong may end the process that reads it.
    #[error("the cache file in {path} is damaged: it was found so when it was looked through; move it away to start with an empty cache", path = .path.display())]
    Distrusted {
        /// The folder.
        path: PathBuf,
    },
    /// LMDB can't read.
    #[error("the cache can't be read: {}", explained(.0))]
    Read(heed::Error),
    /// A commit failed: a full disk, most often. Nothing of it was written.
    #[error("the cache can't be written: {0}")]
    Write(String),
    /// The writer is gone, which is a fault of this program: a cache that somebody has is open.
    #[error("the cache can't be written: {WRITER_IS_GONE}")]
    Closed,
}

#[derive(Debug)]
struct Inner {
    env: Env,
    store: Arc<Store>,
    queue: Option<mpsc::Sender<Operation>>,
    writer: Option<JoinHandle<()>>,
    opened: Opened,
    marker: Marker,
}

/// What the readers and the writer share.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) slots: Database<Bytes, Bytes>,
    pub(crate) meta: Database<Bytes, Bytes>,
    /// By configured name; see [`Cache::routes`].
    pub(crate) routes: Database<Bytes, Bytes>,
    /// Copies of the header's numbers, set after the commit and before anybody is told of it.
    pub(crate) all_cleared: AtomicU64,
    pub(crate) last_epoch: AtomicU64,
    /// Whether the last lookup failed; kept apart, so that one that goes well takes no lock.
    reading_failed: AtomicBool,
    pub(crate) health: Mutex<Health>,
    /// Names whose route is not to be trusted from the next commit on; see [`Cache::doubt_routes`].
    doubted: Mutex<HashSet<String>>,
}

/// The databases in the file.
pub(crate) const SLOTS: &str = "slots";
pub(crate) const META: &str = "meta";
pub(crate) const ROUTES: &str = "routes";
/// Why nothing is written any more.
const WRITER_IS_GONE: &str = "its writer came to an end; restart Callahead";
/// The header's key in the meta database.
pub(crate) const HEADER: &[u8] = b"header";

impl Default for Options {
    fn default() -> Self {
        Self { map_size: 64 << 30, max_readers: 1024, queue: 65_536, batch: 4096 }
    }
}

// === impl Cache ===

impl Cache {
    /// Opens the cache in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// When the folder can't be used, another process has the cache open, or the file is none of ours.
    pub fn open(dir: &Path, options: &Options, now: Timestamp) -> Result<Self, CacheError> {
        Self::open_with_thread(dir, options, now, false)
    }

    /// Opens it as [`open`](Self::open) does; a file that is damaged, or of another format, is moved aside first, with an error in the log,
    /// and the cache begins empty. That undoes no clear, since nothing from before is served. One damaged file
    /// is kept, for whoever wants to look at it.
    ///
    /// # Errors
    /// When the folder can't be used, or another process has the cache open.
    pub fn open_or_begin_anew(dir: &Path, options: &Options, now: Timestamp) -> Result<Self, CacheError> {
        match Self::open(dir, options, now) {
            Err(error) if error.is_damage() => {
                let aside =
                    damage::move_aside(dir).map_err(|source| CacheError::Folder { path: dir.to_owned(), source })?;
                tracing::error!(
                    %error,
                    moved_to = %aside.display(),
                    "the cache file can't be read: it was moved aside, and the cache begins empty"
                );
                Self::open_with_thread(dir, options, now, true)
            }
            other => other,
        }
    }

    fn open_with_thread(dir: &Path, options: &Options, now: Timestamp, replaced: bool) -> Result<Self, CacheError> {
        let (mut cache, writer, operations) = Self::prepare(dir, options, now)?;
        cache.opened.replaced = replaced;
        let spawned = std::thread::Builder::new().name("cache-writer".into()).spawn(move || writer.run(operations));
        let writer = spawned.map_err(|source| CacheError::Folder { path: dir.to_owned(), source })?;
        cache.writer = Some(writer);
        Ok(Self { inner: Arc::new(cache) })
    }

    /// Opens it as [`open`](Self::open) does, with the writer as a task of the current runtime instead of a thread: for simulated time,
    /// which must not run on while a thread works. The task waits for `pace` before each commit, and blocks the
    /// runtime while it commits; what is queued when the runtime ends is lost, as in a crash.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_paced<P, F>(dir: &Path, options: &Options, now: Timestamp, pace: P) -> Result<Self, CacheError>
    where
        P: FnMut() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (cache, writer, operations) = Self::prepare(dir, options, now)?;
        tokio::spawn(writer.run_paced(operations, pace));
        Ok(Self { inner: Arc::new(cache) })
    }

    fn prepare(
        dir: &Path,
        options: &Options,
        now: Timestamp,
    ) -> Result<(Inner, writer::Writer, mpsc::Receiver<Operation>), CacheError> {
        let folder = |source| CacheError::Folder { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(folder)?;
        let marker = Marker::lock(dir)?;
        let before = Ending::of(dir);
        if before == Ending::Damaged {
            return Err(CacheError::Distrusted { path: dir.to_owned() });
        }
        // Before LMDB reads the first page: it may be the one that ends the process.
        marker.opened(before);
        damage::reserve_readers(dir, options.max_readers).map_err(folder)?;
        let open = |source| CacheError::Open { path: dir.to_owned(), source };
        let env = open_env(dir, options)?;
        env.clear_stale_readers().map_err(open)?;
        let missing = damage::missing(&env, dir).map_err(folder)?;
        if missing > 0 {
            return Err(CacheError::Damaged { path: dir.to_owned(), missing });
        }
        let mut txn = env.write_txn().map_err(open)?;
        let slots = env.create_database(&mut txn, Some(SLOTS)).map_err(open)?;
        let meta: Database<Bytes, Bytes> = env.create_database(&mut txn, Some(META)).map_err(open)?;
        let stored = meta.get(&txn, HEADER).map_err(open)?.map(<[u8]>::to_vec);
        let mut header = match &stored {
            None => Header::default(),
            Some(bytes) => Header::decode(HEADER, bytes).ok_or_else(|| CacheError::Format { path: dir.to_owned() })?,
        };
        // A second covers what clocks are stepped by in daily life.
        let clock_went_back = now.0 + 1000 < header.latest.0;
        if clock_went_back {
            tracing::warn!(
                seconds = header.latest.since(now).as_secs(),
                "the clock went back since the cache was last written: ages are unknown, so everything is cleared"
            );
            writer::clear_all(&mut header);
        }
        // Nothing tells whether what it holds came from where the domains lead now.
        let has_routes = env.open_database::<Bytes, Bytes>(&txn, Some(ROUTES)).map_err(open)?.is_some();
        if stored.is_some() && !has_routes {
            tracing::warn!("the cache file does not say under which routes it was filled, so everything is cleared");
            writer::clear_all(&mut header);
        }
        let routes = env.create_database(&mut txn, Some(ROUTES)).map_err(open)?;
        let caught_up_at = if clock_went_back { now } else { header.latest };
        header.latest = now;
        meta.put(&mut txn, HEADER, &header.encode(HEADER)).map_err(open)?;
        txn.commit().map_err(open)?;

        let store = Arc::new(Store {
            slots,
            meta,
            routes,
            all_cleared: AtomicU64::new(header.all_cleared.0),
            last_epoch: AtomicU64::new(header.last_epoch.0),
            reading_failed: AtomicBool::new(false),
            health: Mutex::default(),
            doubted: Mutex::default(),
        });
        let (queue, operations) = mpsc::channel(options.queue.max(1));
        let writer = writer::Writer {
            env: env.clone(),
            store: Arc::clone(&store),
            header,
            batch: options.batch.max(1),
            clears: writer::Clears::since(header.last_epoch),
            caught_up_at,
        };
        let opened = Opened { clock_went_back, created: stored.is_none(), replaced: false, before };
        let inner = Inner { env, store, queue: Some(queue), writer: None, opened, marker };
        Ok((inner, writer, operations))
    }

    /// What happened when it was opened.
    pub fn opened(&self) -> Opened {
        self.inner.opened
    }

    /// Takes down what [`look_through`](crate::look_through) found in another process while this one has the cache open. A file that is damaged
    /// is used further, since most of it may be sound, and moved aside at the next start.
    pub fn looked_through(&self, is_sound: bool) {
        if is_sound {
            self.inner.marker.opened(Ending::Properly);
        } else {
            self.inner.marker.damaged();
        }
        self.inner.store.update_health(|health| health.damaged = !is_sound);
        self.forget_ended_readers();
    }

    /// A process that came to its end while it read still keeps what it read from being written over, and so the file growing: gives that back, as
    /// [`sweep`](Self::sweep) does at its end.
    pub fn forget_ended_readers(&self) {
        if let Err(error) = self.inner.env.clear_stale_readers() {
            tracing::debug!(%error, "readers that are gone are still counted");
        }
    }

    /// What is kept of a recipient and its domain. Waits for nobody.
    ///
    /// # Errors
    /// When LMDB can't read: all reader slots taken, or the file is damaged.
    pub fn lookup(&self, recipient: &Recipient) -> Result<Lookup, CacheError> {
        let found = self.read(recipient);
        self.inner.store.note_reading(found.as_ref().err());
        found
    }

    fn read(&self, recipient: &Recipient) -> Result<Lookup, CacheError> {
        let store = &self.inner.store;
        // Before the snapshot: a clear in between makes them too small, and what is learned is then not written. The epoch first, since it is
        // stored last: with a new one goes no floor from before.
        let last_epoch = Epoch(store.last_epoch.load(Ordering::Acquire));
        let all_cleared = Epoch(store.all_cleared.load(Ordering::Acquire));
        let recipient_key = key::recipient(recipient);
        let domain_key = &recipient_key[..recipient_key.len() - recipient.local_part().len()];

        let txn = self.inner.env.read_txn().map_err(CacheError::Read)?;
        let read = |key| store.slots.get(&txn, key).map_err(CacheError::Read);
        let unreadable = || {
            store.count_unreadable();
            Ok(self.unread())
        };
        let domain = match read(domain_key)?.map(|bytes| DomainSlot::decode(domain_key, bytes)) {
            Some(None) => return unreadable(),
            Some(slot) => slot,
            None => None,
        };
        let floor = domain.as_ref().map_or(all_cleared, |domain| domain.floor(all_cleared));
        let slot = match read(&recipient_key)?.map(|bytes| RecipientSlot::decode(&recipient_key, bytes)) {
            // A recipient is never written without its domain: one that is alone has lost a slot.
            Some(slot) if slot.is_none() || domain.is_none() => return unreadable(),
            Some(Some(slot)) if slot.epoch >= floor => slot,
            _ => RecipientSlot { epoch: floor, at: Timestamp::default(), record: None },
        };
        let domain = domain.and_then(|domain| domain.record);
        Ok(Lookup {
            epoch: last_epoch.max(slot.epoch),
            floor: slot.epoch,
            recipient: slot.record,
            domain: domain.filter(|(learned, _)| *learned >= slot.epoch).map(|(_, record)| record),
        })
    }

    /// What is known of a recipient where nothing can be read: any clear may have been there, so nothing older than the last one is trusted.
    pub fn unread(&self) -> Lookup {
        let last_epoch = Epoch(self.inner.store.last_epoch.load(Ordering::Acquire));
        Lookup { epoch: last_epoch, floor: last_epoch, ..Lookup::default() }
    }

    /// Keeps what was learned of a recipient under the epoch of the lookup before. Queued at once; the ticket tells when it is
    /// on disk, and dropping the ticket takes nothing back.
    pub fn put_recipient(
        &self,
        recipient: &Recipient,
        record: Record<RecipientState>,
        learned_under: Epoch,
    ) -> PutTicket {
        let key = key::recipient(recipient);
        self.put(|done| Operation::PutRecipient { key, record, epoch: learned_under, done })
    }

    /// Keeps what was learned of a domain, in place of what was known of it.
    pub fn put_domain(&self, domain: &Domain, record: Record<DomainState>, learned_under: Epoch) -> PutTicket {
        let key = key::domain(domain);
        self.put(|done| Operation::PutDomain { key, record, epoch: learned_under, done })
    }

    fn put(&self, operation: impl FnOnce(writer::PutDone) -> Operation) -> PutTicket {
        let (done, ticket) = oneshot::channel();
        let queue = self.inner.queue.as_ref();
        if queue.is_none_or(|queue| queue.try_send(operation(done)).is_err()) {
            self.inner.store.update_health(|health| health.dropped += 1);
        } else if queue.is_some_and(|queue| queue.capacity() < queue.max_capacity() / 2) {
            self.inner.hurry();
        }
        PutTicket(ticket)
    }

    /// Forgets. When this resolves, the clear is on disk, and nothing learned before it is served or written any more.
    ///
    /// # Errors
    /// When it could not be written; then nothing was cleared.
    pub async fn clear(&self, scope: Scope, now: Timestamp) -> Result<Cleared, CacheError> {
        let (done, cleared) = oneshot::channel();
        self.send(Operation::Clear { scope, now, done }).await?;
        cleared.await.map_err(|_| CacheError::Closed)?.map_err(CacheError::Write)
    }

    /// Removes a bounded number of dead entries, from where the last call left off. At the end, what readers that came to their end without
    /// closing the file still hold is given back, too. The writer gathers over it, and syncs the disk where something was to be done, and at the end.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn sweep(&self, now: Timestamp) -> Result<Swept, CacheError> {
        let (done, swept) = oneshot::channel();
        let queue = self.inner.queue.as_ref().ok_or(CacheError::Closed)?;
        queue.send(Operation::Sweep { now, done }).await.map_err(|_| CacheError::Closed)?;
        let swept = swept.await.map_err(|_| CacheError::Closed)?.map_err(CacheError::Write)?;
        if swept.done {
            self.forget_ended_readers();
        }
        Ok(swept)
    }

    /// Waits until everything that was queued before is on disk.
    ///
    /// # Errors
    /// When the commit failed.
    pub async fn flush(&self) -> Result<(), CacheError> {
        let (done, flushed) = oneshot::channel();
        self.send(Operation::Flush { done }).await?;
        flushed.await.map_err(|_| CacheError::Closed)?.map_err(CacheError::Write)
    }

    /// The routes under which the cache was filled, by configured name, as [`Cache::keep_routes`] was told last. One that can't be read is
    /// empty, and so another than any.
    ///
    /// They are in the cache's own file, so that they are as old as what it holds, whatever becomes of other files.
    ///
    /// # Errors
    /// When LMDB can't read.
    pub fn routes(&self) -> Result<HashMap<String, String>, CacheError> {
        let store = &self.inner.store;
        let txn = self.inner.env.read_txn().map_err(CacheError::Read)?;
        let mut routes = HashMap::new();
        for kept in store.routes.iter(&txn).map_err(CacheError::Read)? {
            let (name, hops) = kept.map_err(CacheError::Read)?;
            let hops = codec::decode_route(name, hops).unwrap_or_else(|| {
                store.count_unreadable();
                String::new()
            });
            routes.insert(String::from_utf8_lossy(name).into_owned(), hops);
        }
        Ok(routes)
    }

    /// Writes what has become of the routes: that of a name, or that the name is gone. On disk when this resolves. What was learned under
    /// another route is to be cleared before.
    ///
    /// # Errors
    /// When it could not be written; then none of it was.
    pub async fn keep_routes(&self, changed: Vec<(String, Option<String>)>) -> Result<(), CacheError> {
        let (done, kept) = oneshot::channel();
        self.send(Operation::KeepRoutes { changed, done }).await?;
        kept.await.map_err(|_| CacheError::Closed)?.map_err(CacheError::Write)
    }

    /// Takes down that these names are about to lead elsewhere: from the next commit on the route that is kept of them is empty, until
    /// [`Cache::keep_routes`] writes another. Waits for nothing. To be called before anything is asked under the new route: nothing that is learned
    /// there is on disk without the doubt, whatever ends the process, and whatever becomes of the route meanwhile.
    pub fn doubt_routes(&self, names: impl IntoIterator<Item = String>) {
        self.inner.store.doubted().extend(names);
    }

    async fn send(&self, operation: Operation) -> Result<(), CacheError> {
        let queue = self.inner.queue.as_ref().ok_or(CacheError::Closed)?;
        queue.send(operation).await.map_err(|_| CacheError::Closed)?;
        self.inner.hurry();
        Ok(())
    }

    /// Counts of everything, or of one domain, from counters: the same time whatever is kept.
    ///
    /// # Errors
    /// When LMDB can't read.
    pub fn stats(&self, domain: Option<&Domain>) -> Result<Stats, CacheError> {
        let store = &self.inner.store;
        let txn = self.inner.env.read_txn().map_err(CacheError::Read)?;
        let header = store.header(&txn)?;
        let pages = store.slots.stat(&txn).map_err(CacheError::Read)?;
        let used = pages.branch_pages + pages.leaf_pages + pages.overflow_pages;
        let mut stats = Stats {
            valid: header.valid,
            invalid: header.invalid,
            domains: header.domains,
            file_bytes: self.inner.env.real_disk_size().map_err(CacheError::Read)?,
            used_bytes: (used as u64) * u64::from(pages.page_size),
        };
        if let Some(domain) = domain {
            let key = key::domain(domain);
            let slot = store.slots.get(&txn, &key).map_err(CacheError::Read)?;
            let mut slot = DomainSlot::read(&key, slot, header.last_epoch);
            slot.recount(header.all_cleared);
            let floor = slot.floor(header.all_cleared);
            stats.valid = slot.valid;
            stats.invalid = slot.invalid;
            stats.domains = u64::from(slot.record.is_some_and(|(epoch, _)| epoch >= floor));
        }
        Ok(stats)
    }

    /// Whether it takes writes, and what it could not keep.
    pub fn health(&self) -> Health {
        let mut health = self.inner.store.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.inner.queue.as_ref().is_none_or(mpsc::Sender::is_closed) {
            health.write_error = Some(WRITER_IS_GONE.to_owned());
        }
        health
    }

    pub(crate) fn parts(&self) -> (&Env, &Store) {
        (&self.inner.env, &self.inner.store)
    }
}

impl Inner {
    /// Has the writer gather no longer.
    fn hurry(&self) {
        if let Some(writer) = &self.writer {
            writer.thread().unpark();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer ends when the queue is closed and empty; only then may the file be closed.
        drop(self.queue.take());
        self.hurry();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the cache's writer ended in a panic");
        }
        let damaged = self.store.health.lock().unwrap_or_else(PoisonError::into_inner).damaged;
        if !damaged {
            self.marker.closed();
        }
    }
}

/// Maps the file. Whoever writes to it holds the folder's lock.
pub(crate) fn open_env(dir: &Path, options: &Options) -> Result<Env, CacheError> {
    let mut env_options = EnvOpenOptions::new();
    env_options.map_size(options.map_size).max_readers(options.max_readers).max_dbs(3);
    // SAFETY: the file is mapped, so nobody may change it but LMDB. The folder's lock keeps every other process of this program
    // from writing to it, and no flag that weakens LMDB's own locking or syncing is set.
    #[allow(unsafe_code)]
    let env = unsafe { env_options.open(dir) };
    env.map_err(|source| CacheError::Open { path: dir.to_owned(), source })
}

/// What LMDB says, and what is to be done where it takes no more transactions until the file is opened anew.
pub(crate) fn explained(error: &heed::Error) -> String {
    match error {
        heed::Error::Mdb(heed::MdbError::Panic) => {
            format!("{error}; restart Callahead when the disk takes writes again")
        }
        error => error.to_string(),
    }
}

// === impl CacheError ===

impl CacheError {
    /// Whether it is the file's contents that are at fault, so that another file would do.
    pub fn is_damage(&self) -> bool {
        use heed::MdbError::{Corrupted, Incompatible, Invalid, PageNotFound, Panic, VersionMismatch};
        match self {
            Self::Damaged { .. } | Self::Format { .. } | Self::Distrusted { .. } => true,
            Self::Open { source: heed::Error::Mdb(error), .. } => {
                matches!(error, Corrupted | Incompatible | Invalid | PageNotFound | Panic | VersionMismatch)
            }
            _ => false,
        }
    }
}

// === impl Store ===

impl Store {
    /// The header of a snapshot. One that can't be read is written anew with the next commit; until then everything counts as cleared.
    pub(crate) fn header(&self, txn: &RoTxn<'_>) -> Result<Header, CacheError> {
        let bytes = self.meta.get(txn, HEADER).map_err(CacheError::Read)?;
        Ok(bytes.and_then(|bytes| Header::decode(HEADER, bytes)).unwrap_or_else(|| {
            self.count_unreadable();
            let last_epoch = Epoch(self.last_epoch.load(Ordering::Acquire));
            Header { last_epoch, all_cleared: last_epoch, ..Header::default() }
        }))
    }

    pub(crate) fn update_health(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn doubted(&self) -> MutexGuard<'_, HashSet<String>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_reading(&self, error: Option<&CacheError>) {
        if error.is_some() || self.reading_failed.load(Ordering::Relaxed) {
            self.reading_failed.store(error.is_some(), Ordering::Relaxed);
            self.update_health(|health| health.read_error = error.map(ToString::to_string));
        }
    }

    pub(crate) fn count_unreadable(&self) {
        self.update_health(|health| health.unreadable += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_restart_mends_says_so() {
        let said = CacheError::Read(heed::Error::Mdb(heed::MdbError::Panic)).to_string();
        assert!(said.starts_with("the cache can't be read: ") && said.contains("restart Callahead"), "{said}");
        let said = explained(&heed::Error::Mdb(heed::MdbError::MapFull));
        assert!(!said.contains("restart"), "{said}");
    }
}
