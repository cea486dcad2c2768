//! What lies in which stretch of the decision log, so that a search comes to what it looks for and passes over the rest.
//!
//! Of every [`ROWS`] rows in the order of their ids one *block* is kept beside them, written once when they are full: of each row its id, its domain,
//! its verdict and source, and checksums of its recipient and its client; of all together a Bloom filter with one hash over the three-octet parts
//! of recipients and senders. Some 30 octets a row, one after another, where an index in a tree is written all over: a row that went into three of them
//! took seven times as long to write in a log of a million rows. Blocks follow each other without a gap; the rows behind the last one, fewer than
//! [`ROWS`], are looked at one by one.
//!
//! Searches go by checksums, and see in the row what it is; what counts or removes rows goes by the domains' names.

use std::collections::{HashMap, HashSet};

use rusqlite::{CachedStatement, Connection, Row, Statement};

/// Rows in a block.
const ROWS: usize = 1_000;
/// Octets of a block's filter: of its 65,536 bits, rows of mail set a tenth to a third.
const OCTETS: usize = 8_192;
/// Where more than one in so many rows of a block fits, all of them are looked at.
const DENSE: usize = 4;
/// Blocks that are looked at at a time for rows to be removed.
const AT_A_TIME: usize = 100;
/// In place of a row's domain: the row was removed.
const GONE: u16 = u16::MAX;
/// Verdicts and sources by their numbers, and the number of what is none of them.
const VERDICTS: [&str; 5] = [NO_VERDICT, "valid", "invalid", "unknown", "not_ours"];
const SOURCES: [&str; 4] = ["cache", "callout", "list", "policy"];
const OTHER: u8 = 15;

/// The table. `sums` and `names` have each of the block's domains once; a row's number in `domains` is its domain's place there. SQLite reads a row
/// up to the last column that is asked for: the small ones come first. What is here, and the numbers, hashes and sizes above and below, are the
/// file's format: to change one is a migration that empties the table, and it is filled from the rows when the file is opened.
pub(crate) const TABLE: &str = "
CREATE TABLE blocks (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, sums BLOB NOT NULL, domains BLOB NOT NULL, kinds BLOB NOT NULL,
    recipients BLOB NOT NULL, clients BLOB NOT NULL, parts BLOB NOT NULL, ids BLOB NOT NULL, names TEXT NOT NULL
);
";

/// The verdict's name where there is none, in searches.
pub(crate) const NO_VERDICT: &str = "none";

/// What a part is of.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    Recipient = 1,
    Sender = 2,
}

/// A bit of the filter.
type Token = u16;

/// What a block tells of a row.
pub(crate) struct Logged<'a> {
    pub(crate) id: i64,
    pub(crate) recipient: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) client: Option<&'a str>,
    pub(crate) sender: Option<&'a str>,
    pub(crate) verdict: Option<&'a str>,
    pub(crate) source: &'a str,
}

/// A row's verdict and source, as numbers: the verdict in the low four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(u8);

/// The block that is being filled: of the rows behind the last one that was written.
#[derive(Clone, Default)]
pub(crate) struct Filling {
    first: i64,
    ids: Vec<i64>,
    /// Each domain's number, in the order in which they came.
    names: HashMap<String, u16>,
    domains: Vec<u16>,
    kinds: Vec<u8>,
    recipients: Vec<u32>,
    clients: Vec<u32>,
    parts: Vec<u8>,
}

/// What is looked for in blocks; what is absent is anything.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// In their order.
    domains: Option<Vec<u32>>,
    /// In their order, too.
    recipients: Option<Vec<u32>>,
    client: Option<u32>,
    verdict: Option<u8>,
    parts: Vec<Token>,
}

/// Reads blocks. Those without any of the wanted domains are known by their heads, so that the rest of them is not read.
pub(crate) struct Reading<'c> {
    pub(crate) heads: CachedStatement<'c>,
    pub(crate) rest: CachedStatement<'c>,
}

