//! The one line that is added to a message: `Received` (RFC 5321 4.4).

use std::net::IpAddr;

use callahead_smtp::{AddressLiteral, Domain};

use super::session::Client;

/// The line with its CRLFs: who said so, from which address, to which node, how, and when (in milliseconds since 1970). It names
/// nothing behind this node.
pub(crate) fn received(client: &Client, node: &Domain, smtputf8: bool, id: &str, at_ms: u64) -> String {
    let literal = Domain::Literal(match client.address.to_canonical() {
        IpAddr::V4(ip) => AddressLiteral::V4(ip),
        IpAddr::V6(ip) => AddressLiteral::V6(ip),
    });
    // A name that is none is not written down as if it were one.
    let said = client.helo.as_deref().and_then(|name| Domain::parse(name).ok()).unwrap_or_else(|| literal.clone());
    // RFC 3848, and RFC 6531 4.3.
    let with = match (smtputf8, client.esmtp, client.encrypted) {
        (true, _, true) => "UTF8SMTPS",
        (true, _, false) => "UTF8SMTP",
        (false, true, true) => "ESMTPS",
        (false, true, false) => "ESMTP",
        (false, false, _) => "SMTP",
    };
    format!("Received: from {said} ({literal})\r\n\tby {node} with {with} id {id};\r\n\t{}\r\n", date(at_ms))
}

/// A moment as RFC 5322 3.3 says it, in UTC.
fn date(at_ms: u64) -> String {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at_ms).unwrap_or(0)).unwrap_or_default();
    jiff::fmt::rfc2822::to_string(&at.to_zoned_datetime(jiff::tz::TimeZone::UTC)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_line_says_from_whom_by_whom_how_and_when() {
        let node = Domain::parse("mx.filter.example").unwrap();
        let mut client = Client {
            address: "192.0.2.7".parse().unwrap(),
            helo: Some("client.example".into()),
            esmtp: true,
            encrypted: true,
        };
        let line = received(&client, &node, false, "abc", 1_800_000_000_000);
        assert_eq!(
            line,
            "Received: from client.example ([192.0.2.7])\r\n\tby mx.filter.example with ESMTPS id abc;\r\n\tFri, 15 Jan 2027 08:00:00 +0000\r\n"
        );
        client.address = "2001:db8::1".parse().unwrap();
        client.helo = Some("bad name)(".into());
        (client.esmtp, client.encrypted) = (false, false);
        let line = received(&client, &node, false, "abc", 0);
        assert!(line.starts_with("Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n"), "{line}");
        assert!(line.contains(" with SMTP id abc;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n"), "{line}");
        assert!(received(&client, &node, true, "abc", 0).contains(" with UTF8SMTP id "));
    }
}
