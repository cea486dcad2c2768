//! The dialogue of one connection: bytes in, events out. It holds what later questions need (who the client is, who sends),
//! and nothing else.

use std::net::IpAddr;

use bytes::BytesMut;

use super::MilterError;
use super::negotiate::Agreement;
use super::packet::{Command, Packet, Packets, string};
use crate::reader::Format;

/// A recipient that is asked for, with what is known of its circumstances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// As it came, without angle brackets and parameters.
    pub recipient: Vec<u8>,
    /// What the MTA makes of it, where it says so (the macro `{rcpt_addr}`) and that has a domain: Sendmail's
    /// `user@example.com` for `<user%example.com@its.own.name>`, or what its virtusertable has.
    pub resolved: Option<Vec<u8>>,
    /// The SMTP client; absent where the MTA gave no IP address.
    pub client: Option<IpAddr>,
    /// The SMTP client's name as the MTA knows it, such as `mail.example.org` or `[192.0.2.1]`.
    pub client_name: Option<String>,
    /// Empty for bounces.
    pub sender: Option<String>,
    /// The MTA's queue id, where there is one already.
    pub queue_id: Option<String>,
}

/// What the MTA is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What is agreed on.
    Agreed(Agreement),
    /// Go on (`SMFIR_CONTINUE`).
    Continue,
    /// This message is of no more interest here (`SMFIR_ACCEPT`).
    Accept,
    /// This is the SMTP reply (`SMFIR_REPLYCODE`): code, enhanced code and text in one line.
    Code(String),
}

/// What comes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// No reply.
    Quiet,
    /// A reply that is at hand.
    Reply(Reply),
    /// A reply that needs a decision.
    Ask(Ask),
}

/// One connection of an MTA, read by a [`Reader`](crate::Reader).
#[derive(Debug, Default)]
pub struct Session {
    packets: Packets,
    agreed: Option<Agreement>,
    /// The macro `{client_addr}`, which comes before CONNECT.
    client_macro: Option<IpAddr>,
    client: Option<IpAddr>,
    client_name: Option<String>,
    sender: Option<String>,
    queue_id: Option<String>,
    /// The macro `{rcpt_addr}`, which comes before RCPT.
    resolved: Option<Vec<u8>>,
    over: bool,
}

// === impl Session ===

impl Format for Session {
    type Request = Event;
    type Error = MilterError;

    fn take(&mut self, arrived: &mut BytesMut) -> Result<Option<Event>, MilterError> {
        self.packets.take(arrived)?.map(|packet| self.event(&packet)).transpose()
    }