/// A part of the log.
pub(crate) struct Block {
    /// The first id that it covers; there may be no row of it.
    pub(crate) first: i64,
    /// Its last row.
    last: i64,
    found: Found,
}

/// Where in a block there may be what is wanted.
enum Found {
    /// Anywhere.
    All,
    /// Nowhere.
    Nothing,
    /// In these rows, by their places in the block.
    Rows(Vec<usize>),
}

/// Rows to be removed of one block, by their places in it.
pub(crate) struct Doomed {
    first: i64,
    /// The block's domains with these rows taken out.
    domains: Vec<u8>,
    pub(crate) ids: Vec<i64>,
}

// === impl Filling ===

impl Filling {
    /// Goes on where a file stands. Rows that no block has yet are put into some, as after an update of the format.
    pub(crate) fn resume(connection: &mut Connection) -> rusqlite::Result<Self> {
        let transaction = connection.transaction()?;
        let covered: i64 = transaction.query_row("SELECT coalesce(max(last), 0) FROM blocks", [], |row| row.get(0))?;
        let mut filling = Self::after(covered);
        let is_new_to_blocks = covered == 0
            && transaction
                .prepare("SELECT 1 FROM decisions LIMIT 1 OFFSET ?1")?
                .exists([i64::try_from(ROWS).unwrap_or(i64::MAX)])?;
        if is_new_to_blocks {
            tracing::info!(
                "the decision log is brought into the format of this version: once, and some 5 s for a million decisions"
            );
        }
        {
            let mut statement = transaction.prepare(
                "SELECT id, recipient, domain, client, sender, verdict, json_extract(decision, '$.source') FROM decisions \
                 WHERE id > ?1 ORDER BY id",
            )?;
            let mut rows = statement.query([covered])?;
            while let Some(row) = rows.next()? {
                let text = |column| text(row, column);
                let logged = Logged {
                    id: row.get(0)?,
                    recipient: text(1)?.unwrap_or_default(),
                    domain: text(2)?.unwrap_or_default(),
                    client: text(3)?,
                    sender: text(4)?,
                    verdict: text(5)?,
                    source: text(6)?.unwrap_or_default(),
                };
                filling.add(&transaction, &logged)?;
            }
        }
        transaction.commit()?;
        Ok(filling)
    }

    fn after(last: i64) -> Self {
        Self { first: last + 1, parts: vec![0; OCTETS], ..Self::default() }
    }

    /// Takes a row that was written; a block that is full is written with it.
    pub(crate) fn add(&mut self, connection: &Connection, row: &Logged<'_>) -> rusqlite::Result<()> {
        self.take(row);
        if self.ids.len() < ROWS {
            return Ok(());
        }
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_unstable_by_key(|(_, number)| **number);
        let names: Vec<_> = names.into_iter().map(|(name, _)| name.as_str()).collect();
        let sums: Vec<_> = names.iter().map(|name| checksum(name)).collect();
        connection
            .prepare_cached(
                "INSERT INTO blocks (first, last, sums, domains, kinds, recipients, clients, parts, ids, names) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute((
                self.first,
                row.id,
                octets(&sums, |sum| sum.to_le_bytes()),
                octets(&self.domains, |domain| domain.to_le_bytes()),
                &self.kinds,
                octets(&self.recipients, |sum| sum.to_le_bytes()),
                octets(&self.clients, |sum| sum.to_le_bytes()),
                &self.parts,
                octets(&self.ids, |id| id.to_le_bytes()),
                names.join("\n"),
            ))?;
        *self = Self::after(row.id);
        Ok(())
    }

    fn take(&mut self, row: &Logged<'_>) {
        // A line each; what is no domain may be anything.
        let name = row.domain.replace('\n', " ");
        // Fewer than `ROWS`.
        let next = u16::try_from(self.names.len()).unwrap_or(GONE);
        self.domains.push(*self.names.entry(name).or_insert(next));
        self.ids.push(row.id);
        self.kinds.push(Kind::new(row.verdict, row.source).0);
        self.recipients.push(checksum(row.recipient));
        self.clients.push(row.client.map_or(0, checksum));
        let senders = row.sender.into_iter().flat_map(|sender| parts(Of::Sender, sender));
        for token in parts(Of::Recipient, row.recipient).chain(senders) {
            if let Some(octet) = self.parts.get_mut(usize::from(token / 8)) {
                *octet |= 1 << (token % 8);
            }
        }
    }

    /// The ids from `from` to below `to` of the domains that are meant.
    pub(crate) fn rows_of(&self, (from, to): (i64, i64), is_meant: impl Fn(&str) -> bool) -> Vec<i64> {
        let meant: HashSet<u16> =
            self.names.iter().filter(|(name, _)| is_meant(name)).map(|(_, number)| *number).collect();
        let rows = self.ids.iter().zip(&self.domains).filter(|(_, domain)| meant.contains(domain));
        rows.map(|(id, _)| *id).filter(|id| (from..to).contains(id)).collect()
    }

    /// Takes out rows that were removed.
    pub(crate) fn forget(&mut self, removed: &[i64]) {
        for id in removed {
            if let Ok(at) = self.ids.binary_search(id)
                && let Some(domain) = self.domains.get_mut(at)
            {
                *domain = GONE;
            }
        }
    }
}

