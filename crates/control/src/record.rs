//! Records: what the feed is made of.

use callahead_cache::Timestamp;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A [`DomainSpec`](crate::DomainSpec), by its name.
    Domain,
    /// An [`Account`](crate::Account), by its name.
    Account,
    /// A [`Token`](crate::Token), by its public id.
    Token,
    /// A [`Session`](crate::Session), by its public id.
    Session,
}

impl Kind {
    /// Its name in the database and in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Account => "account",
            Self::Token => "token",
            Self::Session => "session",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Domain, Self::Account, Self::Token, Self::Session].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A record that has to be there, and as it was, for a change of others to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchanged {
    /// Of what kind.
    pub kind: Kind,
    /// By its name.
    pub key: String,
    /// The latest revision that it may have.
    pub since: u64,
}

impl Unchanged {
    /// A record that nobody has changed after this revision.
    pub fn new(kind: Kind, key: &str, since: u64) -> Self {
        Self { kind, key: key.to_owned(), since }
    }
}

/// A record that exists, with its latest revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<T> {
    /// Raised by every change of any record; never used twice.
    pub revision: u64,
    /// When it got it.
    pub changed_at: Timestamp,
    /// What it says.
    pub value: T,
}

/// A record as the feed has it.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) changed_at: Timestamp,
    /// JSON; `None` where it was deleted.
    pub(crate) body: Option<String>,
}
