//! Keys: the domain, a zero octet, the local part. A domain's own slot has no local part and so comes before its recipients.
//!
//! Neither part can hold a zero octet, and the lengths that `smtp` allows (253, 255) fit into LMDB's 511 octets.

use std::fmt::Write as _;

use callahead_smtp::{Domain, Recipient};

/// A place in the order of keys, to go on from with the next page. Its text is opaque and safe in a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub(crate) Vec<u8>);

/// The longest key that LMDB takes.
const MAX_KEY: usize = 511;

pub(crate) fn domain(domain: &Domain) -> Vec<u8> {
    before(domain, 0)
}

pub(crate) fn recipient(recipient: &Recipient) -> Vec<u8> {
    let local_part = recipient.local_part().as_bytes();
    let mut key = before(recipient.domain(), local_part.len());
    key.extend_from_slice(local_part);
    key
}

/// The domain's key, with room for a local part: each lookup makes one, so in one allocation.
fn before(domain: &Domain, local_part: usize) -> Vec<u8> {
    let mut key = match domain.name() {
        Some(name) => {
            let mut key = Vec::with_capacity(name.as_str().len() + 1 + local_part);
            key.extend_from_slice(name.as_str().as_bytes());
            key
        }
        None => domain.to_string().into_bytes(),
    };
    key.push(0);
    key
}

/// The length of the domain's own key at the start of a key.
pub(crate) fn domain_len(key: &[u8]) -> Option<usize> {
    key.iter().position(|octet| *octet == 0).map(|at| at + 1)
}

/// The domain and, for a recipient's key, the local part.
pub(crate) fn split(key: &[u8]) -> Option<(&str, Option<&str>)> {
    let at = domain_len(key)?;
    let domain = std::str::from_utf8(&key[..at - 1]).ok()?;
    let local = std::str::from_utf8(&key[at..]).ok()?;
    Some((domain, (!local.is_empty()).then_some(local)))
}

impl Cursor {
    /// Reads a cursor's text back; `None` for anything that is none.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len().is_multiple_of(2) && (2..=2 * MAX_KEY).contains(&text.len()) && text.is_ascii();
        if !plain {
            return None;
        }
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
            .collect::<Option<_>>()
            .map(Self)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|octet| {
            f.write_char(char::from_digit(u32::from(octet >> 4), 16).unwrap_or('0'))?;
            f.write_char(char::from_digit(u32::from(octet & 15), 16).unwrap_or('0'))
        })
    }
}
