//! Accounts and what their roles allow.

use serde::{Deserialize, Serialize};

use crate::access::Permission;

/// What an account may do at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Its own domains and the accounts that it made.
    Reseller,
    /// The domains named in the account: see, check, clear, lists, log.
    Domain,
}

/// Somebody who may do something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name: 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`, `@`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// It may look and ask, and change nothing.
    pub read_only: bool,
    /// The reseller whose account it is; absent for those that belong to the administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// For the role `domain`: which ones, by the names under which they are configured.
    #[serde(default)]
    pub domains: Vec<String>,
    /// The password as argon2id keeps it (PHC string); absent where it only has tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// When it was made, in milliseconds since 1970: what was done before by another of its name is no affair of its own. Absent where an older
    /// version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<u64>,
}

impl Role {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Reseller => "reseller",
            Self::Domain => "domain",
        }
    }

    /// Reads its name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Admin, Self::Reseller, Self::Domain].into_iter().find(|role| role.as_str() == name)
    }
}

impl Account {
    /// The longest name, in characters.
    pub const MAX_NAME: usize = 64;
    /// Domains that one account may name.
    pub const MAX_DOMAINS: usize = 1000;

    /// One that may do all that its role allows. It belongs to the administrators, names no domains and has no password.
    pub fn new(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            read_only: false,
            owner: None,
            domains: Vec::new(),
            password: None,
            created_at: None,
        }
    }

    /// What its role allows, its scopes aside.
    pub fn allows(&self, permission: Permission) -> bool {
        use Permission::{Accounts, Check, Clear, ClearAll, Domains, Lists, Node, Read, Tokens};
        match permission {
            Read | Check => true,
            Node => self.role == Role::Admin,
            _ if self.read_only => false,
            Clear | Lists | Tokens => true,
            Domains | Accounts => self.role != Role::Domain,
            ClearAll => self.role == Role::Admin,
        }
    }

    /// Whether its name is one.
    ///
    /// # Errors
    /// A sentence on what is wrong.
    pub fn check_name(name: &str) -> Result<(), String> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '@');
        // What a path drops can't be a name: nobody could ask for it, or delete it, by its address.
        if name.is_empty() || name.len() > Self::MAX_NAME || !name.chars().all(good) || matches!(name, "." | "..") {
            return Err(format!(
                "{name:?} is no account name: take 1 to {} of a-z, 0-9, dot, underscore, hyphen and @, and not dots alone",
                Self::MAX_NAME
            ));
        }
        Ok(())
    }
}
