//! Searching the decision log, newest first, page by page.
//!
//! Blocks ([`crate::blocks`]) tell in which rows a domain, a whole recipient, a client or a verdict may be, and where a part of an address can't
//! be. What is left is looked at row by row, and only so many rows, and only so long, for one page. So a search for something rare comes to
//! it at once, one for what is common is a page of it, and one for what the blocks can't tell is a chain of short pages, some of them
//! empty: never one long wait.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use callahead_cache::Timestamp;
use rusqlite::{Connection, Row, Statement, ToSql};

use crate::blocks::{self, NO_VERDICT, Of, Wanted};
use crate::control::ControlError;
use crate::log::{DecisionLog, first_id};

/// Rows that are looked at for one page.
const EXAMINED: usize = 50_000;
/// How long is looked for one page, about: a page is done with at the next row that is looked at then.
pub(crate) const LONG: Duration = Duration::from_millis(80);
/// Rows between two looks at the time.
const LOOK_EVERY: usize = 64;

/// What is looked for; what is absent is anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// The recipient's domain, in lower-case A-labels.
    pub domain: Option<String>,
    /// All domains that there can be rows of, in lower-case A-labels: those of whoever searches, where they are few; `None` where that is not known.
    /// It only makes the search faster.
    pub domains: Option<Vec<String>>,
    /// The recipient, whole and as the log has it.
    pub recipient: Option<String>,
    /// A part of the recipient, in any case.
    pub part: Option<String>,
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
    /// One page of what fits and may be seen, before `cursor`. `is_seen` is asked with the recipient's domain and when it was
    /// decided.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn search(
        &self,
        filter: LogFilter,
        is_seen: impl Fn(&str, Timestamp) -> bool + Send + 'static,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<LogPage, ControlError> {
        self.read(move |connection| page(connection, &filter, is_seen, cursor, limit)).await
    }
}

/// What of a row is looked at behind that.
struct Rest<'a, F> {
    part: Option<String>,
    sender: Option<String>,
    verdict: Option<&'a str>,
    is_seen: F,
}

/// A page that is being made, and how much work it may still be.
struct Making {
    page: LogPage,
    limit: usize,
    examined: usize,
    began: Instant,
}

fn page(
    connection: &Connection,
    filter: &LogFilter,
    is_seen: impl Fn(&str, Timestamp) -> bool,
    cursor: Option<i64>,
    limit: usize,
) -> rusqlite::Result<LogPage> {
    let mut before = cursor.unwrap_or(i64::MAX).min(filter.until.map_or(i64::MAX, first_id));
    let from = filter.since.map_or(0, first_id);
    let lookup = Lookup::new(filter);
    let rest = Rest {
        part: filter.part.as_deref().map(str::to_lowercase),
        sender: filter.sender.as_deref().map(str::to_lowercase),
        verdict: filter.verdict.as_deref(),
        is_seen,
    };
    let mut making = Making { page: LogPage::default(), limit, examined: 0, began: Instant::now() };
    // One state of the file, whatever is written and removed meanwhile.
    let snapshot = connection.unchecked_transaction()?;
    let mut rows = snapshot.prepare_cached(&lookup.sql)?;
    let wanted = lookup.wanted(filter);
    if !wanted.is_anything() {
        let mut reading = wanted.prepare(&snapshot)?;
        let mut blocks = reading.heads.query([before])?;
        while before > from
            && let Some(block) = blocks.next()?
        {
            let block = wanted.block(block, &mut reading.rest)?;
            for stretch in block.stretches(&snapshot, (from, before))? {
                if lookup.scan(&mut rows, stretch, &rest, &mut making)? {
                    return Ok(making.page);
                }
            }
            before = block.first;
            if before > from && making.is_long() {
                making.page.next = Some(before);
                return Ok(making.page);
            }
        }
    }
    lookup.scan(&mut rows, (from, before), &rest, &mut making)?;
    Ok(making.page)
}