// === impl Kind ===

impl Kind {
    pub(crate) fn new(verdict: Option<&str>, source: &str) -> Self {
        Self(verdict_number(verdict.unwrap_or(NO_VERDICT)) | number(&SOURCES, source) << 4)
    }

    pub(crate) fn is_invalid(self) -> bool {
        self.0 & OTHER == verdict_number("invalid")
    }

    pub(crate) fn is_from(self, source: &str) -> bool {
        self.0 >> 4 == number(&SOURCES, source)
    }
}

fn verdict_number(verdict: &str) -> u8 {
    number(&VERDICTS, verdict)
}

fn number(names: &[&str], name: &str) -> u8 {
    names.iter().position(|one| *one == name).and_then(|at| u8::try_from(at).ok()).unwrap_or(OTHER)
}

// === impl Wanted ===

impl Wanted {
    /// Only rows of one of these domains.
    pub(crate) fn domains<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.domains = Some(checksums(names));
    }

    /// Only rows of one of these recipients.
    pub(crate) fn recipients<'a>(&mut self, recipients: impl IntoIterator<Item = &'a str>) {
        self.recipients = Some(checksums(recipients));
    }

    /// Only rows of this client.
    pub(crate) fn client(&mut self, client: &str) {
        self.client = Some(checksum(client));
    }

    /// Only rows of this verdict.
    pub(crate) fn verdict(&mut self, verdict: &str) {
        self.verdict = Some(verdict_number(verdict));
    }

    /// Only rows that have this text in it, in any case. A text of less than three octets excludes none.
    pub(crate) fn part(&mut self, of: Of, text: &str) {
        self.parts.extend(parts(of, text));
    }

    /// Whether there is nothing by which a row could be passed over.
    pub(crate) fn is_anything(&self) -> bool {
        !self.has_columns() && self.parts.is_empty()
    }

    fn has_columns(&self) -> bool {
        self.domains.is_some() || self.recipients.is_some() || self.client.is_some() || self.verdict.is_some()
    }

    /// The blocks with rows before a given one, newest first, and what of each is needed to see what is wanted: [`block`](Self::block) reads them.
    pub(crate) fn prepare<'c>(&self, connection: &'c Connection) -> rusqlite::Result<Reading<'c>> {
        let is_by_domain = self.domains.is_some();
        let heads = self.columns(is_by_domain, !is_by_domain);
        let rest = self.columns(false, true);
        Ok(Reading {
            heads: connection
                .prepare_cached(&format!("SELECT {heads} FROM blocks WHERE first < ?1 ORDER BY first DESC"))?,
            rest: connection.prepare_cached(&format!("SELECT {rest} FROM blocks WHERE first = ?1"))?,
        })
    }

    /// SQLite reads what it is asked for, whether it is looked at or not.
    fn columns(&self, with_sums: bool, with_rest: bool) -> String {
        let needed = |is_needed: bool, column: &'static str| if is_needed { column } else { "NULL" };
        format!(
            "first, last, {}, {}, {}, {}, {}, {}",
            needed(with_sums, "sums"),
            needed(with_rest && self.has_columns(), "domains"),
            needed(with_rest && self.verdict.is_some(), "kinds"),
            needed(with_rest && self.recipients.is_some(), "recipients"),
            needed(with_rest && self.client.is_some(), "clients"),
            needed(with_rest && !self.parts.is_empty(), "parts"),
        )
    }

    /// What is where in a block, of which this is the head.
    pub(crate) fn block(&self, head: &Row<'_>, rest: &mut Statement<'_>) -> rusqlite::Result<Block> {
        let first: i64 = head.get(0)?;
        let found = match &self.domains {
            None => self.find(head, None)?,
            Some(wanted) => {
                let meant: Vec<bool> = sums(blob(head, 2)?).map(|sum| wanted.binary_search(&sum).is_ok()).collect();
                match meant.contains(&true) {
                    true => rest.query_row([first], |rest| self.find(rest, Some(&meant)))?,
                    false => Found::Nothing,
                }
            }
        };
        Ok(Block { first, last: head.get(1)?, found })
    }

    /// Where in a block, of whose domains these are meant.
    fn find(&self, row: &Row<'_>, meant: Option<&[bool]>) -> rusqlite::Result<Found> {
        let bits = blob(row, 7)?;
        let is_set = |token: &Token| {
            let octet = bits.get(usize::from(token / 8)).copied();
            octet.is_none_or(|octet| octet & (1 << (token % 8)) != 0)
        };
        if !self.parts.iter().all(is_set) {
            return Ok(Found::Nothing);
        }
        if !self.has_columns() {
            return Ok(Found::All);
        }
        let domains = blob(row, 3)?;
        let mut fits = vec![true; domains.len() / size_of::<u16>()];
        if let Some(meant) = meant {
            narrow(&mut fits, are_of(domains, meant), |is_meant| is_meant);
        }
        if let Some(wanted) = self.verdict {
            narrow(&mut fits, blob(row, 4)?, |kind| kind & OTHER == wanted);
        }
        if let Some(wanted) = &self.recipients {
            narrow(&mut fits, sums(blob(row, 5)?), |sum| wanted.binary_search(&sum).is_ok());
        }
        if let Some(wanted) = self.client {
            narrow(&mut fits, sums(blob(row, 6)?), |sum| sum == wanted);
        }
        let count = fits.iter().filter(|fits| **fits).count();
        if count == 0 {
            return Ok(Found::Nothing);
        }
        if count * DENSE > fits.len() {
            return Ok(Found::All);
        }
        Ok(Found::Rows(fits.iter().enumerate().filter(|(_, fits)| **fits).map(|(at, _)| at).collect()))
    }
}

