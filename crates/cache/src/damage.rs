//! Files that are not as they were left: found before they are read, since what LMDB maps and is not there ends the process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{Env, RoTxn};

use crate::ending::Marker;
use crate::store::{CacheError, META, Options, ROUTES, SLOTS, open_env};

/// LMDB's file of data, and its file of readers.
pub(crate) const DATA: &str = "data.mdb";
const READERS: &str = "lock.mdb";
/// What a damaged file is called from then on.
const ASIDE: &str = "data.mdb.damaged";
/// Pages at the end that may never have been written although they are counted: they were taken and given back in one commit.
const NEVER_WRITTEN: u64 = 64;
/// What a reader takes in the readers' file, and its head, which is smaller than that.
const READER: usize = 64;
const READERS_HEAD: usize = 4096;

/// Bytes that are counted in the file's head and missing at its end. A few pages are made up for: when one of them is
/// needed after all, LMDB finds that it is none and says so.
pub(crate) fn missing(env: &Env, dir: &Path) -> io::Result<u64> {
    let page = u64::from(env.stat().page_size);
    let counted = (env.info().last_page_number as u64 + 1).saturating_mul(page);
    let file = File::options().write(true).open(dir.join(DATA))?;
    let there = file.metadata()?.len();
    if there >= counted {
        return Ok(0);
    }
    if counted - there > NEVER_WRITTEN * page {
        return Ok(counted - there);
    }
    file.set_len(counted)?;
    Ok(0)
}

/// Writes the readers' file in full, before LMDB opens it. It is mapped and written to, and on a full disk a page of it that
/// is not there yet would end the process. What is in it stays: another process may be looking through the data, even one that a killed
/// daemon has left behind, and LMDB tells by the file's head whether it is alone.
pub(crate) fn reserve_readers(dir: &Path, readers: u32) -> io::Result<()> {
    let octets = READERS_HEAD + usize::try_from(readers).unwrap_or(0) * READER;
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(READERS))?;
    let there = file.metadata()?.len();
    let missing = octets.saturating_sub(usize::try_from(there).unwrap_or(usize::MAX));
    file.write_all_at(&vec![0; missing], there)
}

/// Gives the damaged file another name, in place of one that was moved aside before, and lets go of its readers.
pub(crate) fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    let aside = dir.join(ASIDE);
    fs::rename(dir.join(DATA), &aside)?;
    match fs::remove_file(dir.join(READERS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(aside),
    }
}

/// Reads the whole file, for a process of its own: what is wrong with it may end the process that does. Gives how many entries there are.
///
/// Others may have it open and write meanwhile. With `alone` nobody else may, and it is also tried to write, which reads the pages that list what is
/// free; nothing of it stays.
///
/// # Errors
/// [`is_damage`](CacheError::is_damage) where it is damaged; otherwise it can't be told.
pub fn look_through(dir: &Path, alone: bool) -> Result<u64, CacheError> {
    let _lock = alone.then(|| Marker::lock(dir)).transpose()?;
    let env = open_env(dir, &Options::default())?;
    let open = |source| CacheError::Open { path: dir.to_owned(), source };
    let txn = env.read_txn().map_err(open)?;
    let mut entries = 0;
    for name in [SLOTS, META, ROUTES] {
        match read_all(&env, &txn, name).map_err(open)? {
            Some(read) => entries += read,
            None => return Err(CacheError::Distrusted { path: dir.to_owned() }),
        }
    }
    drop(txn);
    if alone {
        let mut txn = env.write_txn().map_err(open)?;
        let slots: heed::Database<Bytes, Bytes> = env.create_database(&mut txn, Some(SLOTS)).map_err(open)?;
        slots.put(&mut txn, &[0], &[]).and_then(|()| slots.delete(&mut txn, &[0])).map_err(open)?;
        txn.abort();
    }
    Ok(entries)
}

/// How many entries a database has; `None` where they are not in order, or not as many as it says itself.
fn read_all(env: &Env, txn: &RoTxn<'_>, name: &str) -> Result<Option<u64>, heed::Error> {
    let Some(database) = env.open_database::<Bytes, Bytes>(txn, Some(name))? else { return Ok(Some(0)) };
    let (mut entries, mut last) = (0, Vec::new());
    for entry in database.iter(txn)? {
        let (key, value) = entry?;
        // Each octet is read: it may lie beyond the file's end.
        std::hint::black_box(crc32fast::hash(value));
        if entries > 0 && key <= last.as_slice() {
            return Ok(None);
        }
        last.clear();
        last.extend_from_slice(key);
        entries += 1;
    }
    Ok((entries == database.len(txn)?).then_some(entries))
}
