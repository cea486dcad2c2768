//! The decision log's one writer: takes what waits, writes it in batches, keeps the file within its bounds, and goes on without a file.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use callahead_cache::Timestamp;
use callahead_engine::{Clock, Decision, Directory, LoggedRecipients};
use rusqlite::{Connection, params};

use crate::blocks::{Filling, Logged, domain_of};
use crate::log::{Entry, LogSettings, Shared, first_id, policy_of};
use crate::log_file::{self, Opened, Readers};
use crate::retention::Retention;

/// How long a decision waits before it is written.
const EVERY: Duration = Duration::from_millis(250);
/// Rows in one transaction at most.
const BATCH: usize = 5_000;
/// A failure is told of again after this.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// A file that can't be opened is tried again after this.
const OPEN_EVERY: Duration = Duration::from_secs(10);

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

pub(crate) struct Writer {
    path: PathBuf,
    /// With the block that is being filled; `None` while there is no file to write to.
    file: Option<(Connection, Filling)>,
    /// When it was tried to open the file.
    tried_at: Timestamp,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    readers: Arc<Readers>,
    last_id: i64,
    retention: Retention,
    told: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(path: &Path, shared: Arc<Shared>, clock: Arc<dyn Clock>, readers: Arc<Readers>) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            tried_at: Timestamp(0),
            shared,
            clock,
            readers,
            last_id: 0,
            retention: Retention::default(),
            told: None,
        }
    }

    /// Opens the file. Where that is not possible, what comes is lost until it is.
    pub(crate) fn open(&mut self) {
        self.tried_at = self.clock.now();
        match log_file::open(&self.path) {
            Ok(Opened { connection, last_id, filling, replaced }) => {
                self.file = Some((connection, filling));
                self.last_id = last_id;
                self.retention = Retention::default();
                if replaced {
                    self.shared.begun_anew.store(true, Ordering::Relaxed);
                }
                self.set_error(None);
            }
            Err(error) => self.tell(error.to_string()),
        }
    }

    pub(crate) fn run(mut self, entries: &Receiver<Box<Entry>>, stopped: &Receiver<()>) {
        give_way();
        loop {
            // It looks by itself, so that nobody who decides has to wake it.
            let ending = stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Disconnected);
            if self.file.is_none() && self.clock.now().since(self.tried_at) >= OPEN_EVERY {
                self.open();
            }
            let (settings, _) = self.shared.in_force();
            let mut left = if ending { usize::MAX } else { a_turns(settings.rate) };
            let open = loop {
                let most = left.min(BATCH);
                let (rows, open) = self.batch(entries, most);
                self.retain(rows);
                left -= rows;
                if rows < most || left == 0 {
                    break open;
                }
            };
            if ending && !open {
                return;
            }
        }
    }

    /// Writes what waits, up to so many in one transaction. Gives how many there were, and whether more can come.
    fn batch(&mut self, entries: &Receiver<Box<Entry>>, most: usize) -> (usize, bool) {
        let mut batch = Vec::new();
        let mut open = true;
        while batch.len() < most {
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
        let (settings, domains) = self.shared.in_force();
        let count = rows as u64;
        let lost = match self.write(batch, settings, &domains) {
            Ok(Some(written)) => {
                self.shared.written.fetch_add(written, Ordering::Relaxed);
                self.set_error(None);
                0
            }
            // Why, is told already.
            Ok(None) => count,
            Err(error) => {
                self.fail(&error);
                count
            }
        };
        self.shared.lost.fetch_add(lost, Ordering::Relaxed);
        // Last, so that nothing waits any more once it is counted as written or lost.
        self.shared.queued.fetch_sub(count, Ordering::Release);
        (rows, open)
    }

    /// Gives how many rows there are now of the batch, since a domain may want none; `None` while there is no file.
    fn write(
        &mut self,
        batch: Vec<Entry>,
        settings: LogSettings,
        domains: &Directory,
    ) -> rusqlite::Result<Option<u64>> {
        let Some((connection, filled)) = &mut self.file else { return Ok(None) };
        let transaction = connection.transaction()?;
        let (mut last_id, mut written) = (self.last_id, 0);
        // Taken over with the rows.
        let mut filling = filled.clone();
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO decisions (id, at, listener, client, sender, recipient, domain, verdict, decision) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            for entry in batch {
                let Entry { at, listener, client, sender, mut decision } = entry;
                let (days, recipients) = settings.of(policy_of(domains, &decision.recipient));
                if days == 0 {
                    continue;
                }
                if recipients == LoggedRecipients::Domain {
                    hide_local_part(&mut decision);
                }
                last_id = (last_id + 1).max(first_id(at));
                let at = i64::try_from(at.0).unwrap_or_default();
                let json = serde_json::to_string(&decision)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
                let domain = domain_of(&decision.recipient);
                let client = client.map(|client| client.to_canonical().to_string());
                let row = Logged {
                    id: last_id,
                    recipient: &decision.recipient,
                    domain,
                    client: client.as_deref(),
                    sender: sender.as_deref(),
                    verdict: decision.verdict.map(|verdict| verdict.as_str()),
                    source: decision.source.as_str(),
                };
                insert.execute(params![
                    row.id,
                    at,
                    listener,
                    row.client,
                    row.sender,
                    row.recipient,
                    domain,
                    row.verdict,
                    json
                ])?;
                filling.add(&transaction, &row)?;
                written += 1;
            }
        }
        transaction.commit()?;
        *filled = filling;
        self.last_id = last_id;
        Ok(Some(written))
    }

    fn retain(&mut self, rows: usize) {
        let Some((connection, filling)) = &mut self.file else { return };
        let (settings, domains) = self.shared.in_force();
        match self.retention.step(connection, filling, &settings, &domains, self.clock.now(), rows) {
            Ok(step) => {
                self.shared.removed.fetch_add(step.removed, Ordering::Relaxed);
                self.shared.used_bytes.store(step.used_bytes, Ordering::Relaxed);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// A file that is found to be damaged makes room for a new one at once; everything else may be over by the next batch.
    fn fail(&mut self, error: &rusqlite::Error) {
        self.tell(error.to_string());
        if log_file::is_damage(error) {
            self.file = None;
            self.readers.close();
            self.open();
        }
    }

    fn set_error(&self, error: Option<String>) {
        *self.shared.write_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn tell(&mut self, error: String) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            let lost = self.shared.lost.load(Ordering::Relaxed);
            tracing::error!(%error, lost, "the decision log can't be written; decisions go on and their entries are lost");
        }
        self.set_error(Some(error));
    }
}

/// How many rows may be written after each wait of [`EVERY`], so that it is no more than so many a second; one at
/// least.
fn a_turns(rate: u32) -> usize {
    let rows = u128::from(rate) * EVERY.as_millis() / 1000;
    usize::try_from(rows).unwrap_or(usize::MAX).max(1)
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