impl Block {
    /// The stretches of ids from `from` to below `before` in which there may be what is wanted: those of the block, and before it what lies behind
    /// the last one, which is in none yet.
    pub(crate) fn stretches(
        &self,
        connection: &Connection,
        (from, before): (i64, i64),
    ) -> rusqlite::Result<Vec<(i64, i64)>> {
        let end = before.min(self.last + 1);
        let mut stretches = vec![(end.max(from), before)];
        match &self.found {
            Found::All => stretches.push((self.first.max(from), end)),
            Found::Nothing => {}
            Found::Rows(places) => {
                let ids = ids(connection, self.first, places)?.into_iter();
                stretches.extend(ids.filter(|id| (from..end).contains(id)).map(|id| (id, id + 1)));
            }
        }
        stretches.retain(|(from, before)| from < before);
        Ok(stretches)
    }
}

/// The ids of the rows at these places of the block that begins so, newest first.
fn ids(connection: &Connection, first: i64, places: &[usize]) -> rusqlite::Result<Vec<i64>> {
    connection.prepare_cached("SELECT ids FROM blocks WHERE first = ?1")?.query_row([first], |row| {
        let ids = blob(row, 0)?.as_chunks().0;
        let ids = places.iter().rev().filter_map(|at| ids.get(*at));
        Ok(ids.map(|octets| i64::from_le_bytes(*octets)).collect())
    })
}

