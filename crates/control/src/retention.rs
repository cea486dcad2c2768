//! How the decision log is kept within its days and its size: a little after every batch, so that nothing waits long for it.

use std::time::Duration;

use callahead_cache::Timestamp;
use callahead_engine::Directory;
use rusqlite::{Connection, OptionalExtension as _};

use crate::blocks;
use crate::log::{ID_SHIFT, LogSettings, policy_of};

/// Rows that are removed at a time, at least.
const CHUNK: usize = 2_000;
/// How often it is looked for what is too old.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pages that are given back to the system at a time.
const GIVE_BACK: u32 = 2_000;

/// Domains in the log that are looked at at a time, for whether they want their rows kept for fewer days.
const DOMAINS: usize = 500;

/// Where the work stands.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    looked_at: Option<Timestamp>,
    /// The domain up to which a round through all that are in the log has come; `None` between two rounds.
    domain: Option<String>,
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
        settings: &LogSettings,
        domains: &Directory,
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
                self.domain.get_or_insert_default();
            }
        }
        step.removed += self.domains(connection, settings, domains, now, chunk)?;
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

    /// Goes on with the round through the log's domains, up to so many rows that are removed: those that a domain's own policy wants
    /// gone sooner. The index on domains leads from one to the next, so that wildcards and domains that came later are met too.
    fn domains(
        &mut self,
        connection: &Connection,
        settings: &LogSettings,
        domains: &Directory,
        now: Timestamp,
        mut left: usize,
    ) -> rusqlite::Result<u64> {
        let Some(mut domain) = self.domain.take() else { return Ok(0) };
        if domains.iter().all(|config| config.policy.log_days >= settings.days) {
            return Ok(0);
        }
        let mut removed = 0;
        let mut next =
            connection.prepare_cached("SELECT domain FROM decisions WHERE domain > ?1 ORDER BY domain LIMIT 1")?;
        let mut remove = connection.prepare_cached(
            "DELETE FROM decisions WHERE id IN (SELECT id FROM decisions WHERE domain = ?1 AND id < ?2 ORDER BY id LIMIT ?3)",
        )?;
        for _ in 0..DOMAINS {
            let Some(name) = next.query_row([&domain], |row| row.get::<_, String>(0)).optional()? else {
                return Ok(removed);
            };
            let (days, _) = settings.of(policy_of(domains, &name));
            if days < settings.days {
                let these = remove.execute((&name, oldest(now, days), i64::try_from(left).unwrap_or(i64::MAX)))?;
                removed += these as u64;
                left -= these;
                if left == 0 {
                    break;
                }
            }
            domain = name;
        }
        self.domain = Some(domain);
        self.more = true;
        Ok(removed)
    }
}

/// The id from which rows are kept.
fn oldest(now: Timestamp, days: u32) -> i64 {
    let age = Duration::from_secs(u64::from(days) * 86_400);
    let oldest = now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    i64::try_from(oldest).unwrap_or(i64::MAX >> ID_SHIFT) << ID_SHIFT
}

/// Bytes of pages that hold something.
fn used(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (pages, free, size) = (pragma("page_count")?, pragma("freelist_count")?, pragma("page_size")?);
    Ok(u64::try_from((pages - free) * size).unwrap_or_default())
}
