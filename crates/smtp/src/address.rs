//! Recipient addresses: RFC 5321 4.1.2 `Mailbox`, with UTF-8 by RFC 6531 and IDNA domains.
//!
//! Parsing is strict in form, since whatever passes is written into a command, and generous in length, since a mailbox
//! that exists must never be called invalid: the RFC's 64 octets for a local part are what everyone has to
//! support (RFC 5321 4.5.3.1.1), and SRS and VERP go beyond them.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// The longest local part, in octets, as it is written in a command.
pub const MAX_LOCAL_PART: usize = 255;
/// The longest domain name, in octets (RFC 1035 2.3.4, without the root's dot).
pub const MAX_DOMAIN: usize = 253;
/// The longest label of a domain name, in octets (RFC 1035 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A recipient's mailbox, checked and in one canonical form.
///
/// The domain is lower case and in A-labels. The local part keeps its case; a quoted local part whose content needs
/// no quotes loses them (RFC 5321 4.1.2: the two forms are the same mailbox), one that needs them has the
/// shortest quoting. So two spellings of one mailbox are equal, hash alike and have one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recipient {
    local: Arc<str>,
    domain: Domain,
}

/// What stands behind the `@`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// A domain name.
    Name(DomainName),
    /// An address literal such as `[192.0.2.1]` (RFC 5321 4.1.3).
    Literal(AddressLiteral),
}

/// A domain name in lower-case A-labels, without a trailing dot; at most 253 octets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(Arc<str>);

/// An address literal (RFC 5321 4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressLiteral {
    /// `[192.0.2.1]`
    V4(Ipv4Addr),
    /// `[IPv6:2001:db8::1]`
    V6(Ipv6Addr),
}

/// Why a text is not a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing there.
    #[error("the address is empty")]
    Empty,
    /// Octets that are no UTF-8 (RFC 6531 3.3).
    #[error("the address is neither ASCII nor UTF-8")]
    NotUtf8,
    /// No `@`. The MTA qualifies such addresses; here they belong to no domain.
    #[error("the address has no @ and so no domain")]
    NoDomain,
    /// Nothing before the `@`.
    #[error("the address has nothing before its @")]
    NoLocalPart,
    /// `@relay:user@domain` (RFC 5321 appendix C), where it is not left out or is malformed.
    #[error("the address has a source route, which nobody uses any more")]
    SourceRoute,
    /// A character that has to be quoted, or may not be there at all.
    #[error("the local part has {0:?} where RFC 5321 does not allow it")]
    BadLocalCharacter(char),
    /// A dot at the start or the end, or two in a row.
    #[error("the local part has a dot at its start, at its end, or two in a row")]
    BadDot,
    /// A quoted local part without its end, or with text behind it.
    #[error("the local part's quotes are not closed right before the @")]
    BadQuotes,
    /// Longer than [`MAX_LOCAL_PART`].
    #[error("the local part is longer than {MAX_LOCAL_PART} octets")]
    LocalPartTooLong,
    /// Nothing behind the `@`, or an empty label.
    #[error("the domain is empty or has an empty label")]
    EmptyLabel,
    /// A character that no domain name has.
    #[error("the domain has {0:?} where a domain name can't have it")]
    BadDomainCharacter(char),
    /// A label that starts or ends with a hyphen (RFC 1123 2.1).
    #[error("a label of the domain starts or ends with a hyphen")]
    BadHyphen,
    /// A name that IDNA does not allow (RFC 5891).
    #[error("the domain is no valid internationalised name")]
    BadIdna,
    /// Longer than [`MAX_DOMAIN`], or a label longer than [`MAX_LABEL`].
    #[error("the domain is longer than {MAX_DOMAIN} octets or has a label longer than {MAX_LABEL}")]
    DomainTooLong,
    /// Brackets around something that is no IPv4 address and no `IPv6:` address.
    #[error("the address literal is neither [192.0.2.1] nor [IPv6:2001:db8::1] in form")]
    BadLiteral,
}

// === impl Recipient ===

impl Recipient {
    /// Parses `local@domain` without angle brackets.
    ///
    /// # Errors
    /// What is wrong with it, by [`AddressError`].
    pub fn parse(address: &[u8]) -> Result<Self, AddressError> {
        let text = std::str::from_utf8(address).map_err(|_| AddressError::NotUtf8)?;
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.starts_with('"') {
            let (content, rest) = unquote(text)?;
            let domain = rest.strip_prefix('@').ok_or(if rest.is_empty() {
                AddressError::NoDomain
            } else {
                AddressError::BadQuotes
            })?;
            return Self::assemble(&content, Domain::parse(domain)?);
        }
        if text.starts_with('@') {
            let route = text.contains(':') || text.contains(',');
            return Err(if route { AddressError::SourceRoute } else { AddressError::NoLocalPart });
        }
        // No atom holds an @, so the first one ends the local part.
        let (local, domain) = text.split_once('@').ok_or(AddressError::NoDomain)?;
        check_dot_string(local)?;
        Self::assemble(local, Domain::parse(domain)?)
    }

