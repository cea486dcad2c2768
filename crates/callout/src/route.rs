//! Routes: where a domain's destination is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use callahead_smtp::DomainName;

/// How a domain's destination is reached: hops in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Tried in order.
    pub hops: Vec<Hop>,
    /// When sessions are encrypted.
    pub tls: TlsPolicy,
}

/// One entry of a route: `mx`, `mail.example.net`, `10.0.0.5:2500`, `[2001:db8::1]:25`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// The hosts of the domain's MX (RFC 5321 5.1), or the domain itself where it has none.
    Mx,
    /// A host.
    Host {
        /// Its name or address.
        host: Host,
        /// Its port, 25 unless given.
        port: u16,
    },
}

/// A host by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Looked up for A and AAAA.
    Name(DomainName),
    /// As it is.
    Address(IpAddr),
}

/// When a session is encrypted (RFC 3207).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TlsPolicy {
    /// Never.
    Off,
    /// Where the host offers it, with any certificate; in clear where it fails.
    #[default]
    Opportunistic,
    /// Always, with any certificate.
    Required,
    /// Always, with a certificate for the host's name by an authority that the system trusts.
    Verified,
}

/// Why a text is no hop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no route entry: write \"mx\", HOST, HOST:PORT, ADDRESS or [IPV6]:PORT")]
pub struct RouteError(pub String);

/// SMTP's port.
pub(crate) const SMTP_PORT: u16 = 25;

impl FromStr for Hop {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        if text.eq_ignore_ascii_case("mx") {
            return Ok(Self::Mx);
        }
        let error = || RouteError(text.to_owned());
        if let Ok(address) = text.parse::<SocketAddr>() {
            let host = Host::Address(address.ip());
            return if address.port() == 0 { Err(error()) } else { Ok(Self::Host { host, port: address.port() }) };
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Host { host: Host::Address(address), port: SMTP_PORT });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?),
            None => (text, SMTP_PORT),
        };
        // "10.0.0.300" would pass as a name; nobody means it.
        let digits = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|octet| octet.is_ascii_digit()));
        if digits {
            return Err(error());
        }
        let host = DomainName::parse(name).map(Host::Name).map_err(|_| error())?;
        Ok(Self::Host { host, port })
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mx => f.write_str("mx"),
            Self::Host { host, port } => write!(f, "{}", HostPort(host, *port)),
        }
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) struct HostPort<'a>(pub(crate) &'a Host, pub(crate) u16);

impl fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Host::Name(name) => write!(f, "{name}:{}", self.1),
            Host::Address(address) => write!(f, "{}", SocketAddr::new(*address, self.1)),
        }
    }
}

impl FromStr for TlsPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "opportunistic" => Ok(Self::Opportunistic),
            "required" => Ok(Self::Required),
            "verified" => Ok(Self::Verified),
            _ => Err(format!("{text:?} is no TLS policy: write off, opportunistic, required or verified")),
        }
    }
}

impl fmt::Display for TlsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Opportunistic => "opportunistic",
            Self::Required => "required",
            Self::Verified => "verified",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hops_are_read_as_administrators_write_them() {
        for (text, shown) in [
            ("mx", "mx"),
            ("MX", "mx"),
            ("mail1.example.net", "mail1.example.net:25"),
            ("mail1.example.net:2500", "mail1.example.net:2500"),
            ("10.0.0.5:2500", "10.0.0.5:2500"),
            ("10.0.0.5", "10.0.0.5:25"),
            ("[2001:db8::1]:26", "[2001:db8::1]:26"),
            ("2001:db8::1", "[2001:db8::1]:25"),
            ("[2001:db8::1]", "[2001:db8::1]:25"),
            ("localhost:25", "localhost:25"),
        ] {
            let hop: Hop = text.parse().unwrap();
            assert_eq!(hop.to_string(), shown);
            assert_eq!(shown.parse::<Hop>().unwrap(), hop);
        }
        for text in
            ["", "mail example", "host:", "host:0", "host:70000", "10.0.0.300", "10.0.0.5:0", "smtp://host", "[host]"]
        {
            assert!(text.parse::<Hop>().unwrap_err().to_string().contains("route entry"), "{text}");
        }
    }
}
