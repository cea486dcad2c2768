//! Secrets that are random: shown once, and kept as a digest.

use std::fmt;

use rand::Rng as _;
use sha2::{Digest as _, Sha256};

/// What every token begins with, so that scanners for leaked secrets can find one.
const PREFIX: &str = "callahead_";

/// A random secret of 256 bits in text form. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// SHA-256 of a secret. A random secret of 256 bits can't be guessed from it, so it needs no slow hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Secret {
    /// A new one, from the system's random numbers.
    pub fn random() -> Self {
        let mut octets = [0u8; 32];
        rand::rng().fill_bytes(&mut octets);
        Self(format!("{PREFIX}{}", hex(&octets)))
    }

    /// The text; to be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl Digest {
    /// Of a secret as somebody gave it.
    pub fn of(secret: &str) -> Self {
        Self(hex(&Sha256::digest(secret.as_bytes())))
    }
}

/// A public identifier: 64 random bits in hexadecimal.
pub(crate) fn random_id() -> String {
    let mut octets = [0u8; 8];
    rand::rng().fill_bytes(&mut octets);
    hex(&octets)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