    /// Parses an address as people, logs and MTAs write it: without the quotes that its local part needs.
    ///
    /// Postfix and Exim keep addresses in an internal form: for `<"a b"@example.com>` they ask about `a b@example.com`, and
    /// `<a..b@example.com>`, which they let in, they pass on as `"a..b"@example.com`. By RFC 5321 such an address is no mailbox as it stands,
    /// and would be refused for its form although the mailbox may exist. So what [`parse`](Self::parse) refuses is taken with its local part,
    /// which ends at the last `@`, in quotes; and a source route before it is left out ([`without_source_route`]).
    ///
    /// # Errors
    /// What is wrong with the address as it stands, where quotes make no mailbox of it either.
    pub fn parse_as_written(address: &[u8]) -> Result<Self, AddressError> {
        let address = without_source_route(address);
        Self::parse(address).or_else(|error| Self::in_quotes(address).ok_or(error))
    }

    /// The mailbox whose local part is all before the last `@`.
    fn in_quotes(address: &[u8]) -> Option<Self> {
        let (content, domain) = std::str::from_utf8(address).ok()?.rsplit_once('@')?;
        if content.is_empty() || content.starts_with('@') || content.chars().any(char::is_control) {
            return None;
        }
        Self::assemble(content, Domain::parse(domain).ok()?).ok()
    }

    /// Puts an address together from a local part, quoted where it must be, and a domain.
    ///
    /// # Errors
    /// What is wrong with the local part.
    pub fn new(local_part: &str, domain: Domain) -> Result<Self, AddressError> {
        if local_part.starts_with('"') {
            let (content, rest) = unquote(local_part)?;
            if !rest.is_empty() {
                return Err(AddressError::BadQuotes);
            }
            return Self::assemble(&content, domain);
        }
        check_dot_string(local_part)?;
        Self::assemble(local_part, domain)
    }

    /// From a local part's content, without quotes, whatever it holds that may be quoted.
    fn assemble(content: &str, domain: Domain) -> Result<Self, AddressError> {
        let local: Arc<str> = if check_dot_string(content).is_ok() {
            content.into()
        } else {
            let mut quoted = String::with_capacity(content.len() + 2);
            quoted.push('"');
            for c in content.chars() {
                if matches!(c, '"' | '\\') {
                    quoted.push('\\');
                }
                quoted.push(c);
            }
            quoted.push('"');
            quoted.into()
        };
        if local.len() > MAX_LOCAL_PART {
            return Err(AddressError::LocalPartTooLong);
        }
        Ok(Self { local, domain })
    }

    /// The local part as it goes into a command: quoted where it needs to be. At most [`MAX_LOCAL_PART`] octets.
    pub fn local_part(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether RFC 5321 4.5.1 makes this mailbox exist everywhere: `postmaster`, in any case.
    pub fn is_postmaster(&self) -> bool {
        self.local.eq_ignore_ascii_case("postmaster")
    }

    /// Whether a command with this address needs SMTPUTF8 (RFC 6531): a local part beyond ASCII.
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }

    /// The same mailbox with its local part folded to lower case, for domains where case means nothing.
    #[must_use]
    pub fn fold_local_part(&self) -> Self {
        let folded = self.local.to_lowercase();
        // A few letters get longer when folded; what no longer fits stays as it is.
        if *folded == *self.local || folded.len() > MAX_LOCAL_PART {
            return self.clone();
        }
        Self { local: folded.into(), domain: self.domain.clone() }
    }
}

