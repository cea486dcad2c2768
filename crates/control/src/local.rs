//! The copy in memory that every question is answered from. It is filled from the feed of records, and from nothing else.

use std::collections::{BTreeMap, HashMap};

use serde::de::DeserializeOwned;

use crate::access::Principal;
use crate::account::Account;
use crate::domain::DomainSpec;
use crate::record::{Kind, Raw, Record, Unchanged};
use crate::secret::Digest;
use crate::session::Session;
use crate::token::Token;

/// All records as they are now.
#[derive(Clone, Debug, Default)]
pub struct Local {
    revision: u64,
    domains: BTreeMap<String, Record<DomainSpec>>,
    accounts: BTreeMap<String, Record<Account>>,
    tokens: BTreeMap<String, Record<Token>>,
    by_digest: HashMap<Digest, String>,
    sessions: BTreeMap<String, Record<Session>>,
    sessions_by_digest: HashMap<Digest, String>,
}

impl Local {
    /// The revision up to which the feed has been applied.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The domains, by name.
    pub fn domains(&self) -> &BTreeMap<String, Record<DomainSpec>> {
        &self.domains
    }

    /// The accounts, by name.
    pub fn accounts(&self) -> &BTreeMap<String, Record<Account>> {
        &self.accounts
    }

    /// The tokens, by their public ids.
    pub fn tokens(&self) -> &BTreeMap<String, Record<Token>> {
        &self.tokens
    }

    /// The token with this digest, and its account.
    pub fn find_token(&self, digest: &Digest) -> Option<(&Token, &Account)> {
        let token = &self.tokens.get(self.by_digest.get(digest)?)?.value;
        Some((token, &self.accounts.get(&token.account)?.value))
    }

    /// The sessions, by their public ids.
    pub fn sessions(&self) -> &BTreeMap<String, Record<Session>> {
        &self.sessions
    }

    /// The session with this digest, and its account; none where the account was changed since it began, or that of whoever logged in as it.
    pub fn find_session(&self, digest: &Digest) -> Option<(&Session, &Account)> {
        let session = self.sessions.get(self.sessions_by_digest.get(digest)?)?;
        let as_it_was = |name: &str| self.accounts.get(name).filter(|account| account.revision < session.revision);
        let account = as_it_was(&session.value.account)?;
        if let Some(by) = &session.value.by {
            as_it_was(by)?;
        }
        Some((&session.value, &account.value))
    }

    /// The revision of a record; `None` where there is none.
    pub fn revision_of(&self, kind: Kind, key: &str) -> Option<u64> {
        match kind {
            Kind::Domain => self.domains.get(key).map(|record| record.revision),
            Kind::Account => self.accounts.get(key).map(|record| record.revision),
            Kind::Token => self.tokens.get(key).map(|record| record.revision),
            Kind::Session => self.sessions.get(key).map(|record| record.revision),
        }
    }

    /// Whether a record is there as it was.
    pub fn is_unchanged(&self, record: &Unchanged) -> bool {
        self.revision_of(record.kind, &record.key).is_some_and(|revision| revision <= record.since)
    }

    /// Whether all that somebody was let in by is as it was.
    pub fn lets_in(&self, principal: &Principal) -> bool {
        principal.stands_on().iter().all(|record| self.is_unchanged(record))
    }

    /// Applies one record of the feed. One that can't be read is told of in the log: a newer version may have written it. A domain stays then, without a
    /// route and so without use ([`Domains::unusable`](crate::Domains::unusable)): were it absent, its mail would be refused for good. Anything else
    /// counts as absent, and lets nobody in.
    pub(crate) fn apply(&mut self, raw: Raw) {
        self.revision = self.revision.max(raw.revision);
        match raw.kind {
            Kind::Domain => {
                put(&mut self.domains, &raw);
                if let Some(body) = raw.body.as_deref().filter(|_| !self.domains.contains_key(&raw.key)) {
                    let value = unreadable(&raw.key, body);
                    self.domains.insert(raw.key, Record { revision: raw.revision, changed_at: raw.changed_at, value });
                }
            }
            Kind::Account => put(&mut self.accounts, &raw),
            Kind::Token => {
                if let Some(old) = self.tokens.get(&raw.key) {
                    self.by_digest.remove(&old.value.digest);
                }
                put(&mut self.tokens, &raw);
                if let Some(new) = self.tokens.get(&raw.key) {
                    self.by_digest.insert(new.value.digest.clone(), raw.key.clone());
                }
            }
            Kind::Session => {
                if let Some(old) = self.sessions.get(&raw.key) {
                    self.sessions_by_digest.remove(&old.value.digest);
                }
                put(&mut self.sessions, &raw);
                if let Some(new) = self.sessions.get(&raw.key) {
                    self.sessions_by_digest.insert(new.value.digest.clone(), raw.key.clone());
                }
            }
        }
    }
}

/// What is certain of a domain whose record can't be read: its name, and whose it is where that can be read.
fn unreadable(name: &str, body: &str) -> DomainSpec {
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let (owner, owned_since) = (body["owner"].as_str().map(str::to_owned), body["owned_since"].as_u64());
    DomainSpec { name: name.to_owned(), owner, owned_since, ..DomainSpec::default() }
}

fn put<T: DeserializeOwned>(records: &mut BTreeMap<String, Record<T>>, raw: &Raw) {
    let value = raw.body.as_deref().map(serde_json::from_str::<T>);
    match value {
        Some(Ok(value)) => {
            let record = Record { revision: raw.revision, changed_at: raw.changed_at, value };
            records.insert(raw.key.clone(), record);
        }
        Some(Err(error)) => {
            tracing::error!(kind = raw.kind.as_str(), key = raw.key, %error, "a record of the control database can't be read; another version of callahead may have written it");
            records.remove(&raw.key);
        }
        None => {
            records.remove(&raw.key);
        }
    }
}
