//! Searching the decision log, newest first, page by page.
//!
//! What an index can find (a whole domain, recipient or client, a span of time) is left to SQLite; everything else is looked at row by
//! row, and only so many rows for one page. So a search for something rare is a chain of short pages, some of them empty, and never
//! one long wait.

use std::net::IpAddr;
use std::sync::Arc;

use callahead_cache::Timestamp;
use rusqlite::{Connection, ToSql};

use crate::control::ControlError;
use crate::log::{DecisionLog, ID_SHIFT};

/// Rows that are looked at for one page.
const EXAMINED: usize = 50_000;

/// What is looked for; what is absent is anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// The recipient's domain, in lower-case A-labels.
    pub domain: Option<String>,
    /// The recipient: a whole address where it has an `@` inside, else a part of it in any case.
    pub recipient: Option<String>,
    /// A part of the sender, in any case.
    pub sender: Option<String>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The verdict's name; `none` for what was no address.
    pub verdict: Option<String>,
    /// Decided at this time or later.
    pub since: Option<Timestamp>,
    /// Decided before this time.
    pub until: Option<Timestamp>,
}

/// One decision as it was logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// Its place in the log.
    pub id: i64,
    /// When it was decided.
    pub at: Timestamp,
    /// Where the question came in.
    pub listener: String,
    /// Who wanted to send.
    pub client: Option<String>,
    /// From whom.
    pub sender: Option<String>,
    /// The recipient.
    pub recipient: String,
    /// The decision's JSON, without transcript.
    pub decision: String,
}

/// Some rows, newest first, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// The rows.
    pub rows: Vec<LogRow>,
    /// Set while there may be more: what was logged before this one.
    pub next: Option<i64>,
}

impl DecisionLog {
    /// One page of what fits and may be seen, before `cursor`. `is_seen` is asked with the recipient's domain.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn search(
        &self,
        filter: LogFilter,
        is_seen: impl Fn(&str) -> bool + Send + 'static,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<LogPage, ControlError> {
        let inner = Arc::clone(&self.inner);
        let read = move || inner.readers.read(|connection| page(connection, &filter, is_seen, cursor, limit));
        match tokio::task::spawn_blocking(read).await {
            Ok(page) => page.map_err(|error| ControlError::ReadLog(error.to_string())),
            Err(error) => Err(ControlError::ReadLog(error.to_string())),
        }
    }
}

fn page(
    connection: &Connection,
    filter: &LogFilter,
    is_seen: impl Fn(&str) -> bool,
    cursor: Option<i64>,
    limit: usize,
) -> rusqlite::Result<LogPage> {
    let at =
        |time: Timestamp| i64::try_from(time.0).unwrap_or(i64::MAX >> ID_SHIFT).min(i64::MAX >> ID_SHIFT) << ID_SHIFT;
    let before = cursor.unwrap_or(i64::MAX).min(filter.until.map_or(i64::MAX, at));
    let from = filter.since.map_or(0, at);
    let whole =
        filter.recipient.as_deref().filter(|text| text.find('@').is_some_and(|at| at > 0 && at + 1 < text.len()));
    let client = filter.client.map(|client| client.to_canonical().to_string());
    let mut sql = String::from(
        "SELECT id, at, listener, client, sender, recipient, domain, verdict, decision FROM decisions \
         WHERE id < ?1 AND id >= ?2",
    );
    let mut values: Vec<&dyn ToSql> = vec![&before, &from];
    // One of them by its index, the most telling first; "+" keeps the others from being chosen for it.
    for (column, value) in [("recipient", whole), ("domain", filter.domain.as_deref()), ("client", client.as_deref())] {
        if value.is_some() {
            let plus = if values.len() > 2 { "+" } else { "" };
            sql.push_str(&format!(" AND {plus}{column} = ?{}", values.len() + 1));
            values.push(match column {
                "recipient" => &filter.recipient,
                "domain" => &filter.domain,
                _ => &client,
            });
        }
    }
    sql.push_str(" ORDER BY id DESC");
    let part = filter.recipient.as_deref().filter(|_| whole.is_none()).map(str::to_lowercase);
    let sender = filter.sender.as_deref().map(str::to_lowercase);

    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(values.as_slice())?;
    let mut page = LogPage::default();
    let mut examined = 0;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let text =
            |column: usize| row.get_ref(column).map(|value| value.as_str_or_null().ok().flatten().unwrap_or_default());
        let contains = |column: usize, part: &Option<String>| -> rusqlite::Result<bool> {
            Ok(match part {
                Some(part) => text(column)?.to_lowercase().contains(part.as_str()),
                None => true,
            })
        };
        let fits = contains(5, &part)?
            && contains(4, &sender)?
            && filter.verdict.as_deref().is_none_or(|verdict| {
                text(7).is_ok_and(|found| found == verdict || (found.is_empty() && verdict == "none"))
            })
            && is_seen(text(6)?);
        if fits {
            page.rows.push(LogRow {
                id,
                at: Timestamp(u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default()),
                listener: row.get(2)?,
                client: row.get(3)?,
                sender: row.get(4)?,
                recipient: row.get(5)?,
                decision: row.get(8)?,
            });
        }
        examined += 1;
        if page.rows.len() == limit || examined == EXAMINED {
            page.next = Some(id);
            break;
        }
    }
    Ok(page)
}
