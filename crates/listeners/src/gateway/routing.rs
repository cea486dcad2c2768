//! Addresses that name the way that the mail shall go on (RFC 5321 3.6.1 and appendix C): `victim%elsewhere.example@example.com`.
//!
//! Their domain is one that is configured, and the local part is another address. A server behind that has the domain as its own and lets
//! this node relay would send them on to anybody: Postfix by `allow_percent_hack`, `swap_bangpath` and `resolve_dequoted_address`, which are all on
//! unless somebody turned them off. Postfix keeps its own clients from that (`allow_untrusted_routing`), and Exim does in the ACL that comes with it.

use callahead_smtp::Recipient;

/// Whether the recipient's local part routes: what Postfix would rewrite, and nothing else, since any other may be a mailbox.
pub(super) fn is_given(address: &[u8]) -> bool {
    // Nearly no address has more than its one @.
    if address.iter().filter(|octet| matches!(octet, b'@' | b'%' | b'!')).count() < 2 {
        return false;
    }
    Recipient::parse_as_written(address).is_ok_and(|recipient| routes(recipient.local_part()))
}

fn routes(local_part: &str) -> bool {
    let quoted = local_part.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let content = quoted.unwrap_or(local_part);
    // The host of a bang path need not look like one. Behind a % it has to: `50%off` is a name. It is not parsed, since spaces and comments
    // in it mean nothing to a server; other full stops are dots to IDNA.
    let is_host = |text: &str| text.contains(['.', '[', '\u{3002}', '\u{ff0e}', '\u{ff61}']);
    content.contains('@')
        || content.trim_matches('!').contains('!')
        || content.split_once('%').is_some_and(|(_, behind)| is_host(behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_told_from_a_name() {
        for address in [
            "v%evil.example@one.example",
            "v%evil.example.@one.example",
            "v%b%evil.example@one.example",
            "\"v%[192.0.2.1]\"@one.example",
            "\"v\\%evil.example\"@one.example",
            "\"v % evil . example (x)\"@one.example",
            "v%evil\u{3002}example@one.example",
            "evil.example!v@one.example",
            "evil!v@one.example",
            "!evil!v@one.example",
            "v@evil.example@one.example",
            "v@evil@one.example",
            "\"v@evil.example\"@one.example",
            "\"v\\@evil.example\"@one.example",
            "\"v@[192.0.2.1]\"@one.example",
            "\"\\\"v\\\"@evil.example\"@one.example",
        ] {
            assert!(is_given(address.as_bytes()), "{address}");
        }
        for address in [
            "anna@one.example",
            "50%off@one.example",
            "a.b%dept@one.example",
            "100%@one.example",
            "wow!@one.example",
            "!important@one.example",
            "\"wow!!\"@one.example",
            "\"a b\"@one.example",
            "anna#EXT#_x.example@one.example",
            // No mailboxes, which others say.
            "v%evil.example@",
            "v%evil.example@one..example",
            "@%!",
        ] {
            assert!(!is_given(address.as_bytes()), "{address}");
        }
    }
}
