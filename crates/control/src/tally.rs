//! The decision log in a few numbers, for those to whom the node's own counters would tell of others.

use std::sync::{Arc, PoisonError};

use callahead_cache::Timestamp;
use rusqlite::Connection;

use crate::control::ControlError;
use crate::log::{DecisionLog, ID_SHIFT};

/// What became of some domains' recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Decisions that were looked at.
    pub decisions: u64,
    /// Of them, answered from the cache.
    pub cached: u64,
    /// Of them, answered by a callout.
    pub asked: u64,
    /// Of them, for recipients that do not exist.
    pub invalid: u64,
    /// There are more than were looked at; these are each domain's latest.
    pub is_cut: bool,
}

impl DecisionLog {
    /// Counts the decisions of these domains (lower-case A-labels) since then, by the log's index; `most` rows are looked at in all.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn tally(&self, domains: Vec<String>, since: Timestamp, most: usize) -> Result<Tally, ControlError> {
        let inner = Arc::clone(&self.inner);
        let read = move || {
            let free = inner.readers.iter().find_map(|reader| reader.try_lock().ok());
            let reader = match free {
                Some(reader) => reader,
                None => inner.readers[0].lock().unwrap_or_else(PoisonError::into_inner),
            };
            count(&reader, &domains, since, most)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(tally) => tally.map_err(|error| ControlError::Read(error.to_string())),
            Err(error) => Err(ControlError::Read(error.to_string())),
        }
    }
}

fn count(connection: &Connection, domains: &[String], since: Timestamp, most: usize) -> rusqlite::Result<Tally> {
    let from = i64::try_from(since.0).unwrap_or(i64::MAX >> ID_SHIFT).min(i64::MAX >> ID_SHIFT) << ID_SHIFT;
    let mut statement = connection.prepare_cached(
        "SELECT verdict, source, count(*) FROM (SELECT verdict, json_extract(decision, '$.source') AS source FROM decisions \
         WHERE domain = ?1 AND id >= ?2 ORDER BY id DESC LIMIT ?3) GROUP BY verdict, source",
    )?;
    let (mut tally, mut left) = (Tally::default(), most);
    for (at, domain) in domains.iter().enumerate() {
        // What a small domain leaves of its share the others have.
        let share = left / (domains.len() - at);
        let mut rows = statement.query((domain, from, i64::try_from(share).unwrap_or(i64::MAX)))?;
        let mut found = 0;
        while let Some(row) = rows.next()? {
            let (verdict, source): (Option<String>, Option<String>) = (row.get(0)?, row.get(1)?);
            let times = u64::try_from(row.get::<_, i64>(2)?).unwrap_or_default();
            found += times;
            tally.invalid += if verdict.as_deref() == Some("invalid") { times } else { 0 };
            match source.as_deref() {
                Some("cache") => tally.cached += times,
                Some("callout") => tally.asked += times,
                _ => {}
            }
        }
        tally.decisions += found;
        let found = usize::try_from(found).unwrap_or(usize::MAX);
        tally.is_cut |= found == share;
        left = left.saturating_sub(found);
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    /// Of `small` three decisions and of `large` a hundred, one an hour, the latest at hour 100.
    fn log() -> Connection {
        let log = Connection::open_in_memory().unwrap_or_else(|error| panic!("{error}"));
        let made = log
            .execute_batch("CREATE TABLE decisions (id INTEGER PRIMARY KEY, domain TEXT, verdict TEXT, decision TEXT)");
        made.unwrap_or_else(|error| panic!("{error}"));
        let put = |hour: u64, domain: &str, verdict: Option<&str>, source: &str, n: i64| {
            let id = (i64::try_from(hour * HOUR).unwrap_or_default() << ID_SHIFT) + n;
            let decision = format!("{{\"source\":\"{source}\"}}");
            log.execute("INSERT INTO decisions VALUES (?1, ?2, ?3, ?4)", (id, domain, verdict, decision))
                .unwrap_or_else(|error| panic!("{error}"));
        };
        for hour in 1..=100 {
            let (verdict, source) = if hour % 2 == 0 { ("valid", "cache") } else { ("invalid", "callout") };
            put(hour, "large.example", Some(verdict), source, 0);
        }
        put(98, "small.example", Some("invalid"), "list", 1);
        put(99, "small.example", None, "policy", 1);
        put(99, "small.example", Some("unknown"), "callout", 2);
        put(100, "other.example", Some("invalid"), "cache", 1);
        log
    }

    fn tallied(domains: &[&str], since: u64, most: usize) -> Tally {
        let domains: Vec<String> = domains.iter().map(|domain| (*domain).to_owned()).collect();
        count(&log(), &domains, Timestamp(since * HOUR), most).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn decisions_of_these_domains_since_then_are_counted_and_no_others() {
        let all = Tally { decisions: 103, cached: 50, asked: 51, invalid: 51, is_cut: false };
        assert_eq!(tallied(&["large.example", "small.example"], 0, 1_000), all);
        let lately = Tally { decisions: 4, cached: 1, asked: 2, invalid: 1, is_cut: false };
        assert_eq!(tallied(&["large.example", "small.example"], 99, 1_000), lately);
        assert_eq!(tallied(&["nothing.example"], 0, 1_000), Tally::default());
        assert_eq!(tallied(&[], 0, 1_000), Tally::default());
    }

    #[test]
    fn where_there_are_more_the_latest_are_counted_and_a_small_domain_leaves_its_share_to_the_others() {
        let cut = tallied(&["small.example", "large.example"], 0, 20);
        assert_eq!((cut.decisions, cut.is_cut), (20, true));
        assert_eq!(
            (cut.cached, cut.asked),
            (9, 9),
            "17 of the large one, from the latest on, and one of the small one"
        );
        assert_eq!(
            tallied(&["small.example"], 0, 3),
            Tally { decisions: 3, asked: 1, invalid: 1, cached: 0, is_cut: true }
        );
    }
}
