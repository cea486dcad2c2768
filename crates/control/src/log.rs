//! The decision log: each decision as one row, written in batches by a thread of its own.
//!
//! It is an [`Observer`], so it lies in the way of every question: what it does there is one copy of the decision and one push into a
//! bounded queue that wakes nobody. A queue that is full, because the disk is slow or full, loses the entry, which is counted; decisions go on.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use callahead_cache::Timestamp;
use callahead_engine::{Alert, Clock, Decision, Observer, Question};
use rusqlite::{Connection, params};

use crate::database::{self, OpenError};
use crate::retention::Retention;

/// Decisions that wait to be written at most: some 30 MB.
const QUEUE: usize = 65_536;
/// How long a decision waits before it is written.
const EVERY: Duration = Duration::from_millis(250);
/// Rows in one transaction at most.
const BATCH: usize = 5_000;
/// The longest sender that is kept, in characters.
const MAX_SENDER: usize = 320;
/// A failure is told of again after this.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Connections for searching.
const READERS: usize = 2;

/// Within `auto_vacuum = INCREMENTAL`; an id is the time in milliseconds, shifted by [`ID_SHIFT`], and a count below it. So rows lie in the
/// order of time without an index for it, and each index ends with the time.
const MIGRATIONS: &[&str] = &["
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, listener TEXT NOT NULL, client TEXT, sender TEXT, recipient TEXT NOT NULL,
    domain TEXT NOT NULL, verdict TEXT, decision TEXT NOT NULL
);
CREATE INDEX decisions_domain ON decisions (domain);
CREATE INDEX decisions_recipient ON decisions (recipient);
CREATE INDEX decisions_client ON decisions (client) WHERE client IS NOT NULL;
"];

/// By how much an id is greater than its time.
pub(crate) const ID_SHIFT: u32 = 20;

/// What is logged, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Days for which decisions are kept; 0 logs none. Default 30.
    pub days: u32,
    /// Bytes that the file may have; the oldest decisions go first. Default 4 GiB.
    pub size: u64,
    /// What of recipients is kept. Default all of it.
    pub recipients: LoggedRecipients,
}

/// What of recipients is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoggedRecipients {
    /// The whole address.
    Full,
    /// Only the domain, as `*@example.com`, and no words of the destination, which may name the mailbox.
    Domain,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { days: 30, size: 4 << 30, recipients: LoggedRecipients::Full }
    }
}

/// What became of decisions since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// On disk.
    pub written: u64,
    /// Lost because the queue was full, or could not be written.
    pub lost: u64,
    /// Removed because they were too old or too many.
    pub removed: u64,
    /// Waiting to be written.
    pub waiting: u64,
    /// Bytes in use in the file.
    pub used_bytes: u64,
    /// Why the last batch was not written; `None` when it was.
    pub write_error: Option<String>,
}

/// Logs decisions. Clones share it; the last one closes it, after everything that waits is written.
#[derive(Clone)]
pub struct DecisionLog {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    queue: Option<SyncSender<Box<Entry>>>,
    stop: Option<SyncSender<()>>,
    writer: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    pub(crate) readers: Vec<Mutex<Connection>>,
}

#[derive(Default)]
struct Shared {
    /// Nothing is logged.
    off: AtomicBool,
    queued: AtomicU64,
    written: AtomicU64,
    lost: AtomicU64,
    removed: AtomicU64,
    used_bytes: AtomicU64,
    write_error: Mutex<Option<String>>,
    settings: Mutex<LogSettings>,
}

struct Entry {
    at: Timestamp,
    listener: &'static str,
    client: Option<std::net::IpAddr>,
    sender: Option<String>,
    decision: Decision,
}

