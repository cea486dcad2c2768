//! The embedded store of records: one writer thread over SQLite, and the copy that it keeps up to date.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use callahead_cache::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::database::OpenError;

use crate::access::Principal;
use crate::audit::{self, AuditEntry, AuditPage};
use crate::consequence;
use crate::database;
use crate::local::Local;
use crate::pool::Pool;
use crate::record::{Kind, Raw, Unchanged};

/// Changes that may wait for the writer; further ones wait to get into the queue.
const QUEUE: usize = 256;
/// Records that were deleted are kept in the feed until so many changes came after them.
const KEEP_TOMBSTONES: i64 = 10_000;
/// Changes between two clean-ups of the feed and the audit log.
const CLEAN_EVERY: u64 = 500;
/// Connections for reading the audit log.
const READERS: usize = 2;

const MIGRATIONS: &[&str] = &["
CREATE TABLE records (
    kind TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL UNIQUE, changed_at INTEGER NOT NULL, body TEXT,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL);
INSERT INTO counter VALUES (1, 0);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL, origin TEXT NOT NULL, action TEXT NOT NULL,
    object TEXT NOT NULL, domain TEXT, owner TEXT, before TEXT, after TEXT
);
CREATE TABLE token_use (id TEXT PRIMARY KEY, at INTEGER NOT NULL, origin TEXT NOT NULL) WITHOUT ROWID;
", "
CREATE TABLE route (name TEXT PRIMARY KEY, hops TEXT NOT NULL) WITHOUT ROWID;
", "
DROP TABLE route;
"];

/// The records of one node. Clones share it; the last one closes it after everything queued is written.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Pool<Connection>,
    uses: Mutex<Uses>,
}

/// When tokens were used last, and from where, by their ids.
type Uses = HashMap<String, (Timestamp, String)>;

/// What the writer shares with everybody.
struct Shared {
    local: RwLock<Local>,
    revision: watch::Sender<u64>,
    follower: RwLock<Option<Follower>>,
    /// Why the last change was not written; `None` when it was.
    write_error: Mutex<Option<String>>,
}

impl Shared {
    fn write_error(&self) -> Option<String> {
        self.write_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Who is told of changes before they are acknowledged.
type Follower = Box<dyn Fn(&Local) + Send + Sync>;

/// What has to be so for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there.
    Anything,
    /// Nothing is there.
    Nothing,
    /// This revision is there.
    Revision(u64),
}

/// One change of one record.
#[derive(Clone, Debug)]
pub struct Change {
    /// Of what kind.
    pub kind: Kind,
    /// By its name.
    pub key: String,
    /// What has to be there.
    pub expected: Expected,
    /// The record from now on, as JSON; `None` deletes it.
    pub body: Option<String>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It is there already.
    #[error("the {} {key:?} exists already", .kind.as_str())]
    Exists {
        /// What kind.
        kind: Kind,
        /// Which.
        key: String,
    },
    /// It is not there, or not in that revision.
    #[error("the {} {key:?} was changed by somebody else meanwhile; read it again, then change it", .kind.as_str())]
    Changed {
        /// What kind.
        kind: Kind,
        /// Which.
        key: String,
        /// The revision that is there; `None` where it is gone.
        found: Option<u64>,
    },
    /// What the change rests on, such as the account or the token of whoever asks, is not there any more, or not as it was.
    #[error("the {} that this rests on was changed or removed meanwhile; try again", .kind.as_str())]
    Withdrawn {
        /// What kind.
        kind: Kind,
        /// Which.
        key: String,
    },
    /// Whose it shall be is not there, or not any more.
    #[error("owner: there is no account {owner:?} any more; name another")]
    NoOwner {
        /// The account's name.
        owner: String,
    },
    /// An account that owns something can't go.
    #[error("the account {key:?} owns domains or accounts; delete these first")]
    Owns {
        /// The account's name.
        key: String,
    },
    /// SQLite can't write: a full disk, most often. Nothing was changed.
    #[error("the control database can't be written: {0}")]
    Write(String),
    /// SQLite can't read.
    #[error("the control database can't be read: {0}")]
    Read(String),
    /// SQLite can't read the decision log, or there is none.
    #[error("the decision log can't be read: {0}")]
    ReadLog(String),
    /// It is closing.
    #[error("the control database is being closed")]
    Closed,
}

enum Job {
    Apply {
        requires: Vec<Unchanged>,
        changes: Vec<Change>,
        audit: Vec<AuditEntry>,
        now: Timestamp,
        done: oneshot::Sender<Result<u64, ControlError>>,
    },
    Uses(Uses),
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("revision", &self.local().revision()).finish_non_exhaustive()
    }
}

