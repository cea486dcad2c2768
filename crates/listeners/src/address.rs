//! Addresses as MTAs hand them over, and as clients of the gateway write them: without the quotes of their local part.
//!
//! Postfix and Exim keep addresses in an internal form: for `<"a b"@example.com>` they ask about
//! `a b@example.com`, and `<a..b@example.com>`, which they let in, they pass on as `"a..b"@example.com`. Such an
//! address is no mailbox by RFC 5321 as it stands, and would be refused for its form although the mailbox may exist.

use std::borrow::Cow;

use callahead_smtp::Recipient;

/// The address with its local part quoted where it needs to be; as it is where that makes no mailbox of it either.
pub(crate) fn quoted(address: &[u8]) -> Cow<'_, [u8]> {
    if is_plain(address) || Recipient::parse(address).is_ok() {
        return Cow::Borrowed(address);
    }
    // In the internal form the last @ is the one before the domain.
    let Some(at) = memchr::memrchr(b'@', address).filter(|at| *at > 0) else {
        return Cow::Borrowed(address);
    };
    // A source route is one for everybody, and nobody's mailbox.
    if address[0] == b'@' {
        return Cow::Borrowed(address);
    }
    let mut quoted = Vec::with_capacity(address.len() + 2);
    quoted.push(b'"');
    for octet in &address[..at] {
        if matches!(octet, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*octet);
    }
    quoted.push(b'"');
    quoted.extend_from_slice(&address[at..]);
    if Recipient::parse(&quoted).is_ok() { Cow::Owned(quoted) } else { Cow::Borrowed(address) }
}

/// Whether its local part is letters, digits and a few signs, as nearly all are, and so needs no quotes whatever the domain is. The engine
/// parses the address anyway; this spares doing so twice.
fn is_plain(address: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'@', address).filter(|at| *at > 0) else { return false };
    let plain = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'+' | b'=');
    address[..at].split(|octet| *octet == b'.').all(|atom| !atom.is_empty() && atom.iter().all(plain))
        && memchr::memchr(b'@', &address[at + 1..]).is_none()
}

/// Whether it has something on both sides of an @: only then is it a question about a recipient.
pub(crate) fn is_full(address: &[u8]) -> bool {
    memchr::memrchr(b'@', address).is_some_and(|at| at > 0 && at + 1 < address.len())
}

#[cfg(test)]
mod tests {
    use callahead_smtp::Recipient;
    use proptest::prelude::*;

    use super::{is_full, quoted};

    fn is(given: &str, expected: &str) {
        assert_eq!(quoted(given.as_bytes()), expected.as_bytes(), "{given}");
    }

    #[test]
    fn an_unquoted_local_part_is_quoted_where_it_must_be() {
        is("a b@example.com", "\"a b\"@example.com");
        is("a..b@example.com", "\"a..b\"@example.com");
        is("a@b@example.com", "\"a@b\"@example.com");
        is("a\"b@example.com", "\"a\\\"b\"@example.com");
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for same in [
            "a@example.com",
            "first.last+tag@example.com",
            "a-b_c=d@bad..domain",
            "\"a b\"@example.com",
            "a@b..c",
            "user",
            "@example.com",
            "@relay:a@b.c",
            "",
            "@",
        ] {
            is(same, same);
        }
    }

    #[test]
    fn a_full_address_has_something_on_both_sides() {
        for (address, full) in
            [("a@b", true), ("a@b@c", true), ("@@b", true), ("@b", false), ("a@", false), ("a@b@", false), ("a", false)]
        {
            assert_eq!(is_full(address.as_bytes()), full, "{address}");
        }
    }

    proptest! {
        #[test]
        fn quotes_are_put_where_they_make_a_mailbox_of_it_and_nowhere_else(
            local in r#"[a.@ "\\+!-]{0,6}"#, domain in prop_oneof!["[a.-]{0,6}", Just("example.com".to_owned())]
        ) {
            let address = format!("{local}@{domain}");
            let escaped: String = local.chars().flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])).collect();
            let with_quotes = format!("\"{escaped}\"@{domain}");
            let is_mailbox = |address: &str| Recipient::parse(address.as_bytes()).is_ok();
            let wanted = !is_mailbox(&address) && !local.is_empty() && !local.starts_with('@') && is_mailbox(&with_quotes);
            let expected = if wanted { with_quotes } else { address.clone() };
            prop_assert_eq!(String::from_utf8(quoted(address.as_bytes()).into_owned()).unwrap_or_default(), expected);
        }
    }
}
