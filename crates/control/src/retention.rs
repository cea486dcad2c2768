//! How the decision log is kept within its days and its size: a little after every batch, so that nothing waits long for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use callahead_cache::Timestamp;
use callahead_engine::Directory;
use rusqlite::Connection;

use crate::blocks::{self, Filling};
use crate::log::{LogSettings, first_id, policy_of};

/// Rows that are removed at a time, at least.
const CHUNK: usize = 2_000;
/// How often it is looked for what is too old.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pages that are given back to the system at a time.
const GIVE_BACK: u32 = 2_000;

/// Where the work stands.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    looked_at: Option<Timestamp>,
    /// It is to be looked for rows that their domains want gone.
    domains_due: bool,
    /// The policies under which that was looked for last, with the days that hold for all.
    under: Option<(Arc<Directory>, u32)>,
    /// By the days of a policy: the id below which there are no rows any more of domains that have it.
    done: BTreeMap<u32, i64>,
    /// The last step left something over.
    more: bool,
    used_bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) removed: u64,
    pub(crate) used_bytes: u64,
}

impl Retention {
    /// Removes some of what is too old or too much; `rows` were just written.
    pub(crate) fn step(
        &mut self,
        connection: &Connection,
        filling: &mut Filling,
        settings: &LogSettings,
        domains: &Arc<Directory>,
        now: Timestamp,
        rows: usize,
    ) -> rusqlite::Result<Step> {
        let mut step = Step { removed: 0, used_bytes: self.used_bytes };
        let due = self.looked_at.is_none_or(|at| now.since(at) >= LOOK_EVERY);
        if !(due || self.more || rows > 0) {
            return Ok(step);
        }
        // Faster than rows come in.
        let chunk = (2 * rows).max(CHUNK);
        self.more = false;
        if due {
            let removed = connection
                .prepare_cached(
                    "DELETE FROM decisions WHERE id IN (SELECT id FROM decisions WHERE id < ?1 ORDER BY id LIMIT ?2)",
                )?
                .execute((oldest(now, settings.days), i64::try_from(chunk).unwrap_or(i64::MAX)))?;
            step.removed += removed as u64;
            if removed == chunk {
                self.more = true;
            } else {
                self.looked_at = Some(now);
                self.domains_due = true;
            }
        }
        if self.domains_due {
            step.removed += self.domains(connection, filling, settings, domains, now, chunk)?;
        }
        step.used_bytes = used(connection)?;
        if step.used_bytes > settings.size {
            let removed = connection
                .prepare_cached("DELETE FROM decisions WHERE id IN (SELECT id FROM decisions ORDER BY id LIMIT ?1)")?
                .execute([i64::try_from(chunk).unwrap_or(i64::MAX)])?;
            step.removed += removed as u64;
            step.used_bytes = used(connection)?;
            self.more |= removed > 0 && step.used_bytes > settings.size;
        }
        if step.removed > 0 {
            blocks::remove_old(connection)?;
            connection.execute_batch(&format!("PRAGMA incremental_vacuum({GIVE_BACK})"))?;
        }
        self.used_bytes = step.used_bytes;
        Ok(step)
    }

    /// Removes what domains' own policies want gone sooner, up to so many rows and what is left of their block. Each of their numbers of days has a mark that goes
    /// through the log behind the time; with other policies all marks begin anew, so that wildcards and domains that came later are met too.
    fn domains(
        &mut self,
        connection: &Connection,
        filling: &mut Filling,
        settings: &LogSettings,
        domains: &Arc<Directory>,
        now: Timestamp,
        mut left: usize,
    ) -> rusqlite::Result<u64> {
        let is_same = |(under, days): &(Arc<Directory>, u32)| Arc::ptr_eq(under, domains) && *days == settings.days;
        if !self.under.as_ref().is_some_and(is_same) {
            self.done.clear();
            self.under = Some((Arc::clone(domains), settings.days));
        }
        let fewer: BTreeSet<u32> =
            domains.iter().map(|domain| domain.policy.log_days).filter(|days| *days < settings.days).collect();
        let mut removed = 0;
        for days in fewer {
            let (from, to) = (self.done.get(&days).copied().unwrap_or_default(), oldest(now, days));
            if from >= to {
                continue;
            }
            let wants = |name: &str| settings.of(policy_of(domains, name)).0 == days;
            let (blocks, reached) = blocks::doomed(connection, (from, to), left, wants)?;
            // What is in no block is younger than what is in one.
            let unblocked = if reached == to { filling.rows_of((from, to), wants) } else { Vec::new() };
            let transaction = connection.unchecked_transaction()?;
            let mut remove = transaction.prepare_cached("DELETE FROM decisions WHERE id = ?1")?;
            let mut these = 0;
            for id in blocks.iter().flat_map(|block| &block.ids).chain(&unblocked) {
                these += remove.execute([id])?;
            }
            for block in &blocks {
                block.note(&transaction)?;
            }
            drop(remove);
            transaction.commit()?;
            filling.forget(&unblocked);
            self.done.insert(days, reached);
            removed += these as u64;
            left = left.saturating_sub(these);
            if reached < to || left == 0 {
                self.more = true;
                return Ok(removed);
            }
        }
        self.domains_due = false;
        Ok(removed)
    }
}

/// The id from which rows are kept.
fn oldest(now: Timestamp, days: u32) -> i64 {
    let age = Duration::from_secs(u64::from(days) * 86_400);
    first_id(Timestamp(now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))))
}

/// Bytes of pages that hold something.
fn used(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (pages, free, size) = (pragma("page_count")?, pragma("freelist_count")?, pragma("page_size")?);
    Ok(u64::try_from((pages - free) * size).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use callahead_callout::{Hop, Route, TlsPolicy};
    use callahead_engine::{DomainConfig, Policy};

    use super::*;
    use crate::blocks::Logged;
    use crate::log_file;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    /// Rows of ten days ago.
    fn write(connection: &mut Connection, filling: &mut Filling, rows: i64) {
        let transaction = connection.transaction().unwrap();
        for n in 0..rows {
            let (id, domain) = (oldest(NOW, 10) + n, "short.example");
            let insert =
                "INSERT INTO decisions (id, at, listener, recipient, domain, decision) VALUES (?1, 0, '', ?2, ?2, '')";
            transaction.execute(insert, (id, domain)).unwrap();
            let row =
                Logged { id, recipient: domain, domain, client: None, sender: None, verdict: None, source: "cache" };
            filling.add(&transaction, &row).unwrap();
        }
        transaction.commit().unwrap();
    }

    #[test]
    fn a_step_that_meets_very_many_rows_of_one_policy_leaves_some_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = log_file::open(&folder.path().join("log.db")).unwrap();
        let rows = 10_500;
        write(&mut file.connection, &mut file.filling, rows);
        let policy = Policy { log_days: 7, ..Policy::default() };
        let route = Route { hops: vec![Hop::Mx], tls: TlsPolicy::Off };
        let domain = DomainConfig { policy, ..DomainConfig::new("short.example", route) };
        let domains = Arc::new(Directory::new([domain]).unwrap());
        let settings = LogSettings { days: 30, ..LogSettings::default() };
        let mut retention = Retention::default();
        let mut removed = Vec::new();
        while removed.last() != Some(&0) {
            let step = retention.step(&file.connection, &mut file.filling, &settings, &domains, NOW, 0).unwrap();
            removed.push(step.removed);
        }
        // A step is over with the block in which it has enough; the last one takes with it what is in no block yet.
        assert_eq!(removed, [2_000, 2_000, 2_000, 2_000, 2_500, 0]);
    }
}
