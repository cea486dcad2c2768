//! SMTP as values: recipient addresses, replies, enhanced status codes and commands.
//!
//! Bytes go in, values come out; nothing here opens a socket, waits, or knows what a verdict is.
//!
//! - [`Recipient`] is a mailbox by RFC 5321 4.1.2 (RFC 6531 for UTF-8), parsed once at the edge. It can't hold a
//!   CR, an LF or a `>` that would end its command, so whatever holds one can be written into a command as it is.
//! - [`ReplyReader`] takes bytes as they arrive, in any pieces, and gives whole [`Reply`] values, with limits.
//! - [`About`] is what a refusal is about: the mailbox, or something else.
//! - [`Command`] writes what a callout says.

mod about;
mod address;
mod command;
mod enhanced;
mod reply;

pub use about::About;
pub use address::{
    AddressError, AddressLiteral, Domain, DomainName, MAX_DOMAIN, MAX_LABEL, MAX_LOCAL_PART, Recipient,
    without_source_route,
};
pub use command::Command;
pub use enhanced::EnhancedCode;
pub use reply::{Reply, ReplyError, ReplyLimits, ReplyReader};
