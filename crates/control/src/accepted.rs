//! Whether recipients had mail before: for whoever is about to have them refused.

use std::collections::HashSet;
use std::time::Instant;

use callahead_cache::Timestamp;
use callahead_engine::Verdict;
use rusqlite::{Connection, Statement};

use crate::blocks::{Wanted, domain_of, text};
use crate::control::ControlError;
use crate::log::{DecisionLog, first_id};
use crate::search::LONG;

/// Which of some recipients were found to exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Those of which a decision says so.
    pub recipients: HashSet<String>,
    /// The log was not looked through to its end: others may have been, too.
    pub is_cut: bool,
}

impl DecisionLog {
    /// Which of these recipients, written as the log has them, have a decision in it since then by which they exist. All of them are looked for at
    /// once, and for no longer than a page of a search.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn accepted(&self, recipients: Vec<String>, since: Timestamp) -> Result<Accepted, ControlError> {
        self.read(move |connection| accepted(connection, recipients, first_id(since))).await
    }
}

fn accepted(connection: &Connection, recipients: Vec<String>, from: i64) -> rusqlite::Result<Accepted> {
    let began = Instant::now();
    let mut missing: HashSet<String> = recipients.into_iter().collect();
    let mut found = HashSet::new();
    let mut wanted = Wanted::default();
    wanted.verdict(Verdict::Valid.as_str());
    look_for(&missing, &mut wanted);
    // One state of the file, whatever is written and removed meanwhile.
    let snapshot = connection.unchecked_transaction()?;
    let mut rows = snapshot.prepare_cached(
        "SELECT recipient FROM decisions WHERE id < ?1 AND id >= ?2 AND verdict = ?3 ORDER BY id DESC",
    )?;
    let mut reading = wanted.prepare(&snapshot)?;
    let mut blocks = reading.heads.query([i64::MAX])?;
    let mut before = i64::MAX;
    while !missing.is_empty()
        && before > from
        && let Some(block) = blocks.next()?
    {
        let block = wanted.block(block, &mut reading.rest)?;
        let were = missing.len();
        for stretch in block.stretches(&snapshot, (from, before))? {
            take(&mut rows, stretch, &mut missing, &mut found)?;
        }
        if missing.len() < were {
            look_for(&missing, &mut wanted);
        }
        before = block.first;
        if !missing.is_empty() && began.elapsed() >= LONG {
            return Ok(Accepted { recipients: found, is_cut: true });
        }
    }
    if !missing.is_empty() {
        take(&mut rows, (from, before), &mut missing, &mut found)?;
    }
    Ok(Accepted { recipients: found, is_cut: false })
}

fn look_for(missing: &HashSet<String>, wanted: &mut Wanted) {
    wanted.recipients(missing.iter().map(String::as_str));
    wanted.domains(missing.iter().map(|recipient| domain_of(recipient)));
}

/// Takes those that a stretch of the log says exist.
fn take(
    statement: &mut Statement<'_>,
    (from, before): (i64, i64),
    missing: &mut HashSet<String>,
    found: &mut HashSet<String>,
) -> rusqlite::Result<()> {
    let mut rows = statement.query((before, from, Verdict::Valid.as_str()))?;
    while let Some(row) = rows.next()? {
        found.extend(missing.take(text(row, 0)?.unwrap_or_default()));
    }
    Ok(())
}
