//! Enhanced mail system status codes (RFC 3463).

use std::fmt;

/// An enhanced status code such as `5.1.1` (RFC 3463 section 2).
///
/// The subject and the detail go up to 999 each: Microsoft 365 says `5.7.509` and `5.4.310`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedCode {
    class: u8,
    subject: u16,
    detail: u16,
}

impl EnhancedCode {
    /// The code `class.subject.detail`; `None` unless the class is 2, 4 or 5 and the others are at most 999.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Option<Self> {
        if !matches!(class, 2 | 4 | 5) || subject > 999 || detail > 999 {
            return None;
        }
        Some(Self { class, subject, detail })
    }

    /// Reads a code at the start of a reply's text: three numbers without leading zeros, ended by a space or by the
    /// end. Gives the code and the text behind it.
    pub fn parse_prefix(text: &str) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some((Self::parse(word)?, rest))
    }

    /// Reads a code behind `(#`, ended by a space or by `)`.
    pub(crate) fn parse_in_parentheses(text: &str) -> Option<Self> {
        Self::parse(text.split([' ', ')']).next()?)
    }

    fn parse(word: &str) -> Option<Self> {
        let mut parts = word.split('.');
        let class = number(parts.next()?)?;
        let subject = number(parts.next()?)?;
        let detail = number(parts.next()?)?;
        if parts.next().is_some() {
            return None;
        }
        Self::new(u8::try_from(class).ok()?, subject, detail)
    }

    /// 2 for success, 4 for a persistent transient failure, 5 for a permanent failure.
    pub const fn class(self) -> u8 {
        self.class
    }

    /// The subject, 0 to 999: 1 addressing, 2 mailbox, 3 mail system, 4 network, 5 protocol, 6 content, 7 policy.
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// The detail, 0 to 999.
    pub const fn detail(self) -> u16 {
        self.detail
    }
}

/// One to three digits without a leading zero (RFC 3463 section 2).
fn number(digits: &str) -> Option<u16> {
    let plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    digits.parse().ok()
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}
