//! Replies: an incremental reader with limits (RFC 5321 4.2, RFC 3463, RFC 2034).
//!
//! The reader is strict about what a reply says (its code, the same on every line) and tolerant of how it is
//! spelled: a bare LF ends a line, text may be missing, octets may be anything. What it can't read is a fault of the
//! destination, and a fault is never an answer.

use std::fmt::{self, Write as _};

use crate::EnhancedCode;

/// A whole reply, of one line or many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    /// The lines, with an LF between them: of each callout's replies most have one line, and nobody looks at it.
    lines: String,
}

/// How much of a reply is read before it counts as a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Octets in a line, its line end included. Default 4,096 (RFC 5321 4.5.3.1.5 says 512).
    pub line: usize,
    /// Lines in a reply. Default 100.
    pub lines: usize,
    /// Octets in a reply. Default 65,536.
    pub total: usize,
}

/// Why the bytes are no reply. Nothing can be read after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line longer than [`ReplyLimits::line`].
    #[error("a line of the reply is longer than {limit} octets")]
    LineTooLong {
        /// The limit.
        limit: usize,
    },
    /// More lines than [`ReplyLimits::lines`].
    #[error("the reply has more than {limit} lines")]
    TooManyLines {
        /// The limit.
        limit: usize,
    },
    /// More octets than [`ReplyLimits::total`].
    #[error("the reply is longer than {limit} octets")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// A line that does not start with a code from 200 to 599 and a space, a hyphen or its end.
    #[error("{line:?} is no SMTP reply")]
    NotAReply {
        /// The start of the line, made printable.
        line: String,
    },
    /// A line of a multi-line reply with another code than the first (RFC 5321 4.2.1).
    #[error("the reply changes its code from {first} to {then} on the way")]
    CodeChanged {
        /// The first line's code.
        first: u16,
        /// The other code.
        then: u16,
    },
}

/// Gives replies from bytes that come in any pieces.
#[derive(Debug)]
pub struct ReplyReader {
    limits: ReplyLimits,
    buffer: Vec<u8>,
    /// Where the next line starts in `buffer`.
    start: usize,
    /// How far `buffer` has been searched for the end of that line.
    searched: usize,
    /// The lines of the reply that is being read, how many there are, and their octets.
    lines: String,
    count: usize,
    code: u16,
    octets: usize,
    failed: Option<ReplyError>,
}

// === impl Reply ===

impl Reply {
    /// A reply of one line, put together from its parts.
    pub fn new(code: u16, enhanced: Option<EnhancedCode>, text: &str) -> Self {
        let mut lines = String::with_capacity("5.999.999 ".len() + text.len());
        if let Some(enhanced) = enhanced {
            // Writing into memory does not fail.
            let _ = write!(lines, "{enhanced} ");
        }
        push_printable(&mut lines, text.as_bytes());
        Self { code, enhanced, lines }
    }

    fn from_lines(code: u16, lines: String) -> Self {
        let fits = |enhanced: &EnhancedCode| u16::from(enhanced.class()) == code / 100;
        let enhanced = lines
            .split('\n')
            .filter_map(|line| EnhancedCode::parse_prefix(line))
            .map(|(enhanced, _)| enhanced)
            .find(fits)
            // As qmail writes it, at the end: "sorry, no mailbox here by that name (#5.1.1 - chkuser)".
            .or_else(|| lines.split("(#").skip(1).filter_map(EnhancedCode::parse_in_parentheses).find(fits));
        Self { code, enhanced, lines }
    }

    /// The code, 200 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The first enhanced status code at the start of a line whose class is the reply's; where there is none, the first in the text that is
    /// written as `(#5.1.1)`.
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// The lines' texts without the code, in order. Octets that are no UTF-8 are shown as U+FFFD, controls as `?`.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.split('\n')
    }

    /// The lines' texts without code and enhanced code, joined by a space.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in self.texts() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(line);
        }
        text
    }

    /// The texts of those lines that have one, without code and enhanced code.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = self.lines().map(|line| match EnhancedCode::parse_prefix(line) {
            Some((enhanced, rest)) if Some(enhanced) == self.enhanced => rest,
            _ => line,
        });
        texts.filter(|text| !text.is_empty())
    }

    /// 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4xx.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5xx.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// To MAIL or RCPT: encryption or a login is wanted first, or the login is too weak or wrong (RFC 3207 4, RFC 4954 6). Of everybody, whoever the
    /// sender and the recipient are.
    pub fn wants_tls_or_login(&self) -> bool {
        matches!(self.code, 523 | 530 | 534 | 535 | 538)
    }

    /// A 552 that says no more. To RCPT it was "too many recipients" once, and is to be treated as 452 (RFC 5321 4.5.3.1.10); a mailbox that is full is
    /// no other case.
    pub fn is_bare_552(&self) -> bool {
        self.code == 552 && self.enhanced.is_none()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for text in self.texts() {
            f.write_char(' ')?;
            f.write_str(text)?;
        }
        Ok(())
    }
}