    fn has_partial(&self, arrived: &BytesMut) -> bool {
        !arrived.is_empty() || self.packets.is_within()
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

impl Session {
    /// What comes of a packet.
    ///
    /// # Errors
    /// Where it can't be read, or comes before anything is agreed on.
    fn event(&mut self, packet: &Packet) -> Result<Event, MilterError> {
        let data = &packet.data[..];
        if packet.command == Command::Negotiate {
            if self.agreed.is_some() {
                return Err(MilterError::NegotiatedTwice);
            }
            let agreed = Agreement::with(data)?;
            self.agreed = Some(agreed);
            return Ok(Event::Reply(Reply::Agreed(agreed)));
        }
        let agreed = self.agreed.ok_or(MilterError::NotNegotiated)?;
        match packet.command {
            Command::Macros => {
                self.macros(data)?;
                return Ok(Event::Quiet);
            }
            Command::Connect => self.connect(data)?,
            Command::Mail => {
                let (path, _) = string(data).ok_or(MilterError::CutOff("MAIL"))?;
                self.sender = Some(String::from_utf8_lossy(mailbox(path)).into_owned());
            }
            Command::Rcpt => {
                let (path, _) = string(data).ok_or(MilterError::CutOff("RCPT"))?;
                return Ok(Event::Ask(Ask {
                    recipient: mailbox(path).to_vec(),
                    resolved: self.resolved.take(),
                    client: self.client,
                    client_name: self.client_name.clone(),
                    sender: self.sender.clone(),
                    queue_id: self.queue_id.clone(),
                }));
            }
            Command::Data => return Ok(Event::Reply(Reply::Accept)),
            Command::EndOfMessage => self.forget_message(),
            Command::Abort => {
                self.forget_message();
                return Ok(Event::Quiet);
            }
            Command::QuitNewConnection => {
                self.forget_client();
                return Ok(Event::Quiet);
            }
            Command::Quit => {
                self.over = true;
                return Ok(Event::Quiet);
            }
            Command::Negotiate | Command::Helo | Command::Unknown => {}
            Command::Header | Command::EndOfHeaders | Command::Body => {}
        }
        Ok(if agreed.has_reply(packet.command) { Event::Reply(Reply::Continue) } else { Event::Quiet })
    }

    /// A name, what kind of address follows, a port, the address.
    fn connect(&mut self, data: &[u8]) -> Result<(), MilterError> {
        const WHAT: MilterError = MilterError::CutOff("CONNECT");
        let client_macro = self.client_macro.take();
        self.forget_client();
        let (name, rest) = string(data).ok_or(WHAT)?;
        let (family, rest) = rest.split_first().ok_or(WHAT)?;
        let address = match family {
            b'4' | b'6' => {
                let (address, _) = rest.get(2..).and_then(string).ok_or(WHAT)?;
                ip(address)
            }
            // A Unix socket, or unknown.
            _ => None,
        };
        self.client = address.or(client_macro);
        self.client_name = Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty());
        Ok(())
    }

    /// The command that they are for, then names and values.
    fn macros(&mut self, data: &[u8]) -> Result<(), MilterError> {
        const WHAT: MilterError = MilterError::CutOff("macros");
        let (stage, mut rest) = data.split_first().ok_or(WHAT)?;
        let stage = Command::of(*stage);
        match stage {
            Some(Command::Connect) => self.client_macro = None,
            Some(Command::Mail) => self.queue_id = None,
            // These may have come for a recipient that the MTA refused then.
            Some(Command::Rcpt) => self.resolved = None,
            _ => {}
        }
        while !rest.is_empty() {
            let (name, after) = string(rest).ok_or(WHAT)?;
            let (value, after) = string(after).ok_or(WHAT)?;
            rest = after;
            match (stage, name) {
                (Some(Command::Connect), b"{client_addr}") => self.client_macro = ip(value),
                (Some(Command::Mail | Command::Rcpt), b"i" | b"{i}") => {
                    self.queue_id = Some(String::from_utf8_lossy(value).into_owned()).filter(|id| !id.is_empty());
                }
                (Some(Command::Rcpt), b"{rcpt_addr}") => {
                    self.resolved = Some(value.to_vec()).filter(|address| address.contains(&b'@'));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn forget_message(&mut self) {
        self.sender = None;
        self.queue_id = None;
        self.resolved = None;
    }

    fn forget_client(&mut self) {
        self.forget_message();
        self.client = None;
        self.client_name = None;
        self.client_macro = None;
    }
}

/// An IP address as MTAs write it: with `IPv6:` before it (Sendmail), or a zone behind it.
fn ip(text: &[u8]) -> Option<IpAddr> {
    const PREFIX: &[u8] = b"IPv6:";
    let text = match text.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        _ => text,
    };
    let text = std::str::from_utf8(text).ok()?;
    let text = text.split_once('%').map_or(text, |(address, _)| address);
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// What stands between the angle brackets; all of it where there are none.
fn mailbox(path: &[u8]) -> &[u8] {
    let path = path.trim_ascii();
    path.strip_prefix(b"<").and_then(|inner| inner.strip_suffix(b">")).unwrap_or(path)
}

// === impl Reply ===

impl Reply {
    /// As a packet.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Agreed(agreement) => packet(b'O', &agreement.data()),
            Self::Continue => packet(b'c', b""),
            Self::Accept => packet(b'a', b""),
            // Sendmail uses the text as a format string: of a single percent sign it makes a rejection of its own, with
            // "550 5.7.1 Command rejected", even of a 4xx. Postfix takes the second one away.
            Self::Code(line) => packet(b'y', &[line.replace('%', "%%").as_bytes(), b"\0"].concat()),
        }
    }
}

fn packet(command: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() + 1).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &[command], data].concat()
}
