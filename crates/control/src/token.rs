//! API tokens.

use callahead_cache::Timestamp;
use serde::{Deserialize, Serialize};

use crate::access::Permission;
use crate::secret::{Digest, Secret, random_id};

/// An API token as it is kept: its secret is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public name, 16 hexadecimal digits.
    pub id: String,
    /// Whose rights it has, within its scopes.
    pub account: String,
    /// What it is for, in its maker's words; at most [`Token::MAX_LABEL`] characters.
    pub label: String,
    /// What of it is kept.
    pub digest: Digest,
    /// What it may be used for; never more than its account may do.
    pub scopes: Vec<Permission>,
    /// When it was made, in milliseconds since 1970.
    pub created_at: u64,
    /// When it ends to work, in milliseconds since 1970.
    pub expires_at: Option<u64>,
    /// It was given for a password and ends with the session.
    #[serde(default)]
    pub session: bool,
}

impl Token {
    /// The longest label, in characters.
    pub const MAX_LABEL: usize = 100;

    /// A new token and its secret.
    pub fn create(
        account: &str,
        label: &str,
        scopes: Vec<Permission>,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> (Self, Secret) {
        let secret = Secret::random();
        let token = Self {
            id: random_id(),
            account: account.to_owned(),
            label: label.to_owned(),
            digest: secret.digest(),
            scopes,
            created_at: now.0,
            expires_at: expires_at.map(|at| at.0),
            session: false,
        };
        (token, secret)
    }

    /// Whether it still works at this time.
    pub fn is_good_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now.0 < end)
    }
}
