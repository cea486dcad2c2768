//! What lies in which stretch of the decision log, so that a search for something rare passes over what can't hold it.
//!
//! Of every [`ROWS`] rows in the order of their ids one *block* is kept beside them: a Bloom filter with one hash over the three-octet parts of
//! recipients and senders, the domains and the verdicts. It costs 8 octets a row and next to nothing to write, where an index of all parts
//! would be as large as the log. Blocks follow each other without a gap from the first one on; rows from before it are looked at one by one.

use rusqlite::{Connection, OptionalExtension as _};

/// Rows in a block.
const ROWS: usize = 1_000;
/// Octets of a block's filter: of its 65,536 bits, rows of mail set a tenth to a third.
const OCTETS: usize = 8_192;

/// What a token is of. The numbers, the hash and the sizes above are the file's format: to change one is a migration that empties `blocks`.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    Recipient = 1,
    Sender = 2,
    Domain = 3,
    Verdict = 4,
}

/// A bit of the filter.
type Token = u16;

/// The verdict's name where there is none, in tokens and in searches.
pub(crate) const NO_VERDICT: &str = "none";

/// The block that is being filled: of the rows behind the last one that was written.
#[derive(Clone)]
pub(crate) struct Filling {
    first: i64,
    rows: usize,
    bits: Vec<u8>,
}

/// What a stretch has to hold to be looked at: of each group one token at least.
#[derive(Debug, Default)]
pub(crate) struct Wanted(Vec<Vec<Token>>);

/// A part of the log.
pub(crate) struct Block {
    /// The first id that it covers; there may be no row of it.
    pub(crate) first: i64,
    /// Its last row.
    pub(crate) last: i64,
    /// Whether it may hold what is wanted.
    pub(crate) fits: bool,
}

impl Filling {
    /// Goes on where a file stands.
    pub(crate) fn resume(connection: &Connection) -> rusqlite::Result<Self> {
        let newest = |sql| connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
        let covered = match newest("SELECT max(last) FROM blocks")? {
            Some(last) => last,
            None => newest("SELECT max(id) FROM decisions")?.unwrap_or(0),
        };
        let mut filling = Self { first: covered + 1, rows: 0, bits: vec![0; OCTETS] };
        let mut statement =
            connection.prepare("SELECT recipient, sender, domain, verdict FROM decisions WHERE id > ?1")?;
        let mut rows = statement.query([covered])?;
        while let Some(row) = rows.next()? {
            let text = |column| row.get_ref(column).map(|value| value.as_str_or_null().ok().flatten());
            filling.take(text(0)?.unwrap_or_default(), text(1)?, text(2)?.unwrap_or_default(), text(3)?);
        }
        Ok(filling)
    }

    /// Takes a row that was written with this id; a block that is full is written with it.
    pub(crate) fn add(
        &mut self,
        connection: &Connection,
        id: i64,
        recipient: &str,
        sender: Option<&str>,
        domain: &str,
        verdict: Option<&str>,
    ) -> rusqlite::Result<()> {
        self.take(recipient, sender, domain, verdict);
        if self.rows >= ROWS {
            connection
                .prepare_cached("INSERT INTO blocks (last, first, bits) VALUES (?1, ?2, ?3)")?
                .execute((id, self.first, &self.bits))?;
            self.bits.fill(0);
            (self.first, self.rows) = (id + 1, 0);
        }
        Ok(())
    }

    fn take(&mut self, recipient: &str, sender: Option<&str>, domain: &str, verdict: Option<&str>) {
        let verdict = token(Of::Verdict, verdict.unwrap_or(NO_VERDICT).as_bytes());
        let of_parts =
            parts(Of::Recipient, recipient).chain(sender.into_iter().flat_map(|text| parts(Of::Sender, text)));
        for token in of_parts.chain([verdict, token(Of::Domain, domain.as_bytes())]) {
            if let Some(octet) = self.bits.get_mut(usize::from(token / 8)) {
                *octet |= 1 << (token % 8);
            }
        }
        self.rows += 1;
    }
}

impl Wanted {
    /// Only rows that have this text in it, in any case. A text of less than three octets excludes none.
    pub(crate) fn part(&mut self, of: Of, text: &str) {
        self.0.extend(parts(of, text).map(|token| vec![token]));
    }

    /// Only rows with one of these; of none, no row at all.
    pub(crate) fn one_of<'a>(&mut self, of: Of, texts: impl IntoIterator<Item = &'a str>) {
        self.0.push(texts.into_iter().map(|text| token(of, text.as_bytes())).collect());
    }

    /// Whether there is nothing by which a stretch could be passed over.
    pub(crate) fn is_anything(&self) -> bool {
        self.0.is_empty()
    }

    fn fits(&self, bits: &[u8]) -> bool {
        let is_set = |token: &Token| {
            let octet = bits.get(usize::from(token / 8)).copied();
            octet.is_none_or(|octet| octet & (1 << (token % 8)) != 0)
        };
        self.0.iter().all(|group| group.iter().any(is_set))
    }
}

/// The newest block that ends before `before`.
pub(crate) fn newest_before(connection: &Connection, before: i64, wanted: &Wanted) -> rusqlite::Result<Option<Block>> {
    connection
        .prepare_cached("SELECT first, last, bits FROM blocks WHERE last < ?1 ORDER BY last DESC LIMIT 1")?
        .query_row([before], |row| {
            let fits = wanted.fits(row.get_ref(2)?.as_blob().unwrap_or_default());
            Ok(Block { first: row.get(0)?, last: row.get(1)?, fits })
        })
        .optional()
}

/// Removes the blocks whose rows are gone.
pub(crate) fn remove_old(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM blocks WHERE last < (SELECT coalesce(min(id), 0) FROM decisions)")?
        .execute([])?;
    Ok(())
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
