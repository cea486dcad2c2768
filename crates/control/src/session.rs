//! Sessions of the web interface, and the one-time links that begin one.

use callahead_cache::Timestamp;
use serde::{Deserialize, Serialize};

use crate::secret::{Digest, Secret, random_id};

/// Somebody who logged in, or may by a link. Its secret is not in it.
///
/// It belongs to the account as that was when it began, and so to that of whoever logged in as it: any later change of one of them, a new password too,
/// ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its public name, 16 hexadecimal digits.
    pub id: String,
    /// Whose rights it has.
    pub account: String,
    /// Who it is really, where somebody above logged in as the account, or made the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What is kept of its secret.
    pub digest: Digest,
    /// When it began, in milliseconds since 1970.
    pub created_at: u64,
    /// When it ends, used or not, in milliseconds since 1970.
    pub expires_at: u64,
    /// It is a link: good for nothing but to be traded, once, for a session.
    #[serde(default)]
    pub link: bool,
}

impl Session {
    /// A new one and its secret.
    pub fn create(
        account: &str,
        by: Option<&str>,
        link: bool,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> (Self, Secret) {
        let secret = Secret::random();
        let session = Self {
            id: random_id(),
            account: account.to_owned(),
            by: by.map(str::to_owned),
            digest: secret.digest(),
            created_at: now.0,
            expires_at: expires_at.0,
            link,
        };
        (session, secret)
    }

    /// Whether it has not ended at this time.
    pub fn is_good_at(&self, now: Timestamp) -> bool {
        now.0 < self.expires_at
    }
}
