//! The audit log: who did what, when, from where, and what was there before and after.

use callahead_cache::Timestamp;
use rusqlite::{Connection, params};
use serde_json::Value;

use crate::access::Principal;
use crate::difference::difference;

/// Entries that are kept; the oldest go first.
pub(crate) const MAX_ENTRIES: i64 = 1_000_000;
/// Entries that are looked at for one page; a page may so be short and still have a next one.
const EXAMINED: usize = 50_000;
/// Octets of what was there before and afterwards on a page: the entry that goes beyond is its last one. Older versions wrote whole records of megabytes.
const MAX_PAGE: usize = 1 << 20;

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The account's name, `NAME as ACCOUNT` for one who logged in as another, or `admin socket`.
    pub who: String,
    /// The client's address, or the user of the admin socket.
    pub from: String,
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its place in the log; given when it is written.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What: `domain.create`, `cache.clear`, ...
    pub action: String,
    /// To what: a domain, an account, a token's id, an address.
    pub object: String,
    /// The domain that it was about, by the name under which it is configured.
    pub domain: Option<String>,
    /// Whose it was at that time.
    pub owner: Option<String>,
    /// What was there before and is not now, as JSON, without secrets. Older versions wrote the whole record.
    pub before: Option<String>,
    /// What is there now and was not, likewise.
    pub after: Option<String>,
}

/// Some entries, newest first, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Set while there may be more: what was done before this one.
    pub next: Option<i64>,
}

impl Actor {
    /// Of somebody who was let in.
    pub fn of(principal: &Principal, from: &str) -> Self {
        let name = principal.name().unwrap_or("admin socket");
        let who = match principal.by() {
            Some(by) => format!("{by} as {name}"),
            None => name.to_owned(),
        };
        Self { who, from: from.to_owned() }
    }
}

impl AuditEntry {
    /// Something done by somebody to something.
    pub fn new(actor: Actor, action: &str, object: &str) -> Self {
        Self {
            id: 0,
            at: Timestamp::default(),
            actor,
            action: action.to_owned(),
            object: object.to_owned(),
            domain: None,
            owner: None,
            before: None,
            after: None,
        }
    }

    /// About a domain, and so seen by those whose it is.
    #[must_use]
    pub fn about(mut self, domain: &str, owner: Option<&str>) -> Self {
        self.domain = Some(domain.to_owned());
        self.owner = owner.map(str::to_owned);
        self
    }

    /// About something that belongs to somebody.
    #[must_use]
    pub fn owned_by(mut self, owner: Option<&str>) -> Self {
        self.owner = owner.map(str::to_owned);
        self
    }

    /// With what differs between a record as it was and as it is: of keys those that changed, of long lists what was added and removed, and
    /// altogether 16 KiB at most; what is left out is counted.
    #[must_use]
    pub fn record(mut self, before: Option<&Value>, after: Option<&Value>) -> Self {
        (self.before, self.after) = difference(before, after);
        self
    }

    /// With what was there before and is there now, as it is: for what is small.
    #[must_use]
    pub fn change(mut self, before: Option<String>, after: Option<String>) -> Self {
        (self.before, self.after) = (before, after);
        self
    }

    /// Whether somebody may see it: their own doings, what was done to what is theirs, and for administrators everything. To others nothing from
    /// before their account was made: it is another's who had its name.
    pub fn is_seen_by(&self, principal: &Principal) -> bool {
        if principal.is_admin() {
            return true;
        }
        if principal.account().and_then(|account| account.created_at).is_some_and(|made| self.at.0 < made) {
            return false;
        }
        if principal.name() == Some(self.actor.who.as_str()) {
            return true;
        }
        match &self.domain {
            Some(domain) => principal.owns_domain(domain, self.owner.as_deref()),
            None => self.owner.is_some() && self.owner.as_deref() == principal.name(),
        }
    }

    pub(crate) fn insert(&self, connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO audit (at, who, origin, action, object, domain, owner, before, after) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                i64::try_from(now.0).unwrap_or(i64::MAX),
                self.actor.who,
                self.actor.from,
                self.action,
                self.object,
                self.domain,
                self.owner,
                self.before,
                self.after
            ])?;
        Ok(())
    }
}

/// One page of what somebody may see, before `cursor`, newest first.
pub(crate) fn list(
    connection: &Connection,
    principal: &Principal,
    cursor: Option<i64>,
    limit: usize,
) -> rusqlite::Result<AuditPage> {
    let mut statement = connection.prepare_cached(
        "SELECT id, at, who, origin, action, object, domain, owner, before, after FROM audit WHERE id < ?1 \
         ORDER BY id DESC",
    )?;
    let mut rows = statement.query([cursor.unwrap_or(i64::MAX)])?;
    let mut page = AuditPage::default();
    let (mut examined, mut octets) = (0, 0);
    while let Some(row) = rows.next()? {
        let mut entry = AuditEntry {
            id: row.get(0)?,
            at: Timestamp(u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default()),
            actor: Actor { who: row.get(2)?, from: row.get(3)? },
            action: row.get(4)?,
            object: row.get(5)?,
            domain: row.get(6)?,
            owner: row.get(7)?,
            before: None,
            after: None,
        };
        let id = entry.id;
        if entry.is_seen_by(principal) {
            (entry.before, entry.after) = (row.get(8)?, row.get(9)?);
            octets += [&entry.before, &entry.after].into_iter().flatten().map(String::len).sum::<usize>();
            page.entries.push(entry);
        }
        examined += 1;
        if page.entries.len() == limit || examined == EXAMINED || octets >= MAX_PAGE {
            page.next = Some(id);
            break;
        }
    }
    Ok(page)
}
