//! The decision log in a few numbers, for those to whom the node's own counters would tell of others.

use std::collections::HashMap;

use callahead_cache::Timestamp;
use rusqlite::Connection;

use crate::blocks::{self, Kind, text};
use crate::control::ControlError;
use crate::log::{DecisionLog, first_id};

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
    /// There may be more than were looked at; these are the latest.
    pub is_cut: bool,
}

impl DecisionLog {
    /// Counts the decisions of these domains (lower-case A-labels), of each since then, by the log's blocks; the latest `most` rows are looked at,
    /// whose-ever they are, and up to 2,000 more.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn tally(&self, domains: Vec<(String, Timestamp)>, most: usize) -> Result<Tally, ControlError> {
        self.read(move |connection| count(connection, domains, most)).await
    }
}

fn count(connection: &Connection, domains: Vec<(String, Timestamp)>, most: usize) -> rusqlite::Result<Tally> {
    // One state of the file: a block that is full in between would have its rows counted twice.
    let snapshot = connection.unchecked_transaction()?;
    // Blocks may still name rows that the log's size has removed.
    let oldest: i64 = snapshot.query_row("SELECT coalesce(min(id), 0) FROM decisions", [], |row| row.get(0))?;
    let domains: HashMap<String, i64> =
        domains.into_iter().map(|(name, since)| (name, first_id(since).max(oldest))).collect();
    let mut tally = Tally::default();
    let (behind, is_cut) = blocks::kinds(&snapshot, &domains, most, |kind| tally.add(kind))?;
    tally.is_cut = is_cut;
    let mut statement = snapshot.prepare_cached(
        "SELECT domain, verdict, json_extract(decision, '$.source'), id FROM decisions WHERE id >= ?1",
    )?;
    let mut rows = statement.query([behind])?;
    while let Some(row) = rows.next()? {
        let from = text(row, 0)?.and_then(|domain| domains.get(domain));
        if from.is_some_and(|from| row.get::<_, i64>(3).is_ok_and(|id| id >= *from)) {
            tally.add(Kind::new(text(row, 1)?, text(row, 2)?.unwrap_or_default()));
        }
    }
    Ok(tally)
}

impl Tally {
    fn add(&mut self, kind: Kind) {
        self.decisions += 1;
        self.cached += u64::from(kind.is_from("cache"));
        self.asked += u64::from(kind.is_from("callout"));
        self.invalid += u64::from(kind.is_invalid());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{Filling, Logged, TABLE};

    const HOUR: u64 = 3_600_000;

    /// So many hours with a decision of `large` in each, every second of a mailbox that does not exist, and in the last three some of others.
    fn log(hours: u64) -> Connection {
        let mut log = Connection::open_in_memory().unwrap_or_else(|error| panic!("{error}"));
        let table = "CREATE TABLE decisions (id INTEGER PRIMARY KEY, recipient TEXT, domain TEXT, client TEXT, sender TEXT, verdict TEXT, decision TEXT);";
        log.execute_batch(&format!("{table}{TABLE}")).unwrap_or_else(|error| panic!("{error}"));
        let mut filling = Filling::resume(&mut log).unwrap_or_else(|error| panic!("{error}"));
        let mut put = |hour: u64, domain: &str, verdict: Option<&str>, source: &str, n: i64| {
            let id = first_id(Timestamp(hour * HOUR)) + n;
            let decision = format!("{{\"source\":\"{source}\"}}");
            let insert = "INSERT INTO decisions (id, recipient, domain, verdict, decision) VALUES (?1, '', ?2, ?3, ?4)";
            log.execute(insert, (id, domain, verdict, decision)).unwrap_or_else(|error| panic!("{error}"));
            let row = Logged { id, recipient: "", domain, client: None, sender: None, verdict, source };
            filling.add(&log, &row).unwrap_or_else(|error| panic!("{error}"));
        };
        for hour in 1..=hours {
            let (verdict, source) = if hour % 2 == 0 { ("valid", "cache") } else { ("invalid", "callout") };
            put(hour, "large.example", Some(verdict), source, 0);
            if hour == hours - 2 {
                put(hour, "small.example", Some("invalid"), "list", 1);
            }
            if hour == hours - 1 {
                put(hour, "small.example", None, "policy", 1);
                put(hour, "small.example", Some("unknown"), "callout", 2);
            }
        }
        put(hours, "other.example", Some("invalid"), "cache", 1);
        log
    }

    fn tallied(log: &Connection, domains: &[&str], since: u64, most: usize) -> Tally {
        let domains = domains.iter().map(|domain| ((*domain).to_owned(), Timestamp(since * HOUR))).collect();
        count(log, domains, most).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn decisions_of_these_domains_since_then_are_counted_and_no_others() {
        // In no block yet; in a block that is just full; in three and some more.
        for hours in [100, 996, 3_500] {
            let log = log(hours);
            let half = hours / 2;
            let all = Tally { decisions: hours + 3, cached: half, asked: half + 1, invalid: half + 1, is_cut: false };
            assert_eq!(tallied(&log, &["large.example", "small.example"], 0, 100_000), all);
            let lately = Tally { decisions: 4, cached: 1, asked: 2, invalid: 1, is_cut: false };
            assert_eq!(tallied(&log, &["large.example", "small.example"], hours - 1, 100_000), lately);
            assert_eq!(tallied(&log, &["large.example"], 21, 100_000).decisions, hours - 20, "from within a block");
            assert_eq!(tallied(&log, &["nothing.example"], 0, 100_000), Tally::default());
            assert_eq!(tallied(&log, &[], 0, 100_000), Tally::default());
        }
    }

    #[test]
    fn of_each_domain_only_what_came_since_its_own_time_is_counted() {
        for hours in [100, 996, 3_500] {
            let log = log(hours);
            let since = |hour: u64| Timestamp(hour * HOUR);
            let domains =
                |large, small| vec![("large.example".into(), since(large)), ("small.example".into(), since(small))];
            let decisions = |large, small| {
                count(&log, domains(large, small), 100_000).unwrap_or_else(|error| panic!("{error}")).decisions
            };
            assert_eq!(decisions(21, hours), hours - 20, "of the other one nothing");
            assert_eq!(decisions(21, hours - 1), hours - 20 + 2);
            assert_eq!(decisions(hours, 0), 1 + 3);
        }
    }

    #[test]
    fn what_was_removed_is_not_counted_though_its_block_names_it() {
        let log = log(3_500);
        let oldest = first_id(Timestamp(501 * HOUR));
        log.execute("DELETE FROM decisions WHERE id < ?1", [oldest]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(tallied(&log, &["large.example"], 0, 100_000).decisions, 3_000);
    }

    #[test]
    fn where_there_are_more_the_latest_are_counted() {
        let log = log(3_500);
        // Three blocks, and 504 rows behind them: those, and two blocks.
        let cut = tallied(&log, &["large.example"], 0, 1_500);
        assert_eq!((cut.decisions, cut.is_cut), (2_500, true));
        let whole = tallied(&log, &["large.example"], 0, 3_000);
        assert_eq!((whole.decisions, whole.is_cut), (3_500, false));
    }
}