/// Where it still fits, it has to be meant.
fn narrow<T>(fits: &mut [bool], values: impl IntoIterator<Item = T>, is_meant: impl Fn(T) -> bool) {
    for (fits, value) in fits.iter_mut().zip(values) {
        *fits = *fits && is_meant(value);
    }
}

// === what is counted and removed by blocks ===

/// Tells the kind of each row of these domains, of each from its own id on, that is in a block, the latest `most` rows of the log being looked at, or
/// some more. Gives the id behind the last block, and whether there are older ones that were not looked at.
pub(crate) fn kinds(
    connection: &Connection,
    domains: &HashMap<String, i64>,
    most: usize,
    mut tell: impl FnMut(Kind),
) -> rusqlite::Result<(i64, bool)> {
    let mut statement = connection.prepare_cached(
        "SELECT last, names, domains, kinds, CASE WHEN first < ?1 THEN ids END FROM blocks ORDER BY first DESC",
    )?;
    let from = domains.values().copied().min().unwrap_or(i64::MAX);
    let mut rows = statement.query([domains.values().max()])?;
    let (mut behind, mut looked_at, mut is_cut) = (None, 0, false);
    while let Some(row) = rows.next()? {
        let last: i64 = row.get(0)?;
        if last < from {
            break;
        }
        is_cut = looked_at >= most;
        if is_cut {
            break;
        }
        behind.get_or_insert(last + 1);
        let from = meant(row, 1, |name| domains.get(name).copied())?;
        let kinds = blob(row, 3)?;
        looked_at += kinds.len();
        if from.iter().all(Option::is_none) {
            continue;
        }
        // Of a block in which one of them begins to count.
        let mut ids = all_ids(blob(row, 4)?);
        for (from, kind) in are_of(blob(row, 2)?, &from).zip(kinds) {
            let id = ids.next().unwrap_or(i64::MAX);
            if from.is_some_and(|from| from <= id) {
                tell(Kind(*kind));
            }
        }
    }
    Ok((behind.unwrap_or(from), is_cut))
}

/// The rows of the domains that are meant, in the blocks from `from` to below `to`, the oldest first: block by block until there are `most`, and of
/// [`AT_A_TIME`] blocks at most. Gives the id up to which it has come, `to` where that is all.
pub(crate) fn doomed(
    connection: &Connection,
    (from, to): (i64, i64),
    most: usize,
    is_meant: impl Fn(&str) -> bool,
) -> rusqlite::Result<(Vec<Doomed>, i64)> {
    let mut statement = connection.prepare_cached(
        "SELECT first, last, names, domains, ids FROM blocks \
         WHERE first >= coalesce((SELECT max(first) FROM blocks WHERE first <= ?1), 0) AND first < ?2 ORDER BY first",
    )?;
    let mut rows = statement.query((from, to))?;
    let (mut found, mut reached) = (Vec::new(), from);
    let (mut looked_at, mut count) = (0, 0);
    while let Some(row) = rows.next()? {
        if looked_at == AT_A_TIME || count >= most {
            return Ok((found, reached));
        }
        looked_at += 1;
        reached = row.get::<_, i64>(1)? + 1;
        let meant = meant(row, 2, &is_meant)?;
        if !meant.contains(&true) {
            continue;
        }
        let before = blob(row, 3)?;
        let mut domains: Vec<u16> = numbers(before).collect();
        let mut ids = Vec::new();
        for ((domain, is_meant), id) in domains.iter_mut().zip(are_of(before, &meant)).zip(all_ids(blob(row, 4)?)) {
            if is_meant && (from..to).contains(&id) {
                *domain = GONE;
                ids.push(id);
            }
        }
        if !ids.is_empty() {
            count += ids.len();
            let domains = octets(&domains, |domain| domain.to_le_bytes());
            found.push(Doomed { first: row.get(0)?, domains, ids });
        }
    }
    Ok((found, to))
}

