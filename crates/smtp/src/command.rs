//! What a callout says. A command can only be built from values that hold no CR or LF.

use std::io::Write as _;

use crate::{Domain, Recipient};

/// A command of the callout's dialogue. There is no DATA, and there never will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `EHLO name` (RFC 5321 4.1.1.1).
    Ehlo(&'a Domain),
    /// `HELO name`, where EHLO is refused.
    Helo(&'a Domain),
    /// `STARTTLS` (RFC 3207).
    StartTls,
    /// `MAIL FROM:<>`, with `SMTPUTF8` where the recipient needs it (RFC 6531 3.4).
    MailFromNull {
        /// Whether ` SMTPUTF8` is said.
        smtputf8: bool,
    },
    /// `RCPT TO:<recipient>`.
    RcptTo(&'a Recipient),
    /// `RSET`.
    Rset,
    /// `QUIT`.
    Quit,
}

impl Command<'_> {
    /// Appends the command with its CRLF.
    pub fn write(&self, out: &mut Vec<u8>) {
        let written = match self {
            Self::Ehlo(name) => write!(out, "EHLO {name}\r\n"),
            Self::Helo(name) => write!(out, "HELO {name}\r\n"),
            Self::StartTls => out.write_all(b"STARTTLS\r\n"),
            Self::MailFromNull { smtputf8: false } => out.write_all(b"MAIL FROM:<>\r\n"),
            Self::MailFromNull { smtputf8: true } => out.write_all(b"MAIL FROM:<> SMTPUTF8\r\n"),
            Self::RcptTo(recipient) => write!(out, "RCPT TO:<{recipient}>\r\n"),
            Self::Rset => out.write_all(b"RSET\r\n"),
            Self::Quit => out.write_all(b"QUIT\r\n"),
        };
        debug_assert!(written.is_ok(), "writing to a Vec can't fail");
    }
}