/// What SQLite looks at in a row.
struct Lookup {
    sql: String,
    values: Vec<String>,
    recipient: Option<String>,
    client: Option<String>,
}

impl Lookup {
    fn new(filter: &LogFilter) -> Self {
        let recipient = filter.recipient.clone();
        let client = filter.client.map(|client| client.to_canonical().to_string());
        let mut sql = String::from(
            "SELECT id, at, listener, client, sender, recipient, domain, verdict, decision FROM decisions \
             WHERE id < ?1 AND id >= ?2",
        );
        let mut values = Vec::new();
        for (column, value) in [("recipient", &recipient), ("domain", &filter.domain), ("client", &client)] {
            if let Some(value) = value {
                sql.push_str(&format!(" AND {column} = ?{}", values.len() + 3));
                values.push(value.clone());
            }
        }
        sql.push_str(" ORDER BY id DESC");
        Self { sql, values, recipient, client }
    }

    /// By what rows can be passed over.
    fn wanted(&self, filter: &LogFilter) -> Wanted {
        let mut wanted = Wanted::default();
        if let Some(recipient) = &self.recipient {
            wanted.recipients([recipient.as_str()]);
        }
        if let Some(part) = &filter.part {
            wanted.part(Of::Recipient, part);
        }
        if let Some(client) = &self.client {
            wanted.client(client);
        }
        if let Some(part) = &filter.sender {
            wanted.part(Of::Sender, part);
        }
        if let Some(verdict) = &filter.verdict {
            wanted.verdict(verdict);
        }
        let own = self.recipient.as_deref().map(blocks::domain_of);
        match (filter.domain.as_deref().or(own), &filter.domains) {
            (Some(domain), _) => wanted.domains([domain]),
            (None, Some(domains)) => wanted.domains(domains.iter().map(String::as_str)),
            (None, None) => {}
        }
        wanted
    }

    /// Looks at the rows of a stretch. Says whether the page is done with, and then sets where to go on.
    fn scan(
        &self,
        statement: &mut Statement<'_>,
        (from, before): (i64, i64),
        rest: &Rest<'_, impl Fn(&str, Timestamp) -> bool>,
        making: &mut Making,
    ) -> rusqlite::Result<bool> {
        let mut values: Vec<&dyn ToSql> = vec![&before, &from];
        values.extend(self.values.iter().map(|value| value as &dyn ToSql));
        let mut rows = statement.query(values.as_slice())?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            if rest.fits(row)? {
                making.page.rows.push(LogRow {
                    id,
                    at: at(row)?,
                    listener: row.get(2)?,
                    client: row.get(3)?,
                    sender: row.get(4)?,
                    recipient: row.get(5)?,
                    decision: row.get(8)?,
                });
            }
            making.examined += 1;
            if making.page.rows.len() == making.limit
                || (making.examined.is_multiple_of(LOOK_EVERY) && making.is_long())
            {
                making.page.next = Some(id);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// When it was decided.
fn at(row: &Row<'_>) -> rusqlite::Result<Timestamp> {
    Ok(Timestamp(u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default()))
}

impl<F: Fn(&str, Timestamp) -> bool> Rest<'_, F> {
    fn fits(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        let text = |column: usize| blocks::text(row, column).map(Option::unwrap_or_default);
        let contains = |column: usize, part: &Option<String>| -> rusqlite::Result<bool> {
            Ok(match part {
                Some(part) => text(column)?.to_lowercase().contains(part.as_str()),
                None => true,
            })
        };
        let verdict = match text(7)? {
            "" => NO_VERDICT,
            verdict => verdict,
        };
        Ok(contains(5, &self.part)?
            && contains(4, &self.sender)?
            && self.verdict.is_none_or(|wanted| wanted == verdict)
            && (self.is_seen)(text(6)?, at(row)?))
    }
}

impl Making {
    fn is_long(&self) -> bool {
        self.examined >= EXAMINED || self.began.elapsed() >= LONG
    }
}
