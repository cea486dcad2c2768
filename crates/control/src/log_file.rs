//! The decision log's file: opened, or begun anew where it is damaged, and the connections that search it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

use crate::blocks::{self, Filling};
use crate::database::{self, OpenError};
use crate::pool::Pool;

/// Connections for searching.
const READERS: usize = 2;
/// What stands behind the name of a file that was moved aside.
const ASIDE: &str = ".damaged";

/// Within `auto_vacuum = INCREMENTAL`; an id is the time in milliseconds, shifted ([`first_id`](crate::log::first_id)), and a count below it. So rows
/// lie in the order of time without an index for it. There is none at all: what is where is told by blocks ([`crate::blocks`]).
const MIGRATIONS: &[&str] = &["
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, listener TEXT NOT NULL, client TEXT, sender TEXT, recipient TEXT NOT NULL,
    domain TEXT NOT NULL, verdict TEXT, decision TEXT NOT NULL
);
CREATE INDEX decisions_domain ON decisions (domain);
CREATE INDEX decisions_recipient ON decisions (recipient);
CREATE INDEX decisions_client ON decisions (client) WHERE client IS NOT NULL;
", "
CREATE TABLE blocks (last INTEGER PRIMARY KEY, first INTEGER NOT NULL, bits BLOB NOT NULL);
", "
DROP INDEX decisions_domain;
DROP INDEX decisions_recipient;
DROP INDEX decisions_client;
DROP TABLE blocks;
", blocks::TABLE];

/// A file that can be written.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    /// Of the newest row; 0 where there is none.
    pub(crate) last_id: i64,
    pub(crate) filling: Filling,
    /// What was there is damaged, and lies beside it now.
    pub(crate) replaced: bool,
}

/// Opens the file, and makes it where it is missing; one that is damaged is moved aside first.
///
/// # Errors
/// When it can't be opened, or was written by a newer version.
pub(crate) fn open(path: &Path) -> Result<Opened, OpenError> {
    match open_as_it_is(path) {
        Err(OpenError::Open { source, .. }) if is_damage(&source) => {
            let aside = move_aside(path).map_err(|error| wrong(path, error.into()))?;
            tracing::error!(
                error = %source,
                "the decision log {} is damaged: it was moved to {}, and the log begins anew",
                path.display(),
                aside.display()
            );
            Ok(Opened { replaced: true, ..open_as_it_is(path)? })
        }
        opened => opened,
    }
}

fn open_as_it_is(path: &Path) -> Result<Opened, OpenError> {
    let wrong = |source| OpenError::Open { path: path.to_owned(), source };
    let mut connection = database::open(path, MIGRATIONS)?;
    // A power cut may lose the last batch, and breaks nothing.
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(wrong)?;
    connection.pragma_update(None, "journal_size_limit", 16 << 20).map_err(wrong)?;
    let last_id =
        connection.query_row("SELECT coalesce(max(id), 0) FROM decisions", [], |row| row.get(0)).map_err(wrong)?;
    let filling = Filling::resume(&mut connection).map_err(wrong)?;
    Ok(Opened { connection, last_id, filling, replaced: false })
}

fn wrong(path: &Path, error: Box<dyn std::error::Error + Send + Sync>) -> OpenError {
    OpenError::Open { path: path.to_owned(), source: rusqlite::Error::ToSqlConversionFailure(error) }
}

/// Whether the file's content is what is wrong.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Gives the file another name, in place of one that was moved aside before, with what SQLite keeps beside it: so it can still be looked into.
fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let named = |of: &str, end: &str| {
        let mut name = of.to_owned();
        name.push_str(end);
        path.with_file_name(name)
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = format!("{name}{ASIDE}");
    for end in ["-wal", "-shm"] {
        match fs::rename(named(&name, end), named(&aside, end)) {
            Err(error) if error.kind() == ErrorKind::NotFound => remove(&named(&aside, end))?,
            moved => moved?,
        }
    }
    fs::rename(path, named(&aside, ""))?;
    Ok(named(&aside, ""))
}

/// One of an earlier damage does not belong to this one's file.
fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Connections that search; each is opened when it is needed, and again after the file was replaced.
pub(crate) struct Readers {
    path: PathBuf,
    connections: Pool<Option<Connection>>,
}

impl Readers {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connections: Pool::new((0..READERS).map(|_| None).collect()) }
    }

    /// Reads by one that is free, or else by the first that becomes so.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.connections.with(|place| {
            let connection = match place.take() {
                Some(connection) => connection,
                None => database::open_reader(&self.path)?,
            };
            read(place.insert(connection))
        })
    }

    /// Lets go of the file, after what is being read.
    pub(crate) fn close(&self) {
        self.connections.with_all(|place| drop(place.take()));
    }
}