impl Control {
    /// Opens the file, makes it where it is missing, and reads the whole feed.
    ///
    /// # Errors
    /// When it can't be opened, or was written by a newer version.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let wrong = |source| OpenError::Open { path: path.to_owned(), source };
        let connection = database::open(path, MIGRATIONS)?;
        // Small and rarely written: each commit is on the disk when it is acknowledged.
        connection.pragma_update(None, "synchronous", "FULL").map_err(wrong)?;
        let mut local = Local::default();
        follow(&connection, &mut local).map_err(wrong)?;
        let uses = read_uses(&connection).map_err(wrong)?;
        let readers = (0..READERS)
            .map(|_| database::open_reader(path))
            .collect::<Result<Vec<_>, _>>()
            .map(Pool::new)
            .map_err(wrong)?;
        let revision = watch::Sender::new(local.revision());
        let shared = Arc::new(Shared {
            local: RwLock::new(local),
            revision,
            follower: RwLock::default(),
            write_error: Mutex::default(),
        });
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = Writer { connection, shared: Arc::clone(&shared), uses: uses.clone(), since_clean: 0 };
        let thread = std::thread::Builder::new().name("control-writer".into());
        let writer = thread
            .spawn(move || writer.run(jobs))
            .map_err(|error| wrong(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
        let inner = Inner { shared, queue: Some(queue), writer: Some(writer), readers, uses: Mutex::new(uses) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The records as they are now. Held for moments only: the writer waits for it.
    pub fn local(&self) -> RwLockReadGuard<'_, Local> {
        self.inner.shared.local.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called with the copy now, and after every change before it is acknowledged.
    pub fn set_follower(&self, follower: impl Fn(&Local) + Send + Sync + 'static) {
        follower(&self.local());
        *self.inner.shared.follower.write().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(follower));
    }

    /// Does a clear of the cache that stands in the audit log by these entries, which are given the action's name: there is none without its entries,
    /// so they are written before. Where it fails, entries that say so follow; without entries it is only done.
    ///
    /// # Errors
    /// When the log can't be written, and then nothing was done, or what the clear says.
    pub async fn audited_clear<T, E: From<ControlError>>(
        &self,
        entries: impl Fn(&str) -> Vec<AuditEntry>,
        now: impl Fn() -> Timestamp,
        clear: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let announced = entries("cache.clear");
        if announced.is_empty() {
            return clear.await;
        }
        self.apply(Vec::new(), announced, now()).await?;
        let cleared = clear.await;
        if cleared.is_err()
            && let Err(error) = self.apply(Vec::new(), entries("cache.clear_failed"), now()).await
        {
            tracing::error!(%error, "that a clear failed can't be written into the audit log");
        }
        cleared
    }

    /// Tells of every new revision.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.shared.revision.subscribe()
    }

    /// Makes changes and writes them into the audit log: all of it or nothing. When this resolves, they are on disk and in force. Gives
    /// the revision of the last one, or the latest where there was none.
    ///
    /// An account that is deleted takes its tokens and its sessions along, and a domain its name in the accounts of the administrators'.
    ///
    /// # Errors
    /// What was not as expected, or why it can't be written.
    pub async fn apply(
        &self,
        changes: Vec<Change>,
        audit: Vec<AuditEntry>,
        now: Timestamp,
    ) -> Result<u64, ControlError> {
        self.apply_while(Vec::new(), changes, audit, now).await
    }

    /// [`Control::apply`], if these are as they were when it is done: what was looked at to let somebody in, or to say that they may.
    ///
    /// # Errors
    /// Likewise; and [`ControlError::Withdrawn`].
    pub async fn apply_while(
        &self,
        requires: Vec<Unchanged>,
        changes: Vec<Change>,
        audit: Vec<AuditEntry>,
        now: Timestamp,
    ) -> Result<u64, ControlError> {
        let (done, applied) = oneshot::channel();
        let queue = self.inner.queue.as_ref().ok_or(ControlError::Closed)?;
        queue.send(Job::Apply { requires, changes, audit, now, done }).await.map_err(|_| ControlError::Closed)?;
        applied.await.map_err(|_| ControlError::Closed)?
    }

    /// A page of the audit log as somebody may see it, newest first, of what was done before `cursor`.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn audit(
        &self,
        principal: Principal,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<AuditPage, ControlError> {
        let inner = Arc::clone(&self.inner);
        let read = move || inner.readers.with(|reader| audit::list(reader, &principal, cursor, limit));
        match tokio::task::spawn_blocking(read).await {
            Ok(page) => page.map_err(|error| ControlError::Read(error.to_string())),
            Err(error) => Err(ControlError::Read(error.to_string())),
        }
    }

    /// Remembers that a token was used; written now and then by [`Control::keep_uses`].
    pub fn token_used(&self, id: &str, now: Timestamp, from: &str) {
        let mut uses = self.inner.uses.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get_mut(id) {
            Some(used) => *used = (now, from.to_owned()),
            None => drop(uses.insert(id.to_owned(), (now, from.to_owned()))),
        }
    }

    /// When a token was used last, and from where.
    pub fn last_use(&self, id: &str) -> Option<(Timestamp, String)> {
        self.inner.uses.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Why the last change could not be written, be it an administrator's or when tokens were used last; `None` when it was.
    pub fn write_error(&self) -> Option<String> {
        self.inner.shared.write_error()
    }

    /// Writes when tokens were used last, where that has changed. A full queue leaves it for the next time.
    pub fn keep_uses(&self) {
        let known = {
            let local = self.local();
            let mut uses = self.inner.uses.lock().unwrap_or_else(PoisonError::into_inner);
            uses.retain(|id, _| local.tokens().contains_key(id));
            uses.clone()
        };
        if let Some(queue) = &self.inner.queue {
            let _ = queue.try_send(Job::Uses(known));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    /// As they are in the file.
    uses: Uses,
    since_clean: u64,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            match job {
                Job::Apply { requires, changes, audit, now, done } => {
                    let applied = self.apply(&requires, changes, &audit, now);
                    match &applied {
                        Err(ControlError::Write(error)) => self.wrote(Some(error.clone())),
                        Ok(_) => self.wrote(None),
                        Err(_) => {}
                    }
                    let _ = done.send(applied);
                }
                // After an error it is written all the same: so it is seen that there is room again.
                Job::Uses(uses) if uses == self.uses && self.shared.write_error().is_none() => {}
                Job::Uses(uses) => match write_uses(&mut self.connection, &uses) {
                    Ok(()) => {
                        self.uses = uses;
                        self.wrote(None);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "when tokens were used last can't be written");
                        self.wrote(Some(error.to_string()));
                    }
                },
            }
        }
    }

    fn wrote(&self, error: Option<String>) {
        *self.shared.write_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn apply(
        &mut self,
        requires: &[Unchanged],
        mut changes: Vec<Change>,
        audit: &[AuditEntry],
        now: Timestamp,
    ) -> Result<u64, ControlError> {
        {
            // As the file is: nobody else writes into either.
            let local = self.shared.local.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(Unchanged { kind, key, .. }) = requires.iter().find(|record| !local.is_unchanged(record)) {
                return Err(ControlError::Withdrawn { kind: *kind, key: key.clone() });
            }
            consequence::check_owners(&changes, &local)?;
            changes.extend(consequence::of(&changes, &local));
        }
        let transaction = self.connection.transaction().map_err(unwritten)?;
        let revision = changed(&transaction, &changes, now)?;
        for entry in audit {
            entry.insert(&transaction, now).map_err(unwritten)?;
        }
        transaction.commit().map_err(unwritten)?;
        if !changes.is_empty() {
            let mut local = self.shared.local.write().unwrap_or_else(PoisonError::into_inner);
            follow(&self.connection, &mut local).map_err(|error| ControlError::Read(error.to_string()))?;
            drop(local);
            let local = self.shared.local.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(follower) = &*self.shared.follower.read().unwrap_or_else(PoisonError::into_inner) {
                follower(&local);
            }
            self.shared.revision.send_replace(local.revision());
        }
        self.since_clean += 1;
        if self.since_clean >= CLEAN_EVERY {
            self.since_clean = 0;
            if let Err(error) = clean(&self.connection) {
                tracing::warn!(%error, "the control database can't be cleaned up");
            }
        }
        Ok(revision)
    }
}

fn unwritten(error: rusqlite::Error) -> ControlError {
    ControlError::Write(error.to_string())
}

/// Writes the changes, each under the next revision, where all is as expected.
fn changed(transaction: &Transaction<'_>, changes: &[Change], now: Timestamp) -> Result<u64, ControlError> {
    let mut revision: i64 =
        transaction.query_row("SELECT revision FROM counter", [], |row| row.get(0)).map_err(unwritten)?;
    for Change { kind, key, expected, body } in changes {
        let found: Option<i64> = transaction
            .prepare_cached("SELECT revision FROM records WHERE kind = ?1 AND key = ?2 AND body IS NOT NULL")
            .and_then(|mut statement| statement.query_row(params![kind.as_str(), key], |row| row.get(0)).optional())
            .map_err(unwritten)?;
        let found = found.and_then(|found| u64::try_from(found).ok());
        match (expected, found) {
            (Expected::Anything, _) | (Expected::Nothing, None) => {}
            (Expected::Revision(wanted), Some(found)) if *wanted == found => {}
            (Expected::Nothing, Some(_)) => return Err(ControlError::Exists { kind: *kind, key: key.clone() }),
            (Expected::Revision(_), found) => {
                return Err(ControlError::Changed { kind: *kind, key: key.clone(), found });
            }
        }
        revision += 1;
        transaction
            .prepare_cached(
                "INSERT INTO records (kind, key, revision, changed_at, body) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT (kind, key) DO UPDATE SET revision = ?3, changed_at = ?4, body = ?5",
            )
            .and_then(|mut statement| {
                let at = i64::try_from(now.0).unwrap_or(i64::MAX);
                statement.execute(params![kind.as_str(), key, revision, at, body])
            })
            .map_err(unwritten)?;
    }
    transaction.execute("UPDATE counter SET revision = ?1", [revision]).map_err(unwritten)?;
    Ok(u64::try_from(revision).unwrap_or_default())
}

/// Applies what the feed has after the copy's revision.
fn follow(connection: &Connection, local: &mut Local) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT kind, key, revision, changed_at, body FROM records WHERE revision > ?1 ORDER BY revision",
    )?;
    let mut rows = statement.query([i64::try_from(local.revision()).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        let kind: String = row.get(0)?;
        // A kind that a newer version knows is nothing here.
        let Some(kind) = Kind::parse(&kind) else { continue };
        let unsigned = |value: i64| u64::try_from(value).unwrap_or_default();
        local.apply(Raw {
            kind,
            key: row.get(1)?,
            revision: unsigned(row.get(2)?),
            changed_at: Timestamp(unsigned(row.get(3)?)),
            body: row.get(4)?,
        });
    }
    Ok(())
}

fn clean(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(
        "DELETE FROM records WHERE body IS NULL AND revision < (SELECT revision FROM counter) - ?1",
        [KEEP_TOMBSTONES],
    )?;
    connection.execute("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?1", [audit::MAX_ENTRIES])?;
    Ok(())
}

fn read_uses(connection: &Connection) -> rusqlite::Result<Uses> {
    let mut statement = connection.prepare("SELECT id, at, origin FROM token_use")?;
    let rows = statement.query_map([], |row| {
        let at = u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default();
        Ok((row.get(0)?, (Timestamp(at), row.get(2)?)))
    })?;
    rows.collect()
}

fn write_uses(connection: &mut Connection, uses: &Uses) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    // Tokens that are gone take their row with them.
    transaction.execute("DELETE FROM token_use", [])?;
    for (id, (at, origin)) in uses {
        let at = i64::try_from(at.0).unwrap_or(i64::MAX);
        transaction
            .prepare_cached("INSERT INTO token_use (id, at, origin) VALUES (?1, ?2, ?3)")?
            .execute(params![id, at, origin])?;
    }
    transaction.commit()
}