impl FromStr for Recipient {
    type Err = AddressError;
    fn from_str(s: &str) -> Result<Self, AddressError> {
        Self::parse(s.as_bytes())
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

/// The path without its source route: `@relay,@other:user@domain` is `user@domain` (RFC 5321 4.1.1.3 and appendix C want that taken, and the route
/// ignored). What is no proper one stays.
pub fn without_source_route(path: &[u8]) -> &[u8] {
    let mut rest = path;
    while let [b'@', hop @ ..] = rest {
        // A literal of IPv6 has colons of its own.
        let start = if hop.starts_with(b"[") { hop.iter().position(|octet| *octet == b']') } else { Some(0) };
        let end =
            start.and_then(|start| Some(start + hop[start..].iter().position(|octet| matches!(octet, b',' | b':'))?));
        let Some(end) = end else { return path };
        if !std::str::from_utf8(&hop[..end]).is_ok_and(|hop| Domain::parse(hop).is_ok()) {
            return path;
        }
        rest = &hop[end + 1..];
        if hop[end] == b':' {
            return if rest.is_empty() { path } else { rest };
        }
    }
    path
}

/// `Dot-string` (RFC 5321 4.1.2) over `atext` (RFC 5322 3.2.3) and UTF-8 beyond ASCII (RFC 6531 3.3).
fn check_dot_string(local: &str) -> Result<(), AddressError> {
    if local.is_empty() {
        return Err(AddressError::NoLocalPart);
    }
    let mut after_dot = true;
    for c in local.chars() {
        match c {
            '.' if after_dot => return Err(AddressError::BadDot),
            '.' => after_dot = true,
            _ if is_atext(c) => after_dot = false,
            _ => return Err(AddressError::BadLocalCharacter(c)),
        }
    }
    if after_dot { Err(AddressError::BadDot) } else { Ok(()) }
}

fn is_atext(c: char) -> bool {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => true,
        '!' | '#' | '$' | '%' | '&' | '\'' | '*' | '+' | '-' | '/' | '=' | '?' | '^' | '_' | '`' | '{' | '|' | '}'
        | '~' => true,
        _ => !c.is_ascii() && !c.is_control(),
    }
}

/// Takes `"..."` off the front (`Quoted-string`, RFC 5321 4.1.2). Gives the content without quoting, and the rest.
fn unquote(text: &str) -> Result<(String, &str), AddressError> {
    let mut content = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((content, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, quoted @ ' '..='~')) => content.push(quoted),
                Some((_, other)) => return Err(AddressError::BadLocalCharacter(other)),
                None => return Err(AddressError::BadQuotes),
            },
            c if c.is_control() => return Err(AddressError::BadLocalCharacter(c)),
            c => content.push(c),
        }
    }
    Err(AddressError::BadQuotes)
}

// === impl Domain ===

impl Domain {
    /// Parses a domain name or a literal in brackets.
    ///
    /// # Errors
    /// What is wrong with it, by [`AddressError`].
    pub fn parse(domain: &str) -> Result<Self, AddressError> {
        let Some(inner) = domain.strip_prefix('[') else {
            return DomainName::parse(domain).map(Self::Name);
        };
        let inner = inner.strip_suffix(']').ok_or(AddressError::BadLiteral)?;
        let literal = match inner.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner[5..].parse().map(AddressLiteral::V6),
            _ => inner.parse().map(AddressLiteral::V4),
        };
        literal.map(Self::Literal).map_err(|_| AddressError::BadLiteral)
    }

    /// The name, where it is one.
    pub fn name(&self) -> Option<&DomainName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Literal(_) => None,
        }
    }
}

impl FromStr for Domain {
    type Err = AddressError;
    fn from_str(s: &str) -> Result<Self, AddressError> {
        Self::parse(s)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Literal(AddressLiteral::V4(ip)) => write!(f, "[{ip}]"),
            Self::Literal(AddressLiteral::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

// === impl DomainName ===

impl DomainName {
    /// Parses a domain name: U-labels become A-labels (UTS 46, non-transitional), one trailing dot is dropped.
    ///
    /// Underscores are let through: they are no host names, but such mail domains exist.
    ///
    /// # Errors
    /// What is wrong with it, by [`AddressError`].
    pub fn parse(name: &str) -> Result<Self, AddressError> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let ascii = if !name.is_ascii() {
            Cow::Owned(idna::domain_to_ascii(name).map_err(|_| AddressError::BadIdna)?)
        } else if name.bytes().any(|octet| octet.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        if ascii.len() > MAX_DOMAIN {
            return Err(AddressError::DomainTooLong);
        }
        for label in ascii.split('.') {
            match label.len() {
                0 => return Err(AddressError::EmptyLabel),
                1..=MAX_LABEL => {}
                _ => return Err(AddressError::DomainTooLong),
            }
            if let Some(c) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
                return Err(AddressError::BadDomainCharacter(c));
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(AddressError::BadHyphen);
            }
        }
        Ok(Self(ascii.into()))
    }

    /// The name in lower-case A-labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its first label; `None` for a single label.
    pub fn parent(&self) -> Option<&str> {
        self.0.split_once('.').map(|(_, rest)| rest)
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
