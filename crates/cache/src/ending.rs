//! How the process before left the cache: a word in the file that locks the folder.
//!
//! LMDB maps its file and trusts it. A page of its tree that a failing disk has changed may therefore end the process that reads it, and the next
//! one that reads it after a restart. So who did not close the cache is noticed at the next start: another process looks through
//! the file then ([`look_through`](crate::look_through)), and what it finds is written down here.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::damage::DATA;
use crate::store::CacheError;

/// The file's name.
const LOCK: &str = "lock";
const OPEN: &str = "open";
const DAMAGED: &str = "damaged";
const CLOSED: &str = "";

/// How a cache was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was closed, or there was none.
    Properly,
    /// The process was killed, or a fault ended it; this one, and as many before it in a row, without the file having been looked through to its end.
    Badly(u32),
    /// The file was looked through and is damaged: it will not be opened.
    Damaged,
}

impl Ending {
    /// How the cache in a folder was left, whoever has it open now. What can't be read is a proper end, and so is a file that was moved away.
    pub fn of(dir: &Path) -> Self {
        if !dir.join(DATA).exists() {
            return Self::Properly;
        }
        Self::parse(&fs::read_to_string(dir.join(LOCK)).unwrap_or_default())
    }

    /// Writes down what [`look_through`](crate::look_through) found of the file in a folder, while nobody has it open: a sound one was left properly,
    /// and a damaged one will not be opened.
    ///
    /// # Errors
    /// When somebody has it open, or it can't be written.
    pub fn looked_through(dir: &Path, is_sound: bool) -> Result<(), CacheError> {
        let text = if is_sound { CLOSED } else { DAMAGED };
        Marker::lock(dir)?.write(text).map_err(|source| CacheError::Folder { path: dir.to_owned(), source })
    }

    fn parse(text: &str) -> Self {
        match text.trim_ascii().split_once(' ') {
            None if text.trim_ascii() == DAMAGED => Self::Damaged,
            Some((OPEN, before)) => Self::Badly(before.parse::<u32>().unwrap_or(0).saturating_add(1)),
            _ => Self::Properly,
        }
    }
}

/// The lock on a folder, and what stands in its file. Where that can't be written, a fault is not noticed at the next start, and nothing else.
#[derive(Debug)]
pub(crate) struct Marker(File);

impl Marker {
    /// Makes the folder's file where there is none.
    pub(crate) fn lock(dir: &Path) -> Result<Self, CacheError> {
        let folder = |source| CacheError::Folder { path: dir.to_owned(), source };
        let file = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK));
        let file = file.map_err(folder)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(CacheError::InUse { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(folder(source)),
        }
    }

    /// It is opened, after this end.
    pub(crate) fn opened(&self, before: Ending) {
        let badly = if let Ending::Badly(times) = before { times } else { 0 };
        self.try_to_write(&format!("{OPEN} {badly}"));
    }

    /// It was found damaged while it is open.
    pub(crate) fn damaged(&self) {
        self.try_to_write(DAMAGED);
    }

    pub(crate) fn closed(&self) {
        self.try_to_write(CLOSED);
    }

    fn try_to_write(&self, text: &str) {
        if let Err(error) = self.write(text) {
            tracing::debug!(%error, text, "how the cache is left can't be written down");
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let line = format!("{text}\n");
        self.0.write_all_at(line.as_bytes(), 0)?;
        self.0.set_len(line.len() as u64)?;
        // A power cut is one of the ends that it is for.
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_anything_else_is_a_proper_end() {
        for (text, ending) in [
            ("", Ending::Properly),
            ("\n", Ending::Properly),
            ("open 0\n", Ending::Badly(1)),
            ("open 4\n", Ending::Badly(5)),
            ("open x\n", Ending::Badly(1)),
            ("open 4294967295\n", Ending::Badly(u32::MAX)),
            ("damaged\n", Ending::Damaged),
            ("damaged by\n", Ending::Properly),
            ("\u{0}\u{0}", Ending::Properly),
        ] {
            assert_eq!(Ending::parse(text), ending, "{text:?}");
        }
    }
}
