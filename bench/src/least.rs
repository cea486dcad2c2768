//! What a server can't do without that answers for itself: beside what [`Bare`](crate::bare::Bare) does, an answer is looked up, a line of the
//! log tells of it, and so does a row of a file that can be searched.
//!
//! Each as cheaply as can be: what is known lies in memory and is never forgotten; the line has no time in it; the row has no index. Nothing
//! is parsed, checked, counted, or kept for a next start, so it is no server that anybody could use. Line and row are written as
//! Callahead writes them, by threads of their own: lines each 20 ms in one piece, rows in batches by one that gives way to all others, at most
//! 5,000 a second; what comes faster is lost.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, params};
use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

use crate::load::names;

/// How long lines gather.
const LINES_EVERY: Duration = Duration::from_millis(20);
/// How long rows gather.
const ROWS_EVERY: Duration = Duration::from_millis(250);
/// Rows of a transaction at most, which is 5,000 a second: Callahead's `log.rate`.
const BATCH: usize = 1_250;
/// Rows that may wait.
const QUEUE: usize = 32_768;

/// What is known, and the two logs.
#[derive(Debug)]
pub struct Least {
    known: HashMap<Box<[u8]>, bool>,
    lines: Arc<Mutex<Vec<u8>>>,
    rows: SyncSender<(Box<[u8]>, bool)>,
}

impl Least {
    /// One that knows so many recipients, with its logs in this folder.
    ///
    /// # Errors
    /// When the logs can't be made.
    pub fn new(folder: &Path, known: u64) -> anyhow::Result<Arc<Self>> {
        std::fs::create_dir_all(folder)?;
        let mut address = String::new();
        let known = (0..known).map(|number| {
            address.clear();
            names::write_address(&mut address, number, 1);
            (address.as_bytes().into(), names::exists(number))
        });
        let known = known.collect();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (log, waiting) = (File::create(folder.join("log"))?, Arc::clone(&lines));
        std::thread::spawn(move || write_lines(log, &waiting));
        let connection = Connection::open(folder.join("log.db"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -32768; \
             CREATE TABLE decisions (id INTEGER PRIMARY KEY, recipient BLOB, accepted INTEGER);",
        )?;
        let (rows, waiting) = sync_channel(QUEUE);
        std::thread::spawn(move || write_rows(connection, &waiting));
        Ok(Arc::new(Self { known, lines, rows }))
    }

    /// What is known of a recipient.
    pub fn accepts(&self, recipient: &[u8]) -> bool {
        self.known.get(recipient).is_some_and(|exists| *exists)
    }

    /// Tells both logs.
    pub fn tell(&self, recipient: &[u8], accepted: bool) {
        let answer: &[u8] = if accepted { b"250 2.1.5 Ok" } else { b"550 5.1.1 User unknown" };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for part in [b"{\"recipient\":\"", recipient, b"\",\"answer\":\"", answer, b"\"}\n"] {
            lines.extend_from_slice(part);
        }
        drop(lines);
        // Lost where too many wait.
        let _ = self.rows.try_send((recipient.into(), accepted));
    }
}

fn write_lines(mut log: File, waiting: &Mutex<Vec<u8>>) {
    let mut taken = Vec::new();
    loop {
        std::thread::sleep(LINES_EVERY);
        std::mem::swap(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner), &mut taken);
        // Whoever measures would see that nothing is logged; there is nobody to tell here.
        let _ = log.write_all(&taken);
        taken.clear();
    }
}

fn write_rows(mut connection: Connection, waiting: &Receiver<(Box<[u8]>, bool)>) {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let thread = thread_priority::thread_native_id();
    let _ = thread_priority::set_thread_priority_and_policy(thread, ThreadPriority::Min, idle);
    loop {
        if write_batch(&mut connection, waiting).is_err() {
            return;
        }
        std::thread::sleep(ROWS_EVERY);
    }
}

fn write_batch(connection: &mut Connection, waiting: &Receiver<(Box<[u8]>, bool)>) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let mut rows = 0;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO decisions (recipient, accepted) VALUES (?1, ?2)")?;
        while rows < BATCH {
            match waiting.try_recv() {
                Ok((recipient, accepted)) => insert.execute(params![recipient, accepted])?,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            };
            rows += 1;
        }
    }
    transaction.commit()
}