impl Doomed {
    /// Says in the block that the rows are gone.
    pub(crate) fn note(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached("UPDATE blocks SET domains = ?2 WHERE first = ?1")?
            .execute((self.first, &self.domains))?;
        Ok(())
    }
}

/// Removes the blocks before the one in which the oldest row is.
pub(crate) fn remove_old(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM blocks WHERE first < \
             (SELECT max(first) FROM blocks WHERE first <= (SELECT coalesce(min(id), 0) FROM decisions))",
        )?
        .execute([])?;
    Ok(())
}

// === columns ===

/// The domain of a row with this recipient: text behind the last @ even where it is no domain, for what was no address.
pub(crate) fn domain_of(recipient: &str) -> &str {
    recipient.rsplit('@').next().unwrap_or_default()
}

/// What is no text counts as none.
pub(crate) fn text<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<Option<&'r str>> {
    Ok(row.get_ref(column)?.as_str_or_null().ok().flatten())
}

fn blob<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<&'r [u8]> {
    Ok(row.get_ref(column)?.as_blob().unwrap_or_default())
}

/// Of each of the block's domains, whether it is meant.
fn meant<T>(row: &Row<'_>, names: usize, meant: impl Fn(&str) -> T) -> rusqlite::Result<Vec<T>> {
    Ok(text(row, names)?.unwrap_or_default().split('\n').map(meant).collect())
}

/// Of each of the block's rows, what is meant of its domain.
fn are_of<T: Copy + Default>(domains: &[u8], meant: &[T]) -> impl Iterator<Item = T> {
    numbers(domains).map(|number| meant.get(usize::from(number)).copied().unwrap_or_default())
}

fn octets<T: Copy, const N: usize>(values: &[T], octets: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| octets(*value)).collect()
}

fn numbers(octets: &[u8]) -> impl Iterator<Item = u16> {
    octets.as_chunks().0.iter().map(|octets| u16::from_le_bytes(*octets))
}

fn all_ids(octets: &[u8]) -> impl Iterator<Item = i64> {
    octets.as_chunks().0.iter().map(|octets| i64::from_le_bytes(*octets))
}

fn sums(octets: &[u8]) -> impl Iterator<Item = u32> {
    octets.as_chunks().0.iter().map(|octets| u32::from_le_bytes(*octets))
}

/// In their order, each once.
fn checksums<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<u32> {
    let mut sums: Vec<_> = texts.into_iter().map(checksum).collect();
    sums.sort_unstable();
    sums.dedup();
    sums
}

/// CRC-32: what it takes for another is found to be one when the row is looked at.
fn checksum(text: &str) -> u32 {
    crc32fast::hash(text.as_bytes())
}

/// Of each three octets in a row, in lower case: whatever holds a text holds all of the text's.
fn parts(of: Of, text: &str) -> impl Iterator<Item = Token> {
    let octets = text.to_lowercase().into_bytes();
    let count = octets.len().saturating_sub(2);
    (0..count).map(move |at| token(of, octets.get(at..at + 3).unwrap_or_default()))
}

/// FNV-1a, folded.
fn token(of: Of, octets: &[u8]) -> Token {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for octet in [of as u8].iter().chain(octets) {
        hash = (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let [.., d, c, b, a] = (hash ^ (hash >> 32)).to_be_bytes();
    u16::from_be_bytes([a, b]) ^ u16::from_be_bytes([c, d])
}

#[cfg(test)]
mod tests {
    use callahead_engine::{Source, Verdict};

    use super::*;

    #[test]
    fn every_verdict_and_every_source_has_a_number() {
        let verdicts = [Verdict::Valid, Verdict::Invalid, Verdict::Unknown, Verdict::NotOurs].map(Verdict::as_str);
        let sources = [Source::Cache, Source::Callout, Source::List, Source::Policy].map(Source::as_str);
        assert_eq!(VERDICTS[1..], verdicts);
        assert_eq!(SOURCES, sources);
    }
}
