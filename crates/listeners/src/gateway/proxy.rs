//! The PROXY protocol's header, versions 1 and 2 (HAProxy, `doc/proxy-protocol.txt`): the client that a load balancer speaks for.
//!
//! Read only where the configuration says that it comes, and taken only from trusted networks; never guessed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest header, in octets: version 2's addresses, and its TLVs, which are skipped.
pub const MAX_HEADER: usize = 1024;
/// The longest header of version 1, with its CRLF.
const MAX_V1: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client; `None` where the proxy speaks for itself (`LOCAL`, `UNKNOWN`) or of something else than TCP.
    pub client: Option<IpAddr>,
    /// The header's length in octets; what follows is SMTP.
    pub length: usize,
}

/// What came is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what came is no PROXY header")]
pub struct NoHeader;

/// Reads a header; `Ok(None)` when more octets are needed.
///
/// # Errors
/// As soon as the octets can't become one.
pub fn read(octets: &[u8]) -> Result<Option<Header>, NoHeader> {
    let starts = |mark: &[u8]| {
        let length = mark.len().min(octets.len());
        octets[..length] == mark[..length]
    };
    if starts(SIGNATURE) {
        binary(octets)
    } else if starts(b"PROXY ") {
        text(octets)
    } else {
        Err(NoHeader)
    }
}

fn text(octets: &[u8]) -> Result<Option<Header>, NoHeader> {
    let within = &octets[..octets.len().min(MAX_V1)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if within.len() == MAX_V1 { Err(NoHeader) } else { Ok(None) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(NoHeader)?;
    let line = std::str::from_utf8(line).map_err(|_| NoHeader)?;
    let words: Vec<&str> = line.split(' ').collect();
    let client = match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, from, to, from_port, to_port] => {
            let port = |text: &str| text.parse::<u16>().map_err(|_| NoHeader);
            port(from_port)?;
            port(to_port)?;
            let (from, to): (IpAddr, IpAddr) = (from.parse().map_err(|_| NoHeader)?, to.parse().map_err(|_| NoHeader)?);
            let fits = |ip: IpAddr| match *family {
                "TCP4" => ip.is_ipv4(),
                "TCP6" => ip.is_ipv6(),
                _ => false,
            };
            if !fits(from) || !fits(to) {
                return Err(NoHeader);
            }
            Some(from)
        }
        _ => return Err(NoHeader),
    };
    Ok(Some(Header { client, length: end + 1 }))
}

fn binary(octets: &[u8]) -> Result<Option<Header>, NoHeader> {
    let Some(&[version_and_command, family, high, low]) = octets.get(12..16) else { return Ok(None) };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    let command = version_and_command & 0xf;
    if version_and_command >> 4 != 2 || command > 1 || length > MAX_HEADER {
        return Err(NoHeader);
    }
    let Some(addresses) = octets.get(16..length) else { return Ok(None) };
    let client = match (command, family) {
        (0, _) => None,
        (_, 0x11) => {
            let from: [u8; 4] = addresses.get(..12).and_then(|both| both[..4].try_into().ok()).ok_or(NoHeader)?;
            Some(IpAddr::from(Ipv4Addr::from(from)))
        }
        (_, 0x21) => {
            let from: [u8; 16] = addresses.get(..36).and_then(|both| both[..16].try_into().ok()).ok_or(NoHeader)?;
            Some(IpAddr::from(Ipv6Addr::from(from)))
        }
        _ => None,
    };
    Ok(Some(Header { client, length }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[0x20 | command, family][..], &length, addresses].concat()
    }

    #[test]
    fn headers_of_both_versions_give_the_client() {
        let ip = |text: &str| Some(text.parse().unwrap());
        let v4 = [&[192, 0, 2, 7, 127, 0, 0, 1, 1, 0, 0, 25][..], b"tlv"].concat();
        let v6 = [&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 20]].concat();
        for (octets, client) in [
            (b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 25\r\n".to_vec(), ip("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::7 ::1 4000 25\r\n".to_vec(), ip("2001:db8::7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, &v4), ip("192.0.2.7")),
            (v2(1, 0x21, &v6), ip("2001:db8::7")),
            (v2(0, 0x00, b""), None),
            // A health check of the proxy's own, whatever addresses it writes.
            (v2(0, 0x11, &v4), None),
            (v2(1, 0x11, &[[192, 0, 2, 7].as_slice(), &[0; MAX_HEADER - 20]].concat()), ip("192.0.2.7")),
            (v2(1, 0x31, &[0; 216]), None),
        ] {
            let with_more = [octets.as_slice(), b"EHLO x\r\n"].concat();
            assert_eq!(read(&with_more), Ok(Some(Header { client, length: octets.len() })));
            for end in 0..octets.len() {
                assert_eq!(read(&octets[..end]), Ok(None), "{end} octets of {octets:?}");
            }
        }
        for octets in [
            &b"EHLO x\r\n"[..],
            b"PROXY TCP4 192.0.2.7 ::1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 127.0.0.1 1\r\n",
            b"PROXY TCP4 192.0.2.7 127.0.0.1 70000 25\r\n",
            b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\n",
            &[b'P'; 200],
            &v2(1, 0x11, &[0; 11]),
            &v2(2, 0x11, &v4),
            &v2(1, 0x11, &[0; MAX_HEADER - 15]),
        ] {
            assert_eq!(read(octets), Err(NoHeader), "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn a_header_is_the_same_whatever_follows_it(octets in proptest::collection::vec(any::<u8>(), 0..60), binary: bool) {
            let octets = if binary { [&SIGNATURE[..], &octets].concat() } else { [b"PROXY ", &octets[..]].concat() };
            if let Ok(Some(header)) = read(&octets) {
                prop_assert!(header.length <= octets.len());
                prop_assert_eq!(read(&octets[..header.length]), Ok(Some(header)));
            }
        }
    }
}
