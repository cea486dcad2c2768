//! Packets: a length in four octets, a command in one, and its data. Lengths are in network order and count the command.
//!
//! What is not used of a message (its headers and body, where an MTA can't be told to leave them out) is read over as
//! it comes, and never held.

use bytes::{Buf as _, BytesMut};

use super::MilterError;

/// The longest packet, in octets without its length: the largest data that an MTA can be set to (`SMFIP_MDS_1M`) and the
/// command. What is longer is no packet.
pub const MAX_PACKET: usize = 1024 * 1024 + 1;
/// The longest data that is held, in octets: addresses with their parameters, and macros. Postfix takes SMTP lines of 2,048
/// and Sendmail has values of 2,048 at most.
pub const MAX_DATA: usize = 32 * 1024;

/// What an MTA says (`SMFIC_...` in libmilter's mfdef.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Abort,
    Body,
    Connect,
    Macros,
    EndOfMessage,
    Helo,
    QuitNewConnection,
    Header,
    Mail,
    EndOfHeaders,
    Negotiate,
    Quit,
    Rcpt,
    Data,
    Unknown,
}

/// A command with its data; without, where the data is not used.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) command: Command,
    pub(super) data: BytesMut,
}

/// Packets as they lie in what an MTA sends.
#[derive(Debug, Default)]
pub(super) struct Packets {
    /// A command whose data is read over, and how many octets of that are still to come.
    skipping: Option<(Command, usize)>,
}

// === impl Command ===

impl Command {
    pub(super) fn of(octet: u8) -> Option<Self> {
        Some(match octet {
            b'A' => Self::Abort,
            b'B' => Self::Body,
            b'C' => Self::Connect,
            b'D' => Self::Macros,
            b'E' => Self::EndOfMessage,
            b'H' => Self::Helo,
            b'K' => Self::QuitNewConnection,
            b'L' => Self::Header,
            b'M' => Self::Mail,
            b'N' => Self::EndOfHeaders,
            b'O' => Self::Negotiate,
            b'Q' => Self::Quit,
            b'R' => Self::Rcpt,
            b'T' => Self::Data,
            b'U' => Self::Unknown,
            _ => return None,
        })
    }

    /// Whether its data is of use here.
    fn is_held(self) -> bool {
        matches!(self, Self::Negotiate | Self::Macros | Self::Connect | Self::Mail | Self::Rcpt)
    }
}

// === impl Packets ===

impl Packets {
    /// Whether a packet has begun whose data is read over.
    pub(super) fn is_within(&self) -> bool {
        self.skipping.is_some()
    }

    /// Takes the next whole packet out of what has arrived; `None` until more has.
    pub(super) fn take(&mut self, arrived: &mut BytesMut) -> Result<Option<Packet>, MilterError> {
        if self.skipping.is_none() {
            let Some(length) = arrived.first_chunk::<4>() else { return Ok(None) };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length == 0 {
                return Err(MilterError::NoCommand);
            }
            if length > MAX_PACKET {
                return Err(MilterError::TooLong);
            }
            let Some(&octet) = arrived.get(4) else { return Ok(None) };
            let command = Command::of(octet).ok_or(MilterError::UnknownCommand(octet))?;
            let data = length - 1;
            if command.is_held() {
                if data > MAX_DATA {
                    return Err(MilterError::TooLong);
                }
                if arrived.len() < 5 + data {
                    return Ok(None);
                }
                arrived.advance(5);
                return Ok(Some(Packet { command, data: arrived.split_to(data) }));
            }
            arrived.advance(5);
            self.skipping = Some((command, data));
        }
        let Some((command, left)) = &mut self.skipping else { return Ok(None) };
        let here = arrived.len().min(*left);
        arrived.advance(here);
        *left -= here;
        if *left > 0 {
            return Ok(None);
        }
        let packet = Packet { command: *command, data: BytesMut::new() };
        self.skipping = None;
        Ok(Some(packet))
    }
}

/// The first string of some, each of which ends in a zero octet, and the rest. `None` where no zero octet is left.
pub(super) fn string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, data)?;
    Some((&data[..end], &data[end + 1..]))
}
