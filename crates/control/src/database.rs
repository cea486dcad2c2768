//! Opening SQLite files: settings, and migrations by `user_version`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// How long a connection waits for another one that writes: only a backup or a person with `sqlite3` can be in the way.
const BUSY: Duration = Duration::from_secs(5);

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite says no.
    #[error("the database {path} can't be opened ({source}); the log can be moved away to start with an empty one, the control database restored from a backup", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// Written by a newer version.
    #[error("the database {path} was written by a newer version of callahead (format {found}, this one knows {known}); install that version, or restore a backup", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The latest that is known here.
        known: u32,
    },
}

/// Opens a file for writing, makes it where it is missing, and brings it up to date. Each migration runs in a transaction of its own
/// with the number that it leads to, so that a crash leaves a whole version.
pub(crate) fn open(path: &Path, migrations: &[&str]) -> Result<Connection, OpenError> {
    let wrong = |source| OpenError::Open { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(wrong)?;
    private(path).map_err(|error| wrong(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
    connection.busy_timeout(BUSY).map_err(wrong)?;
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrong)?;
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    // Only before the first table is there; so that pages that were freed can be given back.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(wrong)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(wrong)?;
    for (version, migration) in (1u32..).zip(migrations).skip(found as usize) {
        let transaction = connection.transaction().map_err(wrong)?;
        transaction.execute_batch(migration).map_err(wrong)?;
        transaction.pragma_update(None, "user_version", version).map_err(wrong)?;
        transaction.commit().map_err(wrong)?;
    }
    Ok(connection)
}

/// Opens a file that is there for reading.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// For the daemon's user alone: addresses and hashes are nobody else's affair. SQLite gives the files beside it the same mode.
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}
