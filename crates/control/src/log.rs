//! The decision log: each decision as one row, written in batches by a thread of its own.
//!
//! It is an [`Observer`], so it lies in the way of every question: what it does there is one copy of the decision and one push into a
//! bounded queue that wakes nobody. A queue that is full, because decisions come faster than they may be written or the disk is slow or full,
//! loses the entry, which is counted; decisions go on.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use callahead_cache::Timestamp;
use callahead_engine::{Alert, Clock, Decision, Directory, LoggedRecipients, Observer, Policy, Question};
use callahead_smtp::Domain;
use rusqlite::Connection;

use crate::blocks::domain_of;
use crate::control::ControlError;
use crate::log_file::Readers;
use crate::log_writer::Writer;

/// The longest sender that is kept, in characters.
const MAX_SENDER: usize = 320;

/// By how much an id is greater than its time.
const ID_SHIFT: u32 = 20;

/// What is logged, and for how long. A domain's policy may say less (`log_days`, `log_recipients`), and never more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Days for which decisions are kept; 0 logs none. Default 30.
    pub days: u32,
    /// Bytes that the file may have; the oldest decisions go first. Default 4 GiB.
    pub size: u64,
    /// What of recipients is kept. Default all of it.
    pub recipients: LoggedRecipients,
    /// Decisions that are written in a second at most. More can come for as long as they can wait ([`DecisionLog::QUEUE`]); what comes then is
    /// lost. So a flood takes neither the processor from answers nor, within minutes, the place of all that was logged before. Less than 4
    /// counts as 4. Default 5,000.
    pub rate: u32,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { days: 30, size: 4 << 30, recipients: LoggedRecipients::Full, rate: 5_000 }
    }
}

/// What became of decisions since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// On disk.
    pub written: u64,
    /// Lost because the queue was full (too many at a time, or the disk slow or full), or could not be written.
    pub lost: u64,
    /// Removed because they were too old or too many.
    pub removed: u64,
    /// Waiting to be written.
    pub waiting: u64,
    /// Bytes in use in the file.
    pub used_bytes: u64,
    /// Why the last batch was not written, or why there is no file; `None` when all is well.
    pub write_error: Option<String>,
    /// The file was damaged, and moved aside as `log.db.damaged`; the log began anew.
    pub begun_anew: bool,
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
    readers: Arc<Readers>,
}

#[derive(Default)]
pub(crate) struct Shared {
    /// Nothing is logged.
    off: AtomicBool,
    pub(crate) queued: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) used_bytes: AtomicU64,
    pub(crate) begun_anew: AtomicBool,
    pub(crate) write_error: Mutex<Option<String>>,
    settings: Mutex<LogSettings>,
    /// Whose policies say what is logged of each domain.
    domains: Mutex<Arc<Directory>>,
}

pub(crate) struct Entry {
    pub(crate) at: Timestamp,
    pub(crate) listener: &'static str,
    pub(crate) client: Option<std::net::IpAddr>,
    pub(crate) sender: Option<String>,
    pub(crate) decision: Decision,
}

impl fmt::Debug for DecisionLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionLog").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl DecisionLog {
    /// Decisions that wait to be written at most: some 15 MB.
    pub const QUEUE: usize = 32_768;

    /// Opens the file, and makes it where it is missing. A file that is damaged is moved aside, and one that can't be opened is tried again
    /// now and then: decisions go on without a log, which loses them and counts them.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn open(path: &Path, settings: LogSettings, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            off: AtomicBool::new(settings.days == 0),
            settings: Mutex::new(settings),
            ..Shared::default()
        });
        let readers = Arc::new(Readers::new(path));
        let mut writer = Writer::new(path, Arc::clone(&shared), Arc::clone(&clock), Arc::clone(&readers));
        writer.open();
        let (queue, entries) = sync_channel(Self::QUEUE);
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::Builder::new().name("decision-log".into());
        let writer = thread.spawn(move || writer.run(&entries, &stopped))?;
        let (queue, stop, writer) = (Some(queue), Some(stop), Some(writer));
        Ok(Self { inner: Arc::new(Inner { queue, stop, writer, shared, readers }) })
    }

    /// What holds from now on.
    pub fn set_settings(&self, settings: LogSettings) {
        self.inner.shared.off.store(settings.days == 0, Ordering::Relaxed);
        *self.inner.shared.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// The domains whose policies hold from now on; what waits to be written is written by them.
    pub fn set_domains(&self, domains: Arc<Directory>) {
        *self.inner.shared.domains.lock().unwrap_or_else(PoisonError::into_inner) = domains;
    }

    /// Reads the file by a thread that may wait for the disk.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ControlError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || inner.readers.read(read)).await {
            Ok(read) => read.map_err(|error| ControlError::ReadLog(error.to_string())),
            Err(error) => Err(ControlError::ReadLog(error.to_string())),
        }
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
            begun_anew: shared.begun_anew.load(Ordering::Relaxed),
        }
    }
}

impl Observer for DecisionLog {
    fn decided(&self, question: &Question<'_>, decision: &Decision) {
        let Inner { queue: Some(queue), shared, .. } = &*self.inner else { return };
        if shared.off.load(Ordering::Relaxed) {
            return;
        }
        // Looked at before anything is copied: while decisions come faster than they are written, that is most of them.
        if shared.queued.load(Ordering::Relaxed) >= Self::QUEUE as u64 {
            shared.lost.fetch_add(1, Ordering::Relaxed);
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

impl LogSettings {
    /// For how many days, and what of recipients, where a domain's policy says something too: the less of both.
    pub(crate) fn of(&self, policy: Option<&Policy>) -> (u32, LoggedRecipients) {
        match policy {
            Some(policy) => (self.days.min(policy.log_days), self.recipients.stricter(policy.log_recipients)),
            None => (self.days, self.recipients),
        }
    }
}

impl Shared {
    pub(crate) fn in_force(&self) -> (LogSettings, Arc<Directory>) {
        let settings = *self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        (settings, Arc::clone(&self.domains.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The least id of this time.
pub(crate) fn first_id(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX >> ID_SHIFT).min(i64::MAX >> ID_SHIFT) << ID_SHIFT
}

/// The policy of the domain behind an address's last `@`; `None` where it is not configured, or no domain.
pub(crate) fn policy_of<'a>(domains: &'a Directory, address: &str) -> Option<&'a Policy> {
    let domain = Domain::parse(domain_of(address)).ok()?;
    domains.find(&domain).map(|config| &config.policy)
}