// === impl ReplyLimits ===

impl Default for ReplyLimits {
    fn default() -> Self {
        Self { line: 4096, lines: 100, total: 65_536 }
    }
}

// === impl ReplyReader ===

impl ReplyReader {
    /// A reader at the start of a session.
    pub fn new(limits: ReplyLimits) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            lines: String::new(),
            count: 0,
            code: 0,
            octets: 0,
            failed: None,
        }
    }

    /// Takes bytes as they came from the socket. What is held is bounded by what is pushed between two calls of
    /// [`next_reply`](Self::next_reply) plus one line.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole reply; `Ok(None)` when more bytes are needed.
    ///
    /// # Errors
    /// The first fault in the bytes, and the same one at every later call.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ReplyError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.read_lines().inspect_err(|error| {
            self.failed = Some(error.clone());
            self.buffer = Vec::new();
        })
    }

    /// Whether bytes are held that no reply has been made of: the start of a reply, or replies not asked for yet.
    pub fn has_partial(&self) -> bool {
        self.start < self.buffer.len() || self.count > 0
    }

    fn read_lines(&mut self) -> Result<Option<Reply>, ReplyError> {
        while let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]).map(|at| self.searched + at) {
            let octets = end + 1 - self.start;
            if octets > self.limits.line {
                return Err(ReplyError::LineTooLong { limit: self.limits.line });
            }
            self.octets += octets;
            if self.octets > self.limits.total {
                return Err(ReplyError::TooLong { limit: self.limits.total });
            }
            let line = &self.buffer[self.start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (code, last, text) = split_line(line)?;
            if self.count == 0 {
                self.code = code;
            } else if code != self.code {
                return Err(ReplyError::CodeChanged { first: self.code, then: code });
            }
            if self.count == self.limits.lines {
                return Err(ReplyError::TooManyLines { limit: self.limits.lines });
            }
            if self.count > 0 {
                self.lines.push('\n');
            }
            self.count += 1;
            push_printable(&mut self.lines, text);
            self.start = end + 1;
            self.searched = self.start;
            if last {
                (self.octets, self.count) = (0, 0);
                self.compact();
                return Ok(Some(Reply::from_lines(code, std::mem::take(&mut self.lines))));
            }
        }
        self.searched = self.buffer.len();
        let partial = self.buffer.len() - self.start;
        if partial >= self.limits.line {
            return Err(ReplyError::LineTooLong { limit: self.limits.line });
        }
        self.compact();
        Ok(None)
    }

    /// Lets go of what was read.
    fn compact(&mut self) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
        } else {
            self.buffer.drain(..self.start);
        }
        self.searched -= self.start;
        self.start = 0;
    }
}

/// `Reply-code [ SP textstring ]` or `Reply-code "-" [ textstring ]`: the code, whether it is the last line, the text.
fn split_line(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    let fault = || ReplyError::NotAReply { line: printable(&line[..line.len().min(80)]) };
    let (code, rest) = match line {
        [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
            let digit = |d: &u8| u16::from(d - b'0');
            (digit(a) * 100 + digit(b) * 10 + digit(c), rest)
        }
        _ => return Err(fault()),
    };
    match rest {
        [] => Ok((code, true, rest)),
        [b' ', text @ ..] => Ok((code, true, text)),
        [b'-', text @ ..] => Ok((code, false, text)),
        _ => Err(fault()),
    }
}

/// Text for people, logs and JSON: no control characters, always UTF-8.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    push_printable(&mut text, bytes);
    text
}

fn push_printable(text: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(plain) if plain.bytes().all(|octet| matches!(octet, b' '..=b'~')) => text.push_str(plain),
        _ => text.extend(String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c })),
    }
}
