//! Who is asking, and what of it is theirs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::account::{Account, Role};
use crate::record::{Kind, Unchanged};
use crate::token::Token;

/// A kind of thing to do. Also what a token's scopes are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// See what is there: domains, cache, log, audit.
    Read,
    /// Ask for a verdict, or test a route; a destination may be asked.
    Check,
    /// Clear the cache.
    Clear,
    /// Change a domain's lists.
    Lists,
    /// Make, change and delete domains.
    Domains,
    /// Make, change and delete accounts.
    Accounts,
    /// Make and delete tokens.
    Tokens,
    /// See what concerns the whole node: statistics of all, destinations.
    Node,
    /// Clear everything at once.
    #[serde(rename = "clear_all")]
    ClearAll,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Check,
        Self::Clear,
        Self::Lists,
        Self::Domains,
        Self::Accounts,
        Self::Tokens,
        Self::Node,
        Self::ClearAll,
    ];

    /// Its name in scopes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Check => "check",
            Self::Clear => "clear",
            Self::Lists => "lists",
            Self::Domains => "domains",
            Self::Accounts => "accounts",
            Self::Tokens => "tokens",
            Self::Node => "node",
            Self::ClearAll => "clear_all",
        }
    }

    /// Reads its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.as_str() == name)
    }
}

/// Somebody who was let in.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Whose rights these are; absent on the admin socket, where the file's permissions have let somebody in.
    account: Option<Account>,
    /// The token that was used.
    token: Option<(String, BTreeSet<Permission>)>,
    /// Who it is really, where somebody logged in as the account.
    by: Option<String>,
    /// The session that was used.
    session: Option<String>,
    /// The revision of the records by which it was let in.
    as_of: Option<u64>,
}

impl Principal {
    /// Whoever may open the admin socket: an administrator.
    pub fn socket() -> Self {
        Self { account: None, token: None, by: None, session: None, as_of: None }
    }

    /// By a token of an account.
    pub fn by_token(account: Account, token: &Token) -> Self {
        let token = Some((token.id.clone(), token.scopes.iter().copied().collect()));
        Self { account: Some(account), token, by: None, session: None, as_of: None }
    }

    /// By a session of an account, and by whom it was begun in place of the account's own people.
    pub fn by_session(account: Account, by: Option<String>) -> Self {
        Self { account: Some(account), token: None, by, session: None, as_of: None }
    }

    /// By this session.
    #[must_use]
    pub fn in_session(self, id: &str) -> Self {
        Self { session: Some(id.to_owned()), ..self }
    }

    /// Let in by the records as they were at this revision.
    #[must_use]
    pub fn as_of(self, revision: u64) -> Self {
        Self { as_of: Some(revision), ..self }
    }

    /// What has to be as it was for somebody still to be let in: the account, whoever logged in as it, and the token or the session. Nothing on the
    /// admin socket.
    pub fn stands_on(&self) -> Vec<Unchanged> {
        let Some(since) = self.as_of else { return Vec::new() };
        let accounts = self.name().into_iter().chain(self.by()).map(|name| (Kind::Account, name));
        let token = self.token_id().map(|id| (Kind::Token, id));
        let session = self.session.as_deref().map(|id| (Kind::Session, id));
        accounts.chain(token).chain(session).map(|(kind, key)| Unchanged::new(kind, key, since)).collect()
    }

    /// Who logged in as the account.
    pub fn by(&self) -> Option<&str> {
        self.by.as_deref()
    }

    /// Whether it came in by the admin socket.
    pub fn is_socket(&self) -> bool {
        self.account.is_none()
    }

    /// The account, where there is one.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// The account's name, for records and the audit log; `None` on the admin socket.
    pub fn name(&self) -> Option<&str> {
        self.account.as_ref().map(|account| account.name.as_str())
    }

    /// The id of the token that was used.
    pub fn token_id(&self) -> Option<&str> {
        self.token.as_ref().map(|(id, _)| id.as_str())
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.account.as_ref().map_or(Role::Admin, |account| account.role)
    }

    /// Sees and may change what belongs to anybody.
    pub fn is_admin(&self) -> bool {
        self.role() == Role::Admin
    }

    /// Whether it may do such a thing at all: by role, by being read-only, and by the token's scopes.
    pub fn may(&self, permission: Permission) -> bool {
        self.account.as_ref().is_none_or(|account| account.allows(permission))
            && self.token.as_ref().is_none_or(|(_, scopes)| scopes.contains(&permission))
    }

    /// Whether a domain is its own: by the name under which it is configured, and by that record's owner.
    pub fn owns_domain(&self, name: &str, owner: Option<&str>) -> bool {
        let Some(account) = &self.account else { return true };
        match account.role {
            Role::Admin => true,
            Role::Reseller => owner == Some(account.name.as_str()),
            // A name that went to somebody else's record meanwhile is not theirs any more.
            Role::Domain => {
                account.domains.iter().any(|own| own == name)
                    && (account.owner.is_none() || account.owner.as_deref() == owner)
            }
        }
    }

    /// Whether an account is its own: itself, or for resellers one that they made.
    pub fn owns_account(&self, other: &Account) -> bool {
        let Some(account) = &self.account else { return true };
        match account.role {
            Role::Admin => true,
            _ if account.name == other.name => true,
            Role::Reseller => other.owner.as_deref() == Some(account.name.as_str()),
            Role::Domain => false,
        }
    }
}