impl fmt::Debug for DecisionLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionLog").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl DecisionLog {
    /// Opens the file, and makes it where it is missing.
    ///
    /// # Errors
    /// When it can't be opened, or was written by a newer version.
    pub fn open(path: &Path, settings: LogSettings, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let wrong = |source| OpenError::Open { path: path.to_owned(), source };
        let connection = database::open(path, MIGRATIONS)?;
        // A power cut may lose the last batch, and breaks nothing.
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(wrong)?;
        connection.pragma_update(None, "journal_size_limit", 16 << 20).map_err(wrong)?;
        let last_id =
            connection.query_row("SELECT coalesce(max(id), 0) FROM decisions", [], |row| row.get(0)).map_err(wrong)?;
        let readers = (0..READERS)
            .map(|_| database::open_reader(path).map(Mutex::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(wrong)?;
        let shared = Arc::new(Shared {
            off: AtomicBool::new(settings.days == 0),
            settings: Mutex::new(settings),
            ..Shared::default()
        });
        let (queue, entries) = sync_channel(QUEUE);
        let (stop, stopped) = sync_channel(1);
        let writer = Writer {
            connection,
            shared: Arc::clone(&shared),
            clock,
            last_id,
            retention: Retention::default(),
            told: None,
        };
        let thread = std::thread::Builder::new().name("decision-log".into());
        let writer = thread
            .spawn(move || writer.run(&entries, &stopped))
            .map_err(|error| wrong(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
        let (queue, stop, writer) = (Some(queue), Some(stop), Some(writer));
        Ok(Self { inner: Arc::new(Inner { queue, stop, writer, shared, readers }) })
    }

    /// What holds from now on.
    pub fn set_settings(&self, settings: LogSettings) {
        self.inner.shared.off.store(settings.days == 0, Ordering::Relaxed);
        *self.inner.shared.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// What became of decisions.
    pub fn counters(&self) -> LogCounters {
        let shared = &self.inner.shared;
        let (written, lost) = (shared.written.load(Ordering::Relaxed), shared.lost.load(Ordering::Relaxed));
        LogCounters {
            written,
            lost,
            removed: shared.removed.load(Ordering::Relaxed),
            waiting: shared.queued.load(Ordering::Relaxed),
            used_bytes: shared.used_bytes.load(Ordering::Relaxed),
            write_error: shared.write_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Observer for DecisionLog {
    fn decided(&self, question: &Question<'_>, decision: &Decision) {
        let Inner { queue: Some(queue), shared, .. } = &*self.inner else { return };
        if shared.off.load(Ordering::Relaxed) {
            return;
        }
        let sender = question.sender.map(|sender| sender.chars().take(MAX_SENDER).collect());
        let decision = Decision { transcript: None, ..decision.clone() };
        let listener = question.listener.as_str();
        let entry = Entry { at: decision.at, listener, client: question.client, sender, decision };
        shared.queued.fetch_add(1, Ordering::Relaxed);
        if queue.try_send(Box::new(entry)).is_err() {
            shared.queued.fetch_sub(1, Ordering::Relaxed);
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn alert(&self, _: &Alert) {}
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        drop(self.stop.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Has this thread run only when no other thread wants to: who asks is answered first, and the log is written when nobody waits. A lower
/// priority alone does not do that: Linux lets a thread that was woken wait for the milliseconds of the one that runs.
fn give_way() {
    use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let thread = thread_priority::thread_native_id();
    if let Err(error) = thread_priority::set_thread_priority_and_policy(thread, ThreadPriority::Min, policy) {
        tracing::debug!(?error, "the decision log's thread has the priority of all others");
    }
}

struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    last_id: i64,
    retention: Retention,
    told: Option<Instant>,
}

impl Writer {
    fn run(mut self, entries: &Receiver<Box<Entry>>, stopped: &Receiver<()>) {
        give_way();
        loop {
            // It looks by itself, so that nobody who decides has to wake it.
            let ending = stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Disconnected);
            let mut rows = 0;
            let open = loop {
                let (written, open) = self.batch(entries);
                rows += written;
                if written < BATCH {
                    break open;
                }
            };
            self.retain(rows);
            if ending && !open {
                return;
            }
        }
    }

    /// Writes what waits, up to one transaction. Gives how many there were, and whether more can come.
    fn batch(&mut self, entries: &Receiver<Box<Entry>>) -> (usize, bool) {
        let mut batch = Vec::new();
        let mut open = true;
        while batch.len() < BATCH {
            match entries.try_recv() {
                Ok(entry) => batch.push(*entry),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        let rows = batch.len();
        if rows == 0 {
            return (0, open);
        }
        let settings = *self.shared.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let count = rows as u64;
        match self.write(batch, settings) {
            Ok(()) => {
                self.shared.written.fetch_add(count, Ordering::Relaxed);
                *self.shared.write_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            Err(error) => {
                self.shared.lost.fetch_add(count, Ordering::Relaxed);
                self.tell(&error);
            }
        }
        // Last, so that nothing waits any more once it is counted as written or lost.
        self.shared.queued.fetch_sub(count, Ordering::Release);
        (rows, open)
    }

    fn write(&mut self, batch: Vec<Entry>, settings: LogSettings) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let mut last_id = self.last_id;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO decisions (id, at, listener, client, sender, recipient, domain, verdict, decision) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            for entry in batch {
                let Entry { at, listener, client, sender, mut decision } = entry;
                if settings.recipients == LoggedRecipients::Domain {
                    hide_local_part(&mut decision);
                }
                let at = i64::try_from(at.0).unwrap_or_default();
                last_id = (last_id + 1).max(at << ID_SHIFT);
                let json = serde_json::to_string(&decision)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
                // Text behind the last @ even where it is no domain: for what was no address.
                let domain = decision.recipient.rsplit('@').next().unwrap_or_default();
                insert.execute(params![
                    last_id,
                    at,
                    listener,
                    client.map(|client| client.to_canonical().to_string()),
                    sender,
                    decision.recipient,
                    domain,
                    decision.verdict.map(|verdict| verdict.as_str()),
                    json
                ])?;
            }
        }
        transaction.commit()?;
        self.last_id = last_id;
        Ok(())
    }

    fn retain(&mut self, rows: usize) {
        let settings = *self.shared.settings.lock().unwrap_or_else(PoisonError::into_inner);
        match self.retention.step(&self.connection, &settings, self.clock.now(), rows) {
            Ok(step) => {
                self.shared.removed.fetch_add(step.removed, Ordering::Relaxed);
                self.shared.used_bytes.store(step.used_bytes, Ordering::Relaxed);
            }
            Err(error) => self.tell(&error),
        }
    }

    fn tell(&mut self, error: &rusqlite::Error) {
        *self.shared.write_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            let lost = self.shared.lost.load(Ordering::Relaxed);
            tracing::error!(%error, lost, "the decision log can't be written; decisions go on and their entries are lost");
        }
    }
}

/// Takes out what names the mailbox.
fn hide_local_part(decision: &mut Decision) {
    let domain = decision.recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
    decision.recipient = format!("*@{domain}");
    if let Some(reply) = &mut decision.reply {
        reply.text.clear();
    }
    decision.answer.text = std::borrow::Cow::Borrowed("");
    if let Some(would) = &mut decision.would {
        would.text = std::borrow::Cow::Borrowed("");
    }
}
